//! What VAPI reports of a call that one of its assistants answered, put on record.
//!
//! The end of the call is one event however often it is reported, and says what the newest report says. Where a stream of
//! ours carried the call, or our own records tell of its end, those stand: what we heard was heard here. VAPI's report is
//! kept beside it then, under `vapi`. Nothing depends on which of all this came first.

use serde_json::{Map, Value, json};

use super::records::{self, TRIES, is_collision};
use super::{COMPLETED, FAILED};
use crate::ids::CallSid;
use crate::store::leads::{self, LinkOutcome};
use crate::store::reports::{self, Change, Found, NewCall, Report};
use crate::store::{Store, calls};

/// The `type` of VAPI's message that is a report. A report of our own has none.
pub const END_OF_CALL: &str = "end-of-call-report";
/// Where VAPI's report is in ours.
const BESIDE: &str = "vapi";

/// What came of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    /// The call was not on record, and is now.
    Created,
    /// The call's end is what the report says.
    Written,
    /// Our own records tell of the call's end; the report is kept beside them.
    Beside,
    /// This report, or a newer one, was on record.
    Known,
    /// There is no such call, nor an agent that is this assistant; or the call was erased. Nothing was kept.
    Unknown,
}

/// Puts a report on record. May be repeated at will, also at the same moment.
pub async fn record(store: &Store, report: &Report) -> sqlx::Result<Reported> {
    let mut tries = 1;
    loop {
        match Box::pin(put(store, report)).await {
            Err(error) if is_collision(&error) && tries < TRIES => tries += 1,
            result => return result,
        }
    }
}

async fn put(store: &Store, report: &Report) -> sqlx::Result<Reported> {
    let Some(name) = reports::name_of(store, report).await? else { return Ok(Reported::Unknown) };
    let mut work = store.begin().await?;
    calls::lock(&mut work, &name).await?;
    if reports::is_erased(&mut work, report).await? {
        return Ok(Reported::Unknown);
    }
    let found = reports::find(&mut work, &name).await?;
    let is_new = found.is_none();
    let found = if let Some(found) = found {
        found
    } else {
        let Some(assistant) = &report.assistant_id else { return Ok(Reported::Unknown) };
        let Some((agent, organization)) = reports::agent_of(&mut work, assistant).await? else {
            return Ok(Reported::Unknown);
        };
        let id = reports::create(&mut work, NewCall { organization, agent, report }).await?;
        let (event_sequence, data) = (json!([]), json!({}));
        Found { id, organization, event_sequence, data, reported_at: None, is_ours: false }
    };
    let report = &report.clone().redacted(reports::redaction(&mut work, found.id).await?);
    if is_known(&found, report) {
        return Ok(Reported::Known);
    }
    let organization = found.organization;
    let phone_number = match &report.our_number {
        Some(number) => reports::own_number(&mut work, organization, number).await?,
        None => None,
    };
    let is_beside = found.is_ours || is_told_by_us(&found);
    let change = if is_beside { beside(&found, report) } else { instead(&found, report) };
    reports::write(&mut work, found.id, report, phone_number, change).await?;
    if !is_beside {
        reports::write_turns(&mut work, organization, &name, &report.turns).await?;
        reports::close_lease(&mut work, organization, &name, report.reason).await?;
    }
    let facts = records::derive(&mut work, &name).await?;
    work.commit().await?;
    if !is_beside && facts.is_some_and(|facts| facts.lead.is_none()) {
        link(store, &found, &name).await;
    }
    Ok(if is_new {
        Reported::Created
    } else if is_beside {
        Reported::Beside
    } else {
        Reported::Written
    })
}

/// Whoever called is looked for once the report is on record: without a lead it is as good.
async fn link(store: &Store, found: &Found, name: &CallSid) {
    let linked = leads::link_by_phone(store, found.organization, name).await;
    let done = match linked {
        Ok(LinkOutcome::Linked { .. }) => records::derive_again(store, name).await,
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    if done.is_err() {
        tracing::warn!(call.id = %name, "the lead of a reported call could not be looked for");
    }
}

/// Whether this report or a newer one is on record. Of two that were made at the same moment the one that says more counts
/// as the newer, so that it does not matter which comes first.
fn is_known(found: &Found, report: &Report) -> bool {
    let Some(before) = found.reported_at else { return false };
    let on_record = found.data.get(BESIDE).filter(|_| !is_vapis(&found.data)).unwrap_or(&found.data);
    let size = |data: &Value| {
        let text = data.to_string();
        (text.len(), text)
    };
    // Columns hold microseconds.
    let at = |moment: jiff::Timestamp| moment.as_microsecond();
    (at(report.reported_at), size(&report.data)) <= (at(before), size(on_record))
}

/// The end-of-call report of a call is VAPI's.
pub(super) fn is_vapis(data: &Value) -> bool {
    data["type"] == END_OF_CALL
}

/// VAPI's report is kept beside ours.
pub(super) fn is_kept_beside(data: &Value) -> bool {
    !is_vapis(data) && data.get(BESIDE).is_some()
}

/// The end of the call is on record by whoever carried it here, and not only because the carrier said that it is over.
fn is_told_by_us(found: &Found) -> bool {
    let mut events = found.event_sequence.as_array().into_iter().flatten();
    let has_ended = events.any(is_end);
    has_ended && !is_vapis(&found.data) && found.data.get("carrier_status").is_none()
}

fn is_end(event: &Value) -> bool {
    matches!(event["type"].as_str(), Some(COMPLETED | FAILED))
}

/// VAPI tells of the end of the call.
fn instead(found: &Found, report: &Report) -> Change {
    let events = found.event_sequence.as_array().into_iter().flatten();
    let mut events: Vec<_> = events.filter(|event| !is_end(event)).cloned().collect();
    events.push(json!({"type": COMPLETED, "timestamp": report.ended_at, "details": report.data}));
    events.sort_by_key(|event| {
        event["timestamp"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok())
    });
    Change { event_sequence: Some(events.into()), data: report.data.clone() }
}

/// We do. Before we have, a report of VAPI that came first is no end either: the call goes on here.
fn beside(found: &Found, report: &Report) -> Change {
    let was_taken_for_over = is_vapis(&found.data);
    let mut data = match &found.data {
        Value::Object(data) if !was_taken_for_over => data.clone(),
        _ => Map::new(),
    };
    data.insert(BESIDE.to_owned(), report.data.clone());
    let events = found.event_sequence.as_array().into_iter().flatten();
    let others: Vec<_> = events.filter(|event| !is_end(event)).cloned().collect();
    Change { event_sequence: was_taken_for_over.then(|| others.into()), data: Value::Object(data) }
}
