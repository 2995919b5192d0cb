//! The items of a conversation and their order.

use std::time::Duration;

use serde_json::{Value, json};

use super::refusal::{At, Refusal};
use super::report::ItemReport;
use super::session::Format;

/// One item.
#[derive(Debug, Clone, Default)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) kind: &'static str,
    pub(super) role: Option<&'static str>,
    pub(super) status: &'static str,
    /// Words, arguments or output.
    pub(super) text: String,
    /// Spoken, not written.
    pub(super) spoken: bool,
    /// Name of a function.
    pub(super) name: Option<String>,
    /// Joins a function call and its output.
    pub(super) call_id: Option<String>,
    /// Audio generated so far.
    pub(super) audio_bytes: usize,
    pub(super) bytes_per_ms: usize,
    pub(super) truncated_ms: Option<u64>,
    /// What the client was given as the caller's words.
    pub(super) transcript: Option<String>,
    pub(super) phrase: Option<String>,
    pub(super) match_score: Option<f64>,
    pub(super) heard_ms: Option<f64>,
    pub(super) response: Option<String>,
    pub(super) deleted: bool,
    /// When it took its place, since the session began.
    pub(super) at: Duration,
}

impl Item {
    /// What the caller said.
    pub(super) fn caller_speech(id: String) -> Self {
        Self { id, kind: "message", role: Some("user"), status: "completed", spoken: true, ..Self::default() }
    }

    /// What the agent is about to say.
    pub(super) fn agent_message(id: String, response: &str, spoken: bool, format: Format) -> Self {
        Self {
            id,
            kind: "message",
            role: Some("assistant"),
            status: "in_progress",
            spoken,
            bytes_per_ms: format.bytes_per_ms(),
            response: Some(response.into()),
            ..Self::default()
        }
    }

    /// A function the model asks for.
    pub(super) fn function_call(id: String, response: &str, name: &str, call_id: &str) -> Self {
        Self {
            id,
            kind: "function_call",
            status: "in_progress",
            name: Some(name.into()),
            call_id: Some(call_id.into()),
            response: Some(response.into()),
            ..Self::default()
        }
    }

    /// Milliseconds of generated audio, as far as the model still remembers it.
    pub(super) fn audio_ms(&self) -> f64 {
        let generated = self.generated_ms();
        self.truncated_ms.map_or(generated, |cut| generated.min(cut as f64))
    }

    /// Milliseconds of generated audio.
    pub(super) fn generated_ms(&self) -> f64 {
        if self.bytes_per_ms == 0 { 0.0 } else { self.audio_bytes as f64 / self.bytes_per_ms as f64 }
    }

    /// As events show it; audio is never shown.
    pub(super) fn to_json(&self) -> Value {
        let mut json = json!({
            "id": self.id, "object": "realtime.item", "type": self.kind, "status": self.status,
        });
        match self.kind {
            "message" => {
                json["role"] = json!(self.role);
                json["content"] = self.content();
            }
            "function_call" => {
                json["name"] = json!(self.name);
                json["call_id"] = json!(self.call_id);
                json["arguments"] = json!(self.text);
            }
            _ => {
                json["call_id"] = json!(self.call_id);
                json["output"] = json!(self.text);
            }
        }
        json
    }

    fn content(&self) -> Value {
        match (self.role, self.spoken) {
            (Some("user"), true) => json!([{"type": "input_audio", "transcript": self.transcript}]),
            // An item that has only been announced has no content yet.
            (Some("assistant"), true) if self.audio_bytes == 0 && self.text.is_empty() => json!([]),
            // The transcript of a truncated item is gone on the server.
            (Some("assistant"), true) => {
                let transcript = self.truncated_ms.is_none().then_some(&self.text);
                json!([{"type": "output_audio", "transcript": transcript}])
            }
            (Some("assistant"), false) if self.text.is_empty() => json!([]),
            (Some("assistant"), false) => json!([{"type": "output_text", "text": self.text}]),
            _ => json!([{"type": "input_text", "text": self.text}]),
        }
    }

    pub(super) fn report(&self) -> ItemReport {
        ItemReport {
            id: self.id.clone(),
            kind: self.kind.into(),
            role: self.role.map(Into::into),
            status: self.status.into(),
            text: self.text.clone(),
            name: self.name.clone(),
            transcript: self.transcript.clone(),
            phrase: self.phrase.clone(),
            match_score: self.match_score,
            heard_ms: self.heard_ms,
            generated_ms: (self.bytes_per_ms > 0).then(|| self.generated_ms()),
            truncated_ms: self.truncated_ms,
            response: self.response.clone(),
            deleted: self.deleted,
            at_ms: self.at.as_secs_f64() * 1000.0,
        }
    }
}

/// Items in conversation order.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    items: Vec<Item>,
    /// Since the session began.
    pub(super) now: Duration,
}

