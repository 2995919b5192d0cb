//! The server as a process of its own: it can be held, killed and started again on what it left behind.
//!
//! For whoever wants to see what a server does in trouble: the demo, benchmarks and tests.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::VARIABLES;

/// A first start makes a database.
const READY_WITHIN: Duration = Duration::from_secs(90);
const ADMIN_KEY: &str = "VOICEBRIDGE_ADMIN_KEY";
/// Of what it has said, so many lines are kept.
const LINES: usize = 2000;

/// How it is started.
#[derive(Debug, Clone)]
pub struct ProcessOptions {
    /// The program.
    pub program: PathBuf,
    /// Where it keeps its files.
    pub data_dir: PathBuf,
    /// By their names in the environment. Nothing else of ours is passed on; it listens on a free port, and logs JSON.
    pub settings: Vec<(&'static str, String)>,
    /// What it says is also written to our standard error.
    pub echo: bool,
}

impl ProcessOptions {
    /// This program itself.
    pub fn own(data_dir: PathBuf) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        Ok(Self { program, data_dir, settings: Vec::new(), echo: false })
    }
}

/// A server that was started. It does not outlive this.
#[derive(Debug)]
pub struct ServerProcess {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its API key.
    pub admin_key: String,
    options: ProcessOptions,
    child: Child,
    log: Log,
    /// Takes down what it says.
    listening: JoinSet<()>,
}

impl ServerProcess {
    /// Starts it; returns when it is ready for calls.
    pub async fn start(options: ProcessOptions) -> anyhow::Result<Self> {
        let given = options.settings.iter().find(|(name, _)| *name == ADMIN_KEY);
        let admin_key =
            given.map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), |(_, key)| key.clone());
        let log = Log::default();
        let (child, addr, listening) = spawn(&options, &admin_key, &log).await?;
        Ok(Self { addr, admin_key, options, child, log, listening })
    }

    /// Starts it again after its end, on what it has left, perhaps on another port.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        (self.child, self.addr, self.listening) = spawn(&self.options, &self.admin_key, &self.log).await?;
        Ok(())
    }

    /// Its process, as long as that has not been waited for.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it has said, the last of it.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Sends it a signal, such as `TERM` or `STOP`.
    pub async fn signal(&self, name: &str) -> anyhow::Result<()> {
        let id = self.child.id().context("the server has ended already")?.to_string();
        let sent =
            Command::new("kill").args(["-s", name, &id]).status().await.context("cannot run `kill`")?;
        if !sent.success() {
            bail!("cannot send SIG{name} to the server");
        }
        Ok(())
    }

    /// Ends it as a power failure would: nothing more is said or written.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("cannot end the server")?;
        self.listening.join_next().await; // Up to its last word.
        Ok(())
    }

    /// Waits for its end.
    pub async fn ended(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let status = timeout(within, self.child.wait()).await.context("the server does not end")??;
        self.listening.join_next().await;
        Ok(status)
    }

    /// Stops it; it has to end well.
    pub async fn stop(mut self, within: Duration) -> anyhow::Result<()> {
        self.signal("TERM").await?;
        let status = self.ended(within).await?;
        if !status.success() {
            bail!("the server ended with {status}; it said:\n{}", self.log());
        }
        Ok(())
    }

    /// One of its metrics, by its name without `voicebridge_`. An error: it does not answer any more.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let http = reqwest::Client::builder().no_proxy().build().context("cannot make an HTTP client")?;
        let request = http.get(format!("http://{}/metrics", self.addr)).bearer_auth(&self.admin_key);
        let text = request.send().await?.error_for_status()?.text().await?;
        let wanted = format!("voicebridge_{name} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&wanted));
        value.with_context(|| format!("the server has no metric {name}"))?.parse().context("it is no number")
    }
}

async fn spawn(
    options: &ProcessOptions,
    admin_key: &str,
    log: &Log,
) -> anyhow::Result<(Child, SocketAddr, JoinSet<()>)> {
    let mut command = Command::new(&options.program);
    for variable in VARIABLES {
        command.env_remove(variable.name);
    }
    let settings = options.settings.iter().map(|(name, value)| (*name, value));
    let mut child = command
        .arg("serve")
        // No settings are found there.
        .current_dir("/")
        .env("VOICEBRIDGE_LISTEN", "127.0.0.1:0")
        .env("VOICEBRIDGE_LOG_FORMAT", "json")
        .env(ADMIN_KEY, admin_key)
        .env("VOICEBRIDGE_DATA_DIR", &options.data_dir)
        .envs(settings)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        // Ended also when we panic, but not by a Ctrl-C that is meant for us: we end it in our turn.
        .kill_on_drop(true)
        .process_group(0)
        .spawn()
        .context("cannot start the server")?;
    let output = child.stderr.take().context("its output is piped")?;
    let mut lines = BufReader::new(output).lines();
    let echo = options.echo;
    let ready = async {
        while let Some(line) = lines.next_line().await? {
            log.add(&line, echo);
            if let Some(addr) = ready_at(&line) {
                return Ok(addr);
            }
        }
        bail!("the server did not start; it said:\n{}", log.text())
    };
    let addr = timeout(READY_WITHIN, ready).await;
    let addr = addr.with_context(|| format!("the server did not get ready; it said:\n{}", log.text()))??;
    let mut listening = JoinSet::new();
    listening.spawn(listen(lines, log.clone(), echo));
    Ok((child, addr, listening))
}

/// The address in the line that says that calls can come.
fn ready_at(line: &str) -> Option<SocketAddr> {
    let entry: Value = serde_json::from_str(line).ok().filter(|_| line.contains("ready for calls"))?;
    entry["addr"].as_str().or(entry["fields"]["addr"].as_str())?.parse().ok()
}

async fn listen(mut lines: tokio::io::Lines<BufReader<ChildStderr>>, log: Log, echo: bool) {
    while let Ok(Some(line)) = lines.next_line().await {
        log.add(&line, echo);
    }
}

/// The last lines it has said.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    fn add(&self, line: &str, echo: bool) {
        if echo {
            eprintln!("{line}");
        }
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }
}
