//! End-of-call reports of VAPI: however often, in whatever order and however concurrently they come, each call is one row.

use std::ops::Deref;

use axum::http::{Method, StatusCode};
use futures_util::future::join_all;
use jiff::Timestamp;
use proptest::prelude::{Just, Strategy as _};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};
use voicebridge::call::end::EndReason;
use voicebridge::ids::{AgentId, CallSid, OrganizationId, StreamSid};
use voicebridge::lifecycle::{self, CallEvent, CallRef};
use voicebridge::store::leases::{FencingToken, Offer};
use voicebridge::store::{agents, leases};

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
        self.scalar("select to_jsonb(calls) from calls").await
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

/// Something that is told of a call.
#[derive(Debug, Clone, Copy)]
enum Told {
    Report(i64),
    WithoutSid(i64),
    Callback(&'static str, &'static str),
    Incoming,
    /// A stream is expected, which never comes.
    Offered,
    /// A stream of ours takes the call.
    Ours,
    /// And ends it.
    OursEnded,
}

async fn tell(server: &Server, told: Told) {
    match told {
        Told::Report(seconds_after) => {
            server.outcome(&report(seconds_after)).await;
        }
        Told::WithoutSid(seconds_after) => {
            server.outcome(&without_sid(seconds_after)).await;
        }
        Told::Callback(status, sequence) => callback(server, status, sequence).await,
        Told::Incoming => {
            let (from, to) = (CALLER.to_owned(), OURS.to_owned());
            let event = CallEvent::Incoming { phone_number: None, from, to, to_team: false };
            server.record("2024-10-30T08:59:58Z", &event).await;
        }
        Told::Offered => {
            let offer = Offer {
                call_sid: &CallSid::parse(SID).unwrap(),
                organization: server.organization,
                agent: server.agent,
                direction: Some("inbound"),
                from: Some(CALLER),
                to: Some(OURS),
                token_sha256: [7; 32],
            };
            leases::offer(&server.store, &offer).await.unwrap().unwrap();
        }
        Told::Ours => our_agent(server).await,
        Told::OursEnded => our_agent_ends(server).await,
    }
}

/// The log, but for what no two servers have in common.
async fn log(server: &Server) -> Value {
    server
        .scalar(
            "select to_jsonb(call_logs) - array['id', 'created_at', 'updated_at', 'transcript_revision', 'agent_id']
             from call_logs",
        )
        .await
}

#[tokio::test]
async fn whatever_is_told_of_a_call_in_whatever_order_its_record_is_that_of_the_newest_report() {
    let all = vec![
        Told::Incoming,
        Told::Callback("ringing", "0"),
        Told::Callback("in-progress", "1"),
        Told::Callback("completed", "2"),
        Told::Report(0),
        Told::Report(1),
        Told::Report(4),
        Told::Report(4),
        Told::Report(2),
        Told::WithoutSid(3),
        Told::WithoutSid(5),
        Told::Offered,
    ];
    let mut runner = TestRunner::deterministic();
    let shuffles = Just(all).prop_shuffle();
    let mut records = Vec::new();
    for _ in 0..24 {
        let order = shuffles.new_tree(&mut runner).unwrap().current();
        let server = Server::new().await;
        for told in &order {
            tell(&server, *told).await;
        }
        is_report(&server, 5).await;
        assert_eq!(server.row().await["data"]["call"]["sid"], SID, "{order:?}");
        let row = server.row().await;
        let events = row["event_sequence"].as_array().unwrap().clone();
        let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds, ["incoming_call", "agent_call_completed"], "{order:?}");
        records.push((order, log(&server).await));
    }
    for (order, log) in &records {
        assert_eq!(*log, records[0].1, "{order:?}\n{:?}", records[0].0);
    }
}

