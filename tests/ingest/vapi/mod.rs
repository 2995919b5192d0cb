//! End-of-call reports of VAPI: however often, in whatever order and however concurrently they come, each call is one row.

mod bodies;
mod orders;
mod records;
mod secrets;

use std::ops::Deref;

use axum::http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use voicebridge::ids::{AgentId, CallSid, OrganizationId};
use voicebridge::lifecycle::{self, CallEvent, CallRef};
use voicebridge::store::agents;

use crate::surface::{self, Answer, KEY};

const PATH: &str = "/api/vapi/webhook";
const STATUS: &str = "/api/twilio/call-status";
const SID: &str = "CA00000000000000000000000000000001";
const VAPI_ID: &str = "0191e0a0-0000-7000-8000-000000000001";
const ASSISTANT: &str = "asst_1";
const CALLER: &str = "+14155550123";
const OURS: &str = "+14155550199";

/// A server whose default agent is the assistant.
struct Server {
    surface: surface::Server,
    organization: OrganizationId,
    agent: AgentId,
}

impl Deref for Server {
    type Target = surface::Server;

    fn deref(&self) -> &surface::Server {
        &self.surface
    }
}

impl Server {
    async fn new() -> Self {
        Self::on(surface::Server::new().await).await
    }

    async fn on(surface: surface::Server) -> Self {
        surface
            .execute(&format!("update agents set vapi_assistant_id = '{ASSISTANT}' where is_default"))
            .await;
        let agent = agents::default_agent(&surface.store).await.unwrap().unwrap();
        Self { organization: agent.organization_id, agent: agent.id, surface }
    }

    async fn vapi(&self, body: &Value) -> Answer {
        let headers = [("content-type", "application/json"), ("x-vapi-secret", KEY)];
        self.raw(Method::POST, PATH, &headers, body.to_string()).await
    }

    /// What came of a report.
    async fn outcome(&self, message: &Value) -> String {
        let answer = self.vapi(&json!({ "message": message })).await;
        answer.data()["outcome"].as_str().unwrap().to_owned()
    }

    /// The one call there is.
    async fn row(&self) -> Value {
        assert_eq!(self.count("calls").await, 1);
        self.scalar(
            "select to_jsonb(calls) || jsonb_build_object('vapi_call_id', vapi_call_id)
             from calls left join vapi_calls on call_id = id",
        )
        .await
    }

    /// Roles and words of the conversation, in its order.
    async fn said(&self, call: &str) -> Vec<String> {
        let said: Value = self
            .scalar(&format!(
                "select coalesce(jsonb_agg(role || ': ' || content order by sequence, id), '[]')
                 from conversation_transcripts where call_sid = '{call}'"
            ))
            .await;
        said.as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
    }

    fn call(&self) -> CallRef {
        CallRef { call_sid: CallSid::parse(SID).unwrap(), organization: self.organization, agent: self.agent }
    }

    async fn record(&self, at: &str, event: &CallEvent) {
        lifecycle::record(&self.store, &self.call(), moment(at), event).await.unwrap();
    }
}

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A report that was made so many seconds after the call; the later, the more it says.
fn report(seconds_after: i64) -> Value {
    let made_at = moment("2024-10-30T09:05:00Z").as_second() + seconds_after;
    let mut messages = vec![
        json!({"role": "system", "message": "You are Ada.", "time": 1_730_278_800_000_u64, "secondsFromStart": 0}),
        json!({"role": "bot", "message": "Good morning.", "time": 1_730_278_801_500_u64, "secondsFromStart": 1.5}),
        json!({"role": "user", "message": "When are you open?", "secondsFromStart": 3}),
        json!({"role": "bot", "message": format!("At {seconds_after}."), "secondsFromStart": 5}),
    ];
    messages
        .extend((0..seconds_after).map(|turn| json!({"role": "user", "message": format!("Turn {turn}.")})));
    json!({
        "type": "end-of-call-report", "timestamp": made_at * 1000, "endedReason": "customer-ended-call",
        "startedAt": "2024-10-30T09:00:00Z", "endedAt": "2024-10-30T09:05:00Z", "durationSeconds": 300,
        "analysis": {"summary": format!("Made {seconds_after} seconds after.")},
        "artifact": {"messages": messages, "recordingUrl": "https://example.com/1.wav"},
        "call": {
            "id": VAPI_ID, "type": "inboundPhoneCall", "status": "ended", "phoneCallProviderId": SID,
            "assistantId": ASSISTANT, "customer": {"number": CALLER},
        },
        "phoneNumber": {"number": OURS},
    })
}

