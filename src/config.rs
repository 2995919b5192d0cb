//! Environment and configuration file to [`Config`]. Every mistake is reported at once.
//!
//! The file is TOML with the same names at its top level; the environment wins over the file, and an empty value counts
//! as not set. Values are read loosely, as text, and checked here, so that one look shows all that has to be fixed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use axum::http::HeaderValue;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;

use crate::api::settings::PublicUrl;
use crate::telemetry::{self, LogFormat};
use crate::wire::model::AudioFormat;

/// One thing that can be configured.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Name in the environment and in the file.
    pub name: &'static str,
    /// What holds when it is not set; empty when nothing does.
    pub default: &'static str,
    /// What it is, in a few words.
    pub meaning: &'static str,
    /// Its value is never printed.
    pub secret: bool,
}

const fn variable(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default, meaning, secret: false }
}

const fn secret(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default, meaning, secret: true }
}

/// Everything that can be configured, for `--help` and for checking names in a file.
pub const VARIABLES: &[Variable] = &[
    variable("VOICEBRIDGE_LISTEN", "127.0.0.1:8080", "address of HTTP and WebSocket"),
    variable("PUBLIC_URL", "http://<listen>", "origin at which Twilio reaches us"),
    secret("DATABASE_URL", "private server in the data directory", "PostgreSQL 14 or newer"),
    variable("VOICEBRIDGE_DATA_DIR", "./data", "the private PostgreSQL and what else is kept"),
    secret("OPENAI_API_KEY", "", "key for the Realtime API"),
    variable("OPENAI_REALTIME_URL", "wss://api.openai.com/v1/realtime", "any compatible endpoint"),
    variable("OPENAI_REALTIME_FALLBACK_URL", "", "a second endpoint, for when the first one does not work"),
    secret("OPENAI_REALTIME_FALLBACK_API_KEY", "OPENAI_API_KEY", "key for the second endpoint"),
    variable("OPENAI_REALTIME_MODEL", "gpt-realtime-2.1", "model of agents that name none"),
    variable("OPENAI_TRANSCRIPTION_MODEL", "gpt-transcribe", "for agents that name none"),
    variable("AUDIO_FORMAT", "pcm24k", "audio of the model's side: pcm24k or pcmu"),
    variable("TWILIO_ACCOUNT_SID", "", "account for Twilio's REST API"),
    secret("TWILIO_AUTH_TOKEN", "", "checks Twilio's signatures; several separated by commas"),
    variable("TWILIO_API_URL", "https://api.twilio.com", "base of Twilio's REST API"),
    variable(
        "KALEYRA_API_URL",
        "https://api-voice.kaleyra.com/v1/",
        "Kaleyra's Voice API, whose log of calls is fetched",
    ),
    secret("KALEYRA_API_KEY", "", "key for it"),
    variable("KALEYRA_ORGANIZATION", "default", "slug of the organisation whose Kaleyra account it is"),
    variable(
        "KALEYRA_SYNC_EVERY_MIN",
        "",
        "minutes between fetches of Kaleyra's log; none by itself without",
    ),
    secret("VAPI_WEBHOOK_SECRET", "", "what VAPI shows with its reports; several separated by commas"),
    secret("VOICEBRIDGE_ADMIN_KEY", "generated at each start and printed", "API key"),
    variable("VOICEBRIDGE_CORS_ORIGINS", "", "origins whose pages may ask the API, separated by commas"),
    variable("VOICEBRIDGE_MAX_CALLS", "500", "calls that may be live at once"),
    variable(
        "VOICEBRIDGE_DIAL_CPS",
        "1",
        "calls a second asked for by all servers; what Twilio grants the account",
    ),
    variable(
        "VOICEBRIDGE_DIAL_MAX_CALLS",
        "50",
        "calls of the queue that may go on at once, on all servers; 0 is none",
    ),
    variable(
        "VOICEBRIDGE_INBOUND_RESERVE",
        "20",
        "percent of VOICEBRIDGE_MAX_CALLS kept free for inbound calls",
    ),
    variable("VOICEBRIDGE_GRACE_PERIOD_S", "300", "seconds that live calls have to finish after SIGTERM"),
    variable(
        "WEBHOOKS_ALLOW_PRIVATE",
        "false",
        "true has webhooks sent to private networks, and unencrypted",
    ),
    variable("VOICEBRIDGE_LOG", "info", "log filter, such as info,voicebridge=debug"),
    variable("VOICEBRIDGE_LOG_FORMAT", "text", "text or json"),
];

