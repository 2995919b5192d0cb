//! When something is sent again, and when it is given up. Pure.

use std::time::Duration;

use crate::clients::receiver::Answer;
use crate::store::webhooks::work::Outcome;

/// Pauses between attempts, so that the last one is most of a day after the first: short where a receiver is being
/// restarted, long where somebody has to get up.
const PAUSES_S: [u64; 8] = [5, 30, 2 * 60, 10 * 60, 30 * 60, 2 * 3600, 6 * 3600, 12 * 3600];
/// Longest that a receiver may ask us to wait.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(6 * 3600);
/// How much longer a pause may be, in parts of itself, so that what failed together does not come back together.
const JITTER: f64 = 0.2;

/// The pause after the `round`th attempt, from 1; `None`: it is given up. `chance` is from 0 to 1.
#[must_use]
pub fn pause(round: u32, chance: f64) -> Option<Duration> {
    let place = usize::try_from(round).ok()?.checked_sub(1)?;
    let pause = Duration::from_secs(*PAUSES_S.get(place)?);
    Some(pause.mul_f64(1.0 + JITTER * chance.clamp(0.0, 1.0)))
}

/// What follows from the answer to the `round`th attempt, from 1. `chance` is from 0 to 1.
#[must_use]
pub fn after(answer: &Answer, round: u32, chance: f64) -> Outcome {
    match answer.status {
        Some(200..=299) => Outcome::Delivered,
        Some(410) => Outcome::Gone,
        _ => match pause(round, chance) {
            Some(pause) => {
                let asked = answer.retry_after.unwrap_or_default().min(MOST_RETRY_AFTER);
                Outcome::Retry(pause.max(asked))
            }
            None => Outcome::Dead,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> Answer {
        Answer { status: Some(status), ..Answer::default() }
    }

    #[test]
    fn it_is_sent_again_for_about_a_day_with_longer_and_longer_pauses() {
        for chance in [0.0, 0.5, 1.0] {
            let pauses: Vec<_> = (1..).map_while(|round| pause(round, chance)).collect();
            assert_eq!(pauses.len(), 8);
            assert!(pauses.windows(2).all(|two| two[0] < two[1]), "{pauses:?}");
            let hours = pauses.iter().sum::<Duration>().as_secs_f64() / 3600.0;
            assert!((20.0..26.0).contains(&hours), "{hours}");
        }
        assert_eq!(pause(1, 0.0), Some(Duration::from_secs(5)));
        assert_eq!(pause(1, 1.0), Some(Duration::from_secs(6)));
        assert_eq!((pause(0, 0.0), pause(9, 0.0), pause(u32::MAX, 0.0)), (None, None, None));
    }

    #[test]
    fn only_a_status_of_the_two_hundreds_is_a_yes() {
        for taken in [200, 201, 202, 204, 299] {
            assert_eq!(after(&status(taken), 1, 0.0), Outcome::Delivered, "{taken}");
        }
        // A redirect is not followed, and not believed.
        for refused in [301, 302, 307, 400, 401, 404, 408, 409, 429, 500, 502, 503] {
            assert_eq!(after(&status(refused), 1, 0.0), Outcome::Retry(Duration::from_secs(5)), "{refused}");
            assert_eq!(after(&status(refused), 9, 0.0), Outcome::Dead, "{refused}");
        }
        assert_eq!(after(&Answer::default(), 2, 0.0), Outcome::Retry(Duration::from_secs(30)));
        assert_eq!(after(&Answer::default(), 9, 0.0), Outcome::Dead);
        assert_eq!(after(&status(410), 1, 0.0), Outcome::Gone);
    }

    #[test]
    fn a_receiver_that_asks_for_time_is_given_it_within_reason() {
        let asks = |seconds| Answer { retry_after: Some(Duration::from_secs(seconds)), ..status(429) };
        assert_eq!(after(&asks(60), 1, 0.0), Outcome::Retry(Duration::from_secs(60)));
        assert_eq!(
            after(&asks(1), 1, 0.0),
            Outcome::Retry(Duration::from_secs(5)),
            "never sooner than planned"
        );
        assert_eq!(after(&asks(u64::MAX), 1, 0.0), Outcome::Retry(MOST_RETRY_AFTER));
        assert_eq!(after(&asks(60), 9, 0.0), Outcome::Dead);
    }
}
