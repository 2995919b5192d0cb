//! The model's session is lost in the middle of a call, and another one takes over.
//!
//! What the caller hears goes on from what has come already. Meanwhile what the caller says is kept, another session is
//! opened, told the conversation as it was heard, and asked for what the lost one still owed.

use std::time::Duration;

use super::end::EndReason;
use super::ending::Phase;
use super::outbox::{Note, SessionAct};
use super::settings::Settings;
use super::transcript::Remembered;
use super::{Call, Unavailable};
use crate::clock::CallTime;
use crate::ids::ItemId;
use crate::wire::model::{ModelCommand, NewItem, Purpose};

/// Tries to open one session. With the pauses between them they take less than four seconds, unless the endpoint does
/// not answer at all.
const MAX_TRIES: u32 = 5;
/// After the first try that failed; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// A session that breaks sooner was none: so many of them in a row are as many tries that failed.
const STABLE_AFTER: Duration = Duration::from_secs(1);
/// Items that a new session is told; the call's older ones are left out.
pub const MAX_REMEMBERED: usize = 200;
/// So many responses in a row, each in a session of its own, that showed no life: no session will do better.
const MAX_STALLS: u32 = 2;
/// Begins the ids of items that tell a new session what was said before.
pub(super) const SEED: &str = "seed-";

/// What a function of an earlier stream is said to have answered when it had not: nobody is left who would hear it.
const OUTCOME_UNKNOWN: &str = r#"{"error":"The line broke while this ran. It may have taken effect or not. Say so if it matters, and do not call it again unless the caller wants that."}"#;
/// To the first session of a stream that goes on with a call whose stream was lost.
const COME_BACK: &str = "The line broke for a moment and the caller is back on it. Begin with one short natural \
                         sentence that says so, then go on where the conversation stopped: answer what was asked last, \
                         or say again what the caller may have missed. Do not greet, and do not start over.";
/// To the first session of a stream on which the caller comes back from people who did not answer.
const HANDED_BACK: &str = "You put the caller through, nobody of the team answered, and the caller, who has heard it ring all \
                           the time, is back with you. Begin with one short sentence that says so and that you are \
                           sorry, then offer what you can do: take a message, have somebody call back, or help yourself. \
                           Do not greet, do not start over, and do not put them through again unless they ask for it.";
/// To a session that goes on where another one broke off.
const GO_ON: &str = "The connection broke while you were speaking. Your last message ends where the caller stopped \
                     hearing you. Go on from exactly there, in the middle of the sentence if need be. Do not greet, \
                     apologise, or repeat anything.";
/// The same when it broke off after a sentence.
const GO_ON_IF_MORE: &str = "The connection broke when your last message was complete and your answer perhaps was not. If \
                             you were about to do or to say more, do it now, without repeating anything. If not, say \
                             only in a few words that the caller may go on.";

/// Where an answer broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Broken {
    #[default]
    Nothing,
    /// More of what was being said was to come.
    InASentence,
    /// What was being said is complete; it is not known whether there was more to say or do.
    BetweenTwo,
}

/// How the call comes to a session, the first one or another.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// Sessions that have begun.
    begun: u32,
    /// Tries in a row that failed, sessions that broke at once included.
    failures: u32,
    /// When the session began.
    began: CallTime,
    /// Since when there is none.
    since: CallTime,
    /// Time without one in all earlier outages.
    spent: Duration,
    try_at: Option<CallTime>,
    /// Why the last one was lost, for the record of a call that finds no other.
    lost_to: Option<EndReason>,
    /// Responses in a row that showed no life.
    stalls: u32,
    /// An answer that had begun.
    broken: Broken,
    /// State of the generator of pauses.
    random: u64,
}

