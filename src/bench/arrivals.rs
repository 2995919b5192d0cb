//! Which frames arrive at one end, and how late.

use std::collections::VecDeque;
use std::time::Duration;

use super::calls::{Call, Lane, Micros, Order, Shared, Way};
use super::mark::{Found, Mark, Reader};
use crate::audio::AudioFormat;

/// Messages whose arrival is remembered: longer than the two frames that finding the beat needs.
const MESSAGES: usize = 64;

/// The audio of one direction of one call.
#[derive(Debug)]
pub(super) struct Arrivals {
    reader: Reader,
    /// (where the message ends, when it came), oldest first.
    messages: VecDeque<(u64, Micros)>,
    bytes: u64,
    order: Order,
    /// The last frame of a burst: when the burst was sent, and its number.
    in_burst: Option<(Micros, u64)>,
    found: Vec<Found>,
}

impl Arrivals {
    pub(super) fn new(format: AudioFormat) -> Self {
        Self {
            reader: Reader::new(format),
            messages: VecDeque::with_capacity(MESSAGES + 1),
            bytes: 0,
            order: Order::default(),
            in_burst: None,
            found: Vec::new(),
        }
    }

    /// Audio came. Returns the number of the call, if it said so.
    pub(super) fn push(
        &mut self,
        at: Micros,
        audio: &[u8],
        lane: Option<(&Call, &Lane)>,
        shared: &Shared,
        way: &mut Way,
    ) -> Option<u16> {
        self.bytes += audio.len() as u64;
        self.messages.push_back((self.bytes, at));
        if self.messages.len() > MESSAGES {
            self.messages.pop_front();
        }
        self.found.clear();
        self.reader.push(audio, &mut self.found);
        let mut number = None;
        let all = std::mem::take(&mut self.found);
        for found in &all {
            match (found.mark, lane) {
                (Mark::Call(told), _) => number = Some(told),
                (Mark::Frame(sequence), Some((call, lane))) => {
                    let counts = |at| shared.counts(at) && call.counts(at);
                    self.frame(sequence, found.at_byte, lane, counts, way);
                }
                (Mark::Frame(_), None) => {}
            }
        }
        self.found = all; // Its memory is used again.
        number
    }

    fn frame(
        &mut self,
        sequence: u16,
        at_byte: u64,
        lane: &Lane,
        counts: impl Fn(Micros) -> bool,
        way: &mut Way,
    ) {
        let (frame, in_order) = self.order.place(sequence);
        let Some(sent) = lane.arrived(frame) else { return };
        self.order.accept(frame);
        if !counts(sent.at) {
            return;
        }
        if sent.again {
            way.duplicated += u64::from(self.order.is_recent(frame));
            return;
        }
        way.received += 1;
        way.reordered += u64::from(!in_order);
        if sent.in_burst {
            way.sent += self.missing_before(sent.at, frame);
        } else {
            let (arrived_at, shift) = self.arrival(at_byte);
            way.timed(Duration::from_micros(arrived_at.saturating_sub(sent.at)), shift);
        }
    }

    /// How many frames of a burst are known to have been sent by the arrival of this one, and were not known before. What
    /// comes after the last that arrives was cut off when the caller spoke, and is not lost.
    fn missing_before(&mut self, burst: Micros, frame: u64) -> u64 {
        let last = self.in_burst.filter(|(same, _)| *same == burst).map(|(_, last)| last);
        self.in_burst = Some((burst, last.map_or(frame, |last| last.max(frame))));
        last.map_or(1, |last| frame.saturating_sub(last))
    }

    /// When the middle of the frame at this byte arrived, and how far into its message the frame begins.
    fn arrival(&self, at_byte: u64) -> (Micros, u64) {
        let frame = self.reader.frame_bytes();
        let of = |byte: u64| self.messages.iter().position(|(end, _)| byte < *end).unwrap_or_default();
        let middle = self.messages[of(at_byte + frame / 2)].1;
        let first = of(at_byte);
        let begins = if first == 0 { 0 } else { self.messages[first - 1].0 };
        let shift_bytes = at_byte.saturating_sub(begins) % frame;
        (middle, shift_bytes * 20_000 / frame)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::mark::Writer;
    use super::*;

    /// A call of which both ends know, inside the measured time.
    fn measured_call() -> (Arc<Shared>, Arc<Call>) {
        let shared = Shared::new();
        shared.open_window();
        let call = shared.add_call(3, "CA3".into(), false);
        call.is_known(0);
        (shared, call)
    }

    #[test]
    fn a_frame_has_arrived_when_its_middle_has() {
        let (shared, call) = measured_call();
        let began = 1_000_000;
        let writer = Writer::new(AudioFormat::Pcmu);
        let mut audio = vec![0xFF; 30];
        for frame in 0..4 {
            writer.write(Mark::Frame(frame), &mut audio);
            call.up.sent(frame.into(), began + 1_000_000 * u64::from(frame));
        }
        writer.write(Mark::Call(3), &mut audio);
        let (mut arrivals, mut way) = (Arrivals::new(AudioFormat::Pcmu), Way::default());
        let mut told = None;
        for (number, message) in audio.chunks(160).enumerate() {
            let at = began + 1_000_000 * number as u64 + 700;
            told = told.or(arrivals.push(at, message, Some((&call, &call.up)), &shared, &mut way));
        }
        assert_eq!((told, way.received, way.reordered, way.late), (Some(3), 4, 0, 0));
        assert!(way.latency.summary().max_us.abs_diff(700) < 20, "30 bytes of shift do not move the middle");
        assert!(way.shift_us.summary().p50_us.abs_diff(3_750) < 20);
    }

    #[test]
    fn frames_missing_inside_a_burst_are_lost_and_those_cut_off_at_its_end_are_not() {
        let (shared, call) = measured_call();
        let writer = Writer::new(AudioFormat::Pcmu);
        let mut audio = Vec::new();
        for frame in 0..40 {
            call.down.sent_in_burst(frame, 1_000_000);
            // Three are dropped on the way, and ten come after a clear, which is to say never.
            if !(10..13).contains(&frame) && frame < 30 {
                writer.write(Mark::Frame(frame as u16), &mut audio);
            }
        }
        let (mut arrivals, mut way) = (Arrivals::new(AudioFormat::Pcmu), Way::default());
        let mut come = |audio: &[u8]| {
            arrivals.push(1_000_700, audio, Some((&call, &call.down)), &shared, &mut way);
        };
        come(&audio);
        come(&audio[..160 * 5]);
        assert_eq!((way.sent, way.received, way.lost(), way.duplicated), (30, 27, 3, 5));
        assert_eq!(way.latency.summary().count, 0, "they are not timed");
    }
}
