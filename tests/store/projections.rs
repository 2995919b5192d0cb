//! Every record of a call follows from what is known of it: in whatever order that came, and however often.

use std::cell::Cell;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use uuid::Uuid;
use voicebridge::call::end::EndReason;
use voicebridge::call::transcript::{Entry, Role, Status};
use voicebridge::clock::CallTime;
use voicebridge::ids::{CallSid, ItemId, StreamSid};
use voicebridge::lifecycle::{self, CallEvent, CallRef, OptOutSource, callback};
use voicebridge::store::Store;
use voicebridge::store::call_events::CarrierEvent;
use voicebridge::store::call_queue;
use voicebridge::store::dialing::attempts;
use voicebridge::store::leases::{self, FencingToken};
use voicebridge::store::transcripts::{self, Turns};

use crate::{default_agent, digest, offer_from, other_tenant, sid, support};

const TOKEN: FencingToken = FencingToken(1);
const OURS: &str = "+15005550000";

/// The kinds of lives that calls have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    TeamThenAgent,
    TeamAnswers,
    Answered,
    Busy,
    NoAnswer,
    Failed,
    Voicemail,
    HandedOver,
    HandedToNobody,
    /// Nobody answered, the agent went on, and then somebody did.
    BackAndOver,
    /// Nobody answered twice, and the caller did not wait for the agent.
    BackAndLeft,
    /// Nobody answered, the agent went on, and the caller hung up while it rang again.
    BackAndGaveUp,
}

const LIVES: [Life; 12] = [
    Life::TeamThenAgent,
    Life::TeamAnswers,
    Life::Answered,
    Life::Busy,
    Life::NoAnswer,
    Life::Failed,
    Life::Voicemail,
    Life::HandedOver,
    Life::HandedToNobody,
    Life::BackAndOver,
    Life::BackAndLeft,
    Life::BackAndGaveUp,
];

impl Life {
    fn is_outbound(self) -> bool {
        let inbound =
            [Self::TeamThenAgent, Self::TeamAnswers, Self::HandedOver, Self::BackAndOver, Self::BackAndLeft];
        !inbound.contains(&self)
    }

    fn comes_back(self) -> bool {
        matches!(self, Self::BackAndOver | Self::BackAndLeft | Self::BackAndGaveUp)
    }

    fn has_stream(self) -> bool {
        !matches!(self, Self::TeamAnswers | Self::Busy | Self::NoAnswer | Self::Failed)
    }
}

/// One thing that is put on record.
#[derive(Debug, Clone)]
enum Step {
    Event(Timestamp, CallEvent),
    Callback(Timestamp, Box<CarrierEvent>),
    /// People are called.
    HandOver(FencingToken),
    /// The call is offered to its agent once more.
    Resume(FencingToken),
    /// The stream comes.
    Claim(FencingToken),
}

impl Step {
    /// Who has the call is decided in one order only, also where what happened is told in another.
    fn is_in_order(&self) -> bool {
        matches!(self, Self::HandOver(_) | Self::Resume(_) | Self::Claim(_))
    }
}

/// A call with all that there is before it: a lead, and for one of ours a campaign, a row of the queue, a try that the
/// carrier was asked for, and an interaction.
struct Case {
    life: Life,
    call: CallRef,
    lead: i64,
    phone: String,
    campaign: Uuid,
    queue: Uuid,
    attempt: Uuid,
    interaction: String,
    member: Uuid,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_323_000 + seconds).unwrap()
}

async fn case(store: &Store, life: Life, number: u32) -> Case {
    let agent = default_agent(store).await;
    let call = CallRef { call_sid: sid(number), organization: agent.organization_id, agent: agent.id };
    let phone = format!("+1415555{number:04}");
    let lead: i64 = sqlx::query_scalar(
        "insert into leads (organization_id, phone, notes) values ($1, $2, 'Met in May.') returning id",
    )
    .bind(agent.organization_id.0)
    .bind(&phone)
    .fetch_one(store.pool())
    .await
    .unwrap();
    let member = sqlx::query_scalar(
        "with team as (insert into teams (organization_id, name) values ($1, 'Front desk') returning id, organization_id)
         insert into team_members (organization_id, team_id, name, number)
         select organization_id, id, 'Grace', '+15005550009' from team returning id",
    )
    .bind(agent.organization_id.0)
    .fetch_one(store.pool())
    .await
    .unwrap();
    let interaction = format!("interaction_{number}");
    let mut case = Case {
        life,
        call,
        lead,
        phone,
        campaign: Uuid::nil(),
        queue: Uuid::nil(),
        attempt: Uuid::nil(),
        interaction,
        member,
    };
    if life.is_outbound() {
        ask_for(store, &mut case).await;
    }
    if life.has_stream() {
        let token = offer_from(store, &agent, &case.call.call_sid, &case.phone).await;
        assert_eq!(token, TOKEN);
        leases::claim(store, &digest(&case.call.call_sid), "node-1").await.unwrap().expect("it is offered");
        say(store, &case.call, 1, Role::Assistant, "Good morning,\nwhat can I do for you?").await;
        say(store, &case.call, 2, Role::User, "It is about my payment. Tomorrow!").await;
    }
    case
}