/// A checked configuration. Printing it shows no secret.
#[derive(Debug)]
pub struct Config {
    /// Address of HTTP and WebSocket.
    pub listen: SocketAddr,
    /// Origin at which Twilio reaches us; `None` is the address that is listened on.
    pub public_url: Option<PublicUrl>,
    /// Where the records are.
    pub database: Database,
    /// For the private PostgreSQL and the rest that is kept.
    pub data_dir: PathBuf,
    /// The model's side.
    pub openai: OpenAi,
    /// The carrier's side.
    pub twilio: Twilio,
    /// Calls that another system handled; `None` without a key.
    pub kaleyra: Option<Kaleyra>,
    /// What VAPI may show with its reports; empty: none is taken.
    pub vapi_webhook_secrets: Vec<SecretString>,
    /// API key; `None` has one generated.
    pub admin_key: Option<SecretString>,
    /// Origins whose pages may ask the API.
    pub cors_origins: Vec<HeaderValue>,
    /// Calls that may be live at once.
    pub max_calls: usize,
    /// How calls of the queue are made.
    pub dial: Dial,
    /// Whether webhooks may be sent to private networks, and unencrypted.
    pub webhooks_allow_private: bool,
    /// What live calls have to finish when the process is told to stop.
    pub grace_period: Duration,
    /// What is logged.
    pub log_filter: String,
    /// How it is logged.
    pub log_format: LogFormat,
    /// Name of this process among those that share the database; another one at each start.
    pub node: String,
}

/// Where the records are.
#[derive(Debug)]
pub enum Database {
    /// A PostgreSQL of ours in the data directory.
    Private,
    /// The one at this URL.
    Url(SecretString),
}

/// The model's side.
#[derive(Debug)]
pub struct OpenAi {
    /// Key; never absent for an endpoint on another machine when calls are served.
    pub api_key: Option<SecretString>,
    /// `wss`, or `ws` to a loopback address.
    pub realtime_url: Url,
    /// Asked when the other one does not work; as that one otherwise.
    pub fallback_url: Option<Url>,
    /// Key for it; `None` is the same key.
    pub fallback_api_key: Option<SecretString>,
    /// Model of agents that name none.
    pub model: String,
    /// Transcription model of agents that name none.
    pub transcription_model: String,
    /// Audio of agents that name no format.
    pub audio_format: AudioFormat,
}

/// The carrier's side.
#[derive(Debug)]
pub struct Twilio {
    /// Account for the REST API.
    pub account_sid: Option<String>,
    /// Tokens that may have signed; the first one is used for the REST API. Empty: signatures are not checked.
    pub auth_tokens: Vec<SecretString>,
    /// Base of the REST API.
    pub api_url: Url,
}

/// Kaleyra's log of calls.
#[derive(Debug)]
pub struct Kaleyra {
    /// Its Voice API.
    pub api_url: Url,
    /// Key for it.
    pub api_key: SecretString,
    /// Slug of the organisation whose account it is.
    pub organization: String,
    /// How often what is new is fetched; `None`: when somebody asks for it.
    pub sync_every: Option<Duration>,
}

/// How calls of the queue are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dial {
    /// Calls asked for a second, by all servers together.
    pub per_second: u32,
    /// Calls that may go on at once, on all servers together; 0 has this server make none.
    pub max_calls: u32,
    /// Of the calls this server can carry, those kept free for inbound ones, in percent.
    pub inbound_reserve_percent: u32,
}

impl Dial {
    /// Calls that a server may make beside those it carries.
    #[must_use]
    pub fn room(&self, max_calls: usize, live_calls: usize) -> u32 {
        let percent = usize::try_from(self.inbound_reserve_percent).unwrap_or(100);
        let reserve = max_calls.saturating_mul(percent).div_ceil(100);
        u32::try_from(max_calls.saturating_sub(live_calls).saturating_sub(reserve)).unwrap_or(u32::MAX)
    }
}

/// What the configuration is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Taking calls: everything that needs has to be there.
    Calls,
    /// Only the database, as for migrating. What is given is checked nevertheless.
    Database,
}

/// One mistake: where, what was found, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The variable, or the file.
    pub name: String,
    /// What was found, unless it is a secret.
    pub value: Option<String>,
    /// What is wrong and what to do.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value:?} {}", self.name, self.problem),
            None => write!(f, "{} {}", self.name, self.problem),
        }
    }
}

