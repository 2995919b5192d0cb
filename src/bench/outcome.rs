//! What a benchmark found, as data: the JSON output, and what the table and the page are drawn from.
//!
//! Times are in microseconds, because a bridge adds tens to thousands of them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::audio::AudioFormat;

/// Far ends that are late by more than a frame measure themselves.
const FAR_ENDS_LATE_MS: f64 = 20.0;

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Version of this program.
    pub version: String,
    /// The command as it was typed.
    pub command: String,
    /// When the run began.
    pub started_at: Timestamp,
    /// Where it ran.
    pub machine: Machine,
    /// How the load was made.
    pub load: Load,
    /// What was measured, in the order it was named: the bridge, then the floor if there was one.
    pub targets: Vec<Target>,
    /// One measurement each, in the order they were made.
    pub steps: Vec<Step>,
    /// The most calls within the limit, by name of the target; only where it was searched for.
    pub most_calls: BTreeMap<String, u32>,
    /// More calls than these were not tried, when they were searched for.
    pub most_tried: Option<u32>,
    /// True when it was stopped before all was measured.
    pub stopped_early: bool,
}

/// The machine of a run. Both far ends ran on it too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model name of the processor.
    pub processor: String,
    /// Logical processors that this process may use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Operating system and kernel.
    pub system: String,
    /// False: a debug build was measured, and measured itself.
    pub optimised: bool,
}

/// How the load was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Audio between bridge and model.
    pub format: AudioFormat,
    /// Seconds that were measured in each step.
    pub measured_s: f64,
    /// Seconds of full load before that.
    pub settling_s: f64,
    /// Whether calls in which nobody talks were measured too.
    pub silent: bool,
    /// New calls a second while a step begins.
    pub dial_per_s: f64,
    /// Decides the length of answers and the moments of interruptions.
    pub seed: u64,
    /// What counts as good enough.
    pub limit: Limit,
}

/// What counts as good enough.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// Added latency that 99 % of the frames of each direction stay below.
    pub p99_ms: f64,
    /// Share of the frames that may be missing.
    pub lost: f64,
}

impl Outcome {
    /// What the search found for a target: exactly so many calls, or at least so many.
    pub(super) fn most(&self, target: &str) -> Option<(&'static str, u32)> {
        let most = *self.most_calls.get(target)?;
        Some((if self.most_tried == Some(most) { "at least" } else { "at most" }, most))
    }
}

impl Limit {
    /// How late the far ends may have been themselves, in milliseconds (p99). Above this a step says more about them
    /// than about what was measured. Whoever allows the target more, allows it to them.
    #[must_use]
    pub const fn far_ends_ms(&self) -> f64 {
        self.p99_ms.max(FAR_ENDS_LATE_MS)
    }
}

/// Something that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its name in [`Step::target`].
    pub name: String,
    /// What it is.
    pub kind: TargetKind,
    /// Where calls are placed.
    pub url: String,
    /// True when this run started it, so that its processes can be looked at.
    pub started_here: bool,
}

/// What a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// A bridge between the two protocols.
    Bridge,
    /// Our relay that only moves bytes.
    Floor,
}

/// One target under one number of calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Which target, by name.
    pub target: String,
    /// Counts up when the same number of calls is measured again.
    pub round: u32,
    /// Calls at the same time.
    pub calls: u32,
    /// Calls that were really up when it was measured.
    pub calls_up: u32,
    /// Seconds that were measured.
    pub seconds: f64,
    /// From the caller to the model.
    pub up: Direction,
    /// From the model to the caller.
    pub down: Direction,
    /// From the start of the media stream to the first audio that reached the caller.
    pub first_audio: Latency,
    /// From the model's word that the caller speaks to `clear` reaching the caller's end.
    pub barge_in: Latency,
    /// Times the caller spoke over the agent.
    pub interruptions: u64,
    /// Of these, the ones after which no `clear` came before the next answer.
    pub not_cleared: u64,
    /// Between what the caller had heard when `clear` came and where the model was told to cut.
    pub truncation: Latency,
    /// CPU time of the target's processes, where they are known.
    pub cpu: Option<Cpu>,
    /// Memory of the target's processes, where they are known.
    pub memory: Option<Memory>,
    /// The same calls afterwards, when nobody talked; only where it was asked for.
    pub silent: Option<Silent>,
    /// How well the far ends kept up.
    pub far_ends: FarEnds,
    /// Calls that could not be placed or broke.
    pub calls_failed: u32,
    /// What went wrong, in words, each kind once.
    pub problems: Vec<String>,
    /// Whether all of it is within the limit.
    pub within_limit: bool,
    /// Each figure as a ratio to that of the floor in the same round; only of a bridge beside a floor.
    pub against_floor: Option<AgainstFloor>,
}

