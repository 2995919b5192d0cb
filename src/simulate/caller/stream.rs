//! One media stream: the socket, the network delay and the 20 ms beat around playout, ear and actor.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream};

use super::actor::{Action, Actor, FRAME, FRAME_BYTES};
use super::ear::Ear;
use super::leg::Orders;
use super::playout::{Heard, Playout, ms};
use super::protocol::{Command, Writer, read};
use super::report::{StreamEnd, StreamReport};
use super::twiml::Stream;
use super::webhook::Webhooks;
use super::{CallerOptions, Recording};
use crate::simulate::network::DelayLine;
use crate::simulate::random::Random;

/// Messages that wait while the bridge does not read: 10 s of audio. Then Twilio throws audio away.
const LARGEST_BACKLOG: usize = 500;
/// Twilio gives up on a stream that does not open.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A bridge that does not finish closing is left.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Complaints kept per stream; a broken bridge would fill the memory otherwise.
const KEPT_COMPLAINTS: usize = 100;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How a stream ended, for what the call does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The caller hung up.
    HungUp,
    /// The caller had waited long enough.
    Impatient,
    /// The stream is over, the call is not.
    StreamOver,
    /// The carrier has other orders, which are kept with them.
    Ordered,
}

/// What a stream shares with the rest of its call.
pub(super) struct Line<'a> {
    pub(super) options: &'a CallerOptions,
    pub(super) webhooks: &'a Webhooks,
    pub(super) call_sid: &'a str,
    pub(super) actor: &'a mut Actor,
    pub(super) ear: &'a mut Ear,
    pub(super) recording: &'a mut Recording,
    pub(super) orders: &'a mut Orders,
    /// When the first stream of the call began.
    pub(super) origin: &'a mut Option<Instant>,
    pub(super) violations: &'a mut Vec<String>,
}

/// On its way to the bridge.
enum Up {
    Text(String),
    Frame(String),
}

/// On its way from the bridge.
enum Down {
    Text(String),
    Binary,
    Closed(StreamEnd),
}

/// Opens a stream and lives through it.
pub(super) async fn run_stream(line: Line<'_>, stream: &Stream) -> (StreamReport, Outcome) {
    let stream_sid = format!("MZ{}", uuid::Uuid::new_v4().simple());
    let mut report = StreamReport {
        stream_sid: stream_sid.clone(),
        url: stream.url.clone(),
        parameters: stream.parameters.clone(),
        ..StreamReport::default()
    };
    let before = Instant::now();
    let socket = match connect(line.webhooks, &stream.url).await {
        Ok(socket) => socket,
        Err(problem) => {
            complain(line.violations, problem.clone());
            report.ended_by = StreamEnd::Refused(problem);
            return (report, Outcome::StreamOver);
        }
    };
    report.connect_ms = ms(before.elapsed());
    let origin = *line.origin.get_or_insert_with(Instant::now);
    let started = origin.elapsed();
    report.started_ms = ms(started);
    let (sink, source) = socket.split();
    let (outbox, messages) = mpsc::channel(LARGEST_BACKLOG);
    let mut writing = JoinSet::new();
    writing.spawn(write_all(sink, messages));
    let seed = line.options.seed;
    let mut open = Live {
        writer: Writer::new(stream_sid.clone(), line.options.spelling),
        stream_sid,
        playout: Playout::default(),
        up: DelayLine::new(line.options.network, Random::for_part(seed, 1)),
        down: DelayLine::new(line.options.network, Random::for_part(seed, 2)),
        outbox,
        source,
        reading: true,
        origin,
        started,
        ticks: 0,
        stalled_until: None,
        deaf_until: None,
        held: VecDeque::new(),
        voice_before: line.ear.voice_ms(),
        report,
        line,
    };
    open.begin(stream);
    let (ended, outcome) = open.run().await;
    open.finish(ended, outcome, writing).await
}

