//! A carrier whose log says what it was asked for, and which answers as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Form, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::FutureExt;
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use uuid::Uuid;
use voicebridge::app::install_tls;
use voicebridge::clients::twilio::Twilio;
use voicebridge::shutdown::Tasks;

const ACCOUNT: &str = "AC00000000000000000000000000000001";

/// How a request for a call is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// The call is placed, and that is said.
    Place,
    /// The call is placed, and the answer breaks off.
    LoseAnswer,
    /// The call is placed, and nothing is ever said.
    FallSilent,
    /// The call is not placed, and nobody says so.
    Forget,
    /// Refused with this status and code.
    Refuse(u16, u32),
}

/// A call in the carrier's log.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) sid: String,
    pub(crate) to: String,
    pub(crate) from: String,
    pub(crate) attempt: Uuid,
    pub(crate) at: Timestamp,
    pub(crate) form: Vec<(String, String)>,
    /// `queued` until somebody changes it.
    pub(crate) status: String,
}

pub(crate) struct Carrier {
    log: Arc<Log>,
    url: String,
    _tasks: Tasks,
}

struct Log {
    clock: Mutex<Timestamp>,
    calls: Mutex<Vec<Placed>>,
    requests: Mutex<u32>,
    lists: Mutex<u32>,
    script: Mutex<VecDeque<Behaviour>>,
    updates: Mutex<Vec<(String, String, String)>>,
    asked: Notify,
}

impl Carrier {
    pub(crate) async fn start(now: Timestamp) -> Self {
        install_tls();
        let log = Arc::new(Log {
            clock: now.into(),
            calls: Mutex::default(),
            requests: Mutex::default(),
            lists: Mutex::default(),
            script: Mutex::default(),
            updates: Mutex::default(),
            asked: Notify::new(),
        });
        let router = Router::new()
            .route("/2010-04-01/Accounts/{account}/Calls.json", post(create).get(list))
            .route("/2010-04-01/Accounts/{account}/Calls/{sid}", get(fetch).post(update))
            .with_state(Arc::clone(&log));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let tasks = Tasks::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { log, url, _tasks: tasks }
    }

    pub(crate) fn client(&self) -> Twilio {
        Twilio::new(self.url.parse().unwrap(), ACCOUNT, SecretString::from("token")).unwrap()
    }

    pub(crate) fn set_clock(&self, now: Timestamp) {
        *self.log.clock.lock().unwrap() = now;
    }

    /// The next requests are answered so; those after them are placed.
    pub(crate) fn will(&self, script: impl IntoIterator<Item = Behaviour>) {
        self.log.script.lock().unwrap().extend(script);
    }

    /// What was placed, in order.
    pub(crate) fn calls(&self) -> Vec<Placed> {
        self.log.calls.lock().unwrap().clone()
    }

    /// How often a call was asked for.
    pub(crate) fn requests(&self) -> u32 {
        *self.log.requests.lock().unwrap()
    }

    /// How often the list of calls was asked for.
    pub(crate) fn lists(&self) -> u32 {
        *self.log.lists.lock().unwrap()
    }

    /// The carrier's view of a call from now on.
    pub(crate) fn set_status(&self, sid: &str, status: &str) {
        let mut calls = self.log.calls.lock().unwrap();
        status.clone_into(&mut calls.iter_mut().find(|call| call.sid == sid).unwrap().status);
    }

    /// A call that none of our tries is, between the same telephones.
    pub(crate) fn add_foreign(&self, to: &str, from: &str) {
        self.log.place(to.to_owned(), from.to_owned(), Uuid::nil(), Vec::new());
    }

    /// Calls that were told what to do: SID, name and value of the parameter.
    pub(crate) fn updates(&self) -> Vec<(String, String, String)> {
        self.log.updates.lock().unwrap().clone()
    }

    /// Waits until a call is asked for, or was since this was last waited for.
    pub(crate) async fn asked(&self) {
        self.log.asked.notified().await;
    }

    /// From now on only what comes is waited for.
    pub(crate) fn forget_asked(&self) {
        self.log.asked.notified().now_or_never();
    }