impl Conversation {
    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    /// An item the model still knows.
    pub(super) fn find(&self, id: &str) -> Option<&Item> {
        self.items.iter().find(|item| item.id == id && !item.deleted)
    }

    pub(super) fn find_mut(&mut self, id: &str) -> Option<&mut Item> {
        self.items.iter_mut().find(|item| item.id == id && !item.deleted)
    }

    /// Id of the last item.
    pub(super) fn last_id(&self) -> Option<String> {
        self.items.iter().rev().find(|item| !item.deleted).map(|item| item.id.clone())
    }

    /// What the agent said last, as far as the model knows; empty when somebody has spoken since.
    pub(super) fn last_words_of_agent(&self) -> &str {
        let last = self.items.iter().rev().find(|item| !item.deleted && item.kind == "message");
        last.filter(|item| item.role == Some("assistant")).map_or("", |item| &item.text)
    }

    /// Puts an item at the end; the id of the one before it comes back.
    pub(super) fn append(&mut self, item: Item) -> Option<String> {
        let previous = self.last_id();
        self.items.push(Item { at: self.now, ..item });
        previous
    }

    /// Places an item of the client's; the id of the one before it comes back.
    pub(super) fn insert(
        &mut self,
        item: Item,
        previous: Option<&At<'_>>,
    ) -> Result<Option<String>, Refusal> {
        if self.items.iter().any(|other| other.id == item.id) {
            let message = format!("an item `{}` exists already", item.id);
            return Err(Refusal::new("invalid_value", message, Some("item.id")));
        }
        let Some(previous) = previous.filter(|previous| !previous.is_null()) else {
            return Ok(self.append(item));
        };
        let item = Item { at: self.now, ..item };
        let id = previous.text()?;
        if id == "root" {
            self.items.insert(0, item);
            return Ok(None);
        }
        let Some(index) = self.items.iter().position(|other| other.id == id && !other.deleted) else {
            let message = format!("there is no item `{id}` to put this one after");
            return Err(Refusal::new("item_not_found", message, Some(&previous.path)));
        };
        self.items.insert(index + 1, item);
        Ok(Some(id.into()))
    }

    /// Cuts the audio of an agent's item.
    pub(super) fn truncate(&mut self, id: &str, audio_end_ms: u64) -> Result<Truncated, Refusal> {
        let item = self.find_mut(id).filter(|item| item.role == Some("assistant") && item.audio_bytes > 0);
        let Some(item) = item else {
            let message = format!("`{id}` is no item of the agent with audio");
            return Err(Refusal::new("item_truncate_invalid_item_id", message, Some("item_id")));
        };
        let length = item.audio_ms();
        if audio_end_ms as f64 > length {
            let message =
                format!("the item has {length} ms of audio, which is already shorter than {audio_end_ms} ms");
            return Err(Refusal::new("invalid_value", message, Some("audio_end_ms")));
        }
        item.truncated_ms = Some(audio_end_ms);
        Ok(if audio_end_ms as f64 >= length && item.status != "in_progress" {
            Truncated::Nothing
        } else {
            Truncated::Some
        })
    }

    /// Takes an item out of the model's memory.
    pub(super) fn delete(&mut self, id: &str) -> Result<(), Refusal> {
        let Some(item) = self.find_mut(id) else {
            let message = format!("there is no item `{id}`");
            return Err(Refusal::new("item_delete_invalid_item_id", message, Some("item_id")));
        };
        item.deleted = true;
        Ok(())
    }
}

/// What a truncation took away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Truncated {
    /// Audio.
    Some,
    /// Nothing: the item was heard to its end. Allowed, and known to confuse the model.
    Nothing,
}

/// Reads the `item` of a `conversation.item.create`. `fresh_id` is used when the client chose none.
pub(super) fn read_item(at: &At<'_>, fresh_id: String) -> Result<Item, Refusal> {
    let kind = at.required("type")?.one_of(&["message", "function_call", "function_call_output"])?;
    let id = match at.member("id") {
        Some(id) => {
            let text = id.text_up_to(32)?;
            if text.is_empty()
                || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
            {
                return Err(id.invalid("must consist of letters, digits, _ and -"));
            }
            text.to_owned()
        }
        None => fresh_id,
    };
    let item = Item { id, status: "completed", ..Item::default() };
    match kind {
        "message" => {
            at.object(&["id", "object", "type", "status", "role", "content"])?;
            let role = match at.required("role")?.one_of(&["system", "user", "assistant"])? {
                "system" => "system",
                "user" => "user",
                _ => "assistant",
            };
            let text = read_content(&at.required("content")?, role)?;
            Ok(Item { kind: "message", role: Some(role), text, ..item })
        }
        "function_call" => {
            at.object(&["id", "object", "type", "status", "name", "arguments", "call_id"])?;
            let name = Some(at.required("name")?.text()?.to_owned());
            let call_id = Some(at.required("call_id")?.text_up_to(32)?.to_owned());
            Ok(Item {
                kind: "function_call",
                name,
                call_id,
                text: at.required("arguments")?.text()?.to_owned(),
                ..item
            })
        }
        _ => {
            at.object(&["id", "object", "type", "status", "call_id", "output"])?;
            let call_id = Some(at.required("call_id")?.text_up_to(32)?.to_owned());
            Ok(Item {
                kind: "function_call_output",
                call_id,
                text: at.required("output")?.text()?.to_owned(),
                ..item
            })
        }
    }
}

