//! How long each answer took, as data.

use std::time::Duration;

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
