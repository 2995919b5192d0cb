//! What the call wants done, in the order it must be done.

use std::collections::VecDeque;
use std::ops::Range;

use super::end::EndReason;
use super::operator::{Answer, OptOut};
use super::timing::{Judgement, Turn};
use super::tools::{ToolRequest, Transfer};
use super::transcript::Entry;
use crate::ids::ToolCallId;
use crate::wire::model::{AudioPayload, ModelCommand};
use crate::wire::twilio::Outbound;

/// What a buffer keeps when it is emptied: more than any usual message needs, and what one large message has made it
/// grow beyond is given back.
pub const KEPT_BYTES: usize = 16 * 1024;

/// One thing to do. Audio borrows from the call until the next output is taken.
#[derive(Debug, Clone, PartialEq)]
pub enum Output<'a> {
    /// Send to the caller.
    Twilio(Outbound<'a>),
    /// Send to the model.
    Model(ModelCommand<'a>),
    /// Save; a newer revision replaces an older one.
    Transcript(Entry),
    /// Open, use or leave a session of the model.
    Session(SessionAct),
    /// Run a function and come back with a [`super::tools::ToolResult`].
    CallTool(ToolRequest),
    /// The answer of this function is no longer wanted.
    CancelTool(ToolCallId),
    /// Both sides have been heard for the first time.
    Connected,
    /// The caller goes to people now; the end of the stream follows.
    Transfer(Transfer),
    /// What comes of a command.
    Answered(Answer),
    /// The other party does not want to be called again: on record now, whatever becomes of the call.
    OptedOut(OptOut),
    /// How long an answer took.
    Measured(Turn),
    /// A sound over the agent was judged.
    Judged(Judgement),
    /// Something worth counting.
    Note(Note),
    /// Record what comes after the stream, then close it. The call itself may linger for the last texts.
    EndStream(EndReason),
    /// Always the last.
    Ended(EndReason),
}

/// What is to be done about the model's sessions, of which there are two at most: the one in use, and the next one beside
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAct {
    /// Open another one; the one there was is of no more use.
    Open {
        /// If possible at another endpoint than the last one that was lost early.
        elsewhere: bool,
    },
    /// Open another one beside the one that is in use.
    OpenNext {
        /// The same.
        elsewhere: bool,
    },
    /// Use the next one from now on, or that is being opened, and close the one that was in use.
    UseNext,
    /// Let go of the next one: it is gone, or shows no life.
    LeaveNext {
        /// So soon that its endpoint is to blame.
        early: bool,
    },
    /// Ask the model's end of the connection in use whether it is there.
    Ping,
    /// The same of the next one.
    PingNext,
    /// The one in use has given its first answer: its endpoint works.
    Served,
    /// The one that was in use was lost before, and its endpoint is to blame.
    LostEarly,
}

/// Facts for metrics and logs; nothing depends on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// The model's session was lost, and another one is asked for.
    ModelLost,
    /// Another session has taken over from one that was lost.
    ModelBack,
    /// Another session has taken over from one whose time was nearly over.
    ModelRenewed,
    /// The caller spoke over audio that had not been heard.
    BargeIn,
    /// Somebody made a sound over the agent, who waits to learn what it is.
    Paused,
    /// Unheard audio was taken out of the model's memory.
    Truncated,
    /// A message of the stream could not be read or is not known.
    MessageIgnored,
    /// Caller audio was not base64.
    FrameDropped,
    /// A message was too large for caller audio.
    FrameTooLarge,
    /// Caller audio arrived before the model was ready and there was no room to keep more of it.
    FrameNotKept,
    /// Silence was put into a gap of the caller's audio.
    GapFilled,
    /// Audio of an interrupted response arrived late and was dropped.
    LateAudioDropped,
    /// Audio of the model was not base64.
    ModelAudioInvalid,
    /// A response failed or had nothing to hear.
    ResponseFailed,
    /// The model reported an error that needs no reaction.
    BenignError,
    /// The model refused something we sent.
    BadRequest,
}

#[derive(Debug)]
enum Queued {
    Media(Range<usize>),
    Mark(Range<usize>),
    Clear,
    AppendBytes(Range<usize>),
    AppendBase64(Range<usize>),
    Other(Output<'static>),
}

/// Queue of outputs. Audio and marks lie in buffers that are reused once everything has been taken, so that a frame
/// costs no allocation.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Queued>,
    bytes: Vec<u8>,
    texts: String,
}

impl Outbox {
    pub(super) fn push(&mut self, output: Output<'static>) {
        self.queue.push_back(Queued::Other(output));
    }

    pub(super) fn session(&mut self, act: SessionAct) {
        self.push(Output::Session(act));
    }

    pub(super) fn note(&mut self, note: Note) {
        self.push(Output::Note(note));
    }

    pub(super) fn model(&mut self, command: ModelCommand<'static>) {
        self.push(Output::Model(command));
    }

    pub(super) fn clear(&mut self) {
        self.queue.push_back(Queued::Clear);
    }

    pub(super) fn media(&mut self, ulaw: &[u8]) {
        let range = self.keep(ulaw);
        self.queue.push_back(Queued::Media(range));
    }

    pub(super) fn mark(&mut self, name: &str) {
        let range = self.keep_text(name);
        self.queue.push_back(Queued::Mark(range));
    }

    pub(super) fn append_bytes(&mut self, audio: &[u8]) {
        let range = self.keep(audio);
        self.queue.push_back(Queued::AppendBytes(range));
    }

    pub(super) fn append_base64(&mut self, audio: &str) {
        let range = self.keep_text(audio);
        self.queue.push_back(Queued::AppendBase64(range));
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    fn keep_text(&mut self, text: &str) -> Range<usize> {
        let start = self.texts.len();
        self.texts.push_str(text);
        start..self.texts.len()
    }

    pub(super) fn poll(&mut self) -> Option<Output<'_>> {
        let Some(next) = self.queue.pop_front() else {
            empty(&mut self.bytes);
            emptied(&mut self.texts);
            return None;
        };
        Some(match next {
            Queued::Media(range) => Output::Twilio(Outbound::Media { ulaw: &self.bytes[range] }),
            Queued::Mark(range) => Output::Twilio(Outbound::Mark { name: &self.texts[range] }),
            Queued::Clear => Output::Twilio(Outbound::Clear),
            Queued::AppendBytes(range) => append(AudioPayload::Bytes(&self.bytes[range])),
            Queued::AppendBase64(range) => append(AudioPayload::Base64(&self.texts[range])),
            Queued::Other(output) => output,
        })
    }
}

/// Empties a buffer that is used again.
pub(super) fn empty(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(KEPT_BYTES);
}

/// The same for text, and hands it over to be filled.
pub fn emptied(text: &mut String) -> &mut String {
    text.clear();
    text.shrink_to(KEPT_BYTES);
    text
}

fn append(audio: AudioPayload<'_>) -> Output<'_> {
    Output::Model(ModelCommand::AppendAudio(audio))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_message_s_memory_is_given_back_and_a_usual_one_s_is_kept() {
        for (bytes, kept) in [(2_000_000, KEPT_BYTES), (KEPT_BYTES, KEPT_BYTES), (1_280, 1_280)] {
            let mut outbox = Outbox::default();
            outbox.append_bytes(&vec![0x55; bytes]);
            while outbox.poll().is_some() {}
            assert_eq!(outbox.bytes.capacity(), kept);
            outbox.append_base64(&"/".repeat(bytes));
            while outbox.poll().is_some() {}
            assert_eq!(outbox.texts.capacity(), kept);
        }
    }
}
