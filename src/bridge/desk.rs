//! Where the calls of a node bring what they all write over and over: finished turns and proof of life.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::gather::{Gather, Write};
use crate::ids::CallSid;
use crate::store::Store;
use crate::store::leases::{self, FencingToken};
use crate::store::transcripts::{self, Turns};

/// A finished turn is on record within a second of its end; this is how much of that it may wait for others.
const SAVE_EVERY: Duration = Duration::from_millis(50);
/// Proof of life is good for two minutes.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// One for all calls.
pub(super) struct Desk {
    turns: Gather<Arc<Turns>, ()>,
    beats: Gather<(CallSid, FencingToken), bool>,
}

impl Desk {
    /// Must be called inside a runtime; the work ends when the desk is dropped.
    pub(super) fn open(store: &Store) -> Self {
        Self {
            turns: Gather::start(SAVE_EVERY, Saving(store.clone())),
            beats: Gather::start(BEAT_EVERY, Beating(store.clone())),
        }
    }

    pub(super) async fn save(&self, turns: Arc<Turns>) -> sqlx::Result<()> {
        self.turns.write(turns).await
    }

    /// False: the call is not ours any more.
    pub(super) async fn beat(&self, call_sid: CallSid, token: FencingToken) -> sqlx::Result<bool> {
        self.beats.write((call_sid, token)).await
    }
}

struct Saving(Store);

impl Write for Saving {
    type Item = Arc<Turns>;
    type Done = ();

    async fn write(&self, calls: &[Arc<Turns>]) -> sqlx::Result<Vec<()>> {
        transcripts::save(&self.0, calls).await?;
        Ok(vec![(); calls.len()])
    }
}

struct Beating(Store);

impl Write for Beating {
    type Item = (CallSid, FencingToken);
    type Done = bool;

    async fn write(&self, calls: &[(CallSid, FencingToken)]) -> sqlx::Result<Vec<bool>> {
        let ours: HashSet<CallSid> = leases::heartbeat(&self.0, calls).await?.into_iter().collect();
        Ok(calls.iter().map(|(call_sid, _)| ours.contains(call_sid)).collect())
    }
}
