//! Requests made up from what the document says of each route: bodies, paths and queries of the shapes it names, and of
//! others. None is answered by an error of ours, nor by a status that the document does not name.

use std::fmt::Write as _;

use axum::http::Method;
use proptest::prelude::*;
use proptest::strategy::{BoxedStrategy, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};

use crate::operations::{Operation, document, furnished, operations, there};
use crate::surface::{KEY, Server};

/// Requests of each route.
const OF_EACH: usize = 60;
/// Objects within objects beyond this are left empty.
const DEPTH: u32 = 4;
/// In the environment: a whole number to make up other requests by, or those of a failure again.
const SEED: &str = "VOICEBRIDGE_SEED";

#[tokio::test]
async fn whatever_a_request_is_made_of_its_answer_is_one_that_the_document_names() {
    let (server, document) = (furnished().await, document());
    let (seed, mut random) = seeded();
    let (mut wrong, mut good, mut refused) = (Vec::new(), 0, 0);
    for operation in operations(&document) {
        let request = request(&document, &operation);
        // The administrator asks and whoever has a key, in turns. What is made up may well end that key.
        let tenant = key(&server).await;
        for turn in 0..OF_EACH {
            let asking = if turn % 2 == 0 { KEY } else { &tenant };
            let Request { path, query, body } = request.new_tree(&mut random).unwrap().current();
            let mut place = there(&server, &document, &filled(&operation.path, &path)).await;
            if !query.is_empty() {
                place = format!("{place}?{query}");
            }
            let media_type = operation.body().map(|(media_type, _)| media_type).unwrap_or_default();
            let answer = server
                .keyed_by(
                    asking,
                    operation.method.clone(),
                    &place,
                    media_type,
                    body.clone().unwrap_or_default(),
                )
                .await;
            let named = operation.about["responses"][answer.status.as_str()].is_object();
            if !named || answer.status.is_server_error() {
                let what = format!("{place:.200} {:.300}", body.unwrap_or_default());
                wrong.push(format!("{} {what}\n  {} {:.200}", operation.name(), answer.status, answer.text));
                break;
            }
            good += usize::from(answer.status.is_success());
            refused += usize::from(answer.status.is_client_error());
        }
    }
    assert!(wrong.is_empty(), "{SEED}={seed}\n{}", wrong.join("\n"));
    // Were all refused, or none, the requests would be of no use.
    assert!(good > 800 && refused > 800, "{SEED}={seed}: {good} were answered well, {refused} refused");
}

