//! Calls as those who sell by telephone count them.

use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::error::{ApiError, Failures};
use crate::api::extract::{Listing, PageQuery, Pagination, Path, Query, Success, one_of};
use crate::api::routes::Routes;
use crate::store::call_logs::{self, CallLog, LogFilter};

const DIRECTIONS: [&str; 2] = ["outbound", "inbound"];
const STATUSES: [&str; 6] = ["initiated", "ringing", "connected", "transferred", "completed", "failed"];

/// Routes of call logs.
pub fn router() -> Routes {
    Routes::new().read(routes!(list_call_logs)).read(routes!(call_log))
}

/// Which calls are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LogQuery {
    /// With this lead.
    lead_id: Option<i64>,
    /// Made for this campaign.
    campaign_id: Option<Uuid>,
    /// Answered by this agent.
    agent_id: Option<Uuid>,
    /// `outbound` or `inbound`.
    direction: Option<String>,
    /// `initiated`, `ringing`, `connected`, `transferred`, `completed` or `failed`.
    #[param(example = "completed")]
    status: Option<String>,
    /// Started then or later.
    #[param(value_type = Option<String>, format = DateTime, example = "2024-01-01T00:00:00Z")]
    from: Option<Timestamp>,
    /// Started before.
    #[param(value_type = Option<String>, format = DateTime, example = "2024-02-01T00:00:00Z")]
    to: Option<Timestamp>,
}

/// Calls of agents, newest first.
#[utoipa::path(
    get, path = "/api/call-logs", tag = "calls", params(LogQuery, PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<CallLog>), Failures),
)]
async fn list_call_logs(
    caller: Caller,
    Query(query): Query<LogQuery>,
    Query(page): Query<PageQuery>,
) -> Result<Listing<CallLog>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let LogQuery { lead_id, campaign_id, agent_id, direction, status, from, to } = query;
    one_of("direction", direction.as_deref(), &DIRECTIONS)?;
    one_of("status", status.as_deref(), &STATUSES)?;
    let filter = LogFilter { lead_id, campaign_id, agent_id, direction, status, from, to };
    let (data, total) = call_logs::list(&caller.store, caller.organization, &filter, limit, offset).await?;
    for row in &data {
        caller.does_in_call("call_log.read", row.id, Some(&row.call_sid));
    }
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// The call of an agent, by our id or the carrier's.
#[utoipa::path(
    get, path = "/api/call-logs/{id}", tag = "calls",
    params(("id" = String, Path, description = "Our id of the row, or the carrier's of the call")),
    responses((status = 200, description = "The call as it is now", body = Success<CallLog>), Failures),
)]
async fn call_log(caller: Caller, Path(id): Path<String>) -> Result<Success<CallLog>, ApiError> {
    let found = call_logs::find(&caller.store, caller.organization, &id).await?;
    let row = found.ok_or_else(|| ApiError::not_found("there is no such call"))?;
    caller.does_in_call("call_log.read", row.id, Some(&row.call_sid));
    Ok(Success::new(row))
}
