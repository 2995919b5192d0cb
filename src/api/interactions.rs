//! Calls as a platform around us counts them: it creates an interaction, asks for its call, and reads what came of it.

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{
    Json, Listing, PageQuery, Pagination, Path, Query, Success, check_lengths, one_of,
};
use crate::api::routes::Routes;
use crate::ids::{AgentId, PhoneNumber};
use crate::store::call_queue::{self, NewCall, Priority, ScheduleError};
use crate::store::interactions::{self, Interaction, InteractionFilter, NewInteraction};

const STATUSES: [&str; 4] = ["INITIATED", "IN_PROGRESS", "COMPLETED", "FAILED"];
const DIRECTIONS: [&str; 2] = ["OUTBOUND", "INBOUND"];
// Longest texts, in characters.
const ID: usize = 200;
const MESSAGE: usize = 5_000;

/// Routes of interactions.
pub fn router() -> Routes {
    Routes::new()
        .read(routes!(list_interactions))
        .operate(routes!(create_interaction))
        .read(routes!(interaction))
        .operate(routes!(dispatch_interaction))
}

/// Which interactions are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct InteractionQuery {
    /// With this customer.
    #[param(example = "test_customer_001")]
    customer_id: Option<String>,
    /// `INITIATED`, `IN_PROGRESS`, `COMPLETED` or `FAILED`.
    status: Option<String>,
    /// Started then or later.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Started before.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
}

/// An interaction to create. It is `INITIATED`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"id": "test_interaction_1754628065_1", "customerId": "test_customer_001", "agentId": "test_agent_001"}))]
struct CreateInteraction {
    /// Yours; one of ours when absent.
    #[serde(default)]
    id: Option<String>,
    /// `OUTBOUND` when absent, or `INBOUND`.
    #[serde(default)]
    direction: Option<String>,
    /// Your word for whom it is with.
    #[serde(default)]
    customer_id: Option<String>,
    /// Your word for who speaks; one of our agents speaks where it is that agent's id.
    #[serde(default)]
    agent_id: Option<String>,
    /// Now when absent.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    start_time: Option<Timestamp>,
    /// Consent to a recording was given.
    #[serde(default)]
    recording_consent: Option<bool>,
    /// The other party's number, in E.164.
    #[serde(default)]
    phone_number: Option<String>,
}

/// The call to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"to": "+14155550123", "message": "Remind of the open invoice."}))]
struct DispatchInteraction {
    /// Whom to call, in E.164.
    to: String,
    /// Which lead that is.
    #[serde(default)]
    lead_id: Option<i64>,
    /// Who speaks; the interaction's agent, and else the default one, when absent.
    #[serde(default)]
    agent_id: Option<Uuid>,
    /// What the call is about, for the agent.
    #[serde(default)]
    message: Option<String>,
}

/// A call that will be made.
#[derive(Debug, Serialize, ToSchema)]
struct QueuedCall {
    /// The interaction, still `INITIATED`: the call changes it.
    #[schema(example = "test_interaction_1754628065_1")]
    interaction_id: String,
    /// The call in the queue.
    queue_id: Uuid,
}

/// Interactions, newest first.
#[utoipa::path(
    get, path = "/api/interactions", tag = "interactions", params(InteractionQuery, PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<Interaction>), Failures),
)]
async fn list_interactions(
    caller: Caller,
    Query(query): Query<InteractionQuery>,
    Query(page): Query<PageQuery>,
) -> Result<Listing<Interaction>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let InteractionQuery { customer_id, status, from, to } = query;
    one_of("status", status.as_deref(), &STATUSES)?;
    let filter = InteractionFilter { customer_id, status, from, to };
    let (data, total) =
        interactions::list(&caller.store, caller.organization, &filter, limit, offset).await?;
    for row in &data {
        caller.does_in_call("interaction.read", &row.id, row.call_sid.as_deref());
    }
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Creates an interaction. Its call has to be asked for.
#[utoipa::path(
    post, path = "/api/interactions", tag = "interactions", request_body = CreateInteraction,
    responses(
        (status = 201, description = "The new interaction", body = Success<Interaction>, headers(("Location" = String, description = "The interaction"))),
        (status = 409, description = "There is one with this id", body = Failure),
        Failures,
    ),
)]
async fn create_interaction(
    caller: Caller,
    Json(body): Json<CreateInteraction>,
) -> Result<impl IntoResponse, ApiError> {
    let new = body.checked()?;
    let created = interactions::create(&caller.store, caller.organization, &new).await?;
    let created = created.ok_or_else(|| {
        ApiError::conflict("interaction_exists", "there is an interaction with this id; choose another one")
    })?;
    let location = format!("/api/interactions/{}", created.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Success::new(created)))
}

