//! The organisation's own numbers.

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::ids::{AgentId, OrganizationId, PhoneNumber, PhoneNumberId};
use crate::store::{Store, storable};

/// One of our numbers, without the number itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnNumber {
    /// Id.
    pub id: PhoneNumberId,
    /// Whose it is.
    pub organization_id: OrganizationId,
    /// Who answers it.
    pub agent_id: AgentId,
}

/// How calls to one of our numbers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberRoute {
    /// The number, and the agent that answers it.
    pub own: OwnNumber,
    /// When people answer; `None` is never.
    pub schedule: Option<Uuid>,
    /// Who they are.
    pub team: Option<Uuid>,
}

/// One of our numbers as it is on record.
#[derive(Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct PhoneNumberRecord {
    /// Id.
    pub id: Uuid,
    /// In E.164.
    #[schema(example = "+14155550199")]
    pub number: String,
    /// For people.
    #[schema(example = "Front desk")]
    pub label: String,
    /// The agent that answers it.
    pub agent_id: Uuid,
    /// When the team answers it; null is never.
    pub schedule_id: Option<Uuid>,
    /// Who answers it by the schedule, and when the agent cannot.
    pub team_id: Option<Uuid>,
    /// When it was added.
    pub created_at: Timestamp,
}

/// A number to add.
#[derive(Clone)]
pub struct NewPhoneNumber {
    /// The number.
    pub number: PhoneNumber,
    /// For people.
    pub label: String,
    /// The agent that answers it.
    pub agent: Uuid,
    /// When the team answers it.
    pub schedule: Option<Uuid>,
    /// Who answers it by the schedule.
    pub team: Option<Uuid>,
}

/// What to change. `None` leaves a member as it is; `Some(None)` empties it.
#[derive(Debug, Clone, Default)]
pub struct PhoneNumberPatch {
    /// For people.
    pub label: Option<String>,
    /// The agent that answers it.
    pub agent: Option<Uuid>,
    /// When the team answers it.
    pub schedule: Option<Option<Uuid>>,
    /// Who answers it by the schedule.
    pub team: Option<Option<Uuid>>,
}

/// The number as one of ours.
pub async fn by_number(store: &Store, number: &PhoneNumber) -> sqlx::Result<Option<OwnNumber>> {
    sqlx::query_as!(
        OwnNumber,
        "select id, organization_id, agent_id from phone_numbers where number = $1",
        number.expose(),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await
}

/// How calls to this number go, whoever it belongs to: for the carrier's webhooks, which know nothing else.
pub async fn route(store: &Store, id: PhoneNumberId) -> sqlx::Result<Option<NumberRoute>> {
    let row = sqlx::query!(
        "select id, organization_id, agent_id, schedule_id, team_id from phone_numbers where id = $1",
        id.0,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(|row| NumberRoute {
        own: OwnNumber {
            id: PhoneNumberId(row.id),
            organization_id: row.organization_id.into(),
            agent_id: row.agent_id.into(),
        },
        schedule: row.schedule_id,
        team: row.team_id,
    }))
}

/// Adds a number that the agent shall answer. Fails by `phone_numbers_number` when somebody has it already and by
/// `phone_numbers_agent` when the agent is not of this organisation.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    agent: AgentId,
    number: &PhoneNumber,
    label: &str,
) -> sqlx::Result<PhoneNumberId> {
    let (number, label) = (number.clone(), label.to_owned());
    let new = NewPhoneNumber { number, label, agent: agent.0, schedule: None, team: None };
    add(store, organization, &new).await.map(|record| PhoneNumberId(record.id))
}

/// As [`create`], with who else answers. Fails by `phone_numbers_schedule` and `phone_numbers_team` as well.
pub async fn add(
    store: &Store,
    organization: OrganizationId,
    new: &NewPhoneNumber,
) -> sqlx::Result<PhoneNumberRecord> {
    let row = sqlx::query_as!(
        Row,
        r#"
        insert into phone_numbers (organization_id, agent_id, number, label, schedule_id, team_id)
        values ($1, $2, $3, $4, $5, $6)
        returning id, number, label, agent_id, schedule_id, team_id, created_at
        "#,
        organization.0,
        new.agent,
        new.number.expose(),
        storable(&new.label),
        new.schedule,
        new.team,
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Ok(row.into())
}

/// Numbers of the organisation in their order, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<PhoneNumberRecord>, u64)> {
    let total = sqlx::query_scalar!(
        r#"select count(*) as "count!" from phone_numbers where organization_id = $1"#,
        organization.0,
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id, number, label, agent_id, schedule_id, team_id, created_at
        from phone_numbers
        where organization_id = $1
        order by number
        limit $2
        offset $3
        "#,
        organization.0,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    Ok((rows.into_iter().map(Into::into).collect(), total.unsigned_abs()))
}

/// One number.
pub async fn phone_number(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
) -> sqlx::Result<Option<PhoneNumberRecord>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select id, number, label, agent_id, schedule_id, team_id, created_at
        from phone_numbers
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        id,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(Into::into))
}

/// Changes what the patch names. `None`: no such number in this organisation.
pub async fn update(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
    patch: &PhoneNumberPatch,
) -> sqlx::Result<Option<PhoneNumberRecord>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        update phone_numbers
        set label = coalesce($3, label),
            agent_id = coalesce($4, agent_id),
            schedule_id = case when $5 then $6 else schedule_id end,
            team_id = case when $7 then $8 else team_id end
        where organization_id = $1 and id = $2
        returning id, number, label, agent_id, schedule_id, team_id, created_at
        "#,
        organization.0,
        id,
        patch.label.as_deref().map(storable),
        patch.agent,
        patch.schedule.is_some(),
        patch.schedule.flatten(),
        patch.team.is_some(),
        patch.team.flatten(),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(Into::into))
}

/// What came of giving a number up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberDeleted {
    /// It is gone.
    Done,
    /// There is no such number in this organisation.
    NotFound,
    /// A campaign that is not over, or a call that waits or goes on, is to show it.
    IsCalling,
}

/// Gives a number up. Calls that came on it stay. One that calls are to show stays, too: people who know it would be called
/// from another one.
pub async fn delete(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<NumberDeleted> {
    let mut transaction = store.begin().await?;
    // Whoever names it from now on waits.
    let found = sqlx::query_scalar!(
        "select id from phone_numbers where organization_id = $1 and id = $2 for update",
        organization.0,
        id,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if found.is_none() {
        return Ok(NumberDeleted::NotFound);
    }
    let is_calling = sqlx::query_scalar!(
        r#"
        select exists (select from campaigns where phone_number_id = $1 and status in ('active', 'paused'))
            or exists (select from call_queue where phone_number_id = $1 and status in ('queued', 'processing'))
               as "is_calling!"
        "#,
        id,
    )
    .fetch_one(&mut *transaction)
    .await?;
    if is_calling {
        return Ok(NumberDeleted::IsCalling);
    }
    sqlx::query!("delete from phone_numbers where id = $1", id).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(NumberDeleted::Done)
}

/// A number as its columns are.
struct Row {
    id: Uuid,
    number: String,
    label: String,
    agent_id: Uuid,
    schedule_id: Option<Uuid>,
    team_id: Option<Uuid>,
    created_at: jiff_sqlx::Timestamp,
}

impl From<Row> for PhoneNumberRecord {
    fn from(row: Row) -> Self {
        let Row { id, number, label, agent_id, schedule_id, team_id, created_at } = row;
        Self { id, number, label, agent_id, schedule_id, team_id, created_at: created_at.to_jiff() }
    }
}
