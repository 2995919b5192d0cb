//! How loud audio is, and whether somebody speaks.

use std::fmt;

use super::g711;

/// A level relative to full scale (dBFS). 0 is the root mean square of a full-scale square wave; a full-scale sine has -3.01.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Decibels(pub f32);

impl Decibels {
    /// Level of digital silence, below the quietest sound that 16 bits can hold (-90.3).
    pub const SILENCE: Self = Self(-100.0);

    /// Level of the root mean square of these samples; [`Decibels::SILENCE`] when there are none.
    #[must_use]
    pub fn of(pcm: &[i16]) -> Self {
        Self::of_mean(energy(pcm) / pcm.len().max(1) as f64)
    }

    /// The same of mu-law. Allocates nothing.
    #[must_use]
    pub fn of_ulaw(ulaw: &[u8]) -> Self {
        // 2^34 of the loudest samples fit.
        let energy: u64 = ulaw.iter().map(|&code| u64::from(SQUARES[usize::from(code)])).sum();
        Self::of_mean(energy as f64 / ulaw.len().max(1) as f64)
    }

    /// Level of a mean square of samples.
    fn of_mean(square: f64) -> Self {
        let full = f64::from(i16::MAX) + 1.0;
        Self((10.0 * (square / (full * full)).log10()).max(Self::SILENCE.0.into()) as f32)
    }

    /// The mean square that has this level.
    fn mean_square(self) -> f64 {
        let full = f64::from(i16::MAX) + 1.0;
        10_f64.powf(f64::from(self.0) / 10.0) * full * full
    }
}

/// The square of each mu-law code's sample: each frame of a caller who may be speaking over the agent is measured.
static SQUARES: [u32; 256] = {
    let mut squares = [0; 256];
    let mut code = 0;
    while code < squares.len() {
        squares[code] = (g711::decode(code as u8) as i32).unsigned_abs().pow(2);
        code += 1;
    }
    squares
};

impl fmt::Display for Decibels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} dBFS", self.0)
    }
}

/// Sum of squares. Exact: an `f64` holds whole numbers up to 2^53, which is 8 million of the loudest samples.
fn energy(pcm: &[i16]) -> f64 {
    pcm.iter().map(|&sample| f64::from(i32::from(sample) * i32::from(sample))).sum()
}

/// What a [`VoiceDetector`] noticed. Positions count samples since its first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoiceEvent {
    /// Somebody began to speak.
    Started {
        /// Where the loud stretch begins, before it was long enough to count.
        at_sample: u64,
    },
    /// Nobody speaks any more.
    Stopped {
        /// Where the quiet stretch begins, before it was long enough to count.
        at_sample: u64,
    },
}

/// When sound counts as speech.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VoiceSettings {
    /// Sound at least this loud may be speech.
    pub threshold: Decibels,
    /// So long it must last to count. Clicks are shorter.
    pub attack_ms: u32,
    /// So long it must be quiet to be over. Pauses between words are shorter.
    pub hangover_ms: u32,
}

impl Default for VoiceSettings {
    /// For speech on a telephone line: between idle noise (around -60) and quiet speakers (around -35).
    fn default() -> Self {
        Self { threshold: Decibels(-45.0), attack_ms: 30, hangover_ms: 500 }
    }
}

/// Says by the energy of the sound when somebody starts and stops speaking.
///
/// Looks at 10 ms at a time, whatever pieces it is fed; 10 ms are the step of its positions and settings.
#[derive(Debug, Clone)]
pub struct VoiceDetector {
    /// Energy of a whole block at the threshold.
    threshold: f64,
    block: usize,
    attack_blocks: u32,
    hangover_blocks: u32,
    /// Energy and length of the block that is being filled.
    energy: f64,
    filled: usize,
    /// Whole blocks so far.
    blocks: u64,
    /// Blocks in a row that contradict `speaking`.
    against: u32,
    speaking: bool,
}

impl VoiceDetector {
    /// A detector for audio of this many samples a second, in silence.
    #[must_use]
    pub fn new(settings: VoiceSettings, rate_hz: u32) -> Self {
        let block = (rate_hz / 100).max(1) as usize;
        Self {
            threshold: settings.threshold.mean_square() * block as f64,
            block,
            attack_blocks: settings.attack_ms.div_ceil(10).max(1),
            hangover_blocks: settings.hangover_ms.div_ceil(10).max(1),
            energy: 0.0,
            filled: 0,
            blocks: 0,
            against: 0,
            speaking: false,
        }
    }

