//! Time as a call knows it.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Time since the media stream started. Drivers read the clock and hand this in; the call never reads one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallTime(Duration);

impl CallTime {
    /// The moment the media stream started.
    pub const ZERO: Self = Self(Duration::ZERO);
    /// Later than any call lasts.
    pub const FAR: Self = Self(Duration::from_secs(365 * 24 * 3600));

    /// A time this long after the start.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// How long after the start.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// Whole milliseconds after the start.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0.as_millis() as u64
    }

    /// Time passed since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl From<Duration> for CallTime {
    fn from(since_start: Duration) -> Self {
        Self(since_start)
    }
}

impl Add<Duration> for CallTime {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs))
    }
}

impl Sub<Duration> for CallTime {
    type Output = Self;

    /// Not before the start.
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(rhs))
    }
}

impl fmt::Display for CallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0.as_secs(), self.0.subsec_millis())
    }
}

impl fmt::Debug for CallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A paused clock that does not jump while a task waits for a socket, as it does by itself when nothing is ready to run.
/// So what waits for a real database can be tested without waiting for the clock.
#[cfg(test)]
pub(crate) struct StillClock(
    #[expect(dead_code, reason = "ends the thread when it is dropped")] std::sync::mpsc::Sender<()>,
);

#[cfg(test)]
impl StillClock {
    /// How far it is moved at a time.
    const STEP: Duration = Duration::from_millis(100);
    /// What sockets and disks are given to settle in each step.
    const SETTLE: Duration = Duration::from_millis(2);

    /// Inside a runtime whose clock is paused.
    pub(crate) fn hold() -> Self {
        let (open, closed) = std::sync::mpsc::channel();
        // While a blocking task runs the clock does not advance by itself.
        drop(tokio::task::spawn_blocking(move || closed.recv()));
        Self(open)
    }

    /// Lets so much time go by.
    pub(crate) async fn passes(&self, duration: Duration) {
        self.passes_until(duration, async || false).await;
    }

    /// Lets time go by until something is so. False: it is not after so much.
    pub(crate) async fn passes_until(&self, at_most: Duration, mut is_so: impl AsyncFnMut() -> bool) -> bool {
        let end = tokio::time::Instant::now() + at_most;
        loop {
            if is_so().await {
                return true;
            }
            if tokio::time::Instant::now() >= end {
                return false;
            }
            tokio::time::advance(Self::STEP).await;
            let settled = tokio::task::spawn_blocking(|| std::thread::sleep(Self::SETTLE)).await;
            settled.expect("a thread can wait");
        }
    }
}
