//! Tries to reach somebody, once the carrier has taken them: how they go, and what follows. Written by the `lifecycle`
//! module; a try that the carrier never took is the dialer's.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::ids::{CallSid, OrganizationId};
use crate::outreach::retry::Outcome;
use crate::store::storable;

/// What the row of a try must say.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRow {
    /// The try.
    pub id: Uuid,
    /// When the carrier took it.
    pub placed_at: Timestamp,
    /// When somebody or something took the call.
    pub answered_at: Option<Timestamp>,
    /// The carrier's word for who that was.
    pub answered_by: Option<String>,
    /// A machine.
    pub voicemail_detected: bool,
    /// How it ended, once it has.
    pub end: Option<AttemptEnd>,
}

/// How a try ended, and what follows.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptEnd {
    /// What came of it.
    pub outcome: Outcome,
    /// When it was over.
    pub ended_at: Timestamp,
    /// Seconds.
    pub duration_s: Option<i32>,
    /// The carrier's SIP answer.
    pub sip_response_code: Option<i32>,
    /// Why nobody was reached.
    pub error: Option<String>,
    /// Not before this it is tried again.
    pub next_retry_at: Option<Timestamp>,
    /// What it was for is done.
    pub is_done: bool,
}

/// Has the row of a try say what it must, and the row of the queue what follows from it: only where this try is its
/// latest, nobody else has decided about it since, and something has changed. A try that nobody wanted to be followed by
/// another any more is not, whatever comes of it. False: the try is another call's.
pub async fn write(
    connection: &mut PgConnection,
    organization: OrganizationId,
    call_sid: &CallSid,
    call_log_id: Uuid,
    row: &AttemptRow,
) -> sqlx::Result<bool> {
    let end = row.end.as_ref();
    let next = end.and_then(|end| end.next_retry_at);
    let queue_status = match end {
        None => "processing",
        Some(_) if next.is_some() => "queued",
        Some(end) if end.is_done => "completed",
        Some(_) => "failed",
    };
    let written = sqlx::query_scalar!(
        r#"
        with before as materialized (
            select id, queue_id, attempt_number, status, outcome, will_retry, next_retry_at, ended_at, error, retry_reason,
                   -- Its row has failed without a call meanwhile, and this is why.
                   will_retry is not true and retry_reason is not null as is_given_up
            from call_attempts
            where id = $1 and organization_id = $2 and (call_sid is null or call_sid = $3::text)
            for no key update
        ),
        written as (
            update call_attempts
            set status = case when $8::text is null then 'placed' else 'ended' end,
                call_sid = $3::text,
                call_log_id = $4,
                placed_at = $5,
                answered_at = $6,
                answered_by = coalesce($7, answered_by),
                outcome = $8,
                ended_at = $9,
                duration = $10,
                sip_response_code = $11,
                error = $12,
                will_retry = case when $8::text is not null then $13::timestamptz is not null and not is_given_up end,
                next_retry_at = case when not is_given_up then $13::timestamptz end,
                retry_reason = case when is_given_up then before.retry_reason when $13::timestamptz is not null then $8 end,
                voicemail_detected = $14
            from before
            where call_attempts.id = before.id
        ),
        followed as (
            update call_queue
            set status = $15,
                next_retry_at = coalesce($13, call_queue.next_retry_at),
                last_error = $12,
                finished_at = case when $15 in ('completed', 'failed') then $9::timestamptz end,
                updated_at = now()
            from before
            where call_queue.id = before.queue_id
              and call_queue.attempt_count = before.attempt_number
              and not before.is_given_up
              and (before.status, before.outcome, before.next_retry_at, before.ended_at, before.error) is distinct from
                  (case when $8::text is null then 'placed' else 'ended' end, $8::text, $13::timestamptz, $9::timestamptz, $12)
              and (call_queue.status = 'processing'
                   or (before.status = 'ended' and (call_queue.status = 'queued') = coalesce(before.will_retry, false)))
        )
        select exists (select from before) as "written!"
        "#,
        row.id,
        organization.0,
        call_sid.as_str(),
        call_log_id,
        row.placed_at.to_sqlx() as _,
        row.answered_at.map(ToSqlx::to_sqlx) as _,
        row.answered_by.as_deref().map(storable),
        end.map(|end| end.outcome.as_str()),
        end.map(|end| end.ended_at.to_sqlx()) as _,
        end.and_then(|end| end.duration_s),
        end.and_then(|end| end.sip_response_code),
        end.and_then(|end| end.error.as_deref()).map(storable),
        next.map(ToSqlx::to_sqlx) as _,
        row.voicemail_detected,
        queue_status,
    )
    .fetch_one(connection)
    .await?;
    Ok(written)
}

/// Whom a try is to reach.
pub async fn lead_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    attempt: Uuid,
) -> sqlx::Result<Option<i64>> {
    let lead = sqlx::query_scalar!(
        "select lead_id from call_attempts where organization_id = $1 and id = $2",
        organization.0,
        attempt,
    )
    .fetch_optional(connection)
    .await?;
    Ok(lead.flatten())
}

/// The carrier has taken a call to this lead: it is the lead's latest, unless there has been a later one.
pub async fn note_contact(
    connection: &mut PgConnection,
    organization: OrganizationId,
    lead: i64,
    call_sid: &CallSid,
    at: Timestamp,
) -> sqlx::Result<()> {
    // Several leads may share the telephone; whom the call is to is known.
    sqlx::query!(
        r#"
        update leads
        set call_sid = null,
            updated_at = now()
        where organization_id = $1 and id <> $2 and call_sid = $3
        "#,
        organization.0,
        lead,
        call_sid.as_str(),
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        r#"
        update leads
        set call_sid = case when last_contacted_at > $4 and call_sid is not null then call_sid else $3::text end,
            lead_status = case when last_contacted_at > $4 then lead_status else 'contacted' end,
            last_contacted_at = greatest(last_contacted_at, $4),
            notes = concat_ws(E'\n', nullif(notes, ''), 'Outbound call ' || $3::text || ' initiated'),
            updated_at = now()
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        lead,
        call_sid.as_str(),
        at.to_sqlx() as _,
    )
    .execute(&mut *connection)
    .await?;
    Ok(())
}
