//! What is to be sent, for the servers that send it. Any number of them take from it; what one has begun and does not live
//! to finish is taken over when its time is up.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use secrecy::SecretString;
use sqlx::PgConnection;
use uuid::Uuid;

use super::waiting;
use crate::ids::OrganizationId;
use crate::store::{Store, storable};

/// Requests that may be under way to one endpoint, from all servers together: a slow one holds up itself and nobody else.
const AT_A_TIME: i64 = 4;
/// The same where nothing was taken lately: one is enough to see whether it works again.
const AT_A_TIME_FAILING: i64 = 1;
/// When a request that nothing was heard of is taken over. More than twice as long as a request may take.
const LEASE_S: f64 = 45.0;
/// Attempts of a delivery that are kept.
const ATTEMPTS_KEPT: i32 = 20;

/// A delivery that was taken, to be sent once.
#[derive(Clone)]
pub struct Claimed {
    /// The delivery.
    pub id: Uuid,
    /// The right to say what came of it.
    pub lease: Uuid,
    /// Whose it is.
    pub organization: OrganizationId,
    /// The `webhook-id`.
    pub event_id: String,
    /// What is sent.
    pub body: String,
    /// Where to.
    pub endpoint: Uuid,
    /// Its address.
    pub url: String,
    /// What it is signed with: one secret, or two while the second one replaces the first.
    pub secrets: Vec<SecretString>,
    /// Which attempt it is of all, from 1.
    pub attempt: i32,
    /// Which one of those since it was last asked for, from 1; those that a server did not live to finish left out.
    pub round: u32,
}

/// Says neither what is sent nor where to.
impl fmt::Debug for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, endpoint, event_id, attempt, .. } = self;
        let mut all = f.debug_struct("Claimed");
        all.field("id", id).field("endpoint", endpoint).field("event_id", event_id).field("attempt", attempt);
        all.finish_non_exhaustive()
    }
}

/// A request, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// When it began.
    pub at: Timestamp,
    /// Until its answer, or until that was given up.
    pub took: Duration,
    /// HTTP status.
    pub status_code: Option<u16>,
    /// Why there was none.
    pub error: Option<String>,
    /// How the answer's body begins.
    pub response: Option<String>,
}

/// What follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken.
    Delivered,
    /// It is sent again after this time.
    Retry(Duration),
    /// It is given up.
    Dead,
    /// It is given up, and so is the endpoint: it says that it is gone.
    Gone,
}

/// What came of saying so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is on record.
    Yes {
        /// Nothing is sent to the endpoint any more.
        endpoint_disabled: bool,
    },
    /// Somebody else has the delivery by now, or it is gone.
    Lost,
}

/// How long it is until the next delivery is due; nothing when one is, whether or not it can be taken. `None`: nothing waits.
pub async fn due_in(store: &Store) -> sqlx::Result<Option<Duration>> {
    let seconds = sqlx::query_scalar!(
        r#"
        select extract(epoch from min(first.due_at) - now())::float8
        from webhook_endpoints endpoint
        cross join lateral (
            select due_at
            from webhook_deliveries
            where endpoint_id = endpoint.id and status = 'pending'
            order by due_at
            limit 1
        ) as first
        where endpoint.enabled
        "#,
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)))
}

/// Takes at most so many deliveries that are due, of any organisation. Of one call, an endpoint is sent one at a time, in the
/// order in which they came.
pub async fn claim(store: &Store, most: usize) -> sqlx::Result<Vec<Claimed>> {
    let mut work = store.begin().await?;
    // One server at a time takes from an endpoint, so that what it sees under way is all there is. The lock does not hold
    // up those who add deliveries.
    let endpoints = sqlx::query!(
        r#"
        select id, organization_id, url, secret, failing_since is not null as "is_failing!",
               case when previous_secret_until > now() then previous_secret end as previous_secret
        from webhook_endpoints
        where enabled
          and exists (
              select
              from webhook_deliveries
              where endpoint_id = webhook_endpoints.id and status = 'pending' and due_at <= now()
          )
        order by random()
        limit 64
        for no key update skip locked
        "#,
    )
    .fetch_all(&mut *work)
    .await?;
    if endpoints.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = endpoints.iter().map(|endpoint| endpoint.id).collect();
    let rooms: Vec<i64> = endpoints
        .iter()
        .map(|endpoint| if endpoint.is_failing { AT_A_TIME_FAILING } else { AT_A_TIME })
        .collect();
    let taken = take(&mut work, &ids, &rooms, i64::try_from(most).unwrap_or(i64::MAX)).await?;
    work.commit().await?;
    let endpoints: HashMap<Uuid, _> = endpoints.into_iter().map(|endpoint| (endpoint.id, endpoint)).collect();
    let claimed = taken.into_iter().filter_map(|row| {
        let endpoint = endpoints.get(&row.endpoint_id)?;
        let secrets = [Some(endpoint.secret.clone()), endpoint.previous_secret.clone()];
        Some(Claimed {
            id: row.id,
            lease: row.lease?,
            organization: endpoint.organization_id.into(),
            event_id: row.event_id,
            body: row.body,
            endpoint: row.endpoint_id,
            url: endpoint.url.clone(),
            secrets: secrets.into_iter().flatten().map(SecretString::from).collect(),
            attempt: row.attempts,
            round: row.round.unsigned_abs() + 1,
        })
    });
    Ok(claimed.collect())
}

