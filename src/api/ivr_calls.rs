//! Calls that menu systems tell of.

use axum::Form;
use axum::extract::{DefaultBodyLimit, FromRequest as _, Request, State};
use axum::http::{HeaderMap, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use subtle::ConstantTimeEq as _;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::UtoipaMethodRouterExt as _;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::auth::{self, Caller};
use crate::api::body::{json_of, unreadable};
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::ivr_providers::{country_of, secret_sha256, zone_of};
use crate::api::routes::Routes;
use crate::ingest::Problem;
use crate::ingest::ivr::{self as ingest, Mapping, Read, mapping};
use crate::store::ivr::messages::KeepError;
use crate::store::ivr::{self, IvrCall, IvrFilter, Sender};

/// Largest message. A call with a long menu has a few thousand bytes.
const MOST_BYTES: usize = 256 * 1024;
const SECRET: &str = "x-webhook-secret";

/// Routes of these calls.
pub fn router() -> Routes {
    Routes::new()
        .signed(routes!(ivr_webhook).layer(DefaultBodyLimit::max(MOST_BYTES)))
        .read(routes!(list_ivr_calls))
        .read(routes!(ivr_call))
}

/// What came of a message.
#[derive(Serialize, ToSchema)]
pub struct TakenIvrCall {
    /// The call; null: it was erased, and nothing is kept of it.
    pub id: Option<Uuid>,
    /// It is the newest message of its call; else its record says of this one what the newer ones do not say.
    pub is_newest: bool,
    /// Members that are there and cannot be read; they are null.
    pub problems: Vec<Problem>,
}

/// Which calls are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct IvrQuery {
    /// Told of by this provider.
    provider_id: Option<Uuid>,
    /// With this lead.
    lead_id: Option<i64>,
    /// By the carrier's id.
    call_sid: Option<String>,
    /// The provider's word.
    #[param(example = "completed")]
    status: Option<String>,
    /// Caller or called number, as the provider sends it.
    number: Option<String>,
    /// Told of then or later.
    #[param(value_type = Option<String>, format = DateTime, example = "2024-01-01T00:00:00Z")]
    from: Option<Timestamp>,
    /// Told of before.
    #[param(value_type = Option<String>, format = DateTime, example = "2024-02-01T00:00:00Z")]
    to: Option<Timestamp>,
}

