//! Menu systems that tell of their calls, and how each of them spells things.

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::body::{Problems, present, unreadable};
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::routes::Routes;
use crate::ids::Country;
use crate::ingest::Problem;
use crate::ingest::ivr::{Mapping, Read};
use crate::store::Deleted;
use crate::store::ivr::{self, IvrProvider, NewProvider, ProviderChange};

/// Longest name.
const NAME: usize = 63;
/// Most words for calls that are over, and the longest of them.
const STATUSES: usize = 50;
const STATUS: usize = 100;

/// Routes of providers.
pub fn router() -> Routes {
    Routes::new()
        .admin(routes!(list_ivr_providers, create_ivr_provider))
        .admin(routes!(ivr_provider, update_ivr_provider, delete_ivr_provider))
        .admin(routes!(rotate_ivr_secret))
        .admin(routes!(try_ivr_mapping))
}

/// A provider to add.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateIvrProvider {
    /// In the path of its webhook: small letters, digits and hyphens, at most 63 characters.
    #[schema(example = "front-office")]
    pub name: String,
    /// Our names to its: JSON pointers (`/data/call/id`), paths with dots (`data.call.id`) or names of form fields. Ours are
    /// `call_id`, which must be there, `call_sid`, `from_number`, `to_number`, `status`, `started_at`, `ended_at`,
    /// `duration`, `digits`, `recording_url` and `updated_at`.
    #[schema(value_type = Object)]
    pub mapping: Value,
    /// IANA name of the zone that its times are in where they do not say; `UTC` when absent.
    #[serde(default)]
    #[schema(example = "Asia/Kolkata")]
    pub time_zone: Option<String>,
    /// Its words for calls that are over, in whatever case, at most 50: what comes late does not move a call back from them. For
    /// providers whose messages tell no moment.
    #[serde(default)]
    #[schema(example = json!(["completed", "no-answer"]))]
    pub final_statuses: Vec<String>,
    /// Whose numbers those are that it sends without a plus, by the two letters of ISO 3166-1. Without it no lead is looked for
    /// by those.
    #[serde(default)]
    #[schema(example = "IN")]
    pub country_code: Option<String>,
    /// False: what it sends is refused.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub active: bool,
}

/// What to change. A member that is absent stays.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateIvrProvider {
    /// In the path of its webhook: another name is another path.
    #[schema(example = "front-office")]
    pub name: Option<String>,
    /// Our names to its, all of them.
    #[schema(value_type = Option<Object>)]
    pub mapping: Option<Value>,
    /// IANA name of the zone that its times are in where they do not say.
    #[schema(example = "Asia/Kolkata")]
    pub time_zone: Option<String>,
    /// Its words for calls that are over, all of them.
    #[schema(example = json!(["completed", "no-answer"]))]
    pub final_statuses: Option<Vec<String>>,
    /// Whose numbers those are that it sends without a plus, by the two letters of ISO 3166-1; null is nobody's.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, example = "IN")]
    pub country_code: Option<Option<String>>,
    /// False: what it sends is refused.
    pub active: Option<bool>,
}

/// A provider and its secret, which is shown this once.
#[derive(Serialize, ToSchema)]
pub struct IssuedIvrProvider {
    /// What it is to send as `X-Webhook-Secret`. It is not kept here: who loses it rotates it.
    #[schema(example = "kJ5n…")]
    pub secret: String,
    /// Where it is to post.
    #[schema(example = "/api/ivr/front-office/webhook")]
    pub webhook: String,
    /// What it is of.
    #[serde(flatten)]
    pub provider: IvrProvider,
}

/// A message to look at.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TryMapping {
    /// As the provider sends it; a form as an object of texts.
    #[schema(value_type = Object)]
    pub payload: Value,
    /// A mapping that is not the provider's yet; the provider's when absent.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub mapping: Option<Value>,
    /// The same of the zone.
    #[serde(default)]
    #[schema(example = "Asia/Kolkata")]
    pub time_zone: Option<String>,
}

/// What a message says.
#[derive(Serialize, ToSchema)]
pub struct TriedMapping {
    /// The provider's id of the call.
    #[schema(example = "7f3c2d")]
    pub call_id: String,
    /// The carrier's.
    pub call_sid: Option<String>,
    /// As sent.
    pub from_number: Option<String>,
    /// As sent.
    pub to_number: Option<String>,
    /// The provider's word.
    #[schema(example = "completed")]
    pub status: Option<String>,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// Seconds.
    pub duration: Option<i32>,
    /// Keys pressed, or entries chosen.
    #[schema(example = "2")]
    pub digits: Option<String>,
    /// Where a recording is.
    #[schema(example = "https://example.com/7f3c2d.wav")]
    pub recording_url: Option<String>,
    /// When what is told happened: of two messages the later one is the newer.
    pub occurred_at: Option<Timestamp>,
    /// Members that are there and cannot be read; they would be null.
    pub problems: Vec<Problem>,
}

