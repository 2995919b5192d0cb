//! How long words and payloads are kept.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::auth::Caller;
use crate::api::body::Problems;
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Query, Success};
use crate::api::routes::Routes;
use crate::store::privacy::retention::{self, Days, Decided, Policy, Run, Trigger};

/// Ten years: longer is for ever.
const MOST_DAYS: i32 = 3650;

/// Routes of retention.
pub fn router() -> Routes {
    Routes::new()
        .admin(routes!(retention_policy, decide_retention))
        .admin(routes!(list_retention_runs, dry_run_retention))
}

/// How long things are to be kept. Both members are needed; `null` is for ever.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecideRetention {
    /// Days, 1 to 3650, for what was said and what was written from it.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required, example = 90)]
    pub transcript_days: Option<i32>,
    /// Days, 1 to 3650, for what others sent as they sent it.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required, example = 30)]
    pub payload_days: Option<i32>,
    /// A dry run of these very days, at most a day old: whoever keeps less than before has to have looked at what goes.
    #[serde(default)]
    pub confirm: Option<Uuid>,
}

/// What to look at.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRun {
    /// Must be true: what is removed is removed at night, or by the command line.
    #[schema(example = true)]
    pub dry_run: bool,
}

/// How long things are kept.
#[utoipa::path(
    get, path = "/api/retention", tag = "privacy",
    responses((status = 200, description = "The policy; without one everything is kept", body = Success<Policy>), Failures),
)]
async fn retention_policy(caller: Caller) -> Result<Success<Policy>, ApiError> {
    Ok(Success::new(retention::policy(&caller.store, caller.organization).await?))
}

/// Decides how long things are kept. What keeps more is in force at once. Keeping less than before waits as `wanted`, beside
/// what is in force, until it is confirmed: decide, make a dry run (`POST /api/retention/runs`), look at its figures, and
/// decide the same again with its id as `confirm`.
#[utoipa::path(
    put, path = "/api/retention", tag = "privacy", request_body = DecideRetention,
    responses(
        (status = 200, description = "The policy as it is now", body = Success<Policy>),
        (status = 409, description = "`not_looked_at`: `confirm` is no dry run of these days within the last 24 hours", body = Failure),
        Failures,
    ),
)]
async fn decide_retention(
    caller: Caller,
    Json(body): Json<DecideRetention>,
) -> Result<Success<Policy>, ApiError> {
    let DecideRetention { transcript_days, payload_days, confirm } = body;
    let mut problems = Problems::default();
    for (field, days) in [("transcript_days", transcript_days), ("payload_days", payload_days)] {
        problems.range(field, days.unwrap_or(1), 1, MOST_DAYS);
    }
    problems.none()?;
    let days = Days { transcript_days, payload_days };
    match retention::decide(&caller.store, caller.organization, days, confirm).await? {
        Decided::Policy(policy) => {
            caller.does("retention.decided", caller.organization);
            Ok(Success::new(policy))
        }
        Decided::NotLookedAt => Err(ApiError::conflict(
            "not_looked_at",
            "confirm must name a dry run of these very days that is at most 24 hours old; decide without confirm, post \
             {\"dry_run\": true} to /api/retention/runs, and send its id",
        )),
    }
}

/// Runs, latest first: what was removed at night, and what dry runs have said.
#[utoipa::path(
    get, path = "/api/retention/runs", tag = "privacy", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<Run>), Failures),
)]
async fn list_retention_runs(
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Listing<Run>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = retention::runs(&caller.store, caller.organization, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Says what the wanted days would remove now, or those in force where none are wanted, and changes nothing else.
#[utoipa::path(
    post, path = "/api/retention/runs", tag = "privacy", request_body = StartRun,
    responses((status = 201, description = "What would be removed", body = Success<Run>), Failures),
)]
async fn dry_run_retention(
    State(api): State<Api>,
    caller: Caller,
    Json(body): Json<StartRun>,
) -> Result<(StatusCode, Success<Run>), ApiError> {
    if !body.dry_run {
        return Err(ApiError::invalid(
            "dry_run must be true: what is too old is removed at night, or by `voicebridge retention`",
        ));
    }
    let organization = caller.organization;
    let days = retention::policy(&caller.store, organization).await?.looked_at();
    // Runs are the server's to write, and this one may take its time: no transaction is open meanwhile.
    caller.does("retention.looked_at", organization);
    caller.keep().await?;
    let work = retention::dry_run(&api.store, organization, days, Trigger::Api);
    let message = "there is too much to look through in a request; use `voicebridge retention --dry-run`";
    let run = ApiError::unless_it_takes_too_long(work, message).await?;
    Ok((StatusCode::CREATED, Success::new(run)))
}
