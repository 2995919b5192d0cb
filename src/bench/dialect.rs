//! The two languages of the model's end: OpenAI Realtime for bridges, Twilio's own for the floor, which only moves bytes.

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::audio::AudioFormat;

/// What the model's end hears.
#[derive(Debug, PartialEq)]
pub(super) enum Heard<'a> {
    /// Base64 of caller audio.
    Audio(Cow<'a, str>),
    /// The session's configuration.
    Session(Value),
    /// A response is wanted.
    Respond,
    /// An item was cut there.
    Truncate { item: String, audio_end_ms: u64 },
    /// An item of the bridge's.
    Item(Value),
    /// Needs no answer.
    Other,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    audio: Option<Cow<'a, str>>,
    #[serde(borrow)]
    media: Option<Media<'a>>,
}

#[derive(Deserialize)]
struct Media<'a> {
    #[serde(borrow)]
    payload: Cow<'a, str>,
}

/// Reads a client event, or a message of a media stream.
pub(super) fn read(text: &str) -> serde_json::Result<Heard<'_>> {
    let event: Event<'_> = serde_json::from_str(text)?;
    if let Some(media) = event.media {
        return Ok(Heard::Audio(media.payload));
    }
    Ok(match event.kind.as_deref() {
        Some("input_audio_buffer.append") => Heard::Audio(event.audio.unwrap_or_default()),
        Some("response.create") => Heard::Respond,
        Some("session.update") => Heard::Session(serde_json::from_str::<Value>(text)?["session"].take()),
        Some("conversation.item.create") => Heard::Item(serde_json::from_str::<Value>(text)?["item"].take()),
        Some("conversation.item.truncate") => {
            let event: Value = serde_json::from_str(text)?;
            Heard::Truncate {
                item: event["item_id"].as_str().unwrap_or_default().to_owned(),
                audio_end_ms: event["audio_end_ms"].as_u64().unwrap_or_default(),
            }
        }
        _ => Heard::Other,
    })
}

/// The format that a session's configuration asks for in this direction (`input` or `output`).
pub(super) fn format_of(session: &Value, direction: &str) -> AudioFormat {
    match session["audio"][direction]["format"]["type"].as_str() {
        Some("audio/pcmu") => AudioFormat::Pcmu,
        _ => AudioFormat::Pcm24k,
    }
}

