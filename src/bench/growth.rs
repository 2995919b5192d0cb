//! Whether a bridge holds more and more while calls come and go.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::measure::Subject;
use super::records::Records;

/// A bridge has let go of all calls so long after the last one.
const SETTLED_WITHIN: Duration = Duration::from_secs(15);
/// Fewer samples than this say nothing about growth: a quarter of them is one, and one may be anything.
pub(super) const LEAST_SAMPLES: usize = 8;
/// Memory may differ by this share between the second and the last quarter: allocators and caches breathe.
const MEMORY_SLACK: f64 = 0.03;
/// And by this much whatever the share: a buffer or two a call.
const MEMORY_SLACK_BYTES: f64 = 1024.0 * 1024.0;
/// Descriptors, threads and tasks may differ by this many: a connection of the pool, a call that is being set up.
const COUNT_SLACK: f64 = 12.0;
/// Tasks also by this share: some calls have one that others do not have.
const TASKS_SLACK: f64 = 0.05;
/// Descriptors may stay behind after the last call: connections that the database's pool has added.
const DESCRIPTORS_LEFT: u64 = 12;
/// Tasks hardly: those of a call end with it.
const TASKS_LEFT: u64 = 4;

/// The bridge's processes at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the soak began.
    pub at_s: f64,
    /// Calls of which both ends knew each other.
    pub calls: u32,
    /// Memory of the bridge's own process.
    pub own_memory_bytes: u64,
    /// Memory of all its processes.
    pub memory_bytes: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Tasks of the bridge, where it says.
    pub tasks: Option<u64>,
}

/// Looks at the bridge's processes; `None` when they are not known, or are no more.
pub(super) async fn sample(subject: &Subject, records: &Records, calls: u32, at: Duration) -> Option<Sample> {
    // Without memory: it has ended and was not waited for yet, or it is somebody else's and shows its CPU time only.
    let usage = subject.running.usage().filter(|usage| usage.own_memory_bytes > 0)?;
    Some(Sample {
        at_s: at.as_secs_f64(),
        calls,
        own_memory_bytes: usage.own_memory_bytes,
        memory_bytes: usage.memory_bytes,
        descriptors: usage.own_descriptors,
        threads: usage.own_threads,
        tasks: records.tasks().await,
    })
}

