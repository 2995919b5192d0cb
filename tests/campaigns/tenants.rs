//! What belongs to another organisation is not there.

use axum::http::Method;
use serde_json::{Value, json};

use crate::server::Server;

const THEIRS: &str = "11111111-1111-4111-8111-111111111111";

/// Another organisation with one of everything. All its ids that are uuids are the same.
async fn with_others() -> Server {
    let server = Server::with_number().await;
    server
        .execute(
            "insert into organisations (id, slug, name) values ('11111111-1111-4111-8111-111111111111', 'other', 'Other');
             insert into agents (id, organization_id, name, instructions)
             select id, id, 'Other', 'Speak.' from organisations where slug = 'other';
             insert into phone_numbers (id, organization_id, agent_id, number)
             select id, id, id, '+15005550007' from organisations where slug = 'other';
             insert into projects (id, organization_id, name)
             select id, id, 'Theirs' from organisations where slug = 'other';
             insert into campaigns (id, organization_id, name)
             select id, id, 'Theirs' from organisations where slug = 'other';
             insert into leads (organization_id, phone, time_zone)
             select id, '+14155550101', 'Europe/Berlin' from organisations where slug = 'other';
             insert into interactions (id, organization_id) select 'theirs', id from organisations where slug = 'other';
             insert into call_queue (id, organization_id, campaign_id, to_number)
             select id, id, id, '+14155550101' from organisations where slug = 'other';
             insert into call_attempts (organization_id, queue_id, campaign_id, agent_id, attempt_number, to_number,
                from_number, node, requested_at)
             select id, id, id, id, 1, '+14155550101', '+15005550007', 'node', now() from organisations where slug = 'other';
             insert into do_not_call (organization_id, number)
             select id, '+14155550109' from organisations where slug = 'other'",
        )
        .await;
    server
}

#[tokio::test]
async fn another_organisation_sees_and_changes_nothing() {
    let server = with_others().await;
    for list in ["/api/queue", "/api/campaigns", "/api/projects", "/api/do-not-call", "/api/leads"] {
        assert_eq!(server.get(list).await.total(), 0, "{list}");
    }
    assert_eq!(server.get(&format!("/api/queue?campaign_id={THEIRS}")).await.total(), 0);
    let everything = "select to_jsonb(array[
        (select jsonb_agg(to_jsonb(t) order by t.id) from call_queue t), (select jsonb_agg(to_jsonb(t)) from campaigns t),
        (select jsonb_agg(to_jsonb(t)) from do_not_call t), (select jsonb_agg(to_jsonb(t)) from leads t),
        (select jsonb_agg(to_jsonb(t)) from interactions t), (select jsonb_agg(to_jsonb(t)) from projects t)])";
    let before = server.scalar::<Value>(everything).await;
    let campaign = format!("/api/campaigns/{THEIRS}");
    let queue = format!("/api/queue/{THEIRS}");
    let project = format!("/api/projects/{THEIRS}");
    for (method, path, body) in [
        (Method::GET, queue.clone(), Value::Null),
        (Method::DELETE, queue.clone(), Value::Null),
        (Method::POST, format!("{queue}/retry"), Value::Null),
        (Method::GET, campaign.clone(), Value::Null),
        (Method::PATCH, campaign.clone(), json!({"name": "Ours"})),
        (Method::DELETE, campaign.clone(), Value::Null),
        (Method::POST, format!("{campaign}/activate"), Value::Null),
        (Method::POST, format!("{campaign}/pause"), Value::Null),
        (Method::POST, format!("{campaign}/resume"), Value::Null),
        (Method::POST, format!("{campaign}/complete"), Value::Null),
        (Method::GET, format!("{campaign}/stats"), Value::Null),
        (Method::GET, format!("{campaign}/queue"), Value::Null),
        (Method::GET, format!("{campaign}/attempts"), Value::Null),
        (Method::POST, format!("{campaign}/leads"), json!({"filter": {}})),
        (Method::GET, project.clone(), Value::Null),
        (Method::PATCH, project.clone(), json!({"name": "Ours"})),
        (Method::DELETE, project, Value::Null),
        (Method::DELETE, "/api/do-not-call/+14155550109".to_owned(), Value::Null),
    ] {
        server.send(method, &path, Some(body)).await.is_error(404, "not_found");
    }
    server.csv(&format!("{campaign}/leads.csv"), "phone\n+14155550102\n").await.is_error(404, "not_found");
    assert_eq!(server.scalar::<Value>(everything).await, before);
}

#[tokio::test]
async fn what_belongs_to_others_can_be_used_by_nobody_else() {
    let server = with_others().await;
    let lead = server.scalar::<Value>("select to_jsonb(id) from leads").await;
    let to = "+14155550101";
    for (body, code) in [
        (json!({"to": to, "lead_id": lead}), "unknown_lead"),
        (json!({"to": to, "agent_id": THEIRS}), "unknown_agent"),
        (json!({"to": to, "phone_number_id": THEIRS}), "unknown_phone_number"),
        (json!({"to": to, "interaction_id": "theirs"}), "unknown_interaction"),
    ] {
        server.post("/api/queue/schedule-call", body).await.is_error(422, code);
    }
    for member in ["agent_id", "phone_number_id", "project_id"] {
        let body = json!({"name": "Ours", member: THEIRS});
        server.post("/api/campaigns", body).await.is_error(422, "unknown_reference");
    }
    let path = format!("/api/campaigns/{}/leads", server.campaign().await);
    let report = server.post(&path, json!({"lead_ids": [lead]})).await.data();
    assert_eq!(report["skipped"][0]["reason"], "unknown_lead");
    assert_eq!(server.post(&path, json!({"filter": {}})).await.data()["enqueued"], 0);
    // Their lists say nothing about our calls, and ours nothing about theirs.
    server.queued("+14155550109").await;
    let report = server.post("/api/do-not-call", json!({"number": to})).await.data();
    assert_eq!(report["blocked_calls"], 0);
    let report =
        server.csv(&format!("{path}.csv"), "phone,time_zone\n+14155550101,Europe/Berlin\n").await.data();
    assert_eq!((&report["created"], &report["found"]), (&json!(1), &json!(0)), "their lead is not ours");
}
