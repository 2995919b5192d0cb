//! One session as a value: events in, events out, time given. It never waits and touches no socket.

mod items;
mod listening;
mod speaking;
#[cfg(test)]
mod tests;
mod wish;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::conversation::Conversation;
use super::hearing::{Levels, Vad};
use super::options::ModelOptions;
use super::refusal::{At, Refusal};
use super::report::{ResponseReport, SessionReport};
use super::script::Prompt;
use super::session::{Limits, Session};
use crate::simulate::random::Random;
use speaking::Running;

/// Complaints kept per session; a broken client would fill the memory otherwise.
const KEPT_COMPLAINTS: usize = 200;
/// Largest `input_audio_buffer.append`.
// Dossier 3.1.
const LARGEST_APPEND: usize = 15 * 1024 * 1024;

/// Messages that nobody can read: no JSON, half of it, no event, an event without what it needs.
const GARBAGE: [&str; 6] = [
    "\u{1}\u{2} this is no JSON",
    r#"{"type": "response.output_audio.delta", "delta": "AAAA"#,
    "[]",
    r#"{"type": null}"#,
    r#"{"type": "response.output_audio.delta", "response_id": 7, "item_id": {}, "delta": false}"#,
    r#"{"type": "input_audio_buffer.speech_started", "item_id": null, "audio_start_ms": "soon"}"#,
];

/// One session.
#[derive(Debug)]
pub(super) struct Engine {
    options: Arc<ModelOptions>,
    model: String,
    random: Random,
    now: Duration,
    id: String,
    session: Session,
    updates: u64,
    audio_before_update: bool,
    // Hearing.
    levels: Levels,
    vad: Vad,
    received_bytes_ms: f64,
    appends: u64,
    speech_started: u64,
    /// Id the caller's item will have when the open turn ends.
    turn_item: Option<String>,
    turns: u64,
    /// Texts held back so that the next one overtakes them.
    held_transcripts: Vec<String>,
    idle_at: Option<Duration>,
    /// Where the silence began that an idle timeout commits.
    quiet_since_ms: u64,
    // Talking.
    conversation: Conversation,
    /// What waits for an answer.
    unanswered: Vec<Prompt>,
    rule_uses: Vec<u32>,
    running: Option<Running>,
    responses: Vec<ResponseReport>,
    has_spoken: bool,
    // Going out.
    later: BTreeMap<(Duration, u64), Later>,
    scheduled: u64,
    events: u64,
    out: VecDeque<String>,
    close: Option<Close>,
    closed: bool,
    // To report.
    violations: Vec<String>,
    errors: Vec<String>,
}

/// Something that happens at a time of its own.
#[derive(Debug)]
enum Later {
    Update { update: Value, event_id: Option<String> },
    Transcript { item: String, turn: u64 },
    End(Close),
}

/// How the server ends a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Close {
    /// With a close frame.
    Code(u16, String),
    /// Without a word.
    Drop,
    /// Not at all, but nothing is read, said or answered any more.
    Freeze,
}

impl Engine {
    /// A session for the connection `number` of a server. `expires_at` is Unix seconds.
    pub(super) fn new(options: Arc<ModelOptions>, model: &str, number: u64, expires_at: i64) -> Self {
        let mut random = Random::for_part(options.seed, number);
        let id = format!("sess_{}", random.hex(20));
        let session = Session::new(&id, model, expires_at);
        let vad = Vad::new(session.turn_detection());
        let rule_uses = vec![0; options.script.rules.len()];
        let mut engine = Self {
            model: model.into(),
            random,
            now: Duration::ZERO,
            id,
            session,
            updates: 0,
            audio_before_update: false,
            levels: Levels::default(),
            vad,
            received_bytes_ms: 0.0,
            appends: 0,
            speech_started: 0,
            turn_item: None,
            turns: 0,
            held_transcripts: Vec::new(),
            idle_at: None,
            quiet_since_ms: 0,
            conversation: Conversation::default(),
            unanswered: Vec::new(),
            rule_uses,
            running: None,
            responses: Vec::new(),
            has_spoken: false,
            later: BTreeMap::new(),
            scheduled: 0,
            events: 0,
            out: VecDeque::new(),
            close: None,
            closed: false,
            violations: Vec::new(),
            errors: Vec::new(),
            options,
        };
        engine.begin();
        engine
    }

