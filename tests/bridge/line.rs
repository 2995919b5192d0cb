//! A media stream by hand: it sends what no carrier would.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use voicebridge::simulate::speech::caller_phrase;
use voicebridge::wire::payload;
use voicebridge::wire::signature::sign;

use crate::world::World;

pub(crate) const TWIML: &str = "/media-stream-twiml";
pub(crate) const ENDED: &str = "/twiml/stream-ended";
/// How long a server may take to do what it must do.
const SOON: Duration = Duration::from_secs(30);

/// A stream that is connected.
pub(crate) struct Line {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    timestamp_ms: u64,
}

impl World {
    /// Lets a call arrive; the address of its stream.
    pub(crate) async fn offer(&self, call: &str) -> String {
        let twiml = self.webhook(TWIML, &arrival(call)).await;
        let address = twiml.split_once("<Stream url=\"").and_then(|(_, rest)| rest.split_once('"'));
        address.unwrap_or_else(|| panic!("no stream is offered: {twiml}")).0.to_owned()
    }

    /// The address of streams that our own TwiML did not bring.
    pub(crate) fn open_address(&self) -> String {
        self.running.public_url.join_websocket("/media-stream")
    }

    /// What Twilio sends as proof that this stream is its own.
    pub(crate) fn signature(&self, url: &str) -> String {
        sign::<&str, &str>(self.token.expose_secret(), url, &[])
    }

    /// Connects as Twilio does; the error is the HTTP status of the refusal.
    pub(crate) async fn connect(&self, url: &str) -> Result<Line, u16> {
        connect(url, Some(&self.signature(url))).await
    }

    /// A stream that has started, of a call that arrived just now.
    pub(crate) async fn line(&self, call: &str) -> Line {
        let mut line = self.connect(&self.offer(call).await).await.expect("an offered stream is let in");
        line.start(call, &json!({})).await;
        line
    }
}

/// The parameters of a call that arrives.
pub(crate) fn arrival(call: &str) -> [(&'static str, &str); 5] {
    [
        ("CallSid", call),
        ("From", "+14155550123"),
        ("To", "+14155550100"),
        ("Direction", "inbound"),
        ("CallStatus", "ringing"),
    ]
}

pub(crate) async fn connect(url: &str, signature: Option<&str>) -> Result<Line, u16> {
    let mut request = url.into_client_request().unwrap();
    if let Some(signature) = signature {
        request.headers_mut().insert("x-twilio-signature", signature.parse().unwrap());
    }
    match connect_async(request).await {
        Ok((socket, _)) => Ok(Line { socket, timestamp_ms: 0 }),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("neither let in nor refused: {error}"),
    }
}

impl Line {
    pub(crate) async fn send(&mut self, message: Message) {
        // A server that has closed already is what some tests wait for.
        let _ = self.socket.send(message).await;
    }

    pub(crate) async fn text(&mut self, text: impl Into<String>) {
        self.send(Message::text(text.into())).await;
    }

    pub(crate) async fn start(&mut self, call: &str, parameters: &Value) {
        self.text(json!({"event": "connected", "protocol": "Call", "version": "1.0.0"}).to_string()).await;
        let start = json!({
            "streamSid": "MZ1", "accountSid": "AC1", "callSid": call, "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": parameters,
        });
        self.text(
            json!({"event": "start", "sequenceNumber": "1", "start": start, "streamSid": "MZ1"}).to_string(),
        )
        .await;
    }

    /// A message of audio with this payload, 20 ms after the one before.
    pub(crate) async fn media(&mut self, payload: &str) {
        let message = media(self.timestamp_ms, payload);
        self.timestamp_ms += 20;
        self.text(message).await;
    }

    /// 20 ms of silence.
    pub(crate) async fn silence(&mut self) {
        self.media(&encoded(&[0xFF; 160])).await;
    }

    /// Half a second of silence, a recording, a second of silence, all at once; `spell` has the last word on each message.
    pub(crate) async fn say(&mut self, phrase: &str, spell: impl Fn(String) -> String) {
        let recording = caller_phrase(phrase, "anna").expect("a recording").ulaw().unwrap();
        let audio = [vec![0xFF; 4000], recording, vec![0xFF; 8000]].concat();
        for frame in audio.chunks_exact(160) {
            let message = media(self.timestamp_ms, &encoded(frame));
            self.timestamp_ms += 20;
            self.text(spell(message)).await;
        }
    }

    pub(crate) async fn stop(mut self) {
        self.text(r#"{"event":"stop","streamSid":"MZ1","stop":{"accountSid":"AC1","callSid":"CA1"}}"#).await;
        self.closed().await;
    }

    /// Waits until the server says something of this kind.
    pub(crate) async fn hear(&mut self, event: &str) {
        let heard = timeout(SOON, async {
            while let Some(Ok(message)) = self.socket.next().await {
                let text = message.into_text().unwrap_or_default();
                if serde_json::from_str::<Value>(&text).is_ok_and(|message| message["event"] == event) {
                    return true;
                }
            }
            false
        });
        assert_eq!(heard.await, Ok(true), "no `{event}` came");
    }

    /// Waits until the server has ended the stream.
    pub(crate) async fn closed(&mut self) {
        let end = async { while let Some(Ok(_)) = self.socket.next().await {} };
        timeout(SOON, end).await.expect("the server ends the stream");
    }
}

pub(crate) fn encoded(ulaw: &[u8]) -> String {
    let mut text = String::new();
    payload::encode_into(ulaw, &mut text);
    text
}

fn media(timestamp_ms: u64, payload: &str) -> String {
    json!({
        "event": "media", "streamSid": "MZ1",
        "media": {"track": "inbound", "timestamp": timestamp_ms.to_string(), "payload": payload},
    })
    .to_string()
}
