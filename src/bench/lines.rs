//! Calls that come and go, each compared with its transcript when it is over.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::calls::{Call, Tally, lock};
use super::measure::Subject;
use super::records::{Records, Verdict};
use super::rig::{LOST_AFTER, Rig};
use crate::simulate::random::Random;

/// How long a call lasts.
const CALL_S: (u64, u64) = (30, 180);
/// What is sent in the last second of a call may be cut off with it. What was sent before is waited for.
const NEARLY_OVER: Duration = Duration::from_secs(1);
/// At the end callers hang up one after the other: all at once they would need as many connections for what they tell
/// the bridge afterwards, and those stay open for a while, which looks like a leak.
const HANG_UP_EVERY: Duration = Duration::from_millis(10);

/// Calls that come and go.
pub(super) struct Lines<'a> {
    pub(super) rig: &'a mut Rig,
    subject: &'a Subject,
    checks: &'a Checks,
    live: Vec<Live>,
    /// Of all calls, also of those that were hung up.
    tasks: TaskTracker,
    /// Calls that were dialed.
    pub(super) carried: u64,
    random: Random,
}

impl<'a> Lines<'a> {
    pub(super) fn new(rig: &'a mut Rig, subject: &'a Subject, checks: &'a Checks, seed: u64) -> Self {
        let (tasks, random) = (TaskTracker::new(), Random::new(seed));
        Self { rig, subject, checks, live: Vec::new(), tasks, carried: 0, random }
    }

    /// Calls that are on or being set up.
    pub(super) const fn busy(&self) -> usize {
        self.live.len()
    }

    /// Places one more call.
    pub(super) fn dial(&mut self) {
        let (hang_up, keep_said) = (CancellationToken::new(), self.checks.records.can_be_asked());
        let call = self.rig.dial_one(&self.tasks, hang_up.clone(), &self.subject.dialing, keep_said);
        let lasts = Duration::from_secs(self.random.between(CALL_S.0, CALL_S.1));
        self.live.push(Live { call, hang_up, end: End::new(Instant::now() + lasts) });
        self.carried += 1;
    }

    /// Hangs up whose time is over; ask often.
    pub(super) fn end_what_is_due(&mut self) {
        let now = Instant::now();
        let rig = &*self.rig;
        self.live.retain_mut(|live| match live.end.due(now, || rig.is_owed(&live.call)) {
            Some(Due::HangUp) => {
                live.hang_up.cancel();
                self.checks.begin(Arc::clone(&live.call));
                false
            }
            Some(Due::LetEnd) => {
                rig.let_end(&live.call);
                true
            }
            None => true,
        });
    }

    /// Ends all calls; returns what was counted since it was asked for last.
    pub(super) async fn finish(&mut self) -> Tally {
        self.rig.close_window().await;
        for over in self.live.drain(..) {
            over.hang_up.cancel();
            self.checks.begin(over.call);
            sleep(HANG_UP_EVERY).await;
        }
        self.rig.wait_for(&self.tasks).await
    }
}

/// A call that is on.
struct Live {
    call: Arc<Call>,
    hang_up: CancellationToken,
    end: End,
}

/// When a call ends.
#[derive(Debug)]
struct End {
    at: Instant,
    /// Since when its frames do not count any more.
    let_end: Option<Instant>,
}

/// What is to be done about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    LetEnd,
    HangUp,
}

impl End {
    const fn new(at: Instant) -> Self {
        Self { at, let_end: None }
    }

    /// Frames stop to count at least [`NEARLY_OVER`] before the caller hangs up, however late this is asked, and until
    /// [`LOST_AFTER`] the caller does not hang up while some are on their way.
    fn due(&mut self, now: Instant, is_owed: impl FnOnce() -> bool) -> Option<Due> {
        match self.let_end {
            None if self.at <= now + NEARLY_OVER => {
                self.let_end = Some(now);
                Some(Due::LetEnd)
            }
            Some(since) if self.at.max(since + NEARLY_OVER) <= now => {
                (since + LOST_AFTER <= now || !is_owed()).then_some(Due::HangUp)
            }
            _ => None,
        }
    }
}

/// Comparisons of transcripts, each in a task of its own.
pub(super) struct Checks {
    pub(super) records: Arc<Records>,
    tasks: TaskTracker,
    pub(super) verdict: Arc<Mutex<Verdict>>,
}

impl Checks {
    pub(super) fn new(records: Records) -> Self {
        Self { records: Arc::new(records), tasks: TaskTracker::new(), verdict: Arc::default() }
    }

    /// Compares the transcript of a call that is being hung up.
    fn begin(&self, call: Arc<Call>) {
        if self.records.can_be_asked() {
            let (records, verdict) = (Arc::clone(&self.records), Arc::clone(&self.verdict));
            self.tasks.spawn(async move {
                let found = records.compare(&call).await;
                lock(&verdict).add(&call.sid, found);
            });
        }
    }

    /// What all of them found.
    pub(super) async fn finish(&self) -> Verdict {
        self.tasks.close();
        self.tasks.wait().await;
        std::mem::take(&mut *lock(&self.verdict))
    }

    /// What cannot be said when nothing was compared.
    pub(super) fn not_known(&self, verdict: &Verdict) -> Option<String> {
        let why = if self.records.can_be_asked() {
            "too little was said in all calls"
        } else {
            "only a bridge that is started here can be asked"
        };
        (verdict.compared == 0).then(|| format!("whether transcripts are right: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_stop_to_count_a_second_before_the_caller_hangs_up_also_when_the_machine_stalled() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut end = End::new(at(30_000));
        let mut asked = |ms| end.due(at(ms), || false);
        assert_eq!([asked(28_900), asked(29_000), asked(29_900)], [None, Some(Due::LetEnd), None]);
        assert_eq!(asked(30_000), Some(Due::HangUp));

        let mut stalled = End::new(at(30_000));
        let mut asked = |ms| stalled.due(at(ms), || false);
        assert_eq!([asked(28_900), asked(34_000), asked(34_900)], [None, Some(Due::LetEnd), None]);
        assert_eq!(asked(35_000), Some(Due::HangUp));
    }

    #[test]
    fn the_caller_waits_for_frames_on_their_way_but_not_for_ever() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut end = End::new(at(30_000));
        let mut asked = |ms, is_owed| end.due(at(ms), || is_owed);
        assert_eq!([asked(29_000, true), asked(30_000, true)], [Some(Due::LetEnd), None]);
        assert_eq!([asked(33_900, true), asked(34_000, false)], [None, Some(Due::HangUp)]);

        let mut lossy = End::new(at(30_000));
        let mut asked = |ms| lossy.due(at(ms), || true);
        assert_eq!(
            [asked(29_000), asked(43_900), asked(44_000)],
            [Some(Due::LetEnd), None, Some(Due::HangUp)]
        );
    }
}
