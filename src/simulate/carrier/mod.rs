//! A stand-in for Twilio's REST API and the telephone network behind it: takes requests for calls, dials them at its
//! pace, lets people answer or not, follows TwiML, and tells what happens by signed callbacks.
//!
//! What it was asked and what it did is in its report, so that at-most-once, hours and caps can be checked from outside.

mod book;
mod courier;
mod dial;
mod faults;
mod form;
mod life;
mod options;
mod people;
mod report;
mod rest;
mod server;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::caller::leg::Source;
use super::caller::webhook::Webhooks;
use super::caller::{CallReport, CallerOptions};
use super::random::Random;
use book::{Book, Clock, Event, Record, Status};
use form::Wish;

pub use faults::{Fault, Faults};
pub use options::{CarrierOptions, Delivery};
pub use people::{People, Person};
pub use report::{CallLog, CallbackReport, CarrierReport, MessageReport, RequestReport};

/// Calls that may wait to be dialed, and jobs that may wait to be begun. A carrier that is asked for more at once says so
/// in its report.
const MOST_WAITING: usize = 1 << 16;
/// Complaints that are kept.
const KEPT_COMPLAINTS: usize = 1_000;

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A running carrier. Dropping it ends everything at once.
#[derive(Debug)]
pub struct Carrier {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// What all requests and calls share.
struct Shared {
    options: CarrierOptions,
    clock: Clock,
    webhooks: Webhooks,
    state: Mutex<State>,
    jobs: mpsc::Sender<Job>,
    queue: mpsc::Sender<(String, Done)>,
    /// Jobs that are not done.
    busy: watch::Sender<usize>,
    /// Requests that are not answered.
    requests: AtomicUsize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}

struct State {
    book: Book,
    requests: Vec<RequestReport>,
    violations: Vec<String>,
    faults: Faults,
    /// Requests for a call so far.
    asked: u64,
    random: Random,
}

impl Carrier {
    /// Binds `addr` (port 0: any free one) and serves on it. To be called inside a Tokio runtime.
    pub async fn bind(options: CarrierOptions, addr: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let webhooks = Webhooks::new(Some(options.auth_token.clone()), options.connect_to)
            .map_err(std::io::Error::other)?;
        let (jobs, waiting) = mpsc::channel(MOST_WAITING);
        let (queue, queued) = mpsc::channel(MOST_WAITING);
        let state = State {
            book: Book::default(),
            requests: Vec::new(),
            violations: Vec::new(),
            faults: options.faults.clone(),
            asked: 0,
            random: Random::for_part(options.seed, 0xFA17),
        };
        let shared = Arc::new(Shared {
            clock: Clock::starting_at(options.started),
            options,
            webhooks,
            state: Mutex::new(state),
            jobs,
            queue,
            busy: watch::Sender::new(0),
            requests: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(work(waiting));
        tasks.spawn(dial_in_turn(Arc::clone(&shared), queued));
        tasks.spawn(server::serve(listener, Arc::clone(&shared)));
        Ok(Self { addr, shared, _tasks: tasks })
    }

    /// Serves on a free port of the loopback.
    pub async fn on_any_port(options: CarrierOptions) -> std::io::Result<Self> {
        Self::bind(options, (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What to configure as `TWILIO_API_URL`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What has happened so far.
    #[must_use]
    pub fn report(&self) -> CarrierReport {
        let state = self.shared.lock();
        let calls = state.book.logs();
        let of_calls = calls.iter().flat_map(|call| {
            let violations = call.conversation.iter().flat_map(|conversation| &conversation.violations);
            violations.map(|violation| format!("{}: {violation}", call.sid))
        });
        let violations = state.violations.iter().cloned().chain(of_calls).collect();
        CarrierReport { requests: state.requests.clone(), violations, calls }
    }

    /// From the next request on this goes wrong, and nothing else. Listed numbers count all requests for a call so far.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.lock().faults = faults;
    }

    /// Waits until no call is queued or live and every callback was delivered.
    pub async fn settled(&self) {
        let mut busy = self.shared.busy.subscribe();
        // The sender is ours, so waiting cannot fail.
        let _ = busy.wait_for(|jobs| *jobs == 0).await;
    }

    /// Somebody calls in, from `options.from` to `options.to`: the call is on this carrier's books, so it can be fetched,
    /// redirected and ended over REST, and its `<Dial>` rings people here. Returns when it is over.
    pub async fn call_in(&self, options: CallerOptions) -> CallReport {
        life::inbound(&self.shared, options).await
    }

    /// Ends everything at once and says what happened.
    #[must_use]
    pub fn stop(self) -> CarrierReport {
        self.report()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with a call that is on the books; nothing with another.
    fn with_call<T>(&self, sid: &str, change: impl FnOnce(&mut Record) -> T) -> Option<T> {
        self.lock().book.find(sid).map(change)
    }

    fn complain(&self, problem: String) {
        let violations = &mut self.lock().violations;
        if violations.len() < KEPT_COMPLAINTS {
            violations.push(problem);
        }
    }

    /// Begins something that goes on by itself.
    fn start(&self, job: impl Future<Output = ()> + Send + 'static) {
        let done = Done::begin(&self.busy);
        let job: Job = Box::pin(async move {
            let _done = done;
            job.await;
        });
        if self.jobs.try_send(job).is_err() {
            self.complain("the simulated carrier is asked for too much at once".into());
        }
    }

    /// Lets a call wait for its turn to be dialed. False when too many do.
    fn queue(&self, sid: &str) -> bool {
        self.queue.try_send((sid.to_owned(), Done::begin(&self.busy))).is_ok()
    }

    /// What takes so long, at this carrier's pace.
    fn paced(&self, length: Duration) -> Duration {
        length.mul_f64(self.options.pace)
    }

    /// Puts a call on the books.
    fn enter(self: &Arc<Self>, direction: &'static str, parent: Option<String>, wish: Wish) -> (String, u64) {
        let mut state = self.lock();
        let number = state.book.len();
        let has_callbacks = wish.callback.is_some();
        let mut record = Record::new(number, direction, parent, wish, self.clock.now());
        let sid = record.log.sid.clone();
        if direction == "outbound-api" {
            record.queue_time = Duration::from_secs_f64(state.book.queued() as f64 / self.options.cps);
        }
        state.book.add(record);
        drop(state);
        if has_callbacks {
            let courier = courier::hire(self, number);
            self.with_call(&sid, |record| record.courier = Some(courier));
        }
        (sid, number)
    }

    /// Something happened to a call: who asked to be told is told.
    fn tell(&self, record: &mut Record, event: Event) {
        let notice = record.notice(event, &self.options.account_sid, self.clock.now());
        if let (Some(notice), Some(courier)) = (notice, &record.courier) {
            // It has room for more than a call has to tell.
            let _ = courier.try_send(notice);
        }
        if event == Event::Completed {
            record.courier = None;
        }
    }

    /// A call is over, unless it was before.
    fn end(&self, sid: &str, status: Status, sip: u16) {
        self.with_call(sid, |record| {
            if !record.status.is_over() {
                record.end(status, sip, self.clock.now());
                self.tell(record, Event::Completed);
            }
        });
    }
}

/// Says that a job is done, however it ended.
struct Done(watch::Sender<usize>);

impl Done {
    fn begin(busy: &watch::Sender<usize>) -> Self {
        busy.send_modify(|jobs| *jobs += 1);
        Self(busy.clone())
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        self.0.send_modify(|jobs| *jobs -= 1);
    }
}

/// Does what it is given, all at the same time.
async fn work(mut waiting: mpsc::Receiver<Job>) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            Some(job) = waiting.recv() => {
                running.spawn(job);
            }
            Some(_) = running.join_next(), if !running.is_empty() => {}
            else => return,
        }
    }
}

/// Dials calls one after the other, no faster than calls per second allow.
async fn dial_in_turn(shared: Arc<Shared>, mut queued: mpsc::Receiver<(String, Done)>) {
    let between = Duration::from_secs_f64(1.0 / shared.options.cps);
    let mut free_at = Instant::now();
    while let Some((sid, _done)) = queued.recv().await {
        let waits = |shared: &Shared| shared.with_call(&sid, |record| record.status == Status::Queued);
        // A call that was taken back takes nobody's turn.
        if waits(&shared) != Some(true) {
            continue;
        }
        sleep_until(free_at).await;
        if waits(&shared) != Some(true) {
            continue;
        }
        free_at = free_at.max(Instant::now()) + between;
        shared.start(life::outbound(Arc::clone(&shared), sid.clone()));
    }
}

/// Counts one request for as long as it is not answered.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// It, and how many there are with it.
    fn new(count: &'a AtomicUsize) -> (Self, usize) {
        let now = count.fetch_add(1, Ordering::AcqRel) + 1;
        (Self(count), now)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a call that nobody asked for over REST is on the books with.
fn plain_wish(to: &str, from: &str, source: Source, callback: Option<(String, Vec<String>)>) -> Wish {
    Wish {
        to: to.to_owned(),
        from: from.to_owned(),
        source,
        callback,
        timeout: Duration::from_secs(60),
        time_limit: Duration::from_secs(14_400),
        detection: None,
    }
}
