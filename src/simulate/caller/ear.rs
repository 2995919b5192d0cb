//! The caller's ear: is the agent speaking, and since when.

use std::time::Duration;

use super::playout::Heard;
use crate::audio::g711;

/// Voice is looked for in pieces of 10 ms.
const PIECE_BYTES: usize = 80;
/// Root mean square of the quietest voice: about -46 dBFS.
const VOICE_RMS: f64 = 160.0;

/// What has been heard so far.
#[derive(Debug, Default)]
pub(super) struct Ear {
    /// A piece that is not complete.
    rest: Vec<u8>,
    voice_ms: u64,
    /// End of the latest voice.
    last_voice: Option<Duration>,
    was_cut: bool,
    /// The times at which voice set in, after a pause or a cut.
    onsets: Vec<Duration>,
}

/// Pauses within a sentence are shorter than this.
const PAUSE: Duration = Duration::from_millis(350);

impl Ear {
    pub(super) fn hear(&mut self, heard: &Heard) {
        // Bytes left over belong to the audio just before these, or are lost in a gap that nobody can hear.
        let mut at = heard.at.saturating_sub(Duration::from_micros(self.rest.len() as u64 * 125));
        self.rest.extend_from_slice(&heard.bytes);
        let whole = self.rest.len() / PIECE_BYTES * PIECE_BYTES;
        let pieces: Vec<u8> = self.rest.drain(..whole).collect();
        for piece in pieces.chunks_exact(PIECE_BYTES) {
            let power: f64 = piece.iter().map(|&code| f64::from(g711::decode(code)).powi(2)).sum();
            let end = at + Duration::from_millis(10);
            if (power / PIECE_BYTES as f64).sqrt() > VOICE_RMS {
                self.voice_ms += 10;
                if self.was_cut || self.last_voice.is_none_or(|last| at > last + PAUSE) {
                    self.was_cut = false;
                    self.onsets.push(at);
                }
                self.last_voice = Some(end);
            }
            at = end;
        }
    }

    /// Milliseconds of voice so far, pauses not counted.
    pub(super) const fn voice_ms(&self) -> u64 {
        self.voice_ms
    }

    /// When voice was last heard.
    pub(super) const fn last_voice(&self) -> Option<Duration> {
        self.last_voice
    }

    /// True when there was voice within the last pause's length.
    pub(super) fn is_hearing(&self, now: Duration) -> bool {
        self.last_voice.is_some_and(|last| now < last + PAUSE)
    }

    /// The first time at or after `from` that voice set in after a pause, or simply began again after a `clear`.
    pub(super) fn first_onset_since(&self, from: Duration) -> Option<Duration> {
        self.onsets.iter().copied().find(|onset| *onset >= from)
    }

    /// The audio was cut off: the next voice is something new, with or without a pause.
    pub(super) fn cut(&mut self) {
        self.rest.clear();
        self.was_cut = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::speech::agent_phrase;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn heard(ms: u64, bytes: Vec<u8>) -> Heard {
        Heard { at: at(ms), bytes }
    }

    #[test]
    fn voice_is_told_from_silence() {
        let mut ear = Ear::default();
        ear.hear(&heard(0, vec![0xFF; 8000]));
        assert_eq!((ear.voice_ms(), ear.last_voice()), (0, None));
        let speech = agent_phrase("greeting").unwrap().ulaw().unwrap();
        let length = speech.len() as u64 / 8;
        ear.hear(&heard(1000, speech));
        assert!(ear.voice_ms() > length / 2, "{} of {length}", ear.voice_ms());
        assert!(ear.is_hearing(at(1000 + length)) && !ear.is_hearing(at(2000 + length)));
        assert!(ear.first_onset_since(at(500)).unwrap() >= at(1000));
        assert_eq!(ear.first_onset_since(at(1000 + length)), None);
    }

    #[test]
    fn what_follows_a_cut_is_new_without_a_pause() {
        let loud: Vec<u8> = [0x10, 0x90].repeat(400);
        let mut ear = Ear::default();
        ear.hear(&heard(0, loud.clone()));
        ear.hear(&heard(100, loud.clone()));
        assert_eq!(ear.first_onset_since(at(50)), None);
        ear.cut();
        ear.hear(&heard(220, loud));
        assert_eq!(ear.first_onset_since(at(50)), Some(at(220)));
    }
}
