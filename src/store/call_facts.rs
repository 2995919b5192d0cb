//! All that is on record of one call, read in one statement: what its other records are derived from.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::call::end::NextStep;
use crate::ids::{AgentId, CallSid, OrganizationId};
use crate::outreach::retry::{Outcome, RetryPolicy};
use crate::store::stored_call_sid;
use crate::store::webhooks::Listening;

/// What is known of one call.
#[derive(Debug, Clone)]
pub struct CallFacts {
    /// The call; by VAPI's id where no carrier carried it.
    pub call_sid: CallSid,
    /// What others were first told of it by: VAPI's id, where that was known before the carrier's.
    pub told_as: CallSid,
    /// Whose it is.
    pub organization: OrganizationId,
    /// Who answers.
    pub agent: AgentId,
    /// Names and terms that the agent listens for.
    pub keywords: Vec<String>,
    /// The agent is an assistant of VAPI as well, which reports of calls that it carried there.
    pub by_assistant: bool,
    /// What happened, by time: `[{type, timestamp, details}]`.
    pub event_sequence: Value,
    /// Where the call went.
    pub routing_status: Option<String>,
    /// The end-of-call report; `{}` before.
    pub data: Value,
    /// What the carrier said of it, in the order it came.
    pub callbacks: Vec<Callback>,
    /// Who carries or carried it.
    pub lease: Option<Lease>,
    /// The try that it is, where we called.
    pub attempt: Option<Attempt>,
    /// The interaction it is made for.
    pub interaction: Option<String>,
    /// The lead that is linked to it.
    pub lead: Option<i64>,
    /// Who is told what happens to it; `None`: nobody.
    pub listening: Option<Listening>,
}

/// One callback of the carrier.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Callback {
    /// The carrier's word.
    pub status: Option<String>,
    /// The carrier's count.
    pub sequence: Option<i32>,
    /// When it happened, by the carrier's clock.
    pub event_time: Option<Timestamp>,
    /// When it came.
    pub came_at: Timestamp,
    /// Seconds, once the call is over.
    pub duration_s: Option<i32>,
    /// SIP answer of a call that did not come about.
    pub sip: Option<i32>,
    /// Who answered.
    pub answered_by: Option<String>,
    /// `inbound`, `outbound-api`, `outbound-dial`.
    pub direction: Option<String>,
    /// As the carrier sent it.
    pub from: Option<String>,
    /// As the carrier sent it.
    pub to: Option<String>,
    /// Where a recording is.
    pub recording_url: Option<String>,
}

/// The lease of the call.
#[derive(Debug, Clone, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, as it stands in the row")]
pub struct Lease {
    /// The right to write about the call, as it stands now.
    pub fencing_token: i64,
    /// The carrier's word.
    pub direction: Option<String>,
    /// As the carrier sent it.
    pub from: Option<String>,
    /// As the carrier sent it.
    pub to: Option<String>,
    /// The stream of the latest offer has come.
    pub claimed: bool,
    /// The offer is on record since a moment, and its stream may have been taken.
    pub came_late: bool,
    /// What the carrier is told after the stream.
    pub next_action: Option<String>,
    /// Why the call ended.
    pub disconnect_reason: Option<String>,
    /// When its first stream came.
    pub began_at: Option<Timestamp>,
    /// The call is over.
    pub ended: bool,
    /// People are called, or have the call.
    pub handed_over: bool,
}

impl Lease {
    /// The agent has done its part: people are called, or are about to be.
    #[must_use]
    pub fn is_with_people(&self) -> bool {
        self.handed_over || self.next_action.as_deref() == Some(NextStep::Transfer.as_str())
    }
}

/// A try to reach somebody.
#[derive(Debug, Clone, Deserialize)]
pub struct Attempt {
    /// The try.
    pub id: Uuid,
    /// The call it became, once that is on record.
    pub call_sid: Option<String>,
    /// Whom it was to reach.
    pub lead_id: Option<i64>,
    /// What it is for.
    pub campaign_id: Option<Uuid>,
    /// What the campaign is for.
    pub project_id: Option<Uuid>,
    /// Which try it is of those that rang, from 1.
    pub attempt_number: u32,
    /// It is the latest of its queue row.
    pub is_current: bool,
    /// `dialing`, `placed`, `ended`.
    pub status: String,
    /// What came of it, as far as is on record.
    pub outcome: Option<Outcome>,
    /// Another call to the same telephone is going on.
    pub is_overtaken: bool,
    /// Tries in all.
    pub max_attempts: u32,
    /// Seconds to wait by outcome; `None` without a campaign.
    pub retry_delays_s: Option<Value>,
    /// What a machine means; `None` without a campaign.
    pub voicemail_policy: Option<String>,
    /// The interaction it is made for.
    pub interaction_id: Option<String>,
}

impl Attempt {
    /// When and how often it is tried again.
    #[must_use]
    pub fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy::stored(self.max_attempts, self.retry_delays_s.as_ref(), self.voicemail_policy.as_deref())
    }
}

