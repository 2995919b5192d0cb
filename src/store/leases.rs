//! Which node carries a call now, and what becomes of the call when its stream ends.
//!
//! Every offer of a call raises its fencing token. Whoever holds a smaller one is late: what it writes changes nothing.

use std::fmt;

use crate::call::end::{EndReason, NextStep};
use crate::ids::{AgentId, CallSid, OrganizationId};
use crate::store::{Store, decoded, storable};

/// Grows with every offer of a call; the highest is the one that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
}

/// What is known of a call after its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AfterStream {
    /// Whose it is.
    pub organization: OrganizationId,
    /// Who answered.
    pub agent: AgentId,
    /// The right to write about the call, as it stands now.
    pub fencing_token: FencingToken,
    /// Whether the stream of the latest offer has come.
    pub claimed: bool,
    /// What the carrier is told; `None` when nobody has decided, because the node died.
    pub next_action: Option<NextStep>,
    /// Why the call ended, as stored.
    pub disconnect_reason: Option<String>,
}

/// Expects the stream of a call. Each further offer of the same call makes all before it void.
///
/// `None`: the call belongs to another organisation.
pub async fn offer(store: &Store, offer: &Offer<'_>) -> sqlx::Result<Option<FencingToken>> {
    let token = sqlx::query_scalar!(
        r#"
        insert into call_leases (call_sid, organization_id, agent_id, direction, from_number, to_number, fencing_token,
                                 stream_token_sha256)
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
            ended_at = null
        where call_leases.organization_id = excluded.organization_id
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
    .fetch_optional(&store.pool)
    .await?;
    Ok(token.map(FencingToken))
}

/// Takes the call whose stream has come with this secret. Only one caller ever gets it, and only within ten minutes of
/// the offer: TwiML is acted upon at once.
pub async fn claim(store: &Store, token_sha256: &[u8; 32], node: &str) -> sqlx::Result<Option<ClaimedCall>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        update call_leases
        set node = $2,
            claimed_at = now(),
            heartbeat_at = now()
        where stream_token_sha256 = $1
          and claimed_at is null
          and ended_at is null
          and offered_at > now() - interval '10 minutes'
        returning call_sid, organization_id, agent_id, direction, from_number, to_number, fencing_token
        "#,
        token_sha256,
        node,
    )
    .fetch_optional(&store.pool)
    .await?;
    row.map(ClaimedCall::try_from).transpose()
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
    // The conditions are those of `call_is_live`, on the row itself: a function would not see what a rival has just written.
    let row = sqlx::query_as!(
        Row,
        r#"
        insert into call_leases (call_sid, organization_id, agent_id, fencing_token, node, claimed_at, heartbeat_at)
        values ($1, $2, $3, 1, $4, now(), now())
        on conflict (call_sid) do update
        set agent_id = excluded.agent_id,
            fencing_token = call_leases.fencing_token + 1,
            stream_token_sha256 = null,
            node = excluded.node,
            offered_at = now(),
            claimed_at = now(),
            heartbeat_at = now(),
            next_action = null,
            disconnect_reason = null,
            ended_at = null
        where call_leases.organization_id = excluded.organization_id
          and (call_leases.ended_at is not null
               or greatest(call_leases.offered_at, call_leases.heartbeat_at) <= now() - interval '2 minutes')
        returning call_sid, organization_id, agent_id, direction, from_number, to_number, fencing_token
        "#,
        call_sid.as_str(),
        organization.0,
        agent.0,
        node,
    )
    .fetch_optional(&store.pool)
    .await?;
    row.map(ClaimedCall::try_from).transpose()
}

/// Shows that calls are still carried; done every 15 s, good for two minutes. Returns those that are ours: a call that is
/// missing is carried by somebody else now, or has ended.
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
    .fetch_all(&store.pool)
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
    .execute(&store.pool)
    .await?;
    Ok(updated.rows_affected() == 1)
}

/// What to tell the carrier that asks after the stream. `None`: we never carried this call.
pub async fn next_action(store: &Store, call_sid: &CallSid) -> sqlx::Result<Option<AfterStream>> {
    let row = sqlx::query!(
        r#"
        select organization_id, agent_id, fencing_token, claimed_at is not null as "claimed!", next_action,
               disconnect_reason
        from call_leases
        where call_sid = $1
        "#,
        call_sid.as_str(),
    )
    .fetch_optional(&store.pool)
    .await?;
    Ok(row.map(|row| AfterStream {
        organization: row.organization_id.into(),
        agent: row.agent_id.into(),
        fencing_token: FencingToken(row.fencing_token),
        claimed: row.claimed,
        next_action: row.next_action.as_deref().and_then(NextStep::from_word),
        disconnect_reason: row.disconnect_reason,
    }))
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
}

impl TryFrom<Row> for ClaimedCall {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> sqlx::Result<Self> {
        Ok(Self {
            call_sid: decoded(CallSid::try_from(row.call_sid))?,
            organization: row.organization_id.into(),
            agent: row.agent_id.into(),
            direction: row.direction,
            from: row.from_number,
            to: row.to_number,
            fencing_token: FencingToken(row.fencing_token),
        })
    }
}
