//! The dialer against a real PostgreSQL and a carrier that notes down what it was asked for.

#![allow(clippy::unwrap_used, reason = "these are tests from top to bottom")]

#[path = "../support/mod.rs"]
mod support;

mod callbacks;
mod carrier;
mod clocks;
mod numbers;
mod placing;
mod recovery;
mod rules;
mod running;
mod slow;
mod speakers;
mod turns;
mod weekends;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::{SignedDuration, Timestamp};
use sqlx::Row;
use uuid::Uuid;
use voicebridge::dialer::{Dialer, Settings, Step};
use voicebridge::ids::{OrganizationId, PhoneNumber};
use voicebridge::store::agents::{self, Agent};
use voicebridge::store::{Store, phone_numbers};
use voicebridge::telemetry::Metrics;

use carrier::Carrier;

pub(crate) const OWN: &str = "+14155550100";
pub(crate) const THEIRS: &str = "+14155550123";

/// A database with an own number, a carrier, and what dialers are told.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) carrier: Carrier,
    pub(crate) agent: Agent,
    pub(crate) settings: Settings,
    pub(crate) room: Arc<AtomicU32>,
    pub(crate) metrics: Metrics,
}

impl World {
    pub(crate) async fn new() -> Self {
        let store = support::store(8).await;
        let agent = agents::default_agent(&store).await.unwrap().unwrap();
        let own = PhoneNumber::parse(OWN).unwrap();
        phone_numbers::create(&store, agent.organization_id, agent.id, &own, "").await.unwrap();
        let settings = Settings {
            public_url: "https://voice.example.com".to_owned(),
            node: "node-1".to_owned(),
            per_second: 1,
            max_calls: 50,
        };
        let (carrier, room) = (Carrier::start(noon()).await, Arc::new(100.into()));
        Self { store, carrier, agent, settings, room, metrics: Metrics::new() }
    }

    pub(crate) const fn organization(&self) -> OrganizationId {
        self.agent.organization_id
    }

    /// A server with this name that dials.
    pub(crate) fn dialer(&self, node: &str) -> Dialer {
        let settings = Settings { node: node.to_owned(), ..self.settings.clone() };
        let room = Arc::clone(&self.room);
        let room = Box::new(move || room.load(Ordering::SeqCst));
        Dialer::new(self.store.clone(), self.carrier.client(), settings, room, self.metrics.clone())
    }

    /// One step of this server at that time, by the carrier's clock as well.
    pub(crate) async fn step(&self, node: &str, now: Timestamp) -> Step {
        self.carrier.set_clock(now);
        self.dialer(node).step(now).await.unwrap()
    }

    /// A row without a campaign that is due now.
    pub(crate) async fn enqueue(&self, to: &str) -> Uuid {
        sqlx::query_scalar(
            "insert into call_queue (organization_id, to_number, next_retry_at) values ($1, $2, $3::timestamptz) returning id",
        )
        .bind(self.organization().0)
        .bind(to)
        .bind(noon().to_string())
        .fetch_one(self.store.pool())
        .await
        .unwrap()
    }

    /// An active campaign that calls all day, with these columns changed.
    pub(crate) async fn campaign(&self, changes: &str) -> Uuid {
        let id: Uuid = sqlx::query_scalar(
            "insert into campaigns (organization_id, name, status, time_start, time_end)
             values ($1, 'Spring', 'active', '00:00', '24:00') returning id",
        )
        .bind(self.organization().0)
        .fetch_one(self.store.pool())
        .await
        .unwrap();
        self.run(&format!("update campaigns set {changes} where id = '{id}'")).await;
        id
    }

    /// A row of this campaign, of a lead in this zone, due now.
    pub(crate) async fn enqueue_lead(&self, campaign: Uuid, to: &str, zone: Option<&str>) -> Uuid {
        let lead: i64 = sqlx::query_scalar(
            "insert into leads (organization_id, name, phone, time_zone) values ($1, 'Ada', $2, $3) returning id",
        )
        .bind(self.organization().0)
        .bind(to)
        .bind(zone)
        .fetch_one(self.store.pool())
        .await
        .unwrap();
        sqlx::query_scalar(
            "insert into call_queue (organization_id, campaign_id, lead_id, to_number, next_retry_at)
             values ($1, $2, $3, $4, $5::timestamptz) returning id",
        )
        .bind(self.organization().0)
        .bind(campaign)
        .bind(lead)
        .bind(to)
        .bind(noon().to_string())
        .fetch_one(self.store.pool())
        .await
        .unwrap()
    }

    pub(crate) async fn run(&self, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(self.store.pool()).await.unwrap();
    }

    /// Status, tries, time and error of a row.
    pub(crate) async fn row(&self, id: Uuid) -> Queued {
        let row = sqlx::query(
            "select status, attempt_count, next_retry_at, last_error from call_queue where id = $1",
        )
        .bind(id)
        .fetch_one(self.store.pool())
        .await
        .unwrap();
        Queued {
            status: row.get(0),
            attempts: row.get(1),
            next: row.get::<jiff_sqlx::Timestamp, _>(2).to_jiff(),
            error: row.get::<Option<String>, _>(3).unwrap_or_default(),
        }
    }

    /// Status, outcome and call of all tries, the first one first.
    pub(crate) async fn attempts(&self) -> Vec<(String, Option<String>, Option<String>)> {
        sqlx::query_as("select status, outcome, call_sid::text from call_attempts order by requested_at, id")
            .fetch_all(self.store.pool())
            .await
            .unwrap()
    }

    /// How many there are of what this counts.
    pub(crate) async fn count(&self, from: &str) -> i64 {
        let sql = format!("select count(*) from {from}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(self.store.pool()).await.unwrap()
    }
}

/// A row of the queue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) status: String,
    pub(crate) attempts: i32,
    pub(crate) next: Timestamp,
    pub(crate) error: String,
}

pub(crate) fn noon() -> Timestamp {
    "2026-03-02T12:00:00Z".parse().unwrap()
}

pub(crate) fn after(seconds: i64) -> Timestamp {
    noon() + SignedDuration::from_secs(seconds)
}
