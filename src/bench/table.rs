//! What is printed while a benchmark runs.

use super::outcome::{Direction, Latency, Outcome, Step, TargetKind};

/// What is about to be measured.
pub(super) fn print_start(outcome: &Outcome) {
    let machine = &outcome.machine;
    println!("{}, {} cores, {}", machine.processor, machine.cores, machine.system);
    println!(
        "audio to the model {}; {} s measured after {} s at full load\n",
        outcome.load.format, outcome.load.measured_s, outcome.load.settling_s
    );
    println!(
        "{:<12} {:>5} {:>5}  {:>23}  {:>23}  {:>5} {:>5}  {:>8} {:>8}  {:>11}  {:>8}",
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
        "KiB/call"
    );
}

/// One more step.
pub(super) fn print_step(outcome: &Outcome, step: &Step) {
    println!("{}", row(step));
    for problem in &step.problems {
        println!("    {problem}");
    }
    if let Some(silent) = step.silent {
        println!(
            "    when nobody talks: {:.2} ms of CPU a call-second, {:.0} KiB a call, {:.0} of them its own process'",
            silent.cpu.ms_per_call_second,
            silent.memory.per_call_bytes / 1024.0,
            silent.memory.own_per_call_bytes / 1024.0,
        );
    }
    if step.far_ends.lateness.p99_us > 5_000 {
        let p99 = step.far_ends.lateness.p99_us / 1000;
        println!("    the far ends themselves were late by {p99} ms (p99): the figures are about them");
    }
    if let Some(floor) = floor_of(outcome, step)
        && let (Some(own), Some(low)) = (step.cpu, floor.cpu)
        && low.ms_per_call_second > 0.0
    {
        println!(
            "    against the floor: CPU x{:.2}, p50 {:+} µs up {:+} µs down, p99 {:+} µs up {:+} µs down",
            own.ms_per_call_second / low.ms_per_call_second,
            difference(step.up.latency.p50_us, floor.up.latency.p50_us),
            difference(step.down.latency.p50_us, floor.down.latency.p50_us),
            difference(step.up.latency.p99_us, floor.up.latency.p99_us),
            difference(step.down.latency.p99_us, floor.down.latency.p99_us),
        );
    }
}

/// What it all comes to.
pub(super) fn print_end(outcome: &Outcome) {
    println!();
    for (name, most) in &outcome.most_calls {
        let limit = outcome.load.limit;
        println!(
            "{name}: at most {most} calls with p99 <= {} ms and at most {} % lost",
            limit.p99_ms,
            limit.lost * 100.0
        );
    }
    let beyond = outcome.steps.iter().filter(|step| !step.within_limit).count();
    if outcome.most_calls.is_empty() && beyond > 0 {
        println!("{beyond} of {} measurements were beyond the limit", outcome.steps.len());
    }
}

fn row(step: &Step) -> String {
    let cpu = step.cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{:.2}", cpu.ms_per_call_second));
    let memory =
        step.memory.map_or_else(|| "-".to_owned(), |memory| format!("{:.0}", memory.per_call_bytes / 1024.0));
    format!(
        "{:<12} {:>5} {:>5}  {:>23}  {:>23}  {:>5} {:>5}  {:>8} {:>8}  {:>13}  {:>8}{}",
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

/// The floor's step of the same round, when this one is of a bridge; or the bridge's step is still to come.
fn floor_of<'a>(outcome: &'a Outcome, step: &Step) -> Option<&'a Step> {
    let floor = outcome.targets.iter().find(|target| target.kind == TargetKind::Floor)?;
    let fits = |other: &&Step| other.target == floor.name && other.calls == step.calls;
    (step.target != floor.name).then(|| outcome.steps.iter().rev().find(fits)).flatten()
}

#[expect(clippy::cast_possible_wrap, reason = "microseconds of a benchmark fit")]
const fn difference(a: u64, b: u64) -> i64 {
    a as i64 - b as i64
}
