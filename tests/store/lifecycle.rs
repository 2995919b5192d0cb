//! Events of a call: each on record once, in any order, and never a step back.

use std::cell::Cell;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use voicebridge::call::end::{EndReason, NextStep};
use voicebridge::ids::StreamSid;
use voicebridge::lifecycle::{CallEvent, CallRef, Recorded, record};
use voicebridge::store::leases::{FencingToken, next_action};
use voicebridge::store::{Store, calls};

use crate::{default_agent, offer_from, other_tenant, sid, support};

const TOKEN: FencingToken = FencingToken(1);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_323_045 + seconds).unwrap()
}

fn ended(reason: EndReason) -> CallEvent {
    let report = json!({"turns": 4}).as_object().unwrap().clone();
    CallEvent::Ended { token: TOKEN, reason, duration: Duration::from_millis(61_400), report }
}

/// A whole call, in the order it happened.
fn whole_call() -> Vec<(Timestamp, CallEvent)> {
    vec![
        (
            at(0),
            CallEvent::Incoming {
                phone_number: None,
                from: "anonymous".into(),
                to: "+15005550000".into(),
                to_team: false,
            },
        ),
        (
            at(1),
            CallEvent::StreamStarted {
                stream_sid: StreamSid::parse("MZ1").unwrap(),
                node: "node-1".into(),
                token: TOKEN,
            },
        ),
        (at(2), CallEvent::Connected { token: TOKEN }),
        (
            at(60),
            CallEvent::Transferred {
                token: TOKEN,
                to: Some("+15005550009".into()),
                reason: "wants a person".into(),
                summary: "asked about an invoice".into(),
            },
        ),
        (at(62), ended(EndReason::Transferred)),
    ]
}

async fn call(store: &Store, number: u32) -> CallRef {
    let agent = default_agent(store).await;
    CallRef { call_sid: sid(number), organization: agent.organization_id, agent: agent.id }
}

async fn stored(store: &Store, call: &CallRef) -> calls::CallRecord {
    calls::by_call_sid(store, &call.call_sid).await.unwrap().expect("the call is on record")
}

