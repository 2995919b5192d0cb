//! Runs that fetch Kaleyra's log. Rows and how far a run has come are written together, and by whoever carries the run.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::ids::OrganizationId;
use crate::store::kaleyra::{self, LogRow, Rejected, Written};
use crate::store::{Store, storable, storable_json};

/// Seconds without life after which nobody carries a run any more.
pub const STALE_AFTER_S: i32 = 60;
/// Reasons that are kept of a run.
const MOST_REASONS: usize = 100;
/// Of those, how many there may be before rows that lack a member are named no more: what was rejected matters more.
const MOST_INCOMPLETE: usize = 50;

/// A run, as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct KaleyraSync {
    /// Id.
    pub id: Uuid,
    /// First day in India that is fetched.
    #[schema(value_type = Date, example = "2026-03-01")]
    pub from: Date,
    /// Last one.
    #[schema(value_type = Date, example = "2026-03-02")]
    pub to: Date,
    /// `running`; `completed`; `failed`, see `error`; `interrupted`: nobody carries it, and a sync of the same days goes on
    /// from where it is.
    #[schema(example = "completed")]
    pub status: String,
    /// The day that is fetched next; later than `to` when all are.
    #[schema(value_type = Date, example = "2026-03-03")]
    pub day: Date,
    /// Its page that is fetched next, from 1.
    pub page: i32,
    /// Records that Kaleyra has sent, each counted once more below.
    #[schema(example = 4)]
    pub fetched: i64,
    /// New rows.
    #[schema(example = 1)]
    pub inserted: i64,
    /// Rows that said something else before.
    #[schema(example = 1)]
    pub updated: i64,
    /// Rows that were just so already, and records that Kaleyra has sent twice at a time.
    #[schema(example = 1)]
    pub unchanged: i64,
    /// Records that are no rows.
    #[schema(example = 1)]
    pub rejected: i64,
    /// Why, of the first hundred; and which members of rows could not be read and are left out, of fifty at most.
    pub reasons: Vec<Rejected>,
    /// Why it failed.
    #[schema(example = "Kaleyra did not answer after 5 tries: answer 503")]
    pub error: Option<String>,
    /// The server that carries it, or did last.
    pub node: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it last showed life.
    pub heartbeat: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Set when it is completed: the last day up to which all days are on record as a whole. Null: it is not, or there is a
    /// gap before `from`.
    #[schema(value_type = Option<Date>, example = "2026-03-02")]
    pub whole_to: Option<Date>,
}

/// The right to carry a run on, until somebody else has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The run.
    pub id: Uuid,
    /// Whose it is.
    pub organization: OrganizationId,
    attempt: i32,
}

/// How far a run has come: the page that is fetched next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The day.
    pub day: Date,
    /// From 1.
    pub page: u32,
}

/// A run to be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// The right to.
    pub claim: Claim,
    /// Where it goes on.
    pub at: Cursor,
    /// The last day.
    pub last: Date,
    /// It was begun before.
    pub is_resumed: bool,
}

/// What came of wanting a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Carry it.
    Yes(Carried),
    /// Somebody carries one already.
    Running(Uuid),
}

/// Somebody else carries the run, or it has ended.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Stop here.
    #[error("the run is carried by somebody else")]
    Lost,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// How a run ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// All is fetched.
    Completed,
    /// For this reason.
    Failed(String),
    /// The server stops.
    Interrupted,
}

/// What a page has brought.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Rows of different ids.
    pub rows: Vec<LogRow>,
    /// Records that are no rows.
    pub rejected: Vec<Rejected>,
    /// What rows lack since it could not be read.
    pub incomplete: Vec<Rejected>,
    /// Further records of ids that are among the rows.
    pub repeated: usize,
}

