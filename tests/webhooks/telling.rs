//! What is told of a call, and to whom.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use voicebridge::call::end::EndReason;
use voicebridge::ids::{CallSid, PhoneNumber};
use voicebridge::lifecycle::{self, CallEvent};
use voicebridge::store::call_events::CarrierEvent;
use voicebridge::store::leads::{self, NewLead};
use voicebridge::store::webhooks::{self, EndpointPatch};

use crate::receiver::Receiver;
use crate::{CALLER, TOKEN, Town, distinct, ended, incoming, text};

fn handed_over() -> [CallEvent; 3] {
    let (reason, summary) = ("wants a person".to_owned(), "asked about an invoice".to_owned());
    [
        CallEvent::Transferred { token: TOKEN, to: None, reason, summary },
        CallEvent::HandoffAnswered { handoff: 1, member: None, leg: None },
        CallEvent::HandoffEnded {
            handoff: 1,
            dial_status: "completed".to_owned(),
            leg: None,
            duration_s: Some(60),
        },
    ]
}

fn carrier_says(sid: &str, status: &str, sequence: u32, at: Timestamp) -> CarrierEvent {
    CarrierEvent {
        organization: None,
        call_sid: CallSid::parse(sid).unwrap(),
        call_status: Some(status.to_owned()),
        to: None,
        from: None,
        direction: None,
        duration_s: None,
        sequence_number: Some(sequence),
        event_time: Some(at),
        sip_response_code: None,
        answered_by: None,
        payload: json!({}),
    }
}

impl Town {
    async fn lead(&self) -> i64 {
        let new = NewLead {
            name: "Ada".to_owned(),
            phone: PhoneNumber::parse(CALLER).unwrap(),
            email: None,
            lead_status: None,
            notes: String::new(),
            score: None,
            time_zone: None,
        };
        leads::create(self.store(), self.organization(), &new).await.unwrap().id
    }
}

#[tokio::test]
async fn a_call_is_told_from_its_start_to_what_was_said_each_event_once_and_signed() {
    let (town, receiver) = (Town::new().await, Receiver::new().await);
    let listener = town.listener(&receiver.url, &[]).await;
    let sending = town.sender();
    let (call, lead) = (town.call("CA1"), town.lead().await);
    town.record(&call, Timestamp::now(), &incoming()).await;
    leads::link_call(town.store(), town.organization(), lead, &call.call_sid).await.unwrap();
    for event in handed_over() {
        town.record(&call, Timestamp::now(), &event).await;
    }
    town.say("CA1", 1, "assistant", "Good day.").await;
    town.say("CA1", 2, "user", "My invoice is wrong.").await;
    town.record(&call, Timestamp::now(), &ended(EndReason::Transferred)).await;
    let came = receiver.until(5).await;
    let kinds: Vec<_> = came.iter().map(|it| it.kind().to_owned()).collect();
    let told = ["call.started", "lead.linked", "call.transferred", "call.completed", "transcript.completed"];
    assert_eq!(kinds, told);
    distinct(came.iter().map(|it| it.id().to_owned()));
    for it in &came {
        assert_eq!(it.signatures_of(&listener.secret), 1);
        assert_eq!(it.header("content-type"), "application/json");
        assert_eq!(it.body["id"], it.id());
        assert_eq!(it.body["organization_id"], json!(town.organization().0));
        assert!(text(&it.body["timestamp"]).parse::<Timestamp>().is_ok());
        assert_eq!(it.body["data"]["call_sid"], "CA1");
        for secret in [CALLER, "invoice", "Good day", "wants a person"] {
            assert!(!it.raw.contains(secret), "{secret} leaves with {}", it.kind());
        }
    }
    let data = |kind: &str| {
        let event = came.iter().find(|it| it.kind() == kind);
        event.unwrap_or_else(|| panic!("no {kind}")).body["data"].clone()
    };
    assert_eq!(data("lead.linked")["lead_id"], lead);
    assert_eq!(data("call.transferred")["handoff"], 1);
    let over = data("call.completed");
    assert_eq!((&over["status"], &over["direction"]), (&json!("completed"), &json!("inbound")));
    assert_eq!((&over["duration"], &over["disconnect_reason"]), (&json!(90), &json!("transferred")));
    assert_eq!((&over["agent_id"], &over["lead_id"]), (&json!(call.agent.0), &json!(lead)));
    let said = data("transcript.completed");
    assert_eq!((&said["turn_count"], &said["turns"]), (&json!(2), &Value::Null));
    assert_eq!(said["links"]["transcript"], "/transcripts/CA1");

    // What is put on record again is told no more.
    lifecycle::finish(town.store(), 10).await.unwrap();
    town.record(&call, Timestamp::now(), &ended(EndReason::Transferred)).await;
    leads::unlink_call(town.store(), town.organization(), lead).await.unwrap();
    leads::link_call(town.store(), town.organization(), lead, &call.call_sid).await.unwrap();
    town.until_settled().await;
    sending.stop().await;
    assert_eq!(receiver.received().len(), 5);
}

