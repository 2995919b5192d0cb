//! Sessions: configuration, refusals, faults.

use super::*;

#[test]
fn a_session_begins_with_its_complete_defaults() {
    let mut client = Client::connected(ModelOptions::default());
    let session = client.only("session.created")["session"].clone();
    assert_eq!(session["audio"]["input"]["format"], json!({"type": "audio/pcm", "rate": 24000}));
    assert_eq!(session["audio"]["input"]["turn_detection"]["create_response"], true);
    assert_eq!((&session["type"], &session["model"]), (&json!("realtime"), &json!("gpt-realtime-2.1")));
}

#[test]
fn nonsense_is_refused_by_name_and_changes_nothing() {
    let mut client = Client::on_the_phone(ModelOptions::default());
    for (event, code) in [
        (json!({"type": "session.close", "event_id": "e1"}), "invalid_value"),
        (json!({"event_id": "e1"}), "invalid_event"),
        (json!({"type": "input_audio_buffer.append", "event_id": "e1", "audio": "###"}), "invalid_value"),
        (json!({"type": "input_audio_buffer.append", "event_id": "e1"}), "missing_required_parameter"),
        (
            json!({"type": "response.create", "event_id": "e1", "response": {"modalities": []}}),
            "unknown_parameter",
        ),
        (json!({"type": "response.cancel", "event_id": "e1", "reason": "x"}), "unknown_parameter"),
        (
            json!({"type": "conversation.item.delete", "event_id": "e1", "item_id": "x"}),
            "item_delete_invalid_item_id",
        ),
        (
            json!({"type": "conversation.item.retrieve", "event_id": "e1", "item_id": "x"}),
            "item_retrieve_invalid_item_id",
        ),
        (
            json!({"type": "conversation.item.create", "event_id": "e1",
                   "item": {"type": "function_call_output", "call_id": "nobody", "output": ""}}),
            "invalid_tool_call_id",
        ),
    ] {
        client.send(&event);
        let error = client.only("error")["error"].clone();
        assert_eq!((&error["code"], &error["event_id"]), (&json!(code), &json!("e1")), "{event}");
    }
    client.engine.handle(Duration::from_secs(1), "not json");
    client.engine.handle_binary(Duration::from_secs(1));
    let report = client.report();
    assert_eq!(report.violations.len(), 11);
    assert!(report.items.is_empty() && report.responses.is_empty());
}

// 13.11, 13.12
#[test]
fn an_update_can_be_refused_delayed_or_echoed_wrongly() {
    let update = json!({"type": "session.update", "event_id": "upd-1", "session": {"type": "realtime",
        "audio": {"output": {"format": {"type": "audio/pcmu"}}}}});
    let with = |faults: Faults| Client::connected(ModelOptions { faults, ..ModelOptions::default() });
    let mut refused = with(Faults { refuse_update: Some("invalid_value".into()), ..Faults::default() });
    refused.send(&update);
    assert_eq!(refused.only("error")["error"]["event_id"], "upd-1");
    assert_eq!((refused.report().updates, refused.report().violations.len()), (0, 0));

    let mut late = with(Faults { update_delay_ms: 300, ..Faults::default() });
    late.send(&update);
    late.wait(290);
    assert_eq!(late.report().updates, 0);
    late.wait(10);
    assert_eq!(late.report().updates, 1);

    let mut wrong = with(Faults { echo_pcm_output: true, ..Faults::default() });
    wrong.send(&update);
    let format = wrong.only("session.updated")["session"]["audio"]["output"]["format"].clone();
    assert_eq!(format["type"], "audio/pcm");
}

#[test]
fn a_transcription_model_that_was_made_to_be_refused_is_not_the_clients_fault() {
    let options = ModelOptions {
        refused_transcription_models: vec!["gpt-transcribe".into()],
        ..ModelOptions::default()
    };
    let mut client = Client::on_the_phone(options);
    let report = client.report();
    assert_eq!((codes(&report), report.updates, report.violations.len()), (vec!["invalid_value"], 0, 0));
    let transcription = json!({"input": {"transcription": {"model": "gpt-4o-mini-transcribe"}}});
    client.send(&json!({"type": "session.update", "session": {"type": "realtime", "audio": transcription}}));
    assert_eq!(client.report().updates, 1);
}

// 13.13, 13.10
#[test]
fn a_session_can_expire_or_never_begin() {
    let with = |faults: Faults| Client::connected(ModelOptions { faults, ..ModelOptions::default() });
    let mut expiring = with(Faults { expire_after_ms: Some(1000), ..Faults::default() });
    expiring.take();
    expiring.wait(990);
    assert_eq!(expiring.engine.poll_close(), None);
    expiring.wait(10);
    assert_eq!(expiring.only("error")["error"]["code"], "session_expired");
    assert!(matches!(expiring.engine.poll_close(), Some(Close::Code(1001, _))));

    let mut refused =
        with(Faults { refuse_after_upgrade: Some("invalid_api_key".into()), ..Faults::default() });
    assert_eq!(kinds(&refused.take()), ["error"]);
    let close = Close::Code(3000, "invalid_request_error.invalid_api_key".into());
    assert_eq!(refused.engine.poll_close(), Some(close));

    let mut silent = with(Faults { no_session: true, ..Faults::default() });
    assert_eq!(kinds(&silent.take()), [""; 0]);
}

