//! The HTTP surface with a clock that tests put to any day.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Value, json};
use tower::ServiceExt;
use voicebridge::api::settings::{PublicUrl, Settings};
use voicebridge::api::wall_clock::WallClock;
use voicebridge::api::{self, Api};
use voicebridge::app;
use voicebridge::bridge::endpoints::Endpoints;
use voicebridge::bridge::model_socket::ModelEndpoint;
use voicebridge::bridge::profile::Defaults;
use voicebridge::bridge::spool::Spool;
use voicebridge::bridge::{self, Bridge};
use voicebridge::ids::CallSid;
use voicebridge::shutdown::Tasks;
use voicebridge::store::{Store, agents, calls, leases};
use voicebridge::telemetry::Metrics;
use voicebridge::wire::model::AudioFormat;

use crate::support;

pub(crate) const KEY: &str = "0123456789abcdef";
pub(crate) const PUBLIC: &str = "https://voice.example.com";
pub(crate) const HANG_UP: &str = "<Response><Hangup/></Response>";

pub(crate) struct Server {
    router: Router,
    pub(crate) store: Store,
    pub(crate) tasks: Tasks,
    now: Arc<Mutex<Timestamp>>,
    /// Where the model would be: takes connections and says nothing, so that it neither works nor is known not to.
    _model: Option<TcpListener>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Server {
    pub(crate) async fn new() -> Self {
        Self::on(support::store(4).await, |_| {})
    }

    pub(crate) fn on(store: Store, change: impl FnOnce(&mut Settings)) -> Self {
        let model = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}", model.local_addr().unwrap());
        Self { _model: Some(model), ..Self::with_model(store, &url, change) }
    }

    pub(crate) fn with_model(store: Store, url: &str, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            public_url: PublicUrl::parse(PUBLIC).unwrap(),
            twilio_auth_tokens: Vec::new(),
            admin_key: SecretString::from(KEY),
            open_metrics: false,
            max_calls: 100,
            node: "node-test".to_owned(),
        };
        change(&mut settings);
        let (tasks, metrics) = (Tasks::new(), Metrics::new());
        app::install_tls();
        let bridge = Bridge::new(bridge::Parts {
            store: store.clone(),
            spool: Spool::off(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            endpoints: Endpoints::new(ModelEndpoint::new(url.parse().unwrap(), None), None, &metrics),
            defaults: Defaults {
                model: "model".to_owned(),
                transcription_model: "writer".to_owned(),
                audio_format: AudioFormat::Pcmu,
            },
            http: reqwest::Client::new(),
            node: settings.node.clone(),
            max_calls: settings.max_calls,
        });
        let now = Arc::new(Mutex::new("2024-10-30T09:00:00Z".parse().unwrap()));
        let clock = WallClock::new({
            let now = Arc::clone(&now);
            move || *now.lock().unwrap()
        });
        let api = Api::with_clock(settings, store.clone(), bridge, tasks.clone(), metrics, clock);
        Self { router: api::router(api), store, tasks, now, _model: None }
    }

