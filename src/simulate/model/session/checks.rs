//! What each member of a session may be.

use serde_json::{Map, Value, json};

use super::super::refusal::{At, Refusal};
use super::Limits;

const VOICES: [&str; 10] =
    ["alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse", "marin", "cedar"];

/// Checks one member.
pub(super) type Check = fn(&At<'_>, Limits<'_>) -> Result<(), Refusal>;

/// Members that are checked and then taken over as they are.
pub(super) const MEMBERS: &[(&str, Check)] = &[
    ("instructions", |at, _| at.text().map(drop)),
    ("output_modalities", |at, _| check_modalities(at)),
    ("tools", |at, _| check_tools(at)),
    ("tool_choice", |at, _| check_tool_choice(at)),
    ("parallel_tool_calls", |at, _| at.boolean().map(drop)),
    ("reasoning", |at, limits| check_reasoning(at, limits.model)),
    ("max_output_tokens", |at, limits| check_max_output_tokens(at, limits.model)),
    ("truncation", |at, _| check_truncation(at)),
    (
        "tracing",
        |at, _| if at.is_null() || at.value.is_object() { Ok(()) } else { at.one_of(&["auto"]).map(drop) },
    ),
    (
        "prompt",
        |at, _| if at.is_null() { Ok(()) } else { at.object(&["id", "version", "variables"]).map(drop) },
    ),
    ("include", |at, _| {
        at.list()?
            .iter()
            .try_for_each(|one| one.one_of(&["item.input_audio_transcription.logprobs"]).map(drop))
    }),
];

pub(in super::super) fn check_modalities(at: &At<'_>) -> Result<(), Refusal> {
    let list = at.list()?;
    list.iter().try_for_each(|one| one.one_of(&["audio", "text"]).map(drop))?;
    if list.len() == 1 { Ok(()) } else { Err(at.invalid("must be [\"audio\"] or [\"text\"]")) }
}

pub(in super::super) fn check_tools(at: &At<'_>) -> Result<(), Refusal> {
    let mut names = Vec::new();
    for tool in at.list()? {
        match tool.required("type")?.one_of(&["function", "mcp"])? {
            "mcp" => return Err(tool.invalid("is an MCP tool, which this simulation does not have")),
            _ => tool.object(&["type", "name", "description", "parameters"])?,
        };
        let name = tool.required("name")?;
        let text = name.text_up_to(64)?;
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        {
            return Err(name.invalid("must consist of letters, digits, _ and -"));
        }
        if names.contains(&text) {
            return Err(name.invalid("names two functions"));
        }
        names.push(text);
        if let Some(description) = tool.member("description") {
            description.text()?;
        }
        if let Some(parameters) = tool.member("parameters")
            && parameters.value.get("type") != Some(&json!("object"))
        {
            return Err(parameters.invalid("must be a JSON Schema of type object"));
        }
    }
    Ok(())
}

pub(in super::super) fn check_tool_choice(at: &At<'_>) -> Result<(), Refusal> {
    if at.value.is_string() {
        return at.one_of(&["auto", "none", "required"]).map(drop);
    }
    at.object(&["type", "name"])?;
    at.required("type")?.one_of(&["function"])?;
    at.required("name")?.text().map(drop)
}

pub(in super::super) fn check_reasoning(at: &At<'_>, model: &str) -> Result<(), Refusal> {
    if !model.starts_with("gpt-realtime-2") {
        return Err(at.invalid("is not supported by this model"));
    }
    at.object(&["effort"])?;
    at.required("effort")?.one_of(&["minimal", "low", "medium", "high", "xhigh"]).map(drop)
}

pub(in super::super) fn check_max_output_tokens(at: &At<'_>, model: &str) -> Result<(), Refusal> {
    if at.value.is_string() {
        return at.one_of(&["inf"]).map(drop);
    }
    // Dossier 1.2: 32k of output for the second generation.
    let high = if model.starts_with("gpt-realtime-2") { 32_000 } else { 4096 };
    at.integer(1, high).map(drop)
}

fn check_truncation(at: &At<'_>) -> Result<(), Refusal> {
    if at.value.is_string() {
        return at.one_of(&["auto", "disabled"]).map(drop);
    }
    at.object(&["type", "retention_ratio", "token_limits"])?;
    at.required("type")?.one_of(&["retention_ratio"])?;
    at.required("retention_ratio")?.number(0.0, 1.0)?;
    let Some(limits) = at.member("token_limits") else { return Ok(()) };
    limits.object(&["post_instructions"])?;
    limits.required("post_instructions")?.integer(0, i64::MAX).map(drop)
}

