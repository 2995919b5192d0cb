//! What any speech-to-speech model says and is told, whatever its provider's wire looks like.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use crate::audio::AudioFormat;
use crate::ids::{ItemId, ResponseId, ToolCallId};

/// What a provider can do, so that the call decides by ability and not by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that a provider can do or not, in any combination"
)]
pub struct Capabilities {
    /// Audio that was not heard can be taken out of the model's memory.
    pub can_truncate: bool,
    /// A running response can be cancelled.
    pub can_cancel: bool,
    /// The model decides itself when a caller's turn ends and answers it.
    pub owns_turns: bool,
    /// It can be told to leave answering and falling silent to us; see [`TurnTaking`].
    pub yields_turns: bool,
}

/// Who decides that the model answers a turn, and that it stops when the caller speaks. Where turns begin and end the
/// model says in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TurnTaking {
    /// The model: any sound that it takes for speech stops its response, any end of it begins another.
    #[default]
    ByModel,
    /// We do.
    ByUs,
}

/// How the model notices that the caller has finished a turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TurnDetection {
    /// By the energy of the sound.
    ServerVad {
        /// 0 to 1; higher ignores quieter sounds.
        #[serde(default = "default_threshold")]
        threshold: f32,
        /// Audio kept from before the detected start.
        #[serde(default = "default_prefix_padding_ms")]
        prefix_padding_ms: u32,
        /// Silence that ends a turn.
        #[serde(default = "default_silence_duration_ms")]
        silence_duration_ms: u32,
    },
    /// By whether the thought sounds finished.
    SemanticVad {
        /// `low`, `medium`, `high` or `auto`.
        #[serde(default = "default_eagerness")]
        eagerness: String,
    },
}

fn default_threshold() -> f32 {
    0.5
}
fn default_prefix_padding_ms() -> u32 {
    300
}
fn default_silence_duration_ms() -> u32 {
    500
}
fn default_eagerness() -> String {
    "auto".into()
}

impl Default for TurnDetection {
    fn default() -> Self {
        Self::ServerVad {
            threshold: default_threshold(),
            prefix_padding_ms: default_prefix_padding_ms(),
            silence_duration_ms: default_silence_duration_ms(),
        }
    }
}

/// How the caller's words are written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transcription {
    /// Free text: model names come and go.
    pub model: String,
    /// ISO-639-1 codes the caller may speak.
    #[serde(default)]
    pub languages: Vec<String>,
    /// Names and terms that are likely to be said.
    #[serde(default)]
    pub keywords: Vec<String>,
}

/// A function the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// Name the model uses.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema of the arguments.
    pub parameters: serde_json::Value,
}

/// Everything a model session is told before the first sound.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionConfig {
    /// Who the agent is and how it behaves.
    pub instructions: String,
    /// Provider's name of the voice.
    pub voice: String,
    /// Audio both ways.
    pub format: AudioFormat,
    /// `None`: the caller's words are not written down.
    pub transcription: Option<Transcription>,
    /// How turns end.
    pub turn_detection: TurnDetection,
    /// Who answers them.
    pub turn_taking: TurnTaking,
    /// Functions on offer.
    pub tools: Vec<ToolSpec>,
    /// Bound of one response; `None` leaves it to the provider.
    pub max_output_tokens: Option<u32>,
    /// Reasoning effort of models that have one; `None` leaves the member out.
    pub reasoning_effort: Option<String>,
    /// Noise filter before turn detection (`near_field`, `far_field`); `None` is off.
    pub noise_reduction: Option<String>,
}

/// The part of the session's configuration that the provider echoed and that must be as asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionEcho {
    /// Audio the model will hear; `None` when the echo names something we do not know or nothing.
    pub input_format: Option<AudioFormat>,
    /// Audio the model will speak.
    pub output_format: Option<AudioFormat>,
    /// Voice, when echoed as a name.
    pub voice: Option<String>,
    /// `server_vad`, `semantic_vad`, …; `None` when turn detection is off or not echoed.
    pub turn_detection: Option<String>,
}

/// Who an item of the conversation belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemKind {
    /// The caller said or typed it.
    User,
    /// The agent said it.
    Assistant,
    /// An instruction from us.
    System,
    /// The model asks for a function.
    FunctionCall,
    /// What the function answered.
    FunctionOutput,
    /// Anything else, such as MCP items.
    Other,
}