/// All mistakes of a configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(pub Vec<Mistake>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used:")?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  - {mistake}"))
    }
}

impl Config {
    /// Reads the process environment and, if there is one, the file.
    pub fn load(file: Option<&Path>, need: Need) -> Result<Self, ConfigError> {
        Self::from_parts(file, |name| std::env::var_os(name), need)
    }

    /// Reads the file and the environment given.
    pub fn from_parts(
        file: Option<&Path>,
        environment: impl Fn(&str) -> Option<OsString>,
        need: Need,
    ) -> Result<Self, ConfigError> {
        let mut reader = Reader::default();
        if let Some(file) = file {
            reader.read_file(file);
        }
        reader.read_environment(environment);
        let config = reader.config(need);
        if reader.mistakes.is_empty() { Ok(config) } else { Err(ConfigError(reader.mistakes)) }
    }

    /// What is allowed but has to be known, as sentences.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.twilio.auth_tokens.is_empty() {
            warnings.push(
                "TWILIO_AUTH_TOKEN is not set: SIGNATURES ARE NOT CHECKED. Whoever can reach this address, also through \
                 a tunnel or proxy, can pretend to be Twilio. Right for trying things out on one machine; set it \
                 before taking real calls."
                    .to_owned(),
            );
        }
        if let Some(url) = self.public_url.as_ref().filter(|url| !url.is_secure()) {
            warnings.push(format!(
                "PUBLIC_URL={url} is not https: Twilio opens media streams over TLS only, so no real call can connect."
            ));
        }
        warnings
    }
}

/// Takes values one by one and notes what is wrong with them.
#[derive(Default)]
struct Reader {
    values: BTreeMap<&'static str, String>,
    mistakes: Vec<Mistake>,
}

impl Reader {
    fn read_file(&mut self, path: &Path) {
        let shown = path.display().to_string();
        let source = config::File::from(path).format(config::FileFormat::Toml).required(true);
        let read = config::Config::builder()
            .add_source(source)
            .build()
            .and_then(config::Config::try_deserialize::<BTreeMap<String, config::Value>>);
        let values = match read {
            Ok(values) => values,
            // The reason may quote the line at fault, and that line may hold a secret.
            Err(_) if path.is_file() => {
                self.mistake(&shown, None, "is not valid TOML: write NAME = \"value\" lines, each name once");
                return;
            }
            Err(_) => {
                self.mistake(&shown, None, "cannot be read: does the file exist?");
                return;
            }
        };
        for (name, value) in values {
            let Some(variable) = VARIABLES.iter().find(|variable| variable.name == name) else {
                self.mistake(
                    &name,
                    None,
                    &format!("in {shown} is not a name we know; see --help for all names"),
                );
                continue;
            };
            match value.into_string() {
                Ok(text) => self.set(variable.name, &text),
                Err(_) => {
                    self.mistake(variable.name, None, &format!("in {shown} must be a text or a number"));
                }
            }
        }
    }

    fn read_environment(&mut self, environment: impl Fn(&str) -> Option<OsString>) {
        for Variable { name, .. } in VARIABLES {
            match environment(name).map(OsString::into_string) {
                Some(Ok(text)) => self.set(name, &text),
                Some(Err(_)) => self.mistake(name, None, "is not valid UTF-8"),
                None => {}
            }
        }
    }

    fn set(&mut self, name: &'static str, text: &str) {
        let text = text.trim();
        if !text.is_empty() {
            self.values.insert(name, text.to_owned());
        }
    }

