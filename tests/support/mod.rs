//! What tests share: a database of their own.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::OnceCell;
use voicebridge::store::Store;
use voicebridge::store::cluster::PrivateCluster;

/// One server for all tests of a process, started by the first that asks. It stops with the process, however that ends.
static CLUSTER: OnceCell<PrivateCluster> = OnceCell::const_new();

/// Migrated once; every test gets a copy.
const TEMPLATE: &str = "template_of_tests";

/// An empty, migrated database that nobody else uses, with at most `connections` connections.
pub async fn store(connections: u32) -> Store {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let cluster = cluster().await;
    execute(&format!("create database {name} template {TEMPLATE}")).await;
    Store::connect(cluster.options_for(&name), connections)
        .await
        .expect("the test database takes connections")
}

/// The server, with a migrated template.
pub async fn cluster() -> &'static PrivateCluster {
    CLUSTER
        .get_or_init(|| async {
            let cluster =
                PrivateCluster::start_throwaway().await.expect("a private PostgreSQL server starts");
            let store = Store::connect(cluster.connect_options(), 2).await.expect("it takes connections");
            store.migrate().await.expect("the migrations apply");
            store.close().await;
            let mut connection =
                sqlx::ConnectOptions::connect(&cluster.options_for("postgres")).await.unwrap();
            let rename = format!("alter database voicebridge rename to {TEMPLATE}");
            sqlx::Executor::execute(&mut connection, sqlx::AssertSqlSafe(rename)).await.unwrap();
            cluster
        })
        .await
}

/// Runs a statement outside the test's own database.
async fn execute(sql: &str) {
    let options = CLUSTER.get().expect("the server runs").options_for("postgres");
    let mut connection = sqlx::ConnectOptions::connect(&options).await.expect("the server takes connections");
    sqlx::Executor::execute(&mut connection, sqlx::AssertSqlSafe(sql.to_owned()))
        .await
        .expect("the statement runs");
    sqlx::Connection::close(connection).await.expect("the connection closes");
}
