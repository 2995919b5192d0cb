//! What the telephone network does with a bridge's audio: plays it, sends marks back, drops it on `clear`.

use std::collections::VecDeque;

use super::calls::Micros;

/// mu-law at 8 kHz.
const US_PER_BYTE: Micros = 125;
/// A pause longer than this separates two answers.
const PAUSE_US: Micros = 250_000;

/// The playout buffer of one stream.
#[derive(Debug, Default)]
pub(super) struct Player {
    play_end: Micros,
    /// Bytes since the last pause, played or not.
    bytes: u64,
    marks: VecDeque<(Micros, String)>,
}

impl Player {
    pub(super) fn on_media(&mut self, now: Micros, bytes: usize) {
        if now > self.play_end + PAUSE_US {
            self.bytes = 0;
        }
        self.bytes += bytes as u64;
        self.play_end = self.play_end.max(now) + bytes as u64 * US_PER_BYTE;
    }

    /// When everything that has come will have been played.
    pub(super) const fn quiet_at(&self) -> Micros {
        self.play_end
    }

    pub(super) fn on_mark(&mut self, now: Micros, name: String) {
        self.marks.push_back((self.play_end.max(now), name));
    }

    /// Drops what is not played; returns how many milliseconds of this answer were.
    pub(super) fn on_clear(&mut self, now: Micros) -> u64 {
        let unplayed = self.play_end.saturating_sub(now) / US_PER_BYTE;
        let heard_ms = self.bytes.saturating_sub(unplayed) / 8;
        self.play_end = now;
        self.bytes = 0;
        for (due, _) in &mut self.marks {
            *due = now;
        }
        heard_ms
    }

    /// When the next mark goes back.
    pub(super) fn next_at(&self) -> Micros {
        self.marks.front().map_or(Micros::MAX, |(due, _)| *due)
    }

    /// A mark that goes back by now.
    pub(super) fn poll(&mut self, now: Micros) -> Option<String> {
        self.marks.pop_front_if(|(due, _)| *due <= now).map(|(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_back_when_the_audio_before_them_is_played() {
        let mut player = Player::default();
        player.on_mark(1_000, "first".into());
        assert_eq!(player.poll(1_000).as_deref(), Some("first"), "nothing was before it");
        player.on_media(1_000, 160);
        player.on_media(1_500, 160);
        player.on_mark(1_500, "second".into());
        assert_eq!((player.next_at(), player.poll(40_999)), (41_000, None));
        assert_eq!(player.poll(41_000).as_deref(), Some("second"));
        assert_eq!(player.next_at(), Micros::MAX);
    }

    #[test]
    fn a_clear_says_what_was_heard_of_this_answer_and_sends_all_marks_back() {
        let mut player = Player::default();
        player.on_media(0, 8_000);
        player.on_media(2_000_000, 8_000);
        player.on_mark(2_000_000, "end".into());
        assert_eq!(player.on_clear(2_400_000), 400);
        assert_eq!(player.poll(2_400_000).as_deref(), Some("end"));
        player.on_media(2_400_000, 800);
        assert_eq!(player.on_clear(2_450_000), 50);
    }
}
