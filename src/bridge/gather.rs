//! The same small write of many calls, in one statement.
//!
//! Each statement costs the database a round trip and a commit, whether it writes one turn or twenty. A write that comes
//! after a pause goes at once; those that come soon after it wait a moment and go together. So a quiet server
//! writes as promptly as ever, and a busy one makes a bounded number of statements a second however many calls it has.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

/// Writes that wait for the one that is being made.
const QUEUE: usize = 1024;
/// Writes of one statement.
const MOST: usize = 256;
/// A connection that has silently died would be waited for until the network gives up. Longer than a statement may run
/// and a connection may be waited for.
pub(super) const ATTEMPT_WITHIN: Duration = Duration::from_secs(20);

/// How one kind of write is done.
pub(super) trait Write: Send + Sync + 'static {
    /// What is written for one call.
    type Item: Send + Sync;
    /// What comes of it.
    type Done: Send;

    /// Writes all of them or none; one result for each.
    fn write(&self, items: &[Self::Item]) -> impl Future<Output = sqlx::Result<Vec<Self::Done>>> + Send;
}

struct Waiting<T, D> {
    item: T,
    done: oneshot::Sender<sqlx::Result<D>>,
}

/// Where calls bring their writes.
pub(super) struct Gather<T, D> {
    queue: mpsc::Sender<Waiting<T, D>>,
}

impl<T: Send + Sync + 'static, D: Send + 'static> Gather<T, D> {
    /// Makes at most one statement per `every`, in a task that ends when this is dropped.
    pub(super) fn start(every: Duration, write: impl Write<Item = T, Done = D>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(run(waiting, every, write));
        Self { queue }
    }

    /// Writes it, together with what others bring. May be repeated after an error, and given up at any time.
    pub(super) async fn write(&self, item: T) -> sqlx::Result<D> {
        let (done, answer) = oneshot::channel();
        let closed = || sqlx::Error::WorkerCrashed;
        self.queue.send(Waiting { item, done }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

async fn run<W: Write>(mut queue: mpsc::Receiver<Waiting<W::Item, W::Done>>, every: Duration, write: W) {
    let mut not_before = Instant::now();
    let mut batch = Vec::new();
    while let Some(first) = queue.recv().await {
        sleep_until(not_before).await;
        batch.push(first);
        while batch.len() < MOST
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        batch.retain(|waiting| !waiting.done.is_closed()); // Given up, and asked for again if it matters.
        not_before = Instant::now() + every;
        write_all(&write, batch.drain(..)).await;
    }
}

async fn write_all<W: Write>(write: &W, batch: impl Iterator<Item = Waiting<W::Item, W::Done>>) {
    let (items, answers): (Vec<_>, Vec<_>) = batch.map(|waiting| (waiting.item, waiting.done)).unzip();
    let error = match timely(write.write(&items)).await {
        Ok(results) => return answer(answers, results.into_iter().map(Ok)),
        Err(error) => error,
    };
    // What one call brought may be refused, or find its row locked. That is no reason for the others to wait.
    if items.len() > 1 && matches!(error, sqlx::Error::Database(_)) {
        tracing::debug!(%error, calls = items.len(), "a common write was refused; each is tried alone");
        for (item, done) in items.iter().zip(answers) {
            let result = timely(write.write(std::slice::from_ref(item))).await;
            let _ =
                done.send(result.and_then(|done| done.into_iter().next().ok_or(sqlx::Error::RowNotFound)));
        }
        return;
    }
    // An error cannot be copied; only one that names the database's refusal has to be told as it is.
    let told = error.to_string();
    let copies = std::iter::repeat_with(move || Err(sqlx::Error::Io(std::io::Error::other(told.clone()))));
    answer(answers, std::iter::once(Err(error)).chain(copies));
}

fn answer<D>(answers: Vec<oneshot::Sender<sqlx::Result<D>>>, results: impl Iterator<Item = sqlx::Result<D>>) {
    for (done, result) in answers.into_iter().zip(results) {
        let _ = done.send(result); // Whoever waited may have given up.
    }
}

/// The answer of the database, or that it did not come.
pub(super) async fn timely<T>(attempt: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let late = |_| {
        sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the database does not answer"))
    };
    timeout(ATTEMPT_WITHIN, attempt).await.map_err(late).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    const EVERY: Duration = Duration::from_millis(50);

    /// Writes numbers: 13 is refused, 99 loses the connection.
    #[derive(Clone, Default)]
    struct Numbers {
        statements: Arc<Mutex<Vec<Vec<u32>>>>,
    }

    impl Write for Numbers {
        type Item = u32;
        type Done = u32;

        async fn write(&self, items: &[u32]) -> sqlx::Result<Vec<u32>> {
            self.statements.lock().unwrap().push(items.to_vec());
            if items.contains(&99) {
                return Err(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()));
            }
            if items.contains(&13) {
                return Err(sqlx::Error::Database(Box::new(super::super::scribe::tests::Refused)));
            }
            Ok(items.iter().map(|number| number * 10).collect())
        }
    }

    fn gather() -> (Gather<u32, u32>, Numbers) {
        let numbers = Numbers::default();
        (Gather::start(EVERY, numbers.clone()), numbers)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_goes_at_once_and_those_soon_after_it_go_together() {
        let (gather, numbers) = gather();
        let began = Instant::now();
        assert_eq!(gather.write(1).await.unwrap(), 10);
        assert_eq!(began.elapsed(), Duration::ZERO);
        let three = tokio::join!(gather.write(2), gather.write(3), gather.write(4));
        assert_eq!((three.0.unwrap(), three.1.unwrap(), three.2.unwrap()), (20, 30, 40), "each gets its own");
        assert_eq!(began.elapsed().as_millis(), EVERY.as_millis());
        assert_eq!(*numbers.statements.lock().unwrap(), [vec![1], vec![2, 3, 4]]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_database_refuses_holds_back_nobody_else() {
        let (gather, numbers) = gather();
        let (good, bad, other) = tokio::join!(gather.write(1), gather.write(13), gather.write(2));
        assert_eq!((good.unwrap(), other.unwrap()), (10, 20));
        assert!(matches!(bad, Err(sqlx::Error::Database(_))));
        assert_eq!(*numbers.statements.lock().unwrap(), [vec![1, 13, 2], vec![1], vec![13], vec![2]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_is_told_to_all_and_tried_once() {
        let (gather, numbers) = gather();
        let (one, two) = tokio::join!(gather.write(1), gather.write(99));
        assert!(matches!((one, two), (Err(sqlx::Error::Io(_)), Err(sqlx::Error::Io(_)))));
        assert_eq!(numbers.statements.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_up_while_it_waited_is_not_written() {
        let (gather, numbers) = gather();
        gather.write(1).await.unwrap();
        assert!(timeout(EVERY / 2, gather.write(2)).await.is_err());
        assert_eq!(gather.write(3).await.unwrap(), 30);
        assert_eq!(*numbers.statements.lock().unwrap(), [vec![1], vec![3]]);
    }
}
