//! Keeps on this machine's disk what is not in PostgreSQL yet.
//!
//! Whatever has to be put on record is kept here first, and forgotten when PostgreSQL has it. So a finished turn outlives
//! the process that heard it, and PostgreSQL may be away for hours. What the call itself can no longer write, because it
//! is over or the process is another one, is left to `replay`.
//!
//! The disk is written to by one thread, so that neither a call nor the runtime ever waits for it. What is kept after a
//! pause is written at once, what follows soon after it in common commits. What PostgreSQL has taken before that is never
//! written at all.

mod book;
mod offers;
mod record;
pub(super) mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;
use book::{Book, BookError, Page};
use offers::{Offers, Right, Standing};
pub(super) use record::{Record, What};

/// Records of a brisk hour of all calls a node may carry by default; half a million small pages of memory at most.
const MOST_RECORDS: u64 = 500_000;
/// A turn takes about half a kilobyte.
const MOST_BYTES: u64 = 256 * 1024 * 1024;
/// Records that wait for the disk: seconds of all calls of a node.
const QUEUE: usize = 4096;
/// Commits are this far apart: a turn is durable well within a second, and the disk is not kept busy by us.
const COMMIT_EVERY: Duration = Duration::from_millis(50);
/// How long it may take until the disk learns what need not be kept any more. A crash before has it written twice, which
/// changes nothing.
const FORGET_WITHIN: Duration = Duration::from_secs(1);
/// A disk that failed is tried again this often.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// The spool of this process; clones are the same. It is written out and closed when the last of them is gone.
#[derive(Debug, Clone)]
pub struct Spool(Option<Arc<Leash>>);

/// Ends the thread.
#[derive(Debug)]
struct Leash {
    shared: Arc<Shared>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// A record that is kept; the microsecond of the wall clock in which it was, moved on where that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Ticket(u64);

/// How the spool does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is kept becomes durable.
    Good,
    /// There is no more room: what comes is not kept.
    Full,
    /// The disk does not take what is kept.
    Broken,
    /// There is none.
    Off,
}

#[derive(Debug)]
struct Shared {
    inbox: Mutex<Inbox>,
    /// The thread has something to do.
    wake: Condvar,
    /// Somebody has left something to the replay.
    left: Notify,
    closed: CancellationToken,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Inbox {
    /// Not in the file for certain.
    keep: BTreeMap<Ticket, Arc<Record>>,
    /// Not needed any more, and perhaps in the file.
    forget: Vec<Ticket>,
    refuse: Vec<(Ticket, String)>,
    reads: Vec<Read>,
    /// Who wants to see what is set aside, and what of it is to be forgotten.
    looks: Vec<oneshot::Sender<Rows>>,
    forget_refused: Vec<Ticket>,
    /// No call works on these.
    left: BTreeSet<Ticket>,
    last: Ticket,
    /// Kept by this process, and perhaps in the file; all else there is of processes that are gone.
    own: BTreeSet<Ticket>,
    offers: Offers,
    /// What was kept before may be in the file.
    written_below: Ticket,
    /// Of the file.
    rows: u64,
    bytes: u64,
    oldest: Option<Ticket>,
    broken: bool,
    told_full: bool,
    closing: bool,
}

#[derive(Debug)]
struct Read {
    tickets: Vec<Ticket>,
    answer: oneshot::Sender<Rows>,
}

/// Records as they stand in the file.
type Rows = Vec<(Ticket, Vec<u8>)>;

impl Inbox {
    fn has_work(&self) -> bool {
        let is_idle = self.keep.is_empty()
            && self.refuse.is_empty()
            && self.reads.is_empty()
            && self.looks.is_empty()
            && self.forget_refused.is_empty();
        !is_idle || self.closing
    }

    fn records(&self) -> u64 {
        self.rows + self.keep.len() as u64
    }

    fn is_full(&self) -> bool {
        self.records() >= MOST_RECORDS || self.bytes >= MOST_BYTES || self.keep.len() >= QUEUE
    }
}

impl Spool {
    /// No spool: nothing is kept, and what cannot be written to PostgreSQL in time is lost.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }

