//! The caller's audio on its way to the model: kept until the model is ready, gaps filled, and its two time axes.
//!
//! The model counts milliseconds of audio it was given. Twilio counts milliseconds of the stream. They part wherever
//! audio was missing or silence was added, so every such place is remembered.

use std::collections::VecDeque;
use std::time::Duration;

use crate::audio::g711::SILENCE;
use crate::clock::CallTime;

/// mu-law at 8 kHz.
const BYTES_PER_MS: u64 = 8;
/// Largest gap that is filled; after a longer one the axes part.
const MAX_GAP_MS: u64 = 10_000;
/// What is sent is kept for so long, always: what a model was given last before it died, it has not heard. A connection
/// without a word is in doubt after a second and a half.
const TRAIL_BYTES: usize = 1_600 * BYTES_PER_MS as usize;
/// Jitter of `media.timestamp` that is no gap.
const GAP_TOLERANCE_MS: u64 = 20;
/// Audio kept while the model is not ready: what a caller says before the answer, and no more.
const MAX_KEPT_BYTES: usize = 5_000 * BYTES_PER_MS as usize;
/// Silence in the input, during the caller's turn, after which the turn is given silence.
pub(super) const STALL_AFTER: Duration = Duration::from_millis(750);
/// Silence given then, enough for the model to close the turn.
const STALL_SILENCE_MS: u64 = 1_000;
/// Places where the axes part; more are not needed, because only recent positions are asked for.
const MAX_BENDS: usize = 64;

/// What to do with a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Send `gap_ms` of silence and then the frame.
    Send { gap_ms: u64 },
    /// It is kept for later.
    Kept,
    /// There was no room to keep it without dropping older audio, which was dropped.
    KeptWithLoss,
}

/// Axis and hold of one call's caller audio.
#[derive(Debug, Default)]
pub(super) struct CallerAudio {
    ready: bool,
    kept: VecDeque<u8>,
    /// Stream position of the first kept byte.
    kept_from_ms: u64,
    /// More of what is sent is kept, as far as there is room.
    following: bool,
    trail: VecDeque<u8>,
    /// Stream position where the turn begins that the model has not closed.
    open_from_ms: Option<u64>,
    /// Stream position where the first turn begins that it has closed and nobody has written down yet.
    unwritten_from_ms: Option<u64>,
    /// Stream position where the last turn ended that it has closed.
    closed_to_ms: u64,
    /// Bytes given to the model.
    appended_bytes: u64,
    /// Stream position after the last frame, silence that we added included.
    stream_ms: Option<u64>,
    /// (appended ms, stream ms) where the axes part, oldest first.
    bends: VecDeque<(u64, u64)>,
    last_frame_at: CallTime,
    /// When stream position 0 was, by our clock: the latest estimate.
    stream_zero: CallTime,
    stalled_ms: u64,
}

impl CallerAudio {
    /// A frame of `bytes` bytes that starts at `timestamp_ms` of the stream.
    pub(super) fn take(&mut self, now: CallTime, timestamp_ms: u64, ulaw: &[u8]) -> Taken {
        let duration_ms = ulaw.len() as u64 / BYTES_PER_MS;
        self.last_frame_at = now;
        self.stalled_ms = 0;
        let end_ms = timestamp_ms.saturating_add(duration_ms); // The peer may say any number.
        self.stream_zero = now - Duration::from_millis(end_ms);
        let expected = self.stream_ms.unwrap_or(timestamp_ms);
        let gap = timestamp_ms.saturating_sub(expected);
        let gap_ms = if gap > GAP_TOLERANCE_MS { gap.min(MAX_GAP_MS) } else { 0 };
        if !self.ready {
            return self.keep(timestamp_ms, end_ms, gap_ms, ulaw);
        }
        if self.stream_ms.is_none()
            || gap > MAX_GAP_MS
            || timestamp_ms.saturating_add(GAP_TOLERANCE_MS) < expected
        {
            // Not to be made good by silence: from here on the axes have another distance.
            self.bend(timestamp_ms - gap_ms.min(timestamp_ms));
        }
        self.appended_bytes += gap_ms * BYTES_PER_MS + ulaw.len() as u64;
        self.stream_ms = Some(end_ms);
        self.remember_silence(gap_ms);
        self.trail.extend(ulaw);
        self.trim_trail();
        Taken::Send { gap_ms }
    }

