//! Many calls against a bridge at once: what it adds to each frame, what it costs, how many it carries.
//!
//! Both far ends are here, on the same machine: callers as the telephone network brings them, and a model that speaks
//! on schedule. Every frame carries its number in its sound (`mark`), so it is known again behind any bridge.

mod arrivals;
mod caller;
mod calls;
pub mod cli;
mod dialect;
pub mod floor;
mod latency;
mod link;
mod mark;
mod measure;
mod model;
pub mod outcome;
mod plan;
mod player;
mod processes;
mod records;
pub mod report;
mod rig;
pub mod soak;
mod table;
mod talk;
mod target;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use jiff::Timestamp;

use crate::simulate::caller::offer::Switchboard;
use caller::Dialing;
use cli::BenchOptions;
use measure::{Subject, step};
use outcome::{Load, Machine, Outcome, Step};
use plan::Search;
use rig::Rig;
use target::{Running, Scratch};

/// The account that calls belong to.
const ACCOUNT_SID: &str = "AC00000000000000000000000000000001";

/// Measures, prints a table, and writes what was asked for. False: something was beyond the limit.
pub async fn run(options: BenchOptions) -> anyhow::Result<bool> {
    let scratch = Scratch::new()?;
    let manner = model::Manner { seed: options.seed, interrupt_every: options.interrupt_every };
    let mut rig = Rig::start(options.model_listen, manner).await?;
    let mut subjects = Vec::new();
    let result = with_targets(&options, &scratch, &mut rig, &mut subjects).await;
    for subject in subjects {
        subject.running.stop().await?;
    }
    rig.stop().await;
    result
}

async fn with_targets(
    options: &BenchOptions,
    scratch: &Scratch,
    rig: &mut Rig,
    subjects: &mut Vec<Subject>,
) -> anyhow::Result<bool> {
    let load = load(options);
    for running in start_targets(options, scratch, rig).await? {
        let switchboard = Switchboard::new(options.token.clone(), ACCOUNT_SID).map_err(anyhow::Error::msg)?;
        let dialing = Dialing { switchboard, url: running.target.url.clone() };
        subjects.push(Subject::prime(rig, running, dialing).await?);
    }
    if let (Some(time), [subject]) = (options.soak, subjects.as_slice()) {
        let calls = options.calls.first().copied().unwrap_or(1);
        let found = soak::soak(rig, subject, calls, options.dial_per_s, time, options.seed).await;
        soak::print_end(&found);
        write_json(options, &found)?;
        return Ok(found.is_good());
    }
    let outcome = measure_all(options, rig, subjects, load).await;
    table::print_end(&outcome);
    write_json(options, &outcome)?;
    if let Some(path) = &options.html {
        std::fs::write(path, report::page(&outcome))
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("the page is in {}", path.display());
    }
    Ok(options.search || outcome.steps.iter().all(|step| step.within_limit))
}

fn load(options: &BenchOptions) -> Load {
    Load {
        format: options.format,
        measured_s: options.seconds.as_secs_f64(),
        settling_s: options.settle.as_secs_f64(),
        silent: options.silent,
        dial_per_s: options.dial_per_s,
        seed: options.seed,
        limit: options.limit(),
    }
}

async fn measure_all(options: &BenchOptions, rig: &mut Rig, subjects: &[Subject], load: Load) -> Outcome {
    let mut outcome = Outcome {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        started_at: Timestamp::now(),
        machine: machine(),
        load,
        targets: subjects.iter().map(|subject| subject.running.target.clone()).collect(),
        steps: Vec::new(),
        most_calls: BTreeMap::new(),
    };
    table::print_start(&outcome);
    if options.search {
        search(options, rig, subjects, &mut outcome).await;
    } else {
        for &calls in &options.calls {
            for round in 1..=options.rounds {
                // Turn and turn about, so that what else the machine does falls on all of them. The floor first: what
                // follows is compared with it.
                for subject in subjects.iter().rev() {
                    take(rig, subject, calls, round, &mut outcome).await;
                }
            }
        }
    }
    outcome
}

async fn start_targets(options: &BenchOptions, scratch: &Scratch, rig: &Rig) -> anyhow::Result<Vec<Running>> {
    let model_url = model::url(rig.model_addr);
    let mut targets = Vec::new();
    targets.push(match &options.url {
        Some(url) => {
            eprintln!("the model's end is {model_url}; {} must use it", options.name);
            Running::existing(&options.name, url, options.pid)
        }
        None => Running::bridge(&scratch.0, &model_url, options.format, options.most.max(3000)).await?,
    });
    if options.floor {
        targets.push(Running::floor(rig.model_addr, model::FLOOR_PATH).await?);
    }
    Ok(targets)
}

async fn search(options: &BenchOptions, rig: &mut Rig, subjects: &[Subject], outcome: &mut Outcome) {
    for subject in subjects {
        let first = options.calls.first().copied().unwrap_or(1);
        let mut search = Search::new(first, options.most);
        while let Some(calls) = search.next() {
            let good = take(rig, subject, calls, 1, outcome).await;
            search.tried(good);
        }
        outcome.most_calls.insert(subject.running.target.name.clone(), search.best());
    }
}

async fn take(rig: &mut Rig, subject: &Subject, calls: u32, round: u32, outcome: &mut Outcome) -> bool {
    let step: Step = step(rig, subject, calls, round, &outcome.load).await;
    table::print_step(outcome, &step);
    let good = step.within_limit;
    outcome.steps.push(step);
    good
}

fn machine() -> Machine {
    Machine {
        processor: processes::processor().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: processes::machine_memory().unwrap_or_default(),
        system: processes::system(),
    }
}

fn write_json(options: &BenchOptions, found: &impl serde::Serialize) -> anyhow::Result<()> {
    let Some(path) = &options.json else { return Ok(()) };
    let mut json = serde_json::to_string_pretty(found).context("cannot write JSON")?;
    json.push('\n');
    if path == Path::new("-") {
        return std::io::stdout().write_all(json.as_bytes()).context("cannot write to standard output");
    }
    std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
}
