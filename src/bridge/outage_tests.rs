//! A call's records while the database is away, from the call's hand to the table: the whole way, with a real PostgreSQL
//! and a clock that only the test moves.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Map;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::afterwards::Answer;
use super::desk::Desk;
use super::outage::Outage;
use super::scribe::{Scribe, Subject, scribe};
use super::spool::{Spool, replay};
use crate::call::end::EndReason;
use crate::call::transcript::{Entry, Remembered, Role, Status};
use crate::clock::{CallTime, StillClock};
use crate::ids::{CallSid, ItemId, StreamSid};
use crate::lifecycle::CallRef;
use crate::redact::{Redaction, Talk};
use crate::store::agents::{self, Agent};
use crate::store::cluster::PrivateCluster;
use crate::store::leases::{self, FencingToken, Offer};
use crate::store::{Store, transcripts};
use crate::telemetry::Metrics;

/// How long the database is away.
const AWAY: Duration = Duration::from_secs(30);
/// More than any pause between two tries, and than what gathers before it is written.
const A_WHILE: Duration = Duration::from_mins(1);

/// What a node has for the records of its calls.
struct Node {
    spool: Spool,
    desk: Arc<Desk>,
    metrics: Metrics,
    writers: JoinSet<()>,
}

struct Scene {
    clock: StillClock,
    /// The way to the database that all take but the test itself.
    door: PathBuf,
    direct: PgConnectOptions,
    store: Store,
    agent: Agent,
    node: Node,
    dir: TempDir,
    _cluster: PrivateCluster,
}

impl Scene {
    async fn set() -> Self {
        let clock = StillClock::hold();
        let cluster = PrivateCluster::start_throwaway().await.unwrap();
        let direct = cluster.connect_options();
        let dir = tempfile::tempdir().unwrap();
        let door = dir.path().join("door");
        symlink(direct.get_socket().unwrap(), &door).unwrap();
        let store = Store::connect(direct.clone().socket(&door), 4).await.unwrap();
        store.migrate().await.unwrap();
        let agent = agents::default_agent(&store).await.unwrap().unwrap();
        let node = Node::start(dir.path().join("spool"), &store).await;
        Self { clock, door, direct, store, agent, node, dir, _cluster: cluster }
    }

    /// As when its process dies and is started again: only what is on the disk is left.
    async fn restart_node(&mut self) {
        self.node.writers.shutdown().await;
        self.node.spool.close().await;
        self.node = Node::start(self.dir.path().join("spool"), &self.store).await;
    }

    async fn database_goes_away(&self) {
        fs::remove_file(&self.door).unwrap();
        let mut connection = self.look().await;
        let end = "select pg_terminate_backend(pid) from pg_stat_activity
                   where pid <> pg_backend_pid() and backend_type = 'client backend'";
        sqlx::raw_sql(end).execute(&mut connection).await.unwrap();
    }

    fn database_is_back(&self) {
        symlink(self.direct.get_socket().unwrap(), &self.door).unwrap();
    }

    async fn look(&self) -> PgConnection {
        self.direct.connect().await.unwrap()
    }

    async fn count(&self, of: &str) -> i64 {
        let query = AssertSqlSafe(format!("select count(*) from {of}"));
        sqlx::query_scalar(query).fetch_one(&mut self.look().await).await.unwrap()
    }

    /// The turns on record, in the order of the conversation.
    async fn turns(&self) -> Vec<String> {
        let query = "select content from conversation_transcripts order by sequence, id";
        sqlx::query_scalar(query).fetch_all(&mut self.look().await).await.unwrap()
    }

    /// A call that this node carries.
    async fn call(&mut self) -> Scribe {
        let call_sid = CallSid::parse("CA1").unwrap();
        let offer = Offer {
            call_sid: &call_sid,
            organization: self.agent.organization_id,
            agent: self.agent.id,
            direction: None,
            from: None,
            to: None,
            token_sha256: [7; 32],
        };
        let token = leases::offer(&self.store, &offer).await.unwrap().unwrap();
        leases::claim(&self.store, &[7; 32], "node").await.unwrap().unwrap();
        self.node.scribe(self.call_ref(), token, &self.store)
    }

    fn call_ref(&self) -> CallRef {
        let call_sid = CallSid::parse("CA1").unwrap();
        CallRef { call_sid, organization: self.agent.organization_id, agent: self.agent.id }
    }

