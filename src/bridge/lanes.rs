//! Threads that carry calls, one a core.
//!
//! Both sockets of a call, its timer and everything between them stay on one thread. A runtime that shares its tasks among
//! threads wakes a second one whenever much arrives at once, and moves calls and their memory from core to core; for
//! work that takes a few microseconds a frame that is a large part of the cost. HTTP and records stay where they were.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio_util::sync::CancellationToken;

use super::socket::Socket;

/// The lanes of a server.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Vec<Handle>,
    next: AtomicUsize,
    stop: CancellationToken,
}

/// Where one call runs; `None` is where everything else runs.
pub(super) type Lane = Option<Handle>;

impl Lanes {
    /// One for each core; none where the server itself has only one thread. Must be called inside a runtime.
    pub(super) fn start() -> Self {
        let stop = CancellationToken::new();
        let count = match Handle::current().runtime_flavor() {
            RuntimeFlavor::CurrentThread => 0,
            _ => thread::available_parallelism().map_or(1, usize::from),
        };
        let lanes = (0..count).map_while(|number| match start(number, stop.clone()) {
            Ok(lane) => Some(lane),
            Err(error) => {
                tracing::warn!(%error, "a thread for calls could not be started; there is one less");
                None
            }
        });
        Self { lanes: lanes.collect(), next: AtomicUsize::new(0), stop }
    }

    /// Where the next call shall run: each lane in its turn.
    pub(super) fn choose(&self) -> Lane {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.lanes.get(turn.checked_rem(self.lanes.len())?).cloned()
    }
}

/// Hands a connection over to the lane that its call will run on.
pub(super) fn move_to(lane: &Lane, socket: Socket<TcpStream>) -> io::Result<Socket<TcpStream>> {
    let Some(lane) = lane else { return Ok(socket) };
    let _on_the_lane = lane.enter();
    socket.moved_here()
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn start(number: usize, stop: CancellationToken) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name(format!("calls-{number}"))
        .spawn(move || runtime.block_on(stop.cancelled()))?;
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_of_one_thread_has_no_others() {
        assert!(Lanes::start().choose().is_none());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn calls_take_the_lanes_in_turn_and_each_lane_is_one_thread() {
        let lanes = Lanes::start();
        let cores = thread::available_parallelism().unwrap().get();
        let mut names = Vec::new();
        for _ in 0..2 * cores {
            let lane = lanes.choose().expect("there is a lane for each core");
            let name = lane.spawn(async { thread::current().name().map(str::to_owned) }).await.unwrap();
            names.push(name.unwrap());
        }
        let expected: Vec<String> = (0..2 * cores).map(|turn| format!("calls-{}", turn % cores)).collect();
        assert_eq!(names, expected);
    }
}