    fn config(&mut self, need: Need) -> Config {
        let listen = self.listen();
        let public_url = self.parsed("PUBLIC_URL", |text| PublicUrl::parse(text).map_err(|e| e.to_string()));
        let database = self.database();
        let openai = self.openai();
        let twilio = self.twilio();
        let kaleyra = self.kaleyra();
        let vapi_webhook_secrets = self.vapi_webhook_secrets();
        let admin_key = self.admin_key();
        let max_calls = self.number("VOICEBRIDGE_MAX_CALLS", 500, 1..=100_000);
        let dial = Dial {
            per_second: self.number("VOICEBRIDGE_DIAL_CPS", 1, 1..=100) as u32,
            max_calls: self.number("VOICEBRIDGE_DIAL_MAX_CALLS", 50, 0..=100_000) as u32,
            inbound_reserve_percent: self.number("VOICEBRIDGE_INBOUND_RESERVE", 20, 0..=100) as u32,
        };
        let cors_origins = self.parsed("VOICEBRIDGE_CORS_ORIGINS", cors_origins).unwrap_or_default();
        let grace_period_s = self.number("VOICEBRIDGE_GRACE_PERIOD_S", 300, 0..=86_400);
        let log_filter = self.parsed("VOICEBRIDGE_LOG", |text| {
            telemetry::check_filter(text).map(|()| text.to_owned()).map_err(|e| e.to_string())
        });
        let webhooks_allow_private = self.parsed("WEBHOOKS_ALLOW_PRIVATE", |text| {
            text.parse().map_err(|_| "must be true or false".to_owned())
        });
        let config = Config {
            listen,
            public_url,
            database,
            data_dir: self.values.get("VOICEBRIDGE_DATA_DIR").map_or_else(|| "./data".into(), PathBuf::from),
            openai,
            twilio,
            kaleyra,
            vapi_webhook_secrets,
            admin_key,
            cors_origins,
            max_calls: max_calls as usize,
            dial,
            webhooks_allow_private: webhooks_allow_private.unwrap_or_default(),
            grace_period: Duration::from_secs(grace_period_s),
            log_filter: log_filter.unwrap_or_else(|| "info".to_owned()),
            log_format: self.parsed("VOICEBRIDGE_LOG_FORMAT", str::parse).unwrap_or_default(),
            node: node_name(),
        };
        if need == Need::Calls {
            self.check_for_calls(&config);
        }
        config
    }

    /// Rules between several values, for those who take calls.
    fn check_for_calls(&mut self, config: &Config) {
        if !config.listen.ip().is_loopback() {
            let listen = Some(config.listen.to_string());
            if config.twilio.auth_tokens.is_empty() && !self.is_at_fault("TWILIO_AUTH_TOKEN") {
                self.mistake(
                    "VOICEBRIDGE_LISTEN",
                    listen.clone(),
                    "can be reached from other machines, so signatures must be checked: set TWILIO_AUTH_TOKEN, or \
                     listen on 127.0.0.1",
                );
            }
            if config.public_url.is_none() && !self.is_at_fault("PUBLIC_URL") {
                self.mistake(
                    "VOICEBRIDGE_LISTEN",
                    listen,
                    "is not how Twilio reaches us: set PUBLIC_URL, such as https://voice.example.com",
                );
            }
        }
        let openai = &config.openai;
        let remote_model = openai.realtime_url.scheme() == "wss";
        if remote_model && openai.api_key.is_none() && !self.is_at_fault("OPENAI_API_KEY") {
            self.mistake(
                "OPENAI_API_KEY",
                None,
                "is not set: set it, or try things out with `voicebridge demo`, which needs no key",
            );
        }
        let remote_fallback = openai.fallback_url.as_ref().is_some_and(|url| url.scheme() == "wss");
        let keyless = openai.api_key.is_none() && openai.fallback_api_key.is_none();
        let told = remote_model || self.is_at_fault("OPENAI_REALTIME_FALLBACK_API_KEY");
        if remote_fallback && keyless && !told && !self.is_at_fault("OPENAI_API_KEY") {
            self.mistake(
                "OPENAI_REALTIME_FALLBACK_API_KEY",
                None,
                "is not set, nor is OPENAI_API_KEY: the second endpoint needs one of them",
            );
        }
        if openai.fallback_url.is_none()
            && openai.fallback_api_key.is_some()
            && !self.is_at_fault("OPENAI_REALTIME_FALLBACK_URL")
        {
            self.mistake(
                "OPENAI_REALTIME_FALLBACK_API_KEY",
                None,
                "is set, but OPENAI_REALTIME_FALLBACK_URL is not: set both, or neither",
            );
        }
    }

    fn listen(&mut self) -> SocketAddr {
        let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
        self.parsed("VOICEBRIDGE_LISTEN", |text| {
            let address = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
            address.as_deref().unwrap_or(text).parse().map_err(|_| {
                "must be an address and a port, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::1]:8080".to_owned()
            })
        })
        .unwrap_or(default)
    }

    fn database(&mut self) -> Database {
        let url = self.parsed("DATABASE_URL", |text| {
            let scheme = text.starts_with("postgres://") || text.starts_with("postgresql://");
            if scheme && PgConnectOptions::from_str(text).is_ok() {
                Ok(SecretString::from(text))
            } else {
                Err("must look like postgres://user:password@host:5432/database".to_owned())
            }
        });
        url.map_or(Database::Private, Database::Url)
    }

