//! Menu systems elsewhere, and the calls that they tell of.

pub mod messages;
pub mod numbers;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::ids::OrganizationId;
use crate::store::{Deleted, Store, storable, storable_json};

/// A system that tells of its calls.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct IvrProvider {
    /// Our id.
    pub id: Uuid,
    /// In the path of its webhook.
    #[schema(example = "front-office")]
    pub name: String,
    /// Our names to its: JSON pointers, paths with dots, or names of form fields.
    #[schema(value_type = Object)]
    pub mapping: Value,
    /// IANA name of the zone that its times are in where they do not say.
    #[schema(example = "Asia/Kolkata")]
    pub time_zone: String,
    /// Its words for calls that are over, in whatever case.
    #[schema(example = json!(["completed", "no-answer"]))]
    pub final_statuses: Vec<String>,
    /// Whose numbers those are that it sends without a plus, by the two letters of ISO 3166-1. Null: by those no lead is looked
    /// for.
    #[schema(example = "IN")]
    pub country_code: Option<String>,
    /// False: what it sends is refused.
    pub active: bool,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// What a provider is to be.
#[derive(Debug, Clone)]
pub struct NewProvider<'a> {
    /// In the path.
    pub name: &'a str,
    /// Of its secret.
    pub secret_sha256: &'a [u8],
    /// Our names to its.
    pub mapping: Value,
    /// IANA name.
    pub time_zone: &'a str,
    /// Its words for calls that are over.
    pub final_statuses: &'a [String],
    /// Two letters.
    pub country_code: Option<&'a str>,
    /// Whether it may send.
    pub active: bool,
}

/// What to change; `None` leaves it.
#[derive(Debug, Clone, Default)]
pub struct ProviderChange {
    /// In the path.
    pub name: Option<String>,
    /// Our names to its.
    pub mapping: Option<Value>,
    /// IANA name.
    pub time_zone: Option<String>,
    /// Its words for calls that are over, all of them.
    pub final_statuses: Option<Vec<String>>,
    /// Two letters, or none.
    pub country_code: Option<Option<String>>,
    /// Whether it may send.
    pub active: Option<bool>,
}

