//! Twilio's playout buffer, exact to the byte: what is heard when, and when marks go back.
//!
//! One byte lasts 125 microseconds. Times are handed in; nothing here waits.

use std::collections::VecDeque;
use std::time::Duration;

use super::report::{AudioAfterClear, ClearReport, MarkReport, MarkReturn, Stretch};

/// Microseconds that one mu-law byte sounds.
const BYTE_MICROS: u64 = 125;
/// Ten minutes of audio: more than that is discarded.
// Dossier 1.5.
const LARGEST_BUFFER: usize = 4_800_000;
/// Audio that arrives this soon after a `clear` is reported with it.
const AFTER_CLEAR: Duration = Duration::from_secs(1);

/// What the caller's ear is given: bytes, and when the first of them began to sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) at: Duration,
    pub(super) bytes: Vec<u8>,
}

/// The buffer of one stream.
#[derive(Debug, Default)]
pub(super) struct Playout {
    queue: VecDeque<u8>,
    /// When the byte at the front begins to sound. Meaningless while the queue is empty.
    front_at: Duration,
    /// Bytes that arrived and were accepted.
    arrived: u64,
    heard: u64,
    cleared: u64,
    overflow: u64,
    messages: u64,
    first_audio: Option<Duration>,
    stretches: Vec<Stretch>,
    /// True while the last stretch goes on.
    playing: bool,
    marks: Vec<MarkReport>,
    /// Marks that have not gone back, by their place among `marks`.
    waiting: VecDeque<usize>,
    clears: Vec<ClearReport>,
    last_clear: Option<Duration>,
    /// Marks to send back.
    echoes: VecDeque<String>,
}

/// Everything a report says about a buffer.
#[derive(Debug, Default)]
pub(super) struct PlayoutReport {
    pub(super) media_bytes: u64,
    pub(super) media_messages: u64,
    pub(super) overflow_bytes: u64,
    pub(super) first_audio: Option<Duration>,
    pub(super) stretches: Vec<Stretch>,
    pub(super) clears: Vec<ClearReport>,
    pub(super) marks: Vec<MarkReport>,
    pub(super) heard_bytes: u64,
    pub(super) cleared_bytes: u64,
    pub(super) unheard_bytes: u64,
}

impl Playout {
    /// Plays up to `now`. What was heard comes back; marks that were reached wait in [`Self::poll_echo`].
    pub(super) fn advance(&mut self, now: Duration) -> Option<Heard> {
        let mut heard = None;
        if !self.queue.is_empty() {
            let at = self.front_at;
            let whole = (now.saturating_sub(at).as_micros() as u64 / BYTE_MICROS) as usize;
            let count = whole.min(self.queue.len());
            if count > 0 {
                self.first_audio.get_or_insert(at);
                let bytes = self.queue.drain(..count).collect();
                self.front_at = at + sounding(count as u64);
                self.heard += count as u64;
                if let Some(stretch) = self.stretches.last_mut() {
                    stretch.heard_bytes += count as u64;
                }
                heard = Some(Heard { at, bytes });
            }
        }
        // A mark is reached when everything before it has sounded, to the microsecond.
        while let Some(&number) = self.waiting.front() {
            let at_byte = self.marks[number].at_byte;
            if at_byte > self.position() {
                break;
            }
            let over = sounding(self.position() - at_byte);
            let reached = self.front_at.saturating_sub(over);
            self.waiting.pop_front();
            self.give_back(number, reached, MarkReturn::Played);
        }
        if self.queue.is_empty() {
            self.playing = false;
        }
        heard
    }

    /// When the next mark is reached, so that it can go back on time.
    pub(super) fn next_mark_at(&self) -> Option<Duration> {
        let number = *self.waiting.front()?;
        Some(self.front_at + sounding(self.marks[number].at_byte.saturating_sub(self.position())))
    }

    /// Takes in audio.
    pub(super) fn audio(&mut self, now: Duration, bytes: &[u8]) -> Option<Heard> {
        let heard = self.advance(now);
        self.messages += 1;
        let room = LARGEST_BUFFER.saturating_sub(self.queue.len());
        let accepted = &bytes[..bytes.len().min(room)];
        self.overflow += (bytes.len() - accepted.len()) as u64;
        if accepted.is_empty() {
            return heard;
        }
        if !self.playing {
            self.playing = true;
            self.front_at = now;
            let from_byte = self.arrived;
            self.stretches.push(Stretch { since_ms: ms(now), from_byte, heard_bytes: 0, cleared_bytes: 0 });
        }
        self.queue.extend(accepted);
        self.arrived += accepted.len() as u64;
        self.note_after_clear(now, accepted.len() as u64);
        heard
    }

