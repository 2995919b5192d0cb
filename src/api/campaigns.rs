//! Many leads called with one aim.

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::campaign_settings::CampaignBody;
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::queue::known_status;
use crate::api::routes::Routes;
use crate::ids::OrganizationId;
use crate::outreach::campaign::{CampaignStatus, Command};
use crate::store::call_queue::{self, Attempt, Filter, QueueRow};
use crate::store::campaigns::{self, Campaign, CampaignError, Settings, Stats};

/// Routes of campaigns; their leads have a file of their own.
pub fn router() -> Routes {
    Routes::new()
        .read(routes!(list_campaigns))
        .operate(routes!(create_campaign))
        .read(routes!(campaign))
        .operate(routes!(update_campaign, delete_campaign))
        .operate(routes!(activate_campaign))
        .operate(routes!(pause_campaign))
        .operate(routes!(resume_campaign))
        .operate(routes!(complete_campaign))
        .read(routes!(campaign_stats))
        .read(routes!(campaign_queue))
        .read(routes!(campaign_attempts))
}

/// Which campaigns are wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CampaignQuery {
    /// In this status.
    pub status: Option<CampaignStatus>,
}

/// Which calls of a campaign are wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CampaignQueueQuery {
    /// In this status: `queued`, `processing`, `completed` or `failed`.
    pub status: Option<String>,
}

/// Campaigns, newest first.
#[utoipa::path(
    get, path = "/api/campaigns", tag = "campaigns", params(PageQuery, CampaignQuery),
    responses((status = 200, description = "Part of the list", body = Listing<Campaign>), Failures),
)]
async fn list_campaigns(
    caller: Caller,
    Query(page): Query<PageQuery>,
    Query(query): Query<CampaignQuery>,
) -> Result<Listing<Campaign>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let organization = caller.organization;
    let (data, total) = campaigns::list(&caller.store, organization, query.status, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Creates a draft, which calls nobody until it is activated. `name` must be there.
#[utoipa::path(
    post, path = "/api/campaigns", tag = "campaigns", request_body = CampaignBody,
    responses(
        (status = 201, description = "The new campaign", body = Success<Campaign>, headers(("Location" = String, description = "The campaign"))),
        (status = 422, description = "`unknown_reference` or `invalid_value`", body = Failure),
        Failures,
    ),
)]
async fn create_campaign(
    caller: Caller,
    Json(body): Json<CampaignBody>,
) -> Result<impl IntoResponse, ApiError> {
    let mut settings = Settings::named("");
    body.apply(&mut settings)?;
    let campaign = campaigns::create(&caller.store, caller.organization, &settings).await?;
    let location = format!("/api/campaigns/{}", campaign.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Success::new(campaign)))
}

/// A campaign with its counters.
#[utoipa::path(
    get, path = "/api/campaigns/{id}", tag = "campaigns", params(("id" = Uuid, Path, description = "The campaign")),
    responses((status = 200, description = "The campaign as it is now", body = Success<Campaign>), Failures),
)]
async fn campaign(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<Campaign>, ApiError> {
    let campaign = campaigns::campaign(&caller.store, caller.organization, id).await?;
    Ok(Success::new(campaign.ok_or(CampaignError::NotFound)?))
}

/// Changes what the body names, also while it calls: the next call is made by what it says then.
#[utoipa::path(
    patch, path = "/api/campaigns/{id}", tag = "campaigns", params(("id" = Uuid, Path, description = "The campaign")),
    request_body = CampaignBody,
    responses(
        (status = 200, description = "The campaign as it is now", body = Success<Campaign>),
        (status = 409, description = "`campaign_completed`", body = Failure),
        (status = 422, description = "`unknown_reference` or `invalid_value`", body = Failure),
        Failures,
    ),
)]
async fn update_campaign(
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<CampaignBody>,
) -> Result<Success<Campaign>, ApiError> {
    let organization = caller.organization;
    campaigns::edit(&caller.store, organization, id, |settings| body.apply(settings)).await.map(Success::new)
}

