//! A sound over the agent: is it an interruption?
//!
//! The agent is paused as soon as the model notices the sound, because nobody knows yet. Three things are looked at: how
//! long the caller's voice lasts, measured on the caller's audio itself; the words, as soon as there are any; and whether
//! the sound may be an echo of our own. A sign of listening ("mm-hm") or a cough lets the agent go on from where it was
//! paused, and stays in the conversation without an answer. Its words may still turn out to be more than that: they come
//! late, often half a second after the sound.
//!
//! Here it is only judged. What follows is done in [`super::over_agent`].

use std::collections::VecDeque;
use std::time::Duration;

use super::timing::{Judgement, Verdict, Why};
use super::words;
use crate::audio::level::Decibels;
use crate::clock::CallTime;
use crate::ids::ItemId;

/// So much of the caller's audio is judged at a time: a usual frame.
const PIECE_BYTES: usize = 160;
/// mu-law at 8 kHz.
const BYTES_PER_MS: u64 = 8;
/// Sound this loud may be voice: above idle lines (around -60), below quiet speakers (around -35).
const VOICE: Decibels = Decibels(-45.0);
/// While our own audio can come back as an echo, voice must be louder. Speech on telephone lines has about -26 dBFS; a
/// line or a loudspeaker that returns it 10 dB weaker, without any canceller, stays below this, and a speaker 9 dB below
/// the usual level does not.
// Nominal level: ITU-T P.56 and G.168 speak of -26 dBov.
const VOICE_OVER_OURS: Decibels = Decibels(-35.0);
/// An echo outlasts its cause by the way there and back, which the playout ledger measures, and by this much of rooms and
/// handsets.
const ECHO_TAIL: Duration = Duration::from_millis(250);
/// So much voice of somebody who began while nothing of ours was to be heard interrupts: more than a word.
const INTERRUPTS_AFTER: Duration = Duration::from_millis(600);
/// The same of somebody who began over our audio: the slowest "mm-hm" of our recordings has 840 ms. It costs nobody
/// anything, for the agent is silent meanwhile.
const INTERRUPTS_OVER_OURS_AFTER: Duration = Duration::from_millis(900);
/// So much quiet after the voice lets the agent go on. Closures and pauses between the words of a sentence are mostly
/// shorter; the model waits longer than that until it calls a turn over, with semantic turn detection up to 8 s.
const QUIET_AFTER: Duration = Duration::from_millis(300);
/// Voice from before the model noticed it counts up to this: so long it takes to notice.
const NOTICED_WITHIN: Duration = Duration::from_millis(400);
/// Voice that shows that a sound is no echo, or that somebody speaks on: two frames, which no click fills.
const SOME_VOICE: Duration = Duration::from_millis(40);
/// A sound that may be an echo and goes on for so long: the agent is paused, to hear whether it stops.
const PROBE_AFTER: Duration = Duration::from_secs(1);
/// Caller audio older than this says nothing about now.
const MEASURED_WITHIN: Duration = Duration::from_millis(200);
/// No pause is longer: whoever has said nothing by then is not interrupting.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Less of a finished answer than this is left: the caller is not listening on but answering.
pub(super) const NEARLY_SAID: Duration = Duration::from_secs(1);
/// Turns that were let pass and whose words may still come.
const MAX_PASSED: usize = 8;

/// What follows from what was heard.
#[derive(Debug, PartialEq)]
pub(super) enum Act {
    Nothing,
    /// Somebody may be interrupting.
    Pause,
    /// Nobody does.
    Resume(Judgement),
    /// Somebody does. `over`: they have finished, so that the turn can be answered.
    Confirm {
        judgement: Judgement,
        over: Option<CallTime>,
    },
}

/// Levels of the caller's audio, as far as they matter.
#[derive(Debug)]
struct Ear {
    heard_at: Option<CallTime>,
    /// Voice since there was none for long.
    voice: Duration,
    unvoiced: Duration,
    loudest: Decibels,
    /// Sound since it was last quiet for long, be it an echo or not.
    sound: Duration,
    quiet: Duration,
}

