//! How long nobody asks after the carrier had no time for us.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rand::RngExt as _;

/// The first wait after the carrier had no time for us; the next ones double.
const FIRST: Duration = Duration::from_secs(1);
/// The longest one.
const LONGEST: Duration = Duration::from_mins(5);
/// Somebody has to put something right first.
const ACCOUNT: Duration = Duration::from_mins(5);

/// What the carrier's answers of late say about when to ask again. Requests that were under way together and fail together
/// count once: they tell of the same trouble.
#[derive(Debug)]
pub(super) struct BackOff {
    /// Times in a row.
    times: u32,
    /// Nobody asks before this.
    until: Timestamp,
    /// The wait is for somebody who puts the account right.
    is_for_account: bool,
}

/// How long nobody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) until: Timestamp,
    /// It was not known before.
    pub(super) is_news: bool,
}

impl BackOff {
    pub(super) const fn new() -> Self {
        Self { times: 0, until: Timestamp::MIN, is_for_account: false }
    }

    /// A request that was begun at `asked_at` has failed by `now`.
    pub(super) fn failed(
        &mut self,
        asked_at: Timestamp,
        now: Timestamp,
        about_account: bool,
        random: &mut impl rand::Rng,
    ) -> Pause {
        let is_news = asked_at >= self.until || (about_account && !self.is_for_account);
        if is_news {
            let wait = if about_account { ACCOUNT } else { wait(self.times, random) };
            let until = now + SignedDuration::try_from(wait).unwrap_or_default();
            // As exact as it is stored for the other servers.
            let until = Timestamp::from_microsecond(until.as_microsecond()).unwrap_or(until);
            self.until = self.until.max(until);
            self.times = self.times.saturating_add(1);
            self.is_for_account = about_account;
        }
        Pause { until: self.until, is_news }
    }

    /// A request that was begun at `asked_at` was answered. One that was under way when others failed proves nothing.
    pub(super) fn answered(&mut self, asked_at: Timestamp) {
        if asked_at >= self.until {
            self.times = 0;
        }
    }

    /// Times in a row.
    pub(super) const fn times(&self) -> u32 {
        self.times
    }
}

/// Doubles each time, and is somewhere in the upper half of that, so that servers do not come back all at once.
fn wait(times: u32, random: &mut impl rand::Rng) -> Duration {
    let longest = FIRST.saturating_mul(1 << times.min(16)).min(LONGEST);
    longest.mul_f64(random.random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn the_wait_for_a_busy_carrier_doubles_up_to_five_minutes_and_is_never_quite_the_same() {
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        for (times, longest_s) in [(0, 1.0), (1, 2.0), (5, 32.0), (8, 256.0), (9, 300.0), (4_000_000, 300.0)]
        {
            let waits: Vec<f64> = (0..50).map(|_| wait(times, &mut random).as_secs_f64()).collect();
            assert!(
                waits.iter().all(|wait| (longest_s / 2.0..=longest_s).contains(wait)),
                "{times}: {waits:?}"
            );
            assert!(waits.iter().any(|wait| (wait - waits[0]).abs() > longest_s / 50.0));
        }
    }

    #[test]
    fn requests_that_fail_together_count_once_and_those_after_the_wait_again() {
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        let at = |millis: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_millis(millis);
        let mut back_off = BackOff::new();
        let first = back_off.failed(at(0), at(100), false, &mut random);
        assert!(first.is_news && first.until <= at(1100));
        for request in 1..16 {
            let same = back_off.failed(at(request), at(100 + request), false, &mut random);
            assert_eq!(same, Pause { is_news: false, ..first });
        }
        assert_eq!(back_off.times(), 1);
        back_off.answered(at(16));
        assert_eq!(back_off.times(), 1, "it was under way already");
        // A wrong token is news, whatever else is wrong.
        let account = back_off.failed(at(17), at(120), true, &mut random);
        assert_eq!(account, Pause { until: at(300_120), is_news: true });
        assert!(!back_off.failed(at(18), at(130), true, &mut random).is_news);
        assert!(back_off.failed(at(300_120), at(300_200), false, &mut random).is_news);
        assert_eq!(back_off.times(), 3);
        back_off.answered(at(900_000));
        assert_eq!(back_off.times(), 0);
    }
}
