//! Every figure of every step, as rows of text.

use crate::bench::outcome::{Cpu, Direction, Latency, Memory, Silent, Step};

use super::figures::{UNKNOWN, bytes, count, micros, micros_of, millis, percent, seconds};
use super::rounds::WAYS;

/// One step in all tables.
pub(super) struct Rows<'a> {
    pub(super) target: &'a str,
    pub(super) calls: String,
    pub(super) round: u32,
    pub(super) within_limit: bool,
    pub(super) problems: &'a [String],
    /// As [`COST_COLUMNS`] says.
    pub(super) cost: Vec<String>,
    /// One row for each direction: its name, then as [`FRAME_COLUMNS`] says.
    pub(super) frames: Vec<(&'static str, Vec<String>)>,
    /// One row for each thing that takes time: its name, then as [`MOMENT_COLUMNS`] says.
    pub(super) moments: Vec<(&'static str, Vec<String>)>,
}

pub(super) const COST_COLUMNS: [&str; 13] = [
    "measured",
    "calls failed",
    "CPU",
    "own CPU",
    "machine busy",
    "memory",
    "own memory",
    "memory a call",
    "own a call",
    "silent: CPU",
    "silent: own a call",
    "far ends’ CPU",
    "far ends late, p99",
];

pub(super) const FRAME_COLUMNS: [&str; 12] =
    ["mean", "p50", "p90", "p99", "p99.9", "max", "shift", "sent", "received", "lost", "reordered", "late"];

pub(super) const MOMENT_COLUMNS: [&str; 7] = ["count", "mean", "p50", "p90", "p99", "p99.9", "max"];

pub(super) fn rows(step: &Step) -> Rows<'_> {
    Rows {
        target: &step.target,
        calls: count(u64::from(step.calls)),
        round: step.round,
        within_limit: step.within_limit,
        problems: &step.problems,
        cost: cost(step),
        frames: WAYS.iter().map(|way| (way.name, frames((way.of)(step)))).collect(),
        moments: vec![
            ("first audio", moment(&step.first_audio)),
            ("barge-in to clear", moment(&step.barge_in)),
            ("far ends’ lateness", moment(&step.far_ends.lateness)),
        ],
    }
}

fn cost(step: &Step) -> Vec<String> {
    let unknown = || UNKNOWN.to_owned();
    let cpu = |text: fn(&Cpu) -> String| step.cpu.as_ref().map_or_else(unknown, text);
    let memory = |text: fn(&Memory) -> String| step.memory.as_ref().map_or_else(unknown, text);
    let silent = |text: fn(&Silent) -> String| step.silent.as_ref().map_or_else(unknown, text);
    vec![
        seconds(step.seconds),
        count(u64::from(step.calls_failed)),
        cpu(|cpu| millis(cpu.ms_per_call_second)),
        cpu(|cpu| millis(cpu.own_ms_per_call_second)),
        cpu(|cpu| percent(cpu.machine_busy)),
        memory(|memory| bytes(memory.total_bytes as f64)),
        memory(|memory| bytes(memory.own_bytes as f64)),
        memory(|memory| bytes(memory.per_call_bytes)),
        memory(|memory| bytes(memory.own_per_call_bytes)),
        silent(|silent| millis(silent.cpu.ms_per_call_second)),
        silent(|silent| bytes(silent.memory.own_per_call_bytes)),
        millis(step.far_ends.ms_per_call_second),
        micros_of(step.far_ends.lateness.count, step.far_ends.lateness.p99_us as f64),
    ]
}

fn frames(way: &Direction) -> Vec<String> {
    let mut cells = times(&way.latency);
    cells.push(micros(way.shift_us));
    cells.extend([way.sent, way.received, way.lost, way.reordered, way.late].map(count));
    cells
}

fn moment(latency: &Latency) -> Vec<String> {
    let mut cells = vec![count(latency.count)];
    cells.extend(times(latency));
    cells
}

fn times(latency: &Latency) -> Vec<String> {
    let of = |us: f64| micros_of(latency.count, us);
    let percentiles = [latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us];
    std::iter::once(of(latency.mean_us)).chain(percentiles.map(|us| of(us as f64))).collect()
}
