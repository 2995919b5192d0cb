//! HTTP around the API: reading, writing, and cutting connections off.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request as HttpRequest, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Shared;
use super::rest::{Answer, Request, answer};

/// Longest body; the longest document of a call is 4000 characters.
const LARGEST_BODY: usize = 256 * 1024;

/// Why a connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut")]
struct Cut;

/// Accepts connections for as long as it is not dropped.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = accepted else {
            // Running out of file descriptors passes.
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request| {
                let shared = Arc::clone(&shared);
                async move { respond(&shared, request).await }
            });
            // However it ends, it is the client's to find out.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn respond(shared: &Arc<Shared>, request: HttpRequest<Incoming>) -> Result<Response<Body>, Cut> {
    let (head, body) = request.into_parts();
    let body = to_bytes(Body::new(body), LARGEST_BODY).await.map_err(|_| Cut)?;
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let is_form =
        header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let request = Request {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: pairs(head.uri.query().unwrap_or_default()),
        form: if is_form { pairs(&String::from_utf8_lossy(&body)) } else { Vec::new() },
        authorization: header(AUTHORIZATION),
        is_form,
    };
    let (status, kind, text) = match answer(shared, request).await {
        Answer::Json(status, body) => (status, "application/json", body.to_string()),
        Answer::Text(status, text) => (status, "text/plain", text.to_owned()),
        Answer::Nothing(status) => (status, "application/json", String::new()),
        Answer::Cut => return Err(Cut),
    };
    let response = Response::builder().status(status).header(CONTENT_TYPE, kind).body(Body::from(text));
    response.map_err(|_| Cut)
}

/// Form-encoded names and values, in their order.
fn pairs(encoded: &str) -> Vec<(String, String)> {
    let Ok(mut url) = reqwest::Url::parse("http://x/") else { return Vec::new() };
    url.set_query(Some(encoded));
    url.query_pairs().into_owned().collect()
}
