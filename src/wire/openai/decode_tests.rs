//! Server events as the OpenAI dossier (section 4) has them, and as others spell them.

use std::borrow::Cow;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::decode::{DecodeError, decode};
use crate::ids::{ItemId, ResponseId, ToolCallId};
use crate::wire::json::unescaped;
use crate::wire::model::{
    AudioFormat, ErrorClass, ItemKind, ModelError, ModelEvent, ResponseStatus, SessionEcho, Usage,
};

#[test]
fn the_session_s_life_is_read() {
    let session = json!({"type": "realtime", "object": "realtime.session", "id": "sess_1", "model": "gpt-realtime-2.1",
        "expires_at": 1_790_003_600, "output_modalities": ["audio"], "instructions": "Be brief.",
        "audio": {
            "input": {"format": {"type": "audio/pcmu"}, "transcription": null, "noise_reduction": null,
                "turn_detection": {"type": "server_vad", "threshold": 0.5, "idle_timeout_ms": null}},
            "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin", "speed": 1.0}},
        "tools": [], "tool_choice": "auto", "max_output_tokens": "inf", "truncation": "auto", "tracing": null});
    expect(
        json!({"type": "session.created", "event_id": "event_1", "session": session}),
        ModelEvent::SessionCreated { session_id: "sess_1".into(), expires_at: Some(1_790_003_600) },
    );
    expect(
        json!({"type": "session.updated", "event_id": "event_2", "session": session}),
        ModelEvent::SessionUpdated(SessionEcho {
            input_format: Some(AudioFormat::Pcmu),
            output_format: Some(AudioFormat::Pcm24k),
            voice: Some("marin".into()),
            turn_detection: Some("server_vad".into()),
        }),
    );
}

#[test]
fn an_echo_tells_only_what_it_says() {
    let echo = |audio: Value| match decode(
        &json!({"type": "session.updated", "session": {"audio": audio}}).to_string(),
    ) {
        Ok(ModelEvent::SessionUpdated(echo)) => echo,
        other => panic!("{other:?}"),
    };
    assert_eq!(echo(Value::Null), SessionEcho::default());
    assert_eq!(echo(json!({"input": {"format": "pcm16", "turn_detection": null}})), SessionEcho::default());
    assert_eq!(
        echo(json!({"output": {"format": {"type": "audio/pcm", "rate": 8000}}})),
        SessionEcho::default()
    );
    assert_eq!(echo(json!({"output": {"format": {"type": "audio/pcma"}}})), SessionEcho::default());
    let plain = echo(json!({"output": {"format": {"type": "audio/pcm"}, "voice": {"id": "voice_1"}}}));
    assert_eq!((plain.output_format, plain.voice.as_deref()), (Some(AudioFormat::Pcm24k), Some("voice_1")));
    assert_eq!(
        echo(json!({"input": {"format": {"type": "audio/pcm", "rate": 24000.0}}})).input_format,
        Some(AudioFormat::Pcm24k)
    );
}

#[test]
fn a_caller_s_turn_is_read() {
    expect(
        json!({"type": "input_audio_buffer.speech_started", "event_id": "e", "audio_start_ms": 1180, "item_id": "item_U1"}),
        ModelEvent::SpeechStarted { item: item("item_U1"), audio_start_ms: 1180 },
    );
    expect(
        json!({"type": "input_audio_buffer.speech_stopped", "event_id": "e", "audio_end_ms": 3020, "item_id": "item_U1"}),
        ModelEvent::SpeechStopped { item: item("item_U1"), audio_end_ms: 3020 },
    );
    expect(
        json!({"type": "input_audio_buffer.committed", "event_id": "e", "previous_item_id": "item_A1", "item_id": "item_U1"}),
        ModelEvent::Committed { item: item("item_U1"), previous: Some(item("item_A1")) },
    );
    expect(
        json!({"type": "conversation.item.input_audio_transcription.delta", "event_id": "e", "item_id": "item_U1",
            "content_index": 0, "delta": "Do you", "logprobs": null, "obfuscation": "x7"}),
        ModelEvent::UserTranscriptDelta { item: item("item_U1"), text: "Do you".into() },
    );
    expect(
        json!({"type": "conversation.item.input_audio_transcription.completed", "event_id": "e", "item_id": "item_U1",
            "content_index": 0, "transcript": "Do you open on Sunday?", "languages": ["en"],
            "usage": {"type": "duration", "seconds": 2}}),
        ModelEvent::UserTranscript { item: item("item_U1"), text: "Do you open on Sunday?".into() },
    );
    expect(
        json!({"type": "conversation.item.input_audio_transcription.failed", "event_id": "e", "item_id": "item_U1",
            "content_index": 0, "error": {"type": "transcription_error", "code": "audio_unintelligible", "message": "…", "param": null}}),
        ModelEvent::UserTranscriptFailed { item: item("item_U1"), code: "audio_unintelligible".into() },
    );
}

