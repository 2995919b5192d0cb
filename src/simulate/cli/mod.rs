//! `voicebridge simulate …`: the simulated far ends as commands.

mod carrier;
mod kaleyra;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use secrecy::SecretString;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use carrier::{CarrierArgs, run_carrier};
use kaleyra::{KaleyraArgs, run_kaleyra};

use super::caller::{CallReport, CallerOptions, EndedBy, Spelling, run_many};
use super::model::{ModelOptions, ModelServer, Replies, SessionReport};
use super::network::Network;
use super::scenario::Scenario;

/// A simulated far end.
#[derive(Debug, Subcommand)]
pub enum SimulateCommand {
    /// Place calls as Twilio would: TwiML webhook, media stream, playout, marks. Prints a JSON report.
    ///
    /// The caller speaks recordings that are part of the program, or a WAV file of yours, and reports what was
    /// really heard of each answer. Point it at any server that answers with `<Connect><Stream>`.
    Caller(CallerArgs),
    /// Serve as Twilio's REST API would, with a telephone network behind it, until interrupted. Prints a JSON report.
    ///
    /// Takes `POST /2010-04-01/Accounts/{sid}/Calls.json` and the requests around it, dials what it is asked for at its
    /// own pace, rings people who answer, are busy or away, follows TwiML with media streams, and sends signed status and
    /// answering-machine callbacks. Set `TWILIO_API_URL` to the address it prints, and `TWILIO_ACCOUNT_SID` and
    /// `TWILIO_AUTH_TOKEN` as here. The report says of every request and call what was asked, when, and what came of it.
    ///
    /// PERSON is one of `answered[:SCENARIO]`, `hangs-up[:MS]`, `voicemail[:MS]`, `busy`, `no-answer`, `failed[:SIP]`,
    /// `refused:CODE`.
    /// FAULT is one of too-many (429), error-before (503, nothing is done), error-after (500, the call goes on),
    /// lost-before, lost-after (the connection is cut, the call goes on), slow.
    Carrier(CarrierArgs),
    /// Serve as Kaleyra's Voice API would, until interrupted. Prints a JSON report.
    ///
    /// Tells a log of made-up calls, the same each time for the same options, page by page to `method=dial`. Set
    /// `KALEYRA_API_URL` to the address it prints, and `KALEYRA_API_KEY` as here.
    ///
    /// FAULT is one of too-many (429 with Retry-After), error (500), lost (the connection is cut), slow.
    Kaleyra(KaleyraArgs),
    /// Serve as OpenAI's Realtime API would, until interrupted. Prints a JSON report.
    ///
    /// Runs voice activity detection on the audio it receives, answers from a script and refuses what the real
    /// service refuses. Set `OPENAI_REALTIME_URL` to the address it prints.
    Model(ModelArgs),
}

