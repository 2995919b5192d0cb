//! Reaping as a server does it, with a real PostgreSQL and a clock that only the test moves.

use std::fs;
use std::os::unix::fs::symlink;

use sqlx::{AssertSqlSafe, ConnectOptions as _};
use tokio::task::JoinSet;

use super::*;
use crate::clock::StillClock;
use crate::ids::CallSid;
use crate::store::agents;
use crate::store::cluster::PrivateCluster;
use crate::store::leases::Offer;

const A_WHILE: Duration = Duration::from_mins(5);

#[tokio::test(start_paused = true)]
async fn a_call_whose_node_is_gone_is_ended_by_another_one_and_not_while_its_own_could_not_show_life() {
    let clock = StillClock::hold();
    let cluster = PrivateCluster::start_throwaway().await.unwrap();
    let direct = cluster.connect_options();
    let dir = tempfile::tempdir().unwrap();
    let door = dir.path().join("door");
    let open = || symlink(direct.get_socket().unwrap(), &door).unwrap();
    open();
    let store = Store::connect(direct.clone().socket(&door), 4).await.unwrap();
    store.migrate().await.unwrap();
    let agent = agents::default_agent(&store).await.unwrap().unwrap();
    for (number, call) in ["CA1", "CA2"].into_iter().enumerate() {
        let (call_sid, token_sha256) = (CallSid::parse(call).unwrap(), [number as u8; 32]);
        let offer = Offer {
            call_sid: &call_sid,
            organization: agent.organization_id,
            agent: agent.id,
            direction: None,
            from: None,
            to: None,
            token_sha256,
        };
        leases::offer(&store, &offer).await.unwrap().unwrap();
        leases::claim(&store, &token_sha256, "gone").await.unwrap().unwrap();
    }
    let execute = async |sql: &str| {
        let mut connection = direct.connect().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
    };
    let reasons = async || -> Vec<(String, Option<String>)> {
        let query = "select call_sid, disconnect_reason from call_leases order by call_sid";
        sqlx::query_as(query).fetch_all(&mut direct.connect().await.unwrap()).await.unwrap()
    };
    let both_silent = "
        update call_leases
        set offered_at = offered_at - interval '11 minutes', claimed_at = claimed_at - interval '11 minutes',
            heartbeat_at = heartbeat_at - interval '11 minutes'";
    execute(both_silent).await;

    let (stopping, mut running) = (CancellationToken::new(), JoinSet::new());
    running.spawn(run(store.clone(), "this".into(), stopping.clone()));
    // The database is away until the clocks of both have run out, and the node of the second call lives.
    fs::remove_file(&door).unwrap();
    execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and backend_type = 'client backend'").await;
    clock.passes(2 * BEAT_EVERY).await;
    let back = Instant::now();
    open();
    clock.passes(REAP_AFTER_TROUBLE / 2).await;
    execute("update call_leases set heartbeat_at = now() where call_sid = 'CA2'").await;
    let ended = clock.passes_until(A_WHILE, async || reasons().await[0].1.is_some()).await;
    assert!(ended && back.elapsed() >= REAP_AFTER_TROUBLE, "{ended}, {:?}", back.elapsed());
    clock.passes(2 * REAP_EVERY).await;
    let expected = [("CA1", Some("node_lost")), ("CA2", None)];
    assert_eq!(reasons().await, expected.map(|(call, why)| (call.to_owned(), why.map(str::to_owned))));
    let events = "select event_sequence from calls where call_sid = 'CA1'";
    let events: serde_json::Value =
        sqlx::query_scalar(events).fetch_one(&mut direct.connect().await.unwrap()).await.unwrap();
    assert_eq!(events[0]["type"], "call_failed", "{events}");
    stopping.cancel();
    running.join_next().await.unwrap().unwrap();
}
