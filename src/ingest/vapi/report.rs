//! An end-of-call report, read.
//!
//! Members have moved over the years: what is now at the top of the message or in its `artifact` used to be in the call.
//! All places are looked at, the newest first.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{ended_reason, messages, moment, object, text};
use crate::call::end::EndReason;
use crate::ids::{CallSid, PhoneNumber};
use crate::ingest::Problem;
use crate::lifecycle::report::{REPORTED_BY, VAPI};
use crate::store::reports::{Received, Report};

/// Where what our members of `call` take the place of is kept.
const REPLACED: &str = "vapi";

/// A report, as it was sent.
struct Sent<'a> {
    message: &'a Map<String, Value>,
    call: &'a Map<String, Value>,
    artifact: Option<&'a Map<String, Value>>,
}

/// When a call was.
#[derive(Clone, Copy)]
struct Times {
    started_at: Timestamp,
    ended_at: Timestamp,
    reported_at: Timestamp,
    duration_s: i32,
}

/// Reads the message.
pub(super) fn read(message: &Map<String, Value>, came_at: Timestamp) -> Result<Report, Vec<Problem>> {
    let Some(call) = object(message.get("call")) else {
        return Err(vec![Problem::new("message.call", "must be an object: the call that is over")]);
    };
    let artifact = object(message.get("artifact")).or_else(|| object(call.get("artifact")));
    let sent = Sent { message, call, artifact };
    let vapi_call_id = text(&[call.get("id")]).and_then(|id| CallSid::parse(id).ok());
    let call_sid = sent.call_sid();
    if vapi_call_id.is_none() && call_sid.is_none() {
        return Err(vec![
            Problem::new("message.call.id", "must be VAPI's id of the call, of at most 50 characters"),
            Problem::new("message.call.phoneCallProviderId", "or this must be the carrier's id of the call"),
        ]);
    }
    let reason = sent.ended_reason().and_then(ended_reason::read);
    let times = sent.times(came_at);
    let turns = messages::read(&sent.spoken(), &sent.prompts(), times.started_at);
    let report = Report {
        assistant_id: sent.assistant_id(),
        reported_at: times.reported_at,
        started_at: times.started_at,
        ended_at: times.ended_at,
        our_number: sent.our_number().and_then(|number| PhoneNumber::parse(number).ok()),
        reason,
        data: sent.shaped(call_sid.as_ref(), times, reason),
        turns,
        vapi_call_id,
        call_sid,
        received: received(message),
    };
    Ok(report)
}

/// What the message is known by. Nothing has been taken out of it yet.
fn received(message: &Map<String, Value>) -> Received {
    let text = json!(message).to_string();
    let length = i32::try_from(text.len()).unwrap_or(i32::MAX);
    Received { length, sha256: Sha256::digest(&text).into() }
}

impl<'a> Sent<'a> {
    /// The carrier's id. One that is no such id, as of a SIP trunk, is none.
    fn call_sid(&self) -> Option<CallSid> {
        let transport = object(self.call.get("transport"));
        let of_transport = |member| transport.and_then(|transport| transport.get(member));
        let places = [
            self.call.get("phoneCallProviderId"),
            self.call.get("twilioCallSid"),
            of_transport("callSid"),
            of_transport("providerCallId"),
        ];
        places.into_iter().find_map(|place| CallSid::parse(text(&[place])?).ok())
    }