    fn begin(&mut self) {
        let options = Arc::clone(&self.options);
        let faults = &options.faults;
        if let Some(code) = &faults.refuse_after_upgrade {
            self.send_error(&Refusal::new(code, "the simulated service refuses this client", None), None);
            // Dossier 5.3.
            let close = if code == "beta_api_shape_disabled" { 4000 } else { 3000 };
            self.close = Some(Close::Code(close, format!("invalid_request_error.{code}")));
            return;
        }
        for (after_ms, close) in [
            (
                faults.expire_after_ms,
                Close::Code(1001, "the session has reached its longest duration".into()),
            ),
            (faults.drop_after_ms.map(|ms| ms + self.random.between(0, faults.drop_jitter_ms)), Close::Drop),
            (faults.freeze_after_ms, Close::Freeze),
        ] {
            if let Some(ms) = after_ms {
                self.schedule(Duration::from_millis(ms), Later::End(close));
            }
        }
        if !faults.no_session {
            self.send("session.created", json!({"session": self.session.json}));
        }
    }

    /// Takes in one text message.
    pub(super) fn handle(&mut self, now: Duration, text: &str) {
        self.advance(now);
        let Ok(event) = serde_json::from_str::<Value>(text) else {
            self.refuse(&Refusal::new("invalid_json", "the message is not JSON", None), None);
            return;
        };
        let event_id = event["event_id"].as_str().map(ToOwned::to_owned);
        if let Err(refusal) = self.act(&event, event_id.as_deref()) {
            self.refuse(&refusal, event_id.as_deref());
        }
    }

    /// Takes in a message that is not text.
    pub(super) fn handle_binary(&mut self, now: Duration) {
        self.advance(now);
        self.refuse(&Refusal::new("invalid_event", "messages are text, this one is binary", None), None);
    }

    /// Does everything that is due by `now`.
    pub(super) fn advance(&mut self, now: Duration) {
        while self.close.is_none() {
            let Some(due) = self.next_due().filter(|due| *due <= now) else { break };
            self.set_now(due);
            if self.running.as_ref().and_then(Running::next_due) == Some(due) {
                self.speak();
            } else if self.idle_at == Some(due) {
                self.idle_at = None;
                self.on_idle();
            } else if let Some(((_, _), later)) = self.later.pop_first() {
                self.on_later(later);
            }
        }
        self.set_now(now);
    }

    fn set_now(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.conversation.now = self.now;
    }

