//! Opening a session with an OpenAI-Realtime-compatible endpoint.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    AUTHORIZATION, CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderValue, Request, StatusCode};
use futures_util::FutureExt as _;
use futures_util::future::FusedFuture as _;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::socket::{Limits, Received, Socket};
use crate::call::Unavailable;
use crate::call::setup::{Setup, SetupError, Step};
use crate::wire::model::{ModelCommand, ModelEvent, SessionConfig};
use crate::wire::openai;
use crate::wire::websocket::Role;

const LIMITS: Limits = Limits {
    // Two usual audio deltas at the pace of speech; every call keeps so much for the next. Larger ones take several reads.
    read_bytes: 4 * 1024,
    // A whole turn's audio may come in one message.
    message_bytes: 16 * 1024 * 1024,
    // About a minute of audio that the model does not take: it is not listening.
    unsent_bytes: 4 * 1024 * 1024,
};
/// For somebody who only wants to know whether it would work.
const PROBE_WITHIN: Duration = Duration::from_secs(10);
/// What a provider lets a session last that names no end, or one that our clock says is past.
// Dossier 1.3.
const LONGEST_SESSION: Duration = Duration::from_hours(1);

type ModelIo = MaybeTlsStream<TcpStream>;

/// Boxed, because it waits in places that are empty most of the time.
pub(super) type ModelSocket = Box<Socket<ModelIo>>;

/// What an endpoint has agreed to.
pub(super) struct Agreed {
    pub(super) socket: ModelSocket,
    /// When its provider will end it.
    pub(super) expires: Instant,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The endpoint could not be reached or did not upgrade.
    #[error("the model's endpoint could not be reached: {0}")]
    Connect(String),
    /// It answered, but not with a WebSocket.
    #[error("the model's endpoint refused the connection with HTTP {status}")]
    Http {
        /// Its answer.
        status: u16,
    },
    /// It closed the connection before the session was agreed on.
    #[error("the model's endpoint closed the connection: {0}")]
    Closed(String),
    /// It does not want the session.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// It took too long.
    #[error("the model's endpoint did not agree on a session in time")]
    TimedOut,
    /// Every endpoint has failed too often of late, so none was asked.
    #[error("the model's endpoints do not work; they are not asked for now")]
    Resting,
    /// The address or the key cannot be sent.
    #[error("the model's address or key is not usable: {0}")]
    Request(String),
}

impl OpenError {
    /// True when another try may work.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Closed(_) | Self::TimedOut | Self::Resting => true,
            Self::Http { status } => *status == 429 || *status >= 500,
            Self::Setup(error) => matches!(error, SetupError::NotNow { .. }),
            Self::Request(_) => false,
        }
    }

    /// What the call makes of it.
    pub(super) fn unavailable(&self) -> Unavailable {
        match self {
            Self::Resting => Unavailable::NotTried,
            error if error.may_pass() => Unavailable::Failed,
            _ => Unavailable::Refused,
        }
    }
}

/// Where sessions come from.
#[derive(Clone)]
pub struct ModelEndpoint {
    url: reqwest::Url,
    key: Option<SecretString>,
    tls: TlsConnector,
}

impl ModelEndpoint {
    /// An endpoint at `url`, without its query. `key` is sent as a bearer token.
    #[must_use]
    pub fn new(url: reqwest::Url, key: Option<SecretString>) -> Self {
        Self { url, key, tls: TlsConnector::from(tls_config()) }
    }

    /// Opens a session of `model` and agrees on its configuration.
    pub(super) async fn open(
        &self,
        model: &str,
        config: SessionConfig,
        within: Duration,
    ) -> Result<Agreed, OpenError> {
        tokio::time::timeout(within, async {
            let mut socket = self.connect(model).await?;
            let expires = agree(&mut socket, config).await?;
            Ok(Agreed { socket, expires })
        })
        .await
        .unwrap_or(Err(OpenError::TimedOut))
    }

    /// Opens and closes a session, to see whether it would work.
    pub async fn probe(&self, model: &str, config: SessionConfig) -> Result<(), OpenError> {
        let mut socket = self.open(model, config, PROBE_WITHIN).await?.socket;
        let _ = tokio::time::timeout(Duration::from_secs(1), socket.close()).await;
        Ok(())
    }