/// A try of a campaign, as the dialer leaves it when it has asked the carrier.
async fn ask_for(store: &Store, case: &mut Case) {
    let policy = if case.life == Life::Voicemail { "retry" } else { "hang_up" };
    (case.campaign, case.queue, case.attempt) = sqlx::query_as(
        "with campaign as (
             insert into campaigns (organization_id, name, status, voicemail_policy, retry_delays_s)
             values ($1, 'May', 'active', $5, '{\"busy\": 600, \"no_answer\": 1200, \"voicemail\": 1800}') returning id
         ),
         interaction as (
             insert into interactions (id, organization_id, \"customerId\", \"dispatchedAt\")
             values ($2, $1, 'customer', '2026-01-01T00:00:00Z') returning id
         ),
         queue as (
             insert into call_queue (organization_id, campaign_id, lead_id, status, attempt_count, next_retry_at, to_number,
                                     interaction_id)
             select $1, campaign.id, $3, 'processing', 1, '2026-01-01T00:00:00Z', $4, interaction.id
             from campaign, interaction
             returning id, campaign_id
         ),
         attempt as (
             insert into call_attempts (organization_id, queue_id, lead_id, campaign_id, agent_id, attempt_number, to_number,
                                        from_number, node, requested_at)
             select $1, id, $3, campaign_id, $6, 1, $4, $7, 'node-1', '2026-01-02T03:03:19Z' from queue
             returning id, queue_id, campaign_id
         )
         select campaign_id, queue_id, id from attempt",
    )
    .bind(case.call.organization.0)
    .bind(&case.interaction)
    .bind(case.lead)
    .bind(&case.phone)
    .bind(policy)
    .bind(case.call.agent.0)
    .bind(OURS)
    .fetch_one(store.pool())
    .await
    .unwrap();
}

async fn say(store: &Store, call: &CallRef, sequence: u32, role: Role, words: &str) {
    let entry = Entry {
        item: ItemId::parse(&format!("item_{sequence}")).unwrap(),
        sequence,
        revision: 1,
        role,
        content: words.to_owned(),
        generated: None,
        interrupted: false,
        status: Status::Final,
        at: CallTime::from_millis(1000),
        audio_start: None,
        audio_end: None,
        heard_until_ms: None,
        evidence: None,
        response_latency_ms: None,
        tool_name: None,
        tool_call: None,
    };
    let turns = Turns {
        organization: call.organization,
        call_sid: call.call_sid.clone(),
        token: TOKEN,
        stream_started: at(8),
        entries: vec![entry],
    };
    assert!(transcripts::save(store, &[turns]).await.unwrap().is_empty());
}

