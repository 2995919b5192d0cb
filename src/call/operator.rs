//! What people in charge want of a call, and what the other party wants of us: both are decided here, like all else.

use std::collections::VecDeque;

use super::Call;
use super::end::EndReason;
use super::ending::{FULFILLED, Leaving};
use super::outbox::Output;
use super::tools::Transfer;
use crate::clock::CallTime;
use crate::ids::{CommandId, ItemId, ToolCallId};
use crate::wire::model::{ModelCommand, NewItem, Purpose};

/// Sentences that wait to be said. Somebody who wants more at a time should speak to the caller instead.
const MAX_SAYINGS: usize = 8;

/// To an agent whose call is put through by somebody in charge.
const PUT_THROUGH: &str = "The caller is being put through to a person now. Tell them so in one short sentence, without \
                           asking whether they want it, and say nothing else.";
/// To an agent whose other party does not want to be called again.
const OPTED_OUT: &str = "The person does not want to be called again, and that is on record now. Confirm it in one short \
                         sentence, say goodbye, and say nothing else. Do not ask why, and do not try to keep them.";

/// Something that is wanted of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// To answer with.
    pub id: CommandId,
    /// What.
    pub wish: Wish,
}

/// What can be wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// That it ends.
    HangUp {
        /// Without waiting for the sentence that is being said.
        now: bool,
    },
    /// That people take it over.
    Transfer(Transfer),
    /// That the agent says exactly this as soon as nobody speaks.
    Say(String),
    /// That the agent knows this, and says nothing about it by itself.
    Inject(String),
}

/// What the call makes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The command.
    pub id: CommandId,
    /// Of which kind it is.
    pub kind: &'static str,
    /// What comes of it.
    pub outcome: Outcome,
}

/// What comes of a command, each with a sentence for whoever gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has been done, or has begun.
    Done(&'static str),
    /// It cannot be done.
    Refused(&'static str),
}

/// How the other party said that they do not want to be called again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptOut {
    /// To the agent.
    Said,
    /// On the keypad.
    Keypad,
}

impl Wish {
    /// The stored word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::HangUp { .. } => "hang_up",
            Self::Transfer(_) => "transfer",
            Self::Say(_) => "say",
            Self::Inject(_) => "inject",
        }
    }
}

/// Sentences that wait to be said, first come first.
pub(super) type Sayings = VecDeque<String>;

impl Call {
    /// Somebody in charge wants something.
    pub(super) fn on_command(&mut self, now: CallTime, command: Command) {
        let Command { id, wish } = command;
        let outcome = self.judge(&wish);
        // Before what follows from it, which may be the end.
        self.outbox.push(Output::Answered(Answer { id, kind: wish.kind(), outcome }));
        if matches!(outcome, Outcome::Refused(_)) {
            return;
        }
        match wish {
            Wish::HangUp { now: true } => self.end(now, EndReason::Operator),
            Wish::HangUp { now: false } => self.want_to_leave(now, Leaving::because(EndReason::Operator)),
            Wish::Transfer(transfer) => {
                let leaving =
                    Leaving { transfer: Some(transfer), ..Leaving::because(EndReason::Transferred) };
                self.want_to_leave(now, leaving);
                self.want_last_words(PUT_THROUGH);
            }
            Wish::Say(text) => self.sayings.push_back(text),
            Wish::Inject(text) => self.add_note(now, text),
        }
    }

    fn judge(&self, wish: &Wish) -> Outcome {
        if self.phase.is_over() {
            return Outcome::Refused("the call is over");
        }
        let leaves_for = self.leaving.as_ref().map(|leaving| leaving.reason);
        match (wish, leaves_for) {
            (Wish::HangUp { now: true }, _) => Outcome::Done("the call ends now"),
            (Wish::HangUp { now: false }, _) => {
                Outcome::Done("the call ends after the sentence that is being said")
            }
            (Wish::Transfer(_), Some(EndReason::Transferred)) => {
                Outcome::Refused("the caller is being put through already")
            }
            (_, Some(EndReason::Operator | EndReason::Transferred)) => {
                Outcome::Refused("the agent is leaving the call")
            }
            (Wish::Transfer(_), _) => {
                Outcome::Done("the agent says so, then the telephones of the people ring")
            }
            (Wish::Say(_) | Wish::Inject(_), Some(_)) => Outcome::Refused("the call is about to end"),
            (Wish::Say(_), None) if self.sayings.len() >= MAX_SAYINGS => {
                Outcome::Refused("too many sentences wait to be said; try again when some have been")
            }
            (Wish::Say(_), None) => Outcome::Done("the agent says it as soon as nobody speaks"),
            (Wish::Inject(_), None) => Outcome::Done("the agent knows it from now on"),
        }
    }

