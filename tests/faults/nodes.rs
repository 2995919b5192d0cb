//! One of two nodes dies, or is stopped, under fifty calls.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use voicebridge::app::install_tls;
use voicebridge::simulate::balancer::Balancer;
use voicebridge::simulate::caller::{CallReport, CallerOptions, EndedBy, MarkReturn, StreamEnd, run_many};
use voicebridge::simulate::model::{ItemReport, ModelOptions, ModelServer, Replies, SessionReport};
use voicebridge::simulate::scenario::{Scenario, Step, Utterance};
use voicebridge::store::Store;
use voicebridge::store::cluster::PrivateCluster;

use crate::node::{Node, SOON, TOKEN, until};

const CALLS: usize = 50;
/// Between two calls that begin, so that they are not all in the same word.
const APART: Duration = Duration::from_millis(40);
/// From the end of a turn to its row.
const DURABLE_WITHIN_MS: f64 = 300.0;
/// How long the balancer does not know that a node stops.
const NOTICED_AFTER: Duration = Duration::from_secs(5);
/// Into the calls.
const FAULT_AFTER: Duration = Duration::from_secs(9);

/// Two nodes behind a balancer, with one database and one model.
pub(crate) struct Pair {
    pub(crate) balancer: Balancer,
    pub(crate) nodes: [Node; 2],
    model: ModelServer,
    pool: PgPool,
    cluster: PrivateCluster,
}

