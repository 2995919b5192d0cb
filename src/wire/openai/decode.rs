//! Server events to [`ModelEvent`]s.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::errors::classify;
use crate::ids::{InvalidId, ItemId, ResponseId, ToolCallId};
use crate::wire::json::{Count, Plain, Text};
use crate::wire::model::{
    AudioFormat, ErrorClass, ItemKind, ModelError, ModelEvent, ResponseStatus, SessionEcho, Usage,
};

/// A server event we could not read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not a JSON object.
    #[error("event is not the JSON we expect")]
    Json(#[from] serde_json::Error),
    /// The event cannot do without this member.
    #[error("event without {0}")]
    MissingMember(&'static str),
    /// An id we could not send back or store.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// Audio or its ids are spelled with escapes. [`crate::wire::json::unescaped`] helps.
    #[error("audio is spelled with escapes")]
    Escaped,
}

/// Reads one server event in one pass.
///
/// Any member may be null, missing or new; what the event's meaning does not need falls back to nothing. Events we do
/// not know are [`ModelEvent::Ignored`]. Allocates nothing for audio.
pub fn decode(text: &str) -> Result<ModelEvent<'_>, DecodeError> {
    match plain_audio(text) {
        Some(audio) => Ok(audio),
        None => decode_any(text),
    }
}

/// Audio as the service usually spells it, each member at most once. `None`: [`decode_any`] must look.
fn plain_audio(text: &str) -> Option<ModelEvent<'_>> {
    let mut plain = Plain::new(text)?;
    let (mut is_audio, mut response, mut item, mut base64) = (false, None, None, None);
    let (mut event, mut output, mut content) = (false, false, false);
    while plain.more()? {
        if !is_audio && plain.is(r#""type""#) {
            plain.exactly(r#""response.output_audio.delta""#)?;
            is_audio = true;
        } else if base64.is_none() && plain.is(r#""delta""#) {
            base64 = Some(plain.text()?);
        } else if item.is_none() && plain.is(r#""item_id""#) {
            item = Some(plain.text()?);
        } else if response.is_none() && plain.is(r#""response_id""#) {
            response = Some(plain.text()?);
        } else if !event && plain.is(r#""event_id""#) {
            plain.text()?;
            event = true;
        } else if !output && plain.is(r#""output_index""#) {
            plain.count()?;
            output = true;
        } else if !content && plain.is(r#""content_index""#) {
            plain.count()?;
            content = true;
        } else {
            return None;
        }
    }
    if !is_audio || !plain.is_over() {
        return None;
    }
    Some(ModelEvent::Audio { response: response?, item: item?, base64: base64? })
}

fn decode_any(text: &str) -> Result<ModelEvent<'_>, DecodeError> {
    let event: Event<'_> = serde_json::from_str(text)?;
    let kind = event.kind.0.clone().ok_or(DecodeError::MissingMember("type"))?;
    Ok(match &*kind {
        "response.output_audio.delta" => ModelEvent::Audio {
            response: borrowed(event.response_id, "response_id")?,
            item: borrowed(event.item_id, "item_id")?,
            base64: borrowed(event.delta, "delta")?,
        },
        "response.output_audio_transcript.delta" | "response.output_text.delta" => ModelEvent::TextDelta {
            response: borrowed(event.response_id, "response_id")?,
            item: borrowed(event.item_id, "item_id")?,
            text: event.delta.0.unwrap_or_default(),
        },
        "response.output_audio_transcript.done" => {
            ModelEvent::TextDone { item: event.item()?, text: event.transcript.0.unwrap_or_default() }
        }
        "response.output_text.done" => {
            ModelEvent::TextDone { item: event.item()?, text: event.text.0.unwrap_or_default() }
        }
        "response.output_audio.done" => {
            ModelEvent::AudioDone { response: event.response_id()?, item: event.item()? }
        }
        "input_audio_buffer.speech_started" => ModelEvent::SpeechStarted {
            item: event.item()?,
            audio_start_ms: event.audio_start_ms.0.unwrap_or_default(),
        },
        "input_audio_buffer.speech_stopped" => ModelEvent::SpeechStopped {
            item: event.item()?,
            audio_end_ms: event.audio_end_ms.0.unwrap_or_default(),
        },
        "input_audio_buffer.committed" => {
            ModelEvent::Committed { item: event.item()?, previous: event.previous()? }
        }
        "conversation.item.added" | "conversation.item.done" => placed(&event)?,
        "conversation.item.truncated" => ModelEvent::Truncated {
            item: event.item()?,
            audio_end_ms: event.audio_end_ms.0.unwrap_or_default(),
        },
        "conversation.item.input_audio_transcription.delta" => {
            ModelEvent::UserTranscriptDelta { item: event.item()?, text: event.delta.0.unwrap_or_default() }
        }
        "conversation.item.input_audio_transcription.completed" => {
            ModelEvent::UserTranscript { item: event.item()?, text: event.transcript.0.unwrap_or_default() }
        }
        "conversation.item.input_audio_transcription.failed" => {
            let error = read_error(&part(event.error));
            let code = if error.code.is_empty() { error.kind } else { error.code };
            ModelEvent::UserTranscriptFailed { item: event.item()?, code }
        }
        "response.created" => ModelEvent::ResponseStarted {
            response: ResponseId::parse(id(&part(event.response), "response.id")?)?,
        },
        "response.done" => response_done(&part(event.response))?,
        "response.output_item.done" => tool_call(&event, kind)?,
        "session.created" => session_created(&part(event.session)),
        "session.updated" => ModelEvent::SessionUpdated(read_echo(&part(event.session))),
        "error" => ModelEvent::Error(read_error(&part(event.error))),
        _ => ModelEvent::Ignored { kind },
    })
}

