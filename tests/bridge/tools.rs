//! Functions of the agent: what leaves the house, what comes back, and what the caller hears of it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::join;
use voicebridge::simulate::caller::{CallReport, EndedBy, StreamEnd, run_call};
use voicebridge::simulate::model::script::{FunctionCall, Reply, Rule, Speech, When};
use voicebridge::simulate::model::{ItemReport, ModelOptions, SessionReport};
use voicebridge::simulate::scenario::Step;
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::world::World;
use crate::{brief, interrupt, listen, only_stream, rule, say, scenario, tone};

#[tokio::test]
async fn a_function_is_asked_as_configured_and_its_answer_is_spoken_and_on_record() {
    let shop = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/orders"))
        .and(header("x-secret", "of-the-shop"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"status": "ready"})))
        .mount(&shop)
        .await;
    let script = brief([
        asking("hello", tone(300, "One moment."), &[("order", r#"{"order_number":"4711"}"#)]),
        rule(When::FunctionOutput("order".into()), [tone(300, "It is ready.")]),
    ]);
    let world = World::start(ModelOptions { script, ..ModelOptions::default() }, PCMU).await;
    let tool = json!({
        "name": "order_status", "description": "Looks an order up.", "url": format!("{}/orders", shop.uri()),
        "parameters": {
            "type": "object", "required": ["order_number"], "additionalProperties": false,
            "properties": {"order_number": {"type": "string"}},
        },
        "secret_header": {"name": "X-Secret", "value": "of-the-shop"},
    });
    let call = run(&world, &[tool], [listen(), say("hello"), hear_both_parts(), Step::HangUp]).await;
    only_stream(&call);

    let [request] = &shop.received_requests().await.unwrap()[..] else { panic!("it is asked once") };
    let body: Value = request.body_json().unwrap();
    let members: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["arguments", "call_sid", "name", "tool_call_id"]);
    assert_eq!(body["arguments"], json!({"order_number": "4711"}));
    assert_eq!((&body["call_sid"], &body["name"]), (&json!(call.call_sid), &json!("order_status")));
    assert_eq!(request.headers["content-type"], "application/json");

    let rows = world.transcript(&call.call_sid).await;
    let told: Vec<_> = rows.iter().map(|row| (&row["role"], row["content"].as_str().unwrap())).collect();
    let (agent, caller, tool) = (&json!("assistant"), &json!("user"), &json!("tool"));
    assert_eq!(
        told,
        [
            (agent, "Good day."),
            (caller, "Hello?"),
            (agent, "One moment."),
            (tool, r#"{"status":"ready"}"#),
            (agent, "It is ready."),
        ]
    );
    assert_eq!(rows[3]["tool_name"], "order_status");
    assert_eq!(rows[3]["generated_content"], r#"{"order_number":"4711"}"#);
    assert_eq!(rows[3]["tool_call_id"], body["tool_call_id"]);
    assert_eq!(outputs(&only_session(&world)), [r#"{"status":"ready"}"#]);
    assert_eq!(world.metric(r#"tool_calls_total{outcome="answered"}"#), 1);
    // What the function may be called with is known to the model, where it is and how is not.
    let known = only_session(&world).session["tools"].to_string();
    assert!(
        known.contains("order_number") && !known.contains("of-the-shop") && !known.contains("http"),
        "{known}"
    );
    world.stop().await;
}

#[tokio::test]
async fn functions_that_fail_are_explained_to_the_model_in_one_response() {
    let shop = MockServer::start().await;
    let answers = [
        ("/late", ResponseTemplate::new(200).set_delay(Duration::from_secs(60))),
        ("/broken", ResponseTemplate::new(500).set_body_string("stack trace")),
        ("/huge", ResponseTemplate::new(200).set_body_string("x".repeat(100_000))),
        ("/moved", ResponseTemplate::new(307).insert_header("location", format!("{}/trap", shop.uri()))),
        ("/trap", ResponseTemplate::new(200).set_body_string("the secret header came along")),
        ("/strict", ResponseTemplate::new(200).set_body_string("asked in spite of the schema")),
        ("/good", ResponseTemplate::new(200).set_body_string("good")),
    ];
    for (at, answer) in answers {
        Mock::given(path(at)).respond_with(answer).mount(&shop).await;
    }
    let nobody = format!("{}/", closed_address());
    let tools: Vec<Value> = ["late", "broken", "huge", "moved", "strict", "good", "unreachable"]
        .iter()
        .map(|name| {
            let url = if *name == "unreachable" { nobody.clone() } else { format!("{}/{name}", shop.uri()) };
            let number = json!({"type": "object", "properties": {"number": {"type": "integer"}}});
            json!({
                "name": name, "description": "", "url": url, "parameters": number,
                "timeout_ms": if *name == "late" { 500 } else { 8000 },
                "secret_header": {"name": "X-Secret", "value": "of-the-shop"},
            })
        })
        .collect();
    let calls: Vec<(&str, &str)> = tools
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .map(|name| (name, if name == "strict" { r#"{"number":"four"}"# } else { r#"{"number":4}"# }))
        .collect();
    let script = brief([
        asking("hello", tone(300, "One moment."), &calls),
        rule(When::FunctionOutput(String::new()), [tone(300, "That is all I found.")]),
    ]);
    let world = World::start(ModelOptions { script, ..ModelOptions::default() }, PCMU).await;
    let call = run(&world, &tools, [listen(), say("hello"), hear_both_parts(), Step::HangUp]).await;
    only_stream(&call);

    let rows = world.transcript(&call.call_sid).await;
    let told = |name: &str| {
        let row = rows.iter().find(|row| row["tool_name"] == name);
        row.unwrap_or_else(|| panic!("no row of {name}: {rows:?}"))["content"].as_str().unwrap()
    };
    assert_eq!(told("late"), r#"{"error":"the function did not answer in time"}"#);
    assert_eq!(told("broken"), r#"{"error":"the function answered with HTTP 500"}"#);
    assert_eq!(told("moved"), r#"{"error":"the function answered with HTTP 307"}"#);
    assert_eq!(told("unreachable"), r#"{"error":"the function could not be reached"}"#);
    assert_eq!(told("good"), "good");
    assert!(
        told("strict").starts_with(r#"{"error":"the arguments do not fit the function"#),
        "{}",
        told("strict")
    );
    assert!(
        told("huge").ends_with("x… (cut off)") && told("huge").len() < 17_000,
        "{} bytes",
        told("huge").len()
    );
    let asked: Vec<_> = shop.received_requests().await.unwrap();
    let asked: Vec<_> = asked.iter().map(|request| request.url.path()).collect();
    assert!(!asked.contains(&"/strict") && !asked.contains(&"/trap"), "{asked:?}");
    assert_eq!(asked.len(), 5, "each is asked once: {asked:?}");

    let session = only_session(&world);
    assert_eq!(session.violations, Vec::<String>::new());
    assert_eq!(outputs(&session).len(), 7);
    assert_eq!(session.responses.len(), 3, "one answer to all of them together: {:?}", session.responses);
    assert_eq!(rows.last().unwrap()["content"], "That is all I found.");
    for (outcome, count) in [("answered", 2), ("failed", 3), ("timed_out", 1), ("refused", 1)] {
        assert_eq!(world.metric(&format!("tool_calls_total{{outcome=\"{outcome}\"}}")), count, "{outcome}");
    }
    world.stop().await;
}

#[tokio::test]
async fn the_agent_ends_or_hands_over_the_call_when_its_last_word_has_been_heard() {
    let script = brief([
        asking("goodbye", tone(1500, "Goodbye."), &[("end_call", r#"{"reason":"done"}"#)]),
        asking(
            "person-please",
            tone(1500, "I will put you through."),
            &[("transfer", r#"{"reason":"Wants a person.","summary":"Asked nothing else."}"#)],
        ),
    ]);
    let world = World::start(ModelOptions { script, ..ModelOptions::default() }, PCMU).await;
    world.change_agent("transfer_number = '+14155550199'").await;
    let call = |phrase| run_call(world.call(scenario([listen(), say(phrase)])));
    let (ended, transferred) = join!(call("goodbye"), call("person-please"));
    for (call, reason) in [(&ended, "agent_ended"), (&transferred, "transferred")] {
        assert_eq!(world.reason(&call.call_sid).await, reason);
        let stream = only_stream(call);
        assert_eq!(stream.ended_by, StreamEnd::Server(Some(1000)));
        assert_eq!((stream.unheard_bytes, stream.cleared_bytes), (0, 0), "it was heard out");
        assert_eq!(stream.heard_bytes, 8 * (400 + 1500));
        assert_eq!(call.ended_by, EndedBy::Twiml);
    }
    world.settled().await;
    assert_eq!(ended.followed[1..], ["Hangup"]);
    let whispered =
        "Whisper Say A caller from the assistant. Wants a person. Asked nothing else. Connecting you now.";
    let followed = ["Say One moment please, I am connecting you.", "Dial +14155550199", whispered, "Hangup"];
    assert_eq!(transferred.followed[1..], followed);
    let completed = "incoming_call stream_started connected agent_call_completed";
    assert_eq!(events(&world, &ended).await, completed);
    let handed_over = "incoming_call stream_started connected transferred stream_ended handoff_answered \
                       handoff_ended agent_call_completed";
    assert_eq!(events(&world, &transferred).await, handed_over);
    let query = format!(
        "select event_sequence->3->>'details' from calls where call_sid = '{}'",
        transferred.call_sid
    );
    let details: Value = serde_json::from_str(&world.value::<String>(&query).await).unwrap();
    assert_eq!(
        (&details["reason"], &details["summary"]),
        (&json!("Wants a person."), &json!("Asked nothing else."))
    );
    let last = world.transcript(&ended.call_sid).await.pop().unwrap();
    assert_eq!((&last["tool_name"], &last["content"]), (&json!("end_call"), &json!(r#"{"ok":true}"#)));
    world.stop().await;
}

#[tokio::test]
async fn a_goodbye_is_taken_back_when_the_caller_speaks_over_it() {
    let script = brief([asking(
        "goodbye",
        tone(5000, "Goodbye, and thank you."),
        &[("end_call", r#"{"reason":"done"}"#)],
    )]);
    // The wish to end the call is known long before the goodbye has been heard.
    let model = ModelOptions { script, speed: 30.0, ..ModelOptions::default() };
    let world = World::start(model, PCMU).await;
    let steps =
        [listen(), say("goodbye"), interrupt(1500, "sunday-question"), hear_both_parts(), Step::HangUp];
    let call = run(&world, &[], steps).await;
    assert_eq!(only_stream(&call).ended_by, StreamEnd::Stop, "the caller ended it");
    assert_eq!(world.reason(&call.call_sid).await, "caller_hung_up");
    let rows = world.transcript(&call.call_sid).await;
    let tool = rows.iter().find(|row| row["role"] == "tool").expect("the wish is on record");
    let taken_back = tool["content"].as_str().unwrap();
    assert_eq!(tool["tool_name"], "end_call");
    assert!(taken_back.starts_with(r#"{"error":"the caller spoke again"#), "{taken_back}");
    assert_eq!(rows.last().unwrap()["content"], "On Sunday we are closed.");
    let session = only_session(&world);
    assert_eq!((outputs(&session), session.violations), (vec![taken_back.to_owned()], Vec::<String>::new()));
    world.stop().await;
}

const PCMU: &[(&str, &str)] = &[("AUDIO_FORMAT", "pcmu")];

/// The words before a function is asked and those about its answer, with the wait between them.
fn hear_both_parts() -> Step {
    Step::Listen { silence_ms: 3000, within_ms: 30_000 }
}

/// When this is heard, something is said and then functions are asked for.
pub(crate) fn asking(phrase: &str, say: Speech, calls: &[(&str, &str)]) -> Rule {
    let call = calls
        .iter()
        .map(|(tool, arguments)| FunctionCall { tool: (*tool).into(), arguments: (*arguments).into() })
        .collect();
    Rule { reply: Reply { say: vec![say], call, ..Reply::default() }, ..rule(When::Heard(phrase.into()), []) }
}

/// One call to an agent with these functions, after all of its records are written.
async fn run(world: &World, tools: &[Value], steps: impl IntoIterator<Item = Step>) -> CallReport {
    world.change_agent(&format!("tools = '{}'", json!(tools))).await;
    let call = run_call(world.call(scenario(steps))).await;
    world.reason(&call.call_sid).await;
    world.settled().await;
    call
}

fn only_session(world: &World) -> SessionReport {
    let mut sessions = world.model.report().sessions;
    assert_eq!(sessions.len(), 1);
    sessions.remove(0)
}

/// What functions answered, as the model was told.
fn outputs(session: &SessionReport) -> Vec<String> {
    let answers = session.items.iter().filter(|item: &&ItemReport| item.kind == "function_call_output");
    answers.map(|item| item.text.clone()).collect()
}

async fn events(world: &World, call: &CallReport) -> String {
    let types = "select string_agg(event->>'type', ' ' order by place) \
        from calls, jsonb_array_elements(event_sequence) with ordinality as sequence (event, place)";
    world.value(&format!("{types} where call_sid = '{}'", call.call_sid)).await
}

/// Where nobody listens.
fn closed_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}
