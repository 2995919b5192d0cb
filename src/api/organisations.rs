//! Tenants.
//!
//! A key shows its own. The administrator's shows all of them, adds and removes them; other records it shows of the one that
//! `X-Organization` names, or of the default one.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::auth::Caller;
use crate::api::body::{NAME, Problems};
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::routes::Routes;
use crate::store::organisations::{self, Organisation};
use crate::store::{Deleted, Store};

/// Longest slug, in characters.
const SLUG: usize = 63;

/// Routes of organisations.
pub fn router() -> Routes {
    Routes::new()
        .read(routes!(list_organisations))
        .administrator(routes!(create_organisation))
        .read(routes!(organisation))
        .admin(routes!(update_organisation))
        .administrator(routes!(delete_organisation))
}

/// An organisation to add.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateOrganisation {
    /// Short name, 1 to 63 of a to z, 0 to 9 and -, beginning with a letter or digit; no two share one, and it does not
    /// change.
    #[schema(example = "kanzlei-weber")]
    pub slug: String,
    /// For people.
    #[schema(example = "Kanzlei Weber")]
    pub name: String,
}

/// What to change. A member that is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateOrganisation {
    /// For people.
    #[schema(example = "Kanzlei Weber")]
    pub name: Option<String>,
}

/// Organisations, by name.
#[utoipa::path(
    get, path = "/api/organisations", tag = "organisations", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<Organisation>), Failures),
)]
async fn list_organisations(
    State(api): State<Api>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Listing<Organisation>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = organisations::list(seen_by(&caller, &api), limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Adds an organisation, which has nothing yet.
#[utoipa::path(
    post, path = "/api/organisations", tag = "organisations", request_body = CreateOrganisation,
    responses(
        (status = 201, description = "The new organisation", body = Success<Organisation>, headers(("Location" = String, description = "The organisation"))),
        (status = 409, description = "`organisation_exists`", body = Failure),
        Failures,
    ),
)]
async fn create_organisation(
    State(api): State<Api>,
    Json(body): Json<CreateOrganisation>,
) -> Result<impl IntoResponse, ApiError> {
    let CreateOrganisation { slug, name } = body;
    let mut problems = Problems::default();
    if !is_slug(&slug) {
        problems.note("slug", "must have 1 to 63 of a to z, 0 to 9 and -, and begin with a letter or digit");
    }
    problems.length("name", &name, 1, NAME);
    problems.none()?;
    let record = organisations::create(&api.store, &slug, &name).await?;
    let location = format!("/api/organisations/{}", record.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Success::new(record)))
}

/// An organisation.
#[utoipa::path(
    get, path = "/api/organisations/{id}", tag = "organisations",
    params(("id" = Uuid, Path, description = "The organisation")),
    responses((status = 200, description = "The organisation as it is now", body = Success<Organisation>), Failures),
)]
async fn organisation(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<Success<Organisation>, ApiError> {
    found(organisations::organisation(seen_by(&caller, &api), id).await?)
}

/// Gives an organisation another name.
#[utoipa::path(
    patch, path = "/api/organisations/{id}", tag = "organisations",
    params(("id" = Uuid, Path, description = "The organisation")), request_body = UpdateOrganisation,
    responses((status = 200, description = "The organisation as it is now", body = Success<Organisation>), Failures),
)]
async fn update_organisation(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<UpdateOrganisation>,
) -> Result<Success<Organisation>, ApiError> {
    let mut problems = Problems::default();
    if let Some(name) = &body.name {
        problems.length("name", name, 1, NAME);
    }
    problems.none()?;
    found(organisations::update(seen_by(&caller, &api), id, body.name.as_deref()).await?)
}

/// Removes an organisation that has nothing and is not the default.
#[utoipa::path(
    delete, path = "/api/organisations/{id}", tag = "organisations",
    params(("id" = Uuid, Path, description = "The organisation")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "`default_organisation`, or `in_use`: agents, numbers, people or calls belong to it", body = Failure),
        Failures,
    ),
)]
async fn delete_organisation(State(api): State<Api>, Path(id): Path<Uuid>) -> Result<StatusCode, ApiError> {
    if api.default_organization().await?.0 == id {
        let message =
            "this is the default organisation, which everything belongs to that names no other; it stays";
        return Err(ApiError::conflict("default_organisation", message));
    }
    match organisations::delete(&api.store, id).await? {
        Deleted::Done => Ok(StatusCode::NO_CONTENT),
        Deleted::NotFound => Err(gone()),
        Deleted::InUse => Err(ApiError::conflict(
            "in_use",
            "agents, numbers, people or calls belong to this organisation; remove them first, or keep it",
        )),
    }
}

/// A tenant sees itself, the administrator all of them.
fn seen_by<'a>(caller: &'a Caller, api: &'a Api) -> &'a Store {
    if caller.is_administrator() { &api.store } else { &caller.store }
}

fn found(record: Option<Organisation>) -> Result<Success<Organisation>, ApiError> {
    record.map(Success::new).ok_or_else(gone)
}

fn gone() -> ApiError {
    ApiError::not_found("there is no such organisation")
}

/// As the constraint `organisations_slug_form` has it.
fn is_slug(text: &str) -> bool {
    let in_it = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=SLUG).contains(&text.len()) && text.bytes().all(in_it) && !text.starts_with('-')
}
