//! What campaigns and calls are for.

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::ids::OrganizationId;
use crate::store::{Store, storable};

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Project {
    /// Our id.
    pub id: Uuid,
    /// Name; no two of an organisation share one.
    pub name: String,
    /// Free text.
    pub description: String,
    /// When it was added.
    pub created_at: Timestamp,
}

/// Projects of the organisation by name, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<Project>, u64)> {
    let total = sqlx::query_scalar!(
        r#"select count(*) as "count!" from projects where organization_id = $1"#,
        organization.0
    )
    .fetch_one(&store.pool)
    .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id, name, description, created_at
        from projects
        where organization_id = $1
        order by name
        limit $2
        offset $3
        "#,
        organization.0,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&store.pool)
    .await?;
    Ok((rows.into_iter().map(Project::from).collect(), total.unsigned_abs()))
}

/// Adds a project. Fails by `projects_name` when there is one of that name.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    name: &str,
    description: &str,
) -> sqlx::Result<Project> {
    let row = sqlx::query_as!(
        Row,
        r#"
        insert into projects (organization_id, name, description)
        values ($1, $2, $3)
        returning id, name, description, created_at
        "#,
        organization.0,
        storable(name),
        storable(description),
    )
    .fetch_one(&store.pool)
    .await?;
    Ok(Project::from(row))
}

/// A project as its columns are.
struct Row {
    id: Uuid,
    name: String,
    description: String,
    created_at: jiff_sqlx::Timestamp,
}

impl From<Row> for Project {
    fn from(row: Row) -> Self {
        let Row { id, name, description, created_at } = row;
        Self { id, name, description, created_at: created_at.to_jiff() }
    }
}
