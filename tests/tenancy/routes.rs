//! Another tenant's key, on every route: it sees nothing that is not its own, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::Method;
use serde_json::{Map, Value, json};

use crate::operations::{OURS, Operation, document, furnished, operations, there};
use crate::surface::{Answer, Server};

/// What nobody else has. No example holds any of it.
const SECRETS: [&str; 4] = ["Zacharias Quillfeather", "4155550777", "wants a person", "asst_quillfeather"];
/// A call of the second tenant.
const OTHERS: &str = "CA00000000000000000000000000000003";

/// Two tenants, both with something of everything.
struct Two {
    server: Server,
    document: Value,
    /// The second one's.
    key: String,
    /// Rows of the first, table by table.
    before: Value,
    /// Ids and texts of the first that nobody else could guess or may learn.
    secrets: Vec<String>,
    /// Numbers of the first, by the table whose `id` they are.
    numbers: BTreeMap<&'static str, BTreeSet<i64>>,
    /// Of these, what the second has itself named interactions by.
    given: BTreeSet<String>,
    /// What was not as it should be.
    wrong: Vec<String>,
    /// How many requests were answered well.
    good: usize,
}

/// All rows of a tenant, table by table.
async fn everything(server: &Server, slug: &str) -> Value {
    let tables: Vec<String> = server.tenant_tables().await;
    let mut all = json!({});
    for table in tables {
        let owner = if table == "organisations" { "id" } else { "organization_id" };
        all[&table] = server
            .scalar::<Value>(&format!(
                "select coalesce(jsonb_agg(to_jsonb(t) order by to_jsonb(t)::text), '[]') from {table} t
                 where {owner} = (select id from organisations where slug = '{slug}')"
            ))
            .await;
    }
    all
}

impl Two {
    async fn new() -> Self {
        let (server, document) = (furnished().await, document());
        server.fill_every_table().await;
        // Examples hold the number that calls are from, and what was sent may be said again.
        server
            .execute(&format!(
                "update leads set name = 'Zacharias Quillfeather', phone = '+14155550777', call_sid = '{OURS}'
                 where id = (select min(id) from leads);
                 update call_logs set caller_number = '+14155550777';
                 update calls set event_sequence = replace(event_sequence::text, '4155550123', '4155550777')::jsonb;
                 update call_queue set to_number = '+14155550777';
                 update do_not_call set number = '+14155550777';
                 update interactions set \"customerId\" = 'Zacharias Quillfeather';
                 update agents set vapi_assistant_id = 'asst_quillfeather';
                 -- A call that no lead has yet.
                 insert into calls (organization_id, agent_id, call_sid, data)
                 select organization_id, id, 'CA00000000000000000000000000000004', '{{}}' from agents;
                 insert into organisations (slug, name) values ('other', 'Other')"
            ))
            .await;
        let key = server.key_of("other", &["admin"]).await;
        let before = everything(&server, "default").await;
        let mut secrets: Vec<String> = SECRETS.map(str::to_owned).into();
        for (table, rows) in before.as_object().unwrap() {
            for row in rows.as_array().unwrap().iter().filter(|_| table != "organisations") {
                secrets.extend(row["id"].as_str().map(str::to_owned));
            }
        }
        let numbers = ["leads", "conversation_transcripts", "call_events", "audit_log"].map(|table| {
            let rows = before[table].as_array().unwrap();
            (table, rows.iter().map(|row| row["id"].as_i64().unwrap()).collect())
        });
        let two = Self {
            server,
            document,
            key,
            before,
            secrets,
            numbers: numbers.into(),
            given: BTreeSet::new(),
            wrong: Vec::new(),
            good: 0,
        };
        two.furnish().await;
        two
    }

    async fn asks(&self, method: Method, path: &str, media_type: &str, body: String) -> Answer {
        self.server.asked_by(Some(&self.key), method, path, media_type, body).await
    }

    async fn posts(&self, path: &str, body: Value) -> Value {
        let answer = self.asks(Method::POST, path, "application/json", body.to_string()).await;
        assert!(answer.status.is_success(), "{path}: {} {}", answer.status, answer.text);
        answer.json()["data"].clone()
    }

