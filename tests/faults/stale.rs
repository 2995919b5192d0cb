//! A node that is held for a while and comes back when its calls are somebody else's.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use voicebridge::simulate::caller::{EndedBy, StreamEnd};

use crate::node::until;
use crate::nodes::Pair;

const CALLS: usize = 10;
/// Into the calls.
const HELD_AFTER: Duration = Duration::from_secs(6);
/// Long enough for every call to have gone on elsewhere.
const HELD_FOR: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_after_its_calls_went_on_elsewhere_stops_and_adds_nothing_that_was_said_since()
{
    let _alone = crate::ALONE.lock().await;
    let pair = Pair::start().await;
    let mut calls = JoinSet::from_iter([pair.calls(CALLS, 5)]);
    sleep(HELD_AFTER).await;
    let stale = &pair.nodes[0];
    let held = stale.calls_live().await;
    assert!(held > 0, "it has calls");
    stale.server.signal("STOP").await.unwrap();
    pair.balancer.cut(stale.server.addr);
    sleep(HELD_FOR).await;
    let resumed =
        pair.count("select count(distinct call_sid) from call_streams where fencing_token > 1").await;
    assert_eq!(resumed.unsigned_abs(), held, "all of its calls go on elsewhere");
    let (turns, events) = (pair.turns_of_first_streams().await, pair.events().await);

    stale.server.signal("CONT").await.unwrap();
    until("it has given up its calls", async || stale.calls_live().await == 0).await;
    assert!(calls.try_join_next().is_none(), "while they go on");
    // Also what it had kept to be written later.
    until("it keeps nothing", async || stale.server.metric("spool_records").await.unwrap() == 0.0).await;
    // Each of them had something to say about its end.
    let late = stale.server.metric("spool_late_total").await.unwrap();
    assert!(late >= 1.0, "it has tried to write what was not its own any more");
    let added = pair.turns_of_first_streams().await.split_off(turns.len());
    for (call_sid, content, spoken_before) in added {
        assert!(spoken_before, "{content:?} of {call_sid} was spoken when the call was another node's");
    }
    assert_eq!(pair.events().await, events);

    for call in &calls.join_next().await.unwrap().unwrap() {
        assert_eq!((&call.violations, call.ended_by), (&Vec::new(), EndedBy::Caller), "{call:?}");
        if let [lost, next] = &call.streams[..] {
            assert_eq!((&lost.ended_by, &next.ended_by), (&StreamEnd::Broken, &StreamEnd::Stop), "{call:?}");
        }
    }
    pair.settled().await;
    let reasons =
        "select count(*) from call_leases where disconnect_reason is distinct from 'caller_hung_up'";
    assert_eq!(pair.count(reasons).await, 0, "who carries a call says how it ended");
    pair.stop().await;
}
