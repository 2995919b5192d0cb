//! How a call on one of our numbers goes, from its first ring.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use secrecy::SecretString;
use serde_json::{Map, json};
use uuid::Uuid;
use voicebridge::call::end::EndReason;
use voicebridge::lifecycle::{self, CallEvent, CallRef};
use voicebridge::store::Store;
use voicebridge::store::cluster::PrivateCluster;

use crate::server::Server;
use crate::support;

const SID: &str = "CA00000000000000000000000000000001";

#[tokio::test]
async fn a_team_that_does_not_answer_leaves_the_call_to_the_agent() {
    let server = Server::new().await;
    let line = server.line().await;
    server.at("2024-10-30T09:00:00Z"); // A Wednesday, 10:00 there.
    let answer = server.rings(&line, SID).await;
    assert_eq!(answer.headers["content-type"], "text/xml; charset=utf-8");
    assert_eq!(answer.text, line.rings_the_team());
    let record = server.record(SID).await;
    assert_eq!(record.call_sid.unwrap().as_str(), SID);
    assert_eq!(record.phone_number_id.unwrap().to_string(), line.number);
    assert_eq!(record.agent_id.to_string(), line.agent);
    assert_eq!(record.routing_status.as_deref(), Some("transferred_to_team"));

    server.at("2024-10-30T09:00:30Z");
    let token = server.rang(&line, SID, "no-answer", "in-progress").await.stream_token();
    assert_eq!(server.routing_status(SID).await, "team_no_answer");

    let claimed = server.claim(&token).await;
    assert_eq!(claimed.agent.to_string(), line.agent);
    let call =
        CallRef { call_sid: claimed.call_sid, organization: claimed.organization, agent: claimed.agent };
    let ended = CallEvent::Ended {
        token: claimed.fencing_token,
        reason: EndReason::AgentEnded,
        duration: Duration::from_secs(270),
        report: Map::new(),
    };
    lifecycle::record(&server.store, &call, "2024-10-30T09:05:00Z".parse().unwrap(), &ended).await.unwrap();

    let record = server.record(SID).await;
    assert_eq!(record.routing_status.as_deref(), Some("completed"));
    let expected = json!([
        {"type": "incoming_call", "timestamp": "2024-10-30T09:00:00Z",
         "details": {"from": "+1234567890", "to": "+1987654321"}},
        {"type": "team_no_answer", "timestamp": "2024-10-30T09:00:30Z", "details": {"dial_status": "no-answer"}},
        {"type": "agent_call_completed", "timestamp": "2024-10-30T09:05:00Z", "details": record.data},
    ]);
    assert_eq!(record.event_sequence, expected);
    assert_eq!(
        (&record.data["call"]["status"], &record.data["call"]["duration"]),
        (&json!("completed"), &json!(270))
    );

    let log = server.get(&format!("/api/calls/{SID}/routing")).await.data();
    let expected = json!([
        {"step": "incoming", "decision": "team", "reason": "in_business_hours", "decided_at": "2024-10-30T09:00:00Z",
         "details": {"agent": "agent_well", "time_zone": "Europe/Berlin", "time_there": "2024-10-30T10:00",
                     "span": "09:00-12:00", "team_id": line.team, "telephones": 2}},
        {"step": "fallback", "decision": "agent", "reason": "team_no_answer", "decided_at": "2024-10-30T09:00:30Z",
         "details": {"agent": "agent_well", "dial_status": "no-answer"}},
    ]);
    assert_eq!(log, expected);
}

#[tokio::test]
async fn outside_of_the_teams_hours_the_agent_answers_at_once() {
    let server = Server::new().await;
    let line = server.line().await;
    server.at("2024-10-30T05:00:00Z");
    let token = server.rings(&line, SID).await.stream_token();
    assert_eq!(server.claim(&token).await.agent.to_string(), line.agent);
    assert_eq!(server.routing_status(SID).await, "direct_to_agent");
    assert_eq!(server.decisions(SID).await, ["incoming agent out_of_hours"]);
}

#[tokio::test]
async fn whatever_keeps_the_team_from_answering_brings_the_agent() {
    let server = Server::new().await;
    let line = server.line().await;
    for (sid, status) in [("CA1", "busy"), ("CA2", "failed"), ("CA3", "canceled"), ("CA4", "no-answer")] {
        assert_eq!(server.rings(&line, sid).await.text, line.rings_the_team());
        server.rang(&line, sid, status, "in-progress").await.connects();
        assert_eq!(server.routing_status(sid).await, "team_no_answer", "{status}");
        let sequence = server.record(sid).await.event_sequence;
        assert_eq!(sequence[1]["details"], json!({"dial_status": status}));
    }
}

