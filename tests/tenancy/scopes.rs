//! What each key may do, on every route of the document.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use secrecy::SecretString;
use serde_json::Value;
use voicebridge::keys::{KeySecret, Scope};

use crate::operations::{Operation, document, operations};
use crate::surface::{KEY, Server};

/// What is never there.
const NOWHERE: &str = "99999999-9999-4999-8999-999999999999";

/// Who may ask this, in the document.
fn needs(operation: &Operation) -> &str {
    operation.about["x-needs"].as_str().unwrap_or_else(|| panic!("{} says who may ask it", operation.name()))
}

/// The path, of something that is not there.
fn nowhere(operation: &Operation) -> String {
    let mut path = operation.path.clone();
    for parameter in operation.parameters("path") {
        let name = format!("{{{}}}", parameter["name"].as_str().unwrap());
        let value = match parameter["schema"]["format"].as_str() {
            Some("int64" | "int32") => "999999999",
            _ => NOWHERE,
        };
        path = path.replace(&name, value);
    }
    path
}

async fn status(server: &Server, key: Option<&str>, operation: &Operation) -> (StatusCode, Value) {
    let (media_type, body) = operation.sent();
    let path = nowhere(operation);
    let answer = server.asked_by(key, operation.method.clone(), &path, &media_type, body).await;
    let code = serde_json::from_str::<Value>(&answer.text).map(|body| body["error"]["code"].clone());
    (answer.status, code.unwrap_or_default())
}

#[test]
fn every_route_says_who_may_ask_it_and_how_that_is_shown() {
    let mut of_each = BTreeMap::<String, usize>::new();
    for operation in operations(&document()) {
        let needs = needs(&operation);
        *of_each.entry(needs.to_owned()).or_default() += 1;
        let keyed = Scope::parse(needs).is_some() || needs == "administrator";
        assert!(keyed || ["signature", "nothing"].contains(&needs), "{}: {needs}", operation.name());
        let shown = operation.about["security"].to_string();
        assert_eq!(shown.contains("api_key"), keyed, "{}: {shown}", operation.name());
        assert_eq!(
            needs == "signature",
            !keyed && !operation.about["security"].is_null(),
            "{}",
            operation.name()
        );
    }
    let names: Vec<_> = of_each.keys().map(String::as_str).collect();
    assert_eq!(names, ["admin", "administrator", "nothing", "operate", "read", "review", "signature"]);
}

#[tokio::test]
async fn each_scope_may_do_exactly_what_it_is_for() {
    let server = Server::new().await;
    let mut wrong = Vec::new();
    for scope in Scope::ALL {
        let key = server.key_of("default", &[scope.as_str()]).await;
        for operation in operations(&document()) {
            let needs = needs(&operation);
            let may = match (Scope::parse(needs), needs) {
                (Some(needed), _) => scope.includes(needed),
                (None, "administrator") => false,
                _ => continue,
            };
            let (status, code) = status(&server, Some(&key), &operation).await;
            let refused = status == StatusCode::FORBIDDEN && code == "missing_scope";
            if refused == may || status == StatusCode::UNAUTHORIZED || status.is_server_error() {
                wrong.push(format!("{scope}: {} needs {needs}: {status} {code}", operation.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn nobody_and_a_key_that_does_not_hold_may_do_nothing() {
    let server =
        Server::with(|settings| settings.twilio_auth_tokens = vec![SecretString::from("12345")]).await;
    let unknown = KeySecret::generate();
    let mut wrong = Vec::new();
    for key in [None, Some(""), Some("0123456789abcdeg"), Some(unknown.expose()), Some("vb_abcdefghijkl")] {
        for operation in operations(&document()) {
            let (status, code) = status(&server, key, &operation).await;
            let right = match needs(&operation) {
                "nothing" => status.is_success(),
                "signature" => matches!(status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED),
                // Of so many guesses, those that come last are not even looked up.
                _ if status == StatusCode::TOO_MANY_REQUESTS => key == Some(unknown.expose()),
                _ => status == StatusCode::UNAUTHORIZED && code == "unauthorized",
            };
            if !right {
                wrong.push(format!("{key:?}: {}: {status} {code}", operation.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_administrator_may_do_everything_of_the_organisation_that_he_names() {
    let server = Server::new().await;
    for operation in operations(&document()) {
        if ["signature", "nothing"].contains(&needs(&operation)) {
            continue;
        }
        let (status, code) = status(&server, Some(KEY), &operation).await;
        assert!(
            status != StatusCode::FORBIDDEN && status != StatusCode::UNAUTHORIZED,
            "{}: {status} {code}",
            operation.name()
        );
    }
    let ask = async |organization: &str| {
        let headers = [("x-api-key", KEY), ("x-organization", organization)];
        server.raw(Method::GET, "/api/leads", &headers, "").await
    };
    ask("nowhere").await.is_error(StatusCode::BAD_REQUEST, "unknown_organization");
    ask("default").await.data();
}

#[tokio::test]
async fn a_key_names_no_other_organisation_than_its_own() {
    let server = Server::new().await;
    server.execute("insert into organisations (slug, name) values ('other', 'Other')").await;
    let key = server.key_of("other", &["admin"]).await;
    for (organization, right) in [("other", true), ("default", false), ("nowhere", false)] {
        let headers = [("x-api-key", key.as_str()), ("x-organization", organization)];
        let answer = server.raw(Method::GET, "/api/leads", &headers, "").await;
        if right {
            answer.data();
        } else {
            answer.is_error(StatusCode::FORBIDDEN, "missing_scope");
        }
    }
}
