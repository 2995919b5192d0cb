//! Streams that are not ours, that break, or that are spelled in ways nobody documented.

use std::time::Duration;

use serde_json::json;
use tokio::join;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use voicebridge::simulate::caller::{CallReport, CallerOptions, EndedBy, Spelling, StreamEnd, run_call};
use voicebridge::simulate::model::script::When;
use voicebridge::simulate::model::{ModelOptions, SessionReport, Transcripts};
use voicebridge::simulate::scenario::Step;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::line::{ENDED, TWIML, arrival, connect};
use crate::look::until;
use crate::world::World;
use crate::{brief, listen, only_stream, rule, say, scenario, short, tone};

const PCMU: &[(&str, &str)] = &[("AUDIO_FORMAT", "pcmu")];
/// Rows of everything that a stream could leave behind.
const TRACES: &str = "select (select count(*) from calls) + (select count(*) from call_events) \
    + (select count(*) from call_leases) + (select count(*) from conversation_transcripts) \
    + (select count(*) from leads)";
const BUSY: &str = "<Say>All our lines are busy right now. Please call again in a few minutes.</Say>";
const FALLBACK: &str = "<Say>Sorry, something went wrong on our side. Please call again later.</Say>";

// ---- Who is let in ---------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_stream_that_was_not_offered_is_refused_before_the_handshake_and_leaves_nothing_behind() {
    let world = World::start(ModelOptions::default(), PCMU).await;
    let (open, unknown) = (world.open_address(), format!("{}/unknown", world.open_address()));
    assert_eq!(world.connect(&unknown).await.err(), Some(403), "a token nobody offered");
    for url in [&open, &unknown] {
        assert_eq!(connect(url, None).await.err(), Some(403), "no signature");
        assert_eq!(connect(url, Some("AAAA")).await.err(), Some(403), "no signature of ours");
        let of_another = world.signature("wss://elsewhere.example.com/media-stream");
        assert_eq!(
            connect(url, Some(&of_another)).await.err(),
            Some(403),
            "the signature of another address"
        );
    }
    assert_eq!(world.status("/media-stream", &[("x-twilio-signature", &world.signature(&open))]).await, 400);
    assert_eq!(world.value::<i64>(TRACES).await, 0);
    assert_eq!(world.running.metrics.calls_started.get(), 0);
    assert!(world.model.report().sessions.is_empty(), "no session was opened for them");
    world.stop().await;
}

#[tokio::test]
async fn a_token_is_good_for_one_stream_of_the_latest_offer() {
    let world = World::start(ModelOptions::default(), PCMU).await;
    let replaced = world.offer("CA1").await;
    let offered = world.offer("CA1").await; // Twilio asked again.
    assert_eq!(world.connect(&replaced).await.err(), Some(403), "replaced by a later offer");
    // Neither of these uses it up.
    assert_eq!(connect(&offered, None).await.err(), Some(403));
    let path = offered.split_once("/media-stream").unwrap().1;
    let signature = world.signature(&offered);
    let plain = world.status(&format!("/media-stream{path}"), &[("x-twilio-signature", &signature)]).await;
    assert_eq!(plain, 400, "not a WebSocket handshake");

    let mut line = world.connect(&offered).await.expect("the latest offer is let in");
    assert_eq!(world.connect(&offered).await.err(), Some(403), "used");
    line.start("CA1", &json!({})).await;
    line.hear("media").await;
    assert_eq!(world.connect(&offered).await.err(), Some(403), "used by a live call");
    line.stop().await;
    assert_eq!(world.reason("CA1").await, "caller_hung_up");
    assert_eq!(world.connect(&offered).await.err(), Some(403), "used by a finished call");
    world.running.tasks.force_hang_up(); // The session of the replaced offer still waits.
    world.stop().await;
}

