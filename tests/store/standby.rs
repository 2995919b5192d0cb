//! Offers that were made without the database get their lease later, unless somebody else has the call by then.

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;
use voicebridge::call::end::EndReason;
use voicebridge::ids::CallSid;
use voicebridge::lifecycle::{self, CallEvent, CallRef};
use voicebridge::store::leases::{self, FencingToken};
use voicebridge::store::standby::{LateOffer, record};
use voicebridge::store::{Store, agents::Agent};

use crate::carrier::callback;
use crate::{default_agent, digest, offer_from, other_tenant, sid, support};

fn late(agent: &Agent, call_sid: &CallSid, secret: u8) -> LateOffer {
    let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    LateOffer {
        call_sid: call_sid.clone(),
        organization: agent.organization_id,
        agent: agent.id,
        direction: Some("inbound".into()),
        from: Some("+15005550001".into()),
        to: None,
        token_sha256: [secret; 32],
        node: "node".into(),
        offered_at: at,
        claimed_at: Some(at),
    }
}

async fn holder(store: &Store, call_sid: &CallSid) -> (FencingToken, bool) {
    let after = leases::next_action(store, call_sid).await.unwrap().expect("it has a lease");
    (after.fencing_token, after.claimed)
}

#[tokio::test]
async fn a_call_that_nobody_knows_gets_the_lease_of_its_late_offer_once() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let offer = late(&agent, &sid(1), 1);
    for _ in 0..2 {
        assert!(record(&store, &offer).await.unwrap(), "also when it is repeated");
        assert_eq!(holder(&store, &sid(1)).await, (FencingToken(1), true));
    }
    let beat = leases::heartbeat(&store, &[(sid(1), FencingToken(1))]).await.unwrap();
    assert_eq!(beat.len(), 1, "its node carries it from now on");
    let streams =
        "select count(*) from call_streams where offered_at = '2026-01-02T03:04:05Z' and node = 'node'";
    assert_eq!(sqlx::query_scalar::<_, i64>(streams).fetch_one(store.pool()).await.unwrap(), 1);
    assert!(!record(&store, &late(&agent, &sid(1), 2)).await.unwrap(), "the call is taken");
}

#[tokio::test]
async fn an_offer_whose_answer_got_lost_gives_way_to_the_one_that_was_answered() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    offer_from(&store, &agent, &sid(1), "+15005550001").await;
    assert!(record(&store, &late(&agent, &sid(1), 1)).await.unwrap());
    assert_eq!(leases::claim(&store, &digest(&sid(1)), "other").await.unwrap(), None, "it is void");
    assert_eq!(holder(&store, &sid(1)).await, (FencingToken(1), true));
}

#[tokio::test]
async fn a_late_offer_takes_no_call_from_anybody() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    offer_from(&store, &agent, &sid(1), "+15005550001").await;
    let theirs = leases::claim(&store, &digest(&sid(1)), "other").await.unwrap().expect("it was offered");
    assert!(!record(&store, &late(&agent, &sid(1), 1)).await.unwrap(), "another stream carries it");
    for _ in 0..2 {
        offer_from(&store, &agent, &sid(2), "+15005550001").await;
    }
    assert!(!record(&store, &late(&agent, &sid(2), 1)).await.unwrap(), "it was offered again since");
    let (organization, agent_of_other) = other_tenant(&store).await;
    let foreign = LateOffer { organization, agent: agent_of_other, ..late(&agent, &sid(1), 3) };
    assert!(!record(&store, &foreign).await.unwrap(), "it belongs to somebody else");
    assert_eq!(holder(&store, &sid(1)).await, (theirs.fencing_token, true));
    assert_eq!(holder(&store, &sid(2)).await, (FencingToken(2), false));
}

/// The same offer as the node keeps it that was asked, and does not know who took it.
fn untaken(offer: &LateOffer) -> LateOffer {
    LateOffer { node: "asked".into(), claimed_at: None, ..offer.clone() }
}

async fn node(store: &Store, table: &str) -> Vec<(String, bool)> {
    let query =
        format!("select coalesce(node, ''), claimed_at is not null from {table} order by fencing_token");
    sqlx::query_as(sqlx::AssertSqlSafe(query)).fetch_all(store.pool()).await.unwrap()
}

#[tokio::test]
async fn the_node_that_took_the_stream_has_the_call_in_whatever_order_both_nodes_put_that_on_record() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let taken = late(&agent, &sid(1), 1);
    for order in [[untaken(&taken), taken.clone()], [taken.clone(), untaken(&taken)]] {
        for offer in order.iter().chain(&order) {
            assert!(record(&store, offer).await.unwrap());
        }
        for table in ["call_leases", "call_streams"] {
            assert_eq!(node(&store, table).await, [("node".to_owned(), true)], "{table}");
        }
        sqlx::query("delete from call_leases").execute(store.pool()).await.unwrap();
    }
}

