//! What rows of the queue have to do when their campaign is changed or over.
//!
//! A campaign may have more open rows than can be written within the time a statement may take, and whoever records what calls
//! do would wait for all of them. So the campaign is written first, in a transaction of its own: claims read it, and act on it
//! from the next one on. Its rows follow, some at a time, each time in another transaction, and what is not done in one go is
//! done in the next one. None of them locks the campaign's row against the records of calls, which count there.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::outreach::rules::Refusal;
use crate::store::Store;
use crate::store::call_queue::{fail, reconsider};

/// Rows written in one transaction: some tens of milliseconds, for so long others wait for them.
const BATCH: u16 = 1000;

/// Campaigns that are over and have rows that wait, of all organisations, the one that has been over for longest first.
pub(in crate::store) async fn left_over(store: &Store) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        r#"
        select id
        from campaigns
        where status = 'completed'
          and exists (
              select from call_queue where call_queue.campaign_id = campaigns.id and call_queue.status = 'queued'
          )
        order by completed_at, id
        "#,
    )
    .fetch_all(&mut *store.connection().await?)
    .await
}

/// Fails up to [`BATCH`] rows that wait to be called by this campaign, if it is over. True: there may be more of them.
///
/// A row that somebody holds is left: what is being claimed fails there, by the same rule, and the rest at the next go. Nobody
/// is waited for, so two may do this at once.
pub(in crate::store) async fn fail_some(store: &Store, campaign: Uuid) -> sqlx::Result<bool> {
    let mut transaction = store.begin_alone().await?;
    let waiting = sqlx::query_scalar!(
        r#"
        select id
        from call_queue
        where campaign_id = $1
          and status = 'queued'
          and exists (select from campaigns where id = $1 and status = 'completed')
        limit $2
        for update of call_queue skip locked
        "#,
        campaign,
        i64::from(BATCH),
    )
    .fetch_all(&mut *transaction)
    .await?;
    fail(&mut transaction, &waiting, &Refusal::CampaignOver.to_string(), None).await?;
    transaction.commit().await?;
    Ok(waiting.len() == usize::from(BATCH))
}

/// Lets rows of a campaign that wait for its hours be looked at again; a delay after a try stays.
///
/// The campaign has been written before. A row that somebody holds is left: whoever claims it now sees what is new.
pub(in crate::store) async fn reconsider_campaign(store: &Store, campaign: Uuid) -> sqlx::Result<()> {
    let waiting = sqlx::query_scalar!(
        r#"
        select id
        from call_queue
        where campaign_id = $1
          and status = 'queued'
          and next_retry_at > now()
        "#,
        campaign,
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    for rows in waiting.chunks(BATCH.into()) {
        let mut transaction = store.begin_alone().await?;
        let still_waiting = sqlx::query_scalar!(
            r#"
            select id
            from call_queue
            where id = any($1)
              and status = 'queued'
              and next_retry_at > now()
            for update skip locked
            "#,
            rows,
        )
        .fetch_all(&mut *transaction)
        .await?;
        reconsider(&mut transaction, &still_waiting).await?;
        transaction.commit().await?;
    }
    Ok(())
}

/// Has rows that are open follow a campaign whose number of tries was `before`; a row that was given another stays.
///
/// The campaign has been written before. A row that somebody holds is waited for: nobody else would ever have it follow. That
/// is no deadlock, since those who lock several rows and wait do so by their ids, too, and this keeps nobody from anything that
/// they ask for next.
pub(in crate::store) async fn limit_attempts(store: &Store, campaign: Uuid, before: i32) -> sqlx::Result<()> {
    let mut transaction = store.begin_alone().await?;
    take_turn(&mut transaction, campaign).await?;
    let open = sqlx::query_scalar!(
        r#"
        select id
        from call_queue
        where campaign_id = $1
          and max_attempts = $2
          and status in ('queued', 'processing')
        order by id
        "#,
        campaign,
        before,
    )
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    for rows in open.chunks(BATCH.into()) {
        let mut transaction = store.begin_alone().await?;
        take_turn(&mut transaction, campaign).await?;
        // Whoever deletes the campaign waits here, before it has locked any row. It may say another number again by now.
        let campaign =
            sqlx::query!("select max_attempts from campaigns where id = $1 for key share", campaign)
                .fetch_optional(&mut *transaction)
                .await?;
        let Some(campaign) = campaign else { return Ok(()) };
        sqlx::query!(
            r#"
            update call_queue
            set max_attempts = $3,
                updated_at = now()
            where id in (
                select id
                from call_queue
                where id = any($1)
                  and max_attempts = $2
                  and status in ('queued', 'processing')
                order by id
                for no key update
            )
            "#,
            rows,
            before,
            campaign.max_attempts,
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
    }
    Ok(())
}

/// Two changes of one campaign have its rows follow one after the other, a batch at a time: the later one then finds either what
/// the earlier has written or what it is still to write, for which the earlier reads the later number. No lock on the campaign
/// can do that: whoever puts a number on the do-not-call list holds rows and may wait for the campaign's counters.
async fn take_turn(connection: &mut PgConnection, campaign: Uuid) -> sqlx::Result<()> {
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended($1, 0))",
        format!("limit_attempts {campaign}")
    )
    .execute(connection)
    .await?;
    Ok(())
}
