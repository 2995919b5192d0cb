//! People and the agent of one call: over real sockets, with whoever answers or does not, and on more than one server.

use serde_json::json;
use tokio::join;
use voicebridge::simulate::caller::{CallReport, CallerOptions, run_call};
use voicebridge::simulate::model::ModelOptions;
use voicebridge::simulate::model::script::{Script, When};
use voicebridge::simulate::scenario::Step;

use crate::line::arrival;
use crate::look::until;
use crate::records::Cable;
use crate::tools::asking;
use crate::world::World;
use crate::{brief, listen, rule, say, scenario, tone};

const PCMU: &[(&str, &str)] = &[("AUDIO_FORMAT", "pcmu")];
const REFUND: &str = r#"{"reason":"Wants a refund.","summary":"Order 4711 came broken."}"#;

const HEARD: &str = "select count(*) from conversation_transcripts where call_sid = 'CA1'";

/// Puts the caller through when asked for a person, and says so when nobody has answered.
pub(crate) fn putting_through() -> Script {
    brief([
        asking("person-please", tone(500, "I will put you through."), &[("transfer", REFUND)]),
        rule(When::Asked("nobody of the team answered".into()), [tone(700, "Nobody is there.")]),
        rule(When::Asked("say exactly these words".into()), [tone(700, "Your order has left.")]),
        rule(When::Asked("being put through".into()), [tone(500, "I put you through.")]),
    ])
}

async fn world() -> World {
    let world =
        World::start(ModelOptions { script: putting_through(), ..ModelOptions::default() }, PCMU).await;
    world.change_agent("transfer_number = '+14155550199'").await;
    world
}

async fn events(world: &World, call: &CallReport) -> String {
    let types = "select string_agg(event->>'type', ' ' order by place) \
        from calls, jsonb_array_elements(event_sequence) with ordinality as sequence (event, place)";
    world.value(&format!("{types} where call_sid = '{}'", call.call_sid)).await
}

#[tokio::test]
async fn people_who_answer_are_told_and_have_the_call() {
    let world = world().await;
    let call = run_call(world.call(scenario([listen(), say("person-please"), listen()]))).await;
    assert_eq!(world.reason(&call.call_sid).await, "transferred");
    world.settled().await;
    assert_eq!(call.violations, Vec::<String>::new());
    assert_eq!(
        call.followed[1..],
        [
            "Say One moment please, I am connecting you.",
            "Dial +14155550199",
            "Whisper Say A caller from the assistant. Wants a refund. Order 4711 came broken. Connecting you now.",
            "Hangup",
        ]
    );
    assert_eq!(
        events(&world, &call).await,
        "incoming_call stream_started connected transferred stream_ended handoff_answered handoff_ended \
         agent_call_completed"
    );
    let human = "select concat_ws('|', handoff, status, reason, summary, a.call_sid is not null, duration is not null)
        from agent_calls a";
    assert_eq!(
        world.value::<String>(human).await,
        "1|completed|Wants a refund.|Order 4711 came broken.|t|t",
        "what people had of it"
    );
    let log = "select concat_ws('|', status, transferred, transfer_reason, transferred_at > started_at, disconnect_reason)
        from call_logs";
    assert_eq!(world.value::<String>(log).await, "completed|t|Wants a refund.|t|transferred");
    world.stop().await;
}

#[tokio::test]
async fn without_the_database_the_agents_team_is_called_as_well_and_not_somebody_else() {
    let cable = Cable::plug_in().await;
    let database = secrecy::ExposeSecret::expose_secret(&cable.url);
    let model = ModelOptions { script: putting_through(), ..ModelOptions::default() };
    let world = World::start(model, &[PCMU[0], ("DATABASE_URL", database)]).await;
    world.change_agent("transfer_number = '+14155550199'").await;
    let team = "
        insert into teams (id, organization_id, name)
        select '00000000-0000-0000-0000-00000000000a', organization_id, 'Office' from agents;
        insert into team_members (organization_id, team_id, name, number)
        select organization_id, id, 'Grace', '+14155550191' from teams;
        update agents set team_id = '00000000-0000-0000-0000-00000000000a'";
    sqlx::raw_sql(team).execute(world.running.store.pool()).await.unwrap();
    world.offer("CA-known").await;
    cable.unplug();
    let call = run_call(world.call(scenario([listen(), say("person-please"), listen()]))).await;
    let then = ["Say One moment please, I am connecting you.", "Dial +14155550191", "Hangup"];
    assert_eq!(call.followed[1..], then);
    cable.plug_in_again();
    until("nothing waits any more", async || world.metric("spool_records") == 0).await;
    world.settled().await;
    world.stop().await;
}

