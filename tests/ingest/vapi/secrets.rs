//! Whose reports are taken.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{ASSISTANT, PATH, SID, Server, is_report, report, without_sid};
use crate::surface::{self, Answer, KEY};

#[tokio::test]
async fn whoever_does_not_show_the_secret_changes_nothing() {
    let server = Server::new().await;
    let body = json!({"message": report(0)}).to_string();
    let near = format!("{KEY}0");
    for headers in [
        vec![],
        vec![("x-vapi-secret", "")],
        vec![("x-vapi-secret", &KEY[..KEY.len() - 1])],
        vec![("x-vapi-secret", near.as_str())],
        vec![("authorization", "Bearer wrong")],
        vec![("authorization", "Basic 0123456789abcdef")],
        vec![("x-api-key", KEY)],
        vec![("x-vapi-secret", "wrong"), ("authorization", "Bearer 0123456789abcdef")],
    ] {
        let headers: Vec<_> = headers.into_iter().chain([("content-type", "application/json")]).collect();
        let answer = server.raw(Method::POST, PATH, &headers, body.clone()).await;
        answer.is_error(StatusCode::UNAUTHORIZED, "invalid_secret");
    }
    for table in ["calls", "conversation_transcripts", "call_logs"] {
        assert_eq!(server.count(table).await, 0, "{table}");
    }
    for headers in [("x-vapi-secret", KEY), ("authorization", "Bearer 0123456789abcdef")] {
        let answer = server
            .raw(Method::POST, PATH, &[headers, ("content-type", "application/json")], body.clone())
            .await;
        answer.data();
    }
    assert_eq!(server.count("calls").await, 1);
}

#[tokio::test]
async fn a_secret_is_replaced_without_a_gap_and_without_one_nothing_is_taken() {
    let secrets = ["0123456789abcdef-old", "0123456789abcdef-new"];
    let both = surface::Server::with(|settings| {
        settings.vapi_webhook_secrets = secrets.map(Into::into).to_vec();
    });
    let server = Server::on(both.await).await;
    let body = json!({"message": report(0)}).to_string();
    for secret in secrets {
        let headers = [("x-vapi-secret", secret), ("content-type", "application/json")];
        server.raw(Method::POST, PATH, &headers, body.clone()).await.data();
    }
    let none =
        Server::on(surface::Server::with(|settings| settings.vapi_webhook_secrets.clear()).await).await;
    for secret in ["", KEY] {
        let headers = [("x-vapi-secret", secret), ("content-type", "application/json")];
        let answer = none.raw(Method::POST, PATH, &headers, body.clone()).await;
        answer.is_error(StatusCode::FORBIDDEN, "vapi_not_configured");
    }
    assert_eq!(none.count("calls").await, 0);
}

#[tokio::test]
async fn a_report_of_an_unknown_call_and_assistant_is_taken_and_counted_and_not_kept() {
    let server = Server::new().await;
    for assistant in [json!("asst_2"), Value::Null] {
        let mut message = report(0);
        message["call"]["assistantId"] = assistant;
        assert_eq!(server.outcome(&message).await, "unknown");
    }
    for table in ["calls", "conversation_transcripts", "call_logs"] {
        assert_eq!(server.count(table).await, 0, "{table}");
    }
    let counted = "voicebridge_reports_total{source=\"vapi\",outcome=\"unknown\"} 2";
    assert!(server.metrics.encode().contains(counted), "{}", server.metrics.encode());
}

#[tokio::test]
async fn an_assistant_is_one_agent_of_an_organisation() {
    let server = Server::new().await;
    let agent = json!({"name": "Ada", "instructions": "Be kind.", "vapi_assistant_id": ASSISTANT});
    server.post("/api/agents", agent).await.is_error(StatusCode::CONFLICT, "assistant_taken");
    let made = server
        .post("/api/agents", json!({"name": "Bo", "instructions": "Be kind.", "vapi_assistant_id": "asst_2"}))
        .await;
    let path = format!("/api/agents/{}", made.json()["data"]["id"].as_str().unwrap());
    server
        .patch(&path, json!({"vapi_assistant_id": ASSISTANT}))
        .await
        .is_error(StatusCode::CONFLICT, "assistant_taken");
}

