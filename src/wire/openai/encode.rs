//! [`ModelCommand`]s to client events.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::wire::json::push_string;
use crate::wire::model::{
    AudioFormat, AudioPayload, ModelCommand, NewItem, SessionConfig, Transcription, TurnDetection, TurnTaking,
};
use crate::wire::payload;

/// Share of the context that stays when it is full, so that cutting is rare and the prompt cache lasts.
// OpenAI dossier, 2.7: the provider's own example.
const RETENTION_RATIO: f64 = 0.8;

/// Appends one client event to `buf`. The server refuses members it does not know, so there are none.
///
/// Allocates nothing for audio when `buf` has room.
pub fn encode(command: &ModelCommand<'_>, buf: &mut String) {
    let event = match command {
        ModelCommand::AppendAudio(audio) => return encode_audio(*audio, buf),
        ModelCommand::UpdateSession { event_id, config } => {
            json!({"type": "session.update", "event_id": event_id, "session": session(config)})
        }
        ModelCommand::CommitAudio { event_id } => {
            json!({"type": "input_audio_buffer.commit", "event_id": event_id})
        }
        ModelCommand::CreateItem { event_id, item } => {
            json!({"type": "conversation.item.create", "event_id": event_id, "item": new_item(item)})
        }
        ModelCommand::Truncate { event_id, item, audio_end_ms } => json!({
            "type": "conversation.item.truncate",
            "event_id": event_id,
            "item_id": item,
            // An agent's item has one part.
            "content_index": 0,
            "audio_end_ms": audio_end_ms,
        }),
        ModelCommand::CreateResponse { event_id, purpose, instructions } => {
            let mut response = json!({"metadata": {"purpose": purpose.as_str()}});
            if let Some(instructions) = instructions {
                response["instructions"] = json!(instructions);
            }
            json!({"type": "response.create", "event_id": event_id, "response": response})
        }
        ModelCommand::CancelResponse { event_id, response } => {
            json!({"type": "response.cancel", "event_id": event_id, "response_id": response})
        }
    };
    write!(buf, "{event}").expect("writing to a string cannot fail");
}

