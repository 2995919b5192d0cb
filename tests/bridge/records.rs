//! What is on record of a call: when, in which order, and whatever happens to the database.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tokio::io::copy_bidirectional;
use tokio::join;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use voicebridge::simulate::caller::{CallReport, CallerOptions, run_call};
use voicebridge::simulate::model::script::{Rule, When};
use voicebridge::simulate::model::{ModelOptions, Transcripts};
use voicebridge::simulate::scenario::Step;
use voicebridge::simulate::speech::agent_phrase;

use crate::line::Line;
use crate::look::until;
use crate::world::World;
use crate::{brief, interrupt, listen, only_stream, rule, say, scenario, short, tone};

const PCMU: (&str, &str) = ("AUDIO_FORMAT", "pcmu");

#[tokio::test]
async fn turns_are_on_record_while_the_call_goes_on_with_what_was_heard_and_what_was_not() {
    let script = brief([]);
    let transcripts = Transcripts { delay_ms: 100, ..Transcripts::default() };
    let world = World::start(ModelOptions { script, transcripts, ..ModelOptions::default() }, &[PCMU]).await;
    let steps = scenario([listen(), say("hours-question"), interrupt(2000, "hello"), listen()]);
    let mut calls = JoinSet::new();
    calls.spawn(run_call(CallerOptions { call_sid: Some("CA1".into()), ..world.call(steps) }));
    until("all five turns are on record", async || rows(&world, "CA1").await.len() == 5).await;
    assert_eq!(world.running.metrics.calls_live.get(), 1, "and the caller is still there");
    // Counted from the end of each turn.
    let saved = world.metric("transcript_save_seconds_count");
    assert!(saved >= 5);
    assert_eq!(world.metric(r#"transcript_save_seconds_bucket{le="1.0"}"#), saved, "each within a second");

    let rows = world.transcript("CA1").await;
    let cut = &rows[2];
    let (heard, generated) = (cut["content"].as_str().unwrap(), cut["generated_content"].as_str().unwrap());
    assert_eq!(generated, agent_phrase("hours-answer").unwrap().text);
    assert!(generated.starts_with(heard) && heard.len() < generated.len() && !heard.is_empty(), "{heard}");
    assert_eq!(cut["interrupted"], true);
    let report = world.model.report();
    let item = report.sessions[0].items.iter().find(|item| cut["item_id"] == *item.id).unwrap();
    assert_eq!(cut["heard_until_ms"].as_u64(), item.truncated_ms, "we know of it what the model was told");
    for row in [&rows[0], &rows[1], &rows[3], &rows[4]] {
        assert_eq!((&row["interrupted"], &row["generated_content"]), (&json!(false), &Value::Null), "{row}");
    }
    calls.shutdown().await;
    assert_eq!(world.reason("CA1").await, "stream_lost");
    world.stop().await;
}

/// All nodes go by one clock when they decide whether a turn came in time; a node's own may be wrong.
#[tokio::test]
async fn turns_have_the_time_of_the_database() {
    let five_minutes_ahead = "
        create schema ahead;
        create function ahead.now() returns timestamptz language sql stable
        as $$ select pg_catalog.now() + interval '5 minutes' $$;
        create function ahead.clock_timestamp() returns timestamptz language sql volatile
        as $$ select pg_catalog.clock_timestamp() + interval '5 minutes' $$;
        do $$ begin
            execute format('alter database %I set search_path = public, ahead, pg_catalog', current_database());
        end $$";
    // Before the server has a connection: a setting of the database is one of the connections that begin after it.
    let store = crate::support::store(2).await;
    sqlx::raw_sql(five_minutes_ahead).execute(store.pool()).await.unwrap();
    let database = store.pool().connect_options().to_url_lossy().to_string();
    store.close().await;
    let model = ModelOptions { script: brief([]), ..ModelOptions::default() };
    let world = World::start_on(&database, model, &[PCMU]).await;
    let call = run_call(world.call(short())).await;
    only_stream(&call);
    assert_eq!(world.reason(&call.call_sid).await, "caller_hung_up");
    let turns = world.transcript(&call.call_sid).await.len();
    let query = r#"select count(*) from conversation_transcripts
        where "timestamp" - pg_catalog.now() between interval '4 minutes' and interval '5 minutes'"#;
    assert_eq!((turns, world.value::<i64>(query).await), (3, 3));
    world.stop().await;
}

#[tokio::test]
async fn the_record_of_a_call_tells_its_course_and_its_report() {
    let world = World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, &[PCMU]).await;
    let mut steps = vec![listen(), say("hello"), listen()];
    steps.extend([Step::Pause { ms: 500 }, Step::Drop].into_iter().cycle().take(8));
    let lost = run_call(world.call(scenario(steps)));
    let (completed, failed) = join!(run_call(world.call(short())), lost);
    only_stream(&completed);
    assert_eq!(world.reason(&completed.call_sid).await, "caller_hung_up");
    assert_eq!(world.reason(&failed.call_sid).await, "stream_lost");
    let record = async |call: &CallReport, column: &str| {
        let text: String = world
            .value(&format!("select {column}::text from calls where call_sid = '{}'", call.call_sid))
            .await;
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let again = ["stream_ended", "stream_started"];
    let came_back = [again, again, again].concat();
    let lost = [&came_back[..], &["stream_ended", "call_failed"]].concat();
    for (call, rest) in [(&completed, vec!["agent_call_completed"]), (&failed, lost)] {
        let events = record(call, "event_sequence").await;
        let types: Vec<_> =
            events.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(types, [vec!["incoming_call", "stream_started", "connected"], rest].concat());
        let times: Vec<_> =
            events.as_array().unwrap().iter().map(|event| event["timestamp"].as_str()).collect();
        assert!(times.is_sorted() && times[0].is_some(), "{times:?}");
        assert_eq!(events[0]["details"], json!({"from": call.from, "to": call.to}));
        assert_eq!(events[1]["details"]["stream_sid"], call.streams[0].stream_sid);
    }
    let (report, events) = (record(&completed, "data").await, record(&completed, "event_sequence").await);
    assert_eq!(events[3]["details"], report);
    assert_eq!(
        (&report["call"]["sid"], &report["call"]["endedReason"]),
        (&json!(completed.call_sid), &json!("caller_hung_up"))
    );
    let events = record(&failed, "event_sequence").await;
    assert_eq!(events[3]["details"], json!({"token": 1, "reason": "stream_lost"}));
    assert_eq!(events.as_array().unwrap().last().unwrap()["details"], json!({"reason": "stream_lost"}));
    // As reports of calls have always been read.
    for (call, status) in [(&completed, "completed"), (&failed, "failed")] {
        let query = format!("select call_sid::text from calls where data->'call'->>'status' = '{status}'");
        assert_eq!(world.value::<String>(&query).await, call.call_sid);
        let seconds = (call.streams[0].ended_ms / 1000.0) as i64;
        let query = format!(
            "select count(*) from calls where call_sid = '{}' and (data->'call'->>'duration')::int between {} and {}",
            call.call_sid,
            seconds,
            seconds + 3
        );
        assert_eq!(world.value::<i64>(&query).await, 1, "about {seconds} s");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_lead_is_linked_to_its_own_latest_call_and_never_taken_from_a_live_one() {
    let world = World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, &[PCMU]).await;
    // The line of these tests calls from the first number.
    let (ada, bob) = (world.create_lead("+14155550123").await, world.create_lead("+14155550124").await);
    let linked = async |lead: i64| world.get(&format!("/api/leads/{lead}")).await["data"]["call_sid"].clone();
    let call = |sid: &str, from: &str| {
        let options = world.call(scenario([listen(), Step::HangUp]));
        run_call(CallerOptions { call_sid: Some(sid.into()), from: from.into(), ..options })
    };
    let calls = join!(call("CA1", "+14155550123"), call("CA2", "+14155550124"), call("CA3", "+14155550125"));
    for call in [&calls.0, &calls.1, &calls.2] {
        world.reason(&call.call_sid).await;
    }
    world.settled().await;
    assert_eq!((linked(ada).await, linked(bob).await), (json!("CA1"), json!("CA2")));

    let mut line = world.line("CA4").await;
    line.hear("mark").await;
    until("the lead has moved from the finished call", async || linked(ada).await == "CA4").await;
    let meanwhile = call("CA5", "+14155550123").await;
    assert_eq!(meanwhile.followed.len(), 1, "an ordinary call: {meanwhile:?}");
    until("it is over", async || {
        let ended = "select count(*) from call_leases where call_sid = 'CA5' and ended_at is not null";
        world.value::<i64>(ended).await == 1
    })
    .await;
    assert_eq!(linked(ada).await, "CA4", "the lead is in a live call");
    line.stop().await;
    world.reason("CA4").await;

    call("CA6", "+14155550123").await;
    world.reason("CA6").await;
    world.settled().await;
    assert_eq!((linked(ada).await, linked(bob).await), (json!("CA6"), json!("CA2")));
    world.stop().await;
}

#[tokio::test]
async fn a_database_that_goes_away_neither_ends_nor_delays_a_call_and_gets_its_records_later() {
    let cable = Cable::plug_in().await;
    let answer = |phrase: &str, text: &str| -> Rule { rule(When::Heard(phrase.into()), [tone(400, text)]) };
    let script = brief([answer("address-question", "Mill Street."), answer("still-here", "So am I.")]);
    let settings = [PCMU, ("DATABASE_URL", cable.url.expose_secret())];
    let world = World::start(ModelOptions { script, ..ModelOptions::default() }, &settings).await;
    let steps =
        || [listen(), say("hello"), listen(), say("address-question"), listen(), say("still-here"), listen()];
    let call = |sid: &str, last: Option<Step>| {
        let steps = scenario(steps().into_iter().chain(last));
        run_call(CallerOptions { call_sid: Some(sid.into()), ..world.call(steps) })
    };
    let mut calls = JoinSet::new();
    calls.spawn(call("CA1", None));
    let mut ending = JoinSet::new();
    ending.spawn(call("CA2", Some(Step::HangUp)));
    until("both calls are on record", async || {
        rows(&world, "CA1").await.len() >= 2 && rows(&world, "CA2").await.len() >= 2
    })
    .await;
    cable.unplug();
    // All of this happens while nothing can be written.
    let ended = ending.join_next().await.unwrap().unwrap();
    assert_eq!(ended.missed, Vec::<String>::new());
    assert!(ended.utterances.iter().all(|said| said.answered_ms.is_some()), "{:?}", ended.utterances);
    assert!(ended.streams[0].unheard_bytes == 0 && ended.streams[0].clears.is_empty(), "{ended:?}");
    until("the other caller is answered as well", async || {
        let sessions = world.model.report().sessions;
        sessions
            .iter()
            .all(|session| session.responses.iter().filter(|r| r.status == "completed").count() >= 4)
    })
    .await;
    assert_eq!(world.running.metrics.calls_live.get(), 1);
    let readiness = world.get("/readyz").await["data"].clone();
    assert_eq!(readiness["degraded"], json!(["database_unavailable"]), "and somebody can see it");
    assert!(world.metric("spool_records") >= 4, "and it is kept");

    cable.plug_in_again();
    let whole = [
        "Good day.",
        "Hello?",
        "Hello to you.",
        "And what is your address?",
        "Mill Street.",
        "Yes, I am still here.",
        "So am I.",
    ];
    for call in ["CA1", "CA2"] {
        until("every turn is on record, once and in order", async || {
            rows(&world, call).await.iter().map(|row| row["content"].as_str().unwrap()).collect::<Vec<_>>()
                == whole
        })
        .await;
    }
    assert_eq!(world.running.metrics.calls_live.get(), 1, "the first call is still going on");
    until("the end of the second is on record", async || {
        let query = "select coalesce(max(disconnect_reason), '') from call_leases where call_sid = 'CA2'";
        world.value::<String>(query).await == "caller_hung_up"
    })
    .await;
    assert!(world.metric("store_retries_total") >= 1);
    calls.shutdown().await;
    assert_eq!(world.reason("CA1").await, "stream_lost");
    world.stop().await;
}

#[tokio::test]
async fn a_carrier_that_does_not_read_for_a_while_loses_nothing() {
    let script = brief([rule(When::Greeting, [tone(8000, "A long greeting.")])]);
    let world = World::start(ModelOptions { script, ..ModelOptions::default() }, &[PCMU]).await;
    let waiting = Step::WaitForAgent { heard_ms: 500, within_ms: 30_000 };
    let deaf = [Step::StopReading { ms: 5000 }, Step::Pause { ms: 5500 }];
    let steps = [waiting].into_iter().chain(deaf).chain([listen(), say("hello"), listen(), Step::HangUp]);
    let call = run_call(world.call(scenario(steps))).await;
    let stream = only_stream(&call);
    assert_eq!((stream.heard_bytes, stream.unheard_bytes), (8 * (8000 + 400), 0));
    assert_eq!(world.reason(&call.call_sid).await, "caller_hung_up");
    world.settled().await;
    let rows = world.transcript(&call.call_sid).await;
    assert_eq!(rows.iter().map(|row| row["interrupted"].clone()).collect::<Vec<_>>(), [false, false, false]);
    world.stop().await;
}

#[tokio::test]
async fn turns_that_calls_finish_at_the_same_moment_are_written_in_common_statements() {
    let world = World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, &[PCMU]).await;
    let mut lines = Vec::new();
    for call in 1..=12 {
        let mut line = world.line(&format!("CA{call}")).await;
        line.hear("mark").await;
        lines.push(line);
    }
    for line in &mut lines {
        line.press().await;
    }
    let turns = "select count(*) from conversation_transcripts where role = 'user'";
    until("the keys of all are on record", async || world.value::<i64>(turns).await == 12).await;
    // Rows of one statement were written by one transaction, which every row names.
    let statements = "select count(distinct xmin::text) from conversation_transcripts where role = 'user'";
    let statements: i64 = world.value(statements).await;
    assert!(statements <= 6, "{statements} statements for 12 turns");
    for line in lines {
        line.stop().await;
    }
    world.stop().await;
}

#[tokio::test]
async fn a_turn_that_is_locked_or_refused_holds_back_neither_other_calls_nor_the_proof_of_life() {
    let world = World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, &[PCMU]).await;
    let faults = "
        create function wait_for_the_test() returns trigger language plpgsql
        as $$ begin perform pg_advisory_xact_lock_shared(1); return new; end $$;
        create trigger locked before insert on conversation_transcripts
        for each row when (new.call_sid = 'CA1' and new.role = 'user') execute function wait_for_the_test();
        alter table conversation_transcripts add constraint refused check (call_sid <> 'CA2' or role <> 'user')";
    let pool = world.running.store.pool();
    sqlx::raw_sql(faults).execute(pool).await.unwrap();
    let mut holder = pool.acquire().await.unwrap();
    sqlx::raw_sql("select pg_advisory_lock(1)").execute(&mut *holder).await.unwrap();
    let keys = async |calls: &str| -> i64 {
        let query = format!(
            "select count(*) from conversation_transcripts where role = 'user' and call_sid in ({calls})"
        );
        world.value(&query).await
    };

    let mut lines = Vec::new();
    for call in ["CA1", "CA2", "CA3", "CA4"] {
        let mut line = world.line(call).await;
        line.hear("mark").await;
        lines.push(line);
    }
    for line in &mut lines {
        line.press().await;
    }
    until("the keys of the others are on record", async || keys("'CA3', 'CA4'").await == 2).await;
    until("the first has been refused and is tried again", async || {
        for line in &mut lines {
            line.silence().await; // A stream that says nothing is taken for lost.
        }
        world.metric("store_retries_total") >= 1
    })
    .await;
    let pressed = Instant::now();
    lines[2].press().await;
    until("the next key of another is on record", async || keys("'CA3'").await == 2).await;
    assert!(pressed.elapsed() < Duration::from_secs(4), "it does not wait for the lock with the first");

    let aged = "update call_leases set heartbeat_at = now() - interval '1 hour'";
    sqlx::raw_sql(aged).execute(pool).await.unwrap();
    until("all have shown that they are alive", async || {
        for line in &mut lines {
            line.silence().await;
        }
        let alive = "select count(*) from call_leases where heartbeat_at > now() - interval '1 minute'";
        world.value::<i64>(alive).await == 4
    })
    .await;
    assert_eq!(keys("'CA1', 'CA2'").await, 0, "while one still waits and one has been given up");

    sqlx::raw_sql("select pg_advisory_unlock(1)").execute(&mut *holder).await.unwrap();
    until("the first is on record as well", async || keys("'CA1'").await == 1).await;
    drop(holder);
    for line in lines {
        line.stop().await;
    }
    for call in ["CA1", "CA2", "CA3", "CA4"] {
        world.reason(call).await;
    }
    world.stop().await;
}

impl Line {
    /// A key that ends what the caller types, and so is a turn at once.
    async fn press(&mut self) {
        let dtmf = json!({"track": "inbound_track", "digit": "#"});
        self.text(json!({"event": "dtmf", "streamSid": "MZ1", "dtmf": dtmf}).to_string()).await;
    }
}

/// What is on record so far, perhaps nothing.
pub(crate) async fn rows(world: &World, call: &str) -> Vec<Value> {
    let answer = world.get(&format!("/transcripts/{call}")).await;
    answer["transcripts"].as_array().cloned().unwrap_or_default()
}

/// The way to the database, which can be cut: nothing comes through and nothing says so.
pub(crate) struct Cable {
    pub(crate) url: secrecy::SecretString,
    /// The other way to it, which is not cut.
    pub(crate) direct: PgConnectOptions,
    plugged_in: watch::Sender<bool>,
    _carrying: JoinSet<()>,
}

impl Cable {
    pub(crate) async fn plug_in() -> Self {
        let store = crate::support::store(1).await;
        let options = store.pool().connect_options();
        let direct = (*options).clone();
        let socket = options.get_socket().expect("tests use a Unix socket").join(".s.PGSQL.5432");
        let (user, database) = (options.get_username(), options.get_database().expect("it has a name"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("postgres://{user}@{address}/{database}?sslmode=disable").into();
        store.close().await;
        let (plugged_in, seen) = watch::channel(true);
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut outer, _) = listener.accept().await.unwrap();
                let (socket, mut seen) = (socket.clone(), seen.clone());
                connections.spawn(async move {
                    if *seen.borrow_and_update() {
                        let mut inner = UnixStream::connect(&socket).await.unwrap();
                        tokio::select! {
                            _ = copy_bidirectional(&mut outer, &mut inner) => return,
                            _ = seen.changed() => {}
                        }
                    }
                    // What hangs breaks when the way is free again.
                    let _ = seen.wait_for(|plugged_in| *plugged_in).await;
                });
            }
        });
        Self { url, direct, plugged_in, _carrying: carrying }
    }

    pub(crate) fn unplug(&self) {
        self.plugged_in.send_replace(false);
    }

    pub(crate) fn plug_in_again(&self) {
        self.plugged_in.send_replace(true);
    }
}

