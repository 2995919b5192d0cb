//! Names that tenants give, and what they learn of those that others have given.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::surface::{Answer, KEY, Server};

impl Server {
    /// As the administrator in this organisation.
    async fn in_organization(&self, slug: &str, method: Method, path: &str, body: Value) -> Answer {
        let headers = [("x-api-key", KEY), ("x-organization", slug), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.raw(method, path, &headers, body).await
    }
}

/// Two tenants, each with an agent and a number.
async fn two() -> Server {
    let server = Server::new().await;
    server
        .execute(
            "insert into organisations (slug, name) values ('other', 'Other');
             insert into agents (organization_id, name, instructions, is_default)
             select id, 'Desk', 'Speak.', true from organisations where slug = 'other';
             insert into phone_numbers (organization_id, agent_id, number)
             select organization_id, id, '+1415555019' || case name when 'Desk' then '8' else '9' end from agents",
        )
        .await;
    server
}

#[tokio::test]
async fn two_tenants_give_interactions_the_same_name_and_neither_learns_of_the_other() {
    let server = two().await;
    for slug in ["default", "other"] {
        let create = async || {
            let body = json!({"id": "one", "customerId": slug});
            server.in_organization(slug, Method::POST, "/api/interactions", body).await
        };
        assert_eq!(create().await.status, StatusCode::CREATED, "{slug}");
        create().await.is_error(StatusCode::CONFLICT, "interaction_exists");
    }
    for slug in ["default", "other"] {
        let one = server.in_organization(slug, Method::GET, "/api/interactions/one", Value::Null).await;
        assert_eq!(one.data()["customerId"], slug);
    }
}

#[tokio::test]
async fn what_becomes_of_a_call_is_told_to_the_interaction_of_its_tenant_alone() {
    let server = two().await;
    let mut queued = Vec::new();
    for slug in ["default", "other"] {
        let create = json!({"id": "one"});
        let created = server.in_organization(slug, Method::POST, "/api/interactions", create).await;
        assert_eq!(created.status, StatusCode::CREATED, "{slug}: {}", created.text);
        let to = json!({"to": "+14155550123"});
        let answer =
            server.in_organization(slug, Method::POST, "/api/interactions/one/dispatch", to.clone()).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{slug}: {}", answer.text);
        queued.push(answer.json()["data"]["queue_id"].as_str().unwrap().to_owned());
        let again = server.in_organization(slug, Method::POST, "/api/interactions/one/dispatch", to).await;
        again.is_error(StatusCode::CONFLICT, "interaction_dispatched");
    }
    let cancel = format!("/api/queue/{}", queued[0]);
    let canceled = server.in_organization("default", Method::DELETE, &cancel, Value::Null).await;
    assert!(canceled.status.is_success(), "{}", canceled.text);
    for (slug, status) in [("default", "FAILED"), ("other", "INITIATED")] {
        let one = server.in_organization(slug, Method::GET, "/api/interactions/one", Value::Null).await;
        assert_eq!(one.data()["status"], status, "{slug}");
    }
    // Of an interaction that goes the call stays.
    server.execute("delete from interactions where status = 'INITIATED'").await;
    assert_eq!(server.count("call_queue where interaction_id is null").await, 1);
    assert_eq!(server.count("call_queue where interaction_id = 'one'").await, 1);
    server.execute("delete from organisations where slug = 'default'").await;
    assert_eq!((server.count("interactions").await, server.count("call_queue").await), (0, 1));
}

#[tokio::test]
async fn only_an_admin_claims_a_number_and_is_not_told_whose_one_is_that_is_taken() {
    let server = two().await;
    let agent: String = server.scalar("select id::text from agents where name = 'Desk'").await;
    let admin = server.key_of("other", &["admin"]).await;
    let operator = server.key_of("other", &["operate", "review"]).await;
    let claim = async |key: &str, number: &str| {
        let body = json!({"number": number, "agent_id": agent}).to_string();
        server.asked_by(Some(key), Method::POST, "/api/phone-numbers", "application/json", body).await
    };
    for number in ["+14155550197", "+14155550198", "+14155550199"] {
        claim(&operator, number).await.is_error(StatusCode::FORBIDDEN, "missing_scope");
    }
    assert_eq!(claim(&admin, "+14155550197").await.status, StatusCode::CREATED);
    let own = claim(&admin, "+14155550198").await.is_error(StatusCode::CONFLICT, "number_taken");
    let anothers = claim(&admin, "+14155550199").await.is_error(StatusCode::CONFLICT, "number_taken");
    assert_eq!(own, anothers);
}