fn encode_audio(audio: AudioPayload<'_>, buf: &mut String) {
    buf.push_str(r#"{"type":"input_audio_buffer.append","audio":"#);
    match audio {
        AudioPayload::Bytes(bytes) => {
            buf.push('"');
            payload::encode_into(bytes, buf);
            buf.push('"');
        }
        AudioPayload::Base64(text) => push_string(text, buf),
    }
    buf.push('}');
}

/// The whole configuration, built here and nowhere else: a partial update elsewhere could lose the audio format.
fn session(config: &SessionConfig) -> Value {
    let tools: Vec<Value> = config
        .tools
        .iter()
        .map(|tool| {
            json!({
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
            })
        })
        .collect();
    let mut session = json!({
        "type": "realtime",
        "output_modalities": ["audio"],
        "instructions": config.instructions,
        "audio": {
            "input": {
                "format": format(config.format),
                "noise_reduction": config.noise_reduction.as_ref().map(|kind| json!({"type": kind})),
                "transcription": config.transcription.as_ref().map(transcription),
                "turn_detection": turn_detection(&config.turn_detection, config.turn_taking),
            },
            "output": {"format": format(config.format), "voice": voice(&config.voice)},
        },
        "tools": tools,
        "tool_choice": "auto",
        "truncation": {"type": "retention_ratio", "retention_ratio": RETENTION_RATIO},
    });
    if let Some(most) = config.max_output_tokens {
        session["max_output_tokens"] = json!(most);
    }
    // Models without reasoning refuse the whole update that has this member.
    if let Some(effort) = &config.reasoning_effort {
        session["reasoning"] = json!({"effort": effort});
    }
    session
}

fn format(format: AudioFormat) -> Value {
    match format {
        AudioFormat::Pcm24k => json!({"type": "audio/pcm", "rate": 24_000}),
        // G.711 takes no rate.
        AudioFormat::Pcmu => json!({"type": "audio/pcmu"}),
    }
}

/// The provider's own voices go by name, a customer's by id.
fn voice(voice: &str) -> Value {
    if voice.starts_with("voice_") { json!({"id": voice}) } else { json!(voice) }
}

fn turn_detection(detection: &TurnDetection, taking: TurnTaking) -> Value {
    let mut value = match detection {
        TurnDetection::ServerVad { threshold, prefix_padding_ms, silence_duration_ms } => json!({
            "type": "server_vad",
            // As written, 0.6, and not the nearest `f32`, 0.60000002.
            "threshold": (f64::from(*threshold) * 1e4).round() / 1e4,
            "prefix_padding_ms": prefix_padding_ms,
            "silence_duration_ms": silence_duration_ms,
        }),
        TurnDetection::SemanticVad { eagerness } => json!({"type": "semantic_vad", "eagerness": eagerness}),
    };
    // One without the other is a trap: a response that speech has cancelled and nobody begins again, or a turn that ends
    // while a response runs and gets no answer. OpenAI dossier, 2.4.
    let by_model = taking == TurnTaking::ByModel;
    value["create_response"] = json!(by_model);
    value["interrupt_response"] = json!(by_model);
    value
}

// OpenAI dossier, 2.3: `gpt-transcribe` and `gpt-live-transcribe` take lists; older models one language and a prompt,
// which two of them do not take either. Never both spellings.
fn transcription(transcription: &Transcription) -> Value {
    let Transcription { model, languages, keywords } = transcription;
    let mut value = json!({"model": model});
    if model.starts_with("gpt-transcribe") || model.starts_with("gpt-live-transcribe") {
        if !languages.is_empty() {
            value["languages"] = json!(languages);
        }
        if !keywords.is_empty() {
            value["keywords"] = json!(keywords);
        }
        return value;
    }
    // With a choice of languages none is named: the model finds out, where naming one would force it.
    if let [language] = &**languages {
        value["language"] = json!(language);
    }
    if !keywords.is_empty() && model != "gpt-realtime-whisper" && !model.ends_with("-diarize") {
        value["prompt"] = json!(keywords.join(", "));
    }
    value
}

fn new_item(item: &NewItem) -> Value {
    match item {
        NewItem::UserText { id, text } => json!({
            "type": "message",
            "id": id,
            "role": "user",
            "content": [{"type": "input_text", "text": text}],
        }),
        NewItem::SystemText { id, text } => json!({
            "type": "message",
            "id": id,
            "role": "system",
            "content": [{"type": "input_text", "text": text}],
        }),
        NewItem::AgentText { id, text } => json!({
            "type": "message",
            "id": id,
            "role": "assistant",
            "content": [{"type": "output_text", "text": text}],
        }),
        NewItem::ToolCall { id, call, name, arguments } => {
            json!({"type": "function_call", "id": id, "call_id": call, "name": name, "arguments": arguments})
        }
        NewItem::ToolOutput { id, call, output } => {
            json!({"type": "function_call_output", "id": id, "call_id": call, "output": output})
        }
    }
}

#[cfg(test)]
mod tests {
    use async_openai::types::realtime::RealtimeClientEvent;

    use super::*;
    use crate::ids::{ItemId, ResponseId, ToolCallId};
    use crate::wire::model::{Purpose, ToolSpec};

    #[test]
    fn the_first_update_says_everything() {
        let config = SessionConfig {
            transcription: Some(transcription_by("gpt-transcribe", &["en"], &["Northgate"])),
            tools: vec![ToolSpec {
                name: "end_call".into(),
                description: "Hang up after saying goodbye.".into(),
                parameters: json!({"type": "object", "properties": {"reason": {"type": "string"}}, "required": ["reason"]}),
            }],
            max_output_tokens: Some(2048),
            reasoning_effort: Some("low".into()),
            noise_reduction: Some("near_field".into()),
            ..config()
        };
        insta::assert_snapshot!(pretty(&update(&config)));
    }

    #[test]
    fn what_is_not_configured_is_off_or_left_to_the_provider() {
        let event = update(&SessionConfig {
            format: AudioFormat::Pcm24k,
            turn_detection: TurnDetection::SemanticVad { eagerness: "low".into() },
            ..config()
        });
        insta::assert_snapshot!(pretty(&event));
    }

    #[test]
    fn the_threshold_is_spelled_as_it_was_written() {
        let turn_detection =
            TurnDetection::ServerVad { threshold: 0.6, prefix_padding_ms: 300, silence_duration_ms: 200 };
        assert!(update(&SessionConfig { turn_detection, ..config() }).contains(r#""threshold":0.6"#));
    }

    #[test]
    fn who_takes_turns_is_said_of_answering_and_of_stopping_alike() {
        for eagerness in [None, Some("auto")] {
            let turn_detection = eagerness.map_or_else(TurnDetection::default, |eagerness| {
                TurnDetection::SemanticVad { eagerness: eagerness.into() }
            });
            for (turn_taking, itself) in [(TurnTaking::ByModel, true), (TurnTaking::ByUs, false)] {
                let turn_detection = turn_detection.clone();
                let event = update(&SessionConfig { turn_detection, turn_taking, ..config() });
                let event: Value = serde_json::from_str(&event).unwrap();
                let said = &event["session"]["audio"]["input"]["turn_detection"];
                assert_eq!(
                    (&said["create_response"], &said["interrupt_response"]),
                    (&json!(itself), &json!(itself))
                );
            }
        }
    }

    #[test]
    fn each_transcription_model_gets_the_hints_it_takes() {
        let (one, two, words) = (&["de"][..], &["de", "en"][..], &["Kölner Dom", "U-Bahn"][..]);
        for (model, languages, keywords, expected) in [
            (
                "gpt-transcribe",
                two,
                words,
                json!({"languages": ["de", "en"], "keywords": ["Kölner Dom", "U-Bahn"]}),
            ),
            ("gpt-live-transcribe-2026-09-01", one, &[][..], json!({"languages": ["de"]})),
            ("gpt-transcribe", &[][..], &[][..], json!({})),
            ("gpt-4o-mini-transcribe", one, words, json!({"language": "de", "prompt": "Kölner Dom, U-Bahn"})),
            ("whisper-1", two, &[][..], json!({})),
            ("gpt-realtime-whisper", one, words, json!({"language": "de"})),
            ("gpt-4o-transcribe-diarize", one, words, json!({"language": "de"})),
        ] {
            let transcription = Some(transcription_by(model, languages, keywords));
            let event: Value =
                serde_json::from_str(&update(&SessionConfig { transcription, ..config() })).unwrap();
            let mut expected = expected;
            expected["model"] = json!(model);
            assert_eq!(event["session"]["audio"]["input"]["transcription"], expected);
        }
    }

    #[test]
    fn a_voice_of_one_s_own_goes_by_its_id() {
        let event = update(&SessionConfig { voice: "voice_123".into(), ..config() });
        assert!(event.contains(r#""voice":{"id":"voice_123"}"#));
    }

    #[test]
    fn audio_is_wrapped_and_nothing_else() {
        let expected = r#"{"type":"input_audio_buffer.append","audio":"f39/"}"#;
        assert_eq!(written(&ModelCommand::AppendAudio(AudioPayload::Bytes(&[0x7F, 0x7F, 0x7F]))), expected);
        assert_eq!(written(&ModelCommand::AppendAudio(AudioPayload::Base64("f39/"))), expected);
        // Twilio's text is passed through unread: it must not be able to say more than audio.
        let rogue = written(&ModelCommand::AppendAudio(AudioPayload::Base64("\"}")));
        assert_eq!(rogue, r#"{"type":"input_audio_buffer.append","audio":"\"}"}"#);
    }

    #[test]
    fn the_other_events_are_as_documented() {
        let event_id = || "event-1".to_owned();
        let item = |id: &str| ItemId::parse(id).unwrap();
        for (command, expected) in [
            (
                ModelCommand::CommitAudio { event_id: event_id() },
                json!({"type": "input_audio_buffer.commit", "event_id": "event-1"}),
            ),
            (
                ModelCommand::CreateItem {
                    event_id: event_id(),
                    item: NewItem::SystemText { id: item("note-1"), text: "The order has been sent.".into() },
                },
                json!({"type": "conversation.item.create", "event_id": "event-1", "item": {
                    "type": "message", "id": "note-1", "role": "system",
                    "content": [{"type": "input_text", "text": "The order has been sent."}]}}),
            ),
            (
                ModelCommand::CreateItem {
                    event_id: event_id(),
                    item: NewItem::UserText { id: item("keys-1"), text: "(The caller pressed 2.)".into() },
                },
                json!({"type": "conversation.item.create", "event_id": "event-1", "item": {
                    "type": "message", "id": "keys-1", "role": "user",
                    "content": [{"type": "input_text", "text": "(The caller pressed 2.)"}]}}),
            ),
            (
                ModelCommand::CreateItem {
                    event_id: event_id(),
                    item: NewItem::ToolOutput {
                        id: item("tool-1"),
                        call: ToolCallId::parse("call_7Qd").unwrap(),
                        output: r#"{"ok":true}"#.into(),
                    },
                },
                json!({"type": "conversation.item.create", "event_id": "event-1", "item": {
                    "type": "function_call_output", "id": "tool-1", "call_id": "call_7Qd", "output": "{\"ok\":true}"}}),
            ),
            (
                ModelCommand::Truncate { event_id: event_id(), item: item("item_A2"), audio_end_ms: 2140 },
                json!({"type": "conversation.item.truncate", "event_id": "event-1",
                    "item_id": "item_A2", "content_index": 0, "audio_end_ms": 2140}),
            ),
            (
                ModelCommand::CreateResponse {
                    event_id: event_id(),
                    purpose: Purpose::Greeting,
                    instructions: Some("Greet the caller.".into()),
                },
                json!({"type": "response.create", "event_id": "event-1", "response": {
                    "metadata": {"purpose": "greeting"}, "instructions": "Greet the caller."}}),
            ),
            (
                ModelCommand::CreateResponse {
                    event_id: event_id(),
                    purpose: Purpose::ToolResult,
                    instructions: None,
                },
                json!({"type": "response.create", "event_id": "event-1", "response": {"metadata": {"purpose": "tool"}}}),
            ),
            (
                ModelCommand::CancelResponse {
                    event_id: event_id(),
                    response: ResponseId::parse("resp_B7").unwrap(),
                },
                json!({"type": "response.cancel", "event_id": "event-1", "response_id": "resp_B7"}),
            ),
        ] {
            let event: Value = serde_json::from_str(&written(&command)).unwrap();
            assert_eq!(event, expected);
        }
    }

    #[test]
    fn events_are_appended() {
        let mut buf = String::from("kept");
        encode(&ModelCommand::AppendAudio(AudioPayload::Bytes(&[])), &mut buf);
        assert_eq!(buf, r#"kept{"type":"input_audio_buffer.append","audio":""}"#);
    }

    fn config() -> SessionConfig {
        SessionConfig {
            instructions: "You answer the phone for Northgate Bakery. Be \"brief\".".into(),
            voice: "marin".into(),
            format: AudioFormat::Pcmu,
            transcription: None,
            turn_detection: TurnDetection::default(),
            turn_taking: TurnTaking::ByModel,
            tools: Vec::new(),
            max_output_tokens: None,
            reasoning_effort: None,
            noise_reduction: None,
        }
    }

    fn transcription_by(model: &str, languages: &[&str], keywords: &[&str]) -> Transcription {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Transcription { model: model.into(), languages: owned(languages), keywords: owned(keywords) }
    }

    fn update(config: &SessionConfig) -> String {
        written(&ModelCommand::UpdateSession { event_id: "upd-1".into(), config })
    }

    fn pretty(event: &str) -> String {
        serde_json::to_string_pretty(&serde_json::from_str::<Value>(event).unwrap()).unwrap()
    }

    /// The event as written, after a second opinion: another implementation's types know all of its members.
    fn written(command: &ModelCommand<'_>) -> String {
        let mut buf = String::new();
        encode(command, &mut buf);
        let ours = in_their_dialect(serde_json::from_str(&buf).unwrap());
        let theirs: RealtimeClientEvent = serde_json::from_value(ours.clone()).unwrap();
        assert_known(&ours, &serde_json::to_value(theirs).unwrap(), "event");
        buf
    }

    /// Their types are off the schema: optional members are required, noise reduction is nested once more, and a
    /// voice has no id.
    fn in_their_dialect(mut event: Value) -> Value {
        if event["type"] == "session.update" {
            let audio = &mut event["session"]["audio"];
            audio["output"]["speed"] = json!(1.0);
            if audio["output"]["voice"].is_object() {
                audio["output"]["voice"] = audio["output"]["voice"]["id"].take();
            }
            if audio["input"]["noise_reduction"].is_object() {
                audio["input"]["noise_reduction"] = json!({"type": audio["input"]["noise_reduction"]});
            }
        }
        if event["item"]["type"] == "function_call_output" {
            event["item"]["status"] = json!("completed");
        }
        if event["type"] == "response.create" {
            let response = event["response"].as_object_mut().unwrap();
            for (name, value) in [
                ("audio", json!({"output": {"format": {"type": "audio/pcmu"}, "voice": "marin"}})),
                ("conversation", json!("auto")),
                ("input", json!([])),
                ("instructions", json!("")),
                ("max_output_tokens", json!("inf")),
                ("output_modalities", json!(["audio"])),
            ] {
                response.entry(name).or_insert(value);
            }
        }
        event
    }

    /// All that we sent is in what they understood. Null is what they leave out.
    fn assert_known(ours: &Value, theirs: &Value, path: &str) {
        match ours {
            Value::Null => {}
            Value::Object(members) => {
                for (name, value) in members {
                    assert_known(value, &theirs[name], &format!("{path}.{name}"));
                }
            }
            Value::Array(elements) => {
                for (index, value) in elements.iter().enumerate() {
                    assert_known(value, &theirs[index], &format!("{path}[{index}]"));
                }
            }
            Value::Number(number) => {
                let (ours, theirs) = (number.as_f64().unwrap(), theirs.as_f64().expect(path));
                assert!((ours - theirs).abs() < 1e-6, "{path}: {ours} was read as {theirs}");
            }
            _ => assert_eq!(ours, theirs, "{path}"),
        }
    }
}
