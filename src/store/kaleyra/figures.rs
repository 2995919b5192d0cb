//! Figures over Kaleyra's log, by the functions of the database.
//!
//! They count what whoever calls them sees, and the server itself sees the rows of all organisations. So they are only ever
//! called as one organisation: by the store of a request, or by one made for this.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff_sqlx::ToSqlx;
use serde::Serialize;

use crate::ids::OrganizationId;
use crate::store::Store;

/// Legs of a range of time: `from` on, before `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first moment.
    pub from: Timestamp,
    /// The first moment behind it.
    pub to: Timestamp,
}

/// Legs by service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct CallVolume {
    /// Of any service.
    #[schema(example = 4)]
    pub total: i64,
    /// `Incoming`.
    #[schema(example = 1)]
    pub incoming: i64,
    /// `CallForward`.
    #[schema(example = 2)]
    pub forwarded: i64,
    /// `Click2Call`.
    #[schema(example = 1)]
    pub click2call: i64,
}

/// How an agent did, from `CallForward` legs alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct AgentStats {
    /// As Kaleyra writes it.
    #[schema(example = "9201952685")]
    pub agent_number: String,
    /// `ANSWER`, `ANSWERED-A`, `ANSWERED-B` and `ACCEPTED`.
    #[schema(example = 12)]
    pub calls_answered: i64,
    /// Of those.
    #[schema(example = 1430)]
    pub total_talk_seconds: i64,
    /// All others.
    #[schema(example = 3)]
    pub missed_calls: i64,
}

/// Legs of a day in India.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct DailyVolume {
    /// The day.
    #[schema(value_type = Date, example = "2026-03-02")]
    pub date: Date,
    /// `Incoming`.
    pub incoming: i64,
    /// `CallForward`.
    pub forwarded: i64,
}

/// Legs of a status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct StatusCount {
    /// Kaleyra's word.
    #[schema(example = "ANSWER")]
    pub status: String,
    /// How many there are.
    pub count: i64,
}

/// The database as this organisation sees it: never the server's own view of all of them.
fn tenant(store: &Store, organization: OrganizationId) -> Store {
    if store.request.is_some() { store.clone() } else { store.of_organization(organization) }
}

/// Legs in all, and by service.
pub async fn call_volume(
    store: &Store,
    organization: OrganizationId,
    range: Range,
) -> sqlx::Result<CallVolume> {
    sqlx::query_as!(
        CallVolume,
        r#"
        select total as "total!", incoming as "incoming!", forwarded as "forwarded!", click2call as "click2call!"
        from get_kaleyra_call_volume($1, $2)
        "#,
        range.from.to_sqlx() as _,
        range.to.to_sqlx() as _,
    )
    .fetch_one(&mut *tenant(store, organization).connection().await?)
    .await
}

/// Agents, those who answered most first.
pub async fn agent_stats(
    store: &Store,
    organization: OrganizationId,
    range: Range,
) -> sqlx::Result<Vec<AgentStats>> {
    sqlx::query_as!(
        AgentStats,
        r#"
        select agent_number as "agent_number!", calls_answered as "calls_answered!",
               total_talk_seconds as "total_talk_seconds!", missed_calls as "missed_calls!"
        from get_kaleyra_agent_stats($1, $2)
        limit 10000
        "#,
        range.from.to_sqlx() as _,
        range.to.to_sqlx() as _,
    )
    .fetch_all(&mut *tenant(store, organization).connection().await?)
    .await
}

/// Days in India that have any, in their order.
pub async fn daily_volume(
    store: &Store,
    organization: OrganizationId,
    range: Range,
) -> sqlx::Result<Vec<DailyVolume>> {
    let days = sqlx::query!(
        r#"
        select date as "date!: jiff_sqlx::Date", incoming as "incoming!", forwarded as "forwarded!"
        from get_kaleyra_daily_volume($1, $2)
        limit 10000
        "#,
        range.from.to_sqlx() as _,
        range.to.to_sqlx() as _,
    )
    .fetch_all(&mut *tenant(store, organization).connection().await?)
    .await?;
    let day = |date: jiff_sqlx::Date, incoming, forwarded| DailyVolume {
        date: date.to_jiff(),
        incoming,
        forwarded,
    };
    Ok(days.into_iter().map(|row| day(row.date, row.incoming, row.forwarded)).collect())
}

/// Statuses, the most frequent first.
pub async fn status_breakdown(
    store: &Store,
    organization: OrganizationId,
    range: Range,
) -> sqlx::Result<Vec<StatusCount>> {
    sqlx::query_as!(
        StatusCount,
        r#"
        select status as "status!", count as "count!"
        from get_kaleyra_status_breakdown($1, $2)
        limit 10000
        "#,
        range.from.to_sqlx() as _,
        range.to.to_sqlx() as _,
    )
    .fetch_all(&mut *tenant(store, organization).connection().await?)
    .await
}