/// Deletes a campaign that does not call, with its queue and tries. The records of its calls stay.
#[utoipa::path(
    delete, path = "/api/campaigns/{id}", tag = "campaigns", params(("id" = Uuid, Path, description = "The campaign")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "`campaign_active` or `calls_going_on`", body = Failure),
        Failures,
    ),
)]
async fn delete_campaign(caller: Caller, Path(id): Path<Uuid>) -> Result<StatusCode, ApiError> {
    campaigns::delete(&caller.store, caller.organization, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Begins to call. Needs an agent that is enabled, a number to call from, and a last day that is not over.
#[utoipa::path(
    post, path = "/api/campaigns/{id}/activate", tag = "campaigns", params(("id" = Uuid, Path, description = "The campaign")),
    responses(
        (status = 200, description = "The campaign, now `active`", body = Success<Campaign>),
        (status = 409, description = "`campaign_paused`, `campaign_completed`, `campaign_over`, `no_agent` or `no_own_number`", body = Failure),
        Failures,
    ),
)]
async fn activate_campaign(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<Campaign>, ApiError> {
    step(&caller, id, Command::Activate).await
}

/// Stops calling for now. Calls that are going on end by themselves.
#[utoipa::path(
    post, path = "/api/campaigns/{id}/pause", tag = "campaigns", params(("id" = Uuid, Path, description = "The campaign")),
    responses(
        (status = 200, description = "The campaign, now `paused`", body = Success<Campaign>),
        (status = 409, description = "`campaign_draft` or `campaign_completed`", body = Failure),
        Failures,
    ),
)]
async fn pause_campaign(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<Campaign>, ApiError> {
    step(&caller, id, Command::Pause).await
}

/// Goes on calling.
#[utoipa::path(
    post, path = "/api/campaigns/{id}/resume", tag = "campaigns", params(("id" = Uuid, Path, description = "The campaign")),
    responses(
        (status = 200, description = "The campaign, now `active`", body = Success<Campaign>),
        (status = 409, description = "`campaign_draft`, `campaign_completed`, `campaign_over`, `no_agent` or `no_own_number`", body = Failure),
        Failures,
    ),
)]
async fn resume_campaign(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<Campaign>, ApiError> {
    step(&caller, id, Command::Resume).await
}

/// Ends the campaign for good; leads that wait are not called. It also ends once its last day is over everywhere.
#[utoipa::path(
    post, path = "/api/campaigns/{id}/complete", tag = "campaigns", params(("id" = Uuid, Path, description = "The campaign")),
    responses(
        (status = 200, description = "The campaign, now `completed`", body = Success<Campaign>),
        (status = 409, description = "`campaign_draft`", body = Failure),
        Failures,
    ),
)]
async fn complete_campaign(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<Campaign>, ApiError> {
    step(&caller, id, Command::Complete).await
}

/// How far a campaign is.
#[utoipa::path(
    get, path = "/api/campaigns/{id}/stats", tag = "campaigns", params(("id" = Uuid, Path, description = "The campaign")),
    responses((status = 200, description = "As it is now", body = Success<Stats>), Failures),
)]
async fn campaign_stats(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<Stats>, ApiError> {
    let stats = campaigns::stats(&caller.store, caller.organization, id).await?;
    Ok(Success::new(stats.ok_or(CampaignError::NotFound)?))
}

/// Leads of a campaign as they wait and went, newest first.
#[utoipa::path(
    get, path = "/api/campaigns/{id}/queue", tag = "campaigns",
    params(("id" = Uuid, Path, description = "The campaign"), PageQuery, CampaignQueueQuery),
    responses((status = 200, description = "Part of the list", body = Listing<QueueRow>), Failures),
)]
async fn campaign_queue(
    caller: Caller,
    Path(id): Path<Uuid>,
    Query(page): Query<PageQuery>,
    Query(query): Query<CampaignQueueQuery>,
) -> Result<Listing<QueueRow>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let organization = there_is(&caller, id).await?;
    let status = known_status(query.status)?;
    let filter = Filter { status, campaign_id: Some(id), ..Filter::default() };
    let (data, total) = call_queue::list(&caller.store, organization, &filter, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Tries to reach leads of a campaign, newest first.
#[utoipa::path(
    get, path = "/api/campaigns/{id}/attempts", tag = "campaigns",
    params(("id" = Uuid, Path, description = "The campaign"), PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<Attempt>), Failures),
)]
async fn campaign_attempts(
    caller: Caller,
    Path(id): Path<Uuid>,
    Query(page): Query<PageQuery>,
) -> Result<Listing<Attempt>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let organization = there_is(&caller, id).await?;
    let (data, total) =
        call_queue::attempts(&caller.store, organization, None, Some(id), limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

async fn step(caller: &Caller, id: Uuid, command: Command) -> Result<Success<Campaign>, ApiError> {
    Ok(Success::new(campaigns::step(&caller.store, caller.organization, id, command).await?))
}

/// An empty list of a campaign that is not there would be believed.
async fn there_is(caller: &Caller, id: Uuid) -> Result<OrganizationId, ApiError> {
    let organization = caller.organization;
    match campaigns::campaign(&caller.store, organization, id).await? {
        Some(_) => Ok(organization),
        None => Err(CampaignError::NotFound.into()),
    }
}

impl From<CampaignError> for ApiError {
    fn from(error: CampaignError) -> Self {
        use crate::outreach::campaign::StepError;
        let message = error.to_string();
        match error {
            CampaignError::NotFound => Self::not_found(message),
            CampaignError::Step(StepError::Draft) => Self::conflict("campaign_draft", message),
            CampaignError::Step(StepError::Paused) => Self::conflict("campaign_paused", message),
            CampaignError::Step(StepError::Completed) => Self::conflict("campaign_completed", message),
            CampaignError::Active => Self::conflict("campaign_active", message),
            CampaignError::CallsGoingOn => Self::conflict("calls_going_on", message),
            CampaignError::Over => Self::conflict("campaign_over", message),
            CampaignError::NoAgent => Self::conflict("no_agent", message),
            CampaignError::NoOwnNumber => Self::conflict("no_own_number", message),
            CampaignError::Unknown { .. } => Self::unprocessable("unknown_reference", message),
            CampaignError::Database(error) => error.into(),
        }
    }
}
