//! `voicebridge bench`: what can be chosen.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;

use super::outcome::Limit;
use crate::audio::AudioFormat;

/// Options of `bench`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER_HELP)]
pub struct BenchOptions {
    /// Bridge to measure: where it answers with TwiML (http, https), or its media stream (ws, wss). Without it this
    /// program is started as a server with a database of its own.
    #[arg(long)]
    pub url: Option<String>,
    /// What to call that bridge.
    #[arg(long, requires = "url", default_value = "bridge")]
    pub name: String,
    /// Process of that bridge, if it runs on this machine: its CPU and memory are measured with all below it.
    #[arg(long, requires = "url")]
    pub pid: Option<u32>,
    /// Address of the model's end, which that bridge must use as its Realtime endpoint. With --url it is 127.0.0.1:9090
    /// unless you say otherwise.
    #[arg(
        long,
        default_value = "127.0.0.1:0",
        default_value_if("url", clap::builder::ArgPredicate::IsPresent, "127.0.0.1:9090")
    )]
    pub model_listen: SocketAddr,
    /// Auth token that webhooks and streams are signed with; nothing is signed without it.
    #[arg(long, env = "TWILIO_AUTH_TOKEN", hide_env_values = true)]
    pub token: Option<SecretString>,
    /// Audio between bridge and model: pcm24k or pcmu. Another's bridge decides for itself; say what it does.
    #[arg(long, default_value_t = AudioFormat::Pcm24k)]
    pub format: AudioFormat,
    /// Numbers of calls to measure, one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [50, 100, 200, 300], value_parser = clap::value_parser!(u32).range(1..=3000))]
    pub calls: Vec<u32>,
    /// Look for the most calls within the limit instead, beginning with the first of --calls.
    #[arg(long)]
    pub search: bool,
    /// The search tries no more calls than this.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=3000))]
    pub most: u32,
    /// Also measure a relay that only moves bytes, turn and turn about, so that every figure is a ratio too.
    #[arg(long)]
    pub floor: bool,
    /// How often each number of calls is measured.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Seconds that are measured.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// Seconds of full load before that.
    #[arg(long, default_value = "3", value_parser = seconds)]
    pub settle: Duration,
    /// After that let nobody talk for a while, and measure what a silent call costs.
    #[arg(long)]
    pub silent: bool,
    /// New calls a second.
    #[arg(long, default_value_t = 50.0, value_parser = rate)]
    pub dial_per_s: f64,
    /// Every so many answers the caller speaks over the agent; 0 is never.
    #[arg(long, default_value_t = 4, value_parser = interrupt_every)]
    pub interrupt_every: u32,
    /// Limit: 99 % of the frames of each direction must be added no more than this, in milliseconds.
    #[arg(long, default_value_t = 20.0, value_parser = limit)]
    pub limit_p99_ms: f64,
    /// Limit: share of the frames that may be lost, from 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub limit_lost: f64,
    /// Keep up the first of --calls for so long, hanging up and dialing all the time, and watch for growth: 30m, 2h.
    #[arg(long, value_name = "TIME", value_parser = long_time, conflicts_with_all = ["search", "floor", "html", "rounds", "silent"])]
    pub soak: Option<Duration>,
    /// Decides the length of answers and the moments of interruptions.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write everything that was found here, as JSON; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots here. It needs no network.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
Examples:
  voicebridge bench --floor --format pcmu --html report.html
  voicebridge bench --search --limit-p99-ms 10
  voicebridge bench --url http://127.0.0.1:5050/incoming-call --name other --pid 1234
      (start the other bridge with ws://127.0.0.1:9090/v1/realtime as its Realtime endpoint)
  voicebridge bench --soak 30m --calls 200 --format pcmu

Use a release build; both far ends share the machine with the bridge.";

impl BenchOptions {
    pub(super) const fn limit(&self) -> Limit {
        Limit { p99_ms: self.limit_p99_ms, lost: self.limit_lost }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is expected".to_owned())?;
    if !(0.5..=86_400.0).contains(&seconds) {
        return Err("between 0.5 and 86400 seconds are expected".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn limit(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(limit) if limit.is_finite() && limit >= 0.0 => Ok(limit),
        _ => Err("a number from 0 up is expected".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share from 0 to 1 is expected, such as 0.001 for one in a thousand".to_owned()),
    }
}

fn interrupt_every(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(1) => {
            Err("if every answer is spoken over, none can be timed; 2 or more, or 0 for never".to_owned())
        }
        Ok(every) => Ok(every),
        Err(_) => Err("a whole number is expected".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.1..=1_000.0).contains(&rate) => Ok(rate),
        _ => Err("a number between 0.1 and 1000 is expected".to_owned()),
    }
}

/// `90s`, `30m`, `2h`.
fn long_time(text: &str) -> Result<Duration, String> {
    let wrong = || "a time such as 90s, 30m or 2h is expected".to_owned();
    let unit = match text.chars().last().ok_or_else(wrong)? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let time = number.checked_mul(unit).filter(|seconds| (10..=30 * 86_400).contains(seconds));
    time.map(Duration::from_secs).ok_or_else(|| "between 10s and 720h are expected".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: BenchOptions,
    }

    fn parse(line: &str) -> Result<BenchOptions, clap::Error> {
        Line::try_parse_from(std::iter::once("bench").chain(line.split_whitespace())).map(|line| line.options)
    }

    #[test]
    fn the_model_s_end_has_a_known_address_when_another_bridge_must_find_it() {
        assert_eq!(parse("").unwrap().model_listen.port(), 0);
        assert_eq!(parse("--url ws://127.0.0.1:1/x").unwrap().model_listen.port(), 9090);
    }

    #[test]
    fn numbers_and_times_are_checked() {
        assert_eq!(parse("--calls 10,20 --soak 30m").unwrap().soak, Some(Duration::from_secs(1800)));
        for wrong in [
            "--calls 0",
            "--soak 5",
            "--soak m",
            "--soak 1d",
            "--seconds 0",
            "--dial-per-s 0",
            "--pid 4",
            "--soak 1h --floor",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
