//! Recognising a recording by the rise and fall of its loudness.
//!
//! The model only knows what it was sent: lost, repeated or damaged audio no longer fits the recording and comes
//! out as "(1.2 s of speech)". Being so simple, it tells the recordings of this program apart and nothing else.

use std::sync::OnceLock;

use super::hearing::{FRAME_MS, Levels, SILENCE_DB};
use super::session::Format;
use crate::simulate::speech::{PHRASES, Phrase, Speaker};

/// What a turn was heard as.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Heard {
    /// The words, or a description of the sound.
    pub(super) text: String,
    /// The recording.
    pub(super) phrase: Option<&'static str>,
    /// How well the best recording fits; 1 is perfect. `None` when nothing was compared.
    pub(super) score: Option<f64>,
}

/// A recording's profile.
struct Template {
    phrase: &'static Phrase,
    profile: Profile,
}

/// The rise and fall of a sound.
struct Profile {
    /// Level of its loudest 20 ms, in dBFS.
    loudest: f32,
    /// Decibels above what counts as silence, every 10 ms.
    shape: Vec<f32>,
}

/// Fits below this are no recognition. Measured on all recordings: undamaged ones stay above 0.94 after a crude
/// conversion to 24 kHz, holes of 40 ms every 200 ms bring them below 0.88, other recordings stay below 0.2.
const FITS: f64 = 0.9;
/// Levels this far below the loudest are as good as silence: line noise and filters live there.
const RANGE_DB: f32 = 35.0;
/// How far a turn may be longer or shorter than the recording: edges get lost in padding and filters.
const LENGTH_FRAMES: i32 = 8;
/// How much louder or quieter a turn may be. Conversions change far less; misread codes change more.
const GAIN_DB: f32 = 4.0;

/// Too short and too alike to be told apart by their loudness: of these only the length is written down.
const TOO_ALIKE: [&str; 5] = ["uh-huh", "yeah", "okay", "right", "i-see"];

/// Recognises a turn from its levels, one per 10 ms.
pub(super) fn recognise(levels: &[f32]) -> Heard {
    let heard = profile(levels);
    let best = templates()
        .iter()
        .map(|template| (similarity(&heard, &template.profile), template.phrase))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match best {
        Some((score, phrase)) if score >= FITS => {
            Heard { text: phrase.text.into(), phrase: Some(phrase.id), score: Some(score) }
        }
        best => Heard {
            text: describe(heard.shape.len() as u64 * FRAME_MS),
            phrase: None,
            score: best.map(|(score, _)| score),
        },
    }
}

/// What is written down for a sound that is no recording.
pub(super) fn describe(ms: u64) -> String {
    format!("({:.1} s of speech)", ms as f64 / 1000.0)
}

fn templates() -> &'static [Template] {
    static TEMPLATES: OnceLock<Vec<Template>> = OnceLock::new();
    TEMPLATES.get_or_init(|| {
        PHRASES
            .iter()
            .filter(|phrase| phrase.speaker == Speaker::Caller && !TOO_ALIKE.contains(&phrase.id))
            .filter_map(|phrase| {
                let mut levels = Vec::new();
                Levels::default().push(Format::Ulaw, &phrase.ulaw().ok()?, |level| levels.push(level));
                Some(Template { phrase, profile: profile(&levels) })
            })
            .collect()
    })
}

/// Loudness over 20 ms at every 10 ms, relative to the loudest, from the first sound to the last.
fn profile(levels: &[f32]) -> Profile {
    let power = |level: f32| 10_f32.powf(level / 10.0);
    let padded = [&[SILENCE_DB], levels, &[SILENCE_DB]].concat();
    let smooth: Vec<f32> =
        padded.windows(2).map(|pair| 10.0 * f32::midpoint(power(pair[0]), power(pair[1])).log10()).collect();
    let loudest = smooth.iter().copied().fold(SILENCE_DB, f32::max);
    let sounds = |level: &f32| *level > loudest - RANGE_DB;
    let (first, last) = (smooth.iter().position(sounds), smooth.iter().rposition(sounds));
    let shape = match (first, last) {
        (Some(first), Some(last)) if loudest > SILENCE_DB => {
            smooth[first..=last].iter().map(|level| (level - loudest).max(-RANGE_DB) + RANGE_DB).collect()
        }
        _ => Vec::new(),
    };
    Profile { loudest, shape }
}

/// Correlation of two profiles at their best offset; 0 when length or loudness rule out that they are the same.
fn similarity(heard: &Profile, known: &Profile) -> f64 {
    let (shape, other) = (&heard.shape, &known.shape);
    if shape.is_empty()
        || shape.len().abs_diff(other.len()) > LENGTH_FRAMES.unsigned_abs() as usize
        || (heard.loudest - known.loudest).abs() > GAIN_DB
    {
        return 0.0;
    }
    (-LENGTH_FRAMES..=LENGTH_FRAMES).map(|offset| correlation(shape, other, offset)).fold(0.0, f64::max)
}

