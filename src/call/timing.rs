//! How long each answer took, as data.

use std::time::Duration;

use crate::audio::level::Decibels;
use crate::clock::CallTime;
use crate::ids::ItemId;

/// One answer of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The agent's item.
    pub item: ItemId,
    /// The caller's last sound before it; `None` for a greeting or a nudge.
    pub caller_stopped: Option<CallTime>,
    /// First audio from the model.
    pub first_audio: CallTime,
    /// First audio to the caller.
    pub first_sent: CallTime,
}

impl Turn {
    /// From the caller's last sound to the first sound of the answer, without the telephone network.
    #[must_use]
    pub fn response_latency(&self) -> Option<Duration> {
        self.caller_stopped.map(|stopped| self.first_sent.since(stopped))
    }
}

/// A sound over the agent, and what it was taken for.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The caller's turn.
    pub item: ItemId,
    /// When the model said that somebody speaks.
    pub noticed: CallTime,
    /// When the agent was paused; `None` when it was not.
    pub paused: Option<CallTime>,
    /// When it was judged.
    pub judged: CallTime,
    /// What it was taken for.
    pub verdict: Verdict,
    /// By what.
    pub why: Why,
    /// Voice of the caller that was measured until then.
    pub voice: Duration,
    /// The loudest 20 ms of it.
    pub loudest: Decibels,
}

impl Judgement {
    /// How long the agent was held up.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.paused.map_or(Duration::ZERO, |paused| self.judged.since(paused))
    }
}

/// What a sound over the agent was taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Nothing to stop for: the agent goes on from where it was paused.
    Resumed,
    /// An interruption: the agent's answer is over.
    Confirmed,
}

impl Verdict {
    /// The stored word, and a label's.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resumed => "resumed",
            Self::Confirmed => "confirmed",
        }
    }
}

/// What a sound over the agent was judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// It was over soon.
    Short,
    /// It went on.
    Length,
    /// Its words are more than a sign of listening.
    Words,
    /// It was as quiet as an echo of ours.
    Echo,
    /// There was time enough, and it was neither.
    Unclear,
    /// The model's session was lost, and with it whatever it would have said of it.
    ModelLost,
}

impl Why {
    /// The stored word, and a label's.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Length => "length",
            Self::Words => "words",
            Self::Echo => "echo",
            Self::Unclear => "unclear",
            Self::ModelLost => "model_lost",
        }
    }
}

/// Follows one answer at a time.
#[derive(Debug, Default)]
pub(super) struct Timing {
    caller_stopped: Option<CallTime>,
    waiting: Option<(ItemId, CallTime)>,
    last: Option<ItemId>,
}

impl Timing {
    pub(super) fn caller_started(&mut self) {
        self.caller_stopped = None;
        self.waiting = None;
    }

    pub(super) fn caller_stopped(&mut self, at: CallTime) {
        self.caller_stopped = Some(at);
    }

    /// Audio of an item arrived from the model.
    pub(super) fn on_audio(&mut self, now: CallTime, item: &ItemId) {
        if self.last.as_ref() != Some(item) {
            self.last = Some(item.clone());
            if self.waiting.is_none() {
                self.waiting = Some((item.clone(), now));
            }
        }
    }

    /// Audio of an item was sent to the caller: the measured answer, the first time.
    pub(super) fn on_sent(&mut self, now: CallTime, item: &ItemId) -> Option<Turn> {
        // What is sent may still be the item before.
        let (item, first_audio) = self.waiting.take_if(|(waiting, _)| waiting == item)?;
        Some(Turn { item, caller_stopped: self.caller_stopped.take(), first_audio, first_sent: now })
    }
}
