//! `voicebridge check`: looks at everything a call will need, and says what to fix.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;

use crate::app::{self, elsewhere, install_tls, outbound};
use crate::bridge;
use crate::bridge::model_socket::ModelEndpoint;
use crate::clients::twilio::RestError;
use crate::config::{self, Config, Database};
use crate::ingest::kaleyra::record::day_of;
use crate::store::cluster::PrivateCluster;
use crate::store::tenancy::RoleError;
use crate::store::{Store, organisations};

/// Longest to wait for somebody else's server.
const WITHIN: Duration = Duration::from_secs(10);

/// One thing that was looked at.
#[derive(Debug)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// How it is.
    pub verdict: Verdict,
}

/// How a thing is.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good(String),
    /// Calls can be taken, but somebody should know.
    Note(String),
    /// Has to be fixed.
    Bad(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, text) = match &self.verdict {
            Verdict::Good(text) => ("ok  ", text),
            Verdict::Note(text) => ("note", text),
            Verdict::Bad(text) => ("FIX ", text),
        };
        write!(f, "{word}  {:<12} {text}", self.what)
    }
}

/// Looks at everything, one after the other, and hands each finding out as it comes. True when nothing has to be fixed.
pub async fn check(config: &Config, mut tell: impl FnMut(Finding)) -> bool {
    install_tls();
    let mut good = true;
    let mut note = |what, verdict: Verdict| {
        good &= !matches!(verdict, Verdict::Bad(_));
        tell(Finding { what, verdict });
    };
    note("settings", Verdict::Good("all values can be used".to_owned()));
    for warning in config.warnings() {
        note("settings", Verdict::Note(warning));
    }
    note("database", database(config).await);
    note("model", model(config).await);
    if let Some(fallback) = app::fallback_endpoint(config) {
        note("fallback", fallback_model(config, &fallback).await);
    }
    note("twilio", twilio(config).await);
    if let Some(configured) = &config.kaleyra {
        note("kaleyra", kaleyra(configured).await);
        if let Some(missing) = missing_organization(config, configured).await {
            note("kaleyra", missing);
        }
    }
    match http_client() {
        Ok(client) => {
            note("public URL", public_url(&client, config).await);
        }
        Err(error) => note("network", Verdict::Bad(format!("no HTTP client: {error}"))),
    }
    good
}

async fn database(config: &Config) -> Verdict {
    let (store, cluster, what) = match &config.database {
        Database::Url(_) => {
            let Some(options) = config.database.connect_options() else {
                return Verdict::Bad("DATABASE_URL cannot be read".to_owned());
            };
            (Store::connect(options, 1).await, None, "DATABASE_URL can be reached")
        }
        // The one in the data directory may be in use by a server that runs.
        Database::Private => match PrivateCluster::start_throwaway().await {
            Ok(cluster) => {
                let store = Store::connect(cluster.connect_options(), 1).await;
                (store, Some(cluster), "a private PostgreSQL can be started")
            }
            Err(error) => return Verdict::Bad(error.to_string()),
        },
    };
    let answer = match store {
        Ok(store) => match store.check_roles().await {
            // Without our schema there is nothing to ask yet.
            Err(RoleError::Database(_)) | Ok(()) => store.ping().await.map(|()| None),
            Err(problem) => Ok(Some(problem)),
        },
        Err(error) => Err(error),
    };
    if let Some(cluster) = cluster
        && let Err(error) = cluster.stop().await
    {
        return Verdict::Bad(error.to_string());
    }
    match answer {
        Ok(None) => Verdict::Good(what.to_owned()),
        Ok(Some(problem)) => Verdict::Bad(problem.to_string()),
        Err(error) => Verdict::Bad(format!("does not answer: {error}")),
    }
}

async fn model(config: &Config) -> Verdict {
    let openai = &config.openai;
    match bridge::probe(&app::endpoint(config), &app::defaults(config)).await {
        Ok(()) => {
            let host = openai.realtime_url.host_str().unwrap_or_default();
            Verdict::Good(format!("a session with {} at {host} can be opened", openai.model))
        }
        Err(error) => Verdict::Bad(format!(
            "no session with {}: {error}; check OPENAI_API_KEY, OPENAI_REALTIME_URL and OPENAI_REALTIME_MODEL",
            openai.model
        )),
    }
}

