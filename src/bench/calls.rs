//! What both ends of a call share, and what they count.
//!
//! The ends run on different threads. Per frame they share one atomic: when it was sent.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::latency::Durations;
use super::mark::SEQUENCES;

/// Frames whose time of sending is remembered: 20 seconds.
const SLOTS: usize = 1024;
/// Each so many frames say which call they belong to instead of which frame they are.
pub(super) const CALL_EVERY: u64 = 64;
/// Frames count so long after the model's end has been told which call it is: those before could not be told apart.
const SETTLING_US: Micros = 200_000;
/// A `clear` that has not come by the end of the call, and so long after the interruption, will not come.
const CLEAR_WITHIN_US: Micros = 1_000_000;
/// A frame later than this is audible as a gap.
const LATE: Duration = Duration::from_millis(20);

/// Microseconds since the rig began.
pub(super) type Micros = u64;

/// The rig's clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> Micros {
        self.0.elapsed().as_micros() as Micros
    }

    pub(super) fn at(self, micros: Micros) -> Instant {
        self.0 + Duration::from_micros(micros)
    }
}

/// When frames of one direction of a call were sent, and which have arrived.
#[derive(Debug)]
pub(super) struct Lane(Box<[AtomicU64]>);

/// A frame that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) at: Micros,
    /// It came at once with others, so its way is not timed.
    pub(super) in_burst: bool,
    /// It has arrived before.
    pub(super) again: bool,
}

/// The lowest bits of a slot; above them is which of the frames that share the slot it is, then the time.
const ARRIVED: u64 = 1;
const IN_BURST: u64 = 2;
const LAP_BITS: u32 = 18;

impl Lane {
    fn new() -> Self {
        Self((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn sent(&self, frame: u64, at: Micros) {
        self.slot(frame).store(Self::sent_as(frame, at), Ordering::Release);
    }

    pub(super) fn sent_in_burst(&self, frame: u64, at: Micros) {
        self.slot(frame).store(Self::sent_as(frame, at) | IN_BURST, Ordering::Release);
    }

    /// A frame has arrived. `None`: it was not sent, or too long ago, so what was read is not its number.
    pub(super) fn arrived(&self, frame: u64) -> Option<Sent> {
        let slot = self.slot(frame).load(Ordering::Acquire);
        let at = slot >> (2 + LAP_BITS);
        if at == 0 || slot & !(ARRIVED | IN_BURST) != Self::sent_as(frame, at) {
            return None;
        }
        self.slot(frame).fetch_or(ARRIVED, Ordering::AcqRel);
        Some(Sent { at, in_burst: slot & IN_BURST > 0, again: slot & ARRIVED > 0 })
    }

    /// Whether one of the frames that count has not arrived. What came at once with others may be cut off instead.
    fn owes(&self, counts: impl Fn(Micros) -> bool) -> bool {
        self.0.iter().any(|slot| {
            let slot = slot.load(Ordering::Acquire);
            slot > 0 && slot & (ARRIVED | IN_BURST) == 0 && counts(slot >> (2 + LAP_BITS))
        })
    }

    fn slot(&self, frame: u64) -> &AtomicU64 {
        &self.0[frame as usize % SLOTS]
    }

    const fn sent_as(frame: u64, at: Micros) -> u64 {
        let lap = frame / SLOTS as u64 % (1 << LAP_BITS);
        at << (2 + LAP_BITS) | lap << 2
    }
}

/// What the two ends of a call know of each other.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) number: u16,
    pub(super) sid: String,
    pub(super) up: Lane,
    pub(super) down: Lane,
    /// When the model last said that the caller speaks over the agent; 0 when `clear` has followed.
    interrupted_at: AtomicU64,
    /// When the caller will have heard all that has come.
    pub(super) quiet_at: AtomicU64,
    pub(super) cut: Mutex<Cut>,
    /// Frames count that are sent between these two: not before both ends know which call it is, and not when the
    /// caller is about to hang up, because what is on its way then is cut off.
    counts_from: AtomicU64,
    counts_until: AtomicU64,
    /// What was said, when it is to be compared with the transcript.
    pub(super) said: Option<Mutex<Vec<Said>>>,
    /// Turns that had begun when the frames stopped to count.
    turns_in_time: AtomicUsize,
}

/// Where an answer was cut, as the two ends saw it.
#[derive(Debug, Default)]
pub(super) struct Cut {
    pub(super) heard_ms: Option<u64>,
    pub(super) truncated_ms: Option<u64>,
}

/// A turn of the conversation as the model knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) item: String,
    pub(super) by_agent: bool,
    pub(super) text: String,
    /// Where the bridge had it cut, in milliseconds.
    pub(super) truncated_ms: Option<u64>,
}

/// What is counted of one direction.
#[derive(Debug, Default)]
pub(super) struct Way {
    pub(super) latency: Durations,
    pub(super) shift_us: Durations,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) reordered: u64,
    pub(super) duplicated: u64,
    pub(super) late: u64,
}