impl Recovery {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: seed, ..Self::default() }
    }

    pub(super) const fn try_at(&self) -> Option<CallTime> {
        self.try_at
    }

    /// When the call is given up without a session. All outages of a call share a budget.
    pub(super) fn give_up_at(&self, settings: &Settings) -> CallTime {
        if self.begun == 0 {
            return CallTime::ZERO + settings.model_ready_within;
        }
        self.since + settings.model_back_within.min(settings.outage_budget.saturating_sub(self.spent))
    }

    /// Before the next try: between half and all of a pause that doubles, so that the calls of a node do not all come
    /// back in the same moment.
    pub(super) fn pause(&mut self, failures: u32) -> Duration {
        self.spread(FIRST_PAUSE * 2_u32.pow(failures.saturating_sub(1).min(4)))
    }

    /// Between half and all of it.
    pub(super) fn spread(&mut self, whole: Duration) -> Duration {
        // SplitMix64: enough for spreading.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let part = 512 + ((mixed >> 32) % 512) as u32;
        whole * part / 1024
    }

    /// A response did what it was for.
    pub(super) const fn answered(&mut self) {
        self.stalls = 0;
    }
}

impl Call {
    /// The session is over, whoever ended it.
    pub(super) fn on_model_lost(&mut self, now: CallTime) {
        self.session_broke(now);
        self.lose_model(now, EndReason::ModelLost);
    }

    /// The session shows no life any more.
    pub(super) fn on_model_silent(&mut self, now: CallTime) {
        self.session_broke(now);
        self.lose_model(now, EndReason::ModelStalled);
    }

    /// A response shows no life. Another session may do better, once.
    pub(super) fn on_response_stalled(&mut self, now: CallTime) {
        self.session_failed();
        self.recovery.stalls += 1;
        if self.recovery.stalls >= MAX_STALLS {
            self.end(now, EndReason::ModelStalled);
        } else {
            self.on_model_silent(now);
        }
    }

    /// The session is of no more use. `why` is on record if no other one comes.
    pub(super) fn lose_model(&mut self, now: CallTime, why: EndReason) {
        if self.phase != Phase::Talking {
            self.model_open = false;
            return;
        }
        // All that this session may not have heard any more.
        self.leave_session(now, Duration::MAX);
        if self.leaving.is_some() {
            return; // Nothing more is wanted of it: the last words are being played.
        }
        self.outbox.note(Note::ModelLost);
        let recovery = &mut self.recovery;
        (recovery.since, recovery.try_at, recovery.lost_to) = (now, None, Some(why));
        let was_stable = now.since(recovery.began) >= STABLE_AFTER;
        if was_stable {
            recovery.failures = 0;
        }
        self.leave_next_in_doubt(now);
        if was_stable || self.renewal.has_next() {
            self.take_next(now);
        } else {
            self.phase = Phase::Connecting;
            self.on_model_unavailable(now, Unavailable::Failed);
        }
    }

    /// Lets go of the session: what came of it is heard to its end, what it owed will be asked for again, and what the
    /// caller says from now on is kept. So is what it was given in the last time `again`, up to the last turn that it
    /// closed.
    pub(super) fn leave_session(&mut self, now: CallTime, again: Duration) {
        self.model_open = false;
        self.forget_sounds(now);
        let cut_off = self.arriving.clone();
        self.complete_arriving();
        self.playout.complete_all();
        self.transcript.agent_unheard(|item| self.playout.holds(item));
        // A turn that was closed and neither answered nor written down is known by its sound alone.
        let unwritten = cut_off.is_none() && self.turns.owes_an_answer() && self.transcript.awaits_text();
        let heard_again = self.leaving.is_none() && self.caller_audio.hold(again, unwritten);
        if heard_again {
            // The next session hears it from its beginning.
            self.transcript.forget_unwritten(self.caller_audio.kept_from());
        }
        self.open_turn = None;
        self.transcript.session_lost(cut_off.as_ref());
        self.heard_so_far.clear();
        let unfinished = self.turns.session_lost(cut_off.is_some(), heard_again) && self.tools.is_idle();
        self.recovery.broken = match self.recovery.broken {
            _ if cut_off.is_some() => Broken::InASentence,
            Broken::Nothing if unfinished => Broken::BetweenTwo,
            broken => broken,
        };
    }