    /// Lets time go by until something is so.
    async fn until(&self, what: &str, is_so: impl AsyncFnMut() -> bool) {
        assert!(self.clock.passes_until(A_WHILE, is_so).await, "not so in time: {what}");
    }
}

impl Node {
    async fn start(spool: PathBuf, store: &Store) -> Self {
        let metrics = Metrics::new();
        let spool = Spool::open(spool, &metrics).await;
        let outage = Outage::new(&metrics);
        replay::start(&spool, store.clone(), outage.clone(), metrics.clone());
        let desk = Arc::new(Desk::open(store, outage));
        Self { spool, desk, metrics, writers: JoinSet::new() }
    }

    fn scribe(&mut self, call: CallRef, token: FencingToken, store: &Store) -> Scribe {
        let subject = Subject {
            call,
            token,
            stream_sid: StreamSid::parse("MZ1").unwrap(),
            node: "node".into(),
            stream_started: Timestamp::now(),
            clock_ahead: SignedDuration::ZERO,
            lasted_before: Duration::ZERO,
            resumable: true,
            after_sequence: 10_000 * (token.0 as u32 - 1),
            talk: Talk::new(Redaction::NONE),
        };
        let (desk, spool, metrics) = (Arc::clone(&self.desk), self.spool.clone(), self.metrics.clone());
        let (scribe, writer) =
            scribe(subject, Vec::new(), Answer::default(), desk, spool, store.clone(), metrics);
        self.writers.spawn(writer.run());
        scribe
    }
}

fn turn(number: u32) -> Entry {
    Entry {
        item: ItemId::parse(&format!("item_{number}")).unwrap(),
        sequence: number,
        revision: 1,
        role: Role::User,
        content: number.to_string(),
        generated: None,
        interrupted: false,
        status: Status::Final,
        at: CallTime::from_millis(u64::from(number)),
        audio_start: None,
        audio_end: None,
        heard_until_ms: None,
        evidence: None,
        response_latency_ms: None,
        tool_name: None,
        tool_call: None,
    }
}

