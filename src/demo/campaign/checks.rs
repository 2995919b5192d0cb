//! What the campaign claims, and whether the carrier agrees.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::leads::{Lead, is_open};
use super::{AT_ONCE, Attempt, CPS, Counters, Place};
use crate::demo::checks::Check;
use crate::demo::client::Row;
use crate::simulate::carrier::{CallLog, CarrierReport};

/// Everything that is known in the end, from both sides.
pub(super) struct Truth {
    pub(super) leads: Vec<Lead>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) places: Vec<Place>,
    pub(super) counters: Counters,
    /// It came to an end in time.
    pub(super) finished: bool,
    pub(super) carrier: CarrierReport,
    /// Of calls that a person answered.
    pub(super) transcripts: Vec<(String, Vec<Row>)>,
}

pub(super) fn all(truth: &Truth) -> Vec<Check> {
    let mut checks = people(truth);
    checks.extend(records(truth));
    checks
}

/// What the people at the other end would want to be true.
fn people(truth: &Truth) -> Vec<Check> {
    let check = |claim, holds, found: String| Check { claim, holds, found };
    let called = |lead: &Lead| truth.carrier.outbound().any(|call| call.to == lead.phone);
    let forgotten: Vec<&str> =
        truth.leads.iter().filter(|lead| lead.awake && !called(lead)).map(|lead| lead.name).collect();
    let at_night: Vec<&str> =
        truth.leads.iter().filter(|lead| called_when_closed(truth, lead)).map(|lead| lead.name).collect();
    let repeated = truth.carrier.repeated_attempts();
    let (most_a_second, most_at_once) =
        (truth.carrier.most_dialed_within_a_second(), truth.carrier.most_at_once());
    vec![
        check(
            "everybody who may be called now was called, and it came to an end",
            truth.finished && forgotten.is_empty(),
            format!("finished: {}, not called: {forgotten:?}", truth.finished),
        ),
        check(
            "nobody was called before nine or after eight, by the clock where they are",
            at_night.is_empty(),
            format!("{at_night:?}"),
        ),
        check(
            "no try was dialed twice, although two requests had no answer",
            repeated.is_empty() && truth.carrier.outbound().all(|call| call.attempt.is_some()),
            format!("{repeated:?}"),
        ),
        check(
            "no more calls a second and at once than agreed",
            most_a_second <= CPS as usize + 1 && most_at_once <= AT_ONCE,
            format!("{most_a_second} within a second, {most_at_once} at once"),
        ),
        check(
            "the carrier had nothing to complain about",
            truth.carrier.violations.is_empty(),
            format!("{:?}", truth.carrier.violations),
        ),
    ]
}

/// What the records say, against what happened.
fn records(truth: &Truth) -> Vec<Check> {
    let check = |claim, holds, found: String| Check { claim, holds, found };
    let wrong: Vec<String> = truth.attempts.iter().filter_map(|attempt| differs(truth, attempt)).collect();
    let sids: BTreeSet<&str> =
        truth.attempts.iter().filter_map(|attempt| attempt.call_sid.as_deref()).collect();
    let unknown: Vec<&str> =
        truth.carrier.outbound().map(|call| call.sid.as_str()).filter(|sid| !sids.contains(sid)).collect();
    let calls = truth.carrier.outbound().count();
    let answered = truth.carrier.outbound().filter(|call| call.answered_at.is_some()).count();
    let counters = &truth.counters;
    let silent: Vec<&str> = truth
        .transcripts
        .iter()
        .filter(|(_, rows)| !rows.iter().any(|row| row.role == "assistant" && !row.content.is_empty()))
        .map(|(sid, _)| sid.as_str())
        .collect();
    let unplanned: Vec<&str> =
        truth.leads.iter().filter(|lead| is_unplanned(truth, lead)).map(|lead| lead.name).collect();
    let open: Vec<Option<i64>> =
        truth.places.iter().filter(|place| place.status == "processing").map(|place| place.lead_id).collect();
    vec![
        check("every try ended as the carrier says it did", wrong.is_empty(), format!("{wrong:?}")),
        check("every call of the carrier is on record", unknown.is_empty(), format!("{unknown:?}")),
        check(
            "the campaign's counters are what the carrier counts",
            counters.total_calls == calls && counters.answered_calls == answered,
            format!("{counters:?}, {calls} calls, {answered} of them answered"),
        ),
        check(
            "everybody who answered was spoken to, and it is in a transcript",
            silent.is_empty() && !truth.transcripts.is_empty(),
            format!("nothing in {silent:?} of {}", truth.transcripts.len()),
        ),
        check(
            "who was busy, away or had a machine is called again later",
            unplanned.is_empty(),
            format!("{unplanned:?}"),
        ),
        check("nothing is left open", open.is_empty(), format!("{open:?}")),
    ]
}

fn calls_of<'a>(truth: &'a Truth, lead: &'a Lead) -> impl Iterator<Item = &'a CallLog> {
    truth.carrier.outbound().filter(|call| call.to == lead.phone)
}

fn called_when_closed(truth: &Truth, lead: &Lead) -> bool {
    calls_of(truth, lead).any(|call| !is_open(call.asked_at, lead.zone))
}

/// How the record of a try differs from what the carrier says of its call.
fn differs(truth: &Truth, attempt: &Attempt) -> Option<String> {
    let outcome = attempt.outcome.as_deref().unwrap_or("none");
    let person = match &attempt.call_sid {
        Some(sid) => truth.carrier.call(sid).and_then(|call| call.person).unwrap_or("no call"),
        // The one that was refused.
        None => "not-placed",
    };
    (outcome != person.replace('-', "_")).then(|| format!("{outcome} instead of {person}"))
}

/// True when somebody could not be reached at the first try, and no other one is planned.
fn is_unplanned(truth: &Truth, lead: &Lead) -> bool {
    let again = ["busy", "no-answer", "voicemail"];
    let missed =
        calls_of(truth, lead).last().and_then(|call| call.person).is_some_and(|it| again.contains(&it));
    let planned = |place: &Place| place.status == "queued" && place.next_retry_at > Timestamp::now();
    // Who was refused a call first had their two tries.
    let tries = |place: &Place| place.attempt_count >= 2;
    let place = truth.places.iter().find(|place| place.lead_id == Some(lead.id));
    missed && !place.is_some_and(|place| planned(place) || tries(place))
}