impl Case {
    /// Everything that is ever said of this call, in the order it happened.
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.life.is_outbound() {
            steps.push(Step::Event(
                at(0),
                CallEvent::Dispatched {
                    attempt: self.attempt,
                    queue: self.queue,
                    interaction: Some(self.interaction.clone()),
                    from: OURS.into(),
                    to: self.phone.clone(),
                },
            ));
            steps.push(self.status("initiated", 0, at(1)));
            steps.push(self.status("ringing", 1, at(2)));
        } else {
            let to_team = matches!(self.life, Life::TeamThenAgent | Life::TeamAnswers);
            let (from, to) = (self.phone.clone(), OURS.into());
            steps.push(Step::Event(at(0), CallEvent::Incoming { phone_number: None, from, to, to_team }));
        }
        steps.extend(self.middle());
        steps.push(match self.life {
            Life::Busy => self.last("busy", Some(486)),
            Life::NoAnswer => self.last("no-answer", Some(487)),
            Life::Failed => self.last("failed", Some(404)),
            _ => self.last("completed", None),
        });
        steps
    }

    fn middle(&self) -> Vec<Step> {
        if self.life == Life::TeamAnswers {
            return self.handoff(FencingToken(0), 1, 20, "completed", Some(90));
        }
        if !self.life.has_stream() {
            return Vec::new();
        }
        let token = TOKEN;
        let stream_sid = StreamSid::parse("MZ1").unwrap();
        let started = CallEvent::StreamStarted { stream_sid, node: "node-1".into(), token };
        let mut steps =
            vec![Step::Event(at(9), started), Step::Event(at(10), CallEvent::Connected { token })];
        if self.life.is_outbound() {
            steps.push(self.status("in-progress", 2, at(7)));
        }
        match self.life {
            Life::TeamThenAgent => {
                let dial_status = "no-answer".into();
                steps.push(Step::Event(at(6), CallEvent::TeamNoAnswer { dial_status }));
            }
            Life::Answered => {
                steps.push(self.answered_by("human"));
                let (number, source) = (self.phone.clone(), OptOutSource::Keypad);
                steps.push(Step::Event(at(20), CallEvent::OptedOut { number, source }));
            }
            Life::Voicemail => {
                let answered_by = "machine_start".to_owned();
                steps.push(self.answered_by(&answered_by));
                steps.push(Step::Event(at(11), CallEvent::VoicemailDetected { answered_by }));
            }
            Life::HandedOver => steps.extend(self.handoff(token, 1, 40, "completed", Some(90))),
            Life::HandedToNobody => steps.extend(self.handoff(token, 1, 40, "no-answer", None)),
            Life::BackAndOver | Life::BackAndLeft | Life::BackAndGaveUp => {
                steps.extend(self.back());
                return steps;
            }
            _ => {}
        }
        let reason = match self.life {
            Life::HandedOver | Life::HandedToNobody => EndReason::Transferred,
            _ => EndReason::CallerHungUp,
        };
        let (duration, report) = (Duration::from_millis(50_400), serde_json::Map::new());
        steps.push(Step::Event(at(60), CallEvent::Ended { token, reason, duration, report }));
        steps
    }

    /// The caller is handed to people then, who may speak for so many seconds.
    fn handoff(
        &self,
        token: FencingToken,
        handoff: u32,
        then: i64,
        dial_status: &str,
        spoken: Option<u32>,
    ) -> Vec<Step> {
        let leg = CallSid::parse("CAleg").ok();
        let (reason, summary) = ("wants a person".into(), "asked about an invoice".into());
        let to = Some("+15005550009".into());
        let mut steps = vec![Step::Event(at(then), CallEvent::Transferred { token, to, reason, summary })];
        if self.life.comes_back() {
            let (reason, report) = (EndReason::Transferred, serde_json::Map::new());
            steps.push(Step::Event(at(then + 5), CallEvent::StreamEnded { token, reason, report }));
            steps.push(Step::HandOver(token));
        }
        let mut over = then + 18;
        if let Some(seconds) = spoken {
            let (member, leg) = (Some(self.member), leg.clone());
            steps.push(Step::Event(at(then + 25), CallEvent::HandoffAnswered { handoff, member, leg }));
            over = then + 25 + i64::from(seconds);
        }
        let dial_status = dial_status.into();
        let ended = CallEvent::HandoffEnded { handoff, dial_status, leg, duration_s: spoken };
        steps.push(Step::Event(at(over), ended));
        steps
    }

    /// Nobody answers, the agent goes on with another stream, and hands the caller over again.
    fn back(&self) -> Vec<Step> {
        let second = FencingToken(TOKEN.0 + 1);
        let stream_sid = StreamSid::parse("MZ2").unwrap();
        let started = CallEvent::StreamStarted { stream_sid, node: "node-2".into(), token: second };
        let operator = CallEvent::Operator { token: second, command: Uuid::max(), kind: "transfer".into() };
        let mut steps = self.handoff(TOKEN, 1, 20, "no-answer", None);
        steps.extend([
            Step::Resume(TOKEN),
            Step::Claim(second),
            Step::Event(at(50), started),
            Step::Event(at(55), operator),
        ]);
        match self.life {
            Life::BackAndOver => {
                steps.extend(self.handoff(second, 2, 60, "completed", Some(70)));
                let (reason, duration) = (EndReason::Transferred, Duration::from_secs(147));
                let report = serde_json::Map::new();
                let ended = CallEvent::Ended { token: second, reason, duration, report };
                steps.push(Step::Event(at(156), ended));
            }
            Life::BackAndLeft => {
                steps.extend(self.handoff(second, 2, 60, "busy", None));
                steps.push(Step::Resume(second));
            }
            _ => steps.extend(self.handoff(second, 2, 60, "canceled", None)),
        }
        steps
    }

    fn callback(&self, came_at: Timestamp, change: impl FnOnce(&mut CarrierEvent)) -> Step {
        let (from, to, direction) = if self.life.is_outbound() {
            (OURS.to_owned(), self.phone.clone(), "outbound-api")
        } else {
            (self.phone.clone(), OURS.to_owned(), "inbound")
        };
        let mut event = CarrierEvent {
            organization: None,
            call_sid: self.call.call_sid.clone(),
            call_status: None,
            to: Some(to),
            from: Some(from),
            direction: Some(direction.into()),
            duration_s: None,
            sequence_number: None,
            event_time: None,
            sip_response_code: None,
            answered_by: None,
            payload: json!({}),
        };
        change(&mut event);
        Step::Callback(came_at, Box::new(event))
    }

    fn status(&self, status: &str, sequence: u32, when: Timestamp) -> Step {
        self.callback(when, |event| {
            event.call_status = Some(status.into());
            event.sequence_number = Some(sequence);
            event.event_time = Some(when);
        })
    }

    fn last(&self, status: &str, sip: Option<u16>) -> Step {
        self.callback(at(171), |event| {
            event.call_status = Some(status.into());
            event.sequence_number = Some(3);
            event.event_time = Some(at(170));
            event.sip_response_code = sip;
            event.duration_s = Some(if sip.is_some() { 0 } else { 163 });
            event.payload = json!({"RecordingUrl": "https://example.com/RE1"});
        })
    }

    fn answered_by(&self, who: &str) -> Step {
        self.callback(at(12), |event| {
            event.answered_by = Some(who.into());
            event.payload = json!({"AnsweredBy": who});
        })
    }

    async fn put(&self, store: &Store, step: &Step) {
        let call_sid = &self.call.call_sid;
        match step {
            Step::Event(at, event) => {
                lifecycle::replay(store, &self.call, *at, event).await.unwrap();
            }
            Step::Callback(at, event) => callback::record(store, event, *at).await.unwrap(),
            Step::HandOver(token) => {
                leases::hand_over(store, call_sid, *token).await.unwrap().expect("it is theirs to hand over");
            }
            Step::Resume(token) => {
                let secret = self.secret(FencingToken(token.0 + 1));
                let next = leases::resume(store, call_sid, *token, &secret).await.unwrap();
                assert_eq!(next, Some(FencingToken(token.0 + 1)));
            }
            Step::Claim(token) => {
                let claimed = leases::claim(store, &self.secret(*token), "node-2").await.unwrap();
                assert_eq!(claimed.expect("it is offered").fencing_token, *token);
            }
        }
    }

    /// Of a further stream.
    fn secret(&self, token: FencingToken) -> [u8; 32] {
        digest(&CallSid::parse(&format!("{}x{}", self.call.call_sid, token.0)).unwrap())
    }

    /// What may be told in any order, when who has the call has been decided.
    async fn facts(&self, store: &Store) -> Vec<Step> {
        let (in_order, facts): (Vec<_>, Vec<_>) = self.steps().into_iter().partition(Step::is_in_order);
        for step in &in_order {
            self.put(store, step).await;
        }
        facts
    }

    /// All rows, without what is different for every call: ids, numbers, and when the row was written.
    async fn rows(&self, store: &Store) -> Value {
        lifecycle::finish(store, 1000).await.unwrap();
        let rows: Value = sqlx::query_scalar(
            r"
            with dropped as (
                select array['id', 'created_at', 'updated_at', 'createdAt', 'updatedAt', 'startTime', 'call_log_id',
                             'ai_call_log_id', 'organization_id'] as columns
            )
            select jsonb_build_object(
                'calls', (select jsonb_agg(to_jsonb(t) - columns) from calls t where call_sid = $1),
                'call_logs', (select jsonb_agg(to_jsonb(t) - columns) from call_logs t where call_sid = $1),
                'interactions', (select jsonb_agg(to_jsonb(t) - columns) from interactions t where id = $2),
                'call_attempts', (select jsonb_agg(to_jsonb(t) - columns) from call_attempts t where t.id = $3),
                'linked', (select call_log_id = call_logs.id from call_attempts, call_logs
                           where call_attempts.id = $3 and call_logs.call_sid = $1),
                'call_queue', (select jsonb_agg(to_jsonb(t) - columns) from call_queue t where t.id = $4),
                'agent_calls', (select jsonb_agg(to_jsonb(t) - columns order by handoff) from agent_calls t where parent_call_sid = $1),
                'leads', (select jsonb_agg(to_jsonb(t) - columns) from leads t where t.id = $5),
                'campaigns', (select jsonb_agg(to_jsonb(t) - columns) from campaigns t where t.id = $6),
                'do_not_call', (select jsonb_agg(to_jsonb(t) - 'organization_id') from do_not_call t where number = $7)
            )
            from dropped
            ",
        )
        .bind(self.call.call_sid.as_str())
        .bind(&self.interaction)
        .bind(self.attempt)
        .bind(self.queue)
        .bind(self.lead)
        .bind(self.campaign)
        .bind(&self.phone)
        .fetch_one(store.pool())
        .await
        .unwrap();
        let names = [
            (self.call.call_sid.as_str().to_owned(), "CALL"),
            (self.phone.clone(), "PHONE"),
            (self.campaign.to_string(), "CAMPAIGN"),
            (self.queue.to_string(), "QUEUE"),
            (self.attempt.to_string(), "ATTEMPT"),
            (self.member.to_string(), "MEMBER"),
            (self.interaction.clone(), "INTERACTION"),
            (format!("\"lead_id\":{},", self.lead), "\"lead_id\":\"LEAD\","),
        ];
        let text = names.iter().fold(rows.to_string(), |text, (from, to)| text.replace(from, to));
        serde_json::from_str(&text).unwrap()
    }
}

