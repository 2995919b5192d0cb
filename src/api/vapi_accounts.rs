//! What VAPI shows to be believed, for each organisation.

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::error::{ApiError, Failures};
use crate::api::extract::{Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::routes::Routes;
use crate::store::vapi_accounts::{self, VapiAccount};

/// Where VAPI is to post.
const WEBHOOK: &str = "/api/vapi/webhook";

/// Routes of accounts.
pub fn router() -> Routes {
    Routes::new().admin(routes!(list_vapi_accounts, create_vapi_account)).admin(routes!(delete_vapi_account))
}

/// An account and its secret, which is shown this once.
#[derive(Serialize, ToSchema)]
pub struct IssuedVapiAccount {
    /// What VAPI is to send as `X-Vapi-Secret` or `Authorization: Bearer`. It is not kept here.
    #[schema(example = "kJ5n…")]
    pub secret: String,
    /// Where it is to post.
    #[schema(example = "/api/vapi/webhook")]
    pub webhook: &'static str,
    /// What it is of.
    #[serde(flatten)]
    pub account: VapiAccount,
}

/// Accounts, newest first, without their secrets.
#[utoipa::path(
    get, path = "/api/vapi-accounts", tag = "other systems", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<VapiAccount>), Failures),
)]
async fn list_vapi_accounts(
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Listing<VapiAccount>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = vapi_accounts::list(&caller.store, caller.organization, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Adds an account: what VAPI sends with its secret is of this organisation's calls. The secret is in this answer and
/// nowhere else. To rotate it, make another account, give its secret to VAPI and delete the one before; both hold meanwhile.
#[utoipa::path(
    post, path = "/api/vapi-accounts", tag = "other systems",
    responses(
        (status = 201, description = "The new account and its secret", body = Success<IssuedVapiAccount>, headers(("Location" = String, description = "The accounts"))),
        Failures,
    ),
)]
async fn create_vapi_account(caller: Caller) -> Result<impl IntoResponse, ApiError> {
    let secret = SecretString::from(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let sha256 = secret_sha256(secret.expose_secret());
    let account = vapi_accounts::create(&caller.store, caller.organization, &sha256).await?;
    caller.does("vapi_account.created", account.id);
    let location = format!("/api/vapi-accounts/{}", account.id);
    let issued = IssuedVapiAccount { secret: secret.expose_secret().to_owned(), webhook: WEBHOOK, account };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Success::new(issued)))
}

/// Removes an account: what comes with its secret is refused from now on. What was reported stays.
#[utoipa::path(
    delete, path = "/api/vapi-accounts/{id}", tag = "other systems", params(("id" = Uuid, Path, description = "The account")),
    responses((status = 204, description = "It is gone"), Failures),
)]
async fn delete_vapi_account(caller: Caller, Path(id): Path<Uuid>) -> Result<StatusCode, ApiError> {
    if !vapi_accounts::delete(&caller.store, caller.organization, id).await? {
        return Err(ApiError::not_found("there is no such account"));
    }
    caller.does("vapi_account.deleted", id);
    Ok(StatusCode::NO_CONTENT)
}

/// What is kept of a secret.
pub(super) fn secret_sha256(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}
