//! What people in charge want of calls that are going on, on its way to the node that carries each.
//!
//! Whoever wants something writes a row and rings; the node that has the call takes it, once, and writes what came of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::ids::{AgentId, CallSid, OrganizationId};
use crate::store::leases::FencingToken;
use crate::store::{Store, decoded, storable_json};

/// What is rung when a command is there; the payload is the call's SID.
pub const CHANNEL: &str = "call_commands";

/// What is wanted, as its row has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The command.
    pub id: Uuid,
    /// The call.
    pub call_sid: CallSid,
    /// By which the node carries it: a stream of the call that was replaced since is not meant.
    pub token: FencingToken,
    /// `hang_up`, `transfer`, `say` or `inject`.
    pub kind: String,
    /// What is to be said, told or done.
    pub payload: Value,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommandResult {
    /// `done`: it has been done, or has begun. `refused`: the call cannot, see the message. `withdrawn`: nobody took it.
    #[schema(example = "done")]
    pub outcome: String,
    /// More about it, for people.
    #[schema(example = "the agent says it as soon as nobody speaks")]
    pub message: String,
}

/// How far a command is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// No node has taken it.
    Waiting,
    /// A node has, and has not said what came of it.
    Taken,
    /// It is over.
    Done(CommandResult),
}

/// Where a call is, for somebody who wants something of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// The organisation has no such call.
    Unknown,
    /// It is over, or was never carried.
    NotLive,
    /// We make it, and no node carries it: it rings, or its end is not on record yet. Only the carrier can end it.
    Dialed,
    /// It is with people, or their telephones ring. Only the carrier can end it.
    WithPeople,
    /// A node carries it, or is about to.
    Live,
}

/// A call that is going on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LiveCall {
    /// The carrier's id of the call.
    #[schema(value_type = String, example = "CA00000000000000000000000000000001")]
    pub call_sid: CallSid,
    /// Who answers.
    #[schema(value_type = Uuid)]
    pub agent_id: AgentId,
    /// The carrier's word.
    #[schema(example = "inbound")]
    pub direction: Option<String>,
    /// As the carrier sent it; not always a number.
    pub from: Option<String>,
    /// As the carrier sent it; not always a number.
    pub to: Option<String>,
    /// `connecting`: its stream is on the way. `with_agent`, `with_people`.
    #[schema(example = "with_agent")]
    pub state: String,
    /// Which server carries it; null while none does.
    pub node: Option<String>,
    /// When its first stream came; null before.
    pub started_at: Option<Timestamp>,
    /// How often people were called on behalf of the agent.
    pub handoffs: u32,
}

