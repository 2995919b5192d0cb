//! Functions the model asks for: requested, answered, late.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::settings::{DO_NOT_CALL_AGAIN, END_CALL, TRANSFER_TO_HUMAN};
use crate::clock::CallTime;
use crate::ids::{ItemId, ResponseId, ToolCallId};
use crate::wire::model::ToolSpec;

/// Functions that may run at a time; a model that asks for more is told so.
const MAX_RUNNING: usize = 16;
/// Function calls whose answer was given; one of these is not run again.
const MAX_ANSWERED: usize = 32;
/// Longest arguments of a function.
const MAX_ARGUMENTS_BYTES: usize = 64 * 1024;
/// The runner keeps the time; this much later the call stops waiting for it.
const RUNNER_GRACE: Duration = Duration::from_secs(2);

/// What a function answers that is not on offer.
const UNKNOWN: &str = "there is no such function";

/// A function to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolRequest {
    /// To answer with.
    pub call: ToolCallId,
    /// Which function.
    pub name: String,
    /// A JSON object.
    pub arguments: String,
}

/// What a function answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolResult {
    /// The request it answers.
    pub call: ToolCallId,
    /// For the model: JSON or plain text; an error is said in words.
    pub output: String,
}

/// A wish to put the caller through to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// A telephone number in E.164 or the id of a team; `None` leaves it to the agent's settings.
    pub to: Option<String>,
    /// Why.
    pub reason: String,
    /// What the human should know.
    pub summary: String,
}

/// The built-in functions, as the model sees them.
#[must_use]
pub fn built_in() -> Vec<ToolSpec> {
    let object = |properties: serde_json::Value, required: &[&str]| serde_json::json!({ "type": "object", "properties": properties, "required": required });
    vec![
        ToolSpec {
            name: END_CALL.into(),
            description: "Hang up. Say goodbye first; use it only when the caller needs nothing more.".into(),
            parameters: object(serde_json::json!({ "reason": { "type": "string" } }), &["reason"]),
        },
        ToolSpec {
            name: TRANSFER_TO_HUMAN.into(),
            description: "Put the caller through to a person. Tell the caller first that you are doing so."
                .into(),
            parameters: object(
                serde_json::json!({
                    "reason": { "type": "string", "description": "Why a person is needed." },
                    "summary": { "type": "string", "description": "What the person should know, in two sentences." }
                }),
                &["reason"],
            ),
        },
        ToolSpec {
            name: DO_NOT_CALL_AGAIN.into(),
            description: "The person does not want to be called again, in whatever words. Use it at once and before you \
                          say anything: it takes effect immediately, and you are told what to say."
                .into(),
            parameters: object(serde_json::json!({}), &[]),
        },
    ]
}

/// What a function call asks of the call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    EndCall,
    Transfer(Transfer),
    /// Whether it can be is for the call to say.
    OptOut,
    Run(ToolRequest),
    /// It was asked before.
    Again,
    /// Answer at once with this.
    Answer(String),
}

#[derive(Debug)]
struct Running {
    item: ItemId,
    response: ResponseId,
    deadline: CallTime,
}

/// An answered function call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) item: ItemId,
    /// No other function of the same response is still running.
    pub(super) last_of_response: bool,
}

/// Functions of one call.
#[derive(Debug, Default)]
pub(super) struct Tools {
    allowed: BTreeMap<String, Duration>,
    running: BTreeMap<ToolCallId, Running>,
    answered: VecDeque<ToolCallId>,
}

impl Tools {
    pub(super) fn new(allowed: BTreeMap<String, Duration>) -> Self {
        Self { allowed, ..Self::default() }
    }

    /// Takes a function call; it runs until [`Self::answer`].
    pub(super) fn ask(
        &mut self,
        now: CallTime,
        response: ResponseId,
        item: ItemId,
        call: ToolCallId,
        name: &str,
        arguments: &str,
    ) -> Asked {
        if self.running.contains_key(&call) || self.answered.contains(&call) {
            return Asked::Again;
        }
        let object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(arguments);
        let asked = match (name, object) {
            (END_CALL, _) => Asked::EndCall,
            (DO_NOT_CALL_AGAIN, _) => Asked::OptOut,
            (TRANSFER_TO_HUMAN, object) => {
                let object = object.unwrap_or_default();
                let text =
                    |key: &str| object.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
                Asked::Transfer(Transfer { to: None, reason: text("reason"), summary: text("summary") })
            }
            (_, Err(problem)) => {
                Asked::Answer(error(&format!("the arguments are not a JSON object: {problem}")))
            }
            _ if arguments.len() > MAX_ARGUMENTS_BYTES => Asked::Answer(error("the arguments are too long")),
            (name, Ok(_)) if !self.allowed.contains_key(name) => Asked::Answer(error(UNKNOWN)),
            _ if self.running.len() >= MAX_RUNNING => {
                Asked::Answer(error("too many functions are running; try again later"))
            }
            (name, Ok(_)) => {
                Asked::Run(ToolRequest { call: call.clone(), name: name.into(), arguments: arguments.into() })
            }
        };
        let timeout = self.allowed.get(name).copied().unwrap_or_default();
        let deadline = match asked {
            Asked::Run(_) | Asked::Answer(_) => now + timeout + RUNNER_GRACE,
            Asked::EndCall | Asked::Transfer(_) | Asked::OptOut | Asked::Again => CallTime::FAR,
        };
        self.running.insert(call, Running { item, response, deadline });
        asked
    }

    /// A function answered. `None`: nobody waits for it.
    pub(super) fn answer(&mut self, call: &ToolCallId) -> Option<Answered> {
        let running = self.running.remove(call)?;
        if self.answered.len() == MAX_ANSWERED {
            self.answered.pop_front();
        }
        self.answered.push_back(call.clone());
        let last_of_response = self.running.values().all(|other| other.response != running.response);
        Some(Answered { item: running.item, last_of_response })
    }

    /// When to take [`Self::overdue`].
    pub(super) fn deadline(&self) -> Option<CallTime> {
        self.running
            .values()
            .map(|running| running.deadline)
            .filter(|deadline| *deadline < CallTime::FAR)
            .min()
    }

    /// Functions that should have answered by now.
    pub(super) fn overdue(&self, now: CallTime) -> Vec<ToolCallId> {
        self.running
            .iter()
            .filter(|(_, running)| running.deadline <= now)
            .map(|(call, _)| call.clone())
            .collect()
    }

    /// Everything that is still running.
    pub(super) fn running(&self) -> Vec<ToolCallId> {
        self.running.keys().cloned().collect()
    }

    /// Nothing is running beside this one, if it is one.
    pub(super) fn is_idle_but_for(&self, call: Option<&ToolCallId>) -> bool {
        self.running.keys().all(|running| Some(running) == call)
    }

    /// The answer comes from outside the call.
    pub(super) fn is_outside(&self, call: &ToolCallId) -> bool {
        self.running.get(call).is_some_and(|running| running.deadline < CallTime::FAR)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }
}

/// An error in the form the model is given one.
#[must_use]
pub fn error(message: &str) -> String {
    serde_json::json!({ "error": message }).to_string()
}
