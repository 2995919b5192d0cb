//! The WebSocket around sessions: upgrade, reading, writing, time.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::{
    CloseFrame, Message, WebSocketConfig, frame::coding::CloseCode,
};
use tokio_util::sync::CancellationToken;

use super::engine::{Close, Engine};
use super::options::{Faults, ModelOptions};
use super::report::ModelReport;
use crate::simulate::network::{DelayLine, Network};
use crate::simulate::random::Random;

/// What a real session may last.
// Dossier 1.3.
const LONGEST_SESSION: Duration = Duration::from_hours(1);
/// An upgrade that takes longer is given up.
const UPGRADE_WITHIN: Duration = Duration::from_secs(10);
/// A peer that does not finish closing is left.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    options: Arc<ModelOptions>,
    /// Of every connection but the first.
    later: Arc<ModelOptions>,
    /// Of every connection, when it was changed.
    changed: Mutex<Option<Arc<ModelOptions>>>,
    connected: AtomicBool,
    engines: Mutex<Vec<Arc<Mutex<Engine>>>>,
    refused: Mutex<Vec<String>>,
    /// Breaks the connections there are.
    cut: Mutex<CancellationToken>,
    stop: CancellationToken,
}

impl Shared {
    pub(super) fn new(options: ModelOptions) -> Self {
        let later = options.later_faults.clone().map(|faults| ModelOptions { faults, ..options.clone() });
        let options = Arc::new(options);
        Self {
            later: later.map_or_else(|| Arc::clone(&options), Arc::new),
            changed: Mutex::default(),
            connected: AtomicBool::new(false),
            options,
            engines: Mutex::default(),
            refused: Mutex::default(),
            cut: Mutex::default(),
            stop: CancellationToken::new(),
        }
    }

    /// How the session of the next connection behaves.
    fn next_options(&self) -> Arc<ModelOptions> {
        let first = !self.connected.swap(true, Ordering::AcqRel);
        let changed = lock(&self.changed).clone();
        changed.unwrap_or_else(|| Arc::clone(if first { &self.options } else { &self.later }))
    }

    pub(super) fn cut(&self) {
        std::mem::take(&mut *lock(&self.cut)).cancel();
    }

    /// From now on every connection behaves so.
    pub(super) fn set_faults(&self, faults: Faults) {
        *lock(&self.changed) = Some(Arc::new(ModelOptions { faults, ..ModelOptions::clone(&self.options) }));
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    pub(super) fn report(&self) -> ModelReport {
        let engines = lock(&self.engines).clone();
        ModelReport {
            sessions: engines.iter().map(|engine| lock(engine).report()).collect(),
            refused: lock(&self.refused).clone(),
        }
    }
}

/// Accepts connections until stopped, then waits for the sessions to end.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => break,
            Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
            accepted = listener.accept() => {
                let Ok((stream, peer)) = accepted else {
                    // Running out of file descriptors passes.
                    sleep(Duration::from_millis(20)).await;
                    continue;
                };
                sessions.spawn(connection(stream, peer, Arc::clone(&shared)));
            }
        }
    }
    while sessions.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut asked = Asked::default();
    let mut options = shared.next_options();
    let upgrade = {
        let config = WebSocketConfig::default().read_buffer_size(16 * 1024).max_message_size(Some(32 << 20));
        let options = Arc::clone(&options);
        let asked = &mut asked;
        #[expect(clippy::result_large_err, reason = "the type of the callback is tungstenite's")]
        let callback = move |request: &Request, response: Response| {
            *asked = Asked::read(request);
            match asked.refusal(&options) {
                Some((status, _)) => Err(refusal_response(status)),
                None => Ok(response),
            }
        };
        tokio_tungstenite::accept_hdr_async_with_config(stream, callback, Some(config))
    };
    let upgraded = tokio::select! {
        () = shared.stop.cancelled() => return,
        upgraded = timeout(UPGRADE_WITHIN, upgrade) => upgraded,
    };
    let Ok(Ok(socket)) = upgraded else {
        let why = asked.refusal(&options).map_or("the upgrade failed", |(_, why)| why);
        lock(&shared.refused).push(format!("{peer}: {why}"));
        return;
    };
    let (engine, delay) = {
        let mut engines = lock(&shared.engines);
        let lasts_ms = options.faults.expire_after_ms.unwrap_or(LONGEST_SESSION.as_secs() * 1000);
        let expires = (jiff::Timestamp::now().as_millisecond() + lasts_ms.cast_signed()) / 1000;
        if let Some(code) = asked.refusal_after_upgrade(&options) {
            Arc::make_mut(&mut options).faults.refuse_after_upgrade = Some(code.into());
        }
        let delay = Network { delay_ms: options.faults.delay_ms, jitter_ms: 0 };
        let engine = Engine::new(options, &asked.model, engines.len() as u64, expires);
        let engine = Arc::new(Mutex::new(engine));
        engines.push(Arc::clone(&engine));
        (engine, delay)
    };
    let cut = lock(&shared.cut).clone();
    tokio::select! {
        () = cut.cancelled() => {}
        () = session(socket, &engine, delay, &shared.stop) => {}
    }
    lock(&engine).on_closed();
}