    fn openai(&mut self) -> OpenAi {
        let realtime_url = self.parsed("OPENAI_REALTIME_URL", |text| url_over_tls(text, "ws", "wss"));
        let text = |reader: &Self, name: &'static str| {
            let default = VARIABLES.iter().find(|variable| variable.name == name).map_or("", |v| v.default);
            reader.values.get(name).map_or_else(|| default.to_owned(), Clone::clone)
        };
        OpenAi {
            api_key: self.parsed("OPENAI_API_KEY", |text| one_word(text).map(SecretString::from)),
            realtime_url: realtime_url.unwrap_or_else(|| known_url("wss://api.openai.com/v1/realtime")),
            fallback_url: self.parsed("OPENAI_REALTIME_FALLBACK_URL", |text| url_over_tls(text, "ws", "wss")),
            fallback_api_key: self
                .parsed("OPENAI_REALTIME_FALLBACK_API_KEY", |text| one_word(text).map(SecretString::from)),
            model: text(self, "OPENAI_REALTIME_MODEL"),
            transcription_model: text(self, "OPENAI_TRANSCRIPTION_MODEL"),
            audio_format: self
                .parsed("AUDIO_FORMAT", |text| text.parse().map_err(|_| "must be pcm24k or pcmu".to_owned()))
                .unwrap_or_default(),
        }
    }

    fn twilio(&mut self) -> Twilio {
        let account_sid = self.parsed("TWILIO_ACCOUNT_SID", |text| {
            let digits = text.strip_prefix("AC").unwrap_or_default();
            let fits = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if fits { Ok(text.to_owned()) } else { Err("must be AC and 32 hexadecimal digits".to_owned()) }
        });
        let auth_tokens = self.parsed("TWILIO_AUTH_TOKEN", |text| {
            let tokens = text.split(',').map(str::trim).filter(|token| !token.is_empty());
            let tokens =
                tokens.map(|token| one_word(token).map(SecretString::from)).collect::<Result<Vec<_>, _>>()?;
            if tokens.is_empty() { Err("holds no token".to_owned()) } else { Ok(tokens) }
        });
        let auth_tokens = auth_tokens.unwrap_or_default();
        if account_sid.is_some() && auth_tokens.is_empty() && !self.is_at_fault("TWILIO_AUTH_TOKEN") {
            self.mistake("TWILIO_AUTH_TOKEN", None, "is not set, but TWILIO_ACCOUNT_SID is: set both");
        }
        let api_url = self.parsed("TWILIO_API_URL", |text| url_over_tls(text, "http", "https"));
        let api_url = api_url.unwrap_or_else(|| known_url("https://api.twilio.com"));
        Twilio { account_sid, auth_tokens, api_url }
    }

    fn kaleyra(&mut self) -> Option<Kaleyra> {
        const LONGEST_PAUSE_MIN: u64 = 7 * 24 * 60;
        let api_url = self.parsed("KALEYRA_API_URL", |text| url_over_tls(text, "http", "https"));
        let api_key = self.parsed("KALEYRA_API_KEY", |text| one_word(text).map(SecretString::from));
        let organization = self.parsed("KALEYRA_ORGANIZATION", |text| {
            let fits = text.len() <= 63
                && !text.starts_with('-')
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            if fits {
                Ok(text.to_owned())
            } else {
                Err("must be the slug of an organisation, such as default".to_owned())
            }
        });
        let every_min = self.number("KALEYRA_SYNC_EVERY_MIN", 0, 1..=LONGEST_PAUSE_MIN);
        if every_min > 0 && api_key.is_none() && !self.is_at_fault("KALEYRA_API_KEY") {
            self.mistake(
                "KALEYRA_API_KEY",
                None,
                "is not set, but KALEYRA_SYNC_EVERY_MIN is: set both, or neither",
            );
        }
        Some(Kaleyra {
            api_url: api_url.unwrap_or_else(|| known_url("https://api-voice.kaleyra.com/v1/")),
            api_key: api_key?,
            organization: organization.unwrap_or_else(|| "default".to_owned()),
            sync_every: (every_min > 0).then(|| Duration::from_secs(every_min * 60)),
        })
    }

    fn vapi_webhook_secrets(&mut self) -> Vec<SecretString> {
        let secrets = self.parsed("VAPI_WEBHOOK_SECRET", |text| {
            let secrets = text.split(',').map(str::trim).filter(|secret| !secret.is_empty());
            let secrets = secrets.map(|secret| hard_to_guess(secret).map(SecretString::from));
            let secrets = secrets.collect::<Result<Vec<_>, _>>()?;
            if secrets.is_empty() { Err("holds no secret".to_owned()) } else { Ok(secrets) }
        });
        secrets.unwrap_or_default()
    }

    fn admin_key(&mut self) -> Option<SecretString> {
        self.parsed("VOICEBRIDGE_ADMIN_KEY", |text| hard_to_guess(text).map(SecretString::from))
    }

    fn number(&mut self, name: &'static str, default: u64, range: std::ops::RangeInclusive<u64>) -> u64 {
        let (least, most) = (*range.start(), *range.end());
        let read = self.parsed(name, |text| match text.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(format!("must be a whole number from {least} to {most}")),
        });
        read.unwrap_or(default)
    }

    /// The value if there is one and it can be read; what is wrong with it is noted.
    fn parsed<T>(&mut self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.values.get(name)?.clone();
        match parse(&text) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.mistake(name, shown(name, &text), &problem);
                None
            }
        }
    }

    fn mistake(&mut self, name: &str, value: Option<String>, problem: &str) {
        self.mistakes.push(Mistake { name: name.to_owned(), value, problem: problem.to_owned() });
    }

    /// True when a mistake about it is noted already: no second one that only follows from it.
    fn is_at_fault(&self, name: &str) -> bool {
        self.mistakes.iter().any(|mistake| mistake.name == name)
    }
}

