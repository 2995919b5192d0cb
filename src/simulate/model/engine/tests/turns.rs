//! Hearing: turns, interruptions, texts.

use super::*;

// 4.4
#[test]
fn a_turn_and_its_answer_come_in_the_order_of_the_real_service() {
    let mut client = Client::on_the_phone(ModelOptions::default());
    client.quiet(500);
    client.say("hours-question");
    client.quiet(520);
    client.wait(5000);
    let events = client.take();
    let is_transcript = |event: &Value| event["type"].as_str().unwrap().contains("input_audio_transcription");
    assert_eq!(events.iter().filter(|event| is_transcript(event)).count(), 2);
    let answer: Vec<Value> = events.iter().filter(|event| !is_transcript(event)).cloned().collect();
    assert_eq!(
        kinds(&answer),
        [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "(deltas)",
            "(audio and text done)",
            "response.content_part.done",
            "(item done)",
            "rate_limits.updated",
            "response.done",
        ]
    );
    let find = |kind: &str| events.iter().find(|event| event["type"] == kind).unwrap();
    let user = &find("input_audio_buffer.speech_started")["item_id"];
    assert_eq!(user, &find("input_audio_buffer.committed")["item_id"]);
    let agent = events.iter().rfind(|event| event["type"] == "conversation.item.added").unwrap();
    assert_eq!(&agent["previous_item_id"], user);
    assert_eq!((&agent["item"]["status"], &agent["item"]["content"]), (&json!("in_progress"), &json!([])));
    let done = &find("response.done")["response"];
    assert_eq!(done["output"][0]["id"], agent["item"]["id"]);
    assert!(done["output"][0]["content"][0]["transcript"].as_str().unwrap().starts_with("We are open"));
    let report = client.report();
    assert_eq!(report.violations, [""; 0]);
    assert_eq!(report.items[0].phrase.as_deref(), Some("hours-question"));
    assert_eq!(report.items[1].generated_ms, Some(generated(&events) as f64 / 8.0));
}

#[test]
fn positions_count_appended_audio_and_not_time() {
    let mut client = Client::on_the_phone(ModelOptions::default());
    client.wait(3000);
    client.quiet(1000);
    client.say("hello");
    client.quiet(1000);
    let events = client.take();
    let start = events[0]["audio_start_ms"].as_u64().unwrap();
    // 300 ms of padding before the first sound.
    assert!((690..=740).contains(&start), "{start}");
    let end = events[1]["audio_end_ms"].as_u64().unwrap();
    assert!((1900..=2200).contains(&end), "{end}");
}

