//! What was and is to be sent, for people who look at it and have it sent again.

use jiff::Timestamp;
use jiff_sqlx::Timestamp as Stored;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{PING, waiting};
use crate::ids::OrganizationId;
use crate::store::Store;

/// Deliveries that are sent again by one request.
const REPLAY_MOST: i64 = 10_000;
/// Attempts that are shown of a delivery, the latest; as many as are kept.
const ATTEMPTS_SHOWN: i64 = 20;

/// One event for one endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Delivery {
    /// Our id.
    pub id: Uuid,
    /// Where it goes.
    pub endpoint_id: Uuid,
    /// The `webhook-id`: the same at each attempt and each endpoint.
    #[schema(example = "evt_5f0c6a7d3b1e4f2a9c8d7e6f5a4b3c2d")]
    pub event_id: String,
    /// What is told.
    #[schema(example = "call.completed")]
    pub event_type: String,
    /// The call it is about; null for a `ping`.
    #[schema(example = "CA00000000000000000000000000000001")]
    pub call_sid: Option<String>,
    /// `pending`, `delivered` or `dead`.
    #[schema(example = "delivered")]
    pub status: String,
    /// Requests that were begun.
    #[schema(example = 1)]
    pub attempts: i32,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// Not sent before; null when it is delivered or dead.
    pub due_at: Option<Timestamp>,
    /// When it was delivered or given up.
    pub settled_at: Option<Timestamp>,
    /// When it was written down.
    pub created_at: Timestamp,
}

/// One event for one endpoint, with all that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct DeliveryDetails {
    /// The delivery.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// What is sent; `{}` once that is too old to be kept.
    #[schema(value_type = Object)]
    pub body: Value,
    /// Its latest requests, the first first.
    pub requests: Vec<WebhookAttempt>,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct WebhookAttempt {
    /// Which one it was, from 1. One that is missing was cut off with its server.
    #[schema(example = 1)]
    pub attempt: i32,
    /// When it began.
    pub at: Timestamp,
    /// Until its answer, or until that was given up, in milliseconds.
    #[schema(example = 120)]
    pub duration_ms: i32,
    /// HTTP status; null when there was no answer.
    #[schema(example = 204)]
    pub status_code: Option<i32>,
    /// Why there was none.
    pub error: Option<String>,
    /// The first kilobyte of the answer's body.
    pub response: Option<String>,
}

/// Which deliveries are wanted. What is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// How far they are.
    pub status: Option<String>,
    /// Where they go.
    pub endpoint: Option<Uuid>,
    /// What they tell.
    pub event_type: Option<String>,
    /// Which call they are about.
    pub call_sid: Option<String>,
}

/// Why something is not sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no such thing in this organisation.
    NotFound,
    /// Nothing is sent there.
    EndpointDisabled,
    /// A request is under way.
    UnderWay,
    /// What was sent is not kept any more.
    Emptied,
}

/// Deliveries, newest first, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    filter: &DeliveryFilter,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<Delivery>, u64)> {
    let mut connection = store.connection().await?;
    let total = sqlx::query_scalar!(
        r#"
        select count(*) as "total!"
        from webhook_deliveries
        where organization_id = $1
          and endpoint_id in (select id from webhook_endpoints where organization_id = $1 and deleted_at is null)
          and ($2::text is null or status = $2)
          and ($3::uuid is null or endpoint_id = $3)
          and ($4::text is null or event_type = $4)
          and ($5::text is null or call_sid = $5)
        "#,
        organization.0,
        filter.status.as_deref(),
        filter.endpoint,
        filter.event_type.as_deref(),
        filter.call_sid.as_deref(),
    )
    .fetch_one(&mut *connection)
    .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id, endpoint_id, event_id, event_type, call_sid, status, attempts, occurred_at, due_at, settled_at, created_at
        from webhook_deliveries
        where organization_id = $1
          and endpoint_id in (select id from webhook_endpoints where organization_id = $1 and deleted_at is null)
          and ($2::text is null or status = $2)
          and ($3::uuid is null or endpoint_id = $3)
          and ($4::text is null or event_type = $4)
          and ($5::text is null or call_sid = $5)
        order by created_at desc, position desc
        limit $6 offset $7
        "#,
        organization.0,
        filter.status.as_deref(),
        filter.endpoint,
        filter.event_type.as_deref(),
        filter.call_sid.as_deref(),
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *connection)
    .await?;
    Ok((rows.into_iter().map(Delivery::from).collect(), total.unsigned_abs()))
}

