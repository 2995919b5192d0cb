//! How a campaign begins to call, stops for a while, and ends.

use std::time::Duration;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use crate::ids::OrganizationId;
use crate::outreach::campaign::{CampaignStatus, Command};
use crate::outreach::window::earliest_day;
use crate::store::campaigns::{Campaign, CampaignError, lock, one};
use crate::store::{Store, call_queue};

/// How long somebody who completes a campaign waits for its rows to fail: some ten thousands do in that time.
const FAIL_WITHIN: Duration = Duration::from_secs(2);

/// Does what is wanted of a campaign. Every claim reads the status, so it is obeyed from the next one on.
///
/// What waits to be called by a campaign that is completed fails afterwards, for two seconds at most; [`fail_left_over`] does
/// the rest, and so does completing the campaign once more.
pub async fn step(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
    command: Command,
) -> Result<Campaign, CampaignError> {
    let mut transaction = store.begin_alone().await?;
    let campaign = lock(&mut transaction, organization, id).await?;
    let status = campaign.status.after(command)?;
    let campaign = if status == campaign.status {
        campaign
    } else {
        if status == CampaignStatus::Active {
            check_ready(&mut transaction, organization, &campaign).await?;
        }
        write_status(&mut transaction, id, status).await?;
        one(&mut transaction, organization, id).await?.ok_or(CampaignError::NotFound)?
    };
    transaction.commit().await?;
    if status == CampaignStatus::Completed {
        fail_rows(store, vec![id], FAIL_WITHIN).await;
    }
    Ok(campaign)
}

async fn write_status(connection: &mut PgConnection, id: Uuid, status: CampaignStatus) -> sqlx::Result<()> {
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
    .execute(connection)
    .await?;
    Ok(())
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
    let mut transaction = store.begin().await?;
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

/// Completes the campaigns whose last day is over everywhere, of all organisations, and says how many that were. What waits
/// to be called by them is left to [`fail_left_over`].
///
/// A campaign that somebody holds right now is left for the next time: it keeps none of the others from its end.
pub async fn complete_over(store: &Store, now: Timestamp) -> sqlx::Result<u64> {
    let over = sqlx::query!(
        r#"
        update campaigns
        set status = 'completed',
            completed_at = now(),
            updated_at = now()
        where id in (
            select id
            from campaigns
            where status in ('active', 'paused') and end_date < $1
            for no key update skip locked
        )
        "#,
        earliest_day(now).to_sqlx() as _,
    )
    .execute(&mut *store.connection().await?)
    .await?;
    Ok(over.rows_affected())
}

/// Fails what waits to be called by campaigns that are completed, of all organisations, for as long at most; the next time it
/// goes on. False: there is more of it. Among them are rows whose calls went on when their campaign was completed, and that
/// would be tried again.
pub async fn fail_left_over(store: &Store, within: Duration) -> sqlx::Result<bool> {
    let campaigns = call_queue::left_over(store).await?;
    Ok(fail_rows(store, campaigns, within).await)
}

/// Fails what waits to be called by these campaigns, which are completed, until there is no more of it or the time is up: a
/// batch of each in its turn, so that a large one does not keep the others waiting, nor one that fails. False: there is more.
async fn fail_rows(store: &Store, mut campaigns: Vec<Uuid>, within: Duration) -> bool {
    let begun = Instant::now();
    let mut is_done = true;
    while !campaigns.is_empty() {
        let mut have_more = Vec::new();
        for campaign in campaigns {
            if begun.elapsed() >= within {
                return false;
            }
            match call_queue::fail_some(store, campaign).await {
                Ok(true) => have_more.push(campaign),
                Ok(false) => {}
                Err(error) => {
                    is_done = false;
                    tracing::warn!(%campaign, %error, "calls of a campaign that is over are failed later");
                }
            }
        }
        campaigns = have_more;
    }
    is_done
}
