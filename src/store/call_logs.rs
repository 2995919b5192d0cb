//! Calls as those who sell by telephone count them. Written by the `lifecycle` module only.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::ids::{AgentId, CallSid, OrganizationId};
use crate::store::{Store, decoded, storable};

/// What a row must say, as far as call events decide it.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRow {
    /// Whose it is.
    pub organization: OrganizationId,
    /// The call.
    pub call_sid: CallSid,
    /// Who answered.
    pub agent: AgentId,
    /// Whom it was with, where that is known.
    pub lead_id: Option<i64>,
    /// What it was made for.
    pub campaign_id: Option<Uuid>,
    /// What that belongs to.
    pub project_id: Option<Uuid>,
    /// We called.
    pub is_outbound: bool,
    /// As the carrier sent it.
    pub caller_number: Option<String>,
    /// As the carrier sent it.
    pub callee_number: Option<String>,
    /// Where the call is in its life.
    pub status: &'static str,
    /// The carrier's latest word.
    pub call_status: Option<String>,
    /// When it came or was placed.
    pub started_at: Timestamp,
    /// When somebody or something took it.
    pub answered_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// Seconds.
    pub duration_s: Option<i32>,
    /// Where a recording is.
    pub recording_url: Option<String>,
    /// What was said, one line a turn.
    pub conversation_transcript: Option<String>,
    /// Of the turns it was made of.
    pub transcript_revision: i64,
    /// When and why the caller was first handed to people.
    pub transferred: Option<(Timestamp, String)>,
    /// Why it ended.
    pub disconnect_reason: Option<String>,
    /// What the carrier said to that.
    pub disconnect_notes: Option<String>,
}

/// Has the row of a call say what it must. Returns its id. What others write of the call stays.
pub async fn write(connection: &mut PgConnection, row: &LogRow) -> sqlx::Result<Uuid> {
    let text = |value: &Option<String>| value.as_deref().map(storable);
    sqlx::query_scalar!(
        r#"
        insert into call_logs (
            organization_id, call_sid, agent_id, lead_id, campaign_id, project_id, direction, caller_number,
            callee_number, status, call_status, started_at, answered_at, ended_at, duration, recording_url,
            conversation_transcript, transcript_revision, transferred, transferred_at, transfer_reason,
            disconnect_reason, disconnect_notes
        )
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)
        on conflict (call_sid) do update
        set agent_id = excluded.agent_id,
            lead_id = coalesce(excluded.lead_id, call_logs.lead_id),
            campaign_id = excluded.campaign_id,
            project_id = excluded.project_id,
            direction = excluded.direction,
            caller_number = excluded.caller_number,
            callee_number = excluded.callee_number,
            status = excluded.status,
            call_status = excluded.call_status,
            started_at = excluded.started_at,
            answered_at = excluded.answered_at,
            ended_at = excluded.ended_at,
            duration = excluded.duration,
            recording_url = coalesce(excluded.recording_url, call_logs.recording_url),
            conversation_transcript = excluded.conversation_transcript,
            transcript_revision = excluded.transcript_revision,
            transferred = excluded.transferred,
            transferred_at = excluded.transferred_at,
            transfer_reason = excluded.transfer_reason,
            disconnect_reason = excluded.disconnect_reason,
            disconnect_notes = excluded.disconnect_notes,
            updated_at = now()
        returning id
        "#,
        row.organization.0,
        row.call_sid.as_str(),
        row.agent.0,
        row.lead_id,
        row.campaign_id,
        row.project_id,
        if row.is_outbound { "outbound" } else { "inbound" },
        text(&row.caller_number),
        text(&row.callee_number),
        row.status,
        text(&row.call_status),
        row.started_at.to_sqlx() as _,
        row.answered_at.map(ToSqlx::to_sqlx) as _,
        row.ended_at.map(ToSqlx::to_sqlx) as _,
        row.duration_s,
        text(&row.recording_url),
        text(&row.conversation_transcript),
        row.transcript_revision,
        row.transferred.is_some(),
        row.transferred.as_ref().map(|(at, _)| at.to_sqlx()) as _,
        row.transferred.as_ref().map(|(_, reason)| storable(reason)),
        text(&row.disconnect_reason),
        text(&row.disconnect_notes),
    )
    .fetch_one(connection)
    .await
}

