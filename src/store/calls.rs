//! Call records. They are written by the `lifecycle` module only.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::call::end::{EndReason, NextStep};
use crate::ids::{AgentId, CallSid, OrganizationId, PhoneNumberId};
use crate::store::leases::FencingToken;
use crate::store::{Store, storable, storable_json, stored_call_sid};

/// One call.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct CallRecord {
    /// Our id.
    pub id: Uuid,
    /// Whose it is.
    #[schema(value_type = Uuid)]
    pub organization_id: OrganizationId,
    /// Who answered.
    #[schema(value_type = Uuid)]
    pub agent_id: AgentId,
    /// Which of our numbers was called.
    #[schema(value_type = Option<Uuid>)]
    pub phone_number_id: Option<PhoneNumberId>,
    /// The carrier's id.
    #[schema(value_type = Option<String>, example = "CA00000000000000000000000000000001")]
    pub call_sid: Option<CallSid>,
    /// `[{type, timestamp, details}]` by time.
    #[schema(
        value_type = Vec<Object>,
        example = json!([{"type": "incoming_call", "timestamp": "2024-10-30T09:00:00Z", "details": {"from": "+1234567890", "to": "+1987654321"}}])
    )]
    pub event_sequence: Value,
    /// Where the call went: `transferred_to_team`, `team_no_answer`, `direct_to_agent` or `completed`.
    #[schema(example = "direct_to_agent")]
    pub routing_status: Option<String>,
    /// When it was first heard of.
    pub created_at: Timestamp,
    /// The end-of-call report; `{}` before.
    #[schema(value_type = Object)]
    pub data: Value,
}

/// Which calls are wanted. What is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct CallFilter {
    /// Answered by this agent.
    pub agent_id: Option<Uuid>,
    /// To this number of ours.
    pub phone_number_id: Option<Uuid>,
    /// Heard of then or later.
    pub from: Option<Timestamp>,
    /// Heard of before.
    pub to: Option<Timestamp>,
    /// `completed` or `failed`, as their reports say; `live`: no report yet.
    pub status: Option<String>,
    /// Where they went.
    pub routing_status: Option<String>,
}

/// Calls, newest first, and how many there are in all. Of reports and events there is what is small: [`find`] has the whole.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    filter: &CallFilter,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<CallRecord>, u64)> {
    let mut connection = store.connection().await?;
    let total = sqlx::query_scalar!(
        r#"
        select count(*) as "total!"
        from calls
        join call_briefs on call_id = calls.id
        where calls.organization_id = $1
          and ($2::uuid is null or agent_id = $2)
          and ($3::uuid is null or phone_number_id = $3)
          and ($4::timestamptz is null or calls.created_at >= $4)
          and ($5::timestamptz is null or calls.created_at < $5)
          and ($6::text is null or case call_briefs.completed when true then 'completed' when false then 'failed' else 'live' end = $6)
          and ($7::text is null or routing_status = $7)
        "#,
        organization.0,
        filter.agent_id,
        filter.phone_number_id,
        filter.from.map(ToSqlx::to_sqlx) as _,
        filter.to.map(ToSqlx::to_sqlx) as _,
        filter.status.as_deref(),
        filter.routing_status.as_deref(),
    )
    .fetch_one(&mut *connection)
    .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id, calls.organization_id, agent_id, phone_number_id, call_sid, call_briefs.events as event_sequence,
               routing_status, calls.created_at as "created_at!", call_briefs.report as data
        from calls
        join call_briefs on call_id = calls.id
        where calls.organization_id = $1
          and ($2::uuid is null or agent_id = $2)
          and ($3::uuid is null or phone_number_id = $3)
          and ($4::timestamptz is null or calls.created_at >= $4)
          and ($5::timestamptz is null or calls.created_at < $5)
          and ($6::text is null or case call_briefs.completed when true then 'completed' when false then 'failed' else 'live' end = $6)
          and ($7::text is null or routing_status = $7)
        order by calls.created_at desc, id
        limit $8 offset $9
        "#,
        organization.0,
        filter.agent_id,
        filter.phone_number_id,
        filter.from.map(ToSqlx::to_sqlx) as _,
        filter.to.map(ToSqlx::to_sqlx) as _,
        filter.status.as_deref(),
        filter.routing_status.as_deref(),
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *connection)
    .await?;
    let calls: sqlx::Result<Vec<_>> = rows.into_iter().map(CallRecord::try_from).collect();
    Ok((calls?, total.unsigned_abs()))
}

