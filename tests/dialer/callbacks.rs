//! What the carrier says of a call that we asked for: whose it is, who answered.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use secrecy::SecretString;
use serde_json::Value;
use tower::ServiceExt;
use uuid::Uuid;
use voicebridge::api::settings::{PublicUrl, Settings};
use voicebridge::api::{self, Api};
use voicebridge::bridge::endpoints::Endpoints;
use voicebridge::bridge::model_socket::ModelEndpoint;
use voicebridge::bridge::profile::Defaults;
use voicebridge::bridge::spool::Spool;
use voicebridge::bridge::{self, Bridge};
use voicebridge::ids::CallSid;
use voicebridge::shutdown::Tasks;
use voicebridge::store::agents;
use voicebridge::telemetry::Metrics;
use voicebridge::wire::model::AudioFormat;

use crate::carrier::Behaviour;
use crate::{OWN, THEIRS, World, noon};

pub(crate) struct Server {
    router: axum::Router,
    tasks: Tasks,
}

impl Server {
    pub(crate) fn of(world: &World) -> Self {
        let settings = Settings {
            public_url: PublicUrl::parse("https://voice.example.com").unwrap(),
            twilio_auth_tokens: Vec::new(),
            vapi_webhook_secrets: Vec::new(),
            admin_key: SecretString::from("0123456789abcdef"),
            open_metrics: false,
            cors_origins: Vec::new(),
            max_calls: 100,
            node: "node-1".to_owned(),
        };
        let (tasks, metrics) = (Tasks::new(), Metrics::new());
        // Nobody is there: no test here gets as far as to talk.
        let bridge = bridge(world, "ws://127.0.0.1:9", &tasks, &metrics);
        let api = Api::new(settings, world.store.clone(), bridge, tasks.clone(), metrics);
        let api = api.with_carrier(Some(world.carrier.client()));
        Self { router: api::router(api), tasks }
    }

    pub(crate) async fn post(&self, path: &str, params: &[(&str, &str)]) -> (StatusCode, String) {
        let mut url: reqwest::Url = "http://localhost".parse().unwrap();
        url.query_pairs_mut().extend_pairs(params);
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(url.query().unwrap_or_default().to_owned()))
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Waits for what the carrier is told in the background.
    pub(crate) async fn finish(self) {
        self.tasks.force_hang_up();
        assert!(self.tasks.drain(Duration::from_secs(20)).await);
    }
}

/// A bridge to the model at `url`.
pub(crate) fn bridge(world: &World, url: &str, tasks: &Tasks, metrics: &Metrics) -> Bridge {
    Bridge::new(bridge::Parts {
        store: world.store.clone(),
        spool: Spool::off(),
        metrics: metrics.clone(),
        tasks: tasks.clone(),
        endpoints: Endpoints::new(
            ModelEndpoint::new(url.parse().unwrap(), Some("the-key".into())),
            None,
            metrics,
        ),
        defaults: Defaults {
            model: "model".to_owned(),
            transcription_model: "writer".to_owned(),
            audio_format: AudioFormat::Pcmu,
        },
        http: reqwest::Client::new(),
        node: "node-1".to_owned(),
        max_calls: 100,
    })
}

/// A call was asked for, and the answer was lost.
pub(crate) async fn lost(world: &World) -> (String, Uuid) {
    world.carrier.will([Behaviour::LoseAnswer]);
    world.step("node-1", noon()).await;
    assert_eq!(world.attempts().await, [("dialing".into(), None, None)]);
    let call = world.carrier.calls()[0].clone();
    (call.sid, call.attempt)
}

pub(crate) fn status_path(attempt: Uuid) -> String {
    format!("/api/twilio/call-status?attempt={attempt}")
}

