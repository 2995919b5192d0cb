//! Responses: asked for, sent piece by piece, ended, cancelled.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::conversation::Item;
use super::super::options::Replies;
use super::super::plan::{End, Part, Step, plan, sound};
use super::super::refusal::{At, Refusal};
use super::super::report::ResponseReport;
use super::super::script::{Outcome, Prompt, Reply, Speech, offered};
use super::super::session::Format;
use super::Engine;
use super::wish::Wish;

/// The response that is being sent.
#[derive(Debug)]
pub(super) struct Running {
    id: String,
    /// Place among the reports.
    number: usize,
    requested: Duration,
    first_audio: Option<Duration>,
    format: Format,
    text_only: bool,
    metadata: Value,
    answers: Vec<Prompt>,
    parts: Vec<Part>,
    steps: VecDeque<(Duration, Step)>,
    /// Items that have begun, in order; true when finished.
    items: Vec<(String, bool)>,
}

impl Running {
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.steps.front().map(|(due, _)| *due)
    }
}

impl Engine {
    pub(super) fn on_response_create(&mut self, at: &At<'_>, event_id: Option<&str>) -> Result<(), Refusal> {
        let wish = match at.member("response").filter(|response| !response.is_null()) {
            Some(response) => Wish::read(&response, &self.model)?,
            None => Wish { begun_by: "client", ..Wish::default() },
        };
        if let Some(running) = &self.running {
            let message = format!("the response {} is still running", running.id);
            let refusal = Refusal::new("conversation_already_has_active_response", message, None);
            // Lost a race against the server's own response, so not held against the client.
            self.send_error(&refusal, event_id);
            return Ok(());
        }
        self.respond(wish);
        Ok(())
    }

    pub(super) fn on_response_cancel(&mut self, at: &At<'_>, event_id: Option<&str>) -> Result<(), Refusal> {
        let wanted = at.member("response_id").filter(|id| !id.is_null()).map(|id| id.text()).transpose()?;
        match &self.running {
            Some(running) if wanted.is_none_or(|id| id == running.id) => self.cancel("client_cancelled"),
            _ => {
                let refusal = Refusal::new("response_cancel_not_active", "there is nothing to cancel", None);
                self.send_error(&refusal, event_id);
            }
        }
        Ok(())
    }

    /// A response that the server begins by itself.
    pub(super) fn answer_turn(&mut self) {
        self.respond(Wish { begun_by: "turn", ..Wish::default() });
    }

    fn respond(&mut self, wish: Wish) {
        self.idle_at = None;
        let answers = std::mem::take(&mut self.unanswered);
        let waiting = answers.last();
        let prompt = match (wish.instructions, waiting, self.conversation.items()) {
            (Some(asked), ..) if self.options.script.has_rule_for(&asked) => Prompt::Asked(asked),
            (_, Some(waiting), _) => waiting.clone(),
            (.., []) => Prompt::Greeting,
            (Some(_), ..) => Prompt::Nudge,
            (None, ..) => Prompt::Nothing,
        };
        let pcm_anyway = self.options.faults.echo_pcm_output;
        let format = if pcm_anyway {
            Format::Pcm
        } else {
            wish.format.unwrap_or_else(|| self.session.output_format())
        };
        let tools = match wish.tools {
            Some(tools) => tools,
            None if self.session.json["tool_choice"] == "none" => Vec::new(),
            None => self.session.tools(),
        };
        let (parts, end) = self.compose(&prompt, waiting, &tools, format);
        let running = Running {
            id: self.fresh_id("resp"),
            number: self.responses.len(),
            requested: self.now,
            first_audio: None,
            format,
            text_only: wish.text_only.unwrap_or_else(|| self.session.text_only()),
            metadata: wish.metadata,
            answers,
            steps: plan(&self.options, &mut self.random, format, &parts, &end, self.now),
            parts,
            items: Vec::new(),
        };
        self.responses.push(ResponseReport {
            id: running.id.clone(),
            status: "in_progress".into(),
            begun_by: wish.begun_by.into(),
            metadata: running.metadata.clone(),
            ..ResponseReport::default()
        });
        let created = self.response_json(&running, "in_progress", &Value::Null, &Value::Null);
        self.send("response.created", json!({"response": created}));
        self.running = Some(running);
    }