impl Default for Ear {
    fn default() -> Self {
        let none = Duration::ZERO;
        let loudest = Decibels::SILENCE;
        Self { heard_at: None, voice: none, unvoiced: none, loudest, sound: none, quiet: none }
    }
}

impl Ear {
    fn hear(&mut self, at: CallTime, length: Duration, level: Decibels, sounds: bool, voice: bool) {
        if self.heard_at.is_some_and(|last| at.since(last) > MEASURED_WITHIN) {
            *self = Self::default();
        }
        self.heard_at = Some(at);
        if voice {
            self.unvoiced = Duration::ZERO;
            self.loudest = Decibels(self.loudest.0.max(level.0));
        } else {
            self.unvoiced += length;
        }
        if voice || sounds && self.voice >= SOME_VOICE {
            self.voice += length;
        }
        if self.unvoiced >= QUIET_AFTER {
            (self.voice, self.loudest) = (Duration::ZERO, Decibels::SILENCE);
        }
        if sounds {
            (self.sound, self.quiet) = (self.sound + length, Duration::ZERO);
        } else {
            self.quiet += length;
        }
        if self.quiet >= QUIET_AFTER {
            self.sound = Duration::ZERO;
        }
    }
}

/// Where a sound over the agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It may be an echo: the agent speaks on.
    Doubted,
    /// The agent waits.
    Paused { since: CallTime },
    /// The agent speaks on, the model has not called the turn over.
    LetPass,
}

/// A turn over the agent that is being spoken.
#[derive(Debug)]
struct Sound {
    item: ItemId,
    state: State,
    noticed: CallTime,
    /// It began while our audio could be heard.
    over_ours: bool,
    voice: Duration,
    /// Since it was let pass, or doubted.
    again: Duration,
    sound: Duration,
    quiet: Duration,
    loudest: Decibels,
    words: String,
    /// It is to be answered although the agent goes on.
    to_answer: bool,
}

/// A turn that was let pass.
#[derive(Debug)]
struct Passed {
    item: ItemId,
    noticed: CallTime,
    stopped: CallTime,
    voice: Duration,
    loudest: Decibels,
    words: String,
    to_answer: bool,
}

/// Judges the sounds over the agent of one call.
#[derive(Debug, Default)]
pub(super) struct BargeIn {
    ear: Ear,
    sound: Option<Sound>,
    passed: VecDeque<Passed>,
}

impl BargeIn {
    /// Caller audio of which the last sample was heard now. Our own may come back until `echoes_until`.
    pub(super) fn on_audio(&mut self, now: CallTime, ulaw: &[u8], echoes_until: CallTime) -> Act {
        let mut left = ulaw.len();
        let mut act = Act::Nothing;
        for piece in ulaw.chunks(PIECE_BYTES) {
            left -= piece.len();
            let at = now - length(left);
            let over_ours = at < echoes_until + ECHO_TAIL;
            self.hear(at, length(piece.len()), Decibels::of_ulaw(piece), over_ours);
            if act == Act::Nothing {
                act = self.weigh(now);
            }
        }
        act
    }

    fn hear(&mut self, at: CallTime, length: Duration, level: Decibels, over_ours: bool) {
        let sounds = level >= VOICE;
        let voice = level >= if over_ours { VOICE_OVER_OURS } else { VOICE };
        self.ear.hear(at, length, level, sounds, voice);
        let Some(sound) = &mut self.sound else { return };
        // Once it is known whose voice it is, its soft parts count, too.
        let is_theirs = matches!(sound.state, State::Paused { .. }) && sound.voice >= SOME_VOICE;
        if voice || sounds && is_theirs {
            sound.voice += length;
        }
        if voice {
            sound.again += length;
            sound.loudest = Decibels(sound.loudest.0.max(level.0));
        }
        if sounds {
            sound.sound += length;
        }
        // What may be an echo is neither voice nor quiet.
        if voice {
            sound.quiet = Duration::ZERO;
        } else if !sounds {
            sound.quiet += length;
        }
    }

