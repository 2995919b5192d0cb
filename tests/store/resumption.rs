//! A call whose stream was lost comes back, or is ended by somebody else.

use sqlx::AssertSqlSafe;
use tokio::task::JoinSet;
use voicebridge::call::end::{EndReason, NextStep};
use voicebridge::lifecycle::{self, CallEvent, CallRef, record};
use voicebridge::store::calls::Recorded;
use voicebridge::store::leases::{FencingToken, claim, heartbeat, next_action, reap, resume};
use voicebridge::store::transcripts::{Turns, by_call, replay};
use voicebridge::store::{Store, nodes};

use crate::transcripts::entry;
use crate::{default_agent, digest, offer_from, sid, support};

/// Call 1 with a stream that a node has taken.
async fn carried(store: &Store) -> (CallRef, FencingToken) {
    let agent = default_agent(store).await;
    let token = offer_from(store, &agent, &sid(1), "+15005550001").await;
    claim(store, &digest(&sid(1)), "a").await.unwrap().unwrap();
    (CallRef { call_sid: sid(1), organization: agent.organization_id, agent: agent.id }, token)
}

fn now() -> jiff::Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

async fn execute(store: &Store, query: &str) {
    sqlx::raw_sql(AssertSqlSafe(query.to_owned())).execute(store.pool()).await.unwrap();
}

#[tokio::test]
async fn a_lost_stream_is_not_the_end_of_its_call() {
    let store = support::store(2).await;
    let (call, token) = carried(&store).await;
    let lost = CallEvent::after_stream(token, EndReason::StreamLost, std::time::Duration::ZERO, true);
    assert_eq!(record(&store, &call, now(), &lost).await.unwrap(), Recorded::New);
    assert_eq!(record(&store, &call, now(), &lost).await.unwrap(), Recorded::Known);
    let after = next_action(&store, &sid(1)).await.unwrap().unwrap();
    assert_eq!((after.next_action, after.ended), (Some(NextStep::Resume), false));
    assert_eq!(after.disconnect_reason.as_deref(), Some("stream_lost"));

    let next = resume(&store, &sid(1), token, &[7; 32]).await.unwrap().unwrap();
    assert!(next > token);
    let stream = claim(&store, &[7; 32], "b").await.unwrap().unwrap();
    assert_eq!((stream.fencing_token, stream.resumed_after), (next, Some(EndReason::StreamLost)));
    assert!(stream.lasted > std::time::Duration::ZERO, "the call is older than this stream");
    let after = next_action(&store, &sid(1)).await.unwrap().unwrap();
    assert_eq!((after.next_action, after.disconnect_reason), (None, None), "it goes on");
}

#[tokio::test]
async fn the_node_that_lost_the_call_can_neither_end_it_nor_show_life_for_it() {
    let store = support::store(2).await;
    let (call, stale) = carried(&store).await;
    let token = resume(&store, &sid(1), stale, &[7; 32]).await.unwrap().unwrap();
    claim(&store, &[7; 32], "b").await.unwrap().unwrap();
    for reason in [EndReason::StreamLost, EndReason::AgentEnded] {
        let late = CallEvent::after_stream(stale, reason, std::time::Duration::ZERO, true);
        assert_eq!(record(&store, &call, now(), &late).await.unwrap(), Recorded::Fenced);
    }
    assert_eq!(heartbeat(&store, &[(sid(1), stale), (sid(1), token)]).await.unwrap(), [(sid(1), token)]);
    let after = next_action(&store, &sid(1)).await.unwrap().unwrap();
    assert_eq!((after.fencing_token, after.next_action, after.ended), (token, None, false));
}

#[tokio::test]
async fn what_happened_before_the_next_stream_was_offered_is_put_on_record_later_and_decides_nothing() {
    let store = support::store(2).await;
    let (call, stale) = carried(&store).await;
    let connected = CallEvent::Connected { token: stale };
    let (at, later) = (now(), "2126-01-02T03:04:05Z".parse().unwrap());
    let token = resume(&store, &sid(1), stale, &[7; 32]).await.unwrap().unwrap();
    claim(&store, &[7; 32], "b").await.unwrap().unwrap();
    let lost = CallEvent::after_stream(stale, EndReason::StreamLost, std::time::Duration::ZERO, true);
    let over = CallEvent::after_stream(stale, EndReason::AgentEnded, std::time::Duration::ZERO, true);
    for event in [&connected, &lost, &over] {
        assert_eq!(
            lifecycle::replay(&store, &call, later, event).await.unwrap(),
            Recorded::Fenced,
            "it happened too late"
        );
        assert_eq!(record(&store, &call, at, event).await.unwrap(), Recorded::Fenced, "it is not replayed");
    }
    assert_eq!(
        lifecycle::replay(&store, &call, at, &over).await.unwrap(),
        Recorded::Fenced,
        "the call has gone on"
    );
    for (event, expected) in [(&connected, Recorded::New), (&lost, Recorded::New), (&lost, Recorded::Known)] {
        assert_eq!(lifecycle::replay(&store, &call, at, event).await.unwrap(), expected, "{event:?}");
    }
    let after = next_action(&store, &sid(1)).await.unwrap().unwrap();
    assert_eq!((after.fencing_token, after.next_action, after.disconnect_reason), (token, None, None));
}

