//! What is replayed, against a real PostgreSQL.

use super::*;
use crate::bridge::spool::What;
use crate::call::end::EndReason;
use crate::call::transcript::{Entry, Role, Status};
use crate::clock::CallTime;
use crate::lifecycle::{CallEvent, CallRef};
use crate::store::agents;
use crate::store::call_events::CarrierEvent;
use crate::store::cluster::PrivateCluster;
use crate::store::leases::{self, Offer};
use crate::store::standby::{LateOffer, TOKEN};
use jiff::Timestamp;
use sqlx::AssertSqlSafe;

/// A spool, and a database that is there, or is not willing.
struct Scene {
    spool: Spool,
    store: Store,
    outage: Outage,
    metrics: Metrics,
    agent: agents::Agent,
    dir: tempfile::TempDir,
    _cluster: PrivateCluster,
}

impl Scene {
    async fn set() -> Self {
        let cluster = PrivateCluster::start_throwaway().await.unwrap();
        let store = Store::connect(cluster.connect_options(), 4).await.unwrap();
        store.migrate().await.unwrap();
        let agent = agents::default_agent(&store).await.unwrap().unwrap();
        let (dir, metrics) = (tempfile::tempdir().unwrap(), Metrics::new());
        let spool = Spool::open(dir.path().to_owned(), &metrics).await;
        let outage = Outage::new(&metrics);
        Self { spool, store, outage, metrics, agent, dir, _cluster: cluster }
    }

    fn replay(&self) {
        start(&self.spool, self.store.clone(), self.outage.clone(), self.metrics.clone());
    }

    async fn execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(self.store.pool()).await.unwrap();
    }

    async fn count(&self, of: &str) -> i64 {
        let query = AssertSqlSafe(format!("select count(*) from {of}"));
        sqlx::query_scalar(query).fetch_one(self.store.pool()).await.unwrap()
    }

    /// As another node does that answers this call.
    async fn offered(&self, call: &str) {
        let call_sid = CallSid::parse(call).unwrap();
        let mut token_sha256 = [0; 32];
        token_sha256[..call.len()].copy_from_slice(call.as_bytes());
        let offer = Offer {
            call_sid: &call_sid,
            organization: self.agent.organization_id,
            agent: self.agent.id,
            direction: None,
            from: None,
            to: None,
            token_sha256,
        };
        assert_eq!(leases::offer(&self.store, &offer).await.unwrap(), Some(TOKEN));
        leases::claim(&self.store, &token_sha256, "other").await.unwrap().expect("it was offered");
    }

    fn keep(&self, call: &str, what: What) -> Ticket {
        let call = CallRef {
            call_sid: CallSid::parse(call).unwrap(),
            organization: self.agent.organization_id,
            agent: self.agent.id,
        };
        self.spool.keep(Arc::new(Record { call, token: TOKEN, what })).unwrap()
    }

    fn late_offer(&self, call: &str) -> Ticket {
        let now = Timestamp::now();
        let offer = LateOffer {
            call_sid: CallSid::parse(call).unwrap(),
            organization: self.agent.organization_id,
            agent: self.agent.id,
            direction: None,
            from: None,
            to: None,
            token_sha256: [call.as_bytes()[2]; 32],
            node: "this".into(),
            offered_at: now,
            claimed_at: Some(now),
        };
        self.keep(call, What::Offer(offer))
    }

    fn turn(&self, call: &str, sequence: u32, content: &str) -> Ticket {
        let entry = Entry {
            item: ItemId::parse(&format!("item_{sequence}")).unwrap(),
            sequence,
            revision: 1,
            role: Role::User,
            content: content.into(),
            generated: None,
            interrupted: false,
            status: Status::Final,
            at: CallTime::from_millis(1_500),
            audio_start: None,
            audio_end: None,
            heard_until_ms: None,
            evidence: None,
            response_latency_ms: None,
            tool_name: None,
            tool_call: None,
        };
        self.keep(call, What::Turn { stream_started: Timestamp::now(), entry })
    }

    fn ended(&self, call: &str) -> Ticket {
        let duration = Duration::from_secs(2);
        let event = CallEvent::after_stream(TOKEN, EndReason::CallerHungUp, duration, false);
        self.keep(call, What::Event { at: Timestamp::now(), event })
    }

    /// The carrier says that the call is over.
    fn over(&self, call: &str) -> Ticket {
        let callback = CarrierEvent {
            organization: None,
            call_sid: CallSid::parse(call).unwrap(),
            call_status: Some("completed".into()),
            to: None,
            from: None,
            direction: None,
            duration_s: Some(2),
            sequence_number: Some(3),
            event_time: None,
            sip_response_code: None,
            answered_by: None,
            payload: serde_json::json!({}),
        };
        self.keep(call, What::Callback { at: Timestamp::now(), callback })
    }

    /// Of records: late ones, and those that are refused.
    fn set_aside(&self) -> (u64, u64) {
        (self.metrics.spool_late.get(), self.metrics.spool_refused.get())
    }

    async fn until_left(&self, records: usize) {
        until("that many are left", async || self.spool.left() == records).await;
    }
}

