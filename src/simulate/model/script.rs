//! What the simulated model answers to what.

use serde::{Deserialize, Serialize};

use crate::simulate::speech;

/// Rules in order; the first that fits decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Script {
    /// In order.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it answers.
    pub when: When,
    /// Fits only when the session offers a function whose name contains this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_tool: Option<String>,
    /// Fits only the first so many times in a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// The answer.
    pub reply: Reply,
}

/// What a rule fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// The caller was heard to say this recording.
    Heard(String),
    /// The caller said something that is no recording.
    HeardUnknown,
    /// A text was put into the conversation that contains this (not looking at case), such as pressed keys.
    Text(String),
    /// A function has answered; its name contains this.
    FunctionOutput(String),
    /// A response was asked for with instructions, nothing was said yet.
    Greeting,
    /// A response was asked for with instructions that contain this (not looking at case). Goes before what waits for an
    /// answer, which [`Speech::Answer`] gives.
    Asked(String),
    /// A response was asked for with instructions in the middle of the call, and nothing waits for an answer.
    Nudge,
    /// Nobody spoke for as long as the session's `idle_timeout_ms`.
    Idle,
    /// Anything.
    Anything,
}

/// One answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reply {
    /// What is said, one item of the response each.
    pub say: Vec<Speech>,
    /// Functions that are asked for afterwards.
    pub call: Vec<FunctionCall>,
    /// How it ends.
    pub outcome: Outcome,
}

/// Something the agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speech {
    /// One of the agent's recordings.
    Phrase(String),
    /// A tone.
    Tone {
        /// Its length.
        ms: u64,
        /// The words it stands for.
        text: String,
    },
    /// What is left of the recording that the agent's last message breaks off in; nothing when it does not.
    Rest,
    /// What is said and asked for in answer to what waits for one; nothing when nothing does.
    Answer,
}

/// A function the model asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionCall {
    /// Part of the function's name; the first offered function that fits is called.
    pub tool: String,
    /// JSON by promise, sent as it stands here.
    pub arguments: String,
}

/// How a response ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All was said.
    #[default]
    Completed,
    /// It fails with this code before anything is said.
    Failed(String),
    /// Half is said, then it stops for this reason (`max_output_tokens`, `content_filter`).
    Incomplete(String),
}

/// What a response answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// The caller spoke; the recording that was recognised, if one was.
    Heard(Option<String>),
    /// Text from the caller's side.
    Text(String),
    /// The function of this name answered.
    FunctionOutput(String),
    /// Asked for with these instructions, for which there is a rule of their own.
    Asked(String),
    /// Asked for with instructions before anything was said.
    Greeting,
    /// Asked for with instructions later.
    Nudge,
    /// Nobody spoke.
    Idle,
    /// Asked for out of nothing.
    Nothing,
}

