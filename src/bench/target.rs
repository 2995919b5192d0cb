//! What is measured: a bridge that is there already, or a bridge or floor of our own that is started for it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::outcome::{Target, TargetKind};
use super::processes::{self, Usage};
use crate::app::process::{ProcessOptions, ServerProcess};
use crate::audio::AudioFormat;

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
    started: Option<Started>,
    /// Key of a bridge that was started here.
    pub(super) admin_key: Option<String>,
}

/// What was started here.
#[derive(Debug)]
enum Started {
    Bridge(Box<ServerProcess>),
    Floor(Child),
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
        Self { target, process, started: None, admin_key: None }
    }

    /// This program as a server, with a database of its own in `dir`.
    pub(super) async fn bridge(
        dir: &Path,
        model_url: &str,
        format: AudioFormat,
        max_calls: u32,
    ) -> anyhow::Result<Self> {
        let settings = vec![
            ("VOICEBRIDGE_MAX_CALLS", max_calls.to_string()),
            ("VOICEBRIDGE_GRACE_PERIOD_S", "5".to_owned()),
            ("OPENAI_REALTIME_URL", model_url.to_owned()),
            ("AUDIO_FORMAT", format.to_string()),
        ];
        let server =
            ServerProcess::start(ProcessOptions { settings, ..ProcessOptions::own(dir.to_owned())? }).await?;
        let target = Target {
            name: "voicebridge".into(),
            kind: TargetKind::Bridge,
            url: format!("http://{}/media-stream-twiml", server.addr),
            started_here: true,
        };
        let (process, admin_key) = (server.id(), Some(server.admin_key.clone()));
        Ok(Self { target, process, started: Some(Started::Bridge(Box::new(server))), admin_key })
    }

    /// This program as a relay of bytes to the model's end.
    pub(super) async fn floor(model: SocketAddr, path: &str) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let mut child = Command::new(program)
            .args(["relay", "--to", &model.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ended also when the benchmark panics, but not by a Ctrl-C that is meant for the benchmark.
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .context("cannot start this program as a relay")?;
        let output = child.stdout.take().context("the relay's output is piped")?;
        let line = timeout(READY_WITHIN, BufReader::new(output).lines().next_line()).await;
        let line = line.context("the relay says nothing")??.context("the relay ended")?;
        let target = Target {
            name: "floor".into(),
            kind: TargetKind::Floor,
            url: format!("ws://{}{path}", line.trim()),
            started_here: true,
        };
        Ok(Self { target, process: child.id(), started: Some(Started::Floor(child)), admin_key: None })
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
        match self.started.take() {
            // Its figures are in hand; how it ended is only told.
            Some(Started::Bridge(server)) => {
                if let Err(error) = server.stop(STOP_WITHIN).await {
                    eprintln!("voicebridge: {error:#}");
                }
            }
            Some(Started::Floor(mut child)) => child.kill().await.context("cannot end the relay")?,
            None => {}
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
