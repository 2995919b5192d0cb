//! Calls that will not be made.
//!
//! A row can end without a call for many reasons: somebody takes it back, its campaign is over, the number must not be called,
//! the rules or the carrier refuse it for good. Whatever the reason, it ends here, and all that waits for it ends with it.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::store::call_queue::CANCELED;
use crate::store::storable;

/// Fails rows that are open, at `at` or now, and says how many those were. Their last tries are followed by no other, and an
/// interaction that waits for its call has failed: `why`, as people read it. Leads are changed by calls, so nothing happens to
/// them.
///
/// Whoever asks has the rows locked. A try that somebody writes about at this moment is left to them: they lock the try
/// before its row, so waiting for them could be a deadlock.
pub(in crate::store) async fn fail(
    connection: &mut PgConnection,
    rows: &[Uuid],
    why: &str,
    at: Option<Timestamp>,
) -> sqlx::Result<u64> {
    let (disposition, reason) = match (why, why.strip_prefix(BLOCKED)) {
        (CANCELED, _) => ("CANCELED", "the call was canceled before it was made"),
        (_, Some(rule)) => ("BLOCKED_BY_RULE", rule),
        (why, None) => ("NOT_PLACED", why),
    };
    let reason = storable(reason);
    let disposition =
        json!({"disposition": disposition, "connection_status": "NOT_CONNECTED", "reason": reason});
    let failed = sqlx::query_scalar!(
        r#"
        with failed as (
            update call_queue
            set status = 'failed',
                last_error = $2,
                finished_at = coalesce($3, now()),
                updated_at = coalesce($3, now())
            where id = any($1) and status in ('queued', 'processing')
            returning id, organization_id, interaction_id, attempt_count
        ),
        last_tries as (
            select call_attempts.id
            from call_attempts
            join failed on failed.id = call_attempts.queue_id and failed.attempt_count = call_attempts.attempt_number
            where call_attempts.will_retry
            for no key update of call_attempts skip locked
        ),
        not_followed as (
            update call_attempts
            set will_retry = false,
                next_retry_at = null,
                retry_reason = $2
            from last_tries
            where call_attempts.id = last_tries.id
        ),
        told as (
            update interactions
            set status = 'FAILED',
                outcome = 'FAILED',
                "endTime" = coalesce($3, now()),
                "callDisposition" = $4,
                "updatedAt" = now()
            from failed
            where interactions.organization_id = failed.organization_id
              and interactions.id = failed.interaction_id
              and interactions.status = 'INITIATED'
        )
        select count(*) as "count!"
        from failed
        "#,
        rows,
        storable(why),
        at.map(ToSqlx::to_sqlx) as _,
        disposition,
    )
    .fetch_one(connection)
    .await?;
    Ok(failed.unsigned_abs())
}

/// What a rule that forbids a call says first.
const BLOCKED: &str = "blocked_by_rule: ";