/// Runs one session to its end.
async fn session(
    mut socket: WebSocketStream<TcpStream>,
    engine: &Mutex<Engine>,
    delay: Network,
    stop: &CancellationToken,
) {
    let started = Instant::now();
    let mut line = DelayLine::new(delay, Random::new(0)); // Without jitter nothing of it is random.
    loop {
        let now = started.elapsed();
        lock(engine).advance(now);
        while let Some(event) = next_event(engine) {
            line.push(now, event);
        }
        while let Some((_, event)) = line.pop(now) {
            let sent = tokio::select! {
                () = stop.cancelled() => return,
                sent = socket.feed(Message::text(event)) => sent,
            };
            if sent.is_err() {
                return;
            }
        }
        if socket.flush().await.is_err() {
            return;
        }
        let (close, due) = {
            let mut engine = lock(engine);
            let close = if line.next_due().is_none() { engine.poll_close() } else { None };
            (close, engine.next_due().into_iter().chain(line.next_due()).min())
        };
        match close {
            Some(Close::Code(code, reason)) => return finish(socket, code, reason).await,
            Some(Close::Drop) => return,
            Some(Close::Freeze) => return stop.cancelled().await,
            None => {}
        }
        let due = due.map_or_else(|| started + LONGEST_SESSION, |due| started + due);
        tokio::select! {
            () = stop.cancelled() => return finish(socket, 1001, "the server stops".into()).await,
            () = sleep_until(due) => {}
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => lock(engine).handle(started.elapsed(), &text),
                Some(Ok(Message::Binary(_))) => lock(engine).handle_binary(started.elapsed()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
        }
    }
}

/// Says goodbye and waits a little for the answer.
async fn finish(mut socket: WebSocketStream<TcpStream>, code: u16, reason: String) {
    let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
    let goodbye = async {
        if socket.close(Some(frame)).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    let _ = timeout(CLOSE_WITHIN, goodbye).await;
}

fn next_event(engine: &Mutex<Engine>) -> Option<String> {
    lock(engine).poll_event()
}

/// What a client asked for with its upgrade request.
#[derive(Debug, Default)]
struct Asked {
    path: String,
    model: String,
    key: Option<String>,
    beta: bool,
}

impl Asked {
    fn read(request: &Request) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let model = query.split('&').find_map(|pair| pair.strip_prefix("model=")).unwrap_or_default();
        let bearer = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        Self {
            path: request.uri().path().into(),
            model: model.into(),
            key: bearer.and_then(|value| value.strip_prefix("Bearer ")).map(Into::into),
            beta: request.headers().contains_key("openai-beta"),
        }
    }

    /// Why there is no upgrade.
    fn refusal(&self, options: &ModelOptions) -> Option<(u16, &'static str)> {
        if let Some(status) = options.faults.refuse_upgrade {
            Some((status, "refused as configured"))
        } else if !self.path.ends_with("/realtime") {
            Some((404, "the path does not end in /realtime"))
        } else if self.key.as_deref().is_none_or(str::is_empty) {
            Some((401, "no `Authorization: Bearer` header"))
        } else if self.model.is_empty() {
            Some((400, "no `model` in the query"))
        } else {
            None
        }
    }

    /// Why the session ends before it begins.
    fn refusal_after_upgrade(&self, options: &ModelOptions) -> Option<&'static str> {
        if self.beta {
            Some("beta_api_shape_disabled")
        } else if options.api_key.as_ref().is_some_and(|key| self.key.as_ref() != Some(key)) {
            Some("invalid_api_key")
        } else if self.model.contains("transcribe") || self.model.contains("whisper") {
            Some("model_not_found")
        } else {
            None
        }
    }
}

fn refusal_response(status: u16) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some("{\"error\":{\"message\":\"refused\"}}".into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    response
}

/// A panic elsewhere does not make a report unreadable.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
