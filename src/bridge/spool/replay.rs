//! Puts on record what calls have left in the spool: because they were over when PostgreSQL was back, or because the
//! process that carried them is gone.
//!
//! Everything is written so that a second time changes nothing. What PostgreSQL refuses is tried alone, so that it takes
//! nothing along, and set aside when it is refused then; so is what comes too late.

use std::collections::BTreeSet;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{Instrument as _, debug, error, info, info_span, warn};

use super::{Record, Shared, Spool, Ticket};
use crate::bridge::gather::{is_final, may_be_ones_own, timely};
use crate::bridge::outage::Outage;
use crate::ids::{CallSid, OrganizationId};
use crate::store::Store;
use crate::store::leads;
use crate::store::transcripts::{self, Turns, Unwritten};
use crate::telemetry::Metrics;

/// Records that are looked at together.
const BATCH: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Replays in the background until the spool is closed.
pub(in crate::bridge) fn start(spool: &Spool, store: Store, outage: Outage, metrics: Metrics) {
    let Some(shared) = spool.shared() else { return };
    let replay = Replay { spool: Arc::clone(shared), store, outage, metrics };
    #[expect(
        clippy::disallowed_methods,
        reason = "nothing has to wait for it: what it has not done when the spool is closed is done by the next process"
    )]
    tokio::spawn(async move { replay.run().await }.instrument(info_span!(parent: None, "replay")));
}

struct Replay {
    spool: Arc<Shared>,
    store: Store,
    outage: Outage,
    metrics: Metrics,
}

type Batch = Vec<(Ticket, Arc<Record>)>;

/// What became of a batch.
#[derive(Default)]
struct Tally {
    written: usize,
    late: usize,
    refused: usize,
    /// Found a lock, or the like; they are tried again.
    put_off: usize,
}

impl Replay {
    async fn run(self) {
        let closed = self.spool.closed.clone();
        tokio::select! {
            () = closed.cancelled() => {}
            () = self.replay() => {}
        }
    }

    async fn replay(&self) {
        let (mut after, mut pause, mut put_off) = (Ticket::default(), FIRST_PAUSE, false);
        loop {
            let batch = self.spool.read(after, BATCH).await;
            let Some((last, _)) = batch.last() else {
                if put_off {
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                } else if self.spool.has_left(after) {
                    sleep(LONGEST_PAUSE).await; // They cannot be read now.
                } else {
                    self.spool.left.notified().await;
                    pause = FIRST_PAUSE;
                }
                (after, put_off) = (Ticket::default(), false);
                continue;
            };
            let last = *last;
            let mut tally = Tally::default();
            let result = self.write(batch, &mut tally).await;
            self.outage.note(&result);
            if tally.written + tally.late + tally.refused > 0 {
                let Tally { written, late, refused, .. } = tally;
                info!(written, late, refused, "records of the spool are put on record");
                pause = FIRST_PAUSE;
            }
            match result {
                Ok(()) => {
                    put_off |= tally.put_off > 0;
                    after = last;
                }
                Err(error) => {
                    debug!(%error, "the records of the spool have to wait");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    (after, put_off) = (Ticket::default(), false);
                }
            }
        }
    }

    /// An error concerns the database as a whole: the rest of the batch waits.
    async fn write(&self, batch: Batch, tally: &mut Tally) -> sqlx::Result<()> {
        let (turns, others): (Batch, Batch) = batch.into_iter().partition(|(_, record)| record.is_turn());
        // What happened goes first, since the call it is about may not be known yet.
        let mut waiting: BTreeSet<CallSid> = BTreeSet::new();
        for (ticket, record) in others {
            let call_sid = &record.call.call_sid;
            if waiting.contains(call_sid) {
                tally.put_off += 1; // What happened before has to go first.
                continue;
            }
            let written = timely(record.put_on_record(&self.store)).await;
            if !self.settle(ticket, written, call_sid, tally)? {
                waiting.insert(call_sid.clone());
            }
        }
        self.write_turns(&turns, tally).await
    }

    async fn write_turns(&self, turns: &[(Ticket, Arc<Record>)], tally: &mut Tally) -> sqlx::Result<()> {
        let mut alone = Vec::new();
        let rows: Vec<Turns> = turns.iter().filter_map(|(_, record)| record.as_turns()).collect();
        match timely(transcripts::replay(&self.store, &rows)).await {
            Ok(unwritten) => {
                for ((ticket, record), row) in turns.iter().zip(&rows) {
                    let in_time = !unwritten.iter().any(|late| is_about(late, row));
                    self.settle(*ticket, Ok(in_time), &record.call.call_sid, tally)?;
                }
            }
            Err(error) if may_be_ones_own(&error) => alone = rows,
            Err(error) => return Err(error),
        }
        for ((ticket, record), row) in turns.iter().zip(&alone) {
            let written = timely(transcripts::replay(&self.store, slice::from_ref(row))).await;
            self.settle(*ticket, written.map(|late| late.is_empty()), &record.call.call_sid, tally)?;
        }
        let calls: BTreeSet<(&CallSid, OrganizationId)> =
            turns.iter().map(|(_, record)| (&record.call.call_sid, record.call.organization)).collect();
        for (call_sid, organization) in calls {
            if let Err(error) = timely(leads::link_by_phone(&self.store, organization, call_sid)).await {
                warn!(%error, call.id = %call_sid, "linking the lead failed");
            }
        }
        Ok(())
    }

    /// Does with a record what its write says; false: it has to wait. An error that concerns everybody is handed on.
    fn settle(
        &self,
        ticket: Ticket,
        written: sqlx::Result<bool>,
        call_sid: &CallSid,
        tally: &mut Tally,
    ) -> sqlx::Result<bool> {
        match written {
            Ok(in_time) => {
                if in_time {
                    self.metrics.spool_replayed.inc();
                    tally.written += 1;
                    self.spool.done([ticket]);
                } else {
                    self.metrics.spool_late.inc();
                    tally.late += 1;
                    self.spool.set_aside(ticket, "too late: the call was given to somebody else");
                }
            }
            Err(error) if is_final(&error) => {
                error!(%error, call.id = %call_sid, "the database will never take a record; it is set aside in the spool");
                self.spool.refuse(ticket, &error.to_string());
                tally.refused += 1;
            }
            Err(error) if may_be_ones_own(&error) => {
                warn!(%error, call.id = %call_sid, "a record of the spool has to wait");
                tally.put_off += 1;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

fn is_about(unwritten: &Unwritten, turns: &Turns) -> bool {
    (unwritten.organization, &unwritten.call_sid) == (turns.organization, &turns.call_sid)
        && turns.entries.iter().any(|entry| entry.item == unwritten.item)
}
