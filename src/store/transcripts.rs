//! What was said, in conversation order.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use sqlx::types::Json;

use crate::call::transcript::{Entry, Evidence, Remembered, Status};
use crate::clock::CallTime;
use crate::ids::{CallSid, ItemId, OrganizationId, ToolCallId};
use crate::store::leases::FencingToken;
use crate::store::{Store, decoded, storable};

/// One turn as stored.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct TranscriptRow {
    /// Our id.
    pub id: i64,
    /// The call.
    #[schema(value_type = String)]
    pub call_sid: CallSid,
    /// `user`, `assistant`, `system` or `tool`.
    pub role: String,
    /// What was heard.
    pub content: String,
    /// When the turn took its place in the conversation.
    pub timestamp: Timestamp,
    /// Place in the conversation, from 1.
    pub sequence: i32,
    /// The model's id of it, or ours.
    pub item_id: String,
    /// Higher replaces lower.
    pub revision: i32,
    /// What was generated, where that is more than was heard. For a function: its arguments.
    pub generated_content: Option<String>,
    /// The caller spoke over it.
    pub interrupted: bool,
    /// `final`, `not_transcribed`, or `unanswered` for a function without an answer.
    pub status: String,
    /// First sound, in milliseconds since the stream started.
    pub audio_start_ms: Option<i64>,
    /// Last sound, in milliseconds since the stream started.
    pub audio_end_ms: Option<i64>,
    /// How much of an agent's turn was heard, in milliseconds from its start.
    pub heard_until_ms: Option<i64>,
    /// How that is known: `mark` or `clock`.
    pub evidence: Option<String>,
    /// From the caller's last sound to the first sound of this answer.
    pub response_latency_ms: Option<i64>,
    /// The function, for `tool`.
    pub tool_name: Option<String>,
    /// The function's call, for `tool`.
    pub tool_call_id: Option<String>,
}

/// Finished turns of one call.
#[derive(Debug, Clone)]
pub struct Turns {
    /// Whose the call is.
    pub organization: OrganizationId,
    /// The call.
    pub call_sid: CallSid,
    /// The right to write about it.
    pub token: FencingToken,
    /// The wall clock at [`CallTime::ZERO`].
    pub stream_started: Timestamp,
    /// In any order.
    pub entries: Vec<Entry>,
}

/// Writes finished turns of any number of calls down, all in one statement. Returns the calls that are not the writer's
/// any more: of those nothing was written.
///
/// May be repeated at will: a turn replaces only an older revision of itself.
pub async fn save<T: Borrow<Turns> + Sync>(
    store: &Store,
    calls: &[T],
) -> sqlx::Result<HashSet<(CallSid, FencingToken)>> {
    let late = write(store, calls, Fence::Strict).await?;
    Ok(late.into_iter().map(|late| (late.call_sid, late.token)).collect())
}

/// Writes turns down that nobody could write in their time. What was said before the next stream of the call was offered
/// was truly said, and is written although the writer has lost the call since. Returns what was not written.
pub async fn replay<T: Borrow<Turns> + Sync>(store: &Store, calls: &[T]) -> sqlx::Result<Vec<Unwritten>> {
    write(store, calls, Fence::ByTime).await
}

/// Who may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fence {
    /// Whoever has the call now.
    Strict,
    /// Also whoever had it when the turn took its place.
    ByTime,
}

/// A turn that was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwritten {
    /// Whose the call is, as the writer has it.
    pub organization: OrganizationId,
    /// The call.
    pub call_sid: CallSid,
    /// The right it was to be written with.
    pub token: FencingToken,
    /// The turn.
    pub item: ItemId,
    /// Whether there is a lease of the call at all, which the turn came too late for. Without one it may have come too
    /// early.
    pub has_lease: bool,
}