    /// What the levels say of the sound.
    fn weigh(&mut self, now: CallTime) -> Act {
        let Some(sound) = &mut self.sound else { return Act::Nothing };
        match sound.state {
            State::Doubted if sound.again >= SOME_VOICE || sound.sound >= PROBE_AFTER => sound.pause(now),
            State::LetPass if sound.again >= SOME_VOICE => sound.pause(now),
            State::Paused { .. } if sound.voice >= sound.interrupts_after() => self.confirm(now, Why::Length),
            State::Paused { .. } if sound.quiet >= QUIET_AFTER => {
                let why = sound.why_not();
                sound.let_pass(now, why)
            }
            _ => Act::Nothing,
        }
    }

    /// The model says that somebody speaks, and there is something to speak over.
    pub(super) fn on_started(&mut self, now: CallTime, item: &ItemId, echoes_until: CallTime) -> Act {
        if let Some(sound) = &mut self.sound {
            sound.item = item.clone(); // Said again: the same sound.
            return Act::Nothing;
        }
        let over_ours = now < echoes_until + ECHO_TAIL;
        let measured = self.ear.heard_at.is_some_and(|at| now.since(at) <= MEASURED_WITHIN);
        if !measured {
            self.ear = Ear::default();
        }
        // What cannot be measured is believed.
        let doubted = measured && over_ours && self.ear.voice < SOME_VOICE;
        let sound = self.sound.insert(Sound {
            item: item.clone(),
            state: State::Doubted,
            noticed: now,
            over_ours,
            voice: self.ear.voice.min(NOTICED_WITHIN),
            again: self.ear.voice.min(NOTICED_WITHIN),
            sound: self.ear.sound.min(NOTICED_WITHIN),
            quiet: Duration::ZERO,
            loudest: self.ear.loudest,
            words: String::new(),
            to_answer: false,
        });
        if doubted { Act::Nothing } else { sound.pause(now) }
    }

    /// The model calls the turn over; `at` is when its last sound was heard. `None`: it is a turn like any other.
    pub(super) fn on_stopped(&mut self, now: CallTime, at: CallTime) -> Option<Act> {
        let mut sound = self.sound.take()?;
        let act = match sound.state {
            State::Paused { .. } => {
                let why = sound.why_not();
                sound.let_pass(now, why)
            }
            State::Doubted => Act::Resume(sound.judgement(now, Verdict::Resumed, Why::Echo)),
            State::LetPass => Act::Nothing,
        };
        if self.passed.len() == MAX_PASSED {
            self.passed.pop_front();
        }
        let Sound { item, noticed, voice, loudest, words, to_answer, .. } = sound;
        self.passed.push_back(Passed { item, noticed, stopped: at, voice, loudest, words, to_answer });
        Some(act)
    }

    /// Words of a turn; `finished`: all of them, else more of them. `leaving`: the agent is saying goodbye.
    pub(super) fn on_words(
        &mut self,
        now: CallTime,
        item: &ItemId,
        text: &str,
        finished: bool,
        leaving: bool,
    ) -> Act {
        let add = |words: &mut String| {
            if finished {
                words.clear();
            }
            words.push_str(text);
            words::interrupt(words, finished, leaving)
        };
        if let Some(sound) = self.sound.as_mut().filter(|sound| sound.item == *item) {
            return if add(&mut sound.words) { self.confirm(now, Why::Words) } else { Act::Nothing };
        }
        let waits = |passed: &Passed| passed.item == *item && !passed.to_answer;
        let Some(index) = self.passed.iter().position(waits) else { return Act::Nothing };
        if !add(&mut self.passed[index].words) {
            if finished {
                self.passed.remove(index);
            }
            return Act::Nothing;
        }
        if self.sound.is_some() {
            return self.confirm(now, Why::Words); // They speak on.
        }
        let Some(passed) = self.passed.remove(index) else { return Act::Nothing };
        self.passed.clear();
        let judgement = Judgement {
            item: passed.item,
            noticed: passed.noticed,
            paused: None,
            judged: now,
            verdict: Verdict::Confirmed,
            why: Why::Words,
            voice: passed.voice,
            loudest: passed.loudest,
        };
        Act::Confirm { judgement, over: Some(passed.stopped) }
    }

