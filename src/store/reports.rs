//! End-of-call reports of VAPI. They are put on record by the `lifecycle` module only.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::call::end::{EndReason, NextStep};
use crate::ids::{AgentId, CallSid, OrganizationId, PhoneNumber, PhoneNumberId};
use crate::redact::{Redaction, Talk};
use crate::store::{Store, decoded, storable, storable_json};

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

    /// What the call is called in our records: the carrier's id, or VAPI's where there is none.
    #[must_use]
    pub fn call(&self) -> Option<&CallSid> {
        self.call_sid.as_ref().or(self.vapi_call_id.as_ref())
    }
}

/// A call as a report finds it.
#[derive(Debug, Clone)]
pub struct Found {
    /// Our id.
    pub id: Uuid,
    /// Whose it is.
    pub organization: OrganizationId,
    /// What happened so far.
    pub event_sequence: Value,
    /// The end-of-call report so far; `{}` before.
    pub data: Value,
    /// When the report of VAPI that is on record was made.
    pub reported_at: Option<Timestamp>,
    /// A stream of ours has taken the call.
    pub is_ours: bool,
}

/// What our records call the call of this report: a report of it may have come before that named it otherwise.
pub async fn name_of(store: &Store, report: &Report) -> sqlx::Result<Option<CallSid>> {
    let known = sqlx::query_scalar!(
        r#"
        select coalesce(call_sid, vapi_call_id)
        from calls
        where call_sid = $1 or vapi_call_id = $2
        order by vapi_call_id is not distinct from $2 desc
        limit 1
        "#,
        report.call_sid.as_ref().map(CallSid::as_str),
        report.vapi_call_id.as_ref().map(CallSid::as_str),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    match known.flatten() {
        Some(name) => decoded(CallSid::try_from(name)).map(Some),
        None => Ok(report.call().cloned()),
    }
}

/// The call that our records call so; it stays locked until the transaction ends.
pub async fn find(connection: &mut PgConnection, name: &CallSid) -> sqlx::Result<Option<Found>> {
    let row = sqlx::query!(
        r#"
        select id, organization_id, event_sequence, data, vapi_reported_at,
               exists (
                   select
                   from call_leases
                   where call_leases.call_sid = calls.call_sid
                     and call_leases.organization_id = calls.organization_id
                     and claimed_at is not null
               ) as "is_ours!"
        from calls
        where call_sid = $1 or call_sid is null and vapi_call_id = $1
        for no key update
        "#,
        name.as_str(),
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Found {
        id: row.id,
        organization: row.organization_id.into(),
        event_sequence: row.event_sequence,
        data: row.data,
        reported_at: row.vapi_reported_at.map(jiff_sqlx::Timestamp::to_jiff),
        is_ours: row.is_ours,
    }))
}

/// Whether the call was erased, by either of its ids: nothing is put on record of it any more.
pub async fn is_erased(connection: &mut PgConnection, report: &Report) -> sqlx::Result<bool> {
    let ids = [&report.call_sid, &report.vapi_call_id];
    let ids: Vec<_> = ids.into_iter().flatten().map(|id| id.as_str().to_owned()).collect();
    sqlx::query_scalar!(
        r#"select exists (select from unnest($1::text[]) as id where call_is_erased(id)) as "is!""#,
        &ids
    )
    .fetch_one(connection)
    .await
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

/// The agent that this assistant is, and whose it is.
pub async fn agent_of(
    connection: &mut PgConnection,
    assistant_id: &str,
) -> sqlx::Result<Option<(AgentId, OrganizationId)>> {
    let row = sqlx::query!(
        "select id, organization_id from agents where vapi_assistant_id = $1",
        storable(assistant_id),
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (AgentId(row.id), OrganizationId(row.organization_id))))
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
        insert into calls (organization_id, agent_id, call_sid, created_at, data, vapi_call_id)
        values ($1, $2, $3, $4, '{}', $5)
        returning id
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
    report: &Report,
    phone_number: Option<PhoneNumberId>,
    change: Change,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        update calls
        set phone_number_id = coalesce(phone_number_id, $2),
            event_sequence = coalesce($3, event_sequence),
            routing_status = case when $3::jsonb is null then routing_status else 'completed' end,
            data = $4,
            vapi_call_id = coalesce($5, vapi_call_id),
            vapi_reported_at = $6
        where id = $1
        "#,
        id,
        phone_number.map(|number| number.0),
        change.event_sequence.map(storable_json),
        storable_json(change.data),
        report.vapi_call_id.as_ref().map(CallSid::as_str),
        report.reported_at.to_sqlx() as _,
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

/// Has the conversation of a call be that of its report, whatever an earlier one said.
pub async fn write_turns(
    connection: &mut PgConnection,
    organization: OrganizationId,
    name: &CallSid,
    turns: &[Turn],
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        with turn as materialized (
            select *
            from jsonb_to_recordset($3) as turn (
                item_id text, sequence integer, role text, content text, generated_content text, status text,
                "timestamp" timestamptz, tool_name text, tool_call_id text
            )
        ),
        gone as (
            delete from conversation_transcripts
            where organization_id = $1
              and call_sid = $2
              and item_id like 'vapi:%'
              and item_id not in (select item_id from turn)
        )
        insert into conversation_transcripts as known (
            organization_id, call_sid, item_id, sequence, revision, role, content, generated_content, status,
            "timestamp", tool_name, tool_call_id
        )
        select $1, $2::text, item_id, sequence, 1, role, content, generated_content, status, "timestamp", tool_name,
               tool_call_id
        from turn
        on conflict on constraint conversation_transcripts_item do update
        set sequence = excluded.sequence,
            revision = known.revision + 1,
            role = excluded.role,
            content = excluded.content,
            generated_content = excluded.generated_content,
            status = excluded.status,
            "timestamp" = excluded."timestamp",
            tool_name = excluded.tool_name,
            tool_call_id = excluded.tool_call_id
        where known.organization_id = excluded.organization_id
          and (known.sequence, known.role, known.content, known.generated_content, known.status, known."timestamp",
               known.tool_name, known.tool_call_id)
              is distinct from
              (excluded.sequence, excluded.role, excluded.content, excluded.generated_content, excluded.status,
               excluded."timestamp", excluded.tool_name, excluded.tool_call_id)
        "#,
        organization.0,
        name.as_str(),
        storable_json(serde_json::to_value(turns).unwrap_or_default()) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes the turns of a report out of a conversation that was written down while it was spoken.
pub async fn remove_turns(
    connection: &mut PgConnection,
    organization: OrganizationId,
    name: &CallSid,
) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from conversation_transcripts where organization_id = $1 and call_sid = $2 and item_id like 'vapi:%'",
        organization.0,
        name.as_str(),
    )
    .execute(connection)
    .await?;
    Ok(())
}
