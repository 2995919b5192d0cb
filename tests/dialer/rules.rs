//! What is asked inside the transaction that takes a try.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;
use voicebridge::dialer::Step;
use voicebridge::ids::{CallSid, PhoneNumber};
use voicebridge::lifecycle::callback;
use voicebridge::outreach::campaign::Command;
use voicebridge::store::call_events::CarrierEvent;
use voicebridge::store::campaigns;
use voicebridge::store::leads::{self, LeadPatch};

use crate::{THEIRS, World, after, noon};

#[tokio::test]
async fn whoever_is_on_do_not_call_by_the_time_of_the_dial_is_not_called() {
    let world = World::new().await;
    let row = world.enqueue(THEIRS).await;
    world
        .run("insert into do_not_call (organization_id, number) select id, '+14155550123' from organisations")
        .await;
    assert_eq!(world.step("node-1", noon()).await, Step::Idle);
    let queued = world.row(row).await;
    assert_eq!((queued.status.as_str(), queued.attempts), ("failed", 0));
    assert!(queued.error.starts_with("blocked_by_rule"), "{}", queued.error);
    assert_eq!(world.carrier.requests(), 0);
}

#[tokio::test]
async fn a_paused_campaign_calls_nobody_from_the_next_turn_on_and_goes_on_when_resumed() {
    let world = World::new().await;
    let campaign = world.campaign("max_concurrent_calls = 10").await;
    for number in 0..3 {
        world.enqueue_lead(campaign, &format!("+1415555013{number}"), Some("Europe/Berlin")).await;
    }
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    world.run("update campaigns set status = 'paused'").await;
    assert_eq!(world.step("node-1", after(1)).await, Step::Idle);
    assert_eq!(world.count("call_queue where status = 'queued'").await, 2);
    world.run("update campaigns set status = 'active'").await;
    assert_eq!(world.step("node-1", after(2)).await, Step::Asked);
}

#[tokio::test]
async fn a_campaign_has_no_more_calls_at_a_time_than_it_says_and_holds_up_no_other() {
    let world = World::new().await;
    let (small, other) =
        (world.campaign("max_concurrent_calls = 1").await, world.campaign("name = 'Other'").await);
    for number in 0..20 {
        world.enqueue_lead(small, &format!("+141555501{number:02}"), Some("Europe/Berlin")).await;
    }
    world.run("update call_queue set priority = 1").await;
    world.enqueue_lead(other, "+14155550200", Some("Europe/Berlin")).await;
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    assert_eq!(world.step("node-1", after(1)).await, Step::Asked);
    assert_eq!(world.step("node-1", after(2)).await, Step::Idle);
    let called: Vec<String> = world.carrier.calls().into_iter().map(|call| call.to).collect();
    assert_eq!(called, ["+14155550100", "+14155550200"]);
}

#[tokio::test]
async fn no_more_calls_go_on_than_may_and_inbound_calls_keep_their_places() {
    let mut world = World::new().await;
    world.settings.max_calls = 2;
    for number in 0..4 {
        world.enqueue(&format!("+1415555013{number}")).await;
    }
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    // This server has one place left for us, which the call that still rings will take.
    world.room.store(1, Ordering::SeqCst);
    assert_eq!(world.step("node-1", after(1)).await, Step::Idle);
    // Another one has room of its own.
    assert_eq!(world.step("node-2", after(1)).await, Step::Asked);
    world.room.store(100, Ordering::SeqCst);
    assert_eq!(world.step("node-1", after(2)).await, Step::Idle, "two are all there may be");
    world.run("update call_attempts set status = 'ended', outcome = 'busy' where node = 'node-1'").await;
    assert_eq!(world.step("node-1", after(3)).await, Step::Asked);
}

#[tokio::test]
async fn one_telephone_is_called_once_at_a_time() {
    let world = World::new().await;
    let campaign = world.campaign("max_attempts_per_day = 2").await;
    world.enqueue(THEIRS).await;
    world.enqueue_lead(campaign, THEIRS, Some("Europe/Berlin")).await;
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    assert_eq!(world.step("node-2", after(1)).await, Step::Idle);
    world.run("update call_attempts set status = 'ended', outcome = 'busy'").await;
    assert_eq!(world.step("node-2", after(2)).await, Step::Asked);
}

#[tokio::test]
async fn a_lead_without_a_time_zone_is_never_called_by_a_campaign() {
    let world = World::new().await;
    let campaign = world.campaign("name = 'Other'").await;
    let rows = [
        world.enqueue_lead(campaign, "+14155550131", None).await,
        world.enqueue_lead(campaign, "+14155550132", Some("Mars/Olympus")).await,
    ];
    assert_eq!(world.step("node-1", noon()).await, Step::Idle);
    for row in rows {
        assert_eq!(world.row(row).await.error, "blocked_by_rule: the lead has no known time zone");
    }
}

