//! PostgreSQL is killed under calls, and the node with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use voicebridge::app::install_tls;
use voicebridge::simulate::caller::{CallReport, CallerOptions, EndedBy, run_call, run_many};
use voicebridge::simulate::model::{ItemReport, ModelOptions, ModelServer, Replies, SessionReport};
use voicebridge::simulate::scenario::{Scenario, Step, Utterance};

use crate::ALONE;
use crate::node::{Node, TOKEN, until};
use crate::postgres::Postgres;
use crate::world::World;

const PCMU: (&str, &str) = ("AUDIO_FORMAT", "pcmu");

const CALLS: usize = 50;
const AWAY: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_is_killed_for_half_a_minute_under_fifty_calls_and_no_call_and_no_turn_is_lost() {
    let _alone = ALONE.lock().await;
    let mut postgres = Postgres::start().await;
    let replies = Replies::Tones { min_ms: 1000, max_ms: 3000 };
    let model = ModelOptions { replies, ..ModelOptions::default() };
    let world = World::start(model, &[PCMU, ("DATABASE_URL", &postgres.url())]).await;
    let any = world.call(Scenario::named("short").unwrap());
    // Some end while nothing can be written, most after that.
    let options = CallerOptions { random_ms: Some(60_000), ..any };
    let mut calls = JoinSet::new();
    calls.spawn(async move { run_many(CALLS, Duration::from_millis(100), &options).await });
    until("all calls are live", async || {
        world.running.metrics.calls_live.get().unsigned_abs() == CALLS as u64
    })
    .await;
    sleep(Duration::from_secs(10)).await;

    postgres.kill().await;
    let killed = Instant::now();
    until("records wait on disk", async || metric(&world, "spool_records") > 0).await;
    let (status, readiness) = readiness(&world).await;
    assert_eq!(
        (status, &readiness["status"], &readiness["degraded"][0]),
        (200, &"degraded".into(), &"database_unavailable".into())
    );
    sleep(AWAY.saturating_sub(killed.elapsed())).await;
    let (waiting, live) = (metric(&world, "spool_records"), world.running.metrics.calls_live.get());
    until("no call is over but by its caller or its agent", async || {
        let ended = |reason| metric(&world, &format!("calls_ended_total{{reason=\"{reason}\"}}"));
        let live = world.running.metrics.calls_live.get().unsigned_abs();
        live + ended("caller_hung_up") + ended("agent_ended") == CALLS as u64
    })
    .await;
    postgres.come_back().await;
    println!("{waiting} records waited and {live} calls were live when the database came back");
    assert!(waiting > CALLS as u64, "{waiting} records waited");

    let calls = calls.join_next().await.unwrap().unwrap();
    until("nothing waits any more", async || metric(&world, "spool_records") == 0).await;
    until("every task has ended", async || world.running.tasks.running() == 0).await;
    let sessions = world.model.report().sessions;
    assert_eq!(sessions.len(), CALLS, "each call kept its session");
    let by_item: BTreeMap<&str, &SessionReport> = sessions
        .iter()
        .flat_map(|session| session.items.iter().map(move |item| (item.id.as_str(), session)))
        .collect();
    for call in &calls {
        assert_eq!((call.streams.len(), &call.violations), (1, &Vec::new()), "{call:?}");
        check_end(call, &disconnect_reason(world.running.store.pool(), &call.call_sid).await);
        let rows = world.transcript(&call.call_sid).await;
        check_turns(&rows, by_item[rows[0]["item_id"].as_str().unwrap()]);
        let types = events(world.running.store.pool(), &call.call_sid).await;
        assert_eq!(types.len(), BTreeSet::from_iter(&types).len(), "each once: {types:?}");
        let last = types.last().map(String::as_str);
        assert!(matches!(last, Some("agent_call_completed" | "call_failed")), "{types:?}");
        assert_eq!(types[..3], ["incoming_call", "stream_started", "connected"]);
    }
    assert_eq!((metric(&world, "spool_refused_total"), metric(&world, "spool_late_total")), (0, 0));
    assert_eq!(metric(&world, "spool_unkept_total"), 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_while_postgres_is_away_puts_everything_on_record_when_it_starts_again() {
    let _alone = ALONE.lock().await;
    install_tls();
    let mut postgres = Postgres::start().await;
    let model = ModelServer::bind(ModelOptions::default(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let mut node = Node::start(None, postgres.url(), model.url()).await;
    let mut calls = JoinSet::new();
    for number in 0..5 {
        let listen = || Step::Listen { silence_ms: 500, within_ms: 30_000 };
        let ask = |phrase: &str| Step::Say(Utterance::Phrase(phrase.into()));
        let steps = vec![
            listen(),
            ask("hello"),
            listen(),
            ask("address-question"),
            listen(),
            ask("still-here"),
            listen(),
        ];
        let scenario = Scenario { name: "faults".into(), voice: "anna".into(), steps };
        let webhook = format!("http://{}/media-stream-twiml", node.server.addr);
        let options = CallerOptions::new(webhook, Some(SecretString::from(TOKEN)), scenario).numbered(number);
        calls.spawn(run_call(CallerOptions { call_sid: Some(format!("CA{number}")), ..options }));
    }
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    let on_record = async || {
        let count = "select count(*) from conversation_transcripts";
        sqlx::query_scalar::<_, i64>(count).fetch_one(&pool).await.unwrap()
    };
    until("all have been greeted", async || on_record().await >= 5).await;
    postgres.kill().await;
    let before = turns(&model);
    until("every call has gone on for two turns", async || {
        let now = turns(&model);
        now.iter().zip(&before).all(|(now, before)| now.len() >= before.len() + 2)
    })
    .await;
    // A turn is durable within a moment of its end.
    let finished = turns(&model);
    sleep(Duration::from_secs(1)).await;
    node.server.kill().await.unwrap();
    calls.shutdown().await;

    postgres.come_back().await;
    node.server.start_again().await.unwrap();
    let wanted: usize = finished.iter().map(|turns| turns.len() - 1).sum();
    let pool = PgPool::connect(&postgres.url()).await.unwrap();
    until("what was kept is on record", async || {
        let count = "select count(*) from conversation_transcripts";
        sqlx::query_scalar::<_, i64>(count).fetch_one(&pool).await.unwrap().unsigned_abs() >= wanted as u64
    })
    .await;
    for finished in &finished {
        let sid = "select call_sid from conversation_transcripts where item_id = $1";
        let sid: String = sqlx::query_scalar(sid).bind(&finished[0]).fetch_one(&pool).await.unwrap();
        let rows = "select item_id from conversation_transcripts where call_sid = $1 order by sequence";
        let rows: Vec<String> = sqlx::query_scalar(rows).bind(&sid).fetch_all(&pool).await.unwrap();
        // The last one may have been going on.
        let certain = finished.len() - 1;
        assert_eq!(rows[..certain], finished[..certain], "once and in order");
        assert_eq!(events(&pool, &sid).await, ["incoming_call", "stream_started", "connected"]);
    }
    assert_eq!(node.server.metric("spool_refused_total").await.unwrap() as u64, 0);
    node.stop().await;
    model.stop().await;
}

// ---- Helpers ---------------------------------------------------------------------------------------------------------

/// The turns of each call so far, as the model knows them.
fn turns(model: &ModelServer) -> Vec<Vec<String>> {
    let of_session = |session: SessionReport| {
        session.items.iter().filter(|item| is_turn(item)).map(|item| item.id.clone()).collect()
    };
    model.report().sessions.into_iter().map(of_session).collect()
}

/// The call went to the end that its scenario had in mind.
fn check_end(call: &CallReport, reason: &str) {
    match call.ended_by {
        // Out of patience is who says goodbye to a model of tones.
        EndedBy::Caller | EndedBy::Patience => assert_eq!(reason, "caller_hung_up", "{call:?}"),
        EndedBy::Twiml => assert_eq!(reason, "agent_ended", "{call:?}"),
        EndedBy::Error | EndedBy::Carrier => panic!("{reason}: {call:?}"),
    }
    // An answer may be too short to be interrupted; that is no fault of ours.
    let is_short = |missed: &String| missed.ends_with("the agent was not heard for long enough");
    assert!(call.missed.iter().all(is_short), "{call:?}");
}

async fn disconnect_reason(pool: &PgPool, call: &str) -> String {
    let reason = "select disconnect_reason from call_leases where call_sid = $1";
    sqlx::query_scalar(reason).bind(call).fetch_one(pool).await.unwrap()
}

/// Every turn of the conversation is one row, and the rows stand in the conversation's order.
fn check_turns(rows: &[Value], session: &SessionReport) {
    let written: Vec<&str> = rows.iter().map(|row| row["item_id"].as_str().unwrap()).collect();
    let spoken: Vec<&str> =
        session.items.iter().filter(|item| is_turn(item)).map(|item| item.id.as_str()).collect();
    // What the model began to say as the caller hung up was not heard by anybody, and may be on record or not.
    let last = session.items.last();
    let unheard =
        last.is_some_and(|item| item.role.as_deref() == Some("assistant") && item.status != "completed");
    let until = if unheard { spoken.len().min(written.len()) } else { spoken.len() };
    assert!(spoken.len() <= until + 1, "{spoken:?}");
    assert_eq!(written, spoken[..until]);
    let sequence: Vec<i64> = rows.iter().map(|row| row["sequence"].as_i64().unwrap()).collect();
    assert!(sequence.is_sorted_by(|one, next| one < next), "{sequence:?}");
}

/// Items that somebody spoke, pressed or called; a function's answer stands in the row of its call.
fn is_turn(item: &ItemReport) -> bool {
    match item.kind.as_str() {
        "message" => {
            item.role.as_deref() != Some("assistant") || item.generated_ms.is_some_and(|ms| ms > 0.0)
        }
        "function_call" => item.status == "completed",
        _ => false,
    }
}

/// What happened to a call, in order, without what may happen more than once.
async fn events(pool: &PgPool, call: &str) -> Vec<String> {
    let events =
        "select event->>'type' from calls, jsonb_array_elements(event_sequence) event where call_sid = $1";
    sqlx::query_scalar(events).bind(call).fetch_all(pool).await.unwrap()
}

async fn readiness(world: &World) -> (u16, Value) {
    let answer = world.http.get(world.running.public_url.join("/readyz")).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json::<Value>().await.unwrap()["data"].clone())
}

/// One count of `/metrics`.
fn metric(world: &World, series: &str) -> u64 {
    let text = world.running.metrics.encode();
    let wanted = format!("voicebridge_{series} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&wanted));
    value.map_or(0, |value| value.parse().expect("a whole number"))
}