#[tokio::test]
async fn when_nobody_answers_the_agent_has_the_caller_again_and_knows_it() {
    let world = world().await;
    let steps = [listen(), say("person-please"), listen(), listen(), say("hello"), listen(), Step::HangUp];
    let options = CallerOptions { dial_status: "no-answer".into(), ..world.call(scenario(steps)) };
    let call = run_call(options).await;
    assert_eq!(world.reason(&call.call_sid).await, "caller_hung_up");
    world.settled().await;
    assert_eq!((&call.violations, &call.missed), (&Vec::new(), &Vec::new()), "{call:?}");
    assert_eq!(call.streams.len(), 2, "{:?}", call.followed);
    let sessions = world.model.report().sessions;
    let [_, second] = &sessions[..] else { panic!("{} sessions", sessions.len()) };
    let told: Vec<_> = second.items.iter().map(|item| (item.kind.as_str(), item.text.as_str())).collect();
    let answer =
        ("function_call_output", r#"{"error":"Nobody of the team answered. The caller is back with you."}"#);
    assert!(told.contains(&answer), "{told:?}");
    assert!(
        told.contains(&("message", "I will put you through.")),
        "it knows what was said before: {told:?}"
    );
    assert!(!told.iter().any(|(_, text)| text.contains("Good day.")) || told[0].1 == "Good day.", "{told:?}");
    let rows = world.transcript(&call.call_sid).await;
    let words: Vec<_> = rows.iter().map(|row| row["content"].as_str().unwrap()).collect();
    assert_eq!(
        words.iter().filter(|words| **words == "Good day.").count(),
        1,
        "nobody is greeted again: {words:?}"
    );
    assert!(words.ends_with(&["Nobody is there.", "Hello?", "Hello to you."]), "{words:?}");
    assert_eq!(
        events(&world, &call).await,
        "incoming_call stream_started connected transferred stream_ended handoff_ended stream_started \
         agent_call_completed"
    );
    world.stop().await;
}

#[tokio::test]
async fn somebody_in_charge_steers_a_call_on_whichever_server_it_is() {
    let world = world().await;
    let other = World::start_on(&world.database(), ModelOptions::default(), PCMU).await;
    let steps = scenario([listen(), listen(), listen(), listen()]);
    let options = CallerOptions { call_sid: Some("CA1".into()), ..world.call(steps) };
    let steering = async {
        until("the agent has been heard", async || world.value::<i64>(HEARD).await == 1).await;
        let live = other.get("/api/calls/live").await;
        let [live] = &live["data"].as_array().unwrap()[..] else { panic!("{live}") };
        assert_eq!((&live["call_sid"], &live["state"]), (&json!("CA1"), &json!("with_agent")));

        let knows = json!({"text": "A customer since 2011."});
        let (status, answer) = other.post("/api/calls/CA1/inject", &knows).await;
        assert_eq!((status, &answer["data"]["outcome"]), (200, &json!("done")), "{answer}");
        let (status, _) = other.post("/api/calls/CA1/say", &json!({"text": "Your order has left."})).await;
        assert_eq!(status, 200);
        until("it has been said", async || {
            world.transcript("CA1").await.iter().any(|row| row["content"] == "Your order has left.")
        })
        .await;
        let wanted = json!({"to": "+14155550155", "reason": "The manager wants it."});
        let transfer = async || other.post("/api/calls/CA1/transfer", &wanted).await;
        let (one, two) = join!(transfer(), transfer());
        let (done, refused) = if one.0 == 200 { (one, two) } else { (two, one) };
        assert_eq!(done.0, 200, "{done:?}");
        assert_eq!((refused.0, &refused.1["error"]["code"]), (409, &json!("command_refused")), "{refused:?}");
    };
    let (call, ()) = join!(run_call(options), steering);
    assert_eq!(world.reason("CA1").await, "transferred");
    world.settled().await;
    assert_eq!(call.violations, Vec::<String>::new());
    assert_eq!(call.followed[2], "Dial +14155550155", "{:?}", call.followed);
    assert!(call.followed[3].contains("The manager wants it."), "{:?}", call.followed);
    let session = &world.model.report().sessions[0];
    let told = session.items.iter().find(|item| item.role.as_deref() == Some("system"));
    assert_eq!(told.map(|item| item.text.as_str()), Some("A customer since 2011."));
    assert_eq!(
        events(&world, &call).await,
        "incoming_call stream_started connected operator operator operator transferred stream_ended handoff_answered \
         handoff_ended agent_call_completed",
        "what was refused has not happened"
    );
    let taken: i64 = world
        .value(
            "select count(*) from call_commands where taken_at is not null and result->>'outcome' = 'done'",
        )
        .await;
    assert_eq!(taken, 3);

    for (command, body) in [
        ("hang-up", json!({"now": true})),
        ("transfer", json!({})),
        ("say", json!({"text": "Hello."})),
        ("inject", json!({"text": "A customer."})),
    ] {
        for (call, status, code) in [("CA1", 409, "call_not_live"), ("CA9", 404, "not_found")] {
            let (answered, answer) = other.post(&format!("/api/calls/{call}/{command}"), &body).await;
            assert_eq!((answered, &answer["error"]["code"]), (status, &json!(code)), "{command}: {answer}");
        }
    }
    for (path, body) in [
        ("say", json!({"text": "  "})),
        ("say", json!({"text": "x".repeat(1_001)})),
        ("inject", json!({"text": ""})),
        ("transfer", json!({"to": "0815"})),
        ("transfer", json!({"to": "+14155550155", "team": "00000000-0000-0000-0000-000000000001"})),
    ] {
        let (status, answer) = other.post(&format!("/api/calls/CA1/{path}"), &body).await;
        assert_eq!((status, &answer["error"]["code"]), (422, &json!("invalid_value")), "{path}: {answer}");
    }
    other.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn a_call_is_ended_from_another_server_and_a_command_that_nobody_takes_is_withdrawn() {
    let world = world().await;
    let other = World::start_on(&world.database(), ModelOptions::default(), PCMU).await;
    // Offered, and its stream never comes: nobody carries it.
    world.offer("CA2").await;
    let options = CallerOptions { call_sid: Some("CA1".into()), ..world.call(scenario([listen()])) };
    let steering = async {
        until("the agent has been heard", async || world.value::<i64>(HEARD).await == 1).await;
        let (ended, waits) =
            join!(async { other.post("/api/calls/CA1/hang-up", &json!({"now": true})).await }, async {
                other.post("/api/calls/CA2/say", &json!({"text": "Hello."})).await
            },);
        assert_eq!(ended.0, 200, "{ended:?}");
        assert_eq!((waits.0, &waits.1["error"]["code"]), (504, &json!("command_not_taken")), "{waits:?}");
    };
    let (call, ()) = join!(run_call(options), steering);
    assert_eq!(world.reason("CA1").await, "operator");
    assert_eq!(call.followed[1..], ["Hangup"]);
    let withdrawn: String =
        world.value("select result->>'outcome' from call_commands where call_sid = 'CA2'").await;
    assert_eq!(withdrawn, "withdrawn");
    other.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn a_command_that_nobody_was_heard_to_ring_for_is_found_all_the_same() {
    let world = world().await;
    let options = CallerOptions { call_sid: Some("CA1".into()), ..world.call(scenario([listen()])) };
    let steering = async {
        until("the agent has been heard", async || world.value::<i64>(HEARD).await == 1).await;
        // As when the connection on which it would be heard has died without a word.
        let unheard = "insert into call_commands (organization_id, call_sid, kind, payload)
                       select organization_id, call_sid, 'hang_up', '{\"now\": true}' from call_leases";
        sqlx::raw_sql(unheard).execute(world.running.store.pool()).await.unwrap();
    };
    let (call, ()) = join!(run_call(options), steering);
    assert_eq!(world.reason("CA1").await, "operator");
    assert_eq!(call.followed[1..], ["Hangup"]);
    world.stop().await;
}

#[tokio::test]
async fn a_caller_who_does_not_want_to_be_called_is_not_called_although_they_called_us() {
    let confirm = tone(500, "You will not be called again.");
    let script = brief([
        asking("hello", tone(300, "I see."), &[("do_not_call_again", "{}")]),
        rule(When::Asked("does not want to be called again".into()), [confirm]),
    ]);
    let world = World::start(ModelOptions { script, ..ModelOptions::default() }, PCMU).await;
    // We meant to call them tomorrow.
    let waiting = "insert into call_queue (organization_id, to_number, next_retry_at)
        select id, '+14155550123', now() + interval '1 day' from organisations returning status";
    assert_eq!(world.value::<String>(waiting).await, "queued");
    let call = run_call(world.call(scenario([listen(), say("hello"), listen()]))).await;
    assert_eq!(world.reason(&call.call_sid).await, "agent_ended");
    world.settled().await;
    let forbidden = "select concat_ws(' ', number, source, call_sid) from do_not_call";
    assert_eq!(world.value::<String>(forbidden).await, format!("+14155550123 call {}", call.call_sid));
    let row: String = world.value("select status || ': ' || last_error from call_queue").await;
    assert_eq!(row, "failed: blocked_by_rule: the number is on the do-not-call list");
    world.stop().await;
}

#[tokio::test]
async fn the_key_is_one_like_others_to_a_caller_who_was_not_told_of_it() {
    let world = World::start(ModelOptions { script: brief([]), ..ModelOptions::default() }, PCMU).await;
    let mut line = {
        let twiml = world.webhook("/media-stream-twiml", &arrival("CA1")).await;
        let (_, rest) = twiml.split_once("<Stream url=\"").unwrap();
        world.connect(rest.split('"').next().unwrap()).await.unwrap()
    };
    line.start("CA1", &json!({})).await;
    line.hear("mark").await;
    line.text(
        json!({"event": "dtmf", "streamSid": "MZ1", "dtmf": {"track": "inbound_track", "digit": "9"}})
            .to_string(),
    )
    .await;
    until("the agent knows it", async || {
        world
            .transcript("CA1")
            .await
            .iter()
            .any(|row| row["content"] == "(The caller pressed 9 on the keypad.)")
    })
    .await;
    line.stop().await;
    world.reason("CA1").await;
    world.settled().await;
    assert_eq!(world.value::<i64>("select count(*) from do_not_call").await, 0);
    world.stop().await;
}

#[tokio::test]
async fn who_does_not_want_to_be_called_again_is_on_record_before_the_call_is_over() {
    let script = brief([rule(
        When::Asked("does not want to be called again".into()),
        [tone(4_000, "You will not be called again.")],
    )]);
    let world = World::start(ModelOptions { script, ..ModelOptions::default() }, PCMU).await;
    let mut line = {
        let fields = [
            ("CallSid", "CA1"),
            ("From", "+14155550100"),
            ("To", "+14155550123"),
            ("Direction", "outbound-api"),
            ("CallStatus", "in-progress"),
        ];
        let twiml = world.webhook("/media-stream-twiml", &fields).await;
        let (_, rest) = twiml.split_once("<Stream url=\"").unwrap();
        world.connect(rest.split('"').next().unwrap()).await.unwrap()
    };
    line.start("CA1", &json!({})).await;
    line.hear("mark").await;
    let offered = world.model.report().sessions[0].session["tools"].to_string();
    assert!(offered.contains("do_not_call_again"), "{offered}");
    line.text(
        json!({"event": "dtmf", "streamSid": "MZ1", "dtmf": {"track": "inbound_track", "digit": "9"}})
            .to_string(),
    )
    .await;
    let opted_out = "select count(*) from calls where event_sequence @> '[{\"type\": \"opted_out\", \"details\": {\"source\": \"keypad\"}}]'";
    until("it is on record", async || world.value::<i64>(opted_out).await == 1).await;
    let number = "select number || ' ' || source from do_not_call";
    assert_eq!(world.value::<String>(number).await, "+14155550123 keypad", "whom we have called");
    assert_eq!(world.running.metrics.calls_live.get(), 1, "and the call is not over");
    line.stop().await;
    world.reason("CA1").await;
    world.stop().await;
}
