//! The HTTP surface against a real PostgreSQL: every route, good and bad input, signatures, keys, envelopes.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

#[path = "api/document.rs"]
mod document;
#[path = "api/made_up.rs"]
mod made_up;
#[path = "support/operations.rs"]
mod operations;
mod support;
#[path = "support/surface.rs"]
mod surface;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use secrecy::SecretString;
use serde_json::{Value, json};
use uuid::Uuid;
use voicebridge::api;
use voicebridge::call::end::{EndReason, NextStep};
use voicebridge::call::transcript::{Entry, Role, Status};
use voicebridge::clock::CallTime;
use voicebridge::ids::{CallSid, ItemId, OrganizationId, PhoneNumber};
use voicebridge::store::agents::{self, Agent};
use voicebridge::store::cluster::PrivateCluster;
use voicebridge::store::leases::FencingToken;
use voicebridge::store::transcripts::Turns;
use voicebridge::store::{Store, calls, leases, organisations, phone_numbers, transcripts};
use voicebridge::wire::signature::sign;

use crate::surface::{KEY, PUBLIC, Server};

const TOKEN: &str = "12345";
const SID: &str = "CA00000000000000000000000000000001";
const TWIML: &str = "/media-stream-twiml";
const ENDED: &str = "/twiml/stream-ended";
const STATUS: &str = "/api/twilio/call-status";

// ---- Records ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_transcript_has_exactly_the_members_that_clients_know() {
    let server = Server::new().await;
    let call = call(SID);
    let entries = [entry(2, Role::Assistant, "Hello!"), entry(1, Role::User, "Good morning")];
    let start = "2025-11-23T10:30:00Z".parse().unwrap();
    let organization = server.organization().await;
    server.twilio("/media-stream-twiml", &incoming()).await;
    let (call_sid, token) = (call, FencingToken(1));
    let turns = Turns { organization, call_sid, token, stream_started: start, entries: entries.into() };
    assert!(transcripts::save(&server.store, &[turns]).await.unwrap().is_empty());

    let answer = server.get(&format!("/transcripts/{SID}")).await;
    assert_eq!(answer.status, StatusCode::OK);
    let body = answer.json();
    let members: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, ["callSid", "messageCount", "success", "transcripts"]);
    assert_eq!(
        (&body["callSid"], &body["messageCount"], &body["success"]),
        (&json!(SID), &json!(2), &json!(true))
    );
    let first = &body["transcripts"][0];
    assert_eq!(first["id"].as_i64().map(|id| id > 0), Some(true));
    assert_eq!(first["call_sid"], SID);
    assert_eq!(first["role"], "user");
    assert_eq!(first["content"], "Good morning");
    assert_eq!(first["timestamp"], "2025-11-23T10:30:01Z");
    assert_eq!(body["transcripts"][1]["content"], "Hello!", "in conversation order, not in order of arrival");
    // Spelled out, because clients may read the text and not the members.
    assert!(
        answer.text.starts_with(&format!("{{\"callSid\":\"{SID}\",\"transcripts\":[{{\"id\":")),
        "{}",
        answer.text
    );
    let (id, rest) = answer.text.split_once("\"id\":").and_then(|(_, rest)| rest.split_once(',')).unwrap();
    assert!(id.parse::<i64>().is_ok());
    let known =
        format!("\"call_sid\":\"{SID}\",\"role\":\"user\",\"content\":\"Good morning\",\"timestamp\":");
    assert!(rest.starts_with(&known), "{rest}");
}

#[tokio::test]
async fn a_call_without_words_has_an_empty_transcript_and_an_unknown_call_has_none() {
    let server = Server::new().await;
    server.twilio(TWIML, &[("CallSid", SID)]).await;
    let body = server.get(&format!("/transcripts/{SID}")).await.json();
    assert_eq!(body, json!({"callSid": SID, "transcripts": [], "messageCount": 0, "success": true}));
    server.get("/transcripts/CA2").await.is_error(StatusCode::NOT_FOUND, "not_found");
    server.get("/transcripts/a%20b").await.is_error(StatusCode::BAD_REQUEST, "invalid_path");
    server
        .get(&format!("/transcripts/{}", "x".repeat(51)))
        .await
        .is_error(StatusCode::BAD_REQUEST, "invalid_path");
}

