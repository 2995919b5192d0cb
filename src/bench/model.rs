//! The model's end of every call: a server that speaks on schedule and times what it hears.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::arrivals::Arrivals;
use super::calls::{Call, Micros, Said, Shared, lock};
use super::dialect::{self, Heard, Line};
use super::link::{Link, Message};
use super::mark::{Mark, SEQUENCES, Writer};
use super::talk::{Act, Talk};
use crate::audio::AudioFormat;
use crate::simulate::random::Random;
use crate::wire::websocket::Role;

/// Streams on this path speak Twilio's language: they come over the floor.
pub(super) const FLOOR_PATH: &str = "/floor";
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// A bridge that asks for no response is given one so long after its first audio.
const SPEAK_UNASKED_US: Micros = 1_000_000;
/// Frames in one message of an answer that comes at once: real models send about so much.
const BURST_MESSAGE_FRAMES: u64 = 5;
/// A piece of text comes with every so many frames.
const TEXT_EVERY_FRAMES: u64 = 25;
/// A bridge that leaves so much unread has stopped.
const MAX_UNSENT_BYTES: usize = 8 * 1024 * 1024;

/// How the model's end behaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) seed: u64,
    pub(super) interrupt_every: u32,
}

/// Accepts sessions until it is told to stop.
pub(super) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    manner: Manner,
    sessions: TaskTracker,
    stop: CancellationToken,
) {
    let mut number = 0;
    loop {
        let (socket, _) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    lock(&shared.models).problem(format!("the model's end cannot accept: {error}"));
                    continue;
                }
            },
            () = stop.cancelled() => return,
        };
        number += 1;
        let (shared, stop, random) =
            (Arc::clone(&shared), stop.clone(), Random::for_part(manner.seed, number));
        sessions.spawn(async move {
            let talk = Talk::new(random, manner.interrupt_every);
            if let Err(problem) = run(socket, Arc::clone(&shared), talk, number, stop).await {
                lock(&shared.models).problem(problem);
            }
        });
    }
}

/// Where bridges find the model's end.
pub(super) fn url(addr: SocketAddr) -> String {
    format!("ws://{addr}/v1/realtime")
}

async fn run(
    socket: TcpStream,
    shared: Arc<Shared>,
    talk: Talk,
    number: u64,
    stop: CancellationToken,
) -> Result<(), String> {
    let _ = socket.set_nodelay(true);
    let mut floor = false;
    #[expect(clippy::result_large_err, reason = "the library wants it so")]
    let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        floor = request.uri().path() == FLOOR_PATH;
        Ok(response)
    };
    let stream = timeout(HANDSHAKE_WITHIN, tokio_tungstenite::accept_hdr_async(socket, look))
        .await
        .map_err(|_| "a session did not complete its handshake")?
        .map_err(|error| format!("a session's handshake failed: {error}"))?;
    let mut session =
        Session::new(Arc::clone(&shared), Link::new(stream.into_inner(), Role::Server), talk, number, floor);
    tokio::select! {
        ended = poll_fn(|cx| session.poll(cx)) => ended,
        () = stop.cancelled() => Ok(()),
    }
}

