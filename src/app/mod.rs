//! Builds all parts, runs them, drains them.
//!
//! Stopping goes from the outside in: no new calls, live calls move to another server or finish, HTTP stops, the database closes, and a private
//! PostgreSQL stops last. HTTP goes on while calls finish, because Twilio asks what to do after each stream.

pub mod check;
mod elsewhere;
pub mod keys;
pub mod privacy;
pub mod process;
pub mod retention;
pub mod stage;
mod outbound;
mod upkeep;
mod webhooks;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::serve::ListenerExt;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use crate::api::settings::{PublicUrl, Settings};
use crate::api::{self, Api};
use crate::bridge::endpoints::Endpoints;
use crate::bridge::model_socket::ModelEndpoint;
use crate::bridge::profile::Defaults;
use crate::bridge::spool::Spool;
use crate::bridge::{self, Bridge};
use crate::config::{Config, Database};
use crate::shutdown::Tasks;
use crate::store::Store;
use crate::store::cluster::{Durability, PrivateCluster, reachable_dir};
use crate::telemetry::Metrics;

/// Connections to the database. A request or a turn holds one for about a millisecond.
const CONNECTIONS: u32 = 16;
/// How long calls that were told to hang up may take to do so.
const HANG_UP_WITHIN: Duration = Duration::from_secs(10);
/// How long records that calls have left may take to be put on record when all calls are over. What is not stays in the
/// spool for the next start.
const REPLAY_WITHIN: Duration = Duration::from_secs(5);
/// How long HTTP requests may take to finish when everything else has.
const HTTP_WITHIN: Duration = Duration::from_secs(5);

/// The server.
#[derive(Debug)]
pub struct App;

/// A server that is running.
#[derive(Debug)]
pub struct Running {
    /// Where it listens; the port is the real one, also when any port was asked for.
    pub addr: SocketAddr,
    /// The origin it puts into TwiML.
    pub public_url: PublicUrl,
    /// The API key.
    pub admin_key: SecretString,
    /// Whether the key was made up at this start, so that somebody has to be told.
    pub admin_key_is_new: bool,
    /// Records.
    pub store: Store,
    /// What is counted.
    pub metrics: Metrics,
    /// Live calls and other background work.
    pub tasks: Tasks,
    http: Tasks,
    spool: Spool,
    cluster: Option<PrivateCluster>,
    node: String,
    grace_period: Duration,
}

impl App {
    /// Starts everything; returns when requests are answered.
    pub async fn start(config: Config) -> anyhow::Result<Running> {
        install_tls();
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        // First, because a port that is taken is the most usual mistake and the quickest to find.
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("cannot listen on {} (VOICEBRIDGE_LISTEN)", config.listen))?;
        let addr = listener.local_addr().context("cannot tell the address that is listened on")?;
        let (store, cluster) = open_store(&config).await?;
        store.migrate().await.context("cannot bring the database schema up to date")?;
        store
            .check_roles()
            .await
            .context("requests of the API cannot be kept to one organisation (DATABASE_URL)")?;

