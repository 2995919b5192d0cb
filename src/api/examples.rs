//! An example of every body in the `OpenAPI` document, put together from the examples of its members.

use serde_json::{Map, Value, json};
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Content, OpenApi, RefOr};

/// A day in all examples.
const MOMENT: &str = "2026-03-02T09:00:00Z";
/// Stands for every id.
const ID: &str = "0191e0a0-0000-7000-8000-000000000001";
const CALL_SID: &str = "CA00000000000000000000000000000001";

/// Gives every body of a request, of an answer, and of the errors that all routes have, an example where it has none.
pub(super) fn add(document: &mut OpenApi) {
    let schemas =
        document.components.as_ref().map(|components| json!(components.schemas)).unwrap_or_default();
    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            add_to(operation, path, &schemas);
        }
    }
}

fn add_to(operation: &mut Operation, path: &str, schemas: &Value) {
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        for (media_type, content) in &mut body.content {
            let sent = Assembly { schemas, sent: true };
            put(content, || if media_type == "application/json" { None } else { Some(form(path)) }, &sent);
        }
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && (status.starts_with('2') || status.starts_with('4') || status.starts_with('5'))
        {
            for (media_type, content) in &mut response.content {
                put(content, || text(media_type, path), &Assembly { schemas, sent: false });
            }
        }
    }
}

fn put(content: &mut RefOr<Content>, other: impl FnOnce() -> Option<Value>, assembly: &Assembly<'_>) {
    let RefOr::T(content) = content else { return };
    if content.example.is_none() && content.examples.is_empty() {
        let schema = json!(content.schema);
        content.example = other().or_else(|| assembly.of(&schema, "", ""));
    }
}

/// Puts examples together.
struct Assembly<'a> {
    /// The document's, by name.
    schemas: &'a Value,
    /// By a client: what it may leave out is left out where there is nothing to show.
    sent: bool,
}

impl Assembly<'_> {
    /// An example of what is described by a schema; `owner` is the name of the one that it is a member of. `None`: null.
    fn of(&self, schema: &Value, owner: &str, member: &str) -> Option<Value> {
        if let Some(example) = schema.get("example").or_else(|| schema.pointer("/examples/0")) {
            return Some(example.clone());
        }
        if !is(schema, "array")
            && let Some(example) = known(owner, member)
        {
            return Some(example).filter(|example| !example.is_null());
        }
        for word in ["/const", "/default", "/enum/0"] {
            if let Some(value) = schema.pointer(word).filter(|value| !value.is_null()) {
                return Some(value.clone());
            }
        }
        if let Some(name) = schema["$ref"].as_str().and_then(|place| place.rsplit('/').next()) {
            // What is in an envelope is named by both.
            let owner = name.rsplit('_').next().unwrap_or(name);
            return self.of(&self.schemas[name], owner, "");
        }
        if let Some(parts) = schema["allOf"].as_array() {
            let mut whole = Map::new();
            for part in parts.iter().filter_map(|part| self.of(part, owner, "")) {
                whole.extend(part.as_object().cloned().unwrap_or_default());
            }
            return Some(whole.into());
        }
        if let Some(choices) = ["oneOf", "anyOf"].iter().find_map(|word| schema[word].as_array()) {
            return choices.iter().find_map(|choice| self.of(choice, owner, ""));
        }
        self.of_type(schema, owner, member)
    }

    fn of_type(&self, schema: &Value, owner: &str, member: &str) -> Option<Value> {
        if is(schema, "array") {
            return Some(self.of(&schema["items"], owner, member).into_iter().collect());
        }
        if is(schema, "null") {
            return None;
        }
        if let Some(members) = schema["properties"].as_object() {
            let shown = members.iter().filter(|(_, member)| self.sent || member["writeOnly"] != true);
            let shown = shown.filter_map(|(name, member)| {
                let example = self.of(member, owner, name);
                let kept = example.or_else(|| (!self.sent).then_some(Value::Null));
                kept.map(|example| (name.clone(), example))
            });
            return Some(shown.collect::<Map<_, _>>().into());
        }
        match (schema["type"].as_str()?, schema["format"].as_str()) {
            ("string", Some("uuid")) => Some(json!(ID)),
            ("string", Some("date-time")) => Some(json!(MOMENT)),
            ("string", _) => Some(json!("")),
            ("boolean", _) => Some(json!(true)),
            ("integer" | "number", _) => Some(json!(1)),
            _ => Some(json!({})),
        }
    }
}

/// Whether what is described may be of this type.
fn is(schema: &Value, word: &str) -> bool {
    let types = &schema["type"];
    types == word || types.as_array().is_some_and(|all| all.iter().any(|one| one == word))
}