#[tokio::test]
async fn of_many_that_resume_a_call_one_does() {
    let store = support::store(8).await;
    let (_, token) = carried(&store).await;
    let mut resuming = JoinSet::new();
    for node in 0..8_u8 {
        let store = store.clone();
        resuming.spawn(async move { resume(&store, &sid(1), token, &[node; 32]).await.unwrap() });
    }
    assert_eq!(resuming.join_all().await.into_iter().flatten().count(), 1);
}

#[tokio::test]
async fn a_call_comes_back_three_times_within_a_minute_and_no_more() {
    let store = support::store(2).await;
    let (_, mut token) = carried(&store).await;
    for time in 1..=3 {
        token = resume(&store, &sid(1), token, &[time; 32]).await.unwrap().expect("it comes back");
    }
    assert_eq!(resume(&store, &sid(1), token, &[4; 32]).await.unwrap(), None);
    execute(&store, "update call_streams set offered_at = offered_at - interval '61 seconds'").await;
    assert!(resume(&store, &sid(1), token, &[5; 32]).await.unwrap().is_some());
}

#[tokio::test]
async fn a_call_that_leaves_servers_by_itself_may_do_so_ten_times_a_minute() {
    let store = support::store(2).await;
    let (call, mut token) = carried(&store).await;
    for time in 1..=10 {
        let moved = CallEvent::after_stream(token, EndReason::Moved, std::time::Duration::ZERO, true);
        record(&store, &call, now(), &moved).await.unwrap();
        token = resume(&store, &sid(1), token, &[time; 32]).await.unwrap().expect("it comes back");
    }
    let moved = CallEvent::after_stream(token, EndReason::Moved, std::time::Duration::ZERO, true);
    record(&store, &call, now(), &moved).await.unwrap();
    assert_eq!(resume(&store, &sid(1), token, &[11; 32]).await.unwrap(), None);
}

#[tokio::test]
async fn a_call_that_is_over_does_not_come_back() {
    let store = support::store(2).await;
    let (call, token) = carried(&store).await;
    let ended = CallEvent::after_stream(token, EndReason::AgentEnded, std::time::Duration::ZERO, true);
    record(&store, &call, now(), &ended).await.unwrap();
    assert_eq!(resume(&store, &sid(1), token, &[7; 32]).await.unwrap(), None);
}

#[tokio::test]
async fn a_call_that_nobody_carries_any_more_is_found_once_and_its_old_node_is_late() {
    let store = support::store(8).await;
    let (call, stale) = carried(&store).await;
    assert_eq!(reap(&store, 10).await.unwrap(), [], "it is carried");
    execute(&store, "update call_leases set offered_at = now() - interval '1 hour', claimed_at = now() - interval '1 hour', heartbeat_at = now() - interval '601 seconds'").await;
    let mut reapers = JoinSet::new();
    for _ in 0..4 {
        let store = store.clone();
        reapers.spawn(async move { reap(&store, 10).await.unwrap() });
    }
    let found: Vec<_> = reapers.join_all().await.into_iter().flatten().collect();
    let latest = found.iter().max_by_key(|found| found.fencing_token).expect("it is found");
    assert_eq!((&latest.call_sid, latest.reason), (&call.call_sid, EndReason::NodeLost));
    let end = |token| CallEvent::Ended {
        token,
        reason: EndReason::NodeLost,
        duration: latest.lasted,
        report: serde_json::Map::new(),
    };
    assert_eq!(record(&store, &call, now(), &end(stale)).await.unwrap(), Recorded::Fenced);
    assert_eq!(record(&store, &call, now(), &end(latest.fencing_token)).await.unwrap(), Recorded::New);
    assert_eq!(reap(&store, 10).await.unwrap(), [], "it is over");
}

