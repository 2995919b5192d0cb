//! What the model's end says and when, as a plain value.
//!
//! Most answers come at the pace of speech, 20 ms of audio every 20 ms, so that each frame's way can be timed. Now and
//! then one comes all at once, as real models send them, and the caller speaks over it: those time the barge-in.

use super::calls::Micros;
use super::mark::FRAME_MS;
use crate::simulate::random::Random;

const FRAME_US: Micros = 1_000 * FRAME_MS as Micros;
/// Length of an answer that comes at the pace of speech, in frames.
const PACED_FRAMES: (u64, u64) = (200, 400);
/// Length of an answer that comes at once, in frames.
const BURST_FRAMES: u64 = 160;
/// When the caller speaks over an answer that came at once.
const INTERRUPTED_AFTER_US: (u64, u64) = (500_000, 2_400_000);
/// From the end of an answer to the caller's next word, who hears it to its end.
const PAUSE_US: Micros = 400_000;
/// From the last sound the caller heard to the next word, if the bridge is late with the answer's end.
const BREATH_US: Micros = 100_000;
/// A bridge that is to be heard for so long after the end of an answer is not listened to any more. Longer than a busy
/// machine stalls: what the bridge is late with then is played at the pace of speech, and to speak over it would lose it.
const PATIENCE_US: Micros = 15_000_000;
/// Length of the caller's turn.
const TURN_US: Micros = 500_000;
/// From the end of the turn to the answer.
const THINK_US: Micros = 100_000;

/// Something to say now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// A response begins; its number.
    Begin(u32),
    /// So many frames of audio at once. `timed`: each is to be timed.
    Audio { frames: u64, timed: bool },
    /// The response is complete.
    Done,
    /// The caller began to speak. `over`: over an answer that is being played.
    SpeechStarted { over: bool },
    /// The caller stopped.
    SpeechStopped,
    /// The text of what the caller said.
    UserText,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Begin,
    Paced { left: u64 },
    Burst,
    PacedDone,
    BurstDone,
    HearingOut { by: Micros },
    SpeakingOver,
    CallerTurn,
    Thinking,
}

/// One conversation.
#[derive(Debug)]
pub(super) struct Talk {
    state: State,
    next_at: Micros,
    responses: u32,
    /// So that the interruptions of many calls fall on all times alike.
    head_start: u32,
    interrupt_every: u32,
    random: Random,
}

impl Talk {
    /// Every `interrupt_every`-th answer is spoken over, beginning with any of the first; none when 0.
    pub(super) fn new(mut random: Random, interrupt_every: u32) -> Self {
        let head_start = random.between(0, u64::from(interrupt_every.saturating_sub(1))) as u32;
        Self {
            state: State::Waiting,
            next_at: Micros::MAX,
            responses: 0,
            head_start,
            interrupt_every,
            random,
        }
    }

    /// A response was asked for, or is due by itself. True: it begins.
    pub(super) fn begin(&mut self, now: Micros) -> bool {
        let waiting = self.state == State::Waiting;
        if waiting {
            (self.state, self.next_at) = (State::Begin, now);
        }
        waiting
    }

    /// An answer is about to begin: it does so somewhat later.
    pub(super) fn hold_back(&mut self, now: Micros) {
        if self.state == State::Begin {
            self.next_at = self.next_at.max(now + BREATH_US);
        }
    }

    /// When [`Talk::poll`] has something to say again.
    pub(super) const fn next_at(&self) -> Micros {
        self.next_at
    }

