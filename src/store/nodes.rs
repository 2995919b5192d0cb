//! Servers that share the database, so that one of them can tell whether another could take its calls over.

use crate::store::Store;

/// Shows that this server lives; done every half a minute.
pub async fn beat(store: &Store, name: &str, draining: bool) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        insert into nodes (name, draining)
        values ($1, $2)
        on conflict (name) do update
        set seen_at = now(),
            draining = excluded.draining
        "#,
        name,
        draining,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    Ok(())
}

/// Whether there is another server that takes calls: one that has shown life within a minute.
pub async fn has_others(store: &Store, name: &str) -> sqlx::Result<bool> {
    let found = sqlx::query_scalar!(
        r#"
        select exists (
            select
            from nodes
            where name <> $1 and not draining and seen_at > now() - interval '65 seconds'
        ) as "found!"
        "#,
        name,
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Ok(found)
}

/// Whether another server that takes calls has shown life since this one began to stop. One that died a moment ago, or
/// stops as well, has not.
pub async fn has_successor(store: &Store, name: &str) -> sqlx::Result<bool> {
    let found = sqlx::query_scalar!(
        r#"
        select exists (
            select
            from nodes own
            join nodes other on other.name <> own.name and not other.draining and other.seen_at > own.seen_at
            where own.name = $1 and own.draining
        ) as "found!"
        "#,
        name,
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Ok(found)
}

/// This server is about to end, and those that ended without saying so are forgotten after a day.
pub async fn leave(store: &Store, name: &str) -> sqlx::Result<()> {
    sqlx::query!("delete from nodes where name = $1 or seen_at < now() - interval '1 day'", name)
        .execute(&mut *store.connection().await?)
        .await?;
    Ok(())
}
