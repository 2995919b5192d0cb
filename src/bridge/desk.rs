//! Where the calls of a node bring what they all write over and over: finished turns and proof of life.
//!
//! Both tell whether the call is still ours. One that is not has to end: somebody else carries it, or it is over.

use std::collections::{HashMap, HashSet};
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::gather::{ALONE_AT_A_TIME, Gather, Write, may_be_ones_own, timely};
use super::outage::Outage;
use crate::ids::CallSid;
use crate::store::Store;
use crate::store::leases::{self, FencingToken};
use crate::store::transcripts::{self, Turns};

/// A finished turn is on record within a second of its end; this is how much of that it may wait for others.
const SAVE_EVERY: Duration = Duration::from_millis(250);
/// Others take a call for finished after two minutes without it, and end it after ten: several may fail.
const BEAT_EVERY: Duration = Duration::from_secs(15);

/// One for all calls.
pub(super) struct Desk {
    turns: Gather<Saving>,
    live: Arc<Live>,
    pub(super) outage: Outage,
}

/// What came of writing turns of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Saved {
    /// They are on record.
    All,
    /// The call is not ours any more. Nothing was written.
    NotOurs,
}

impl Desk {
    /// Must be called inside a runtime; the work ends when the desk is dropped.
    pub(super) fn open(store: &Store, outage: Outage) -> Self {
        let live = Arc::new(Live::default());
        #[expect(
            clippy::disallowed_methods,
            reason = "nothing has to wait for it: live calls need it until their end, and without any it does nothing"
        )]
        tokio::spawn(beat(Arc::downgrade(&live), store.clone(), outage.clone()));
        Self { turns: Gather::start(SAVE_EVERY, Saving(store.clone())), live, outage }
    }

    /// `alone`: they were refused before, and others shall not wait for them again.
    pub(super) async fn save(&self, turns: Arc<Turns>, alone: bool) -> sqlx::Result<Saved> {
        if alone { self.turns.write_alone(turns).await } else { self.turns.write(turns).await }
    }

    /// Shows that this call is carried, for as long as the answer is kept. `lost` is cancelled when it is not ours any
    /// more: somebody else carries it, or it is over.
    pub(super) fn keep_alive(
        &self,
        call_sid: CallSid,
        token: FencingToken,
        lost: CancellationToken,
    ) -> KeptAlive {
        let lease = (call_sid, token);
        self.live.lock().insert(lease.clone(), lost);
        KeptAlive { live: Arc::clone(&self.live), lease }
    }

    /// A write has come back: the call is not ours any more.
    pub(super) fn lose(&self, call_sid: &CallSid, token: FencingToken) {
        self.live.lose(&(call_sid.clone(), token));
    }
}

struct Saving(Store);

impl Write for Saving {
    type Item = Arc<Turns>;
    type Outcome = Saved;

    async fn write(&self, calls: &[Arc<Turns>]) -> sqlx::Result<Vec<Saved>> {
        let not_ours = transcripts::save(&self.0, calls).await?;
        let is_ours = |turns: &Turns| !not_ours.contains(&(turns.call_sid.clone(), turns.token));
        Ok(calls.iter().map(|turns| if is_ours(turns) { Saved::All } else { Saved::NotOurs }).collect())
    }
}

type Lease = (CallSid, FencingToken);

/// The calls that this node carries, and how each is told that it is lost.
#[derive(Default)]
struct Live(Mutex<HashMap<Lease, CancellationToken>>);

/// One of them.
pub(super) struct KeptAlive {
    live: Arc<Live>,
    lease: Lease,
}

impl Drop for KeptAlive {
    fn drop(&mut self) {
        self.live.lock().remove(&self.lease);
    }
}

async fn beat(live: Weak<Live>, store: Store, outage: Outage) {
    let mut due = interval(BEAT_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let Some(live) = live.upgrade() else { return };
        let leases: Vec<Lease> = live.lock().keys().cloned().collect();
        if leases.is_empty() && outage.lasts() {
            outage.note(&timely(store.ping()).await); // Nobody else may find out that it is over.
        }
        live.renew_all(&store, &leases, &outage).await;
    }
}

impl Live {
    async fn renew_all(&self, store: &Store, leases: &[Lease], outage: &Outage) {
        let renewed = self.renew(store, leases).await;
        if !leases.is_empty() {
            outage.note(&renewed); // Without leases nothing was asked.
        }
        match renewed {
            Err(error) if leases.len() > 1 && may_be_ones_own(&error) => {
                // The row of one call is locked for long. The others shall not run out because of it.
                let each = stream::iter(leases).for_each_concurrent(ALONE_AT_A_TIME, async |lease| {
                    if let Err(error) = self.renew(store, slice::from_ref(lease)).await {
                        warn!(%error, call.id = %lease.0, "the lease of this call could not be renewed");
                    }
                });
                each.await;
            }
            Err(error) => {
                warn!(%error, calls = leases.len(), "the leases of live calls could not be renewed");
            }
            Ok(()) => {}
        }
    }

    async fn renew(&self, store: &Store, leases: &[Lease]) -> sqlx::Result<()> {
        let ours: HashSet<Lease> = timely(leases::heartbeat(store, leases)).await?.into_iter().collect();
        leases.iter().filter(|lease| !ours.contains(lease)).for_each(|lost| self.lose(lost));
        Ok(())
    }

    /// Said once, since it does not come back; and not of a call that has ended meanwhile.
    fn lose(&self, lease: &Lease) {
        if let Some(lost) = self.lock().remove(lease) {
            warn!(call.id = %lease.0, "the lease of this call is not ours any more; it ends here");
            lost.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Lease, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