/// What members hold that say nothing of it themselves: by the name of the schema, or for all members of a name.
fn known(schema: &str, member: &str) -> Option<Value> {
    let value = match (schema, member) {
        ("Attempt", "status") => json!("ended"),
        ("Attempt", "outcome") => json!("answered"),
        ("Attempt", "answered_by") => json!("human"),
        ("TranscriptRow", "status") => json!("final"),
        ("AgentCall", "outcome") => json!("appointment"),
        ("AgentCall", "objections") => json!("price"),
        ("AgentCall", "duration") => json!(240),
        ("EditTool" | "HttpTool", "name") => json!("opening_hours"),
        ("EditTool" | "HttpTool", "description") => json!("When we are open."),
        ("EditTool" | "HttpTool", "timeout_ms") => json!(3000),
        ("EditTool" | "HttpTool", "parameters") => json!({"type": "object", "properties": {}}),
        ("EditTool" | "HttpTool", "url") => json!("https://example.com/hours"),
        ("EditHeader", "value") => json!("change-me"),
        ("SecretHeader", "name") => json!("X-Key"),
        ("Settings", "description") => json!("Policies that run out this quarter."),
        ("Settings", "metadata") => json!({"source": "crm"}),
        ("Settings", "retry_delays_s") => json!({"busy": 900, "no_answer": 7200}),
        ("Settings", "max_attempts") => json!(3),
        ("Settings", "max_concurrent_calls") => json!(10),
        ("Settings", "ring_timeout_s") => json!(30),
        ("Settings", "start_date") => json!("2026-03-02"),
        ("Settings", "end_date") => json!("2026-03-31"),
        ("Interaction", "callDisposition") => {
            json!({"disposition": "AGENT_ENDED", "connection_status": "CONNECTED", "call_duration": 90})
        }
        ("CallRecord", "data") => json!({"call": {"status": "completed", "duration": 90}}),
        (
            "CreateIvrProvider" | "UpdateIvrProvider" | "TryMapping" | "IvrProvider" | "IssuedIvrProvider",
            "mapping",
        ) => {
            json!({"call_id": "/data/call/id", "from_number": "data.caller", "digits": "data.digits", "updated_at": "sent_at"})
        }
        ("TryMapping" | "IvrCall", "payload") => {
            json!({"data": {"call": {"id": "7f3c2d"}, "caller": "+14155550123", "digits": "2"}, "sent_at": MOMENT})
        }
        ("RoutingDecision", "details") => json!({"time_zone": "Europe/Berlin"}),
        ("Entry", "reason") => json!("asked by mail"),
        ("Settings", "voicemail_message") | ("Entry", "call_sid") | (_, "degraded") => Value::Null,
        (_, "ignored_columns") => json!("birthday"),
        (_, "call_sid") => json!(CALL_SID),
        (_, "phone" | "phoneNumber" | "to" | "to_number") => json!("+14155550123"),
        (_, "from" | "from_number") => json!("+14155550199"),
        (_, "email") => json!("ada@example.com"),
        (_, "name") => json!("Ada Lovelace"),
        (_, "notes" | "agent_notes") => json!("Prefers to be called in the morning."),
        (_, "summary" | "conversation_summary") => json!("Asked about an invoice."),
        (_, "message") => json!("Remind of the open invoice."),
        (_, "lead_status") => json!("new"),
        (_, "next_action") => json!("send offer"),
        (_, "channel") => json!("voice"),
        (_, "interest_level") => json!("high"),
        (_, "role") => json!("user"),
        (_, "content") => json!("Good morning, I have a question about my invoice."),
        (_, "item_id") => json!("item_1"),
        (_, "fallback_sentence") => {
            json!("Sorry, something went wrong on our side. Please call again later.")
        }
        (_, "keywords") => json!("Northgate"),
        (_, "node") => json!("node-1"),
        (_, "version") => json!(env!("CARGO_PKG_VERSION")),
        (_, "max_calls") => json!(500),
        (_, "duration") => json!(90),
        (_, "limit") => json!(50),
        (_, "offset" | "handoffs" | "bad_total" | "skipped_total" | "blocked_calls" | "already") => json!(0),
        (_, "interrupted" | "transferred" | "voicemail_detected") => json!(false),
        _ => return None,
    };
    Some(value)
}

/// What Twilio sends to a webhook.
fn form(path: &str) -> Value {
    let call = |status: &str| json!({"CallSid": CALL_SID, "CallStatus": status});
    let with = |status: &str, more: Value| {
        let mut form = call(status);
        for (name, value) in more.as_object().into_iter().flatten() {
            form[name] = value.clone();
        }
        form
    };
    match path {
        "/twiml/stream-ended" | "/twiml/whisper/{callSid}/{handoff}" => call("in-progress"),
        "/api/phone-number/{id}/incoming/fallback" | "/twiml/handoff-ended/{handoff}" => {
            with("in-progress", json!({"DialCallStatus": "no-answer"}))
        }
        "/api/twilio/call-status" => with("completed", json!({"CallDuration": "90", "SequenceNumber": "3"})),
        _ => with("ringing", json!({"From": "+14155550123", "To": "+14155550199", "Direction": "inbound"})),
    }
}

/// Answers that are not JSON.
fn text(media_type: &str, path: &str) -> Option<Value> {
    let twiml = |verbs: &str| {
        Some(json!(format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response>{verbs}</Response>")))
    };
    match (media_type, path) {
        ("text/xml", "/twiml/whisper/{callSid}/{handoff}") => twiml("<Say>The caller has a question.</Say>"),
        ("text/xml", "/twiml/stream-ended" | "/twiml/handoff-ended/{handoff}") => twiml("<Hangup/>"),
        ("text/xml", _) => twiml(
            "<Connect action=\"https://voice.example.com/twiml/stream-ended\">\
             <Stream url=\"wss://voice.example.com/media-stream/kJ5…\"/></Connect>\
             <Redirect>https://voice.example.com/twiml/stream-ended</Redirect>",
        ),
        ("application/openmetrics-text", _) => {
            Some(json!("# TYPE voicebridge_calls_live gauge\nvoicebridge_calls_live 3\n# EOF\n"))
        }
        (_, "/openapi.json") => {
            Some(json!({"openapi": "3.1.0", "info": {"title": "voicebridge"}, "paths": {}}))
        }
        _ => None,
    }
}