    fn remember_silence(&mut self, ms: u64) {
        let bytes = ms.saturating_mul(BYTES_PER_MS) as usize;
        self.trail.extend(std::iter::repeat_n(SILENCE, bytes.min(MAX_KEPT_BYTES)));
    }

    fn trim_trail(&mut self) {
        let in_a_turn = self.open_from_ms.is_some() || self.unwritten_from_ms.is_some();
        let room = if self.following || in_a_turn { MAX_KEPT_BYTES } else { TRAIL_BYTES };
        let excess = self.trail.len().saturating_sub(room);
        self.trail.drain(..excess);
        if room == TRAIL_BYTES && self.trail.capacity() > 2 * TRAIL_BYTES {
            self.trail.shrink_to(2 * TRAIL_BYTES); // Most of the time nobody says anything long.
        }
    }

    fn keep(&mut self, timestamp_ms: u64, end_ms: u64, gap_ms: u64, ulaw: &[u8]) -> Taken {
        if self.kept.is_empty() {
            self.kept_from_ms = timestamp_ms;
        }
        self.kept.extend(std::iter::repeat_n(SILENCE, (gap_ms * BYTES_PER_MS) as usize));
        self.kept.extend(ulaw);
        self.stream_ms = Some(end_ms);
        let excess = self.kept.len().saturating_sub(MAX_KEPT_BYTES);
        self.kept.drain(..excess);
        self.kept_from_ms = self.kept_from_ms.saturating_add(excess as u64 / BYTES_PER_MS);
        if excess > 0 { Taken::KeptWithLoss } else { Taken::Kept }
    }

    /// Whether more of what is sent shall be kept, because it may have to be sent again.
    pub(super) const fn follow(&mut self, on: bool) {
        self.following = on;
    }

    /// The model has heard a turn begin.
    pub(super) const fn turn_began(&mut self, at: CallTime) {
        self.open_from_ms = Some(at.as_millis());
    }

    /// The model has heard it end. Until it is written down, only its sound tells what was said.
    pub(super) fn turn_ended(&mut self, at: CallTime) {
        let from_ms = self.open_from_ms.take();
        self.unwritten_from_ms = self.unwritten_from_ms.or(from_ms);
        self.closed_to_ms = at.as_millis();
    }

    /// All turns that were closed are written down.
    pub(super) const fn turns_are_written(&mut self) {
        self.unwritten_from_ms = None;
    }

    /// The model is gone: what comes is kept until the next one is ready, and with it what there is of the turn that is
    /// being spoken, or of the last time `again`, but nothing of turns that were closed, unless they are `unwritten` and
    /// have to be heard again. True: it is all of these turns.
    pub(super) fn hold(&mut self, again: Duration, unwritten: bool) -> bool {
        self.ready = false;
        self.following = false;
        self.kept = std::mem::take(&mut self.trail);
        let end_ms = self.stream_ms.unwrap_or_default();
        let first_ms = end_ms.saturating_sub(self.kept.len() as u64 / BYTES_PER_MS);
        let unwritten_from_ms = self.unwritten_from_ms.take().filter(|_| unwritten);
        let open_from_ms = unwritten_from_ms.or(self.open_from_ms);
        self.open_from_ms = None;
        let again_ms = u64::try_from(again.as_millis()).unwrap_or(u64::MAX);
        let from_ms = open_from_ms.unwrap_or(self.closed_to_ms.max(end_ms.saturating_sub(again_ms)));
        self.kept_from_ms = from_ms.clamp(first_ms, end_ms);
        self.kept.drain(..((self.kept_from_ms - first_ms) * BYTES_PER_MS) as usize);
        open_from_ms.is_some_and(|from_ms| from_ms >= first_ms && !self.kept.is_empty())
    }

