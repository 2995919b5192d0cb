//! The agent's audio on its way to the caller's ear: queued, sent, heard.
//!
//! Audio is sent a little ahead of the ear, never more, so that little has to be taken back when the caller speaks.
//! Where the caller is in it is known from three things: the clock since it was sent (Twilio plays 8 bytes a
//! millisecond without pause), the marks that came back (a lower bound), and what was sent at all (an upper bound).
//! Network delay cancels out: audio starts later by the way there, and `clear` takes effect later by the same way.
//! A start that was held up does not. So each start is preceded by a mark, which comes back at once because nothing is
//! being played: that is the network alone. Marks that take longer tell how much later than the clock Twilio plays.
//!
//! Playing can be paused: what was sent and not heard is taken back into the queue, and goes out again afterwards.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use super::transcript::Evidence;
use crate::clock::CallTime;
use crate::ids::ItemId;

/// mu-law at 8 kHz.
const BYTES_PER_MS: u64 = 8;
/// What telephone audio is cut into.
const FRAME_BYTES: usize = 160;
/// Largest message: long enough to be rare, short enough to be taken back cheaply.
const MESSAGE_BYTES: usize = 5 * FRAME_BYTES;
/// Distance of marks: how well the position is known without the clock.
const MARK_EVERY_BYTES: u64 = 200 * BYTES_PER_MS;
/// Less than this left to hear counts as heard: within what the clock can know.
const HEARD_TOLERANCE_BYTES: u64 = 20 * BYTES_PER_MS;
/// How much longer than the clock says the last mark of an item may take to come back.
const MARK_GRACE: Duration = Duration::from_millis(600);
/// Marks whose lateness is remembered, to notice when Twilio began to play later than the clock assumes.
const LAG_WINDOW: usize = 3;
/// After a pause this long the network is measured again.
const PROBE_AFTER: Duration = Duration::from_secs(1);
/// Stretches of audio that are queued or not yet known to be heard; a model needs a few.
const MAX_SEGMENTS: usize = 256;
/// Marks on their way; a peer that sends none back loses the oldest, which later ones make up for.
const MAX_MARKS: usize = 256;
/// Items heard to the end whose length is remembered, should the model add to one of them.
const MAX_FINISHED: usize = 8;
/// A queue of this size is kept when it is empty: half a second.
const KEPT_BYTES: usize = 4 * 1024;
/// Of what was sent last so much can be taken back: the usual lead, and as much again of a player that is late. Of a later
/// one some is lost.
const PUT_BACK_BYTES: usize = 500 * BYTES_PER_MS as usize;
/// Ten minutes are what Twilio buffers; a queue longer than that is a model gone astray.
const MAX_QUEUED_BYTES: usize = 10 * 60 * 1000 * BYTES_PER_MS as usize;

/// What to send next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    Audio { item: &'a ItemId, ulaw: &'a [u8] },
    Mark(&'a str),
}

/// An item the caller has heard to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) item: ItemId,
    pub(super) heard_ms: u64,
    pub(super) evidence: Evidence,
}

/// An item the caller has heard in part or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) item: ItemId,
    pub(super) heard_ms: u64,
    /// Audio there was, in whole milliseconds.
    pub(super) received_ms: u64,
    pub(super) evidence: Evidence,
}

/// What an interruption found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Interruption {
    /// Something was queued at Twilio or here that the caller had not heard.
    pub(super) unheard: bool,
    /// Twilio may still hold some of it: it must be cleared.
    pub(super) must_clear: bool,
    /// Complete items, heard to the end.
    pub(super) heard: Vec<Heard>,
    /// All others; heard in full so far where `heard_ms` equals `received_ms`.
    pub(super) cuts: Vec<Cut>,
}

/// What a pause found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pause {
    /// Twilio holds something that the caller has not heard: it must be cleared, and will be sent again.
    pub(super) must_clear: bool,
    /// Complete items, heard to the end.
    pub(super) heard: Vec<Heard>,
}

