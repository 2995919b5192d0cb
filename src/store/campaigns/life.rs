//! How a campaign begins to call, stops for a while, and ends.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::ids::OrganizationId;
use crate::outreach::campaign::{CampaignStatus, Command};
use crate::outreach::window::earliest_day;
use crate::store::campaigns::{Campaign, CampaignError, lock, one};
use crate::store::{Store, call_queue};

/// Does what is wanted of a campaign. Every claim reads the status, so it is obeyed from the next one on.
pub async fn step(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
    command: Command,
) -> Result<Campaign, CampaignError> {
    let mut transaction = store.pool.begin().await?;
    let campaign = lock(&mut transaction, organization, id).await?;
    let status = campaign.status.after(command)?;
    if status == campaign.status {
        return Ok(campaign);
    }
    match status {
        CampaignStatus::Active => check_ready(&mut transaction, organization, &campaign).await?,
        CampaignStatus::Completed => call_queue::fail_campaigns(&mut transaction, &[id]).await?,
        CampaignStatus::Draft | CampaignStatus::Paused => {}
    }
    sqlx::query!(
        r#"
        update campaigns
        set status = $2,
            completed_at = case when $2 = 'completed' then now() end,
            updated_at = now()
        where id = $1
        "#,
        id,
        status.as_str(),
    )
    .execute(&mut *transaction)
    .await?;
    let campaign = one(&mut transaction, organization, id).await?.ok_or(CampaignError::NotFound)?;
    transaction.commit().await?;
    Ok(campaign)
}

/// Refuses what could not call anybody.
async fn check_ready(
    connection: &mut PgConnection,
    organization: OrganizationId,
    campaign: &Campaign,
) -> Result<(), CampaignError> {
    let ready = sqlx::query!(
        r#"
        select exists (
                   select from agents
                   where organization_id = $1
                     and enabled
                     and case when $2::uuid is null then is_default else id = $2 end
               ) as "agent!",
               exists (select from phone_numbers where organization_id = $1) as "number!",
               clock_timestamp() as "now!"
        "#,
        organization.0,
        campaign.settings.agent_id.map(|agent| agent.0),
    )
    .fetch_one(connection)
    .await?;
    if campaign.settings.window().is_over_everywhere(ready.now.to_jiff()) {
        return Err(CampaignError::Over);
    }
    match (ready.agent, ready.number) {
        (false, _) => Err(CampaignError::NoAgent),
        (_, false) => Err(CampaignError::NoOwnNumber),
        (true, true) => Ok(()),
    }
}

/// Deletes a campaign with its queue; the records of its calls stay, and belong to no campaign then.
pub async fn delete(store: &Store, organization: OrganizationId, id: Uuid) -> Result<(), CampaignError> {
    let mut transaction = store.pool.begin().await?;
    let campaign = lock(&mut transaction, organization, id).await?;
    if campaign.status == CampaignStatus::Active {
        return Err(CampaignError::Active);
    }
    let going_on = sqlx::query_scalar!(
        r#"
        select exists (
            select from call_queue where campaign_id = $1 and status = 'processing'
        ) as "going_on!"
        "#,
        id,
    )
    .fetch_one(&mut *transaction)
    .await?;
    if going_on {
        return Err(CampaignError::CallsGoingOn);
    }
    sqlx::query!("delete from campaigns where id = $1", id).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}

/// Completes the campaigns whose last day is over everywhere, of all organisations, and says how many that were. Rows whose
/// calls went on when their campaign was completed, and that would be tried again, fail.
pub async fn complete_over(store: &Store, now: Timestamp) -> sqlx::Result<u64> {
    let mut transaction = store.pool.begin().await?;
    let over = sqlx::query_scalar!(
        r#"
        update campaigns
        set status = 'completed',
            completed_at = now(),
            updated_at = now()
        where status in ('active', 'paused') and end_date < $1
        returning id
        "#,
        earliest_day(now).to_sqlx() as _,
    )
    .fetch_all(&mut *transaction)
    .await?;
    if !over.is_empty() {
        call_queue::fail_campaigns(&mut transaction, &over).await?;
    }
    call_queue::fail_left_over(&mut transaction).await?;
    transaction.commit().await?;
    Ok(over.len() as u64)
}
