//! Calls to be made.

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::body::{NOTES, Problems};
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::routes::Routes;
use crate::ids::{AgentId, PhoneNumberId};
use crate::store::call_queue::{
    self, Attempt, ChangeError, Filter, MOST_ATTEMPTS, NewCall, Priority, QueueRow, ScheduleError,
};

/// Tries when nothing is said: as campaigns have it.
const USUAL_ATTEMPTS: i32 = 3;
/// Longest id of an interaction; the table says so as well.
const INTERACTION: usize = 200;
/// What a row can be.
const STATUSES: [&str; 4] = ["queued", "processing", "completed", "failed"];
/// Most tries in one answer: a row has at most twenty.
const MOST_TRIES: u32 = 100;

/// Routes of the queue.
pub fn router() -> Routes {
    Routes::new()
        .operate(routes!(schedule_call))
        .read(routes!(list_queue))
        .read(routes!(queued_call))
        .operate(routes!(cancel_call))
        .operate(routes!(retry_call))
}

/// A call to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "to": "+14155550123", "message": "Remind Ada of her appointment tomorrow at ten.", "lead_id": 123,
    "priority": "normal", "schedule_at": "2026-03-02T09:00:00Z"
}))]
pub struct ScheduleCall {
    /// Telephone with `+` and country code; may be left out when `lead_id` is given.
    #[serde(default)]
    pub to: Option<String>,
    /// What the call is about, for the agent.
    #[serde(default)]
    pub message: Option<String>,
    /// Who is called.
    #[serde(default)]
    pub lead_id: Option<i64>,
    /// Higher ones are called first; `normal` when absent.
    #[serde(default)]
    pub priority: Priority,
    /// Not before; now when absent.
    #[serde(default)]
    pub schedule_at: Option<Timestamp>,
    /// Who speaks; the interaction's agent, and else the default one, when absent.
    #[serde(default)]
    #[schema(value_type = Option<Uuid>)]
    pub agent_id: Option<AgentId>,
    /// The platform's record of the call, which must be INITIATED.
    #[serde(default)]
    pub interaction_id: Option<String>,
    /// Our number that shows; any when absent.
    #[serde(default)]
    #[schema(value_type = Option<Uuid>)]
    pub phone_number_id: Option<PhoneNumberId>,
    /// Tries in all, 1 to 20; 3 when absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 20)]
    pub max_attempts: Option<i32>,
}

/// A call of the queue with its tries.
#[derive(Serialize, ToSchema)]
pub struct QueuedCall {
    /// The call.
    #[serde(flatten)]
    pub call: QueueRow,
    /// Tries so far, newest first.
    pub attempts: Vec<Attempt>,
}

/// Which calls are wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct QueueQuery {
    /// In this status: `queued`, `processing`, `completed` or `failed`.
    pub status: Option<String>,
    /// Of this campaign.
    pub campaign_id: Option<Uuid>,
    /// To this lead.
    pub lead_id: Option<i64>,
}

/// Takes a call into the queue. It is made as soon as `schedule_at`, pace and the do-not-call list allow.
#[utoipa::path(
    post, path = "/api/queue/schedule-call", tag = "queue", request_body = ScheduleCall,
    responses(
        (status = 202, description = "The call is in the queue", body = Success<QueueRow>, headers(("Location" = String, description = "The call"))),
        (status = 409, description = "`do_not_call`, `no_own_number`, `no_agent`, `agent_disabled`, `interaction_inbound`, `interaction_not_initiated` or `interaction_queued`", body = Failure),
        (status = 422, description = "`unknown_lead`, `unknown_agent`, `unknown_interaction`, `unknown_phone_number` or `invalid_value`", body = Failure),
        Failures,
    ),
)]
async fn schedule_call(
    caller: Caller,
    Json(body): Json<ScheduleCall>,
) -> Result<impl IntoResponse, ApiError> {
    let new = body.checked()?;
    let row = call_queue::schedule(&caller.store, caller.organization, &new).await?;
    let location = format!("/api/queue/{}", row.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Success::new(row)))
}

