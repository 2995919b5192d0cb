//! Cost of one message through the whole in-process path: received text in, text to send out. No socket, no clock.
//!
//! `cargo bench --bench media_path` prints time and allocations of each.

use std::time::Duration;

use divan::{AllocProfiler, Bencher, black_box};
use voicebridge::audio::AudioFormat;
use voicebridge::call::outbox::{Output, SessionAct};
use voicebridge::call::settings::Settings;
use voicebridge::call::{Call, Input};
use voicebridge::clock::CallTime;
use voicebridge::ids::{ResponseId, StreamSid};
use voicebridge::wire::model::{ModelEvent, SessionConfig, TurnDetection, TurnTaking};
use voicebridge::wire::{openai, payload, twilio};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const FRAME: Duration = Duration::from_millis(20);
const FORMATS: [AudioFormat; 2] = [AudioFormat::Pcmu, AudioFormat::Pcm24k];

fn main() {
    divan::main();
}

/// One 20 ms frame of the caller, from Twilio's message to the model's.
#[divan::bench(args = FORMATS)]
fn caller_frame(bencher: Bencher<'_, '_>, format: AudioFormat) {
    let mut path = Path::new(format);
    let mut timestamp_ms = 0;
    let audio = base64_of(&noise(160));
    bencher
        .with_inputs(|| {
            timestamp_ms += 20;
            format!(
                r#"{{"event":"media","sequenceNumber":"3","streamSid":"MZ1","media":{{"track":"inbound","chunk":"2","timestamp":"{timestamp_ms}","payload":"{audio}"}}}}"#
            )
        })
        .bench_local_refs(|message| path.take_from_twilio(black_box(message)));
}

/// One 20 ms delta of the model, from its message to Twilio's; the echo of each mark included.
#[divan::bench(args = FORMATS)]
fn model_delta(bencher: Bencher<'_, '_>, format: AudioFormat) {
    let mut path = Path::new(format);
    path.begin_response();
    let delta = delta(format);
    bencher.bench_local(|| path.take_from_model(black_box(&delta)));
}

/// 32 deltas of the model that come at once, until the last of their 640 ms has left; the marks included.
#[divan::bench(args = FORMATS)]
fn burst_of_32_deltas(bencher: Bencher<'_, '_>, format: AudioFormat) {
    let mut path = Path::new(format);
    path.begin_response();
    let delta = delta(format);
    bencher.bench_local(|| path.take_burst(black_box(&delta)));
}

/// A call in mid-conversation with the codecs at both ends.
struct Path {
    call: Call,
    now: CallTime,
    stream_sid: StreamSid,
    marks: Vec<String>,
}

impl Path {
    fn new(format: AudioFormat) -> Self {
        let session = SessionConfig {
            instructions: "Be brief.".into(),
            voice: "marin".into(),
            format,
            transcription: None,
            turn_detection: TurnDetection::default(),
            turn_taking: TurnTaking::ByModel,
            tools: Vec::new(),
            max_output_tokens: None,
            reasoning_effort: None,
            noise_reduction: None,
        };
        let long = Duration::from_secs(300 * 24 * 3600);
        let settings = Settings {
            max_duration: long,
            response_within: long,
            nudge_after: long,
            ..Settings::new(session)
        };
        let mut call = Call::new(settings, openai::CAPABILITIES);
        call.handle_input(CallTime::ZERO, Input::ModelReady { expires: CallTime::FAR });
        let stream_sid = StreamSid::parse("MZ00000000000000000000000000000001").expect("it is one");
        let mut path = Self { call, now: CallTime::ZERO, stream_sid, marks: Vec::new() };
        path.send();
        path
    }

    fn begin_response(&mut self) {
        let response = ResponseId::parse("resp_1").expect("it is one");
        self.call.handle_input(self.now, Input::Model(ModelEvent::ResponseStarted { response }));
        self.send();
    }

    fn take_from_twilio(&mut self, text: &str) -> usize {
        self.now = self.now + FRAME;
        let message = twilio::decode(text).expect("it is a message");
        self.call.handle_input(self.now, Input::Twilio(message));
        self.send()
    }

    fn take_from_model(&mut self, text: &str) -> usize {
        self.now = self.now + FRAME;
        self.hear_model(text)
    }

    fn take_burst(&mut self, text: &str) -> usize {
        let burst: usize = (0..32).map(|_| self.hear_model(text)).sum();
        self.now = self.now + 32 * FRAME;
        self.call.handle_input(self.now, Input::Timeout);
        burst + self.send_with_marks()
    }

    fn hear_model(&mut self, text: &str) -> usize {
        let event = openai::decode(text).expect("it is an event");
        self.call.handle_input(self.now, Input::Model(event));
        self.send_with_marks()
    }

    /// Sends, and returns each mark at once.
    fn send_with_marks(&mut self) -> usize {
        let sent = self.send();
        while let Some(name) = self.marks.pop() {
            let mark = twilio::Inbound::Mark { name: name.into() };
            self.call.handle_input(self.now, Input::Twilio(mark));
        }
        sent + self.send()
    }

    /// Takes every output and writes it as its socket would. Returns the bytes.
    fn send(&mut self) -> usize {
        let (mut bytes, mut asked) = (0, false);
        while let Some(output) = self.call.poll_output() {
            let mut text = String::with_capacity(1500);
            match output {
                Output::Twilio(message) => {
                    if let twilio::Outbound::Mark { name } = message {
                        self.marks.push(name.to_owned());
                    }
                    twilio::encode(message, &self.stream_sid, &mut text);
                }
                Output::Model(command) => openai::encode(&command, &mut text),
                Output::Session(SessionAct::Ping) => asked = true,
                _ => {}
            }
            bytes += black_box(text).len();
        }
        if asked {
            self.call.handle_input(self.now, Input::ModelAlive);
        }
        bytes
    }
}

/// 20 ms of audio as the model sends it.
fn delta(format: AudioFormat) -> String {
    let audio = base64_of(&noise(20 * format.bytes_per_ms()));
    format!(
        r#"{{"type":"response.output_audio.delta","event_id":"event_1","response_id":"resp_1","item_id":"item_1","output_index":0,"content_index":0,"delta":"{audio}"}}"#
    )
}

fn base64_of(bytes: &[u8]) -> String {
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