    /// No session came of the last try.
    pub(super) fn on_model_unavailable(&mut self, now: CallTime, why: Unavailable) {
        if self.phase != Phase::Connecting {
            return;
        }
        match why {
            Unavailable::Refused => return self.end(now, EndReason::ModelRefused),
            // A caller who has heard nothing yet is better served at once.
            Unavailable::NotTried if self.recovery.begun == 0 => return self.give_up_model(now),
            // Nothing was tried that could have failed; the time for it is bounded.
            Unavailable::NotTried => {}
            Unavailable::Failed => self.recovery.failures += 1,
        }
        if self.recovery.failures >= MAX_TRIES {
            self.give_up_model(now);
        } else {
            let pause = self.recovery.pause(self.recovery.failures.max(1));
            self.recovery.try_at = Some(now + pause);
        }
    }

    /// It is time for another try.
    pub(super) fn try_again(&mut self) {
        self.recovery.try_at = None;
        self.outbox.session(SessionAct::Open { elsewhere: self.probation.elsewhere() });
    }

    /// There is no session in all the time there was for it.
    pub(super) fn give_up_model(&mut self, now: CallTime) {
        self.end(now, self.recovery.lost_to.unwrap_or(EndReason::ModelUnavailable));
    }

    /// A session is ready. One that is not the first of the call is told what was said so far. True: it is the first.
    pub(super) fn begin_session(&mut self, now: CallTime, expires: CallTime) -> bool {
        self.pulse.felt(now);
        self.probation.begin(now);
        self.renewal.begin(now, expires);
        let recovery = &mut self.recovery;
        (recovery.began, recovery.try_at) = (now, None);
        recovery.begun += 1;
        if recovery.begun == 1 {
            if self.settings.stream <= 1 {
                self.remember(); // What the agent is to know was said before it came.
                return true;
            }
            if !self.settings.moved {
                let how = if self.settings.handed_back { HANDED_BACK } else { COME_BACK };
                let instructions = self.with_instructions(how);
                self.turns.want_first(Purpose::Resume, Some(instructions));
            }
            self.remember();
            return false;
        }
        if recovery.lost_to.take().is_some() {
            recovery.spent += now.since(recovery.since);
            self.outbox.note(Note::ModelBack);
        }
        let how = match std::mem::take(&mut self.recovery.broken) {
            Broken::Nothing => None,
            Broken::InASentence => Some(GO_ON),
            Broken::BetweenTwo => Some(GO_ON_IF_MORE),
        };
        if let Some(how) = how {
            let instructions = self.with_instructions(how);
            self.turns.want_first(Purpose::Resume, Some(instructions));
        }
        self.remember();
        false
    }

    /// Tells the model what was said and heard, and which functions run.
    fn remember(&mut self) {
        let playout = &self.playout;
        let mut remembered: Vec<_> = self.settings.history.iter().cloned().map(without_its_runner).collect();
        remembered.extend(self.transcript.remembered(|item| playout.received_ms(item)));
        let older = remembered.len().saturating_sub(MAX_REMEMBERED);
        for said in with_gaps_told_once(remembered.split_off(older)) {
            match said {
                Remembered::Caller(text) => self.seed(|id| NewItem::UserText { id, text }),
                Remembered::Agent(text) => self.seed(|id| NewItem::AgentText { id, text }),
                Remembered::Note(text) => self.seed(|id| NewItem::SystemText { id, text }),
                Remembered::Function { call, name, arguments, output } => {
                    let asked = call.clone();
                    self.seed(|id| NewItem::ToolCall { id, call: asked, name, arguments });
                    if let Some(output) = output {
                        self.seed(|id| NewItem::ToolOutput { id, call, output });
                    }
                }
            }
        }
    }

