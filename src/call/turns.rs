//! Who speaks: the caller's turns, and the one response the model may be making.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::CallTime;
use crate::ids::ResponseId;
use crate::wire::model::Purpose;

/// How long the model may leave a finished turn unanswered before it is asked to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Requests that wait for the slot. One of each purpose is enough, because a response answers all that came before.
const MAX_WAITING: usize = 9;
/// So many responses in a row that failed are too many.
const MAX_FAILURES: u32 = 4;
/// Interrupted responses whose late audio is still recognised; more than two at a time do not happen.
const MAX_DISCARDED: usize = 32;
/// Responses since the caller spoke last that are remembered; late audio of them is still theirs.
const MAX_KNOWN: usize = 16;

/// A response we want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) purpose: Purpose,
    pub(super) instructions: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Slot {
    Free,
    /// Asked for; the model has not said that it began.
    Requested {
        request: Request,
        event_id: String,
    },
    /// Ours was refused because another response runs, which has not been announced: its end is waited for.
    Unseen,
    Active {
        response: ResponseId,
        /// What it is taken to answer, until a refusal says otherwise.
        asked: Option<(Request, String)>,
        /// It is among the interrupted ones. Kept, because it is asked for with every frame.
        void: bool,
    },
}

/// What a response that is over was to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// It gave the caller something.
    Productive,
    /// It did not.
    Empty,
    /// It was over before, or nobody waited for it.
    Stale,
}

/// What follows from a response that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// It is asked for again after a pause.
    AskAgain,
    /// It is to be asked for again, but not in this session.
    AskAnotherSession,
    /// No session will do better.
    TooOften,
}

/// What a response that began means to us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Began {
    /// It speaks.
    Speaking,
    /// The caller speaks already: it must be cancelled.
    OverTheCaller,
}