/// One call, by our id, the carrier's or VAPI's.
pub async fn find(
    store: &Store,
    organization: OrganizationId,
    id_or_sid: &str,
) -> sqlx::Result<Option<CallRecord>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select id, organization_id, agent_id, phone_number_id, call_sid, event_sequence, routing_status,
               created_at as "created_at!", data
        from calls
        where organization_id = $1
          and id in (
              select $2::uuid
              union all
              select id from calls where call_sid = $3
              union all
              select call_id from vapi_calls where vapi_call_id = $3
          )
        limit 1
        "#,
        organization.0,
        Uuid::try_parse(id_or_sid).ok(),
        storable(id_or_sid),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    row.map(CallRecord::try_from).transpose()
}

/// A call as its columns are.
struct Row {
    id: Uuid,
    organization_id: Uuid,
    agent_id: Uuid,
    phone_number_id: Option<Uuid>,
    call_sid: Option<String>,
    event_sequence: Value,
    routing_status: Option<String>,
    created_at: jiff_sqlx::Timestamp,
    data: Value,
}

impl TryFrom<Row> for CallRecord {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.id,
            organization_id: row.organization_id.into(),
            agent_id: row.agent_id.into(),
            phone_number_id: row.phone_number_id.map(PhoneNumberId),
            call_sid: stored_call_sid(row.call_sid)?,
            event_sequence: row.event_sequence,
            routing_status: row.routing_status,
            created_at: row.created_at.to_jiff(),
            data: row.data,
        })
    }
}

/// The call with this SID, whoever it belongs to: for the carrier's webhooks, which know nothing else.
pub async fn by_call_sid(store: &Store, call_sid: &CallSid) -> sqlx::Result<Option<CallRecord>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select id, organization_id, agent_id, phone_number_id, call_sid, event_sequence, routing_status,
               created_at as "created_at!", data
        from calls
        where call_sid = $1
        "#,
        call_sid.as_str(),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    row.map(CallRecord::try_from).transpose()
}

/// Whose call this is, once anything is known of it.
pub async fn organization_of(store: &Store, call_sid: &CallSid) -> sqlx::Result<Option<OrganizationId>> {
    let id = sqlx::query_scalar!("select organization_of_call($1)", call_sid.as_str())
        .fetch_one(&mut *store.connection().await?)
        .await?;
    Ok(id.map(OrganizationId))
}

/// What one event changes in the records of its call.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// The call.
    pub call_sid: &'a CallSid,
    /// Whose it is.
    pub organization: OrganizationId,
    /// Who answers.
    pub agent: AgentId,
    /// Which of our numbers was called.
    pub phone_number: Option<PhoneNumberId>,
    /// When it happened.
    pub at: Timestamp,
    /// The event's `type`.
    pub kind: &'static str,
    /// The event's `details`.
    pub details: Value,
    /// The event is on record already when the sequence contains any of these (as jsonb `@>` has it).
    pub known_by: Vec<Value>,
    /// Where the call is now; takes effect only where that is not a step back.
    pub routing_status: &'static str,
    /// The end-of-call report, or `{}`.
    pub data: Value,
    /// Must be the lease's, where there is a lease.
    pub token: Option<FencingToken>,
    /// What the carrier is told after the stream, and why. What was decided earlier stands.
    pub end: Option<(NextStep, EndReason)>,
    /// The call is over: closes the lease.
    pub is_over: bool,
    /// Put on record later than it happened: of a stream before the lease's, what happened before the next one was offered
    /// still takes its place in the sequence, and changes nothing else. The end of a call is never such an event.
    pub is_replayed: bool,
}

/// What came of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is on record now.
    New,
    /// It had been recorded before, or another end came first; the call's record has not changed.
    Known,
    /// Its token is stale: somebody else carries the call. Nothing has changed.
    Fenced,
}

