//! Calls that menu systems tell of, and how each of them spells things.

use axum::http::{Method, StatusCode};
use futures_util::future::join_all;
use proptest::prelude::{Just, Strategy as _};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::surface::{Answer, KEY, Server};

const WEBHOOK: &str = "/api/ivr/front-office/webhook";
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// A provider that was made, and its secret.
pub(crate) struct Provider {
    pub(crate) id: String,
    pub(crate) secret: String,
}

fn mapping() -> Value {
    json!({
        "call_id": "/data/call/id", "call_sid": "data.sid", "from_number": "data.caller", "to_number": "data.called",
        "status": "data.state", "started_at": "data.start", "ended_at": "data.end", "duration": "data.seconds",
        "digits": "data.digits", "recording_url": "data.recording", "updated_at": "sent_at",
    })
}

impl Server {
    pub(crate) async fn provider(&self, name: &str, mapping: Value) -> Provider {
        let answer = self.post("/api/ivr-providers", json!({"name": name, "mapping": mapping})).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        made(&answer)
    }

    pub(crate) async fn told(&self, secret: &str, body: &Value) -> Answer {
        let headers = [("content-type", JSON), ("x-webhook-secret", secret)];
        self.raw(Method::POST, WEBHOOK, &headers, body.to_string()).await
    }

    /// The one call there is, as the API shows it.
    pub(crate) async fn ivr_call(&self) -> Value {
        let calls = self.get("/api/ivr-calls").await.json();
        assert_eq!(calls["pagination"]["total"], 1);
        calls["data"][0].clone()
    }
}

fn made(answer: &Answer) -> Provider {
    let data = answer.json()["data"].clone();
    let text = |member: &str| data[member].as_str().unwrap().to_owned();
    Provider { id: text("id"), secret: text("secret") }
}

/// A message that was sent so many seconds after nine.
fn message(state: &str, second: u32) -> Value {
    json!({
        "sent_at": format!("2024-10-30T09:00:{second:02}Z"),
        "data": {"call": {"id": 7}, "sid": "CA1", "caller": "+14155550123", "called": "+14155550199", "state": state},
    })
}

