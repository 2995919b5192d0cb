//! When the log is fetched by itself, and which days of it.

use std::time::Duration;

use jiff::Timestamp;
use jiff::ToSpan as _;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::ingest::kaleyra::{Days, MOST_DAYS, record};
use crate::store::kaleyra::syncs::Latest;

/// Days before the last one fetched that are fetched again: what Kaleyra adds later, such as recordings and notes, comes
/// within a day.
const OVERLAP_DAYS: i32 = 1;

/// Does `job` at once and then every so often, until `stopping` is cancelled. It is never done twice at a time.
pub async fn at_intervals<F>(every: Duration, stopping: &CancellationToken, job: impl Fn() -> F)
where
    F: Future<Output = ()>,
{
    let mut due = interval(every);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            _ = due.tick() => {}
        }
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            () = job() => {}
        }
    }
}

/// The days to fetch now, if any are due: those of a run that was left, or else from the last day fetched, and a little
/// before, until today. Nothing while a run is carried, and none of several servers fetches again what another has just.
#[must_use]
pub fn due(latest: &Latest, every: Duration, now: Timestamp) -> Option<Days> {
    if latest.is_running {
        return None;
    }
    if let Some((first, last)) = latest.left {
        return Days::new(Some(first), Some(last), now).ok();
    }
    // Their ticks are not at the same moment.
    let is_fresh = |ago: i64| ago >= 0 && (ago.unsigned_abs() as f64) < every.as_secs_f64() / 2.0;
    if latest.ended_s_ago.is_some_and(is_fresh) {
        return None;
    }
    let today = record::day_of(now);
    let earliest = today.checked_sub((MOST_DAYS - 1).days()).ok()?;
    let from = latest.completed_to.and_then(|day| day.min(today).checked_sub(OVERLAP_DAYS.days()).ok());
    Days::new(from.map(|day| day.max(earliest)), Some(today), now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    const EVERY: Duration = Duration::from_mins(60);

    fn days(latest: Latest) -> Option<(String, String)> {
        let now = "2026-03-10T06:00:00Z".parse().unwrap();
        due(&latest, EVERY, now).map(|days| (days.first().to_string(), days.last().to_string()))
    }

    fn pair(first: &str, last: &str) -> (String, String) {
        (first.to_owned(), last.to_owned())
    }

    #[test]
    fn a_scheduled_sync_goes_on_a_day_before_the_last_day_fetched() {
        let completed =
            |day| Latest { completed_to: Some(day), ended_s_ago: Some(3_600), ..Latest::default() };
        assert_eq!(days(completed(date(2026, 3, 8))), Some(pair("2026-03-07", "2026-03-10")));
        assert_eq!(days(completed(date(2026, 3, 10))), Some(pair("2026-03-09", "2026-03-10")));
        assert_eq!(
            days(completed(date(2020, 1, 1))),
            Some(pair("2025-03-10", "2026-03-10")),
            "366 days at most"
        );
        assert_eq!(days(Latest::default()), Some(pair("2026-03-09", "2026-03-10")), "the first one");
    }

    #[test]
    fn what_was_left_is_finished_first_and_nothing_is_fetched_twice() {
        let left = Some((date(2026, 1, 1), date(2026, 1, 31)));
        let latest = Latest { left, ended_s_ago: Some(5), ..Latest::default() };
        assert_eq!(days(latest), Some(pair("2026-01-01", "2026-01-31")));
        assert_eq!(days(Latest { is_running: true, left, ..Latest::default() }), None);
        assert_eq!(
            days(Latest { ended_s_ago: Some(60), ..Latest::default() }),
            None,
            "another server was first"
        );
    }
}