#[test]
fn items_take_their_places() {
    for (item_object, kind) in [
        (
            json!({"type": "message", "role": "user", "content": [{"type": "input_audio", "transcript": null}]}),
            ItemKind::User,
        ),
        (
            json!({"type": "message", "role": "assistant", "status": "in_progress", "content": []}),
            ItemKind::Assistant,
        ),
        (json!({"type": "message", "role": "system"}), ItemKind::System),
        (json!({"type": "function_call", "name": "end_call"}), ItemKind::FunctionCall),
        (json!({"type": "function_call_output", "output": "{}"}), ItemKind::FunctionOutput),
        (json!({"type": "mcp_list_tools"}), ItemKind::Other),
        (json!({"role": "user"}), ItemKind::User),
        (json!({}), ItemKind::Other),
    ] {
        let mut item_object = item_object;
        item_object["id"] = json!("item_X");
        for kind_of_event in ["conversation.item.added", "conversation.item.done"] {
            for (previous, expected) in [
                (json!("item_W"), Some(item("item_W"))),
                (json!(null), None),
                (json!("root"), None),
                (json!(""), None),
            ] {
                expect(
                    json!({"type": kind_of_event, "previous_item_id": previous, "item": item_object}),
                    ModelEvent::ItemPlaced { item: item("item_X"), kind, previous: expected },
                );
            }
        }
    }
}

#[test]
fn a_response_is_read_from_its_start_to_its_end() {
    let ids = json!({"event_id": "e", "response_id": "resp_B7", "item_id": "item_A2", "output_index": 0, "content_index": 0});
    let with = |kind: &str, member: &str, text: &str| {
        let mut event = ids.clone();
        event["type"] = json!(kind);
        event[member] = json!(text);
        event
    };
    expect(
        json!({"type": "response.created", "event_id": "e", "response": {"object": "realtime.response", "id": "resp_B7",
            "status": "in_progress", "status_details": null, "output": [], "usage": null}}),
        ModelEvent::ResponseStarted { response: response("resp_B7") },
    );
    expect(
        with("response.output_audio.delta", "delta", "f39/"),
        ModelEvent::Audio { response: "resp_B7", item: "item_A2", base64: "f39/" },
    );
    for kind in ["response.output_audio_transcript", "response.output_text"] {
        expect(
            with(&format!("{kind}.delta"), "delta", "We \"open\""),
            ModelEvent::TextDelta { response: "resp_B7", item: "item_A2", text: "We \"open\"".into() },
        );
    }
    expect(
        with("response.output_audio.done", "unused", ""),
        ModelEvent::AudioDone { response: response("resp_B7"), item: item("item_A2") },
    );
    for (kind, member) in
        [("response.output_audio_transcript.done", "transcript"), ("response.output_text.done", "text")]
    {
        expect(
            with(kind, member, "We open at seven."),
            ModelEvent::TextDone { item: item("item_A2"), text: "We open at seven.".into() },
        );
    }
    expect(
        json!({"type": "conversation.item.truncated", "event_id": "e", "item_id": "item_A2", "content_index": 0, "audio_end_ms": 2140}),
        ModelEvent::Truncated { item: item("item_A2"), audio_end_ms: 2140 },
    );
}

#[test]
fn the_dossier_s_finished_response_is_read() {
    let text = r#"{"type": "response.done", "event_id": "event_91",
 "response": {"object": "realtime.response", "id": "resp_B7", "conversation_id": "conv_1", "status": "completed",
  "status_details": null, "output_modalities": ["audio"], "max_output_tokens": 2048, "metadata": null,
  "audio": {"output": {"format": {"type": "audio/pcmu"}, "voice": "marin"}},
  "output": [{"id": "item_A2", "type": "message", "status": "completed", "role": "assistant",
              "content": [{"type": "output_audio", "transcript": "We open at seven."}]}],
  "usage": {"total_tokens": 493, "input_tokens": 437, "output_tokens": 56,
   "input_token_details": {"text_tokens": 301, "audio_tokens": 136, "image_tokens": 0, "cached_tokens": 384,
     "cached_tokens_details": {"text_tokens": 256, "audio_tokens": 128, "image_tokens": 0}},
   "output_token_details": {"text_tokens": 14, "audio_tokens": 42}}}}"#;
    let usage = Some(Usage { input_tokens: 437, cached_tokens: 384, output_tokens: 56 });
    let expected =
        ModelEvent::ResponseDone { response: response("resp_B7"), status: ResponseStatus::Completed, usage };
    assert_eq!(decode(text).unwrap(), expected);
}

