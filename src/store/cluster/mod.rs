//! A PostgreSQL server of our own, started from installed binaries: for users who have no database, and for tests.
//!
//! It listens on a Unix socket in a directory that nobody else can enter, never on the network, and never runs as root.
//! It cannot outlive this process: a small shell holds the other end of a pipe and stops the server when we are gone,
//! however we went.

mod account;
mod binaries;
mod place;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};

use self::place::{Prepared, data_of, log_of, prepare};

pub use self::account::reachable_dir;

/// Superuser and owner of everything. There is no password: whoever can reach the socket is the user himself.
const USER: &str = "voicebridge";
/// The database that [`PrivateCluster::connect_options`] leads to.
const DATABASE: &str = "voicebridge";
/// Only names the socket file.
const PORT: u16 = 5432;
/// Character classes of a database that holds any language.
const LC_CTYPE: &str = if cfg!(target_os = "macos") { "en_US.UTF-8" } else { "C.UTF-8" };

/// How often something is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(10);
/// Recovery after a crash replays the log first; on a slow disk that takes a while.
const READY_POLLS: u32 = 120 * 100;
/// A fast shutdown writes everything out; the shell gets rough after 20 s.
const STOPPED_POLLS: u32 = 40 * 100;

/// Runs the server, stops it when standard input ends, tidies up when it is gone.
// The server alone keeps the log open, and with it the lock on it. The shell stays when a service manager signals the
// whole group: the server gets the same signal and must be waited for.
const WATCHDOG: &str = r#"
sockets=$1 litter=$2
shift 2
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
exec >/dev/null 2>&1
(
    while read -r _; do :; done
    kill -INT "$server"
    seconds=0
    while [ "$seconds" -lt 20 ]; do sleep 1; seconds=$((seconds + 1)); done
    kill -QUIT "$server"
) <&3 &
watch=$!
exec 3<&-
trap : HUP INT TERM
status=0
while kill -0 "$server"; do
    wait "$server"
    status=$?
done
kill "$watch"
rm -rf -- "$sockets"
if [ "$status" = 0 ] && [ -n "$litter" ]; then rm -rf -- "$litter"; fi
exit "$status"
"#;

/// Whether what is committed survives a power failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Yes.
    Full,
    /// No: much faster, for tests only.
    Off,
}

