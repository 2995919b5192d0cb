//! Opening a session with an OpenAI-Realtime-compatible endpoint.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::{Connector, MaybeTlsStream};

use super::socket::{Received, Socket, limits};
use crate::call::setup::{Setup, SetupError, Step};
use crate::wire::model::{ModelCommand, SessionConfig};
use crate::wire::openai;

/// tungstenite fills it with zeros before each read: larger than a usual audio delta is waste.
const READ_BUFFER_BYTES: usize = 16 * 1024;
/// A whole turn's audio may come in one message.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// About a minute of audio that the model does not take: it is not listening.
const MAX_UNSENT_BYTES: usize = 4 * 1024 * 1024;
/// From the first packet to the agreed session.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// Boxed, because it waits in places that are empty most of the time.
pub(super) type ModelSocket = Box<Socket<MaybeTlsStream<TcpStream>>>;

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
    /// The address or the key cannot be sent.
    #[error("the model's address or key is not usable: {0}")]
    Request(String),
}

impl OpenError {
    /// True when another try may work.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Closed(_) | Self::TimedOut => true,
            Self::Http { status } => *status == 429 || *status >= 500,
            Self::Setup(_) | Self::Request(_) => false,
        }
    }
}

/// Where sessions come from.
#[derive(Clone)]
pub struct ModelEndpoint {
    url: reqwest::Url,
    key: Option<SecretString>,
    connector: Connector,
}

impl ModelEndpoint {
    /// An endpoint at `url`, without its query. `key` is sent as a bearer token.
    #[must_use]
    pub fn new(url: reqwest::Url, key: Option<SecretString>) -> Self {
        Self { url, key, connector: connector() }
    }

    /// Opens a session of `model` and agrees on its configuration.
    pub(super) async fn open(&self, model: &str, config: SessionConfig) -> Result<ModelSocket, OpenError> {
        tokio::time::timeout(OPEN_WITHIN, async {
            let mut socket = self.connect(model).await?;
            agree(&mut socket, config).await?;
            Ok(socket)
        })
        .await
        .unwrap_or(Err(OpenError::TimedOut))
    }

    /// Opens and closes a session, to see whether it would work.
    pub async fn probe(&self, model: &str, config: SessionConfig) -> Result<(), OpenError> {
        let mut socket = self.open(model, config).await?;
        let _ = tokio::time::timeout(Duration::from_secs(1), socket.close()).await;
        Ok(())
    }

    async fn connect(&self, model: &str) -> Result<ModelSocket, OpenError> {
        let url = openai::url(self.url.as_str(), model);
        let mut request =
            url.as_str().into_client_request().map_err(|e| OpenError::Request(e.to_string()))?;
        if let Some(key) = &self.key {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()))
                .map_err(|_| OpenError::Request("the key holds characters that no header may".into()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let config = limits(READ_BUFFER_BYTES, MAX_MESSAGE_BYTES, MAX_UNSENT_BYTES);
        let connector = Some(self.connector.clone());
        // `true` turns Nagle's algorithm off: it would hold a burst back by 40 ms.
        match tokio_tungstenite::connect_async_tls_with_config(request, Some(config), true, connector).await {
            Ok((stream, _)) => Ok(Box::new(Socket::new(stream))),
            Err(tungstenite::Error::Http(response)) => {
                Err(OpenError::Http { status: response.status().as_u16() })
            }
            Err(error) => Err(OpenError::Connect(error.to_string())),
        }
    }
}

async fn agree(socket: &mut ModelSocket, config: SessionConfig) -> Result<(), OpenError> {
    let mut setup = Setup::new(config);
    loop {
        let text = match socket.receive().await {
            Received::Text(text) => text,
            Received::Binary => continue,
            Received::Closed { why, .. } => return Err(OpenError::Closed(why)),
        };
        let Ok(event) = openai::decode(&text) else { continue };
        match setup.handle_event(&event) {
            Step::Wait => {}
            Step::Update { event_id } => {
                let command = ModelCommand::UpdateSession { event_id, config: setup.config() };
                let mut message = String::new();
                openai::encode(&command, &mut message);
                socket.send(message).map_err(|_| OpenError::Closed("it does not read".into()))?;
            }
            Step::Ready => {
                for left_out in setup.left_out() {
                    tracing::warn!(
                        left_out,
                        "the model refused part of the session's configuration; it runs without"
                    );
                }
                return Ok(());
            }
            Step::Failed(error) => return Err(error.into()),
        }
    }
}

/// One configuration for the whole process: reading the root certificates costs milliseconds, and TLS sessions are
/// resumed only within one configuration.
fn connector() -> Connector {
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
    Connector::Rustls(Arc::clone(config))
}
