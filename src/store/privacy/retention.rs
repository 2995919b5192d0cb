//! Removes words and payloads by their age, as each organisation wants it.
//!
//! What goes is a list (`held`): each entry says which rows of a table still hold something that is too old,
//! and how they are emptied. A run takes them in that order, some rows a transaction, and notes with each transaction what it
//! has removed, so that it can be broken off at any moment, gone on with elsewhere, and repeated at will. What is derived is
//! made of turns and events, so those go first: whoever derives records again meanwhile finds nothing to make them of.
//!
//! Nothing is touched of a call that is live, nor of the last day.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff_sqlx::ToSqlx;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::held::{
    By, briefings, callbacks, commands, deliveries, events, for_each_table, handoffs, interactions, logs,
    menu_calls, menu_messages, reports, told, turns,
};
use crate::ids::OrganizationId;
use crate::store::privacy::Patience;
use crate::store::{Store, storable};

/// A run that has shown no sign of life for so long is gone on with by whoever looks next.
const SILENT_FOR: &str = "10 minutes";
/// How long what a dry run has said counts as looked at.
const LOOKED_AT_WITHIN: &str = "24 hours";

/// How long something is kept, in days, 1 to 3650; `None` is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Days {
    /// What was said and what was written from it: turns, transcripts, summaries, words of the agent and of operators.
    #[schema(example = 90)]
    pub transcript_days: Option<i32>,
    /// What others sent as they sent it: callbacks of the carrier, the end-of-call report beside its figures.
    #[schema(example = 30)]
    pub payload_days: Option<i32>,
}

impl Days {
    /// These, or the other's where it keeps more.
    fn but_no_less_than(self, other: Self) -> Self {
        let more = |mine: Option<i32>, other: Option<i32>| Some(mine?.max(other?));
        Self {
            transcript_days: more(self.transcript_days, other.transcript_days),
            payload_days: more(self.payload_days, other.payload_days),
        }
    }
}

/// What an organisation has decided.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, utoipa::ToSchema)]
pub struct Policy {
    /// How long, as it is now.
    #[serde(flatten)]
    pub days: Days,
    /// Since when. Null: nobody has ever had anything removed.
    pub confirmed_at: Option<Timestamp>,
    /// Days that keep less than these: they wait until a dry run of them is confirmed. Null: nothing waits.
    pub wanted: Option<Days>,
}

impl Policy {
    /// What a dry run is about: what waits to be confirmed, or else what is in force.
    #[must_use]
    pub fn looked_at(&self) -> Days {
        self.wanted.unwrap_or(self.days)
    }
}

/// What came of deciding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decided {
    /// This is the policy now; what was decided may wait in it.
    Policy(Policy),
    /// The dry run that was named is none of these very days, or too old.
    NotLookedAt,
}

/// What was removed of a table, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Removed {
    /// The table.
    #[schema(example = "conversation_transcripts")]
    pub table: String,
    /// `words` or `payload`.
    #[schema(example = "words")]
    pub what: String,
    /// How many rows.
    #[schema(example = 1200)]
    pub rows: i64,
    /// The oldest of them.
    pub oldest: Option<Timestamp>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Run {
    /// Id.
    pub id: Uuid,
    /// Who began it: `nightly`, `command` or `api`.
    #[schema(example = "nightly")]
    pub trigger: String,
    /// In UTC.
    #[schema(value_type = String, format = Date, example = "2026-03-02")]
    pub day: Date,
    /// Nothing was removed: the figures are what would be.
    pub dry_run: bool,
    /// By which policy.
    #[serde(flatten)]
    pub days: Days,
    /// By table; tables with nothing to remove are left out.
    pub counts: Vec<Removed>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it was done. Null: it goes on, or will be gone on with.
    pub finished_at: Option<Timestamp>,
    /// What it was last held up by; it is tried again.
    pub error: Option<String>,
}

/// Who begins a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The job, once a night.
    Nightly,
    /// The command line.
    Command,
    /// A request.
    Api,
}

impl Trigger {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Nightly => "nightly",
            Self::Command => "command",
            Self::Api => "api",
        }
    }
}

/// A run that is to be gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The run.
    pub id: Uuid,
    /// Whose rows.
    pub organization: OrganizationId,
    /// By which policy.
    pub days: Days,
    /// How far this server has come with it.
    pub reached: Reached,
}

/// How far a run has come: what lies before is done, and is not looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reached {
    /// Place in the list of what goes.
    table: usize,
    /// Its oldest rows up to here are gone.
    since: Option<Timestamp>,
}

