//! The HTTP surface without a socket, and a database of its own.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use secrecy::SecretString;
use serde_json::{Value, json};
use tower::ServiceExt;
use voicebridge::api::settings::{PublicUrl, Settings};
use voicebridge::api::{self, Api};
use voicebridge::app;
use voicebridge::bridge::endpoints::Endpoints;
use voicebridge::bridge::model_socket::ModelEndpoint;
use voicebridge::bridge::profile::Defaults;
use voicebridge::bridge::spool::Spool;
use voicebridge::bridge::{self, Bridge};
use voicebridge::shutdown::Tasks;
use voicebridge::store::Store;
use voicebridge::telemetry::Metrics;
use voicebridge::wire::model::AudioFormat;

use crate::support;

const KEY: &str = "0123456789abcdef";
/// Nobody has it.
pub(crate) const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

pub(crate) struct Server {
    router: Router,
    pub(crate) store: Store,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    text: String,
}

impl Server {
    /// An organisation with an agent and a number to call from.
    pub(crate) async fn new() -> Self {
        let server = Self::without_number().await;
        server
            .execute(
                "insert into phone_numbers (organization_id, agent_id, number)
                 select organization_id, id, '+15005550006' from agents",
            )
            .await;
        server
    }

    pub(crate) async fn without_number() -> Self {
        let store = support::store(6).await;
        let settings = Settings {
            public_url: PublicUrl::parse("https://voice.example.com").unwrap(),
            twilio_auth_tokens: Vec::new(),
            admin_key: SecretString::from(KEY),
            open_metrics: false,
            max_calls: 100,
            node: "node-test".to_owned(),
        };
        let (tasks, metrics) = (Tasks::new(), Metrics::new());
        app::install_tls();
        // Nobody is there: no test here gets as far as to talk.
        let model = ModelEndpoint::new("ws://127.0.0.1:9".parse().unwrap(), None);
        let bridge = Bridge::new(bridge::Parts {
            store: store.clone(),
            spool: Spool::off(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            endpoints: Endpoints::new(model, None, &metrics),
            defaults: Defaults {
                model: "model".to_owned(),
                transcription_model: "writer".to_owned(),
                audio_format: AudioFormat::Pcmu,
            },
            http: reqwest::Client::new(),
            node: settings.node.clone(),
            max_calls: settings.max_calls,
        });
        let api = Api::new(settings, store.clone(), bridge, tasks, metrics);
        Self { router: api::router(api), store }
    }

    async fn raw(&self, method: Method, path: &str, content_type: &str, body: Body) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-api-key", KEY)
            .header("content-type", content_type);
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 1 << 20).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.raw(method, path, "application/json", body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PATCH, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }

    /// Uploads a table.
    pub(crate) async fn csv(&self, path: &str, table: impl Into<Body>) -> Answer {
        self.raw(Method::POST, path, "text/csv", table.into()).await
    }

    /// As any client that says nothing about what it sends.
    pub(crate) async fn plain(&self, path: &str, body: &'static str) -> Answer {
        self.raw(Method::POST, path, "text/plain", Body::from(body)).await
    }

    pub(crate) async fn lead(&self, phone: &str, time_zone: Option<&str>) -> i64 {
        let answer = self.post("/api/leads", json!({"phone": phone, "time_zone": time_zone})).await;
        answer.ok(StatusCode::CREATED)["id"].as_i64().unwrap()
    }

    /// The id of a draft.
    pub(crate) async fn campaign(&self) -> String {
        let answer = self.post("/api/campaigns", json!({"name": "Renewals"})).await;
        answer.ok(StatusCode::CREATED)["id"].as_str().unwrap().to_owned()
    }

    /// The id of a call in the queue.
    pub(crate) async fn queued(&self, to: &str) -> String {
        let answer = self.post("/api/queue/schedule-call", json!({"to": to})).await;
        answer.ok(StatusCode::ACCEPTED)["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(self.store.pool()).await.unwrap();
    }

    pub(crate) async fn value(&self, sql: &'static str) -> Value {
        sqlx::query_scalar(sql).fetch_one(self.store.pool()).await.unwrap()
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// What was asked for.
    pub(crate) fn ok(&self, status: StatusCode) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        let body = self.json();
        assert_eq!(body["success"], true);
        body["data"].clone()
    }

    pub(crate) fn data(&self) -> Value {
        self.ok(StatusCode::OK)
    }

    /// How many there are in the whole list.
    pub(crate) fn total(&self) -> u64 {
        self.data();
        self.json()["pagination"]["total"].as_u64().unwrap()
    }

    /// The error has this status and code, and a sentence.
    pub(crate) fn is_error(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        let body = self.json();
        assert_eq!(
            (&body["success"], &body["error"]["code"]),
            (&json!(false), &json!(code)),
            "{}",
            self.text
        );
        assert!(body["error"]["message"].as_str().is_some_and(|message| message.len() > 10), "{}", self.text);
        body["error"].clone()
    }

    /// The members that cannot be what they are.
    pub(crate) fn bad_members(&self) -> Vec<String> {
        let details = self.is_error(422, "invalid_value")["details"].clone();
        let fields = details.as_array().unwrap().iter().map(|detail| detail["field"].as_str().unwrap());
        fields.map(str::to_owned).collect()
    }
}