impl Way {
    /// A frame that is timed arrived so long after it was sent.
    pub(super) fn timed(&mut self, latency: Duration, shift_us: u64) {
        self.latency.record(latency);
        self.shift_us.record_us(shift_us);
        self.late += u64::from(latency > LATE);
    }

    /// Frames that did not arrive.
    pub(super) const fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency);
        self.shift_us.add(&other.shift_us);
        self.sent += other.sent;
        self.received += other.received;
        self.reordered += other.reordered;
        self.duplicated += other.duplicated;
        self.late += other.late;
    }
}

/// What one thread of far ends counts during a step.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) up: Way,
    pub(super) down: Way,
    pub(super) first_audio: Durations,
    pub(super) barge_in: Durations,
    /// Interruptions after which no `clear` came.
    pub(super) not_cleared: u64,
    /// Difference between what was heard and where the bridge cut.
    pub(super) truncation: Durations,
    pub(super) lateness: Durations,
    pub(super) calls_failed: u32,
    pub(super) problems: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn problem(&mut self, what: impl Into<String>) {
        *self.problems.entry(what.into()).or_default() += 1;
    }

    /// What went wrong counts, also where nothing else does.
    pub(super) fn add_failures(&mut self, other: &Self) {
        self.calls_failed += other.calls_failed;
        for (what, count) in &other.problems {
            *self.problems.entry(what.clone()).or_default() += count;
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.up.add(&other.up);
        self.down.add(&other.down);
        self.first_audio.add(&other.first_audio);
        self.barge_in.add(&other.barge_in);
        self.not_cleared += other.not_cleared;
        self.truncation.add(&other.truncation);
        self.lateness.add(&other.lateness);
        self.add_failures(other);
    }
}

/// What all ends share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    from: AtomicU64,
    until: AtomicU64,
    /// No answer begins.
    hushed: AtomicBool,
    calls: Mutex<HashMap<u16, Arc<Call>>>,
    pub(super) callers: Mutex<Tally>,
    pub(super) models: Mutex<Tally>,
}

impl Shared {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            clock: Clock::start(),
            from: AtomicU64::new(u64::MAX),
            until: AtomicU64::new(u64::MAX),
            hushed: AtomicBool::new(false),
            calls: Mutex::default(),
            callers: Mutex::default(),
            models: Mutex::default(),
        })
    }

    /// Frames that are sent from now on count until [`Shared::close_window`].
    pub(super) fn open_window(&self) {
        self.until.store(u64::MAX, Ordering::Release);
        self.from.store(self.clock.now(), Ordering::Release);
    }

    pub(super) fn close_window(&self) {
        self.until.store(self.clock.now(), Ordering::Release);
    }

    /// From now on answers begin no more, or do again.
    pub(super) fn hush(&self, hushed: bool) {
        self.hushed.store(hushed, Ordering::Release);
    }

    pub(super) fn is_hushed(&self) -> bool {
        self.hushed.load(Ordering::Acquire)
    }

    /// A new step: nothing counts, and what was counted is handed out.
    pub(super) fn take(&self) -> Tally {
        self.from.store(u64::MAX, Ordering::Release);
        self.so_far()
    }

    /// Hands out what was counted; what is counted from now on is counted anew.
    pub(super) fn so_far(&self) -> Tally {
        let mut all = std::mem::take(&mut *lock(&self.callers));
        all.add(&std::mem::take(&mut *lock(&self.models)));
        all
    }

    /// Whether a frame that was sent at this time counts.
    pub(super) fn counts(&self, sent_at: Micros) -> bool {
        self.from.load(Ordering::Acquire) <= sent_at && sent_at < self.until.load(Ordering::Acquire)
    }

    pub(super) fn add_call(&self, number: u16, sid: String, keep_said: bool) -> Arc<Call> {
        let call = Arc::new(Call {
            number,
            sid,
            up: Lane::new(),
            down: Lane::new(),
            interrupted_at: AtomicU64::new(0),
            quiet_at: AtomicU64::new(0),
            cut: Mutex::default(),
            counts_from: AtomicU64::new(Micros::MAX),
            counts_until: AtomicU64::new(Micros::MAX),
            said: keep_said.then(Mutex::default),
            turns_in_time: AtomicUsize::new(usize::MAX),
        });
        lock(&self.calls).insert(number, Arc::clone(&call));
        call
    }

    pub(super) fn call(&self, number: u16) -> Option<Arc<Call>> {
        lock(&self.calls).get(&number).cloned()
    }

    /// Whether frames of this call that count are still on their way.
    pub(super) fn is_owed(&self, call: &Call) -> bool {
        let counts = |at| self.counts(at) && call.counts(at);
        call.up.owes(counts) || call.down.owes(counts)
    }

    /// Whether such frames are on their way to the caller.
    pub(super) fn is_owed_by_model(&self, call: &Call) -> bool {
        call.down.owes(|at| self.counts(at) && call.counts(at))
    }

    /// Whether frames of any call are.
    pub(super) fn is_owed_anything(&self) -> bool {
        let calls: Vec<_> = lock(&self.calls).values().cloned().collect();
        calls.iter().any(|call| self.is_owed(call))
    }

    /// Calls that both ends know.
    pub(super) fn calls_up(&self) -> u32 {
        lock(&self.calls).values().filter(|call| call.is_up()).count() as u32
    }

    pub(super) fn remove_call(&self, number: u16) {
        lock(&self.calls).remove(&number);
    }
}

