//! International bank account numbers.

use std::ops::Range;

use super::lexer::{Sense, Text, Word};

// ISO 13616, the registry's lengths.
const LENGTHS: [(&str, usize); 82] = [
    ("AD", 24),
    ("AE", 23),
    ("AL", 28),
    ("AT", 20),
    ("AZ", 28),
    ("BA", 20),
    ("BE", 16),
    ("BG", 22),
    ("BH", 22),
    ("BR", 29),
    ("BY", 28),
    ("CH", 21),
    ("CR", 22),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DK", 18),
    ("DO", 28),
    ("EE", 20),
    ("EG", 29),
    ("ES", 24),
    ("FI", 18),
    ("FO", 18),
    ("FR", 27),
    ("GB", 22),
    ("GE", 22),
    ("GI", 23),
    ("GL", 18),
    ("GR", 27),
    ("GT", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IQ", 23),
    ("IS", 26),
    ("IT", 27),
    ("JO", 30),
    ("KW", 30),
    ("KZ", 20),
    ("LB", 28),
    ("LC", 32),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("LY", 25),
    ("MC", 27),
    ("MD", 24),
    ("ME", 22),
    ("MK", 19),
    ("MR", 27),
    ("MT", 31),
    ("MU", 30),
    ("NL", 18),
    ("NO", 15),
    ("OM", 23),
    ("PK", 24),
    ("PL", 28),
    ("PS", 29),
    ("PT", 25),
    ("QA", 29),
    ("RO", 24),
    ("RS", 22),
    ("SA", 24),
    ("SC", 31),
    ("SD", 18),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("ST", 25),
    ("SV", 28),
    ("TL", 23),
    ("TN", 24),
    ("TR", 26),
    ("UA", 29),
    ("VA", 22),
    ("VG", 24),
    ("XK", 20),
    ("BI", 27),
    ("DJ", 27),
];

/// Where they stand: groups of letters and digits, or digits said as words, from the country's letters on.
pub(super) fn numbers(text: &Text<'_>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut signs = Vec::with_capacity(40);
    for (first, word) in text.words.iter().enumerate() {
        let is_start = word.text.bytes().take(2).all(|byte| byte.is_ascii_alphabetic());
        if !is_start {
            continue;
        }
        signs.clear();
        let mut end = 0;
        for (index, word) in text.words[first..].iter().enumerate() {
            if index > 0 && !is_joint(&text.whole[end..word.place.start]) {
                break;
            }
            end = word.place.end;
            put(&mut signs, word);
            match length(&signs) {
                Length::Unknown => {}
                Length::None => break,
                Length::Of(length) if signs.len() < length => {}
                Length::Of(length) => {
                    if signs.len() == length && checks(&signs) {
                        found.push(text.words[first].place.start..end);
                    }
                    break;
                }
            }
        }
    }
    found
}

fn is_joint(gap: &str) -> bool {
    gap.chars().count() <= 2 && gap.chars().all(|c| matches!(c, ' ' | '-' | '.' | ',' | '\u{a0}'))
}

fn put(signs: &mut Vec<u8>, word: &Word<'_>) {
    match &word.sense {
        Sense::Number(digits) if word.text.len() > 1 || word.lower.is_empty() => {
            signs.extend(digits.iter().map(|digit| b'0' + digit));
        }
        _ => signs.extend(word.text.bytes().map(|byte| byte.to_ascii_uppercase())),
    }
}

enum Length {
    /// The country is not known yet.
    Unknown,
    /// No account number begins like this.
    None,
    Of(usize),
}

fn length(signs: &[u8]) -> Length {
    let (Some(country), rest) = (signs.get(..2), signs.get(2..).unwrap_or_default()) else {
        return Length::Unknown;
    };
    let known = LENGTHS.iter().find(|(name, _)| name.as_bytes() == country);
    match known {
        Some((_, length)) if rest.iter().take(2).all(u8::is_ascii_digit) => Length::Of(*length),
        _ => Length::None,
    }
}

/// Country and check digits at the end, letters as 10 to 35: one is left of it by 97.
// ISO/IEC 7064, MOD 97-10.
fn checks(signs: &[u8]) -> bool {
    let remainder = signs[4..].iter().chain(&signs[..4]).try_fold(0_u32, |remainder, sign| match sign {
        b'0'..=b'9' => Some((remainder * 10 + u32::from(sign - b'0')) % 97),
        b'A'..=b'Z' => Some((remainder * 100 + u32::from(sign - b'A') + 10) % 97),
        _ => None,
    });
    remainder == Some(1)
}
