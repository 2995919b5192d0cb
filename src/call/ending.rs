//! How a call ends: the last words are played, the stream is closed, the last texts are waited for. Once.

use std::time::Duration;

use super::Call;
use super::end::{EndReason, NextStep};
use super::outbox::Output;
use super::tools::Transfer;
use crate::clock::CallTime;
use crate::ids::ToolCallId;
use crate::wire::model::{ModelCommand, Purpose};

/// What a function of the call itself answers when its wish was granted.
pub(super) const FULFILLED: &str = r#"{"ok":true}"#;

/// Nobody has made a sound for so long: who was asked something has mostly begun to answer by then.
const MOVE_AFTER: Duration = Duration::from_secs(1);
/// The same for a call of quick answers, which has no such pause ...
const MOVE_IN_HURRY_AFTER: Duration = Duration::from_millis(250);
/// ... in all this time.
const HURRY_AFTER: Duration = Duration::from_secs(10);

/// Where a call is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The model is not ready.
    Connecting,
    /// Both sides can speak.
    Talking,
    /// The stream is closed; the last texts are awaited.
    Lingering { reason: EndReason, until: CallTime },
    /// Nothing more happens.
    Ended,
}

impl Phase {
    pub(super) fn is_ended(self) -> bool {
        self == Self::Ended
    }

    /// The stream is closed.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Lingering { .. } | Self::Ended)
    }

    pub(super) fn linger_until(self) -> Option<CallTime> {
        if let Self::Lingering { until, .. } = self { Some(until) } else { None }
    }
}

/// The agent is to leave the call; its last words are still being played, or are yet to be said.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) reason: EndReason,
    /// The function call that asked for it, if one did.
    pub(super) tool: Option<ToolCallId>,
    /// To whom the caller goes.
    pub(super) transfer: Option<Transfer>,
    /// When to end it anyway.
    pub(super) by: CallTime,
}

impl Leaving {
    /// Nobody has asked for it in so many words.
    pub(super) const fn because(reason: EndReason) -> Self {
        Self { reason, tool: None, transfer: None, by: CallTime::FAR }
    }

    /// A human outweighs a goodbye, and somebody in charge outweighs both.
    const fn weight(&self) -> u8 {
        match self.reason {
            EndReason::Operator => 2,
            EndReason::Transferred => 1,
            _ => 0,
        }
    }
}

impl Call {
    /// The agent is to leave the call. The first wish of a weight counts, and the time runs from the first of all.
    pub(super) fn want_to_leave(&mut self, now: CallTime, wish: Leaving) {
        let Some(leaving) = &mut self.leaving else {
            let by = now + self.settings.farewell_within;
            self.leaving = Some(Leaving { by, ..wish });
            return;
        };
        let mut settled = wish;
        if settled.weight() > leaving.weight() {
            settled.by = leaving.by;
            std::mem::swap(leaving, &mut settled);
        }
        if let Some(tool) = settled.tool {
            self.answer_tool(now, &tool, FULFILLED.into());
        }
    }

    /// The caller speaks again: a goodbye is taken back, a transfer is not.
    pub(super) fn stay(&mut self, now: CallTime) {
        let Some(leaving) = self.leaving.take_if(|leaving| leaving.reason == EndReason::AgentEnded) else {
            return;
        };
        self.turns.defer(Purpose::LastWords);
        if let Some(tool) = leaving.tool {
            let output = super::tools::error(super::model_side::SPOKEN_OVER);
            self.answer_tool(now, &tool, output);
        }
    }

    /// Ends the call once the last words have been heard.
    pub(super) fn leave_when_said(&mut self, now: CallTime) {
        let Some(leaving) = &self.leaving else { return };
        if self.playout.is_paused() {
            return; // The caller may be taking the goodbye back.
        }
        if self.model_open && self.turns.waits_for(Purpose::LastWords) {
            return;
        }
        let said = !self.turns.response_runs() && self.playout.is_drained();
        if said && self.tools.is_idle_but_for(leaving.tool.as_ref()) {
            self.leave(now);
        }
    }

