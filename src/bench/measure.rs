//! One step: so many calls against one target, and what comes of it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::caller::Dialing;
use super::calls::{Tally, Way};
use super::outcome::{Cpu, Direction, FarEnds, Limit, Load, Memory, Silent, Step};
use super::processes::{self, Usage};
use super::rig::Rig;
use super::target::Running;

/// Calls that a target carries before anything is measured, so that its pools are filled and its code is loaded.
const FIRST_CALLS: u32 = 20;
/// They come nearly at once, so that every connection of a pool is used.
const FIRST_CALLS_PER_S: f64 = 500.0;
/// How long those last, and how long a slow bridge is given until one of them hears something.
const FIRST_TIME: Duration = Duration::from_secs(3);
const FIRST_SOUND_WITHIN: Duration = Duration::from_secs(15);
/// A call that was dialed is up by then, or has failed.
const UP_WITHIN: Duration = Duration::from_secs(17);
/// Callers hang up faster than they dial, but not all in the same moment, which would be a load of its own.
const HANG_UPS_PER_DIALED: f64 = 2.0;
/// The longest answer and the caller's turn after it are over by then.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Silence that is measured: over before a bridge may lose patience with a model that owes it an answer.
const SILENT_TIME: Duration = Duration::from_secs(3);

/// A target and what it used before there were calls.
pub(super) struct Subject {
    pub(super) running: Running,
    pub(super) dialing: Dialing,
    idle: Option<Usage>,
}

impl Subject {
    /// Carries a few calls, never more than `most`, so that what follows is measured on a target that has worked before.
    pub(super) async fn prime(
        rig: &mut Rig,
        running: Running,
        dialing: Dialing,
        most: u32,
    ) -> anyhow::Result<Self> {
        rig.begin();
        let first_calls = FIRST_CALLS.min(most);
        let calls = rig.dial(first_calls, FIRST_CALLS_PER_S, &dialing).await;
        sleep(FIRST_TIME).await;
        let mut tally = rig.so_far();
        let patience = Instant::now() + FIRST_SOUND_WITHIN;
        while tally.first_audio.summary().count == 0
            && tally.calls_failed < first_calls
            && Instant::now() < patience
        {
            sleep(Duration::from_millis(100)).await;
            tally.add(&rig.so_far());
        }
        tally.add(&rig.finish(calls, FIRST_CALLS_PER_S).await);
        let name = &running.target.name;
        if tally.calls_failed == first_calls || tally.first_audio.summary().count == 0 {
            let why: Vec<_> = tally.problems.into_keys().collect();
            let why = if why.is_empty() {
                "no audio of the model reached a caller".to_owned()
            } else {
                why.join("; ")
            };
            anyhow::bail!("{name} carries no calls at {}: {why}", running.target.url);
        }
        sleep(Duration::from_secs(1)).await;
        let idle = running.usage();
        Ok(Self { running, dialing, idle })
    }
}

/// The machine and the processes at one moment.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    calls_up: u32,
    /// CPU time of all processes, and of the target's own.
    target: Option<(f64, f64)>,
    far_ends: Option<(f64, f64)>,
    machine: Option<(f64, f64)>,
}

impl Look {
    fn now(rig: &Rig, running: &Running) -> Self {
        Self {
            at: Instant::now(),
            calls_up: rig.calls_up(),
            target: running.cpu(),
            far_ends: processes::cpu(std::process::id()),
            machine: processes::machine(),
        }
    }
}

/// From one look to the next.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Look,
    to: Look,
}

impl Span {
    async fn measure(rig: &Rig, running: &Running, time: Duration) -> Self {
        let mut looks = Vec::with_capacity(2);
        rig.measure(time, || looks.push(Look::now(rig, running))).await;
        Self { from: looks[0], to: looks[looks.len() - 1] }
    }

    /// Calls that were up all the time.
    fn calls_up(&self) -> u32 {
        self.from.calls_up.min(self.to.calls_up)
    }

    fn seconds(&self) -> f64 {
        (self.to.at - self.from.at).as_secs_f64()
    }

    fn call_seconds(&self) -> f64 {
        f64::from(self.calls_up().max(1)) * self.seconds()
    }

