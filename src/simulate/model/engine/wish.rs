//! The `response` member of a `response.create`.

use serde_json::{Value, json};

use super::super::refusal::{At, Refusal};
use super::super::session::{
    Format, check_format, check_max_output_tokens, check_modalities, check_reasoning, check_tool_choice,
    check_tools, check_voice,
};

/// What a `response.create` asks for beyond the session's configuration.
#[derive(Debug, Default)]
pub(super) struct Wish {
    pub(super) begun_by: &'static str,
    pub(super) instructions: Option<String>,
    pub(super) metadata: Value,
    pub(super) text_only: Option<bool>,
    pub(super) format: Option<Format>,
    pub(super) tools: Option<Vec<String>>,
}

impl Wish {
    /// Checks the `response` member of a `response.create`.
    pub(super) fn read(at: &At<'_>, model: &str) -> Result<Self, Refusal> {
        at.object(&[
            "output_modalities",
            "instructions",
            "audio",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "reasoning",
            "max_output_tokens",
            "conversation",
            "metadata",
            "prompt",
            "input",
        ])?;
        let mut wish = Self { begun_by: "client", ..Self::default() };
        if let Some(instructions) = at.member("instructions") {
            wish.instructions = Some(instructions.text()?.to_owned());
        }
        if let Some(modalities) = at.member("output_modalities") {
            check_modalities(&modalities)?;
            wish.text_only = Some(*modalities.value == json!(["text"]));
        }
        if let Some(audio) = at.member("audio") {
            audio.object(&["output"])?;
            let output = audio.required("output")?;
            output.object(&["format", "voice"])?;
            if let Some(format) = output.member("format") {
                let ulaw = check_format(&format)?["type"] == "audio/pcmu";
                wish.format = Some(if ulaw { Format::Ulaw } else { Format::Pcm });
            }
            if let Some(voice) = output.member("voice") {
                check_voice(&voice)?;
            }
        }
        if let Some(tools) = at.member("tools") {
            check_tools(&tools)?;
            let names =
                tools.list()?.into_iter().filter_map(|tool| tool.value["name"].as_str().map(Into::into));
            wish.tools = Some(names.collect());
        }
        if let Some(choice) = at.member("tool_choice") {
            check_tool_choice(&choice)?;
            if *choice.value == json!("none") {
                wish.tools = Some(Vec::new());
            }
        }
        if let Some(parallel) = at.member("parallel_tool_calls") {
            parallel.boolean()?;
        }
        if let Some(reasoning) = at.member("reasoning") {
            check_reasoning(&reasoning, model)?;
        }
        if let Some(limit) = at.member("max_output_tokens") {
            check_max_output_tokens(&limit, model)?;
        }
        if let Some(conversation) = at.member("conversation")
            && conversation.one_of(&["auto", "none"])? == "none"
        {
            return Err(conversation.invalid("is `none`, which this simulation does not have"));
        }
        if let Some(absent) = at.member("input").or_else(|| at.member("prompt")) {
            return Err(absent.invalid("is a member that this simulation does not have"));
        }
        if let Some(metadata) = at.member("metadata").filter(|metadata| !metadata.is_null()) {
            let pairs = metadata.value.as_object().ok_or_else(|| metadata.invalid("must be an object"))?;
            if pairs.len() > 16 {
                return Err(metadata.invalid("has more than 16 pairs"));
            }
            for name in pairs.keys() {
                if name.chars().count() > 64 {
                    return Err(metadata.invalid("has a key of more than 64 characters"));
                }
                metadata.required(name)?.text_up_to(512)?;
            }
            wish.metadata = metadata.value.clone();
        }
        Ok(wish)
    }
}
