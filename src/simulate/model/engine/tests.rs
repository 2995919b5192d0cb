//! Sessions over time, without a socket. Numbers in comments are sections of the protocol's description.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::simulate::model::script::{FunctionCall, Outcome, Reply, Rule, Speech, When};
use crate::simulate::model::{Faults, Replies, Transcripts};
use crate::simulate::speech::caller_phrase;

/// A client of one session and everything it was sent.
struct Client {
    engine: Engine,
    now_ms: u64,
    log: Vec<(u64, Value)>,
    /// The part of the log that was looked at.
    seen: usize,
}

impl Client {
    fn connected(options: ModelOptions) -> Self {
        let engine = Engine::new(Arc::new(options), "gpt-realtime-2.1", 0, 0);
        let mut client = Self { engine, now_ms: 0, log: Vec::new(), seen: 0 };
        client.collect();
        client
    }

    /// Configured for a telephone call, with what has happened so far taken note of.
    fn on_the_phone(options: ModelOptions) -> Self {
        Self::with_session(options, json!({}))
    }

    fn with_session(options: ModelOptions, more: Value) -> Self {
        let mut client = Self::connected(options);
        let tool = |name: &str| json!({"type": "function", "name": name, "parameters": {"type": "object"}});
        let mut session = json!({
            "type": "realtime",
            "audio": {
                "input": {
                    "format": {"type": "audio/pcmu"},
                    "transcription": {"model": "gpt-transcribe"},
                    "turn_detection": {"type": "server_vad", "silence_duration_ms": 500},
                },
                "output": {"format": {"type": "audio/pcmu"}, "voice": "marin"},
            },
            "tools": [tool("end_call"), tool("look_up_order")],
        });
        for (name, value) in more.as_object().unwrap() {
            session[name] = value.clone();
        }
        client.send(json!({"type": "session.update", "session": session}));
        client.take();
        client
    }

    fn send(&mut self, event: Value) {
        self.engine.handle(Duration::from_millis(self.now_ms), &event.to_string());
        self.collect();
    }

    /// Lets time pass without any audio.
    fn wait(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.now_ms += 10;
            self.engine.advance(Duration::from_millis(self.now_ms));
            self.collect();
        }
    }

    /// Appends audio in real time.
    fn append(&mut self, ulaw: &[u8]) {
        for frame in ulaw.chunks(160) {
            self.send(json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(frame)}));
            self.wait(20);
        }
    }

    fn say(&mut self, phrase: &str) {
        self.append(&caller_phrase(phrase, "anna").unwrap().ulaw().unwrap());
    }

    fn quiet(&mut self, ms: usize) {
        self.append(&vec![0xFF; ms * 8]);
    }

    fn collect(&mut self) {
        while let Some(event) = self.engine.poll_event() {
            self.log.push((self.now_ms, serde_json::from_str(&event).unwrap()));
        }
    }

    /// What has come since the last time.
    fn take(&mut self) -> Vec<Value> {
        let new = self.log[self.seen..].iter().map(|(_, event)| event.clone()).collect();
        self.seen = self.log.len();
        new
    }

    /// The only event of this type since the last time.
    fn only(&mut self, kind: &str) -> Value {
        let mut found: Vec<_> = self.take().into_iter().filter(|event| event["type"] == kind).collect();
        assert_eq!(found.len(), 1, "{kind}: {found:?}");
        found.remove(0)
    }

    fn report(&self) -> SessionReport {
        self.engine.report()
    }
}