fn types(events: &Value) -> Vec<&str> {
    events.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_call_is_told_from_its_arrival_to_its_end() {
    let store = support::store(2).await;
    let call = call(&store, 1).await;
    for (at, event) in whole_call() {
        assert_eq!(record(&store, &call, at, &event).await.unwrap(), Recorded::New);
    }
    let stored = stored(&store, &call).await;
    let report = json!({
        "turns": 4,
        "call": {
            "sid": sid(1), "status": "completed", "duration": 62, "endedReason": "transferred",
            "startedAt": "2026-01-02T03:04:05.6Z", "endedAt": "2026-01-02T03:05:07Z",
        },
    });
    assert_eq!(
        stored.event_sequence,
        json!([
            {"type": "incoming_call", "timestamp": "2026-01-02T03:04:05Z",
             "details": {"from": "anonymous", "to": "+15005550000"}},
            {"type": "stream_started", "timestamp": "2026-01-02T03:04:06Z",
             "details": {"stream_sid": "MZ1", "node": "node-1", "token": 1}},
            {"type": "connected", "timestamp": "2026-01-02T03:04:07Z", "details": {}},
            {"type": "transferred", "timestamp": "2026-01-02T03:05:05Z",
             "details": {"to": "+15005550009", "reason": "wants a person", "summary": "asked about an invoice", "token": 1}},
            {"type": "agent_call_completed", "timestamp": "2026-01-02T03:05:07Z", "details": report},
        ])
    );
    assert_eq!(stored.routing_status.as_deref(), Some("completed"));
    assert_eq!(stored.data, report);
}

#[tokio::test]
async fn a_call_in_which_something_failed_is_not_completed() {
    let store = support::store(2).await;
    let call = call(&store, 1).await;
    record(&store, &call, at(0), &ended(EndReason::ModelLost)).await.unwrap();
    let late = record(&store, &call, at(1), &ended(EndReason::AgentEnded)).await.unwrap();
    assert_eq!(late, Recorded::Known, "the first cause wins");
    let stored = stored(&store, &call).await;
    assert_eq!(types(&stored.event_sequence), ["call_failed"]);
    assert_eq!(stored.event_sequence[0]["details"], json!({"reason": "model_lost"}));
    assert_eq!(stored.routing_status.as_deref(), Some("direct_to_agent"));
    assert_eq!(stored.data["call"]["status"], "failed");
}

#[test]
fn events_may_come_twice_and_in_any_order() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (store, call) = runtime.block_on(async {
        let store = support::store(1).await;
        let call = call(&store, 1).await;
        (store, call)
    });
    let twice: Vec<_> = whole_call().into_iter().cycle().take(2 * whole_call().len()).collect();
    let number = Cell::new(0);
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&Just(twice).prop_shuffle(), |events| {
            number.set(number.get() + 1);
            let call = CallRef { call_sid: sid(number.get()), ..call.clone() };
            let stored = runtime.block_on(async {
                let mut recorded = 0;
                for (at, event) in &events {
                    let new = record(&store, &call, *at, event).await.unwrap() == Recorded::New;
                    recorded += usize::from(new);
                }
                assert_eq!(recorded, whole_call().len());
                stored(&store, &call).await
            });
            let expected =
                ["incoming_call", "stream_started", "connected", "transferred", "agent_call_completed"];
            prop_assert_eq!(types(&stored.event_sequence), expected);
            prop_assert_eq!(stored.routing_status.as_deref(), Some("completed"));
            prop_assert_eq!(&stored.data["call"]["status"], "completed");
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn an_event_that_many_record_at_once_is_on_record_once() {
    let store = support::store(8).await;
    let call = call(&store, 1).await;
    let mut recorders = tokio::task::JoinSet::new();
    for (at, event) in whole_call().into_iter().cycle().take(40) {
        let (store, call) = (store.clone(), call.clone());
        recorders.spawn(async move { record(&store, &call, at, &event).await.unwrap() });
    }
    let new = recorders.join_all().await.into_iter().filter(|recorded| *recorded == Recorded::New).count();
    assert_eq!(new, 5);
    assert_eq!(stored(&store, &call).await.event_sequence.as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn the_end_closes_the_lease_and_leaves_what_was_decided_before() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    for (number, decided) in [(1, None), (2, Some(EndReason::AgentEnded))] {
        let call = call(&store, number).await;
        let token = offer_from(&store, &agent, &call.call_sid, "anonymous").await;
        if let Some(reason) = decided {
            let step = reason.next_step();
            voicebridge::store::leases::set_next_action(&store, &call.call_sid, token, step, reason)
                .await
                .unwrap();
        }
        record(&store, &call, at(0), &ended(EndReason::StreamLost)).await.unwrap();
        let after = next_action(&store, &call.call_sid).await.unwrap().unwrap();
        let reason = decided.unwrap_or(EndReason::StreamLost);
        // The stream was lost, and the call is over all the same: there is nothing that could be resumed.
        assert_eq!(after.next_action, Some(decided.map_or(NextStep::Apologise, EndReason::next_step)));
        assert_eq!(after.disconnect_reason.as_deref(), Some(reason.as_str()));
        let closed: bool =
            sqlx::query_scalar("select ended_at is not null from call_leases where call_sid = $1")
                .bind(call.call_sid.as_str())
                .fetch_one(store.pool())
                .await
                .unwrap();
        assert!(closed);
    }
}

#[tokio::test]
async fn a_node_that_lost_the_call_records_nothing() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let call = call(&store, 1).await;
    offer_from(&store, &agent, &call.call_sid, "anonymous").await;
    offer_from(&store, &agent, &call.call_sid, "anonymous").await;
    for (at, event) in whole_call().into_iter().skip(1) {
        assert_eq!(record(&store, &call, at, &event).await.unwrap(), Recorded::Fenced, "{event:?}");
    }
    assert!(calls::by_call_sid(&store, &call.call_sid).await.unwrap().is_none());
    assert_eq!(next_action(&store, &call.call_sid).await.unwrap().unwrap().next_action, None);
}

#[tokio::test]
async fn a_call_of_another_organisation_is_left_alone() {
    let store = support::store(2).await;
    let ours = call(&store, 1).await;
    let (organization, agent) = other_tenant(&store).await;
    let (at, event) = whole_call().remove(0);
    record(&store, &ours, at, &event).await.unwrap();
    let theirs = CallRef { organization, agent, ..ours.clone() };
    assert_eq!(record(&store, &theirs, at, &ended(EndReason::AgentEnded)).await.unwrap(), Recorded::Known);
    assert_eq!(types(&stored(&store, &ours).await.event_sequence), ["incoming_call"]);
    assert_eq!(calls::organization_of(&store, &sid(1)).await.unwrap(), Some(ours.organization));
    assert_eq!(calls::organization_of(&store, &sid(2)).await.unwrap(), None);
}
