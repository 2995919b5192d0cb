//! The tasks of one process, and how they are told to stop and waited for.
//!
//! Stopping has two steps. [`Tasks::begin_stop`] says that no new call may begin; calls that are live go on, or leave at a
//! pause when [`Tasks::move_calls`] says that another server can take them. [`Tasks::force_hang_up`] says that live calls end now. [`Tasks::drain`] waits until every task is done.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Everything this process has spawned. Clones share the same tasks.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
    move_away: CancellationToken,
    hang_up: CancellationToken,
}

impl Tasks {
    /// No tasks yet, and no wish to stop.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `task` in the background, inside the current tracing span. Spawning stays possible while stopping: live
    /// calls need it.
    ///
    /// A task without an end of its own must end on [`Tasks::stopping`], or on [`Tasks::hang_up`] when live calls
    /// need it, else [`Tasks::drain`] waits in vain.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(task.in_current_span());
    }

    /// The same on another runtime, if one is named.
    pub fn spawn_on<F>(&self, runtime: Option<&Handle>, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match runtime {
            Some(runtime) => self.tracker.spawn_on(task.in_current_span(), runtime),
            None => self.tracker.spawn(task.in_current_span()),
        };
    }

    /// Cancelled when no new call may begin.
    #[must_use]
    pub const fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Cancelled when live calls shall leave at their next pause, because another server can take them.
    #[must_use]
    pub const fn moving(&self) -> &CancellationToken {
        &self.move_away
    }

    /// Cancelled when live calls must end now.
    #[must_use]
    pub const fn hang_up(&self) -> &CancellationToken {
        &self.hang_up
    }

    /// True as soon as no new call may begin.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// From now on no new call may begin.
    pub fn begin_stop(&self) {
        self.stopping.cancel();
    }

    /// Live calls leave at their next pause. Implies [`Tasks::begin_stop`].
    pub fn move_calls(&self) {
        self.stopping.cancel();
        self.move_away.cancel();
    }

    /// Live calls end now. Implies [`Tasks::begin_stop`].
    pub fn force_hang_up(&self) {
        self.stopping.cancel();
        self.hang_up.cancel();
    }

    /// Begins to stop, then waits until every task is done, at most for `deadline`. True when all are done.
    ///
    /// Calls are not ended when the time is over: the caller decides between [`Tasks::force_hang_up`] and leaving.
    pub async fn drain(&self, deadline: Duration) -> bool {
        self.begin_stop();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }

    /// How many tasks are running.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tracker.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::time::sleep;

    /// A task that lasts as long as a call of this length, and ends early when told to hang up.
    fn call_of(tasks: &Tasks, length: Duration) -> Arc<AtomicBool> {
        let ended_by_itself = Arc::new(AtomicBool::new(false));
        let (ended, hang_up) = (Arc::clone(&ended_by_itself), tasks.hang_up().clone());
        tasks.spawn(async move {
            tokio::select! {
                () = sleep(length) => ended.store(true, Ordering::SeqCst),
                () = hang_up.cancelled() => {}
            }
        });
        ended_by_itself
    }

    #[tokio::test(start_paused = true)]
    async fn draining_lets_live_calls_finish() {
        let tasks = Tasks::new();
        let finished = call_of(&tasks, Duration::from_secs(20));
        assert!(tasks.drain(Duration::from_secs(30)).await);
        assert!(finished.load(Ordering::SeqCst));
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn draining_gives_up_at_the_deadline_and_a_forced_hang_up_ends_the_rest() {
        let tasks = Tasks::new();
        let finished = call_of(&tasks, Duration::from_mins(10));
        assert!(!tasks.drain(Duration::from_secs(30)).await);
        assert_eq!(tasks.running(), 1);
        tasks.force_hang_up();
        assert!(tasks.drain(Duration::from_secs(1)).await);
        assert!(!finished.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_is_not_hanging_up() {
        let tasks = Tasks::new();
        tasks.begin_stop();
        assert!(tasks.is_stopping() && tasks.stopping().is_cancelled());
        assert!(!tasks.hang_up().is_cancelled());
        tasks.force_hang_up();
        assert!(tasks.hang_up().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_spawned_while_draining_is_waited_for() {
        let tasks = Tasks::new();
        let (spawner, late) = (tasks.clone(), Arc::new(AtomicBool::new(false)));
        let done = Arc::clone(&late);
        tasks.spawn(async move {
            sleep(Duration::from_secs(5)).await;
            spawner.spawn(async move {
                sleep(Duration::from_secs(5)).await;
                done.store(true, Ordering::SeqCst);
            });
        });
        assert!(tasks.drain(Duration::from_mins(1)).await);
        assert!(late.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_does_not_hold_up_the_drain() {
        let tasks = Tasks::new();
        tasks.spawn(async { panic!("deliberate, by this test") });
        assert!(tasks.drain(Duration::from_secs(1)).await);
    }
}
