//! End-of-call reports of VAPI. They are put on record by the `lifecycle` module only.

mod names;
mod turns;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::call::end::{EndReason, NextStep};
use crate::ids::{AgentId, CallSid, OrganizationId, PhoneNumber, PhoneNumberId};
use crate::redact::{Redaction, Talk};
use crate::store::{storable, storable_json, stored_call_sid};

pub use names::{Names, carriers_name, is_erased, is_of_others, lock, name_by_carrier, rename, tell_once};
pub use turns::{remove_turns, rename_turns, write_turns};

/// Members of a report that hold what was said.
const TALK: [&str; 3] = ["messages", "messagesOpenAIFormatted", "transcript"];
/// Members that may quote it.
const ABOUT_TALK: [&str; 3] = ["analysis", "summary", "artifact"];

/// One report, as our records hold it.
#[derive(Debug, Clone)]
pub struct Report {
    /// VAPI's id of the call.
    pub vapi_call_id: Option<CallSid>,
    /// The carrier's. One of the two is always there.
    pub call_sid: Option<CallSid>,
    /// Who answered, at VAPI.
    pub assistant_id: Option<String>,
    /// When the report was made.
    pub reported_at: Timestamp,
    /// When the call began.
    pub started_at: Timestamp,
    /// When it was over.
    pub ended_at: Timestamp,
    /// The number on our side, where the report names one.
    pub our_number: Option<PhoneNumber>,
    /// Why it ended, where that is a reason we know.
    pub reason: Option<EndReason>,
    /// The whole report, with `call.status` and `call.duration` as all our reports have them.
    pub data: Value,
    /// What was said.
    pub turns: Vec<Turn>,
    /// What the report is known by when it comes again.
    pub received: Received,
}

/// A report as it was received: what it is known by, also when less than all of it is kept. The longer one is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Received {
    /// Bytes of the message.
    pub length: i32,
    /// Its digest.
    pub sha256: [u8; 32],
}

/// Which report of VAPI is on record.
#[derive(Debug, Clone)]
pub struct Origin {
    /// VAPI's id of the call.
    pub vapi_call_id: Option<CallSid>,
    /// When the report was made.
    pub reported_at: Timestamp,
    /// What was received; `None`: that was not written down.
    pub received: Option<Received>,
}

/// What was said is in the turns, where what one answers to another is understood. Here it would be a second time.
fn leave_out_talk(members: &mut Map<String, Value>, redaction: Redaction) {
    let retain = |members: &mut Map<String, Value>| members.retain(|name, _| !TALK.contains(&name.as_str()));
    retain(members);
    if let Some(Value::Object(artifact)) = members.get_mut("artifact") {
        retain(artifact);
    }
    for name in ABOUT_TALK {
        if let Some(value) = members.get_mut(name) {
            *value = redaction.apply_json(value.take());
        }
    }
}

/// One turn of the conversation in a report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Turn {
    /// `vapi:1` and so on.
    pub item_id: String,
    /// Place in the conversation, from 1.
    pub sequence: i32,
    /// `user`, `assistant`, `system` or `tool`.
    pub role: &'static str,
    /// What was said; for a function its answer.
    pub content: String,
    /// The arguments of a function.
    pub generated_content: Option<String>,
    /// `final`, or `unanswered` for a function without an answer.
    pub status: &'static str,
    /// When it was said.
    pub timestamp: Timestamp,
    /// The function.
    pub tool_name: Option<String>,
    /// The function's call.
    pub tool_call_id: Option<String>,
}

impl Report {
    /// The same without what is to be taken out of what was said and written.
    #[must_use]
    pub fn redacted(mut self, redaction: Redaction) -> Self {
        if redaction.is_none() {
            return self;
        }
        let mut talk = Talk::new(redaction);
        for turn in &mut self.turns {
            let sequence = u32::try_from(turn.sequence).unwrap_or_default();
            let heard = redaction.apply_to_document(&turn.content);
            turn.content = talk.turn(sequence, &heard, None).0.into_owned();
            turn.generated_content =
                turn.generated_content.take().map(|text| redaction.apply_to_document(&text).into_owned());
        }
        if let Value::Object(data) = &mut self.data {
            leave_out_talk(data, redaction);
            if let Some(Value::Object(call)) = data.get_mut("call") {
                leave_out_talk(call, redaction);
            }
        }
        self
    }

