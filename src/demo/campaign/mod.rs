//! A campaign on this machine: twenty leads, a carrier whose people answer, are busy, away or machines, and requests that
//! get lost on the way. Nobody may be called twice for one try, nor at night.
//!
//! What happens is looked up over the API, and checked against what the carrier says it was asked and did.

mod board;
mod checks;
mod leads;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::client::{Client, Row};
use super::{DemoOptions, show};
use crate::app::{App, Running, stage};
use crate::ids::CallSid;
use crate::simulate::carrier::{Carrier, CarrierOptions, CarrierReport, Fault, Faults, People, Person};
use crate::simulate::model::{ModelOptions, ModelServer};
use board::Board;
use checks::Truth;
use leads::Lead;

const ACCOUNT: &str = "AC00000000000000000000000000000001";
const OUR_NUMBER: &str = "+14155550199";
/// Calls a second, at the carrier and as we are told.
const CPS: u32 = 5;
/// Calls of the campaign at the same time: each has two media streams and a model on this machine, too.
const AT_ONCE: usize = 6;
/// Ringing takes this share of its time.
const PACE: f64 = 0.3;
/// When all must have been tried.
const CALLED_WITHIN: Duration = Duration::from_secs(180);
/// How long after the last call its records may come.
const RECORDS_WITHIN: Duration = Duration::from_secs(10);
/// How often the API is asked.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// A try that is further away is not waited for.
const FAR: SignedDuration = SignedDuration::from_secs(60);

/// A try, as the API gives it.
#[derive(Debug, Clone, Deserialize)]
struct Attempt {
    id: Uuid,
    lead_id: Option<i64>,
    attempt_number: i32,
    status: String,
    outcome: Option<String>,
    duration: Option<i32>,
    next_retry_at: Option<Timestamp>,
    call_sid: Option<String>,
}

/// A place in the queue, as the API gives it.
#[derive(Debug, Clone, Deserialize)]
struct Place {
    lead_id: Option<i64>,
    status: String,
    attempt_count: i32,
    next_retry_at: Timestamp,
    last_error: Option<String>,
}

/// A campaign, as the API gives it.
#[derive(Debug, Clone, Deserialize)]
struct Counters {
    total_calls: usize,
    answered_calls: usize,
}

/// Runs it. False: something was not true.
pub(super) async fn run(options: &DemoOptions, data_dir: &Path) -> anyhow::Result<bool> {
    println!("voicebridge demo: starting a database, a server, a model and a carrier on this machine…");
    let model = ModelServer::on_any_port(ModelOptions::default()).await.context("cannot start the model")?;
    let token = SecretString::from(Uuid::new_v4().simple().to_string());
    let carrier = Carrier::on_any_port(carrier(&token)).await.context("cannot start the carrier")?;
    let mut far_ends = stage::far_ends(model.url(), &token, options.format).to_vec();
    far_ends.extend([
        ("TWILIO_API_URL", carrier.url()),
        ("TWILIO_ACCOUNT_SID", ACCOUNT.to_owned()),
        ("VOICEBRIDGE_DIAL_CPS", CPS.to_string()),
    ]);
    let running = App::start(stage::config(&far_ends, data_dir, options.port)?).await?;
    println!("  server   {}", running.public_url.as_str());
    println!("  model    {} (simulated)", model.url());
    println!("  carrier  {} (simulated)", carrier.url());
    let result = Box::pin(call_and_check(&running, &carrier)).await;
    let stopped = running.stop().await;
    model.stop().await;
    let good = result?;
    stopped?;
    Ok(good)
}

/// Who is called, and what goes wrong on the way.
fn carrier(token: &SecretString) -> CarrierOptions {
    // Everybody else answers, hears who it is and says goodbye.
    let people = People::default()
        .with("5", Person::Busy)
        .with("6", Person::NoAnswer)
        .with("7", Person::Voicemail { greeting_ms: 3_000 })
        .with("8", Person::Failed { sip: 404 });
    CarrierOptions {
        numbers: vec![OUR_NUMBER.to_owned()],
        cps: f64::from(CPS),
        pace: PACE,
        people,
        // One request is refused, and two calls are placed without our being told.
        faults: Faults {
            list: vec![(3, Fault::LostAfter), (6, Fault::TooMany), (9, Fault::ErrorAfter)],
            ..Faults::default()
        },
        ..CarrierOptions::new(ACCOUNT, token.clone())
    }
}

