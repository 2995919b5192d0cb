//! Caller audio, turns and their texts.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::super::conversation::Item;
use super::super::hearing::{FRAME_MS, Noticed};
use super::super::options::Replies;
use super::super::recognise::{Heard, describe, recognise};
use super::super::refusal::{At, Refusal};
use super::super::script::Prompt;
use super::{Engine, LARGEST_APPEND, Later, keep};

/// A text that is to be overtaken is given after this long at the latest.
const LONGEST_HOLD: Duration = Duration::from_secs(10);

impl Engine {
    pub(super) fn on_append(&mut self, at: &At<'_>) -> Result<(), Refusal> {
        let audio = at.required("audio")?;
        let text = audio.text()?;
        if text.len() > LARGEST_APPEND / 3 * 4 {
            return Err(audio.invalid("is more than 15 MiB"));
        }
        let bytes = STANDARD.decode(text).map_err(|_| audio.invalid("is not base64"))?;
        if self.updates == 0 && !self.audio_before_update {
            self.audio_before_update = true;
            keep(&mut self.violations, "audio was appended before session.updated was sent".into());
        }
        let format = self.session.input_format();
        self.appends += 1;
        self.received_bytes_ms += bytes.len() as f64 / format.bytes_per_ms() as f64;
        let mut noticed = Vec::new();
        let (levels, vad) = (&mut self.levels, &mut self.vad);
        levels.push(format, &bytes, |level| noticed.extend(vad.hear(level)));
        for noticed in noticed {
            match noticed {
                Noticed::Started { audio_start_ms } => self.on_speech_started(audio_start_ms),
                Noticed::Stopped { audio_end_ms, levels } => self.on_speech_stopped(audio_end_ms, &levels),
            }
        }
        Ok(())
    }

    /// The client closes the turn itself.
    pub(super) fn on_commit(&mut self, event_id: Option<&str>) -> Result<(), Refusal> {
        let ms = self.vad.uncommitted_ms();
        if ms < 100 {
            let message = format!("the buffer holds {ms} ms of audio, a turn needs 100 ms");
            let refusal = Refusal::new("input_audio_buffer_commit_empty", message, None);
            // With turn detection a commit may lose a race against the server's own; without it, it is a mistake.
            if self.session.turn_detection().is_none() {
                return Err(refusal);
            }
            self.send_error(&refusal, event_id);
            return Ok(());
        }
        let levels = self.vad.take();
        self.commit(&levels);
        Ok(())
    }

    fn on_speech_started(&mut self, audio_start_ms: u64) {
        let item = self.fresh_id("item");
        self.speech_started += 1;
        self.idle_at = None;
        self.turn_item = Some(item.clone());
        self.send(
            "input_audio_buffer.speech_started",
            json!({"audio_start_ms": audio_start_ms, "item_id": item}),
        );
        if self.session.turn_detection().is_some_and(|turns| turns.interrupt_response) {
            self.cancel("turn_detected");
        }
    }

    fn on_speech_stopped(&mut self, audio_end_ms: u64, levels: &[f32]) {
        let item = self.turn_item.clone();
        self.send(
            "input_audio_buffer.speech_stopped",
            json!({"audio_end_ms": audio_end_ms, "item_id": item}),
        );
        self.commit(levels);
        let wanted = self.session.turn_detection().is_some_and(|turns| turns.create_response);
        // A turn that ends while a response still runs gets no answer of its own.
        if wanted && self.running.is_none() {
            self.answer_turn();
        }
    }

    /// Makes a turn an item of the conversation.
    fn commit(&mut self, levels: &[f32]) {
        let ms = levels.len() as u64 * FRAME_MS;
        let heard = match self.options.replies {
            Replies::Speech => recognise(levels),
            Replies::Tones { .. } => Heard { text: describe(ms), phrase: None, score: None },
        };
        let phrase = heard.phrase.map(ToOwned::to_owned);
        let id = self.turn_item.take().unwrap_or_else(|| self.fresh_id("item"));
        self.place_turn(Item {
            text: heard.text,
            phrase: phrase.clone(),
            match_score: heard.score,
            heard_ms: Some(ms as f64),
            ..Item::caller_speech(id)
        });
        self.unanswered.push(Prompt::Heard(phrase));
    }

    fn place_turn(&mut self, item: Item) {
        let (id, json) = (item.id.clone(), item.to_json());
        let previous = self.conversation.append(item);
        self.send("input_audio_buffer.committed", json!({"previous_item_id": previous, "item_id": id}));
        self.send("conversation.item.added", json!({"previous_item_id": previous, "item": json}));
        self.send("conversation.item.done", json!({"previous_item_id": previous, "item": json}));
        self.quiet_since_ms = self.vad.position_ms();
        if self.session.transcription_model().is_none() {
            return;
        }
        self.turns += 1;
        let transcripts = self.options.transcripts;
        let delay_ms = transcripts.delay_ms + self.random.between(0, transcripts.jitter_ms);
        let mut delay = Duration::from_millis(delay_ms);
        if transcripts.reversed && self.turns % 2 == 1 {
            self.held_transcripts.push(id.clone());
            delay += LONGEST_HOLD;
        }
        self.schedule(delay, Later::Transcript { item: id, turn: self.turns });
    }

    pub(super) fn on_transcript_due(&mut self, id: &str, turn: u64) {
        self.give_transcript(id, turn);
        // Those that were to be overtaken come now; their own time finds them given already.
        for held in std::mem::take(&mut self.held_transcripts) {
            if held != id {
                self.give_transcript(&held, turn - 1);
            }
        }
    }

    fn give_transcript(&mut self, id: &str, turn: u64) {
        let transcripts = self.options.transcripts;
        let every = |count: u64| count > 0 && turn.is_multiple_of(count);
        let Some(item) = self.conversation.find_mut(id).filter(|item| item.transcript.is_none()) else {
            return;
        };
        if every(transcripts.lose_every) {
            return;
        }
        let at = |body: serde_json::Value| {
            let mut body = body;
            body["item_id"] = json!(id);
            body["content_index"] = json!(0);
            body
        };
        if every(transcripts.fail_every) {
            let error = json!({
                "type": "transcription_error", "code": "audio_unintelligible",
                "message": "the simulated transcription failed", "param": null,
            });
            self.send("conversation.item.input_audio_transcription.failed", at(json!({"error": error})));
            return;
        }
        let text = item.text.clone();
        let seconds = item.heard_ms.unwrap_or(0.0) / 1000.0;
        item.transcript = Some(text.clone());
        self.send("conversation.item.input_audio_transcription.delta", at(json!({"delta": text})));
        self.send(
            "conversation.item.input_audio_transcription.completed",
            at(json!({"transcript": text, "usage": {"type": "duration", "seconds": seconds}})),
        );
    }

    /// Nobody has spoken for the session's `idle_timeout_ms`.
    pub(super) fn on_idle(&mut self) {
        if self.running.is_some() || self.vad.is_open() {
            return;
        }
        let (from, to) = (self.quiet_since_ms, self.vad.position_ms());
        let id = self.fresh_id("item");
        self.send(
            "input_audio_buffer.timeout_triggered",
            json!({"audio_start_ms": from, "audio_end_ms": to, "item_id": id}),
        );
        self.vad.take();
        self.place_turn(Item { heard_ms: Some(to.saturating_sub(from) as f64), ..Item::caller_speech(id) });
        self.unanswered.push(Prompt::Idle);
        self.answer_turn();
    }
}
