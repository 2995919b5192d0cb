//! Runs one call to its end: the only place that reads the clock or waits on its behalf.
//!
//! One task polls both sockets, the functions and the timer, hands what happened to the call and does what comes out.
//! Nothing travels through a channel on the way from one socket to the other, and what one wake-up brings about leaves
//! in one write.

use std::cell::RefCell;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, trace, warn};

use super::endpoints::{ModelSession, Source, Trial};
use super::http_tools::HttpTools;
use super::lobby::Opening;
use super::model_socket::{ModelSocket, OpenError};
use super::scribe::Scribe;
use super::seldom::Seldom;
use super::socket::{Blocked, Received, Socket};
use super::sounds::Sounds;
use super::switchboard::Order;
use super::{GOODBYE_WITHIN, Sessions};
use crate::call::end::EndReason;
use crate::call::operator::Outcome;
use crate::call::outbox::{Note, Output, SessionAct, emptied};
use crate::call::{Call, Input};
use crate::clock::CallTime;
use crate::ids::{PhoneNumber, StreamSid};
use crate::telemetry::{FrameDrop, Metrics, ObserveDuration as _};
use crate::wire::json::unescaped;
use crate::wire::model::{ModelCommand, ModelEvent};
use crate::wire::{openai, twilio};

/// Larger messages of a stream are not audio of a call.
const MAX_STREAM_MESSAGE_BYTES: usize = 64 * 1024;
/// A caller must not wait for our records: after this the stream is closed anyway.
const RECORD_END_WITHIN: Duration = Duration::from_secs(1);