impl Default for Script {
    /// A bakery's telephone.
    fn default() -> Self {
        let phrase = |id: &str| Speech::Phrase(id.into());
        let say_all = |say: Vec<Speech>| Reply { say, ..Reply::default() };
        let say = |id: &str| say_all(vec![phrase(id)]);
        let then = |reply: Reply, tool: &str, arguments: &str| Reply {
            call: vec![FunctionCall { tool: tool.into(), arguments: arguments.into() }],
            ..reply
        };
        let rule = |when: When, reply: Reply| Rule { when, needs_tool: None, times: None, reply };
        let with_tool = |when: When, tool: &str, reply: Reply| Rule {
            needs_tool: Some(tool.into()),
            ..rule(when, reply)
        };
        let heard = |id: &str| When::Heard(id.into());
        Self {
            rules: vec![
                // As a real one would understand what the bridge asks when a call comes back, or an answer broke off.
                rule(When::Asked("line broke".into()), say_all(vec![phrase("line-broke"), Speech::Answer])),
                rule(When::Asked("go on from exactly there".into()), say_all(vec![Speech::Rest])),
                rule(When::Greeting, say("greeting")),
                rule(heard("hello"), say("generic")),
                rule(heard("hours-question"), say("hours-answer")),
                rule(heard("sunday-question"), say("sunday-answer")),
                rule(heard("address-question"), say("address-answer")),
                with_tool(
                    heard("order-question"),
                    "order",
                    then(say("order-wait"), "order", r#"{"order_number":"4711"}"#),
                ),
                rule(heard("order-question"), say("order-answer")),
                with_tool(
                    heard("person-please"),
                    "transfer",
                    then(say("transfer"), "transfer", r#"{"reason":"The caller asked for a person."}"#),
                ),
                with_tool(
                    heard("goodbye"),
                    "end_call",
                    then(say("goodbye"), "end_call", r#"{"reason":"The caller said goodbye."}"#),
                ),
                rule(heard("goodbye"), say("goodbye")),
                rule(When::FunctionOutput("order".into()), say("order-answer")),
                rule(When::Text(String::new()), say("keypad-answer")),
                rule(When::Nudge, say("still-there")),
                rule(When::Idle, say("still-there")),
                rule(When::Anything, say("generic")),
            ],
        }
    }
}

impl Script {
    /// Rules that are tried before those of `self`.
    #[must_use]
    pub fn with_rules_first(mut self, rules: Vec<Rule>) -> Self {
        self.rules.splice(0..0, rules);
        self
    }

    /// Whether there is a rule for such instructions.
    #[must_use]
    pub fn has_rule_for(&self, instructions: &str) -> bool {
        self.rules.iter().any(|rule| matches!(&rule.when, When::Asked(part) if contains(instructions, part)))
    }

    /// The rule that answers `prompt`, given the offered functions and how often each rule was used before.
    #[must_use]
    pub fn choose(&self, prompt: &Prompt, tools: &[String], used: &[u32]) -> Option<(usize, &Reply)> {
        self.rules
            .iter()
            .enumerate()
            .find(|(index, rule)| {
                rule.when.fits(prompt)
                    && rule.needs_tool.as_ref().is_none_or(|part| offered(tools, part).is_some())
                    && rule.times.is_none_or(|times| used.get(*index).copied().unwrap_or(0) < times)
            })
            .map(|(index, rule)| (index, &rule.reply))
    }
}

impl When {
    fn fits(&self, prompt: &Prompt) -> bool {
        match (self, prompt) {
            (Self::Heard(id), Prompt::Heard(Some(heard))) => id == heard,
            // Somebody told the model what was said before it came.
            (Self::Heard(id), Prompt::Text(text)) => {
                speech::caller_phrase(id, "").is_some_and(|phrase| phrase.text == text)
            }
            (Self::Text(part), Prompt::Text(text)) | (Self::Asked(part), Prompt::Asked(text)) => {
                contains(text, part)
            }
            (Self::FunctionOutput(part), Prompt::FunctionOutput(name)) => name.contains(part.as_str()),
            (Self::HeardUnknown, Prompt::Heard(None))
            | (Self::Greeting, Prompt::Greeting)
            | (Self::Nudge, Prompt::Nudge)
            | (Self::Idle, Prompt::Idle)
            | (Self::Anything, _) => true,
            _ => false,
        }
    }
}

fn contains(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}

/// The first offered function whose name contains `part`.
#[must_use]
pub fn offered<'a>(tools: &'a [String], part: &str) -> Option<&'a str> {
    tools.iter().map(String::as_str).find(|name| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(prompt: &Prompt, tools: &[&str]) -> Reply {
        let tools: Vec<String> = tools.iter().map(ToString::to_string).collect();
        Script::default().choose(prompt, &tools, &[]).unwrap().1.clone()
    }

    #[test]
    fn the_default_script_has_an_answer_to_everything_in_recordings_that_exist() {
        for rule in Script::default().rules {
            for speech in rule.reply.say {
                match speech {
                    Speech::Phrase(id) => assert!(speech::agent_phrase(&id).is_some(), "{id}"),
                    Speech::Rest | Speech::Answer => {}
                    Speech::Tone { .. } => panic!("a tone in the default script"),
                }
            }
            if let When::Heard(id) = rule.when {
                assert!(speech::caller_phrase(&id, "").is_some(), "{id}");
            }
            for call in rule.reply.call {
                assert!(serde_json::from_str::<serde_json::Value>(&call.arguments).is_ok());
            }
        }
        assert_eq!(answer(&Prompt::Nothing, &[]).say, [Speech::Phrase("generic".into())]);
    }

    #[test]
    fn goodbye_ends_the_call_only_when_that_is_on_offer() {
        let goodbye = Prompt::Heard(Some("goodbye".into()));
        assert_eq!(answer(&goodbye, &["end_call"]).call[0].tool, "end_call");
        assert_eq!(answer(&goodbye, &["transfer_to_human"]).call, []);
    }

    #[test]
    fn a_question_that_is_told_in_writing_is_answered_like_one_that_was_heard() {
        let told = Prompt::Text("And what is your address?".into());
        assert_eq!(answer(&told, &[]).say, [Speech::Phrase("address-answer".into())]);
    }

    #[test]
    fn a_rule_is_used_only_so_many_times() {
        let failing = Rule {
            when: When::Greeting,
            needs_tool: None,
            times: Some(1),
            reply: Reply { outcome: Outcome::Failed("server_error".into()), ..Reply::default() },
        };
        let script = Script::default().with_rules_first(vec![failing]);
        let (first, reply) = script.choose(&Prompt::Greeting, &[], &[]).unwrap();
        assert_eq!((first, &reply.outcome), (0, &Outcome::Failed("server_error".into())));
        let (second, reply) = script.choose(&Prompt::Greeting, &[], &[1]).unwrap();
        assert_ne!(second, first);
        assert_eq!(reply.outcome, Outcome::Completed);
    }

    #[test]
    fn a_script_is_read_from_json() {
        let script: Script = serde_json::from_str(
            r#"[{"when": {"text": "pressed 2"}, "reply": {"say": [{"phrase": "greeting"}, {"tone": {"ms": 50, "text": "hm"}}]}},
                {"when": "anything", "reply": {"outcome": {"incomplete": "max_output_tokens"}}}]"#,
        )
        .unwrap();
        let (index, reply) =
            script.choose(&Prompt::Text("(The caller PRESSED 2.)".into()), &[], &[]).unwrap();
        assert_eq!((index, reply.say.len()), (0, 2));
    }
}
