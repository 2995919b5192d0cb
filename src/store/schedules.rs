//! When the people of a team answer.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use uuid::Uuid;

use crate::ids::OrganizationId;
use crate::routing::hours::{Holiday, Schedule, Span, WallTime};
use crate::store::{Deleted, Store, storable};

/// Hours of a weekday.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WeekdayHours {
    /// 1 is Monday, 7 is Sunday.
    #[schema(minimum = 1, maximum = 7, example = 1)]
    pub weekday: u8,
    /// The first moment, by the clock of the time zone.
    #[schema(value_type = String, example = "09:00")]
    pub opens: WallTime,
    /// The first moment after; `24:00` is the end of the day.
    #[schema(value_type = String, example = "12:30")]
    pub closes: WallTime,
}

/// A day that is not like its weekday.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HolidayHours {
    /// The day, by the calendar of the time zone.
    #[schema(value_type = String, format = Date, example = "2026-12-24")]
    pub day: Date,
    /// What it is called.
    #[serde(default)]
    #[schema(example = "Christmas Eve")]
    pub name: String,
    /// The first moment of its own hours; without them it is closed all day.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "09:00")]
    pub opens: Option<WallTime>,
    /// The first moment after.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "12:00")]
    pub closes: Option<WallTime>,
}

/// A schedule as it is on record.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ScheduleRecord {
    /// Id.
    pub id: Uuid,
    /// For people.
    #[schema(example = "Office")]
    pub name: String,
    /// IANA name.
    #[schema(example = "Europe/Berlin")]
    pub time_zone: String,
    /// False: the agent answers at all hours.
    pub enabled: bool,
    /// By weekday and hour.
    pub spans: Vec<WeekdayHours>,
    /// By day.
    pub holidays: Vec<HolidayHours>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A schedule to add.
#[derive(Debug, Clone)]
pub struct NewSchedule {
    /// For people.
    pub name: String,
    /// IANA name.
    pub time_zone: String,
    /// False: the agent answers at all hours.
    pub enabled: bool,
    /// Hours of weekdays.
    pub spans: Vec<WeekdayHours>,
    /// Days with other hours.
    pub holidays: Vec<HolidayHours>,
}

/// What to change; `None` leaves it. Lists are replaced as a whole.
#[derive(Debug, Clone, Default)]
pub struct SchedulePatch {
    /// For people.
    pub name: Option<String>,
    /// IANA name.
    pub time_zone: Option<String>,
    /// False: the agent answers at all hours.
    pub enabled: Option<bool>,
    /// Hours of weekdays.
    pub spans: Option<Vec<WeekdayHours>>,
    /// Days with other hours.
    pub holidays: Option<Vec<HolidayHours>>,
}

impl ScheduleRecord {
    /// The rules. `None`: there is no such time zone.
    #[must_use]
    pub fn rules(&self) -> Option<Schedule> {
        let time_zone = TimeZone::get(&self.time_zone).ok()?;
        let mut week: [Vec<Span>; 7] = Default::default();
        for &WeekdayHours { weekday, opens, closes } in &self.spans {
            week.get_mut(usize::from(weekday).checked_sub(1)?)?.push(Span { opens, closes });
        }
        let holiday = |HolidayHours { day, name, opens, closes }: &HolidayHours| {
            let span = opens.zip(*closes).map(|(opens, closes)| Span { opens, closes });
            (*day, Holiday { name: name.clone(), span })
        };
        let holidays: BTreeMap<Date, Holiday> = self.holidays.iter().map(holiday).collect();
        Some(Schedule { time_zone, enabled: self.enabled, week, holidays })
    }
}

/// Schedules of the organisation by name, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<ScheduleRecord>, u64)> {
    let total = sqlx::query_scalar!(
        r#"select count(*) as "count!" from schedules where organization_id = $1"#,
        organization.0,
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Ok((select(store, organization, None, limit, offset).await?, total.unsigned_abs()))
}

/// One schedule.
pub async fn schedule(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
) -> sqlx::Result<Option<ScheduleRecord>> {
    Ok(select(store, organization, Some(id), 1, 0).await?.pop())
}

