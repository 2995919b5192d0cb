//! The audit log: who has seen or changed which conversation.

use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::error::{ApiError, Failures};
use crate::api::extract::{Listing, PageQuery, Pagination, Query};
use crate::api::routes::Routes;
use crate::store::audit::{self, AuditEntry, Filter};

/// Routes of the audit log.
pub fn router() -> Routes {
    Routes::new().admin(routes!(audit_log))
}

/// Which entries are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// About the conversation of this call.
    #[param(example = "CA00000000000000000000000000000001")]
    call_sid: Option<String>,
    /// By this key.
    key_id: Option<Uuid>,
    /// A kind of thing and a verb, such as `transcript.read`.
    #[param(example = "transcript.read")]
    action: Option<String>,
    /// Then or later.
    #[param(value_type = Option<String>, format = DateTime, example = "2026-03-01T00:00:00Z")]
    from: Option<Timestamp>,
    /// Before.
    #[param(value_type = Option<String>, format = DateTime, example = "2026-04-01T00:00:00Z")]
    to: Option<Timestamp>,
}

/// Who has seen or changed what, latest first. Nothing of it can be changed or deleted.
#[utoipa::path(
    get, path = "/api/audit-log", tag = "audit log", params(AuditQuery, PageQuery),
    responses((status = 200, description = "Part of the log", body = Listing<AuditEntry>), Failures),
)]
async fn audit_log(
    caller: Caller,
    Query(query): Query<AuditQuery>,
    Query(page): Query<PageQuery>,
) -> Result<Listing<AuditEntry>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let AuditQuery { call_sid, key_id, action, from, to } = query;
    let filter = Filter { call_sid, key_id, action, from, to };
    let (data, total) = audit::list(&caller.store, caller.organization, &filter, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}
