//! How long a record is tried to be written, and what the queue does when it is full.

use super::*;
use crate::ids::{AgentId, CallSid, OrganizationId};
use std::cell::{Cell, RefCell};

async fn attempted<T, F>(
    metrics: &Metrics,
    patience: Duration,
    is_over: bool,
    attempt: impl FnMut(bool) -> F,
) -> Fate<T>
where
    F: Future<Output = sqlx::Result<T>>,
{
    persist(metrics, &Outage::new(metrics), "turns", patience, || is_over, attempt).await
}

fn unreachable() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into())
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_or_hangs_is_tried_again_until_it_works() {
    let (metrics, attempts) = (Metrics::new(), Cell::new(0));
    let written = attempted(&metrics, PATIENCE, true, async |_| {
        attempts.set(attempts.get() + 1);
        match attempts.get() {
            1 => Err(unreachable()),
            2 => timely(std::future::pending()).await,
            attempt => Ok(attempt),
        }
    });
    assert_eq!(written.await, Fate::Done(3));
    assert_eq!(metrics.store_retries.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_live_call_is_given_up() {
    let metrics = Metrics::new();
    for patience in [PATIENCE, Duration::ZERO] {
        let began = Instant::now();
        let attempt = async |_| if began.elapsed() > 10 * PATIENCE { Ok(()) } else { Err(unreachable()) };
        assert_eq!(attempted(&metrics, patience, false, attempt).await, Fate::Done(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_never_works_is_given_up_some_time_after_the_call() {
    let began = Instant::now();
    let fails = async |_| Err::<(), _>(unreachable());
    assert_eq!(attempted(&Metrics::new(), PATIENCE, true, fails).await, Fate::Left);
    assert!(began.elapsed() > PATIENCE && began.elapsed() < PATIENCE + 2 * LONGEST_PAUSE);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_spool_is_left_there_as_soon_as_the_call_is_over() {
    let (began, attempts) = (Instant::now(), Cell::new(0));
    let fails = async |_| {
        attempts.set(attempts.get() + 1);
        Err::<(), _>(unreachable())
    };
    assert_eq!(attempted(&Metrics::new(), Duration::ZERO, true, fails).await, Fate::Left);
    assert_eq!((began.elapsed(), attempts.get()), (Duration::ZERO, 1), "it was tried once");
}

#[tokio::test(start_paused = true)]
async fn what_the_database_refuses_is_not_tried_again() {
    for code in ["22001", "23503", "54000"] {
        let attempts = Cell::new(0);
        let refuse = async |_| {
            attempts.set(attempts.get() + 1);
            Err::<(), _>(sqlx::Error::Database(Box::new(Refused(code))))
        };
        let written = attempted(&Metrics::new(), Duration::ZERO, false, refuse).await;
        assert!(matches!(written, Fate::Refused(_)) && attempts.get() == 1, "{code}: {written:?}");
    }
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
    assert_eq!(attempted(&metrics, PATIENCE, false, attempt).await, Fate::Done(()));
    assert_eq!(*company.borrow(), [false, false, true]);
}

fn full_queue(spool: Spool) -> (Scribe, mpsc::Receiver<Box<Waiting>>) {
    let (queue, end, records) = queue();
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
        clock_ahead: SignedDuration::ZERO,
        lasted_before: Duration::ZERO,
        resumable: true,
        after_sequence: 0,
    };
    let lost = CancellationToken::new();
    let answer = Answer::default();
    let mut scribe = Scribe { queue, end: Some(end), subject, answer, spool, lost, dropped: 0 };
    for _ in 0..QUEUE + 5 {
        scribe.connected();
    }
    (scribe, records)
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_call_has_a_place_in_a_full_queue() {
    let (mut scribe, mut records) = full_queue(Spool::off());
    assert_eq!(scribe.dropped, 5);
    let write = async {
        for _ in 0..QUEUE {
            assert!(records.recv().await.unwrap().done.is_none());
        }
        let done = records.recv().await.unwrap().done;
        done.expect("the end").send(true).unwrap();
    };
    let began = Instant::now();
    tokio::join!(scribe.ended(EndReason::CallerHungUp, Duration::ZERO, Map::new(), PATIENCE), write);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn what_finds_no_place_in_the_queue_is_left_to_the_replay() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path().to_owned(), &Metrics::new()).await;
    let (scribe, records) = full_queue(spool.clone());
    assert_eq!((scribe.dropped, records.len()), (0, QUEUE));
    assert_eq!(spool.left(), 5);
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