#[tokio::test]
async fn a_call_that_comes_back_on_another_stream_goes_on_in_its_transcript() {
    let world = World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, &[PCMU]).await;
    for streams in 1..=2 {
        let mut line = world.line("CA1").await;
        line.hear("media").await;
        line.press().await;
        until("the key is on record", async || {
            world.transcript("CA1").await.iter().filter(|row| row["role"] == "user").count() == streams
        })
        .await;
        line.stop().await;
        world.settled().await;
    }
    let rows = world.transcript("CA1").await;
    let sequence: Vec<i64> = rows.iter().map(|row| row["sequence"].as_i64().unwrap()).collect();
    assert!(sequence.is_sorted_by(|one, next| one < next), "{sequence:?}");
    let items: std::collections::BTreeSet<_> = rows.iter().map(|row| row["item_id"].to_string()).collect();
    assert_eq!(items.len(), rows.len(), "each item is one row");
    world.stop().await;
}

#[tokio::test]
async fn a_caller_whose_number_comes_with_the_last_callback_is_linked_then() {
    let world = World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, &[PCMU]).await;
    let lead = world.create_lead("+14155550177").await;
    let mut line = world.connect(&world.open_address()).await.expect("a signed stream");
    line.start("CA1", &json!({})).await;
    line.hear("media").await;
    line.stop().await;
    world.reason("CA1").await;
    let linked = async || world.get(&format!("/api/leads/{lead}")).await["data"]["call_sid"].clone();
    assert_eq!(linked().await, Value::Null, "nobody has said who called");
    let over = [
        ("CallSid", "CA1"),
        ("CallStatus", "completed"),
        ("Direction", "inbound"),
        ("From", "+14155550177"),
        ("To", "+14155550100"),
    ];
    world.webhook("/api/twilio/call-status", &over).await;
    assert_eq!(linked().await, "CA1");
    world.stop().await;
}
