//! What the model hears: levels of the audio that arrives, and where speech begins and ends in it.

use std::collections::VecDeque;

use super::session::{Format, TurnDetection};
use crate::audio::g711;

/// Length of the pieces that levels are taken of.
pub(super) const FRAME_MS: u64 = 10;
/// Level of digital silence, in dBFS.
pub(super) const SILENCE_DB: f32 = -96.0;
/// Speech begins when so many of the last [`ONSET_WINDOW`] pieces are loud. Clicks are shorter than 50 ms.
const ONSET_FRAMES: usize = 5;
const ONSET_WINDOW: usize = 8;

/// Turns bytes into one level per 10 ms.
#[derive(Debug, Default)]
pub(super) struct Levels {
    rest: Vec<u8>,
    samples: Vec<i16>,
}

impl Levels {
    /// Takes in audio and hands out the level of each further 10 ms of it, in dBFS.
    pub(super) fn push(&mut self, format: Format, bytes: &[u8], mut each: impl FnMut(f32)) {
        self.rest.extend_from_slice(bytes);
        let frame_bytes = format.bytes_per_ms() * FRAME_MS as usize;
        let whole = self.rest.len() / frame_bytes * frame_bytes;
        for frame in self.rest[..whole].chunks_exact(frame_bytes) {
            self.samples.clear();
            match format {
                Format::Pcm => {
                    self.samples
                        .extend(frame.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
                }
                Format::Ulaw => {
                    self.samples.resize(frame.len(), 0);
                    g711::decode_ulaw(frame, &mut self.samples);
                }
            }
            each(level_db(&self.samples));
        }
        self.rest.drain(..whole);
    }

    /// Forgets a started piece; for a change of format.
    pub(super) fn reset(&mut self) {
        self.rest.clear();
    }
}

/// Root mean square in dBFS, not below [`SILENCE_DB`].
pub(super) fn level_db(samples: &[i16]) -> f32 {
    if samples.is_empty() {
        return SILENCE_DB;
    }
    let power: f32 = samples.iter().map(|&sample| (f32::from(sample) / 32_768.0).powi(2)).sum();
    (10.0 * (power / samples.len() as f32).log10()).max(SILENCE_DB)
}

/// What turn detection noticed. Positions are milliseconds of audio since the session began.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Noticed {
    Started {
        audio_start_ms: u64,
    },
    Stopped {
        audio_end_ms: u64,
        /// Levels of the turn, padding and closing silence included.
        levels: Vec<f32>,
    },
}

/// Finds turns by energy, or with turn detection off only collects.
#[derive(Debug)]
pub(super) struct Vad {
    settings: Option<TurnDetection>,
    /// Pieces heard since the session began.
    heard: u64,
    /// Levels that are not part of a committed turn.
    levels: VecDeque<f32>,
    open: bool,
    silent: u64,
}

impl Vad {
    pub(super) const fn new(settings: Option<TurnDetection>) -> Self {
        Self { settings, heard: 0, levels: VecDeque::new(), open: false, silent: 0 }
    }

    /// Milliseconds of audio heard.
    pub(super) const fn position_ms(&self) -> u64 {
        self.heard * FRAME_MS
    }

    pub(super) const fn is_open(&self) -> bool {
        self.open
    }

    /// Changes how turns are found, from now on. An open turn stays open unless detection is switched off.
    pub(super) fn configure(&mut self, settings: Option<TurnDetection>) {
        self.settings = settings;
        if settings.is_none() {
            self.open = false;
        }
    }

    /// Milliseconds that a commit would take: with turn detection only what belongs to an open turn.
    pub(super) fn uncommitted_ms(&self) -> u64 {
        if self.settings.is_some() && !self.open { 0 } else { self.levels.len() as u64 * FRAME_MS }
    }

    /// Takes what is uncommitted, ending an open turn.
    pub(super) fn take(&mut self) -> Vec<f32> {
        self.open = false;
        self.silent = 0;
        std::mem::take(&mut self.levels).into()
    }

    /// Takes in the level of the next 10 ms.
    pub(super) fn hear(&mut self, level: f32) -> Option<Noticed> {
        self.heard += 1;
        self.levels.push_back(level);
        let settings = self.settings?;
        let loud = level > threshold_db(settings.threshold);
        if self.open {
            self.silent = if loud { 0 } else { self.silent + 1 };
            if self.silent * FRAME_MS < settings.silence_duration_ms {
                return None;
            }
            let audio_end_ms = self.position_ms();
            return Some(Noticed::Stopped { audio_end_ms, levels: self.take() });
        }
        let window = self.levels.len().saturating_sub(ONSET_WINDOW);
        let is_loud = |level: &f32| *level > threshold_db(settings.threshold);
        if loud && self.levels.range(window..).filter(|level| is_loud(level)).count() >= ONSET_FRAMES {
            let onset = window + self.levels.range(window..).position(is_loud).unwrap_or(0);
            let padding = (settings.prefix_padding_ms / FRAME_MS) as usize;
            self.levels.drain(..onset.saturating_sub(padding));
            self.open = true;
            self.silent = 0;
            return Some(Noticed::Started {
                audio_start_ms: (self.heard - self.levels.len() as u64) * FRAME_MS,
            });
        }
        let keep = (settings.prefix_padding_ms / FRAME_MS) as usize + ONSET_WINDOW;
        let surplus = self.levels.len().saturating_sub(keep);
        self.levels.drain(..surplus);
        None
    }
}

