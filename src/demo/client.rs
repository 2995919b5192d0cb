//! The demo looks things up over HTTP, as a user would.

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::ids::CallSid;

/// One row of a transcript, as the API gives it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Row {
    pub(super) role: String,
    pub(super) content: String,
    pub(super) sequence: i32,
    pub(super) item_id: String,
    pub(super) revision: i32,
    pub(super) generated_content: Option<String>,
    pub(super) interrupted: bool,
    pub(super) heard_until_ms: Option<u64>,
    pub(super) evidence: Option<String>,
    pub(super) response_latency_ms: Option<u64>,
    pub(super) tool_name: Option<String>,
}

/// A lead, as the API gives it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Lead {
    pub(super) name: String,
    pub(super) call_sid: Option<String>,
}

pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    key: SecretString,
}

impl Client {
    pub(super) fn new(base: String, key: SecretString) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().build().context("cannot make an HTTP client")?;
        Ok(Self { http, base, key })
    }

    pub(super) async fn create_lead(&self, name: &str, phone: &str) -> anyhow::Result<i64> {
        let request = self.http.post(self.url("/api/leads")).json(&json!({ "name": name, "phone": phone }));
        let answer: Value = self.send(request).await?.json().await?;
        answer["data"]["id"].as_i64().with_context(|| format!("a lead without an id: {answer}"))
    }

    pub(super) async fn lead(&self, id: i64) -> anyhow::Result<Lead> {
        let mut answer: Value = self.get(&format!("/api/leads/{id}")).await?.json().await?;
        Ok(serde_json::from_value(answer["data"].take())?)
    }

    pub(super) async fn transcripts(&self, call: &CallSid) -> anyhow::Result<Vec<Row>> {
        let request = self.http.get(self.url(&format!("/transcripts/{call}")));
        let answer = request.bearer_auth(self.key.expose_secret()).send().await?;
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(Vec::new()); // The webhook has not put the call on record yet.
        }
        let mut answer: Value = answer.error_for_status()?.json().await?;
        Ok(serde_json::from_value(answer["transcripts"].take())?)
    }

    /// What a path holds: the member `data` of its answer.
    pub(super) async fn data<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let mut answer: Value = self.get(path).await?.json().await?;
        serde_json::from_value(answer["data"].take())
            .with_context(|| format!("{path} is not what was expected"))
    }

    /// Sends something to a path: the member `data` of its answer.
    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.http.post(self.url(path)).json(body).bearer_auth(self.key.expose_secret());
        let answer = request.send().await?;
        let status = answer.status();
        let mut answer: Value = answer.json().await.unwrap_or_default();
        anyhow::ensure!(status.is_success(), "POST {path} was answered with {status}: {}", answer["error"]);
        Ok(answer["data"].take())
    }

    pub(super) async fn metrics(&self) -> anyhow::Result<String> {
        Ok(self.get("/metrics").await?.text().await?)
    }

    async fn get(&self, path: &str) -> anyhow::Result<reqwest::Response> {
        self.send(self.http.get(self.url(path))).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<reqwest::Response> {
        Ok(request.bearer_auth(self.key.expose_secret()).send().await?.error_for_status()?)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}
