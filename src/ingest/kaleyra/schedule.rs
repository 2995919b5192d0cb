//! When the log is fetched by itself, and which days of it.

use std::time::Duration;

use jiff::Timestamp;
use jiff::ToSpan as _;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::ingest::kaleyra::{Days, record};
use crate::store::kaleyra::syncs::Latest;

/// Days of a gap that are fetched at a time: a run takes minutes then, and what is new does not wait for it long.
const GAP_DAYS: i64 = 31;

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

/// The days to fetch now, if any are due. First those of a run that was left. Then today and the day before, every so often,
/// whatever is missing before them: what Kaleyra adds later, such as recordings and notes, comes within a day. Then what is
/// missing between the last day up to which all is on record, or else the first that was ever asked for, and those two: of
/// many days the first, and the others by the runs after it. Where that has failed it is tried again after as long; no day is
/// skipped. Nothing while a run is carried, and none of several servers fetches again what another has just.
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
    let today = record::day_of(now);
    let yesterday = today.saturating_sub(1.day());
    if !latest.recent_s_ago.is_some_and(is_fresh) {
        return Days::new(Some(yesterday), Some(today), now).ok();
    }
    if latest.failed_s_ago.is_some_and(is_fresh) {
        return None;
    }
    let first = latest.whole_to.map(|day| day.saturating_add(1.day())).or(latest.asked_from)?;
    let last = first.saturating_add((GAP_DAYS - 1).days()).min(yesterday.saturating_sub(1.day()));
    // The wrong way round there is no gap.
    Days::new(Some(first), Some(last), now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::{Date, date};

    const EVERY: Duration = Duration::from_mins(60);

    fn days(latest: Latest) -> Option<(String, String)> {
        let now = "2026-03-10T06:00:00Z".parse().unwrap();
        due(&latest, EVERY, now).map(|days| (days.first().to_string(), days.last().to_string()))
    }

    fn pair(first: &str, last: &str) -> (String, String) {
        (first.to_owned(), last.to_owned())
    }

    /// As it is when today and yesterday were fetched a minute ago.
    fn after_recent(latest: Latest) -> Option<(String, String)> {
        days(Latest { recent_s_ago: Some(60), ..latest })
    }

    fn whole(day: Date) -> Latest {
        Latest { whole_to: Some(day), ..Latest::default() }
    }

    fn asked(day: Date) -> Latest {
        Latest { asked_from: Some(day), ..Latest::default() }
    }

    #[test]
    fn today_and_yesterday_are_fetched_first_whatever_is_missing_before() {
        let recent = Some(pair("2026-03-09", "2026-03-10"));
        for latest in [
            Latest::default(),
            whole(date(2026, 3, 9)),
            whole(date(2026, 3, 7)),
            whole(date(1990, 1, 1)),
            // By a clock that was put back since.
            whole(date(2026, 3, 12)),
            asked(date(2015, 1, 1)),
            Latest { failed_s_ago: Some(1), ..whole(date(2026, 3, 1)) },
        ] {
            assert_eq!(days(latest), recent);
            assert_eq!(days(Latest { recent_s_ago: Some(3_600), ..latest }), recent);
        }
    }

    #[test]
    fn then_gaps_are_closed_some_days_at_a_time_until_there_are_none() {
        assert_eq!(after_recent(whole(date(2026, 3, 5))), Some(pair("2026-03-06", "2026-03-08")));
        assert_eq!(after_recent(whole(date(2026, 3, 7))), Some(pair("2026-03-08", "2026-03-08")));
        for day in [date(2026, 3, 8), date(2026, 3, 9), date(2026, 3, 12)] {
            assert_eq!(after_recent(whole(day)), None);
        }
        assert_eq!(after_recent(whole(date(2020, 1, 1))), Some(pair("2020-01-02", "2020-02-01")));
        assert_eq!(after_recent(whole(date(2020, 2, 1))), Some(pair("2020-02-02", "2020-03-03")));
        let failed = |ago| Latest { failed_s_ago: Some(ago), ..whole(date(2026, 3, 5)) };
        assert_eq!(after_recent(failed(60)), None, "it is not asked for without end");
        assert_eq!(after_recent(failed(3_600)), Some(pair("2026-03-06", "2026-03-08")));
    }

    #[test]
    fn while_nothing_is_on_record_what_was_asked_for_first_is_asked_for_again() {
        assert_eq!(after_recent(asked(date(2026, 3, 2))), Some(pair("2026-03-02", "2026-03-08")));
        assert_eq!(after_recent(asked(date(2026, 3, 9))), None);
        assert_eq!(after_recent(Latest::default()), None);
        let both = Latest { whole_to: Some(date(2026, 3, 5)), ..asked(date(2026, 3, 2)) };
        assert_eq!(after_recent(both), Some(pair("2026-03-06", "2026-03-08")));
    }

    #[test]
    fn what_was_left_is_finished_first_and_nothing_is_fetched_twice() {
        let left = Some((date(2026, 1, 1), date(2026, 1, 31)));
        assert_eq!(days(Latest { left, ..Latest::default() }), Some(pair("2026-01-01", "2026-01-31")));
        assert_eq!(days(Latest { is_running: true, left, ..Latest::default() }), None);
        assert_eq!(after_recent(Latest::default()), None, "another server was first");
    }
}
