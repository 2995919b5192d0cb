//! Who has seen or changed which conversation.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::operations::{OURS, furnished};
use crate::surface::Server;

impl Server {
    async fn deeds(&self, query: &str) -> Vec<Value> {
        let answer = self.get(&format!("/api/audit-log?{query}")).await;
        answer.data().as_array().unwrap().clone()
    }
}

#[tokio::test]
async fn whoever_reads_a_conversation_is_on_record_by_key_call_and_request() {
    let server = furnished().await;
    let key = server.key_of("default", &["read"]).await;
    let answer = server.asked_by(Some(&key), Method::GET, &format!("/transcripts/{OURS}"), "", "").await;
    assert_eq!(answer.status, StatusCode::OK);
    let deeds = server.deeds(&format!("call_sid={OURS}")).await;
    assert_eq!(deeds.len(), 1, "{deeds:?}");
    let deed = &deeds[0];
    assert_eq!((&deed["action"], &deed["subject"]), (&json!("transcript.read"), &json!(OURS)));
    assert_eq!(deed["actor"], format!("read ({})", &key[..15]));
    assert_eq!(deed["request_id"], answer.headers["x-request-id"].to_str().unwrap());
    assert!(deed["key_id"].is_string());
}

#[tokio::test]
async fn every_route_that_shows_or_changes_a_conversation_is_on_record() {
    let server = furnished().await;
    let handoff = server.get("/api/agent-calls").await.data()[0]["id"].as_str().unwrap().to_owned();
    let lead = server.get("/api/leads").await.data()[0]["id"].to_string();
    for (method, path, body, action) in [
        (Method::GET, format!("/transcripts/{OURS}"), Value::Null, "transcript.read"),
        (Method::GET, "/api/calls".to_owned(), Value::Null, "call.read"),
        (Method::GET, format!("/api/calls/{OURS}"), Value::Null, "call.read"),
        (Method::GET, "/api/call-logs".to_owned(), Value::Null, "call_log.read"),
        (Method::GET, format!("/api/call-logs/{OURS}"), Value::Null, "call_log.read"),
        (Method::GET, "/api/agent-calls".to_owned(), Value::Null, "agent_call.read"),
        (Method::GET, format!("/api/agent-calls/{handoff}"), Value::Null, "agent_call.read"),
        (
            Method::PATCH,
            format!("/api/agent-calls/{handoff}"),
            json!({"agent_notes": "x"}),
            "agent_call.changed",
        ),
        (Method::POST, format!("/api/leads/{lead}/link-call"), json!({"call_sid": OURS}), "lead.linked"),
    ] {
        server.execute("truncate audit_log").await;
        let answer = server.send(method, &path, Some(body).filter(|body| !body.is_null())).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        let deeds = server.deeds("").await;
        assert_eq!(deeds.len(), 1, "{path}: {deeds:?}");
        assert_eq!((&deeds[0]["action"], &deeds[0]["call_sid"]), (&json!(action), &json!(OURS)), "{path}");
        assert_eq!(
            (&deeds[0]["actor"], &deeds[0]["key_id"]),
            (&json!("administrator"), &Value::Null),
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_was_refused_or_not_there_is_not_on_record() {
    let server = furnished().await;
    let key = server.key_of("default", &["read"]).await;
    server.execute("truncate audit_log").await;
    server.get("/transcripts/CA404").await.is_error(StatusCode::NOT_FOUND, "not_found");
    let hang_up = format!("/api/calls/{OURS}/hang-up");
    let refused = server.asked_by(Some(&key), Method::POST, &hang_up, "application/json", "{}").await;
    refused.is_error(StatusCode::FORBIDDEN, "missing_scope");
    assert_eq!(server.count("audit_log").await, 0);
}

#[tokio::test]
async fn the_log_is_filtered_by_key_action_and_time_and_nobody_changes_it_over_the_api() {
    let server = furnished().await;
    let key = server.key_of("default", &["read"]).await;
    server.asked_by(Some(&key), Method::GET, "/api/calls", "", "").await.data();
    let of_key = server.deeds("action=call.read").await;
    let id = of_key[0]["key_id"].as_str().unwrap().to_owned();
    assert_eq!(server.deeds(&format!("key_id={id}")).await, of_key);
    assert!(server.deeds("from=2100-01-01T00:00:00Z").await.is_empty());
    assert!(server.deeds("to=2000-01-01T00:00:00Z").await.is_empty());
    assert_eq!(
        server.deeds("from=2000-01-01T00:00:00Z&to=2100-01-01T00:00:00Z&action=call.read").await,
        of_key
    );
    for method in [Method::POST, Method::PATCH, Method::DELETE, Method::PUT] {
        let answer = server.send(method, "/api/audit-log", None).await;
        answer.is_error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
    }
}