    /// Gives the second tenant of everything what the first has.
    async fn furnish(&self) {
        let agent = json!({"name": "Desk", "instructions": "You answer the telephone."});
        let agent = self.posts("/api/agents", agent).await["id"].clone();
        for (path, body) in [
            ("/api/phone-numbers", json!({"number": "+14155550201", "agent_id": agent})),
            ("/api/leads", json!({"phone": "+14155550202", "name": "Own"})),
            ("/api/projects", json!({"name": "Own"})),
            ("/api/campaigns", json!({"name": "Own"})),
            ("/api/schedules", json!({"name": "Own", "time_zone": "Europe/Berlin"})),
            ("/api/teams", json!({"name": "Own"})),
            ("/api/interactions", json!({"customerId": "Own"})),
            ("/api/do-not-call", json!({"number": "+14155550204"})),
            ("/api/api-keys", json!({"name": "desk", "scopes": ["review"]})),
            ("/api/retention/runs", json!({"dry_run": true})),
            ("/api/privacy/erasures", json!({"phone": "+14155550205", "dry_run": false})),
            ("/api/ivr-providers", json!({"name": "own-office", "mapping": {"call_id": "id"}})),
        ] {
            self.posts(path, body).await;
        }
        let hook = json!({"url": "https://example.com/own", "events": ["call.completed"]});
        let hook = self.posts("/api/webhook-endpoints", hook).await["id"].as_str().unwrap().to_owned();
        self.posts(&format!("/api/webhook-endpoints/{hook}/ping"), json!({})).await;
        self.server
            .execute(&format!(
                "create temporary table own on commit drop as select id from organisations where slug = 'other';
                 insert into calls (organization_id, agent_id, call_sid, data)
                 select own.id, agents.id, '{OTHERS}', '{{}}' from own, agents where agents.organization_id = own.id;
                 insert into conversation_transcripts
                     (organization_id, call_sid, sequence, item_id, revision, role, content, timestamp)
                 select id, '{OTHERS}', 1, 'item_1', 1, 'user', 'Good morning.', now() from own;
                 insert into call_logs (organization_id, call_sid, direction)
                 select id, '{OTHERS}', 'inbound' from own;
                 insert into agent_calls (organization_id, parent_call_sid) select id, '{OTHERS}' from own;
                 insert into call_queue (organization_id, campaign_id, lead_id, agent_id, to_number)
                 select own.id, campaigns.id, leads.id, agents.id, leads.phone
                 from own, campaigns, leads, agents
                 where campaigns.organization_id = own.id and leads.organization_id = own.id
                   and agents.organization_id = own.id;
                 insert into ivr_calls (organization_id, provider_id, provider_call_id, payload, received_at)
                 select own.id, ivr_providers.id, 'own-1', '{{}}', now() from own, ivr_providers
                 where ivr_providers.organization_id = own.id;
                 insert into kaleyra_call_logs (id, callfrom, callto, start_time, status, service, organization_id)
                 select 'own-log', '9876500000', '8068900000', now(), 'ANSWER', 'Incoming', id from own;
                 insert into kaleyra_syncs (organization_id, first_day, last_day, status, slice, node, finished_at)
                 select id, '2026-03-01', '2026-03-01', 'completed', '2026-03-01', 'node', now() from own"
            ))
            .await;
    }

    /// The path of something of the second tenant's. What its own key is called must stay.
    async fn own_path(&self, operation: &Operation) -> Option<String> {
        let path = operation.path.replace("{callSid}", OTHERS);
        let Some((list, rest)) = path.split_once("/{") else { return Some(path) };
        let (name, rest) = rest.split_once('}').unwrap();
        let rows = self.asks(Method::GET, list, "", String::new()).await.data();
        let first = rows.as_array().unwrap().iter().find(|row| row["name"] != "admin")?.clone();
        let id = if first["id"].is_null() { &first[name] } else { &first["id"] };
        let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        Some(format!("{list}/{id}{rest}"))
    }

    /// One request of the second tenant, and what of the answer may not be. `sent` is the body that it would have sent had it
    /// known of nobody: what it was sent, it may say again.
    async fn ask(&mut self, operation: &Operation, path: &str, body: String) -> Answer {
        let sent = format!("{path} {body}");
        let (media_type, _) = operation.sent();
        let answer = self.asks(operation.method.clone(), path, &media_type, body).await;
        let said = format!("{} ({sent:.300}): {} {:.600}", operation.name(), answer.status, answer.text);
        if answer.status.is_server_error() {
            self.wrong.push(format!("fails: {said}"));
        }
        let is_of_interactions = operation.path.starts_with("/api/interactions");
        if is_of_interactions {
            // Names that it gives them itself are shown to it later on.
            self.given.extend(self.secrets.iter().filter(|secret| sent.contains(secret.as_str())).cloned());
        }
        for secret in self.secrets.iter().filter(|secret| !sent.contains(secret.as_str())) {
            if is_of_interactions && self.given.contains(secret) {
                continue;
            }
            if answer.text.contains(secret.as_str()) {
                self.wrong.push(format!("shows {secret}: {said}"));
            }
        }
        if let Ok(value) = serde_json::from_str::<Value>(&answer.text) {
            let mut found = BTreeSet::new();
            numbers_in(&value, kind_of_path(&operation.path), &mut found);
            for (table, number) in found {
                if self.numbers[table].contains(&number) && !sent.contains(&number.to_string()) {
                    self.wrong.push(format!("shows {table} {number}: {said}"));
                }
            }
        }
        self.good += usize::from(answer.status.is_success());
        answer
    }

