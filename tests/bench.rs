//! The benchmark as a command: it drives the server and the floor, and says what it found.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

use std::process::{Command, Output};

use voicebridge::bench::outcome::{Outcome, Step, TargetKind};
use voicebridge::bench::soak::SoakOutcome;

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_voicebridge"));
    let output = command.arg("bench").args(arguments).env_remove("TWILIO_AUTH_TOKEN").output().unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn a_bridge_and_the_floor_are_measured_and_the_page_and_the_json_say_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (json, html) = (dir.path().join("outcome.json"), dir.path().join("report.html"));
    let (json_path, html_path) = (json.to_str().unwrap(), html.to_str().unwrap());
    // Nobody promises how fast this machine is today: any latency is within the limit, no loss is.
    let files = ["--json", json_path, "--html", html_path];
    let load = ["--calls", "4", "--floor", "--seconds", "6", "--settle", "1", "--interrupt-every", "2"];
    let output = bench(&[&load[..], &["--limit-p99-ms", "10000"], &files[..]].concat());
    assert!(output.status.success());

    let outcome: Outcome = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let kinds: Vec<TargetKind> = outcome.targets.iter().map(|target| target.kind).collect();
    assert_eq!(kinds, [TargetKind::Bridge, TargetKind::Floor]);
    assert_eq!(outcome.steps.len(), 2);
    for step in &outcome.steps {
        check(step);
    }
    let bridge = outcome.steps.iter().find(|step| step.target == "voicebridge").unwrap();
    assert!(bridge.truncation.count > 0, "the model was told where the caller was cut off");
    assert!(bridge.truncation.max_us < 1_000_000, "{:?}", bridge.truncation);

    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("voicebridge") && page.contains("<svg"));
}

/// Four calls for six seconds, each sending 50 frames a second of which one in 64 says which call it is.
fn check(step: &Step) {
    let name = &step.target;
    assert!((1_100..=1_250).contains(&step.up.sent), "{name}: {} frames up", step.up.sent);
    assert!(step.down.sent > 200, "{name}: {} frames down", step.down.sent);
    for way in [&step.up, &step.down] {
        assert_eq!((way.received, way.lost, way.reordered), (way.sent, 0, 0), "{name}");
        assert_eq!(way.latency.count, way.received, "{name}");
        assert!(way.latency.p50_us <= way.latency.p99_us && way.latency.p99_us <= way.latency.max_us);
    }
    assert!(step.barge_in.count > 0, "{name}: nobody spoke over the agent");
    assert_eq!((step.calls_failed, step.first_audio.count), (0, 4), "{name}");
    if cfg!(target_os = "linux") {
        assert!(step.cpu.unwrap().ms_per_call_second > 0.0, "{name}");
        assert!(step.memory.unwrap().own_bytes > 1024 * 1024, "{name}");
    }
}

#[test]
fn a_soak_compares_every_transcript_with_what_was_said() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("soak.json");
    let output = bench(&["--soak", "35s", "--calls", "3", "--json", json.to_str().unwrap()]);
    assert!(output.status.success());
    let found: SoakOutcome = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!((found.transcripts_wrong.len(), found.frames_lost, found.calls_failed), (0, 0, 0));
    assert!(found.transcripts >= 3 && found.transcripts == found.calls_carried, "{}", found.transcripts);
    assert!(found.barge_ins > 0 && found.frames > 5_000, "{} frames", found.frames);
    if cfg!(target_os = "linux") {
        assert!(found.samples.iter().all(|sample| sample.tasks > 0 && sample.descriptors > 0));
        assert!(found.samples.len() >= 2);
    }
}

#[test]
fn a_bridge_that_is_not_there_is_a_clear_error() {
    let output = bench(&["--url", "ws://127.0.0.1:9/media-stream", "--model-listen", "127.0.0.1:0"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("bridge carries no calls at ws://127.0.0.1:9/media-stream"), "{said}");
    assert!(said.contains("not let in"), "{said}");
}