/// Looks until nothing of the calls is left, or until there is no more to hope for.
pub(super) async fn settled(
    subject: &Subject,
    records: &Records,
    started: Instant,
    before: Option<&Sample>,
) -> Option<Sample> {
    let waiting = Instant::now();
    loop {
        let after = sample(subject, records, 0, started.elapsed()).await;
        let left = before.zip(after.as_ref()).is_some_and(|(from, to)| !left_behind(from, to).is_empty());
        if !left || waiting.elapsed() >= SETTLED_WITHIN {
            return after;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// The samples from the first on at which (nearly) all `calls` were on: until then everything has to grow.
fn under_load(samples: &[Sample], calls: u32) -> &[Sample] {
    let full = |sample: &Sample| u64::from(sample.calls) * 10 >= u64::from(calls) * 9;
    &samples[samples.iter().position(full).unwrap_or(samples.len())..]
}

/// What is more in the last quarter than in the second. The first is left out: pools and caches fill.
///
/// Memory is that of the bridge's own process. That of the whole tree grows for hours without meaning anything:
/// PostgreSQL's shared buffers fill with the rows that are written, until they are full.
pub(super) fn growth(samples: &[Sample], calls: u32) -> Vec<String> {
    let samples = under_load(samples, calls);
    if samples.len() < LEAST_SAMPLES {
        return Vec::new();
    }
    let quarter = samples.len() / 4;
    let (before, after) = (&samples[quarter..2 * quarter], &samples[samples.len() - quarter..]);
    let mut grew = Vec::new();
    let mut compare = |what: &str, value: fn(&Sample) -> Option<u64>, slack: fn(f64) -> f64| {
        if let (Some(from), Some(to)) = (mean(before, value), mean(after, value))
            && to > from + slack(from)
        {
            grew.push(format!("{what} grew from {from:.0} to {to:.0}"));
        }
    };
    let memory_slack = |from: f64| (from * MEMORY_SLACK).max(MEMORY_SLACK_BYTES);
    compare("memory in bytes", |sample| Some(sample.own_memory_bytes), memory_slack);
    compare("file descriptors", |sample| Some(sample.descriptors), |_| COUNT_SLACK);
    compare("threads", |sample| Some(sample.threads), |_| COUNT_SLACK);
    compare("tasks", |sample| sample.tasks, |from| (from * TASKS_SLACK).max(COUNT_SLACK));
    grew
}

/// What is more after the last call than it was before the first. Memory is not: an allocator keeps what it has.
pub(super) fn left_behind(before: &Sample, after: &Sample) -> Vec<String> {
    let mut left = Vec::new();
    let mut compare = |what: &str, from: u64, to: u64, slack: u64| {
        if to > from + slack {
            left.push(format!("{what} were {from} before the first call and are {to} after the last"));
        }
    };
    compare("file descriptors", before.descriptors, after.descriptors, DESCRIPTORS_LEFT);
    if let (Some(from), Some(to)) = (before.tasks, after.tasks) {
        compare("tasks", from, to, TASKS_LEFT);
    }
    left
}

/// What cannot be said, because it could not be looked at.
pub(super) fn not_known(
    before: Option<&Sample>,
    samples: &[Sample],
    after: Option<&Sample>,
    calls: u32,
) -> Vec<String> {
    let (Some(before), Some(after)) = (before, after) else {
        return vec!["whether anything grows: the bridge's processes cannot be looked at".to_owned()];
    };
    let mut unknown = Vec::new();
    let looks = under_load(samples, calls).len();
    if looks < LEAST_SAMPLES {
        unknown.push(format!(
            "whether anything grows: {looks} looks with all calls on, {LEAST_SAMPLES} are needed"
        ));
    }
    if before.tasks.is_none() || after.tasks.is_none() {
        unknown.push("whether tasks are left behind: the bridge did not say how many it has".to_owned());
    }
    unknown
}

/// Of those samples that know the value.
fn mean(samples: &[Sample], value: fn(&Sample) -> Option<u64>) -> Option<f64> {
    let known: Vec<u64> = samples.iter().filter_map(value).collect();
    (!known.is_empty()).then(|| known.iter().sum::<u64>() as f64 / known.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLS: u32 = 200;
    const MEBIBYTE: u64 = 1024 * 1024;

    fn samples(memory: impl Fn(u64) -> u64, descriptors: impl Fn(u64) -> u64) -> Vec<Sample> {
        let sample = |n: u64| Sample {
            at_s: n as f64 * 10.0,
            calls: CALLS,
            own_memory_bytes: memory(n),
            memory_bytes: memory(n),
            descriptors: descriptors(n),
            threads: 4,
            tasks: Some(400),
        };
        (0..100).map(sample).collect()
    }

    #[test]
    fn what_grows_all_the_time_is_told_from_what_breathes() {
        let breathing = samples(|n| 50 * MEBIBYTE + (n % 7) * MEBIBYTE / 4, |n| 430 + n % 5);
        assert_eq!(growth(&breathing, CALLS), Vec::<String>::new());
        let filling = samples(|n| (20 + n.min(20)) * MEBIBYTE, |n| 400 + n.min(20));
        assert_eq!(growth(&filling, CALLS), Vec::<String>::new(), "what fills at the start does not count");
        let leaking = samples(|n| (50 * MEBIBYTE) + n * MEBIBYTE / 10, |n| 400 + n / 2);
        let found = growth(&leaking, CALLS);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("memory") && found[1].starts_with("file descriptors"));
        assert_eq!(growth(&leaking[..LEAST_SAMPLES - 1], CALLS), Vec::<String>::new(), "too short to say");
    }

    #[test]
    fn memory_may_grow_by_one_mebibyte_or_by_three_percent_whichever_is_more() {
        // Between the second and the last quarter lie 50 samples.
        let grows = |from: u64, by: u64| {
            let by = by * MEBIBYTE / 10;
            !growth(&samples(|n| from * MEBIBYTE + n * by / 50, |_| 400), CALLS).is_empty()
        };
        assert!(!grows(20, 9) && grows(20, 11), "1 MiB is more than 3 % of 20 MiB");
        assert!(!grows(100, 28) && grows(100, 33), "3 % of 100 MiB are more than 1 MiB");
    }

    #[test]
    fn the_time_until_all_calls_are_on_does_not_count() {
        let mut dialing = samples(|n| (20 + n.min(60)) * MEBIBYTE, |n| 100 + n.min(60));
        assert!(!growth(&dialing, CALLS).is_empty());
        for (calls, sample) in (0..).zip(&mut dialing) {
            sample.calls = 3 * calls.min(60);
        }
        assert_eq!(under_load(&dialing, CALLS).len(), 40);
        assert_eq!(growth(&dialing, CALLS), Vec::<String>::new());
        assert!(under_load(&dialing, 1000).is_empty(), "never all of them");
    }

    #[test]
    fn tasks_are_compared_where_the_bridge_says_how_many_there_are() {
        let mut found = samples(|_| MEBIBYTE, |_| 400);
        for (n, sample) in (0..).zip(&mut found) {
            // Every other time it did not answer.
            sample.tasks = (n % 2 == 0).then_some(400 + n);
        }
        assert_eq!(growth(&found, CALLS).len(), 1, "{:?}", growth(&found, CALLS));
        for sample in &mut found {
            sample.tasks = None;
        }
        assert_eq!(growth(&found, CALLS), Vec::<String>::new());
    }

    #[test]
    fn after_the_last_call_descriptors_and_tasks_are_as_many_as_before_the_first() {
        let before = Sample { descriptors: 60, tasks: Some(3), ..samples(|_| MEBIBYTE, |_| 0)[0] };
        let left = |descriptors, tasks| left_behind(&before, &Sample { descriptors, tasks, ..before });
        assert_eq!(left(72, Some(7)), Vec::<String>::new());
        assert_eq!(left(10, None), Vec::<String>::new());
        assert_eq!(
            left(73, Some(7)),
            ["file descriptors were 60 before the first call and are 73 after the last"]
        );
        assert_eq!(left(72, Some(8)), ["tasks were 3 before the first call and are 8 after the last"]);
    }

    #[test]
    fn what_was_not_looked_at_is_said() {
        let samples = samples(|_| MEBIBYTE, |_| 400);
        let seen = Some(&samples[0]);
        let silent = Some(Sample { tasks: None, ..samples[0] });
        assert_eq!(not_known(seen, &samples, seen, CALLS), Vec::<String>::new());
        for (found, what) in [
            (not_known(None, &[], None, CALLS), "processes cannot be looked at"),
            (not_known(seen, &samples, None, CALLS), "processes cannot be looked at"),
            (not_known(seen, &samples[..LEAST_SAMPLES - 1], seen, CALLS), "7 looks"),
            (not_known(seen, &samples, seen, 2 * CALLS), "0 looks"),
            (not_known(silent.as_ref(), &samples, seen, CALLS), "tasks"),
        ] {
            assert!(found.len() == 1 && found[0].contains(what), "{what}: {found:?}");
        }
    }
}