#[tokio::test]
async fn what_was_said_before_a_call_was_ended_by_another_node_is_still_put_on_record() {
    let store = support::store(2).await;
    let (call, token) = carried(&store).await;
    let an_hour_ago = "now() - interval '1 hour'";
    execute(
        &store,
        &format!(
            "update call_leases set offered_at = {an_hour_ago}, claimed_at = {an_hour_ago}, heartbeat_at = {an_hour_ago};
             update call_streams set offered_at = {an_hour_ago}, claimed_at = {an_hour_ago}"
        ),
    )
    .await;
    let found = reap(&store, 10).await.unwrap();
    let [reaped] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(reap(&store, 10).await.unwrap().len(), 1, "found again while nobody has ended it");
    let after = next_action(&store, &sid(1)).await.unwrap().unwrap();
    let lasted = after.lasted.as_secs();
    assert!(after.claimed && (3_600..3_660).contains(&lasted), "no stream came of it: {after:?}");
    let end = CallEvent::Ended {
        token: after.fencing_token,
        reason: reaped.reason,
        duration: reaped.lasted,
        report: serde_json::Map::new(),
    };
    assert_eq!(record(&store, &call, now(), &end).await.unwrap(), Recorded::New);

    let said = |item: &str, ago_s: i64| Turns {
        organization: call.organization,
        call_sid: call.call_sid.clone(),
        token,
        stream_started: jiff::Timestamp::now() - jiff::SignedDuration::from_secs(ago_s),
        entries: vec![entry(item, 1, 1, item)],
    };
    let late = replay(&store, &[said("before", 1_800), said("since", -5)]).await.unwrap();
    assert_eq!(late.iter().map(|late| late.item.as_str()).collect::<Vec<_>>(), ["since"]);
    let rows = by_call(&store, call.organization, &call.call_sid, 9).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.content.as_str()).collect::<Vec<_>>(), ["before"]);
}

#[tokio::test]
async fn what_is_abandoned_is_told_by_life_by_the_carrier_and_by_age() {
    let store = support::store(2).await;
    let (call, _) = carried(&store).await;
    let seen = async |ago: &str| {
        execute(&store, &format!("update call_leases set offered_at = now() - interval '20 minutes', claimed_at = now() - interval '20 minutes', heartbeat_at = now() - interval '{ago}'")).await;
        reap(&store, 10).await.unwrap().first().map(|found| found.reason)
    };
    assert_eq!(
        seen("590 seconds").await,
        None,
        "its node may be cut off from the database, and its caller not"
    );
    assert_eq!(seen("610 seconds").await, Some(EndReason::NodeLost));
    execute(&store, &format!("insert into call_events (organization_id, call_sid, call_status) select id, '{}', 'completed' from organisations where slug = 'default'", call.call_sid)).await;
    assert_eq!(seen("30 seconds").await, None, "its node may be about to write the end");
    assert_eq!(seen("100 seconds").await, Some(EndReason::NodeLost), "the carrier says that it is over");
    execute(&store, "update call_streams set claimed_at = now() - interval '2 hours'").await;
    assert_eq!(seen("1 second").await, Some(EndReason::MaxDuration), "no call is that long");
}

#[tokio::test]
async fn a_call_whose_stream_never_came_is_not_waited_for_as_long() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    offer_from(&store, &agent, &sid(1), "+15005550001").await;
    for (ago, found) in [("110 seconds", None), ("130 seconds", Some(EndReason::StreamLost))] {
        execute(&store, &format!("update call_leases set offered_at = now() - interval '{ago}'")).await;
        assert_eq!(reap(&store, 10).await.unwrap().first().map(|found| found.reason), found, "{ago}");
    }
}

#[tokio::test]
async fn a_server_knows_whether_there_is_another_one() {
    let store = support::store(2).await;
    let others = async || nodes::has_others(&store, "a").await.unwrap();
    nodes::beat(&store, "a", false).await.unwrap();
    assert!(!others().await, "itself does not count");
    nodes::beat(&store, "b", false).await.unwrap();
    assert!(others().await);
    nodes::beat(&store, "b", true).await.unwrap();
    assert!(!others().await, "it is being stopped");
    nodes::beat(&store, "b", false).await.unwrap();
    execute(&store, "update nodes set seen_at = now() - interval '66 seconds' where name = 'b'").await;
    assert!(!others().await, "it is gone");
    nodes::beat(&store, "b", false).await.unwrap();
    assert!(others().await);
    let successor = async || nodes::has_successor(&store, "a").await.unwrap();
    assert!(!successor().await, "it does not stop");
    nodes::beat(&store, "a", true).await.unwrap();
    assert!(!successor().await, "the other one may have died a moment ago");
    nodes::beat(&store, "b", true).await.unwrap();
    assert!(!successor().await, "both stop");
    nodes::beat(&store, "b", false).await.unwrap();
    assert!(successor().await);
    nodes::leave(&store, "b").await.unwrap();
    assert!(!others().await && !successor().await);
}
