//! What was said in a call.

use axum::extract::State;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Api;
use crate::api::error::{ApiError, Failures};
use crate::api::extract::Path;
use crate::ids::CallSid;
use crate::store::transcripts::TranscriptRow;
use crate::store::{calls, transcripts};

/// Most turns in one answer. The longest call we allow has a few hundred.
const MOST_TURNS: u32 = 5_000;

/// Routes of transcripts.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(transcript))
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
    security(("bearer" = []), ("api_key" = [])),
)]
async fn transcript(
    State(api): State<Api>,
    Path(call_sid): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    let call_sid = CallSid::parse(&call_sid)
        .map_err(|error| ApiError::bad_request("invalid_path", error.to_string()))?;
    let organization = api.organization().await?;
    let transcripts = transcripts::by_call(&api.store, organization, &call_sid, MOST_TURNS).await?;
    if transcripts.is_empty() && calls::organization_of(&api.store, &call_sid).await? != Some(organization) {
        return Err(ApiError::not_found("there is no such call"));
    }
    let message_count = transcripts.len();
    Ok(axum::Json(Transcript { call_sid, transcripts, message_count, success: true }))
}
