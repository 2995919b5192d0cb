//! What is on record of a call, as the questions that are asked of it. Nothing here depends on the order in which it came.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use super::report::is_vapis;
use super::{COMPLETED, FAILED};
use crate::outreach::retry::Outcome;
use crate::store::call_facts::{CallFacts, Callback};

/// One call, looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Story<'a> {
    facts: &'a CallFacts,
}

/// Something that happened to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Happening<'a> {
    pub(super) kind: &'a str,
    pub(super) at: Timestamp,
    pub(super) details: &'a Value,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct End<'a> {
    pub(super) is_success: bool,
    pub(super) at: Timestamp,
    pub(super) reason: Option<&'a str>,
    pub(super) duration_s: Option<i32>,
    /// What the carrier's last word was taken for, where nobody else has told of the end.
    pub(super) by_carrier: Option<&'a str>,
}

/// The carrier's last word.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LastWord<'a> {
    pub(super) status: &'a str,
    pub(super) at: Timestamp,
    pub(super) duration_s: Option<i32>,
    pub(super) sip: Option<i32>,
}

/// One time that people were called for the caller, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handoff<'a> {
    /// From 1.
    pub(super) number: i32,
    /// The caller was to go to people.
    pub(super) asked: Option<Happening<'a>>,
    /// A person answered.
    pub(super) answered: Option<Happening<'a>>,
    /// It is known what came of it.
    pub(super) ended: Option<Happening<'a>>,
}

impl<'a> Handoff<'a> {
    /// The carrier's word for what came of calling people.
    pub(super) fn word(&self) -> Option<&'a str> {
        self.ended.and_then(|event| event.details["dial_status"].as_str())
    }

    /// People have the caller, or had: somebody answered, and what came of it does not say otherwise.
    pub(super) fn was_answered(&self) -> bool {
        match self.ended {
            Some(_) => matches!(self.word(), Some("completed" | "answered")),
            None => self.answered.is_some() || self.reason() == Some(TEAM_ANSWERED),
        }
    }

    /// Why the caller was to go to people.
    pub(super) fn reason(&self) -> Option<&'a str> {
        self.asked.and_then(|event| event.details["reason"].as_str())
    }

    /// The first that is known of it.
    pub(super) fn began_at(&self) -> Option<Timestamp> {
        self.asked.or(self.answered).or(self.ended).map(|event| event.at)
    }
}

/// Said of calls that people were to answer first, when they have spoken with the caller.
const TEAM_ANSWERED: &str = "team_answered";

impl<'a> Story<'a> {
    pub(super) const fn of(facts: &'a CallFacts) -> Self {
        Self { facts }
    }

