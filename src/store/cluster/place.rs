//! The place of a server: a directory that is ours alone, with a cluster in it and a log that is locked while it runs.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use super::account::{self, Account};
use super::binaries::{self, Binaries};
use super::{ClusterError, Durability, LC_CTYPE, POLL, USER, io_error, our_uid};

/// A server whose owner was killed needs a moment to write everything out and let go of its directory.
const FREE_POLLS: u32 = 10 * 100;
/// The same where nothing is written out.
const FREE_POLLS_OFF: u32 = 2 * 100;

/// What a server needs to start.
pub(super) struct Prepared {
    pub(super) binaries: Binaries,
    pub(super) account: Option<Account>,
    /// Locked. The server inherits it, so the lock lives exactly as long as any of its processes.
    pub(super) log: File,
}

/// Makes `dir` a place where the server can start: exists, reachable, ours alone, with a cluster in it.
pub(super) fn prepare(dir: &Path, sockets: &Path, durability: Durability) -> Result<Prepared, ClusterError> {
    let account = Account::for_server(our_uid()?)?;
    if !dir.exists() {
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        }
        DirBuilder::new().mode(0o700).create(dir).map_err(io_error("create", dir))?;
    }
    if let Some(account) = &account {
        for place in [dir, sockets] {
            account.can_reach(place)?;
            account.own(place)?;
        }
    }
    let log = lock_log(dir, durability)?;
    let data = data_of(dir);
    let binaries = binaries::find(&data, dir)?;
    if !data.exists() {
        create_cluster(dir, &binaries, account.as_ref(), durability)?;
    }
    Ok(Prepared { binaries, account, log })
}

fn lock_log(dir: &Path, durability: Durability) -> Result<File, ClusterError> {
    let polls = if durability == Durability::Off { FREE_POLLS_OFF } else { FREE_POLLS };
    let path = log_of(dir);
    let log =
        File::options().create(true).append(true).read(true).open(&path).map_err(io_error("open", &path))?;
    for _ in 0..polls {
        match log.try_lock() {
            Ok(()) => return Ok(log),
            Err(TryLockError::WouldBlock) => thread::sleep(POLL),
            Err(TryLockError::Error(source)) => return Err(io_error("lock", &path)(source)),
        }
    }
    Err(ClusterError::AlreadyRunning { dir: dir.to_owned() })
}

/// Runs `initdb` beside the final place and moves the result there, so that there is never half a cluster.
fn create_cluster(
    dir: &Path,
    binaries: &Binaries,
    account: Option<&Account>,
    durability: Durability,
) -> Result<(), ClusterError> {
    let unfinished = dir.join("data.new");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(io_error("remove", &unfinished))?;
    }
    DirBuilder::new().mode(0o700).create(&unfinished).map_err(io_error("create", &unfinished))?;
    if let Some(account) = account {
        account.own(&unfinished)?;
    }
    let mut command = Command::new(binaries.initdb());
    command.arg("-D").arg(&unfinished);
    command.args(["-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C"]);
    command.arg(format!("--lc-ctype={LC_CTYPE}"));
    if durability == Durability::Off {
        command.arg("--no-sync");
    }
    account::run_as(&mut command, account);
    let output = command.stdin(Stdio::null()).output().map_err(io_error("run", &binaries.initdb()))?;
    if !output.status.success() {
        let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(ClusterError::Initdb { dir: dir.to_owned(), output });
    }
    fs::rename(&unfinished, data_of(dir)).map_err(io_error("rename", &unfinished))
}

/// Puts a copy of the cluster in `original` into `dir`, owned by whoever runs the server.
pub(super) fn copy(original: &Path, dir: &Path) -> Result<(), ClusterError> {
    let account = Account::for_server(our_uid()?)?;
    // Says what is missing by the name of the original, which stays.
    binaries::find(&data_of(original), original)?;
    copy_dir(&data_of(original), &data_of(dir), account.as_ref())
}

fn copy_dir(from: &Path, to: &Path, account: Option<&Account>) -> Result<(), ClusterError> {
    DirBuilder::new().mode(0o700).create(to).map_err(io_error("create", to))?;
    for entry in fs::read_dir(from).map_err(io_error("list", from))? {
        let entry = entry.map_err(io_error("list", from))?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(io_error("look at", &from))?.is_dir() {
            copy_dir(&from, &to, account)?;
        } else {
            fs::copy(&from, &to).map_err(io_error("copy", &from))?;
            account.map_or(Ok(()), |account| account.own(&to))?;
        }
    }
    account.map_or(Ok(()), |account| account.own(to))
}

pub(super) fn data_of(dir: &Path) -> PathBuf {
    dir.join("data")
}

pub(super) fn log_of(dir: &Path) -> PathBuf {
    dir.join("server.log")
}
