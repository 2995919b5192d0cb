//! A filter between 8 and 24 kHz, in whole numbers.
//!
//! One low-pass at 24 kHz serves both directions. Going up, two of three of its inputs would be zeros that were put
//! between the samples, so each output needs only every third coefficient; going down, only every third output is
//! computed. Coefficients and samples have 16 bits: a processor multiplies and adds eight of these at once.

use std::array;
use std::f64::consts::TAU;
use std::sync::LazyLock;
use std::time::Duration;

/// Samples of the model for each of the telephone.
pub(super) const RATIO: usize = 3;
/// Coefficients, at 24 kHz; the first is zero, so that the middle is a whole number of telephone samples away.
const TAPS: usize = 72;
/// Coefficients of each output on the way up.
const PHASE_TAPS: usize = TAPS / RATIO;
/// How much later a sound leaves than it came in.
pub(super) const DELAY: Duration = Duration::from_micros(1_500);
/// The same in samples of the telephone.
pub(super) const PHONE_DELAY: usize = TAPS / 2 / RATIO;

/// Half of the amplitude passes here: 0.2 dB are lost at 3.4 kHz, and 4.6 kHz, whose image that is, is 70 dB down.
const CUTOFF_HZ: f64 = 3_900.0;
/// Of the Kaiser window: the larger, the further down the stop band and the wider the way there.
const KAISER_BETA: f64 = 6.5;

/// Fractional bits of the coefficients. A louder sum than 32 bits hold cannot come of any samples: see the tests.
const UP_BITS: u32 = 14;
const DOWN_BITS: u32 = 15;

/// Samples that are converted at once, so that a message of any length needs no more memory than a frame.
const BLOCK: usize = 480;

struct Filter {
    /// For each of the three outputs between two inputs: what the latest inputs count, oldest first.
    up: [[i16; PHASE_TAPS]; RATIO],
    /// What the latest inputs count, oldest first.
    down: [i16; TAPS],
}

static FILTER: LazyLock<Filter> = LazyLock::new(|| {
    let response = low_pass();
    let fixed = |coefficient: f64, bits: u32| (coefficient * f64::from(1_u32 << bits)).round() as i16;
    let phase = |phase| array::from_fn(|n| RATIO * (PHASE_TAPS - 1 - n) + phase);
    Filter {
        up: array::from_fn(phase)
            .map(|taps: [usize; PHASE_TAPS]| taps.map(|tap| fixed(response[tap] * RATIO as f64, UP_BITS))),
        down: array::from_fn(|n| fixed(response[TAPS - 1 - n], DOWN_BITS)),
    }
});

/// The response to a click, 1 in all: an ideal low-pass seen through a Kaiser window.
// Oppenheim and Schafer, Discrete-Time Signal Processing, section 7.5.3.
fn low_pass() -> [f64; TAPS] {
    let middle = (TAPS / 2) as f64;
    let ideal: [f64; TAPS] = array::from_fn(|tap| {
        let at = tap as f64 - middle;
        let angle = TAU * CUTOFF_HZ / f64::from(super::MODEL_HZ);
        let sinc = if tap == TAPS / 2 { angle } else { (angle * at).sin() / at };
        let inside = 1.0 - (at / middle).powi(2);
        if inside > 0.0 { sinc * bessel_i0(KAISER_BETA * inside.sqrt()) } else { 0.0 }
    });
    let sum: f64 = ideal.iter().sum();
    ideal.map(|coefficient| coefficient / sum)
}

/// The modified Bessel function of the first kind and order zero, by its series.
fn bessel_i0(x: f64) -> f64 {
    let term = |(n, last): &(f64, f64)| Some((n + 1.0, last * (x / 2.0 / (n + 1.0)).powi(2)));
    std::iter::successors(Some((0.0, 1.0)), term).map(|(_, term)| term).take_while(|term| *term > 1e-12).sum()
}

/// From 8 to 24 kHz.
#[derive(Debug, Clone)]
pub(super) struct Interpolator {
    /// What the next outputs need of the past, then what came in.
    samples: Vec<i16>,
}

impl Interpolator {
    pub(super) fn new() -> Self {
        Self { samples: vec![0; PHASE_TAPS - 1] }
    }

