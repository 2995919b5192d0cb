//! Audio that says which frame it is, and is still readable after mu-law and resampling.
//!
//! A frame of 20 ms holds 20 bits, one a millisecond: a whole cycle of 1 kHz, upright for 1 and upside down for 0. That
//! is in the middle of the telephone band, so any filter that lets speech through lets it through.

use crate::audio::{AudioFormat, g711};

/// Milliseconds of a frame, and bits in it.
pub(super) const FRAME_MS: usize = 20;
/// Numbers of frames start again from 0 here: after 82 seconds.
pub(super) const SEQUENCES: u32 = 1 << VALUE_BITS;

const VALUE_BITS: u32 = 12;
const CHECK_BITS: u32 = 7;
/// Loud enough to stand out of any noise, far from clipping.
const AMPLITUDE: f64 = 9_000.0;
/// Mean deviation of a sample below which there is nothing to read.
const SILENCE: f32 = 200.0;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Which frame of its direction it is, below [`SEQUENCES`].
    Frame(u16),
    /// Which call it belongs to, below [`SEQUENCES`].
    Call(u16),
}

impl Mark {
    fn word(self) -> u32 {
        let (kind, value) = match self {
            Self::Frame(value) => (0, value),
            Self::Call(value) => (1, value),
        };
        let said = (kind << VALUE_BITS) | (u32::from(value) % SEQUENCES);
        stir((said << CHECK_BITS) | check(said))
    }

    /// Frames count on; where one says which call it is, nothing can be told.
    fn may_precede(self, next: Self) -> bool {
        match (self, next) {
            (Self::Frame(this), Self::Frame(next)) => (u32::from(this) + 1) % SEQUENCES == u32::from(next),
            (Self::Call(this), Self::Call(next)) => this == next,
            _ => true,
        }
    }

    fn read(word: u32) -> Option<Self> {
        let word = unstir(word);
        let said = word >> CHECK_BITS;
        if check(said) != word & ((1 << CHECK_BITS) - 1) {
            return None;
        }
        let value = (said % SEQUENCES) as u16;
        Some(if said >> VALUE_BITS == 0 { Self::Frame(value) } else { Self::Call(value) })
    }
}

/// CRC-7 (polynomial x^7 + x^3 + 1, as in SD cards) over 13 bits, upside down so that silence is no mark.
fn check(said: u32) -> u32 {
    let mut rest = said << CHECK_BITS;
    for bit in (CHECK_BITS..=VALUE_BITS + CHECK_BITS).rev() {
        if (rest >> bit) & 1 == 1 {
            rest ^= 0b1000_1001 << (bit - CHECK_BITS);
        }
    }
    !rest & ((1 << CHECK_BITS) - 1)
}

/// Neighbouring numbers look alike, so that two frames read some bits off would look like two neighbours. Stirred, they
/// look like anything.
// Multiplying by an odd number, and folding the upper half onto the lower: both can be undone in 20 bits.
const fn stir(word: u32) -> u32 {
    let product = word.wrapping_mul(STIRRER) & ALL_BITS;
    product ^ (product >> (FRAME_MS / 2))
}

const fn unstir(word: u32) -> u32 {
    (word ^ (word >> (FRAME_MS / 2))).wrapping_mul(UNSTIRRER) & ALL_BITS
}

const ALL_BITS: u32 = (1 << FRAME_MS) - 1;
const STIRRER: u32 = 0x9_E37B;
/// Its inverse modulo 2^20.
const UNSTIRRER: u32 = 0xA83B3;

/// Writes frames in one format.
#[derive(Debug)]
pub(super) struct Writer {
    /// A millisecond of 0 and one of 1.
    bits: [Vec<u8>; 2],
}

impl Writer {
    pub(super) fn new(format: AudioFormat) -> Self {
        Self { bits: [-1.0, 1.0].map(|sign| millisecond(format, sign)) }
    }

    /// Appends a frame.
    pub(super) fn write(&self, mark: Mark, out: &mut Vec<u8>) {
        let word = mark.word();
        for bit in (0..FRAME_MS).rev() {
            out.extend_from_slice(&self.bits[((word >> bit) & 1) as usize]);
        }
    }
}

fn millisecond(format: AudioFormat, sign: f64) -> Vec<u8> {
    let samples = cycle(samples_per_ms(format)).map(|sample| (sign * AMPLITUDE * sample).round() as i16);
    match format {
        AudioFormat::Pcm24k => samples.flat_map(i16::to_le_bytes).collect(),
        AudioFormat::Pcmu => samples.map(g711::encode).collect(),
    }
}

