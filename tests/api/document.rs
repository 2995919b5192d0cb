//! What the document says of every route, tried out: each shows what it takes and gives, takes what it shows, and answers
//! whatever else it is sent with a refusal that says what to do.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Map, Value, json};

use crate::operations::{Operation, document, encoded, furnished, operations, there};
use crate::surface::Answer;

/// Larger than any body but a table may be.
const MEGABYTE: usize = 1 << 20;
/// What no member of a body expects, or none should fall over.
const STRANGE: [&str; 15] = [
    "null",
    "true",
    "-1",
    "9223372036854775807",
    "1e308",
    "\"\"",
    "\"\\u0000\"",
    "\"\\ud834\\udd1e\\u202e\"",
    "\"-009999-01-01T00:00:00Z\"",
    "\"9999-12-30T22:00:00.999999999Z\"",
    "\"-009999-01-01\"",
    "\"+14155550123\"",
    "[]",
    "[null]",
    "{\"x\": []}",
];
/// The same in a path or a query.
const STRANGE_WORDS: [&str; 10] = [
    "",
    "x",
    "a%20b",
    "%00",
    "%FF",
    "'",
    "-1",
    "99999999999999999999",
    "-009999-01-01T00:00:00Z",
    "9999-12-30T22:00:00.999999999Z",
];

