//! VAPI tells of calls that its assistants have answered.

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::HeaderMap;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::UtoipaMethodRouterExt as _;
use utoipa_axum::routes;

use crate::api::Api;
use crate::api::auth;
use crate::api::body::{json_of, unreadable};
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::Success;
use crate::api::routes::Routes;
use crate::api::vapi_accounts::secret_sha256;
use crate::ids::OrganizationId;
use crate::ingest::vapi::{self, Message};
use crate::lifecycle::report::Reported;
use crate::store::vapi_accounts;

/// Largest report: what was said in an hour, with the time of every word, is a tenth of it.
const MOST_BYTES: usize = 4 << 20;
const SECRET: &str = "x-vapi-secret";

/// The route of VAPI's messages.
pub fn router() -> Routes {
    Routes::new().signed(routes!(vapi_webhook).layer(DefaultBodyLimit::max(MOST_BYTES)))
}

/// What came of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportOutcome {
    /// The call was not on record, and is now.
    Created,
    /// The call's record says what the report says.
    Written,
    /// Our own records tell of the call's end; the report is kept beside them.
    Beside,
    /// This report, or a newer one, was on record.
    Known,
    /// The organisation has no such call, nor an agent that is this assistant. Nothing was kept.
    Unknown,
    /// Not a report of a call that is over. Nothing was kept.
    Ignored,
}

/// What came of a message.
#[derive(Serialize, ToSchema)]
pub struct Taken {
    /// In a word.
    pub outcome: ReportOutcome,
}

/// A message of VAPI. Of the `end-of-call-report` the call is written down, once however often it comes; all others are
/// taken and ignored.
///
/// The secret says whose calls are reported: that of a `/api/vapi-accounts` those of its organisation, and the server's own
/// `VAPI_WEBHOOK_SECRET` those of the default one. Calls and assistants of others are not looked at.
#[utoipa::path(
    post, path = "/api/vapi/webhook", tag = "other systems",
    request_body(
        content = Object, description = "A server message as VAPI sends it, up to 4 MiB",
        example = json!({"message": {
            "type": "end-of-call-report", "timestamp": 1_730_279_105_000_u64, "endedReason": "customer-ended-call",
            "startedAt": "2024-10-30T09:00:00Z", "endedAt": "2024-10-30T09:05:00Z", "durationSeconds": 300,
            "call": {
                "id": "0191e0a0-0000-7000-8000-000000000002", "type": "inboundPhoneCall",
                "phoneCallProviderId": "CA00000000000000000000000000000001", "assistantId": "asst_1",
                "customer": {"number": "+14155550123"}
            },
            "artifact": {"messages": [
                {"role": "bot", "message": "Good morning.", "time": 1_730_278_801_500_u64, "secondsFromStart": 1.5},
                {"role": "user", "message": "When are you open?", "secondsFromStart": 3}
            ]}
        }}),
    ),
    responses(
        (status = 200, description = "It was taken, also where nothing was kept of it", body = Success<Taken>),
        (status = 401, description = "`invalid_secret`", body = Failure),
        (status = 403, description = "`vapi_not_configured`: there is no secret of VAPI yet", body = Failure),
        Failures,
    ),
    security(("vapi" = []), ("bearer" = [])),
)]
async fn vapi_webhook(
    State(api): State<Api>,
    headers: HeaderMap,
    request: Request,
) -> Result<Success<Taken>, ApiError> {
    let organization = sender(&api, &headers).await?;
    let body: Value = json_of(request).await?;
    let outcome = match vapi::read(&body, Timestamp::now()).map_err(|wrong| unreadable(&wrong))? {
        Message::Other => ReportOutcome::Ignored,
        Message::Report(report) => {
            let reported = vapi::take(&api.store, organization, &report).await?;
            if reported == Reported::Unknown {
                tracing::warn!(
                    "VAPI reported a call that is not on record, of an assistant that is no agent of ours: set the \
                     agent's vapi_assistant_id"
                );
            }
            reported.into()
        }
    };
    api.metrics.reported("vapi", outcome.as_str());
    Ok(Success::new(Taken { outcome }))
}

/// Whose reports come with the secret that is shown.
async fn sender(api: &Api, headers: &HeaderMap) -> Result<OrganizationId, ApiError> {
    let of_server = &api.settings.vapi_webhook_secrets;
    if let Some(shown) = auth::shown_secret(headers, SECRET) {
        if auth::is_one_of(shown, of_server) {
            return Ok(api.default_organization().await?);
        }
        if let Some(found) = vapi_accounts::organization_of(&api.store, &secret_sha256(shown)).await? {
            return Ok(found);
        }
    }
    if of_server.is_empty() && !vapi_accounts::is_any(&api.store).await? {
        return Err(ApiError::forbidden(
            "vapi_not_configured",
            "no report of VAPI is taken: make a secret by POST /api/vapi-accounts or set VAPI_WEBHOOK_SECRET, and enter it at \
             VAPI",
        ));
    }
    api.metrics.reported("vapi", "refused");
    Err(ApiError::wrong_secret(
        "this is not the secret of an account, as POST /api/vapi-accounts shows it, nor VAPI_WEBHOOK_SECRET; send it as \
         X-Vapi-Secret or Authorization: Bearer …",
    ))
}

impl ReportOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Written => "written",
            Self::Beside => "beside",
            Self::Known => "known",
            Self::Unknown => "unknown",
            Self::Ignored => "ignored",
        }
    }
}

impl From<Reported> for ReportOutcome {
    fn from(reported: Reported) -> Self {
        match reported {
            Reported::Created => Self::Created,
            Reported::Written => Self::Written,
            Reported::Beside => Self::Beside,
            Reported::Known => Self::Known,
            Reported::Unknown => Self::Unknown,
        }
    }
}