    /// Opens a file of this process's own in `dir`. What earlier processes have left in it waits to be replayed.
    ///
    /// A directory that cannot be used is told and tried again, so that calls can be taken meanwhile.
    pub async fn open(dir: PathBuf, metrics: &Metrics) -> Self {
        let shared = Arc::new(Shared::new(metrics));
        let (opened, opening) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new().name("spool".into());
        let of_thread = Arc::clone(&shared);
        let started = thread.spawn(move || {
            // Also if it panics: then nothing is taken any more.
            let _closed = CloseWhenDone(&of_thread);
            run(&of_thread, &dir, opened);
            drop(end);
        });
        if let Err(error) = started {
            tracing::error!(%error, "there is no thread for the spool; records are not kept");
            return Self::off();
        }
        let _ = opening.await; // Open, or broken and told.
        Self(Some(Arc::new(Leash { shared, ended: Mutex::new(Some(ended)) })))
    }

    /// Keeps a record, which becomes durable within a moment. `None`: there is no room for it, which is told and counted.
    pub(super) fn keep(&self, record: Arc<Record>) -> Option<Ticket> {
        let shared = self.shared()?;
        let mut inbox = shared.lock();
        if inbox.is_full() || inbox.closing {
            let first = !mem::replace(&mut inbox.told_full, true);
            drop(inbox);
            shared.metrics.spool_unkept.inc();
            if first {
                tracing::error!(
                    "THE SPOOL IS FULL: what happens from now on is not kept here, and lost when PostgreSQL does not come back in time"
                );
            }
            return None;
        }
        let now = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default();
        let ticket = Ticket(now.max(inbox.last.0 + 1));
        inbox.last = ticket;
        inbox.own.insert(ticket);
        if record.is_offer() {
            inbox.offers.keep(ticket, record.right());
        }
        inbox.keep.insert(ticket, record);
        shared.tell(&inbox);
        drop(inbox);
        shared.wake.notify_one();
        Some(ticket)
    }

    /// PostgreSQL has these, or needs them no more.
    pub(super) fn done(&self, tickets: impl IntoIterator<Item = Ticket>) {
        let Some(shared) = self.shared() else { return };
        shared.done(tickets);
    }

    /// PostgreSQL will never take this: it is set aside for people to look at.
    pub(super) fn refuse(&self, ticket: Ticket, why: &str) {
        let Some(shared) = self.shared() else { return };
        shared.refuse(ticket, why);
    }

    /// Somebody else had the call by then: it is set aside as well.
    pub(super) fn late(&self, ticket: Ticket) {
        let Some(shared) = self.shared() else { return };
        shared.late(ticket);
    }

    /// This offer was refused, and nothing that came after it is ever written. `None`: it is not in the spool.
    ///
    /// It is not settled by that. As long as it is kept, also the next process learns that it is void.
    pub(super) fn void(&self, offer: Option<Ticket>, right: Right) {
        let Some(shared) = self.shared() else { return };
        shared.void(offer.unwrap_or_default(), right);
    }

    /// The call does not write these any more; the replay does.
    pub(super) fn leave(&self, tickets: impl IntoIterator<Item = Ticket>) {
        let Some(shared) = self.shared() else { return };
        shared.lock().left.extend(tickets);
        shared.left.notify_one();
    }

    /// How it does.
    #[must_use]
    pub fn condition(&self) -> Condition {
        let Some(shared) = self.shared() else { return Condition::Off };
        let inbox = shared.lock();
        match () {
            () if inbox.broken || inbox.closing => Condition::Broken,
            () if inbox.is_full() => Condition::Full,
            () => Condition::Good,
        }
    }

    /// Brings the numbers up to date that change by themselves.
    pub fn observe(&self) {
        let Some(shared) = self.shared() else { return };
        let inbox = shared.lock();
        let oldest = inbox.oldest.into_iter().chain(inbox.keep.keys().next().copied()).min();
        let now = Timestamp::now().as_microsecond();
        let age = oldest.map_or(0, |Ticket(kept)| now.saturating_sub(kept.cast_signed()).max(0));
        shared.metrics.spool_oldest_seconds.set(age / 1_000_000);
    }

