//! What is told of a call, and to whom.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use voicebridge::app::retention::run_now;
use voicebridge::call::end::EndReason;
use voicebridge::ids::{CallSid, PhoneNumber};
use voicebridge::lifecycle::report::END_OF_CALL;
use voicebridge::lifecycle::{self, CallEvent};
use voicebridge::store::call_events::CarrierEvent;
use voicebridge::store::leads::{self, NewLead};
use voicebridge::store::reports::{Received, Report};
use voicebridge::store::webhooks::{self, EndpointPatch, work};

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
async fn of_a_type_that_is_added_is_told_what_happens_from_then_on_and_of_the_others_as_before() {
    let town = Town::new().await;
    let listener = town.listener("https://example.com/", &["call.started"]).await;
    town.http.execute("update webhook_endpoints set listens_since = now() - interval '1 day'").await;
    let listen_to = async |events: &[&str]| {
        let events = events.iter().map(|event| (*event).to_owned()).collect();
        let patch = EndpointPatch { events: Some(events), ..EndpointPatch::default() };
        webhooks::update(town.store(), town.organization(), listener.id, &patch).await.unwrap().unwrap()
    };
    listen_to(&["call.started", "call.completed"]).await;
    let long_ago = Timestamp::now().checked_sub(SignedDuration::from_hours(1)).unwrap();
    let call = async |sid: &str, at| {
        let call = town.call(sid);
        town.record(&call, at, &incoming()).await;
        town.record(&call, at, &ended(EndReason::AgentEnded)).await;
    };
    call("CA1", long_ago).await;
    call("CA2", Timestamp::now()).await;
    let kinds = async || town.written().await.into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
    assert_eq!(kinds().await, ["call.started", "call.started", "call.completed"]);
    // Since when each is told stays as it is, whatever else is changed, wherever it stands.
    town.http
        .execute("update webhook_endpoints set events_since[2] = now() - interval '2 hours'; delete from webhook_deliveries")
        .await;
    listen_to(&["call.completed", "lead.linked"]).await;
    let patch = EndpointPatch { include_transcript: Some(true), ..EndpointPatch::default() };
    webhooks::update(town.store(), town.organization(), listener.id, &patch).await.unwrap();
    call("CA3", long_ago).await;
    assert_eq!(kinds().await, ["call.completed"]);
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
async fn the_end_is_held_back_with_what_was_said_where_only_the_carrier_has_told_of_it() {
    let town = Town::new().await;
    town.listener("https://example.com/", &[]).await;
    let now = Timestamp::now();
    town.say("CA1", 1, "user", "Hello.").await;
    town.record(&town.call("CA1"), now, &incoming()).await;
    town.carrier_ends("CA1", now).await;
    let held_back = async || -> Vec<(String, i32)> {
        let sql = "select event_type, extract(epoch from due_at - now())::integer from webhook_deliveries
                   where status = 'pending' order by position";
        sqlx::query_as(sql).fetch_all(town.store().pool()).await.unwrap()
    };
    let told = held_back().await;
    let [(began, ..=0), (over, 50..=60), (said, 50..=60)] = &told[..] else { panic!("{told:?}") };
    assert_eq!([began, over, said], ["call.started", "call.failed", "transcript.completed"]);
    // Also when the way is free: more may become known.
    assert_eq!(town.deliver_what_is_due().await, ["call.started"]);
    let told = held_back().await;
    assert!(matches!(&told[..], [(_, 50..=60), (_, 50..=60)]), "{told:?}");
    // Nobody else tells.
    town.http
        .execute("update webhook_deliveries set held_until = now(), due_at = now() where status = 'pending'")
        .await;
    assert_eq!(town.deliver_what_is_due().await, ["call.failed", "transcript.completed"]);
}

#[tokio::test]
async fn a_server_knows_for_how_long_nothing_is_due() {
    let town = Town::new().await;
    let due_in = async || work::due_in(town.store()).await.unwrap().map(|wait| wait.as_secs());
    let endpoint = town.listener("https://example.com/", &[]).await.id;
    assert_eq!(due_in().await, None, "nothing waits");
    let now = Timestamp::now();
    town.record(&town.call("CA1"), now, &incoming()).await;
    town.carrier_ends("CA1", now).await;
    assert_eq!(due_in().await, Some(0));
    assert_eq!(town.deliver_what_is_due().await, ["call.started"]);
    let held_back = due_in().await;
    assert!(matches!(held_back, Some(50..=60)), "{held_back:?}");
    town.http.execute("update webhook_deliveries set due_at = now() where event_type = 'call.failed'").await;
    assert_eq!(due_in().await, Some(0), "what is due first counts");
    let other = town.listener("https://example.com/other", &[]).await.id;
    assert_eq!(due_in().await, Some(0), "where nothing waits is not counted");
    for id in [endpoint, other] {
        sqlx::query("update webhook_endpoints set enabled = false, disabled_at = now() where id = $1")
            .bind(id)
            .execute(town.store().pool())
            .await
            .unwrap();
    }
    assert_eq!(due_in().await, None, "nothing is sent there");
}

#[tokio::test]
async fn an_end_that_vapi_may_know_more_about_is_held_back_longer() {
    let town = Town::new().await;
    town.listener("https://example.com/", &["call.failed"]).await;
    town.http.execute("update agents set vapi_assistant_id = 'asst_1' where is_default").await;
    let now = Timestamp::now();
    town.record(&town.call("CA1"), now, &incoming()).await;
    town.carrier_ends("CA1", now).await;
    let sql = "select extract(epoch from due_at - now())::integer from webhook_deliveries";
    let wait: i32 = town.http.scalar(sql).await;
    assert!((280..=300).contains(&wait), "{wait} s");
}

/// Who tells of the end of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Teller {
    Carrier,
    /// That it failed.
    Vapi,
    /// That it did not, after all.
    VapiAgain,
}

