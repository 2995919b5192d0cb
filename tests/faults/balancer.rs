//! What stands between Twilio and several nodes: passes each connection on to one that lives.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Multiplied with it, neighbouring numbers have nothing in common in their upper halves (2^64 by the golden ratio).
const SPREAD: usize = 0x9E37_79B9_7F4A_7C15;

pub(crate) struct Balancer {
    pub(crate) addr: SocketAddr,
    nodes: Arc<Mutex<Vec<SocketAddr>>>,
    /// Ends with the balancer.
    _accepting: JoinSet<()>,
}

impl Balancer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let nodes: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&nodes)));
        Self { addr, nodes, _accepting: accepting }
    }

    pub(crate) fn add(&self, node: SocketAddr) {
        self.nodes.lock().unwrap().push(node);
    }

    /// New connections go elsewhere; those that are there stay.
    pub(crate) fn remove(&self, node: SocketAddr) {
        self.nodes.lock().unwrap().retain(|known| *known != node);
    }
}

async fn accept(listener: TcpListener, nodes: Arc<Mutex<Vec<SocketAddr>>>) {
    let turn = Arc::new(AtomicUsize::new(0));
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (nodes, turn) = (Arc::clone(&nodes), Arc::clone(&turn));
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let known = nodes.lock().unwrap().clone();
            // In no order: a call has a webhook and a stream, and would else have its streams all at one node.
            let first = turn.fetch_add(1, Ordering::Relaxed).wrapping_mul(SPREAD) >> 32;
            for n in 0..known.len() {
                if let Ok(node) = TcpStream::connect(known[(first + n) % known.len()]).await {
                    return pass(client, node).await;
                }
            }
        });
    }
}

async fn pass(mut client: TcpStream, mut node: TcpStream) {
    let _ = (client.set_nodelay(true), node.set_nodelay(true));
    // A connection that breaks on one side is closed on the other.
    let _ = copy_bidirectional(&mut client, &mut node).await;
}
