//! A model that refuses, fails, falls silent, goes away or talks nonsense.

use serde_json::Value;
use tokio::join;
use voicebridge::simulate::caller::{CallReport, CallerOptions, run_call};
use voicebridge::simulate::model::script::{FunctionCall, Outcome, Reply, Rule, When};
use voicebridge::simulate::model::{Faults, ModelOptions, ModelReport, ModelServer, Transcripts};
use voicebridge::simulate::scenario::{Scenario, Step};

use crate::look::until;
use crate::world::World;
use crate::{brief, failing, interrupt, listen, only_stream, rule, say, scenario, short, tone};

const SENTENCE: &str = "Say Sorry, something went wrong on our side. Please call again later.";

/// One call, and everything that is left of it.
struct Over {
    call: CallReport,
    reason: String,
    rows: Vec<Value>,
    model: ModelReport,
    late_frames: u64,
    reconnects: u64,
}

impl Over {
    fn words(&self) -> Vec<&str> {
        self.rows.iter().map(|row| row["content"].as_str().unwrap()).collect()
    }

    /// The caller is told that it did not work.
    fn is_apologised_for(&self, reason: &str) {
        assert_eq!(self.reason, reason, "{:?}", self.call);
        assert_eq!(self.call.violations, Vec::<String>::new());
        assert_eq!(self.call.followed[1..], [SENTENCE, "Hangup"], "{:?}", self.call);
    }

    /// The caller hung up satisfied, and the model has nothing to complain about.
    fn went_well(&self) {
        only_stream(&self.call);
        assert_eq!(self.reason, "caller_hung_up");
        assert!(self.model.sessions.iter().all(|session| session.violations.is_empty()), "{:?}", self.model);
    }
}

async fn call(model: ModelOptions, steps: Scenario) -> Over {
    Box::pin(call_with(model, steps, &[])).await
}

async fn call_with(model: ModelOptions, steps: Scenario, settings: &[(&str, &str)]) -> Over {
    let world = World::start(model, &[&[("AUDIO_FORMAT", "pcmu")], settings].concat()).await;
    Box::pin(call_in(world, steps)).await
}

async fn call_in(world: World, steps: Scenario) -> Over {
    let over = call_in_world(&world, steps).await;
    world.stop().await;
    over
}

async fn call_in_world(world: &World, steps: Scenario) -> Over {
    let call = run_call(world.call(steps)).await;
    let reason = world.reason(&call.call_sid).await;
    world.settled().await;
    let rows = world.transcript(&call.call_sid).await;
    let late_frames = world.metric(r#"frames_dropped_total{why="interrupted"}"#);
    let reconnects = world.metric("reconnects_total");
    let model = world.model.report();
    Over { call, reason, rows, model, late_frames, reconnects }
}

fn faulty(faults: Faults) -> ModelOptions {
    ModelOptions { faults, script: brief([]), ..ModelOptions::default() }
}

/// Stays on the line until the other side ends the call.
fn patient() -> Scenario {
    scenario([])
}

// ---- Set-up ----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_caller_whose_model_refuses_hears_an_apology_at_once() {
    let status =
        |status| call(faulty(Faults { refuse_upgrade: Some(status), ..Faults::default() }), patient());
    let wrong_key = ModelOptions { api_key: Some("another-key".into()), ..ModelOptions::default() };
    let refused_update = Faults { refuse_update: Some("invalid_value".into()), ..Faults::default() };
    let nobody = [("OPENAI_REALTIME_URL", "ws://127.0.0.1:9")];
    let (unauthorised, limited, broken, invalid_key, refused, unreachable) = join!(
        status(401),
        status(429),
        status(500),
        call(wrong_key, patient()),
        call(faulty(refused_update), patient()),
        call_with(ModelOptions::default(), patient(), &nobody),
    );
    // Trying again later may help with these.
    for over in [&limited, &broken, &unreachable] {
        over.is_apologised_for("model_unavailable");
    }
    for over in [&unauthorised, &invalid_key, &refused] {
        over.is_apologised_for("model_refused");
    }
    assert_eq!(invalid_key.model.sessions[0].errors, ["invalid_api_key"], "let in first, then refused");
    for over in [unauthorised, limited, broken, invalid_key, refused, unreachable] {
        assert_eq!(over.call.streams[0].media_bytes, 0, "nothing was heard of a model that was not ready");
        assert!(over.model.sessions.iter().all(|session| session.appends == 0 && !session.open));
        assert_eq!(over.rows, Vec::<Value>::new());
    }
}

