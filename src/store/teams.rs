//! People whose telephones ring together.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use uuid::Uuid;

use crate::ids::{AgentId, OrganizationId, PhoneNumber};
use crate::routing::decide::{RingGroup, Telephone};
use crate::store::{Deleted, Store, storable};

/// A person of a team.
#[derive(Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Member {
    /// Id.
    pub id: Uuid,
    /// For people.
    #[schema(example = "Grace")]
    pub name: String,
    /// The telephone that rings, in E.164.
    #[schema(example = "+14155550101")]
    pub number: String,
    /// False: does not ring.
    pub enabled: bool,
}

impl fmt::Debug for Member {
    /// Without anything personal, so that it may end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("id", &self.id).field("enabled", &self.enabled).finish_non_exhaustive()
    }
}

/// A team with its people.
#[derive(Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Team {
    /// Id.
    pub id: Uuid,
    /// For people.
    #[schema(example = "Front desk")]
    pub name: String,
    /// Seconds to ring.
    #[schema(example = 25)]
    pub ring_timeout_s: i32,
    /// The first ten of those who are enabled ring.
    pub members: Vec<Member>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A person to add to a team, or to change there: the number tells who it is.
#[derive(Clone)]
pub struct NewMember {
    /// For people.
    pub name: String,
    /// The telephone that rings.
    pub number: PhoneNumber,
    /// False: does not ring.
    pub enabled: bool,
}

/// What to change; `None` leaves it. The people are replaced as a whole; who keeps the number keeps the id.
#[derive(Clone, Default)]
pub struct TeamPatch {
    /// For people.
    pub name: Option<String>,
    /// Seconds to ring.
    pub ring_timeout_s: Option<i32>,
    /// Everybody.
    pub members: Option<Vec<NewMember>>,
}

/// So many telephones ring at once.
// Twilio dossier, 2.2: a `<Dial>` takes ten at most.
const MOST_AT_ONCE: i64 = 10;

