//! One conversation that goes on although its model session breaks and its server is killed.
//!
//! Two servers as processes behind a balancer, with one database; what breaks is broken from outside, and what is printed
//! is looked up where a user would look it up.

mod checks;
mod house;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::SecretString;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::client::Client;
use super::{DemoOptions, LOOK_EVERY, RECORDS_WITHIN, show};
use crate::ids::CallSid;
use crate::simulate::caller::{CallReport, CallerOptions, run_call};
use crate::simulate::model::{ItemReport, ModelReport};
use crate::simulate::scenario::{Scenario, Step, Utterance};
use crate::store::leases;
use checks::Truth;
use house::House;

/// So much of an answer is sent before something breaks.
const IN_THE_MIDDLE_MS: f64 = 2_000.0;

/// Runs it. False: something was not true.
pub(super) async fn run(options: &DemoOptions, data_dir: &Path) -> anyhow::Result<bool> {
    println!("voicebridge demo: starting a database, two servers and both far ends on this machine…");
    let mut house = House::start(options.format, data_dir).await?;
    for server in &house.servers {
        println!("  server   http://{} (process {})", server.addr, server.id().unwrap_or_default());
    }
    println!("  balancer {}", house.url(""));
    println!("  model    {} (simulated)", house.model.url());
    let result = Box::pin(call_and_check(&mut house)).await;
    let stopped = house.stop().await;
    let good = result?;
    stopped?;
    Ok(good)
}

async fn call_and_check(house: &mut House) -> anyhow::Result<bool> {
    let client = Client::new(house.url(""), SecretString::from(house.admin_key()))?;
    let call_sid = CallSid::parse(&format!("CA{}", Uuid::new_v4().simple())).context("it is an id")?;
    let options = CallerOptions {
        call_sid: Some(call_sid.to_string()),
        status_url: Some(house.url("/api/twilio/call-status")),
        ..CallerOptions::new(house.url("/media-stream-twiml"), Some(house.token.clone()), scenario())
    };
    let lead = client.create_lead("Anna Example", &options.from).await?;
    println!("\nThe call (as rows appear in conversation_transcripts):\n");

    let mut watch = show::Watch::default();
    let call = run_call(options);
    tokio::pin!(call);
    let mut trouble = Trouble::ahead();
    let caller = loop {
        tokio::select! {
            caller = &mut call => break caller,
            () = sleep(LOOK_EVERY) => {
                trouble.make(house).await?;
                // A question may have gone to the server that was killed while it was answered.
                watch.show(&client.transcripts(&call_sid).await.unwrap_or_default());
            }
        }
    };
    let killed = trouble.killed.context("the server of the call was never killed")?;
    house.start_again(killed).await?;
    let rows = settled(&client, &call_sid, &mut watch).await?;
    println!("      ~  server {} runs again and has handed in what it had kept on its disk", killed + 1);
    let truth = Truth {
        rows,
        lead: client.lead(lead).await?,
        after: leases::next_action(&house.store, &call_sid).await?,
        call_sid,
        caller,
        model: house.model.report(),
    };
    truth.show();
    Ok(show::checks(&checks::all(&truth)))
}

/// The transcript when nothing is added to it any more.
async fn settled(
    client: &Client,
    call_sid: &CallSid,
    watch: &mut show::Watch,
) -> anyhow::Result<Vec<super::client::Row>> {
    let started = Instant::now();
    let mut quiet_since = started;
    loop {
        let rows = client.transcripts(call_sid).await?;
        if watch.show(&rows) {
            quiet_since = Instant::now();
        }
        if quiet_since.elapsed() > Duration::from_secs(2) || started.elapsed() > RECORDS_WITHIN {
            return Ok(rows);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What is broken, each when it hurts most: in the middle of an answer.
struct Trouble {
    cut: bool,
    killed: Option<usize>,
}

impl Trouble {
    const fn ahead() -> Self {
        Self { cut: false, killed: None }
    }

    async fn make(&mut self, house: &mut House) -> anyhow::Result<()> {
        let model = house.model.report();
        if !self.cut && is_being_said(&model, "We are open") {
            house.model.cut();
            self.cut = true;
            println!("      x  the model's connection is cut");
        }
        if self.killed.is_none() && is_being_said(&model, "You find us") {
            let victim = house.server_of_the_call().await?;
            house.kill(victim).await?;
            self.killed = Some(victim);
            println!("      x  server {}, which carries the call, is killed (SIGKILL)", victim + 1);
        }
        Ok(())
    }
}

/// Some seconds of the answer that begins like this have been sent.
fn is_being_said(model: &ModelReport, beginning: &str) -> bool {
    let is_it = |item: &ItemReport| {
        item.text.starts_with(beginning) && item.generated_ms.is_some_and(|ms| ms >= IN_THE_MIDDLE_MS)
    };
    model.sessions.iter().flat_map(|session| &session.items).any(is_it)
}

/// Two questions, whose answers are broken into, and a goodbye.
fn scenario() -> Scenario {
    let say = |phrase: &str| Step::Say(Utterance::Phrase(phrase.into()));
    // Longer than any of what breaks is to be noticed.
    let listen = |silence_ms| Step::Listen { silence_ms, within_ms: 30_000 };
    let steps = vec![
        listen(700),
        say("hours-question"),
        listen(2_000),
        say("address-question"),
        listen(4_000),
        say("goodbye"),
    ];
    Scenario { name: "faults".into(), voice: "anna".into(), steps }
}

/// What the caller's side saw of the two streams.
fn streams(caller: &CallReport) -> String {
    format!("{:?}", caller.streams.iter().map(|stream| &stream.ended_by).collect::<Vec<_>>())
}
