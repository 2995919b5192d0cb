//! What the carrier says of a call by itself, put on record; also later than it was said.
//!
//! It may be the only one to know that a call is over: a stream that was offered and never came ends nothing.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{CallEvent, CallRef};
use crate::call::end::{EndReason, NextStep};
use crate::ids::CallSid;
use crate::store::call_events::{self, CarrierEvent, LastWord};
use crate::store::calls::{self, CallRecord};
use crate::store::leases::{self, AfterStream, FencingToken};
use crate::store::{Store, leads};

/// Whether this status of the carrier says that the call is over.
// Twilio dossier, 3.2: nothing follows these.
#[must_use]
pub fn is_terminal(status: &str) -> bool {
    matches!(status, "completed" | "busy" | "failed" | "no-answer" | "canceled")
}

/// Puts a callback on record that came at `at`. One that says that the call is over ends a call which no stream will end.
/// May be repeated at will.
pub async fn record(store: &Store, callback: &CarrierEvent, at: Timestamp) -> sqlx::Result<()> {
    call_events::record(store, callback).await?;
    match callback.call_status.as_deref() {
        Some(status) if is_terminal(status) => {
            let duration_s = callback.duration_s;
            let word = LastWord { status: status.to_owned(), duration_s, at };
            end_without_stream(store, &callback.call_sid, word).await
        }
        _ => Ok(()),
    }
}

/// What the carrier has said before anything else of the call was on record, as happens when that was kept meanwhile: has
/// it mean what it means now.
pub async fn catch_up(store: &Store, call_sid: &CallSid) -> sqlx::Result<()> {
    match call_events::last_word(store, call_sid).await? {
        Some(word) => end_without_stream(store, call_sid, word).await,
        None => Ok(()),
    }
}

/// The stream of a call was lost, and there will not be another one.
pub async fn end_lost_call(
    store: &Store,
    call_sid: &CallSid,
    after: &AfterStream,
    at: Timestamp,
) -> sqlx::Result<()> {
    let call = CallRef { call_sid: call_sid.clone(), organization: after.organization, agent: after.agent };
    // Its node may be dead, or not have got so far.
    let told = after.disconnect_reason.as_deref().and_then(EndReason::from_word);
    let reason = told.unwrap_or(EndReason::StreamLost);
    end(store, &call, at, after.fencing_token, reason, after.lasted, Map::new()).await
}

/// People have spoken with the caller of this call, or the caller did not wait for them, and it is over. `lasted`: since its
/// first stream, the part of the people included.
pub async fn end_after_people(
    store: &Store,
    call_sid: &CallSid,
    after: &AfterStream,
    at: Timestamp,
) -> sqlx::Result<()> {
    let Some(record) = calls::by_call_sid(store, call_sid).await? else { return Ok(()) };
    end_handed_over(store, &record, after, at).await
}

/// The agent has done its part: people are called, or are about to be.
fn is_with_people(lease: &AfterStream) -> bool {
    lease.handed_over || lease.next_action == Some(NextStep::Transfer)
}

async fn end_handed_over(
    store: &Store,
    record: &CallRecord,
    after: &AfterStream,
    at: Timestamp,
) -> sqlx::Result<()> {
    let Some(call_sid) = record.call_sid.clone() else { return Ok(()) };
    let call = CallRef { call_sid, organization: record.organization_id, agent: record.agent_id };
    let spoke = events(record).iter().any(|event| {
        event["type"] == "handoff_answered"
            || event["type"] == "handoff_ended" && event["details"]["dial_status"] == "completed"
    });
    // Somebody who hangs up while people's telephones ring has not been put through.
    let gave_up = after.handed_over && !spoke;
    let reason = if gave_up { EndReason::CallerHungUp } else { EndReason::Transferred };
    end(store, &call, at, after.fencing_token, reason, after.lasted, Map::new()).await
}

/// Ends a call that the carrier says is over. A stream that came ends its call itself, and knows more about it.
async fn end_without_stream(store: &Store, call_sid: &CallSid, word: LastWord) -> sqlx::Result<()> {
    let LastWord { status, duration_s, at } = word;
    let Some(record) = calls::by_call_sid(store, call_sid).await? else { return Ok(()) };
    let lease = leases::next_action(store, call_sid).await?;
    if let Some(lost) = lease.as_ref().filter(|lease| lease.next_action == Some(NextStep::Resume)) {
        return end_lost_call(store, call_sid, lost, at).await; // The caller did not wait for the next stream.
    }
    if let Some(handed) = lease.as_ref().filter(|lease| !lease.ended && is_with_people(lease)) {
        let carrier_s = Duration::from_secs(duration_s.unwrap_or_default().into());
        let after = AfterStream { lasted: handed.lasted.max(carrier_s), ..handed.clone() };
        return end_handed_over(store, &record, &after, at).await;
    }
    if lease.as_ref().is_some_and(|lease| lease.claimed) {
        // For a stream of somebody else's TwiML this callback is the first to name the caller.
        leads::link_by_phone(store, record.organization_id, call_sid).await?;
        return Ok(());
    }
    if lease.as_ref().is_some_and(|lease| lease.came_late) {
        return Ok(()); // Whoever took the stream has yet to say so. If nobody has, `reap` ends the call.
    }
    let reason = if events(&record).iter().any(|event| event["type"] == "transferred") {
        EndReason::Transferred
    } else if lease.is_some() && matches!(&*status, "completed" | "canceled") {
        EndReason::CallerHungUp
    } else {
        // Turned away by us, or never connected by the carrier.
        EndReason::StreamLost
    };
    // Without a lease nobody's right is checked.
    let token = lease.map_or(FencingToken(0), |lease| lease.fencing_token);
    let call =
        CallRef { call_sid: call_sid.clone(), organization: record.organization_id, agent: record.agent_id };
    let duration = Duration::from_secs(duration_s.unwrap_or_default().into());
    let report = Map::from_iter([("carrier_status".to_owned(), json!(status))]);
    end(store, &call, at, token, reason, duration, report).await
}

async fn end(
    store: &Store,
    call: &CallRef,
    at: Timestamp,
    token: FencingToken,
    reason: EndReason,
    duration: Duration,
    report: Map<String, Value>,
) -> sqlx::Result<()> {
    super::record(store, call, at, &CallEvent::Ended { token, reason, duration, report }).await?;
    Ok(())
}

fn events(record: &CallRecord) -> &[Value] {
    record.event_sequence.as_array().map(Vec::as_slice).unwrap_or_default()
}
