//! What tests share: a database of their own.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tokio::sync::OnceCell;
use voicebridge::store::Store;
use voicebridge::store::cluster::PrivateCluster;

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
    let cluster = PrivateCluster::start_throwaway().await.expect("a private PostgreSQL server starts");
    let store = Store::connect(cluster.connect_options(), 2).await.expect("it takes connections");
    store.migrate().await.expect("the migrations apply");
    store.close().await; // A database with connections cannot be copied.
    cluster
}
