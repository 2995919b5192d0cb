//! Keys of the API, and the secrets they are known by.

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use uuid::Uuid;

use crate::ids::OrganizationId;
use crate::keys::{KeyPrint, Scope};
use crate::store::{Store, storable};

/// A key, without its secret.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ApiKey {
    /// Our id.
    pub id: Uuid,
    /// Who or what has it, for people.
    #[schema(example = "crm import")]
    pub name: String,
    /// How its secret begins.
    #[schema(example = "vb_4fz1k0q8w2ma")]
    pub prefix: String,
    /// What it may do. `admin` is everything, and each of them includes `read`.
    pub scopes: Vec<Scope>,
    /// Most requests a minute to one server.
    #[schema(example = 600)]
    pub requests_per_minute: i32,
    /// Who made it.
    #[schema(example = "administrator")]
    pub created_by: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it is taken no more; null is never.
    pub expires_at: Option<Timestamp>,
    /// When it was last shown, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// What is to be known of a new key.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Who or what has it.
    pub name: String,
    /// What it may do; not empty.
    pub scopes: Vec<Scope>,
    /// Most requests a minute to one server.
    pub requests_per_minute: i32,
    /// When it is taken no more.
    pub expires_at: Option<Timestamp>,
    /// Who makes it.
    pub created_by: String,
}

/// What to change of a key. `None` leaves a member as it is; `Some(None)` empties it.
#[derive(Debug, Clone, Default)]
pub struct KeyPatch {
    /// Who or what has it.
    pub name: Option<String>,
    /// What it may do; not empty.
    pub scopes: Option<Vec<Scope>>,
    /// Most requests a minute to one server.
    pub requests_per_minute: Option<i32>,
    /// When it is taken no more.
    pub expires_at: Option<Option<Timestamp>>,
}

/// A key that somebody shows, and that holds.
#[derive(Debug, Clone)]
pub struct ShownKey {
    /// Its id.
    pub id: Uuid,
    /// Whose records it shows.
    pub organization: OrganizationId,
    /// Who or what has it.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// Most requests a minute to one server.
    pub requests_per_minute: u32,
}

/// What came of a rotation or a change.
#[derive(Debug, Clone, PartialEq)]
pub enum Changed {
    /// The key as it is now.
    Done(Box<ApiKey>),
    /// There is no such key in this organisation.
    NotFound,
    /// It was revoked, and stays so.
    Revoked,
}

/// Keys, newest first, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<ApiKey>, u64)> {
    let mut connection = store.connection().await?;
    let total = sqlx::query_scalar!(
        r#"select count(*) as "count!" from api_keys where organization_id = $1"#,
        organization.0
    )
    .fetch_one(&mut *connection)
    .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id,
               name,
               scopes,
               requests_per_minute,
               created_by,
               created_at,
               expires_at,
               last_used_at,
               revoked_at,
               (select prefix from api_key_secrets where key_id = id order by created_at desc, prefix limit 1) as "prefix!"
        from api_keys
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
    Ok((rows.into_iter().map(ApiKey::from).collect(), total.unsigned_abs()))
}

/// One key.
pub async fn key(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<Option<ApiKey>> {
    one(&mut *store.connection().await?, organization, id).await
}

/// Adds a key with the secret of this print.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    new: &NewKey,
    print: &KeyPrint,
) -> sqlx::Result<ApiKey> {
    let mut work = store.begin().await?;
    let id = sqlx::query_scalar!(
        r#"
        insert into api_keys (organization_id, name, scopes, requests_per_minute, expires_at, created_by)
        values ($1, $2, $3, $4, $5, $6)
        returning id
        "#,
        organization.0,
        storable(&new.name),
        &words(&new.scopes),
        new.requests_per_minute,
        new.expires_at.map(ToSqlx::to_sqlx) as _,
        storable(&new.created_by),
    )
    .fetch_one(&mut *work)
    .await?;
    add_secret(&mut work, organization, id, print).await?;
    let key = one(&mut work, organization, id).await?.ok_or(sqlx::Error::RowNotFound)?;
    work.commit().await?;
    Ok(key)
}

/// Changes a key that was not revoked.
pub async fn update(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
    patch: &KeyPatch,
) -> sqlx::Result<Changed> {
    let mut work = store.begin().await?;
    let scopes = patch.scopes.as_ref().map(|scopes| words(scopes));
    sqlx::query!(
        r#"
        update api_keys
        set name = coalesce($3, name),
            scopes = coalesce($4, scopes),
            requests_per_minute = coalesce($5, requests_per_minute),
            expires_at = case when $6 then $7 else expires_at end
        where organization_id = $1 and id = $2 and revoked_at is null
        "#,
        organization.0,
        id,
        patch.name.as_ref().map(storable),
        scopes.as_deref(),
        patch.requests_per_minute,
        patch.expires_at.is_some(),
        patch.expires_at.flatten().map(ToSqlx::to_sqlx) as _,
    )
    .execute(&mut *work)
    .await?;
    let key = one(&mut work, organization, id).await?;
    work.commit().await?;
    Ok(changed(key))
}