    /// Which report it is.
    #[must_use]
    pub fn origin(&self) -> Origin {
        let (vapi_call_id, reported_at) = (self.vapi_call_id.clone(), self.reported_at);
        Origin { vapi_call_id, reported_at, received: Some(self.received) }
    }
}

impl Origin {
    /// Whether this is the other report, or was made after it. Of two that were made at the same moment the one that says
    /// more counts as the newer, so that it does not matter which comes first.
    #[must_use]
    pub fn is_or_follows(&self, other: &Self) -> bool {
        // Columns hold microseconds.
        let (at, others) = (self.reported_at.as_microsecond(), other.reported_at.as_microsecond());
        match (self.received, other.received) {
            (Some(received), Some(theirs)) => received == theirs || (at, received) >= (others, theirs),
            _ => at >= others,
        }
    }
}

/// A call as a report finds it.
#[derive(Debug, Clone)]
pub struct Found {
    /// Our id.
    pub id: Uuid,
    /// The carrier's, where it is known.
    pub call_sid: Option<CallSid>,
    /// What happened so far.
    pub event_sequence: Value,
    /// The end-of-call report so far; `{}` before.
    pub data: Value,
    /// The report of VAPI that is on record.
    pub origin: Option<Origin>,
    /// A stream of ours has taken the call.
    pub is_ours: bool,
}

/// The organisation's calls of these names; they stay locked until the transaction ends. There are two where reports have
/// named the same call once by VAPI's id alone and once by the carrier's: the carrier's is the first.
pub async fn find(
    connection: &mut PgConnection,
    organization: OrganizationId,
    names: &Names,
) -> sqlx::Result<Vec<Found>> {
    let rows = sqlx::query!(
        r#"
        select id, call_sid, event_sequence, data,
               vapi_call_id as "vapi_call_id?", reported_at as "reported_at?", report_length as "report_length?",
               report_sha256 as "report_sha256?",
               exists (
                   select
                   from call_leases
                   where call_leases.call_sid = calls.call_sid
                     and call_leases.organization_id = calls.organization_id
                     and claimed_at is not null
               ) as "is_ours!"
        from calls
        left join vapi_calls on call_id = id
        where calls.organization_id = $1
          and id in (
              select id from calls where call_sid = $2
              union all
              select call_id from vapi_calls where vapi_call_id = $3
          )
        order by call_sid is null
        for no key update of calls
        "#,
        organization.0,
        names.carrier(),
        names.vapi(),
    )
    .fetch_all(connection)
    .await?;
    let found = rows.into_iter().map(|row| {
        let vapi_call_id = stored_call_sid(row.vapi_call_id)?;
        let received = row.report_length.zip(row.report_sha256.and_then(|it| it.try_into().ok()));
        let received = received.map(|(length, sha256)| Received { length, sha256 });
        let origin = row.reported_at.map(|reported_at| {
            let reported_at = reported_at.to_jiff();
            Origin { vapi_call_id, reported_at, received }
        });
        Ok(Found {
            id: row.id,
            call_sid: stored_call_sid(row.call_sid)?,
            event_sequence: row.event_sequence,
            data: row.data,
            origin,
            is_ours: row.is_ours,
        })
    });
    found.collect()
}

/// Removes the row of a call that has another one. Its other records are to be renamed.
pub async fn remove(connection: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query!("delete from calls where id = $1", id).execute(connection).await?;
    Ok(())
}

/// What the agent of a call has taken out before anything is stored.
pub async fn redaction(connection: &mut PgConnection, id: Uuid) -> sqlx::Result<Redaction> {
    let words = sqlx::query_scalar!(
        r#"
        select redact
        from calls
        join agents on agents.id = calls.agent_id
        where calls.id = $1
        "#,
        id,
    )
    .fetch_one(connection)
    .await?;
    Ok(Redaction::from_words(&words))
}

