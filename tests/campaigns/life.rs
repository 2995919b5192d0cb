//! A campaign from its draft to its end.

use axum::http::StatusCode;
use serde_json::{Value, json};
use voicebridge::store::campaigns;

use crate::queue::attempt;
use crate::server::{NOBODY, Server};

#[tokio::test]
async fn a_campaign_is_created_read_changed_listed_and_deleted() {
    let server = Server::with_number().await;
    let project = server.post("/api/projects", json!({"name": "Sales"})).await.ok(StatusCode::CREATED);
    let body = json!({
        "name": " Renewals ", "project_id": project["id"], "start_date": "2026-03-02", "end_date": "2026-03-31",
        "time_start": "08:30", "time_end": "24:00", "weekdays": [5, 1, 1], "metadata": {"team": "north"},
        "retry_delays_s": {"busy": 60}, "voicemail_policy": "leave_message", "voicemail_message": "Call us back."
    });
    let answer = server.post("/api/campaigns", body).await;
    let created = answer.ok(StatusCode::CREATED);
    let path = format!("/api/campaigns/{}", created["id"].as_str().unwrap());
    assert_eq!(answer.headers["location"], path);
    for (member, value) in [
        ("status", json!("draft")),
        ("name", json!("Renewals")),
        ("start_date", json!("2026-03-02")),
        ("time_start", json!("08:30")),
        ("time_end", json!("24:00")),
        ("weekdays", json!([1, 5])),
        ("metadata", json!({"team": "north"})),
        ("retry_delays_s", json!({"busy": 60})),
        ("voicemail_policy", json!("leave_message")),
        ("max_attempts", json!(3)),
        ("total_calls", json!(0)),
        ("avg_sentiment_score", Value::Null),
    ] {
        assert_eq!(created[member], value, "{member}");
    }
    let other = json!({"end_date": null, "max_attempts": 2, "message": "Be brief."});
    let changed = server.patch(&path, other).await.data();
    assert_eq!(
        (&changed["end_date"], &changed["max_attempts"], &changed["message"], &changed["start_date"]),
        (&Value::Null, &json!(2), &json!("Be brief."), &json!("2026-03-02"))
    );
    assert_eq!(server.get(&path).await.data(), changed);
    assert_eq!(server.get("/api/campaigns?status=draft").await.data()[0], changed);
    assert_eq!(server.get("/api/campaigns?status=active").await.total(), 0);
    server.get("/api/campaigns?status=gone").await.is_error(400, "invalid_query");
    assert_eq!(server.delete(&path).await.status, StatusCode::NO_CONTENT);
    server.get(&path).await.is_error(404, "not_found");
}

#[tokio::test]
async fn what_a_campaign_is_when_nothing_is_said_is_what_the_table_says() {
    let server = Server::with_number().await;
    server.campaign().await;
    server
        .execute("insert into campaigns (organization_id, name) select id, 'Renewals' from organisations")
        .await;
    let kinds = server
        .scalar::<Value>(
            "select to_jsonb(count(distinct to_jsonb(c) - '{id,created_at,updated_at}'::text[])) from campaigns c",
        )
        .await;
    assert_eq!(kinds, 1);
}