    fn cpu(&self) -> Option<Cpu> {
        let (from, to) = (self.from.target?, self.to.target?);
        let machine_busy = self.from.machine.zip(self.to.machine).map_or(0.0, |(from, to)| {
            let all = to.1 - from.1;
            if all > 0.0 { (to.0 - from.0) / all } else { 0.0 }
        });
        Some(Cpu {
            ms_per_call_second: (to.0 - from.0) * 1000.0 / self.call_seconds(),
            own_ms_per_call_second: (to.1 - from.1) * 1000.0 / self.call_seconds(),
            machine_busy,
        })
    }
}

/// Measures `calls` calls.
pub(super) async fn step(rig: &mut Rig, subject: &Subject, calls: u32, round: u32, load: &Load) -> Step {
    rig.begin();
    let on = rig.dial(calls, load.dial_per_s, &subject.dialing).await;
    let up_by = Instant::now() + UP_WITHIN;
    while rig.calls_up() < calls && Instant::now() < up_by {
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_secs_f64(load.settling_s)).await;
    let span = Span::measure(rig, &subject.running, Duration::from_secs_f64(load.measured_s)).await;
    let memory = memory(subject, span.calls_up());
    let mut tally = rig.so_far();
    let silent = if load.silent { silent(rig, subject, &mut tally).await } else { None };
    tally.add(&rig.finish(on, HANG_UPS_PER_DIALED * load.dial_per_s).await);
    rig.hush(false);
    let mut step = summary(&subject.running.target.name, calls, round, load, &tally, &span);
    (step.cpu, step.memory, step.silent) = (span.cpu(), memory, silent);
    step
}

/// Waits until nobody talks any more, and measures what the calls cost then. What goes wrong meanwhile goes wrong.
async fn silent(rig: &Rig, subject: &Subject, tally: &mut Tally) -> Option<Silent> {
    rig.hush(true);
    sleep(LAST_WORDS).await;
    tally.add_failures(&rig.so_far());
    let span = Span::measure(rig, &subject.running, SILENT_TIME).await;
    let meanwhile = rig.so_far();
    tally.add_failures(&meanwhile);
    Some(Silent {
        caller_frames: meanwhile.up.received,
        agent_frames: meanwhile.down.sent,
        cpu: span.cpu()?,
        memory: memory(subject, span.calls_up())?,
    })
}

fn memory(subject: &Subject, calls: u32) -> Option<Memory> {
    let (now, idle) = (subject.running.usage()?, subject.idle?);
    let per_call = |now: u64, idle: u64| (now as f64 - idle as f64) / f64::from(calls.max(1));
    Some(Memory {
        total_bytes: now.memory_bytes,
        own_bytes: now.own_memory_bytes,
        per_call_bytes: per_call(now.memory_bytes, idle.memory_bytes),
        own_per_call_bytes: per_call(now.own_memory_bytes, idle.own_memory_bytes),
    })
}

fn summary(target: &str, calls: u32, round: u32, load: &Load, tally: &Tally, span: &Span) -> Step {
    let (up, down) = (direction(&tally.up), direction(&tally.down));
    let (lateness, barge_in) = (tally.lateness.summary(), tally.barge_in.summary());
    let problems = problems(&load.limit, calls, tally, span);
    let within_limit = is_within(&load.limit, &up)
        && is_within(&load.limit, &down)
        && tally.calls_failed == 0
        && problems.is_empty();
    let far_ends = span.from.far_ends.zip(span.to.far_ends);
    let far_ends_ms = far_ends.map_or(0.0, |(from, to)| (to.1 - from.1) * 1000.0 / span.call_seconds());
    Step {
        target: target.to_owned(),
        round,
        calls,
        calls_up: span.calls_up(),
        seconds: span.seconds(),
        up,
        down,
        first_audio: tally.first_audio.summary(),
        interruptions: barge_in.count + tally.not_cleared,
        not_cleared: tally.not_cleared,
        barge_in,
        truncation: tally.truncation.summary(),
        cpu: None,
        memory: None,
        silent: None,
        far_ends: FarEnds { lateness, ms_per_call_second: far_ends_ms },
        calls_failed: tally.calls_failed,
        problems,
        within_limit,
        against_floor: None,
    }
}