/// The telephones of this team, of this organisation where one is named, of those who take calls: in the order in which they
/// were added. `None`: there is no such team.
pub async fn ring_group(
    store: &Store,
    team: Uuid,
    organization: Option<OrganizationId>,
) -> sqlx::Result<Option<RingGroup>> {
    let rows = sqlx::query!(
        r#"
        select ring_timeout_s, member.id as "member?", member.number as "number?"
        from teams
        left join lateral (
            select id, number, created_at
            from team_members
            where team_id = teams.id and enabled
            order by created_at, id
            limit $3
        ) as member on true
        where teams.id = $1 and ($2::uuid is null or organization_id = $2)
        order by member.created_at, member.id
        "#,
        team,
        organization.map(|organization| organization.0),
        MOST_AT_ONCE,
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    let Some(ring_timeout_s) = rows.first().map(|row| row.ring_timeout_s) else { return Ok(None) };
    // Somebody who cannot be called does not keep the others from being called.
    let telephones = rows.into_iter().filter_map(|row| {
        let (member, number) = row.member.zip(row.number)?;
        let unusable = |_: &_| {
            tracing::warn!(member.id = %member, "the number of a team member is not a possible number; it does not ring");
        };
        let number = PhoneNumber::parse(&number).inspect_err(unusable).ok()?;
        Some(Telephone { number, member: Some(member) })
    });
    Ok(Some(RingGroup {
        team: Some(team),
        timeout: Duration::from_secs(ring_timeout_s.unsigned_abs().into()),
        telephones: telephones.collect(),
    }))
}

/// The telephones of the people an agent puts its callers through to.
pub async fn ring_group_of_agent(store: &Store, agent: AgentId) -> sqlx::Result<Option<RingGroup>> {
    let team = sqlx::query_scalar!("select team_id from agents where id = $1", agent.0)
        .fetch_optional(&mut *store.connection().await?)
        .await?;
    match team.flatten() {
        Some(team) => ring_group(store, team, None).await,
        None => Ok(None),
    }
}

/// Teams of the organisation by name, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<Team>, u64)> {
    let total = sqlx::query_scalar!(
        r#"select count(*) as "count!" from teams where organization_id = $1"#,
        organization.0
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Ok((select(store, organization, None, limit, offset).await?, total.unsigned_abs()))
}

/// One team.
pub async fn team(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<Option<Team>> {
    Ok(select(store, organization, Some(id), 1, 0).await?.pop())
}

async fn select(
    store: &Store,
    organization: OrganizationId,
    id: Option<Uuid>,
    limit: u32,
    offset: u64,
) -> sqlx::Result<Vec<Team>> {
    let rows = sqlx::query!(
        r#"
        select id, name, ring_timeout_s, created_at, updated_at,
               (
                   select coalesce(
                       jsonb_agg(
                           jsonb_build_object('id', m.id, 'name', m.name, 'number', number, 'enabled', enabled)
                           order by m.created_at, m.id
                       ),
                       '[]'
                   )
                   from team_members m
                   where team_id = teams.id
               ) as "members!: Json<Vec<Member>>"
        from teams
        where organization_id = $1 and ($2::uuid is null or id = $2)
        order by name, id
        limit $3
        offset $4
        "#,
        organization.0,
        id,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    let teams = rows.into_iter().map(|row| Team {
        id: row.id,
        name: row.name,
        ring_timeout_s: row.ring_timeout_s,
        members: row.members.0,
        created_at: row.created_at.to_jiff(),
        updated_at: row.updated_at.to_jiff(),
    });
    Ok(teams.collect())
}

/// Adds a team with its people, or nothing.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    name: &str,
    ring_timeout_s: Option<i32>,
    members: &[NewMember],
) -> sqlx::Result<Uuid> {
    let mut transaction = store.begin().await?;
    let id = sqlx::query_scalar!(
        "insert into teams (organization_id, name, ring_timeout_s) values ($1, $2, coalesce($3, 25)) returning id",
        organization.0,
        storable(name),
        ring_timeout_s,
    )
    .fetch_one(&mut *transaction)
    .await?;
    put_members(&mut transaction, organization, id, members).await?;
    transaction.commit().await?;
    Ok(id)
}

/// Changes what the patch names, all of it or nothing. False: there is no such team in this organisation.
pub async fn update(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
    patch: &TeamPatch,
) -> sqlx::Result<bool> {
    let mut transaction = store.begin().await?;
    // Also the lock that keeps two changes of the people apart.
    let updated = sqlx::query!(
        r#"
        update teams
        set name = coalesce($3, name),
            ring_timeout_s = coalesce($4, ring_timeout_s),
            updated_at = now()
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        id,
        patch.name.as_deref().map(storable),
        patch.ring_timeout_s,
    )
    .execute(&mut *transaction)
    .await?;
    if updated.rows_affected() == 0 {
        return Ok(false);
    }
    if let Some(members) = &patch.members {
        let numbers: Vec<String> = members.iter().map(|member| member.number.expose().to_owned()).collect();
        sqlx::query!("delete from team_members where team_id = $1 and number <> all ($2)", id, &numbers)
            .execute(&mut *transaction)
            .await?;
        put_members(&mut transaction, organization, id, members).await?;
    }
    transaction.commit().await?;
    Ok(true)
}

/// Removes a team that no number and no agent puts callers through to.
pub async fn delete(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<Deleted> {
    let mut transaction = store.begin().await?;
    // Locked, so that nobody takes it meanwhile.
    let found = sqlx::query_scalar!(
        "select id from teams where organization_id = $1 and id = $2 for update",
        organization.0,
        id,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if found.is_none() {
        return Ok(Deleted::NotFound);
    }
    let used = sqlx::query_scalar!(
        r#"
        select exists (select from phone_numbers where team_id = $1)
               or exists (select from agents where team_id = $1) as "used!"
        "#,
        id,
    )
    .fetch_one(&mut *transaction)
    .await?;
    if used {
        return Ok(Deleted::InUse);
    }
    sqlx::query!("delete from teams where id = $1", id).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Deleted::Done)
}

async fn put_members(
    transaction: &mut sqlx::PgConnection,
    organization: OrganizationId,
    team: Uuid,
    members: &[NewMember],
) -> sqlx::Result<()> {
    let names: Vec<String> = members.iter().map(|member| storable(&member.name)).collect();
    let numbers: Vec<String> = members.iter().map(|member| member.number.expose().to_owned()).collect();
    let enabled: Vec<bool> = members.iter().map(|member| member.enabled).collect();
    // A microsecond apart, because that is their order.
    sqlx::query!(
        r#"
        insert into team_members (organization_id, team_id, name, number, enabled, created_at)
        select $1, $2, name, number, enabled, now() + place * interval '1 microsecond'
        from unnest($3::text[], $4::text[], $5::boolean[]) with ordinality as member (name, number, enabled, place)
        on conflict on constraint team_members_number do update
        set name = excluded.name,
            enabled = excluded.enabled
        "#,
        organization.0,
        team,
        &names,
        &numbers,
        &enabled,
    )
    .execute(&mut *transaction)
    .await?;
    Ok(())
}