async fn prepared(connections: u32) -> Store {
    let store = support::store(connections).await;
    sqlx::query("update agents set keywords = '{payment,tomorrow,pay,agent}'")
        .execute(store.pool())
        .await
        .unwrap();
    store
}

/// A whole life in its order.
async fn lived(store: &Store, life: Life, number: u32) -> Value {
    let case = case(store, life, number).await;
    for step in case.steps() {
        case.put(store, &step).await;
    }
    case.rows(store).await
}

#[test]
fn whatever_came_late_or_twice_a_call_ends_in_the_same_rows() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = runtime.block_on(prepared(2));
    let number = Cell::new(0);
    for life in LIVES {
        number.set(number.get() + 1);
        let expected = runtime.block_on(lived(&store, life, number.get()));
        let steps = {
            number.set(number.get() + 1);
            let case = runtime.block_on(case(&store, life, number.get()));
            case.steps().iter().filter(|step| !step.is_in_order()).count()
        };
        // Each once at least, and half of them again.
        let indices: Vec<usize> = (0..steps).chain((0..steps).step_by(2)).collect();
        let config = ProptestConfig {
            cases: 10,
            failure_persistence: None,
            max_shrink_iters: 60,
            ..ProptestConfig::default()
        };
        TestRunner::new(config)
            .run(&Just(indices).prop_shuffle(), |order| {
                number.set(number.get() + 1);
                let rows = runtime.block_on(async {
                    let case = case(&store, life, number.get()).await;
                    let steps = case.facts(&store).await;
                    for index in &order {
                        case.put(&store, &steps[*index]).await;
                    }
                    case.rows(&store).await
                });
                for table in expected.as_object().unwrap().keys() {
                    prop_assert_eq!(&rows[table], &expected[table], "{:?}: {}", life, table);
                }
                Ok(())
            })
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_at_the_same_moment_ends_in_the_same_rows() {
    let store = prepared(8).await;
    for (place, life) in LIVES.into_iter().enumerate() {
        let number = 10 * u32::try_from(place).unwrap();
        let expected = lived(&store, life, number + 1).await;
        let case = std::sync::Arc::new(case(&store, life, number + 2).await);
        let facts = case.facts(&store).await;
        let mut all = tokio::task::JoinSet::new();
        for step in facts.clone().into_iter().chain(facts) {
            let (store, case) = (store.clone(), std::sync::Arc::clone(&case));
            all.spawn(async move { case.put(&store, &step).await });
        }
        all.join_all().await;
        assert_eq!(case.rows(&store).await, expected, "{life:?}");
    }
}

#[tokio::test]
async fn a_call_that_was_answered_completes_what_it_was_made_for() {
    let store = prepared(2).await;
    let rows = lived(&store, Life::Answered, 1).await;
    let log = &rows["call_logs"][0];
    let text = "Agent: Good morning, what can I do for you?\nCaller: It is about my payment. Tomorrow!";
    assert_eq!((&log["status"], &log["call_status"]), (&json!("completed"), &json!("completed")));
    assert_eq!(
        (&log["direction"], &log["lead_id"], &log["campaign_id"]),
        (&json!("outbound"), &json!("LEAD"), &json!("CAMPAIGN"))
    );
    assert_eq!((&log["caller_number"], &log["callee_number"]), (&json!(OURS), &json!("PHONE")));
    assert_eq!((&log["duration"], &log["disconnect_reason"]), (&json!(51), &json!("caller_hung_up")));
    assert_eq!(log["conversation_transcript"], text);
    assert_eq!(log["recording_url"], "https://example.com/RE1");
    assert_eq!(log["started_at"], "2026-01-02T03:03:20+00:00");
    assert_eq!(log["answered_at"], "2026-01-02T03:03:27+00:00", "by the carrier's clock");
    assert_eq!(log["ended_at"], "2026-01-02T03:04:20+00:00");

    let interaction = &rows["interactions"][0];
    assert_eq!((&interaction["status"], &interaction["outcome"]), (&json!("COMPLETED"), &json!("SUCCESS")));
    assert_eq!((&interaction["roomName"], &interaction["phoneNumber"]), (&json!("MZ1"), &json!("PHONE")));
    assert_eq!(interaction["connectedAt"], "2026-01-02T03:03:30+00:00");
    assert_eq!((&interaction["duration"], &interaction["transcript"]), (&json!(51), &json!(text)));
    assert_eq!(
        (&interaction["recording"], &interaction["call_sid"]),
        (&log["recording_url"], &json!("CALL"))
    );
    let disposition = json!({
        "disposition": "CALLER_HUNG_UP", "connection_status": "CONNECTED", "call_duration": 51,
        "keywords_detected": ["payment", "tomorrow"],
    });
    assert_eq!(interaction["callDisposition"], disposition, "whole words, and not who said them");

    let attempt = &rows["call_attempts"][0];
    assert_eq!((&attempt["status"], &attempt["outcome"]), (&json!("ended"), &json!("answered")));
    assert_eq!((&attempt["duration"], &attempt["answered_by"]), (&json!(163), &json!("human")));
    assert_eq!((&attempt["call_sid"], &rows["linked"]), (&json!("CALL"), &json!(true)));
    assert_eq!((&attempt["will_retry"], &attempt["error"]), (&json!(false), &Value::Null));
    assert_eq!(rows["call_queue"][0]["status"], "completed");
    assert_eq!(rows["call_queue"][0]["finished_at"], "2026-01-02T03:06:10+00:00");

    let lead = &rows["leads"][0];
    assert_eq!((&lead["call_sid"], &lead["lead_status"]), (&json!("CALL"), &json!("contacted")));
    assert_eq!(lead["last_contacted_at"], "2026-01-02T03:03:20+00:00");
    assert_eq!(lead["notes"], "Met in May.\nOutbound call CALL initiated");
    let campaign = &rows["campaigns"][0];
    assert_eq!((&campaign["total_calls"], &campaign["answered_calls"]), (&json!(1), &json!(1)));
    let forbidden = &rows["do_not_call"][0];
    assert_eq!((&forbidden["source"], &forbidden["call_sid"]), (&json!("keypad"), &json!("CALL")));
}

#[tokio::test]
async fn who_was_not_reached_is_called_again_as_the_campaign_says() {
    let store = prepared(2).await;
    for (number, life, outcome, reason, sip, next) in [
        (1, Life::Busy, "busy", "carrier_busy", json!(486), Some("2026-01-02T03:16:10+00:00")),
        (2, Life::NoAnswer, "no_answer", "carrier_no_answer", json!(487), Some("2026-01-02T03:26:10+00:00")),
        (3, Life::Failed, "failed", "carrier_failed", json!(404), None),
        (4, Life::Voicemail, "voicemail", "voicemail", Value::Null, Some("2026-01-02T03:36:10+00:00")),
    ] {
        let rows = lived(&store, life, number).await;
        let attempt = &rows["call_attempts"][0];
        assert_eq!((&attempt["outcome"], &attempt["sip_response_code"]), (&json!(outcome), &sip), "{life:?}");
        assert_eq!(
            (&attempt["will_retry"], &attempt["next_retry_at"]),
            (&json!(next.is_some()), &json!(next))
        );
        assert_eq!(attempt["retry_reason"], json!(next.map(|_| outcome)));
        assert_eq!(attempt["voicemail_detected"], life == Life::Voicemail);
        let queue = &rows["call_queue"][0];
        assert_eq!(queue["status"], if next.is_some() { "queued" } else { "failed" });
        assert_eq!(queue["next_retry_at"], next.unwrap_or("2026-01-01T00:00:00+00:00"));
        assert!(queue["last_error"].is_string());
        let log = &rows["call_logs"][0];
        assert_eq!(log["disconnect_reason"], reason);
        assert_eq!(log["status"], if life == Life::Voicemail { "completed" } else { "failed" });
        let interaction = &rows["interactions"][0];
        match life {
            Life::Failed => {
                assert_eq!(
                    (&interaction["status"], &interaction["outcome"]),
                    (&json!("FAILED"), &json!("FAILED"))
                );
                assert_eq!(
                    (&interaction["sipStatus"], &interaction["call_sid"]),
                    (&json!(404), &json!("CALL"))
                );
                let disposition = json!({
                    "disposition": "CARRIER_FAILED", "connection_status": "NOT_CONNECTED", "reason": "carrier_failed",
                });
                assert_eq!(interaction["callDisposition"], disposition);
                assert_eq!(log["disconnect_notes"], "failed, SIP 404");
            }
            Life::Voicemail => assert_eq!(interaction["callDisposition"]["connection_status"], "VOICEMAIL"),
            // Another call will be made for it.
            _ => {
                assert_eq!(
                    (&interaction["status"], &interaction["outcome"]),
                    (&json!("INITIATED"), &Value::Null)
                );
                assert_eq!(interaction["endTime"], Value::Null);
            }
        }
    }
}

#[tokio::test]
async fn what_people_had_of_a_call_is_a_row_of_its_own() {
    let store = prepared(2).await;
    let rows = lived(&store, Life::HandedOver, 1).await;
    let human = &rows["agent_calls"][0];
    assert_eq!((&human["status"], &human["agent_name"]), (&json!("completed"), &json!("Grace")));
    assert_eq!((&human["agent_id"], &human["call_sid"]), (&json!("MEMBER"), &json!("CAleg")));
    assert_eq!(
        (&human["reason"], &human["summary"]),
        (&json!("wants a person"), &json!("asked about an invoice"))
    );
    assert_eq!((&human["started_at"], &human["duration"]), (&json!("2026-01-02T03:04:25+00:00"), &json!(90)));
    assert_eq!((&human["lead_id"], &rows["agent_calls"].as_array().unwrap().len()), (&json!("LEAD"), &1));
    let log = &rows["call_logs"][0];
    assert_eq!((&log["transferred"], &log["transfer_reason"]), (&json!(true), &json!("wants a person")));
    assert_eq!(
        (&log["transferred_at"], &log["direction"]),
        (&json!("2026-01-02T03:04:00+00:00"), &json!("inbound"))
    );

    let rows = lived(&store, Life::HandedToNobody, 2).await;
    let human = &rows["agent_calls"][0];
    assert_eq!((&human["status"], &human["agent_name"]), (&json!("no_answer"), &Value::Null));
    assert_eq!((&human["started_at"], &human["duration"]), (&Value::Null, &Value::Null));
    assert_eq!(rows["campaigns"][0]["transferred_calls"], 0, "nobody took it over");
    assert_eq!(rows["call_logs"][0]["transferred"], false);
}

#[tokio::test]
async fn a_call_that_came_back_from_people_ends_as_its_last_handoff_did() {
    let store = prepared(2).await;
    for (number, life, reason, duration, transferred_at, seconds, parts) in [
        (
            1,
            Life::BackAndOver,
            "transferred",
            147,
            json!("2026-01-02T03:04:20+00:00"),
            json!(70),
            ["no_answer", "completed"],
        ),
        (2, Life::BackAndLeft, "caller_hung_up", 163, Value::Null, Value::Null, ["no_answer", "busy"]),
        (3, Life::BackAndGaveUp, "caller_hung_up", 163, Value::Null, Value::Null, ["no_answer", "canceled"]),
    ] {
        let rows = lived(&store, life, number).await;
        let (log, people) = (&rows["call_logs"][0], &rows["agent_calls"]);
        assert_eq!(
            (&log["status"], &log["disconnect_reason"]),
            (&json!("completed"), &json!(reason)),
            "{life:?}"
        );
        assert_eq!(
            (&log["duration"], &log["transferred_at"]),
            (&json!(duration), &transferred_at),
            "{life:?}"
        );
        assert_eq!(log["transferred"], !transferred_at.is_null(), "{life:?}");
        assert_eq!([&people[0]["status"], &people[1]["status"]], parts, "{life:?}");
        assert_eq!((&people[1]["duration"], &people[1]["handoff"]), (&seconds, &json!(2)), "{life:?}");
    }
}

#[tokio::test]
async fn people_have_a_call_from_when_they_answer_and_its_agent_has_it_when_it_is_back() {
    let store = prepared(2).await;
    let case = case(&store, Life::BackAndOver, 1).await;
    let mut seen = Vec::new();
    for step in case.steps() {
        case.put(&store, &step).await;
        let status =
            sqlx::query_scalar("select status from call_logs").fetch_optional(store.pool()).await.unwrap();
        let status: String = status.unwrap_or_default();
        if seen.last() != Some(&status) {
            seen.push(status);
        }
    }
    assert_eq!(seen, ["initiated", "connected", "transferred", "completed"]);
}

#[tokio::test]
async fn a_call_that_the_team_took_is_completed_and_has_no_agent() {
    let store = prepared(2).await;
    let rows = lived(&store, Life::TeamAnswers, 1).await;
    assert_eq!(rows["calls"][0]["routing_status"], "completed");
    assert_eq!(rows["calls"][0]["data"]["call"]["endedReason"], "transferred");
    let people = &rows["agent_calls"][0];
    assert_eq!((&people["status"], &people["duration"]), (&json!("completed"), &json!(90)));
    let rows = lived(&store, Life::TeamThenAgent, 2).await;
    let events = rows["calls"][0]["event_sequence"].as_array().unwrap();
    let types: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        ["incoming_call", "team_no_answer", "stream_started", "connected", "agent_call_completed"]
    );
    assert_eq!(rows["call_logs"][0]["lead_id"], "LEAD", "found by the caller's number");
}

