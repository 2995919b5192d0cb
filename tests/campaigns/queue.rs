//! Calls that are asked for one by one.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::server::{NOBODY, Server};

const SCHEDULE: &str = "/api/queue/schedule-call";

#[tokio::test]
async fn a_call_is_scheduled_listed_and_read_with_its_tries() {
    let server = Server::with_number().await;
    let lead = server.lead("+14155550123", None).await;
    let body = json!({
        "to": "+1 (415) 555-0199", "message": "Hello from us", "lead_id": lead, "priority": "high",
        "schedule_at": "2030-03-02T09:00:00Z", "max_attempts": 5
    });
    let answer = server.post(SCHEDULE, body).await;
    let row = answer.ok(StatusCode::ACCEPTED);
    let id = row["id"].as_str().unwrap();
    assert_eq!(answer.headers["location"], format!("/api/queue/{id}"));
    for (member, value) in [
        ("status", json!("queued")),
        ("to_number", json!("+14155550199")),
        ("lead_id", json!(lead)),
        ("priority", json!("high")),
        ("next_retry_at", json!("2030-03-02T09:00:00Z")),
        ("attempt_count", json!(0)),
        ("max_attempts", json!(5)),
        ("message", json!("Hello from us")),
        ("campaign_id", Value::Null),
        ("last_error", Value::Null),
    ] {
        assert_eq!(row[member], value, "{member}");
    }
    attempt(&server, id, "2030-03-02T11:00:00Z").await;
    let read = server.get(&format!("/api/queue/{id}")).await.data();
    assert_eq!((&read["id"], &read["to_number"]), (&row["id"], &row["to_number"]));
    let attempts = read["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1);
    assert_eq!((&attempts[0]["outcome"], &attempts[0]["attempt_number"]), (&json!("busy"), &json!(1)));

    server.queued("+14155550124").await;
    assert_eq!(server.get("/api/queue").await.total(), 2);
    assert_eq!(server.get("/api/queue?limit=1").await.data()[0]["to_number"], "+14155550124", "newest first");
    assert_eq!(server.get(&format!("/api/queue?lead_id={lead}")).await.total(), 1);
    assert_eq!(server.get("/api/queue?status=failed").await.total(), 0);
    server.get("/api/queue?status=gone").await.is_error(400, "invalid_query");
    server.get(&format!("/api/queue/{NOBODY}")).await.is_error(404, "not_found");
    server.get("/api/queue/1").await.is_error(400, "invalid_path");
}

#[tokio::test]
async fn the_number_may_be_left_out_when_the_lead_has_one() {
    let server = Server::with_number().await;
    let lead = server.lead("+14155550123", None).await;
    let row = server.post(SCHEDULE, json!({"lead_id": lead})).await.ok(StatusCode::ACCEPTED);
    assert_eq!((&row["to_number"], &row["priority"]), (&json!("+14155550123"), &json!("normal")));
    server.post(SCHEDULE, json!({})).await.is_error(422, "invalid_value");
    server.execute("update leads set phone = '+123'").await;
    server.post(SCHEDULE, json!({"lead_id": lead})).await.is_error(422, "invalid_value");
}

#[tokio::test]
async fn a_call_that_could_not_be_made_is_refused_with_the_reason() {
    let server = Server::with_number().await;
    let to = "+14155550123";
    let post = async |body: Value| server.post(SCHEDULE, body).await;
    for bad in ["4155550123", "", "+1", "anonymous"] {
        assert_eq!(post(json!({"to": bad})).await.bad_members(), ["to"], "{bad}");
    }
    assert_eq!(
        post(json!({"to": to, "max_attempts": 21, "interaction_id": ""})).await.bad_members(),
        ["interaction_id", "max_attempts"]
    );
    post(json!({"to": to, "priority": "urgent"})).await.is_error(422, "invalid_body");
    post(json!({"to": to, "when": "now"})).await.is_error(422, "invalid_body");
    post(json!({"to": to, "lead_id": 99})).await.is_error(422, "unknown_lead");
    post(json!({"to": to, "agent_id": NOBODY})).await.is_error(422, "unknown_agent");
    post(json!({"to": to, "phone_number_id": NOBODY})).await.is_error(422, "unknown_phone_number");
    post(json!({"to": to, "interaction_id": "none"})).await.is_error(422, "unknown_interaction");
    server.post("/api/do-not-call", json!({"number": to})).await.data();
    post(json!({"to": to})).await.is_error(409, "do_not_call");
    server.execute("update agents set enabled = false").await;
    post(json!({"to": "+14155550124"})).await.is_error(409, "agent_disabled");
    server.execute("update agents set enabled = true, is_default = false").await;
    post(json!({"to": "+14155550124"})).await.is_error(409, "no_agent");
    assert_eq!(server.get("/api/queue").await.total(), 0);

    let server = Server::new().await;
    let error = server.post(SCHEDULE, json!({"to": to})).await.is_error(409, "no_own_number");
    assert!(error["message"].as_str().unwrap().contains("phone_numbers"), "it says what to do");
}

#[tokio::test]
async fn an_interaction_is_called_for_once_and_only_while_it_is_initiated() {
    let server = Server::with_number().await;
    server
        .execute(
            "insert into interactions (id, organization_id)
             select word, o.id from organisations o, (values ('one'), ('two'), ('three')) as t(word);
             update interactions set status = 'FAILED' where id = 'two'",
        )
        .await;
    let body = |id: &str| json!({"to": "+14155550123", "interaction_id": id});
    let error = server.post(SCHEDULE, body("two")).await.is_error(409, "interaction_not_initiated");
    assert_eq!(error["details"]["status"], "FAILED");
    let row = server.post(SCHEDULE, body("one")).await.ok(StatusCode::ACCEPTED);
    assert_eq!(row["interaction_id"], "one");
    let state = "select to_jsonb(array[status::text, (\"dispatchedAt\" is not null)::text]) from interactions where id = 'one'";
    assert_eq!(
        server.scalar::<Value>(state).await,
        json!(["INITIATED", "true"]),
        "asking changes nothing else"
    );
    server.post(SCHEDULE, body("one")).await.is_error(409, "interaction_queued");

    let both = tokio::join!(server.post(SCHEDULE, body("three")), server.post(SCHEDULE, body("three")));
    let mut statuses = [both.0.status.as_u16(), both.1.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 409], "of two that come at once one is taken");
}

