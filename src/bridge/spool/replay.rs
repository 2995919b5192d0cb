//! Puts on record what calls have left in the spool: because they were over when PostgreSQL was back, or because the
//! process that carried them is gone.
//!
//! Everything is written so that a second time changes nothing. What PostgreSQL refuses is tried alone, so that it takes
//! nothing along, and set aside when it is refused then; so is what comes too late. What has to wait, for a lock or for its
//! call's offer, has all that follows of its call wait with it, and holds up no other call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use std::{mem, slice};

use tokio::time::sleep;
use tracing::{Instrument as _, debug, error, info, info_span, warn};

use super::{Record, Shared, Spool, Standing, Ticket};
use crate::bridge::gather::{is_final, may_be_ones_own, timely};
use crate::bridge::outage::Outage;
use crate::ids::{CallSid, ItemId, OrganizationId};
use crate::lifecycle::callback;
use crate::store::Store;
use crate::store::transcripts::{self, Turns};
use crate::store::{leads, privacy};
use crate::telemetry::Metrics;

/// Records that are looked at together.
const BATCH: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often what is set aside is looked through.
const LOOK_EVERY: Duration = Duration::from_mins(10);

/// Replays in the background until the spool is closed.
pub(in crate::bridge) fn start(spool: &Spool, store: Store, outage: Outage, metrics: Metrics) {
    let Some(shared) = spool.shared() else { return };
    let replay = Replay { spool: Arc::clone(shared), store, outage, metrics };
    #[expect(
        clippy::disallowed_methods,
        reason = "nothing has to wait for it: what it has not done when the spool is closed is done by the next process"
    )]
    tokio::spawn(async move { Box::pin(replay.run()).await }.instrument(info_span!(parent: None, "replay")));
}

struct Replay {
    spool: Arc<Shared>,
    store: Store,
    outage: Outage,
    metrics: Metrics,
}

type Batch = Vec<(Ticket, Arc<Record>)>;

/// One way through all that is left, oldest first.
#[derive(Debug, Default)]
struct Pass {
    after: Ticket,
    /// Calls of which something was put off: what follows of them waits with it.
    waiting: BTreeSet<CallSid>,
    /// Calls of which the carrier may have said before that they are over.
    perhaps_over: BTreeSet<CallSid>,
    /// Offers that were refused. Each is set aside after all that came with it, so that it is known to be void until then.
    void: Vec<Ticket>,
}

/// What became of a record.
enum Fate {
    Written,
    Late,
    /// A turn of a call that has no lease, nor an offer that could still give it one.
    NoLease,
}

/// What became of a batch.
#[derive(Default)]
struct Tally {
    written: usize,
    late: usize,
    refused: usize,
}

impl Replay {
    async fn run(self) {
        let closed = self.spool.closed.clone();
        tokio::select! {
            () = closed.cancelled() => {}
            () = self.replay() => {}
            () = self.look_after_set_aside() => {}
        }
    }

