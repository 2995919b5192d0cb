//! When the people of a team answer.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::auth::Caller;
use crate::api::body::Problems;
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::inbound::look_up_again;
use crate::api::routes::Routes;
use crate::routing::hours::Span;
use crate::store::Deleted;
use crate::store::schedules::{self, HolidayHours, NewSchedule, SchedulePatch, ScheduleRecord, WeekdayHours};

// More are mistakes, and would be slow to look through.
const MOST_SPANS: usize = 200;
const MOST_HOLIDAYS: usize = 1000;
/// Days before are mistakes, and PostgreSQL reads none of those before our era as they are written elsewhere.
const FIRST_YEAR: i16 = 1970;

/// Routes of schedules.
pub fn router() -> Routes {
    Routes::new()
        .read(routes!(list_schedules))
        .admin(routes!(create_schedule))
        .read(routes!(schedule))
        .admin(routes!(update_schedule, delete_schedule))
}

/// A schedule to add.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "name": "Office", "time_zone": "Europe/Berlin",
    "spans": [{"weekday": 1, "opens": "09:00", "closes": "12:00"}, {"weekday": 1, "opens": "13:00", "closes": "17:30"}],
    "holidays": [{"day": "2026-12-24", "name": "Christmas Eve", "opens": "09:00", "closes": "12:00"}, {"day": "2026-12-25", "name": "Christmas"}]
}))]
pub struct CreateSchedule {
    /// For people.
    pub name: String,
    /// IANA name of the zone whose clocks the hours are of.
    pub time_zone: String,
    /// False: the agent answers at all hours; true when absent.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Hours of weekdays; a day may have several, which do not overlap.
    #[serde(default)]
    pub spans: Vec<WeekdayHours>,
    /// Days that are closed, or have hours of their own.
    #[serde(default)]
    pub holidays: Vec<HolidayHours>,
}

/// What to change. A member that is absent stays; a list is replaced as a whole.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"holidays": [{"day": "2026-12-25", "name": "Christmas"}]}))]
pub struct UpdateSchedule {
    /// For people.
    pub name: Option<String>,
    /// IANA name of the zone whose clocks the hours are of.
    pub time_zone: Option<String>,
    /// False: the agent answers at all hours.
    pub enabled: Option<bool>,
    /// Hours of weekdays; a day may have several, which do not overlap.
    pub spans: Option<Vec<WeekdayHours>>,
    /// Days that are closed, or have hours of their own.
    pub holidays: Option<Vec<HolidayHours>>,
}

const fn yes() -> bool {
    true
}

/// Schedules, by name.
#[utoipa::path(
    get, path = "/api/schedules", tag = "schedules", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<ScheduleRecord>), Failures),
)]
async fn list_schedules(
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Listing<ScheduleRecord>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = schedules::list(&caller.store, caller.organization, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Adds a schedule.
#[utoipa::path(
    post, path = "/api/schedules", tag = "schedules", request_body = CreateSchedule,
    responses((status = 201, description = "The new schedule", body = Success<ScheduleRecord>, headers(("Location" = String, description = "The schedule"))), Failures),
)]
async fn create_schedule(
    caller: Caller,
    Json(body): Json<CreateSchedule>,
) -> Result<impl IntoResponse, ApiError> {
    let organization = caller.organization;
    let id = schedules::create(&caller.store, organization, &body.checked()?).await?;
    let record = schedules::schedule(&caller.store, organization, id).await?.ok_or_else(gone)?;
    let location = format!("/api/schedules/{}", record.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Success::new(record)))
}

/// A schedule.
#[utoipa::path(
    get, path = "/api/schedules/{id}", tag = "schedules", params(("id" = Uuid, Path, description = "The schedule")),
    responses((status = 200, description = "The schedule as it is now", body = Success<ScheduleRecord>), Failures),
)]
async fn schedule(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<ScheduleRecord>, ApiError> {
    found(schedules::schedule(&caller.store, caller.organization, id).await?)
}

/// Changes what the body names. The next call goes by it.
#[utoipa::path(
    patch, path = "/api/schedules/{id}", tag = "schedules", params(("id" = Uuid, Path, description = "The schedule")),
    request_body = UpdateSchedule,
    responses((status = 200, description = "The schedule as it is now", body = Success<ScheduleRecord>), Failures),
)]
async fn update_schedule(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<UpdateSchedule>,
) -> Result<Success<ScheduleRecord>, ApiError> {
    let patch = body.checked()?;
    let organization = caller.organization;
    if !schedules::update(&caller.store, organization, id, &patch).await? {
        return Err(gone());
    }
    caller.keep().await?;
    look_up_again(&api, |line| line.route.schedule == Some(id)).await;
    found(schedules::schedule(&caller.store, organization, id).await?)
}

