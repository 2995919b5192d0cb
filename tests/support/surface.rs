//! The HTTP surface without a socket, on a real PostgreSQL and by a clock that tests put to any moment.

#![allow(dead_code, reason = "every binary of tests has its own use for it")]

use std::fmt::Debug;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Decode, Postgres, Type};
use tower::ServiceExt as _;
use voicebridge::api::settings::{PublicUrl, Settings};
use voicebridge::api::wall_clock::WallClock;
use voicebridge::api::{self, Api};
use voicebridge::app;
use voicebridge::bridge::endpoints::Endpoints;
use voicebridge::bridge::model_socket::ModelEndpoint;
use voicebridge::bridge::profile::Defaults;
use voicebridge::bridge::spool::Spool;
use voicebridge::bridge::{self, Bridge};
use voicebridge::clients::kaleyra::Kaleyra;
use voicebridge::ingest::kaleyra::Syncs;
use voicebridge::shutdown::Tasks;
use voicebridge::store::Store;
use voicebridge::telemetry::Metrics;
use voicebridge::wire::model::AudioFormat;

use crate::support;

/// The API key.
pub(crate) const KEY: &str = "0123456789abcdef";
/// Where the carrier believes us to be.
pub(crate) const PUBLIC: &str = "https://voice.example.com";

/// By the clock, until a test puts it elsewhere: a Wednesday.
const MORNING: &str = "2024-10-30T09:00:00Z";

/// One server.
pub(crate) struct Server {
    router: Router,
    pub(crate) store: Store,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
    now: Arc<Mutex<Timestamp>>,
    /// Where the model would be: takes connections and says nothing, so that it neither works nor is known not to.
    _model: Option<TcpListener>,
}

