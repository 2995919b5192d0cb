//! Items that the client adds, cuts, deletes and looks at.

use serde_json::json;

use super::super::conversation::{Truncated, read_item};
use super::super::refusal::{At, Refusal};
use super::super::script::Prompt;
use super::{Engine, keep};

impl Engine {
    pub(super) fn on_item_create(&mut self, at: &At<'_>) -> Result<(), Refusal> {
        let fresh = self.fresh_id("item");
        let given = at.required("item")?;
        let item = read_item(&given, fresh)?;
        let prompt = match (item.kind, item.role) {
            ("message", Some("user")) => Some(Prompt::Text(item.text.clone())),
            ("function_call_output", _) => {
                Some(Prompt::FunctionOutput(self.function_of(item.call_id.as_deref(), &given)?))
            }
            _ => None,
        };
        let (json, item_role) = (item.to_json(), item.role);
        let previous = self.conversation.insert(item, at.member("previous_item_id").as_ref())?;
        self.send("conversation.item.added", json!({"previous_item_id": previous, "item": json}));
        self.send("conversation.item.done", json!({"previous_item_id": previous, "item": json}));
        if item_role == Some("assistant") {
            self.unanswered.clear(); // What came before was answered by it.
        }
        self.unanswered.extend(prompt);
        Ok(())
    }

    /// Name of the function whose call this output answers.
    fn function_of(&mut self, call_id: Option<&str>, given: &At<'_>) -> Result<String, Refusal> {
        let items = self.conversation.items();
        let of_call =
            |kind: &str| items.iter().find(|item| item.kind == kind && item.call_id.as_deref() == call_id);
        let Some(call) = of_call("function_call") else {
            let path = format!("{}.call_id", given.path);
            return Err(Refusal::new("invalid_tool_call_id", "no function call has this id", Some(&path)));
        };
        let name = call.name.clone().unwrap_or_default();
        if of_call("function_call_output").is_some() {
            keep(&mut self.violations, format!("a call of {name} was answered twice"));
        }
        Ok(name)
    }

    pub(super) fn on_item_truncate(&mut self, at: &At<'_>) -> Result<(), Refusal> {
        let id = at.required("item_id")?.text()?;
        at.required("content_index")?.integer(0, 0)?;
        let audio_end_ms = at.required("audio_end_ms")?.integer(0, i64::MAX)?.unsigned_abs();
        if self.conversation.truncate(id, audio_end_ms)? == Truncated::Nothing {
            keep(&mut self.violations, format!("truncating {id} at {audio_end_ms} ms took nothing away"));
        }
        self.send(
            "conversation.item.truncated",
            json!({"item_id": id, "content_index": 0, "audio_end_ms": audio_end_ms}),
        );
        Ok(())
    }

    pub(super) fn on_item_delete(&mut self, at: &At<'_>) -> Result<(), Refusal> {
        let id = at.required("item_id")?.text()?;
        self.conversation.delete(id)?;
        self.send("conversation.item.deleted", json!({"item_id": id}));
        Ok(())
    }

    pub(super) fn on_item_retrieve(&mut self, at: &At<'_>) -> Result<(), Refusal> {
        let id = at.required("item_id")?.text()?;
        let Some(item) = self.conversation.find(id) else {
            let message = format!("there is no item `{id}`");
            return Err(Refusal::new("item_retrieve_invalid_item_id", message, Some("item_id")));
        };
        let json = item.to_json();
        self.send("conversation.item.retrieved", json!({"item": json}));
        Ok(())
    }
}
