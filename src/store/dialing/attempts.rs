//! Tries between the request and what is known of it: whose they are, and what becomes of those that never were calls.
//!
//! What a call that the carrier has placed does to its try is for `lifecycle` to say.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx;
use uuid::Uuid;

use crate::ids::{AgentId, CallSid, OrganizationId, PhoneNumber};
use crate::outreach::retry::{RetryPolicy, VoicemailPolicy};
use crate::store::{Store, call_queue, decoded, storable, stored_call_sid};

/// A request that lasts longer than this has failed, whatever its server believes.
const ANSWERED_WITHIN: &str = "30 seconds";
/// The carrier is asked again for the same try no sooner.
const LOOK_EVERY: &str = "20 seconds";
/// So many tries in a row that came to nothing on the way to the carrier are enough: it is for somebody to look.
const MOST_NOT_PLACED: i64 = 5;
/// Placed calls of which nothing was heard for so long are looked up: longer than any telephone rings.
const SILENT_FOR: &str = "11 minutes";

/// A try, as far as the carrier's side of it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Attempt {
    /// `call_attempts.id`.
    pub id: Uuid,
    /// `call_queue.id`.
    pub queue: Uuid,
    /// Whose it is.
    pub organization: OrganizationId,
    /// Who speaks.
    pub agent: AgentId,
    /// The interaction it is made for.
    pub interaction: Option<String>,
    /// Our number.
    pub from: String,
    /// Their number.
    pub to: String,
    /// When the carrier was about to be asked.
    pub requested_at: Timestamp,
    /// The call, where it is known.
    pub call_sid: Option<CallSid>,
    /// What is done when a machine answers.
    pub voicemail: VoicemailPolicy,
    /// What is said to it then.
    pub voicemail_message: Option<String>,
}

/// The try with this id, while there is somebody to speak on it.
pub async fn by_id(store: &Store, id: Uuid) -> sqlx::Result<Option<Attempt>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select a.id, a.queue_id as "queue_id!", a.organization_id, a.agent_id as "agent_id!", q.interaction_id, a.from_number, a.to_number,
               a.requested_at, a.call_sid, c.voicemail_policy as "voicemail_policy?", c.voicemail_message
        from call_attempts a
        join call_queue q on q.id = a.queue_id
        left join campaigns c on c.id = a.campaign_id
        where a.id = $1 and a.agent_id is not null
        "#,
        id,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    row.map(Attempt::try_from).transpose()
}

struct Row {
    id: Uuid,
    queue_id: Uuid,
    organization_id: Uuid,
    agent_id: Uuid,
    interaction_id: Option<String>,
    from_number: String,
    to_number: String,
    requested_at: jiff_sqlx::Timestamp,
    call_sid: Option<String>,
    voicemail_policy: Option<String>,
    voicemail_message: Option<String>,
}

impl TryFrom<Row> for Attempt {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.id,
            queue: row.queue_id,
            organization: row.organization_id.into(),
            agent: row.agent_id.into(),
            interaction: row.interaction_id,
            from: row.from_number,
            to: row.to_number,
            requested_at: row.requested_at.to_jiff(),
            call_sid: stored_call_sid(row.call_sid)?,
            voicemail: VoicemailPolicy::stored(row.voicemail_policy.as_deref()),
            voicemail_message: row.voicemail_message,
        })
    }
}

// Without the telephones, and what is said.
impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("id", &self.id)
            .field("queue", &self.queue)
            .field("organization", &self.organization)
            .field("agent", &self.agent)
            .field("interaction", &self.interaction)
            .field("requested_at", &self.requested_at)
            .field("call_sid", &self.call_sid)
            .field("voicemail", &self.voicemail)
            .finish_non_exhaustive()
    }
}

impl Attempt {
    /// Both telephones. `None`: one of them cannot be a telephone, so the carrier cannot have been asked.
    #[must_use]
    pub fn numbers(&self) -> Option<(PhoneNumber, PhoneNumber)> {
        Some((PhoneNumber::parse(&self.to).ok()?, PhoneNumber::parse(&self.from).ok()?))
    }
}

