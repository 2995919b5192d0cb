//! Writes a call's records as they come, in order, without ever making the call wait.
//!
//! The call hands records to a bounded queue; a task of its own writes them and tries again while the database is away.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::desk::{Desk, KeptAlive};
use super::gather::{may_be_ones_own, timely};
use crate::call::end::EndReason;
use crate::call::transcript::Entry;
use crate::ids::StreamSid;
use crate::lifecycle::{self, CallEvent, CallRef, Recorded};
use crate::store::Store;
use crate::store::leads::{self, LinkOutcome};
use crate::store::leases::FencingToken;
use crate::store::transcripts::Turns;
use crate::telemetry::{Metrics, ObserveDuration as _};

/// Records of one call that wait for the database: an hour of brisk talk. Full: further ones are dropped and counted,
/// because a call must not wait for them. The end of the call has a place of its own.
const QUEUE: usize = 1024;
/// Records taken out of the queue at a time. Neighbouring turns among them are written together, and with the turns that
/// other calls bring to the desk at the same moment.
const BATCH: usize = 64;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A caller without a lead is looked for again after this, then after twice as long and so on: with every turn it would
/// cost as much as the turns do.
const LINK_AGAIN_AFTER: Duration = Duration::from_secs(20);
/// How long a record of a finished call is still tried to be written.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is known of a call for its records.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) call: CallRef,
    pub(super) token: FencingToken,
    pub(super) stream_sid: StreamSid,
    pub(super) node: String,
    pub(super) stream_started: Timestamp,
    /// How long the call had lasted when the stream came.
    pub(super) lasted_before: Duration,
    /// Twilio asks us how the call goes on after the stream.
    pub(super) resumable: bool,
    /// Places in the conversation that belong to earlier streams of the call.
    pub(super) after_sequence: u32,
}

enum Record {
    Turn(Entry, Instant),
    Event(Timestamp, CallEvent),
    /// The stream ends: what comes next has to be known before it is closed. Tells whether it is on record.
    Ended(Timestamp, CallEvent, oneshot::Sender<bool>),
}

/// The call's end of the queue.
pub(super) struct Scribe {
    // Boxed, because a queue has room for 32 of them from the beginning.
    queue: mpsc::Sender<Box<Record>>,
    /// The place of the call's end, without which the carrier would not learn how the call goes on.
    end: Option<mpsc::OwnedPermit<Box<Record>>>,
    subject: Subject,
    dropped: u64,
}

/// The other end.
pub(super) struct Writer {
    queue: mpsc::Receiver<Box<Record>>,
    subject: Subject,
    desk: Arc<Desk>,
    /// Until the end of the call has its turn to be written.
    alive: Option<KeptAlive>,
    store: Store,
    metrics: Metrics,
    linked: bool,
    /// When linking is tried again with the next turn, and how long after that.
    link_at: Instant,
    link_again_after: Duration,
    told_unlinked: bool,
}

/// A queue for one call and its writer, which has to be run.
pub(super) fn scribe(subject: Subject, desk: Arc<Desk>, store: Store, metrics: Metrics) -> (Scribe, Writer) {
    let (sender, end, receiver) = queue();
    let alive = desk.keep_alive(subject.call.call_sid.clone(), subject.token);
    let writer = Writer {
        queue: receiver,
        subject: subject.clone(),
        desk,
        alive: Some(alive),
        store,
        metrics,
        linked: false,
        link_at: Instant::now(),
        link_again_after: LINK_AGAIN_AFTER,
        told_unlinked: false,
    };
    (Scribe { queue: sender, end: Some(end), subject, dropped: 0 }, writer)
}

type Queue = (mpsc::Sender<Box<Record>>, mpsc::OwnedPermit<Box<Record>>, mpsc::Receiver<Box<Record>>);

/// With a place for the end of the call, whatever comes before it.
fn queue() -> Queue {
    let (sender, receiver) = mpsc::channel(QUEUE + 1);
    let end = sender.clone().try_reserve_owned().expect("a new queue is empty and open");
    (sender, end, receiver)
}

impl Scribe {
    pub(super) fn stream_started(&mut self) {
        let Subject { stream_sid, node, token, .. } = self.subject.clone();
        self.event(CallEvent::StreamStarted { stream_sid, node, token });
    }

    pub(super) fn connected(&mut self) {
        let token = self.subject.token;
        self.event(CallEvent::Connected { token });
    }

    pub(super) fn transferred(&mut self, reason: String, summary: String) {
        let token = self.subject.token;
        self.event(CallEvent::Transferred { token, to: None, reason, summary });
    }

    pub(super) fn turn(&mut self, mut entry: Entry) {
        entry.sequence += self.subject.after_sequence;
        self.put(Record::Turn(entry, Instant::now()));
    }