#[test]
fn a_response_ends_in_one_of_four_ways() {
    let failed = |class: ErrorClass, code: &str, message: &str| ResponseStatus::Failed {
        code: code.into(),
        message: message.into(),
        class,
    };
    for (status, details, expected) in [
        (json!("completed"), json!(null), ResponseStatus::Completed),
        (json!(null), json!(null), ResponseStatus::Completed),
        (
            json!("cancelled"),
            json!({"type": "cancelled", "reason": "turn_detected"}),
            ResponseStatus::Cancelled,
        ),
        (
            json!("incomplete"),
            json!({"type": "incomplete", "reason": "max_output_tokens"}),
            ResponseStatus::Incomplete { reason: "max_output_tokens".into() },
        ),
        (
            json!("failed"),
            json!({"type": "failed", "error": {"type": "rate_limit", "code": "rate_limit_exceeded", "message": "Wait."}}),
            failed(ErrorClass::RetryResponse, "rate_limit_exceeded", "Wait."),
        ),
        (
            json!("failed"),
            json!({"error": {"type": "server_error", "code": null}}),
            failed(ErrorClass::RetryResponse, "server_error", ""),
        ),
        (json!("failed"), json!(null), failed(ErrorClass::BadRequest, "failed", "")),
        (json!("new_status"), json!(null), failed(ErrorClass::BadRequest, "new_status", "")),
    ] {
        expect(
            json!({"type": "response.done", "response": {"id": "resp_1", "status": status, "status_details": details, "output": [], "usage": null}}),
            ModelEvent::ResponseDone { response: response("resp_1"), status: expected, usage: None },
        );
    }
}

#[test]
fn numbers_may_be_fractions() {
    expect(
        json!({"type": "input_audio_buffer.speech_started", "audio_start_ms": 1180.7, "item_id": "item_U1"}),
        ModelEvent::SpeechStarted { item: item("item_U1"), audio_start_ms: 1180 },
    );
    let usage = json!({"input_tokens": 437.0, "output_tokens": 56.0, "input_token_details": null});
    expect(
        json!({"type": "response.done", "response": {"id": "resp_1", "status": "cancelled", "usage": usage}}),
        ModelEvent::ResponseDone {
            response: response("resp_1"),
            status: ResponseStatus::Cancelled,
            usage: Some(Usage { input_tokens: 437, cached_tokens: 0, output_tokens: 56 }),
        },
    );
}

#[test]
fn a_function_is_called_once_and_only_when_the_call_is_complete() {
    let done = |item: Value| json!({"type": "response.output_item.done", "event_id": "e", "response_id": "resp_B7", "output_index": 1, "item": item});
    let call = json!({"id": "item_F1", "object": "realtime.item", "type": "function_call", "status": "completed",
        "name": "end_call", "call_id": "call_7Qd", "arguments": "{\"reason\":\"bye\"}"});
    let expected = ModelEvent::ToolCall {
        response: response("resp_B7"),
        item: item("item_F1"),
        call: ToolCallId::parse("call_7Qd").unwrap(),
        name: "end_call".into(),
        arguments: r#"{"reason":"bye"}"#.into(),
    };
    expect(done(call.clone()), expected.clone());
    for missing in [json!(null), json!("completed")] {
        let mut call = call.clone();
        call["status"] = missing;
        expect(done(call), expected.clone());
    }
    let mut unfinished = call.clone();
    unfinished["status"] = json!("incomplete");
    expect_ignored(&done(unfinished));
    let message = json!({"id": "item_A2", "type": "message", "role": "assistant", "status": "completed"});
    expect_ignored(&done(message));
    // Each of these carries the arguments too.
    expect_ignored(
        &json!({"type": "response.function_call_arguments.delta", "call_id": "call_7Qd", "delta": "{"}),
    );
    expect_ignored(
        &json!({"type": "response.function_call_arguments.done", "response_id": "resp_B7", "item_id": "item_F1",
        "call_id": "call_7Qd", "name": "end_call", "arguments": "{}"}),
    );
}