/// Has all who change the records of this call wait for each other until their transactions end, also when there is no
/// record yet.
pub async fn lock(connection: &mut PgConnection, call_sid: &CallSid) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", call_sid.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Puts an event on record: creates the call where nothing is known of it, appends, projects, closes the lease.
///
/// The lease is locked first, so that a new holder cannot come between the look at its token and the write. Turns go on
/// being written meanwhile.
#[expect(clippy::too_many_lines, reason = "it is one statement")]
pub async fn append(connection: &mut PgConnection, change: Change<'_>) -> sqlx::Result<Recorded> {
    let event =
        json!([{"type": change.kind, "timestamp": change.at, "details": storable_json(change.details)}]);
    let outcome = sqlx::query!(
        r#"
        with lease as materialized (
            select fencing_token, offered_at
            from call_leases
            where call_sid = $1::text and organization_id = $2
            for no key update
        ),
        right_holder as materialized (
            select not exists (select from lease where fencing_token <> $9) as yes,
                   $13 and not $12 and exists (
                       select
                       from lease
                       where fencing_token > $9
                         and $14 < coalesce(
                             (
                                 select min(offered_at)
                                 from call_streams
                                 where call_sid = $1::text and call_streams.fencing_token > $9
                             ),
                             offered_at
                         )
                   ) as held_it_then
        ),
        closed as (
            update call_leases
            set ended_at = case when $12 then coalesce(ended_at, now()) else ended_at end,
                -- A call that was to go on and did not is the only one about which somebody changes their mind.
                next_action = case when ended_at is null then coalesce(nullif(next_action, 'resume'), $10) else next_action end,
                disconnect_reason = coalesce(disconnect_reason, $11)
            where call_sid = $1::text
              and organization_id = $2
              and $11::text is not null
              and (select yes from right_holder)
        ),
        written as (
            insert into calls (call_sid, organization_id, agent_id, phone_number_id, event_sequence, routing_status, data)
            select $1::text, $2, $3, $4, $5, $6, $7
            from right_holder
            where yes or held_it_then
            on conflict (call_sid) do update
            set phone_number_id = coalesce(calls.phone_number_id, excluded.phone_number_id),
                event_sequence = (
                    select jsonb_agg(event order by (event->>'timestamp')::timestamptz, place)
                    from jsonb_array_elements(calls.event_sequence || excluded.event_sequence)
                        with ordinality as sequence (event, place)
                    -- Of two ends one takes the place of the other.
                    where not ($12
                               and place <= jsonb_array_length(calls.event_sequence)
                               and event->>'type' in ('agent_call_completed', 'call_failed'))
                ),
                routing_status = case
                    when calls.routing_status = 'completed' then calls.routing_status
                    -- Each of these overrules what comes before it in the life of a call, and any overrules that
                    -- the agent answers, which every event says that knows no better.
                    when excluded.routing_status in ('completed', 'team_no_answer') then excluded.routing_status
                    when calls.routing_status = 'team_no_answer' then calls.routing_status
                    when excluded.routing_status = 'transferred_to_team' then excluded.routing_status
                    else coalesce(calls.routing_status, excluded.routing_status)
                end,
                data = case
                    -- Whoever carried the call here tells of its end; what VAPI reported is kept beside that.
                    when $12 and calls.data->'call'->>'reportedBy' = 'vapi' then jsonb_build_object('vapi', calls.data)
                    when $12 then calls.data - 'carrier_status'
                    else calls.data
                end || excluded.data
            where calls.organization_id = excluded.organization_id
              -- What the carrier's last word was taken for gives way to whoever knows more, or to what it is taken for
              -- now that more is known; and what VAPI reported, to us.
              and (
                  not calls.event_sequence @> any ($8::jsonb[])
                  or ($12 and (calls.data ? 'carrier_status' or calls.data->'call'->>'reportedBy' = 'vapi'))
              )
            returning id
        )
        select yes or held_it_then as "right_holder!",
               exists (select from written) as "written!"
        from right_holder
        "#,
        change.call_sid.as_str(),
        change.organization.0,
        change.agent.0,
        change.phone_number.map(|number| number.0),
        event,
        change.routing_status,
        storable_json(change.data),
        &change.known_by,
        change.token.map(|token| token.0),
        change.end.map(|(step, _)| step.as_str()),
        change.end.map(|(_, reason)| reason.as_str()),
        change.is_over,
        change.is_replayed,
        change.at.to_sqlx() as _,
    )
    .fetch_one(connection)
    .await?;
    Ok(match (outcome.right_holder, outcome.written) {
        (false, _) => Recorded::Fenced,
        (true, true) => Recorded::New,
        (true, false) => Recorded::Known,
    })
}
