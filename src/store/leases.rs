//! Which node carries a call now, and what becomes of the call when its stream ends.
//!
//! Every offer of a call raises its fencing token. Whoever holds a smaller one is late: what it writes changes nothing.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::call::end::{EndReason, NextStep};
use crate::ids::{AgentId, CallSid, OrganizationId};
use crate::store::{Store, decoded, storable};

/// A call that is lost more often than this within a minute will be lost again: people are better then.
const MOST_RESUMED: i64 = 3;
/// With those that left a server that stops, at a pause and unnoticed. A balancer that goes on to send them back there has
/// to come to an end, too.
const MOST_RESUMED_OR_MOVED: i64 = 10;

/// Grows with every offer of a call; the highest is the one that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FencingToken(pub i64);

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A call whose stream we expect, as the webhook that answers with our TwiML knows it.
#[derive(Debug, Clone)]
pub struct Offer<'a> {
    /// The call.
    pub call_sid: &'a CallSid,
    /// Whose it is.
    pub organization: OrganizationId,
    /// Who answers.
    pub agent: AgentId,
    /// The carrier's word: `inbound`, `outbound-api`, `outbound-dial`.
    pub direction: Option<&'a str>,
    /// As the carrier sent it; need not be a number.
    pub from: Option<&'a str>,
    /// As the carrier sent it; need not be a number.
    pub to: Option<&'a str>,
    /// SHA-256 of the one-time secret in the stream's address.
    pub token_sha256: [u8; 32],
}

/// A call that this node carries from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedCall {
    /// The call.
    pub call_sid: CallSid,
    /// Whose it is.
    pub organization: OrganizationId,
    /// Who answers.
    pub agent: AgentId,
    /// The carrier's word, where known.
    pub direction: Option<String>,
    /// As the carrier sent it, where known.
    pub from: Option<String>,
    /// As the carrier sent it, where known.
    pub to: Option<String>,
    /// To be shown with everything that is written about the call.
    pub fencing_token: FencingToken,
    /// Our TwiML brought it, so we are asked how it goes on.
    pub offered: bool,
    /// Since its first stream.
    pub lasted: Duration,
    /// Why the stream before ended, where this one goes on with the same conversation.
    pub resumed_after: Option<EndReason>,
    /// How often people were called on behalf of the agent. A call that is carried again was not answered by them.
    pub handoffs: u32,
    /// How far this machine's clock is ahead of the database's, by which all nodes decide what was said in time.
    pub clock_ahead: SignedDuration,
}

/// What is known of a call after its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that has happened to the call or not")]
pub struct AfterStream {
    /// Whose it is.
    pub organization: OrganizationId,
    /// Who answered.
    pub agent: AgentId,
    /// The right to write about the call, as it stands now.
    pub fencing_token: FencingToken,
    /// Whether the stream of the latest offer has come.
    pub claimed: bool,
    /// The offer was made while the database was away and is on record since a moment. Another node may have taken the
    /// stream, and have yet to say so.
    pub came_late: bool,
    /// Whether the call is over.
    pub ended: bool,
    /// People are called on behalf of the agent, or have the call.
    pub handed_over: bool,
    /// How often people were called on behalf of the agent.
    pub handoffs: u32,
    /// Since its first stream.
    pub lasted: Duration,
    /// What the carrier is told; `None` when nobody has decided, because the node died.
    pub next_action: Option<NextStep>,
    /// Why the call ended, as stored.
    pub disconnect_reason: Option<String>,
}

/// A call that nobody carries any more, and that whoever asked is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandoned {
    /// The call.
    pub call_sid: CallSid,
    /// Whose it is.
    pub organization: OrganizationId,
    /// Who answered.
    pub agent: AgentId,
    /// To be shown with its end.
    pub fencing_token: FencingToken,
    /// Why it ended, as far as that can be told.
    pub reason: EndReason,
    /// From its first stream to its last sign of life.
    pub lasted: Duration,
}

