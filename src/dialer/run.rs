//! The dialer of a server that runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::reconcile::Found;
use super::{Dialer, Step};
use crate::shutdown::Tasks;
use crate::store::Wakeup;

/// How often is looked although nobody said that there is something: times come by themselves.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// When it is another server's turn, or a row was in use.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// How often tries are looked for that nothing was heard of.
const RECONCILE_EVERY: Duration = Duration::from_secs(10);
/// How long the database may take before it counts as away.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Requests of this server that may wait for their answer at a time.
const IN_FLIGHT: usize = 16;

/// Dials until the server is stopped. A server that stops takes no further try, finishes the requests it has begun, and
/// looks for nothing.
pub async fn run(dialer: Arc<Dialer>, tasks: Tasks) {
    let mut wakeup = Wakeup::listen(&dialer.store, "dialing");
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    tasks.spawn(look_for_the_lost(Arc::clone(&dialer), tasks.clone()));
    while !tasks.is_stopping() {
        let wait = turn(&dialer, &tasks, &in_flight).await;
        tokio::select! {
            () = sleep(wait) => {}
            _ = wakeup.next(), if wait > AGAIN_AFTER => {}
            () = tasks.stopping().cancelled() => {}
        }
    }
}

/// Takes a try and has it asked for in the background. Returns how long nothing will be due, as far as is known.
async fn turn(dialer: &Arc<Dialer>, tasks: &Tasks, in_flight: &Arc<Semaphore>) -> Duration {
    let Ok(permit) = Arc::clone(in_flight).try_acquire_owned() else { return AGAIN_AFTER };
    let taken_at = Instant::now();
    // Not a matter of time for whoever waits: what was begun in the database is undone when it is given up.
    let claim = match timeout(ANSWER_WITHIN, dialer.claim(None)).await {
        Ok(Ok(claim)) => claim,
        Ok(Err(error)) => return trouble(dialer, &error.to_string()),
        Err(_) => return trouble(dialer, "the database does not answer"),
    };
    dialer.is_news(None);
    match claim {
        Ok(claimed) => {
            let dialer = Arc::clone(dialer);
            tasks.spawn(async move {
                let _permit = permit;
                if let Err(error) = dialer.place(&claimed, taken_at).await {
                    // Whoever looks for it will find it.
                    warn!(attempt = %claimed.attempt, %error, "what came of a call's request is not on record yet");
                }
            });
            Duration::ZERO
        }
        Err(Step::Asked | Step::Again) => AGAIN_AFTER,
        Err(Step::Later { wait, .. }) => wait.min(LOOK_EVERY),
        Err(Step::Idle) => LOOK_EVERY,
    }
}

/// Finds out what became of tries that nothing was heard of, beside the dialing: a carrier that is slow to tell holds up no
/// call. What is cut off when the server stops is looked for by another one.
async fn look_for_the_lost(dialer: Arc<Dialer>, tasks: Tasks) {
    let mut is_told = false;
    let looking = async {
        loop {
            match look(&dialer).await {
                Ok(_) => is_told = false,
                Err(error) => {
                    if !is_told {
                        warn!(%error, "calls that nothing was heard of cannot be looked for");
                    }
                    is_told = true;
                }
            }
            sleep(RECONCILE_EVERY).await;
        }
    };
    tasks.stopping().run_until_cancelled(looking).await;
}

/// By the clock by which the tries were taken: one that is ahead would take a try for lost that has only just begun.
async fn look(dialer: &Dialer) -> sqlx::Result<Found> {
    let now = dialer.store.now().await?;
    dialer.reconcile(now).await
}

fn trouble(dialer: &Dialer, why: &str) -> Duration {
    if dialer.is_news(Some(why)) {
        warn!(why, "no calls can be taken from the queue");
    }
    LOOK_EVERY
}