    /// Waits until nothing is left to replay.
    pub async fn is_replayed(&self) {
        let Some(shared) = self.shared() else { return };
        while !shared.lock().left.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Writes out what has to be kept, and lets go of the file.
    pub async fn close(&self) {
        let Some(leash) = &self.0 else { return };
        leash.shared.close();
        let ended = leash.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended {
            let _ = ended.await; // The sender is dropped.
        }
    }

    /// Records that are left to the replay.
    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.shared().map_or(0, |shared| shared.lock().left.len())
    }

    fn shared(&self) -> Option<&Arc<Shared>> {
        self.0.as_ref().map(|leash| &leash.shared)
    }
}

impl Shared {
    fn new(metrics: &Metrics) -> Self {
        Self {
            inbox: Mutex::default(),
            wake: Condvar::new(),
            left: Notify::new(),
            closed: CancellationToken::new(),
            metrics: metrics.clone(),
        }
    }

    fn done(&self, tickets: impl IntoIterator<Item = Ticket>) {
        let mut inbox = self.lock();
        for ticket in tickets {
            inbox.left.remove(&ticket);
            inbox.offers.settle(ticket);
            let unwritten = inbox.keep.remove(&ticket).is_some() && ticket >= inbox.written_below;
            if unwritten {
                inbox.own.remove(&ticket);
            } else {
                inbox.forget.push(ticket);
            }
        }
        self.tell(&inbox);
        drop(inbox);
        self.wake.notify_one();
    }

    fn refuse(&self, ticket: Ticket, why: &str) {
        self.metrics.spool_refused.inc();
        self.set_aside(ticket, why);
    }

    fn late(&self, ticket: Ticket) {
        self.metrics.spool_late.inc();
        self.set_aside(ticket, "too late: the call was somebody else's");
    }

    fn void(&self, offer: Ticket, right: Right) {
        self.lock().offers.refuse(offer, right);
    }

    fn standing(&self, ticket: Ticket, record: &Record) -> Standing {
        self.lock().offers.standing(ticket, &record.right())
    }

    /// It is not written any more, and kept for people to look at.
    fn set_aside(&self, ticket: Ticket, why: &str) {
        let mut inbox = self.lock();
        inbox.left.remove(&ticket);
        inbox.offers.settle(ticket);
        inbox.refuse.push((ticket, why.to_owned()));
        drop(inbox);
        self.wake.notify_one();
    }

    /// At most so many records that are left, from the oldest after `after` on; those that cannot be read are set aside.
    async fn read(&self, after: Ticket, most: usize) -> Vec<(Ticket, Arc<Record>)> {
        let (mut found, asked) = {
            let mut inbox = self.lock();
            let wanted: Vec<Ticket> = inbox.left.range(later_than(after)).take(most).copied().collect();
            let in_memory: Vec<_> = wanted
                .iter()
                .filter_map(|ticket| Some((*ticket, Arc::clone(inbox.keep.get(ticket)?))))
                .collect();
            let tickets: Vec<Ticket> =
                wanted.into_iter().filter(|ticket| !inbox.keep.contains_key(ticket)).collect();
            let asked = (!tickets.is_empty() && !inbox.closing).then(|| {
                let (answer, asked) = oneshot::channel();
                inbox.reads.push(Read { tickets: tickets.clone(), answer });
                (tickets, asked)
            });
            (in_memory, asked)
        };
        let Some((tickets, asked)) = asked else { return found };
        self.wake.notify_one();
        // Not when the disk fails or all is closed.
        let Ok(rows) = asked.await else { return found };
        let there: BTreeSet<Ticket> = rows.iter().map(|(ticket, _)| *ticket).collect();
        let mut inbox = self.lock();
        for gone in tickets.iter().filter(|ticket| !there.contains(ticket)) {
            inbox.left.remove(gone);
        }
        drop(inbox);
        for (ticket, row) in rows {
            match serde_json::from_slice(&row) {
                Ok(record) => found.push((ticket, Arc::new(record))),
                Err(error) => {
                    tracing::error!(%error, "a record of the spool cannot be read; it is set aside");
                    self.refuse(ticket, &error.to_string());
                }
            }
        }
        found.sort_by_key(|(ticket, _)| *ticket);
        found
    }