#[test]
fn an_error_is_read_whatever_it_lacks() {
    expect(
        json!({"type": "error", "event_id": "event_55", "error": {"type": "invalid_request_error",
            "code": "item_truncate_invalid_item_id", "message": "may change", "param": "item_id", "event_id": "trunc-17"}}),
        ModelEvent::Error(ModelError {
            kind: "invalid_request_error".into(),
            code: "item_truncate_invalid_item_id".into(),
            message: "may change".into(),
            param: Some("item_id".into()),
            event_id: Some("trunc-17".into()),
            class: ErrorClass::Benign,
        }),
    );
    expect(
        json!({"type": "error", "error": {"type": "server_error", "code": null, "message": null, "param": null, "event_id": null}}),
        ModelEvent::Error(ModelError {
            kind: "server_error".into(),
            class: ErrorClass::RetryResponse,
            ..ModelError::default()
        }),
    );
    expect(
        json!({"type": "error", "error": "out of order"}),
        ModelEvent::Error(ModelError { message: "out of order".into(), ..ModelError::default() }),
    );
    expect(json!({"type": "error"}), ModelEvent::Error(ModelError::default()));
}

#[test]
fn events_without_meaning_for_a_call_are_ignored_whatever_they_hold() {
    for kind in [
        "conversation.created",
        "conversation.item.created",
        "conversation.item.retrieved",
        "conversation.item.deleted",
        "conversation.item.input_audio_transcription.segment",
        "input_audio_buffer.cleared",
        "input_audio_buffer.timeout_triggered",
        "input_audio_buffer.dtmf_event_received",
        "output_audio_buffer.started",
        "response.output_item.added",
        "response.content_part.added",
        "response.content_part.done",
        "response.mcp_call.in_progress",
        "mcp_list_tools.completed",
        "rate_limits.updated",
        // Names of the beta interface.
        "response.audio.delta",
        "response.audio_transcript.delta",
        "response.text.done",
        // Not known to anybody yet.
        "response.smell.delta",
    ] {
        expect_ignored(&json!({"type": kind}));
        expect_ignored(
            &json!({"type": kind, "delta": {"a": 1}, "item": "text", "item_id": 7, "session": [null],
            "response": false, "error": 1.5, "audio_start_ms": {}, "transcript": ["x"], "response_id": true}),
        );
    }
}

#[test]
fn what_is_missing_but_not_needed_falls_back_to_nothing() {
    expect(
        json!({"type": "input_audio_buffer.speech_started", "audio_start_ms": null, "item_id": "item_U1"}),
        ModelEvent::SpeechStarted { item: item("item_U1"), audio_start_ms: 0 },
    );
    expect(
        json!({"type": "input_audio_buffer.committed", "item_id": "item_U1"}),
        ModelEvent::Committed { item: item("item_U1"), previous: None },
    );
    expect(
        json!({"type": "conversation.item.input_audio_transcription.completed", "item_id": "item_U1", "transcript": null}),
        ModelEvent::UserTranscript { item: item("item_U1"), text: "".into() },
    );
    expect(
        json!({"type": "conversation.item.input_audio_transcription.failed", "item_id": "item_U1", "error": null}),
        ModelEvent::UserTranscriptFailed { item: item("item_U1"), code: String::new() },
    );
    expect(
        json!({"type": "session.created", "session": null}),
        ModelEvent::SessionCreated { session_id: "".into(), expires_at: None },
    );
    expect(json!({"type": "session.updated"}), ModelEvent::SessionUpdated(SessionEcho::default()));
}

#[test]
fn what_an_event_cannot_do_without_is_named() {
    for (event, reason) in [
        (json!({}), "event without type"),
        (json!({"type": null}), "event without type"),
        (
            json!({"type": "response.output_audio.delta", "response_id": "r", "item_id": "i"}),
            "event without delta",
        ),
        (
            json!({"type": "response.output_audio.delta", "response_id": "r", "delta": ""}),
            "event without item_id",
        ),
        (json!({"type": "input_audio_buffer.speech_started", "item_id": null}), "event without item_id"),
        (json!({"type": "response.created", "response": {}}), "event without response.id"),
        (json!({"type": "response.done"}), "event without response.id"),
        (json!({"type": "conversation.item.added", "item": null}), "event without item.id"),
        (
            json!({"type": "response.output_item.done", "response_id": "r", "item": {"type": "function_call", "id": "i"}}),
            "event without item.call_id",
        ),
        (
            json!({"type": "input_audio_buffer.committed", "item_id": ""}),
            "ItemId must be 1 to 128 printable ASCII characters without spaces",
        ),
    ] {
        assert_eq!(decode(&event.to_string()).unwrap_err().to_string(), reason, "{event}");
    }
    assert!(matches!(decode("{\"type\":"), Err(DecodeError::Json(_))));
    assert!(matches!(decode("7"), Err(DecodeError::Json(_))));
}

