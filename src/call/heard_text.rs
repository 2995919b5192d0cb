//! How much of an agent's words the caller heard when the sound was cut.

/// Speech is rarely faster than this: a floor for how long a text takes to say, in milliseconds a character. From the
/// synthetic and recorded voices measured, 12 to 17 characters a second.
const MS_PER_CHARACTER: u64 = 60;

/// The words that were wholly heard, in proportion to time.
///
/// `received_ms` is the audio there was. Words run ahead of their sound, so for an answer that was interrupted while it
/// was still being made the text is longer than its sound; it is then measured by the pace of ordinary speech.
pub(super) fn cut(text: &str, heard_ms: u64, received_ms: u64) -> &str {
    let characters = text.chars().count() as u64;
    let whole_ms = received_ms.max(characters * MS_PER_CHARACTER);
    let complete = heard_ms >= received_ms && received_ms * 10 >= whole_ms * 9;
    if complete || characters == 0 {
        return text;
    }
    let heard = (characters * heard_ms / whole_ms) as usize;
    let end = text.char_indices().nth(heard).map_or(text.len(), |(at, _)| at);
    if text[end..].starts_with(char::is_whitespace) {
        return text[..end].trim_end();
    }
    let last_gap = text[..end].rfind(char::is_whitespace);
    last_gap.map_or("", |at| text[..at].trim_end())
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn only_words_that_were_wholly_heard_remain() {
        let text = "We open at seven in the morning."; // 32 characters
        assert_eq!(cut(text, 0, 3200), "");
        assert_eq!(cut(text, 1600, 3200), "We open at seven");
        assert_eq!(cut(text, 1500, 3200), "We open at");
        assert_eq!(cut(text, 3200, 3200), text);
    }

    #[test]
    fn text_ahead_of_its_sound_is_measured_by_the_pace_of_speech() {
        let text = "word ".repeat(100); // 500 characters, about 30 s
        let heard = cut(&text, 1000, 1000);
        assert!((10..=20).contains(&heard.len()), "{heard:?}");
    }

    #[test]
    fn characters_of_any_length_are_never_split() {
        let text = "ありがとう ございました";
        for heard in 0..2000 {
            assert!(text.starts_with(cut(text, heard, 2000)));
        }
    }
}
