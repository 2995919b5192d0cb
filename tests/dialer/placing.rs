//! What becomes of a request, by its answer.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use serde_json::Value;
use voicebridge::dialer::Step;

use crate::carrier::{Behaviour, check_log};
use crate::{OWN, THEIRS, World, after, noon};

#[tokio::test]
async fn what_is_due_is_asked_for_once_and_on_record_as_the_call_it_became() {
    let world = World::new().await;
    let row = world.enqueue(THEIRS).await;
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    assert_eq!(world.step("node-1", after(60)).await, Step::Idle);

    let [call] = &world.carrier.calls()[..] else { panic!("one call") };
    assert_eq!((call.to.as_str(), call.from.as_str()), (THEIRS, OWN));
    let value = |name: &str| call.form.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let (agent, attempt) = (world.agent.id, call.attempt);
    let origin = "https://voice.example.com";
    assert_eq!(value("Url"), Some(format!("{origin}/api/agent/{agent}/call-incoming?attempt={attempt}")));
    assert_eq!(value("FallbackUrl"), value("Url"), "of several servers another one may answer");
    let status = format!("{origin}/api/twilio/call-status?attempt={attempt}");
    assert_eq!(value("StatusCallback"), Some(status.clone()));
    assert_eq!(value("AsyncAmdStatusCallback"), Some(format!("{status}&amd=1")));

    let queued = world.row(row).await;
    assert_eq!((queued.status.as_str(), queued.attempts), ("processing", 1));
    assert_eq!(world.attempts().await, [("placed".into(), None, Some(call.sid.clone()))]);
    let events: Value = sqlx::query_scalar("select event_sequence from calls where call_sid = $1")
        .bind(&call.sid)
        .fetch_one(world.store.pool())
        .await
        .unwrap();
    assert_eq!(events[0]["type"], "outbound_dispatched");
    assert_eq!(events[0]["details"]["attempt_id"], attempt.to_string());
}

#[tokio::test]
async fn three_servers_dial_each_row_once_and_together_no_faster_than_the_carrier_permits() {
    let world = World::new().await;
    for number in 0..12 {
        world.enqueue(&format!("+1415555{:04}", 200 + number)).await;
    }
    let dialers = ["node-1", "node-2", "node-3"].map(|node| world.dialer(node));
    for tenth in 0..300 {
        let now = noon() + SignedDuration::from_millis(100 * tenth);
        world.carrier.set_clock(now);
        let steps = futures_util::future::join_all(dialers.iter().map(|dialer| dialer.step(now))).await;
        let asked = steps.into_iter().filter(|step| *step.as_ref().unwrap() == Step::Asked).count();
        assert!(asked <= 1, "{asked} at once");
        if world.carrier.calls().len() == 12 {
            break;
        }
    }
    let calls = world.carrier.calls();
    check_log(&calls, SignedDuration::from_secs(1));
    let numbers: BTreeSet<_> = calls.iter().map(|call| call.to.clone()).collect();
    assert_eq!((numbers.len(), calls.len()), (12, 12));
}

#[tokio::test]
async fn a_carrier_without_time_is_given_some_and_the_try_does_not_count() {
    let world = World::new().await;
    let row = world.enqueue(THEIRS).await;
    world.carrier.will([Behaviour::Refuse(429, 20429)]);
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    let queued = world.row(row).await;
    assert_eq!((queued.status.as_str(), queued.attempts), ("queued", 0));
    assert!(queued.error.contains("too many requests"), "{}", queued.error);
    assert!(queued.next > after(5) && queued.next < after(8), "{}", queued.next);
    assert_eq!(world.attempts().await, []);
    // The others wait as well.
    world.enqueue("+14155550124").await;
    assert!(matches!(world.step("node-2", noon()).await, Step::Later { .. }));
    assert_eq!(world.step("node-2", after(2)).await, Step::Asked);
    assert_eq!(world.step("node-1", after(10)).await, Step::Asked);
    assert_eq!(world.row(row).await.attempts, 1);
    assert_eq!(world.carrier.calls().len(), 2);
}

#[tokio::test]
async fn a_wrong_token_costs_no_row_its_tries() {
    let world = World::new().await;
    let row = world.enqueue(THEIRS).await;
    world.carrier.will([Behaviour::Refuse(401, 20003)]);
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    let queued = world.row(row).await;
    assert_eq!((queued.status.as_str(), queued.attempts), ("queued", 0));
    assert!(queued.error.contains("TWILIO_AUTH_TOKEN"), "{}", queued.error);
    assert!(matches!(world.step("node-2", after(299)).await, Step::Later { .. }));
}

#[tokio::test]
async fn what_is_wrong_with_account_or_address_holds_up_all_calls_and_costs_no_row_its_tries() {
    for (status, code, told) in
        [(404, 20404, "TWILIO_ACCOUNT_SID"), (400, 21205, "PUBLIC_URL"), (400, 21609, "PUBLIC_URL")]
    {
        let world = World::new().await;
        let row = world.enqueue(THEIRS).await;
        world.carrier.will([Behaviour::Refuse(status, code)]);
        assert_eq!(world.step("node-1", noon()).await, Step::Asked);
        let queued = world.row(row).await;
        assert_eq!((queued.status.as_str(), queued.attempts), ("queued", 0), "{code}");
        assert!(queued.error.contains(told), "{code}: {}", queued.error);
        assert!(matches!(world.step("node-2", after(299)).await, Step::Later { .. }), "{code}");
    }
}

#[tokio::test]
async fn a_number_to_call_from_that_is_not_the_account_s_holds_up_no_other_and_is_asked_for_later() {
    for code in [21210, 21212, 21213, 21606] {
        let world = World::new().await;
        let row = world.enqueue(THEIRS).await;
        world.carrier.will([Behaviour::Refuse(400, code)]);
        assert_eq!(world.step("node-1", noon()).await, Step::Asked);
        let queued = world.row(row).await;
        assert_eq!((queued.status.as_str(), queued.attempts), ("queued", 0), "{code}");
        assert!(queued.next >= after(300) && queued.next < after(310), "{code}: {}", queued.next);
        assert!(queued.error.contains("check the phone number"), "{code}: {}", queued.error);
        let other = world.enqueue("+14155550124").await;
        assert_eq!(world.step("node-2", after(2)).await, Step::Asked);
        assert_eq!(world.row(other).await.status, "processing");
        assert_eq!(world.step("node-1", after(310)).await, Step::Asked);
    }
}

#[tokio::test]
async fn what_the_carrier_refuses_is_final_and_explained() {
    let world = World::new().await;
    let row = world.enqueue(THEIRS).await;
    world
        .run(
            "with i as (insert into interactions (id, organization_id) select 'i-1', id from organisations returning id)
             update call_queue set interaction_id = i.id from i",
        )
        .await;
    world.carrier.will([Behaviour::Refuse(400, 21211)]);
    assert_eq!(world.step("node-1", noon()).await, Step::Asked);
    let queued = world.row(row).await;
    assert_eq!((queued.status.as_str(), queued.attempts), ("failed", 1));
    assert_eq!(
        queued.error,
        "Twilio error 21211: the called number is not a telephone number that can be dialed; correct it"
    );
    assert_eq!(world.attempts().await, [("ended".into(), Some("failed".into()), None)]);
    assert_eq!(world.count("interactions where status = 'FAILED' and outcome = 'FAILED'").await, 1);
    assert_eq!(world.step("node-1", after(86_400)).await, Step::Idle);
    assert_eq!(world.carrier.requests(), 1);
}