/// A stretch of one item's audio. Positions count bytes from the start of the generation.
#[derive(Debug)]
struct Segment {
    item: ItemId,
    /// Bytes of the item that came before this stretch.
    item_offset: u64,
    start: u64,
    end: u64,
    complete: bool,
}

impl Segment {
    fn item_ms_at(&self, position: u64) -> u64 {
        (self.item_offset + position.clamp(self.start, self.end) - self.start) / BYTES_PER_MS
    }
}

#[derive(Debug)]
struct PendingMark {
    name: String,
    position: u64,
    /// When the clock says that everything before it has been played.
    due: CallTime,
    /// Which stretch of unbroken playing it is in.
    run: u32,
    /// It was sent while nothing was playing.
    probe: bool,
}

/// The ledger of one call.
#[derive(Debug)]
pub(super) struct Playout {
    lead: Duration,
    generation: u32,
    queue: Queue,
    segments: VecDeque<Segment>,
    /// Bytes of the items that were heard last.
    finished: VecDeque<(ItemId, u64)>,
    marks: VecDeque<PendingMark>,
    sent: u64,
    acknowledged: u64,
    marked: u64,
    /// When everything sent will have been played.
    play_end: CallTime,
    /// Counts how often playing began afresh.
    run: u32,
    /// Lateness of the latest marks of this run, newest last.
    lags: VecDeque<Duration>,
    /// The least lateness seen in this call: the network's way there and back.
    round_trip: Option<Duration>,
    probes: u32,
    /// The network was measured for the audio that is sent next.
    probed: bool,
    /// Nothing is sent; how we know where the caller stopped hearing.
    paused: Option<Evidence>,
    mark_name: String,
}

/// Bytes that wait. What is taken lies in one piece, so that it can be sent from here.
#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    /// Before this all has been taken.
    from: usize,
    /// So much of what was taken last is kept, to be put back.
    kept_bytes: usize,
}

