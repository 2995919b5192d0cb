//! A PostgreSQL that can be killed and comes back at the same address.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::sleep;
use voicebridge::store::cluster::{Durability, PrivateCluster};

pub(crate) struct Postgres {
    top: TempDir,
    running: Option<PrivateCluster>,
}

impl Postgres {
    pub(crate) async fn start() -> Self {
        let top = tempfile::tempdir().unwrap();
        // Its server cannot run as root, and has to get to its directory.
        fs::set_permissions(top.path(), Permissions::from_mode(0o755)).unwrap();
        let mut postgres = Self { top, running: None };
        postgres.come_back().await;
        postgres
    }

    /// Where it is reached, each time it runs.
    pub(crate) fn url(&self) -> String {
        format!(
            "postgres://voicebridge@localhost/voicebridge?host={}&sslmode=disable",
            self.address().display()
        )
    }

    /// Every process of it at once: as when the power fails.
    pub(crate) async fn kill(&mut self) {
        let state = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let postmaster = state.lines().next().unwrap();
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
        let victims = std::iter::once(postmaster).chain(children.split_whitespace());
        // Some of them are gone before their turn comes.
        Command::new("kill").arg("-KILL").args(victims).output().unwrap();
        let gone = PathBuf::from(format!("/proc/{postmaster}"));
        while gone.exists() {
            sleep(Duration::from_millis(10)).await;
        }
        drop(self.running.take());
    }

    pub(crate) async fn come_back(&mut self) {
        // Power fails, the disk does not: what is committed has to be there afterwards.
        let cluster =
            PrivateCluster::start(&self.top.path().join("postgres"), Durability::Full).await.unwrap();
        let options = cluster.connect_options();
        let _ = fs::remove_file(self.address());
        symlink(options.get_socket().unwrap(), self.address()).unwrap();
        self.running = Some(cluster);
    }

    fn data(&self) -> PathBuf {
        self.top.path().join("postgres/data")
    }

    /// Leads to the directory of its socket, which is another one each time.
    fn address(&self) -> PathBuf {
        self.top.path().join("socket")
    }
}
