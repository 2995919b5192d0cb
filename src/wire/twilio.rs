//! Twilio Media Streams JSON, in and out.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::ids::{CallSid, StreamSid};

/// What Twilio sends on a bidirectional stream. The payload borrows from the received message.
#[derive(Debug, Clone, PartialEq)]
pub enum Inbound<'a> {
    /// The socket speaks our protocol; names no call.
    Connected,
    /// The stream begins.
    Start(Box<Start>),
    /// Caller audio. Hot.
    Media(Media<'a>),
    /// The caller pressed a key: `0`-`9`, `*`, `#` (and `A`-`D`).
    Dtmf {
        /// The key.
        digit: char,
    },
    /// A mark of ours came back: played, nothing was queued, or flushed by `clear`.
    Mark {
        /// As we sent it.
        name: Cow<'a, str>,
    },
    /// The stream is over.
    Stop,
    /// An event we do not know.
    Unknown {
        /// Its name.
        event: Cow<'a, str>,
    },
}

/// Facts of a stream, known once at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Id to send back with every message.
    pub stream_sid: StreamSid,
    /// The call this stream belongs to.
    pub call_sid: CallSid,
    /// The account the call belongs to.
    pub account_sid: String,
    /// `<Parameter>` values of the TwiML.
    pub custom_parameters: BTreeMap<String, String>,
}

/// One message of caller audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Media<'a> {
    /// Milliseconds since the stream started; the first is not always 0.
    pub timestamp_ms: u64,
    /// Base64 of mu-law at 8 kHz, usually but not always 160 bytes.
    pub payload: &'a str,
}

/// What we may send on a bidirectional stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outbound<'a> {
    /// Audio to play after all that was sent before: mu-law at 8 kHz.
    Media {
        /// Raw bytes, headerless.
        ulaw: &'a [u8],
    },
    /// To be sent back when everything before it has been played.
    Mark {
        /// Under 100 ASCII characters.
        name: &'a str,
    },
    /// Drop what is not played yet.
    Clear,
}
