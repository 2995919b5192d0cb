//! The command line.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use secrecy::ExposeSecret;
use voicebridge::app::keys::{self, KeysCommand};
use voicebridge::app::{self, App, Signals, check, privacy};
use voicebridge::bench::{self, cli::BenchOptions, floor::RelayOptions};
use voicebridge::config::{Config, Need, VARIABLES};
use voicebridge::demo::{self, DemoOptions};
use voicebridge::score::{self, ScoreOptions};
use voicebridge::simulate::cli::SimulateCommand;
use voicebridge::telemetry::LogFormat;
use voicebridge::{api, simulate, telemetry};

/// Connects phone calls to speech-to-speech models in real time and keeps the truth of what was said.
#[derive(Parser)]
#[command(version, subcommand_required = true, arg_required_else_help = true)]
struct CommandLine {
    /// TOML file with the same names as the environment, which wins over it.
    #[arg(long, global = true, env = "VOICEBRIDGE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Takes calls: HTTP, webhooks and media streams.
    Serve,
    /// Brings the database schema up to date, and ends.
    Migrate,
    /// Removes now what organisations do not want to keep any longer, as happens every night, or says what that is.
    Retention(privacy::RetentionOptions),
    /// Deletes everything about a telephone number or a lead, or says what that is.
    Erase(privacy::EraseOptions),
    /// Looks at settings, public URL, database, model and Twilio account, and says what to fix.
    Check,
    /// A whole call on this machine with simulated far ends, checked.
    Demo(DemoOptions),
    /// How well signs of listening ("mm-hm") and coughs over the agent are told from interruptions, counted.
    Score(ScoreOptions),
    /// The far ends by themselves: a caller or a carrier as Twilio has them, a model as `OpenAI` offers one.
    #[command(subcommand)]
    Simulate(Box<SimulateCommand>),
    /// Load and latency of any bridge reachable by URL, or of this one: a table, JSON, and a page with plots.
    Bench(Box<BenchOptions>),
    /// Moves bytes from connection to connection and does nothing else: the floor of a benchmark.
    Relay(RelayOptions),
    /// Keys of the API: makes, lists, rotates and revokes them, without a server.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Prints the `OpenAPI` document.
    Openapi,
}

fn main() -> ExitCode {
    let help = format!("{}\nSee `voicebridge <command> --help` for one command.", settings_help());
    let matches = CommandLine::command().after_help(help).get_matches();
    let result = CommandLine::from_arg_matches(&matches).map_err(anyhow::Error::from).and_then(run);
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("voicebridge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(CommandLine { config, command }: CommandLine) -> anyhow::Result<ExitCode> {
    let file = config.as_deref();
    match command {
        Command::Serve => {
            let config = Config::load(file, Need::Calls)?;
            telemetry::init_logging(config.log_format, &config.log_filter)?;
            let mut signals = Signals::listen().context("cannot listen for signals")?;
            let running = tokio::select! {
                running = App::start(config) => running?,
                _ = signals.next() => return Ok(ExitCode::SUCCESS),
            };
            if running.admin_key_is_new {
                // Not through the log: logs are kept and read by others.
                eprintln!(
                    "API key of this run (set VOICEBRIDGE_ADMIN_KEY to keep one): {}",
                    running.admin_key.expose_secret()
                );
            }
            running.run(signals).await?;
        }
        Command::Migrate => {
            let config = Config::load(file, Need::Database)?;
            telemetry::init_logging(config.log_format, &config.log_filter)?;
            let (store, cluster) = app::open_store(&config).await?;
            let migrated = store.migrate().await.context("cannot bring the database schema up to date");
            store.close().await;
            if let Some(cluster) = cluster {
                cluster.stop().await?;
            }
            migrated?;
            println!("the database schema is up to date");
        }
        Command::Retention(options) => {
            let config = Config::load(file, Need::Database)?;
            telemetry::init_logging(config.log_format, &config.log_filter)?;
            privacy::remove_old(&config, &options).await?;
        }
        Command::Erase(options) => {
            let config = Config::load(file, Need::Database)?;
            telemetry::init_logging(config.log_format, &config.log_filter)?;
            privacy::erase(&config, &options).await?;
        }
        Command::Check => {
            let config = Config::load(file, Need::Calls)?;
            telemetry::init_logging(config.log_format, "error")?;
            let good = check::check(&config, |finding| println!("{finding}")).await;
            return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Keys(command) => {
            let config = Config::load(file, Need::Database)?;
            telemetry::init_logging(config.log_format, "warn")?;
            print!("{}", keys::run(&config, command).await?);
        }
        Command::Demo(options) => {
            telemetry::init_logging(LogFormat::Text, "warn")?;
            return Ok(if Box::pin(demo::run(options)).await? {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Command::Score(options) => {
            telemetry::init_logging(LogFormat::Text, "error")?;
            let good = Box::pin(score::run(options)).await?;
            return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Simulate(command) => {
            telemetry::init_logging(LogFormat::Text, "warn")?;
            app::install_tls();
            simulate::cli::run(*command).await?;
        }
        Command::Bench(options) => {
            telemetry::init_logging(LogFormat::Text, "warn")?;
            app::install_tls();
            let signals = Signals::listen().context("cannot listen for signals")?;
            let good = Box::pin(bench::run(*options, signals)).await?;
            return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Relay(options) => {
            telemetry::init_logging(LogFormat::Text, "warn")?;
            let signals = Signals::listen().context("cannot listen for signals")?;
            bench::floor::relay(options, signals).await?;
        }
        Command::Openapi => match writeln!(io::stdout(), "{}", api::openapi_json()) {
            // Whoever reads it has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// All settings as a table.
fn settings_help() -> String {
    let mut help = String::from("Settings (environment, or the file given by --config):\n");
    for variable in VARIABLES {
        let default = match variable.default {
            "" => String::new(),
            default => format!(" [default: {default}]"),
        };
        let _ = writeln!(help, "  {:<27} {}{default}", variable.name, variable.meaning);
    }
    help
}
