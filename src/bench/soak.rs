//! The same load for a long time, with calls coming and going: does anything grow, get lost, or go wrong?

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::calls::{Call, Tally};
use super::measure::Subject;
use super::outcome::Latency;
use super::processes;
use super::records::{Records, Verdict};
use super::rig::Rig;
use crate::simulate::random::Random;

/// How long a call lasts.
const CALL_S: (u64, u64) = (30, 180);
/// What is sent in the last second of a call may be cut off with it.
const NEARLY_OVER: Duration = Duration::from_secs(1);
/// How often the processes are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Memory may differ by this share between the second and the last quarter: allocators and caches breathe.
const MEMORY_SLACK: f64 = 0.05;
/// And by this much whatever the share: a buffer or two a call.
const MEMORY_SLACK_BYTES: f64 = 2.0 * 1024.0 * 1024.0;
/// Descriptors, threads and tasks may differ by this many: a connection of the pool, a call that is being set up.
const COUNT_SLACK: f64 = 12.0;

/// What a soak found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SoakOutcome {
    /// Version of this program.
    pub version: String,
    /// The command as it was typed.
    pub command: String,
    /// When it began.
    pub started_at: Timestamp,
    /// Calls at the same time.
    pub calls: u32,
    /// How long it went on, in seconds.
    pub seconds: f64,
    /// Calls that were carried in all.
    pub calls_carried: u64,
    /// Calls that could not be placed or broke.
    pub calls_failed: u32,
    /// Frames that were sent and timed, both ways.
    pub frames: u64,
    /// Of these, the ones that did not arrive.
    pub frames_lost: u64,
    /// Times a caller spoke over the agent and the audio was cleared.
    pub barge_ins: u64,
    /// Added latency from the caller to the model.
    pub up: Latency,
    /// Added latency from the model to the caller.
    pub down: Latency,
    /// Between what callers had heard and where the model was told to cut.
    pub truncation: Latency,
    /// Transcripts that were compared with what had been said.
    pub transcripts: u64,
    /// What was wrong with them, in words.
    pub transcripts_wrong: Vec<String>,
    /// What went wrong, in words.
    pub problems: Vec<String>,
    /// The processes, every ten seconds.
    pub samples: Vec<Sample>,
    /// What grew; empty when nothing did.
    pub grew: Vec<String>,
}

/// The bridge's processes at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the soak began.
    pub at_s: f64,
    /// Memory of the bridge's own process.
    pub own_memory_bytes: u64,
    /// Memory of all its processes.
    pub memory_bytes: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Tasks of the bridge, where it says.
    pub tasks: u64,
}

impl SoakOutcome {
    /// Nothing grew, was lost, or went wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.grew.is_empty()
            && self.frames > 0
            && self.frames_lost == 0
            && self.calls_failed == 0
            && self.transcripts_wrong.is_empty()
    }
}

/// A call that is on.
struct Live {
    call: Arc<Call>,
    hang_up: CancellationToken,
    until: Instant,
}

