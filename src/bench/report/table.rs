//! Every figure of every step, as tables of text.

use crate::bench::outcome::{AgainstFloor, Cpu, Direction, Latency, Memory, Outcome, Silent, Step};

use super::figures::{UNKNOWN, bytes, count, micros, micros_of, millis, percent, ratio, seconds};
use super::rounds::WAYS;

/// Figures that are known of each step.
pub(super) struct Table<'a> {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// What the reader must know to read it.
    pub(super) text: &'static str,
    /// What the rows of a step are named after; nothing where a step has but one.
    pub(super) names: Option<&'static str>,
    pub(super) columns: &'static [&'static str],
    /// Whether what went wrong is told beside the figures.
    pub(super) problems: bool,
    pub(super) steps: Vec<Rows<'a>>,
}

/// One step in a table.
pub(super) struct Rows<'a> {
    pub(super) step: &'a Step,
    pub(super) calls: String,
    pub(super) rows: Vec<Row>,
}

/// One line of a table: a name, if the table has any, and a cell for each column.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) cells: Vec<String>,
}

impl Row {
    const fn new(name: &'static str, cells: Vec<String>) -> Self {
        Self { name, cells }
    }

    fn alone(cells: Vec<String>) -> Vec<Self> {
        vec![Self::new("", cells)]
    }
}

const RATIO_COLUMNS: &[&str] = &[
    "CPU",
    "own memory a call",
    "p50 to model",
    "p99 to model",
    "p50 to caller",
    "p99 to caller",
    "first audio, p50",
    "clear, p50",
];

const FRAME_COLUMNS: &[&str] = &[
    "mean",
    "p50",
    "p90",
    "p99",
    "p99.9",
    "max",
    "shift",
    "sent",
    "received",
    "lost",
    "reordered",
    "duplicated",
    "late",
];

const MOMENT_COLUMNS: &[&str] = &["count", "mean", "p50", "p90", "p99", "p99.9", "max"];

const CALL_COLUMNS: &[&str] = &[
    "measured",
    "calls up",
    "calls failed",
    "interruptions",
    "not cleared",
    "far ends’ CPU",
    "far ends late, p99",
];

const COST_COLUMNS: &[&str] = &[
    "CPU",
    "own CPU",
    "machine busy",
    "memory",
    "own memory",
    "memory a call",
    "own a call",
    "silent: CPU",
    "silent: own a call",
    "silent: callers’ frames",
    "silent: model’s frames",
];

/// All tables there is something to write in, the comparison first.
pub(super) fn tables(outcome: &Outcome) -> Vec<Table<'_>> {
    let mut tables = vec![
        Table {
            id: "against-floor",
            title: "Against the floor",
            text: "How many times the floor’s: each figure of a bridge divided by the same figure of the floor, in \
                   the same round and under the same number of calls. 1.00× is the floor itself.",
            names: None,
            columns: RATIO_COLUMNS,
            problems: false,
            steps: steps(outcome, |step| step.against_floor.iter().map(ratios).collect()),
        },
        Table {
            id: "frames",
            title: "Frames",
            text: "",
            names: Some("direction"),
            columns: FRAME_COLUMNS,
            problems: false,
            steps: steps(outcome, |step| {
                WAYS.iter().map(|way| Row::new(way.name, frames((way.of)(step)))).collect()
            }),
        },
        Table {
            id: "moments",
            title: "First audio, interruptions, far ends",
            text: "",
            names: Some("what"),
            columns: MOMENT_COLUMNS,
            problems: false,
            steps: steps(outcome, |step| {
                vec![
                    Row::new("first audio", moment(&step.first_audio)),
                    Row::new("barge-in to clear", moment(&step.barge_in)),
                    Row::new("cut, against what was heard", moment(&step.truncation)),
                    Row::new("far ends’ lateness", moment(&step.far_ends.lateness)),
                ]
            }),
        },
        Table {
            id: "calls",
            title: "Calls and problems",
            text: "",
            names: None,
            columns: CALL_COLUMNS,
            problems: true,
            steps: steps(outcome, |step| Row::alone(calls(step))),
        },
        Table {
            id: "cost",
            title: "Cost",
            text: "",
            names: None,
            columns: COST_COLUMNS,
            problems: false,
            steps: steps(outcome, |step| Row::alone(cost(step))),
        },
    ];
    tables.retain(|table| !table.steps.is_empty());
    tables
}

/// The steps that have rows.
fn steps(outcome: &Outcome, rows: impl Fn(&Step) -> Vec<Row>) -> Vec<Rows<'_>> {
    let all =
        outcome.steps.iter().map(|step| Rows { step, calls: count(u64::from(step.calls)), rows: rows(step) });
    all.filter(|step| !step.rows.is_empty()).collect()
}

fn ratios(against: &AgainstFloor) -> Row {
    let figures = [
        against.cpu,
        against.own_memory,
        against.up_p50,
        against.up_p99,
        against.down_p50,
        against.down_p99,
        against.first_audio_p50,
        against.barge_in_p50,
    ];
    let text = |figure: Option<f64>| figure.and_then(|figure| ratio(figure, 1.0));
    Row::new("", figures.map(|figure| text(figure).unwrap_or_else(unknown)).to_vec())
}

fn calls(step: &Step) -> Vec<String> {
    vec![
        seconds(step.seconds),
        count(u64::from(step.calls_up)),
        count(u64::from(step.calls_failed)),
        count(step.interruptions),
        count(step.not_cleared),
        millis(step.far_ends.ms_per_call_second),
        micros_of(step.far_ends.lateness.count, step.far_ends.lateness.p99_us as f64),
    ]
}

fn cost(step: &Step) -> Vec<String> {
    let cpu = |text: fn(&Cpu) -> String| step.cpu.as_ref().map_or_else(unknown, text);
    let memory = |text: fn(&Memory) -> String| step.memory.as_ref().map_or_else(unknown, text);
    let silent = |text: fn(&Silent) -> String| step.silent.as_ref().map_or_else(unknown, text);
    vec![
        cpu(|cpu| millis(cpu.ms_per_call_second)),
        cpu(|cpu| millis(cpu.own_ms_per_call_second)),
        cpu(|cpu| percent(cpu.machine_busy)),
        memory(|memory| bytes(memory.total_bytes as f64)),
        memory(|memory| bytes(memory.own_bytes as f64)),
        memory(|memory| bytes(memory.per_call_bytes)),
        memory(|memory| bytes(memory.own_per_call_bytes)),
        silent(|silent| millis(silent.cpu.ms_per_call_second)),
        silent(|silent| bytes(silent.memory.own_per_call_bytes)),
        silent(|silent| count(silent.caller_frames)),
        silent(|silent| count(silent.agent_frames)),
    ]
}

fn frames(way: &Direction) -> Vec<String> {
    let mut cells = times(&way.latency);
    cells.push(micros(way.shift_us));
    cells.extend([way.sent, way.received, way.lost, way.reordered, way.duplicated, way.late].map(count));
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

fn unknown() -> String {
    UNKNOWN.to_owned()
}
