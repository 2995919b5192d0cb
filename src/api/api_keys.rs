//! Keys: who may ask, what they may, and for how long.

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::body::{NAME, Problems, present};
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::routes::Routes;
use crate::keys::{KeySecret, Scope};
use crate::store::api_keys::{self, ApiKey, Changed, KeyPatch, NewKey};

/// Requests a minute of a key that names no other limit.
pub const REQUESTS_PER_MINUTE: i32 = 600;
/// Most requests a minute.
const MOST_REQUESTS: i32 = 60_000;
/// Longest that two secrets of a key are taken side by side, in seconds: a week.
const LONGEST_GRACE_S: i32 = 7 * 24 * 3600;

/// Routes of keys.
pub fn router() -> Routes {
    Routes::new()
        .admin(routes!(list_api_keys, create_api_key))
        .admin(routes!(api_key, update_api_key, revoke_api_key))
        .admin(routes!(rotate_api_key))
}

/// A key to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApiKey {
    /// Who or what will have it, for people.
    #[schema(example = "crm import")]
    pub name: String,
    /// What it may do. `admin` is everything, and each of them includes `read`.
    pub scopes: Vec<Scope>,
    /// Most requests a minute to one server, 1 to 60000.
    #[serde(default = "requests_per_minute")]
    #[schema(default = 600)]
    pub requests_per_minute: i32,
    /// When it is taken no more; never when absent.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

/// What to change. A member that is absent stays; `null` empties it where it may be empty.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateApiKey {
    /// Who or what has it, for people.
    #[schema(example = "crm import")]
    pub name: Option<String>,
    /// What it may do.
    pub scopes: Option<Vec<Scope>>,
    /// Most requests a minute to one server, 1 to 60000.
    #[schema(example = 600)]
    pub requests_per_minute: Option<i32>,
    /// When it is taken no more.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Option<Timestamp>>,
}

/// How to give a key another secret.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RotateApiKey {
    /// Seconds for which the secret that it has now is taken as well, 0 to 604800.
    #[schema(example = 86_400)]
    pub grace_s: i32,
}

/// A key and its secret, which is shown this once.
#[derive(Serialize, ToSchema)]
pub struct IssuedApiKey {
    /// What is to be sent as `Authorization: Bearer …` or `X-Api-Key`. It is not kept here: who loses it rotates the key.
    #[schema(example = "vb_4fz1k0q8w2ma_kJ5n…")]
    pub key: String,
    /// What it is of.
    #[serde(flatten)]
    pub record: ApiKey,
}

/// Keys, newest first, those that were revoked as well.
#[utoipa::path(
    get, path = "/api/api-keys", tag = "api keys", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<ApiKey>), Failures),
)]
async fn list_api_keys(caller: Caller, Query(page): Query<PageQuery>) -> Result<Listing<ApiKey>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = api_keys::list(&caller.store, caller.organization, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Makes a key. Its secret is in this answer and nowhere else.
#[utoipa::path(
    post, path = "/api/api-keys", tag = "api keys", request_body = CreateApiKey,
    responses(
        (status = 201, description = "The new key and its secret", body = Success<IssuedApiKey>, headers(("Location" = String, description = "The key"))),
        Failures,
    ),
)]
async fn create_api_key(
    caller: Caller,
    Json(body): Json<CreateApiKey>,
) -> Result<impl IntoResponse, ApiError> {
    let CreateApiKey { name, scopes, requests_per_minute, expires_at } = body;
    let mut problems = Problems::default();
    check(&mut problems, Some(&name), Some(&scopes), Some(requests_per_minute));
    if expires_at.is_some_and(|at| at <= Timestamp::now()) {
        problems.note("expires_at", "must be in the future");
    }
    problems.none()?;
    let created_by = caller.name().to_owned();
    let new = NewKey { name, scopes, requests_per_minute, expires_at, created_by };
    let secret = KeySecret::generate();
    let record = api_keys::create(&caller.store, caller.organization, &new, &secret.print()).await?;
    caller.does("api_key.created", record.id);
    let location = format!("/api/api-keys/{}", record.id);
    let issued = IssuedApiKey { key: secret.expose().to_owned(), record };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Success::new(issued)))
}

