//! A benchmark's outcome as one page: the answer in large figures, drawings, every figure, how it was measured, and
//! the data itself. It needs nothing but a browser: no network, no script.

mod answer;
mod charts;
mod figures;
mod lines;
mod look;
mod plot;
mod rounds;
mod scale;
mod table;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

use askama::Template;

use crate::audio::AudioFormat;
use crate::bench::outcome::{Outcome, Target, TargetKind};

use answer::Answer;
use charts::Section;
use figures::{bytes, count, listed, micros, number, plural, seconds};
use rounds::{Run, Series};
use table::Table;

/// The outcome as an HTML file that stands alone.
#[must_use]
pub fn page(outcome: &Outcome) -> String {
    Page::new(&Run::new(outcome)).to_string()
}

/// What the template is filled with.
#[derive(Template)]
#[template(path = "bench/report/page.html")]
struct Page<'a> {
    outcome: &'a Outcome,
    title: String,
    lede: String,
    began: String,
    answers: Vec<Answer>,
    far_ends_late: Option<String>,
    beyond_limit: Option<String>,
    stopped_early: Option<&'static str>,
    sections: Vec<Section>,
    facts: Vec<Fact>,
    tables: Vec<Table<'a>>,
    /// With each `<` escaped, so that nothing in it ends the script element.
    json: String,
}

/// A line of what was run and where.
struct Fact {
    name: &'static str,
    text: String,
}

impl<'a> Page<'a> {
    fn new(run: &Run<'a>) -> Self {
        let outcome = run.outcome;
        Self {
            outcome,
            title: title(run),
            lede: lede(run),
            began: outcome.started_at.strftime("%-d %B %Y, %H:%M UTC").to_string(),
            answers: answer::answers(run),
            far_ends_late: answer::far_ends_late(outcome),
            beyond_limit: answer::beyond_limit(outcome),
            stopped_early: answer::stopped_early(outcome),
            sections: charts::sections(run),
            facts: facts(outcome),
            tables: table::tables(outcome),
            json: json(outcome),
        }
    }

    fn limit(&self) -> String {
        answer::limit(self.outcome)
    }

    fn far_ends_limit(&self) -> String {
        answer::far_ends_limit(self.outcome)
    }

    fn has_floor(&self) -> bool {
        self.outcome.targets.iter().any(|target| target.kind == TargetKind::Floor)
    }

    fn rounds(&self) -> u32 {
        self.outcome.steps.iter().map(|step| step.round).max().unwrap_or(0)
    }

    fn converts(&self) -> bool {
        self.outcome.load.format == AudioFormat::Pcm24k
    }

    /// How late the far ends were at worst, at the 99th percentile of a step.
    fn far_ends_at_worst(&self) -> Option<String> {
        let lateness = self.outcome.steps.iter().map(|step| &step.far_ends.lateness);
        lateness
            .filter(|lateness| lateness.count > 0)
            .map(|lateness| lateness.p99_us)
            .max()
            .map(|us| micros(us as f64))
    }
}

fn title(run: &Run<'_>) -> String {
    let names: Vec<&str> = run.subjects().iter().map(|series| series.target.name.as_str()).collect();
    match names[..] {
        [] => "Nothing was measured".to_owned(),
        [name] => format!("What {name} adds to a call"),
        [one, other] => format!("What {one} and {other} add to a call"),
        _ => format!("What each of {} adds to a call", plural(names.len(), "bridge")),
    }
}

fn lede(run: &Run<'_>) -> String {
    let loads = run.loads();
    let (Some(least), Some(most)) = (loads.first(), loads.last()) else {
        return "No step of this run was finished.".to_owned();
    };
    // More than a handful is a search, of which only the ends are worth reading.
    let calls = if loads.len() > 6 {
        format!("{least} to {most} calls")
    } else {
        let loads: Vec<String> = loads.iter().map(|&calls| count(u64::from(calls))).collect();
        format!("{} {}", listed(&loads), if *most == 1 { "call" } else { "calls" })
    };
    let introduced = |series: &Series<'_>| {
        let what = if series.is_floor() { " (a relay that only moves bytes)" } else { "" };
        format!("{}{what}", series.target.name)
    };
    let names: Vec<String> = run.series.iter().map(introduced).collect();
    let rounds = run.series.iter().flat_map(|series| &series.rounds).map(|rounds| rounds.steps.len()).max();
    let rounds = match rounds {
        Some(rounds) if rounds > 1 => format!(", in {}", plural(rounds, "round")),
        _ => String::new(),
    };
    format!(
        "{} carried {calls} at once, measured for {} each{rounds}. Both far ends of every call ran on the same machine: {}, {}.",
        listed(&names),
        seconds(run.outcome.load.measured_s),
        run.outcome.machine.processor,
        plural(run.outcome.machine.cores, "core"),
    )
}

fn facts(outcome: &Outcome) -> Vec<Fact> {
    let (machine, load) = (&outcome.machine, &outcome.load);
    let mut facts = vec![
        Fact {
            name: "Machine",
            text: format!(
                "{}, {}, {} of memory, {}",
                machine.processor,
                plural(machine.cores, "core"),
                bytes(machine.memory_bytes as f64),
                machine.system
            ),
        },
        Fact {
            name: "Load",
            text: format!(
                "{} audio to the model, {} new calls a second, {} of full load before measuring, seed {}",
                load.format,
                number(load.dial_per_s),
                seconds(load.settling_s),
                load.seed
            ),
        },
        Fact { name: "Limit", text: answer::limit(outcome) },
    ];
    facts.extend(outcome.targets.iter().map(|target| Fact { name: kind(target), text: place(target) }));
    facts
}

fn kind(target: &Target) -> &'static str {
    match target.kind {
        TargetKind::Bridge => "Bridge",
        TargetKind::Floor => "Floor",
    }
}

fn place(target: &Target) -> String {
    let whose = if target.started_here { "started by this run" } else { "was running already" };
    format!("{}, {}, {whose}", target.name, target.url)
}

fn json(outcome: &Outcome) -> String {
    let json = serde_json::to_string(outcome).expect("an outcome is plain data with text for keys");
    // In JSON a `<` only stands within strings, where this is the same letter.
    json.replace('<', "\\u003c")
}
