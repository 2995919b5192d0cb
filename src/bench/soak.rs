//! The same load for a long time, with calls coming and going: does anything grow, get lost, or go wrong?

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::calls::{Tally, lock};
pub use super::growth::Sample;
use super::growth::{self, growth, left_behind, not_known, sample, settled};
use super::lines::{Checks, Lines};
use super::measure::Subject;
use super::outcome::{Latency, Machine};
use super::records::{Records, Verdict};
use super::rig::Rig;
use super::table;

/// How often it is looked for calls that are to end. Apart from dialing, which may be much rarer.
const TICK: Duration = Duration::from_millis(100);
/// How often the processes are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// More than this of what is wrong with transcripts is in the JSON only.
const MOST_PRINTED: usize = 10;

/// What a soak found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SoakOutcome {
    /// Version of this program.
    pub version: String,
    /// The command as it was typed, without secrets.
    pub command: String,
    /// When it began.
    pub started_at: Timestamp,
    /// Where it ran.
    pub machine: Machine,
    /// Calls at the same time.
    pub calls: u32,
    /// Every so many answers the caller was to speak over the agent; 0 is never.
    pub interrupt_every: u32,
    /// How long it went on, in seconds.
    pub seconds: f64,
    /// Calls that were carried in all.
    pub calls_carried: u64,
    /// Calls that could not be placed or broke.
    pub calls_failed: u32,
    /// Frames that were sent and should have arrived, both ways.
    pub frames: u64,
    /// Of these, the ones that did not arrive: of each direction, then added up.
    pub frames_lost: u64,
    /// Frames that arrived after a later one.
    pub reordered: u64,
    /// Frames that arrived once more.
    pub duplicated: u64,
    /// Times a caller spoke over the agent and the audio was cleared.
    pub barge_ins: u64,
    /// Times it was not.
    pub not_cleared: u64,
    /// Added latency from the caller to the model.
    pub up: Latency,
    /// Added latency from the model to the caller.
    pub down: Latency,
    /// Between what callers had heard and where the model was told to cut.
    pub truncation: Latency,
    /// Transcripts that were compared with what had been said.
    pub transcripts: u64,
    /// Calls in which too little was said to compare anything.
    pub transcripts_too_short: u64,
    /// What was wrong with those that were compared, in words.
    pub transcripts_wrong: Vec<String>,
    /// What went wrong, in words.
    pub problems: Vec<String>,
    /// The processes before the first call, where they are known.
    pub before: Option<Sample>,
    /// The processes, every ten seconds.
    pub samples: Vec<Sample>,
    /// The processes after the last call.
    pub after: Option<Sample>,
    /// What grew; empty when nothing did.
    pub grew: Vec<String>,
    /// What could not be looked at, so that nothing is said about it.
    pub not_known: Vec<String>,
}

impl SoakOutcome {
    /// Nothing grew, was lost, or went wrong, as far as it could be looked at.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.faults().is_empty()
    }

    /// Why it is not good.
    fn faults(&self) -> Vec<String> {
        let no_barge_in = self.interrupt_every > 0 && self.barge_ins == 0;
        let gone = self.before.is_some() && self.after.is_none();
        let counts = [
            (gone, "the bridge's process is no more".to_owned()),
            (self.up.count == 0, "no frame of a caller was timed".to_owned()),
            (self.down.count == 0, "no frame of the model was timed".to_owned()),
            (self.frames_lost > 0, format!("{} frames were lost", self.frames_lost)),
            (self.reordered > 0, format!("{} frames came after a later one", self.reordered)),
            (self.duplicated > 0, format!("{} frames came twice", self.duplicated)),
            (self.calls_failed > 0, format!("{} calls failed", self.calls_failed)),
            (no_barge_in, "no audio was cleared because a caller spoke over it".to_owned()),
            (self.not_cleared > 0, format!("{} times no `clear` came", self.not_cleared)),
        ];
        let counts = counts.into_iter().filter_map(|(wrong, what)| wrong.then_some(what));
        let words = [&self.problems, &self.grew, &self.transcripts_wrong].into_iter().flatten().cloned();
        counts.chain(words).collect()
    }
}

