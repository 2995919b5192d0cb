//! Log lines: where they go and what they look like.

use std::io::IsTerminal as _;
use std::str::FromStr;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("use text or json".into()),
        }
    }
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter cannot be read.
    #[error("must be a log filter such as info or info,voicebridge=debug")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else in this process has set it up.
    #[error("logging is set up already")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Whether a log filter can be read.
pub fn check_filter(filter: &str) -> Result<(), LoggingError> {
    filter.parse::<Targets>()?;
    Ok(())
}

/// Sends log lines to standard error from now on. `filter` names levels and targets in the syntax of `RUST_LOG`, such
/// as `info,voicebridge=debug`.
// No `EnvFilter`, which also knows spans and their fields: it takes a lock that all threads share whenever a call enters
// or leaves its span, which is with each frame.
pub fn init_logging(format: LogFormat, filter: &str) -> Result<(), LoggingError> {
    let filter: Targets = filter.parse()?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(|error| LoggingError::Twice(error.into()))
}
