//! Records of calls over HTTP: what happened, what people make of it, and what a platform around us sees.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

mod support;
#[path = "support/surface.rs"]
mod surface;

use std::ops::Deref;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;
use voicebridge::call::end::EndReason;
use voicebridge::ids::{AgentId, CallSid, OrganizationId, StreamSid};
use voicebridge::lifecycle::{self, CallEvent, CallRef};
use voicebridge::store::agents;
use voicebridge::store::call_events::CarrierEvent;
use voicebridge::store::leases::FencingToken;

use crate::surface::Answer;

const TOKEN: FencingToken = FencingToken(1);

// ---- Calls -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn calls_are_listed_newest_first_and_filtered() {
    let server = Server::new().await;
    for (sid, end, created) in [
        ("CA1", Some(EndReason::AgentEnded), "2023-12-31T23:59:59Z"),
        ("CA2", Some(EndReason::ModelLost), "2024-01-01T00:00:00Z"),
        ("CA3", None, "2024-02-01T00:00:00Z"),
    ] {
        server.call(sid, end, 90, created).await;
    }
    let sids = async |query: &str| server.sids(&format!("/api/calls{query}")).await;
    assert_eq!(sids("").await, ["CA3", "CA2", "CA1"]);
    assert_eq!(sids("?from=2024-01-01T00:00:00Z&to=2024-02-01T00:00:00Z").await, ["CA2"]);
    assert_eq!(sids("?status=completed").await, ["CA1"]);
    assert_eq!(sids("?status=live").await, ["CA3"]);
    assert_eq!(sids("?routing_status=direct_to_agent").await, ["CA3", "CA2"]);
    assert_eq!(sids(&format!("?agent_id={}", server.agent.0)).await.len(), 3);
    assert_eq!(sids(&format!("?agent_id={}", Uuid::nil())).await.len(), 0);
    let page = server.get("/api/calls?limit=1&offset=1").await.ok();
    assert_eq!(page["pagination"], json!({"limit": 1, "offset": 1, "total": 3}));
    assert_eq!(page["data"][0]["call_sid"], "CA2");

    let call = server.get("/api/calls/CA2").await.ok();
    assert_eq!(
        (&call["data"]["data"]["call"]["status"], &call["data"]["data"]["call"]["duration"]),
        (&json!("failed"), &json!(90))
    );
    let by_id = server.get(&format!("/api/calls/{}", call["data"]["id"].as_str().unwrap())).await.ok();
    assert_eq!(by_id, call);
    server.get("/api/calls/CA9").await.is_error(StatusCode::NOT_FOUND, "not_found");
    for bad in ["status=over", "routing_status=lost", "from=yesterday", "agent_id=7", "limit=0"] {
        server.get(&format!("/api/calls?{bad}")).await.is_error(StatusCode::BAD_REQUEST, "invalid_query");
    }
}

#[tokio::test]
async fn every_documented_query_of_calls_says_what_it_promises() {
    let server = Server::new().await;
    server.call("CA1", Some(EndReason::AgentEnded), 30, "2024-01-01T00:00:00Z").await;
    server.call("CA2", Some(EndReason::AgentEnded), 90, "2024-01-31T23:59:59Z").await;
    server.call("CA3", Some(EndReason::ModelLost), 120, "2024-02-01T00:00:00Z").await;
    server.call("CA4", None, 0, "2024-02-02T00:00:00Z").await;
    server.execute("update agents set vapi_assistant_id = 'asst_1'").await;
    let (organization, agent) = (server.organization.0, server.agent.0);
    for (query, expected) in [
        (format!("SELECT * FROM calls WHERE organization_id = '{organization}' ORDER BY created_at DESC"), vec!["CA4", "CA3", "CA2", "CA1"]),
        (format!("SELECT * FROM calls WHERE organization_id = '{}' ORDER BY created_at DESC", Uuid::nil()), vec![]),
        (format!("SELECT * FROM calls WHERE agent_id = '{agent}' ORDER BY created_at DESC"), vec!["CA4", "CA3", "CA2", "CA1"]),
        (
            format!(
                "SELECT c.*, a.vapi_assistant_id, o.slug as organization_slug FROM calls c JOIN agents a ON c.agent_id = a.id
                 JOIN organisations o ON c.organization_id = o.id WHERE c.organization_id = '{organization}'
                   AND a.vapi_assistant_id = 'asst_1' AND o.slug = 'default' ORDER BY c.created_at DESC LIMIT 100"
            ),
            vec!["CA4", "CA3", "CA2", "CA1"],
        ),
        (
            format!(
                "SELECT * FROM calls WHERE organization_id = '{organization}' AND created_at >= '2024-01-01'
                 AND created_at < '2024-02-01' ORDER BY created_at DESC"
            ),
            vec!["CA2", "CA1"],
        ),
        ("SELECT * FROM calls WHERE (data->'call'->>'duration')::int > 60 ORDER BY created_at DESC".into(), vec!["CA3", "CA2"]),
        ("SELECT * FROM calls WHERE data->'call'->>'status' = 'completed' ORDER BY created_at DESC".into(), vec!["CA2", "CA1"]),
    ] {
        let sids: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!("select call_sid from ({query}) as seen")))
            .fetch_all(server.store.pool())
            .await
            .unwrap();
        assert_eq!(sids, expected, "{query}");
    }
    let counted: (Option<String>, i64) = sqlx::query_as(
        "SELECT a.vapi_assistant_id, COUNT(*) as call_count FROM calls c JOIN agents a ON c.agent_id = a.id
         WHERE c.organization_id = $1 GROUP BY a.id, a.vapi_assistant_id ORDER BY call_count DESC",
    )
    .bind(organization)
    .fetch_one(server.store.pool())
    .await
    .unwrap();
    assert_eq!(counted, (Some("asst_1".to_owned()), 4));
}

