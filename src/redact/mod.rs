//! Takes numbers and addresses that must not be kept out of text: cards, accounts, identities.
//!
//! Text in, text out, with a placeholder such as `[payment card]` in the place of what was found. Nothing here knows where
//! the text comes from or goes to; whoever stores words asks first. Speech recognition writes digits or words, in any
//! grouping, so both are read (`lexer`), and what was said counts, not how it was written down.

mod card;
mod context;
mod document;
mod iban;
mod lexer;
mod others;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde_json::Value;

pub use context::Talk;
use lexer::Text;

/// What can be taken out. The names are part of the data model: `agents.redact`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Numbers of payment cards that are possible: of a network that exists, and with the right check digit.
    PaymentCard,
    /// Three or four digits after "CVV", "security code" and the like.
    CardSecurityCode,
    /// International bank account numbers of a country that has them, with the right check digits.
    Iban,
    /// Social security numbers of the United States: as `123-45-6789`, or nine digits after "social security".
    UsSsn,
    /// E-mail addresses, also spelled out ("john dot smith at example dot com").
    Email,
    /// Telephone numbers.
    PhoneNumber,
}

impl Kind {
    /// All of them. What stands first wins where two kinds are found in one place.
    pub const ALL: [Self; 6] =
        [Self::PaymentCard, Self::Iban, Self::UsSsn, Self::CardSecurityCode, Self::Email, Self::PhoneNumber];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PaymentCard => "payment_card",
            Self::CardSecurityCode => "card_security_code",
            Self::Iban => "iban",
            Self::UsSsn => "us_ssn",
            Self::Email => "email",
            Self::PhoneNumber => "phone_number",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// What stands in the place of what was found.
    #[must_use]
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::PaymentCard => "[payment card]",
            Self::CardSecurityCode => "[security code]",
            Self::Iban => "[bank account]",
            Self::UsSsn => "[social security number]",
            Self::Email => "[e-mail address]",
            Self::PhoneNumber => "[phone number]",
        }
    }
}

/// Which kinds are taken out.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Redaction(u8);

impl Redaction {
    /// Nothing is: text stays as it is.
    pub const NONE: Self = Self(0);

    /// These are.
    #[must_use]
    pub fn of(kinds: &[Kind]) -> Self {
        Self(kinds.iter().fold(0, |all, kind| all | (1 << (*kind as u8))))
    }

    /// As stored with an agent. Words that are none of ours are left out: there is a constraint against them.
    #[must_use]
    pub fn from_words<T: AsRef<str>>(words: &[T]) -> Self {
        let kinds: Vec<Kind> = words.iter().filter_map(|word| Kind::from_word(word.as_ref())).collect();
        Self::of(&kinds)
    }

    /// Whether nothing is taken out.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether this kind is.
    #[must_use]
    pub const fn takes(self, kind: Kind) -> bool {
        self.0 & (1 << (kind as u8)) != 0
    }

    /// The text without what is to be taken out; the same text where there is nothing.
    ///
    /// Linear in the length of the text; some microseconds for what is said in a turn. Done twice it changes nothing more.
    #[must_use]
    pub fn apply(self, text: &str) -> Cow<'_, str> {
        replace(text, &self.found_in(text, &[]))
    }

    /// The same for every text and number in a JSON value, each understood by the name of its member: what is called `cvv`
    /// is a security code. Names of members stay.
    #[must_use]
    pub fn apply_json(self, value: Value) -> Value {
        document::redacted_value(self, value, &[])
    }

    /// The same for a text that may be JSON, such as what a function was given: what is JSON stays JSON.
    #[must_use]
    pub fn apply_to_document(self, text: &str) -> Cow<'_, str> {
        document::redacted(self, text, &[])
    }

    /// What is to be taken out of a text, by place, none over another. `asked`: what was talked of before, so that a bare
    /// number is an answer.
    fn found_in(self, text: &str, asked: &[Kind]) -> Vec<Found> {
        if self.is_none() {
            return Vec::new();
        }
        let text = Text::of(text);
        let mut found: Vec<Found> = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| self.takes(*kind)) {
            let is_asked = asked.contains(&kind);
            let places = match kind {
                Kind::PaymentCard => card::numbers(&text, is_asked),
                Kind::CardSecurityCode => others::security_codes(&text, is_asked),
                Kind::Iban => iban::numbers(&text),
                Kind::UsSsn => others::social_security(&text, is_asked),
                Kind::Email => others::emails(&text),
                Kind::PhoneNumber => others::phone_numbers(&text),
            };
            for place in merged(places) {
                let is_free =
                    |other: &Found| place.end <= other.place.start || other.place.end <= place.start;
                if found.iter().all(is_free) {
                    found.push(Found { kind, place });
                }
            }
        }
        found.sort_by_key(|found| found.place.start);
        found
    }
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Kind::ALL.into_iter().filter(|kind| self.takes(*kind))).finish()
    }
}

/// Something to be taken out, and where it stands, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    kind: Kind,
    place: Range<usize>,
}

/// Places that overlap or touch are one.
fn merged(mut places: Vec<Range<usize>>) -> Vec<Range<usize>> {
    places.sort_by_key(|place| place.start);
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(places.len());
    for place in places {
        match merged.last_mut() {
            Some(last) if place.start <= last.end => last.end = last.end.max(place.end),
            _ => merged.push(place),
        }
    }
    merged
}

/// With placeholders in the places of what was found.
fn replace<'a>(text: &'a str, found: &[Found]) -> Cow<'a, str> {
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for Found { kind, place } in found {
        out.push_str(&text[from..place.start]);
        out.push_str(kind.placeholder());
        from = place.end;
    }
    out.push_str(&text[from..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests;