/// All members that any event of interest has, flat, so that the hot ones are read in one pass.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Text<'a>,
    #[serde(borrow, default)]
    response_id: Text<'a>,
    #[serde(borrow, default)]
    item_id: Text<'a>,
    #[serde(borrow, default)]
    previous_item_id: Text<'a>,
    #[serde(borrow, default)]
    delta: Text<'a>,
    #[serde(borrow, default)]
    transcript: Text<'a>,
    #[serde(borrow, default)]
    text: Text<'a>,
    #[serde(default)]
    audio_start_ms: Count,
    #[serde(default)]
    audio_end_ms: Count,
    // Read when the type is known: an event we do not know may have anything here.
    #[serde(borrow)]
    session: Option<&'a RawValue>,
    #[serde(borrow)]
    item: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

impl Event<'_> {
    fn item(&self) -> Result<ItemId, DecodeError> {
        Ok(ItemId::parse(self.item_id.0.as_deref().ok_or(DecodeError::MissingMember("item_id"))?)?)
    }

    fn response_id(&self) -> Result<ResponseId, DecodeError> {
        Ok(ResponseId::parse(
            self.response_id.0.as_deref().ok_or(DecodeError::MissingMember("response_id"))?,
        )?)
    }

    fn previous(&self) -> Result<Option<ItemId>, DecodeError> {
        let previous = self.previous_item_id.0.as_deref().filter(|id| !id.is_empty() && *id != "root");
        Ok(previous.map(ItemId::parse).transpose()?)
    }
}

fn borrowed<'a>(member: Text<'a>, name: &'static str) -> Result<&'a str, DecodeError> {
    match member.0.ok_or(DecodeError::MissingMember(name))? {
        Cow::Borrowed(text) => Ok(text),
        Cow::Owned(_) => Err(DecodeError::Escaped),
    }
}

/// An object inside an event; null when it is missing.
fn part(raw: Option<&RawValue>) -> Value {
    // It was valid JSON a moment ago; what can fail is its depth, and then it says nothing to us.
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

fn id<'a>(object: &'a Value, name: &'static str) -> Result<&'a str, DecodeError> {
    object["id"].as_str().ok_or(DecodeError::MissingMember(name))
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> u64 {
    // A cast saturates: a negative number is none.
    value.as_u64().or_else(|| value.as_f64().map(|number| number as u64)).unwrap_or_default()
}

fn placed<'a>(event: &Event<'_>) -> Result<ModelEvent<'a>, DecodeError> {
    let item = part(event.item);
    let kind = match (item["type"].as_str(), item["role"].as_str()) {
        (Some("message") | None, Some("user")) => ItemKind::User,
        (Some("message") | None, Some("assistant")) => ItemKind::Assistant,
        (Some("message") | None, Some("system")) => ItemKind::System,
        (Some("function_call"), _) => ItemKind::FunctionCall,
        (Some("function_call_output"), _) => ItemKind::FunctionOutput,
        _ => ItemKind::Other,
    };
    let item = ItemId::parse(id(&item, "item.id")?)?;
    Ok(ModelEvent::ItemPlaced { item, kind, previous: event.previous()? })
}

/// A function call, once it is complete. One that was cut off is `incomplete` and must not be run.
fn tool_call<'a>(event: &Event<'_>, kind: Cow<'a, str>) -> Result<ModelEvent<'a>, DecodeError> {
    let item = part(event.item);
    let complete = item["status"].as_str().is_none_or(|status| status == "completed");
    if item["type"] != "function_call" || !complete {
        return Ok(ModelEvent::Ignored { kind });
    }
    Ok(ModelEvent::ToolCall {
        response: event.response_id()?,
        item: ItemId::parse(id(&item, "item.id")?)?,
        call: ToolCallId::parse(item["call_id"].as_str().ok_or(DecodeError::MissingMember("item.call_id"))?)?,
        name: item["name"].as_str().ok_or(DecodeError::MissingMember("item.name"))?.to_owned(),
        arguments: word(&item["arguments"]),
    })
}