fn read_content(at: &At<'_>, role: &str) -> Result<String, Refusal> {
    let mut text = String::new();
    let allowed = if role == "assistant" { "output_text" } else { "input_text" };
    for part in at.list()? {
        part.required("type")?.one_of(&[allowed])?;
        part.object(&["type", "text"])?;
        text.push_str(part.required("text")?.text()?);
    }
    if at.value.as_array().is_some_and(Vec::is_empty) {
        return Err(at.invalid("needs at least one part"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str) -> Item {
        let json =
            json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": id}]});
        read_item(&At::new(&json, "item"), id.into()).unwrap()
    }

    fn order(conversation: &Conversation) -> Vec<&str> {
        conversation.items().iter().map(|item| item.id.as_str()).collect()
    }

    #[test]
    fn items_go_where_the_client_puts_them() {
        let mut conversation = Conversation::default();
        let value = |text: &str| json!(text);
        assert_eq!(conversation.insert(message("b"), None).unwrap(), None);
        let root = value("root");
        assert_eq!(conversation.insert(message("a"), Some(&At::new(&root, "p"))).unwrap(), None);
        let a = value("a");
        let previous = conversation.insert(message("a2"), Some(&At::new(&a, "p"))).unwrap();
        assert_eq!(previous.as_deref(), Some("a"));
        assert_eq!(order(&conversation), ["a", "a2", "b"]);
        let gone = value("gone");
        let refusal = conversation.insert(message("c"), Some(&At::new(&gone, "p"))).unwrap_err();
        assert_eq!(refusal.code, "item_not_found");
        assert_eq!(conversation.insert(message("b"), None).unwrap_err().param.as_deref(), Some("item.id"));
        assert_eq!(order(&conversation), ["a", "a2", "b"]);
    }

    #[test]
    fn an_item_is_truncated_within_its_audio_and_nowhere_else() {
        let mut conversation = Conversation::default();
        conversation.append(message("user"));
        let mut spoken = Item::agent_message("agent".into(), "resp", true, Format::Ulaw);
        spoken.audio_bytes = 8004;
        spoken.status = "completed";
        spoken.text = "Words.".into();
        conversation.append(spoken);
        let code =
            |conversation: &mut Conversation, id: &str, ms| conversation.truncate(id, ms).unwrap_err().code;
        assert_eq!(code(&mut conversation, "user", 0), "item_truncate_invalid_item_id");
        assert_eq!(code(&mut conversation, "nobody", 0), "item_truncate_invalid_item_id");
        assert_eq!(code(&mut conversation, "agent", 1001), "invalid_value");
        assert_eq!(conversation.truncate("agent", 1000), Ok(Truncated::Some));
        assert_eq!(conversation.truncate("agent", 1000), Ok(Truncated::Nothing));
        assert_eq!(conversation.truncate("agent", 400), Ok(Truncated::Some));
        assert_eq!(code(&mut conversation, "agent", 401), "invalid_value");
        let item = conversation.find("agent").unwrap();
        assert_eq!(item.to_json()["content"][0]["transcript"], Value::Null);
        assert_eq!((item.report().truncated_ms, item.report().text.as_str()), (Some(400), "Words."));
    }

    #[test]
    fn items_of_the_wrong_shape_are_refused() {
        let part = |kind: &str| json!([{"type": kind, "text": "x"}]);
        for (item, code, param) in [
            (json!({"type": "message", "role": "developer", "content": []}), "invalid_value", "item.role"),
            (
                json!({"type": "message", "role": "assistant", "content": part("input_text")}),
                "invalid_value",
                "item.content[0].type",
            ),
            (
                json!({"type": "message", "role": "user", "content": part("input_text"), "text": "x"}),
                "unknown_parameter",
                "item.text",
            ),
            (
                json!({"type": "message", "id": "x".repeat(33), "role": "user", "content": part("input_text")}),
                "string_above_max_length",
                "item.id",
            ),
            (
                json!({"type": "function_call_output", "output": "{}"}),
                "missing_required_parameter",
                "item.call_id",
            ),
            (
                json!({"type": "function_call_output", "call_id": "c", "output": {}}),
                "invalid_type",
                "item.output",
            ),
        ] {
            let refusal = read_item(&At::new(&item, "item"), "id".into()).unwrap_err();
            assert_eq!((refusal.code.as_str(), refusal.param.as_deref()), (code, Some(param)), "{item}");
        }
    }
}