#[tokio::test]
async fn facts_that_come_twice_and_in_any_order_make_the_same_events_each_once() {
    let town = Town::new().await;
    town.listener("https://example.com/", &[]).await;
    let now = Timestamp::now();
    let mut random = StdRng::seed_from_u64(7);
    let mut expected = None;
    for round in 0..8 {
        let sid = format!("CA{round}");
        let call = town.call(&sid);
        let mut facts: Vec<_> = [incoming()]
            .into_iter()
            .chain(handed_over())
            .chain([ended(EndReason::Transferred), incoming(), ended(EndReason::Transferred)])
            .zip(1..)
            .collect();
        for _ in 0..4 {
            facts.push(facts[random.random_range(0..facts.len())].clone());
        }
        if round > 0 {
            facts.shuffle(&mut random);
        }
        town.say(&sid, 1, "user", "Hello.").await;
        for (event, second) in facts {
            let at = now.checked_add(SignedDuration::from_secs(second)).unwrap();
            town.record(&call, at, &event).await;
            // Somebody else has the records say what follows, at the same time.
            let callback = carrier_says(&sid, "in-progress", 2, now);
            lifecycle::callback::record(town.store(), &callback, now).await.unwrap();
        }
        let sql = format!("select event_type from webhook_deliveries where call_sid = '{sid}'");
        let told: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(town.store().pool()).await.unwrap();
        let told = distinct(told).into_iter().collect::<BTreeSet<_>>();
        assert_eq!(told, *expected.get_or_insert(told.clone()), "round {round}");
    }
    assert_eq!(expected.unwrap().len(), 4);
    distinct(town.written().await.into_iter().map(|(_, id)| id));
}

#[tokio::test]
async fn the_same_event_has_the_same_id_at_each_endpoint() {
    let town = Town::new().await;
    for path in ["a", "b"] {
        town.listener(&format!("https://example.com/{path}"), &["call.completed"]).await;
    }
    town.whole_call("CA1").await;
    let written = town.written().await;
    assert_eq!(written.len(), 2);
    assert_eq!(written[0], written[1]);
}

#[tokio::test]
async fn what_was_said_goes_along_only_where_that_is_wanted() {
    let town = Town::new().await;
    let without = town.listener("https://example.com/a", &[]).await;
    let with = town.listener_with("https://example.com/b", &[], true).await;
    town.say("CA1", 1, "assistant", "Good day.").await;
    town.say("CA1", 2, "tool", "{}").await;
    town.say("CA1", 3, "user", "Hello.").await;
    town.whole_call("CA1").await;
    let turns = async |endpoint| {
        let sql = format!(
            "select body->'data' from webhook_deliveries
             where endpoint_id = '{endpoint}' and event_type = 'transcript.completed'"
        );
        let data: Value = town.http.scalar(&sql).await;
        assert_eq!(data["turn_count"], 2);
        data["turns"].clone()
    };
    assert_eq!(turns(without.id).await, Value::Null);
    let both = json!([{"role": "assistant", "content": "Good day."}, {"role": "user", "content": "Hello."}]);
    assert_eq!(turns(with.id).await, both);
}

