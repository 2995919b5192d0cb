//! An outcome with realistic figures, for tests.

use std::collections::BTreeMap;

use crate::audio::AudioFormat;
use crate::bench::outcome::{
    AgainstFloor, Cpu, Direction, FarEnds, Latency, Limit, Load, Machine, Memory, Outcome, Silent, Step,
    Target, TargetKind,
};

/// A bridge and the floor, 50 to 300 calls, two rounds.
pub(crate) fn outcome() -> Outcome {
    let mut steps = Vec::new();
    for round in 1..=2 {
        for calls in [50, 100, 200, 300] {
            steps.push(bridge_step(calls, round));
            steps.push(floor_step(calls, round));
        }
    }
    Outcome {
        version: "0.1.0".to_owned(),
        command: "voicebridge bench --floor --calls 50,100,200,300 --rounds 2 --silent --html report.html"
            .to_owned(),
        started_at: "2026-11-21T16:43:08Z".parse().unwrap(),
        machine: Machine {
            processor: "AMD EPYC 7B13".to_owned(),
            cores: 2,
            memory_bytes: 8_335_000_000,
            system: "Linux 6.1.0".to_owned(),
            optimised: true,
        },
        load: Load {
            format: AudioFormat::Pcmu,
            measured_s: 20.0,
            settling_s: 5.0,
            silent: true,
            dial_per_s: 50.0,
            seed: 7,
            limit: Limit { p99_ms: 20.0, lost: 0.001 },
        },
        targets: vec![
            target("voicebridge", TargetKind::Bridge, "ws://127.0.0.1:8080/media-stream"),
            target("floor", TargetKind::Floor, "ws://127.0.0.1:8090/"),
        ],
        steps,
        most_calls: BTreeMap::new(),
        most_tried: None,
        stopped_early: false,
    }
}

/// The bridge, one step alone: nothing to compare with, and nothing known about its processes.
pub(crate) fn lone_step() -> Outcome {
    let mut outcome = outcome();
    outcome.targets.truncate(1);
    outcome.targets[0].started_here = false;
    outcome.steps.truncate(1);
    let step = &mut outcome.steps[0];
    (step.cpu, step.memory, step.silent, step.against_floor) = (None, None, None, None);
    outcome
}

/// Outcomes of all kinds that a page must be able to show.
pub(crate) fn all_kinds() -> Vec<Outcome> {
    let mut no_frames = outcome();
    no_frames.command = "no frames".to_owned();
    for step in &mut no_frames.steps {
        (step.up, step.down) = (Direction::default(), Direction::default());
        (step.first_audio, step.barge_in) = (Latency::default(), Latency::default());
        (step.truncation, step.interruptions, step.not_cleared) = (Latency::default(), 0, 0);
        step.far_ends.lateness = Latency::default();
        // Only of CPU and memory there still is something to compare.
        step.against_floor = step.against_floor.map(|AgainstFloor { cpu, own_memory, .. }| AgainstFloor {
            cpu,
            own_memory,
            ..AgainstFloor::default()
        });
    }
    let mut nothing = outcome();
    nothing.command = "nothing".to_owned();
    nothing.steps.clear();
    let mut floor_alone = outcome();
    floor_alone.command = "floor alone".to_owned();
    floor_alone.targets.remove(0);
    floor_alone.steps.retain(|step| step.target == "floor");
    let mut many = outcome();
    many.command = "many targets with long names".to_owned();
    for (number, mut target) in std::iter::repeat_n(many.targets[0].clone(), 7).enumerate() {
        target.name = format!("another bridge with a very long name, number {number}");
        let mut steps = many.steps.clone();
        steps.retain(|step| step.target == "voicebridge");
        for step in &mut steps {
            step.target.clone_from(&target.name);
        }
        many.targets.push(target);
        many.steps.extend(steps);
    }
    let zeros = Latency { count: 3, ..Latency::default() };
    let mut idle = lone_step();
    idle.command = "zeros".to_owned();
    idle.steps[0].calls = 0;
    (idle.steps[0].up.latency, idle.steps[0].barge_in) = (zeros.clone(), zeros);
    vec![outcome(), lone_step(), no_frames, nothing, floor_alone, many, idle]
}

fn target(name: &str, kind: TargetKind, url: &str) -> Target {
    Target { name: name.to_owned(), kind, url: url.to_owned(), started_here: true }
}

fn bridge_step(calls: u32, round: u32) -> Step {
    let n = f64::from(calls);
    // The second round was a little slower.
    let slow = 1.0 + 0.08 * f64::from(round - 1);
    Step {
        target: "voicebridge".to_owned(),
        up: direction(calls, (190.0 + 0.5 * n) * slow, (520.0 + 2.4 * n) * slow, 0.0, 0),
        down: direction(
            calls,
            (230.0 + 0.6 * n) * slow,
            (610.0 + 2.7 * n) * slow,
            0.0,
            u64::from(calls / 100),
        ),
        first_audio: latency(u64::from(calls), 7_400.0 + 12.0 * n, 12_000.0 + 40.0 * n),
        barge_in: latency(u64::from(calls) * 3 - u64::from(calls / 200), 480.0 + 1.1 * n, 1_900.0 + 5.0 * n),
        not_cleared: u64::from(calls / 200),
        truncation: latency(u64::from(calls) * 3 - u64::from(calls / 200), 20_000.0, 41_000.0),
        cpu: Some(Cpu {
            ms_per_call_second: three((1.44 + 18.0 / n) * slow),
            own_ms_per_call_second: three((1.21 + 9.0 / n) * slow),
            machine_busy: three(0.06 + 0.0024 * n),
        }),
        memory: Some(Memory {
            total_bytes: 71_000_000 + 64_000 * u64::from(calls),
            own_bytes: 14_000_000 + 52_000 * u64::from(calls),
            per_call_bytes: 64_000.0 * slow,
            own_per_call_bytes: 52_000.0 * slow,
        }),
        silent: Some(silent(calls, three(0.61 * slow), 50_000.0 * slow)),
        against_floor: Some(AgainstFloor {
            cpu: Some(three((1.44 + 18.0 / n) * slow / (1.02 + 6.0 / n))),
            own_memory: Some(three(52_000.0 * slow / 25_600.0)),
            up_p50: Some(three((190.0 + 0.5 * n) * slow / (120.0 + 0.25 * n))),
            up_p99: Some(three((520.0 + 2.4 * n) * slow / (330.0 + 1.2 * n))),
            down_p50: Some(three((230.0 + 0.6 * n) * slow / (130.0 + 0.25 * n))),
            down_p99: Some(three((610.0 + 2.7 * n) * slow / (350.0 + 1.25 * n))),
            first_audio_p50: Some(three((7_400.0 + 12.0 * n) / (1_100.0 + 2.0 * n))),
            barge_in_p50: Some(three((480.0 + 1.1 * n) / (210.0 + 0.4 * n))),
        }),
        ..step(calls, round)
    }
}