/// The same, of which only VAPI's id says what call it is.
fn without_sid(seconds_after: i64) -> Value {
    let mut message = report(seconds_after);
    message["call"].as_object_mut().unwrap().remove("phoneCallProviderId");
    message
}

/// The same of a call that began then.
fn of_call_at(mut message: Value, began_at: Timestamp) -> Value {
    let seconds_after =
        message["timestamp"].as_i64().unwrap() / 1000 - moment("2024-10-30T09:05:00Z").as_second();
    let ended_at = began_at + jiff::SignedDuration::from_secs(300);
    message["startedAt"] = json!(began_at);
    message["endedAt"] = json!(ended_at);
    message["timestamp"] = json!((ended_at.as_second() + seconds_after) * 1000);
    message
}

/// What is said in it.
fn words(seconds_after: i64) -> Vec<String> {
    let first = ["assistant: Good morning.", "user: When are you open?"].map(str::to_owned);
    let answer = [format!("assistant: At {seconds_after}.")];
    first
        .into_iter()
        .chain(answer)
        .chain((0..seconds_after).map(|turn| format!("user: Turn {turn}.")))
        .collect()
}

/// The call's record is that of this report, and of nothing else.
async fn is_report(server: &Server, seconds_after: i64) {
    let row = server.row().await;
    let sent = report(seconds_after);
    assert_eq!((&row["call_sid"], &row["vapi_call_id"]), (&json!(SID), &json!(VAPI_ID)));
    assert_eq!(row["routing_status"], "completed");
    for (member, value) in sent.as_object().unwrap() {
        if member != "call" {
            assert_eq!(row["data"][member], *value, "{member}");
        }
    }
    let call = &row["data"]["call"];
    assert_eq!((&call["status"], &call["duration"]), (&json!("completed"), &json!(300)));
    let events = row["event_sequence"].as_array().unwrap();
    let ends: Vec<_> = events.iter().filter(|event| is_end(event)).collect();
    assert_eq!(ends.len(), 1, "{events:?}");
    assert_eq!((&ends[0]["type"], &ends[0]["details"]), (&json!("agent_call_completed"), &row["data"]));
    assert_eq!(ends[0]["timestamp"], "2024-10-30T09:05:00Z");
    assert_eq!(server.said(SID).await, words(seconds_after));
    assert_eq!(server.count("call_logs").await, 1);
    let log: Value = server.scalar("select to_jsonb(call_logs) from call_logs").await;
    for (member, value) in [
        ("status", json!("completed")),
        ("duration", json!(300)),
        ("direction", json!("inbound")),
        ("disconnect_reason", json!("caller_hung_up")),
        ("caller_number", json!(CALLER)),
        ("callee_number", json!(OURS)),
        ("recording_url", json!("https://example.com/1.wav")),
    ] {
        assert_eq!(log[member], value, "{member}");
    }
    // Nothing goes by its other name.
    for table in ["call_logs", "conversation_transcripts", "leads", "interactions", "webhook_deliveries"] {
        assert_eq!(server.count(&format!("{table} where call_sid = '{VAPI_ID}'")).await, 0, "{table}");
    }
    let text = log["conversation_transcript"].as_str().unwrap();
    assert_eq!(text.lines().count(), words(seconds_after).len());
    assert!(text.starts_with("Agent: Good morning.\nCaller: When are you open?\n"), "{text}");
}

fn is_end(event: &Value) -> bool {
    matches!(event["type"].as_str(), Some("agent_call_completed" | "call_failed"))
}

async fn callback(server: &Server, status: &str, sequence: &str) {
    let mut params = vec![
        ("CallSid", SID),
        ("CallStatus", status),
        ("SequenceNumber", sequence),
        ("From", CALLER),
        ("To", OURS),
        ("Direction", "inbound"),
        ("CallDuration", if status == "completed" { "301" } else { "" }),
    ];
    // When a callback without a time comes is chance, and no record may say so.
    if status == "completed" {
        params.push(("Timestamp", "Wed, 30 Oct 2024 09:05:01 +0000"));
    }
    assert_eq!(server.twilio(STATUS, &params).await.status, StatusCode::NO_CONTENT);
}

// ---- One row ---------------------------------------------------------------------------------------------------------
