//! Webhooks: from what happens to a call to a receiver on a real socket, over a real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/surface.rs"]
mod surface;
#[path = "../support/world.rs"]
#[allow(dead_code, reason = "others need more of it")]
mod world;

mod api;
mod failing;
mod receiver;
mod server;
mod telling;

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use voicebridge::call::end::EndReason;
use voicebridge::clients::receiver::{Reach, Receivers};
use voicebridge::ids::{CallSid, OrganizationId};
use voicebridge::lifecycle::{self, CallEvent, CallRef};
use voicebridge::store::leases::FencingToken;
use voicebridge::store::webhooks::{self, EVENT_TYPES, NewEndpoint, work};
use voicebridge::store::{Store, agents};
use voicebridge::webhooks::{Sender, run, sign};

use crate::surface::Server;

const TOKEN: FencingToken = FencingToken(1);
const CALLER: &str = "+14155550123";
const OURS: &str = "+15005550000";
/// How long anything that must happen may take on a slow machine.
const SOON: Duration = Duration::from_secs(30);

/// A server without a socket, and its default agent.
struct Town {
    http: Server,
    agent: CallRef,
}

/// An endpoint, and the secret that it was registered with.
struct Listener {
    id: Uuid,
    secret: String,
}

impl Town {
    async fn new() -> Self {
        let http = Server::on(support::store(12).await, |_| {});
        let agent = agents::default_agent(&http.store).await.unwrap().unwrap();
        let call_sid = CallSid::parse("CA0").unwrap();
        Self { http, agent: CallRef { call_sid, organization: agent.organization_id, agent: agent.id } }
    }

    const fn store(&self) -> &Store {
        &self.http.store
    }

    const fn organization(&self) -> OrganizationId {
        self.agent.organization
    }

    fn call(&self, sid: &str) -> CallRef {
        CallRef { call_sid: CallSid::parse(sid).unwrap(), ..self.agent.clone() }
    }

    /// Registers this address for these events; for all where none is named.
    async fn listener(&self, url: &str, events: &[&str]) -> Listener {
        self.listener_with(url, events, false).await
    }

    async fn listener_with(&self, url: &str, events: &[&str], include_transcript: bool) -> Listener {
        let events = if events.is_empty() { &EVENT_TYPES[..] } else { events };
        let secret = sign::new_secret().expose_secret().to_owned();
        let new = NewEndpoint {
            url: url.to_owned(),
            description: String::new(),
            events: events.iter().map(|event| (*event).to_owned()).collect(),
            include_transcript,
            enabled: true,
            secret: secret.clone(),
        };
        let endpoint = webhooks::create(self.store(), self.organization(), &new).await.unwrap().unwrap();
        Listener { id: endpoint.id, secret }
    }

    /// A server that sends, until it is stopped or dropped.
    fn sender(&self) -> Running {
        let receivers = Receivers::new(Reach::PublicAndLoopback).unwrap();
        let metrics = self.http.metrics.clone();
        let sender = Sender { store: self.store().clone(), receivers, metrics };
        let stopping = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(run(sender, stopping.clone()));
        Running { task, stopping }
    }

    async fn record(&self, call: &CallRef, at: Timestamp, event: &CallEvent) {
        lifecycle::record(self.store(), call, at, event).await.unwrap();
    }

    /// A call that came in and has ended.
    async fn whole_call(&self, sid: &str) {
        let call = self.call(sid);
        self.record(&call, Timestamp::now(), &incoming()).await;
        self.record(&call, Timestamp::now(), &ended(EndReason::AgentEnded)).await;
    }

    /// Says something in a call.
    async fn say(&self, sid: &str, sequence: i32, role: &str, words: &str) {
        sqlx::query(
            "insert into conversation_transcripts (organization_id, call_sid, sequence, item_id, revision, role, content,
                                                   \"timestamp\")
             values ($1, $2, $3, $4, 1, $5, $6, now())",
        )
        .bind(self.organization().0)
        .bind(sid)
        .bind(sequence)
        .bind(format!("item_{sequence}"))
        .bind(role)
        .bind(words)
        .execute(self.store().pool())
        .await
        .unwrap();
    }

    /// All that waits for its time is due now, requests that are under way left out.
    async fn hurry(&self) {
        self.http
            .execute(
                "update webhook_deliveries set due_at = now() where status = 'pending' and lease is null; notify webhooks",
            )
            .await;
    }

    /// Requests that nothing was heard of are given up.
    async fn expire_leases(&self) {
        self.http
            .execute(
                "update webhook_deliveries set due_at = now() where status = 'pending' and lease is not null;
                 notify webhooks",
            )
            .await;
    }

    /// Waits until a query finds true.
    async fn until(&self, sql: &str) {
        let deadline = Instant::now() + SOON;
        while !self.http.scalar::<bool>(sql).await {
            assert!(Instant::now() < deadline, "never: {sql}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until nothing waits to be sent any more, however long it would take.
    async fn until_settled(&self) {
        let deadline = Instant::now() + SOON;
        while self.http.count("webhook_deliveries where status = 'pending'").await > 0 {
            assert!(Instant::now() < deadline, "deliveries are left");
            self.hurry().await;
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Takes all that is due, and what that lets go, as a receiver would. Returns the types.
    async fn deliver_what_is_due(&self) -> Vec<String> {
        let mut kinds = Vec::new();
        loop {
            let claimed = work::claim(self.store(), 100).await.unwrap();
            if claimed.is_empty() {
                return kinds;
            }
            for claimed in claimed {
                let request = work::Request {
                    at: Timestamp::now(),
                    took: Duration::ZERO,
                    status_code: Some(204),
                    error: None,
                    response: None,
                };
                work::settle(self.store(), &claimed, &request, work::Outcome::Delivered).await.unwrap();
                let body: Value = serde_json::from_str(&claimed.body).unwrap();
                kinds.push(text(&body["type"]).to_owned());
            }
        }
    }

    /// Types and subjects of what was written down, in order.
    async fn written(&self) -> Vec<(String, String)> {
        let sql = "select event_type, event_id from webhook_deliveries order by position";
        sqlx::query_as(sql).fetch_all(self.store().pool()).await.unwrap()
    }
}

/// A server that sends. Dropped, it is gone in the middle of whatever it did.
struct Running {
    task: JoinSet<()>,
    stopping: CancellationToken,
}

impl Running {
    async fn stop(mut self) {
        self.stopping.cancel();
        self.task.join_next().await.unwrap().unwrap();
    }
}

fn incoming() -> CallEvent {
    CallEvent::Incoming { phone_number: None, from: CALLER.to_owned(), to: OURS.to_owned(), to_team: false }
}

fn ended(reason: EndReason) -> CallEvent {
    CallEvent::Ended { token: TOKEN, reason, duration: Duration::from_secs(90), report: Map::new() }
}

/// All ids of a list, each of which is there once.
fn distinct(ids: impl IntoIterator<Item = String>) -> HashSet<String> {
    let mut seen = HashSet::new();
    for id in ids {
        assert!(seen.insert(id.clone()), "{id} is there twice");
    }
    seen
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}
