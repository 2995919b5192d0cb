//! Where organisations are told what happens to their calls: endpoints, and in the files below what is told there.

pub mod deliveries;
pub mod tidy;
mod waiting;
pub mod work;

use jiff::Timestamp;
use jiff_sqlx::Timestamp as Stored;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::ids::{CallSid, OrganizationId};
use crate::store::{Store, storable, storable_json};

/// What is rung when there is something to be sent.
pub const CHANNEL: &str = "webhooks";
/// What can be told.
pub const EVENT_TYPES: [&str; 6] = [
    "call.started",
    "call.transferred",
    "call.completed",
    "call.failed",
    "transcript.completed",
    "lead.linked",
];
/// Sent when somebody asks for it, to try an endpoint out.
pub const PING: &str = "ping";
/// Endpoints of one organisation. Each is a row more for every event.
const MOST: i64 = 20;

/// Something to be told. The same `fact` and `subject` are the same event.
#[derive(Debug, Clone, PartialEq)]
pub struct Announcement {
    /// One of [`EVENT_TYPES`].
    pub kind: &'static str,
    /// What is told, where one fact may be told as one of several types; else the type.
    pub fact: &'static str,
    /// What it is about: the call, or a part of it.
    pub subject: String,
    /// When it happened.
    pub at: Timestamp,
    /// Seconds it is held back, because more may become known.
    pub wait_s: u32,
    /// The event's `data`.
    pub data: Value,
    /// What was said, for endpoints that want it.
    pub turns: Option<Value>,
}

/// Who listens to the calls of an organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Listening {
    /// At least one endpoint wants to have what was said.
    pub include_transcript: bool,
}

/// Writes down what is to be told of a call. Told again it is the same; what was not sent yet says what is known now. Waits
/// for nobody who changes an endpoint or sends there.
pub async fn announce(
    connection: &mut PgConnection,
    organization: OrganizationId,
    call_sid: &CallSid,
    announcements: Vec<Announcement>,
) -> sqlx::Result<()> {
    let told = announcements.into_iter().map(|told| {
        let Announcement { kind, fact, subject, at, wait_s, data, turns } = told;
        json!({
            "type": kind, "fact": fact, "subject": subject, "call_sid": call_sid, "at": at, "wait_s": wait_s,
            "data": data, "turns": turns,
        })
    });
    let told = storable_json(told.collect());
    sqlx::query_scalar!(r#"select announce($1, $2) as "written!""#, organization.0, told)
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// An endpoint as stored. Its secrets are not part of it.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Endpoint {
    /// Our id.
    pub id: Uuid,
    /// Where events are posted.
    #[schema(example = "https://example.com/voicebridge")]
    pub url: String,
    /// For people.
    #[schema(example = "Our CRM.")]
    pub description: String,
    /// What is told there.
    #[schema(example = json!(["call.completed", "call.failed"]))]
    pub events: Vec<String>,
    /// What was said goes along with `transcript.completed`.
    #[schema(example = false)]
    pub include_transcript: bool,
    /// Whether anything is told there.
    pub enabled: bool,
    /// Since when nothing is.
    pub disabled_at: Option<Timestamp>,
    /// Why, where nobody has said so themselves.
    pub disabled_reason: Option<String>,
    /// Nothing was taken there since; null when the latest delivery was, or when nothing waits any more.
    pub failing_since: Option<Timestamp>,
    /// When something was last taken there.
    pub last_delivered_at: Option<Timestamp>,
    /// Until when the secret before the last rotation signs as well.
    pub previous_secret_until: Option<Timestamp>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// An endpoint to register.
#[derive(Debug, Clone)]
pub struct NewEndpoint {
    /// Where events are posted.
    pub url: String,
    /// For people.
    pub description: String,
    /// Of [`EVENT_TYPES`], at least one.
    pub events: Vec<String>,
    /// What was said goes along.
    pub include_transcript: bool,
    /// Whether anything is told there.
    pub enabled: bool,
    /// Signs what is sent.
    pub secret: String,
}

/// What to change. `None` leaves a member as it is.
#[derive(Debug, Clone, Default)]
pub struct EndpointPatch {
    /// Where events are posted.
    pub url: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// What is told there. Of a type that is added, what happens from now on.
    pub events: Option<Vec<String>>,
    /// What was said goes along.
    pub include_transcript: Option<bool>,
    /// Whether anything is told there. What happens while nothing is, is never told.
    pub enabled: Option<bool>,
}

/// Endpoints by age, the oldest first, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<Endpoint>, u64)> {
    let mut connection = store.connection().await?;
    let total = sqlx::query_scalar!(
        r#"select count(*) as "total!" from webhook_endpoints where organization_id = $1 and deleted_at is null"#,
        organization.0,
    )
    .fetch_one(&mut *connection)
    .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id, url, description, events, include_transcript, enabled, disabled_at, disabled_reason, failing_since,
               last_delivered_at, previous_secret_until, created_at, updated_at
        from webhook_endpoints
        where organization_id = $1 and deleted_at is null
        order by created_at, id
        limit $2 offset $3
        "#,
        organization.0,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *connection)
    .await?;
    Ok((rows.into_iter().map(Endpoint::from).collect(), total.unsigned_abs()))
}

/// One endpoint.
pub async fn find(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<Option<Endpoint>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select id, url, description, events, include_transcript, enabled, disabled_at, disabled_reason, failing_since,
               last_delivered_at, previous_secret_until, created_at, updated_at
        from webhook_endpoints
        where organization_id = $1 and id = $2 and deleted_at is null
        "#,
        organization.0,
        id,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(Endpoint::from))
}