// 13.2
#[test]
fn transcripts_can_come_in_reverse_order() {
    let transcripts = Transcripts { reversed: true, ..Transcripts::default() };
    let mut client = Client::on_the_phone(ModelOptions { transcripts, ..ModelOptions::default() });
    for phrase in ["hours-question", "sunday-question"] {
        client.say(phrase);
        client.quiet(600);
    }
    client.wait(2000);
    let texts: Vec<_> = client
        .take()
        .into_iter()
        .filter(|event| event["type"] == "conversation.item.input_audio_transcription.completed")
        .map(|event| event["transcript"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(texts, ["Wait, sorry, what about Sunday?", "Hello, I would like to know your opening hours."]);
}

// 13.16
#[test]
fn transcripts_can_fail_or_never_come() {
    let transcripts = Transcripts { lose_every: 2, fail_every: 3, delay_ms: 100, ..Transcripts::default() };
    let mut client = Client::on_the_phone(ModelOptions { transcripts, ..ModelOptions::default() });
    for _ in 0..3 {
        client.say("hello");
        client.quiet(700);
    }
    client.wait(20_000);
    let given: Vec<_> =
        client.report().items.into_iter().filter(|item| item.role.as_deref() == Some("user")).collect();
    assert_eq!(given.iter().map(|item| item.transcript.is_some()).collect::<Vec<_>>(), [true, false, false]);
    let failed = client.only("conversation.item.input_audio_transcription.failed");
    assert_eq!(
        (&failed["item_id"], &failed["error"]["code"]),
        (&json!(given[2].id), &json!("audio_unintelligible"))
    );
}

// 13.3, 4.6
#[test]
fn speaking_over_a_response_cancels_it_and_late_deltas_may_follow() {
    let faults = Faults { late_deltas: 3, ..Faults::default() };
    let mut client = Client::on_the_phone(ModelOptions { faults, speed: 1.5, ..ModelOptions::default() });
    client.say("hours-question");
    client.quiet(800);
    client.take();
    client.say("sunday-question");
    let events = client.take();
    let position = |kind: &str| events.iter().position(|event| event["type"] == kind).unwrap();
    let started = position("input_audio_buffer.speech_started");
    let done = position("response.done");
    assert!(started < done);
    let response = &events[done]["response"];
    assert_eq!(response["status"], "cancelled");
    assert_eq!(response["status_details"], json!({"type": "cancelled", "reason": "turn_detected"}));
    assert_eq!(response["output"][0]["status"], "incomplete");
    let late =
        |range: &[Value]| range.iter().filter(|event| event["type"] == "response.output_audio.delta").count();
    assert_eq!((late(&events[started..done]), late(&events[done..])), (2, 1));
    client.quiet(600);
    client.wait(3000);
    let report = client.report();
    assert_eq!(report.responses[0].reason.as_deref(), Some("turn_detected"));
    assert_eq!(report.items.last().unwrap().text, "On Sunday we are closed.");
    assert_eq!(report.violations, [""; 0]);
}

// 13.4, 4.7
#[test]
fn after_a_response_is_done_speech_changes_nothing_and_truncation_is_the_clients() {
    let mut client = Client::on_the_phone(ModelOptions::default());
    client.say("hours-question");
    client.quiet(600);
    client.wait(4000);
    let agent = client.report().items[1].clone();
    client.take();
    client.say("sunday-question");
    assert_eq!(kinds(&client.take()), ["input_audio_buffer.speech_started"]);
    let truncate = |ms: i64| {
        json!({"type": "conversation.item.truncate", "event_id": "trunc-1", "item_id": agent.id,
               "content_index": 0, "audio_end_ms": ms})
    };
    client.send(&truncate(2140));
    assert_eq!(client.only("conversation.item.truncated")["audio_end_ms"], 2140);
    let item = client.report().items[1].clone();
    assert_eq!((item.truncated_ms, item.generated_ms), (Some(2140), agent.generated_ms));
    // 13.6
    client.send(&truncate(60_000));
    let error = client.only("error")["error"].clone();
    assert_eq!((&error["code"], &error["event_id"]), (&json!("invalid_value"), &json!("trunc-1")));
    assert!(error["message"].as_str().unwrap().contains("already shorter than 60000 ms"));
    client.send(&truncate(-1));
    assert_eq!(client.only("error")["error"]["code"], "integer_below_min_value");
    assert_eq!(client.report().violations.len(), 2);
}

#[test]
fn audio_before_formats_are_set_is_taken_for_pcm_and_held_against_the_client() {
    let mut client = Client::connected(ModelOptions::default());
    client.say("hours-question");
    client.quiet(1000);
    client.wait(1000);
    let report = client.report();
    // Six mu-law bytes pass for one millisecond of PCM.
    assert!(report.received_audio_ms < 700.0, "{}", report.received_audio_ms);
    assert!(report.items.iter().all(|item| item.phrase.is_none()));
    assert_eq!(report.violations, ["audio was appended before session.updated was sent"]);
}

#[test]
fn the_same_words_are_recognised_in_pcm() {
    let mut client = Client::connected(ModelOptions::default());
    client.send(&json!({"type": "session.update", "session": {"type": "realtime", "audio": {"input": {
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 500}}}}}));
    let samples = caller_phrase("goodbye", "ben").unwrap().samples_8k().unwrap();
    let wide: Vec<u8> =
        samples.iter().chain(&[0; 8000]).flat_map(|sample| [*sample; 3]).flat_map(i16::to_le_bytes).collect();
    // Odd lengths, as a careless client might send them.
    for piece in wide.chunks(961) {
        client.send(&json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(piece)}));
        client.wait(10);
    }
    client.wait(5000);
    assert_eq!(client.report().items[0].phrase.as_deref(), Some("goodbye"));
    // Nothing but `end_call` would follow, and it is not on offer.
    assert_eq!(client.report().items.len(), 2);
}

