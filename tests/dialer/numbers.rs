//! What is counted of the dialing.

use std::time::Duration;

use voicebridge::dialer::Step;

use crate::carrier::Behaviour;
use crate::{THEIRS, World, after, noon};

#[tokio::test]
async fn every_request_is_counted_by_its_outcome_and_every_error_of_the_carrier_by_its_status() {
    let world = World::new().await;
    let behaviours = [
        Behaviour::Place,
        Behaviour::Refuse(429, 20429),
        Behaviour::Refuse(503, 20503),
        Behaviour::LoseAnswer,
        Behaviour::Refuse(400, 21212),
        Behaviour::Refuse(400, 21211),
        Behaviour::Refuse(401, 20003),
    ];
    for (number, behaviour) in behaviours.into_iter().enumerate() {
        world.enqueue(&format!("+1415555013{number}")).await;
        world.carrier.will([behaviour]);
        assert_eq!(world.step("node-1", after(60 * i64::try_from(number).unwrap())).await, Step::Asked);
        world.run("delete from call_queue where status = 'queued'").await;
    }
    // Held up since it took the try.
    world.enqueue(THEIRS).await;
    let dialer = world.dialer("node-1");
    let claimed = dialer.claim(Some(after(4000))).await.unwrap().unwrap();
    let taken_at = tokio::time::Instant::now().checked_sub(Duration::from_secs(16)).unwrap();
    dialer.place(&claimed, taken_at).await.unwrap();

    let text = world.metrics.encode();
    for (outcome, count) in [
        ("requests_total{outcome=\"placed\"}", 1),
        ("requests_total{outcome=\"not_now\"}", 1),
        ("requests_total{outcome=\"account\"}", 1),
        ("requests_total{outcome=\"own_number\"}", 1),
        ("requests_total{outcome=\"refused\"}", 1),
        ("requests_total{outcome=\"unknown\"}", 2),
        ("requests_total{outcome=\"not_asked\"}", 1),
        ("carrier_errors_total{status=\"429\"}", 1),
        ("carrier_errors_total{status=\"4xx\"}", 3),
        ("carrier_errors_total{status=\"5xx\"}", 1),
        ("carrier_errors_total{status=\"none\"}", 1),
        ("requests_open", 0),
        ("wait_seconds_count", 8),
    ] {
        let line = format!("voicebridge_dial_{outcome} {count}");
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
}

#[tokio::test]
async fn how_many_calls_go_on_how_long_they_waited_and_whether_nobody_asks_can_be_seen() {
    let world = World::new().await;
    world.enqueue(THEIRS).await;
    world.enqueue("+14155550124").await;
    world.enqueue("+14155550125").await;
    let is = |name: &str, value: i64| {
        let (line, text) = (format!("voicebridge_dial_{name} {value}"), world.metrics.encode());
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    };
    world.step("node-1", noon()).await;
    is("calls", 1);
    is("wait_seconds_bucket{le=\"0.5\"}", 1);
    world.carrier.will([Behaviour::Refuse(429, 20429)]);
    world.step("node-1", after(100)).await;
    is("backing_off", 0);
    is("wait_seconds_bucket{le=\"300.0\"}", 2);
    is("wait_seconds_bucket{le=\"60.0\"}", 1);
    world.run("update dial_pace set next_at = next_at + interval '1 minute'").await;
    assert!(matches!(world.step("node-2", after(101)).await, Step::Later { .. }));
    is("backing_off", 1);
    assert_eq!(world.step("node-2", after(200)).await, Step::Asked);
    is("backing_off", 0);
    is("calls", 2);
}