#[tokio::test]
async fn a_model_that_would_speak_another_format_is_never_heard() {
    let faults = Faults { echo_pcm_output: true, ..Faults::default() };
    let over = call(faulty(faults), patient()).await;
    over.is_apologised_for("model_refused");
    assert_eq!(over.call.streams[0].media_bytes, 0);
    assert_eq!(over.model.sessions[0].appends, 0);
}

#[tokio::test]
async fn a_transcription_model_that_is_refused_is_replaced_or_left_out() {
    let refusing = |models: &[&str]| ModelOptions {
        refused_transcription_models: models.iter().map(ToString::to_string).collect(),
        script: brief([]),
        ..ModelOptions::default()
    };
    let first = ["gpt-transcribe"];
    let both = ["gpt-transcribe", "gpt-4o-mini-transcribe"];
    let (replaced, left_out) = join!(call(refusing(&first), short()), call(refusing(&both), short()));
    for over in [&replaced, &left_out] {
        over.went_well();
    }
    let model =
        |over: &Over| over.model.sessions[0].session["audio"]["input"]["transcription"]["model"].clone();
    assert_eq!(model(&replaced), "gpt-4o-mini-transcribe");
    assert_eq!(replaced.words(), ["Good day.", "Hello?", "Hello to you."]);
    assert_eq!(model(&left_out), Value::Null);
    assert_eq!(left_out.words(), ["Good day.", "", "Hello to you."]);
    assert_eq!(left_out.rows[1]["status"], "not_transcribed");
}

#[tokio::test]
async fn sessions_are_opened_while_the_call_is_set_up_used_once_and_closed_when_nobody_comes() {
    let world = World::start(faulty(Faults::default()), &[("AUDIO_FORMAT", "pcmu")]).await;
    let offered = world.offer("CA1").await;
    until("the session is agreed on before the stream begins", async || {
        world.model.report().sessions.first().is_some_and(|session| session.updates == 1)
    })
    .await;
    let call = run_call(CallerOptions { call_sid: Some("CA2".into()), ..world.call(short()) }).await;
    only_stream(&call);
    world.reason("CA2").await;
    let sessions = world.model.report().sessions;
    assert_eq!(sessions.len(), 2, "one for each call");
    assert!(sessions[0].open && !sessions[1].open, "{sessions:?}");
    until("the first session is given up", async || !world.model.report().sessions[0].open).await;
    assert_eq!(world.model.report().sessions[0].appends, 0);

    // A stream that is so late gets a session of its own.
    let mut line = world.connect(&offered).await.expect("the offer still stands");
    line.start("CA1", &serde_json::json!({})).await;
    line.hear("media").await;
    line.stop().await;
    assert_eq!(world.reason("CA1").await, "caller_hung_up");
    assert_eq!(world.model.report().sessions.len(), 3);
    assert!(world.metric("model_ready_seconds_count") >= 3);
    world.stop().await;
}

// ---- Responses -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_response_that_fails_is_asked_for_once_more() {
    let once =
        |code| ModelOptions { script: brief([failing(When::Greeting, 1, code)]), ..ModelOptions::default() };
    let always =
        |code: &str| faulty(Faults { fail_every: 1, fail_code: Some(code.into()), ..Faults::default() });
    let (server_error, rate_limit, still_failing, no_quota) = join!(
        call(once("server_error"), short()),
        call(once("rate_limit_exceeded"), short()),
        call(always("server_error"), patient()),
        call(always("insufficient_quota"), patient()),
    );
    for over in [server_error, rate_limit] {
        assert_eq!(over.reconnects, 0);
        over.went_well();
        let statuses: Vec<_> = over.model.sessions[0].responses.iter().map(|r| r.status.as_str()).collect();
        assert_eq!(statuses, ["failed", "completed", "completed"]);
        assert_eq!(over.words(), ["Good day.", "Hello?", "Hello to you."]);
    }
    still_failing.is_apologised_for("model_failed");
    let tries: Vec<_> = still_failing.model.sessions.iter().map(|session| session.responses.len()).collect();
    assert_eq!(tries, [2, 2], "each of two sessions is given a second try");
    no_quota.is_apologised_for("model_refused");
    assert_eq!(no_quota.model.sessions[0].responses.len(), 1, "asking again would be in vain");
}

