//! The whole server as a program: start, answer, drain, stop; and the commands around it.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use sqlx::ConnectOptions as _;
use tempfile::TempDir;
use voicebridge::app::check::{Verdict, check};
use voicebridge::app::{App, install_tls};
use voicebridge::config::{Config, Need};
use wiremock::matchers::{basic_auth, body_string_contains, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

const MODEL: (&str, &str) = ("OPENAI_REALTIME_URL", "ws://127.0.0.1:9");
const ACCOUNT: &str = "AC00000000000000000000000000000001";

#[tokio::test]
async fn a_server_starts_answers_stops_and_finds_its_records_again() {
    let data = data_dir();
    let running = App::start(config(&data, &[])).await.unwrap();
    assert!(running.admin_key_is_new);
    assert_eq!(running.public_url.as_str(), format!("http://{}", running.addr));
    assert_ne!(running.addr.port(), 0);
    let ready = get(&format!("{}/readyz", running.public_url)).await;
    assert_eq!(ready.status(), 200);
    running.store.ping().await.unwrap();
    add_lead(running.store.pool()).await;
    let address = running.addr;
    running.stop().await.unwrap();
    assert!(TcpListener::bind(address).is_ok(), "the port is free again");

    let again = App::start(config(&data, &[])).await.unwrap();
    let leads: i64 =
        sqlx::query_scalar("select count(*) from leads").fetch_one(again.store.pool()).await.unwrap();
    assert_eq!(leads, 1);
    again.stop().await.unwrap();
}

#[tokio::test]
async fn stopping_waits_for_live_calls_and_answers_meanwhile() {
    let data = data_dir();
    let running = App::start(config(&data, &[])).await.unwrap();
    let url = running.public_url.clone();
    let (tasks, finished) = (running.tasks.clone(), Arc::new(AtomicBool::new(false)));
    let (stopping, done) = (tasks.stopping().clone(), Arc::clone(&finished));
    tasks.spawn(async move {
        stopping.cancelled().await;
        // The call goes on, and Twilio may ask what to do after it.
        assert_eq!(get(&url.join("/healthz")).await.status(), 200);
        assert_eq!(get(&url.join("/readyz")).await.status(), 503);
        done.store(true, Ordering::SeqCst);
    });
    running.stop().await.unwrap();
    assert!(finished.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_second_signal_and_the_end_of_the_grace_period_hang_up() {
    for (grace_period, hurry) in [("3600", true), ("0", false)] {
        let data = data_dir();
        let running =
            App::start(config(&data, &[("VOICEBRIDGE_GRACE_PERIOD_S", grace_period)])).await.unwrap();
        let (hang_up, ended) = (running.tasks.hang_up().clone(), Arc::new(AtomicBool::new(false)));
        let done = Arc::clone(&ended);
        running.tasks.spawn(async move {
            hang_up.cancelled().await;
            done.store(true, Ordering::SeqCst);
        });
        if hurry {
            running.stop_unless_hurried(std::future::ready(())).await.unwrap();
        } else {
            running.stop().await.unwrap();
        }
        assert!(ended.load(Ordering::SeqCst), "grace period {grace_period}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_before_anything_is_started() {
    let data = data_dir();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = App::start(config(&data, &[("VOICEBRIDGE_LISTEN", &address)])).await.unwrap_err();
    assert!(
        format!("{error:#}").contains(&format!("cannot listen on {address} (VOICEBRIDGE_LISTEN)")),
        "{error:#}"
    );
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0, "no database was created");
}

#[test]
fn serve_ends_well_on_sigterm() {
    let data = data_dir();
    let mut server = voicebridge(&["serve"])
        .env("VOICEBRIDGE_DATA_DIR", data.path())
        .env("VOICEBRIDGE_LISTEN", "127.0.0.1:0")
        .env(MODEL.0, MODEL.1)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut started = Vec::new();
    for line in lines.by_ref() {
        started.push(line);
        if started.last().unwrap().contains("API key of this run") {
            break;
        }
    }
    let started = started.join("\n");
    assert!(started.contains("ready for calls"), "{started}");
    assert!(started.contains("SIGNATURES ARE NOT CHECKED"), "{started}");
    let stop = Command::new("kill").arg(server.id().to_string()).status().unwrap();
    assert!(stop.success());
    let rest: Vec<String> = lines.collect();
    assert!(server.wait().unwrap().success(), "{rest:?}");
    assert!(rest.last().unwrap().contains("stopped"), "{rest:?}");
}

#[test]
fn serve_can_be_stopped_while_it_starts() {
    let data = data_dir();
    let mut server = voicebridge(&["serve"])
        .env("VOICEBRIDGE_DATA_DIR", data.path())
        .env("VOICEBRIDGE_LISTEN", "127.0.0.1:0")
        .env(MODEL.0, MODEL.1)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains("SIGNATURES ARE NOT CHECKED"), "the first thing it says");
    Command::new("kill").arg(server.id().to_string()).status().unwrap();
    let rest: Vec<String> = lines.collect();
    assert!(server.wait().unwrap().success(), "{rest:?}");
}

#[test]
fn a_wrong_configuration_is_told_whole_and_starts_nothing() {
    let output =
        run(voicebridge(&["serve"]).env("AUDIO_FORMAT", "opus").env("VOICEBRIDGE_LISTEN", "nowhere"));
    assert!(!output.status.success());
    let told = String::from_utf8(output.stderr).unwrap();
    for name in ["AUDIO_FORMAT=\"opus\"", "VOICEBRIDGE_LISTEN=\"nowhere\"", "OPENAI_API_KEY is not set"] {
        assert!(told.contains(name), "{told}");
    }
}

#[test]
fn migrate_needs_no_key_and_may_be_repeated() {
    let data = data_dir();
    for _ in 0..2 {
        let output = run(voicebridge(&["migrate"]).env("VOICEBRIDGE_DATA_DIR", data.path()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn help_names_every_setting_and_openapi_prints_the_document() {
    let help = String::from_utf8(run(&mut voicebridge(&["--help"])).stdout).unwrap();
    for variable in voicebridge::config::VARIABLES {
        assert!(help.contains(variable.name), "{}", variable.name);
    }
    let document = run(&mut voicebridge(&["openapi"])).stdout;
    let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    assert_eq!(document["info"]["title"], "voicebridge");
}

#[tokio::test]
async fn check_says_whether_twilio_knows_the_account() {
    install_tls();
    let api = MockServer::start().await;
    let account = format!("/2010-04-01/Accounts/{ACCOUNT}.json");
    Mock::given(method("GET"))
        .and(path(account))
        .and(basic_auth(ACCOUNT, "right"))
        .respond_with(ResponseTemplate::new(200))
        .mount(&api)
        .await;
    Mock::given(method("GET")).respond_with(ResponseTemplate::new(401)).with_priority(9).mount(&api).await;
    for (token, good) in [("right", true), ("wrong", false)] {
        let url = api.uri();
        let data = data_dir();
        let values = [
            ("TWILIO_ACCOUNT_SID", ACCOUNT),
            ("TWILIO_AUTH_TOKEN", token),
            ("TWILIO_API_URL", &url),
            ("OPENAI_REALTIME_FALLBACK_URL", MODEL.1),
        ];
        let mut findings = Vec::new();
        check(&config(&data, &values), |finding| findings.push(finding)).await;
        let verdict = |what: &str| &findings.iter().find(|finding| finding.what == what).unwrap().verdict;
        assert!(matches!(verdict("database"), Verdict::Good(_)), "{findings:?}");
        let Verdict::Bad(fallback) = verdict("fallback") else { panic!("nobody is there: {findings:?}") };
        assert!(fallback.contains("check OPENAI_REALTIME_FALLBACK_URL"), "{fallback}");
        assert_eq!(matches!(verdict("twilio"), Verdict::Good(_)), good, "{findings:?}");
        let told = findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert_eq!(told.contains("FIX   twilio       refused: TWILIO_AUTH_TOKEN"), !good, "{told}");
    }
}

#[tokio::test]
async fn check_says_whether_kaleyra_takes_the_key_and_whose_its_records_would_be() {
    install_tls();
    let api = MockServer::start().await;
    Mock::given(body_string_contains("api_key=right"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"data": []})))
        .mount(&api)
        .await;
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(401).set_body_json(json!({"message": "no such key"})))
        .with_priority(9)
        .mount(&api)
        .await;
    let data = data_dir();
    let running = App::start(config(&data, &[])).await.unwrap();
    let database = running.store.pool().connect_options().to_url_lossy().to_string();
    for (key, organization, told) in [
        ("right", "default", "ok    kaleyra      the log of calls can be fetched"),
        ("wrong", "default", "FIX   kaleyra      Kaleyra refused the request"),
        ("right", "nobodys", "FIX   kaleyra      KALEYRA_ORGANIZATION=nobodys names no organisation"),
    ] {
        let url = api.uri();
        let values = [
            ("DATABASE_URL", database.as_str()),
            ("KALEYRA_API_URL", &url),
            ("KALEYRA_API_KEY", key),
            ("KALEYRA_ORGANIZATION", organization),
        ];
        let mut findings = Vec::new();
        check(&config(&data, &values), |finding| findings.push(finding.to_string())).await;
        assert_eq!(findings.iter().filter(|finding| finding.starts_with(told)).count(), 1, "{findings:?}");
        let to_fix = findings.iter().filter(|finding| finding.starts_with("FIX   kaleyra")).count();
        assert_eq!(to_fix, usize::from(told.starts_with("FIX")), "{findings:?}");
    }
    running.stop().await.unwrap();
}

/// On any port, with a model that needs no key.
fn config(data: &TempDir, values: &[(&str, &str)]) -> Config {
    let mut all = vec![
        ("VOICEBRIDGE_DATA_DIR", data.path().as_os_str().to_owned()),
        ("VOICEBRIDGE_LISTEN", OsString::from("127.0.0.1:0")),
        (MODEL.0, OsString::from(MODEL.1)),
    ];
    all.extend(values.iter().map(|(name, value)| (*name, OsString::from(value))));
    let find = |name: &str| all.iter().rev().find(|(set, _)| *set == name).map(|(_, value)| value.clone());
    Config::from_parts(None, find, Need::Calls).unwrap()
}

/// A directory that the server can enter which root has to run as somebody else.
fn data_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn the_demo_of_faults_shows_a_call_that_goes_on_and_all_it_claims_is_true() {
    let output = run(&mut voicebridge(&["demo", "--faults"]));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("is killed (SIGKILL)") && told.ends_with("All of it is true.\n"), "{told}");
}

#[test]
fn the_demo_of_a_campaign_calls_everybody_who_may_be_called_and_all_it_claims_is_true() {
    let output = run(&mut voicebridge(&["demo", "--campaign"]));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.ends_with("All of it is true.\n"), "{told}");
}

/// What the command publishes, counted once more from what it writes of each sound.
#[test]
fn an_agent_stops_for_interruptions_and_not_for_signs_of_listening() {
    let dir = data_dir();
    let file = dir.path().join("score.json");
    let options = ["score", "--calls", "25", "--signs", "50", "--interruptions", "50", "--json"];
    let output = run(voicebridge(&options).arg(&file));
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success());
    let score: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(score["unusable"], json!([]));
    let sounds = score["sounds"].as_array().unwrap();
    let (signs, interruptions): (Vec<&Value>, Vec<&Value>) =
        sounds.iter().partition(|sound| sound["meaning"] == "go_on");
    let stopped = |sound: &&&Value| sound["stopped"] == true;
    let stopped_in_time =
        |sound: &&&Value| stopped(sound) && sound["silent_after_ms"].as_f64().is_some_and(|ms| ms <= 400.0);
    let (in_error, in_time) =
        (signs.iter().filter(stopped).count(), interruptions.iter().filter(stopped_in_time).count());
    let (signs, interruptions) = (signs.len(), interruptions.len());
    assert!(signs >= 50 && interruptions >= 50, "{signs} and {interruptions}");
    assert!(in_error * 100 <= signs * 20, "{in_error} of {signs} signs of listening stop the agent");
    assert!(in_time * 100 >= interruptions * 95, "{in_time} of {interruptions} stop it in time");
}

async fn get(url: &str) -> reqwest::Response {
    install_tls();
    reqwest::Client::new().get(url).send().await.unwrap()
}

async fn add_lead(pool: &sqlx::PgPool) {
    sqlx::query("insert into leads (organization_id, phone) select id, '+14155550123' from organisations")
        .execute(pool)
        .await
        .unwrap();
}

/// The program, in an environment that holds no settings of ours.
fn voicebridge(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_voicebridge"));
    command.args(arguments).env_clear().current_dir(Path::new("/"));
    for name in ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}
