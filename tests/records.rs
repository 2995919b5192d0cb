//! Records of calls over HTTP: what happened, what people make of it, and what a platform around us sees.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

mod support;
#[path = "support/surface.rs"]
mod surface;

use std::ops::Deref;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;
use voicebridge::call::end::EndReason;
use voicebridge::ids::{AgentId, CallSid, OrganizationId, PhoneNumber, StreamSid};
use voicebridge::lifecycle::{self, CallEvent, CallRef, OptOutSource};
use voicebridge::outreach::campaign::Command;
use voicebridge::store::call_events::CarrierEvent;
use voicebridge::store::dialing::{self, Limits, attempts};
use voicebridge::store::leases::FencingToken;
use voicebridge::store::{agents, campaigns, phone_numbers};

use crate::surface::Answer;

const OWN: &str = "+15005550000";
const TOKEN: FencingToken = FencingToken(1);

// ---- Calls -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn calls_are_listed_newest_first_and_filtered() {
    let server = Server::new().await;
    for (sid, end, created) in [
        ("CA1", Some(EndReason::AgentEnded), "2023-12-31T23:59:59Z"),
        ("CA2", Some(EndReason::ModelLost), "2024-01-01T00:00:00Z"),
        ("CA3", None, "2024-02-01T00:00:00Z"),
    ] {
        server.call(sid, end, 90, created).await;
    }
    let sids = async |query: &str| server.sids(&format!("/api/calls{query}")).await;
    assert_eq!(sids("").await, ["CA3", "CA2", "CA1"]);
    assert_eq!(sids("?from=2024-01-01T00:00:00Z&to=2024-02-01T00:00:00Z").await, ["CA2"]);
    assert_eq!(sids("?status=completed").await, ["CA1"]);
    assert_eq!(sids("?status=live").await, ["CA3"]);
    assert_eq!(sids("?routing_status=direct_to_agent").await, ["CA3", "CA2"]);
    assert_eq!(sids(&format!("?agent_id={}", server.agent.0)).await.len(), 3);
    assert_eq!(sids(&format!("?agent_id={}", Uuid::nil())).await.len(), 0);
    let page = server.get("/api/calls?limit=1&offset=1").await.ok();
    assert_eq!(page["pagination"], json!({"limit": 1, "offset": 1, "total": 3}));
    assert_eq!(page["data"][0]["call_sid"], "CA2");

    let call = server.get("/api/calls/CA2").await.ok();
    assert_eq!(
        (&call["data"]["data"]["call"]["status"], &call["data"]["data"]["call"]["duration"]),
        (&json!("failed"), &json!(90))
    );
    let by_id = server.get(&format!("/api/calls/{}", call["data"]["id"].as_str().unwrap())).await.ok();
    assert_eq!(by_id, call);
    server.get("/api/calls/CA9").await.is_error(StatusCode::NOT_FOUND, "not_found");
    for bad in ["status=over", "routing_status=lost", "from=yesterday", "agent_id=7", "limit=0"] {
        server.get(&format!("/api/calls?{bad}")).await.is_error(StatusCode::BAD_REQUEST, "invalid_query");
    }
}

#[tokio::test]
async fn call_logs_are_listed_newest_first_and_filtered() {
    let server = Server::new().await;
    server.call("CA1", Some(EndReason::AgentEnded), 30, "2024-01-01T00:00:00Z").await;
    server.call("CA2", None, 0, "2024-01-02T00:00:00Z").await;
    let sids = async |query: &str| server.sids(&format!("/api/call-logs{query}")).await;
    assert_eq!(sids("").await, ["CA2", "CA1"]);
    assert_eq!(sids("?status=completed").await, ["CA1"]);
    assert_eq!(sids("?direction=outbound").await.len(), 0);
    assert_eq!(sids("?from=2024-01-02T00:00:00Z").await, ["CA2"]);
    assert_eq!(sids("?lead_id=7").await.len(), 0);
    let log = server.get("/api/call-logs/CA1").await.ok();
    let data = &log["data"];
    assert_eq!((&data["duration"], &data["disconnect_reason"]), (&json!(30), &json!("agent_ended")));
    assert_eq!((&data["direction"], &data["caller_number"]), (&json!("inbound"), &json!("+14155550123")));
    assert_eq!(server.get(&format!("/api/call-logs/{}", data["id"].as_str().unwrap())).await.ok(), log);
    server.get("/api/call-logs/CA9").await.is_error(StatusCode::NOT_FOUND, "not_found");
    server.get("/api/call-logs?direction=up").await.is_error(StatusCode::BAD_REQUEST, "invalid_query");
    server.get("/api/call-logs?status=over").await.is_error(StatusCode::BAD_REQUEST, "invalid_query");
}

