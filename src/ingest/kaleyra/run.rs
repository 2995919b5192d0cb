//! Carrying one run from where it is to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::clients::kaleyra::{Kaleyra, KaleyraError};
use crate::ingest::kaleyra::record::{self, Read};
use crate::store::Store;
use crate::store::kaleyra::Rejected;
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
    #[error("the database cannot be written to: {}", without_values(.0))]
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
    // What the page before was about, to see when there are no further ones.
    let mut before = BTreeSet::new();
    while at.day <= last {
        let page = match fetch(store, client, claim, at, stopping).await? {
            Fetched::Page(page) => page,
            Fetched::Refused(error) => return Ok(End::Failed(error.to_string())),
            Fetched::Stopping => return Ok(End::Interrupted),
        };
        let about = identities(&page);
        let is_behind_last = page.is_empty() || about == before;
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
        before = if is_behind_last { BTreeSet::new() } else { about };
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
            tracing::debug!(error = without_values(&error), "a sync cannot show life");
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

/// By what the records of a page are known from those of another: their ids. Of a record without one it is all that it says:
/// two of them are not the same for having none.
fn identities(page: &[Value]) -> BTreeSet<String> {
    let identity = |record: &Value| match &record["id"] {
        id @ Value::Number(_) => id.to_string(),
        id @ Value::String(text) if !text.trim().is_empty() => id.to_string(),
        _ => record.to_string(),
    };
    page.iter().map(identity).collect()
}

/// What a page is to be kept as: of records with one id the last one.
fn sorted(page: &[Value]) -> Batch {
    let (mut rows, mut rejected, mut incomplete) = (BTreeMap::new(), Vec::new(), Vec::new());
    let mut repeated = 0;
    for record in page {
        match record::read(record) {
            Ok(Read { row, unreadable }) => {
                if !unreadable.is_empty() {
                    let reason = format!("kept without what cannot be read: {}", unreadable.join(", "));
                    incomplete.push(Rejected { id: Some(row.id.clone()), reason });
                }
                repeated += usize::from(rows.insert(row.id.clone(), row).is_some());
            }
            Err(why) => rejected.push(why),
        }
    }
    Batch { rows: rows.into_values().collect(), rejected, incomplete, repeated }
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
            Err(WriteError::Database(error)) => {
                tracing::debug!(error = without_values(&error), "a sync waits for the database");
            }
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
pub(super) fn without_values(error: &sqlx::Error) -> String {
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

    #[test]
    fn a_row_that_lacks_what_could_not_be_read_is_kept_and_told() {
        let batch = sorted(&[json!({
            "id": "a", "callfrom": "9812345678", "callto": "8068921234", "status": "ANSWER", "service": "Incoming",
            "start_time": "2026-02-24 14:45:15", "notes": ["x"], "duration": {},
        })]);
        assert_eq!((batch.rows.len(), batch.rejected.len()), (1, 0));
        let told = Rejected {
            id: Some("a".to_owned()),
            reason: "kept without what cannot be read: duration, notes".to_owned(),
        };
        assert_eq!(batch.incomplete, [told]);
    }

    #[test]
    fn pages_are_the_same_by_their_ids_and_records_without_any_by_all_that_they_say() {
        let same = |one: Value, other: Value| identities(&[one]) == identities(&[other]);
        assert!(same(json!({"id": "a", "status": "x"}), json!({"id": "a", "status": "y"})));
        assert!(!same(json!({"id": "a"}), json!({"id": "b"})));
        for id in [Value::Null, json!(""), json!([1])] {
            assert!(!same(json!({"id": id, "callfrom": "1"}), json!({"id": id, "callfrom": "2"})), "{id}");
            assert!(same(json!({"id": id, "callfrom": "1"}), json!({"id": id, "callfrom": "1"})), "{id}");
        }
        assert!(!same(json!({"callfrom": "1"}), json!({"callfrom": "2"})));
        assert!(!same(json!("a"), json!("b")));
    }

    #[test]
    fn what_the_database_says_is_not_repeated() {
        let said = || sqlx::Error::Protocol("Key (callfrom)=(9812345678) is odd".to_owned());
        for told in [
            RunError::from(said()).to_string(),
            crate::ingest::kaleyra::BeginError::from(said()).to_string(),
            without_values(&said()),
        ] {
            assert!(!told.contains("9812345678"), "{told}");
        }
    }
}
