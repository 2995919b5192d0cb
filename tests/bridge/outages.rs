//! A call whose right is lost, a turn that is refused, and calls that come while the database is away.

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use voicebridge::simulate::balancer::Balancer;
use voicebridge::simulate::caller::{CallerOptions, run_call};
use voicebridge::simulate::model::ModelOptions;
use voicebridge::simulate::model::script::When;
use voicebridge::simulate::scenario::Step;
use voicebridge::wire::signature::sign;

use crate::line::{ENDED, Line, arrival};
use crate::look::until;
use crate::records::{Cable, rows};
use crate::tools::asking;
use crate::world::World;
use crate::{brief, listen, only_stream, rule, say, scenario, tone};

const PCMU: (&str, &str) = ("AUDIO_FORMAT", "pcmu");

/// What another node does when it takes a call over.
const TAKE_OVER: &str = "
    with taken as (
        update call_leases
        set fencing_token = fencing_token + 1, stream_token_sha256 = sha256('theirs'), offered_at = now(), node = 'other'
        where call_sid = 'CA1'
        returning call_sid, fencing_token, organization_id, offered_at
    )
    insert into call_streams (call_sid, fencing_token, organization_id, offered_at)
    select call_sid, fencing_token, organization_id, offered_at from taken";

#[tokio::test]
async fn a_node_that_has_lost_a_call_writes_nothing_more_of_it_and_lets_go() {
    let world = World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, &[PCMU]).await;
    let mut line = world.line("CA1").await;
    line.hear("mark").await;
    line.type_in("1").await;
    until("the key is on record", async || keys(&world, "CA1").await == ["1#"]).await;
    let before = events(&world, "CA1").await;
    sqlx::raw_sql(TAKE_OVER).execute(world.running.store.pool()).await.unwrap();
    line.type_in("2").await;
    line.closed().await;
    world.settled().await;
    until("nothing of it waits", async || world.metric("spool_records") == 0).await;
    assert_eq!(
        keys(&world, "CA1").await,
        ["1#"],
        "what came after the other offer is not the truth any more"
    );
    assert_eq!(events(&world, "CA1").await, before);
    let untouched = "select count(*) from call_leases
                     where call_sid = 'CA1' and node = 'other' and ended_at is null and next_action is null
                       and disconnect_reason is null";
    assert_eq!(world.value::<i64>(untouched).await, 1, "the call is the other's");
    assert_eq!(world.metric(r#"calls_ended_total{reason="lease_lost"}"#), 1);
    assert!(world.metric("spool_late_total") >= 1);
    world.stop().await;
}

#[tokio::test]
async fn what_was_said_before_a_call_was_lost_is_put_on_record_all_the_same() {
    let world = World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, &[PCMU]).await;
    let mut line = world.line("CA1").await;
    line.hear("mark").await;
    line.type_in("1").await;
    until("the key is on record", async || keys(&world, "CA1").await == ["1#"]).await;
    // The other node's clock: it takes the call over a minute from now, and yet before we write.
    let later = TAKE_OVER.replace("offered_at = now()", "offered_at = now() + interval '1 minute'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(later)).execute(world.running.store.pool()).await.unwrap();
    line.type_in("2").await;
    line.closed().await;
    until("what was said in time is on record", async || keys(&world, "CA1").await == ["1#", "2#"]).await;
    world.stop().await;
}

#[tokio::test]
async fn a_turn_that_is_refused_takes_no_other_turn_of_its_call_along() {
    let world = World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, &[PCMU]).await;
    let faults = "
        create function wait_for_the_test() returns trigger language plpgsql
        as $$ begin perform pg_advisory_xact_lock_shared(1); return new; end $$;
        create trigger locked before insert on conversation_transcripts
        for each row when (new.content like '%1#%') execute function wait_for_the_test();
        alter table conversation_transcripts add constraint refused check (content not like '%3#%')";
    let pool = world.running.store.pool();
    sqlx::raw_sql(faults).execute(pool).await.unwrap();
    let mut holder = pool.acquire().await.unwrap();
    sqlx::raw_sql("select pg_advisory_lock(1)").execute(&mut *holder).await.unwrap();
    let mut line = world.line("CA1").await;
    line.hear("mark").await;
    line.type_in("1").await;
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'advisory'";
    until("the first key is being written", async || world.value::<i64>(waits).await == 1).await;
    for key in ["2", "3", "4"] {
        line.type_in(key).await;
    }
    until("all have been heard", async || world.metric("spool_records") >= 4).await;
    sqlx::raw_sql("select pg_advisory_unlock(1)").execute(&mut *holder).await.unwrap();
    drop(holder);
    until("its neighbours are on record", async || keys(&world, "CA1").await == ["1#", "2#", "4#"]).await;
    until("it is set aside", async || world.metric("spool_refused_total") == 1).await;
    line.stop().await;
    world.reason("CA1").await;
    world.stop().await;
}

