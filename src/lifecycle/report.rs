//! What VAPI reports of a call that one of its assistants answered, put on record.
//!
//! The end of the call is one event however often it is reported, and says what the newest report says. Where a stream of
//! ours carried the call, or our own records tell of its end, those stand: what we heard was heard here. VAPI's report is
//! kept beside it then, under `vapi`. Nothing depends on which of all this came first.
//!
//! A report may name its call by VAPI's id alone and the next one by the carrier's as well: both are one call, which goes by
//! the carrier's id once that is known.

use serde_json::{Map, Value, json};
use sqlx::postgres::PgConnection;

use super::records::{self, TRIES, is_collision};
use super::{COMPLETED, FAILED};
use crate::ids::{CallSid, OrganizationId};
use crate::store::leads::{self, LinkOutcome};
use crate::store::reports::{self, Change, Found, Names, NewCall, Report};
use crate::store::{Store, calls};

/// The `type` of VAPI's message that is a report.
pub const END_OF_CALL: &str = "end-of-call-report";
/// Member of `call` in a report that says who made it, where that is not us. It stays as long as the call does.
pub const REPORTED_BY: &str = "reportedBy";
/// What is there.
pub const VAPI: &str = "vapi";
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
    /// The organisation has no such call, nor an agent that is this assistant; or the call was erased. Nothing was kept.
    Unknown,
}

/// Puts a report of an organisation's call on record. May be repeated at will, also at the same moment.
pub async fn record(store: &Store, organization: OrganizationId, report: &Report) -> sqlx::Result<Reported> {
    for _ in 1..TRIES {
        match Box::pin(put(store, organization, report, false)).await {
            Err(error) if is_collision(&error) => {
                tracing::debug!("a report is put on record again: somebody else wrote of its call meanwhile");
            }
            result => return result,
        }
    }
    Box::pin(put(store, organization, report, true)).await
}

/// `at_any_price`: the report is put on record also where what follows from it cannot be.
async fn put(
    store: &Store,
    organization: OrganizationId,
    report: &Report,
    at_any_price: bool,
) -> sqlx::Result<Reported> {
    let mut work = store.begin().await?;
    let names = reports::lock(&mut work, report).await?;
    let Some(name) = names.name() else { return Ok(Reported::Unknown) };
    if reports::is_erased(&mut work, organization, &names).await? {
        return Ok(Reported::Unknown);
    }
    if reports::is_of_others(&mut work, organization, &names).await? {
        return Ok(Reported::Unknown);
    }
    let known = reports::find(&mut work, organization, &names).await?;
    let is_new = known.is_empty();
    let (found, has_changed) = match unite(&mut work, organization, &names, known).await? {
        Some(united) => united,
        None => match create(&mut work, organization, report).await? {
            Some(found) => (found, true),
            None => return Ok(Reported::Unknown),
        },
    };
    let mut report = report.clone().redacted(reports::redaction(&mut work, found.id).await?);
    put_sid(&mut report.data, names.carrier.as_ref());
    let is_known = found.origin.as_ref().is_some_and(|known| known.is_or_follows(&report.origin()));
    if is_known && !has_changed {
        return Ok(Reported::Known);
    }
    let is_beside = is_told_here(&found);
    if !is_known {
        let phone_number = match &report.our_number {
            Some(number) => reports::own_number(&mut work, organization, number).await?,
            None => None,
        };
        let change = if is_beside {
            beside(&found, report.data.clone())
        } else {
            instead(&found, end_of(&report), report.data.clone())
        };
        reports::write(&mut work, found.id, &report.origin(), phone_number, change).await?;
        if !is_beside {
            reports::write_turns(&mut work, organization, name, &report.turns).await?;
        }
    }
    if !is_beside {
        reports::close_lease(&mut work, organization, name, report.reason).await?;
    }
    let facts = if at_any_price {
        records::derive_if_possible(&mut work, name).await?
    } else {
        records::derive(&mut work, name).await?
    };
    work.commit().await?;
    if !is_beside && facts.is_some_and(|facts| facts.lead.is_none()) {
        link(store, organization, &names).await;
    }
    Ok(if is_known {
        Reported::Known
    } else if is_new {
        Reported::Created
    } else if is_beside {
        Reported::Beside
    } else {
        Reported::Written
    })
}

/// Makes the record of a call that nothing was known of. `None`: nobody of the organisation is the assistant.
async fn create(
    work: &mut PgConnection,
    organization: OrganizationId,
    report: &Report,
) -> sqlx::Result<Option<Found>> {
    let Some(assistant) = &report.assistant_id else { return Ok(None) };
    let Some(agent) = reports::agent_of(work, organization, assistant).await? else { return Ok(None) };
    let id = reports::create(work, NewCall { organization, agent, report }).await?;
    let (event_sequence, data) = (json!([]), json!({}));
    let call_sid = report.call_sid.clone();
    Ok(Some(Found { id, call_sid, event_sequence, data, origin: None, is_ours: false }))
}

/// The one record of the call, which goes by the carrier's id where that is known, and whether this has changed anything.
/// `None`: there is none.
async fn unite(
    work: &mut PgConnection,
    organization: OrganizationId,
    names: &Names,
    known: Vec<Found>,
) -> sqlx::Result<Option<(Found, bool)>> {
    let mut known = known.into_iter();
    let Some(mut first) = known.next() else { return Ok(None) };
    let Names { vapi: Some(vapi), carrier: Some(carrier) } = names else { return Ok(Some((first, false))) };
    if let Some(second) = known.next() {
        absorb(work, organization, (vapi, carrier), &mut first, second).await?;
        return Ok(Some((first, true)));
    }
    if first.call_sid.is_some() {
        return Ok(Some((first, false)));
    }
    put_sid(&mut first.data, Some(carrier));
    for event in first.event_sequence.as_array_mut().into_iter().flatten().filter(|event| is_end(event)) {
        put_sid(&mut event["details"], Some(carrier));
    }
    let change = Change { event_sequence: Some(first.event_sequence.clone()), data: first.data.clone() };
    reports::name_by_carrier(work, first.id, carrier, change).await?;
    reports::rename_turns(work, organization, vapi, carrier).await?;
    reports::rename(work, organization, vapi, carrier).await?;
    // By this name more may be known of it: that a stream of ours has it.
    let renamed = reports::find(work, organization, names).await?.pop();
    Ok(Some((renamed.unwrap_or(first), true)))
}

