//! What is done now and then, by any server: gives up and deletes what nobody waits for.

use crate::store::Store;

/// Does all of it, at most `limit` deliveries at a time, until nothing is left. May be dropped at any time: what is done
/// stays done.
pub async fn all(store: &Store, limit: i64) -> sqlx::Result<()> {
    drop_secrets(store).await?;
    let most = limit.unsigned_abs();
    while give_up(store, limit).await? >= most {}
    while delete(store, limit).await? >= most {}
    while forget(store, limit).await? >= most {}
    Ok(())
}

/// Drops secrets that do not sign any more.
async fn drop_secrets(store: &Store) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        update webhook_endpoints
        set previous_secret = null,
            previous_secret_until = null
        where previous_secret_until <= now()
        "#,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    Ok(())
}

/// Gives up what still waits at endpoints that are disabled: more than could be at once, or written or under way at that
/// moment. At most `limit`; returns how many.
pub async fn give_up(store: &Store, limit: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        r#"
        update webhook_deliveries
        set status = 'dead',
            settled_at = now(),
            held_until = null,
            lease = null
        where id in (
            select delivery.id
            from webhook_endpoints endpoint
            cross join lateral (
                select id
                from webhook_deliveries
                where endpoint_id = endpoint.id and status = 'pending' and (lease is null or due_at <= now())
                limit $1
                for no key update skip locked
            ) as delivery
            where not endpoint.enabled and endpoint.deleted_at is null
            limit $1
        )
        "#,
        limit,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    Ok(done.rows_affected())
}

/// Deletes what was and was to be sent to endpoints that were removed, and then the endpoints; at most `limit` deliveries.
/// Returns how many.
pub async fn delete(store: &Store, limit: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        r#"
        delete from webhook_deliveries
        where id in (
            select delivery.id
            from webhook_endpoints endpoint
            cross join lateral (
                select id from webhook_deliveries where endpoint_id = endpoint.id limit $1 for update skip locked
            ) as delivery
            where endpoint.deleted_at is not null
            limit $1
        )
        "#,
        limit,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    // The few that are written down at this very moment go with it.
    sqlx::query!(
        r#"
        delete from webhook_endpoints
        where id in (
            select id
            from webhook_endpoints
            where deleted_at is not null
              and not exists (select from webhook_deliveries where endpoint_id = webhook_endpoints.id)
            for update skip locked
        )
        "#,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    Ok(done.rows_affected())
}

/// Deletes deliveries that were settled 30 days ago, with their attempts; at most `limit`. Returns how many.
pub async fn forget(store: &Store, limit: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        r#"
        delete from webhook_deliveries
        where id in (
            select id
            from webhook_deliveries
            where status <> 'pending' and settled_at < now() - interval '30 days'
            order by settled_at
            limit $1
            for update skip locked
        )
        "#,
        limit,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    Ok(done.rows_affected())
}