#[tokio::test]
async fn a_lost_answer_is_healed_by_the_first_callback_before_anybody_looks() {
    let world = World::new().await;
    world.enqueue(THEIRS).await;
    let (sid, attempt) = lost(&world).await;
    let server = Server::of(&world);
    let params = [("CallSid", sid.as_str()), ("CallStatus", "ringing"), ("From", OWN), ("To", THEIRS)];
    assert_eq!(server.post(&status_path(attempt), &params).await.0, StatusCode::NO_CONTENT);
    assert_eq!(world.attempts().await, [("placed".into(), None, Some(sid.clone()))]);
    // Another call cannot take its place.
    let params = [("CallSid", "CA99"), ("CallStatus", "ringing")];
    assert_eq!(server.post(&status_path(attempt), &params).await.0, StatusCode::NO_CONTENT);
    assert_eq!(world.attempts().await, [("placed".into(), None, Some(sid))]);
    // A try nobody knows is a callback like any other.
    assert_eq!(server.post(&status_path(Uuid::nil()), &params).await.0, StatusCode::NO_CONTENT);
    assert_eq!(server.post("/api/twilio/call-status?attempt=7", &params).await.0, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn whoever_answers_hears_the_agent_who_knows_what_the_call_is_about() {
    let world = World::new().await;
    let campaign = world.campaign("message = 'Spring sale.'").await;
    let row = world.enqueue_lead(campaign, THEIRS, Some("Europe/Berlin")).await;
    world.run(&format!("update call_queue set message = 'Ask for Ada.' where id = '{row}'")).await;
    let (sid, attempt) = lost(&world).await;
    let server = Server::of(&world);
    let path = format!("/api/agent/{}/call-incoming?attempt={attempt}", world.agent.id);
    let params = [("CallSid", sid.as_str()), ("From", OWN), ("To", THEIRS), ("Direction", "outbound-api")];
    let (status, twiml) = server.post(&path, &params).await;
    assert!(status == StatusCode::OK && twiml.contains("<Stream url="), "{twiml}");
    assert_eq!(world.attempts().await, [("placed".into(), None, Some(sid.clone()))]);
    let events: Value = sqlx::query_scalar("select event_sequence from calls where call_sid = $1")
        .bind(&sid)
        .fetch_one(world.store.pool())
        .await
        .unwrap();
    let types: Vec<_> = events.as_array().unwrap().iter().map(|event| event["type"].clone()).collect();
    assert_eq!(types, ["outbound_dispatched"], "nobody has called us");
    // As any server finds it that takes the stream, or a later one.
    let sid = CallSid::parse(&sid).unwrap();
    let agent = agents::briefed_for_call(&world.store, world.agent.id, &sid).await.unwrap().unwrap();
    let told = agent.instructions.strip_prefix(world.agent.instructions.as_str()).unwrap();
    assert!(told.contains("you have called the other person"), "{told}");
    assert!(told.ends_with("What the call is about:\nAsk for Ada.\n\nSpring sale."), "{told}");
    let other = agents::briefed_for_call(&world.store, world.agent.id, &CallSid::parse("CA77").unwrap())
        .await
        .unwrap();
    assert_eq!(other.unwrap().instructions, world.agent.instructions);
    server.finish().await;
}

#[tokio::test]
async fn a_call_goes_on_that_is_answered_after_its_campaign_was_paused_or_its_number_blocked() {
    let world = World::new().await;
    let campaign = world.campaign("name = 'Other'").await;
    world.enqueue_lead(campaign, THEIRS, Some("Europe/Berlin")).await;
    let (sid, attempt) = lost(&world).await;
    world.run("update campaigns set status = 'paused'").await;
    world
        .run("insert into do_not_call (organization_id, number) select id, '+14155550123' from organisations")
        .await;
    let server = Server::of(&world);
    let path = format!("/api/agent/{}/call-incoming?attempt={attempt}", world.agent.id);
    let params = [("CallSid", sid.as_str()), ("From", OWN), ("To", THEIRS), ("Direction", "outbound-api")];
    assert!(server.post(&path, &params).await.1.contains("<Stream url="));
    server.finish().await;
}

/// What the carrier is told when this answered a call with this policy, and whether voicemail is on record.
async fn verdict(policy: &str, answered_by: &str) -> (Vec<(String, String)>, bool) {
    let world = World::new().await;
    let campaign =
        world.campaign(&format!("voicemail_message = 'Call us.', voicemail_policy = '{policy}'")).await;
    world.enqueue_lead(campaign, THEIRS, Some("Europe/Berlin")).await;
    world.step("node-1", noon()).await;
    let call = world.carrier.calls()[0].clone();
    let detection = call.form.iter().find(|(name, _)| name == "MachineDetection").unwrap().1.clone();
    assert_eq!(detection == "DetectMessageEnd", policy == "leave_message");
    let server = Server::of(&world);
    let path = format!("{}&amd=1", status_path(call.attempt));
    let params = [("CallSid", call.sid.as_str()), ("AnsweredBy", answered_by)];
    assert_eq!(server.post(&path, &params).await.0, StatusCode::NO_CONTENT);
    server.finish().await;
    let updates = world.carrier.updates().into_iter().map(|(sid, name, value)| {
        assert_eq!(sid, call.sid);
        (name, value)
    });
    let noted = "calls where event_sequence @> '[{\"type\": \"voicemail_detected\"}]'";
    (updates.collect(), world.count(noted).await == 1)
}

#[tokio::test]
async fn a_machine_is_hung_up_on_or_left_a_message_as_the_policy_says() {
    let hang_up = || vec![("Status".to_owned(), "completed".to_owned())];
    assert_eq!(verdict("hang_up", "machine_start").await, (hang_up(), true));
    assert_eq!(verdict("retry", "machine_start").await, (hang_up(), true));
    assert_eq!(verdict("hang_up", "fax").await, (hang_up(), false));
    assert_eq!(verdict("hang_up", "human").await, (vec![], false));
    assert_eq!(verdict("hang_up", "unknown").await, (vec![], false));
    let (told, noted) = verdict("leave_message", "machine_end_beep").await;
    assert_eq!(told[0].0, "Twiml");
    assert!(told[0].1.contains("<Say>Call us.</Say><Hangup/>") && noted, "{told:?}");
}