/// Gives a key another secret. The one it had is taken for `grace` more, so that whoever has it can be told the new one.
pub async fn rotate(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
    print: &KeyPrint,
    grace: SignedDuration,
) -> sqlx::Result<Changed> {
    let mut work = store.begin().await?;
    let held = sqlx::query_scalar!(
        "select id from api_keys where organization_id = $1 and id = $2 and revoked_at is null for update",
        organization.0,
        id,
    )
    .fetch_optional(&mut *work)
    .await?;
    if held.is_some() {
        // Secrets of an earlier rotation do not come to new life.
        sqlx::query!(
            r#"
            update api_key_secrets
            set expires_at = least(expires_at, clock_timestamp() + make_interval(secs => $2))
            where key_id = $1
            "#,
            id,
            grace.as_secs_f64(),
        )
        .execute(&mut *work)
        .await?;
        sqlx::query!(
            "delete from api_key_secrets where key_id = $1 and expires_at < clock_timestamp() - interval '1 day'",
            id
        )
        .execute(&mut *work)
        .await?;
        add_secret(&mut work, organization, id, print).await?;
    }
    let key = one(&mut work, organization, id).await?;
    work.commit().await?;
    Ok(changed(key))
}

/// Takes a key out of use for good, from the next request on. `None`: there is no such key. Twice is as good as once.
pub async fn revoke(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<Option<ApiKey>> {
    let mut work = store.begin().await?;
    sqlx::query!(
        r#"
        update api_keys
        set revoked_at = coalesce(revoked_at, clock_timestamp())
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        id,
    )
    .execute(&mut *work)
    .await?;
    let key = one(&mut work, organization, id).await?;
    work.commit().await?;
    Ok(key)
}

/// The key of the secret of this print, if it holds now, whichever organisation's it is.
pub async fn shown(store: &Store, print: &KeyPrint) -> sqlx::Result<Option<ShownKey>> {
    let row = sqlx::query!(
        r#"
        select api_keys.id,
               api_keys.organization_id,
               api_keys.name,
               api_keys.scopes,
               api_keys.requests_per_minute,
               api_key_secrets.sha256,
               coalesce(last_used_at < clock_timestamp() - interval '1 minute', true) as "is_stale!"
        from api_key_secrets
        join api_keys on api_keys.id = api_key_secrets.key_id
        where prefix = $1
          and revoked_at is null
          and coalesce(api_keys.expires_at > clock_timestamp(), true)
          and coalesce(api_key_secrets.expires_at > clock_timestamp(), true)
        "#,
        print.prefix,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    let Some(row) = row.filter(|row| print.matches(&row.sha256)) else { return Ok(None) };
    if row.is_stale {
        // Two at the same moment write the same.
        sqlx::query!("update api_keys set last_used_at = clock_timestamp() where id = $1", row.id)
            .execute(&mut *store.connection().await?)
            .await?;
    }
    Ok(Some(ShownKey {
        id: row.id,
        organization: row.organization_id.into(),
        name: row.name,
        scopes: scopes(&row.scopes),
        requests_per_minute: row.requests_per_minute.unsigned_abs(),
    }))
}

async fn add_secret(
    connection: &mut sqlx::PgConnection,
    organization: OrganizationId,
    key: Uuid,
    print: &KeyPrint,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        insert into api_key_secrets (prefix, organization_id, key_id, sha256, created_at)
        values ($1, $2, $3, $4, clock_timestamp())
        "#,
        print.prefix,
        organization.0,
        key,
        print.sha256.as_slice(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn one(
    connection: &mut sqlx::PgConnection,
    organization: OrganizationId,
    id: Uuid,
) -> sqlx::Result<Option<ApiKey>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select id,
               name,
               scopes,
               requests_per_minute,
               created_by,
               created_at,
               expires_at,
               last_used_at,
               revoked_at,
               (select prefix from api_key_secrets where key_id = id order by created_at desc, prefix limit 1) as "prefix!"
        from api_keys
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        id,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(ApiKey::from))
}

fn changed(key: Option<ApiKey>) -> Changed {
    match key {
        None => Changed::NotFound,
        Some(key) if key.revoked_at.is_some() => Changed::Revoked,
        Some(key) => Changed::Done(Box::new(key)),
    }
}

fn words(scopes: &[Scope]) -> Vec<String> {
    let mut words: Vec<_> = scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// The constraint `api_keys_scopes` lets no other words in.
fn scopes(words: &[String]) -> Vec<Scope> {
    let mut scopes: Vec<_> = words.iter().filter_map(|word| Scope::parse(word)).collect();
    scopes.sort_unstable();
    scopes
}

/// A key as its columns are.
struct Row {
    id: Uuid,
    name: String,
    prefix: String,
    scopes: Vec<String>,
    requests_per_minute: i32,
    created_by: String,
    created_at: jiff_sqlx::Timestamp,
    expires_at: Option<jiff_sqlx::Timestamp>,
    last_used_at: Option<jiff_sqlx::Timestamp>,
    revoked_at: Option<jiff_sqlx::Timestamp>,
}

impl From<Row> for ApiKey {
    fn from(row: Row) -> Self {
        let moment = |at: Option<jiff_sqlx::Timestamp>| at.map(jiff_sqlx::Timestamp::to_jiff);
        Self {
            id: row.id,
            name: row.name,
            prefix: row.prefix,
            scopes: scopes(&row.scopes),
            requests_per_minute: row.requests_per_minute,
            created_by: row.created_by,
            created_at: row.created_at.to_jiff(),
            expires_at: moment(row.expires_at),
            last_used_at: moment(row.last_used_at),
            revoked_at: moment(row.revoked_at),
        }
    }
}
