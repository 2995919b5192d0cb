//! The program as a process of its own, which can be killed and started again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// How long anything that must happen may take on a slow machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);
pub(crate) const TOKEN: &str = "the-auth-token";
const ADMIN_KEY: &str = "the-admin-key-of-the-tests";

/// What a node is told.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) public_url: Option<String>,
    pub(crate) database_url: String,
    pub(crate) model_url: String,
}

pub(crate) struct Node {
    process: Child,
    pub(crate) addr: SocketAddr,
    settings: Settings,
    data: TempDir,
    /// Passes on what the node says.
    log: JoinSet<()>,
}

impl Node {
    pub(crate) async fn start(settings: &Settings) -> Self {
        let data = tempfile::tempdir().unwrap();
        let (process, addr, log) = spawn(settings, data.path().into()).await;
        Self { process, addr, settings: settings.clone(), data, log }
    }

    /// As power failing: nothing is said or written any more.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.unwrap();
        self.log.join_next().await; // Up to its last word.
    }

    /// Starts it again on what it left behind, on another port.
    pub(crate) async fn start_again(&mut self) {
        (self.process, self.addr, self.log) = spawn(&self.settings, self.data.path().into()).await;
    }

    pub(crate) async fn signal(&self, name: &str) {
        let id = self.process.id().expect("it still runs").to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().await.unwrap().success());
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(SOON, self.process.wait()).await.expect("it ends").unwrap()
    }

    pub(crate) async fn stop(mut self) {
        self.signal("TERM").await;
        assert!(self.ended().await.success());
    }

    /// `None`: it does not answer any more.
    pub(crate) async fn calls_live(&self) -> Option<u64> {
        let url = format!("http://{}/metrics", self.addr);
        let answer = reqwest::Client::new().get(url).bearer_auth(ADMIN_KEY).send().await.ok()?;
        let text = answer.text().await.ok()?;
        text.lines().find_map(|line| line.strip_prefix("voicebridge_calls_live "))?.parse().ok()
    }

    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let url = format!("http://{}/metrics", self.addr);
        let answer = reqwest::Client::new().get(url).bearer_auth(ADMIN_KEY).send().await.unwrap();
        let text = answer.text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("voicebridge_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }
}

async fn spawn(settings: &Settings, data: PathBuf) -> (Child, SocketAddr, JoinSet<()>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_voicebridge"));
    command.arg("serve").env_clear().current_dir("/").env("VOICEBRIDGE_DATA_DIR", data).kill_on_drop(true);
    for name in ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    if let Some(url) = &settings.public_url {
        command.env("PUBLIC_URL", url);
    }
    let mut process = command
        .env("VOICEBRIDGE_LISTEN", "127.0.0.1:0")
        .env("VOICEBRIDGE_LOG_FORMAT", "json")
        .env("VOICEBRIDGE_ADMIN_KEY", ADMIN_KEY)
        .env("DATABASE_URL", &settings.database_url)
        .env("OPENAI_REALTIME_URL", &settings.model_url)
        .env("OPENAI_API_KEY", "the-key")
        .env("TWILIO_AUTH_TOKEN", TOKEN)
        .env("AUDIO_FORMAT", "pcmu")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let addr = timeout(SOON, async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the server starts");
            eprintln!("{line}");
            let entry: Value = serde_json::from_str(&line).unwrap_or_default();
            if line.contains("ready for calls") {
                return entry["addr"].as_str().or(entry["fields"]["addr"].as_str()).unwrap().to_owned();
            }
        }
    });
    let addr = addr.await.unwrap().parse().unwrap();
    // What it says further on helps when a test fails.
    let mut log = JoinSet::new();
    log.spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            eprintln!("{line}");
        }
    });
    (process, addr, log)
}

/// Waits for what must become true.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not so in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