    /// Puts the end on record and waits, at most for `patience`, until it is durable. The first end is the end.
    pub(super) async fn ended(&mut self, reason: EndReason, duration: Duration, patience: Duration) {
        let Some(place) = self.end.take() else { return };
        if self.dropped > 0 {
            tracing::error!(records = self.dropped, "the queue of records was full; these are lost");
        }
        let Subject { token, lasted_before, resumable, .. } = self.subject;
        let event = CallEvent::after_stream(token, reason, lasted_before + duration, resumable);
        let (done, written) = oneshot::channel();
        place.send(Box::new(Record::Ended(Timestamp::now(), event, done)));
        match timeout(patience, written).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false) | Err(_)) => tracing::warn!(
                "the end of the call could not be put on record; the carrier may be answered with the fallback"
            ),
            Err(_) => tracing::warn!(
                "the end of the call is not on record yet; the carrier may be answered with the fallback"
            ),
        }
    }

    fn event(&mut self, event: CallEvent) {
        self.put(Record::Event(Timestamp::now(), event));
    }

    fn put(&mut self, record: Record) {
        if self.queue.try_send(Box::new(record)).is_err() {
            self.dropped += 1;
            if self.dropped == 1 {
                tracing::error!("the queue of records is full; the call goes on without them");
            }
        }
    }
}

impl Writer {
    /// Writes until the call has dropped its end of the queue and everything is written.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::new();
        while self.queue.recv_many(&mut batch, BATCH).await > 0 {
            // Boxed, because what writing needs is large, and most of the time nothing is written.
            Box::pin(self.write(&mut batch)).await;
        }
        self.link_at = Instant::now(); // The last chance.
        Box::pin(self.link_lead()).await;
    }

    /// Writes records in the order they came; neighbouring turns go together.
    #[expect(clippy::vec_box, reason = "as they come out of the queue")]
    async fn write(&mut self, batch: &mut Vec<Box<Record>>) {
        let mut turns = Vec::new();
        for record in batch.drain(..) {
            match *record {
                Record::Turn(entry, since) => turns.push((entry, since)),
                Record::Event(at, event) => {
                    self.write_turns(&mut turns).await;
                    self.write_event(at, &event).await;
                }
                Record::Ended(at, event, done) => {
                    self.write_turns(&mut turns).await;
                    self.alive = None; // The lease ends with the call, which would look like losing it.
                    let written = self.write_event(at, &event).await;
                    let _ = done.send(written); // Whoever waited may have given up.
                }
            }
        }
        self.write_turns(&mut turns).await;
    }

    async fn write_turns(&mut self, turns: &mut Vec<(Entry, Instant)>) {
        if turns.is_empty() {
            return;
        }
        let (entries, since): (Vec<Entry>, Vec<Instant>) = turns.drain(..).unzip();
        let Subject { call, stream_started, .. } = &self.subject;
        let turns = Arc::new(Turns {
            organization: call.organization,
            call_sid: call.call_sid.clone(),
            stream_started: *stream_started,
            entries,
        });
        if self.persist("turns", |alone| self.desk.save(Arc::clone(&turns), alone)).await.is_none() {
            return;
        }
        self.metrics.transcript_turns_saved.inc_by(since.len() as u64);
        for since in since {
            self.metrics.transcript_save_seconds.observe_duration(since.elapsed());
        }
        self.link_lead().await;
    }

    /// True: it is on record.
    async fn write_event(&self, at: Timestamp, event: &CallEvent) -> bool {
        let record = |_| timely(lifecycle::record(&self.store, &self.subject.call, at, event));
        let recorded = self.persist("event", record).await;
        matches!(recorded, Some(Recorded::New | Recorded::Known))
    }

    /// Ties the caller's lead to the call. Never more than a log line if it cannot: the turns are safe.
    async fn link_lead(&mut self) {
        if self.linked || Instant::now() < self.link_at {
            return;
        }
        self.link_at = Instant::now() + self.link_again_after;
        self.link_again_after *= 2;
        let CallRef { call_sid, organization, .. } = &self.subject.call;
        match timely(leads::link_by_phone(&self.store, *organization, call_sid)).await {
            Ok(LinkOutcome::Linked { lead, .. } | LinkOutcome::AlreadyLinked { lead }) => {
                self.linked = true;
                tracing::info!(lead, "lead linked");
            }
            // The number may become known, and the lead free, while the call goes on.
            Ok(outcome) if !std::mem::replace(&mut self.told_unlinked, true) => {
                tracing::warn!(?outcome, "no lead was linked to this call so far");
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "linking the lead failed; it is tried again with a later turn");
            }
        }
    }

    async fn persist<T, F>(&self, what: &'static str, attempt: impl FnMut(bool) -> F) -> Option<T>
    where
        F: Future<Output = sqlx::Result<T>>,
    {
        persist(&self.metrics, what, || self.queue.is_closed(), attempt).await
    }
}