fn cycle(samples: usize) -> impl Iterator<Item = f64> {
    // Half a sample late: then the cycle is the same read backwards, and no sample is wasted on a zero.
    (0..samples).map(move |n| ((n as f64 + 0.5) / samples as f64 * std::f64::consts::TAU).sin())
}

const fn samples_per_ms(format: AudioFormat) -> usize {
    match format {
        AudioFormat::Pcm24k => 24,
        AudioFormat::Pcmu => 8,
    }
}

/// A frame in a stream of audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) mark: Mark,
    /// Where it begins, in bytes since the first one.
    pub(super) at_byte: u64,
}

/// Finds frames in a stream of audio, wherever they begin.
#[derive(Debug)]
pub(super) struct Reader {
    format: AudioFormat,
    reference: Vec<f32>,
    samples: Vec<f32>,
    /// Sample number of the first of `samples`.
    from: u64,
    /// The next frame begins at the first of `samples`.
    in_step: bool,
    half: Option<u8>,
}

impl Reader {
    pub(super) fn new(format: AudioFormat) -> Self {
        let reference = cycle(samples_per_ms(format)).map(|sample| sample as f32).collect();
        Self { format, reference, samples: Vec::new(), from: 0, in_step: false, half: None }
    }

    /// Takes the next audio and appends the frames that are complete with it.
    pub(super) fn push(&mut self, audio: &[u8], found: &mut Vec<Found>) {
        self.take(audio);
        let frame = FRAME_MS * self.reference.len();
        let mut used = 0;
        loop {
            let rest = &self.samples[used..];
            if self.in_step {
                if rest.len() < frame {
                    break;
                }
                if let Some((mark, _)) = self.read(rest) {
                    found.push(Found { mark, at_byte: self.byte(used) });
                    used += frame;
                } else {
                    self.in_step = false;
                }
            } else {
                // A frame that begins in the next 20 ms is complete after 40, and the two after it after 80.
                if rest.len() < 4 * frame {
                    break;
                }
                if let Some(skip) = self.search(rest) {
                    used += skip;
                    self.in_step = true;
                } else {
                    used += frame;
                }
            }
        }
        self.samples.drain(..used);
        self.from += used as u64;
    }

    /// Bytes that last one frame.
    pub(super) fn frame_bytes(&self) -> u64 {
        (FRAME_MS * self.format.bytes_per_ms()) as u64
    }

    fn byte(&self, index: usize) -> u64 {
        (self.from + index as u64) * (self.format.bytes_per_ms() / self.reference.len()) as u64
    }

    fn take(&mut self, audio: &[u8]) {
        match self.format {
            AudioFormat::Pcmu => self.samples.extend(audio.iter().map(|&code| f32::from(g711::decode(code)))),
            AudioFormat::Pcm24k => {
                let mut audio = audio;
                if let (Some(low), [high, rest @ ..]) = (self.half.take(), audio) {
                    self.samples.push(i16::from_le_bytes([low, *high]).into());
                    audio = rest;
                }
                let (samples, half) = audio.as_chunks();
                self.samples.extend(samples.iter().map(|&bytes| f32::from(i16::from_le_bytes(bytes))));
                self.half = half.first().copied();
            }
        }
    }

