//! What is known by the words around it, or by its form.

use std::borrow::Cow;
use std::ops::Range;

use super::lexer::{Run, Sense, Text, Token, Word};

/// How far behind the words that announce it a number still belongs to them, in bytes: half a sentence.
const REACH: usize = 80;

/// Three or four digits after words for the code on a card.
pub(super) fn security_codes(text: &Text<'_>, is_asked: bool) -> Vec<Range<usize>> {
    let mut starts: Vec<usize> = announced(text, is_security_code);
    starts.extend(is_asked.then_some(0));
    let mut found = Vec::new();
    for start in starts {
        let mut near = text.runs.iter().flat_map(Run::phrases).filter(|phrase| {
            let at = phrase[0].place.start;
            at >= start && at - start <= REACH
        });
        let code = |phrase: &[Token]| {
            if phrase.iter().any(Token::is_amount) {
                return None;
            }
            let is_code = |digits: usize| matches!(digits, 3 | 4);
            if is_code(phrase.iter().map(|token| token.digits.len()).sum()) {
                return Some(phrase[0].place.start..phrase[phrase.len() - 1].place.end);
            }
            is_code(phrase[0].digits.len()).then(|| phrase[0].place.clone())
        };
        found.extend(near.find_map(code));
    }
    found
}

/// Whether card security codes are talked about here.
pub(super) fn mentions_security_code(text: &Text<'_>) -> bool {
    !announced(text, is_security_code).is_empty()
}

/// Whether social security numbers are.
pub(super) fn mentions_social_security(text: &Text<'_>) -> bool {
    !announced(text, is_social_security).is_empty()
}

/// Whether the number of a card is.
pub(super) fn mentions_card_number(text: &Text<'_>) -> bool {
    let is_card =
        |word: &Word<'_>| matches!(word.lower.as_str(), "card" | "cards" | "visa" | "mastercard" | "amex");
    let is_number =
        |word: &Word<'_>| matches!(word.lower.as_str(), "number" | "numbers" | "digit" | "digits");
    (text.words.iter().any(is_card) && text.words.iter().any(is_number))
        || text.words.iter().any(|word| in_one(word).contains("cardnumber"))
}

/// `123-45-6789`; and nine digits in any form after "social security".
pub(super) fn social_security(text: &Text<'_>, is_asked: bool) -> Vec<Range<usize>> {
    let mut starts: Vec<usize> = announced(text, is_social_security);
    starts.extend(is_asked.then_some(0));
    let mut found = Vec::new();
    for run in &text.runs {
        for readings in [Some(run.clone()), run.with_tens()].into_iter().flatten() {
            let tokens = &readings.tokens;
            for first in 0..tokens.len() {
                let mut digits = Vec::with_capacity(9);
                for last in first..tokens.len() {
                    digits.extend_from_slice(&tokens[last].digits);
                    if digits.len() < 9 {
                        continue;
                    }
                    let at = tokens[first].place.start;
                    let is_announced = starts.iter().any(|start| at >= *start && at - start <= REACH);
                    let is_one = digits.len() == 9
                        && (is_announced || (is_written_so(tokens, first, last) && is_given_out(&digits)));
                    if is_one {
                        found.push(readings.place(first..last + 1));
                    }
                    break;
                }
            }
        }
    }
    found
}

/// Three, two and four digits with hyphens between, and none around.
fn is_written_so(tokens: &[Token], first: usize, last: usize) -> bool {
    let lengths = tokens[first..=last].iter().map(|token| token.digits.len());
    let hyphen = |index: usize| tokens.get(index).is_some_and(|token| token.joined_by == Some('-'));
    lengths.eq([3, 2, 4])
        && (first + 1..=last).all(hyphen)
        && !(first > 0 && hyphen(first))
        && !hyphen(last + 1)
}

/// No number has these areas, groups or serials.
// Social Security Administration, "Social Security Number Randomization".
fn is_given_out(digits: &[u8]) -> bool {
    let area = &digits[..3];
    area != [0; 3] && area != [6; 3] && area[0] != 9 && digits[3..5] != [0; 2] && digits[5..] != [0; 4]
}

/// Where something is announced that a number belongs to: behind those words.
fn announced(text: &Text<'_>, is_it: fn(&[Word<'_>]) -> Option<usize>) -> Vec<usize> {
    let ends = (0..text.words.len()).filter_map(|at| Some(at + is_it(&text.words[at..])?));
    ends.map(|end| text.words[end - 1].place.end).collect()
}

