//! Kaleyra's log of calls.

mod fetching;
mod figures;
mod interruptions;
mod leads;
mod refusals;
mod routes;
mod schedule;
mod schema;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, date};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use voicebridge::app;
use voicebridge::clients::kaleyra::Kaleyra;
use voicebridge::ids::OrganizationId;
use voicebridge::ingest::kaleyra::{carry, record};
use voicebridge::simulate::kaleyra::{KaleyraOptions, KaleyraServer, Leg};
use voicebridge::store::kaleyra::syncs::{self, Begun, Carried, KaleyraSync};
use voicebridge::store::{Store, organisations};

use crate::support;

const KEY: &str = "A0123456789abcdef";
/// A few days of March.
const DAYS: (Date, Date) = (date(2026, 3, 1), date(2026, 3, 2));

/// A database, an organisation, and a Kaleyra whose log it fetches.
struct Place {
    store: Store,
    organization: OrganizationId,
    kaleyra: KaleyraServer,
    client: Kaleyra,
}

impl Place {
    async fn with(options: KaleyraOptions) -> Self {
        let store = support::store(6).await;
        let organization = organisations::default_organization(&store).await.unwrap();
        let kaleyra = KaleyraServer::on_any_port(options).await.unwrap();
        let client = client(&kaleyra.url(), KEY);
        Self { store, organization, kaleyra, client }
    }

    /// So many legs on the two usual days.
    async fn of(rows: usize) -> Self {
        Self::with(log(rows, DAYS)).await
    }

    /// Begins a run of the days.
    async fn begin(&self, days: (Date, Date)) -> Carried {
        match syncs::begin(&self.store, self.organization, days, "node-test").await.unwrap() {
            Begun::Yes(carried) => carried,
            Begun::Running(id) => panic!("{id} runs already"),
        }
    }

    /// Begins or carries on a run, and carries it to its end.
    async fn sync(&self, days: (Date, Date)) -> KaleyraSync {
        let carried = self.begin(days).await;
        carry(&self.store, &self.client, carried, &CancellationToken::new()).await.unwrap();
        self.run(carried.claim.id).await
    }

    async fn run(&self, id: Uuid) -> KaleyraSync {
        syncs::find(&self.store, self.organization, id).await.unwrap().unwrap()
    }

    /// The database has done what it was last asked for, also by whoever does not wait for it any more.
    async fn quiet(&self) {
        let busy = "select count(*) from pg_stat_activity
                    where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle'";
        while sqlx::query_scalar::<_, i64>(busy).fetch_one(self.store.pool()).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whoever carries a run has been silent for a while.
    async fn silence(&self) {
        sqlx::query(
            "update kaleyra_syncs set heartbeat = heartbeat - interval '2 minutes' where status = 'running'",
        )
        .execute(self.store.pool())
        .await
        .unwrap();
    }

    /// Everything on record but when it was seen and who it was.
    async fn rows(&self) -> BTreeMap<String, String> {
        rows(&self.store).await
    }

    /// What must be on record.
    fn expected(&self) -> BTreeMap<String, String> {
        self.kaleyra.legs().iter().map(|leg| (leg.id.clone(), told(leg))).collect()
    }
}

fn log(rows: usize, days: (Date, Date)) -> KaleyraOptions {
    KaleyraOptions::new(SecretString::from(KEY), rows, days)
}

fn client(url: &str, key: &str) -> Kaleyra {
    app::install_tls();
    let client = Kaleyra::new(url.parse().unwrap(), SecretString::from(key)).unwrap();
    client.with_first_pause(Duration::from_millis(1))
}

async fn rows(store: &Store) -> BTreeMap<String, String> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select id, concat_ws('|', uniqid, callfrom, callto, extract(epoch from start_time)::bigint,
                              extract(epoch from end_time)::bigint, duration, billsec, status, service)
         from kaleyra_call_logs",
    )
    .fetch_all(store.pool())
    .await
    .unwrap();
    rows.into_iter().collect()
}

fn told(leg: &Leg) -> String {
    let start: Timestamp = leg.start.to_zoned(record::zone()).unwrap().timestamp();
    let end = start.as_second() + i64::from(leg.duration);
    let Leg { uniqid, callfrom, callto, duration, billsec, status, service, .. } = leg;
    format!(
        "{uniqid}|{callfrom}|{callto}|{}|{end}|{duration}|{billsec}|{status}|{service}",
        start.as_second()
    )
}