    /// Takes in the next samples and appends what was noticed. Allocates only for events.
    pub fn push(&mut self, pcm: &[i16], events: &mut Vec<VoiceEvent>) {
        let mut rest = pcm;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(self.block - self.filled));
            self.energy += energy(now);
            self.filled += now.len();
            rest = later;
            if self.filled == self.block {
                events.extend(self.on_block());
                (self.energy, self.filled) = (0.0, 0);
            }
        }
    }

    /// Whether somebody speaks, as far as was noticed.
    #[must_use]
    pub fn is_speaking(&self) -> bool {
        self.speaking
    }

    /// Samples taken in so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.blocks * self.block as u64 + self.filled as u64
    }

    fn on_block(&mut self) -> Option<VoiceEvent> {
        self.blocks += 1;
        let loud = self.energy >= self.threshold;
        if loud == self.speaking {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < if self.speaking { self.hangover_blocks } else { self.attack_blocks } {
            return None;
        }
        let at_sample = (self.blocks - u64::from(self.against)) * self.block as u64;
        self.against = 0;
        self.speaking = loud;
        Some(if loud { VoiceEvent::Started { at_sample } } else { VoiceEvent::Stopped { at_sample } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_the_root_mean_square_against_full_scale() {
        let near = |pcm: &[i16], expected: f32| {
            let Decibels(actual) = Decibels::of(pcm);
            assert!((actual - expected).abs() < 0.01, "{actual} is not {expected}");
        };
        near(&[i16::MIN; 100], 0.0);
        near(&[i16::MIN / 2; 100], -6.02);
        near(&sine(32_767.0, 8_000), -3.01);
        near(&[1, -1, 1, -1], -90.31);
        assert_eq!(Decibels::of(&[0; 80]), Decibels::SILENCE);
        assert_eq!(Decibels::of(&[]), Decibels::SILENCE);
        assert_eq!(Decibels(-12.345).to_string(), "-12.3 dBFS");
    }

    #[test]
    fn mu_law_is_as_loud_as_what_it_stands_for() {
        let pcm = sine(3_000.0, 160);
        let mut ulaw = vec![0; 160];
        g711::encode_ulaw(&pcm, &mut ulaw);
        let (Decibels(coded), Decibels(linear)) = (Decibels::of_ulaw(&ulaw), Decibels::of(&pcm));
        assert!((coded - linear).abs() < 0.2, "{coded} is not {linear}");
        assert_eq!(Decibels::of_ulaw(&[g711::SILENCE; 160]), Decibels::SILENCE);
        assert_eq!(Decibels::of_ulaw(&[]), Decibels::SILENCE);
    }

    #[test]
    fn speech_is_reported_from_its_first_to_its_last_loud_block() {
        let audio = [silence(1_000), sine(3_000.0, 4_000), silence(8_000)].concat();
        // Blocks of 80 samples: the one with sample 1,000 is half silence, and loud enough.
        let expected = [VoiceEvent::Started { at_sample: 960 }, VoiceEvent::Stopped { at_sample: 5_040 }];
        assert_eq!(detect(&audio, audio.len()), expected);
    }

    #[test]
    fn pieces_of_any_size_give_the_same_events() {
        let audio = [silence(999), sine(9_000.0, 3_001), silence(5_003), sine(2_000.0, 4_000)].concat();
        let expected = detect(&audio, audio.len());
        assert_eq!(expected.len(), 3);
        for size in [1, 7, 79, 80, 81, 160, 4_801] {
            assert_eq!(detect(&audio, size), expected, "{size}");
        }
    }

    #[test]
    fn clicks_pauses_and_quiet_sounds_change_nothing() {
        let click = [silence(800), sine(9_000.0, 160), silence(8_000)].concat();
        assert_eq!(detect(&click, 160), []);
        let pause = [sine(9_000.0, 1_600), silence(3_900), sine(9_000.0, 1_600)].concat();
        assert_eq!(detect(&pause, 160), [VoiceEvent::Started { at_sample: 0 }]);
        assert_eq!(detect(&sine(150.0, 8_000), 160), []);
    }

    #[test]
    fn a_detector_knows_where_it_is_and_whether_somebody_speaks() {
        let mut detector = VoiceDetector::new(VoiceSettings::default(), 24_000);
        let mut events = Vec::new();
        detector.push(&sine(9_000.0, 2_500), &mut events);
        assert!(detector.is_speaking());
        assert_eq!(detector.position(), 2_500);
        detector.push(&silence(12_240), &mut events);
        assert!(!detector.is_speaking());
        assert_eq!(events.len(), 2);
    }

    fn detect(audio: &[i16], piece: usize) -> Vec<VoiceEvent> {
        let mut detector = VoiceDetector::new(VoiceSettings::default(), 8_000);
        let mut events = Vec::new();
        for piece in audio.chunks(piece) {
            detector.push(piece, &mut events);
        }
        events
    }

    fn silence(samples: usize) -> Vec<i16> {
        vec![0; samples]
    }

    fn sine(amplitude: f64, samples: usize) -> Vec<i16> {
        (0..samples).map(|n| (amplitude * (n as f64 * 0.345).sin()) as i16).collect()
    }
}
