//! Who waits because of others: nobody for long, however many rows somebody has.

use std::collections::BTreeMap;

use uuid::Uuid;
use voicebridge::dialer::Step;

use crate::carrier::Behaviour;
use crate::{World, after};

const OTHER: Uuid = Uuid::from_u128(0x1111_1111_1111_4111_8111_1111_1111_1111);

/// This many rows of the campaign that have long been due, of leads whose numbers begin so.
async fn enqueue_many(world: &World, campaign: Uuid, prefix: &str, rows: u32, due: &str) {
    world
        .run(&format!(
            "with called as (
                 insert into leads (organization_id, name, phone, time_zone)
                 select c.organization_id, 'Lead', '{prefix}' || lpad(n::text, 4, '0'), 'Europe/Berlin'
                 from campaigns c, generate_series(1, {rows}) n
                 where c.id = '{campaign}'
                 returning id, organization_id, phone
             )
             insert into call_queue (organization_id, campaign_id, lead_id, to_number, next_retry_at)
             select organization_id, '{campaign}', id, phone, timestamptz '{due}' from called"
        ))
        .await;
}

async fn campaign(world: &World) -> Uuid {
    world.campaign("max_concurrent_calls = 1000").await
}

/// A campaign of another organisation.
async fn campaign_of_others(world: &World) -> Uuid {
    world
        .run(&format!(
            "insert into organisations (id, slug, name) values ('{OTHER}', 'other', 'Other');
             insert into agents (id, organization_id, name, instructions, is_default)
             values ('{OTHER}', '{OTHER}', 'Other', 'Speak.', true);
             insert into phone_numbers (organization_id, agent_id, number)
             values ('{OTHER}', '{OTHER}', '+15005550007')"
        ))
        .await;
    let campaign = campaign(world).await;
    world.run(&format!("update campaigns set organization_id = '{OTHER}' where id = '{campaign}'")).await;
    campaign
}

/// How many of the next calls, one a second, go to numbers that begin with each of these.
async fn calls(
    world: &World,
    seconds: std::ops::Range<i64>,
    prefixes: &[&'static str],
) -> BTreeMap<&'static str, usize> {
    let before = world.carrier.calls().len();
    for second in seconds {
        world.step("node-1", after(second)).await;
    }
    let calls = &world.carrier.calls()[before..];
    let count = |prefix: &str| calls.iter().filter(|call| call.to.starts_with(prefix)).count();
    prefixes.iter().map(|prefix| (*prefix, count(prefix))).collect()
}

#[tokio::test]
async fn a_campaign_with_many_rows_does_not_keep_another_waiting() {
    let world = World::new().await;
    let (large, small) = (campaign(&world).await, campaign(&world).await);
    enqueue_many(&world, large, "+1212555", 2000, "2026-03-01T00:00:00Z").await;
    enqueue_many(&world, small, "+1313555", 10, "2026-03-02T11:59:00Z").await;
    let prefixes = ["+1212555", "+1313555"];
    assert_eq!(calls(&world, 0..8, &prefixes).await, [("+1212555", 4), ("+1313555", 4)].into());
    // Calls that are over at once change nothing.
    world.run("update call_attempts set status = 'ended', outcome = 'busy'").await;
    assert_eq!(calls(&world, 8..10, &prefixes).await, [("+1212555", 1), ("+1313555", 1)].into());
    // Calls that somebody asked for one by one have their turn as well.
    for number in 0..3 {
        world.enqueue(&format!("+1414555000{number}")).await;
    }
    let prefixes = ["+1212555", "+1313555", "+1414555"];
    assert_eq!(
        calls(&world, 10..16, &prefixes).await,
        [("+1212555", 2), ("+1313555", 2), ("+1414555", 2)].into()
    );
    // What is left of the time is the large one's.
    assert_eq!(calls(&world, 16..30, &prefixes).await.values().sum::<usize>(), 14);
}

#[tokio::test]
async fn an_organisation_with_many_campaigns_does_not_keep_another_waiting() {
    let world = World::new().await;
    for prefix in ["+1212551", "+1212552", "+1212553"] {
        let campaign = campaign(&world).await;
        enqueue_many(&world, campaign, prefix, 50, "2026-03-01T00:00:00Z").await;
    }
    let others = campaign_of_others(&world).await;
    enqueue_many(&world, others, "+1313555", 50, "2026-03-02T11:59:00Z").await;
    let prefixes = ["+1212551", "+1212552", "+1212553", "+1313555"];
    assert_eq!(
        calls(&world, 0..12, &prefixes).await,
        [("+1212551", 2), ("+1212552", 2), ("+1212553", 2), ("+1313555", 6)].into()
    );
}

#[tokio::test]
async fn rows_of_one_that_cannot_be_called_do_not_keep_those_of_others_waiting() {
    let world = World::new().await;
    let refused = campaign(&world).await;
    let others = campaign_of_others(&world).await;
    enqueue_many(&world, refused, "+1212555", 500, "2026-03-01T00:00:00Z").await;
    enqueue_many(&world, others, "+1313555", 5, "2026-03-02T11:59:00Z").await;
    // The carrier lets the first one call from no number of its own: that was its turn all the same.
    world.carrier.will([Behaviour::Refuse(400, 21212)]);
    assert_eq!(world.step("node-1", after(0)).await, Step::Asked);
    assert_eq!(world.step("node-1", after(1)).await, Step::Asked);
    assert!(world.carrier.calls()[0].to.starts_with("+1313"));
    // Rows without a time zone fail, some at a time, and the other's are found in the same turn.
    world.run("update leads set time_zone = null where phone like '+1212%'").await;
    assert_eq!(world.step("node-1", after(2)).await, Step::Asked);
    assert!(world.carrier.calls()[1].to.starts_with("+1313"));
    assert!(world.count("call_queue where status = 'failed'").await < 8);
}

#[tokio::test]
async fn what_is_more_urgent_comes_first_whoever_s_turn_it_is() {
    let world = World::new().await;
    let (urgent, other) = (campaign(&world).await, campaign(&world).await);
    enqueue_many(&world, urgent, "+1212555", 5, "2026-03-02T11:59:00Z").await;
    enqueue_many(&world, other, "+1313555", 5, "2026-03-01T00:00:00Z").await;
    world.run(&format!("update call_queue set priority = 1 where campaign_id = '{urgent}'")).await;
    let prefixes = ["+1212555", "+1313555"];
    assert_eq!(calls(&world, 0..4, &prefixes).await, [("+1212555", 4), ("+1313555", 0)].into());
    assert_eq!(calls(&world, 4..8, &prefixes).await, [("+1212555", 1), ("+1313555", 3)].into());
}
