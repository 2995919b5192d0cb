//! HTTP around the log.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::civil::Date;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Fault, Shared};

/// Longest form.
const LARGEST_BODY: usize = 16 * 1024;

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
            sleep(std::time::Duration::from_millis(20)).await;
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

async fn respond(shared: &Shared, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    let (head, body) = request.into_parts();
    let body = to_bytes(Body::new(body), LARGEST_BODY).await.map_err(|_| Cut)?;
    let fault = {
        let state = &mut *shared.lock();
        state.report.requests += 1;
        let fault = state.faults.of(state.report.requests, &mut state.random);
        state.report.faults += u64::from(fault.is_some());
        fault.map(|fault| (fault, state.faults.slow, state.faults.retry_after_s))
    };
    match fault {
        Some((Fault::Lost, ..)) => return Err(Cut),
        Some((Fault::Error, ..)) => return answer(StatusCode::INTERNAL_SERVER_ERROR, None, &json!({})),
        Some((Fault::TooMany, _, after_s)) => {
            return answer(StatusCode::TOO_MANY_REQUESTS, Some(after_s), &json!({}));
        }
        Some((Fault::Slow, late, _)) => sleep(late).await,
        None => {}
    }
    // A form or a query, as one likes.
    let form = String::from_utf8_lossy(&body);
    let encoded = if form.is_empty() { head.uri.query().unwrap_or_default() } else { &form };
    let (status, body) = shared.page(&pairs(encoded));
    answer(status, None, &body)
}

fn answer(status: StatusCode, retry_after_s: Option<u64>, body: &Value) -> Result<Response<Body>, Cut> {
    let mut response = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
    if let Some(seconds) = retry_after_s {
        response = response.header(RETRY_AFTER, seconds);
    }
    response.body(Body::from(body.to_string())).map_err(|_| Cut)
}

/// Form-encoded names and values, in their order.
fn pairs(encoded: &str) -> Vec<(String, String)> {
    let Ok(mut url) = reqwest::Url::parse("http://x/") else { return Vec::new() };
    url.set_query(Some(encoded));
    url.query_pairs().into_owned().collect()
}

impl Shared {
    fn page(&self, form: &[(String, String)]) -> (StatusCode, Value) {
        let value = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        if value("api_key") != Some(self.options.api_key.expose_secret()) {
            return self.refuse(StatusCode::UNAUTHORIZED, "Invalid API key");
        }
        let day = |name| value(name).and_then(|text| Date::strptime("%Y/%m/%d", text).ok());
        let (Some("dial"), Some("json"), Some(first), Some(last)) =
            (value("method"), value("format"), day("fromdate"), day("todate"))
        else {
            return self.refuse(StatusCode::BAD_REQUEST, "method, format, fromdate or todate is wrong");
        };
        let number =
            |name| value(name).and_then(|text| text.parse::<usize>().ok()).filter(|number| *number > 0);
        let (Some(page), Some(limit)) = (number("page"), number("limit")) else {
            return self.refuse(StatusCode::BAD_REQUEST, "page or limit is wrong");
        };
        let limit = limit.min(self.options.most);
        let start = (page - 1).saturating_mul(limit);
        // Of what is behind the last page nothing is repeated, else there would be no end.
        let mut newest_first = self.legs.iter().enumerate().rev();
        let wanted: Vec<(usize, &super::Leg)> =
            newest_first.by_ref().filter(|(_, leg)| (first..=last).contains(&leg.start.date())).collect();
        let from =
            if start < wanted.len() { start.saturating_sub(self.options.overlap) } else { wanted.len() };
        let records: Vec<Value> = wanted
            .iter()
            .skip(from)
            .take((start + limit).saturating_sub(from))
            .map(|(number, leg)| self.told(*number, leg))
            .collect();
        let report = &mut self.lock().report;
        report.pages += 1;
        report.records += records.len() as u64;
        (StatusCode::OK, json!({"status": "200", "message": "OK", "data": records}))
    }

    fn told(&self, number: usize, leg: &super::Leg) -> Value {
        let mut record = leg.told();
        let every = self.options.malformed_every;
        if every > 0 && (number + 1).is_multiple_of(every) {
            record["start_time"] = json!("soon");
        }
        record
    }

    fn refuse(&self, status: StatusCode, message: &str) -> (StatusCode, Value) {
        self.lock().report.refused += 1;
        (status, json!({"status": status.as_u16().to_string(), "message": message}))
    }
}
