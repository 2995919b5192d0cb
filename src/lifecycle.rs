//! One call event in, all its records out, at once.
//!
//! Whatever happens to a call is appended to `calls.event_sequence` exactly once, and then all records of the call are made
//! to say what follows from everything that is known of it ([`projection`]): in one transaction, so that a dropped handler
//! leaves either nothing or everything. Events may come late, twice and in any order. No other code writes these columns.

mod announcements;
pub mod callback;
pub mod projection;
mod records;
pub mod report;
mod story;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::call::end::{EndReason, NextStep};
use crate::ids::{AgentId, CallSid, OrganizationId, PhoneNumberId, StreamSid};
use crate::store::Store;
use crate::store::call_logs;
use crate::store::calls::Change;
pub use crate::store::calls::Recorded;
use crate::store::leases::FencingToken;

/// The call an event is about. Whichever event comes first creates its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRef {
    /// The call.
    pub call_sid: CallSid,
    /// Whose it is.
    pub organization: OrganizationId,
    /// Who answers.
    pub agent: AgentId,
}

/// Something that happened to a call. What is kept of it on disk is read by later versions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum CallEvent {
    /// A call arrived.
    Incoming {
        /// Which of our numbers was called, where it is one of ours.
        phone_number: Option<PhoneNumberId>,
        /// As the carrier sent it; need not be a number.
        from: String,
        /// As the carrier sent it; need not be a number.
        to: String,
        /// People are called first, as the schedule says; else the agent answers.
        #[serde(default)]
        to_team: bool,
    },
    /// The people who were called first did not answer.
    TeamNoAnswer {
        /// The carrier's word: `no-answer`, `busy`, `failed`, `canceled`.
        dial_status: String,
    },
    /// The carrier took a call that we asked for.
    Dispatched {
        /// The try, `call_attempts.id`.
        attempt: Uuid,
        /// What it is a try of, `call_queue.id`.
        queue: Uuid,
        /// The interaction it is made for.
        interaction: Option<String>,
        /// Our number.
        from: String,
        /// Theirs.
        to: String,
    },
    /// A machine answered a call of ours.
    VoicemailDetected {
        /// The carrier's word, such as `machine_start`.
        answered_by: String,
    },
    /// The other party does not want to be called any more.
    OptedOut {
        /// Their number, in E.164.
        number: String,
        /// How they said so.
        source: OptOutSource,
    },
    /// A person took the caller over.
    HandoffAnswered {
        /// Which handoff of the call, from 1.
        handoff: u32,
        /// Who, `team_members.id`.
        member: Option<Uuid>,
        /// The leg to the person.
        leg: Option<CallSid>,
    },
    /// What came of ringing people on behalf of the agent: they have spoken, or nobody answered.
    HandoffEnded {
        /// Which handoff of the call, from 1.
        handoff: u32,
        /// The carrier's word: `completed`, `busy`, `no-answer`, `failed`, `canceled`.
        dial_status: String,
        /// The leg to the person.
        leg: Option<CallSid>,
        /// How long they spoke, in seconds.
        duration_s: Option<u32>,
    },
    /// Its media stream started.
    StreamStarted {
        /// The stream.
        stream_sid: StreamSid,
        /// Who carries it.
        node: String,
        /// The right to do so.
        token: FencingToken,
    },
    /// Audio has flown both ways.
    Connected {
        /// The right to say so.
        token: FencingToken,
    },
    /// The caller goes to people.
    Transferred {
        /// The right to say so.
        token: FencingToken,
        /// To whom, where a number is known.
        to: Option<String>,
        /// Why, in the agent's words.
        reason: String,
        /// What has been said so far, in the agent's words.
        summary: String,
    },
    /// Somebody in charge has steered the call. What was refused has not: that is in `call_commands` only.
    Operator {
        /// The right to say so.
        token: FencingToken,
        /// What was done, `call_commands.id`.
        command: Uuid,
        /// Of which kind it is: `hang_up`, `transfer`, `say`, `inject`.
        kind: String,
    },
    /// A stream is over, and the call is not: the carrier will ask, and be given another one, or people to call.
    StreamEnded {
        /// The right to say so.
        token: FencingToken,
        /// Why.
        reason: EndReason,
        /// What else there is to say: further members of the event.
        #[serde(default)]
        report: Map<String, Value>,
    },
    /// The call is over.
    Ended {
        /// The right to say so.
        token: FencingToken,
        /// Why. The first cause wins.
        reason: EndReason,
        /// How long the call lasted, from its first stream on.
        duration: Duration,
        /// What else there is to say: the members of the end-of-call report beside `call`.
        report: Map<String, Value>,
    },
}

