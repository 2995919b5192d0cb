//! A stand-in for OpenAI's Realtime API: hears, recognises, answers and refuses as the real one does.

mod conversation;
mod engine;
mod hearing;
mod options;
mod plan;
mod recognise;
mod refusal;
mod report;
pub mod script;
mod server;
mod session;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub use options::{Faults, ModelOptions, Replies, Transcripts};
pub use report::{ItemReport, ModelReport, ResponseReport, SessionReport};
use server::{Shared, serve};

/// A running server. Dropping it ends all its sessions at once.
#[derive(Debug)]
pub struct ModelServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinSet<()>,
}

impl ModelServer {
    /// Serves on `listener` until stopped. To be called inside a Tokio runtime.
    pub fn start(options: ModelOptions, listener: TcpListener) -> std::io::Result<Self> {
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::new(options));
        let mut task = JoinSet::new();
        task.spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { addr, shared, task })
    }

    /// Serves on a free port of the loopback.
    pub async fn on_any_port(options: ModelOptions) -> std::io::Result<Self> {
        Self::bind(options, (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Binds `addr` (port 0: any free one) and serves on it.
    pub async fn bind(options: ModelOptions, addr: SocketAddr) -> std::io::Result<Self> {
        Self::start(options, TcpListener::bind(addr).await?)
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What to configure as the realtime URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}/v1/realtime", self.addr)
    }

    /// What has happened so far.
    #[must_use]
    pub fn report(&self) -> ModelReport {
        self.shared.report()
    }

    /// Breaks all connections there are, without a word.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// From the next connection on this goes wrong, and nothing else.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.set_faults(faults);
    }

    /// Ends all sessions and says what happened.
    pub async fn stop(mut self) -> ModelReport {
        self.shared.stop();
        while self.task.join_next().await.is_some() {}
        self.shared.report()
    }
}