#[tokio::test]
async fn a_campaign_that_cannot_be_is_refused_member_by_member() {
    let server = Server::with_number().await;
    let post = async |body: Value| server.post("/api/campaigns", body).await;
    assert_eq!(post(json!({})).await.bad_members(), ["name"]);
    let bad = json!({
        "name": "x", "time_start": "20:00", "time_end": "09:00", "start_date": "2026-03-02", "end_date": "2026-03-01",
        "max_attempts": 0, "max_attempts_per_day": 11, "max_concurrent_calls": 0, "ring_timeout_s": 4,
        "metadata": [], "voicemail_policy": "leave_message", "retry_delays_s": {"answered": 1}
    });
    assert_eq!(
        post(bad).await.bad_members(),
        [
            "max_attempts",
            "max_attempts_per_day",
            "max_concurrent_calls",
            "ring_timeout_s",
            "time_end",
            "end_date",
            "metadata",
            "voicemail_message",
            "retry_delays_s"
        ]
    );
    for bad in [
        json!({"time_start": "9 o'clock"}),
        json!({"time_end": "24:01"}),
        json!({"weekdays": []}),
        json!({"weekdays": [8]}),
        json!({"start_date": "2026-02-30"}),
        json!({"retry_delays_s": {"maybe": 1}}),
        json!({"status": "active"}),
    ] {
        post(bad.clone()).await.is_error(422, "invalid_body");
    }
    for member in ["agent_id", "phone_number_id", "project_id"] {
        let error = post(json!({"name": "x", member: NOBODY})).await.is_error(422, "unknown_reference");
        assert!(error["message"].as_str().unwrap().starts_with("there is no such"));
    }
    let id = server.campaign().await;
    let path = format!("/api/campaigns/{id}");
    assert_eq!(server.patch(&path, json!({"time_end": "08:00"})).await.bad_members(), ["time_end"]);
    assert_eq!(server.get(&path).await.data()["time_end"], "20:00", "what was refused stays as it was");
    server.patch(&format!("/api/campaigns/{NOBODY}"), json!({})).await.is_error(404, "not_found");
}

#[tokio::test]
async fn a_campaign_is_activated_paused_resumed_and_completed_in_that_order_only() {
    let server = Server::with_number().await;
    let path = format!("/api/campaigns/{}", server.campaign().await);
    let step = async |word: &str| server.post(&format!("{path}/{word}"), Value::Null).await;
    for word in ["pause", "resume", "complete"] {
        step(word).await.is_error(409, "campaign_draft");
    }
    for _ in 0..2 {
        assert_eq!(step("activate").await.data()["status"], "active");
    }
    server.delete(&path).await.is_error(409, "campaign_active");
    assert_eq!(step("pause").await.data()["status"], "paused");
    step("activate").await.is_error(409, "campaign_paused");
    assert_eq!(step("resume").await.data()["status"], "active");
    let done = step("complete").await.data();
    assert_eq!((&done["status"], done["completed_at"].is_string()), (&json!("completed"), true));
    for word in ["activate", "pause", "resume"] {
        step(word).await.is_error(409, "campaign_completed");
    }
    assert_eq!(step("complete").await.data(), done, "twice is as good as once");
    server.patch(&path, json!({"name": "x"})).await.is_error(409, "campaign_completed");
    for word in ["activate", "pause", "resume", "complete"] {
        server.post(&format!("/api/campaigns/{NOBODY}/{word}"), Value::Null).await.is_error(404, "not_found");
    }
}

#[tokio::test]
async fn a_campaign_that_could_not_call_anybody_is_not_activated() {
    let server = Server::new().await;
    let path = format!("/api/campaigns/{}", server.campaign().await);
    let activate = async || server.post(&format!("{path}/activate"), Value::Null).await;
    activate().await.is_error(409, "no_own_number");
    server.execute("update agents set enabled = false").await;
    activate().await.is_error(409, "no_agent");
    server.patch(&path, json!({"end_date": "2020-01-01"})).await.data();
    activate().await.is_error(409, "campaign_over");
    assert_eq!(server.get(&path).await.data()["status"], "draft");
}

#[tokio::test]
async fn leads_of_a_completed_campaign_are_not_called_any_more() {
    let server = Server::with_number().await;
    let path = campaign_with_two_leads(&server).await;
    server.execute("update call_queue set status = 'processing' where to_number = '+14155550102'").await;
    server.post(&format!("{path}/activate"), Value::Null).await.data();
    server.delete(&path).await.is_error(409, "campaign_active");
    server.post(&format!("{path}/complete"), Value::Null).await.data();
    assert_eq!(
        server
            .scalar::<Value>(
                "select jsonb_object_agg(to_number, concat_ws(' ', status, last_error)) from call_queue"
            )
            .await,
        json!({
            "+14155550101": "failed blocked_by_rule: the campaign is over",
            "+14155550102": "processing"
        }),
        "a call that is being made goes on"
    );
    server.post(&format!("{path}/leads"), json!({"filter": {}})).await.is_error(409, "campaign_completed");
    server
        .csv(&format!("{path}/leads.csv"), "phone\n+14155550177\n")
        .await
        .is_error(409, "campaign_completed");
    assert_eq!(server.get("/api/leads").await.total(), 2, "nothing is taken of a table that is refused");
    server.delete(&path).await.is_error(409, "calls_going_on");
    server.execute("update call_queue set status = 'failed'").await;
    let row = server.get("/api/queue").await.data()[0]["id"].as_str().unwrap().to_owned();
    server.post(&format!("/api/queue/{row}/retry"), Value::Null).await.is_error(409, "campaign_completed");
}

