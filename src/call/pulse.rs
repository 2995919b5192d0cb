//! Whether the model is still there. A connection whose other end died brings nothing any more, not even its end.
//!
//! A model that has nothing to say is quiet, too, so it is asked, and a living one answers at once.

use std::time::Duration;

use crate::clock::CallTime;

/// Nothing came for so long: the model is asked whether it is there. More than twice as often would be noise, and less
/// often would be noticed by a caller who waits for an answer.
const QUIET: Duration = Duration::from_millis(1500);
/// Each of two questions waits for so long. Together it is a second, in which a question and its answer cross any network,
/// a lost packet included.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// So many in a row are left unanswered by a model that is gone. Of one answer alone it is not known whether it lies unread
/// in our own socket: the call looks at the time with everything that comes, a caller's audio too.
const UNANSWERED: u8 = 2;
/// Who looks so much too late has been held up, and with it, maybe, the model: a look like that does not count.
const HELD_UP: Duration = Duration::from_millis(250);

/// Signs of life of one session.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// When something came last.
    felt_at: CallTime,
    /// When it was asked last.
    asked_at: CallTime,
    /// Questions in a row that it had time to answer and did not.
    unanswered: u8,
}

/// What the time tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// It is to be asked.
    Ask,
    /// It does not answer.
    Gone,
}

impl Pulse {
    /// Something came, whatever it was.
    pub(super) const fn felt(&mut self, now: CallTime) {
        self.felt_at = now;
        self.unanswered = 0;
    }

    /// It has been asked and has not answered.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.asked_at > self.felt_at
    }

    /// When to look.
    pub(super) fn due(&self) -> CallTime {
        if self.is_in_doubt() { self.asked_at + ANSWER_WITHIN } else { self.felt_at + QUIET }
    }

    /// Looks; it is due.
    pub(super) fn check(&mut self, now: CallTime) -> Check {
        if self.is_in_doubt() && now.since(self.due()) < HELD_UP {
            self.unanswered += 1;
        }
        if self.unanswered == UNANSWERED {
            return Check::Gone;
        }
        self.asked_at = now;
        Check::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> CallTime {
        CallTime::from_millis(ms)
    }

    #[test]
    fn who_leaves_two_questions_unanswered_is_gone_two_and_a_half_seconds_after_the_last_sign() {
        let mut pulse = Pulse::default();
        pulse.felt(at(1_000));
        assert_eq!((pulse.due(), pulse.check(at(2_500))), (at(2_500), Check::Ask));
        assert_eq!((pulse.due(), pulse.check(at(3_000))), (at(3_000), Check::Ask));
        assert_eq!((pulse.due(), pulse.check(at(3_500))), (at(3_500), Check::Gone));
    }

    #[test]
    fn who_answers_is_asked_again_after_the_next_silence() {
        let mut pulse = Pulse::default();
        pulse.felt(at(1_000));
        assert_eq!(pulse.check(at(2_500)), Check::Ask);
        pulse.felt(at(2_500));
        assert_eq!((pulse.is_in_doubt(), pulse.due()), (false, at(4_000)));
        assert_eq!(pulse.check(at(4_000)), Check::Ask);
    }

    #[test]
    fn an_answer_read_after_the_first_look_is_an_answer() {
        let mut pulse = Pulse::default();
        pulse.felt(at(1_000));
        assert_eq!(pulse.check(at(2_500)), Check::Ask);
        assert_eq!(pulse.check(at(3_010)), Check::Ask, "the answer lies behind a frame of the caller");
        pulse.felt(at(3_010));
        assert_eq!(pulse.check(at(4_510)), Check::Ask);
        assert_eq!(pulse.check(at(5_010)), Check::Ask, "counted from the beginning again");
    }

    #[test]
    fn a_look_of_who_was_held_up_does_not_count() {
        let mut pulse = Pulse::default();
        pulse.felt(at(1_000));
        assert_eq!(pulse.check(at(2_500)), Check::Ask);
        assert_eq!(pulse.check(at(9_000)), Check::Ask, "the answer may lie unread, or not be written yet");
        assert_eq!(pulse.check(at(9_500)), Check::Ask);
        assert_eq!(pulse.check(at(10_000)), Check::Gone);
    }
}
