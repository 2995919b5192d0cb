//! Tries to reach somebody, as they are read.

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::ids::{AgentId, OrganizationId};
use crate::store::Store;

/// One try.
#[derive(Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Attempt {
    /// Our id.
    pub id: Uuid,
    /// The call it is a try of.
    pub queue_id: Option<Uuid>,
    /// Who was called.
    pub lead_id: Option<i64>,
    /// The campaign it was for.
    pub campaign_id: Option<Uuid>,
    /// The record of the call, once the carrier took it.
    pub call_log_id: Option<Uuid>,
    /// Who was to speak; null once that agent is deleted.
    #[schema(value_type = Option<Uuid>)]
    pub agent_id: Option<AgentId>,
    /// Which of the tries, from 1.
    pub attempt_number: i32,
    /// `voice`.
    pub channel: String,
    /// `dialing` while the carrier is being asked, `placed` once it has the call, `ended`.
    pub status: String,
    /// What came of it: `answered`, `voicemail`, `busy`, `no_answer`, `failed`, `canceled`, `not_placed`.
    pub outcome: Option<String>,
    /// Seconds of talk.
    pub duration: Option<i32>,
    /// Whether another try follows.
    pub will_retry: Option<bool>,
    /// When.
    pub next_retry_at: Option<Timestamp>,
    /// The outcome for which it is tried again.
    pub retry_reason: Option<String>,
    /// A machine answered.
    pub voicemail_detected: bool,
    /// The carrier's id of the call.
    pub call_sid: Option<String>,
    /// The telephone that was called, in E.164.
    pub to_number: String,
    /// Our number that showed, in E.164.
    pub from_number: String,
    /// When the carrier was about to be asked.
    pub requested_at: Timestamp,
    /// When it had taken the call.
    pub placed_at: Option<Timestamp>,
    /// When somebody or something answered.
    pub answered_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// Who answered, in the carrier's word.
    pub answered_by: Option<String>,
    /// The answer of the telephone network.
    pub sip_response_code: Option<i32>,
    /// What the carrier or the network said, where that is why it came to nothing.
    pub error: Option<String>,
}

/// Tries of a row of the queue, or of a campaign, newest first, and how many there are in all.
pub async fn attempts(
    store: &Store,
    organization: OrganizationId,
    queue_id: Option<Uuid>,
    campaign_id: Option<Uuid>,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<Attempt>, u64)> {
    let total = sqlx::query_scalar!(
        r#"
        select count(*) as "count!"
        from call_attempts
        where organization_id = $1
          and ($2::uuid is null or queue_id = $2)
          and ($3::uuid is null or campaign_id = $3)
        "#,
        organization.0,
        queue_id,
        campaign_id,
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id,
               queue_id,
               lead_id,
               campaign_id,
               call_log_id,
               agent_id,
               attempt_number,
               channel,
               status,
               outcome,
               duration,
               will_retry,
               next_retry_at,
               retry_reason,
               voicemail_detected,
               call_sid,
               to_number,
               from_number,
               requested_at,
               placed_at,
               answered_at,
               ended_at,
               answered_by,
               sip_response_code,
               error
        from call_attempts
        where organization_id = $1
          and ($2::uuid is null or queue_id = $2)
          and ($3::uuid is null or campaign_id = $3)
        order by requested_at desc, id
        limit $4
        offset $5
        "#,
        organization.0,
        queue_id,
        campaign_id,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    Ok((rows.into_iter().map(Attempt::from).collect(), total.unsigned_abs()))
}

/// A try as its columns are.
struct Row {
    id: Uuid,
    queue_id: Option<Uuid>,
    lead_id: Option<i64>,
    campaign_id: Option<Uuid>,
    call_log_id: Option<Uuid>,
    agent_id: Option<Uuid>,
    attempt_number: i32,
    channel: String,
    status: String,
    outcome: Option<String>,
    duration: Option<i32>,
    will_retry: Option<bool>,
    next_retry_at: Option<jiff_sqlx::Timestamp>,
    retry_reason: Option<String>,
    voicemail_detected: bool,
    call_sid: Option<String>,
    to_number: String,
    from_number: String,
    requested_at: jiff_sqlx::Timestamp,
    placed_at: Option<jiff_sqlx::Timestamp>,
    answered_at: Option<jiff_sqlx::Timestamp>,
    ended_at: Option<jiff_sqlx::Timestamp>,
    answered_by: Option<String>,
    sip_response_code: Option<i32>,
    error: Option<String>,
}

impl From<Row> for Attempt {
    fn from(row: Row) -> Self {
        let moment = |at: Option<jiff_sqlx::Timestamp>| at.map(jiff_sqlx::Timestamp::to_jiff);
        Self {
            id: row.id,
            queue_id: row.queue_id,
            lead_id: row.lead_id,
            campaign_id: row.campaign_id,
            call_log_id: row.call_log_id,
            agent_id: row.agent_id.map(AgentId),
            attempt_number: row.attempt_number,
            channel: row.channel,
            status: row.status,
            outcome: row.outcome,
            duration: row.duration,
            will_retry: row.will_retry,
            next_retry_at: moment(row.next_retry_at),
            retry_reason: row.retry_reason,
            voicemail_detected: row.voicemail_detected,
            call_sid: row.call_sid,
            to_number: row.to_number,
            from_number: row.from_number,
            requested_at: row.requested_at.to_jiff(),
            placed_at: moment(row.placed_at),
            answered_at: moment(row.answered_at),
            ended_at: moment(row.ended_at),
            answered_by: row.answered_by,
            sip_response_code: row.sip_response_code,
            error: row.error,
        }
    }
}
