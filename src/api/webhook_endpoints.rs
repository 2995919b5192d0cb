//! Where an organisation is told what happens to its calls.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::auth::Caller;
use crate::api::body::{NAME, Problems};
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::routes::Routes;
use crate::api::webhook_deliveries::refused;
use crate::clients::receiver::Reach;
use crate::store::webhooks::deliveries::{self, Delivery};
use crate::store::webhooks::{self, EVENT_TYPES, Endpoint, EndpointPatch, NewEndpoint};
use crate::webhooks::sign;

/// Longest address, in characters.
const URL: usize = 2000;

/// Routes of webhook endpoints.
pub fn router() -> Routes {
    Routes::new()
        .admin(routes!(list_webhook_endpoints, create_webhook_endpoint))
        .admin(routes!(webhook_endpoint, update_webhook_endpoint, delete_webhook_endpoint))
        .admin(routes!(rotate_webhook_secret))
        .admin(routes!(ping_webhook_endpoint))
        .operate(routes!(replay_dead_webhooks))
}

/// An endpoint to register.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWebhookEndpoint {
    /// Where events are posted: `https`, on the public internet.
    #[schema(example = "https://example.com/voicebridge")]
    pub url: String,
    /// For people.
    #[serde(default)]
    #[schema(example = "Our CRM.")]
    pub description: String,
    /// What is told there: `call.started`, `call.transferred`, `call.completed`, `call.failed`, `transcript.completed`,
    /// `lead.linked`; at least one.
    #[schema(example = json!(["call.completed", "call.failed"]))]
    pub events: Vec<String>,
    /// What was said goes along with `transcript.completed`; else only where it can be read.
    #[serde(default)]
    #[schema(example = false)]
    pub include_transcript: bool,
    /// Whether anything is told there.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub enabled: bool,
}

/// What to change. A member that is absent stays.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateWebhookEndpoint {
    /// Where events are posted: `https`, on the public internet.
    #[schema(example = "https://example.com/voicebridge")]
    pub url: Option<String>,
    /// For people.
    #[schema(example = "Our CRM.")]
    pub description: Option<String>,
    /// What is told there.
    #[schema(example = json!(["call.completed", "call.failed"]))]
    pub events: Option<Vec<String>>,
    /// What was said goes along with `transcript.completed`.
    #[schema(example = false)]
    pub include_transcript: Option<bool>,
    /// Whether anything is told there. What happens while nothing is, is not told later.
    #[schema(example = true)]
    pub enabled: Option<bool>,
}

/// An endpoint and its secret, which is shown this once.
#[derive(Serialize, ToSchema)]
pub struct IssuedWebhookSecret {
    /// What everything that is sent is signed with, after the Standard Webhooks specification.
    #[schema(example = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")]
    pub secret: String,
    /// What it is of.
    #[serde(flatten)]
    pub endpoint: Endpoint,
}

/// How many deliveries are sent again.
#[derive(Serialize, ToSchema)]
pub struct Replayed {
    /// So many, 10000 at most; ask again for more.
    #[schema(example = 12)]
    pub replayed: u64,
}

/// Endpoints, the oldest first.
#[utoipa::path(
    get, path = "/api/webhook-endpoints", tag = "webhooks", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<Endpoint>), Failures),
)]
async fn list_webhook_endpoints(
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Listing<Endpoint>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = webhooks::list(&caller.store, caller.organization, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Registers an endpoint. What happens from now on is told there. Its secret is in this answer and nowhere else.
#[utoipa::path(
    post, path = "/api/webhook-endpoints", tag = "webhooks", request_body = CreateWebhookEndpoint,
    responses(
        (status = 201, description = "The new endpoint and its secret", body = Success<IssuedWebhookSecret>, headers(("Location" = String, description = "The endpoint"))),
        (status = 409, description = "`too_many_endpoints`", body = Failure),
        Failures,
    ),
)]
async fn create_webhook_endpoint(
    State(api): State<Api>,
    caller: Caller,
    Json(body): Json<CreateWebhookEndpoint>,
) -> Result<impl IntoResponse, ApiError> {
    let CreateWebhookEndpoint { url, description, events, include_transcript, enabled } = body;
    let url = check(api.webhooks, Some(&url), Some(&description), Some(&events))?.unwrap_or(url);
    let secret = sign::new_secret();
    let new = NewEndpoint {
        url,
        description,
        events: sorted(events),
        include_transcript,
        enabled,
        secret: secret.expose_secret().to_owned(),
    };
    let created = webhooks::create(&caller.store, caller.organization, &new).await?;
    let endpoint = created.ok_or_else(|| {
        ApiError::conflict(
            "too_many_endpoints",
            "the organisation has as many endpoints as it may; delete one",
        )
    })?;
    caller.does("webhook_endpoint.created", endpoint.id);
    let location = format!("/api/webhook-endpoints/{}", endpoint.id);
    let issued = IssuedWebhookSecret { secret: new.secret, endpoint };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Success::new(issued)))
}

