//! A whole server with both far ends simulated, in one process and on real sockets.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use sqlx::ConnectOptions as _;
use tokio::time::{Instant, sleep};
use voicebridge::app::{App, Running};
use voicebridge::config::{Config, Need};
use voicebridge::ids::CallSid;
use voicebridge::simulate::caller::CallerOptions;
use voicebridge::simulate::model::{ModelOptions, ModelServer};
use voicebridge::simulate::scenario::Scenario;

/// How long anything that must happen may take on a slow machine.
const SOON: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) running: Running,
    pub(crate) model: ModelServer,
    pub(crate) token: SecretString,
    pub(crate) http: reqwest::Client,
    /// What it keeps on disk.
    _data: tempfile::TempDir,
}

impl World {
    /// Starts everything on free ports and a database of its own. `settings` are names and values of the environment.
    pub(crate) async fn start(model: ModelOptions, settings: &[(&str, &str)]) -> Self {
        let store = crate::support::store(2).await;
        let database = store.pool().connect_options().to_url_lossy().to_string();
        store.close().await;
        Self::start_on(&database, model, settings).await
    }

    /// The same with the database of somebody else.
    pub(crate) async fn start_on(database: &str, model: ModelOptions, settings: &[(&str, &str)]) -> Self {
        let token = SecretString::from("the-auth-token");
        let model = ModelServer::bind(model, ([127, 0, 0, 1], 0).into()).await.expect("the model starts");
        let url = model.url();
        let data = tempfile::tempdir().expect("there is a place for temporary files");
        let config = Config::from_parts(
            None,
            |name| {
                let own = settings.iter().find(|(set, _)| *set == name).map(|(_, value)| *value);
                let usual = match name {
                    "VOICEBRIDGE_LISTEN" => Some("127.0.0.1:0"),
                    "DATABASE_URL" => Some(database),
                    "OPENAI_REALTIME_URL" => Some(url.as_str()),
                    "OPENAI_API_KEY" => Some("the-key"),
                    "TWILIO_AUTH_TOKEN" => Some(token.expose_secret()),
                    "VOICEBRIDGE_DATA_DIR" => data.path().to_str(),
                    _ => None,
                };
                own.or(usual).map(Into::into)
            },
            Need::Calls,
        )
        .expect("the configuration is good");
        let running = App::start(config).await.expect("the server starts");
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client can be made");
        Self { running, model, token, http, _data: data }
    }

    /// A signed call to the default agent.
    pub(crate) fn call(&self, scenario: Scenario) -> CallerOptions {
        let url = self.running.public_url.join("/media-stream-twiml");
        CallerOptions::new(url, Some(self.token.clone()), scenario)
    }

    /// Rows of a transcript, as the API gives them.
    pub(crate) async fn transcript(&self, call: &str) -> Vec<Value> {
        let answer = self.get(&format!("/transcripts/{call}")).await;
        answer["transcripts"].as_array().expect("a transcript is a list").clone()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let request = self.http.get(self.running.public_url.join(path));
        let answer = request.bearer_auth(self.running.admin_key.expose_secret()).send().await;
        answer.expect("the server answers").json().await.expect("with JSON")
    }

    pub(crate) async fn create_lead(&self, phone: &str) -> i64 {
        let body = serde_json::json!({ "name": "Somebody", "phone": phone });
        let request = self.http.post(self.running.public_url.join("/api/leads")).json(&body);
        let answer = request.bearer_auth(self.running.admin_key.expose_secret()).send().await;
        let answer: Value = answer.expect("the server answers").json().await.expect("with JSON");
        answer["data"]["id"].as_i64().expect("a new lead has an id")
    }

    /// Waits until no call is live and every record is written, and gives the reason that is on record.
    pub(crate) async fn reason(&self, call: &str) -> String {
        let call = CallSid::parse(call).expect("a call SID");
        let deadline = Instant::now() + SOON;
        loop {
            let after = voicebridge::store::leases::next_action(&self.running.store, &call)
                .await
                .expect("the store answers");
            if let Some(reason) = after.and_then(|after| after.disconnect_reason)
                && self.running.metrics.calls_live.get() == 0
            {
                return reason;
            }
            let live = self.running.metrics.calls_live.get();
            assert!(Instant::now() < deadline, "call {call} has not ended; {live} calls are live");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops everything, in order.
    pub(crate) async fn stop(self) {
        self.running.stop().await.expect("the server stops");
        self.model.stop().await;
    }
}
