//! What every request passes through: an id, a span, a deadline, and headers that keep browsers from doing harm.

use std::any::Any;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::Instrument;
use uuid::Uuid;

use crate::api::error::ApiError;

/// Largest body of a request. Twilio's forms have a few hundred bytes, our own JSON a few thousand.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Longest a request may take. The store gives up long before.
const WITHIN: Duration = Duration::from_secs(30);
/// Names a request in our log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Header that holds a key, for clients that cannot send `Authorization`.
pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Header by which the administrator says for which organisation he asks: its slug or id.
pub const ORGANIZATION: HeaderName = HeaderName::from_static("x-organization");
/// How long a browser remembers that it may ask.
const PREFLIGHT_HOLDS: Duration = Duration::from_secs(600);

/// Unless the answer says otherwise: no guessing of types, no framing, no scripts, nothing kept.
const SAFE_HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Names a request, in the log, in the answer and in the audit log.
#[derive(Debug, Clone, Copy)]
pub struct RequestId(pub Uuid);

/// Puts what every request passes through around the routes, and answers where there is no route.
pub fn around<S: Clone + Send + Sync + 'static>(
    router: Router<S>,
    cors_origins: &[HeaderValue],
) -> Router<S> {
    let router = router
        .fallback(|| async { ApiError::not_found("there is nothing at this path") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(CatchPanicLayer::custom(panicked))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(observe));
    if cors_origins.is_empty() { router } else { router.layer(cors(cors_origins)) }
}

/// Lets pages of these origins ask with a key. Never with cookies, so a page can do no more than whoever gave it the key.
fn cors(origins: &[HeaderValue]) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, API_KEY, ORGANIZATION])
        .expose_headers([REQUEST_ID, header::LOCATION, header::RETRY_AFTER])
        .max_age(PREFLIGHT_HOLDS)
}

/// Gives the request an id and a span, ends it when it takes too long, and notes how it went. Only the pattern of the
/// path is logged: paths hold tokens and call SIDs, queries hold telephone numbers.
async fn observe(mut request: Request, next: Next) -> Response {
    let id = Uuid::now_v7();
    request.extensions_mut().insert(RequestId(id));
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("http", method = %request.method(), route, request.id = %id);
    async move {
        let started = Instant::now();
        let answer = if holds_nul(request.uri()) {
            Ok(ApiError::bad_request("invalid_url", "a NUL character can neither be stored nor looked for")
                .into_response())
        } else {
            timeout(WITHIN, next.run(request)).await
        };
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

/// Whether the path or query holds a character that no text in the database can.
fn holds_nul(uri: &Uri) -> bool {
    uri.path_and_query().is_some_and(|text| text.as_str().contains("%00"))
}

/// The answer to a request whose handler panicked.
fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    tracing::error!("a handler panicked; the place is on standard error");
    ApiError::internal().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use axum::body::{Body, to_bytes};
    use axum::http::StatusCode;
    use axum::routing::get;
    use tower::ServiceExt;

    async fn ask(router: Router, path: &str) -> (StatusCode, String, bool) {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = around(router, &[]).oneshot(request).await.unwrap();
        let (status, named) = (response.status(), response.headers().contains_key(&REQUEST_ID));
        let body = to_bytes(response.into_body(), 4096).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap(), named)
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_our_error_in_the_envelope() {
        async fn panics() -> StatusCode {
            panic!("deliberate, by this test")
        }
        let router = Router::new().route("/", get(panics));
        let (status, body, named) = ask(router, "/").await;
        assert_eq!((status, named), (StatusCode::INTERNAL_SERVER_ERROR, true));
        assert!(body.contains("\"success\":false") && body.contains("\"code\":\"internal\""), "{body}");
        assert!(!body.contains("deliberate"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_takes_too_long_is_ended() {
        let router = Router::new().route("/", get(std::future::pending::<()>));
        let (status, body, named) = ask(router, "/").await;
        assert_eq!((status, named), (StatusCode::GATEWAY_TIMEOUT, true));
        assert!(body.contains("\"code\":\"timed_out\""), "{body}");
    }

    async fn allowed_to(origin: &str, cors_origins: &[HeaderValue]) -> Option<HeaderValue> {
        let router = around(Router::new().route("/", get(|| async {})), cors_origins);
        let request =
            Request::options("/").header("origin", origin).header("access-control-request-method", "GET");
        let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).cloned()
    }

    #[tokio::test]
    async fn pages_may_ask_from_origins_that_are_configured_and_from_no_other() {
        let desk = HeaderValue::from_static("https://desk.example.com");
        assert_eq!(allowed_to("https://desk.example.com", &[]).await, None, "off by default");
        assert_eq!(
            allowed_to("https://desk.example.com", std::slice::from_ref(&desk)).await,
            Some(desk.clone())
        );
        assert_eq!(allowed_to("https://evil.example.com", &[desk]).await, None);
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_log_holds_the_pattern_of_a_path_and_nothing_that_was_in_it() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let logging = tracing::subscriber::set_default(subscriber);
        let router = Router::new().route("/media-stream/{token}", get(|| async {}));
        ask(router.clone(), "/media-stream/one-time-secret?From=%2B14155550123").await;
        ask(router, "/elsewhere/one-time-secret").await;
        drop(logging);
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("/media-stream/{token}") && text.contains("status=200"), "{text}");
        assert!(!text.contains("one-time-secret") && !text.contains("14155550123"), "{text}");
    }
}