#[tokio::test]
async fn a_late_word_about_one_try_does_not_touch_the_next() {
    let store = prepared(2).await;
    let case = case(&store, Life::Busy, 1).await;
    let steps = case.steps();
    for step in &steps {
        case.put(&store, step).await;
    }
    // The dialer has begun another try, or somebody has decided otherwise.
    for (status, tries) in [("processing", 2), ("failed", 1)] {
        sqlx::query("update call_queue set status = $1, attempt_count = $2, last_error = 'theirs'")
            .bind(status)
            .bind(tries)
            .execute(store.pool())
            .await
            .unwrap();
        let answered = case.status("in-progress", 2, at(7));
        case.put(&store, &answered).await;
        let earlier = case.status("no-answer", u32::from(tries == 2), at(5));
        case.put(&store, &earlier).await;
        let queue = &case.rows(&store).await["call_queue"][0];
        assert_eq!((&queue["status"], &queue["last_error"]), (&json!(status), &json!("theirs")));
    }
    assert_eq!(case.rows(&store).await["call_attempts"][0]["outcome"], "no_answer");
}

#[tokio::test]
async fn a_lead_belongs_to_the_latest_call_to_it_whoever_shares_its_telephone() {
    let store = prepared(2).await;
    let case = case(&store, Life::Busy, 1).await;
    // Somebody with the same telephone was taken for the one who is called.
    let other: i64 = sqlx::query_scalar(
        "insert into leads (organization_id, phone, call_sid) values ($1, $2, $3) returning id",
    )
    .bind(case.call.organization.0)
    .bind(&case.phone)
    .bind(case.call.call_sid.as_str())
    .fetch_one(store.pool())
    .await
    .unwrap();
    let dispatched = &case.steps()[0];
    case.put(&store, dispatched).await;
    let lead = case.rows(&store).await["leads"][0].clone();
    assert_eq!((&lead["call_sid"], &lead["lead_status"]), (&json!("CALL"), &json!("contacted")));
    let left: Option<String> = sqlx::query_scalar("select call_sid::text from leads where id = $1")
        .bind(other)
        .fetch_one(store.pool())
        .await
        .unwrap();
    assert_eq!(left, None);
}