    /// There has been time enough.
    pub(super) fn on_due(&mut self, now: CallTime) -> Act {
        let Some(sound) = &mut self.sound else { return Act::Nothing };
        if sound.due().is_some_and(|due| due <= now) {
            sound.let_pass(now, Why::Unclear)
        } else {
            Act::Nothing
        }
    }

    /// When to call [`Self::on_due`].
    pub(super) fn due(&self) -> Option<CallTime> {
        self.sound.as_ref().and_then(Sound::due)
    }

    /// The turn that is being spoken, or was let pass last, is to be answered.
    pub(super) fn answer_later(&mut self) {
        if let Some(sound) = &mut self.sound {
            sound.to_answer = true;
        } else if let Some(passed) = self.passed.back_mut() {
            passed.to_answer = true;
        }
    }

    /// A turn is in the conversation. True: it was let pass, and is to be answered nevertheless.
    pub(super) fn on_committed(&mut self, item: &ItemId) -> bool {
        let answered = |passed: &Passed| passed.item == *item && passed.to_answer;
        let index = self.passed.iter().position(answered);
        index.is_some_and(|index| self.passed.remove(index).is_some())
    }

    /// The caller takes a turn. Whatever was let pass before is answered with it.
    pub(super) fn turn_began(&mut self) {
        self.passed.clear();
    }

    /// The model's session is gone, and what it noticed with it.
    pub(super) fn session_lost(&mut self, now: CallTime) -> Act {
        self.passed.clear();
        match self.sound.take() {
            Some(sound) if matches!(sound.state, State::Paused { .. }) => {
                Act::Resume(sound.judgement(now, Verdict::Resumed, Why::ModelLost))
            }
            _ => Act::Nothing,
        }
    }

    /// A turn is being spoken that is not known to be an interruption.
    pub(super) const fn is_open(&self) -> bool {
        self.sound.is_some()
    }

    fn confirm(&mut self, now: CallTime, why: Why) -> Act {
        self.turn_began();
        let Some(sound) = self.sound.take() else { return Act::Nothing };
        Act::Confirm { judgement: sound.judgement(now, Verdict::Confirmed, why), over: None }
    }
}

impl Sound {
    fn pause(&mut self, now: CallTime) -> Act {
        self.state = State::Paused { since: now };
        self.quiet = Duration::ZERO;
        Act::Pause
    }

    fn let_pass(&mut self, now: CallTime, why: Why) -> Act {
        let judgement = self.judgement(now, Verdict::Resumed, why);
        self.state = State::LetPass;
        self.again = Duration::ZERO;
        Act::Resume(judgement)
    }

    /// Why it did not interrupt although there was sound.
    fn why_not(&self) -> Why {
        if self.voice < SOME_VOICE && self.sound >= SOME_VOICE { Why::Echo } else { Why::Short }
    }

    const fn interrupts_after(&self) -> Duration {
        if self.over_ours { INTERRUPTS_OVER_OURS_AFTER } else { INTERRUPTS_AFTER }
    }

    fn due(&self) -> Option<CallTime> {
        if let State::Paused { since } = self.state { Some(since + LONGEST_PAUSE) } else { None }
    }

    fn judgement(&self, now: CallTime, verdict: Verdict, why: Why) -> Judgement {
        let paused = if let State::Paused { since } = self.state { Some(since) } else { None };
        Judgement {
            item: self.item.clone(),
            noticed: self.noticed,
            paused,
            judged: now,
            verdict,
            why,
            voice: self.voice,
            loudest: self.loudest,
        }
    }
}

const fn length(bytes: usize) -> Duration {
    Duration::from_micros(bytes as u64 * 1000 / BYTES_PER_MS)
}