    /// The caller spoke over an answer that the session knows as one that was heard in full.
    pub(super) fn tell_cut(&mut self, item: &ItemId, heard_ms: u64, received_ms: u64) {
        if heard_ms == received_ms {
            return; // As far as it came.
        }
        let heard = self.transcript.words_until(item, heard_ms, received_ms);
        let text =
            format!("(The caller interrupted your last message and heard only this of it: \"{heard}\")");
        self.seed(|id| NewItem::UserText { id, text });
    }

    fn seed(&mut self, item: impl FnOnce(ItemId) -> NewItem) {
        self.event_ids += 1;
        let event_id = format!("{SEED}{}", self.event_ids);
        let id = ItemId::parse(&event_id).expect("a word and a number are an id");
        self.outbox.model(ModelCommand::CreateItem { event_id, item: item(id) });
    }
}

/// Puts a note where a caller's turn was not written down. Where the caller's next turns were not either, as without a
/// transcription model, it is one note for all of them: a session that is told the same after every answer takes it for
/// what the call is about. What was said last is what is to be answered now, and is told in its place.
fn with_gaps_told_once(remembered: Vec<Remembered>) -> Vec<Remembered> {
    let last = remembered.len().saturating_sub(1);
    let mut told = Vec::with_capacity(remembered.len());
    let mut gap: Option<(usize, u32)> = None;
    for (index, said) in remembered.into_iter().enumerate() {
        let is_lost = matches!(&said, Remembered::Caller(text) if text.is_empty());
        if !is_lost {
            gap = gap.filter(|_| !matches!(said, Remembered::Caller(_)));
            told.push(said);
            continue;
        }
        match &mut gap {
            Some((at, turns)) if index < last || *at + 1 == told.len() => {
                *turns += 1;
                told[*at] = Remembered::Caller(lost_words(*turns));
            }
            _ => {
                gap = Some((told.len(), 1));
                told.push(Remembered::Caller(lost_words(1)));
            }
        }
    }
    told
}

/// What caller's turns are to the next session that nobody could write down.
fn lost_words(turns: u32) -> String {
    match turns {
        1 => "(The caller said something here that was lost on the way.)".to_owned(),
        2 => "(What the caller said here and in the turn after this one was lost on the way.)".to_owned(),
        _ => {
            let after = turns - 1;
            format!(
                "(What the caller said here and in the {after} turns after this one was lost on the way.)"
            )
        }
    }
}

/// A function that ran when the stream before this one was lost.
fn without_its_runner(said: Remembered) -> Remembered {
    match said {
        Remembered::Function { call, name, arguments, output: None } => {
            Remembered::Function { call, name, arguments, output: Some(OUTCOME_UNKNOWN.to_owned()) }
        }
        said => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_spread() {
        let mut spread = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut recovery = Recovery::new(seed);
            for (failures, least_ms) in [(1, 125), (2, 250), (3, 500), (4, 1000)] {
                let pause = recovery.pause(failures);
                let least = Duration::from_millis(least_ms);
                assert!((least..2 * least).contains(&pause), "{pause:?} after {failures}");
                spread.insert(pause);
            }
        }
        assert!(spread.len() > 300, "{}", spread.len());
    }

    #[test]
    fn outages_share_the_budget_of_the_call() {
        let settings = Settings {
            model_ready_within: Duration::from_secs(10),
            model_back_within: Duration::from_secs(8),
            outage_budget: Duration::from_secs(20),
            ..Settings::new(super::super::tests::session())
        };
        let give_up_ms = |begun, spent_s| {
            let (since, spent) = (CallTime::from_millis(1_000), Duration::from_secs(spent_s));
            Recovery { begun, since, spent, ..Recovery::default() }.give_up_at(&settings).as_millis()
        };
        assert_eq!(give_up_ms(0, 0), 10_000);
        assert_eq!((give_up_ms(1, 0), give_up_ms(2, 17), give_up_ms(3, 21)), (9_000, 4_000, 1_000));
    }
}
