//! Keeps calls away from an endpoint that does not work, and finds out when it works again.
//!
//! Whoever has asked for a session says how it came out, once: a session that could not be opened, or was lost before it
//! had served, has failed; one that has served is a success. That it was opened says little, since an endpoint may open
//! sessions and break them at once. An endpoint that answers and refuses (a wrong key, a model it does not have, a
//! configuration it does not take) is healthy: the mistake is ours, would be the same after a rest, and must be seen as
//! what it is. So it does not open the breaker, and ends a test.

use std::time::Duration;

use tokio::time::Instant;

/// So many tries in a row that failed are more than bad luck. One call alone needs as many before it gives up.
const MAX_FAILURES: u32 = 5;
/// The first rest; doubled after each test that fails.
const FIRST_REST: Duration = Duration::from_secs(1);
/// An endpoint that is back is found within half a minute.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// A session that is to show whether it works has served by then, or its caller has nothing to say: another one is asked
/// for. From being asked for to the end of a greeting it takes less.
const TEST_WITHIN: Duration = Duration::from_secs(10);

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

/// Permission to ask for one session. Its outcome is to be reported, and counts until the next rest begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Permit {
    /// Rests that had begun before.
    rests: u32,
}

#[derive(Debug)]
enum State {
    Closed {
        failures: u32,
    },
    Testing {
        /// When another one may ask.
        until: Instant,
        /// The session is there; whether it serves is to be seen.
        opened: bool,
    },
    Open {
        until: Instant,
    },
}

/// What is known of one endpoint.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// Rests so far.
    rests: u32,
    /// The same since a session has served.
    in_a_row: u32,
}

impl Breaker {
    pub(super) const fn new() -> Self {
        Self { state: State::Closed { failures: 0 }, rests: 0, in_a_row: 0 }
    }

    /// Whether a session may be asked for now.
    pub(super) fn permit(&mut self, now: Instant) -> Option<Permit> {
        match self.state {
            State::Closed { .. } => {}
            State::Open { until } | State::Testing { until, .. } if until <= now => {
                self.state = State::Testing { until: now + TEST_WITHIN, opened: false };
            }
            State::Open { .. } | State::Testing { .. } => return None,
        }
        Some(Permit { rests: self.rests })
    }

