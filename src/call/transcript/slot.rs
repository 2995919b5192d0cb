//! One item of the conversation, and what becomes of it.

use super::super::heard_text;
use super::entry::{Entry, Evidence, Remembered, Role, Status};
use crate::clock::CallTime;
use crate::ids::{ItemId, ToolCallId};
use crate::wire::model::ItemKind;

/// Longest text of one item; the rest of it is not recorded. An hour of speech is shorter.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// What became of an item's sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sound {
    /// Nothing was said of it yet.
    #[default]
    Pending,
    /// Heard to the end.
    Heard { ms: u64, evidence: Evidence },
    /// The caller spoke over it.
    Cut { heard_ms: u64, received_ms: u64, evidence: Evidence },
}

/// A function that was asked for.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) call: ToolCallId,
    pub(super) arguments: String,
    /// What it has answered.
    pub(super) output: Option<String>,
}

/// One item, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) kind: Option<ItemKind>,
    pub(super) previous: Option<ItemId>,
    pub(super) announced: u32,
    pub(super) text: String,
    pub(super) text_final: bool,
    pub(super) sound: Sound,
    /// Its session was lost before all of it had come.
    pub(super) broken: bool,
    /// Its session is gone.
    pub(super) former: bool,
    pub(super) at: CallTime,
    pub(super) audio_start: Option<CallTime>,
    pub(super) audio_end: Option<CallTime>,
    /// For a caller's turn: when to stop waiting for its text.
    pub(super) text_due: Option<CallTime>,
    pub(super) latency_ms: Option<u64>,
    pub(super) function: Option<Function>,
    pub(super) written: Option<Entry>,
}

/// Adds to a text what it has room for.
pub(super) fn append(text: &mut String, more: &str) {
    let room = MAX_TEXT_BYTES.saturating_sub(text.len());
    text.push_str(&more[..more.floor_char_boundary(room)]);
}

impl Slot {
    /// As it is recorded; nothing as long as it is not finished.
    pub(super) fn entry(&self, item: &ItemId, sequence: u32) -> Option<Entry> {
        let text = self.text.trim();
        let entry = Entry {
            item: item.clone(),
            sequence,
            revision: 1,
            role: Role::User,
            content: text.to_owned(),
            generated: None,
            interrupted: false,
            status: if text.is_empty() { Status::NotTranscribed } else { Status::Final },
            at: self.at,
            audio_start: self.audio_start,
            audio_end: self.audio_end,
            heard_until_ms: None,
            evidence: None,
            response_latency_ms: self.latency_ms,
            tool_name: None,
            tool_call: None,
        };
        match self.kind? {
            ItemKind::User => self.text_final.then_some(entry),
            ItemKind::Assistant if self.text_final => self.describe_agent(entry),
            ItemKind::FunctionCall => self.function.as_ref().map(|function| function.describe(entry)),
            // Only our own have a text.
            ItemKind::System if !text.is_empty() => Some(Entry { role: Role::System, ..entry }),
            ItemKind::Assistant | ItemKind::System | ItemKind::FunctionOutput | ItemKind::Other => None,
        }
    }

    /// As another session is told it. `received_ms` tells how much audio there is of it, all of which will be heard.
    pub(super) fn remembered(&self, received_ms: impl Fn() -> u64) -> Option<Remembered> {
        let text = self.text.trim();
        match self.kind? {
            ItemKind::User => Some(Remembered::Caller(text.to_owned())),
            ItemKind::Assistant => {
                let heard = match self.sound {
                    Sound::Heard { ms, .. } if self.broken => heard_text::cut(text, ms, ms),
                    Sound::Heard { .. } => text,
                    Sound::Cut { heard_ms, received_ms, .. } => heard_text::cut(text, heard_ms, received_ms),
                    Sound::Pending => heard_text::cut(text, received_ms(), received_ms()),
                };
                (!heard.is_empty()).then(|| Remembered::Agent(heard.to_owned()))
            }
            ItemKind::FunctionCall => {
                let Function { name, call, arguments, output } = self.function.clone()?;
                Some(Remembered::Function { call, name, arguments, output })
            }
            ItemKind::System if !text.is_empty() => Some(Remembered::Note(text.to_owned())),
            ItemKind::System | ItemKind::FunctionOutput | ItemKind::Other => None,
        }
    }

    fn describe_agent(&self, mut entry: Entry) -> Option<Entry> {
        entry.role = Role::Assistant;
        match self.sound {
            // Words without sound were not heard: they are recorded once it is certain that no sound comes.
            Sound::Pending => return None,
            Sound::Heard { ms, evidence } => {
                if self.broken {
                    heard_text::cut(self.text.trim(), ms, ms).clone_into(&mut entry.content);
                    entry.generated = Some(self.text.trim().to_owned());
                }
                (entry.heard_until_ms, entry.evidence) = (Some(ms), Some(evidence));
            }
            Sound::Cut { heard_ms, received_ms, evidence } => {
                entry.interrupted = true;
                heard_text::cut(self.text.trim(), heard_ms, received_ms).clone_into(&mut entry.content);
                entry.generated = Some(self.text.trim().to_owned());
                (entry.heard_until_ms, entry.evidence) = (Some(heard_ms), Some(evidence));
            }
        }
        Some(entry)
    }
}

impl Function {
    fn describe(&self, entry: Entry) -> Entry {
        let status = if self.output.is_some() { Status::Final } else { Status::Unanswered };
        Entry {
            role: Role::Tool,
            status,
            content: self.output.clone().unwrap_or_default(),
            generated: Some(self.arguments.clone()),
            tool_name: Some(self.name.clone()),
            tool_call: Some(self.call.clone()),
            ..entry
        }
    }
}
