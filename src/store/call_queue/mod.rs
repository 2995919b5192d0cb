//! Calls to be made: asked for one by one or by campaigns, listed, taken back, tried again.
//!
//! Who is called when is decided where a row is claimed, not here: a row that waits here may be refused there.

mod attempts;
mod enqueue;
mod fail;
mod of_campaign;
mod schedule;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::ids::{AgentId, OrganizationId, PhoneNumber, PhoneNumberId};
use crate::outreach::rules::Refusal;
use crate::store::Store;

pub use self::attempts::{Attempt, attempts};
pub(in crate::store) use self::enqueue::add_leads;
pub use self::enqueue::{EnqueueError, Enqueued, LeadFilter, Skip, Skipped, enqueue, enqueue_matching};
pub(in crate::store) use self::fail::fail;
pub(in crate::store) use self::of_campaign::{fail_some, left_over, limit_attempts, reconsider_campaign};
pub use self::schedule::{NewCall, ScheduleError, schedule};

/// What `last_error` says of a row that was taken back.
pub const CANCELED: &str = "canceled";
/// Most tries a row may ever have; the table says so as well.
pub const MOST_ATTEMPTS: i32 = 20;

/// A call to be made.
#[derive(Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct QueueRow {
    /// Our id.
    pub id: Uuid,
    /// The campaign it is of.
    pub campaign_id: Option<Uuid>,
    /// Who is called.
    pub lead_id: Option<i64>,
    /// `queued`, `processing` while a try is going on, `completed` or `failed`.
    #[schema(example = "queued")]
    pub status: String,
    /// Tries so far, the one that is going on and those that were not placed included.
    pub attempt_count: i32,
    /// Tries in all; those that were not placed do not count.
    pub max_attempts: i32,
    /// Not before. The first try is one as well.
    pub next_retry_at: Timestamp,
    /// Why the last try came to nothing, why there was none, or what the call waits for.
    pub last_error: Option<String>,
    /// The telephone, in E.164.
    #[schema(example = "+14155550123")]
    pub to_number: String,
    /// What the call is about, for the agent.
    pub message: Option<String>,
    /// Higher ones are called first.
    pub priority: Priority,
    /// Who speaks; null is the campaign's, or the default agent.
    #[schema(value_type = Option<Uuid>)]
    pub agent_id: Option<AgentId>,
    /// Our number that shows; null is the campaign's, or any.
    #[schema(value_type = Option<Uuid>)]
    pub phone_number_id: Option<PhoneNumberId>,
    /// The platform's record of the call.
    pub interaction_id: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was completed or failed.
    pub finished_at: Option<Timestamp>,
}

/// How urgent a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// When there is nothing else to do.
    Low,
    /// In its turn.
    #[default]
    Normal,
    /// Before the others.
    High,
}

/// Which rows are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// This one.
    pub id: Option<Uuid>,
    /// In this status.
    pub status: Option<String>,
    /// Of this campaign.
    pub campaign_id: Option<Uuid>,
    /// To this lead.
    pub lead_id: Option<i64>,
}

