//! Calls that Kaleyra handled, and figures over them.

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Deserializer};
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::api::auth::Caller;
use crate::api::error::{ApiError, Failures};
use crate::api::extract::{Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::routes::Routes;
use crate::ingest::kaleyra::record::{day_of, zone};
use crate::store::kaleyra::figures::{self, AgentStats, CallVolume, DailyVolume, Range, StatusCount};
use crate::store::kaleyra::{self, KaleyraCallLog, LogFilter};

/// Days of figures when nobody says from when.
const USUAL_DAYS: i64 = 7;

/// Routes of Kaleyra's log.
pub fn router() -> Routes {
    Routes::new()
        .read(routes!(list_kaleyra_call_logs))
        .read(routes!(kaleyra_call_log))
        .read(routes!(kaleyra_call_volume))
        .read(routes!(kaleyra_agent_stats))
        .read(routes!(kaleyra_daily_volume))
        .read(routes!(kaleyra_status_breakdown))
}

/// A moment, or a day in India.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Moment(Timestamp),
    Day(Date),
}

impl When {
    /// The day in India.
    pub(super) fn day(self) -> Date {
        match self {
            Self::Moment(moment) => day_of(moment),
            Self::Day(day) => day,
        }
    }

    /// The first moment of it.
    fn start(self) -> Option<Timestamp> {
        match self {
            Self::Moment(moment) => Some(moment),
            Self::Day(day) => day.to_zoned(zone()).ok().map(|start| start.timestamp()),
        }
    }

    /// The first moment behind it: a moment is not in a range that ends with it, a day is.
    fn end(self) -> Option<Timestamp> {
        match self {
            Self::Moment(moment) => Some(moment),
            Self::Day(day) => Self::Day(day.tomorrow().ok()?).start(),
        }
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // A date is a date only; everything else says where it is.
        let day = || (text.len() == "2026-03-01".len()).then(|| text.parse().ok()).flatten();
        text.parse().map(Self::Moment).ok().or_else(|| day().map(Self::Day)).ok_or_else(|| {
            serde::de::Error::custom("not a day such as 2026-03-01, or a moment such as 2026-03-01T09:00:00Z")
        })
    }
}

/// Which legs are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LogQuery {
    /// Began then or later: a moment, or a day in India.
    #[param(value_type = Option<String>, example = "2026-03-01")]
    from: Option<When>,
    /// Began before this moment, or on this day in India at the latest.
    #[param(value_type = Option<String>, example = "2026-03-02")]
    to: Option<When>,
    /// `Incoming`, `CallForward` or `Click2Call`.
    #[param(example = "CallForward")]
    service: Option<String>,
    /// Kaleyra's word, such as `NOANSWER`.
    #[param(example = "NOANSWER")]
    status: Option<String>,
    /// Whom it went to, as Kaleyra writes it; the same as `callto`.
    #[param(example = "9201952685")]
    agent: Option<String>,
    /// Whom it went to, as Kaleyra writes it.
    #[param(example = "9201952685")]
    callto: Option<String>,
    /// With this lead.
    lead_id: Option<i64>,
}

/// Of which time figures are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RangeQuery {
    /// From this moment on, or from the beginning of this day in India; seven days before `to` when absent.
    #[param(value_type = Option<String>, example = "2026-03-01")]
    from: Option<When>,
    /// Before this moment, or until the end of this day in India; until now when absent.
    #[param(value_type = Option<String>, example = "2026-03-02")]
    to: Option<When>,
}

/// Legs of calls that Kaleyra handled, newest first.
#[utoipa::path(
    get, path = "/api/kaleyra/call-logs", tag = "kaleyra", params(LogQuery, PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<KaleyraCallLog>), Failures),
)]
async fn list_kaleyra_call_logs(
    caller: Caller,
    Query(query): Query<LogQuery>,
    Query(page): Query<PageQuery>,
) -> Result<Listing<KaleyraCallLog>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let LogQuery { from, to, service, status, agent, callto, lead_id } = query;
    if agent.is_some() && callto.is_some() && agent != callto {
        return Err(ApiError::bad_request(
            "invalid_query",
            "agent and callto mean the same; send one of them",
        ));
    }
    let filter = LogFilter {
        from: from.map(|from| from.start().ok_or_else(out_of_range)).transpose()?,
        to: to.map(|to| to.end().ok_or_else(out_of_range)).transpose()?,
        service,
        status: status.map(|status| status.to_uppercase()),
        callto: callto.or(agent),
        lead_id,
    };
    let (data, total) = kaleyra::list(&caller.store, caller.organization, &filter, limit, offset).await?;
    for row in &data {
        caller.does("kaleyra_call_log.read", &row.id);
    }
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// A leg of a call that Kaleyra handled.
#[utoipa::path(
    get, path = "/api/kaleyra/call-logs/{id}", tag = "kaleyra",
    params(("id" = String, Path, description = "Kaleyra's id of the leg")),
    responses((status = 200, description = "The leg as it was fetched last", body = Success<KaleyraCallLog>), Failures),
)]
async fn kaleyra_call_log(
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Success<KaleyraCallLog>, ApiError> {
    let found = kaleyra::find(&caller.store, caller.organization, &id).await?;
    let row = found.ok_or_else(|| ApiError::not_found("there is no such call in Kaleyra's log"))?;
    caller.does("kaleyra_call_log.read", &row.id);
    Ok(Success::new(row))
}

/// How many legs there were, by service.
#[utoipa::path(
    get, path = "/api/kaleyra/call-volume", tag = "kaleyra", params(RangeQuery),
    responses((status = 200, description = "The counts", body = Success<CallVolume>), Failures),
)]
async fn kaleyra_call_volume(
    caller: Caller,
    Query(query): Query<RangeQuery>,
) -> Result<Success<CallVolume>, ApiError> {
    let range = query.range(&caller).await?;
    Ok(Success::new(figures::call_volume(&caller.store, caller.organization, range).await?))
}

