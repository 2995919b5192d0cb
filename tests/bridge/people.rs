//! What Twilio is told while people take a call over, and what is on record of it.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::AssertSqlSafe;
use voicebridge::call::end::EndReason;
use voicebridge::ids::CallSid;
use voicebridge::lifecycle::{self, CallEvent, CallRef};
use voicebridge::simulate::model::ModelOptions;
use voicebridge::store::calls;
use voicebridge::store::leases::{self, ClaimedCall, FencingToken};

use crate::line::{ENDED, TWIML};
use crate::world::World;

const SID: &str = "CA1";
const STATUS: &str = "/api/twilio/call-status";

/// A call whose agent has put the caller through, as far as its stream.
async fn put_through(world: &World, sid: &str) -> FencingToken {
    let twiml = world.webhook(TWIML, &[("CallSid", sid)]).await;
    let claimed = world.claim(&twiml).await.unwrap();
    let (token, organization, agent) = (claimed.fencing_token, claimed.organization, claimed.agent);
    let call_ref = CallRef { call_sid: call(sid), organization, agent };
    let (reason, summary) = ("Wants a refund".to_owned(), "Order 4711.".to_owned());
    let transferred = CallEvent::Transferred { token, to: None, reason, summary };
    let over = CallEvent::after_stream(token, EndReason::Transferred, Duration::from_secs(9), true);
    for event in [transferred, over] {
        lifecycle::record(&world.running.store, &call_ref, jiff::Timestamp::now(), &event).await.unwrap();
    }
    token
}

/// A team of three for the agent, the last of whom takes no calls.
const OFFICE: &str = "
    insert into teams (id, organization_id, name, ring_timeout_s)
    select '00000000-0000-0000-0000-00000000000a', organization_id, 'Office', 40 from agents;
    insert into team_members (id, organization_id, team_id, name, number, enabled, created_at)
    select ('00000000-0000-0000-0000-00000000000' || n)::uuid, organization_id,
           '00000000-0000-0000-0000-00000000000a', 'Member ' || n, '+1415555019' || n, n < 3,
           now() + make_interval(secs => n)
    from agents, generate_series(1, 3) as n;
    update agents set team_id = '00000000-0000-0000-0000-00000000000a'";

