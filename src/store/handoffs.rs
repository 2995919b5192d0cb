//! What people are told when an agent puts a caller through, and why it went as it did.

use serde_json::Value;

use crate::ids::{CallSid, OrganizationId};
use crate::store::{Store, storable, storable_json};

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
