//! Kaleyra's log of calls: rows are written by syncs only.

pub mod figures;
pub mod syncs;
pub mod tidy;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use sqlx::postgres::PgConnection;

use crate::ids::OrganizationId;
use crate::store::{Store, storable, storable_json};

/// Telephones that leads are looked for by at a time: a statement takes well under a second.
pub const TIED_AT_ONCE: i64 = 500;

/// A row as a sync brings it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogRow {
    /// Kaleyra's id of the leg.
    pub id: String,
    /// Kaleyra's internal id.
    pub uniqid: Option<String>,
    /// As Kaleyra writes it.
    pub callfrom: String,
    /// As Kaleyra writes it.
    pub callto: String,
    /// When it began.
    pub start_time: Timestamp,
    /// When it was over.
    pub end_time: Option<Timestamp>,
    /// Seconds in all.
    pub duration: i32,
    /// Seconds of talk.
    pub billsec: i32,
    /// In upper case.
    pub status: String,
    /// State or circle of the caller.
    pub location: Option<String>,
    /// The caller's carrier.
    pub provider: Option<String>,
    /// `Incoming`, `CallForward`, `Click2Call`, or another word of Kaleyra's.
    pub service: String,
    /// The number of ours that it used.
    pub caller_id: Option<String>,
    /// Where the recording is.
    pub recording: Option<String>,
    /// Notes at Kaleyra.
    pub notes: Option<String>,
    /// Whatever was sent along.
    pub custom: Option<String>,
}

/// A record that is no row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Rejected {
    /// Kaleyra's id of the leg, where there is one.
    #[schema(example = "0ea1c5bc-0000-4000-8000-000000000001")]
    pub id: Option<String>,
    /// Why.
    #[schema(example = "start_time is missing")]
    pub reason: String,
}

/// What came of writing rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// They were not there.
    pub inserted: i64,
    /// They said something else.
    pub updated: i64,
    /// They were there just so.
    pub unchanged: i64,
}

/// Writes rows of different ids, each tied to the lead that its customer's telephone means, unless it was before. Returns what
/// came of them, and the ids that are another organisation's rows, which stay as they are.
async fn write(
    connection: &mut PgConnection,
    organization: OrganizationId,
    rows: &[LogRow],
) -> sqlx::Result<(Written, Vec<String>)> {
    let rows = serde_json::to_value(rows).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    let outcomes = sqlx::query!(
        r#"
        with fresh as materialized (
            select *
            from jsonb_to_recordset($2) as fresh (
                id text, uniqid text, callfrom text, callto text, start_time timestamptz, end_time timestamptz,
                duration integer, billsec integer, status text, location text, provider text, service text,
                caller_id text, recording text, notes text, custom text
            )
        ),
        before as materialized (
            select logs.id, logs.uniqid, logs.callfrom, logs.callto, logs.start_time, logs.end_time, logs.duration,
                   logs.billsec, logs.status, logs.location, logs.provider, logs.service, logs.caller_id,
                   logs.recording, logs.notes, logs.custom
            from kaleyra_call_logs logs
            join fresh on fresh.id = logs.id
        ),
        written as (
            insert into kaleyra_call_logs (
                organization_id, id, uniqid, callfrom, callto, start_time, end_time, duration, billsec, status,
                location, provider, service, caller_id, recording, notes, custom, lead_id
            )
            select $1, fresh.*,
                   (
                       select leads.id
                       from leads
                       where leads.organization_id = $1
                         and leads.phone = kaleyra_customer_phone(fresh.service, fresh.callfrom, fresh.callto)
                       order by leads.last_contacted_at desc nulls last, leads.id desc
                       limit 1
                   )
            from fresh
            order by fresh.id
            on conflict (id) do update
            set uniqid = excluded.uniqid,
                callfrom = excluded.callfrom,
                callto = excluded.callto,
                start_time = excluded.start_time,
                end_time = excluded.end_time,
                duration = excluded.duration,
                billsec = excluded.billsec,
                status = excluded.status,
                location = excluded.location,
                provider = excluded.provider,
                service = excluded.service,
                caller_id = excluded.caller_id,
                recording = excluded.recording,
                notes = excluded.notes,
                custom = excluded.custom,
                synced_at = now(),
                lead_id = coalesce(kaleyra_call_logs.lead_id, excluded.lead_id)
            where kaleyra_call_logs.organization_id = excluded.organization_id
            returning id
        )
        select fresh.id as "id!",
               written.id is null as "elsewhere!",
               before.id is null as "inserted!",
               before is distinct from fresh as "changed!"
        from fresh
        left join before on before.id = fresh.id
        left join written on written.id = fresh.id
        "#,
        organization.0,
        storable_json(rows),
    )
    .fetch_all(connection)
    .await?;
    let (mut written, mut elsewhere) = (Written::default(), Vec::new());
    for outcome in outcomes {
        if outcome.elsewhere {
            elsewhere.push(outcome.id);
        } else if outcome.inserted {
            written.inserted += 1;
        } else if outcome.changed {
            written.updated += 1;
        } else {
            written.unchanged += 1;
        }
    }
    Ok((written, elsewhere))
}

