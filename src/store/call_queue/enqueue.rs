//! Leads that a campaign shall call.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::ids::{OrganizationId, PhoneNumber};
use crate::outreach::window::zone;
use crate::store::Store;

/// Leads taken into the queue by one statement: their numbers are read on a thread that carries calls, in a few milliseconds.
const BATCH: i64 = 250;
/// Most skipped leads that are named; the rest are counted.
const MOST_NAMED: usize = 1_000;

/// Which leads are meant. What is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct LeadFilter {
    /// Where the organisation stands with them.
    pub lead_status: Option<String>,
    /// At least so promising.
    pub min_score: Option<i32>,
    /// Added since.
    pub created_after: Option<Timestamp>,
    /// Not spoken to since; also those that never were.
    pub not_contacted_since: Option<Timestamp>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, utoipa::ToSchema)]
pub struct Enqueued {
    /// Leads that are in the queue now.
    pub enqueued: u64,
    /// Leads that had been in the queue of this campaign before, whatever came of it.
    pub already: u64,
    /// Leads that are not, and why; the first thousand of them.
    pub skipped: Vec<Skipped>,
    /// How many were skipped in all.
    pub skipped_total: u64,
}

/// A lead that the campaign does not call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Skipped {
    /// Who.
    pub lead_id: i64,
    /// Why.
    pub reason: Skip,
}

/// Why a campaign does not call a lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Skip {
    /// There is no such lead.
    UnknownLead,
    /// Its number is on the do-not-call list.
    DoNotCall,
    /// Its time zone is not known, so nobody can say when it may be called.
    NoTimeZone,
    /// Its telephone is no number that can be called.
    InvalidNumber,
}

/// Why nobody is taken into the queue.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// No such campaign in this organisation.
    #[error("there is no such campaign")]
    NotFound,
    /// It calls nobody any more.
    #[error("the campaign is completed; create another one")]
    Completed,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Takes these leads into the queue of a campaign; a lead that is there stays as it is.
pub async fn enqueue(
    store: &Store,
    organization: OrganizationId,
    campaign: Uuid,
    leads: &[i64],
) -> Result<Enqueued, EnqueueError> {
    let mut report = Enqueued::default();
    for batch in leads.chunks(BATCH as usize) {
        let mut transaction = store.begin_alone().await?;
        report.add(add_leads(&mut transaction, organization, campaign, batch).await?);
        transaction.commit().await?;
    }
    Ok(report)
}

/// Takes all leads that are meant into the queue of a campaign, some at a time. Done again after a failure it goes on.
pub async fn enqueue_matching(
    store: &Store,
    organization: OrganizationId,
    campaign: Uuid,
    filter: &LeadFilter,
) -> Result<Enqueued, EnqueueError> {
    let mut report = Enqueued::default();
    let mut last = i64::MIN;
    loop {
        let mut transaction = store.begin_alone().await?;
        let leads = matching(&mut transaction, organization, filter, last).await?;
        report.add(add_leads(&mut transaction, organization, campaign, &leads).await?);
        transaction.commit().await?;
        match leads.last() {
            Some(lead) => last = *lead,
            None => return Ok(report),
        }
    }
}

async fn matching(
    connection: &mut PgConnection,
    organization: OrganizationId,
    filter: &LeadFilter,
    after: i64,
) -> sqlx::Result<Vec<i64>> {
    sqlx::query_scalar!(
        r#"
        select id
        from leads
        where organization_id = $1
          and id > $2
          and ($3::text is null or lead_status = $3)
          and ($4::integer is null or score >= $4)
          and ($5::timestamptz is null or created_at > $5)
          and ($6::timestamptz is null or last_contacted_at is null or last_contacted_at < $6)
        order by id
        limit $7
        "#,
        organization.0,
        after,
        filter.lead_status.as_deref(),
        filter.min_score,
        filter.created_after.map(ToSqlx::to_sqlx) as _,
        filter.not_contacted_since.map(ToSqlx::to_sqlx) as _,
        BATCH,
    )
    .fetch_all(connection)
    .await
}

/// Takes at most [`BATCH`] leads into the queue.
pub(in crate::store) async fn add_leads(
    connection: &mut PgConnection,
    organization: OrganizationId,
    campaign: Uuid,
    leads: &[i64],
) -> Result<Enqueued, EnqueueError> {
    // Shared, so that the campaign is not completed in between and leaves a row behind.
    let campaign = sqlx::query!(
        "select id, status, max_attempts from campaigns where organization_id = $1 and id = $2 for share",
        organization.0,
        campaign,
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(EnqueueError::NotFound)?;
    if campaign.status == "completed" {
        return Err(EnqueueError::Completed);
    }
    let asked = sqlx::query!(
        r#"
        select asked.id as "id!",
               leads.phone as "phone?",
               leads.time_zone,
               exists (
                   select from do_not_call d where d.organization_id = $1 and d.number = leads.phone
               ) as "refused!",
               exists (
                   select from call_queue q where q.campaign_id = $2 and q.lead_id = leads.id
               ) as "already!"
        from (select distinct id from unnest($3::bigint[]) as t(id)) asked
        left join leads on leads.organization_id = $1 and leads.id = asked.id
        order by asked.id
        "#,
        organization.0,
        campaign.id,
        leads,
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut report = Enqueued::default();
    let (mut ids, mut numbers) = (Vec::new(), Vec::new());
    for lead in asked {
        let number = lead.phone.as_deref().map(PhoneNumber::parse);
        let reason = match number {
            None => Skip::UnknownLead,
            _ if lead.already => {
                report.already += 1;
                continue;
            }
            _ if lead.refused => Skip::DoNotCall,
            Some(Err(_)) => Skip::InvalidNumber,
            Some(Ok(_)) if lead.time_zone.is_none_or(|name| zone(&name).is_err()) => Skip::NoTimeZone,
            Some(Ok(number)) => {
                ids.push(lead.id);
                numbers.push(number.expose().to_owned());
                continue;
            }
        };
        report.skip(Skipped { lead_id: lead.id, reason });
    }
    let added = sqlx::query!(
        r#"
        insert into call_queue (organization_id, campaign_id, lead_id, max_attempts, to_number)
        select $1, $2, t.lead_id, $3, t.number
        from unnest($4::bigint[], $5::text[]) as t(lead_id, number)
        on conflict (campaign_id, lead_id) do nothing
        "#,
        organization.0,
        campaign.id,
        campaign.max_attempts,
        &ids,
        &numbers,
    )
    .execute(connection)
    .await?;
    report.enqueued = added.rows_affected();
    // Somebody else was faster with those that are missing.
    report.already += ids.len() as u64 - added.rows_affected();
    Ok(report)
}

impl Enqueued {
    /// Adds what came of more leads.
    pub fn add(&mut self, other: Self) {
        self.enqueued += other.enqueued;
        self.already += other.already;
        self.skipped_total += other.skipped_total;
        let room = MOST_NAMED.saturating_sub(self.skipped.len());
        self.skipped.extend(other.skipped.into_iter().take(room));
    }

    fn skip(&mut self, skipped: Skipped) {
        self.skipped_total += 1;
        self.skipped.push(skipped);
    }
}