/// Registers an endpoint. `None`: the organisation has as many as it may.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    new: &NewEndpoint,
) -> sqlx::Result<Option<Endpoint>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        insert into webhook_endpoints (
            organization_id, url, description, events, include_transcript, enabled, disabled_at, secret
        )
        select $1::uuid, $2::text, $3::text, $4::text[], $5::boolean, $6::boolean, case when not $6 then now() end, $7::text
        where (select count(*) from webhook_endpoints where organization_id = $1 and deleted_at is null) < $8
        returning id, url, description, events, include_transcript, enabled, disabled_at, disabled_reason, failing_since,
                  last_delivered_at, previous_secret_until, created_at, updated_at
        "#,
        organization.0,
        storable(&new.url),
        storable(&new.description),
        &new.events,
        new.include_transcript,
        new.enabled,
        new.secret,
        MOST,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(Endpoint::from))
}

/// Changes what the patch names. Who disables an endpoint gives up what waits there; who enables one, or says where it is
/// now, has what waits there sent at once. `None`: no such endpoint in this organisation.
pub async fn update(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
    patch: &EndpointPatch,
) -> sqlx::Result<Option<Endpoint>> {
    let mut work = store.begin().await?;
    let row = sqlx::query_as!(
        Row,
        r#"
        update webhook_endpoints
        set url = coalesce($3, url),
            description = coalesce($4, description),
            events = coalesce($5, events),
            -- What is listened to from now on is told from now on.
            events_since = case
                when $5 is null then events_since
                else (
                    select array_agg(
                        case when event = any (events) then events_since[array_position(events, event)] else now() end
                        order by place
                    )
                    from unnest($5::text[]) with ordinality as wanted (event, place)
                )
            end,
            include_transcript = coalesce($6, include_transcript),
            enabled = coalesce($7, enabled),
            disabled_at = case when coalesce($7, enabled) then null else coalesce(disabled_at, now()) end,
            disabled_reason = case when $7 is null then disabled_reason end,
            -- What was said of another address says nothing of this one.
            failing_since = case when $7 or $3 <> url then null else failing_since end,
            last_failed_at = case when $7 or $3 <> url then null else last_failed_at end,
            listens_since = case when $7 and not enabled then now() else listens_since end,
            updated_at = now()
        where organization_id = $1 and id = $2 and deleted_at is null
        returning id, url, description, events, include_transcript, enabled, disabled_at, disabled_reason, failing_since,
                  last_delivered_at, previous_secret_until, created_at, updated_at
        "#,
        organization.0,
        id,
        patch.url.as_deref().map(storable),
        patch.description.as_deref().map(storable),
        patch.events.as_deref(),
        patch.include_transcript,
        patch.enabled,
    )
    .fetch_optional(&mut *work)
    .await?;
    let goes_on = row.is_some() && (patch.enabled == Some(true) || patch.url.is_some());
    if goes_on {
        waiting::go_on(&mut work, id, None).await?;
    }
    if row.is_some() && patch.enabled == Some(false) {
        waiting::give_up(&mut work, id).await?;
    }
    work.commit().await?;
    if goes_on {
        deliveries::ring(store).await?;
    }
    Ok(row.map(Endpoint::from))
}

/// Removes an endpoint, and what was or is to be sent there. Whether there was one.
///
/// Nobody sees it from now on, and nothing more is sent; its rows, of which there may be millions, are deleted later
/// ([`tidy::delete`]).
pub async fn delete(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        r#"
        update webhook_endpoints
        set enabled = false,
            disabled_at = coalesce(disabled_at, now()),
            deleted_at = now(),
            secret = '',
            previous_secret = null,
            previous_secret_until = null,
            updated_at = now()
        where organization_id = $1 and id = $2 and deleted_at is null
        "#,
        organization.0,
        id
    )
    .execute(&mut *store.connection().await?)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Has everything signed with another secret from now on, and with the one of until now for a day as well. `None`: no such
/// endpoint in this organisation.
pub async fn rotate_secret(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
    secret: &str,
) -> sqlx::Result<Option<Endpoint>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        update webhook_endpoints
        set previous_secret = secret,
            previous_secret_until = now() + interval '24 hours',
            secret = $3,
            updated_at = now()
        where organization_id = $1 and id = $2 and deleted_at is null
        returning id, url, description, events, include_transcript, enabled, disabled_at, disabled_reason, failing_since,
                  last_delivered_at, previous_secret_until, created_at, updated_at
        "#,
        organization.0,
        id,
        secret,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(Endpoint::from))
}

/// An endpoint as its columns are.
struct Row {
    id: Uuid,
    url: String,
    description: String,
    events: Vec<String>,
    include_transcript: bool,
    enabled: bool,
    disabled_at: Option<Stored>,
    disabled_reason: Option<String>,
    failing_since: Option<Stored>,
    last_delivered_at: Option<Stored>,
    previous_secret_until: Option<Stored>,
    created_at: Stored,
    updated_at: Stored,
}

impl From<Row> for Endpoint {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            url: row.url,
            description: row.description,
            events: row.events,
            include_transcript: row.include_transcript,
            enabled: row.enabled,
            disabled_at: row.disabled_at.map(Stored::to_jiff),
            disabled_reason: row.disabled_reason,
            failing_since: row.failing_since.map(Stored::to_jiff),
            last_delivered_at: row.last_delivered_at.map(Stored::to_jiff),
            previous_secret_until: row.previous_secret_until.map(Stored::to_jiff),
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
        }
    }
}