#[tokio::test]
async fn a_call_that_comes_while_the_database_is_away_is_answered_and_put_on_record_later() {
    let cable = Cable::plug_in().await;
    let goodbye = asking("goodbye", tone(400, "Goodbye."), &[("end_call", r#"{"reason":"done"}"#)]);
    let script = brief([goodbye, rule(When::Heard("address-question".into()), [tone(400, "Mill Street.")])]);
    let settings = [PCMU, ("DATABASE_URL", secrecy::ExposeSecret::expose_secret(&cable.url))];
    let world = World::start(ModelOptions { script, ..ModelOptions::default() }, &settings).await;
    let call = |sid: &str, last: Vec<Step>| {
        let steps = scenario([listen(), say("hello"), listen()].into_iter().chain(last));
        run_call(CallerOptions { call_sid: Some(sid.into()), ..world.call(steps) })
    };
    call("CA1", vec![Step::HangUp]).await;
    world.reason("CA1").await;
    world.settled().await;
    cable.unplug();
    let called = call("CA2", vec![say("address-question"), listen(), Step::HangUp]).await;
    only_stream(&called);
    assert!(called.utterances.iter().all(|said| said.answered_ms.is_some()), "{:?}", called.utterances);
    // Once the database is known to be away, the caller does not wait for it.
    let again = call("CA3", vec![Step::Drop]).await;
    assert!(again.webhook_ms < 5_000.0, "{} ms until the call was answered", again.webhook_ms);
    assert!(again.followed[0].starts_with("Connect"), "{again:?}");
    let ended = call("CA4", vec![say("goodbye")]).await;
    // What the call has decided is remembered.
    assert_eq!((ended.followed.len(), ended.followed[1].as_str()), (2, "Hangup"), "{ended:?}");

    cable.plug_in_again();
    until("nothing waits any more", async || world.metric("spool_records") == 0).await;
    let turns = ["Good day.", "Hello?", "Hello to you.", "And what is your address?", "Mill Street."];
    assert_eq!(world.reason("CA4").await, "agent_ended");
    for (call, expected, reason) in
        [("CA2", &turns[..], "caller_hung_up"), ("CA3", &turns[..3], "stream_lost")]
    {
        let rows = rows(&world, call).await;
        let contents: Vec<&str> = rows.iter().map(|row| row["content"].as_str().unwrap()).collect();
        assert_eq!(contents, expected, "{call}");
        let types = events(&world, call).await;
        assert_eq!(types[..3], ["incoming_call", "stream_started", "connected"], "{call}");
        assert_eq!(types.len(), 4, "{types:?}");
        assert_eq!(world.reason(call).await, reason);
        let of_call = |query: &str| format!("{query} where call_sid = '{call}'");
        let lease = of_call(
            "select fencing_token = 1 and claimed_at is not null and node is not null from call_leases",
        );
        assert!(world.value::<bool>(&lease).await);
        assert_eq!(world.value::<i64>(&of_call("select count(*) from call_streams")).await, 1);
        let ringing = of_call("select count(*) filter (where call_status = 'ringing') from call_events");
        assert_eq!(world.value::<i64>(&ringing).await, 1);
    }
    world.settled().await;
    world.stop().await;
}

/// What another node does that answers a call because we seemed to be gone.
const ANSWER: &str = "
    with agent as (select id, organization_id from agents limit 1),
    taken as (
        insert into call_leases (call_sid, organization_id, agent_id, fencing_token, stream_token_sha256, node, claimed_at, heartbeat_at)
        select 'CA2', organization_id, id, 1, sha256('theirs'), 'other', now(), now() from agent
        returning call_sid, fencing_token, organization_id, claimed_at
    )
    insert into call_streams (call_sid, fencing_token, organization_id, claimed_at)
    select call_sid, fencing_token, organization_id, claimed_at from taken";

#[tokio::test]
async fn a_call_that_was_answered_without_the_database_and_by_another_node_as_well_is_the_other_ones() {
    let cable = Cable::plug_in().await;
    let settings = [PCMU, ("DATABASE_URL", secrecy::ExposeSecret::expose_secret(&cable.url))];
    let model = ModelOptions { script: brief([]), ..ModelOptions::default() };
    let world = World::start(model, &settings).await;
    let steps = scenario([listen(), Step::HangUp]);
    run_call(CallerOptions { call_sid: Some("CA1".into()), ..world.call(steps) }).await;
    world.reason("CA1").await;
    world.settled().await;
    cable.unplug();
    let mut line = world.line("CA2").await;
    line.hear("mark").await;
    line.type_in("1").await;
    let mut other = PgConnection::connect_with(&cable.direct).await.unwrap();
    sqlx::raw_sql(ANSWER).execute(&mut other).await.unwrap();
    // By a token that is the same as ours.
    cable.plug_in_again();
    line.closed().await;
    until("nothing of it waits", async || world.metric("spool_records") == 0).await;
    world.settled().await;
    assert_eq!(rows(&world, "CA2").await, Vec::<Value>::new());
    assert_eq!(events(&world, "CA2").await, ["incoming_call"]);
    let untouched = "select count(*) from call_leases
                     where call_sid = 'CA2' and node = 'other' and ended_at is null and next_action is null
                       and disconnect_reason is null and fencing_token = 1";
    assert_eq!(world.value::<i64>(untouched).await, 1, "the call is the other's");
    assert_eq!(world.metric(r#"calls_ended_total{reason="lease_lost"}"#), 1);
    // The offer, two events, the greeting, the keys, and the end.
    assert!(world.metric("spool_late_total") >= 5);
    assert_eq!(world.metric("spool_refused_total"), 0);
    world.stop().await;
}

/// Two servers behind one address, with one database that can be taken away. Each knows the agent.
async fn neighbours(cable: &Cable, balancer: &Balancer) -> [World; 2] {
    let url = format!("http://{}", balancer.addr());
    let database = secrecy::ExposeSecret::expose_secret(&cable.url);
    let settings = [PCMU, ("DATABASE_URL", database), ("PUBLIC_URL", &url)];
    let start = async |call: &str| {
        let world =
            World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, &settings).await;
        balancer.add(world.running.addr);
        world.offer(call).await;
        balancer.remove(world.running.addr);
        world
    };
    [start("CA-known-1").await, start("CA-known-2").await]
}

/// Lets a call arrive at this server of several: the address of its stream.
async fn offer_at(world: &World, balancer: &Balancer, call: &str) -> String {
    balancer.add(world.running.addr);
    let address = world.offer(call).await;
    balancer.remove(world.running.addr);
    address
}

/// Lets a stream come to this server of several.
async fn connect_at(world: &World, balancer: &Balancer, address: &str) -> Result<Line, u16> {
    balancer.add(world.running.addr);
    let line = world.connect(address).await;
    balancer.remove(world.running.addr);
    line
}

/// Speaks on a stream, and hangs up.
async fn speak(mut line: Line, call: &str) {
    line.start(call, &json!({})).await;
    line.silence().await;
    line.hear("mark").await;
    line.type_in("1").await;
    line.stop().await;
}

/// Who took the only stream of a call, if the call is on record as it should be.
async fn taken_by(world: &World, call: &str) -> String {
    let said = format!(
        "select coalesce(string_agg(split_part(content, ' ', 4), ' ' order by sequence), '')
         from conversation_transcripts where call_sid = '{call}' and role = 'user'"
    );
    assert_eq!(world.value::<String>(&said).await, "1#", "{call}");
    assert_eq!(world.reason(call).await, "caller_hung_up", "{call}");
    let types = events(world, call).await;
    assert_eq!(
        types,
        ["incoming_call", "stream_started", "connected", "agent_call_completed"],
        "{call}: each once and in order"
    );
    let came = format!("select event_sequence->0->'details'->>'from' from calls where call_sid = '{call}'");
    assert_eq!(world.value::<String>(&came).await, "+14155550123");
    let stream = format!(
        "select string_agg(node, ',') from call_streams join call_leases using (call_sid, fencing_token, node)
         where call_sid = '{call}' and fencing_token = 1 and call_leases.claimed_at is not null
           and call_leases.from_number = '+14155550123'"
    );
    world.value::<String>(&stream).await
}

async fn until_replayed(worlds: &[&World]) {
    until("nothing waits any more", async || worlds.iter().all(|world| world.metric("spool_records") == 0))
        .await;
}

#[tokio::test]
async fn a_stream_that_comes_to_another_node_than_was_asked_is_taken_there_without_the_database() {
    let (cable, balancer) = (Cable::plug_in().await, Balancer::start().await.unwrap());
    let [asked, other] = neighbours(&cable, &balancer).await;
    cable.unplug();
    let address = offer_at(&asked, &balancer, "CA1").await;
    let mut changed = address.clone();
    changed.replace_range(changed.len() - 1.., if address.ends_with('A') { "Q" } else { "A" });
    assert_eq!(connect_at(&other, &balancer, &changed).await.err(), Some(503), "nobody can say who that is");
    let line = connect_at(&other, &balancer, &address).await.expect("it was offered");
    assert_eq!(connect_at(&other, &balancer, &address).await.err(), Some(403), "once");
    speak(line, "CA1").await;
    cable.plug_in_again();
    until_replayed(&[&asked, &other]).await;
    let node = taken_by(&other, "CA1").await;
    let stream = "select event_sequence->1->'details'->>'node' from calls where call_sid = 'CA1'";
    assert_eq!(node, other.value::<String>(stream).await);
    let ringing = "select count(*) from call_events where call_sid = 'CA1' and call_status = 'ringing'";
    assert_eq!(other.value::<i64>(ringing).await, 1, "of the node that was asked");
    for world in [asked, other] {
        assert_eq!((world.metric("spool_late_total"), world.metric("spool_refused_total")), (0, 0));
        world.settled().await;
        world.stop().await;
    }
}

#[tokio::test]
async fn a_stream_that_comes_when_the_database_is_back_is_taken_by_any_node() {
    let (cable, balancer) = (Cable::plug_in().await, Balancer::start().await.unwrap());
    let [asked, other] = neighbours(&cable, &balancer).await;
    cable.unplug();
    let mut addresses = Vec::new();
    for call in ["CA1", "CA2", "CA3"] {
        addresses.push(offer_at(&asked, &balancer, call).await);
    }
    cable.plug_in_again();
    until_replayed(&[&asked]).await;
    // By what is on record.
    for (world, call, address) in [(&asked, "CA1", &addresses[0]), (&other, "CA2", &addresses[1])] {
        speak(connect_at(world, &balancer, address).await.expect("it was offered"), call).await;
    }
    until_replayed(&[&asked, &other]).await;
    assert_ne!(taken_by(&asked, "CA1").await, taken_by(&other, "CA2").await);
    assert_eq!(connect_at(&other, &balancer, &addresses[0]).await.err(), Some(403), "it was taken elsewhere");
    assert_eq!(connect_at(&asked, &balancer, &addresses[0]).await.err(), Some(403), "it was taken here");
    // By what its address says, when the node that was asked could not put that on record.
    sqlx::raw_sql("delete from call_leases where call_sid = 'CA3'")
        .execute(other.running.store.pool())
        .await
        .unwrap();
    sqlx::raw_sql("delete from calls where call_sid = 'CA3'")
        .execute(other.running.store.pool())
        .await
        .unwrap();
    speak(connect_at(&other, &balancer, &addresses[2]).await.expect("it was offered"), "CA3").await;
    until_replayed(&[&asked, &other]).await;
    taken_by(&other, "CA3").await;
    for world in [asked, other] {
        assert_eq!(world.metric("spool_late_total"), 0);
        world.settled().await;
        world.stop().await;
    }
}

/// What a webhook answers, with its status.
async fn post(world: &World, path: &str, fields: &[(&str, &str)]) -> (u16, String) {
    let url = world.running.public_url.join(path);
    let signature = sign(secrecy::ExposeSecret::expose_secret(&world.token), &url, fields);
    let request = world.http.post(url).header("x-twilio-signature", signature).form(fields);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn what_the_carrier_says_while_the_database_is_away_is_on_record_later_with_all_that_it_means() {
    let cable = Cable::plug_in().await;
    let settings = [PCMU, ("DATABASE_URL", secrecy::ExposeSecret::expose_secret(&cable.url))];
    let model = ModelOptions { script: brief([]), ..ModelOptions::default() };
    let world = World::start(model, &settings).await;
    let mut line = world.line("CA1").await;
    line.hear("mark").await;
    world.offer("CA2").await; // Its stream never comes.
    world.change_agent("enabled = false, transfer_number = '+14155550177'").await;
    let agent: String = world.value("select id::text from agents").await;
    let arrives =
        async |call| world.webhook(&format!("/api/agent/{agent}/call-incoming"), &arrival(call)).await;
    assert!(arrives("CA3").await.contains("<Dial"));
    cable.unplug();
    assert!(arrives("CA4").await.contains("<Dial"), "from memory");
    let says = async |call: &str, status: &str, number: &str| {
        let fields =
            [("CallSid", call), ("CallStatus", status), ("SequenceNumber", number), ("CallDuration", "4")];
        post(&world, "/api/twilio/call-status", &fields).await
    };
    for call in ["CA1", "CA2", "CA3", "CA4", "CA-unknown"] {
        for (status, number) in [("in-progress", "1"), ("completed", "2"), ("completed", "2")] {
            assert_eq!(says(call, status, number).await, (204, String::new()), "{call}: {status}");
        }
    }
    for (call, status, answer) in [
        ("CA3", "completed", "<Response><Hangup/>"),
        ("CA3", "busy", "<Say>We are sorry, nobody can"),
        ("CA4", "completed", "<Response><Hangup/>"),
    ] {
        let [_, from, to, direction, _] = arrival(call);
        let asks = [("CallSid", call), ("CallStatus", "in-progress"), ("DialCallStatus", status)];
        let fields: Vec<_> = asks.into_iter().chain([from, to, direction]).collect();
        let (_, twiml) = post(&world, ENDED, &fields).await;
        assert!(twiml.contains(answer), "{status}: {twiml}");
    }
    let (_, twiml) = post(&world, ENDED, &[("CallSid", "CA9"), ("CallStatus", "completed")]).await;
    assert!(twiml.contains("<Response><Hangup/>"), "{twiml}");

    cable.plug_in_again();
    until("nothing waits any more", async || world.metric("spool_records") == 0).await;
    let statuses = async |call: &str| {
        let query = format!(
            "select coalesce(string_agg(call_status || coalesce(sequence_number, 0), ' ' order by id), '')
             from call_events where call_sid = '{call}'"
        );
        world.value::<String>(&query).await
    };
    assert_eq!(statuses("CA2").await, "ringing0 in-progress1 completed2");
    assert_eq!(statuses("CA3").await, "ringing0 in-progress1 completed2 in-progress0 in-progress0");
    assert_eq!(statuses("CA4").await, "ringing0 in-progress1 completed2 in-progress0");
    assert_eq!(statuses("CA-unknown").await, "in-progress1 completed2");
    assert_eq!(statuses("CA9").await, "completed0");
    let report = async |call: &str, of: &str| {
        let query =
            format!("select coalesce(data->'call'->>'{of}', '') from calls where call_sid = '{call}'");
        world.value::<String>(&query).await
    };
    assert_eq!(report("CA1", "endedReason").await, "", "its stream ends it");
    assert_eq!(report("CA2", "endedReason").await, "caller_hung_up");
    assert_eq!(report("CA2", "duration").await, "4");
    for call in ["CA3", "CA4"] {
        assert_eq!(report(call, "endedReason").await, "transferred", "{call}");
        let expected = ["incoming_call", "transferred", "agent_call_completed", "handoff_ended"];
        assert_eq!(events(&world, call).await, expected, "{call}: what people did is not lost");
    }
    line.stop().await;
    assert_eq!(world.reason("CA1").await, "caller_hung_up");
    world.stop().await;
}

impl Line {
    /// Keys that are a turn at once.
    async fn type_in(&mut self, digit: &str) {
        for digit in [digit, "#"] {
            let dtmf = json!({"track": "inbound_track", "digit": digit});
            self.text(json!({"event": "dtmf", "streamSid": "MZ1", "dtmf": dtmf}).to_string()).await;
        }
    }
}

/// What the caller has typed, in order.
async fn keys(world: &World, call: &str) -> Vec<String> {
    let rows = rows(world, call).await;
    let typed = rows.iter().filter(|row| row["role"] == "user");
    let keys = |row: &Value| Some(row["content"].as_str()?.split(' ').nth(3)?.to_owned());
    typed.filter_map(keys).collect()
}

async fn events(world: &World, call: &str) -> Vec<String> {
    let query = format!("select event_sequence::text from calls where call_sid = '{call}'");
    let events: Value = serde_json::from_str(&world.value::<String>(&query).await).unwrap();
    events.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}
