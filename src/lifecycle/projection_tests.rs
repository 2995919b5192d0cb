use super::*;
use crate::ids::{AgentId, CallSid, OrganizationId};
use crate::store::call_facts::{Callback, Lease};

fn call(events: Value) -> Known {
    let facts = CallFacts {
        call_sid: CallSid::parse("CA1").unwrap(),
        told_as: CallSid::parse("CA1").unwrap(),
        organization: OrganizationId(Uuid::nil()),
        agent: AgentId(Uuid::nil()),
        keywords: Vec::new(),
        by_assistant: false,
        event_sequence: events,
        routing_status: None,
        data: json!({}),
        callbacks: Vec::new(),
        lease: None,
        attempt: None,
        interaction: Some("i".to_owned()),
        lead: None,
        listening: None,
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

/// The first of three tries, without a campaign.
fn first_try() -> Attempt {
    Attempt {
        id: Uuid::nil(),
        call_sid: None,
        lead_id: Some(7),
        campaign_id: None,
        project_id: None,
        attempt_number: 1,
        is_current: true,
        status: "placed".to_owned(),
        outcome: None,
        is_overtaken: false,
        max_attempts: 3,
        retry_delays_s: None,
        voicemail_policy: None,
        interaction_id: None,
    }
}

/// A call of ours that ended with this word of the carrier.
fn tried(word: &str) -> Known {
    let mut known = call(json!([event("outbound_dispatched", 0, json!({"from": "us", "to": "them"}))]));
    known.facts.attempt = Some(first_try());
    known.facts.callbacks = vec![callback("initiated", Some(0), 1), callback(word, Some(3), 9)];
    known
}

fn end_of(known: &Known) -> AttemptEnd {
    project(known).unwrap().attempt.unwrap().end.unwrap()
}

fn moment(text: &str) -> jiff::Timestamp {
    format!("2026-03-01T12:{text}Z").parse().unwrap()
}

#[test]
fn a_try_that_became_another_call_is_not_this_one() {
    let mut known = tried("busy");
    known.facts.attempt.as_mut().unwrap().call_sid = Some("CA1".to_owned());
    assert!(project(&known).unwrap().attempt.is_some());
    known.facts.attempt.as_mut().unwrap().call_sid = Some("CA2".to_owned());
    assert_eq!(project(&known).unwrap().attempt, None);
}

#[test]
fn a_try_that_was_given_up_is_told_of_when_it_is_over_if_another_call_to_the_telephone_goes_on() {
    let mut known = tried("busy");
    let over = known.facts.callbacks.pop().unwrap();
    let attempt = known.facts.attempt.as_mut().unwrap();
    (attempt.status, attempt.is_overtaken) = ("ended".to_owned(), true);
    assert_eq!(project(&known).unwrap().attempt, None);
    known.facts.callbacks.push(over);
    assert_eq!(end_of(&known).outcome, Outcome::Busy);
}

#[test]
fn every_last_word_of_the_carrier_ends_a_try_and_says_what_follows() {
    for (word, outcome, next, error) in [
        ("busy", Outcome::Busy, Some(moment("24:00")), "the telephone was busy"),
        ("no-answer", Outcome::NoAnswer, "2026-03-01T14:09:00Z".parse().ok(), "nobody answered"),
        (
            "failed",
            Outcome::Failed,
            "2026-03-01T13:09:00Z".parse().ok(),
            "the carrier could not connect the call",
        ),
        ("canceled", Outcome::Canceled, None, "the call was taken back"),
    ] {
        let mut known = tried(word);
        known.facts.callbacks[1].duration_s = Some(31); // How long it rang, perhaps: nobody has spoken.
        let end = end_of(&known);
        assert_eq!((end.outcome, end.next_retry_at, end.duration_s), (outcome, next, Some(0)), "{word}");
        assert_eq!((end.error.as_deref(), end.is_done), (Some(error), false), "{word}");
        known.facts.callbacks[1].sip = Some(480);
        let end = end_of(&known);
        assert_eq!(end.error, Some(format!("{error} (SIP 480)")), "{word}");
        assert_eq!((end.sip_response_code, end.ended_at), (Some(480), moment("09:00")), "{word}");
        known.facts.attempt.as_mut().unwrap().attempt_number = 3;
        assert_eq!(end_of(&known).next_retry_at, None, "{word}: it was the last try");
    }
    let end = end_of(&tried("completed"));
    assert_eq!((end.outcome, end.error, end.is_done), (Outcome::Answered, None, true));
}

#[test]
fn a_campaign_says_how_long_to_wait_and_what_a_machine_means() {
    let mut known = tried("busy");
    let attempt = known.facts.attempt.as_mut().unwrap();
    attempt.retry_delays_s = Some(json!({"busy": 60, "voicemail": 120}));
    assert_eq!(end_of(&known).next_retry_at, Some(moment("10:00")));
    known.facts.callbacks = tried("completed").facts.callbacks;
    known.facts.callbacks[0].answered_by = Some("machine_start".to_owned());
    assert_eq!((end_of(&known).next_retry_at, end_of(&known).is_done), (None, true), "hang up, and be done");
    known.facts.attempt.as_mut().unwrap().voicemail_policy = Some("retry".to_owned());
    assert_eq!((end_of(&known).next_retry_at, end_of(&known).is_done), (Some(moment("11:00")), false));
}

#[test]
fn a_call_that_was_answered_lasted_as_long_as_the_carrier_says_and_else_as_its_agent_says() {
    let mut known = tried("completed");
    known.facts.callbacks[1].duration_s = Some(61);
    assert_eq!(end_of(&known).duration_s, Some(61));
    known.facts.callbacks[1].duration_s = None;
    assert_eq!(end_of(&known).duration_s, None);
    let ended = event("agent_call_completed", 8, json!({}));
    known.facts.event_sequence.as_array_mut().unwrap().push(ended);
    known.facts.data = json!({"call": {"duration": 55, "endedReason": "agent_ended"}});
    assert_eq!(end_of(&known).duration_s, Some(55));
    assert_eq!(project(&known).unwrap().log.duration_s, Some(55), "the agent's part");
}

#[test]
fn a_fax_is_no_voicemail_and_a_machine_is_one_whatever_else_was_guessed() {
    let mut known = tried("completed");
    let is_voicemail = |known: &Known| project(known).unwrap().attempt.unwrap().voicemail_detected;
    for (words, by, expected) in [
        (["fax", "unknown"], "fax", false),
        (["human", "unknown"], "human", false),
        (["machine_start", "human"], "machine_start", true),
        (["unknown", "machine_end_beep"], "machine_end_beep", true),
    ] {
        for order in [[0, 1], [1, 0]] {
            for (place, word) in order.into_iter().zip(words) {
                known.facts.callbacks[place].answered_by = Some(word.to_owned());
            }
            assert_eq!(is_voicemail(&known), expected, "{words:?}");
            let row = project(&known).unwrap().attempt.unwrap();
            assert_eq!(row.answered_by.as_deref(), Some(by));
        }
    }
}

#[test]
fn a_call_that_a_machine_took_is_voicemail_for_all_who_ask() {
    let mut known = tried("completed");
    let ended = event("agent_call_completed", 8, json!({}));
    known.facts.event_sequence.as_array_mut().unwrap().push(ended);
    known.facts.data = json!({"call": {"duration": 5, "endedReason": "caller_hung_up"}});
    let seen = |known: &Known| {
        let Records { log, interaction, .. } = project(known).unwrap();
        let disposition = interaction.unwrap().end.unwrap().disposition;
        (
            log.disconnect_reason.unwrap(),
            disposition["disposition"].clone(),
            disposition["connection_status"].clone(),
        )
    };
    assert_eq!(seen(&known), ("caller_hung_up".to_owned(), json!("CALLER_HUNG_UP"), json!("CONNECTED")));
    known.facts.callbacks[0].answered_by = Some("machine_start".to_owned());
    assert_eq!(seen(&known), ("voicemail".to_owned(), json!("VOICEMAIL"), json!("VOICEMAIL")));
}

#[test]
fn an_agent_with_a_disposition_of_its_own_has_the_last_word_about_it() {
    let mut known = call(json!([event("agent_call_completed", 8, json!({}))]));
    known.facts.data = json!({"disposition": "USER_CLAIMED_PAYMENT", "call": {"duration": 180, "endedReason": "agent_ended"}});
    let disposition = |known: &Known| project(known).unwrap().interaction.unwrap().end.unwrap().disposition;
    let expected = json!({
        "disposition": "USER_CLAIMED_PAYMENT", "connection_status": "NOT_CONNECTED", "call_duration": 180,
        "keywords_detected": [],
    });
    assert_eq!(disposition(&known), expected);
    known.facts.event_sequence = json!([event("call_failed", 8, json!({"reason": "model_lost"}))]);
    known.facts.data = json!({"call": {"endedReason": "model_lost"}});
    let expected =
        json!({"disposition": "MODEL_LOST", "connection_status": "NOT_CONNECTED", "reason": "model_lost"});
    assert_eq!(disposition(&known), expected);
}

#[test]
fn an_interaction_of_which_nobody_was_reached_waits_for_the_next_try_and_ends_with_the_last() {
    let mut known = tried("busy");
    known.facts.event_sequence.as_array_mut().unwrap().push(event("call_failed", 9, json!({})));
    let row = |known: &Known| project(known).unwrap().interaction.unwrap();
    assert_eq!((row(&known).status, row(&known).end), ("INITIATED", None));
    known.facts.attempt.as_mut().unwrap().max_attempts = 1;
    assert_eq!(row(&known).status, "FAILED");
    assert_eq!(row(&known).end.unwrap().outcome, "FAILED");
    // Somebody who was spoken with has been reached, whatever follows.
    known.facts.attempt.as_mut().unwrap().max_attempts = 3;
    let started = event("stream_started", 2, json!({"stream_sid": "MZ1"}));
    known.facts.event_sequence.as_array_mut().unwrap().insert(1, started);
    let row = row(&known);
    assert_eq!((row.status, row.room_name.as_deref(), row.is_current), ("FAILED", Some("MZ1"), true));
    known.facts.attempt.as_mut().unwrap().is_current = false;
    assert!(!project(&known).unwrap().interaction.unwrap().is_current);
}

#[test]
fn a_call_is_with_whom_its_try_was_to_reach_and_else_with_whom_it_was_linked_to() {
    let mut known = tried("busy");
    known.facts.lead = Some(8);
    assert_eq!(project(&known).unwrap().log.lead_id, Some(7));
    known.facts.attempt = None;
    assert_eq!(project(&known).unwrap().log.lead_id, Some(8));
}

#[test]
fn notes_of_the_end_are_what_the_carrier_said_beyond_that_it_is_over() {
    let mut known = tried("completed");
    let mut notes = |word: &str, sip: Option<i32>| {
        known.facts.callbacks[1].status = Some(word.to_owned());
        known.facts.callbacks[1].sip = sip;
        project(&known).unwrap().log.disconnect_notes
    };
    assert_eq!(notes("completed", None), None);
    assert_eq!(notes("completed", Some(200)).as_deref(), Some("completed, SIP 200"));
    assert_eq!(notes("canceled", None).as_deref(), Some("canceled"));
    assert_eq!(notes("failed", Some(404)).as_deref(), Some("failed, SIP 404"));
}

#[test]
fn numbers_and_direction_are_told_by_whoever_knows_them() {
    let mut known = call(json!([event("stream_started", 0, json!({}))]));
    let seen = |known: &Known| {
        let Records { log, interaction, .. } = project(known).unwrap();
        (log.is_outbound, log.caller_number, log.callee_number, interaction.unwrap().phone_number)
    };
    assert_eq!(seen(&known), (false, None, None, None));
    let text = |text: &str| Some(text.to_owned());
    let told = |direction: &str, from: &str| Callback {
        direction: text(direction),
        from: text(from),
        to: text("d"),
        ..callback("ringing", Some(1), 1)
    };
    known.facts.callbacks = vec![told("inbound", "c"), told("inbound", "b")];
    assert_eq!(seen(&known), (false, text("b"), text("d"), text("b")), "of several always the same");
    known.facts.callbacks = vec![told("outbound-api", "c")];
    assert_eq!(seen(&known), (true, text("c"), text("d"), text("d")));
    known.facts.lease = Some(Lease {
        fencing_token: 1,
        direction: text("inbound"),
        from: text("e"),
        to: text("f"),
        claimed: true,
        came_late: false,
        next_action: None,
        disconnect_reason: None,
        began_at: None,
        ended: false,
        handed_over: false,
    });
    known.facts.callbacks[0].direction = None;
    assert_eq!(seen(&known), (false, text("e"), text("f"), text("e")), "as it came in");
    known.facts.lease.as_mut().unwrap().direction = text("outbound-api");
    assert!(seen(&known).0);
    known.facts.event_sequence = json!([event("incoming_call", 0, json!({"from": "g", "to": ""}))]);
    assert_eq!((seen(&known).1, seen(&known).2), (text("g"), text("f")), "an empty one is none");
}

#[test]
fn a_call_was_answered_when_the_carrier_says_so_and_else_when_its_stream_came() {
    let mut known = call(json!([event("stream_started", 5, json!({}))]));
    let answered = |known: &Known| project(known).unwrap().log.answered_at;
    assert_eq!(answered(&known), Some(moment("05:00")));
    known.facts.callbacks = vec![callback("in-progress", None, 7)];
    assert_eq!(answered(&known), Some(moment("05:00")), "without a clock of its own it knows no better");
    known.facts.event_sequence = json!([event("incoming_call", 0, json!({}))]);
    assert_eq!(answered(&known), "2026-03-01T13:07:00Z".parse().ok(), "or when that came");
    known.facts.callbacks.extend([callback("in-progress", Some(2), 4), callback("in-progress", Some(3), 6)]);
    assert_eq!(answered(&known), Some(moment("04:00")), "the first");
    // Of a call of ours it may be all that is ever said; who calls us may hang up unanswered.
    let over = Callback { duration_s: Some(90), ..callback("completed", Some(3), 9) };
    known.facts.callbacks = vec![over];
    assert_eq!(answered(&known), None);
    known.facts.event_sequence = json!([event("outbound_dispatched", 0, json!({}))]);
    assert_eq!(answered(&known), Some(moment("07:30")));
    known.facts.callbacks[0].status = Some("no-answer".to_owned());
    assert_eq!(answered(&known), None);
}

#[test]
fn of_several_recordings_it_is_always_the_same_that_is_named() {
    let mut known = call(json!([event("incoming_call", 0, json!({}))]));
    let url = |url: &str| Callback { recording_url: Some(url.to_owned()), ..callback("completed", None, 1) };
    known.facts.callbacks = vec![url("https://example.com/RE2"), url("https://example.com/RE1")];
    for _ in 0..2 {
        let records = project(&known).unwrap();
        assert_eq!(records.log.recording_url.as_deref(), Some("https://example.com/RE1"));
        assert_eq!(records.interaction.unwrap().recording, records.log.recording_url);
        known.facts.callbacks.reverse();
    }
}

#[test]
fn the_caller_was_transferred_when_a_person_answered_and_not_before_or_otherwise() {
    let asked = event("transferred", 1, json!({"reason": "wants a person", "summary": "an invoice"}));
    let answered = event("handoff_answered", 2, json!({"handoff": 1, "call_sid": "CA7"}));
    let ended =
        |word: &str| event("handoff_ended", 3, json!({"handoff": 1, "dial_status": word, "duration": 40}));
    let seen = |events: &[&Value]| {
        let known = call(events.iter().map(|event| (*event).clone()).collect());
        let Records { log, mut handoffs, .. } = project(&known).unwrap();
        (log.transferred, log.status, handoffs.remove(0))
    };
    let (transferred, status, row) = seen(&[&asked]);
    assert_eq!((transferred, status, row.status), (None, "initiated", "ringing"));
    let (transferred, status, row) = seen(&[&asked, &answered]);
    let then = Some((moment("01:00"), "wants a person".to_owned()));
    assert_eq!((&transferred, status, row.status), (&then, "transferred", "connected"));
    assert_eq!(
        (row.leg.as_deref(), row.started_at, row.duration_s),
        (Some("CA7"), Some(moment("02:00")), None)
    );
    for (word, status) in
        [("busy", "busy"), ("no-answer", "no_answer"), ("failed", "failed"), ("canceled", "canceled")]
    {
        // Also where somebody picked up and did not take the call.
        let (transferred, log_status, row) = seen(&[&asked, &answered, &ended(word)]);
        assert_eq!((transferred, log_status, row.status), (None, "initiated", status));
        assert_eq!((row.duration_s, row.ended_at), (None, Some(moment("03:00"))), "{word}");
    }
    // That somebody answered may never be told; what came of it says it.
    let (transferred, _, row) = seen(&[&asked, &ended("completed")]);
    assert_eq!((transferred, row.status, row.duration_s), (then, "completed", Some(40)));
    assert_eq!(row.started_at, Some(moment("02:20")));
    // People who answered first, before any agent.
    let first = event("transferred", 1, json!({"reason": "team_answered", "summary": ""}));
    let (transferred, status, row) = seen(&[&first]);
    assert_eq!((transferred.is_some(), status, row.status), (true, "transferred", "connected"));
}

#[test]
fn events_are_told_by_what_can_be_read_of_them() {
    let known = call(json!([
        {"type": "incoming_call", "timestamp": "soon", "details": {"from": "a"}},
        {"type": 7, "timestamp": "2026-03-01T12:00:00Z"},
        event("stream_started", 3, json!({"stream_sid": "MZ1"})),
    ]));
    let log = project(&known).unwrap().log;
    assert_eq!((Some(log.started_at), log.caller_number), (Some(moment("03:00")), None));
}

#[test]
fn the_last_end_of_a_call_is_its_end() {
    let mut known = call(json!([
        event("call_failed", 3, json!({"reason": "stream_lost"})),
        event("agent_call_completed", 4, json!({})),
    ]));
    let log = project(&known).unwrap().log;
    assert_eq!((log.status, log.ended_at), ("completed", Some(moment("04:00"))));
    known.facts.event_sequence = json!([event("call_failed", 3, json!({"reason": "stream_lost"}))]);
    let log = project(&known).unwrap().log;
    assert_eq!((log.status, log.disconnect_reason.as_deref()), ("failed", Some("stream_lost")));
}

#[test]
fn when_a_reported_call_was_answered_is_no_matter_of_when_a_callback_came() {
    let mut known = call(json!([event("agent_call_completed", 5, json!({}))]));
    known.facts.data = json!({"call": {
        "status": "completed", "duration": 300, "reportedBy": "vapi", "startedAt": "2026-03-01T12:00:00Z",
        "recordingUrl": "https://example.com/1.wav",
    }});
    let answered_at = |known: &Known| project(known).unwrap().log.answered_at;
    let reported = "2026-03-01T12:00:00Z".parse().ok();
    assert_eq!(answered_at(&known), reported);
    known.facts.callbacks.push(callback("in-progress", None, 7));
    assert_eq!(answered_at(&known), reported, "it says no time");
    known.facts.callbacks.push(callback("in-progress", Some(1), 1));
    assert_eq!(answered_at(&known), "2026-03-01T12:01:00Z".parse().ok(), "the carrier's clock knows better");
    // Beside a report of ours it still says where the recording is.
    known.facts.data = json!({"call": {"status": "completed", "duration": 90}, "vapi": known.facts.data});
    let log = project(&known).unwrap().log;
    assert_eq!((log.recording_url.as_deref(), log.duration_s), (Some("https://example.com/1.wav"), Some(90)));
}
