//! The configuration of a session: its defaults, what may change, and what it means for hearing and speaking.

use serde_json::{Map, Value, json};

use super::refusal::{At, Refusal};

/// Audio as it crosses the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// 16-bit little-endian at 24 kHz.
    Pcm,
    /// G.711 at 8 kHz.
    Ulaw,
}

impl Format {
    pub(super) const fn bytes_per_ms(self) -> usize {
        match self {
            Self::Pcm => 48,
            Self::Ulaw => 8,
        }
    }

    pub(super) const fn rate_hz(self) -> usize {
        match self {
            Self::Pcm => 24_000,
            Self::Ulaw => 8000,
        }
    }

    fn read(value: &Value) -> Self {
        if value["type"] == "audio/pcmu" { Self::Ulaw } else { Self::Pcm }
    }
}

/// How turns are found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TurnDetection {
    pub(super) threshold: f64,
    pub(super) prefix_padding_ms: u64,
    pub(super) silence_duration_ms: u64,
    pub(super) create_response: bool,
    pub(super) interrupt_response: bool,
    pub(super) idle_timeout_ms: Option<u64>,
}

/// The configuration in force.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// As `session.created` and `session.updated` show it.
    pub(super) json: Value,
}

/// What decides whether an update is allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits<'a> {
    /// From the URL.
    pub(super) model: &'a str,
    /// The session has produced audio: the voice is fixed.
    pub(super) has_spoken: bool,
    /// Transcription models that are refused.
    pub(super) refused_transcription: &'a [String],
}

const VOICES: [&str; 10] =
    ["alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse", "marin", "cedar"];

impl Session {
    /// What is in force before the client has said anything.
    // Dossier 2.3 and 2.4; `silence_duration_ms` 200 and voice `marin` as captured, not as documented.
    pub(super) fn new(id: &str, model: &str, expires_at: i64) -> Self {
        Self {
            json: json!({
                "type": "realtime",
                "object": "realtime.session",
                "id": id,
                "model": model,
                "expires_at": expires_at,
                "output_modalities": ["audio"],
                "instructions": "You are a friendly voice assistant. (Default of the simulated model.)",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24000},
                        "transcription": null,
                        "noise_reduction": null,
                        "turn_detection": {
                            "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300,
                            "silence_duration_ms": 200, "idle_timeout_ms": null,
                            "create_response": true, "interrupt_response": true,
                        },
                    },
                    "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin", "speed": 1.0},
                },
                "tools": [],
                "tool_choice": "auto",
                "max_output_tokens": "inf",
                "truncation": "auto",
                "tracing": null,
                "prompt": null,
                "include": null,
            }),
        }
    }

    /// The configuration after `update` (the `session` member of the event); nothing changes when it is refused.
    pub(super) fn updated(&self, update: &Value, limits: Limits<'_>) -> Result<Self, Refusal> {
        let at = At::new(update, "session");
        at.object(&[
            "type",
            "model",
            "output_modalities",
            "instructions",
            "audio",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "reasoning",
            "max_output_tokens",
            "truncation",
            "tracing",
            "prompt",
            "include",
        ])?;
        at.required("type")?.one_of(&["realtime"])?;
        if let Some(model) = at.member("model")
            && model.text()? != limits.model
        {
            return Err(model.invalid("cannot be changed"));
        }
        let mut json = self.json.clone();
        for (name, check) in MEMBERS {
            if let Some(member) = at.member(name) {
                check(&member, limits)?;
                json[*name] = member.value.clone();
            }
        }
        if let Some(audio) = at.member("audio") {
            check_audio(&audio, &mut json["audio"], limits)?;
        }
        Ok(Self { json })
    }

    pub(super) fn input_format(&self) -> Format {
        Format::read(&self.json["audio"]["input"]["format"])
    }

    pub(super) fn output_format(&self) -> Format {
        Format::read(&self.json["audio"]["output"]["format"])
    }

    pub(super) fn transcription_model(&self) -> Option<&str> {
        self.json["audio"]["input"]["transcription"]["model"].as_str()
    }

    pub(super) fn text_only(&self) -> bool {
        self.json["output_modalities"] == json!(["text"])
    }

    /// Names of the functions on offer.
    pub(super) fn tools(&self) -> Vec<String> {
        let tools = self.json["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
        tools.iter().filter_map(|tool| tool["name"].as_str()).map(Into::into).collect()
    }

    pub(super) fn turn_detection(&self) -> Option<TurnDetection> {
        let json = &self.json["audio"]["input"]["turn_detection"];
        let number = |name: &str, default: u64| json[name].as_u64().unwrap_or(default);
        let server = match json["type"].as_str()? {
            "server_vad" => TurnDetection {
                threshold: json["threshold"].as_f64().unwrap_or(0.5),
                prefix_padding_ms: number("prefix_padding_ms", 300),
                silence_duration_ms: number("silence_duration_ms", 200),
                create_response: true,
                interrupt_response: true,
                idle_timeout_ms: json["idle_timeout_ms"].as_u64(),
            },
            // We cannot tell whether a thought sounds finished; a longer silence stands in for it.
            _ => TurnDetection {
                threshold: 0.5,
                prefix_padding_ms: 300,
                silence_duration_ms: match json["eagerness"].as_str() {
                    Some("high") => 400,
                    Some("low") => 1500,
                    _ => 800,
                },
                create_response: true,
                interrupt_response: true,
                idle_timeout_ms: None,
            },
        };
        Some(TurnDetection {
            create_response: json["create_response"].as_bool().unwrap_or(true),
            interrupt_response: json["interrupt_response"].as_bool().unwrap_or(true),
            ..server
        })
    }
}

