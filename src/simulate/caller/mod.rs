//! The Twilio side of calls: webhooks, media streams, a playout buffer and somebody who listens and speaks.

mod report;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::network::Network;
use super::scenario::Scenario;

pub use report::{
    AudioAfterClear, CallReport, ClearReport, EndedBy, MarkReport, MarkReturn, StreamEnd, StreamReport,
    Stretch, UtteranceReport,
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
    /// `CA…`; chosen from the seed when absent.
    pub call_sid: Option<String>,
    /// The caller's number in E.164.
    pub from: String,
    /// The number that is called.
    pub to: String,
    /// What the caller does.
    pub scenario: Scenario,
    /// Decides ids and jitter.
    pub seed: u64,
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
            network: Network::default(),
            spelling: Spelling::default(),
            status_url: None,
            dial_status: "completed".into(),
            patience: Duration::from_secs(30),
            longest: Duration::from_secs(3600),
            record: None,
        }
    }
}

/// Places one call and lives through it. Whatever goes wrong is in the report.
pub async fn run_call(options: CallerOptions) -> CallReport {
    CallReport { from: options.from, to: options.to, ..CallReport::default() }
}

/// Places `count` calls, `stagger` apart, each with its own number, ids and jitter.
///
/// With a scenario named `random…` each call gets a scenario of its own. Reports come in the order of the calls.
pub async fn run_many(count: usize, stagger: Duration, options: &CallerOptions) -> Vec<CallReport> {
    let _ = stagger;
    let mut reports = Vec::new();
    for _ in 0..count {
        reports.push(run_call(options.clone()).await);
    }
    reports
}