    /// By time. What cannot be read is left out: others may have written it.
    pub(super) fn happenings(self) -> impl Iterator<Item = Happening<'a>> {
        let events = self.facts.event_sequence.as_array().map(Vec::as_slice).unwrap_or_default();
        events.iter().filter_map(|event| {
            let at = event["timestamp"].as_str()?.parse().ok()?;
            Some(Happening { kind: event["type"].as_str()?, at, details: &event["details"] })
        })
    }

    pub(super) fn first(self, kind: &str) -> Option<Happening<'a>> {
        self.happenings().find(|event| event.kind == kind)
    }

    pub(super) fn last(self, kind: &str) -> Option<Happening<'a>> {
        self.happenings().filter(|event| event.kind == kind).last()
    }

    pub(super) fn end(self) -> Option<End<'a>> {
        let event = self.happenings().filter(|event| matches!(event.kind, COMPLETED | FAILED)).last()?;
        let report = &self.facts.data["call"];
        Some(End {
            // What VAPI reports is that its assistant is done, and how that went is in the report.
            is_success: event.kind == COMPLETED && report["status"] != "failed",
            at: event.at,
            reason: report["endedReason"].as_str().or_else(|| event.details["reason"].as_str()),
            duration_s: report["duration"].as_i64().and_then(|seconds| seconds.try_into().ok()),
            by_carrier: self.facts.data["carrier_status"].as_str(),
        })
    }

    /// The carrier's word that nothing follows. Of several, which should not be, the one it counted first.
    pub(super) fn last_word(self) -> Option<LastWord<'a>> {
        let words = self.facts.callbacks.iter().filter_map(|callback| {
            let status = callback.status.as_deref().filter(|status| super::callback::is_terminal(status))?;
            Some((
                order(callback),
                LastWord {
                    status,
                    at: callback.event_time.unwrap_or(callback.came_at),
                    duration_s: callback.duration_s,
                    sip: callback.sip,
                },
            ))
        });
        words.min_by_key(|(order, _)| *order).map(|(_, word)| word)
    }

    /// How far the call has come in the carrier's words.
    pub(super) fn carrier_status(self) -> Option<&'a str> {
        if let Some(word) = self.last_word() {
            return Some(word.status);
        }
        let known = ["in-progress", "ringing", "initiated", "queued"];
        known.into_iter().find(|known| self.statuses().any(|status| status == *known))
    }

    pub(super) fn has_rung(self) -> bool {
        matches!(self.carrier_status(), Some("ringing" | "in-progress"))
    }

    fn statuses(self) -> impl Iterator<Item = &'a str> {
        self.facts.callbacks.iter().filter_map(|callback| callback.status.as_deref())
    }

    /// We called.
    pub(super) fn is_outbound(self) -> bool {
        let words = self.facts.callbacks.iter().filter_map(|callback| callback.direction.as_deref());
        let lease = self.facts.lease.iter().filter_map(|lease| lease.direction.as_deref());
        let reported = self.reported("direction");
        self.first("outbound_dispatched").is_some()
            || words.chain(lease).chain(reported).any(|direction| direction.starts_with("outbound"))
    }

    /// A member of the call in a report of VAPI.
    fn reported(self, member: &str) -> Option<&'a str> {
        is_vapis(&self.facts.data).then(|| self.facts.data["call"][member].as_str()).flatten()
    }

    /// When it came or was placed, as far as that is known.
    pub(super) fn began_at(self) -> Option<Timestamp> {
        let begun = self.first("outbound_dispatched").or_else(|| self.first("incoming_call"));
        let first = || self.happenings().map(|event| event.at).chain(self.reported_start()).min();
        begun.map(|event| event.at).or_else(first)
    }

    fn reported_start(self) -> Option<Timestamp> {
        self.reported("startedAt").and_then(|text| text.parse().ok())
    }

    /// Why the call ended, in VAPI's words.
    pub(super) fn reported_reason(self) -> Option<&'a str> {
        self.reported("reportedReason")
    }

    /// Caller and callee, as the carrier sent them.
    pub(super) fn numbers(self) -> (Option<&'a str>, Option<&'a str>) {
        let event = self.first("outbound_dispatched").or_else(|| self.first("incoming_call"));
        let told = |member: &str| {
            event.and_then(|event| event.details[member].as_str()).filter(|number| !number.is_empty())
        };
        let lease = self.facts.lease.as_ref();
        // The smallest, so that it does not matter which came first.
        let said = |number: fn(&'a Callback) -> Option<&'a str>| {
            self.facts.callbacks.iter().filter_map(number).min()
        };
        let from = told("from").or_else(|| lease.and_then(|lease| lease.from.as_deref()));
        let to = told("to").or_else(|| lease.and_then(|lease| lease.to.as_deref()));
        (
            from.or_else(|| said(|callback| callback.from.as_deref())).or_else(|| self.reported("from")),
            to.or_else(|| said(|callback| callback.to.as_deref())).or_else(|| self.reported("to")),
        )
    }

    pub(super) fn other_party(self) -> Option<&'a str> {
        let (from, to) = self.numbers();
        if self.is_outbound() { to } else { from }
    }

    /// When somebody or something took the call: by the carrier's clock where it says so.
    pub(super) fn answered_at(self) -> Option<Timestamp> {
        let told = self.facts.callbacks.iter().filter(|said| said.status.as_deref() == Some("in-progress"));
        let by_clock = told.clone().filter_map(|callback| callback.event_time).min();
        let stream = || self.first("stream_started").map(|event| event.at);
        let told = told.map(|callback| callback.came_at).min();
        // What VAPI says of it is the same whenever it comes; when a callback without a time came is chance.
        let reported = || self.reported_start().filter(|_| self.end().is_some_and(|end| end.is_success));
        by_clock.or_else(stream).or_else(reported).or(told).or_else(|| {
            // A call of ours that was never taken is never `completed`.
            let word = self.last_word().filter(|word| self.is_outbound() && word.status == "completed")?;
            word.at.checked_sub(jiff::SignedDuration::from_secs(word.duration_s.unwrap_or(0).into())).ok()
        })
    }

    /// Who took the call, in the carrier's words: of several, the one that says most.
    pub(super) fn answered_by(self) -> Option<&'a str> {
        let told = self.facts.callbacks.iter().filter_map(|callback| callback.answered_by.as_deref());
        let event = self.first("voicemail_detected").and_then(|event| event.details["answered_by"].as_str());
        told.chain(event).max_by_key(|word| (is_machine(word), *word == "human", *word))
    }

    pub(super) fn is_voicemail(self) -> bool {
        self.first("voicemail_detected").is_some()
            || self.answered_by().is_some_and(is_machine)
            || self.reported("endedReason") == Some("voicemail")
    }

    pub(super) fn recording_url(self) -> Option<&'a str> {
        let told = self.facts.callbacks.iter().filter_map(|callback| callback.recording_url.as_deref()).min();
        // Also of a report that is only kept beside ours: it may have come first.
        let beside = || self.facts.data["vapi"]["call"]["recordingUrl"].as_str();
        told.or_else(|| self.reported("recordingUrl")).or_else(beside)
    }

    /// People were called first, and nobody has said that they did not answer.
    pub(super) fn is_with_team(self) -> bool {
        let team = match self.facts.routing_status.as_deref() {
            Some("transferred_to_team") => true,
            // It has been taken for that before.
            Some("completed") => self.end().is_some_and(|end| {
                let was_put_through = self.first("transferred").is_some();
                let without_agent = || self.facts.lease.is_none() && self.handoffs().is_empty();
                end.by_carrier.is_some()
                    && match end.reason {
                        Some("transferred") => !was_put_through,
                        Some("caller_hung_up") => without_agent(),
                        _ => false,
                    }
            }),
            _ => false,
        };
        team && self.first("team_no_answer").is_none() && self.first("stream_started").is_none()
    }

    /// Each time that people were called for the caller, and each that only its outcome is known of.
    pub(super) fn handoffs(self) -> Vec<Handoff<'a>> {
        let of = |kind: &'static str| self.happenings().filter(move |event| event.kind == kind);
        let number =
            |event: &Happening<'_>| event.details["handoff"].as_i64().and_then(|it| i32::try_from(it).ok());
        let asked: Vec<_> = of("transferred").collect();
        let answered: BTreeMap<_, _> =
            of("handoff_answered").filter_map(|it| Some((number(&it)?, it))).collect();
        let ended: BTreeMap<_, _> = of("handoff_ended").filter_map(|it| Some((number(&it)?, it))).collect();
        let first = 1..=i32::try_from(asked.len()).unwrap_or(i32::MAX);
        let numbers: BTreeSet<i32> =
            first.chain(answered.keys().copied()).chain(ended.keys().copied()).collect();
        let handoff = |number: i32| {
            let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
            Handoff {
                number,
                asked: place.and_then(|place| asked.get(place).copied()),
                answered: answered.get(&number).copied(),
                ended: ended.get(&number).copied(),
            }
        };
        numbers.into_iter().map(handoff).collect()
    }

    /// Somebody in charge has ended it.
    pub(super) fn was_hung_up(self) -> bool {
        self.last("operator").is_some_and(|event| event.details["kind"] == "hang_up")
    }

    /// What came of trying to reach somebody, once the carrier says that the call is over: the agent's part may end before,
    /// while people still speak.
    pub(super) fn outcome(self) -> Option<Outcome> {
        Some(match self.last_word()?.status {
            "busy" => Outcome::Busy,
            "no-answer" => Outcome::NoAnswer,
            "canceled" => Outcome::Canceled,
            "failed" => Outcome::Failed,
            _ if self.is_fax() => Outcome::Failed,
            _ if self.is_voicemail() => Outcome::Voicemail,
            _ => Outcome::Answered,
        })
    }

    /// Nobody can be spoken with there.
    pub(super) fn is_fax(self) -> bool {
        self.answered_by() == Some(FAX)
    }
}

const FAX: &str = "fax";

/// Callbacks in the order they were fired, as far as they say so; those that do not come last.
fn order(callback: &Callback) -> (i64, Timestamp, Timestamp) {
    let sequence = callback.sequence.map_or(i64::MAX, i64::from);
    (sequence, callback.event_time.unwrap_or(Timestamp::MAX), callback.came_at)
}

// Twilio dossier, 3.4.
fn is_machine(word: &str) -> bool {
    word.starts_with("machine") || word == FAX
}