    /// Takes back what was not followed yet.
    pub(crate) fn unlearn(&self) {
        self.log.script.lock().unwrap().clear();
    }
}

impl Log {
    fn place(&self, to: String, from: String, attempt: Uuid, form: Vec<(String, String)>) -> String {
        let at = *self.clock.lock().unwrap();
        let mut calls = self.calls.lock().unwrap();
        let sid = format!("CA{:032}", calls.len() + 1);
        calls.push(Placed { sid: sid.clone(), to, from, attempt, at, form, status: "queued".to_owned() });
        sid
    }
}

fn resource(call: &Placed) -> Value {
    let created = jiff::fmt::rfc2822::to_string(&call.at.to_zoned(jiff::tz::TimeZone::UTC)).unwrap();
    json!({"sid": call.sid, "status": call.status, "direction": "outbound-api", "date_created": created,
           "to": call.to, "from": call.from, "duration": null, "start_time": null})
}

async fn create(State(log): State<Arc<Log>>, Form(form): Form<Vec<(String, String)>>) -> Response {
    *log.requests.lock().unwrap() += 1;
    let value = |name: &str| form.iter().find(|(key, _)| key == name).unwrap().1.clone();
    let attempt = value("Url").rsplit_once("attempt=").unwrap().1.parse().unwrap();
    let behaviour = log.script.lock().unwrap().pop_front().unwrap_or(Behaviour::Place);
    let (to, from) = (value("To"), value("From"));
    let placed = match behaviour {
        Behaviour::Forget | Behaviour::Refuse(..) => None,
        _ => Some(log.place(to, from, attempt, form)),
    };
    log.asked.notify_one();
    match (behaviour, placed) {
        (Behaviour::Place, Some(sid)) => {
            (StatusCode::CREATED, Json(json!({"sid": sid, "status": "queued"}))).into_response()
        }
        (Behaviour::Refuse(status, code), _) => {
            let body = json!({"code": code, "message": "no", "status": status});
            (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
        }
        (Behaviour::FallSilent, _) => std::future::pending().await,
        _ => {
            let broken = futures_util::stream::once(async { Err::<&str, _>(std::io::Error::other("gone")) });
            (StatusCode::CREATED, Body::from_stream(broken)).into_response()
        }
    }
}

async fn list(State(log): State<Arc<Log>>, Query(query): Query<Vec<(String, String)>>) -> Json<Value> {
    *log.lists.lock().unwrap() += 1;
    let value = |name: &str| query.iter().find(|(key, _)| key == name).unwrap().1.clone();
    let (to, from) = (value("To"), value("From"));
    let calls = log.calls.lock().unwrap();
    let found: Vec<Value> =
        calls.iter().rev().filter(|call| call.to == to && call.from == from).map(resource).collect();
    Json(json!({"calls": found, "next_page_uri": null}))
}

async fn fetch(State(log): State<Arc<Log>>, Path((_, file)): Path<(String, String)>) -> Response {
    let sid = file.trim_end_matches(".json");
    let calls = log.calls.lock().unwrap();
    match calls.iter().find(|call| call.sid == sid) {
        Some(call) => Json(resource(call)).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({"code": 20404}))).into_response(),
    }
}

async fn update(
    State(log): State<Arc<Log>>,
    Path((_, file)): Path<(String, String)>,
    Form(form): Form<Vec<(String, String)>>,
) -> Json<Value> {
    let sid = file.trim_end_matches(".json").to_owned();
    let (name, value) = form[0].clone();
    log.updates.lock().unwrap().push((sid.clone(), name, value));
    Json(json!({"sid": sid}))
}

/// Checks that no try was placed twice, and that calls were placed no faster than that.
pub(crate) fn check_log(calls: &[Placed], interval: SignedDuration) {
    let mut attempts: Vec<Uuid> = calls.iter().map(|call| call.attempt).collect();
    attempts.sort_unstable();
    attempts.dedup();
    assert_eq!(attempts.len(), calls.len(), "a try was placed twice");
    for pair in calls.windows(2) {
        assert!(pair[1].at.duration_since(pair[0].at) >= interval, "{} and {}", pair[0].at, pair[1].at);
    }
}