#[tokio::test]
async fn what_a_provider_tells_becomes_a_record_in_our_words_and_is_kept_whole() {
    let server = Server::new().await;
    let lead = server.post("/api/leads", json!({"phone": "+14155550123"})).await.json()["data"]["id"].clone();
    let provider = server.provider("front-office", mapping()).await;
    let mut body = message("completed", 59);
    for (member, value) in [
        ("start", json!("2024-10-30 09:00:00")),
        ("end", json!(1_730_278_850)),
        ("seconds", json!("00:00:50")),
        ("digits", json!([2, 1])),
        ("recording", json!("https://example.com/7.wav")),
        ("unmapped", json!({"a": [1, 2]})),
    ] {
        body["data"][member] = value;
    }
    let taken = server.told(&provider.secret, &body).await.data();
    assert_eq!((&taken["is_newest"], &taken["problems"]), (&json!(true), &json!([])));
    let call = server.ivr_call().await;
    for (member, value) in [
        ("id", taken["id"].clone()),
        ("provider_id", json!(provider.id)),
        ("provider_call_id", json!("7")),
        ("call_sid", json!("CA1")),
        ("from_number", json!("+14155550123")),
        ("to_number", json!("+14155550199")),
        ("status", json!("completed")),
        ("started_at", json!("2024-10-30T09:00:00Z")),
        ("ended_at", json!("2024-10-30T09:00:50Z")),
        ("duration", json!(50)),
        ("digits", json!("2,1")),
        ("recording_url", json!("https://example.com/7.wav")),
        ("lead_id", lead.clone()),
        ("occurred_at", json!("2024-10-30T09:00:59Z")),
        ("unreadable", json!([])),
        ("payload", body),
        ("received_at", json!("2024-10-30T09:00:00Z")),
    ] {
        assert_eq!(call[member], value, "{member}");
    }
    let path = format!("/api/ivr-calls/{}", taken["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await.data(), call);
    for (query, total) in [
        (format!("provider_id={}", provider.id), 1),
        (format!("lead_id={lead}"), 1),
        ("call_sid=CA1&status=completed".to_owned(), 1),
        ("number=%2B14155550199".to_owned(), 1),
        ("from=2024-10-30T09:00:00Z&to=2024-10-30T09:00:01Z".to_owned(), 1),
        ("call_sid=CA2".to_owned(), 0),
        ("status=busy".to_owned(), 0),
        ("number=%2B1".to_owned(), 0),
        ("to=2024-10-30T09:00:00Z".to_owned(), 0),
        (format!("provider_id={}", uuid::Uuid::nil()), 0),
    ] {
        let listed = server.get(&format!("/api/ivr-calls?{query}")).await.json();
        assert_eq!(listed["pagination"]["total"], total, "{query}");
    }
    let nobody = format!("/api/ivr-calls/{}", uuid::Uuid::nil());
    server.get(&nobody).await.is_error(StatusCode::NOT_FOUND, "not_found");
}

#[tokio::test]
async fn a_form_is_read_by_the_names_of_its_fields() {
    let server = Server::new().await;
    let mapping =
        json!({"call_id": "CallUUID", "from_number": "From", "digits": "Digits", "started_at": "Start.Time"});
    let provider = server.provider("front-office", mapping).await;
    let headers = [("content-type", FORM), ("x-webhook-secret", provider.secret.as_str())];
    let body = "CallUUID=a-1&From=14155550123&Digits=1&Digits=2&Start.Time=1730278800";
    server.raw(Method::POST, WEBHOOK, &headers, body).await.data();
    let call = server.ivr_call().await;
    assert_eq!((&call["provider_call_id"], &call["digits"]), (&json!("a-1"), &json!("1,2")));
    assert_eq!(call["started_at"], "2024-10-30T09:00:00Z");
    let payload =
        json!({"CallUUID": "a-1", "From": "14155550123", "Digits": ["1", "2"], "Start.Time": "1730278800"});
    assert_eq!(call["payload"], payload);
    // Anything else is neither.
    let other = [("content-type", "text/plain"), ("x-webhook-secret", provider.secret.as_str())];
    let answer = server.raw(Method::POST, WEBHOOK, &other, body).await;
    answer.is_error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");
}

#[tokio::test]
async fn a_call_is_one_row_whose_status_is_that_of_the_newest_message_in_whatever_order_they_come() {
    let all = vec![
        message("ringing", 1),
        message("answered", 5),
        message("answered", 5),
        message("menu", 9),
        message("completed", 20),
        // Without a moment it is older than all that have one.
        json!({"data": {"call": {"id": 7}, "state": "queued"}}),
    ];
    let mut runner = TestRunner::deterministic();
    let shuffles = Just(all).prop_shuffle();
    let server = Server::new().await;
    let provider = server.provider("front-office", mapping()).await;
    for _ in 0..40 {
        for body in shuffles.new_tree(&mut runner).unwrap().current() {
            server.told(&provider.secret, &body).await.data();
        }
        let call = server.ivr_call().await;
        assert_eq!((&call["status"], &call["payload"]), (&json!("completed"), &message("completed", 20)));
        server.execute("delete from ivr_calls").await;
    }
    // All at once, many times.
    let bodies: Vec<_> = (0..20).map(|second| message("x", second % 10)).collect();
    join_all(bodies.iter().map(|body| server.told(&provider.secret, body))).await;
    assert_eq!(server.ivr_call().await["payload"], message("x", 9));
}

#[tokio::test]
async fn of_two_messages_of_one_moment_the_one_that_tells_of_the_end_stands_then_the_later() {
    let server = Server::new().await;
    let mapping =
        json!({"call_id": "id", "status": "s", "started_at": "start", "ended_at": "end", "updated_at": "at"});
    let provider = server.provider("front-office", mapping).await;
    let at = 1_730_278_800;
    let tell = async |body: Value| server.told(&provider.secret, &body).await.data()["is_newest"].clone();
    assert_eq!(tell(json!({"id": 1, "s": "a", "at": at})).await, true);
    assert_eq!(tell(json!({"id": 1, "s": "b", "at": at})).await, true);
    assert_eq!(tell(json!({"id": 1, "s": "over", "at": at, "end": at})).await, true);
    assert_eq!(tell(json!({"id": 1, "s": "late", "at": at})).await, false);
    assert_eq!(server.ivr_call().await["status"], "over");
}

#[tokio::test]
async fn without_an_id_of_the_call_all_that_is_wrong_is_told_and_with_one_what_cannot_be_read_is_null() {
    let server = Server::new().await;
    let provider = server.provider("front-office", mapping()).await;
    let mut body = message("completed", 1);
    body["data"]["start"] = json!("soon");
    body["data"]["seconds"] = json!(-1);
    let told = server.told(&provider.secret, &body).await.data();
    let fields = |problems: &Value| -> Vec<String> {
        let problems = problems.as_array().unwrap().iter();
        problems.map(|problem| problem["field"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(fields(&told["problems"]), ["started_at", "duration"]);
    let call = server.ivr_call().await;
    assert_eq!((&call["started_at"], &call["duration"]), (&Value::Null, &Value::Null));
    assert_eq!((&call["unreadable"], &call["payload"]), (&json!(["started_at", "duration"]), &body));

    body["data"]["call"] = json!({});
    let answer = server.told(&provider.secret, &body).await;
    let error = answer.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    assert_eq!(fields(&error["details"]), ["call_id", "started_at", "duration"]);
    assert!(!answer.text.contains("soon"), "{}", answer.text);
    assert_eq!(server.count("ivr_calls").await, 1);
    let headers = [("content-type", JSON), ("x-webhook-secret", provider.secret.as_str())];
    for broken in ["", "{", "nul"] {
        let answer = server.raw(Method::POST, WEBHOOK, &headers, broken).await;
        answer.is_error(StatusCode::BAD_REQUEST, "invalid_json");
    }
}

#[tokio::test]
async fn whoever_does_not_show_the_secret_of_the_provider_changes_nothing_and_learns_nothing() {
    let server = Server::new().await;
    let provider = server.provider("front-office", mapping()).await;
    let other = server.provider("back-office", mapping()).await;
    let body = message("completed", 1).to_string();
    let near = format!("{}x", provider.secret);
    let mut answers = Vec::new();
    for (path, secret) in [
        (WEBHOOK, None),
        (WEBHOOK, Some("")),
        (WEBHOOK, Some(KEY)),
        (WEBHOOK, Some(near.as_str())),
        (WEBHOOK, Some(other.secret.as_str())),
        ("/api/ivr/nobody/webhook", Some(provider.secret.as_str())),
    ] {
        let secret = secret.map(|secret| ("x-webhook-secret", secret));
        let headers: Vec<_> = secret.into_iter().chain([("content-type", JSON)]).collect();
        let answer = server.raw(Method::POST, path, &headers, body.clone()).await;
        answer.is_error(StatusCode::UNAUTHORIZED, "invalid_secret");
        answers.push(answer.text);
    }
    // Whether there is such a name cannot be told from the answer.
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(server.count("ivr_calls").await, 0);
    // Nothing but the digest is kept of a secret.
    let stored: Value = server.scalar("select jsonb_agg(ivr_providers) from ivr_providers").await;
    assert!(!stored.to_string().contains(&provider.secret));
    let listed = server.get("/api/ivr-providers").await.text;
    assert!(!listed.contains("secret") && !listed.contains(&provider.secret), "{listed}");
}

#[tokio::test]
async fn a_secret_that_was_replaced_is_refused_and_so_is_a_provider_that_is_not_active() {
    let server = Server::new().await;
    let provider = server.provider("front-office", mapping()).await;
    let path = format!("/api/ivr-providers/{}", provider.id);
    let rotated = server.send(Method::POST, &format!("{path}/rotate-secret"), None).await;
    rotated.data();
    let new = made(&rotated);
    assert_ne!(new.secret, provider.secret);
    let body = message("completed", 1);
    server.told(&provider.secret, &body).await.is_error(StatusCode::UNAUTHORIZED, "invalid_secret");
    server.told(&new.secret, &body).await.data();
    assert_eq!(server.patch(&path, json!({"active": false})).await.data()["active"], false);
    server.told(&new.secret, &body).await.is_error(StatusCode::FORBIDDEN, "provider_inactive");
    server.patch(&path, json!({"active": true})).await.data();
    server.told(&new.secret, &body).await.data();
}

#[tokio::test]
async fn providers_of_two_organisations_may_share_a_name_and_each_sees_its_own_calls() {
    let server = Server::new().await;
    server.post("/api/organisations", json!({"slug": "other", "name": "Other"})).await;
    let as_other = |method: Method, path: &'static str, body: Value| {
        let headers = [("x-api-key", KEY), ("x-organization", "other"), ("content-type", JSON)];
        let server = &server;
        async move { server.raw(method, path, &headers, body.to_string()).await }
    };
    let ours = server.provider("front-office", mapping()).await;
    let body = json!({"name": "front-office", "mapping": mapping()});
    let theirs = made(&as_other(Method::POST, "/api/ivr-providers", body).await);
    assert_ne!(ours.id, theirs.id);
    server.told(&ours.secret, &message("ours", 1)).await.data();
    server.told(&theirs.secret, &message("theirs", 1)).await.data();
    assert_eq!(server.ivr_call().await["status"], "ours");
    let listed = as_other(Method::GET, "/api/ivr-calls", json!(null)).await.json();
    assert_eq!((&listed["pagination"]["total"], &listed["data"][0]["status"]), (&json!(1), &json!("theirs")));
    let path = format!("/api/ivr-providers/{}", theirs.id);
    server.get(&path).await.is_error(StatusCode::NOT_FOUND, "not_found");
    server.patch(&path, json!({"active": false})).await.is_error(StatusCode::NOT_FOUND, "not_found");
    server.delete(&path).await.is_error(StatusCode::NOT_FOUND, "not_found");
}

#[tokio::test]
async fn providers_are_made_changed_and_removed_while_they_have_told_of_no_call() {
    let server = Server::new().await;
    let new = json!({"name": "front-office", "mapping": {"call_id": "id"}, "time_zone": "asia/kolkata"});
    let answer = server.post("/api/ivr-providers", new.clone()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    let data = answer.json()["data"].clone();
    assert_eq!((&data["webhook"], &data["time_zone"]), (&json!(WEBHOOK), &json!("Asia/Kolkata")));
    let provider = made(&answer);
    let path = format!("/api/ivr-providers/{}", provider.id);
    assert_eq!(answer.headers["location"], path.as_str());
    server.post("/api/ivr-providers", new).await.is_error(StatusCode::CONFLICT, "provider_exists");
    let read = server.get(&path).await.data();
    assert_eq!((&read["name"], &read["mapping"]), (&json!("front-office"), &json!({"call_id": "id"})));
    // Its times are in its zone where they do not say.
    server.patch(&path, json!({"mapping": {"call_id": "id", "started_at": "at"}})).await.data();
    server.told(&provider.secret, &json!({"id": 1, "at": "2024-10-30 14:30:00"})).await.data();
    assert_eq!(server.ivr_call().await["started_at"], "2024-10-30T09:00:00Z");
    server.delete(&path).await.is_error(StatusCode::CONFLICT, "in_use");
    server.execute("delete from ivr_calls").await;
    assert_eq!(server.delete(&path).await.status, StatusCode::NO_CONTENT);
    server.get(&path).await.is_error(StatusCode::NOT_FOUND, "not_found");

    let bad = json!({"name": "Front Office", "mapping": {"call_id": 7, "caller": "x"}, "time_zone": "Mars"});
    let error = server
        .post("/api/ivr-providers", bad)
        .await
        .is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    let fields: Vec<_> = error["details"].as_array().unwrap().iter().map(|it| it["field"].clone()).collect();
    assert_eq!(fields, ["name", "time_zone", "mapping.call_id", "mapping"]);
    let deeds: Vec<String> = serde_json::from_value(
        server
            .scalar("select jsonb_agg(distinct action) from audit_log where action like 'ivr_provider.%'")
            .await,
    )
    .unwrap();
    assert_eq!(deeds, ["ivr_provider.changed", "ivr_provider.created", "ivr_provider.deleted"]);
}

#[tokio::test]
async fn a_mapping_is_tried_on_a_message_and_nothing_is_kept() {
    let server = Server::new().await;
    let provider = server.provider("front-office", mapping()).await;
    let path = format!("/api/ivr-providers/{}/try", provider.id);
    let mut payload = message("completed", 1);
    payload["data"]["seconds"] = json!("many");
    let tried = server.post(&path, json!({ "payload": payload })).await.data();
    assert_eq!(
        (&tried["call_id"], &tried["status"], &tried["duration"]),
        (&json!("7"), &json!("completed"), &Value::Null)
    );
    assert_eq!(tried["problems"][0]["field"], "duration");
    // One that is not the provider's yet.
    let body = json!({
        "payload": {"id": "x", "at": "2024-10-30 14:30:00"}, "mapping": {"call_id": "id", "started_at": "at"},
        "time_zone": "Asia/Kolkata",
    });
    let tried = server.post(&path, body).await.data();
    assert_eq!((&tried["call_id"], &tried["started_at"]), (&json!("x"), &json!("2024-10-30T09:00:00Z")));
    server
        .post(&path, json!({"payload": {}}))
        .await
        .is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
    server
        .post(&path, json!({"payload": {}, "mapping": {}}))
        .await
        .is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    assert_eq!(server.count("ivr_calls").await, 0);
    assert_eq!(server.get(&format!("/api/ivr-providers/{}", provider.id)).await.data()["mapping"], mapping());
}

#[tokio::test]
async fn whatever_a_message_holds_the_answer_is_no_error_of_ours() {
    let server = Server::new().await;
    let provider = server.provider("front-office", mapping()).await;
    let strange = [
        json!(null),
        json!(true),
        json!(-1),
        json!(9_223_372_036_854_775_807_i64),
        json!(1e308),
        json!(""),
        json!("\u{0}"),
        json!("𝄞\u{202e}"),
        json!("-009999-01-01T00:00:00Z"),
        json!("9999-12-30T22:00:00.999999999Z"),
        json!("x".repeat(60_000)),
        json!([]),
        json!([null]),
        json!({"x": []}),
        json!("NaN"),
        json!("99:99:99"),
    ];
    let members =
        ["sid", "caller", "called", "state", "start", "end", "seconds", "digits", "recording", "call/id"];
    for member in members {
        for value in &strange {
            let mut body = message("completed", 1);
            for name in ["start", "end", "seconds", "digits", "recording"] {
                body["data"][name] = json!("1");
            }
            *body.pointer_mut(&format!("/data/{member}")).unwrap() = value.clone();
            let answer = server.told(&provider.secret, &body).await;
            let is_fine =
                answer.status == StatusCode::OK || answer.status == StatusCode::UNPROCESSABLE_ENTITY;
            assert!(is_fine, "{member} = {:.40}: {} {}", value.to_string(), answer.status, answer.text);
        }
    }
    assert_eq!(server.get("/api/ivr-calls?limit=200").await.status, StatusCode::OK);
}
