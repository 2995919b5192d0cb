//! When the log is fetched by itself, and which days of it.

use std::time::Duration;

use jiff::Timestamp;
use jiff::ToSpan as _;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::ingest::kaleyra::{Days, MOST_DAYS, record};
use crate::store::kaleyra::syncs::Latest;

/// Days on record that are fetched again: what Kaleyra adds later, such as recordings and notes, comes within a day.
const OVERLAP_DAYS: i64 = 1;

/// Does `job` at once and then every so often, until `stopping` is cancelled; and between, after as long as it says that it
/// wants to be done again. It is never done twice at a time.
pub async fn at_intervals<F>(every: Duration, stopping: &CancellationToken, job: impl Fn() -> F)
where
    F: Future<Output = Option<Duration>>,
{
    let mut due = interval(every);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut again = None;
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            _ = due.tick() => {}
            () = after(again) => {}
        }
        again = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            again = job() => again,
        };
    }
}

/// `None`: never.
async fn after(pause: Option<Duration>) {
    match pause {
        Some(pause) => sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// The days to fetch now, if any are due: those of a run that was left, or else from where all is on record, and a little
/// before, until today; from the first day that was ever asked for while nothing is. No day is skipped: of more days than a
/// run may have the first are fetched, and the others by the runs after it. Nothing while a run is carried, and none of
/// several servers fetches again what another has just.
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
    let missing = latest.whole_to.map(|day| day.saturating_add(1.day())).or(latest.asked_from);
    let first = missing.map(|day| match latest.whole_to {
        Some(_) => day.min(today).saturating_sub(OVERLAP_DAYS.days()),
        None => day.min(today),
    });
    let most = first.map(|first| first.saturating_add((MOST_DAYS - 1).days()));
    Days::new(first, Some(most.map_or(today, |most| most.min(today))), now).ok()
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
    fn a_scheduled_sync_fetches_the_last_whole_day_again_and_all_after_it() {
        let whole = |day| Latest { whole_to: Some(day), ended_s_ago: Some(3_600), ..Latest::default() };
        assert_eq!(days(whole(date(2026, 3, 7))), Some(pair("2026-03-07", "2026-03-10")));
        assert_eq!(days(whole(date(2026, 3, 9))), Some(pair("2026-03-09", "2026-03-10")));
        // By a clock that was put back since.
        assert_eq!(days(whole(date(2026, 3, 12))), Some(pair("2026-03-09", "2026-03-10")));
        assert_eq!(days(Latest::default()), Some(pair("2026-03-09", "2026-03-10")), "the first one");
    }

    #[test]
    fn of_more_days_than_a_run_may_have_the_first_are_fetched_first() {
        let whole = |day| Latest { whole_to: Some(day), ended_s_ago: Some(3_600), ..Latest::default() };
        assert_eq!(days(whole(date(2020, 1, 1))), Some(pair("2020-01-01", "2020-12-31")));
        assert_eq!(days(whole(date(2020, 12, 31))), Some(pair("2020-12-31", "2021-12-31")));
        assert_eq!(days(whole(date(2025, 3, 11))), Some(pair("2025-03-11", "2026-03-10")));
    }

    #[test]
    fn while_nothing_is_on_record_what_was_asked_for_first_is_asked_for_again() {
        let asked = |day| Latest { asked_from: Some(day), ended_s_ago: Some(3_600), ..Latest::default() };
        assert_eq!(days(asked(date(2026, 3, 2))), Some(pair("2026-03-02", "2026-03-10")));
        assert_eq!(days(asked(date(2026, 3, 10))), Some(pair("2026-03-10", "2026-03-10")));
        let both = Latest { whole_to: Some(date(2026, 3, 5)), ..asked(date(2026, 3, 2)) };
        assert_eq!(days(both), Some(pair("2026-03-05", "2026-03-10")));
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