pub(super) fn check_audio(at: &At<'_>, into: &mut Value, limits: Limits<'_>) -> Result<(), Refusal> {
    at.object(&["input", "output"])?;
    if let Some(input) = at.member("input") {
        input.object(&["format", "transcription", "noise_reduction", "turn_detection"])?;
        let into = &mut into["input"];
        if let Some(format) = input.member("format") {
            into["format"] = check_format(&format)?;
        }
        if let Some(transcription) = input.member("transcription") {
            check_transcription(&transcription, limits.refused_transcription)?;
            into["transcription"] = transcription.value.clone();
        }
        if let Some(noise) = input.member("noise_reduction") {
            if !noise.is_null() {
                noise.object(&["type"])?;
                noise.required("type")?.one_of(&["near_field", "far_field"])?;
            }
            into["noise_reduction"] = noise.value.clone();
        }
        if let Some(turns) = input.member("turn_detection") {
            into["turn_detection"] = check_turn_detection(&turns)?;
        }
    }
    if let Some(output) = at.member("output") {
        output.object(&["format", "voice", "speed"])?;
        let into = &mut into["output"];
        if let Some(format) = output.member("format") {
            into["format"] = check_format(&format)?;
        }
        if let Some(voice) = output.member("voice") {
            check_voice(&voice)?;
            if limits.has_spoken && into["voice"] != *voice.value {
                let message = "the voice cannot change once there was audio";
                return Err(Refusal::new("cannot_update_voice", message, Some(&voice.path)));
            }
            into["voice"] = voice.value.clone();
        }
        if let Some(speed) = output.member("speed") {
            speed.number(0.25, 1.5)?;
            into["speed"] = speed.value.clone();
        }
    }
    Ok(())
}

pub(in super::super) fn check_voice(at: &At<'_>) -> Result<(), Refusal> {
    if at.value.is_object() {
        at.object(&["id"])?;
        return at.required("id")?.text().map(drop);
    }
    at.one_of(&VOICES).map(drop)
}

pub(in super::super) fn check_format(at: &At<'_>) -> Result<Value, Refusal> {
    let kind = at.required("type")?;
    match kind.one_of(&["audio/pcm", "audio/pcmu", "audio/pcma"])? {
        "audio/pcm" => {
            at.object(&["type", "rate"])?;
            if let Some(rate) = at.member("rate")
                && rate.integer(24_000, 24_000).is_err()
            {
                return Err(rate.invalid("must be 24000"));
            }
            Ok(json!({"type": "audio/pcm", "rate": 24000}))
        }
        "audio/pcmu" => {
            at.object(&["type"])?;
            Ok(json!({"type": "audio/pcmu"}))
        }
        _ => Err(kind.invalid("is A-law, which this simulation does not speak")),
    }
}

fn check_transcription(at: &At<'_>, refused: &[String]) -> Result<(), Refusal> {
    if at.is_null() {
        return Ok(());
    }
    at.object(&["model", "language", "languages", "keywords", "prompt", "delay"])?;
    let model = at.required("model")?;
    let name = model.text()?;
    if refused.iter().any(|other| other == name) {
        return Err(
            model.invalid(&format!("names the transcription model `{name}`, which this session cannot use"))
        );
    }
    let newer = matches!(name, "gpt-transcribe" | "gpt-live-transcribe");
    if let Some(language) = at.member("language") {
        language.text()?;
        if at.member("languages").is_some() {
            return Err(language.invalid("and `languages` exclude each other"));
        }
    }
    for list in ["languages", "keywords"].into_iter().filter_map(|name| at.member(name)) {
        if !newer {
            return Err(list.invalid("is not supported by this transcription model"));
        }
        let texts = list.list()?;
        texts.iter().try_for_each(|one| one.text().map(drop))?;
        if texts.is_empty() && list.path.ends_with("languages") {
            return Err(list.invalid("needs at least one entry"));
        }
    }
    if let Some(prompt) = at.member("prompt") {
        prompt.text()?;
    }
    if let Some(delay) = at.member("delay") {
        delay.one_of(&["minimal", "low", "medium", "high", "xhigh"])?;
    }
    Ok(())
}

/// The checked object, with defaults for what it leaves out.
fn check_turn_detection(at: &At<'_>) -> Result<Value, Refusal> {
    if at.is_null() {
        return Ok(Value::Null);
    }
    let kind = at.required("type")?.one_of(&["server_vad", "semantic_vad"])?;
    let mut full: Map<String, Value> = if kind == "server_vad" {
        at.object(&[
            "type",
            "threshold",
            "prefix_padding_ms",
            "silence_duration_ms",
            "create_response",
            "interrupt_response",
            "idle_timeout_ms",
        ])?;
        if let Some(threshold) = at.member("threshold") {
            threshold.number(0.0, 1.0)?;
        }
        for length in
            ["prefix_padding_ms", "silence_duration_ms"].into_iter().filter_map(|name| at.member(name))
        {
            length.integer(0, 60_000)?;
        }
        if let Some(idle) = at.member("idle_timeout_ms")
            && !idle.is_null()
        {
            idle.integer(5000, 30_000)?;
        }
        [("threshold", json!(0.5)), ("prefix_padding_ms", json!(300)), ("silence_duration_ms", json!(200))]
            .into_iter()
            .chain([("idle_timeout_ms", Value::Null)])
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    } else {
        at.object(&["type", "eagerness", "create_response", "interrupt_response"])?;
        if let Some(eagerness) = at.member("eagerness") {
            eagerness.one_of(&["low", "medium", "high", "auto"])?;
        }
        [("eagerness".to_owned(), json!("auto"))].into_iter().collect()
    };
    for name in ["create_response", "interrupt_response"] {
        full.insert(name.into(), json!(at.member(name).map_or(Ok(true), |member| member.boolean())?));
    }
    for (name, value) in at.value.as_object().into_iter().flatten() {
        full.insert(name.clone(), value.clone());
    }
    Ok(Value::Object(full))
}