/// How many times as much as the floor's. A figure that one of the two lacks is left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct AgainstFloor {
    /// CPU time of a call.
    pub cpu: Option<f64>,
    /// Memory of a call, of the target's own process.
    pub own_memory: Option<f64>,
    /// Latency from the caller to the model, median.
    pub up_p50: Option<f64>,
    /// The same, 99th percentile.
    pub up_p99: Option<f64>,
    /// Latency from the model to the caller, median.
    pub down_p50: Option<f64>,
    /// The same, 99th percentile.
    pub down_p99: Option<f64>,
    /// Time to first audio, median.
    pub first_audio_p50: Option<f64>,
    /// Barge-in to `clear`, median.
    pub barge_in_p50: Option<f64>,
}

/// Frames of 20 ms on their way in one direction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// From the moment a frame was sent, whether the bridge took it or not, to the arrival of its middle.
    pub latency: Latency,
    /// How much later within its message a frame begins than it was sent: the delay of filters.
    pub shift_us: f64,
    /// Frames that were sent and should have arrived.
    pub sent: u64,
    /// Frames that arrived.
    pub received: u64,
    /// Frames that did not arrive.
    pub lost: u64,
    /// Frames that arrived after a later one.
    pub reordered: u64,
    /// Frames that arrived once more.
    pub duplicated: u64,
    /// Frames that arrived more than 20 ms after they were sent.
    pub late: u64,
}

/// How long something took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How often it happened.
    pub count: u64,
    /// The average.
    pub mean_us: f64,
    /// Half took no longer.
    pub p50_us: u64,
    /// 90 % took no longer.
    pub p90_us: u64,
    /// 99 % took no longer.
    pub p99_us: u64,
    /// 99.9 % took no longer.
    pub p999_us: u64,
    /// None took longer.
    pub max_us: u64,
    /// The distribution: (a share of all between 0 and 1, microseconds that this share did not exceed), rising, from
    /// 0 to 1.
    pub quantiles: Vec<(f64, u64)>,
}

/// CPU time of a target's processes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Milliseconds of CPU for each second of each call, all processes.
    pub ms_per_call_second: f64,
    /// Of these, the bridge's own process.
    pub own_ms_per_call_second: f64,
    /// Share of the machine's CPU time that was busy, whoever used it, 0 to 1.
    pub machine_busy: f64,
}

/// Memory of a target's processes: proportional set size, so that shared pages count once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// All processes, under load.
    pub total_bytes: u64,
    /// Of these, the bridge's own process.
    pub own_bytes: u64,
    /// What each call added to all processes since the target was idle.
    pub per_call_bytes: f64,
    /// What each call added to the bridge's own process.
    pub own_per_call_bytes: f64,
}

/// Calls in which nobody talks: the caller's frames flow, and the model says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Silent {
    /// Frames of the callers that arrived meanwhile.
    pub caller_frames: u64,
    /// Frames that the model sent meanwhile: none, unless its last answer was longer than was waited for.
    pub agent_frames: u64,
    /// CPU time of the target's processes.
    pub cpu: Cpu,
    /// Their memory.
    pub memory: Memory,
}

/// How well the far ends kept up. When they did not, the figures say more about them than about the target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FarEnds {
    /// How late frames were sent, against the schedule.
    pub lateness: Latency,
    /// Milliseconds of CPU for each second of each call.
    pub ms_per_call_second: f64,
}