/// Options of `simulate caller`.
#[derive(Debug, Args)]
pub struct CallerArgs {
    /// Webhook that is asked for TwiML.
    #[arg(long, default_value = "http://127.0.0.1:8080/media-stream-twiml")]
    url: String,
    /// Connect here instead of to the host in URLs, which are still signed as they are.
    #[arg(long, value_name = "ADDRESS")]
    connect_to: Option<SocketAddr>,
    /// Auth token that requests are signed with; nothing is signed without it.
    #[arg(long, env = "TWILIO_AUTH_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Account the calls belong to.
    #[arg(long, env = "TWILIO_ACCOUNT_SID", default_value = "AC00000000000000000000000000000001")]
    account_sid: String,
    /// What the caller does: demo, short, brief, interrupt, agree, keypad, person, silent, random, or a .json or .toml file.
    #[arg(long, default_value = "demo")]
    scenario: String,
    /// Play this WAV file (mono, 16-bit PCM or mu-law, any rate) after the greeting, instead of a scenario.
    #[arg(long, conflicts_with = "scenario")]
    audio: Option<PathBuf>,
    /// Number of calls.
    #[arg(long, short = 'n', default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
    /// Milliseconds between the beginnings of two calls.
    #[arg(long, default_value_t = 50)]
    stagger_ms: u64,
    /// Length of random scenarios in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Decides random scenarios and jitter.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of the first caller; further calls count up.
    #[arg(long, default_value = "+14155550123")]
    from: String,
    /// Number that is called.
    #[arg(long, default_value = "+14155550100")]
    to: String,
    /// One-way delay between Twilio and the server, in milliseconds.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Up to this much more delay, at random.
    #[arg(long, default_value_t = 0)]
    jitter_ms: u64,
    /// Send a status callback here when a call is over.
    #[arg(long)]
    status_url: Option<String>,
    /// Seconds to wait for the other side to end the call after the last step.
    #[arg(long, default_value_t = 30)]
    patience: u64,
    /// Send numbers as JSON numbers, which Twilio is said to do at times.
    #[arg(long)]
    numbers: bool,
    /// Add members and events that nobody has documented.
    #[arg(long)]
    extras: bool,
    /// Write what the caller heard to this WAV file (one call only).
    #[arg(long)]
    record: Option<PathBuf>,
    /// Write the report here instead of to standard output.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// Options of `simulate model`.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:9090")]
    listen: SocketAddr,
    /// JSON file with all options of the simulated model; the options below win over it.
    #[arg(long, value_name = "FILE")]
    options: Option<PathBuf>,
    /// The only API key that is let in; any key is without it.
    #[arg(long)]
    key: Option<String>,
    /// Decides ids, sizes of deltas and tones.
    #[arg(long)]
    seed: Option<u64>,
    /// How many times faster than real time audio is generated.
    #[arg(long)]
    speed: Option<f64>,
    /// Milliseconds from the request for a response to its first audio.
    #[arg(long)]
    think_ms: Option<u64>,
    /// Answer with tones of this many milliseconds and recognise nothing: cheap, for load tests.
    #[arg(long, value_name = "MS")]
    tones: Option<u64>,
    /// JSON file with the script: a list of rules, tried in order.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    #[command(flatten)]
    faults: FaultArgs,
    /// Write the report here instead of to standard output.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// What goes wrong with every session of a simulated model.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Faults")]
struct FaultArgs {
    /// Break the connection after so many milliseconds, without a word.
    #[arg(long, value_name = "MS")]
    drop_after_ms: Option<u64>,
    /// Break it up to so much later, at random.
    #[arg(long, value_name = "MS", requires = "drop_after_ms")]
    drop_jitter_ms: Option<u64>,
    /// Say and answer nothing any more after so many milliseconds, although the connection stays.
    #[arg(long, value_name = "MS")]
    stall_after_ms: Option<u64>,
    /// Send everything so many milliseconds late.
    #[arg(long, value_name = "MS")]
    delay_ms: Option<u64>,
    /// After every so many events, send a message that nobody can read.
    #[arg(long, value_name = "N")]
    garbage_every: Option<u64>,
    /// Answer the upgrade with this HTTP status.
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(400..600))]
    refuse: Option<u16>,
    /// End the session after so many milliseconds with `session_expired`, as the real one does after an hour.
    #[arg(long, value_name = "MS")]
    expire_after_ms: Option<u64>,
    /// Fail every so many-th response.
    #[arg(long, value_name = "N")]
    fail_every: Option<u64>,
    /// The code that they fail with, such as `server_error`.
    #[arg(long, value_name = "CODE", requires = "fail_every")]
    fail_code: Option<String>,
    /// Never write down the caller's words of every so many-th turn.
    #[arg(long, value_name = "N")]
    lose_transcripts: Option<u64>,
}

impl FaultArgs {
    /// Adds what was asked for to what the file says.
    fn add_to(self, options: &mut ModelOptions) {
        let faults = &mut options.faults;
        faults.drop_after_ms = self.drop_after_ms.or(faults.drop_after_ms);
        faults.drop_jitter_ms = self.drop_jitter_ms.unwrap_or(faults.drop_jitter_ms);
        faults.freeze_after_ms = self.stall_after_ms.or(faults.freeze_after_ms);
        faults.delay_ms = self.delay_ms.unwrap_or(faults.delay_ms);
        faults.garbage_every = self.garbage_every.unwrap_or(faults.garbage_every);
        faults.refuse_upgrade = self.refuse.or(faults.refuse_upgrade);
        faults.expire_after_ms = self.expire_after_ms.or(faults.expire_after_ms);
        faults.fail_every = self.fail_every.unwrap_or(faults.fail_every);
        faults.fail_code = self.fail_code.or_else(|| faults.fail_code.take());
        let lose_every = &mut options.transcripts.lose_every;
        *lose_every = self.lose_transcripts.unwrap_or(*lose_every);
    }
}

