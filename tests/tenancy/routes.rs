//! Another tenant's key, on every route: it sees nothing that is not its own, and changes nothing.

use axum::http::Method;
use serde_json::{Value, json};

use crate::operations::{Operation, document, furnished, operations, there};
use crate::surface::Server;

/// What nobody else has.
const SECRETS: [&str; 4] = ["Zacharias Quillfeather", "+14155550123", "14155550123", "wants a person"];

/// All rows of the first tenant, table by table.
async fn everything(server: &Server) -> Value {
    let tables: Vec<String> = server.tenant_tables().await;
    let mut all = json!({});
    for table in tables {
        let owner = if table == "organisations" { "id" } else { "organization_id" };
        all[&table] = server
            .scalar::<Value>(&format!(
                "select coalesce(jsonb_agg(to_jsonb(t) order by to_jsonb(t)::text), '[]') from {table} t
                 where {owner} = (select id from organisations where slug = 'default')"
            ))
            .await;
    }
    all
}

/// Ids and texts of the first tenant that nobody else could guess or may learn.
fn their_own(everything: &Value) -> Vec<String> {
    let mut found: Vec<String> = SECRETS.map(str::to_owned).into();
    for (table, rows) in everything.as_object().unwrap() {
        for row in rows.as_array().unwrap() {
            found.extend(row["id"].as_str().filter(|_| table != "organisations").map(str::to_owned));
        }
    }
    found
}

#[tokio::test]
async fn another_tenant_sees_and_changes_nothing_on_any_route() {
    let (server, document) = (furnished().await, document());
    server.execute("update leads set name = 'Zacharias Quillfeather'").await;
    server.execute("insert into organisations (slug, name) values ('other', 'Other')").await;
    let key = server.key_of("other", &["admin"]).await;
    let before = everything(&server).await;
    let theirs = their_own(&before);
    let mut wrong = Vec::new();
    for operation in operations(&document) {
        if ["signature", "nothing"].contains(&operation.about["x-needs"].as_str().unwrap()) {
            continue;
        }
        let path = there(&server, &document, &operation.path).await;
        let (media_type, body) = operation.sent();
        let bodies = [body.clone(), with_their_ids(&body, &before)];
        for body in bodies {
            let answer =
                server.asked_by(Some(&key), operation.method.clone(), &path, &media_type, body).await;
            if answer.status.is_server_error() {
                wrong.push(format!("{}: {} {}", operation.name(), answer.status, answer.text));
            }
            // What it was sent it may say again.
            for theirs in theirs.iter().filter(|theirs| !path.contains(*theirs)) {
                let sent = operation.sent().1;
                if answer.text.contains(theirs.as_str()) && !sent.contains(theirs.as_str()) {
                    wrong.push(format!("{} shows {theirs}: {}", operation.name(), answer.text));
                }
            }
            if shows_somebody(&operation, &path) && answer.status.is_success() {
                wrong.push(format!(
                    "{} of another tenant: {} {}",
                    operation.name(),
                    answer.status,
                    answer.text
                ));
            }
        }
    }
    let after = everything(&server).await;
    for (table, rows) in before.as_object().unwrap() {
        // The walk itself asks as the administrator, which is on record.
        if table != "audit_log" && *rows != after[table] {
            wrong.push(format!("{table} was changed:\n  {rows}\n  {}", after[table]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether the path names something, which is the first tenant's.
fn shows_somebody(operation: &Operation, path: &str) -> bool {
    operation.path.contains('{') && operation.path != path && !operation.path.starts_with("/api/do-not-call/")
}

/// The example with every id in it being one of theirs.
fn with_their_ids(body: &str, everything: &Value) -> String {
    let first = |table: &str, member: &str| everything[table][0][member].clone();
    let Ok(Value::Object(mut members)) = serde_json::from_str::<Value>(body) else { return body.to_owned() };
    for (name, value) in &mut members {
        let theirs = match name.as_str() {
            "lead_id" => first("leads", "id"),
            "lead_ids" => json!([first("leads", "id")]),
            "agent_id" => first("agents", "id"),
            "project_id" => first("projects", "id"),
            "campaign_id" => first("campaigns", "id"),
            "phone_number_id" => first("phone_numbers", "id"),
            "schedule_id" => first("schedules", "id"),
            "team_id" | "team" => first("teams", "id"),
            "interaction_id" => first("interactions", "id"),
            "call_sid" => first("calls", "call_sid"),
            _ => continue,
        };
        *value = theirs;
    }
    Value::Object(members).to_string()
}

#[tokio::test]
async fn a_list_of_another_tenant_is_empty() {
    let (server, document) = (furnished().await, document());
    server.execute("insert into organisations (slug, name) values ('other', 'Other')").await;
    let key = server.key_of("other", &["read"]).await;
    let mut lists = 0;
    for operation in operations(&document) {
        let is_list = operation.method == Method::GET
            && operation.about["x-needs"] == "read"
            && !operation.path.contains('{')
            && operation.parameters("query").any(|parameter| parameter["name"] == "offset");
        if !is_list || operation.path == "/api/organisations" {
            continue;
        }
        let answer = server.asked_by(Some(&key), Method::GET, &operation.path, "", "").await;
        assert_eq!(answer.json()["pagination"]["total"], 0, "{}: {}", operation.name(), answer.text);
        lists += usize::from(server.get(&operation.path).await.json()["pagination"]["total"] != 0);
    }
    assert!(lists >= 12, "only {lists} lists have something to hide");
    let own = server.asked_by(Some(&key), Method::GET, "/api/organisations", "", "").await.data();
    assert_eq!(own.as_array().unwrap().len(), 1);
    assert_eq!(own[0]["slug"], "other");
}