/// Why a row cannot be taken back or tried again.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// No such row in this organisation.
    #[error("there is no such call in the queue")]
    NotFound,
    /// It is being made.
    #[error("the call is being made right now; hang it up, or wait for its end")]
    GoingOn,
    /// There is nothing to take back.
    #[error("the call is over; there is nothing to cancel")]
    Finished,
    /// Its campaign is completed.
    #[error("the campaign of this call is completed; schedule the call on its own")]
    CampaignOver,
    /// Somebody does not want it.
    #[error("the number is on the do-not-call list; take it off there first")]
    DoNotCall,
    /// The platform has been told what came of it.
    #[error("the interaction of this call is {status}, and stays so; create another one and dispatch it")]
    InteractionOver {
        /// Where it is.
        status: String,
    },
    /// It has been tried as often as may be.
    #[error("the call has been tried {MOST_ATTEMPTS} times; schedule a new one")]
    NoTryLeft,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Rows of the organisation, newest first, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    filter: &Filter,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<QueueRow>, u64)> {
    let total = sqlx::query_scalar!(
        r#"
        select count(*) as "count!"
        from call_queue
        where organization_id = $1
          and ($2::uuid is null or id = $2)
          and ($3::text is null or status = $3)
          and ($4::uuid is null or campaign_id = $4)
          and ($5::bigint is null or lead_id = $5)
        "#,
        organization.0,
        filter.id,
        filter.status.as_deref(),
        filter.campaign_id,
        filter.lead_id,
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    let mut connection = store.connection().await?;
    let rows = select(&mut connection, organization, filter, limit, offset).await?;
    Ok((rows, total.unsigned_abs()))
}

/// One row.
pub async fn row(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<Option<QueueRow>> {
    one(&mut *store.connection().await?, organization, id).await
}

/// Takes a row back. Twice is as good as once.
pub async fn cancel(store: &Store, organization: OrganizationId, id: Uuid) -> Result<QueueRow, ChangeError> {
    let mut transaction = store.begin().await?;
    let state = lock(&mut transaction, organization, id).await?;
    let is_canceled = state.status == "failed" && state.last_error.as_deref() == Some(CANCELED);
    if state.status == "queued" {
        fail(&mut transaction, &[id], CANCELED, None).await?;
    } else if !is_canceled {
        return Err(if state.status == "processing" { ChangeError::GoingOn } else { ChangeError::Finished });
    }
    let row = one(&mut transaction, organization, id).await?.ok_or(ChangeError::NotFound)?;
    transaction.commit().await?;
    Ok(row)
}

/// Has a row tried now, also when it was over. The rules still say whether and when it is dialed.
pub async fn retry(store: &Store, organization: OrganizationId, id: Uuid) -> Result<QueueRow, ChangeError> {
    let mut transaction = store.begin().await?;
    let state = lock(&mut transaction, organization, id).await?;
    if state.status == "processing" {
        return Err(ChangeError::GoingOn);
    } else if state.campaign_over {
        return Err(ChangeError::CampaignOver);
    } else if state.refused {
        return Err(ChangeError::DoNotCall);
    } else if let Some(status) = state.interaction_over {
        return Err(ChangeError::InteractionOver { status });
    } else if state.tries >= MOST_ATTEMPTS {
        return Err(ChangeError::NoTryLeft);
    }
    sqlx::query!(
        r#"
        update call_queue
        set status = 'queued',
            max_attempts = greatest(
                max_attempts,
                -- What was never placed is no try.
                attempt_count + 1 - (
                    select count(*)::integer
                    from call_attempts
                    where queue_id = call_queue.id and outcome = 'not_placed'
                )
            ),
            next_retry_at = now(),
            last_error = null,
            finished_at = null,
            updated_at = now()
        where id = $1
        "#,
        id,
    )
    .execute(&mut *transaction)
    .await?;
    let row = one(&mut transaction, organization, id).await?.ok_or(ChangeError::NotFound)?;
    transaction.commit().await?;
    Ok(row)
}

/// Lets rows by which campaigns want to reach a lead, and that wait for its hours, be looked at again; a delay after a try stays.
pub(in crate::store) async fn reconsider_lead(connection: &mut PgConnection, lead: i64) -> sqlx::Result<()> {
    let waiting = sqlx::query_scalar!(
        r#"
        select id
        from call_queue
        where lead_id = $1
          and campaign_id is not null
          and status = 'queued'
          and next_retry_at > now()
        for update
        "#,
        lead,
    )
    .fetch_all(&mut *connection)
    .await?;
    reconsider(connection, &waiting).await
}

/// Calls that would go to the lead's telephone go to its new one, `phone`; the try that goes on is not changed. Whether the new
/// one may be called is seen when it is.
pub(in crate::store) async fn follow_lead(
    connection: &mut PgConnection,
    organization: OrganizationId,
    lead: i64,
    phone: &PhoneNumber,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        update call_queue
        set to_number = $3,
            updated_at = now()
        from leads
        where leads.organization_id = $1
          and leads.id = $2
          and call_queue.lead_id = leads.id
          and call_queue.to_number = leads.phone
          and call_queue.to_number <> $3
          and call_queue.status in ('queued', 'processing')
        "#,
        organization.0,
        lead,
        phone.expose(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What a row waits for is its last try's delay, or nothing: all else was a verdict on what is different now.
async fn reconsider(connection: &mut PgConnection, rows: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        update call_queue
        set next_retry_at = coalesce(
                (
                    select call_attempts.next_retry_at
                    from call_attempts
                    where call_attempts.queue_id = call_queue.id
                    order by call_attempts.attempt_number desc
                    limit 1
                ),
                now()
            ),
            updated_at = now()
        where id = any($1)
        "#,
        rows,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Fails what waits to be called at this number, and says how many rows that were.
pub(in crate::store) async fn fail_number(
    connection: &mut PgConnection,
    organization: OrganizationId,
    numbers: &[String],
) -> sqlx::Result<u64> {
    let waiting = sqlx::query_scalar!(
        r#"
        select id
        from call_queue
        where organization_id = $1
          and to_number = any($2)
          and status = 'queued'
        order by id
        for update
        "#,
        organization.0,
        numbers,
    )
    .fetch_all(&mut *connection)
    .await?;
    fail(connection, &waiting, &Refusal::DoNotCall.to_string(), None).await
}

/// What a change depends on.
struct State {
    status: String,
    last_error: Option<String>,
    tries: i32,
    campaign_over: bool,
    refused: bool,
    interaction_over: Option<String>,
}

/// Keeps the row from being claimed until the transaction is over.
async fn lock(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: Uuid,
) -> Result<State, ChangeError> {
    let state = sqlx::query_as!(
        State,
        r#"
        select status,
               last_error,
               attempt_count - (
                   select count(*)::integer
                   from call_attempts
                   where queue_id = call_queue.id and outcome = 'not_placed'
               ) as "tries!",
               exists (
                   select from campaigns where campaigns.id = campaign_id and campaigns.status = 'completed'
               ) as "campaign_over!",
               exists (
                   select from do_not_call d where d.organization_id = $1 and d.number = to_number
               ) as "refused!",
               (
                   select i.status::text
                   from interactions i
                   where i.organization_id = $1 and i.id = interaction_id and i.status <> 'INITIATED'
               ) as interaction_over
        from call_queue
        where organization_id = $1 and id = $2
        for update of call_queue
        "#,
        organization.0,
        id,
    )
    .fetch_optional(connection)
    .await?;
    state.ok_or(ChangeError::NotFound)
}

async fn one(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: Uuid,
) -> sqlx::Result<Option<QueueRow>> {
    let filter = Filter { id: Some(id), ..Filter::default() };
    Ok(select(connection, organization, &filter, 1, 0).await?.pop())
}

async fn select(
    connection: &mut PgConnection,
    organization: OrganizationId,
    filter: &Filter,
    limit: u32,
    offset: u64,
) -> sqlx::Result<Vec<QueueRow>> {
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id,
               campaign_id,
               lead_id,
               status,
               attempt_count,
               max_attempts,
               next_retry_at,
               last_error,
               to_number,
               message,
               priority,
               agent_id,
               phone_number_id,
               interaction_id,
               created_at,
               updated_at,
               finished_at
        from call_queue
        where organization_id = $1
          and ($2::uuid is null or id = $2)
          and ($3::text is null or status = $3)
          and ($4::uuid is null or campaign_id = $4)
          and ($5::bigint is null or lead_id = $5)
        order by created_at desc, id
        limit $6
        offset $7
        "#,
        organization.0,
        filter.id,
        filter.status.as_deref(),
        filter.campaign_id,
        filter.lead_id,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(QueueRow::from).collect())
}

/// A row as its columns are.
struct Row {
    id: Uuid,
    campaign_id: Option<Uuid>,
    lead_id: Option<i64>,
    status: String,
    attempt_count: i32,
    max_attempts: i32,
    next_retry_at: jiff_sqlx::Timestamp,
    last_error: Option<String>,
    to_number: String,
    message: Option<String>,
    priority: i16,
    agent_id: Option<Uuid>,
    phone_number_id: Option<Uuid>,
    interaction_id: Option<String>,
    created_at: jiff_sqlx::Timestamp,
    updated_at: jiff_sqlx::Timestamp,
    finished_at: Option<jiff_sqlx::Timestamp>,
}

impl From<Row> for QueueRow {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            campaign_id: row.campaign_id,
            lead_id: row.lead_id,
            status: row.status,
            attempt_count: row.attempt_count,
            max_attempts: row.max_attempts,
            next_retry_at: row.next_retry_at.to_jiff(),
            last_error: row.last_error,
            to_number: row.to_number,
            message: row.message,
            priority: Priority::from_number(row.priority),
            agent_id: row.agent_id.map(AgentId),
            phone_number_id: row.phone_number_id.map(PhoneNumberId),
            interaction_id: row.interaction_id,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
            finished_at: row.finished_at.map(jiff_sqlx::Timestamp::to_jiff),
        }
    }
}

impl Priority {
    /// As it is stored: higher ones first.
    #[must_use]
    pub const fn number(self) -> i16 {
        match self {
            Self::Low => -1,
            Self::Normal => 0,
            Self::High => 1,
        }
    }

    const fn from_number(number: i16) -> Self {
        match number {
            ..0 => Self::Low,
            0 => Self::Normal,
            1.. => Self::High,
        }
    }
}
