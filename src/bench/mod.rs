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
mod growth;
mod latency;
mod lines;
mod link;
mod mark;
mod measure;
mod model;
pub mod outcome;
mod plan;
mod player;
mod processes;
mod ratios;
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
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::app::Signals;
use crate::simulate::caller::offer::Switchboard;
use caller::Dialing;
use cli::BenchOptions;
use measure::{Subject, step};
use outcome::{Load, Machine, Outcome, Step};
use plan::Search;
use rig::Rig;
use target::{Running, Scratch};

/// How often a number of calls may be tried in a search.
const SEARCH_TRIES: u32 = 3;
/// A bridge that was given too much has got over it by then.
const AFTER_OVERLOAD: Duration = Duration::from_secs(2);
/// The account that calls belong to.
const ACCOUNT_SID: &str = "AC00000000000000000000000000000001";

/// Measures, prints a table, and writes what was asked for. False: something was beyond the limit. A signal ends it
/// early, with what there is.
pub async fn run(options: BenchOptions, mut signals: Signals) -> anyhow::Result<bool> {
    if options.json.as_deref() == Some(Path::new("-")) {
        table::speak_beside();
    }
    check(&options)?;
    let stop = CancellationToken::new();
    let work = measure(options, stop.clone());
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            _ = signals.next() => {
                anyhow::ensure!(!stop.is_cancelled(), "interrupted");
                eprintln!("\nstopping with what there is, when this step is over; once more: at once");
                stop.cancel();
            }
        }
    }
}