/// How agents did, from the legs that were forwarded to them.
///
/// `ANSWER`, `ANSWERED-A`, `ANSWERED-B` and `ACCEPTED` are answered; every other leg counts as missed.
#[utoipa::path(
    get, path = "/api/kaleyra/agent-stats", tag = "kaleyra", params(RangeQuery),
    responses((status = 200, description = "Agents, those who answered most first", body = Success<Vec<AgentStats>>), Failures),
)]
async fn kaleyra_agent_stats(
    caller: Caller,
    Query(query): Query<RangeQuery>,
) -> Result<Success<Vec<AgentStats>>, ApiError> {
    let range = query.range(&caller).await?;
    Ok(Success::new(figures::agent_stats(&caller.store, caller.organization, range).await?))
}

/// How many legs there were on each day in India that had any.
#[utoipa::path(
    get, path = "/api/kaleyra/daily-volume", tag = "kaleyra", params(RangeQuery),
    responses((status = 200, description = "Days, in their order", body = Success<Vec<DailyVolume>>), Failures),
)]
async fn kaleyra_daily_volume(
    caller: Caller,
    Query(query): Query<RangeQuery>,
) -> Result<Success<Vec<DailyVolume>>, ApiError> {
    let range = query.range(&caller).await?;
    Ok(Success::new(figures::daily_volume(&caller.store, caller.organization, range).await?))
}

/// How many legs ended how.
#[utoipa::path(
    get, path = "/api/kaleyra/status-breakdown", tag = "kaleyra", params(RangeQuery),
    responses((status = 200, description = "Statuses, the most frequent first", body = Success<Vec<StatusCount>>), Failures),
)]
async fn kaleyra_status_breakdown(
    caller: Caller,
    Query(query): Query<RangeQuery>,
) -> Result<Success<Vec<StatusCount>>, ApiError> {
    let range = query.range(&caller).await?;
    Ok(Success::new(figures::status_breakdown(&caller.store, caller.organization, range).await?))
}

impl RangeQuery {
    async fn range(self, caller: &Caller) -> Result<Range, ApiError> {
        let to = match self.to {
            Some(to) => to.end().ok_or_else(out_of_range)?,
            None => caller.store.now().await?,
        };
        let from = match self.from {
            Some(from) => from.start(),
            None => to.checked_sub(jiff::SignedDuration::from_hours(24 * USUAL_DAYS)).ok(),
        };
        let from = from.ok_or_else(out_of_range)?;
        if from >= to {
            return Err(ApiError::bad_request("invalid_query", "from must be earlier than the end of to"));
        }
        Ok(Range { from, to })
    }
}

fn out_of_range() -> ApiError {
    ApiError::bad_request("invalid_query", "from or to is beyond all calendars")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when(text: &str) -> Option<When> {
        serde_json::from_value(serde_json::Value::from(text)).ok()
    }

    #[test]
    fn a_day_is_one_in_india_and_the_whole_of_it() {
        let day = when("2026-03-01").unwrap();
        assert_eq!(day.start().unwrap().to_string(), "2026-02-28T18:30:00Z");
        assert_eq!(day.end().unwrap().to_string(), "2026-03-01T18:30:00Z");
        let moment = when("2026-03-01T20:00:00Z").unwrap();
        assert_eq!((moment.start(), moment.day().to_string().as_str()), (moment.end(), "2026-03-02"));
        for wrong in ["", "yesterday", "2026-02-30", "2026-03-01T20:00:00", "20260301"] {
            assert_eq!(when(wrong), None, "{wrong}");
        }
    }
}
