//! The dialer of a server that runs: woken when there is something, and quiet when the server stops.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use voicebridge::dialer;
use voicebridge::shutdown::Tasks;

use crate::carrier::Behaviour;
use crate::{THEIRS, World};

#[tokio::test]
async fn a_new_row_is_dialed_soon_and_a_server_that_stops_finishes_its_request_and_takes_no_other() {
    let mut world = World::new().await;
    world.settings.per_second = 100;
    let tasks = Tasks::new();
    let dialer = Arc::new(world.dialer("node-1"));
    tasks.spawn(dialer::run(dialer, tasks.clone()));
    world.enqueue(THEIRS).await;
    timeout(Duration::from_secs(20), world.carrier.asked()).await.expect("the row is found");

    let deadline = Instant::now() + Duration::from_secs(20);
    while world.attempts().await[0].0 != "placed" {
        assert!(Instant::now() < deadline, "{:?}", world.attempts().await);
        sleep(Duration::from_millis(10)).await;
    }
    tasks.begin_stop();
    world.enqueue("+14155550124").await;
    assert!(tasks.drain(Duration::from_secs(20)).await);
    assert_eq!(world.carrier.requests(), 1);
    assert_eq!(world.count("call_queue where status = 'queued'").await, 1);
}

#[tokio::test]
async fn a_request_that_has_begun_is_finished_before_the_server_stops() {
    let world = World::new().await;
    let tasks = Tasks::new();
    world.enqueue(THEIRS).await;
    world.carrier.will([Behaviour::Place]);
    tasks.spawn(dialer::run(Arc::new(world.dialer("node-1")), tasks.clone()));
    world.carrier.asked().await;
    assert!(tasks.drain(Duration::from_secs(20)).await);
    let sid = world.carrier.calls()[0].sid.clone();
    assert_eq!(world.attempts().await, [("placed".into(), None, Some(sid))]);
}
