use super::*;
use crate::ids::{AgentId, CallSid, OrganizationId};
use crate::store::call_facts::Callback;

fn call(events: Value) -> Known {
    let facts = CallFacts {
        call_sid: CallSid::parse("CA1").unwrap(),
        organization: OrganizationId(Uuid::nil()),
        agent: AgentId(Uuid::nil()),
        keywords: Vec::new(),
        event_sequence: events,
        routing_status: None,
        data: json!({}),
        callbacks: Vec::new(),
        lease: None,
        attempt: None,
        interaction: Some("i".to_owned()),
        lead: None,
    };
    Known { facts, said: Vec::new() }
}

#[expect(clippy::needless_pass_by_value, reason = "so that `json!` can stand where it is called")]
fn event(kind: &str, minute: u32, details: Value) -> Value {
    json!({"type": kind, "timestamp": format!("2026-03-01T12:{minute:02}:00Z"), "details": details})
}

fn callback(status: &str, sequence: Option<i32>, minute: u32) -> Callback {
    Callback {
        status: Some(status.to_owned()),
        sequence,
        event_time: sequence.map(|_| format!("2026-03-01T12:{minute:02}:00Z").parse().unwrap()),
        came_at: format!("2026-03-01T13:{minute:02}:00Z").parse().unwrap(),
        ..Callback::default()
    }
}

#[test]
fn a_call_of_which_nothing_is_known_has_no_records() {
    assert_eq!(project(&call(json!([]))), None);
    assert_eq!(project(&call(json!([{"type": "incoming_call", "timestamp": "soon"}]))), None);
}

#[test]
fn a_call_is_as_far_as_the_furthest_that_was_said_of_it() {
    let mut known = call(json!([event("incoming_call", 0, json!({"from": "a", "to": "b"}))]));
    let status = |known: &Known| project(known).unwrap().log.status;
    assert_eq!(status(&known), "initiated");
    known.facts.callbacks.push(callback("ringing", Some(1), 1));
    assert_eq!(status(&known), "ringing");
    known.facts.callbacks.push(callback("in-progress", Some(2), 2));
    assert_eq!(status(&known), "connected");
    known.facts.callbacks.push(callback("initiated", Some(0), 0));
    assert_eq!(status(&known), "connected", "what came late does not set it back");
    let log = project(&known).unwrap().log;
    assert_eq!(log.call_status.as_deref(), Some("in-progress"));
    assert_eq!(log.answered_at, "2026-03-01T12:02:00Z".parse().ok());
}

#[test]
fn of_several_last_words_the_one_that_the_carrier_counted_first_is_the_last() {
    let mut known = call(json!([event("incoming_call", 0, json!({}))]));
    // A request for TwiML says it, too, without a count.
    known.facts.callbacks =
        vec![callback("completed", None, 1), callback("failed", Some(7), 9), callback("busy", Some(3), 8)];
    assert_eq!(project(&known).unwrap().log.call_status.as_deref(), Some("busy"));
    known.facts.callbacks.reverse();
    assert_eq!(project(&known).unwrap().log.call_status.as_deref(), Some("busy"));
}

#[test]
fn a_fax_is_nobody_reached() {
    let mut known = call(json!([event("outbound_dispatched", 0, json!({}))]));
    let fax = Callback { answered_by: Some("fax".to_owned()), ..callback("in-progress", Some(2), 1) };
    known.facts.callbacks = vec![fax, callback("completed", Some(3), 2)];
    assert_eq!(Story::of(&known.facts).outcome(), Some(Outcome::Failed));
    known.facts.callbacks[0].answered_by = Some("machine_start".to_owned());
    assert_eq!(Story::of(&known.facts).outcome(), Some(Outcome::Voicemail));
}

#[test]
fn a_try_is_not_over_before_the_carrier_says_so() {
    let ended = event("agent_call_completed", 1, json!({}));
    let mut known = call(json!([event("outbound_dispatched", 0, json!({})), ended]));
    known.facts.callbacks.push(callback("in-progress", Some(2), 1));
    assert_eq!(Story::of(&known.facts).outcome(), None, "the agent has ended, and people may speak on");
    known.facts.callbacks.push(callback("completed", Some(3), 9));
    assert_eq!(Story::of(&known.facts).outcome(), Some(Outcome::Answered));
}

#[test]
fn each_time_the_caller_is_handed_over_is_a_row() {
    let asked = |minute, reason: &str| event("transferred", minute, json!({"reason": reason, "summary": ""}));
    let known = call(json!([
        asked(1, "first"),
        event("handoff_ended", 2, json!({"handoff": 1, "dial_status": "busy"})),
        asked(3, "second"),
        event("handoff_answered", 4, json!({"handoff": 2})),
    ]));
    let rows = project(&known).unwrap().handoffs;
    let seen: Vec<_> = rows.iter().map(|row| (row.handoff, &*row.reason, row.status)).collect();
    assert_eq!(seen, [(1, "first", "busy"), (2, "second", "connected")]);
    let mut over = known;
    over.facts.callbacks.push(callback("completed", Some(3), 9));
    let row = project(&over).unwrap().handoffs.remove(1);
    assert_eq!(
        (row.status, row.duration_s),
        ("completed", Some(300)),
        "the caller's call is over, and so is this"
    );
}

#[test]
fn keywords_are_whole_words_of_what_was_said_and_not_of_who_said_it() {
    let mut known = call(json!([event("agent_call_completed", 0, json!({}))]));
    let list = ["pay", "PAYMENT", "bank account", "caller", "über", "!"];
    known.facts.keywords = list.map(str::to_owned).to_vec();
    let said = |by_agent, content: &str| Said { by_agent, content: content.to_owned(), revision: 2 };
    known.said =
        vec![said(false, "My payment:\nfrom the Bank-account"), said(true, " "), said(true, "ÜBER 5?")];
    let records = project(&known).unwrap();
    let text = "Caller: My payment: from the Bank-account\nAgent: ÜBER 5?";
    assert_eq!(records.log.conversation_transcript.as_deref(), Some(text));
    assert_eq!(records.log.transcript_revision, 6);
    let disposition = records.interaction.unwrap().end.unwrap().disposition;
    assert_eq!(disposition["keywords_detected"], json!(["PAYMENT", "bank account", "über"]));
}