    /// When [`Self::advance`] has something to do next.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let later = self.later.first_key_value().map(|((due, _), _)| *due);
        [self.running.as_ref().and_then(Running::next_due), self.idle_at, later].into_iter().flatten().min()
    }

    /// The next message to send.
    pub(super) fn poll_event(&mut self) -> Option<String> {
        self.out.pop_front()
    }

    /// How to end the connection, once all messages are sent.
    pub(super) const fn poll_close(&mut self) -> Option<Close> {
        self.close.take()
    }

    /// The connection is gone.
    pub(super) const fn on_closed(&mut self) {
        self.closed = true;
    }

    pub(super) fn report(&self) -> SessionReport {
        SessionReport {
            id: self.id.clone(),
            model: self.model.clone(),
            session: self.session.json.clone(),
            updates: self.updates,
            items: self.conversation.items().iter().map(super::conversation::Item::report).collect(),
            responses: self.responses.clone(),
            received_audio_ms: self.received_bytes_ms,
            appends: self.appends,
            speech_started: self.speech_started,
            violations: self.violations.clone(),
            errors: self.errors.clone(),
            open: !self.closed,
            lasted_ms: self.now.as_secs_f64() * 1000.0,
        }
    }

    fn act(&mut self, event: &Value, event_id: Option<&str>) -> Result<(), Refusal> {
        let at = At::new(event, "");
        let Some(kind) = event["type"].as_str() else {
            return Err(Refusal::new("invalid_event", "the event has no `type`", Some("type")));
        };
        if let Some(id) = at.member("event_id") {
            id.text_up_to(512)?;
        }
        let mut members = vec!["type", "event_id"];
        members.extend_from_slice(match kind {
            "session.update" => &["session"],
            "input_audio_buffer.append" => &["audio"],
            "input_audio_buffer.commit" | "input_audio_buffer.clear" => &[],
            "conversation.item.create" => &["item", "previous_item_id"],
            "conversation.item.truncate" => &["item_id", "content_index", "audio_end_ms"],
            "conversation.item.delete" | "conversation.item.retrieve" => &["item_id"],
            "response.create" => &["response"],
            "response.cancel" => &["response_id"],
            _ => {
                let message = format!("`{kind}` is no event of this interface");
                return Err(Refusal::new("invalid_value", message, Some("type")));
            }
        });
        at.object(&members)?;
        match kind {
            "session.update" => {
                let update = at.required("session")?.value.clone();
                let delay = Duration::from_millis(self.options.faults.update_delay_ms);
                let event_id = event_id.map(ToOwned::to_owned);
                if delay.is_zero() {
                    self.on_update(&update, event_id.as_deref());
                } else {
                    self.schedule(delay, Later::Update { update, event_id });
                }
                Ok(())
            }
            "input_audio_buffer.append" => self.on_append(&at),
            "input_audio_buffer.commit" => self.on_commit(event_id),
            "input_audio_buffer.clear" => {
                self.vad.take();
                self.turn_item = None;
                self.send("input_audio_buffer.cleared", json!({}));
                Ok(())
            }
            "conversation.item.create" => self.on_item_create(&at),
            "conversation.item.truncate" => self.on_item_truncate(&at),
            "conversation.item.delete" => self.on_item_delete(&at),
            "conversation.item.retrieve" => self.on_item_retrieve(&at),
            "response.create" => self.on_response_create(&at, event_id),
            _ => self.on_response_cancel(&at, event_id),
        }
    }

    fn on_update(&mut self, update: &Value, event_id: Option<&str>) {
        let options = Arc::clone(&self.options);
        if let Some(code) = &options.faults.refuse_update {
            // Sent by the fault, not earned by the client.
            self.send_error(&Refusal::new(code, "the simulated service refuses this update", None), event_id);
            return;
        }
        let limits = Limits {
            model: &self.model,
            has_spoken: self.has_spoken,
            refused_transcription: &options.refused_transcription_models,
        };
        match self.session.updated(update, limits) {
            Ok(session) => {
                if session.input_format() != self.session.input_format() {
                    self.levels.reset();
                }
                self.session = session;
                self.vad.configure(self.session.turn_detection());
                self.updates += 1;
                let mut echo = self.session.json.clone();
                if options.faults.echo_pcm_output {
                    echo["audio"]["output"]["format"] = json!({"type": "audio/pcm", "rate": 24000});
                }
                self.send("session.updated", json!({"session": echo}));
            }
            Err(refusal) => {
                let by_option = refusal.param.as_deref() == Some("session.audio.input.transcription.model")
                    && !options.refused_transcription_models.is_empty();
                if by_option {
                    self.send_error(&refusal, event_id);
                } else {
                    self.refuse(&refusal, event_id);
                }
            }
        }
    }

    fn on_later(&mut self, later: Later) {
        match later {
            Later::Update { update, event_id } => self.on_update(&update, event_id.as_deref()),
            Later::Transcript { item, turn } => self.on_transcript_due(&item, turn),
            Later::End(close) => {
                if matches!(close, Close::Code(1001, _)) {
                    let refusal = Refusal::new("session_expired", "the session has reached its limit", None);
                    self.send_error(&refusal, None);
                }
                self.close = Some(close);
            }
        }
    }

    fn schedule(&mut self, delay: Duration, later: Later) {
        self.scheduled += 1;
        self.later.insert((self.now + delay, self.scheduled), later);
    }

    /// Queues one event.
    fn send(&mut self, kind: &str, mut body: Value) {
        self.events += 1;
        body["type"] = json!(kind);
        body["event_id"] = json!(format!("event_{}", self.random.hex(20)));
        if self.options.faults.noise {
            body["member_nobody_knows"] = Value::Null;
            if body.get("delta").is_some() {
                body["obfuscation"] = json!(self.random.hex(6));
            }
            if self.events.is_multiple_of(5) {
                let noise = json!({"type": "simulated.noise", "event_id": null, "item": null, "delta": null});
                self.out.push_back(noise.to_string());
            }
        }
        self.out.push_back(body.to_string());
        let garbage_every = self.options.faults.garbage_every;
        if garbage_every > 0 && self.events.is_multiple_of(garbage_every) {
            let kind = (self.events / garbage_every) as usize % GARBAGE.len();
            self.out.push_back(GARBAGE[kind].into());
        }
    }

    /// Queues an error that is not the client's fault, or not only.
    fn send_error(&mut self, refusal: &Refusal, event_id: Option<&str>) {
        keep(&mut self.errors, refusal.code.clone());
        self.send("error", json!({"error": refusal.to_json(event_id)}));
    }

    /// Queues an error and holds it against the client.
    fn refuse(&mut self, refusal: &Refusal, event_id: Option<&str>) {
        keep(&mut self.violations, format!("{}: {}", refusal.code, refusal.message));
        self.send_error(refusal, event_id);
    }

    fn fresh_id(&mut self, prefix: &str) -> String {
        format!("{prefix}_{}", self.random.hex(20))
    }
}

fn keep(complaints: &mut Vec<String>, complaint: String) {
    if complaints.len() < KEPT_COMPLAINTS {
        complaints.push(complaint);
    }
}
