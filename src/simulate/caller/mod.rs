//! The Twilio side of calls: webhooks, media streams, a playout buffer and somebody who listens and speaks.

mod actor;
mod call;
mod ear;
pub(super) mod leg;
pub mod offer;
mod playout;
mod protocol;
mod report;
mod stream;
#[cfg(test)]
mod tests;
pub(super) mod twiml;
pub(super) mod webhook;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::audio::g711;

use super::network::Network;
use super::scenario::Scenario;

pub use call::run_call;
pub(super) use call::run_leg;
pub use report::{
    AudioAfterClear, CallReport, ClearReport, EndedBy, MarkReport, MarkReturn, SaidReport, StreamEnd,
    StreamReport, Stretch, UtteranceReport,
};

/// One call, or the first of many.
#[derive(Debug, Clone)]
pub struct CallerOptions {
    /// Where Twilio would ask for TwiML, as it is known to Twilio (this is what gets signed).
    pub webhook_url: String,
    /// Connect here instead of to the host that URLs name; for a public URL of a server on this machine.
    pub connect_to: Option<SocketAddr>,
    /// Signs requests; without it no signature is sent.
    pub auth_token: Option<SecretString>,
    /// `AC…`.
    pub account_sid: String,
    /// `CA…`; a new one when absent.
    pub call_sid: Option<String>,
    /// The caller's number in E.164.
    pub from: String,
    /// The number that is called.
    pub to: String,
    /// What the caller does.
    pub scenario: Scenario,
    /// Decides jitter, and with `random_ms` the scenarios.
    pub seed: u64,
    /// Each of many calls follows a random scenario of its own, about this long.
    pub random_ms: Option<u64>,
    /// The way between Twilio and the bridge.
    pub network: Network,
    /// How Twilio spells its messages.
    pub spelling: Spelling,
    /// Where the status callback goes when the call is over.
    pub status_url: Option<String>,
    /// What became of a `<Dial>`: `completed`, `busy`, `no-answer`, `failed`, `canceled`.
    pub dial_status: String,
    /// How long the caller waits for the other side to end the call after the last step.
    pub patience: Duration,
    /// Longest media stream, as a safety net.
    pub longest: Duration,
    /// Writes what the caller heard to this WAV file.
    pub record: Option<PathBuf>,
}

/// Freedom that Twilio takes, or is reported to take, in its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spelling {
    /// Numbers as JSON numbers instead of strings.
    pub numbers: bool,
    /// Timestamp of the first frame; Twilio's own example shows 5.
    pub first_timestamp_ms: u64,
    /// Adds members and an event that nobody has documented.
    pub extras: bool,
}

impl CallerOptions {
    /// A signed call to `webhook_url` with everything else as usual.
    #[must_use]
    pub fn new(webhook_url: impl Into<String>, auth_token: Option<SecretString>, scenario: Scenario) -> Self {
        Self {
            webhook_url: webhook_url.into(),
            connect_to: None,
            auth_token,
            account_sid: "AC00000000000000000000000000000001".into(),
            call_sid: None,
            from: "+14155550123".into(),
            to: "+14155550100".into(),
            scenario,
            seed: 1,
            random_ms: None,
            network: Network::default(),
            spelling: Spelling::default(),
            status_url: None,
            dial_status: "completed".into(),
            patience: Duration::from_secs(30),
            longest: Duration::from_hours(1),
            record: None,
        }
    }
}

/// Places `count` calls, `stagger` apart, each with its own number, ids, jitter and, if asked for, scenario.
///
/// Reports come in the order of the calls.
pub async fn run_many(count: usize, stagger: Duration, options: &CallerOptions) -> Vec<CallReport> {
    let started = Instant::now();
    let mut calls = JoinSet::new();
    for number in 0..count {
        let mut options = options.numbered(number as u64);
        if count > 1 {
            options.call_sid = None;
        }
        calls.spawn(async move {
            sleep_until(started + stagger * number as u32).await;
            (number, run_call(options).await)
        });
    }
    let mut reports = calls.join_all().await;
    reports.sort_by_key(|(number, _)| *number);
    reports.into_iter().map(|(_, report)| report).collect()
}

impl CallerOptions {
    /// The same for call `number` of many: its own number, seed and, if asked for, scenario.
    #[must_use]
    pub fn numbered(&self, number: u64) -> Self {
        let seed = self.seed.wrapping_add(number);
        let scenario = match self.random_ms {
            Some(length_ms) => Scenario::random(seed, length_ms),
            None => self.scenario.clone(),
        };
        // One file holds what one caller heard.
        let record = self.record.clone().filter(|_| number == 0);
        Self { seed, scenario, record, from: next_number(&self.from, number), ..self.clone() }
    }
}

/// The telephone number so many after `first`; `first` itself when it is no number.
fn next_number(first: &str, number: u64) -> String {
    let digits = first.strip_prefix('+').and_then(|digits| digits.parse::<u64>().ok());
    digits.map_or_else(|| first.into(), |digits| format!("+{}", digits + number))
}

/// What the caller heard, as one piece of audio.
#[derive(Debug, Default)]
struct Recording {
    on: bool,
    ulaw: Vec<u8>,
}

impl Recording {
    fn add(&mut self, heard: &playout::Heard) {
        if self.on {
            let from = (heard.at.as_micros() / 125) as usize;
            if self.ulaw.len() < from {
                self.ulaw.resize(from, g711::SILENCE);
            }
            self.ulaw.extend_from_slice(&heard.bytes);
        }
    }
}