    /// What a member or parameter of this name may say of the first tenant.
    fn theirs(&self, name: &str) -> Vec<Value> {
        let (table, member) = match name {
            "lead_id" | "lead_ids" => ("leads", "id"),
            "agent_id" | "agentId" => ("agents", "id"),
            "project_id" => ("projects", "id"),
            "campaign_id" => ("campaigns", "id"),
            "phone_number_id" => ("phone_numbers", "id"),
            "schedule_id" => ("schedules", "id"),
            "team_id" | "team" => ("teams", "id"),
            "interaction_id" => ("interactions", "id"),
            "call_sid" | "parent_call_sid" => ("calls", "call_sid"),
            "provider_id" => ("ivr_providers", "id"),
            "endpoint_id" => ("webhook_endpoints", "id"),
            "key_id" => ("api_keys", "id"),
            "confirm" => ("retention_runs", "id"),
            "customerId" => ("interactions", "customerId"),
            "vapi_assistant_id" => ("agents", "vapi_assistant_id"),
            _ => return Vec::new(),
        };
        let rows = self.before[table].as_array().unwrap().iter();
        let values = rows.map(|row| row[member].clone()).filter(|value| !value.is_null()).take(3);
        values.map(|value| if name == "lead_ids" { json!([value]) } else { value }).collect()
    }

    /// Bodies in which something is the first tenant's: each member in turn, and all of them.
    fn with_theirs(&self, operation: &Operation) -> Vec<String> {
        let Some(("application/json", content)) = operation.body() else { return Vec::new() };
        let Some(example) = content["example"].as_object() else { return Vec::new() };
        let mut names: BTreeSet<String> = example.keys().cloned().collect();
        members_of(&self.document, &content["schema"], &mut names);
        let mut all = example.clone();
        let mut bodies = Vec::new();
        for name in names {
            for theirs in self.theirs(&name) {
                let mut one: Map<String, Value> = example.clone();
                // Other ids of the example are of nobody, and would be refused first.
                one.retain(|other, _| self.theirs(other).is_empty());
                one.insert(name.clone(), theirs.clone());
                if operation.path == "/api/queue/schedule-call" && name != "lead_id" {
                    one.insert("to".into(), json!("+14155550206"));
                }
                bodies.push(Value::Object(one).to_string());
                all.insert(name.clone(), theirs);
            }
        }
        if !bodies.is_empty() {
            bodies.push(Value::Object(all).to_string());
        }
        bodies
    }

    /// Nothing of the first has changed, and nothing of the second points at it.
    async fn finish(mut self) {
        let after = everything(&self.server, "default").await;
        for (table, rows) in self.before.as_object().unwrap() {
            // The walk itself asks as the administrator, which is on record.
            if table != "audit_log" && *rows != after[table] {
                self.wrong.push(format!("{table} was changed:\n  {rows}\n  {}", after[table]));
            }
        }
        let calls = [OURS, "CA00000000000000000000000000000004"];
        for (table, rows) in everything(&self.server, "other").await.as_object().unwrap() {
            for row in rows.as_array().unwrap() {
                let mut row = row.clone();
                // Names that whoever calls us gives, and which are compared with nothing of another organisation.
                let names: &[&str] = match table.as_str() {
                    "interactions" => &["id", "customerId", "agentId"],
                    "call_queue" => &["interaction_id"],
                    "agents" => &["vapi_assistant_id"],
                    _ => &[],
                };
                for name in names {
                    row[*name].take();
                }
                let text = row.to_string();
                let points =
                    self.secrets.iter().map(String::as_str).chain(calls).find(|one| text.contains(one));
                let lead = row["lead_id"].as_i64().filter(|id| self.numbers["leads"].contains(id));
                if points.is_some() || lead.is_some() {
                    self.wrong.push(format!("{table} of the other points at {points:?} {lead:?}: {row}"));
                }
            }
        }
        self.wrong.dedup();
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

/// Whose `id` is meant where a member is just called so.
fn kind_of_path(path: &str) -> Option<&'static str> {
    let kinds = [
        ("/api/leads", "leads"),
        ("/transcripts", "conversation_transcripts"),
        ("/api/audit-log", "audit_log"),
    ];
    kinds.into_iter().find(|(start, _)| path.starts_with(start)).map(|(_, table)| table)
}

/// Numbers in an answer that are ids, by what their member's name says of them.
fn numbers_in(value: &Value, kind: Option<&'static str>, found: &mut BTreeSet<(&'static str, i64)>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| numbers_in(value, kind, found)),
        Value::Object(members) => {
            for (name, value) in members {
                let of = match name.as_str() {
                    "lead_id" | "lead_ids" => Some("leads"),
                    "turn_id" => Some("conversation_transcripts"),
                    "call_event_id" => Some("call_events"),
                    "id" => kind,
                    _ => None,
                };
                let each = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                found.extend(each.iter().filter_map(|value| Some((of?, value.as_i64()?))));
                numbers_in(value, kind, found);
            }
        }
        _ => {}
    }
}