    /// Puts the clock to this moment.
    pub(crate) fn at(&self, now: &str) {
        *self.now.lock().unwrap() = now.parse().unwrap();
    }

    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 1 << 20).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    /// With the key.
    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let headers = [("x-api-key", KEY), ("content-type", "application/json")];
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.raw(method, path, &headers, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PATCH, path, Some(body)).await
    }

    /// Adds something, and returns it.
    pub(crate) async fn add(&self, path: &str, body: Value) -> Value {
        let answer = self.send(Method::POST, path, Some(body)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        let data = answer.json()["data"].clone();
        assert_eq!(answer.headers["location"], format!("{path}/{}", data["id"].as_str().unwrap()));
        data
    }

    /// As Twilio posts.
    pub(crate) async fn twilio(&self, path: &str, params: &[(&str, &str)]) -> Answer {
        let mut url: reqwest::Url = "http://localhost".parse().unwrap();
        url.query_pairs_mut().extend_pairs(params);
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        self.raw(Method::POST, path, &headers, Body::from(url.query().unwrap_or_default().to_owned())).await
    }

    /// A call comes on this number.
    pub(crate) async fn rings(&self, line: &Line, sid: &str) -> Answer {
        let params =
            [("CallSid", sid), ("From", "+1234567890"), ("To", "+1987654321"), ("CallStatus", "ringing")];
        self.twilio(&line.incoming(), &params).await
    }

    /// The team's telephones have rung.
    pub(crate) async fn rang(&self, line: &Line, sid: &str, dial_status: &str, call_status: &str) -> Answer {
        let mut params = vec![("CallSid", sid), ("DialCallStatus", dial_status), ("CallStatus", call_status)];
        if dial_status == "completed" {
            params.extend([("DialCallSid", "CA7"), ("DialCallDuration", "42")]);
        }
        self.twilio(&format!("{}/fallback", line.incoming()), &params).await
    }

    /// The carrier says how a call is doing.
    pub(crate) async fn status(&self, sid: &str, status: &str) {
        let params =
            [("CallSid", sid), ("CallStatus", status), ("SequenceNumber", "9"), ("CallDuration", "70")];
        let answer = self.twilio("/api/twilio/call-status", &params).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
    }

    pub(crate) async fn default_agent(&self) -> agents::Agent {
        agents::default_agent(&self.store).await.unwrap().unwrap()
    }

    /// A number that Grace and Edsger answer in the office hours of Berlin, and the default agent else.
    pub(crate) async fn line(&self) -> Line {
        let team = self.team(&["+14155550101", "+14155550102"]).await;
        let office = [("09:00", "12:00"), ("13:00", "17:30")];
        let spans: Vec<_> = (1..=5)
            .flat_map(|day| {
                office.map(|(opens, closes)| json!({"weekday": day, "opens": opens, "closes": closes}))
            })
            .collect();
        let schedule = json!({"name": "Office", "time_zone": "Europe/Berlin", "spans": spans});
        let schedule = id(&self.add("/api/schedules", schedule).await);
        let agent = self.default_agent().await.id.to_string();
        let number = json!({
            "number": "+1 415 555 0199", "agent_id": agent, "schedule_id": schedule, "team_id": team,
        });
        let number = id(&self.add("/api/phone-numbers", number).await);
        Line { number, schedule, team, agent }
    }

    pub(crate) async fn team(&self, numbers: &[&str]) -> String {
        let members: Vec<_> = numbers.iter().map(|number| json!({"number": number})).collect();
        id(&self
            .add("/api/teams", json!({"name": "Front desk", "ring_timeout_s": 20, "members": members}))
            .await)
    }

    pub(crate) async fn record(&self, sid: &str) -> calls::CallRecord {
        calls::by_call_sid(&self.store, &CallSid::parse(sid).unwrap()).await.unwrap().unwrap()
    }

    pub(crate) async fn routing_status(&self, sid: &str) -> String {
        self.record(sid).await.routing_status.unwrap()
    }

    pub(crate) async fn events(&self, sid: &str) -> Vec<String> {
        let sequence = self.record(sid).await.event_sequence;
        let events = sequence.as_array().unwrap().iter();
        events.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    }

    /// Step, decision and reason of each decision, in order.
    pub(crate) async fn decisions(&self, sid: &str) -> Vec<String> {
        let body = self.get(&format!("/api/calls/{sid}/routing")).await.json();
        let word = |decision: &Value, name: &str| decision[name].as_str().unwrap().to_owned();
        let decisions = body["data"].as_array().unwrap().iter();
        decisions.map(|one| ["step", "decision", "reason"].map(|name| word(one, name)).join(" ")).collect()
    }

    /// What people had of the call: handoff, status, leg, seconds and reason of each part.
    pub(crate) async fn people_of(&self, sid: &str) -> Vec<String> {
        let sql = "select concat_ws(' ', handoff, status, call_sid, duration, reason) from agent_calls \
            where parent_call_sid = $1 order by handoff";
        sqlx::query_scalar(sql).bind(sid).fetch_all(self.store.pool()).await.unwrap()
    }

    pub(crate) async fn claim(&self, token: &str) -> leases::ClaimedCall {
        leases::claim(&self.store, &api::stream_token::sha256(token), "node-test").await.unwrap().unwrap()
    }

    pub(crate) async fn count(&self, table: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        sqlx::query_scalar(sql).fetch_one(self.store.pool()).await.unwrap()
    }

    pub(crate) async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(self.store.pool()).await.unwrap();
    }
}

/// A number and what it goes by.
pub(crate) struct Line {
    pub(crate) number: String,
    pub(crate) schedule: String,
    pub(crate) team: String,
    pub(crate) agent: String,
}

impl Line {
    pub(crate) fn incoming(&self) -> String {
        format!("/api/phone-number/{}/incoming", self.number)
    }

    /// What is said to ring these telephones.
    pub(crate) fn dials(&self, timeout: &str, numbers: &[&str]) -> String {
        let numbers: String = numbers.iter().flat_map(|number| ["<Number>", *number, "</Number>"]).collect();
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response><Dial action=\"{PUBLIC}{}/fallback\" \
             timeout=\"{timeout}\" answerOnBridge=\"true\">{numbers}</Dial></Response>",
            self.incoming()
        )
    }

    pub(crate) fn rings_the_team(&self) -> String {
        self.dials("20", &["+14155550101", "+14155550102"])
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn data(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()["data"].clone()
    }

    /// The error has this status and code.
    pub(crate) fn is_error(&self, status: StatusCode, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        let body = self.json();
        assert_eq!(
            (&body["success"], &body["error"]["code"]),
            (&json!(false), &json!(code)),
            "{}",
            self.text
        );
        body["error"].clone()
    }

    /// The body cannot be so, in these members and no others.
    pub(crate) fn blames(&self, fields: &[&str]) {
        let error = self.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
        let details = error["details"].as_array().unwrap_or_else(|| panic!("{error}"));
        let found: Vec<_> = details.iter().map(|one| one["field"].as_str().unwrap()).collect();
        assert_eq!(found, fields, "{error}");
    }

    /// The caller hears a sentence that begins so, and the call is over.
    pub(crate) fn speaks(&self, sentence: &str) {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        assert!(self.text.contains(&format!("<Response><Say>{sentence}")), "{}", self.text);
        assert!(self.text.ends_with("</Say><Hangup/></Response>"), "{}", self.text);
    }

    pub(crate) fn hangs_up(&self) {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        assert!(self.text.ends_with(HANG_UP), "{}", self.text);
    }

    /// The secret of the stream that the agent is connected by.
    pub(crate) fn stream_token(&self) -> String {
        let (_, rest) =
            self.text.split_once("/media-stream/").unwrap_or_else(|| panic!("no stream: {}", self.text));
        rest.split('"').next().unwrap().to_owned()
    }

    pub(crate) fn connects(&self) {
        self.stream_token();
    }
}

pub(crate) fn id(record: &Value) -> String {
    record["id"].as_str().unwrap().to_owned()
}