/// One delivery with its body and requests.
pub async fn find(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
) -> sqlx::Result<Option<DeliveryDetails>> {
    let Some(delivery) = row(store, organization, id).await? else { return Ok(None) };
    let mut connection = store.connection().await?;
    let body = sqlx::query_scalar!(
        "select body from webhook_deliveries where organization_id = $1 and id = $2",
        organization.0,
        id,
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(body) = body else { return Ok(None) };
    let requests = sqlx::query!(
        r#"
        select attempt, at as "at: Stored", duration_ms, status_code, error, response
        from webhook_attempts
        where organization_id = $1 and delivery_id = $2
        order by attempt desc
        limit $3
        "#,
        organization.0,
        id,
        ATTEMPTS_SHOWN,
    )
    .fetch_all(&mut *connection)
    .await?;
    let requests = requests.into_iter().rev().map(|row| WebhookAttempt {
        attempt: row.attempt,
        at: row.at.to_jiff(),
        duration_ms: row.duration_ms,
        status_code: row.status_code,
        error: row.error,
        response: row.response,
    });
    Ok(Some(DeliveryDetails { delivery, body, requests: requests.collect() }))
}

async fn row(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<Option<Delivery>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select id, endpoint_id, event_id, event_type, call_sid, status, attempts, occurred_at, due_at, settled_at, created_at
        from webhook_deliveries
        where organization_id = $1
          and id = $2
          and endpoint_id in (select id from webhook_endpoints where organization_id = $1 and deleted_at is null)
        "#,
        organization.0,
        id,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(Delivery::from))
}

/// Has an endpoint sent a `ping`, whatever it listens to.
pub async fn ping(
    store: &Store,
    organization: OrganizationId,
    endpoint: Uuid,
) -> sqlx::Result<Result<Delivery, Refused>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        with new as (
            select 'evt_' || replace(gen_random_uuid()::text, '-', '') as event_id
        )
        insert into webhook_deliveries (organization_id, endpoint_id, event_id, event_type, body, occurred_at)
        select $1::uuid, id, event_id, $3::text,
               json_build_object(
                   'id', event_id,
                   'type', $3::text,
                   'timestamp', to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                   'organization_id', $1::uuid,
                   'data', json_build_object('endpoint_id', id)
               ),
               now()
        from webhook_endpoints, new
        where organization_id = $1 and id = $2 and enabled
        returning id, endpoint_id, event_id, event_type, call_sid, status, attempts, occurred_at, due_at, settled_at,
                  created_at
        "#,
        organization.0,
        endpoint,
        PING,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    match row {
        Some(row) => {
            ring(store).await?;
            Ok(Ok(row.into()))
        }
        None => Ok(Err(why_not(store, organization, endpoint).await?)),
    }
}

