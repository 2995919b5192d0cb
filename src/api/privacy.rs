//! People who are to be forgotten.

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::Api;
use crate::api::auth::Caller;
use crate::api::body::Problems;
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Query, Success};
use crate::api::routes::Routes;
use crate::store::privacy::Patience;
use crate::store::privacy::erasure::{self, Erased, Erasure, Report, Subject};

/// Routes of erasures.
pub fn router() -> Routes {
    Routes::new().admin(routes!(list_erasures, erase_person))
}

/// Who is to be forgotten: `phone` or `lead_id`, one of the two.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"phone": "+14155550123", "dry_run": true}))]
pub struct EraseSomebody {
    /// Telephone with `+` and country code.
    #[serde(default)]
    pub phone: Option<String>,
    /// A lead, and with it whoever has its number.
    #[serde(default)]
    pub lead_id: Option<i64>,
    /// True, as when it is absent: says what would be deleted, and changes nothing.
    #[serde(default = "yes")]
    pub dry_run: bool,
}

const fn yes() -> bool {
    true
}

/// Erasures, latest first. They do not say whom they were about.
#[utoipa::path(
    get, path = "/api/privacy/erasures", tag = "privacy", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<Erasure>), Failures),
)]
async fn list_erasures(caller: Caller, Query(page): Query<PageQuery>) -> Result<Listing<Erasure>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = erasure::list(&caller.store, caller.organization, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Deletes everything about somebody: leads, calls with all that was said, tries, interactions. What is counted is then what is
/// still there. A do-not-call entry stays as the bare number. What comes of these calls later is not put on record any more.
/// Asking twice is as good as asking once.
#[utoipa::path(
    post, path = "/api/privacy/erasures", tag = "privacy", request_body = EraseSomebody,
    responses(
        (status = 200, description = "What was deleted, or would be", body = Success<Report>),
        (status = 404, description = "There is no such lead", body = Failure),
        (status = 409, description = "`live_call`: they are on the telephone or being called; `own_number`: the number is one of yours", body = Failure),
        Failures,
    ),
)]
async fn erase_person(
    State(api): State<Api>,
    caller: Caller,
    Json(body): Json<EraseSomebody>,
) -> Result<Success<Report>, ApiError> {
    let EraseSomebody { phone, lead_id, dry_run } = body;
    let mut problems = Problems::default();
    let subject = match (phone, lead_id) {
        (Some(phone), None) => problems.phone(&phone).map(Subject::Phone),
        (None, Some(lead)) => Some(Subject::Lead(lead)),
        _ => {
            problems.note("phone", "either phone or lead_id is needed, and not both");
            None
        }
    };
    let Some(subject) = subject else { return Err(problems.into_error()) };
    // On record before anything goes.
    if !dry_run {
        caller.does("erasure.asked_for", caller.organization);
    }
    caller.keep().await?;
    // What the API may only read goes as well: this is the server's own work, for one organisation.
    let organization = caller.organization;
    let work =
        erasure::erase(&api.store, organization, &subject, dry_run, caller.author(), Patience::Request);
    let message = "there is too much to look through in a request; use `voicebridge erase`";
    match ApiError::unless_it_takes_too_long(work, message).await? {
        Erased::Done(report) => Ok(Success::new(report)),
        Erased::NoLead => Err(ApiError::not_found("there is no such lead")),
        Erased::OwnNumber => Err(ApiError::conflict(
            "own_number",
            "this number is one of yours, or of somebody who answers your calls; take it out there first",
        )),
        Erased::Live => Err(ApiError::conflict(
            "live_call",
            "they are on the telephone or being called right now; try again when that is over",
        )),
    }
}
