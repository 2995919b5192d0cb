//! What campaigns and calls are for.

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::body::{NAME, NOTES, Problems};
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::routes::Routes;
use crate::store::Deleted;
use crate::store::projects::{self, Project};

/// Routes of projects.
pub fn router() -> Routes {
    Routes::new()
        .read(routes!(list_projects))
        .operate(routes!(create_project))
        .read(routes!(project))
        .operate(routes!(update_project, delete_project))
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
    #[schema(example = "Policies that run out this quarter.")]
    pub description: String,
}

/// What to change. A member that is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateProject {
    /// Name; no two projects share one.
    #[schema(example = "Renewals")]
    pub name: Option<String>,
    /// Free text.
    #[schema(example = "Policies that run out next quarter.")]
    pub description: Option<String>,
}

/// Projects by name.
#[utoipa::path(
    get, path = "/api/projects", tag = "campaigns", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<Project>), Failures),
)]
async fn list_projects(caller: Caller, Query(page): Query<PageQuery>) -> Result<Listing<Project>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = projects::list(&caller.store, caller.organization, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Adds a project.
#[utoipa::path(
    post, path = "/api/projects", tag = "campaigns", request_body = CreateProject,
    responses(
        (status = 201, description = "The new project", body = Success<Project>, headers(("Location" = String, description = "The project"))),
        (status = 409, description = "`project_exists`", body = Failure),
        Failures,
    ),
)]
async fn create_project(
    caller: Caller,
    Json(body): Json<CreateProject>,
) -> Result<impl IntoResponse, ApiError> {
    let (name, description) = (body.name.trim(), &*body.description);
    check(Some(name), Some(description))?;
    let project = projects::create(&caller.store, caller.organization, name, description).await?;
    let location = format!("/api/projects/{}", project.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Success::new(project)))
}

/// A project.
#[utoipa::path(
    get, path = "/api/projects/{id}", tag = "campaigns", params(("id" = Uuid, Path, description = "The project")),
    responses((status = 200, description = "The project as it is now", body = Success<Project>), Failures),
)]
async fn project(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<Project>, ApiError> {
    found(projects::project(&caller.store, caller.organization, id).await?)
}

/// Changes what the body names.
#[utoipa::path(
    patch, path = "/api/projects/{id}", tag = "campaigns", params(("id" = Uuid, Path, description = "The project")),
    request_body = UpdateProject,
    responses(
        (status = 200, description = "The project as it is now", body = Success<Project>),
        (status = 409, description = "`project_exists`", body = Failure),
        Failures,
    ),
)]
async fn update_project(
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<UpdateProject>,
) -> Result<Success<Project>, ApiError> {
    let (name, description) = (body.name.as_deref().map(str::trim), body.description.as_deref());
    check(name, description)?;
    found(projects::update(&caller.store, caller.organization, id, name, description).await?)
}

/// Removes a project that no campaign is of; calls that were made for it stay.
#[utoipa::path(
    delete, path = "/api/projects/{id}", tag = "campaigns", params(("id" = Uuid, Path, description = "The project")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "`in_use`: a campaign is of it", body = Failure),
        Failures,
    ),
)]
async fn delete_project(caller: Caller, Path(id): Path<Uuid>) -> Result<StatusCode, ApiError> {
    match projects::delete(&caller.store, caller.organization, id).await? {
        Deleted::Done => Ok(StatusCode::NO_CONTENT),
        Deleted::NotFound => Err(gone()),
        Deleted::InUse => Err(ApiError::conflict(
            "in_use",
            "campaigns are of this project; give them another one, or delete them, first",
        )),
    }
}

fn found(record: Option<Project>) -> Result<Success<Project>, ApiError> {
    record.map(Success::new).ok_or_else(gone)
}

fn gone() -> ApiError {
    ApiError::not_found("there is no such project")
}

fn check(name: Option<&str>, description: Option<&str>) -> Result<(), ApiError> {
    let mut problems = Problems::default();
    if let Some(name) = name {
        problems.length("name", name, 1, NAME);
    }
    problems.length("description", description.unwrap_or_default(), 0, NOTES);
    problems.none()
}