fn numbers(until: u32) -> Vec<String> {
    (1..=until).map(|number| number.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_database_is_away_for_half_a_minute_goes_on_and_every_turn_is_on_record_once_and_in_order()
 {
    let mut scene = Scene::set().await;
    let mut scribe = scene.call().await;
    scribe.turn(turn(1));
    scene.until("it is on record", async || scene.turns().await == numbers(1)).await;
    scene.until("and forgotten here", async || scene.node.metrics.spool_records.get() == 0).await;

    scene.database_goes_away().await;
    for number in 2..=31 {
        scribe.turn(turn(number));
        scene.clock.passes(AWAY / 30).await;
    }
    assert_eq!((scene.turns().await, scene.node.metrics.database_away.get()), (numbers(1), 1));
    assert_eq!(scene.node.metrics.spool_records.get(), 30, "each of them waits");
    assert!(!scribe.lost().is_cancelled(), "the call is ours as far as anybody knows");

    scene.database_is_back();
    scribe.turn(turn(32));
    scene.until("everything is on record", async || scene.turns().await == numbers(32)).await;
    scene.until("nothing waits", async || scene.node.metrics.spool_records.get() == 0).await;
    assert!(!scribe.lost().is_cancelled());
    let counts = |metrics: &Metrics| {
        (metrics.spool_late.get(), metrics.spool_refused.get(), metrics.spool_unkept.get())
    };
    assert_eq!((counts(&scene.node.metrics), scene.node.metrics.database_away.get()), ((0, 0, 0), 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ends_while_the_database_is_away_does_not_wait_for_it_and_is_put_on_record_later() {
    let mut scene = Scene::set().await;
    let mut scribe = scene.call().await;
    scene.database_goes_away().await;
    scribe.turn(turn(1));
    scribe.turn(turn(2));
    let patience = Duration::from_secs(1);
    let began = Instant::now();
    let ended = async {
        scribe.ended(EndReason::CallerHungUp, Duration::from_secs(9), Map::new(), patience).await;
        drop(scribe);
        began.elapsed()
    };
    let (waited, ()) = tokio::join!(ended, scene.clock.passes(AWAY));
    assert!(waited <= patience, "{waited:?}");
    assert_eq!((scene.node.spool.left(), scene.turns().await), (3, vec![]), "two turns and the end");

    scene.database_is_back();
    scene.until("everything is on record", async || scene.turns().await == numbers(2)).await;
    let ended = "call_leases where ended_at is not null and disconnect_reason = 'caller_hung_up'";
    scene.until("its end as well", async || scene.count(ended).await == 1).await;
    scene.until("nothing waits", async || scene.node.metrics.spool_records.get() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_node_kept_while_the_database_was_away_is_put_on_record_by_the_process_after_it() {
    let mut scene = Scene::set().await;
    let mut scribe = scene.call().await;
    scribe.turn(turn(1));
    scene.until("it is on record", async || scene.turns().await == numbers(1)).await;
    scene.database_goes_away().await;
    for number in 2..=5 {
        scribe.turn(turn(number));
    }
    scene.clock.passes(AWAY).await;
    scene.restart_node().await;
    scene.database_is_back();
    scene.until("everything is on record", async || scene.turns().await == numbers(5)).await;
    scene.until("nothing waits", async || scene.node.metrics.spool_records.get() == 0).await;
    assert_eq!(scene.node.metrics.spool_replayed.get(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lost_the_call_while_the_database_was_away_learns_it_and_keeps_to_what_was_said_before() {
    let mut scene = Scene::set().await;
    let mut scribe = scene.call().await;
    scribe.turn(turn(1));
    scene.until("it is on record", async || scene.turns().await == numbers(1)).await;
    scene.database_goes_away().await;
    scribe.connected();
    scribe.turn(turn(2));
    scene.clock.passes(AWAY).await;
    // Another node takes the call, by the way that is open to it.
    let there = Store::connect(scene.direct.clone(), 1).await.unwrap();
    let call_sid = CallSid::parse("CA1").unwrap();
    let next = leases::resume(&there, &call_sid, FencingToken(1), &[8; 32]).await.unwrap();
    assert_eq!(next, Some(FencingToken(2)));
    scribe.turn(Entry { at: CallTime::from_millis(3_600_000), ..turn(3) });
    scene.clock.passes(AWAY).await;

    scene.database_is_back();
    scene.until("the call is given up", async || scribe.lost().is_cancelled()).await;
    drop(scribe);
    scene.until("nothing waits", async || scene.node.metrics.spool_records.get() == 0).await;
    assert_eq!(scene.turns().await, numbers(2), "what was said since then is not ours to tell");
    let connected = r#"calls where event_sequence @> '[{"type": "connected"}]'"#;
    assert_eq!(scene.count(connected).await, 1, "what happened before is");
    assert_eq!(scene.node.metrics.spool_late.get(), 1);
    assert_eq!(scene.count("call_leases where fencing_token = 2 and ended_at is null").await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_node_dies_goes_on_at_another_and_what_the_dead_one_kept_comes_in_its_place() {
    let mut scene = Scene::set().await;
    let mut scribe = scene.call().await;
    scribe.turn(turn(1));
    scribe.turn(turn(2));
    scene.until("both are on record", async || scene.turns().await == numbers(2)).await;
    scene.database_goes_away().await;
    scribe.turn(turn(3));
    scene.clock.passes(Duration::from_secs(1)).await;
    scene.node.writers.shutdown().await;
    drop(scribe);
    scene.database_is_back();

    // As `/twiml/stream-ended` and the stream that follows do it, at the other node.
    let (call, next) = (scene.call_ref(), scene.dir.path().join("the other"));
    let mut other = Node::start(next, &scene.store).await;
    let token =
        leases::resume(&scene.store, &call.call_sid, FencingToken(1), &[8; 32]).await.unwrap().unwrap();
    let claimed = leases::claim(&scene.store, &[8; 32], "other").await.unwrap().unwrap();
    assert_eq!((claimed.fencing_token, claimed.resumed_after), (token, Some(EndReason::StreamLost)));
    let known = transcripts::history(&scene.store, call.organization, &call.call_sid, 10).await.unwrap();
    let one_and_two = ["1", "2"].map(|words| Remembered::Caller(words.to_owned()));
    assert_eq!(known, one_and_two, "the model is told what is on record");
    let mut scribe = other.scribe(call.clone(), token, &scene.store);
    scribe.turn(Entry { sequence: 1, ..turn(4) });
    scene.until("it goes on there", async || scene.turns().await == ["1", "2", "4"]).await;

    scene.restart_node().await;
    scene.until("what was kept is on record, in its place", async || scene.turns().await == numbers(4)).await;
    let beaten = leases::heartbeat(&scene.store, &[(call.call_sid, FencingToken(1))]).await.unwrap();
    assert!(beaten.is_empty() && !scribe.lost().is_cancelled(), "the call is the other node's");
}