#[test]
fn a_connection_breaks_at_a_random_moment_between_two() {
    let breaks_at = |seed: u64| {
        let faults = Faults { drop_after_ms: Some(1000), drop_jitter_ms: 2000, ..Faults::default() };
        let mut client = Client::connected(ModelOptions { seed, faults, ..ModelOptions::default() });
        while client.engine.poll_close().is_none() {
            client.wait(10);
        }
        client.now_ms
    };
    let moments: std::collections::BTreeSet<u64> = (0..20).map(breaks_at).collect();
    assert!(moments.iter().all(|ms| (1000..=3000).contains(ms)) && moments.len() > 10, "{moments:?}");
}

#[test]
fn garbage_stands_between_events_that_are_as_they_would_be_without_it() {
    let run = |garbage_every: u64| {
        let faults = Faults { garbage_every, ..Faults::default() };
        let engine = Engine::new(
            Arc::new(ModelOptions { faults, ..ModelOptions::default() }),
            "gpt-realtime-2.1",
            0,
            0,
        );
        let mut engine = engine;
        engine.handle(Duration::ZERO, r#"{"type": "response.create"}"#);
        engine.advance(Duration::from_secs(5));
        std::iter::from_fn(|| engine.poll_event()).collect::<Vec<_>>()
    };
    let (plain, mixed) = (run(0), run(3));
    let (garbage, rest): (Vec<_>, Vec<_>) =
        mixed.into_iter().partition(|text| super::super::GARBAGE.contains(&text.as_str()));
    assert_eq!(rest, plain);
    assert_eq!(garbage.len(), plain.len() / 3);
    let kinds: std::collections::BTreeSet<_> = garbage.iter().collect();
    assert_eq!(kinds.len(), super::super::GARBAGE.len(), "one of each");
}

// 13.15
#[test]
fn noise_surrounds_a_session_that_works() {
    let faults = Faults { noise: true, ..Faults::default() };
    let mut client = Client::on_the_phone(ModelOptions { faults, ..ModelOptions::default() });
    client.say("sunday-question");
    client.quiet(600);
    client.wait(3000);
    let events = client.take();
    assert!(events.iter().any(|event| event["type"] == "simulated.noise"));
    assert!(events.iter().any(|event| event.get("obfuscation").is_some()));
    assert_eq!(client.report().items[1].text, "On Sunday we are closed.");
}

#[test]
fn a_text_session_answers_in_text() {
    let mut client = Client::with_session(ModelOptions::default(), &json!({"output_modalities": ["text"]}));
    client.send(&json!({"type": CREATE}));
    client.wait(3000);
    let events = client.take();
    assert_eq!(generated(&events), 0);
    let done = events.iter().find(|event| event["type"] == "response.output_text.done").unwrap();
    assert_eq!(done["text"], "Hello, this is Northgate Bakery. How can I help you?");
}

#[test]
fn the_same_seed_and_the_same_events_give_the_same_session() {
    let run = |seed: u64| {
        let mut client = Client::on_the_phone(ModelOptions { seed, ..ModelOptions::default() });
        client.say("hours-question");
        client.quiet(600);
        client.wait(3000);
        client.log
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

/// A call with everything in it: greeting, turn, interruption, truncation, function, keys, errors.
fn eventful() -> Client {
    let faults = Faults { late_deltas: 2, ..Faults::default() };
    let transcripts = Transcripts { fail_every: 3, ..Transcripts::default() };
    let mut client =
        Client::on_the_phone(ModelOptions { faults, transcripts, speed: 2.0, ..ModelOptions::default() });
    client.send(&json!({"type": CREATE}));
    client.wait(3000);
    client.say("hours-question");
    client.quiet(1500);
    client.say("sunday-question");
    client.quiet(1500);
    client.say("order-question");
    client.quiet(2500);
    let items = client.report().items;
    let call = items.iter().find(|item| item.kind == "function_call").unwrap();
    let call_id = client.log.iter().find_map(|(_, event)| event["call_id"].as_str()).unwrap().to_owned();
    assert_eq!(call.name.as_deref(), Some("look_up_order"));
    let output = json!({"type": "function_call_output", "call_id": call_id, "output": "{}"});
    client.send(&json!({"type": "conversation.item.create", "item": output}));
    client.send(&json!({"type": "conversation.item.truncate", "item_id": items[0].id, "content_index": 0, "audio_end_ms": 5}));
    client.send(&json!({"type": "conversation.item.delete", "item_id": items[1].id}));
    client.send(&json!({"type": "nonsense"}));
    client.wait(3000);
    client
}

#[test]
fn every_event_is_one_that_an_independent_reader_understands() {
    use async_openai::types::realtime::RealtimeServerEvent;
    let client = eventful();
    let mut kinds = std::collections::BTreeSet::new();
    for (_, event) in &client.log {
        let kind = event["type"].as_str().unwrap();
        kinds.insert(kind);
        if let Err(error) = serde_json::from_value::<RealtimeServerEvent>(as_published(event)) {
            panic!("{kind}: {error} in {event}");
        }
    }
    assert!(kinds.len() > 25, "{kinds:?}");
}

/// The published types allow fewer nulls than the wire shows, and want audio that only `retrieved` items have.
fn as_published(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter(|(_, member)| !member.is_null());
            let mut kept: serde_json::Map<_, _> =
                kept.map(|(name, member)| (name.clone(), as_published(member))).collect();
            if value["type"] == "input_audio" {
                kept.insert("audio".into(), json!(""));
                kept.entry("transcript").or_insert(json!(""));
            }
            Value::Object(kept)
        }
        Value::Array(list) => list.iter().map(as_published).collect(),
        other => other.clone(),
    }
}