/// Why there is no private server.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Nothing to start.
    #[error(
        "no PostgreSQL server (14 or newer) is installed: on Debian or Ubuntu `apt-get install postgresql`, on macOS `brew install postgresql@17`; or set DATABASE_URL"
    )]
    NotInstalled,
    /// The data needs another version.
    #[error(
        "the data in {dir} was written by PostgreSQL {major}, which is not installed (found: {found}); install it, or move the directory away to start afresh"
    )]
    OtherVersion {
        /// Where the data is.
        dir: PathBuf,
        /// What it needs.
        major: u32,
        /// What there is.
        found: String,
    },
    /// Root has nobody to run the server as.
    #[error("PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody` to run it as")]
    NoAccount,
    /// The user that runs the server cannot get to its data.
    #[error(
        "the server runs as user `{user}`, who may not enter {blocked}: run `chmod o+x {blocked}`, or keep the data elsewhere than {dir}, or set DATABASE_URL"
    )]
    Unreachable {
        /// Where the data should be.
        dir: PathBuf,
        /// The directory that is closed to that user.
        blocked: PathBuf,
        /// That user.
        user: String,
    },
    /// One at a time.
    #[error(
        "a server is running on {dir}: stop it first, or ask it over HTTP what you want to know or have done"
    )]
    AlreadyRunning {
        /// Where the data is.
        dir: PathBuf,
    },
    /// `initdb` failed.
    #[error("could not create a database cluster in {dir}: {output}")]
    Initdb {
        /// Where the data should be.
        dir: PathBuf,
        /// What it said.
        output: String,
    },
    /// The server ended or hung.
    #[error("PostgreSQL did not {what}; the end of {log}:\n{tail}")]
    Server {
        /// What it should have done.
        what: &'static str,
        /// Its log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// The file system failed.
    #[error("could not {what} {path}")]
    Io {
        /// What we tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// The server runs but does not do as told.
    #[error("the private server does not answer as it should")]
    Database(#[from] sqlx::Error),
}

/// A running server. Dropping it stops the server, as does the end of this process.
#[derive(Debug)]
pub struct PrivateCluster {
    dir: PathBuf,
    sockets: PathBuf,
    watchdog: Child,
    /// While this is open the server runs.
    leash: Option<ChildStdin>,
}

impl PrivateCluster {
    /// Whether there is a cluster in `dir`.
    #[must_use]
    pub fn is_there(dir: &Path) -> bool {
        data_of(dir).join("PG_VERSION").exists()
    }

    /// Starts a server on `dir`, which is created when there is none. The log is `dir/server.log`.
    pub async fn start(dir: &Path, durability: Durability) -> Result<Self, ClusterError> {
        let dir = dir.to_owned();
        Self::launch(move || Self::start_blocking(&dir, durability, Kept::Always)).await
    }

    /// Starts a server on an empty directory in the system's place for temporary files. Nothing of it remains.
    pub async fn start_throwaway() -> Result<Self, ClusterError> {
        Self::launch(|| {
            let dir = temporary_dir("vbd")?;
            Self::start_blocking(&dir, Durability::Off, Kept::WhileRunning)
                .inspect_err(|_| drop(fs::remove_dir_all(&dir)))
        })
        .await
    }

    /// The same on a copy of the data that a server has left in `original` when it was stopped, which takes a tenth of the
    /// time. Fails where there is none.
    pub async fn start_throwaway_copy(original: &Path) -> Result<Self, ClusterError> {
        let original = original.to_owned();
        Self::launch(move || {
            let dir = temporary_dir("vbd")?;
            place::copy(&original, &dir)
                .and_then(|()| Self::start_blocking(&dir, Durability::Off, Kept::WhileRunning))
                .inspect_err(|_| drop(fs::remove_dir_all(&dir)))
        })
        .await
    }

    /// How to connect to its database.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        self.options_for(DATABASE)
    }

    /// The same as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.connect_options().to_url_lossy().to_string()
    }

    /// How to connect to another database on it.
    #[must_use]
    pub fn options_for(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.sockets)
            .port(PORT)
            .username(USER)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
    }

    /// Where its data and log are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Stops the server: open connections are cut, everything is written out.
    pub async fn stop(mut self) -> Result<(), ClusterError> {
        blocking(move || self.stop_blocking()).await
    }

    async fn launch<F>(start: F) -> Result<Self, ClusterError>
    where
        F: FnOnce() -> Result<Self, ClusterError> + Send + 'static,
    {
        let cluster = blocking(start).await?;
        // The database comes last, so whatever was interrupted before is made good by starting again.
        let mut connection = cluster.options_for("postgres").disable_statement_logging().connect().await?;
        create_database(&mut connection).await?;
        connection.close().await?;
        Ok(cluster)
    }

    /// On a thread of its own: it waits by sleeping, whatever the runtime's clock does.
    fn start_blocking(dir: &Path, durability: Durability, kept: Kept) -> Result<Self, ClusterError> {
        let dir = std::path::absolute(dir).map_err(io_error("resolve", dir))?;
        let sockets = temporary_dir("vbs")?;
        let cluster = prepare(&dir, &sockets, durability)
            .and_then(|ready| Self::spawn(&dir, &sockets, durability, kept, ready))
            .inspect_err(|_| drop(fs::remove_dir_all(&sockets)))?;
        cluster.wait_until_ready()
    }

    fn spawn(
        dir: &Path,
        sockets: &Path,
        durability: Durability,
        kept: Kept,
        Prepared { binaries, account, log }: Prepared,
    ) -> Result<Self, ClusterError> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WATCHDOG, "voicebridge-postgres"]).arg(sockets);
        command.arg(if kept == Kept::Always { Path::new("") } else { dir });
        command.arg(binaries.postgres()).arg("-D").arg(data_of(dir));
        command.arg("-c").arg(joined("unix_socket_directories=", sockets));
        let mut settings = vec![
            "listen_addresses=".to_owned(),
            format!("port={PORT}"),
            "unix_socket_permissions=0700".into(),
            "max_connections=300".into(),
            "timezone=UTC".into(),
            "log_timezone=UTC".into(),
            // No statement and no row in the log: they hold what people said.
            "log_min_error_statement=panic".into(),
            "log_error_verbosity=terse".into(),
        ];
        if durability == Durability::Off {
            let off = ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off"];
            settings.extend(off.map(String::from));
        }
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        // A group of its own: Ctrl-C at the terminal is for us; we still need the database while we stop.
        command.process_group(0);
        account::run_as(&mut command, account.as_ref());
        command.stdin(Stdio::piped());
        command.stderr(log.try_clone().map_err(io_error("share", &log_of(dir)))?).stdout(log);
        let mut watchdog = command.spawn().map_err(io_error("start", Path::new("/bin/sh")))?;
        let leash = watchdog.stdin.take();
        Ok(Self { dir: dir.to_owned(), sockets: sockets.to_owned(), watchdog, leash })
    }

    fn wait_until_ready(mut self) -> Result<Self, ClusterError> {
        for _ in 0..READY_POLLS {
            if self.is_ready() {
                return Ok(self);
            }
            if !matches!(self.watchdog.try_wait(), Ok(None)) {
                break;
            }
            thread::sleep(POLL);
        }
        Err(self.complaint("start"))
    }

    /// The server writes where its socket is and whether it takes connections; what a dead one wrote names another socket.
    fn is_ready(&self) -> bool {
        let Ok(state) = fs::read_to_string(data_of(&self.dir).join("postmaster.pid")) else { return false };
        let mut lines = state.lines().map(str::trim);
        lines.nth(4).is_some_and(|sockets| Path::new(sockets) == self.sockets)
            && lines.nth(2) == Some("ready")
    }

    fn stop_blocking(&mut self) -> Result<(), ClusterError> {
        drop(self.leash.take());
        for _ in 0..STOPPED_POLLS {
            match self.watchdog.try_wait() {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => thread::sleep(POLL),
                Err(source) => return Err(io_error("wait for", Path::new("postgres"))(source)),
            }
        }
        Err(self.complaint("stop"))
    }

    fn complaint(&self, what: &'static str) -> ClusterError {
        let log = log_of(&self.dir);
        ClusterError::Server { what, tail: tail(&log).unwrap_or_default(), log }
    }
}

