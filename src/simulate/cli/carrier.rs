//! `voicebridge simulate carrier`: its options.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use secrecy::SecretString;

use super::{interrupted, write_report};
use crate::simulate::carrier::{Carrier, CarrierOptions, Delivery, Fault, Faults, People, Person};

/// Options of `simulate carrier`.
#[derive(Debug, Args)]
pub struct CarrierArgs {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:9091")]
    listen: SocketAddr,
    /// Auth token: requests must carry it, callbacks are signed with it.
    #[arg(long, env = "TWILIO_AUTH_TOKEN", hide_env_values = true)]
    token: String,
    /// The only account there is.
    #[arg(long, env = "TWILIO_ACCOUNT_SID", default_value = "AC00000000000000000000000000000001")]
    account_sid: String,
    /// A number the account may call from; may be given several times, any number is good without it.
    #[arg(long = "number", value_name = "E164")]
    numbers: Vec<String>,
    /// Calls that are dialed a second; others wait, as on a new account at one a second.
    #[arg(long, default_value_t = 1.0)]
    cps: f64,
    /// Requests at the same time; more are answered with 429.
    #[arg(long, default_value_t = 100)]
    most_requests: usize,
    /// What takes a second (ringing, detecting machines, speaking texts) takes so many. Media streams keep real time.
    #[arg(long, default_value_t = 1.0)]
    pace: f64,
    /// Decides what is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Who belongs to numbers that end so; the first that fits decides. May be given several times.
    #[arg(long = "person", value_name = "ENDING=PERSON", value_parser = pair::<String, Person>)]
    people: Vec<(String, Person)>,
    /// Everybody else: so many parts of them are so, drawn anew for every call. May be given several times.
    #[arg(long = "share", value_name = "PARTS=PERSON", value_parser = pair::<u32, Person>)]
    mix: Vec<(u32, Person)>,
    /// Send callbacks and open streams here instead of to the host in URLs, which are still signed as they are.
    #[arg(long, value_name = "ADDRESS")]
    connect_to: Option<SocketAddr>,
    /// Milliseconds after which a new call is in lists.
    #[arg(long, default_value_t = 0)]
    list_lag_ms: u64,
    /// Answer updates of calls that are over with 404 instead of 400.
    #[arg(long)]
    forgets: bool,
    #[command(flatten)]
    trouble: TroubleArgs,
    /// Write the report here instead of to standard output.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// What goes wrong at a simulated carrier.
#[derive(Debug, Args)]
#[command(next_help_heading = "Faults")]
struct TroubleArgs {
    /// What goes wrong with the so many-th request for a call. May be given several times.
    #[arg(long = "fault", value_name = "NTH=FAULT", value_parser = pair::<u64, Fault>)]
    list: Vec<(u64, Fault)>,
    /// How often of one time this goes wrong with requests for calls. May be given several times.
    #[arg(long = "fault-share", value_name = "SHARE=FAULT", value_parser = pair::<f64, Fault>)]
    shares: Vec<(f64, Fault)>,
    /// The shares hold for all other requests, too.
    #[arg(long)]
    everywhere: bool,
    /// How late slow answers are, in milliseconds.
    #[arg(long, default_value_t = 8000)]
    slow_ms: u64,
    /// How often of one time a callback comes after the next one.
    #[arg(long, default_value_t = 0.0)]
    disordered: f64,
    /// How often of one time a callback comes twice.
    #[arg(long, default_value_t = 0.0)]
    twice: f64,
    /// How often of one time a callback is late.
    #[arg(long, default_value_t = 0.0)]
    late: f64,
    /// How late, in milliseconds.
    #[arg(long, default_value_t = 5000)]
    late_ms: u64,
    /// How often of one time a callback is lost.
    #[arg(long, default_value_t = 0.0)]
    lost: f64,
}

/// Reads `left=right`.
pub(super) fn pair<L: FromStr, R: FromStr<Err = String>>(text: &str) -> Result<(L, R), String> {
    let (left, right) = text.split_once('=').ok_or_else(|| format!("`{text}` has no `=`"))?;
    let left = left.parse().map_err(|_| format!("`{left}` is not what belongs before the `=`"))?;
    Ok((left, right.parse()?))
}

impl CarrierArgs {
    fn into_options(self) -> anyhow::Result<CarrierOptions> {
        let Self { trouble, .. } = self;
        anyhow::ensure!(
            self.cps > 0.0 && self.cps <= 1000.0,
            "calls per second must be above 0 and at most 1000"
        );
        anyhow::ensure!(self.pace > 0.0 && self.pace <= 100.0, "the pace must be above 0 and at most 100");
        Ok(CarrierOptions {
            numbers: self.numbers,
            cps: self.cps,
            most_requests: self.most_requests,
            pace: self.pace,
            seed: self.seed,
            people: People { rules: self.people, mix: self.mix },
            faults: Faults {
                list: trouble.list,
                shares: trouble.shares,
                everywhere: trouble.everywhere,
                slow: Duration::from_millis(trouble.slow_ms),
            },
            delivery: Delivery {
                disordered: trouble.disordered,
                twice: trouble.twice,
                late: trouble.late,
                late_by: Duration::from_millis(trouble.late_ms),
                lost: trouble.lost,
            },
            connect_to: self.connect_to,
            list_lag: Duration::from_millis(self.list_lag_ms),
            forgets: self.forgets,
            ..CarrierOptions::new(self.account_sid, SecretString::from(self.token))
        })
    }
}

pub(super) async fn run_carrier(args: CarrierArgs) -> anyhow::Result<()> {
    let (listen, target) = (args.listen, args.report.clone());
    let options = args.into_options()?;
    let account = options.account_sid.clone();
    let carrier =
        Carrier::bind(options, listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    eprintln!("simulated carrier: TWILIO_API_URL={} TWILIO_ACCOUNT_SID={account}", carrier.url());
    interrupted().await.context("cannot wait for an interrupt")?;
    let report = carrier.stop();
    eprintln!(
        "{} requests, {} calls, {} violations",
        report.requests.len(),
        report.calls.len(),
        report.violations.len()
    );
    write_report(target.as_deref(), &report)
}

#[cfg(test)]
mod tests {
    use super::super::SimulateCommand;
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: SimulateCommand,
    }

    fn carrier(args: &[&str]) -> anyhow::Result<CarrierOptions> {
        let cli = Cli::try_parse_from([&["x", "carrier", "--token", "t"], args].concat())?;
        let SimulateCommand::Carrier(args) = cli.command else { panic!("not a carrier") };
        args.into_options()
    }

    #[test]
    fn people_and_faults_of_a_carrier_are_options() {
        let options = carrier(&[
            "--person=99=busy",
            "--person=8=failed:480",
            "--share=3=no-answer",
            "--share=1=answered:silent",
            "--fault=2=lost-after",
            "--fault-share=0.25=too-many",
            "--twice=0.5",
            "--cps=20",
        ])
        .unwrap();
        let people = People {
            rules: vec![("99".into(), Person::Busy), ("8".into(), Person::Failed { sip: 480 })],
            mix: vec![(3, Person::NoAnswer), (1, "answered:silent".parse().unwrap())],
        };
        assert_eq!(options.people, people);
        assert_eq!(options.faults.list, [(2, Fault::LostAfter)]);
        assert_eq!(options.faults.shares, [(0.25, Fault::TooMany)]);
        assert_eq!((options.delivery.twice, options.cps), (0.5, 20.0));
        for wrong in ["--person=busy", "--person=9=asleep", "--fault=x=slow", "--cps=0", "--pace=0"] {
            assert!(carrier(&[wrong]).is_err(), "{wrong}");
        }
    }
}