#[tokio::test]
async fn people_write_down_what_came_of_a_call_that_they_took_over() {
    let server = Server::new().await;
    let call = server.call("CA1", None, 0, "2024-01-01T00:00:00Z").await;
    let (reason, summary) = ("wants a person".to_owned(), "asked about an invoice".to_owned());
    let handed = CallEvent::Transferred { token: TOKEN, to: None, reason, summary };
    lifecycle::record(&server.store, &call, Timestamp::now(), &handed).await.unwrap();
    let list = server.get("/api/agent-calls?parent_call_sid=CA1&status=ringing").await.ok();
    assert_eq!(list["pagination"]["total"], 1);
    let id = list["data"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/agent-calls/{id}");

    let notes = json!({
        "outcome": "appointment", "next_action": "send offer", "next_action_date": "2026-03-02T09:00:00Z",
        "agent_notes": "Friendly.", "objections": ["price", {"topic": "date"}], "interest_level": "high",
    });
    let written = server.send(Method::PATCH, &path, Some(notes.clone())).await.ok();
    for (member, value) in notes.as_object().unwrap() {
        assert_eq!(written["data"][member], *value, "{member}");
    }
    let emptied = server.send(Method::PATCH, &path, Some(json!({"outcome": null}))).await.ok();
    assert_eq!(
        (&emptied["data"]["outcome"], &emptied["data"]["next_action"]),
        (&Value::Null, &json!("send offer"))
    );
    // What happens next leaves it alone.
    let ended =
        CallEvent::HandoffEnded { handoff: 1, dial_status: "busy".into(), leg: None, duration_s: None };
    lifecycle::record(&server.store, &call, Timestamp::now(), &ended).await.unwrap();
    let now = server.get(&path).await.ok();
    assert_eq!((&now["data"]["status"], &now["data"]["agent_notes"]), (&json!("busy"), &json!("Friendly.")));

    for bad in [json!({"outcome": "x".repeat(201)}), json!({"objections": vec![0; 101]})] {
        server
            .send(Method::PATCH, &path, Some(bad))
            .await
            .is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    }
    for bad in
        [json!({"status": "completed"}), json!({"objections": "price"}), json!({"next_action_date": "soon"})]
    {
        server
            .send(Method::PATCH, &path, Some(bad))
            .await
            .is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    }
    let nobody = format!("/api/agent-calls/{}", Uuid::nil());
    server.send(Method::PATCH, &nobody, Some(json!({}))).await.is_error(StatusCode::NOT_FOUND, "not_found");
    server.get("/api/agent-calls/7").await.is_error(StatusCode::BAD_REQUEST, "invalid_path");
    server.get("/api/agent-calls?status=over").await.is_error(StatusCode::BAD_REQUEST, "invalid_query");
}

// ---- Interactions ----------------------------------------------------------------------------------------------------

const INTERACTION: &str = "test_interaction_1754628065_1";

#[tokio::test]
async fn an_interaction_is_created_dispatched_and_changed_by_its_call() {
    let server = Server::new().await;
    let new = json!({
        "id": INTERACTION, "customerId": "test_customer_001", "agentId": "test_agent_001",
        "startTime": "2025-08-08T04:41:05Z",
    });
    let created = server.send(Method::POST, "/api/interactions", Some(new)).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let path = format!("/api/interactions/{INTERACTION}");
    let data = created.json()["data"].clone();
    assert_eq!(
        (&data["status"], &data["channel"], &data["direction"]),
        (&json!("INITIATED"), &json!("VOICE"), &json!("OUTBOUND"))
    );
    assert_eq!(data["startTime"], "2025-08-08T04:41:05Z");

    let body = json!({"to": "+1 415 555 0123", "message": "Remind of the invoice."});
    let answer = server.send(Method::POST, &format!("{path}/dispatch"), Some(body)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    let queue: Uuid = answer.json()["data"]["queue_id"].as_str().unwrap().parse().unwrap();
    let row: Value = server.scalar("select to_jsonb(call_queue) from call_queue").await;
    assert_eq!((&row["interaction_id"], &row["to_number"]), (&json!(INTERACTION), &json!("+14155550123")));
    assert_eq!((&row["message"], &row["status"]), (&json!("Remind of the invoice."), &json!("queued")));
    let status = async || server.get(&path).await.ok()["data"]["status"].clone();
    assert_eq!(status().await, "INITIATED", "asking changes nothing");

    let attempt: Uuid = server
        .scalar(
            "insert into call_attempts (organization_id, queue_id, agent_id, attempt_number, to_number, from_number, node, requested_at)
             select call_queue.organization_id, call_queue.id, agents.id, 1, to_number, '+15005550000', 'node', now()
             from call_queue, agents returning id",
        )
        .await;
    server.execute("update call_queue set status = 'processing', attempt_count = 1").await;
    let call = server.reference("CA1");
    let at = |seconds: i64| Timestamp::from_second(1_767_323_000 + seconds).unwrap();
    let put = async |second: i64, event: CallEvent| {
        lifecycle::record(&server.store, &call, at(second), &event).await.unwrap();
    };
    let interaction = Some(INTERACTION.to_owned());
    let (from, to) = ("+15005550000".to_owned(), "+14155550123".to_owned());
    put(0, CallEvent::Dispatched { attempt, queue, interaction, from, to }).await;
    assert_eq!(status().await, "INITIATED");
    let stream_sid = StreamSid::parse("MZ1").unwrap();
    put(3, CallEvent::StreamStarted { stream_sid, node: "node".into(), token: TOKEN }).await;
    assert_eq!(status().await, "IN_PROGRESS");
    put(4, CallEvent::Connected { token: TOKEN }).await;
    assert_eq!(server.get(&path).await.ok()["data"]["connectedAt"], "2026-01-02T03:03:24Z");
    let (reason, duration) = (EndReason::AgentEnded, Duration::from_secs(180));
    put(183, CallEvent::Ended { token: TOKEN, reason, duration, report: Map::new() }).await;
    let data = server.get(&path).await.ok()["data"].clone();
    assert_eq!(
        (&data["status"], &data["outcome"], &data["duration"]),
        (&json!("COMPLETED"), &json!("SUCCESS"), &json!(180))
    );
    assert_eq!((&data["endTime"], &data["call_sid"]), (&json!("2026-01-02T03:06:23Z"), &json!("CA1")));
    let disposition = json!({
        "disposition": "AGENT_ENDED", "connection_status": "CONNECTED", "call_duration": 180, "keywords_detected": [],
    });
    assert_eq!(data["callDisposition"], disposition);
    let of_queue = async || server.scalar::<String>("select status from call_queue").await;
    assert_eq!(
        of_queue().await,
        "processing",
        "people may have the call now: it is over when the carrier says so"
    );
    server.carrier_says_completed("CA1", at(184)).await;
    assert_eq!(of_queue().await, "completed");

    let seen: Value = server
        .scalar(
            r#"select to_jsonb(seen) from (
                SELECT id, status, channel, "startTime", "endTime", duration, outcome, "callDisposition",
                       LEFT(transcript, 100) as transcript_preview, recording, "paymentDiscussed", "paymentAmount", sentiment
                FROM interactions
                WHERE "customerId" = 'test_customer_001' AND channel = 'VOICE'
                ORDER BY "startTime" DESC
            ) as seen"#,
        )
        .await;
    assert_eq!(
        (&seen["id"], &seen["status"], &seen["duration"]),
        (&json!(INTERACTION), &json!("COMPLETED"), &json!(180))
    );
    assert_eq!(seen["callDisposition"], disposition);
}

#[tokio::test]
async fn the_agent_that_an_interaction_names_speaks_where_it_is_one_of_ours_and_no_other_is_named() {
    let server = Server::new().await;
    let second: Uuid = server
        .scalar(
            "insert into agents (organization_id, name, instructions)
             select id, 'Second', 'Speak.' from organisations returning id",
        )
        .await;
    let agent = Some(server.agent.0);
    for (id, named, asked, speaks) in [
        ("one", Some(second.to_string()), None, Some(second)),
        ("two", Some(second.to_string()), agent, agent),
        ("three", Some("test_agent_001".to_owned()), None, None),
        ("four", None, None, None),
    ] {
        let new = json!({"id": id, "agentId": named});
        server.send(Method::POST, "/api/interactions", Some(new)).await;
        let body = json!({"to": "+14155550123", "agent_id": asked});
        let answer = server.send(Method::POST, &format!("/api/interactions/{id}/dispatch"), Some(body)).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        let row: Option<Uuid> =
            sqlx::query_scalar("select agent_id from call_queue where interaction_id = $1")
                .bind(id)
                .fetch_one(server.store.pool())
                .await
                .unwrap();
        assert_eq!(row, speaks, "{id}");
    }
}

/// How a row of the queue ends without a call.
#[derive(Debug, Clone, Copy)]
enum End {
    Canceled,
    NumberForbidden,
    OptedOutOnAnotherCall,
    CampaignCompleted,
    CampaignCompletedDuringATry,
    LastDayOver,
    RefusedByRule,
    RefusedByCarrier,
    NeverPlaced,
}

#[tokio::test]
async fn an_interaction_whose_call_will_not_be_made_has_failed_for_a_reason_that_people_understand() {
    let over = "the campaign is over";
    let forbidden = "the number is on the do-not-call list";
    for (end, disposition, reason) in [
        (End::Canceled, "CANCELED", "the call was canceled before it was made"),
        (End::NumberForbidden, "BLOCKED_BY_RULE", forbidden),
        (End::OptedOutOnAnotherCall, "BLOCKED_BY_RULE", forbidden),
        (End::CampaignCompleted, "BLOCKED_BY_RULE", over),
        (End::CampaignCompletedDuringATry, "BLOCKED_BY_RULE", over),
        (End::LastDayOver, "BLOCKED_BY_RULE", over),
        (End::RefusedByRule, "BLOCKED_BY_RULE", forbidden),
        (End::RefusedByCarrier, "NOT_PLACED", "that is no telephone"),
        (End::NeverPlaced, "NOT_PLACED", "there is no such call; so it was 5 times in a row"),
    ] {
        let server = Server::new().await;
        let queue = server.dispatched("one").await;
        end.happen(&server, queue).await;
        let status: String =
            server.scalar("select status from call_queue where interaction_id = 'one'").await;
        assert_eq!(status, "failed", "{end:?}");
        let data = server.get("/api/interactions/one").await.ok()["data"].clone();
        assert_eq!((&data["status"], &data["outcome"]), (&json!("FAILED"), &json!("FAILED")), "{end:?}");
        let said =
            json!({"disposition": disposition, "connection_status": "NOT_CONNECTED", "reason": reason});
        assert_eq!(data["callDisposition"], said, "{end:?}");
        assert!(data["endTime"].is_string(), "{end:?}: {data}");
        let followed: i64 = server
            .scalar("select count(*) from call_attempts where will_retry and outcome <> 'not_placed'")
            .await;
        assert_eq!(followed, 0, "{end:?}: no other try follows");
        // What the platform was told stands: another call is another interaction.
        let again = json!({"to": "+14155550124"});
        let answer = server.send(Method::POST, "/api/interactions/one/dispatch", Some(again)).await;
        answer.is_error(StatusCode::CONFLICT, "interaction_not_initiated");
        server.execute("delete from do_not_call; update campaigns set status = 'active'").await;
        let answer = server.send(Method::POST, &format!("/api/queue/{queue}/retry"), None).await;
        let error = answer.is_error(StatusCode::CONFLICT, "interaction_over");
        assert_eq!(error["details"]["status"], "FAILED", "{end:?}");
    }
}

#[tokio::test]
async fn a_call_that_waits_for_its_interaction_can_be_tried_at_once() {
    let server = Server::new().await;
    let queue = server.dispatched("one").await;
    server.execute("update call_queue set next_retry_at = now() + interval '1 day'").await;
    server.send(Method::POST, &format!("/api/queue/{queue}/retry"), None).await.ok();
    assert!(server.scalar::<bool>("select next_retry_at <= now() from call_queue").await);
}

impl End {
    async fn happen(self, server: &Server, queue: Uuid) {
        let store = &server.store;
        let now = Timestamp::now();
        match self {
            Self::Canceled => {
                server.send(Method::DELETE, &format!("/api/queue/{queue}"), None).await.ok();
            }
            Self::NumberForbidden => {
                let entry = json!({"number": "+14155550123"});
                server.send(Method::POST, "/api/do-not-call", Some(entry)).await;
            }
            Self::OptedOutOnAnotherCall => {
                let opted_out =
                    CallEvent::OptedOut { number: "+14155550123".into(), source: OptOutSource::Call };
                lifecycle::record(store, &server.reference("CA7"), now, &opted_out).await.unwrap();
            }
            Self::CampaignCompleted | Self::CampaignCompletedDuringATry | Self::LastDayOver => {
                let campaign = server.campaign_of(queue).await;
                if matches!(self, Self::CampaignCompletedDuringATry) {
                    server.try_of(queue, 1).await;
                }
                if matches!(self, Self::LastDayOver) {
                    server.execute("update campaigns set end_date = '2020-01-01'").await;
                } else {
                    campaigns::step(store, server.organization, campaign, Command::Complete).await.unwrap();
                }
                if matches!(self, Self::CampaignCompletedDuringATry) {
                    // Nobody answered, and it would be tried again.
                    server
                        .execute(
                            "update call_attempts set status = 'ended', outcome = 'no_answer', will_retry = true,
                                 next_retry_at = now(), retry_reason = 'no_answer';
                             update call_queue set status = 'queued'",
                        )
                        .await;
                }
                campaigns::complete_over(store, now).await.unwrap();
                campaigns::fail_left_over(store, Duration::from_secs(60)).await.unwrap();
            }
            Self::RefusedByRule => {
                // By somebody who knows nothing of the queue.
                server
                    .execute("insert into do_not_call (organization_id, number) select id, '+14155550123' from organisations")
                    .await;
                let limits = Limits { interval: Duration::ZERO, max_calls: 1, room: 1 };
                dialing::claim(store, "AC1", "node", Some(now), &limits).await.unwrap();
            }
            Self::RefusedByCarrier => {
                let attempt = server.try_of(queue, 1).await;
                assert!(attempts::refuse(store, attempt, "that is no telephone", now).await.unwrap());
            }
            Self::NeverPlaced => {
                for number in 1..=5 {
                    let attempt = server.try_of(queue, number).await;
                    assert!(
                        attempts::not_placed(store, attempt, "there is no such call", now).await.unwrap()
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn an_interaction_is_dispatched_once_and_only_while_it_is_initiated() {
    let server = Server::new().await;
    let dispatch = async |id: &str, body: Value| {
        server.send(Method::POST, &format!("/api/interactions/{id}/dispatch"), Some(body)).await
    };
    let call = || json!({"to": "+14155550123"});
    dispatch("none", call()).await.is_error(StatusCode::CONFLICT, "interaction_unknown");
    for id in ["a", "b"] {
        let created = server.send(Method::POST, "/api/interactions", Some(json!({"id": id}))).await;
        assert_eq!(created.status, StatusCode::CREATED);
    }
    for (bad, code) in [
        (json!({"to": "anonymous"}), "invalid_value"),
        (json!({"to": "+14155550123", "lead_id": 7}), "unknown_lead"),
        (json!({"to": "+14155550123", "agent_id": Uuid::nil()}), "unknown_agent"),
    ] {
        dispatch("a", bad).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, code);
    }
    server.send(Method::POST, "/api/do-not-call", Some(json!({"number": "+14155550199"}))).await;
    let forbidden = json!({"to": "+14155550199"});
    dispatch("a", forbidden).await.is_error(StatusCode::CONFLICT, "do_not_call");
    let noted =
        "select count(*) from interactions where \"dispatchedAt\" is not null or \"phoneNumber\" is not null";
    assert_eq!(server.scalar::<i64>(noted).await, 0);
    assert_eq!(server.scalar::<i64>("select count(*) from call_queue").await, 0);
    assert_eq!(dispatch("a", call()).await.status, StatusCode::ACCEPTED, "what was refused changed nothing");
    dispatch("a", call()).await.is_error(StatusCode::CONFLICT, "interaction_dispatched");
    for status in ["IN_PROGRESS", "COMPLETED", "FAILED"] {
        server.execute(&format!("update interactions set status = '{status}' where id = 'b'")).await;
        let error = dispatch("b", call()).await.is_error(StatusCode::CONFLICT, "interaction_not_initiated");
        assert_eq!(error["details"]["status"], status);
    }
    let inbound = json!({"id": "c", "direction": "INBOUND"});
    assert_eq!(
        server.send(Method::POST, "/api/interactions", Some(inbound)).await.status,
        StatusCode::CREATED
    );
    dispatch("c", call()).await.is_error(StatusCode::CONFLICT, "interaction_inbound");
    assert_eq!(server.scalar::<i64>("select count(*) from call_queue").await, 1);
}

#[tokio::test]
async fn interactions_are_listed_newest_first_and_bad_ones_are_refused() {
    let server = Server::new().await;
    let post = async |body: Value| server.send(Method::POST, "/api/interactions", Some(body)).await;
    for (id, customer, start) in [
        ("a", "x", "2025-01-01T00:00:00Z"),
        ("b", "y", "2025-01-03T00:00:00Z"),
        ("c", "x", "2025-01-02T00:00:00Z"),
    ] {
        let new = json!({"id": id, "customerId": customer, "startTime": start, "direction": "INBOUND"});
        assert_eq!(post(new).await.status, StatusCode::CREATED);
    }
    let ids = async |query: &str| {
        let list = server.get(&format!("/api/interactions{query}")).await.ok();
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids("").await, ["b", "c", "a"]);
    assert_eq!(ids("?customerId=x").await, ["c", "a"]);
    assert_eq!(ids("?status=FAILED").await.len(), 0);
    assert_eq!(ids("?from=2025-01-02T00:00:00Z&to=2025-01-03T00:00:00Z").await, ["c"]);
    assert!(!post(json!({})).await.json()["data"]["id"].as_str().unwrap().is_empty(), "ours");
    post(json!({"id": "a"})).await.is_error(StatusCode::CONFLICT, "interaction_exists");
    for bad in [
        json!({"id": "a b"}),
        json!({"id": ""}),
        json!({"direction": "UP"}),
        json!({"phoneNumber": "7"}),
        json!({"customerId": "x".repeat(201)}),
    ] {
        post(bad).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    }
    post(json!({"status": "COMPLETED"})).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    server.get("/api/interactions/none").await.is_error(StatusCode::NOT_FOUND, "not_found");
    server.get("/api/interactions?status=over").await.is_error(StatusCode::BAD_REQUEST, "invalid_query");
}

#[tokio::test]
async fn another_organisations_records_do_not_exist() {
    let server = Server::new().await;
    let theirs = server.other_tenant().await;
    let call = CallRef { call_sid: CallSid::parse("CA9").unwrap(), ..theirs.clone() };
    let incoming =
        CallEvent::Incoming { phone_number: None, from: "a".into(), to: "b".into(), to_team: false };
    lifecycle::record(&server.store, &call, Timestamp::now(), &incoming).await.unwrap();
    server
        .execute(&format!(
            "insert into interactions (id, organization_id) values ('theirs', '{}')",
            theirs.organization.0
        ))
        .await;
    for path in ["/api/calls", "/api/call-logs", "/api/agent-calls", "/api/interactions"] {
        assert_eq!(server.get(path).await.ok()["pagination"]["total"], 0, "{path}");
    }
    for path in ["/api/calls/CA9", "/api/call-logs/CA9", "/api/interactions/theirs"] {
        server.get(path).await.is_error(StatusCode::NOT_FOUND, "not_found");
    }
    let dispatch =
        server.send(Method::POST, "/api/interactions/theirs/dispatch", Some(json!({"to": "+14155550123"})));
    dispatch.await.is_error(StatusCode::CONFLICT, "interaction_unknown");
    for path in ["/api/calls", "/api/call-logs", "/api/agent-calls", "/api/interactions", "/api/calls/CA9"] {
        let answer = server.raw(Method::GET, path, &[], Body::empty()).await;
        answer.is_error(StatusCode::UNAUTHORIZED, "unauthorized");
    }
}

// ---- Helpers ---------------------------------------------------------------------------------------------------------

struct Server {
    http: surface::Server,
    organization: OrganizationId,
    agent: AgentId,
}

impl Deref for Server {
    type Target = surface::Server;

    fn deref(&self) -> &surface::Server {
        &self.http
    }
}

impl Server {
    async fn carrier_says_completed(&self, call_sid: &str, at: Timestamp) {
        let callback = CarrierEvent {
            organization: None,
            call_sid: CallSid::parse(call_sid).unwrap(),
            call_status: Some("completed".to_owned()),
            to: None,
            from: None,
            direction: None,
            duration_s: Some(181),
            sequence_number: Some(3),
            event_time: Some(at),
            sip_response_code: None,
            answered_by: None,
            payload: json!({}),
        };
        lifecycle::callback::record(&self.store, &callback, at).await.unwrap();
    }

    async fn new() -> Self {
        let http = surface::Server::new().await;
        let agent = agents::default_agent(&http.store).await.unwrap().unwrap();
        let own = PhoneNumber::parse(OWN).unwrap();
        phone_numbers::create(&http.store, agent.organization_id, agent.id, &own, "").await.unwrap();
        Self { http, organization: agent.organization_id, agent: agent.id }
    }

    /// A new interaction whose call waits in the queue, which is returned.
    async fn dispatched(&self, id: &str) -> Uuid {
        let created = self.send(Method::POST, "/api/interactions", Some(json!({"id": id}))).await;
        assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
        let path = format!("/api/interactions/{id}/dispatch");
        let queued = self.send(Method::POST, &path, Some(json!({"to": "+14155550123"}))).await;
        assert_eq!(queued.status, StatusCode::ACCEPTED, "{}", queued.text);
        queued.json()["data"]["queue_id"].as_str().unwrap().parse().unwrap()
    }

    /// Makes the row one of an active campaign.
    async fn campaign_of(&self, queue: Uuid) -> Uuid {
        sqlx::query_scalar(
            "with campaign as (
                 insert into campaigns (organization_id, name, status)
                 select organization_id, 'May', 'active' from call_queue where id = $1 returning id
             )
             update call_queue set campaign_id = campaign.id from campaign where call_queue.id = $1
             returning campaign_id",
        )
        .bind(queue)
        .fetch_one(self.store.pool())
        .await
        .unwrap()
    }

    /// A try of the row that the carrier is being asked for.
    async fn try_of(&self, queue: Uuid, number: i32) -> Uuid {
        sqlx::query_scalar(
            "with row as (
                 update call_queue set status = 'processing', attempt_count = $2 where id = $1 returning *
             )
             insert into call_attempts (organization_id, queue_id, agent_id, attempt_number, to_number, from_number, node,
                                        requested_at)
             select organization_id, id, $3, $2, to_number, $4, 'node', now() from row returning id",
        )
        .bind(queue)
        .bind(number)
        .bind(self.agent.0)
        .bind(OWN)
        .fetch_one(self.store.pool())
        .await
        .unwrap()
    }

    async fn sids(&self, path: &str) -> Vec<String> {
        let list = self.get(path).await.ok();
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["call_sid"].as_str().unwrap().to_owned())
            .collect()
    }

    fn reference(&self, sid: &str) -> CallRef {
        CallRef { call_sid: CallSid::parse(sid).unwrap(), organization: self.organization, agent: self.agent }
    }

    /// A call that came in then, and perhaps has ended.
    async fn call(&self, sid: &str, end: Option<EndReason>, seconds: u64, created: &str) -> CallRef {
        let call = self.reference(sid);
        let at: Timestamp = created.parse().unwrap();
        let (from, to) = ("+14155550123".to_owned(), "+15005550000".to_owned());
        let incoming = CallEvent::Incoming { phone_number: None, from, to, to_team: false };
        lifecycle::record(&self.store, &call, at, &incoming).await.unwrap();
        if let Some(reason) = end {
            let (duration, report) = (Duration::from_secs(seconds), Map::new());
            let ended = CallEvent::Ended { token: TOKEN, reason, duration, report };
            lifecycle::record(&self.store, &call, at, &ended).await.unwrap();
        }
        self.execute(&format!("update calls set created_at = '{created}' where call_sid = '{sid}'")).await;
        call
    }

    async fn other_tenant(&self) -> CallRef {
        let (organization, agent): (Uuid, Uuid) = sqlx::query_as(
            "with o as (insert into organisations (slug, name) values ('other', 'Other') returning id)
             insert into agents (organization_id, name, instructions) select id, 'Other', 'Speak.' from o
             returning organization_id, id",
        )
        .fetch_one(self.store.pool())
        .await
        .unwrap();
        CallRef { organization: organization.into(), agent: agent.into(), ..self.reference("CA0") }
    }
}

impl Answer {
    fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()
    }
}
