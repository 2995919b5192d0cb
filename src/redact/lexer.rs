//! Text as words and numbers, whether a number was written in digits or in English words.

use std::ops::Range;

/// Digits in one run that are more than an amount or a time has.
const LONG: usize = 12;

/// A text, read once.
#[derive(Debug)]
pub(super) struct Text<'a> {
    pub(super) whole: &'a str,
    pub(super) words: Vec<Word<'a>>,
    /// Numbers that follow each other, each as far as only spaces, hyphens and the like stand between.
    pub(super) runs: Vec<Run>,
}

/// Letters and digits without anything between them.
#[derive(Debug, Clone)]
pub(super) struct Word<'a> {
    pub(super) place: Range<usize>,
    pub(super) text: &'a str,
    /// In small letters, where it has only ASCII letters; else empty.
    pub(super) lower: String,
    pub(super) sense: Sense,
}

/// What a word is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sense {
    /// A number in digits, or a word for one.
    Number(Vec<u8>),
    /// "Double": the next digit counts so often.
    Repeat(usize),
    /// People say it in the middle of a number.
    Filler,
    /// Letters and digits mixed, or part of such a thing: an id.
    Identifier,
    /// Anything else.
    Plain,
}

/// Numbers in a row.
#[derive(Debug, Clone, Default)]
pub(super) struct Run {
    pub(super) tokens: Vec<Token>,
}

/// One number of a run.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) place: Range<usize>,
    pub(super) digits: Vec<u8>,
    /// A word such as "forty", which takes a following "one" into itself.
    takes_unit: bool,
    part: Part,
    /// A comma, full stop or the like stands before it.
    pub(super) after_stop: bool,
    /// What stands right before it, where that is one character.
    pub(super) joined_by: Option<char>,
}

/// What a number is part of, as far as that is written beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Anything,
    /// Right after a currency sign, or before a word such as "dollars".
    Amount,
    /// Belongs to a number that begins with `+`.
    Dialled,
}

impl Token {
    pub(super) fn is_amount(&self) -> bool {
        self.part == Part::Amount
    }

    pub(super) fn is_dialled(&self) -> bool {
        self.part == Part::Dialled
    }
}

impl<'a> Text<'a> {
    pub(super) fn of(whole: &'a str) -> Self {
        let mut words = words(whole);
        mark_identifiers(whole, &mut words);
        let runs = runs(whole, &words);
        Self { whole, words, runs }
    }
}

impl Run {
    pub(super) fn place(&self, tokens: Range<usize>) -> Range<usize> {
        self.tokens[tokens.start].place.start..self.tokens[tokens.end - 1].place.end
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.iter().map(|token| token.digits.len()).sum()
    }

    /// The same with "forty one" as 41, not as 40 and 1. `None`: it makes no difference.
    pub(super) fn with_tens(&self) -> Option<Self> {
        let mut tokens: Vec<Token> = Vec::with_capacity(self.tokens.len());
        for token in &self.tokens {
            match tokens.last_mut() {
                Some(tens) if tens.takes_unit && is_unit(token) => {
                    tens.digits[1] = token.digits[0];
                    tens.place.end = token.place.end;
                    tens.takes_unit = false;
                }
                _ => tokens.push(token.clone()),
            }
        }
        (tokens.len() < self.tokens.len()).then_some(Self { tokens })
    }

    /// Parts between commas, full stops and the like.
    pub(super) fn phrases(&self) -> impl Iterator<Item = &[Token]> {
        self.tokens.chunk_by(|_, next| !next.after_stop)
    }
}

fn is_unit(token: &Token) -> bool {
    matches!(token.digits[..], [1..=9]) && token.place.len() > 1 && !token.after_stop
}

fn words(whole: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in whole.char_indices().chain([(whole.len(), ' ')]) {
        if c.is_alphanumeric() || c == '_' {
            start.get_or_insert(at);
        } else if let Some(start) = start.take() {
            let text = &whole[start..at];
            let is_ascii = text.bytes().all(|byte| byte.is_ascii_alphabetic());
            let lower = if is_ascii { text.to_ascii_lowercase() } else { String::new() };
            let sense = sense(text, &lower);
            words.push(Word { place: start..at, text, lower, sense });
        }
    }
    words
}

fn sense(text: &str, lower: &str) -> Sense {
    if let Some(digits) = text.chars().map(digit).collect::<Option<Vec<u8>>>() {
        return Sense::Number(digits);
    }
    if lower.is_empty() {
        let has_digit = text.chars().any(|c| digit(c).is_some());
        return if has_digit || text.contains('_') { Sense::Identifier } else { Sense::Plain };
    }
    if let Some(digits) = spoken(lower) {
        return Sense::Number(digits.to_vec());
    }
    match lower {
        "double" => Sense::Repeat(2),
        "triple" | "treble" => Sense::Repeat(3),
        "quadruple" => Sense::Repeat(4),
        "uh" | "um" | "er" | "erm" | "ah" | "and" | "then" | "dash" | "hyphen" | "space" => Sense::Filler,
        _ => Sense::Plain,
    }
}

/// The value of a decimal digit in the scripts that speech recognition writes numbers in.
fn digit(c: char) -> Option<u8> {
    let zero = match c {
        '0'..='9' => '0',
        '\u{660}'..='\u{669}' => '\u{660}',
        '\u{6f0}'..='\u{6f9}' => '\u{6f0}',
        '\u{966}'..='\u{96f}' => '\u{966}',
        '\u{ff10}'..='\u{ff19}' => '\u{ff10}',
        _ => return None,
    };
    u8::try_from(u32::from(c) - u32::from(zero)).ok()
}