#[tokio::test]
async fn a_lead_is_created_read_changed_and_listed() {
    let server = Server::new().await;
    let new = json!({"name": "John Doe", "phone": "+1 (415) 555-0123", "email": "john@example.com"});
    let answer = server.send(Method::POST, "/api/leads", Some(new)).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let body = answer.json();
    assert_eq!(body["success"], true);
    let id = body["data"]["id"].as_i64().unwrap();
    assert_eq!(answer.headers["location"], format!("/api/leads/{id}"));
    assert_eq!(body["data"]["phone"], "+14155550123", "in E.164, whole");
    assert_eq!((&body["data"]["lead_status"], &body["data"]["call_sid"]), (&json!("new"), &Value::Null));

    let patch =
        json!({"lead_status": "contacted", "last_contacted_at": "2025-11-23T10:30:00Z", "email": null});
    let body = server.send(Method::PATCH, &format!("/api/leads/{id}"), Some(patch)).await.json();
    let data = &body["data"];
    assert_eq!(
        (&data["lead_status"], &data["email"], &data["name"]),
        (&json!("contacted"), &Value::Null, &json!("John Doe"))
    );
    assert_eq!(server.get(&format!("/api/leads/{id}")).await.json()["data"], *data);
    assert_eq!(data["last_contacted_at"], "2025-11-23T10:30:00Z");

    for number in 1..=3 {
        server.lead(&format!("+1415555010{number}")).await;
    }
    let page = server.get("/api/leads?limit=2&offset=1").await.json();
    assert_eq!(page["pagination"], json!({"limit": 2, "offset": 1, "total": 4}));
    let phones: Vec<_> =
        page["data"].as_array().unwrap().iter().map(|lead| lead["phone"].as_str().unwrap()).collect();
    assert_eq!(phones, ["+14155550102", "+14155550101"], "newest first");
    assert_eq!(server.get("/api/leads").await.json()["pagination"]["limit"], 50);
}

#[tokio::test]
async fn a_lead_that_cannot_be_is_refused_member_by_member() {
    let server = Server::new().await;
    let post = async |body: Value| server.send(Method::POST, "/api/leads", Some(body)).await;
    let bad = json!({"phone": "4155550123", "email": "john", "lead_status": "", "name": "x".repeat(201)});
    let error = post(bad).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    let mut fields: Vec<_> =
        error["details"].as_array().unwrap().iter().map(|it| it["field"].as_str().unwrap()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["email", "lead_status", "name", "phone"]);
    post(json!({})).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    post(json!({"phone": 7})).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    post(json!({"phone": "+14155550123", "fone": 1}))
        .await
        .is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    assert_eq!(server.get("/api/leads").await.json()["pagination"]["total"], 0, "nothing was stored");

    let id = server.lead("+14155550123").await;
    let patch = async |body: Value| server.send(Method::PATCH, &format!("/api/leads/{id}"), Some(body)).await;
    patch(json!({"phone": "12"})).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    patch(json!({"call_sid": "CA1"})).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    server
        .send(Method::PATCH, "/api/leads/99", Some(json!({})))
        .await
        .is_error(StatusCode::NOT_FOUND, "not_found");
    server.get("/api/leads/99").await.is_error(StatusCode::NOT_FOUND, "not_found");
    server.get("/api/leads/none").await.is_error(StatusCode::BAD_REQUEST, "invalid_path");
    for query in ["limit=0", "limit=201", "limit=x", "offset=-1"] {
        server.get(&format!("/api/leads?{query}")).await.is_error(StatusCode::BAD_REQUEST, "invalid_query");
    }
}

#[tokio::test]
async fn a_lead_is_linked_to_a_call_and_unlinked_and_a_taken_call_is_a_conflict() {
    let server = Server::new().await;
    let (one, other) = (server.lead("+14155550101").await, server.lead("+14155550102").await);
    let link = async |id: i64, sid: &str| {
        server.send(Method::POST, &format!("/api/leads/{id}/link-call"), Some(json!({"call_sid": sid}))).await
    };
    let unlink =
        async |id: i64| server.send(Method::DELETE, &format!("/api/leads/{id}/link-call"), None).await;

    assert_eq!(link(one, SID).await.json()["data"]["call_sid"], SID);
    assert_eq!(link(one, SID).await.status, StatusCode::OK, "twice is as good as once");
    let error = link(other, SID).await.is_error(StatusCode::CONFLICT, "call_already_linked");
    assert_eq!(error["details"], json!({"lead_id": one}));

    let answer = unlink(one).await;
    assert_eq!((answer.status, &answer.json()["data"]["call_sid"]), (StatusCode::OK, &Value::Null));
    assert_eq!(unlink(one).await.status, StatusCode::OK);
    assert_eq!(link(other, SID).await.status, StatusCode::OK);

    link(99, SID).await.is_error(StatusCode::NOT_FOUND, "not_found");
    unlink(99).await.is_error(StatusCode::NOT_FOUND, "not_found");
    link(one, "").await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
}

