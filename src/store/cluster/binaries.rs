//! Finding an installed PostgreSQL server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ClusterError, io_error};

/// The oldest version the schema is written for.
const OLDEST: u32 = 14;

/// A directory with the programs of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    dir: PathBuf,
    major: u32,
}

impl Binaries {
    pub(super) fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    /// What is in this directory, if it is a PostgreSQL server that we can use.
    fn in_dir(dir: &Path) -> Option<Self> {
        // A link in PATH leads to where the rest is.
        let dir = dir.join("postgres").canonicalize().ok()?.parent()?.to_owned();
        if !dir.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
        let major = major_version(&String::from_utf8_lossy(&output.stdout))?;
        (major >= OLDEST).then_some(Self { dir, major })
    }
}

/// The programs for the cluster in `data`: of the version that wrote it, or, where there is none yet, the newest.
pub(super) fn find(data: &Path, dir: &Path) -> Result<Binaries, ClusterError> {
    let version_file = data.join("PG_VERSION");
    let needed = match fs::read_to_string(&version_file) {
        Ok(text) => text.trim().parse::<u32>().ok(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => return Err(io_error("read", &version_file)(source)),
    };
    choose(installed(), needed, dir)
}

/// The newest, the first of equals; or the first that fits.
fn choose(installed: Vec<Binaries>, needed: Option<u32>, dir: &Path) -> Result<Binaries, ClusterError> {
    let found = installed.iter().map(|binaries| binaries.major.to_string()).collect::<Vec<_>>().join(", ");
    let mut chosen: Option<Binaries> = None;
    for binaries in installed {
        let fits = needed.is_none_or(|major| major == binaries.major);
        if fits && chosen.as_ref().is_none_or(|best| best.major < binaries.major) {
            chosen = Some(binaries);
        }
    }
    match (chosen, needed) {
        (Some(binaries), _) => Ok(binaries),
        (None, Some(major)) if !found.is_empty() => {
            Err(ClusterError::OtherVersion { dir: dir.to_owned(), major, found })
        }
        (None, _) => Err(ClusterError::NotInstalled),
    }
}

/// All servers in the usual places: PATH, Debian, Red Hat, Homebrew on either kind of Mac.
fn installed() -> Vec<Binaries> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
    dirs.extend(subdirectories("/usr/lib/postgresql", "").map(|dir| dir.join("bin")));
    dirs.extend(subdirectories("/usr", "pgsql-").map(|dir| dir.join("bin")));
    for homebrew in ["/opt/homebrew/opt", "/usr/local/opt"] {
        dirs.extend(subdirectories(homebrew, "postgresql").map(|dir| dir.join("bin")));
    }
    let mut found: Vec<Binaries> = Vec::new();
    for binaries in dirs.iter().filter_map(|dir| Binaries::in_dir(dir)) {
        if !found.contains(&binaries) {
            found.push(binaries);
        }
    }
    found
}

fn subdirectories(parent: &str, prefix: &'static str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries
        .filter(move |entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
}

/// The `15` in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major_version(text: &str) -> Option<u32> {
    let version = text.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(dir: &str, major: u32) -> Binaries {
        Binaries { dir: dir.into(), major }
    }

    #[test]
    fn versions_are_read_from_what_the_server_says() {
        assert_eq!(major_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_version("postgres: command not found"), None);
    }

    #[test]
    fn a_new_cluster_gets_the_newest_server_and_an_old_one_its_own() {
        let installed = || vec![server("/path", 14), server("/new", 17), server("/other", 17)];
        let dir = Path::new("/data");
        assert_eq!(choose(installed(), None, dir).unwrap(), server("/new", 17));
        assert_eq!(choose(installed(), Some(14), dir).unwrap(), server("/path", 14));
        let error = choose(installed(), Some(16), dir).unwrap_err().to_string();
        assert!(error.contains("PostgreSQL 16") && error.contains("14, 17, 17"), "{error}");
        assert!(matches!(choose(Vec::new(), None, dir), Err(ClusterError::NotInstalled)));
    }
}
