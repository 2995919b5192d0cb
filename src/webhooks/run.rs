//! The sending of a server that runs.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{schedule, sign};
use crate::clients::receiver::{Post, Receivers};
use crate::store::webhooks::CHANNEL;
use crate::store::webhooks::work::{self, Claimed, Outcome, Request, Settled};
use crate::store::{Store, Wakeup};
use crate::telemetry::Metrics;

/// When is looked again for what is due and could not be taken, such as behind requests that others have under way.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long nobody looks where nothing is due: who writes something down says so, but may not be heard.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(10);
/// Requests of this server that may be under way. Each waits most of the time.
const IN_FLIGHT: usize = 64;
/// How long the database may take before it counts as away.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often is counted what waits.
const COUNT_EVERY: Duration = Duration::from_secs(30);
/// How long requests that are under way may take when the server is stopped. Shorter than HTTP is given to end.
const FINISH_WITHIN: Duration = Duration::from_secs(4);
/// How often it is tried to put on record what came of a request. What is not is sent again, by whoever takes it over.
const SETTLE_TRIES: u32 = 4;
/// Between two of those.
const SETTLE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is needed to send.
#[derive(Debug)]
pub struct Sender {
    /// What is to be sent.
    pub store: Store,
    /// Who takes it.
    pub receivers: Receivers,
    /// What is counted.
    pub metrics: Metrics,
}

/// Sends until the server is stopped. From then on nothing is begun; what is under way is waited for, but not long.
pub async fn run(sender: Sender, stopping: CancellationToken) {
    let sender = Arc::new(sender);
    let mut wakeup = Wakeup::listen(&sender.store, CHANNEL);
    let mut in_flight = JoinSet::new();
    let mut trouble = false;
    let mut count_at = Instant::now();
    while !stopping.is_cancelled() {
        let room = IN_FLIGHT - in_flight.len();
        let looked = if room == 0 { Ok((Vec::new(), LOOK_AGAIN_AFTER)) } else { sender.look(room).await };
        let more = looked.as_ref().is_ok_and(|(claimed, _)| !claimed.is_empty());
        let mut rest = LOOK_AGAIN_AFTER;
        match looked {
            Ok((claimed, nothing_for)) => {
                trouble = false;
                rest = nothing_for;
                for claimed in claimed {
                    let sender = Arc::clone(&sender);
                    in_flight.spawn(async move { sender.deliver(&claimed).await });
                }
            }
            Err(why) if !trouble => {
                trouble = true;
                warn!(why, "no webhooks can be sent");
            }
            Err(_) => {}
        }
        if Instant::now() >= count_at {
            count_at = Instant::now() + COUNT_EVERY;
            sender.count().await;
        }
        if more {
            continue;
        }
        tokio::select! {
            () = sleep(rest) => {}
            // Who heard nothing has just begun to listen.
            _ = wakeup.next(), if !trouble => {}
            // There is room for another one, and what comes next in its call is due.
            Some(_) = in_flight.join_next() => {}
            () = stopping.cancelled() => {}
        }
    }
    let finish = async { while in_flight.join_next().await.is_some() {} };
    if timeout(FINISH_WITHIN, finish).await.is_err() {
        info!("requests to slow receivers are cut off; another server will send them again");
    }
}

impl Sender {
    /// Takes what is due, and says for how long there will be nothing else unless somebody says so.
    async fn look(&self, most: usize) -> Result<(Vec<Claimed>, Duration), String> {
        let look = async {
            // Most looks find nothing: one statement, instead of a transaction that locks.
            let due_in = work::due_in(&self.store).await?.unwrap_or(LOOK_AT_LEAST_EVERY);
            if !due_in.is_zero() {
                return Ok((Vec::new(), due_in.min(LOOK_AT_LEAST_EVERY)));
            }
            Ok((work::claim(&self.store, most).await?, LOOK_AGAIN_AFTER))
        };
        match timeout(ANSWER_WITHIN, look).await {
            Ok(looked) => looked.map_err(|error: sqlx::Error| error.to_string()),
            Err(_) => Err("the database does not answer".to_owned()),
        }
    }

    async fn count(&self) {
        if let Ok(Ok(waiting)) = timeout(ANSWER_WITHIN, work::waiting(&self.store)).await {
            self.metrics.webhooks_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        }
    }

    /// Sends once, and has it on record what came of it.
    async fn deliver(&self, claimed: &Claimed) {
        let (at, began) = (Timestamp::now(), Instant::now());
        let signature = sign::signature(&claimed.secrets, &claimed.event_id, at.as_second(), &claimed.body);
        let post = Post {
            url: &claimed.url,
            id: &claimed.event_id,
            timestamp: at.as_second(),
            signature: &signature,
            body: &claimed.body,
        };
        let answer = self.receivers.post(post).await;
        let outcome = schedule::after(&answer, claimed.round, rand::random());
        let request = Request {
            at,
            took: began.elapsed(),
            status_code: answer.status,
            error: answer.error,
            response: answer.response,
        };
        self.metrics.webhook_sent(match outcome {
            Outcome::Delivered => "delivered",
            Outcome::Retry(_) => "retried",
            Outcome::Dead | Outcome::Gone => "dead",
        });
        let (delivery, endpoint) = (claimed.id, claimed.endpoint);
        match self.settle(claimed, &request, outcome).await {
            Ok(Settled::Yes { endpoint_disabled }) => {
                if matches!(outcome, Outcome::Dead | Outcome::Gone) {
                    info!(%delivery, %endpoint, attempts = claimed.attempt, "a webhook is given up");
                }
                if endpoint_disabled {
                    warn!(%endpoint, "nothing is sent to this webhook endpoint any more: see its disabled_reason");
                }
            }
            Ok(Settled::Lost) => info!(%delivery, "a webhook was taken over meanwhile; it may arrive twice"),
            Err(why) => {
                error!(why, %delivery, "what came of a webhook is not on record; it will be sent again");
            }
        }
    }

    async fn settle(
        &self,
        claimed: &Claimed,
        request: &Request,
        outcome: Outcome,
    ) -> Result<Settled, String> {
        for _ in 1..SETTLE_TRIES {
            if let Ok(Ok(settled)) =
                timeout(ANSWER_WITHIN, work::settle(&self.store, claimed, request, outcome)).await
            {
                return Ok(settled);
            }
            sleep(SETTLE_AGAIN_AFTER).await;
        }
        match timeout(ANSWER_WITHIN, work::settle(&self.store, claimed, request, outcome)).await {
            Ok(settled) => settled.map_err(|error| error.to_string()),
            Err(_) => Err("the database does not answer".to_owned()),
        }
    }
}