/// So many words mean the code on a card.
fn is_security_code(words: &[Word<'_>]) -> Option<usize> {
    let word = |index: usize| words.get(index).map_or("", |word| word.lower.as_str());
    let first = in_one(words.first()?);
    let is_part = |part: &str| first.contains(part);
    if matches!(&*first, "cvn" | "csc") || ["cvv", "cvc", "securitycode"].into_iter().any(is_part) {
        return Some(1);
    }
    match (word(0), word(1), word(2)) {
        ("security", "code" | "number" | "digits", _) | ("verification", "code" | "value", _) => Some(2),
        ("c", "v", "v" | "c" | "n") => Some(3),
        _ => None,
    }
}

/// A name such as `card_security_code` or `securityCode` as one word in small letters.
fn in_one<'a>(word: &'a Word<'_>) -> Cow<'a, str> {
    if word.lower.is_empty() && word.text.is_ascii() {
        return Cow::Owned(word.text.replace('_', "").to_ascii_lowercase());
    }
    Cow::Borrowed(&word.lower)
}

/// So many words mean the number of the social security.
fn is_social_security(words: &[Word<'_>]) -> Option<usize> {
    let first = words.first()?;
    let is_name = first.text.split('_').any(|part| part.eq_ignore_ascii_case("ssn"));
    if is_name || in_one(first).ends_with("ssn") || in_one(first).contains("socialsecurity") {
        return Some(1);
    }
    let word = |index: usize| words.get(index).map_or("", |word| word.lower.as_str());
    match (word(0), word(1), word(2)) {
        ("social", "security" | "number", _) => Some(2),
        ("s", "s", "n") => Some(3),
        _ => None,
    }
}

/// `name@example.com`, and the same in words.
pub(super) fn emails(text: &Text<'_>) -> Vec<Range<usize>> {
    let whole = text.whole;
    let mut found: Vec<_> = whole.match_indices('@').filter_map(|(at, _)| written_email(whole, at)).collect();
    let at_words = text.words.iter().enumerate().filter(|(_, word)| word.lower == "at");
    found.extend(at_words.filter_map(|(at, _)| spoken_email(text, at)));
    found
}

fn written_email(whole: &str, at: usize) -> Option<Range<usize>> {
    let local = |c: char| c.is_alphanumeric() || "._%+-'".contains(c);
    let domain = |c: char| c.is_alphanumeric() || ".-".contains(c);
    let start = at - whole[..at].chars().rev().take_while(|c| local(*c)).map(char::len_utf8).sum::<usize>();
    let host: usize = whole[at + 1..].chars().take_while(|c| domain(*c)).map(char::len_utf8).sum();
    let host = whole[at + 1..at + 1 + host].trim_end_matches(['.', '-']);
    (start < at && host.contains('.')).then(|| start..at + 1 + host.len())
}

/// `at`: the word "at". There is a "dot" behind it, and what is joined to the word before it belongs to it.
fn spoken_email(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    let lower = |index: usize| text.words.get(index).map_or("", |word| word.lower.as_str());
    let follows = |index: usize| {
        let (Some(word), Some(next)) = (text.words.get(index), text.words.get(index + 1)) else {
            return false;
        };
        let gap = &text.whole[word.place.end..next.place.start];
        gap.chars().all(|c| c.is_whitespace() || c == '-' || c == ',')
    };
    let mut end = at + 1;
    while follows(end - 1) && follows(end) && lower(end + 1) == "dot" && follows(end + 1) {
        end += 2;
    }
    // As long as it is spelled.
    let is_spelled = |index: usize| {
        let word = &text.words[index];
        if text.whole[..word.place.start].ends_with(['\'', '’']) {
            return false; // "It's".
        }
        word.text.chars().count() == 1 || matches!(word.sense, Sense::Number(_))
    };
    if end == at + 1 || at == 0 || !follows(at - 1) {
        return None;
    }
    let mut start = at - 1;
    while start > 0 && follows(start - 1) {
        if matches!(lower(start - 1), "dot" | "underscore" | "dash" | "hyphen" | "minus" | "plus")
            && start > 1
        {
            start -= 2;
        } else if is_spelled(start - 1) && is_spelled(start) {
            start -= 1;
        } else {
            break;
        }
    }
    Some(text.words[start].place.start..text.words.get(end)?.place.end)
}

/// Numbers of as many digits as can be dialled, and that are no dates or amounts.
pub(super) fn phone_numbers(text: &Text<'_>) -> Vec<Range<usize>> {
    let phrases = text.runs.iter().flat_map(Run::phrases);
    let number = |phrase: &[Token]| {
        let digits: usize = phrase.iter().map(|token| token.digits.len()).sum();
        let is_else = is_date(phrase) || phrase.iter().any(Token::is_amount);
        if !(7..=15).contains(&digits) || is_else {
            return None;
        }
        let start = phrase[0].place.start;
        let has_plus = text.whole[..start].ends_with('+');
        Some(start - usize::from(has_plus)..phrase[phrase.len() - 1].place.end)
    };
    phrases.filter_map(number).collect()
}

/// Year, month and day in digits, or the other way round.
pub(super) fn is_date(phrase: &[Token]) -> bool {
    let lengths: Vec<usize> = phrase.iter().map(|token| token.digits.len()).collect();
    matches!(lengths[..], [4, 1 | 2, 1 | 2] | [1 | 2, 1 | 2, 4])
}
