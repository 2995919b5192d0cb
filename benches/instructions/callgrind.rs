//! Runs the subject under callgrind and reads what it wrote down.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, bail};

use crate::subject::BORDER;

/// What the files are called that callgrind writes.
const COUNTS: &str = "counts";

/// A server on an emulated processor that counts. The kernel's instructions are not among those it counts.
pub(crate) struct Subject {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    dir: PathBuf,
    borders: u32,
    pub(crate) addr: SocketAddr,
}

impl Subject {
    /// Starts it with this environment. What callgrind writes stays in `dir`.
    pub(crate) fn start(environment: &[(&str, String)], dir: &Path) -> anyhow::Result<Self> {
        let log = File::create(log_of(dir)).context("the log of the server")?;
        let mut child = Command::new("valgrind")
            .args(["--tool=callgrind", "--cache-sim=no", "--branch-sim=no", "-q"])
            .arg(format!("--dump-before=*{BORDER}*"))
            .arg(format!("--callgrind-out-file={}", dir.join(COUNTS).display()))
            .arg(std::env::current_exe().context("the path of this program")?)
            .arg("--subject")
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("valgrind cannot be run; `make counts` installs it")?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            bail!("the server's input and output are piped")
        };
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let dir = dir.to_owned();
        let mut subject = Self { child, input, output: BufReader::new(output), dir, borders: 0, addr };
        subject.addr = subject.answer()?.parse().context("the address of the server")?;
        Ok(subject)
    }

    /// Instructions of all its threads since the last time, or since its start.
    pub(crate) fn count(&mut self) -> anyhow::Result<u64> {
        self.input.write_all(b"\n").context("the server reads")?;
        self.answer()?;
        self.borders += 1;
        let path = self.dir.join(format!("{COUNTS}.{}", self.borders));
        total(&path).with_context(|| format!("no count is to be found in {}", path.display()))
    }

    /// Ends it, from outside: nothing is left to be counted.
    pub(crate) fn stop(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn answer(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("the server's output")?;
        if line.is_empty() {
            let log = fs::read_to_string(log_of(&self.dir)).unwrap_or_default();
            bail!("the server has ended:\n{log}");
        }
        Ok(line.trim().to_owned())
    }
}

fn log_of(dir: &Path) -> PathBuf {
    dir.join("server.log")
}

fn total(path: &Path) -> anyhow::Result<u64> {
    for line in BufReader::new(File::open(path)?).lines() {
        if let Some(total) = line?.strip_prefix("totals:") {
            return Ok(total.trim().parse()?);
        }
    }
    bail!("it has no totals")
}