/// A provider tells of a call, as JSON or as a form. All messages are kept. The same call again is the same record: each of
/// its members is what the newest message says that says anything of it, in whatever order they come. The newer message is the
/// one that tells of the end, or else of the later moment; a status that is final does not change into one that is not.
#[utoipa::path(
    post, path = "/api/ivr/{provider}/webhook", tag = "other systems",
    params(("provider" = String, Path, description = "The provider's name", example = "front-office")),
    request_body(
        content = Object, description = "As the provider sends it, JSON or `application/x-www-form-urlencoded`, up to 256 KiB",
        example = json!({"data": {"call": {"id": "7f3c2d"}, "caller": "+14155550123", "digits": "2"}, "sent_at": "2026-03-02T09:00:00Z"}),
    ),
    responses(
        (status = 200, description = "It is on record", body = Success<TakenIvrCall>),
        (status = 401, description = "`invalid_secret`", body = Failure),
        (status = 403, description = "`provider_inactive`", body = Failure),
        (status = 409, description = "`too_many_messages`: there are a thousand of this call; the mapping's `call_id` names more than one call", body = Failure),
        (status = 422, description = "`invalid_body`: there is no id of the call; `details` say all that is wrong", body = Failure),
        Failures,
    ),
    security(("ivr" = [])),
)]
async fn ivr_webhook(
    State(api): State<Api>,
    Path(name): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Result<Success<TakenIvrCall>, ApiError> {
    let received_at = api.clock.now();
    let sender = sender(&api, &name, &headers).await?;
    let payload = payload(request).await?;
    let provider = &sender.provider;
    let mapping = Mapping::parse(&provider.mapping).map_err(|_| {
        tracing::error!(provider = %provider.id, "the mapping of an IVR provider cannot be read");
        ApiError::internal()
    })?;
    let read = mapping.read(payload, &zone_of(&provider.time_zone), country_of(provider));
    let Read { told, problems } = read.map_err(|problems| {
        api.metrics.reported("ivr", "unreadable");
        unreadable(&problems)
    })?;
    let kept = match ingest::take(&api.store, &sender, &told, received_at).await {
        Ok(kept) => kept,
        Err(KeepError::TooMany) => {
            api.metrics.reported("ivr", "unreadable");
            return Err(too_many_messages());
        }
        Err(KeepError::Database(error)) => return Err(error.into()),
    };
    api.metrics.reported("ivr", if kept.is_newest { "written" } else { "known" });
    Ok(Success::new(TakenIvrCall { id: kept.id, is_newest: kept.is_newest, problems }))
}

fn too_many_messages() -> ApiError {
    ApiError::conflict(
        "too_many_messages",
        "there are 1000 messages of this call already: the mapping's call_id names more than one call; have it name what is \
         different in each",
    )
}

/// Whoever shows the secret of a provider of this name. That there is such a name is told to nobody else.
async fn sender(api: &Api, name: &str, headers: &HeaderMap) -> Result<Sender, ApiError> {
    let shown = auth::shown_secret(headers, SECRET).map(secret_sha256);
    let sender = match shown {
        Some(sha256) => {
            let found = ivr::sender(&api.store, name, &sha256).await?;
            found.filter(|sender| bool::from(sender.secret_sha256.ct_eq(&sha256)))
        }
        None => None,
    };
    let Some(sender) = sender else {
        api.metrics.reported("ivr", "refused");
        return Err(ApiError::wrong_secret(
            "send the secret of this provider as X-Webhook-Secret; both are in the answer that made it",
        ));
    };
    if sender.provider.active {
        return Ok(sender);
    }
    api.metrics.reported("ivr", "refused");
    Err(ApiError::forbidden("provider_inactive", "this provider is not active; set active to true first"))
}

async fn payload(request: Request) -> Result<Value, ApiError> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_form = content_type.is_some_and(|text| {
        text.trim_start().to_ascii_lowercase().starts_with("application/x-www-form-urlencoded")
    });
    if is_form {
        let Form(parameters) = Form::<Vec<(String, String)>>::from_request(request, &()).await?;
        return Ok(mapping::form(parameters));
    }
    json_of(request).await
}

/// Calls that providers have told of, those told of last first.
#[utoipa::path(
    get, path = "/api/ivr-calls", tag = "other systems", params(IvrQuery, PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<IvrCall>), Failures),
)]
async fn list_ivr_calls(
    caller: Caller,
    Query(query): Query<IvrQuery>,
    Query(page): Query<PageQuery>,
) -> Result<Listing<IvrCall>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let IvrQuery { provider_id, lead_id, call_sid, status, number, from, to } = query;
    let filter = IvrFilter { provider_id, lead_id, call_sid, status, number, from, to };
    let (data, total) = ivr::calls(&caller.store, caller.organization, &filter, limit, offset).await?;
    for row in &data {
        caller.does_in_call("ivr_call.read", row.id, row.call_sid.as_deref());
    }
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// A call as a provider has told of it.
#[utoipa::path(
    get, path = "/api/ivr-calls/{id}", tag = "other systems", params(("id" = Uuid, Path, description = "The call")),
    responses((status = 200, description = "The call as it is now", body = Success<IvrCall>), Failures),
)]
async fn ivr_call(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<IvrCall>, ApiError> {
    let found = ivr::call(&caller.store, caller.organization, id).await?;
    let row = found.ok_or_else(|| ApiError::not_found("there is no such call"))?;
    caller.does_in_call("ivr_call.read", row.id, row.call_sid.as_deref());
    Ok(Success::new(row))
}