thread_local! {
    /// A message on its way into a socket's buffer. The calls of a thread share it, so that it stays in the processor's
    /// nearest memory.
    static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The model's side of a call.
pub(super) enum ModelSide {
    /// Its session is on the way.
    Opening(Opening),
    /// It is agreed on.
    Open(ModelSocket),
    /// It is gone.
    Gone,
}

/// What drives one call.
pub(super) struct Driver<S> {
    pub(super) call: Call,
    pub(super) stream_sid: StreamSid,
    pub(super) twilio: Socket<S>,
    pub(super) model: ModelSide,
    /// The session that will follow, while there is one beside the one in use.
    pub(super) next_model: Option<ModelSide>,
    pub(super) sessions: Sessions,
    /// What the session in use, and the one that will follow, will have shown of their endpoints.
    pub(super) trial: Option<Trial>,
    pub(super) next_trial: Option<Trial>,
    /// Where the last session came from that was lost early.
    pub(super) lost_from: Option<Source>,
    /// Since when the call has been without a session it had.
    pub(super) lost_at: Option<Instant>,
    pub(super) tools: HttpTools,
    pub(super) scribe: Scribe,
    pub(super) sounds: Sounds,
    pub(super) metrics: Metrics,
    /// What people in charge want; taken when the call begins to run.
    pub(super) orders: Option<mpsc::Receiver<Order>>,
    /// Where what comes of the last of it goes.
    pub(super) answer: Option<oneshot::Sender<Outcome>>,
    /// Whom we speak with, where that is a telephone number.
    pub(super) other_party: Option<PhoneNumber>,
    pub(super) move_away: CancellationToken,
    pub(super) hang_up: CancellationToken,
    pub(super) started: Instant,
}

/// What woke the call.
enum Event {
    Twilio,
    Model,
    Opened(Result<ModelSession, OpenError>),
    /// The session that will follow is heard of.
    NextModel(Box<Event>),
    Tool(crate::call::tools::ToolResult),
    Order(Order),
    MoveAway,
    HangUp(EndReason),
    Timeout,
}

/// Frames of audio that one wake-up sent on, for the added latency.
#[derive(Default)]
struct Relayed {
    to_model: u32,
    to_caller: u32,
}

impl<S> Driver<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Runs the call and returns why it ended.
    pub(super) async fn run(&mut self) -> EndReason {
        self.scribe.stream_started();
        let (mut told_to_move, mut told_to_hang_up) = (false, false);
        // Tokens of its own, registered once: looking at one takes its lock, and all calls would take the same.
        let mut move_away = Seldom::new(self.move_away.child_token().cancelled_owned());
        let mut hang_up = Seldom::new(self.hang_up.child_token().cancelled_owned());
        let mut lost = Seldom::new(self.scribe.lost().clone().cancelled_owned());
        let mut orders = Seldom::new(next_order(self.orders.take()));
        let timer = sleep_until(self.started);
        tokio::pin!(timer);
        loop {
            self.set(timer.as_mut());
            // What has arrived goes before the timer, which must not mistake a busy machine for a silent caller. The
            // call looks at its timers with every input, so nothing that floods us can hold them back.
            let event = tokio::select! {
                biased;
                () = self.twilio.readable() => Event::Twilio,
                event = next_of_model(&mut self.model) => event,
                event = next_of_next(&mut self.next_model), if self.next_model.is_some() => event,
                result = self.tools.next() => Event::Tool(result),
                () = &mut timer => Event::Timeout,
                () = &mut hang_up, if !told_to_hang_up => Event::HangUp(EndReason::Drained),
                () = &mut lost, if !told_to_hang_up => Event::HangUp(EndReason::LeaseLost),
                () = &mut move_away, if !told_to_move => Event::MoveAway,
                (order, more) = &mut orders => {
                    orders = Seldom::new(next_order(more));
                    Event::Order(order)
                }
            };
            told_to_hang_up |= matches!(event, Event::HangUp(_));
            told_to_move |= matches!(event, Event::MoveAway);
            let received_at = Instant::now();
            let now = CallTime::from(received_at - self.started);
            let mut relayed = Relayed::default();
            let ended = match event {
                Event::Twilio => self.take_from_twilio(now, &mut relayed).await,
                Event::Model => self.take_from_model(now, &mut relayed).await,
                Event::Timeout if now < self.call.poll_timeout() => None, // Put off since it was set.
                other => {
                    self.take(now, other);
                    self.act(&mut relayed).await
                }
            };
            self.twilio.flush_now().await;
            if let ModelSide::Open(model) = &mut self.model {
                model.flush_now().await;
            }
            self.measure(received_at, &relayed);
            if let Some(reason) = ended {
                self.say_goodbye().await;
                return reason;
            }
        }
    }

    /// Sets the timer where the call wants it. A timer that is too early stays: nearly every frame puts the call's
    /// deadlines off, and waking once for nothing is cheaper than setting it with every frame.
    fn set(&self, timer: Pin<&mut Sleep>) {
        let deadline = self.started + self.call.poll_timeout().since_start();
        if deadline < timer.deadline() || timer.is_elapsed() {
            timer.reset(deadline);
        }
    }

    fn take(&mut self, now: CallTime, event: Event) {
        let started = self.started;
        let call_time = |at: Instant| CallTime::from(at.saturating_duration_since(started));
        let input = match event {
            Event::Opened(Ok(session)) => {
                self.model = ModelSide::Open(session.socket);
                self.trial = Some(session.trial);
                Input::ModelReady { expires: call_time(session.expires) }
            }
            Event::Opened(Err(error)) => {
                warn!(%error, "there is no model session for this call");
                self.model = ModelSide::Gone;
                Input::ModelUnavailable(error.unavailable())
            }
            Event::NextModel(event) => match *event {
                Event::Opened(Ok(session)) => {
                    self.next_model = Some(ModelSide::Open(session.socket));
                    self.next_trial = Some(session.trial);
                    Input::NextModelReady { expires: call_time(session.expires) }
                }
                Event::Opened(Err(error)) => {
                    warn!(%error, "the session that is to follow could not be opened");
                    self.next_model = None;
                    Input::NextModelGone
                }
                _ if self.next_model_is_gone() => Input::NextModelGone,
                _ => Input::NextModelAlive,
            },
            Event::Tool(result) => Input::ToolFinished(result),
            Event::Order(Order { command, answer }) => {
                self.answer = Some(answer);
                Input::Command(command)
            }
            Event::MoveAway => Input::MoveAway,
            Event::HangUp(reason) => Input::HangUp(reason),
            Event::Timeout | Event::Twilio | Event::Model => Input::Timeout,
        };
        self.call.handle_input(now, input);
    }

    /// Everything Twilio has sent, one message after the other.
    async fn take_from_twilio(&mut self, now: CallTime, relayed: &mut Relayed) -> Option<EndReason> {
        while let Some(received) = self.twilio.next() {
            match received {
                Received::Text(text) if text.len() > MAX_STREAM_MESSAGE_BYTES => {
                    self.call.handle_input(now, Input::OversizeMessage);
                }
                Received::Text(text) => hear_twilio(&mut self.call, now, text),
                Received::Binary => self.call.handle_input(now, Input::UnreadableMessage),
                Received::Closed { why, oversize } => {
                    debug!(why, "the media stream's socket closed");
                    self.twilio.flush_now().await; // Our answer to its goodbye: the call may linger.
                    let invalid = Input::HangUp(EndReason::StreamInvalid);
                    self.call.handle_input(now, if oversize { invalid } else { Input::StreamClosed });
                }
            }
            if let Some(reason) = self.act(relayed).await {
                return Some(reason);
            }
        }
        None
    }

    /// True when the session that was to follow has ended. What else it says is of no interest before it is used.
    fn next_model_is_gone(&mut self) -> bool {
        let Some(ModelSide::Open(socket)) = &mut self.next_model else { return false };
        while let Some(received) = socket.next() {
            if let Received::Closed { why, .. } = received {
                info!(why, "the socket of the session that was to follow closed");
                self.next_model = None;
                return true;
            }
        }
        false
    }

    /// Everything the model has sent, one event after the other.
    async fn take_from_model(&mut self, now: CallTime, relayed: &mut Relayed) -> Option<EndReason> {
        let mut said_something = false;
        while let ModelSide::Open(socket) = &mut self.model {
            let Some(received) = socket.next() else { break };
            said_something = true;
            match received {
                Received::Text(text) => hear_model(&mut self.call, now, text),
                Received::Binary => {}
                Received::Closed { why, .. } => {
                    info!(why, "the model's socket closed");
                    socket.flush_now().await; // Our answer to its goodbye.
                    self.model = ModelSide::Gone;
                    self.call.handle_input(now, Input::ModelClosed);
                }
            }
            if let Some(reason) = self.act(relayed).await {
                return Some(reason);
            }
        }
        // A part of a long message is a sign of life, too.
        if let ModelSide::Open(socket) = &mut self.model
            && (socket.take_pong() || !said_something)
        {
            self.call.handle_input(now, Input::ModelAlive);
        }
        None
    }

    /// Does what the call wants done. Returns the reason once it has ended.
    async fn act(&mut self, relayed: &mut Relayed) -> Option<EndReason> {
        loop {
            let output = self.call.poll_output()?;
            let sent = match output {
                Output::Twilio(message) => {
                    relayed.to_caller += u32::from(matches!(message, twilio::Outbound::Media { .. }));
                    TEXT.with_borrow_mut(|text| {
                        twilio::encode(message, &self.stream_sid, emptied(text));
                        self.twilio.send(text)
                    })
                }
                Output::Model(command) => {
                    relayed.to_model += u32::from(matches!(command, ModelCommand::AppendAudio(_)));
                    match &mut self.model {
                        ModelSide::Open(socket) => TEXT.with_borrow_mut(|text| {
                            openai::encode(&command, emptied(text));
                            socket.send(text)
                        }),
                        ModelSide::Opening(_) | ModelSide::Gone => Ok(()),
                    }
                }
                Output::Transcript(entry) => {
                    self.scribe.turn(entry);
                    Ok(())
                }
                Output::Session(act) => {
                    self.act_on_sessions(act);
                    Ok(())
                }
                Output::CallTool(request) => {
                    info!(function = request.name, "the model calls a function");
                    self.tools.start(request);
                    Ok(())
                }
                Output::CancelTool(call) => {
                    self.tools.cancel(&call);
                    Ok(())
                }
                Output::Connected => {
                    self.scribe.connected();
                    Ok(())
                }
                Output::Transfer(transfer) => {
                    self.scribe.transferred(transfer);
                    Ok(())
                }
                Output::Answered(answer) => {
                    if matches!(answer.outcome, Outcome::Done(_)) {
                        self.scribe.commanded(answer.id, answer.kind);
                    }
                    if let Some(waiting) = self.answer.take() {
                        let _ = waiting.send(answer.outcome); // Whoever waited may have given up.
                    }
                    Ok(())
                }
                Output::OptedOut(how) => {
                    if let Some(number) = &self.other_party {
                        self.scribe.opted_out(number, how);
                    } else {
                        warn!("somebody whose number is not known does not want to be called again");
                    }
                    Ok(())
                }
                Output::Measured(turn) => {
                    if let Some(latency) = turn.response_latency() {
                        self.metrics.turn_response_seconds.observe_duration(latency);
                    }
                    Ok(())
                }
                Output::Judged(judgement) => {
                    let (verdict, why) = (judgement.verdict.as_str(), judgement.why.as_str());
                    let pause = judgement.paused.is_some().then(|| judgement.pause());
                    self.metrics.judged(verdict, why, pause);
                    debug!(verdict, why, ?pause, voice = ?judgement.voice, "a sound over the agent was judged");
                    self.sounds.add(&judgement);
                    Ok(())
                }
                Output::Note(note) => {
                    self.note(note);
                    Ok(())
                }
                Output::EndStream(reason) => {
                    self.end_stream(reason).await;
                    Ok(())
                }
                Output::Ended(reason) => return Some(reason),
            };
            if sent == Err(Blocked) {
                let now = CallTime::from(self.started.elapsed());
                self.call.handle_input(now, Input::HangUp(EndReason::SlowPeer));
            }
        }
    }

    fn note(&mut self, note: Note) {
        count(&self.metrics, note);
        match note {
            Note::ModelLost => self.lost_at = Some(Instant::now()),
            Note::ModelBack => {
                let without = self.lost_at.take().map_or(Duration::ZERO, |at| at.elapsed());
                self.metrics.model_gap_seconds.observe_duration(without);
            }
            _ => {}
        }
    }

    fn act_on_sessions(&mut self, act: SessionAct) {
        match act {
            SessionAct::Open { elsewhere } => {
                self.model = ModelSide::Opening(self.open(elsewhere));
                self.trial = None;
            }
            SessionAct::OpenNext { elsewhere } => {
                self.next_model = Some(ModelSide::Opening(self.open(elsewhere)));
            }
            SessionAct::UseNext => {
                let next = self.next_model.take().unwrap_or(ModelSide::Gone);
                self.trial = self.next_trial.take();
                if let ModelSide::Open(left) = std::mem::replace(&mut self.model, next) {
                    self.sessions.close(left);
                }
            }
            SessionAct::LeaveNext { early } => {
                if let Some(ModelSide::Open(left)) = self.next_model.take() {
                    info!("the session that was to follow shows no life");
                    self.sessions.close(left);
                }
                if let Some(mut trial) = self.next_trial.take().filter(|_| early) {
                    self.lost_from = Some(trial.lost_early());
                }
            }
            SessionAct::Ping => {
                if let ModelSide::Open(socket) = &mut self.model {
                    socket.ping();
                }
            }
            SessionAct::PingNext => {
                if let Some(ModelSide::Open(socket)) = &mut self.next_model {
                    socket.ping(); // It leaves when the socket is looked at next.
                }
            }
            SessionAct::Served => {
                if let Some(trial) = &mut self.trial {
                    trial.served();
                }
            }
            SessionAct::LostEarly => {
                if let Some(trial) = &mut self.trial {
                    self.lost_from = Some(trial.lost_early());
                }
            }
        }
    }

    fn open(&self, elsewhere: bool) -> Opening {
        self.sessions.open(self.lost_from.filter(|_| elsewhere))
    }

    /// What comes next must be on record before the stream closes, because Twilio asks for it at once.
    async fn end_stream(&mut self, reason: EndReason) {
        let report = self.sounds.report();
        self.scribe.ended(reason, self.started.elapsed(), report, RECORD_END_WITHIN).await;
        let _ = timeout(GOODBYE_WITHIN, self.twilio.close()).await;
    }

    async fn say_goodbye(&mut self) {
        if let Some(ModelSide::Open(next)) = self.next_model.take() {
            self.sessions.close(next);
        }
        if let ModelSide::Open(socket) = &mut self.model {
            let _ = timeout(GOODBYE_WITHIN, socket.close()).await;
        }
    }

    fn measure(&self, received_at: Instant, relayed: &Relayed) {
        if relayed.to_model + relayed.to_caller == 0 {
            return;
        }
        let elapsed = received_at.elapsed();
        let latency = &self.metrics.added_latency;
        latency.caller.observe(elapsed, relayed.to_model);
        latency.agent.observe(elapsed, relayed.to_caller);
    }
}