    /// What is said and asked for, and how it ends.
    fn compose(
        &mut self,
        prompt: &Prompt,
        waiting: Option<&Prompt>,
        tools: &[String],
        format: Format,
    ) -> (Vec<Part>, End) {
        let faults = &self.options.faults;
        if faults.fail_every > 0 && (self.responses.len() as u64 + 1).is_multiple_of(faults.fail_every) {
            let code = faults.fail_code.clone().unwrap_or_else(|| "rate_limit_exceeded".into());
            return (Vec::new(), End::Failed(code));
        }
        let reply = match self.options.replies {
            Replies::Tones { min_ms, max_ms } => {
                let ms = self.random.between(min_ms, max_ms);
                Reply {
                    say: vec![Speech::Tone { ms, text: format!("(a tone of {ms} ms)") }],
                    ..Reply::default()
                }
            }
            Replies::Speech => self.choose(prompt, waiting, tools),
        };
        let end = match reply.outcome {
            Outcome::Completed => End::Completed,
            Outcome::Failed(code) => return (Vec::new(), End::Failed(code)),
            Outcome::Incomplete(reason) => End::Incomplete(reason),
        };
        let before = self.conversation.last_words_of_agent();
        let said = reply.say.iter().filter_map(|speech| sound(speech, before, format));
        let mut parts: Vec<Part> = said.map(|(text, audio)| Part::Say { text, audio }).collect();
        for call in reply.call {
            let Some(name) = offered(tools, &call.tool) else { continue };
            let arguments =
                if self.options.faults.broken_arguments { r#"{"reason": "#.into() } else { call.arguments };
            // Ids of calls are at most 32 characters.
            parts.push(Part::Call {
                name: name.into(),
                call_id: format!("call_{}", self.random.hex(16)),
                arguments,
            });
        }
        (parts, end)
    }

    /// The script's reply, with the answer to what waits for one in its place.
    fn choose(&mut self, prompt: &Prompt, waiting: Option<&Prompt>, tools: &[String]) -> Reply {
        let Some((rule, reply)) = self.options.script.choose(prompt, tools, &self.rule_uses) else {
            return Reply::default();
        };
        let mut reply = reply.clone();
        self.rule_uses[rule] += 1;
        if let Some(place) = reply.say.iter().position(|speech| *speech == Speech::Answer) {
            let answer = waiting.map(|waiting| self.choose(waiting, None, tools)).unwrap_or_default();
            reply.say.splice(place..=place, answer.say);
            reply.call.extend(answer.call);
        }
        reply
    }

    /// Sends the next piece of the running response.
    pub(super) fn speak(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let Some((_, step)) = running.steps.pop_front() else { return };
        match step {
            Step::Begin(number) => self.begin_item(&mut running, number),
            Step::Text(number, text) => {
                let id = running.items[number].0.clone();
                if let Some(item) = self.conversation.find_mut(&id) {
                    item.text.push_str(&text);
                }
                let kind = if running.text_only {
                    "response.output_text.delta"
                } else {
                    "response.output_audio_transcript.delta"
                };
                self.send(kind, part_of(&running, number, json!({"delta": text})));
            }
            Step::Audio(number, range) => self.send_audio(&mut running, number, range),
            Step::Arguments(number, delta) => {
                let (id, call_id) = (running.items[number].0.clone(), call_id_of(&running.parts[number]));
                if let Some(item) = self.conversation.find_mut(&id) {
                    item.text.push_str(&delta);
                }
                let body = json!({
                    "response_id": running.id, "item_id": id, "output_index": number, "call_id": call_id, "delta": delta,
                });
                self.send("response.function_call_arguments.delta", body);
            }
            Step::Finish(number) => self.finish_item(&mut running, number, "completed"),
            Step::Done(end) => {
                self.finish(running, &end);
                return;
            }
        }
        self.running = Some(running);
    }

    /// Stops the running response, if there is one.
    pub(super) fn cancel(&mut self, reason: &str) {
        let Some(mut running) = self.running.take() else { return };
        let late = self.options.faults.late_deltas as usize;
        let open = running.items.len().checked_sub(1).filter(|number| !running.items[*number].1);
        let deltas: Vec<_> = std::mem::take(&mut running.steps)
            .into_iter()
            .filter_map(|(_, step)| match step {
                Step::Audio(number, range) if Some(number) == open => Some((number, range)),
                _ => None,
            })
            .take(late)
            .collect();
        // Some overtake the end of the response, some are overtaken by it.
        let (before, after) = deltas.split_at(deltas.len().div_ceil(2));
        for (number, range) in before {
            self.send_audio(&mut running, *number, range.clone());
        }
        self.finish_open_items(&mut running);
        let details = json!({"type": "cancelled", "reason": reason});
        self.done(&running, "cancelled", &details, Some(reason.to_owned()));
        for (number, range) in after {
            self.send_audio(&mut running, *number, range.clone());
        }
    }

    fn finish(&mut self, mut running: Running, end: &End) {
        self.finish_open_items(&mut running);
        let (status, details, reason) = match end {
            End::Completed => ("completed", Value::Null, None),
            End::Incomplete(reason) => {
                ("incomplete", json!({"type": "incomplete", "reason": reason}), Some(reason.clone()))
            }
            End::Failed(code) => {
                let error =
                    json!({"type": "server_error", "code": code, "message": "the simulated response failed"});
                // What it was to answer still waits for an answer.
                self.unanswered.splice(0..0, std::mem::take(&mut running.answers));
                ("failed", json!({"type": "failed", "error": error}), Some(code.clone()))
            }
        };
        self.done(&running, status, &details, reason);
        let Some(idle_ms) = self.session.turn_detection().and_then(|turns| turns.idle_timeout_ms) else {
            return;
        };
        let played = Duration::from_secs_f64(self.responses[running.number].generated_ms / 1000.0);
        let heard = running.first_audio.map_or(self.now, |first| first + played);
        self.idle_at = Some(heard.max(self.now) + Duration::from_millis(idle_ms));
        self.quiet_since_ms = self.vad.position_ms();
    }

    /// The last event of a response.
    fn done(&mut self, running: &Running, status: &str, details: &Value, reason: Option<String>) {
        let report = &mut self.responses[running.number];
        report.status = status.into();
        report.reason = reason;
        // 1 token per 50 ms of speech, about 4 letters per token of text.
        let audio_tokens = (report.generated_ms / 50.0).ceil() as u64;
        let letters: usize = self.items_of(running).map(|item| item.text.len()).sum();
        let text_tokens = letters.div_ceil(4) as u64;
        let context =
            if audio_tokens + text_tokens == 0 { 0 } else { 100 * self.conversation.items().len() as u64 };
        let usage = json!({
            "total_tokens": context + audio_tokens + text_tokens,
            "input_tokens": context,
            "output_tokens": audio_tokens + text_tokens,
            "input_token_details": {
                "text_tokens": context, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 0,
                "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0},
            },
            "output_token_details": {"text_tokens": text_tokens, "audio_tokens": audio_tokens},
        });
        let limits =
            json!([{"name": "tokens", "limit": 40_000, "remaining": 38_490, "reset_seconds": 2.265}]);
        self.send("rate_limits.updated", json!({"rate_limits": limits}));
        let response = self.response_json(running, status, details, &usage);
        self.send("response.done", json!({"response": response}));
    }

    fn begin_item(&mut self, running: &mut Running, number: usize) {
        let id = self.fresh_id("item");
        let item = match &running.parts[number] {
            Part::Say { .. } => {
                Item::agent_message(id.clone(), &running.id, !running.text_only, running.format)
            }
            Part::Call { name, call_id, .. } => Item::function_call(id.clone(), &running.id, name, call_id),
        };
        running.items.push((id, false));
        let json = item.to_json();
        let previous = self.conversation.append(item);
        self.send(
            "response.output_item.added",
            json!({"response_id": running.id, "output_index": number, "item": json}),
        );
        self.send("conversation.item.added", json!({"previous_item_id": previous, "item": json}));
        if let Part::Say { .. } = running.parts[number] {
            let part = content_part(running.text_only, "");
            self.send("response.content_part.added", part_of(running, number, json!({"part": part})));
        }
    }

    fn send_audio(&mut self, running: &mut Running, number: usize, range: Range<usize>) {
        let Part::Say { audio, .. } = &running.parts[number] else { return };
        if running.text_only {
            return;
        }
        let delta = STANDARD.encode(&audio[range.clone()]);
        let id = running.items[number].0.clone();
        if let Some(item) = self.conversation.find_mut(&id) {
            item.audio_bytes += range.len();
        }
        let report = &mut self.responses[running.number];
        report.generated_ms += range.len() as f64 / running.format.bytes_per_ms() as f64;
        if running.first_audio.is_none() {
            running.first_audio = Some(self.now);
            report.first_audio_ms = Some(self.now.saturating_sub(running.requested).as_secs_f64() * 1000.0);
        }
        self.has_spoken = true;
        self.send("response.output_audio.delta", part_of(running, number, json!({"delta": delta})));
    }

    fn finish_open_items(&mut self, running: &mut Running) {
        for number in 0..running.items.len() {
            if !running.items[number].1 {
                self.finish_item(running, number, "incomplete");
            }
        }
    }

    fn finish_item(&mut self, running: &mut Running, number: usize, status: &'static str) {
        running.items[number].1 = true;
        let id = running.items[number].0.clone();
        let Some(item) = self.conversation.find_mut(&id) else { return };
        item.status = status;
        let (text, json) = (item.text.clone(), item.to_json());
        // The order within these pairs is not promised, so it varies.
        let swap = self.random.between(0, 1) == 1;
        match &running.parts[number] {
            Part::Say { .. } if running.text_only => {
                self.send("response.output_text.done", part_of(running, number, json!({"text": text})));
                let part = content_part(true, &text);
                self.send("response.content_part.done", part_of(running, number, json!({"part": part})));
            }
            Part::Say { .. } => {
                let audio = ("response.output_audio.done", part_of(running, number, json!({})));
                let words = part_of(running, number, json!({"transcript": text}));
                let words = ("response.output_audio_transcript.done", words);
                for (kind, body) in if swap { [words, audio] } else { [audio, words] } {
                    self.send(kind, body);
                }
                let part = content_part(false, &text);
                self.send("response.content_part.done", part_of(running, number, json!({"part": part})));
            }
            Part::Call { name, call_id, .. } if status == "completed" => {
                let body = json!({
                    "response_id": running.id, "item_id": id, "output_index": number,
                    "call_id": call_id, "name": name, "arguments": text,
                });
                self.send("response.function_call_arguments.done", body);
            }
            Part::Call { .. } => {}
        }
        let previous = self.item_before(&id);
        let output = json!({"response_id": running.id, "output_index": number, "item": json});
        let output = ("response.output_item.done", output);
        let conversation = ("conversation.item.done", json!({"previous_item_id": previous, "item": json}));
        for (kind, body) in if swap { [conversation, output] } else { [output, conversation] } {
            self.send(kind, body);
        }
    }

    fn item_before(&self, id: &str) -> Option<String> {
        let items = self.conversation.items();
        let index = items.iter().position(|item| item.id == id)?;
        items[..index].iter().rev().find(|item| !item.deleted).map(|item| item.id.clone())
    }

    fn items_of<'a>(&'a self, running: &'a Running) -> impl Iterator<Item = &'a Item> {
        running.items.iter().filter_map(|(id, _)| self.conversation.find(id))
    }

    fn response_json(&self, running: &Running, status: &str, details: &Value, usage: &Value) -> Value {
        let format = match running.format {
            Format::Pcm => json!({"type": "audio/pcm", "rate": 24000}),
            Format::Ulaw => json!({"type": "audio/pcmu"}),
        };
        json!({
            "object": "realtime.response",
            "id": running.id,
            "conversation_id": format!("conv_{}", &self.id[5..]),
            "status": status,
            "status_details": details,
            "output_modalities": [if running.text_only { "text" } else { "audio" }],
            "max_output_tokens": self.session.json["max_output_tokens"],
            "metadata": running.metadata,
            "audio": {"output": {"format": format, "voice": self.session.json["audio"]["output"]["voice"]}},
            "output": self.items_of(running).map(Item::to_json).collect::<Vec<_>>(),
            "usage": usage,
        })
    }
}

fn part_of(running: &Running, number: usize, mut body: Value) -> Value {
    body["response_id"] = json!(running.id);
    body["item_id"] = json!(running.items[number].0);
    body["output_index"] = json!(number);
    body["content_index"] = json!(0);
    body
}

fn content_part(text_only: bool, text: &str) -> Value {
    if text_only {
        json!({"type": "text", "text": text})
    } else {
        json!({"type": "audio", "transcript": text})
    }
}

fn call_id_of(part: &Part) -> &str {
    match part {
        Part::Call { call_id, .. } => call_id,
        Part::Say { .. } => "",
    }
}