type Check = fn(&At<'_>, Limits<'_>) -> Result<(), Refusal>;

/// Members that are checked and then taken over as they are.
const MEMBERS: &[(&str, Check)] = &[
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

pub(super) fn check_modalities(at: &At<'_>) -> Result<(), Refusal> {
    let list = at.list()?;
    list.iter().try_for_each(|one| one.one_of(&["audio", "text"]).map(drop))?;
    if list.len() == 1 { Ok(()) } else { Err(at.invalid("must be [\"audio\"] or [\"text\"]")) }
}

pub(super) fn check_tools(at: &At<'_>) -> Result<(), Refusal> {
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

pub(super) fn check_tool_choice(at: &At<'_>) -> Result<(), Refusal> {
    if at.value.is_string() {
        return at.one_of(&["auto", "none", "required"]).map(drop);
    }
    at.object(&["type", "name"])?;
    at.required("type")?.one_of(&["function"])?;
    at.required("name")?.text().map(drop)
}

pub(super) fn check_reasoning(at: &At<'_>, model: &str) -> Result<(), Refusal> {
    if !model.starts_with("gpt-realtime-2") {
        return Err(at.invalid("is not supported by this model"));
    }
    at.object(&["effort"])?;
    at.required("effort")?.one_of(&["minimal", "low", "medium", "high", "xhigh"]).map(drop)
}

pub(super) fn check_max_output_tokens(at: &At<'_>, model: &str) -> Result<(), Refusal> {
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

fn check_audio(at: &At<'_>, into: &mut Value, limits: Limits<'_>) -> Result<(), Refusal> {
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

pub(super) fn check_voice(at: &At<'_>) -> Result<(), Refusal> {
    if at.value.is_object() {
        at.object(&["id"])?;
        return at.required("id")?.text().map(drop);
    }
    at.one_of(&VOICES).map(drop)
}

pub(super) fn check_format(at: &At<'_>) -> Result<Value, Refusal> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits<'_> =
        Limits { model: "gpt-realtime-2.1", has_spoken: false, refused_transcription: &[] };

    fn fresh() -> Session {
        Session::new("sess_1", "gpt-realtime-2.1", 0)
    }

    fn refused(update: Value) -> (String, String) {
        let refusal = fresh().updated(&update, LIMITS).unwrap_err();
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
            (
                session(json!({"max_output_tokens": 0})),
                "integer_below_min_value",
                "session.max_output_tokens",
            ),
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
            (
                input(json!({"format": {"type": "g711_ulaw"}})),
                "invalid_value",
                "session.audio.input.format.type",
            ),
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
            assert_eq!(refused(update.clone()), (code.into(), param.into()), "{update}");
        }
    }

    #[test]
    fn the_voice_is_fixed_once_there_was_audio_and_the_rest_is_refused_with_it() {
        let spoken = Limits { has_spoken: true, ..LIMITS };
        let update =
            json!({"type": "realtime", "instructions": "new", "audio": {"output": {"voice": "cedar"}}});
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
}