/// A delivery that was taken, as its columns are.
struct Taken {
    id: Uuid,
    endpoint_id: Uuid,
    lease: Option<Uuid>,
    event_id: String,
    body: String,
    attempts: i32,
    round: i32,
}

async fn take(
    connection: &mut PgConnection,
    endpoints: &[Uuid],
    rooms: &[i64],
    most: i64,
) -> sqlx::Result<Vec<Taken>> {
    sqlx::query_as!(
        Taken,
        r#"
        with room as (
            select endpoint.id,
                   endpoint.room - (
                       select count(*)
                       from webhook_deliveries
                       where endpoint_id = endpoint.id
                         and status = 'pending'
                         and lease is not null
                         and due_at > now()
                   ) as room
            from unnest($1::uuid[], $2::bigint[]) as endpoint (id, room)
        ),
        due as materialized (
            select first.id
            from room
            cross join lateral (
                select id, due_at
                from webhook_deliveries
                where endpoint_id = room.id
                  and status = 'pending'
                  and due_at <= now()
                  and not exists (
                      select
                      from webhook_deliveries earlier
                      where earlier.endpoint_id = webhook_deliveries.endpoint_id
                        and earlier.call_sid = webhook_deliveries.call_sid
                        and earlier.status = 'pending'
                        and earlier.position < webhook_deliveries.position
                  )
                order by due_at, position
                limit greatest(room.room, 0)
                for update skip locked
            ) as first
            limit $3
        )
        update webhook_deliveries
        set lease = gen_random_uuid(),
            due_at = now() + make_interval(secs => $4),
            attempts = attempts + 1
        from due
        where webhook_deliveries.id = due.id
        returning webhook_deliveries.id, endpoint_id, lease, event_id, body::text as "body!", attempts, round
        "#,
        endpoints,
        rooms,
        most,
        LEASE_S,
    )
    .fetch_all(connection)
    .await
}

/// Puts on record what came of a request, and what follows, as far as the delivery is still the one's who asks.
pub async fn settle(
    store: &Store,
    claimed: &Claimed,
    request: &Request,
    outcome: Outcome,
) -> sqlx::Result<Settled> {
    let mut work = store.begin().await?;
    let (status, wait) = match outcome {
        Outcome::Delivered => ("delivered", None),
        Outcome::Retry(wait) => ("dead", Some(wait.as_secs_f64())),
        Outcome::Dead | Outcome::Gone => ("dead", None),
    };
    let settled = sqlx::query!(
        r#"
        update webhook_deliveries
        set status = case when is_retried then 'pending' else $3 end,
            settled_at = case when not is_retried then now() end,
            due_at = now() + make_interval(secs => coalesce($4::float8, 0)),
            held_until = null,
            lease = null,
            round = round + 1
        from (
            -- Nothing is sent again where nothing is sent any more.
            select $4::float8 is not null and enabled as is_retried from webhook_endpoints where id = $5
        ) as endpoint
        where id = $1 and lease = $2 and status = 'pending'
        returning call_sid, position as "position!", due_at, is_retried as "is_retried!"
        "#,
        claimed.id,
        claimed.lease,
        status,
        wait,
        claimed.endpoint,
    )
    .fetch_optional(&mut *work)
    .await?;
    let Some(settled) = settled else { return Ok(Settled::Lost) };
    // What comes after it in its call waits as long, and is not looked at meanwhile; or it is its turn now. What is held
    // back is left to whoever knows more of it.
    sqlx::query!(
        r#"
        update webhook_deliveries
        set due_at = case when $4 then greatest(due_at, $5) else now() end
        where endpoint_id = $1
          and call_sid = $2
          and position > $3
          and status = 'pending'
          and lease is null
          and (held_until is null or held_until <= now())
        "#,
        claimed.endpoint,
        settled.call_sid,
        settled.position,
        settled.is_retried,
        settled.due_at as _,
    )
    .execute(&mut *work)
    .await?;
    note(&mut work, claimed, request).await?;
    let disabled = note_endpoint(&mut work, claimed, outcome).await?;
    if disabled {
        waiting::give_up(&mut work, claimed.endpoint).await?;
    }
    work.commit().await?;
    Ok(Settled::Yes { endpoint_disabled: disabled })
}