/// Ties rows without a lead to leads that have the customer's telephone by now: rows of the next [`TIED_AT_ONCE`] telephones
/// behind `after`, in the order of the index that has them. Returns the last one looked at, in E.164, to go on behind; `None`
/// is when all were.
// Each telephone is looked for by the index of leads; how many leads there are does not matter.
pub async fn tie_some(
    store: &Store,
    organization: OrganizationId,
    after: &str,
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        r#"
        with phones as materialized (
            select distinct kaleyra_customer_phone(service, callfrom, callto) as phone
            from kaleyra_call_logs
            where organization_id = $1
              and lead_id is null
              and kaleyra_customer_phone(service, callfrom, callto) > $2
            order by phone
            limit $3
        ),
        meant as materialized (
            select phones.phone, lead.id
            from phones
            cross join lateral (
                select leads.id
                from leads
                where leads.organization_id = $1 and leads.phone = phones.phone
                order by leads.last_contacted_at desc nulls last, leads.id desc
                limit 1
            ) as lead
        ),
        tied as (
            update kaleyra_call_logs as logs
            set lead_id = meant.id
            from meant
            where logs.organization_id = $1
              and logs.lead_id is null
              and kaleyra_customer_phone(logs.service, logs.callfrom, logs.callto) = meant.phone
        )
        select max(phone) as last
        from phones
        "#,
        organization.0,
        after,
        TIED_AT_ONCE,
    )
    .fetch_one(&mut *store.connection().await?)
    .await
}

/// One leg of a call that Kaleyra handled.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct KaleyraCallLog {
    /// Kaleyra's id of the leg.
    #[schema(example = "0ea1c5bc-0000-4000-8000-000000000001")]
    pub id: String,
    /// Kaleyra's internal id.
    #[schema(example = "58_1771925707.21729277")]
    pub uniqid: Option<String>,
    /// As Kaleyra writes it. The customer, except of `Click2Call`.
    #[schema(example = "9812345678")]
    pub callfrom: String,
    /// The number that was called, or the agent's; of `Click2Call` the customer.
    #[schema(example = "8068921234")]
    pub callto: String,
    /// When it began.
    pub start_time: Timestamp,
    /// When it was over.
    pub end_time: Option<Timestamp>,
    /// Seconds in all.
    pub duration: i32,
    /// Seconds of talk.
    #[schema(example = 60)]
    pub billsec: i32,
    /// `ANSWER`, `NOANSWER`, `BUSY`, `CANCEL`, `FAILED`, `CONGESTION`, `ANSWERED-A`, `ANSWERED-B`, `ACCEPTED`, `FORWARDED`, or
    /// another word of Kaleyra's.
    #[schema(example = "ANSWER")]
    pub status: String,
    /// State or circle of the caller.
    #[schema(example = "BIHAR")]
    pub location: Option<String>,
    /// The caller's carrier.
    #[schema(example = "JIO")]
    pub provider: Option<String>,
    /// `Incoming`, `CallForward`, `Click2Call`, or another word of Kaleyra's.
    #[schema(example = "Incoming")]
    pub service: String,
    /// The number of yours that it used.
    #[schema(example = "8068921234")]
    pub caller_id: Option<String>,
    /// Where Kaleyra keeps the recording.
    #[schema(example = "//play.solutionsinfini.com/?id=1")]
    pub recording: Option<String>,
    /// Notes at Kaleyra.
    pub notes: Option<String>,
    /// Whatever was sent along with the call.
    #[schema(example = "order 7")]
    pub custom: Option<String>,
    /// When a sync last saw it.
    pub synced_at: Timestamp,
    /// Who the customer is, by telephone.
    pub lead_id: Option<i64>,
}

