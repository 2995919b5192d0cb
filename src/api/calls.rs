//! Calls: what happened in each, and the report at its end.

use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::error::{ApiError, Failures};
use crate::api::extract::{Listing, PageQuery, Pagination, Path, Query, Success, one_of};
use crate::api::routes::Routes;
use crate::ids::CallSid;
use crate::store::calls::{self, CallFilter, CallRecord};

const STATUSES: [&str; 3] = ["live", "completed", "failed"];
const ROUTING_STATUSES: [&str; 4] = ["transferred_to_team", "team_no_answer", "direct_to_agent", "completed"];

/// Routes of calls.
pub fn router() -> Routes {
    Routes::new().read(routes!(list_calls)).read(routes!(call))
}

/// Which calls are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct CallQuery {
    /// Answered by this agent.
    agent_id: Option<Uuid>,
    /// To this number of ours.
    phone_number_id: Option<Uuid>,
    /// Heard of then or later.
    #[param(value_type = Option<String>, format = DateTime, example = "2024-01-01T00:00:00Z")]
    from: Option<Timestamp>,
    /// Heard of before.
    #[param(value_type = Option<String>, format = DateTime, example = "2024-02-01T00:00:00Z")]
    to: Option<Timestamp>,
    /// `completed` or `failed` as the report says, or `live` while there is none.
    #[param(example = "completed")]
    status: Option<String>,
    /// Where they went: `transferred_to_team`, `team_no_answer`, `direct_to_agent` or `completed`.
    routing_status: Option<String>,
}

/// Calls, newest first.
///
/// Reports may be megabytes, so a list has what is small of them: of `data` the figures in `call`, `disposition` and
/// `carrier_status`, of each event `type`, `timestamp` and short texts and numbers of its `details`. The whole of a call is at
/// `/api/calls/{callSid}`.
#[utoipa::path(
    get, path = "/api/calls", tag = "calls", params(CallQuery, PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<CallRecord>), Failures),
)]
async fn list_calls(
    caller: Caller,
    Query(query): Query<CallQuery>,
    Query(page): Query<PageQuery>,
) -> Result<Listing<CallRecord>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let CallQuery { agent_id, phone_number_id, from, to, status, routing_status } = query;
    one_of("status", status.as_deref(), &STATUSES)?;
    one_of("routing_status", routing_status.as_deref(), &ROUTING_STATUSES)?;
    let filter = CallFilter { agent_id, phone_number_id, from, to, status, routing_status };
    let (data, total) = calls::list(&caller.store, caller.organization, &filter, limit, offset).await?;
    for row in &data {
        caller.does_in_call("call.read", row.id, row.call_sid.as_ref().map(CallSid::as_str));
    }
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// A call, by the carrier's id or ours.
#[utoipa::path(
    get, path = "/api/calls/{callSid}", tag = "calls",
    params(("callSid" = String, Path, description = "The carrier's id of the call, or ours", example = "CA00000000000000000000000000000001")),
    responses((status = 200, description = "The call as it is now", body = Success<CallRecord>), Failures),
)]
async fn call(caller: Caller, Path(call): Path<String>) -> Result<Success<CallRecord>, ApiError> {
    let found = calls::find(&caller.store, caller.organization, &call).await?;
    let row = found.ok_or_else(|| ApiError::not_found("there is no such call"))?;
    caller.does_in_call("call.read", row.id, row.call_sid.as_ref().map(CallSid::as_str));
    Ok(Success::new(row))
}
