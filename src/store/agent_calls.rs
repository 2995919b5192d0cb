//! Calls that people took over from an agent, or did not. What happened is written by the `lifecycle` module, what came of
//! it by people.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::ids::{CallSid, OrganizationId};
use crate::store::{Store, storable, storable_json};

/// What the row of one handoff must say.
#[derive(Debug, Clone, PartialEq)]
pub struct HandoffRow {
    /// Which of the handoffs of the call, from 1.
    pub handoff: i32,
    /// `ringing`, `connected`, `completed`, `no_answer`, `busy`, `failed`, `canceled`.
    pub status: &'static str,
    /// Why, in the agent's words.
    pub reason: String,
    /// What had been said, in the agent's words.
    pub summary: String,
    /// Who answered, `team_members.id`.
    pub member: Option<Uuid>,
    /// The leg to the person.
    pub leg: Option<String>,
    /// When the person and the caller were connected.
    pub started_at: Option<Timestamp>,
    /// When that was over.
    pub ended_at: Option<Timestamp>,
    /// Seconds.
    pub duration_s: Option<i32>,
}

/// The call a handoff is part of.
#[derive(Debug, Clone, Copy)]
pub struct HandedCall<'a> {
    /// Whose it is.
    pub organization: OrganizationId,
    /// The caller's call.
    pub call_sid: &'a CallSid,
    /// Its row in `call_logs`.
    pub call_log_id: Uuid,
    /// Whom it is with.
    pub lead_id: Option<i64>,
    /// What it was made for.
    pub campaign_id: Option<Uuid>,
}

