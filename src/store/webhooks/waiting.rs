//! What waits to be sent to an endpoint, when somebody has decided what becomes of it.

use sqlx::PgConnection;
use uuid::Uuid;

/// Deliveries that are changed at a time: few enough to be quick.
const MOST: i64 = 10_000;

/// Has what waits sent now, as if it were the first time, because somebody says that it can be; of one call, or of all. What
/// is held back, and requests that are under way, are left alone.
pub(super) async fn go_on(
    connection: &mut PgConnection,
    endpoint: Uuid,
    call_sid: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        update webhook_deliveries
        set due_at = now(),
            round = 0
        where id in (
            select id
            from webhook_deliveries
            where endpoint_id = $1
              and status = 'pending'
              and lease is null
              and (held_until is null or held_until <= now())
              and ($2::text is null or call_sid = $2)
            order by position
            limit $3
            -- Whoever has one of them waits for the endpoint, which may be locked here.
            for no key update skip locked
        )
        "#,
        endpoint,
        call_sid,
        MOST,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives up what waits, because nothing is sent there any more: it is kept as long as what is dead, and can be sent again by
/// hand. Requests that are under way are waited for. What is more than [`MOST`] is given up soon after.
pub(super) async fn give_up(connection: &mut PgConnection, endpoint: Uuid) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        update webhook_deliveries
        set status = 'dead',
            settled_at = now(),
            held_until = null,
            lease = null
        where id in (
            select id
            from webhook_deliveries
            where endpoint_id = $1 and status = 'pending' and (lease is null or due_at <= now())
            order by position
            limit $2
            for no key update skip locked
        )
        "#,
        endpoint,
        MOST,
    )
    .execute(connection)
    .await?;
    Ok(())
}