#[tokio::test]
async fn a_call_is_taken_back_while_it_waits_and_not_while_it_is_made() {
    let server = Server::with_number().await;
    let path = format!("/api/queue/{}", server.queued("+14155550123").await);
    for _ in 0..2 {
        let row = server.delete(&path).await.data();
        assert_eq!((&row["status"], &row["last_error"]), (&json!("failed"), &json!("canceled")));
        assert!(row["finished_at"].is_string());
    }
    server.execute("update call_queue set status = 'processing', last_error = null").await;
    server.delete(&path).await.is_error(409, "call_going_on");
    server.execute("update call_queue set status = 'completed'").await;
    server.delete(&path).await.is_error(409, "call_finished");
    server.execute("update call_queue set status = 'failed', last_error = 'busy'").await;
    server.delete(&path).await.is_error(409, "call_finished");
    server.delete(&format!("/api/queue/{NOBODY}")).await.is_error(404, "not_found");
}

#[tokio::test]
async fn a_call_that_failed_is_tried_again_when_somebody_asks() {
    let server = Server::with_number().await;
    let path = format!("/api/queue/{}/retry", server.queued("+14155550123").await);
    server
        .execute(
            "update call_queue set status = 'failed', last_error = 'busy', attempt_count = 3,
                finished_at = now(), next_retry_at = now() + interval '1 day'",
        )
        .await;
    let retry = async || server.post(&path, Value::Null).await;
    let row = retry().await.data();
    assert_eq!(
        (
            &row["status"],
            &row["attempt_count"],
            &row["max_attempts"],
            &row["last_error"],
            &row["finished_at"]
        ),
        (&json!("queued"), &json!(3), &json!(4), &Value::Null, &Value::Null)
    );
    assert_eq!(
        server.scalar::<Value>("select to_jsonb(bool_and(next_retry_at <= now())) from call_queue").await,
        true
    );
    server.execute("update call_queue set status = 'processing'").await;
    retry().await.is_error(409, "call_going_on");
    server.execute("update call_queue set status = 'failed', attempt_count = 20, max_attempts = 20").await;
    retry().await.is_error(409, "no_try_left");
    server.post("/api/do-not-call", json!({"number": "+14155550123"})).await.data();
    retry().await.is_error(409, "do_not_call");
    server.post(&format!("/api/queue/{NOBODY}/retry"), Value::Null).await.is_error(404, "not_found");
}

/// A try that came to nothing, with when the next one is due.
pub(crate) async fn attempt(server: &Server, queue: &str, next: &str) {
    sqlx::query(
        "insert into call_attempts (organization_id, queue_id, lead_id, campaign_id, agent_id, attempt_number, status,
            outcome, to_number, from_number, node, requested_at, next_retry_at)
         select q.organization_id, q.id, q.lead_id, q.campaign_id, a.id, 1, 'ended', 'busy', q.to_number, '+15005550006',
            'node', now(), $2::text::timestamptz
         from call_queue q join agents a using (organization_id) where q.id = $1::text::uuid",
    )
    .bind(queue)
    .bind(next)
    .execute(server.store.pool())
    .await
    .unwrap();
}
