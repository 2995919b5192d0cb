//! What tests share: a database of their own.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tokio::sync::OnceCell;
use voicebridge::store::Store;
use voicebridge::store::cluster::{Durability, PrivateCluster, reachable_dir};

/// One server for all tests of a process, started by the first that asks. It stops with the process, however that ends.
static CLUSTER: OnceCell<PrivateCluster> = OnceCell::const_new();

/// Numbers the databases.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// An empty, migrated database that nobody else uses, through a pool of at most `connections`.
pub(crate) async fn store(connections: u32) -> Store {
    // Migrated once; every test gets a copy, which takes a twentieth of the time.
    let cluster = CLUSTER.get_or_init(migrated_cluster).await;
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let administration = cluster.options_for("postgres");
    let mut connection = administration.connect().await.expect("the server takes connections");
    let copy = format!("create database {name} template voicebridge");
    connection.execute(AssertSqlSafe(copy)).await.expect("the template can be copied");
    connection.close().await.expect("the connection closes");
    Store::connect(cluster.options_for(&name), connections).await.expect("the copy takes connections")
}

async fn migrated_cluster() -> PrivateCluster {
    let original = tokio::task::spawn_blocking(lock_original).await.expect("the lock can be taken");
    if !original.ready.exists() {
        // What an interrupted run has left.
        drop(std::fs::remove_dir_all(&original.dir));
        let cluster = PrivateCluster::start(&original.dir, Durability::Off);
        let cluster = cluster.await.expect("a private PostgreSQL server starts");
        let store = Store::connect(cluster.connect_options(), 2).await.expect("it takes connections");
        store.migrate().await.expect("the migrations apply");
        store.close().await;
        cluster.stop().await.expect("it stops");
        File::create(&original.ready).expect("the original can be marked");
    }
    drop(original.lock);
    PrivateCluster::start_throwaway_copy(&original.dir).await.expect("a copy of the server starts")
}

/// The data of a migrated server, which is made once for all processes that run tests and kept with what is built.
struct Original {
    dir: PathBuf,
    /// Exists when it is complete.
    ready: PathBuf,
    /// Of whoever makes it, or looks whether it is made.
    lock: File,
}

fn lock_original() -> Original {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let wanted = kept.join(format!("migrated-{:016x}", digest_of_migrations()));
    let dir = reachable_dir(&wanted).expect("there is a place for it");
    let lock = File::create(kept.join("migrated.lock")).expect("the lock can be opened");
    lock.lock().expect("the lock can be taken");
    Original { ready: dir.join("ready"), dir, lock }
}

/// Other migrations, another original.
fn digest_of_migrations() -> u64 {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let files = std::fs::read_dir(&dir).expect("there are migrations");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("it can be listed").path()).collect();
    files.sort();
    let mut digest = DefaultHasher::new();
    for file in files {
        std::fs::read(&file).expect("a migration can be read").hash(&mut digest);
    }
    digest.finish()
}