/// Calls of the queue, newest first.
#[utoipa::path(
    get, path = "/api/queue", tag = "queue", params(PageQuery, QueueQuery),
    responses((status = 200, description = "Part of the list", body = Listing<QueueRow>), Failures),
)]
async fn list_queue(
    caller: Caller,
    Query(page): Query<PageQuery>,
    Query(query): Query<QueueQuery>,
) -> Result<Listing<QueueRow>, ApiError> {
    let QueueQuery { status, campaign_id, lead_id } = query;
    let filter = Filter { id: None, status: known_status(status)?, campaign_id, lead_id };
    let PageQuery { limit, offset } = page.checked()?;
    let organization = caller.organization;
    let (data, total) = call_queue::list(&caller.store, organization, &filter, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// A call of the queue with its tries.
#[utoipa::path(
    get, path = "/api/queue/{id}", tag = "queue", params(("id" = Uuid, Path, description = "The call in the queue")),
    responses((status = 200, description = "The call as it is now", body = Success<QueuedCall>), Failures),
)]
async fn queued_call(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<QueuedCall>, ApiError> {
    let organization = caller.organization;
    let call = call_queue::row(&caller.store, organization, id).await?.ok_or(ChangeError::NotFound)?;
    let (attempts, _) =
        call_queue::attempts(&caller.store, organization, Some(id), None, MOST_TRIES, 0).await?;
    Ok(Success::new(QueuedCall { call, attempts }))
}

/// Takes a call back that waits. Twice is as good as once. The interaction that it is for has failed then, and stays so.
#[utoipa::path(
    delete, path = "/api/queue/{id}", tag = "queue", params(("id" = Uuid, Path, description = "The call in the queue")),
    responses(
        (status = 200, description = "The call, now `failed` with `canceled`", body = Success<QueueRow>),
        (status = 409, description = "`call_going_on` or `call_finished`", body = Failure),
        Failures,
    ),
)]
async fn cancel_call(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<QueueRow>, ApiError> {
    Ok(Success::new(call_queue::cancel(&caller.store, caller.organization, id).await?))
}

/// Has a call tried as soon as the rules allow, also one that was over.
#[utoipa::path(
    post, path = "/api/queue/{id}/retry", tag = "queue", params(("id" = Uuid, Path, description = "The call in the queue")),
    responses(
        (status = 200, description = "The call, now `queued`", body = Success<QueueRow>),
        (status = 409, description = "`call_going_on`, `campaign_completed`, `do_not_call`, `interaction_over` or `no_try_left`", body = Failure),
        Failures,
    ),
)]
async fn retry_call(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<QueueRow>, ApiError> {
    Ok(Success::new(call_queue::retry(&caller.store, caller.organization, id).await?))
}

/// Refuses words that no row has: the list would be empty, and nobody would know why.
pub(crate) fn known_status(status: Option<String>) -> Result<Option<String>, ApiError> {
    match status {
        Some(word) if !STATUSES.contains(&&*word) => Err(ApiError::bad_request(
            "invalid_query",
            format!("status must be one of {}", STATUSES.join(", ")),
        )),
        status => Ok(status),
    }
}

impl ScheduleCall {
    fn checked(self) -> Result<NewCall, ApiError> {
        let mut problems = Problems::default();
        let to = self.to.as_deref().and_then(|to| problems.number("to", to));
        problems.length("message", self.message.as_deref().unwrap_or_default(), 0, NOTES);
        if let Some(id) = &self.interaction_id {
            problems.length("interaction_id", id, 1, INTERACTION);
        }
        let max_attempts = self.max_attempts.unwrap_or(USUAL_ATTEMPTS);
        problems.range("max_attempts", max_attempts, 1, MOST_ATTEMPTS);
        problems.none()?;
        let Self { message, lead_id, priority, schedule_at, .. } = self;
        let Self { agent_id, interaction_id, phone_number_id, .. } = self;
        Ok(NewCall {
            to,
            message,
            lead_id,
            priority,
            schedule_at,
            agent_id,
            interaction_id,
            phone_number_id,
            max_attempts,
        })
    }
}

impl From<ScheduleError> for ApiError {
    fn from(error: ScheduleError) -> Self {
        let message = error.to_string();
        match error {
            ScheduleError::NoNumber | ScheduleError::LeadNumber => Self::invalid(message),
            ScheduleError::LeadNotFound => Self::unprocessable("unknown_lead", message),
            ScheduleError::AgentNotFound => Self::unprocessable("unknown_agent", message),
            ScheduleError::InteractionNotFound => Self::unprocessable("unknown_interaction", message),
            ScheduleError::OwnNumberNotFound => Self::unprocessable("unknown_phone_number", message),
            ScheduleError::NoAgent => Self::conflict("no_agent", message),
            ScheduleError::AgentDisabled => Self::conflict("agent_disabled", message),
            ScheduleError::InteractionNotInitiated { status } => {
                Self::conflict("interaction_not_initiated", message).with_details(json!({ "status": status }))
            }
            ScheduleError::InteractionInbound => Self::conflict("interaction_inbound", message),
            ScheduleError::InteractionQueued => Self::conflict("interaction_queued", message),
            ScheduleError::NoOwnNumber => Self::conflict("no_own_number", message),
            ScheduleError::DoNotCall => Self::conflict("do_not_call", message),
            ScheduleError::Database(error) => error.into(),
        }
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        let message = error.to_string();
        match error {
            ChangeError::NotFound => Self::not_found(message),
            ChangeError::GoingOn => Self::conflict("call_going_on", message),
            ChangeError::Finished => Self::conflict("call_finished", message),
            ChangeError::CampaignOver => Self::conflict("campaign_completed", message),
            ChangeError::DoNotCall => Self::conflict("do_not_call", message),
            ChangeError::InteractionOver { status } => {
                Self::conflict("interaction_over", message).with_details(json!({ "status": status }))
            }
            ChangeError::NoTryLeft => Self::conflict("no_try_left", message),
            ChangeError::Database(error) => error.into(),
        }
    }
}