/// What can be known to fail before hours of measuring.
fn check(options: &BenchOptions) -> anyhow::Result<()> {
    let files = options.json.iter().filter(|path| *path != Path::new("-")).chain(&options.html);
    for path in files {
        is_writable(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(pid) = options.pid.filter(|pid| cfg!(target_os = "linux") && processes::cpu(*pid).is_none()) {
        anyhow::bail!("there is no process {pid} (--pid)");
    }
    if let Some(url) = &options.url {
        let known = ["http://", "https://", "ws://", "wss://"].iter().any(|scheme| url.starts_with(scheme));
        anyhow::ensure!(known, "`{url}` (--url) begins with none of http://, https://, ws:// and wss://");
    }
    if let (true, Some(first)) = (options.search, options.calls.first()) {
        let most = options.most;
        anyhow::ensure!(
            *first <= most,
            "the search begins with {first} calls (--calls) and ends at {most} (--most)"
        );
    }
    if options.silent && options.url.is_some() && options.pid.is_none() {
        eprintln!("what silent calls cost is not known without the bridge's process (--pid)");
    }
    anyhow::ensure!(
        !(options.floor && options.name == "floor"),
        "only the floor can be called floor (--name)"
    );
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures are several times as high as those of a release build");
    }
    Ok(())
}

/// Leaves what is there as it is: an earlier report is worth more than none, should this run fail.
fn is_writable(path: &Path) -> std::io::Result<()> {
    let existed = path.exists();
    std::fs::File::options().append(true).create(true).open(path)?;
    if existed { Ok(()) } else { std::fs::remove_file(path) }
}

async fn measure(options: BenchOptions, stop: CancellationToken) -> anyhow::Result<bool> {
    let scratch = Scratch::new()?;
    let manner = model::Manner { seed: options.seed, interrupt_every: options.interrupt_every };
    let mut rig = Rig::start(options.model_listen, manner).await?;
    let mut subjects = Vec::new();
    let result = with_targets(&options, &scratch, &mut rig, &mut subjects, &stop).await;
    table::progress("");
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
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    table::progress("starting what is to be measured");
    for running in start_targets(options, scratch, rig).await? {
        let switchboard = Switchboard::new(options.token.clone(), ACCOUNT_SID).map_err(anyhow::Error::msg)?;
        let dialing = Dialing { switchboard, url: running.target.url.clone() };
        table::progress(&format!("first calls to {}", running.target.name));
        let most = options.calls.iter().copied().max().unwrap_or(1);
        subjects.push(Subject::prime(rig, running, dialing, most).await?);
    }
    if let (Some(time), [subject]) = (options.soak, subjects.as_slice()) {
        table::progress("");
        let calls = options.calls.first().copied().unwrap_or(1);
        let (seed, interrupt_every) = (options.seed, options.interrupt_every);
        let found =
            soak::soak(rig, subject, calls, options.dial_per_s, time, seed, interrupt_every, stop).await;
        soak::print_end(&found);
        write_json(options, &found)?;
        return Ok(found.is_good());
    }
    let mut outcome = measure_all(options, rig, subjects, stop).await;
    outcome.stopped_early = stop.is_cancelled();
    table::print_end(&outcome);
    write_json(options, &outcome)?;
    if let Some(path) = &options.html {
        std::fs::write(path, report::page(&outcome))
            .with_context(|| format!("cannot write {}", path.display()))?;
        table::say(&format!("the page is in {}", path.display()));
    }
    Ok(if options.search {
        outcome.most_calls.values().all(|most| *most > 0)
    } else {
        !stop.is_cancelled() && outcome.steps.iter().all(|step| step.within_limit)
    })
}

/// The command as it was typed, but for the token: reports are made to be shown.
fn command_line() -> String {
    without_token(std::env::args())
}

fn without_token(arguments: impl Iterator<Item = String>) -> String {
    let mut hide_next = false;
    let shown = arguments.map(|argument| {
        if std::mem::take(&mut hide_next) {
            return "***".to_owned();
        }
        hide_next = argument == "--token";
        if argument.starts_with("--token=") { "--token=***".to_owned() } else { argument }
    });
    shown.collect::<Vec<_>>().join(" ")
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

async fn measure_all(
    options: &BenchOptions,
    rig: &mut Rig,
    subjects: &[Subject],
    stop: &CancellationToken,
) -> Outcome {
    let mut outcome = Outcome {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: command_line(),
        started_at: Timestamp::now(),
        machine: machine(),
        load: load(options),
        targets: subjects.iter().map(|subject| subject.running.target.clone()).collect(),
        steps: Vec::new(),
        most_calls: BTreeMap::new(),
        most_tried: options.search.then_some(options.most),
        stopped_early: false,
    };
    table::progress("");
    table::print_start(&outcome);
    if options.search {
        search(options, rig, subjects, &mut outcome, stop).await;
        return outcome;
    }
    for &calls in &options.calls {
        for round in 1..=options.rounds {
            // Turn and turn about, and each time the other way round, so that what else the machine does falls on all.
            let mut order: Vec<&Subject> = subjects.iter().collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for subject in order {
                if stop.is_cancelled() {
                    return outcome;
                }
                take(rig, subject, calls, round, &mut outcome).await;
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

/// Each number of calls is measured beside the floor. One that is beyond the limit is tried twice more, because a
/// machine that was busy for a moment says nothing about the bridge.
async fn search(
    options: &BenchOptions,
    rig: &mut Rig,
    subjects: &[Subject],
    outcome: &mut Outcome,
    stop: &CancellationToken,
) {
    let Some((bridge, floor)) = subjects.split_first() else { return };
    let mut search = Search::new(options.calls.first().copied().unwrap_or(1), options.most);
    while let Some(calls) = search.next() {
        if stop.is_cancelled() {
            break;
        }
        for floor in floor {
            take(rig, floor, calls, 1, outcome).await;
        }
        let good = carries(rig, bridge, calls, outcome, stop).await;
        search.tried(good);
    }
    outcome.most_calls.insert(bridge.running.target.name.clone(), search.best());
}

/// Whether a bridge carries so many calls within the limit: the first time, or both other times.
async fn carries(
    rig: &mut Rig,
    bridge: &Subject,
    calls: u32,
    outcome: &mut Outcome,
    stop: &CancellationToken,
) -> bool {
    if take(rig, bridge, calls, 1, outcome).await {
        return true;
    }
    for round in 2..=SEARCH_TRIES {
        sleep(AFTER_OVERLOAD).await;
        if stop.is_cancelled() || !take(rig, bridge, calls, round, outcome).await {
            return false;
        }
    }
    true
}

async fn take(rig: &mut Rig, subject: &Subject, calls: u32, round: u32, outcome: &mut Outcome) -> bool {
    let name = &subject.running.target.name;
    table::progress(&format!("{name}: {calls} calls, round {round}"));
    let step: Step = step(rig, subject, calls, round, &outcome.load).await;
    table::progress("");
    table::print_step(&step);
    let good = step.within_limit;
    outcome.steps.push(step);
    if let Some(bridge) = ratios::compare(outcome, calls, round)
        && let Some(ratios) = outcome.steps[bridge].against_floor
    {
        table::print_ratios(&outcome.steps[bridge], &ratios);
    }
    good
}

fn machine() -> Machine {
    Machine {
        processor: processes::processor().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: processes::machine_memory().unwrap_or_default(),
        system: processes::system(),
        optimised: !cfg!(debug_assertions),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_in_a_report() {
        let shown = |text: &str| without_token(text.split(' ').map(str::to_owned));
        assert_eq!(shown("bench --token secret --calls 5"), "bench --token *** --calls 5");
        assert_eq!(shown("bench --token=secret --floor"), "bench --token=*** --floor");
        assert_eq!(shown("bench --name token"), "bench --name token");
    }
}