#[tokio::test]
async fn of_two_nodes_that_took_the_same_stream_the_first_on_record_has_the_call() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let taken = late(&agent, &sid(1), 1);
    let taken_twice = LateOffer { node: "twin".into(), ..taken.clone() };
    assert!(record(&store, &taken).await.unwrap());
    assert!(!record(&store, &taken_twice).await.unwrap());
    assert!(record(&store, &untaken(&taken)).await.unwrap());
    assert!(!record(&store, &taken_twice).await.unwrap());
    assert_eq!(node(&store, "call_leases").await, [("node".to_owned(), true)]);
}

#[tokio::test]
async fn an_offer_on_record_can_be_claimed_by_any_node_and_the_secret_is_used_up_then() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let taken = LateOffer { offered_at: Timestamp::now(), ..late(&agent, &sid(1), 1) };
    assert!(record(&store, &untaken(&taken)).await.unwrap());
    let claimed = leases::claim(&store, &[1; 32], "third").await.unwrap().expect("it is on record");
    assert_eq!(claimed.fencing_token, FencingToken(1));
    assert!(!record(&store, &taken).await.unwrap(), "another node has taken it meanwhile");
    assert_eq!(node(&store, "call_leases").await, [("third".to_owned(), true)]);
}

#[tokio::test]
async fn a_stream_that_was_taken_before_the_call_was_given_away_is_on_record_and_has_no_right_any_more() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let taken = late(&agent, &sid(1), 1);
    assert!(record(&store, &untaken(&taken)).await.unwrap());
    // Nobody knew of the one that carried it; the carrier has asked again.
    let second = leases::resume(&store, &sid(1), FencingToken(1), &[7; 32]).await.unwrap();
    assert_eq!(second, Some(FencingToken(2)));
    let twin = LateOffer { node: "twin".into(), ..taken.clone() };
    for _ in 0..2 {
        assert!(record(&store, &taken).await.unwrap(), "what was said on it counts");
        assert!(record(&store, &untaken(&taken)).await.unwrap());
        assert!(!record(&store, &twin).await.unwrap());
    }
    assert_eq!(holder(&store, &sid(1)).await, (FencingToken(2), false));
    let streams = [("node".to_owned(), true), (String::new(), false)];
    assert_eq!(node(&store, "call_streams").await, streams);
    let other = LateOffer { offered_at: taken.offered_at + SignedDuration::from_micros(1), ..taken };
    assert!(!record(&store, &other).await.unwrap(), "that was another offer");
}

#[tokio::test]
async fn the_carriers_word_ends_no_call_whose_stream_may_have_been_taken_without_the_database() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let call = CallRef { call_sid: sid(1), organization: agent.organization_id, agent: agent.id };
    let taken = late(&agent, &sid(1), 1);
    let incoming =
        CallEvent::Incoming { phone_number: None, from: String::new(), to: String::new(), to_team: false };
    lifecycle::record(&store, &call, taken.offered_at, &incoming).await.unwrap();
    assert!(record(&store, &untaken(&taken)).await.unwrap());
    let over = callback(agent.organization_id, Some("completed"), Some(3));
    let reason = async || leases::next_action(&store, &sid(1)).await.unwrap().unwrap().disconnect_reason;
    lifecycle::callback::record(&store, &over, Timestamp::now()).await.unwrap();
    assert_eq!(reason().await, None);
    // A node that has not said so within 45 s is taken for gone, and so is a call that nobody took.
    sqlx::query("update call_leases set heartbeat_at = now() - interval '46 seconds'")
        .execute(store.pool())
        .await
        .unwrap();
    let [ended] = &leases::reap(&store, 10).await.unwrap()[..] else { panic!("it is nobody's") };
    assert_eq!((ended.call_sid.clone(), ended.reason), (sid(1), EndReason::StreamLost));
}

#[tokio::test]
async fn the_node_that_was_asked_and_the_one_that_took_the_stream_may_say_so_at_the_same_moment() {
    let store = support::store(8).await;
    let agent = default_agent(&store).await;
    for number in 1..=20 {
        let taken = LateOffer { node: "taker".into(), ..late(&agent, &sid(number), number as u8) };
        let asked = LateOffer { node: "asked".into(), claimed_at: None, ..taken.clone() };
        let mut at_once = JoinSet::new();
        for offer in [&asked, &taken, &asked, &taken] {
            let (store, offer) = (store.clone(), offer.clone());
            at_once.spawn(async move { record(&store, &offer).await.unwrap() });
        }
        assert_eq!(at_once.join_all().await, [true; 4], "it is one offer");
        assert_eq!(holder(&store, &sid(number)).await, (FencingToken(1), true));
    }
}