#[expect(clippy::too_many_lines, reason = "one statement, whose columns are spelled out")]
async fn write<T: Borrow<Turns> + Sync>(
    store: &Store,
    calls: &[T],
    fence: Fence,
) -> sqlx::Result<Vec<Unwritten>> {
    // One statement may touch a row only once: of several revisions the newest is sent.
    let mut newest: BTreeMap<(OrganizationId, &str, &str), (&Turns, &Entry)> = BTreeMap::new();
    for turns in calls.iter().map(Borrow::borrow) {
        for entry in &turns.entries {
            let key = (turns.organization, turns.call_sid.as_str(), entry.item.as_str());
            // With the turns it came in, since its time is counted from the start of their stream.
            let known = newest.entry(key).or_insert((turns, entry));
            if entry.revision > known.1.revision {
                *known = (turns, entry);
            }
        }
    }
    if newest.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<NewRow<'_>> =
        newest.into_values().map(|(turns, entry)| NewRow::new(turns, entry)).collect();
    // The lease is locked against another offer of the call, and only against that: signs of life go on. So whoever is
    // given the call next sees all that was written before, and nothing is written after.
    let unwritten = sqlx::query!(
        r#"
        with entry as materialized (
            select *
            from jsonb_to_recordset($1) as entry (
                organization_id uuid, call_sid text, fencing_token bigint, item_id text, sequence integer,
                revision integer, role text, content text, generated_content text, interrupted boolean, status text,
                "timestamp" timestamptz, audio_start_ms bigint, audio_end_ms bigint, heard_until_ms bigint,
                evidence text, response_latency_ms bigint, tool_name text, tool_call_id text
            )
        ),
        lease as materialized (
            select call_sid, organization_id, fencing_token, offered_at
            from call_leases
            where call_sid in (select call_sid from entry)
            order by call_sid
            for key share
        ),
        timely as materialized (
            select entry.*
            from entry
            join lease on lease.call_sid = entry.call_sid and lease.organization_id = entry.organization_id
            where entry.fencing_token = lease.fencing_token
               or ($2
                   and entry.fencing_token < lease.fencing_token
                   and entry."timestamp" < coalesce(
                       (
                           select min(offered_at)
                           from call_streams
                           where call_streams.call_sid = entry.call_sid
                             and call_streams.fencing_token > entry.fencing_token
                       ),
                       -- Offered since this statement began.
                       lease.offered_at
                   ))
        ),
        written as (
            insert into conversation_transcripts (
                organization_id, call_sid, item_id, sequence, revision, role, content, generated_content, interrupted,
                status, "timestamp", audio_start_ms, audio_end_ms, heard_until_ms, evidence, response_latency_ms,
                tool_name, tool_call_id
            )
            select organization_id, call_sid, item_id, sequence, revision, role, content, generated_content, interrupted,
                   status, "timestamp", audio_start_ms, audio_end_ms, heard_until_ms, evidence, response_latency_ms,
                   tool_name, tool_call_id
            from timely
            -- Always the same way round, so that two of these cannot wait for each other.
            order by call_sid, item_id
            on conflict on constraint conversation_transcripts_item do update
            set sequence = excluded.sequence,
                revision = excluded.revision,
                role = excluded.role,
                content = excluded.content,
                generated_content = excluded.generated_content,
                interrupted = excluded.interrupted,
                status = excluded.status,
                "timestamp" = excluded."timestamp",
                audio_start_ms = excluded.audio_start_ms,
                audio_end_ms = excluded.audio_end_ms,
                heard_until_ms = excluded.heard_until_ms,
                evidence = excluded.evidence,
                response_latency_ms = excluded.response_latency_ms,
                tool_name = excluded.tool_name,
                tool_call_id = excluded.tool_call_id
            where excluded.revision > conversation_transcripts.revision
              and excluded.organization_id = conversation_transcripts.organization_id
        )
        select organization_id as "organization_id!", call_sid as "call_sid!", fencing_token as "fencing_token!",
               item_id as "item_id!",
               exists (select from lease where lease.call_sid = entry.call_sid) as "has_lease!"
        from entry
        where not exists (
            select
            from timely
            where timely.call_sid = entry.call_sid
              and timely.item_id = entry.item_id
              and timely.organization_id = entry.organization_id
        )
        "#,
        Json(rows) as _,
        fence == Fence::ByTime,
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    let unwritten = unwritten.into_iter().map(|row| {
        Ok(Unwritten {
            organization: row.organization_id.into(),
            call_sid: decoded(CallSid::try_from(row.call_sid))?,
            token: FencingToken(row.fencing_token),
            item: decoded(ItemId::parse(&row.item_id))?,
            has_lease: row.has_lease,
        })
    });
    unwritten.collect()
}

/// What was said and heard of a call so far, as another stream of it is told: the last `limit` turns, oldest first.
pub async fn history(
    store: &Store,
    organization: OrganizationId,
    call_sid: &CallSid,
    limit: u32,
) -> sqlx::Result<Vec<Remembered>> {
    let rows = sqlx::query!(
        r#"
        select role, content, generated_content, status, tool_name, tool_call_id
        from conversation_transcripts
        where organization_id = $1 and call_sid = $2
        order by sequence desc, id desc
        limit $3
        "#,
        organization.0,
        call_sid.as_str(),
        i64::from(limit),
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    let remembered = rows.into_iter().rev().filter_map(|row| match &*row.role {
        "user" => Some(Remembered::Caller(row.content)),
        "assistant" => (!row.content.is_empty()).then_some(Remembered::Agent(row.content)),
        "system" => Some(Remembered::Note(row.content)),
        "tool" => Some(Remembered::Function {
            call: ToolCallId::parse(&row.tool_call_id?).ok()?,
            name: row.tool_name?,
            arguments: row.generated_content?,
            output: (row.status != Status::Unanswered.as_str()).then_some(row.content),
        }),
        _ => None,
    });
    Ok(remembered.collect())
}

/// The conversation of a call in its order, at most `limit` turns.
pub async fn by_call(
    store: &Store,
    organization: OrganizationId,
    call_sid: &CallSid,
    limit: u32,
) -> sqlx::Result<Vec<TranscriptRow>> {
    let rows = sqlx::query!(
        r#"
        select id, call_sid, role, content, "timestamp", sequence, item_id, revision, generated_content, interrupted,
               status, audio_start_ms, audio_end_ms, heard_until_ms, evidence, response_latency_ms, tool_name,
               tool_call_id
        from conversation_transcripts
        where organization_id = $1 and call_sid = $2
        order by sequence, id
        limit $3
        "#,
        organization.0,
        call_sid.as_str(),
        i64::from(limit),
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(TranscriptRow {
                id: row.id,
                call_sid: decoded(CallSid::try_from(row.call_sid))?,
                role: row.role,
                content: row.content,
                timestamp: row.timestamp.to_jiff(),
                sequence: row.sequence,
                item_id: row.item_id,
                revision: row.revision,
                generated_content: row.generated_content,
                interrupted: row.interrupted,
                status: row.status,
                audio_start_ms: row.audio_start_ms,
                audio_end_ms: row.audio_end_ms,
                heard_until_ms: row.heard_until_ms,
                evidence: row.evidence,
                response_latency_ms: row.response_latency_ms,
                tool_name: row.tool_name,
                tool_call_id: row.tool_call_id,
            })
        })
        .collect()
}

/// An entry as the insert reads it.
#[derive(Serialize)]
struct NewRow<'a> {
    organization_id: uuid::Uuid,
    call_sid: &'a str,
    fencing_token: FencingToken,
    item_id: &'a str,
    sequence: u32,
    revision: u32,
    role: &'static str,
    content: String,
    generated_content: Option<String>,
    interrupted: bool,
    status: &'static str,
    timestamp: Timestamp,
    audio_start_ms: Option<u64>,
    audio_end_ms: Option<u64>,
    heard_until_ms: Option<u64>,
    evidence: Option<&'static str>,
    response_latency_ms: Option<u64>,
    tool_name: Option<String>,
    tool_call_id: Option<&'a str>,
}

