//! Calls that we make, from the request to the last record: over HTTP, with a carrier that dials and people who answer.

use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::join;
use tokio::time::{Instant, sleep};
use voicebridge::simulate::caller::{CallerOptions, EndedBy};
use voicebridge::simulate::carrier::{Carrier, CarrierOptions, Fault, Faults, People, Person};
use voicebridge::simulate::model::ModelOptions;

use crate::handoff::putting_through;
use crate::look::until;
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
    /// Where a second takes a tenth of one.
    async fn of(people: People) -> Self {
        Self::at_pace(0.1, people, ModelOptions::default()).await
    }

    async fn at_pace(pace: f64, people: People, model: ModelOptions) -> Self {
        let options = CarrierOptions {
            pace,
            cps: 10.0,
            people,
            ..CarrierOptions::new(ACCOUNT, SecretString::from("the-auth-token"))
        };
        let carrier = Carrier::on_any_port(options).await.unwrap();
        let url = carrier.url();
        let settings =
            [("TWILIO_ACCOUNT_SID", ACCOUNT), ("TWILIO_API_URL", &*url), ("VOICEBRIDGE_DIAL_CPS", "10")];
        let world = World::start(model, &settings).await;
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

    /// Asks for a call to end; status, and code of the error or outcome.
    async fn hang_up(&self, call_sid: &str) -> (u16, String) {
        let (status, answer) = self.world.post(&format!("/api/calls/{call_sid}/hang-up"), &json!({})).await;
        let word = if status == 200 { &answer["data"]["outcome"] } else { &answer["error"]["code"] };
        (status, word.as_str().unwrap().to_owned())
    }

    /// Calls that the carrier was told to end.
    fn ended_by_us(&self) -> Vec<String> {
        let is_end = |parameters: &[(String, String)]| {
            parameters.iter().any(|(name, value)| name == "Status" && value == "completed")
        };
        let requests = self.carrier.report().requests.into_iter();
        requests
            .filter(|request| is_end(&request.parameters))
            .filter_map(|request| request.call_sid)
            .collect()
    }

    async fn events(&self, call_sid: &str) -> String {
        let types = "select string_agg(event->>'type', ' ' order by place)
            from calls, jsonb_array_elements(event_sequence) with ordinality as sequence (event, place)";
        self.world.value(&format!("{types} where call_sid = '{call_sid}'")).await
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

#[tokio::test]
async fn a_call_of_ours_that_rings_is_ended_by_somebody_in_charge_and_not_tried_again() {
    let people = People::all(Person::NoAnswer);
    let town = Town::at_pace(1.0, people, ModelOptions::default()).await;
    let queued = town.post("/api/queue/schedule-call", json!({"to": LEAD})).await["data"].clone();
    let queue = format!("/api/queue/{}", queued["id"].as_str().unwrap());
    let row = town.until(&queue, |row| row["attempts"][0]["call_sid"].is_string()).await;
    let call_sid = row["attempts"][0]["call_sid"].as_str().unwrap();
    until("it rings", async || town.carrier.report().call(call_sid).unwrap().status == "ringing").await;

    let take_back = town.world.http.delete(town.world.running.public_url.join(&queue));
    let key = secrecy::ExposeSecret::expose_secret(&town.world.running.admin_key).to_owned();
    assert_eq!(take_back.bearer_auth(key).send().await.unwrap().status(), 409, "it has to be hung up");
    let (status, answer) =
        town.world.post(&format!("/api/calls/{call_sid}/say"), &json!({"text": "Hello."})).await;
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("call_not_live")), "nobody hears it");
    for (fault, status, code) in [
        (Fault::TooMany, 503, "carrier_unavailable"),
        (Fault::LostBefore, 503, "carrier_unavailable"),
        (Fault::ErrorBefore, 503, "carrier_unavailable"),
    ] {
        town.carrier.set_faults(Faults { shares: vec![(1.0, fault)], everywhere: true, ..Faults::default() });
        assert_eq!(town.hang_up(call_sid).await, (status, code.to_owned()), "{fault:?}");
    }
    town.carrier.set_faults(Faults::default());
    assert_eq!(town.carrier.report().call(call_sid).unwrap().status, "ringing");

    assert_eq!(town.hang_up(call_sid).await, (200, "done".to_owned()));
    let row = town.until(&queue, |row| row["status"] != "processing").await;
    assert_eq!(town.carrier.report().call(call_sid).unwrap().status, "canceled");
    assert_eq!((&row["status"], &row["attempt_count"]), (&json!("failed"), &json!(1)), "{row}");
    let tried = &row["attempts"][0];
    assert_eq!((&tried["outcome"], &tried["will_retry"]), (&json!("canceled"), &json!(false)), "{row}");
    // The carrier's clock shows seconds only, so its word may seem to have come first.
    let events = town.events(call_sid).await;
    let of_both = ["outbound_dispatched operator call_failed", "outbound_dispatched call_failed operator"];
    assert!(of_both.contains(&&*events), "{events}");
    let commands = "select string_agg(result->>'outcome', ' ' order by created_at) from call_commands";
    assert_eq!(town.world.value::<String>(commands).await, "refused refused refused done");

    // Of a call that is over, also where its end is not on record yet.
    assert_eq!(town.hang_up(call_sid).await, (409, "call_not_live".to_owned()));
    let unheard = "update call_attempts set status = 'placed', outcome = null returning status";
    assert_eq!(town.world.value::<String>(unheard).await, "placed");
    assert_eq!(town.hang_up(call_sid).await, (409, "call_not_live".to_owned()));
    town.stop().await;
}