/// A key, without its secret.
#[utoipa::path(
    get, path = "/api/api-keys/{id}", tag = "api keys", params(("id" = Uuid, Path, description = "The key")),
    responses((status = 200, description = "The key as it is now", body = Success<ApiKey>), Failures),
)]
async fn api_key(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<ApiKey>, ApiError> {
    let found = api_keys::key(&caller.store, caller.organization, id).await?;
    found.map(Success::new).ok_or_else(gone)
}

/// Changes what the body names, from the next request on.
#[utoipa::path(
    patch, path = "/api/api-keys/{id}", tag = "api keys", params(("id" = Uuid, Path, description = "The key")),
    request_body = UpdateApiKey,
    responses(
        (status = 200, description = "The key as it is now", body = Success<ApiKey>),
        (status = 409, description = "`key_revoked`", body = Failure),
        Failures,
    ),
)]
async fn update_api_key(
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<UpdateApiKey>,
) -> Result<Success<ApiKey>, ApiError> {
    let UpdateApiKey { name, scopes, requests_per_minute, expires_at } = body;
    let mut problems = Problems::default();
    check(&mut problems, name.as_deref(), scopes.as_deref(), requests_per_minute);
    problems.none()?;
    let patch = KeyPatch { name, scopes, requests_per_minute, expires_at };
    let key = done(api_keys::update(&caller.store, caller.organization, id, &patch).await?)?;
    caller.does("api_key.changed", id);
    Ok(Success::new(key))
}

/// Revokes a key, from the next request on and for good. Twice is as good as once.
#[utoipa::path(
    delete, path = "/api/api-keys/{id}", tag = "api keys", params(("id" = Uuid, Path, description = "The key")),
    responses((status = 200, description = "The key, revoked", body = Success<ApiKey>), Failures),
)]
async fn revoke_api_key(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<ApiKey>, ApiError> {
    let key = api_keys::revoke(&caller.store, caller.organization, id).await?.ok_or_else(gone)?;
    caller.does("api_key.revoked", id);
    Ok(Success::new(key))
}

/// Gives a key another secret, which is in this answer and nowhere else.
#[utoipa::path(
    post, path = "/api/api-keys/{id}/rotate", tag = "api keys", params(("id" = Uuid, Path, description = "The key")),
    request_body = RotateApiKey,
    responses(
        (status = 200, description = "The key and its new secret", body = Success<IssuedApiKey>),
        (status = 409, description = "`key_revoked`", body = Failure),
        Failures,
    ),
)]
async fn rotate_api_key(
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(RotateApiKey { grace_s }): Json<RotateApiKey>,
) -> Result<Success<IssuedApiKey>, ApiError> {
    let mut problems = Problems::default();
    problems.range("grace_s", grace_s, 0, LONGEST_GRACE_S);
    problems.none()?;
    let secret = KeySecret::generate();
    let grace = SignedDuration::from_secs(grace_s.into());
    let rotated = api_keys::rotate(&caller.store, caller.organization, id, &secret.print(), grace).await?;
    let record = done(rotated)?;
    caller.does("api_key.rotated", id);
    Ok(Success::new(IssuedApiKey { key: secret.expose().to_owned(), record }))
}

const fn requests_per_minute() -> i32 {
    REQUESTS_PER_MINUTE
}

fn check(
    problems: &mut Problems,
    name: Option<&str>,
    scopes: Option<&[Scope]>,
    requests_per_minute: Option<i32>,
) {
    if let Some(name) = name {
        problems.length("name", name, 1, NAME);
    }
    if scopes.is_some_and(<[Scope]>::is_empty) {
        problems.note("scopes", "must have at least one of read, review, operate, admin");
    }
    if let Some(requests) = requests_per_minute {
        problems.range("requests_per_minute", requests, 1, MOST_REQUESTS);
    }
}

fn done(changed: Changed) -> Result<ApiKey, ApiError> {
    match changed {
        Changed::Done(key) => Ok(*key),
        Changed::NotFound => Err(gone()),
        Changed::Revoked => {
            Err(ApiError::conflict("key_revoked", "this key was revoked, and stays so; make another one"))
        }
    }
}

fn gone() -> ApiError {
    ApiError::not_found("there is no such key")
}