#[tokio::test]
async fn when_the_team_has_spoken_with_the_caller_the_call_ends_as_the_carrier_says() {
    let server = Server::new().await;
    let line = server.line().await;
    // The carrier may say so before it asks what follows, or after it.
    for (sid, first) in [("CA1", false), ("CA2", true)] {
        server.rings(&line, sid).await;
        if first {
            server.status(sid, "completed").await;
        }
        server.rang(&line, sid, "completed", "in-progress").await.hangs_up();
        if !first {
            assert_eq!(server.routing_status(sid).await, "transferred_to_team");
            assert_eq!(
                server.record(sid).await.data,
                json!({}),
                "the call goes on until the carrier says so"
            );
            server.status(sid, "completed").await;
        }
        let record = server.record(sid).await;
        assert_eq!(record.data["call"]["endedReason"], "transferred", "{sid}");
        assert_eq!(record.data["call"]["duration"], 70, "{sid}");
        assert_eq!(record.routing_status.as_deref(), Some("completed"));
        let mut events = server.events(sid).await;
        events.sort();
        assert_eq!(events, ["agent_call_completed", "handoff_ended", "incoming_call", "transferred"]);
        assert_eq!(server.people_of(sid).await, ["1 completed CA7 42 team_answered"], "{sid}");
        assert_eq!(server.decisions(sid).await[1], "fallback hang_up team_answered");
    }
    assert_eq!(server.count("call_leases").await, 0, "the agent has nothing to do with it");
}

#[tokio::test]
async fn a_call_that_people_answer_first_is_with_them_until_the_carrier_or_they_say_otherwise() {
    let server = Server::new().await;
    let line = server.line().await;
    let is_refused = async |sid: &str, command: &str, code: &str| {
        let answer = server.post(&format!("/api/calls/{sid}/{command}"), json!({})).await;
        answer.is_error(StatusCode::CONFLICT, code);
    };
    server.rings(&line, "CA1").await;
    is_refused("CA1", "transfer", "call_with_people").await;
    // That is for the carrier to do, and this server has no account with it.
    is_refused("CA1", "hang-up", "carrier_not_configured").await;
    server.status("CA1", "completed").await;
    is_refused("CA1", "hang-up", "call_not_live").await;
    server.rings(&line, "CA2").await;
    server.rang(&line, "CA2", "no-answer", "in-progress").await.connects();
    let withdrawn = server.post("/api/calls/CA2/transfer", json!({})).await;
    withdrawn.is_error(StatusCode::GATEWAY_TIMEOUT, "command_not_taken");
    assert_eq!(server.count("call_commands").await, 1, "what is refused at once is not wanted of anybody");
}

#[tokio::test]
async fn a_caller_who_does_not_wait_for_the_team_has_hung_up_and_no_agent_is_called() {
    let server = Server::new().await;
    let line = server.line().await;
    for (sid, first) in [("CA1", false), ("CA2", true)] {
        server.rings(&line, sid).await;
        if first {
            server.status(sid, "no-answer").await;
        }
        server.rang(&line, sid, "canceled", "no-answer").await.hangs_up();
        let record = server.record(sid).await;
        assert_eq!(record.data["call"]["endedReason"], "caller_hung_up", "{sid}");
        assert_eq!(server.events(sid).await, ["incoming_call", "agent_call_completed"]);
        assert_eq!(server.decisions(sid).await[1], "fallback hang_up caller_left");
        assert!(server.people_of(sid).await.is_empty());
    }
    assert_eq!(server.count("call_leases").await, 0);
}

#[tokio::test]
async fn a_repeated_webhook_gets_the_same_answer_and_leaves_no_second_record() {
    let server = Server::new().await;
    let line = server.line().await;
    server.at("2024-10-30T10:59:59Z");
    let first = server.rings(&line, SID).await.text;
    server.at("2024-10-30T11:00:01Z"); // The team's hours are over.
    assert_eq!(server.rings(&line, SID).await.text, first);
    assert_eq!(
        server.rings(&line, "CA2").await.text.matches("<Dial").count(),
        0,
        "another call is the agent's"
    );
    for _ in 0..2 {
        server.rang(&line, SID, "no-answer", "in-progress").await.connects();
    }
    assert_eq!(server.rings(&line, SID).await.text, first, "also late");
    assert_eq!(
        server.decisions(SID).await,
        ["incoming team in_business_hours", "fallback agent team_no_answer"]
    );
    assert_eq!(server.routing_status(SID).await, "team_no_answer");
    let events = server.events(SID).await;
    assert_eq!(events[..2], ["incoming_call", "team_no_answer"], "{events:?}");

    // The other way round: what was the agent's stays the agent's in the team's hours.
    server.at("2024-10-30T07:59:59Z");
    server.rings(&line, "CA3").await.connects();
    server.at("2024-10-30T08:00:01Z");
    server.rings(&line, "CA3").await.connects();
    assert_eq!(server.decisions("CA3").await, ["incoming agent out_of_hours"]);
    assert_eq!(server.events("CA3").await, ["incoming_call"]);
}

