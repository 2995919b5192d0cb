//! Who is called when an agent puts a caller through, what they are told, and why it went as it did.

use serde_json::Value;
use uuid::Uuid;

use crate::ids::{AgentId, CallSid, OrganizationId, PhoneNumber};
use crate::store::{Store, storable, storable_json};

/// So many telephones ring at once.
// Twilio dossier, 2.2: a `<Dial>` takes ten at most.
const MOST_AT_ONCE: i64 = 10;

/// People whose telephones ring together; the first to answer has the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Team {
    /// Seconds to ring.
    pub ring_timeout_s: u32,
    /// Never empty.
    pub members: Vec<Member>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// `team_members.id`.
    pub id: Uuid,
    /// The telephone.
    pub number: PhoneNumber,
}

/// What was wanted when a call was last put through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    /// A telephone number in E.164 or the id of a team, where somebody has named one.
    pub to: Option<String>,
    /// Why, in the words of whoever wanted it.
    pub reason: String,
    /// What the person should know.
    pub summary: String,
}

/// A decision about where a call goes.
#[derive(Debug)]
pub struct Decision<'a> {
    /// Whose call it is.
    pub organization: OrganizationId,
    /// The call.
    pub call_sid: &'a CallSid,
    /// Where in the call it was made: `handoff` or `handoff_fallback`.
    pub step: &'static str,
    /// Where it goes: `team`, `agent`, `sentence` or `hang_up`.
    pub decision: &'static str,
    /// A word for why.
    pub reason: &'a str,
    /// What was looked at.
    pub details: Value,
}

/// The people of an agent. `None`: it has no team, or nobody of the team takes calls.
pub async fn team_of_agent(store: &Store, agent: AgentId) -> sqlx::Result<Option<Team>> {
    let id = sqlx::query_scalar!("select team_id from agents where id = $1", agent.0)
        .fetch_optional(&store.pool)
        .await?;
    match id.flatten() {
        Some(id) => team(store, id, None).await,
        None => Ok(None),
    }
}

/// The people of a team who take calls. `None`: there is no such team, of the organisation if one is named, or nobody of it
/// takes calls.
pub async fn team(store: &Store, id: Uuid, of: Option<OrganizationId>) -> sqlx::Result<Option<Team>> {
    let rows = sqlx::query!(
        r#"
        select ring_timeout_s, team_members.id, number
        from teams
        join team_members on team_members.team_id = teams.id
        where teams.id = $1
          and ($2::uuid is null or teams.organization_id = $2)
          and enabled
        order by team_members.created_at, team_members.id
        limit $3
        "#,
        id,
        of.map(|of| of.0),
        MOST_AT_ONCE,
    )
    .fetch_all(&store.pool)
    .await?;
    let Some(ring_timeout_s) = rows.first().map(|row| row.ring_timeout_s.unsigned_abs()) else {
        return Ok(None);
    };
    // Somebody who cannot be called does not keep the others from being called.
    let members = rows.into_iter().filter_map(|row| {
        let unusable = |_: &_| {
            tracing::warn!(member.id = %row.id, "the number of a team member is not a possible number; it does not ring");
        };
        let number = PhoneNumber::parse(&row.number).inspect_err(unusable).ok()?;
        Some(Member { id: row.id, number })
    });
    let members: Vec<Member> = members.collect();
    Ok((!members.is_empty()).then_some(Team { ring_timeout_s, members }))
}

/// What was wanted when this call was last put through. `None`: it never was, as far as is on record.
pub async fn last_wish(store: &Store, call_sid: &CallSid) -> sqlx::Result<Option<Wish>> {
    let row = sqlx::query!(
        r#"
        select event->'details'->>'to' as "to", event->'details'->>'reason' as reason,
               event->'details'->>'summary' as summary
        from calls, jsonb_array_elements(event_sequence) with ordinality as sequence (event, place)
        where call_sid = $1 and event->>'type' = 'transferred'
        order by place desc
        limit 1
        "#,
        call_sid.as_str(),
    )
    .fetch_optional(&store.pool)
    .await?;
    Ok(row.map(|row| Wish {
        to: row.to,
        reason: row.reason.unwrap_or_default(),
        summary: row.summary.unwrap_or_default(),
    }))
}

/// Puts a decision on record, for whoever wonders later.
pub async fn note_decision(store: &Store, decision: Decision<'_>) -> sqlx::Result<()> {
    let Decision { organization, call_sid, step, decision, reason, details } = decision;
    sqlx::query!(
        r#"
        insert into routing_decisions (organization_id, call_sid, step, decision, reason, details, decided_at)
        values ($1, $2, $3, $4, $5, $6, clock_timestamp())
        on conflict on constraint routing_decisions_once do nothing
        "#,
        organization.0,
        call_sid.as_str(),
        step,
        decision,
        storable(reason),
        storable_json(details),
    )
    .execute(&store.pool)
    .await?;
    Ok(())
}
