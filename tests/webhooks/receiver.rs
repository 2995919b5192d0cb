//! A receiver of webhooks on a real socket, which notes down what it is sent and answers as it is told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use ring::hmac;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// What came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) raw: String,
    pub(crate) body: Value,
    /// What it was answered with.
    pub(crate) status: u16,
}

/// How it is answered.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) after: Duration,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl From<u16> for Reply {
    fn from(status: u16) -> Self {
        Self { status, after: Duration::ZERO, headers: Vec::new(), body: String::new() }
    }
}

type Behaviour = dyn Fn(&Value, usize) -> Reply + Send + Sync;

struct Desk {
    behaviour: Box<Behaviour>,
    received: Mutex<Vec<Received>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

pub(crate) struct Receiver {
    pub(crate) url: String,
    desk: Arc<Desk>,
    _server: JoinSet<()>,
}

impl Receiver {
    /// Takes everything.
    pub(crate) async fn new() -> Self {
        Self::that(|_, _| 204.into()).await
    }

    /// Answers so, to this body as the so many-eth request, from 0.
    pub(crate) async fn that(behaviour: impl Fn(&Value, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        let desk = Arc::new(Desk {
            behaviour: Box::new(behaviour),
            received: Mutex::default(),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        });
        let router = Router::new().fallback(take).with_state(Arc::clone(&desk));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, desk, _server: server }
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.desk.received.lock().unwrap().clone()
    }

    /// Waits until so many requests have come.
    pub(crate) async fn until(&self, count: usize) -> Vec<Received> {
        let deadline = Instant::now() + super::SOON;
        loop {
            let received = self.received();
            if received.len() >= count {
                return received;
            }
            let types: Vec<_> = received.iter().map(|it| it.body["type"].clone()).collect();
            assert!(Instant::now() < deadline, "only {types:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.desk.most_at_once.load(Ordering::SeqCst)
    }
}

async fn take(State(desk): State<Arc<Desk>>, headers: HeaderMap, raw: String) -> Response {
    let body: Value = serde_json::from_str(&raw).unwrap();
    let reply = {
        let mut received = desk.received.lock().unwrap();
        let reply = (desk.behaviour)(&body, received.len());
        received.push(Received { headers, raw, body, status: reply.status });
        reply
    };
    let now = desk.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    desk.most_at_once.fetch_max(now, Ordering::SeqCst);
    sleep(reply.after).await;
    desk.at_once.fetch_sub(1, Ordering::SeqCst);
    let mut response = Response::builder().status(StatusCode::from_u16(reply.status).unwrap());
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(reply.body)).unwrap()
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
    }

    pub(crate) fn kind(&self) -> &str {
        super::text(&self.body["type"])
    }

    pub(crate) fn id(&self) -> &str {
        self.header("webhook-id")
    }

    /// How many of its signatures are of this secret, by another implementation than ours.
    pub(crate) fn signatures_of(&self, secret: &str) -> usize {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let timestamp = self.header("webhook-timestamp");
        let age = Timestamp::now().as_second() - timestamp.parse::<i64>().unwrap();
        assert!((0..300).contains(&age), "the specification has receivers refuse what is older: {age} s");
        let content = [self.id(), ".", timestamp, ".", &self.raw].concat();
        let signatures = self.header("webhook-signature").split(' ');
        let is_of = |signature: &&str| {
            let (version, signature) = signature.split_once(',').unwrap();
            assert_eq!(version, "v1");
            hmac::verify(&key, content.as_bytes(), &STANDARD.decode(signature).unwrap()).is_ok()
        };
        signatures.filter(is_of).count()
    }
}