/// The policy of an organisation; without one everything is kept.
pub async fn policy(store: &Store, organization: OrganizationId) -> sqlx::Result<Policy> {
    let mut connection = store.connection().await?;
    Ok(policy_of(&mut connection, organization).await?.unwrap_or_default())
}

/// What counts now. Nobody decides anew before this transaction is over.
async fn policy_in_force(
    connection: &mut PgConnection,
    organization: OrganizationId,
) -> sqlx::Result<Option<Days>> {
    let row = sqlx::query!(
        r#"
        select transcript_days, payload_days
        from retention_policies
        where organization_id = $1 and confirmed_at is not null
        for share
        "#,
        organization.0,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Days { transcript_days: row.transcript_days, payload_days: row.payload_days }))
}

async fn policy_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
) -> sqlx::Result<Option<Policy>> {
    let row = sqlx::query!(
        r#"
        select transcript_days, payload_days, confirmed_at,
               wanted_transcript_days, wanted_payload_days, wanted_at is not null as "is_more_wanted!"
        from retention_policies
        where organization_id = $1
        "#,
        organization.0,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Policy {
        days: Days { transcript_days: row.transcript_days, payload_days: row.payload_days },
        confirmed_at: row.confirmed_at.map(jiff_sqlx::Timestamp::to_jiff),
        wanted: row.is_more_wanted.then_some(Days {
            transcript_days: row.wanted_transcript_days,
            payload_days: row.wanted_payload_days,
        }),
    }))
}

/// Decides how long things are kept. What keeps more than before is in force at once; keeping less waits, beside what is in
/// force, until it is confirmed by naming a dry run of these very days that was made within the last day: `confirm`.
pub async fn decide(
    store: &Store,
    organization: OrganizationId,
    days: Days,
    confirm: Option<Uuid>,
) -> sqlx::Result<Decided> {
    let mut work = store.begin().await?;
    // Locked, so that two who decide do so one after the other.
    sqlx::query!(
        r#"
        insert into retention_policies (organization_id)
        values ($1)
        on conflict (organization_id) do update
        set updated_at = now()
        "#,
        organization.0,
    )
    .execute(&mut *work)
    .await?;
    let before = policy_of(&mut work, organization).await?.ok_or(sqlx::Error::RowNotFound)?.days;
    let in_force = match confirm {
        Some(run) if was_looked_at(&mut work, organization, days, run).await? => days,
        Some(_) => return Ok(Decided::NotLookedAt),
        None => days.but_no_less_than(before),
    };
    let wanted = Some(days).filter(|days| *days != in_force);
    sqlx::query!(
        r#"
        update retention_policies
        set transcript_days = $2,
            payload_days = $3,
            confirmed_at = case when $4 then now() else confirmed_at end,
            wanted_transcript_days = $5,
            wanted_payload_days = $6,
            wanted_at = case when $7 then now() end,
            updated_at = now()
        where organization_id = $1
        "#,
        organization.0,
        in_force.transcript_days,
        in_force.payload_days,
        in_force != before,
        wanted.and_then(|wanted| wanted.transcript_days),
        wanted.and_then(|wanted| wanted.payload_days),
        wanted.is_some(),
    )
    .execute(&mut *work)
    .await?;
    let policy = policy_of(&mut work, organization).await?.ok_or(sqlx::Error::RowNotFound)?;
    work.commit().await?;
    Ok(Decided::Policy(policy))
}

async fn was_looked_at(
    connection: &mut PgConnection,
    organization: OrganizationId,
    days: Days,
    run: Uuid,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"
        select exists (
            select
            from retention_runs
            where id = $2
              and organization_id = $1
              and dry_run
              and finished_at > now() - $5::text::interval
              and transcript_days is not distinct from $3
              and payload_days is not distinct from $4
        ) as "was!"
        "#,
        organization.0,
        run,
        days.transcript_days,
        days.payload_days,
        LOOKED_AT_WITHIN,
    )
    .fetch_one(connection)
    .await
}