fn response_done<'a>(response: &Value) -> Result<ModelEvent<'a>, DecodeError> {
    let details = &response["status_details"];
    let status = match response["status"].as_str() {
        Some("completed") | None => ResponseStatus::Completed,
        Some("cancelled") => ResponseStatus::Cancelled,
        Some("incomplete") => ResponseStatus::Incomplete { reason: word(&details["reason"]) },
        Some(other) => {
            let error = read_error(&details["error"]);
            let class = error.class;
            let code = [error.code, error.kind].into_iter().find(|word| !word.is_empty());
            let code = code.unwrap_or_else(|| other.to_owned());
            ResponseStatus::Failed { code, message: error.message, class }
        }
    };
    let usage = response["usage"].as_object().map(|_| &response["usage"]).map(|usage| Usage {
        input_tokens: number(&usage["input_tokens"]),
        cached_tokens: number(&usage["input_token_details"]["cached_tokens"]),
        output_tokens: number(&usage["output_tokens"]),
    });
    Ok(ModelEvent::ResponseDone { response: ResponseId::parse(id(response, "response.id")?)?, status, usage })
}

fn session_created<'a>(session: &Value) -> ModelEvent<'a> {
    ModelEvent::SessionCreated {
        session_id: word(&session["id"]).into(),
        expires_at: session["expires_at"].as_f64().map(|seconds| seconds as i64),
    }
}

fn read_echo(session: &Value) -> SessionEcho {
    let (input, output) = (&session["audio"]["input"], &session["audio"]["output"]);
    // A voice of one's own is an object with an id.
    let voice = output["voice"].as_str().or_else(|| output["voice"]["id"].as_str());
    SessionEcho {
        input_format: read_format(&input["format"]),
        output_format: read_format(&output["format"]),
        voice: voice.map(str::to_owned),
        turn_detection: input["turn_detection"]["type"].as_str().map(str::to_owned),
    }
}

fn read_format(format: &Value) -> Option<AudioFormat> {
    match (format["type"].as_str()?, format["rate"].as_f64()) {
        ("audio/pcm", None) => Some(AudioFormat::Pcm24k),
        ("audio/pcm", Some(rate)) => (rate as u64 == 24_000).then_some(AudioFormat::Pcm24k),
        ("audio/pcmu", _) => Some(AudioFormat::Pcmu),
        _ => None,
    }
}

fn read_error(error: &Value) -> ModelError {
    let some = |member: &str| error[member].as_str().map(str::to_owned);
    let mut read = ModelError {
        kind: word(&error["type"]),
        code: word(&error["code"]),
        message: some("message").unwrap_or_else(|| word(error)),
        param: some("param"),
        event_id: some("event_id"),
        class: ErrorClass::default(),
    };
    read.class = classify(&read);
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json::edits::{edited, edits};

    const MEMBERS: [&str; 7] = [
        r#""type":"response.output_audio.delta""#,
        r#""event_id":"event_1""#,
        r#""response_id":"resp_1""#,
        r#""item_id":"item_1""#,
        r#""output_index":0"#,
        r#""content_index":0"#,
        r#""delta":"AAAA""#,
    ];

    const USUAL: &str = r#"{"type":"response.output_audio.delta","event_id":"event_1","response_id":"resp_1","item_id":"item_1","output_index":0,"content_index":0,"delta":"AAAA"}"#;

    #[test]
    fn usual_audio_takes_the_short_way_and_nothing_else_does() {
        let audio = Some(ModelEvent::Audio { response: "resp_1", item: "item_1", base64: "AAAA" });
        assert_eq!(plain_audio(USUAL), audio);
        assert_eq!(plain_audio(&USUAL.replace(':', " : ").replace(',', ", ")), audio);
        for other in [
            USUAL.replace("output_audio.delta", "output_audio.done"),
            USUAL.replace("\"item_1\"", "null"),
            USUAL.replace("AAAA", "AA\\u0041"),
            USUAL.replace("event_id", "item_id"),
            USUAL.replace("\"delta\"", "\"gamma\""),
            USUAL.replace(":0,", ":-1,"),
            USUAL.replace(":0,", ":00,"),
            USUAL.replace('}', ""),
            USUAL.replace('}', "}\u{C}"),
            USUAL.replace("\"event_1\"", "{}"),
        ] {
            assert_eq!(plain_audio(&other), None, "{other}");
        }
        for member in MEMBERS {
            let name = member.split_once(':').unwrap().0;
            let twice = USUAL.replacen(name, &format!("{member},{name}"), 1);
            assert_ne!(twice, USUAL, "{name} is usual");
            assert_eq!(plain_audio(&twice), None, "{twice}");
        }
    }

    proptest::proptest! {
        /// Both ways must agree wherever the short one answers at all, also on messages that are broken.
        #[test]
        fn the_short_way_says_what_the_long_one_says(
            edits in edits(&MEMBERS),
        ) {
            let text = edited(USUAL, &edits);
            if let Some(audio) = plain_audio(&text) {
                let long = decode_any(&text);
                proptest::prop_assert!(matches!(&long, Ok(found) if *found == audio), "{text}: {long:?}");
            }
        }
    }
}