/// A turn on record.
#[derive(Debug, sqlx::FromRow)]
struct Row {
    item_id: String,
    role: String,
    content: String,
    sequence: i32,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        install_tls();
        let replies = Replies::Tones { min_ms: 1000, max_ms: 4000 };
        let model = ModelOptions { replies, ..ModelOptions::default() };
        let model = ModelServer::bind(model, ([127, 0, 0, 1], 0).into()).await.unwrap();
        let cluster = PrivateCluster::start_throwaway().await.unwrap();
        let options = cluster.connect_options();
        let store = Store::connect(options.clone(), 2).await.unwrap();
        store.migrate().await.unwrap();
        store.close().await;
        let balancer = Balancer::start().await.unwrap();
        let node = async || {
            let public_url = format!("http://{}", balancer.addr());
            let node = Node::start(Some(public_url), cluster.url(), model.url()).await;
            balancer.add(node.server.addr);
            node
        };
        let nodes = [node().await, node().await];
        let pool = PgPool::connect_with(options).await.unwrap();
        Self { balancer, nodes, model, pool, cluster }
    }

    /// Calls with so many questions, of five seconds each.
    pub(crate) fn calls(
        &self,
        number: usize,
        questions: usize,
    ) -> impl Future<Output = Vec<CallReport>> + use<> {
        let listen = || Step::Listen { silence_ms: 600, within_ms: 20_000 };
        let say = |phrase: &str| Step::Say(Utterance::Phrase(phrase.into()));
        let turns = ["address-question", "hello"].into_iter().cycle().take(questions);
        let mut steps = vec![listen()];
        steps.extend(turns.flat_map(|phrase| [say(phrase), listen()]));
        steps.push(Step::HangUp);
        let scenario = Scenario { name: "survives".into(), voice: "anna".into(), steps };
        let url = format!("http://{}/media-stream-twiml", self.balancer.addr());
        let options = CallerOptions::new(url, Some(SecretString::from(TOKEN)), scenario);
        async move { run_many(number, APART, &options).await }
    }

    async fn rows(&self, call: &str) -> Vec<Row> {
        sqlx::query_as("select item_id, role, content, sequence from conversation_transcripts where call_sid = $1 order by sequence, id")
            .bind(call)
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    pub(crate) async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    /// What was put on record by nodes that had calls first and lost them: call, words, and whether the turn began before
    /// it was offered to another node. In the order in which they were written.
    pub(crate) async fn turns_of_first_streams(&self) -> Vec<(String, String, bool)> {
        let query = r#"select turn.call_sid, content, turn."timestamp" < next.offered_at
            from conversation_transcripts turn
            join call_streams next on next.call_sid = turn.call_sid and next.fencing_token = 2
            where sequence < 10000
            order by turn.id"#;
        sqlx::query_as(query).fetch_all(&self.pool).await.unwrap()
    }

    /// What the calls went through, by the nodes' reports.
    pub(crate) async fn events(&self) -> String {
        let query = "select string_agg(event_sequence::text, E'\n' order by call_sid) from calls";
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    /// Waits until all that the calls leave is on record.
    pub(crate) async fn settled(&self) {
        until("every call is over", async || {
            self.count("select count(*) from call_leases where ended_at is null").await == 0
        })
        .await;
        // Texts that come late are written a moment after the end.
        let mut turns = -1;
        until("no more turns are written", async || {
            let before = turns;
            turns = self.count("select count(*) from conversation_transcripts").await;
            sleep(Duration::from_secs(2)).await;
            before == turns
        })
        .await;
    }

    pub(crate) async fn stop(self) {
        for node in self.nodes {
            node.stop().await;
        }
        self.pool.close().await;
        self.model.stop().await;
        self.cluster.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_one_of_two_nodes_is_killed_its_calls_speak_again_within_three_seconds_and_no_turn_is_lost() {
    let _alone = crate::ALONE.lock().await;
    let mut pair = Pair::start().await;
    let mut calls = JoinSet::from_iter([pair.calls(CALLS, 5)]);
    sleep(FAULT_AFTER).await;
    let live = pair.nodes[0].calls_live().await;
    assert!(live >= CALLS as u64 / 4, "the calls are spread over the nodes: {live}");
    let before_kill = Instant::now();
    pair.balancer.remove(pair.nodes[0].server.addr);
    pair.nodes[0].server.kill().await.unwrap();
    eprintln!("killed within {:?}", before_kill.elapsed());
    let calls = calls.join_next().await.unwrap().unwrap();
    pair.nodes[0].server.start_again().await.unwrap(); // What it had not yet told the database, it tells now.
    pair.settled().await;

    let sessions = pair.model.report().sessions;
    let mut back_after = Vec::new();
    for call in &calls {
        assert_eq!((&call.violations, call.ended_by), (&Vec::new(), EndedBy::Caller), "{call:?}");
        let rows = pair.rows(&call.call_sid).await;
        let of_call = sessions_of(&sessions, &rows);
        assert!(of_call.iter().all(|session| session.violations.is_empty()), "{of_call:?}");
        check_order(&rows, &of_call);
        if let [lost, next] = &call.streams[..] {
            assert_eq!(lost.ended_by, StreamEnd::Broken, "{call:?}");
            let first = next.first_audio_ms.expect("the agent speaks again");
            back_after.push(first - lost.ended_ms);
            check_finished(call, &rows, of_call[0]);
            check_told(&rows, of_call.last().unwrap(), 2);
        } else {
            assert_eq!(call.streams.len(), 1, "{call:?}");
        }
    }
    back_after.sort_by(f64::total_cmp);
    eprintln!("{} calls came back, after {:?} ms", back_after.len(), back_after);
    assert_eq!(back_after.len() as u64, live, "every call of the node that died");
    assert!(back_after.iter().all(|ms| *ms <= 3_000.0), "{back_after:?}");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_one_of_two_nodes_is_stopped_its_calls_move_at_a_pause_and_the_caller_is_told_nothing() {
    let _alone = crate::ALONE.lock().await;
    let mut pair = Pair::start().await;
    let mut calls = JoinSet::from_iter([pair.calls(CALLS, 11)]);
    sleep(FAULT_AFTER).await;
    let live = pair.nodes[0].calls_live().await;
    let node = &mut pair.nodes[0].server;
    node.signal("TERM").await.unwrap();
    // A balancer needs a while to learn that nothing is to be sent there any more.
    sleep(NOTICED_AFTER).await;
    pair.balancer.remove(node.addr);
    // It may have ended before it is asked.
    until("its calls have left", async || node.metric("calls_live").await.unwrap_or(0.0) == 0.0).await;
    assert!(calls.try_join_next().is_none(), "before they were over");
    // Streams that were offered by it and came to the other one are waited for a while.
    assert!(node.ended(SOON).await.unwrap().success());
    let calls = calls.join_next().await.unwrap().unwrap();
    pair.nodes[0].server.start_again().await.unwrap();
    pair.settled().await;

    let sessions = pair.model.report().sessions;
    let mut moved = 0;
    for call in &calls {
        assert_eq!((&call.violations, &call.missed), (&Vec::new(), &Vec::new()), "{call:?}");
        assert_eq!(call.ended_by, EndedBy::Caller, "{call:?}");
        let rows = pair.rows(&call.call_sid).await;
        let of_call = sessions_of(&sessions, &rows);
        check_order(&rows, &of_call);
        if let [left, _] = &call.streams[..] {
            moved += 1;
            assert_eq!(left.ended_by, StreamEnd::Server(Some(1000)), "{call:?}");
            assert_eq!((left.cleared_bytes, left.unheard_bytes), (0, 0), "nobody was cut off");
            check_told(&rows, of_call.last().unwrap(), 0);
            let mut purposes =
                of_call.last().unwrap().responses.iter().map(|response| &response.metadata["purpose"]);
            assert!(
                purposes.all(|purpose| purpose == "turn"),
                "the model answers the caller, and says nothing of the move"
            );
        }
    }
    assert_eq!(moved, live, "every call of the node that was stopped");
    pair.stop().await;
}

/// The model's sessions of one call, in order.
fn sessions_of<'a>(sessions: &'a [SessionReport], rows: &[Row]) -> Vec<&'a SessionReport> {
    let of_call = |session: &&SessionReport| {
        session.items.iter().any(|item| rows.iter().any(|row| row.item_id == item.id))
    };
    sessions.iter().filter(of_call).collect()
}

/// Every turn stands once, and in the order in which it was spoken.
fn check_order(rows: &[Row], sessions: &[&SessionReport]) {
    let spoken = sessions.iter().flat_map(|session| &session.items);
    let place: BTreeMap<&str, usize> =
        spoken.enumerate().map(|(place, item)| (item.id.as_str(), place)).collect();
    let places: Vec<usize> = rows.iter().map(|row| place[row.item_id.as_str()]).collect();
    assert!(places.is_sorted_by(|one, next| one < next), "{rows:?}");
    assert!(rows.is_sorted_by(|one, next| one.sequence < next.sequence), "{rows:?}");
}

/// What had been said and heard to its end a moment before the node died is on record.
fn check_finished(call: &CallReport, rows: &[Row], session: &SessionReport) {
    let durable_by = call.streams[0].ended_ms - DURABLE_WITHIN_MS;
    let heard_out = |item: &ItemReport| {
        let Some(all) = item.generated_ms.filter(|ms| *ms > 0.0) else { return false };
        call.streams[0].marks.iter().any(|mark| {
            let mut parts = mark.name.split(':').skip(1);
            let (of, ms) = (parts.next(), parts.next().and_then(|ms| ms.parse::<f64>().ok()));
            mark.returned_ms.is_some_and(|at| at <= durable_by)
                && mark.returned == Some(MarkReturn::Played)
                && of == Some(&item.id)
                && ms.is_some_and(|ms| ms >= all - 20.0)
        })
    };
    let on_record = |item: &ItemReport| rows.iter().any(|row| row.item_id == item.id);
    let last = session.items.iter().rposition(|item| item.role.as_deref() == Some("user"));
    for (place, item) in session.items.iter().enumerate() {
        let finished = match item.role.as_deref() {
            Some("assistant") => heard_out(item),
            // The text of the last one may have been on its way.
            Some("user") => item.transcript.is_some() && Some(place) != last,
            _ => false,
        };
        assert!(!finished || on_record(item), "{item:?} of {} is not on record: {rows:?}", call.call_sid);
    }
}

/// The session that went on was told what is on record of the stream before, but for so many turns that came too late.
fn check_told(rows: &[Row], session: &SessionReport, late: usize) {
    let told: Vec<&str> = session
        .items
        .iter()
        .filter(|item| item.id.starts_with("seed-"))
        .map(|item| item.text.as_str())
        .collect();
    let before: Vec<&str> = rows
        .iter()
        .filter(|row| row.sequence < 10_000 && row.role != "tool")
        .map(|row| row.content.as_str())
        .collect();
    assert!(before.starts_with(&told) && told.len() + late >= before.len(), "{told:?} of {before:?}");
}
