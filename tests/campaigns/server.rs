//! What tests of campaigns and the queue ask of the server.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::surface::Answer;

pub(crate) use crate::surface::Server;

/// Nobody has it.
pub(crate) const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

impl Server {
    /// An organisation with an agent and a number to call from.
    pub(crate) async fn with_number() -> Self {
        let server = Self::new().await;
        server
            .execute(
                "insert into phone_numbers (organization_id, agent_id, number)
                 select organization_id, id, '+15005550006' from agents",
            )
            .await;
        server
    }

    /// Uploads a table.
    pub(crate) async fn csv(&self, path: &str, table: impl Into<Body>) -> Answer {
        self.keyed(Method::POST, path, "text/csv", table).await
    }

    /// As any client that says nothing about what it sends.
    pub(crate) async fn plain(&self, path: &str, body: &'static str) -> Answer {
        self.keyed(Method::POST, path, "text/plain", body).await
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
}

impl Answer {
    /// What was asked for.
    pub(crate) fn ok(&self, status: StatusCode) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        let body = self.json();
        assert_eq!(body["success"], true);
        body["data"].clone()
    }

    /// How many there are in the whole list.
    pub(crate) fn total(&self) -> u64 {
        self.data();
        self.json()["pagination"]["total"].as_u64().unwrap()
    }

    /// The members that cannot be what they are.
    pub(crate) fn bad_members(&self) -> Vec<String> {
        let details = self.is_error(422, "invalid_value")["details"].clone();
        let fields = details.as_array().unwrap().iter().map(|detail| detail["field"].as_str().unwrap());
        fields.map(str::to_owned).collect()
    }
}