#[test]
fn every_body_has_an_example_that_leaves_nothing_open() {
    let document = document();
    let mut missing = Vec::new();
    for operation in operations(&document) {
        let answers = operation.about["responses"].as_object().unwrap().iter();
        let answers = answers.filter(|(status, _)| status.starts_with('2')).map(|(_, answer)| answer);
        for body in answers.chain([&operation.about["requestBody"]]) {
            for (media_type, content) in body["content"].as_object().into_iter().flatten() {
                let mut empty = Vec::new();
                blanks(&content["example"], "", &mut empty);
                if content["example"].is_null() || !empty.is_empty() {
                    missing.push(format!("{}, {media_type}: {empty:?}", operation.name()));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Where there is an empty text.
fn blanks(value: &Value, place: &str, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.is_empty() => found.push(place.to_owned()),
        Value::Array(values) => values.iter().for_each(|value| blanks(value, place, found)),
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| blanks(value, &format!("{place}/{name}"), found));
        }
        _ => {}
    }
}

#[tokio::test]
async fn every_route_takes_the_request_that_it_shows() {
    let (server, document) = (furnished().await, document());
    let mut refused = Vec::new();
    for operation in operations(&document) {
        let (media_type, body) = operation.sent();
        if media_type.is_empty() {
            continue;
        }
        let path = there(&server, &document, &operation.path).await;
        let answer = server.keyed(operation.method.clone(), &path, &media_type, body).await;
        let code = if answer.status.is_success() { Value::Null } else { answer.failure()["code"].clone() };
        // What it names may not be there, or be there already. That is told without details.
        let fits = match code.as_str() {
            None => true,
            Some("invalid_value") => answer.failure()["details"].is_null(),
            Some(code) => matches!(answer.status.as_u16(), 404 | 409) || code.starts_with("unknown_"),
        };
        if !fits {
            refused.push(format!("{}: {} {}", operation.name(), answer.status, answer.text));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[tokio::test]
async fn a_path_or_query_that_cannot_be_is_refused_with_a_sentence() {
    let (server, document) = (furnished().await, document());
    let mut tried = Trial::default();
    for operation in operations(&document) {
        let (media_type, body) = operation.sent();
        let long = "x".repeat(2_000);
        let words = || STRANGE_WORDS.into_iter().chain([long.as_str()]);
        for parameter in operation.parameters("path") {
            let name = format!("{{{}}}", parameter["name"].as_str().unwrap());
            let format = parameter["schema"]["format"].as_str().unwrap_or_default();
            for word in words().filter(|word| !word.is_empty()) {
                let path = there(&server, &document, &operation.path.replace(&name, word)).await;
                let answer = server.keyed(operation.method.clone(), &path, &media_type, body.clone()).await;
                let number_fits = format.starts_with("int") && word == "-1";
                let must = matches!(format, "uuid" | "int32" | "int64") && !number_fits;
                tried.note(&operation, &format!("{name} = {word:.40}"), &answer, must);
            }
        }
        let path = there(&server, &document, &operation.path).await;
        for parameter in operation.parameters("query").filter(|_| operation.method != Method::DELETE) {
            let name = parameter["name"].as_str().unwrap();
            let format = parameter["schema"]["format"].as_str().unwrap_or_default();
            for word in words() {
                let path = format!("{path}?{name}={word}");
                let answer = server.keyed(operation.method.clone(), &path, &media_type, body.clone()).await;
                let must = matches!(format, "uuid" | "int32" | "int64" | "date-time")
                    && ["x", "a%20b", "'", "%00", long.as_str()].contains(&word);
                tried.note(&operation, &format!("?{name}={word:.40}"), &answer, must);
            }
        }
    }
    tried.over(700);
}

#[tokio::test]
async fn a_body_that_is_none_is_refused_with_a_sentence() {
    let (server, document) = (furnished().await, document());
    let mut tried = Trial::default();
    let large = "x".repeat(MEGABYTE);
    let deep = "[".repeat(30_000);
    for operation in operations(&document) {
        let Some((media_type, _)) = operation.body() else { continue };
        let path = there(&server, &document, &operation.path).await;
        let (_, example) = operation.sent();
        let is_json = media_type == "application/json";
        let send = async |media_type: &str, body: Body| {
            server.keyed(operation.method.clone(), &path, media_type, body).await
        };
        for body in
            ["", " ", "[]", "[1]", "null", "7", "\"x\"", "{", "{\"zzz\": 1}", "{\"name\": \"\\ud800\"}"]
                .into_iter()
                .chain([large.as_str(), deep.as_str(), "=", "&&&", "CallSid=%00", "phone\n\0", "\u{feff}{}"])
        {
            let answer = send(media_type, Body::from(body.to_owned())).await;
            tried.note(&operation, &format!("{body:.40}"), &answer, is_json);
        }
        let answer = send(media_type, Body::from(vec![0xff, 0xfe, 0x00])).await;
        tried.note(&operation, "no text", &answer, is_json);
        for other in ["", "text/plain", "application/xml"] {
            let answer = send(other, Body::from(example.clone())).await;
            tried.note(&operation, other, &answer, true);
        }
        if is_json {
            // A struct may be read from a list as well; that is no request.
            let values: Vec<Value> =
                serde_json::from_str::<Map<_, _>>(&example).unwrap().into_values().collect();
            let answer = send(media_type, Body::from(json!(values).to_string())).await;
            tried.note(&operation, "a list of the values", &answer, true);
        }
    }
    tried.over(400);
}

#[tokio::test]
async fn whatever_the_members_of_a_body_are_the_answer_is_no_error_of_ours() {
    let (server, document) = (furnished().await, document());
    let mut tried = Trial::default();
    let large = json!("x".repeat(60_000)).to_string();
    for operation in operations(&document) {
        let Some((media_type, content)) = operation.body() else { continue };
        let path = there(&server, &document, &operation.path).await;
        let example = &content["example"];
        let mut places = Vec::new();
        pointers(example, "", &mut places);
        for name in members(&document, &content["schema"]) {
            places.extend(Some(format!("/{name}")).filter(|place| !places.contains(place)));
        }
        for place in places {
            for strange in STRANGE.into_iter().chain([large.as_str()]) {
                let what = format!("{place} = {strange:.40}");
                let strange: Value = serde_json::from_str(strange).unwrap();
                let changed = with(example.clone(), &place, strange.clone());
                let body = match media_type {
                    "application/json" => changed.to_string(),
                    _ if strange.is_string() => encoded(&changed),
                    _ => continue,
                };
                let answer = server.keyed(operation.method.clone(), &path, media_type, body).await;
                tried.note(&operation, &what, &answer, false);
            }
        }
    }
    // What was taken can be read.
    for operation in operations(&document).iter().filter(|operation| operation.method == Method::GET) {
        let path = there(&server, &document, &operation.path).await;
        let answer = server.get(&path).await;
        tried.note(operation, "as it is now", &answer, false);
    }
    tried.over(2_000);
}

/// What came of many requests.
#[derive(Default)]
struct Trial {
    count: usize,
    wrong: Vec<String>,
}

impl Trial {
    /// Nothing is an error of ours, every refusal is whole, and what must be refused is.
    fn note(&mut self, operation: &Operation, what: &str, answer: &Answer, must_be_refused: bool) {
        self.count += 1;
        if answer.status.is_client_error() {
            answer.failure();
        }
        if answer.status.is_server_error() || must_be_refused && !answer.status.is_client_error() {
            self.wrong.push(format!("{} {what}: {} {:.200}", operation.name(), answer.status, answer.text));
        }
    }

    fn over(self, at_least: usize) {
        assert!(self.wrong.is_empty(), "{} of {}:\n{}", self.wrong.len(), self.count, self.wrong.join("\n"));
        assert!(self.count > at_least, "only {} requests were made", self.count);
    }
}

/// Every place in a value, as JSON pointers.
fn pointers(value: &Value, place: &str, found: &mut Vec<String>) {
    let mut enter = |name: String, value: &Value| {
        let place = format!("{place}/{name}");
        found.push(place.clone());
        pointers(value, &place, found);
    };
    match value {
        Value::Array(values) => {
            values.iter().take(1).enumerate().for_each(|(index, value)| enter(index.to_string(), value));
        }
        Value::Object(members) => members.iter().for_each(|(name, value)| enter(name.clone(), value)),
        _ => {}
    }
}

/// Names of the members that a schema knows.
fn members(document: &Value, schema: &Value) -> Vec<String> {
    let named = schema["$ref"].as_str().and_then(|place| document.pointer(place.strip_prefix('#')?));
    let schema = named.unwrap_or(schema);
    let of_parts = schema["allOf"].as_array().into_iter().flatten().flat_map(|part| members(document, part));
    let own = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
    own.chain(of_parts).collect()
}

fn with(mut value: Value, place: &str, new: Value) -> Value {
    match value.pointer_mut(place) {
        Some(there) => *there = new,
        None => value[place.trim_start_matches('/')] = new,
    }
    value
}