/// Has a delivery sent again, with the same id and body, whatever came of it before; one that waits is sent now, and what
/// waits for it right after it.
pub async fn replay(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
) -> sqlx::Result<Result<Delivery, Refused>> {
    let mut work = store.begin().await?;
    let updated = sqlx::query_as!(
        Row,
        r#"
        update webhook_deliveries
        set status = 'pending',
            settled_at = null,
            round = 0,
            due_at = now(),
            held_until = null,
            lease = null
        from webhook_endpoints endpoint
        where webhook_deliveries.organization_id = $1
          and webhook_deliveries.id = $2
          and endpoint.id = endpoint_id
          and endpoint.enabled
          and (lease is null or due_at <= now())
          and body::text <> '{}'
        returning webhook_deliveries.id, endpoint_id, event_id, event_type, call_sid, status, attempts, occurred_at, due_at,
                  settled_at, webhook_deliveries.created_at
        "#,
        organization.0,
        id,
    )
    .fetch_optional(&mut *work)
    .await?;
    if let Some(row) = updated {
        if let Some(call_sid) = &row.call_sid {
            waiting::go_on(&mut work, row.endpoint_id, Some(call_sid)).await?;
        }
        work.commit().await?;
        ring(store).await?;
        return Ok(Ok(row.into()));
    }
    drop(work);
    let Some(found) = find(store, organization, id).await? else { return Ok(Err(Refused::NotFound)) };
    if found.body == json!({}) {
        return Ok(Err(Refused::Emptied));
    }
    let why = why_not(store, organization, found.delivery.endpoint_id).await?;
    Ok(Err(if why == Refused::NotFound { Refused::UnderWay } else { why }))
}

/// Has all that was given up of an endpoint sent again, the oldest first, what is not kept any more left out; at most ten
/// thousand at a time. Returns how many.
pub async fn replay_dead(
    store: &Store,
    organization: OrganizationId,
    endpoint: Uuid,
) -> sqlx::Result<Result<u64, Refused>> {
    let enabled = sqlx::query_scalar!(
        "select enabled from webhook_endpoints where organization_id = $1 and id = $2 and deleted_at is null",
        organization.0,
        endpoint,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    match enabled {
        None => return Ok(Err(Refused::NotFound)),
        Some(false) => return Ok(Err(Refused::EndpointDisabled)),
        Some(true) => {}
    }
    let done = sqlx::query!(
        r#"
        update webhook_deliveries
        set status = 'pending',
            settled_at = null,
            round = 0,
            due_at = now(),
            held_until = null,
            lease = null
        where id in (
            select id
            from webhook_deliveries
            where organization_id = $1 and endpoint_id = $2 and status = 'dead' and body::text <> '{}'
            order by position
            limit $3
        )
          and status = 'dead'
        "#,
        organization.0,
        endpoint,
        REPLAY_MOST,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    if done.rows_affected() > 0 {
        ring(store).await?;
    }
    Ok(Ok(done.rows_affected()))
}

/// Heard when what was written before is kept.
pub(super) async fn ring(store: &Store) -> sqlx::Result<()> {
    sqlx::query!("notify webhooks").execute(&mut *store.connection().await?).await?;
    Ok(())
}

/// Why nothing goes to this endpoint; `NotFound` also where something could.
async fn why_not(store: &Store, organization: OrganizationId, endpoint: Uuid) -> sqlx::Result<Refused> {
    let disabled = sqlx::query_scalar!(
        r#"
        select exists (
            select from webhook_endpoints where organization_id = $1 and id = $2 and not enabled and deleted_at is null
        ) as "disabled!"
        "#,
        organization.0,
        endpoint,
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Ok(if disabled { Refused::EndpointDisabled } else { Refused::NotFound })
}

/// A delivery as its columns are.
struct Row {
    id: Uuid,
    endpoint_id: Uuid,
    event_id: String,
    event_type: String,
    call_sid: Option<String>,
    status: String,
    attempts: i32,
    occurred_at: Stored,
    due_at: Stored,
    settled_at: Option<Stored>,
    created_at: Stored,
}

impl From<Row> for Delivery {
    fn from(row: Row) -> Self {
        let is_pending = row.status == "pending";
        Self {
            id: row.id,
            endpoint_id: row.endpoint_id,
            event_id: row.event_id,
            event_type: row.event_type,
            call_sid: row.call_sid,
            status: row.status,
            attempts: row.attempts,
            occurred_at: row.occurred_at.to_jiff(),
            due_at: is_pending.then(|| row.due_at.to_jiff()),
            settled_at: row.settled_at.map(Stored::to_jiff),
            created_at: row.created_at.to_jiff(),
        }
    }
}
