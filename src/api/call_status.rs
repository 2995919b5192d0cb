//! Twilio tells how a call is doing: status, answering machine and recording callbacks.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Api;
use crate::api::error::{ApiError, Failures};
use crate::api::webhook::Webhook;
use crate::call::end::{EndReason, NextStep};
use crate::ids::{CallSid, OrganizationId};
use crate::lifecycle::{self, CallEvent, CallRef};
use crate::store::calls::CallRecord;
use crate::store::leases::{self, AfterStream, FencingToken};
use crate::store::{call_events, calls, leads};

/// Routes of callbacks.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(call_status))
}

/// How a call is doing. The same callback twice is one record.
#[utoipa::path(
    post, path = "/api/twilio/call-status", tag = "twilio",
    request_body(content = Object, content_type = "application/x-www-form-urlencoded", description = "Parameters as Twilio names them"),
    responses((status = 204, description = "On record"), Failures),
    security(("twilio" = [])),
)]
async fn call_status(State(api): State<Api>, webhook: Webhook) -> Result<StatusCode, ApiError> {
    let call_sid = webhook.call_sid()?;
    let organization = match calls::organization_of(&api.store, &call_sid).await? {
        Some(organization) => organization,
        None => api.organization().await?,
    };
    note_callback(&api, &webhook, &call_sid, organization).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Puts a request of Twilio on record. One that says that the call is over ends a call which no stream will end.
pub(super) async fn note_callback(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    organization: OrganizationId,
) -> sqlx::Result<()> {
    let event = webhook.carrier_event(organization, call_sid.clone());
    let status = event.call_status.as_deref().unwrap_or_default();
    call_events::record(&api.store, &event).await?;
    if webhook.call_is_over() {
        let duration = Duration::from_secs(event.duration_s.unwrap_or_default().into());
        end_without_stream(api, call_sid, status, duration).await?;
    }
    Ok(())
}

/// The stream of a call was lost, and there will not be another one.
pub(super) async fn end_lost_call(api: &Api, call_sid: &CallSid, after: &AfterStream) -> sqlx::Result<()> {
    let call = CallRef { call_sid: call_sid.clone(), organization: after.organization, agent: after.agent };
    // Its node may be dead, or not have got so far.
    let told = after.disconnect_reason.as_deref().and_then(EndReason::from_word);
    end(api, &call, after.fencing_token, told.unwrap_or(EndReason::StreamLost), after.lasted, Map::new())
        .await
}

/// Ends a call that the carrier says is over. A stream that came ends its call itself, and knows more about it.
async fn end_without_stream(
    api: &Api,
    call_sid: &CallSid,
    status: &str,
    duration: Duration,
) -> sqlx::Result<()> {
    let Some(record) = calls::by_call_sid(&api.store, call_sid).await? else { return Ok(()) };
    let lease = leases::next_action(&api.store, call_sid).await?;
    if let Some(lost) = lease.as_ref().filter(|lease| lease.next_action == Some(NextStep::Resume)) {
        return end_lost_call(api, call_sid, lost).await; // The caller did not wait for the next stream.
    }
    if lease.as_ref().is_some_and(|lease| lease.claimed) {
        // For a stream of somebody else's TwiML this callback is the first to name the caller.
        leads::link_by_phone(&api.store, record.organization_id, call_sid).await?;
        return Ok(());
    }
    let reason = if went_to_people(&record) {
        EndReason::Transferred
    } else if lease.is_some() && matches!(status, "completed" | "canceled") {
        EndReason::CallerHungUp
    } else {
        // Turned away by us, or never connected by the carrier.
        EndReason::StreamLost
    };
    // Without a lease nobody's right is checked.
    let token = lease.map_or(FencingToken(0), |lease| lease.fencing_token);
    let call =
        CallRef { call_sid: call_sid.clone(), organization: record.organization_id, agent: record.agent_id };
    let report = Map::from_iter([("carrier_status".to_owned(), json!(status))]);
    end(api, &call, token, reason, duration, report).await
}

async fn end(
    api: &Api,
    call: &CallRef,
    token: FencingToken,
    reason: EndReason,
    duration: Duration,
    report: Map<String, Value>,
) -> sqlx::Result<()> {
    let event = CallEvent::Ended { token, reason, duration, report };
    lifecycle::record(&api.store, call, Timestamp::now(), &event).await?;
    Ok(())
}

fn went_to_people(record: &CallRecord) -> bool {
    let events = record.event_sequence.as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().any(|event| event["type"] == "transferred")
}
