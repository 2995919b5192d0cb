//! Removes what organisations do not want to keep any longer: at night, and when somebody asks for it.
//!
//! Any server may do it. Who has made or taken the row of a run does it alone, and leaves it to others by falling silent.

use std::time::Duration;

use jiff::civil::Time;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::error::without_values;
use crate::ids::OrganizationId;
use crate::store::Store;
use crate::store::privacy::retention::{self, Claimed, Removed, Run, Trigger};

/// When a night's run begins, in UTC: most telephones are silent then, in Europe and the Americas.
const FROM: Time = Time::constant(2, 30, 0, 0);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// Rows a transaction: it holds them for some tens of milliseconds.
const BATCH: i64 = 1_000;
/// Between two transactions, so that calls always come first.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs every night, until the server is stopped.
pub(super) async fn run(store: Store, stopping: CancellationToken) {
    let mut due = interval(LOOK_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = due.tick() => {}
        }
        // Broken off in the middle of a transaction it is undone, and another server goes on.
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tonight(&store) => {}
        }
    }
}

/// All organisations whose night it is.
async fn tonight(store: &Store) {
    loop {
        match retention::claim_nightly(store, FROM).await {
            Ok(Some(mut claimed)) => {
                if let Err(error) = remove(store, &mut claimed, |_| {}).await {
                    let error = without_values(&error);
                    warn!(error, run = %claimed.id, "removing what is too old is held up; it is gone on with later");
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                let error = without_values(&error);
                return warn!(error, "whether something is too old cannot be looked up");
            }
        }
    }
}

/// Removes now what the policy of an organisation says. `None`: it has none that counts, or keeps everything. `progress` is
/// told of each transaction.
pub async fn run_now(
    store: &Store,
    organization: OrganizationId,
    progress: impl FnMut(&Removed),
) -> sqlx::Result<Option<Run>> {
    let Some(mut claimed) = retention::begin(store, organization, Trigger::Command).await? else {
        return Ok(None);
    };
    remove(store, &mut claimed, progress).await?;
    retention::run(store, organization, claimed.id).await
}

async fn remove(
    store: &Store,
    claimed: &mut Claimed,
    mut progress: impl FnMut(&Removed),
) -> sqlx::Result<()> {
    let mut rows = 0;
    loop {
        match retention::step(store, claimed, BATCH).await {
            Ok(Some(removed)) => {
                rows += removed.rows;
                progress(&removed);
                sleep(PAUSE).await;
            }
            Ok(None) => break,
            Err(error) => {
                // Not what it was about: that may be personal.
                let code = error
                    .as_database_error()
                    .and_then(sqlx::error::DatabaseError::code)
                    .map(std::borrow::Cow::into_owned);
                let why = code.map_or_else(
                    || "the database did not answer".to_owned(),
                    |code| format!("SQLSTATE {code}"),
                );
                drop(retention::hold_up(store, claimed.id, &why).await);
                return Err(error);
            }
        }
    }
    if rows > 0 {
        info!(rows, run = %claimed.id, organization = %claimed.organization, "what was too old is removed");
    }
    Ok(())
}
