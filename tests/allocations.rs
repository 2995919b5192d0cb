//! What one frame allocates on its way through the server, sockets included. One more a frame fails the test.
//!
//! The whole server runs on the test's thread, and only this thread's allocations are counted; the far ends are elsewhere.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

#[path = "support/far_ends/mod.rs"]
mod far_ends;
#[path = "support/mod.rs"]
mod support;

use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use far_ends::FarEnds;
use sqlx::ConnectOptions as _;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use voicebridge::app::{App, Running};
use voicebridge::audio::AudioFormat;
use voicebridge::config::{Config, Need};

/// From Twilio's message to the model's: both lie in the sockets' buffers.
const ALLOCATIONS_PER_CALLER_FRAME: u64 = 0;
/// From the model's message to Twilio's: the same.
const ALLOCATIONS_PER_AGENT_FRAME: u64 = 0;
/// There and back: the name under which its return is awaited.
const ALLOCATIONS_PER_MARK: u64 = 1;

/// 200 ms, and one mark.
const FRAMES: u32 = 10;
/// What does not come with each frame only adds to what frames take: the database is asked what is wanted of our calls, its
/// pool looks at its connections. It falls into some of these rounds, and so the smallest says what frames take.
const ROUNDS: usize = 12;
/// Messages of the model at once, before anything is counted.
const BURST: u32 = 32;
/// Buffers have their size, and everything that happens once in a call has happened.
const WARM_UP: u32 = 20;

#[test]
fn a_frame_of_a_call_in_pcmu_allocates_nothing() {
    check(AudioFormat::Pcmu);
}

#[test]
fn a_frame_of_a_call_in_pcm24k_allocates_nothing() {
    check(AudioFormat::Pcm24k);
}

fn check(format: AudioFormat) {
    let counted = count(format);
    let caller = u64::from(FRAMES) * ALLOCATIONS_PER_CALLER_FRAME;
    let agent = u64::from(FRAMES) * ALLOCATIONS_PER_AGENT_FRAME + ALLOCATIONS_PER_MARK;
    for (side, counted, stated) in
        [("the caller", counted.caller, caller), ("the agent", counted.agent, agent)]
    {
        let least = counted.iter().copied().min().unwrap();
        // Fewer are no better: a constant that is too high would let the next allocation pass.
        assert_eq!(
            least, stated,
            "{FRAMES} frames of {side} in {format} make {least} allocations (of all rounds: {counted:?}), not {stated}"
        );
    }
}

/// Allocations of [`FRAMES`] frames of each side, round for round.
struct Counted {
    caller: Vec<u64>,
    agent: Vec<u64>,
}

fn count(format: AudioFormat) -> Counted {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let model = TcpListener::bind("127.0.0.1:0").unwrap();
    let running = runtime.block_on(serve(format, model.local_addr().unwrap().port()));
    let (next, steps) = mpsc::channel::<(Step, oneshot::Sender<()>)>();
    let addr = running.addr;
    let far_ends = thread::spawn(move || {
        let mut ends = None;
        for (step, done) in steps {
            let ends = match step {
                Step::Connect => ends.insert(FarEnds::connect(addr, &model, None, format, WARM_UP)),
                Step::Caller | Step::Agent => ends.as_mut().unwrap(),
            };
            match step {
                Step::Connect => ends.agent_burst(BURST), // What is queued has never been more.
                Step::Caller => ends.caller_frames(FRAMES),
                Step::Agent => ends.agent_frames(FRAMES),
            }
            done.send(()).unwrap();
        }
    });
    allocations(&runtime, &next, Step::Connect);
    let rounds = |step| (0..ROUNDS).map(|_| allocations(&runtime, &next, step)).collect();
    let (caller, agent) = (rounds(Step::Caller), rounds(Step::Agent));
    drop(next);
    far_ends.join().unwrap();
    runtime.block_on(async {
        running.tasks.force_hang_up();
        running.stop().await.unwrap();
    });
    Counted { caller, agent }
}

/// What the far ends do next.
#[derive(Clone, Copy)]
enum Step {
    Connect,
    Caller,
    Agent,
}

/// Allocations of the server while the far ends do this.
fn allocations(runtime: &Runtime, next: &mpsc::Sender<(Step, oneshot::Sender<()>)>, step: Step) -> u64 {
    let (done, is_done) = oneshot::channel();
    next.send((step, done)).unwrap();
    let counted = allocation_counter::measure(|| runtime.block_on(is_done).unwrap());
    counted.count_total
}

async fn serve(format: AudioFormat, model_port: u16) -> Running {
    let store = support::store(2).await;
    let database = store.pool().connect_options().to_url_lossy().to_string();
    store.close().await;
    let environment = |name: &str| {
        let value = match name {
            "VOICEBRIDGE_LISTEN" => "127.0.0.1:0".to_owned(),
            "DATABASE_URL" => database.clone(),
            "VOICEBRIDGE_DATA_DIR" => format!("{}/allocations", env!("CARGO_TARGET_TMPDIR")),
            "OPENAI_REALTIME_URL" => format!("ws://127.0.0.1:{model_port}/v1/realtime"),
            "OPENAI_API_KEY" => "the-key".to_owned(),
            "AUDIO_FORMAT" => format.to_string(),
            _ => return None,
        };
        Some(value.into())
    };
    let config = Config::from_parts(None, environment, Need::Calls).unwrap();
    App::start(config).await.unwrap()
}
