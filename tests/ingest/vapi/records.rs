//! What a report makes of the records of a call.

use axum::http::StatusCode;
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use voicebridge::call::end::EndReason;
use voicebridge::ids::StreamSid;
use voicebridge::lifecycle::{self, CallEvent};
use voicebridge::store::leases::{self, FencingToken};

use super::{CALLER, OURS, SID, Server, VAPI_ID, callback, is_end, is_report, moment, report, words};

#[tokio::test]
async fn a_report_makes_the_record_of_a_call_that_nothing_was_known_of() {
    let server = Server::new().await;
    server
        .execute(&format!(
            "insert into leads (organization_id, phone) values ('{}', '{CALLER}')",
            server.organization
        ))
        .await;
    server.post("/api/phone-numbers", json!({"number": OURS, "agent_id": server.agent})).await;
    assert_eq!(server.outcome(&report(1)).await, "created");
    is_report(&server, 1).await;
    let row = server.row().await;
    assert_eq!(moment(row["created_at"].as_str().unwrap()), moment("2024-10-30T09:00:00Z"));
    assert_eq!(row["agent_id"], json!(server.agent));
    let number: uuid::Uuid = server.scalar("select id from phone_numbers").await;
    assert_eq!(row["phone_number_id"], json!(number));
    // The caller's lead is linked, and the log says so.
    let linked: String = server.scalar("select call_sid from leads").await;
    assert_eq!(linked, SID);
    let same: bool = server.scalar("select (select lead_id from call_logs) = (select id from leads)").await;
    assert!(same);
    // It is read as any other call.
    let call = server.get(&format!("/api/calls/{SID}")).await.data();
    assert_eq!(call["data"]["call"]["vapi"], json!({"status": "ended"}));
    assert_eq!(server.get("/api/calls?status=completed").await.json()["pagination"]["total"], 1);
}

#[tokio::test]
async fn a_repeated_report_changes_nothing_a_newer_one_takes_its_place_and_an_older_one_does_not() {
    let server = Server::new().await;
    assert_eq!(server.outcome(&report(3)).await, "created");
    let before = server.row().await;
    assert_eq!(server.outcome(&report(3)).await, "known");
    assert_eq!(server.row().await, before);
    assert_eq!(server.outcome(&report(5)).await, "written");
    is_report(&server, 5).await;
    assert_eq!(server.outcome(&report(4)).await, "known");
    is_report(&server, 5).await;
    // A newer report may say less, too.
    let mut shorter = report(6);
    shorter["artifact"]["messages"] = json!([{"role": "bot", "message": "Hello."}]);
    assert_eq!(server.outcome(&shorter).await, "written");
    assert_eq!(server.said(SID).await, ["assistant: Hello."]);
    let log: String = server.scalar("select conversation_transcript from call_logs").await;
    assert_eq!(log, "Agent: Hello.");
}

#[tokio::test]
async fn of_two_reports_of_one_moment_the_one_that_says_more_stands_whichever_comes_first() {
    let (short, mut long) = (report(1), report(1));
    long["analysis"]["structuredData"] = json!({"wants": "an offer"});
    for order in [[&short, &long], [&long, &short]] {
        let server = Server::new().await;
        for message in order {
            server.outcome(message).await;
        }
        assert_eq!(server.row().await["data"]["analysis"], long["analysis"]);
    }
}

#[tokio::test]
async fn twenty_reports_at_once_are_one_row_with_one_end() {
    let server = Server::new().await;
    let reports: Vec<_> = (0..20).map(|number| report(number % 7)).collect();
    join_all(reports.iter().map(|message| server.outcome(message))).await;
    is_report(&server, 6).await;
    // The same of one report, of another call.
    let server = Server::new().await;
    let message = report(2);
    let outcomes = join_all((0..20).map(|_| server.outcome(&message))).await;
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "created").count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "known").count(), 19);
    is_report(&server, 2).await;
}