    /// When to leave this server, if nobody makes a sound until then: nothing is being said, asked for or done, all of it
    /// is on record, and it has been quiet for long enough that nobody is about to answer.
    pub(super) fn moves_at(&self) -> Option<CallTime> {
        let since = self.moving.filter(|_| self.phase == Phase::Talking && self.leaving.is_none())?;
        let quiet_at = self.last_activity.max(self.playout.quiet_at());
        let patiently = quiet_at + MOVE_AFTER;
        let hurriedly = (quiet_at + MOVE_IN_HURRY_AFTER).max(since + HURRY_AFTER);
        (self.nothing_is_open() && self.playout.is_drained()).then(|| patiently.min(hurriedly))
    }

    /// Leaves this server when nobody would notice.
    pub(super) fn move_at_a_pause(&mut self, now: CallTime) {
        if self.moves_at().is_some_and(|at| at <= now) {
            self.end(now, EndReason::Moved);
        }
    }

    /// Ends the call for the reason the agent gave.
    pub(super) fn leave(&mut self, now: CallTime) {
        if let Some(reason) = self.leaving.as_ref().map(|leaving| leaving.reason) {
            self.end(now, reason);
        }
    }

    /// Ends the stream now. The first reason counts.
    pub(super) fn end(&mut self, now: CallTime, reason: EndReason) {
        if self.phase.is_over() {
            return;
        }
        let ready = self.phase == Phase::Talking;
        self.opt_out_at_end();
        self.drop_arriving();
        let rest = self.playout.interrupt(now);
        self.record_interruption(now, &rest);
        self.cancel_tools(reason);
        // Before the stream ends: whoever goes on with the call reads the record at once.
        if matches!(reason.next_step(), NextStep::Resume | NextStep::Transfer) {
            self.transcript.agent_texts_are_final();
        }
        self.hand_out_turns();
        let transfer = self.leaving.as_mut().and_then(|leaving| leaving.transfer.take());
        if let Some(transfer) = transfer.filter(|_| reason == EndReason::Transferred) {
            self.outbox.push(Output::Transfer(transfer));
        }
        self.outbox.push(Output::EndStream(reason));
        if ready && self.model_open && (self.turns.caller_speaks() || self.is_spoken_over()) {
            let event_id = self.event_id("commit");
            self.outbox.model(ModelCommand::CommitAudio { event_id });
        }
        self.barge_in = None; // There is nobody any more who could be interrupted.
        if let Some(response) =
            self.turns.running().cloned().filter(|_| self.model_open && self.capabilities.can_cancel)
        {
            let event_id = self.event_id("cancel");
            self.outbox.model(ModelCommand::CancelResponse { event_id, response });
        }
        self.leaving = None;
        self.timers.clear_all();
        self.phase = Phase::Lingering { reason, until: now + self.settings.linger };
        if !ready {
            self.model_open = false; // Nothing was said that could still be written down.
        }
    }

    fn cancel_tools(&mut self, reason: EndReason) {
        let fulfilled = self.leaving.as_ref().and_then(|leaving| leaving.tool.clone());
        for call in self.tools.running() {
            if Some(&call) == fulfilled.as_ref() {
                self.record_tool(&call, FULFILLED);
            } else {
                if self.tools.is_outside(&call) {
                    self.outbox.push(Output::CancelTool(call.clone()));
                }
                // Where the call may go on elsewhere it stays unanswered: it may have done what it was asked for.
                if reason.next_step() != NextStep::Resume {
                    self.record_tool(&call, &super::tools::error("the call ended first"));
                }
            }
        }
    }

    /// Ends the lingering when there is nothing left to wait for.
    pub(super) fn finish_when_complete(&mut self) {
        if self.phase.linger_until().is_some() && !(self.model_open && self.transcript.awaits_text()) {
            self.finish();
        }
    }

    /// The last act.
    pub(super) fn finish(&mut self) {
        let Phase::Lingering { reason, .. } = self.phase else { return };
        self.transcript.close();
        self.hand_out_turns();
        self.outbox.push(Output::Ended(reason));
        self.timers.clear_all();
        self.phase = Phase::Ended;
    }
}