impl Call {
    /// Both ends know which call it is; its frames count soon.
    pub(super) fn is_known(&self, now: Micros) {
        self.counts_from.store(now + SETTLING_US, Ordering::Release);
    }

    fn is_up(&self) -> bool {
        self.counts_from.load(Ordering::Acquire) < Micros::MAX
    }

    /// The caller will hang up soon.
    pub(super) fn is_nearly_over(&self, now: Micros) {
        self.counts_until.fetch_min(now, Ordering::AcqRel);
        self.note(|said| {
            self.turns_in_time.fetch_min(said.len(), Ordering::AcqRel);
        });
    }

    /// What was said, and how many turns of it had begun well before the caller hung up.
    pub(super) fn all_said(&self) -> (Vec<Said>, usize) {
        let said = self.said.as_ref().map(|said| lock(said).clone()).unwrap_or_default();
        let in_time = said.len().min(self.turns_in_time.load(Ordering::Acquire));
        (said, in_time)
    }

    /// Whether a frame that was sent at this time counts as far as the call is concerned.
    pub(super) fn counts(&self, sent_at: Micros) -> bool {
        let (from, until) =
            (self.counts_from.load(Ordering::Acquire), self.counts_until.load(Ordering::Acquire));
        from <= sent_at && sent_at < until
    }

    /// The model says that the caller speaks over the agent. Returns an earlier interruption that was never cleared.
    pub(super) fn interrupted(&self, now: Micros) -> Option<Micros> {
        *lock(&self.cut) = Cut::default();
        Some(self.interrupted_at.swap(now, Ordering::AcqRel)).filter(|at| *at > 0)
    }

    /// `clear` has come. Returns when the interruption was that it answers.
    pub(super) fn cleared(&self) -> Option<Micros> {
        Some(self.interrupted_at.swap(0, Ordering::AcqRel)).filter(|at| *at > 0)
    }

    /// The call is over. Returns an interruption that should have been cleared long before.
    pub(super) fn left_uncleared(&self, now: Micros) -> Option<Micros> {
        self.cleared().filter(|at| now > at + CLEAR_WITHIN_US)
    }

    /// One end knows its side of a cut; whoever comes second knows the difference.
    pub(super) fn cut_seen(&self, see: impl FnOnce(&mut Cut)) -> Option<Duration> {
        let mut cut = lock(&self.cut);
        see(&mut cut);
        let (heard, truncated) = (cut.heard_ms?, cut.truncated_ms?);
        *cut = Cut::default();
        Some(Duration::from_millis(heard.abs_diff(truncated)))
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Vec<Said>)) {
        if let Some(said) = &self.said {
            change(&mut lock(said));
        }
    }
}

/// Nobody panics while holding one of these; if somebody did, the numbers are still numbers.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts frames on from the highest so far, from numbers that start again at [`SEQUENCES`].
#[derive(Debug, Default)]
pub(super) struct Order {
    highest: Option<u64>,
}

impl Order {
    /// The whole number of a frame, and whether it is later than all before it.
    pub(super) fn place(&self, sequence: u16) -> (u64, bool) {
        let (sequence, all) = (u64::from(sequence), u64::from(SEQUENCES));
        let Some(highest) = self.highest else { return (sequence, true) };
        let ahead = (sequence + all - highest % all) % all;
        if ahead < all / 2 && ahead > 0 {
            (highest + ahead, true)
        } else {
            (highest.saturating_sub((all - ahead) % all), false)
        }
    }