#[tokio::test]
async fn a_stream_that_belongs_to_no_call_of_ours_is_closed_and_leaves_nothing_behind() {
    let world = World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, PCMU).await;
    let foreign = async {
        let mut line = world.connect(&world.offer("CA1").await).await.expect("the offer of CA1");
        line.start("CA2", &json!({})).await;
        line.closed().await;
    };
    let without_start = async {
        let mut line = world.connect(&world.offer("CA3").await).await.expect("the offer of CA3");
        line.text(r#"{"event":"connected","protocol":"Call","version":"1.0.0"}"#).await;
        line.silence().await;
        line.closed().await;
    };
    let without_agent = async {
        for agent in ["00000000-0000-4000-8000-000000000000", "nobody"] {
            let mut line = world.connect(&world.open_address()).await.expect("a signed stream");
            line.start("CA4", &json!({"agent_id": agent})).await;
            line.closed().await;
        }
    };
    let second = async {
        let mut first = world.line("CA5").await;
        first.hear("media").await;
        let mut second = world.connect(&world.open_address()).await.expect("a signed stream");
        second.start("CA5", &json!({})).await;
        second.closed().await;
        // The call goes on with the stream it has.
        first.say("hello", |message| message).await;
        until("the first stream is answered", async || {
            world.transcript("CA5").await.iter().any(|row| row["content"] == "Hello to you.")
        })
        .await;
        first.stop().await;
    };
    join!(foreign, without_start, without_agent, second);
    for call in ["CA2", "CA4"] {
        for table in ["calls", "call_events", "call_leases", "conversation_transcripts"] {
            let rows =
                world.value::<i64>(&format!("select count(*) from {table} where call_sid = '{call}'")).await;
            assert_eq!(rows, 0, "{table} of {call}");
        }
    }
    assert_eq!(world.running.metrics.calls_started.get(), 1, "only the fifth was a call");
    assert_eq!(world.reason("CA5").await, "caller_hung_up");
    for call in ["CA1", "CA3"] {
        assert_eq!(world.reason(call).await, "stream_lost");
        let after = world.webhook(ENDED, &[("CallSid", call), ("CallStatus", "in-progress")]).await;
        assert!(after.contains("<Stream "), "the caller of {call} is not left alone: {after}");
    }
    world.running.tasks.force_hang_up(); // The streams that are expected now will not come.
    world.stop().await;
}

#[tokio::test]
async fn a_stream_of_twiml_that_is_hosted_elsewhere_is_a_call_like_any_other() {
    let world = World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, PCMU).await;
    let agent = world.value::<String>("select id::text from agents where is_default").await;
    let twiml = |parameter: &str| {
        let (stream, after) = (world.open_address(), world.running.public_url.join(ENDED));
        format!(
            "<Response><Connect action='{after}'><Stream url='{stream}'>{parameter}</Stream></Connect></Response>"
        )
    };
    let call = async |parameter: &str| {
        let elsewhere = MockServer::start().await;
        let document = ResponseTemplate::new(200).set_body_raw(twiml(parameter), "text/xml");
        Mock::given(method("POST")).respond_with(document).mount(&elsewhere).await;
        run_call(CallerOptions { webhook_url: elsewhere.uri(), ..world.call(short()) }).await
    };
    let named = format!("<Parameter name='agent_id' value='{agent}'/>");
    let unknown = "<Parameter name='agent_id' value='00000000-0000-4000-8000-000000000000'/>";
    let (named, default, unknown) = join!(call(&named), call(""), call(unknown));
    for call in [named, default] {
        only_stream(&call);
        assert_eq!(world.reason(&call.call_sid).await, "caller_hung_up");
        world.settled().await;
        let words: Vec<_> =
            world.transcript(&call.call_sid).await.iter().map(|row| row["content"].clone()).collect();
        assert_eq!(words, ["Good day.", "Hello?", "Hello to you."]);
    }
    assert_eq!(unknown.streams[0].media_bytes, 0);
    assert!(matches!(unknown.streams[0].ended_by, StreamEnd::Server(_)), "{unknown:?}");
    assert_eq!(unknown.ended_by, EndedBy::Twiml, "{unknown:?}");
    world.stop().await;
}