#[tokio::test]
async fn a_response_may_be_cut_short_or_have_several_parts_and_noise_is_no_harm() {
    let incomplete = Rule {
        reply: Reply {
            outcome: Outcome::Incomplete("max_output_tokens".into()),
            ..rule(When::Anything, [tone(1000, "This is far too long.")]).reply
        },
        ..rule(When::Heard("address-question".into()), [])
    };
    let parts = [tone(300, "One."), tone(300, "Two."), tone(300, "Three.")];
    let script = brief([rule(When::Heard("hello".into()), parts), incomplete]);
    let faults = Faults { noise: true, ..Faults::default() };
    let model = ModelOptions { script, faults, split_samples: true, ..ModelOptions::default() };
    let steps =
        || scenario([listen(), say("hello"), listen(), say("address-question"), listen(), Step::HangUp]);
    let linear = [("AUDIO_FORMAT", "pcm24k")];
    let (ulaw, linear) = join!(call(model.clone(), steps()), call_with(model, steps(), &linear));
    for over in [ulaw, linear] {
        over.went_well();
        let words = over.words();
        assert_eq!(
            words[..6],
            ["Good day.", "Hello?", "One.", "Two.", "Three.", "And what is your address?"]
        );
        assert!("This is far too long.".starts_with(words[6]) && !words[6].is_empty(), "{words:?}");
        assert_eq!(words.len(), 7);
        let stream = only_stream(&over.call);
        assert_eq!(stream.heard_bytes, stream.media_bytes, "every byte of every part was heard");
        assert_eq!(over.model.sessions[0].items.iter().filter(|item| item.truncated_ms.is_some()).count(), 0);
    }
}

#[tokio::test]
async fn what_arrives_of_an_interrupted_answer_is_never_heard() {
    let faults = Faults { late_deltas: 4, ..Faults::default() };
    // Barely faster than it is heard, so that it is still being generated.
    let model = ModelOptions { speed: 1.3, faults, script: brief([]), ..ModelOptions::default() };
    let calls = ["false", "true"].map(|reversible| {
        let model = model.clone();
        async move {
            let world = World::start(model, &[("AUDIO_FORMAT", "pcmu")]).await;
            world.change_agent(&format!("reversible_barge_in = {reversible}")).await;
            let steps = [listen(), say("hours-question"), interrupt(1500, "sunday-question"), listen()];
            Box::pin(call_in(world, scenario(steps.into_iter().chain([Step::HangUp])))).await
        }
    });
    for over in futures_util::future::join_all(calls).await {
        nothing_late_was_heard(&over);
    }
}

fn nothing_late_was_heard(over: &Over) {
    over.went_well();
    let session = &over.model.sessions[0];
    let cut = session.items.iter().find(|item| item.truncated_ms.is_some()).expect("one was cut");
    assert_eq!(session.responses.iter().filter(|response| response.status == "cancelled").count(), 1);
    assert!(over.late_frames >= 1, "late audio came and was dropped");
    let [clear] = &only_stream(&over.call).clears[..] else { panic!("one clear: {:?}", over.call) };
    let after: Vec<_> = clear.followed_by.iter().filter_map(|audio| audio.mark.as_ref()).collect();
    assert!(after.iter().all(|mark| !mark.contains(&cut.id)), "{after:?}");
    let row = over.rows.iter().find(|row| row["item_id"] == *cut.id).expect("it is in the transcript");
    assert_eq!(row["interrupted"], true);
    assert_eq!(over.words().last(), Some(&"On Sunday we are closed."));
}

