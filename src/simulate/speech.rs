//! The recordings that ship inside the program: what simulated callers and the simulated agent say.
//!
//! Made by `scripts/make-speech`; `assets/speech/phrases.tsv` is its list.

use std::sync::OnceLock;

use super::random::Random;
use super::wav::{Wav, WavError};
use crate::audio::g711;

/// Whose phrase it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// Somebody who calls.
    Caller,
    /// The agent that answers.
    Agent,
}

/// One recording.
#[derive(Debug)]
pub struct Phrase {
    /// Names what is said. Callers say the same phrase in several voices.
    pub id: &'static str,
    /// Who says it.
    pub voice: &'static str,
    /// The words.
    pub text: &'static str,
    /// Whose side.
    pub speaker: Speaker,
    wav_8k: &'static [u8],
    wav_24k: Option<&'static [u8]>,
}

macro_rules! caller {
    ($voice:literal, $id:literal, $text:literal) => {
        Phrase {
            id: $id,
            voice: $voice,
            text: $text,
            speaker: Speaker::Caller,
            wav_8k: include_bytes!(concat!("../../assets/speech/caller/", $voice, "-", $id, ".wav")),
            wav_24k: None,
        }
    };
}

macro_rules! agent {
    ($id:literal, $text:literal) => {
        Phrase {
            id: $id,
            voice: "clara",
            text: $text,
            speaker: Speaker::Agent,
            wav_8k: include_bytes!(concat!("../../assets/speech/agent/", $id, "-8k.wav")),
            wav_24k: Some(include_bytes!(concat!("../../assets/speech/agent/", $id, "-24k.wav"))),
        }
    };
}

/// All recordings.
pub static PHRASES: &[Phrase] = &[
    caller!("anna", "hello", "Hello?"),
    caller!("ben", "hello", "Hello?"),
    caller!("anna", "hours-question", "Hello, I would like to know your opening hours."),
    caller!("ben", "hours-question", "Hello, I would like to know your opening hours."),
    caller!("anna", "sunday-question", "Wait, sorry, what about Sunday?"),
    caller!("ben", "sunday-question", "Wait, sorry, what about Sunday?"),
    caller!("anna", "order-question", "Can you tell me where my order is?"),
    caller!("ben", "order-question", "Can you tell me where my order is?"),
    caller!("anna", "address-question", "And what is your address?"),
    caller!("ben", "address-question", "And what is your address?"),
    caller!("anna", "person-please", "I would like to speak to a person, please."),
    caller!("ben", "person-please", "I would like to speak to a person, please."),
    caller!("anna", "mm-hm", "Mm hm."),
    caller!("ben", "mm-hm", "Mm hm."),
    caller!("anna", "uh-huh", "Uh huh."),
    caller!("ben", "uh-huh", "Uh huh."),
    caller!("anna", "yeah", "Yeah."),
    caller!("ben", "yeah", "Yeah."),
    caller!("anna", "okay", "Okay."),
    caller!("ben", "okay", "Okay."),
    caller!("anna", "right", "Right."),
    caller!("ben", "right", "Right."),
    caller!("anna", "i-see", "I see."),
    caller!("ben", "i-see", "I see."),
    caller!("anna", "stop", "Stop, please."),
    caller!("ben", "stop", "Stop, please."),
    caller!("anna", "wait", "Wait a moment."),
    caller!("ben", "wait", "Wait a moment."),
    caller!("anna", "wrong", "No, that's wrong."),
    caller!("ben", "wrong", "No, that's wrong."),
    caller!("anna", "excuse-me", "Excuse me."),
    caller!("ben", "excuse-me", "Excuse me."),
    caller!("anna", "still-here", "Yes, I am still here."),
    caller!("ben", "still-here", "Yes, I am still here."),
    caller!("anna", "goodbye", "Thank you, that is all. Goodbye."),
    caller!("ben", "goodbye", "Thank you, that is all. Goodbye."),
    agent!("greeting", "Hello, this is Northgate Bakery. How can I help you?"),
    agent!(
        "hours-answer",
        "We are open from Monday to Friday, from seven in the morning until six in the evening, and on Saturday from eight until two. You can also order by telephone."
    ),
    agent!("sunday-answer", "On Sunday we are closed."),
    agent!("keypad-answer", "Thank you, I have noted your selection."),
    agent!("order-wait", "One moment, I will look that up."),
    agent!("order-answer", "Your order is ready and waiting for you."),
    agent!("address-answer", "You find us at twelve Mill Street, next to the bridge."),
    agent!("transfer", "I will put you through to a colleague."),
    agent!("still-there", "Are you still there?"),
    agent!("line-broke", "Sorry, the line broke for a moment."),
    agent!("generic", "I see. Is there anything else I can do for you?"),
    agent!("goodbye", "Thank you for calling. Goodbye."),
];

