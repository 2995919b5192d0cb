use serde_json::json;

use super::*;
use crate::call::end::EndReason;
use crate::ids::CallSid;

const CAME: &str = "2024-10-30T09:05:10Z";

fn report(message: &Value) -> Report {
    match read(&json!({ "message": message }), at(CAME)).expect("it can be read") {
        Message::Report(report) => *report,
        Message::Other => panic!("it is a report"),
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("it is a moment")
}

#[test]
fn a_report_keeps_every_member_and_what_ours_take_the_place_of() {
    let sent = json!({
        "type": "end-of-call-report", "timestamp": 1_730_279_105_000_u64, "endedReason": "customer-ended-call",
        "startedAt": "2024-10-30T09:00:00Z", "endedAt": "2024-10-30T09:05:00.100Z", "cost": 0.12,
        "durationSeconds": 300.1, "analysis": {"summary": "An invoice."},
        "artifact": {"recordingUrl": "https://example.com/1.wav"},
        "call": {
            "id": "0191e0a0-0000-7000-8000-000000000001", "status": "ended", "type": "inboundPhoneCall",
            "phoneCallProviderId": "CA1", "assistantId": "asst_1", "vapi": 7, "duration": 300.1,
            "customer": {"number": "+14155550123"}, "from": "sip:x",
        },
        "phoneNumber": {"number": "+14155550199"},
    });
    let report = report(&sent);
    assert_eq!(report.call_sid.as_ref().map(CallSid::as_str), Some("CA1"));
    assert_eq!(report.vapi_call_id.as_ref().map(CallSid::as_str), sent["call"]["id"].as_str());
    assert_eq!(
        (report.assistant_id.as_deref(), report.reason),
        (Some("asst_1"), Some(EndReason::CallerHungUp))
    );
    assert_eq!(
        (report.started_at, report.ended_at, report.reported_at),
        (at("2024-10-30T09:00:00Z"), at("2024-10-30T09:05:00.100Z"), at("2024-10-30T09:05:05Z"))
    );
    let call = &report.data["call"];
    for (member, value) in [
        ("sid", json!("CA1")),
        ("status", json!("completed")),
        ("duration", json!(301)),
        ("endedReason", json!("caller_hung_up")),
        ("direction", json!("inbound")),
        ("from", json!("+14155550123")),
        ("to", json!("+14155550199")),
        ("recordingUrl", json!("https://example.com/1.wav")),
        ("reportedBy", json!("vapi")),
        ("reportedReason", json!("customer-ended-call")),
        ("vapi", json!({"status": "ended", "vapi": 7, "duration": 300.1, "from": "sip:x"})),
    ] {
        assert_eq!(call[member], value, "{member}");
    }
    // Put back in place, it is what was sent.
    let mut again = report.data.clone();
    let replaced = again["call"]["vapi"].take();
    let call = again["call"].as_object_mut().expect("it is one");
    call.retain(|name, _| sent["call"].get(name).is_some());
    for (name, value) in replaced.as_object().expect("it is one") {
        call.insert(name.clone(), value.clone());
    }
    assert_eq!(again, sent);
}

#[test]
fn times_and_durations_come_from_wherever_the_report_has_them() {
    let base = |more: Value| {
        let mut message = json!({"type": "end-of-call-report", "call": {"id": "v1"}});
        for (name, value) in more.as_object().expect("it is one") {
            message[name] = value.clone();
        }
        let report = report(&message);
        let duration = report.data["call"]["duration"].as_i64().expect("it is a number");
        (report.started_at.to_string(), report.ended_at.to_string(), report.reported_at.to_string(), duration)
    };
    let of = |started: &str, ended: &str, made: &str, duration: i64| {
        (started.to_owned(), ended.to_owned(), made.to_owned(), duration)
    };
    let (start, end) = ("2024-10-30T09:00:00Z", "2024-10-30T09:01:30Z");
    assert_eq!(base(json!({})), of(CAME, CAME, CAME, 0));
    assert_eq!(base(json!({"startedAt": start, "endedAt": end})), of(start, end, end, 90));
    assert_eq!(base(json!({"startedAt": start, "durationSeconds": 90})), of(start, end, end, 90));
    assert_eq!(
        base(json!({"timestamp": end, "durationMs": 89_001})),
        of("2024-10-30T09:00:00Z", end, end, 90)
    );
    assert_eq!(
        base(json!({"call": {"id": "v1", "startedAt": start, "endedAt": end, "updatedAt": CAME}})),
        of(start, end, CAME, 90)
    );
    // What cannot be read, or be, is not said.
    for strange in [json!("soon"), json!(-1e300), json!("-009999-01-01T00:00:00Z"), json!([]), json!(7)] {
        let times = base(json!({
            "startedAt": strange, "endedAt": strange, "timestamp": strange, "durationSeconds": "x",
        }));
        assert_eq!(times, of(CAME, CAME, CAME, 0), "{strange}");
    }
    // An end before its start is a start.
    assert_eq!(base(json!({"startedAt": end, "endedAt": start})), of(start, start, start, 0));
    assert_eq!(base(json!({"durationSeconds": 1e300})).3, i64::from(i32::MAX));
}

#[test]
fn what_is_no_report_says_all_that_is_wrong_with_it() {
    let fields = |body: Value| -> Vec<String> {
        let problems = read(&body, at(CAME)).expect_err("it cannot be read");
        problems.into_iter().map(|problem| problem.field).collect()
    };
    for body in [json!(null), json!([]), json!({}), json!({"message": []}), json!({"message": "x"})] {
        assert_eq!(fields(body), ["message"]);
    }
    assert_eq!(fields(json!({"message": {"type": 7}})), ["message.type"]);
    let report = |call: Value| json!({"message": {"type": "end-of-call-report", "call": call}});
    assert_eq!(fields(report(json!(null))), ["message.call"]);
    for call in [json!({}), json!({"id": 7}), json!({"id": "x".repeat(51), "phoneCallProviderId": "a b"})] {
        assert_eq!(fields(report(call)), ["message.call.id", "message.call.phoneCallProviderId"]);
    }
    let other = read(&json!({"message": {"type": "status-update", "call": 7}}), at(CAME));
    assert!(matches!(other, Ok(Message::Other)));
}

#[test]
fn what_was_said_becomes_turns_and_what_the_assistant_was_told_does_not() {
    let message = json!({
        "type": "end-of-call-report", "startedAt": "2024-10-30T09:00:00Z",
        "assistant": {"model": {"messages": [{"role": "system", "content": "Be brief."}]}},
        "call": {"id": "v1"},
        "artifact": {"messages": [
            {"role": "system", "message": "You are Ada.", "time": 1_730_278_800_000_u64, "secondsFromStart": 0},
            {"role": "bot", "message": " Good morning. ", "time": 1_730_278_801_500_u64},
            {"role": "user", "message": "", "secondsFromStart": 2},
            {"role": "user", "message": "When are you open?", "secondsFromStart": 2.5},
            {"role": "system", "message": "Be brief."},
            {"role": "system", "message": "The caller is known."},
            {"role": "tool_calls", "secondsFromStart": 3, "toolCalls": [
                {"id": "c1", "function": {"name": "hours", "arguments": "{\"day\":1}"}},
                {"id": "c2", "function": {"name": "weather", "arguments": {"day": 2}}},
            ]},
            {"role": "tool_call_result", "toolCallId": "c1", "name": "hours", "result": "9 to 5"},
            {"role": "tool_call_result", "name": "late", "result": {"a": 1}},
            {"role": "assistant", "content": [{"type": "text", "text": "Nine"}, {"type": "text", "text": "to five."}]},
            {"role": "unheard-of", "message": "x"}, 7, null,
        ]},
    });
    let turns = report(&message).turns;
    let said: Vec<_> =
        turns.iter().map(|turn| (turn.role, turn.content.as_str(), turn.timestamp.to_string())).collect();
    let time = |seconds: &str| format!("2024-10-30T09:00:0{seconds}Z");
    assert_eq!(
        said,
        [
            ("assistant", "Good morning.", time("1.5")),
            ("user", "When are you open?", time("2.5")),
            ("system", "The caller is known.", time("2.5")),
            ("tool", "9 to 5", time("3")),
            ("tool", "", time("3")),
            ("tool", "{\"a\":1}", time("3")),
            ("assistant", "Nine to five.", time("3")),
        ]
    );
    let places: Vec<_> = turns.iter().map(|turn| (turn.sequence, turn.item_id.as_str())).collect();
    assert_eq!(places[0], (1, "vapi:1"));
    assert_eq!(places[6], (7, "vapi:7"));
    let tool = &turns[3];
    assert_eq!(
        (
            tool.tool_name.as_deref(),
            tool.tool_call_id.as_deref(),
            tool.generated_content.as_deref(),
            tool.status
        ),
        (Some("hours"), Some("c1"), Some("{\"day\":1}"), "final")
    );
    assert_eq!((turns[4].status, turns[4].generated_content.as_deref()), ("unanswered", Some("{\"day\":2}")));
}

#[test]
fn older_reports_have_what_was_said_elsewhere() {
    let said = |message: Value| -> Vec<String> {
        let turns = report(&message).turns;
        turns.into_iter().map(|turn| format!("{} {}", turn.role, turn.content)).collect()
    };
    let messages = json!([{"role": "bot", "message": "Hello."}, {"role": "user", "message": "Hi."}]);
    let expected = ["assistant Hello.", "user Hi."];
    let base = |more: Value, call: Value| {
        let mut message = json!({"type": "end-of-call-report", "call": call});
        for (name, value) in more.as_object().expect("it is one") {
            message[name] = value.clone();
        }
        message
    };
    assert_eq!(said(base(json!({"messages": messages}), json!({"id": "v1"}))), expected);
    assert_eq!(said(base(json!({}), json!({"id": "v1", "messages": messages}))), expected);
    assert_eq!(
        said(base(json!({"artifact": {"messages": []}, "messages": messages}), json!({"id": "v1"}))),
        expected
    );
    let formatted = json!({"messagesOpenAIFormatted": [
        {"role": "system", "content": "You are Ada."}, {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Hi."},
    ]});
    assert_eq!(said(base(json!({ "artifact": formatted }), json!({"id": "v1"}))), expected);
}
