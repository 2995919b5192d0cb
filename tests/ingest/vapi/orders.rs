//! Whatever is told of a call, in whatever order, once or often.

use axum::http::StatusCode;
use futures_util::future::join_all;
use jiff::Timestamp;
use proptest::prelude::{Just, Strategy as _};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use voicebridge::ids::CallSid;
use voicebridge::lifecycle::{self, CallEvent};
use voicebridge::store::leases::{self, Offer};

use super::records::{our_agent, our_agent_ends};
use super::{
    CALLER, OURS, SID, Server, VAPI_ID, callback, is_end, is_report, of_call_at, report, without_sid,
};

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
pub(super) async fn log(server: &Server) -> Value {
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
    for is_sent_between in [false, true] {
        let all = vec![Told::Incoming, Told::WithoutSid(1), Told::Report(0), Told::Report(2)];
        let mut runner = TestRunner::deterministic();
        let shuffles = Just(all).prop_shuffle();
        for _ in 0..10 {
            let order = shuffles.new_tree(&mut runner).unwrap().current();
            told_once(&order, is_sent_between).await;
        }
    }
}

/// Everything that happens to the call is told, and once; whether it is sent as soon as it is known, or at the end.
async fn told_once(order: &[Told], is_sent_between: bool) {
    let server = Server::new().await;
    let listener = json!({
        "url": "https://example.com/hook",
        "events": ["call.started", "call.completed", "call.failed", "transcript.completed", "lead.linked"],
    });
    assert_eq!(server.post("/api/webhook-endpoints", listener).await.status, StatusCode::CREATED);
    server.execute("update webhook_endpoints set listens_since = now() - interval '1 day'").await;
    assert!(server.post("/api/leads", json!({"phone": CALLER})).await.status.is_success());
    let began_at = Timestamp::now() - jiff::SignedDuration::from_mins(10);
    for told in order {
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
        if is_sent_between {
            let sent = "update webhook_deliveries set status = 'delivered', attempts = 1, settled_at = now()
                        where status = 'pending'";
            server.execute(sent).await;
        }
    }
    // Who links the lead to the same call again tells nobody.
    let lead: i64 = server.scalar("select id from leads where call_sid is not null").await;
    server.execute("update leads set call_sid = null").await;
    server.execute(&format!("update leads set call_sid = '{SID}' where id = {lead}")).await;

    let told: Value = server
        .scalar(
            "select coalesce(jsonb_agg(
                 jsonb_build_array(event_type, call_sid, body->'data'->>'call_sid') order by event_type
             ), '[]') from webhook_deliveries",
        )
        .await;
    let mut kinds: Vec<_> =
        told.as_array().unwrap().iter().map(|it| it[0].as_str().unwrap().to_owned()).collect();
    // It was two calls, as far as anybody knew: both began.
    let carrier_known = order.iter().position(|told| matches!(told, Told::Report(_))).unwrap();
    if is_sent_between && carrier_known == 2 {
        let began = kinds.iter().position(|kind| kind == "call.started").unwrap();
        kinds.remove(began);
    }
    let expected = ["call.completed", "call.started", "lead.linked", "transcript.completed"];
    assert_eq!(kinds, expected, "{order:?}, {is_sent_between}");
    for it in told.as_array().unwrap() {
        assert_eq!(it[1], SID, "{order:?}: {it}");
        assert!(is_sent_between || it[2] == SID, "{order:?}: {it}");
    }
}

#[tokio::test]
async fn who_has_read_a_call_by_vapis_id_is_found_by_the_carriers() {
    let server = Server::new().await;
    assert_eq!(server.outcome(&without_sid(1)).await, "created");
    assert_eq!(server.get(&format!("/transcripts/{VAPI_ID}")).await.status, StatusCode::OK);
    assert_eq!(server.outcome(&report(2)).await, "written");
    let path = format!("/api/audit-log?call_sid={SID}");
    let deeds = server.get(&path).await.data();
    let actions: Vec<_> = deeds.as_array().unwrap().iter().map(|deed| deed["action"].clone()).collect();
    assert_eq!(actions, ["transcript.read"]);
    // Also where there were two records of the call.
    let server = Server::new().await;
    callback(&server, "in-progress", "1").await;
    tell(&server, Told::Incoming).await;
    assert_eq!(server.outcome(&without_sid(1)).await, "created");
    assert_eq!(server.get(&format!("/transcripts/{VAPI_ID}")).await.status, StatusCode::OK);
    server.outcome(&report(2)).await;
    let deeds = server.get(&path).await.data();
    assert_eq!(deeds.as_array().unwrap().len(), 1, "{deeds}");
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
