//! A campaign from its draft to its end.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::time::timeout;
use voicebridge::store::campaigns;

use crate::queue::attempt;
use crate::server::{NOBODY, Server};

/// Longer than anything here takes.
const A_WHILE: Duration = Duration::from_secs(60);

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
    assert!(campaigns::fail_left_over(&server.store, A_WHILE).await.unwrap());
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
    // Whoever claims has the row, and asks for the campaign next.
    let mut claim = server.store.pool().begin().await.unwrap();
    sqlx::query("select from call_queue where to_number = '+14155550101' for update")
        .execute(&mut *claim)
        .await
        .unwrap();
    server.patch(&path, json!({"time_end": "24:00"})).await.data();
    server.post(&format!("{path}/complete"), Value::Null).await.data();
    let status: String =
        sqlx::query_scalar("select status from campaigns for share").fetch_one(&mut *claim).await.unwrap();
    assert_eq!(status, "completed", "and sees what is new");
    claim.commit().await.unwrap();
    assert_eq!(
        server.scalar::<Value>("select jsonb_object_agg(to_number, status) from call_queue").await,
        json!({"+14155550101": "queued", "+14155550102": "failed"})
    );
    assert!(campaigns::fail_left_over(&server.store, A_WHILE).await.unwrap());
    assert_eq!(statuses(&server).await, json!({"failed": 2}), "what nobody holds any more");
}

#[tokio::test]
async fn a_row_that_somebody_holds_follows_the_tries_of_its_campaign_once_it_is_free() {
    let server = Server::with_number().await;
    let path = campaign_with_two_leads(&server).await;
    let mut claim = server.store.pool().begin().await.unwrap();
    sqlx::query("select from call_queue where to_number = '+14155550101' for no key update")
        .execute(&mut *claim)
        .await
        .unwrap();
    let claiming = async {
        let waiting = "select exists (select from pg_stat_activity where wait_event_type = 'Lock')";
        let is_waited_for = async { while !server.scalar::<bool>(waiting).await {} };
        timeout(A_WHILE / 4, is_waited_for).await.expect("the row is waited for");
        // It asks for the campaign next, and changes the row.
        let tries: i32 = sqlx::query_scalar("select max_attempts from campaigns for share")
            .fetch_one(&mut *claim)
            .await
            .unwrap();
        sqlx::query("update call_queue set attempt_count = 1 where to_number = '+14155550101'")
            .execute(&mut *claim)
            .await
            .unwrap();
        claim.commit().await.unwrap();
        tries
    };
    let (changed, tries) = tokio::join!(server.patch(&path, json!({"max_attempts": 7})), claiming);
    assert_eq!((changed.data()["max_attempts"].as_i64(), tries), (Some(7), 7));
    assert_eq!(
        server.scalar::<Value>("select jsonb_object_agg(to_number, max_attempts) from call_queue").await,
        json!({"+14155550101": 7, "+14155550102": 7})
    );
}

#[tokio::test]
async fn all_rows_of_a_large_campaign_fail_with_what_waits_for_them() {
    let server = Server::with_number().await;
    let path = large_campaign(&server, 2500).await;
    server.post(&format!("{path}/activate"), Value::Null).await.data();
    server
        .execute(
            "insert into interactions (id, organization_id, status, \"createdAt\", \"updatedAt\")
             select 'i-' || q.to_number, q.organization_id, 'INITIATED', now(), now() from call_queue q;
             update call_queue set interaction_id = 'i-' || to_number",
        )
        .await;
    server.post(&format!("{path}/complete"), Value::Null).await.data();
    // What there was no time for, on a slow machine.
    assert!(campaigns::fail_left_over(&server.store, A_WHILE).await.unwrap());
    assert_eq!(statuses(&server).await, json!({"failed": 2500}));
    let interactions =
        "select jsonb_object_agg(status, n) from (select status, count(*) n from interactions group by 1) s";
    assert_eq!(server.scalar::<Value>(interactions).await, json!({"FAILED": 2500}));
    let stats = server.get(&format!("{path}/stats")).await.data();
    assert_eq!(stats["failures"], json!({"blocked_by_rule: the campaign is over": 2500}));
    // No transaction has written more than the others wait for.
    let most = "select max(n) from (select count(*) n from call_queue group by xmin) t";
    assert_eq!(server.scalar::<i64>(most).await, 1000);
}

#[tokio::test]
async fn a_campaign_is_completed_also_where_its_rows_cannot_fail_and_they_do_later() {
    let server = Server::with_number().await;
    let (bad, good) = (campaign_with_two_leads(&server).await, large_campaign(&server, 1500).await);
    for path in [&bad, &good] {
        server.patch(path, json!({"end_date": "2099-05-04"})).await.data();
        server.post(&format!("{path}/activate"), Value::Null).await.data();
    }
    server
        .execute(
            "create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$;
             create trigger refuse before update on call_queue for each row
             when (new.status = 'failed' and old.to_number < '+14155550103') execute function refuse()",
        )
        .await;
    assert_eq!(server.post(&format!("{bad}/complete"), Value::Null).await.data()["status"], "completed");
    let stats = server.get(&format!("{bad}/stats")).await.data();
    assert_eq!((&stats["queue"]["queued"], &stats["queue"]["failed"]), (&json!(2), &json!(0)));
    // Nor does it keep another one from its end.
    let after_it = "2099-05-05T12:00:00Z".parse().unwrap();
    assert_eq!(campaigns::complete_over(&server.store, after_it).await.unwrap(), 1);
    assert!(!campaigns::fail_left_over(&server.store, A_WHILE).await.unwrap(), "there is more");
    assert_eq!(statuses(&server).await, json!({"queued": 2, "failed": 1500}));
    server.execute("drop trigger refuse on call_queue").await;
    assert_eq!(server.post(&format!("{bad}/complete"), Value::Null).await.data()["status"], "completed");
    assert_eq!(statuses(&server).await, json!({"failed": 1502}), "completing once more goes on with it");
}

