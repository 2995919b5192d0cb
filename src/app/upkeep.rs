//! What a server does beside calls: shows the others that it lives, ends calls that nobody carries any more, and campaigns
//! that are over.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Map;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::api::error::without_values;
use crate::lifecycle::{self, CallEvent, CallRef};
use crate::store::leases::{self, Abandoned};
use crate::store::{Store, campaigns, kaleyra, nodes, webhooks};

/// A server that shows no life for more than twice as long is taken for gone.
const BEAT_EVERY: Duration = Duration::from_secs(30);
/// Balancers ask `/readyz` every few seconds: until then they send calls that leave back to the server that stops.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);
/// How often a server that stops looks for another one.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A call that nobody carries is on record as live for so much longer at worst.
const REAP_EVERY: Duration = Duration::from_secs(30);
/// When the database is back, all calls look abandoned until their nodes have shown life again: four beats of theirs.
const REAP_AFTER_TROUBLE: Duration = Duration::from_secs(60);
/// Calls ended at a time: after the death of a large node there are many, and other servers share them.
const REAP_MOST: i64 = 100;
/// Calls finished at a time; those that are left are finished at the next beat.
const FINISH_MOST: i64 = 200;
/// Each of them is a transaction of its own, so that it does not matter where this stops. Shorter than a beat.
const FINISH_WITHIN: Duration = Duration::from_secs(10);
/// The same of calls that campaigns which are over do not make any more.
const FAIL_WITHIN: Duration = Duration::from_secs(10);
/// Deliveries given up or deleted at a time: few enough to be quick.
const TIDY_MOST: i64 = 2000;
/// How long that may go on. Each is a transaction of its own, so that it does not matter where it stops.
const TIDY_WITHIN: Duration = Duration::from_secs(10);
/// How long the database may take before it counts as away.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Runs until the server is stopped.
pub(super) async fn run(store: Store, node: String, stopping: CancellationToken) {
    let mut due = interval(BEAT_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reaping = Reaping::new();
    let mut last_beat = Instant::now();
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = stopping.cancelled() => break,
        }
        let beaten = in_time(nodes::beat(&store, &node, false)).await;
        // A process that was stopped itself, or a machine that slept, knows as little as one without a database.
        let slept = last_beat.elapsed() > 3 * BEAT_EVERY;
        last_beat = Instant::now();
        if let Err(why) = &beaten {
            warn!(why, "the other servers cannot be told that this one lives");
        }
        if reaping.is_due(beaten.is_ok(), slept) {
            reap(&store).await;
            complete_campaigns(&store).await;
        }
        if beaten.is_ok() {
            finish(&store).await;
            tidy_webhooks(&store).await;
            tidy_syncs(&store).await;
        }
    }
    if let Err(why) = in_time(nodes::beat(&store, &node, true)).await {
        warn!(why, "the other servers cannot be told that this one stops");
    }
}

/// When abandoned calls are looked for.
struct Reaping {
    /// `None`: since the last trouble the database has not been heard of.
    at: Option<Instant>,
}

impl Reaping {
    const fn new() -> Self {
        Self { at: None }
    }

    /// After a beat. `slept`: the one before was long ago.
    fn is_due(&mut self, beaten: bool, slept: bool) -> bool {
        if !beaten || slept {
            self.at = None;
        }
        if !beaten {
            return false;
        }
        let now = Instant::now();
        let is_due = now >= *self.at.get_or_insert(now + REAP_AFTER_TROUBLE);
        if is_due {
            self.at = Some(now + REAP_EVERY);
        }
        is_due
    }
}

/// Waits until another server could take the calls of this one, and would be sent them.
pub(super) async fn another_server(store: &Store, node: &str) {
    let mut due = interval_at(Instant::now() + NOTICED_WITHIN, LOOK_EVERY);
    loop {
        due.tick().await;
        if in_time(nodes::has_successor(store, node)).await == Ok(true) {
            return;
        }
    }
}

