//! What campaigns and calls are for.

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::ids::OrganizationId;
use crate::store::{Deleted, Store, storable};

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Project {
    /// Our id.
    pub id: Uuid,
    /// Name; no two of an organisation share one.
    #[schema(example = "Renewals")]
    pub name: String,
    /// Free text.
    #[schema(example = "Policies that run out this quarter.")]
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
    .fetch_one(&mut *store.connection().await?)
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
    .fetch_all(&mut *store.connection().await?)
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
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Ok(Project::from(row))
}

/// One project.
pub async fn project(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<Option<Project>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select id, name, description, created_at
        from projects
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        id,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(Project::from))
}

/// Changes what there is to change; `None` leaves it. `None` in return: no such project in this organisation. Fails by
/// `projects_name` when there is another of that name.
pub async fn update(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
    name: Option<&str>,
    description: Option<&str>,
) -> sqlx::Result<Option<Project>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        update projects
        set name = coalesce($3, name),
            description = coalesce($4, description)
        where organization_id = $1 and id = $2
        returning id, name, description, created_at
        "#,
        organization.0,
        id,
        name.map(storable),
        description.map(storable),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(Project::from))
}

/// Removes a project that no campaign is of. Calls that were made for it stay, and are for none.
pub async fn delete(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<Deleted> {
    let mut transaction = store.begin().await?;
    // Locked, so that no campaign takes it meanwhile.
    let found = sqlx::query_scalar!(
        "select id from projects where organization_id = $1 and id = $2 for update",
        organization.0,
        id,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if found.is_none() {
        return Ok(Deleted::NotFound);
    }
    let used =
        sqlx::query_scalar!(r#"select exists (select from campaigns where project_id = $1) as "used!""#, id)
            .fetch_one(&mut *transaction)
            .await?;
    if used {
        return Ok(Deleted::InUse);
    }
    sqlx::query!("delete from projects where id = $1", id).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Deleted::Done)
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
