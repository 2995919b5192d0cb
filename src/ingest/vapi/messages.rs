//! The conversation in a report, as turns.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{is_plausible, moment, text};
use crate::store::reports::Turn;

/// Turns in the order of the report. A message without words, and what an assistant was told before anybody spoke, is none.
///
/// `prompts`: what the assistant was told. `started_at`: when the call began.
pub(super) fn read(messages: &[&Value], prompts: &[&str], started_at: Timestamp) -> Vec<Turn> {
    let mut talk = Talk { turns: Vec::new(), open: HashMap::new(), started_at, now: started_at };
    let mut has_begun = false;
    for message in messages {
        let words = words(message);
        match text(&[message.get("role")]).unwrap_or_default() {
            "user" => {
                has_begun |= !words.is_empty();
                talk.say("user", words, message);
            }
            "assistant" | "bot" => {
                has_begun |= !words.is_empty();
                talk.say("assistant", words, message);
                talk.ask(message); // As OpenAI has it, a turn of the assistant holds its calls of functions.
            }
            // A note that was put in later is a part of the conversation, as the model had it.
            "system" if has_begun && !prompts.contains(&words.as_str()) => {
                talk.say("system", words, message);
            }
            "tool_calls" | "function_call" => talk.ask(message),
            "tool_call_result" | "tool" | "function" => talk.answer(message, words),
            _ => {}
        }
    }
    talk.turns
}

/// A conversation that is being read.
struct Talk {
    turns: Vec<Turn>,
    /// Functions that have not answered yet, by the id of their call: where they are in `turns`.
    open: HashMap<String, usize>,
    started_at: Timestamp,
    /// Where in the call the last message was: those without a time are said then.
    now: Timestamp,
}

impl Talk {
    fn say(&mut self, role: &'static str, words: String, message: &Value) {
        if words.is_empty() {
            return;
        }
        let turn = self.turn(role, words, message);
        self.turns.push(turn);
    }

    /// Functions were called.
    fn ask(&mut self, message: &Value) {
        let calls =
            ["toolCalls", "tool_calls"].into_iter().filter_map(|member| message.get(member)?.as_array());
        for call in calls.flatten() {
            let function = call.get("function").unwrap_or(call);
            let arguments = function.get("arguments").or_else(|| function.get("parameters"));
            let id = text(&[call.get("id")]).map(str::to_owned);
            let turn = Turn {
                generated_content: Some(arguments.map(as_text).unwrap_or_default()),
                status: "unanswered",
                tool_name: text(&[function.get("name")]).map(str::to_owned),
                tool_call_id: id.clone(),
                ..self.turn("tool", String::new(), message)
            };
            if let Some(id) = id {
                self.open.insert(id, self.turns.len());
            }
            self.turns.push(turn);
        }
    }

    /// One has answered.
    fn answer(&mut self, message: &Value, words: String) {
        let content = message.get("result").map_or(words, as_text);
        let id = text(&[message.get("toolCallId"), message.get("tool_call_id")]);
        if let Some(turn) = id.and_then(|id| self.open.remove(id)).and_then(|place| self.turns.get_mut(place))
        {
            turn.content = content;
            turn.status = "final";
            return;
        }
        let turn = Turn {
            tool_name: text(&[message.get("name")]).map(str::to_owned),
            tool_call_id: id.map(str::to_owned),
            ..self.turn("tool", content, message)
        };
        self.turns.push(turn);
    }

    fn turn(&mut self, role: &'static str, content: String, message: &Value) -> Turn {
        self.now = self.said_at(message).unwrap_or(self.now);
        let place = self.turns.len() + 1;
        Turn {
            item_id: format!("vapi:{place}"),
            sequence: i32::try_from(place).unwrap_or(i32::MAX),
            role,
            content,
            generated_content: None,
            status: "final",
            timestamp: self.now,
            tool_name: None,
            tool_call_id: None,
        }
    }

    fn said_at(&self, message: &Value) -> Option<Timestamp> {
        moment(&[message.get("time")]).or_else(|| {
            let since_start = message.get("secondsFromStart")?.as_f64()?;
            let since_start = SignedDuration::try_from_secs_f64(since_start).ok()?;
            self.started_at.checked_add(since_start).ok().filter(|moment| is_plausible(*moment))
        })
    }
}

/// What was said in a message.
fn words(message: &Value) -> String {
    let parts = |value: &Value| match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| text(&[Some(part), part.get("text")]));
            texts.collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    };
    let mut said = ["message", "content"].into_iter().filter_map(|member| message.get(member)).map(parts);
    said.find(|words| !words.is_empty()).unwrap_or_default()
}

/// Arguments and results come as text or as what they are.
fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
