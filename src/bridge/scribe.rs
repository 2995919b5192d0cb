//! Writes a call's records as they come, in order, without ever making the call wait.
//!
//! The call hands records to the spool and to a bounded queue; a task of its own writes them, tries again while the
//! database is away, and then has the spool forget them. What it cannot write before the call is over, and what finds no
//! place in the queue, is left to the spool's replay.

use std::borrow::Cow;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::afterwards::Answer;
use super::desk::{Desk, KeptAlive, Saved};
use super::gather::{is_final, may_be_ones_own, timely};
use super::outage::Outage;
use super::spool::{Record, Spool, Ticket, What};
use crate::call::end::EndReason;
use crate::call::operator::OptOut;
use crate::call::tools::Transfer;
use crate::call::transcript::{Entry, Role};
use crate::ids::{CommandId, PhoneNumber, StreamSid};
use crate::lifecycle::{CallEvent, CallRef, OptOutSource};
use crate::redact::Talk;
use crate::store::Store;
use crate::store::leads::{self, LinkOutcome};
use crate::store::leases::FencingToken;
use crate::store::transcripts::Turns;
use crate::telemetry::{Metrics, ObserveDuration as _};

/// Records of one call that wait for the database: an hour of brisk talk. Full: further ones are left to the replay, or
/// dropped and counted where there is no spool, because a call must not wait for them. The end of the call has a place of
/// its own.
const QUEUE: usize = 1024;
/// Records taken out of the queue at a time. Neighbouring turns among them are written together, and with the turns that
/// other calls bring to the desk at the same moment.
const BATCH: usize = 64;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A caller without a lead is looked for again after this, then after twice as long and so on: with every turn it would
/// cost as much as the turns do.
const LINK_AGAIN_AFTER: Duration = Duration::from_secs(20);
/// How long a record of a finished call is still tried to be written when it is not in the spool.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is known of a call for its records.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) call: CallRef,
    pub(super) token: FencingToken,
    pub(super) stream_sid: StreamSid,
    pub(super) node: String,
    pub(super) stream_started: Timestamp,
    /// How far this machine's clock is ahead of the database's.
    pub(super) clock_ahead: SignedDuration,
    /// How long the call had lasted when the stream came.
    pub(super) lasted_before: Duration,
    /// Twilio asks us how the call goes on after the stream.
    pub(super) resumable: bool,
    /// Places in the conversation that belong to earlier streams of the call.
    pub(super) after_sequence: u32,
    /// Whatever is said goes through this first: neither the spool nor the database is ever given what it takes out.
    pub(super) talk: Talk,
}

impl Subject {
    /// By the database's clock.
    fn now(&self) -> Timestamp {
        Timestamp::now() - self.clock_ahead
    }
}

/// A record on its way.
pub(super) struct Waiting {
    record: Arc<Record>,
    /// In the spool, unless that had no room.
    pub(super) ticket: Option<Ticket>,
    since: Instant,
    /// The stream ends: what comes next has to be known before it is closed. Tells whether it is on record.
    done: Option<oneshot::Sender<bool>>,
}

impl Waiting {
    /// In the spool from here on, if that has room.
    pub(super) fn keep(spool: &Spool, record: Record) -> Self {
        let record = Arc::new(record);
        let ticket = spool.keep(Arc::clone(&record));
        Self { record, ticket, since: Instant::now(), done: None }
    }

    /// Writes it at once, for nobody who waits; what cannot be written now is left to the replay.
    pub(super) async fn put_on_record(self, spool: &Spool, store: &Store) {
        match timely(self.record.put_on_record(store)).await {
            Ok(_) => spool.done(self.ticket),
            Err(error) => {
                let call_sid = &self.record.call.call_sid;
                tracing::warn!(%error, call.id = %call_sid, "a record could not be written; it is replayed later");
                spool.leave(self.ticket);
            }
        }
    }
}