/// Keeps `calls` calls up for `time`, or until `stop`.
pub(super) async fn soak(
    rig: &mut Rig,
    subject: &Subject,
    calls: u32,
    dial_per_s: f64,
    time: Duration,
    seed: u64,
    interrupt_every: u32,
    stop: &CancellationToken,
) -> SoakOutcome {
    let started_at = Timestamp::now();
    let least = LOOK_EVERY * growth::LEAST_SAMPLES as u32;
    if time < least {
        table::say(&format!(
            "too short to say whether anything grows: at least {} s are needed",
            least.as_secs()
        ));
    }
    let checks = Checks::new(Records::of(&subject.running));
    let before = sample(subject, &checks.records, 0, Duration::ZERO).await;
    let (mut total, mut samples) = (Tally::default(), Vec::new());
    let mut lines = Lines::new(rig, subject, &checks, seed);
    let mut dial = every(Duration::from_secs_f64(1.0 / dial_per_s));
    let (mut tick, mut look) = (every(TICK), every(LOOK_EVERY));
    // Calls go on while the bridge is asked: it may take its time to answer.
    let mut looks = FuturesUnordered::new();
    let started = Instant::now();
    look.reset();
    lines.rig.begin();
    lines.rig.open_window();
    while started.elapsed() < time && !stop.is_cancelled() {
        tokio::select! {
            _ = tick.tick() => lines.end_what_is_due(),
            _ = dial.tick(), if lines.busy() < calls as usize => lines.dial(),
            _ = look.tick() => {
                looks.push(sample(subject, &checks.records, lines.rig.calls_up(), started.elapsed()));
            }
            Some(look) = looks.next() => {
                total.add(&lines.rig.so_far());
                let (at, on) = (started.elapsed(), lines.rig.calls_up());
                table::say(&progress(at, on, look.as_ref(), &total, &lock(&checks.verdict)));
                samples.extend(look);
            }
        }
    }
    let lasted = started.elapsed();
    total.add(&lines.finish().await);
    let verdict = checks.finish().await;
    let after = settled(subject, &checks.records, started, before.as_ref()).await;

    let mut not_known = not_known(before.as_ref(), &samples, after.as_ref(), calls);
    not_known.extend(checks.not_known(&verdict));
    if interrupt_every == 0 {
        not_known.push("whether callers can interrupt: none was to try".to_owned());
    }
    if lasted < time {
        let (lasted, time) = (lasted.as_secs(), time.as_secs());
        not_known.push(format!("what comes after {lasted} s: it was stopped before the {time} s were over"));
    }
    let mut grew = growth(&samples, calls);
    grew.extend(before.zip(after).map(|(before, after)| left_behind(&before, &after)).unwrap_or_default());
    SoakOutcome {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: super::command_line(),
        started_at,
        machine: super::machine(),
        calls,
        interrupt_every,
        seconds: lasted.as_secs_f64(),
        calls_carried: lines.carried,
        calls_failed: total.calls_failed,
        frames: total.up.sent + total.down.sent,
        frames_lost: lost(&total),
        reordered: total.up.reordered + total.down.reordered,
        duplicated: total.up.duplicated + total.down.duplicated,
        barge_ins: total.barge_in.summary().count,
        not_cleared: total.not_cleared,
        up: total.up.latency.summary(),
        down: total.down.latency.summary(),
        truncation: total.truncation.summary(),
        transcripts: verdict.compared,
        transcripts_too_short: verdict.too_short,
        transcripts_wrong: verdict.wrong,
        problems: total.problems.into_iter().map(times).collect(),
        before,
        samples,
        after,
        grew,
        not_known,
    }
}

/// What was missed is not made up for.
fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn times((what, count): (String, u64)) -> String {
    if count == 1 { what } else { format!("{what} ({count} times)") }
}

/// A frame that came twice in one direction does not make up for one that was lost in the other.
const fn lost(total: &Tally) -> u64 {
    total.up.lost() + total.down.lost()
}

