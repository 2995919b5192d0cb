//! JSON: what a member is called says what its value is, as words before a number do in talk.

use std::borrow::Cow;

use serde_json::Value;

use super::lexer::Text;
use super::{Kind, Redaction, context, replace};

/// What is known of a value before it is read.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The member it is in, and the one around that, in words.
    name: &'a str,
    around: &'a str,
    /// What was talked of before.
    asked: &'a [Kind],
}

/// The text without what is to be taken out, JSON where it was JSON.
pub(super) fn redacted<'a>(redaction: Redaction, text: &'a str, asked: &[Kind]) -> Cow<'a, str> {
    if redaction.is_none() {
        return Cow::Borrowed(text);
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value) if value.is_object() || value.is_array() => {
            let redacted = redacted_value(redaction, value.clone(), asked);
            if redacted == value { Cow::Borrowed(text) } else { Cow::Owned(redacted.to_string()) }
        }
        _ => replace(text, &redaction.found_in(text, asked)),
    }
}

/// The same of what was read.
pub(super) fn redacted_value(redaction: Redaction, value: Value, asked: &[Kind]) -> Value {
    if redaction.is_none() {
        return value;
    }
    of(redaction, value, Place { name: "", around: "", asked })
}

fn of(redaction: Redaction, value: Value, place: Place<'_>) -> Value {
    match value {
        Value::String(text) => {
            let (named, asked) = place.kinds();
            let kinds = if named.is_empty() { asked } else { &named };
            Value::String(replace(&text, &redaction.found_in(&text, kinds)).into_owned())
        }
        Value::Number(number) => {
            let text = number.to_string();
            let is_whole = text.bytes().all(|byte| byte.is_ascii_digit());
            let (named, asked) = if is_whole { place.kinds() } else { (Vec::new(), &[][..]) };
            let kinds = if named.is_empty() { asked } else { &named };
            let found = redaction.found_in(&text, kinds);
            if !found.is_empty() {
                return Value::String(replace(&text, &found).into_owned());
            }
            let lost_zeros =
                |kind: &&Kind| redaction.takes(**kind) && is_without_its_zeros(**kind, text.len());
            match named.iter().find(lost_zeros) {
                Some(kind) => Value::String(kind.placeholder().to_owned()),
                None => Value::Number(number),
            }
        }
        Value::Array(values) => values.into_iter().map(|value| of(redaction, value, place)).collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(name, value)| {
                let words = words(&name);
                let place = Place { name: &words, around: place.name, ..place };
                let value = of(redaction, value, place);
                (name, value)
            })
            .collect(),
        other => other,
    }
}

impl<'a> Place<'a> {
    /// What the names say that the value is; and what it may be as an answer, where they say nothing.
    fn kinds(&self) -> (Vec<Kind>, &'a [Kind]) {
        let named = |name: &str| context::mentioned(&Text::of(name)).collect::<Vec<_>>();
        let by_name = named(self.name);
        if !by_name.is_empty() {
            return (by_name, &[]);
        }
        if self.name.split(' ').any(is_something_else) {
            return (Vec::new(), &[]);
        }
        // The "number" of a "card".
        let by_both = if self.around.is_empty() {
            Vec::new()
        } else {
            named(&format!("{} {}", self.around, self.name))
        };
        (by_both, self.asked)
    }
}

/// A number that is called so answers no question for a card or a person.
fn is_something_else(word: &str) -> bool {
    matches!(
        word,
        "amount"
            | "price"
            | "total"
            | "cost"
            | "quantity"
            | "status"
            | "date"
            | "time"
            | "year"
            | "month"
            | "day"
            | "duration"
            | "minutes"
            | "seconds"
    )
}

/// 042 is 42 where it is written as a number.
fn is_without_its_zeros(kind: Kind, digits: usize) -> bool {
    match kind {
        Kind::CardSecurityCode => digits == 2,
        Kind::UsSsn => matches!(digits, 7 | 8),
        Kind::PaymentCard | Kind::Iban | Kind::Email | Kind::PhoneNumber => false,
    }
}

/// `card_security_code`, `card-security-code` and `cardSecurityCode` as `card security code`.
fn words(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 4);
    let mut before: Option<char> = None;
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        let begins = c.is_uppercase()
            && before.is_some_and(|before| {
                let next_is_small = chars.peek().is_some_and(|next| next.is_lowercase());
                !before.is_uppercase() || next_is_small
            });
        if begins || !c.is_alphanumeric() {
            words.push(' ');
        }
        if c.is_alphanumeric() {
            words.extend(c.to_lowercase());
        }
        before = Some(c);
    }
    words
}