/// Begins a run for these days, or carries on the latest that was, unless another is being carried.
///
/// A run of other days that nobody carries any more is left as `interrupted`. One that was left more than a day ago is not
/// carried on: what it has fetched may have changed since. The day that was going on when a run was left is fetched anew,
/// since new calls may have moved those that were not fetched yet.
pub async fn begin(
    store: &Store,
    organization: OrganizationId,
    (first, last): (Date, Date),
    node: &str,
) -> sqlx::Result<Begun> {
    let mut work = store.begin().await?;
    // Whoever else wants to begin one waits for what comes of this.
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1::uuid::text, 73))", organization.0)
        .execute(&mut *work)
        .await?;
    let running = sqlx::query!(
        r#"
        select id, heartbeat < clock_timestamp() - make_interval(secs => $2) as "is_stale!"
        from kaleyra_syncs
        where organization_id = $1 and status = 'running'
        for update
        "#,
        organization.0,
        f64::from(STALE_AFTER_S),
    )
    .fetch_optional(&mut *work)
    .await?;
    if let Some(run) = running {
        if !run.is_stale {
            return Ok(Begun::Running(run.id));
        }
        sqlx::query!(
            "update kaleyra_syncs set status = 'interrupted', finished_at = heartbeat where id = $1",
            run.id
        )
        .execute(&mut *work)
        .await?;
    }
    let resumed = sqlx::query!(
        r#"
        update kaleyra_syncs
        set status = 'running',
            page = case when slice < (heartbeat at time zone 'Asia/Kolkata')::date then page else 1 end,
            attempt = attempt + 1,
            error = null,
            node = $4,
            heartbeat = clock_timestamp(),
            finished_at = null
        where id = (
            select id
            from kaleyra_syncs
            where organization_id = $1
              and first_day = $2
              and last_day = $3
            order by started_at desc, id desc
            limit 1
        )
          and status <> 'completed'
          and heartbeat > clock_timestamp() - interval '1 day'
        returning id, attempt, slice as "slice: jiff_sqlx::Date", page
        "#,
        organization.0,
        first.to_sqlx() as _,
        last.to_sqlx() as _,
        storable(node),
    )
    .fetch_optional(&mut *work)
    .await?;
    if let Some(run) = resumed {
        work.commit().await?;
        let claim = Claim { id: run.id, organization, attempt: run.attempt };
        let at = Cursor { day: run.slice.to_jiff(), page: run.page.unsigned_abs() };
        return Ok(Begun::Yes(Carried { claim, at, last, is_resumed: true }));
    }
    let id = sqlx::query_scalar!(
        r#"
        insert into kaleyra_syncs (organization_id, first_day, last_day, slice, node)
        values ($1, $2, $3, $2, $4)
        returning id
        "#,
        organization.0,
        first.to_sqlx() as _,
        last.to_sqlx() as _,
        storable(node),
    )
    .fetch_one(&mut *work)
    .await?;
    work.commit().await?;
    let claim = Claim { id, organization, attempt: 1 };
    Ok(Begun::Yes(Carried { claim, at: Cursor { day: first, page: 1 }, last, is_resumed: false }))
}

/// Shows that a run is carried.
pub async fn beat(store: &Store, claim: Claim) -> Result<(), WriteError> {
    let done = sqlx::query!(
        r#"
        update kaleyra_syncs
        set heartbeat = clock_timestamp()
        where id = $1 and attempt = $2 and status = 'running'
        "#,
        claim.id,
        claim.attempt,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(WriteError::Lost) }
}

/// Keeps what the page at `at` has brought, and that `next` is the next one, in one transaction. Keeping it a second time
/// changes nothing.
pub async fn keep(
    store: &Store,
    claim: Claim,
    at: Cursor,
    next: Cursor,
    batch: &Batch,
) -> Result<(), WriteError> {
    let mut work = store.begin().await?;
    let run = sqlx::query!(
        r#"
        select slice as "slice: jiff_sqlx::Date", page, jsonb_array_length(reasons) as "reasons!"
        from kaleyra_syncs
        where id = $1 and attempt = $2 and status = 'running'
        for update
        "#,
        claim.id,
        claim.attempt,
    )
    .fetch_optional(&mut *work)
    .await?;
    let Some(run) = run else { return Err(WriteError::Lost) };
    // It was kept, and we were not told.
    if (Cursor { day: run.slice.to_jiff(), page: run.page.unsigned_abs() }) != at {
        return Ok(());
    }
    let (written, elsewhere) = if batch.rows.is_empty() {
        (Written::default(), Vec::new())
    } else {
        kaleyra::write(&mut work, claim.organization, &batch.rows).await?
    };
    let foreign = elsewhere.into_iter().map(|id| Rejected {
        id: Some(id),
        reason: "another organisation has it on record (was KALEYRA_ORGANIZATION changed?), or it was erased"
            .to_owned(),
    });
    let rejected: Vec<Rejected> = batch.rejected.iter().cloned().chain(foreign).collect();
    let known = run.reasons.unsigned_abs() as usize;
    let mut told: Vec<&Rejected> = rejected.iter().take(MOST_REASONS.saturating_sub(known)).collect();
    let room = MOST_INCOMPLETE.saturating_sub(known + told.len());
    told.extend(batch.incomplete.iter().take(room));
    let reasons = serde_json::json!(told);
    sqlx::query!(
        r#"
        update kaleyra_syncs
        set slice = $2,
            page = $3,
            fetched = fetched + $4 + $5 + $6 + $7,
            inserted = inserted + $4,
            updated = updated + $5,
            unchanged = unchanged + $6,
            rejected = rejected + $7,
            reasons = reasons || $8,
            heartbeat = clock_timestamp()
        where id = $1
        "#,
        claim.id,
        next.day.to_sqlx() as _,
        i32::try_from(next.page).unwrap_or(i32::MAX),
        written.inserted,
        written.updated,
        written.unchanged + count(batch.repeated),
        count(rejected.len()),
        storable_json(reasons),
    )
    .execute(&mut *work)
    .await?;
    work.commit().await?;
    Ok(())
}