/// Makes one record of two: of the call as the carrier names it, and of the same call by VAPI's id alone. Of two reports of
/// VAPI the newer one stands.
async fn absorb(
    work: &mut PgConnection,
    organization: OrganizationId,
    (vapi, carrier): (&CallSid, &CallSid),
    into: &mut Found,
    mut from: Found,
) -> sqlx::Result<()> {
    // The id may be on record once only.
    reports::remove(work, from.id).await?;
    put_sid(&mut from.data, Some(carrier));
    let is_newer = from
        .origin
        .as_ref()
        .is_some_and(|origin| into.origin.as_ref().is_none_or(|known| !known.is_or_follows(origin)));
    let origin = if is_newer { from.origin.take() } else { into.origin.take() };
    let is_beside = is_told_here(into);
    let events = from.event_sequence.as_array().into_iter().flatten();
    let end = events.rev().find(|event| is_end(event)).cloned();
    if let Some(origin) = &origin {
        let mut origin = origin.clone();
        origin.vapi_call_id = Some(vapi.clone());
        let change = match end {
            Some(mut end) if is_newer && !is_beside => {
                put_sid(&mut end["details"], Some(carrier));
                instead(into, end, from.data)
            }
            _ if is_newer => beside(into, from.data),
            _ => Change { event_sequence: None, data: into.data.clone() },
        };
        reports::write(work, into.id, &origin, None, change.clone()).await?;
        into.event_sequence = change.event_sequence.unwrap_or_else(|| into.event_sequence.take());
        into.data = change.data;
    }
    into.origin = origin;
    if is_newer && !is_beside {
        reports::rename_turns(work, organization, vapi, carrier).await?;
    } else {
        reports::remove_turns(work, organization, vapi).await?;
    }
    reports::rename(work, organization, vapi, carrier).await?;
    reports::tell_once(work, organization, carrier).await
}

/// Whoever called is looked for once the report is on record: without a lead it is as good.
async fn link(store: &Store, organization: OrganizationId, names: &Names) {
    let Some(name) = names.name() else { return };
    if try_link(store, organization, names, name).await.is_err() {
        tracing::warn!(call.id = %name, "the lead of a reported call could not be looked for");
    }
}

async fn try_link(
    store: &Store,
    organization: OrganizationId,
    names: &Names,
    name: &CallSid,
) -> sqlx::Result<()> {
    let LinkOutcome::Linked { .. } = leads::link_by_phone(store, organization, name).await? else {
        return Ok(());
    };
    if let Names { vapi: Some(vapi), carrier: None } = names {
        // It may have been given its carrier's id meanwhile.
        let mut work = store.begin().await?;
        calls::lock(&mut work, vapi).await?;
        let carrier = reports::carriers_name(&mut work, vapi).await?;
        if let Some(carrier) = &carrier {
            calls::lock(&mut work, carrier).await?;
            reports::rename(&mut work, organization, vapi, carrier).await?;
        }
        work.commit().await?;
        return records::derive_again(store, carrier.as_ref().unwrap_or(name)).await;
    }
    records::derive_again(store, name).await
}

/// The end-of-call report of a call is VAPI's.
pub(super) fn is_vapis(data: &Value) -> bool {
    data["call"][REPORTED_BY] == VAPI
}

/// VAPI's report is kept beside ours.
pub(super) fn is_kept_beside(data: &Value) -> bool {
    !is_vapis(data) && data.get(BESIDE).is_some()
}

/// Somebody has carried the call here, and tells of its end or will.
fn is_told_here(found: &Found) -> bool {
    found.is_ours || is_told_by_us(found)
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

/// The end of the call as VAPI tells of it.
fn end_of(report: &Report) -> Value {
    json!({"type": COMPLETED, "timestamp": report.ended_at, "details": report.data})
}

/// VAPI tells of the end of the call.
fn instead(found: &Found, end: Value, data: Value) -> Change {
    let events = found.event_sequence.as_array().into_iter().flatten();
    let mut events: Vec<_> = events.filter(|event| !is_end(event)).cloned().collect();
    events.push(end);
    events.sort_by_key(|event| {
        event["timestamp"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok())
    });
    Change { event_sequence: Some(events.into()), data }
}

/// We do. Before we have, a report of VAPI that came first is no end either: the call goes on here.
fn beside(found: &Found, report: Value) -> Change {
    let was_taken_for_over = is_vapis(&found.data);
    let mut data = match &found.data {
        Value::Object(data) if !was_taken_for_over => data.clone(),
        _ => Map::new(),
    };
    data.insert(BESIDE.to_owned(), report);
    let events = found.event_sequence.as_array().into_iter().flatten();
    let others: Vec<_> = events.filter(|event| !is_end(event)).cloned().collect();
    Change { event_sequence: was_taken_for_over.then(|| others.into()), data: Value::Object(data) }
}

/// A report that was made before the carrier's id was known says it, too.
fn put_sid(report: &mut Value, carrier: Option<&CallSid>) {
    if let Some(call) = report.get_mut("call").and_then(Value::as_object_mut) {
        call.insert("sid".to_owned(), json!(carrier));
    }
}
