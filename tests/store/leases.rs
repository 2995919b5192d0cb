//! One holder of a call at a time; whoever is late writes nothing.

use tokio::task::JoinSet;
use voicebridge::call::end::{EndReason, NextStep};
use voicebridge::store::leases::{
    FencingToken, Offer, claim, claim_unoffered, heartbeat, next_action, offer, set_next_action,
};

use crate::{default_agent, digest, offer_from, other_tenant, sid, support};

#[tokio::test]
async fn an_offered_call_is_claimed_exactly_once() {
    let store = support::store(4).await;
    let agent = default_agent(&store).await;
    let token = offer_from(&store, &agent, &sid(1), "anonymous").await;
    let mut claims = JoinSet::new();
    for node in 0..8 {
        let store = store.clone();
        claims.spawn(async move { claim(&store, &digest(&sid(1)), &format!("node-{node}")).await.unwrap() });
    }
    let claimed: Vec<_> = claims.join_all().await.into_iter().flatten().collect();
    let [call] = claimed.as_slice() else { panic!("{} of 8 got the call", claimed.len()) };
    assert_eq!((&call.call_sid, call.agent, call.organization), (&sid(1), agent.id, agent.organization_id));
    assert_eq!(call.fencing_token, token);
    assert_eq!(call.from.as_deref(), Some("anonymous"));
    assert_eq!(call.direction.as_deref(), Some("inbound"));
}

#[tokio::test]
async fn of_many_streams_of_one_call_nobody_knows_one_gets_it() {
    let store = support::store(8).await;
    let agent = default_agent(&store).await;
    for number in 1..=10 {
        let mut claims = JoinSet::new();
        for _ in 0..8 {
            let (store, organization, agent) = (store.clone(), agent.organization_id, agent.id);
            claims.spawn(async move {
                claim_unoffered(&store, &sid(number), organization, agent, "node").await.unwrap()
            });
        }
        assert_eq!(claims.join_all().await.into_iter().flatten().count(), 1);
    }
}

#[tokio::test]
async fn a_secret_that_was_never_given_out_or_is_old_opens_nothing() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    offer_from(&store, &agent, &sid(1), "+15005550001").await;
    assert_eq!(claim(&store, &digest(&sid(2)), "node").await.unwrap(), None);
    sqlx::query("update call_leases set offered_at = now() - interval '11 minutes'")
        .execute(store.pool())
        .await
        .unwrap();
    assert_eq!(claim(&store, &digest(&sid(1)), "node").await.unwrap(), None);
}

#[tokio::test]
async fn a_new_offer_voids_the_one_before() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let first = offer_from(&store, &agent, &sid(1), "+15005550001").await;
    let again = Offer {
        call_sid: &sid(1),
        organization: agent.organization_id,
        agent: agent.id,
        direction: None,
        from: None,
        to: None,
        token_sha256: [7; 32],
    };
    let second = offer(&store, &again).await.unwrap().unwrap();
    assert!(second > first);
    assert_eq!(claim(&store, &digest(&sid(1)), "node").await.unwrap(), None);
    let call = claim(&store, &[7; 32], "node").await.unwrap().unwrap();
    assert_eq!(call.fencing_token, second);
    assert_eq!(call.from.as_deref(), Some("+15005550001"), "what the first offer knew is kept");
}

#[tokio::test]
async fn a_stale_token_writes_nothing() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let stale = offer_from(&store, &agent, &sid(1), "+15005550001").await;
    let token = offer_from(&store, &agent, &sid(1), "+15005550001").await;
    claim(&store, &digest(&sid(1)), "node").await.unwrap().unwrap();

    assert_eq!(heartbeat(&store, &[(sid(1), stale)]).await.unwrap(), []);
    let step = NextStep::HangUp;
    assert!(!set_next_action(&store, &sid(1), stale, step, EndReason::Silence).await.unwrap());
    assert!(!set_next_action(&store, &sid(1), FencingToken(99), step, EndReason::Silence).await.unwrap());
    assert_eq!(next_action(&store, &sid(1)).await.unwrap().unwrap().next_action, None);

    let beats = [(sid(2), token), (sid(1), stale), (sid(1), token)];
    assert_eq!(heartbeat(&store, &beats).await.unwrap(), [(sid(1), token)], "only the holder is renewed");
    assert_eq!(heartbeat(&store, &[]).await.unwrap(), []);
    let step = NextStep::Transfer;
    assert!(set_next_action(&store, &sid(1), token, step, EndReason::Transferred).await.unwrap());
    assert_eq!(next_action(&store, &sid(1)).await.unwrap().unwrap().next_action, Some(step));
}

#[tokio::test]
async fn the_first_cause_wins() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let token = offer_from(&store, &agent, &sid(1), "+15005550001").await;
    for reason in [EndReason::AgentEnded, EndReason::StreamLost] {
        assert!(set_next_action(&store, &sid(1), token, reason.next_step(), reason).await.unwrap());
    }
    let after = next_action(&store, &sid(1)).await.unwrap().unwrap();
    assert_eq!(after.next_action, Some(NextStep::HangUp));
    assert_eq!(after.disconnect_reason.as_deref(), Some("agent_ended"));
    assert_eq!((after.agent, after.organization), (agent.id, agent.organization_id));
    assert_eq!(next_action(&store, &sid(2)).await.unwrap(), None);
}

#[tokio::test]
async fn a_stream_of_foreign_twiml_gets_a_call_nobody_knows_but_none_that_is_going_on() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let take = async |number, node| {
        claim_unoffered(&store, &sid(number), agent.organization_id, agent.id, node).await.unwrap()
    };
    let first = take(1, "a").await.unwrap();
    assert_eq!(take(1, "b").await, None, "it is going on");

    offer_from(&store, &agent, &sid(2), "+15005550001").await;
    assert_eq!(take(2, "b").await, None, "it is expected with a secret");

    sqlx::query("update call_leases set ended_at = now() where call_sid = $1")
        .bind(sid(1).as_str())
        .execute(store.pool())
        .await
        .unwrap();
    let second = take(1, "b").await.unwrap();
    assert!(second.fencing_token > first.fencing_token);

    sqlx::query("update call_leases set offered_at = now() - interval '1 hour', heartbeat_at = now() - interval '3 minutes'")
        .execute(store.pool())
        .await
        .unwrap();
    assert!(take(1, "c").await.unwrap().fencing_token > second.fencing_token, "its node has died");
}

#[tokio::test]
async fn a_call_of_another_organisation_can_be_neither_offered_nor_taken() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let (other, others_agent) = other_tenant(&store).await;
    offer_from(&store, &agent, &sid(1), "+15005550001").await;
    sqlx::query("update call_leases set ended_at = now()").execute(store.pool()).await.unwrap();
    let theft = Offer {
        call_sid: &sid(1),
        organization: other,
        agent: others_agent,
        direction: None,
        from: None,
        to: None,
        token_sha256: [7; 32],
    };
    assert_eq!(offer(&store, &theft).await.unwrap(), None);
    assert_eq!(claim_unoffered(&store, &sid(1), other, others_agent, "node").await.unwrap(), None);
}