/// Pearson's correlation over everything either of the two covers, silence where one has nothing. `b` is shifted by
/// `offset`.
fn correlation(a: &[f32], b: &[f32], offset: i32) -> f64 {
    // Shifting one to the left is the same as shifting the other to the right.
    let (shift_a, shift_b) = (offset.min(0).unsigned_abs() as usize, offset.max(0).unsigned_abs() as usize);
    let at = |profile: &[f32], shift: usize, index: usize| {
        index.checked_sub(shift).and_then(|index| profile.get(index)).copied().map_or(0.0, f64::from)
    };
    let length = (a.len() + shift_a).max(b.len() + shift_b);
    let pairs = || (0..length).map(|index| (at(a, shift_a, index), at(b, shift_b, index)));
    let count = length as f64;
    let (sum_a, sum_b) = pairs().fold((0.0, 0.0), |(sum_a, sum_b), (x, y)| (sum_a + x, sum_b + y));
    let (mean_a, mean_b) = (sum_a / count, sum_b / count);
    let (mut both, mut var_a, mut var_b) = (0.0, 0.0, 0.0);
    for (x, y) in pairs() {
        let (x, y) = (x - mean_a, y - mean_b);
        both += x * y;
        var_a += x * x;
        var_b += y * y;
    }
    if var_a == 0.0 || var_b == 0.0 { 0.0 } else { both / (var_a * var_b).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::random::Random;

    fn callers() -> impl Iterator<Item = &'static Phrase> {
        templates().iter().map(|template| template.phrase)
    }

    /// Recognises mu-law audio with padding as turn detection leaves it.
    fn hear_ulaw(ulaw: &[u8]) -> Heard {
        let audio = [&[0xFF; 2403], ulaw, &[0xFF; 4000]].concat();
        let mut levels = Vec::new();
        Levels::default().push(Format::Ulaw, &audio, |level| levels.push(level));
        recognise(&levels)
    }

    /// Recognises the same through a crude conversion to 24 kHz: straight lines between samples, `shift` samples late.
    fn hear_pcm(phrase: &Phrase, shift: usize) -> Heard {
        let samples = [vec![0; 2400], phrase.samples_8k().unwrap(), vec![0; 4000]].concat();
        let wide = samples.windows(2).flat_map(|pair| {
            let (from, to) = (i32::from(pair[0]), i32::from(pair[1]));
            (0..3).map(move |third| (from + (to - from) * third / 3) as i16)
        });
        let bytes: Vec<u8> = std::iter::repeat_n(0, shift).chain(wide).flat_map(i16::to_le_bytes).collect();
        let mut levels = Vec::new();
        Levels::default().push(Format::Pcm, &bytes, |level| levels.push(level));
        recognise(&levels)
    }

    #[test]
    fn every_recording_is_recognised_as_it_is() {
        for phrase in callers() {
            let heard = hear_ulaw(&phrase.ulaw().unwrap());
            assert_eq!(heard.phrase, Some(phrase.id), "{} by {}: {:?}", phrase.id, phrase.voice, heard.score);
            assert_eq!(heard.text, phrase.text);
        }
    }

    #[test]
    fn every_recording_is_recognised_after_conversion_to_24_khz() {
        for phrase in callers() {
            for shift in [0, 60, 120, 173] {
                let heard = hear_pcm(phrase, shift);
                assert_eq!(
                    heard.phrase,
                    Some(phrase.id),
                    "{} by {}: {:?}",
                    phrase.id,
                    phrase.voice,
                    heard.score
                );
            }
        }
    }

    #[test]
    fn no_recording_is_taken_for_another() {
        for one in templates() {
            for other in templates().iter().filter(|other| other.phrase.id != one.phrase.id) {
                let score = similarity(&one.profile, &other.profile);
                assert!(score < 0.9, "{} and {}: {score}", one.phrase.id, other.phrase.id);
            }
        }
    }

    #[test]
    fn damaged_audio_is_not_recognised() {
        for phrase in callers() {
            let ulaw = phrase.ulaw().unwrap();
            let frames = || ulaw.chunks(160).enumerate();
            let every_second_silent: Vec<u8> = frames()
                .flat_map(|(n, frame)| if n % 2 == 0 { frame.to_vec() } else { vec![0xFF; 160] })
                .collect();
            let every_second_lost: Vec<u8> =
                frames().filter(|(n, _)| n % 2 == 0).flat_map(|(_, frame)| frame.to_vec()).collect();
            let half = ulaw[..ulaw.len() / 2].to_vec();
            let mut holes = ulaw.clone();
            for piece in holes.chunks_mut(1600) {
                let hole = piece.len().min(320);
                piece[..hole].fill(0xFF);
            }
            let doubled: Vec<u8> = ulaw.chunks(160).flat_map(|frame| [frame, frame].concat()).collect();
            let complemented: Vec<u8> = ulaw.iter().map(|code| !code ^ 0x55).collect();
            let mut random = Random::new(1);
            let noise: Vec<u8> = ulaw.iter().map(|_| random.next_u64() as u8).collect();
            for (damage, audio) in [
                ("every second frame silent", every_second_silent),
                ("every second frame lost", every_second_lost),
                ("half", half),
                ("40 ms holes every 200 ms", holes),
                ("every frame twice", doubled),
                ("bits flipped", complemented),
                ("noise", noise),
            ] {
                let heard = hear_ulaw(&audio);
                assert_eq!(
                    heard.phrase, None,
                    "{damage}: {} by {}: {:?}",
                    phrase.id, phrase.voice, heard.score
                );
                assert!(heard.text.ends_with("s of speech)"), "{}", heard.text);
            }
        }
    }

    #[test]
    fn recordings_that_are_too_alike_are_not_guessed() {
        let alike = PHRASES.iter().filter(|phrase| TOO_ALIKE.contains(&phrase.id));
        for phrase in alike {
            let heard = hear_ulaw(&phrase.ulaw().unwrap());
            assert_eq!(heard.phrase, None, "{} by {}: {:?}", phrase.id, phrase.voice, heard.score);
        }
    }

    #[test]
    fn silence_is_no_recording() {
        let heard = recognise(&[SILENCE_DB; 50]);
        assert_eq!((heard.phrase, heard.score), (None, Some(0.0)));
        assert_eq!(recognise(&[]).phrase, None);
    }
}
