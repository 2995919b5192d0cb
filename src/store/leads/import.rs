//! Many leads at once, from a list that somebody has.

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::ids::{OrganizationId, PhoneNumber};
use crate::store::call_queue::{EnqueueError, Enqueued, add_leads};
use crate::store::leads::NewLead;
use crate::store::{Store, storable};

/// What came of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Imported {
    /// The lead of each row, in the order of the rows.
    pub leads: Vec<i64>,
    /// Leads that are new.
    pub created: u64,
    /// Leads that were there, found by their telephone.
    pub found: u64,
    /// What came of taking them into the campaign's queue.
    pub enqueued: Enqueued,
}

/// Creates or finds the lead of each row by its telephone, and takes them into the campaign's queue, in one transaction.
///
/// Of a lead that is there only what is empty is filled. No two rows may have the same telephone. Meant for some hundred rows at a time.
pub async fn import(
    store: &Store,
    organization: OrganizationId,
    campaign: Uuid,
    rows: &[NewLead],
) -> Result<Imported, EnqueueError> {
    let mut transaction = store.begin_alone().await?;
    // Several leads may share a telephone, so no key keeps two uploads from adding the same person twice.
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('import of leads ' || $1::text, 0))",
        organization.to_string(),
    )
    .execute(&mut *transaction)
    .await?;
    let mut known = find(&mut transaction, organization, rows).await?;
    let (old, new): (Vec<_>, Vec<_>) = rows.iter().partition(|row| known.contains_key(row.phone.expose()));
    fill(&mut transaction, &old, &known).await?;
    let (found, created) = (old.len() as u64, new.len() as u64);
    known.extend(insert(&mut transaction, organization, &new).await?);
    let leads = rows.iter().filter_map(|row| known.get(row.phone.expose()).copied()).collect::<Vec<_>>();
    let enqueued = add_leads(&mut transaction, organization, campaign, &leads).await?;
    transaction.commit().await?;
    Ok(Imported { leads, created, found, enqueued })
}

/// Of leads that share a telephone, the one contacted last is meant.
async fn find(
    connection: &mut PgConnection,
    organization: OrganizationId,
    rows: &[NewLead],
) -> sqlx::Result<HashMap<String, i64>> {
    let found = sqlx::query!(
        r#"
        select distinct on (phone) phone, id
        from leads
        where organization_id = $1 and phone = any($2)
        order by phone, last_contacted_at desc nulls last, id desc
        "#,
        organization.0,
        &phones(rows.iter()),
    )
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().map(|row| (row.phone, row.id)).collect())
}

async fn fill(
    connection: &mut PgConnection,
    rows: &[&NewLead],
    known: &HashMap<String, i64>,
) -> sqlx::Result<()> {
    let ids: Vec<i64> = rows.iter().filter_map(|row| known.get(row.phone.expose()).copied()).collect();
    let Columns { names, emails, zones, notes, .. } = Columns::of(rows);
    sqlx::query!(
        r#"
        update leads
        set name = case when leads.name = '' then t.name else leads.name end,
            email = coalesce(leads.email, t.email),
            time_zone = coalesce(leads.time_zone, t.time_zone),
            notes = case when leads.notes = '' then t.notes else leads.notes end,
            updated_at = now()
        from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[])
             as t(id, name, email, time_zone, notes)
        where leads.id = t.id
          and (
              (leads.name = '' and t.name <> '')
              or (leads.email is null and t.email is not null)
              or (leads.time_zone is null and t.time_zone is not null)
              or (leads.notes = '' and t.notes <> '')
          )
        "#,
        &ids,
        &names,
        &emails as _,
        &zones as _,
        &notes,
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert(
    connection: &mut PgConnection,
    organization: OrganizationId,
    rows: &[&NewLead],
) -> sqlx::Result<Vec<(String, i64)>> {
    let Columns { names, emails, zones, notes, statuses, scores } = Columns::of(rows);
    let added = sqlx::query!(
        r#"
        insert into leads (organization_id, phone, name, email, time_zone, notes, lead_status, score)
        select $1, t.phone, t.name, t.email, t.time_zone, t.notes, coalesce(t.lead_status, 'new'), t.score
        from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::integer[])
             as t(phone, name, email, time_zone, notes, lead_status, score)
        returning phone, id
        "#,
        organization.0,
        &phones(rows.iter().copied()),
        &names,
        &emails as _,
        &zones as _,
        &notes,
        &statuses as _,
        &scores as _,
    )
    .fetch_all(connection)
    .await?;
    Ok(added.into_iter().map(|row| (row.phone, row.id)).collect())
}

fn phones<'a>(rows: impl Iterator<Item = &'a NewLead>) -> Vec<String> {
    rows.map(|row| row.phone.clone()).map(|phone: PhoneNumber| phone.expose().to_owned()).collect()
}

/// The rows column by column, as a statement takes them.
struct Columns {
    names: Vec<String>,
    emails: Vec<Option<String>>,
    zones: Vec<Option<String>>,
    notes: Vec<String>,
    statuses: Vec<Option<String>>,
    scores: Vec<Option<i32>>,
}

impl Columns {
    fn of(rows: &[&NewLead]) -> Self {
        Self {
            names: rows.iter().map(|row| storable(&row.name)).collect(),
            emails: rows.iter().map(|row| row.email.as_deref().map(storable)).collect(),
            zones: rows.iter().map(|row| row.time_zone.clone()).collect(),
            notes: rows.iter().map(|row| storable(&row.notes)).collect(),
            statuses: rows.iter().map(|row| row.lead_status.as_deref().map(storable)).collect(),
            scores: rows.iter().map(|row| row.score).collect(),
        }
    }
}
