//! Requests whose answer nobody has: at most one call for each try, whatever happens.

use std::time::Duration;

use tokio::time::Instant;
use voicebridge::dialer::Step;
use voicebridge::dialer::reconcile::Found;

use crate::carrier::{Behaviour, check_log};
use crate::{OWN, THEIRS, World, after, noon};

#[tokio::test]
async fn a_server_that_dies_after_it_has_asked_leaves_one_call_which_another_finds() {
    let world = World::new().await;
    let row = world.enqueue(THEIRS).await;
    world.carrier.will([Behaviour::FallSilent]);
    let dying = world.dialer("node-1");
    tokio::select! {
        step = dying.step(noon()) => panic!("{step:?}"),
        () = world.carrier.asked() => {}
    }
    drop(dying);
    assert_eq!(world.attempts().await, [("dialing".into(), None, None)]);
    let other = world.dialer("node-2");
    assert_eq!(other.step(after(5)).await.unwrap(), Step::Idle);
    assert_eq!(other.reconcile(after(29)).await.unwrap(), Found::default(), "it may still be answered");
    let found = other.reconcile(after(31)).await.unwrap();
    assert_eq!(found, Found { placed: 1, ..Found::default() });
    let sid = world.carrier.calls()[0].sid.clone();
    assert_eq!(world.attempts().await, [("placed".into(), None, Some(sid))]);
    assert_eq!(world.row(row).await.status, "processing");
    assert_eq!(other.step(after(600)).await.unwrap(), Step::Idle);
    assert_eq!(world.carrier.requests(), 1);
}

#[tokio::test]
async fn a_server_that_dies_before_it_has_asked_leaves_a_try_that_is_made_again_later() {
    let world = World::new().await;
    let row = world.enqueue(THEIRS).await;
    let claimed = world.dialer("node-1").claim(Some(noon())).await.unwrap();
    assert!(claimed.is_ok());
    let other = world.dialer("node-2");
    // The carrier's list is some time behind.
    assert_eq!(other.reconcile(after(60)).await.unwrap(), Found::default());
    assert_eq!(other.reconcile(after(91)).await.unwrap(), Found { not_placed: 1, ..Found::default() });
    let queued = world.row(row).await;
    assert_eq!((queued.status.as_str(), queued.attempts, queued.next), ("queued", 1, after(91 + 300)));
    assert_eq!(world.attempts().await, [("ended".into(), Some("not_placed".into()), None)]);
    assert_eq!(world.step("node-2", after(390)).await, Step::Idle);
    assert_eq!(world.step("node-2", after(391)).await, Step::Asked);
    assert_eq!(world.row(row).await.attempts, 2);
    check_log(&world.carrier.calls(), jiff::SignedDuration::ZERO);
}

#[tokio::test]
async fn a_server_that_was_held_up_since_it_took_a_try_does_not_ask_any_more() {
    let world = World::new().await;
    world.enqueue(THEIRS).await;
    let dialer = world.dialer("node-1");
    let claimed = dialer.claim(Some(noon())).await.unwrap().unwrap();
    let taken_at = Instant::now().checked_sub(Duration::from_secs(16)).unwrap();
    dialer.place(&claimed, taken_at).await.unwrap();
    assert_eq!((world.carrier.requests(), world.attempts().await[0].0.as_str()), (0, "dialing"));
    // Whoever looks for it may by now have found that there is no such call.
    assert_eq!(world.dialer("node-2").reconcile(after(91)).await.unwrap().not_placed, 1);
}

#[tokio::test]
async fn several_servers_do_not_ask_the_carrier_for_the_same_try_at_once() {
    let world = World::new().await;
    world.enqueue(THEIRS).await;
    world.carrier.will([Behaviour::Forget]);
    world.step("node-1", noon()).await;
    for (seconds, asked) in [(31, 1), (35, 1), (50, 1), (51, 2), (70, 2), (80, 3), (89, 3), (100, 4)] {
        world.dialer("node-1").reconcile(after(seconds)).await.unwrap();
        world.dialer("node-2").reconcile(after(seconds)).await.unwrap();
        assert_eq!(world.carrier.lists(), asked, "after {seconds} seconds");
    }
    assert_eq!(world.attempts().await[0].1.as_deref(), Some("not_placed"));
}