    /// Takes in a mark.
    pub(super) fn mark(&mut self, now: Duration, name: &str) -> Option<Heard> {
        let heard = self.advance(now);
        let number = self.marks.len();
        self.marks.push(MarkReport {
            name: name.into(),
            received_ms: ms(now),
            at_byte: self.arrived,
            returned_ms: None,
            returned: None,
        });
        if self.within_clear(now)
            && let Some(piece) = self.clears.last_mut().and_then(|clear| clear.followed_by.last_mut())
            && piece.mark.is_none()
        {
            piece.mark = Some(name.into());
        }
        if self.queue.is_empty() {
            self.give_back(number, now, MarkReturn::Empty);
        } else {
            self.waiting.push_back(number);
        }
        heard
    }

    /// Drops everything that has not sounded; all waiting marks go back.
    pub(super) fn clear(&mut self, now: Duration) -> Option<Heard> {
        let heard = self.advance(now);
        let cleared_bytes = self.queue.len() as u64;
        let at_byte = self.position();
        self.queue.clear();
        self.cleared += cleared_bytes;
        if self.playing
            && let Some(stretch) = self.stretches.last_mut()
        {
            stretch.cleared_bytes += cleared_bytes;
        }
        self.playing = false;
        let mut flushed_marks = Vec::new();
        for number in std::mem::take(&mut self.waiting) {
            flushed_marks.push(self.marks[number].name.clone());
            self.give_back(number, now, MarkReturn::Flushed);
        }
        self.clears.push(ClearReport {
            at_ms: ms(now),
            heard_bytes: self.heard,
            at_byte,
            cleared_bytes,
            flushed_marks,
            followed_by: Vec::new(),
        });
        self.last_clear = Some(now);
        heard
    }

    /// The next mark to send back.
    pub(super) fn poll_echo(&mut self) -> Option<String> {
        self.echoes.pop_front()
    }

    pub(super) fn into_report(self) -> PlayoutReport {
        PlayoutReport {
            media_bytes: self.arrived,
            media_messages: self.messages,
            overflow_bytes: self.overflow,
            first_audio: self.first_audio,
            stretches: self.stretches,
            clears: self.clears,
            marks: self.marks,
            heard_bytes: self.heard,
            cleared_bytes: self.cleared,
            unheard_bytes: self.queue.len() as u64,
        }
    }

    /// Bytes that were heard or cleared.
    fn position(&self) -> u64 {
        self.arrived - self.queue.len() as u64
    }

    fn give_back(&mut self, number: usize, at: Duration, why: MarkReturn) {
        let mark = &mut self.marks[number];
        mark.returned_ms = Some(ms(at));
        mark.returned = Some(why);
        self.echoes.push_back(mark.name.clone());
    }

    fn within_clear(&self, now: Duration) -> bool {
        self.last_clear.is_some_and(|at| now < at + AFTER_CLEAR)
    }

    fn note_after_clear(&mut self, now: Duration, bytes: u64) {
        if !self.within_clear(now) {
            return;
        }
        let Some(clear) = self.clears.last_mut() else { return };
        match clear.followed_by.last_mut().filter(|piece| piece.mark.is_none()) {
            Some(piece) => piece.bytes += bytes,
            None => clear.followed_by.push(AudioAfterClear { at_ms: ms(now), bytes, mark: None }),
        }
    }
}

const fn sounding(bytes: u64) -> Duration {
    Duration::from_micros(bytes * BYTE_MICROS)
}