/// Providers by name.
#[utoipa::path(
    get, path = "/api/ivr-providers", tag = "other systems", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<IvrProvider>), Failures),
)]
async fn list_ivr_providers(
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Listing<IvrProvider>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = ivr::providers(&caller.store, caller.organization, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Adds a provider. Its secret is in this answer and nowhere else.
#[utoipa::path(
    post, path = "/api/ivr-providers", tag = "other systems", request_body = CreateIvrProvider,
    responses(
        (status = 201, description = "The new provider and its secret", body = Success<IssuedIvrProvider>, headers(("Location" = String, description = "The provider"))),
        (status = 409, description = "`provider_exists`", body = Failure),
        Failures,
    ),
)]
async fn create_ivr_provider(
    caller: Caller,
    Json(body): Json<CreateIvrProvider>,
) -> Result<impl IntoResponse, ApiError> {
    let mut problems = Problems::default();
    check_name(&mut problems, Some(&body.name));
    let time_zone = problems.time_zone(body.time_zone.as_deref());
    check_mapping(&mut problems, Some(&body.mapping));
    check_statuses(&mut problems, &body.final_statuses);
    let country_code = country(&mut problems, body.country_code.as_deref());
    problems.none()?;
    let secret = Secret::random();
    let new = NewProvider {
        name: &body.name,
        secret_sha256: &secret_sha256(secret.0.expose_secret()),
        mapping: body.mapping,
        time_zone: time_zone.as_deref().unwrap_or("UTC"),
        final_statuses: &body.final_statuses,
        country_code: country_code.as_deref(),
        active: body.active,
    };
    let provider = ivr::create_provider(&caller.store, caller.organization, &new).await?;
    caller.does("ivr_provider.created", provider.id);
    let location = format!("/api/ivr-providers/{}", provider.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], issued(&secret, provider)))
}

/// A provider, without its secret.
#[utoipa::path(
    get, path = "/api/ivr-providers/{id}", tag = "other systems", params(("id" = Uuid, Path, description = "The provider")),
    responses((status = 200, description = "The provider as it is now", body = Success<IvrProvider>), Failures),
)]
async fn ivr_provider(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<IvrProvider>, ApiError> {
    let found = ivr::provider(&caller.store, caller.organization, id).await?;
    found.map(Success::new).ok_or_else(gone)
}

/// Changes what the body names, from the next message on. What was kept stays as it was read; but another `country_code` has the
/// numbers of all messages read anew, and calls tied to the leads that are found by them.
#[utoipa::path(
    patch, path = "/api/ivr-providers/{id}", tag = "other systems", params(("id" = Uuid, Path, description = "The provider")),
    request_body = UpdateIvrProvider,
    responses(
        (status = 200, description = "The provider as it is now", body = Success<IvrProvider>),
        (status = 409, description = "`provider_exists`", body = Failure),
        Failures,
    ),
)]
async fn update_ivr_provider(
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<UpdateIvrProvider>,
) -> Result<Success<IvrProvider>, ApiError> {
    let UpdateIvrProvider { name, mapping, time_zone, final_statuses, country_code, active } = body;
    let mut problems = Problems::default();
    check_name(&mut problems, name.as_deref());
    let time_zone = problems.time_zone(time_zone.as_deref());
    check_mapping(&mut problems, mapping.as_ref());
    check_statuses(&mut problems, final_statuses.as_deref().unwrap_or_default());
    let country_code = country_code.map(|code| country(&mut problems, code.as_deref()));
    problems.none()?;
    let change = ProviderChange { name, mapping, time_zone, final_statuses, country_code, active };
    let found = ivr::update_provider(&caller.store, caller.organization, id, &change).await?;
    let provider = found.ok_or_else(gone)?;
    caller.does("ivr_provider.changed", id);
    Ok(Success::new(provider))
}

/// Removes a provider that has told of no call. Another one is made inactive instead.
#[utoipa::path(
    delete, path = "/api/ivr-providers/{id}", tag = "other systems", params(("id" = Uuid, Path, description = "The provider")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "`in_use`: it has told of calls", body = Failure),
        Failures,
    ),
)]
async fn delete_ivr_provider(caller: Caller, Path(id): Path<Uuid>) -> Result<StatusCode, ApiError> {
    match ivr::delete_provider(&caller.store, caller.organization, id).await? {
        Deleted::Done => {
            caller.does("ivr_provider.deleted", id);
            Ok(StatusCode::NO_CONTENT)
        }
        Deleted::NotFound => Err(gone()),
        Deleted::InUse => {
            Err(ApiError::conflict("in_use", "this provider has told of calls; set active to false instead"))
        }
    }
}