#[tokio::test]
async fn whatever_is_told_of_a_call_of_our_own_agent_in_whatever_order_its_record_is_ours() {
    // These follow from each other; VAPI's reports may come anywhere between them.
    let in_order = [Told::Ours, Told::OursEnded, Told::Callback("completed", "2")];
    let free = [
        Told::Callback("ringing", "0"),
        Told::Callback("in-progress", "1"),
        Told::Report(1),
        Told::Report(3),
        Told::WithoutSid(2),
        Told::WithoutSid(4),
    ];
    let places: Vec<Option<Told>> = free.into_iter().map(Some).chain(in_order.map(|_| None)).collect();
    let mut runner = TestRunner::deterministic();
    let shuffles = Just(places).prop_shuffle();
    let mut records = Vec::new();
    for _ in 0..16 {
        let mut next = in_order.into_iter();
        let places = shuffles.new_tree(&mut runner).unwrap().current();
        let order: Vec<_> = places.into_iter().filter_map(|told| told.or_else(|| next.next())).collect();
        let server = Server::new().await;
        for told in &order {
            tell(&server, *told).await;
        }
        let row = server.row().await;
        let data = &row["data"];
        assert_eq!((&row["call_sid"], &row["vapi_call_id"]), (&json!(SID), &json!(VAPI_ID)), "{order:?}");
        assert_eq!((&data["call"]["duration"], &data["turns"]), (&json!(90), &json!(7)), "{order:?}");
        assert_eq!(data["vapi"]["analysis"], report(4)["analysis"], "{order:?}");
        let ends = row["event_sequence"].as_array().unwrap().iter().filter(|event| is_end(event)).count();
        assert_eq!(ends, 1, "{order:?}");
        assert_eq!((server.said(SID).await, server.said(VAPI_ID).await), (vec![], vec![]), "{order:?}");
        records.push((order, log(&server).await));
    }
    for (order, log) in &records {
        assert_eq!(*log, records[0].1, "{order:?}\n{:?}", records[0].0);
    }
}

#[tokio::test]
async fn of_a_call_that_gets_its_carriers_id_late_each_event_is_told_once() {
    let all = vec![Told::Incoming, Told::WithoutSid(1), Told::Report(0), Told::Report(2)];
    let mut runner = TestRunner::deterministic();
    let shuffles = Just(all).prop_shuffle();
    for _ in 0..10 {
        let order = shuffles.new_tree(&mut runner).unwrap().current();
        let server = Server::new().await;
        let listener = json!({
            "url": "https://example.com/hook",
            "events": ["call.started", "call.completed", "call.failed", "transcript.completed"],
        });
        assert_eq!(server.post("/api/webhook-endpoints", listener).await.status, StatusCode::CREATED);
        server.execute("update webhook_endpoints set listens_since = now() - interval '1 day'").await;
        let began_at = Timestamp::now() - jiff::SignedDuration::from_mins(10);
        for told in &order {
            match *told {
                Told::Report(number) => server.outcome(&of_call_at(report(number), began_at)).await,
                Told::WithoutSid(number) => server.outcome(&of_call_at(without_sid(number), began_at)).await,
                _ => {
                    let (from, to) = (CALLER.to_owned(), OURS.to_owned());
                    let event = CallEvent::Incoming { phone_number: None, from, to, to_team: false };
                    lifecycle::record(&server.store, &server.call(), began_at, &event).await.unwrap();
                    String::new()
                }
            };
        }
        let told: Value = server
            .scalar(
                "select coalesce(jsonb_agg(
                     jsonb_build_array(event_type, call_sid, body->'data'->>'call_sid') order by event_type
                 ), '[]') from webhook_deliveries",
            )
            .await;
        let expected =
            ["call.completed", "call.started", "transcript.completed"].map(|kind| json!([kind, SID, SID]));
        assert_eq!(told, json!(expected), "{order:?}");
    }
}

#[tokio::test]
async fn a_report_without_the_carriers_id_and_one_with_it_are_one_call_with_all_its_records() {
    let server = Server::new().await;
    server
        .execute(&format!(
            "insert into leads (organization_id, phone) values ('{}', '{CALLER}')",
            server.organization
        ))
        .await;
    assert!(server.post("/api/interactions", json!({"id": "i1"})).await.status.is_success());
    server.execute(&format!("update interactions set call_sid = '{VAPI_ID}'")).await;
    assert_eq!(server.outcome(&without_sid(2)).await, "created");
    // By VAPI's id it is a call like any other.
    let linked: String = server.scalar("select call_sid from leads").await;
    assert_eq!(linked, VAPI_ID);
    let same: bool = server.scalar("select (select lead_id from call_logs) = (select id from leads)").await;
    assert!(same);
    assert_eq!(server.get("/api/interactions/i1").await.data()["status"], "COMPLETED");
    // An older report tells of the carrier's id: the call gets it, and says what it said.
    assert_eq!(server.outcome(&report(1)).await, "known");
    is_report(&server, 2).await;
    assert_eq!(server.row().await["data"]["call"]["sid"], SID);
    let linked: String = server.scalar("select call_sid from leads").await;
    assert_eq!(linked, SID);
    let named: String = server.scalar("select call_sid from interactions").await;
    assert_eq!(named, SID);
    // And stays the same call for whoever names it by VAPI's id.
    assert_eq!(server.outcome(&without_sid(2)).await, "known");
    assert_eq!(server.outcome(&without_sid(3)).await, "written");
    is_report(&server, 3).await;
    callback(&server, "completed", "2").await;
    is_report(&server, 3).await;
}