/// What `simulate caller` prints.
#[derive(Debug, Serialize)]
struct CallerReport {
    calls: Vec<CallReport>,
}

/// Runs a simulated far end until it is done or interrupted.
pub async fn run(command: SimulateCommand) -> anyhow::Result<()> {
    match command {
        SimulateCommand::Caller(args) => run_caller(args).await,
        SimulateCommand::Carrier(args) => run_carrier(args).await,
        SimulateCommand::Kaleyra(args) => run_kaleyra(args).await,
        SimulateCommand::Model(args) => run_model(args).await,
    }
}

async fn run_caller(args: CallerArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.calls == 1 || args.record.is_none(), "--record is for one call");
    let (count, stagger, target) =
        (args.calls as usize, Duration::from_millis(args.stagger_ms), args.report.clone());
    let options = args.into_options()?;
    eprintln!("calling {} ({count} times, scenario {})", options.webhook_url, options.scenario.name);
    let calls = run_many(count, stagger, &options).await;
    for call in &calls {
        eprintln!("{}", summary(call));
    }
    let bad =
        calls.iter().filter(|call| call.ended_by == EndedBy::Error || !call.violations.is_empty()).count();
    write_report(target.as_deref(), &CallerReport { calls })?;
    anyhow::ensure!(bad == 0, "{bad} of {count} calls failed or had violations, see the report");
    Ok(())
}

async fn run_model(args: ModelArgs) -> anyhow::Result<()> {
    let (listen, target) = (args.listen, args.report.clone());
    let options = args.into_options()?;
    let server =
        ModelServer::bind(options, listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    eprintln!("simulated model: OPENAI_REALTIME_URL={}", server.url());
    interrupted().await.context("cannot wait for an interrupt")?;
    let report = server.stop().await;
    for session in &report.sessions {
        eprintln!("{}", session_summary(session));
    }
    write_report(target.as_deref(), &report)
}

/// Waits for Ctrl-C or SIGTERM.
async fn interrupted() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt,
        _ = terminate.recv() => Ok(()),
    }
}

impl CallerArgs {
    fn into_options(self) -> anyhow::Result<CallerOptions> {
        let scenario = match self.audio {
            Some(file) => Scenario::playing(file),
            None => Scenario::load(&self.scenario, self.seed)?,
        };
        let random = self.scenario == "random" && scenario.name.starts_with("random");
        Ok(CallerOptions {
            connect_to: self.connect_to,
            account_sid: self.account_sid,
            from: self.from,
            to: self.to,
            seed: self.seed,
            random_ms: random.then_some(self.seconds * 1000),
            network: Network { delay_ms: self.delay_ms, jitter_ms: self.jitter_ms },
            spelling: Spelling { numbers: self.numbers, extras: self.extras, ..Spelling::default() },
            status_url: self.status_url,
            patience: Duration::from_secs(self.patience),
            record: self.record,
            ..CallerOptions::new(self.url, self.token.map(SecretString::from), scenario)
        })
    }
}

