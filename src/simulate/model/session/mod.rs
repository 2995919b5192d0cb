//! The configuration of a session: its defaults, what may change, and what it means for hearing and speaking.

mod checks;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use super::refusal::{At, Refusal};
use checks::{MEMBERS, check_audio};
pub(super) use checks::{
    check_format, check_max_output_tokens, check_modalities, check_reasoning, check_tool_choice, check_tools,
    check_voice,
};

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