/// A key of an organisation that may do all that such a key may.
async fn key(server: &Server) -> String {
    let wanted = json!({
        "name": "made up", "scopes": ["read", "review", "operate", "admin"], "requests_per_minute": 10_000,
    });
    let made = server.post("/api/api-keys", wanted).await.json();
    made["data"]["key"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

/// What the requests are made up by: the number that the environment names, or always the same.
fn seeded() -> (String, TestRunner) {
    let Ok(seed) = std::env::var(SEED) else { return ("(unset)".to_owned(), TestRunner::deterministic()) };
    let number: u64 =
        seed.parse().unwrap_or_else(|_| panic!("{SEED} must be a whole number, and is {seed:?}"));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    (seed, TestRunner::new_with_rng(Config::default(), random))
}

/// What one request is made of.
#[derive(Debug, Clone)]
struct Request {
    /// Values of parameters of the path; `None`: of something that is there.
    path: Vec<(String, Option<String>)>,
    query: String,
    body: Option<String>,
}

fn request(document: &Value, operation: &Operation) -> BoxedStrategy<Request> {
    let path: Vec<_> = operation
        .parameters("path")
        .map(|parameter| {
            let name = parameter["name"].as_str().unwrap().to_owned();
            let word = word(value(document, &parameter["schema"], 0));
            (Just(name), proptest::option::weighted(0.3, word))
        })
        .collect();
    let deletes = operation.method == Method::DELETE;
    let query: Vec<_> = operation
        .parameters("query")
        .map(|parameter| {
            let name = parameter["name"].as_str().unwrap().to_owned();
            let word = word(usually(value(document, &parameter["schema"], 0)));
            proptest::option::weighted(if deletes { 0.0 } else { 0.4 }, word)
                .prop_map(move |word| word.map(|word| format!("{name}={word}")))
        })
        .collect();
    let query = query.prop_map(|parts| parts.into_iter().flatten().collect::<Vec<_>>().join("&"));
    let body = match operation.body() {
        None => Just(None).boxed(),
        Some(("application/json", content)) => {
            let made_up = usually(value(document, &content["schema"], 0));
            let example = content["example"].clone();
            let near = (Just(example), made_up.clone(), any::<prop::sample::Index>()).prop_map(one_changed);
            prop_oneof![3 => near, 2 => made_up].prop_map(|body| Some(body.to_string())).boxed()
        }
        Some((_, content)) => {
            let example = content["example"].as_str().map_or_else(|| operation.sent().1, str::to_owned);
            prop_oneof![2 => Just(Some(example)), 1 => "[ -~\n]{0,80}".prop_map(Some)].boxed()
        }
    };
    (path, query, body).prop_map(|(path, query, body)| Request { path, query, body }).boxed()
}

/// The example, with one member as it was made up.
fn one_changed((mut example, made_up, which): (Value, Value, prop::sample::Index)) -> Value {
    if let (Some(members), Some(others)) = (example.as_object_mut(), made_up.as_object())
        && !others.is_empty()
    {
        let (name, value) = others.iter().nth(which.index(others.len())).unwrap();
        members.insert(name.clone(), value.clone());
    }
    example
}

fn filled(path: &str, values: &[(String, Option<String>)]) -> String {
    let made_up = values.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    made_up.fold(path.to_owned(), |path, (name, value)| path.replace(&format!("{{{name}}}"), value))
}

/// A value as a part of a path or query.
fn word(value: BoxedStrategy<Value>) -> BoxedStrategy<String> {
    let encoded = |text: &str| {
        text.bytes().fold(String::new(), |mut encoded, byte| {
            let _ = write!(encoded, "%{byte:02X}");
            encoded
        })
    };
    value
        .prop_map(move |value| match value {
            Value::String(text) if text.is_empty() => "x".to_owned(),
            Value::String(text) => encoded(&text),
            other => encoded(&other.to_string()),
        })
        .boxed()
}

/// Mostly this; now and then anything.
fn usually(value: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    prop_oneof![9 => value, 1 => anything()].boxed()
}

fn anything() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map("[a-z_]{1,8}", inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
    .boxed()
}

/// Values of a schema.
fn value(document: &Value, schema: &Value, depth: u32) -> BoxedStrategy<Value> {
    if let Some(place) = schema["$ref"].as_str() {
        return value(document, document.pointer(place.trim_start_matches('#')).unwrap(), depth);
    }
    if let Some(words) = schema["enum"].as_array() {
        return prop::sample::select(words.clone()).boxed();
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let parts: Vec<_> = parts.iter().map(|part| value(document, part, depth)).collect();
        return parts.prop_map(|parts| Value::Object(parts.into_iter().flat_map(members).collect())).boxed();
    }
    for word in ["oneOf", "anyOf"] {
        if let Some(choices) = schema[word].as_array() {
            let choices: Vec<_> = choices.iter().map(|choice| value(document, choice, depth)).collect();
            return prop::strategy::Union::new(choices).boxed();
        }
    }
    match &schema["type"] {
        Value::Array(types) => {
            let of_type = |name: &Value| {
                let mut one = schema.clone();
                one["type"] = name.clone();
                value(document, &one, depth)
            };
            prop::strategy::Union::new(types.iter().map(of_type).collect::<Vec<_>>()).boxed()
        }
        Value::String(name) => of_type(document, schema, name, depth),
        _ => anything(),
    }
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn of_type(document: &Value, schema: &Value, name: &str, depth: u32) -> BoxedStrategy<Value> {
    match name {
        "null" => Just(Value::Null).boxed(),
        "boolean" => any::<bool>().prop_map(Value::from).boxed(),
        "integer" => integer(schema),
        "number" => prop_oneof![(-10.0..1e6_f64), any::<f64>()].prop_map(|number| json!(number)).boxed(),
        "string" => text(schema),
        "array" => {
            let item = value(document, &schema["items"], depth + 1);
            prop::collection::vec(usually(item), 0..4).prop_map(Value::from).boxed()
        }
        _ => object(document, schema, depth),
    }
}

fn integer(schema: &Value) -> BoxedStrategy<Value> {
    let least = schema["minimum"].as_i64().unwrap_or(-3);
    let most = schema["maximum"].as_i64().unwrap_or(100_000).max(least);
    let extreme = prop::sample::select(vec![i64::MIN, -1, 0, i64::from(i32::MAX), i64::MAX]);
    prop_oneof![8 => least..=most, 1 => extreme].prop_map(Value::from).boxed()
}

fn text(schema: &Value) -> BoxedStrategy<Value> {
    let usual = match schema["format"].as_str() {
        Some("uuid") => any::<u128>().prop_map(|id| uuid::Uuid::from_u128(id).to_string()).boxed(),
        Some("date-time") => (1970..2100_i32, 1..13_u32, 1..29_u32, 0..24_u32)
            .prop_map(|(year, month, day, hour)| format!("{year}-{month:02}-{day:02}T{hour:02}:30:00Z"))
            .boxed(),
        Some("date") => {
            (1970..2100_i32, 1..14_u32, 1..32_u32).prop_map(|(y, m, d)| format!("{y}-{m:02}-{d:02}")).boxed()
        }
        _ => prop_oneof![
            Just("+14155550123".to_owned()),
            Just("Europe/Berlin".to_owned()),
            Just("09:00".to_owned()),
            "[a-z_]{1,12}",
            ".{0,60}",
        ]
        .boxed(),
    };
    let example = schema["example"].as_str().map(str::to_owned);
    let usual = match example {
        Some(example) => prop_oneof![1 => Just(example), 2 => usual].boxed(),
        None => usual,
    };
    prop_oneof![12 => usual, 1 => ".{0,300}", 1 => Just("\u{0}".to_owned())].prop_map(Value::from).boxed()
}

fn object(document: &Value, schema: &Value, depth: u32) -> BoxedStrategy<Value> {
    let Some(properties) = schema["properties"].as_object().filter(|_| depth < DEPTH) else {
        return prop::collection::hash_map("[a-z_]{1,8}", "[a-z0-9 ]{0,12}".prop_map(Value::from), 0..3)
            .prop_map(|members| Value::Object(members.into_iter().collect()))
            .boxed();
    };
    let required =
        |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|one| one == name));
    let members: Vec<_> = properties
        .iter()
        .map(|(name, member)| {
            let often = if required(name) { 0.97 } else { 0.4 };
            let name = name.clone();
            proptest::option::weighted(often, value(document, member, depth + 1))
                .prop_map(move |value| value.map(|value| (name.clone(), value)))
        })
        .collect();
    members.prop_map(|members| Value::Object(members.into_iter().flatten().collect())).boxed()
}
