//! Talking: responses, functions, cancelling.

use super::*;

#[test]
fn text_runs_ahead_and_audio_comes_faster_than_it_plays() {
    let mut client = Client::on_the_phone(ModelOptions::default());
    client.send(&json!({"type": CREATE, "response": {"instructions": "Greet."}}));
    client.wait(2000);
    let delta = |client: &Client, kind: &str| {
        client.log.iter().find(|(_, event)| event["type"] == kind).map(|(at, _)| *at).unwrap()
    };
    assert_eq!(delta(&client, "response.output_audio.delta"), 250);
    let done = delta(&client, "response.done");
    // 3.7 s at six times real time.
    assert!((500..=1000).contains(&done), "{done}");
    let events = client.take();
    let text = events.iter().position(|event| event["type"] == "response.output_audio_transcript.delta");
    let audio = events.iter().position(|event| event["type"] == "response.output_audio.delta");
    assert!(text < audio);
    assert!(generated(&events) > 3500 * 8);
}

#[test]
fn cancelling_works_once_and_is_harmless_afterwards() {
    let mut client = Client::on_the_phone(ModelOptions { speed: 1.0, ..ModelOptions::default() });
    client.send(&json!({"type": CREATE}));
    let id = client.only("response.created")["response"]["id"].clone();
    client.wait(600);
    client.take();
    client.send(&json!({"type": "response.cancel", "response_id": "resp_other"}));
    assert_eq!(client.only("error")["error"]["code"], "response_cancel_not_active");
    client.send(&json!({"type": "response.cancel", "response_id": id}));
    let done = client.only("response.done");
    assert_eq!(done["response"]["status_details"]["reason"], "client_cancelled");
    client.wait(5000);
    assert_eq!(kinds(&client.take()), [""; 0]);
    client.send(&json!({"type": "response.cancel", "event_id": "cancel-2"}));
    assert_eq!(client.only("error")["error"]["event_id"], "cancel-2");
    assert_eq!(client.report().violations, [""; 0]);
}

// 13.7
#[test]
fn there_is_one_response_at_a_time() {
    let mut client = Client::on_the_phone(ModelOptions::default());
    client.send(&json!({"type": CREATE, "response": {"metadata": {"purpose": "greeting"}}}));
    client.send(&json!({"type": CREATE, "event_id": "resp-2"}));
    let error = client.only("error")["error"].clone();
    assert_eq!(error["code"], "conversation_already_has_active_response");
    client.wait(3000);
    client.send(&json!({"type": CREATE}));
    client.wait(3000);
    let report = client.report();
    assert_eq!(report.responses.len(), 2);
    assert_eq!(report.responses[0].metadata, json!({"purpose": "greeting"}));
    assert_eq!(report.violations, [""; 0]);
}

// 13.8, 5.2
#[test]
fn a_failed_response_is_silent_and_what_it_was_to_answer_still_waits() {
    let failing = Rule {
        times: Some(1),
        ..rule(
            When::Heard("sunday-question".into()),
            Reply { outcome: Outcome::Failed("rate_limit_exceeded".into()), ..Reply::default() },
        )
    };
    let mut client = Client::on_the_phone(scripted(vec![failing]));
    client.say("sunday-question");
    client.quiet(600);
    client.wait(2000);
    let done = client.only("response.done")["response"].clone();
    assert_eq!((&done["status"], &done["output"]), (&json!("failed"), &json!([])));
    assert_eq!(done["status_details"]["error"]["code"], "rate_limit_exceeded");
    client.send(&json!({"type": CREATE}));
    client.wait(3000);
    assert_eq!(client.report().items.last().unwrap().text, "On Sunday we are closed.");
}

#[test]
fn an_incomplete_response_stops_halfway() {
    let reply = Reply {
        say: vec![tone(4000, "one two three four")],
        outcome: Outcome::Incomplete("content_filter".into()),
        ..Reply::default()
    };
    let mut client = Client::on_the_phone(scripted(vec![rule(When::Greeting, reply)]));
    client.send(&json!({"type": CREATE}));
    client.wait(3000);
    let events = client.take();
    assert_eq!(generated(&events), 2000 * 8);
    let done = &events.last().unwrap()["response"];
    assert_eq!(
        (&done["status"], &done["status_details"]["reason"]),
        (&json!("incomplete"), &json!("content_filter"))
    );
    assert_eq!(done["output"][0]["status"], "incomplete");
}

// 13.18
#[test]
fn one_response_can_hold_several_items_in_order() {
    let reply = Reply { say: vec![tone(500, "First."), tone(700, "Second.")], ..Reply::default() };
    let mut client = Client::on_the_phone(scripted(vec![rule(When::Greeting, reply)]));
    client.send(&json!({"type": CREATE}));
    client.wait(3000);
    let added: Vec<_> =
        client.take().into_iter().filter(|event| event["type"] == "conversation.item.added").collect();
    assert_eq!(added[1]["previous_item_id"], added[0]["item"]["id"]);
    let lengths: Vec<_> =
        client.report().items.into_iter().map(|item| (item.text, item.generated_ms)).collect();
    assert_eq!(lengths, [("First.".into(), Some(500.0)), ("Second.".into(), Some(700.0))]);
}

