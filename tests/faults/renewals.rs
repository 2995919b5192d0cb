//! Sessions of half a minute, and a conversation of five minutes that does not notice.

use std::time::Duration;

use secrecy::SecretString;
use voicebridge::app::install_tls;
use voicebridge::simulate::caller::{CallReport, CallerOptions, run_many};
use voicebridge::simulate::model::script::{Reply, Rule, Script, Speech, When};
use voicebridge::simulate::model::{Faults, ModelOptions, ModelServer};
use voicebridge::simulate::scenario::{Scenario, Step, Utterance};

use crate::ALONE;
use crate::node::{Node, TOKEN};
use crate::postgres::Postgres;

const CALLS: usize = 4;
/// The calls pass the limits of their sessions at different words.
const APART: Duration = Duration::from_millis(1_700);
const SESSION_MS: u64 = 30_000;
const TALK_MS: f64 = 300_000.0;
/// How long answers are.
const SHORT_MS: u64 = 1_200;
const LONG_MS: u64 = 4_500;
/// More silence than this where there should be none is a gap.
const GAP_MS: f64 = 200.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_minutes_of_talk_in_sessions_of_half_a_minute_have_no_gap_of_200_ms() {
    let _alone = ALONE.lock().await;
    install_tls();
    let postgres = Postgres::start().await;
    let faults = Faults { expire_after_ms: Some(SESSION_MS), ..Faults::default() };
    let options = ModelOptions { faults, script: script(), ..ModelOptions::default() };
    let model = ModelServer::bind(options, ([127, 0, 0, 1], 0).into()).await.unwrap();
    let node = Node::start(None, postgres.url(), model.url()).await;
    let webhook = format!("http://{}/media-stream-twiml", node.server.addr);
    let options = CallerOptions::new(webhook, Some(SecretString::from(TOKEN)), conversation());
    let calls = run_many(CALLS, APART, &options).await;

    let sessions = model.report().sessions;
    let least = (TALK_MS / SESSION_MS as f64) as usize;
    assert!(sessions.len() >= CALLS * least, "{} sessions", sessions.len());
    for session in &sessions {
        assert_eq!((&session.errors, &session.violations), (&Vec::new(), &Vec::new()), "used to its end");
    }
    assert_eq!(node.server.metric("reconnects_total").await.unwrap() as u64, 0);
    for call in &calls {
        check(call);
    }
    println!("{} sessions", sessions.len());
    node.stop().await;
    model.stop().await;
}

/// Every answer comes when an answer usually comes, and is heard in one piece.
fn check(call: &CallReport) {
    assert_eq!((&call.violations, &call.missed), (&Vec::new(), &Vec::new()), "{}", call.call_sid);
    let [stream] = &call.streams[..] else { panic!("one stream: {call:?}") };
    assert!(call.duration_ms >= TALK_MS, "{} ms", call.duration_ms);
    let mut waits: Vec<f64> = call.utterances.iter().map(|said| said.latency_ms.unwrap()).collect();
    waits.sort_by(f64::total_cmp);
    let (usual, longest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    println!("{} questions, {usual:.0} to {longest:.0} ms to their answers", waits.len());
    assert!(longest < usual + GAP_MS, "{longest} ms to an answer, {usual} ms is usual");
    // The greeting, and an answer to each question: one that comes in two pieces has a gap.
    let pieces: Vec<f64> = stream.stretches.iter().map(|piece| piece.heard_bytes as f64 / 8.0).collect();
    assert_eq!(pieces.len(), 1 + waits.len(), "{pieces:?}");
    for (piece, ms) in pieces[1..].iter().zip([SHORT_MS, LONG_MS].into_iter().cycle()) {
        assert!((piece - ms as f64).abs() < GAP_MS, "{piece} ms of {ms}: {pieces:?}");
    }
}

/// Questions and answers, some long, some short.
fn conversation() -> Scenario {
    let listen = || Step::Listen { silence_ms: 700, within_ms: 30_000 };
    let say = |phrase: &str| Step::Say(Utterance::Phrase(phrase.into()));
    let turns = ["hello", "address-question"].into_iter().cycle().take(60);
    let mut steps = vec![listen()];
    steps.extend(turns.flat_map(|phrase| [say(phrase), listen()]));
    steps.push(Step::HangUp);
    Scenario { name: "five minutes".into(), voice: "anna".into(), steps }
}

fn script() -> Script {
    let rule = |when, ms, text: &str| {
        let say = vec![Speech::Tone { ms, text: text.into() }];
        Rule { when, needs_tool: None, times: None, reply: Reply { say, ..Reply::default() } }
    };
    let rules = vec![
        rule(When::Greeting, SHORT_MS, "Good day."),
        rule(When::Heard("hello".into()), SHORT_MS, "Hello to you."),
        rule(
            When::Heard("address-question".into()),
            4_500,
            "You find us in Mill Street, behind the old bakery.",
        ),
    ];
    Script::default().with_rules_first(rules)
}