/// Where this call is.
pub async fn whereabouts(
    store: &Store,
    organization: OrganizationId,
    call_sid: &CallSid,
) -> sqlx::Result<Whereabouts> {
    let row = sqlx::query!(
        r#"
        select organization_of_call($2) = $1 as "is_ours", call_is_live($2) as "is_live!",
               exists (select from call_leases where call_sid = $2 and handed_over_at is not null) as "with_people!",
               -- People were to answer first: no agent has had it. As long as the carrier lets them speak.
               exists (
                   select
                   from calls
                   where call_sid = $2
                     and routing_status = 'transferred_to_team'
                     and created_at > now() - interval '4 hours'
                     and not exists (select from call_leases where call_leases.call_sid = calls.call_sid)
                     and not exists (
                         select
                         from call_events
                         where call_events.call_sid = calls.call_sid
                           and call_status in ('completed', 'busy', 'failed', 'no-answer', 'canceled')
                     )
               ) as "with_team!",
               exists (
                   select
                   from call_attempts
                   where call_sid = $2 and organization_id = $1 and status <> 'ended'
               ) as "is_dialed!"
        "#,
        organization.0,
        call_sid.as_str(),
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Ok(match row.is_ours {
        Some(true) if row.is_live && row.with_people || row.with_team => Whereabouts::WithPeople,
        Some(true) if row.is_live => Whereabouts::Live,
        Some(true) if row.is_dialed => Whereabouts::Dialed,
        Some(true) => Whereabouts::NotLive,
        Some(false) | None => Whereabouts::Unknown,
    })
}

/// Calls of an organisation that are going on, the latest first, and how many there are in all.
pub async fn live_calls(
    store: &Store,
    organization: OrganizationId,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<LiveCall>, u64)> {
    let rows = sqlx::query!(
        r#"
        select call_sid, agent_id, direction, from_number, to_number, node, handoffs,
               case
                   when handed_over_at is not null then 'with_people'
                   when claimed_at is not null then 'with_agent'
                   else 'connecting'
               end as "state!",
               (select min(claimed_at)
                from call_streams
                where call_streams.call_sid = call_leases.call_sid) as "started_at?: jiff_sqlx::Timestamp",
               count(*) over () as "total!"
        from call_leases
        where organization_id = $1
          and ended_at is null
          and call_is_live(call_sid)
        order by offered_at desc, call_sid
        limit $2
        offset $3
        "#,
        organization.0,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    let total = rows.first().map_or(0, |row| row.total.unsigned_abs());
    let calls = rows.into_iter().map(|row| {
        Ok(LiveCall {
            call_sid: decoded(CallSid::try_from(row.call_sid))?,
            agent_id: row.agent_id.into(),
            direction: row.direction,
            from: row.from_number,
            to: row.to_number,
            state: row.state,
            node: row.node,
            started_at: row.started_at.map(jiff_sqlx::Timestamp::to_jiff),
            handoffs: row.handoffs.unsigned_abs(),
        })
    });
    Ok((calls.collect::<sqlx::Result<_>>()?, total))
}

/// Wants something of a call, and rings the nodes.
pub async fn want(
    store: &Store,
    organization: OrganizationId,
    call_sid: &CallSid,
    kind: &str,
    payload: Value,
) -> sqlx::Result<Uuid> {
    sqlx::query_scalar!(
        r#"
        with wanted as (
            insert into call_commands (organization_id, call_sid, kind, payload)
            values ($1, $2, $3, $4)
            returning id, call_sid
        )
        select id as "id!"
        from wanted, pg_notify($5, call_sid)
        "#,
        organization.0,
        call_sid.as_str(),
        kind,
        storable_json(payload),
        CHANNEL,
    )
    .fetch_one(&mut *store.connection().await?)
    .await
}

/// Puts on record what is wanted of a call that no node carries, as taken by this one, which has the carrier do it.
pub async fn take_oneself(
    store: &Store,
    organization: OrganizationId,
    call_sid: &CallSid,
    kind: &str,
    payload: Value,
    node: &str,
) -> sqlx::Result<Uuid> {
    sqlx::query_scalar!(
        r#"
        insert into call_commands (organization_id, call_sid, kind, payload, taken_at, node)
        values ($1, $2, $3, $4, now(), $5)
        returning id
        "#,
        organization.0,
        call_sid.as_str(),
        kind,
        storable_json(payload),
        node,
    )
    .fetch_one(&mut *store.connection().await?)
    .await
}

/// Takes what is wanted of these calls, as far as this node carries them and nobody has taken it. Of each call in the order
/// it was wanted.
pub async fn take(store: &Store, node: &str, calls: &[(CallSid, FencingToken)]) -> sqlx::Result<Vec<Taken>> {
    if calls.is_empty() {
        return Ok(Vec::new());
    }
    let (call_sids, tokens): (Vec<String>, Vec<i64>) =
        calls.iter().map(|(call_sid, token)| (call_sid.as_str().to_owned(), token.0)).unzip();
    let rows = sqlx::query!(
        r#"
        with due as (
            select id, live.token
            from call_commands
            join unnest($2::text[], $3::bigint[]) as live (call_sid, token) using (call_sid)
            join call_leases using (call_sid)
            where fencing_token = live.token
              and taken_at is null
              and done_at is null
            for update of call_commands skip locked
        ),
        taken as (
            update call_commands
            set taken_at = now(),
                node = $1
            from due
            where call_commands.id = due.id
            returning call_commands.id, call_sid, token, kind, payload, created_at
        )
        select id as "id!", call_sid as "call_sid!", token as "token!", kind as "kind!", payload as "payload!"
        from taken
        order by created_at, id
        "#,
        node,
        &call_sids,
        &tokens,
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    rows.into_iter()
        .map(|row| {
            let call_sid = decoded(CallSid::try_from(row.call_sid))?;
            let token = FencingToken(row.token);
            Ok(Taken { id: row.id, call_sid, token, kind: row.kind, payload: row.payload })
        })
        .collect()
}

/// Says what came of a command. The first word stands.
pub async fn finish(store: &Store, id: Uuid, result: &CommandResult) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        update call_commands
        set done_at = now(),
            result = $2
        where id = $1 and done_at is null
        "#,
        id,
        sqlx::types::Json(result) as _,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    Ok(())
}

/// How far a command is.
pub async fn progress(store: &Store, id: Uuid) -> sqlx::Result<Progress> {
    let row = sqlx::query!(
        r#"
        select taken_at is not null as "taken!", result as "result: sqlx::types::Json<CommandResult>"
        from call_commands
        where id = $1
        "#,
        id,
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Ok(match row.result {
        Some(sqlx::types::Json(result)) => Progress::Done(result),
        None if row.taken => Progress::Taken,
        None => Progress::Waiting,
    })
}

/// Takes a command back that nobody has taken. False: somebody has, and will do it or has done it.
pub async fn withdraw(store: &Store, id: Uuid) -> sqlx::Result<bool> {
    let result = CommandResult { outcome: "withdrawn".into(), message: "no server took it in time".into() };
    let withdrawn = sqlx::query!(
        r#"
        update call_commands
        set done_at = now(),
            result = $2
        where id = $1 and taken_at is null and done_at is null
        "#,
        id,
        sqlx::types::Json(&result) as _,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    Ok(withdrawn.rows_affected() == 1)
}
