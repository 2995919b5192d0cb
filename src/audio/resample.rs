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
                out.resize(start + 2 * MODEL_BLOCK, 0);
                let (bytes, _) = out[start..].as_chunks_mut::<2>();
                for (bytes, &sample) in bytes.iter_mut().zip(pcm) {
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

/// One direction: a block of input, the filter, a block of output. 8 KiB, measured.
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
// Added to 1.5 * 2^23, a float has no bits left below one, and its lowest bits are the whole number: three plain
// operations that the compiler does on four samples at once. A cast that saturates is done on each by itself.
#[inline]
#[expect(
    clippy::manual_clamp,
    reason = "each of these is one instruction; a clamp must let through what is no number"
)]
fn to_i16(sample: f32) -> i16 {
    (sample.max(-32_768.0).min(32_767.0) + 12_582_912.0).to_bits() as i16
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use super::*;

    /// Pieces a model or a carrier might send, and ones they would not.
    const PIECES: [usize; 9] = [1, 2, 7, 79, 160, 161, 960, 4_801, usize::MAX];

    #[test]
    fn samples_are_rounded_to_the_nearest_and_clipped() {
        for (sample, whole) in [
            (0.0, 0),
            (-0.4, 0),
            (0.6, 1),
            (-1.6, -2),
            (12_345.4, 12_345),
            (32_766.6, 32_767),
            (40_000.0, i16::MAX),
            (-32_768.4, i16::MIN),
            (-1e9, i16::MIN),
        ] {
            assert_eq!(to_i16(sample), whole, "{sample}");
        }
    }

    #[test]
    fn the_caller_s_audio_is_the_same_however_it_is_cut() {
        let ulaw = encoded(&sine(700.0, PHONE_HZ, 12_000.0, 4_000));
        for format in [AudioFormat::Pcm24k, AudioFormat::Pcmu] {
            let expected = uplink(format, &ulaw, 160);
            assert_eq!(expected.len(), 500 * format.bytes_per_ms());
            for piece in PIECES {
                assert_eq!(uplink(format, &ulaw, piece), expected, "{format} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn the_agent_s_audio_is_the_same_however_it_is_cut() {
        let pcm = bytes(&sine(700.0, MODEL_HZ, 12_000.0, 12_345));
        let expected = downlink(&pcm, 960);
        for piece in PIECES {
            assert_eq!(downlink(&pcm, piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn mu_law_passes_through_unchanged() {
        let codes: Vec<u8> = (0..=255).collect();
        assert_eq!(uplink(AudioFormat::Pcmu, &codes, 7), codes);
        let mut down = Downlink::new(AudioFormat::Pcmu);
        let mut out = Vec::new();
        down.push(&codes, &mut out);
        down.finish(&mut out);
        assert_eq!(out, codes);
        assert_eq!((down.delay(), Uplink::new(AudioFormat::Pcmu).delay()), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn an_item_has_its_exact_length_to_the_nearest_sample() {
        for samples in (0..400).chain([479, 480, 481, 12_000, 24_001, 24_002]) {
            let pcm = bytes(&sine(300.0, MODEL_HZ, 9_000.0, samples));
            let expected = (samples as f64 / 3.0).round() as usize;
            assert_eq!(downlink(&pcm, 96).len(), expected, "{samples} samples");
        }
    }

    #[test]
    fn a_finished_item_leaves_nothing_for_the_next_one() {
        let first = bytes(&sine(300.0, MODEL_HZ, 30_000.0, 1_001));
        let second = bytes(&sine(900.0, MODEL_HZ, 9_000.0, 5_000));
        let mut down = Downlink::new(AudioFormat::Pcm24k);
        let mut out = Vec::new();
        down.push(&first, &mut out);
        down.push(&[0x55], &mut out); // Half a sample is none.
        down.finish(&mut out);
        assert_eq!(out.len(), 334);
        out.clear();
        down.push(&second, &mut out);
        down.finish(&mut out);
        assert_eq!(out, downlink(&second, 960));
        out.clear();
        down.finish(&mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn silence_stays_silence() {
        assert!(uplink(AudioFormat::Pcm24k, &[g711::SILENCE; 1_600], 160).iter().all(|&byte| byte == 0));
        assert_eq!(downlink(&[0; 9_600], 960), [g711::SILENCE; 1_600]);
    }

    #[test]
    fn frames_of_20_ms_come_out_whole() {
        let mut up = Uplink::new(AudioFormat::Pcm24k);
        for _ in 0..3 {
            let mut out = Vec::new();
            up.push(&[g711::SILENCE; 160], &mut out);
            assert_eq!(out.len(), 960);
        }
    }

    #[test]
    fn a_delta_is_out_but_for_the_filter_s_delay_and_a_block() {
        let mut down = Downlink::new(AudioFormat::Pcm24k);
        let (mut out, mut taken) = (Vec::new(), 0);
        for length in [960, 1, 4_801, 77, 9_600] {
            down.push(&vec![0; length], &mut out);
            taken += length;
            let behind = taken as f64 / 48.0 - out.len() as f64 / 8.0;
            assert!((2.5..7.5 + 0.05).contains(&behind), "{behind} ms behind after {taken} bytes");
        }
    }

    #[test]
    fn the_filter_passes_speech_within_half_a_decibel() {
        for (from, to) in [(PHONE_HZ, MODEL_HZ), (MODEL_HZ, PHONE_HZ)] {
            for hz in (1..=34).map(|step| f64::from(step) * 100.0) {
                let gain = gain(from, to, hz, hz);
                assert!(gain.abs() <= 0.5, "{gain:.2} dB at {hz} Hz from {from} to {to}");
            }
        }
    }

    #[test]
    fn images_and_aliases_of_speech_are_60_decibels_down() {
        for hz in (3..=34).map(|step| f64::from(step) * 100.0) {
            for image in [8_000.0 - hz, 8_000.0 + hz] {
                let gain = gain(PHONE_HZ, MODEL_HZ, hz, image);
                assert!(gain <= -60.0, "{gain:.1} dB at {image} Hz from {hz} Hz");
            }
        }
        // What would fall on speech: everything that folds to below 3.4 kHz.
        for hz in (46..=114).map(|step| f64::from(step) * 100.0) {
            let folded = (hz - 8_000.0).abs();
            if (300.0..=3_400.0).contains(&folded) {
                let gain = gain(MODEL_HZ, PHONE_HZ, hz, folded);
                assert!(gain <= -60.0, "{gain:.1} dB at {folded} Hz from {hz} Hz");
            }
        }
    }

    #[test]
    fn each_direction_delays_by_as_much_as_it_says() {
        for (from, to) in [(PHONE_HZ, MODEL_HZ), (MODEL_HZ, PHONE_HZ)] {
            let mut click = vec![0.0; 4_800];
            click[2_400] = 10_000.0;
            let out = convert(from, to, &click);
            let loudest = (0..out.len()).max_by(|&a, &b| out[a].abs().total_cmp(&out[b].abs())).unwrap();
            let delay = loudest as f64 / f64::from(to) - 2_400.0 / f64::from(from);
            assert!((delay - DELAY.as_secs_f64()).abs() < 1e-9, "{delay} s from {from} to {to}");
        }
        let delays = [Uplink::new(AudioFormat::Pcm24k).delay(), Downlink::new(AudioFormat::Pcm24k).delay()];
        assert_eq!(delays, [Duration::from_micros(2_500); 2]);
    }

    #[test]
    fn speech_survives_the_way_to_the_model_and_back() {
        for hz in [300.0, 1_000.0, 2_500.0, 3_300.0] {
            let phone = sine(hz, PHONE_HZ, 10_000.0, 8_000);
            let back = downlink(&uplink(AudioFormat::Pcm24k, &encoded(&phone), 160), 4_801);
            assert_eq!(back.len(), phone.len());
            // The uplink shifts by 20 telephone samples, the downlink by none. The edges ring.
            let (mut signal, mut noise) = (0.0, 0.0);
            for (n, &code) in back.iter().enumerate().skip(100) {
                let (expected, actual) = (f64::from(phone[n - 20]), f64::from(g711::decode(code)));
                signal += expected * expected;
                noise += (actual - expected) * (actual - expected);
            }
            let ratio = 10.0 * (signal / noise).log10();
            // Two passes of mu-law alone leave 33 to 35 dB; the passband costs up to half a decibel of amplitude.
            assert!(ratio >= 28.0, "{ratio:.1} dB at {hz} Hz");
        }
    }

    #[test]
    fn the_loudest_sound_is_clipped_and_not_wrapped() {
        let square: Vec<i16> =
            (0..24_000).map(|n| if n / 30 % 2 == 0 { i16::MAX } else { i16::MIN }).collect();
        for (n, &code) in downlink(&bytes(&square), 960).iter().enumerate() {
            // Sample n is sample 3 n of the square wave; the middle of each half wave is far from its edges.
            if (3..7).contains(&(n % 10)) {
                assert_eq!(g711::decode(code) > 0, n / 10 % 2 == 0, "sample {n}");
            }
        }
    }

    #[test]
    fn the_blocks_give_the_bits_of_whole_frames() {
        let input: Vec<f32> = sine(1_234.0, PHONE_HZ, 10_000.0, 1_600).into_iter().map(f32::from).collect();
        let mut whole =
            Fft::<f32>::new_custom(8_000, 24_000, 160, 4, 1, WindowFunction::Hann, FixedSync::Input).unwrap();
        let mut expected = Vec::new();
        for frame in input.chunks(160) {
            let mut out = [0.0; 480];
            let source = SequentialSlice::new(frame, 1, 160).unwrap();
            let mut target = SequentialSlice::new_mut(&mut out, 1, 480).unwrap();
            assert_eq!(whole.process_into_buffer(&source, &mut target, None).unwrap(), (160, 480));
            expected.extend(out);
        }
        assert_eq!(convert(PHONE_HZ, MODEL_HZ, &input), expected);
    }

    #[test]
    fn a_buffer_with_room_is_not_replaced() {
        let mut up = Uplink::new(AudioFormat::Pcm24k);
        let mut down = Downlink::new(AudioFormat::Pcm24k);
        let (mut pcm, mut ulaw) = (Vec::with_capacity(2_000), Vec::with_capacity(400));
        let rooms = (pcm.as_ptr(), ulaw.as_ptr());
        for _ in 0..10 {
            pcm.clear();
            ulaw.clear();
            up.push(&[g711::SILENCE; 160], &mut pcm);
            down.push(&pcm, &mut ulaw);
        }
        assert_eq!((pcm.as_ptr(), ulaw.as_ptr()), rooms);
    }

    /// How loud `heard_hz` is in the output for a tone of `hz` in the input, in dB.
    fn gain(from: u32, to: u32, hz: f64, heard_hz: f64) -> f64 {
        let input: Vec<f32> = (0..from)
            .map(|n| (10_000.0 * (TAU * hz * f64::from(n) / f64::from(from)).sin()) as f32)
            .collect();
        let output = convert(from, to, &input);
        // Whole periods of every multiple of 100 Hz, after the filter has settled.
        let window = (to / 2) as usize;
        let (mut cosine, mut sine) = (0.0, 0.0);
        for (n, &sample) in output[window..].iter().enumerate() {
            let (sin, cos) = (TAU * heard_hz * n as f64 / f64::from(to)).sin_cos();
            cosine += f64::from(sample) * cos;
            sine += f64::from(sample) * sin;
        }
        20.0 * (2.0 * cosine.hypot(sine) / window as f64 / 10_000.0).log10()
    }

    fn convert(from: u32, to: u32, input: &[f32]) -> Vec<f32> {
        let block = |hz| if hz == PHONE_HZ { PHONE_BLOCK } else { MODEL_BLOCK };
        let mut converter = Converter::new(from, to, block(from), block(to));
        let mut output = Vec::new();
        for piece in input.chunks(block(from)) {
            converter.room().copy_from_slice(piece);
            converter.filled = piece.len();
            output.extend(converter.run_if_full().unwrap());
        }
        output
    }

    fn uplink(format: AudioFormat, ulaw: &[u8], piece: usize) -> Vec<u8> {
        let mut up = Uplink::new(format);
        let mut out = Vec::new();
        for piece in ulaw.chunks(piece) {
            up.push(piece, &mut out);
        }
        out
    }

    fn downlink(bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut down = Downlink::new(AudioFormat::Pcm24k);
        let mut out = Vec::new();
        for piece in bytes.chunks(piece) {
            down.push(piece, &mut out);
        }
        down.finish(&mut out);
        out
    }

    fn sine(hz: f64, rate_hz: u32, amplitude: f64, samples: usize) -> Vec<i16> {
        (0..samples)
            .map(|n| (amplitude * (TAU * hz * n as f64 / f64::from(rate_hz)).sin()).round() as i16)
            .collect()
    }

    fn encoded(pcm: &[i16]) -> Vec<u8> {
        pcm.iter().map(|&sample| g711::encode(sample)).collect()
    }

    fn bytes(pcm: &[i16]) -> Vec<u8> {
        pcm.iter().flat_map(|sample| sample.to_le_bytes()).collect()
    }
}
