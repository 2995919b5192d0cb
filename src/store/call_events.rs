//! What the carrier told us about calls: one row per callback.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::PgConnection;

use crate::ids::{CallSid, OrganizationId};
use crate::store::{Store, storable, storable_json};

/// One callback of the carrier.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CarrierEvent {
    /// Whose call it is; `None` leaves that to the records there are of the call when this is written down.
    pub organization: Option<OrganizationId>,
    /// The call.
    pub call_sid: CallSid,
    /// The carrier's word, such as `ringing`; `None` where the callback is about something else.
    pub call_status: Option<String>,
    /// As sent.
    pub to: Option<String>,
    /// As sent.
    pub from: Option<String>,
    /// `inbound`, `outbound-api`, `outbound-dial`.
    pub direction: Option<String>,
    /// Seconds, once the call is over.
    pub duration_s: Option<u32>,
    /// The carrier's count of callbacks of this call; `None` for kinds that are not counted.
    pub sequence_number: Option<u32>,
    /// When it happened, by the carrier's clock.
    pub event_time: Option<Timestamp>,
    /// SIP answer of a call that did not come about.
    pub sip_response_code: Option<u16>,
    /// Who answered: `human`, `machine_start`, ….
    pub answered_by: Option<String>,
    /// All parameters of the callback.
    pub payload: Value,
}

/// Writes the callback down. False: it had been written before, and nothing was changed. A call of which nothing is known
/// is the default organisation's.
pub async fn record(store: &Store, event: &CarrierEvent) -> sqlx::Result<bool> {
    let mut connection = store.connection().await?;
    note(&mut connection, event, Timestamp::now()).await
}

/// As [`record`], of a callback that came at `came_at`.
pub async fn note(
    connection: &mut PgConnection,
    event: &CarrierEvent,
    came_at: Timestamp,
) -> sqlx::Result<bool> {
    let text = |value: &Option<String>| value.as_deref().map(storable);
    let inserted = sqlx::query!(
        r#"
        insert into call_events (organization_id, call_sid, call_status, to_number, from_number, direction, duration,
                                 sequence_number, event_time, sip_response_code, answered_by, payload, created_at)
        values (coalesce($1, organization_of_call($2::text), (select id from organisations where slug = 'default')),
                -- Of clocks that differ the database's is the one that everything else here goes by.
                $2::text, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, least($13::timestamptz, now()))
        on conflict do nothing
        "#,
        event.organization.map(|organization| organization.0),
        event.call_sid.as_str(),
        text(&event.call_status),
        text(&event.to),
        text(&event.from),
        text(&event.direction),
        event.duration_s.map(|seconds| i32::try_from(seconds).unwrap_or(i32::MAX)),
        event.sequence_number.map(|number| i32::try_from(number).unwrap_or(i32::MAX)),
        event.event_time.map(ToSqlx::to_sqlx) as _,
        event.sip_response_code.map(i32::from),
        text(&event.answered_by),
        storable_json(event.payload.clone()),
        came_at.to_sqlx() as _,
    )
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}
