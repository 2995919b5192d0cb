//! Updates that are taken over and updates that are refused.

use super::*;

const LIMITS: Limits<'_> =
    Limits { model: "gpt-realtime-2.1", has_spoken: false, refused_transcription: &[] };

fn fresh() -> Session {
    Session::new("sess_1", "gpt-realtime-2.1", 0)
}

fn refused(update: &Value) -> (String, String) {
    let refusal = fresh().updated(update, LIMITS).unwrap_err();
    (refusal.code, refusal.param.unwrap_or_default())
}

/// The dossier's first update for a telephone call.
fn telephone() -> Value {
    json!({
        "type": "realtime",
        "output_modalities": ["audio"],
        "instructions": "You answer the phone.",
        "audio": {
            "input": {
                "format": {"type": "audio/pcmu"},
                "noise_reduction": null,
                "transcription": {"model": "gpt-transcribe", "languages": ["en"], "keywords": ["Northgate"]},
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 500, "idle_timeout_ms": null},
            },
            "output": {"format": {"type": "audio/pcmu"}, "voice": "cedar", "speed": 1.0},
        },
        "tools": [{"type": "function", "name": "end_call", "description": "Hang up.",
                   "parameters": {"type": "object", "properties": {}}}],
        "tool_choice": "auto",
        "max_output_tokens": 2048,
        "truncation": {"type": "retention_ratio", "retention_ratio": 0.8},
        "reasoning": {"effort": "low"},
    })
}

#[test]
fn a_telephone_update_is_taken_over_and_echoed_in_full() {
    let session = fresh().updated(&telephone(), LIMITS).unwrap();
    assert_eq!((session.input_format(), session.output_format()), (Format::Ulaw, Format::Ulaw));
    assert_eq!(session.tools(), ["end_call"]);
    assert_eq!(session.transcription_model(), Some("gpt-transcribe"));
    let turns = &session.json["audio"]["input"]["turn_detection"];
    assert_eq!((&turns["silence_duration_ms"], &turns["prefix_padding_ms"]), (&json!(500), &json!(300)));
    assert_eq!(session.json["id"], "sess_1");
}

#[test]
fn only_members_that_are_present_change() {
    let before = fresh().updated(&telephone(), LIMITS).unwrap();
    let after = before.updated(&json!({"type": "realtime", "instructions": ""}), LIMITS).unwrap();
    assert_eq!(after.json["instructions"], "");
    assert_eq!(after.json["audio"], before.json["audio"]);
    let off =
        json!({"type": "realtime", "audio": {"input": {"turn_detection": null, "transcription": null}}});
    let after = after.updated(&off, LIMITS).unwrap();
    assert_eq!((after.turn_detection(), after.transcription_model()), (None, None));
    assert_eq!(after.input_format(), Format::Ulaw);
}

#[test]
fn what_the_real_service_refuses_is_refused_by_name() {
    let session = |more: Value| {
        let mut session = json!({"type": "realtime"});
        for (name, value) in more.as_object().unwrap() {
            session[name] = value.clone();
        }
        session
    };
    let input = |more: Value| session(json!({"audio": {"input": more}}));
    for (update, code, param) in [
        (json!({"instructions": "x"}), "missing_required_parameter", "session.type"),
        (session(json!({"temperature": 0.8})), "unknown_parameter", "session.temperature"),
        (session(json!({"voice": "marin"})), "unknown_parameter", "session.voice"),
        (session(json!({"model": "other"})), "invalid_value", "session.model"),
        (
            session(json!({"output_modalities": ["audio", "text"]})),
            "invalid_value",
            "session.output_modalities",
        ),
        (session(json!({"max_output_tokens": 0})), "integer_below_min_value", "session.max_output_tokens"),
        (
            session(json!({"tools": [{"type": "function", "name": "x", "strict": true}]})),
            "unknown_parameter",
            "session.tools[0].strict",
        ),
        (
            input(json!({"format": {"type": "audio/pcmu", "rate": 8000}})),
            "unknown_parameter",
            "session.audio.input.format.rate",
        ),
        (input(json!({"format": {"type": "g711_ulaw"}})), "invalid_value", "session.audio.input.format.type"),
        (
            input(json!({"format": {"type": "audio/pcm", "rate": 8000}})),
            "invalid_value",
            "session.audio.input.format.rate",
        ),
        (
            input(json!({"transcription": {"model": "whisper-1", "keywords": ["a"]}})),
            "invalid_value",
            "session.audio.input.transcription.keywords",
        ),
        (
            input(json!({"turn_detection": {"type": "server_vad", "idle_timeout_ms": 1000}})),
            "integer_below_min_value",
            "session.audio.input.turn_detection.idle_timeout_ms",
        ),
        (
            input(json!({"turn_detection": {"type": "semantic_vad", "threshold": 0.5}})),
            "unknown_parameter",
            "session.audio.input.turn_detection.threshold",
        ),
        (
            session(json!({"audio": {"output": {"voice": "nova"}}})),
            "invalid_value",
            "session.audio.output.voice",
        ),
    ] {
        assert_eq!(refused(&update), (code.into(), param.into()), "{update}");
    }
}

#[test]
fn the_voice_is_fixed_once_there_was_audio_and_the_rest_is_refused_with_it() {
    let spoken = Limits { has_spoken: true, ..LIMITS };
    let update = json!({"type": "realtime", "instructions": "new", "audio": {"output": {"voice": "cedar"}}});
    assert_eq!(fresh().updated(&update, spoken).unwrap_err().code, "cannot_update_voice");
    let same = json!({"type": "realtime", "audio": {"output": {"voice": "marin"}}});
    assert!(fresh().updated(&same, spoken).is_ok());
}

#[test]
fn reasoning_is_for_models_that_reason() {
    let old = Limits { model: "gpt-realtime-1.5", ..LIMITS };
    let update = json!({"type": "realtime", "reasoning": {"effort": "low"}});
    assert_eq!(
        Session::new("s", "gpt-realtime-1.5", 0).updated(&update, old).unwrap_err().param.as_deref(),
        Some("session.reasoning")
    );
    assert!(fresh().updated(&update, LIMITS).is_ok());
}

#[test]
fn a_transcription_model_can_be_made_to_be_refused() {
    let refused = ["gpt-transcribe".to_owned()];
    let limits = Limits { refused_transcription: &refused, ..LIMITS };
    let refusal = fresh().updated(&telephone(), limits).unwrap_err();
    assert_eq!(refusal.param.as_deref(), Some("session.audio.input.transcription.model"));
    assert!(refusal.message.contains("transcription"));
}