/// Keeps `calls` calls up for `time`.
pub(super) async fn soak(
    rig: &mut Rig,
    subject: &Subject,
    calls: u32,
    dial_per_s: f64,
    time: Duration,
    seed: u64,
) -> SoakOutcome {
    let records = Arc::new(Records::of(&subject.running));
    let (checks, verdict) = (TaskTracker::new(), Arc::new(std::sync::Mutex::new(Verdict::default())));
    let tasks = TaskTracker::new();
    let mut random = Random::new(seed);
    let mut live: Vec<Live> = Vec::new();
    let (mut total, mut samples, mut carried) = (Tally::default(), Vec::new(), 0);
    let started = Instant::now();
    rig.begin();
    rig.open_window();
    let mut dial = interval(Duration::from_secs_f64(1.0 / dial_per_s));
    let mut look = interval(LOOK_EVERY);
    dial.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look.reset();
    while started.elapsed() < time {
        tokio::select! {
            now = dial.tick() => {
                for call in live.iter().filter(|call| call.until <= now + NEARLY_OVER) {
                    rig.let_end(&call.call);
                }
                let (over, on): (Vec<Live>, Vec<Live>) = live.into_iter().partition(|call| call.until <= now);
                live = on;
                for over in over {
                    over.hang_up.cancel();
                    check(&checks, &records, &verdict, over.call);
                }
                if live.len() < calls as usize {
                    let hang_up = CancellationToken::new();
                    let call = rig.dial_one(&tasks, hang_up.clone(), &subject.dialing, records.can_be_asked());
                    let seconds = random.between(CALL_S.0, CALL_S.1);
                    live.push(Live { call, hang_up, until: now + Duration::from_secs(seconds) });
                    carried += 1;
                }
            }
            _ = look.tick() => {
                total.add(&rig.so_far());
                if let Some(usage) = subject.running.usage() {
                    let sample = Sample {
                        at_s: started.elapsed().as_secs_f64(),
                        own_memory_bytes: usage.own_memory_bytes,
                        memory_bytes: usage.memory_bytes,
                        descriptors: usage.own_descriptors,
                        threads: usage.own_threads,
                        tasks: records.tasks().await.unwrap_or_default(),
                    };
                    print(&sample, live.len(), &total, &super::calls::lock(&verdict));
                    samples.push(sample);
                }
            }
        }
    }
    rig.close_window().await;
    for over in live {
        over.hang_up.cancel();
        check(&checks, &records, &verdict, over.call);
    }
    total.add(&rig.wait_for(&tasks).await);
    checks.close();
    checks.wait().await;
    let verdict = std::mem::take(&mut *super::calls::lock(&verdict));
    outcome(calls, carried, started.elapsed(), total, samples, verdict)
}

fn check(
    checks: &TaskTracker,
    records: &Arc<Records>,
    verdict: &Arc<std::sync::Mutex<Verdict>>,
    call: Arc<Call>,
) {
    if records.can_be_asked() {
        let (records, verdict) = (Arc::clone(records), Arc::clone(verdict));
        checks.spawn(async move {
            let found = records.compare(&call).await;
            super::calls::lock(&verdict).add(&call.sid, found);
        });
    }
}

fn print(sample: &Sample, live: usize, total: &Tally, verdict: &Verdict) {
    let lost = (total.up.sent + total.down.sent).saturating_sub(total.up.received + total.down.received);
    println!(
        "{:>7.0} s  {live:>4} calls  {:>7.1} MiB own  {:>7.1} MiB all  {:>4} descriptors  {:>3} threads  {:>5} tasks  {lost:>5} on the way or lost  {} transcripts, {} wrong",
        sample.at_s,
        sample.own_memory_bytes as f64 / 1_048_576.0,
        sample.memory_bytes as f64 / 1_048_576.0,
        sample.descriptors,
        sample.threads,
        sample.tasks,
        verdict.compared,
        verdict.wrong.len(),
    );
}

fn outcome(
    calls: u32,
    calls_carried: u64,
    time: Duration,
    total: Tally,
    samples: Vec<Sample>,
    verdict: Verdict,
) -> SoakOutcome {
    let (sent, received) = (total.up.sent + total.down.sent, total.up.received + total.down.received);
    SoakOutcome {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        started_at: Timestamp::now() - jiff::SignedDuration::try_from(time).unwrap_or_default(),
        calls,
        seconds: time.as_secs_f64(),
        calls_carried,
        calls_failed: total.calls_failed,
        frames: sent,
        frames_lost: sent.saturating_sub(received),
        barge_ins: total.barge_in.summary().count,
        up: total.up.latency.summary(),
        down: total.down.latency.summary(),
        truncation: total.truncation.summary(),
        transcripts: verdict.compared,
        transcripts_wrong: verdict.wrong,
        problems: total.problems.into_iter().map(|(what, times)| format!("{what} ({times} times)")).collect(),
        grew: growth(&samples),
        samples,
    }
}

