//! What the model says, and what follows from it.

use std::time::Duration;

use super::Call;
use super::end::EndReason;
use super::ending::{Leaving, Phase};
use super::outbox::{Note, Output};
use super::playout::Interruption;
use super::tools::{Asked, ToolResult};
use super::turns::{Began, Done, Failed};
use crate::clock::CallTime;
use crate::ids::{ItemId, ResponseId, ToolCallId};
use crate::wire::model::{
    ErrorClass, ModelCommand, ModelError, ModelEvent, NewItem, Purpose, ResponseStatus,
};
use crate::wire::payload;

/// Before asking again after a failure that is nobody's fault.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(300);
/// Before asking again after a rate limit.
const PAUSE_AFTER_RATE_LIMIT: Duration = Duration::from_secs(2);

/// Code and type of trouble on the provider's side that passes.
const SERVER_ERROR: &str = "server_error";

/// What a function answers that the caller spoke over.
pub(super) const SPOKEN_OVER: &str = "the caller spoke again, so this was not done; the call goes on";

/// People are called so often on behalf of the agent, and then no more: they are not there.
const MAX_HANDOFFS: u32 = 2;
/// What the function answers then.
const NOBODY_IS_THERE: &str =
    "nobody of the team is there; offer to take a message or to have somebody call back";
/// Whoever withholds their number cannot be told from others who do.
const NO_NUMBER: &str = "the number of this person is not known, so nothing was put on record; say so, and that they can tell \
                         us from their own telephone";

/// What a response failed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// What was asked, or nothing that is known.
    Request,
    /// Trouble on the provider's side, which passes. `limited`: more was asked than it gives for now.
    Endpoint { limited: bool },
}

impl Call {
    /// The session is as asked: what the caller said so far is told, and the agent greets.
    pub(super) fn on_ready(&mut self, now: CallTime, expires: CallTime) {
        if self.phase == Phase::Connecting {
            self.last_activity = now;
            self.begin_talk(now, expires);
        }
    }

    /// The call goes on, or begins, with a session that knows nothing of it.
    pub(super) fn begin_talk(&mut self, now: CallTime, expires: CallTime) {
        self.phase = Phase::Talking;
        self.model_open = true;
        let is_first = self.begin_session(now, expires);
        let kept = self.caller_audio.release();
        for piece in kept.chunks(8000) {
            self.append_ulaw(piece);
        }
        self.turns.session_began(now);
        if let Some(greeting) = self.settings.greeting.clone().filter(|_| is_first) {
            let instructions = self.with_instructions(&greeting);
            self.turns.want(Purpose::Greeting, Some(instructions));
        }
        if !self.keys.is_empty() {
            self.tell_keys(now);
        }
    }

    pub(super) fn on_model(&mut self, now: CallTime, event: ModelEvent<'_>) {
        if !self.model_open {
            return;
        }
        self.pulse.felt(now);
        match event {
            ModelEvent::Audio { response, item, base64 } => self.on_agent_audio(now, response, item, base64),
            ModelEvent::TextDelta { item, text, .. } => {
                self.turns.on_progress(now, false);
                self.transcript.agent_delta(now, item, &text);
            }
            ModelEvent::TextDone { item, text } => self.transcript.agent_text(now, &item, &text),
            ModelEvent::AudioDone { response, item } => self.on_audio_done(&response, &item),
            ModelEvent::SpeechStarted { item, audio_start_ms } => {
                self.on_speech_started(now, item, audio_start_ms);
            }
            ModelEvent::SpeechStopped { item, audio_end_ms } => {
                self.on_speech_stopped(now, &item, audio_end_ms);
            }
            ModelEvent::Committed { item, previous } => {
                self.open_turn = None;
                let text_due = now + self.settings.transcript_within;
                self.transcript.committed(now, &item, previous, text_due);
                self.on_turn_complete(&item);
            }
            ModelEvent::ItemPlaced { item, kind, previous } => {
                self.transcript.place(now, &item, Some(kind), previous);
            }
            ModelEvent::UserTranscriptDelta { item, text } => {
                self.transcript.user_delta(now, &item, &text);
                self.read_words(now, &item, &text, false);
            }
            ModelEvent::UserTranscript { item, text } => {
                self.transcript.user_text(now, &item, Some(&text));
                self.read_words(now, &item, &text, true);
                self.forget_written_sound();
            }
            ModelEvent::UserTranscriptFailed { item, .. } => {
                self.transcript.user_text(now, &item, None);
                self.forget_written_sound();
            }
            ModelEvent::ResponseStarted { response } => self.on_response_started(now, response),
            ModelEvent::ToolCall { response, item, call, name, arguments } => {
                self.on_tool_call(now, response, &item, &call, &name, &arguments);
            }
            ModelEvent::ResponseDone { response, status, .. } => {
                self.on_response_done(now, &response, &status);
            }
            ModelEvent::Error(error) => self.on_error(now, &error),
            ModelEvent::SessionCreated { .. }
            | ModelEvent::SessionUpdated(_)
            | ModelEvent::Truncated { .. }
            | ModelEvent::Ignored { .. } => {}
        }
    }

