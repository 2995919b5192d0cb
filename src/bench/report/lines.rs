//! The lines of the drawings: distributions at one number of calls, and figures against the number of calls.

use crate::bench::outcome::Step;

use super::figures::{Spread, micros, plural, ratio};
use super::look::Look;
use super::plot::{Line, Point};
use super::rounds::{LatencyOf, Rounds, Run, Series, known};
use super::scale::{PERCENTILES, Scale, percentile_tick};

/// One figure of a step, as a line.
pub(super) struct Figure {
    name: &'static str,
    of: fn(&Step) -> Option<f64>,
    second: bool,
}

pub(super) const MIB: f64 = 1024.0 * 1024.0;
const TOTAL_CPU: fn(&Step) -> Option<f64> = |step| step.cpu.map(|cpu| cpu.ms_per_call_second);
/// CPU time of all processes, and of the bridge's own.
pub(super) const CPU: [Figure; 2] = [
    Figure { name: "", of: TOTAL_CPU, second: false },
    Figure { name: "own", of: |step| step.cpu.map(|cpu| cpu.own_ms_per_call_second), second: true },
];
pub(super) const MEMORY: [Figure; 2] = [
    Figure { name: "", of: |step| step.memory.map(|memory| memory.total_bytes as f64 / MIB), second: false },
    Figure { name: "own", of: |step| step.memory.map(|memory| memory.own_bytes as f64 / MIB), second: true },
];
pub(super) const FRAMES: [[Figure; 2]; 2] = [
    [
        Figure { name: "p99", of: |step| known(&step.up.latency, step.up.latency.p99_us), second: false },
        Figure { name: "p50", of: |step| known(&step.up.latency, step.up.latency.p50_us), second: true },
    ],
    [
        Figure { name: "p99", of: |step| known(&step.down.latency, step.down.latency.p99_us), second: false },
        Figure { name: "p50", of: |step| known(&step.down.latency, step.down.latency.p50_us), second: true },
    ],
];

pub(super) fn curve(
    series: &Series<'_>,
    look: Look,
    rounds: &Rounds<'_>,
    of: LatencyOf,
    scale: Scale,
) -> Option<Line> {
    // The slowest of 300 is not the slowest of all that will ever be: it stands for its 300th part.
    let last = 1.0 - 1.0 / most(rounds, of).max(1) as f64;
    let name = &series.target.name;
    let points: Vec<Point> = rounds
        .quantiles(of)
        .into_iter()
        .filter(|&(share, _)| share <= last || share >= 1.0)
        .map(|(share, us)| (share.min(last), us))
        .filter(|&(share, _)| scale.reaches(share))
        .map(|(share, us)| {
            let is_tick = PERCENTILES.iter().any(|tick| *tick > 0.0 && (share - tick).abs() < 1e-9);
            let hint = is_tick.then(|| format!("{name}: {} % within {}", percentile_tick(share), micros(us)));
            Point { x: share, y: us, hint, ..Point::default() }
        })
        .collect();
    (!points.is_empty()).then(|| Line { name: short(name), look, points })
}

/// How often something was measured in the round that measured it most.
pub(super) fn most(rounds: &Rounds<'_>, of: LatencyOf) -> u64 {
    rounds.steps.iter().map(|step| of(step).count).max().unwrap_or(0)
}

/// A line for each target and figure; a second figure that is the same as the first has none.
pub(super) fn against_calls(run: &Run<'_>, figures: &[Figure; 2], text: fn(f64) -> String) -> Vec<Line> {
    let mut lines = Vec::new();
    for (series, look) in run.series.iter().zip(looks(run)) {
        let [first, second] = figures.each_ref().map(|figure| points(series, figure, text));
        let same = first.iter().zip(&second).all(|(a, b)| (a.y - b.y).abs() <= 0.01 * a.y);
        for (figure, points) in figures.iter().zip([first, if same { Vec::new() } else { second }]) {
            if !points.is_empty() {
                let name = format!("{} {}", short(&series.target.name), figure.name).trim_end().to_owned();
                lines.push(Line { name, look: Look { second: figure.second, ..look }, points });
            }
        }
    }
    lines
}

fn points(series: &Series<'_>, figure: &Figure, text: fn(f64) -> String) -> Vec<Point> {
    let point = |rounds: &Rounds<'_>| {
        let Spread { low, median, high } = rounds.spread(figure.of)?;
        let between = if high > low { format!(" ({} to {})", text(low), text(high)) } else { String::new() };
        let name = format!("{} {}", series.target.name, figure.name);
        let calls = plural(rounds.calls as usize, "call");
        let hint = format!("{}, {calls}: {}{between}", name.trim_end(), text(median));
        let range = Some((low, high));
        Some(Point { x: f64::from(rounds.calls), y: median, range, hint: Some(hint), note: None })
    };
    series.rounds.iter().filter_map(point).collect()
}

/// Writes at each point of a bridge how many times the floor it is.
pub(super) fn against_floor(run: &Run<'_>, lines: &mut [Line]) {
    let Some(floor) = run.floor() else { return };
    for line in lines.iter_mut().filter(|line| line.look.target.is_some()) {
        for point in &mut line.points {
            let floor = floor.at(point.x as u32).and_then(|rounds| rounds.median(TOTAL_CPU));
            point.note = floor.and_then(|floor| ratio(point.y, floor));
        }
    }
}

pub(super) fn highest(lines: &[Line]) -> f64 {
    let values = lines.iter().flat_map(|line| &line.points);
    values.map(|point| point.range.map_or(point.y, |(_, high)| high)).fold(0.0, f64::max)
}

/// Looks of the targets in their order; bridges take the shapes and colours one after the other.
pub(super) fn looks(run: &Run<'_>) -> Vec<Look> {
    let mut bridges = 0..;
    let look = |series: &Series<'_>| {
        let target = if series.is_floor() { None } else { bridges.next() };
        Look { target, second: false }
    };
    run.series.iter().map(look).collect()
}

/// All marked values in words, for those who cannot see the drawing.
pub(super) fn described(lines: &[Line]) -> String {
    let hints = lines.iter().flat_map(|line| &line.points).filter_map(|point| point.hint.as_deref());
    hints.collect::<Vec<_>>().join("; ")
}

/// A name that leaves room for the drawing.
fn short(name: &str) -> String {
    const MOST: usize = 16;
    if name.chars().count() <= MOST {
        return name.to_owned();
    }
    name.chars().take(MOST - 1).chain(['…']).collect()
}