impl ModelArgs {
    fn into_options(self) -> anyhow::Result<ModelOptions> {
        let mut options: ModelOptions = match &self.options {
            Some(path) => read_json(path)?,
            None => ModelOptions::default(),
        };
        if let Some(path) = &self.script {
            options.script = read_json(path)?;
        }
        if self.key.is_some() {
            options.api_key = self.key;
        }
        if let Some(ms) = self.tones {
            options.replies = Replies::Tones { min_ms: ms, max_ms: ms };
        }
        options.seed = self.seed.unwrap_or(options.seed);
        options.speed = self.speed.unwrap_or(options.speed);
        options.think_ms = self.think_ms.unwrap_or(options.think_ms);
        self.faults.add_to(&mut options);
        anyhow::ensure!(options.speed > 0.0, "the speed must be above 0");
        Ok(options)
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what is expected", path.display()))
}

/// One line about a call. Numbers and words stay in the report.
fn summary(call: &CallReport) -> String {
    format!(
        "{}: {:.1} s, heard {:.1} s of voice, ended by {:?}, {} violations",
        call.call_sid,
        call.duration_ms / 1000.0,
        call.heard_voice_ms() as f64 / 1000.0,
        call.ended_by,
        call.violations.len()
    )
}

fn session_summary(session: &SessionReport) -> String {
    format!(
        "{}: heard {:.1} s, {} items, {} responses, {} violations",
        session.id,
        session.received_audio_ms / 1000.0,
        session.items.len(),
        session.responses.len(),
        session.violations.len()
    )
}

#[expect(clippy::print_stdout, reason = "the report is the command's output")]
fn write_report(target: Option<&Path>, report: &impl Serialize) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(report)?;
    let Some(path) = target else {
        println!("{json}");
        return Ok(());
    };
    std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::model::Faults;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: SimulateCommand,
    }

    fn caller(args: &[&str]) -> anyhow::Result<CallerOptions> {
        let cli = Cli::try_parse_from([&["x", "caller"], args].concat())?;
        let SimulateCommand::Caller(args) = cli.command else { panic!("not a caller") };
        args.into_options()
    }

    fn model(args: &[&str]) -> anyhow::Result<ModelOptions> {
        let cli = Cli::try_parse_from([&["x", "model"], args].concat())?;
        let SimulateCommand::Model(args) = cli.command else { panic!("not a model") };
        args.into_options()
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_caller_needs_no_options() {
        let options = caller(&[]).unwrap();
        assert_eq!(options.webhook_url, "http://127.0.0.1:8080/media-stream-twiml");
        assert_eq!((options.scenario.name.as_str(), options.random_ms), ("demo", None));
    }

    #[test]
    fn random_scenarios_have_the_wished_length() {
        let options = caller(&["--scenario", "random", "--seconds", "20", "--seed", "7"]).unwrap();
        assert_eq!((options.random_ms, options.seed), (Some(20_000), 7));
    }

    #[test]
    fn mistakes_are_explained() {
        let error = caller(&["--scenario", "nonsense"]).unwrap_err().to_string();
        assert!(error.contains("no scenario `nonsense`"), "{error}");
        assert!(caller(&["--audio", "a.wav", "--scenario", "demo"]).is_err());
        assert!(model(&["--speed", "0"]).is_err());
    }

    #[test]
    fn every_fault_of_a_model_is_an_option() {
        let options = model(&[
            "--drop-after-ms=1",
            "--drop-jitter-ms=2",
            "--stall-after-ms=3",
            "--delay-ms=4",
            "--garbage-every=5",
            "--refuse=503",
            "--expire-after-ms=6",
            "--fail-every=7",
            "--fail-code=server_error",
            "--lose-transcripts=8",
        ])
        .unwrap();
        let faults = Faults {
            drop_after_ms: Some(1),
            drop_jitter_ms: 2,
            freeze_after_ms: Some(3),
            delay_ms: 4,
            garbage_every: 5,
            refuse_upgrade: Some(503),
            expire_after_ms: Some(6),
            fail_every: 7,
            fail_code: Some("server_error".into()),
            ..Faults::default()
        };
        assert_eq!((options.faults, options.transcripts.lose_every), (faults, 8));
        assert_eq!(model(&[]).unwrap().faults, Faults::default());
        assert!(model(&["--refuse=200"]).is_err() && model(&["--fail-code=x"]).is_err());
    }

    #[test]
    fn options_of_a_model_win_over_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, r#"{"think_ms": 10, "speed": 3.0, "faults": {"late_deltas": 2}}"#).unwrap();
        let path = file.path().to_str().unwrap();
        let options = model(&["--options", path, "--speed", "9"]).unwrap();
        assert_eq!((options.think_ms, options.speed, options.faults.late_deltas), (10, 9.0, 2));
        std::fs::write(&file, r#"{"thunk_ms": 10}"#).unwrap();
        assert!(model(&["--options", path]).is_err());
    }
}
