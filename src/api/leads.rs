//! People we talk to.

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::auth::Caller;
use crate::api::body::{NAME, NOTES, Problems, present};
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::routes::Routes;
use crate::ids::CallSid;
use crate::store::leads::{self, Lead, LeadPatch, NewLead};

/// Longest word for where one stands with somebody, in characters.
pub(crate) const STATUS: usize = 50;

/// Routes of leads.
pub fn router() -> Routes {
    Routes::new()
        .read(routes!(list_leads))
        .operate(routes!(create_lead))
        .read(routes!(lead))
        .operate(routes!(update_lead))
        .operate(routes!(link_call, unlink_call))
}

/// A person to add.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateLead {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Telephone with `+` and country code.
    #[schema(example = "+14155550123")]
    pub phone: String,
    /// E-mail address.
    #[serde(default)]
    pub email: Option<String>,
    /// Where you stand with this person; `new` when absent.
    #[serde(default)]
    pub lead_status: Option<String>,
    /// Free text.
    #[serde(default)]
    pub notes: String,
    /// How promising.
    #[serde(default)]
    pub score: Option<i32>,
    /// IANA name of where this person is; campaigns call nobody whose zone is not known.
    #[serde(default)]
    #[schema(example = "America/New_York")]
    pub time_zone: Option<String>,
}

/// What to change. A member that is absent stays; `null` empties it where it may be empty.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub struct UpdateLead {
    /// Name.
    pub name: Option<String>,
    /// Telephone with `+` and country code.
    pub phone: Option<String>,
    /// E-mail address.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub email: Option<Option<String>>,
    /// Where you stand with this person.
    pub lead_status: Option<String>,
    /// When you last spoke.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_contacted_at: Option<Option<Timestamp>>,
    /// Free text.
    pub notes: Option<String>,
    /// How promising.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<i32>)]
    pub score: Option<Option<i32>>,
    /// IANA name of where this person is; campaigns call nobody whose zone is not known.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>, example = "America/New_York")]
    pub time_zone: Option<Option<String>>,
}

/// The call to link.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkCall {
    /// The carrier's id of the call.
    #[schema(example = "CA00000000000000000000000000000001")]
    pub call_sid: String,
}

/// Leads, newest first.
#[utoipa::path(
    get, path = "/api/leads", tag = "leads", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<Lead>), Failures),
)]
async fn list_leads(caller: Caller, Query(page): Query<PageQuery>) -> Result<Listing<Lead>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = leads::list(&caller.store, caller.organization, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Adds a lead.
#[utoipa::path(
    post, path = "/api/leads", tag = "leads", request_body = CreateLead,
    responses((status = 201, description = "The new lead", body = Success<Lead>, headers(("Location" = String, description = "The lead"))), Failures),
)]
async fn create_lead(caller: Caller, Json(body): Json<CreateLead>) -> Result<impl IntoResponse, ApiError> {
    let new = body.checked()?;
    let lead = leads::create(&caller.store, caller.organization, &new).await?;
    let location = format!("/api/leads/{}", lead.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Success::new(lead)))
}

/// A lead and the call it is linked to.
#[utoipa::path(
    get, path = "/api/leads/{id}", tag = "leads", params(("id" = i64, Path, description = "The lead")),
    responses((status = 200, description = "The lead as it is now", body = Success<Lead>), Failures),
)]
async fn lead(caller: Caller, Path(id): Path<i64>) -> Result<Success<Lead>, ApiError> {
    found(leads::lead(&caller.store, caller.organization, id).await?)
}

/// Changes what the body names.
#[utoipa::path(
    patch, path = "/api/leads/{id}", tag = "leads", params(("id" = i64, Path, description = "The lead")),
    request_body = UpdateLead,
    responses((status = 200, description = "The lead as it is now", body = Success<Lead>), Failures),
)]
async fn update_lead(
    caller: Caller,
    Path(id): Path<i64>,
    Json(body): Json<UpdateLead>,
) -> Result<Success<Lead>, ApiError> {
    let patch = body.checked()?;
    found(leads::update(&caller.store, caller.organization, id, &patch).await?)
}

/// Links a lead to a call. A call belongs to at most one lead.
#[utoipa::path(
    post, path = "/api/leads/{id}/link-call", tag = "leads",
    params(("id" = i64, Path, description = "The lead")), request_body = LinkCall,
    responses(
        (status = 200, description = "The lead as it is now", body = Success<Lead>),
        (status = 409, description = "The call belongs to another lead, or the lead is in another live call", body = Failure),
        Failures,
    ),
)]
async fn link_call(
    caller: Caller,
    Path(id): Path<i64>,
    Json(body): Json<LinkCall>,
) -> Result<Success<Lead>, ApiError> {
    let call_sid =
        CallSid::parse(&body.call_sid).map_err(|error| ApiError::invalid(format!("call_sid: {error}")))?;
    let linked = leads::link_call(&caller.store, caller.organization, id, &call_sid).await?;
    caller.does_in_call("lead.linked", id, Some(call_sid.as_str()));
    Ok(Success::new(linked))
}

/// Takes the call off a lead. Twice is as good as once.
#[utoipa::path(
    delete, path = "/api/leads/{id}/link-call", tag = "leads",
    params(("id" = i64, Path, description = "The lead")),
    responses((status = 200, description = "The lead as it is now", body = Success<Lead>), Failures),
)]
async fn unlink_call(caller: Caller, Path(id): Path<i64>) -> Result<Success<Lead>, ApiError> {
    let before = leads::lead(&caller.store, caller.organization, id).await?.and_then(|lead| lead.call_sid);
    let unlinked = leads::unlink_call(&caller.store, caller.organization, id).await?;
    caller.does_in_call("lead.unlinked", id, before.as_ref().map(CallSid::as_str));
    found(unlinked)
}

fn found(lead: Option<Lead>) -> Result<Success<Lead>, ApiError> {
    lead.map(Success::new).ok_or_else(|| ApiError::not_found("there is no such lead"))
}

impl CreateLead {
    fn checked(self) -> Result<NewLead, ApiError> {
        let mut problems = Problems::default();
        let phone = problems.phone(&self.phone);
        problems.length("name", &self.name, 0, NAME);
        problems.length("notes", &self.notes, 0, NOTES);
        problems.email(self.email.as_deref());
        if let Some(status) = &self.lead_status {
            problems.length("lead_status", status, 1, STATUS);
        }
        let time_zone = problems.time_zone(self.time_zone.as_deref());
        let Some(phone) = phone else { return Err(problems.into_error()) };
        problems.none()?;
        let Self { name, email, lead_status, notes, score, .. } = self;
        Ok(NewLead { name, phone, email, lead_status, notes, score, time_zone })
    }
}

impl UpdateLead {
    fn checked(self) -> Result<LeadPatch, ApiError> {
        let mut problems = Problems::default();
        let phone = self.phone.as_deref().and_then(|phone| problems.phone(phone));
        for (field, text, least, most) in [
            ("name", &self.name, 0, NAME),
            ("notes", &self.notes, 0, NOTES),
            ("lead_status", &self.lead_status, 1, STATUS),
        ] {
            if let Some(text) = text {
                problems.length(field, text, least, most);
            }
        }
        problems.email(self.email.as_ref().and_then(Option::as_deref));
        let time_zone = self.time_zone.as_ref().map(|name| problems.time_zone(name.as_deref()));
        problems.none()?;
        let Self { name, email, lead_status, last_contacted_at, notes, score, .. } = self;
        Ok(LeadPatch { name, phone, email, lead_status, last_contacted_at, notes, score, time_zone })
    }
}