    /// Appends three samples for each that comes in, as little-endian bytes.
    pub(super) fn push(&mut self, mut input: impl ExactSizeIterator<Item = i16>, out: &mut Vec<u8>) {
        let filter = &*FILTER;
        while input.len() > 0 {
            self.samples.extend(input.by_ref().take(BLOCK));
            let start = out.len();
            let windows = self.samples.array_windows::<PHASE_TAPS>();
            out.resize(start + windows.len() * RATIO * 2, 0);
            let (triples, _) = out[start..].as_chunks_mut::<{ RATIO * 2 }>();
            for (window, bytes) in windows.zip(triples) {
                let outputs =
                    filter.up.each_ref().map(|phase| rounded(sum_of_products(window, phase), UP_BITS));
                for (bytes, sample) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(outputs) {
                    *bytes = sample.to_le_bytes();
                }
            }
            keep_last(&mut self.samples, PHASE_TAPS - 1);
        }
    }
}

/// From 24 to 8 kHz.
#[derive(Debug, Clone)]
pub(super) struct Decimator {
    samples: Vec<i16>,
}

impl Decimator {
    pub(super) fn new() -> Self {
        let mut new = Self { samples: Vec::new() };
        new.reset();
        new
    }

    /// Forgets the past.
    pub(super) fn reset(&mut self) {
        self.samples.clear();
        self.samples.resize(TAPS - 1, 0);
    }

    /// Hands out a sample for the first of each three that come in.
    pub(super) fn push(&mut self, mut input: impl ExactSizeIterator<Item = i16>, mut out: impl FnMut(i16)) {
        let filter = &*FILTER;
        while input.len() > 0 {
            self.samples.extend(input.by_ref().take(BLOCK));
            let mut rest = self.samples.as_slice();
            while let Some(window) = rest.first_chunk::<TAPS>() {
                out(rounded(sum_of_products(window, &filter.down), DOWN_BITS));
                rest = &rest[RATIO..];
            }
            let rest = rest.len();
            keep_last(&mut self.samples, rest);
        }
    }
}

fn keep_last(samples: &mut Vec<i16>, count: usize) {
    let from = samples.len() - count;
    samples.copy_within(from.., 0);
    samples.truncate(count);
}

#[inline]
fn sum_of_products<const N: usize>(samples: &[i16; N], coefficients: &[i16; N]) -> i32 {
    samples.iter().zip(coefficients).map(|(&sample, &count)| i32::from(sample) * i32::from(count)).sum()
}

/// The nearest sample; too loud ones are clipped.
#[inline]
fn rounded(sum: i32, bits: u32) -> i16 {
    let whole = (sum + (1 << (bits - 1))) >> bits;
    whole.clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_samples_can_make_a_sum_that_overflows() {
        let most = |coefficients: &[i16], bits: u32| {
            let sum: i64 = coefficients.iter().map(|&count| i64::from(count).abs()).sum();
            sum * 32_768 + (1 << (bits - 1))
        };
        for phase in &FILTER.up {
            assert!(most(phase, UP_BITS) <= i64::from(i32::MAX));
        }
        assert!(most(&FILTER.down, DOWN_BITS) <= i64::from(i32::MAX));
    }

    #[test]
    fn what_does_not_change_comes_out_as_it_went_in() {
        for level in [0, 1, -1, 1_000, -20_000, i16::MAX, i16::MIN] {
            let (mut up, mut down) = (Interpolator::new(), Decimator::new());
            let (mut bytes, mut samples) = (Vec::new(), Vec::new());
            up.push([level; 100].into_iter(), &mut bytes);
            down.push([level; 300].into_iter(), |sample| samples.push(sample));
            assert_eq!((bytes.len(), samples.len()), (600, 100));
            let upsampled =
                bytes[6 * PHASE_TAPS..].as_chunks::<2>().0.iter().map(|bytes| i16::from_le_bytes(*bytes));
            for sample in upsampled.chain(samples[PHASE_TAPS..].iter().copied()) {
                let off = (i32::from(sample) - i32::from(level)).abs();
                // The coefficients are rounded, to a sum that is within 0.05 % of one.
                assert!(off <= i32::from(level).abs() / 2_000 + 1, "{sample} for {level}");
            }
        }
    }

    #[test]
    fn the_loudest_samples_of_the_worst_signs_are_clipped() {
        let worst: Vec<i16> =
            FILTER.down.iter().map(|&count| if count < 0 { i16::MIN } else { i16::MAX }).collect();
        let mut out = Vec::new();
        let mut down = Decimator::new();
        // The window that holds exactly these samples is the one that ends with the last of them.
        let lead = [0; 1];
        down.push(lead.into_iter(), |_| {});
        down.push(worst.into_iter(), |sample| out.push(sample));
        assert_eq!(out.iter().max(), Some(&i16::MAX));
    }
}