#[tokio::test]
async fn a_function_called_with_broken_arguments_is_understood_or_explained() {
    let rule = |phrase: &str, tool: &str, say| Rule {
        reply: Reply {
            call: vec![FunctionCall { tool: tool.into(), arguments: "{}".into() }],
            ..rule(When::Anything, [say]).reply
        },
        ..rule(When::Heard(phrase.into()), [])
    };
    let faults = Faults { broken_arguments: true, ..Faults::default() };
    let script = brief([
        rule("hello", "transfer", tone(300, "I will put you through.")),
        rule("goodbye", "end_call", tone(300, "Goodbye.")),
    ]);
    let model = ModelOptions { script, faults, ..ModelOptions::default() };
    let to_people = async |model| {
        let world = World::start(model, &[("AUDIO_FORMAT", "pcmu")]).await;
        world.change_agent("transfer_number = '+14155550199'").await;
        call_in(world, scenario([listen(), say("hello")])).await
    };
    let (end, transfer) = join!(call(model.clone(), scenario([listen(), say("goodbye")])), to_people(model));
    // What is wanted is clear enough without them.
    assert_eq!((end.reason.as_str(), transfer.reason.as_str()), ("agent_ended", "transferred"));
    for over in [end, transfer] {
        let row = over.rows.last().unwrap();
        assert_eq!(
            (&row["role"], &row["generated_content"]),
            (&"tool".into(), &r#"{"reason": "#.into()),
            "{row}"
        );
    }
}

// ---- Losing it -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_model_that_goes_away_for_good_ends_the_call_with_an_apology_or_with_people() {
    let spoken = [rule(When::Greeting, [tone(20_000, "A very long story.")])];
    let for_good = Some(Faults { refuse_upgrade: Some(503), ..Faults::default() });
    let going = |faults| ModelOptions {
        script: brief(spoken.clone()),
        speed: 1.0,
        later_faults: for_good.clone(),
        ..faulty(faults)
    };
    let after_ms = Some(4000);
    let dropped = call(going(Faults { drop_after_ms: after_ms, ..Faults::default() }), patient());
    let expired = call(going(Faults { expire_after_ms: after_ms, ..Faults::default() }), patient());
    let frozen = call(going(Faults { freeze_after_ms: after_ms, ..Faults::default() }), patient());
    let never_there = call(faulty(Faults { no_session: true, ..Faults::default() }), patient());
    let with_people = async {
        let world = World::start(going(Faults { drop_after_ms: after_ms, ..Faults::default() }), &[]).await;
        world.change_agent("transfer_number = '+14155550199', fallback_sentence = 'One moment.'").await;
        let call = run_call(world.call(patient())).await;
        assert_eq!(world.reason(&call.call_sid).await, "model_lost");
        let whispered = "Whisper Say A caller from the assistant. Connecting you now.";
        let followed = ["Say One moment.", "Dial +14155550199", whispered, "Hangup"];
        assert_eq!(call.followed[1..], followed, "{call:?}");
        world.settled().await;
        let query = format!("select event_sequence::text from calls where call_sid = '{}'", call.call_sid);
        let events = world.value::<String>(&query).await;
        assert!(events.contains(r#""type": "transferred""#) && events.contains("+14155550199"), "{events}");
        world.stop().await;
    };
    let (dropped, expired, frozen, never_there, ()) =
        join!(dropped, expired, frozen, never_there, with_people);
    dropped.is_apologised_for("model_lost");
    expired.is_apologised_for("model_lost");
    assert_eq!(expired.model.sessions[0].errors, ["session_expired"]);
    frozen.is_apologised_for("model_stalled");
    assert!(
        frozen.call.duration_ms < 15_000.0,
        "it was noticed by more than the missing answer: {:?}",
        frozen.call
    );
    never_there.is_apologised_for("model_unavailable");
    for over in [dropped, expired, frozen] {
        let [row] = &over.rows[..] else { panic!("the greeting is on record: {:?}", over.rows) };
        let said = row["content"].as_str().unwrap();
        assert!(
            "A very long story.".starts_with(said) && said != "A very long story.",
            "not what was heard: {row}"
        );
        assert_eq!(row["role"], "assistant");
        assert!(over.call.heard_voice_ms() > 0);
    }
}

#[tokio::test]
async fn a_call_whose_session_is_lost_goes_on_where_it_was_with_another_one() {
    let story = "One two three four five six seven eight nine ten eleven twelve.";
    let rules = [
        rule(When::Greeting, [tone(6_000, story)]),
        rule(When::Asked("go on".into()), [tone(1_000, "And the rest of it.")]),
    ];
    let losing = |faults| ModelOptions {
        script: brief(rules.clone()),
        speed: 1.0,
        later_faults: Some(Faults::default()),
        ..faulty(faults)
    };
    let after_ms = Some(3_000);
    let (dropped, stalled) = join!(
        call(losing(Faults { drop_after_ms: after_ms, ..Faults::default() }), short()),
        // Who hears nothing for 2.5 s, while it is noticed, has patience.
        call(
            losing(Faults { freeze_after_ms: after_ms, ..Faults::default() }),
            scenario([
                Step::Listen { silence_ms: 4_000, within_ms: 30_000 },
                say("hello"),
                listen(),
                Step::HangUp,
            ]),
        ),
    );
    for over in [dropped, stalled] {
        over.went_well();
        let [lost, next] = &over.model.sessions[..] else { panic!("not two sessions: {:?}", over.model) };
        assert_eq!(lost.session["instructions"], next.session["instructions"]);
        let (told, asked) = (&next.items[0], &next.responses[0]);
        assert_eq!((told.role.as_deref(), &asked.metadata["purpose"]), (Some("assistant"), &"resume".into()));
        assert!(story.starts_with(&told.text) && told.text.len() > 10 && told.text != story, "{told:?}");
        let words = over.words();
        assert_eq!(words, [told.text.as_str(), "And the rest of it.", "Hello?", "Hello to you."]);
        assert_eq!(over.reconnects, 1);
    }
}

#[tokio::test]
async fn garbage_and_a_long_way_do_not_disturb_a_call() {
    let (garbage, late) = join!(
        call(faulty(Faults { garbage_every: 2, ..Faults::default() }), short()),
        call(faulty(Faults { delay_ms: 400, ..Faults::default() }), short()),
    );
    for over in [garbage, late] {
        over.went_well();
        assert_eq!(over.words(), ["Good day.", "Hello?", "Hello to you."]);
        assert_eq!((over.model.sessions.len(), over.reconnects), (1, 0));
    }
}

#[tokio::test]
async fn sessions_that_are_short_are_replaced_between_turns_and_the_caller_notices_nothing() {
    let limit = Faults { expire_after_ms: Some(6_000), ..Faults::default() };
    let over = call(ModelOptions { speed: 2.0, ..faulty(limit) }, talk(8)).await;
    over.went_well();
    let sessions = &over.model.sessions;
    assert!(sessions.len() >= 4 && over.reconnects == 0, "{} sessions", sessions.len());
    assert!(
        sessions.iter().all(|session| session.errors.is_empty()),
        "one was used to its end: {sessions:?}"
    );
    let whole: Vec<&str> =
        std::iter::once("Good day.").chain((0..8).flat_map(|_| ["Hello?", "Hello to you."])).collect();
    assert_eq!(over.words(), whole);
    let greetings = sessions.iter().flat_map(|session| &session.responses);
    assert_eq!(greetings.filter(|response| response.metadata["purpose"] == "greeting").count(), 1);
    // Every answer comes as soon as in a call that has one session, also the first of a session.
    let usual = call(faulty(Faults::default()), talk(2)).await;
    let latencies =
        |over: &Over| over.call.utterances.iter().map(|said| said.latency_ms.unwrap()).fold(0.0, f64::max);
    let (worst_ms, usual_ms) = (latencies(&over), latencies(&usual));
    assert!(worst_ms < usual_ms + 200.0, "{worst_ms} ms to an answer, {usual_ms} ms is usual");
}

/// The answer is so long that the session that is to follow has to stand by for more than three seconds.
#[tokio::test]
async fn a_session_that_stands_by_and_is_dead_is_found_out_and_replaced_and_one_that_lives_is_kept() {
    let limit = Faults { expire_after_ms: Some(28_000), ..Faults::default() };
    let story = rule(When::Greeting, [tone(25_000, "A very long story.")]);
    let call_of = |later_faults| {
        let script = brief([story.clone()]);
        let options = ModelOptions { script, speed: 1.0, later_faults, ..faulty(limit.clone()) };
        async move {
            let world = World::start(options, &[("AUDIO_FORMAT", "pcmu")]).await;
            let talking = call_in_world(&world, short());
            let mending = async {
                until("there is a next session", async || world.model.report().sessions.len() == 2).await;
                world.model.set_faults(Faults::default());
            };
            let (over, ()) = join!(talking, mending);
            over.went_well();
            assert_eq!(over.words(), ["A very long story.", "Hello?", "Hello to you."]);
            assert_eq!(over.reconnects, 0);
            assert_eq!(world.metric("renewals_total"), 1);
            let answered: Vec<_> = over.model.sessions.iter().map(|s| s.responses.len()).collect();
            world.stop().await;
            answered
        }
    };
    let dead = Faults { freeze_after_ms: Some(1_000), ..Faults::default() };
    let (kept, replaced) = join!(call_of(None), call_of(Some(dead)));
    assert_eq!((kept, replaced), (vec![1, 1], vec![1, 0, 1]));
}

// ---- Where sessions come from ----------------------------------------------------------------------------------------

#[tokio::test]
async fn a_second_endpoint_takes_the_calls_that_the_first_one_fails() {
    let options = ModelOptions { script: brief([]), ..ModelOptions::default() };
    let second = ModelServer::bind(options.clone(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let key = ("OPENAI_REALTIME_FALLBACK_API_KEY", "the-other-key");
    let settings = [("AUDIO_FORMAT", "pcmu"), ("OPENAI_REALTIME_FALLBACK_URL", &second.url()), key];
    let world = World::start(options, &settings).await;

    // In the middle of a call.
    let talking = run_call(world.call(talk(3)));
    let cutting = async {
        until("the call has been greeted", async || {
            let sessions = world.model.report().sessions;
            sessions.first().is_some_and(|session| session.responses.iter().any(|r| r.status == "completed"))
        })
        .await;
        world.model.set_faults(Faults { refuse_upgrade: Some(503), ..Faults::default() });
        world.model.cut();
    };
    let (call, ()) = join!(talking, cutting);
    only_stream(&call);
    assert_eq!(world.reason(&call.call_sid).await, "caller_hung_up");
    let [session] = &second.report().sessions[..] else { panic!("one session at the second endpoint") };
    assert!(session.violations.is_empty() && session.responses.len() >= 2, "{session:?}");

    // From the first word on, also when the first endpoint is not asked any more.
    for _ in 0..6 {
        let call = run_call(world.call(scenario([listen(), Step::HangUp]))).await;
        only_stream(&call);
        assert_eq!(world.reason(&call.call_sid).await, "caller_hung_up");
    }
    assert_eq!(world.metric(r#"model_breaker{endpoint="primary"}"#), 2);
    assert_eq!(world.metric(r#"model_sessions_total{endpoint="primary",outcome="opened"}"#), 1);
    assert!(world.metric(r#"model_sessions_total{endpoint="primary",outcome="failed"}"#) >= 5);
    assert_eq!(world.metric(r#"model_sessions_total{endpoint="fallback",outcome="opened"}"#), 7);

    // With both gone nobody waits.
    second.set_faults(Faults { refuse_upgrade: Some(503), ..Faults::default() });
    let mut waits = Vec::new();
    for _ in 0..3 {
        let call = run_call(world.call(patient())).await;
        assert_eq!(world.reason(&call.call_sid).await, "model_unavailable");
        assert_eq!(call.followed[1..], [SENTENCE, "Hangup"]);
        waits.push(call.duration_ms);
    }
    assert_eq!(world.metric(r#"model_breaker{endpoint="fallback"}"#), 2);
    assert!(waits[2] < 1_000.0, "a call that nobody can answer is told so at once: {waits:?}");

    // And when the first one is back, it is found.
    world.model.set_faults(Faults::default());
    until("the first endpoint is used again", async || {
        let call = run_call(world.call(scenario([listen(), Step::HangUp]))).await;
        world.reason(&call.call_sid).await == "caller_hung_up"
    })
    .await;
    assert_eq!(world.metric(r#"model_breaker{endpoint="primary"}"#), 0);
    world.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_refuses_us_is_asked_again_and_the_other_one_helps_meanwhile() {
    let options = ModelOptions { script: brief([]), ..ModelOptions::default() };
    let second = ModelServer::bind(options.clone(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let refusing = Faults { refuse_upgrade: Some(401), ..Faults::default() };
    let settings = [("AUDIO_FORMAT", "pcmu"), ("OPENAI_REALTIME_FALLBACK_URL", &*second.url())];
    let world = World::start(ModelOptions { faults: refusing, ..options }, &settings).await;
    for calls in 1..=7 {
        let call = run_call(world.call(scenario([listen(), Step::HangUp]))).await;
        assert_eq!(world.reason(&call.call_sid).await, "caller_hung_up");
        assert_eq!(world.metric(r#"model_sessions_total{endpoint="primary",outcome="refused"}"#), calls);
    }
    assert_eq!(world.metric(r#"model_breaker{endpoint="primary"}"#), 0, "the key is wrong, not the endpoint");
    world.stop().await;
    second.stop().await;
}

/// Two endpoints, the first of which does this.
async fn two_endpoints(first: ModelOptions) -> (World, ModelServer) {
    let second = ModelServer::bind(faulty(Faults::default()), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let settings = [("AUDIO_FORMAT", "pcmu"), ("OPENAI_REALTIME_FALLBACK_URL", &*second.url())];
    (World::start(first, &settings).await, second)
}

/// Its sessions are agreed on, and break before anything is said.
fn breaking_at_once() -> ModelOptions {
    ModelOptions { think_ms: 1_500, ..faulty(Faults { drop_after_ms: Some(900), ..Faults::default() }) }
}

fn sessions(world: &World, endpoint: &str, outcome: &str) -> u64 {
    world.metric(&format!(r#"model_sessions_total{{endpoint="{endpoint}",outcome="{outcome}"}}"#))
}

#[tokio::test]
async fn who_gets_a_session_that_breaks_stalls_or_fails_at_once_is_spoken_to_from_the_other_endpoint() {
    let stalling = Faults { freeze_after_ms: Some(900), ..Faults::default() };
    let failing = Faults { fail_every: 1, fail_code: Some("server_error".into()), ..Faults::default() };
    let kinds = [breaking_at_once(), ModelOptions { think_ms: 1_500, ..faulty(stalling) }, faulty(failing)];
    let calls = kinds.map(|first| async {
        let (world, second) = two_endpoints(first).await;
        let call = run_call(world.call(talk(2))).await;
        only_stream(&call);
        assert_eq!(world.reason(&call.call_sid).await, "caller_hung_up");
        world.settled().await;
        let rows = world.transcript(&call.call_sid).await;
        let words: Vec<_> = rows.iter().map(|row| row["content"].as_str().unwrap()).collect();
        assert_eq!(words, ["Good day.", "Hello?", "Hello to you.", "Hello?", "Hello to you."]);
        let tries = (world.model.report().sessions.len(), second.report().sessions.len());
        assert_eq!(tries, (1, 1), "one session of the first endpoint is enough to know");
        assert_eq!(
            (sessions(&world, "primary", "lost_early"), sessions(&world, "primary", "served")),
            (1, 0)
        );
        assert_eq!(
            (sessions(&world, "fallback", "served"), sessions(&world, "fallback", "lost_early")),
            (1, 0)
        );
        world.stop().await;
        second.stop().await;
    });
    futures_util::future::join_all(calls).await;
}

#[tokio::test]
async fn an_endpoint_that_breaks_its_sessions_at_once_is_left_alone_until_one_has_served() {
    let (world, second) = two_endpoints(breaking_at_once()).await;
    let greeted = || async {
        let call = run_call(world.call(scenario([listen(), Step::HangUp]))).await;
        only_stream(&call);
        assert_eq!(world.reason(&call.call_sid).await, "caller_hung_up");
    };
    for _ in 0..5 {
        greeted().await;
    }
    assert_eq!((sessions(&world, "primary", "opened"), sessions(&world, "primary", "lost_early")), (5, 5));
    assert_eq!((sessions(&world, "fallback", "opened"), sessions(&world, "fallback", "served")), (5, 5));
    let breaker = || world.metric(r#"model_breaker{endpoint="primary"}"#);
    assert_eq!(breaker(), 2);

    // A test is opened as well as any session before, and shows nothing by that.
    until("it is tested", async || {
        greeted().await;
        sessions(&world, "primary", "opened") == 6
    })
    .await;
    assert_eq!(breaker(), 2);

    world.model.set_faults(Faults::default());
    until("a session of it has served", async || {
        greeted().await;
        breaker() == 0
    })
    .await;
    assert_eq!((sessions(&world, "primary", "served"), sessions(&world, "primary", "lost_early")), (1, 6));
    assert!(world.metric(r#"model_breaker{endpoint="fallback"}"#) == 0);
    world.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_loses_many_sessions_that_have_served_is_asked_at_once_for_others() {
    let (world, second) = two_endpoints(faulty(Faults::default())).await;
    let calls = (0..10).map(|_| async {
        let call = run_call(world.call(talk(3))).await;
        only_stream(&call);
        assert_eq!(world.reason(&call.call_sid).await, "caller_hung_up");
    });
    let cutting = async {
        until("all have been greeted", async || sessions(&world, "primary", "served") == 10).await;
        world.model.cut();
    };
    join!(futures_util::future::join_all(calls), cutting);
    assert_eq!((sessions(&world, "primary", "opened"), sessions(&world, "primary", "lost_early")), (20, 0));
    assert_eq!(world.metric(r#"model_breaker{endpoint="primary"}"#), 0);
    assert_eq!(second.report().sessions.len(), 0);
    world.stop().await;
    second.stop().await;
}

/// Hears the greeting, then asks and hears the answer so many times.
fn talk(turns: usize) -> Scenario {
    let turns = (0..turns).flat_map(|_| [say("hello"), listen()]);
    scenario([listen()].into_iter().chain(turns).chain([Step::HangUp]))
}

// ---- The caller's words ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn texts_that_come_late_in_another_order_or_never_do_not_disturb_the_transcript() {
    let script = brief([rule(When::Heard("address-question".into()), [tone(400, "Mill Street.")])]);
    let with = |transcripts| {
        let model = ModelOptions { script: script.clone(), transcripts, ..ModelOptions::default() };
        call(
            model,
            scenario([listen(), say("hello"), listen(), say("address-question"), listen(), Step::HangUp]),
        )
    };
    let usual = Transcripts::default();
    let (late, reversed, lost, failed) = join!(
        with(Transcripts { delay_ms: 2500, ..usual }),
        with(Transcripts { reversed: true, ..usual }),
        with(Transcripts { lose_every: 2, ..usual }),
        with(Transcripts { fail_every: 2, ..usual }),
    );
    for over in [&late, &reversed] {
        let whole = ["Good day.", "Hello?", "Hello to you.", "And what is your address?", "Mill Street."];
        assert_eq!(over.words(), whole);
    }
    for over in [&lost, &failed] {
        assert_eq!(over.words(), ["Good day.", "Hello?", "Hello to you.", "", "Mill Street."]);
        assert_eq!(over.rows[3]["status"], "not_transcribed");
    }
    for over in [late, reversed, lost, failed] {
        over.went_well();
        let roles: Vec<_> = over.rows.iter().map(|row| row["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["assistant", "user", "assistant", "user", "assistant"]);
        let order: Vec<_> = over.rows.iter().map(|row| row["sequence"].as_i64().unwrap()).collect();
        assert!(order.is_sorted(), "{order:?}");
    }
}
