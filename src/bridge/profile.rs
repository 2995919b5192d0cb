//! An agent as configured, made into the settings of one call.

use std::time::Duration;

use super::http_tools;
use crate::audio::AudioFormat;
use crate::call::settings::Settings;
use crate::call::tools::built_in;
use crate::store::agents::Agent;
use crate::wire::model::{Capabilities, SessionConfig, ToolSpec, Transcription, TurnDetection, TurnTaking};
use crate::wire::openai;

/// What agents use that name nothing of their own.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Session model.
    pub model: String,
    /// Transcription model.
    pub transcription_model: String,
    /// Audio towards the model.
    pub audio_format: AudioFormat,
}

/// A session without instructions or functions.
pub(super) fn bare_session(defaults: &Defaults) -> SessionConfig {
    SessionConfig {
        instructions: "Be brief.".to_owned(),
        voice: "marin".to_owned(),
        format: defaults.audio_format,
        transcription: Some(Transcription {
            model: defaults.transcription_model.clone(),
            languages: Vec::new(),
            keywords: Vec::new(),
        }),
        turn_detection: TurnDetection::default(),
        turn_taking: TurnTaking::ByModel,
        tools: Vec::new(),
        max_output_tokens: None,
        reasoning_effort: None,
        noise_reduction: None,
    }
}

/// A sound can only be thought over where the model leaves it to us what follows from it.
fn turn_taking(agent: &Agent, model: Capabilities) -> TurnTaking {
    if agent.reversible_barge_in && model.yields_turns { TurnTaking::ByUs } else { TurnTaking::ByModel }
}

/// The settings of a call that this agent answers, and the model to open.
#[must_use]
pub fn settings(agent: &Agent, defaults: &Defaults) -> (String, Settings) {
    let model = agent.model.clone().unwrap_or_else(|| defaults.model.clone());
    let usable: Vec<_> = agent.tools.iter().filter(|tool| http_tools::check(tool).is_ok()).collect();
    let mut tools = built_in();
    tools.extend(usable.iter().map(|tool| ToolSpec {
        name: tool.name.clone(),
        description: tool.description.clone(),
        parameters: tool.parameters.clone(),
    }));
    let transcription = Transcription {
        model: agent.transcription_model.clone().unwrap_or_else(|| defaults.transcription_model.clone()),
        languages: agent.languages.clone(),
        keywords: agent.keywords.clone(),
    };
    let session = SessionConfig {
        instructions: agent.instructions.clone(),
        voice: agent.voice.clone(),
        format: agent.audio_format.unwrap_or(defaults.audio_format),
        transcription: Some(transcription),
        turn_detection: agent.turn_detection.clone().unwrap_or_default(),
        turn_taking: turn_taking(agent, openai::CAPABILITIES),
        tools,
        ..bare_session(defaults)
    };
    let settings = Settings {
        greeting: agent.greeting.clone(),
        tools: usable
            .iter()
            .map(|tool| (tool.name.clone(), Duration::from_millis(tool.timeout_ms)))
            .collect(),
        max_duration: agent.max_duration,
        nudge_after: agent.nudge_after,
        max_nudges: agent.max_nudges,
        // Who calls us has not been told of the key, and may mean something else by it.
        opt_out_digit: agent.opt_out_digit.filter(|_| agent.calls_out),
        ..Settings::new(session)
    };
    (model, settings)
}
