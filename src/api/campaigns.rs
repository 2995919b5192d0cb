//! Many leads called with one aim.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::campaign_settings::CampaignBody;
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::queue::known_status;
use crate::ids::OrganizationId;
use crate::outreach::campaign::{CampaignStatus, Command};
use crate::store::call_queue::{self, Attempt, Filter, QueueRow};
use crate::store::campaigns::{self, Campaign, CampaignError, Settings, Stats};

/// Routes of campaigns; their leads have a file of their own.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_campaigns, create_campaign))
        .routes(routes!(campaign, update_campaign, delete_campaign))
        .routes(routes!(activate_campaign))
        .routes(routes!(pause_campaign))
        .routes(routes!(resume_campaign))
        .routes(routes!(complete_campaign))
        .routes(routes!(campaign_stats))
        .routes(routes!(campaign_queue))
        .routes(routes!(campaign_attempts))
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
    security(("bearer" = []), ("api_key" = [])),
)]
async fn list_campaigns(
    State(api): State<Api>,
    Query(page): Query<PageQuery>,
    Query(query): Query<CampaignQuery>,
) -> Result<Listing<Campaign>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let organization = api.organization().await?;
    let (data, total) = campaigns::list(&api.store, organization, query.status, limit, offset).await?;
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
    security(("bearer" = []), ("api_key" = [])),
)]
async fn create_campaign(
    State(api): State<Api>,
    Json(body): Json<CampaignBody>,
) -> Result<impl IntoResponse, ApiError> {
    let mut settings = Settings::named("");
    body.apply(&mut settings)?;
    let campaign = campaigns::create(&api.store, api.organization().await?, &settings).await?;
    let location = format!("/api/campaigns/{}", campaign.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Success::new(campaign)))
}

/// A campaign with its counters.
#[utoipa::path(
    get, path = "/api/campaigns/{id}", tag = "campaigns", params(("id" = Uuid, Path, description = "The campaign")),
    responses((status = 200, description = "The campaign as it is now", body = Success<Campaign>), Failures),
    security(("bearer" = []), ("api_key" = [])),
)]
async fn campaign(State(api): State<Api>, Path(id): Path<Uuid>) -> Result<Success<Campaign>, ApiError> {
    let campaign = campaigns::campaign(&api.store, api.organization().await?, id).await?;
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
    security(("bearer" = []), ("api_key" = [])),
)]
async fn update_campaign(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    Json(body): Json<CampaignBody>,
) -> Result<Success<Campaign>, ApiError> {
    let organization = api.organization().await?;
    campaigns::edit(&api.store, organization, id, |settings| body.apply(settings)).await.map(Success::new)
}

/// Deletes a campaign that does not call, with its queue and tries. The records of its calls stay.
#[utoipa::path(
    delete, path = "/api/campaigns/{id}", tag = "campaigns", params(("id" = Uuid, Path, description = "The campaign")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "`campaign_active` or `calls_going_on`", body = Failure),
        Failures,
    ),
    security(("bearer" = []), ("api_key" = [])),
)]
async fn delete_campaign(State(api): State<Api>, Path(id): Path<Uuid>) -> Result<StatusCode, ApiError> {
    campaigns::delete(&api.store, api.organization().await?, id).await?;
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
    security(("bearer" = []), ("api_key" = [])),
)]
async fn activate_campaign(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
) -> Result<Success<Campaign>, ApiError> {
    step(&api, id, Command::Activate).await
}

/// Stops calling for now. Calls that are going on end by themselves.
#[utoipa::path(
    post, path = "/api/campaigns/{id}/pause", tag = "campaigns", params(("id" = Uuid, Path, description = "The campaign")),
    responses(
        (status = 200, description = "The campaign, now `paused`", body = Success<Campaign>),
        (status = 409, description = "`campaign_draft` or `campaign_completed`", body = Failure),
        Failures,
    ),
    security(("bearer" = []), ("api_key" = [])),
)]
async fn pause_campaign(State(api): State<Api>, Path(id): Path<Uuid>) -> Result<Success<Campaign>, ApiError> {
    step(&api, id, Command::Pause).await
}