#[tokio::test]
async fn the_telephones_of_the_agents_team_ring_at_once_and_each_person_is_told_first() {
    let world = World::start(ModelOptions::default(), &[]).await;
    world.execute("update agents set transfer_number = '+14155550177'").await;
    world.execute(OFFICE).await;
    put_through(&world, "CA1").await;
    let twiml = world.webhook(ENDED, &[("CallSid", "CA1"), ("CallStatus", "in-progress")]).await;
    let again = world.webhook(ENDED, &[("CallSid", "CA1"), ("CallStatus", "in-progress")]).await;
    assert_eq!(twiml, again, "asked twice it is the same handoff");
    assert!(twiml.contains(r#"/twiml/handoff-ended/1" timeout="40" answerOnBridge="true""#), "{twiml}");
    for n in 1..=2 {
        let number = format!(
            r#"/twiml/whisper/CA1/1?member=00000000-0000-0000-0000-00000000000{n}">+1415555019{n}</Number>"#
        );
        assert!(twiml.contains(&number), "{twiml}");
    }
    assert!(!twiml.contains("+14155550193"), "somebody who takes no calls is not called: {twiml}");
    assert!(twiml.contains("<Say>One moment please, I am connecting you.</Say><Dial"), "told first: {twiml}");
    assert_eq!(
        world
            .value::<Value>(
                "select to_jsonb(step || ' ' || decision || ' ' || reason) from routing_decisions where step = 'handoff'"
            )
            .await,
        "handoff team transferred"
    );

    let whisper = "/twiml/whisper/CA1/1?member=00000000-0000-0000-0000-000000000002";
    let leg = [("CallSid", "CA7"), ("ParentCallSid", "CA1")];
    let said = world.webhook(whisper, &leg).await;
    let sentence =
        "<Say>A caller from the assistant. Wants a refund. Order 4711. Connecting you now.</Say></Response>";
    assert!(said.ends_with(sentence), "{said}");
    world.webhook(whisper, &leg).await;
    let answered = "select event->'details' from calls, jsonb_array_elements(event_sequence) as event
        where event->>'type' = 'handoff_answered'";
    let expected =
        json!({"handoff": 1, "member_id": "00000000-0000-0000-0000-000000000002", "call_sid": "CA7"});
    assert_eq!(world.value::<Value>(answered).await, expected);
    assert_eq!(world.rows("calls").await, 1, "the leg to the person is no call of its own");
    world.stop().await;
}

#[tokio::test]
async fn the_first_ten_of_a_team_ring_in_the_order_in_which_they_joined_it() {
    let world = World::start(ModelOptions::default(), &[]).await;
    world.execute(OFFICE).await;
    // Later ones have smaller numbers and ids.
    world
        .execute(
            "delete from team_members;
             insert into team_members (id, organization_id, team_id, name, number, created_at)
             select ('00000000-0000-0000-0000-0000000000' || 99 - n)::uuid, organization_id,
                    '00000000-0000-0000-0000-00000000000a', 'Member ' || n, '+141555501' || 99 - n,
                    now() + make_interval(secs => n)
             from agents, generate_series(1, 12) as n",
        )
        .await;
    put_through(&world, SID).await;
    let twiml = world.webhook(ENDED, &[("CallSid", SID), ("CallStatus", "in-progress")]).await;
    let rings: Vec<_> = twiml.split("\">+").skip(1).map(|rest| rest.split('<').next().unwrap()).collect();
    let expected: Vec<_> = (1..=10).map(|n| format!("141555501{}", 99 - n)).collect();
    assert_eq!(rings, expected, "the carrier takes no more: {twiml}");
    world.stop().await;
}

#[tokio::test]
async fn people_are_shown_who_called_or_on_a_call_that_we_made_our_own_number() {
    let world = World::start(ModelOptions::default(), &[]).await;
    world.execute("update agents set transfer_number = '+14155550177'").await;
    for (sid, direction, shown) in [
        ("CA1", "inbound", r#"answerOnBridge="true"><Number"#),
        ("CA2", "outbound-api", r#"answerOnBridge="true" callerId="+14155550101"><Number"#),
    ] {
        put_through(&world, sid).await;
        let numbers = [("From", "+14155550101"), ("To", "+14155550102"), ("Direction", direction)];
        let fields = [("CallSid", sid), ("CallStatus", "in-progress")].into_iter().chain(numbers);
        let twiml = world.webhook(ENDED, &fields.collect::<Vec<_>>()).await;
        assert!(twiml.contains(shown), "{direction}: {twiml}");
    }
    world.stop().await;
}

#[tokio::test]
async fn nothing_but_its_end_is_wanted_of_a_call_that_people_have_and_nobody_puts_it_through_twice() {
    let world = World::start(ModelOptions::default(), &[]).await;
    world.execute("update agents set transfer_number = '+14155550177'").await;
    put_through(&world, SID).await;
    let first = world.webhook(ENDED, &[("CallSid", SID), ("CallStatus", "in-progress")]).await;
    let state = async || world.get("/api/calls/live").await["data"][0]["state"].clone();
    assert_eq!(state().await, "with_people");
    for (command, body, code) in [
        // Nobody but the carrier can, and this server has no account with it.
        ("hang-up", json!({}), "carrier_not_configured"),
        ("transfer", json!({"to": "+14155550199"}), "call_with_people"),
        ("say", json!({"text": "Hello."}), "call_with_people"),
        ("inject", json!({"text": "A customer."}), "call_with_people"),
    ] {
        let (status, answer) = world.post(&format!("/api/calls/{SID}/{command}"), &body).await;
        assert_eq!((status, &answer["error"]["code"]), (409, &json!(code)), "{command}: {answer}");
    }
    assert_eq!(world.rows("call_commands").await, 0);
    let again = world.webhook(ENDED, &[("CallSid", SID), ("CallStatus", "in-progress")]).await;
    assert_eq!(
        (first, json!(1)),
        (again, world.value::<Value>("select to_jsonb(handoffs) from call_leases").await)
    );
    let fields = [("CallSid", SID), ("CallStatus", "in-progress"), ("DialCallStatus", "busy")];
    world.webhook("/twiml/handoff-ended/1", &fields).await;
    assert_eq!(state().await, "connecting", "back with the agent");
    world.stop().await;
}

#[tokio::test]
async fn who_is_called_for_an_agent_that_cannot_go_on_is_on_record_and_not_somebody_else() {
    let world = World::start(ModelOptions::default(), &[]).await;
    world.execute("update agents set transfer_number = '+14155550177'").await;
    let to = async |sid: &str| {
        let twiml = world.webhook(TWIML, &[("CallSid", sid)]).await;
        let claimed = world.claim(&twiml).await.unwrap();
        let (token, organization, agent) = (claimed.fencing_token, claimed.organization, claimed.agent);
        let over = CallEvent::after_stream(token, EndReason::ModelLost, Duration::from_secs(9), true);
        let call_ref = CallRef { call_sid: call(sid), organization, agent };
        lifecycle::record(&world.running.store, &call_ref, jiff::Timestamp::now(), &over).await.unwrap();
        let twiml = world.webhook(ENDED, &[("CallSid", sid), ("CallStatus", "in-progress")]).await;
        let to = "select event->'details'->'to' from calls, jsonb_array_elements(event_sequence) as event
            where event->>'type' = 'transferred' and call_sid = ";
        (twiml, world.value::<Value>(&format!("{to}'{sid}'")).await)
    };
    let (twiml, told) = to("CA1").await;
    assert!(twiml.contains(">+14155550177</Number>"), "{twiml}");
    assert_eq!(told, "+14155550177");
    world.execute(OFFICE).await;
    let (twiml, told) = to("CA2").await;
    assert!(twiml.contains("+14155550191") && !twiml.contains("+14155550177"), "{twiml}");
    assert_eq!(told, Value::Null, "a team is called, and nobody has answered yet");
    world.stop().await;
}

#[tokio::test]
async fn a_call_is_over_when_people_and_the_caller_have_spoken_and_their_part_counts() {
    let world = World::start(ModelOptions::default(), &[]).await;
    world.execute("update agents set transfer_number = '+14155550177'").await;
    put_through(&world, SID).await;
    world.webhook(ENDED, &[("CallSid", SID), ("CallStatus", "in-progress")]).await;
    assert_eq!(
        world.value::<Value>("select to_jsonb(call_is_live(call_sid)) from call_leases").await,
        json!(true)
    );
    world.execute("update call_streams set claimed_at = now() - interval '10 minutes'; update call_leases set claimed_at = now() - interval '10 minutes', offered_at = now() - interval '10 minutes', heartbeat_at = now() - interval '9 minutes', handed_over_at = now() - interval '9 minutes'").await;
    assert_eq!(
        world.value::<Value>("select to_jsonb(call_is_live(call_sid)) from call_leases").await,
        json!(true),
        "with people"
    );
    assert_eq!(leases::reap(&world.running.store, 10).await.unwrap(), [], "nobody has to show life for it");
    let fields = [
        ("CallSid", SID),
        ("CallStatus", "in-progress"),
        ("DialCallStatus", "completed"),
        ("DialCallSid", "CA7"),
        ("DialCallDuration", "530"),
    ];
    for _ in 0..2 {
        let twiml = world.webhook("/twiml/handoff-ended/1", &fields).await;
        assert!(twiml.ends_with("<Response><Hangup/></Response>"), "{twiml}");
    }
    let record = calls::by_call_sid(&world.running.store, &call(SID)).await.unwrap().unwrap();
    assert_eq!(
        (&record.data["call"]["status"], &record.data["call"]["endedReason"]),
        (&json!("completed"), &json!("transferred"))
    );
    assert!(record.data["call"]["duration"].as_u64().unwrap() >= 600, "{}", record.data);
    assert_eq!(
        world.events(SID).await,
        "incoming_call transferred stream_ended handoff_ended agent_call_completed"
    );
    let after = leases::next_action(&world.running.store, &call(SID)).await.unwrap().unwrap();
    assert!(after.ended && after.disconnect_reason.as_deref() == Some("transferred"), "{after:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_call_that_nobody_takes_over_goes_back_to_its_agent_on_another_stream() {
    let world = World::start(ModelOptions::default(), &[]).await;
    world.execute("update agents set transfer_number = '+14155550177'").await;
    for (n, status) in ["busy", "no-answer", "failed", "canceled"].into_iter().enumerate() {
        let sid = &format!("CA{n}");
        let first = put_through(&world, sid).await;
        world.webhook(ENDED, &[("CallSid", sid), ("CallStatus", "in-progress")]).await;
        let fields = [("CallSid", sid.as_str()), ("CallStatus", "in-progress"), ("DialCallStatus", status)];
        let token = world.webhook("/twiml/handoff-ended/1", &fields).await;
        let again = world.webhook("/twiml/handoff-ended/1", &fields).await;
        assert!(
            world.claim(&token).await.is_none(),
            "{status}: an answer that was lost is given again, with another secret"
        );
        let claimed = world.claim(&again).await.expect("the stream is expected");
        assert!(claimed.fencing_token > first, "{status}");
        assert_eq!((claimed.resumed_after, claimed.handoffs), (Some(EndReason::Transferred), 1), "{status}");
        let stale = CallEvent::after_stream(first, EndReason::AgentEnded, Duration::ZERO, true);
        let call_ref =
            CallRef { call_sid: call(sid), organization: claimed.organization, agent: claimed.agent };
        let late =
            lifecycle::record(&world.running.store, &call_ref, jiff::Timestamp::now(), &stale).await.unwrap();
        assert_eq!(late, calls::Recorded::Fenced, "{status}: the stream before has no say any more");
    }
    let decided = "select to_jsonb(count(*)) from routing_decisions where step = 'handoff_fallback' and decision = 'agent'";
    assert_eq!(world.value::<Value>(decided).await, json!(8));
    world.stop().await;
}

#[tokio::test]
async fn a_call_with_nobody_to_put_it_through_to_goes_back_to_its_agent_at_once() {
    let world = World::start(ModelOptions::default(), &[]).await;
    put_through(&world, SID).await;
    let token = world.webhook(ENDED, &[("CallSid", SID), ("CallStatus", "in-progress")]).await;
    let claimed = world.claim(&token).await.expect("the stream is expected");
    assert_eq!((claimed.resumed_after, claimed.handoffs), (Some(EndReason::Transferred), 1));
    let decided = "select to_jsonb(step || ' ' || decision || ' ' || reason) from routing_decisions where step = 'handoff'";
    assert_eq!(world.value::<Value>(decided).await, "handoff agent nobody_to_ring");
    world.stop().await;
}

#[tokio::test]
async fn handoffs_are_no_lost_streams() {
    let world = World::start(ModelOptions::default(), &[]).await;
    world.execute("update agents set transfer_number = '+14155550177'").await;
    let mut token = put_through(&world, SID).await;
    let store = &world.running.store;
    let comes_back = async |token, n: u8| {
        let next = leases::resume(store, &call(SID), token, &[n; 32]).await.unwrap()?;
        leases::claim(store, &[n; 32], "node").await.unwrap().expect("the stream is expected");
        Some(next)
    };
    for n in 1..=5 {
        assert_eq!(leases::hand_over(store, &call(SID), token).await.unwrap(), Some(n));
        token = comes_back(token, n as u8).await.expect("nobody has answered");
    }
    for n in 11..=13 {
        token = comes_back(token, n).await.expect("it may be lost as often as any");
    }
    assert_eq!(comes_back(token, 14).await, None);
    world.stop().await;
}

#[tokio::test]
async fn a_stream_that_does_not_come_after_a_handoff_is_not_offered_for_ever() {
    let world = World::start(ModelOptions::default(), &[]).await;
    let mut token = put_through(&world, SID).await;
    let store = &world.running.store;
    leases::hand_over(store, &call(SID), token).await.unwrap();
    for n in 1..=3 {
        token = leases::resume(store, &call(SID), token, &[n; 32]).await.unwrap().expect("it is offered");
    }
    assert_eq!(leases::resume(store, &call(SID), token, &[4; 32]).await.unwrap(), None);
    world.stop().await;
}

#[tokio::test]
async fn a_caller_who_does_not_wait_for_people_has_hung_up() {
    let world = World::start(ModelOptions::default(), &[]).await;
    world.execute("update agents set transfer_number = '+14155550177'").await;
    put_through(&world, "CA1").await;
    world.webhook(ENDED, &[("CallSid", "CA1"), ("CallStatus", "in-progress")]).await;
    let fields = [("CallSid", "CA1"), ("CallStatus", "completed"), ("DialCallStatus", "no-answer")];
    let twiml = world.webhook("/twiml/handoff-ended/1", &fields).await;
    assert!(twiml.ends_with("<Response><Hangup/></Response>"), "{twiml}");
    let record = calls::by_call_sid(&world.running.store, &call("CA1")).await.unwrap().unwrap();
    assert_eq!(record.data["call"]["endedReason"], "caller_hung_up");

    // Who has spoken with a person has been put through, whichever callback says so first.
    put_through(&world, "CA2").await;
    world.webhook(ENDED, &[("CallSid", "CA2"), ("CallStatus", "in-progress")]).await;
    world.webhook("/twiml/whisper/CA2/1", &[("CallSid", "CA7"), ("ParentCallSid", "CA2")]).await;
    let over =
        [("CallSid", "CA2"), ("CallStatus", "completed"), ("SequenceNumber", "2"), ("CallDuration", "95")];
    world.webhook(STATUS, &over).await;
    let record = calls::by_call_sid(&world.running.store, &call("CA2")).await.unwrap().unwrap();
    let end = &record.data["call"];
    assert_eq!((&end["endedReason"], &end["duration"]), (&json!("transferred"), &json!(95)));
    world.stop().await;
}

#[tokio::test]
async fn only_the_carrier_hears_what_a_person_is_told() {
    let world = World::start(ModelOptions::default(), &[]).await;
    for path in ["/twiml/whisper/CA1/1?member=00000000-0000-0000-0000-000000000002", "/twiml/handoff-ended/1"]
    {
        let request = world.http.post(world.running.public_url.join(path)).form(&[("CallSid", "CA1")]);
        assert_eq!(request.send().await.unwrap().status(), 403, "{path}");
        assert!(world.webhook(path, &[("CallSid", "CA1")]).await.contains("<Response>"), "{path}");
    }
    world.stop().await;
}

impl World {
    /// Takes the call whose stream this document offers. `None`: it is not offered any more.
    async fn claim(&self, twiml: &str) -> Option<ClaimedCall> {
        let (_, rest) = twiml.split_once("/media-stream/").unwrap_or_else(|| panic!("no stream: {twiml}"));
        let token = rest.split('"').next().unwrap();
        leases::claim(&self.running.store, &Sha256::digest(token).into(), "node").await.unwrap()
    }

    async fn execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(self.running.store.pool()).await.unwrap();
    }

    /// How many rows a table has.
    async fn rows(&self, table: &str) -> i64 {
        self.value(&format!("select count(*) from {table}")).await
    }

    /// Types of the events of a call.
    async fn events(&self, call: &str) -> String {
        let types = "select string_agg(event->>'type', ' ' order by place) \
            from calls, jsonb_array_elements(event_sequence) with ordinality as sequence (event, place)";
        self.value(&format!("{types} where call_sid = '{call}'")).await
    }
}

fn call(sid: &str) -> CallSid {
    CallSid::parse(sid).unwrap()
}