    /// VAPI's word for why the call ended.
    fn ended_reason(&self) -> Option<&'a str> {
        text(&[self.message.get("endedReason"), self.call.get("endedReason")])
    }

    fn assistant_id(&self) -> Option<String> {
        let of = |part: &'a Map<String, Value>| object(part.get("assistant")).and_then(|it| it.get("id"));
        let id = text(&[self.call.get("assistantId"), of(self.message), of(self.call)]);
        id.map(str::to_owned)
    }

    fn member(&self, part: &str, member: &str) -> Option<&'a str> {
        let of = |whole: &'a Map<String, Value>| object(whole.get(part)).and_then(|it| it.get(member));
        text(&[of(self.message), of(self.call)])
    }

    /// The number on our side.
    fn our_number(&self) -> Option<&'a str> {
        self.member("phoneNumber", "number")
    }

    fn is_outbound(&self) -> bool {
        text(&[self.call.get("type")]).is_some_and(|kind| kind.starts_with("outbound"))
    }

    fn recording_url(&self) -> Option<&'a str> {
        let of_artifact = |member| self.artifact.and_then(|artifact| artifact.get(member));
        let recording = object(of_artifact("recording"));
        let mono = recording.and_then(|recording| object(recording.get("mono")));
        text(&[
            of_artifact("recordingUrl"),
            mono.and_then(|mono| mono.get("combinedUrl")),
            self.message.get("recordingUrl"),
            self.call.get("recordingUrl"),
        ])
    }

    fn times(&self, came_at: Timestamp) -> Times {
        let (message, call) = (self.message, self.call);
        let told_s = self.duration_s();
        let lasted = SignedDuration::from_secs(told_s.unwrap_or(0).into());
        let made_at = moment(&[message.get("timestamp"), call.get("updatedAt")]);
        let started_at = moment(&[message.get("startedAt"), call.get("startedAt")]);
        let ended_at = moment(&[message.get("endedAt"), call.get("endedAt")])
            .or_else(|| started_at?.checked_add(lasted).ok())
            .or(made_at)
            .unwrap_or(came_at);
        let started_at = started_at
            .or_else(|| moment(&[call.get("createdAt")]))
            .or_else(|| ended_at.checked_sub(lasted).ok())
            .map_or(ended_at, |started_at| started_at.min(ended_at));
        let between = ended_at.duration_since(started_at);
        let between_s = between.as_secs() + i64::from(between.subsec_nanos() > 0);
        let duration_s = told_s.unwrap_or_else(|| i32::try_from(between_s).unwrap_or(i32::MAX));
        Times { started_at, ended_at, reported_at: made_at.unwrap_or(ended_at), duration_s }
    }

    /// Seconds that have begun, as all our reports have it.
    fn duration_s(&self) -> Option<i32> {
        let number = |value: Option<&Value>| value.and_then(Value::as_f64).filter(|number| *number >= 0.0);
        let seconds = number(self.message.get("durationSeconds"))
            .or_else(|| number(self.message.get("durationMs")).map(|ms| ms / 1000.0))
            .or_else(|| number(self.call.get("duration")))?;
        Some(seconds.ceil().min(f64::from(i32::MAX)) as i32)
    }

    /// What was said.
    fn spoken(&self) -> Vec<&'a Value> {
        let of_artifact = |member| self.artifact.and_then(|artifact| artifact.get(member));
        let places = [
            of_artifact("messages"),
            self.message.get("messages"),
            self.call.get("messages"),
            of_artifact("messagesOpenAIFormatted"),
        ];
        let lists = places.into_iter().flatten().filter_map(Value::as_array);
        lists.into_iter().find(|list| !list.is_empty()).into_iter().flatten().collect()
    }

    /// What the assistant was told before anybody spoke.
    fn prompts(&self) -> Vec<&'a str> {
        let assistants = [self.message.get("assistant"), self.call.get("assistant")];
        let models = assistants.into_iter().filter_map(object).filter_map(|it| object(it.get("model")));
        let messages = models.filter_map(|model| model.get("messages")?.as_array()).flatten();
        messages.filter_map(|message| text(&[message.get("content"), message.get("message")])).collect()
    }

    /// The whole report, and in its `call` what all our reports have there. What that takes the place of is kept.
    fn shaped(&self, call_sid: Option<&CallSid>, times: Times, reason: Option<EndReason>) -> Value {
        let (ours, theirs) = (self.our_number(), self.member("customer", "number"));
        let (from, to) = if self.is_outbound() { (ours, theirs) } else { (theirs, ours) };
        let is_success = reason.is_none_or(EndReason::is_success);
        let members = [
            ("sid", json!(call_sid)),
            ("status", json!(if is_success { "completed" } else { "failed" })),
            ("duration", json!(times.duration_s)),
            ("startedAt", json!(times.started_at)),
            ("endedAt", json!(times.ended_at)),
            ("endedReason", json!(reason.map(EndReason::as_str))),
            ("direction", json!(if self.is_outbound() { "outbound" } else { "inbound" })),
            ("from", json!(from)),
            ("to", json!(to)),
            ("recordingUrl", json!(self.recording_url())),
            // What is here stays when the rest of the report has grown old.
            (REPORTED_BY, json!(VAPI)),
            ("reportedReason", json!(self.ended_reason())),
        ];
        let mut call = self.call.clone();
        let mut replaced = Map::new();
        if let Some(before) = call.remove(REPLACED) {
            replaced.insert(REPLACED.to_owned(), before);
        }
        for (name, value) in members {
            if let Some(before) = call.get(name).filter(|before| **before != value) {
                replaced.insert(name.to_owned(), before.clone());
            }
            call.insert(name.to_owned(), value);
        }
        call.insert(REPLACED.to_owned(), Value::Object(replaced));
        let mut whole = self.message.clone();
        whole.insert("call".to_owned(), Value::Object(call));
        Value::Object(whole)
    }
}
