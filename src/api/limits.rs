//! How often a key may ask: so many requests a minute of each server, a tenth of them at once.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use uuid::Uuid;

/// Keys that are remembered. Where there are more, all of them begin anew, which lets each of them ask a little more.
const MOST_KEYS: usize = 10_000;
/// Requests at once that even a slow key may make: a page of a program asks for a handful.
const LEAST_BURST: u32 = 10;

/// What keys have asked of late.
#[derive(Debug, Default)]
pub struct Limits(Mutex<HashMap<Uuid, Limit>>);

#[derive(Debug)]
struct Limit {
    per_minute: u32,
    limiter: DefaultDirectRateLimiter,
}

impl Limits {
    /// Takes one request of this key. `Err`: not before so long.
    pub fn take(&self, key: Uuid, per_minute: u32) -> Result<(), Duration> {
        let mut limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if limits.len() >= MOST_KEYS && !limits.contains_key(&key) {
            limits.clear();
        }
        let limit = limits.entry(key).or_insert_with(|| Limit::new(per_minute));
        if limit.per_minute != per_minute {
            *limit = Limit::new(per_minute);
        }
        limit.limiter.check().map_err(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
    }
}

impl Limit {
    fn new(per_minute: u32) -> Self {
        let whole = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        let burst =
            NonZeroU32::new((per_minute / 10).max(LEAST_BURST).min(whole.get())).unwrap_or(NonZeroU32::MIN);
        Self { per_minute, limiter: RateLimiter::direct(Quota::per_minute(whole).allow_burst(burst)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(limits: &Limits, key: Uuid, per_minute: u32) -> usize {
        (0..1000).take_while(|_| limits.take(key, per_minute).is_ok()).count()
    }

    #[test]
    fn a_key_asks_as_often_at_once_as_its_limit_says_and_is_told_when_to_come_back() {
        let (limits, key) = (Limits::default(), Uuid::from_u128(1));
        assert_eq!(asked(&limits, key, 3), 3);
        let wait = limits.take(key, 3).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(20), "{wait:?}");
        assert_eq!(asked(&limits, Uuid::from_u128(2), 60), 10, "another key has its own");
    }

    #[test]
    fn a_limit_that_was_changed_holds_at_once() {
        let (limits, key) = (Limits::default(), Uuid::from_u128(1));
        assert_eq!(asked(&limits, key, 1), 1);
        assert!(limits.take(key, 1000).is_ok());
    }
}
