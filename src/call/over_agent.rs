//! The caller speaks while the agent does, and the call decides what that means: see [`super::barge_in`].

use super::Call;
use super::barge_in::{Act, NEARLY_SAID};
use super::outbox::{Note, Output};
use super::timing::Judgement;
use crate::clock::CallTime;
use crate::ids::ItemId;
use crate::wire::model::ModelCommand;

impl Call {
    /// The model says that somebody speaks. False: it is a turn like any other.
    pub(super) fn may_be_over_agent(&mut self, now: CallTime, item: &ItemId) -> bool {
        let speaks_already = self.turns.caller_speaks();
        let Some(barge_in) = self.barge_in.as_mut().filter(|_| !self.phase.is_over() && !speaks_already)
        else {
            return false;
        };
        if !barge_in.is_open() && !self.turns.response_runs() && !self.playout.has_unheard(now) {
            barge_in.turn_began();
            return false;
        }
        let act = barge_in.on_started(now, item, self.playout.echoes_until());
        self.act_on_sound(now, act);
        true
    }

    /// The model says that nobody speaks any more. False: it was a turn like any other.
    pub(super) fn was_over_agent(&mut self, now: CallTime, at: CallTime) -> bool {
        let stopped = self.barge_in.as_mut().and_then(|barge_in| barge_in.on_stopped(now, at));
        let Some(act) = stopped else { return false };
        self.act_on_sound(now, act);
        true
    }

    /// A frame of the caller's audio, which lies in `received`. It is measured while there is something to speak over.
    pub(super) fn measure_caller(&mut self, now: CallTime) {
        let agent_speaks = self.turns.response_runs() || self.playout.holds_any();
        if let Some(barge_in) = self.barge_in.as_mut().filter(|barge_in| agent_speaks || barge_in.is_open()) {
            let act = barge_in.on_audio(now, &self.received, self.playout.echoes_until());
            self.act_on_sound(now, act);
        }
    }

    /// Words of a caller's turn; `finished`: all of them.
    pub(super) fn read_words(&mut self, now: CallTime, item: &ItemId, text: &str, finished: bool) {
        if self.phase.is_over() {
            return;
        }
        let leaving = self.leaving.is_some();
        if let Some(barge_in) = &mut self.barge_in {
            let act = barge_in.on_words(now, item, text, finished, leaving);
            self.act_on_sound(now, act);
        }
    }

    /// A caller's turn is in the conversation: it is ours to have it answered, unless the model does so by itself.
    pub(super) fn on_turn_complete(&mut self, item: &ItemId) {
        if self.capabilities.owns_turns {
            return;
        }
        let passed = self.barge_in.as_mut().is_some_and(|barge_in| barge_in.on_committed(item));
        if passed {
            self.turns.want_turn();
        } else {
            self.turns.turn_is_complete();
        }
    }

    /// A pause has lasted as long as one may.
    pub(super) fn on_pause_due(&mut self, now: CallTime) {
        if let Some(barge_in) = &mut self.barge_in {
            let act = barge_in.on_due(now);
            self.act_on_sound(now, act);
        }
    }

    /// The model's session is gone: nobody will say what a sound over the agent was.
    pub(super) fn forget_sounds(&mut self, now: CallTime) {
        if let Some(barge_in) = &mut self.barge_in {
            let act = barge_in.session_lost(now);
            self.act_on_sound(now, act);
        }
    }

    /// A turn is being spoken that may be an interruption.
    pub(super) fn is_spoken_over(&self) -> bool {
        self.barge_in.as_ref().is_some_and(super::barge_in::BargeIn::is_open)
    }

    fn act_on_sound(&mut self, now: CallTime, act: Act) {
        match act {
            Act::Nothing => {}
            Act::Pause => self.pause(now),
            Act::Resume(judgement) => self.resume(now, judgement),
            Act::Confirm { judgement, over } => self.confirm(now, judgement, over),
        }
    }

    /// Takes back what Twilio has not played, to send it again if this was no interruption.
    fn pause(&mut self, now: CallTime) {
        let nearly_said = self.playout.unheard(now) < NEARLY_SAID && !self.turns.response_runs();
        let found = self.playout.pause(now);
        if found.must_clear {
            self.outbox.clear();
        }
        for heard in &found.heard {
            self.transcript.agent_heard(now, &heard.item, heard.heard_ms, heard.evidence);
        }
        if let Some(barge_in) = self.barge_in.as_mut().filter(|_| nearly_said) {
            barge_in.answer_later();
        }
        self.turns.hold(true);
        self.outbox.note(Note::Paused);
    }

    fn resume(&mut self, now: CallTime, judgement: Judgement) {
        self.playout.resume();
        self.turns.hold(false);
        self.last_activity = now;
        self.outbox.push(Output::Judged(judgement));
    }

    /// It is an interruption: the agent's answer is over. `over`: the caller has finished, and when.
    fn confirm(&mut self, now: CallTime, judgement: Judgement, over: Option<CallTime>) {
        let item = judgement.item.clone();
        self.outbox.push(Output::Judged(judgement));
        self.interrupt_agent(now);
        let Some(stopped) = over else { return };
        self.timing.caller_stopped(stopped);
        self.turns.caller_stopped(now);
        if self.open_turn.as_ref() != Some(&item) {
            self.turns.turn_is_complete(); // It was in the conversation before its words were known.
        }
    }

    /// The caller takes the turn: whatever the agent was saying is void.
    pub(super) fn interrupt_agent(&mut self, now: CallTime) {
        self.timing.caller_started();
        let running = self.turns.caller_started();
        if self.phase.is_over() {
            return;
        }
        self.barge_in(now);
        if let (Some(response), false, true) =
            (running, self.capabilities.owns_turns, self.capabilities.can_cancel)
        {
            let event_id = self.event_id("cancel");
            self.outbox.model(ModelCommand::CancelResponse { event_id, response });
        }
        self.stay(now);
    }
}