/// How a response ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseStatus {
    /// All of it was generated.
    Completed,
    /// The caller spoke over it, or we cancelled it.
    Cancelled,
    /// It stopped early: `max_output_tokens` or `content_filter`.
    Incomplete {
        /// The provider's word.
        reason: String,
    },
    /// Nothing more will come; the caller may have heard nothing.
    Failed {
        /// The provider's code, such as `rate_limit_exceeded`.
        code: String,
        /// For logs.
        message: String,
        /// What it asks of us.
        class: ErrorClass,
    },
}

/// Tokens a response was billed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens read.
    pub input_tokens: u64,
    /// Of those, from the cache.
    pub cached_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
}

/// An `error` the provider reported. Most leave the session running; see [`ErrorClass`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelError {
    /// Broad type, such as `invalid_request_error` or `server_error`.
    pub kind: String,
    /// Decide by this.
    pub code: String,
    /// For logs only; may change.
    pub message: String,
    /// The member at fault.
    pub param: Option<String>,
    /// Our event that caused it.
    pub event_id: Option<String>,
    /// What it asks of us, judged by the code.
    pub class: ErrorClass,
}

/// What an error asks of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ErrorClass {
    /// Expected in races; note it and go on.
    Benign,
    /// A response is running already: ask again when it is done.
    ResponseBusy,
    /// Wait, then try the response again.
    RetryResponse,
    /// The session is over; another one may work.
    SessionOver,
    /// Trying again cannot help: key, money, model, our own mistake of shape.
    Fatal,
    /// Our request was wrong. Fatal for the first `session.update`, otherwise note it and go on.
    #[default]
    BadRequest,
}

/// What the model's side reports, in order. Text and audio borrow from the received message.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelEvent<'a> {
    /// The session exists, with the provider's defaults in force.
    SessionCreated {
        /// For logs.
        session_id: Cow<'a, str>,
        /// Unix seconds after which the provider ends the session.
        expires_at: Option<i64>,
    },
    /// Our configuration is in force.
    SessionUpdated(SessionEcho),
    /// The caller began to speak. `audio_start_ms` counts appended audio.
    SpeechStarted {
        /// Id the caller's item will have.
        item: ItemId,
        /// Start, on the axis of appended audio.
        audio_start_ms: u64,
    },
    /// The caller fell silent.
    SpeechStopped {
        /// As in `SpeechStarted`.
        item: ItemId,
        /// End, on the axis of appended audio.
        audio_end_ms: u64,
    },
    /// The caller's turn is part of the conversation now.
    Committed {
        /// The caller's item.
        item: ItemId,
        /// Item before it; `None` for the first.
        previous: Option<ItemId>,
    },
    /// An item took its place in the conversation. Announced again when it is done.
    ItemPlaced {
        /// The item.
        item: ItemId,
        /// What it is.
        kind: ItemKind,
        /// Item before it; `None` for the first.
        previous: Option<ItemId>,
    },
    /// Part of the caller's words; a preview.
    UserTranscriptDelta {
        /// The caller's item.
        item: ItemId,
        /// More of it.
        text: Cow<'a, str>,
    },
    /// The caller's words, final. May come long after the answer to them.
    UserTranscript {
        /// The caller's item.
        item: ItemId,
        /// All of it; may be empty.
        text: Cow<'a, str>,
    },
    /// The caller's words could not be written down.
    UserTranscriptFailed {
        /// The caller's item.
        item: ItemId,
        /// The provider's code.
        code: String,
    },
    /// A response runs, ours or one the model began itself.
    ResponseStarted {
        /// The response.
        response: ResponseId,
    },
    /// Audio of the agent. Hot: everything is borrowed.
    Audio {
        /// Response it belongs to.
        response: &'a str,
        /// Item it belongs to.
        item: &'a str,
        /// Base64 of audio in the session's format. Not aligned to frames or samples.
        base64: &'a str,
    },
    /// No more audio for this item.
    AudioDone {
        /// Response it belongs to.
        response: ResponseId,
        /// The item.
        item: ItemId,
    },
    /// Words of the agent, ahead of their sound.
    TextDelta {
        /// Response it belongs to.
        response: &'a str,
        /// The item.
        item: &'a str,
        /// More of it.
        text: Cow<'a, str>,
    },
    /// All words of this item.
    TextDone {
        /// The item.
        item: ItemId,
        /// All of it.
        text: Cow<'a, str>,
    },
    /// The model asks for a function. Only complete calls are reported, once each.
    ToolCall {
        /// Response it belongs to.
        response: ResponseId,
        /// The item.
        item: ItemId,
        /// To answer with.
        call: ToolCallId,
        /// Function.
        name: String,
        /// JSON by promise; may be invalid.
        arguments: String,
    },
    /// The response is over; playback may go on for long.
    ResponseDone {
        /// The response.
        response: ResponseId,
        /// How.
        status: ResponseStatus,
        /// What it cost.
        usage: Option<Usage>,
    },
    /// Audio was cut off the model's memory, as we asked.
    Truncated {
        /// The item.
        item: ItemId,
        /// Milliseconds kept.
        audio_end_ms: u64,
    },
    /// Something went wrong.
    Error(ModelError),
    /// Known and of no interest, or not known at all.
    Ignored {
        /// Its type on the wire.
        kind: Cow<'a, str>,
    },
}