#[tokio::test]
async fn a_ringing_call_of_another_organisation_is_ended_by_nobody_else() {
    let town = Town::at_pace(1.0, People::all(Person::NoAnswer), ModelOptions::default()).await;
    town.post("/api/queue/schedule-call", json!({"to": LEAD})).await;
    let ringing = "select coalesce(max(call_sid), '') from call_attempts where status = 'placed'";
    until("it rings", async || !town.world.value::<String>(ringing).await.is_empty()).await;
    let call_sid: String = town.world.value(ringing).await;
    let change = async |sql: &str| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(town.world.running.store.pool())
            .await
            .unwrap();
    };
    change("insert into organisations (id, name, slug) values ('00000000-0000-0000-0000-0000000000ff', 'Other', 'other')").await;
    change("update calls set organization_id = '00000000-0000-0000-0000-0000000000ff'").await;
    assert_eq!(town.hang_up(&call_sid).await, (404, "not_found".to_owned()));
    // A lead of ours that somebody has linked to it makes it no call of ours.
    change("update call_attempts set organization_id = '00000000-0000-0000-0000-0000000000ff'; delete from calls").await;
    change(&format!("insert into leads (organization_id, name, phone, call_sid) select organization_id, 'Ada', '{LEAD}', '{call_sid}' from agents")).await;
    assert_eq!(town.hang_up(&call_sid).await, (409, "call_not_live".to_owned()));
    assert_eq!(town.ended_by_us(), Vec::<String>::new());
    town.stop().await;
}

#[tokio::test]
async fn a_call_that_people_have_or_are_called_for_is_ended_by_somebody_in_charge() {
    for (person, reason, status) in [
        (Person::NoAnswer, "operator", "canceled"),
        (Person::HangsUp { after_ms: 60_000 }, "transferred", "completed"),
    ] {
        let answers = person != Person::NoAnswer;
        let model = ModelOptions { script: putting_through(), ..ModelOptions::default() };
        let town = Town::at_pace(1.0, People::all(person), model).await;
        town.world.change_agent("transfer_number = '+14155550199'").await;
        let status_url = town.world.running.public_url.join("/api/twilio/call-status");
        let steps = scenario([listen(), say("person-please"), listen()]);
        let options = CallerOptions { status_url: Some(status_url), ..town.world.call(steps) };
        let steering = async {
            let live = town.until("/api/calls/live", |live| live[0]["state"] == "with_people").await;
            let call_sid = live[0]["call_sid"].as_str().unwrap().to_owned();
            until("they ring, or have heard what it is about", async || {
                let calls = town.carrier.report().calls;
                let person = calls.iter().find(|call| call.direction == "outbound-dial");
                person.is_some_and(|call| {
                    if answers { call.conversation.is_some() } else { call.status == "ringing" }
                })
            })
            .await;
            let (status, answer) =
                town.world.post(&format!("/api/calls/{call_sid}/say"), &json!({"text": "Hello."})).await;
            assert_eq!((status, &answer["error"]["code"]), (409, &json!("call_with_people")));
            assert_eq!(town.hang_up(&call_sid).await, (200, "done".to_owned()));
            call_sid
        };
        let (call, call_sid) = join!(town.carrier.call_in(options), steering);
        assert_eq!((&call.call_sid, call.ended_by), (&call_sid, EndedBy::Carrier), "{call:?}");
        assert_eq!(town.ended_by_us().join(" "), call_sid);
        let over = "select count(*) from call_leases where ended_at is not null";
        until("it is over", async || town.world.value::<i64>(over).await == 1).await;
        let logged = "select coalesce(disconnect_reason, '') from call_logs";
        until(reason, async || town.world.value::<String>(logged).await == reason).await;
        let theirs = "select status from agent_calls";
        assert_eq!(town.world.value::<String>(theirs).await, status);
        assert!(town.events(&call_sid).await.contains("operator"));
        assert_eq!(town.hang_up(&call_sid).await, (409, "call_not_live".to_owned()));
        town.stop().await;
    }
}
