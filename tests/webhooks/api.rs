//! Endpoints and deliveries over HTTP.

use axum::http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::receiver::Receiver;
use crate::surface::{Answer, KEY};
use crate::{Town, incoming, text};

const ENDPOINTS: &str = "/api/webhook-endpoints";
const DELIVERIES: &str = "/api/webhook-deliveries";

#[tokio::test]
async fn the_secret_of_an_endpoint_is_shown_when_it_is_made_and_never_again() {
    let town = Town::new().await;
    let body =
        json!({"url": "https://example.com/hooks", "events": ["call.failed", "call.started", "call.failed"]});
    let made = town.http.post(ENDPOINTS, body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let data = made.json()["data"].clone();
    let (secret, id) = (text(&data["secret"]).to_owned(), text(&data["id"]).to_owned());
    assert!(secret.starts_with("whsec_") && secret.len() == 50);
    assert_eq!(data["events"], json!(["call.started", "call.failed"]));
    assert_eq!((&data["enabled"], &data["include_transcript"]), (&json!(true), &json!(false)));
    let path = made.headers["location"].to_str().unwrap().to_owned();
    assert_eq!(path, format!("{ENDPOINTS}/{id}"));

    let change = json!({"description": "Our CRM.", "events": ["lead.linked"], "include_transcript": true});
    let patched = town.http.patch(&path, change).await;
    let data = patched.data();
    assert_eq!((&data["description"], &data["events"]), (&json!("Our CRM."), &json!(["lead.linked"])));
    let rotated = town.http.post(&format!("{path}/rotate-secret"), Value::Null).await;
    let new = text(&rotated.data()["secret"]).to_owned();
    assert_ne!(new, secret);
    assert!(rotated.data()["previous_secret_until"].is_string());
    for answer in [patched, town.http.get(ENDPOINTS).await, town.http.get(&path).await] {
        assert_eq!(answer.status, StatusCode::OK);
        assert!(!answer.text.contains("whsec_"), "{}", answer.text);
    }
    assert_eq!(town.http.delete(&path).await.status, StatusCode::NO_CONTENT);
    town.http.get(&path).await.is_error(StatusCode::NOT_FOUND, "not_found");
    town.http.delete(&path).await.is_error(StatusCode::NOT_FOUND, "not_found");
}

#[tokio::test]
async fn while_a_secret_is_replaced_both_sign_and_a_day_later_only_the_new_one() {
    let (town, receiver) = (Town::new().await, Receiver::new().await);
    let listener = town.listener(&receiver.url, &["call.started"]).await;
    let path = format!("{ENDPOINTS}/{}/rotate-secret", listener.id);
    let new = text(&town.http.post(&path, Value::Null).await.data()["secret"]).to_owned();
    let sending = town.sender();
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    let came = receiver.until(1).await;
    assert_eq!((came[0].signatures_of(&new), came[0].signatures_of(&listener.secret)), (1, 1));
    town.http.execute("update webhook_endpoints set previous_secret_until = now()").await;
    town.record(&town.call("CA2"), Timestamp::now(), &incoming()).await;
    let came = receiver.until(2).await;
    assert_eq!((came[1].signatures_of(&new), came[1].signatures_of(&listener.secret)), (1, 0));
    sending.stop().await;
}

#[tokio::test]
async fn a_ping_goes_the_way_of_events_whatever_is_listened_to() {
    let (town, receiver) = (Town::new().await, Receiver::new().await);
    let listener = town.listener(&receiver.url, &["call.failed"]).await;
    let sending = town.sender();
    let path = format!("{ENDPOINTS}/{}/ping", listener.id);
    for number in 1..=2 {
        let ping = town.http.post(&path, Value::Null).await;
        assert_eq!(ping.status, StatusCode::ACCEPTED, "{}", ping.text);
        let came = receiver.until(number).await;
        let it = &came[number - 1];
        assert_eq!((it.kind(), it.signatures_of(&listener.secret)), ("ping", 1));
        assert_eq!(it.id(), text(&ping.json()["data"]["event_id"]));
        assert_eq!(it.body["data"]["endpoint_id"], json!(listener.id));
    }
    town.until("select bool_and(status = 'delivered') from webhook_deliveries").await;
    sending.stop().await;
    let pings = town.http.get(&format!("{DELIVERIES}?event_type=ping&status=delivered")).await.json();
    assert_eq!(pings["pagination"]["total"], 2);
    town.http.patch(&format!("{ENDPOINTS}/{}", listener.id), json!({"enabled": false})).await.data();
    town.http.post(&path, Value::Null).await.is_error(StatusCode::CONFLICT, "endpoint_disabled");
}

#[tokio::test]
async fn an_endpoint_must_be_on_the_public_internet_and_listen_to_something() {
    let town = Town::new().await;
    let made =
        town.http.post(ENDPOINTS, json!({"url": "https://example.com/", "events": ["call.started"]})).await;
    let path = format!("{ENDPOINTS}/{}", text(&made.json()["data"]["id"]));
    for url in [
        "http://example.com/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://169.254.169.254/",
        "https://[fd00::1]/",
        "https://user:secret@example.com/",
        "nonsense",
        "",
    ] {
        let body = json!({"url": url, "events": ["call.started"]});
        for answer in
            [town.http.post(ENDPOINTS, body).await, town.http.patch(&path, json!({"url": url})).await]
        {
            let error = answer.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
            assert_eq!(error["details"][0]["field"], "url", "{url}");
        }
    }
    for events in [json!([]), json!(["ping"]), json!(["call.started", "call.ended"])] {
        let body = json!({"url": "https://example.com/", "events": events});
        let error = town.http.post(ENDPOINTS, body).await;
        error.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    }
    for _ in 1..20 {
        let body = json!({"url": "https://example.com/", "events": ["call.started"]});
        assert_eq!(town.http.post(ENDPOINTS, body).await.status, StatusCode::CREATED);
    }
    let body = json!({"url": "https://example.com/", "events": ["call.started"]});
    town.http.post(ENDPOINTS, body).await.is_error(StatusCode::CONFLICT, "too_many_endpoints");
}

#[tokio::test]
async fn deliveries_are_found_by_what_they_are() {
    let town = Town::new().await;
    let one = town.listener("https://example.com/1", &["call.started"]).await;
    town.listener("https://example.com/2", &["call.started", "call.completed"]).await;
    town.whole_call("CA1").await;
    town.record(&town.call("CA2"), Timestamp::now(), &incoming()).await;
    let total = async |query: &str| {
        town.http.get(&format!("{DELIVERIES}?{query}")).await.json()["pagination"]["total"].as_u64().unwrap()
    };
    assert_eq!(total("").await, 5);
    assert_eq!(total("status=pending").await, 5);
    assert_eq!(total("status=dead").await, 0);
    assert_eq!(total("event_type=call.completed").await, 1);
    assert_eq!(total("call_sid=CA2").await, 2);
    assert_eq!(total(&format!("endpoint_id={}&call_sid=CA1", one.id)).await, 1);
    let page = town.http.get(&format!("{DELIVERIES}?limit=1")).await.json();
    assert_eq!((page["data"].as_array().unwrap().len(), &page["data"][0]["call_sid"]), (1, &json!("CA2")));
    for bad in ["status=sent", "event_type=call.ended", "endpoint_id=7", "limit=0"] {
        let answer = town.http.get(&format!("{DELIVERIES}?{bad}")).await;
        answer.is_error(StatusCode::BAD_REQUEST, "invalid_query");
    }
}

#[tokio::test]
async fn another_organisation_sees_nothing_and_is_told_nothing() {
    let town = Town::new().await;
    let other: Uuid = town
        .http
        .scalar("insert into organisations (slug, name) values ('other', 'Other') returning id")
        .await;
    town.http
        .execute(&format!(
            "insert into webhook_endpoints (organization_id, url, events, secret)
             values ('{other}', 'https://example.com/', '{{call.started}}', 'whsec_')"
        ))
        .await;
    let listener = town.listener("https://example.com/", &["call.started"]).await;
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    assert_eq!(town.http.count("webhook_deliveries").await, 1, "the other one is told nothing");
    let delivery: Uuid = town.http.scalar("select id from webhook_deliveries").await;

    let asks = async |method: Method, path: &str, body: Value| -> Answer {
        let headers = [("x-api-key", KEY), ("x-organization", "other"), ("content-type", "application/json")];
        town.http.raw(method, path, &headers, body.to_string()).await
    };
    let own = asks(Method::GET, ENDPOINTS, Value::Null).await.json();
    assert_eq!(own["pagination"]["total"], 1);
    assert_ne!(own["data"][0]["id"], json!(listener.id));
    assert_eq!(asks(Method::GET, DELIVERIES, Value::Null).await.json()["pagination"]["total"], 0);
    let endpoint = format!("{ENDPOINTS}/{}", listener.id);
    let delivery = format!("{DELIVERIES}/{delivery}");
    for (method, path) in [
        (Method::GET, endpoint.clone()),
        (Method::PATCH, endpoint.clone()),
        (Method::DELETE, endpoint.clone()),
        (Method::POST, format!("{endpoint}/rotate-secret")),
        (Method::POST, format!("{endpoint}/ping")),
        (Method::POST, format!("{endpoint}/replay-dead")),
        (Method::GET, delivery.clone()),
        (Method::POST, format!("{delivery}/replay")),
    ] {
        let answer = asks(method, &path, json!({})).await;
        answer.is_error(StatusCode::NOT_FOUND, "not_found");
    }
    assert_eq!(town.http.get(&endpoint).await.status, StatusCode::OK, "it is still there");
}

#[tokio::test]
async fn who_links_a_lead_over_the_api_has_that_told_with_the_request_or_not_at_all() {
    let town = Town::new().await;
    town.listener("https://example.com/", &["lead.linked"]).await;
    let mut leads = Vec::new();
    for phone in ["+14155550101", "+14155550102"] {
        let made = town.http.post("/api/leads", json!({"phone": phone})).await;
        leads.push(made.json()["data"]["id"].as_i64().unwrap());
    }
    let link = async |lead: i64| {
        town.http.post(&format!("/api/leads/{lead}/link-call"), json!({"call_sid": "CA1"})).await
    };
    link(leads[1]).await.data();
    // It is taken back with the request that is refused.
    link(leads[0]).await.is_error(StatusCode::CONFLICT, "call_already_linked");
    let told: Vec<Value> = sqlx::query_scalar("select body->'data' from webhook_deliveries")
        .fetch_all(town.store().pool())
        .await
        .unwrap();
    let [told] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&told["lead_id"], &told["call_sid"]), (&json!(leads[1]), &json!("CA1")));
}

#[tokio::test]
async fn an_organisation_that_listens_is_not_deleted() {
    let town = Town::new().await;
    let other: Uuid = town
        .http
        .scalar("insert into organisations (slug, name) values ('other', 'Other') returning id")
        .await;
    town.http
        .execute(&format!(
            "insert into webhook_endpoints (organization_id, url, events, secret)
             values ('{other}', 'https://example.com/', '{{call.started}}', 'whsec_')"
        ))
        .await;
    let answer = town.http.delete(&format!("/api/organisations/{other}")).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.text);
}