/// Records of a page.
fn count(records: usize) -> i64 {
    i64::try_from(records).unwrap_or(i64::MAX)
}

/// Ends a run. One that is completed moves the day up to which all is on record, unless there is a gap before its first.
pub async fn end(store: &Store, claim: Claim, end: &End) -> Result<(), WriteError> {
    let (status, error) = match end {
        End::Completed => ("completed", None),
        End::Failed(why) => ("failed", Some(storable(why))),
        End::Interrupted => ("interrupted", None),
    };
    let done = sqlx::query!(
        r#"
        update kaleyra_syncs
        set status = $3,
            error = $4,
            whole_to = case
                when $3 = 'completed' and first_day <= whole.day + 1
                    then greatest(
                        whole.day,
                        -- Of a day that is not over there is more to come.
                        least(last_day, (started_at at time zone 'Asia/Kolkata')::date - 1)
                    )
            end,
            finished_at = clock_timestamp(),
            heartbeat = clock_timestamp()
        from (
            select coalesce(
                       max(whole_to),
                       (
                           array_agg(first_day order by started_at, id) filter (
                               where status = 'completed'
                                  or id = $1
                                  or first_day > (started_at at time zone 'Asia/Kolkata')::date - 366
                           )
                       )[1] - 1
                   ) as day
            from kaleyra_syncs
            where organization_id = $5
        ) as whole
        where id = $1 and attempt = $2 and status = 'running'
        "#,
        claim.id,
        claim.attempt,
        status,
        error,
        claim.organization.0,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(WriteError::Lost) }
}

/// What a scheduled sync goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latest {
    /// The days of the latest run that was left within the last day, unless a later one had them as well.
    pub left: Option<(Date, Date)>,
    /// The first day of the first run that was completed, or that asked for days within the year before it: what is further
    /// back may be mistyped.
    pub asked_from: Option<Date>,
    /// The last day up to which all days from the first one on are on record as a whole.
    pub whole_to: Option<Date>,
    /// How long ago a run of what were today and the day before ended last, by the database's clock.
    pub recent_s_ago: Option<i64>,
    /// How long ago another one failed last.
    pub failed_s_ago: Option<i64>,
    /// A run is being carried.
    pub is_running: bool,
}

