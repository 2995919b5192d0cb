//! [`ModelCommand`]s to client events.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::wire::json::push_string;
use crate::wire::model::{
    AudioFormat, AudioPayload, ModelCommand, NewItem, SessionConfig, Transcription, TurnDetection,
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
                "turn_detection": turn_detection(&config.turn_detection),
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

fn turn_detection(detection: &TurnDetection) -> Value {
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
    value["create_response"] = json!(true);
    value["interrupt_response"] = json!(true);
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
        NewItem::ToolOutput { id, call, output } => {
            json!({"type": "function_call_output", "id": id, "call_id": call, "output": output})
        }
    }
}