async fn select(
    store: &Store,
    organization: OrganizationId,
    id: Option<Uuid>,
    limit: u32,
    offset: u64,
) -> sqlx::Result<Vec<ScheduleRecord>> {
    let rows = sqlx::query!(
        r#"
        select id, name, time_zone, enabled, created_at, updated_at,
               (
                   select coalesce(
                       jsonb_agg(
                           jsonb_build_object('weekday', weekday, 'opens', opens::text, 'closes', closes::text)
                           order by weekday, opens
                       ),
                       '[]'
                   )
                   from schedule_spans
                   where schedule_id = schedules.id
               ) as "spans!: Json<Vec<WeekdayHours>>",
               (
                   select coalesce(
                       jsonb_agg(
                           jsonb_build_object('day', day, 'name', h.name, 'opens', opens::text, 'closes', closes::text)
                           order by day
                       ),
                       '[]'
                   )
                   from schedule_holidays h
                   where schedule_id = schedules.id
               ) as "holidays!: Json<Vec<HolidayHours>>"
        from schedules
        where organization_id = $1 and ($2::uuid is null or id = $2)
        order by name, id
        limit $3
        offset $4
        "#,
        organization.0,
        id,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    let records = rows.into_iter().map(|row| ScheduleRecord {
        id: row.id,
        name: row.name,
        time_zone: row.time_zone,
        enabled: row.enabled,
        spans: row.spans.0,
        holidays: row.holidays.0,
        created_at: row.created_at.to_jiff(),
        updated_at: row.updated_at.to_jiff(),
    });
    Ok(records.collect())
}

/// Adds a schedule with all its hours, or nothing.
pub async fn create(store: &Store, organization: OrganizationId, new: &NewSchedule) -> sqlx::Result<Uuid> {
    let mut transaction = store.begin().await?;
    let id = sqlx::query_scalar!(
        "insert into schedules (organization_id, name, time_zone, enabled) values ($1, $2, $3, $4) returning id",
        organization.0,
        storable(&new.name),
        storable(&new.time_zone),
        new.enabled,
    )
    .fetch_one(&mut *transaction)
    .await?;
    add_spans(&mut transaction, organization, id, &new.spans).await?;
    add_holidays(&mut transaction, organization, id, &new.holidays).await?;
    transaction.commit().await?;
    Ok(id)
}

/// Changes what the patch names, all of it or nothing. False: there is no such schedule in this organisation.
pub async fn update(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
    patch: &SchedulePatch,
) -> sqlx::Result<bool> {
    let mut transaction = store.begin().await?;
    // Also the lock that keeps two changes of the hours apart.
    let updated = sqlx::query!(
        r#"
        update schedules
        set name = coalesce($3, name),
            time_zone = coalesce($4, time_zone),
            enabled = coalesce($5, enabled),
            updated_at = now()
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        id,
        patch.name.as_deref().map(storable),
        patch.time_zone.as_deref().map(storable),
        patch.enabled,
    )
    .execute(&mut *transaction)
    .await?;
    if updated.rows_affected() == 0 {
        return Ok(false);
    }
    if let Some(spans) = &patch.spans {
        sqlx::query!("delete from schedule_spans where schedule_id = $1", id)
            .execute(&mut *transaction)
            .await?;
        add_spans(&mut transaction, organization, id, spans).await?;
    }
    if let Some(holidays) = &patch.holidays {
        sqlx::query!("delete from schedule_holidays where schedule_id = $1", id)
            .execute(&mut *transaction)
            .await?;
        add_holidays(&mut transaction, organization, id, holidays).await?;
    }
    transaction.commit().await?;
    Ok(true)
}

/// Removes a schedule that no number goes by.
pub async fn delete(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<Deleted> {
    let mut transaction = store.begin().await?;
    // Locked, so that no number takes it meanwhile.
    let found = sqlx::query_scalar!(
        "select id from schedules where organization_id = $1 and id = $2 for update",
        organization.0,
        id,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if found.is_none() {
        return Ok(Deleted::NotFound);
    }
    let used = sqlx::query_scalar!(
        r#"select exists (select from phone_numbers where schedule_id = $1) as "used!""#,
        id,
    )
    .fetch_one(&mut *transaction)
    .await?;
    if used {
        return Ok(Deleted::InUse);
    }
    sqlx::query!("delete from schedules where id = $1", id).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Deleted::Done)
}

async fn add_spans(
    transaction: &mut sqlx::PgConnection,
    organization: OrganizationId,
    schedule: Uuid,
    spans: &[WeekdayHours],
) -> sqlx::Result<()> {
    let weekdays: Vec<i16> = spans.iter().map(|span| span.weekday.into()).collect();
    let (opens, closes): (Vec<_>, Vec<_>) =
        spans.iter().map(|span| (span.opens.to_string(), span.closes.to_string())).unzip();
    sqlx::query!(
        r#"
        insert into schedule_spans (organization_id, schedule_id, weekday, opens, closes)
        select $1, $2, weekday, opens::time, closes::time
        from unnest($3::smallint[], $4::text[], $5::text[]) as span (weekday, opens, closes)
        "#,
        organization.0,
        schedule,
        &weekdays,
        &opens,
        &closes,
    )
    .execute(&mut *transaction)
    .await?;
    Ok(())
}

async fn add_holidays(
    transaction: &mut sqlx::PgConnection,
    organization: OrganizationId,
    schedule: Uuid,
    holidays: &[HolidayHours],
) -> sqlx::Result<()> {
    let days: Vec<String> = holidays.iter().map(|holiday| holiday.day.to_string()).collect();
    let names: Vec<String> = holidays.iter().map(|holiday| storable(&holiday.name)).collect();
    let text = |time: Option<WallTime>| time.map(|time| time.to_string());
    let (opens, closes): (Vec<_>, Vec<_>) =
        holidays.iter().map(|holiday| (text(holiday.opens), text(holiday.closes))).unzip();
    sqlx::query!(
        r#"
        insert into schedule_holidays (organization_id, schedule_id, day, name, opens, closes)
        select $1, $2, day::date, name, opens::time, closes::time
        from unnest($3::text[], $4::text[], $5::text[], $6::text[]) as holiday (day, name, opens, closes)
        "#,
        organization.0,
        schedule,
        &days,
        &names,
        &opens as &[Option<String>],
        &closes as &[Option<String>],
    )
    .execute(&mut *transaction)
    .await?;
    Ok(())
}
