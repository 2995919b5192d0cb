//! What was and is to be told to endpoints.

use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Listing, PageQuery, Pagination, Path, Query, Success, one_of};
use crate::api::routes::Routes;
use crate::store::webhooks::deliveries::{self, Delivery, DeliveryDetails, DeliveryFilter, Refused};
use crate::store::webhooks::{EVENT_TYPES, PING};

const STATUSES: [&str; 3] = ["pending", "delivered", "dead"];

/// Routes of deliveries.
pub fn router() -> Routes {
    Routes::new()
        .read(routes!(list_webhook_deliveries))
        .read(routes!(webhook_delivery))
        .operate(routes!(replay_webhook))
}

/// Which deliveries are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DeliveryQuery {
    /// `pending`, `delivered` or `dead`.
    #[param(example = "dead")]
    status: Option<String>,
    /// Where they go.
    endpoint_id: Option<Uuid>,
    /// What they tell.
    #[param(example = "call.completed")]
    event_type: Option<String>,
    /// Which call they are about.
    #[param(example = "CA00000000000000000000000000000001")]
    call_sid: Option<String>,
}

/// Deliveries, newest first.
#[utoipa::path(
    get, path = "/api/webhook-deliveries", tag = "webhooks", params(DeliveryQuery, PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<Delivery>), Failures),
)]
async fn list_webhook_deliveries(
    caller: Caller,
    Query(query): Query<DeliveryQuery>,
    Query(page): Query<PageQuery>,
) -> Result<Listing<Delivery>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let DeliveryQuery { status, endpoint_id, event_type, call_sid } = query;
    one_of("status", status.as_deref(), &STATUSES)?;
    let types: Vec<_> = EVENT_TYPES.into_iter().chain([PING]).collect();
    one_of("event_type", event_type.as_deref(), &types)?;
    // PostgreSQL has no NUL; no call has, either.
    let call_sid = call_sid.map(|call_sid| call_sid.replace('\0', "\u{fffd}"));
    let filter = DeliveryFilter { status, endpoint: endpoint_id, event_type, call_sid };
    let (data, total) = deliveries::list(&caller.store, caller.organization, &filter, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// A delivery with what is sent and the requests so far.
#[utoipa::path(
    get, path = "/api/webhook-deliveries/{id}", tag = "webhooks", params(("id" = Uuid, Path, description = "The delivery")),
    responses((status = 200, description = "The delivery as it is now", body = Success<DeliveryDetails>), Failures),
)]
async fn webhook_delivery(
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<Success<DeliveryDetails>, ApiError> {
    let found = deliveries::find(&caller.store, caller.organization, id).await?;
    let found = found.ok_or_else(|| refused(Refused::NotFound, "delivery"))?;
    caller.does_in_call("webhook_delivery.read", id, found.delivery.call_sid.as_deref());
    Ok(Success::new(found))
}

/// Sends it again, with the same id and body, whatever came of it before.
#[utoipa::path(
    post, path = "/api/webhook-deliveries/{id}/replay", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The delivery")),
    responses(
        (status = 202, description = "It will be sent", body = Success<Delivery>),
        (status = 409, description = "`endpoint_disabled`, `delivery_under_way` or `delivery_emptied`", body = Failure),
        Failures,
    ),
)]
async fn replay_webhook(
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<(StatusCode, Success<Delivery>), ApiError> {
    let replayed = deliveries::replay(&caller.store, caller.organization, id).await?;
    let delivery = replayed.map_err(|why| refused(why, "delivery"))?;
    caller.does_in_call("webhook_delivery.replayed", id, delivery.call_sid.as_deref());
    Ok((StatusCode::ACCEPTED, Success::new(delivery)))
}

/// Why nothing is sent, as the client is told it.
pub(super) fn refused(why: Refused, what: &str) -> ApiError {
    match why {
        Refused::NotFound => ApiError::not_found(format!("there is no such {what}")),
        Refused::EndpointDisabled => {
            ApiError::conflict("endpoint_disabled", "nothing is sent to this endpoint; enable it first")
        }
        Refused::UnderWay => {
            ApiError::conflict("delivery_under_way", "it is being sent right now; look at what comes of it")
        }
        Refused::Emptied => ApiError::conflict(
            "delivery_emptied",
            "what was sent is not kept any more; read what the call's records say",
        ),
    }
}