/// Providers of the organisation by name, and how many there are in all.
pub async fn providers(
    store: &Store,
    organization: OrganizationId,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<IvrProvider>, u64)> {
    let total = sqlx::query_scalar!(
        r#"select count(*) as "count!" from ivr_providers where organization_id = $1"#,
        organization.0
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    let rows = sqlx::query_as!(
        ProviderRow,
        r#"
        select id, name, mapping, time_zone, final_statuses, country_code, active, created_at, updated_at
        from ivr_providers
        where organization_id = $1
        order by name
        limit $2
        offset $3
        "#,
        organization.0,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    Ok((rows.into_iter().map(IvrProvider::from).collect(), total.unsigned_abs()))
}

/// One provider.
pub async fn provider(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
) -> sqlx::Result<Option<IvrProvider>> {
    let row = sqlx::query_as!(
        ProviderRow,
        r#"
        select id, name, mapping, time_zone, final_statuses, country_code, active, created_at, updated_at
        from ivr_providers
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        id,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(IvrProvider::from))
}

/// Adds a provider. Fails by `ivr_providers_name` when there is one of that name.
pub async fn create_provider(
    store: &Store,
    organization: OrganizationId,
    new: &NewProvider<'_>,
) -> sqlx::Result<IvrProvider> {
    let row = sqlx::query_as!(
        ProviderRow,
        r#"
        insert into ivr_providers (
            organization_id, name, secret_sha256, mapping, time_zone, final_statuses, country_code, active
        )
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        returning id, name, mapping, time_zone, final_statuses, country_code, active, created_at, updated_at
        "#,
        organization.0,
        new.name,
        new.secret_sha256,
        storable_json(new.mapping.clone()),
        new.time_zone,
        new.final_statuses,
        new.country_code,
        new.active,
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Ok(IvrProvider::from(row))
}

/// Changes what there is to change. `None`: no such provider in this organisation. Fails by `ivr_providers_name` when there
/// is another of that name. Another country has all numbers that it has sent read anew, and its calls tied to whose they are.
pub async fn update_provider(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
    change: &ProviderChange,
) -> sqlx::Result<Option<IvrProvider>> {
    let mut work = store.begin().await?;
    let before = sqlx::query_scalar!(
        "select country_code from ivr_providers where organization_id = $1 and id = $2 for update",
        organization.0,
        id,
    )
    .fetch_optional(&mut *work)
    .await?;
    let Some(country_before) = before else { return Ok(None) };
    let row = sqlx::query_as!(
        ProviderRow,
        r#"
        update ivr_providers
        set name = coalesce($3, name),
            mapping = coalesce($4, mapping),
            time_zone = coalesce($5, time_zone),
            final_statuses = coalesce($6, final_statuses),
            country_code = case when $7 then $8 else country_code end,
            active = coalesce($9, active),
            updated_at = now()
        where organization_id = $1 and id = $2
        returning id, name, mapping, time_zone, final_statuses, country_code, active, created_at, updated_at
        "#,
        organization.0,
        id,
        change.name.as_deref(),
        change.mapping.clone().map(storable_json),
        change.time_zone.as_deref(),
        change.final_statuses.as_deref(),
        change.country_code.is_some(),
        change.country_code.as_ref().and_then(Option::as_deref),
        change.active,
    )
    .fetch_one(&mut *work)
    .await?;
    let provider = IvrProvider::from(row);
    if provider.country_code != country_before {
        numbers::read_anew(&mut work, organization, &provider).await?;
    }
    work.commit().await?;
    Ok(Some(provider))
}

/// Has a provider show another secret from now on. `None`: no such provider in this organisation.
pub async fn replace_secret(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
    secret_sha256: &[u8],
) -> sqlx::Result<Option<IvrProvider>> {
    let row = sqlx::query_as!(
        ProviderRow,
        r#"
        update ivr_providers
        set secret_sha256 = $3,
            updated_at = now()
        where organization_id = $1 and id = $2
        returning id, name, mapping, time_zone, final_statuses, country_code, active, created_at, updated_at
        "#,
        organization.0,
        id,
        secret_sha256,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(IvrProvider::from))
}

/// Removes a provider that has told of no call.
pub async fn delete_provider(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<Deleted> {
    let mut work = store.begin().await?;
    // Locked, so that no call of it comes meanwhile.
    let found = sqlx::query_scalar!(
        "select id from ivr_providers where organization_id = $1 and id = $2 for update",
        organization.0,
        id,
    )
    .fetch_optional(&mut *work)
    .await?;
    if found.is_none() {
        return Ok(Deleted::NotFound);
    }
    let used = sqlx::query_scalar!(
        r#"select exists (select from ivr_calls where organization_id = $1 and provider_id = $2) as "used!""#,
        organization.0,
        id,
    )
    .fetch_one(&mut *work)
    .await?;
    if used {
        return Ok(Deleted::InUse);
    }
    sqlx::query!("delete from ivr_providers where organization_id = $1 and id = $2", organization.0, id)
        .execute(&mut *work)
        .await?;
    work.commit().await?;
    Ok(Deleted::Done)
}

/// Whose webhook a request is meant for.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Whose it is.
    pub organization: OrganizationId,
    /// The digest of its secret, to be compared by whoever looks.
    pub secret_sha256: Vec<u8>,
    /// The provider.
    pub provider: IvrProvider,
}

/// The provider of this name and secret, of whichever organisation.
// Found by the digest, which whoever guesses secrets cannot choose: how long the look takes tells them nothing.
pub async fn sender(store: &Store, name: &str, secret_sha256: &[u8]) -> sqlx::Result<Option<Sender>> {
    let row = sqlx::query!(
        r#"
        select id, organization_id, name, secret_sha256, mapping, time_zone, final_statuses, country_code, active,
               created_at, updated_at
        from ivr_providers
        where name = $1 and secret_sha256 = $2
        "#,
        storable(name),
        secret_sha256,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(|row| Sender {
        organization: row.organization_id.into(),
        secret_sha256: row.secret_sha256,
        provider: IvrProvider {
            id: row.id,
            name: row.name,
            mapping: row.mapping,
            time_zone: row.time_zone,
            final_statuses: row.final_statuses,
            country_code: row.country_code,
            active: row.active,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
        },
    }))
}

/// A call as a provider has told of it: of each member what the newest message says that says anything of it.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct IvrCall {
    /// Our id.
    pub id: Uuid,
    /// Who told of it.
    pub provider_id: Uuid,
    /// The provider's id of the call.
    #[schema(example = "7f3c2d")]
    pub provider_call_id: String,
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
    /// Keys that the caller pressed, or the entries chosen by them.
    #[schema(example = "2")]
    pub digits: Option<String>,
    /// Where a recording is.
    #[schema(example = "https://example.com/7f3c2d.wav")]
    pub recording_url: Option<String>,
    /// Who has the caller's number, or else the called one.
    pub lead_id: Option<i64>,
    /// When what was told last happened, by the provider's clock.
    pub occurred_at: Option<Timestamp>,
    /// Members that the newest message has in a form that cannot be read.
    #[schema(example = json!(["duration"]))]
    pub unreadable: Vec<String>,
    /// The whole newest message.
    #[schema(value_type = Object)]
    pub payload: Value,
    /// When the latest message came that had not come before.
    pub received_at: Timestamp,
}

/// Which calls are wanted. What is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct IvrFilter {
    /// Told of by this provider.
    pub provider_id: Option<Uuid>,
    /// With this lead.
    pub lead_id: Option<i64>,
    /// By the carrier's id.
    pub call_sid: Option<String>,
    /// The provider's word.
    pub status: Option<String>,
    /// Caller or called number, as sent.
    pub number: Option<String>,
    /// Told of then or later.
    pub from: Option<Timestamp>,
    /// Told of before.
    pub to: Option<Timestamp>,
}

/// Calls, those that were told of last first, and how many there are in all.
pub async fn calls(
    store: &Store,
    organization: OrganizationId,
    filter: &IvrFilter,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<IvrCall>, u64)> {
    let mut connection = store.connection().await?;
    let text = |value: &Option<String>| value.as_deref().map(storable);
    let total = sqlx::query_scalar!(
        r#"
        select count(*) as "total!"
        from ivr_calls
        where organization_id = $1
          and ($2::uuid is null or provider_id = $2)
          and ($3::bigint is null or lead_id = $3)
          and ($4::text is null or call_sid = $4)
          and ($5::text is null or status = $5)
          and ($6::text is null or from_number = $6 or to_number = $6)
          and ($7::timestamptz is null or received_at >= $7)
          and ($8::timestamptz is null or received_at < $8)
        "#,
        organization.0,
        filter.provider_id,
        filter.lead_id,
        text(&filter.call_sid),
        text(&filter.status),
        text(&filter.number),
        filter.from.map(ToSqlx::to_sqlx) as _,
        filter.to.map(ToSqlx::to_sqlx) as _,
    )
    .fetch_one(&mut *connection)
    .await?;
    let rows = sqlx::query_as!(
        CallRow,
        r#"
        select id, provider_id, provider_call_id, call_sid, from_number, to_number, status, started_at, ended_at,
               duration, digits, recording_url, lead_id, occurred_at, unreadable, payload, received_at
        from ivr_calls
        where organization_id = $1
          and ($2::uuid is null or provider_id = $2)
          and ($3::bigint is null or lead_id = $3)
          and ($4::text is null or call_sid = $4)
          and ($5::text is null or status = $5)
          and ($6::text is null or from_number = $6 or to_number = $6)
          and ($7::timestamptz is null or received_at >= $7)
          and ($8::timestamptz is null or received_at < $8)
        order by received_at desc, id
        limit $9 offset $10
        "#,
        organization.0,
        filter.provider_id,
        filter.lead_id,
        text(&filter.call_sid),
        text(&filter.status),
        text(&filter.number),
        filter.from.map(ToSqlx::to_sqlx) as _,
        filter.to.map(ToSqlx::to_sqlx) as _,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *connection)
    .await?;
    Ok((rows.into_iter().map(IvrCall::from).collect(), total.unsigned_abs()))
}

/// One call.
pub async fn call(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<Option<IvrCall>> {
    let row = sqlx::query_as!(
        CallRow,
        r#"
        select id, provider_id, provider_call_id, call_sid, from_number, to_number, status, started_at, ended_at,
               duration, digits, recording_url, lead_id, occurred_at, unreadable, payload, received_at
        from ivr_calls
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        id,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(IvrCall::from))
}

/// A provider as its columns are.
struct ProviderRow {
    id: Uuid,
    name: String,
    mapping: Value,
    time_zone: String,
    final_statuses: Vec<String>,
    country_code: Option<String>,
    active: bool,
    created_at: jiff_sqlx::Timestamp,
    updated_at: jiff_sqlx::Timestamp,
}

impl From<ProviderRow> for IvrProvider {
    fn from(row: ProviderRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            mapping: row.mapping,
            time_zone: row.time_zone,
            final_statuses: row.final_statuses,
            country_code: row.country_code,
            active: row.active,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
        }
    }
}

/// A call as its columns are.
struct CallRow {
    id: Uuid,
    provider_id: Uuid,
    provider_call_id: String,
    call_sid: Option<String>,
    from_number: Option<String>,
    to_number: Option<String>,
    status: Option<String>,
    started_at: Option<jiff_sqlx::Timestamp>,
    ended_at: Option<jiff_sqlx::Timestamp>,
    duration: Option<i32>,
    digits: Option<String>,
    recording_url: Option<String>,
    lead_id: Option<i64>,
    occurred_at: Option<jiff_sqlx::Timestamp>,
    unreadable: Vec<String>,
    payload: Value,
    received_at: jiff_sqlx::Timestamp,
}

impl From<CallRow> for IvrCall {
    fn from(row: CallRow) -> Self {
        Self {
            id: row.id,
            provider_id: row.provider_id,
            provider_call_id: row.provider_call_id,
            call_sid: row.call_sid,
            from_number: row.from_number,
            to_number: row.to_number,
            status: row.status,
            started_at: row.started_at.map(jiff_sqlx::Timestamp::to_jiff),
            ended_at: row.ended_at.map(jiff_sqlx::Timestamp::to_jiff),
            duration: row.duration,
            digits: row.digits,
            recording_url: row.recording_url,
            lead_id: row.lead_id,
            occurred_at: row.occurred_at.map(jiff_sqlx::Timestamp::to_jiff),
            unreadable: row.unreadable,
            payload: row.payload,
            received_at: row.received_at.to_jiff(),
        }
    }
}
