//! Twilio's side of a call.

use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Error, Message, WebSocket};
use voicebridge::wire::payload;

use super::{FRAME_BYTES, QUIET, STUCK, encoded, noise, prepare, say, set_patience};

const STREAM_SID: &str = "MZ0123456789abcdef0123456789abcdef";
const CALL_SID: &str = "CA0123456789abcdef0123456789abcdef";
const ACCOUNT_SID: &str = "AC0123456789abcdef0123456789abcdef";

/// A media stream.
pub(super) struct Caller {
    socket: WebSocket<TcpStream>,
    frames: u64,
    payload: String,
}

impl Caller {
    pub(super) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("the server listens");
        prepare(&stream);
        let url = format!("ws://{addr}/media-stream");
        let (socket, _) = tungstenite::client(url, stream).expect("the stream is let in");
        let mut caller = Self { socket, frames: 0, payload: encoded(&noise(FRAME_BYTES)) };
        let connected = json!({"event": "connected", "protocol": "Call", "version": "1.0.0"});
        let format = json!({"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1});
        let start = json!({
            "streamSid": STREAM_SID, "accountSid": ACCOUNT_SID, "callSid": CALL_SID,
            "tracks": ["inbound"], "mediaFormat": format, "customParameters": {},
        });
        let start = json!({"event": "start", "sequenceNumber": "1", "start": start, "streamSid": STREAM_SID});
        say(&mut caller.socket, &[connected, start]);
        caller
    }

    pub(super) fn speak(&mut self) {
        self.frames += 1;
        let (frame, sequence, timestamp_ms) = (self.frames, self.frames + 1, self.frames * 20);
        let payload = &self.payload;
        // As Twilio spells and orders it.
        let message = format!(
            r#"{{"event":"media","sequenceNumber":"{sequence}","media":{{"track":"inbound","chunk":"{frame}","timestamp":"{timestamp_ms}","payload":"{payload}"}},"streamSid":"{STREAM_SID}"}}"#
        );
        self.socket.send(Message::text(message)).expect("the server reads");
    }

    /// Waits for audio. Returns its bytes.
    pub(super) fn hear(&mut self) -> usize {
        loop {
            if let Some(bytes) = self.hear_one().expect("the server goes on") {
                return bytes;
            }
        }
    }

    /// Takes what has come and sends marks back, until nothing more comes.
    pub(super) fn hear_the_rest(&mut self) {
        set_patience(self.socket.get_ref(), QUIET / 5);
        while self.hear_one().is_ok() {}
        set_patience(self.socket.get_ref(), STUCK);
    }

    /// The bytes of audio, if that was what came. A mark is sent back.
    fn hear_one(&mut self) -> Result<Option<usize>, Error> {
        let message = self.socket.read()?;
        let text = message.to_text().expect("only texts come");
        let message: Value = serde_json::from_str(text).expect("it is JSON");
        if let Some(payload) = message["media"]["payload"].as_str() {
            let mut ulaw = Vec::new();
            payload::decode_into(payload, &mut ulaw).expect("it is base64");
            return Ok(Some(ulaw.len()));
        }
        assert_eq!(message["event"], "mark", "nothing else comes in mid-response");
        say(&mut self.socket, &[message]);
        Ok(None)
    }
}