#[tokio::test]
async fn a_campaign_that_somebody_holds_keeps_no_other_from_its_end() {
    let server = Server::with_number().await;
    let (held, other) = (campaign_with_two_leads(&server).await, large_campaign(&server, 1).await);
    for path in [&held, &other] {
        server.patch(path, json!({"end_date": "2099-05-04"})).await.data();
        server.post(&format!("{path}/activate"), Value::Null).await.data();
    }
    let mut holding = server.store.pool().begin().await.unwrap();
    sqlx::query("select from campaigns where name = 'Renewals' for share")
        .execute(&mut *holding)
        .await
        .unwrap();
    let after_it = "2099-05-05T12:00:00Z".parse().unwrap();
    assert_eq!(campaigns::complete_over(&server.store, after_it).await.unwrap(), 1);
    assert_eq!(server.get(&other).await.data()["status"], "completed");
    holding.rollback().await.unwrap();
    assert_eq!(campaigns::complete_over(&server.store, after_it).await.unwrap(), 1);
    assert_eq!(server.get(&held).await.data()["status"], "completed");
}

#[tokio::test]
async fn of_what_is_over_no_more_fails_at_once_than_there_is_time_for() {
    let server = Server::with_number().await;
    let path = large_campaign(&server, 2).await;
    server.execute("update campaigns set status = 'completed', completed_at = now()").await;
    assert!(!campaigns::fail_left_over(&server.store, Duration::ZERO).await.unwrap());
    assert_eq!(server.get(&format!("{path}/stats")).await.data()["queue"]["queued"], 2);
    assert!(campaigns::fail_left_over(&server.store, A_WHILE).await.unwrap());
    assert_eq!(statuses(&server).await, json!({"failed": 2}));
}

#[tokio::test]
async fn rows_are_left_alone_by_a_change_that_does_not_say_when_to_call() {
    let server = Server::with_number().await;
    let path = large_campaign(&server, 2500).await;
    let agent = server.scalar::<String>("select id::text from agents").await;
    server
        .execute("update call_queue set next_retry_at = '2099-01-01T09:00:00Z', updated_at = '2020-01-01T00:00:00Z'")
        .await;
    let changed = "select count(*) from call_queue where updated_at > '2020-01-01T00:00:00Z'";
    server
        .patch(
            &path,
            json!({"name": "Winter", "time_end": "20:00", "max_concurrent_calls": 2, "ring_timeout_s": 20}),
        )
        .await
        .data();
    assert_eq!(server.scalar::<i64>(changed).await, 0);
    for change in [
        json!({"start_date": "2020-01-01"}),
        json!({"end_date": "2099-12-31"}),
        json!({"time_start": "08:00"}),
        json!({"weekdays": [1]}),
        json!({"max_attempts_per_day": 2}),
        json!({"agent_id": agent}),
    ] {
        server.execute("update call_queue set next_retry_at = '2099-01-01T09:00:00Z'").await;
        server.patch(&path, change.clone()).await.data();
        let due = "select count(*) from call_queue where next_retry_at <= now()";
        assert_eq!(server.scalar::<i64>(due).await, 2500, "{change}");
    }
    let most = "select max(n) from (select count(*) n from call_queue group by xmin) t";
    assert_eq!(server.scalar::<i64>(most).await, 1000);
    server.patch(&path, json!({"max_attempts": 9})).await.data();
    let follow = "select count(*) from call_queue where max_attempts = 9";
    assert_eq!(server.scalar::<i64>(follow).await, 2500);
    assert_eq!(server.scalar::<i64>(most).await, 1000);
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

/// The path of a campaign with so many leads.
async fn large_campaign(server: &Server, leads: u32) -> String {
    let answer = server.post("/api/campaigns", json!({"name": "Large"})).await;
    let id = answer.ok(StatusCode::CREATED)["id"].as_str().unwrap().to_owned();
    server
        .execute(&format!(
            "insert into call_queue (organization_id, campaign_id, to_number)
             select organization_id, id, '+1415' || 6000000 + n from campaigns, generate_series(1, {leads}) as n
             where id = '{id}'"
        ))
        .await;
    format!("/api/campaigns/{id}")
}

/// How many rows of the queue are where.
async fn statuses(server: &Server) -> Value {
    server
        .scalar("select jsonb_object_agg(status, n) from (select status, count(*) n from call_queue group by 1) s")
        .await
}