/// Names of what a body may have.
fn members_of(document: &Value, schema: &Value, names: &mut BTreeSet<String>) {
    if let Some(place) = schema["$ref"].as_str() {
        members_of(document, document.pointer(place.trim_start_matches('#')).unwrap(), names);
    }
    for word in ["allOf", "oneOf", "anyOf"] {
        schema[word].as_array().into_iter().flatten().for_each(|part| members_of(document, part, names));
    }
    names.extend(schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
}

/// Operations that ask for a key; what deletes comes last, so that there is something to ask for.
fn keyed(document: &Value) -> Vec<Operation> {
    let mut all = operations(document);
    all.retain(|operation| !["signature", "nothing"].contains(&operation.about["x-needs"].as_str().unwrap()));
    all.sort_by_key(|operation| operation.method == Method::DELETE);
    all
}

#[tokio::test]
async fn another_tenant_sees_and_changes_nothing_on_any_route() {
    let mut two = Two::new().await;
    for operation in keyed(&two.document) {
        let path = there(&two.server, &two.document, &operation.path).await;
        let bodies = std::iter::once(operation.sent().1).chain(two.with_theirs(&operation));
        for body in bodies {
            let answer = two.ask(&operation, &path, body).await;
            if shows_somebody(&operation, &path) && answer.status.is_success() {
                let wrong =
                    format!("{} of another tenant: {} {}", operation.name(), answer.status, answer.text);
                two.wrong.push(wrong);
            }
        }
    }
    two.finish().await;
}

#[tokio::test]
async fn what_is_ones_own_takes_and_shows_nothing_of_another_tenant() {
    let mut two = Two::new().await;
    let (mut with_theirs, mut unseen) = (0, Vec::new());
    for operation in keyed(&two.document) {
        let Some(path) = two.own_path(&operation).await else {
            unseen.push(operation.name());
            continue;
        };
        for body in two.with_theirs(&operation) {
            two.ask(&operation, &path, body).await;
            with_theirs += 1;
        }
        for parameter in operation.parameters("query") {
            let name = parameter["name"].as_str().unwrap();
            for theirs in two.theirs(name) {
                let theirs = theirs.as_str().map_or_else(|| theirs.to_string(), str::to_owned);
                let place = format!("{path}?{name}={}", theirs.replace(' ', "%20"));
                let answer = two.ask(&operation, &place, operation.sent().1).await;
                with_theirs += 1;
                // Of names that anybody may give, the first requests have given some.
                let is_a_name = ["customerId", "agentId", "call_sid"].contains(&name);
                if answer.status.is_success() && !is_a_name && answer.json()["pagination"]["total"] != 0 {
                    two.wrong.push(format!("{} finds {theirs} by {name}: {}", operation.name(), answer.text));
                }
            }
        }
        two.ask(&operation, &path, operation.sent().1).await;
    }
    assert!(unseen.is_empty(), "the second tenant has nothing for these: {unseen:?}");
    assert!(with_theirs > 60, "only {with_theirs} requests named something of the first");
    assert!(two.good > 90, "only {} requests were answered well", two.good);
    two.finish().await;
}

/// Whether the path names something, which is the first tenant's.
fn shows_somebody(operation: &Operation, path: &str) -> bool {
    operation.path.contains('{') && operation.path != path && !operation.path.starts_with("/api/do-not-call/")
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