/// In real time, because the disk and the database are waited for.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..3_000 {
        if is_so().await {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("not so in time: {what}");
}

/// Fails each time, and counts how often.
const LOCKED: &str = "
    create sequence attempts;
    create function is_locked() returns trigger language plpgsql as $$
    begin perform nextval('attempts'); raise exception using errcode = '55P03'; end $$;
    create trigger locked before insert on call_leases for each row execute function is_locked()";

#[tokio::test]
async fn what_was_said_waits_for_the_offer_of_its_call_however_much_it_is() {
    let scene = Scene::set().await;
    scene.execute(LOCKED).await;
    let mut records = vec![scene.late_offer("CA1")];
    records.extend((1..=BATCH as u32 + 9).map(|sequence| scene.turn("CA1", sequence, "one")));
    records.push(scene.ended("CA1"));
    scene.spool.leave(records.iter().copied());
    scene.replay();
    let attempts = "pg_sequences where sequencename = 'attempts' and last_value >= 3";
    until("the offer was tried three times", async || scene.count(attempts).await == 1).await;
    assert_eq!((scene.spool.left(), scene.set_aside()), (records.len(), (0, 0)), "all wait with it");
    scene.execute("drop trigger locked on call_leases").await;
    scene.until_left(0).await;
    assert_eq!(scene.count("conversation_transcripts").await, i64::try_from(BATCH).unwrap() + 9);
    assert_eq!(scene.count("call_leases where ended_at is not null").await, 1);
    assert_eq!(scene.set_aside(), (0, 0));
}

#[tokio::test]
async fn what_its_call_has_left_waits_for_the_offer_that_the_call_has_yet_to_write() {
    let scene = Scene::set().await;
    let offer = scene.late_offer("CA1");
    scene.offered("CA2").await;
    scene.spool.leave([scene.turn("CA1", 1, "one"), scene.turn("CA2", 1, "two")]);
    scene.replay();
    scene.until_left(1).await;
    assert_eq!(scene.count("conversation_transcripts where call_sid = 'CA2'").await, 1);
    scene.spool.leave([offer]);
    scene.until_left(0).await;
    assert_eq!((scene.count("conversation_transcripts").await, scene.set_aside()), (2, (0, 0)));
}

#[tokio::test]
async fn of_a_call_whose_offer_is_refused_nothing_is_put_on_record() {
    let scene = Scene::set().await;
    scene.offered("CA1").await; // By the same token.
    let mut records = vec![scene.late_offer("CA1")];
    records.extend((1..=BATCH as u32).map(|sequence| scene.turn("CA1", sequence, "one")));
    records.push(scene.ended("CA1"));
    scene.spool.leave(records.iter().copied());
    scene.replay();
    scene.until_left(0).await;
    assert_eq!(scene.count("conversation_transcripts").await, 0);
    assert_eq!(scene.count("call_leases where node = 'other' and ended_at is null").await, 1);
    assert_eq!(scene.set_aside(), (records.len() as u64, 0));
    scene.spool.leave([scene.turn("CA1", 900, "what it says until it has let go")]);
    scene.until_left(0).await;
    assert_eq!(scene.count("conversation_transcripts").await, 0);
    scene.spool.close().await;
    let (book, _) = super::super::Book::open(scene.dir.path()).unwrap();
    assert_eq!((book.rows, book.refused().len()), (0, records.len() + 1), "all are kept aside");
}