#[test]
fn lost_audio_shows_in_what_was_understood() {
    let mut client = Client::on_the_phone(ModelOptions::default());
    let ulaw = caller_phrase("hours-question", "anna").unwrap().ulaw().unwrap();
    let holed: Vec<u8> = ulaw
        .chunks(160)
        .enumerate()
        .filter(|(n, _)| n % 5 != 0)
        .flat_map(|(_, frame)| frame.to_vec())
        .collect();
    client.append(&holed);
    client.quiet(600);
    client.wait(5000);
    let items = client.report().items;
    assert_eq!(items[0].phrase, None);
    assert!(items[0].text.ends_with("s of speech)"), "{}", items[0].text);
    assert_eq!(items[1].text, "I see. Is there anything else I can do for you?");
}

// 4.10, 3.1
#[test]
fn without_turn_detection_the_client_commits_and_asks() {
    let audio = json!({"input": {"format": {"type": "audio/pcmu"}, "turn_detection": null}});
    let mut client = Client::with_session(ModelOptions::default(), &json!({"audio": audio}));
    client.quiet(60);
    client.send(&json!({"type": "input_audio_buffer.commit", "event_id": "commit-1"}));
    assert_eq!(client.only("error")["error"]["code"], "input_audio_buffer_commit_empty");
    client.send(&json!({"type": "input_audio_buffer.clear"}));
    client.only("input_audio_buffer.cleared");
    client.say("sunday-question");
    client.send(&json!({"type": "input_audio_buffer.commit"}));
    assert_eq!(
        kinds(&client.take()),
        ["input_audio_buffer.committed", "conversation.item.added", "conversation.item.done"]
    );
    client.wait(1000);
    assert_eq!(kinds(&client.take()), [""; 0]);
    client.send(&json!({"type": CREATE}));
    client.wait(3000);
    assert_eq!(client.report().items[1].text, "On Sunday we are closed.");
}

#[test]
fn a_commit_that_loses_against_the_servers_own_is_harmless() {
    let mut client = Client::on_the_phone(ModelOptions::default());
    client.quiet(500);
    client.send(&json!({"type": "input_audio_buffer.commit"}));
    let report = client.report();
    assert_eq!((codes(&report), report.violations.len()), (vec!["input_audio_buffer_commit_empty"], 0));
}

#[test]
fn the_client_can_keep_the_server_from_answering_and_interrupting() {
    let turns = json!({"type": "server_vad", "silence_duration_ms": 500, "create_response": false, "interrupt_response": false});
    let audio = json!({"input": {"format": {"type": "audio/pcmu"}, "turn_detection": turns}});
    let mut client = Client::with_session(
        ModelOptions { speed: 1.0, ..ModelOptions::default() },
        &json!({"audio": audio}),
    );
    client.send(&json!({"type": CREATE}));
    client.wait(500);
    client.say("hello");
    client.quiet(600);
    client.wait(5000);
    let report = client.report();
    assert_eq!((report.speech_started, report.responses.len()), (1, 1));
    assert_eq!(report.responses[0].status, "completed");
}

// 2.4
#[test]
fn a_long_silence_is_committed_and_answered_when_asked_for() {
    let turns = json!({"type": "server_vad", "silence_duration_ms": 500, "idle_timeout_ms": 5000});
    let audio = json!({"input": {"format": {"type": "audio/pcmu"}, "turn_detection": turns}});
    let mut client = Client::with_session(ModelOptions::default(), &json!({"audio": audio}));
    client.send(&json!({"type": CREATE}));
    client.quiet(8000);
    assert!(!kinds(&client.take()).contains(&"input_audio_buffer.timeout_triggered"));
    // 3.7 s of greeting, then 5 s.
    client.quiet(1500);
    client.only("input_audio_buffer.timeout_triggered");
    client.quiet(2000);
    assert_eq!(client.report().items.last().unwrap().text, "Are you still there?");
}
