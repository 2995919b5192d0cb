//! What every request passes through: an id, a span, a deadline, and headers that keep browsers from doing harm.

use std::any::Any;
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout};
use tracing::Instrument;
use uuid::Uuid;

use crate::api::error::ApiError;

/// Largest body of a request. Twilio's forms have a few hundred bytes, our own JSON a few thousand.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// Longest a request may take. The store gives up long before.
const WITHIN: Duration = Duration::from_secs(30);
/// Names a request in our log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Unless the answer says otherwise: no guessing of types, no framing, no scripts, nothing kept.
const SAFE_HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Gives the request an id and a span, ends it when it takes too long, and notes how it went. Only the pattern of the
/// path is logged: paths hold tokens and call SIDs, queries hold telephone numbers.
pub async fn observe(request: Request, next: Next) -> Response {
    let id = Uuid::now_v7();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("http", method = %request.method(), route, request.id = %id);
    async move {
        let started = Instant::now();
        let answer = timeout(WITHIN, next.run(request)).await;
        let mut response = answer.unwrap_or_else(|_| ApiError::timed_out().into_response());
        let status = response.status().as_u16();
        tracing::debug!(status, duration_ms = started.elapsed().as_millis() as u64, "request answered");
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
            headers.insert(REQUEST_ID, value);
        }
        for (name, value) in SAFE_HEADERS {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
        response
    }
    .instrument(span)
    .await
}

/// The answer to a request whose handler panicked.
pub fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    tracing::error!("a handler panicked; the place is on standard error");
    ApiError::internal().into_response()
}
