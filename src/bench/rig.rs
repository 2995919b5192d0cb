//! Both far ends, each on a thread of its own, and what a step does with them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::caller::{self, Dialing};
use super::calls::{Call, Shared, Tally};
use super::mark::SEQUENCES;
use super::model::{self, Manner};

/// What is under way when a step ends is waited for so long.
const HANG_UP_WITHIN: Duration = Duration::from_secs(20);
/// Frames sent at the end of the measured time may arrive so much later: those of an interrupted answer are not known
/// to be owed.
const STRAGGLERS: Duration = Duration::from_millis(1_500);
/// Those that are owed may arrive so much later, or are lost: a machine that stalls for a while loses nothing.
pub(super) const LOST_AFTER: Duration = Duration::from_secs(15);
const ASK_EVERY: Duration = Duration::from_millis(50);

/// The far ends.
#[derive(Debug)]
pub(super) struct Rig {
    shared: Arc<Shared>,
    callers: Thread,
    models: Thread,
    sessions: TaskTracker,
    pub(super) model_addr: SocketAddr,
    next_call: u16,
}

/// A thread that runs tasks. One thread an end: more would take from the bridge what it is measured for.
#[derive(Debug)]
struct Thread {
    handle: Handle,
    stop: CancellationToken,
    join: Option<JoinHandle<()>>,
}

impl Thread {
    fn start(name: &str) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let stopped = stop.clone();
        let join = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(stopped.cancelled()))
            .context("cannot start a thread")?;
        Ok(Self { handle, stop, join: Some(join) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(join) = self.join.take() {
            // What it may have panicked with has been printed.
            let _ = join.join();
        }
    }
}

/// Calls that are on.
#[derive(Debug)]
pub(super) struct Calls {
    tasks: TaskTracker,
    hang_ups: Vec<CancellationToken>,
}

impl Rig {
    /// Starts the model's end on `listen`.
    pub(super) async fn start(listen: SocketAddr, manner: Manner) -> anyhow::Result<Self> {
        let (callers, models) = (Thread::start("callers")?, Thread::start("models")?);
        let shared = Shared::new();
        let sessions = TaskTracker::new();
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen} (--model-listen)"))?;
        let model_addr = listener.local_addr().context("cannot tell the address that is listened on")?;
        // A socket belongs to the runtime that made it.
        let listener = listener.into_std().context("cannot hand the listener over")?;
        let (ends, tracker, stop) = (Arc::clone(&shared), sessions.clone(), models.stop.clone());
        sessions.spawn_on(
            async move {
                match TcpListener::from_std(listener) {
                    Ok(listener) => model::serve(listener, ends, manner, tracker, stop).await,
                    Err(error) => super::calls::lock(&ends.models).problem(error.to_string()),
                }
            },
            &models.handle,
        );
        Ok(Self { shared, callers, models, sessions, model_addr, next_call: 0 })
    }

    /// Begins a step: what was counted before does not count.
    pub(super) fn begin(&self) {
        self.shared.take();
    }

    /// Places calls, evenly in time, and returns when the last one has been placed.
    pub(super) async fn dial(&mut self, count: u32, per_s: f64, dialing: &Dialing) -> Calls {
        let (tasks, mut hang_ups) = (TaskTracker::new(), Vec::new());
        let started = Instant::now();
        for number in 0..count {
            sleep_until(started + Duration::from_secs_f64(f64::from(number) / per_s)).await;
            let hang_up = CancellationToken::new();
            self.dial_one(&tasks, hang_up.clone(), dialing, false);
            hang_ups.push(hang_up);
        }
        Calls { tasks, hang_ups }
    }

    /// Places one more call, which lasts until `hang_up`.
    pub(super) fn dial_one(
        &mut self,
        tasks: &TaskTracker,
        hang_up: CancellationToken,
        dialing: &Dialing,
        keep_said: bool,
    ) -> Arc<Call> {
        self.next_call = (self.next_call + 1) % SEQUENCES as u16;
        let sid = format!("CA{}", uuid::Uuid::new_v4().simple());
        let call = self.shared.add_call(self.next_call, sid, keep_said);
        let task = caller::run(Arc::clone(&self.shared), Arc::clone(&call), dialing.clone(), hang_up);
        tasks.spawn_on(task, &self.callers.handle);
        call
    }

    /// Calls of which both ends know each other.
    pub(super) fn calls_up(&self) -> u32 {
        self.shared.calls_up()
    }

    /// Frames of this call that are sent from now on do not count.
    pub(super) fn let_end(&self, call: &Call) {
        call.is_nearly_over(self.shared.clock.now());
    }

    /// Measures for so long. `looked` is called when the measured time begins and when it ends.
    pub(super) async fn measure(&self, time: Duration, mut look: impl FnMut()) {
        self.open_window();
        look();
        sleep(time).await;
        look();
        self.close_window().await;
    }

    /// Frames that are sent from now on count.
    pub(super) fn open_window(&self) {
        self.shared.open_window();
    }

    /// Whether frames of this call are on their way.
    pub(super) fn is_owed(&self, call: &Call) -> bool {
        self.shared.is_owed(call)
    }

    /// Frames that are sent from now on do not count any more; those on their way arrive.
    pub(super) async fn close_window(&self) {
        self.shared.close_window();
        let closed = Instant::now();
        sleep(STRAGGLERS).await;
        while self.shared.is_owed_anything() && closed.elapsed() < LOST_AFTER {
            sleep(ASK_EVERY).await;
        }
    }

    /// Lets all fall silent, or speak again when they are asked to.
    pub(super) fn hush(&self, hushed: bool) {
        self.shared.hush(hushed);
    }

    /// Hangs up, evenly in time, and returns what was counted.
    pub(super) async fn finish(&self, calls: Calls, per_s: f64) -> Tally {
        let started = Instant::now();
        for (number, hang_up) in (0_u32..).zip(&calls.hang_ups) {
            sleep_until(started + Duration::from_secs_f64(f64::from(number) / per_s)).await;
            hang_up.cancel();
        }
        self.wait_for(&calls.tasks).await
    }

    /// Waits until calls that were hung up are over, and returns what was counted.
    pub(super) async fn wait_for(&self, tasks: &TaskTracker) -> Tally {
        tasks.close();
        let over = timeout(HANG_UP_WITHIN, tasks.wait()).await.is_ok();
        let mut tally = self.shared.take();
        if !over {
            tally.problem("calls did not end within 20 s");
        }
        tally
    }

    /// What was counted since this was asked last. The measured time goes on.
    pub(super) fn so_far(&self) -> Tally {
        self.shared.so_far()
    }

    /// Ends both ends.
    pub(super) async fn stop(self) {
        self.models.stop.cancel();
        self.sessions.close();
        let _ = timeout(HANG_UP_WITHIN, self.sessions.wait()).await;
        drop((self.callers, self.models));
    }
}
