//! The telephone network's end of a call: sends a frame every 20 ms, listens, plays, sends marks back.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until, timeout};
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_util::sync::CancellationToken;

use super::arrivals::Arrivals;
use super::calls::{CALL_EVERY, Call, Micros, Shared, lock};
use super::link::{Link, Message};
use super::mark::{Mark, SEQUENCES, Writer};
use super::player::Player;
use crate::audio::AudioFormat;
use crate::simulate::caller::offer::{Introduction, Offer, Switchboard};
use crate::wire::websocket::Role;

const FRAME_US: Micros = 20_000;
/// From asking for TwiML to the end of the handshake.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// A bridge that leaves so much unread has stopped.
const MAX_UNSENT_BYTES: usize = 1024 * 1024;
/// What is still on its way when a caller hangs up is waited for so long.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);

/// How calls are placed.
#[derive(Debug, Clone)]
pub(super) struct Dialing {
    pub(super) switchboard: Switchboard,
    /// TwiML (`http`, `https`) or a stream (`ws`, `wss`).
    pub(super) url: String,
}

/// Places a call and stays on the line until `hang_up`. What goes wrong is counted.
pub(super) async fn run(shared: Arc<Shared>, call: Arc<Call>, dialing: Dialing, hang_up: CancellationToken) {
    let who = Introduction {
        call_sid: call.sid.clone(),
        from: format!("+1415{:07}", 5_550_000 + u32::from(call.number)),
        to: "+14155550100".into(),
    };
    let result = async {
        let (link, offer) = timeout(CONNECT_WITHIN, connect(&dialing, &who))
            .await
            .unwrap_or_else(|_| Err("no media stream within 15 s".to_owned()))?;
        let mut caller = Caller::new(Arc::clone(&shared), Arc::clone(&call), link);
        caller.start(&offer);
        tokio::select! {
            () = hang_up.cancelled() => {}
            error = poll_fn(|cx| caller.poll(cx)) => return Err(format!("the media stream broke: {error}")),
        }
        caller.stop().await;
        let missed = call.left_uncleared(shared.clock.now());
        if missed.is_some_and(|at| shared.counts(at) && call.counts(at)) {
            lock(&shared.callers).not_cleared += 1;
        }
        dialing.switchboard.tell_end(&offer, &who).await
    };
    if let Err(problem) = result.await {
        let mut tally = lock(&shared.callers);
        tally.calls_failed += 1;
        tally.problem(problem);
    }
    shared.remove_call(call.number);
}

/// Where in the 20 ms a call's frames fall. Real calls begin at any time; ours are dialed at a steady rate, and with
/// every 20 ms, say, all would speak at the same moment. Steps of the golden section spread any number of calls evenly.
fn phase_us(number: u16) -> Micros {
    u64::from(number) * 12_361 % FRAME_US
}

type Io = MaybeTlsStream<TcpStream>;

async fn connect(dialing: &Dialing, who: &Introduction) -> Result<(Link<Io>, Offer), String> {
    let offer = if dialing.url.starts_with("http") {
        dialing.switchboard.ask(&dialing.url, who).await?
    } else {
        dialing.switchboard.direct(&dialing.url)
    };
    let url = offer.stream_url.as_str();
    let mut request = url.into_client_request().map_err(|error| format!("`{url}`: {error}"))?;
    if let Some(signature) = offer.signature.as_ref().and_then(|text| text.parse().ok()) {
        request.headers_mut().insert("X-Twilio-Signature", signature);
    }
    let (stream, _) = tokio_tungstenite::connect_async_with_config(request, None, true)
        .await
        .map_err(|error| format!("the media stream is not let in: {error}"))?;
    Ok((Link::new(stream.into_inner(), Role::Client), offer))
}