/// Has the row of a handoff say what it must. What people have written stays.
pub async fn write(
    connection: &mut PgConnection,
    call: HandedCall<'_>,
    row: &HandoffRow,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        insert into agent_calls (
            organization_id, parent_call_sid, handoff, ai_call_log_id, lead_id, campaign_id, status, reason, summary,
            agent_id, agent_name, call_sid, started_at, ended_at, duration
        )
        select $1, $2, $3, $4, $5, $6, $7, $8, $9, member.id, member.name, $11, $12, $13, $14
        from (select $10::uuid as id) as answered
        left join team_members member on member.id = answered.id and member.organization_id = $1
        on conflict on constraint agent_calls_once do update
        set ai_call_log_id = excluded.ai_call_log_id,
            lead_id = coalesce(excluded.lead_id, agent_calls.lead_id),
            campaign_id = excluded.campaign_id,
            status = excluded.status,
            reason = excluded.reason,
            summary = excluded.summary,
            agent_id = coalesce(excluded.agent_id, agent_calls.agent_id),
            agent_name = coalesce(excluded.agent_name, agent_calls.agent_name),
            call_sid = coalesce(excluded.call_sid, agent_calls.call_sid),
            started_at = excluded.started_at,
            ended_at = excluded.ended_at,
            duration = excluded.duration,
            updated_at = now()
        "#,
        call.organization.0,
        call.call_sid.as_str(),
        row.handoff,
        call.call_log_id,
        call.lead_id,
        call.campaign_id,
        row.status,
        storable(&row.reason),
        storable(&row.summary),
        row.member,
        row.leg,
        row.started_at.map(ToSqlx::to_sqlx) as _,
        row.ended_at.map(ToSqlx::to_sqlx) as _,
        row.duration_s,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A handoff as stored.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AgentCall {
    /// Our id.
    pub id: Uuid,
    /// Whom it is with.
    pub lead_id: Option<i64>,
    /// What it was made for.
    pub campaign_id: Option<Uuid>,
    /// The call of the agent, in `call_logs`.
    pub ai_call_log_id: Option<Uuid>,
    /// The person who answered.
    pub agent_id: Option<Uuid>,
    /// Their name then.
    #[schema(example = "Grace")]
    pub agent_name: Option<String>,
    /// The carrier's id of the leg to the person.
    pub call_sid: Option<String>,
    /// The caller's call.
    #[schema(example = "CA00000000000000000000000000000001")]
    pub parent_call_sid: String,
    /// Which of the handoffs of that call, from 1.
    pub handoff: i32,
    /// `ringing`, `connected`, `completed`, `no_answer`, `busy`, `failed` or `canceled`.
    #[schema(example = "completed")]
    pub status: String,
    /// Why, in the agent's words.
    #[schema(example = "wants a person")]
    pub reason: String,
    /// What had been said, in the agent's words.
    pub summary: String,
    /// When the person and the caller were connected.
    pub started_at: Option<Timestamp>,
    /// When that was over.
    pub ended_at: Option<Timestamp>,
    /// Seconds.
    pub duration: Option<i32>,
    /// Where a recording is.
    pub recording_url: Option<String>,
    /// What was said.
    pub transcript: Option<String>,
    /// What the person made of it.
    pub outcome: Option<String>,
    /// What is to be done.
    pub next_action: Option<String>,
    /// By when.
    pub next_action_date: Option<Timestamp>,
    /// Free text.
    pub agent_notes: Option<String>,
    /// From -1 to 1.
    pub sentiment_score: Option<f64>,
    /// How interested the caller is.
    pub interest_level: Option<String>,
    /// What speaks against it, in any shape.
    #[schema(value_type = Vec<Object>)]
    pub objections: Value,
    /// When the row was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// Which handoffs are wanted. What is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct HandoffFilter {
    /// With this lead.
    pub lead_id: Option<i64>,
    /// Of this campaign.
    pub campaign_id: Option<Uuid>,
    /// Of this call.
    pub parent_call_sid: Option<String>,
    /// How they went.
    pub status: Option<String>,
}

/// What people write. `None` leaves a member as it is; `Some(None)` empties it.
#[derive(Debug, Clone, Default)]
pub struct HandoffPatch {
    /// What came of it.
    pub outcome: Option<Option<String>>,
    /// What is to be done.
    pub next_action: Option<Option<String>>,
    /// By when.
    pub next_action_date: Option<Option<Timestamp>>,
    /// Free text.
    pub agent_notes: Option<Option<String>>,
    /// What speaks against it: a list.
    pub objections: Option<Value>,
    /// How interested the caller is.
    pub interest_level: Option<Option<String>>,
}

/// Handoffs, newest first, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    filter: &HandoffFilter,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<AgentCall>, u64)> {
    let mut connection = store.connection().await?;
    let total = sqlx::query_scalar!(
        r#"
        select count(*) as "total!"
        from agent_calls
        where organization_id = $1
          and ($2::bigint is null or lead_id = $2)
          and ($3::uuid is null or campaign_id = $3)
          and ($4::text is null or parent_call_sid = $4)
          and ($5::text is null or status = $5)
        "#,
        organization.0,
        filter.lead_id,
        filter.campaign_id,
        filter.parent_call_sid.as_deref(),
        filter.status.as_deref(),
    )
    .fetch_one(&mut *connection)
    .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id, lead_id, campaign_id, ai_call_log_id, agent_id, agent_name, call_sid, parent_call_sid, handoff, status,
               reason, summary, started_at, ended_at, duration, recording_url, transcript, outcome, next_action,
               next_action_date, agent_notes, sentiment_score::float8 as sentiment_score, interest_level, objections,
               created_at, updated_at
        from agent_calls
        where organization_id = $1
          and ($2::bigint is null or lead_id = $2)
          and ($3::uuid is null or campaign_id = $3)
          and ($4::text is null or parent_call_sid = $4)
          and ($5::text is null or status = $5)
        order by created_at desc, id
        limit $6 offset $7
        "#,
        organization.0,
        filter.lead_id,
        filter.campaign_id,
        filter.parent_call_sid.as_deref(),
        filter.status.as_deref(),
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *connection)
    .await?;
    Ok((rows.into_iter().map(AgentCall::from).collect(), total.unsigned_abs()))
}