/// Goes on calling.
#[utoipa::path(
    post, path = "/api/campaigns/{id}/resume", tag = "campaigns", params(("id" = Uuid, Path, description = "The campaign")),
    responses(
        (status = 200, description = "The campaign, now `active`", body = Success<Campaign>),
        (status = 409, description = "`campaign_draft`, `campaign_completed`, `campaign_over`, `no_agent` or `no_own_number`", body = Failure),
        Failures,
    ),
    security(("bearer" = []), ("api_key" = [])),
)]
async fn resume_campaign(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
) -> Result<Success<Campaign>, ApiError> {
    step(&api, id, Command::Resume).await
}

/// Ends the campaign for good; leads that wait are not called. It also ends once its last day is over everywhere.
#[utoipa::path(
    post, path = "/api/campaigns/{id}/complete", tag = "campaigns", params(("id" = Uuid, Path, description = "The campaign")),
    responses(
        (status = 200, description = "The campaign, now `completed`", body = Success<Campaign>),
        (status = 409, description = "`campaign_draft`", body = Failure),
        Failures,
    ),
    security(("bearer" = []), ("api_key" = [])),
)]
async fn complete_campaign(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
) -> Result<Success<Campaign>, ApiError> {
    step(&api, id, Command::Complete).await
}

/// How far a campaign is.
#[utoipa::path(
    get, path = "/api/campaigns/{id}/stats", tag = "campaigns", params(("id" = Uuid, Path, description = "The campaign")),
    responses((status = 200, description = "As it is now", body = Success<Stats>), Failures),
    security(("bearer" = []), ("api_key" = [])),
)]
async fn campaign_stats(State(api): State<Api>, Path(id): Path<Uuid>) -> Result<Success<Stats>, ApiError> {
    let stats = campaigns::stats(&api.store, api.organization().await?, id).await?;
    Ok(Success::new(stats.ok_or(CampaignError::NotFound)?))
}

/// Leads of a campaign as they wait and went, newest first.
#[utoipa::path(
    get, path = "/api/campaigns/{id}/queue", tag = "campaigns",
    params(("id" = Uuid, Path, description = "The campaign"), PageQuery, CampaignQueueQuery),
    responses((status = 200, description = "Part of the list", body = Listing<QueueRow>), Failures),
    security(("bearer" = []), ("api_key" = [])),
)]
async fn campaign_queue(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    Query(page): Query<PageQuery>,
    Query(query): Query<CampaignQueueQuery>,
) -> Result<Listing<QueueRow>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let organization = there_is(&api, id).await?;
    let status = known_status(query.status)?;
    let filter = Filter { status, campaign_id: Some(id), ..Filter::default() };
    let (data, total) = call_queue::list(&api.store, organization, &filter, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Tries to reach leads of a campaign, newest first.
#[utoipa::path(
    get, path = "/api/campaigns/{id}/attempts", tag = "campaigns",
    params(("id" = Uuid, Path, description = "The campaign"), PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<Attempt>), Failures),
    security(("bearer" = []), ("api_key" = [])),
)]
async fn campaign_attempts(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    Query(page): Query<PageQuery>,
) -> Result<Listing<Attempt>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let organization = there_is(&api, id).await?;
    let (data, total) = call_queue::attempts(&api.store, organization, None, Some(id), limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

async fn step(api: &Api, id: Uuid, command: Command) -> Result<Success<Campaign>, ApiError> {
    Ok(Success::new(campaigns::step(&api.store, api.organization().await?, id, command).await?))
}

/// An empty list of a campaign that is not there would be believed.
async fn there_is(api: &Api, id: Uuid) -> Result<OrganizationId, ApiError> {
    let organization = api.organization().await?;
    match campaigns::campaign(&api.store, organization, id).await? {
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