/// Says what would be removed by these days, and keeps that as a run. Works on the server's own store, since it notes it.
pub async fn dry_run(
    store: &Store,
    organization: OrganizationId,
    days: Days,
    trigger: Trigger,
) -> sqlx::Result<Run> {
    let mut counts = Vec::new();
    let mut work = store.begin().await?;
    let patience = if trigger == Trigger::Api { Patience::Request } else { Patience::Command };
    patience.allow(&mut work).await?;
    macro_rules! count {
        ($by:expr, $table:literal, $module:ident) => {
            if let Some(before) = before(&mut work, $by.days(days)).await? {
                let (rows, oldest) = $module::count(&mut work, organization, before).await?;
                add(&mut counts, $table, $by, rows, oldest);
            }
        };
    }
    for_each_table!(count);
    let row = sqlx::query!(
        r#"
        insert into retention_runs (organization_id, "trigger", day, dry_run, transcript_days, payload_days, counts,
                                    finished_at)
        values ($1, $2, (now() at time zone 'UTC')::date, true, $3, $4, $5, now())
        returning id
        "#,
        organization.0,
        trigger.as_str(),
        days.transcript_days,
        days.payload_days,
        Json(&counts) as _,
    )
    .fetch_one(&mut *work)
    .await?;
    work.commit().await?;
    run(store, organization, row.id).await?.ok_or(sqlx::Error::RowNotFound)
}

/// Begins a run by the organisation's policy. `None`: it has none that counts, or keeps everything.
pub async fn begin(
    store: &Store,
    organization: OrganizationId,
    trigger: Trigger,
) -> sqlx::Result<Option<Claimed>> {
    let row = sqlx::query!(
        r#"
        insert into retention_runs (organization_id, "trigger", day, dry_run, transcript_days, payload_days)
        select organization_id, $2, (now() at time zone 'UTC')::date, false, transcript_days, payload_days
        from retention_policies
        where organization_id = $1
          and confirmed_at is not null
          and coalesce(transcript_days, payload_days) is not null
        returning id, transcript_days, payload_days
        "#,
        organization.0,
        trigger.as_str(),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(|row| Claimed {
        id: row.id,
        organization,
        days: Days { transcript_days: row.transcript_days, payload_days: row.payload_days },
        reached: Reached::default(),
    }))
}

/// Takes a run of this night: of an organisation that has had none since `from` o'clock UTC and has decided before, or one that fell silent, the
/// night before's included. One server gets it. `None`: there is nothing to do.
pub async fn claim_nightly(store: &Store, from: jiff::civil::Time) -> sqlx::Result<Option<Claimed>> {
    let row = sqlx::query!(
        r#"
        with silent as (
            select id
            from retention_runs
            where finished_at is null and not dry_run and seen_at < now() - $2::text::interval
            order by started_at
            limit 1
            for update skip locked
        ),
        taken as (
            update retention_runs
            set seen_at = now()
            from silent
            where retention_runs.id = silent.id
            returning retention_runs.id, organization_id, transcript_days, payload_days
        ),
        begun as (
            insert into retention_runs (organization_id, "trigger", day, dry_run, transcript_days, payload_days)
            select organization_id, 'nightly', (now() at time zone 'UTC')::date, false, transcript_days, payload_days
            from retention_policies p
            -- Whoever has just decided has until the night to think better of it.
            where confirmed_at < ((now() at time zone 'UTC')::date + $1::time) at time zone 'UTC'
              and coalesce(transcript_days, payload_days) is not null
              and (now() at time zone 'UTC')::time >= $1
              and not exists (select from taken)
              and not exists (
                  select
                  from retention_runs r
                  where r.organization_id = p.organization_id
                    and r."trigger" = 'nightly'
                    and r.day = (now() at time zone 'UTC')::date
              )
            order by organization_id
            limit 1
            on conflict do nothing
            returning id, organization_id, transcript_days, payload_days
        )
        select id as "id!", organization_id as "organization_id!", transcript_days, payload_days from taken
        union all
        select id, organization_id, transcript_days, payload_days from begun
        "#,
        from.to_sqlx() as _,
        SILENT_FOR,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(|row| Claimed {
        id: row.id,
        organization: row.organization_id.into(),
        days: Days { transcript_days: row.transcript_days, payload_days: row.payload_days },
        reached: Reached::default(),
    }))
}

/// Removes at most `most` rows, in one transaction with the note of it. `None`: there is nothing left, and the run is done.
///
/// Goes on where the step before has stopped. What has grown old behind it is left to the next night.
pub async fn step(store: &Store, claimed: &mut Claimed, most: i64) -> sqlx::Result<Option<Removed>> {
    let Claimed { id, organization, days, reached } = claimed;
    let mut work = store.begin().await?;
    Patience::Command.allow(&mut work).await?;
    // A run may have been held up for days: whoever has decided to keep more since then is obeyed.
    let days = &match policy_in_force(&mut work, *organization).await? {
        Some(now) => days.but_no_less_than(now),
        None => Days::default(),
    };
    let mut places = 0..;
    macro_rules! empty {
        ($by:expr, $table:literal, $module:ident) => {
            let place = places.next().unwrap_or(usize::MAX);
            if place >= reached.table
                && let Some(before) = before(&mut work, $by.days(*days)).await?
            {
                let since = reached.since.filter(|_| place == reached.table);
                let emptied = $module::empty(&mut work, *organization, before, since, most).await?;
                if emptied.rows > 0 {
                    let removed = Removed {
                        table: $table.to_owned(),
                        what: $by.as_str().to_owned(),
                        rows: emptied.rows,
                        oldest: emptied.oldest,
                    };
                    note(&mut work, *id, &removed).await?;
                    work.commit().await?;
                    *reached = Reached { table: place, since: emptied.newest };
                    return Ok(Some(removed));
                }
            }
        };
    }
    for_each_table!(empty);
    sqlx::query!(
        "update retention_runs set finished_at = now(), seen_at = now(), error = null where id = $1",
        *id
    )
    .execute(&mut *work)
    .await?;
    work.commit().await?;
    Ok(None)
}

