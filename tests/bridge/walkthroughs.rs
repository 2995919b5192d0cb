//! Calls that we make, from the request to the last record: over HTTP, with a carrier that dials and people who answer.

use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use voicebridge::simulate::carrier::{Carrier, CarrierOptions, People, Person};
use voicebridge::simulate::model::ModelOptions;

use crate::world::World;
use crate::{listen, say, scenario};
use voicebridge::simulate::scenario::Step;

const ACCOUNT: &str = "AC00000000000000000000000000000001";
const OURS: &str = "+14155550100";
const LEAD: &str = "+14155550123";
const SOON: Duration = Duration::from_secs(60);

/// A server with a carrier of its own.
struct Town {
    world: World,
    carrier: Carrier,
}

impl Town {
    async fn of(people: People) -> Self {
        let options = CarrierOptions {
            pace: 0.1,
            cps: 10.0,
            people,
            ..CarrierOptions::new(ACCOUNT, SecretString::from("the-auth-token"))
        };
        let carrier = Carrier::on_any_port(options).await.unwrap();
        let url = carrier.url();
        let settings =
            [("TWILIO_ACCOUNT_SID", ACCOUNT), ("TWILIO_API_URL", &*url), ("VOICEBRIDGE_DIAL_CPS", "10")];
        let world = World::start(ModelOptions::default(), &settings).await;
        let agent = world.get("/api/agents").await["data"][0]["id"].clone();
        let town = Self { world, carrier };
        town.post("/api/phone-numbers", json!({"number": OURS, "agent_id": agent, "label": ""})).await;
        town
    }

    /// Has to be taken.
    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.world.post(path, &body).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    /// Asks until the answer is as wished.
    async fn until(&self, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + SOON;
        loop {
            let data = self.world.get(path).await["data"].clone();
            if is_so(&data) {
                return data;
            }
            assert!(Instant::now() < deadline, "{path} stays {data}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stop(self) {
        self.world.stop().await;
        let report = self.carrier.stop();
        assert_eq!(report.violations, Vec::<String>::new());
    }
}

fn somebody() -> Person {
    Person::Answers(scenario([listen(), say("hello"), listen(), Step::HangUp]))
}

#[tokio::test]
async fn a_scheduled_call_updates_its_lead_at_once_and_leaves_a_transcript() {
    let town = Town::of(People::all(somebody())).await;
    let lead = town.world.create_lead(LEAD).await;
    let body = json!({"to": LEAD, "message": "The order is ready.", "lead_id": lead, "priority": "normal"});
    let queued = town.post("/api/queue/schedule-call", body).await["data"].clone();
    let lead = town.until(&format!("/api/leads/{lead}"), |lead| !lead["call_sid"].is_null()).await;
    assert_eq!(lead["lead_status"], "contacted");
    assert!(lead["last_contacted_at"].is_string(), "{lead}");
    let call_sid = lead["call_sid"].as_str().unwrap();
    assert_eq!(lead["notes"], format!("Outbound call {call_sid} initiated"));

    let queue = format!("/api/queue/{}", queued["id"].as_str().unwrap());
    let row = town.until(&queue, |row| row["status"] == "completed").await;
    assert_eq!(
        (&row["attempt_count"], &row["attempts"][0]["outcome"]),
        (&json!(1), &json!("answered")),
        "{row}"
    );
    assert_eq!(row["attempts"][0]["call_sid"], call_sid);
    let said = town.world.transcript(call_sid).await;
    assert!(said.iter().any(|turn| turn["role"] == "user"), "{said:?}");
    let log =
        town.until(&format!("/api/calls/{call_sid}"), |call| call["routing_status"] == "completed").await;
    let events: Vec<&str> =
        log["event_sequence"].as_array().unwrap().iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(events, ["outbound_dispatched", "stream_started", "connected", "agent_call_completed"]);
    let session = town.world.model.report().sessions.remove(0);
    assert!(format!("{session:?}").contains("The order is ready."), "the agent knows what the call is about");
    town.stop().await;
}

#[tokio::test]
async fn an_interaction_follows_the_call_that_is_dispatched_for_it() {
    let people = People::all(somebody()).with("99", Person::Failed { sip: 404 });
    let town = Town::of(people).await;
    let created = town.post("/api/interactions", json!({"id": "one", "customerId": "customer-1"})).await;
    assert_eq!(created["data"]["status"], "INITIATED");
    town.post("/api/interactions/one/dispatch", json!({"to": LEAD})).await;
    let started = town.until("/api/interactions/one", |row| row["status"] != "INITIATED").await;
    assert!(started["roomName"].is_string() && started["phoneNumber"] == LEAD, "{started}");
    let done = town.until("/api/interactions/one", |row| row["status"] == "COMPLETED").await;
    assert_eq!(done["outcome"], "SUCCESS");
    assert_eq!(done["callDisposition"]["connection_status"], "CONNECTED");
    assert_eq!(done["callDisposition"]["call_duration"], done["duration"]);
    assert!(done["endTime"].is_string() && done["connectedAt"].is_string(), "{done}");

    town.post("/api/interactions", json!({"id": "two"})).await;
    town.post("/api/interactions/two/dispatch", json!({"to": "+14155550199"})).await;
    let failed = town.until("/api/interactions/two", |row| row["status"] == "FAILED").await;
    assert_eq!((&failed["outcome"], &failed["sipStatus"]), (&json!("FAILED"), &json!(404)));
    assert_eq!(failed["callDisposition"]["disposition"], "CARRIER_FAILED");
    town.stop().await;
}

#[tokio::test]
async fn a_machine_is_left_the_message_after_its_beep_and_the_lead_is_done() {
    let town = Town::of(People::all(Person::Voicemail { greeting_ms: 3_000 })).await;
    let body = json!({
        "name": "Spring", "time_start": "00:00", "time_end": "24:00",
        "voicemail_policy": "leave_message", "voicemail_message": "Please call us back.",
    });
    let campaign = town.post("/api/campaigns", body).await["data"]["id"].as_str().unwrap().to_owned();
    let lead = json!({"name": "Somebody", "phone": LEAD, "time_zone": "America/New_York"});
    let lead = town.post("/api/leads", lead).await["data"]["id"].clone();
    let path = format!("/api/campaigns/{campaign}");
    town.post(&format!("{path}/leads"), json!({"lead_ids": [lead]})).await;
    town.post(&format!("{path}/activate"), json!({})).await;
    let rows = town.until(&format!("{path}/queue"), |rows| rows[0]["status"] == "completed").await;
    assert_eq!(rows[0]["attempt_count"], 1);
    let tries = town.world.get(&format!("{path}/attempts")).await["data"].clone();
    assert_eq!((&tries[0]["outcome"], &tries[0]["voicemail_detected"]), (&json!("voicemail"), &json!(true)));
    let call = town.carrier.report().calls.remove(0);
    let message = call.message.clone().unwrap();
    assert_eq!((message.said, message.began_early), (vec!["Please call us back.".to_owned()], false));
    let logs = town.until("/api/call-logs", |logs| !logs[0]["disconnect_reason"].is_null()).await;
    assert_eq!(logs[0]["disconnect_reason"], "voicemail");
    town.stop().await;
}
