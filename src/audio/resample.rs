//! Streaming conversion between telephone audio (mu-law, 8 kHz) and a model's audio.
//!
//! The same bits come out however the input is cut into pieces.

use std::time::Duration;

use super::polyphase::{DELAY, Decimator, Interpolator, PHONE_DELAY, RATIO};
use super::{AudioFormat, g711};

/// Converts caller audio for the model. One per call, never reset.
#[derive(Debug)]
pub struct Uplink {
    /// `None`: the model speaks mu-law.
    filter: Option<Interpolator>,
}

impl Uplink {
    /// A converter to `format`.
    #[must_use]
    pub fn new(format: AudioFormat) -> Self {
        Self { filter: (format == AudioFormat::Pcm24k).then(Interpolator::new) }
    }

    /// Converts mu-law at 8 kHz and appends it to `out`, in the model's format.
    ///
    /// Nothing waits for the next push. Allocates only when `out` has no room left.
    pub fn push(&mut self, ulaw: &[u8], out: &mut Vec<u8>) {
        match &mut self.filter {
            None => out.extend_from_slice(ulaw),
            Some(filter) => filter.push(ulaw.iter().map(|&code| g711::decode(code)), out),
        }
    }

    /// How much later a sound leaves than it came in.
    #[must_use]
    pub fn delay(&self) -> Duration {
        if self.filter.is_some() { DELAY } else { Duration::ZERO }
    }
}

/// Converts the model's audio for the telephone, item by item.
#[derive(Debug)]
pub struct Downlink {
    /// `None`: the model speaks mu-law.
    filter: Option<Decimator>,
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
        let filter = (format == AudioFormat::Pcm24k).then(Decimator::new);
        Self { filter, half: None, taken: 0, given: 0, skip: PHONE_DELAY }
    }

    /// Converts bytes of the model and appends what is ready to `out`, as mu-law at 8 kHz.
    ///
    /// `bytes` may be of any length and end in the middle of a sample. The last 1.5 ms stay inside until more comes or
    /// [`Downlink::finish`] is called. Allocates only when `out` has no room left.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.filter.is_none() {
            out.extend_from_slice(bytes);
            return;
        }
        out.reserve(bytes.len() / (2 * RATIO) + 1);
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
        if self.filter.is_none() {
            return;
        }
        // A third of the samples that came in, rounded to the nearest.
        let whole = (self.taken + 1) / RATIO;
        while self.given < whole {
            self.push_samples(&[[0, 0]; RATIO * PHONE_DELAY], out);
        }
        out.truncate(out.len() - (self.given - whole));
        if let Some(filter) = &mut self.filter {
            filter.reset();
        }
        (self.half, self.taken, self.given, self.skip) = (None, 0, 0, PHONE_DELAY);
    }

    /// How much later a sound leaves than it came in, while an item is running.
    #[must_use]
    pub fn delay(&self) -> Duration {
        if self.filter.is_some() { DELAY } else { Duration::ZERO }
    }

    fn push_samples(&mut self, samples: &[[u8; 2]], out: &mut Vec<u8>) {
        let Some(filter) = &mut self.filter else { return };
        self.taken += samples.len();
        filter.push(samples.iter().map(|&bytes| i16::from_le_bytes(bytes)), |sample| {
            if self.skip > 0 {
                self.skip -= 1;
            } else {
                self.given += 1;
                out.push(g711::encode(sample));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use rubato::audioadapter_buffers::direct::SequentialSlice;
    use rubato::{Fft, FixedSync, Resampler};

    use super::*;
    use crate::audio::{MODEL_HZ, PHONE_HZ};

    /// Pieces a model or a carrier might send, and ones they would not.
    const PIECES: [usize; 9] = [1, 2, 7, 79, 160, 161, 960, 4_801, usize::MAX];

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
    fn a_delta_is_out_but_for_the_filter_s_delay() {
        let mut down = Downlink::new(AudioFormat::Pcm24k);
        let (mut out, mut taken) = (Vec::new(), 0);
        for length in [960, 1, 4_801, 77, 9_600] {
            down.push(&vec![0; length], &mut out);
            taken += length;
            let behind = taken as f64 / 48.0 - out.len() as f64 / 8.0;
            assert!((1.5 - 0.13..1.5 + 0.13).contains(&behind), "{behind} ms behind after {taken} bytes");
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
        assert_eq!(delays, [Duration::from_micros(1_500); 2]);
    }

    #[test]
    fn speech_survives_the_way_to_the_model_and_back() {
        for hz in [300.0, 1_000.0, 2_500.0, 3_300.0] {
            let phone = sine(hz, PHONE_HZ, 10_000.0, 8_000);
            let back = downlink(&uplink(AudioFormat::Pcm24k, &encoded(&phone), 160), 4_801);
            assert_eq!(back.len(), phone.len());
            // The uplink shifts by 12 telephone samples, the downlink by none. The edges ring.
            let (mut signal, mut noise) = (0.0, 0.0);
            for (n, &code) in back.iter().enumerate().skip(100) {
                let (expected, actual) = (f64::from(phone[n - 12]), f64::from(g711::decode(code)));
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
    fn speech_is_what_a_well_known_resampler_makes_of_it() {
        for (from, to) in [(PHONE_HZ, MODEL_HZ), (MODEL_HZ, PHONE_HZ)] {
            let tones = [310.0, 700.0, 1_234.0, 2_500.0].map(|hz| sine(hz, from, 6_000.0, from as usize));
            let input: Vec<f32> =
                (0..from as usize).map(|n| tones.iter().map(|tone| f32::from(tone[n])).sum()).collect();
            let frame = from as usize / 50;
            let mut theirs = Fft::<f32>::new(from as usize, to as usize, frame, 1, FixedSync::Input).unwrap();
            let their_delay = theirs.output_delay();
            let mut expected = Vec::new();
            for frame in input.chunks(frame) {
                let mut out = vec![0.0; to as usize / 50];
                let (length, source) = (out.len(), SequentialSlice::new(frame, 1, frame.len()).unwrap());
                let mut target = SequentialSlice::new_mut(&mut out, 1, length).unwrap();
                theirs.process_into_buffer(&source, &mut target, None).unwrap();
                expected.extend(out);
            }
            let our_delay = (DELAY.as_secs_f64() * f64::from(to)) as usize;
            let ours = convert(from, to, &input);
            let (mut signal, mut noise) = (0.0, 0.0);
            for n in to as usize / 10..to as usize - their_delay {
                let (ours, theirs) = (f64::from(ours[n + our_delay]), f64::from(expected[n + their_delay]));
                signal += theirs * theirs;
                noise += (ours - theirs) * (ours - theirs);
            }
            let ratio = 10.0 * (signal / noise).log10();
            assert!(ratio >= 50.0, "{ratio:.1} dB from {from} to {to}");
        }
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
        let samples = input.iter().map(|sample| sample.round() as i16);
        if from < to {
            let mut bytes = Vec::new();
            Interpolator::new().push(samples, &mut bytes);
            bytes.as_chunks::<2>().0.iter().map(|&bytes| i16::from_le_bytes(bytes).into()).collect()
        } else {
            let mut output = Vec::new();
            Decimator::new().push(samples, |sample| output.push(sample.into()));
            output
        }
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
