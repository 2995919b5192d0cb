//! The private server: starts, stops, comes back, and never stays behind.

use std::path::Path;
use std::process::Command;

use voicebridge::store::Store;
use voicebridge::store::cluster::{ClusterError, Durability, PrivateCluster};

/// A directory that the server's user can reach, also when that is not us.
fn place() -> tempfile::TempDir {
    let top = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(top.path(), open).unwrap();
    top
}

fn server_pid(dir: &Path) -> String {
    let state = std::fs::read_to_string(dir.join("data/postmaster.pid")).unwrap();
    state.lines().next().unwrap().to_owned()
}

fn is_running(pid: &str) -> bool {
    Command::new("kill").args(["-0", pid]).output().unwrap().status.success()
}

async fn count_organisations(cluster: &PrivateCluster) -> i64 {
    let store = Store::connect(cluster.connect_options(), 1).await.unwrap();
    store.migrate().await.unwrap();
    let count =
        sqlx::query_scalar("select count(*) from organisations").fetch_one(store.pool()).await.unwrap();
    store.close().await;
    count
}

#[tokio::test]
async fn it_keeps_its_data_from_one_start_to_the_next() {
    let top = place();
    let dir = top.path().join("not/there/yet");
    for start in 1..=3 {
        let cluster = PrivateCluster::start(&dir, Durability::Off).await.unwrap();
        let store = Store::connect(cluster.connect_options(), 1).await.unwrap();
        store.migrate().await.unwrap();
        sqlx::query("insert into organisations (slug, name) values ($1, 'x')")
            .bind(format!("start-{start}"))
            .execute(store.pool())
            .await
            .unwrap();
        assert_eq!(count_organisations(&cluster).await, 1 + start);
        let pid = server_pid(&dir);
        cluster.stop().await.unwrap();
        assert!(!is_running(&pid), "the server is gone when stop returns");
    }
}

#[tokio::test]
async fn it_comes_back_after_its_server_was_killed() {
    let top = place();
    let dir = top.path().join("postgres");
    let cluster = PrivateCluster::start(&dir, Durability::Off).await.unwrap();
    assert_eq!(count_organisations(&cluster).await, 1);
    let pid = server_pid(&dir);
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    cluster.stop().await.unwrap();
    assert_eq!(server_pid(&dir), pid, "the dead server's pid file is still there");

    let cluster = PrivateCluster::start(&dir, Durability::Off).await.unwrap();
    assert_eq!(count_organisations(&cluster).await, 1);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_refused_and_the_first_lives_on() {
    let top = place();
    let dir = top.path().join("postgres");
    let cluster = PrivateCluster::start(&dir, Durability::Off).await.unwrap();
    let error = PrivateCluster::start(&dir, Durability::Off).await.unwrap_err();
    assert!(matches!(error, ClusterError::AlreadyRunning { .. }), "{error}");
    assert_eq!(count_organisations(&cluster).await, 1);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_dropped_cluster_leaves_no_server_and_no_socket() {
    let top = place();
    let dir = top.path().join("postgres");
    let cluster = PrivateCluster::start(&dir, Durability::Off).await.unwrap();
    let pid = server_pid(&dir);
    let socket = cluster.connect_options().get_socket().unwrap().clone();
    assert!(socket.exists());
    drop(cluster);
    assert!(!is_running(&pid));
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_throwaway_leaves_nothing_at_all() {
    let cluster = PrivateCluster::start_throwaway().await.unwrap();
    let dir = cluster.dir().to_owned();
    assert!(dir.exists());
    cluster.stop().await.unwrap();
    assert!(!dir.exists());
}

#[tokio::test]
async fn the_server_does_not_run_as_root_and_listens_on_no_network() {
    let cluster = PrivateCluster::start_throwaway().await.unwrap();
    let store = Store::connect(cluster.connect_options(), 1).await.unwrap();
    let addresses: String =
        sqlx::query_scalar("show listen_addresses").fetch_one(store.pool()).await.unwrap();
    assert_eq!(addresses, "");
    let owner = std::os::unix::fs::MetadataExt::uid(
        &std::fs::metadata(cluster.dir().join("data/postmaster.pid")).unwrap(),
    );
    assert_ne!(owner, 0);
    store.close().await;
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn data_of_another_version_is_not_touched() {
    let top = place();
    let dir = top.path().join("postgres");
    std::fs::create_dir_all(dir.join("data")).unwrap();
    std::fs::write(dir.join("data/PG_VERSION"), "9\n").unwrap();
    let error = PrivateCluster::start(&dir, Durability::Off).await.unwrap_err();
    assert!(matches!(error, ClusterError::OtherVersion { major: 9, .. }), "{error}");
}
