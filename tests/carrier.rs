//! The stand-in for Twilio's REST API, over real sockets, with a small server of the tests' own behind its webhooks.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{RawForm, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use futures_util::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use voicebridge::simulate::caller::{CallerOptions, EndedBy, StreamEnd};
use voicebridge::simulate::carrier::{
    CallLog, Carrier, CarrierOptions, CarrierReport, Delivery, Fault, Faults, People, Person,
};
use voicebridge::simulate::scenario::{Scenario, Step};
use voicebridge::wire::signature;

const ACCOUNT: &str = "AC00000000000000000000000000000001";
const TOKEN: &str = "12345";
const OURS: &str = "+14155550100";
/// Ends in 3, like everybody who simply answers here.
const THEIRS: &str = "+14155550123";
/// A second of the carrier takes this long in most tests.
const PACE: f64 = 0.05;
const SOON: Duration = Duration::from_secs(20);

// ------------------------------------------------------------------------------------------------ requests for calls

#[tokio::test]
async fn a_call_is_queued_dialed_answered_and_told_of_in_order() {
    let world = World::start(|_| {}).await;
    let answer = world.create(&[]).await;
    assert_eq!(answer.status, 201);
    let queued = &answer.body;
    assert_eq!((&queued["status"], &queued["direction"]), (&json!("queued"), &json!("outbound-api")));
    for absent in ["start_time", "end_time", "duration", "answered_by", "price", "parent_call_sid"] {
        assert_eq!(queued[absent], Value::Null, "{absent}");
    }
    assert!(queued["date_created"].as_str().unwrap().ends_with("+0000"), "{queued}");
    let sid = answer.sid();
    assert!(sid.len() == 34 && sid.starts_with("CA"), "{sid}");

    world.carrier.settled().await;
    let told: Vec<_> = world.office.callbacks("/status?attempt=7");
    let statuses: Vec<_> = told.iter().map(|fields| fields["CallStatus"].as_str()).collect();
    assert_eq!(statuses, ["initiated", "ringing", "in-progress", "completed"]);
    for (index, fields) in told.iter().enumerate() {
        assert_eq!(fields["SequenceNumber"], index.to_string());
        assert_eq!(fields["CallSid"], sid);
        assert_eq!(fields["CallbackSource"], "call-progress-events");
        assert!(fields["Timestamp"].ends_with("+0000"), "{}", fields["Timestamp"]);
        assert_eq!(fields.contains_key("CallDuration"), index == 3);
    }
    assert_eq!((told[3]["SipResponseCode"].as_str(), told[3]["Duration"].as_str()), ("200", "1"));
    let asked = &world.office.callbacks("/twiml?attempt=7")[0];
    assert_eq!((asked["Direction"].as_str(), asked["CallStatus"].as_str()), ("outbound-api", "in-progress"));
    assert_eq!((asked["From"].as_str(), asked["To"].as_str()), (OURS, THEIRS));
    assert_eq!(world.office.unsigned(), [""; 0]);

    let done = world.fetch(&sid).await.body;
    assert_eq!((&done["status"], &done["duration"]), (&json!("completed"), &json!("1")));
    assert!(done["start_time"].is_string() && done["end_time"].is_string() && done["price"].is_string());
    let report = world.carrier.report();
    let call = report.call(&sid).unwrap();
    assert_eq!((call.attempt.as_deref(), call.person), (Some("7"), Some("answered")));
    assert!(call.asked_at <= call.dialed_at.unwrap() && call.dialed_at < call.answered_at, "{call:?}");
    assert_eq!((report.violations, report.requests.len()), (Vec::new(), 2));
}

#[tokio::test]
async fn the_last_digits_decide_what_becomes_of_a_call() {
    let world = World::start(|_| {}).await;
    for (ending, status, sip, statuses) in [
        ("5", "busy", 486, &["initiated", "busy"][..]),
        ("6", "no-answer", 487, &["initiated", "ringing", "no-answer"]),
        ("7", "failed", 480, &["initiated", "failed"]),
    ] {
        let to = format!("+1415555012{ending}");
        let sid = world.create(&[("To", &to), ("Timeout", "10")]).await.sid();
        world.carrier.settled().await;
        let call = world.call(&sid);
        assert_eq!((call.status, call.sip, call.answered_at), (status, Some(sip), None));
        let told: Vec<_> = call.callbacks.iter().map(|callback| callback.told.as_str()).collect();
        assert_eq!(told, statuses);
        let last = world.office.callbacks("/status?attempt=7").pop().unwrap();
        assert_eq!((last["CallDuration"].as_str(), last.contains_key("Duration")), ("0", false));
        assert_eq!(last["SipResponseCode"], sip.to_string());
        assert_eq!(world.fetch(&sid).await.body["duration"], Value::Null);
    }
    let refused = world.create(&[("To", "+14155550128")]).await;
    assert_eq!((refused.status, refused.code()), (400, 21217));
    assert!(world.office.callbacks("/twiml?attempt=7").is_empty(), "nobody answered");
}

