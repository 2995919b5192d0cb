//! Calls: what happened in each, and the report at its end.

use axum::extract::State;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::error::{ApiError, Failures};
use crate::api::extract::{Listing, PageQuery, Pagination, Path, Query, Success, one_of};
use crate::store::calls::{self, CallFilter, CallRecord};

const STATUSES: [&str; 3] = ["live", "completed", "failed"];
const ROUTING_STATUSES: [&str; 4] = ["transferred_to_team", "team_no_answer", "direct_to_agent", "completed"];

/// Routes of calls.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_calls)).routes(routes!(call))
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
#[utoipa::path(
    get, path = "/api/calls", tag = "calls", params(CallQuery, PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<CallRecord>), Failures),
    security(("bearer" = []), ("api_key" = [])),
)]
async fn list_calls(
    State(api): State<Api>,
    Query(query): Query<CallQuery>,
    Query(page): Query<PageQuery>,
) -> Result<Listing<CallRecord>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let CallQuery { agent_id, phone_number_id, from, to, status, routing_status } = query;
    one_of("status", status.as_deref(), &STATUSES)?;
    one_of("routing_status", routing_status.as_deref(), &ROUTING_STATUSES)?;
    let filter = CallFilter { agent_id, phone_number_id, from, to, status, routing_status };
    let (data, total) = calls::list(&api.store, api.organization().await?, &filter, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// A call, by the carrier's id or ours.
#[utoipa::path(
    get, path = "/api/calls/{callSid}", tag = "calls",
    params(("callSid" = String, Path, description = "The carrier's id of the call, or ours", example = "CA00000000000000000000000000000001")),
    responses((status = 200, description = "The call as it is now", body = Success<CallRecord>), Failures),
    security(("bearer" = []), ("api_key" = [])),
)]
async fn call(State(api): State<Api>, Path(call): Path<String>) -> Result<Success<CallRecord>, ApiError> {
    let found = calls::find(&api.store, api.organization().await?, &call).await?;
    found.map(Success::new).ok_or_else(|| ApiError::not_found("there is no such call"))
}