/// Turns of one call.
#[derive(Debug)]
pub(super) struct Turns {
    slot: Slot,
    /// Since when the slot has shown no life.
    alive_at: CallTime,
    waiting: VecDeque<Request>,
    /// Interrupted responses, and whether they are over.
    discarded: VecDeque<(ResponseId, bool)>,
    /// Responses since the caller spoke last, and whether they are over.
    known: VecDeque<(ResponseId, bool)>,
    /// What the response that was over last had been asked for.
    last_asked: Option<Request>,
    caller_speaks: bool,
    /// Somebody may be speaking: nothing is asked for until that is known.
    held: bool,
    /// The model owes an answer to a finished turn, until then.
    owed_until: Option<CallTime>,
    /// The response that runs has been heard or has called a function.
    productive: bool,
    failures: u32,
    empties: u32,
    retry_at: Option<CallTime>,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            slot: Slot::Free,
            alive_at: CallTime::ZERO,
            waiting: VecDeque::new(),
            discarded: VecDeque::new(),
            known: VecDeque::new(),
            last_asked: None,
            caller_speaks: false,
            held: false,
            owed_until: None,
            productive: false,
            failures: 0,
            empties: 0,
            retry_at: None,
        }
    }

    /// The session is gone, and with it whatever ran. What was asked for is asked for again, unless it has been heard:
    /// `cut_off` says that part of it has. `heard_again`: the next session hears the turn itself. True: a response was
    /// neither cut off nor over, and had been of use already.
    pub(super) fn session_lost(&mut self, cut_off: bool, heard_again: bool) -> bool {
        let mut unfinished = false;
        match std::mem::replace(&mut self.slot, Slot::Free) {
            Slot::Requested { request, .. } => self.ask_first(request),
            Slot::Active { asked, void: false, .. } if !cut_off && !self.productive => {
                let again = Request { purpose: Purpose::Retry, instructions: None };
                self.ask_first(asked.map_or(again, |(request, _)| request));
            }
            Slot::Active { void: false, .. } => unfinished = !cut_off,
            Slot::Unseen => self.want(Purpose::Retry, None),
            Slot::Free | Slot::Active { .. } => {}
        }
        if self.owed_until.take().is_some() {
            self.want(Purpose::Retry, None);
        }
        if heard_again {
            // Whatever answers the turn comes when the next session has heard it.
            self.waiting.retain(|waiting| waiting.instructions.is_some());
        }
        // If what the next session hears is long enough to be a turn; the time for it begins with the session.
        let owed_again = std::mem::take(&mut self.caller_speaks) || heard_again;
        self.owed_until = owed_again.then_some(CallTime::FAR);
        self.known.clear();
        self.discarded.clear();
        (self.productive, self.retry_at) = (false, None);
        unfinished && self.waiting.is_empty() && !owed_again
    }

    /// Another session has begun, and has been given what the caller said meanwhile.
    pub(super) fn session_began(&mut self, now: CallTime) {
        self.owed_until = self.owed_until.map(|_| now + ANSWER_WITHIN);
    }

    /// A turn is finished and nothing of its answer has come.
    pub(super) fn owes_an_answer(&self) -> bool {
        let of_turn = |request: &Request| request.purpose == Purpose::Turn;
        self.owed_until.is_some()
            || self.waiting.iter().any(of_turn)
            || match &self.slot {
                Slot::Requested { request, .. } => of_turn(request),
                Slot::Active { asked, void, .. } => {
                    let of_turn = asked.as_ref().is_none_or(|(request, _)| of_turn(request));
                    of_turn && !void && !self.productive
                }
                Slot::Free | Slot::Unseen => false,
            }
    }

    /// Asks for a response before all others.
    pub(super) fn want_first(&mut self, purpose: Purpose, instructions: Option<String>) {
        self.ask_first(Request { purpose, instructions });
    }

    /// Asks for a response as soon as the slot is free and nobody speaks.
    pub(super) fn want(&mut self, purpose: Purpose, instructions: Option<String>) {
        if self.waiting.len() < MAX_WAITING && self.waiting.iter().all(|waiting| waiting.purpose != purpose) {
            self.waiting.push_back(Request { purpose, instructions });
        }
    }

    /// A response for this purpose is wanted and has not been asked for.
    pub(super) fn waits_for(&self, purpose: Purpose) -> bool {
        self.waiting.iter().any(|waiting| waiting.purpose == purpose)
    }

    /// What was wanted is not to be asked for yet: its time will come again.
    pub(super) fn defer(&mut self, purpose: Purpose) {
        self.waiting.retain(|waiting| waiting.purpose != purpose);
    }

    /// The next response to ask for, now. `event_id` will name it in errors.
    pub(super) fn next_request(
        &mut self,
        now: CallTime,
        event_id: impl FnOnce(Purpose) -> String,
    ) -> Option<(Request, String)> {
        if self.slot != Slot::Free
            || self.caller_speaks
            || self.held
            || self.owed_until.is_some()
            || self.retry_at.is_some()
        {
            return None;
        }
        let request = self.waiting.pop_front()?;
        if request.instructions.is_none() {
            // A response sees the whole conversation, so it serves everyone who waits without words of their own.
            self.waiting.retain(|other| other.instructions.is_some());
        }
        let event_id = event_id(request.purpose);
        self.slot = Slot::Requested { request: request.clone(), event_id: event_id.clone() };
        self.alive_at = now;
        Some((request, event_id))
    }

    /// The model began a response.
    pub(super) fn on_started(&mut self, now: CallTime, response: ResponseId) -> Began {
        if self.is_active(response.as_str()) {
            self.alive_at = now;
            return Began::Speaking; // Said before, and seen to.
        }
        if self.is_over(&response) {
            return Began::Speaking; // It ended before.
        }
        let asked = match std::mem::replace(&mut self.slot, Slot::Unseen) {
            Slot::Requested { request, event_id } => Some((request, event_id)),
            Slot::Free => {
                // The model answers by itself and sees everything that was added before.
                self.waiting.retain(|waiting| waiting.instructions.is_some());
                None
            }
            Slot::Unseen | Slot::Active { .. } => None,
        };
        let void = self.caller_speaks || self.is_discarded(response.as_str());
        self.slot = Slot::Active { response: response.clone(), asked, void };
        self.know(&response);
        self.alive_at = now;
        self.owed_until = None;
        self.productive = false;
        if self.caller_speaks {
            self.discard(response, false);
            return Began::OverTheCaller;
        }
        Began::Speaking
    }

    /// The response shows life; `productive` when the caller can hear it or it calls a function.
    pub(super) fn on_progress(&mut self, now: CallTime, productive: bool) {
        self.alive_at = now;
        self.productive |= productive;
    }

    /// The response is over.
    pub(super) fn on_done(&mut self, response: &ResponseId) -> Done {
        let discarded = self.is_discarded(response.as_str());
        if self.is_over(response) {
            return Done::Stale;
        }
        self.know(response);
        let heard_of = self.known.iter_mut().chain(&mut self.discarded);
        heard_of.filter(|(id, _)| id == response).for_each(|(_, over)| *over = true);
        let ours = match &self.slot {
            Slot::Active { response: own, .. } => own == response,
            Slot::Requested { .. } | Slot::Unseen => !discarded,
            Slot::Free => false,
        };
        if !ours {
            return Done::Stale;
        }
        self.last_asked = match std::mem::replace(&mut self.slot, Slot::Free) {
            Slot::Active { asked, .. } => asked.map(|(request, _)| request),
            Slot::Requested { request, .. } => Some(request),
            Slot::Free | Slot::Unseen => None,
        };
        if std::mem::take(&mut self.productive) { Done::Productive } else { Done::Empty }
    }

    /// Our request was refused because another response runs: it is asked for again when that one is over.
    ///
    /// The other one may have been announced before the refusal, and taken for the answer to our request.
    pub(super) fn on_busy(&mut self, event_id: &str) {
        let names = |own: &str| own == event_id || event_id.is_empty();
        let request = match &mut self.slot {
            Slot::Requested { request, event_id: own } if names(own) => {
                let request = request.clone();
                self.slot = Slot::Unseen;
                Some(request)
            }
            Slot::Active { asked, .. } => asked.take_if(|(_, own)| names(own)).map(|(request, _)| request),
            Slot::Requested { .. } | Slot::Free | Slot::Unseen => None,
        };
        // Nobody needs to be asked whether they are there while somebody speaks. A turn that the model answers by itself,
        // although it was told not to, is not to be answered twice.
        let served = |request: &Request| matches!(request.purpose, Purpose::Nudge | Purpose::Turn);
        if let Some(request) = request.filter(|request| !served(request)) {
            self.ask_first(request);
        }
    }

    /// Our request was refused for what it says. False: it was about something else.
    ///
    /// `unnamed`: it names none of our events, and means whatever was asked for.
    pub(super) fn on_refused(&mut self, refused: &str, unnamed: bool) -> bool {
        let Slot::Requested { request, event_id } = &mut self.slot else { return false };
        if event_id != refused && !unnamed {
            return false;
        }
        self.last_asked = Some(request.clone());
        self.slot = Slot::Free;
        true
    }

    /// Audio arrives. False: it is not for the caller. Also recognises a response that was not announced.
    pub(super) fn takes_audio(&mut self, now: CallTime, response: &str) -> bool {
        if let Slot::Active { response: own, void, .. } = &self.slot
            && own.as_str() == response
        {
            return !void;
        }
        if self.is_discarded(response) {
            return false;
        }
        let Ok(id) = ResponseId::parse(response) else { return false };
        if self.is_over(&id) {
            return true; // Late, but nobody has spoken since.
        }
        if !matches!(self.slot, Slot::Active { .. }) {
            return self.on_started(now, id) == Began::Speaking;
        }
        if self.caller_speaks {
            self.discard(id, false);
            return false;
        }
        self.know(&id);
        true
    }

    /// Somebody may be speaking, or it turned out that nobody does.
    pub(super) const fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// The caller began to speak: the running response is void.
    pub(super) fn caller_started(&mut self) -> Option<ResponseId> {
        self.caller_speaks = true;
        self.held = false;
        self.owed_until = None;
        for (response, over) in std::mem::take(&mut self.known) {
            self.discard(response, over);
        }
        let Slot::Active { response, void, .. } = &mut self.slot else { return None };
        *void = true;
        let response = response.clone();
        self.discard(response.clone(), false);
        Some(response)
    }

    /// The caller fell silent: the model owes an answer.
    pub(super) fn caller_stopped(&mut self, now: CallTime) {
        self.caller_speaks = false;
        self.owed_until = Some(now + ANSWER_WITHIN);
    }

    /// The caller's turn is in the conversation and is ours to have answered.
    pub(super) fn turn_is_complete(&mut self) {
        if self.owed_until.take().is_some() {
            self.want_turn();
        }
    }

    /// A turn is to be answered.
    pub(super) fn want_turn(&mut self) {
        self.want(Purpose::Turn, None);
    }

    /// The model did not answer: we ask it to.
    pub(super) fn answer_is_missing(&mut self) {
        self.owed_until = None;
        self.want(Purpose::Retry, None);
    }

    /// A response failed. It is asked for again after the pause; each session is given a second try, and the call a
    /// second session.
    pub(super) fn on_failed(&mut self, now: CallTime, pause: Duration) -> Failed {
        self.failures += 1;
        if self.failures >= MAX_FAILURES {
            return Failed::TooOften;
        }
        let instructions = self.last_asked.take().and_then(|request| request.instructions);
        self.ask_first(Request { purpose: Purpose::Retry, instructions });
        if self.failures == MAX_FAILURES / 2 {
            return Failed::AskAnotherSession;
        }
        self.retry_at = Some(now + pause);
        Failed::AskAgain
    }

    /// A response was completed without anything to hear. It is asked for once more; silence after that is left to
    /// the dead-air rule, because the model may mean it.
    pub(super) fn on_empty(&mut self) {
        self.empties += 1;
        if self.empties == 1 {
            let instructions = self.last_asked.take().and_then(|request| request.instructions);
            self.want(Purpose::Retry, instructions);
        }
    }

    /// The pause after a failure is over.
    pub(super) fn retry_now(&mut self) {
        self.retry_at = None;
    }

    /// A response did what it was for.
    pub(super) fn on_success(&mut self) {
        (self.failures, self.empties) = (0, 0);
    }

    pub(super) fn is_discarded(&self, response: &str) -> bool {
        self.discarded.iter().any(|(discarded, _)| discarded.as_str() == response)
    }

    /// Audio of this response is not for the caller any more.
    fn discard(&mut self, response: ResponseId, over: bool) {
        if self.is_discarded(response.as_str()) {
            return;
        }
        if self.discarded.len() == MAX_DISCARDED {
            self.discarded.pop_front();
        }
        self.discarded.push_back((response, over));
    }

    /// A response that the caller interrupted has not ended in all this time: it is waited for no longer. False: the
    /// response that shows no life is one that is wanted.
    pub(super) fn let_go_of_interrupted(&mut self) -> bool {
        let interrupted =
            matches!(&self.slot, Slot::Active { response, .. } if self.is_discarded(response.as_str()));
        if interrupted {
            self.slot = Slot::Free;
        }
        interrupted
    }

    fn ask_first(&mut self, request: Request) {
        self.waiting.retain(|waiting| waiting.purpose != request.purpose);
        self.waiting.truncate(MAX_WAITING - 1);
        self.waiting.push_front(request);
    }

    fn know(&mut self, response: &ResponseId) {
        if self.known.iter().any(|(known, _)| known == response) || self.is_discarded(response.as_str()) {
            return;
        }
        if self.known.len() == MAX_KNOWN {
            self.known.pop_front();
        }
        self.known.push_back((response.clone(), false));
    }

    fn is_over(&self, response: &ResponseId) -> bool {
        self.known.iter().chain(&self.discarded).any(|(id, over)| *over && id == response)
    }

    fn is_active(&self, response: &str) -> bool {
        matches!(&self.slot, Slot::Active { response: own, .. } if own.as_str() == response)
    }

    pub(super) fn caller_speaks(&self) -> bool {
        self.caller_speaks
    }

    /// Nobody speaks and nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        let nobody_speaks = !self.caller_speaks && !self.held;
        self.slot == Slot::Free && nobody_speaks && self.owed_until.is_none() && self.waiting.is_empty()
    }

    /// The response that runs and is wanted.
    pub(super) fn running(&self) -> Option<&ResponseId> {
        let Slot::Active { response, .. } = &self.slot else { return None };
        (!self.is_discarded(response.as_str())).then_some(response)
    }

    pub(super) fn response_runs(&self) -> bool {
        self.slot != Slot::Free
    }

    /// When a response has shown no life for too long.
    pub(super) fn stalled_at(&self, within: Duration) -> Option<CallTime> {
        (self.slot != Slot::Free).then(|| self.alive_at + within)
    }

    pub(super) fn answer_due(&self) -> Option<CallTime> {
        self.owed_until
    }

    pub(super) fn retry_at(&self) -> Option<CallTime> {
        self.retry_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(id: &str) -> ResponseId {
        ResponseId::parse(id).unwrap()
    }

    fn ask(turns: &mut Turns) -> Option<Purpose> {
        turns
            .next_request(CallTime::ZERO, |purpose| format!("resp-{}", purpose.as_str()))
            .map(|(request, _)| request.purpose)
    }

    #[test]
    fn one_response_at_a_time() {
        let mut turns = Turns::new();
        turns.want(Purpose::Greeting, None);
        assert_eq!(ask(&mut turns), Some(Purpose::Greeting));
        turns.want(Purpose::ToolResult, None);
        assert_eq!(ask(&mut turns), None);
        turns.on_started(CallTime::ZERO, response("r1"));
        assert_eq!(ask(&mut turns), None);
        turns.on_done(&response("r1"));
        assert_eq!(ask(&mut turns), Some(Purpose::ToolResult));
    }

    #[test]
    fn a_refused_request_waits_for_the_running_response() {
        let mut turns = Turns::new();
        turns.want(Purpose::Keypad, None);
        assert_eq!(ask(&mut turns), Some(Purpose::Keypad));
        turns.on_busy("resp-keypad");
        assert_eq!(ask(&mut turns), None, "asking again at once would be refused again");
        turns.on_started(CallTime::ZERO, response("r1"));
        assert_eq!(ask(&mut turns), None);
        turns.on_done(&response("r1"));
        assert_eq!(ask(&mut turns), Some(Purpose::Keypad), "that one began before the keys were told");
    }

    #[test]
    fn the_models_own_answer_serves_everyone_who_waited() {
        let mut turns = Turns::new();
        turns.caller_started();
        turns.want(Purpose::ToolResult, None);
        assert_eq!(ask(&mut turns), None);
        turns.caller_stopped(CallTime::ZERO);
        assert_eq!(ask(&mut turns), None, "the model answers the turn by itself");
        turns.on_started(CallTime::ZERO, response("r1"));
        turns.on_done(&response("r1"));
        assert_eq!(ask(&mut turns), None);
    }

    #[test]
    fn a_response_that_begins_while_the_caller_speaks_is_void() {
        let mut turns = Turns::new();
        turns.want(Purpose::Greeting, None);
        ask(&mut turns);
        turns.caller_started();
        assert_eq!(turns.on_started(CallTime::ZERO, response("r1")), Began::OverTheCaller);
        assert!(turns.is_discarded("r1"));
    }
}