/// Why we ask for a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// First words of the call.
    Greeting,
    /// The caller has said something.
    Turn,
    /// A function has answered.
    ToolResult,
    /// The caller pressed keys.
    Keypad,
    /// Nobody has spoken for a while.
    Nudge,
    /// The one before failed.
    Retry,
    /// The session was lost in the middle of an answer.
    Resume,
    /// Somebody in charge wants something said.
    Operator,
    /// The call is about to leave the agent, who has to say so.
    LastWords,
}

impl Purpose {
    /// Short word for ids and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Turn => "turn",
            Self::ToolResult => "tool",
            Self::Keypad => "keypad",
            Self::Nudge => "nudge",
            Self::Retry => "retry",
            Self::Resume => "resume",
            Self::Operator => "operator",
            Self::LastWords => "last",
        }
    }
}

/// Caller audio on its way to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AudioPayload<'a> {
    /// Bytes in the session's format.
    Bytes(&'a [u8]),
    /// The same as base64 text, passed through as it came.
    Base64(&'a str),
}

/// An item we add to the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewItem {
    /// Words from the caller's side that were not spoken, such as pressed keys.
    UserText {
        /// Id we chose, at most 32 characters.
        id: ItemId,
        /// The words.
        text: String,
    },
    /// What the agent is to know and nobody has said.
    SystemText {
        /// Id we chose, at most 32 characters.
        id: ItemId,
        /// The words.
        text: String,
    },
    /// What the caller heard of the agent in an earlier session.
    AgentText {
        /// Id we chose, at most 32 characters.
        id: ItemId,
        /// The words.
        text: String,
    },
    /// A function that the model called in an earlier session.
    ToolCall {
        /// Id we chose, at most 32 characters.
        id: ItemId,
        /// The call.
        call: ToolCallId,
        /// The function.
        name: String,
        /// As the model wrote them.
        arguments: String,
    },
    /// A function's answer.
    ToolOutput {
        /// Id we chose, at most 32 characters.
        id: ItemId,
        /// The call it answers.
        call: ToolCallId,
        /// JSON or plain text.
        output: String,
    },
}

/// What the model is told, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelCommand<'a> {
    /// The whole configuration.
    UpdateSession {
        /// Names our event in an error.
        event_id: String,
        /// All of it.
        config: &'a SessionConfig,
    },
    /// Caller audio. Hot.
    AppendAudio(AudioPayload<'a>),
    /// Close the caller's turn now.
    CommitAudio {
        /// Names our event in an error.
        event_id: String,
    },
    /// Add an item at the end.
    CreateItem {
        /// Names our event in an error.
        event_id: String,
        /// The item.
        item: NewItem,
    },
    /// Take unheard audio out of the model's memory.
    Truncate {
        /// Names our event in an error.
        event_id: String,
        /// The agent's item.
        item: ItemId,
        /// Milliseconds that were heard, from the start of this item.
        audio_end_ms: u64,
    },
    /// Ask for a response.
    CreateResponse {
        /// Names our event in an error.
        event_id: String,
        /// Why.
        purpose: Purpose,
        /// Replaces the session's instructions for this response.
        instructions: Option<String>,
    },
    /// Stop a running response.
    CancelResponse {
        /// Names our event in an error.
        event_id: String,
        /// Which.
        response: ResponseId,
    },
}
