//! Twilio tells how a call is doing: status, answering machine and recording callbacks.

use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use tokio::time::timeout;
use utoipa_axum::routes;

use crate::api::Api;
use crate::api::attempts::{self, OfAttempt};
use crate::api::error::{self, ApiError, Failures};
use crate::api::extract::Query;
use crate::api::routes::Routes;
use crate::api::webhook::Webhook;
use crate::api::without_database::{WITHIN, keep_callback};
use crate::ids::{CallSid, OrganizationId};
use crate::lifecycle::callback;

/// Routes of callbacks.
pub fn router() -> Routes {
    Routes::new().signed(routes!(call_status))
}

/// How a call is doing. The same callback twice is one record.
///
/// One that comes while the database is away is put on record when it is back.
#[utoipa::path(
    post, path = "/api/twilio/call-status", tag = "twilio",
    params(
        ("attempt" = Option<String>, Query, description = "The try, of a call that we asked for"),
        ("amd" = Option<String>, Query, description = "Present in the verdict on who has answered"),
    ),
    request_body(content = Object, content_type = "application/x-www-form-urlencoded", description = "Parameters as Twilio names them"),
    responses((status = 204, description = "On record, or kept for it"), Failures),
    security(("twilio" = [])),
)]
async fn call_status(
    State(api): State<Api>,
    Query(named): Query<OfAttempt>,
    webhook: Webhook,
) -> Result<StatusCode, ApiError> {
    let call_sid = webhook.call_sid()?;
    // Before what is said of the call, so that it is known whose it is.
    let learned = attempts::learn(&api, &named, &call_sid).await;
    if named.is_verdict() {
        attempts::judge(&api, learned, &webhook, &call_sid).await;
    }
    note_or_keep(&api, &webhook, &call_sid).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Puts a request of Twilio on record, and what it means for its call. `organization`: where it is known.
pub(super) async fn note_callback(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    organization: Option<OrganizationId>,
) -> sqlx::Result<()> {
    let event = webhook.carrier_event(organization, call_sid.clone());
    callback::record(&api.store, &event, Timestamp::now()).await
}

/// As [`note_callback`], or later when the database cannot be reached now: Twilio says it once.
pub(super) async fn note_or_keep(api: &Api, webhook: &Webhook, call_sid: &CallSid) -> Result<(), ApiError> {
    if api.bridge.database_is_away() && keep_callback(api, webhook, call_sid, None) {
        return Ok(());
    }
    match timeout(WITHIN, note_callback(api, webhook, call_sid, None)).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) if !error::is_unreachable(&error) => return Err(error.into()),
        Ok(Err(error)) => error::log(&error),
        Err(_) => tracing::warn!("the records do not answer in time"),
    }
    if keep_callback(api, webhook, call_sid, None) {
        Ok(())
    } else {
        Err(ApiError::unavailable("database_unavailable", "the database cannot be reached; try again"))
    }
}