async fn fallback_model(config: &Config, fallback: &ModelEndpoint) -> Verdict {
    match bridge::probe(fallback, &app::defaults(config)).await {
        Ok(()) => Verdict::Good(format!("a session with {} can be opened there, too", config.openai.model)),
        // Calls can be taken as long as the first one works, but that is what it is for.
        Err(error) => Verdict::Bad(format!(
            "no session with {}: {error}; check OPENAI_REALTIME_FALLBACK_URL and OPENAI_REALTIME_FALLBACK_API_KEY",
            config.openai.model
        )),
    }
}

async fn twilio(config: &Config) -> Verdict {
    let carrier = match outbound::carrier(&config.twilio) {
        Ok(Some(carrier)) => carrier,
        Ok(None) => {
            return Verdict::Note(
                "TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN are not both set, not looked at: no calls can be made, \
                 only taken"
                    .to_owned(),
            );
        }
        Err(error) => return Verdict::Bad(error.to_string()),
    };
    match carrier.check_account().await {
        Ok(()) => Verdict::Good("the account can be used".to_owned()),
        Err(RestError::NotProcessed { about_account: true, .. }) => Verdict::Bad(
            "refused: TWILIO_AUTH_TOKEN is not the (first) token of TWILIO_ACCOUNT_SID".to_owned(),
        ),
        Err(error) if error.is_call_over() => {
            Verdict::Bad("there is no such account: check TWILIO_ACCOUNT_SID".to_owned())
        }
        Err(error) => Verdict::Bad(format!("TWILIO_API_URL is of no use: {error}")),
    }
}

async fn kaleyra(configured: &config::Kaleyra) -> Verdict {
    let account = match elsewhere::kaleyra_account(configured) {
        Ok(account) => account,
        Err(error) => return Verdict::Bad(error.to_string()),
    };
    match timeout(WITHIN, account.check_account(day_of(Timestamp::now()))).await {
        Ok(Ok(())) => Verdict::Good("the log of calls can be fetched".to_owned()),
        Ok(Err(error)) => Verdict::Bad(error.to_string()),
        Err(_) => Verdict::Bad("KALEYRA_API_URL does not answer in time".to_owned()),
    }
}

/// What to say when nobody has the records that would be fetched. The private database may be in use by a server that runs,
/// which says it itself; one that cannot be asked or has no schema has been told of already.
async fn missing_organization(config: &Config, configured: &config::Kaleyra) -> Option<Verdict> {
    let Database::Url(_) = &config.database else { return None };
    let store = Store::connect(config.database.connect_options()?, 1).await.ok()?;
    let found = organisations::by_slug_or_id(&store, &configured.organization).await.ok()?;
    found.is_none().then(|| {
        Verdict::Bad(format!(
            "KALEYRA_ORGANIZATION={} names no organisation that is there: make it with POST /api/organisations",
            configured.organization
        ))
    })
}

async fn public_url(client: &reqwest::Client, config: &Config) -> Verdict {
    let Some(url) = &config.public_url else {
        return Verdict::Note(
            "PUBLIC_URL is not set: only programs on this machine can place calls".to_owned(),
        );
    };
    match client.get(url.join("/healthz")).send().await {
        Ok(answer) if answer.status().is_success() => {
            Verdict::Good(format!("{url} leads to a running server"))
        }
        Ok(answer) => Verdict::Note(format!(
            "{url}/healthz answered {}: when the server runs, check what the proxy or tunnel passes on",
            answer.status()
        )),
        Err(error) => Verdict::Note(format!(
            "{url} does not answer ({}): right while no server runs, otherwise check DNS, proxy or tunnel",
            cause(&error)
        )),
    }
}

fn http_client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().timeout(WITHIN).redirect(reqwest::redirect::Policy::none()).build()
}

/// The innermost reason, without the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
