//! Tenants.

use crate::ids::OrganizationId;
use crate::store::Store;

/// The organisation that exists after migration, for everything that names no other.
pub async fn default_organization(store: &Store) -> sqlx::Result<OrganizationId> {
    let id = sqlx::query_scalar!("select id from organisations where slug = 'default'")
        .fetch_one(&store.pool)
        .await?;
    Ok(OrganizationId(id))
}
