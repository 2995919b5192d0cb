//! Which words over the agent mean "go on, I am listening".

/// Signs of listening, in the languages our callers speak most. Anything else is said to be answered.
///
/// A word is here only if people say it without wanting the floor: "yes" is, "no" is not.
const SIGNS: &[&str] = &[
    // English, and what no language owns.
    "ah aha all alright and cool course er erm exactly fine good got gotcha great hm hmm huh hum i it kay m mh mhm mhmm",
    "mkay mm mmhm mmhmm mmm nice of oh ok okay right see sure thank thanks true uh uhhuh uhuh um understood wow yeah yep",
    "yes you yup",
    // German.
    "ach danke genau gut ich ja jaja jawohl klar mhmh na richtig schön so stimmt tja verstehe",
    // French.
    "accord bien compris d entendu euh merci mouais ouais oui parfait très voilà",
    // Spanish and Portuguese.
    "ajá bueno certo claro entendi entiendo gracias isso obrigada obrigado perfecto pois sim sí tá vale ya",
    // Italian.
    "bene capisco capito certo esatto grazie perfetto sì va",
    // Dutch.
    "goed hè inderdaad juist oké precies",
    // Hindi.
    "accha achha haan hai han ji theek thik अच्छा जी ठीक हाँ हां है",
    // Japanese.
    "うん ええ はい",
];
/// A sign of listening is short, whatever it is made of.
const MOST_WORDS: usize = 5;

/// More words of people who part.
const GOODBYES: &[&str] = &["adiós au auf by bye ciao goodbye revoir tchau tschüs tschüss wiederhören"];

/// True when these words are more than a sign of listening. `leaving`: the agent is saying goodbye, and so may the caller.
///
/// What stands in brackets describes a sound, as in "[coughs]", and is no word. `finished`: no more will be added to the
/// last one.
pub(super) fn interrupt(text: &str, finished: bool, leaving: bool) -> bool {
    let mut text = without_brackets(text);
    if !finished {
        // The last word may still become another one.
        let end = text.trim_end_matches(|c: char| c.is_alphanumeric()).len();
        text.truncate(end);
    }
    // Devanagari vowel signs are marks and no letters: only what is known to part words parts them.
    let apart = |c: char| c.is_whitespace() || c.is_ascii_punctuation() || "…–—’“”„«»¿¡、。！？।".contains(c);
    let mut count = 0;
    for word in text.split(apart).filter(|word| !word.is_empty()) {
        count += 1;
        let word = word.to_lowercase();
        let known = is_among(SIGNS, &word) || leaving && is_among(GOODBYES, &word);
        if !known || count > MOST_WORDS {
            return true;
        }
    }
    false
}

fn is_among(lists: &[&str], word: &str) -> bool {
    lists.iter().flat_map(|list| list.split(' ')).any(|listed| listed == word)
}

fn without_brackets(text: &str) -> String {
    let mut depth = 0_u32;
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '(' | '[' | '<' | '{' => depth += 1,
            ')' | ']' | '>' | '}' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_listening_do_not_interrupt() {
        for text in [
            "",
            " ",
            "Mm hm.",
            "Mm-hmm",
            "Uh huh.",
            "Yeah.",
            "Okay, okay.",
            "I see.",
            "Got it, thanks!",
            "Ja, genau.",
            "D’accord.",
            "Sí, claro…",
            "ठीक है।",
            "はい、はい。",
            "[coughs]",
            "(0.4 s of speech)",
            "Hm… (laughs)",
        ] {
            assert!(!interrupt(text, true, false), "{text}");
        }
    }

    #[test]
    fn anything_else_does() {
        for text in [
            "Stop, please.",
            "Wait a moment.",
            "No.",
            "No, that's wrong.",
            "Excuse me.",
            "Nein!",
            "And what is your address?",
            "Yes, but on Sunday?",
            "(laughs) Hold on.",
            "yes yes yes yes yes yes",
            "रुको",
        ] {
            assert!(interrupt(text, true, false), "{text}");
        }
    }

    #[test]
    fn a_word_that_is_being_written_is_not_judged() {
        assert!(!interrupt("y", false, false));
        assert!(!interrupt("okay sto", false, false));
        assert!(interrupt("okay stop ", false, false));
        assert!(interrupt("stop", true, false));
    }

    #[test]
    fn a_goodbye_does_not_interrupt_a_goodbye() {
        assert!(interrupt("Thank you, bye.", true, false));
        assert!(!interrupt("Thank you, bye.", true, true));
    }
}