#[tokio::test]
async fn a_call_that_comes_to_light_late_takes_no_lead_from_a_later_one() {
    let store = prepared(2).await;
    let case = case(&store, Life::Busy, 1).await;
    sqlx::query(
        "update leads set call_sid = 'CAlater', lead_status = 'won', last_contacted_at = '2026-01-02T03:03:21Z' where id = $1",
    )
    .bind(case.lead)
    .execute(store.pool())
    .await
    .unwrap();
    case.put(&store, &case.steps()[0]).await;
    let lead = case.rows(&store).await["leads"][0].clone();
    assert_eq!((&lead["call_sid"], &lead["lead_status"]), (&json!("CAlater"), &json!("won")));
    assert_eq!(lead["last_contacted_at"], "2026-01-02T03:03:21+00:00");
    assert_eq!(lead["notes"], "Met in May.\nOutbound call CALL initiated", "it was made all the same");
}

#[tokio::test]
async fn an_interaction_belongs_to_one_call_and_the_latest_try_takes_it_while_it_waits() {
    let store = prepared(2).await;
    for (number, status, tries, taken) in [
        (1, "INITIATED", 1, true),
        // It is not the latest try any more.
        (2, "INITIATED", 2, false),
        (3, "IN_PROGRESS", 1, false),
        (4, "COMPLETED", 1, false),
    ] {
        let case = case(&store, Life::Busy, number).await;
        sqlx::query(
            "update interactions set call_sid = $2, status = $3::text::interaction_status where id = $1",
        )
        .bind(&case.interaction)
        .bind(format!("CAother{number}"))
        .bind(status)
        .execute(store.pool())
        .await
        .unwrap();
        sqlx::query("update call_queue set attempt_count = $2 where id = $1")
            .bind(case.queue)
            .bind(tries)
            .execute(store.pool())
            .await
            .unwrap();
        for step in case.steps() {
            case.put(&store, &step).await;
        }
        let interaction = &case.rows(&store).await["interactions"][0];
        let expected = if taken { "CALL".to_owned() } else { format!("CAother{number}") };
        assert_eq!((&interaction["call_sid"], &interaction["status"]), (&json!(expected), &json!(status)));
    }
}