/// Appends a message with agent audio to `out`.
pub(super) fn write_audio(line: &Line<'_>, audio: &[u8], out: &mut String) {
    match *line {
        Line::Realtime { response, item } => {
            let _ = write!(
                out,
                r#"{{"type":"response.output_audio.delta","event_id":"event_{item}","response_id":"{response}","item_id":"{item}","output_index":0,"content_index":0,"delta":""#
            );
            STANDARD.encode_string(audio, out);
            out.push_str("\"}");
        }
        Line::Stream { stream_sid } => {
            let _ = write!(out, r#"{{"event":"media","streamSid":"{stream_sid}","media":{{"payload":""#);
            STANDARD.encode_string(audio, out);
            out.push_str("\"}}");
        }
    }
}

/// Where audio belongs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Line<'a> {
    Realtime { response: &'a str, item: &'a str },
    Stream { stream_sid: &'a str },
}

pub(super) fn session_created(id: &str) -> Value {
    json!({"type": "session.created", "event_id": "event_0", "session": {"type": "realtime", "object": "realtime.session", "id": id}})
}

/// The configuration is accepted as it is.
pub(super) fn session_updated(id: &str, mut session: Value) -> Value {
    session["id"] = json!(id);
    json!({"type": "session.updated", "event_id": "event_1", "session": session})
}

/// What precedes the audio of a response.
pub(super) fn begin(response: &str, item: &str, previous: Option<&str>) -> [Value; 3] {
    let message = json!({"id": item, "object": "realtime.item", "type": "message", "role": "assistant", "status": "in_progress", "content": []});
    [
        json!({"type": "response.created", "event_id": "event_2", "response": {"id": response, "object": "realtime.response", "status": "in_progress", "output": []}}),
        json!({"type": "response.output_item.added", "event_id": "event_3", "response_id": response, "output_index": 0, "item": message}),
        json!({"type": "conversation.item.added", "event_id": "event_4", "previous_item_id": previous, "item": message}),
    ]
}

/// A piece of the text of a response.
pub(super) fn text_delta(response: &str, item: &str, text: &str) -> Value {
    json!({"type": "response.output_audio_transcript.delta", "event_id": "event_5", "response_id": response, "item_id": item, "output_index": 0, "content_index": 0, "delta": text})
}

/// What follows the audio of a response.
pub(super) fn done(response: &str, item: &str, previous: Option<&str>, text: &str) -> [Value; 5] {
    let message = json!({"id": item, "object": "realtime.item", "type": "message", "role": "assistant", "status": "completed",
        "content": [{"type": "output_audio", "transcript": text}]});
    let part = |kind: &str| json!({"type": kind, "event_id": "event_6", "response_id": response, "item_id": item, "output_index": 0, "content_index": 0});
    let mut transcript = part("response.output_audio_transcript.done");
    transcript["transcript"] = json!(text);
    [
        part("response.output_audio.done"),
        transcript,
        json!({"type": "response.output_item.done", "event_id": "event_7", "response_id": response, "output_index": 0, "item": message}),
        json!({"type": "conversation.item.done", "event_id": "event_8", "previous_item_id": previous, "item": message}),
        json!({"type": "response.done", "event_id": "event_9", "response": {"id": response, "object": "realtime.response", "status": "completed",
            "status_details": null, "output": [message],
            "usage": {"total_tokens": 200, "input_tokens": 100, "output_tokens": 100, "input_token_details": {"cached_tokens": 0}}}}),
    ]
}

pub(super) fn speech_started(item: &str, audio_start_ms: u64) -> Value {
    json!({"type": "input_audio_buffer.speech_started", "event_id": "event_10", "item_id": item, "audio_start_ms": audio_start_ms})
}

/// The caller's turn is over and in the conversation.
pub(super) fn speech_stopped(item: &str, previous: Option<&str>, audio_end_ms: u64) -> [Value; 3] {
    let message = json!({"id": item, "object": "realtime.item", "type": "message", "role": "user", "status": "completed",
        "content": [{"type": "input_audio", "transcript": null}]});
    [
        json!({"type": "input_audio_buffer.speech_stopped", "event_id": "event_11", "item_id": item, "audio_end_ms": audio_end_ms}),
        json!({"type": "input_audio_buffer.committed", "event_id": "event_12", "item_id": item, "previous_item_id": previous}),
        json!({"type": "conversation.item.added", "event_id": "event_13", "previous_item_id": previous, "item": message}),
    ]
}

/// Words that are written along. The last one is complete.
pub(super) fn user_words(item: &str, words: &str) -> Value {
    json!({"type": "conversation.item.input_audio_transcription.delta", "event_id": "event_17", "item_id": item, "content_index": 0, "delta": words})
}

pub(super) fn user_text(item: &str, text: &str) -> Value {
    json!({"type": "conversation.item.input_audio_transcription.completed", "event_id": "event_14", "item_id": item, "content_index": 0, "transcript": text})
}

pub(super) fn truncated(item: &str, audio_end_ms: u64) -> Value {
    json!({"type": "conversation.item.truncated", "event_id": "event_15", "item_id": item, "content_index": 0, "audio_end_ms": audio_end_ms})
}

/// The bridge's item is in the conversation.
pub(super) fn item_added(item: &Value, previous: Option<&str>) -> Value {
    json!({"type": "conversation.item.added", "event_id": "event_16", "previous_item_id": previous, "item": item})
}

pub(super) fn clear(stream_sid: &str) -> Value {
    json!({"event": "clear", "streamSid": stream_sid})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::model::ModelEvent;
    use crate::wire::openai;

    #[test]
    fn everything_said_is_understood_by_the_bridge_s_own_reader() {
        let mut audio = String::new();
        write_audio(&Line::Realtime { response: "resp_1", item: "item_1" }, &[1, 2, 3], &mut audio);
        let said =
            [begin("resp_1", "item_1", None).to_vec(), done("resp_1", "item_1", None, "Yes.").to_vec()]
                .concat();
        let heard = speech_stopped("item_2", Some("item_1"), 500);
        for event in said.iter().chain(&heard).map(Value::to_string).chain([audio]) {
            let read = openai::decode(&event).unwrap();
            let silent = ["response.output_item.added", "response.output_item.done"];
            let expected = silent.iter().any(|kind| event.contains(kind));
            assert_eq!(matches!(read, ModelEvent::Ignored { .. }), expected, "{event}");
        }
    }

    #[test]
    fn what_a_bridge_says_is_told_apart() {
        let read = |text| read(text).unwrap();
        assert_eq!(
            read(r#"{"type":"input_audio_buffer.append","audio":"AAAA"}"#),
            Heard::Audio("AAAA".into())
        );
        assert_eq!(read(r#"{"event":"media","media":{"payload":"f38="}}"#), Heard::Audio("f38=".into()));
        assert_eq!(read(r#"{"type":"response.create","response":{}}"#), Heard::Respond);
        assert_eq!(
            read(
                r#"{"type":"conversation.item.truncate","item_id":"i","content_index":0,"audio_end_ms":480}"#
            ),
            Heard::Truncate { item: "i".into(), audio_end_ms: 480 }
        );
        let session =
            r#"{"type":"session.update","session":{"audio":{"input":{"format":{"type":"audio/pcmu"}}}}}"#;
        let Heard::Session(session) = read(session) else { panic!("a session") };
        assert_eq!(format_of(&session, "input"), AudioFormat::Pcmu);
        assert_eq!(format_of(&session, "output"), AudioFormat::Pcm24k);
        assert_eq!(read(r#"{"event":"connected"}"#), Heard::Other);
    }
}
