//! How a simulated carrier behaves.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;

use super::faults::Faults;
use super::people::People;

/// A carrier.
#[derive(Debug, Clone)]
pub struct CarrierOptions {
    /// `AC…`; the only account there is.
    pub account_sid: String,
    /// Its auth token: requests must carry it, callbacks are signed with it.
    pub auth_token: SecretString,
    /// The account's telephone numbers, the only ones it may call from; any when empty.
    pub numbers: Vec<String>,
    /// Calls that are dialed a second; others wait.
    pub cps: f64,
    /// Requests at the same time; more are answered with 429.
    pub most_requests: usize,
    /// What takes a second, such as ringing and speaking texts, takes so many. Media streams keep real time.
    pub pace: f64,
    /// Decides what is random.
    pub seed: u64,
    /// Who is called.
    pub people: People,
    /// How long those who are put through to somebody speak, at the usual pace.
    pub talk: Duration,
    /// What goes wrong with requests.
    pub faults: Faults,
    /// How callbacks are delivered.
    pub delivery: Delivery,
    /// Callbacks and streams lead here instead of to the host in URLs.
    pub connect_to: Option<SocketAddr>,
    /// The time it is when the carrier starts; the real one when absent.
    pub started: Option<Timestamp>,
    /// A new call is in lists only after this long.
    pub list_lag: Duration,
    /// A call that is over is not found for updates (404, 20404) instead of not in progress (400, 21220).
    // Dossier 5.3: which of the two is not known for each state.
    pub forgets: bool,
}

impl CarrierOptions {
    /// An account that behaves as a new one at the real carrier does: one call a second, everybody answers briefly.
    #[must_use]
    pub fn new(account_sid: impl Into<String>, auth_token: SecretString) -> Self {
        Self {
            account_sid: account_sid.into(),
            auth_token,
            numbers: Vec::new(),
            cps: 1.0,
            most_requests: 100,
            pace: 1.0,
            seed: 1,
            people: People::default(),
            talk: Duration::from_secs(8),
            faults: Faults::default(),
            delivery: Delivery::default(),
            connect_to: None,
            started: None,
            list_lag: Duration::ZERO,
            forgets: false,
        }
    }
}

/// What may happen to callbacks on their way. Shares are of one.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Delivery {
    /// Held back until the next one of the call was delivered.
    pub disordered: f64,
    /// Delivered twice.
    pub twice: f64,
    /// Delivered later than the others, by `late_by`.
    pub late: f64,
    /// How much later.
    pub late_by: Duration,
    /// Never delivered.
    pub lost: f64,
}