/// A secret of VAPI's that is this organisation's, and the id of its account.
async fn account(server: &Server, organization: &str) -> (String, String) {
    let headers =
        [("x-api-key", KEY), ("x-organization", organization), ("content-type", "application/json")];
    let answer = server.raw(Method::POST, "/api/vapi-accounts", &headers, "").await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    let data = answer.json()["data"].clone();
    assert_eq!(data["webhook"], PATH);
    (data["secret"].as_str().unwrap().to_owned(), data["id"].as_str().unwrap().to_owned())
}

async fn sent_with(server: &Server, secret: &str, message: &Value) -> Answer {
    let headers = [("content-type", "application/json"), ("x-vapi-secret", secret)];
    server.raw(Method::POST, PATH, &headers, json!({ "message": message }).to_string()).await
}

#[tokio::test]
async fn a_secret_says_whose_calls_are_reported_and_nobody_elses_are_looked_at() {
    let server = Server::new().await;
    server.execute("insert into organisations (slug, name) values ('other', 'Other')").await;
    let (secret, _) = account(&server, "other").await;
    // A call of the first organisation, and one that only its assistant could tell whose it is.
    assert_eq!(server.outcome(&report(1)).await, "created");
    let before = server.row().await;
    let mut another = report(2);
    another["call"]["id"] = json!("0191e0a0-0000-7000-8000-000000000009");
    another["call"]["phoneCallProviderId"] = json!("CA00000000000000000000000000000009");
    for message in [&report(2), &without_sid(3), &another] {
        assert_eq!(sent_with(&server, &secret, message).await.data()["outcome"], "unknown");
        assert_eq!(server.row().await, before);
    }
    // Its own agent may be the assistant that another organisation has named as well.
    let headers = [("x-api-key", KEY), ("x-organization", "other"), ("content-type", "application/json")];
    let agent = json!({"name": "Bo", "instructions": "Be kind.", "vapi_assistant_id": ASSISTANT});
    let made = server.raw(Method::POST, "/api/agents", &headers, agent.to_string()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    for message in [&report(2), &without_sid(3)] {
        assert_eq!(
            sent_with(&server, &secret, message).await.data()["outcome"],
            "unknown",
            "it is not theirs"
        );
        assert_eq!(server.row().await, before);
    }
    assert_eq!(sent_with(&server, &secret, &another).await.data()["outcome"], "created");
    let owners: Value = server
        .scalar(
            "select jsonb_agg(distinct jsonb_build_array(o.slug, c.call_sid)) from calls c
             join organisations o on o.id = c.organization_id",
        )
        .await;
    let theirs = another["call"]["phoneCallProviderId"].clone();
    assert_eq!(owners, json!([["default", SID], ["other", theirs]]));
}

#[tokio::test]
async fn a_secret_of_an_organisation_is_shown_once_rotated_without_a_gap_and_gone_when_it_is_deleted() {
    let server =
        Server::on(surface::Server::with(|settings| settings.vapi_webhook_secrets.clear()).await).await;
    sent_with(&server, KEY, &report(0)).await.is_error(StatusCode::FORBIDDEN, "vapi_not_configured");
    let (old, old_id) = account(&server, "default").await;
    let (new, _) = account(&server, "default").await;
    for secret in [&old, &new] {
        sent_with(&server, secret, &report(0)).await.data();
    }
    let listed = server.get("/api/vapi-accounts").await;
    assert_eq!(listed.json()["pagination"]["total"], 2);
    assert!(!listed.text.contains(&old) && !listed.text.contains(&new), "{}", listed.text);
    let path = format!("/api/vapi-accounts/{old_id}");
    assert_eq!(server.delete(&path).await.status, StatusCode::NO_CONTENT);
    server.delete(&path).await.is_error(StatusCode::NOT_FOUND, "not_found");
    sent_with(&server, &old, &report(1)).await.is_error(StatusCode::UNAUTHORIZED, "invalid_secret");
    sent_with(&server, &new, &report(1)).await.data();
    is_report(&server, 1).await;
}
