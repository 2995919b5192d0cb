//! What is printed while a benchmark runs.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use super::outcome::{AgainstFloor, Direction, Latency, Outcome, Step};

/// JSON goes to standard output, so everything else must not.
static BESIDE: AtomicBool = AtomicBool::new(false);

/// From now on standard output belongs to JSON.
pub(super) fn speak_beside() {
    BESIDE.store(true, Ordering::Relaxed);
}

/// A line for whoever watches.
pub(super) fn say(line: &str) {
    if BESIDE.load(Ordering::Relaxed) { eprintln!("{line}") } else { println!("{line}") }
}

/// What is going on now, on a terminal: the next one replaces it.
pub(super) fn progress(what: &str) {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        // Nobody is worse off when it cannot be shown.
        let _ = write!(terminal, "\r\x1b[K{what}");
        let _ = terminal.flush();
    }
}

macro_rules! sayln {
    ($($text:tt)*) => { say(&format!($($text)*)) };
}

/// What is about to be measured.
pub(super) fn print_start(outcome: &Outcome) {
    let machine = &outcome.machine;
    sayln!("{}, {} cores, {}", machine.processor, machine.cores, machine.system);
    sayln!(
        "audio to the model {}; {} s measured after {} s at full load\n",
        outcome.load.format,
        outcome.load.measured_s,
        outcome.load.settling_s
    );
    sayln!(
        "{:<12} {:>5} {:>5}  {:>23}  {:>23}  {:>5} {:>5}  {:>8} {:>8}  {:>13}  {:>13}",
        "target",
        "round",
        "calls",
        "up p50/p99/max ms",
        "down p50/p99/max ms",
        "lost",
        "late",
        "clear",
        "first",
        "CPU ms/call-s",
        "KiB/call, own"
    );
}

/// One more step.
pub(super) fn print_step(step: &Step) {
    sayln!("{}", row(step));
    for problem in &step.problems {
        sayln!("    {problem}");
    }
    if let Some(silent) = step.silent {
        sayln!(
            "    when nobody talks: {:.2} ms of CPU a call-second, {:.0} KiB a call, {:.0} of them its own process'",
            silent.cpu.ms_per_call_second,
            silent.memory.per_call_bytes / 1024.0,
            silent.memory.own_per_call_bytes / 1024.0,
        );
    }
}

/// How a step compares with the floor.
pub(super) fn print_ratios(step: &Step, ratios: &AgainstFloor) {
    let times = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("x{ratio:.2}"));
    sayln!(
        "    {} against the floor, round {}: CPU {}, own memory {}, up p50 {} p99 {}, down p50 {} p99 {}, clear {}, first {}",
        step.target,
        step.round,
        times(ratios.cpu),
        times(ratios.own_memory),
        times(ratios.up_p50),
        times(ratios.up_p99),
        times(ratios.down_p50),
        times(ratios.down_p99),
        times(ratios.barge_in_p50),
        times(ratios.first_audio_p50),
    );
}

/// What it all comes to.
pub(super) fn print_end(outcome: &Outcome) {
    say("");
    for name in outcome.most_calls.keys() {
        let (Some((how, most)), limit) = (outcome.most(name), outcome.load.limit) else { continue };
        sayln!(
            "{name}: {how} {most} calls with p99 <= {} ms and at most {} % lost",
            limit.p99_ms,
            limit.lost * 100.0
        );
    }
    if outcome.stopped_early {
        sayln!("stopped before all was measured");
    }
    let beyond = outcome.steps.iter().filter(|step| !step.within_limit).count();
    if outcome.most_calls.is_empty() && beyond > 0 {
        sayln!("{beyond} of {} measurements were beyond the limit", outcome.steps.len());
    }
}

fn row(step: &Step) -> String {
    let cpu = step.cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{:.2}", cpu.ms_per_call_second));
    let memory = step.memory.map_or_else(
        || "-".to_owned(),
        |memory| {
            let kib = |bytes: f64| bytes / 1024.0;
            format!("{:.0}, {:.0}", kib(memory.per_call_bytes), kib(memory.own_per_call_bytes))
        },
    );
    format!(
        "{:<12} {:>5} {:>5}  {:>23}  {:>23}  {:>5} {:>5}  {:>8} {:>8}  {:>13}  {:>13}{}",
        step.target,
        step.round,
        step.calls,
        spread(&step.up),
        spread(&step.down),
        step.up.lost + step.down.lost,
        step.up.late + step.down.late,
        ms(&step.barge_in, |latency| latency.p50_us),
        ms(&step.first_audio, |latency| latency.p50_us),
        cpu,
        memory,
        if step.within_limit { "" } else { "  beyond the limit" },
    )
}

fn spread(way: &Direction) -> String {
    let latency = &way.latency;
    let ms = |us: u64| us as f64 / 1000.0;
    format!("{:.2}/{:.2}/{:.1}", ms(latency.p50_us), ms(latency.p99_us), ms(latency.max_us))
}

fn ms(latency: &Latency, of: impl Fn(&Latency) -> u64) -> String {
    if latency.count == 0 { "-".to_owned() } else { format!("{:.2}", of(latency) as f64 / 1000.0) }
}
