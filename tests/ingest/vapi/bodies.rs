//! What is sent to us, and what is shown of it.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{ASSISTANT, CALLER, PATH, SID, Server, VAPI_ID, report};
use crate::surface::KEY;

#[tokio::test]
async fn a_list_of_calls_has_what_is_small_of_a_report_and_one_call_has_the_whole() {
    let server = Server::new().await;
    let mut message = report(1);
    message["artifact"]["transcript"] = json!("x".repeat(200_000));
    message["call"]["assistant"] = json!({"model": "y".repeat(50_000)});
    message["call"]["note"] = json!("z".repeat(50_000));
    message["summary"] = json!("w".repeat(50_000));
    server.outcome(&message).await;
    let answer = server.get("/api/calls").await;
    assert!(answer.text.len() < 5_000, "{}", answer.text.len());
    let listed = answer.data()[0].clone();
    let members: Vec<_> = listed["data"].as_object().unwrap().keys().collect();
    assert_eq!(members, ["call"]);
    for (member, value) in [
        ("status", json!("completed")),
        ("duration", json!(300)),
        ("sid", json!(SID)),
        ("endedReason", json!("caller_hung_up")),
        ("from", json!(CALLER)),
        ("id", json!(VAPI_ID)),
    ] {
        assert_eq!(listed["data"]["call"][member], value, "{member}");
    }
    let end = &listed["event_sequence"][0];
    assert_eq!(
        (&end["type"], &end["timestamp"]),
        (&json!("agent_call_completed"), &json!("2024-10-30T09:05:00Z"))
    );
    assert_eq!(end["details"]["endedReason"], "customer-ended-call");
    assert!(end["details"].get("artifact").is_none() && end["details"].get("summary").is_none(), "{end}");
    let whole = server.get(&format!("/api/calls/{SID}")).await.data();
    assert_eq!(whole["data"]["artifact"], message["artifact"]);
    assert_eq!(whole["event_sequence"][0]["details"], whole["data"]);
    for (status, total) in [("completed", 1), ("failed", 0), ("live", 0)] {
        let page = server.get(&format!("/api/calls?status={status}")).await.json();
        assert_eq!(page["pagination"]["total"], total, "{status}");
    }
}

#[tokio::test]
async fn other_messages_are_taken_and_ignored_and_what_is_no_message_is_refused() {
    let server = Server::new().await;
    for kind in ["status-update", "transcript", "tool-calls", "something-new"] {
        let mut message = report(0);
        message["type"] = json!(kind);
        assert_eq!(server.outcome(&message).await, "ignored");
    }
    for body in [json!([]), json!({}), json!({"message": {"type": "end-of-call-report"}})] {
        let error = server.vapi(&body).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
        assert!(error["details"][0]["field"].as_str().unwrap().starts_with("message"), "{error}");
    }
    let headers = [("content-type", "application/json"), ("x-vapi-secret", KEY)];
    let broken = server.raw(Method::POST, PATH, &headers, "{\"message\": ").await;
    broken.is_error(StatusCode::BAD_REQUEST, "invalid_json");
    let text = server.raw(Method::POST, PATH, &[("x-vapi-secret", KEY)], "{}").await;
    text.is_error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");
    assert_eq!(server.count("calls").await, 0);
}

