//! Tenants.

use jiff::Timestamp;
use serde::Serialize;

use crate::ids::OrganizationId;
use crate::store::{Store, storable};

/// A tenant.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Organisation {
    /// Id.
    #[schema(value_type = uuid::Uuid)]
    pub id: OrganizationId,
    /// Short name in addresses and settings; does not change.
    #[schema(example = "default")]
    pub slug: String,
    /// For people.
    #[schema(example = "Default organisation")]
    pub name: String,
    /// When it was added.
    pub created_at: Timestamp,
}

/// The organisation that exists after migration, for everything that names no other.
pub async fn default_organization(store: &Store) -> sqlx::Result<OrganizationId> {
    let id = sqlx::query_scalar!("select id from organisations where slug = 'default'")
        .fetch_one(&store.pool)
        .await?;
    Ok(OrganizationId(id))
}

/// One organisation.
pub async fn organisation(store: &Store, id: OrganizationId) -> sqlx::Result<Option<Organisation>> {
    let row = sqlx::query!("select id, slug, name, created_at from organisations where id = $1", id.0)
        .fetch_optional(&store.pool)
        .await?;
    Ok(row.map(|row| Organisation {
        id: row.id.into(),
        slug: row.slug,
        name: row.name,
        created_at: row.created_at.to_jiff(),
    }))
}

/// Gives it another name.
pub async fn rename(store: &Store, id: OrganizationId, name: &str) -> sqlx::Result<()> {
    sqlx::query!("update organisations set name = $2 where id = $1", id.0, storable(name))
        .execute(&store.pool)
        .await?;
    Ok(())
}