fn hear_twilio(call: &mut Call, now: CallTime, text: &str) {
    let error = match twilio::decode(text) {
        Ok(message) => return call.handle_input(now, Input::Twilio(message)),
        Err(error) => error,
    };
    let plain = matches!(error, twilio::DecodeError::Escaped).then(|| unescaped(text).unwrap_or_default());
    if let Some(Ok(message)) = plain.as_deref().map(twilio::decode) {
        call.handle_input(now, Input::Twilio(message));
    } else {
        debug!(%error, "a message of the stream cannot be read");
        call.handle_input(now, Input::UnreadableMessage);
    }
}

fn hear_model(call: &mut Call, now: CallTime, text: &str) {
    match openai::decode(text) {
        Ok(event) => {
            if let ModelEvent::Error(error) = &event {
                let (code, about) = (&error.code, error.event_id.as_deref().unwrap_or_default());
                warn!(code, about, "the model reported an error");
                trace!(message = error.message, "its text, which may quote what we sent");
            }
            call.handle_input(now, Input::Model(event));
        }
        Err(openai::DecodeError::Escaped) => {
            let plain = unescaped(text).unwrap_or_default();
            if let Ok(event) = openai::decode(&plain) {
                call.handle_input(now, Input::Model(event));
            }
        }
        Err(error) => debug!(%error, "a message of the model cannot be read"),
    }
}