/// The call's end of the queue.
pub(super) struct Scribe {
    // Boxed, because a queue has room for 32 of them from the beginning.
    queue: mpsc::Sender<Box<Waiting>>,
    /// The place of the call's end, without which the carrier would not learn how the call goes on.
    end: Option<mpsc::OwnedPermit<Box<Waiting>>>,
    subject: Subject,
    answer: Answer,
    spool: Spool,
    lost: CancellationToken,
    /// Found no place in the queue, and none in the spool.
    dropped: u64,
}

/// The other end.
pub(super) struct Writer {
    queue: mpsc::Receiver<Box<Waiting>>,
    subject: Subject,
    desk: Arc<Desk>,
    spool: Spool,
    /// From when the call has a lease until its end has its turn to be written.
    alive: Option<KeptAlive>,
    lost: CancellationToken,
    store: Store,
    metrics: Metrics,
    way: Way,
    /// The offer that was refused; set aside when all is over.
    void_offer: Option<Ticket>,
    linked: bool,
    /// When linking is tried again with the next turn, and how long after that.
    link_at: Instant,
    link_again_after: Duration,
    told_unlinked: bool,
}

/// Where the records of a call go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToTheDatabase,
    /// The call was over while the database was away: all that follows is left to the replay, in order.
    ToTheReplay,
    /// The call's late offer was refused, and nothing of it is put on record: somebody else has it, perhaps by a token that
    /// is the same as ours.
    Aside,
}

/// A queue for one call and its writer, which has to be run. What is in `first` is written first; with an offer among it
/// the call has no lease before.
pub(super) fn scribe(
    subject: Subject,
    first: Vec<Waiting>,
    answer: Answer,
    desk: Arc<Desk>,
    spool: Spool,
    store: Store,
    metrics: Metrics,
) -> (Scribe, Writer) {
    let (sender, end, receiver) = queue();
    let lost = CancellationToken::new();
    let has_lease = first.is_empty();
    for waiting in first {
        sender.try_send(Box::new(waiting)).unwrap_or_else(|_| unreachable!("a new queue has room"));
    }
    let mut writer = Writer {
        queue: receiver,
        subject: subject.clone(),
        desk,
        spool: spool.clone(),
        alive: None,
        lost: lost.clone(),
        store,
        metrics,
        way: Way::ToTheDatabase,
        void_offer: None,
        linked: false,
        link_at: Instant::now(),
        link_again_after: LINK_AGAIN_AFTER,
        told_unlinked: false,
    };
    if has_lease {
        writer.show_life();
    }
    (Scribe { queue: sender, end: Some(end), subject, answer, spool, lost, dropped: 0 }, writer)
}

type Queue = (mpsc::Sender<Box<Waiting>>, mpsc::OwnedPermit<Box<Waiting>>, mpsc::Receiver<Box<Waiting>>);

/// With a place for the end of the call, whatever comes before it.
fn queue() -> Queue {
    let (sender, receiver) = mpsc::channel(QUEUE + 1);
    let end = sender.clone().try_reserve_owned().expect("a new queue is empty and open");
    (sender, end, receiver)
}

impl Scribe {
    /// Cancelled when the call is not ours any more: somebody else carries it, or it is over.
    pub(super) const fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    pub(super) fn stream_started(&mut self) {
        let Subject { stream_sid, node, token, .. } = self.subject.clone();
        self.event(CallEvent::StreamStarted { stream_sid, node, token });
    }

    pub(super) fn connected(&mut self) {
        let token = self.subject.token;
        self.event(CallEvent::Connected { token });
    }

    pub(super) fn transferred(&mut self, transfer: Transfer) {
        let Transfer { to, reason, summary } = transfer;
        let redaction = self.subject.talk.redaction();
        let (reason, summary) =
            (redaction.apply(&reason).into_owned(), redaction.apply(&summary).into_owned());
        let token = self.subject.token;
        self.event(CallEvent::Transferred { token, to, reason, summary });
    }