impl Town {
    async fn carrier_ends(&self, sid: &str, at: Timestamp) {
        let last_word = carrier_says(sid, "completed", 3, at);
        lifecycle::callback::record(self.store(), &last_word, at).await.unwrap();
    }

    async fn vapi_ends(&self, sid: &str, at: Timestamp, reported_at: Timestamp, status: &str) {
        let data = json!({
            "type": END_OF_CALL,
            "call": {"status": status, "duration": 60, "reportedBy": "vapi"},
        });
        let text = data.to_string();
        let report = Report {
            vapi_call_id: None,
            call_sid: Some(CallSid::parse(sid).unwrap()),
            assistant_id: Some("asst_1".to_owned()),
            reported_at,
            started_at: at,
            ended_at: at,
            our_number: None,
            reason: None,
            received: Received {
                length: text.len().try_into().unwrap(),
                sha256: Sha256::digest(text).into(),
            },
            data,
            turns: Vec::new(),
        };
        lifecycle::report::record(self.store(), self.organization(), &report).await.unwrap();
    }
}

/// What an endpoint has been told or is to be told about the end: type, id, and whether it is held back.
async fn ends(town: &Town, endpoint: uuid::Uuid, sid: &str) -> Vec<(String, String, bool)> {
    sqlx::query_as(
        "select event_type, event_id, held_until is not null from webhook_deliveries
         where endpoint_id = $1 and call_sid = $2 and event_type in ('call.completed', 'call.failed')",
    )
    .bind(endpoint)
    .bind(sid)
    .fetch_all(town.store().pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn one_end_of_a_call_is_told_whoever_tells_of_it_and_in_whatever_order() {
    use Teller::{Carrier, Vapi, VapiAgain};
    let town = Town::new().await;
    town.http.execute("update agents set vapi_assistant_id = 'asst_1' where is_default").await;
    let all = town.listener("https://example.com/all", &[]).await;
    let failures = town.listener("https://example.com/failures", &["call.failed"]).await;
    let successes = town.listener("https://example.com/successes", &["call.completed"]).await;
    let orders = [
        [Carrier, Vapi, VapiAgain],
        [Carrier, VapiAgain, Vapi],
        [Vapi, Carrier, VapiAgain],
        [Vapi, VapiAgain, Carrier],
        [VapiAgain, Carrier, Vapi],
        [VapiAgain, Vapi, Carrier],
    ];
    let now = Timestamp::now();
    let later = now.checked_add(SignedDuration::from_secs(5)).unwrap();
    for (order, number) in orders.iter().zip(0..) {
        for is_sent_between in [false, true] {
            let sid = format!("CA{number}{is_sent_between}");
            town.record(&town.call(&sid), now, &incoming()).await;
            let mut told = Vec::new();
            for teller in order {
                match teller {
                    Carrier => town.carrier_ends(&sid, now).await,
                    Vapi => town.vapi_ends(&sid, now, now, "failed").await,
                    VapiAgain => town.vapi_ends(&sid, now, later, "completed").await,
                }
                if is_sent_between {
                    told.extend(town.deliver_what_is_due().await);
                }
                let is_held_back = ends(&town, all.id, &sid).await.iter().any(|(.., held)| *held);
                let only_carrier = *teller == Carrier && order[0] == Carrier;
                assert_eq!(is_held_back, only_carrier, "{order:?}, {teller:?}");
            }
            told.extend(town.deliver_what_is_due().await);
            let first_to_know = order.iter().find(|teller| **teller != Carrier);
            let expected = match first_to_know {
                Some(Vapi) if is_sent_between => "call.failed",
                _ => "call.completed",
            };
            let at_all = ends(&town, all.id, &sid).await;
            let [(kind, id, false)] = &at_all[..] else { panic!("{order:?}: {at_all:?}") };
            assert_eq!(kind, expected, "{order:?}, {is_sent_between}");
            told.retain(|kind| kind != "call.started");
            let of_one = if is_sent_between && expected == "call.failed" {
                // Who listens to successes only is told when it turns out to be one.
                vec!["call.failed", "call.failed", "call.completed"]
            } else {
                vec!["call.completed", "call.completed"]
            };
            assert_eq!(told, of_one, "{order:?}, {is_sent_between}");
            for (endpoint, own) in [(failures.id, "call.failed"), (successes.id, "call.completed")] {
                for (kind, same, _) in ends(&town, endpoint, &sid).await {
                    assert_eq!((kind.as_str(), &same), (own, id), "{order:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_becomes_known_while_the_end_is_held_back_is_told_before_it() {
    let town = Town::new().await;
    town.http.execute("update agents set vapi_assistant_id = 'asst_1' where is_default").await;
    town.listener("https://example.com/", &[]).await;
    let now = Timestamp::now();
    let (call, lead) = (town.call("CA1"), town.lead().await);
    town.say("CA1", 1, "user", "Hello.").await;
    town.record(&call, now, &incoming()).await;
    town.carrier_ends("CA1", now).await;
    assert_eq!(town.deliver_what_is_due().await, ["call.started"]);
    leads::link_call(town.store(), town.organization(), lead, &call.call_sid).await.unwrap();
    for event in &handed_over()[..2] {
        town.record(&call, now, event).await;
    }
    assert_eq!(town.deliver_what_is_due().await, ["lead.linked", "call.transferred"]);
    town.http
        .execute("update webhook_deliveries set held_until = now(), due_at = now() where status = 'pending'")
        .await;
    let [end, said] = &town.deliver_what_is_due().await[..] else { panic!("two are left") };
    assert!(end == "call.completed" || end == "call.failed", "{end}");
    assert_eq!(said, "transcript.completed");
}

#[tokio::test]
async fn an_end_that_becomes_known_while_another_event_is_settled_is_the_one_that_is_told() {
    let town = Town::new().await;
    town.http.execute("update agents set vapi_assistant_id = 'asst_1' where is_default").await;
    let listener =
        town.listener("https://example.com/", &["call.started", "call.completed", "call.failed"]).await;
    let now = Timestamp::now();
    town.record(&town.call("CA1"), now, &incoming()).await;
    town.carrier_ends("CA1", now).await;
    let first = work::claim(town.store(), 1).await.unwrap().remove(0);
    // Somebody changes the endpoint meanwhile, and takes their time: what came of the first event is half on record.
    let mut slow = town.store().pool().begin().await.unwrap();
    sqlx::query("select from webhook_endpoints where id = $1 for no key update")
        .bind(listener.id)
        .execute(&mut *slow)
        .await
        .unwrap();
    let settle = async {
        let outcome = work::Outcome::Delivered;
        work::settle(town.store(), &first, &taken(), outcome).await.unwrap();
    };
    let tell = async {
        town.until(SOMEBODY_WAITS).await;
        town.vapi_ends("CA1", now, now, "completed").await;
        slow.rollback().await.unwrap();
    };
    tokio::join!(settle, tell);
    assert_eq!(town.deliver_what_is_due().await, ["call.completed"]);
}

#[tokio::test]
async fn who_says_when_an_event_is_due_is_waited_for_by_who_knows_more_of_it() {
    let town = Town::new().await;
    town.http.execute("update agents set vapi_assistant_id = 'asst_1' where is_default").await;
    town.listener("https://example.com/", &["call.completed", "call.failed"]).await;
    let now = Timestamp::now();
    town.record(&town.call("CA1"), now, &incoming()).await;
    town.carrier_ends("CA1", now).await;
    let mut moment = town.store().pool().begin().await.unwrap();
    sqlx::query("update webhook_deliveries set due_at = now(), held_until = null")
        .execute(&mut *moment)
        .await
        .unwrap();
    let release = async {
        town.until(SOMEBODY_WAITS).await;
        moment.commit().await.unwrap();
    };
    tokio::join!(town.vapi_ends("CA1", now, now, "completed"), release);
    assert_eq!(town.deliver_what_is_due().await, ["call.completed"]);
}

#[tokio::test]
async fn what_cannot_be_said_because_somebody_takes_their_time_is_said_when_they_are_done() {
    let town = Town::new().await;
    town.http.execute("update agents set vapi_assistant_id = 'asst_1' where is_default").await;
    town.listener("https://example.com/", &["call.completed", "call.failed"]).await;
    let now = Timestamp::now();
    town.record(&town.call("CA1"), now, &incoming()).await;
    town.carrier_ends("CA1", now).await;
    let mut slow = town.store().pool().begin().await.unwrap();
    sqlx::query("update webhook_deliveries set due_at = now(), held_until = null")
        .execute(&mut *slow)
        .await
        .unwrap();
    town.vapi_ends("CA1", now, now, "completed").await;
    assert_eq!(
        town.http.scalar::<String>("select status from call_logs").await,
        "completed",
        "the call goes on"
    );
    slow.commit().await.unwrap();
    assert_eq!(lifecycle::finish(town.store(), 10).await.unwrap(), 1);
    assert_eq!(town.deliver_what_is_due().await, ["call.completed"]);
    assert_eq!(lifecycle::finish(town.store(), 10).await.unwrap(), 0);
}

/// Whether a transaction waits for another one of this database.
const SOMEBODY_WAITS: &str = "select exists (
    select
    from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock'
)";

#[tokio::test]
async fn what_retention_has_emptied_is_not_told_again_and_cannot_be_sent_again() {
    let town = Town::new().await;
    let listener = town.listener("https://example.com/", &[]).await;
    let events = ["call.started", "call.completed", "transcript.completed"];
    town.say("CA1", 1, "user", "Hello.").await;
    town.whole_call("CA1").await;
    // The conversation waits, and is given up.
    let started = work::claim(town.store(), 1).await.unwrap().remove(0);
    work::settle(town.store(), &started, &taken(), work::Outcome::Delivered).await.unwrap();
    let end = work::claim(town.store(), 1).await.unwrap().remove(0);
    work::settle(town.store(), &end, &taken(), work::Outcome::Dead).await.unwrap();
    town.http
        .execute(
            "update webhook_deliveries set created_at = now() - interval '3 days';
             insert into retention_policies (organization_id, transcript_days, payload_days, confirmed_at)
             select id, 2, 2, now() from organisations",
        )
        .await;
    run_now(town.store(), town.organization(), |_| {}).await.unwrap().unwrap();
    let kept = "select count(*) from webhook_deliveries where body::text = '{}' and status <> 'pending' and lease is null";
    assert_eq!(town.http.scalar::<i64>(kept).await, 3);
    assert_eq!(town.http.count("webhook_attempts").await, 0, "what receivers have answered goes as well");

    lifecycle::finish(town.store(), 10).await.unwrap();
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    town.say("CA1", 2, "assistant", "Good bye.").await;
    lifecycle::finish(town.store(), 10).await.unwrap();
    let kinds: Vec<_> = town.written().await.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, events);
    assert_eq!(town.deliver_what_is_due().await, Vec::<String>::new());

    let list = town.http.get("/api/webhook-deliveries").await.json();
    assert_eq!(list["pagination"]["total"], 3);
    for row in list["data"].as_array().unwrap() {
        let path = format!("/api/webhook-deliveries/{}", text(&row["id"]));
        let one = town.http.get(&path).await.data();
        assert_eq!((&one["body"], &one["requests"]), (&json!({}), &json!([])));
        let again = town.http.post(&format!("{path}/replay"), Value::Null).await;
        again.is_error(409, "delivery_emptied");
    }
    let all = format!("/api/webhook-endpoints/{}/replay-dead", listener.id);
    assert!(town.http.post(&all, Value::Null).await.status.is_success());
    assert_eq!(town.deliver_what_is_due().await, Vec::<String>::new());
}

/// A request that the receiver took.
fn taken() -> work::Request {
    work::Request {
        at: Timestamp::now(),
        took: std::time::Duration::ZERO,
        status_code: Some(204),
        error: None,
        response: None,
    }
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
