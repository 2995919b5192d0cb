//! The same small write of many calls, in one statement.
//!
//! Each statement costs the database a round trip and a commit, whether it writes one turn or twenty. A write that comes
//! after a pause goes at once; those that come soon after it wait a moment and go together. So a quiet server writes as
//! promptly as ever, and a busy one makes far fewer statements than it has writes.
//!
//! What one call brings must not hold up the others. When a common statement fails for something that one of them may have
//! caused, each is written alone, by the call that waits for it, and the next common statement does not wait for that.

use std::iter;
use std::panic::AssertUnwindSafe;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// Writes that wait for a common statement. Full: a call waits for its place here, and its own records in its own queue.
const QUEUE: usize = 1024;
/// Writes of one statement.
const MOST: usize = 256;
/// Common statements at a time: one that waits for a lock does not stop all.
const AT_A_TIME: usize = 2;
/// Writes alone at a time: half of the connections, so that a fault of many calls leaves some to everybody else.
pub(super) const ALONE_AT_A_TIME: usize = 8;
/// A connection that has silently died would be waited for until the network gives up. Longer than a statement may run
/// and a connection may be waited for.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(20);

/// How one kind of write is done.
pub(super) trait Write: Send + Sync + 'static {
    /// What is written for one call.
    type Item: Send + Sync;
    /// What came of it.
    type Outcome: Send;

    /// Writes all of them or none. One outcome for each, in their order.
    fn write(&self, items: &[Self::Item]) -> impl Future<Output = sqlx::Result<Vec<Self::Outcome>>> + Send;
}

struct Waiting<W: Write> {
    item: W::Item,
    done: oneshot::Sender<Answer<W>>,
}

enum Answer<W: Write> {
    Is(sqlx::Result<W::Outcome>),
    /// Some item of the common statement was refused. It may be this one, which has to go alone.
    GoAlone(W::Item),
}

/// Where calls bring their writes.
pub(super) struct Gather<W: Write> {
    queue: mpsc::Sender<Waiting<W>>,
    write: Arc<W>,
    alone: Semaphore,
}

impl<W: Write> Gather<W> {
    /// Begins at most one common statement per `every`, in a task that ends when this is dropped.
    pub(super) fn start(every: Duration, write: W) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let write = Arc::new(write);
        #[expect(
            clippy::disallowed_methods,
            reason = "nothing has to wait for it: whoever brings a write waits for its answer, and idle it ends with the last who could bring one"
        )]
        tokio::spawn(run(waiting, every, Arc::clone(&write)));
        Self { queue, write, alone: Semaphore::new(ALONE_AT_A_TIME) }
    }

    /// Writes it, together with what others bring. May be repeated after an error, and given up at any time.
    pub(super) async fn write(&self, item: W::Item) -> sqlx::Result<W::Outcome> {
        let (done, answer) = oneshot::channel();
        if self.queue.send(Waiting { item, done }).await.is_err() {
            return Err(sqlx::Error::WorkerCrashed);
        }
        match answer.await {
            Ok(Answer::Is(result)) => result,
            Ok(Answer::GoAlone(item)) => self.write_alone(item).await,
            Err(_) => Err(sqlx::Error::WorkerCrashed),
        }
    }

    /// Writes it in a statement of its own: for what was refused before, and would have its company refused again.
    pub(super) async fn write_alone(&self, item: W::Item) -> sqlx::Result<W::Outcome> {
        let _permit = self.alone.acquire().await.expect("nobody closes it");
        let outcomes = timely(self.write.write(slice::from_ref(&item))).await?;
        Ok(outcomes.into_iter().next().expect("one outcome for each item"))
    }
}

async fn run<W: Write>(mut queue: mpsc::Receiver<Waiting<W>>, every: Duration, write: Arc<W>) {
    let mut not_before = Instant::now();
    let mut under_way = JoinSet::new();
    while let Some(first) = queue.recv().await {
        sleep_until(not_before).await;
        while under_way.len() >= AT_A_TIME {
            under_way.join_next().await;
        }
        let batch: Vec<_> = iter::once(first)
            .chain(iter::from_fn(|| queue.try_recv().ok()))
            .filter(|waiting| !waiting.done.is_closed()) // Given up, and asked for again if it matters.
            .take(MOST)
            .collect();
        if !batch.is_empty() {
            not_before = Instant::now() + every;
            under_way.spawn(write_all(Arc::clone(&write), batch));
        }
    }
}