/// Milliseconds for a report, to the microsecond.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn audio(ms: usize) -> Vec<u8> {
        (0..ms * 8).map(|n| (n % 251) as u8).collect()
    }

    fn echoes(playout: &mut Playout) -> Vec<String> {
        std::iter::from_fn(|| playout.poll_echo()).collect()
    }

    #[test]
    fn audio_sounds_at_eight_bytes_a_millisecond() {
        let mut playout = Playout::default();
        assert_eq!(playout.audio(at(100), &audio(60)), None);
        let heard = playout.advance(at(130)).unwrap();
        assert_eq!((heard.at, heard.bytes), (at(100), audio(60)[..240].to_vec()));
        assert_eq!(playout.advance(Duration::from_micros(130_124)), None);
        assert_eq!(playout.advance(Duration::from_micros(130_125)).unwrap().bytes, [audio(60)[240]]);
        assert_eq!(playout.advance(at(900)).unwrap().bytes.len(), 239);
        assert_eq!(playout.into_report().heard_bytes, 480);
    }

    #[test]
    fn a_mark_goes_back_when_the_audio_before_it_has_sounded() {
        let mut playout = Playout::default();
        playout.audio(at(0), &audio(100));
        playout.mark(at(0), "a");
        playout.audio(at(10), &audio(50));
        playout.mark(at(10), "b");
        assert_eq!(playout.next_mark_at(), Some(at(100)));
        playout.advance(at(99));
        assert_eq!(echoes(&mut playout), [""; 0]);
        // Looked at late, it still counts as reached on time.
        playout.advance(at(120));
        assert_eq!(echoes(&mut playout), ["a"]);
        assert_eq!(playout.next_mark_at(), Some(at(150)));
        playout.advance(at(1000));
        assert_eq!(echoes(&mut playout), ["b"]);
        let report = playout.into_report();
        let marks: Vec<_> =
            report.marks.iter().map(|mark| (mark.at_byte, mark.returned_ms, mark.returned)).collect();
        let played = Some(MarkReturn::Played);
        assert_eq!(marks, [(800, Some(100.0), played), (1200, Some(150.0), played)]);
    }

    #[test]
    fn a_mark_goes_back_at_once_when_nothing_is_waiting() {
        let mut playout = Playout::default();
        playout.mark(at(5), "early");
        assert_eq!(echoes(&mut playout), ["early"]);
        playout.audio(at(10), &audio(20));
        playout.mark(at(31), "late");
        assert_eq!(echoes(&mut playout), ["late"]);
        let report = playout.into_report();
        assert_eq!(report.marks[1].returned, Some(MarkReturn::Empty));
    }

    #[test]
    fn clear_says_exactly_what_was_heard_and_gives_all_marks_back() {
        let mut playout = Playout::default();
        playout.audio(at(0), &audio(100));
        playout.mark(at(0), "g1:x:100");
        playout.audio(at(0), &audio(400));
        playout.mark(at(0), "g1:x:500");
        let heard = playout.clear(Duration::from_micros(150_300)).unwrap();
        assert_eq!(heard.bytes.len(), 1202);
        assert_eq!(echoes(&mut playout), ["g1:x:100", "g1:x:500"]);
        // What comes afterwards sounds at once.
        playout.audio(at(200), &audio(20));
        playout.mark(at(201), "g2:y:20");
        playout.audio(at(202), &audio(10));
        playout.advance(at(500));
        playout.audio(at(1200), &audio(10));
        let report = playout.into_report();
        let clear = &report.clears[0];
        assert_eq!((clear.heard_bytes, clear.at_byte, clear.cleared_bytes), (1202, 1202, 2798));
        assert_eq!(clear.flushed_marks, ["g1:x:500"]);
        let after: Vec<_> =
            clear.followed_by.iter().map(|piece| (piece.bytes, piece.mark.as_deref())).collect();
        assert_eq!(after, [(160, Some("g2:y:20")), (80, None)]);
        assert_eq!(report.stretches[0].cleared_bytes, 2798);
        let second = &report.stretches[1];
        assert_eq!((second.since_ms, second.from_byte, second.heard_bytes), (200.0, 4000, 240));
        assert_eq!((report.heard_bytes, report.cleared_bytes, report.unheard_bytes), (1442, 2798, 80));
    }

    #[test]
    fn a_gap_begins_a_new_stretch_and_plays_nothing_twice() {
        let mut playout = Playout::default();
        playout.audio(at(0), &audio(20));
        playout.audio(at(20), &audio(20));
        playout.audio(at(55), &audio(20));
        playout.advance(at(60));
        playout.advance(at(200));
        let report = playout.into_report();
        let stretches: Vec<_> =
            report.stretches.iter().map(|stretch| (stretch.since_ms, stretch.heard_bytes)).collect();
        assert_eq!(stretches, [(0.0, 160), (20.0, 160), (55.0, 160)]);
    }

    #[test]
    fn a_clear_of_nothing_says_so() {
        let mut playout = Playout::default();
        playout.clear(at(10));
        let report = playout.into_report();
        assert_eq!((report.clears[0].cleared_bytes, report.clears[0].heard_bytes), (0, 0));
        assert_eq!(report.stretches, []);
    }

    #[test]
    fn more_than_ten_minutes_are_thrown_away() {
        let mut playout = Playout::default();
        playout.audio(at(0), &vec![0; LARGEST_BUFFER - 10]);
        playout.audio(at(0), &[0; 30]);
        let report = playout.into_report();
        assert_eq!((report.overflow_bytes, report.unheard_bytes), (20, LARGEST_BUFFER as u64));
    }
}