    /// Once a turn is written down its sound need not be heard again.
    pub(super) fn forget_written_sound(&mut self) {
        if !self.transcript.awaits_text() {
            self.caller_audio.turns_are_written();
        }
    }

    fn on_agent_audio(&mut self, now: CallTime, response: &str, item: &str, base64: &str) {
        if self.phase.is_over() || !self.turns.takes_audio(now, response) {
            self.drop_late_audio(item);
            return;
        }
        self.received.clear();
        if payload::decode_into(base64, &mut self.received).is_err() {
            self.outbox.note(Note::ModelAudioInvalid);
            return;
        }
        if self.received.is_empty() {
            return;
        }
        if self.arriving.as_ref().is_none_or(|arriving| arriving.as_str() != item) {
            let Ok(id) = ItemId::parse(item) else {
                self.outbox.note(Note::ModelAudioInvalid);
                return;
            };
            self.complete_arriving();
            self.arriving = Some(id);
        }
        let Some(item) = &self.arriving else { return };
        self.turns.on_progress(now, true);
        self.timing.on_audio(now, item);
        self.converted.clear();
        self.downlink.push(&self.received, &mut self.converted);
        if !self.playout.push(item, &self.converted) {
            self.outbox.note(Note::LateAudioDropped);
        }
    }

    fn on_audio_done(&mut self, response: &ResponseId, item: &ItemId) {
        if self.arriving.as_ref() == Some(item) && !self.turns.is_discarded(response.as_str()) {
            self.complete_arriving();
        }
    }

    /// The last samples of the item that was arriving, and the word that it is complete.
    pub(super) fn complete_arriving(&mut self) {
        let Some(item) = self.arriving.take() else { return };
        self.converted.clear();
        self.downlink.finish(&mut self.converted);
        if !self.converted.is_empty() {
            self.playout.push(&item, &self.converted);
        }
        self.playout.complete(&item);
    }

    /// No more of the item that was arriving is wanted, what the converter holds included.
    pub(super) fn drop_arriving(&mut self) {
        self.arriving = None;
        self.converted.clear();
        self.downlink.finish(&mut self.converted);
    }

    fn on_speech_started(&mut self, now: CallTime, item: ItemId, audio_start_ms: u64) {
        let at = self.caller_audio.stream_time(audio_start_ms);
        self.transcript.speech_started(now, &item, at);
        self.caller_audio.turn_began(at);
        self.last_activity = now;
        self.nudges = 0;
        let over_agent = self.may_be_over_agent(now, &item);
        self.open_turn = Some(item);
        if !over_agent {
            self.interrupt_agent(now);
        }
    }

    /// Stops what the caller is not to hear any more: first the queue, then Twilio's buffer, then the model's memory.
    pub(super) fn barge_in(&mut self, now: CallTime) {
        self.drop_arriving();
        let found = self.playout.interrupt(now);
        if found.unheard {
            self.outbox.note(Note::BargeIn);
        }
        if found.must_clear {
            self.outbox.clear();
        }
        self.heard_so_far.clear();
        for cut in &found.cuts {
            if self.transcript.is_of_former_session(&cut.item) {
                self.tell_cut(&cut.item, cut.heard_ms, cut.received_ms);
            } else if cut.heard_ms < cut.received_ms {
                self.truncate(cut.item.clone(), cut.heard_ms);
            } else {
                // Nothing to take back, unless more of it is on its way already.
                self.heard_so_far.push((cut.item.clone(), cut.heard_ms));
            }
        }
        self.record_interruption(now, &found);
    }

    fn truncate(&mut self, item: ItemId, audio_end_ms: u64) {
        if self.capabilities.can_truncate {
            let event_id = self.event_id("trunc");
            self.outbox.model(ModelCommand::Truncate { event_id, item, audio_end_ms });
            self.outbox.note(Note::Truncated);
        }
    }

    /// Audio of an interrupted response came late. If all of its item had been heard until then, this is the part that
    /// the model must forget.
    fn drop_late_audio(&mut self, item: &str) {
        self.outbox.note(Note::LateAudioDropped);
        let late = self.heard_so_far.iter().position(|(heard, _)| heard.as_str() == item);
        if let Some(index) = late.filter(|_| !self.phase.is_over()) {
            let (item, heard_ms) = self.heard_so_far.swap_remove(index);
            self.truncate(item, heard_ms);
        }
    }