/// An endpoint, without its secret.
#[utoipa::path(
    get, path = "/api/webhook-endpoints/{id}", tag = "webhooks", params(("id" = Uuid, Path, description = "The endpoint")),
    responses((status = 200, description = "The endpoint as it is now", body = Success<Endpoint>), Failures),
)]
async fn webhook_endpoint(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<Endpoint>, ApiError> {
    let found = webhooks::find(&caller.store, caller.organization, id).await?;
    found.map(Success::new).ok_or_else(gone)
}

/// Changes what the body names. Who disables an endpoint gives up what waits there; `replay-dead` sends it after all.
#[utoipa::path(
    patch, path = "/api/webhook-endpoints/{id}", tag = "webhooks", params(("id" = Uuid, Path, description = "The endpoint")),
    request_body = UpdateWebhookEndpoint,
    responses((status = 200, description = "The endpoint as it is now", body = Success<Endpoint>), Failures),
)]
async fn update_webhook_endpoint(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<UpdateWebhookEndpoint>,
) -> Result<Success<Endpoint>, ApiError> {
    let UpdateWebhookEndpoint { url, description, events, include_transcript, enabled } = body;
    let url = check(api.webhooks, url.as_deref(), description.as_deref(), events.as_deref())?;
    let patch = EndpointPatch { url, description, events: events.map(sorted), include_transcript, enabled };
    let updated = webhooks::update(&caller.store, caller.organization, id, &patch).await?;
    let endpoint = updated.ok_or_else(gone)?;
    caller.does("webhook_endpoint.changed", id);
    Ok(Success::new(endpoint))
}

/// Removes an endpoint, with all that was and is to be sent there.
#[utoipa::path(
    delete, path = "/api/webhook-endpoints/{id}", tag = "webhooks", params(("id" = Uuid, Path, description = "The endpoint")),
    responses((status = 204, description = "It is gone"), Failures),
)]
async fn delete_webhook_endpoint(caller: Caller, Path(id): Path<Uuid>) -> Result<StatusCode, ApiError> {
    if !webhooks::delete(&caller.store, caller.organization, id).await? {
        return Err(gone());
    }
    caller.does("webhook_endpoint.deleted", id);
    Ok(StatusCode::NO_CONTENT)
}

/// Gives an endpoint another secret, which is in this answer and nowhere else. For 24 hours the one before signs as well.
#[utoipa::path(
    post, path = "/api/webhook-endpoints/{id}/rotate-secret", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The endpoint")),
    responses((status = 200, description = "The endpoint and its new secret", body = Success<IssuedWebhookSecret>), Failures),
)]
async fn rotate_webhook_secret(
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<Success<IssuedWebhookSecret>, ApiError> {
    let secret = sign::new_secret();
    let secret = secret.expose_secret();
    let rotated = webhooks::rotate_secret(&caller.store, caller.organization, id, secret).await?;
    let endpoint = rotated.ok_or_else(gone)?;
    caller.does("webhook_endpoint.rotated", id);
    Ok(Success::new(IssuedWebhookSecret { secret: secret.to_owned(), endpoint }))
}

/// Sends a `ping` there, whatever it listens to, the same way as events.
#[utoipa::path(
    post, path = "/api/webhook-endpoints/{id}/ping", tag = "webhooks", params(("id" = Uuid, Path, description = "The endpoint")),
    responses(
        (status = 202, description = "It will be sent", body = Success<Delivery>, headers(("Location" = String, description = "What comes of it"))),
        (status = 409, description = "`endpoint_disabled`", body = Failure),
        Failures,
    ),
)]
async fn ping_webhook_endpoint(caller: Caller, Path(id): Path<Uuid>) -> Result<impl IntoResponse, ApiError> {
    let delivery = deliveries::ping(&caller.store, caller.organization, id).await?;
    let delivery = delivery.map_err(|why| refused(why, "endpoint"))?;
    caller.does("webhook_endpoint.pinged", id);
    let location = format!("/api/webhook-deliveries/{}", delivery.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Success::new(delivery)))
}

/// Sends all again that was given up there, with the same ids, the oldest first.
#[utoipa::path(
    post, path = "/api/webhook-endpoints/{id}/replay-dead", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The endpoint")),
    responses(
        (status = 202, description = "It will be sent", body = Success<Replayed>),
        (status = 409, description = "`endpoint_disabled`", body = Failure),
        Failures,
    ),
)]
async fn replay_dead_webhooks(
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<(StatusCode, Success<Replayed>), ApiError> {
    let replayed = deliveries::replay_dead(&caller.store, caller.organization, id).await?;
    let replayed = replayed.map_err(|why| refused(why, "endpoint"))?;
    caller.does("webhook_endpoint.replayed", id);
    Ok((StatusCode::ACCEPTED, Success::new(Replayed { replayed })))
}

const fn yes() -> bool {
    true
}

fn gone() -> ApiError {
    ApiError::not_found("there is no such endpoint")
}

/// Refuses what cannot be. Returns the address as it is spelled in full.
fn check(
    reach: Reach,
    url: Option<&str>,
    description: Option<&str>,
    events: Option<&[String]>,
) -> Result<Option<String>, ApiError> {
    let mut problems = Problems::default();
    let mut checked = None;
    if let Some(url) = url {
        problems.length("url", url, 1, URL);
        checked = problems.take("url", reach.check(url)).map(String::from);
    }
    if let Some(description) = description {
        problems.length("description", description, 0, NAME);
    }
    if let Some(events) = events
        && (events.is_empty() || events.iter().any(|event| !EVENT_TYPES.contains(&event.as_str())))
    {
        problems
            .note("events", &format!("must have at least one of {}, and no other", EVENT_TYPES.join(", ")));
    }
    problems.none()?;
    Ok(checked)
}

/// Each once, in the order in which they happen.
fn sorted(mut events: Vec<String>) -> Vec<String> {
    let place = |event: &String| EVENT_TYPES.iter().position(|known| known == event);
    events.sort_by_key(place);
    events.dedup();
    events
}