/// Which legs are wanted. What is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct LogFilter {
    /// Began then or later.
    pub from: Option<Timestamp>,
    /// Began before.
    pub to: Option<Timestamp>,
    /// `Incoming`, `CallForward`, ….
    pub service: Option<String>,
    /// `ANSWER`, ….
    pub status: Option<String>,
    /// Whom it went to, as Kaleyra writes it.
    pub callto: Option<String>,
    /// With this lead.
    pub lead_id: Option<i64>,
}

/// Legs, newest first, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    filter: &LogFilter,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<KaleyraCallLog>, u64)> {
    let mut connection = store.connection().await?;
    let text = |value: &Option<String>| value.as_deref().map(storable);
    let (service, status, callto) = (text(&filter.service), text(&filter.status), text(&filter.callto));
    let total = sqlx::query_scalar!(
        r#"
        select count(*) as "total!"
        from kaleyra_call_logs
        where organization_id = $1
          and ($2::timestamptz is null or start_time >= $2)
          and ($3::timestamptz is null or start_time < $3)
          and ($4::text is null or service = $4)
          and ($5::text is null or status = $5)
          and ($6::text is null or callto = $6)
          and ($7::bigint is null or lead_id = $7)
        "#,
        organization.0,
        filter.from.map(ToSqlx::to_sqlx) as _,
        filter.to.map(ToSqlx::to_sqlx) as _,
        service,
        status,
        callto,
        filter.lead_id,
    )
    .fetch_one(&mut *connection)
    .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id, uniqid, callfrom, callto, start_time, end_time, duration, billsec, status, location, provider, service,
               caller_id, recording, notes, custom, synced_at, lead_id
        from kaleyra_call_logs
        where organization_id = $1
          and ($2::timestamptz is null or start_time >= $2)
          and ($3::timestamptz is null or start_time < $3)
          and ($4::text is null or service = $4)
          and ($5::text is null or status = $5)
          and ($6::text is null or callto = $6)
          and ($7::bigint is null or lead_id = $7)
        order by start_time desc, id
        limit $8 offset $9
        "#,
        organization.0,
        filter.from.map(ToSqlx::to_sqlx) as _,
        filter.to.map(ToSqlx::to_sqlx) as _,
        service,
        status,
        callto,
        filter.lead_id,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *connection)
    .await?;
    Ok((rows.into_iter().map(KaleyraCallLog::from).collect(), total.unsigned_abs()))
}

/// One leg, by Kaleyra's id.
pub async fn find(
    store: &Store,
    organization: OrganizationId,
    id: &str,
) -> sqlx::Result<Option<KaleyraCallLog>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select id, uniqid, callfrom, callto, start_time, end_time, duration, billsec, status, location, provider, service,
               caller_id, recording, notes, custom, synced_at, lead_id
        from kaleyra_call_logs
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        storable(id),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(KaleyraCallLog::from))
}

/// A leg as its columns are.
struct Row {
    id: String,
    uniqid: Option<String>,
    callfrom: String,
    callto: String,
    start_time: jiff_sqlx::Timestamp,
    end_time: Option<jiff_sqlx::Timestamp>,
    duration: i32,
    billsec: i32,
    status: String,
    location: Option<String>,
    provider: Option<String>,
    service: String,
    caller_id: Option<String>,
    recording: Option<String>,
    notes: Option<String>,
    custom: Option<String>,
    synced_at: jiff_sqlx::Timestamp,
    lead_id: Option<i64>,
}

impl From<Row> for KaleyraCallLog {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            uniqid: row.uniqid,
            callfrom: row.callfrom,
            callto: row.callto,
            start_time: row.start_time.to_jiff(),
            end_time: row.end_time.map(jiff_sqlx::Timestamp::to_jiff),
            duration: row.duration,
            billsec: row.billsec,
            status: row.status,
            location: row.location,
            provider: row.provider,
            service: row.service,
            caller_id: row.caller_id,
            recording: row.recording,
            notes: row.notes,
            custom: row.custom,
            synced_at: row.synced_at.to_jiff(),
            lead_id: row.lead_id,
        }
    }
}