/// A stream that is open.
struct Live<'a> {
    line: Line<'a>,
    writer: Writer,
    stream_sid: String,
    playout: Playout,
    up: DelayLine<Up>,
    down: DelayLine<Down>,
    outbox: mpsc::Sender<Message>,
    source: SplitStream<Socket>,
    reading: bool,
    origin: Instant,
    started: Duration,
    ticks: u32,
    stalled_until: Option<(Duration, bool)>,
    deaf_until: Option<Duration>,
    /// Frames held back by a stall.
    held: VecDeque<String>,
    voice_before: u64,
    report: StreamReport,
}

impl Live<'_> {
    fn begin(&mut self, stream: &Stream) {
        let options = self.line.options;
        self.up.push(self.started, Up::Text(Writer::connected()));
        let start = self.writer.start(&options.account_sid, self.line.call_sid, stream);
        self.up.push(self.started, Up::Text(start));
        if options.spelling.extras {
            let undocumented = self.writer.undocumented();
            self.up.push(self.started, Up::Text(undocumented));
        }
    }

    /// Until somebody ends the stream.
    async fn run(&mut self) -> (StreamEnd, Outcome) {
        loop {
            let now = self.origin.elapsed();
            if let Some(end) = self.catch_up(now) {
                return end;
            }
            self.deliver(now);
            let deaf = self.deaf_until.is_some();
            let wake = self.next_wake();
            tokio::select! {
                message = self.source.next(), if self.reading && !deaf => {
                    let now = self.origin.elapsed();
                    let down = match message {
                        Some(Ok(Message::Text(text))) => Down::Text(text.as_str().to_owned()),
                        Some(Ok(Message::Binary(_))) => Down::Binary,
                        Some(Ok(Message::Close(frame))) => {
                            self.reading = false;
                            Down::Closed(StreamEnd::Server(frame.map(|frame| frame.code.into())))
                        }
                        Some(Ok(_)) => continue,
                        Some(Err(_)) | None => {
                            self.reading = false;
                            Down::Closed(StreamEnd::Broken)
                        }
                    };
                    self.down.push(now, down);
                }
                order = self.line.orders.next() => {
                    let heard = self.playout.advance(self.origin.elapsed());
                    self.hear(heard);
                    self.line.orders.keep(order);
                    return (StreamEnd::Ordered, Outcome::Ordered);
                }
                () = sleep_until(self.origin + wake) => {}
            }
        }
    }

    /// Does everything that happened up to `now`, in the order it happened.
    fn catch_up(&mut self, now: Duration) -> Option<(StreamEnd, Outcome)> {
        loop {
            let tick = self.next_tick();
            let arrival = self.down.next_due().unwrap_or(Duration::MAX);
            let mark = self.playout.next_mark_at().unwrap_or(Duration::MAX);
            let next = tick.min(arrival).min(mark);
            if next > now {
                return None;
            }
            if mark == next {
                let heard = self.playout.advance(mark);
                self.hear(heard);
                self.echo(mark);
            } else if arrival == next {
                if let Some((at, down)) = self.down.pop(next)
                    && let Some(end) = self.arrive(at, down)
                {
                    return Some((end, Outcome::StreamOver));
                }
            } else if let Some(end) = self.tick(tick) {
                return Some(end);
            }
        }
    }

    fn arrive(&mut self, at: Duration, down: Down) -> Option<StreamEnd> {
        let text = match down {
            Down::Text(text) => text,
            Down::Binary => {
                complain(self.line.violations, "31950: a binary message".into());
                return None;
            }
            Down::Closed(end) => {
                let heard = self.playout.advance(at);
                self.hear(heard);
                return Some(end);
            }
        };
        let heard = match read(&text, &self.stream_sid) {
            Ok(Command::Media(bytes)) => self.playout.audio(at, &bytes),
            Ok(Command::Mark(name)) => self.playout.mark(at, &name),
            Ok(Command::Clear) => {
                let heard = self.playout.clear(at);
                self.hear(heard);
                self.line.ear.cut();
                None
            }
            Err(warning) => {
                complain(self.line.violations, warning);
                None
            }
        };
        self.hear(heard);
        self.echo(at);
        None
    }

    fn tick(&mut self, at: Duration) -> Option<(StreamEnd, Outcome)> {
        let heard = self.playout.advance(at);
        self.hear(heard);
        self.echo(at);
        let mut frame = [0; FRAME_BYTES];
        let action = self.line.actor.tick(at, self.line.ear, &mut frame);
        let timestamp_ms =
            self.line.options.spelling.first_timestamp_ms + u64::from(self.ticks) * FRAME.as_millis() as u64;
        self.ticks += 1;
        self.send_frame(at, timestamp_ms, &frame);
        match action {
            Some(Action::Press(digit)) => {
                let message = self.writer.dtmf(digit);
                self.up.push(at, Up::Text(message));
            }
            Some(Action::HangUp) => return Some((StreamEnd::Stop, Outcome::HungUp)),
            Some(Action::Drop) => return Some((StreamEnd::Dropped, Outcome::StreamOver)),
            Some(Action::Stall { length, burst }) => self.stalled_until = Some((at + length, burst)),
            Some(Action::StopReading(length)) => self.deaf_until = Some(at + length),
            None => {}
        }
        if self.deaf_until.is_some_and(|until| until <= at) {
            self.deaf_until = None;
        }
        let options = self.line.options;
        let waited = self.line.actor.finished().is_some_and(|since| at >= since + options.patience);
        if waited || at >= options.longest {
            return Some((StreamEnd::Stop, Outcome::Impatient));
        }
        None
    }

    fn send_frame(&mut self, at: Duration, timestamp_ms: u64, frame: &[u8]) {
        match self.stalled_until {
            Some((until, burst)) if at < until => {
                if burst {
                    let message = self.writer.media(timestamp_ms, frame);
                    self.held.push_back(message);
                }
                return;
            }
            Some(_) => {
                self.stalled_until = None;
                for message in std::mem::take(&mut self.held) {
                    self.up.push(at, Up::Frame(message));
                }
            }
            None => {}
        }
        let message = self.writer.media(timestamp_ms, frame);
        self.up.push(at, Up::Frame(message));
    }

    fn hear(&mut self, heard: Option<Heard>) {
        if let Some(heard) = heard {
            self.line.ear.hear(&heard);
            self.line.recording.add(&heard);
        }
    }

    fn echo(&mut self, at: Duration) {
        while let Some(name) = self.playout.poll_echo() {
            let message = self.writer.mark(&name);
            self.up.push(at, Up::Text(message));
        }
    }

    /// Hands over what has crossed the network.
    fn deliver(&mut self, now: Duration) {
        while let Some((_, up)) = self.up.pop(now) {
            let (text, is_frame) = match up {
                Up::Text(text) => (text, false),
                Up::Frame(text) => (text, true),
            };
            match (self.outbox.try_send(Message::text(text)), is_frame) {
                (Ok(()), true) => self.report.frames_sent += 1,
                (Err(TrySendError::Full(_)), true) => self.report.frames_discarded += 1,
                (Err(TrySendError::Full(_)), false) => {
                    complain(self.line.violations, "31930: the bridge does not read".into());
                }
                // The connection is gone; the reader says so.
                (Ok(()), false) => self.report.frames_before_last_event = self.report.frames_sent,
                (Err(TrySendError::Closed(_)), _) => {}
            }
        }
    }

    fn next_tick(&self) -> Duration {
        self.started + FRAME * self.ticks
    }

    fn next_wake(&self) -> Duration {
        let dues = [self.up.next_due(), self.down.next_due(), self.playout.next_mark_at()];
        dues.into_iter().flatten().fold(self.next_tick(), Duration::min)
    }

    async fn finish(
        mut self,
        ended: StreamEnd,
        outcome: Outcome,
        mut writing: JoinSet<()>,
    ) -> (StreamReport, Outcome) {
        let ended_at = self.origin.elapsed();
        // Twilio says so before it closes.
        let says_stop = matches!(ended, StreamEnd::Stop | StreamEnd::Ordered);
        if says_stop {
            let options = self.line.options;
            let stop = self.writer.stop(&options.account_sid, self.line.call_sid);
            self.up.push(ended_at, Up::Text(stop));
            while let Some(due) = self.up.next_due() {
                sleep_until(self.origin + due).await;
                self.deliver(self.origin.elapsed());
            }
        }
        if ended == StreamEnd::Dropped {
            writing.abort_all();
        }
        let goodbye = async {
            if says_stop {
                let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                let _ = self.outbox.send(Message::Close(Some(frame))).await;
            }
            drop(self.outbox);
            while writing.join_next().await.is_some() {}
            if ended != StreamEnd::Dropped {
                while let Some(Ok(_)) = self.source.next().await {}
            }
        };
        let _ = timeout(CLOSE_WITHIN, goodbye).await;
        let played = self.playout.into_report();
        let report = StreamReport {
            ended_ms: ms(ended_at),
            ended_by: ended,
            media_bytes: played.media_bytes,
            media_messages: played.media_messages,
            overflow_bytes: played.overflow_bytes,
            first_audio_ms: played.first_audio.map(ms),
            stretches: played.stretches,
            clears: played.clears,
            marks: played.marks,
            heard_bytes: played.heard_bytes,
            heard_voice_ms: self.line.ear.voice_ms() - self.voice_before,
            cleared_bytes: played.cleared_bytes,
            unheard_bytes: played.unheard_bytes,
            ..self.report
        };
        if report.overflow_bytes > 0 {
            complain(self.line.violations, "31931: more than ten minutes of audio were waiting".into());
        }
        (report, outcome)
    }
}