#[test]
fn audio_and_text_are_borrowed_from_the_message() {
    let audio = r#"{"type":"response.output_audio.delta","event_id":"e","response_id":"resp_1","item_id":"item_1","output_index":0,"content_index":0,"delta":"f39/f39/","obfuscation":"abc"}"#;
    let ModelEvent::Audio { response, item, base64 } = decode(audio).unwrap() else { panic!("audio") };
    for member in [response, item, base64] {
        assert!(audio.as_bytes().as_ptr_range().contains(&member.as_ptr()));
    }
    let text = r#"{"type":"response.output_audio_transcript.delta","response_id":"resp_1","item_id":"item_1","delta":"We open"}"#;
    assert!(matches!(decode(text), Ok(ModelEvent::TextDelta { text: Cow::Borrowed("We open"), .. })));
}

#[test]
fn audio_spelled_with_escapes_is_read_at_the_second_attempt() {
    let event =
        r#"{"type":"response.output_audio.delta","response_id":"r","item_id":"i","delta":"f39\/\u002b"}"#;
    assert!(matches!(decode(event), Err(DecodeError::Escaped)));
    let plain = unescaped(event).unwrap();
    assert_eq!(decode(&plain).unwrap(), ModelEvent::Audio { response: "r", item: "i", base64: "f39/+" });
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        drop(decode(&text));
    }

    #[test]
    fn no_event_panics_whatever_is_in_its_members(
        kind in kinds(),
        members in prop::collection::btree_map(names(), anything(), 0..6),
    ) {
        let mut event = json!(members);
        event["type"] = json!(kind);
        drop(decode(&event.to_string()));
    }

    #[test]
    fn no_truncated_event_panics(kind in kinds(), members in prop::collection::btree_map(names(), anything(), 0..6), cut in 0.0..1.0) {
        let mut event = json!(members);
        event["type"] = json!(kind);
        let text = event.to_string();
        let end = text.floor_char_boundary((text.len() as f64 * cut) as usize);
        prop_assert!(decode(&text[..end]).is_err());
    }
}

fn kinds() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "session.created",
        "session.updated",
        "conversation.item.added",
        "conversation.item.truncated",
        "conversation.item.input_audio_transcription.completed",
        "conversation.item.input_audio_transcription.failed",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.committed",
        "response.created",
        "response.done",
        "response.output_item.done",
        "response.output_audio.delta",
        "response.output_audio_transcript.delta",
        "response.output_text.done",
        "error",
    ])
}

fn names() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "id",
        "type",
        "role",
        "status",
        "status_details",
        "usage",
        "error",
        "code",
        "item",
        "item_id",
        "response",
        "response_id",
        "previous_item_id",
        "session",
        "audio",
        "input",
        "output",
        "format",
        "voice",
        "rate",
        "delta",
        "transcript",
        "text",
        "audio_start_ms",
        "audio_end_ms",
        "call_id",
        "name",
        "arguments",
        "expires_at",
    ])
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z_]{0,12}".prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        kinds().prop_map(Value::from),
        prop::sample::select(vec!["function_call", "message", "completed", "failed", "audio/pcm"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names(), inner, 0..5).prop_map(|members| json!(members)),
        ]
    })
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "reads better in the tables above")]
fn expect(event: Value, expected: ModelEvent<'_>) {
    assert_eq!(decode(&event.to_string()).unwrap(), expected, "{event}");
}

#[track_caller]
fn expect_ignored(event: &Value) {
    let kind = event["type"].as_str().unwrap();
    assert_eq!(decode(&event.to_string()).unwrap(), ModelEvent::Ignored { kind: kind.into() }, "{event}");
}

fn item(id: &str) -> ItemId {
    ItemId::parse(id).unwrap()
}

fn response(id: &str) -> ResponseId {
    ResponseId::parse(id).unwrap()
}