#[tokio::test]
async fn a_report_may_have_four_megabytes_and_no_other_body_more_than_before() {
    let server = Server::new().await;
    let mut message = report(0);
    message["artifact"]["transcript"] = json!("x".repeat(4_000_000));
    assert_eq!(server.outcome(&message).await, "created");
    message["artifact"]["transcript"] = json!("x".repeat(4 << 20));
    let answer = server.vapi(&json!({ "message": message })).await;
    answer.is_error(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large");
    let lead = json!({"phone": "+14155550124", "notes": "x".repeat(70_000)});
    server.post("/api/leads", lead).await.is_error(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large");
}

#[tokio::test]
async fn whatever_the_members_of_a_report_are_the_answer_is_no_error_of_ours() {
    let server = Server::new().await;
    let strange = [
        json!(null),
        json!(-1),
        json!(1e308),
        json!(""),
        json!("\u{0}"),
        json!("x".repeat(60_000)),
        json!([]),
        json!([null]),
        json!({"x": []}),
        json!("-009999-01-01T00:00:00Z"),
        json!("9999-12-30T22:00:00.999999999Z"),
        json!(9_223_372_036_854_775_807_i64),
    ];
    let places = [
        "/timestamp",
        "/startedAt",
        "/endedAt",
        "/durationSeconds",
        "/endedReason",
        "/artifact",
        "/artifact/messages",
        "/artifact/messages/1/time",
        "/artifact/messages/1/message",
        "/artifact/messages/2/secondsFromStart",
        "/artifact/recordingUrl",
        "/call",
        "/call/id",
        "/call/phoneCallProviderId",
        "/call/assistantId",
        "/call/customer",
        "/call/customer/number",
        "/call/type",
        "/phoneNumber/number",
        "/type",
    ];
    for place in places {
        for value in &strange {
            let mut message = report(0);
            *message.pointer_mut(place).unwrap() = value.clone();
            let answer = server.vapi(&json!({ "message": message })).await;
            let is_fine = answer.status == StatusCode::OK || answer.status.is_client_error();
            assert!(is_fine, "{place} = {:.40}: {} {}", value.to_string(), answer.status, answer.text);
        }
    }
    assert_eq!(server.get("/api/calls").await.status, StatusCode::OK);
}

// ---- Queries that others write ---------------------------------------------------------------------------------------

#[tokio::test]
async fn every_documented_query_works_on_calls_that_vapi_reported() {
    let server = Server::new().await;
    let organization = server.organization.0;
    for (number, (sid, seconds, day)) in
        [("CA1", 61.2, "2024-01-01"), ("CA2", 59.4, "2024-01-31"), ("CA3", 600.0, "2024-02-01")]
            .into_iter()
            .enumerate()
    {
        let mut message = report(0);
        message["call"]["id"] = json!(format!("v{number}"));
        message["call"]["phoneCallProviderId"] = json!(sid);
        message["durationSeconds"] = json!(seconds);
        message["startedAt"] = json!(format!("{day}T00:00:00Z"));
        message["endedAt"] = json!(format!("{day}T00:10:00Z"));
        assert_eq!(server.outcome(&message).await, "created");
    }
    let mut failed = report(0);
    failed["call"]["id"] = json!("v4");
    failed["call"]["phoneCallProviderId"] = json!("CA4");
    failed["endedReason"] = json!("assistant-error");
    server.outcome(&failed).await;
    let sids = async |sql: &str| -> Vec<String> {
        let sql = format!("select coalesce(jsonb_agg(call_sid), '[]') from ({sql}) as found");
        serde_json::from_value(server.scalar(&sql).await).unwrap()
    };
    let newest_first = ["CA4", "CA3", "CA2", "CA1"];
    assert_eq!(
        sids(&format!(
            "SELECT * FROM calls WHERE organization_id = '{organization}' ORDER BY created_at DESC"
        ))
        .await,
        newest_first
    );
    assert_eq!(
        sids(&format!("SELECT * FROM calls WHERE agent_id = '{}' ORDER BY created_at DESC", server.agent))
            .await,
        newest_first
    );
    assert_eq!(
        sids(&format!(
            "SELECT c.*, a.vapi_assistant_id, o.slug as organization_slug
             FROM calls c
             JOIN agents a ON c.agent_id = a.id
             JOIN organisations o ON c.organization_id = o.id
             WHERE c.organization_id = '{organization}'
             ORDER BY c.created_at DESC
             LIMIT 100"
        ))
        .await,
        newest_first
    );
    assert_eq!(
        sids(&format!(
            "SELECT * FROM calls
             WHERE organization_id = '{organization}'
               AND created_at >= '2024-01-01'
               AND created_at < '2024-02-01'
             ORDER BY created_at DESC"
        ))
        .await,
        ["CA2", "CA1"]
    );
    assert_eq!(
        sids("SELECT * FROM calls WHERE (data->'call'->>'duration')::int > 60 ORDER BY created_at DESC")
            .await,
        ["CA4", "CA3", "CA1"]
    );
    assert_eq!(
        sids("SELECT * FROM calls WHERE data->'call'->>'status' = 'completed' ORDER BY created_at DESC")
            .await,
        ["CA3", "CA2", "CA1"]
    );
    let counted: Value = server
        .scalar(&format!(
            "select jsonb_agg(found) from (
                 SELECT a.vapi_assistant_id, COUNT(*) as call_count
                 FROM calls c
                 JOIN agents a ON c.agent_id = a.id
                 WHERE c.organization_id = '{organization}'
                 GROUP BY a.id, a.vapi_assistant_id
                 ORDER BY call_count DESC
             ) as found"
        ))
        .await;
    assert_eq!(counted, json!([{"vapi_assistant_id": ASSISTANT, "call_count": 4}]));
}
