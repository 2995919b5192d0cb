//! A call that a carrier stands behind: how it begins, what the carrier may order meanwhile, and what is asked of it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::report::EndedBy;
use super::twiml::{Dial, Number};

/// Where a document comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::simulate) enum Source {
    /// Asked for at a URL.
    Url {
        url: String,
        method: String,
        /// Whom to ask when that fails, and how.
        fallback: Option<(String, String)>,
    },
    /// Given with the request.
    Text(String),
}

/// What a call is told from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::simulate) enum Order {
    /// To leave its document for another one.
    Follow(Source),
    /// To end.
    End(EndedBy),
}

/// What a call tells its carrier.
#[derive(Debug)]
pub(in crate::simulate) enum News {
    /// A verb other than `<Reject>` is carried out: the call is taken.
    Answered,
    /// Other telephones are to ring.
    Dial(DialWish),
}

/// Telephones that are to ring; nobody waits for them any more when `reply` is closed.
#[derive(Debug)]
pub(in crate::simulate) struct DialWish {
    pub(in crate::simulate) numbers: Vec<Number>,
    pub(in crate::simulate) timeout: Duration,
    pub(in crate::simulate) time_limit: Duration,
    pub(in crate::simulate) caller_id: Option<String>,
    /// What URLs in the document are relative to.
    pub(in crate::simulate) base: String,
    /// Set when the two can speak.
    pub(in crate::simulate) bridged: Arc<AtomicBool>,
    pub(in crate::simulate) reply: oneshot::Sender<Dialed>,
}

/// What became of it, in the words of the `action` request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::simulate) struct Dialed {
    pub(in crate::simulate) status: &'static str,
    /// `CA…` of the telephone that counts.
    pub(in crate::simulate) call_sid: Option<String>,
    /// Since somebody took it.
    pub(in crate::simulate) seconds: Option<u64>,
    pub(in crate::simulate) bridged: bool,
}

/// Everything a call has from its carrier.
#[derive(Debug)]
pub(in crate::simulate) struct Leg {
    pub(in crate::simulate) source: Source,
    /// `inbound`, `outbound-api`, `outbound-dial`.
    pub(in crate::simulate) direction: &'static str,
    /// `CallStatus` in the first request for a document.
    pub(in crate::simulate) status: &'static str,
    /// More fields of every request.
    pub(in crate::simulate) extra: Vec<(String, String)>,
    pub(in crate::simulate) orders: mpsc::Receiver<Order>,
    pub(in crate::simulate) news: mpsc::Sender<News>,
    /// What takes a second takes so many.
    pub(in crate::simulate) pace: f64,
    /// When the person hangs up, whatever happens.
    pub(in crate::simulate) leaves: Option<Instant>,
    /// When the carrier ends the call.
    pub(in crate::simulate) limit: Option<Instant>,
}

/// Orders of the carrier and of the clock.
#[derive(Debug, Default)]
pub(super) struct Orders {
    updates: Option<mpsc::Receiver<Order>>,
    leaves: Option<Instant>,
    limit: Option<Instant>,
    kept: Option<Order>,
}

impl Orders {
    pub(super) const fn new(
        updates: mpsc::Receiver<Order>,
        leaves: Option<Instant>,
        limit: Option<Instant>,
    ) -> Self {
        Self { updates: Some(updates), leaves, limit, kept: None }
    }

    /// The next one; never for a call without a carrier. May be dropped and asked again.
    pub(super) async fn next(&mut self) -> Order {
        if let Some(order) = self.kept.take() {
            return order;
        }
        let (leaves, limit) = (self.leaves, self.limit);
        tokio::select! {
            biased;
            Some(order) = receive(&mut self.updates) => order,
            () = reach(leaves) => Order::End(EndedBy::Caller),
            () = reach(limit) => Order::End(EndedBy::Carrier),
        }
    }

    /// The next one if it is there already.
    pub(super) fn ready(&mut self) -> Option<Order> {
        self.kept.take().or_else(|| self.updates.as_mut()?.try_recv().ok())
    }

    /// Gives one back that somebody else is to carry out.
    pub(super) fn keep(&mut self, order: Order) {
        self.kept = Some(order);
    }
}

async fn receive(updates: &mut Option<mpsc::Receiver<Order>>) -> Option<Order> {
    match updates {
        Some(updates) => updates.recv().await,
        None => std::future::pending().await,
    }
}

async fn reach(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

impl DialWish {
    /// What `dial` of the document at `base` asks for.
    pub(super) fn new(
        dial: &Dial,
        base: &str,
        bridged: &Arc<AtomicBool>,
    ) -> (Self, oneshot::Receiver<Dialed>) {
        let (reply, answer) = oneshot::channel();
        let wish = Self {
            numbers: dial.numbers.clone(),
            timeout: dial.timeout,
            time_limit: dial.time_limit,
            caller_id: dial.caller_id.clone(),
            base: base.to_owned(),
            bridged: Arc::clone(bridged),
            reply,
        };
        (wish, answer)
    }
}
