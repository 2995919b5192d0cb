//! Sessions over time, without a socket. Numbers in comments are sections of the protocol's description.

mod responses;
mod sessions;
mod turns;

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
        Self::with_session(options, &json!({}))
    }

    fn with_session(options: ModelOptions, more: &Value) -> Self {
        let mut client = Self::connected(options);
        let tool = |name: &str| json!({"type": "function", "name": name, "description": "", "parameters": {"type": "object"}});
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
        client.send(&json!({"type": "session.update", "session": session}));
        client.take();
        client
    }

    fn send(&mut self, event: &Value) {
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
            self.send(&json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(frame)}));
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
