//! How long a record is tried to be written, and what the queue does when it is full.

use super::*;
use crate::ids::{AgentId, CallSid, OrganizationId};
use crate::redact::{Kind, Redaction};
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
        talk: Talk::new(Redaction::of(&[Kind::PaymentCard])),
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

/// A scribe whose records nobody takes out of the spool.
fn spooling(spool: Spool, talk: Talk) -> (Scribe, mpsc::Receiver<Box<Waiting>>) {
    let (queue, end, records) = queue();
    let subject = Subject {
        call: CallRef {
            call_sid: CallSid::parse("CA1").unwrap(),
            organization: OrganizationId(uuid::Uuid::nil()),
            agent: AgentId(uuid::Uuid::nil()),
        },
        token: FencingToken(1),
        stream_sid: StreamSid::parse("MZ1").unwrap(),
        node: "node".into(),
        stream_started: Timestamp::UNIX_EPOCH,
        clock_ahead: SignedDuration::ZERO,
        lasted_before: Duration::ZERO,
        resumable: true,
        after_sequence: 0,
        talk,
    };
    let (lost, answer) = (CancellationToken::new(), Answer::default());
    (Scribe { queue, end: Some(end), subject, answer, spool, lost, dropped: 0 }, records)
}

fn said(role: Role, content: &str, generated: Option<&str>) -> Entry {
    Entry {
        item: crate::ids::ItemId::parse("item_1").unwrap(),
        sequence: 1,
        revision: 1,
        role,
        content: content.into(),
        generated: generated.map(str::to_owned),
        interrupted: false,
        status: crate::call::transcript::Status::Final,
        at: crate::clock::CallTime::ZERO,
        audio_start: None,
        audio_end: None,
        heard_until_ms: None,
        evidence: None,
        response_latency_ms: None,
        tool_name: None,
        tool_call: None,
    }
}

/// All that is in the files of a spool.
fn on_the_disk(dir: &std::path::Path) -> String {
    let mut kept = String::new();
    for file in std::fs::read_dir(dir).unwrap() {
        kept += &String::from_utf8_lossy(&std::fs::read(file.unwrap().path()).unwrap());
    }
    kept
}

#[tokio::test]
async fn what_is_redacted_is_never_on_the_disk_and_what_is_not_is() {
    for (redaction, is_there) in [(Redaction::NONE, true), (Redaction::of(&[Kind::PaymentCard]), false)] {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path().to_owned(), &Metrics::new()).await;
        let (mut scribe, records) = spooling(spool.clone(), Talk::new(redaction));
        scribe.turn(said(Role::User, "It is 4111 1111 1111 1111.", None));
        scribe.turn(said(Role::Assistant, "So 4111 1111 11", Some("So 4111 1111 1111 1111?")));
        scribe.turn(said(Role::Tool, "paid by 4111111111111111", Some(r#"{"card":4111111111111111}"#)));
        let (reason, summary) = ("4111-1111-1111-1111".to_owned(), "card 4111.1111.1111.1111".to_owned());
        scribe.transferred(Transfer { to: None, reason, summary });
        assert_eq!(spool.left(), 0);
        drop((scribe, records));
        spool.close().await;
        let kept = on_the_disk(dir.path());
        assert!(kept.contains("paid by"), "they were written to the disk");
        assert_eq!(kept.contains("4111"), is_there);
        assert_eq!(kept.contains("[payment card]"), !is_there);
    }
}

#[tokio::test]
async fn what_a_function_is_given_in_answer_to_a_question_is_never_on_the_disk() {
    let redaction = Redaction::of(&[Kind::PaymentCard, Kind::CardSecurityCode, Kind::UsSsn]);
    let given = r#"{"card_number":"4111111111111111","cvv":"739","ssn":"739456789"}"#;
    let asked = "Which is the security code?";
    let remembered = [crate::call::transcript::Remembered::Agent(asked.into())];
    for (talk, questions) in [
        (Talk::new(redaction), &[asked][..]),
        // Asked before the call came to this stream.
        (super::super::talk_so_far(redaction, &remembered), &[]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path().to_owned(), &Metrics::new()).await;
        let (mut scribe, records) = spooling(spool.clone(), talk);
        for question in questions {
            scribe.turn(said(Role::Assistant, question, None));
        }
        scribe.turn(Entry { sequence: 2, ..said(Role::User, "It is 739.", None) });
        scribe.turn(Entry { sequence: 3, ..said(Role::Tool, "paid with 739", Some(given)) });
        scribe.turn(Entry { sequence: 4, ..said(Role::Tool, "paid", Some(r#"{"value":739}"#)) });
        drop((scribe, records));
        spool.close().await;
        let kept = on_the_disk(dir.path());
        assert!(kept.contains("paid with [security code]"), "they were written to the disk");
        assert!(!kept.contains("739") && !kept.contains("4111"), "{kept}");
    }
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
