//! Streaming conversion between telephone audio (mu-law, 8 kHz) and a model's audio.
//!
//! The same bits come out however the input is cut into pieces.

use std::fmt;
use std::time::Duration;

use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};

use super::{AudioFormat, MODEL_HZ, PHONE_HZ, g711};

/// Telephone samples that are converted at once: 5 ms.
// The block of rubato's `new_custom(.., 160 or 480, 4, ..)`, handed in one at a time: the bits are the same, and input
// that is not cut at 20 ms waits for at most 5 ms. Smaller blocks lower the cut-off, larger ones add delay.
const PHONE_BLOCK: usize = 40;
/// The same 5 ms at the model's rate.
const MODEL_BLOCK: usize = 120;
/// Half a block, by construction of the filter.
const DELAY: Duration = Duration::from_micros(2_500);

/// Converts caller audio for the model. One per call, never reset.
#[derive(Debug)]
pub struct Uplink {
    /// `None`: the model speaks mu-law.
    converter: Option<Converter>,
}

impl Uplink {
    /// A converter to `format`.
    #[must_use]
    pub fn new(format: AudioFormat) -> Self {
        Self {
            converter: match format {
                AudioFormat::Pcm24k => Some(Converter::new(PHONE_HZ, MODEL_HZ, PHONE_BLOCK, MODEL_BLOCK)),
                AudioFormat::Pcmu => None,
            },
        }
    }

    /// Converts mu-law at 8 kHz and appends what is ready to `out`, in the model's format.
    ///
    /// Less than 5 ms of input may wait for the next push. Allocates only when `out` has no room left.
    pub fn push(&mut self, ulaw: &[u8], out: &mut Vec<u8>) {
        let Some(converter) = &mut self.converter else {
            out.extend_from_slice(ulaw);
            return;
        };
        out.reserve((ulaw.len() + PHONE_BLOCK) * 6);
        let mut rest = ulaw;
        while !rest.is_empty() {
            let room = converter.room();
            let (now, later) = rest.split_at(rest.len().min(room.len()));
            for (sample, &code) in room.iter_mut().zip(now) {
                *sample = g711::decode(code).into();
            }
            converter.filled += now.len();
            rest = later;
            if let Some(pcm) = converter.run_if_full() {
                let start = out.len();
                out.resize(start + 2 * pcm.len(), 0);
                for (bytes, &sample) in out[start..].as_chunks_mut().0.iter_mut().zip(pcm) {
                    *bytes = to_i16(sample).to_le_bytes();
                }
            }
        }
    }

    /// How much later a sound leaves than it came in.
    #[must_use]
    pub fn delay(&self) -> Duration {
        if self.converter.is_some() { DELAY } else { Duration::ZERO }
    }
}

/// Converts the model's audio for the telephone, item by item.
#[derive(Debug)]
pub struct Downlink {
    /// `None`: the model speaks mu-law.
    converter: Option<Converter>,
    /// First byte of a sample that was cut in two.
    half: Option<u8>,
    /// Samples of this item that came in.
    taken: usize,
    /// Samples of this item that went out.
    given: usize,
    /// Samples the filter still has to give before the item's first one.
    skip: usize,
}

impl Downlink {
    /// A converter from `format`.
    #[must_use]
    pub fn new(format: AudioFormat) -> Self {
        let converter = match format {
            AudioFormat::Pcm24k => Some(Converter::new(MODEL_HZ, PHONE_HZ, MODEL_BLOCK, PHONE_BLOCK)),
            AudioFormat::Pcmu => None,
        };
        Self { skip: PHONE_BLOCK / 2, converter, half: None, taken: 0, given: 0 }
    }

