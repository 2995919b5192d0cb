//! Offers that were made while the database was away, and are put on record when it is back.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, CallSid, OrganizationId};
use crate::store::leases::FencingToken;
use crate::store::{Store, storable};

/// Of every such offer: it is the first of its call, or it is void.
pub const TOKEN: FencingToken = FencingToken(1);

/// A call whose stream was expected, and perhaps taken, without a lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LateOffer {
    /// The call.
    pub call_sid: CallSid,
    /// Whose it is.
    pub organization: OrganizationId,
    /// Who answers.
    pub agent: AgentId,
    /// The carrier's word: `inbound`, `outbound-api`, `outbound-dial`.
    pub direction: Option<String>,
    /// As the carrier sent it; need not be a number.
    pub from: Option<String>,
    /// As the carrier sent it; need not be a number.
    pub to: Option<String>,
    /// SHA-256 of the one-time secret in the stream's address.
    pub token_sha256: [u8; 32],
    /// Who keeps it: the node that was asked, or the one that has taken the stream.
    pub node: String,
    /// When it was offered.
    pub offered_at: Timestamp,
    /// When its stream came.
    pub claimed_at: Option<Timestamp>,
}

/// Gives the call its lease. May be repeated at will. False: somebody else was given the call, and this offer is void.
///
/// The node that was asked keeps the offer, and so does the one that took its stream: in whatever order they put it on
/// record, it is taken. Of two that took it the first on record has the call. An offer that nobody has taken gives way to
/// another one: it is the one whose answer did not reach the carrier any more. Where the call has been given away since,
/// what was said before that still counts, and the stream is on record as taken.
pub async fn record(store: &Store, offer: &LateOffer) -> sqlx::Result<bool> {
    // Whoever waits for another's write decides by what was there before it, or fails where both bring the same secret. A
    // second look sees it.
    match record_once(store, offer).await {
        Ok(false) => record_once(store, offer).await,
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => record_once(store, offer).await,
        result => result,
    }
}

async fn record_once(store: &Store, offer: &LateOffer) -> sqlx::Result<bool> {
    let taken = sqlx::query_scalar!(
        r#"
        with offered as (
            insert into call_leases (call_sid, organization_id, agent_id, direction, from_number, to_number,
                                     fencing_token, stream_token_sha256, node, offered_at, claimed_at, heartbeat_at)
            -- Whoever has taken it may still have to say so: until then it counts as just offered.
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::timestamptz, now())
            on conflict (call_sid) do update
            set agent_id = excluded.agent_id,
                stream_token_sha256 = excluded.stream_token_sha256,
                node = coalesce(excluded.node, call_leases.node),
                offered_at = excluded.offered_at,
                claimed_at = coalesce(excluded.claimed_at, call_leases.claimed_at),
                heartbeat_at = case
                    when call_leases.claimed_at is not null and excluded.claimed_at is null then call_leases.heartbeat_at
                    else now()
                end
            where call_leases.organization_id = excluded.organization_id
              and call_leases.fencing_token = excluded.fencing_token
              and ((call_leases.stream_token_sha256 = excluded.stream_token_sha256
                    and coalesce(call_leases.node = excluded.node, true))
                   or (call_leases.claimed_at is null and call_leases.ended_at is null))
            returning call_sid, fencing_token, organization_id, node, offered_at, claimed_at
        ),
        noted as (
            insert into call_streams (call_sid, fencing_token, organization_id, node, offered_at, claimed_at)
            select call_sid, fencing_token, organization_id, node, offered_at, claimed_at
            from offered
            on conflict (call_sid, fencing_token) do update
            set node = excluded.node,
                offered_at = excluded.offered_at,
                claimed_at = excluded.claimed_at
            returning call_sid
        ),
        -- Known by its very moment: the secret of a call that was given away is not kept.
        given_away as (
            update call_streams
            set node = coalesce(call_streams.node, $9),
                claimed_at = coalesce(call_streams.claimed_at, $11)
            where call_streams.call_sid = $1
              and call_streams.organization_id = $2
              and call_streams.fencing_token = $7
              and call_streams.offered_at = $10
              and coalesce(call_streams.node = $9, true)
              and not exists (select from offered)
              and exists (
                  select
                  from call_leases
                  where call_leases.call_sid = $1 and call_leases.fencing_token > $7
              )
            returning call_sid
        )
        select true as "taken!" from noted
        union all
        select true from given_away
        "#,
        offer.call_sid.as_str(),
        offer.organization.0,
        offer.agent.0,
        offer.direction.as_deref().map(storable),
        offer.from.as_deref().map(storable),
        offer.to.as_deref().map(storable),
        TOKEN.0,
        &offer.token_sha256,
        offer.claimed_at.map(|_| offer.node.as_str()),
        offer.offered_at.to_sqlx() as _,
        offer.claimed_at.map(ToSqlx::to_sqlx) as _,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(taken.is_some())
}