#[tokio::test]
async fn the_calls_of_a_line_whose_team_does_not_answer_and_whose_agent_is_at_vapi_are_recorded_whole() {
    let server = Server::new().await;
    let add = async |path: &str, body: Value| -> String {
        let answer = server.post(path, body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        answer.json()["data"]["id"].as_str().unwrap().to_owned()
    };
    let team = json!({"name": "Front desk", "ring_timeout_s": 20, "members": [{"number": "+14155550101"}]});
    let team = add("/api/teams", team).await;
    let spans: Vec<_> =
        (1..=5).map(|day| json!({"weekday": day, "opens": "09:00", "closes": "17:30"})).collect();
    let schedule = json!({"name": "Office", "time_zone": "Europe/Berlin", "spans": spans});
    let schedule = add("/api/schedules", schedule).await;
    let number = json!({"number": OURS, "agent_id": server.agent, "schedule_id": schedule, "team_id": team});
    let number = add("/api/phone-numbers", number).await;
    let path = format!("/api/phone-number/{number}/incoming");

    server.at("2024-10-30T09:00:00Z");
    let ringing = [("CallSid", SID), ("From", CALLER), ("To", OURS), ("CallStatus", "ringing")];
    let answer = server.twilio(&path, &ringing).await;
    assert!(answer.text.contains("<Dial"), "{}", answer.text);
    assert_eq!(server.row().await["routing_status"], "transferred_to_team");
    server.at("2024-10-30T09:00:30Z");
    let rang = [("CallSid", SID), ("DialCallStatus", "no-answer"), ("CallStatus", "in-progress")];
    server.twilio(&format!("{path}/fallback"), &rang).await.stream_token();
    assert_eq!(server.row().await["routing_status"], "team_no_answer");
    assert_eq!(server.outcome(&report(1)).await, "written");
    is_report(&server, 1).await;

    let row = server.row().await;
    assert_eq!(
        row["event_sequence"],
        json!([
            {"type": "incoming_call", "timestamp": "2024-10-30T09:00:00Z", "details": {"from": CALLER, "to": OURS}},
            {"type": "team_no_answer", "timestamp": "2024-10-30T09:00:30Z", "details": {"dial_status": "no-answer"}},
            {"type": "agent_call_completed", "timestamp": "2024-10-30T09:05:00Z", "details": row["data"]},
        ])
    );
    assert_eq!((&row["phone_number_id"], &row["routing_status"]), (&json!(number), &json!("completed")));
    let shown = server.get(&format!("/api/calls/{SID}")).await.data();
    assert_eq!((&shown["event_sequence"], &shown["data"]), (&row["event_sequence"], &row["data"]));
    // What the carrier says afterwards changes nothing of it.
    callback(&server, "completed", "2").await;
    assert_eq!(server.row().await["event_sequence"], row["event_sequence"]);
    is_report(&server, 1).await;
}

// ---- What is kept of it ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_repeated_report_is_known_however_little_is_still_kept_of_it() {
    let mut strange = report(2);
    strange["analysis"]["summary"] = json!("a\u{0}b");
    for (message, redacts) in [(report(2), false), (report(2), true), (strange, false)] {
        let server = Server::new().await;
        if redacts {
            server.execute("update agents set redact = '{payment_card,phone_number}'").await;
        }
        assert_eq!(server.outcome(&message).await, "created");
        let before = server.row().await;
        assert_eq!(server.outcome(&message).await, "known");
        assert_eq!(server.row().await, before);
        // Words and payloads have grown old.
        server
            .execute(
                "update calls set data = jsonb_build_object('call', data->'call'),
                     event_sequence = (
                         select jsonb_agg(jsonb_set(event, '{details}', jsonb_build_object('call', event->'details'->'call')))
                         from jsonb_array_elements(event_sequence) as event
                     );
                 delete from conversation_transcripts;
                 update call_logs set conversation_transcript = null, transcript_revision = 0",
            )
            .await;
        let before = server.row().await;
        for repeated in [&message, &report(1)] {
            assert_eq!(server.outcome(repeated).await, "known");
        }
        assert_eq!((server.row().await, server.count("conversation_transcripts").await), (before, 0));
        // It is VAPI's all the same: it says why, and gives way to whoever carried the call here.
        lifecycle::callback::catch_up(&server.store, &server.call().call_sid).await.unwrap();
        let notes: String = server.scalar("select disconnect_notes from call_logs").await;
        assert_eq!(notes, "VAPI: customer-ended-call");
        our_agent(&server).await;
        our_agent_ends(&server).await;
        let row = server.row().await;
        assert_eq!((&row["data"]["turns"], &row["data"]["vapi"]["call"]["id"]), (&json!(7), &json!(VAPI_ID)));
    }
}

