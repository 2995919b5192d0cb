//! A stand-in for Kaleyra's Voice API: a log of calls that stays the same for the same options, told page by page.
//!
//! Every call is one that a customer made and the agents' telephones that rang for it, one after the other, or one that was
//! begun by a click. Days are told the newest call first, as somebody who looks at a log wants it.

mod calls;
mod server;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::civil::Date;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::random::Random;

pub use calls::Leg;

/// What the log holds, and what goes wrong when it is asked for.
#[derive(Debug, Clone)]
pub struct KaleyraOptions {
    /// The only key that is let in.
    pub api_key: SecretString,
    /// Legs of calls in the log.
    pub rows: usize,
    /// First day in India that has any.
    pub first: Date,
    /// Last one.
    pub last: Date,
    /// Most records of a page, however many are asked for.
    pub most: usize,
    /// Decides who calls when, and what goes wrong.
    pub seed: u64,
    /// Records that each page repeats of the page before, as when new calls come in between.
    pub overlap: usize,
    /// Every so many-th record cannot be read; 0: none.
    pub malformed_every: usize,
    /// What goes wrong.
    pub faults: Faults,
}

impl KaleyraOptions {
    /// A log of so many legs within these days, of which nothing goes wrong.
    #[must_use]
    pub fn new(api_key: SecretString, rows: usize, (first, last): (Date, Date)) -> Self {
        Self {
            api_key,
            rows,
            first,
            last,
            most: 200,
            seed: 1,
            overlap: 0,
            malformed_every: 0,
            faults: Faults::default(),
        }
    }
}

/// What may go wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// 429 with `Retry-After`.
    TooMany,
    /// 500.
    Error,
    /// The connection is cut instead of an answer.
    Lost,
    /// The answer comes late.
    Slow,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 4] = [Self::TooMany, Self::Error, Self::Lost, Self::Slow];

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::TooMany => "too-many",
            Self::Error => "error",
            Self::Lost => "lost",
            Self::Slow => "slow",
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.word() == text).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.into_iter().map(Self::word).collect();
            format!("`{text}` is none of {}", known.join(", "))
        })
    }
}

/// Which requests something goes wrong with.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    /// Requests, counted from 1, with which exactly this goes wrong.
    pub list: Vec<(u64, Fault)>,
    /// How often of one time, for all other requests.
    pub shares: Vec<(f64, Fault)>,
    /// How late a slow answer is.
    pub slow: Duration,
    /// What `Retry-After` says, in seconds.
    pub retry_after_s: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self { list: Vec::new(), shares: Vec::new(), slow: Duration::from_secs(8), retry_after_s: 1 }
    }
}

impl Faults {
    fn of(&self, nth: u64, random: &mut Random) -> Option<Fault> {
        let listed = self.list.iter().find(|(number, _)| *number == nth).map(|(_, fault)| *fault);
        let mut drawn = random.between(0, 999_999) as f64 / 1e6;
        let mut shares = self.shares.iter();
        listed.or_else(|| {
            shares.find_map(|(share, fault)| {
                let hit = drawn < *share;
                drawn -= share;
                hit.then_some(*fault)
            })
        })
    }
}

/// What a simulated Kaleyra was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KaleyraReport {
    /// Requests in all.
    pub requests: u64,
    /// Pages that were told, empty ones included.
    pub pages: u64,
    /// Records that were told.
    pub records: u64,
    /// Requests without the key, or that were no request for the log.
    pub refused: u64,
    /// Requests with which something went wrong.
    pub faults: u64,
}

/// A running one. Dropping it ends it at once.
pub struct KaleyraServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    options: KaleyraOptions,
    legs: Vec<Leg>,
    state: Mutex<State>,
}

struct State {
    report: KaleyraReport,
    faults: Faults,
    random: Random,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KaleyraServer {
    /// Binds `addr` (port 0: any free one) and serves on it. To be called inside a Tokio runtime.
    pub async fn bind(options: KaleyraOptions, addr: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let state = State {
            report: KaleyraReport::default(),
            faults: options.faults.clone(),
            random: Random::for_part(options.seed, 0xFA17),
        };
        let legs = calls::make(&options);
        let shared = Arc::new(Shared { options, legs, state: Mutex::new(state) });
        let mut tasks = JoinSet::new();
        tasks.spawn(server::serve(listener, Arc::clone(&shared)));
        Ok(Self { addr, shared, _tasks: tasks })
    }

    /// Serves on a free port of the loopback.
    pub async fn on_any_port(options: KaleyraOptions) -> std::io::Result<Self> {
        Self::bind(options, (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// What to configure as `KALEYRA_API_URL`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/v1/", self.addr)
    }

    /// What to configure as `KALEYRA_API_KEY`.
    #[must_use]
    pub fn key(&self) -> &str {
        self.shared.options.api_key.expose_secret()
    }

    /// The whole log, in the order of time.
    #[must_use]
    pub fn legs(&self) -> &[Leg] {
        &self.shared.legs
    }

    /// What it was asked so far.
    #[must_use]
    pub fn report(&self) -> KaleyraReport {
        self.shared.lock().report.clone()
    }

    /// From the next request on this goes wrong, and nothing else. Listed numbers count all requests so far.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.lock().faults = faults;
    }
}

impl fmt::Debug for KaleyraServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KaleyraServer").field("addr", &self.addr).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_faults_come_once_and_the_others_as_often_as_asked_for() {
        let faults = Faults {
            list: vec![(2, Fault::Lost)],
            shares: vec![(0.1, Fault::TooMany), (0.2, Fault::Slow)],
            ..Faults::default()
        };
        let mut random = Random::new(5);
        assert_eq!(faults.of(2, &mut random), Some(Fault::Lost));
        let drawn: Vec<_> = (3..3003).map(|nth| faults.of(nth, &mut random)).collect();
        let count = |wanted| drawn.iter().filter(|fault| **fault == wanted).count();
        assert!((250..350).contains(&count(Some(Fault::TooMany))));
        assert!((520..680).contains(&count(Some(Fault::Slow))));
        assert_eq!(count(Some(Fault::Lost)), 0);
        for fault in Fault::ALL {
            assert_eq!(fault.word().parse(), Ok(fault));
        }
    }
}