#[tokio::test]
async fn what_others_have_written_of_a_call_stays() {
    let store = prepared(2).await;
    let case = case(&store, Life::HandedOver, 1).await;
    let steps = case.steps();
    let (last, before) = steps.split_last().unwrap();
    for step in before {
        case.put(&store, step).await;
    }
    for sql in [
        "update call_logs set sentiment_score = 0.5, conversation_summary = 'Fine.', ai_analysis = '{}',
             recording_url = 'https://example.com/theirs'",
        "update agent_calls set agent_notes = 'Friendly.', objections = '[1]', call_sid = 'CAknown'",
        "update agents set keywords = '{}'",
    ] {
        sqlx::query(sql).execute(store.pool()).await.unwrap();
    }
    let Step::Callback(at, event) = last else { panic!("the carrier has the last word") };
    let mut event = event.clone();
    event.payload = json!({});
    case.put(&store, &Step::Callback(*at, event)).await;
    let rows = case.rows(&store).await;
    let (log, people) = (&rows["call_logs"][0], &rows["agent_calls"][0]);
    assert_eq!((&log["sentiment_score"], &log["conversation_summary"]), (&json!(0.5), &json!("Fine.")));
    assert_eq!(log["recording_url"], "https://example.com/theirs");
    assert_eq!((&people["agent_notes"], &people["objections"]), (&json!("Friendly."), &json!([1])));
    assert_eq!(people["call_sid"], "CAleg", "the carrier's word for the leg");
}

#[tokio::test]
async fn a_person_of_another_organisation_has_taken_over_no_call_of_ours() {
    let store = prepared(2).await;
    let mut case = case(&store, Life::HandedOver, 1).await;
    let (theirs, _) = other_tenant(&store).await;
    case.member = sqlx::query_scalar(
        "with team as (insert into teams (organization_id, name) values ($1, 'Theirs') returning id, organization_id)
         insert into team_members (organization_id, team_id, name, number)
         select organization_id, id, 'Mallory', '+15005550008' from team returning id",
    )
    .bind(theirs.0)
    .fetch_one(store.pool())
    .await
    .unwrap();
    for step in case.steps() {
        case.put(&store, &step).await;
    }
    let people = &case.rows(&store).await["agent_calls"][0];
    assert_eq!((&people["agent_id"], &people["agent_name"]), (&Value::Null, &Value::Null));
    assert_eq!(people["status"], "completed");
}

