//! Whom to call and whom not to.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::life::campaign_with_two_leads;
use crate::server::{NOBODY, Server};

#[tokio::test]
async fn leads_are_enqueued_once_however_often_that_is_asked() {
    let server = Server::with_number().await;
    let path = campaign_with_two_leads(&server).await;
    let rows = server.get(&format!("{path}/queue")).await.data();
    let leads: Vec<Value> = rows.as_array().unwrap().iter().map(|row| row["lead_id"].clone()).collect();
    let body = json!({"lead_ids": [leads[0], leads[0], leads[1]]});
    let report = server.post(&format!("{path}/leads"), body).await.data();
    assert_eq!(report, json!({"enqueued": 0, "already": 2, "skipped": [], "skipped_total": 0}));
    let report = server.post(&format!("{path}/leads"), json!({"filter": {}})).await.data();
    assert_eq!((&report["enqueued"], &report["already"]), (&json!(0), &json!(2)));
    assert_eq!(server.get(&format!("{path}/queue")).await.total(), 2);
    assert_eq!(rows[0]["max_attempts"], 3, "as the campaign says");

    let fresh = format!("/api/campaigns/{}/leads", server.campaign().await);
    let asked = json!({"filter": {}});
    let both = tokio::join!(server.post(&fresh, asked.clone()), server.post(&fresh, asked));
    let sum =
        |member: &str| both.0.data()[member].as_u64().unwrap() + both.1.data()[member].as_u64().unwrap();
    assert_eq!((sum("enqueued"), sum("already")), (2, 2), "another campaign calls them as well, once");
}

#[tokio::test]
async fn leads_that_a_campaign_would_never_call_are_skipped_with_the_reason() {
    let server = Server::with_number().await;
    let path = format!("/api/campaigns/{}/leads", server.campaign().await);
    let nowhere = server.lead("+14155550101", None).await;
    let refused = server.lead("+14155550102", Some("Europe/Berlin")).await;
    let broken = server.lead("+14155550103", Some("Europe/Berlin")).await;
    let lost = server.lead("+14155550104", Some("Europe/Berlin")).await;
    server.post("/api/do-not-call", json!({"number": "+14155550102"})).await.data();
    server
        .execute(
            "update leads set phone = '+123' where phone = '+14155550103';
             update leads set time_zone = 'Mars/Olympus' where phone = '+14155550104'",
        )
        .await;
    let report = server.post(&path, json!({"lead_ids": [nowhere, refused, broken, lost, 999]})).await.data();
    assert_eq!((&report["enqueued"], &report["skipped_total"]), (&json!(0), &json!(5)));
    assert_eq!(
        report["skipped"],
        json!([
            {"lead_id": nowhere, "reason": "no_time_zone"},
            {"lead_id": refused, "reason": "do_not_call"},
            {"lead_id": broken, "reason": "invalid_number"},
            {"lead_id": lost, "reason": "no_time_zone"},
            {"lead_id": 999, "reason": "unknown_lead"}
        ])
    );
    assert_eq!(server.get("/api/queue").await.total(), 0);
    for bad in [json!({}), json!({"lead_ids": [], "filter": {}})] {
        server.post(&path, bad).await.is_error(422, "invalid_value");
    }
    server.post(&path, json!({"filter": {"name": "Ada"}})).await.is_error(422, "invalid_body");
    server
        .post(&format!("/api/campaigns/{NOBODY}/leads"), json!({"filter": {}}))
        .await
        .is_error(404, "not_found");
}