/// Calls that are over, whose log was written within the last quarter of an hour, and of which more is known since: turns that
/// came after the end, the lead that was linked then. At most `limit`.
pub async fn unfinished(store: &Store, limit: i64) -> sqlx::Result<Vec<CallSid>> {
    let rows = sqlx::query_scalar!(
        r#"
        select call_sid
        from call_logs
        where ended_at is not null
          and updated_at > now() - interval '15 minutes'
          and (
              transcript_revision <> (
                  select coalesce(sum(revision), 0)
                  from conversation_transcripts
                  where conversation_transcripts.organization_id = call_logs.organization_id
                    and conversation_transcripts.call_sid = call_logs.call_sid
                    and role in ('user', 'assistant')
              )
              or lead_id is null
                  and exists (
                      select
                      from leads
                      where leads.organization_id = call_logs.organization_id
                        and leads.call_sid = call_logs.call_sid
                  )
          )
        order by updated_at
        limit $1
        "#,
        limit,
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    rows.into_iter().map(|text| decoded(CallSid::try_from(text))).collect()
}

/// A call as stored.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct CallLog {
    /// Our id.
    pub id: Uuid,
    /// The carrier's id.
    #[schema(example = "CA00000000000000000000000000000001")]
    pub call_sid: String,
    /// Whom it was with.
    pub lead_id: Option<i64>,
    /// What it was made for.
    pub campaign_id: Option<Uuid>,
    /// What that belongs to.
    pub project_id: Option<Uuid>,
    /// Who answered.
    pub agent_id: Option<Uuid>,
    /// `outbound` or `inbound`.
    #[schema(example = "outbound")]
    pub direction: String,
    /// As the carrier sent it.
    #[schema(example = "+14155550199")]
    pub caller_number: Option<String>,
    /// As the carrier sent it.
    #[schema(example = "+14155550123")]
    pub callee_number: Option<String>,
    /// `initiated`, `ringing`, `connected`, `transferred`, `completed` or `failed`.
    #[schema(example = "completed")]
    pub status: String,
    /// The carrier's latest word.
    #[schema(example = "completed")]
    pub call_status: Option<String>,
    /// When it came or was placed.
    pub started_at: Timestamp,
    /// When somebody or something took it.
    pub answered_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// Seconds from its first media stream to its end, the part of people included; as the carrier counts them where only
    /// the carrier has told of the end.
    pub duration: Option<i32>,
    /// Where a recording is.
    pub recording_url: Option<String>,
    /// What was said, one line a turn.
    #[schema(example = "Agent: Good morning.\nCaller: Hello.")]
    pub conversation_transcript: Option<String>,
    /// From -1 to 1, by analysis.
    pub sentiment_score: Option<f64>,
    /// By analysis.
    pub interest_level: Option<String>,
    /// By analysis.
    pub conversation_summary: Option<String>,
    /// People took the caller over.
    pub transferred: bool,
    /// When that was asked for.
    pub transferred_at: Option<Timestamp>,
    /// Why, in the words of whoever asked for it, or in a word of ours such as `team_answered`.
    pub transfer_reason: Option<String>,
    /// Why the call ended; the first cause.
    #[schema(example = "caller_hung_up")]
    pub disconnect_reason: Option<String>,
    /// More about it: the carrier's status and SIP answer.
    pub disconnect_notes: Option<String>,
    /// By analysis.
    #[schema(value_type = Option<Object>)]
    pub ai_analysis: Option<Value>,
    /// When the row was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// Which calls are wanted. What is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct LogFilter {
    /// With this lead.
    pub lead_id: Option<i64>,
    /// Made for this campaign.
    pub campaign_id: Option<Uuid>,
    /// Answered by this agent.
    pub agent_id: Option<Uuid>,
    /// `outbound` or `inbound`.
    pub direction: Option<String>,
    /// Where they are in their life.
    pub status: Option<String>,
    /// Started then or later.
    pub from: Option<Timestamp>,
    /// Started before.
    pub to: Option<Timestamp>,
}

