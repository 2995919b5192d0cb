//! What was said in a call.

use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::auth::Caller;
use crate::api::error::{ApiError, Failures};
use crate::api::extract::Path;
use crate::api::routes::Routes;
use crate::ids::CallSid;
use crate::store::transcripts::TranscriptRow;
use crate::store::{calls, transcripts};

/// Most turns in one answer. The longest call we allow has a few hundred.
const MOST_TURNS: u32 = 5_000;

/// Routes of transcripts.
pub fn router() -> Routes {
    Routes::new().read(routes!(transcript))
}

/// The conversation of a call. Its members have the names that clients of the earlier system know.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Transcript {
    /// The call.
    #[schema(value_type = String, example = "CA00000000000000000000000000000001")]
    pub call_sid: CallSid,
    /// Turns in conversation order.
    pub transcripts: Vec<TranscriptRow>,
    /// How many they are.
    pub message_count: usize,
    /// Always true.
    #[schema(example = true)]
    pub success: bool,
}

/// The conversation of a call, also while it is going on.
#[utoipa::path(
    get, path = "/transcripts/{callSid}", tag = "transcripts",
    params(("callSid" = String, Path, description = "The carrier's id of the call")),
    responses((status = 200, description = "The conversation so far", body = Transcript), Failures),
)]
async fn transcript(caller: Caller, Path(call_sid): Path<String>) -> Result<impl IntoResponse, ApiError> {
    let call_sid = CallSid::parse(&call_sid)
        .map_err(|error| ApiError::bad_request("invalid_path", error.to_string()))?;
    let organization = caller.organization;
    let transcripts = transcripts::by_call(&caller.store, organization, &call_sid, MOST_TURNS).await?;
    if transcripts.is_empty() && calls::organization_of(&caller.store, &call_sid).await? != Some(organization)
    {
        return Err(ApiError::not_found("there is no such call"));
    }
    caller.does_in_call("transcript.read", &call_sid, Some(call_sid.as_str()));
    let message_count = transcripts.len();
    Ok(axum::Json(Transcript { call_sid, transcripts, message_count, success: true }))
}