/// Expects the stream of a call. Each further offer of the same call makes all before it void.
///
/// `None`: the call belongs to another organisation.
pub async fn offer(store: &Store, offer: &Offer<'_>) -> sqlx::Result<Option<FencingToken>> {
    let token = sqlx::query_scalar!(
        r#"
        with offered as (
            insert into call_leases (call_sid, organization_id, agent_id, direction, from_number, to_number,
                                     fencing_token, stream_token_sha256)
            values ($1, $2, $3, $4, $5, $6, 1, $7)
            on conflict (call_sid) do update
            set agent_id = excluded.agent_id,
                direction = coalesce(excluded.direction, call_leases.direction),
                from_number = coalesce(excluded.from_number, call_leases.from_number),
                to_number = coalesce(excluded.to_number, call_leases.to_number),
                fencing_token = call_leases.fencing_token + 1,
                stream_token_sha256 = excluded.stream_token_sha256,
                node = null,
                offered_at = now(),
                claimed_at = null,
                heartbeat_at = null,
                next_action = null,
                disconnect_reason = null,
                handed_over_at = null,
                ended_at = null
            where call_leases.organization_id = excluded.organization_id
            returning call_sid, fencing_token, organization_id, offered_at
        )
        insert into call_streams (call_sid, fencing_token, organization_id, offered_at)
        select call_sid, fencing_token, organization_id, offered_at
        from offered
        returning fencing_token
        "#,
        offer.call_sid.as_str(),
        offer.organization.0,
        offer.agent.0,
        offer.direction.map(storable),
        offer.from.map(storable),
        offer.to.map(storable),
        &offer.token_sha256,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(token.map(FencingToken))
}

/// Takes the call whose stream has come with this secret. Only one caller ever gets it, and only within ten minutes of
/// the offer: TwiML is acted upon at once.
pub async fn claim(store: &Store, token_sha256: &[u8; 32], node: &str) -> sqlx::Result<Option<ClaimedCall>> {
    let asked = Timestamp::now();
    let row = sqlx::query_as!(
        Row,
        r#"
        with claimed as (
            update call_leases
            set node = $2,
                claimed_at = now(),
                heartbeat_at = now()
            where stream_token_sha256 = $1
              and claimed_at is null
              and ended_at is null
              and offered_at > now() - interval '10 minutes'
            returning call_sid, organization_id, agent_id, direction, from_number, to_number, fencing_token, handoffs
        ),
        taken as (
            update call_streams
            set node = $2,
                claimed_at = now()
            from claimed
            where call_streams.call_sid = claimed.call_sid
              and call_streams.fencing_token = claimed.fencing_token
        )
        select call_sid, organization_id, agent_id, direction, from_number, to_number, fencing_token, handoffs,
               true as "offered!",
               (select resumed_after
                from call_streams
                where call_streams.call_sid = claimed.call_sid
                  and call_streams.fencing_token = claimed.fencing_token) as resumed_after,
               (select extract(epoch from now() - min(claimed_at))::float8
                from call_streams
                where call_streams.call_sid = claimed.call_sid) as lasted_s,
               clock_timestamp() as "now!"
        from claimed
        "#,
        token_sha256,
        node,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    row.map(|row| row.claimed(asked)).transpose()
}

/// Takes a call whose stream has come by TwiML that is not ours, so that nothing is known of it but its SID.
///
/// `None`: the call is going on elsewhere, is expected with a secret, or belongs to another organisation.
pub async fn claim_unoffered(
    store: &Store,
    call_sid: &CallSid,
    organization: OrganizationId,
    agent: AgentId,
    node: &str,
) -> sqlx::Result<Option<ClaimedCall>> {
    let asked = Timestamp::now();
    // The conditions are those of `call_is_live`, on the row itself: a function would not see what a rival has just written.
    let row = sqlx::query_as!(
        Row,
        r#"
        with claimed as (
            -- A digest that no secret leads to. New every time: a change of what is unique waits for turns being written.
            insert into call_leases (call_sid, organization_id, agent_id, fencing_token, stream_token_sha256, node,
                                     claimed_at, heartbeat_at)
            values ($1, $2, $3, 1, sha256(uuid_send(gen_random_uuid())), $4, now(), now())
            on conflict (call_sid) do update
            set agent_id = excluded.agent_id,
                fencing_token = call_leases.fencing_token + 1,
                stream_token_sha256 = excluded.stream_token_sha256,
                node = excluded.node,
                offered_at = now(),
                claimed_at = now(),
                heartbeat_at = now(),
                next_action = null,
                disconnect_reason = null,
                handed_over_at = null,
                ended_at = null
            where call_leases.organization_id = excluded.organization_id
              and (call_leases.ended_at is not null
                   or call_leases.handed_over_at is null
                      and greatest(call_leases.offered_at, call_leases.heartbeat_at) <= now() - interval '2 minutes')
            returning call_sid, organization_id, agent_id, direction, from_number, to_number, fencing_token, handoffs,
                      offered_at
        ),
        taken as (
            insert into call_streams (call_sid, fencing_token, organization_id, node, offered_at, claimed_at)
            select call_sid, fencing_token, organization_id, $4, offered_at, offered_at
            from claimed
        )
        select call_sid, organization_id, agent_id, direction, from_number, to_number, fencing_token, handoffs,
               false as "offered!", null::text as resumed_after,
               (select extract(epoch from now() - min(claimed_at))::float8
                from call_streams
                where call_streams.call_sid = claimed.call_sid) as lasted_s,
               clock_timestamp() as "now!"
        from claimed
        "#,
        call_sid.as_str(),
        organization.0,
        agent.0,
        node,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    row.map(|row| row.claimed(asked)).transpose()
}

/// Expects another stream of a call whose stream was lost, or that people did not take over; everything before it becomes
/// void.
///
/// `None`: the call is over, somebody else has decided since `token` was the call's, or the call has come back
/// three times within the last minute, not counting servers that it left by itself, as long as those are few, and people who
/// did not answer.
pub async fn resume(
    store: &Store,
    call_sid: &CallSid,
    token: FencingToken,
    token_sha256: &[u8; 32],
) -> sqlx::Result<Option<FencingToken>> {
    let token = sqlx::query_scalar!(
        r#"
        with lost as (
            -- As it was before this statement.
            select case
                       when handed_over_at is not null then 'transferred'
                       -- Offered before, and asked for again.
                       when claimed_at is null then coalesce(
                           disconnect_reason,
                           (select resumed_after
                            from call_streams
                            where call_streams.call_sid = $1 and call_streams.fencing_token = $2),
                           'stream_lost'
                       )
                       else coalesce(disconnect_reason, 'stream_lost')
                   end as reason
            from call_leases
            where call_sid = $1
        ),
        offered as (
            update call_leases
            set fencing_token = fencing_token + 1,
                stream_token_sha256 = $3,
                node = null,
                offered_at = now(),
                claimed_at = null,
                heartbeat_at = null,
                next_action = null,
                disconnect_reason = null,
                handed_over_at = null
            where call_sid = $1
              and fencing_token = $2
              and ended_at is null
              -- Each handoff takes a wish for it, which is a bound of its own; a stream that does not come after one has none.
              and (handed_over_at is not null
                   or (select count(resumed_after) filter (
                                  where resumed_after <> 'moved' and (resumed_after <> 'transferred' or claimed_at is null)
                              ) < $4
                              and count(resumed_after) filter (
                                  where resumed_after <> 'transferred' or claimed_at is null
                              ) < $5
                       from call_streams
                       where call_sid = $1 and offered_at > now() - interval '60 seconds'))
            returning call_sid, fencing_token, organization_id, offered_at
        )
        insert into call_streams (call_sid, fencing_token, organization_id, resumed_after, offered_at)
        select call_sid, fencing_token, organization_id, lost.reason, offered_at
        from offered, lost
        returning fencing_token
        "#,
        call_sid.as_str(),
        token.0,
        token_sha256,
        MOST_RESUMED,
        MOST_RESUMED_OR_MOVED,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(token.map(FencingToken))
}

/// People are called on behalf of the agent from now on: nobody carries the call, and it is not over. Returns which of the
/// handoffs of the call this is, from 1; asked again for the same stream it is the same one.
///
/// `None`: there is no such call, or somebody else has decided since `token` was the call's.
pub async fn hand_over(store: &Store, call_sid: &CallSid, token: FencingToken) -> sqlx::Result<Option<u32>> {
    let handoffs = sqlx::query_scalar!(
        r#"
        update call_leases
        set handoffs = handoffs + (handed_over_at is null)::int,
            handed_over_at = coalesce(handed_over_at, now()),
            -- That was the stream's end. Why the call ends is to be seen; of one that has ended, it stands.
            disconnect_reason = case when ended_at is null then null else disconnect_reason end
        where call_sid = $1 and fencing_token = $2
        returning handoffs
        "#,
        call_sid.as_str(),
        token.0,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(handoffs.map(i32::unsigned_abs))
}

/// Shows that calls are still carried; done every 15 s. For two minutes it keeps others from taking a call for finished,
/// for ten from ending it. Returns those that are ours: a call that is missing is carried by somebody else now, or has
/// ended.
pub async fn heartbeat(
    store: &Store,
    calls: &[(CallSid, FencingToken)],
) -> sqlx::Result<Vec<(CallSid, FencingToken)>> {
    if calls.is_empty() {
        return Ok(Vec::new());
    }
    let (call_sids, tokens): (Vec<String>, Vec<i64>) =
        calls.iter().map(|(call_sid, token)| (call_sid.as_str().to_owned(), token.0)).unzip();
    let ours = sqlx::query!(
        r#"
        update call_leases
        set heartbeat_at = now()
        from unnest($1::text[], $2::bigint[]) as beat (call_sid, token)
        where call_leases.call_sid = beat.call_sid
          and call_leases.fencing_token = beat.token
          and call_leases.ended_at is null
        returning call_leases.call_sid, call_leases.fencing_token
        "#,
        &call_sids,
        &tokens,
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    ours.into_iter()
        .map(|row| Ok((decoded(CallSid::try_from(row.call_sid))?, FencingToken(row.fencing_token))))
        .collect()
}

/// Says what the carrier shall be told when it asks, and why. To be called before the stream is closed, since the carrier
/// asks at once. The first cause wins: a second call changes nothing. False: the token is stale.
pub async fn set_next_action(
    store: &Store,
    call_sid: &CallSid,
    token: FencingToken,
    step: NextStep,
    reason: EndReason,
) -> sqlx::Result<bool> {
    let updated = sqlx::query!(
        r#"
        update call_leases
        set next_action = coalesce(next_action, $3),
            disconnect_reason = coalesce(disconnect_reason, $4)
        where call_sid = $1 and fencing_token = $2
        "#,
        call_sid.as_str(),
        token.0,
        step.as_str(),
        reason.as_str(),
    )
    .execute(&mut *store.connection().await?)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// What to tell the carrier that asks after the stream. `None`: we never carried this call.
pub async fn next_action(store: &Store, call_sid: &CallSid) -> sqlx::Result<Option<AfterStream>> {
    let row = sqlx::query!(
        r#"
        select organization_id, agent_id, fencing_token, claimed_at is not null as "claimed!",
               coalesce(claimed_at is null and heartbeat_at > now() - interval '45 seconds', false) as "came_late!",
               ended_at is not null as "ended!", handed_over_at is not null as "handed_over!", handoffs,
               next_action, disconnect_reason,
               (select extract(epoch from now() - min(claimed_at))::float8
                from call_streams
                where call_streams.call_sid = call_leases.call_sid) as lasted_s
        from call_leases
        where call_sid = $1
        "#,
        call_sid.as_str(),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(|row| AfterStream {
        organization: row.organization_id.into(),
        agent: row.agent_id.into(),
        fencing_token: FencingToken(row.fencing_token),
        claimed: row.claimed,
        came_late: row.came_late,
        ended: row.ended,
        handed_over: row.handed_over,
        handoffs: row.handoffs.unsigned_abs(),
        lasted: seconds(row.lasted_s),
        next_action: row.next_action.as_deref().and_then(NextStep::from_word),
        disconnect_reason: row.disconnect_reason,
    }))
}

/// Takes calls over that nobody carries any more, so that they can be ended: those that have shown no life for ten minutes,
/// or for 45 s when the carrier says that they are over, and those that have outlived the longest call of their agent.
/// A call whose stream has not come within two minutes is nobody's, and one that people have is nobody's when the carrier
/// says so, or after the longest that the carrier lets them speak. At most `limit`, none of which another node is taking over.
///
/// Ten minutes, because the node of a silent call may only be cut off from the database, and its caller still be speaking.
///
/// Each counts as given away from now on, so that what its node has still kept of before is put on record.
pub async fn reap(store: &Store, limit: i64) -> sqlx::Result<Vec<Abandoned>> {
    let rows = sqlx::query!(
        r#"
        with open as (
            select call_sid, agent_id, claimed_at, heartbeat_at, handed_over_at,
                   greatest(offered_at, claimed_at, heartbeat_at, handed_over_at) as seen_at,
                   (select min(claimed_at)
                    from call_streams
                    where call_streams.call_sid = call_leases.call_sid) as began_at
            from call_leases
            where ended_at is null and offered_at < now() - interval '45 seconds'
        ),
        abandoned as (
            select open.call_sid, began_at, seen_at,
                   coalesce(handed_over_at is null and began_at + make_interval(secs => max_duration_s + 60) < now(), false)
                       as outlived
            from open
            join agents on agents.id = open.agent_id
            -- Of an offer that came late to the record the stream may have been taken by a node that is still cut off.
            where seen_at < now() - case
                      when handed_over_at is not null then interval '4 hours 5 minutes'
                      when claimed_at is null and heartbeat_at is null then interval '2 minutes'
                      else interval '10 minutes'
                  end
               or handed_over_at is null and began_at + make_interval(secs => max_duration_s + 60) < now()
               or seen_at < now() - interval '45 seconds'
                  and exists (
                      select
                      from call_events
                      where call_events.call_sid = open.call_sid
                        and call_status in ('completed', 'busy', 'failed', 'no-answer', 'canceled')
                  )
        ),
        taken as (
            select call_leases.call_sid
            from call_leases
            join abandoned using (call_sid)
            where ended_at is null
            limit $1
            for update of call_leases skip locked
        ),
        reaped as (
            update call_leases
            set fencing_token = fencing_token + 1,
                stream_token_sha256 = null
            from taken
            where call_leases.call_sid = taken.call_sid
            returning call_leases.call_sid, organization_id, agent_id, fencing_token, claimed_at, disconnect_reason,
                      handed_over_at
        ),
        noted as (
            -- A stream that never comes. The lease's own `offered_at` stays, by which it is found again if it is not ended.
            insert into call_streams (call_sid, fencing_token, organization_id)
            select call_sid, fencing_token, organization_id
            from reaped
        )
        select call_sid as "call_sid!", organization_id as "organization_id!", agent_id as "agent_id!",
               fencing_token as "fencing_token!", claimed_at is not null as "claimed!", disconnect_reason,
               handed_over_at is not null as "handed_over!", outlived as "outlived!", extract(epoch from least(seen_at, now()) - began_at)::float8 as lasted_s
        from reaped
        join abandoned using (call_sid)
        "#,
        limit,
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    rows.into_iter()
        .map(|row| {
            let told = row.disconnect_reason.as_deref().and_then(EndReason::from_word);
            let reason = match told {
                Some(reason) => reason,
                None if row.handed_over => EndReason::Transferred,
                None if row.outlived => EndReason::MaxDuration,
                None if row.claimed => EndReason::NodeLost,
                None => EndReason::StreamLost,
            };
            Ok(Abandoned {
                call_sid: decoded(CallSid::try_from(row.call_sid))?,
                organization: row.organization_id.into(),
                agent: row.agent_id.into(),
                fencing_token: FencingToken(row.fencing_token),
                reason,
                lasted: seconds(row.lasted_s),
            })
        })
        .collect()
}

/// A claimed lease as its columns are.
struct Row {
    call_sid: String,
    organization_id: uuid::Uuid,
    agent_id: uuid::Uuid,
    direction: Option<String>,
    from_number: Option<String>,
    to_number: Option<String>,
    fencing_token: i64,
    handoffs: i32,
    offered: bool,
    lasted_s: Option<f64>,
    resumed_after: Option<String>,
    now: jiff_sqlx::Timestamp,
}

impl Row {
    /// `asked`: by this machine's clock.
    fn claimed(self, asked: Timestamp) -> sqlx::Result<ClaimedCall> {
        let row = self;
        Ok(ClaimedCall {
            call_sid: decoded(CallSid::try_from(row.call_sid))?,
            organization: row.organization_id.into(),
            agent: row.agent_id.into(),
            direction: row.direction,
            from: row.from_number,
            to: row.to_number,
            fencing_token: FencingToken(row.fencing_token),
            offered: row.offered,
            lasted: seconds(row.lasted_s),
            resumed_after: row.resumed_after.as_deref().and_then(EndReason::from_word),
            handoffs: row.handoffs.unsigned_abs(),
            clock_ahead: ahead(asked, row.now.to_jiff(), Timestamp::now()),
        })
    }
}

/// How far a clock that said `asked` and `answered` is ahead of one that said `now` in between. Clocks that may agree do.
fn ahead(asked: Timestamp, now: Timestamp, answered: Timestamp) -> SignedDuration {
    let (least, most) = (asked.duration_since(now), answered.duration_since(now));
    if least.is_positive() {
        least
    } else if most.is_negative() {
        most
    } else {
        SignedDuration::ZERO
    }
}

fn seconds(value: Option<f64>) -> Duration {
    Duration::try_from_secs_f64(value.unwrap_or_default()).unwrap_or_default()
}
