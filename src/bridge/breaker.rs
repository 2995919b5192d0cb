//! Keeps calls away from an endpoint that does not work, and finds out when it works again.
//!
//! Only tries to open a session count. An endpoint that answers and refuses (a wrong key, a model it does not have, a
//! configuration it does not take) is healthy: the mistake is ours, would be the same after a rest, and must be seen as
//! what it is. So it does not open the breaker, and ends a test as an answer does.

use std::time::Duration;

use tokio::time::Instant;

/// So many tries in a row that failed are more than bad luck. One call alone needs as many before it gives up.
const MAX_FAILURES: u32 = 5;
/// The first rest; doubled after each test that fails.
const FIRST_REST: Duration = Duration::from_secs(1);
/// An endpoint that is back is found within half a minute.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// How an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// Sessions are asked for.
    Closed,
    /// One session is asked for, to see whether it works.
    Testing,
    /// It is left alone.
    Open,
}

/// Permission to ask for one session. Its outcome is to be reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    /// As usual.
    Usual,
    /// Everybody waits for how this one comes out.
    Test,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Testing,
    Open { until: Instant },
}

/// What is known of one endpoint.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// Rests in a row.
    rests: u32,
}

impl Breaker {
    pub(super) const fn new() -> Self {
        Self { state: State::Closed { failures: 0 }, rests: 0 }
    }

    /// Whether a session may be asked for now.
    pub(super) fn permit(&mut self, now: Instant) -> Option<Permit> {
        match self.state {
            State::Closed { .. } => Some(Permit::Usual),
            State::Open { until } if until <= now => {
                self.state = State::Testing;
                Some(Permit::Test)
            }
            State::Open { .. } | State::Testing => None,
        }
    }

    /// The endpoint answered.
    pub(super) const fn succeeded(&mut self) {
        *self = Self::new();
    }

    /// It did not. `spread` is between 0 and 1, by chance: the nodes of a cluster do not all come back at once.
    pub(super) fn failed(&mut self, permit: Permit, now: Instant, spread: f64) {
        match (&mut self.state, permit) {
            (State::Closed { failures }, _) => {
                *failures += 1;
                if *failures >= MAX_FAILURES {
                    self.rest(now, spread);
                }
            }
            (State::Testing, Permit::Test) => self.rest(now, spread),
            // Asked before the rest began: nothing new.
            (State::Testing | State::Open { .. }, _) => {}
        }
    }

    /// Nobody waited for the outcome. A test is left to the next who asks.
    pub(super) const fn given_up(&mut self, permit: Permit, now: Instant) {
        if let (State::Testing, Permit::Test) = (&self.state, permit) {
            self.state = State::Open { until: now };
        }
    }

    pub(super) const fn health(&self) -> Health {
        match self.state {
            State::Closed { .. } => Health::Closed,
            State::Testing => Health::Testing,
            State::Open { .. } => Health::Open,
        }
    }

    fn rest(&mut self, now: Instant, spread: f64) {
        let whole = LONGEST_REST.min(FIRST_REST * 2_u32.pow(self.rests.min(10)));
        self.rests += 1;
        self.state = State::Open { until: now + whole.mul_f64(f64::midpoint(1.0, spread.clamp(0.0, 1.0))) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A breaker that has just opened.
    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new();
        for _ in 0..MAX_FAILURES {
            assert_eq!(breaker.permit(now), Some(Permit::Usual));
            breaker.failed(Permit::Usual, now, 1.0);
        }
        assert_eq!((breaker.health(), breaker.permit(now)), (Health::Open, None));
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_not_after_as_many_with_successes_between() {
        let now = Instant::now();
        opened(now);
        let mut breaker = Breaker::new();
        for _ in 0..100 {
            for _ in 1..MAX_FAILURES {
                breaker.failed(Permit::Usual, now, 1.0);
            }
            breaker.succeeded();
        }
        assert_eq!(breaker.health(), Health::Closed);
    }

    #[test]
    fn after_its_rest_one_session_is_asked_for_at_a_time_and_its_success_closes_it() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + FIRST_REST;
        assert_eq!(breaker.permit(later - Duration::from_millis(1)), None);
        assert_eq!((breaker.permit(later), breaker.health()), (Some(Permit::Test), Health::Testing));
        assert_eq!(breaker.permit(later), None, "one is enough to find out");
        breaker.succeeded();
        assert_eq!((breaker.permit(later), breaker.health()), (Some(Permit::Usual), Health::Closed));
    }

    #[test]
    fn rests_double_are_spread_and_have_an_end() {
        for (spread, first_ms, longest_ms) in [(1.0, 1_000, 30_000), (0.0, 500, 15_000)] {
            let mut now = Instant::now();
            let mut breaker = Breaker::new();
            let mut rests = Vec::new();
            for _ in 0..MAX_FAILURES {
                breaker.failed(Permit::Usual, now, spread);
            }
            for _ in 0..8 {
                let State::Open { until } = breaker.state else { panic!("{breaker:?}") };
                rests.push((until - now).as_millis());
                now = until;
                let permit = breaker.permit(now).unwrap();
                breaker.failed(permit, now, spread);
            }
            assert_eq!(rests[..3], [first_ms, 2 * first_ms, 4 * first_ms]);
            assert_eq!(rests[7], longest_ms);
        }
    }

    #[test]
    fn a_failure_from_before_the_rest_does_not_end_a_test_and_a_test_nobody_waited_for_is_made_again() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + FIRST_REST;
        assert_eq!(breaker.permit(later), Some(Permit::Test));
        breaker.failed(Permit::Usual, later, 1.0);
        assert_eq!(breaker.health(), Health::Testing);
        breaker.given_up(Permit::Usual, later);
        assert_eq!(breaker.health(), Health::Testing);
        breaker.given_up(Permit::Test, later);
        assert_eq!(breaker.permit(later), Some(Permit::Test));
    }
}