#[tokio::test]
async fn a_campaign_is_completed_when_its_last_day_is_over_everywhere() {
    let server = Server::with_number().await;
    let path = campaign_with_two_leads(&server).await;
    server.patch(&path, json!({"end_date": "2099-05-04"})).await.data();
    server.post(&format!("{path}/activate"), Value::Null).await.data();
    let complete =
        async |now: &str| campaigns::complete_over(&server.store, now.parse().unwrap()).await.unwrap();
    assert_eq!(complete("2099-05-05T11:59:59Z").await, 0, "somewhere it is still that day");
    assert_eq!(server.get(&path).await.data()["status"], "active");
    assert_eq!(complete("2099-05-05T12:00:00Z").await, 1);
    assert_eq!(server.get(&path).await.data()["status"], "completed");
    assert_eq!(server.get(&format!("{path}/queue?status=failed")).await.total(), 2);
    assert_eq!(complete("2099-05-05T12:00:00Z").await, 0);
}

#[tokio::test]
async fn other_hours_take_effect_at_the_next_claim_and_a_delay_after_a_try_stays() {
    let server = Server::with_number().await;
    let path = campaign_with_two_leads(&server).await;
    server.execute("update call_queue set next_retry_at = '2099-01-01T09:00:00Z'").await;
    let rows = server.get(&format!("{path}/queue")).await.data();
    let tried = rows.as_array().unwrap().iter().find(|row| row["to_number"] == "+14155550102").unwrap();
    attempt(&server, tried["id"].as_str().unwrap(), "2098-12-31T15:00:00Z").await;
    server.queued("+14155550103").await;
    server
        .execute("update call_queue set next_retry_at = '2099-01-01T09:00:00Z' where campaign_id is null")
        .await;
    let due = "select jsonb_object_agg(to_number, case when next_retry_at <= now() then 'now'
                  else to_char(next_retry_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') end) from call_queue";

    server.patch(&path, json!({"time_end": "24:00"})).await.data();
    assert_eq!(
        server.scalar::<Value>(due).await,
        json!({"+14155550101": "now", "+14155550102": "2098-12-31 15:00", "+14155550103": "2099-01-01 09:00"})
    );

    // So does another place of the lead.
    server.execute("update call_queue set next_retry_at = '2099-01-01T09:00:00Z'").await;
    let lead = server.get(&format!("{path}/queue")).await.data();
    for row in lead.as_array().unwrap() {
        let lead = format!("/api/leads/{}", row["lead_id"]);
        assert_eq!(server.patch(&lead, json!({"name": "Ada"})).await.data()["time_zone"], "Europe/Berlin");
    }
    assert_eq!(
        server.scalar::<Value>("select to_jsonb(bool_and(next_retry_at > now())) from call_queue").await,
        true
    );
    for row in lead.as_array().unwrap() {
        let lead = format!("/api/leads/{}", row["lead_id"]);
        let changed = server.patch(&lead, json!({"time_zone": "asia/kolkata"})).await.data();
        assert_eq!(changed["time_zone"], "Asia/Kolkata");
    }
    assert_eq!(
        server.scalar::<Value>(due).await,
        json!({"+14155550101": "now", "+14155550102": "2098-12-31 15:00", "+14155550103": "2099-01-01 09:00"})
    );
}

#[tokio::test]
async fn a_campaign_is_changed_and_completed_while_a_row_of_it_is_being_claimed() {
    let server = Server::with_number().await;
    let path = campaign_with_two_leads(&server).await;
    server.post(&format!("{path}/activate"), Value::Null).await.data();
    server.execute("update call_queue set next_retry_at = '2099-01-01T09:00:00Z'").await;
    // Whoever claims has the row, and asks for the campaign next: waiting for it here would be a deadlock.
    let mut claim = server.store.pool().begin().await.unwrap();
    sqlx::query("select from call_queue where to_number = '+14155550101' for update")
        .execute(&mut *claim)
        .await
        .unwrap();
    server.patch(&path, json!({"time_end": "24:00", "max_attempts": 7})).await.data();
    server.post(&format!("{path}/complete"), Value::Null).await.data();
    let status: String =
        sqlx::query_scalar("select status from campaigns for share").fetch_one(&mut *claim).await.unwrap();
    assert_eq!(status, "completed", "and sees what is new");
    claim.commit().await.unwrap();
    assert_eq!(
        server.scalar::<Value>("select jsonb_object_agg(to_number, status) from call_queue").await,
        json!({"+14155550101": "queued", "+14155550102": "failed"})
    );
}

#[tokio::test]
async fn tries_that_are_left_follow_the_campaign() {
    let server = Server::with_number().await;
    let path = campaign_with_two_leads(&server).await;
    server.execute("update call_queue set max_attempts = 9 where to_number = '+14155550102'").await;
    server.patch(&path, json!({"max_attempts": 5})).await.data();
    assert_eq!(
        server.scalar::<Value>("select jsonb_object_agg(to_number, max_attempts) from call_queue").await,
        json!({"+14155550101": 5, "+14155550102": 9}),
        "a row that was given more keeps them"
    );
}

#[tokio::test]
async fn the_board_of_a_campaign_says_how_far_it_is() {
    let server = Server::with_number().await;
    let path = campaign_with_two_leads(&server).await;
    let rows = server.get(&format!("{path}/queue")).await.data();
    attempt(&server, rows[0]["id"].as_str().unwrap(), "2099-01-01T09:00:00Z").await;
    server.execute("update call_queue set next_retry_at = '2099-01-01T09:00:00Z'").await;
    server
        .execute(
            "insert into call_logs (organization_id, campaign_id, call_sid, direction, answered_at, sentiment_score)
             select organization_id, id, 'CA1', 'outbound', now(), 0.25 from campaigns;
             update call_queue set status = 'failed', last_error = 'busy' where to_number = '+14155550102'",
        )
        .await;
    let stats = server.get(&format!("{path}/stats")).await.data();
    assert_eq!(
        stats,
        json!({
            "queue": {"queued": 1, "processing": 0, "completed": 0, "failed": 1},
            "next_call_at": "2099-01-01T09:00:00Z",
            "failures": {"busy": 1},
            "attempts": {"busy": 1},
            "total_calls": 1, "answered_calls": 1, "transferred_calls": 0, "avg_sentiment_score": 0.25
        })
    );
    assert_eq!(server.get(&format!("{path}/attempts")).await.data()[0]["outcome"], "busy");
    assert_eq!(server.get(&format!("{path}/attempts")).await.total(), 1);
    for part in ["stats", "queue", "attempts"] {
        server.get(&format!("/api/campaigns/{NOBODY}/{part}")).await.is_error(404, "not_found");
    }
    assert_eq!(server.delete(&path).await.status, StatusCode::NO_CONTENT);
    assert_eq!(
        server.scalar::<Value>("select to_jsonb(count(*)) from call_logs where campaign_id is null").await,
        1
    );
}

/// Its path. The leads are in Berlin.
pub(crate) async fn campaign_with_two_leads(server: &Server) -> String {
    let path = format!("/api/campaigns/{}", server.campaign().await);
    let mut leads = Vec::new();
    for phone in ["+14155550101", "+14155550102"] {
        leads.push(server.lead(phone, Some("Europe/Berlin")).await);
    }
    let report = server.post(&format!("{path}/leads"), json!({ "lead_ids": leads })).await.data();
    assert_eq!(report["enqueued"], 2);
    path
}
