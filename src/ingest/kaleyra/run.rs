//! Carrying one run from where it is to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::clients::kaleyra::{Kaleyra, KaleyraError};
use crate::ingest::kaleyra::record;
use crate::store::Store;
use crate::store::kaleyra::syncs::{self, Batch, Carried, Claim, Cursor, End, WriteError};
use crate::store::kaleyra::tie_some;

/// How often a run shows life while it waits for Kaleyra. It counts as left after a minute without.
const BEAT_EVERY: Duration = Duration::from_secs(10);
/// How often a write is tried while the database is away.
const WRITES: u32 = 5;
/// Before the second write; twice as long before each one after it.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// More pages of a day there cannot be: ten million calls.
const MOST_PAGES: u32 = 50_000;

/// Why a run is left without having ended. It is carried on when somebody wants the same days.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Somebody else carries it.
    #[error("somebody else carries it")]
    Lost,
    /// The database failed several times.
    #[error("the database cannot be written to: {0}")]
    Database(#[from] sqlx::Error),
}

/// What waiting for a page came to.
enum Fetched {
    Page(Vec<Value>),
    Refused(KaleyraError),
    Stopping,
}

/// Carries a run to its end, which is on record then; or leaves it at a page when `stopping` is cancelled. May be dropped at
/// any time, and carried on.
pub async fn carry(
    store: &Store,
    client: &Kaleyra,
    carried: Carried,
    stopping: &CancellationToken,
) -> Result<End, RunError> {
    let Carried { claim, at, last, .. } = carried;
    let end = fetch_all(store, client, claim, at, last, stopping).await?;
    if end == End::Completed {
        // Leads may have come since, and rows are not lost by it if this cannot be done now.
        while written(|| async { Ok(tie_some(store, claim.organization).await?) }).await? > 0 {}
    }
    written(|| syncs::end(store, claim, &end)).await?;
    Ok(end)
}

async fn fetch_all(
    store: &Store,
    client: &Kaleyra,
    claim: Claim,
    mut at: Cursor,
    last: jiff::civil::Date,
    stopping: &CancellationToken,
) -> Result<End, RunError> {
    // Ids of the page before, to see when there are no further ones.
    let mut before = BTreeSet::new();
    while at.day <= last {
        let page = match fetch(store, client, claim, at, stopping).await? {
            Fetched::Page(page) => page,
            Fetched::Refused(error) => return Ok(End::Failed(error.to_string())),
            Fetched::Stopping => return Ok(End::Interrupted),
        };
        let ids: BTreeSet<String> = page.iter().map(|record| record["id"].to_string()).collect();
        let is_behind_last = page.is_empty() || ids == before;
        if at.page >= MOST_PAGES && !is_behind_last {
            return Ok(End::Failed(format!("Kaleyra has no last page for {}", at.day)));
        }
        let next = if is_behind_last {
            // Days have an end, and so do our calendars.
            let Ok(tomorrow) = at.day.tomorrow() else { return Ok(End::Completed) };
            Cursor { day: tomorrow, page: 1 }
        } else {
            Cursor { page: at.page + 1, ..at }
        };
        // A page that repeats the one before was kept with it.
        let batch = if is_behind_last { Batch::default() } else { sorted(&page) };
        written(|| syncs::keep(store, claim, at, next, &batch)).await?;
        before = if is_behind_last { BTreeSet::new() } else { ids };
        at = next;
        // Here all that was fetched is kept.
        if stopping.is_cancelled() && at.day <= last {
            return Ok(End::Interrupted);
        }
    }
    Ok(End::Completed)
}

/// Waits for a page, and shows life meanwhile.
async fn fetch(
    store: &Store,
    client: &Kaleyra,
    claim: Claim,
    at: Cursor,
    stopping: &CancellationToken,
) -> Result<Fetched, RunError> {
    let page = client.page(at.day, at.page);
    tokio::pin!(page);
    let mut due = interval(BEAT_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    due.reset();
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return Ok(Fetched::Stopping),
            page = &mut page => return Ok(page.map_or_else(Fetched::Refused, Fetched::Page)),
            _ = due.tick() => match syncs::beat(store, claim).await {
                Err(WriteError::Lost) => return Err(RunError::Lost),
                // The page is more important; whether the database is there shows when it is kept.
                Err(WriteError::Database(error)) => tracing::debug!(%error, "a sync cannot show life"),
                Ok(()) => {}
            },
        }
    }
}

/// What a page is to be kept as: of records with one id the last one.
fn sorted(page: &[Value]) -> Batch {
    let (mut rows, mut rejected) = (BTreeMap::new(), Vec::new());
    let mut repeated = 0;
    for record in page {
        match record::read(record) {
            Ok(row) => repeated += usize::from(rows.insert(row.id.clone(), row).is_some()),
            Err(why) => rejected.push(why),
        }
    }
    Batch { rows: rows.into_values().collect(), rejected, repeated }
}

/// Writes, and tries again a few times while the database is away.
async fn written<T, F>(mut write: impl FnMut() -> F) -> Result<T, RunError>
where
    F: Future<Output = Result<T, WriteError>>,
{
    let mut pause = FIRST_PAUSE;
    for _ in 1..WRITES {
        match write().await {
            Ok(done) => return Ok(done),
            Err(WriteError::Lost) => return Err(RunError::Lost),
            Err(WriteError::Database(error)) => tracing::debug!(%error, "a sync waits for the database"),
        }
        sleep(pause).await;
        pause *= 2;
    }
    write().await.map_err(|error| match error {
        WriteError::Lost => RunError::Lost,
        WriteError::Database(error) => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_records_with_one_id_the_last_is_kept_and_the_others_are_counted() {
        let record = |id: &str, status: &str| {
            json!({
                "id": id, "callfrom": "9812345678", "callto": "8068921234", "status": status, "service": "Incoming",
                "start_time": "2026-02-24 14:45:15",
            })
        };
        let batch = sorted(&[record("b", "BUSY"), record("a", "CANCEL"), json!(1), record("b", "ANSWER")]);
        let rows: Vec<(&str, &str)> =
            batch.rows.iter().map(|row| (row.id.as_str(), row.status.as_str())).collect();
        assert_eq!(rows, [("a", "CANCEL"), ("b", "ANSWER")]);
        assert_eq!((batch.rejected.len(), batch.repeated), (1, 1));
    }
}
