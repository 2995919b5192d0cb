//! Fetching Kaleyra's log of calls.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::auth::Caller;
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::kaleyra::When;
use crate::api::routes::Routes;
use crate::ingest::kaleyra::{BeginError, Days};
use crate::store::kaleyra::syncs::{self, KaleyraSync};

/// Longest that a request waits for the end of a run: well within the time that a request has.
const WAIT_WITHIN: Duration = Duration::from_secs(10);

/// Routes of syncs.
pub fn router() -> Routes {
    Routes::new().operate(routes!(sync_calls)).read(routes!(list_kaleyra_syncs)).read(routes!(kaleyra_sync))
}

/// The days to fetch, both included. Kaleyra is asked by days in India; a moment stands for the day that it is of.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncCalls {
    /// First day, or a moment of it; the day before `to` when absent.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "2026-03-01")]
    from: Option<When>,
    /// Last day, or a moment of it; today when absent. At most 366 days in all, and not in the future.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "2026-03-02")]
    to: Option<When>,
}

/// Whether to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WaitQuery {
    /// Answer once the run has ended, if it does within ten seconds.
    #[serde(default)]
    #[param(default = false)]
    wait: bool,
}

/// Fetches Kaleyra's log of some days, in the background.
///
/// New rows are added, those on record are brought up to date, and nothing is removed. A run of the same days that was
/// interrupted, or has failed, within the last day is carried on from where it was. One run at a time.
#[utoipa::path(
    post, path = "/calls/sync", tag = "kaleyra", request_body = SyncCalls, params(WaitQuery),
    responses(
        (status = 200, description = "The run, which has ended; only when waited for", body = Success<KaleyraSync>),
        (status = 202, description = "The run, which goes on", body = Success<KaleyraSync>, headers(("Location" = String, description = "The run"))),
        (status = 409, description = "`not_configured`, or `sync_running` with its `sync_id`", body = Failure),
        Failures,
    ),
)]
async fn sync_calls(
    State(api): State<Api>,
    caller: Caller,
    Query(WaitQuery { wait }): Query<WaitQuery>,
    Json(SyncCalls { from, to }): Json<SyncCalls>,
) -> Result<impl IntoResponse, ApiError> {
    let days = Days::new(from.map(When::day), to.map(When::day), api.clock.now());
    let days = days.map_err(|error| ApiError::invalid(error.to_string()))?;
    let kaleyra = api.kaleyra.as_ref().ok_or_else(|| {
        ApiError::conflict("not_configured", "Kaleyra is not set up on this server: set KALEYRA_API_KEY")
    })?;
    let started = kaleyra.begin(caller.organization, days).await?;
    caller.does("kaleyra_sync.started", started.id);
    caller.keep().await?;
    let id = started.id;
    let has_ended = wait && timeout(WAIT_WITHIN, started.ended).await.is_ok();
    let run = syncs::find(&caller.store, caller.organization, id).await?;
    let run = run.ok_or_else(|| ApiError::not_found("the sync is gone, with its organisation"))?;
    let status = if has_ended && run.status != "running" { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, [(header::LOCATION, format!("/api/kaleyra/syncs/{id}"))], Success::new(run)))
}

/// Runs that fetched Kaleyra's log, newest first.
#[utoipa::path(
    get, path = "/api/kaleyra/syncs", tag = "kaleyra", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<KaleyraSync>), Failures),
)]
async fn list_kaleyra_syncs(
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Listing<KaleyraSync>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = syncs::list(&caller.store, caller.organization, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// How far a run is, and what has come of it.
#[utoipa::path(
    get, path = "/api/kaleyra/syncs/{id}", tag = "kaleyra", params(("id" = Uuid, Path, description = "The run")),
    responses((status = 200, description = "The run as it is now", body = Success<KaleyraSync>), Failures),
)]
async fn kaleyra_sync(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<KaleyraSync>, ApiError> {
    let found = syncs::find(&caller.store, caller.organization, id).await?;
    found.map(Success::new).ok_or_else(|| ApiError::not_found("there is no such sync"))
}

impl From<BeginError> for ApiError {
    fn from(error: BeginError) -> Self {
        let message = error.to_string();
        match error {
            BeginError::NotConfigured => Self::conflict("not_configured", message),
            BeginError::Running(id) => {
                Self::conflict("sync_running", message).with_details(json!({ "sync_id": id }))
            }
            BeginError::Stopping => Self::unavailable("stopping", message),
            BeginError::Database(error) => error.into(),
        }
    }
}