#[tokio::test]
async fn a_report_is_kept_also_where_what_follows_from_it_cannot_be() {
    let server = Server::new().await;
    server
        .execute(
            "create function in_the_way() returns trigger language plpgsql as
                 $$ begin raise unique_violation; end $$;
             create trigger in_the_way before insert on call_logs for each row execute function in_the_way()",
        )
        .await;
    assert_eq!(server.outcome(&report(1)).await, "created");
    assert_eq!(server.row().await["data"]["analysis"], report(1)["analysis"]);
    assert_eq!((server.said(SID).await, server.count("call_logs").await), (words(1), 0));
    // What follows from it follows when it can.
    server.execute("drop trigger in_the_way on call_logs").await;
    callback(&server, "completed", "2").await;
    is_report(&server, 1).await;
}

#[tokio::test]
async fn a_call_of_the_carrier_is_found_by_its_sid_and_its_routing_is_completed() {
    let server = Server::new().await;
    server
        .twilio("/media-stream-twiml", &[("CallSid", SID), ("From", CALLER), ("To", OURS)])
        .await
        .stream_token();
    assert_eq!(server.row().await["routing_status"], "direct_to_agent");
    // An assistant that is nobody's: the call is known all the same.
    let mut message = report(0);
    message["call"]["assistantId"] = json!("asst_unknown");
    assert_eq!(server.outcome(&message).await, "written");
    is_report(&server, 0).await;
    // Nobody waits any more for the stream that was offered.
    let open: i64 = server.scalar("select count(*) from call_leases where ended_at is null").await;
    assert_eq!(open, 0);
}

#[tokio::test]
async fn what_the_carrier_alone_said_of_the_end_gives_way_to_the_report() {
    let server = Server::new().await;
    let incoming =
        CallEvent::Incoming { phone_number: None, from: CALLER.into(), to: OURS.into(), to_team: false };
    server.record("2024-10-30T09:00:00Z", &incoming).await;
    callback(&server, "completed", "2").await;
    let row = server.row().await;
    assert!(row["event_sequence"].as_array().unwrap().iter().any(is_end), "the carrier has ended it");
    assert_eq!(server.outcome(&report(0)).await, "written");
    is_report(&server, 0).await;
    assert!(server.row().await["data"].get("carrier_status").is_none());
}

#[tokio::test]
async fn a_call_that_failed_at_vapi_is_completed_by_its_agent_and_failed_in_its_report() {
    let server = Server::new().await;
    let mut message = report(0);
    message["endedReason"] = json!("pipeline-error-openai-llm-failed");
    server.outcome(&message).await;
    let row = server.row().await;
    assert_eq!(row["data"]["call"]["status"], "failed");
    assert_eq!(
        (&row["routing_status"], &row["event_sequence"][0]["type"]),
        (&json!("completed"), &json!("agent_call_completed"))
    );
    let log: Value = server.scalar("select to_jsonb(call_logs) from call_logs").await;
    assert_eq!((&log["status"], &log["disconnect_reason"]), (&json!("failed"), &json!("model_failed")));
    assert_eq!(log["disconnect_notes"], "VAPI: pipeline-error-openai-llm-failed");
}

#[tokio::test]
async fn an_interaction_that_the_call_was_made_for_is_completed_by_the_report() {
    let server = Server::new().await;
    let made = server.post("/api/interactions", json!({"id": "i1"})).await;
    assert!(made.status.is_success(), "{}", made.text);
    server.execute(&format!("update interactions set call_sid = '{SID}'")).await;
    server.outcome(&report(0)).await;
    let interaction = server.get("/api/interactions/i1").await.data();
    assert_eq!((&interaction["status"], &interaction["outcome"]), (&json!("COMPLETED"), &json!("SUCCESS")));
    assert_eq!(interaction["callDisposition"]["connection_status"], "CONNECTED");
    assert_eq!(interaction["callDisposition"]["call_duration"], 300);
}

// ---- Two agents ------------------------------------------------------------------------------------------------------

/// Something that our own agent tells of the call.
pub(super) async fn our_agent(server: &Server) {
    server
        .twilio("/media-stream-twiml", &[("CallSid", SID), ("From", CALLER), ("To", OURS)])
        .await
        .stream_token();
    server.execute("update call_leases set claimed_at = now()").await;
    let token = FencingToken(1);
    let stream_sid = StreamSid::parse("MZ1").unwrap();
    let started = CallEvent::StreamStarted { stream_sid, node: "node-1".to_owned(), token };
    server.record("2024-10-30T09:00:01Z", &started).await;
}