impl Queue {
    fn len(&self) -> usize {
        self.bytes.len() - self.from
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.len() == 0 {
            self.let_go();
        }
        let spent = self.from.saturating_sub(self.kept_bytes);
        if spent > self.bytes.len() / 2 {
            self.bytes.drain(..spent);
            self.from -= spent;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Puts back what was taken last. Returns how much of it was still there.
    fn put_back(&mut self, bytes: usize) -> usize {
        let back = bytes.min(self.from);
        self.from -= back;
        back
    }

    /// Nothing waits: drops what cannot be put back any more.
    fn let_go(&mut self) {
        if self.kept_bytes == 0 {
            self.clear();
        } else if self.bytes.capacity() > KEPT_BYTES + 4 * self.kept_bytes {
            self.bytes = self.bytes.split_off(self.from.saturating_sub(self.kept_bytes));
            self.from = self.bytes.len();
        }
    }

    fn take(&mut self, bytes: usize) -> &[u8] {
        let start = self.from;
        self.from += bytes;
        &self.bytes[start..self.from]
    }

    /// Drops all; gives the memory of a long answer back.
    fn clear(&mut self) {
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        self.from = 0;
    }
}

impl Playout {
    pub(super) fn new(lead: Duration) -> Self {
        Self {
            lead: lead.max(duration(FRAME_BYTES as u64)),
            paused: None,
            generation: 0,
            queue: Queue::default(),
            segments: VecDeque::new(),
            finished: VecDeque::new(),
            marks: VecDeque::new(),
            sent: 0,
            acknowledged: 0,
            marked: 0,
            play_end: CallTime::ZERO,
            run: 0,
            lags: VecDeque::with_capacity(LAG_WINDOW + 1),
            round_trip: None,
            probes: 0,
            probed: false,
            mark_name: String::new(),
        }
    }

    /// The same for a call that pauses.
    pub(super) fn pausing(lead: Duration) -> Self {
        let queue = Queue { kept_bytes: PUT_BACK_BYTES, ..Queue::default() };
        Self { queue, ..Self::new(lead) }
    }

    /// Queues audio of an item. False: the queue is full and the audio was not taken.
    pub(super) fn push(&mut self, item: &ItemId, ulaw: &[u8]) -> bool {
        if ulaw.is_empty() {
            return true;
        }
        if self.queue.len() + ulaw.len() > MAX_QUEUED_BYTES {
            return false;
        }
        if self.segments.back().is_none_or(|last| last.item != *item || last.complete) {
            if self.segments.len() == MAX_SEGMENTS {
                return false;
            }
            let item_offset = self.received_bytes(item);
            let start = self.queued_to();
            self.segments.push_back(Segment {
                item: item.clone(),
                item_offset,
                start,
                end: start,
                complete: false,
            });
        }
        if let Some(last) = self.segments.back_mut() {
            last.end += ulaw.len() as u64;
        }
        self.queue.push(ulaw);
        true
    }

    /// No more audio will come for this item.
    pub(super) fn complete(&mut self, item: &ItemId) {
        for segment in self.segments.iter_mut().filter(|s| s.item == *item) {
            segment.complete = true;
        }
    }

    /// No more audio will come for any item.
    pub(super) fn complete_all(&mut self) {
        for segment in &mut self.segments {
            segment.complete = true;
        }
    }

    /// What to send now; ask again until there is nothing.
    pub(super) fn poll(&mut self, now: CallTime) -> Option<Step<'_>> {
        if self.is_paused() {
            return None;
        }
        if self.queue.len() == 0 {
            self.queue.let_go(); // The last piece could not go while it was being handed out.
            if self.segments.is_empty() {
                self.queue.clear();
            }
        }
        if self.mark_is_due() {
            return Some(self.take_mark());
        }
        let bytes = self.sendable(now)?;
        let paused = self.round_trip.is_none() || now.since(self.play_end) >= PROBE_AFTER;
        if self.play_end <= now && paused && !std::mem::replace(&mut self.probed, true) {
            return Some(self.take_probe(now));
        }
        self.probed = false;
        self.sent += bytes as u64;
        if self.play_end < now {
            self.start_afresh(now);
        }
        self.play_end = self.play_end + duration(bytes as u64);
        let segment =
            self.segments.iter().find(|s| s.end >= self.sent).expect("what is sent belongs to an item");
        Some(Step::Audio { item: &segment.item, ulaw: self.queue.take(bytes) })
    }

    /// When to call [`Self::poll`] again if nothing else happens.
    pub(super) fn next_send(&self) -> Option<CallTime> {
        self.next_message().map(|(_, at)| at).filter(|_| !self.is_paused())
    }

    /// A mark came back. False: it is of an older generation, or unknown.
    pub(super) fn on_mark(&mut self, now: CallTime, name: &str) -> bool {
        let Some(index) = self.marks.iter().position(|mark| mark.name == name) else { return false };
        let Some(mark) = self.marks.drain(..=index).next_back() else { return false };
        self.acknowledged = self.acknowledged.max(mark.position);
        let lag = now.since(mark.due);
        self.round_trip = Some(self.round_trip.map_or(lag, |least| least.min(lag)));
        // A mark of an earlier run says nothing about how late this one plays.
        if mark.run == self.run && !mark.probe {
            self.lags.push_back(lag);
            if self.lags.len() > LAG_WINDOW {
                self.lags.pop_front();
            }
        }
        true
    }

    /// Items the caller has heard to the end by now, in order; each is reported once.
    pub(super) fn take_heard(&mut self, now: CallTime) -> Vec<Heard> {
        let mut heard = Vec::new();
        while let Some(first) = self.segments.front() {
            let by_mark = self.acknowledged >= first.end;
            let by_clock = self.finish_at().is_some_and(|at| at <= now);
            if !first.complete || self.sent < first.end || !(by_mark || by_clock) {
                break;
            }
            let evidence = if by_mark { Evidence::Mark } else { Evidence::Clock };
            let item = first.item.clone();
            let heard_ms = first.item_ms_at(first.end);
            let bytes = first.item_offset + first.end - first.start;
            self.segments.pop_front();
            self.remember(&item, bytes);
            if self.segments.iter().all(|later| later.item != item) {
                heard.push(Heard { item, heard_ms, evidence });
            }
        }
        heard
    }

    /// When to take the first item as heard although no mark says so.
    pub(super) fn finish_at(&self) -> Option<CallTime> {
        let first = self.segments.front()?;
        let sent = first.complete && self.sent >= first.end;
        sent.then(|| {
            self.play_end - duration(self.sent - first.end)
                + self.correction()
                + self.round_trip.unwrap_or_default()
                + MARK_GRACE
        })
    }

    /// Stops sending. What was sent and not heard is taken back, to be sent again from where the caller's ear stopped.
    pub(super) fn pause(&mut self, now: CallTime) -> Pause {
        let (heard_to, evidence) = self.heard_to(now);
        let at_twilio = (self.sent - heard_to) as usize;
        let unheard = self.queued_to() - heard_to > HEARD_TOLERANCE_BYTES;
        self.paused = Some(evidence);
        if at_twilio == 0 || !unheard {
            return Pause::default(); // It will be heard before the caller has taken a breath.
        }
        let heard_to = self.sent - self.queue.put_back(at_twilio) as u64;
        let mut found = Pause { must_clear: true, heard: Vec::new() };
        while let Some(first) = self.segments.front().filter(|s| s.complete && s.end <= heard_to) {
            let (item, heard_ms) = (first.item.clone(), first.item_ms_at(first.end));
            let bytes = first.item_offset + first.end - first.start;
            self.segments.pop_front();
            self.remember(&item, bytes);
            if self.segments.iter().all(|later| later.item != item) {
                found.heard.push(Heard { item, heard_ms, evidence });
            }
        }
        for segment in &mut self.segments {
            segment.item_offset += heard_to.clamp(segment.start, segment.end) - segment.start;
            segment.start = segment.start.saturating_sub(heard_to);
            segment.end = segment.end.saturating_sub(heard_to);
        }
        self.begin_generation(now);
        found
    }

    /// Goes on where [`Self::pause`] stopped.
    pub(super) fn resume(&mut self) {
        self.paused = None;
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// There is audio that the caller has not heard and would notice the end of.
    pub(super) fn has_unheard(&self, now: CallTime) -> bool {
        self.queued_to() - self.heard_to(now).0 > HEARD_TOLERANCE_BYTES
    }

    /// How much of it there is.
    pub(super) fn unheard(&self, now: CallTime) -> Duration {
        duration(self.queued_to() - self.heard_to(now).0)
    }

    /// Until when an echo of what was sent so far can come back to us.
    pub(super) fn echoes_until(&self) -> CallTime {
        self.play_end + self.correction() + self.round_trip.unwrap_or_default()
    }

    /// Marks of the one before mean nothing any more; Twilio starts from an empty buffer.
    fn begin_generation(&mut self, now: CallTime) {
        self.generation += 1;
        self.marks.clear();
        (self.sent, self.acknowledged, self.marked) = (0, 0, 0);
        self.play_end = now;
        self.run += 1;
        self.lags.clear();
    }

    /// Stops everything: what has not been heard is dropped and reported.
    pub(super) fn interrupt(&mut self, now: CallTime) -> Interruption {
        let (heard_to, mut evidence) = self.heard_to(now);
        let unheard = self.queued_to() - heard_to > HEARD_TOLERANCE_BYTES;
        // What was sent will be heard before the caller has taken a breath; what was not sent will not.
        let heard_to = if unheard { heard_to } else { self.sent };
        let at_pause = self.paused.take();
        let was_paused = at_pause.is_some();
        if let Some(at_pause) = at_pause.filter(|_| self.sent == 0) {
            evidence = at_pause; // Nothing was heard since.
        }
        // What a pause took back is not at Twilio any more.
        let must_clear = unheard && !(was_paused && self.sent == 0);
        let mut found = Interruption { unheard, must_clear, ..Interruption::default() };
        for segment in std::mem::take(&mut self.segments) {
            let (item, received_ms) = (segment.item.clone(), segment.item_ms_at(segment.end));
            let heard_ms = segment.item_ms_at(heard_to);
            if let Some(cut) = found.cuts.iter_mut().find(|cut| cut.item == item) {
                cut.received_ms = received_ms; // A later stretch of an item that was already cut.
            } else if segment.complete && segment.end <= heard_to {
                found.heard.push(Heard { item, heard_ms, evidence });
            } else {
                found.heard.retain(|earlier| earlier.item != item);
                found.cuts.push(Cut { item, heard_ms, received_ms, evidence });
            }
        }
        // A new generation even when nothing was unheard: late marks and leftovers of this one mean nothing any more.
        self.queue.clear();
        if unheard {
            self.begin_generation(now);
        } else {
            self.generation += 1;
            self.marks.clear();
            (self.sent, self.acknowledged, self.marked) = (0, 0, 0);
        }
        found
    }

    /// Nothing is queued and every mark that follows audio has come back.
    pub(super) fn is_drained(&self) -> bool {
        self.queue.len() == 0 && self.marks.iter().all(|mark| mark.probe) && !self.mark_is_due()
    }

    /// When the caller will have heard everything that was sent.
    pub(super) fn quiet_at(&self) -> CallTime {
        self.play_end + duration(self.queue.len() as u64)
    }

    /// Audio of the item that has come so far.
    pub(super) fn received_ms(&self, item: &ItemId) -> u64 {
        self.received_bytes(item) / BYTES_PER_MS
    }

    /// The item has audio that the caller may still come to hear.
    pub(super) fn holds(&self, item: &ItemId) -> bool {
        self.segments.iter().any(|segment| segment.item == *item)
    }

    /// The same of any item.
    pub(super) fn holds_any(&self) -> bool {
        !self.segments.is_empty()
    }

    /// The caller heard silence until now, or what Twilio plays late; from now on the clock counts again.
    fn start_afresh(&mut self, now: CallTime) {
        let idle = now.since(self.play_end);
        if idle >= self.correction() {
            self.lags.clear(); // Twilio has nothing left that it could play late.
        }
        for lag in &mut self.lags {
            *lag = lag.saturating_sub(idle); // It is late by so much less.
        }
        self.run += 1;
        self.play_end = now;
    }

    fn remember(&mut self, item: &ItemId, bytes: u64) {
        if self.finished.len() == MAX_FINISHED {
            self.finished.pop_front();
        }
        self.finished.push_back((item.clone(), bytes));
    }

    /// How far the caller has heard, in bytes of this generation, and how we know.
    fn heard_to(&self, now: CallTime) -> (u64, Evidence) {
        let remaining = bytes_in((self.play_end + self.correction()).since(now));
        let by_clock = self.sent.saturating_sub(remaining);
        if by_clock <= self.acknowledged {
            (self.acknowledged, Evidence::Mark)
        } else {
            (by_clock, Evidence::Clock)
        }
    }

    /// How much later than the clock says Twilio is playing: marks that come back later than the network explains.
    fn correction(&self) -> Duration {
        let (Some(least), Some(round_trip)) = (self.lags.iter().min(), self.round_trip) else {
            return Duration::ZERO;
        };
        least.saturating_sub(round_trip)
    }

    fn queued_to(&self) -> u64 {
        self.sent + self.queue.len() as u64
    }

    fn received_bytes(&self, item: &ItemId) -> u64 {
        let of_item = self.segments.iter().rev().find(|s| s.item == *item);
        let finished = || self.finished.iter().rev().find(|(id, _)| id == item).map(|(_, bytes)| *bytes);
        of_item.map(|s| s.item_offset + s.end - s.start).or_else(finished).unwrap_or(0)
    }

    /// Bytes of the next message, and when it may leave.
    fn next_message(&self) -> Option<(usize, CallTime)> {
        let segment = self.segments.iter().find(|s| s.end > self.sent)?;
        let available = (segment.end - self.sent.max(segment.start)) as usize;
        let bytes = available.min(MESSAGE_BYTES).min(bytes_in(self.lead) as usize);
        let tail = segment.complete && bytes == available;
        let whole = if tail { bytes } else { bytes - bytes % FRAME_BYTES };
        if whole > 0 {
            let at = self.play_end - self.lead.saturating_sub(duration(whole as u64));
            return Some((whole, at));
        }
        // Less than a frame, and more to come: it waits for the rest, but not until the caller hears a gap.
        (bytes > 0).then(|| (bytes, self.play_end - duration(FRAME_BYTES as u64)))
    }

    fn sendable(&self, now: CallTime) -> Option<usize> {
        let (bytes, at) = self.next_message()?;
        (at <= now).then_some(bytes)
    }

    fn mark_is_due(&self) -> bool {
        let at_end = self.segments.iter().any(|s| s.complete && s.end == self.sent && s.end > self.marked);
        at_end || self.sent - self.marked >= MARK_EVERY_BYTES
    }

    fn take_probe(&mut self, now: CallTime) -> Step<'_> {
        self.probes += 1;
        self.mark_name.clear();
        let _ = write!(self.mark_name, "g{}:probe:{}", self.generation, self.probes);
        self.expect_mark(now, true);
        Step::Mark(&self.mark_name)
    }

    fn take_mark(&mut self) -> Step<'_> {
        let segment = self.segments.iter().rev().find(|s| s.start < self.sent);
        self.mark_name.clear();
        let (item, ms) = segment.map_or(("", 0), |s| (s.item.as_str(), s.item_ms_at(self.sent)));
        // An overlong id would make an overlong mark; the ledger matches whole names, so a cut one serves.
        let item = &item[..item.len().min(64)];
        let _ = write!(self.mark_name, "g{}:{item}:{ms}", self.generation);
        self.marked = self.sent;
        self.expect_mark(self.play_end, false);
        Step::Mark(&self.mark_name)
    }