/// What makes a step worth less than its figures say.
fn problems(limit: &Limit, calls: u32, tally: &Tally, span: &Span) -> Vec<String> {
    let times = |(what, count): (&String, &u64)| {
        if *count == 1 { what.clone() } else { format!("{what} ({count} times)") }
    };
    let mut problems: Vec<String> = tally.problems.iter().map(times).collect();
    if span.calls_up() < calls {
        problems.push(format!("only {} of {calls} calls were up all the time", span.calls_up()));
    }
    let late_ms = tally.lateness.summary().p99_us as f64 / 1000.0;
    if late_ms > limit.far_ends_ms() {
        problems.push(format!("the far ends were late by {late_ms:.0} ms (p99): the figures are about them"));
    }
    if tally.not_cleared > 0 {
        let missed = tally.not_cleared;
        problems.push(format!("the caller spoke over the agent, and no `clear` came ({missed} times)"));
    }
    problems
}

fn direction(way: &Way) -> Direction {
    Direction {
        latency: way.latency.summary(),
        shift_us: way.shift_us.summary().mean_us,
        sent: way.sent,
        received: way.received,
        lost: way.lost(),
        reordered: way.reordered,
        duplicated: way.duplicated,
        late: way.late,
    }
}

fn is_within(limit: &Limit, way: &Direction) -> bool {
    let lost = way.lost as f64 <= limit.lost * way.sent as f64;
    let in_order = way.reordered == 0 && way.duplicated == 0;
    way.received > 0 && lost && in_order && way.latency.p99_us as f64 <= limit.p99_ms * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(change: impl FnOnce(&mut Direction)) -> bool {
        let mut way = Direction { sent: 1_000, received: 1_000, ..Direction::default() };
        way.latency.p99_us = 4_000;
        change(&mut way);
        is_within(&Limit { p99_ms: 5.0, lost: 0.01 }, &way)
    }

    #[test]
    fn a_direction_is_within_the_limit_only_if_all_of_it_is() {
        assert!(good(|_| {}));
        assert!(good(|way| way.lost = 10));
        assert!(!good(|way| way.lost = 11));
        assert!(!good(|way| way.latency.p99_us = 5_001));
        assert!(!good(|way| way.reordered = 1));
        assert!(!good(|way| way.duplicated = 1));
        assert!(!good(|way| way.received = 0), "a bridge that is silent is not fast");
    }

    fn span(calls_up: (u32, u32)) -> Span {
        let at = Instant::now();
        let look = |seconds: u64, cpu: f64, own: f64, calls_up: u32| Look {
            at: at + Duration::from_secs(seconds),
            calls_up,
            target: Some((cpu, own)),
            far_ends: None,
            machine: Some((cpu, 2.0 * seconds as f64)),
        };
        Span { from: look(0, 0.0, 0.0, calls_up.0), to: look(10, 5.0, 3.0, calls_up.1) }
    }

    #[test]
    fn cpu_time_is_of_the_calls_that_were_up_and_of_the_time_that_passed() {
        let cpu = span((50, 40)).cpu().unwrap();
        assert!((cpu.ms_per_call_second - 12.5).abs() < 1e-9, "{cpu:?}");
        assert!((cpu.own_ms_per_call_second - 7.5).abs() < 1e-9, "{cpu:?}");
        assert!((cpu.machine_busy - 0.25).abs() < 1e-9, "{cpu:?}");
    }

    #[test]
    fn calls_that_are_not_up_late_far_ends_and_missing_clears_are_told() {
        let (limit, mut tally) = (Limit { p99_ms: 5.0, lost: 0.0 }, Tally::default());
        assert!(problems(&limit, 50, &tally, &span((50, 50))).is_empty());
        tally.lateness.record_us(30_000);
        assert!(
            problems(&Limit { p99_ms: 40.0, ..limit }, 50, &tally, &span((50, 50))).is_empty(),
            "who allows the target more allows it to the far ends"
        );
        tally.not_cleared = 2;
        let told = problems(&limit, 50, &tally, &span((50, 49))).join("; ");
        for part in ["only 49 of 50", "late by 30 ms", "no `clear` came (2 times)"] {
            assert!(told.contains(part), "{told}");
        }
    }
}
