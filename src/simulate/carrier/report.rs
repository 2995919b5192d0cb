//! What a simulated carrier was asked and what it did.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::simulate::caller::CallReport;

/// Everything that happened.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CarrierReport {
    /// Requests to the API, in the order of their arrival.
    pub requests: Vec<RequestReport>,
    /// Calls, in the order in which they were asked for.
    pub calls: Vec<CallLog>,
    /// What Twilio would have complained about: in requests, documents, streams, answers to callbacks.
    pub violations: Vec<String>,
}

/// A request and its answer.
#[derive(Debug, Clone, Serialize)]
pub struct RequestReport {
    /// When it arrived.
    pub at: Timestamp,
    /// `GET`, `POST`.
    pub method: String,
    /// With its query.
    pub path: String,
    /// Parameters of the body, in their order.
    pub parameters: Vec<(String, String)>,
    /// The answer's status; absent when the connection was cut instead, or nothing was answered yet.
    pub status: Option<u16>,
    /// The answer's error code.
    pub code: Option<u32>,
    /// The call it made, changed or asked for.
    pub call_sid: Option<String>,
    /// What went wrong on purpose.
    pub fault: Option<&'static str>,
}

/// A call as the carrier keeps it.
#[derive(Debug, Clone, Serialize)]
pub struct CallLog {
    /// `CA…`.
    pub sid: String,
    /// The call whose `<Dial>` made this one.
    pub parent: Option<String>,
    /// `inbound`, `outbound-api`, `outbound-dial`.
    pub direction: &'static str,
    /// Number that was called.
    pub to: String,
    /// Number that it was called from.
    pub from: String,
    /// The parameter `attempt` in the query of the call's URL.
    pub attempt: Option<String>,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// When it left the queue and was dialed; absent when it never was.
    pub dialed_at: Option<Timestamp>,
    /// When somebody or something answered.
    pub answered_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// As the API spells it.
    pub status: &'static str,
    /// What the network answered.
    pub sip: Option<u16>,
    /// Who was called, such as `busy`; see [`super::Person::word`].
    pub person: Option<&'static str>,
    /// The verdict on who answered, when one was asked for and given.
    pub answered_by: Option<&'static str>,
    /// Callbacks in the order in which they were due.
    pub callbacks: Vec<CallbackReport>,
    /// What an answering machine recorded after its beep.
    pub message: Option<MessageReport>,
    /// The conversation, once it is over.
    pub conversation: Option<CallReport>,
}

/// What an answering machine was told after its beep.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MessageReport {
    /// Texts of `<Say>` that were spoken to their end and began after the beep.
    pub said: Vec<String>,
    /// Milliseconds of audio from media streams after the beep.
    pub streamed_ms: f64,
    /// True when a text or the stream began before the beep: part of it is not on the record.
    pub began_early: bool,
}

/// A callback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallbackReport {
    /// `initiated`, `ringing`, `answered`, `completed`, or `amd`.
    pub event: &'static str,
    /// Its `SequenceNumber`.
    pub sequence: Option<u32>,
    /// `CallStatus` or `AnsweredBy`.
    pub told: String,
    /// When it was due.
    pub at: Timestamp,
    /// Each delivery and its answer: a status, or what went wrong.
    pub deliveries: Vec<(Timestamp, String)>,
    /// Lost on purpose.
    pub lost: bool,
}

impl CarrierReport {
    /// Calls over the API, with their children left out.
    pub fn outbound(&self) -> impl Iterator<Item = &CallLog> {
        self.calls.iter().filter(|call| call.direction == "outbound-api")
    }

    /// Attempts for which more than one call was asked for and taken, with the number of calls.
    #[must_use]
    pub fn repeated_attempts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for attempt in self.outbound().filter_map(|call| call.attempt.as_deref()) {
            *counts.entry(attempt).or_default() += 1;
        }
        counts.retain(|_, count| *count > 1);
        counts
    }

    /// Most calls that were dialed within any second.
    #[must_use]
    pub fn most_dialed_within_a_second(&self) -> usize {
        let mut times: Vec<Timestamp> = self.outbound().filter_map(|call| call.dialed_at).collect();
        times.sort_unstable();
        let within = |from: usize| {
            let end = times[from] + jiff::SignedDuration::from_secs(1);
            times[from..].iter().take_while(|time| **time < end).count()
        };
        (0..times.len()).map(within).max().unwrap_or(0)
    }

    /// Most calls over the API that were between dialing and end at the same time.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        let mut changes: Vec<(Timestamp, i64)> = Vec::new();
        for call in self.outbound() {
            if let Some(dialed) = call.dialed_at {
                changes.push((dialed, 1));
                changes.extend(call.ended_at.map(|ended| (ended, -1)));
            }
        }
        changes.sort_unstable();
        let (mut now, mut most) = (0_i64, 0_i64);
        for (_, change) in changes {
            now += change;
            most = most.max(now);
        }
        most as usize
    }

    /// The call with this SID.
    #[must_use]
    pub fn call(&self, sid: &str) -> Option<&CallLog> {
        self.calls.iter().find(|call| call.sid == sid)
    }
}
