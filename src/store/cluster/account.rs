//! Who runs the server: ourselves, or, since PostgreSQL refuses root, somebody without privileges.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ClusterError, LC_CTYPE, io_error};

/// Accounts that may run the server for root, the best first: the distribution's, macOS's, and one that is everywhere.
const CANDIDATES: [&str; 3] = ["postgres", "_postgres", "nobody"];

/// A user of this system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// Who shall run the server when we are user `we`; `None`: we do.
    pub(super) fn for_server(we: u32) -> Result<Option<Self>, ClusterError> {
        if we != 0 {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").map_err(io_error("read", Path::new("/etc/passwd")))?;
        CANDIDATES
            .iter()
            .find_map(|name| Self::in_passwd(&users, name))
            .map(Some)
            .ok_or(ClusterError::NoAccount)
    }

    fn in_passwd(users: &str, name: &str) -> Option<Self> {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next() != Some(name) {
                return None;
            }
            // macOS writes `nobody` as -2.
            let mut id = || fields.next()?.parse::<i64>().ok().map(|id| id as u32);
            let _password = id();
            let account = Self { name: name.to_owned(), uid: id()?, gid: id()? };
            (account.uid != 0).then_some(account)
        })
    }

    /// Fails, and says what to do, when this user may not enter every directory on the way to `dir`.
    pub(super) fn can_reach(&self, dir: &Path) -> Result<(), ClusterError> {
        let parent = dir.parent().unwrap_or(dir);
        let real = parent.canonicalize().map_err(io_error("resolve", parent))?;
        for parent in real.ancestors() {
            let metadata = fs::metadata(parent).map_err(io_error("look at", parent))?;
            if !self.may_enter(&metadata) {
                return Err(ClusterError::Unreachable {
                    dir: dir.to_owned(),
                    blocked: parent.to_owned(),
                    user: self.name.clone(),
                });
            }
        }
        Ok(())
    }

    fn may_enter(&self, dir: &Metadata) -> bool {
        let needed = if dir.uid() == self.uid {
            0o100
        } else if dir.gid() == self.gid {
            0o010
        } else {
            0o001
        };
        dir.permissions().mode() & needed != 0
    }

    /// Gives a directory to this user.
    pub(super) fn own(&self, dir: &Path) -> Result<(), ClusterError> {
        chown(dir, Some(self.uid), Some(self.gid)).map_err(io_error("hand over", dir))
    }
}

/// Sets a command up to run as `account`, in a place every user may be. Of our environment, which holds secrets and may
/// hold settings meant for another server, it gets what it needs to find its parts.
pub(super) fn run_as(command: &mut Command, account: Option<&Account>) {
    command.env_clear().env("LC_ALL", LC_CTYPE).current_dir("/");
    for name in ["PATH", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
}

/// Where a private cluster can be kept that should be in `preferred`: there, or, for root whose server cannot get there
/// (a checkout in `/root`), in a directory of the system that stands for it.
pub fn reachable_dir(preferred: &Path) -> Result<PathBuf, ClusterError> {
    let preferred = std::path::absolute(preferred).map_err(io_error("resolve", preferred))?;
    let Some(account) = Account::for_server(super::our_uid()?)? else { return Ok(preferred) };
    if let Some(parent) = preferred.parent() {
        fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    }
    match account.can_reach(&preferred) {
        Ok(()) => Ok(preferred),
        Err(ClusterError::Unreachable { .. }) => Ok(stand_in(&preferred)),
        Err(error) => Err(error),
    }
}

/// `/root/app/data/postgres` is kept in `/var/lib/voicebridge/root-app-data-postgres`.
fn stand_in(dir: &Path) -> PathBuf {
    let name = dir.to_string_lossy().trim_matches('/').replace('/', "-");
    Path::new("/var/lib/voicebridge").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        nobody:*:-2:-2:Unprivileged User:/var/empty:/usr/bin/false\n\
        postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash\n";

    #[test]
    fn accounts_are_read_as_every_system_writes_them() {
        let account = |name: &str, uid, gid| Some(Account { name: name.into(), uid, gid });
        assert_eq!(Account::in_passwd(PASSWD, "postgres"), account("postgres", 101, 104));
        assert_eq!(Account::in_passwd(PASSWD, "nobody"), account("nobody", u32::MAX - 1, u32::MAX - 1));
        assert_eq!(Account::in_passwd(PASSWD, "root"), None, "the server never runs as root");
        assert_eq!(Account::in_passwd(PASSWD, "post"), None);
    }

    #[test]
    fn only_root_needs_somebody_else() {
        assert_eq!(Account::for_server(1000).unwrap(), None);
    }

    #[test]
    fn a_closed_directory_on_the_way_is_named() {
        let top = tempfile::tempdir().unwrap();
        let (open, closed) = (top.path().join("open"), top.path().join("closed"));
        for (dir, mode) in [(&open, 0o755), (&closed, 0o700)] {
            fs::create_dir(dir).unwrap();
            fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let stranger = Account { name: "stranger".into(), uid: 4_000_000, gid: 4_000_000 };
        stranger.can_reach(&open.join("postgres")).unwrap();
        let error = stranger.can_reach(&closed.join("postgres")).unwrap_err().to_string();
        assert!(
            error.contains("`stranger`") && error.contains("chmod o+x") && error.contains("/closed"),
            "{error}"
        );
    }

    #[test]
    fn the_place_of_a_stand_in_tells_what_it_stands_for() {
        let place = stand_in(Path::new("/root/app/data/postgres"));
        assert_eq!(place, Path::new("/var/lib/voicebridge/root-app-data-postgres"));
    }
}
