//! Whom a campaign shall call: leads by id, leads by what they are, and a table of people.

use std::collections::HashSet;

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::UtoipaMethodRouterExt as _;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::body::{EMAIL, NAME, NOTES};
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Path, Query, Success};
use crate::api::leads::STATUS;
use crate::api::routes::Routes;
use crate::api::upload::{BadRow, BadRows, Column, Fields, MOST_BYTES, Table, ValueClass};
use crate::ids::PhoneNumber;
use crate::outreach::window::zone;
use crate::store::call_queue::{self, EnqueueError, Enqueued, LeadFilter};
use crate::store::leads::{self, NewLead};

/// What is read of a table.
const COLUMNS: [Column; 7] = [
    ("phone", &["number", "telephone", "phone_number"]),
    ("name", &["full_name"]),
    ("time_zone", &["timezone", "time zone", "tz"]),
    ("email", &["e-mail", "mail"]),
    ("lead_status", &["status"]),
    ("notes", &["note"]),
    ("score", &[]),
];
/// Rows taken at a time: reading them takes a few milliseconds of a thread that carries calls.
const BATCH: usize = 250;

/// Routes of the leads of campaigns.
pub fn router() -> Routes {
    let upload = routes!(upload_campaign_leads).layer(DefaultBodyLimit::max(MOST_BYTES));
    Routes::new().operate(routes!(enqueue_campaign_leads)).operate(upload)
}

/// Whom to call: either of the two.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"lead_ids": [123, 124]}))]
pub struct EnqueueLeads {
    /// These.
    #[serde(default)]
    pub lead_ids: Option<Vec<i64>>,
    /// All to whom everything applies that is named; `{}` means everybody.
    #[serde(default)]
    pub filter: Option<FilterBody>,
}

/// What applies to a lead.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"lead_status": "new", "min_score": 10}))]
pub struct FilterBody {
    /// Where you stand with this person.
    #[serde(default)]
    pub lead_status: Option<String>,
    /// At least so promising.
    #[serde(default)]
    pub min_score: Option<i32>,
    /// Added since.
    #[serde(default)]
    pub created_after: Option<Timestamp>,
    /// Not spoken to since, or never.
    #[serde(default)]
    pub not_contacted_since: Option<Timestamp>,
}

/// What is true of all rows of a table.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    /// IANA name of where people are whose row names no time zone.
    #[param(example = "America/New_York")]
    pub time_zone: Option<String>,
}

/// What came of a table of people.
#[derive(Default, Serialize, ToSchema)]
pub struct LeadsImported {
    /// Rows below the header.
    pub rows: u64,
    /// Leads that are new.
    pub created: u64,
    /// Leads that were there, found by their telephone; what was empty of them is filled.
    pub found: u64,
    /// What came of taking them into the queue.
    #[serde(flatten)]
    pub enqueued: Enqueued,
    /// Rows of which nothing was taken.
    #[serde(flatten)]
    pub bad: BadRows,
    /// Columns that were not read.
    pub ignored_columns: Vec<String>,
}

/// Has a campaign call these leads. One that it has in its queue stays as it is, so doing it twice changes nothing.
#[utoipa::path(
    post, path = "/api/campaigns/{id}/leads", tag = "campaigns",
    params(("id" = Uuid, Path, description = "The campaign")), request_body = EnqueueLeads,
    responses(
        (status = 200, description = "What came of it", body = Success<Enqueued>),
        (status = 409, description = "`campaign_completed`", body = Failure),
        Failures,
    ),
)]
async fn enqueue_campaign_leads(
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<EnqueueLeads>,
) -> Result<Success<Enqueued>, ApiError> {
    let organization = caller.organization;
    let report = match (body.lead_ids, body.filter) {
        (Some(leads), None) => call_queue::enqueue(&caller.store, organization, id, &leads).await?,
        (None, Some(filter)) => {
            call_queue::enqueue_matching(&caller.store, organization, id, &filter.into()).await?
        }
        _ => return Err(ApiError::invalid("say whom to call: either `lead_ids` or `filter`")),
    };
    Ok(Success::new(report))
}

/// Has a campaign call the people of a table. Its columns: `phone`, and `name`, `time_zone`, `email`, `lead_status`, `notes`,
/// `score` where you have them. Leads are found by their telephone or created. Good rows are kept, bad ones reported.
#[utoipa::path(
    post, path = "/api/campaigns/{id}/leads.csv", tag = "campaigns",
    params(("id" = Uuid, Path, description = "The campaign"), UploadQuery),
    request_body(content = String, content_type = "text/csv", example = "phone,name,time_zone\n+14155550123,Ada,America/Los_Angeles\n"),
    responses(
        (status = 200, description = "What came of each row", body = Success<LeadsImported>),
        (status = 409, description = "`campaign_completed`", body = Failure),
        Failures,
    ),
)]
async fn upload_campaign_leads(
    caller: Caller,
    Path(id): Path<Uuid>,
    Query(query): Query<UploadQuery>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Success<LeadsImported>, ApiError> {
    let usual_zone = query.time_zone.as_deref().map(zone).transpose();
    let usual_zone = usual_zone
        .map_err(|error| ApiError::bad_request("invalid_query", format!("time_zone: {error}")))?
        .and_then(|zone| zone.iana_name().map(str::to_owned));
    let mut table = Table::open(&headers, body, &COLUMNS)?;
    let organization = caller.organization;
    let mut report = LeadsImported::default();
    let mut seen = HashSet::new();
    let mut is_more = true;
    while is_more {
        let mut batch = Vec::new();
        for _ in 0..BATCH {
            let Some(row) = table.next() else {
                is_more = false;
                break;
            };
            report.rows += 1;
            match row.and_then(|fields| person(fields, usual_zone.as_deref(), &mut seen)) {
                Ok(person) => batch.push(person),
                Err(row) => report.bad.add(row),
            }
        }
        let imported = leads::import(&caller.store, organization, id, &batch).await?;
        report.created += imported.created;
        report.found += imported.found;
        report.enqueued.add(imported.enqueued);
    }
    report.ignored_columns = table.ignored;
    Ok(Success::new(report))
}

fn person(
    mut fields: Fields,
    usual_zone: Option<&str>,
    seen: &mut HashSet<PhoneNumber>,
) -> Result<NewLead, BadRow> {
    let phone = fields.phone("phone")?;
    let lead = NewLead {
        phone: phone.clone(),
        name: fields.text("name", NAME)?.unwrap_or_default(),
        email: fields.email("email", EMAIL)?,
        lead_status: fields.text("lead_status", STATUS)?,
        notes: fields.text("notes", NOTES)?.unwrap_or_default(),
        score: fields.number("score")?,
        time_zone: fields.time_zone("time_zone")?.or_else(|| usual_zone.map(str::to_owned)),
    };
    if seen.insert(phone) {
        Ok(lead)
    } else {
        let reason = "an earlier row has this number".to_owned();
        Err(fields.bad("phone", ValueClass::Duplicate, reason))
    }
}

impl From<FilterBody> for LeadFilter {
    fn from(body: FilterBody) -> Self {
        let FilterBody { lead_status, min_score, created_after, not_contacted_since } = body;
        Self { lead_status, min_score, created_after, not_contacted_since }
    }
}

impl From<EnqueueError> for ApiError {
    fn from(error: EnqueueError) -> Self {
        let message = error.to_string();
        match error {
            EnqueueError::NotFound => Self::not_found(message),
            EnqueueError::Completed => Self::conflict("campaign_completed", message),
            EnqueueError::Database(error) => error.into(),
        }
    }
}