// ---- Who may ask, and how refusals read ------------------------------------------------------------------------------

#[tokio::test]
async fn records_need_the_key_and_webhooks_and_health_do_not() {
    let server = Server::with(|settings| settings.open_metrics = false).await;
    let asked = async |path: &str, headers: &[(&str, &str)]| {
        server.raw(Method::GET, path, headers, Body::empty()).await.status
    };
    for path in ["/api/leads", "/api/leads/1", "/transcripts/CA1", "/metrics"] {
        for headers in [
            &[][..],
            &[("authorization", "Bearer 0123456789abcdeg")],
            &[("authorization", "Basic 0123456789abcdef")],
            &[("x-api-key", "")],
        ] {
            let answer = server.raw(Method::GET, path, headers, Body::empty()).await;
            answer.is_error(StatusCode::UNAUTHORIZED, "unauthorized");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
        assert_ne!(
            asked(path, &[("authorization", "Bearer 0123456789abcdef")]).await,
            StatusCode::UNAUTHORIZED
        );
        assert_ne!(asked(path, &[("x-api-key", KEY)]).await, StatusCode::UNAUTHORIZED);
    }
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(asked(path, &[]).await, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn metrics_are_open_where_only_this_machine_can_ask() {
    let server = Server::with(|settings| settings.open_metrics = true).await;
    server.metrics.barge_ins.inc();
    let answer = server.raw(Method::GET, "/metrics", &[], Body::empty()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    assert!(answer.text.contains("voicebridge_barge_ins_total 1"));
}

#[tokio::test]
async fn every_refusal_has_the_envelope() {
    let server = Server::new().await;
    let key = ("x-api-key", KEY);
    let json_type = ("content-type", "application/json");
    let raw = async |method: Method, path: &str, headers: &[(&str, &str)], body: &str| {
        server.raw(method, path, headers, Body::from(body.to_owned())).await
    };
    raw(Method::GET, "/nothing", &[], "").await.is_error(StatusCode::NOT_FOUND, "not_found");
    let answer = raw(Method::DELETE, "/api/leads", &[key], "").await;
    answer.is_error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
    assert_eq!(answer.headers["allow"], "GET,HEAD,POST");
    raw(Method::PUT, STATUS, &[], "").await.is_error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(70_000));
    raw(Method::POST, "/api/leads", &[key, json_type], &large)
        .await
        .is_error(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large");
    raw(Method::POST, "/api/leads", &[key, json_type], "{\"name\":")
        .await
        .is_error(StatusCode::BAD_REQUEST, "invalid_json");
    raw(Method::POST, "/api/leads", &[key, ("content-type", "text/plain")], "{}")
        .await
        .is_error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");
    raw(Method::POST, TWIML, &[json_type], "{}")
        .await
        .is_error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");
    let form = ("content-type", "application/x-www-form-urlencoded");
    raw(Method::POST, TWIML, &[form], &"x".repeat(70_000))
        .await
        .is_error(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large");
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_safe_headers() {
    let server = Server::new().await;
    for path in ["/healthz", "/nothing", "/api/leads"] {
        let answer =
            server.raw(Method::GET, path, &[("x-request-id", "chosen by a client")], Body::empty()).await;
        let id = answer.headers["x-request-id"].to_str().unwrap();
        assert!(Uuid::parse_str(id).is_ok(), "{id}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers["x-frame-options"], "DENY");
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert!(answer.headers.contains_key("content-security-policy"));
    }
}

// ---- Signatures ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_webhook_is_believed_by_its_signature_alone() {
    let server = Server::with(|settings| settings.twilio_auth_tokens = tokens(&["old", TOKEN])).await;
    let params = [("CallSid", SID), ("From", "+14155550123"), ("To", "+14155550199")];
    for path in [TWIML, ENDED, STATUS, "/api/agent/0191e0a0-0000-7000-8000-000000000000/call-incoming"] {
        let good = sign(TOKEN, &format!("{PUBLIC}{path}?a=b"), &params);
        for (signature, why) in [
            (None, "missing"),
            (Some(String::new()), "empty"),
            (Some(sign("other", &format!("{PUBLIC}{path}?a=b"), &params)), "another token"),
            (Some(sign(TOKEN, &format!("{PUBLIC}{path}"), &params)), "another URL"),
            (Some(sign(TOKEN, &format!("{PUBLIC}{path}?a=b"), &params[..2])), "another body"),
        ] {
            let answer = server.form(&format!("{path}?a=b"), &params, signature.as_deref()).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}: {why}");
            answer.is_error(StatusCode::FORBIDDEN, "invalid_signature");
        }
        let tampered = [params[0], params[1], ("To", "+14155550198")];
        let answer = server.form(&format!("{path}?a=b"), &tampered, Some(&good)).await;
        answer.is_error(StatusCode::FORBIDDEN, "invalid_signature");
        assert_eq!(server.count("call_events").await, 0, "{path}: nothing is stored");

        let answer = server.form(&format!("{path}?a=b"), &params, Some(&good)).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text);
        server.execute("delete from call_events").await;
    }
}

#[tokio::test]
async fn a_webhook_by_get_is_signed_in_its_query() {
    let server = Server::with(|settings| settings.twilio_auth_tokens = tokens(&[TOKEN])).await;
    let path = format!("{TWIML}?CallSid={SID}&From=%2B14155550123");
    let signature = sign::<&str, &str>(TOKEN, &format!("{PUBLIC}{path}"), &[]);
    let signed = [("x-twilio-signature", signature.as_str())];
    let answer = server.raw(Method::GET, &path, &signed, Body::empty()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.text.contains("<Connect"), "{}", answer.text);
    let other = path.replace("0123", "0124");
    server
        .raw(Method::GET, &other, &signed, Body::empty())
        .await
        .is_error(StatusCode::FORBIDDEN, "invalid_signature");
}

#[tokio::test]
async fn a_stream_is_let_in_by_signature_and_token_before_its_upgrade() {
    let server = Server::with(|settings| settings.twilio_auth_tokens = tokens(&[TOKEN])).await;
    let signed = |path: &str| sign::<&str, &str>(TOKEN, &format!("wss://voice.example.com{path}"), &[]);
    let upgrade = async |path: &str, signature: &str| {
        let headers = [
            ("x-twilio-signature", signature),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        server.raw(Method::GET, path, &headers, Body::empty()).await
    };
    let foreign = format!("/media-stream/{}", "x".repeat(43));
    for path in ["/media-stream", &foreign] {
        upgrade(path, "").await.is_error(StatusCode::FORBIDDEN, "invalid_signature");
        upgrade(path, &signed("/elsewhere")).await.is_error(StatusCode::FORBIDDEN, "invalid_signature");
        let plain =
            server.raw(Method::GET, path, &[("x-twilio-signature", &signed(path))], Body::empty()).await;
        plain.is_error(StatusCode::BAD_REQUEST, "not_a_websocket");
    }
    upgrade(&foreign, &signed(&foreign)).await.is_error(StatusCode::FORBIDDEN, "unknown_stream_token");
    server
        .raw(Method::GET, "/media-stream/%FF", &[], Body::empty())
        .await
        .is_error(StatusCode::BAD_REQUEST, "invalid_path");
    assert_eq!((server.count("call_leases").await, server.count("calls").await), (0, 0), "nothing is stored");
}

// ---- Calls -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_call_is_put_on_record_and_offered_a_stream() {
    let server = Server::new().await;
    let answer = server.twilio(TWIML, &incoming()).await;
    assert_eq!(answer.headers["content-type"], "text/xml; charset=utf-8");
    let agent = server.agent().await;
    let token = answer.stream_token();
    assert_eq!(
        answer.text,
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response><Connect action=\"{PUBLIC}{ENDED}\">\
             <Stream url=\"wss://voice.example.com/media-stream/{token}\">\
             <Parameter name=\"agent_id\" value=\"{}\"/></Stream></Connect>\
             <Redirect>{PUBLIC}{ENDED}</Redirect></Response>",
            agent.id
        )
    );
    assert_eq!(token.len(), 43);

    let record = calls::by_call_sid(&server.store, &call(SID)).await.unwrap().unwrap();
    assert_eq!(record.agent_id, agent.id);
    assert_eq!(record.event_sequence[0]["type"], "incoming_call");
    assert_eq!(record.event_sequence[0]["details"], json!({"from": "+14155550123", "to": "+14155550199"}));
    let event = server.scalar::<Value>("select to_jsonb(call_events) from call_events").await;
    assert_eq!(
        (&event["from_number"], &event["to_number"]),
        (&json!("+14155550123"), &json!("+14155550199"))
    );
    assert_eq!((&event["direction"], &event["call_status"]), (&json!("inbound"), &json!("ringing")));
    let lease = server.scalar::<Value>("select to_jsonb(call_leases) from call_leases").await;
    assert!(!lease.to_string().contains(&token), "only the digest is stored");

    let claimed = server.claim(&token).await.unwrap();
    assert_eq!((claimed.call_sid.as_str(), claimed.agent), (SID, agent.id));
    assert!(server.claim(&token).await.is_none(), "once");
}

#[tokio::test]
async fn a_retried_webhook_offers_the_same_call_again() {
    let server = Server::new().await;
    let first = server.twilio(TWIML, &incoming()).await.stream_token();
    let second = server.twilio(TWIML, &incoming()).await.stream_token();
    assert_ne!(first, second);
    assert!(server.claim(&first).await.is_none(), "the first answer did not arrive");
    assert!(server.claim(&second).await.is_some());
    assert_eq!((server.count("calls").await, server.count("call_events").await), (1, 1));
    let record = calls::by_call_sid(&server.store, &call(SID)).await.unwrap().unwrap();
    assert_eq!(record.event_sequence.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_agent_is_the_one_of_the_path_else_of_the_number_else_the_default() {
    let server = Server::new().await;
    let default = server.agent().await;
    let other = server.other_agent().await;
    let number = PhoneNumber::parse("+14155550199").unwrap();
    let id = phone_numbers::create(&server.store, default.organization_id, other, &number, "").await.unwrap();

    let chosen = async |path: &str, params: &[(&str, &str)]| {
        let token = server.twilio(path, params).await.stream_token();
        server.claim(&token).await.unwrap().agent
    };
    assert_eq!(chosen(TWIML, &incoming()).await, other);
    let record = calls::by_call_sid(&server.store, &call(SID)).await.unwrap().unwrap();
    assert_eq!(record.phone_number_id, Some(id));
    assert_eq!(chosen(TWIML, &[("CallSid", "CA2"), ("To", "client:bob")]).await, default.id);
    let path = format!("/api/agent/{other}/call-incoming");
    assert_eq!(chosen(&path, &[("CallSid", "CA3")]).await, other);
    let outbound =
        [("CallSid", "CA4"), ("Direction", "outbound-api"), ("From", "+14155550199"), ("To", "+14155550101")];
    assert_eq!(chosen(TWIML, &outbound).await, other, "the number of ours is the calling one");
}

#[tokio::test]
async fn a_webhook_without_a_call_is_a_bad_request() {
    let server = Server::new().await;
    let long = "x".repeat(51);
    for path in [TWIML, ENDED, STATUS] {
        for params in [&[][..], &[("CallSid", "")], &[("CallSid", "a b")], &[("CallSid", long.as_str())]] {
            server.twilio(path, params).await.is_error(StatusCode::BAD_REQUEST, "invalid_call_sid");
        }
    }
    server
        .twilio("/api/agent/7/call-incoming", &incoming())
        .await
        .is_error(StatusCode::BAD_REQUEST, "invalid_path");
    assert_eq!(server.count("call_events").await, 0);
}

#[tokio::test]
async fn a_call_that_cannot_be_taken_hears_a_sentence() {
    let store = support::store(4).await;
    let full = Server::on(store.clone(), |settings| settings.max_calls = 0);
    full.twilio(TWIML, &[("CallSid", "CA2")]).await.speaks("All our lines are busy right now.");

    let server = Server::on(store, |_| {});
    let nobody = format!("/api/agent/{}/call-incoming", Uuid::nil());
    server.twilio(&nobody, &[("CallSid", "CA1")]).await.speaks("This number cannot take calls right now.");
    server.twilio(TWIML, &[("CallSid", "CA3")]).await.stream_token();

    server.tasks.begin_stop();
    server.twilio(TWIML, &[("CallSid", "CA4")]).await.speaks("All our lines are busy right now.");

    server.execute("update agents set transfer_number = '+14155550177'").await;
    let twiml = server.twilio(TWIML, &[("CallSid", "CA5")]).await.text;
    assert!(
        twiml.contains("<Say>One moment please") && twiml.contains("<Number>+14155550177</Number>"),
        "{twiml}"
    );
    assert_eq!(server.events("CA5").await, ["incoming_call", "transferred"]);

    server.execute("update agents set enabled = false, transfer_number = null").await;
    server.twilio(TWIML, &[("CallSid", "CA6")]).await.speaks("This number cannot take calls right now.");
    assert_eq!(server.count("call_leases").await, 1, "only the call that was taken is expected");
}

#[tokio::test]
async fn a_call_that_comes_while_the_database_is_down_hears_an_apology() {
    let cluster = PrivateCluster::start_throwaway().await.unwrap();
    let store = Store::connect(cluster.connect_options(), 4).await.unwrap();
    store.migrate().await.unwrap();
    let server = Server::on(store, |_| {});
    assert_eq!(server.get("/readyz").await.status, StatusCode::OK);
    let leads = server.get("/api/leads").await;
    assert_eq!(leads.status, StatusCode::OK);
    cluster.stop().await.unwrap();

    for path in [TWIML, ENDED] {
        server.twilio(path, &incoming()).await.speaks("We are sorry, something went wrong on our side.");
    }
    let after_team = async |status| {
        let fields = [("CallSid", SID), ("CallStatus", "in-progress"), ("DialCallStatus", status)];
        server.twilio(ENDED, &fields).await
    };
    let hang_up = "<Response><Hangup/></Response>";
    assert!(after_team("completed").await.text.ends_with(hang_up), "they have talked");
    after_team("no-answer").await.speaks("We are sorry, nobody can take your call right now.");
    let gone = server.twilio(ENDED, &[("CallSid", SID), ("CallStatus", "completed")]).await;
    assert!(gone.text.ends_with(hang_up), "nobody listens: {}", gone.text);
    server.get("/readyz").await.is_error(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable");
    for answer in [server.get("/api/leads").await, server.twilio(STATUS, &incoming()).await] {
        answer.is_error(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable");
        assert_eq!(answer.headers["retry-after"], "5");
    }
    assert_eq!(server.get("/healthz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn after_the_stream_the_call_goes_on_as_was_decided() {
    let server = Server::new().await;
    let hang_up = "<Response><Hangup/></Response>";
    for (sid, step, reason, without_team, with_team) in [
        ("CA1", NextStep::HangUp, EndReason::AgentEnded, hang_up, hang_up),
        ("CA3", NextStep::Apologise, EndReason::ModelLost, "<Say>Sorry, something went wrong", "<Dial"),
    ] {
        server.execute("update agents set transfer_number = null").await;
        let token = server.twilio(TWIML, &[("CallSid", sid)]).await.stream_token();
        let claimed = server.claim(&token).await.unwrap();
        leases::set_next_action(&server.store, &call(sid), claimed.fencing_token, step, reason)
            .await
            .unwrap();
        let twiml = server.twilio(ENDED, &[("CallSid", sid)]).await.text;
        assert!(twiml.contains(without_team) && twiml.contains("<Hangup/>"), "{sid}: {twiml}");

        server.execute("update agents set transfer_number = '+14155550177'").await;
        let twiml = server.twilio(ENDED, &[("CallSid", sid)]).await.text;
        assert!(twiml.contains(with_team), "{sid}: {twiml}");
        assert_eq!(twiml.contains(">+14155550177</Number>"), step != NextStep::HangUp, "{sid}: {twiml}");
        assert_eq!(
            twiml.contains("<Say>Sorry, something went wrong"),
            step == NextStep::Apologise,
            "{sid}: {twiml}"
        );
    }
    let twiml = server.twilio(ENDED, &[("CallSid", "CA3"), ("CallStatus", "completed")]).await.text;
    assert!(twiml.ends_with(hang_up), "the caller has gone: {twiml}");
}

#[tokio::test]
async fn after_the_team_the_call_is_over() {
    let server = Server::new().await;
    let over =
        async |status: &str| server.twilio(ENDED, &[("CallSid", SID), ("DialCallStatus", status)]).await.text;
    assert!(over("completed").await.ends_with("<Response><Hangup/></Response>"));
    for status in ["busy", "no-answer", "failed", "canceled"] {
        let twiml = over(status).await;
        assert!(
            twiml.contains("<Say>We are sorry, nobody can take your call") && !twiml.contains("<Dial"),
            "{twiml}"
        );
    }
}

#[tokio::test]
async fn a_stream_that_never_comes_is_offered_again_and_then_is_a_failed_call_with_an_apology() {
    let server = Server::new().await;
    server
        .twilio(ENDED, &[("CallSid", "CA9")])
        .await
        .speaks("We are sorry, something went wrong on our side.");
    let mut tokens = vec![server.twilio(TWIML, &incoming()).await.stream_token()];
    for _ in 0..3 {
        tokens.push(server.twilio(ENDED, &[("CallSid", SID)]).await.stream_token());
    }
    for void in &tokens[..3] {
        assert!(server.claim(void).await.is_none(), "each offer voids those before it");
    }
    server.twilio(ENDED, &[("CallSid", SID)]).await.speaks("Sorry, something went wrong on our side.");
    assert!(server.claim(&tokens[3]).await.is_none(), "the call is over");
    let record = calls::by_call_sid(&server.store, &call(SID)).await.unwrap().unwrap();
    assert_eq!(record.data["call"]["status"], "failed");
    assert_eq!(record.data["call"]["endedReason"], "stream_lost");
}

#[tokio::test]
async fn a_status_callback_is_one_row_however_often_it_comes() {
    let server = Server::new().await;
    let params = [
        ("CallSid", SID),
        ("CallStatus", "ringing"),
        ("SequenceNumber", "1"),
        ("Timestamp", "Sun, 23 Nov 2025 10:30:00 +0000"),
        ("From", "+14155550123"),
    ];
    for _ in 0..2 {
        let answer = server.twilio(STATUS, &params).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::NO_CONTENT, ""));
    }
    assert_eq!(server.count("call_events").await, 1);
    let event = server.scalar::<Value>("select to_jsonb(call_events) from call_events").await;
    assert_eq!((&event["sequence_number"], &event["payload"]["From"]), (&json!(1), &json!("+14155550123")));
    assert!(event["event_time"].as_str().unwrap().starts_with("2025-11-23T10:30:00"));
    let answered_by = [("CallSid", SID), ("AnsweredBy", "human")];
    assert_eq!(server.twilio(STATUS, &answered_by).await.status, StatusCode::NO_CONTENT);
    assert_eq!(server.count("call_events").await, 2);
    assert_eq!(server.count("calls").await, 0, "a callback alone makes no call of ours");
}

#[tokio::test]
async fn a_call_that_got_no_stream_ends_by_its_last_callback() {
    let server = Server::new().await;
    let status = async |sid: &str, status: &str, number: &str| {
        let params =
            [("CallSid", sid), ("CallStatus", status), ("SequenceNumber", number), ("CallDuration", "4")];
        server.twilio(STATUS, &params).await;
    };
    let ended = async |sid: &str| {
        let record = calls::by_call_sid(&server.store, &call(sid)).await.unwrap().unwrap();
        (record.data["call"]["endedReason"].clone(), record.data["call"]["duration"].clone())
    };
    // Offered, and the caller was faster.
    server.twilio(TWIML, &[("CallSid", "CA1")]).await.stream_token();
    status("CA1", "in-progress", "1").await;
    assert_eq!(ended("CA1").await.0, Value::Null);
    status("CA1", "completed", "2").await;
    assert_eq!(ended("CA1").await, (json!("caller_hung_up"), json!(4)));
    status("CA1", "failed", "3").await;
    status("CA1", "ringing", "0").await;
    assert_eq!(ended("CA1").await, (json!("caller_hung_up"), json!(4)), "the first end stands");

    // A stream that came ends its call itself.
    let token = server.twilio(TWIML, &[("CallSid", "CA2")]).await.stream_token();
    server.claim(&token).await.unwrap();
    status("CA2", "completed", "2").await;
    assert_eq!(ended("CA2").await.0, Value::Null);

    // Turned away: to a sentence, to the team.
    server.tasks.begin_stop();
    server.twilio(TWIML, &[("CallSid", "CA3")]).await;
    status("CA3", "completed", "2").await;
    assert_eq!(ended("CA3").await.0, "stream_lost");
    server.execute("update agents set transfer_number = '+14155550177'").await;
    // The carrier may say that it is over before it asks what follows, or after it.
    for (sid, dial_status, over, reason) in [
        ("CA4", "completed", "in-progress", "transferred"),
        ("CA6", "completed", "completed", "transferred"),
        ("CA7", "no-answer", "in-progress", "stream_lost"),
        ("CA8", "canceled", "completed", "caller_hung_up"),
    ] {
        server.twilio(TWIML, &[("CallSid", sid)]).await;
        let asks = [("CallSid", sid), ("DialCallStatus", dial_status), ("CallStatus", over)];
        if over == "completed" {
            status(sid, "completed", "2").await;
        }
        server.twilio(ENDED, &asks).await;
        status(sid, "completed", "2").await;
        assert_eq!(ended(sid).await.0, reason, "{sid}");
    }
}

// ---- Operations and the document -------------------------------------------------------------------------------------

#[tokio::test]
async fn readiness_ends_when_the_server_is_being_stopped() {
    let server = Server::new().await;
    let body = server.get("/readyz").await.json();
    assert_eq!(body["data"], json!({"status": "ready", "degraded": [], "calls_live": 0, "max_calls": 100}));
    let health = server.get("/healthz").await.json();
    assert_eq!((&health["data"]["status"], &health["data"]["node"]), (&json!("ok"), &json!("node-test")));
    server.tasks.begin_stop();
    server.get("/readyz").await.is_error(StatusCode::SERVICE_UNAVAILABLE, "draining");
    assert_eq!(server.get("/healthz").await.status, StatusCode::OK);
}

#[test]
fn the_document_is_as_agreed() {
    insta::assert_snapshot!("openapi", api::openapi_json());
}

#[tokio::test]
async fn every_documented_route_is_served_and_every_served_route_is_documented() {
    let server = Server::new().await;
    let document = server.get("/openapi.json").await.json();
    assert_eq!(document, serde_json::from_str::<Value>(&api::openapi_json()).unwrap());
    let paths = document["paths"].as_object().unwrap();
    for (path, operations) in paths {
        for method in operations.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let sample = path.replace("{id}", "1").replace("{callSid}", "CA1");
            let answer = server.raw(method.clone(), &sample, &[("x-api-key", KEY)], Body::empty()).await;
            assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert!(!answer.text.contains("nothing at this path"), "{method} {path}");
        }
    }
    let operations = || paths.values().flat_map(|path| path.as_object().unwrap().values());
    let ids: std::collections::BTreeSet<_> =
        operations().map(|it| it["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), operations().count(), "names of operations are different");
    // The router cannot be asked what it serves; so nothing is added to it but by `routes!`, which documents as it adds.
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for bypass in [".route(", ".route_service(", ".nest_service("] {
            assert!(!text.contains(bypass), "{} adds a route without documenting it", path.display());
        }
    }
}

// ---- Helpers ---------------------------------------------------------------------------------------------------------

impl Server {
    async fn organization(&self) -> OrganizationId {
        organisations::default_organization(&self.store).await.unwrap()
    }

    async fn agent(&self) -> Agent {
        agents::default_agent(&self.store).await.unwrap().unwrap()
    }

    async fn other_agent(&self) -> voicebridge::ids::AgentId {
        let id: Uuid = sqlx::query_scalar(
            "insert into agents (organization_id, name, instructions)
             select organization_id, 'Second', 'Be brief.' from agents returning id",
        )
        .fetch_one(self.store.pool())
        .await
        .unwrap();
        id.into()
    }

    async fn lead(&self, phone: &str) -> i64 {
        let answer = self.send(Method::POST, "/api/leads", Some(json!({"phone": phone}))).await;
        answer.json()["data"]["id"].as_i64().unwrap()
    }

    async fn claim(&self, token: &str) -> Option<leases::ClaimedCall> {
        leases::claim(&self.store, &api::stream_token::sha256(token), "node-test").await.unwrap()
    }

    async fn events(&self, sid: &str) -> Vec<String> {
        let record = calls::by_call_sid(&self.store, &call(sid)).await.unwrap().unwrap();
        let events = record.event_sequence.as_array().unwrap().iter();
        events.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    }
}

fn call(sid: &str) -> CallSid {
    CallSid::parse(sid).unwrap()
}

fn tokens(tokens: &[&str]) -> Vec<SecretString> {
    tokens.iter().map(|token| SecretString::from(*token)).collect()
}

fn incoming() -> [(&'static str, &'static str); 5] {
    [
        ("CallSid", SID),
        ("From", "+14155550123"),
        ("To", "+14155550199"),
        ("Direction", "inbound"),
        ("CallStatus", "ringing"),
    ]
}

fn entry(sequence: u32, role: Role, content: &str) -> Entry {
    Entry {
        item: ItemId::parse(&format!("item_{sequence}")).unwrap(),
        sequence,
        revision: 1,
        role,
        content: content.to_owned(),
        generated: None,
        interrupted: false,
        status: Status::Final,
        at: CallTime::from_millis(u64::from(sequence) * 1000),
        audio_start: None,
        audio_end: None,
        heard_until_ms: None,
        evidence: None,
        response_latency_ms: None,
        tool_name: None,
        tool_call: None,
    }
}
