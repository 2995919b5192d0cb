//! What a bare number answers: "And the security code?" "One two three."

use std::borrow::Cow;

use super::lexer::Text;
use super::{Found, Kind, Redaction, document, others, replace};

/// So many turns after it was talked of, a bare number may still belong to it: a card number is dictated in groups, and
/// each is confirmed.
const REMEMBERED: u32 = 8;
/// Mentions that are kept; what is forgotten then is long over.
const MOST: usize = 32;

/// The redaction of one conversation. Turns may come again, in any order: what becomes of a turn depends on what was said
/// before it in the conversation, as far as that has come.
#[derive(Debug, Clone)]
pub struct Talk {
    redaction: Redaction,
    /// At which place of the conversation what was talked of.
    mentions: Vec<(u32, Kind)>,
    /// How many turns before this part of the conversation what was talked of; the last one before it is 1.
    before: Vec<(u32, Kind)>,
    /// The place this part begins at.
    begins_at: Option<u32>,
}

impl Talk {
    /// Of a conversation that begins.
    #[must_use]
    pub const fn new(redaction: Redaction) -> Self {
        Self { redaction, mentions: Vec::new(), before: Vec::new(), begins_at: None }
    }

    /// Of a conversation that goes on, as after a transfer. `turns`: all that was said, oldest first; one that has no words
    /// is empty.
    #[must_use]
    pub fn resumed<'a>(redaction: Redaction, turns: impl DoubleEndedIterator<Item = &'a str>) -> Self {
        let mut talk = Self::new(redaction);
        if !redaction.is_none() {
            for (age, turn) in (1..=REMEMBERED).zip(turns.rev()) {
                let text = Text::of(turn);
                let kinds = mentioned(&text).filter(|kind| redaction.takes(*kind));
                talk.before.extend(kinds.map(|kind| (age, kind)));
            }
        }
        talk
    }

    /// What is taken out.
    #[must_use]
    pub const fn redaction(&self) -> Redaction {
        self.redaction
    }

    /// The turn at this place without what is to be taken out: what was heard, and what was meant to be said where that is
    /// more. What was cut in the middle of a number is taken out as far as it was heard.
    pub fn turn<'a>(
        &mut self,
        sequence: u32,
        heard: &'a str,
        meant: Option<&'a str>,
    ) -> (Cow<'a, str>, Option<Cow<'a, str>>) {
        if self.redaction.is_none() {
            return (Cow::Borrowed(heard), meant.map(Cow::Borrowed));
        }
        let asked = self.asked_before(sequence);
        let Some(meant) = meant else {
            self.remember(sequence, heard);
            return (replace(heard, &self.redaction.found_in(heard, &asked)), None);
        };
        self.remember(sequence, meant);
        let in_meant = self.redaction.found_in(meant, &asked);
        let mut in_heard = self.redaction.found_in(heard, &asked);
        if meant.starts_with(heard) {
            in_heard.retain(|found| in_meant.iter().all(|other| found.place.end <= other.place.start));
            let cut = |found: &Found| {
                let place = found.place.start..found.place.end.min(heard.len());
                (!place.is_empty()).then_some(Found { kind: found.kind, place })
            };
            in_heard = in_meant.iter().filter_map(cut).chain(in_heard).collect();
            in_heard.sort_by_key(|found| found.place.start);
            in_heard.dedup_by(|later, earlier| later.place.start < earlier.place.end);
        }
        (replace(heard, &in_heard), Some(replace(meant, &in_meant)))
    }

    /// What a function was given, or answered, at this place: the caller's answer may be in it under any name.
    pub fn document<'a>(&mut self, sequence: u32, text: &'a str) -> Cow<'a, str> {
        if self.redaction.is_none() {
            return Cow::Borrowed(text);
        }
        document::redacted(self.redaction, text, &self.asked_before(sequence))
    }

    fn asked_before(&mut self, sequence: u32) -> Vec<Kind> {
        let begins_at = *self.begins_at.get_or_insert(sequence);
        let into_it = sequence.saturating_sub(begins_at);
        let recent = |at: u32| at < sequence && sequence - at <= REMEMBERED;
        let here = self.mentions.iter().filter(|(at, _)| recent(*at));
        let before = self.before.iter().filter(|(age, _)| into_it.saturating_add(*age) <= REMEMBERED);
        here.chain(before).map(|(_, kind)| *kind).collect()
    }

    fn remember(&mut self, sequence: u32, text: &str) {
        for kind in mentioned(&Text::of(text)) {
            let is_known = self.mentions.contains(&(sequence, kind));
            if !is_known && self.redaction.takes(kind) {
                if self.mentions.len() == MOST {
                    self.mentions.remove(0);
                }
                self.mentions.push((sequence, kind));
            }
        }
    }
}

/// What is talked of here, of what a bare number can be.
pub(super) fn mentioned(text: &Text<'_>) -> impl Iterator<Item = Kind> {
    let all = [
        (Kind::PaymentCard, others::mentions_card_number as fn(&Text<'_>) -> bool),
        (Kind::CardSecurityCode, others::mentions_security_code),
        (Kind::UsSsn, others::mentions_social_security),
    ];
    all.into_iter().filter(|(_, is_mentioned)| is_mentioned(text)).map(|(kind, _)| kind)
}