    pub(super) fn record_interruption(&mut self, now: CallTime, found: &Interruption) {
        for heard in &found.heard {
            self.transcript.agent_heard(now, &heard.item, heard.heard_ms, heard.evidence);
        }
        for cut in &found.cuts {
            self.transcript.agent_cut(now, &cut.item, cut.heard_ms, cut.received_ms, cut.evidence);
        }
    }

    fn on_speech_stopped(&mut self, now: CallTime, item: &ItemId, audio_end_ms: u64) {
        let at = self.caller_audio.stream_time(audio_end_ms);
        self.caller_audio.turn_ended(at);
        let text_due = now + self.settings.transcript_within;
        self.transcript.speech_stopped(now, item, at, text_due);
        self.last_activity = now;
        let heard_at = self.caller_audio.arrival_time(at);
        if self.was_over_agent(now, heard_at) {
            return;
        }
        self.timing.caller_stopped(heard_at);
        self.turns.caller_stopped(now);
        if self.open_turn.is_none() {
            self.on_turn_complete(item); // It is in the conversation already.
        }
    }

    fn on_response_started(&mut self, now: CallTime, response: ResponseId) {
        self.last_activity = now;
        if self.phase.is_over() {
            return;
        }
        if self.turns.on_started(now, response.clone()) == Began::OverTheCaller
            && self.capabilities.can_cancel
        {
            let event_id = self.event_id("cancel");
            self.outbox.model(ModelCommand::CancelResponse { event_id, response });
        }
    }

    fn on_response_done(&mut self, now: CallTime, response: &ResponseId, status: &ResponseStatus) {
        let discarded = self.turns.is_discarded(response.as_str());
        let done = self.turns.on_done(response);
        if done != Done::Stale {
            if !discarded {
                self.complete_arriving();
                self.playout.complete_all();
            }
            self.transcript.agent_texts_are_final();
            self.last_activity = now;
        }
        if self.phase.is_over() {
            return;
        }
        if done == Done::Productive && !matches!(status, ResponseStatus::Failed { .. }) {
            self.session_served();
        }
        let void = discarded || done == Done::Stale;
        match status {
            ResponseStatus::Cancelled => self.transcript.agent_unheard(|item| self.playout.holds(item)),
            ResponseStatus::Failed { class: ErrorClass::Fatal, .. } => self.end(now, EndReason::ModelRefused),
            ResponseStatus::Failed { class: ErrorClass::SessionOver, .. } => self.on_model_lost(now),
            _ if void => {} // Nobody waits for it.
            ResponseStatus::Completed | ResponseStatus::Incomplete { .. } if done == Done::Productive => {
                self.turns.on_success();
                self.recovery.answered();
            }
            ResponseStatus::Completed => {
                self.outbox.note(Note::ResponseFailed);
                self.turns.on_empty();
            }
            ResponseStatus::Failed { class: ErrorClass::RetryResponse, code, .. } => {
                let limited = code != SERVER_ERROR;
                self.on_response_failed(now, Blame::Endpoint { limited });
            }
            ResponseStatus::Incomplete { .. } | ResponseStatus::Failed { .. } => {
                self.on_response_failed(now, Blame::Request);
            }
        }
    }

    fn on_response_failed(&mut self, now: CallTime, blame: Blame) {
        self.outbox.note(Note::ResponseFailed);
        let limited = blame == Blame::Endpoint { limited: true };
        let pause = self.recovery.spread(if limited { PAUSE_AFTER_RATE_LIMIT } else { PAUSE_AFTER_FAILURE });
        let failed = self.turns.on_failed(now, pause);
        if failed != Failed::AskAgain && blame != Blame::Request {
            self.session_failed();
        }
        match failed {
            Failed::AskAgain => {}
            Failed::AskAnotherSession => self.lose_model(now, EndReason::ModelFailed),
            Failed::TooOften => self.end(now, EndReason::ModelFailed),
        }
    }

    fn on_error(&mut self, now: CallTime, error: &ModelError) {
        let about = error.event_id.as_deref().unwrap_or_default();
        match error.class {
            ErrorClass::Fatal => self.end(now, EndReason::ModelRefused),
            ErrorClass::SessionOver => self.on_model_lost(now),
            ErrorClass::ResponseBusy => self.turns.on_busy(about),
            ErrorClass::Benign => {
                self.outbox.note(Note::BenignError);
                if about.starts_with("commit-")
                    && let Some(item) = self.open_turn.take()
                {
                    self.transcript.forget(&item); // There was too little sound to make a turn of.
                }
            }
            ErrorClass::RetryResponse | ErrorClass::BadRequest => {
                self.outbox.note(Note::BadRequest);
                // Trouble of the provider's own names none of our events, and is about the response that was asked for.
                let unnamed = about.is_empty() && error.class == ErrorClass::RetryResponse;
                if self.turns.on_refused(about, unnamed) {
                    let limited = error.kind != SERVER_ERROR && error.code != SERVER_ERROR;
                    let passes = error.class == ErrorClass::RetryResponse;
                    let blame = if passes { Blame::Endpoint { limited } } else { Blame::Request };
                    self.on_response_failed(now, blame);
                }
            }
        }
    }

