//! Tenants.

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::ids::OrganizationId;
use crate::store::{Deleted, Store, storable};

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
        .fetch_one(&mut *store.connection().await?)
        .await?;
    Ok(OrganizationId(id))
}

/// The organisation of this slug or id.
pub async fn by_slug_or_id(store: &Store, slug_or_id: &str) -> sqlx::Result<Option<OrganizationId>> {
    let id = sqlx::query_scalar!(
        "select id from organisations where slug = $1 or id::text = lower($1)",
        storable(slug_or_id)
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(id.map(OrganizationId))
}

/// All organisations, by slug: for what is done for each of them.
pub async fn all(store: &Store) -> sqlx::Result<Vec<(String, OrganizationId)>> {
    let rows = sqlx::query!("select slug, id from organisations order by slug")
        .fetch_all(&mut *store.connection().await?)
        .await?;
    Ok(rows.into_iter().map(|row| (row.slug, OrganizationId(row.id))).collect())
}

/// Organisations by name, and how many there are in all.
pub async fn list(store: &Store, limit: u32, offset: u64) -> sqlx::Result<(Vec<Organisation>, u64)> {
    let total = sqlx::query_scalar!(r#"select count(*) as "count!" from organisations"#)
        .fetch_one(&mut *store.connection().await?)
        .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id, slug, name, created_at
        from organisations
        order by name, id
        limit $1
        offset $2
        "#,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    Ok((rows.into_iter().map(Organisation::from).collect(), total.unsigned_abs()))
}

/// One organisation.
pub async fn organisation(store: &Store, id: Uuid) -> sqlx::Result<Option<Organisation>> {
    let row = sqlx::query_as!(Row, "select id, slug, name, created_at from organisations where id = $1", id)
        .fetch_optional(&mut *store.connection().await?)
        .await?;
    Ok(row.map(Organisation::from))
}

/// Adds an organisation, which has nothing yet. Fails by `organisations_slug` when there is one of that slug.
pub async fn create(store: &Store, slug: &str, name: &str) -> sqlx::Result<Organisation> {
    let row = sqlx::query_as!(
        Row,
        r#"
        insert into organisations (slug, name)
        values ($1, $2)
        returning id, slug, name, created_at
        "#,
        storable(slug),
        storable(name),
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Ok(Organisation::from(row))
}

/// Changes the name, where there is one. `None`: no such organisation.
pub async fn update(store: &Store, id: Uuid, name: Option<&str>) -> sqlx::Result<Option<Organisation>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        update organisations
        set name = coalesce($2, name)
        where id = $1
        returning id, slug, name, created_at
        "#,
        id,
        name.map(storable),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(Organisation::from))
}

/// Removes an organisation that has nothing: what it has would go with it.
pub async fn delete(store: &Store, id: Uuid) -> sqlx::Result<Deleted> {
    let mut transaction = store.begin().await?;
    // Locked, so that nothing is added to it meanwhile.
    let found = sqlx::query_scalar!("select id from organisations where id = $1 for update", id)
        .fetch_optional(&mut *transaction)
        .await?;
    if found.is_none() {
        return Ok(Deleted::NotFound);
    }
    if has_anything(&mut transaction, id).await? {
        return Ok(Deleted::InUse);
    }
    sqlx::query!("delete from organisations where id = $1", id).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Deleted::Done)
}

/// Whether any table names it, each of them asked for itself: a test knows them all.
async fn has_anything(transaction: &mut sqlx::PgConnection, id: Uuid) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"
        select exists (select from agents where organization_id = $1)
            or exists (select from phone_numbers where organization_id = $1)
            or exists (select from teams where organization_id = $1)
            or exists (select from team_members where organization_id = $1)
            or exists (select from schedules where organization_id = $1)
            or exists (select from schedule_spans where organization_id = $1)
            or exists (select from schedule_holidays where organization_id = $1)
            or exists (select from projects where organization_id = $1)
            or exists (select from campaigns where organization_id = $1)
            or exists (select from leads where organization_id = $1)
            or exists (select from do_not_call where organization_id = $1)
            or exists (select from call_queue where organization_id = $1)
            or exists (select from call_attempts where organization_id = $1)
            or exists (select from interactions where organization_id = $1)
            or exists (select from calls where organization_id = $1)
            or exists (select from call_briefs where organization_id = $1)
            or exists (select from vapi_calls where organization_id = $1)
            or exists (select from call_events where organization_id = $1)
            or exists (select from call_leases where organization_id = $1)
            or exists (select from call_streams where organization_id = $1)
            or exists (select from call_commands where organization_id = $1)
            or exists (select from call_logs where organization_id = $1)
            or exists (select from agent_calls where organization_id = $1)
            or exists (select from conversation_transcripts where organization_id = $1)
            or exists (select from webhook_endpoints where organization_id = $1)
            or exists (select from webhook_deliveries where organization_id = $1)
            or exists (select from webhook_attempts where organization_id = $1)
            or exists (select from routing_decisions where organization_id = $1)
            or exists (select from ivr_providers where organization_id = $1)
            or exists (select from ivr_calls where organization_id = $1)
            or exists (select from ivr_messages where organization_id = $1)
            or exists (select from vapi_accounts where organization_id = $1)
            or exists (select from api_keys where organization_id = $1)
            or exists (select from api_key_secrets where organization_id = $1)
            or exists (select from audit_log where organization_id = $1)
            or exists (select from kaleyra_call_logs where organization_id = $1)
            or exists (select from kaleyra_syncs where organization_id = $1)
            or exists (select from retention_policies where organization_id = $1)
            or exists (select from retention_runs where organization_id = $1)
            or exists (select from erasures where organization_id = $1)
            or exists (select from erased_calls where organization_id = $1) as "has_anything!"
        "#,
        id,
    )
    .fetch_one(&mut *transaction)
    .await
}

/// An organisation as its columns are.
struct Row {
    id: Uuid,
    slug: String,
    name: String,
    created_at: jiff_sqlx::Timestamp,
}

impl From<Row> for Organisation {
    fn from(row: Row) -> Self {
        let Row { id, slug, name, created_at } = row;
        Self { id: id.into(), slug, name, created_at: created_at.to_jiff() }
    }
}