impl Drop for PrivateCluster {
    /// Waits for the server, so that its directory may be removed right after. A moment in practice.
    fn drop(&mut self) {
        if self.leash.is_some()
            && let Err(error) = self.stop_blocking()
        {
            tracing::warn!(%error, "the private PostgreSQL server may still be running");
        }
    }
}

/// Whether the directory outlives the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Always,
    WhileRunning,
}

async fn create_database(connection: &mut PgConnection) -> sqlx::Result<()> {
    let known: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(DATABASE)
        .fetch_one(&mut *connection)
        .await?;
    if !known {
        sqlx::query("create database voicebridge").execute(connection).await?;
    }
    Ok(())
}

/// A new directory that only we can enter, with a short path: the path of a socket has at most 103 bytes.
fn temporary_dir(prefix: &str) -> Result<PathBuf, ClusterError> {
    let usual = std::env::temp_dir();
    let base =
        if usual.as_os_str().len() <= 60 && usual.is_absolute() { usual } else { PathBuf::from("/tmp") };
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let dir = base.join(format!("{prefix}-{}", &unique[..12]));
    DirBuilder::new().mode(0o700).create(&dir).map_err(io_error("create", &dir))?;
    Ok(dir)
}

/// Who we are: the owner of what we create.
fn our_uid() -> Result<u32, ClusterError> {
    let probe = temporary_dir("vbp")?;
    let uid = fs::metadata(&probe).map(|metadata| metadata.uid()).map_err(io_error("look at", &probe));
    fs::remove_dir(&probe).map_err(io_error("remove", &probe))?;
    uid
}

fn joined(prefix: &str, path: &Path) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from(prefix);
    text.push(path);
    text
}

/// The last lines of a log.
fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(2_000)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).trim().to_owned())
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ClusterError {
    let path = path.to_owned();
    move |source| ClusterError::Io { what, path, source }
}

async fn blocking<T, F>(work: F) -> Result<T, ClusterError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ClusterError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ClusterError::Io {
                what: "wait for",
                path: PathBuf::from("postgres"),
                source: io::Error::other("the runtime is shutting down"),
            }),
        },
    }
}