/// All that is known of a call; `None` when it is not on record. The call stays locked until the transaction ends.
#[expect(clippy::too_many_lines, reason = "it is one query")]
pub async fn of_call(connection: &mut PgConnection, call_sid: &CallSid) -> sqlx::Result<Option<CallFacts>> {
    let row = sqlx::query!(
        r#"
        select c.organization_id, c.agent_id, c.event_sequence, c.routing_status, c.data,
               case when v.told_by_vapi_id then v.vapi_call_id end as told_as,
               (select keywords from agents where agents.id = c.agent_id) as keywords,
               exists (
                   select from agents where agents.id = c.agent_id and vapi_assistant_id is not null
               ) as "by_assistant!",
               (
                   -- Of whichever organisation: a callback that comes before its call cannot be told whose it is.
                   select jsonb_agg(
                       jsonb_build_object(
                           'status', call_status, 'sequence', sequence_number, 'event_time', event_time,
                           'came_at', created_at, 'duration_s', duration, 'sip', sip_response_code,
                           'answered_by', answered_by, 'direction', direction, 'from', from_number, 'to', to_number,
                           'recording_url', payload->>'RecordingUrl'
                       )
                       order by call_events.id
                   )
                   from call_events
                   where call_events.call_sid = c.call_sid
               ) as "callbacks: Json<Vec<Callback>>",
               (
                   select jsonb_build_object(
                       'fencing_token', fencing_token, 'direction', direction, 'from', from_number, 'to', to_number,
                       'claimed', claimed_at is not null,
                       'came_late', coalesce(claimed_at is null and heartbeat_at > now() - interval '45 seconds', false),
                       'next_action', next_action, 'disconnect_reason', disconnect_reason,
                       'ended', ended_at is not null, 'handed_over', handed_over_at is not null,
                       'began_at', (
                           select min(call_streams.claimed_at)
                           from call_streams
                           where call_streams.call_sid = call_leases.call_sid
                       )
                   )
                   from call_leases
                   where call_leases.call_sid = c.call_sid and call_leases.organization_id = c.organization_id
               ) as "lease: Json<Lease>",
               (
                   select jsonb_build_object(
                       'id', a.id, 'call_sid', a.call_sid, 'lead_id', a.lead_id, 'campaign_id', a.campaign_id,
                       'project_id', p.project_id, 'attempt_number', a.attempt_number - (
                           select count(*)
                           from call_attempts b
                           where b.queue_id = a.queue_id
                             and b.attempt_number < a.attempt_number
                             and b.outcome = 'not_placed'
                       ),
                       'is_current', a.attempt_number = q.attempt_count, 'status', a.status, 'outcome', a.outcome,
                       'is_overtaken', exists (
                           select
                           from call_attempts o
                           where o.organization_id = a.organization_id
                             and o.to_number = a.to_number
                             and o.status <> 'ended'
                             and o.id <> a.id
                       ),
                       'max_attempts', q.max_attempts, 'retry_delays_s', p.retry_delays_s,
                       'voicemail_policy', p.voicemail_policy, 'interaction_id', q.interaction_id
                   )
                   from call_attempts a
                   join call_queue q on q.id = a.queue_id
                   left join campaigns p on p.id = a.campaign_id
                   where a.organization_id = c.organization_id
                     and a.id = (
                         select (event->'details'->>'attempt_id')::uuid
                         from jsonb_array_elements(c.event_sequence) as event
                         where event->>'type' = 'outbound_dispatched'
                         limit 1
                     )
               ) as "attempt: Json<Attempt>",
               (
                   select i.id
                   from interactions i
                   where i.organization_id = c.organization_id and i.call_sid = coalesce(c.call_sid, v.vapi_call_id)
               ) as interaction,
               (
                   select l.id
                   from leads l
                   where l.organization_id = c.organization_id and l.call_sid = coalesce(c.call_sid, v.vapi_call_id)
               ) as lead,
               (
                   select jsonb_build_object('include_transcript', bool_or(include_transcript))
                   from webhook_endpoints
                   where webhook_endpoints.organization_id = c.organization_id and enabled
                   having count(*) > 0
               ) as "listening: Json<Listening>"
        from calls c
        left join vapi_calls v on v.call_id = c.id
        where c.id in (
            select id from calls where call_sid = $1
            union all
            select call_id from vapi_calls join calls on id = call_id where vapi_call_id = $1 and call_sid is null
        )
        for no key update of c
        "#,
        call_sid.as_str(),
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let attempt = row.attempt.map(|Json(attempt)| attempt);
    let asked_for = attempt.as_ref().and_then(|attempt| attempt.interaction_id.clone());
    Ok(Some(CallFacts {
        call_sid: call_sid.clone(),
        told_as: stored_call_sid(row.told_as)?.unwrap_or_else(|| call_sid.clone()),
        organization: row.organization_id.into(),
        agent: row.agent_id.into(),
        keywords: row.keywords.unwrap_or_default(),
        by_assistant: row.by_assistant,
        event_sequence: row.event_sequence,
        routing_status: row.routing_status,
        data: row.data,
        callbacks: row.callbacks.map(|Json(callbacks)| callbacks).unwrap_or_default(),
        lease: row.lease.map(|Json(lease)| lease),
        attempt,
        interaction: row.interaction.or(asked_for),
        lead: row.lead,
        listening: row.listening.map(|Json(listening)| listening),
    }))
}

/// What was said in one turn.
#[derive(Debug, Clone)]
pub struct Said {
    /// The agent said it, not the caller.
    pub by_agent: bool,
    /// The words that were heard.
    pub content: String,
    /// How often it was written.
    pub revision: i64,
}

/// What was said in a call, in conversation order.
pub async fn conversation(
    connection: &mut PgConnection,
    organization: OrganizationId,
    call_sid: &CallSid,
) -> sqlx::Result<Vec<Said>> {
    let rows = sqlx::query!(
        r#"
        select role = 'assistant' as "by_agent!", content, revision
        from conversation_transcripts
        where organization_id = $1 and call_sid = $2 and role in ('user', 'assistant')
        order by sequence, id
        limit 20000
        "#,
        organization.0,
        call_sid.as_str(),
    )
    .fetch_all(connection)
    .await?;
    let said = rows.into_iter();
    Ok(said
        .map(|row| Said { by_agent: row.by_agent, content: row.content, revision: row.revision.into() })
        .collect())
}