// 4.8
#[test]
fn a_function_is_asked_for_after_speech_and_its_answer_is_spoken() {
    let mut client = Client::on_the_phone(ModelOptions::default());
    client.say("order-question");
    client.quiet(600);
    client.wait(3000);
    let events = client.take();
    let find = |kind: &str| events.iter().find(|event| event["type"] == kind).unwrap();
    let call = find("response.function_call_arguments.done");
    assert_eq!((&call["name"], &call["output_index"]), (&json!("look_up_order"), &json!(1)));
    let arguments: String = events
        .iter()
        .filter(|event| event["type"] == "response.function_call_arguments.delta")
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(call["arguments"], arguments);
    assert!(call["call_id"].as_str().unwrap().len() <= 32);
    let output =
        json!({"type": "function_call_output", "call_id": call["call_id"], "output": "{\"ready\":true}"});
    client.send(&json!({"type": "conversation.item.create", "item": output}));
    client.wait(1000);
    // An item alone starts nothing.
    assert!(!kinds(&client.take()).contains(&"response.created"));
    client.send(&json!({"type": CREATE}));
    client.wait(3000);
    let report = client.report();
    assert_eq!(report.items.last().unwrap().text, "Your order is ready and waiting for you.");
    assert_eq!(report.violations, [""; 0]);
}

#[test]
fn functions_can_be_asked_for_at_once_and_in_broken_json() {
    let call = |tool: &str| FunctionCall { tool: tool.into(), arguments: "{}".into() };
    let reply =
        Reply { call: vec![call("order"), call("end_call"), call("not_offered")], ..Reply::default() };
    let options = scripted(vec![rule(When::Greeting, reply)]);
    let faults = Faults { broken_arguments: true, ..Faults::default() };
    let mut client = Client::on_the_phone(ModelOptions { faults, ..options });
    client.send(&json!({"type": CREATE}));
    client.wait(1000);
    let calls: Vec<_> = client
        .take()
        .into_iter()
        .filter(|event| event["type"] == "response.function_call_arguments.done")
        .map(|event| (event["name"].clone(), event["arguments"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(calls.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), ["look_up_order", "end_call"]);
    assert!(serde_json::from_str::<Value>(&calls[0].1).is_err());
}

// 13.9
#[test]
fn a_function_in_a_cancelled_response_stays_incomplete() {
    let reply = Reply {
        call: vec![FunctionCall { tool: "end_call".into(), arguments: r#"{"reason":"x"}"#.into() }],
        ..Reply::default()
    };
    let mut client = Client::on_the_phone(scripted(vec![rule(When::Greeting, reply)]));
    client.send(&json!({"type": CREATE}));
    client.wait(290);
    client.send(&json!({"type": "response.cancel"}));
    let events = client.take();
    assert!(!kinds(&events).contains(&"response.function_call_arguments.done"));
    let done = &events.last().unwrap()["response"];
    assert_eq!(
        (&done["output"][0]["type"], &done["output"][0]["status"]),
        (&json!("function_call"), &json!("incomplete"))
    );
}

#[test]
fn pressed_keys_are_answered_when_asked_for() {
    let mut client = Client::on_the_phone(ModelOptions::default());
    let text = json!([{"type": "input_text", "text": "(The caller pressed 2 on the keypad.)"}]);
    let item = json!({"type": "message", "role": "user", "id": "keypad_1", "content": text});
    client.send(&json!({"type": "conversation.item.create", "item": item}));
    let added = client.take();
    assert_eq!(kinds(&added), ["conversation.item.added", "conversation.item.done"]);
    assert_eq!((&added[0]["item"]["id"], &added[0]["previous_item_id"]), (&json!("keypad_1"), &Value::Null));
    client.send(&json!({"type": CREATE, "response": {"instructions": "The caller used the keypad."}}));
    client.wait(3000);
    assert_eq!(client.report().items[1].text, "Thank you, I have noted your selection.");
}

#[test]
fn a_nudge_is_an_instruction_while_nothing_waits_for_an_answer() {
    let mut client = Client::on_the_phone(ModelOptions::default());
    for _ in 0..2 {
        client.send(&json!({"type": CREATE, "response": {"instructions": "Say something."}}));
        client.wait(6000);
    }
    let texts: Vec<_> = client.report().items.into_iter().map(|item| item.text).collect();
    assert_eq!(texts, ["Hello, this is Northgate Bakery. How can I help you?", "Are you still there?"]);
}

// 13.17
#[test]
fn half_a_minute_of_audio_can_come_within_a_second() {
    let replies = Replies::Tones { min_ms: 30_000, max_ms: 30_000 };
    let mut client = Client::on_the_phone(ModelOptions { replies, speed: 40.0, ..ModelOptions::default() });
    client.say("hours-question");
    client.quiet(600);
    client.wait(1000);
    let report = client.report();
    assert_eq!(report.items[1].generated_ms, Some(30_000.0));
    assert_eq!((report.responses[0].status.as_str(), report.items[0].phrase.clone()), ("completed", None));
}
