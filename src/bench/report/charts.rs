//! Which drawings the page has: distributions, latency against calls, cost, and the moments of a call.

use super::figures::{bytes, count, micros, millis, plural};
use super::lines::{
    CPU, FRAMES, MEMORY, MIB, against_calls, against_floor, curve, described, highest, looks, most,
};
use super::plot::{Axis, Line, Plot};
use super::rounds::{LatencyOf, Run, WAYS};
use super::scale::{Scale, micros_tick, percentile_tick, plain_tick};

/// Drawings about one question.
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) text: String,
    pub(super) charts: Vec<Chart>,
}

/// A drawing and what stands above it.
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) legend: Vec<Entry>,
    pub(super) svg: String,
}

/// What one line is.
pub(super) struct Entry {
    pub(super) swatch: String,
    pub(super) name: String,
}

/// All drawings there is something to draw for.
pub(super) fn sections(run: &Run<'_>) -> Vec<Section> {
    let Some(calls) = run.compared_at() else { return Vec::new() };
    let at = format!("At {} at once", plural(calls as usize, "call"));
    let mut sections = vec![Section {
        title: "How long a frame takes",
        text: format!(
            "{at}. Each mark to the right is ten times rarer, so the right end shows what callers notice. \
             Lower is better."
        ),
        charts: distributions(run, calls),
    }];
    if run.loads().len() > 1 {
        sections.push(Section {
            title: "With more calls",
            text:
                "Medians over the rounds; a vertical bar reaches from the best round to the worst where they \
                   differ visibly. Lower is better."
                    .to_owned(),
            charts: frames_against_calls(run),
        });
        sections.push(Section {
            title: "What it costs",
            text: "All processes of a target, and the bridge’s own process where there are others beside it. The \
                   ratio at a marker is to the floor under the same load."
                .to_owned(),
            charts: [cpu(run), memory(run)].into_iter().flatten().collect(),
        });
    }
    sections.push(Section {
        title: "Interruptions and first words",
        text: format!("{at}. What a caller hears of a bridge beside the delay of each frame."),
        charts: moments(run, calls),
    });
    sections.retain(|section| !section.charts.is_empty());
    sections
}

fn distributions(run: &Run<'_>, calls: u32) -> Vec<Chart> {
    let ways: [(&'static str, &str, LatencyOf); 2] =
        [("up", WAYS[0].name, |step| &step.up.latency), ("down", WAYS[1].name, |step| &step.down.latency)];
    let titled = ways.map(|(id, way, of)| (id, format!("Frames, {way}"), of));
    percentiles(run, calls, &titled, "percentile of frames")
}

fn moments(run: &Run<'_>, calls: u32) -> Vec<Chart> {
    let barge_in: LatencyOf = |step| &step.barge_in;
    let first_audio: LatencyOf = |step| &step.first_audio;
    // Each on an axis of its own: one is a matter of microseconds, the other may wait for a model.
    let mut charts = percentiles(
        run,
        calls,
        &[("barge-in", "From an interruption to clear".to_owned(), barge_in)],
        "percentile of interruptions",
    );
    charts.extend(percentiles(
        run,
        calls,
        &[("first-audio", "From the stream’s start to the first audio".to_owned(), first_audio)],
        "percentile of calls",
    ));
    charts
}

/// Distributions side by side, on the same axes.
fn percentiles(
    run: &Run<'_>,
    calls: u32,
    charts: &[(&'static str, String, LatencyOf)],
    label: &'static str,
) -> Vec<Chart> {
    let found: Vec<_> = run
        .series
        .iter()
        .zip(looks(run))
        .filter_map(|(series, look)| Some((series, look, series.at(calls)?)))
        .collect();
    let counts = charts.iter().flat_map(|(_, _, of)| found.iter().map(|(_, _, rounds)| most(rounds, *of)));
    let x = Scale::percentiles_of(counts.max().unwrap_or(0));
    let curves: Vec<Vec<Line>> = charts
        .iter()
        .map(|(_, _, of)| {
            found.iter().filter_map(|(s, look, rounds)| curve(s, *look, rounds, *of, x)).collect()
        })
        .collect();
    let y =
        Scale::log_around(curves.iter().flatten().flat_map(|line| line.points.iter().map(|point| point.y)));
    charts
        .iter()
        .zip(curves)
        .filter_map(|((id, title, _), lines)| {
            let x = Axis { label, scale: x, tick: percentile_tick };
            let y = Axis { label: "time, logarithmic", scale: y, tick: micros_tick };
            chart(Plot { id, title: title.clone(), description: described(&lines), x, y, lines, mark: None })
        })
        .collect()
}

fn frames_against_calls(run: &Run<'_>) -> Vec<Chart> {
    let lines = FRAMES.map(|figures| against_calls(run, &figures, micros));
    let values = lines.iter().flatten().flat_map(|line| line.points.iter()).flat_map(|point| {
        let (low, high) = point.range.unwrap_or((point.y, point.y));
        [low, high]
    });
    let y = Scale::log_around(values);
    let limit = run.outcome.load.limit.p99_ms * 1000.0;
    WAYS.iter()
        .zip(["calls-up", "calls-down"])
        .zip(lines)
        .filter_map(|((way, id), lines)| {
            chart(Plot {
                id,
                title: format!("p50 and p99 of frames, {}", way.name),
                description: described(&lines),
                x: calls_axis(run),
                y: Axis { label: "time, logarithmic", scale: y, tick: micros_tick },
                lines,
                mark: y.spans(limit).then(|| (limit, format!("limit for p99: {}", micros_tick(limit)))),
            })
        })
        .collect()
}

fn cpu(run: &Run<'_>) -> Option<Chart> {
    let mut lines = against_calls(run, &CPU, millis);
    against_floor(run, &mut lines);
    chart(Plot {
        id: "cpu",
        title: "CPU time for each second of each call".to_owned(),
        description: described(&lines),
        x: calls_axis(run),
        y: Axis {
            label: "ms per call-second",
            scale: Scale::from_zero(1.1 * highest(&lines)),
            tick: plain_tick,
        },
        lines,
        mark: None,
    })
}

fn memory(run: &Run<'_>) -> Option<Chart> {
    let lines = against_calls(run, &MEMORY, |mib| bytes(mib * MIB));
    chart(Plot {
        id: "memory",
        title: "Memory under load".to_owned(),
        description: described(&lines),
        x: calls_axis(run),
        y: Axis { label: "MiB", scale: Scale::from_zero(highest(&lines)), tick: plain_tick },
        lines,
        mark: None,
    })
}

fn calls_axis(run: &Run<'_>) -> Axis {
    let most = run.loads().last().copied().unwrap_or(0);
    Axis {
        label: "calls at once",
        scale: Scale::from_zero(f64::from(most)),
        tick: |calls| count(calls.round() as u64),
    }
}

/// Nothing if there is nothing to draw.
fn chart(plot: Plot) -> Option<Chart> {
    let legend = |line: &Line| Entry { swatch: line.look.swatch(), name: line.name.clone() };
    (!plot.lines.is_empty()).then(|| Chart {
        legend: plot.lines.iter().map(legend).collect(),
        svg: plot.svg(),
        title: plot.title,
    })
}