/// One handoff.
pub async fn find(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<Option<AgentCall>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select id, lead_id, campaign_id, ai_call_log_id, agent_id, agent_name, call_sid, parent_call_sid, handoff, status,
               reason, summary, started_at, ended_at, duration, recording_url, transcript, outcome, next_action,
               next_action_date, agent_notes, sentiment_score::float8 as sentiment_score, interest_level, objections,
               created_at, updated_at
        from agent_calls
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        id,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(AgentCall::from))
}

/// Changes what the patch names. `None`: no such handoff in this organisation.
pub async fn update(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
    patch: &HandoffPatch,
) -> sqlx::Result<Option<AgentCall>> {
    let text = |member: &Option<Option<String>>| member.as_ref().and_then(Option::as_deref).map(storable);
    let row = sqlx::query_as!(
        Row,
        r#"
        update agent_calls
        set outcome = case when $3 then $4 else outcome end,
            next_action = case when $5 then $6 else next_action end,
            next_action_date = case when $7 then $8 else next_action_date end,
            agent_notes = case when $9 then $10 else agent_notes end,
            interest_level = case when $11 then $12 else interest_level end,
            objections = coalesce($13, objections),
            updated_at = now()
        where organization_id = $1 and id = $2
        returning id, lead_id, campaign_id, ai_call_log_id, agent_id, agent_name, call_sid, parent_call_sid, handoff,
                  status, reason, summary, started_at, ended_at, duration, recording_url, transcript, outcome, next_action,
                  next_action_date, agent_notes, sentiment_score::float8 as sentiment_score, interest_level, objections,
                  created_at, updated_at
        "#,
        organization.0,
        id,
        patch.outcome.is_some(),
        text(&patch.outcome),
        patch.next_action.is_some(),
        text(&patch.next_action),
        patch.next_action_date.is_some(),
        patch.next_action_date.flatten().map(ToSqlx::to_sqlx) as _,
        patch.agent_notes.is_some(),
        text(&patch.agent_notes),
        patch.interest_level.is_some(),
        text(&patch.interest_level),
        patch.objections.clone().map(storable_json),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(AgentCall::from))
}

/// A handoff as its columns are.
struct Row {
    id: Uuid,
    lead_id: Option<i64>,
    campaign_id: Option<Uuid>,
    ai_call_log_id: Option<Uuid>,
    agent_id: Option<Uuid>,
    agent_name: Option<String>,
    call_sid: Option<String>,
    parent_call_sid: String,
    handoff: i32,
    status: String,
    reason: String,
    summary: String,
    started_at: Option<jiff_sqlx::Timestamp>,
    ended_at: Option<jiff_sqlx::Timestamp>,
    duration: Option<i32>,
    recording_url: Option<String>,
    transcript: Option<String>,
    outcome: Option<String>,
    next_action: Option<String>,
    next_action_date: Option<jiff_sqlx::Timestamp>,
    agent_notes: Option<String>,
    sentiment_score: Option<f64>,
    interest_level: Option<String>,
    objections: Value,
    created_at: jiff_sqlx::Timestamp,
    updated_at: jiff_sqlx::Timestamp,
}

impl From<Row> for AgentCall {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            lead_id: row.lead_id,
            campaign_id: row.campaign_id,
            ai_call_log_id: row.ai_call_log_id,
            agent_id: row.agent_id,
            agent_name: row.agent_name,
            call_sid: row.call_sid,
            parent_call_sid: row.parent_call_sid,
            handoff: row.handoff,
            status: row.status,
            reason: row.reason,
            summary: row.summary,
            started_at: row.started_at.map(jiff_sqlx::Timestamp::to_jiff),
            ended_at: row.ended_at.map(jiff_sqlx::Timestamp::to_jiff),
            duration: row.duration,
            recording_url: row.recording_url,
            transcript: row.transcript,
            outcome: row.outcome,
            next_action: row.next_action,
            next_action_date: row.next_action_date.map(jiff_sqlx::Timestamp::to_jiff),
            agent_notes: row.agent_notes,
            sentiment_score: row.sentiment_score,
            interest_level: row.interest_level,
            objections: row.objections,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
        }
    }
}