#[tokio::test]
async fn call_logs_are_listed_newest_first_and_filtered() {
    let server = Server::new().await;
    server.call("CA1", Some(EndReason::AgentEnded), 30, "2024-01-01T00:00:00Z").await;
    server.call("CA2", None, 0, "2024-01-02T00:00:00Z").await;
    let sids = async |query: &str| server.sids(&format!("/api/call-logs{query}")).await;
    assert_eq!(sids("").await, ["CA2", "CA1"]);
    assert_eq!(sids("?status=completed").await, ["CA1"]);
    assert_eq!(sids("?direction=outbound").await.len(), 0);
    assert_eq!(sids("?from=2024-01-02T00:00:00Z").await, ["CA2"]);
    assert_eq!(sids("?lead_id=7").await.len(), 0);
    let log = server.get("/api/call-logs/CA1").await.ok();
    let data = &log["data"];
    assert_eq!((&data["duration"], &data["disconnect_reason"]), (&json!(30), &json!("agent_ended")));
    assert_eq!((&data["direction"], &data["caller_number"]), (&json!("inbound"), &json!("+14155550123")));
    assert_eq!(server.get(&format!("/api/call-logs/{}", data["id"].as_str().unwrap())).await.ok(), log);
    server.get("/api/call-logs/CA9").await.is_error(StatusCode::NOT_FOUND, "not_found");
    server.get("/api/call-logs?direction=up").await.is_error(StatusCode::BAD_REQUEST, "invalid_query");
    server.get("/api/call-logs?status=over").await.is_error(StatusCode::BAD_REQUEST, "invalid_query");
}