#[tokio::test]
async fn a_lead_outside_its_hours_waits_until_they_begin_where_it_is() {
    let world = World::new().await;
    let campaign = world.campaign("time_start = '09:00', time_end = '17:00'").await;
    // 07:00 in New York.
    let row = world.enqueue_lead(campaign, THEIRS, Some("America/New_York")).await;
    assert_eq!(world.step("node-1", noon()).await, Step::Idle);
    let queued = world.row(row).await;
    assert_eq!((queued.status.as_str(), queued.next), ("queued", after(2 * 3600)));
    assert_eq!(world.step("node-1", after(2 * 3600 - 1)).await, Step::Idle);
    assert_eq!(world.step("node-1", after(2 * 3600)).await, Step::Asked);
}

#[tokio::test]
async fn a_lead_is_not_called_in_the_last_half_minute_of_its_hours() {
    let world = World::new().await;
    let campaign = world.campaign("time_start = '09:00', time_end = '13:00'").await;
    world.enqueue_lead(campaign, THEIRS, Some("Europe/London")).await;
    let closes = 3600;
    assert_eq!(world.step("node-1", after(closes - 31)).await, Step::Asked);
    let late = world.enqueue_lead(campaign, "+14155550124", Some("Europe/London")).await;
    assert_eq!(world.step("node-1", after(closes - 30)).await, Step::Idle);
    let queued = world.row(late).await;
    assert_eq!((queued.attempts, queued.next), (0, after(21 * 3600)), "tomorrow at nine");
}

#[tokio::test]
async fn a_lead_has_so_many_calls_a_day_as_its_campaign_says_whoever_calls() {
    let world = World::new().await;
    let (first, second) = (world.campaign("name = 'First'").await, world.campaign("name = 'Second'").await);
    let called = world.enqueue_lead(first, THEIRS, Some("Europe/London")).await;
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    world.run("update call_attempts set status = 'ended', outcome = 'busy'").await;
    let again: Uuid = sqlx::query_scalar(
        "insert into call_queue (organization_id, campaign_id, lead_id, to_number, next_retry_at)
         select organization_id, $2, lead_id, to_number, next_retry_at from call_queue where id = $1 returning id",
    )
    .bind(called)
    .bind(second)
    .fetch_one(world.store.pool())
    .await
    .unwrap();
    assert_eq!(world.step("node-1", after(60)).await, Step::Idle);
    let queued = world.row(again).await;
    assert_eq!((queued.next, queued.attempts), (after(12 * 3600), 0), "the next day begins at midnight");
    assert_eq!(queued.error, "the lead has had its calls of the day");
    // What never rang is no call.
    world.run("update call_queue set next_retry_at = '2026-03-02T12:00:00Z' where status = 'queued'").await;
    world.run("update call_attempts set call_sid = null, outcome = 'not_placed'").await;
    assert_eq!(world.step("node-1", after(120)).await, Step::Asked);
}

#[tokio::test]
async fn calls_of_the_day_count_however_the_telephone_was_called_and_whatever_became_of_the_campaign() {
    let world = World::new().await;
    let (first, second) = (world.campaign("name = 'First'").await, world.campaign("name = 'Second'").await);
    world.enqueue_lead(first, THEIRS, Some("Europe/London")).await;
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    world.run("update call_attempts set status = 'ended', outcome = 'busy'").await;
    world.run("update call_queue set status = 'completed'").await;
    world.run(&format!("update campaigns set status = 'paused' where id = '{first}'")).await;
    campaigns::delete(&world.store, world.organization(), first).await.unwrap();
    assert_eq!(world.count("call_attempts where queue_id is null and call_sid is not null").await, 1);
    // Somebody else with the same telephone.
    let other = world.enqueue_lead(second, THEIRS, Some("Europe/London")).await;
    assert_eq!(world.step("node-1", after(60)).await, Step::Idle);
    assert_eq!(world.row(other).await.error, "the lead has had its calls of the day");
    world.run("delete from call_attempts").await;
    world.run("update call_queue set next_retry_at = '2026-03-02T12:00:00Z'").await;
    assert_eq!(world.step("node-1", after(120)).await, Step::Asked);
}

#[tokio::test]
async fn a_lead_whose_telephone_is_corrected_is_called_there() {
    let world = World::new().await;
    let campaign = world.campaign("name = 'First'").await;
    let row = world.enqueue_lead(campaign, THEIRS, Some("Europe/London")).await;
    let elsewhere = "+14155550160";
    let own: Uuid = sqlx::query_scalar(
        "insert into call_queue (organization_id, lead_id, to_number, next_retry_at)
         select organization_id, lead_id, $2, next_retry_at from call_queue where id = $1 returning id",
    )
    .bind(row)
    .bind(elsewhere)
    .fetch_one(world.store.pool())
    .await
    .unwrap();
    let lead: i64 = sqlx::query_scalar("select id from leads").fetch_one(world.store.pool()).await.unwrap();
    let phone = |number| LeadPatch { phone: PhoneNumber::parse(number).ok(), ..LeadPatch::default() };
    let change = async |number| {
        leads::update(&world.store, world.organization(), lead, &phone(number)).await.unwrap().unwrap();
    };
    change("+14155550161").await;
    assert_eq!(world.count(&format!("call_queue where id = '{own}' and to_number = '{elsewhere}'")).await, 1);
    // On that one nobody wants to be called.
    world
        .run("insert into do_not_call (organization_id, number) select id, '+14155550161' from organisations")
        .await;
    world.run(&format!("delete from call_queue where id = '{own}'")).await;
    change("+14155550162").await;
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    let called: Vec<String> = world.carrier.calls().into_iter().map(|call| call.to).collect();
    assert_eq!(called, ["+14155550162"]);
    // While it is called, too: the next try goes to the new one.
    change("+14155550161").await;
    world.run("update call_attempts set status = 'ended', outcome = 'busy', requested_at = requested_at - interval '2 days'").await;
    world.run("update call_queue set status = 'queued'").await;
    assert_eq!(world.step("node-1", after(60)).await, Step::Idle);
    assert_eq!(world.row(row).await.error, "blocked_by_rule: the number is on the do-not-call list");
}

