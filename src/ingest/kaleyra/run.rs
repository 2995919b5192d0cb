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
/// What a database says that passes, by the beginnings of its codes: connections (08), transactions that were in each other's
/// way (40, 55P03), too little of something (53), and an operator who stops it, or a statement (57).
const PASSING: [&str; 5] = ["08", "40", "53", "55P03", "57"];
/// More pages of a day there cannot be: ten million calls.
const MOST_PAGES: u32 = 50_000;

/// Why a run is left without having ended. It is carried on when somebody wants the same days.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Somebody else carries it.
    #[error("somebody else carries it")]
    Lost,
    /// The database was away for longer than it was waited for.
    #[error("the database cannot be written to: {0}")]
    Database(#[from] sqlx::Error),
    /// The database does not take what is to be written, and will not: the run ends with this.
    #[error("{0}")]
    Refused(String),
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
    let end = match fetch_all(store, client, claim, at, last, stopping).await {
        // Somebody must see it; tried again and again it would keep all other days from being fetched.
        Err(RunError::Refused(why)) => End::Failed(why),
        end => end?,
    };
    if end == End::Completed {
        tie(store, claim, stopping).await?;
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

/// Ties rows to leads that have come since. All that was fetched is kept by now, and what is not tied here is by the next
/// run: this ends no run otherwise than it would, unless somebody else carries it.
async fn tie(store: &Store, claim: Claim, stopping: &CancellationToken) -> Result<(), RunError> {
    let mut after = String::new();
    while !stopping.is_cancelled() {
        show_life(store, claim).await?;
        match tie_some(store, claim.organization, &after).await {
            Ok(Some(last)) => after = last,
            Ok(None) => break,
            Err(error) => {
                let error = without_values(&error);
                tracing::warn!(sync.id = %claim.id, error, "rows of Kaleyra's log are not tied to leads; the next sync does");
                break;
            }
        }
    }
    Ok(())
}

async fn show_life(store: &Store, claim: Claim) -> Result<(), RunError> {
    match syncs::beat(store, claim).await {
        Err(WriteError::Lost) => Err(RunError::Lost),
        // The work is more important; whether the database is there shows when it is written to.
        Err(WriteError::Database(error)) => {
            tracing::debug!(%error, "a sync cannot show life");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
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
            _ = due.tick() => show_life(store, claim).await?,
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
    let mut tries = 0;
    loop {
        tries += 1;
        match write().await {
            Ok(done) => return Ok(done),
            Err(WriteError::Lost) => return Err(RunError::Lost),
            Err(WriteError::Database(error)) if !passes(&error) => {
                return Err(RunError::Refused(without_values(&error)));
            }
            Err(WriteError::Database(error)) if tries >= WRITES => return Err(error.into()),
            Err(WriteError::Database(error)) => tracing::debug!(%error, "a sync waits for the database"),
        }
        sleep(pause).await;
        pause *= 2;
    }
}

/// Whether the same may be written in a moment.
fn passes(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| PASSING.iter().any(|passing| code.starts_with(passing)))
        }
        _ => false,
    }
}

/// What the database has against it. Its own words may hold numbers and names of people.
fn without_values(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            let by = error.constraint().map(|constraint| format!(", by {constraint}")).unwrap_or_default();
            format!(
                "the database refuses what is to be written: SQLSTATE {}{by}",
                error.code().unwrap_or_default()
            )
        }
        error if passes(error) => "the database is away".to_owned(),
        _ => "what is to be written cannot be told to the database".to_owned(),
    }
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
