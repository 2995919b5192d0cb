//! The program is told to stop while people are on the telephone.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use secrecy::SecretString;
use sqlx::{AssertSqlSafe, PgPool};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use voicebridge::app::install_tls;
use voicebridge::app::process::{ProcessOptions, ServerProcess};
use voicebridge::simulate::caller::{CallReport, CallerOptions, EndedBy, StreamEnd, run_call};
use voicebridge::simulate::model::{ModelOptions, ModelServer, SessionReport};
use voicebridge::simulate::network::Network;
use voicebridge::simulate::scenario::{Scenario, Step, Utterance};
use voicebridge::store::cluster::{Durability, PrivateCluster, reachable_dir};
use voicebridge::wire::signature::sign;

const TOKEN: &str = "the-auth-token";
/// How long anything that must happen may take on a slow machine.
const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn at_the_first_signal_new_callers_are_turned_away_and_live_calls_go_on_to_their_end() {
    let mut server = Server::start().await;
    let mut calls = JoinSet::new();
    let listen = || Step::Listen { silence_ms: 700, within_ms: 30_000 };
    let ask = Step::Say(Utterance::Phrase("address-question".into()));
    calls.spawn(run_call(server.call(vec![listen(), ask, listen(), Step::HangUp])));
    until("the call is being greeted", async || server.greetings() == 1).await;
    server.signal("TERM").await;
    until("the server is not ready", async || server.status("/readyz").await == 503).await;
    assert_eq!(server.status("/healthz").await, 200, "but it lives");
    let twiml = server.incoming_call().await;
    assert!(twiml.contains("<Say>") && !twiml.contains("<Stream"), "{twiml}");

    let call = calls.join_next().await.unwrap().unwrap();
    assert_eq!((&call.violations, &call.missed), (&Vec::new(), &Vec::new()));
    assert_eq!(call.streams[0].ended_by, StreamEnd::Stop, "the caller hung up when satisfied: {call:?}");
    assert!(call.utterances[0].answered_ms.is_some());
    let (output, records) = server.ended(&call).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(records.reason, "caller_hung_up");
    assert_eq!(records.roles, ["assistant", "user", "assistant"], "and everything is on record");
    assert_eq!(records.last_event, "agent_call_completed");
}

#[tokio::test]
async fn at_the_second_signal_live_calls_are_ended_with_an_apology_and_put_on_record() {
    let mut server = Server::start().await;
    let mut calls = JoinSet::new();
    let steps = || vec![Step::Pause { ms: 600_000 }];
    calls.spawn(run_call(server.call(steps())));
    calls.spawn(run_call(server.call(steps())));
    until("both calls are being greeted", async || server.greetings() == 2).await;
    server.signal("TERM").await;
    until("the server is not ready", async || server.status("/readyz").await == 503).await;
    assert!(calls.try_join_next().is_none(), "nobody was cut off yet");
    server.signal("INT").await;

    let calls = calls.join_all().await;
    for call in &calls {
        assert_eq!(call.streams[0].ended_by, StreamEnd::Server(Some(1000)), "{call:?}");
    }
    // HTTP goes on until Twilio has been told what to do.
    for call in &calls {
        let sentence = "Say Sorry, something went wrong on our side. Please call again later.";
        assert_eq!(
            (&call.followed[1..], call.ended_by),
            (&[sentence.into(), "Hangup".into()][..], EndedBy::Twiml)
        );
    }
    let (output, records) = server.ended(&calls[0]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(records.reason, "drained");
    assert_eq!(records.roles, ["assistant"], "with the words that were heard");
    assert_eq!(records.last_event, "call_failed");
}

#[tokio::test]
async fn mistakes_in_the_configuration_are_told_all_at_once_and_nothing_is_started() {
    let data = data_dir();
    let file = data.path().join("settings.toml");
    fs::write(&file, "VOICEBRIDGE_MAX_CALLS = 0\nVOICEBRIDGE_PORT = 80\n").unwrap();
    let wrong = voicebridge(data.path())
        .arg("--config")
        .arg(&file)
        .env("VOICEBRIDGE_LISTEN", "nowhere")
        .env("PUBLIC_URL", "voice.example.com")
        .env("AUDIO_FORMAT", "opus")
        .env("VOICEBRIDGE_GRACE_PERIOD_S", "soon")
        .env("TWILIO_ACCOUNT_SID", "AC1")
        .env("TWILIO_AUTH_TOKEN", " ")
        .env("DATABASE_URL", "mysql://user:the-password@db/calls")
        .output();
    let output = wrong.await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    for name in [
        "VOICEBRIDGE_MAX_CALLS",
        "VOICEBRIDGE_PORT",
        "VOICEBRIDGE_LISTEN",
        "PUBLIC_URL",
        "AUDIO_FORMAT",
        "VOICEBRIDGE_GRACE_PERIOD_S",
        "TWILIO_ACCOUNT_SID",
        "DATABASE_URL",
        "OPENAI_API_KEY",
    ] {
        assert!(told.contains(&format!("\n  - {name}")), "{name} is not in: {told}");
    }
    assert!(!told.contains("the-password"), "{told}");
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 1, "no database was created");
}

