//! What the carrier says of a call by itself, put on record; also later than it was said.
//!
//! It may be the only one to know that a call is over: a stream that was offered and never came ends nothing.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, json};

use super::records::{self, lost_because};
use super::story::{LastWord, Story};
use super::{CallEvent, CallRef};
use crate::call::end::{EndReason, NextStep};
use crate::ids::CallSid;
use crate::store::Store;
use crate::store::call_events::CarrierEvent;
use crate::store::call_facts::{CallFacts, Lease};
use crate::store::leases::{AfterStream, FencingToken};

/// Whether this status of the carrier says that the call is over.
// Twilio dossier, 3.2: nothing follows these.
#[must_use]
pub fn is_terminal(status: &str) -> bool {
    matches!(status, "completed" | "busy" | "failed" | "no-answer" | "canceled")
}

/// Puts a callback on record that came at `at`. One that says that the call is over ends a call which no stream will end.
/// May be repeated at will.
pub async fn record(store: &Store, callback: &CarrierEvent, at: Timestamp) -> sqlx::Result<()> {
    records::put_callback(store, callback, at).await
}

/// What the carrier has said before anything else of the call was on record, as happens when that was kept meanwhile: has
/// it mean what it means now.
pub async fn catch_up(store: &Store, call_sid: &CallSid) -> sqlx::Result<()> {
    records::derive_again(store, call_sid).await
}

/// The stream of a call was lost, and there will not be another one.
pub async fn end_lost_call(
    store: &Store,
    call_sid: &CallSid,
    after: &AfterStream,
    at: Timestamp,
) -> sqlx::Result<()> {
    let call = CallRef { call_sid: call_sid.clone(), organization: after.organization, agent: after.agent };
    let reason = lost_because(after.disconnect_reason.as_deref());
    let (token, duration) = (after.fencing_token, after.lasted);
    super::record(store, &call, at, &CallEvent::Ended { token, reason, duration, report: Map::new() })
        .await?;
    Ok(())
}

/// People have spoken with the caller of this call, or the caller did not wait for them, and it is over. `after.lasted`:
/// since its first stream, the part of the people included.
pub async fn end_after_people(
    store: &Store,
    call_sid: &CallSid,
    after: &AfterStream,
    at: Timestamp,
) -> sqlx::Result<()> {
    let call = CallRef { call_sid: call_sid.clone(), organization: after.organization, agent: after.agent };
    let (token, duration) = (after.fencing_token, after.lasted);
    let reason = EndReason::Transferred;
    super::record(store, &call, at, &CallEvent::Ended { token, reason, duration, report: Map::new() })
        .await?;
    Ok(())
}

/// The end of a call that the carrier says is over, where nobody else will tell of it, and where it is not on record as it
/// is now known. A stream that came ends its call itself, and knows more about it.
pub(super) fn end_by_carrier(facts: &CallFacts) -> Option<(CallRef, Timestamp, CallEvent)> {
    let story = Story::of(facts);
    let word = story.last_word()?;
    let end = story.end();
    if end.as_ref().is_some_and(|end| end.by_carrier.is_none()) {
        return None;
    }
    let lease = facts.lease.as_ref();
    let reason = why_over(story, lease, end.is_some(), word)?;
    let told = word.duration_s.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let lasted = || {
        let began_at = lease?.began_at?;
        Duration::try_from(word.at.duration_since(began_at)).ok()
    };
    let duration = told.or_else(lasted).unwrap_or_default();
    let is_known = end.is_some_and(|end| {
        (end.at, end.reason, end.by_carrier) == (word.at, Some(reason.as_str()), Some(word.status))
            && end.duration_s.map(i128::from) == i128::try_from(duration.as_millis().div_ceil(1000)).ok()
    });
    if is_known {
        return None;
    }
    let call =
        CallRef { call_sid: facts.call_sid.clone(), organization: facts.organization, agent: facts.agent };
    // Gives way to whoever knows more.
    let report = Map::from_iter([("carrier_status".to_owned(), json!(word.status))]);
    // Without a lease nobody's right is checked.
    let token = FencingToken(lease.map_or(0, |lease| lease.fencing_token));
    Some((call, word.at, CallEvent::Ended { token, reason, duration, report }))
}

/// What the carrier's last word means. `was_taken_for_over`: by an earlier look. `None`: somebody else will tell.
fn why_over(
    story: Story<'_>,
    lease: Option<&Lease>,
    was_taken_for_over: bool,
    word: LastWord<'_>,
) -> Option<EndReason> {
    let Some(lease) = lease else { return Some(why_without_stream(story, None, word)) };
    let may_still_end = !lease.ended || was_taken_for_over;
    if lease.next_action.as_deref() == Some(NextStep::Resume.as_str()) {
        return Some(lost_because(lease.disconnect_reason.as_deref())); // The caller did not wait for the next stream.
    }
    if may_still_end && lease.is_with_people() {
        // Somebody who hangs up while people's telephones ring has not been put through.
        return Some(match story.handoffs().last() {
            Some(handoff) if handoff.was_answered() => EndReason::Transferred,
            _ if story.was_hung_up() => EndReason::Operator,
            _ => EndReason::CallerHungUp,
        });
    }
    if lease.claimed {
        let lost = lost_because(lease.disconnect_reason.as_deref());
        return Some(lost).filter(|lost| was_taken_for_over && lost.next_step() == NextStep::Resume);
    }
    // Who came late to the record has yet to say whether the stream came. If nobody does, the call is reaped.
    (!lease.came_late).then(|| why_without_stream(story, Some(lease), word))
}

fn why_without_stream(story: Story<'_>, offered: Option<&Lease>, word: LastWord<'_>) -> EndReason {
    if let Some(handoff) = story.handoffs().last() {
        // A caller whom nobody took over, and who left before the agent was back.
        let left = offered.is_some() || handoff.answered.is_some() || handoff.word() == Some("canceled");
        if handoff.was_answered() {
            return EndReason::Transferred;
        } else if left {
            return EndReason::CallerHungUp;
        }
    }
    if story.is_outbound() {
        match word.status {
            "busy" => return EndReason::CarrierBusy,
            "no-answer" => return EndReason::CarrierNoAnswer,
            "failed" => return EndReason::CarrierFailed,
            "canceled" => return EndReason::CarrierCanceled,
            _ if story.is_voicemail() => return EndReason::Voicemail,
            _ => {}
        }
    }
    match word.status {
        "completed" if story.is_with_team() => EndReason::Transferred,
        "completed" | "canceled" if offered.is_some() => EndReason::CallerHungUp,
        "canceled" | "no-answer" | "busy" if story.is_with_team() => EndReason::CallerHungUp,
        // Turned away by us, or never connected by the carrier.
        _ => EndReason::StreamLost,
    }
}
