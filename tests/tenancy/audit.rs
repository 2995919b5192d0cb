//! Who has seen or changed which conversation.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::operations::{OURS, Operation, document, furnished, operations, there};
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

/// Names of members by which an answer shows a conversation, or says of which call it is.
const OF_A_CONVERSATION: [&str; 6] =
    ["call_sid", "callSid", "parent_call_sid", "transcript", "conversation_transcript", "content"];
/// What names a call and shows nothing that was said in it.
const EXEMPT: [&str; 11] = [
    // The log itself.
    "GET /api/audit-log",
    // Who is live, by what the carrier knows of them: looked at all the time, by boards on walls.
    "GET /api/calls/live",
    // Why a call went where it did: our own words.
    "GET /api/calls/{callSid}/routing",
    // Tries of a campaign, each with the call that came of it.
    "GET /api/campaigns/{id}/attempts",
    // The call on which somebody said so.
    "GET /api/do-not-call",
    // People, with their latest call; that they are linked is on record when it is done.
    "GET /api/leads",
    "POST /api/leads",
    "GET /api/leads/{id}",
    "PATCH /api/leads/{id}",
    // Without what is sent, which one delivery alone shows.
    "GET /api/webhook-deliveries",
    // What a mapping makes of a message that was sent with it.
    "POST /api/ivr-providers/{id}/try",
];
/// What has only begun, and has no conversation yet.
const NOT_YET: [&str; 1] = ["POST /api/interactions"];

/// Whether an answer of this schema has a member of a conversation.
fn shows(document: &Value, schema: &Value, depth: u32) -> bool {
    let part = |part: &Value| depth < 12 && shows(document, part, depth + 1);
    let is_named =
        |(name, member): (&String, &Value)| OF_A_CONVERSATION.contains(&name.as_str()) || part(member);
    schema["$ref"]
        .as_str()
        .is_some_and(|place| part(document.pointer(place.trim_start_matches('#')).unwrap()))
        || ["allOf", "oneOf", "anyOf"]
            .iter()
            .any(|word| schema[word].as_array().into_iter().flatten().any(part))
        || (schema["items"].is_object() && part(&schema["items"]))
        || schema["properties"].as_object().into_iter().flatten().any(is_named)
}

/// Whether it is about the conversation of a call, by its path or by what it answers.
fn is_of_a_conversation(document: &Value, operation: &Operation) -> bool {
    let answers = operation.about["responses"].as_object().unwrap().iter();
    let mut schemas = answers
        .filter(|(status, _)| status.starts_with('2'))
        .flat_map(|(_, answer)| answer["content"].as_object().into_iter().flatten())
        .map(|(_, content)| &content["schema"]);
    operation.path.contains("{callSid}") || schemas.any(|schema| shows(document, schema, 0))
}

/// By what the document says of each route: one that is added is asked for its record without anybody remembering to.
#[tokio::test]
async fn every_route_that_shows_or_changes_a_conversation_is_on_record() {
    let (server, document) = (furnished().await, document());
    server.fill_every_table().await;
    server.execute("delete from call_streams; delete from call_leases").await;
    server.execute(&format!("update ivr_calls set call_sid = '{OURS}'")).await;
    let mut of_a_conversation = operations(&document);
    of_a_conversation.retain(|operation| {
        let needs = operation.about["x-needs"].as_str().unwrap();
        !["signature", "nothing"].contains(&needs) && is_of_a_conversation(&document, operation)
    });
    of_a_conversation.sort_by_key(|operation| operation.method == Method::DELETE);
    let (mut silent, mut unseen, mut needless) = (Vec::new(), Vec::new(), Vec::new());
    let mut exempt: Vec<&str> = EXEMPT.into_iter().chain(NOT_YET).collect();
    for operation in &of_a_conversation {
        let path = there(&server, &document, &operation.path).await;
        let (media_type, body) = operation.sent();
        let body = body.replace("CA00000000000000000000000000000001", OURS);
        server.execute("truncate audit_log").await;
        let answer = server.keyed(operation.method.clone(), &path, &media_type, body).await;
        let deeds = server.count("audit_log").await;
        let is_exempt = exempt.iter().any(|one| *one == operation.name());
        exempt.retain(|one| *one != operation.name());
        match (answer.status.is_success(), deeds > 0, is_exempt) {
            (true, false, false) => silent.push(operation.name()),
            (true, true, true) => needless.push(operation.name()),
            // Nobody carries the call, so nobody answers who steers it: another test has a call that is carried.
            (false, ..) if operation.path.starts_with("/api/calls/{callSid}/") => {}
            (false, ..) => unseen.push(format!("{}: {} {}", operation.name(), answer.status, answer.text)),
            _ => {}
        }
    }
    assert!(silent.is_empty(), "these leave no record, and are not exempt: {silent:?}");
    assert!(unseen.is_empty(), "these were not answered well: {}", unseen.join("\n"));
    assert!(needless.is_empty(), "these are on record, and need not be exempt: {needless:?}");
    assert!(exempt.is_empty(), "there are no such routes, or they are of no conversation: {exempt:?}");
    assert!(of_a_conversation.len() > 25, "only {} routes are of a conversation", of_a_conversation.len());
}

#[tokio::test]
async fn a_record_says_what_was_done_to_which_call_and_by_whom() {
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
