//! What tests of inbound calls ask of the server.

use axum::http::StatusCode;
use serde_json::{Value, json};
use voicebridge::api;
use voicebridge::ids::CallSid;
use voicebridge::store::{agents, calls, leases};

use crate::surface::{Answer, PUBLIC};

pub(crate) use crate::surface::Server;

pub(crate) const HANG_UP: &str = "<Response><Hangup/></Response>";

impl Server {
    /// Adds something, and returns it.
    pub(crate) async fn add(&self, path: &str, body: Value) -> Value {
        let answer = self.post(path, body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        let data = answer.json()["data"].clone();
        assert_eq!(answer.headers["location"], format!("{path}/{}", data["id"].as_str().unwrap()));
        data
    }

    /// A call comes on this number.
    pub(crate) async fn rings(&self, line: &Line, sid: &str) -> Answer {
        let params =
            [("CallSid", sid), ("From", "+1234567890"), ("To", "+1987654321"), ("CallStatus", "ringing")];
        self.twilio(&line.incoming(), &params).await
    }

    /// The team's telephones have rung.
    pub(crate) async fn rang(&self, line: &Line, sid: &str, dial_status: &str, call_status: &str) -> Answer {
        let mut params = vec![("CallSid", sid), ("DialCallStatus", dial_status), ("CallStatus", call_status)];
        if dial_status == "completed" {
            params.extend([("DialCallSid", "CA7"), ("DialCallDuration", "42")]);
        }
        self.twilio(&format!("{}/fallback", line.incoming()), &params).await
    }

    /// The carrier says how a call is doing.
    pub(crate) async fn status(&self, sid: &str, status: &str) {
        let params =
            [("CallSid", sid), ("CallStatus", status), ("SequenceNumber", "9"), ("CallDuration", "70")];
        let answer = self.twilio("/api/twilio/call-status", &params).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
    }

    pub(crate) async fn default_agent(&self) -> agents::Agent {
        agents::default_agent(&self.store).await.unwrap().unwrap()
    }

    /// A number that Grace and Edsger answer in the office hours of Berlin, and the default agent else.
    pub(crate) async fn line(&self) -> Line {
        let team = self.team(&["+14155550101", "+14155550102"]).await;
        let office = [("09:00", "12:00"), ("13:00", "17:30")];
        let spans: Vec<_> = (1..=5)
            .flat_map(|day| {
                office.map(|(opens, closes)| json!({"weekday": day, "opens": opens, "closes": closes}))
            })
            .collect();
        let schedule = json!({"name": "Office", "time_zone": "Europe/Berlin", "spans": spans});
        let schedule = id(&self.add("/api/schedules", schedule).await);
        let agent = self.default_agent().await.id.to_string();
        let number = json!({
            "number": "+1 415 555 0199", "agent_id": agent, "schedule_id": schedule, "team_id": team,
        });
        let number = id(&self.add("/api/phone-numbers", number).await);
        Line { number, schedule, team, agent }
    }

    pub(crate) async fn team(&self, numbers: &[&str]) -> String {
        let members: Vec<_> = numbers.iter().map(|number| json!({"number": number})).collect();
        id(&self
            .add("/api/teams", json!({"name": "Front desk", "ring_timeout_s": 20, "members": members}))
            .await)
    }

    pub(crate) async fn record(&self, sid: &str) -> calls::CallRecord {
        calls::by_call_sid(&self.store, &CallSid::parse(sid).unwrap()).await.unwrap().unwrap()
    }

    pub(crate) async fn routing_status(&self, sid: &str) -> String {
        self.record(sid).await.routing_status.unwrap()
    }

    pub(crate) async fn events(&self, sid: &str) -> Vec<String> {
        let sequence = self.record(sid).await.event_sequence;
        let events = sequence.as_array().unwrap().iter();
        events.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    }

    /// Step, decision and reason of each decision, in order.
    pub(crate) async fn decisions(&self, sid: &str) -> Vec<String> {
        let body = self.get(&format!("/api/calls/{sid}/routing")).await.json();
        let word = |decision: &Value, name: &str| decision[name].as_str().unwrap().to_owned();
        let decisions = body["data"].as_array().unwrap().iter();
        decisions.map(|one| ["step", "decision", "reason"].map(|name| word(one, name)).join(" ")).collect()
    }

    /// What people had of the call: handoff, status, leg, seconds and reason of each part.
    pub(crate) async fn people_of(&self, sid: &str) -> Vec<String> {
        let sql = "select concat_ws(' ', handoff, status, call_sid, duration, reason) from agent_calls \
            where parent_call_sid = $1 order by handoff";
        sqlx::query_scalar(sql).bind(sid).fetch_all(self.store.pool()).await.unwrap()
    }

    pub(crate) async fn claim(&self, token: &str) -> leases::ClaimedCall {
        leases::claim(&self.store, &api::stream_token::sha256(token), "node-test").await.unwrap().unwrap()
    }
}

/// A number and what it goes by.
pub(crate) struct Line {
    pub(crate) number: String,
    pub(crate) schedule: String,
    pub(crate) team: String,
    pub(crate) agent: String,
}

impl Line {
    pub(crate) fn incoming(&self) -> String {
        format!("/api/phone-number/{}/incoming", self.number)
    }

    /// What is said to ring these telephones.
    pub(crate) fn dials(&self, timeout: &str, numbers: &[&str]) -> String {
        let numbers: String = numbers.iter().flat_map(|number| ["<Number>", *number, "</Number>"]).collect();
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response><Dial action=\"{PUBLIC}{}/fallback\" \
             timeout=\"{timeout}\" answerOnBridge=\"true\">{numbers}</Dial></Response>",
            self.incoming()
        )
    }

    pub(crate) fn rings_the_team(&self) -> String {
        self.dials("20", &["+14155550101", "+14155550102"])
    }
}

impl Answer {
    /// The body cannot be so, in these members and no others.
    pub(crate) fn blames(&self, fields: &[&str]) {
        let error = self.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
        let details = error["details"].as_array().unwrap_or_else(|| panic!("{error}"));
        let found: Vec<_> = details.iter().map(|one| one["field"].as_str().unwrap()).collect();
        assert_eq!(found, fields, "{error}");
    }

    pub(crate) fn hangs_up(&self) {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        assert!(self.text.ends_with(HANG_UP), "{}", self.text);
    }

    pub(crate) fn connects(&self) {
        self.stream_token();
    }
}

pub(crate) fn id(record: &Value) -> String {
    record["id"].as_str().unwrap().to_owned()
}
