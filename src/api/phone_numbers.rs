//! The organisation's own numbers, and who answers them.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::auth::Caller;
use crate::api::body::{Problems, present};
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::inbound::look_up_again;
use crate::api::routes::Routes;
use crate::store::phone_numbers::{self, NewPhoneNumber, NumberDeleted, PhoneNumberPatch, PhoneNumberRecord};

const LABEL: usize = 200;

/// Routes of our numbers.
pub fn router() -> Routes {
    Routes::new()
        .read(routes!(list_phone_numbers))
        .admin(routes!(create_phone_number))
        .read(routes!(phone_number))
        .admin(routes!(update_phone_number, delete_phone_number))
}

/// A number to claim. At the carrier, calls to it go to `/api/phone-number/{id}/incoming`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePhoneNumber {
    /// With `+` and country code; does not change.
    #[schema(example = "+14155550199")]
    pub number: String,
    /// For people.
    #[serde(default)]
    #[schema(example = "Front desk")]
    pub label: String,
    /// The agent that answers it.
    pub agent_id: Uuid,
    /// When the team answers it; never when absent.
    #[serde(default)]
    pub schedule_id: Option<Uuid>,
    /// Who answers it by the schedule, and when the agent cannot.
    #[serde(default)]
    pub team_id: Option<Uuid>,
}

/// What to change. A member that is absent stays; `null` empties it where it may be empty.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"label": "Front desk", "schedule_id": null}))]
pub struct UpdatePhoneNumber {
    /// For people.
    pub label: Option<String>,
    /// The agent that answers it.
    pub agent_id: Option<Uuid>,
    /// When the team answers it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Uuid>)]
    pub schedule_id: Option<Option<Uuid>>,
    /// Who answers it by the schedule, and when the agent cannot.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Uuid>)]
    pub team_id: Option<Option<Uuid>>,
}

/// Phone numbers, in their order.
#[utoipa::path(
    get, path = "/api/phone-numbers", tag = "phone numbers", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<PhoneNumberRecord>), Failures),
)]
async fn list_phone_numbers(
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Listing<PhoneNumberRecord>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = phone_numbers::list(&caller.store, caller.organization, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Claims a phone number for the organisation: calls to it are answered for nobody else.
///
/// One that is taken is refused in the same words whoever has it.
#[utoipa::path(
    post, path = "/api/phone-numbers", tag = "phone numbers", request_body = CreatePhoneNumber,
    responses(
        (status = 201, description = "The new phone number", body = Success<PhoneNumberRecord>, headers(("Location" = String, description = "The phone number"))),
        (status = 409, description = "`number_taken`: by this organisation or another", body = Failure),
        Failures,
    ),
)]
async fn create_phone_number(
    caller: Caller,
    Json(body): Json<CreatePhoneNumber>,
) -> Result<impl IntoResponse, ApiError> {
    let new = body.checked()?;
    let record = phone_numbers::add(&caller.store, caller.organization, &new).await?;
    let location = format!("/api/phone-numbers/{}", record.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Success::new(record)))
}

/// A phone number.
#[utoipa::path(
    get, path = "/api/phone-numbers/{id}", tag = "phone numbers", params(("id" = Uuid, Path, description = "The phone number")),
    responses((status = 200, description = "The phone number as it is now", body = Success<PhoneNumberRecord>), Failures),
)]
async fn phone_number(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<PhoneNumberRecord>, ApiError> {
    found(phone_numbers::phone_number(&caller.store, caller.organization, id).await?)
}

/// Changes what the body names. The next call goes by it.
#[utoipa::path(
    patch, path = "/api/phone-numbers/{id}", tag = "phone numbers", params(("id" = Uuid, Path, description = "The phone number")),
    request_body = UpdatePhoneNumber,
    responses((status = 200, description = "The phone number as it is now", body = Success<PhoneNumberRecord>), Failures),
)]
async fn update_phone_number(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<UpdatePhoneNumber>,
) -> Result<Success<PhoneNumberRecord>, ApiError> {
    let UpdatePhoneNumber { label, agent_id, schedule_id, team_id } = body;
    let mut problems = Problems::default();
    problems.length("label", label.as_deref().unwrap_or_default(), 0, LABEL);
    problems.none()?;
    let patch = PhoneNumberPatch { label, agent: agent_id, schedule: schedule_id, team: team_id };
    let record = phone_numbers::update(&caller.store, caller.organization, id, &patch).await?;
    caller.keep().await?;
    look_up_again(&api, |line| line.route.own.id.0 == id).await;
    found(record)
}

/// Removes a phone number; calls that came on it stay.
#[utoipa::path(
    delete, path = "/api/phone-numbers/{id}", tag = "phone numbers", params(("id" = Uuid, Path, description = "The phone number")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "`in_use`: calls are to show it", body = Failure),
        Failures,
    ),
)]
async fn delete_phone_number(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, ApiError> {
    match phone_numbers::delete(&caller.store, caller.organization, id).await? {
        NumberDeleted::Done => {
            caller.keep().await?;
            look_up_again(&api, |line| line.route.own.id.0 == id).await;
            Ok(StatusCode::NO_CONTENT)
        }
        NumberDeleted::NotFound => Err(gone()),
        NumberDeleted::IsCalling => Err(ApiError::conflict(
            "in_use",
            "calls that wait or go on, or a campaign that is active or paused, are to show this number; \
             give them another one, cancel the calls or complete the campaign first",
        )),
    }
}

fn found(record: Option<PhoneNumberRecord>) -> Result<Success<PhoneNumberRecord>, ApiError> {
    record.map(Success::new).ok_or_else(gone)
}

fn gone() -> ApiError {
    ApiError::not_found("there is no such phone number")
}

impl CreatePhoneNumber {
    fn checked(self) -> Result<NewPhoneNumber, ApiError> {
        let Self { number, label, agent_id: agent, schedule_id: schedule, team_id: team } = self;
        let mut problems = Problems::default();
        problems.length("label", &label, 0, LABEL);
        let Some(number) = problems.number("number", &number) else { return Err(problems.into_error()) };
        problems.none()?;
        Ok(NewPhoneNumber { number, label, agent, schedule, team })
    }
}
