//! The model's side of a call.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Error, Message, WebSocket};
use voicebridge::audio::AudioFormat;

use super::{STUCK, encoded, noise, prepare, say, set_patience};

const RESPONSE_ID: &str = "resp_C1a2b3c4d5e6f7g8h9i0j";
const ITEM_ID: &str = "item_C1a2b3c4d5e6f7g8h9i0j";

/// A session that is making one response.
pub(super) struct Model {
    socket: WebSocket<Box<dyn Stream>>,
    /// The same connection, for its patience.
    tcp: TcpStream,
    deltas: u64,
    audio: String,
}

/// A connection, encrypted or not.
trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

impl Model {
    pub(super) fn accept(
        listener: &TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        format: AudioFormat,
    ) -> Self {
        let (stream, _) = listener.accept().expect("the server connects");
        prepare(&stream);
        let tcp = stream.try_clone().expect("a connection has a second handle");
        let stream: Box<dyn Stream> = match tls {
            Some(config) => {
                let connection = rustls::ServerConnection::new(config).expect("the configuration is good");
                Box::new(rustls::StreamOwned::new(connection, stream))
            }
            None => Box::new(stream),
        };
        let socket = tungstenite::accept(stream).map_err(|error| error.to_string());
        let audio = encoded(&noise(20 * format.bytes_per_ms()));
        let socket = socket.expect("the server asks for a WebSocket");
        let mut model = Self { socket, tcp, deltas: 0, audio };
        let created = json!({"type": "session.created", "event_id": "event_1", "session": {"id": "sess_1"}});
        say(&mut model.socket, &[created]);
        let update = model.wait_for("session.update");
        let session = &update["session"];
        let updated = json!({"type": "session.updated", "event_id": "event_2", "session": session});
        say(&mut model.socket, &[updated]);
        model
    }

    fn wait_for(&mut self, kind: &str) -> Value {
        loop {
            let message = self.socket.read().expect("the server goes on");
            let message: Value =
                serde_json::from_str(message.to_text().expect("only texts come")).expect("it is JSON");
            if message["type"] == kind {
                return message;
            }
        }
    }

    pub(super) fn begin_response(&mut self) {
        self.wait_for("response.create");
        let response = json!({"id": RESPONSE_ID, "status": "in_progress"});
        let created = json!({"type": "response.created", "event_id": "event_3", "response": response});
        let item = json!({"id": ITEM_ID, "type": "message", "role": "assistant", "status": "in_progress"});
        let added = json!({
            "type": "conversation.item.added", "event_id": "event_4", "previous_item_id": null, "item": item,
        });
        say(&mut self.socket, &[created, added]);
    }

    pub(super) fn speak(&mut self) {
        self.burst(1);
    }

    /// So many deltas in one piece.
    pub(super) fn burst(&mut self, count: u32) {
        for _ in 0..count {
            let delta = self.next_delta();
            self.socket.write(Message::text(delta)).expect("the server reads");
        }
        self.socket.flush().expect("the server reads");
    }

    fn next_delta(&mut self) -> String {
        self.deltas += 1;
        let (delta, audio) = (self.deltas, &self.audio);
        format!(
            r#"{{"type":"response.output_audio.delta","event_id":"event_{delta:021}","response_id":"{RESPONSE_ID}","item_id":"{ITEM_ID}","output_index":0,"content_index":0,"delta":"{audio}"}}"#
        )
    }

    /// Lets time pass. The server asks now and then whether there is still somebody, and reading answers it.
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no runtime on this thread whose clock could be paused"
    )]
    pub(super) fn wait(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            set_patience(&self.tcp, left);
            match self.socket.read() {
                Ok(_) => self.socket.flush().expect("the server reads"),
                Err(Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => panic!("the server goes on: {error}"),
            }
        }
        set_patience(&self.tcp, STUCK);
    }

    /// Waits for audio.
    pub(super) fn hear(&mut self) {
        loop {
            let message = self.socket.read().expect("the server goes on");
            if message.to_text().expect("only texts come").contains("input_audio_buffer.append") {
                return;
            }
        }
    }
}
