//! What is measured: a bridge that is there already, or a bridge or floor of our own that is started for it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::outcome::{Target, TargetKind};
use super::processes::{self, Usage};
use crate::audio::AudioFormat;
use crate::config::VARIABLES;

/// A first start makes a database.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Calls have been hung up by then.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// One target, running.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) target: Target,
    /// Process whose tree is looked at.
    process: Option<u32>,
    child: Option<Child>,
    /// Key of a bridge that was started here.
    pub(super) admin_key: Option<String>,
}

impl Running {
    /// A bridge that is there already.
    pub(super) fn existing(name: &str, url: &str, process: Option<u32>) -> Self {
        let target = Target {
            name: name.to_owned(),
            kind: TargetKind::Bridge,
            url: url.to_owned(),
            started_here: false,
        };
        Self { target, process, child: None, admin_key: None }
    }

    /// This program as a server, with a database of its own in `dir`.
    pub(super) async fn bridge(
        dir: &Path,
        model_url: &str,
        format: AudioFormat,
        max_calls: u32,
    ) -> anyhow::Result<Self> {
        let addr = free_address().await?;
        let key = uuid::Uuid::new_v4().simple().to_string();
        let mut command = own_command()?;
        for variable in VARIABLES {
            command.env_remove(variable.name);
        }
        command
            .arg("serve")
            .env("VOICEBRIDGE_LISTEN", addr.to_string())
            .env("VOICEBRIDGE_DATA_DIR", dir)
            .env("VOICEBRIDGE_ADMIN_KEY", &key)
            .env("VOICEBRIDGE_MAX_CALLS", max_calls.to_string())
            .env("VOICEBRIDGE_GRACE_PERIOD_S", "5")
            .env("OPENAI_REALTIME_URL", model_url)
            .env("AUDIO_FORMAT", format.to_string())
            .stdout(log(dir, "bridge.log")?)
            .stderr(log(dir, "bridge.log")?);
        let child = command.spawn().context("cannot start this program as a server")?;
        let mut running = Self {
            target: Target {
                name: "voicebridge".into(),
                kind: TargetKind::Bridge,
                url: format!("http://{addr}/media-stream-twiml"),
                started_here: true,
            },
            process: child.id(),
            child: Some(child),
            admin_key: Some(key),
        };
        running.wait_until_ready(addr, &dir.join("bridge.log")).await?;
        Ok(running)
    }

    /// This program as a relay of bytes to the model's end.
    pub(super) async fn floor(model: SocketAddr, path: &str) -> anyhow::Result<Self> {
        let mut command = own_command()?;
        command.arg("relay").arg("--to").arg(model.to_string()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start this program as a relay")?;
        let output = child.stdout.take().context("the relay's output is piped")?;
        let line = timeout(READY_WITHIN, BufReader::new(output).lines().next_line()).await;
        let line = line.context("the relay says nothing")??.context("the relay ended")?;
        let target = Target {
            name: "floor".into(),
            kind: TargetKind::Floor,
            url: format!("ws://{}{path}", line.trim()),
            started_here: true,
        };
        Ok(Self { target, process: child.id(), child: Some(child), admin_key: None })
    }

    async fn wait_until_ready(&mut self, addr: SocketAddr, log: &Path) -> anyhow::Result<()> {
        let http = reqwest::Client::builder().no_proxy().build().context("cannot make an HTTP client")?;
        let url = format!("http://{addr}/readyz");
        let started = Instant::now();
        loop {
            if http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || started.elapsed() > READY_WITHIN {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                bail!("the server did not become ready; it said:\n{said}");
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// CPU time of its processes, and of the first of them alone, in seconds.
    pub(super) fn cpu(&self) -> Option<(f64, f64)> {
        processes::cpu(self.process?)
    }

    /// What its processes use; `None` when they are not known.
    pub(super) fn usage(&self) -> Option<Usage> {
        processes::usage(self.process?)
    }

    /// Stops what was started here.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(id) = child.id() {
            Command::new("kill").arg(id.to_string()).status().await.context("cannot run `kill`")?;
        }
        if timeout(STOP_WITHIN, child.wait()).await.is_err() {
            child.kill().await.context("cannot end what was started")?;
        }
        Ok(())
    }
}

/// Where a benchmark keeps its databases; removed with it.
#[derive(Debug)]
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new() -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("voicebridge-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("voicebridge: cannot remove {}: {error}", self.0.display());
        }
    }
}

fn own_command() -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let mut command = Command::new(program);
    // Ended also when the benchmark panics, but not by a Ctrl-C that is meant for the benchmark: that ends it in its turn.
    command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
    Ok(command)
}

fn log(dir: &Path, name: &str) -> anyhow::Result<Stdio> {
    let path = dir.join(name);
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    Ok(file.with_context(|| format!("cannot write {}", path.display()))?.into())
}

async fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port on the loopback address")?;
    listener.local_addr().context("cannot tell a free port")
}