/// One session.
struct Session<S> {
    shared: Arc<Shared>,
    link: Link<S>,
    timer: Pin<Box<Sleep>>,
    talk: Talk,
    /// Once its audio has told which it is.
    call: Option<Arc<Call>>,
    arrivals: Arrivals,
    writer: Writer,
    floor: bool,
    id: String,
    stream_sid: String,
    heard_bytes: u64,
    bytes_per_ms: usize,
    wanted: bool,
    unasked_at: Option<Micros>,
    response: String,
    item: String,
    user_item: String,
    /// The last item of the conversation.
    last_item: Option<String>,
    /// The one before the answer that is being given.
    before_item: Option<String>,
    turns: u32,
    frames: u64,
    frames_of_response: u64,
    spoken: String,
    audio: Vec<u8>,
    text: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    fn new(shared: Arc<Shared>, mut link: Link<S>, talk: Talk, number: u64, floor: bool) -> Self {
        let id = format!("sess_{number}");
        if !floor {
            link.send(&dialect::session_created(&id).to_string());
        }
        // Until a configuration says otherwise, as the real service.
        let format = if floor { AudioFormat::Pcmu } else { AudioFormat::Pcm24k };
        Self {
            timer: Box::pin(sleep_until(shared.clock.at(0))),
            talk,
            call: None,
            arrivals: Arrivals::new(format),
            writer: Writer::new(format),
            floor,
            id,
            stream_sid: String::new(),
            heard_bytes: 0,
            bytes_per_ms: format.bytes_per_ms(),
            wanted: floor,
            unasked_at: None,
            response: String::new(),
            item: String::new(),
            user_item: String::new(),
            last_item: None,
            before_item: None,
            turns: 0,
            frames: 0,
            frames_of_response: 0,
            spoken: String::new(),
            audio: Vec::new(),
            text: String::new(),
            shared,
            link,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        loop {
            while let Poll::Ready(read) = self.link.poll_read(cx) {
                match read {
                    // The call is over; whose doing it was is the caller's to know.
                    Ok(0) | Err(_) => return Poll::Ready(Ok(())),
                    Ok(_) => {}
                }
                match self.listen() {
                    Ok(true) => {}
                    Ok(false) => return Poll::Ready(Ok(())),
                    Err(problem) => return Poll::Ready(Err(problem)),
                }
            }
            self.speak();
            if self.link.unsent_bytes() > MAX_UNSENT_BYTES {
                return Poll::Ready(Err("the bridge does not read what the model says".into()));
            }
            if let Poll::Ready(Err(_)) = self.link.poll_flush(cx) {
                return Poll::Ready(Ok(()));
            }
            let next = self.talk.next_at().min(self.unasked_at.unwrap_or(Micros::MAX));
            if next == Micros::MAX {
                return Poll::Pending;
            }
            let next = self.shared.clock.at(next);
            if self.timer.deadline() != next {
                self.timer.as_mut().reset(next);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Takes everything that was read. False: the session is over.
    fn listen(&mut self) -> Result<bool, String> {
        let now = self.shared.clock.now();
        while let Some(message) = self.link.next().map_err(|error| error.to_string())? {
            let Message::Text(text) = message else { return Ok(false) };
            match dialect::read(text).map_err(|error| format!("the bridge sent what is no JSON: {error}"))? {
                Heard::Audio(base64) => {
                    self.audio.clear();
                    STANDARD
                        .decode_vec(base64.as_bytes(), &mut self.audio)
                        .map_err(|_| "the bridge sent audio that is not base64".to_owned())?;
                    self.heard_bytes += self.audio.len() as u64;
                    let lane = self.call.as_ref().map(|call| (&**call, &call.up));
                    let mut tally = lock(&self.shared.models);
                    let told = self.arrivals.push(now, &self.audio, lane, &self.shared, &mut tally.up);
                    drop(tally);
                    if let (None, Some(number)) = (&self.call, told)
                        && let Some(call) = self.shared.call(number)
                    {
                        call.is_known(now);
                        self.call = Some(call);
                        self.stream_sid = format!("MZ{number:032x}");
                        self.unasked_at = Some(now + SPEAK_UNASKED_US);
                        if self.wanted {
                            self.talk.begin(now);
                        }
                    }
                }
                Heard::Session(session) => {
                    let input = dialect::format_of(&session, "input");
                    let output = dialect::format_of(&session, "output");
                    if self.heard_bytes == 0 {
                        (self.arrivals, self.bytes_per_ms) = (Arrivals::new(input), input.bytes_per_ms());
                    }
                    self.writer = Writer::new(output);
                    let updated = dialect::session_updated(&self.id, session).to_string();
                    self.link.send(&updated);
                }
                Heard::Respond => {
                    self.wanted = true;
                    if self.call.is_some() {
                        self.talk.begin(now);
                    }
                }
                Heard::Truncate { item, audio_end_ms } => self.on_truncate(&item, audio_end_ms),
                Heard::Item(item) => {
                    let added = dialect::item_added(&item, self.last_item.as_deref()).to_string();
                    self.link.send(&added);
                    self.last_item = item["id"].as_str().map(str::to_owned);
                }
                Heard::Other => {}
            }
        }
        Ok(true)
    }

    fn on_truncate(&mut self, item: &str, audio_end_ms: u64) {
        let truncated = dialect::truncated(item, audio_end_ms).to_string();
        self.link.send(&truncated);
        let Some(call) = &self.call else { return };
        let difference = call.cut_seen(|cut| cut.truncated_ms = Some(audio_end_ms));
        let now = self.shared.clock.now();
        if let Some(difference) = difference.filter(|_| self.shared.counts(now) && call.counts(now)) {
            lock(&self.shared.models).truncation.record(difference);
        }
        call.note(|said| {
            if let Some(turn) = said.iter_mut().rev().find(|turn| turn.item == item) {
                turn.truncated_ms = Some(audio_end_ms);
            }
        });
    }

    fn speak(&mut self) {
        let Some(call) = self.call.clone() else { return };
        let now = self.shared.clock.now();
        if self.unasked_at.take_if(|at| *at <= now).is_some() {
            self.talk.begin(now);
        }
        loop {
            if self.shared.is_hushed() {
                self.talk.hold_back(now);
            }
            let quiet_at = call.quiet_at.load(Ordering::Acquire);
            let Some((due, act)) = self.talk.poll(now, quiet_at, || self.shared.is_owed_by_model(&call))
            else {
                return;
            };
            match act {
                Act::Begin(number) => self.begin(&call, number),
                Act::Audio { frames: 1, timed: true } => self.frame(&call, due, now),
                Act::Audio { frames, .. } => self.burst(&call, frames, now),
                Act::Done => self.done(&call),
                Act::SpeechStarted { over } => self.speech_started(&call, over, now),
                Act::SpeechStopped => self.speech_stopped(),
                Act::UserText => self.user_text(&call),
            }
        }
    }

    fn begin(&mut self, call: &Call, number: u32) {
        self.unasked_at = None;
        self.frames_of_response = 0;
        self.spoken.clear();
        let call_number = call.number;
        self.response = format!("resp_{call_number}_{number}");
        self.item = format!("item_{call_number}_{number}");
        self.before_item = self.last_item.replace(self.item.clone());
        let events = dialect::begin(&self.response, &self.item, self.before_item.as_deref());
        self.say(&events);
        call.note(|said| {
            said.push(Said {
                item: self.item.clone(),
                by_agent: true,
                text: String::new(),
                truncated_ms: None,
            });
        });
    }

    fn frame(&mut self, call: &Call, due: Micros, now: Micros) {
        self.say_words();
        let frame = self.frames;
        self.frames += 1;
        self.audio.clear();
        self.writer.write(Mark::Frame((frame % u64::from(SEQUENCES)) as u16), &mut self.audio);
        call.down.sent(frame, now);
        self.say_audio();
        let mut tally = lock(&self.shared.models);
        if self.shared.counts(now) && call.counts(now) {
            tally.down.sent += 1;
            tally.lateness.record_us(now - due);
        }
    }

    fn burst(&mut self, call: &Call, frames: u64, at: Micros) {
        let mut left = frames;
        while left > 0 {
            let now = left.min(BURST_MESSAGE_FRAMES);
            left -= now;
            self.audio.clear();
            for _ in 0..now {
                self.say_words();
                let frame = self.frames;
                self.frames += 1;
                self.writer.write(Mark::Frame((frame % u64::from(SEQUENCES)) as u16), &mut self.audio);
                call.down.sent_in_burst(frame, at);
            }
            self.say_audio();
        }
    }

    fn say_words(&mut self) {
        if self.frames_of_response.is_multiple_of(TEXT_EVERY_FRAMES) {
            let word = format!("word{} ", self.frames_of_response / TEXT_EVERY_FRAMES);
            self.spoken.push_str(&word);
            let delta = dialect::text_delta(&self.response, &self.item, &word);
            self.say(&[delta]);
        }
        self.frames_of_response += 1;
    }

    fn say_audio(&mut self) {
        let line = if self.floor {
            Line::Stream { stream_sid: &self.stream_sid }
        } else {
            Line::Realtime { response: &self.response, item: &self.item }
        };
        self.text.clear();
        dialect::write_audio(&line, &self.audio, &mut self.text);
        self.link.send(&self.text);
    }

    fn done(&mut self, call: &Call) {
        let text = self.spoken.trim_end().to_owned();
        let events = dialect::done(&self.response, &self.item, self.before_item.as_deref(), &text);
        self.say(&events);
        call.note(|said| {
            if let Some(turn) = said.iter_mut().rev().find(|turn| turn.item == self.item) {
                turn.text = text;
            }
        });
    }

    fn speech_started(&mut self, call: &Call, over: bool, now: Micros) {
        self.turns += 1;
        self.user_item = format!("user_{}_{}", call.number, self.turns);
        if over {
            let missed = call.interrupted(now);
            if missed.is_some_and(|at| self.shared.counts(at) && call.counts(at)) {
                lock(&self.shared.models).not_cleared += 1;
            }
        }
        if self.floor {
            if over {
                // The floor knows no turns: this is the same message, moved.
                let clear = dialect::clear(&self.stream_sid).to_string();
                self.link.send(&clear);
            }
            return;
        }
        // With a word of it, so that a bridge need not wait to know that this is no sign of listening.
        let started = dialect::speech_started(&self.user_item, self.heard_ms());
        let words = dialect::user_words(&self.user_item, "question ");
        self.say(&[started, words]);
    }

    fn speech_stopped(&mut self) {
        let events = dialect::speech_stopped(&self.user_item, self.last_item.as_deref(), self.heard_ms());
        self.say(&events);
        self.last_item = Some(self.user_item.clone());
    }

    fn user_text(&mut self, call: &Call) {
        let text = format!("question {} of call {}", self.turns, call.number);
        let event = dialect::user_text(&self.user_item, &text);
        self.say(&[event]);
        call.note(|said| {
            said.push(Said { item: self.user_item.clone(), by_agent: false, text, truncated_ms: None });
        });
    }

    fn heard_ms(&self) -> u64 {
        self.heard_bytes / self.bytes_per_ms as u64
    }

    /// Says events; the floor has no use for any but audio.
    fn say(&mut self, events: &[Value]) {
        if !self.floor {
            for event in events {
                self.link.send(&event.to_string());
            }
        }
    }
}
