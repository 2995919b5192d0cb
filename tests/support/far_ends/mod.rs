//! Both far ends of one call on plain blocking sockets, in lock-step: what is sent has come out before the next is sent.
//!
//! Where the cost of one message is counted, the far ends must be elsewhere: they run on a thread of their own, without
//! the server's runtime.

mod caller;
mod model;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_tungstenite::tungstenite::{Message, WebSocket};
use voicebridge::audio::AudioFormat;
use voicebridge::wire::payload;

use caller::Caller;
use model::Model;

/// What a telephone sends at a time.
const FRAME: Duration = Duration::from_millis(20);
/// mu-law at 8 kHz.
const FRAME_BYTES: usize = 160;
/// Deltas that fill the lead of the playout, which is 200 ms.
const LEAD_DELTAS: u32 = 10;
/// Half of the lead: so much later than it could be sent comes each further delta. So there is always room for it, it
/// leaves with its arrival instead of with a timer, and neither side may be late by so much that it shows.
const BEHIND: Duration = Duration::from_millis(100);
/// What was sent ahead has been played, and whatever follows from it has been done.
const QUIET: Duration = Duration::from_millis(500);
/// Longer than anything takes, also on an emulated processor.
const STUCK: Duration = Duration::from_secs(60);

/// The far ends of one call in mid-conversation.
pub(crate) struct FarEnds {
    caller: Caller,
    model: Model,
}

impl FarEnds {
    /// Connects a call to the server at `addr` and takes its model session from `model`. Returns when `warm_up` frames
    /// have gone each way.
    pub(crate) fn connect(
        addr: SocketAddr,
        model: &TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        format: AudioFormat,
        warm_up: u32,
    ) -> Self {
        let caller = Caller::connect(addr);
        let mut ends = Self { caller, model: Model::accept(model, tls, format) };
        ends.model.begin_response();
        if format == AudioFormat::Pcm24k {
            ends.model.speak(); // The filter holds some of it back, so less than a frame comes out.
        }
        ends.caller_frames(warm_up);
        ends.agent_frames(warm_up);
        ends
    }

    /// Frames of the caller, in real time; each has come out at the model when the next one is sent.
    pub(crate) fn caller_frames(&mut self, count: u32) {
        let mut pace = Pace::new(FRAME);
        for _ in 0..count {
            pace.wait();
            self.caller.speak();
            self.model.hear();
        }
        self.settle();
    }

    /// Deltas of the model with 20 ms of audio each, one stretch of speech; each has come out at the caller when the
    /// next one is sent. The marks are sent back.
    pub(crate) fn agent_frames(&mut self, count: u32) {
        for _ in 0..LEAD_DELTAS {
            self.agent_frame();
        }
        thread::sleep(BEHIND);
        let mut pace = Pace::new(FRAME);
        for _ in LEAD_DELTAS..count {
            pace.wait();
            self.agent_frame();
        }
        self.settle();
    }

    fn agent_frame(&mut self) {
        self.model.speak();
        self.caller.hear();
    }

    /// So many deltas with 20 ms of audio each at once, far ahead of the caller's ear, as a model sends them. All of it
    /// has come out when this returns.
    pub(crate) fn agent_burst(&mut self, count: u32) {
        self.model.burst(count);
        let mut heard = 0;
        while heard < count as usize * FRAME_BYTES {
            heard += self.caller.hear();
        }
        self.settle();
    }

    /// Nobody says anything for a while.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.model.wait(time);
    }

    /// Waits until nothing is on its way any more.
    fn settle(&mut self) {
        self.caller.hear_the_rest();
        self.wait(QUIET);
    }
}

/// Sends these in one piece: how they arrive decides how buffers are filled from then on.
fn say<S: Read + Write>(socket: &mut WebSocket<S>, messages: &[Value]) {
    for message in messages {
        socket.write(Message::text(message.to_string())).expect("the server reads");
    }
    socket.flush().expect("the server reads");
}

/// Moments at a fixed distance. One that was missed moves all that follow: audio that caught up would find no room.
struct Pace {
    next: Instant,
    every: Duration,
}

impl Pace {
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no runtime on this thread whose clock could be paused"
    )]
    fn new(every: Duration) -> Self {
        Self { next: Instant::now(), every }
    }

    #[expect(clippy::disallowed_methods, reason = "as above")]
    fn wait(&mut self) {
        let now = Instant::now();
        self.next = now.max(self.next + self.every);
        thread::sleep(self.next - now);
    }
}

fn prepare(stream: &TcpStream) {
    stream.set_nodelay(true).expect("it is a socket");
    set_patience(stream, STUCK);
}

fn set_patience(stream: &TcpStream, patience: Duration) {
    stream.set_read_timeout(Some(patience)).expect("it is a socket");
}

fn encoded(bytes: &[u8]) -> String {
    let mut text = String::new();
    payload::encode_into(bytes, &mut text);
    text
}

/// Bytes without structure, the same in every run.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    })
    .take(bytes)
    .collect()
}
