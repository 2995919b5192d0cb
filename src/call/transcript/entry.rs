//! What leaves the conversation of a call: for the record, and for another session.

use serde::{Deserialize, Serialize};

use crate::clock::CallTime;
use crate::ids::{ItemId, ToolCallId};

/// Whose words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The caller.
    User,
    /// The agent.
    Assistant,
    /// We.
    System,
    /// A function.
    Tool,
}

impl Role {
    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::System => "system",
            Self::Tool => "tool",
        }
    }
}

/// How we know where the caller stopped hearing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// Twilio sent the mark back.
    Mark,
    /// Our own clock since the audio was sent.
    Clock,
}

impl Evidence {
    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mark => "mark",
            Self::Clock => "clock",
        }
    }
}

/// What became of a turn's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// They stand.
    Final,
    /// There was sound but no text could be made of it.
    NotTranscribed,
    /// A function that has not answered.
    Unanswered,
}

impl Status {
    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Final => "final",
            Self::NotTranscribed => "not_transcribed",
            Self::Unanswered => "unanswered",
        }
    }
}

/// One finished turn, or a newer revision of it. Rewriting replaces only an older revision of the same item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The item; unique within the call.
    pub item: ItemId,
    /// Place in the conversation, from 1.
    pub sequence: u32,
    /// From 1; higher replaces lower.
    pub revision: u32,
    /// Whose words.
    pub role: Role,
    /// What was heard.
    pub content: String,
    /// What was generated, where that is more than was heard. For a function: the arguments.
    pub generated: Option<String>,
    /// The caller spoke over it.
    pub interrupted: bool,
    /// Whether there is anything to wait for.
    pub status: Status,
    /// When the turn took its place, for its time stamp.
    pub at: CallTime,
    /// First sound, on the stream's clock.
    pub audio_start: Option<CallTime>,
    /// Last sound, on the stream's clock.
    pub audio_end: Option<CallTime>,
    /// Milliseconds of an agent's turn that were heard.
    pub heard_until_ms: Option<u64>,
    /// How we know.
    pub evidence: Option<Evidence>,
    /// From the caller's last sound to the first sound of this answer.
    pub response_latency_ms: Option<u64>,
    /// The function, for [`Role::Tool`].
    pub tool_name: Option<String>,
    /// The function's call, for [`Role::Tool`].
    pub tool_call: Option<ToolCallId>,
}

/// Part of the conversation as another session is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remembered {
    /// The caller's words; empty when they could not be written down.
    Caller(String),
    /// What was heard of the agent.
    Agent(String),
    /// What the agent is to know and nobody has said.
    Note(String),
    /// A function, and what it answered.
    Function {
        /// The model's id of it.
        call: ToolCallId,
        /// Its name.
        name: String,
        /// JSON.
        arguments: String,
        /// `None`: it still runs, or nobody knows whether it has.
        output: Option<String>,
    },
}