/// With what is wanted after that. Without anybody who could want something it never comes.
async fn next_order(orders: Option<mpsc::Receiver<Order>>) -> (Order, Option<mpsc::Receiver<Order>>) {
    if let Some(mut orders) = orders
        && let Some(order) = orders.recv().await
    {
        return (order, Some(orders));
    }
    std::future::pending().await
}

async fn next_of_model(model: &mut ModelSide) -> Event {
    match model {
        ModelSide::Opening(opening) => {
            let opened = opening.await;
            Event::Opened(
                opened.unwrap_or_else(|_| Err(OpenError::Closed("the opening was given up".into()))),
            )
        }
        ModelSide::Open(socket) => {
            socket.readable().await;
            Event::Model
        }
        ModelSide::Gone => std::future::pending().await,
    }
}

async fn next_of_next(next: &mut Option<ModelSide>) -> Event {
    match next {
        Some(model) => Event::NextModel(Box::new(next_of_model(model).await)),
        None => std::future::pending().await,
    }
}

fn count(metrics: &Metrics, note: Note) {
    match note {
        Note::ModelRenewed => {
            metrics.renewals.inc();
            info!("another session of the model has taken over before the time of the last one was over");
        }
        Note::ModelLost => warn!("the model's session is lost; another one is opened"),
        Note::ModelBack => {
            metrics.reconnects.inc();
            info!("another session of the model has taken over");
        }
        Note::BargeIn => {
            metrics.barge_ins.inc();
        }
        Note::Paused => {
            metrics.pauses.inc();
        }
        Note::Truncated => {
            metrics.truncations.inc();
        }
        Note::MessageIgnored => {
            metrics.twilio_messages_ignored.inc();
        }
        Note::FrameDropped | Note::ModelAudioInvalid => metrics.frame_dropped(FrameDrop::NotAudio),
        Note::FrameTooLarge => metrics.frame_dropped(FrameDrop::TooLarge),
        Note::FrameNotKept => metrics.frame_dropped(FrameDrop::QueueFull),
        Note::LateAudioDropped => metrics.frame_dropped(FrameDrop::Interrupted),
        Note::GapFilled => debug!("silence was put into a gap of the caller's audio"),
        Note::ResponseFailed => warn!("a response failed or had nothing to hear"),
        Note::BenignError => debug!("an error of the model needs no reaction"),
        Note::BadRequest => warn!("the model refused something we sent"),
    }
}
