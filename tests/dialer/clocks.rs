//! One clock for all servers: the database's, whatever a server's own one says.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep, timeout};
use voicebridge::dialer;
use voicebridge::shutdown::Tasks;
use voicebridge::store::Store;

use crate::{THEIRS, World};

/// Has the database's clock be ahead of this machine's by so many seconds, for whoever connects from now on.
async fn set_database_clock(world: &mut World, seconds_ahead: i64) {
    world
        .run(&format!(
            "create function clock_timestamp() returns timestamptz language sql volatile
             as $$ select pg_catalog.clock_timestamp() + {seconds_ahead} * interval '1 second' $$"
        ))
        .await;
    // Ours is found first where the system's own names do not come first.
    let options = (*world.store.pool().connect_options()).clone();
    world.store = Store::connect(options.options([("search_path", "public,pg_catalog")]), 8).await.unwrap();
}

fn in_seconds(seconds: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_secs(seconds)
}

#[tokio::test]
async fn what_is_due_is_due_by_the_database_s_clock_and_on_record_by_it() {
    let mut world = World::new().await;
    set_database_clock(&mut world, 7200).await;
    let row = world.enqueue(THEIRS).await;
    world.run(&format!("update call_queue set next_retry_at = '{}'", in_seconds(3600))).await;
    let tasks = Tasks::new();
    tasks.spawn(dialer::run(Arc::new(world.dialer("node-1")), tasks.clone()));
    timeout(Duration::from_secs(20), world.carrier.asked()).await.expect("its time has come");
    assert!(tasks.drain(Duration::from_secs(20)).await);
    assert_eq!(world.row(row).await.status, "processing");
    let (requested, placed): (jiff_sqlx::Timestamp, jiff_sqlx::Timestamp) =
        sqlx::query_as("select requested_at, placed_at from call_attempts")
            .fetch_one(world.store.pool())
            .await
            .unwrap();
    for at in [requested, placed] {
        assert!(at.to_jiff() > in_seconds(7100) && at.to_jiff() < in_seconds(7300), "{at:?}");
    }
}

#[tokio::test]
async fn hours_and_pace_are_those_of_the_database_s_clock() {
    let mut world = World::new().await;
    set_database_clock(&mut world, -7200).await;
    let dialer = world.dialer("node-1");
    // Open from an hour ago by our clock; by the database's it is an hour before that. It is summer nowhere in UTC.
    let opened = in_seconds(-3600).to_zoned(jiff::tz::TimeZone::UTC);
    let opens = opened.strftime("%H:%M");
    let campaign = world.campaign("max_concurrent_calls = 9").await;
    let hours = if opened.hour() < 23 {
        format!("time_start = '{opens}', time_end = '24:00', start_date = '{}'", opened.date())
    } else {
        format!("start_date = '{}'", in_seconds(0).to_zoned(jiff::tz::TimeZone::UTC).date())
    };
    world.run(&format!("update campaigns set {hours}")).await;
    let row = world.enqueue_lead(campaign, THEIRS, Some("Etc/UTC")).await;
    assert!(dialer.claim(None).await.unwrap().is_err());
    let queued = world.row(row).await;
    assert_eq!(queued.error, "outside the campaign's days and hours where the lead is");
    // The carrier had no time for anybody, until half an hour ago by our clock.
    world.run("delete from call_queue").await;
    world.enqueue("+14155550124").await;
    world.run(&format!("update dial_pace set next_at = '{}'", in_seconds(-1800))).await;
    let step = dialer.claim(None).await.unwrap().unwrap_err();
    let dialer::Step::Later { wait, .. } = step else { panic!("{step:?}") };
    assert!(wait > Duration::from_secs(5300) && wait < Duration::from_secs(5500), "{wait:?}");
    world.run("update dial_pace set next_at = '2026-01-01T00:00:00Z'").await;
    assert!(dialer.claim(None).await.unwrap().is_ok());
}

#[tokio::test]
async fn tries_are_lost_by_the_clock_by_which_they_were_taken() {
    let mut world = World::new().await;
    set_database_clock(&mut world, 600).await;
    world.enqueue(THEIRS).await;
    // By our clock it was taken this moment; by the database's, ten minutes ago.
    let taken = world.dialer("node-2").claim(Some(in_seconds(0))).await.unwrap();
    assert!(taken.is_ok());
    let tasks = Tasks::new();
    tasks.spawn(dialer::run(Arc::new(world.dialer("node-1")), tasks.clone()));
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.attempts().await[0].0 != "ended" {
        assert!(Instant::now() < deadline, "{:?}", world.attempts().await);
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.attempts().await[0].1.as_deref(), Some("not_placed"));
    assert!(tasks.drain(Duration::from_secs(20)).await);
}