    /// Whether a session would be asked for, now or in need. Changes nothing.
    pub(super) fn may_permit(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } | State::Testing { opened: true, .. } => true,
            State::Open { until } | State::Testing { until, .. } => until <= now,
        }
    }

    /// The same for who has nobody else to ask: an endpoint that has opened the session it is tested with may do.
    pub(super) const fn permit_in_need(&self) -> Option<Permit> {
        match self.state {
            State::Testing { opened: true, .. } => Some(Permit { rests: self.rests }),
            _ => None,
        }
    }

    /// There is a session.
    pub(super) fn opened(&mut self, permit: Permit) {
        if let State::Testing { opened, .. } = &mut self.state {
            *opened |= permit.rests == self.rests;
        }
    }

    /// The session has done what it is for.
    pub(super) const fn served(&mut self, permit: Permit) {
        if permit.rests == self.rests {
            self.state = State::Closed { failures: 0 };
            self.in_a_row = 0;
        }
    }

    /// No session came, or it was lost before it had served. `spread` is between 0 and 1, by chance: the nodes of a
    /// cluster do not all come back at once.
    pub(super) fn failed(&mut self, permit: Permit, now: Instant, spread: f64) {
        if permit.rests != self.rests {
            return; // Asked for before the rest began: nothing new.
        }
        match &mut self.state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures >= MAX_FAILURES {
                    self.rest(now, spread);
                }
            }
            State::Testing { .. } => self.rest(now, spread),
            State::Open { .. } => {}
        }
    }

    /// It answers, and does not want the session.
    pub(super) const fn refused(&mut self, permit: Permit) {
        if let State::Testing { .. } = &self.state
            && permit.rests == self.rests
        {
            self.state = State::Closed { failures: 0 };
        }
    }

    /// Nobody waited for the outcome, or the session ended for reasons that are not the endpoint's. A test is left to the
    /// next who asks.
    pub(super) const fn given_up(&mut self, permit: Permit, now: Instant) {
        if let State::Testing { .. } = &self.state
            && permit.rests == self.rests
        {
            self.state = State::Open { until: now };
        }
    }

    pub(super) const fn health(&self) -> Health {
        match self.state {
            State::Closed { .. } => Health::Closed,
            State::Testing { .. } => Health::Testing,
            State::Open { .. } => Health::Open,
        }
    }

    fn rest(&mut self, now: Instant, spread: f64) {
        let whole = LONGEST_REST.min(FIRST_REST * 2_u32.pow(self.in_a_row.min(10)));
        self.rests = self.rests.wrapping_add(1);
        self.in_a_row = self.in_a_row.saturating_add(1);
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
            fail(&mut breaker, now);
        }
        assert_eq!((breaker.health(), breaker.permit(now)), (Health::Open, None));
        breaker
    }

    /// A session is opened and lost before it has served. As long a rest as there is.
    fn fail(breaker: &mut Breaker, now: Instant) {
        let permit = breaker.permit(now).unwrap();
        breaker.opened(permit);
        breaker.failed(permit, now, 1.0);
    }

    fn rest_ends(breaker: &Breaker) -> Instant {
        let State::Open { until } = breaker.state else { panic!("{breaker:?}") };
        until
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_not_after_as_many_with_successes_between() {
        let now = Instant::now();
        opened(now);
        let mut breaker = Breaker::new();
        for _ in 0..100 {
            for _ in 1..MAX_FAILURES {
                fail(&mut breaker, now);
            }
            let permit = breaker.permit(now).unwrap();
            breaker.opened(permit);
            breaker.served(permit);
        }
        assert_eq!(breaker.health(), Health::Closed);
    }

    #[test]
    fn whether_a_session_would_be_asked_for_is_what_asking_shows() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        assert!(!breaker.may_permit(now) && breaker.permit(now).is_none());
        now = rest_ends(&breaker);
        assert!(breaker.may_permit(now), "its rest is over");
        let permit = breaker.permit(now).expect("a test");
        assert!(!breaker.may_permit(now) && breaker.permit(now).is_none(), "one test at a time");
        breaker.opened(permit);
        assert!(breaker.may_permit(now) && breaker.permit_in_need().is_some());
        breaker.failed(permit, now, 1.0);
        assert!(!breaker.may_permit(now));
        assert!(Breaker::new().may_permit(now));
    }

    #[test]
    fn a_session_that_is_only_opened_is_no_success() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        for _ in 1..MAX_FAILURES {
            fail(&mut breaker, now);
        }
        // Of somebody who hangs up before anything is said.
        let permit = breaker.permit(now).unwrap();
        breaker.opened(permit);
        breaker.given_up(permit, now);
        fail(&mut breaker, now);
        assert_eq!(breaker.health(), Health::Open);
    }

    #[test]
    fn after_its_rest_one_session_is_asked_for_at_a_time_and_closes_it_when_it_has_served() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + FIRST_REST;
        assert_eq!(breaker.permit(later - Duration::from_millis(1)), None);
        let test = breaker.permit(later).unwrap();
        assert_eq!(breaker.permit(later), None, "one is enough to find out");
        breaker.opened(test);
        assert_eq!(
            (breaker.permit(later), breaker.health()),
            (None, Health::Testing),
            "it has not served yet"
        );
        breaker.served(test);
        assert_eq!((breaker.permit(later).is_some(), breaker.health()), (true, Health::Closed));
    }

    #[test]
    fn an_endpoint_that_opens_every_test_and_loses_it_at_once_rests_longer_and_longer() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        let mut rests = Vec::new();
        for _ in 0..7 {
            rests.push((rest_ends(&breaker) - now).as_secs());
            now = rest_ends(&breaker);
            fail(&mut breaker, now);
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn rests_are_spread() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        for _ in 0..MAX_FAILURES {
            let permit = breaker.permit(now).unwrap();
            breaker.failed(permit, now, 0.0);
        }
        assert_eq!(rest_ends(&breaker) - now, FIRST_REST / 2);
    }

    #[test]
    fn who_asked_before_the_rest_changes_nothing_by_how_it_came_out() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        let early: Vec<Permit> = (0..20).map(|_| breaker.permit(now).unwrap()).collect();
        for permit in &early[..5] {
            breaker.failed(*permit, now, 1.0);
        }
        let later = now + FIRST_REST;
        let test = breaker.permit(later).unwrap();
        breaker.failed(early[5], later, 1.0);
        breaker.given_up(early[6], later);
        breaker.served(early[7]);
        assert_eq!(breaker.health(), Health::Testing);
        breaker.served(test);
        for permit in &early[8..] {
            breaker.failed(*permit, later, 1.0);
        }
        assert_eq!(breaker.health(), Health::Closed, "many that are lost late do not open it again");
    }

    #[test]
    fn a_test_nobody_waited_for_or_that_comes_to_nothing_in_time_is_made_again() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + FIRST_REST;
        let first = breaker.permit(later).unwrap();
        breaker.given_up(first, later);
        let silent = breaker.permit(later).unwrap();
        breaker.opened(silent);
        assert_eq!(breaker.permit(later + TEST_WITHIN - Duration::from_millis(1)), None);
        assert!(breaker.permit(later + TEST_WITHIN).is_some());
        breaker.served(silent); // The caller has spoken at last.
        assert_eq!(breaker.health(), Health::Closed);
    }

    #[test]
    fn who_has_nobody_else_to_ask_may_ask_as_soon_as_a_test_is_opened() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + FIRST_REST;
        assert_eq!(breaker.permit_in_need(), None);
        let test = breaker.permit(later).unwrap();
        assert_eq!(breaker.permit_in_need(), None);
        breaker.opened(test);
        let other = breaker.permit_in_need().unwrap();
        breaker.failed(other, later, 1.0);
        assert_eq!(breaker.permit_in_need(), None);
        assert_eq!(rest_ends(&breaker) - later, 2 * FIRST_REST);
    }

    #[test]
    fn a_refusal_ends_a_test_and_makes_no_endpoint_a_good_one() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + FIRST_REST;
        let test = breaker.permit(later).unwrap();
        breaker.refused(test);
        assert_eq!(breaker.health(), Health::Closed);
        for _ in 0..MAX_FAILURES {
            let refused = breaker.permit(later).unwrap();
            breaker.refused(refused);
            fail(&mut breaker, later);
        }
        assert_eq!(rest_ends(&breaker) - later, 2 * FIRST_REST);
    }
}