async fn call_and_check(running: &Running, carrier: &Carrier) -> anyhow::Result<bool> {
    let client = Client::new(running.public_url.as_str().to_owned(), running.admin_key.clone())?;
    let leads = leads::twenty(Timestamp::now())?;
    let (leads, campaign) = Box::pin(prepare(&client, leads)).await?;
    let asleep = leads.iter().filter(|lead| !lead.awake).count();
    println!(
        "  campaign {} leads, {asleep} of them where it is night; the 3rd request for a call and the 9th get no answer, the \
         6th is refused\n\nThe board (each try as it ends):\n",
        leads.len()
    );
    client.post(&format!("/api/campaigns/{campaign}/activate"), &json!({})).await?;
    let began = Instant::now();
    let mut board = Board::new(&leads);
    let finished = loop {
        board.show(&attempts(&client, &campaign).await?, began.elapsed());
        if is_over(&leads, &places(&client, &campaign).await?) {
            break true;
        }
        if began.elapsed() > CALLED_WITHIN {
            break false;
        }
        sleep(LOOK_EVERY).await;
    };
    // Nothing follows from it when a call does not end: the checks below say so.
    let _ = timeout(RECORDS_WITHIN, carrier.settled()).await;
    let deadline = Instant::now() + RECORDS_WITHIN;
    while running.metrics.calls_live.get() > 0 && Instant::now() < deadline {
        sleep(LOOK_EVERY).await;
    }
    let truth = Box::pin(look(&client, &campaign, leads, finished, carrier.report())).await?;
    board.show(&truth.attempts, began.elapsed());
    board::summary(&truth);
    Ok(show::checks(&checks::all(&truth)))
}

/// Brings the number, the leads and the campaign into the database, as a user would.
async fn prepare(client: &Client, mut leads: Vec<Lead>) -> anyhow::Result<(Vec<Lead>, String)> {
    let agents: Vec<Value> = client.data("/api/agents").await?;
    let agent = agents.first().map(|agent| agent["id"].clone()).context("there is no agent")?;
    let number = json!({"number": OUR_NUMBER, "agent_id": agent, "label": "Campaigns"});
    let number = client.post("/api/phone-numbers", &number).await?;
    for lead in &mut leads {
        let body = json!({"name": lead.name, "phone": lead.phone, "time_zone": lead.zone});
        let created = client.post("/api/leads", &body).await?;
        lead.id = created["id"].as_i64().context("a lead has an id")?;
    }
    let campaign = json!({
        "name": "Demo",
        "agent_id": agent,
        "phone_number_id": number["id"],
        "message": "Remind of the order that can be fetched.",
        "time_start": leads::OPENS,
        "time_end": leads::CLOSES,
        "max_attempts": 2,
        "max_attempts_per_day": 2,
        "max_concurrent_calls": AT_ONCE,
        "ring_timeout_s": 20,
        "retry_delays_s": {"busy": 900, "no_answer": 7200, "voicemail": 14400, "failed": 2, "not_placed": 2},
        "voicemail_policy": "retry",
    });
    let campaign = client.post("/api/campaigns", &campaign).await?;
    let id = campaign["id"].as_str().context("a campaign has an id")?.to_owned();
    let ids: Vec<i64> = leads.iter().map(|lead| lead.id).collect();
    client.post(&format!("/api/campaigns/{id}/leads"), &json!({"lead_ids": ids})).await?;
    Ok((leads, id))
}

async fn attempts(client: &Client, campaign: &str) -> anyhow::Result<Vec<Attempt>> {
    client.data(&format!("/api/campaigns/{campaign}/attempts?limit=200")).await
}

async fn places(client: &Client, campaign: &str) -> anyhow::Result<Vec<Place>> {
    client.data(&format!("/api/campaigns/{campaign}/queue?limit=200")).await
}

/// Nothing more happens soon.
fn is_over(leads: &[Lead], places: &[Place]) -> bool {
    let soon = Timestamp::now() + FAR;
    leads.iter().filter(|lead| lead.awake).all(|lead| {
        places.iter().filter(|place| place.lead_id == Some(lead.id)).all(|place| {
            let waits = place.status == "queued" && place.attempt_count > 0 && place.next_retry_at > soon;
            waits || ["completed", "failed"].contains(&place.status.as_str())
        })
    })
}

/// Looks up everything that is claimed below.
async fn look(
    client: &Client,
    campaign: &str,
    leads: Vec<Lead>,
    finished: bool,
    carrier: CarrierReport,
) -> anyhow::Result<Truth> {
    let mut transcripts = Vec::new();
    for call in carrier.outbound().filter(|call| call.person == Some("answered")) {
        let sid = CallSid::parse(&call.sid).context("the carrier's ids are call SIDs")?;
        let rows: Vec<Row> = client.transcripts(&sid).await?;
        transcripts.push((call.sid.clone(), rows));
    }
    Ok(Truth {
        attempts: attempts(client, campaign).await?,
        places: places(client, campaign).await?,
        counters: client.data(&format!("/api/campaigns/{campaign}")).await?,
        leads,
        finished,
        carrier,
        transcripts,
    })
}
