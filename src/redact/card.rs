//! Numbers of payment cards.

use std::ops::Range;

use super::lexer::{Run, Text};
use super::others::is_date;

// ISO/IEC 7812-1: up to 19 digits, the last of which checks the others. No network has fewer than 13.
const SHORTEST: usize = 13;
const LONGEST: usize = 19;

/// Where they stand. Looked for from the beginning of any number to the end of any, so that the grouping does not matter
/// and what was said before and after is left alone. `is_asked`: card numbers are being talked about, perhaps piece by
/// piece; then any number of three digits and more counts.
pub(super) fn numbers(text: &Text<'_>, is_asked: bool) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for run in &text.runs {
        in_run(run, &mut found);
        if let Some(run) = run.with_tens() {
            in_run(&run, &mut found);
        }
        if is_asked {
            found.extend(run.phrases().filter_map(|phrase| {
                let digits: usize = phrase.iter().map(|token| token.digits.len()).sum();
                let is_else =
                    is_date(phrase) || phrase.iter().any(|token| token.is_amount() || token.is_dialled());
                (digits >= 3 && !is_else).then(|| phrase[0].place.start..phrase[phrase.len() - 1].place.end)
            }));
        }
    }
    found
}

fn in_run(run: &Run, found: &mut Vec<Range<usize>>) {
    if run.len() < SHORTEST {
        return;
    }
    let mut digits = Vec::with_capacity(LONGEST);
    for first in 0..run.tokens.len() {
        digits.clear();
        for (last, token) in run.tokens.iter().enumerate().skip(first) {
            if token.is_dialled() || token.is_amount() || digits.len() + token.digits.len() > LONGEST {
                break;
            }
            digits.extend_from_slice(&token.digits);
            if digits.len() >= SHORTEST && is_of_a_network(&digits) && has_check_digit(&digits) {
                found.push(run.place(first..last + 1));
            }
        }
    }
}

/// The last digit is what it must be by all others.
// ISO/IEC 7812-1, annex B: every second digit from the right counts twice, and the sum is a multiple of ten.
pub(super) fn has_check_digit(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, u32::from(*digit)) {
            (0, digit) => digit,
            (_, digit) if digit > 4 => digit * 2 - 9,
            (_, digit) => digit * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// The ranges that networks give numbers from, and how long those are. Wider than what is given out today.
fn is_of_a_network(digits: &[u8]) -> bool {
    let first =
        |count: usize| digits[..count].iter().fold(0_u32, |number, digit| number * 10 + u32::from(*digit));
    let lengths: Range<usize> = match (first(2), first(4)) {
        (40..=49, _) => return matches!(digits.len(), 13 | 16 | 19), // Visa
        (51..=55, _) | (_, 2221..=2720) => 16..17,                   // Mastercard
        (34 | 37, _) => 15..16,                                      // American Express
        (30 | 36 | 38 | 39, _) => 14..20,                            // Diners Club
        // JCB, UnionPay, Discover, RuPay, Mir, Troy
        (35 | 60 | 62 | 64 | 65 | 81 | 82, _) | (_, 2200..=2205 | 9792) => 16..20,
        (50 | 56..=58 | 61 | 63 | 66..=69, _) => 13..20, // Maestro and national networks
        _ => return false,
    };
    lengths.contains(&digits.len())
}