/// Does it until it works; `None` when it never did. As long as the call is not over it is not given up.
///
/// `attempt` has to come to an end by itself, and is told whether the one before failed for what may be its own fault.
async fn persist<T, F>(
    metrics: &Metrics,
    what: &'static str,
    call_is_over: impl Fn() -> bool,
    mut attempt: impl FnMut(bool) -> F,
) -> Option<T>
where
    F: Future<Output = sqlx::Result<T>>,
{
    let mut over_since = None;
    let mut pause = FIRST_PAUSE;
    let mut refused = false;
    loop {
        let error = match attempt(refused).await {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        if call_is_over() {
            over_since.get_or_insert_with(Instant::now);
        }
        if over_since.is_some_and(|since: Instant| since.elapsed() > PATIENCE) || is_final(&error) {
            tracing::error!(%error, what, "a record could not be written and is lost");
            return None;
        }
        metrics.store_retries.inc();
        tracing::warn!(%error, what, "a record could not be written; trying again");
        refused = may_be_ones_own(&error);
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The database understood and refused: trying again cannot help.
fn is_final(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            // Data exceptions, and limits such as the length of a text in an index.
            let of_data = |code: &str| code.starts_with("22") || code.starts_with("54");
            error.constraint().is_some() || error.code().is_some_and(|code| of_data(&code))
        }
        _ => false,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ids::{AgentId, CallSid, OrganizationId};
    use std::cell::{Cell, RefCell};

    fn unreachable() -> sqlx::Error {
        sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_fails_or_hangs_is_tried_again_until_it_works() {
        let (metrics, attempts) = (Metrics::new(), Cell::new(0));
        let written = persist(
            &metrics,
            "turns",
            || true,
            async |_| {
                attempts.set(attempts.get() + 1);
                match attempts.get() {
                    1 => Err(unreachable()),
                    2 => timely(std::future::pending()).await,
                    attempt => Ok(attempt),
                }
            },
        );
        assert_eq!(written.await, Some(3));
        assert_eq!(metrics.store_retries.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_of_a_live_call_is_given_up() {
        let (began, metrics) = (Instant::now(), Metrics::new());
        let live = || false;
        let attempt = async |_| if began.elapsed() > 10 * PATIENCE { Ok(()) } else { Err(unreachable()) };
        assert_eq!(persist(&metrics, "turns", live, attempt).await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_never_works_is_given_up_some_time_after_the_call() {
        let began = Instant::now();
        let written: Option<()> =
            persist(&Metrics::new(), "turns", || true, async |_| Err(unreachable())).await;
        assert_eq!(written, None);
        assert!(began.elapsed() > PATIENCE && began.elapsed() < PATIENCE + 2 * LONGEST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_database_refuses_is_not_tried_again() {
        let attempts = Cell::new(0);
        let metrics = Metrics::new();
        let written: Option<()> = persist(
            &metrics,
            "turns",
            || false,
            async |_| {
                attempts.set(attempts.get() + 1);
                Err(sqlx::Error::Database(Box::new(Refused("22001"))))
            },
        )
        .await;
        assert_eq!((written, attempts.get()), (None, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_found_a_lock_is_not_brought_together_with_others_again() {
        let (metrics, company) = (Metrics::new(), RefCell::new(Vec::new()));
        let attempt = async |alone| {
            company.borrow_mut().push(alone);
            match company.borrow().len() {
                1 => Err(unreachable()),
                2 => Err(sqlx::Error::Database(Box::new(Refused("55P03")))),
                _ => Ok(()),
            }
        };
        assert_eq!(persist(&metrics, "turns", || false, attempt).await, Some(()));
        assert_eq!(*company.borrow(), [false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_call_has_a_place_in_a_full_queue() {
        let (queue, end, mut records) = queue();
        let call = CallRef {
            call_sid: CallSid::parse("CA1").unwrap(),
            organization: OrganizationId(uuid::Uuid::nil()),
            agent: AgentId(uuid::Uuid::nil()),
        };
        let subject = Subject {
            call,
            token: FencingToken(1),
            stream_sid: StreamSid::parse("MZ1").unwrap(),
            node: "node".into(),
            stream_started: Timestamp::UNIX_EPOCH,
            lasted_before: Duration::ZERO,
            resumable: true,
            after_sequence: 0,
        };
        let mut scribe = Scribe { queue, end: Some(end), subject, dropped: 0 };
        for _ in 0..QUEUE + 5 {
            scribe.connected();
        }
        assert_eq!(scribe.dropped, 5);
        let write = async {
            for _ in 0..QUEUE {
                assert!(matches!(*records.recv().await.unwrap(), Record::Event(..)));
            }
            let Record::Ended(_, _, done) = *records.recv().await.unwrap() else { panic!("not the end") };
            done.send(true).unwrap();
        };
        let began = Instant::now();
        tokio::join!(scribe.ended(EndReason::CallerHungUp, Duration::ZERO, PATIENCE), write);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    /// What the database says with this code.
    #[derive(Debug, thiserror::Error)]
    #[error("refused")]
    pub(in crate::bridge) struct Refused(pub(in crate::bridge) &'static str);

    impl sqlx::error::DatabaseError for Refused {
        fn message(&self) -> &'static str {
            "refused"
        }

        fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }
    }
}
