//! `voicebridge simulate kaleyra`: its options.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use jiff::civil::Date;
use secrecy::SecretString;

use super::carrier::pair;
use super::{interrupted, write_report};
use crate::simulate::kaleyra::{Fault, Faults, KaleyraOptions, KaleyraServer};

/// Options of `simulate kaleyra`.
#[derive(Debug, Args)]
pub struct KaleyraArgs {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:9092")]
    listen: SocketAddr,
    /// The only key that is let in.
    #[arg(long, env = "KALEYRA_API_KEY", hide_env_values = true)]
    key: String,
    /// Legs of calls in the log.
    #[arg(long, default_value_t = 1000)]
    rows: usize,
    /// First day in India that has any.
    #[arg(long, value_name = "DATE")]
    from: Date,
    /// Last one.
    #[arg(long, value_name = "DATE")]
    to: Date,
    /// Most records of a page, however many are asked for.
    #[arg(long, default_value_t = 200)]
    most: usize,
    /// Decides who calls when, and what goes wrong.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    trouble: TroubleArgs,
    /// Write the report here instead of to standard output.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// What goes wrong at a simulated Kaleyra.
#[derive(Debug, Args)]
#[command(next_help_heading = "Faults")]
struct TroubleArgs {
    /// What goes wrong with the so many-th request. May be given several times.
    #[arg(long = "fault", value_name = "NTH=FAULT", value_parser = pair::<u64, Fault>)]
    list: Vec<(u64, Fault)>,
    /// How often of one time this goes wrong. May be given several times.
    #[arg(long = "fault-share", value_name = "SHARE=FAULT", value_parser = pair::<f64, Fault>)]
    shares: Vec<(f64, Fault)>,
    /// How late slow answers are, in milliseconds.
    #[arg(long, default_value_t = 8000)]
    slow_ms: u64,
    /// Seconds that `Retry-After` asks for.
    #[arg(long, default_value_t = 1)]
    retry_after_s: u64,
    /// Every so many-th record cannot be read.
    #[arg(long, value_name = "N", default_value_t = 0)]
    malformed_every: usize,
    /// Records that each page repeats of the page before.
    #[arg(long, value_name = "N", default_value_t = 0)]
    overlap: usize,
}

impl KaleyraArgs {
    fn into_options(self) -> anyhow::Result<KaleyraOptions> {
        let trouble = self.trouble;
        anyhow::ensure!(self.from <= self.to, "--from must not be later than --to");
        anyhow::ensure!(self.most > 0, "a page must have room for a record");
        Ok(KaleyraOptions {
            most: self.most,
            seed: self.seed,
            overlap: trouble.overlap,
            malformed_every: trouble.malformed_every,
            faults: Faults {
                list: trouble.list,
                shares: trouble.shares,
                slow: Duration::from_millis(trouble.slow_ms),
                retry_after_s: trouble.retry_after_s,
            },
            ..KaleyraOptions::new(SecretString::from(self.key), self.rows, (self.from, self.to))
        })
    }
}

pub(super) async fn run_kaleyra(args: KaleyraArgs) -> anyhow::Result<()> {
    let (listen, target) = (args.listen, args.report.clone());
    let options = args.into_options()?;
    let server =
        KaleyraServer::bind(options, listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    eprintln!("simulated Kaleyra: KALEYRA_API_URL={}", server.url());
    interrupted().await.context("cannot wait for an interrupt")?;
    let report = server.report();
    eprintln!("{} requests, {} pages, {} records", report.requests, report.pages, report.records);
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

    #[test]
    fn days_and_faults_of_a_simulated_kaleyra_are_options() {
        let options = |args: &[&str]| {
            let cli = Cli::try_parse_from([&["x", "kaleyra", "--key", "k"], args].concat())?;
            let SimulateCommand::Kaleyra(args) = cli.command else { panic!("not Kaleyra") };
            args.into_options()
        };
        let days = ["--from=2026-03-01", "--to=2026-03-02"];
        let all = [&days[..], &["--rows=7", "--fault=2=lost", "--fault-share=0.5=too-many", "--overlap=3"]]
            .concat();
        let read = options(&all).unwrap();
        assert_eq!((read.rows, read.overlap), (7, 3));
        assert_eq!(read.faults.list, [(2, Fault::Lost)]);
        assert_eq!(read.faults.shares, [(0.5, Fault::TooMany)]);
        for wrong in [&["--from=2026-03-01", "--to=2026-02-01"][..], &days[..1], &["--from=x", "--to=y"]] {
            assert!(options(wrong).is_err(), "{wrong:?}");
        }
    }
}