/// Gives a provider another secret, which is in this answer and nowhere else. The one before is refused from now on.
#[utoipa::path(
    post, path = "/api/ivr-providers/{id}/rotate-secret", tag = "other systems",
    params(("id" = Uuid, Path, description = "The provider")),
    responses((status = 200, description = "The provider and its new secret", body = Success<IssuedIvrProvider>), Failures),
)]
async fn rotate_ivr_secret(
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<Success<IssuedIvrProvider>, ApiError> {
    let secret = Secret::random();
    let found =
        ivr::replace_secret(&caller.store, caller.organization, id, &secret_sha256(secret.0.expose_secret()))
            .await?;
    let provider = found.ok_or_else(gone)?;
    caller.does("ivr_provider.secret_rotated", id);
    Ok(issued(&secret, provider))
}

/// What a mapping makes of a message. Nothing is kept.
#[utoipa::path(
    post, path = "/api/ivr-providers/{id}/try", tag = "other systems", params(("id" = Uuid, Path, description = "The provider")),
    request_body = TryMapping,
    responses(
        (status = 200, description = "What the message says", body = Success<TriedMapping>),
        (status = 422, description = "`invalid_value`: a mapping that is none; `invalid_body`: a message without an id of the call; `details` say all that is wrong", body = Failure),
        Failures,
    ),
)]
async fn try_ivr_mapping(
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<TryMapping>,
) -> Result<Success<TriedMapping>, ApiError> {
    let provider = ivr::provider(&caller.store, caller.organization, id).await?.ok_or_else(gone)?;
    let TryMapping { payload, mapping, time_zone } = body;
    let mut problems = Problems::default();
    let time_zone = problems.time_zone(time_zone.as_deref()).unwrap_or(provider.time_zone);
    let mapping = check_mapping(&mut problems, Some(&mapping.unwrap_or(provider.mapping)));
    problems.none()?;
    let mapping = mapping.ok_or_else(ApiError::internal)?;
    let Read { told, problems } =
        mapping.read(payload, &zone_of(&time_zone), None).map_err(|wrong| unreadable(&wrong))?;
    Ok(Success::new(TriedMapping {
        call_id: told.provider_call_id,
        call_sid: told.call_sid.map(String::from),
        from_number: told.from_number,
        to_number: told.to_number,
        status: told.status,
        started_at: told.started_at,
        ended_at: told.ended_at,
        duration: told.duration_s,
        digits: told.digits,
        recording_url: told.recording_url,
        occurred_at: told.occurred_at,
        problems,
    }))
}

/// What a provider shows to be believed: 32 random bytes as text.
struct Secret(SecretString);

impl Secret {
    fn random() -> Self {
        Self(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()).into())
    }
}

/// What is kept of a secret.
pub(super) fn secret_sha256(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// A stored zone. One that is known no more is UTC.
pub(super) fn zone_of(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap_or(TimeZone::UTC)
}

/// A stored country. One that is known no more is none.
pub(super) fn country_of(provider: &IvrProvider) -> Option<Country> {
    Country::parse(provider.country_code.as_deref()?).ok()
}

const fn yes() -> bool {
    true
}

fn issued(secret: &Secret, provider: IvrProvider) -> Success<IssuedIvrProvider> {
    let webhook = format!("/api/ivr/{}/webhook", provider.name);
    Success::new(IssuedIvrProvider { secret: secret.0.expose_secret().to_owned(), webhook, provider })
}

fn check_name(problems: &mut Problems, name: Option<&str>) {
    let Some(name) = name else { return };
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = (1..=NAME).contains(&name.len())
        && name.bytes().all(|byte| is_letter(byte) || byte == b'-')
        && !name.starts_with('-');
    if !fits {
        problems
            .note("name", "must be 1 to 63 small letters, digits and hyphens, and not begin with a hyphen");
    }
}

fn check_mapping(problems: &mut Problems, mapping: Option<&Value>) -> Option<Mapping> {
    match Mapping::parse(mapping?) {
        Ok(mapping) => Some(mapping),
        Err(wrong) => {
            for problem in &wrong {
                problems.note(&problem.field, &problem.problem);
            }
            None
        }
    }
}

/// The country as it is spelled, in capitals.
fn country(problems: &mut Problems, code: Option<&str>) -> Option<String> {
    problems.take("country_code", Country::parse(code?)).map(|country| country.to_string())
}

fn check_statuses(problems: &mut Problems, statuses: &[String]) {
    problems.count("final_statuses", statuses.len(), STATUSES);
    let fits = |status: &String| {
        (1..=STATUS).contains(&status.chars().count()) && status.trim() == status && !status.contains('\0')
    };
    if !statuses.iter().all(fits) {
        let problem =
            format!("must be words of 1 to {STATUS} characters, with no spaces before or behind and no NUL");
        problems.note("final_statuses", &problem);
    }
}

fn gone() -> ApiError {
    ApiError::not_found("there is no such provider")
}