/// How loud is speech: the default of 0.5 is -40 dBFS, a quiet talker on a telephone.
pub(super) fn threshold_db(threshold: f64) -> f32 {
    (-60.0 + 40.0 * threshold) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::speech::{PHRASES, Speaker};

    const TURNS: TurnDetection = TurnDetection {
        threshold: 0.5,
        prefix_padding_ms: 300,
        silence_duration_ms: 500,
        create_response: true,
        interrupt_response: true,
        idle_timeout_ms: None,
    };

    /// What is noticed in levels given as (milliseconds, dBFS).
    fn noticed(vad: &mut Vad, levels: &[(u64, f32)]) -> Vec<Noticed> {
        let pieces = levels.iter().flat_map(|&(ms, level)| (0..ms / FRAME_MS).map(move |_| level));
        pieces.filter_map(|level| vad.hear(level)).collect()
    }

    #[test]
    fn a_turn_begins_with_padding_and_ends_after_silence() {
        let mut vad = Vad::new(Some(TURNS));
        let found = noticed(&mut vad, &[(1000, SILENCE_DB), (400, -20.0), (700, SILENCE_DB)]);
        let [Noticed::Started { audio_start_ms: 700 }, Noticed::Stopped { audio_end_ms: 1900, levels }] =
            &found[..]
        else {
            panic!("{found:?}")
        };
        assert_eq!(levels.len(), 120);
        assert!(levels[29] < -90.0 && levels[30] > -21.0, "{levels:?}");
    }

    #[test]
    fn padding_never_reaches_into_the_turn_before() {
        let turns = TurnDetection { silence_duration_ms: 100, prefix_padding_ms: 300, ..TURNS };
        let mut vad = Vad::new(Some(turns));
        let found = noticed(&mut vad, &[(200, -20.0), (150, SILENCE_DB), (200, -20.0)]);
        assert_eq!(found[0], Noticed::Started { audio_start_ms: 0 });
        assert!(matches!(found[1], Noticed::Stopped { audio_end_ms: 300, .. }));
        assert_eq!(found[2], Noticed::Started { audio_start_ms: 300 });
    }

    #[test]
    fn clicks_and_quiet_noise_are_not_speech() {
        let mut vad = Vad::new(Some(TURNS));
        assert_eq!(noticed(&mut vad, &[(300, -50.0), (40, -10.0), (300, -50.0), (30, -10.0)]), []);
        let sensitive = TurnDetection { threshold: 0.1, ..TURNS };
        assert_eq!(noticed(&mut Vad::new(Some(sensitive)), &[(300, -50.0)]).len(), 1);
    }

    #[test]
    fn without_turn_detection_everything_waits_for_a_commit() {
        let mut vad = Vad::new(None);
        assert_eq!(noticed(&mut vad, &[(500, -20.0)]), []);
        assert_eq!((vad.uncommitted_ms(), vad.take().len(), vad.uncommitted_ms()), (500, 50, 0));
    }

    #[test]
    fn levels_do_not_depend_on_how_audio_is_cut_or_coded() {
        let samples: Vec<i16> = (0..4800).map(|n| ((f64::from(n) / 24.0).sin() * 16_384.0) as i16).collect();
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let mut whole = Vec::new();
        Levels::default().push(Format::Pcm, &bytes, |level| whole.push(level));
        let mut cut = Vec::new();
        let mut levels = Levels::default();
        for piece in bytes.chunks(37) {
            levels.push(Format::Pcm, piece, |level| cut.push(level));
        }
        assert_eq!(whole, cut);
        assert_eq!(whole.len(), 20);
        let mut ulaw = vec![0; 80];
        let tone: Vec<i16> = (0..80).map(|n| ((f64::from(n) / 8.0).sin() * 16_384.0) as i16).collect();
        g711::encode_ulaw(&tone, &mut ulaw);
        Levels::default()
            .push(Format::Ulaw, &ulaw, |level| assert!((level - whole[0]).abs() < 0.5, "{level}"));
    }

    #[test]
    fn every_caller_recording_is_one_turn() {
        for phrase in PHRASES.iter().filter(|phrase| phrase.speaker == Speaker::Caller) {
            let mut vad = Vad::new(Some(TURNS));
            let mut found = 0;
            let audio = [vec![0xFF; 4000], phrase.ulaw().unwrap(), vec![0xFF; 8000]].concat();
            Levels::default()
                .push(Format::Ulaw, &audio, |level| found += usize::from(vad.hear(level).is_some()));
            assert_eq!(found, 2, "{} by {}", phrase.id, phrase.voice);
        }
    }
}
