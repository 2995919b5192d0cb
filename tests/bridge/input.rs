//! What is answered to requests about live calls that cannot be what they should be: a status, a word for programs, and a
//! sentence that says what to do.

use serde_json::{Value, json};
use voicebridge::simulate::model::ModelOptions;
use voicebridge::wire::signature::sign;

use crate::world::World;

const COMMANDS: [&str; 4] = ["hang-up", "transfer", "say", "inject"];
const JSON: &str = "application/json";

/// What is answered to this body; `kind` is its content type.
async fn send(world: &World, path: &str, kind: Option<&str>, body: &str) -> (u16, Value) {
    let request = world.http.post(world.running.public_url.join(path)).body(body.to_owned());
    let request = request.bearer_auth(secrecy::ExposeSecret::expose_secret(&world.running.admin_key));
    let request = kind.into_iter().fold(request, |request, kind| request.header("content-type", kind));
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[track_caller]
fn is_refused(asked: &str, (status, answer): (u16, Value), expected: (u16, &str, &str)) {
    let error = &answer["error"];
    let message = error["message"].as_str().unwrap_or_default();
    let found = (status, error["code"].as_str().unwrap_or_default());
    assert_eq!((found, &answer["success"]), ((expected.0, expected.1), &json!(false)), "{asked}: {answer}");
    assert!(message.contains(expected.2), "{asked}: {message}");
}

#[tokio::test]
async fn a_command_that_cannot_be_read_is_refused_and_its_mistake_is_named() {
    let world = World::start(ModelOptions::default(), &[]).await;
    world.offer("CA1").await;
    for command in COMMANDS {
        let path = format!("/api/calls/CA1/{command}");
        for (kind, body, expected) in [
            (Some(JSON), "{", (400, "invalid_json", "EOF")),
            (Some(JSON), "", (400, "invalid_json", "EOF")),
            (None, "{}", (415, "unsupported_media_type", "Content-Type: application/json")),
            (Some("text/plain"), "{}", (415, "unsupported_media_type", "Content-Type: application/json")),
            (Some(JSON), "null", (422, "invalid_body", "expected an object")),
            (Some(JSON), r#"{"number": 1}"#, (422, "invalid_body", "unknown field `number`")),
        ] {
            is_refused(&format!("{command} {body}"), send(&world, &path, kind, body).await, expected);
        }
        for (call, expected) in [
            ("CA9", (404, "not_found", "GET /api/calls/live lists")),
            ("CA%201", (400, "invalid_path", "1 to 50 printable ASCII characters without spaces")),
            (&*"C".repeat(51), (400, "invalid_path", "1 to 50 printable ASCII characters")),
        ] {
            let body = if command == "say" || command == "inject" { r#"{"text": "Hello."}"# } else { "{}" };
            let path = format!("/api/calls/{call}/{command}");
            is_refused(&path, send(&world, &path, Some(JSON), body).await, expected);
        }
    }
    let nobody = "00000000-0000-0000-0000-00000000000b";
    let long = |characters: usize| "\u{e9}".repeat(characters);
    for (command, body, expected) in [
        ("hang-up", json!({"now": "yes"}), (422, "invalid_body", "expected a boolean")),
        ("say", json!({}), (422, "invalid_body", "missing field `text`")),
        ("say", json!({"text": 7}), (422, "invalid_body", "expected a string")),
        ("say", json!({"text": " \n"}), (422, "invalid_value", "text must not be empty")),
        ("say", json!({"text": long(1_001)}), (422, "invalid_value", "text must be at most 1000 characters")),
        ("inject", json!({"text": ""}), (422, "invalid_value", "text must not be empty")),
        (
            "inject",
            json!({"text": long(8_001)}),
            (422, "invalid_value", "text must be at most 8000 characters"),
        ),
        (
            "transfer",
            json!({"reason": long(501)}),
            (422, "invalid_value", "reason must be at most 500 characters"),
        ),
        (
            "transfer",
            json!({"summary": long(2_001)}),
            (422, "invalid_value", "summary must be at most 2000 characters"),
        ),
        (
            "transfer",
            json!({"to": "0815"}),
            (422, "invalid_value", "to must be in E.164, such as +14155550123"),
        ),
        ("transfer", json!({"to": 5}), (422, "invalid_body", "expected a string")),
        ("transfer", json!({"team": "front desk"}), (422, "invalid_body", "UUID")),
        ("transfer", json!({"team": nobody}), (422, "invalid_value", "enable a member first")),
        ("transfer", json!({"to": "+14155550155", "team": nobody}), (422, "invalid_value", "not both")),
    ] {
        let path = format!("/api/calls/CA1/{command}");
        is_refused(
            &format!("{command} {body}"),
            send(&world, &path, Some(JSON), &body.to_string()).await,
            expected,
        );
    }
    let huge = json!({"text": long(2_000_000)}).to_string();
    let answer = send(&world, "/api/calls/CA1/inject", Some(JSON), &huge).await;
    is_refused("a huge text", answer, (413, "payload_too_large", "larger than this route takes"));
    for (query, why) in
        [("limit=0", "limit must be 1 to 200"), ("limit=x", "invalid digit"), ("offset=-1", "invalid digit")]
    {
        let request = world.http.get(world.running.public_url.join(&format!("/api/calls/live?{query}")));
        let key = secrecy::ExposeSecret::expose_secret(&world.running.admin_key);
        let answer = request.bearer_auth(key).send().await.unwrap();
        is_refused(
            query,
            (answer.status().as_u16(), answer.json().await.unwrap()),
            (400, "invalid_query", why),
        );
    }
    let wanted: i64 = world.value("select count(*) from call_commands").await;
    assert_eq!(wanted, 0, "nothing of it has come near a call");
    world.stop().await;
}

#[tokio::test]
async fn somebody_elses_call_or_team_is_none_and_a_team_of_nobody_neither() {
    let world = World::start(ModelOptions::default(), &[]).await;
    world.offer("CA1").await;
    let teams = "
        insert into organisations (id, name, slug)
        values ('00000000-0000-0000-0000-0000000000ff', 'Other', 'other');
        insert into teams (id, organization_id, name)
        select '00000000-0000-0000-0000-00000000000a'::uuid, organization_id, 'Office' from agents
        union all
        select '00000000-0000-0000-0000-00000000000b', '00000000-0000-0000-0000-0000000000ff'::uuid, 'Theirs';
        insert into team_members (organization_id, team_id, name, number, enabled)
        select organization_id, id, 'Grace', '+14155550191', organization_id = '00000000-0000-0000-0000-0000000000ff'
        from teams";
    sqlx::raw_sql(teams).execute(world.running.store.pool()).await.unwrap();
    let theirs = "
        insert into leads (organization_id, name, phone, call_sid)
        values ('00000000-0000-0000-0000-0000000000ff', 'Ada', '+14155550123', 'CA2')";
    sqlx::raw_sql(theirs).execute(world.running.store.pool()).await.unwrap();
    let answer = world.post("/api/calls/CA2/hang-up", &json!({})).await;
    is_refused("somebody else's call", answer, (404, "not_found", "there is no such call"));
    for team in ["00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"] {
        let answer = world.post("/api/calls/CA1/transfer", &json!({"team": team})).await;
        is_refused(team, answer, (422, "invalid_value", "enable a member first"));
    }
    world.stop().await;
}

#[tokio::test]
async fn a_request_of_the_carrier_that_cannot_be_read_is_refused_and_its_mistake_is_named() {
    let world = World::start(ModelOptions::default(), &[]).await;
    let ask = async |path: &str, fields: &[(&str, &str)]| {
        let url = world.running.public_url.join(path);
        let signature = sign(secrecy::ExposeSecret::expose_secret(&world.token), &url, fields);
        let request = world.http.post(url).header("x-twilio-signature", signature).form(fields);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap_or_default())
    };
    let call = [("CallSid", "CA1")];
    for path in ["/media-stream-twiml", "/twiml/stream-ended", "/twiml/handoff-ended/1"] {
        let missing = ask(path, &[("CallStatus", "ringing")]).await;
        is_refused(path, missing, (400, "invalid_call_sid", "the parameter CallSid is missing"));
        let garbage = ask(path, &[("CallSid", "CA 1")]).await;
        is_refused(
            path,
            garbage,
            (400, "invalid_call_sid", "1 to 50 printable ASCII characters without spaces"),
        );
        let json = world.http.post(world.running.public_url.join(path)).json(&json!({"CallSid": "CA1"}));
        let json = json.send().await.unwrap();
        let answer = (json.status().as_u16(), json.json().await.unwrap());
        is_refused(path, answer, (415, "unsupported_media_type", "send a form"));
    }
    for (path, expected) in [
        ("/twiml/handoff-ended/first", (400, "invalid_path", "Cannot parse")),
        ("/twiml/handoff-ended/-1", (400, "invalid_path", "Cannot parse")),
        ("/twiml/whisper/CA1/first", (400, "invalid_path", "Cannot parse")),
        ("/twiml/whisper/CA%201/1", (400, "invalid_path", "1 to 50 printable ASCII characters")),
        ("/twiml/whisper/CA1/1?member=grace", (400, "invalid_query", "UUID")),
        ("/api/agent/7/call-incoming", (400, "invalid_path", "UUID")),
    ] {
        is_refused(path, ask(path, &call).await, expected);
    }
    // What is only unknown is answered in words: a person would hear anything else as an error of the carrier.
    let nobody = "00000000-0000-0000-0000-00000000000b";
    for (path, says) in [
        (format!("/api/agent/{nobody}/call-incoming"), "This number cannot take calls right now."),
        ("/twiml/whisper/CA9/1".to_owned(), "Connecting you now."),
        ("/twiml/handoff-ended/1".to_owned(), "nobody can take your call right now."),
        ("/twiml/stream-ended".to_owned(), "something went wrong on our side."),
    ] {
        let twiml = world.webhook(&path, &[("CallSid", "CA9")]).await;
        assert!(twiml.contains(says), "{path}: {twiml}");
    }
    world.stop().await;
}
