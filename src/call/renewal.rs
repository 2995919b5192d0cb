//! A session may last only so long. Before its time is over another one is opened, which takes over between two turns:
//! neither side notices.
//!
//! The next session is told the conversation when it takes over, not before: it is told once and from the same state as
//! after a loss, and in a pause nobody waits for the milliseconds that this takes.

use std::time::Duration;

use super::Call;
use super::ending::Phase;
use super::outbox::{Note, SessionAct};
use super::pulse::{Check, Pulse};
use crate::clock::CallTime;

/// How long before its end a session's successor is opened; a quarter of its time where that is shorter. In five
/// minutes a conversation has many pauses.
const AHEAD: Duration = Duration::from_mins(5);
/// How long before its end a session is left without a pause; a twentieth of its time where that is shorter.
const LEAVE_BEFORE: Duration = Duration::from_secs(10);
/// Nobody has spoken for so long: it is a pause.
const PAUSE: Duration = Duration::from_millis(250);
/// What the next session hears of the time before the pause was found. A caller may have begun to speak without the
/// model having said so yet.
const HEARD_AGAIN: Duration = Duration::from_secs(1);

/// The next session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Next {
    /// There is none.
    #[default]
    None,
    /// It was asked for.
    Opening,
    /// It can take over.
    Ready {
        since: CallTime,
        /// When its own time is over.
        expires: CallTime,
    },
}

/// The time of the session that is in use, and its successor.
#[derive(Debug)]
pub(super) struct Renewal {
    next: Next,
    /// Whether the next one is still there: a connection may be dropped by the network without a word.
    pulse: Pulse,
    /// When to ask for the next one, or to ask again.
    open_at: CallTime,
    /// From then on it may take over while the last answer is still being played.
    hurry_at: CallTime,
    /// When to go over to it, pause or no pause.
    leave_at: CallTime,
    /// The same while the words of a turn are still to come.
    last_at: CallTime,
    expires: CallTime,
    /// Tries in a row that failed.
    failures: u32,
}

impl Renewal {
    pub(super) fn new() -> Self {
        let far = CallTime::FAR;
        Self {
            next: Next::None,
            pulse: Pulse::default(),
            open_at: far,
            hurry_at: far,
            leave_at: far,
            last_at: far,
            expires: far,
            failures: 0,
        }
    }

    /// A session has begun that may last until then.
    pub(super) fn begin(&mut self, now: CallTime, expires: CallTime) {
        *self = Self::new();
        if expires < CallTime::FAR {
            let time = expires.since(now);
            self.expires = expires;
            self.open_at = expires - AHEAD.min(time / 4);
            self.leave_at = expires - LEAVE_BEFORE.min(time / 20);
            self.last_at = expires - LEAVE_BEFORE.min(time / 20) / 2;
            self.hurry_at = self.leave_at - self.leave_at.since(self.open_at) / 2;
        }
    }

    /// When to ask for the next session.
    pub(super) fn opens_at(&self) -> Option<CallTime> {
        (self.next == Next::None && self.open_at < self.expires).then_some(self.open_at)
    }

    /// The next session stands by.
    pub(super) const fn is_ready(&self) -> bool {
        matches!(self.next, Next::Ready { .. })
    }

    /// Something came from the next session.
    pub(super) const fn felt_next(&mut self, now: CallTime) {
        self.pulse.felt(now);
    }

    /// When to see whether the next session is still there.
    pub(super) fn looks_at(&self) -> Option<CallTime> {
        self.is_ready().then(|| self.pulse.due())
    }

    /// It has been asked whether it is there and has not answered.
    fn is_in_doubt(&self) -> bool {
        self.is_ready() && self.pulse.is_in_doubt()
    }

    /// There is one, or one is being opened.
    pub(super) fn has_next(&self) -> bool {
        self.next != Next::None
    }

    /// The session that is in use is of no more use: what stands by, to take over.
    pub(super) fn take(&mut self) -> Next {
        let next = self.next;
        *self = Self::new();
        next
    }
}

impl Call {
    /// The session will be over before long: its successor is asked for.
    pub(super) fn open_next(&mut self) {
        self.renewal.next = Next::Opening;
        self.outbox.session(SessionAct::OpenNext { elsewhere: self.probation.elsewhere() });
    }

    /// The next session is as asked.
    pub(super) fn on_next_ready(&mut self, now: CallTime, expires: CallTime) {
        if self.renewal.next == Next::Opening {
            self.renewal.next = Next::Ready { since: now, expires };
            self.renewal.pulse = Pulse::default();
            self.renewal.pulse.felt(now);
            self.follow_caller();
        }
    }

