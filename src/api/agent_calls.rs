//! Calls that people took over from an agent: what happened, and what people make of it.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::body::present;
use crate::api::error::{ApiError, Failures};
use crate::api::extract::{
    Json, Listing, PageQuery, Pagination, Path, Query, Success, check_lengths, one_of,
};
use crate::api::routes::Routes;
use crate::store::agent_calls::{self, AgentCall, HandoffFilter, HandoffPatch};

const STATUSES: [&str; 7] = ["ringing", "connected", "completed", "no_answer", "busy", "failed", "canceled"];
// Longest texts, in characters: words for filtering, and notes for people to read.
const WORD: usize = 200;
const NOTES: usize = 20_000;
/// Most objections of one caller.
const OBJECTIONS: usize = 100;

/// Routes of handoffs.
pub fn router() -> Routes {
    Routes::new().read(routes!(list_agent_calls)).read(routes!(agent_call)).review(routes!(update_agent_call))
}

/// Which handoffs are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct HandoffQuery {
    /// With this lead.
    lead_id: Option<i64>,
    /// Of this campaign.
    campaign_id: Option<Uuid>,
    /// Of this call.
    parent_call_sid: Option<String>,
    /// `ringing`, `connected`, `completed`, `no_answer`, `busy`, `failed` or `canceled`.
    #[param(example = "completed")]
    status: Option<String>,
}

/// What people write of a handoff. A member that is absent stays; `null` empties it.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({"outcome": "appointment", "next_action": "send offer", "next_action_date": "2026-03-02T09:00:00Z", "objections": ["price"]}))]
pub struct UpdateAgentCall {
    /// What came of it.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub outcome: Option<Option<String>>,
    /// What is to be done.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub next_action: Option<Option<String>>,
    /// By when.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_action_date: Option<Option<Timestamp>>,
    /// Free text.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub agent_notes: Option<Option<String>>,
    /// What speaks against it: a list of anything.
    #[schema(value_type = Option<Vec<Object>>)]
    pub objections: Option<Vec<Value>>,
    /// How interested the caller is.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub interest_level: Option<Option<String>>,
}

/// Handoffs, newest first.
#[utoipa::path(
    get, path = "/api/agent-calls", tag = "calls", params(HandoffQuery, PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<AgentCall>), Failures),
)]
async fn list_agent_calls(
    caller: Caller,
    Query(query): Query<HandoffQuery>,
    Query(page): Query<PageQuery>,
) -> Result<Listing<AgentCall>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let HandoffQuery { lead_id, campaign_id, parent_call_sid, status } = query;
    one_of("status", status.as_deref(), &STATUSES)?;
    let filter = HandoffFilter { lead_id, campaign_id, parent_call_sid, status };
    let (data, total) = agent_calls::list(&caller.store, caller.organization, &filter, limit, offset).await?;
    for row in &data {
        caller.does_in_call("agent_call.read", row.id, Some(&row.parent_call_sid));
    }
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// One handoff.
#[utoipa::path(
    get, path = "/api/agent-calls/{id}", tag = "calls", params(("id" = Uuid, Path, description = "The handoff")),
    responses((status = 200, description = "The handoff as it is now", body = Success<AgentCall>), Failures),
)]
async fn agent_call(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<AgentCall>, ApiError> {
    found(&caller, "agent_call.read", agent_calls::find(&caller.store, caller.organization, id).await?)
}

/// Writes down what a person made of the call.
#[utoipa::path(
    patch, path = "/api/agent-calls/{id}", tag = "calls", params(("id" = Uuid, Path, description = "The handoff")),
    request_body = UpdateAgentCall,
    responses((status = 200, description = "The handoff as it is now", body = Success<AgentCall>), Failures),
)]
async fn update_agent_call(
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<UpdateAgentCall>,
) -> Result<Success<AgentCall>, ApiError> {
    let patch = body.checked()?;
    let changed = agent_calls::update(&caller.store, caller.organization, id, &patch).await?;
    found(&caller, "agent_call.changed", changed)
}

fn found(
    caller: &Caller,
    action: &'static str,
    handoff: Option<AgentCall>,
) -> Result<Success<AgentCall>, ApiError> {
    let row = handoff.ok_or_else(|| ApiError::not_found("there is no such handoff"))?;
    caller.does_in_call(action, row.id, Some(&row.parent_call_sid));
    Ok(Success::new(row))
}

impl UpdateAgentCall {
    fn checked(self) -> Result<HandoffPatch, ApiError> {
        let text = |member: &'_ Option<Option<String>>| member.clone().flatten();
        check_lengths(&[
            ("outcome", text(&self.outcome).as_deref(), WORD),
            ("next_action", text(&self.next_action).as_deref(), WORD),
            ("interest_level", text(&self.interest_level).as_deref(), WORD),
            ("agent_notes", text(&self.agent_notes).as_deref(), NOTES),
        ])?;
        if self.objections.as_ref().is_some_and(|list| list.len() > OBJECTIONS) {
            return Err(ApiError::invalid(format!("objections must have at most {OBJECTIONS} entries")));
        }
        let Self { outcome, next_action, next_action_date, agent_notes, objections, interest_level } = self;
        let objections = objections.map(Value::Array);
        Ok(HandoffPatch { outcome, next_action, next_action_date, agent_notes, objections, interest_level })
    }
}