#[tokio::test]
async fn rows_that_may_not_be_called_do_not_hold_up_those_behind_them() {
    let world = World::new().await;
    let campaign = world.campaign("name = 'Other'").await;
    for number in 0..40 {
        world.enqueue_lead(campaign, &format!("+1415555{:04}", 300 + number), None).await;
    }
    world.run("update call_queue set priority = 1").await;
    world.enqueue(THEIRS).await;
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    assert_eq!(world.count("call_queue where status = 'failed'").await, 40);
    assert_eq!(world.carrier.calls()[0].to, THEIRS);
}

#[tokio::test]
async fn a_row_in_use_is_left_for_the_next_turn() {
    let world = World::new().await;
    world.enqueue(THEIRS).await;
    let mut editing = world.store.pool().begin().await.unwrap();
    sqlx::query("select from call_queue for update").execute(&mut *editing).await.unwrap();
    assert_eq!(world.step("node-1", noon()).await, Step::Again, "it is free in a moment");
    editing.rollback().await.unwrap();
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
}

#[tokio::test]
async fn rows_wait_for_whoever_sets_up_a_number_to_call_from_or_an_agent() {
    let world = World::new().await;
    let row = world.enqueue(THEIRS).await;
    world.run("create table kept as select * from phone_numbers; delete from phone_numbers").await;
    assert_eq!(world.step("node-1", noon()).await, Step::Idle);
    let queued = world.row(row).await;
    assert_eq!((queued.status.as_str(), queued.attempts, queued.next), ("queued", 0, after(300)));
    assert_eq!(queued.error, "there is no phone number to call from: add one of the account");
    world.run("insert into phone_numbers select * from kept; update agents set is_default = false").await;
    assert_eq!(world.step("node-1", after(300)).await, Step::Idle);
    let queued = world.row(row).await;
    assert_eq!((queued.status.as_str(), queued.attempts, queued.next), ("queued", 0, after(600)));
    assert_eq!(queued.error, "there is no agent for it: name one, or make one the default");
    world.run("update agents set is_default = true").await;
    assert_eq!(world.step("node-1", after(600)).await, Step::Asked);
}

#[tokio::test]
async fn a_lead_or_a_campaign_that_is_being_edited_is_looked_at_again_at_once() {
    let world = World::new().await;
    let campaign = world.campaign("name = 'Other'").await;
    world.enqueue_lead(campaign, THEIRS, Some("Europe/Berlin")).await;
    for table in ["leads", "campaigns"] {
        let mut editing = world.store.pool().begin().await.unwrap();
        let lock = format!("select from {table} for update");
        sqlx::query(sqlx::AssertSqlSafe(lock)).execute(&mut *editing).await.unwrap();
        assert_eq!(world.step("node-1", noon()).await, Step::Again, "{table}");
        editing.rollback().await.unwrap();
    }
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
}

#[tokio::test]
async fn a_row_that_rang_when_its_campaign_was_completed_is_not_left_open() {
    let world = World::new().await;
    let campaign = world.campaign("name = 'Other'").await;
    let row = world.enqueue_lead(campaign, THEIRS, Some("Europe/Berlin")).await;
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    let organization = world.organization();
    campaigns::step(&world.store, organization, campaign, Command::Complete).await.unwrap();
    assert_eq!(world.row(row).await.status, "processing");
    // Nobody answers, and it would be tried again.
    let call = world.carrier.calls()[0].clone();
    let event = CarrierEvent {
        organization: Some(organization),
        call_sid: CallSid::parse(&call.sid).unwrap(),
        call_status: Some("no-answer".to_owned()),
        to: None,
        from: None,
        direction: Some("outbound-api".to_owned()),
        duration_s: None,
        sequence_number: Some(3),
        event_time: Some(after(30)),
        sip_response_code: None,
        answered_by: None,
        payload: json!({"CallStatus": "no-answer"}),
    };
    callback::record(&world.store, &event, after(30)).await.unwrap();
    assert_eq!(world.row(row).await.status, "queued");
    campaigns::fail_left_over(&world.store, Duration::from_secs(60)).await.unwrap();
    let queued = world.row(row).await;
    assert_eq!(
        (queued.status.as_str(), queued.error.as_str()),
        ("failed", "blocked_by_rule: the campaign is over")
    );
}