/// The organisation's agent that this assistant is.
pub async fn agent_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    assistant_id: &str,
) -> sqlx::Result<Option<AgentId>> {
    let id = sqlx::query_scalar!(
        "select id from agents where organization_id = $1 and vapi_assistant_id = $2",
        organization.0,
        storable(assistant_id),
    )
    .fetch_optional(connection)
    .await?;
    Ok(id.map(AgentId))
}

/// The organisation's own number of this spelling.
pub async fn own_number(
    connection: &mut PgConnection,
    organization: OrganizationId,
    number: &PhoneNumber,
) -> sqlx::Result<Option<PhoneNumberId>> {
    let id = sqlx::query_scalar!(
        "select id from phone_numbers where organization_id = $1 and number = $2",
        organization.0,
        number.expose(),
    )
    .fetch_optional(connection)
    .await?;
    Ok(id.map(PhoneNumberId))
}

/// A call that nothing was known of.
#[derive(Debug, Clone, Copy)]
pub struct NewCall<'a> {
    /// Whose it is.
    pub organization: OrganizationId,
    /// Who answered.
    pub agent: AgentId,
    /// What was reported of it.
    pub report: &'a Report,
}

/// Makes the record of a call. It has nothing yet but what identifies it.
pub async fn create(connection: &mut PgConnection, new: NewCall<'_>) -> sqlx::Result<Uuid> {
    sqlx::query_scalar!(
        r#"
        with made as (
            insert into calls (organization_id, agent_id, call_sid, created_at, data)
            values ($1, $2, $3, $4, '{}')
            returning id, organization_id
        )
        insert into vapi_calls (call_id, organization_id, vapi_call_id)
        select id, organization_id, $5 from made
        returning call_id
        "#,
        new.organization.0,
        new.agent.0,
        new.report.call_sid.as_ref().map(CallSid::as_str),
        new.report.started_at.to_sqlx() as _,
        new.report.vapi_call_id.as_ref().map(CallSid::as_str),
    )
    .fetch_one(connection)
    .await
}

/// What a report changes in the record of its call.
#[derive(Debug, Clone)]
pub struct Change {
    /// All that happened; `None` leaves it, and where the call went.
    pub event_sequence: Option<Value>,
    /// The end-of-call report.
    pub data: Value,
}

/// Puts a report on record, with what follows from it.
pub async fn write(
    connection: &mut PgConnection,
    id: Uuid,
    origin: &Origin,
    phone_number: Option<PhoneNumberId>,
    change: Change,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        update calls
        set phone_number_id = coalesce(phone_number_id, $2),
            event_sequence = coalesce($3, event_sequence),
            routing_status = case when $3::jsonb is null then routing_status else 'completed' end,
            data = $4
        where id = $1
        "#,
        id,
        phone_number.map(|number| number.0),
        change.event_sequence.map(storable_json),
        storable_json(change.data),
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        r#"
        insert into vapi_calls as known (
            call_id, organization_id, vapi_call_id, reported_at, report_length, report_sha256
        )
        select id, organization_id, $2, $3, $4, $5
        from calls
        where id = $1
        on conflict (call_id) do update
        set vapi_call_id = coalesce(excluded.vapi_call_id, known.vapi_call_id),
            reported_at = excluded.reported_at,
            report_length = excluded.report_length,
            report_sha256 = excluded.report_sha256
        "#,
        id,
        origin.vapi_call_id.as_ref().map(CallSid::as_str),
        origin.reported_at.to_sqlx() as _,
        origin.received.map(|received| received.length),
        origin.received.as_ref().map(|received| &received.sha256[..]),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// No stream will come for a call that is over: nobody waits for it any more.
pub async fn close_lease(
    connection: &mut PgConnection,
    organization: OrganizationId,
    name: &CallSid,
    reason: Option<EndReason>,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        update call_leases
        set ended_at = coalesce(ended_at, now()),
            next_action = coalesce(nullif(next_action, 'resume'), $3),
            disconnect_reason = coalesce(disconnect_reason, $4)
        where call_sid = $1 and organization_id = $2 and claimed_at is null and ended_at is null
        "#,
        name.as_str(),
        organization.0,
        NextStep::HangUp.as_str(),
        reason.map(EndReason::as_str),
    )
    .execute(connection)
    .await?;
    Ok(())
}