        let (tasks, metrics) = (Tasks::new(), Metrics::new());
        let spool = Spool::open(config.data_dir.join("spool"), &metrics).await;
        let bridge = bridge(&config, &store, &spool, &tasks, &metrics)?;
        // With a public URL something passes requests of others on to us.
        let open_metrics = addr.ip().is_loopback() && config.public_url.is_none();
        let public_url = match &config.public_url {
            Some(url) => url.clone(),
            None => PublicUrl::parse(&format!("http://{addr}")).context("no public URL of this address")?,
        };
        let carrier = outbound::carrier(&config.twilio)?;
        outbound::start(&config, &public_url, carrier.as_ref(), &store, &bridge, &tasks, &metrics);
        let kaleyra = elsewhere::kaleyra(&config, &store, &tasks).await?;
        let admin_key_is_new = config.admin_key.is_none();
        let admin_key = config.admin_key.unwrap_or_else(random_key);
        let settings = Settings {
            public_url: public_url.clone(),
            twilio_auth_tokens: config.twilio.auth_tokens,
            vapi_webhook_secrets: config.vapi_webhook_secrets,
            admin_key: admin_key.clone(),
            open_metrics,
            cors_origins: config.cors_origins,
            max_calls: config.max_calls,
            node: config.node.clone(),
        };
        let http = Tasks::new();
        // Calls are steered for as long as they live, also while the server stops.
        http.spawn(bridge.clone().take_commands(http.stopping().clone()));
        let api = Api::new(settings, store.clone(), bridge, tasks.clone(), metrics.clone());
        let reach = webhooks::reach(config.webhooks_allow_private, open_metrics);
        let router = api::router(api.with_carrier(carrier).with_kaleyra(kaleyra).with_webhooks(reach));
        webhooks::start(reach, &store, &metrics, &http)?;
        http.spawn(upkeep::run(store.clone(), config.node.clone(), tasks.stopping().clone()));
        http.spawn(retention::run(store.clone(), tasks.stopping().clone()));
        serve(&http, listener, router);
        tracing::info!(%addr, %public_url, "ready for calls");
        Ok(Running {
            addr,
            public_url,
            admin_key,
            admin_key_is_new,
            store,
            metrics,
            tasks,
            http,
            spool,
            cluster,
            node: config.node,
            grace_period: config.grace_period,
        })
    }
}

impl Running {
    /// Serves until a signal, then stops; a second signal hangs up what is still live.
    pub async fn run(self, mut signals: Signals) -> anyhow::Result<()> {
        let stop = signals.next().await;
        tracing::info!(
            signal = stop,
            grace_period_s = self.grace_period.as_secs(),
            calls_live = self.metrics.calls_live.get(),
            "no new calls from now on; live ones may finish, a second signal hangs up"
        );
        self.stop_unless_hurried(async {
            signals.next().await;
        })
        .await
    }

    /// Stops: live calls may finish within the grace period.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop_unless_hurried(std::future::pending()).await
    }

    /// As [`Running::stop`], but live calls are ended as soon as `hurry` is done.
    pub async fn stop_unless_hurried(self, hurry: impl Future<Output = ()>) -> anyhow::Result<()> {
        let finished = tokio::select! {
            finished = self.tasks.drain(self.grace_period) => finished,
            () = hurry => false,
            never = self.move_calls() => never,
        };
        if !finished {
            tracing::warn!(calls_live = self.metrics.calls_live.get(), "live calls are ended now");
            self.tasks.force_hang_up();
            if !self.tasks.drain(HANG_UP_WITHIN).await {
                tracing::error!(tasks = self.tasks.running(), "some tasks did not end and are abandoned");
            }
        }
        if !self.http.drain(HTTP_WITHIN).await {
            tracing::warn!("some HTTP requests did not end and are abandoned");
        }
        if timeout(REPLAY_WITHIN, self.spool.is_replayed()).await.is_err() {
            tracing::warn!(
                "some records could not be put on record; they stay in the spool for the next start"
            );
        }
        self.spool.close().await;
        upkeep::leave(&self.store, &self.node).await;
        self.store.close().await;
        if let Some(cluster) = self.cluster {
            cluster.stop().await.context("the private PostgreSQL did not stop")?;
        }
        tracing::info!("stopped");
        Ok(())
    }

    /// Sends live calls to another server, as soon as there is one, each at its next pause. Does not return.
    async fn move_calls(&self) -> bool {
        upkeep::another_server(&self.store, &self.node).await;
        tracing::info!(
            calls_live = self.metrics.calls_live.get(),
            "live calls move to another server at their next pause"
        );
        self.tasks.move_calls();
        std::future::pending().await
    }
}