/// Types in order, with runs of deltas and the order of unordered pairs taken out.
fn kinds(events: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = Vec::new();
    for event in events {
        let kind = event["type"].as_str().unwrap();
        let kind = match kind {
            "response.output_audio.delta" | "response.output_audio_transcript.delta" => "(deltas)",
            "response.output_audio.done" | "response.output_audio_transcript.done" => "(audio and text done)",
            "response.output_item.done" => "(item done)",
            "conversation.item.done" if event["item"]["role"] != "user" => "(item done)",
            _ => kind,
        };
        if kinds.last() != Some(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

fn generated(events: &[Value]) -> usize {
    let deltas = events.iter().filter(|event| event["type"] == "response.output_audio.delta");
    deltas.map(|event| STANDARD.decode(event["delta"].as_str().unwrap()).unwrap().len()).sum()
}

fn codes(report: &SessionReport) -> Vec<&str> {
    report.errors.iter().map(String::as_str).collect()
}

fn rule(when: When, reply: Reply) -> Rule {
    Rule { when, needs_tool: None, times: None, reply }
}

fn scripted(rules: Vec<Rule>) -> ModelOptions {
    let script = crate::simulate::model::script::Script::default().with_rules_first(rules);
    ModelOptions { script, ..ModelOptions::default() }
}

fn tone(ms: u64, text: &str) -> Speech {
    Speech::Tone { ms, text: text.into() }
}

const CREATE: &str = "response.create";

#[test]
fn a_session_begins_with_its_complete_defaults() {
    let mut client = Client::connected(ModelOptions::default());
    let session = client.only("session.created")["session"].clone();
    assert_eq!(session["audio"]["input"]["format"], json!({"type": "audio/pcm", "rate": 24000}));
    assert_eq!(session["audio"]["input"]["turn_detection"]["create_response"], true);
    assert_eq!((&session["type"], &session["model"]), (&json!("realtime"), &json!("gpt-realtime-2.1")));
}

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

#[test]
fn text_runs_ahead_and_audio_comes_faster_than_it_plays() {
    let mut client = Client::on_the_phone(ModelOptions::default());
    client.send(json!({"type": CREATE, "response": {"instructions": "Greet."}}));
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
    client.send(truncate(2140));
    assert_eq!(client.only("conversation.item.truncated")["audio_end_ms"], 2140);
    let item = client.report().items[1].clone();
    assert_eq!((item.truncated_ms, item.generated_ms), (Some(2140), agent.generated_ms));
    // 13.6
    client.send(truncate(60_000));
    let error = client.only("error")["error"].clone();
    assert_eq!((&error["code"], &error["event_id"]), (&json!("invalid_value"), &json!("trunc-1")));
    assert!(error["message"].as_str().unwrap().contains("already shorter than 60000 ms"));
    client.send(truncate(-1));
    assert_eq!(client.only("error")["error"]["code"], "integer_below_min_value");
    assert_eq!(client.report().violations.len(), 2);
}

#[test]
fn cancelling_works_once_and_is_harmless_afterwards() {
    let mut client = Client::on_the_phone(ModelOptions { speed: 1.0, ..ModelOptions::default() });
    client.send(json!({"type": CREATE}));
    let id = client.only("response.created")["response"]["id"].clone();
    client.wait(600);
    client.take();
    client.send(json!({"type": "response.cancel", "response_id": "resp_other"}));
    assert_eq!(client.only("error")["error"]["code"], "response_cancel_not_active");
    client.send(json!({"type": "response.cancel", "response_id": id}));
    let done = client.only("response.done");
    assert_eq!(done["response"]["status_details"]["reason"], "client_cancelled");
    client.wait(5000);
    assert_eq!(kinds(&client.take()), [""; 0]);
    client.send(json!({"type": "response.cancel", "event_id": "cancel-2"}));
    assert_eq!(client.only("error")["error"]["event_id"], "cancel-2");
    assert_eq!(client.report().violations, [""; 0]);
}

// 13.7
#[test]
fn there_is_one_response_at_a_time() {
    let mut client = Client::on_the_phone(ModelOptions::default());
    client.send(json!({"type": CREATE, "response": {"metadata": {"purpose": "greeting"}}}));
    client.send(json!({"type": CREATE, "event_id": "resp-2"}));
    let error = client.only("error")["error"].clone();
    assert_eq!(error["code"], "conversation_already_has_active_response");
    client.wait(3000);
    client.send(json!({"type": CREATE}));
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
    client.send(json!({"type": CREATE}));
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
    client.send(json!({"type": CREATE}));
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
    client.send(json!({"type": CREATE}));
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
    client.send(json!({"type": "conversation.item.create", "item": output}));
    client.wait(1000);
    // An item alone starts nothing.
    assert!(!kinds(&client.take()).contains(&"response.created"));
    client.send(json!({"type": CREATE}));
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
    client.send(json!({"type": CREATE}));
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
    client.send(json!({"type": CREATE}));
    client.wait(290);
    client.send(json!({"type": "response.cancel"}));
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
    client.send(json!({"type": "conversation.item.create", "item": item}));
    let added = client.take();
    assert_eq!(kinds(&added), ["conversation.item.added", "conversation.item.done"]);
    assert_eq!((&added[0]["item"]["id"], &added[0]["previous_item_id"]), (&json!("keypad_1"), &Value::Null));
    client.send(json!({"type": CREATE, "response": {"instructions": "The caller used the keypad."}}));
    client.wait(3000);
    assert_eq!(client.report().items[1].text, "Thank you, I have noted your selection.");
}

#[test]
fn a_nudge_is_an_instruction_while_nothing_waits_for_an_answer() {
    let mut client = Client::on_the_phone(ModelOptions::default());
    for _ in 0..2 {
        client.send(json!({"type": CREATE, "response": {"instructions": "Say something."}}));
        client.wait(6000);
    }
    let texts: Vec<_> = client.report().items.into_iter().map(|item| item.text).collect();
    assert_eq!(texts, ["Hello, this is Northgate Bakery. How can I help you?", "Are you still there?"]);
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
    client.send(json!({"type": "session.update", "session": {"type": "realtime", "audio": {"input": {
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 500}}}}}));
    let samples = caller_phrase("goodbye", "ben").unwrap().samples_8k().unwrap();
    let wide: Vec<u8> =
        samples.iter().chain(&[0; 8000]).flat_map(|sample| [*sample; 3]).flat_map(i16::to_le_bytes).collect();
    // Odd lengths, as a careless client might send them.
    for piece in wide.chunks(961) {
        client.send(json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(piece)}));
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
    let mut client = Client::with_session(ModelOptions::default(), json!({"audio": audio}));
    client.quiet(60);
    client.send(json!({"type": "input_audio_buffer.commit", "event_id": "commit-1"}));
    assert_eq!(client.only("error")["error"]["code"], "input_audio_buffer_commit_empty");
    client.send(json!({"type": "input_audio_buffer.clear"}));
    client.only("input_audio_buffer.cleared");
    client.say("sunday-question");
    client.send(json!({"type": "input_audio_buffer.commit"}));
    assert_eq!(
        kinds(&client.take()),
        ["input_audio_buffer.committed", "conversation.item.added", "conversation.item.done"]
    );
    client.wait(1000);
    assert_eq!(kinds(&client.take()), [""; 0]);
    client.send(json!({"type": CREATE}));
    client.wait(3000);
    assert_eq!(client.report().items[1].text, "On Sunday we are closed.");
}

#[test]
fn a_commit_that_loses_against_the_servers_own_is_harmless() {
    let mut client = Client::on_the_phone(ModelOptions::default());
    client.quiet(500);
    client.send(json!({"type": "input_audio_buffer.commit"}));
    let report = client.report();
    assert_eq!((codes(&report), report.violations.len()), (vec!["input_audio_buffer_commit_empty"], 0));
}

#[test]
fn the_client_can_keep_the_server_from_answering_and_interrupting() {
    let turns = json!({"type": "server_vad", "silence_duration_ms": 500, "create_response": false, "interrupt_response": false});
    let audio = json!({"input": {"format": {"type": "audio/pcmu"}, "turn_detection": turns}});
    let mut client =
        Client::with_session(ModelOptions { speed: 1.0, ..ModelOptions::default() }, json!({"audio": audio}));
    client.send(json!({"type": CREATE}));
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
    let mut client = Client::with_session(ModelOptions::default(), json!({"audio": audio}));
    client.send(json!({"type": CREATE}));
    client.quiet(8000);
    assert!(!kinds(&client.take()).contains(&"input_audio_buffer.timeout_triggered"));
    // 3.7 s of greeting, then 5 s.
    client.quiet(1500);
    client.only("input_audio_buffer.timeout_triggered");
    client.quiet(2000);
    assert_eq!(client.report().items.last().unwrap().text, "Are you still there?");
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
        client.send(event.clone());
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
    refused.send(update.clone());
    assert_eq!(refused.only("error")["error"]["event_id"], "upd-1");
    assert_eq!((refused.report().updates, refused.report().violations.len()), (0, 0));

    let mut late = with(Faults { update_delay_ms: 300, ..Faults::default() });
    late.send(update.clone());
    late.wait(290);
    assert_eq!(late.report().updates, 0);
    late.wait(10);
    assert_eq!(late.report().updates, 1);

    let mut wrong = with(Faults { echo_pcm_output: true, ..Faults::default() });
    wrong.send(update);
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
    client.send(json!({"type": "session.update", "session": {"type": "realtime", "audio": transcription}}));
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

// 13.17
#[test]
fn half_a_minute_of_audio_can_come_within_a_second() {
    let replies = Replies::Tones { min_ms: 30_000, max_ms: 30_000 };
    let mut client = Client::on_the_phone(ModelOptions { replies, speed: 40.0, ..ModelOptions::default() });
    client.say("hours-question");
    client.quiet(600);
    client.wait(1000);
    let report = client.report();
    assert_eq!(report.responses[0].generated_ms, 30_000.0);
    assert_eq!((report.responses[0].status.as_str(), report.items[0].phrase.clone()), ("completed", None));
}

#[test]
fn a_text_session_answers_in_text() {
    let mut client = Client::with_session(ModelOptions::default(), json!({"output_modalities": ["text"]}));
    client.send(json!({"type": CREATE}));
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