/// One stream, once it is connected.
struct Caller<S> {
    shared: Arc<Shared>,
    call: Arc<Call>,
    link: Link<S>,
    stream_sid: String,
    timer: Pin<Box<Sleep>>,
    writer: Writer,
    arrivals: Arrivals,
    player: Player,
    sequence: u64,
    frames: u64,
    next_frame_at: Micros,
    started_at: Option<Micros>,
    audio: Vec<u8>,
    text: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Caller<S> {
    fn new(shared: Arc<Shared>, call: Arc<Call>, link: Link<S>) -> Self {
        Self {
            stream_sid: format!("MZ{:032x}", call.number),
            timer: Box::pin(sleep_until(shared.clock.at(0))),
            writer: Writer::new(AudioFormat::Pcmu),
            arrivals: Arrivals::new(AudioFormat::Pcmu),
            player: Player::default(),
            sequence: 1,
            frames: 0,
            next_frame_at: 0,
            started_at: None,
            audio: Vec::new(),
            text: String::new(),
            shared,
            call,
            link,
        }
    }

    fn start(&mut self, offer: &Offer) {
        self.link.send(r#"{"event":"connected","protocol":"Call","version":"1.0.0"}"#);
        let start = serde_json::json!({
            "event": "start", "sequenceNumber": "1", "streamSid": self.stream_sid,
            "start": {
                "streamSid": self.stream_sid,
                "accountSid": "AC00000000000000000000000000000001",
                "callSid": self.call.sid,
                "tracks": ["inbound"],
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                "customParameters": offer.parameters,
            },
        });
        self.link.send(&start.to_string());
        let now = self.shared.clock.now();
        self.started_at = Some(now);
        self.next_frame_at = now + FRAME_US + phase_us(self.call.number);
    }

    /// Ready only when the stream is over although nobody hung up.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        loop {
            match self.poll_once(cx) {
                Ok(Poll::Ready(())) => {}
                Ok(Poll::Pending) => return Poll::Pending,
                Err(error) => return Poll::Ready(error),
            }
        }
    }

