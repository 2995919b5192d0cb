//! What the model is told the caller heard is what the caller heard.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use voicebridge::simulate::caller::{CallReport, CallerOptions, ClearReport, run_call};
use voicebridge::simulate::model::{ItemReport, ModelOptions, Replies, SessionReport};
use voicebridge::simulate::network::Network;
use voicebridge::simulate::random::Random;
use voicebridge::simulate::scenario::{Scenario, Step, Utterance};

use crate::world::World;

const CALLS: u64 = 10;
const INTERRUPTIONS: usize = 5;
/// Between the beginnings of two calls.
const STAGGER: Duration = Duration::from_millis(400);
/// From the telephone's playout buffer to the model's memory.
const TOLERANCE_MS: f64 = 20.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncation_is_within_20_ms_of_what_the_caller_heard_in_95_of_100_interruptions() {
    let _alone = crate::ALONE.lock().await;
    let mut errors_ms = Vec::new();
    for format in ["pcm24k", "pcmu"] {
        errors_ms.extend(interrupt_many(format).await);
    }
    assert_eq!(errors_ms.len(), 2 * CALLS as usize * INTERRUPTIONS);
    let close = errors_ms.iter().filter(|error| error.abs() <= TOLERANCE_MS).count();
    assert!(
        close * 100 >= errors_ms.len() * 95,
        "{close} of {} within {TOLERANCE_MS} ms: {errors_ms:?}",
        errors_ms.len()
    );
}

/// The error of every interruption of ten calls with one-way delays between 0 and 150 ms.
async fn interrupt_many(format: &str) -> Vec<f64> {
    let replies = Replies::Tones { min_ms: 5000, max_ms: 8000 };
    // Not as fast as the real one: what is generated at once is also resampled at once, without optimisation here.
    let model = ModelOptions { replies, think_ms: 100, speed: 2.5, ..ModelOptions::default() };
    let world = World::start(model, &[("AUDIO_FORMAT", format)]).await;
    // A "hello" is to stop the agent as soon as it is noticed: what is tested is how far it had come.
    let at_once = "update agents set reversible_barge_in = false";
    sqlx::query(at_once).execute(world.running.store.pool()).await.expect("agents can be changed");
    let mut calls = JoinSet::new();
    for seed in 0..CALLS {
        let mut random = Random::for_part(seed, 0x1A7E);
        let network = Network { delay_ms: random.between(0, 150), jitter_ms: 0 };
        let options = world.call(interruptions(&mut random));
        let options = CallerOptions { seed, network, ..options };
        calls.spawn(async move {
            sleep(STAGGER * seed as u32).await;
            run_call(options).await
        });
    }
    let calls = calls.join_all().await;
    for call in &calls {
        world.reason(&call.call_sid).await;
    }
    let report = world.model.report();
    let mut sessions = BTreeMap::new();
    for session in &report.sessions {
        assert_eq!(session.violations, Vec::<String>::new());
        // Harmless: the caller hung up within 100 ms of beginning to speak.
        let wrong = session.errors.iter().filter(|code| *code != "input_audio_buffer_commit_empty");
        assert_eq!(wrong.count(), 0, "no truncation was beyond the audio: {:?}", session.errors);
        for item in &session.items {
            assert!(sessions.insert(item.id.clone(), session).is_none(), "ids are unique");
        }
    }
    let mut errors_ms = Vec::new();
    for call in &calls {
        let rows = world.transcript(&call.call_sid).await;
        let session = sessions[rows[0]["item_id"].as_str().unwrap()];
        errors_ms.extend(errors_of(call, session));
    }
    world.stop().await;
    errors_ms
}

/// Listens to the agent for a random while, speaks over it, again and again.
fn interruptions(random: &mut Random) -> Scenario {
    let mut steps: Vec<Step> = (0..INTERRUPTIONS)
        .map(|_| Step::InterruptAfter {
            heard_ms: random.between(150, 3500),
            within_ms: 30_000,
            say: Utterance::Phrase("hello".into()),
        })
        .collect();
    steps.extend([Step::WaitForAgent { heard_ms: 100, within_ms: 30_000 }, Step::HangUp]);
    Scenario { name: "interruptions".into(), voice: "anna".into(), steps }
}

/// For each `clear`: what the model was told was heard since the one before, less what was heard.
fn errors_of(call: &CallReport, session: &SessionReport) -> Vec<f64> {
    assert_eq!((&call.violations, &call.missed), (&Vec::new(), &Vec::new()));
    let [stream] = &call.streams[..] else { panic!("one stream: {call:?}") };
    let spoken: Vec<&ItemReport> = session.items.iter().filter(|item| item.generated_ms.is_some()).collect();
    let cut: Vec<usize> = (0..spoken.len()).filter(|index| spoken[*index].truncated_ms.is_some()).collect();
    assert_eq!(stream.clears.len(), cut.len(), "each clear has its truncation: {stream:?} {spoken:?}");
    let (mut errors_ms, mut heard_before, mut from) = (Vec::new(), 0, 0);
    for (clear, until) in stream.clears.iter().zip(cut) {
        let believed_ms: f64 = spoken[from..=until].iter().map(|item| kept_ms(item)).sum();
        let heard_ms = (clear.heard_bytes - heard_before) as f64 / 8.0;
        errors_ms.push(believed_ms - heard_ms);
        check_clear(clear, spoken[until]);
        (heard_before, from) = (clear.heard_bytes, until + 1);
    }
    errors_ms
}

fn kept_ms(item: &ItemReport) -> f64 {
    item.truncated_ms.map_or(item.generated_ms.unwrap_or_default(), |ms| ms as f64)
}

fn check_clear(clear: &ClearReport, cut: &ItemReport) {
    assert!(clear.cleared_bytes > 0, "nothing was unheard: {clear:?}");
    assert!(cut.truncated_ms.unwrap() as f64 <= cut.generated_ms.unwrap(), "beyond the audio: {cut:?}");
    let ours = format!(":{}:", cut.id);
    let late: Vec<_> =
        clear.followed_by.iter().filter(|a| a.mark.as_ref().is_some_and(|m| m.contains(&ours))).collect();
    assert!(late.is_empty(), "audio of an interrupted answer after its clear: {late:?}");
}
