//! How far a campaign is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::ids::OrganizationId;
use crate::store::Store;
use crate::store::campaigns::campaign;

/// How far a campaign is.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Stats {
    /// Leads in the queue by status: `queued`, `processing`, `completed`, `failed`.
    #[schema(example = json!({"queued": 12, "processing": 2, "completed": 5, "failed": 1}))]
    pub queue: BTreeMap<String, u64>,
    /// When the next one is due; null when none is queued. May be over: then it waits for its turn.
    pub next_call_at: Option<Timestamp>,
    /// Why leads failed, and how many.
    #[schema(example = json!({"blocked_by_rule: the number is on the do-not-call list": 1}))]
    pub failures: BTreeMap<String, u64>,
    /// Tries by what came of them; `going_on` are those of which nothing has come yet.
    #[schema(example = json!({"answered": 5, "no_answer": 3, "going_on": 2}))]
    pub attempts: BTreeMap<String, u64>,
    /// Calls the carrier took.
    pub total_calls: i32,
    /// Those that somebody or something answered.
    pub answered_calls: i32,
    /// Those that people took over.
    pub transferred_calls: i32,
    /// Average of their sentiment scores.
    pub avg_sentiment_score: Option<f64>,
}

/// Most different reasons that are named.
const MOST_REASONS: i64 = 20;

/// How far a campaign is. `None`: no such campaign in this organisation.
pub async fn stats(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<Option<Stats>> {
    let Some(campaign) = campaign(store, organization, id).await? else { return Ok(None) };
    let queue = sqlx::query!(
        r#"
        select status, count(*) as "count!", min(next_retry_at) as "next: jiff_sqlx::Timestamp"
        from call_queue
        where campaign_id = $1
        group by status
        "#,
        id,
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    let failures = sqlx::query!(
        r#"
        select coalesce(last_error, '') as "reason!", count(*) as "count!"
        from call_queue
        where campaign_id = $1 and status = 'failed'
        group by 1
        order by 2 desc, 1
        limit $2
        "#,
        id,
        MOST_REASONS,
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    let attempts = sqlx::query!(
        r#"
        select coalesce(outcome, 'going_on') as "outcome!", count(*) as "count!"
        from call_attempts
        where campaign_id = $1
        group by 1
        "#,
        id,
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    let next = queue.iter().find(|row| row.status == "queued").and_then(|row| row.next);
    let mut counts: BTreeMap<String, u64> =
        ["queued", "processing", "completed", "failed"].map(|status| (status.to_owned(), 0)).into();
    counts.extend(queue.into_iter().map(|row| (row.status, row.count.unsigned_abs())));
    Ok(Some(Stats {
        queue: counts,
        next_call_at: next.map(jiff_sqlx::Timestamp::to_jiff),
        failures: failures.into_iter().map(|row| (row.reason, row.count.unsigned_abs())).collect(),
        attempts: attempts.into_iter().map(|row| (row.outcome, row.count.unsigned_abs())).collect(),
        total_calls: campaign.total_calls,
        answered_calls: campaign.answered_calls,
        transferred_calls: campaign.transferred_calls,
        avg_sentiment_score: campaign.avg_sentiment_score,
    }))
}
