//! What the `OpenAPI` document says of every route, for tests that go by it; and a server that has one of everything.

#![allow(dead_code, reason = "every binary of tests has its own use for it")]

use axum::http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use voicebridge::api;
use voicebridge::ids::CallSid;
use voicebridge::lifecycle::{self, CallEvent, CallRef};
use voicebridge::store::agents;
use voicebridge::store::leases::FencingToken;

use crate::surface::{KEY, Server};

/// The call that is on record. Examples name another.
pub(crate) const OURS: &str = "CA00000000000000000000000000000002";

/// One method of one path.
pub(crate) struct Operation {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) about: Value,
}

pub(crate) fn document() -> Value {
    serde_json::from_str(&api::openapi_json()).unwrap()
}

pub(crate) fn operations(document: &Value) -> Vec<Operation> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, methods): (&String, &Value)| {
        let methods = methods.as_object().unwrap().clone().into_iter();
        let path = path.clone();
        methods.map(move |(method, about)| Operation {
            method: method.to_uppercase().parse().unwrap(),
            path: path.clone(),
            about,
        })
    };
    paths.iter().flat_map(of_path).collect()
}

impl Operation {
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The type and description of the body that it takes.
    pub(crate) fn body(&self) -> Option<(&str, &Value)> {
        let content = self.about["requestBody"]["content"].as_object()?;
        content.iter().next().map(|(media_type, content)| (media_type.as_str(), content))
    }

    /// The example of the body that it takes, as it is sent.
    pub(crate) fn sent(&self) -> (String, String) {
        let Some((media_type, content)) = self.body() else { return (String::new(), String::new()) };
        let example = &content["example"];
        let text = match media_type {
            "application/json" => example.to_string(),
            "application/x-www-form-urlencoded" => encoded(example),
            _ => example.as_str().unwrap().to_owned(),
        };
        (media_type.to_owned(), text)
    }

    pub(crate) fn parameters(&self, place: &'static str) -> impl Iterator<Item = &Value> {
        let all = self.about["parameters"].as_array().into_iter().flatten();
        all.filter(move |parameter| parameter["in"] == place)
    }
}

pub(crate) fn encoded(form: &Value) -> String {
    let mut url: reqwest::Url = "http://localhost".parse().unwrap();
    let pairs = form.as_object().unwrap().iter().map(|(name, value)| (name, value.as_str().unwrap()));
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap().to_owned()
}

/// A server with one of everything.
pub(crate) async fn furnished() -> Server {
    let server = Server::new().await;
    server.twilio("/media-stream-twiml", &[("CallSid", OURS), ("From", "+14155550123")]).await.stream_token();
    let agent = agents::default_agent(&server.store).await.unwrap().unwrap();
    let by = CallRef {
        call_sid: CallSid::parse(OURS).unwrap(),
        organization: agent.organization_id,
        agent: agent.id,
    };
    let (reason, summary) = ("wants a person".to_owned(), "asked about an invoice".to_owned());
    let handed = CallEvent::Transferred { token: FencingToken(1), to: None, reason, summary };
    lifecycle::record(&server.store, &by, Timestamp::now(), &handed).await.unwrap();
    for (path, body) in [
        ("/api/phone-numbers", json!({"number": "+14155550199", "agent_id": agent.id})),
        ("/api/leads", json!({"phone": "+14155550123", "time_zone": "Europe/Berlin"})),
        ("/api/projects", json!({"name": "Sales"})),
        ("/api/campaigns", json!({"name": "Renewals"})),
        ("/api/schedules", json!({"name": "Office", "time_zone": "Europe/Berlin"})),
        ("/api/teams", json!({"name": "Front desk"})),
        ("/api/interactions", json!({})),
        ("/api/queue/schedule-call", json!({"to": "+14155550124"})),
        ("/api/do-not-call", json!({"number": "+14155550125"})),
        ("/api/api-keys", json!({"name": "desk", "scopes": ["review"]})),
        ("/api/vapi-accounts", json!({})),
        ("/api/webhook-endpoints", json!({"url": "https://example.com/hook", "events": ["call.completed"]})),
        ("/api/retention/runs", json!({"dry_run": true})),
        ("/api/leads", json!({"phone": "+14155550126"})),
        ("/api/privacy/erasures", json!({"phone": "+14155550126", "dry_run": false})),
    ] {
        let answer = server.post(path, body).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text);
    }
    let endpoint = server.get("/api/webhook-endpoints").await.data()[0]["id"].as_str().unwrap().to_owned();
    let pinged = server.post(&format!("/api/webhook-endpoints/{endpoint}/ping"), json!({})).await;
    assert!(pinged.status.is_success(), "{}", pinged.text);
    server
        .execute(
            "insert into kaleyra_call_logs (id, callfrom, callto, start_time, status, service, organization_id)
             select 'leg-1', '9876543210', '8068921234', '2026-03-01T10:00:00Z', 'ANSWER', 'Incoming', id from organisations;
             insert into kaleyra_syncs (organization_id, first_day, last_day, status, slice, node, finished_at)
             select id, '2026-03-01', '2026-03-01', 'completed', '2026-03-01', 'node', now() from organisations",
        )
        .await;
    // It shows the key as its secret.
    let organization = agent.organization_id;
    server
        .execute(&format!(
            "insert into ivr_providers (organization_id, name, secret_sha256, mapping)
             values ('{organization}', 'front-office', sha256('{KEY}'), '{{\"call_id\": \"/data/call/id\"}}')"
        ))
        .await;
    let told = json!({"data": {"call": {"id": "1"}}}).to_string();
    let answer = server.keyed(Method::POST, "/api/ivr/front-office/webhook", "application/json", told).await;
    assert!(answer.status.is_success(), "{}", answer.text);
    // Nobody carries the call: who steers it would wait for an answer.
    server.execute("delete from call_leases").await;
    server
}

/// The path of something that is there.
pub(crate) async fn there(server: &Server, document: &Value, path: &str) -> String {
    let path = path.replace("{token}", &"x".repeat(43)).replace("{handoff}", "1");
    let path = path.replace("{provider}", "front-office");
    let Some((list, rest)) = path.split_once("/{") else { return path };
    let (name, rest) = rest.split_once('}').unwrap();
    let list = match list {
        "/api/agent" | "/api/phone-number" => format!("{list}s"),
        _ => list.to_owned(),
    };
    let id = if name == "callSid" {
        OURS.to_owned()
    } else {
        assert!(document["paths"][&list]["get"].is_object(), "{list} is a list");
        let first = server.get(&list).await.data()[0].clone();
        first["id"]
            .as_str()
            .or_else(|| first[name].as_str())
            .map_or_else(|| first["id"].to_string(), str::to_owned)
    };
    let list = path.split_once("/{").unwrap().0;
    format!("{list}/{id}{rest}")
}