    /// What is to be said by now, and since when; ask again until there is nothing. `quiet_at`: when the caller will
    /// have heard everything that the bridge has sent so far. `owed`: it has not sent everything.
    pub(super) fn poll(
        &mut self,
        now: Micros,
        quiet_at: Micros,
        owed: impl FnOnce() -> bool,
    ) -> Option<(Micros, Act)> {
        if let State::HearingOut { by } = self.state
            && self.next_at <= now
        {
            let heard_at = if owed() { quiet_at.max(now) } else { quiet_at };
            self.next_at = self.next_at.max((heard_at + BREATH_US).min(by));
        }
        let due = self.next_at;
        if due > now {
            return None;
        }
        let (act, next, wait) = match self.state {
            State::Waiting => return None,
            State::Begin => {
                self.responses += 1;
                let burst = self.interrupt_every > 0
                    && (self.responses + self.head_start).is_multiple_of(self.interrupt_every);
                let paced = State::Paced { left: self.random.between(PACED_FRAMES.0, PACED_FRAMES.1) };
                (Act::Begin(self.responses), if burst { State::Burst } else { paced }, 0)
            }
            State::Paced { left: 1 } => (Act::Audio { frames: 1, timed: true }, State::PacedDone, FRAME_US),
            State::Paced { left } => {
                (Act::Audio { frames: 1, timed: true }, State::Paced { left: left - 1 }, FRAME_US)
            }
            State::Burst => (Act::Audio { frames: BURST_FRAMES, timed: false }, State::BurstDone, 0),
            State::PacedDone => (Act::Done, State::HearingOut { by: now + PATIENCE_US }, PAUSE_US),
            State::BurstDone => {
                let wait = self.random.between(INTERRUPTED_AFTER_US.0, INTERRUPTED_AFTER_US.1);
                (Act::Done, State::SpeakingOver, wait)
            }
            State::HearingOut { .. } => (Act::SpeechStarted { over: false }, State::CallerTurn, TURN_US),
            State::SpeakingOver => (Act::SpeechStarted { over: true }, State::CallerTurn, TURN_US),
            State::CallerTurn => (Act::SpeechStopped, State::Thinking, THINK_US),
            State::Thinking => (Act::UserText, State::Begin, 0),
        };
        (self.state, self.next_at) = (next, due + wait);
        Some((due, act))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acts(interrupt_every: u32, until: Micros) -> Vec<(Micros, Act)> {
        let mut talk = Talk::new(Random::new(1), interrupt_every);
        assert_eq!(talk.poll(until, 0, || false), None, "nobody has asked yet");
        assert!(talk.begin(1_000));
        assert!(!talk.begin(2_000), "one response at a time");
        std::iter::from_fn(|| talk.poll(until, 0, || false)).collect()
    }

    #[test]
    fn timed_frames_are_due_every_20_ms_however_late_they_are_asked_for() {
        let all = acts(0, 60_000_000);
        assert_eq!(all[0], (1_000, Act::Begin(1)));
        let first: Vec<Micros> = all[1..]
            .iter()
            .map_while(|(at, act)| (*act == Act::Audio { frames: 1, timed: true }).then_some(*at))
            .collect();
        assert!((200..=400).contains(&first.len()));
        assert!(first.windows(2).all(|pair| pair[1] - pair[0] == 20_000));
        let timed = all.iter().filter(|(_, act)| matches!(act, Act::Audio { timed: true, .. })).count();
        assert!(timed > 2_300, "{timed} of 3000: nearly all the time somebody is to be heard");
        assert!(!all.iter().any(|(_, act)| *act == Act::SpeechStarted { over: true }));
    }

    #[test]
    fn every_third_answer_comes_at_once_and_is_spoken_over_while_it_plays() {
        let all = acts(3, 90_000_000);
        let bursts: Vec<usize> =
            (0..all.len()).filter(|&n| matches!(all[n].1, Act::Audio { timed: false, .. })).collect();
        assert!(bursts.len() >= 3, "{}", bursts.len());
        let numbers: Vec<u32> = bursts
            .iter()
            .map(|&n| match all[n - 1].1 {
                Act::Begin(number) => number,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(numbers[0] <= 3 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 3), "{numbers:?}");
        for n in bursts {
            let [burst, done, over] = [all[n], all[n + 1], all[n + 2]];
            assert_eq!(burst.1, Act::Audio { frames: BURST_FRAMES, timed: false });
            assert_eq!((done.1, over.1), (Act::Done, Act::SpeechStarted { over: true }));
            let after = over.0 - burst.0;
            assert!((500_000..BURST_FRAMES * FRAME_US - 500_000).contains(&after), "{after}");
        }
    }

    /// From the end of an answer to the caller's next word, if the bridge is late with it. `heard_us` tells from the end
    /// of the answer and the time now when all that has come will have been heard, and whether more is to come.
    fn waited_us(begun_at: Micros, heard_us: impl Fn(Micros, Micros) -> (Micros, bool)) -> Micros {
        let mut talk = Talk::new(Random::new(1), 0);
        talk.begin(0);
        let (mut now, mut ended_at) = (begun_at, 0);
        loop {
            let (quiet_at, owed) = heard_us(ended_at, now);
            match talk.poll(now, quiet_at, || owed) {
                Some((_, Act::Done)) => ended_at = now,
                Some((_, Act::SpeechStarted { over })) => {
                    assert!(!over);
                    return now - ended_at;
                }
                Some(_) => {}
                None => now = talk.next_at(),
            }
        }
    }

    #[test]
    fn the_caller_hears_a_late_answer_to_its_end_but_not_forever() {
        for (late_us, waited) in [(0, PAUSE_US), (900_000, 900_000 + BREATH_US), (60_000_000, PATIENCE_US)] {
            let found = waited_us(0, |ended_at, _| (ended_at + late_us, false));
            assert_eq!(found, waited, "late by {late_us}");
        }
        let until = |came_us| move |ended_at, now| (0, now < ended_at + came_us);
        let found = waited_us(0, until(2_000_000));
        assert!((2_000_000..2_000_000 + 2 * BREATH_US).contains(&found), "{found}");
        let never = waited_us(0, until(Micros::MAX / 2));
        assert_eq!(never, PATIENCE_US, "what does not come is waited for only so long");
    }

    #[test]
    fn a_machine_that_stalled_does_not_make_the_caller_impatient() {
        let stalled = 30_000_000;
        let found = waited_us(stalled, |ended_at, _| (ended_at + 6_000_000, false));
        assert_eq!(
            found,
            6_000_000 + BREATH_US,
            "all of the answer is sent at once, and heard at the pace of speech"
        );
    }

    #[test]
    fn what_is_held_back_begins_when_it_is_not_any_more() {
        let mut talk = Talk::new(Random::new(1), 0);
        talk.begin(0);
        talk.hold_back(50_000);
        assert_eq!(talk.poll(149_999, 0, || false), None);
        assert_eq!(talk.poll(150_000, 0, || false), Some((150_000, Act::Begin(1))));
        talk.hold_back(150_000);
        assert!(talk.poll(150_000, 0, || false).is_some(), "what has begun goes on");
    }
}