#[tokio::test]
async fn a_call_that_is_over_is_left_alone_by_what_comes_late() {
    let server = Server::new().await;
    let line = server.line().await;
    server.rings(&line, SID).await;
    let token = server.rang(&line, SID, "no-answer", "in-progress").await.stream_token();
    server.claim(&token).await;
    let before = server.record(SID).await;
    server.rang(&line, SID, "no-answer", "completed").await.hangs_up();
    assert_eq!(server.record(SID).await, before, "the agent's stream ends its call itself");
}

#[tokio::test]
async fn a_number_that_does_not_exist_and_requests_that_make_no_sense_are_refused() {
    let server = Server::new().await;
    let path = format!("/api/phone-number/{}/incoming", Uuid::nil());
    for path in [path.clone(), format!("{path}/fallback")] {
        server.twilio(&path, &[("CallSid", SID)]).await.speaks("This number cannot take calls right now.");
        server.twilio(&path, &[]).await.is_error(StatusCode::BAD_REQUEST, "invalid_call_sid");
    }
    server
        .twilio("/api/phone-number/7/incoming", &[("CallSid", SID)])
        .await
        .is_error(StatusCode::BAD_REQUEST, "invalid_path");
    assert_eq!(server.count("calls").await, 0);
    server.get("/api/calls/CA404/routing").await.is_error(StatusCode::NOT_FOUND, "not_found");
    server.get("/api/calls/a%20b/routing").await.is_error(StatusCode::BAD_REQUEST, "invalid_path");
}

#[tokio::test]
async fn only_the_carrier_brings_calls_and_only_the_key_opens_the_log() {
    let server = Server::on(support::store(4).await, |settings| {
        settings.twilio_auth_tokens = vec![SecretString::from("12345")];
    });
    let line = server.line().await;
    server.rings(&line, SID).await.is_error(StatusCode::FORBIDDEN, "invalid_signature");
    server
        .rang(&line, SID, "completed", "completed")
        .await
        .is_error(StatusCode::FORBIDDEN, "invalid_signature");
    assert_eq!((server.count("calls").await, server.count("routing_decisions").await), (0, 0));
    let path = format!("/api/calls/{SID}/routing");
    let answer = server.raw(Method::GET, &path, &[], Body::empty()).await;
    answer.is_error(StatusCode::UNAUTHORIZED, "unauthorized");
}

#[tokio::test]
async fn while_the_database_is_away_calls_go_where_they_went_when_it_was_last_asked() {
    let cluster = PrivateCluster::start_throwaway().await.unwrap();
    let store = Store::connect(cluster.connect_options(), 4).await.unwrap();
    store.migrate().await.unwrap();
    let server = Server::on(store, |_| {});
    let line = server.line().await;
    server.rings(&line, "CA1").await;
    // Changed after the last call, and known all the same.
    let members = json!({"members": [{"number": "+14155550103"}]});
    server.patch(&format!("/api/teams/{}", line.team), members).await.data();
    let friday = json!({"spans": [{"weekday": 5, "opens": "09:00", "closes": "12:00"}]});
    server.patch(&format!("/api/schedules/{}", line.schedule), friday).await.data();
    cluster.stop().await.unwrap();

    server.at("2024-11-01T10:00:00Z"); // Friday.
    assert_eq!(server.rings(&line, "CA2").await.text, line.dials("20", &["+14155550103"]));
    server.rang(&line, "CA2", "completed", "in-progress").await.hangs_up();
    server.rang(&line, "CA2", "canceled", "no-answer").await.hangs_up();
    let elsewhere = format!("/api/phone-number/{}/incoming", Uuid::nil());
    server.twilio(&elsewhere, &[("CallSid", "CA4")]).await.speaks("We are sorry, something went wrong");
    server.at("2024-10-30T09:00:00Z"); // Wednesday.
    server.rings(&line, "CA3").await.connects();
    server.rang(&line, "CA5", "no-answer", "in-progress").await.connects();
}