    /// Converts bytes of the model and appends what is ready to `out`, as mu-law at 8 kHz.
    ///
    /// `bytes` may be of any length and end in the middle of a sample. The last 2.5 to 7.5 ms stay inside until more
    /// comes or [`Downlink::finish`] is called. Allocates only when `out` has no room left.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.converter.is_none() {
            out.extend_from_slice(bytes);
            return;
        }
        out.reserve((bytes.len() + 1 + 2 * MODEL_BLOCK) / 6);
        let mut bytes = bytes;
        if let (Some(low), [high, rest @ ..]) = (self.half, bytes) {
            self.half = None;
            self.push_samples(&[[low, *high]], out);
            bytes = rest;
        }
        let (samples, half) = bytes.as_chunks();
        self.push_samples(samples, out);
        if let [low] = half {
            self.half = Some(*low);
        }
    }

    /// Ends an item: appends what is still inside, and is ready for the next item.
    ///
    /// All of an item's output together lasts as long as its input, rounded to whole samples, and is not shifted.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.converter.is_none() {
            return;
        }
        // A third of the samples that came in, rounded to the nearest.
        let whole = (self.taken + 1) / 3;
        while self.given < whole {
            self.push_samples(&[[0, 0]; MODEL_BLOCK], out);
        }
        out.truncate(out.len() - (self.given - whole));
        if let Some(converter) = &mut self.converter {
            converter.reset();
        }
        (self.half, self.taken, self.given, self.skip) = (None, 0, 0, PHONE_BLOCK / 2);
    }

    /// How much later a sound leaves than it came in, while an item is running.
    #[must_use]
    pub fn delay(&self) -> Duration {
        if self.converter.is_some() { DELAY } else { Duration::ZERO }
    }

    fn push_samples(&mut self, samples: &[[u8; 2]], out: &mut Vec<u8>) {
        let Some(converter) = &mut self.converter else { return };
        self.taken += samples.len();
        let mut rest = samples;
        while !rest.is_empty() {
            let room = converter.room();
            let (now, later) = rest.split_at(rest.len().min(room.len()));
            for (sample, &bytes) in room.iter_mut().zip(now) {
                *sample = i16::from_le_bytes(bytes).into();
            }
            converter.filled += now.len();
            rest = later;
            if let Some(pcm) = converter.run_if_full() {
                let pcm = &pcm[self.skip..];
                self.skip = 0;
                self.given += pcm.len();
                out.extend(pcm.iter().map(|&sample| g711::encode(to_i16(sample))));
            }
        }
    }
}

/// One direction: a block of input, the filter, a block of output. About 12 KiB.
struct Converter {
    filter: Fft<f32>,
    input: Vec<f32>,
    filled: usize,
    output: Vec<f32>,
}

impl Converter {
    fn new(from_hz: u32, to_hz: u32, from_block: usize, to_block: usize) -> Self {
        let filter = Fft::new_custom(
            from_hz as usize,
            to_hz as usize,
            from_block,
            1,
            1,
            WindowFunction::Hann,
            FixedSync::Input,
        )
        .expect("the rates and the block are constants that rubato accepts");
        Self { filter, input: vec![0.0; from_block], filled: 0, output: vec![0.0; to_block] }
    }

    /// Where the next input samples go; never empty.
    fn room(&mut self) -> &mut [f32] {
        &mut self.input[self.filled..]
    }

    /// The output of a full block of input.
    fn run_if_full(&mut self) -> Option<&[f32]> {
        if self.filled < self.input.len() {
            return None;
        }
        self.filled = 0;
        let (from, to) = (self.input.len(), self.output.len());
        let input = SequentialSlice::new(&self.input, 1, from).expect("one channel of this length");
        let mut output =
            SequentialSlice::new_mut(&mut self.output, 1, to).expect("one channel of this length");
        self.filter
            .process_into_buffer(&input, &mut output, None)
            .expect("both blocks have the filter's size");
        Some(&self.output)
    }

    fn reset(&mut self) {
        self.filter.reset();
        self.filled = 0;
    }
}

impl fmt::Debug for Converter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Converter").field("filled", &self.filled).finish_non_exhaustive()
    }
}

/// Nearest whole sample; too loud ones are clipped.
// `f32::round` is a function call on processors without SSE 4.1, which is what we build for.
#[inline]
fn to_i16(sample: f32) -> i16 {
    (sample + 0.5_f32.copysign(sample)) as i16
}