    /// Nothing has come of the next session for a while.
    pub(super) fn on_quiet_next(&mut self, now: CallTime) {
        match self.renewal.pulse.check(now) {
            Check::Ask => self.outbox.session(SessionAct::PingNext),
            Check::Gone => self.on_no_next(now),
        }
    }

    /// The next session did not come, is gone again, or shows no life.
    pub(super) fn on_no_next(&mut self, now: CallTime) {
        if self.renewal.next != Next::None {
            self.leave_next(now);
            self.renewal.next = Next::None;
            self.renewal.failures += 1;
            self.renewal.open_at = now + self.recovery.pause(self.renewal.failures);
            self.follow_caller();
        }
    }

    /// What broke the connection of the session in use may have broken the next one's, too: one that does not answer is
    /// not relied upon.
    pub(super) fn leave_next_in_doubt(&mut self, now: CallTime) {
        if self.renewal.is_in_doubt() {
            self.leave_next(now);
            self.renewal.next = Next::None;
        }
    }

    fn leave_next(&mut self, now: CallTime) {
        if let Next::Ready { since, .. } = self.renewal.next {
            let early = self.probation.is_early(now, since);
            self.outbox.session(SessionAct::LeaveNext { early });
        }
    }

    /// When to ask for the next session. None is wanted by an agent who says goodbye.
    pub(super) fn opens_next_at(&self) -> Option<CallTime> {
        self.renewal.opens_at().filter(|_| self.leaving.is_none())
    }

    /// When to look whether the next session can take over.
    pub(super) fn renews_at(&self) -> Option<CallTime> {
        if !self.renewal.is_ready() || self.leaving.is_some() {
            return None;
        }
        let renewal = &self.renewal;
        let in_doubt = renewal.is_in_doubt();
        let in_a_pause = self.nothing_is_open() && !in_doubt;
        let quiet_at = if in_a_pause { self.quiet_at().min(renewal.hurry_at) } else { CallTime::FAR };
        // Words that the caller has said already are worth a moment more: nobody else can write them down. So is it to know
        // that the next session lives.
        let wait = in_doubt || self.awaits_words() && !self.turns.caller_speaks();
        Some(quiet_at.min(if wait { renewal.last_at } else { renewal.leave_at }))
    }

    /// Goes over to the next session if it is there and nobody notices, or it is high time.
    pub(super) fn renew_in_a_pause(&mut self, now: CallTime) {
        if self.phase == Phase::Talking && self.renews_at().is_some_and(|at| at <= now) {
            self.outbox.note(Note::ModelRenewed);
            self.leave_session(now, HEARD_AGAIN);
            self.take_next(now);
        }
    }

    /// Keeps what the caller says, although it is sent, while another session may have to hear it.
    pub(super) fn follow_caller(&mut self) {
        self.caller_audio.follow(self.renewal.is_ready() || self.pulse.is_in_doubt());
    }

    /// Whatever there is of a next session becomes the one in use.
    pub(super) fn take_next(&mut self, now: CallTime) {
        self.phase = Phase::Connecting;
        let next = self.renewal.take();
        if next == Next::None {
            return self.try_again();
        }
        self.outbox.session(SessionAct::UseNext);
        if let Next::Ready { expires, .. } = next {
            self.begin_talk(now, expires);
        }
    }

    /// Nobody speaks or owes anything, and every word is written down.
    pub(super) fn nothing_is_open(&self) -> bool {
        self.turns.is_idle()
            && !self.is_spoken_over()
            && self.tools.is_idle()
            && self.arriving.is_none()
            && self.keys.is_empty()
            && !self.awaits_words()
    }

    fn awaits_words(&self) -> bool {
        self.settings.session.transcription.is_some() && self.transcript.awaits_text()
    }

    /// When a pause has lasted long enough, if nobody speaks until then.
    fn quiet_at(&self) -> CallTime {
        self.last_activity.max(self.playout.quiet_at()) + PAUSE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_renewed_five_minutes_before_its_end_and_half_a_minute_in_its_last_quarter() {
        let times = |from_ms, expires_ms| {
            let mut renewal = Renewal::new();
            renewal.begin(CallTime::from_millis(from_ms), CallTime::from_millis(expires_ms));
            (renewal.opens_at().unwrap().as_millis(), renewal.leave_at.as_millis())
        };
        assert_eq!(times(0, 3_600_000), (3_300_000, 3_590_000));
        assert_eq!(times(10_000, 40_000), (32_500, 38_500));
    }

    #[test]
    fn a_session_of_unknown_duration_is_not_renewed() {
        let mut renewal = Renewal::new();
        renewal.begin(CallTime::ZERO, CallTime::FAR);
        assert_eq!(renewal.opens_at(), None);
    }
}