/// This server is gone.
pub(super) async fn leave(store: &Store, node: &str) {
    if let Err(why) = in_time(nodes::leave(store, node)).await {
        warn!(why, "this server stays on the list until it is a day old");
    }
}

/// Has the records of calls that are over say what was put on record since, such as their last turns.
async fn finish(store: &Store) {
    if let Err(error) = timeout(FINISH_WITHIN, lifecycle::finish(store, FINISH_MOST)).await.unwrap_or(Ok(0)) {
        warn!(%error, "the records of calls that were over lately are finished later");
    }
}

/// Gives up what is sent nowhere any more, and deletes what was told long ago.
async fn tidy_webhooks(store: &Store) {
    match timeout(TIDY_WITHIN, webhooks::tidy::all(store, TIDY_MOST)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "webhooks that nobody waits for are deleted later"),
        Err(_) => info!("more webhooks that nobody waits for are deleted at the next beat"),
    }
}

/// Deletes runs that fetched Kaleyra's log long ago.
async fn tidy_syncs(store: &Store) {
    match timeout(TIDY_WITHIN, kaleyra::tidy::all(store, TIDY_MOST)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let error = without_values(&error);
            warn!(error, "runs that fetched Kaleyra's log long ago are deleted later");
        }
        Err(_) => info!("more runs that fetched Kaleyra's log long ago are deleted at the next beat"),
    }
}

/// Ends the calls that nobody carries.
async fn reap(store: &Store) {
    let abandoned = match in_time(leases::reap(store, REAP_MOST)).await {
        Ok(abandoned) => abandoned,
        Err(why) => return warn!(why, "calls that nobody carries cannot be looked for"),
    };
    for Abandoned { call_sid, organization, agent, fencing_token, reason, lasted } in abandoned {
        let call = CallRef { call_sid, organization, agent };
        let ended = CallEvent::Ended { token: fencing_token, reason, duration: lasted, report: Map::new() };
        match in_time(lifecycle::record(store, &call, Timestamp::now(), &ended)).await {
            Ok(_) => {
                info!(call.id = %call.call_sid, reason = reason.as_str(), "a call that nobody carried is ended");
            }
            Err(why) => {
                error!(why, call.id = %call.call_sid, "a call that nobody carries cannot be ended yet");
            }
        }
    }
}

/// Ends campaigns whose last day is over everywhere, and fails what waits to be called by those that are over.
async fn complete_campaigns(store: &Store) {
    let completing = async { campaigns::complete_over(store, store.now().await?).await };
    match in_time(completing).await {
        Ok(0) => {}
        Ok(count) => info!(count, "campaigns are completed: their last day is over everywhere"),
        Err(why) => return warn!(why, "campaigns whose last day is over cannot be looked for"),
    }
    match campaigns::fail_left_over(store, FAIL_WITHIN).await {
        Ok(true) => {}
        Ok(false) => info!("more calls of campaigns that are over are failed at the next beat"),
        Err(error) => warn!(%error, "calls of campaigns that are over cannot be looked for"),
    }
}

async fn in_time<T>(work: impl Future<Output = sqlx::Result<T>>) -> Result<T, String> {
    match timeout(ANSWER_WITHIN, work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the database does not answer".to_owned()),
    }
}

#[cfg(test)]
#[path = "upkeep_tests.rs"]
mod over_time;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_are_looked_for_a_minute_after_the_database_is_there_and_no_sooner_after_trouble() {
        let mut reaping = Reaping::new();
        let (good, away, slept) = ((true, false), (false, false), (true, true));
        for (beat, is_due) in [
            (good, false),
            (good, false),
            (good, true),
            (good, true),
            (away, false),
            (away, false),
            (away, false),
            (good, false), // Only now the other servers can show that their calls live.
            (good, false),
            (good, true),
            (slept, false),
            (good, false),
            (good, true),
        ] {
            assert_eq!(reaping.is_due(beat.0, beat.1), is_due);
            tokio::time::advance(BEAT_EVERY).await;
        }
    }
}