async fn write_all<W: Write>(write: Arc<W>, batch: Vec<Waiting<W>>) {
    let (items, answers): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|waiting| (waiting.item, waiting.done)).unzip();
    // Whoever waited for an answer may have given up.
    match timely(write.write(&items)).await {
        Ok(outcomes) => {
            let each = answers.into_iter().zip(outcomes);
            each.for_each(|(done, outcome)| drop(done.send(Answer::Is(Ok(outcome)))));
        }
        Err(error) if items.len() > 1 && may_be_ones_own(&error) => {
            tracing::debug!(%error, calls = items.len(), "a common write was refused; each is tried alone");
            answers.into_iter().zip(items).for_each(|(done, item)| drop(done.send(Answer::GoAlone(item))));
        }
        Err(error) => {
            // An error cannot be copied. One that has to be told as it is, a refusal, has come to one call only.
            let told = error.to_string();
            let copies = iter::repeat_with(|| sqlx::Error::Io(std::io::Error::other(told.clone())));
            let errors = iter::once(error).chain(copies);
            answers.into_iter().zip(errors).for_each(|(done, error)| drop(done.send(Answer::Is(Err(error)))));
        }
    }
}

/// Classes of errors of the server that say nothing about what was to be written: connection, authorization, database,
/// resources, intervention, system, and a server that only reads.
const ABOUT_THE_SERVER: [&str; 7] = ["08", "28", "3D", "53", "57", "58", "25006"];
/// Of those: the statement took too long.
const QUERY_CANCELED: &str = "57014";

/// Whether this may be due to what one call wants to write, or to somebody who holds a lock on it. All else, such as a
/// full disk or a server that shuts down or cannot be reached, concerns everybody, and trying each alone would only add to
/// it.
pub(super) fn may_be_ones_own(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::WorkerCrashed
        | sqlx::Error::Encode(_)
        // It has answered, and not as expected.
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::RowNotFound => true,
        // Mostly data that is refused, and locks; but a trigger may raise anything, and a damaged page may be one call's.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code == QUERY_CANCELED || !ABOUT_THE_SERVER.iter().any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

/// The database understood and refused: trying again cannot help.
pub(super) fn is_final(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            // Data exceptions, broken constraints, and limits such as the length of a text in an index.
            let of_data = |code: &str| ["22", "23", "54"].iter().any(|class| code.starts_with(class));
            error.constraint().is_some() || error.code().is_some_and(|code| of_data(&code))
        }
        // It cannot even be written down.
        sqlx::Error::Encode(_) => true,
        _ => false,
    }
}

/// The answer of the database, or that it did not come. A panic is an error like others: whoever asked goes on.
pub(super) async fn timely<T>(attempt: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let late = |_| {
        sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the database does not answer"))
    };
    // All that a panic can leave half done is a connection, and the pool looks at that when it comes back.
    let attempt = AssertUnwindSafe(attempt).catch_unwind();
    match timeout(ATTEMPT_WITHIN, attempt).await.map_err(late)? {
        Ok(result) => result,
        Err(_) => Err(sqlx::Error::WorkerCrashed), // The panic hook has told what and where.
    }
}

#[cfg(test)]
mod tests {
    use super::super::scribe::tests::Refused;
    use super::*;
    use std::sync::Mutex;

    const EVERY: Duration = Duration::from_millis(50);
    const LOCKED: Duration = Duration::from_secs(5);

    /// Writes numbers: 13 is refused, 55 is locked for a while, 66 panics, 53 finds the disk full, 99 loses the connection.
    #[derive(Clone, Default)]
    struct Numbers {
        statements: Arc<Mutex<Vec<Vec<u32>>>>,
    }

    impl Write for Numbers {
        type Item = u32;
        type Outcome = u32;