fn floor_step(calls: u32, round: u32) -> Step {
    let n = f64::from(calls);
    Step {
        target: "floor".to_owned(),
        up: direction(calls, 120.0 + 0.25 * n, 330.0 + 1.2 * n, 0.0, 0),
        down: direction(calls, 130.0 + 0.25 * n, 350.0 + 1.25 * n, 0.0, 0),
        first_audio: latency(u64::from(calls), 1_100.0 + 2.0 * n, 2_600.0 + 6.0 * n),
        barge_in: latency(u64::from(calls) * 3, 210.0 + 0.4 * n, 800.0 + 1.5 * n),
        cpu: Some(Cpu {
            ms_per_call_second: three(1.02 + 6.0 / n),
            own_ms_per_call_second: three(1.02 + 6.0 / n),
            machine_busy: three(0.05 + 0.0019 * n),
        }),
        memory: Some(Memory {
            total_bytes: 4_100_000 + 25_600 * u64::from(calls),
            own_bytes: 4_100_000 + 25_600 * u64::from(calls),
            per_call_bytes: 25_600.0,
            own_per_call_bytes: 25_600.0,
        }),
        silent: Some(silent(calls, 0.48, 25_600.0)),
        ..step(calls, round)
    }
}

/// What all steps share.
fn step(calls: u32, round: u32) -> Step {
    Step {
        target: String::new(),
        round,
        calls,
        calls_up: calls,
        seconds: 20.0,
        up: Direction::default(),
        down: Direction::default(),
        first_audio: Latency::default(),
        barge_in: Latency::default(),
        interruptions: u64::from(calls) * 3,
        not_cleared: 0,
        truncation: Latency::default(),
        cpu: None,
        memory: None,
        silent: None,
        far_ends: FarEnds {
            lateness: latency(u64::from(calls) * 1000, 62.0, 240.0 + f64::from(calls)),
            ms_per_call_second: 1.31,
        },
        calls_failed: 0,
        problems: Vec::new(),
        within_limit: true,
        against_floor: None,
    }
}

/// Three seconds in which nobody talked.
fn silent(calls: u32, ms_per_call_second: f64, per_call_bytes: f64) -> Silent {
    let bytes = 4_100_000 + per_call_bytes as u64 * u64::from(calls);
    Silent {
        caller_frames: 150 * u64::from(calls),
        agent_frames: 0,
        cpu: Cpu { ms_per_call_second, own_ms_per_call_second: ms_per_call_second, machine_busy: 0.2 },
        memory: Memory {
            total_bytes: bytes,
            own_bytes: bytes,
            per_call_bytes,
            own_per_call_bytes: per_call_bytes,
        },
    }
}

fn direction(calls: u32, p50: f64, p99: f64, shift_us: f64, lost: u64) -> Direction {
    let sent = u64::from(calls) * 1000; // 20 s of 20 ms frames.
    Direction {
        latency: latency(sent - lost, p50, p99),
        shift_us,
        sent,
        received: sent - lost,
        lost,
        reordered: 0,
        duplicated: lost / 2,
        late: lost * 2,
    }
}

/// A distribution with a long tail through two of its percentiles.
pub(crate) fn latency(count: u64, p50: f64, p99: f64) -> Latency {
    let at = |nines: f64| {
        let beyond_median = (nines - 2_f64.log10()) / (2.0 - 2_f64.log10());
        // The rarest are slower than a straight line would have them.
        let tail = 1.0 + 0.5 * (nines - 3.0).max(0.0).powi(2);
        (p50 * (p99 / p50).powf(beyond_median) * tail).round() as u64
    };
    let most = (count as f64).log10();
    let last = (most * 16.0).floor() as u32;
    let mut quantiles: Vec<(f64, u64)> = (0..=last)
        .map(|part| f64::from(part) / 16.0)
        // Six digits, as the engine's own figures have few.
        .map(|nines| (((1.0 - 10_f64.powf(-nines)) * 1e6).round() / 1e6, at(nines)))
        .filter(|&(share, _)| share < 1.0)
        .collect();
    quantiles.push((1.0, at(most)));
    Latency {
        count,
        mean_us: (p50 * 1.1).round(),
        p50_us: at(2_f64.log10()),
        p90_us: at(most.min(1.0)),
        p99_us: at(most.min(2.0)),
        p999_us: at(most.min(3.0)),
        max_us: at(most),
        quantiles,
    }
}

fn three(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