    fn expect_mark(&mut self, due: CallTime, probe: bool) {
        if self.marks.len() == MAX_MARKS {
            self.marks.pop_front();
        }
        let (name, position, run) = (self.mark_name.clone(), self.sent, self.run);
        self.marks.push_back(PendingMark { name, position, due, run, probe });
    }
}

fn duration(bytes: u64) -> Duration {
    Duration::from_micros(bytes * 1000 / BYTES_PER_MS)
}

fn bytes_in(time: Duration) -> u64 {
    time.as_micros() as u64 * BYTES_PER_MS / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays one second; Twilio begins `held_up_ms` late, on a network that takes 100 ms there and back. Returns what
    /// the ledger believes was heard 600 ms after the first audio was sent.
    fn believed_after_600_ms(held_up_ms: u64) -> u64 {
        let mut playout = Playout::new(Duration::from_millis(200));
        assert!(playout.push(&ItemId::parse("item").unwrap(), &[0x55; 8000]));
        let mut echoes: Vec<(u64, String)> = Vec::new();
        for now_ms in 1000..1600 {
            let now = CallTime::from_millis(now_ms);
            while let Some(step) = playout.poll(now) {
                let Step::Mark(name) = step else { continue };
                let position_ms: u64 = name.rsplit(':').next().unwrap().parse().unwrap();
                let echoed_ms =
                    if name.contains("probe") { now_ms + 100 } else { 1100 + held_up_ms + position_ms };
                echoes.push((echoed_ms, name.to_owned()));
            }
            echoes.retain(|(at, name)| *at != now_ms || !playout.on_mark(now, name));
        }
        playout.interrupt(CallTime::from_millis(1600)).cuts[0].heard_ms
    }

    #[test]
    fn an_answer_that_was_played_takes_no_memory() {
        let mut playout = Playout::new(Duration::from_millis(200));
        let item = ItemId::parse("item").unwrap();
        assert!(playout.push(&item, &vec![0x55; 60_000 * 8]));
        playout.complete(&item);
        let mut played = 0;
        for now_ms in 0..60_000 {
            while let Some(step) = playout.poll(CallTime::from_millis(now_ms)) {
                let Step::Audio { ulaw, .. } = step else { continue };
                played += ulaw.len();
            }
        }
        assert_eq!((played, playout.queue.bytes.capacity()), (60_000 * 8, 0));
    }

    #[test]
    fn playing_that_began_late_is_known_from_the_first_mark_on() {
        assert_eq!(believed_after_600_ms(0), 600);
        assert_eq!(believed_after_600_ms(150), 450);
    }
}