    /// Ready when something was done, so that there may be more.
    fn poll_once(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, String> {
        while let Poll::Ready(read) = self.link.poll_read(cx) {
            if read.map_err(|error| error.to_string())? == 0 {
                return Err("the connection ended".into());
            }
            self.listen()?;
        }
        self.speak();
        if self.link.unsent_bytes() > MAX_UNSENT_BYTES {
            return Err("the bridge does not read".into());
        }
        if let Poll::Ready(Err(error)) = self.link.poll_flush(cx) {
            return Err(error.to_string());
        }
        let next = self.shared.clock.at(self.next_frame_at.min(self.player.next_at()));
        if self.timer.deadline() != next {
            self.timer.as_mut().reset(next);
        }
        Ok(self.timer.as_mut().poll(cx))
    }

    fn speak(&mut self) {
        let now = self.shared.clock.now();
        while self.next_frame_at <= now {
            self.send_frame(self.next_frame_at, now);
            self.next_frame_at += FRAME_US;
        }
        while let Some(name) = self.player.poll(now) {
            self.sequence += 1;
            let (sequence, stream) = (self.sequence, &self.stream_sid);
            let name = serde_json::Value::from(name);
            self.link.send(&format!(
                r#"{{"event":"mark","sequenceNumber":"{sequence}","streamSid":"{stream}","mark":{{"name":{name}}}}}"#
            ));
        }
    }

    fn send_frame(&mut self, due: Micros, now: Micros) {
        let frame = self.frames;
        self.frames += 1;
        self.sequence += 1;
        let timed = !frame.is_multiple_of(CALL_EVERY);
        let mark = if timed {
            Mark::Frame((frame % u64::from(SEQUENCES)) as u16)
        } else {
            Mark::Call(self.call.number)
        };
        self.audio.clear();
        self.writer.write(mark, &mut self.audio);
        self.text.clear();
        let (sequence, stream, timestamp) = (self.sequence, &self.stream_sid, frame * 20);
        let chunk = frame + 1;
        let _ = write!(
            self.text,
            r#"{{"event":"media","sequenceNumber":"{sequence}","media":{{"track":"inbound","chunk":"{chunk}","timestamp":"{timestamp}","payload":""#
        );
        STANDARD.encode_string(&self.audio, &mut self.text);
        let _ = write!(self.text, r#""}},"streamSid":"{stream}"}}"#);
        // From the moment it leaves our hands, whether the bridge takes it or not: a bridge that stalls cannot hide
        // the waiting. How late we are ourselves is counted apart.
        if timed {
            self.call.up.sent(frame, now);
        }
        self.link.send(&self.text);
        let mut tally = lock(&self.shared.callers);
        if self.shared.counts(now) && self.call.counts(now) {
            tally.up.sent += u64::from(timed);
            tally.lateness.record_us(now - due);
        }
    }

    fn listen(&mut self) -> Result<(), String> {
        let now = self.shared.clock.now();
        while let Some(message) = self.link.next().map_err(|error| error.to_string())? {
            let Message::Text(text) = message else { return Err("the bridge closed the stream".into()) };
            let message: FromBridge<'_> =
                serde_json::from_str(text).map_err(|error| format!("a message that is no JSON: {error}"))?;
            match (message.event.as_ref(), message.media, message.mark) {
                ("media", Some(media), _) => {
                    self.audio.clear();
                    STANDARD
                        .decode_vec(media.payload.as_bytes(), &mut self.audio)
                        .map_err(|_| "media that is not base64".to_owned())?;
                    self.player.on_media(now, self.audio.len());
                    self.call.quiet_at.store(self.player.quiet_at(), Ordering::Release);
                    let mut tally = lock(&self.shared.callers);
                    if let Some(started) = self.started_at.take() {
                        tally.first_audio.record_us(now - started);
                    }
                    let (call, shared) = (&self.call, &self.shared);
                    self.arrivals.push(now, &self.audio, Some((call, &call.down)), shared, &mut tally.down);
                }
                ("mark", _, Some(mark)) => self.player.on_mark(now, mark.name.into_owned()),
                ("clear", _, _) => {
                    let heard = self.player.on_clear(now);
                    self.call.quiet_at.store(now, Ordering::Release);
                    let difference = self.call.cut_seen(|cut| cut.heard_ms = Some(heard));
                    let interrupted_at = self.call.cleared();
                    let counts = |at: &Micros| self.shared.counts(*at) && self.call.counts(*at);
                    let mut tally = lock(&self.shared.callers);
                    if let Some(interrupted_at) = interrupted_at.filter(counts) {
                        tally.barge_in.record_us(now.saturating_sub(interrupted_at));
                    }
                    if let Some(difference) = difference.filter(|_| counts(&now)) {
                        tally.truncation.record(difference);
                    }
                }
                (event, ..) => return Err(format!("`{event}` is nothing that a bridge may send")),
            }
        }
        Ok(())
    }

    async fn stop(&mut self) {
        self.sequence += 1;
        let (sequence, stream, call) = (self.sequence, &self.stream_sid, &self.call.sid);
        self.link.send(&format!(
            r#"{{"event":"stop","sequenceNumber":"{sequence}","streamSid":"{stream}","stop":{{"accountSid":"AC00000000000000000000000000000001","callSid":"{call}"}}}}"#
        ));
        self.link.close();
        let link = &mut self.link;
        // Read to the end, else closing would reset the connection and lose what we have just sent.
        let goodbye = poll_fn(|cx| {
            if let Poll::Ready(Err(_)) = link.poll_flush(cx) {
                return Poll::Ready(());
            }
            loop {
                match link.poll_read(cx) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        let _ = timeout(GOODBYE_WITHIN, goodbye).await;
    }
}

/// What a bridge may send, however it spells it.
#[derive(Deserialize)]
struct FromBridge<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    media: Option<Media<'a>>,
    #[serde(borrow)]
    mark: Option<MarkName<'a>>,
}

#[derive(Deserialize)]
struct Media<'a> {
    #[serde(borrow)]
    payload: Cow<'a, str>,
}

#[derive(Deserialize)]
struct MarkName<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}
