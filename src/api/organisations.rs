//! Tenants.

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::body::Problems;
use crate::api::error::{ApiError, Failures};
use crate::api::extract::{Json, Path, Success};
use crate::store::organisations::{self, Organisation};

/// Routes of organisations.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_organisations))
        .routes(routes!(organisation, update_organisation))
}

/// What to change.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateOrganisation {
    /// For people.
    #[schema(example = "Kanzlei Weber")]
    pub name: Option<String>,
}

/// The organisations that the key is good for.
#[utoipa::path(
    get, path = "/api/organisations", tag = "organisations",
    responses((status = 200, description = "All of them", body = Success<Vec<Organisation>>), Failures),
    security(("bearer" = []), ("api_key" = [])),
)]
async fn list_organisations(State(api): State<Api>) -> Result<Success<Vec<Organisation>>, ApiError> {
    let own = organisations::organisation(&api.store, api.organization().await?).await?;
    Ok(Success::new(own.into_iter().collect()))
}

/// An organisation.
#[utoipa::path(
    get, path = "/api/organisations/{id}", tag = "organisations",
    params(("id" = Uuid, Path, description = "The organisation")),
    responses((status = 200, description = "The organisation as it is now", body = Success<Organisation>), Failures),
    security(("bearer" = []), ("api_key" = [])),
)]
async fn organisation(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
) -> Result<Success<Organisation>, ApiError> {
    found(&api, id).await
}

/// Gives an organisation another name.
#[utoipa::path(
    patch, path = "/api/organisations/{id}", tag = "organisations",
    params(("id" = Uuid, Path, description = "The organisation")), request_body = UpdateOrganisation,
    responses((status = 200, description = "The organisation as it is now", body = Success<Organisation>), Failures),
    security(("bearer" = []), ("api_key" = [])),
)]
async fn update_organisation(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    Json(body): Json<UpdateOrganisation>,
) -> Result<Success<Organisation>, ApiError> {
    let own = api.organization().await?;
    if let Some(name) = body.name.as_deref().filter(|_| own.0 == id) {
        let mut problems = Problems::default();
        problems.length("name", name, 1, 200);
        problems.none()?;
        organisations::rename(&api.store, own, name).await?;
    }
    found(&api, id).await
}

async fn found(api: &Api, id: Uuid) -> Result<Success<Organisation>, ApiError> {
    let own = api.organization().await?;
    let found = if own.0 == id { organisations::organisation(&api.store, own).await? } else { None };
    found.map(Success::new).ok_or_else(|| ApiError::not_found("there is no such organisation"))
}