/// Writes what it is given until there is no more, then flushes.
async fn write_all(mut sink: SplitSink<Socket, Message>, mut messages: mpsc::Receiver<Message>) {
    while let Some(message) = messages.recv().await {
        if sink.send(message).await.is_err() {
            return;
        }
    }
}

async fn connect(webhooks: &Webhooks, url: &str) -> Result<Socket, String> {
    let routed = webhooks.route(url).map_err(|_| format!("31923: `{url}` is malformed"))?;
    let local = ["localhost", "127.0.0.1", "[::1]"].contains(&routed.host_str().unwrap_or_default());
    if routed.scheme() != "wss" && !(routed.scheme() == "ws" && local) {
        return Err(format!("31922: `{url}` is not wss"));
    }
    if url.contains('?') {
        return Err(format!("31920: `{url}` has a query, which streams do not allow"));
    }
    let mut request =
        routed.as_str().into_client_request().map_err(|_| format!("31923: `{url}` is malformed"))?;
    let signature = webhooks.sign(url, &[]).and_then(|signature| HeaderValue::from_str(&signature).ok());
    if let Some(signature) = signature {
        request.headers_mut().insert("X-Twilio-Signature", signature);
    }
    let config = WebSocketConfig::default().read_buffer_size(16 * 1024);
    let connector = (routed.scheme() == "wss").then(tls);
    let connecting = tokio_tungstenite::connect_async_tls_with_config(request, Some(config), true, connector);
    match timeout(CONNECT_WITHIN, connecting).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(Error::Http(response))) => {
            Err(format!("31920: the handshake was answered with {}", response.status()))
        }
        Ok(Err(Error::Tls(error))) => Err(format!("31910: {error}")),
        Ok(Err(Error::Io(error))) => Err(format!("31902: {error}")),
        Ok(Err(error)) => Err(format!("31924: {error}")),
        Err(_) => Err("31901: the stream did not open in time".into()),
    }
}

/// The certificates of this machine, read once.
fn tls() -> Connector {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default versions of TLS");
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    });
    Connector::Rustls(Arc::clone(config))
}

pub(super) fn complain(violations: &mut Vec<String>, problem: String) {
    if violations.len() < KEPT_COMPLAINTS {
        violations.push(problem);
    }
}