#[tokio::test]
async fn people_write_down_what_came_of_a_call_that_they_took_over() {
    let server = Server::new().await;
    let call = server.call("CA1", None, 0, "2024-01-01T00:00:00Z").await;
    let (reason, summary) = ("wants a person".to_owned(), "asked about an invoice".to_owned());
    let handed = CallEvent::Transferred { token: TOKEN, to: None, reason, summary };
    lifecycle::record(&server.store, &call, Timestamp::now(), &handed).await.unwrap();
    let list = server.get("/api/agent-calls?parent_call_sid=CA1&status=ringing").await.ok();
    assert_eq!(list["pagination"]["total"], 1);
    let id = list["data"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/agent-calls/{id}");

    let notes = json!({
        "outcome": "appointment", "next_action": "send offer", "next_action_date": "2026-03-02T09:00:00Z",
        "agent_notes": "Friendly.", "objections": ["price", {"topic": "date"}], "interest_level": "high",
    });
    let written = server.send(Method::PATCH, &path, Some(notes.clone())).await.ok();
    for (member, value) in notes.as_object().unwrap() {
        assert_eq!(written["data"][member], *value, "{member}");
    }
    let emptied = server.send(Method::PATCH, &path, Some(json!({"outcome": null}))).await.ok();
    assert_eq!(
        (&emptied["data"]["outcome"], &emptied["data"]["next_action"]),
        (&Value::Null, &json!("send offer"))
    );
    // What happens next leaves it alone.
    let ended =
        CallEvent::HandoffEnded { handoff: 1, dial_status: "busy".into(), leg: None, duration_s: None };
    lifecycle::record(&server.store, &call, Timestamp::now(), &ended).await.unwrap();
    let now = server.get(&path).await.ok();
    assert_eq!((&now["data"]["status"], &now["data"]["agent_notes"]), (&json!("busy"), &json!("Friendly.")));

    for bad in [json!({"outcome": "x".repeat(201)}), json!({"objections": vec![0; 101]})] {
        server
            .send(Method::PATCH, &path, Some(bad))
            .await
            .is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    }
    for bad in
        [json!({"status": "completed"}), json!({"objections": "price"}), json!({"next_action_date": "soon"})]
    {
        server
            .send(Method::PATCH, &path, Some(bad))
            .await
            .is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    }
    let nobody = format!("/api/agent-calls/{}", Uuid::nil());
    server.send(Method::PATCH, &nobody, Some(json!({}))).await.is_error(StatusCode::NOT_FOUND, "not_found");
    server.get("/api/agent-calls/7").await.is_error(StatusCode::BAD_REQUEST, "invalid_path");
    server.get("/api/agent-calls?status=over").await.is_error(StatusCode::BAD_REQUEST, "invalid_query");
}

// ---- Interactions ----------------------------------------------------------------------------------------------------

const INTERACTION: &str = "test_interaction_1754628065_1";

#[tokio::test]
async fn an_interaction_is_created_dispatched_and_changed_by_its_call() {
    let server = Server::new().await;
    let new = json!({
        "id": INTERACTION, "customerId": "test_customer_001", "agentId": "test_agent_001",
        "startTime": "2025-08-08T04:41:05Z",
    });
    let created = server.send(Method::POST, "/api/interactions", Some(new)).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let path = format!("/api/interactions/{INTERACTION}");
    let data = created.json()["data"].clone();
    assert_eq!(
        (&data["status"], &data["channel"], &data["direction"]),
        (&json!("INITIATED"), &json!("VOICE"), &json!("OUTBOUND"))
    );
    assert_eq!(data["startTime"], "2025-08-08T04:41:05Z");

    let body = json!({"to": "+1 415 555 0123", "message": "Remind of the invoice."});
    let answer = server.send(Method::POST, &format!("{path}/dispatch"), Some(body)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    let queue: Uuid = answer.json()["data"]["queue_id"].as_str().unwrap().parse().unwrap();
    let row: Value = server.scalar("select to_jsonb(call_queue) from call_queue").await;
    assert_eq!((&row["interaction_id"], &row["to_number"]), (&json!(INTERACTION), &json!("+14155550123")));
    assert_eq!((&row["message"], &row["status"]), (&json!("Remind of the invoice."), &json!("queued")));
    let status = async || server.get(&path).await.ok()["data"]["status"].clone();
    assert_eq!(status().await, "INITIATED", "asking changes nothing");

    let attempt: Uuid = server
        .scalar(
            "insert into call_attempts (organization_id, queue_id, agent_id, attempt_number, to_number, from_number, node, requested_at)
             select call_queue.organization_id, call_queue.id, agents.id, 1, to_number, '+15005550000', 'node', now()
             from call_queue, agents returning id",
        )
        .await;
    server.execute("update call_queue set status = 'processing', attempt_count = 1").await;
    let call = server.reference("CA1");
    let at = |seconds: i64| Timestamp::from_second(1_767_323_000 + seconds).unwrap();
    let put = async |second: i64, event: CallEvent| {
        lifecycle::record(&server.store, &call, at(second), &event).await.unwrap();
    };
    let interaction = Some(INTERACTION.to_owned());
    let (from, to) = ("+15005550000".to_owned(), "+14155550123".to_owned());
    put(0, CallEvent::Dispatched { attempt, queue, interaction, from, to }).await;
    assert_eq!(status().await, "INITIATED");
    let stream_sid = StreamSid::parse("MZ1").unwrap();
    put(3, CallEvent::StreamStarted { stream_sid, node: "node".into(), token: TOKEN }).await;
    assert_eq!(status().await, "IN_PROGRESS");
    put(4, CallEvent::Connected { token: TOKEN }).await;
    assert_eq!(server.get(&path).await.ok()["data"]["connectedAt"], "2026-01-02T03:03:24Z");
    let (reason, duration) = (EndReason::AgentEnded, Duration::from_secs(180));
    put(183, CallEvent::Ended { token: TOKEN, reason, duration, report: Map::new() }).await;
    let data = server.get(&path).await.ok()["data"].clone();
    assert_eq!(
        (&data["status"], &data["outcome"], &data["duration"]),
        (&json!("COMPLETED"), &json!("SUCCESS"), &json!(180))
    );
    assert_eq!((&data["endTime"], &data["call_sid"]), (&json!("2026-01-02T03:06:23Z"), &json!("CA1")));
    let disposition = json!({
        "disposition": "AGENT_ENDED", "connection_status": "CONNECTED", "call_duration": 180, "keywords_detected": [],
    });
    assert_eq!(data["callDisposition"], disposition);
    let of_queue = async || server.scalar::<String>("select status from call_queue").await;
    assert_eq!(
        of_queue().await,
        "processing",
        "people may have the call now: it is over when the carrier says so"
    );
    server.carrier_says_completed("CA1", at(184)).await;
    assert_eq!(of_queue().await, "completed");

    let seen: Value = server
        .scalar(
            r#"select to_jsonb(seen) from (
                SELECT id, status, channel, "startTime", "endTime", duration, outcome, "callDisposition",
                       LEFT(transcript, 100) as transcript_preview, recording, "paymentDiscussed", "paymentAmount", sentiment
                FROM interactions
                WHERE "customerId" = 'test_customer_001' AND channel = 'VOICE'
                ORDER BY "startTime" DESC
            ) as seen"#,
        )
        .await;
    assert_eq!(
        (&seen["id"], &seen["status"], &seen["duration"]),
        (&json!(INTERACTION), &json!("COMPLETED"), &json!(180))
    );
    assert_eq!(seen["callDisposition"], disposition);
}

#[tokio::test]
async fn an_interaction_is_dispatched_once_and_only_while_it_is_initiated() {
    let server = Server::new().await;
    let dispatch = async |id: &str, body: Value| {
        server.send(Method::POST, &format!("/api/interactions/{id}/dispatch"), Some(body)).await
    };
    let call = || json!({"to": "+14155550123"});
    dispatch("none", call()).await.is_error(StatusCode::CONFLICT, "interaction_unknown");
    for id in ["a", "b"] {
        let created = server.send(Method::POST, "/api/interactions", Some(json!({"id": id}))).await;
        assert_eq!(created.status, StatusCode::CREATED);
    }
    for bad in [
        json!({"to": "anonymous"}),
        json!({"to": "+14155550123", "lead_id": 7}),
        json!({"to": "+14155550123", "agent_id": Uuid::nil()}),
    ] {
        dispatch("a", bad).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    }
    assert_eq!(server.scalar::<i64>("select count(*) from call_queue").await, 0);
    assert_eq!(dispatch("a", call()).await.status, StatusCode::ACCEPTED, "what was refused changed nothing");
    dispatch("a", call()).await.is_error(StatusCode::CONFLICT, "interaction_dispatched");
    for status in ["IN_PROGRESS", "COMPLETED", "FAILED"] {
        server.execute(&format!("update interactions set status = '{status}' where id = 'b'")).await;
        let error = dispatch("b", call()).await.is_error(StatusCode::CONFLICT, "interaction_not_initiated");
        assert_eq!(error["details"]["status"], status);
    }
    assert_eq!(server.scalar::<i64>("select count(*) from call_queue").await, 1);
}

#[tokio::test]
async fn interactions_are_listed_newest_first_and_bad_ones_are_refused() {
    let server = Server::new().await;
    let post = async |body: Value| server.send(Method::POST, "/api/interactions", Some(body)).await;
    for (id, customer, start) in [
        ("a", "x", "2025-01-01T00:00:00Z"),
        ("b", "y", "2025-01-03T00:00:00Z"),
        ("c", "x", "2025-01-02T00:00:00Z"),
    ] {
        let new = json!({"id": id, "customerId": customer, "startTime": start, "direction": "INBOUND"});
        assert_eq!(post(new).await.status, StatusCode::CREATED);
    }
    let ids = async |query: &str| {
        let list = server.get(&format!("/api/interactions{query}")).await.ok();
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids("").await, ["b", "c", "a"]);
    assert_eq!(ids("?customerId=x").await, ["c", "a"]);
    assert_eq!(ids("?status=FAILED").await.len(), 0);
    assert_eq!(ids("?from=2025-01-02T00:00:00Z&to=2025-01-03T00:00:00Z").await, ["c"]);
    assert!(!post(json!({})).await.json()["data"]["id"].as_str().unwrap().is_empty(), "ours");
    post(json!({"id": "a"})).await.is_error(StatusCode::CONFLICT, "interaction_exists");
    for bad in [
        json!({"id": "a b"}),
        json!({"id": ""}),
        json!({"direction": "UP"}),
        json!({"phoneNumber": "7"}),
        json!({"customerId": "x".repeat(201)}),
    ] {
        post(bad).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    }
    post(json!({"status": "COMPLETED"})).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    server.get("/api/interactions/none").await.is_error(StatusCode::NOT_FOUND, "not_found");
    server.get("/api/interactions?status=over").await.is_error(StatusCode::BAD_REQUEST, "invalid_query");
}

#[tokio::test]
async fn another_organisations_records_do_not_exist() {
    let server = Server::new().await;
    let theirs = server.other_tenant().await;
    let call = CallRef { call_sid: CallSid::parse("CA9").unwrap(), ..theirs.clone() };
    let incoming =
        CallEvent::Incoming { phone_number: None, from: "a".into(), to: "b".into(), to_team: false };
    lifecycle::record(&server.store, &call, Timestamp::now(), &incoming).await.unwrap();
    server
        .execute(&format!(
            "insert into interactions (id, organization_id) values ('theirs', '{}')",
            theirs.organization.0
        ))
        .await;
    for path in ["/api/calls", "/api/call-logs", "/api/agent-calls", "/api/interactions"] {
        assert_eq!(server.get(path).await.ok()["pagination"]["total"], 0, "{path}");
    }
    for path in ["/api/calls/CA9", "/api/call-logs/CA9", "/api/interactions/theirs"] {
        server.get(path).await.is_error(StatusCode::NOT_FOUND, "not_found");
    }
    let dispatch =
        server.send(Method::POST, "/api/interactions/theirs/dispatch", Some(json!({"to": "+14155550123"})));
    dispatch.await.is_error(StatusCode::CONFLICT, "interaction_unknown");
    for path in ["/api/calls", "/api/call-logs", "/api/agent-calls", "/api/interactions", "/api/calls/CA9"] {
        let answer = server.raw(Method::GET, path, &[], Body::empty()).await;
        answer.is_error(StatusCode::UNAUTHORIZED, "unauthorized");
    }
}

// ---- Helpers ---------------------------------------------------------------------------------------------------------

struct Server {
    http: surface::Server,
    organization: OrganizationId,
    agent: AgentId,
}

impl Deref for Server {
    type Target = surface::Server;

    fn deref(&self) -> &surface::Server {
        &self.http
    }
}

impl Server {
    async fn carrier_says_completed(&self, call_sid: &str, at: Timestamp) {
        let callback = CarrierEvent {
            organization: None,
            call_sid: CallSid::parse(call_sid).unwrap(),
            call_status: Some("completed".to_owned()),
            to: None,
            from: None,
            direction: None,
            duration_s: Some(181),
            sequence_number: Some(3),
            event_time: Some(at),
            sip_response_code: None,
            answered_by: None,
            payload: json!({}),
        };
        lifecycle::callback::record(&self.store, &callback, at).await.unwrap();
    }

    async fn new() -> Self {
        let http = surface::Server::new().await;
        let agent = agents::default_agent(&http.store).await.unwrap().unwrap();
        Self { http, organization: agent.organization_id, agent: agent.id }
    }

    async fn sids(&self, path: &str) -> Vec<String> {
        let list = self.get(path).await.ok();
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["call_sid"].as_str().unwrap().to_owned())
            .collect()
    }

    fn reference(&self, sid: &str) -> CallRef {
        CallRef { call_sid: CallSid::parse(sid).unwrap(), organization: self.organization, agent: self.agent }
    }

    /// A call that came in then, and perhaps has ended.
    async fn call(&self, sid: &str, end: Option<EndReason>, seconds: u64, created: &str) -> CallRef {
        let call = self.reference(sid);
        let at: Timestamp = created.parse().unwrap();
        let (from, to) = ("+14155550123".to_owned(), "+15005550000".to_owned());
        let incoming = CallEvent::Incoming { phone_number: None, from, to, to_team: false };
        lifecycle::record(&self.store, &call, at, &incoming).await.unwrap();
        if let Some(reason) = end {
            let (duration, report) = (Duration::from_secs(seconds), Map::new());
            let ended = CallEvent::Ended { token: TOKEN, reason, duration, report };
            lifecycle::record(&self.store, &call, at, &ended).await.unwrap();
        }
        self.execute(&format!("update calls set created_at = '{created}' where call_sid = '{sid}'")).await;
        call
    }

    async fn other_tenant(&self) -> CallRef {
        let (organization, agent): (Uuid, Uuid) = sqlx::query_as(
            "with o as (insert into organisations (slug, name) values ('other', 'Other') returning id)
             insert into agents (organization_id, name, instructions) select id, 'Other', 'Speak.' from o
             returning organization_id, id",
        )
        .fetch_one(self.store.pool())
        .await
        .unwrap();
        CallRef { organization: organization.into(), agent: agent.into(), ..self.reference("CA0") }
    }
}

impl Answer {
    fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()
    }
}