/// How it stands.
fn progress(at: Duration, on: u32, sample: Option<&Sample>, total: &Tally, verdict: &Verdict) -> String {
    let processes = sample.map_or_else(String::new, |sample| {
        format!(
            "{:>7.1} MiB own  {:>7.1} MiB all  {:>4} descriptors  {:>3} threads  {:>5} tasks  ",
            mebibytes(sample.own_memory_bytes),
            mebibytes(sample.memory_bytes),
            sample.descriptors,
            sample.threads,
            sample.tasks.map_or_else(|| "?".to_owned(), |tasks| tasks.to_string()),
        )
    });
    format!(
        "{:>7} s  {on:>4} calls  {processes}{:>5} on the way or lost  {} transcripts, {} wrong",
        at.as_secs(),
        lost(total),
        verdict.compared,
        verdict.wrong.len(),
    )
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

/// What is said at the end.
pub(super) fn print_end(found: &SoakOutcome) {
    let machine = &found.machine.processor;
    table::say(&format!(
        "\n{} calls in {:.0} s on {machine}: {} of {} frames lost, {} barge-ins, {} of {} transcripts wrong, {} calls failed",
        found.calls_carried,
        found.seconds,
        found.frames_lost,
        found.frames,
        found.barge_ins,
        found.transcripts_wrong.len(),
        found.transcripts,
        found.calls_failed,
    ));
    table::say(&format!(
        "added latency p50/p99: {}/{} µs up, {}/{} µs down; cut off by p50/max {}/{} ms",
        found.up.p50_us,
        found.up.p99_us,
        found.down.p50_us,
        found.down.p99_us,
        found.truncation.p50_us / 1000,
        found.truncation.max_us / 1000
    ));
    let faults = found.faults();
    let printed = faults.len() - found.transcripts_wrong.len().saturating_sub(MOST_PRINTED);
    for fault in &faults[..printed] {
        table::say(&format!("    {fault}"));
    }
    for unknown in &found.not_known {
        table::say(&format!("    not known: {unknown}"));
    }
    table::say(match (faults.is_empty(), found.not_known.is_empty()) {
        (true, true) => "nothing grew, nothing was lost",
        (true, false) => "good, as far as it is known",
        (false, _) => "NOT GOOD",
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> SoakOutcome {
        let timed = Latency { count: 1000, ..Latency::default() };
        let seen = Sample {
            at_s: 0.0,
            calls: 0,
            own_memory_bytes: 1,
            memory_bytes: 1,
            descriptors: 1,
            threads: 1,
            tasks: Some(1),
        };
        SoakOutcome {
            version: "1.0.0".into(),
            command: "voicebridge bench --soak 30m".into(),
            started_at: Timestamp::UNIX_EPOCH,
            machine: super::super::machine(),
            calls: 200,
            interrupt_every: 4,
            seconds: 1800.0,
            calls_carried: 3000,
            calls_failed: 0,
            frames: 2000,
            frames_lost: 0,
            reordered: 0,
            duplicated: 0,
            barge_ins: 50,
            not_cleared: 0,
            up: timed.clone(),
            down: timed,
            truncation: Latency::default(),
            transcripts: 2990,
            transcripts_too_short: 10,
            transcripts_wrong: Vec::new(),
            problems: Vec::new(),
            before: Some(seen),
            samples: Vec::new(),
            after: Some(seen),
            grew: Vec::new(),
            not_known: Vec::new(),
        }
    }

    #[test]
    fn a_soak_is_good_only_if_all_of_it_is() {
        assert_eq!(good().faults(), Vec::<String>::new());
        let bad: [fn(&mut SoakOutcome); 13] = [
            |found| found.after = None,
            |found| found.up.count = 0,
            |found| found.down.count = 0,
            |found| found.frames_lost = 1,
            |found| found.reordered = 1,
            |found| found.duplicated = 1,
            |found| found.calls_failed = 1,
            |found| found.barge_ins = 0,
            |found| found.not_cleared = 1,
            |found| found.problems.push("the bridge sent what is no JSON".into()),
            |found| found.grew.push("threads grew from 4 to 40".into()),
            |found| found.transcripts_wrong.push("CA1: there is no transcript".into()),
            // Stopped before anything happened.
            |found| (found.up, found.down) = (Latency::default(), Latency::default()),
        ];
        for (number, spoil) in bad.into_iter().enumerate() {
            let mut found = good();
            spoil(&mut found);
            assert!(!found.is_good(), "{number}");
        }
        let (mut quiet, mut unseen) = (good(), good());
        (quiet.barge_ins, quiet.interrupt_every) = (0, 0);
        unseen.not_known.push("whether anything grows".into());
        assert!(quiet.is_good() && unseen.is_good(), "what was not asked for or not seen is not bad");
    }

    #[test]
    fn a_frame_too_many_one_way_does_not_hide_one_that_was_lost_the_other_way() {
        let mut total = Tally::default();
        (total.up.sent, total.up.received) = (100, 98);
        (total.down.sent, total.down.received) = (100, 102);
        assert_eq!(lost(&total), 2);
    }

    #[test]
    fn progress_is_said_also_of_a_bridge_whose_processes_are_not_known() {
        let line = progress(Duration::from_secs(20), 7, None, &Tally::default(), &Verdict::default());
        assert_eq!(line, "     20 s     7 calls      0 on the way or lost  0 transcripts, 0 wrong");
    }
}