/// Calls, newest first, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    filter: &LogFilter,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<CallLog>, u64)> {
    let mut connection = store.connection().await?;
    let total = sqlx::query_scalar!(
        r#"
        select count(*) as "total!"
        from call_logs
        where organization_id = $1
          and ($2::bigint is null or lead_id = $2)
          and ($3::uuid is null or campaign_id = $3)
          and ($4::uuid is null or agent_id = $4)
          and ($5::text is null or direction = $5)
          and ($6::text is null or status = $6)
          and ($7::timestamptz is null or started_at >= $7)
          and ($8::timestamptz is null or started_at < $8)
        "#,
        organization.0,
        filter.lead_id,
        filter.campaign_id,
        filter.agent_id,
        filter.direction.as_deref(),
        filter.status.as_deref(),
        filter.from.map(ToSqlx::to_sqlx) as _,
        filter.to.map(ToSqlx::to_sqlx) as _,
    )
    .fetch_one(&mut *connection)
    .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id, call_sid, lead_id, campaign_id, project_id, agent_id, direction, caller_number, callee_number, status,
               call_status, started_at, answered_at, ended_at, duration, recording_url, conversation_transcript,
               sentiment_score::float8 as sentiment_score, interest_level, conversation_summary, transferred,
               transferred_at, transfer_reason, disconnect_reason, disconnect_notes, ai_analysis, created_at, updated_at
        from call_logs
        where organization_id = $1
          and ($2::bigint is null or lead_id = $2)
          and ($3::uuid is null or campaign_id = $3)
          and ($4::uuid is null or agent_id = $4)
          and ($5::text is null or direction = $5)
          and ($6::text is null or status = $6)
          and ($7::timestamptz is null or started_at >= $7)
          and ($8::timestamptz is null or started_at < $8)
        order by started_at desc, id
        limit $9 offset $10
        "#,
        organization.0,
        filter.lead_id,
        filter.campaign_id,
        filter.agent_id,
        filter.direction.as_deref(),
        filter.status.as_deref(),
        filter.from.map(ToSqlx::to_sqlx) as _,
        filter.to.map(ToSqlx::to_sqlx) as _,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *connection)
    .await?;
    Ok((rows.into_iter().map(CallLog::from).collect(), total.unsigned_abs()))
}

/// One call, by our id or by the carrier's.
pub async fn find(
    store: &Store,
    organization: OrganizationId,
    id_or_sid: &str,
) -> sqlx::Result<Option<CallLog>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select id, call_sid, lead_id, campaign_id, project_id, agent_id, direction, caller_number, callee_number, status,
               call_status, started_at, answered_at, ended_at, duration, recording_url, conversation_transcript,
               sentiment_score::float8 as sentiment_score, interest_level, conversation_summary, transferred,
               transferred_at, transfer_reason, disconnect_reason, disconnect_notes, ai_analysis, created_at, updated_at
        from call_logs
        where organization_id = $1 and (id = $2 or call_sid = $3)
        limit 1
        "#,
        organization.0,
        Uuid::try_parse(id_or_sid).ok(),
        storable(id_or_sid),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(CallLog::from))
}

/// A call as its columns are.
struct Row {
    id: Uuid,
    call_sid: String,
    lead_id: Option<i64>,
    campaign_id: Option<Uuid>,
    project_id: Option<Uuid>,
    agent_id: Option<Uuid>,
    direction: String,
    caller_number: Option<String>,
    callee_number: Option<String>,
    status: String,
    call_status: Option<String>,
    started_at: jiff_sqlx::Timestamp,
    answered_at: Option<jiff_sqlx::Timestamp>,
    ended_at: Option<jiff_sqlx::Timestamp>,
    duration: Option<i32>,
    recording_url: Option<String>,
    conversation_transcript: Option<String>,
    sentiment_score: Option<f64>,
    interest_level: Option<String>,
    conversation_summary: Option<String>,
    transferred: bool,
    transferred_at: Option<jiff_sqlx::Timestamp>,
    transfer_reason: Option<String>,
    disconnect_reason: Option<String>,
    disconnect_notes: Option<String>,
    ai_analysis: Option<Value>,
    created_at: jiff_sqlx::Timestamp,
    updated_at: jiff_sqlx::Timestamp,
}

impl From<Row> for CallLog {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            call_sid: row.call_sid,
            lead_id: row.lead_id,
            campaign_id: row.campaign_id,
            project_id: row.project_id,
            agent_id: row.agent_id,
            direction: row.direction,
            caller_number: row.caller_number,
            callee_number: row.callee_number,
            status: row.status,
            call_status: row.call_status,
            started_at: row.started_at.to_jiff(),
            answered_at: row.answered_at.map(jiff_sqlx::Timestamp::to_jiff),
            ended_at: row.ended_at.map(jiff_sqlx::Timestamp::to_jiff),
            duration: row.duration,
            recording_url: row.recording_url,
            conversation_transcript: row.conversation_transcript,
            sentiment_score: row.sentiment_score,
            interest_level: row.interest_level,
            conversation_summary: row.conversation_summary,
            transferred: row.transferred,
            transferred_at: row.transferred_at.map(jiff_sqlx::Timestamp::to_jiff),
            transfer_reason: row.transfer_reason,
            disconnect_reason: row.disconnect_reason,
            disconnect_notes: row.disconnect_notes,
            ai_analysis: row.ai_analysis,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
        }
    }
}