    /// All that is set aside and can be read. Nothing when the disk fails or all is closed.
    async fn set_aside_so_far(&self) -> Vec<(Ticket, Record)> {
        let (answer, asked) = oneshot::channel();
        {
            let mut inbox = self.lock();
            if inbox.closing {
                return Vec::new();
            }
            inbox.looks.push(answer);
        }
        self.wake.notify_one();
        let rows = asked.await.unwrap_or_default();
        rows.into_iter()
            .filter_map(|(ticket, row)| Some((ticket, serde_json::from_slice(&row).ok()?)))
            .collect()
    }

    /// These were set aside, and nobody may look at them any more.
    fn forget_set_aside(&self, tickets: impl IntoIterator<Item = Ticket>) {
        self.lock().forget_refused.extend(tickets);
        self.wake.notify_one();
    }

    fn has_left(&self, after: Ticket) -> bool {
        self.lock().left.range(later_than(after)).next().is_some()
    }

    fn tell(&self, inbox: &Inbox) {
        self.metrics.spool_records.set(inbox.records().cast_signed());
        self.metrics.spool_bytes.set(inbox.bytes.cast_signed());
    }

    fn close(&self) {
        self.lock().closing = true;
        self.closed.cancel();
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// However the thread ends, nothing more is given to it.
struct CloseWhenDone<'a>(&'a Shared);

impl Drop for CloseWhenDone<'_> {
    fn drop(&mut self) {
        self.0.close();
        let mut inbox = self.0.lock();
        inbox.reads.clear(); // Their answers do not come.
        inbox.looks.clear();
        if !inbox.keep.is_empty() {
            tracing::error!(records = inbox.keep.len(), "records could not be kept and are lost");
        }
    }
}

/// The thread: one commit after the other.
fn run(shared: &Shared, dir: &Path, opened: oneshot::Sender<()>) {
    let mut book = open(shared, dir);
    let _ = opened.send(());
    loop {
        let closing = if book.is_some() {
            wait_for_work(shared)
        } else {
            {
                let mut inbox = shared.lock();
                inbox.reads.clear(); // Their answers do not come.
                inbox.looks.clear();
            }
            rest(shared, RETRY_EVERY);
            book = open(shared, dir);
            shared.lock().closing
        };
        if let Some(open) = &mut book
            && let Err(error) = turn_page(shared, open)
        {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "THE SPOOL CANNOT BE WRITTEN TO: calls go on, but what PostgreSQL does not have yet is lost if this process ends"
            );
            // After a failure the file has to be opened again.
            book = None;
            shared.lock().broken = true;
        }
        if closing {
            return;
        }
        if book.is_some() {
            rest(shared, COMMIT_EVERY);
        }
    }
}

fn open(shared: &Shared, dir: &Path) -> Option<Book> {
    let opened = Book::open(dir).and_then(|(book, path)| {
        let keys = book.keys().map_err(BookError::at(&path))?;
        Ok((book, path, keys))
    });
    let (book, path, keys) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            if !mem::replace(&mut shared.lock().broken, true) {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "THERE IS NO SPOOL: calls go on, but what PostgreSQL does not have yet is lost if this process ends (VOICEBRIDGE_DATA_DIR)"
                );
            }
            return None;
        }
    };
    let mut inbox = shared.lock();
    // Also when the file could not be opened at once, and this process has kept something meanwhile.
    let settled: BTreeSet<Ticket> =
        inbox.forget.iter().chain(inbox.refuse.iter().map(|(ticket, _)| ticket)).copied().collect();
    let is_left = |ticket: &Ticket| !inbox.own.contains(ticket) && !settled.contains(ticket);
    let of_others: Vec<Ticket> = keys.iter().copied().map(Ticket).filter(is_left).collect();
    let found = of_others.iter().filter(|ticket| !inbox.left.contains(ticket)).count();
    if found > 0 {
        tracing::warn!(records = found, path = %path.display(), "an earlier process has left records; they are put on record now");
    }
    inbox.left.extend(of_others);
    inbox.last = inbox.last.max(Ticket(keys.last().copied().unwrap_or_default()));
    if mem::replace(&mut inbox.broken, false) {
        tracing::info!(path = %path.display(), "the spool can be written to");
    }
    (inbox.rows, inbox.bytes, inbox.oldest) = (book.rows, book.bytes, book.oldest.map(Ticket));
    shared.tell(&inbox);
    drop(inbox);
    shared.left.notify_one();
    Some(book)
}