    /// Asks for the next sentence that somebody in charge wants said, when the one before has been asked for.
    pub(super) fn say_next(&mut self) {
        if self.sayings.is_empty() || self.leaving.is_some() || self.turns.waits_for(Purpose::Operator) {
            return;
        }
        let Some(text) = self.sayings.pop_front() else { return };
        let ask = format!(
            "Somebody in charge of this call wants the caller to hear the following now. Say exactly these words, in the \
             language they are written in, and nothing else: \"{text}\""
        );
        let instructions = self.with_instructions(&ask);
        self.turns.want(Purpose::Operator, Some(instructions));
    }

    /// Before the call leaves the agent, who has to say so, this is to be said.
    fn want_last_words(&mut self, ask: &str) {
        let instructions = self.with_instructions(ask);
        self.turns.want_first(Purpose::LastWords, Some(instructions));
    }

    /// The agent is to know something that nobody has said. Without a session the next one is told with everything else.
    fn add_note(&mut self, now: CallTime, text: String) {
        let event_id = self.event_id("note");
        let Some(id) = self.own_item(&event_id) else { return };
        self.transcript.note(now, &id, &text);
        if self.model_open {
            self.outbox.model(ModelCommand::CreateItem { event_id, item: NewItem::SystemText { id, text } });
        }
    }

    /// An item's id is unique in the whole call, also when the call comes back on another stream.
    pub(super) fn own_item(&self, event_id: &str) -> Option<ItemId> {
        let stream = self.settings.stream;
        if stream > 1 {
            ItemId::parse(&format!("{event_id}-s{stream}")).ok()
        } else {
            ItemId::parse(event_id).ok()
        }
    }

    /// What was pressed so far is the one key that means that the other party does not want to be called again. Within an
    /// entry, also as its first digit, it is one like others.
    pub(super) fn is_opt_out(&self) -> bool {
        let entry = self.keys.strip_suffix('#').filter(|entry| !entry.is_empty()).unwrap_or(&self.keys);
        let mut entry = entry.chars();
        let alone = entry.next().filter(|_| entry.next().is_none());
        alone.is_some() && self.settings.can_opt_out && self.settings.opt_out_digit == alone
    }

    /// Somebody who presses the key and hangs up has said so.
    pub(super) fn opt_out_at_end(&mut self) {
        if self.is_opt_out() && !std::mem::replace(&mut self.opted_out, true) {
            self.outbox.push(Output::OptedOut(OptOut::Keypad));
        }
    }

    /// The other party does not want to be called again: on record at once, then confirmed, then the call ends. What they
    /// say over the goodbye takes that back, and nothing else.
    pub(super) fn on_opt_out(&mut self, now: CallTime, how: OptOut) {
        if !std::mem::replace(&mut self.opted_out, true) {
            self.outbox.push(Output::OptedOut(how));
        }
        if self.leaving.is_none() {
            self.want_to_leave(now, Leaving::because(EndReason::AgentEnded));
            self.want_last_words(OPTED_OUT);
        }
    }

    /// The same by a function: what it answers is confirmed by the last words, and not by an answer of its own.
    pub(super) fn on_opt_out_by_function(&mut self, now: CallTime, call: &ToolCallId) {
        self.on_opt_out(now, OptOut::Said);
        self.record_tool(call, FULFILLED);
        if self.model_open {
            let event_id = self.event_id("tool");
            let Ok(id) = ItemId::parse(&event_id) else { return };
            let item = NewItem::ToolOutput { id, call: call.clone(), output: FULFILLED.into() };
            self.outbox.model(ModelCommand::CreateItem { event_id, item });
        }
    }
}
