//! A future that is left alone until it has woken the task itself.
//!
//! A call is woken a hundred times a second, and each time asks everything that it waits for. What hardly ever happens
//! costs one look at a flag here, instead of its locks and its memory.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Polls `future` only when it has asked for it.
pub(super) struct Seldom<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
    /// The task that the bell wakes.
    task: Option<Waker>,
}

struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F: Future> Seldom<F> {
    pub(super) fn new(future: F) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { future: Box::pin(future), waker: Arc::clone(&bell).into(), bell, task: None }
    }
}

impl<F: Future> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        if !this.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            this.bell.task.register(cx.waker());
            this.task = Some(cx.waker().clone());
        }
        if !this.bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Before the look, so that a ring during it is not lost.
        this.bell.rung.store(false, Ordering::Release);
        this.future.as_mut().poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;
    use tokio::sync::oneshot;
    use tokio::time::{Instant, sleep};

    #[tokio::test(start_paused = true)]
    async fn what_was_waited_for_comes_and_is_not_looked_at_before() {
        let (sender, mut receiver) = oneshot::channel();
        let mut looks = 0;
        let mut seldom = Seldom::new(poll_fn(|cx| {
            looks += 1;
            Pin::new(&mut receiver).poll(cx)
        }));
        let began = Instant::now();
        for _ in 0..100 {
            tokio::select! {
                biased;
                _ = &mut seldom => panic!("nothing has happened"),
                () = sleep(Duration::from_millis(20)) => {}
            }
        }
        let send = async {
            sleep(Duration::from_millis(5)).await;
            sender.send(7).unwrap();
        };
        let (answer, ()) = tokio::join!(&mut seldom, send);
        assert_eq!((answer, began.elapsed()), (Ok(7), Duration::from_millis(2_005)));
        drop(seldom);
        assert_eq!(looks, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn it_wakes_the_task_that_asked_last() {
        let (sender, receiver) = oneshot::channel();
        let mut seldom = Seldom::new(receiver);
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut seldom).poll(cx))).await.is_pending());
        let elsewhere = tokio::task::LocalSet::new();
        elsewhere
            .run_until(async move {
                let waiting = tokio::task::spawn_local(seldom);
                tokio::task::yield_now().await;
                sender.send(7).unwrap();
                assert_eq!(waiting.await.unwrap(), Ok(7));
            })
            .await;
    }
}