    /// Where on the stream begins what is kept.
    pub(super) const fn kept_from(&self) -> CallTime {
        CallTime::from_millis(self.kept_from_ms)
    }

    /// A model is ready: what was kept, to be sent first. It counts from there.
    pub(super) fn release(&mut self) -> Vec<u8> {
        self.ready = true;
        self.appended_bytes = 0;
        self.bends.clear();
        let kept = Vec::from(std::mem::take(&mut self.kept));
        if !kept.is_empty() {
            self.bend(self.kept_from_ms);
            self.appended_bytes += kept.len() as u64;
        } else if let Some(at) = self.stream_ms {
            self.bend(at);
        }
        kept
    }

    /// When an open turn has been without input for too long.
    pub(super) fn stalls_at(&self) -> Option<CallTime> {
        let enough = self.stalled_ms >= MAX_GAP_MS;
        (self.ready && !enough).then(|| self.last_frame_at + STALL_AFTER)
    }

    /// Gives an open turn silence: how many milliseconds.
    pub(super) fn fill_stall(&mut self, now: CallTime) -> u64 {
        self.last_frame_at = now;
        self.stalled_ms += STALL_SILENCE_MS;
        self.appended_bytes += STALL_SILENCE_MS * BYTES_PER_MS;
        // The frames that are missing may still come: the silence stands in for them on the stream's axis.
        if let Some(at) = &mut self.stream_ms {
            *at = at.saturating_add(STALL_SILENCE_MS);
            self.remember_silence(STALL_SILENCE_MS);
        }
        STALL_SILENCE_MS
    }

    /// The stream's time of a position the model named.
    pub(super) fn stream_time(&self, appended_ms: u64) -> CallTime {
        let bend = self.bends.iter().rev().find(|(appended, _)| *appended <= appended_ms);
        let (appended, stream) = bend.copied().unwrap_or((0, 0));
        CallTime::from_millis(stream.saturating_add(appended_ms.saturating_sub(appended)))
    }

    /// The same moment by our own clock.
    pub(super) fn arrival_time(&self, stream_time: CallTime) -> CallTime {
        self.stream_zero + stream_time.since_start()
    }