#[tokio::test]
async fn what_never_reached_the_carrier_costs_no_try_but_five_times_in_a_row_is_enough() {
    let world = World::new().await;
    let row = world.enqueue(THEIRS).await;
    world.run("update call_queue set max_attempts = 1").await;
    let mut seconds = 0;
    for times in 1..=5 {
        world.carrier.will([Behaviour::Forget]);
        assert_eq!(world.step("node-1", after(seconds)).await, Step::Asked, "time {times}");
        world.dialer("node-2").reconcile(after(seconds + 100)).await.unwrap();
        let queued = world.row(row).await;
        assert!(queued.error.contains("has no such call"), "{}", queued.error);
        assert_eq!(queued.status, if times < 5 { "queued" } else { "failed" });
        seconds += 400;
    }
    assert!(world.row(row).await.error.ends_with("so it was 5 times in a row"));
    assert_eq!(world.count("call_attempts where outcome = 'not_placed'").await, 5);
    // What rings is a try, and it was the only one.
    world.run("update call_queue set status = 'queued', next_retry_at = '2026-03-02T12:00:00Z'").await;
    assert_eq!(world.step("node-1", after(seconds)).await, Step::Asked);
    assert_eq!(world.attempts().await[5].0, "placed");
    world.run("update call_attempts set status = 'ended', outcome = 'busy' where status = 'placed'").await;
    world.run("update call_queue set status = 'queued'").await;
    assert_eq!(world.step("node-1", after(seconds + 10)).await, Step::Idle);
    assert_eq!(world.row(row).await.error, "blocked_by_rule: all tries are used up");
}

#[tokio::test]
async fn a_lost_answer_is_found_and_calls_of_other_tries_are_left_alone() {
    let world = World::new().await;
    let row = world.enqueue(THEIRS).await;
    world.carrier.will([Behaviour::Place, Behaviour::LoseAnswer]);
    world.step("node-1", noon()).await;
    let first = world.carrier.calls()[0].clone();
    // It is over, and called again at once.
    world.run("update call_attempts set status = 'ended', outcome = 'busy'").await;
    world.run("update call_queue set status = 'queued'").await;
    assert_eq!(world.step("node-1", after(10)).await, Step::Asked);
    // Somebody else's, later.
    world.carrier.set_clock(after(20));
    world.carrier.add_foreign(THEIRS, OWN);
    let other = world.dialer("node-2");
    assert_eq!(other.reconcile(after(41)).await.unwrap(), Found { placed: 1, ..Found::default() });
    let second = world.carrier.calls()[1].sid.clone();
    let attempts = world.attempts().await;
    assert_eq!(attempts[0].2, Some(first.sid));
    assert_eq!(attempts[1], ("placed".into(), None, Some(second)));
    assert_eq!((world.carrier.requests(), world.row(row).await.attempts), (2, 2));
}

#[tokio::test]
async fn a_try_that_cannot_be_looked_for_keeps_no_other_from_being_found() {
    let world = World::new().await;
    for (number, seconds) in [(THEIRS, 0), ("+14155550199", 5)] {
        world.enqueue(number).await;
        world.carrier.will([Behaviour::LoseAnswer]);
        assert_eq!(world.step("node-1", after(seconds)).await, Step::Asked);
    }
    world
        .run(&format!(
            "create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$;
             create trigger refuse before update on call_attempts for each row
             when (new.status = 'placed' and new.to_number = '{THEIRS}') execute function refuse()"
        ))
        .await;
    let dialer = world.dialer("node-2");
    assert_eq!(dialer.reconcile(after(41)).await.unwrap(), Found { placed: 1, ..Found::default() });
    let statuses =
        async || -> Vec<String> { world.attempts().await.into_iter().map(|(status, ..)| status).collect() };
    assert_eq!(statuses().await, ["dialing", "placed"]);
    world.run("drop trigger refuse on call_attempts").await;
    assert_eq!(dialer.reconcile(after(61)).await.unwrap(), Found { placed: 1, ..Found::default() });
    assert_eq!(statuses().await, ["placed", "placed"]);
}