/// How somebody said that they do not want to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptOutSource {
    /// To the agent.
    Call,
    /// On the keypad.
    Keypad,
}

impl OptOutSource {
    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Keypad => "keypad",
        }
    }
}

impl CallEvent {
    /// What the end of a stream is to its call, which has lasted for `duration`. `may_resume`: the carrier will ask us how
    /// the call goes on.
    #[must_use]
    pub fn after_stream(
        token: FencingToken,
        reason: EndReason,
        duration: Duration,
        may_resume: bool,
    ) -> Self {
        let goes_on = matches!(reason.next_step(), NextStep::Resume | NextStep::Transfer);
        if may_resume && goes_on {
            Self::StreamEnded { token, reason, report: Map::new() }
        } else {
            Self::Ended { token, reason, duration, report: Map::new() }
        }
    }

    /// The same, with what else there is to say of the stream or call that is over.
    #[must_use]
    pub fn reporting(mut self, more: Map<String, Value>) -> Self {
        if let Self::StreamEnded { report, .. } | Self::Ended { report, .. } = &mut self {
            *report = more;
        }
        self
    }
}

/// Puts an event on record. May be repeated at will; a call of another organisation is left alone.
pub async fn record(
    store: &Store,
    call: &CallRef,
    at: Timestamp,
    event: &CallEvent,
) -> sqlx::Result<Recorded> {
    records::put(store, change(call, at, event), event).await
}

/// Puts an event on record that was kept meanwhile. What happened to a stream while it had the call takes its place in the
/// sequence also when another stream has the call by now; it decides nothing any more.
pub async fn replay(
    store: &Store,
    call: &CallRef,
    at: Timestamp,
    event: &CallEvent,
) -> sqlx::Result<Recorded> {
    records::put(store, Change { is_replayed: true, ..change(call, at, event) }, event).await
}

/// Makes the records of calls that were over lately say what has become known since: turns that came after the end, the
/// lead that was linked then. At most `limit` calls; returns how many.
pub async fn finish(store: &Store, limit: i64) -> sqlx::Result<usize> {
    let calls = call_logs::unfinished(store, limit).await?;
    for call_sid in &calls {
        records::derive_again(store, call_sid).await?;
    }
    Ok(calls.len())
}