/// True: this is the last time.
fn wait_for_work(shared: &Shared) -> bool {
    let mut inbox = shared.lock();
    loop {
        if inbox.has_work() {
            return inbox.closing;
        }
        if inbox.forget.is_empty() {
            inbox = shared.wake.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        } else {
            let wait = shared.wake.wait_timeout_while(inbox, FORGET_WITHIN, |inbox| !inbox.has_work());
            return wait.unwrap_or_else(PoisonError::into_inner).0.closing;
        }
    }
}

/// Lets others join the next commit.
fn rest(shared: &Shared, pause: Duration) {
    let resting = shared.wake.wait_timeout_while(shared.lock(), pause, |inbox| !inbox.closing);
    drop(resting);
}

/// Writes down what has come, and answers what was asked.
fn turn_page(shared: &Shared, book: &mut Book) -> Result<(), redb::Error> {
    let (kept, forget, refuse, forget_refused, reads, looks) = {
        let mut inbox = shared.lock();
        inbox.written_below = Ticket(inbox.last.0 + 1);
        let kept: Vec<_> = inbox.keep.iter().map(|(ticket, record)| (*ticket, Arc::clone(record))).collect();
        let (forget, refuse) = (mem::take(&mut inbox.forget), mem::take(&mut inbox.refuse));
        let forget_refused = mem::take(&mut inbox.forget_refused);
        (kept, forget, refuse, forget_refused, mem::take(&mut inbox.reads), mem::take(&mut inbox.looks))
    };
    let tickets: Vec<Ticket> = kept.iter().map(|(ticket, _)| *ticket).collect();
    let page = Page {
        keep: kept.into_iter().map(|(Ticket(key), record)| (key, json(&record))).collect(),
        forget: forget.iter().map(|Ticket(key)| *key).collect(),
        refuse: refuse.iter().map(|(Ticket(key), why)| (*key, why.clone())).collect(),
        forget_refused: forget_refused.iter().map(|Ticket(key)| *key).collect(),
    };
    if !page.is_empty() {
        if let Err(error) = book.write(&page) {
            let mut inbox = shared.lock();
            inbox.forget.extend(forget);
            inbox.refuse.extend(refuse);
            inbox.forget_refused.extend(forget_refused);
            return Err(error);
        }
        shared.metrics.spool_commits.inc();
        let mut inbox = shared.lock();
        for ticket in tickets {
            inbox.keep.remove(&ticket);
        }
        for ticket in forget.iter().chain(refuse.iter().map(|(ticket, _)| ticket)) {
            inbox.own.remove(ticket);
        }
        (inbox.rows, inbox.bytes, inbox.oldest) = (book.rows, book.bytes, book.oldest.map(Ticket));
        if inbox.told_full && !inbox.is_full() {
            inbox.told_full = false;
        }
        shared.tell(&inbox);
    }
    for Read { tickets, answer } in reads {
        let keys: Vec<u64> = tickets.into_iter().map(|Ticket(key)| key).collect();
        let rows = book.read(&keys)?;
        let _ = answer.send(rows.into_iter().map(|(key, row)| (Ticket(key), row)).collect());
    }
    for answer in looks {
        let rows = book.set_aside()?;
        let _ = answer.send(rows.into_iter().map(|(key, row)| (Ticket(key), row)).collect());
    }
    Ok(())
}

fn later_than(ticket: Ticket) -> (Bound<Ticket>, Bound<Ticket>) {
    (Bound::Excluded(ticket), Bound::Unbounded)
}

fn json(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record is texts and numbers, and its maps have names for keys")
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
