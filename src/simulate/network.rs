//! The way between two ends: everything arrives later, in the order it was sent.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::random::Random;

/// How long one way takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Delay of every message, each way.
    pub delay_ms: u64,
    /// Up to this much more, at random. The order is kept, as on a TCP connection.
    pub jitter_ms: u64,
}

/// One direction. Times are whatever the driver counts from.
#[derive(Debug)]
pub struct DelayLine<T> {
    network: Network,
    random: Random,
    waiting: VecDeque<(Duration, T)>,
    last_due: Duration,
}

impl<T> DelayLine<T> {
    /// An empty line; `random` decides the jitter.
    #[must_use]
    pub const fn new(network: Network, random: Random) -> Self {
        Self { network, random, waiting: VecDeque::new(), last_due: Duration::ZERO }
    }

    /// Puts something on its way.
    pub fn push(&mut self, now: Duration, message: T) {
        let delay = self.network.delay_ms + self.random.between(0, self.network.jitter_ms);
        self.last_due = self.last_due.max(now + Duration::from_millis(delay));
        self.waiting.push_back((self.last_due, message));
    }

    /// The next message that has arrived by `now`, and when it arrived.
    pub fn pop(&mut self, now: Duration) -> Option<(Duration, T)> {
        if self.next_due()? <= now { self.waiting.pop_front() } else { None }
    }

    /// When the next message arrives.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.waiting.front().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_message_arrives_after_the_delay_and_not_before() {
        let mut line = DelayLine::new(Network { delay_ms: 80, jitter_ms: 0 }, Random::new(1));
        line.push(ms(5), 'a');
        assert_eq!(line.next_due(), Some(ms(85)));
        assert_eq!(line.pop(ms(84)), None);
        assert_eq!(line.pop(ms(100)), Some((ms(85), 'a')));
        assert_eq!(line.next_due(), None);
    }

    #[test]
    fn jitter_never_changes_the_order_and_stays_in_its_bounds() {
        let mut line = DelayLine::new(Network { delay_ms: 10, jitter_ms: 50 }, Random::new(1));
        for number in 0..500_u64 {
            line.push(ms(number), number);
        }
        let mut last = Duration::ZERO;
        for number in 0..500 {
            let (at, arrived) = line.pop(ms(10_000)).unwrap();
            assert_eq!(arrived, number);
            assert!(at >= last && at >= ms(number + 10) && at <= ms(number + 60), "{number} at {at:?}");
            last = at;
        }
    }
}
