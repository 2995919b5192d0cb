//! Model sessions that were opened while the call was still being set up, waiting for its stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::endpoints::ModelSession;
use super::lanes::Lane;
use super::model_socket::OpenError;
use crate::store::agents::Agent;

/// Twilio opens the stream within a second of the TwiML; this covers a slow handshake and its retry.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// More calls than this are not set up at the same time; the stream of a further one opens its session itself.
const MAX_WAITING: usize = 256;

/// A session that is open, being opened, or could not be opened.
pub(super) type Opening = oneshot::Receiver<Result<ModelSession, OpenError>>;

struct Waiting {
    agent: Arc<Agent>,
    opening: Opening,
    lane: Lane,
    /// Ends the waiting of [`Expiry::run`].
    gone: CancellationToken,
}

/// Where a session is handed in once it is open.
pub(super) type Opened = oneshot::Sender<Result<ModelSession, OpenError>>;

/// Sessions by the one-time token of the stream that will claim them.
#[derive(Clone, Default)]
pub(super) struct Lobby(Arc<Mutex<HashMap<String, Waiting>>>);

impl Lobby {
    /// Keeps a session for the stream with this token. `None`: the lobby is full.
    pub(super) fn expect(&self, token: &str, agent: Arc<Agent>, lane: Lane) -> Option<(Opened, Expiry)> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            return None;
        }
        let (opened, opening) = oneshot::channel();
        let gone = CancellationToken::new();
        waiting.insert(token.to_owned(), Waiting { agent, opening, lane, gone: gone.clone() });
        Some((opened, Expiry { lobby: self.clone(), token: token.to_owned(), gone }))
    }

    /// Hands the session over, once, and says where it is being opened.
    pub(super) fn claim(&self, token: &str) -> Option<(Arc<Agent>, Opening, Lane)> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = waiting.remove(token)?;
        waiting.gone.cancel();
        Some((waiting.agent, waiting.opening, waiting.lane))
    }

    /// True while a stream with this token is expected here.
    pub(super) fn expects(&self, token: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(token)
    }
}

/// Gives a session up when its stream has not come in time.
pub(super) struct Expiry {
    lobby: Lobby,
    token: String,
    gone: CancellationToken,
}

impl Expiry {
    /// Ends when the session was claimed, its time is over, or `stop` says so.
    pub(super) async fn run(self, stop: &CancellationToken) {
        tokio::select! {
            () = self.gone.cancelled() => return,
            () = tokio::time::sleep(KEPT_FOR) => {}
            () = stop.cancelled() => {}
        }
        self.lobby.claim(&self.token); // Dropping it closes the socket.
    }
}
