//! Whether a session has shown that its endpoint works.
//!
//! That it was opened says little: an endpoint may open sessions and break, stall or fail them at once. So a session is on
//! probation until its first answer is complete. Who loses it before is told so, for other calls to know, and the next
//! session of this call comes from elsewhere if there is an elsewhere.

use std::time::Duration;

use super::Call;
use super::ending::Phase;
use super::outbox::SessionAct;
use crate::clock::CallTime;

/// A session that breaks without having answered is lost early for so long. One that breaks later has mostly not been
/// asked for anything, and says of its endpoint what any long session says that breaks: nothing.
const EARLY: Duration = Duration::from_secs(30);

/// What the session in use has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Shown {
    #[default]
    Nothing,
    /// An answer was complete.
    ThatItServes,
    /// It was lost before.
    ThatItDoesNot,
}

/// What the last sessions of a call have shown.
#[derive(Debug, Default)]
pub(super) struct Probation {
    began: CallTime,
    shown: Shown,
    /// A session was lost early, and none has served since.
    elsewhere: bool,
}

impl Probation {
    /// Another session is in use.
    pub(super) const fn begin(&mut self, now: CallTime) {
        (self.began, self.shown) = (now, Shown::Nothing);
    }

    /// Whether the next session is to come from another endpoint than the one that was lost early.
    pub(super) const fn elsewhere(&self) -> bool {
        self.elsewhere
    }

    /// Whether a session that stood by since then and is gone was lost early. It was asked for nothing.
    pub(super) fn is_early(&mut self, now: CallTime, since: CallTime) -> bool {
        let early = now.since(since) < EARLY;
        self.elsewhere |= early;
        early
    }
}

impl Call {
    /// The session has given an answer as it should.
    pub(super) fn session_served(&mut self) {
        if self.phase == Phase::Talking && self.probation.shown == Shown::Nothing {
            self.probation.shown = Shown::ThatItServes;
            self.probation.elsewhere = false;
            self.outbox.session(SessionAct::Served);
        }
    }

    /// The session is gone, and nobody here has ended it.
    pub(super) fn session_broke(&mut self, now: CallTime) {
        if now.since(self.probation.began) < EARLY {
            self.session_failed();
        }
    }

    /// The session does not do what it is asked for, and what was asked is not to blame.
    pub(super) fn session_failed(&mut self) {
        if self.phase == Phase::Talking && self.probation.shown == Shown::Nothing {
            self.probation.shown = Shown::ThatItDoesNot;
            self.probation.elsewhere = true;
            self.outbox.session(SessionAct::LostEarly);
        }
    }
}