pub(super) async fn our_agent_ends(server: &Server) {
    let token = FencingToken(1);
    let report = Map::from_iter([("turns".to_owned(), json!(7))]);
    let duration = std::time::Duration::from_secs(90);
    let ended = CallEvent::Ended { token, reason: EndReason::AgentEnded, duration, report };
    server.record("2024-10-30T09:01:31Z", &ended).await;
}

#[tokio::test]
async fn where_our_own_agent_carried_the_call_its_report_stands_and_vapis_is_kept_beside_it() {
    let mut rows = Vec::new();
    for order in ["vapi first", "vapi meanwhile", "vapi last", "vapi twice"] {
        let server = Server::new().await;
        if matches!(order, "vapi first" | "vapi twice") {
            assert_eq!(server.outcome(&report(1)).await, "created");
        }
        our_agent(&server).await;
        if matches!(order, "vapi meanwhile" | "vapi twice") {
            let again = if order == "vapi twice" { 2 } else { 1 };
            assert_eq!(server.outcome(&report(again)).await, "beside");
            let row = server.row().await;
            assert!(
                !row["event_sequence"].as_array().unwrap().iter().any(is_end),
                "it goes on here: {order}"
            );
        }
        our_agent_ends(&server).await;
        if matches!(order, "vapi last" | "vapi twice") {
            assert_eq!(server.outcome(&report(if order == "vapi twice" { 3 } else { 1 })).await, "beside");
        }
        let row = server.row().await;
        let data = &row["data"];
        assert_eq!((&data["call"]["duration"], &data["turns"]), (&json!(90), &json!(7)), "{order}");
        assert_eq!(data["vapi"]["call"]["id"], VAPI_ID, "{order}");
        let events = row["event_sequence"].as_array().unwrap();
        let ends: Vec<_> = events.iter().filter(|event| is_end(event)).collect();
        assert_eq!((ends.len(), &ends[0]["details"]["turns"]), (1, &json!(7)), "{order}");
        // What was said here is what our agent heard.
        assert_eq!(server.said(SID).await, [""; 0], "{order}");
        let log: Value = server.scalar("select to_jsonb(call_logs) from call_logs").await;
        assert_eq!(
            (&log["duration"], &log["disconnect_reason"]),
            (&json!(90), &json!("agent_ended")),
            "{order}"
        );
        if order != "vapi twice" {
            rows.push((data.clone(), row["routing_status"].clone()));
        }
        leases::next_action(&server.store, &server.call().call_sid).await.unwrap().unwrap();
    }
    assert!(rows.iter().all(|row| *row == rows[0]), "{rows:#?}");
}

// ---- No carrier ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_call_without_a_carrier_is_one_row_by_vapis_id() {
    let server = Server::new().await;
    let web = |seconds_after| {
        let mut message = report(seconds_after);
        message["call"]["type"] = json!("webCall");
        message["call"].as_object_mut().unwrap().remove("phoneCallProviderId");
        message["call"].as_object_mut().unwrap().remove("customer");
        message
    };
    let reports: Vec<_> = (0..20).map(|number| web(number % 4)).collect();
    join_all(reports.iter().map(|message| server.outcome(message))).await;
    let row = server.row().await;
    assert_eq!((&row["call_sid"], &row["vapi_call_id"]), (&Value::Null, &json!(VAPI_ID)));
    assert_eq!(row["event_sequence"].as_array().unwrap().len(), 1);
    assert_eq!(row["data"]["analysis"], web(3)["analysis"]);
    // Its other records name it by VAPI's id.
    assert_eq!(server.said(VAPI_ID).await, words(3));
    let logged: String = server.scalar("select call_sid from call_logs").await;
    assert_eq!(logged, VAPI_ID);
    let transcript = server.get(&format!("/transcripts/{VAPI_ID}")).await.json();
    assert_eq!(transcript["messageCount"], words(3).len());
    assert_eq!(server.get(&format!("/api/calls/{VAPI_ID}")).await.data()["id"], row["id"]);
}

// ---- Who may send ----------------------------------------------------------------------------------------------------