/// Notes by what a run is held up. It is gone on with when it has been silent for a while.
pub async fn hold_up(store: &Store, run: Uuid, error: &str) -> sqlx::Result<()> {
    sqlx::query!("update retention_runs set error = $2 where id = $1", run, storable(error))
        .execute(&mut *store.connection().await?)
        .await?;
    Ok(())
}

/// Runs of an organisation, latest first, and how many there are in all.
pub async fn runs(
    store: &Store,
    organization: OrganizationId,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<Run>, u64)> {
    let mut connection = store.connection().await?;
    let total = sqlx::query_scalar!(
        r#"select count(*) as "count!" from retention_runs where organization_id = $1"#,
        organization.0,
    )
    .fetch_one(&mut *connection)
    .await?;
    Ok((select(&mut connection, organization, None, limit, offset).await?, total.unsigned_abs()))
}

/// One run.
pub async fn run(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<Option<Run>> {
    let mut connection = store.connection().await?;
    Ok(select(&mut connection, organization, Some(id), 1, 0).await?.pop())
}

async fn select(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: Option<Uuid>,
    limit: u32,
    offset: u64,
) -> sqlx::Result<Vec<Run>> {
    let rows = sqlx::query!(
        r#"
        select id, "trigger", day as "day: jiff_sqlx::Date", dry_run, transcript_days, payload_days,
               counts as "counts: Json<Vec<Removed>>", started_at, finished_at, error
        from retention_runs
        where organization_id = $1 and ($2::uuid is null or id = $2)
        order by started_at desc, id
        limit $3 offset $4
        "#,
        organization.0,
        id,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(connection)
    .await?;
    let runs = rows.into_iter().map(|row| Run {
        id: row.id,
        trigger: row.trigger,
        day: row.day.to_jiff(),
        dry_run: row.dry_run,
        days: Days { transcript_days: row.transcript_days, payload_days: row.payload_days },
        counts: row.counts.0,
        started_at: row.started_at.to_jiff(),
        finished_at: row.finished_at.map(jiff_sqlx::Timestamp::to_jiff),
        error: row.error,
    });
    Ok(runs.collect())
}

/// The moment before which something is too old. Of the last day nothing ever is: its calls may not be over.
async fn before(connection: &mut PgConnection, days: Option<i32>) -> sqlx::Result<Option<Timestamp>> {
    let Some(days) = days else { return Ok(None) };
    let before =
        sqlx::query_scalar!(r#"select now() - make_interval(days => greatest($1, 1)) as "before!""#, days)
            .fetch_one(connection)
            .await?;
    Ok(Some(before.to_jiff()))
}

/// Adds to what the run has removed of a table.
async fn note(connection: &mut PgConnection, run: Uuid, removed: &Removed) -> sqlx::Result<()> {
    let row = sqlx::query!(
        r#"select counts as "counts: Json<Vec<Removed>>" from retention_runs where id = $1 for update"#,
        run,
    )
    .fetch_optional(&mut *connection)
    .await?;
    let mut counts = row.map(|row| row.counts.0).unwrap_or_default();
    let known =
        counts.iter_mut().find(|known| (&known.table, &known.what) == (&removed.table, &removed.what));
    match known {
        Some(known) => {
            known.rows += removed.rows;
            known.oldest = known.oldest.into_iter().chain(removed.oldest).min();
        }
        None => counts.push(removed.clone()),
    }
    sqlx::query!(
        "update retention_runs set counts = $2, seen_at = now() where id = $1",
        run,
        Json(&counts) as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn add(counts: &mut Vec<Removed>, table: &str, by: By, rows: i64, oldest: Option<Timestamp>) {
    if rows > 0 {
        counts.push(Removed { table: table.to_owned(), what: by.as_str().to_owned(), rows, oldest });
    }
}