/// A value for a message; nothing when it may hold a secret.
fn shown(name: &str, text: &str) -> Option<String> {
    let secret = VARIABLES.iter().any(|variable| variable.name == name && variable.secret);
    // URLs can carry a password before an @.
    (!secret && !text.contains('@')).then(|| text.to_owned())
}

/// Origins separated by commas, as browsers spell them.
fn cors_origins(text: &str) -> Result<Vec<HeaderValue>, String> {
    let origins = text.split(',').map(str::trim).filter(|origin| !origin.is_empty());
    let parse = |origin: &str| {
        let parsed = PublicUrl::parse(origin).map_err(|error| format!("{origin}: {error}"))?;
        HeaderValue::from_str(&parsed.as_str().to_ascii_lowercase())
            .map_err(|error| format!("{origin}: {error}"))
    };
    origins.map(parse).collect()
}

/// A URL that is encrypted, or stays on this machine.
fn url_over_tls(text: &str, plain: &str, encrypted: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|_| format!("is not a URL such as {encrypted}://example.com"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user name or password".to_owned());
    }
    if url.fragment().is_some() {
        return Err("must not contain a fragment (#…)".to_owned());
    }
    match url.scheme() {
        scheme if scheme == encrypted => Ok(url),
        scheme if scheme == plain && is_loopback(&url) => Ok(url),
        scheme if scheme == plain => Err(format!(
            "would send secrets and speech unencrypted: use {encrypted}:// ({plain}:// only to 127.0.0.1)"
        )),
        _ => Err(format!("must begin with {encrypted}://")),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or(host == "localhost", |address| address.is_loopback())
}

/// A text that can travel in a header.
fn one_word(text: &str) -> Result<&str, String> {
    let fits = text.bytes().all(|b| b.is_ascii_graphic());
    fits.then_some(text).ok_or_else(|| "must be printable ASCII characters without spaces".to_owned())
}

/// One word that is not found by asking often enough.
fn hard_to_guess(text: &str) -> Result<&str, String> {
    const SHORTEST: usize = 16;
    match one_word(text)? {
        key if key.len() < SHORTEST => Err(format!(
            "is too short: use at least {SHORTEST} characters, such as from `openssl rand -hex 32`"
        )),
        key => Ok(key),
    }
}

fn known_url(text: &'static str) -> Url {
    text.parse().expect("a URL in this file can be read")
}

/// The random end of a version 7 UUID: short enough for a log line, different for each process.
fn node_name() -> String {
    let id = uuid::Uuid::now_v7().simple().to_string();
    format!("node-{}", &id[20..])
}

impl Database {
    /// How to connect; `None` for the private one, which says so itself when it has started.
    #[must_use]
    pub fn connect_options(&self) -> Option<PgConnectOptions> {
        match self {
            Self::Private => None,
            Self::Url(url) => PgConnectOptions::from_str(url.expose_secret()).ok(),
        }
    }
}
