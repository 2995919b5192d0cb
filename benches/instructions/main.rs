//! Instructions of one caller frame and one agent frame, of the whole server with one call, held to a baseline.
//!
//! `make counts` compares with `benches/instructions.baseline.json` and fails when a count has grown;
//! `make counts BLESS=1` writes that file. Instructions are the same on a busy machine, so a few percent can be told
//! from noise, which no clock on shared processors can.
//!
//! This program has two roles. As controller it runs itself once per case under callgrind, is both far ends of a call
//! and reads what was counted. As subject it is a server, started as `voicebridge serve` does: sockets, timers,
//! allocator and tokio's driver are in, the far ends and the kernel are not. Callgrind counts every byte that a string
//! instruction fills or copies, so large blocks weigh more here than in time.

mod baseline;
mod callgrind;
mod cases;
#[path = "../../tests/support/far_ends/mod.rs"]
mod far_ends;
mod subject;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use sqlx::ConnectOptions as _;
use tokio::runtime::Runtime;

use baseline::{Baseline, Comparison, Conditions, change_percent};
use cases::{BURST, CASES, Case, Counts};

/// What a burst of the model may cost: a millisecond of a processor that executes two instructions a nanosecond, which
/// is slow.
const BURST_LIMIT: u64 = 2_000_000;
/// Background work that would blur the counts, in percent of a caller frame. A model that says nothing is asked every
/// second and a half whether it is there, which is 300 to 400 instructions a frame. Every two seconds the server, however many
/// calls it has, asks the database what is wanted of them: with one call that is 600 to 1100 instructions a frame.
const BACKGROUND_PERCENT: u64 = 15;

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if arguments == ["--subject"] {
        subject::run()?;
        return Ok(ExitCode::SUCCESS);
    }
    // `cargo test` and nextest run benches too, and ask for a list of tests: there are none.
    if !arguments.contains(&"--bench") {
        return Ok(ExitCode::SUCCESS);
    }
    let bless = arguments.contains(&"--bless");
    let conditions = Conditions::here()?;
    let before = if bless { Baseline::load().unwrap_or_default() } else { Baseline::load()? };
    if !bless {
        before.check(&conditions)?;
    }
    let counts = count_all()?;
    print_table(&counts, &before);
    let mut found = if bless { Comparison::default() } else { before.compare(&counts) };
    found.problems.extend(limits_missed(&counts));
    found.problems.extend(blurred(&counts));
    if bless && found.problems.is_empty() {
        Baseline::new(conditions, &counts).save()?;
        println!("The baseline is written.");
    }
    found.hints.iter().for_each(|hint| println!("{hint}"));
    found.problems.iter().for_each(|problem| println!("FAILED: {problem}"));
    Ok(if found.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn count_all() -> anyhow::Result<Vec<(Case, Counts)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
    let mut counts = Vec::new();
    for case in CASES {
        println!("counting {} ...", case.name);
        let database = empty_database(&runtime);
        counts.push((case, case.count(database, &directory(case)?)?));
    }
    Ok(counts)
}

/// An empty directory that stays, for `callgrind_annotate` to say where the instructions go.
fn directory(case: Case) -> anyhow::Result<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions").join(case.name);
    if dir.exists() {
        fs::remove_dir_all(&dir).context("the counts of the last run")?;
    }
    fs::create_dir_all(&dir).context("a place for the counts")?;
    Ok(dir)
}

fn empty_database(runtime: &Runtime) -> String {
    runtime.block_on(async {
        let store = support::store(1).await;
        let url = store.pool().connect_options().to_url_lossy().to_string();
        store.close().await;
        url
    })
}

/// What is more than was promised, whatever the baseline says.
fn limits_missed(counts: &[(Case, Counts)]) -> Vec<String> {
    let mut missed = Vec::new();
    for (Case { name, pair_limit, .. }, counts) in counts {
        let (pair, burst) = (counts.pair(), counts.burst);
        if let Some(limit) = pair_limit.filter(|limit| pair > *limit) {
            missed.push(format!("{name}: a frame each way costs {pair} instructions, the limit is {limit}"));
        }
        if burst > BURST_LIMIT {
            missed.push(format!("{name}: a burst costs {burst} instructions, the limit is {BURST_LIMIT}"));
        }
    }
    missed
}

/// Counts that mean little, because too much happens beside what is counted.
fn blurred(counts: &[(Case, Counts)]) -> Vec<String> {
    let busy = |counts: &Counts| counts.background * 100 > counts.caller_frame * BACKGROUND_PERCENT;
    let blurred = counts.iter().filter(|(_, counts)| busy(counts));
    blurred
        .map(|(case, counts)| {
            let (name, background) = (case.name, counts.background);
            format!("{name}: {background} instructions a frame are spent while nobody says anything")
        })
        .collect()
}

fn print_table(counts: &[(Case, Counts)], before: &Baseline) {
    println!(
        "\n{:<12}{:>20}{:>20}{:>10}{:>10}{:>14}{:>12}",
        "instructions",
        "caller frame",
        "agent frame",
        "pair",
        "limit",
        format!("burst of {BURST}"),
        "background"
    );
    for (case, now) in counts {
        let [caller, agent] = std::array::from_fn(|part| {
            let now = now.parts()[part].1;
            let change = before.of(*case).map(|then| change_percent(then.parts()[part].1, now));
            change.map_or_else(|| now.to_string(), |change| format!("{now} ({change:+.1} %)"))
        });
        let limit = case.pair_limit.map_or_else(String::new, |limit| limit.to_string());
        let (name, pair, burst, background) = (case.name, now.pair(), now.burst, now.background);
        println!("{name:<12}{caller:>20}{agent:>20}{pair:>10}{limit:>10}{burst:>14}{background:>12}");
    }
    println!();
}