/// The same for whoever wants something of a server's records: a private database that is not there yet has none.
pub async fn open_known_store(config: &Config) -> anyhow::Result<(Store, Option<PrivateCluster>)> {
    if let Database::Private = config.database {
        let dir = reachable_dir(&config.data_dir.join("postgres"))
            .context("no place for the private PostgreSQL")?;
        anyhow::ensure!(
            PrivateCluster::is_there(&dir),
            "there is no database in {}: set VOICEBRIDGE_DATA_DIR or DATABASE_URL as the server has them",
            dir.display()
        );
    }
    open_store(config).await
}

/// Connects to the database that is configured, or starts the private one.
pub async fn open_store(config: &Config) -> anyhow::Result<(Store, Option<PrivateCluster>)> {
    let (options, cluster) = match &config.database {
        Database::Url(_) => {
            let options = config.database.connect_options().context("DATABASE_URL cannot be read")?;
            (options, None)
        }
        Database::Private => {
            let wanted = config.data_dir.join("postgres");
            let dir = reachable_dir(&wanted).context("no place for the private PostgreSQL")?;
            if dir != std::path::absolute(&wanted).context("VOICEBRIDGE_DATA_DIR cannot be resolved")? {
                tracing::info!(dir = %dir.display(), "the data is kept here, because the server cannot run as root");
            }
            let cluster = PrivateCluster::start(&dir, Durability::Full)
                .await
                .context("cannot start the private PostgreSQL (DATABASE_URL is not set)")?;
            if let Some(socket) = cluster.connect_options().get_socket() {
                let psql = format!("psql -h {} -U voicebridge voicebridge", socket.display());
                tracing::info!(psql, "the private PostgreSQL runs; look at it with this command");
            }
            (cluster.connect_options(), Some(cluster))
        }
    };
    let store = Store::connect(options, CONNECTIONS).await.context("cannot connect to the database")?;
    Ok((store, cluster))
}

/// Live calls, with what they need.
fn bridge(
    config: &Config,
    store: &Store,
    spool: &Spool,
    tasks: &Tasks,
    metrics: &Metrics,
) -> anyhow::Result<Bridge> {
    // No redirects: a function's secret header is for the server that was named.
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    Ok(Bridge::new(bridge::Parts {
        store: store.clone(),
        spool: spool.clone(),
        metrics: metrics.clone(),
        tasks: tasks.clone(),
        endpoints: Endpoints::new(endpoint(config), fallback_endpoint(config), metrics),
        defaults: defaults(config),
        http: http.build().context("cannot make an HTTP client")?,
        node: config.node.clone(),
        max_calls: config.max_calls,
    }))
}

/// Where model sessions come from.
fn endpoint(config: &Config) -> ModelEndpoint {
    ModelEndpoint::new(config.openai.realtime_url.clone(), config.openai.api_key.clone())
}

/// Where they come from when the first one does not work.
fn fallback_endpoint(config: &Config) -> Option<ModelEndpoint> {
    let (url, key) = (config.openai.fallback_url.clone()?, config.openai.fallback_api_key.clone());
    Some(ModelEndpoint::new(url, key.or_else(|| config.openai.api_key.clone())))
}

/// What agents use that name nothing of their own.
fn defaults(config: &Config) -> Defaults {
    Defaults {
        model: config.openai.model.clone(),
        transcription_model: config.openai.transcription_model.clone(),
        audio_format: config.openai.audio_format,
    }
}

/// Answers requests until `http` is stopped.
fn serve(http: &Tasks, listener: TcpListener, router: axum::Router) {
    // A frame of audio must not wait for the one before it to be acknowledged.
    let listener = listener.tap_io(|socket| {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
    });
    let stop = http.stopping().clone().cancelled_owned();
    let router = router.into_make_service_with_connect_info::<SocketAddr>();
    http.spawn(async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
}

/// One provider of cryptography for everything that speaks TLS. A second time changes nothing.
pub fn install_tls() {
    // The error is the provider that is there already: ours.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn random_key() -> SecretString {
    SecretString::from(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
}

/// SIGTERM and SIGINT, which ask for an end. Listened to before anything is started, so that none is missed.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on the signals do not end the process by themselves.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal; returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
