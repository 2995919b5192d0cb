//! What was said in a call, as its report has it.

use sqlx::postgres::PgConnection;

use super::Turn;
use crate::ids::{CallSid, OrganizationId};
use crate::store::storable_json;

/// Has the turns of a report that are named by VAPI's id be those of the call by the carrier's, in the place of others.
pub async fn rename_turns(
    connection: &mut PgConnection,
    organization: OrganizationId,
    vapi: &CallSid,
    carrier: &CallSid,
) -> sqlx::Result<()> {
    remove_turns(connection, organization, carrier).await?;
    sqlx::query!(
        r#"
        update conversation_transcripts
        set call_sid = $3
        where organization_id = $1 and call_sid = $2 and item_id like 'vapi:%'
        "#,
        organization.0,
        vapi.as_str(),
        carrier.as_str(),
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
