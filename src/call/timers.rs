//! Everything a call waits for, in one place.

use crate::clock::CallTime;

/// A reason to wake the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Timer {
    /// When to send the caller more audio.
    SendAudio,
    /// When to take an item as heard although its mark has not come back.
    FinishItem,
    /// When to give a stalled caller's turn silence, so that the model can close it.
    FillStall,
    /// When to let the agent go on although it is not clear what somebody said over it.
    Pause,
    /// When to give up on the model's session.
    ModelReady,
    /// When to try again to open one.
    OpenModel,
    /// When to see whether a quiet model is still there.
    Pulse,
    /// When to ask for the session that follows this one.
    NextModel,
    /// When to see whether it is still there.
    NextPulse,
    /// When to go over to it.
    Renew,
    /// When to leave for another server.
    Move,
    /// When to give up on a response that shows no life.
    Response,
    /// When to ask for the answer that the model left out.
    MissingAnswer,
    /// When to ask again after a failed response.
    Retry,
    /// When to close the oldest caller's turn without its text.
    Transcript,
    /// When to take the pressed keys as complete.
    Keypad,
    /// When to give up on the slowest function.
    Tool,
    /// When to ask whether anybody is there, or to give up asking.
    DeadAir,
    /// When the call has lasted as long as it may.
    MaxDuration,
    /// When to stop waiting for the last words to be played.
    Farewell,
    /// When to call a quiet stream lost.
    StreamSilence,
    /// When to stop waiting for the last texts.
    Linger,
}

const ALL: [Timer; 22] = [
    Timer::SendAudio,
    Timer::FinishItem,
    Timer::FillStall,
    Timer::Pause,
    Timer::ModelReady,
    Timer::OpenModel,
    Timer::Pulse,
    Timer::NextModel,
    Timer::NextPulse,
    Timer::Renew,
    Timer::Move,
    Timer::Response,
    Timer::MissingAnswer,
    Timer::Retry,
    Timer::Transcript,
    Timer::Keypad,
    Timer::Tool,
    Timer::DeadAir,
    Timer::MaxDuration,
    Timer::Farewell,
    Timer::StreamSilence,
    Timer::Linger,
];

/// One deadline a timer, or none.
#[derive(Debug)]
pub(super) struct Timers {
    at: [CallTime; ALL.len()],
    /// The earliest of them, which is asked for far more often than any is changed.
    next: CallTime,
}

impl Default for Timers {
    fn default() -> Self {
        Self { at: [CallTime::FAR; ALL.len()], next: CallTime::FAR }
    }
}

impl Timers {
    /// Sets those that are named; the others stay.
    pub(super) fn set<const N: usize>(&mut self, timers: [(Timer, Option<CallTime>); N]) {
        for (timer, at) in timers {
            self.at[timer as usize] = at.unwrap_or(CallTime::FAR);
        }
        self.look_for_next();
    }

    pub(super) fn clear_all(&mut self) {
        *self = Self::default();
    }

    /// The earliest deadline.
    pub(super) const fn next(&self) -> CallTime {
        self.next
    }

    /// Takes the first timer that is due, in the order of the list above.
    pub(super) fn pop_due(&mut self, now: CallTime) -> Option<Timer> {
        let due = ALL.into_iter().find(|timer| self.at[*timer as usize] <= now)?;
        self.at[due as usize] = CallTime::FAR;
        self.look_for_next();
        Some(due)
    }

    fn look_for_next(&mut self) {
        self.next = self.at.iter().fold(CallTime::FAR, |next, &at| next.min(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_timers_come_out_once_each() {
        let mut timers = Timers::default();
        timers.set([
            (Timer::Linger, Some(CallTime::from_millis(10))),
            (Timer::SendAudio, Some(CallTime::from_millis(20))),
            (Timer::DeadAir, Some(CallTime::from_millis(5))),
        ]);
        assert_eq!(timers.next(), CallTime::from_millis(5));
        timers.set([(Timer::DeadAir, None)]);
        assert_eq!(timers.next(), CallTime::from_millis(10));
        assert_eq!(timers.pop_due(CallTime::from_millis(25)), Some(Timer::SendAudio));
        assert_eq!(timers.pop_due(CallTime::from_millis(25)), Some(Timer::Linger));
        assert_eq!(timers.pop_due(CallTime::from_millis(25)), None);
        assert_eq!(timers.next(), CallTime::FAR);
    }
}