    /// Whether it is among the last second's: an older one that is read again was never there.
    pub(super) fn is_recent(&self, frame: u64) -> bool {
        self.highest.is_some_and(|highest| frame + 50 > highest)
    }

    /// The frame is really there. What was only read by mistake must not count as one before or after others.
    pub(super) fn accept(&mut self, frame: u64) {
        self.highest = self.highest.max(Some(frame));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_on_when_their_numbers_start_again() {
        let mut order = Order::default();
        let mut place = |sequence| {
            let (frame, in_order) = order.place(sequence);
            order.accept(frame);
            (frame, in_order)
        };
        assert_eq!(place(4_090), (4_090, true));
        assert_eq!(place(4_095), (4_095, true));
        assert_eq!(place(0), (4_096, true));
        assert_eq!(place(4_094), (4_094, false));
        assert_eq!(place(0), (4_096, false), "a frame that came twice");
        assert_eq!(place(1_000), (5_096, true));
        assert_eq!(order.place(3_000), (7_096, true));
        assert_eq!(order.place(1_001), (5_097, true), "what was not accepted changes nothing");
    }

    #[test]
    fn a_frame_arrives_once_and_only_if_it_was_sent() {
        let lane = Lane::new();
        assert_eq!(lane.arrived(5), None);
        lane.sent(5, 70);
        assert_eq!(lane.arrived(5), Some(Sent { at: 70, in_burst: false, again: false }));
        assert_eq!(lane.arrived(5), Some(Sent { at: 70, in_burst: false, again: true }));
        assert_eq!(lane.arrived(5 + SLOTS as u64), None, "the next of its slot was not sent yet");
        lane.sent_in_burst(5 + SLOTS as u64, 90);
        assert_eq!(lane.arrived(5 + SLOTS as u64), Some(Sent { at: 90, in_burst: true, again: false }));
    }

    #[test]
    fn frames_are_owed_until_they_arrive_unless_they_may_be_cut_off_or_do_not_count() {
        let (shared, from) = (Shared::new(), 1_000_000);
        shared.from.store(from, Ordering::Release);
        let call = shared.add_call(7, "CA7".into(), true);
        call.is_known(0);
        call.up.sent(0, from - 1);
        call.down.sent_in_burst(0, from);
        assert!(!shared.is_owed_anything());
        for (lane, frame) in [(&call.up, 1), (&call.down, 1)] {
            lane.sent(frame, from + 10);
            assert!(shared.is_owed(&call) && shared.is_owed_anything());
            lane.arrived(frame);
            assert!(!shared.is_owed_anything());
        }
        call.is_nearly_over(from + 20);
        call.up.sent(2, from + 20);
        assert!(!shared.is_owed_anything(), "sent when frames had stopped to count");
    }

    #[test]
    fn an_interruption_is_waited_for_until_it_is_cleared_or_the_next_one_comes() {
        let call = Shared::new().add_call(7, "CA7".into(), false);
        assert_eq!((call.interrupted(10), call.cleared(), call.cleared()), (None, Some(10), None));
        assert_eq!(
            (call.interrupted(20), call.interrupted(30)),
            (None, Some(20)),
            "the first was not cleared"
        );
        assert_eq!(call.left_uncleared(30 + CLEAR_WITHIN_US), None, "it may still come");
        call.interrupted(40);
        assert_eq!(call.left_uncleared(41 + CLEAR_WITHIN_US), Some(40));
    }

    #[test]
    fn only_frames_sent_inside_the_window_count() {
        let shared = Shared::new();
        assert!(!shared.counts(0));
        shared.open_window();
        let inside = shared.clock.now() + 1;
        assert!(shared.counts(inside));
        while shared.clock.now() <= inside {}
        shared.close_window();
        assert!(shared.counts(inside));
        assert!(!shared.counts(shared.clock.now() + 1));
        shared.take();
        assert!(!shared.counts(inside));
    }

    #[test]
    fn a_cut_is_compared_when_both_ends_have_seen_it() {
        let call = Shared::new().add_call(7, "CA7".into(), false);
        assert_eq!(call.cut_seen(|cut| cut.truncated_ms = Some(480)), None);
        assert_eq!(call.cut_seen(|cut| cut.heard_ms = Some(500)), Some(Duration::from_millis(20)));
        assert_eq!(call.cut_seen(|cut| cut.heard_ms = Some(100)), None, "the next cut begins anew");
    }
}