    pub(super) fn commanded(&mut self, command: CommandId, kind: &str) {
        let (token, command, kind) = (self.subject.token, command.0, kind.to_owned());
        self.event(CallEvent::Operator { token, command, kind });
    }

    pub(super) fn opted_out(&mut self, number: &PhoneNumber, how: OptOut) {
        let source = match how {
            OptOut::Said => OptOutSource::Call,
            OptOut::Keypad => OptOutSource::Keypad,
        };
        self.event(CallEvent::OptedOut { number: number.expose().to_owned(), source });
    }

    pub(super) fn turn(&mut self, mut entry: Entry) {
        redact(&mut self.subject.talk, &mut entry);
        entry.sequence += self.subject.after_sequence;
        let stream_started = self.subject.stream_started;
        self.put(What::Turn { stream_started, entry });
    }

    /// Puts the end on record and waits, at most for `patience`, until it is durable. The first end is the end.
    pub(super) async fn ended(
        &mut self,
        reason: EndReason,
        duration: Duration,
        report: Map<String, Value>,
        patience: Duration,
    ) {
        let Some(place) = self.end.take() else { return };
        self.answer.decide(reason);
        if self.dropped > 0 {
            tracing::error!(records = self.dropped, "the queue of records was full; these are lost");
        }
        let Subject { token, lasted_before, resumable, .. } = self.subject;
        let event =
            CallEvent::after_stream(token, reason, lasted_before + duration, resumable).reporting(report);
        let (done, written) = oneshot::channel();
        let waiting = self.keep(What::Event { at: self.subject.now(), event });
        place.send(Box::new(Waiting { done: Some(done), ..waiting }));
        match timeout(patience, written).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false) | Err(_)) => tracing::warn!(
                "the end of the call is not on record; the carrier is answered from memory, or with the fallback"
            ),
            Err(_) => tracing::warn!(
                "the end of the call is not on record yet; the carrier is answered from memory, or with the fallback"
            ),
        }
    }

    fn event(&mut self, event: CallEvent) {
        self.put(What::Event { at: self.subject.now(), event });
    }

    fn put(&mut self, what: What) {
        let waiting = self.keep(what);
        let ticket = waiting.ticket;
        if self.queue.try_send(Box::new(waiting)).is_ok() {
            return;
        }
        if let Some(ticket) = ticket {
            return self.spool.leave([ticket]);
        }
        self.dropped += 1;
        if self.dropped == 1 {
            tracing::error!("the queue of records is full; the call goes on without them");
        }
    }

    fn keep(&self, what: What) -> Waiting {
        let Subject { call, token, .. } = &self.subject;
        Waiting::keep(&self.spool, Record { call: call.clone(), token: *token, what })
    }
}

