//! What stands between Twilio and several servers: passes each connection on to one that is there.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Multiplied with it, neighbouring numbers have nothing in common in their upper halves (2^64 by the golden ratio).
const SPREAD: usize = 0x9E37_79B9_7F4A_7C15;

/// A running balancer on a free port of this machine. Ends when it is dropped, with all connections.
#[derive(Debug)]
pub struct Balancer {
    addr: SocketAddr,
    servers: Servers,
    _accepting: JoinSet<()>,
}

/// A server, and what breaks the connections to it.
type Servers = Arc<Mutex<Vec<(SocketAddr, CancellationToken)>>>;

impl Balancer {
    /// Starts it, with no server behind it.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let servers = Servers::default();
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&servers)));
        Ok(Self { addr, servers, _accepting: accepting })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on connections go there, too.
    pub fn add(&self, server: SocketAddr) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.push((server, CancellationToken::new()));
    }

    /// New connections go elsewhere; those that are there stay.
    pub fn remove(&self, server: SocketAddr) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|(known, _)| *known != server);
    }

    /// New connections go elsewhere, and those that are there are broken.
    pub fn cut(&self, server: SocketAddr) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, broken) in servers.extract_if(.., |(known, _)| *known == server) {
            broken.cancel();
        }
    }
}

async fn accept(listener: TcpListener, servers: Servers) {
    let turn = Arc::new(AtomicUsize::new(0));
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (servers, turn) = (Arc::clone(&servers), Arc::clone(&turn));
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let known = servers.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // In no order: a call has a webhook and a stream, and would else have its streams all at one server.
            let first = turn.fetch_add(1, Ordering::Relaxed).wrapping_mul(SPREAD) >> 32;
            for n in 0..known.len() {
                let (server, broken) = &known[(first + n) % known.len()];
                if let Ok(server) = TcpStream::connect(server).await {
                    broken.run_until_cancelled(pass(client, server)).await;
                    return;
                }
            }
        });
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    // A connection that breaks on one side is closed on the other.
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