    async fn connect(&self, model: &str) -> Result<ModelSocket, OpenError> {
        let url = openai::url(self.url.as_str(), model);
        let url = reqwest::Url::parse(&url).map_err(|error| OpenError::Request(error.to_string()))?;
        let io = self.connect_io(&url).await.map_err(|error| OpenError::Connect(error.to_string()))?;
        let key = generate_key();
        let request = self.request(&url, &key)?;
        let broken = |error: hyper::Error| OpenError::Connect(error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(io)).await.map_err(broken)?;
        // It does the reading and writing for the request, and may be over before the answer is taken.
        let mut connection = pin!(connection.with_upgrades().fuse());
        let mut sending = pin!(sender.send_request(request));
        let response = tokio::select! {
            biased;
            response = &mut sending => response,
            _ = &mut connection => sending.await,
        };
        let mut response = response.map_err(broken)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(OpenError::Http { status: response.status().as_u16() });
        }
        let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
        if accepted != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            return Err(OpenError::Connect("it answered the handshake of somebody else".to_owned()));
        }
        let upgrading = hyper::upgrade::on(&mut response);
        let rest = async {
            if !connection.is_terminated() {
                // How it ended shows in the upgrade.
                let _ = connection.await;
            }
        };
        let (upgraded, ()) = tokio::join!(upgrading, rest);
        let parts = upgraded
            .map_err(broken)?
            .downcast::<TokioIo<ModelIo>>()
            .map_err(|_| OpenError::Connect("the connection did not survive its handshake".to_owned()))?;
        let socket = Socket::new(parts.io.into_inner(), Role::Client, LIMITS, &parts.read_buf);
        Ok(Box::new(socket))
    }

    async fn connect_io(&self, url: &reqwest::Url) -> std::io::Result<ModelIo> {
        let unusable = || std::io::Error::other("the address names no host");
        let host = url.host_str().ok_or_else(unusable)?.trim_matches(['[', ']']);
        // `ws` and `wss` have the ports of `http` and `https`.
        let tcp = TcpStream::connect((host, url.port_or_known_default().ok_or_else(unusable)?)).await?;
        // Nagle's algorithm would hold a burst back by 40 ms.
        tcp.set_nodelay(true)?;
        if url.scheme() != "wss" {
            return Ok(MaybeTlsStream::Plain(tcp));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        Ok(MaybeTlsStream::Rustls(self.tls.connect(name, tcp).await?))
    }

    // RFC 6455, section 4.1.
    fn request(&self, url: &reqwest::Url, key: &str) -> Result<Request<Body>, OpenError> {
        let host = match (url.host_str().unwrap_or_default(), url.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let mut request = Request::get(path)
            .header(HOST, host)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, key)
            .body(Body::empty())
            .map_err(|error| OpenError::Request(error.to_string()))?;
        if let Some(key) = &self.key {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()))
                .map_err(|_| OpenError::Request("the key holds characters that no header may".into()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }
}

/// Returns when the session will be over.
async fn agree(socket: &mut ModelSocket, config: SessionConfig) -> Result<Instant, OpenError> {
    let mut setup = Setup::new(config);
    let mut expires = Instant::now() + LONGEST_SESSION;
    loop {
        let step = match socket.next() {
            Some(Received::Text(text)) => {
                let event = openai::decode(text);
                if let Ok(ModelEvent::SessionCreated { expires_at: Some(at), .. }) = event {
                    expires = Instant::now() + lifetime(at, Timestamp::now().as_second());
                }
                event.map_or(Step::Wait, |event| setup.handle_event(&event))
            }
            Some(Received::Binary) => Step::Wait,
            Some(Received::Closed { why, .. }) => return Err(OpenError::Closed(why)),
            None => {
                socket.readable().await;
                continue;
            }
        };
        match step {
            Step::Wait => {}
            Step::Update { event_id } => {
                let command = ModelCommand::UpdateSession { event_id, config: setup.config() };
                let mut message = String::new();
                openai::encode(&command, &mut message);
                socket.send(&message).map_err(|_| OpenError::Closed("it does not read".into()))?;
            }
            Step::Ready => {
                for left_out in setup.left_out() {
                    tracing::warn!(
                        left_out,
                        "the model refused part of the session's configuration; it runs without"
                    );
                }
                return Ok(expires);
            }
            Step::Failed(error) => return Err(error.into()),
        }
    }
}

/// How long a session lasts that ends at `expires_at`, both in Unix seconds. Clocks differ: an end in the past is not
/// believed, nor one that is later than any.
fn lifetime(expires_at: i64, now: i64) -> Duration {
    match u64::try_from(expires_at.saturating_sub(now)) {
        Ok(seconds @ 1..) => LONGEST_SESSION.min(Duration::from_secs(seconds)),
        _ => LONGEST_SESSION,
    }
}

/// One configuration for the whole process: reading the root certificates costs milliseconds, and TLS sessions are
/// resumed only within one configuration.
fn tls_config() -> Arc<rustls::ClientConfig> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a root certificate of this machine cannot be read");
        }
        roots.add_parsable_certificates(found.certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default versions of TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    });
    Arc::clone(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lasts_as_long_as_its_provider_says_unless_the_clocks_cannot_agree() {
        let seconds = |expires_at| lifetime(expires_at, 1_790_000_000).as_secs();
        assert_eq!((seconds(1_790_000_030), seconds(1_790_003_000)), (30, 3_000));
        assert_eq!((seconds(1_790_009_000), seconds(1_790_000_000), seconds(0)), (3_600, 3_600, 3_600));
        assert_eq!((seconds(i64::MIN), seconds(i64::MAX)), (3_600, 3_600));
    }
}