impl Phrase {
    /// The recording at 8 kHz.
    pub fn samples_8k(&self) -> Result<Vec<i16>, WavError> {
        Wav::parse(self.wav_8k).map(|wav| wav.samples)
    }

    /// The recording as a telephone call carries it.
    pub fn ulaw(&self) -> Result<Vec<u8>, WavError> {
        Wav::parse(self.wav_8k)?.into_ulaw()
    }

    /// The recording at 24 kHz; only the agent has one.
    pub fn samples_24k(&self) -> Result<Vec<i16>, WavError> {
        Wav::parse(self.wav_24k.ok_or(WavError::Missing("24 kHz"))?).map(|wav| wav.samples)
    }
}

/// What a caller says, by phrase, in the wished voice or else in whichever there is.
#[must_use]
pub fn caller_phrase(id: &str, voice: &str) -> Option<&'static Phrase> {
    let mut said = PHRASES.iter().filter(|phrase| phrase.speaker == Speaker::Caller && phrase.id == id);
    said.clone().find(|phrase| phrase.voice == voice).or_else(|| said.next())
}

/// What the agent says.
#[must_use]
pub fn agent_phrase(id: &str) -> Option<&'static Phrase> {
    agent_phrases().find(|phrase| phrase.id == id)
}

/// All that the agent says.
pub fn agent_phrases() -> impl Iterator<Item = &'static Phrase> {
    PHRASES.iter().filter(|phrase| phrase.speaker == Speaker::Agent)
}

/// Voices that callers have.
#[must_use]
pub fn caller_voices() -> &'static [&'static str] {
    static VOICES: OnceLock<Vec<&'static str>> = OnceLock::new();
    VOICES.get_or_init(|| {
        let mut voices: Vec<_> = PHRASES
            .iter()
            .filter(|phrase| phrase.speaker == Speaker::Caller)
            .map(|phrase| phrase.voice)
            .collect();
        voices.sort_unstable();
        voices.dedup();
        voices
    })
}

/// mu-law at another level. What becomes too loud is clipped, as on a line.
#[must_use]
pub fn louder(ulaw: &[u8], gain_db: i32) -> Vec<u8> {
    let factor = 10_f64.powf(f64::from(gain_db) / 20.0);
    ulaw.iter().map(|&code| g711::encode((f64::from(g711::decode(code)) * factor) as i16)).collect()
}

/// A cough in mu-law: two bursts of dull noise that die away. Each length sounds a little different.
#[must_use]
pub fn cough(ms: u64) -> Vec<u8> {
    // A peak as high as that of the recordings: 4 dB below full scale.
    const PEAK: f64 = 20_600.0;
    let samples = ms * 8;
    let mut random = Random::new(ms);
    let mut dull = 0.0;
    let burst = |at: f64, begins: f64| {
        let since = at - begins;
        if since < 0.0 { 0.0 } else { (since / 0.03).min(1.0) * (-since / 0.14).exp() }
    };
    let sound = (0..samples).map(|sample| {
        let at = sample as f64 / samples as f64;
        let noise = random.between(0, 2_000) as f64 / 1_000.0 - 1.0;
        dull += 0.5 * (noise - dull);
        let level = burst(at, 0.0) + 0.7 * burst(at, 0.5);
        g711::encode((dull * level * PEAK * 1.6).clamp(-PEAK, PEAK) as i16)
    });
    sound.collect()
}