async fn note(connection: &mut PgConnection, claimed: &Claimed, request: &Request) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        with forgotten as (
            delete from webhook_attempts where delivery_id = $1 and attempt <= $2::integer - $9::integer
        )
        insert into webhook_attempts (
            delivery_id, attempt, organization_id, at, duration_ms, status_code, error, response
        )
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict (delivery_id, attempt) do nothing
        "#,
        claimed.id,
        claimed.attempt,
        claimed.organization.0,
        request.at.to_sqlx() as _,
        i32::try_from(request.took.as_millis()).unwrap_or(i32::MAX),
        request.status_code.map(i32::from),
        request.error.as_deref().map(storable),
        request.response.as_deref().map(storable),
        ATTEMPTS_KEPT,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether the endpoint works, and whether it is given up.
async fn note_endpoint(
    connection: &mut PgConnection,
    claimed: &Claimed,
    outcome: Outcome,
) -> sqlx::Result<bool> {
    if outcome == Outcome::Delivered {
        sqlx::query!(
            r#"
            update webhook_endpoints
            set failing_since = null,
                last_delivered_at = now()
            where id = $1
              -- Not with each one of many.
              and (failing_since is not null or last_delivered_at is null or last_delivered_at < now() - interval '1 second')
            "#,
            claimed.endpoint,
        )
        .execute(connection)
        .await?;
        return Ok(false);
    }
    // Not by what failed once and long ago: it has to fail each day, for more than three days.
    let row = sqlx::query!(
        r#"
        update webhook_endpoints
        set failing_since = case
                when last_failed_at > now() - interval '1 day' then coalesce(failing_since, now())
                else now()
            end,
            last_failed_at = now(),
            enabled = not ($2 or judged.has_failed),
            disabled_at = case when $2 or judged.has_failed then now() end,
            disabled_reason = case
                when $2 then 'the endpoint answered 410: it is gone'
                when judged.has_failed then 'nothing was taken there for three days'
            end,
            updated_at = case when $2 or judged.has_failed then now() else updated_at end
        from (
            select id as judged_id,
                   coalesce(
                       failing_since < now() - interval '3 days' and last_failed_at > now() - interval '1 day',
                       false
                   ) as has_failed
            from webhook_endpoints
            where id = $1
            for no key update
        ) as judged
        where id = judged_id and enabled
        returning enabled
        "#,
        claimed.endpoint,
        outcome == Outcome::Gone,
    )
    .fetch_optional(&mut *connection)
    .await?;
    // A single event that was never taken says nothing about what comes weeks later.
    if outcome == Outcome::Dead {
        sqlx::query!(
            r#"
            update webhook_endpoints
            set failing_since = null,
                last_failed_at = null
            where id = $1
              and enabled
              and not exists (select from webhook_deliveries where endpoint_id = $1 and status = 'pending')
            "#,
            claimed.endpoint,
        )
        .execute(connection)
        .await?;
    }
    Ok(row.is_some_and(|row| !row.enabled))
}

/// How many deliveries wait, of all organisations, those of endpoints that are disabled left out.
pub async fn waiting(store: &Store) -> sqlx::Result<u64> {
    let waiting = sqlx::query_scalar!(
        r#"
        select count(*) as "waiting!"
        from webhook_deliveries
        join webhook_endpoints on webhook_endpoints.id = endpoint_id
        where status = 'pending' and enabled
        "#,
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Ok(waiting.unsigned_abs())
}
