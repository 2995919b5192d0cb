//! What campaigns and calls are for.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Api;
use crate::api::body::{NAME, NOTES, Problems};
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Query, Success};
use crate::store::projects::{self, Project};

/// Routes of projects.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_projects, create_project))
}

/// A project to add.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateProject {
    /// Name; no two projects share one.
    #[schema(example = "Renewals")]
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
}

/// Projects by name.
#[utoipa::path(
    get, path = "/api/projects", tag = "campaigns", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<Project>), Failures),
    security(("bearer" = []), ("api_key" = [])),
)]
async fn list_projects(
    State(api): State<Api>,
    Query(page): Query<PageQuery>,
) -> Result<Listing<Project>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = projects::list(&api.store, api.organization().await?, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Adds a project.
#[utoipa::path(
    post, path = "/api/projects", tag = "campaigns", request_body = CreateProject,
    responses(
        (status = 201, description = "The new project", body = Success<Project>),
        (status = 409, description = "`project_exists`", body = Failure),
        Failures,
    ),
    security(("bearer" = []), ("api_key" = [])),
)]
async fn create_project(
    State(api): State<Api>,
    Json(body): Json<CreateProject>,
) -> Result<impl IntoResponse, ApiError> {
    let mut problems = Problems::default();
    problems.length("name", body.name.trim(), 1, NAME);
    problems.length("description", &body.description, 0, NOTES);
    problems.none()?;
    let organization = api.organization().await?;
    let project = projects::create(&api.store, organization, body.name.trim(), &body.description).await?;
    Ok((StatusCode::CREATED, Success::new(project)))
}