/// What it answered.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Server {
    /// On a database of its own, as it is after migration.
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// The same, with settings that a test may change.
    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::on(support::store(6).await, change)
    }

    /// On this database.
    pub(crate) fn on(store: Store, change: impl FnOnce(&mut Settings)) -> Self {
        let model = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let url = format!("ws://{}", model.local_addr().expect("it has an address"));
        Self { _model: Some(model), ..Self::with_model(store, &url, change) }
    }

    /// On this database, with an account of Kaleyra's that is the organisation's of this slug.
    pub(crate) fn with_kaleyra(store: Store, client: Kaleyra, organization: &str) -> Self {
        Self::built(
            store,
            "ws://127.0.0.1:9",
            |_| {},
            |api| {
                let node = api.settings.node.clone();
                let syncs = Syncs::new(api.store.clone(), client, organization, &node, api.tasks.clone());
                api.with_kaleyra(Some(syncs))
            },
        )
    }

    /// The same, with the model at this address.
    pub(crate) fn with_model(store: Store, url: &str, change: impl FnOnce(&mut Settings)) -> Self {
        Self::built(store, url, change, |api| api)
    }

    fn built(
        store: Store,
        url: &str,
        change: impl FnOnce(&mut Settings),
        more: impl FnOnce(Api) -> Api,
    ) -> Self {
        let mut settings = Settings {
            public_url: PublicUrl::parse(PUBLIC).expect("it is a URL"),
            twilio_auth_tokens: Vec::new(),
            vapi_webhook_secrets: vec![SecretString::from(KEY)],
            admin_key: SecretString::from(KEY),
            open_metrics: false,
            cors_origins: Vec::new(),
            max_calls: 100,
            node: "node-test".to_owned(),
        };
        change(&mut settings);
        let (tasks, metrics) = (Tasks::new(), Metrics::new());
        app::install_tls();
        let model = ModelEndpoint::new(url.parse().expect("it is a URL"), None);
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
        let now = Arc::new(Mutex::new(MORNING.parse().expect("it is a moment")));
        let clock = WallClock::new({
            let now = Arc::clone(&now);
            move || *now.lock().expect("nobody panics with it")
        });
        let api = Api::with_clock(settings, store.clone(), bridge, tasks.clone(), metrics.clone(), clock);
        Self { router: api::router(more(api)), store, tasks, metrics, now, _model: None }
    }

    /// Puts the clock to this moment.
    pub(crate) fn at(&self, now: &str) {
        *self.now.lock().expect("nobody panics with it") = now.parse().expect("it is a moment");
    }

    /// A request of exactly these headers, without the key.
    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).expect("the request can be written");
        let response = self.router.clone().oneshot(request).await.expect("a router cannot fail");
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 4 << 20).await.expect("the answer comes whole");
        let text = String::from_utf8(bytes.to_vec()).expect("it is text");
        Answer { status: parts.status, headers: parts.headers, text }
    }

    /// With the key, and JSON.
    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.keyed(method, path, "application/json", body).await
    }

    /// With the key.
    pub(crate) async fn keyed(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Body>,
    ) -> Answer {
        self.keyed_by(KEY, method, path, content_type, body).await
    }

    /// The same with another key.
    pub(crate) async fn keyed_by(
        &self,
        key: &str,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Body>,
    ) -> Answer {
        // Webhooks of other systems have secrets of their own.
        let headers = [
            ("x-api-key", key),
            ("x-vapi-secret", KEY),
            ("x-webhook-secret", KEY),
            ("content-type", content_type),
        ];
        self.raw(method, path, &headers, body).await
    }

    /// With another key; `None`: with none.
    pub(crate) async fn asked_by(
        &self,
        key: Option<&str>,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Body>,
    ) -> Answer {
        let mut headers = vec![("content-type", content_type)];
        headers.extend(key.map(|key| ("x-api-key", key)));
        self.raw(method, path, &headers, body).await
    }

    /// Makes a key of this organisation with these scopes.
    pub(crate) async fn key_of(&self, organization: &str, scopes: &[&str]) -> String {
        let body = json!({"name": scopes.join(" and "), "scopes": scopes, "requests_per_minute": 60_000});
        let headers =
            [("x-api-key", KEY), ("x-organization", organization), ("content-type", "application/json")];
        let answer = self.raw(Method::POST, "/api/api-keys", &headers, body.to_string()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        answer.json()["data"]["key"].as_str().expect("it is shown").to_owned()
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

    /// As Twilio posts, signed or not.
    pub(crate) async fn form(&self, path: &str, params: &[(&str, &str)], signature: Option<&str>) -> Answer {
        let mut headers = vec![("content-type", "application/x-www-form-urlencoded")];
        headers.extend(signature.map(|signature| ("x-twilio-signature", signature)));
        let mut url: reqwest::Url = "http://localhost".parse().expect("it is a URL");
        url.query_pairs_mut().extend_pairs(params);
        self.raw(Method::POST, path, &headers, url.query().unwrap_or_default().to_owned()).await
    }

    /// As Twilio posts to a server that checks no signatures.
    pub(crate) async fn twilio(&self, path: &str, params: &[(&str, &str)]) -> Answer {
        self.form(path, params, None).await
    }

    /// The one value that a query finds.
    pub(crate) async fn scalar<T>(&self, sql: &str) -> T
    where
        T: for<'r> Decode<'r, Postgres> + Type<Postgres> + Send + Unpin,
    {
        let found = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(self.store.pool());
        found.await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// How many rows a table has.
    pub(crate) async fn count(&self, table: &str) -> i64 {
        self.scalar(&format!("select count(*) from {table}")).await
    }

    /// Runs statements.
    pub(crate) async fn execute(&self, sql: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(self.store.pool()).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// What was asked for, and is there.
    pub(crate) fn data(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()["data"].clone()
    }

    /// The error has this status and code, and the envelope and the sentence that all errors have.
    pub(crate) fn is_error<S: Copy + Debug>(&self, status: S, code: &str) -> Value
    where
        StatusCode: PartialEq<S>,
    {
        assert_eq!(self.status, status, "{}", self.text);
        let error = self.failure();
        assert_eq!(error["code"], code, "{}", self.text);
        error
    }

    /// The error, in the envelope and with the sentence that all errors have.
    pub(crate) fn failure(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json", "{}", self.text);
        let body = self.json();
        let members: Vec<_> = body.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        assert_eq!(members, ["error", "success"]);
        assert_eq!(body["success"], json!(false));
        let error = &body["error"];
        assert!(error["code"].as_str().is_some_and(|code| !code.is_empty()), "{}", self.text);
        assert!(error["message"].as_str().is_some_and(|message| message.len() > 10), "{}", self.text);
        assert!(error.as_object().is_some_and(|error| error.contains_key("details")), "{}", self.text);
        error.clone()
    }

    /// The caller hears a sentence that begins so, and the call is over.
    pub(crate) fn speaks(&self, sentence: &str) {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        assert_eq!(self.headers["content-type"], "text/xml; charset=utf-8");
        assert!(self.text.contains(&format!("<Response><Say>{sentence}")), "{}", self.text);
        assert!(self.text.ends_with("</Say><Hangup/></Response>"), "{}", self.text);
    }

    /// The secret of the stream that the agent is connected by.
    pub(crate) fn stream_token(&self) -> String {
        let (_, rest) =
            self.text.split_once("/media-stream/").unwrap_or_else(|| panic!("no stream: {}", self.text));
        rest.split('"').next().expect("a text has a first part").to_owned()
    }
}