#[tokio::test]
async fn a_call_rings_no_longer_than_its_timeout() {
    let world = World::start(|options| options.pace = 0.2).await;
    let sid = world.create(&[("To", "+14155550126"), ("Timeout", "5")]).await.sid();
    world.carrier.settled().await;
    let call = world.call(&sid);
    let rang = call.ended_at.unwrap().duration_since(call.callbacks[1].at);
    assert!(
        (SignedDuration::from_millis(990)..SignedDuration::from_millis(3000)).contains(&rang),
        "{rang:?}"
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_request_has_its_status_and_code() {
    let world = World::start(|options| options.numbers = vec![OURS.into()]).await;
    for (change, code) in [
        (("To", ""), 21201),
        (("To", "555"), 21211),
        (("From", ""), 21213),
        (("From", "somebody"), 21212),
        (("From", "+14155550999"), 21210),
        (("Url", ""), 21205),
    ] {
        let answer = world.create(&[change]).await;
        assert_eq!((answer.status, answer.code()), (400, code), "{change:?}");
        assert_eq!(answer.body["status"], 400);
        assert!(answer.body["more_info"].as_str().unwrap().ends_with(&code.to_string()));
    }
    let long = format!("<Response><Say>{}</Say></Response>", "a".repeat(4000));
    assert_eq!(world.create(&[("Url", ""), ("Twiml", &long)]).await.code(), 32018);
    assert_eq!(world.fetch("CA00000000000000000000000000000009").await.code(), 20404);
    let wrong = world.http.get(world.calls_url()).basic_auth(ACCOUNT, Some("wrong")).send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    assert_eq!(wrong.json::<Value>().await.unwrap()["code"], 20003);
    let foreign = world.calls_url().replace(ACCOUNT, "AC00000000000000000000000000000002");
    let foreign = world.http.get(foreign).basic_auth(ACCOUNT, Some(TOKEN)).send().await.unwrap();
    assert_eq!(foreign.status(), 404);
    let report = world.carrier.report();
    assert!(report.calls.is_empty());
    assert_eq!(report.violations, [""; 0], "a refusal is an answer");
    let codes: Vec<_> = report.requests.iter().map(|request| (request.status, request.code)).collect();
    assert_eq!((codes[0], codes[8]), ((Some(400), Some(21201)), (Some(401), Some(20003))));
}

#[tokio::test]
async fn a_parameter_that_nobody_knows_is_in_the_report() {
    let world = World::start(|_| {}).await;
    assert_eq!(world.create(&[("StatusCallBack", "http://127.0.0.1/x")]).await.status, 201);
    world.get("?Too=x").await;
    assert_eq!(
        world.carrier.report().violations,
        ["POST Calls: the parameter `StatusCallBack` is not known", "GET Calls: `Too` is not understood"]
    );
}

#[tokio::test]
async fn calls_wait_for_their_turn_and_can_be_taken_back_meanwhile() {
    let world = World::start(|options| options.cps = 5.0).await;
    let started = Instant::now();
    let mut sids = Vec::new();
    for number in 0..15 {
        let attempt = format!("{}/twiml?attempt={number}", world.office.url);
        let answer = world.create(&[("Url", &attempt), ("To", "+14155550125")]).await;
        sids.push(answer.sid());
        if number == 14 {
            assert!(answer.body["queue_time"].as_str().unwrap().parse::<u64>().unwrap() >= 400);
        }
    }
    let last = sids.last().unwrap();
    let canceled = world.update(last, &[("Status", "canceled")]).await;
    assert_eq!((canceled.status, &canceled.body["status"]), (200, &json!("canceled")));
    world.carrier.settled().await;
    assert!(started.elapsed() >= Duration::from_millis(2600), "{:?}", started.elapsed());
    let report = world.carrier.report();
    // One more may fall into the same second when the one before it was a moment late.
    assert!(report.most_dialed_within_a_second() <= 6, "{}", report.most_dialed_within_a_second());
    assert_eq!(report.outbound().filter(|call| call.dialed_at.is_some()).count(), 14);
    assert!(report.call(last).unwrap().dialed_at.is_none());
    assert_eq!(world.office.callbacks("/status?attempt=7").last().unwrap()["CallStatus"], "busy");
    let order: Vec<_> = report.outbound().map(|call| call.attempt.clone().unwrap()).collect();
    assert_eq!(order, (0..15).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(report.repeated_attempts().is_empty());
}

#[tokio::test]
async fn a_call_that_rings_can_be_taken_back() {
    let world = World::start(|options| options.pace = 1.0).await;
    let sid = world.create(&[("To", "+14155550126")]).await.sid();
    world.until(&sid, |call| call.status == "ringing").await;
    assert_eq!(world.update(&sid, &[("Status", "completed")]).await.status, 200);
    world.carrier.settled().await;
    let call = world.call(&sid);
    assert_eq!((call.status, call.callbacks.last().unwrap().told.as_str()), ("canceled", "canceled"));
    assert_eq!(world.update(&sid, &[("Status", "completed")]).await.code(), 21220);
}

#[tokio::test]
async fn calls_are_listed_newest_first_by_number_status_and_time_in_pages() {
    let epoch: Timestamp = "2026-03-08T09:59:00Z".parse().unwrap();
    let world = World::start(|options| options.started = Some(epoch)).await;
    let mut sids = Vec::new();
    for to in ["+14155550125", "+14155550135", "+14155550125", "+14155550145", "+14155550125"] {
        sids.push(world.create(&[("To", to)]).await.sid());
    }
    world.carrier.settled().await;
    let listed = |body: &Value| -> Vec<String> {
        let calls = body["calls"].as_array().unwrap().iter();
        calls.map(|call| call["sid"].as_str().unwrap().to_owned()).collect()
    };
    let by_number = world.get("?To=%2B14155550125&Status=busy&StartTime%3E=2026-03-08").await;
    assert_eq!(listed(&by_number), [&sids[4], &sids[2], &sids[0]].map(Clone::clone));
    assert_eq!(by_number["next_page_uri"], Value::Null);
    for (query, count) in [
        ("?To=%2B14155550199", 0),
        ("?From=%2B14155550100", 5),
        ("?Status=completed", 0),
        ("?StartTime=2026-03-08", 5),
        ("?StartTime%3E=2026-03-09", 0),
        ("?StartTime%3C=2026-03-07", 0),
        ("?StartTime%3E=2026-03-08T09:59:00Z", 5),
        ("?StartTime%3E=2026-03-08T11:00:00Z", 0),
    ] {
        assert_eq!(listed(&world.get(query).await).len(), count, "{query}");
    }
    let (mut found, mut next) = (Vec::new(), "?PageSize=2".to_owned());
    loop {
        let page = world.get(&next).await;
        found.extend(listed(&page));
        // What comes in between belongs to no page that follows.
        world.create(&[("To", "+14155550125")]).await;
        match page["next_page_uri"].as_str() {
            Some(uri) => next = uri.split_once('?').map(|(_, query)| format!("?{query}")).unwrap(),
            None => break,
        }
    }
    sids.reverse();
    assert_eq!(found, sids);
    assert_eq!(world.carrier.report().violations, [""; 0]);
}

#[tokio::test]
async fn a_new_call_is_in_lists_only_after_a_while_when_that_is_asked_for() {
    let world = World::start(|options| options.list_lag = Duration::from_millis(400)).await;
    let sid = world.create(&[]).await.sid();
    assert_eq!(world.get("").await["calls"], json!([]));
    assert_eq!(world.fetch(&sid).await.status, 200);
    sleep(Duration::from_millis(450)).await;
    assert_eq!(world.get("").await["calls"][0]["sid"], json!(sid));
}

// ------------------------------------------------------------------------------------------------------------ faults

#[tokio::test]
async fn each_fault_places_the_call_or_does_not() {
    let list = Fault::ALL.into_iter().zip(1..).map(|(fault, nth)| (nth, fault)).collect();
    let faults = Faults { list, slow: Duration::from_millis(300), ..Faults::default() };
    let world = World::start(|options| options.faults = faults.clone()).await;
    for (fault, status, placed) in [
        (Fault::TooMany, Some(429), 0),
        (Fault::ErrorBefore, Some(503), 0),
        (Fault::ErrorAfter, Some(500), 1),
        (Fault::LostBefore, None, 1),
        (Fault::LostAfter, None, 2),
        (Fault::Slow, Some(201), 3),
    ] {
        let asked = Instant::now();
        let answer = world.try_create(&[("To", "+14155550125")]).await;
        assert_eq!(answer.as_ref().map(|answer| answer.status), status, "{fault:?}");
        assert_eq!(asked.elapsed() >= Duration::from_millis(300), fault == Fault::Slow, "{fault:?}");
        let report = world.carrier.report();
        assert_eq!(report.calls.len(), placed, "{fault:?}");
        let request = report.requests.last().unwrap();
        assert_eq!((request.fault, request.status), (Some(fault.word()), status));
        assert_eq!(request.call_sid.is_some(), fault >= Fault::LostAfter || fault == Fault::ErrorAfter);
    }
    assert_eq!(world.create(&[("To", "+14155550125")]).await.status, 201);
    world.carrier.settled().await;
    let report = world.carrier.report();
    assert!(report.calls.iter().all(|call| call.status == "busy"), "a call goes on without its answer");
    // Four calls for one attempt: this is how calling twice is seen.
    assert_eq!(report.repeated_attempts(), BTreeMap::from([("7", 4)]));
}

#[tokio::test]
async fn too_many_requests_at_once_are_answered_with_429() {
    let faults =
        Faults { shares: vec![(1.0, Fault::Slow)], slow: Duration::from_millis(300), ..Faults::default() };
    let world = World::start(|options| (options.faults, options.most_requests) = (faults.clone(), 3)).await;
    let all = futures_util::future::join_all((0..5).map(|_| world.create(&[]))).await;
    let refused: Vec<_> = all.iter().filter(|answer| answer.status == 429).collect();
    assert_eq!(refused.len(), 2);
    assert!(refused.iter().all(|answer| answer.code() == 20429));
    assert_eq!(world.carrier.report().calls.len(), 3);
}

#[tokio::test]
async fn callbacks_come_in_disorder_twice_or_not_at_all_when_asked_for() {
    let delivered = async |delivery: Delivery| {
        let world = World::start(|options| options.delivery = delivery).await;
        let sid = world.create(&[("To", "+14155550126"), ("Timeout", "5")]).await.sid();
        world.carrier.settled().await;
        let numbers: String = world
            .office
            .callbacks("/status?attempt=7")
            .iter()
            .map(|told| told["SequenceNumber"].as_str())
            .collect();
        (numbers, world.call(&sid))
    };
    let delivery = Delivery::default();
    assert_eq!(delivered(delivery).await.0, "012");
    assert_eq!(delivered(Delivery { twice: 1.0, ..delivery }).await.0, "001122");
    // The first waits for the second; the last has nothing to wait for.
    assert_eq!(delivered(Delivery { disordered: 1.0, ..delivery }).await.0, "102");
    let late_by = Duration::from_millis(300);
    assert_eq!(delivered(Delivery { late: 1.0, late_by, ..delivery }).await.0.len(), 3);
    let (numbers, call) = delivered(Delivery { lost: 1.0, ..delivery }).await;
    assert_eq!(numbers, "");
    assert!(call.callbacks.iter().all(|callback| callback.lost && callback.deliveries.is_empty()));
    assert_eq!(call.status, "no-answer");
}

// ------------------------------------------------------------------------------------------------- who or what answers

#[tokio::test]
async fn a_machine_greets_beeps_and_records_what_it_is_told_afterwards() {
    let world = World::start(|_| {}).await;
    world.office.answer("/twiml", "<Response><Pause length=\"60\"/></Response>");
    let amd = world.amd("DetectMessageEnd");
    let sid = world.create(&amd.each(&[("To", "+14155550124")])).await.sid();
    let verdict = world.office.wait_for("/amd?attempt=7").await;
    assert_eq!(
        (verdict["AnsweredBy"].as_str(), verdict["CallSid"].as_str()),
        ("machine_end_beep", sid.as_str())
    );
    assert!(verdict["MachineDetectionDuration"].parse::<u64>().unwrap() >= 120, "{verdict:?}");
    let message = "<Response><Say>Please call us back.</Say></Response>";
    assert_eq!(world.update(&sid, &[("Twiml", message)]).await.status, 200);
    world.carrier.settled().await;
    let call = world.call(&sid);
    assert_eq!(
        (call.status, call.person, call.answered_by),
        ("completed", Some("voicemail"), Some("machine_end_beep"))
    );
    let recorded = call.message.unwrap();
    assert_eq!((recorded.said, recorded.began_early), (vec!["Please call us back.".to_owned()], false));

    // Whoever speaks at once speaks into the greeting.
    world.office.answer("/twiml", "<Response><Say>Please call us back.</Say></Response>");
    let sid = world.create(&[("To", "+14155550124")]).await.sid();
    world.carrier.settled().await;
    let recorded = world.call(&sid).message.unwrap();
    assert_eq!((recorded.said, recorded.began_early), (Vec::new(), true));
}

#[tokio::test]
async fn the_verdict_on_who_answered_comes_while_the_call_runs_or_before_it() {
    let world = World::start(|_| {}).await;
    world.office.answer("/twiml", "<Response><Pause length=\"20\"/></Response>");
    let amd = world.amd("Enable");
    let started = Instant::now();
    let sid = world.create(&amd.each(&[])).await.sid();
    assert_eq!(world.office.wait_for("/amd?attempt=7").await["AnsweredBy"], "human");
    assert!(
        !world.office.callbacks("/twiml?attempt=7")[0].contains_key("AnsweredBy"),
        "it was not known yet"
    );
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(world.fetch(&sid).await.body["answered_by"], "human");
    let machine = world.create(&amd.each(&[("To", "+14155550124")])).await.sid();
    world.carrier.settled().await;
    assert_eq!(world.call(&machine).answered_by, Some("machine_start"));

    let before = world.office.callbacks("/twiml?attempt=7").len();
    world.create(&[("MachineDetection", "Enable")]).await;
    world.carrier.settled().await;
    let asked = &world.office.callbacks("/twiml?attempt=7")[before];
    assert_eq!(asked["AnsweredBy"], "human");
    assert!(asked["MachineDetectionDuration"].parse::<u64>().unwrap() >= 100, "{asked:?}");
}

#[tokio::test]
async fn somebody_who_hangs_up_leaves_whatever_is_being_said() {
    let world = World::start(|_| {}).await;
    world.office.answer("/twiml", "<Response><Pause length=\"600\"/></Response>");
    let sid = world.create(&[("To", "+14155550129")]).await.sid();
    timeout(SOON, world.carrier.settled()).await.unwrap();
    let call = world.call(&sid);
    assert_eq!((call.status, call.person), ("completed", Some("hangs-up")));
    assert_eq!(call.conversation.unwrap().ended_by, EndedBy::Caller);
}

// ------------------------------------------------------------------------------------------------------------- TwiML

#[tokio::test]
async fn an_update_ends_a_stream_with_stop_and_runs_the_new_document() {
    let world = World::start(|_| {}).await;
    let media = Media::start().await;
    world.office.answer("/twiml", &media.document("/ended"));
    let sid = world.create(&[("To", "+14155550122")]).await.sid();
    media.wait_for("media").await;
    let next = format!("{}/next", world.office.url);
    world.office.answer("/next", "<Response><Say>One moment.</Say><Hangup/></Response>");
    assert_eq!(world.update(&sid, &[("Url", &next)]).await.body["status"], "in-progress");
    world.carrier.settled().await;
    let kinds = media.kinds();
    assert_eq!(
        (kinds[0].as_str(), kinds[1].as_str(), kinds.last().unwrap().as_str()),
        ("connected", "start", "stop")
    );
    let call = world.call(&sid);
    let conversation = call.conversation.unwrap();
    assert_eq!(conversation.streams[0].ended_by, StreamEnd::Ordered);
    assert_eq!(conversation.followed[1..], ["Say One moment.", "Hangup"]);
    assert_eq!((call.status, conversation.ended_by), ("completed", EndedBy::Twiml));
    assert!(world.office.callbacks("/ended").is_empty(), "whoever redirects is not asked what to do next");
    assert_eq!(world.carrier.report().violations, [""; 0]);
}

#[tokio::test]
async fn an_update_hangs_up_in_the_middle_of_a_stream() {
    let world = World::start(|_| {}).await;
    let media = Media::start().await;
    world.office.answer("/twiml", &media.document("/ended"));
    let sid = world.create(&[("To", "+14155550122")]).await.sid();
    media.wait_for("media").await;
    assert_eq!(world.update(&sid, &[("Status", "completed")]).await.status, 200);
    world.carrier.settled().await;
    assert_eq!(media.kinds().last().unwrap(), "stop");
    assert_eq!(world.office.callbacks("/ended")[0]["CallStatus"], "completed");
    let call = world.call(&sid);
    assert_eq!((call.status, call.conversation.unwrap().ended_by), ("completed", EndedBy::Carrier));
    assert_eq!(world.update(&sid, &[("Twiml", "<Response/>")]).await.code(), 21220);
}

#[tokio::test]
async fn a_dial_rings_everybody_and_the_first_to_answer_hears_the_whisper() {
    let world = World::start(|options| options.pace = 0.1).await;
    let url = &world.office.url;
    world.office.answer(
        "/twiml",
        &format!(
            "<Response><Dial timeout=\"20\" callerId=\"+14155550177\" action=\"/dialed\">\
             <Number>+14155550226</Number>\
             <Number url=\"/whisper\" statusCallback=\"{url}/member\" statusCallbackEvent=\"ringing answered completed\">+14155550223</Number>\
             </Dial></Response>"
        ),
    );
    world.office.answer("/whisper", "<Response><Say>A call about an order.</Say></Response>");
    world.office.answer("/dialed", "<Response><Hangup/></Response>");
    let sid = world.create(&[]).await.sid();
    world.carrier.settled().await;
    let report = world.carrier.report();
    let child = |to: &str| report.calls.iter().find(|call| call.to == to).unwrap();
    let (silent, taken) = (child("+14155550226"), child("+14155550223"));
    assert_eq!((silent.status, taken.status), ("canceled", "completed"));
    assert_eq!((taken.direction, taken.parent.as_deref()), ("outbound-dial", Some(sid.as_str())));
    assert_eq!(taken.from, "+14155550177");
    assert_eq!(taken.conversation.as_ref().unwrap().said[0].text, "A call about an order.");
    let whispered = &world.office.callbacks("/whisper")[0];
    assert_eq!(
        (whispered["CallSid"].as_str(), whispered["ParentCallSid"].as_str()),
        (taken.sid.as_str(), sid.as_str())
    );
    let dialed = &world.office.callbacks("/dialed")[0];
    assert_eq!(
        (dialed["CallSid"].as_str(), dialed["DialCallSid"].as_str()),
        (sid.as_str(), taken.sid.as_str())
    );
    assert_eq!((dialed["DialCallStatus"].as_str(), dialed["DialBridged"].as_str()), ("completed", "true"));
    assert!(dialed["DialCallDuration"].parse::<u64>().unwrap() >= 1);
    let statuses: Vec<_> =
        world.office.callbacks("/member").iter().map(|told| told["CallStatus"].clone()).collect();
    assert_eq!(statuses, ["ringing", "in-progress", "completed"]);
    assert_eq!((report.violations.len(), report.outbound().count()), (0, 1));
}

#[tokio::test]
async fn a_dial_that_nobody_takes_says_so_and_the_call_goes_on() {
    let world = World::start(|_| {}).await;
    world.office.answer("/dialed", "<Response><Say>Nobody is there.</Say></Response>");
    let dialed = async |numbers: &str| {
        let document =
            format!("<Response><Dial timeout=\"10\" action=\"/dialed\">{numbers}</Dial></Response>");
        world.office.answer("/twiml", &document);
        let sid = world.create(&[]).await.sid();
        world.carrier.settled().await;
        let call = world.call(&sid).conversation.unwrap();
        assert_eq!(call.followed.last().unwrap(), "Say Nobody is there.");
        world.office.callbacks("/dialed").pop().unwrap()
    };
    let busy = dialed("<Number>+14155550225</Number><Number>+14155550227</Number>").await;
    assert_eq!((busy["DialCallStatus"].as_str(), busy["DialBridged"].as_str()), ("busy", "false"));
    assert!(!busy.contains_key("DialCallDuration"));
    let away = dialed("<Number>+14155550225</Number><Number>+14155550226</Number>").await;
    assert_eq!(away["DialCallStatus"], "no-answer");
    // Somebody who hears the whisper and declines took the call, but spoke to nobody.
    world.office.answer("/whisper", "<Response><Hangup/></Response>");
    let declined = dialed("<Number url=\"/whisper\">+14155550223</Number>").await;
    assert_eq!(
        (declined["DialCallStatus"].as_str(), declined["DialBridged"].as_str()),
        ("completed", "false")
    );
}

#[tokio::test]
async fn telephones_fall_silent_when_the_caller_leaves() {
    let world = World::start(|_| {}).await;
    let document =
        "<Response><Dial timeout=\"600\" action=\"/dialed\"><Number>+14155550226</Number></Dial></Response>";
    world.office.answer("/twiml", document);
    let sid = world.create(&[("To", "+14155550129")]).await.sid();
    timeout(SOON, world.carrier.settled()).await.unwrap();
    let report = world.carrier.report();
    let child = report.calls.iter().find(|call| call.parent.as_deref() == Some(&sid)).unwrap();
    assert_eq!((report.call(&sid).unwrap().status, child.status), ("completed", "canceled"));
    let told = &world.office.callbacks("/dialed")[0];
    assert_eq!((told["CallStatus"].as_str(), told["DialCallStatus"].as_str()), ("completed", "canceled"));
}

#[tokio::test]
async fn a_gather_is_answered_with_the_keys_of_the_scenario_or_falls_through() {
    let world = World::start(|_| {}).await;
    world.office.answer(
        "/twiml",
        "<Response><Gather action=\"/keys\"><Say>Press two.</Say></Gather><Gather timeout=\"3\"/><Say>Bye.</Say></Response>",
    );
    world.office.answer("/keys", "<Response><Redirect>/again</Redirect></Response>");
    world.office.answer("/again", "<Response><Gather action=\"/keys\"/><Say>Bye.</Say></Response>");
    let sid = world.create(&[("To", "+14155550121")]).await.sid();
    world.carrier.settled().await;
    // The scenario presses `42#`: the last key ends the input.
    let pressed: Vec<_> = world.office.callbacks("/keys").iter().map(|told| told["Digits"].clone()).collect();
    assert_eq!(pressed, ["42"]);
    assert_eq!(world.call(&sid).conversation.unwrap().followed.last().unwrap(), "Say Bye.");
    let silent = world.create(&[("To", "+14155550122")]).await.sid();
    world.carrier.settled().await;
    assert_eq!(
        world.call(&silent).conversation.unwrap().followed,
        ["Gather", "Say Press two.", "Gather", "Say Bye."]
    );
}

#[tokio::test]
async fn a_document_that_cannot_be_had_is_replaced_by_the_fallback() {
    let world = World::start(|_| {}).await;
    let (url, fallback) = (format!("{}/missing", world.office.url), format!("{}/fallback", world.office.url));
    world.office.answer("/fallback", "<Response><Say>Sorry.</Say></Response>");
    let sid = world.create(&[("Url", &url), ("FallbackUrl", &fallback)]).await.sid();
    world.carrier.settled().await;
    assert_eq!(world.office.callbacks("/fallback")[0]["ErrorUrl"], url);
    assert_eq!(world.call(&sid).conversation.unwrap().followed, ["Say Sorry."]);
    assert!(world.carrier.report().violations[0].contains("answered 404"));
}

#[tokio::test]
async fn a_call_from_outside_is_on_the_books_and_can_be_put_through() {
    let world = World::start(|_| {}).await;
    let media = Media::start().await;
    world.office.answer("/voice", &media.document("/ended"));
    world.office.answer("/dialed", "<Response><Hangup/></Response>");
    let scenario = Scenario::named("silent").unwrap();
    let options = CallerOptions {
        status_url: Some(format!("{}/over", world.office.url)),
        ..CallerOptions::new(format!("{}/voice", world.office.url), None, scenario)
    };
    let put_through = async {
        media.wait_for("media").await;
        let sid = world.carrier.report().calls[0].sid.clone();
        let fetched = world.fetch(&sid).await.body;
        assert_eq!((&fetched["status"], &fetched["direction"]), (&json!("in-progress"), &json!("inbound")));
        let twiml = format!(
            "<Response><Dial action=\"{}/dialed\"><Number>+14155550223</Number></Dial></Response>",
            world.office.url
        );
        assert_eq!(world.update(&sid, &[("Twiml", &twiml)]).await.status, 200);
    };
    let (call, ()) = tokio::join!(world.carrier.call_in(options), put_through);
    world.carrier.settled().await;
    assert_eq!(call.followed[1..], ["Dial +14155550223", "Hangup"]);
    assert_eq!(world.office.callbacks("/dialed")[0]["DialBridged"], "true");
    assert_eq!(world.office.callbacks("/voice")[0]["CallStatus"], "ringing");
    assert_eq!(world.office.callbacks("/over")[0]["CallStatus"], "completed");
    assert_eq!(call.violations, [""; 0]);
}

#[tokio::test]
async fn a_call_from_outside_rings_on_until_somebody_of_the_team_answers() {
    let world = World::start(|_| {}).await;
    let voice = format!("{}/voice", world.office.url);
    let call_in = async |numbers: &str, afterwards: &str| {
        let dial =
            format!("<Dial answerOnBridge=\"true\" timeout=\"10\" action=\"/dialed\">{numbers}</Dial>");
        world.office.answer("/voice", &format!("<Response>{dial}</Response>"));
        world.office.answer("/dialed", afterwards);
        let options = CallerOptions::new(voice.clone(), None, Scenario::named("silent").unwrap());
        let call = world.carrier.call_in(options).await;
        (world.call(&call.call_sid), world.office.callbacks("/dialed").pop().unwrap())
    };
    let hangup = "<Response><Hangup/></Response>";
    let (taken, told) = call_in("<Number>+14155550223</Number>", hangup).await;
    assert_eq!((told["CallStatus"].as_str(), told["DialBridged"].as_str()), ("in-progress", "true"));
    let child = world.carrier.report().calls.last().unwrap().clone();
    assert_eq!(taken.status, "completed");
    assert!(taken.answered_at >= child.answered_at && child.answered_at.is_some(), "{taken:?}");
    // Nobody of the team answers, and what follows takes the call.
    let (taken, told) =
        call_in("<Number>+14155550226</Number>", "<Response><Say>Hello.</Say></Response>").await;
    assert_eq!((told["CallStatus"].as_str(), told["DialCallStatus"].as_str()), ("ringing", "no-answer"));
    assert!(taken.status == "completed" && taken.answered_at.is_some(), "{taken:?}");
}

#[tokio::test]
async fn a_call_from_outside_that_is_rejected_was_never_answered() {
    let world = World::start(|_| {}).await;
    for (document, status) in [("<Reject reason='busy'/>", "busy"), ("<Reject/>", "no-answer")] {
        world.office.answer("/voice", &format!("<Response>{document}</Response>"));
        let url = format!("{}/voice", world.office.url);
        let call =
            world.carrier.call_in(CallerOptions::new(url, None, Scenario::named("silent").unwrap())).await;
        let log = world.call(&call.call_sid);
        assert_eq!((log.status, log.answered_at), (status, None));
    }
}

// ----------------------------------------------------------------------------------------------------------- helpers

/// A carrier and the server behind its webhooks.
struct World {
    carrier: Carrier,
    office: Office,
    http: reqwest::Client,
}

/// An answer of the API.
struct Answer {
    status: u16,
    body: Value,
}

impl Answer {
    fn sid(&self) -> String {
        self.body["sid"].as_str().unwrap_or_else(|| panic!("no call: {}", self.body)).to_owned()
    }

    fn code(&self) -> u64 {
        self.body["code"].as_u64().unwrap()
    }
}

impl World {
    /// Numbers that end in 1 press keys, in 2 are silent, in 4 are machines, in 5 busy, 6 away, 7 not connected, 8 refused,
    /// in 9 hang up at once; others simply answer.
    async fn start(change: impl FnOnce(&mut CarrierOptions)) -> Self {
        voicebridge::app::install_tls();
        let person = |word: &str| word.parse::<Person>().unwrap();
        let mut people = People::all(Person::Answers(Scenario {
            name: "listens".into(),
            voice: String::new(),
            steps: vec![Step::Pause { ms: 100 }],
        }));
        for (ending, word) in [
            ("1", "answered:keypad"),
            ("2", "answered:silent"),
            ("4", "voicemail:2000"),
            ("5", "busy"),
            ("6", "no-answer"),
            ("7", "failed:480"),
            ("8", "refused:21217"),
            ("9", "hangs-up:3000"),
        ] {
            people = people.with(ending, person(word));
        }
        let mut options = CarrierOptions {
            cps: 200.0,
            pace: PACE,
            people,
            ..CarrierOptions::new(ACCOUNT, SecretString::from(TOKEN))
        };
        change(&mut options);
        let carrier = Carrier::on_any_port(options).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { carrier, office: Office::start().await, http }
    }

    fn calls_url(&self) -> String {
        format!("{}/2010-04-01/Accounts/{ACCOUNT}/Calls.json", self.carrier.url())
    }

    /// Parameters that ask for a verdict while the call runs.
    fn amd(&self, how: &str) -> Amd {
        Amd { how: how.to_owned(), url: format!("{}/amd?attempt=7", self.office.url) }
    }

    /// Asks for a call, as usual but for these parameters.
    async fn create(&self, changes: &[(&str, &str)]) -> Answer {
        self.try_create(changes).await.expect("the carrier answers")
    }

    async fn try_create(&self, changes: &[(&str, &str)]) -> Option<Answer> {
        let url = format!("{}/twiml?attempt=7", self.office.url);
        let status = format!("{}/status?attempt=7", self.office.url);
        let usual =
            [("To", THEIRS), ("From", OURS), ("Url", url.as_str()), ("StatusCallback", status.as_str())];
        let kept = usual.into_iter().filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
        let events = ["initiated", "ringing", "answered", "completed"];
        let form: Vec<(&str, &str)> = kept
            .chain(changes.iter().copied())
            .chain(events.map(|event| ("StatusCallbackEvent", event)))
            .collect();
        self.send(self.http.post(self.calls_url()).form(&form)).await
    }

    async fn update(&self, sid: &str, form: &[(&str, &str)]) -> Answer {
        let url = self.calls_url().replace(".json", &format!("/{sid}.json"));
        self.send(self.http.post(url).form(form)).await.unwrap()
    }

    async fn fetch(&self, sid: &str) -> Answer {
        let url = self.calls_url().replace(".json", &format!("/{sid}.json"));
        self.send(self.http.get(url)).await.unwrap()
    }

    /// A list of calls.
    async fn get(&self, query: &str) -> Value {
        self.send(self.http.get(format!("{}{query}", self.calls_url()))).await.unwrap().body
    }

    /// `None` when the connection was cut.
    async fn send(&self, request: reqwest::RequestBuilder) -> Option<Answer> {
        let response = request.basic_auth(ACCOUNT, Some(TOKEN)).send().await.ok()?;
        let status = response.status().as_u16();
        let body = response.bytes().await.ok()?;
        Some(Answer { status, body: serde_json::from_slice(&body).unwrap_or_default() })
    }

    fn call(&self, sid: &str) -> CallLog {
        let report: CarrierReport = self.carrier.report();
        report.call(sid).unwrap().clone()
    }

    async fn until(&self, sid: &str, reached: impl Fn(&CallLog) -> bool) {
        let deadline = Instant::now() + SOON;
        while !reached(&self.call(sid)) {
            assert!(Instant::now() < deadline, "{:?}", self.call(sid));
            sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Amd {
    how: String,
    url: String,
}

impl Amd {
    fn each<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let asked = [
            ("MachineDetection", self.how.as_str()),
            ("AsyncAmd", "true"),
            ("AsyncAmdStatusCallback", &self.url),
        ];
        asked.into_iter().chain(more.iter().copied()).collect()
    }
}

/// The server behind the webhooks: says what it is told to say, and remembers what it was asked.
struct Office {
    url: String,
    desk: Arc<Desk>,
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct Desk {
    documents: Mutex<BTreeMap<String, String>>,
    seen: Mutex<Vec<(String, BTreeMap<String, String>)>>,
    unsigned: Mutex<Vec<String>>,
}

impl Office {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let desk = Arc::new(Desk::default());
        let state = (Arc::clone(&desk), url.clone());
        let router = Router::new().fallback(attend).with_state(state);
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let office = Self { url, desk, _serving: serving };
        office.answer("/twiml", "<Response><Say>Hello.</Say></Response>");
        office
    }

    /// From now on requests to this path are answered so.
    fn answer(&self, path: &str, document: &str) {
        self.desk.documents.lock().unwrap().insert(path.to_owned(), document.to_owned());
    }

    /// What was asked of this path and query, in order.
    fn callbacks(&self, path: &str) -> Vec<BTreeMap<String, String>> {
        let seen = self.desk.seen.lock().unwrap();
        seen.iter().filter(|(asked, _)| asked == path).map(|(_, fields)| fields.clone()).collect()
    }

    async fn wait_for(&self, path: &str) -> BTreeMap<String, String> {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(fields) = self.callbacks(path).pop() {
                return fields;
            }
            assert!(Instant::now() < deadline, "nobody asked for {path}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn unsigned(&self) -> Vec<String> {
        self.desk.unsigned.lock().unwrap().clone()
    }
}

async fn attend(
    State((desk, base)): State<(Arc<Desk>, String)>,
    uri: Uri,
    headers: HeaderMap,
    RawForm(body): RawForm,
) -> impl IntoResponse {
    let body = String::from_utf8(body.to_vec()).unwrap();
    let fields: Vec<(String, String)> =
        reqwest::Url::parse(&format!("http://x/?{body}")).unwrap().query_pairs().into_owned().collect();
    let expected = signature::sign(TOKEN, &format!("{base}{uri}"), &fields);
    if headers.get("x-twilio-signature").is_none_or(|given| *given != *expected) {
        desk.unsigned.lock().unwrap().push(uri.to_string());
    }
    desk.seen.lock().unwrap().push((uri.to_string(), fields.into_iter().collect()));
    let document = desk.documents.lock().unwrap().get(uri.path()).cloned();
    let status = if uri.path() == "/missing" { StatusCode::NOT_FOUND } else { StatusCode::OK };
    (status, [("content-type", "text/xml")], document.unwrap_or_else(|| "<Response/>".to_owned()))
}

/// Takes media streams, listens and never hangs up.
struct Media {
    address: std::net::SocketAddr,
    seen: Arc<Mutex<Vec<Value>>>,
    _tasks: JoinSet<()>,
}

impl Media {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let events = Arc::clone(&seen);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if let Ok(text) = message.to_text()
                        && let Ok(event) = serde_json::from_str(text)
                    {
                        events.lock().unwrap().push(event);
                    }
                }
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    fn document(&self, action: &str) -> String {
        format!(
            "<Response><Connect action=\"{action}\"><Stream url=\"ws://{}/media\"/></Connect></Response>",
            self.address
        )
    }

    fn kinds(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter_map(|event| Some(event["event"].as_str()?.to_owned())).collect()
    }

    async fn wait_for(&self, kind: &str) {
        let deadline = Instant::now() + SOON;
        while !self.kinds().iter().any(|seen| seen == kind) {
            assert!(Instant::now() < deadline, "no {kind} in {:?}", self.kinds());
            sleep(Duration::from_millis(5)).await;
        }
    }
}