/// An interaction and what came of its call.
#[utoipa::path(
    get, path = "/api/interactions/{id}", tag = "interactions",
    params(("id" = String, Path, description = "The interaction")),
    responses((status = 200, description = "The interaction as it is now", body = Success<Interaction>), Failures),
)]
async fn interaction(caller: Caller, Path(id): Path<String>) -> Result<Success<Interaction>, ApiError> {
    let found = interactions::find(&caller.store, caller.organization, &id).await?;
    let row = found.ok_or_else(unknown)?;
    caller.does_in_call("interaction.read", &row.id, row.call_sid.as_deref());
    Ok(Success::new(row))
}

/// Asks for the call of an interaction: once, for one try, and only as long as it is `INITIATED`. The call changes it, this
/// does not.
#[utoipa::path(
    post, path = "/api/interactions/{id}/dispatch", tag = "interactions",
    params(("id" = String, Path, description = "The interaction")), request_body = DispatchInteraction,
    responses(
        (status = 202, description = "The call will be made", body = Success<QueuedCall>),
        (status = 409, description = "`interaction_unknown`, `interaction_inbound`, `interaction_not_initiated`, `interaction_dispatched`, `do_not_call`, `no_own_number`, `no_agent` or `agent_disabled`", body = Failure),
        (status = 422, description = "`unknown_lead`, `unknown_agent` or `invalid_value`", body = Failure),
        Failures,
    ),
)]
async fn dispatch_interaction(
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<DispatchInteraction>,
) -> Result<impl IntoResponse, ApiError> {
    let new = body.checked(id.clone())?;
    let row = call_queue::schedule(&caller.store, caller.organization, &new).await.map_err(refusal)?;
    Ok((StatusCode::ACCEPTED, Success::new(QueuedCall { interaction_id: id, queue_id: row.id })))
}

/// Where an interaction is part of the address it is what is in the way; all else is as for any call that is scheduled.
fn refusal(error: ScheduleError) -> ApiError {
    match error {
        ScheduleError::InteractionNotFound => ApiError::conflict(
            "interaction_unknown",
            "there is no such interaction; create it with POST /api/interactions first",
        ),
        ScheduleError::InteractionQueued => ApiError::conflict(
            "interaction_dispatched",
            "the interaction was dispatched before, and its call is on its way; create another one",
        ),
        error => error.into(),
    }
}

fn unknown() -> ApiError {
    ApiError::not_found("there is no such interaction")
}

impl CreateInteraction {
    fn checked(self) -> Result<NewInteraction, ApiError> {
        one_of_body("direction", self.direction.as_deref(), &DIRECTIONS)?;
        check_lengths(&[
            ("id", self.id.as_deref(), ID),
            ("customerId", self.customer_id.as_deref(), ID),
            ("agentId", self.agent_id.as_deref(), ID),
        ])?;
        // It becomes part of an address.
        let is_plain = |id: &String| !id.is_empty() && id.chars().all(|c| c.is_ascii_graphic() && c != '/');
        if self.id.as_ref().is_some_and(|id| !is_plain(id)) {
            return Err(ApiError::invalid("id must be printable ASCII without spaces and slashes"));
        }
        let phone_number = self.phone_number.as_deref().map(|text| phone("phoneNumber", text)).transpose()?;
        Ok(NewInteraction {
            id: self.id,
            direction: self.direction.unwrap_or_else(|| "OUTBOUND".to_owned()),
            customer_id: self.customer_id,
            agent_id: self.agent_id,
            start_time: self.start_time,
            recording_consent: self.recording_consent,
            phone_number,
        })
    }
}

impl DispatchInteraction {
    /// One try: whether to try again is the platform's to decide, which creates another interaction then.
    fn checked(self, interaction: String) -> Result<NewCall, ApiError> {
        check_lengths(&[("message", self.message.as_deref(), MESSAGE)])?;
        Ok(NewCall {
            to: Some(phone("to", &self.to)?),
            message: self.message,
            lead_id: self.lead_id,
            priority: Priority::Normal,
            schedule_at: None,
            agent_id: self.agent_id.map(AgentId),
            interaction_id: Some(interaction),
            phone_number_id: None,
            max_attempts: 1,
        })
    }
}

fn phone(member: &str, text: &str) -> Result<PhoneNumber, ApiError> {
    PhoneNumber::parse(text).map_err(|error| ApiError::invalid(format!("{member}: {error}")))
}

/// As [`one_of`], for a member of a body.
fn one_of_body(member: &str, value: Option<&str>, words: &[&str]) -> Result<(), ApiError> {
    match value {
        Some(value) if !words.contains(&value) => {
            Err(ApiError::invalid(format!("{member} must be one of: {}", words.join(", "))))
        }
        _ => Ok(()),
    }
}
