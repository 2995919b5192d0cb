//! Offers that were made without the database get their lease later, unless somebody else has the call by then.

use jiff::Timestamp;
use voicebridge::ids::CallSid;
use voicebridge::store::leases::{self, FencingToken};
use voicebridge::store::standby::{LateOffer, record};
use voicebridge::store::{Store, agents::Agent};

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
