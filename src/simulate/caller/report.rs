//! What a simulated call was really like. All times are milliseconds since the first media stream of the call began.

use serde::Serialize;

/// One call as Twilio and the caller saw it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CallReport {
    /// `CA…`.
    pub call_sid: String,
    /// The caller's number.
    pub from: String,
    /// The number that was called.
    pub to: String,
    /// Name of the scenario.
    pub scenario: String,
    /// From the request for TwiML to its answer.
    pub webhook_ms: f64,
    /// From the first `connected` to the end of the last stream.
    pub duration_ms: f64,
    /// Each media stream of the call, in order; usually one.
    pub streams: Vec<StreamReport>,
    /// What the caller said and pressed, in order.
    pub utterances: Vec<UtteranceReport>,
    /// Steps that went on because they had waited too long.
    pub missed: Vec<String>,
    /// TwiML verbs that were carried out, in order, such as `Connect`, `Dial +1…`, `Hangup`.
    pub followed: Vec<String>,
    /// What TwiML said itself, in order, with `<Say>`.
    pub said: Vec<SaidReport>,
    /// The answer to the last webhook, as it came.
    pub last_twiml: String,
    /// What Twilio would have complained about. Empty for a good bridge.
    pub violations: Vec<String>,
    /// Who or what ended the call.
    pub ended_by: EndedBy,
}

/// Who or what ended a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// The caller hung up.
    Caller,
    /// TwiML said so, or had nothing more to say.
    Twiml,
    /// The caller waited for the other side to end the call, in vain.
    Patience,
    /// The carrier: over REST it was told to, or the longest time of a call was over.
    Carrier,
    /// A webhook did not give usable TwiML, or the stream could not be opened and nothing followed.
    #[default]
    Error,
}

/// One media stream.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StreamReport {
    /// `MZ…`.
    pub stream_sid: String,
    /// As the TwiML gave it.
    pub url: String,
    /// `<Parameter>` values of the TwiML.
    pub parameters: std::collections::BTreeMap<String, String>,
    /// From opening the TCP connection to the finished upgrade.
    pub connect_ms: f64,
    /// When it began.
    pub started_ms: f64,
    /// When it ended.
    pub ended_ms: f64,
    /// How it ended.
    pub ended_by: StreamEnd,
    /// Frames of caller audio that were sent.
    pub frames_sent: u64,
    /// Those of them that were sent before the last mark or key: a bridge that has read that one has read them.
    pub frames_before_last_event: u64,
    /// Frames that were thrown away because the bridge did not read (warning 31930).
    pub frames_discarded: u64,
    /// Bytes of audio that arrived and could be played.
    pub media_bytes: u64,
    /// Messages of audio that arrived.
    pub media_messages: u64,
    /// Bytes that were thrown away because ten minutes were waiting already (warning 31931).
    pub overflow_bytes: u64,
    /// First audio that was heard at all.
    pub first_audio_ms: Option<f64>,
    /// Uninterrupted stretches of sound.
    pub stretches: Vec<Stretch>,
    /// Every `clear`.
    pub clears: Vec<ClearReport>,
    /// Every `mark`.
    pub marks: Vec<MarkReport>,
    /// Bytes heard in all.
    pub heard_bytes: u64,
    /// Milliseconds of voice heard in all, pauses not counted.
    pub heard_voice_ms: u64,
    /// Bytes dropped by `clear` in all.
    pub cleared_bytes: u64,
    /// Bytes that were still waiting when the stream ended.
    pub unheard_bytes: u64,
}

/// How a media stream ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamEnd {
    /// The caller hung up: `stop`, then close.
    Stop,
    /// The bridge closed the socket, with this code if any.
    Server(Option<u16>),
    /// The connection broke from the bridge's side.
    Broken,
    /// The scenario broke the connection.
    Dropped,
    /// The carrier was told over REST what to do instead: `stop`, then close.
    Ordered,
    /// It could not be opened; the text says why.
    Refused(String),
    /// Not ended.
    #[default]
    Open,
}

/// Audio that was played without a gap.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stretch {
    /// When its first byte was heard.
    pub since_ms: f64,
    /// Where it begins, counted in audio bytes that arrived on this stream.
    pub from_byte: u64,
    /// Bytes that were heard.
    pub heard_bytes: u64,
    /// Bytes of it that a `clear` took away.
    pub cleared_bytes: u64,
}

/// One `clear`, and what came after it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClearReport {
    /// When it took effect.
    pub at_ms: f64,
    /// Bytes heard on this stream so far.
    pub heard_bytes: u64,
    /// Where it cut: everything before this byte was heard or cleared earlier. Counted in audio bytes that arrived.
    pub at_byte: u64,
    /// Bytes that were never heard because of it.
    pub cleared_bytes: u64,
    /// Marks that came back because of it.
    pub flushed_marks: Vec<String>,
    /// Audio that arrived within the next second, in pieces that end with a mark.
    pub followed_by: Vec<AudioAfterClear>,
}

/// Audio that arrived soon after a `clear`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AudioAfterClear {
    /// When its first byte arrived.
    pub at_ms: f64,
    /// How much of it.
    pub bytes: u64,
    /// The mark that came next; absent when none came.
    pub mark: Option<String>,
}

/// One `mark`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MarkReport {
    /// As the bridge named it.
    pub name: String,
    /// When it arrived.
    pub received_ms: f64,
    /// Audio bytes that had arrived before it.
    pub at_byte: u64,
    /// When it went back; absent when the stream ended before.
    pub returned_ms: Option<f64>,
    /// Why it went back.
    pub returned: Option<MarkReturn>,
}

/// Why a mark went back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkReturn {
    /// All audio before it was heard.
    Played,
    /// Nothing was waiting when it came.
    Empty,
    /// A `clear` took its audio away.
    Flushed,
}

/// A `<Say>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SaidReport {
    /// The words.
    pub text: String,
    /// When it began, in milliseconds since the call did.
    pub since_ms: f64,
    /// False when something else happened before its end.
    pub whole: bool,
}

/// Something the caller said or pressed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UtteranceReport {
    /// Recording, file, or `press 2`.
    pub what: String,
    /// First frame.
    pub from_ms: f64,
    /// End of the last frame.
    pub to_ms: f64,
    /// First sound of the agent that began after it.
    pub answered_ms: Option<f64>,
    /// From the end of the caller's words to the first sound of the answer.
    pub latency_ms: Option<f64>,
    /// True when the agent was speaking as it began.
    pub over_agent: bool,
}

impl CallReport {
    /// Milliseconds of voice the caller heard in the whole call.
    #[must_use]
    pub fn heard_voice_ms(&self) -> u64 {
        self.streams.iter().map(|stream| stream.heard_voice_ms).sum()
    }
}