/// Removes a schedule that no number goes by.
#[utoipa::path(
    delete, path = "/api/schedules/{id}", tag = "schedules", params(("id" = Uuid, Path, description = "The schedule")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "A number goes by it", body = Failure),
        Failures,
    ),
)]
async fn delete_schedule(caller: Caller, Path(id): Path<Uuid>) -> Result<StatusCode, ApiError> {
    match schedules::delete(&caller.store, caller.organization, id).await? {
        Deleted::Done => Ok(StatusCode::NO_CONTENT),
        Deleted::NotFound => Err(gone()),
        Deleted::InUse => Err(ApiError::conflict(
            "in_use",
            "a phone number goes by this schedule; give it another one, or none, first",
        )),
    }
}

fn found(record: Option<ScheduleRecord>) -> Result<Success<ScheduleRecord>, ApiError> {
    record.map(Success::new).ok_or_else(gone)
}

fn gone() -> ApiError {
    ApiError::not_found("there is no such schedule")
}

impl CreateSchedule {
    fn checked(self) -> Result<NewSchedule, ApiError> {
        let Self { name, time_zone, enabled, spans, holidays } = self;
        let mut problems = Problems::default();
        problems.length("name", &name, 1, 200);
        let time_zone = checked_zone(&mut problems, &time_zone);
        check_spans(&mut problems, &spans);
        check_holidays(&mut problems, &holidays);
        problems.none()?;
        Ok(NewSchedule { name, time_zone, enabled, spans, holidays })
    }
}

impl UpdateSchedule {
    fn checked(self) -> Result<SchedulePatch, ApiError> {
        let Self { name, time_zone, enabled, spans, holidays } = self;
        let mut problems = Problems::default();
        if let Some(name) = &name {
            problems.length("name", name, 1, 200);
        }
        let time_zone = time_zone.map(|zone| checked_zone(&mut problems, &zone));
        check_spans(&mut problems, spans.as_deref().unwrap_or_default());
        check_holidays(&mut problems, holidays.as_deref().unwrap_or_default());
        problems.none()?;
        Ok(SchedulePatch { name, time_zone, enabled, spans, holidays })
    }
}

/// The zone in its own spelling.
fn checked_zone(problems: &mut Problems, name: &str) -> String {
    let zone = jiff::tz::TimeZone::get(name).ok().filter(|zone| !zone.is_unknown());
    if let Some(name) = zone.as_ref().and_then(jiff::tz::TimeZone::iana_name) {
        return name.to_owned();
    }
    problems.note("time_zone", "must be an IANA time zone such as Europe/Berlin");
    String::new()
}

fn check_spans(problems: &mut Problems, spans: &[WeekdayHours]) {
    problems.count("spans", spans.len(), MOST_SPANS);
    for (index, &WeekdayHours { weekday, opens, closes }) in spans.iter().enumerate().take(MOST_SPANS) {
        if !(1..=7).contains(&weekday) {
            problems.note(&format!("spans[{index}].weekday"), "must be 1 (Monday) to 7 (Sunday)");
        }
        if opens >= closes {
            problems.note(
                &format!("spans[{index}]"),
                "opens must be before closes; hours past midnight are two spans",
            );
            continue;
        }
        let earlier = spans[..index].iter().position(|other| {
            let span = Span { opens: other.opens, closes: other.closes };
            other.weekday == weekday && span.overlaps(Span { opens, closes })
        });
        if let Some(other) = earlier {
            problems.note(&format!("spans[{index}]"), &format!("overlaps spans[{other}]"));
        }
    }
}

fn check_holidays(problems: &mut Problems, holidays: &[HolidayHours]) {
    problems.count("holidays", holidays.len(), MOST_HOLIDAYS);
    let mut days = std::collections::BTreeMap::new();
    for (index, holiday) in holidays.iter().enumerate().take(MOST_HOLIDAYS) {
        let field = format!("holidays[{index}]");
        if holiday.day.year() < FIRST_YEAR {
            problems.note(&format!("{field}.day"), "must be in 1970 or later");
        }
        problems.length(&format!("{field}.name"), &holiday.name, 0, 200);
        match (holiday.opens, holiday.closes) {
            (None, None) => {}
            (Some(opens), Some(closes)) if opens < closes => {}
            (Some(_), Some(_)) => problems.note(&field, "opens must be before closes"),
            _ => problems
                .note(&field, "must have both opens and closes, or neither: then it is closed all day"),
        }
        if let Some(other) = days.insert(holiday.day, index) {
            problems.note(&field, &format!("is the same day as holidays[{other}]"));
        }
    }
}
