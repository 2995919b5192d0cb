//! Who is to speak on the calls that are made.

use uuid::Uuid;
use voicebridge::dialer::Step;
use voicebridge::store::agent_admin::{self, AgentDeleted};

use crate::{THEIRS, World, noon};

/// An agent beside the default one.
async fn another(world: &World) -> Uuid {
    sqlx::query_scalar("insert into agents (organization_id, name, instructions) values ($1, 'Caller', 'Speak.') returning id")
        .bind(world.organization().0)
        .fetch_one(world.store.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn an_agent_stays_while_calls_or_campaigns_name_it_and_its_tries_stay_when_it_goes() {
    let world = World::new().await;
    let agent = another(&world).await;
    let delete = async || agent_admin::delete(&world.store, world.organization(), agent).await.unwrap();
    let campaign = world.campaign(&format!("agent_id = '{agent}'")).await;
    assert_eq!(delete().await, AgentDeleted::IsCalling, "a campaign is active");
    world.run("update campaigns set status = 'paused'").await;
    assert_eq!(delete().await, AgentDeleted::IsCalling, "a campaign is paused");
    world.run("update campaigns set status = 'active'").await;

    let row = world.enqueue_lead(campaign, THEIRS, Some("Europe/Berlin")).await;
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    world.run("update campaigns set status = 'completed'").await;
    assert_eq!(delete().await, AgentDeleted::IsCalling, "a call goes on");
    world.run("update call_attempts set status = 'ended', outcome = 'busy'").await;
    world.run(&format!("update call_queue set status = 'queued', agent_id = '{agent}'")).await;
    assert_eq!(delete().await, AgentDeleted::IsCalling, "a row waits");
    world.run("update call_queue set status = 'failed'").await;
    world
        .run(&format!(
            "insert into call_leases (call_sid, organization_id, agent_id, fencing_token) \
             select 'CA1', organization_id, id, 1 from agents where id = '{agent}'"
        ))
        .await;
    assert_eq!(delete().await, AgentDeleted::IsCalling, "somebody has called it");
    world.run("update call_leases set ended_at = now()").await;
    assert_eq!(delete().await, AgentDeleted::Done);
    assert_eq!(world.row(row).await.status, "failed");
    assert_eq!(world.count("call_attempts where agent_id is null and outcome = 'busy'").await, 1);
}

#[tokio::test]
async fn a_row_whose_agent_is_switched_off_waits_until_it_is_switched_on() {
    let world = World::new().await;
    let agent = another(&world).await;
    let row = world.enqueue(THEIRS).await;
    world.run(&format!("update call_queue set agent_id = '{agent}'")).await;
    world.run(&format!("update agents set enabled = false where id = '{agent}'")).await;
    assert_eq!(world.step("node-1", noon()).await, Step::Idle);
    let queued = world.row(row).await;
    assert_eq!((queued.status.as_str(), queued.attempts), ("queued", 0));
    assert_eq!(
        (queued.next, queued.error.as_str()),
        (crate::after(300), "its agent is switched off: enable it, or name another one")
    );
    world.run("update agents set enabled = true").await;
    assert_eq!(world.step("node-1", crate::after(300)).await, Step::Asked);
}
