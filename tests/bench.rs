//! The benchmark as a command: it drives the server and the floor, and says what it found.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};

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
    let output = bench(&[&load[..], &["--silent", "--limit-p99-ms", "10000"], &files[..]].concat());
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

    let ratios = bridge.against_floor.expect("the floor was measured in the same round");
    assert!(ratios.up_p50.is_some() && ratios.barge_in_p50.is_some());
    assert_eq!(ratios.cpu.is_some(), cfg!(target_os = "linux"));
    assert!(outcome.steps.iter().all(|step| step.target == "voicebridge" || step.against_floor.is_none()));

    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("voicebridge") && page.contains("<svg"));
}

/// Four calls for six seconds, each sending 50 frames a second of which one in 64 says which call it is.
fn check(step: &Step) {
    let name = &step.target;
    assert!((1_100..=1_250).contains(&step.up.sent), "{name}: {} frames up", step.up.sent);
    assert!(step.down.sent > 200, "{name}: {} frames down", step.down.sent);
    for way in [&step.up, &step.down] {
        assert_eq!((way.received, way.lost, way.reordered, way.duplicated), (way.sent, 0, 0, 0), "{name}");
        assert!(way.latency.count <= way.received, "{name}");
        assert!(way.latency.p50_us <= way.latency.p99_us && way.latency.p99_us <= way.latency.max_us);
    }
    assert_eq!(step.up.latency.count, step.up.received, "{name}: every frame of the caller is timed");
    assert!(step.down.latency.count < step.down.received, "{name}: frames that come at once are not");
    assert!(step.barge_in.count > 0, "{name}: nobody spoke over the agent");
    assert_eq!((step.calls_up, step.not_cleared), (4, 0), "{name}");
    assert_eq!((step.calls_failed, step.first_audio.count), (0, 4), "{name}");
    if cfg!(target_os = "linux") {
        assert!(step.cpu.unwrap().ms_per_call_second > 0.0, "{name}");
        assert!(step.memory.unwrap().own_bytes > 1024 * 1024, "{name}");
        let silent = step.silent.unwrap();
        assert_eq!(silent.agent_frames, 0, "{name}: somebody talked");
        assert!(silent.caller_frames > 400, "{name}: {} frames of silence", silent.caller_frames);
        assert!(silent.memory.own_bytes > 1024 * 1024 && silent.cpu.ms_per_call_second > 0.0, "{name}");
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
    assert!(
        found.transcripts >= 3 && found.transcripts + found.transcripts_too_short == found.calls_carried,
        "{}",
        found.transcripts
    );
    assert!(found.barge_ins > 0 && found.frames > 5_000, "{} frames", found.frames);
    if cfg!(target_os = "linux") {
        assert!(
            found
                .samples
                .iter()
                .all(|sample| sample.tasks.is_some_and(|tasks| tasks > 0) && sample.descriptors > 0)
        );
        assert!(found.samples.len() >= 2);
    }
}

/// Another's bridge: it is known by its address and its process only. It happens to be a relay.
struct Other(Child, String);

impl Other {
    fn start(model: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_voicebridge"))
            .args(["relay", "--to", model])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self(child, format!("ws://{}/floor", line.trim()))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn another_s_bridge_is_searched_for_the_most_calls_it_carries() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let other = Other::start(&free);
    let pid = other.0.id().to_string();
    let search = ["--search", "--calls", "2", "--most", "4", "--seconds", "2", "--settle", "0.5"];
    let target = ["--url", &other.1, "--pid", &pid, "--name", "other", "--model-listen", &free];
    let output = bench(&[&search[..], &target[..], &["--limit-p99-ms", "10000", "--json", "-"]].concat());
    assert!(output.status.success());
    let outcome: Outcome = serde_json::from_slice(&output.stdout).expect("standard output holds JSON alone");
    assert_eq!(outcome.most_calls.get("other"), Some(&4));
    assert_eq!(outcome.steps.iter().map(|step| step.calls).collect::<Vec<_>>(), [2, 4]);
    for step in &outcome.steps {
        assert_eq!((step.calls_up, step.up.lost, step.down.lost, step.not_cleared), (step.calls, 0, 0, 0));
        if cfg!(target_os = "linux") {
            assert!(
                step.cpu.unwrap().ms_per_call_second > 0.0 && step.memory.unwrap().own_bytes > 1024 * 1024
            );
        }
    }
}

#[test]
fn what_cannot_be_written_or_measured_is_said_before_anything_starts() {
    for (options, told) in [
        (["--json", "/nonexistent/outcome.json"], "cannot write /nonexistent/outcome.json"),
        (["--interrupt-every", "1"], "none can be timed"),
        (["--limit-p99-ms", "NaN"], "a number from 0 up"),
        (["--limit-lost", "5"], "a share from 0 to 1"),
        (["--calls", "0"], "0 is not in 1..=3000"),
        (["--url", "ftp://127.0.0.1/x"], "begins with none of http://"),
        (["--search", "--most=1"], "the search begins with 50 calls (--calls) and ends at 1 (--most)"),
    ] {
        let output = bench(&options);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(told), "{said}");
        assert!(output.stdout.is_empty(), "it has begun to measure");
    }
}

#[test]
fn a_bridge_that_is_not_there_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old.html"), dir.path().join("new.json"));
    std::fs::write(&old, "an earlier report").unwrap();
    let files = ["--html", old.to_str().unwrap(), "--json", new.to_str().unwrap()];
    let nowhere = ["--url", "ws://127.0.0.1:9/media-stream", "--model-listen", "127.0.0.1:0"];
    let output = bench(&[&nowhere[..], &files].concat());
    assert!(!output.status.success());
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "an earlier report");
    assert!(!new.exists(), "an empty file is no report");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("bridge carries no calls at ws://127.0.0.1:9/media-stream"), "{said}");
    assert!(said.contains("not let in"), "{said}");
}
