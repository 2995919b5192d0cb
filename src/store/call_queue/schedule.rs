//! One call that somebody asks for.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use sqlx::PgConnection;

use crate::ids::{AgentId, OrganizationId, PhoneNumber, PhoneNumberId};
use crate::store::call_queue::{Priority, QueueRow, one};
use crate::store::{Store, storable};

/// A call to make.
#[derive(Clone)]
pub struct NewCall {
    /// The telephone; `None`: the lead's.
    pub to: Option<PhoneNumber>,
    /// What it is about, for the agent.
    pub message: Option<String>,
    /// Who is called.
    pub lead_id: Option<i64>,
    /// How urgent it is.
    pub priority: Priority,
    /// Not before; `None`: now.
    pub schedule_at: Option<Timestamp>,
    /// Who speaks; `None`: whom the interaction names, and else the default agent.
    pub agent_id: Option<AgentId>,
    /// The platform's record of the call, which must be `INITIATED`. The call changes it, asking does not.
    pub interaction_id: Option<String>,
    /// Our number that shows; `None`: any.
    pub phone_number_id: Option<PhoneNumberId>,
    /// Tries in all.
    pub max_attempts: i32,
}

/// Why a call is not taken into the queue.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// Neither `to` nor a lead.
    #[error("say whom to call: `to`, or the `lead_id` of somebody with a telephone")]
    NoNumber,
    /// No such lead in this organisation.
    #[error("there is no such lead")]
    LeadNotFound,
    /// The lead's telephone is no number that can be called.
    #[error("the lead's telephone cannot be called; correct it, or give `to`")]
    LeadNumber,
    /// No such agent in this organisation.
    #[error("there is no such agent")]
    AgentNotFound,
    /// Nobody speaks.
    #[error("there is no default agent; name one that is enabled by `agent_id`")]
    NoAgent,
    /// It takes no calls.
    #[error("the agent is disabled; enable it, or name another one")]
    AgentDisabled,
    /// No such interaction in this organisation.
    #[error("there is no such interaction; create it first")]
    InteractionNotFound,
    /// Its call was made before.
    #[error("the interaction is {status}; only one that is INITIATED can be called for")]
    InteractionNotInitiated {
        /// What it is instead.
        status: String,
    },
    /// It is a record of somebody calling us.
    #[error("the interaction is INBOUND: its caller calls us; create an OUTBOUND one for a call of ours")]
    InteractionInbound,
    /// Its call is in the queue.
    #[error("a call for this interaction is in the queue already")]
    InteractionQueued,
    /// No such number of this organisation's own.
    #[error("there is no such phone number of your own")]
    OwnNumberNotFound,
    /// Nothing to call from.
    #[error("there is no number to call from; add one of your carrier's numbers to phone_numbers first")]
    NoOwnNumber,
    /// Somebody does not want it.
    #[error("the number is on the do-not-call list")]
    DoNotCall,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Takes a call into the queue. What it needs is checked in the same transaction.
pub async fn schedule(
    store: &Store,
    organization: OrganizationId,
    new: &NewCall,
) -> Result<QueueRow, ScheduleError> {
    let mut transaction = store.begin().await?;
    let interaction = new.interaction_id.as_deref().map(storable);
    let named = match &interaction {
        Some(interaction) => take_interaction(&mut transaction, organization, interaction).await?,
        None => None,
    };
    let agent_id = new.agent_id.or(named);
    let to = checked(&mut transaction, organization, new, agent_id).await?;
    if let Some(interaction) = &interaction {
        note_dispatch(&mut transaction, organization, interaction).await?;
    }
    let id = sqlx::query_scalar!(
        r#"
        insert into call_queue (
            organization_id, lead_id, max_attempts, next_retry_at, to_number, message, priority, agent_id,
            phone_number_id, interaction_id
        )
        values ($1, $2, $3, coalesce($4, now()), $5, $6, $7, $8, $9, $10)
        returning id
        "#,
        organization.0,
        new.lead_id,
        new.max_attempts,
        new.schedule_at.map(ToSqlx::to_sqlx) as _,
        to.expose(),
        new.message.as_deref().map(storable),
        new.priority.number(),
        agent_id.map(|agent| agent.0),
        new.phone_number_id.map(|number| number.0),
        interaction,
    )
    .fetch_one(&mut *transaction)
    .await?;
    let row = one(&mut transaction, organization, id).await?.ok_or(sqlx::Error::RowNotFound)?;
    transaction.commit().await?;
    Ok(row)
}