#[tokio::test]
async fn an_endpoint_hears_what_it_listens_to_and_what_happens_while_it_does() {
    let town = Town::new().await;
    town.whole_call("CA0").await;
    assert_eq!(town.written().await, [], "nobody listens");
    let listener = town.listener("https://example.com/", &["call.failed"]).await;
    town.whole_call("CA1").await;
    assert_eq!(town.written().await, [], "it did not fail");
    let long_ago = Timestamp::now().checked_sub(SignedDuration::from_hours(1)).unwrap();
    let call = town.call("CA2");
    town.record(&call, long_ago, &incoming()).await;
    town.record(&call, long_ago, &ended(EndReason::ModelLost)).await;
    assert_eq!(town.written().await, [], "it was before");
    let enable = async |enabled| {
        let patch = EndpointPatch { enabled: Some(enabled), ..EndpointPatch::default() };
        webhooks::update(town.store(), town.organization(), listener.id, &patch).await.unwrap().unwrap()
    };
    let disabled = enable(false).await;
    assert!(!disabled.enabled && disabled.disabled_at.is_some() && disabled.disabled_reason.is_none());
    town.record(&town.call("CA3"), Timestamp::now(), &incoming()).await;
    town.record(&town.call("CA3"), Timestamp::now(), &ended(EndReason::ModelLost)).await;
    assert_eq!(town.written().await, [], "nothing is told there");
    enable(true).await;
    town.record(&town.call("CA4"), Timestamp::now(), &incoming()).await;
    town.record(&town.call("CA4"), Timestamp::now(), &ended(EndReason::ModelLost)).await;
    let kinds: Vec<_> = town.written().await.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["call.failed"]);
}

#[tokio::test]
async fn what_becomes_known_before_an_event_is_sent_is_told_with_it_and_not_after() {
    let (town, receiver) = (Town::new().await, Receiver::new().await);
    town.listener(&receiver.url, &["transcript.completed"]).await;
    town.say("CA1", 1, "user", "Hello.").await;
    town.whole_call("CA1").await;
    town.say("CA1", 2, "assistant", "Good bye.").await;
    lifecycle::finish(town.store(), 10).await.unwrap();
    let sending = town.sender();
    assert_eq!(receiver.until(1).await[0].body["data"]["turn_count"], 2);
    town.say("CA1", 3, "user", "Good bye.").await;
    lifecycle::finish(town.store(), 10).await.unwrap();
    town.until_settled().await;
    sending.stop().await;
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(
        town.http.scalar::<Value>("select body->'data'->'turn_count' from webhook_deliveries").await,
        2
    );
}

#[tokio::test]
async fn what_was_said_is_held_back_where_only_the_carrier_has_told_of_the_end() {
    let town = Town::new().await;
    town.listener("https://example.com/", &[]).await;
    let now = Timestamp::now();
    town.say("CA1", 1, "user", "Hello.").await;
    town.record(&town.call("CA1"), now, &incoming()).await;
    let last_word = carrier_says("CA1", "completed", 3, now);
    lifecycle::callback::record(town.store(), &last_word, now).await.unwrap();
    let held_back: Vec<(String, bool)> = sqlx::query_as(
        "select event_type, due_at > now() + interval '50 seconds' from webhook_deliveries order by position",
    )
    .fetch_all(town.store().pool())
    .await
    .unwrap();
    let [(_, false), (over, false), (said, true)] = &held_back[..] else { panic!("{held_back:?}") };
    assert!(over.starts_with("call.") && said == "transcript.completed");
}

#[tokio::test]
async fn a_fact_that_is_not_kept_is_not_told() {
    let town = Town::new().await;
    town.listener("https://example.com/", &[]).await;
    // Something else cannot be written with it.
    town.http
        .execute("alter table call_logs add constraint none check (status <> 'completed') not valid")
        .await;
    let call = town.call("CA1");
    town.record(&call, Timestamp::now(), &incoming()).await;
    town.record(&call, Timestamp::now(), &ended(EndReason::AgentEnded)).await;
    let kinds: Vec<_> = town.written().await.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["call.started"]);
}