impl<'a> NewRow<'a> {
    fn new(turns: &'a Turns, entry: &'a Entry) -> Self {
        Self {
            organization_id: turns.organization.0,
            call_sid: turns.call_sid.as_str(),
            fencing_token: turns.token,
            item_id: entry.item.as_str(),
            sequence: entry.sequence,
            revision: entry.revision,
            role: entry.role.as_str(),
            content: storable(&entry.content),
            generated_content: entry.generated.as_deref().map(storable),
            interrupted: entry.interrupted,
            status: entry.status.as_str(),
            timestamp: wall_clock(turns.stream_started, entry.at),
            audio_start_ms: entry.audio_start.map(CallTime::as_millis),
            audio_end_ms: entry.audio_end.map(CallTime::as_millis),
            heard_until_ms: entry.heard_until_ms,
            evidence: entry.evidence.map(Evidence::as_str),
            response_latency_ms: entry.response_latency_ms,
            tool_name: entry.tool_name.as_deref().map(storable),
            tool_call_id: entry.tool_call.as_ref().map(ToolCallId::as_str),
        }
    }
}

/// The wall clock at a time of the call.
fn wall_clock(stream_started: Timestamp, at: CallTime) -> Timestamp {
    let since_start = SignedDuration::try_from(at.since_start()).unwrap_or(SignedDuration::MAX);
    stream_started.saturating_add(since_start).unwrap_or(Timestamp::MAX)
}
