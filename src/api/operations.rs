//! For those who run it: is it alive, is it ready, what does it count, what can it be asked.

use std::sync::LazyLock;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::auth::Peer;
use crate::api::error::{ApiError, Failures};
use crate::api::extract::Success;
use crate::api::routes::Routes;
use crate::api::{Api, auth};
use crate::bridge::spool::Condition;
use crate::telemetry::METRICS_CONTENT_TYPE;

/// A load balancer asks every few seconds and wants an answer before it asks again.
const PING_WITHIN: Duration = Duration::from_secs(2);

/// Routes for those who run the server.
pub fn router() -> Routes {
    Routes::new()
        .open(routes!(healthz))
        .open(routes!(readyz))
        .open(routes!(openapi_json))
        .administrator_by_handler(routes!(metrics))
}

/// The process.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`: a process that cannot answer does not.
    #[schema(example = "ok")]
    pub status: &'static str,
    /// Name of this process.
    pub node: String,
    /// Version of the program.
    pub version: &'static str,
}

/// Whether calls can be taken.
#[derive(Serialize, ToSchema)]
pub struct Readiness {
    /// `ready`, or `degraded` where calls are taken although not all is well; otherwise the answer is 503.
    #[schema(example = "ready")]
    pub status: &'static str,
    /// What is not well: `database_unavailable`, `spool_unavailable`, `spool_full`.
    pub degraded: Vec<&'static str>,
    /// Calls that are live on this node.
    pub calls_live: i64,
    /// Calls that may be live on this node.
    pub max_calls: usize,
}

/// The process is alive. Asks nobody else.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, description = "Alive", body = Success<Health>), Failures))]
async fn healthz(State(api): State<Api>) -> Success<Health> {
    Success::new(Health { status: "ok", node: api.settings.node.clone(), version: env!("CARGO_PKG_VERSION") })
}

/// New calls can be taken: the server is not being stopped, and the database answers or the agents are known that answer
/// calls without it.
///
/// While the database is away the answer is 200 with `degraded`: all servers share it, so sending calls elsewhere would
/// help nobody, and each of them takes calls better than none does.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses((status = 200, description = "Ready", body = Success<Readiness>), Failures))]
async fn readyz(State(api): State<Api>) -> Result<Success<Readiness>, ApiError> {
    if api.tasks.is_stopping() {
        return Err(ApiError::unavailable("draining", "the server is being stopped and takes no new calls"));
    }
    let mut degraded = Vec::new();
    if !matches!(timeout(PING_WITHIN, api.store.ping()).await, Ok(Ok(()))) {
        if api.known.is_empty() {
            return Err(ApiError::unavailable("database_unavailable", "the database cannot be reached"));
        }
        degraded.push("database_unavailable");
    }
    match api.bridge.spool().condition() {
        Condition::Good | Condition::Off => {}
        Condition::Full => degraded.push("spool_full"),
        Condition::Broken => degraded.push("spool_unavailable"),
    }
    let status = if degraded.is_empty() { "ready" } else { "degraded" };
    let calls_live = api.metrics.calls_live.get();
    Ok(Success::new(Readiness { status, degraded, calls_live, max_calls: api.settings.max_calls }))
}

/// What this process counts, in the `OpenMetrics` text that Prometheus reads.
///
/// Needs the administrator's key unless the server listens on a loopback address and has no public URL, so that only programs of the
/// same machine can ask.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "The numbers", content_type = "application/openmetrics-text", body = String), Failures),
)]
async fn metrics(
    State(api): State<Api>,
    peer: Peer,
    headers: HeaderMap,
) -> Result<impl IntoResponse, ApiError> {
    if !api.settings.open_metrics {
        auth::require_administrator(&api, &headers, peer).await?;
    }
    api.bridge.spool().observe();
    api.metrics.tasks.set(i64::try_from(api.tasks.running()).unwrap_or(i64::MAX));
    Ok(([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], api.metrics.encode()))
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
async fn openapi_json() -> impl IntoResponse {
    static DOCUMENT: LazyLock<String> = LazyLock::new(super::openapi_json);
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str())
}
