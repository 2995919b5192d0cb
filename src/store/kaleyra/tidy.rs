//! What is done now and then, by any server: deletes runs that nobody asks for any more.

use crate::store::Store;

/// Deletes runs that ended more than ninety days ago, at most `limit` at a time, until none is left. Of each organisation the
/// one stays by which scheduled syncs know what is on record. May be dropped at any time: what is done stays done.
pub async fn all(store: &Store, limit: i64) -> sqlx::Result<()> {
    while delete(store, limit).await? >= limit.unsigned_abs() {}
    Ok(())
}

async fn delete(store: &Store, limit: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        r#"
        delete from kaleyra_syncs
        where id in (
            select run.id
            from kaleyra_syncs as run
            where run.finished_at < now() - interval '90 days'
              and run.id <> (
                  select kept.id
                  from kaleyra_syncs as kept
                  where kept.organization_id = run.organization_id
                  order by kept.whole_to desc nulls last,
                           kept.status = 'completed'
                           or kept.first_day > (kept.started_at at time zone 'Asia/Kolkata')::date - 366 desc,
                           kept.started_at,
                           kept.id
                  limit 1
              )
            limit $1
        )
        "#,
        limit,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    Ok(done.rows_affected())
}