    /// Where in the first 20 ms a frame begins that can be read best.
    ///
    /// A frame read some milliseconds off is as clear as one read right, and one of 128 has a fitting check. So the one
    /// after it must fit too.
    fn search(&self, samples: &[f32]) -> Option<usize> {
        let frame = FRAME_MS * self.reference.len();
        let scores = (0..frame).filter_map(|skip| {
            let (mark, score) = self.read(&samples[skip..])?;
            let (next, _) = self.read(&samples[skip + frame..])?;
            let (third, _) = self.read(&samples[skip + 2 * frame..])?;
            (mark.may_precede(next) && next.may_precede(third)).then_some((skip, score))
        });
        scores.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(skip, _)| skip)
    }

    /// What the frame at the start says, and how clearly.
    fn read(&self, samples: &[f32]) -> Option<(Mark, f32)> {
        let mut word = 0;
        let mut score = 0.0;
        for bit in samples.chunks_exact(self.reference.len()).take(FRAME_MS) {
            let likeness: f32 = bit.iter().zip(&self.reference).map(|(sample, wave)| sample * wave).sum();
            word = (word << 1) | u32::from(likeness > 0.0);
            score += likeness.abs();
        }
        let enough = SILENCE * (FRAME_MS * self.reference.len()) as f32 / 2.0;
        if score < enough {
            return None;
        }
        Some((Mark::read(word)?, score))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::resample::{Downlink, Uplink};

    #[test]
    fn frames_are_found_whatever_comes_before_them_and_however_they_are_cut() {
        for format in [AudioFormat::Pcmu, AudioFormat::Pcm24k] {
            let silence =
                vec![if format == AudioFormat::Pcmu { 0xFF } else { 0 }; 37 * format.bytes_per_ms() + 10];
            let audio = [silence, frames(format, 1..50)].concat();
            for piece in [1, 7, 160, 960, 5_000] {
                let found = read(format, &audio, piece);
                let marks: Vec<Mark> = found.iter().map(|found| found.mark).collect();
                assert_eq!(
                    marks,
                    (1..50).map(Mark::Frame).collect::<Vec<_>>(),
                    "{format} in pieces of {piece}"
                );
                assert_eq!(found[0].at_byte, 37 * format.bytes_per_ms() as u64 + 10);
            }
        }
    }

    #[test]
    fn frames_survive_both_ways_through_the_converters() {
        let mut uplink = Uplink::new(AudioFormat::Pcm24k);
        let mut pcm = Vec::new();
        uplink.push(&frames(AudioFormat::Pcmu, 0..400), &mut pcm);
        let found = read(AudioFormat::Pcm24k, &pcm, 960);
        assert!(found.len() >= 398, "{} of 400", found.len());
        assert_eq!(found[5].at_byte - found[4].at_byte, 960);
        // 1.5 ms of filter, to the sample.
        assert!((found[0].at_byte % 960).abs_diff(72) <= 2, "{:?}", found[0]);

        let mut downlink = Downlink::new(AudioFormat::Pcm24k);
        let mut ulaw = Vec::new();
        downlink.push(&frames(AudioFormat::Pcm24k, 0..400), &mut ulaw);
        downlink.finish(&mut ulaw);
        assert_eq!(read(AudioFormat::Pcmu, &ulaw, 160).len(), 400);
    }

    #[test]
    fn a_frame_that_is_missing_is_missed_and_the_next_ones_are_read() {
        let mut audio = frames(AudioFormat::Pcmu, 0..20);
        audio.drain(160 * 7..160 * 8 + 40);
        let found = read(AudioFormat::Pcmu, &audio, 160);
        let marks: Vec<Mark> = found.iter().map(|found| found.mark).collect();
        let expected = (0..20).filter(|n| ![7, 8].contains(n)).map(Mark::Frame).collect::<Vec<_>>();
        assert_eq!(marks, expected);
    }

    #[test]
    fn a_frame_is_never_taken_for_another_wherever_reading_begins() {
        for first in 0..2_000_u16 {
            let audio = frames(AudioFormat::Pcmu, first..first + 5);
            let cut = 8 * (1 + usize::from(first) % 19);
            let found = read(AudioFormat::Pcmu, &audio[cut..], 160);
            assert!(found.len() == 4 || found.is_empty(), "{first}: {found:?}");
            assert!(
                found.iter().zip(first + 1..).all(|(found, frame)| found.mark == Mark::Frame(frame)),
                "{found:?}"
            );
        }
    }

    #[test]
    fn every_word_reads_back_and_most_others_are_refused() {
        let mut mistaken = 0;
        for value in 0..SEQUENCES as u16 {
            for mark in [Mark::Frame(value), Mark::Call(value)] {
                assert_eq!(Mark::read(mark.word()), Some(mark));
                mistaken +=
                    (0..FRAME_MS).filter(|bit| Mark::read(mark.word() ^ (1 << bit)).is_some()).count();
            }
        }
        assert!(mistaken < 2 * SEQUENCES as usize * FRAME_MS / 100, "{mistaken}");
        assert_eq!(read(AudioFormat::Pcmu, &[0xFF; 8_000], 160), []);
    }

    fn frames(format: AudioFormat, numbers: std::ops::Range<u16>) -> Vec<u8> {
        let writer = Writer::new(format);
        let mut audio = Vec::new();
        for number in numbers {
            writer.write(Mark::Frame(number), &mut audio);
        }
        audio
    }

    fn read(format: AudioFormat, audio: &[u8], piece: usize) -> Vec<Found> {
        let mut reader = Reader::new(format);
        let mut found = Vec::new();
        for piece in audio.chunks(piece) {
            reader.push(piece, &mut found);
        }
        found
    }
}