    fn bend(&mut self, stream_ms: u64) {
        if self.bends.len() == MAX_BENDS {
            self.bends.pop_front();
        }
        self.bends.push_back((self.appended_bytes / BYTES_PER_MS, stream_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [u8; 160] = [0x55; 160];

    fn ready() -> CallerAudio {
        let mut audio = CallerAudio::default();
        assert!(audio.release().is_empty());
        audio
    }

    fn at(ms: u64) -> CallTime {
        CallTime::from_millis(ms)
    }

    #[test]
    fn a_gap_in_the_timestamps_is_filled_and_the_axes_stay_together() {
        let mut audio = ready();
        assert_eq!(audio.take(at(25), 5, &FRAME), Taken::Send { gap_ms: 0 });
        assert_eq!(audio.take(at(45), 25, &FRAME), Taken::Send { gap_ms: 0 });
        assert_eq!(audio.take(at(265), 245, &FRAME), Taken::Send { gap_ms: 200 });
        assert_eq!(audio.stream_time(240), at(245), "the first frame did not start at 0");
    }

    #[test]
    fn at_most_ten_seconds_are_filled() {
        let mut audio = ready();
        audio.take(at(20), 0, &FRAME);
        assert_eq!(audio.take(at(60_040), 60_020, &FRAME), Taken::Send { gap_ms: 10_000 });
        assert_eq!(audio.stream_time(10_020), at(60_020), "the axes part by what was not filled");
        assert_eq!(audio.stream_time(10), at(10));
    }

    #[test]
    fn an_open_turn_without_input_is_given_silence_that_stands_in_for_late_frames() {
        let mut audio = ready();
        audio.take(at(20), 0, &FRAME);
        assert_eq!(audio.stalls_at(), Some(at(770)));
        assert_eq!(audio.fill_stall(at(770)), 1000);
        assert_eq!(audio.take(at(2020), 2000, &FRAME), Taken::Send { gap_ms: 980 });
    }

    #[test]
    fn audio_before_the_model_is_ready_is_kept_up_to_five_seconds() {
        let mut audio = CallerAudio::default();
        for n in 0..250 {
            assert_eq!(audio.take(at(n * 20 + 20), n * 20, &FRAME), Taken::Kept);
        }
        assert_eq!(audio.take(at(5020), 5000, &FRAME), Taken::KeptWithLoss);
        assert_eq!(audio.release().len(), 40_000);
        assert_eq!(audio.take(at(5040), 5020, &FRAME), Taken::Send { gap_ms: 0 });
        assert_eq!(audio.stream_time(0), at(20), "20 ms were lost at the start");
        assert_eq!(audio.stream_time(5000), at(5020));
    }

    #[test]
    fn the_next_model_hears_the_turn_that_is_being_spoken_from_its_beginning() {
        let mut audio = ready();
        audio.follow(true);
        for n in 0..50 {
            audio.take(at(n * 20 + 20), n * 20, &FRAME);
        }
        audio.turn_began(at(400));
        assert!(audio.hold(Duration::from_millis(100), false));
        assert_eq!(audio.take(at(1_020), 1_000, &FRAME), Taken::Kept);
        assert_eq!(audio.release().len(), (620 * BYTES_PER_MS) as usize);
        assert_eq!(audio.stream_time(0), at(400));
    }

    #[test]
    fn the_next_model_hears_nothing_again_of_a_turn_that_was_closed() {
        let again = |ms| {
            let mut audio = ready();
            audio.follow(true);
            for n in 0..50 {
                audio.take(at(n * 20 + 20), n * 20, &FRAME);
            }
            audio.turn_began(at(100));
            audio.turn_ended(at(700));
            assert!(!audio.hold(Duration::from_millis(ms), false));
            audio.release().len() as u64 / BYTES_PER_MS
        };
        assert_eq!((again(200), again(1_000)), (200, 300));
    }

    #[test]
    fn a_turn_that_was_closed_and_never_written_down_is_heard_again_with_what_followed() {
        let again = |written: bool| {
            let mut audio = ready();
            for n in 0..150 {
                audio.take(at(n * 20 + 20), n * 20, &FRAME);
                match n {
                    10 => audio.turn_began(at(100)),
                    140 => audio.turn_ended(at(2_700)),
                    145 if written => audio.turns_are_written(),
                    _ => {}
                }
            }
            let whole = audio.hold(Duration::MAX, true);
            (whole, audio.release().len() as u64 / BYTES_PER_MS)
        };
        assert_eq!((again(false), again(true)), ((true, 2_900), (false, 300)));
    }

    #[test]
    fn a_turn_whose_beginning_was_not_kept_is_not_heard_whole() {
        let mut audio = ready();
        for n in 0..100 {
            audio.take(at(n * 20 + 20), n * 20, &FRAME);
        }
        audio.turn_began(at(300)); // Told more than a second and a half too late.
        assert!(!audio.hold(Duration::MAX, false));
        assert_eq!(audio.release().len(), TRAIL_BYTES);
    }

    #[test]
    fn what_is_kept_of_a_long_turn_is_given_back_when_it_is_over() {
        let mut audio = ready();
        audio.turn_began(at(0));
        for n in 0..400 {
            audio.take(at(n * 20 + 20), n * 20, &FRAME);
        }
        assert_eq!(audio.trail.len(), MAX_KEPT_BYTES);
        audio.turn_ended(at(8_000));
        audio.turns_are_written();
        audio.take(at(8_020), 8_000, &FRAME);
        assert!(audio.trail.capacity() <= 2 * TRAIL_BYTES, "{}", audio.trail.capacity());
    }

    #[test]
    fn input_that_stays_away_is_filled_for_ten_seconds_and_no_longer() {
        let mut audio = ready();
        audio.take(at(20), 0, &FRAME);
        let mut filled = 0;
        while let Some(due) = audio.stalls_at() {
            filled += audio.fill_stall(due);
        }
        assert_eq!(filled, 10_000);
    }
}
