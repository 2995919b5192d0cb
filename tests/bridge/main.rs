//! The bridge between two real sockets: a simulated caller on one side, a simulated model on the other.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/world.rs"]
mod world;

mod handoff;
mod input;
mod line;
mod look;
mod models;
mod outages;
mod outbound;
mod over_agent;
mod people;
mod records;
mod streams;
mod tools;
mod walkthroughs;

use voicebridge::simulate::caller::{CallReport, StreamReport};
use voicebridge::simulate::model::script::{Outcome, Reply, Rule, Script, Speech, When};
use voicebridge::simulate::scenario::{Scenario, Step, Utterance};

/// Steps of a caller.
fn scenario(steps: impl IntoIterator<Item = Step>) -> Scenario {
    Scenario { name: "test".into(), voice: "anna".into(), steps: steps.into_iter().collect() }
}

/// Hears the agent out.
fn listen() -> Step {
    Step::Listen { silence_ms: 500, within_ms: 30_000 }
}

fn say(phrase: &str) -> Step {
    Step::Say(Utterance::Phrase(phrase.into()))
}

/// Speaks over the agent once so much of its voice has been heard.
fn interrupt(heard_ms: u64, phrase: &str) -> Step {
    Step::InterruptAfter { heard_ms, within_ms: 30_000, say: Utterance::Phrase(phrase.into()) }
}

/// Hears the greeting, asks, hears the answer, hangs up.
fn short() -> Scenario {
    scenario([listen(), say("hello"), listen(), Step::HangUp])
}

fn tone(ms: u64, text: &str) -> Speech {
    Speech::Tone { ms, text: text.into() }
}

/// What is answered to what.
fn rule(when: When, say: impl Into<Vec<Speech>>) -> Rule {
    let reply = Reply { say: say.into(), ..Reply::default() };
    Rule { when, needs_tool: None, times: None, reply }
}

fn failing(when: When, times: u32, code: &str) -> Rule {
    let reply = Reply { outcome: Outcome::Failed(code.into()), ..Reply::default() };
    Rule { when, needs_tool: None, times: Some(times), reply }
}

/// A script whose greeting takes no longer than it must, with more rules before the usual ones.
fn brief(rules: impl IntoIterator<Item = Rule>) -> Script {
    let mut rules: Vec<Rule> = rules.into_iter().collect();
    rules.push(rule(When::Greeting, [tone(400, "Good day.")]));
    rules.push(rule(When::Heard("hello".into()), [tone(400, "Hello to you.")]));
    Script::default().with_rules_first(rules)
}

/// The one stream of a call in which nothing went wrong.
fn only_stream(call: &CallReport) -> &StreamReport {
    assert_eq!((&call.violations, &call.missed), (&Vec::new(), &Vec::new()), "{call:?}");
    let [stream] = &call.streams[..] else { panic!("not one stream: {call:?}") };
    stream
}
