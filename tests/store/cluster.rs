//! The private server: starts, stops, comes back, and never stays behind.

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use voicebridge::store::Store;
use voicebridge::store::cluster::{ClusterError, Durability, PrivateCluster, reachable_dir};

/// A directory that the server's user can reach, also when that is not us.
fn place() -> tempfile::TempDir {
    let top = tempfile::tempdir().unwrap();
    std::fs::set_permissions(top.path(), Permissions::from_mode(0o755)).unwrap();
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

/// Names the directory that a second process of this test program shall start a server on.
const HOLD: &str = "STORE_TEST_HOLDS_A_SERVER_ON";

#[tokio::test]
async fn the_server_stops_when_its_owner_is_killed() {
    if let Some(dir) = std::env::var_os(HOLD) {
        let _cluster = PrivateCluster::start(Path::new(&dir), Durability::Off).await.unwrap();
        println!("\nready");
        std::io::stdin().lines().for_each(drop); // Until killed.
        return;
    }
    let top = place();
    let dir = top.path().join("postgres");
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cluster::the_server_stops_when_its_owner_is_killed", "--nocapture"])
        .env(HOLD, &dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(owner.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "ready"), "the owner started a server");
    owner.kill().unwrap();
    owner.wait().unwrap();

    let cluster = PrivateCluster::start(&dir, Durability::Off).await.expect("the directory is free again");
    assert_eq!(count_organisations(&cluster).await, 1);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn where_the_server_may_not_go_is_said_and_another_place_offered() {
    let closed = tempfile::tempdir().unwrap();
    std::fs::set_permissions(closed.path(), Permissions::from_mode(0o700)).unwrap();
    let dir = closed.path().join("postgres");
    if std::fs::metadata(closed.path()).unwrap().uid() == 0 {
        let error = PrivateCluster::start(&dir, Durability::Off).await.unwrap_err();
        assert!(matches!(error, ClusterError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("chmod o+x"), "{error}");
        assert!(reachable_dir(&dir).unwrap().starts_with("/var/lib/voicebridge"));
    } else {
        assert_eq!(reachable_dir(&dir).unwrap(), dir, "the server is we, and we may");
    }
    let open = place();
    let dir = open.path().join("postgres");
    assert_eq!(reachable_dir(&dir).unwrap(), dir);
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
    let owner = std::fs::metadata(cluster.dir().join("data/postmaster.pid")).unwrap().uid();
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