#[tokio::test]
async fn a_call_of_a_try_that_is_not_on_record_any_more_does_not_hide_the_one_that_is_looked_for() {
    let world = World::new().await;
    world.enqueue(THEIRS).await;
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    // What is known of the call stays.
    world.run("delete from call_attempts").await;
    world.run("delete from call_queue").await;
    world.enqueue(THEIRS).await;
    world.carrier.will([Behaviour::LoseAnswer]);
    assert_eq!(world.step("node-1", after(10)).await, Step::Asked);
    let dialer = world.dialer("node-2");
    assert_eq!(dialer.reconcile(after(41)).await.unwrap(), Found { placed: 1, ..Found::default() });
    let second = world.carrier.calls()[1].sid.clone();
    assert_eq!(world.attempts().await, [("placed".into(), None, Some(second))]);
}

#[tokio::test]
async fn a_try_whose_call_is_on_record_and_that_does_not_say_so_is_given_that_call_and_not_made_again() {
    let world = World::new().await;
    let row = world.enqueue(THEIRS).await;
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    // What follows from the record could not be written.
    world.run("update call_attempts set status = 'dialing', call_sid = null, placed_at = null").await;
    world.carrier.set_clock(after(20));
    world.carrier.add_foreign(THEIRS, OWN);
    let dialer = world.dialer("node-2");
    assert_eq!(dialer.reconcile(after(41)).await.unwrap(), Found { placed: 1, ..Found::default() });
    assert_eq!(dialer.reconcile(after(91)).await.unwrap(), Found::default());
    let own = world.carrier.calls()[0].sid.clone();
    assert_eq!(world.attempts().await, [("placed".into(), None, Some(own))]);
    assert_eq!((world.row(row).await.status.as_str(), world.carrier.requests()), ("processing", 1));
}

#[tokio::test]
async fn an_error_of_the_carrier_is_never_answered_by_asking_again() {
    let world = World::new().await;
    world.enqueue(THEIRS).await;
    world.carrier.will([Behaviour::Refuse(500, 20500)]);
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    for seconds in [2, 31, 60, 89] {
        world.dialer("node-1").reconcile(after(seconds)).await.unwrap();
        assert_eq!(world.step("node-1", after(seconds)).await, Step::Idle);
    }
    assert_eq!((world.carrier.requests(), world.attempts().await[0].0.as_str()), (1, "dialing"));
}

#[tokio::test]
async fn a_carrier_in_trouble_is_left_alone_for_longer_each_time() {
    let world = World::new().await;
    for number in 0..6 {
        world.enqueue(&format!("+1415555013{number}")).await;
    }
    let dialer = world.dialer("node-1");
    let mut now = noon();
    for times in 0..5 {
        world.carrier.will([if times % 2 == 0 {
            Behaviour::Refuse(503, 20503)
        } else {
            Behaviour::LoseAnswer
        }]);
        assert_eq!(dialer.step(now).await.unwrap(), Step::Asked);
        let Step::Later { at: next, .. } = world.dialer("node-2").step(now).await.unwrap() else {
            panic!("{times}")
        };
        let least = jiff::SignedDuration::from_millis(500 * (1 << times));
        assert!(next.duration_since(now) >= least, "{times}: {next}");
        now = next;
    }
    assert_eq!(world.count("call_attempts where status = 'dialing'").await, 5, "each may be a call");
}

#[tokio::test]
async fn a_call_whose_end_nobody_told_is_looked_up() {
    let world = World::new().await;
    world.enqueue(THEIRS).await;
    world.step("node-1", noon()).await;
    let sid = world.carrier.calls()[0].sid.clone();
    let dialer = world.dialer("node-1");
    world.carrier.set_status(&sid, "completed");
    assert_eq!(dialer.reconcile(after(600)).await.unwrap(), Found::default(), "it may still ring");
    assert_eq!(dialer.reconcile(after(700)).await.unwrap(), Found { over: 1, ..Found::default() });
    let status: String = sqlx::query_scalar("select call_status from call_events where call_sid = $1")
        .bind(&sid)
        .fetch_one(world.store.pool())
        .await
        .unwrap();
    assert_eq!(status, "completed");
}
