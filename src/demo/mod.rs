//! One whole conversation on this machine, with everything real but the telephone and the model: a server with its
//! database, a caller as Twilio would bring one, and a model that hears, answers and refuses as the real one does.
//!
//! What is printed is looked up where a user would look it up, and checked against what the two far ends really heard.

mod campaign;
mod checks;
mod client;
mod faults;
mod show;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::SecretString;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::app::{App, Running, Signals, stage};
use crate::audio::AudioFormat;
use crate::ids::CallSid;
use crate::simulate::caller::{CallReport, CallerOptions, run_call};
use crate::simulate::model::{ModelOptions, ModelReport, ModelServer};
use crate::simulate::scenario::Scenario;

use checks::Truth;
use client::Client;

/// How long after the call its last records may come.
const RECORDS_WITHIN: Duration = Duration::from_secs(10);
/// How often the transcript is asked for while the call runs.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// How the demo runs.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// Audio towards the model: pcm24k or pcmu.
    #[arg(long, default_value_t = AudioFormat::Pcm24k)]
    pub format: AudioFormat,
    /// Leaves the server running afterwards and says what to open.
    #[arg(long)]
    pub keep: bool,
    /// A call that survives a broken model session and a killed server: two servers behind a balancer.
    #[arg(long, conflicts_with_all = ["keep", "port"])]
    pub faults: bool,
    /// A campaign calls 20 leads through a simulated carrier, which has people who answer, are busy, away or machines.
    #[arg(long, conflicts_with_all = ["keep", "faults"])]
    pub campaign: bool,
    /// Port of the server; any free one when 0.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
}

/// Runs the demo. False: something was not true.
pub async fn run(options: DemoOptions) -> anyhow::Result<bool> {
    let data_dir = std::env::temp_dir().join(format!("voicebridge-demo-{}", std::process::id()));
    let result = if options.campaign {
        Box::pin(campaign::run(&options, &data_dir)).await
    } else if options.faults {
        Box::pin(faults::run(&options, &data_dir)).await
    } else {
        Box::pin(in_dir(&options, &data_dir)).await
    };
    if data_dir.exists() {
        std::fs::remove_dir_all(&data_dir)
            .with_context(|| format!("cannot remove {}", data_dir.display()))?;
    }
    result
}

async fn in_dir(options: &DemoOptions, data_dir: &Path) -> anyhow::Result<bool> {
    println!("voicebridge demo: starting a database, a server and both far ends on this machine…");
    let model = ModelServer::on_any_port(ModelOptions::default()).await.context("cannot start the model")?;
    let twilio_token = SecretString::from(Uuid::new_v4().simple().to_string());
    let far_ends = stage::far_ends(model.url(), &twilio_token, options.format);
    let running = App::start(stage::config(&far_ends, data_dir, options.port)?).await?;
    let client = Client::new(running.public_url.as_str().to_owned(), running.admin_key.clone())?;
    println!("  server   {}", running.public_url.as_str());
    println!("  model    {} (simulated)", model.url());

    let call = Box::pin(place_call(&running, &client, &twilio_token)).await?;
    let good = report(&running, &client, call, model.report()).await?;
    if options.keep {
        show::what_to_open(&running);
        running.run(Signals::listen().context("cannot listen for signals")?).await?;
    } else {
        running.stop().await?;
    }
    model.stop().await;
    Ok(good)
}

/// A call that was placed, and what was seen of it meanwhile.
struct PlacedCall {
    call_sid: CallSid,
    lead: i64,
    caller: CallReport,
    rows_while_live: usize,
}

async fn place_call(running: &Running, client: &Client, token: &SecretString) -> anyhow::Result<PlacedCall> {
    let scenario = Scenario::named("demo").context("the demo's scenario is built in")?;
    let call_sid = CallSid::parse(&format!("CA{}", Uuid::new_v4().simple())).context("it is an id")?;
    let options = CallerOptions {
        call_sid: Some(call_sid.to_string()),
        status_url: Some(running.public_url.join("/api/twilio/call-status")),
        ..CallerOptions::new(running.public_url.join("/media-stream-twiml"), Some(token.clone()), scenario)
    };
    let lead = client.create_lead("Anna Example", &options.from).await?;
    println!(
        "  lead     {lead}, with the caller's number\n\nThe call (as rows appear in conversation_transcripts):\n"
    );

    let mut watch = show::Watch::default();
    let call = run_call(options);
    tokio::pin!(call);
    let caller = loop {
        tokio::select! {
            caller = &mut call => break caller,
            () = sleep(LOOK_EVERY) => drop(watch.show(&client.transcripts(&call_sid).await?)),
        }
    };
    let rows_while_live = watch.rows();
    let deadline = Instant::now() + RECORDS_WITHIN;
    while running.metrics.calls_live.get() > 0 && Instant::now() < deadline {
        sleep(LOOK_EVERY).await;
    }
    watch.show(&client.transcripts(&call_sid).await?);
    Ok(PlacedCall { call_sid, lead, caller, rows_while_live })
}

async fn report(
    running: &Running,
    client: &Client,
    call: PlacedCall,
    model: ModelReport,
) -> anyhow::Result<bool> {
    let truth = Truth {
        rows: client.transcripts(&call.call_sid).await?,
        lead: client.lead(call.lead).await?,
        after: crate::store::leases::next_action(&running.store, &call.call_sid).await?,
        metrics: client.metrics().await?,
        call,
        model,
    };
    show::interruption(&truth);
    show::latencies(&truth);
    Ok(show::checks(&checks::all(&truth)))
}
