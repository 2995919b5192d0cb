//! Where each call was sent, and why.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use serde_json::Value;

use crate::ids::{CallSid, OrganizationId};
use crate::routing::decide::{Decision, To};
use crate::store::{Store, storable_json};

/// At which point of a call something was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It came on one of our numbers.
    Incoming,
    /// People were called, and are not any more.
    Fallback,
    /// It came for an agent.
    Agent,
    /// People were to take it over from the agent; may be so several times.
    Handoff,
    /// They did not, each time.
    HandoffFallback,
}

impl Step {
    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incoming => "incoming",
            Self::Fallback => "fallback",
            Self::Agent => "agent",
            Self::Handoff => "handoff",
            Self::HandoffFallback => "handoff_fallback",
        }
    }
}

/// What was decided the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Where the call goes.
    pub to: To,
    /// A word for why.
    pub reason: String,
}

/// One decision, for whoever wonders the next day.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct RoutingDecision {
    /// `incoming`, `fallback`, `agent`, `handoff` or `handoff_fallback`.
    #[schema(example = "incoming")]
    pub step: String,
    /// `team`, `agent`, `sentence` or `hang_up`.
    #[schema(example = "team")]
    pub decision: String,
    /// A word for why.
    #[schema(example = "in_business_hours")]
    pub reason: String,
    /// What was looked at.
    #[schema(value_type = Object, example = json!({"agent": "agent_well", "time_zone": "Europe/Berlin", "time_there": "2026-03-02T09:30", "span": "09:00-12:00"}))]
    pub details: Value,
    /// When.
    pub decided_at: Timestamp,
}

/// Puts a decision on record of a step that may be there several times.
pub async fn note(
    store: &Store,
    organization: OrganizationId,
    call_sid: &CallSid,
    step: Step,
    decision: &Decision,
    at: Timestamp,
) -> sqlx::Result<()> {
    insert(store, organization, call_sid, step, decision, at).await?;
    Ok(())
}

/// Puts a decision on record, once for each step of a call's arrival. Returns what was decided the first time.
pub async fn decide_once(
    store: &Store,
    organization: OrganizationId,
    call_sid: &CallSid,
    step: Step,
    decision: &Decision,
    at: Timestamp,
) -> sqlx::Result<Decided> {
    let own = || Decided { to: decision.to, reason: decision.reason.to_owned() };
    if insert(store, organization, call_sid, step, decision, at).await? {
        return Ok(own());
    }
    let first = sqlx::query!(
        "select decision, reason from routing_decisions where call_sid = $1 and step = $2 and organization_id = $3",
        call_sid.as_str(),
        step.as_str(),
        organization.0,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    // Of another organisation, or none of our words: it does not bind us.
    let first = first.and_then(|row| Some(Decided { to: To::from_word(&row.decision)?, reason: row.reason }));
    Ok(first.unwrap_or_else(own))
}

/// False: this was decided before.
async fn insert(
    store: &Store,
    organization: OrganizationId,
    call_sid: &CallSid,
    step: Step,
    decision: &Decision,
    at: Timestamp,
) -> sqlx::Result<bool> {
    let details = storable_json(Value::Object(decision.details.clone()));
    let inserted = sqlx::query!(
        r#"
        insert into routing_decisions (organization_id, call_sid, step, decision, reason, details, decided_at)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict do nothing
        "#,
        organization.0,
        call_sid.as_str(),
        step.as_str(),
        decision.to.as_str(),
        decision.reason,
        details,
        at.to_sqlx() as _,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// What was decided of a call, in the order of time. Empty: nothing, or it is none of this organisation's.
pub async fn of_call(
    store: &Store,
    organization: OrganizationId,
    call_sid: &CallSid,
) -> sqlx::Result<Vec<RoutingDecision>> {
    let rows = sqlx::query!(
        r#"
        select step, decision, reason, details, decided_at
        from routing_decisions
        where organization_id = $1 and call_sid = $2
        order by decided_at, id
        limit 200
        "#,
        organization.0,
        call_sid.as_str(),
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    let decisions = rows.into_iter().map(|row| RoutingDecision {
        step: row.step,
        decision: row.decision,
        reason: row.reason,
        details: row.details,
        decided_at: row.decided_at.to_jiff(),
    });
    Ok(decisions.collect())
}