#[tokio::test]
async fn a_filter_means_the_leads_to_whom_all_of_it_applies() {
    let server = Server::with_number().await;
    // More than are taken at a time.
    server
        .execute(
            "insert into leads (organization_id, phone, time_zone, lead_status, score, last_contacted_at)
             select o.id, '+1415555' || (1000 + n), 'Europe/Berlin',
                    case when n % 2 = 0 then 'new' else 'contacted' end, n,
                    case when n % 3 = 0 then timestamptz '2026-01-01' end
             from organisations o, generate_series(1, 600) n",
        )
        .await;
    let (campaign, other) = (server.campaign().await, server.campaign().await);
    let enqueue = async |campaign: &str, filter: Value| {
        server.post(&format!("/api/campaigns/{campaign}/leads"), json!({ "filter": filter })).await.data()["enqueued"]
            .clone()
    };
    let filter =
        json!({"lead_status": "new", "min_score": 301, "not_contacted_since": "2025-12-31T00:00:00Z"});
    assert_eq!(enqueue(&campaign, filter).await, 100, "even, above 300, and not a multiple of three");
    assert_eq!(enqueue(&campaign, json!({})).await, 500, "the rest");
    assert_eq!(enqueue(&other, json!({"created_after": "2099-01-01T00:00:00Z"})).await, 0);
    assert_eq!(enqueue(&other, json!({})).await, 600, "another campaign calls everybody as well");
}

#[tokio::test]
async fn a_number_that_is_not_to_be_called_stops_what_waits_at_once() {
    let server = Server::with_number().await;
    let path = campaign_with_two_leads(&server).await;
    let single = server.queued("+14155550101").await;
    server.queued("+14155550103").await;
    let add = async || {
        server
            .post("/api/do-not-call", json!({"number": "+1 415 555 0101", "reason": "asked by mail"}))
            .await
            .data()
    };
    assert_eq!(add().await, json!({"added": 1, "already": 0, "blocked_calls": 2}));
    assert_eq!(add().await, json!({"added": 0, "already": 1, "blocked_calls": 0}));
    let row = server.get(&format!("/api/queue/{single}")).await.data();
    assert_eq!(row["status"], "failed");
    assert!(row["last_error"].as_str().unwrap().starts_with("blocked_by_rule"));
    assert_eq!(server.get(&format!("{path}/queue?status=failed")).await.total(), 1);
    assert_eq!(server.get("/api/queue?status=queued").await.total(), 2, "other numbers stay");

    let entry = server.get("/api/do-not-call?number=%2B14155550101").await.data()[0].clone();
    assert_eq!(
        (&entry["number"], &entry["reason"], &entry["source"]),
        (&json!("+14155550101"), &json!("asked by mail"), &json!("api"))
    );
    assert_eq!(server.get("/api/do-not-call?number=%2B14155550102").await.total(), 0);
    assert_eq!(server.delete("/api/do-not-call/+14155550101").await.status, StatusCode::NO_CONTENT);
    server.delete("/api/do-not-call/+14155550101").await.is_error(404, "not_found");
    assert_eq!(server.get("/api/do-not-call").await.total(), 0);
    assert_eq!(server.get("/api/queue?status=failed").await.total(), 2, "what failed stays failed");

    server.delete("/api/do-not-call/4155550101").await.is_error(400, "invalid_path");
    server.get("/api/do-not-call?number=bob").await.is_error(400, "invalid_query");
    assert_eq!(server.post("/api/do-not-call", json!({"number": "bob"})).await.bad_members(), ["number"]);
}

#[tokio::test]
async fn a_call_that_is_being_made_is_not_stopped_by_the_list() {
    let server = Server::with_number().await;
    server.queued("+14155550101").await;
    server.execute("update call_queue set status = 'processing'").await;
    let report = server.post("/api/do-not-call", json!({"number": "+14155550101"})).await.data();
    assert_eq!(report["blocked_calls"], 0);
    assert_eq!(server.get("/api/queue?status=processing").await.total(), 1);
}

#[tokio::test]
async fn projects_are_created_and_listed_by_name() {
    let server = Server::with_number().await;
    for name in ["West", "East"] {
        let project = server.post("/api/projects", json!({"name": name, "description": "d"})).await;
        assert_eq!(project.ok(StatusCode::CREATED)["name"], name);
    }
    server.post("/api/projects", json!({"name": " East "})).await.is_error(409, "project_exists");
    assert_eq!(server.post("/api/projects", json!({"name": " "})).await.bad_members(), ["name"]);
    let projects = server.get("/api/projects").await.data();
    let names: Vec<&str> =
        projects.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["East", "West"]);
    server.get("/api/projects?limit=0").await.is_error(400, "invalid_query");
}