#[tokio::test]
async fn more_calls_than_there_is_room_for_hear_a_sentence_or_come_again() {
    let world = World::start(ModelOptions::default(), &[PCMU[0], ("VOICEBRIDGE_MAX_CALLS", "1")]).await;
    let (first, second) = (world.offer("CA1").await, world.offer("CA2").await);
    let mut line = world.connect(&first).await.expect("there is room for one");
    line.start("CA1", &json!({})).await;
    line.hear("media").await;
    assert_eq!(world.connect(&second).await.err(), Some(503));
    assert_eq!(world.connect(&world.open_address()).await.err(), Some(503));
    let twiml = world.webhook(TWIML, &arrival("CA3")).await;
    assert!(twiml.contains(BUSY) && twiml.contains("<Hangup/>"), "{twiml}");
    world.change_agent("transfer_number = '+14155550199'").await;
    let twiml = world.webhook(TWIML, &arrival("CA4")).await;
    assert!(twiml.contains("+14155550199</Number>"), "people take the call: {twiml}");

    line.stop().await;
    world.reason("CA1").await;
    let mut line = world.connect(&second).await.expect("the refusal has not used the offer up");
    line.start("CA2", &json!({})).await;
    line.hear("media").await;
    line.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn while_stopping_only_streams_that_were_offered_before_are_let_in() {
    let world = World::start(ModelOptions::default(), PCMU).await;
    let mut live = world.line("CA1").await;
    let offered = world.offer("CA2").await;
    world.running.tasks.begin_stop();
    assert_eq!(world.status("/readyz", &[]).await, 503);
    assert_eq!(world.status("/healthz", &[]).await, 200);
    let twiml = world.webhook(TWIML, &arrival("CA3")).await;
    assert!(twiml.contains(BUSY) && !twiml.contains("<Stream"), "{twiml}");
    assert_eq!(world.connect(&world.open_address()).await.err(), Some(503));
    assert_eq!(world.connect(&format!("{}/unknown", world.open_address())).await.err(), Some(503));

    let mut late = world.connect(&offered).await.expect("this caller was told to come");
    late.start("CA2", &json!({})).await;
    join!(live.hear("mark"), late.hear("mark"));
    live.stop().await;
    late.stop().await;
    for call in ["CA1", "CA2"] {
        assert_eq!(world.reason(call).await, "caller_hung_up");
    }
    world.stop().await;
}

// ---- What is sent ----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn what_cannot_be_read_is_counted_and_the_call_goes_on() {
    let world = World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, PCMU).await;
    let mut line = world.line("CA1").await;
    line.hear("mark").await;
    let unreadable = [
        "nonsense",
        "[]",
        "{}",
        r#"{"event":null}"#,
        r#"{"event":"weather","weather":{"sky":null}}"#,
        r#"{"event":"media","media":{"timestamp":"20"}}"#,
        r#"{"event":"media","media":{"track":"outbound","timestamp":"20","payload":"////"}}"#,
        r#"{"event":"dtmf","dtmf":{"digit":"12"}}"#,
        r#"{"event":"start","streamSid":"MZ2","start":{"callSid":"CA2"}}"#,
    ];
    for message in unreadable {
        line.text(message).await;
    }
    line.send(Message::binary(vec![0; 160])).await;
    let unusable = |count: usize| (0..count).map(|_| "!!!!".to_owned());
    for payload in unusable(9) {
        line.media(&payload).await;
    }
    line.silence().await; // The tenth in a row would have been the end.
    for payload in unusable(8).chain(["/".repeat(65 * 1024)]) {
        line.media(&payload).await;
    }
    // Escaped slashes are legal JSON, and mu-law is full of slashes.
    line.say("hello", |message| message.replace('/', "\\/")).await;
    until("the words are written down", async || {
        let rows = world.transcript("CA1").await;
        rows.iter().any(|row| row["role"] == "user" && row["content"] == "Hello?")
    })
    .await;
    line.stop().await;
    assert_eq!(world.reason("CA1").await, "caller_hung_up");
    world.settled().await;
    assert_eq!(world.metric("twilio_messages_ignored_total"), unreadable.len() as u64 + 1);
    assert_eq!(world.metric(r#"frames_dropped_total{why="not_audio"}"#), 17);
    assert_eq!(world.metric(r#"frames_dropped_total{why="too_large"}"#), 1);
    let report = world.model.report();
    assert_eq!(report.sessions[0].violations, Vec::<String>::new(), "none of it reached the model");
    world.stop().await;
}

#[tokio::test]
async fn ten_unusable_frames_in_a_row_end_the_stream_with_a_reason_and_an_apology() {
    let world = World::start(ModelOptions::default(), PCMU).await;
    let not_audio = async {
        let mut line = world.line("CA1").await;
        for _ in 0..10 {
            line.media("!!!!").await;
        }
        line.closed().await;
    };
    let too_large = async {
        let mut line = world.line("CA2").await;
        for _ in 0..10 {
            line.media(&"/".repeat(65 * 1024)).await;
        }
        line.closed().await;
    };
    // So large that it is not even read.
    let enormous = async {
        let mut line = world.line("CA3").await;
        line.media(&"/".repeat(1024 * 1024)).await;
        line.closed().await;
    };
    join!(not_audio, too_large, enormous);
    for call in ["CA1", "CA2", "CA3"] {
        assert_eq!(world.reason(call).await, "stream_invalid");
        let twiml = world.webhook(ENDED, &[("CallSid", call), ("CallStatus", "in-progress")]).await;
        assert!(twiml.contains(FALLBACK) && twiml.contains("<Hangup/>"), "{twiml}");
    }
    assert_eq!(world.metric(r#"calls_ended_total{reason="stream_invalid"}"#), 3);
    world.stop().await;
}

#[tokio::test]
async fn a_message_too_large_to_be_read_ends_a_call_that_still_awaits_the_caller_s_words() {
    let transcripts = Transcripts { delay_ms: 600_000, ..Transcripts::default() };
    let options = ModelOptions { script: brief([]), transcripts, ..ModelOptions::default() };
    let world = World::start(options, PCMU).await;
    // Said over the greeting, and nobody will ever know the words: it is to be answered all the same.
    world.change_agent("reversible_barge_in = false").await;
    let mut line = world.line("CA1").await;
    line.hear("mark").await;
    line.say("hello", |message| message).await;
    until("the caller is answered", async || {
        world.transcript("CA1").await.iter().any(|row| row["content"] == "Hello to you.")
    })
    .await;
    let sent = Instant::now();
    line.media(&"/".repeat(1024 * 1024)).await;
    line.closed().await;
    assert_eq!(world.reason("CA1").await, "stream_invalid");
    let lingered = sent.elapsed();
    // The server runs on this thread: had the end been told without end, nothing would have gone on here.
    assert!(lingered > Duration::from_secs(2), "the words were awaited: {lingered:?}");
    assert!(lingered < Duration::from_secs(10), "and no longer than calls linger: {lingered:?}");
    world.stop().await;
}

#[tokio::test]
async fn twilio_may_spell_its_messages_as_it_likes_and_leave_holes_in_them() {
    let script = brief([rule(When::Heard("address-question".into()), [tone(400, "Mill Street.")])]);
    let world = World::start(ModelOptions { script, ..ModelOptions::default() }, PCMU).await;
    let spelled = run_call(CallerOptions {
        spelling: Spelling { numbers: true, first_timestamp_ms: 5, extras: true },
        call_sid: Some("CA1".into()),
        ..world.call(short())
    });
    // The line goes dead right after a word: the turn has to end all the same.
    let stalled = |call: &str, burst| {
        let before =
            [listen(), say("hello"), Step::Stall { ms: 6000, burst }, listen(), Step::Pause { ms: 6000 }];
        let steps = scenario(before.into_iter().chain([say("address-question"), listen(), Step::HangUp]));
        run_call(CallerOptions { call_sid: Some(call.into()), ..world.call(steps) })
    };
    let (spelled, hole, burst) = join!(spelled, stalled("CA2", false), stalled("CA3", true));
    only_stream(&spelled);
    for call in [&spelled, &hole, &burst] {
        assert_eq!(world.reason(&call.call_sid).await, "caller_hung_up");
    }
    world.settled().await;
    assert_eq!(words(&world, "CA1").await, ["Good day.", "Hello?", "Hello to you."]);
    assert_eq!(world.metric("twilio_messages_ignored_total"), 1, "the event nobody documented");
    for call in [&hole, &burst] {
        let stream = only_stream(call);
        let stall_ends = call.utterances[0].to_ms + 6000.0;
        assert!(
            call.utterances[0].answered_ms.is_some_and(|at| at < stall_ends),
            "answered meanwhile: {call:?}"
        );
        let said = ["Good day.", "Hello?", "Hello to you.", "And what is your address?", "Mill Street."];
        assert_eq!(words(&world, &call.call_sid).await, said);
        // Neither is the hole missing, nor is the silence in it and the late audio both there.
        let heard_ms = session_of(&world, call).await.received_audio_ms;
        let lasted_ms = stream.ended_ms - stream.started_ms;
        assert!((heard_ms - lasted_ms).abs() < 2000.0, "{heard_ms} of {lasted_ms} ms");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_call_whose_stream_breaks_is_connected_again_and_goes_on_where_it_stopped() {
    let world = World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, PCMU).await;
    let steps =
        [listen(), say("hello"), listen(), Step::Drop, listen(), say("hello"), listen(), Step::HangUp];
    let call = run_call(world.call(scenario(steps))).await;
    assert_eq!((&call.violations, &call.missed), (&Vec::new(), &Vec::new()), "{call:?}");
    let [lost, next] = &call.streams[..] else { panic!("two streams: {call:?}") };
    assert_eq!((&lost.ended_by, &next.ended_by), (&StreamEnd::Dropped, &StreamEnd::Stop));
    assert_eq!(world.reason(&call.call_sid).await, "caller_hung_up");
    world.settled().await;

    let report = world.model.report();
    let next = report
        .sessions
        .iter()
        .find(|session| session.open || session.appends > 0 && session.items[0].id.starts_with("seed-"));
    let told: Vec<&str> = next.unwrap().items.iter().take(3).map(|item| item.text.as_str()).collect();
    let spoken = words(&world, &call.call_sid).await;
    assert_eq!(told, spoken[..3], "it is told what was said and heard");
    let greetings = spoken.iter().filter(|words| *words == "Good day.").count();
    assert_eq!(greetings, 1, "and nobody is greeted twice: {spoken:?}");
    let rows = world.transcript(&call.call_sid).await;
    let places: Vec<i64> = rows.iter().map(|row| row["sequence"].as_i64().unwrap()).collect();
    assert!(places.is_sorted() && places[..3] == [1, 2, 3] && places[3] > 10_000, "{places:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_call_whose_streams_break_again_and_again_is_given_up_with_an_apology() {
    let world = World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, PCMU).await;
    let steps = [listen(), Step::Drop, Step::Drop, Step::Drop, Step::Drop];
    let call = run_call(world.call(scenario(steps))).await;
    assert_eq!(call.streams.len(), 4, "it came back three times");
    let sentence = "Say Sorry, something went wrong on our side. Please call again later.";
    assert_eq!(call.followed[4..], [sentence, "Hangup"], "{call:?}");
    assert_eq!(world.reason(&call.call_sid).await, "stream_lost");
    world.settled().await;
    assert_eq!(words(&world, &call.call_sid).await, ["Good day."], "what was said is kept");
    world.stop().await;
}

async fn words(world: &World, call: &str) -> Vec<String> {
    let rows = world.transcript(call).await;
    rows.iter().map(|row| row["content"].as_str().unwrap().to_owned()).collect()
}

/// The model's side of a call, found by an item that both know.
async fn session_of(world: &World, call: &CallReport) -> SessionReport {
    let rows = world.transcript(&call.call_sid).await;
    let known = |session: &SessionReport| session.items.iter().any(|item| rows[0]["item_id"] == *item.id);
    world.model.report().sessions.into_iter().find(known).expect("the model knows the call")
}