/// The telephone to call, when there is nothing against it.
async fn checked(
    connection: &mut PgConnection,
    organization: OrganizationId,
    new: &NewCall,
    agent_id: Option<AgentId>,
) -> Result<PhoneNumber, ScheduleError> {
    let facts = sqlx::query!(
        r#"
        select (select phone from leads where organization_id = $1 and id = $2) as lead_phone,
               (
                   select enabled
                   from agents
                   where organization_id = $1 and case when $3::uuid is null then is_default else id = $3 end
               ) as agent_enabled,
               exists (
                   select from phone_numbers where organization_id = $1 and ($4::uuid is null or id = $4)
               ) as "has_number!"
        "#,
        organization.0,
        new.lead_id,
        agent_id.map(|agent| agent.0),
        new.phone_number_id.map(|number| number.0),
    )
    .fetch_one(&mut *connection)
    .await?;
    if new.lead_id.is_some() && facts.lead_phone.is_none() {
        return Err(ScheduleError::LeadNotFound);
    }
    let to = match (&new.to, &facts.lead_phone) {
        (Some(to), _) => to.clone(),
        (None, Some(phone)) => PhoneNumber::parse(phone).map_err(|_| ScheduleError::LeadNumber)?,
        (None, None) => return Err(ScheduleError::NoNumber),
    };
    match (facts.agent_enabled, agent_id) {
        (Some(true), _) => {}
        (Some(false), _) => return Err(ScheduleError::AgentDisabled),
        (None, Some(_)) => return Err(ScheduleError::AgentNotFound),
        (None, None) => return Err(ScheduleError::NoAgent),
    }
    if !facts.has_number {
        let is_named = new.phone_number_id.is_some();
        return Err(if is_named { ScheduleError::OwnNumberNotFound } else { ScheduleError::NoOwnNumber });
    }
    let refused = sqlx::query_scalar!(
        r#"select exists (select from do_not_call where organization_id = $1 and number = $2) as "refused!""#,
        organization.0,
        to.expose(),
    )
    .fetch_one(connection)
    .await?;
    if refused { Err(ScheduleError::DoNotCall) } else { Ok(to) }
}

/// Whom an interaction that still waits for its call names as agent, where that is one of ours.
async fn take_interaction(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: &str,
) -> Result<Option<AgentId>, ScheduleError> {
    // Locked, so that of two who ask at once the second sees the first one's row.
    let interaction = sqlx::query!(
        r#"
        select status::text as "status!",
               direction = 'INBOUND' as "is_inbound!",
               (
                   select agents.id
                   from agents
                   where agents.organization_id = $1 and agents.id::text = interactions."agentId"
               ) as agent
        from interactions
        where organization_id = $1 and id = $2
        for update of interactions
        "#,
        organization.0,
        id,
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(ScheduleError::InteractionNotFound)?;
    if interaction.is_inbound {
        return Err(ScheduleError::InteractionInbound);
    }
    if interaction.status != "INITIATED" {
        return Err(ScheduleError::InteractionNotInitiated { status: interaction.status });
    }
    let is_queued = sqlx::query_scalar!(
        r#"
        select exists (
            select
            from call_queue
            where organization_id = $1 and interaction_id = $2 and status in ('queued', 'processing')
        ) as "is_queued!"
        "#,
        organization.0,
        id,
    )
    .fetch_one(&mut *connection)
    .await?;
    if is_queued {
        return Err(ScheduleError::InteractionQueued);
    }
    Ok(interaction.agent.map(AgentId))
}

/// Notes that the interaction's call was asked for, and changes nothing else about it.
async fn note_dispatch(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        update interactions
        set "dispatchedAt" = now(),
            "updatedAt" = now()
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        id,
    )
    .execute(connection)
    .await?;
    Ok(())
}
