//! One step: so many calls against one target, and what comes of it.

use std::time::Duration;

use tokio::time::sleep;

use super::caller::Dialing;
use super::calls::{Tally, Way};
use super::outcome::{Cpu, Direction, FarEnds, Limit, Load, Memory, Silent, Step};
use super::processes::{self, Usage};
use super::rig::Rig;
use super::target::Running;

/// Calls that a target carries before anything is measured, so that its pools are filled and its code is loaded.
const FIRST_CALLS: u32 = 50;
/// They come all at once, so that every connection of a pool is used.
const FIRST_CALLS_PER_S: f64 = 500.0;
/// How long those last.
const FIRST_TIME: Duration = Duration::from_secs(3);
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
    /// Carries a few calls, so that what follows is measured on a target that has worked before.
    pub(super) async fn prime(rig: &mut Rig, running: Running, dialing: Dialing) -> anyhow::Result<Self> {
        rig.begin();
        let calls = rig.dial(FIRST_CALLS, FIRST_CALLS_PER_S, &dialing).await;
        sleep(FIRST_TIME).await;
        let tally = rig.finish(calls, FIRST_CALLS_PER_S).await;
        let name = &running.target.name;
        if tally.calls_failed == FIRST_CALLS || tally.first_audio.summary().count == 0 {
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
#[derive(Debug, Clone, Copy, Default)]
struct Look {
    target: Option<Usage>,
    far_ends: Option<Usage>,
    machine: Option<(f64, f64)>,
}

impl Look {
    fn at(running: &Running) -> Self {
        Self {
            target: running.usage(),
            far_ends: processes::usage(std::process::id()),
            machine: processes::machine(),
        }
    }
}

/// Measures `calls` calls.
pub(super) async fn step(rig: &mut Rig, subject: &Subject, calls: u32, round: u32, load: &Load) -> Step {
    rig.begin();
    let on = rig.dial(calls, load.dial_per_s, &subject.dialing).await;
    sleep(Duration::from_secs_f64(load.settling_s)).await;
    let mut looks = Vec::new();
    rig.measure(Duration::from_secs_f64(load.measured_s), || looks.push(Look::at(&subject.running))).await;
    let silent = if load.silent { silent(rig, subject, calls).await } else { None };
    let tally = rig.finish(on, HANG_UPS_PER_DIALED * load.dial_per_s).await;
    rig.hush(false);
    let (before, after) =
        (looks.first().copied().unwrap_or_default(), looks.last().copied().unwrap_or_default());
    let call_seconds = f64::from(calls) * load.measured_s;
    let name = subject.running.target.name.clone();
    let mut step = summary(name, calls, round, load, &tally);
    step.cpu = cpu(before, after, call_seconds);
    step.silent = silent;
    step.memory = after.target.zip(subject.idle).map(|(now, idle)| memory(now, idle, calls));
    if let (Some(before), Some(after)) = (before.far_ends, after.far_ends) {
        step.far_ends.ms_per_call_second = (after.own_cpu_s - before.own_cpu_s) * 1000.0 / call_seconds;
    }
    step
}

/// Waits until nobody talks any more, and measures what the calls cost then.
async fn silent(rig: &Rig, subject: &Subject, calls: u32) -> Option<Silent> {
    rig.hush(true);
    sleep(LAST_WORDS).await;
    let before = Look::at(&subject.running);
    sleep(SILENT_TIME).await;
    let after = Look::at(&subject.running);
    Some(Silent {
        cpu: cpu(before, after, f64::from(calls) * SILENT_TIME.as_secs_f64())?,
        memory: memory(after.target?, subject.idle?, calls),
    })
}

fn summary(target: String, calls: u32, round: u32, load: &Load, tally: &Tally) -> Step {
    let (up, down) = (direction(&tally.up), direction(&tally.down));
    let times = |(what, count): (&String, &u64)| {
        if *count == 1 { what.clone() } else { format!("{what} ({count} times)") }
    };
    let within_limit =
        is_within(&load.limit, &up) && is_within(&load.limit, &down) && tally.calls_failed == 0;
    Step {
        target,
        round,
        calls,
        seconds: load.measured_s,
        up,
        down,
        first_audio: tally.first_audio.summary(),
        barge_in: tally.barge_in.summary(),
        truncation: tally.truncation.summary(),
        cpu: None,
        memory: None,
        silent: None,
        far_ends: FarEnds { lateness: tally.lateness.summary(), ms_per_call_second: 0.0 },
        calls_failed: tally.calls_failed,
        problems: tally.problems.iter().map(times).collect(),
        within_limit,
    }
}

fn direction(way: &Way) -> Direction {
    Direction {
        latency: way.latency.summary(),
        shift_us: way.shift_us.summary().mean_us,
        sent: way.sent,
        received: way.received,
        lost: way.sent.saturating_sub(way.received),
        reordered: way.reordered,
        late: way.late,
    }
}

fn is_within(limit: &Limit, way: &Direction) -> bool {
    let lost = way.lost as f64 <= limit.lost * way.sent as f64;
    way.received > 0 && lost && way.latency.p99_us as f64 <= limit.p99_ms * 1000.0
}

fn cpu(before: Look, after: Look, call_seconds: f64) -> Option<Cpu> {
    let (from, to) = (before.target?, after.target?);
    let machine_busy = before.machine.zip(after.machine).map_or(0.0, |(from, to)| {
        let all = to.1 - from.1;
        if all > 0.0 { (to.0 - from.0) / all } else { 0.0 }
    });
    Some(Cpu {
        ms_per_call_second: (to.cpu_s - from.cpu_s) * 1000.0 / call_seconds,
        own_ms_per_call_second: (to.own_cpu_s - from.own_cpu_s) * 1000.0 / call_seconds,
        machine_busy,
    })
}

fn memory(now: Usage, idle: Usage, calls: u32) -> Memory {
    let per_call = |now: u64, idle: u64| (now as f64 - idle as f64) / f64::from(calls);
    Memory {
        total_bytes: now.memory_bytes,
        own_bytes: now.own_memory_bytes,
        per_call_bytes: per_call(now.memory_bytes, idle.memory_bytes),
        own_per_call_bytes: per_call(now.own_memory_bytes, idle.own_memory_bytes),
    }
}