    /// Asks for a response when one is wanted and it is its time.
    pub(super) fn ask_for_response(&mut self, now: CallTime) {
        let last_words = self.model_open && self.turns.waits_for(Purpose::LastWords);
        let has_left = self.leaving.is_some() && !last_words;
        if self.phase != Phase::Talking || has_left {
            return;
        }
        let ids = &mut self.event_ids;
        let request = self.turns.next_request(now, |purpose| {
            *ids += 1;
            format!("resp-{}-{ids}", purpose.as_str())
        });
        if let Some((request, event_id)) = request {
            let (purpose, instructions) = (request.purpose, request.instructions);
            self.outbox.model(ModelCommand::CreateResponse { event_id, purpose, instructions });
        }
    }

    fn on_tool_call(
        &mut self,
        now: CallTime,
        response: ResponseId,
        item: &ItemId,
        call: &ToolCallId,
        name: &str,
        arguments: &str,
    ) {
        if self.phase.is_over() {
            return;
        }
        self.turns.on_progress(now, true);
        let void = self.turns.is_discarded(response.as_str());
        let asked = self.tools.ask(now, response, item.clone(), call.clone(), name, arguments);
        if asked != Asked::Again {
            self.transcript.function_asked(now, item, name, call, arguments);
        }
        match asked {
            Asked::Again => {}
            _ if void => self.answer_tool(now, call, super::tools::error(SPOKEN_OVER)),
            Asked::EndCall if self.turns.caller_speaks() => {
                self.answer_tool(now, call, super::tools::error(SPOKEN_OVER));
            }
            Asked::Run(request) => {
                // One before it may have answered already; the model is asked to go on when all have.
                self.turns.defer(Purpose::ToolResult);
                self.outbox.push(Output::CallTool(request));
            }
            Asked::Answer(output) => self.answer_tool(now, call, output),
            Asked::EndCall => {
                let tool = Some(call.clone());
                self.want_to_leave(now, Leaving { tool, ..Leaving::because(EndReason::AgentEnded) });
            }
            Asked::Transfer(_) if self.settings.handoffs_failed >= MAX_HANDOFFS => {
                self.answer_tool(now, call, super::tools::error(NOBODY_IS_THERE));
            }
            Asked::Transfer(transfer) => {
                let (tool, transfer) = (Some(call.clone()), Some(transfer));
                let reason = EndReason::Transferred;
                self.want_to_leave(now, Leaving { tool, transfer, ..Leaving::because(reason) });
            }
            Asked::OptOut if self.settings.can_opt_out => self.on_opt_out_by_function(now, call),
            Asked::OptOut => self.answer_tool(now, call, super::tools::error(NO_NUMBER)),
        }
    }

    pub(super) fn on_tool_result(&mut self, now: CallTime, result: ToolResult) {
        if !self.phase.is_over() {
            self.answer_tool(now, &result.call, result.output);
        }
    }

    pub(super) fn on_tools_overdue(&mut self, now: CallTime) {
        for call in self.tools.overdue(now) {
            self.outbox.push(Output::CancelTool(call.clone()));
            self.answer_tool(now, &call, super::tools::error("the function did not answer in time"));
        }
    }

    /// Tells the model what a function answered; when it was the last of its response, the model is asked to go on.
    pub(super) fn answer_tool(&mut self, now: CallTime, call: &ToolCallId, output: String) {
        let Some(last_of_response) = self.record_tool(call, &output) else { return };
        if self.model_open {
            let event_id = self.event_id("tool");
            let Ok(id) = ItemId::parse(&event_id) else { return };
            let item = NewItem::ToolOutput { id, call: call.clone(), output };
            self.outbox.model(ModelCommand::CreateItem { event_id, item });
        } // Else the next session is told with everything else.
        self.last_activity = now;
        if last_of_response {
            self.turns.want(Purpose::ToolResult, None);
        }
    }

    /// Writes a function's answer down. `None`: nobody waits for it.
    pub(super) fn record_tool(&mut self, call: &ToolCallId, output: &str) -> Option<bool> {
        let answered = self.tools.answer(call)?;
        self.transcript.function_answered(&answered.item, output);
        Some(answered.last_of_response)
    }
}
