//! Calls of ours while the records are slow or away: who was called is never taken for a caller, and a machine never for
//! somebody to speak to.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use sqlx::{PgTransaction, Row as _};
use tokio::join;
use tokio::time::sleep;
use uuid::Uuid;
use voicebridge::ids::CallSid;
use voicebridge::shutdown::Tasks;
use voicebridge::simulate::model::{Faults, ModelOptions, ModelServer};
use voicebridge::telemetry::Metrics;

use crate::callbacks::{Server, bridge, lost, status_path};
use crate::{OWN, THEIRS, World, noon};

/// The records of tries do not answer until this is given back.
async fn hold(world: &World) -> PgTransaction<'static> {
    let mut held = world.store.pool().begin().await.unwrap();
    sqlx::raw_sql("lock table call_attempts in access exclusive mode").execute(&mut *held).await.unwrap();
    held
}

/// Types of the events of this call.
async fn events(world: &World, call: &str) -> Vec<String> {
    let rows = sqlx::query(
        "select event->>'type' from calls, jsonb_array_elements(event_sequence) as event where call_sid = $1",
    );
    let rows = rows.bind(call).fetch_all(world.store.pool()).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Where whoever answers is connected, and what the carrier says then.
fn answered(world: &World, sid: &str, attempt: Uuid) -> (String, [(&'static str, String); 5]) {
    let path = format!("/api/agent/{}/call-incoming?attempt={attempt}", world.agent.id);
    let params = [
        ("CallSid", sid.to_owned()),
        ("From", OWN.to_owned()),
        ("To", THEIRS.to_owned()),
        ("Direction", "outbound-api".to_owned()),
        ("CallStatus", "in-progress".to_owned()),
    ];
    (path, params)
}

#[tokio::test]
async fn whoever_answers_a_call_of_ours_waits_for_slow_records_and_is_never_taken_for_a_caller() {
    let world = World::new().await;
    world.enqueue(THEIRS).await;
    let (sid, attempt) = lost(&world).await;
    let server = Server::of(&world);
    let (path, params) = answered(&world, &sid, attempt);
    let params = params.each_ref().map(|(name, value)| (*name, value.as_str()));
    let held = hold(&world).await;
    let (status, twiml) = server.post(&path, &params).await;
    let redirect = format!("<Redirect>https://voice.example.com{path}&amp;waits=1</Redirect></Response>");
    let waits = format!(r#"<Say>One moment please.</Say><Pause length="1"/>{redirect}"#);
    assert!(status == StatusCode::OK && twiml.ends_with(&waits), "{twiml}");
    let (_, twiml) = server.post(&format!("{path}&waits=2"), &params).await;
    assert!(
        twiml.contains("<Say>We are sorry that we have called") && twiml.ends_with("<Hangup/></Response>"),
        "an agent that does not know what it has called about says nothing: {twiml}"
    );
    held.rollback().await.unwrap();
    assert_eq!(events(&world, &sid).await, Vec::<String>::new(), "nobody has called us");
    let (_, twiml) = server.post(&format!("{path}&waits=1"), &params).await;
    assert!(twiml.contains("<Stream url="), "{twiml}");
    assert_eq!(events(&world, &sid).await, ["outbound_dispatched"]);
    assert_eq!(world.attempts().await, [("placed".into(), None, Some(sid))]);
    server.finish().await;
}

#[tokio::test]
async fn a_call_of_a_try_that_is_not_known_any_more_is_no_call_that_came() {
    let world = World::new().await;
    let server = Server::of(&world);
    let (path, params) = answered(&world, "CA7", Uuid::from_u128(7));
    let params = params.each_ref().map(|(name, value)| (*name, value.as_str()));
    let (_, twiml) = server.post(&path, &params).await;
    assert!(twiml.contains("<Stream url="), "{twiml}");
    assert_eq!(events(&world, "CA7").await, Vec::<String>::new());
    server.finish().await;
}

#[tokio::test]
async fn a_machine_is_told_what_it_is_to_be_told_as_soon_as_slow_records_say_what_that_is() {
    let world = World::new().await;
    let campaign = world.campaign("voicemail_message = 'Call us.', voicemail_policy = 'leave_message'").await;
    world.enqueue_lead(campaign, THEIRS, Some("Europe/Berlin")).await;
    world.step("node-1", noon()).await;
    let call = world.carrier.calls()[0].clone();
    let server = Server::of(&world);
    let path = format!("{}&amd=1", status_path(call.attempt));
    let params = [("CallSid", call.sid.as_str()), ("AnsweredBy", "machine_end_beep")];
    let held = hold(&world).await;
    let release = async {
        // Longer than the answer to the carrier waits for the try.
        sleep(Duration::from_millis(3_500)).await;
        held.rollback().await.unwrap();
    };
    let ((status, _), ()) = join!(server.post(&path, &params), release);
    assert_eq!(status, StatusCode::NO_CONTENT);
    server.finish().await;
    let updates = world.carrier.updates();
    assert!(
        matches!(&updates[..], [(_, name, said)] if name == "Twiml" && said.contains("<Say>Call us.</Say>")),
        "{updates:?}"
    );
    assert!(events(&world, &call.sid).await.contains(&"voicemail_detected".to_owned()));
}

#[tokio::test]
async fn a_machine_is_hung_up_on_where_the_records_do_not_come_back() {
    let world = World::new().await;
    world.enqueue(THEIRS).await;
    world.step("node-1", noon()).await;
    let call = world.carrier.calls()[0].clone();
    let server = Server::of(&world);
    world.store.close().await;
    let path = format!("{}&amd=1", status_path(call.attempt));
    for answered_by in ["human", "machine_start"] {
        server.post(&path, &[("CallSid", &call.sid), ("AnsweredBy", answered_by)]).await;
    }
    server.finish().await;
    assert_eq!(world.carrier.updates(), [(call.sid, "Status".to_owned(), "completed".to_owned())]);
}

#[tokio::test]
async fn nobody_is_called_to_find_out_whether_the_model_works_again_and_yet_it_is_found_out() {
    let world = World::new().await;
    let model = ModelServer::on_any_port(ModelOptions::default()).await.unwrap();
    model.set_faults(Faults { refuse_upgrade: Some(503), ..Faults::default() });
    let (tasks, metrics) = (Tasks::new(), Metrics::new());
    let bridge = bridge(&world, &model.url(), &tasks, &metrics);
    assert!(bridge.model_works(), "nothing is known of it");
    let agent = Arc::new(world.agent.clone());
    for n in 0..5 {
        let call = CallSid::parse(&format!("CA{n}")).unwrap();
        bridge.prepare(&format!("token-{n}"), &call, &agent);
    }
    while bridge.model_works() {
        sleep(Duration::from_millis(20)).await;
    }
    model.set_faults(Faults::default());
    while !bridge.model_may_work() {
        sleep(Duration::from_millis(20)).await;
    }
    assert!(!bridge.model_works(), "it has rested, and nobody knows more");
    // As a dialer asks that has calls to make.
    while !bridge.model_works() {
        sleep(Duration::from_millis(20)).await;
    }
    tasks.force_hang_up();
    assert!(tasks.drain(Duration::from_secs(20)).await);
    while model.report().sessions.is_empty() {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(model.stop().await.sessions.len(), 1, "one session has shown it");
}