#[tokio::test]
async fn a_project_is_read_changed_and_removed() {
    let server = Server::with_number().await;
    let answer = server.post("/api/projects", json!({"name": " East ", "description": "d"})).await;
    let project = answer.ok(StatusCode::CREATED);
    let path = format!("/api/projects/{}", project["id"].as_str().unwrap());
    assert_eq!(answer.headers["location"], path);
    assert_eq!(server.get(&path).await.data(), project);
    server.post("/api/projects", json!({"name": "West"})).await.ok(StatusCode::CREATED);

    let changed = server.patch(&path, json!({"name": " North ", "description": ""})).await.data();
    assert_eq!((&changed["name"], &changed["description"]), (&json!("North"), &json!("")));
    assert_eq!(server.patch(&path, json!({})).await.data(), changed, "what is not named stays");
    server.patch(&path, json!({"name": "West"})).await.is_error(409, "project_exists");
    let bad = json!({"name": "\t", "description": "x".repeat(20_001)});
    assert_eq!(server.patch(&path, bad).await.bad_members(), ["name", "description"]);
    server.patch(&path, json!({"id": "x"})).await.is_error(422, "invalid_body");
    assert_eq!(server.get(&path).await.data(), changed);

    assert_eq!(server.delete(&path).await.status, StatusCode::NO_CONTENT);
    for path in [path, format!("/api/projects/{NOBODY}")] {
        server.get(&path).await.is_error(404, "not_found");
        server.patch(&path, json!({"name": "x"})).await.is_error(404, "not_found");
        server.delete(&path).await.is_error(404, "not_found");
    }
    server.delete("/api/projects/7").await.is_error(400, "invalid_path");
    assert_eq!(server.get("/api/projects").await.total(), 1);
}

#[tokio::test]
async fn a_project_stays_while_a_campaign_is_of_it_and_its_calls_outlive_it() {
    let server = Server::with_number().await;
    let project = server.post("/api/projects", json!({"name": "East"})).await.ok(StatusCode::CREATED);
    let path = format!("/api/projects/{}", project["id"].as_str().unwrap());
    let campaign = json!({"name": "Renewals", "project_id": project["id"]});
    let campaign = server.post("/api/campaigns", campaign).await.ok(StatusCode::CREATED);
    server
        .execute(
            "insert into call_logs (organization_id, project_id, call_sid, direction)
             select organization_id, id, 'CA1', 'outbound' from projects",
        )
        .await;
    server.delete(&path).await.is_error(409, "in_use");
    assert_eq!(server.get(&path).await.data(), project);

    let campaign = format!("/api/campaigns/{}", campaign["id"].as_str().unwrap());
    server.patch(&campaign, json!({"project_id": null})).await.data();
    assert_eq!(server.delete(&path).await.status, StatusCode::NO_CONTENT);
    let calls = server
        .scalar::<Value>("select jsonb_agg(jsonb_build_array(call_sid, project_id)) from call_logs")
        .await;
    assert_eq!(calls, json!([["CA1", null]]));
    let again = server.patch(&campaign, json!({"project_id": project["id"]})).await;
    again.is_error(422, "unknown_reference");
}

#[tokio::test]
async fn a_lead_is_somewhere_that_has_a_clock_or_nowhere() {
    let server = Server::with_number().await;
    let lead = server.lead("+14155550101", Some("europe/berlin")).await;
    let path = format!("/api/leads/{lead}");
    assert_eq!(
        server.get(&path).await.data()["time_zone"],
        "Europe/Berlin",
        "as those spell it who keep the names"
    );
    for bad in ["Mars/Olympus", "", "+02:00", "Etc/Unknown"] {
        assert_eq!(
            server.patch(&path, json!({"time_zone": bad})).await.bad_members(),
            ["time_zone"],
            "{bad}"
        );
        let new = json!({"phone": "+14155550102", "time_zone": bad});
        assert_eq!(server.post("/api/leads", new).await.bad_members(), ["time_zone"], "{bad}");
    }
    assert_eq!(server.patch(&path, json!({"time_zone": null})).await.data()["time_zone"], Value::Null);
    assert_eq!(server.get("/api/leads").await.data()[0]["time_zone"], Value::Null);
}