#[tokio::test]
async fn an_interaction_that_failed_while_it_waited_for_another_try_stays_so_whatever_is_said_of_the_first() {
    let store = prepared(2).await;
    let case = case(&store, Life::Busy, 1).await;
    for step in case.steps() {
        case.put(&store, &step).await;
    }
    call_queue::cancel(&store, case.call.organization, case.queue).await.unwrap();
    let before = case.rows(&store).await;
    let (interaction, attempt) = (&before["interactions"][0], &before["call_attempts"][0]);
    assert_eq!((&interaction["status"], &interaction["call_sid"]), (&json!("FAILED"), &json!("CALL")));
    assert_eq!(
        (&attempt["outcome"], &attempt["will_retry"], &attempt["next_retry_at"], &attempt["retry_reason"]),
        (&json!("busy"), &json!(false), &Value::Null, &json!("canceled"))
    );
    case.put(&store, &case.status("in-progress", 2, at(7))).await;
    case.put(&store, &case.status("no-answer", 1, at(5))).await;
    let after = case.rows(&store).await;
    for (table, columns) in [
        ("interactions", vec!["status", "outcome", "endTime", "callDisposition"]),
        ("call_attempts", vec!["will_retry", "next_retry_at", "retry_reason"]),
        ("call_queue", vec!["status", "last_error", "finished_at"]),
    ] {
        for column in columns {
            assert_eq!(after[table][0][column], before[table][0][column], "{table}.{column}");
        }
    }
    assert_eq!(after["call_attempts"][0]["outcome"], "no_answer", "what is known of the try is on record");
}

#[tokio::test]
async fn a_call_that_comes_to_light_after_its_interaction_failed_is_its_call() {
    let store = prepared(2).await;
    let case = case(&store, Life::Answered, 1).await;
    attempts::not_placed(&store, case.attempt, "there is no such call", at(100)).await.unwrap();
    call_queue::cancel(&store, case.call.organization, case.queue).await.unwrap();
    let steps = case.steps();
    case.put(&store, &steps[0]).await;
    let rows = case.rows(&store).await;
    assert_eq!(rows["interactions"][0]["status"], "FAILED", "it may come to nothing");
    assert_eq!(rows["call_attempts"][0]["status"], "placed");
    for step in &steps[1..] {
        case.put(&store, step).await;
    }
    let rows = case.rows(&store).await;
    let interaction = &rows["interactions"][0];
    assert_eq!((&interaction["status"], &interaction["outcome"]), (&json!("COMPLETED"), &json!("SUCCESS")));
    assert_eq!(rows["call_queue"][0]["status"], "failed", "it was taken back, and nobody has changed that");
}

#[tokio::test]
async fn a_turn_that_comes_after_the_end_is_part_of_the_transcript() {
    let store = prepared(2).await;
    let case = case(&store, Life::TeamThenAgent, 1).await;
    for step in case.steps() {
        case.put(&store, &step).await;
    }
    say(&store, &case.call, 3, Role::Assistant, "Goodbye.").await;
    assert_eq!(lifecycle::finish(&store, 10).await.unwrap(), 1);
    let text = &case.rows(&store).await["call_logs"][0]["conversation_transcript"];
    assert!(text.as_str().unwrap().ends_with("\nAgent: Goodbye."), "{text}");
    assert_eq!(lifecycle::finish(&store, 10).await.unwrap(), 0, "and then there is nothing left to do");
}

#[tokio::test]
async fn a_try_that_was_given_up_is_a_call_all_the_same_once_the_carrier_names_it() {
    let store = prepared(2).await;
    let case = case(&store, Life::Answered, 1).await;
    sqlx::query("update call_attempts set status = 'ended', outcome = 'not_placed', will_retry = true, ended_at = now()")
        .execute(store.pool())
        .await
        .unwrap();
    sqlx::query("update call_queue set status = 'queued'").execute(store.pool()).await.unwrap();
    let steps = case.steps();
    case.put(&store, &steps[0]).await;
    let rows = case.rows(&store).await;
    assert_eq!(rows["call_attempts"][0]["status"], "placed");
    assert_eq!(rows["call_queue"][0]["status"], "processing", "nobody dials while the telephone rings");
    for step in &steps[1..] {
        case.put(&store, step).await;
    }
    let rows = case.rows(&store).await;
    assert_eq!(
        (&rows["call_attempts"][0]["outcome"], &rows["call_queue"][0]["status"]),
        (&json!("answered"), &json!("completed"))
    );
}

#[tokio::test]
async fn what_follows_from_a_fact_may_fail_and_the_fact_stays() {
    let store = prepared(2).await;
    let case = case(&store, Life::Busy, 1).await;
    sqlx::query("alter table call_logs add constraint nothing check (status <> 'failed')")
        .execute(store.pool())
        .await
        .unwrap();
    for step in case.steps() {
        case.put(&store, &step).await;
    }
    let rows = case.rows(&store).await;
    assert_eq!(rows["call_logs"][0]["status"], "ringing");
    sqlx::query("alter table call_logs drop constraint nothing").execute(store.pool()).await.unwrap();
    callback::catch_up(&store, &case.call.call_sid).await.unwrap();
    assert_eq!(case.rows(&store).await["call_attempts"][0]["outcome"], "busy");
}

#[tokio::test]
async fn an_opt_out_stands_whatever_cannot_be_written_and_fails_what_waits_to_be_called() {
    let store = prepared(2).await;
    let case = case(&store, Life::Answered, 1).await;
    sqlx::query(
        "insert into call_queue (organization_id, to_number) select organization_id, to_number from call_queue",
    )
    .execute(store.pool())
    .await
    .unwrap();
    sqlx::query("alter table call_logs add constraint nothing check (status = 'nothing')")
        .execute(store.pool())
        .await
        .unwrap();
    let (number, source) = (case.phone.clone(), OptOutSource::Call);
    case.put(&store, &Step::Event(at(20), CallEvent::OptedOut { number, source })).await;
    let forbidden: Vec<String> =
        sqlx::query_scalar("select number from do_not_call").fetch_all(store.pool()).await.unwrap();
    assert_eq!(forbidden, [case.phone.as_str()]);
    let queue: Vec<String> = sqlx::query_scalar("select status from call_queue order by status")
        .fetch_all(store.pool())
        .await
        .unwrap();
    assert_eq!(queue, ["failed", "processing"], "the call that goes on is not one that waits");
}