fn spoken(word: &str) -> Option<&'static [u8]> {
    Some(match word {
        "zero" | "oh" | "o" | "nought" | "naught" => &[0],
        "one" => &[1],
        "two" => &[2],
        "three" => &[3],
        "four" => &[4],
        "five" => &[5],
        "six" => &[6],
        "seven" => &[7],
        "eight" => &[8],
        "nine" | "niner" => &[9],
        "ten" => &[1, 0],
        "eleven" => &[1, 1],
        "twelve" => &[1, 2],
        "thirteen" => &[1, 3],
        "fourteen" => &[1, 4],
        "fifteen" => &[1, 5],
        "sixteen" => &[1, 6],
        "seventeen" => &[1, 7],
        "eighteen" => &[1, 8],
        "nineteen" => &[1, 9],
        "twenty" => &[2, 0],
        "thirty" => &[3, 0],
        "forty" | "fourty" => &[4, 0],
        "fifty" => &[5, 0],
        "sixty" => &[6, 0],
        "seventy" => &[7, 0],
        "eighty" => &[8, 0],
        "ninety" => &[9, 0],
        // "Eleven hundred" is 1100.
        "hundred" => &[0, 0],
        "thousand" => &[0, 0, 0],
        _ => return None,
    })
}

/// What is joined by hyphens to something of letters and digits is a part of it, and so are the parts of a UUID.
fn mark_identifiers(whole: &str, words: &mut [Word<'_>]) {
    for chain in words.chunk_by_mut(|a, b| whole[a.place.end..b.place.start] == *"-") {
        let is_mixed = chain.iter().any(|word| word.sense == Sense::Identifier);
        let is_uuid = chain.iter().map(|word| word.text.len()).eq([8, 4, 4, 4, 12]);
        if is_mixed || is_uuid {
            for word in chain {
                word.sense = Sense::Identifier;
            }
        }
    }
}

fn runs(whole: &str, words: &[Word<'_>]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut open = false;
    let mut repeat: Option<(usize, usize)> = None; // How often, and where that was said.
    let mut last_end = 0;
    let mut stopped = false;
    for (index, word) in words.iter().enumerate() {
        let gap = &whole[last_end..word.place.start];
        open &= is_joint(gap);
        stopped |= is_stop(gap);
        last_end = word.place.end;
        match &word.sense {
            Sense::Repeat(times) => repeat = Some((*times, word.place.start)),
            Sense::Filler => {}
            Sense::Plain | Sense::Identifier => {
                open = false;
                repeat = None;
            }
            Sense::Number(digits) => {
                let (digits, start) = match repeat.take() {
                    Some((times, start)) if digits.len() == 1 => (digits.repeat(times), start),
                    _ => (digits.clone(), word.place.start),
                };
                if !open {
                    runs.push(Run::default());
                }
                let Some(run) = runs.last_mut() else { continue };
                let before = whole[..start].chars().next_back();
                // "… 1111, am I right?": nobody counts so much of anything.
                let before_it: usize = run.tokens.iter().map(|token| token.digits.len()).sum();
                let is_long = before_it + digits.len() >= LONG;
                let counts = !is_long && words.get(index + 1).is_some_and(counts_something);
                let mut gap = gap.chars();
                let token = Token {
                    place: start..word.place.end,
                    takes_unit: !word.lower.is_empty() && matches!(digits[..], [2..=9, 0]),
                    digits,
                    part: if is_currency(before) || counts {
                        Part::Amount
                    } else if is_dialled(run, before, open && stopped) {
                        Part::Dialled
                    } else {
                        Part::Anything
                    },
                    after_stop: open && stopped,
                    joined_by: gap.next().filter(|_| gap.next().is_none()),
                };
                run.tokens.push(token);
                (open, stopped) = (true, false);
            }
        }
    }
    runs
}

/// A number that began with `+` goes on for as long as it can be one.
// E.164: fifteen digits at most.
fn is_dialled(run: &Run, before: Option<char>, after_stop: bool) -> bool {
    let dialled = || run.tokens.iter().rev().take_while(|token| token.is_dialled());
    before == Some('+')
        || (!after_stop
            && run.tokens.last().is_some_and(Token::is_dialled)
            && dialled().map(|token| token.digits.len()).sum::<usize>() < 15)
}

/// What may stand between the parts of a number.
fn is_joint(gap: &str) -> bool {
    let may_stand = |c: char| {
        c.is_whitespace()
            || matches!(
                c,
                '-' | '\u{2010}'..='\u{2015}' | '.' | ',' | ';' | '(' | ')' | '…' | '·' | '•' | '_' | '*'
            )
    };
    gap.chars().count() <= 12 && gap.chars().all(may_stand)
}

/// Somebody drew breath: "4,111" is one number, "4, 111" are two.
fn is_stop(gap: &str) -> bool {
    gap.contains(['\n', '…', ';']) || (gap.contains([',', '.']) && gap.contains(char::is_whitespace))
}

fn is_currency(before: Option<char>) -> bool {
    before.is_some_and(|c| matches!(c, '$' | '€' | '£' | '¥' | '₹'))
}

fn counts_something(word: &Word<'_>) -> bool {
    matches!(
        word.lower.as_str(),
        "dollar"
            | "dollars"
            | "euro"
            | "euros"
            | "pound"
            | "pounds"
            | "rupees"
            | "percent"
            | "cents"
            | "pence"
            | "am"
            | "pm"
            | "oclock"
            | "minutes"
            | "minute"
            | "hours"
            | "hour"
            | "days"
            | "day"
            | "weeks"
            | "years"
    )
}