// ---- Helpers ---------------------------------------------------------------------------------------------------------

/// The program with a model of ours.
struct Server {
    process: ServerProcess,
    url: String,
    model: ModelServer,
    data: TempDir,
    http: reqwest::Client,
}

/// What is on record of a call when the server is gone.
struct Records {
    reason: String,
    roles: Vec<String>,
    last_event: String,
}

impl Server {
    async fn start() -> Self {
        install_tls();
        let model = ModelServer::bind(ModelOptions::default(), ([127, 0, 0, 1], 0).into()).await.unwrap();
        let data = data_dir();
        let settings = vec![
            ("OPENAI_REALTIME_URL", model.url()),
            ("OPENAI_API_KEY", "the-key".into()),
            ("TWILIO_AUTH_TOKEN", TOKEN.into()),
            ("AUDIO_FORMAT", "pcmu".into()),
        ];
        let program = env!("CARGO_BIN_EXE_voicebridge").into();
        let options = ProcessOptions { program, data_dir: data.path().into(), settings, echo: false };
        let process = ServerProcess::start(options).await.unwrap();
        let url = format!("http://{}", process.addr);
        Self { process, url, model, data, http: reqwest::Client::new() }
    }

    fn call(&self, steps: Vec<Step>) -> CallerOptions {
        let scenario = Scenario { name: "drain".into(), voice: "anna".into(), steps };
        let url = format!("{}/media-stream-twiml", self.url);
        let usual = CallerOptions::new(url, Some(SecretString::from(TOKEN)), scenario);
        // Twilio asks what comes next a while after the stream was closed.
        CallerOptions { network: Network { delay_ms: 500, jitter_ms: 0 }, ..usual }
    }

    /// Greetings that the model has finished, which takes a fraction of the time to hear them.
    fn greetings(&self) -> usize {
        let begun = |sessions: Vec<SessionReport>| {
            sessions.into_iter().filter_map(|session| session.responses.into_iter().next())
        };
        begun(self.model.report().sessions).filter(|greeting| greeting.status == "completed").count()
    }

    async fn signal(&self, name: &str) {
        self.process.signal(name).await.unwrap();
    }

    async fn status(&self, path: &str) -> u16 {
        self.http.get(format!("{}{path}", self.url)).send().await.unwrap().status().as_u16()
    }

    /// Somebody else calls.
    async fn incoming_call(&self) -> String {
        let url = format!("{}/media-stream-twiml", self.url);
        let fields =
            [("CallSid", "CA0"), ("From", "+14155550199"), ("To", "+14155550100"), ("Direction", "inbound")];
        let request =
            self.http.post(&url).header("x-twilio-signature", sign(TOKEN, &url, &fields)).form(&fields);
        request.send().await.unwrap().text().await.unwrap()
    }

    /// Waits for the end of the process; looks at what it left.
    async fn ended(&mut self, call: &CallReport) -> (Output, Records) {
        let status = self.process.ended(SOON).await.unwrap();
        let log = self.process.log();
        let postgres = reachable_dir(&self.data.path().join("postgres")).unwrap();
        assert!(postgres.join("data/PG_VERSION").exists(), "the records are here");
        assert!(!postgres.join("data/postmaster.pid").exists(), "no PostgreSQL was left behind: {log}");
        let cluster = PrivateCluster::start(&postgres, Durability::Off).await.unwrap();
        let pool = PgPool::connect_with(cluster.connect_options()).await.unwrap();
        let value = async |query: &str| {
            let query = AssertSqlSafe(format!("{query} where call_sid = '{}'", call.call_sid));
            sqlx::query_scalar::<_, String>(query).fetch_one(&pool).await.unwrap()
        };
        let records = Records {
            reason: value("select disconnect_reason from call_leases").await,
            roles: value("select string_agg(role, ' ' order by sequence) from conversation_transcripts")
                .await
                .split(' ')
                .map(Into::into)
                .collect(),
            last_event: value("select event_sequence->-1->>'type' from calls").await,
        };
        pool.close().await;
        cluster.stop().await.unwrap();
        (Output { status, stdout: Vec::new(), stderr: log.into() }, records)
    }
}

/// The program, in an environment that holds no settings of ours. It does not outlive the test.
fn voicebridge(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_voicebridge"));
    command.arg("serve").env_clear().current_dir("/").env("VOICEBRIDGE_DATA_DIR", data).kill_on_drop(true);
    for name in ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// A directory that the server can enter which root has to run as somebody else.
fn data_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Waits for what must become true.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not so in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