        async fn write(&self, items: &[u32]) -> sqlx::Result<Vec<u32>> {
            self.statements.lock().unwrap().push(items.to_vec());
            let refused = |code| Err(sqlx::Error::Database(Box::new(Refused(code))));
            for item in items {
                match item {
                    13 => return refused("22001"),
                    53 => return refused("53100"),
                    55 => {
                        tokio::time::sleep(LOCKED).await;
                        return refused("55P03");
                    }
                    66 => panic!("deliberate, by this test"),
                    99 => return Err(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())),
                    _ => {}
                }
            }
            Ok(items.iter().map(|item| item * 2).collect())
        }
    }

    fn gather() -> (Gather<Numbers>, Numbers) {
        let numbers = Numbers::default();
        (Gather::start(EVERY, numbers.clone()), numbers)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_goes_at_once_and_those_soon_after_it_go_together() {
        let (gather, numbers) = gather();
        let began = Instant::now();
        gather.write(1).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
        let three = tokio::join!(gather.write(2), gather.write(3), gather.write(4));
        assert_eq!([three.0, three.1, three.2].map(Result::unwrap), [4, 6, 8], "to each its own outcome");
        assert_eq!(began.elapsed().as_millis(), EVERY.as_millis());
        assert_eq!(*numbers.statements.lock().unwrap(), [vec![1], vec![2, 3, 4]]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_database_refuses_holds_back_nobody_else() {
        let (gather, numbers) = gather();
        let (good, bad, other) = tokio::join!(gather.write(1), gather.write(13), gather.write(2));
        assert!(good.is_ok() && other.is_ok());
        assert!(matches!(bad, Err(sqlx::Error::Database(_))));
        let mut statements = numbers.statements.lock().unwrap().split_off(1);
        statements.sort_unstable(); // Side by side, in no order.
        assert_eq!(statements, [[1], [2], [13]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_one_waits_for_stops_neither_its_company_nor_those_who_come_later() {
        let (gather, numbers) = gather();
        let began = Instant::now();
        let company = async {
            gather.write(1).await.unwrap();
            assert_eq!(
                began.elapsed().as_secs(),
                LOCKED.as_secs(),
                "no longer than the common statement took"
            );
        };
        let later = async {
            tokio::time::sleep(EVERY).await;
            for number in 2..=9 {
                gather.write(number).await.unwrap();
            }
            assert!(began.elapsed() < LOCKED / 10);
        };
        let (_, (), ()) = tokio::join!(gather.write(55), company, later);
        // Its next attempt is nobody else's business.
        let again = async { assert!(gather.write_alone(55).await.is_err()) };
        let since = Instant::now();
        let others = async {
            gather.write(10).await.unwrap();
            assert!(since.elapsed() < LOCKED / 10);
        };
        tokio::join!(again, others);
        assert_eq!(numbers.statements.lock().unwrap().last(), Some(&vec![10]));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_are_tried_alone_are_so_side_by_side() {
        let (gather, numbers) = gather();
        let began = Instant::now();
        futures_util::future::join_all((0..16).map(|_| gather.write(55))).await;
        assert_eq!(began.elapsed().as_secs(), 3 * LOCKED.as_secs(), "together, then by eights");
        assert_eq!(numbers.statements.lock().unwrap().len(), 1 + 16);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_an_error_of_the_one_who_caused_it() {
        let (gather, _) = gather();
        let (good, bad) = tokio::join!(gather.write(1), gather.write(66));
        assert!(good.is_ok() && matches!(bad, Err(sqlx::Error::WorkerCrashed)));
        assert!(gather.write(66).await.is_err());
        gather.write(2).await.expect("others are still served");
    }

    #[tokio::test(start_paused = true)]
    async fn what_concerns_everybody_is_told_to_all_and_tried_once() {
        for fault in [53, 99] {
            let (gather, numbers) = gather();
            let (one, other) = tokio::join!(gather.write(1), gather.write(fault));
            assert!(one.is_err() && other.is_err());
            assert_eq!(numbers.statements.lock().unwrap().len(), 1, "{fault}");
        }
    }

    #[test]
    fn what_the_server_says_of_one_record_is_not_taken_for_its_own_trouble() {
        let said = |code| may_be_ones_own(&sqlx::Error::Database(Box::new(Refused(code))));
        for code in ["22001", "23503", "40001", "55P03", "57014", "P0001", "42P01", "XX001", "25001"] {
            assert!(said(code), "{code}");
        }
        for code in ["08006", "28P01", "3D000", "53100", "57P01", "57P03", "58030", "25006"] {
            assert!(!said(code), "{code}");
        }
        assert!(may_be_ones_own(&sqlx::Error::Decode("not a number".into())));
        assert!(!may_be_ones_own(&sqlx::Error::PoolTimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_up_while_it_waited_is_not_written() {
        let (gather, numbers) = gather();
        gather.write(1).await.unwrap();
        assert!(timeout(EVERY / 2, gather.write(2)).await.is_err());
        tokio::time::sleep(EVERY).await; // Nobody else wants anything: there is nothing to write.
        gather.write(3).await.unwrap();
        assert_eq!(*numbers.statements.lock().unwrap(), [vec![1], vec![3]]);
    }
}