/// Takes the request back: the carrier has done nothing, and the try does not count. False: something has become known of it
/// since, and nothing was changed.
pub async fn undo(
    store: &Store,
    attempt: Uuid,
    next_retry_at: Timestamp,
    why: &str,
    now: Timestamp,
) -> sqlx::Result<bool> {
    let undone = sqlx::query!(
        r#"
        with undone as (
            delete from call_attempts
            where id = $1 and status = 'dialing'
            returning queue_id
        )
        update call_queue
        set status = 'queued',
            attempt_count = greatest(attempt_count - 1, 0),
            next_retry_at = $2,
            last_error = $3,
            updated_at = $4
        from undone
        where call_queue.id = undone.queue_id and status = 'processing'
        "#,
        attempt,
        next_retry_at.to_sqlx() as _,
        storable(why),
        now.to_sqlx() as _,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    Ok(undone.rows_affected() == 1)
}

/// The carrier refused for good: neither the try nor its row nor the interaction it is for is left open. False: something has
/// become known of it since, and nothing was changed.
pub async fn refuse(store: &Store, attempt: Uuid, why: &str, now: Timestamp) -> sqlx::Result<bool> {
    let mut transaction = store.begin().await?;
    let row = sqlx::query_scalar!(
        r#"
        update call_attempts
        set status = 'ended',
            outcome = 'failed',
            will_retry = false,
            ended_at = $3,
            error = $2
        where id = $1 and status = 'dialing'
        returning queue_id as "queue_id!"
        "#,
        attempt,
        storable(why),
        now.to_sqlx() as _,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if let Some(row) = row {
        call_queue::fail(&mut transaction, &[row], why, Some(now)).await?;
    }
    transaction.commit().await?;
    Ok(row.is_some())
}

/// The carrier has no such call: nothing rang, so the row has as many tries left as before and is tried again, but for the
/// fifth time in a row. False: something has become known of it since,
/// and nothing was changed.
pub async fn not_placed(store: &Store, attempt: Uuid, why: &str, now: Timestamp) -> sqlx::Result<bool> {
    let mut transaction = store.begin().await?;
    let row = sqlx::query!(
        r#"
        select q.id as "queue_id", q.max_attempts, c.retry_delays_s as "retry_delays_s?", c.voicemail_policy as "voicemail_policy?",
               (
                   select count(*)
                   from call_attempts other
                   where other.queue_id = a.queue_id
                     and other.outcome = 'not_placed'
                     and other.attempt_number > (
                         select coalesce(max(attempt_number), 0)
                         from call_attempts
                         where call_attempts.queue_id = a.queue_id and call_attempts.outcome <> 'not_placed'
                     )
               ) as "before!"
        from call_attempts a
        join call_queue q on q.id = a.queue_id
        left join campaigns c on c.id = a.campaign_id
        where a.id = $1 and a.status = 'dialing'
        for no key update of a
        "#,
        attempt,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(row) = row else { return Ok(false) };
    let policy = RetryPolicy::stored(
        row.max_attempts.unsigned_abs(),
        row.retry_delays_s.as_ref(),
        row.voicemail_policy.as_deref(),
    );
    let in_a_row = row.before + 1;
    // Somebody who has looked and has it tried again gives it as many.
    let next = (in_a_row % MOST_NOT_PLACED != 0).then(|| now + policy.after_not_placed());
    let why = match next {
        Some(_) => why.to_owned(),
        None => format!("{why}; so it was {in_a_row} times in a row"),
    };
    sqlx::query!(
        r#"
        update call_attempts
        set status = 'ended',
            outcome = 'not_placed',
            will_retry = $4::timestamptz is not null,
            next_retry_at = $4,
            retry_reason = case when $4 is not null then 'not_placed' end,
            ended_at = $3,
            error = $2
        where id = $1
        "#,
        attempt,
        storable(&why),
        now.to_sqlx() as _,
        next.map(ToSqlx::to_sqlx) as _,
    )
    .execute(&mut *transaction)
    .await?;
    match next {
        Some(at) => {
            sqlx::query!(
                r#"
                update call_queue
                set status = 'queued',
                    next_retry_at = $2,
                    last_error = $3,
                    updated_at = $4
                where id = $1 and status = 'processing'
                "#,
                row.queue_id,
                at.to_sqlx() as _,
                storable(&why),
                now.to_sqlx() as _,
            )
            .execute(&mut *transaction)
            .await?;
        }
        None => {
            call_queue::fail(&mut transaction, &[row.queue_id], &why, Some(now)).await?;
        }
    }
    transaction.commit().await?;
    Ok(true)
}

/// Tries whose request was never answered, as far as is known: those that this server is to look for now, at most `limit`.
pub async fn unanswered(store: &Store, now: Timestamp, limit: i64) -> sqlx::Result<Vec<Attempt>> {
    let rows = sqlx::query_as!(
        Row,
        r#"
        with chosen as (
            select id
            from call_attempts
            where status = 'dialing'
              and agent_id is not null
              and requested_at < $1::timestamptz - $3::text::interval
              and (looked_for_at is null or looked_for_at <= $1::timestamptz - $4::text::interval)
            order by requested_at
            limit $2
            for no key update skip locked
        ),
        looked_for as (
            update call_attempts
            set looked_for_at = $1
            from chosen
            where call_attempts.id = chosen.id
            returning call_attempts.*
        )
        select a.id, a.queue_id as "queue_id!", a.organization_id, a.agent_id as "agent_id!", q.interaction_id, a.from_number, a.to_number,
               a.requested_at, a.call_sid, c.voicemail_policy as "voicemail_policy?", c.voicemail_message
        from looked_for a
        join call_queue q on q.id = a.queue_id
        left join campaigns c on c.id = a.campaign_id
        order by a.requested_at
        "#,
        now.to_sqlx() as _,
        limit,
        ANSWERED_WITHIN,
        LOOK_EVERY,
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    rows.into_iter().map(Attempt::try_from).collect()
}

/// A call that was placed long ago, and whose end nobody has told.
#[derive(Clone, PartialEq, Eq)]
pub struct Unended {
    /// The call.
    pub call_sid: CallSid,
    /// Whose it is.
    pub organization: OrganizationId,
    /// Our number.
    pub from: String,
    /// Their number.
    pub to: String,
}

// Without the telephones.
impl fmt::Debug for Unended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unended")
            .field("call_sid", &self.call_sid)
            .field("organization", &self.organization)
            .finish_non_exhaustive()
    }
}

/// Placed calls that this server is to look up now, at most `limit`: nothing was heard of them for eleven minutes, and
/// nobody carries them.
pub async fn unended(store: &Store, now: Timestamp, limit: i64) -> sqlx::Result<Vec<Unended>> {
    let rows = sqlx::query!(
        r#"
        with chosen as (
            select id
            from call_attempts
            where status = 'placed'
              and coalesce(looked_for_at, placed_at, requested_at) < $1::timestamptz - $3::text::interval
              and placed_at < $1::timestamptz - $3::text::interval
              and not call_is_live(call_sid)
            order by requested_at
            limit $2
            for no key update skip locked
        )
        update call_attempts
        set looked_for_at = $1
        from chosen
        where call_attempts.id = chosen.id
        returning call_sid, organization_id, from_number, to_number
        "#,
        now.to_sqlx() as _,
        limit,
        SILENT_FOR,
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    rows.into_iter()
        .filter_map(|row| {
            let call_sid = stored_call_sid(row.call_sid).transpose()?;
            Some(call_sid.map(|call_sid| Unended {
                call_sid,
                organization: row.organization_id.into(),
                from: row.from_number,
                to: row.to_number,
            }))
        })
        .collect()
}

/// Those of these calls that are other tries'.
pub async fn known_of(store: &Store, calls: &[CallSid]) -> sqlx::Result<Vec<CallSid>> {
    let calls: Vec<String> = calls.iter().map(|call| call.as_str().to_owned()).collect();
    let known = sqlx::query_scalar!(
        r#"select call_sid as "call_sid!" from call_attempts where call_sid = any($1)"#,
        &calls,
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    known.into_iter().map(|call_sid| decoded(CallSid::try_from(call_sid))).collect()
}

/// What a call that we made is about: what its row says, then what its campaign says. `None` for other calls.
pub async fn briefing(store: &Store, call_sid: &CallSid) -> sqlx::Result<Option<String>> {
    let row = sqlx::query!(
        r#"
        select q.message as row_message, c.message as "campaign_message?"
        from call_attempts a
        join call_queue q on q.id = a.queue_id
        left join campaigns c on c.id = a.campaign_id
        where a.call_sid = $1
        "#,
        call_sid.as_str(),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(|row| {
        let messages = [row.row_message, row.campaign_message];
        let messages: Vec<String> =
            messages.into_iter().flatten().filter(|message| !message.trim().is_empty()).collect();
        messages.join("\n\n")
    }))
}

/// How long after the request a call may still come up in the carrier's list, which is some time behind.
pub const LISTED_WITHIN: SignedDuration = SignedDuration::from_secs(90);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_telephone_is_printed() {
        let (from, to) = ("+14155550100".to_owned(), "+14155550123".to_owned());
        let organization = OrganizationId(Uuid::nil());
        let attempt = Attempt {
            id: Uuid::nil(),
            queue: Uuid::nil(),
            organization,
            agent: AgentId(Uuid::nil()),
            interaction: None,
            from: from.clone(),
            to: to.clone(),
            requested_at: Timestamp::UNIX_EPOCH,
            call_sid: None,
            voicemail: VoicemailPolicy::LeaveMessage,
            voicemail_message: Some("Call us.".to_owned()),
        };
        let unended = Unended { call_sid: CallSid::parse("CA1").unwrap(), organization, from, to };
        let printed = format!("{attempt:?} {unended:?}");
        assert!(!printed.contains("4155550") && !printed.contains("Call us"), "{printed}");
    }
}
