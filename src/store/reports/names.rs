//! Which call a report is about: VAPI and the carrier call it differently, and one of the two names may come later.

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::{Change, Report};
use crate::ids::{CallSid, OrganizationId};
use crate::store::{calls, storable_json, stored_call_sid};

/// The names of a call: one of the two is always there.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// VAPI's.
    pub vapi: Option<CallSid>,
    /// The carrier's.
    pub carrier: Option<CallSid>,
}

impl Names {
    /// What the call is called in our records: the carrier's id, or VAPI's where none is known.
    #[must_use]
    pub fn name(&self) -> Option<&CallSid> {
        self.carrier.as_ref().or(self.vapi.as_ref())
    }

    pub(super) fn vapi(&self) -> Option<&str> {
        self.vapi.as_ref().map(CallSid::as_str)
    }

    pub(super) fn carrier(&self) -> Option<&str> {
        self.carrier.as_ref().map(CallSid::as_str)
    }
}

/// Has all who change the records of this call wait for each other, by whichever of its names they know it, and returns
/// both names. VAPI's is always locked first; what it is called by the carrier may be known of an earlier report only.
pub async fn lock(connection: &mut PgConnection, report: &Report) -> sqlx::Result<Names> {
    let mut names = Names { vapi: report.vapi_call_id.clone(), carrier: report.call_sid.clone() };
    if let Some(vapi) = &names.vapi {
        calls::lock(connection, vapi).await?;
        if let Some(known) = carriers_name(connection, vapi).await? {
            names.carrier = Some(known);
        }
    }
    if let Some(carrier) = &names.carrier {
        calls::lock(connection, carrier).await?;
    }
    Ok(names)
}

/// What the carrier calls the call that is this one at VAPI, where that is on record.
pub async fn carriers_name(connection: &mut PgConnection, vapi: &CallSid) -> sqlx::Result<Option<CallSid>> {
    let known = sqlx::query_scalar!(
        "select call_sid from vapi_calls join calls on id = call_id where vapi_call_id = $1",
        vapi.as_str()
    )
    .fetch_optional(connection)
    .await?;
    stored_call_sid(known.flatten())
}

/// Whether somebody else has a call of one of these names.
pub async fn is_of_others(
    connection: &mut PgConnection,
    organization: OrganizationId,
    names: &Names,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"
        select exists (select from calls where call_sid = $2 and organization_id <> $1)
            or exists (select from vapi_calls where vapi_call_id = $3 and organization_id <> $1)
            or coalesce(organization_of_call($2), $1) <> $1
            or coalesce(organization_of_call($3), $1) <> $1 as "is!"
        "#,
        organization.0,
        names.carrier(),
        names.vapi(),
    )
    .fetch_one(connection)
    .await
}

/// The call goes by the carrier's id from now on; whoever was told of it by VAPI's goes on being told of the same.
pub async fn name_by_carrier(
    connection: &mut PgConnection,
    id: Uuid,
    carrier: &CallSid,
    change: Change,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        update calls
        set call_sid = $2,
            event_sequence = coalesce($3, event_sequence),
            data = $4
        where id = $1
        "#,
        id,
        carrier.as_str(),
        change.event_sequence.map(storable_json),
        storable_json(change.data),
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("update vapi_calls set told_by_vapi_id = true where call_id = $1", id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Has what names a call by VAPI's id name it by the carrier's. Where there is such a record by the carrier's id already,
/// that stands: it is made to say what is known. The turns are for [`super::rename_turns`].
pub async fn rename(
    connection: &mut PgConnection,
    organization: OrganizationId,
    vapi: &CallSid,
    carrier: &CallSid,
) -> sqlx::Result<()> {
    let (organization, vapi, carrier) = (organization.0, vapi.as_str(), carrier.as_str());
    sqlx::query!("select rename_told_call($1, $2, $3)", organization, vapi, carrier)
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "update audit_log set call_sid = $3 where organization_id = $1 and call_sid = $2",
        organization,
        vapi,
        carrier,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        r#"
        delete from call_logs
        where organization_id = $1
          and call_sid = $2
          and exists (select from call_logs other where other.call_sid = $3)
        "#,
        organization,
        vapi,
        carrier,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update call_logs set call_sid = $3 where organization_id = $1 and call_sid = $2",
        organization,
        vapi,
        carrier,
    )
    .execute(&mut *connection)
    .await?;
    // The lead was linked before, and that was told.
    sqlx::query!("select set_config('app.renames_call', 'on', true)").fetch_one(&mut *connection).await?;
    sqlx::query!(
        r#"
        update leads
        set call_sid = case when not exists (select from leads other where other.call_sid = $3::text) then $3::text end,
            updated_at = now()
        where organization_id = $1 and call_sid = $2
        "#,
        organization,
        vapi,
        carrier,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("select set_config('app.renames_call', '', true)").fetch_one(&mut *connection).await?;
    sqlx::query!(
        r#"
        update interactions
        set call_sid = case when not exists (select from interactions other where other.call_sid = $3::text) then $3::text end,
            "updatedAt" = now()
        where organization_id = $1 and call_sid = $2
        "#,
        organization,
        vapi,
        carrier,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Of a call that two records were kept of, told by both of its names: what was begun to be sent by VAPI's id goes on as
/// it is, and is not told by the carrier's as well; what nobody has been told yet is told by the carrier's alone. For the
/// time after [`rename`].
pub async fn tell_once(
    connection: &mut PgConnection,
    organization: OrganizationId,
    carrier: &CallSid,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        delete from webhook_deliveries
        where organization_id = $1
          and call_sid = $2
          and also_id is not null
          and status = 'pending'
          and attempts = 0
          -- The records of the call do not tell of its lead.
          and event_type <> 'lead.linked'
        "#,
        organization.0,
        carrier.as_str(),
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        r#"
        delete from webhook_deliveries
        where organization_id = $1
          and call_sid = $2
          and status = 'pending'
          and attempts = 0
          and exists (
              select
              from webhook_deliveries other
              where other.endpoint_id = webhook_deliveries.endpoint_id and other.also_id = webhook_deliveries.event_id
          )
        "#,
        organization.0,
        carrier.as_str(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether the organisation has erased the call, by either of its names: it puts nothing on record of it any more.
pub async fn is_erased(
    connection: &mut PgConnection,
    organization: OrganizationId,
    names: &Names,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"
        select exists (
            select
            from unnest(array[$2::text, $3::text]) as name
            where name is not null and call_is_erased(name, $1)
        ) as "is!"
        "#,
        organization.0,
        names.vapi(),
        names.carrier(),
    )
    .fetch_one(connection)
    .await
}