/// How things stand with syncs of an organisation.
pub async fn latest(store: &Store, organization: OrganizationId) -> sqlx::Result<Latest> {
    let found = sqlx::query!(
        r#"
        with runs as (
            select id, first_day, last_day, status, started_at, finished_at, whole_to,
                   extract(epoch from clock_timestamp() - heartbeat)::float8 as silent_s,
                   (started_at at time zone 'Asia/Kolkata')::date as started_day
            from kaleyra_syncs
            where organization_id = $1
        ),
        its_left as (
            select first_day, last_day
            from runs
            where (status = 'interrupted' or status = 'running' and silent_s >= $2)
              and silent_s < 86400
              and not exists (
                  select
                  from runs as later
                  where (later.started_at, later.id) > (runs.started_at, runs.id)
                    and later.first_day <= runs.first_day
                    and later.last_day >= runs.last_day
              )
            order by started_at desc, id desc
            limit 1
        )
        select its_left.first_day as "first_day?: jiff_sqlx::Date",
               its_left.last_day as "last_day?: jiff_sqlx::Date",
               summary.is_running as "is_running!",
               summary.recent_s_ago,
               summary.failed_s_ago,
               summary.asked_from as "asked_from?: jiff_sqlx::Date",
               summary.whole_to as "whole_to?: jiff_sqlx::Date"
        from (
            select coalesce(bool_or(status = 'running' and silent_s < $2), false) as is_running,
                   extract(epoch from clock_timestamp() - max(finished_at) filter (
                       where status in ('completed', 'failed') and first_day < started_day and last_day >= started_day
                   ))::bigint as recent_s_ago,
                   extract(epoch from clock_timestamp() - max(finished_at) filter (
                       where status = 'failed' and not (first_day < started_day and last_day >= started_day)
                   ))::bigint as failed_s_ago,
                   (
                       array_agg(first_day order by started_at, id) filter (
                           where status = 'completed' or first_day > started_day - 366
                       )
                   )[1] as asked_from,
                   max(whole_to) as whole_to
            from runs
        ) as summary
        left join its_left on true
        "#,
        organization.0,
        f64::from(STALE_AFTER_S),
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    let days = found.first_day.zip(found.last_day).map(|(first, last)| (first.to_jiff(), last.to_jiff()));
    Ok(Latest {
        left: days,
        asked_from: found.asked_from.map(jiff_sqlx::Date::to_jiff),
        whole_to: found.whole_to.map(jiff_sqlx::Date::to_jiff),
        recent_s_ago: found.recent_s_ago,
        failed_s_ago: found.failed_s_ago,
        is_running: found.is_running,
    })
}

/// Runs, newest first, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<KaleyraSync>, u64)> {
    let mut connection = store.connection().await?;
    let total = sqlx::query_scalar!(
        r#"select count(*) as "total!" from kaleyra_syncs where organization_id = $1"#,
        organization.0,
    )
    .fetch_one(&mut *connection)
    .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id, first_day as "first_day: jiff_sqlx::Date", last_day as "last_day: jiff_sqlx::Date", status,
               heartbeat < clock_timestamp() - make_interval(secs => $4) as "is_stale!",
               slice as "slice: jiff_sqlx::Date", page, fetched, inserted, updated, unchanged, rejected, reasons,
               error, node, started_at, heartbeat, finished_at, whole_to as "whole_to?: jiff_sqlx::Date"
        from kaleyra_syncs
        where organization_id = $1
        order by started_at desc, id desc
        limit $2 offset $3
        "#,
        organization.0,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
        f64::from(STALE_AFTER_S),
    )
    .fetch_all(&mut *connection)
    .await?;
    Ok((rows.into_iter().map(KaleyraSync::from).collect(), total.unsigned_abs()))
}

/// One run.
pub async fn find(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
) -> sqlx::Result<Option<KaleyraSync>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select id, first_day as "first_day: jiff_sqlx::Date", last_day as "last_day: jiff_sqlx::Date", status,
               heartbeat < clock_timestamp() - make_interval(secs => $3) as "is_stale!",
               slice as "slice: jiff_sqlx::Date", page, fetched, inserted, updated, unchanged, rejected, reasons,
               error, node, started_at, heartbeat, finished_at, whole_to as "whole_to?: jiff_sqlx::Date"
        from kaleyra_syncs
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        id,
        f64::from(STALE_AFTER_S),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(KaleyraSync::from))
}

/// A run as its columns are.
struct Row {
    id: Uuid,
    first_day: jiff_sqlx::Date,
    last_day: jiff_sqlx::Date,
    status: String,
    is_stale: bool,
    slice: jiff_sqlx::Date,
    page: i32,
    fetched: i64,
    inserted: i64,
    updated: i64,
    unchanged: i64,
    rejected: i64,
    reasons: Value,
    error: Option<String>,
    node: String,
    started_at: jiff_sqlx::Timestamp,
    heartbeat: jiff_sqlx::Timestamp,
    finished_at: Option<jiff_sqlx::Timestamp>,
    whole_to: Option<jiff_sqlx::Date>,
}

impl From<Row> for KaleyraSync {
    fn from(row: Row) -> Self {
        // Nobody is there to say so.
        let is_left = row.status == "running" && row.is_stale;
        Self {
            id: row.id,
            from: row.first_day.to_jiff(),
            to: row.last_day.to_jiff(),
            status: if is_left { "interrupted".to_owned() } else { row.status },
            day: row.slice.to_jiff(),
            page: row.page,
            fetched: row.fetched,
            inserted: row.inserted,
            updated: row.updated,
            unchanged: row.unchanged,
            rejected: row.rejected,
            reasons: serde_json::from_value(row.reasons).unwrap_or_default(),
            error: row.error,
            node: row.node,
            started_at: row.started_at.to_jiff(),
            heartbeat: row.heartbeat.to_jiff(),
            finished_at: row.finished_at.map(jiff_sqlx::Timestamp::to_jiff),
            whole_to: row.whole_to.map(jiff_sqlx::Date::to_jiff),
        }
    }
}
