//! People we talk to, each linked to their most recent call.

mod import;
mod links;

use std::fmt;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::Serialize;

use crate::ids::{CallSid, OrganizationId, PhoneNumber};
use crate::store::{Store, call_queue, storable, stored_call_sid};

pub use self::import::{Imported, import};
pub use self::links::{LinkError, LinkOutcome, link_by_phone, link_call, unlink_call};

/// A person.
#[derive(Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Lead {
    /// Our id.
    pub id: i64,
    /// Name; may be empty.
    pub name: String,
    /// Telephone, in E.164. Whoever filled the table may have written numbers that cannot be; they do no harm here.
    pub phone: String,
    /// E-mail address.
    pub email: Option<String>,
    /// The most recent call.
    #[schema(value_type = Option<String>)]
    pub call_sid: Option<CallSid>,
    /// `new`, `contacted`, or a word of the organisation's own.
    pub lead_status: String,
    /// When we last spoke.
    pub last_contacted_at: Option<Timestamp>,
    /// Free text.
    pub notes: String,
    /// How promising.
    pub score: Option<i32>,
    /// IANA name of where this person is; campaigns call nobody whose zone is not known.
    #[schema(example = "America/New_York")]
    pub time_zone: Option<String>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl fmt::Debug for Lead {
    /// Without anything personal, so that it may end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lead").field("id", &self.id).field("call_sid", &self.call_sid).finish_non_exhaustive()
    }
}

/// A person to add.
#[derive(Clone)]
pub struct NewLead {
    /// Name; may be empty.
    pub name: String,
    /// Telephone.
    pub phone: PhoneNumber,
    /// E-mail address.
    pub email: Option<String>,
    /// `None`: `new`.
    pub lead_status: Option<String>,
    /// Free text.
    pub notes: String,
    /// How promising.
    pub score: Option<i32>,
    /// IANA name of where this person is.
    pub time_zone: Option<String>,
}

/// What to change of a person. `None` leaves a member as it is; `Some(None)` empties it.
#[derive(Clone, Default)]
pub struct LeadPatch {
    /// Name.
    pub name: Option<String>,
    /// Telephone.
    pub phone: Option<PhoneNumber>,
    /// E-mail address.
    pub email: Option<Option<String>>,
    /// Where the organisation stands with this person.
    pub lead_status: Option<String>,
    /// When we last spoke.
    pub last_contacted_at: Option<Option<Timestamp>>,
    /// Free text.
    pub notes: Option<String>,
    /// How promising.
    pub score: Option<Option<i32>>,
    /// IANA name of where this person is.
    pub time_zone: Option<Option<String>>,
}

/// Leads of the organisation, newest first, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<Lead>, u64)> {
    let total = sqlx::query_scalar!(
        r#"select count(*) as "count!" from leads where organization_id = $1"#,
        organization.0
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id, name, phone, email, call_sid, lead_status, last_contacted_at, notes, score, time_zone, created_at, updated_at
        from leads
        where organization_id = $1
        order by id desc
        limit $2
        offset $3
        "#,
        organization.0,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    let leads = rows.into_iter().map(Lead::try_from).collect::<sqlx::Result<_>>()?;
    Ok((leads, total.unsigned_abs()))
}

/// One lead.
pub async fn lead(store: &Store, organization: OrganizationId, id: i64) -> sqlx::Result<Option<Lead>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select id, name, phone, email, call_sid, lead_status, last_contacted_at, notes, score, time_zone, created_at, updated_at
        from leads
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        id,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    row.map(Lead::try_from).transpose()
}

/// The lead that is linked to this call.
pub async fn by_call_sid(
    store: &Store,
    organization: OrganizationId,
    call_sid: &CallSid,
) -> sqlx::Result<Option<Lead>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select id, name, phone, email, call_sid, lead_status, last_contacted_at, notes, score, time_zone, created_at, updated_at
        from leads
        where organization_id = $1 and call_sid = $2
        "#,
        organization.0,
        call_sid.as_str(),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    row.map(Lead::try_from).transpose()
}

/// Adds a lead.
pub async fn create(store: &Store, organization: OrganizationId, new: &NewLead) -> sqlx::Result<Lead> {
    let row = sqlx::query_as!(
        Row,
        r#"
        insert into leads (organization_id, name, phone, email, lead_status, notes, score, time_zone)
        values ($1, $2, $3, $4, coalesce($5, 'new'), $6, $7, $8)
        returning id, name, phone, email, call_sid, lead_status, last_contacted_at, notes, score, time_zone, created_at, updated_at
        "#,
        organization.0,
        storable(&new.name),
        new.phone.expose(),
        new.email.as_deref().map(storable),
        new.lead_status.as_deref().map(storable),
        storable(&new.notes),
        new.score,
        new.time_zone,
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Lead::try_from(row)
}

/// Changes what the patch names. `None`: no such lead in this organisation.
pub async fn update(
    store: &Store,
    organization: OrganizationId,
    id: i64,
    patch: &LeadPatch,
) -> sqlx::Result<Option<Lead>> {
    let mut transaction = store.begin().await?;
    if let Some(phone) = &patch.phone {
        call_queue::follow_lead(&mut transaction, organization, id, phone).await?;
    }
    let row = sqlx::query_as!(
        Row,
        r#"
        update leads
        set name = coalesce($3, name),
            phone = coalesce($4, phone),
            email = case when $5 then $6 else email end,
            lead_status = coalesce($7, lead_status),
            last_contacted_at = case when $8 then $9 else last_contacted_at end,
            notes = coalesce($10, notes),
            score = case when $11 then $12 else score end,
            time_zone = case when $13 then $14 else time_zone end,
            updated_at = now()
        where organization_id = $1 and id = $2
        returning id, name, phone, email, call_sid, lead_status, last_contacted_at, notes, score, time_zone, created_at, updated_at
        "#,
        organization.0,
        id,
        patch.name.as_deref().map(storable),
        patch.phone.as_ref().map(PhoneNumber::expose),
        patch.email.is_some(),
        patch.email.as_ref().and_then(Option::as_deref).map(storable),
        patch.lead_status.as_deref().map(storable),
        patch.last_contacted_at.is_some(),
        patch.last_contacted_at.flatten().map(ToSqlx::to_sqlx) as _,
        patch.notes.as_deref().map(storable),
        patch.score.is_some(),
        patch.score.flatten(),
        patch.time_zone.is_some(),
        patch.time_zone.as_ref().and_then(Option::as_deref),
    )
    .fetch_optional(&mut *transaction)
    .await?;
    // A first call that waited for the hours of another place may be due now.
    if patch.time_zone.is_some() && row.is_some() {
        call_queue::reconsider_lead(&mut transaction, id).await?;
    }
    transaction.commit().await?;
    row.map(Lead::try_from).transpose()
}

/// A lead as its columns are.
struct Row {
    id: i64,
    name: String,
    phone: String,
    email: Option<String>,
    call_sid: Option<String>,
    lead_status: String,
    last_contacted_at: Option<jiff_sqlx::Timestamp>,
    notes: String,
    score: Option<i32>,
    time_zone: Option<String>,
    created_at: jiff_sqlx::Timestamp,
    updated_at: jiff_sqlx::Timestamp,
}

impl TryFrom<Row> for Lead {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.id,
            name: row.name,
            phone: row.phone,
            email: row.email,
            call_sid: stored_call_sid(row.call_sid)?,
            lead_status: row.lead_status,
            last_contacted_at: row.last_contacted_at.map(jiff_sqlx::Timestamp::to_jiff),
            notes: row.notes,
            score: row.score,
            time_zone: row.time_zone,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
        })
    }
}
