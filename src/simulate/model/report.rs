//! What a simulated model heard, said and had to complain about.

use serde::Serialize;

/// Everything a server has seen.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ModelReport {
    /// Sessions in the order they connected.
    pub sessions: Vec<SessionReport>,
    /// Connections that never became a session, and why.
    pub refused: Vec<String>,
}

/// One session.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SessionReport {
    /// `sess_…`.
    pub id: String,
    /// From the URL.
    pub model: String,
    /// The configuration in force at the end.
    pub session: serde_json::Value,
    /// `session.update` events that were accepted.
    pub updates: u64,
    /// Items in conversation order.
    pub items: Vec<ItemReport>,
    /// Responses in the order they began.
    pub responses: Vec<ResponseReport>,
    /// Caller audio that arrived.
    pub received_audio_ms: f64,
    /// Messages of caller audio.
    pub appends: u64,
    /// Times the caller was heard to begin to speak.
    pub speech_started: u64,
    /// What the client did wrong. Empty for a good bridge.
    pub violations: Vec<String>,
    /// Codes of all errors that were sent, harmless ones included.
    pub errors: Vec<String>,
    /// True while the connection is open.
    pub open: bool,
    /// From its beginning to the last that happened in it.
    pub lasted_ms: f64,
}

/// One item of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ItemReport {
    /// `item_…`, or as the client chose.
    pub id: String,
    /// `message`, `function_call`, `function_call_output`.
    pub kind: String,
    /// `user`, `assistant`, `system`; absent for functions.
    pub role: Option<String>,
    /// `in_progress`, `completed`, `incomplete`.
    pub status: String,
    /// The words: heard, generated, or given by the client; arguments and outputs of functions.
    pub text: String,
    /// Name of a function.
    pub name: Option<String>,
    /// The text the client was given for the caller's words; absent when none was.
    pub transcript: Option<String>,
    /// The recording that was recognised.
    pub phrase: Option<String>,
    /// How well it fits the recording, 1 being perfectly.
    pub match_score: Option<f64>,
    /// Audio of a caller's item.
    pub heard_ms: Option<f64>,
    /// Audio that was generated and sent.
    pub generated_ms: Option<f64>,
    /// Where the client cut it.
    pub truncated_ms: Option<u64>,
    /// The response it came from.
    pub response: Option<String>,
    /// True when the client deleted it.
    pub deleted: bool,
    /// When it took its place in the conversation, since the session began.
    pub at_ms: f64,
}

/// One response.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ResponseReport {
    /// `resp_…`.
    pub id: String,
    /// `in_progress`, `completed`, `cancelled`, `failed`, `incomplete`.
    pub status: String,
    /// More about the status.
    pub reason: Option<String>,
    /// `turn` when the server began it, `client` when it was asked for.
    pub begun_by: String,
    /// As asked for with `metadata`.
    pub metadata: serde_json::Value,
    /// Audio that was generated and sent.
    pub generated_ms: f64,
    /// From the request to the first audio.
    pub first_audio_ms: Option<f64>,
}