    /// Forgets what was set aside for too long, and what is of people who were erased since.
    async fn look_after_set_aside(&self) {
        loop {
            if let Err(error) = self.forget_erased().await {
                debug!(%error, "whether calls that are set aside were erased is looked up later");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn forget_erased(&self) -> sqlx::Result<()> {
        let set_aside = self.spool.set_aside_so_far().await;
        if set_aside.is_empty() {
            return Ok(());
        }
        let erased = self.erased_among(set_aside.iter().map(|(_, record)| &record.call.call_sid)).await?;
        let gone: Vec<Ticket> = set_aside
            .iter()
            .filter(|(_, record)| erased.contains(&record.call.call_sid))
            .map(|(ticket, _)| *ticket)
            .collect();
        if !gone.is_empty() {
            info!(records = gone.len(), "records of erased calls that were set aside are forgotten");
            self.spool.forget_set_aside(gone);
        }
        Ok(())
    }

    async fn erased_among(&self, calls: impl Iterator<Item = &CallSid>) -> sqlx::Result<BTreeSet<CallSid>> {
        let calls: BTreeSet<&CallSid> = calls.collect();
        let calls: Vec<_> = calls.into_iter().collect();
        let erased = timely(privacy::erased_among(&self.store, &calls)).await?;
        Ok(erased.into_iter().cloned().collect())
    }

    async fn replay(&self) {
        let (mut pass, mut pause) = (Pass::default(), FIRST_PAUSE);
        loop {
            let batch = self.spool.read(pass.after, BATCH).await;
            let Some((last, _)) = batch.last() else {
                let Pass { after, waiting, perhaps_over, void } = mem::take(&mut pass);
                pass.perhaps_over = self.catch_up(perhaps_over, &waiting).await;
                if self.spool.has_left(after) {
                    sleep(LONGEST_PAUSE).await; // They cannot be read now.
                    continue;
                }
                for offer in void {
                    self.spool.late(offer);
                }
                if waiting.is_empty() && pass.perhaps_over.is_empty() {
                    self.spool.left.notified().await;
                    pause = FIRST_PAUSE;
                } else {
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                continue;
            };
            pass.after = *last;
            let mut tally = Tally::default();
            let result = self.write(batch, &mut pass, &mut tally).await;
            self.outage.note(&result);
            if tally.written + tally.late + tally.refused > 0 {
                let Tally { written, late, refused } = tally;
                info!(written, late, refused, "records of the spool are put on record");
                pause = FIRST_PAUSE;
            }
            if let Err(error) = result {
                debug!(%error, "the records of the spool have to wait");
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                pass = Pass { perhaps_over: pass.perhaps_over, ..Pass::default() };
            }
        }
    }

    /// Returns those that could not be looked at yet.
    async fn catch_up(&self, calls: BTreeSet<CallSid>, waiting: &BTreeSet<CallSid>) -> BTreeSet<CallSid> {
        let mut put_off = BTreeSet::new();
        for call_sid in calls {
            if waiting.contains(&call_sid) {
                put_off.insert(call_sid);
            } else if let Err(error) = timely(callback::catch_up(&self.store, &call_sid)).await {
                warn!(%error, call.id = %call_sid, "whether the carrier has said that a call is over is looked up later");
                put_off.insert(call_sid);
            }
        }
        put_off
    }

    /// An error concerns the database as a whole: the rest of the batch waits.
    async fn write(&self, batch: Batch, pass: &mut Pass, tally: &mut Tally) -> sqlx::Result<()> {
        let batch = self.without_erased(batch).await?;
        let (turns, others): (Batch, Batch) = batch.into_iter().partition(|(_, record)| record.is_turn());
        // What happened goes first, since the call it is about may not be known yet.
        for (ticket, record) in others {
            if !self.may_go(ticket, &record, pass, tally) {
                continue;
            }
            let written = timely(record.replay(&self.store)).await;
            if record.is_offer() && matches!(written, Ok(false)) {
                warn!(call.id = %record.call.call_sid, "a call that was answered without the database is somebody else's");
                self.spool.void(ticket, record.right());
                pass.void.push(ticket);
                continue;
            }
            if record.may_come_after_the_end() && matches!(written, Ok(true)) {
                pass.perhaps_over.insert(record.call.call_sid.clone());
            }
            let fate = written.map(|written| if written { Fate::Written } else { Fate::Late });
            self.settle(ticket, &record, fate, pass, tally)?;
        }
        let turns: Batch =
            turns.into_iter().filter(|(ticket, record)| self.may_go(*ticket, record, pass, tally)).collect();
        self.write_turns(&turns, pass, tally).await
    }

    /// What is of people who were erased meanwhile is forgotten here as well, not even set aside.
    async fn without_erased(&self, batch: Batch) -> sqlx::Result<Batch> {
        let erased = self.erased_among(batch.iter().map(|(_, record)| &record.call.call_sid)).await?;
        let (gone, rest): (Batch, Batch) =
            batch.into_iter().partition(|(_, record)| erased.contains(&record.call.call_sid));
        self.spool.done(gone.into_iter().map(|(ticket, _)| ticket));
        Ok(rest)
    }

    /// False: it has to wait, or is not written at all.
    fn may_go(&self, ticket: Ticket, record: &Record, pass: &mut Pass, tally: &mut Tally) -> bool {
        if pass.waiting.contains(&record.call.call_sid) {
            return false;
        }
        match self.spool.standing(ticket, record) {
            Standing::Free => true,
            // It is so whoever has the call.
            Standing::Void if record.is_callback() => true,
            // Its call's own writer has the offer, or has just left it.
            Standing::Waits => {
                pass.waiting.insert(record.call.call_sid.clone());
                false
            }
            Standing::Void => {
                self.spool.late(ticket);
                tally.late += 1;
                false
            }
        }
    }

    async fn write_turns(
        &self,
        turns: &[(Ticket, Arc<Record>)],
        pass: &mut Pass,
        tally: &mut Tally,
    ) -> sqlx::Result<()> {
        let rows: Vec<Turns> = turns.iter().filter_map(|(_, record)| record.as_turns()).collect();
        let mut written = BTreeSet::new();
        match self.put_on_record(&rows).await {
            Ok(fates) => {
                for ((ticket, record), fate) in turns.iter().zip(fates) {
                    if self.settle(*ticket, record, Ok(fate), pass, tally)? {
                        written.insert((&record.call.call_sid, record.call.organization));
                    }
                }
            }
            Err(error) if may_be_ones_own(&error) => {
                for ((ticket, record), row) in turns.iter().zip(&rows) {
                    if pass.waiting.contains(&record.call.call_sid) {
                        continue;
                    }
                    let fates = self.put_on_record(slice::from_ref(row)).await;
                    let fate = fates.map(|fates| fates.into_iter().next().unwrap_or(Fate::Written));
                    if self.settle(*ticket, record, fate, pass, tally)? {
                        written.insert((&record.call.call_sid, record.call.organization));
                    }
                }
            }
            Err(error) => return Err(error),
        }
        for (call_sid, organization) in written {
            // The records of a call that was over long ago are not looked at again by themselves.
            pass.perhaps_over.insert(call_sid.clone());
            if let Err(error) = timely(leads::link_by_phone(&self.store, organization, call_sid)).await {
                warn!(%error, call.id = %call_sid, "linking the lead failed");
            }
        }
        Ok(())
    }

    /// One fate for each.
    async fn put_on_record(&self, turns: &[Turns]) -> sqlx::Result<Vec<Fate>> {
        let unwritten = timely(transcripts::replay(&self.store, turns)).await?;
        let unwritten: BTreeMap<(OrganizationId, &CallSid, &ItemId), bool> = unwritten
            .iter()
            .map(|turn| ((turn.organization, &turn.call_sid, &turn.item), turn.has_lease))
            .collect();
        let fate = |turns: &Turns| {
            let item = &turns.entries.first()?.item; // Each record is one turn.
            let has_lease = unwritten.get(&(turns.organization, &turns.call_sid, item))?;
            Some(if *has_lease { Fate::Late } else { Fate::NoLease })
        };
        Ok(turns.iter().map(|turns| fate(turns).unwrap_or(Fate::Written)).collect())
    }

    /// Does with a record what its write says; true: it is on record. An error that concerns everybody is handed on.
    fn settle(
        &self,
        ticket: Ticket,
        record: &Record,
        fate: sqlx::Result<Fate>,
        pass: &mut Pass,
        tally: &mut Tally,
    ) -> sqlx::Result<bool> {
        let call_sid = &record.call.call_sid;
        match fate {
            Ok(Fate::Written) => {
                self.metrics.spool_replayed.inc();
                tally.written += 1;
                self.spool.done([ticket]);
                return Ok(true);
            }
            Ok(Fate::Late) => {
                tally.late += 1;
                self.spool.late(ticket);
            }
            Ok(Fate::NoLease) => {
                error!(call.id = %call_sid, "a turn is of a call that was never offered; it is set aside in the spool");
                tally.refused += 1;
                self.spool.refuse(ticket, "the call has no lease");
            }
            Err(error) if is_final(&error) => {
                error!(%error, call.id = %call_sid, "the database will never take a record; it is set aside in the spool");
                if record.is_offer() {
                    self.spool.void(ticket, record.right());
                }
                tally.refused += 1;
                self.spool.refuse(ticket, &error.to_string());
            }
            Err(error) if may_be_ones_own(&error) => {
                warn!(%error, call.id = %call_sid, "a record of the spool has to wait");
                pass.waiting.insert(call_sid.clone());
            }
            Err(error) => return Err(error),
        }
        Ok(false)
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