#[tokio::test]
async fn twenty_reports_at_once_of_which_half_know_no_carriers_id_are_one_row() {
    for round in 0..4 {
        let server = Server::new().await;
        let name = |number: i64| if number % 2 == 0 { report(number % 7) } else { without_sid(number % 7) };
        let reports: Vec<_> = (round..round + 20).map(name).collect();
        join_all(reports.iter().map(|message| server.outcome(message))).await;
        is_report(&server, 6).await;
    }
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
async fn our_agent(server: &Server) {
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

async fn our_agent_ends(server: &Server) {
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

#[tokio::test]
async fn whoever_does_not_show_the_secret_changes_nothing() {
    let server = Server::new().await;
    let body = json!({"message": report(0)}).to_string();
    let near = format!("{KEY}0");
    for headers in [
        vec![],
        vec![("x-vapi-secret", "")],
        vec![("x-vapi-secret", &KEY[..KEY.len() - 1])],
        vec![("x-vapi-secret", near.as_str())],
        vec![("authorization", "Bearer wrong")],
        vec![("authorization", "Basic 0123456789abcdef")],
        vec![("x-api-key", KEY)],
        vec![("x-vapi-secret", "wrong"), ("authorization", "Bearer 0123456789abcdef")],
    ] {
        let headers: Vec<_> = headers.into_iter().chain([("content-type", "application/json")]).collect();
        let answer = server.raw(Method::POST, PATH, &headers, body.clone()).await;
        answer.is_error(StatusCode::UNAUTHORIZED, "invalid_secret");
    }
    for table in ["calls", "conversation_transcripts", "call_logs"] {
        assert_eq!(server.count(table).await, 0, "{table}");
    }
    for headers in [("x-vapi-secret", KEY), ("authorization", "Bearer 0123456789abcdef")] {
        let answer = server
            .raw(Method::POST, PATH, &[headers, ("content-type", "application/json")], body.clone())
            .await;
        answer.data();
    }
    assert_eq!(server.count("calls").await, 1);
}

#[tokio::test]
async fn a_secret_is_replaced_without_a_gap_and_without_one_nothing_is_taken() {
    let secrets = ["0123456789abcdef-old", "0123456789abcdef-new"];
    let both = surface::Server::with(|settings| {
        settings.vapi_webhook_secrets = secrets.map(Into::into).to_vec();
    });
    let server = Server::on(both.await).await;
    let body = json!({"message": report(0)}).to_string();
    for secret in secrets {
        let headers = [("x-vapi-secret", secret), ("content-type", "application/json")];
        server.raw(Method::POST, PATH, &headers, body.clone()).await.data();
    }
    let none =
        Server::on(surface::Server::with(|settings| settings.vapi_webhook_secrets.clear()).await).await;
    for secret in ["", KEY] {
        let headers = [("x-vapi-secret", secret), ("content-type", "application/json")];
        let answer = none.raw(Method::POST, PATH, &headers, body.clone()).await;
        answer.is_error(StatusCode::FORBIDDEN, "vapi_not_configured");
    }
    assert_eq!(none.count("calls").await, 0);
}

#[tokio::test]
async fn a_report_of_an_unknown_call_and_assistant_is_taken_and_counted_and_not_kept() {
    let server = Server::new().await;
    for assistant in [json!("asst_2"), Value::Null] {
        let mut message = report(0);
        message["call"]["assistantId"] = assistant;
        assert_eq!(server.outcome(&message).await, "unknown");
    }
    for table in ["calls", "conversation_transcripts", "call_logs"] {
        assert_eq!(server.count(table).await, 0, "{table}");
    }
    let counted = "voicebridge_reports_total{source=\"vapi\",outcome=\"unknown\"} 2";
    assert!(server.metrics.encode().contains(counted), "{}", server.metrics.encode());
}

#[tokio::test]
async fn an_assistant_is_one_agent_of_an_organisation() {
    let server = Server::new().await;
    let agent = json!({"name": "Ada", "instructions": "Be kind.", "vapi_assistant_id": ASSISTANT});
    server.post("/api/agents", agent).await.is_error(StatusCode::CONFLICT, "assistant_taken");
    let made = server
        .post("/api/agents", json!({"name": "Bo", "instructions": "Be kind.", "vapi_assistant_id": "asst_2"}))
        .await;
    let path = format!("/api/agents/{}", made.json()["data"]["id"].as_str().unwrap());
    server
        .patch(&path, json!({"vapi_assistant_id": ASSISTANT}))
        .await
        .is_error(StatusCode::CONFLICT, "assistant_taken");
}

/// A secret of VAPI's that is this organisation's, and the id of its account.
async fn account(server: &Server, organization: &str) -> (String, String) {
    let headers =
        [("x-api-key", KEY), ("x-organization", organization), ("content-type", "application/json")];
    let answer = server.raw(Method::POST, "/api/vapi-accounts", &headers, "").await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    let data = answer.json()["data"].clone();
    assert_eq!(data["webhook"], PATH);
    (data["secret"].as_str().unwrap().to_owned(), data["id"].as_str().unwrap().to_owned())
}

async fn sent_with(server: &Server, secret: &str, message: &Value) -> Answer {
    let headers = [("content-type", "application/json"), ("x-vapi-secret", secret)];
    server.raw(Method::POST, PATH, &headers, json!({ "message": message }).to_string()).await
}

#[tokio::test]
async fn a_secret_says_whose_calls_are_reported_and_nobody_elses_are_looked_at() {
    let server = Server::new().await;
    server.execute("insert into organisations (slug, name) values ('other', 'Other')").await;
    let (secret, _) = account(&server, "other").await;
    // A call of the first organisation, and one that only its assistant could tell whose it is.
    assert_eq!(server.outcome(&report(1)).await, "created");
    let before = server.row().await;
    let mut another = report(2);
    another["call"]["id"] = json!("0191e0a0-0000-7000-8000-000000000009");
    another["call"]["phoneCallProviderId"] = json!("CA00000000000000000000000000000009");
    for message in [&report(2), &without_sid(3), &another] {
        assert_eq!(sent_with(&server, &secret, message).await.data()["outcome"], "unknown");
        assert_eq!(server.row().await, before);
    }
    // Its own agent may be the assistant that another organisation has named as well.
    let headers = [("x-api-key", KEY), ("x-organization", "other"), ("content-type", "application/json")];
    let agent = json!({"name": "Bo", "instructions": "Be kind.", "vapi_assistant_id": ASSISTANT});
    let made = server.raw(Method::POST, "/api/agents", &headers, agent.to_string()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    for message in [&report(2), &without_sid(3)] {
        assert_eq!(
            sent_with(&server, &secret, message).await.data()["outcome"],
            "unknown",
            "it is not theirs"
        );
        assert_eq!(server.row().await, before);
    }
    assert_eq!(sent_with(&server, &secret, &another).await.data()["outcome"], "created");
    let owners: Value = server
        .scalar(
            "select jsonb_agg(distinct jsonb_build_array(o.slug, c.call_sid)) from calls c
             join organisations o on o.id = c.organization_id",
        )
        .await;
    let theirs = another["call"]["phoneCallProviderId"].clone();
    assert_eq!(owners, json!([["default", SID], ["other", theirs]]));
}

#[tokio::test]
async fn a_secret_of_an_organisation_is_shown_once_rotated_without_a_gap_and_gone_when_it_is_deleted() {
    let server =
        Server::on(surface::Server::with(|settings| settings.vapi_webhook_secrets.clear()).await).await;
    sent_with(&server, KEY, &report(0)).await.is_error(StatusCode::FORBIDDEN, "vapi_not_configured");
    let (old, old_id) = account(&server, "default").await;
    let (new, _) = account(&server, "default").await;
    for secret in [&old, &new] {
        sent_with(&server, secret, &report(0)).await.data();
    }
    let listed = server.get("/api/vapi-accounts").await;
    assert_eq!(listed.json()["pagination"]["total"], 2);
    assert!(!listed.text.contains(&old) && !listed.text.contains(&new), "{}", listed.text);
    let path = format!("/api/vapi-accounts/{old_id}");
    assert_eq!(server.delete(&path).await.status, StatusCode::NO_CONTENT);
    server.delete(&path).await.is_error(StatusCode::NOT_FOUND, "not_found");
    sent_with(&server, &old, &report(1)).await.is_error(StatusCode::UNAUTHORIZED, "invalid_secret");
    sent_with(&server, &new, &report(1)).await.data();
    is_report(&server, 1).await;
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