/// What is more in the last quarter than in the second. The first is left out: pools and caches fill.
fn growth(samples: &[Sample]) -> Vec<String> {
    let quarter = samples.len() / 4;
    if quarter == 0 {
        return Vec::new();
    }
    let (before, after) = (&samples[quarter..2 * quarter], &samples[samples.len() - quarter..]);
    let mean = |of: &[Sample], value: fn(&Sample) -> u64| {
        of.iter().map(|sample| value(sample) as f64).sum::<f64>() / of.len() as f64
    };
    let mut grew = Vec::new();
    let mut compare = |what: &str, value: fn(&Sample) -> u64, slack: &dyn Fn(f64) -> f64| {
        let (from, to) = (mean(before, value), mean(after, value));
        if to > from + slack(from) {
            grew.push(format!("{what} grew from {from:.0} to {to:.0}"));
        }
    };
    compare("memory in bytes", |s| s.own_memory_bytes, &|from| (from * MEMORY_SLACK).max(MEMORY_SLACK_BYTES));
    compare("file descriptors", |s| s.descriptors, &|_| COUNT_SLACK);
    compare("threads", |s| s.threads, &|_| COUNT_SLACK);
    compare("tasks", |s| s.tasks, &|from| (from * MEMORY_SLACK).max(COUNT_SLACK));
    grew
}

/// What is said at the end.
pub(super) fn print_end(found: &SoakOutcome) {
    let machine = processes::processor().unwrap_or_default();
    println!(
        "\n{} calls in {:.0} s on {machine}: {} of {} frames lost, {} barge-ins, {} of {} transcripts wrong, {} calls failed",
        found.calls_carried,
        found.seconds,
        found.frames_lost,
        found.frames,
        found.barge_ins,
        found.transcripts_wrong.len(),
        found.transcripts,
        found.calls_failed,
    );
    println!(
        "added latency p50/p99: {}/{} µs up, {}/{} µs down; cut off by p50/max {}/{} ms",
        found.up.p50_us,
        found.up.p99_us,
        found.down.p50_us,
        found.down.p99_us,
        found.truncation.p50_us / 1000,
        found.truncation.max_us / 1000
    );
    for line in found.grew.iter().chain(&found.problems).chain(found.transcripts_wrong.iter().take(10)) {
        println!("    {line}");
    }
    println!("{}", if found.is_good() { "nothing grew, nothing was lost" } else { "NOT GOOD" });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(memory: impl Fn(u64) -> u64, descriptors: impl Fn(u64) -> u64) -> Vec<Sample> {
        let sample = |n: u64| Sample {
            at_s: n as f64 * 10.0,
            own_memory_bytes: memory(n),
            memory_bytes: memory(n),
            descriptors: descriptors(n),
            threads: 4,
            tasks: 400,
        };
        (0..100).map(sample).collect()
    }

    #[test]
    fn what_grows_all_the_time_is_told_from_what_breathes() {
        let mebibyte = 1024 * 1024;
        let breathing = samples(|n| 50 * mebibyte + (n % 7) * mebibyte / 4, |n| 430 + n % 5);
        assert_eq!(growth(&breathing), Vec::<String>::new());
        let filling = samples(|n| (20 + n.min(20)) * mebibyte, |n| 400 + n.min(20));
        assert_eq!(growth(&filling), Vec::<String>::new(), "what fills at the start does not count");
        let leaking = samples(|n| (50 * mebibyte) + n * mebibyte / 10, |n| 400 + n / 2);
        let found = growth(&leaking);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("memory") && found[1].starts_with("file descriptors"));
        assert_eq!(growth(&leaking[..3]), Vec::<String>::new(), "too short to say");
    }
}