/// The beep of an answering machine in mu-law: 1400 Hz at -10 dBFS.
#[must_use]
pub fn beep(ms: u64) -> Vec<u8> {
    let step = 1400.0 * std::f64::consts::TAU / 8000.0;
    (0..ms * 8).map(|n| g711::encode(((n as f64 * step).sin() * 14_700.0) as i16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::level::Decibels;

    #[test]
    fn the_table_is_what_the_recordings_were_made_from() {
        let list = include_str!("../../assets/speech/phrases.tsv");
        let expected: Vec<_> = list
            .lines()
            .flat_map(|line| {
                let [speaker, voices, id, text]: [&str; 4] =
                    line.split('\t').collect::<Vec<_>>().try_into().unwrap();
                voices.split(',').map(move |voice| (speaker, voice, id, text)).collect::<Vec<_>>()
            })
            .collect();
        let actual: Vec<_> = PHRASES
            .iter()
            .map(|phrase| {
                let speaker = if phrase.speaker == Speaker::Caller { "caller" } else { "agent" };
                (speaker, phrase.voice, phrase.id, phrase.text)
            })
            .collect();
        assert_eq!(actual, expected);
    }

    #[test]
    fn every_recording_is_readable_and_of_sensible_length() {
        for phrase in PHRASES {
            let samples = phrase.samples_8k().unwrap();
            let seconds = samples.len() as f64 / 8000.0;
            assert!((0.3..11.0).contains(&seconds), "{} lasts {seconds} s", phrase.id);
            if phrase.speaker == Speaker::Agent {
                let wide = phrase.samples_24k().unwrap();
                assert!(wide.len().abs_diff(samples.len() * 3) <= 3, "{}", phrase.id);
            }
        }
    }

    #[test]
    fn the_long_answer_is_long_enough_to_be_interrupted() {
        assert!(agent_phrase("hours-answer").unwrap().ulaw().unwrap().len() > 8 * 8000);
    }

    #[test]
    fn a_cough_is_as_loud_as_a_word_and_dies_away() {
        for ms in [150, 400, 800] {
            let cough = cough(ms);
            assert_eq!(cough.len() as u64, ms * 8);
            let Decibels(level) = Decibels::of_ulaw(&cough);
            assert!((-26.0..-12.0).contains(&level), "{level} of {ms} ms");
            let Decibels(end) = Decibels::of_ulaw(&cough[cough.len() * 9 / 10..]);
            assert!(end < level - 6.0, "{end}");
        }
    }

    #[test]
    fn a_recording_at_another_level_is_the_same_recording() {
        let word = caller_phrase("okay", "ben").unwrap().ulaw().unwrap();
        for gain_db in [-12, -3, 0] {
            let Decibels(change) =
                Decibels(Decibels::of_ulaw(&louder(&word, gain_db)).0 - Decibels::of_ulaw(&word).0);
            assert!((change - gain_db as f32).abs() < 0.3, "{change} for {gain_db}");
        }
    }

    #[test]
    fn an_unknown_voice_falls_back_to_one_there_is() {
        assert_eq!(caller_phrase("hello", "nobody").unwrap().voice, "anna");
        assert_eq!(caller_phrase("hello", "ben").unwrap().voice, "ben");
        assert!(caller_phrase("greeting", "anna").is_none());
        assert_eq!(caller_voices(), ["anna", "ben"]);
    }

    #[test]
    fn all_recordings_together_stay_small() {
        let bytes: usize =
            PHRASES.iter().map(|phrase| phrase.wav_8k.len() + phrase.wav_24k.map_or(0, <[u8]>::len)).sum();
        assert!(bytes < 1_500_000, "{bytes}");
    }
}
