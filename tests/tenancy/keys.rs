//! The life of a key: made, limited, rotated, revoked, over.

use axum::http::{Method, StatusCode};
use futures_util::future::join_all;
use serde_json::{Value, json};
use voicebridge::keys::KeySecret;

use crate::surface::{Answer, Server};

impl Server {
    async fn leads_by(&self, key: &str) -> Answer {
        self.asked_by(Some(key), Method::GET, "/api/leads", "", "").await
    }

    async fn made(&self, body: Value) -> (String, String) {
        let answer = self.post("/api/api-keys", body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        let data = answer.json()["data"].clone();
        assert_eq!(answer.headers["location"], format!("/api/api-keys/{}", data["id"].as_str().unwrap()));
        (data["id"].as_str().unwrap().to_owned(), data["key"].as_str().unwrap().to_owned())
    }
}

fn path(id: &str) -> String {
    format!("/api/api-keys/{id}")
}

#[tokio::test]
async fn the_secret_of_a_key_is_shown_once_and_kept_nowhere() {
    let server = Server::new().await;
    let (id, key) =
        server.made(json!({"name": "crm import", "scopes": ["operate", "read", "operate"]})).await;
    server.leads_by(&key).await.data();
    let shown = server.get(&path(&id)).await;
    let data = shown.data();
    assert_eq!(data["prefix"], key[..15]);
    assert_eq!(data["scopes"], json!(["read", "operate"]));
    assert_eq!((&data["requests_per_minute"], &data["created_by"]), (&json!(600), &json!("administrator")));
    assert!(data["last_used_at"].is_string(), "it was used");
    let listed = server.get("/api/api-keys").await;
    let everything: String = server
        .scalar("select string_agg(t::text, ' ') from (select k::text || s::text from api_keys k, api_key_secrets s) as t")
        .await;
    let secret = &key[16..];
    for text in [&shown.text, &listed.text, &everything] {
        assert!(!text.contains(secret) && text.contains(&key[..15]), "{text}");
    }
}

#[tokio::test]
async fn what_a_key_cannot_be_is_refused_with_all_that_is_wrong() {
    let server = Server::new().await;
    let body = json!({"name": "", "scopes": [], "requests_per_minute": 0});
    let error =
        server.post("/api/api-keys", body).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    let fields: Vec<_> =
        error["details"].as_array().unwrap().iter().map(|problem| problem["field"].clone()).collect();
    assert_eq!(fields, ["name", "scopes", "requests_per_minute"]);
    server
        .post("/api/api-keys", json!({"name": "x", "scopes": ["everything"]}))
        .await
        .is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    assert_eq!(server.count("api_keys").await, 0);
    let nowhere = path("99999999-9999-4999-8999-999999999999");
    server.get(&nowhere).await.is_error(StatusCode::NOT_FOUND, "not_found");
    server.delete(&nowhere).await.is_error(StatusCode::NOT_FOUND, "not_found");
    server.post(&format!("{nowhere}/rotate"), json!({})).await.is_error(StatusCode::NOT_FOUND, "not_found");
}

#[tokio::test]
async fn a_key_that_is_over_before_it_begins_and_a_parameter_that_a_route_does_not_have_are_refused() {
    let server = Server::new().await;
    let over = json!({"name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"});
    server.post("/api/api-keys", over).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    assert_eq!(server.count("api_keys").await, 0);
    // Misspelled, it would have found everything.
    for place in
        ["/api/audit-log?callsid=CA1", "/api/leads?limit=1&bogus=1", "/api/api-keys/x/rotate?grace_s=1"]
    {
        let method = if place.contains("rotate") { Method::POST } else { Method::GET };
        let answer = server.keyed(method, place, "application/json", "{}").await;
        answer.is_error(StatusCode::BAD_REQUEST, "invalid_query");
    }
    server.get("/api/audit-log?call_sid=CA1&limit=1").await.data();
}

#[tokio::test]
async fn a_key_that_is_rotated_has_two_secrets_for_as_long_as_was_asked_for() {
    let server = Server::new().await;
    let (id, first) = server.made(json!({"name": "desk", "scopes": ["read"]})).await;
    let rotate =
        async |grace: i32| server.post(&format!("{}/rotate", path(&id)), json!({"grace_s": grace})).await;
    let second = rotate(3600).await.data()["key"].as_str().unwrap().to_owned();
    for key in [&first, &second] {
        server.leads_by(key).await.data();
    }
    server.execute("update api_key_secrets set expires_at = now() - interval '1 second' where expires_at is not null").await;
    server.leads_by(&first).await.is_error(StatusCode::UNAUTHORIZED, "unauthorized");
    server.leads_by(&second).await.data();
    let third = rotate(0).await.data()["key"].as_str().unwrap().to_owned();
    for key in [&first, &second] {
        server.leads_by(key).await.is_error(StatusCode::UNAUTHORIZED, "unauthorized");
    }
    server.leads_by(&third).await.data();
    assert_eq!(server.get(&path(&id)).await.data()["prefix"], third[..15]);
    server
        .post(&format!("{}/rotate", path(&id)), json!({"grace_s": 604_801}))
        .await
        .is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
}

#[tokio::test]
async fn a_key_that_was_revoked_or_is_over_holds_no_more_from_the_next_request_on() {
    let server = Server::new().await;
    let (id, key) = server.made(json!({"name": "desk", "scopes": ["read"]})).await;
    let later = server.patch(&path(&id), json!({"expires_at": "2000-01-01T00:00:00Z"})).await;
    assert_eq!(later.data()["expires_at"], "2000-01-01T00:00:00Z");
    server.leads_by(&key).await.is_error(StatusCode::UNAUTHORIZED, "unauthorized");
    server.patch(&path(&id), json!({"expires_at": null})).await.data();
    server.leads_by(&key).await.data();
    let revoked = server.delete(&path(&id)).await.data()["revoked_at"].clone();
    assert!(revoked.is_string());
    server.leads_by(&key).await.is_error(StatusCode::UNAUTHORIZED, "unauthorized");
    assert_eq!(server.delete(&path(&id)).await.data()["revoked_at"], revoked, "twice is as good as once");
    server.patch(&path(&id), json!({"name": "x"})).await.is_error(StatusCode::CONFLICT, "key_revoked");
    server
        .post(&format!("{}/rotate", path(&id)), json!({}))
        .await
        .is_error(StatusCode::CONFLICT, "key_revoked");
}

#[tokio::test]
async fn scopes_that_are_changed_hold_from_the_next_request_on() {
    let server = Server::new().await;
    let (id, key) = server.made(json!({"name": "desk", "scopes": ["read"]})).await;
    let add = async || {
        let body = json!({"phone": "+14155550123"}).to_string();
        server.asked_by(Some(&key), Method::POST, "/api/leads", "application/json", body).await
    };
    add().await.is_error(StatusCode::FORBIDDEN, "missing_scope");
    assert_eq!(server.count("leads").await, 0);
    server.patch(&path(&id), json!({"scopes": ["operate"]})).await.data();
    assert_eq!(add().await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_key_that_asks_too_often_is_told_when_to_come_back_and_others_are_not_held_up() {
    let server = Server::new().await;
    let (_, slow) = server.made(json!({"name": "slow", "scopes": ["read"], "requests_per_minute": 2})).await;
    let (_, other) = server.made(json!({"name": "other", "scopes": ["read"]})).await;
    server.leads_by(&slow).await.data();
    server.leads_by(&slow).await.data();
    let answer = server.leads_by(&slow).await;
    let error = answer.is_error(StatusCode::TOO_MANY_REQUESTS, "rate_limited");
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=31).contains(&wait), "{wait}");
    assert_eq!(error["details"]["retry_after_s"], wait);
    server.leads_by(&other).await.data();
}

#[tokio::test]
async fn a_key_over_its_limit_and_a_guess_too_many_are_answered_without_the_database() {
    let server = Server::new().await;
    let (_, slow) = server.made(json!({"name": "slow", "scopes": ["read"], "requests_per_minute": 1})).await;
    let (_, other) = server.made(json!({"name": "other", "scopes": ["read"]})).await;
    server.leads_by(&slow).await.data();
    server.leads_by(&other).await.data();
    // All of them at once, and more than are looked up at once.
    let guesses = (0..400).map(|_| async {
        let guess = KeySecret::generate();
        server.leads_by(guess.expose()).await.status
    });
    let answered = join_all(guesses).await;
    let refused = answered.iter().filter(|status| **status == StatusCode::TOO_MANY_REQUESTS).count();
    let looked_up = answered.iter().filter(|status| **status == StatusCode::UNAUTHORIZED).count();
    assert_eq!(refused + looked_up, 400);
    assert!(refused > 0 && looked_up >= 200, "{refused} were refused");
    server.leads_by(&other).await.data();
    server.execute("alter table api_key_secrets rename to away").await;
    server.leads_by(&slow).await.is_error(StatusCode::TOO_MANY_REQUESTS, "rate_limited");
    server.leads_by(&other).await.is_error(StatusCode::INTERNAL_SERVER_ERROR, "internal");
}

#[tokio::test]
async fn a_request_that_is_refused_leaves_nothing() {
    let server = Server::new().await;
    // The row is written before the link fails; both are of one request.
    server.execute("create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$").await;
    server
        .execute("create trigger refuse after insert on audit_log for each row execute function refuse()")
        .await;
    let answer = server.post("/api/api-keys", json!({"name": "x", "scopes": ["read"]})).await;
    answer.is_error(StatusCode::INTERNAL_SERVER_ERROR, "internal");
    assert_eq!(server.count("api_keys").await, 0, "without its record in the audit log nothing is done");
    assert!(!answer.text.contains("vb_"), "{}", answer.text);
}
