//! What VAPI shows with the reports of an organisation's calls.

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::ids::OrganizationId;
use crate::store::Store;

/// A secret that VAPI may show. The secret itself is not kept.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct VapiAccount {
    /// Our id.
    pub id: Uuid,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Accounts of the organisation, newest first, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<VapiAccount>, u64)> {
    let mut connection = store.connection().await?;
    let total = sqlx::query_scalar!(
        r#"select count(*) as "count!" from vapi_accounts where organization_id = $1"#,
        organization.0
    )
    .fetch_one(&mut *connection)
    .await?;
    let rows = sqlx::query!(
        r#"
        select id, created_at
        from vapi_accounts
        where organization_id = $1
        order by created_at desc, id
        limit $2
        offset $3
        "#,
        organization.0,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *connection)
    .await?;
    let accounts =
        rows.into_iter().map(|row| VapiAccount { id: row.id, created_at: row.created_at.to_jiff() });
    Ok((accounts.collect(), total.unsigned_abs()))
}

/// Adds an account. `secret_sha256`: of what VAPI is to show.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    secret_sha256: &[u8; 32],
) -> sqlx::Result<VapiAccount> {
    let row = sqlx::query!(
        r#"
        insert into vapi_accounts (organization_id, secret_sha256)
        values ($1, $2)
        returning id, created_at
        "#,
        organization.0,
        &secret_sha256[..],
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Ok(VapiAccount { id: row.id, created_at: row.created_at.to_jiff() })
}

/// Removes an account: what comes with its secret is refused from then on. False: no such account in this organisation.
pub async fn delete(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<bool> {
    let done =
        sqlx::query!("delete from vapi_accounts where organization_id = $1 and id = $2", organization.0, id,)
            .execute(&mut *store.connection().await?)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Whose secret this is. It is looked for by its digest, from which nothing can be learned of how near a guess was.
pub async fn organization_of(
    store: &Store,
    secret_sha256: &[u8; 32],
) -> sqlx::Result<Option<OrganizationId>> {
    let id = sqlx::query_scalar!(
        "select organization_id from vapi_accounts where secret_sha256 = $1",
        &secret_sha256[..],
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(id.map(OrganizationId))
}

/// Whether any organisation has an account.
pub async fn is_any(store: &Store) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"select exists (select from vapi_accounts) as "is!""#)
        .fetch_one(&mut *store.connection().await?)
        .await
}
