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
    found: Vec<Found>,
}

impl Arrivals {
    pub(super) fn new(format: AudioFormat) -> Self {
        Self {
            reader: Reader::new(format),
            messages: VecDeque::with_capacity(MESSAGES + 1),
            bytes: 0,
            order: Order::default(),
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
        let mut call = None;
        for found in &self.found {
            match found.mark {
                Mark::Call(number) => call = Some(number),
                Mark::Frame(sequence) => {
                    let (frame, in_order) = self.order.place(sequence);
                    let Some((call_of, lane)) = lane else { continue };
                    let sent_at = lane.sent_at(frame);
                    if shared.counts(sent_at) && call_of.counts(sent_at) {
                        let (arrived_at, shift) = self.arrival(found.at_byte);
                        let latency = Duration::from_micros(arrived_at.saturating_sub(sent_at));
                        way.arrived(latency, shift, in_order);
                    }
                }
            }
        }
        call
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
    use super::super::mark::Writer;
    use super::*;

    #[test]
    fn a_frame_has_arrived_when_its_middle_has() {
        let shared = Shared::new();
        shared.open_window();
        let call = shared.add_call(3, "CA3".into(), false);
        call.has_begun(0);
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
            let at = call.up.sent_at(0) + 1_000_000 * number as u64 + 700;
            told = told.or(arrivals.push(at, message, Some((&call, &call.up)), &shared, &mut way));
        }
        assert_eq!((told, way.received, way.reordered, way.late), (Some(3), 4, 0, 0));
        assert!(way.latency.summary().max_us.abs_diff(700) < 20, "30 bytes of shift do not move the middle");
        assert!(way.shift_us.summary().p50_us.abs_diff(3_750) < 20);
    }
}