impl Writer {
    /// Writes until the call has dropped its end of the queue and everything is written, or left to the replay.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::new();
        while self.queue.recv_many(&mut batch, BATCH).await > 0 {
            // Boxed, because what writing needs is large, and most of the time nothing is written.
            Box::pin(self.write(&mut batch)).await;
        }
        if self.way != Way::ToTheReplay {
            self.link_at = Instant::now(); // The last chance.
            Box::pin(self.link_lead()).await;
        }
        if let Some(offer) = self.void_offer {
            self.spool.late(offer);
        }
    }

    /// From now on the call has a lease.
    fn show_life(&mut self) {
        let CallRef { call_sid, .. } = &self.subject.call;
        self.alive = Some(self.desk.keep_alive(call_sid.clone(), self.subject.token, self.lost.clone()));
    }

    /// Writes records in the order they came; neighbouring turns go together.
    #[expect(clippy::vec_box, reason = "as they come out of the queue")]
    async fn write(&mut self, batch: &mut Vec<Box<Waiting>>) {
        let mut turns = Vec::new();
        for mut waiting in batch.drain(..) {
            if waiting.record.is_turn() {
                turns.push(*waiting);
                continue;
            }
            self.write_turns(&mut turns).await;
            let done = waiting.done.take();
            if done.is_some() {
                self.alive = None; // The lease ends with the call, which would look like losing it.
            }
            let written = self.write_event(&waiting).await;
            if let Some(done) = done {
                let _ = done.send(written); // Whoever waited may have given up.
            }
        }
        self.write_turns(&mut turns).await;
    }

    async fn write_turns(&mut self, turns: &mut Vec<Waiting>) {
        if turns.is_empty() {
            return;
        }
        let fate = self.save(turns, false).await;
        if matches!(fate, Fate::Refused(_)) && turns.len() > 1 {
            // One of them: the others shall not be lost with it.
            for turn in turns.iter() {
                let fate = self.save(slice::from_ref(turn), true).await;
                self.settle(slice::from_ref(turn), fate);
            }
        } else {
            self.settle(turns, fate);
        }
        turns.clear();
        self.link_lead().await;
    }

    async fn save(&self, turns: &[Waiting], alone: bool) -> Fate<bool> {
        if self.way == Way::Aside {
            return Fate::Void;
        }
        let entry = |waiting: &Waiting| match &waiting.record.what {
            What::Turn { entry, .. } => Some(entry.clone()),
            What::Event { .. } | What::Offer(_) | What::Callback { .. } => None,
        };
        let Subject { call, token, stream_started, .. } = &self.subject;
        let entries = turns.iter().filter_map(entry).collect();
        let turns_of_call = Arc::new(Turns {
            organization: call.organization,
            call_sid: call.call_sid.clone(),
            token: *token,
            stream_started: *stream_started,
            entries,
        });
        let kept = turns.iter().all(|turn| turn.ticket.is_some());
        let attempt = |refused: bool| self.desk.save(Arc::clone(&turns_of_call), alone || refused);
        match self.persist("turns", kept, attempt).await {
            Fate::Done(saved) => Fate::Done(saved == Saved::All),
            Fate::Refused(why) => Fate::Refused(why),
            Fate::Left => Fate::Left,
            Fate::Void => Fate::Void,
        }
    }

    /// True: it is on record.
    async fn write_event(&mut self, waiting: &Waiting) -> bool {
        if self.way == Way::Aside {
            self.settle(slice::from_ref(waiting), Fate::Void);
            return false;
        }
        let record = |_| timely(waiting.record.put_on_record(&self.store));
        let fate = self.persist("event", waiting.ticket.is_some(), record).await;
        let written = matches!(fate, Fate::Done(true));
        if waiting.record.is_offer() {
            match fate {
                Fate::Done(true) => self.show_life(),
                Fate::Done(false) | Fate::Refused(_) | Fate::Void => {
                    self.forfeit(waiting);
                    return false;
                }
                Fate::Left => {}
            }
        }
        self.settle(slice::from_ref(waiting), fate);
        written
    }

    /// The call was never ours, as its refused offer says.
    fn forfeit(&mut self, offer: &Waiting) {
        let call_sid = &self.subject.call.call_sid;
        tracing::warn!(call.id = %call_sid, "a call that was answered without the database is somebody else's");
        (self.way, self.void_offer) = (Way::Aside, offer.ticket);
        self.spool.void(offer.ticket, offer.record.right());
        self.lost.cancel();
    }

    /// Has the spool forget what is written, and keep what is not. `Done(false)`: the call is not ours any more.
    fn settle(&mut self, waiting: &[Waiting], fate: Fate<bool>) {
        let tickets = waiting.iter().filter_map(|waiting| waiting.ticket);
        match fate {
            Fate::Done(true) => {
                self.spool.done(tickets);
                for turn in waiting.iter().filter(|waiting| waiting.record.is_turn()) {
                    self.metrics.transcript_turns_saved.inc();
                    self.metrics.transcript_save_seconds.observe_duration(turn.since.elapsed());
                }
            }
            Fate::Done(false) => {
                self.desk.lose(&self.subject.call.call_sid, self.subject.token);
                self.lost.cancel(); // Also where no sign of life was given yet.
                // What was said while the call was ours is still written by the replay.
                self.spool.leave(tickets);
            }
            Fate::Left => {
                self.way = Way::ToTheReplay;
                self.spool.leave(tickets);
            }
            Fate::Refused(why) => tickets.for_each(|ticket| self.spool.refuse(ticket, &why)),
            Fate::Void => tickets.for_each(|ticket| self.spool.late(ticket)),
        }
    }

    /// Ties the caller's lead to the call. Never more than a log line if it cannot: the turns are safe.
    async fn link_lead(&mut self) {
        // Of a call that is not ours its holder knows more.
        if self.linked || self.lost.is_cancelled() || Instant::now() < self.link_at {
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
            Ok(LinkOutcome::MovedOn { .. }) => self.linked = true, // It never comes back.
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

    /// `kept`: it is in the spool, so that nobody need wait for it when the call is over.
    async fn persist<T, F>(&self, what: &'static str, kept: bool, attempt: impl FnMut(bool) -> F) -> Fate<T>
    where
        F: Future<Output = sqlx::Result<T>>,
    {
        if kept && self.way == Way::ToTheReplay {
            return Fate::Left;
        }
        let patience = if kept { Duration::ZERO } else { PATIENCE };
        let is_over = || self.queue.is_closed() || self.lost.is_cancelled();
        persist(&self.metrics, &self.desk.outage, what, patience, is_over, attempt).await
    }
}

/// Takes out of a turn what is not to be kept. A function's arguments and its answer stay what they are, JSON or not.
fn redact(talk: &mut Talk, entry: &mut Entry) {
    if talk.redaction().is_none() {
        return;
    }
    if entry.role == Role::Tool {
        entry.content = talk.document(entry.sequence, &entry.content).into_owned();
        entry.generated =
            entry.generated.as_deref().map(|text| talk.document(entry.sequence, text).into_owned());
        return;
    }
    let (content, generated) = talk.turn(entry.sequence, &entry.content, entry.generated.as_deref());
    let (content, generated) = (content.into_owned(), generated.map(Cow::into_owned));
    (entry.content, entry.generated) = (content, generated);
}

/// What became of a record.
#[derive(Debug, PartialEq, Eq)]
enum Fate<T> {
    Done(T),
    /// The database will never take it.
    Refused(String),
    /// The call is over, and nothing is on record.
    Left,
    /// It must not be put on record at all.
    Void,
}

/// Does it until it works. As long as the call is not over it is not given up, and for `patience` after that.
///
/// `attempt` has to come to an end by itself, and is told whether the one before failed for what may be its own fault.
async fn persist<T, F>(
    metrics: &Metrics,
    outage: &Outage,
    what: &'static str,
    patience: Duration,
    call_is_over: impl Fn() -> bool,
    mut attempt: impl FnMut(bool) -> F,
) -> Fate<T>
where
    F: Future<Output = sqlx::Result<T>>,
{
    let mut over_since = None;
    let mut pause = FIRST_PAUSE;
    let mut refused = false;
    loop {
        let result = attempt(refused).await;
        outage.note(&result);
        let error = match result {
            Ok(value) => return Fate::Done(value),
            Err(error) => error,
        };
        if is_final(&error) {
            tracing::error!(%error, what, "the database will never take a record");
            return Fate::Refused(error.to_string());
        }
        if call_is_over() {
            let since = *over_since.get_or_insert_with(Instant::now);
            if patience.is_zero() {
                tracing::warn!(%error, what, "a record could not be written before the call was over; it is replayed later");
                return Fate::Left;
            }
            if since.elapsed() > patience {
                tracing::error!(%error, what, "a record could not be written and is lost");
                return Fate::Left;
            }
        }
        metrics.store_retries.inc();
        tracing::warn!(%error, what, "a record could not be written; trying again");
        refused = may_be_ones_own(&error);
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
#[path = "scribe_tests.rs"]
pub(super) mod tests;