#[tokio::test]
async fn what_the_carrier_says_waits_for_the_offer_of_its_call_and_is_true_also_without() {
    let scene = Scene::set().await;
    let (taken, refused) = (scene.late_offer("CA1"), scene.late_offer("CA2"));
    scene.offered("CA2").await; // By the same token.
    scene.spool.leave([scene.over("CA1"), scene.over("CA2"), scene.turn("CA3", 1, "of an unknown call")]);
    scene.replay();
    scene.until_left(2).await;
    assert_eq!(scene.count("call_events").await, 0, "its call's own writer has the offer");
    scene.spool.leave([taken, refused]);
    scene.until_left(0).await;
    assert_eq!(scene.count("call_events where call_status = 'completed'").await, 2);
    assert_eq!(scene.set_aside(), (1, 1), "the offer, and the turn");
    assert_eq!(scene.count("call_leases where ended_at is not null").await, 0, "streams end their calls");
}

#[tokio::test]
async fn a_turn_of_a_call_that_was_never_offered_is_kept_aside() {
    let scene = Scene::set().await;
    scene.spool.leave([scene.turn("CA1", 1, "one")]);
    scene.replay();
    scene.until_left(0).await;
    assert_eq!(scene.set_aside(), (0, 1));
}

#[tokio::test]
async fn what_is_set_aside_of_a_call_is_forgotten_when_the_call_is_erased() {
    let scene = Scene::set().await;
    scene.spool.late(scene.turn("CA1", 1, "of one who was erased"));
    scene.spool.late(scene.turn("CA2", 2, "of somebody else"));
    scene
        .execute(
            "insert into erased_calls (call_sid_sha256, organization_id)
             select sha256('CA1'), id from organisations limit 1",
        )
        .await;
    scene.replay();
    let shared = scene.spool.shared().unwrap();
    until("one is forgotten", async || shared.set_aside_so_far().await.len() == 1).await;
    scene.spool.close().await;
    let (book, _) = super::super::Book::open(scene.dir.path()).unwrap();
    let left = book.refused();
    assert!(left.len() == 1 && left[0].contains("of somebody else"), "{left:?}");
}

#[tokio::test]
async fn an_odd_record_holds_up_its_own_call_only() {
    let scene = Scene::set().await;
    let odd = "
        create function is_odd() returns trigger language plpgsql
        as $$ begin raise exception 'odd'; end $$;
        create trigger odd before insert on conversation_transcripts
        for each row when (new.content = 'odd') execute function is_odd()";
    scene.execute(odd).await;
    for call in ["CA1", "CA2"] {
        scene.offered(call).await;
    }
    scene.spool.leave([
        scene.turn("CA1", 1, "odd"),
        scene.turn("CA1", 2, "one"),
        scene.turn("CA2", 1, "two"),
        scene.ended("CA2"),
    ]);
    scene.replay();
    scene.until_left(2).await;
    assert!(!scene.outage.lasts(), "the database is there");
    assert_eq!(scene.count("conversation_transcripts where call_sid = 'CA2'").await, 1);
    scene.execute("drop trigger odd on conversation_transcripts").await;
    scene.until_left(0).await;
    assert_eq!((scene.count("conversation_transcripts").await, scene.set_aside()), (3, (0, 0)));
}

#[tokio::test]
async fn a_call_of_which_the_carrier_said_first_that_it_is_over_is_ended_when_its_beginning_is_on_record() {
    let scene = Scene::set().await;
    scene.spool.leave([scene.over("CA1")]);
    scene.replay();
    scene.until_left(0).await;
    assert_eq!((scene.count("call_events").await, scene.count("calls").await), (1, 0));
    let (from, to) = (String::new(), String::new());
    let incoming = CallEvent::Incoming { phone_number: None, from, to, to_team: false };
    let to_people = CallEvent::Transferred {
        token: leases::FencingToken(0),
        to: None,
        reason: "nobody is free".into(),
        summary: String::new(),
    };
    let spoken =
        CallEvent::HandoffEnded { handoff: 1, dial_status: "completed".into(), leg: None, duration_s: None };
    let kept = [incoming, to_people, spoken]
        .map(|event| scene.keep("CA1", What::Event { at: Timestamp::now(), event }));
    scene.spool.leave(kept);
    scene.until_left(0).await;
    let ended = "calls where data->'call'->>'endedReason' = 'transferred'";
    until("it is over", async || scene.count(ended).await == 1).await;
}