/// What an event means for the records. The names of events and members are part of the data model.
fn change<'a>(call: &'a CallRef, at: Timestamp, event: &CallEvent) -> Change<'a> {
    let base = nothing(call, at);
    match event {
        CallEvent::Incoming { phone_number, from, to, to_team } => Change {
            phone_number: *phone_number,
            kind: "incoming_call",
            details: json!({"from": from, "to": to}),
            known_by: vec![json!([{"type": "incoming_call"}])],
            routing_status: if *to_team { "transferred_to_team" } else { base.routing_status },
            ..base
        },
        CallEvent::TeamNoAnswer { dial_status } => Change {
            kind: "team_no_answer",
            details: json!({"dial_status": dial_status}),
            known_by: vec![json!([{"type": "team_no_answer"}])],
            routing_status: "team_no_answer",
            ..base
        },
        CallEvent::Dispatched { attempt, queue, interaction, from, to } => Change {
            kind: "outbound_dispatched",
            details: json!({"interaction_id": interaction, "queue_id": queue, "attempt_id": attempt, "from": from, "to": to}),
            known_by: vec![json!([{"type": "outbound_dispatched"}])],
            ..base
        },
        CallEvent::VoicemailDetected { answered_by } => Change {
            kind: "voicemail_detected",
            details: json!({"answered_by": answered_by}),
            known_by: vec![json!([{"type": "voicemail_detected"}])],
            end: Some((NextStep::HangUp, EndReason::Voicemail)),
            ..base
        },
        CallEvent::OptedOut { number: _, source } => Change {
            kind: "opted_out",
            details: json!({"source": source}),
            known_by: vec![json!([{"type": "opted_out"}])],
            ..base
        },
        CallEvent::HandoffAnswered { handoff, member, leg } => Change {
            kind: "handoff_answered",
            details: json!({"handoff": handoff, "member_id": member, "call_sid": leg}),
            known_by: vec![json!([{"type": "handoff_answered", "details": {"handoff": handoff}}])],
            ..base
        },
        CallEvent::HandoffEnded { handoff, dial_status, leg, duration_s } => Change {
            kind: "handoff_ended",
            details: json!({"handoff": handoff, "dial_status": dial_status, "call_sid": leg, "duration": duration_s}),
            known_by: vec![json!([{"type": "handoff_ended", "details": {"handoff": handoff}}])],
            ..base
        },
        CallEvent::StreamStarted { stream_sid, node, token } => Change {
            kind: "stream_started",
            details: json!({"stream_sid": stream_sid, "node": node, "token": token.0}),
            known_by: vec![json!([{"type": "stream_started", "details": {"stream_sid": stream_sid}}])],
            token: Some(*token),
            ..base
        },
        CallEvent::Connected { token } => Change {
            kind: "connected",
            known_by: vec![json!([{"type": "connected"}])],
            token: Some(*token),
            ..base
        },
        CallEvent::Transferred { token, to, reason, summary } => Change {
            kind: "transferred",
            details: json!({"to": to, "reason": reason, "summary": summary, "token": token.0}),
            // A call that comes back from people may be handed to them again.
            known_by: vec![json!([{"type": "transferred", "details": {"token": token.0}}])],
            token: Some(*token),
            ..base
        },
        CallEvent::Operator { token, command, kind } => Change {
            kind: "operator",
            details: json!({"command": command, "kind": kind}),
            known_by: vec![json!([{"type": "operator", "details": {"command": command}}])],
            token: Some(*token),
            ..base
        },
        CallEvent::StreamEnded { token, reason, report } => {
            let mut details = report.clone();
            details.insert("token".into(), token.0.into());
            details.insert("reason".into(), reason.as_str().into());
            Change {
                kind: "stream_ended",
                details: Value::Object(details),
                known_by: vec![json!([{"type": "stream_ended", "details": {"token": token.0}}])],
                token: Some(*token),
                end: Some((
                    if reason.next_step() == NextStep::Transfer {
                        NextStep::Transfer
                    } else {
                        NextStep::Resume
                    },
                    *reason,
                )),
                ..base
            }
        }
        CallEvent::Ended { token, reason, duration, report } => {
            let report = end_of_call_report(call, at, *reason, *duration, report);
            ended(Change { token: Some(*token), ..base }, *reason, report)
        }
    }
}

/// What any event of a call has in common with all others.
fn nothing(call: &CallRef, at: Timestamp) -> Change<'_> {
    Change {
        call_sid: &call.call_sid,
        organization: call.organization,
        agent: call.agent,
        phone_number: None,
        at,
        kind: "",
        details: json!({}),
        known_by: Vec::new(),
        routing_status: "direct_to_agent",
        data: json!({}),
        token: None,
        end: None,
        is_over: false,
        is_replayed: false,
    }
}

/// The end of a call.
fn ended(base: Change<'_>, reason: EndReason, report: Value) -> Change<'_> {
    let known_by = vec![json!([{"type": COMPLETED}]), json!([{"type": FAILED}])];
    // There is nothing that could be resumed.
    let next_step = match reason.next_step() {
        NextStep::Resume => NextStep::Apologise,
        step => step,
    };
    let base = Change { known_by, end: Some((next_step, reason)), is_over: true, ..base };
    if reason.is_success() {
        let details = report.clone();
        Change { kind: COMPLETED, details, data: report, routing_status: "completed", ..base }
    } else {
        let details = json!({"reason": reason.as_str()});
        Change { kind: FAILED, details, data: report, ..base }
    }
}

/// Type of the event that ends a call which did what it was for.
const COMPLETED: &str = "agent_call_completed";
/// Type of the event that ends a call in which something failed.
const FAILED: &str = "call_failed";

/// The report has one shape for all calls, so that one query reads them all: `call.status`, `call.duration` in seconds
/// begun, and beside `call` whatever the call itself reports. Members are spelled as in VAPI's reports, which shall go to
/// the same column.
fn end_of_call_report(
    call: &CallRef,
    ended_at: Timestamp,
    reason: EndReason,
    duration: Duration,
    report: &Map<String, Value>,
) -> Value {
    let mut whole = report.clone();
    let started_at =
        SignedDuration::try_from(duration).ok().and_then(|duration| ended_at.checked_sub(duration).ok());
    whole.insert(
        "call".into(),
        json!({
            "sid": call.call_sid,
            "status": if reason.is_success() { "completed" } else { "failed" },
            "duration": duration.as_millis().div_ceil(1000) as u64,
            "startedAt": started_at,
            "endedAt": ended_at,
            "endedReason": reason.as_str(),
        }),
    );
    Value::Object(whole)
}
