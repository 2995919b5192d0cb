//! What is said to be held ([`HOLDINGS`]) and what is done about it are the same: something to be found by is put into
//! every column, and looked for in the whole database when it should be gone.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use voicebridge::app::retention::run_now;
use voicebridge::store::privacy::{HOLDINGS, Holds};

use crate::life::Office;
use crate::surface::KEY;

const THEIRS: &str = "+14155550123";

/// What the person is found by, and the database holds to: it stays as it is, and is looked for as it is.
const KNOWN_BY: [(&str, &str); 17] = [
    ("call_attempts", "to_number"),
    ("call_attempts", "from_number"),
    ("call_events", "from_number"),
    ("call_events", "to_number"),
    ("call_leases", "from_number"),
    ("call_leases", "to_number"),
    ("call_logs", "caller_number"),
    ("call_logs", "callee_number"),
    ("call_queue", "to_number"),
    ("do_not_call", "number"),
    ("do_not_call", "call_sid"),
    ("ivr_calls", "from_number"),
    ("ivr_messages", "from_number"),
    ("kaleyra_call_logs", "callfrom"),
    ("interactions", "id"),
    ("leads", "phone"),
    ("leads", "call_sid"),
];

/// What is in a column: its place, then a number that no other has.
type Canaries = BTreeMap<String, String>;

impl Office {
    /// Everything that can be on record of one person, and of nobody else.
    async fn everything_of_one(&self) -> crate::life::Person {
        let hook = json!({"url": "https://example.com/hook", "include_transcript": true,
                          "events": ["call.completed", "transcript.completed"]});
        let made = self.post("/api/webhook-endpoints", hook).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
        let person = self.life(THEIRS, "Zebulon", 1).await;
        // A call of a browser's or a telephone's that no carrier's SID is known of.
        self.execute("update agents set vapi_assistant_id = 'asst_1' where is_default").await;
        let report = json!({"message": {
            "type": "end-of-call-report", "timestamp": 1_730_279_105_000_i64, "endedReason": "customer-ended-call",
            "startedAt": "2024-10-30T09:00:00Z", "endedAt": "2024-10-30T09:05:00Z", "durationSeconds": 300,
            "summary": "about Zebulon",
            "call": {"id": "0191e0a0-0000-7000-8000-000000000002", "assistantId": "asst_1", "type": "inboundPhoneCall",
                     "customer": {"number": THEIRS, "name": "Ms Zebulon"}},
            "artifact": {"messages": [{"role": "user", "message": "I am Zebulon", "time": 1_730_278_801_500_i64,
                                       "secondsFromStart": 1.5}]},
        }});
        let headers = [("content-type", "application/json"), ("x-vapi-secret", KEY)];
        let taken = self.raw(Method::POST, "/api/vapi/webhook", &headers, report.to_string()).await;
        assert_eq!(taken.status, StatusCode::OK, "{}", taken.text);
        self.execute(&format!(
            "insert into ivr_providers (organization_id, name, secret_sha256, mapping)
             select id, 'front-office', sha256('x'), '{{\"call_id\": \"id\"}}' from organisations;
             insert into ivr_calls (organization_id, provider_id, provider_call_id, from_number, to_number, digits,
                                    recording_url, payload, received_at)
             select organization_id, id, '7', '{THEIRS}', '+15005550000', '1', 'x', '{{\"id\": 7}}', now() from ivr_providers;
             insert into ivr_messages (organization_id, provider_id, provider_call_id, from_number, from_phone, to_number,
                                       to_phone, digits, recording_url, payload, payload_sha256, received_at)
             select organization_id, provider_id, provider_call_id, from_number, from_number, to_number, to_number, digits,
                    recording_url, payload, sha256('x'), received_at from ivr_calls;
             insert into kaleyra_call_logs (id, callfrom, callto, start_time, status, service, organization_id)
             select 'leg-1', '{THEIRS}', '8068921234', now(), 'ANSWER', 'Incoming', id from organisations;
             insert into webhook_attempts (delivery_id, attempt, organization_id, at, duration_ms, response)
             select id, 1, organization_id, now(), 5, 'Thank you, Zebulon' from webhook_deliveries;
             update webhook_deliveries set status = 'delivered', settled_at = now()"
        ))
        .await;
        person
    }

    /// Puts a canary into every column that holds one of these, in every row.
    async fn furnish(&self, wanted: &[Holds]) -> Canaries {
        let mut canaries = Canaries::new();
        let (mut empty, mut refused) = (Vec::new(), Vec::new());
        // What follows from another table says what that does.
        for (table, parts) in HOLDINGS.iter().filter(|(table, _)| *table != "call_briefs") {
            let holds = parts.iter().filter(|(holds, _)| wanted.contains(holds));
            for column in holds.flat_map(|(_, columns)| *columns) {
                if KNOWN_BY.contains(&(table, column)) {
                    continue;
                }
                let place = format!("{table}.{column}");
                let canary = format!("canary{:03}x", canaries.len());
                let update = self.update(table, column, &canary).await;
                match sqlx::query(AssertSqlSafe(update)).execute(self.store.pool()).await {
                    Ok(done) if done.rows_affected() == 0 => empty.push(place),
                    Ok(_) => {
                        canaries.insert(place, canary);
                    }
                    Err(error) => refused.push(format!("{place}: {error}")),
                }
            }
        }
        assert!(empty.is_empty(), "nothing is on record in {empty:?}");
        assert!(refused.is_empty(), "{}", refused.join("\n"));
        let there = self.found(&canaries).await;
        let missing: Vec<_> = canaries.keys().filter(|place| !there.contains_key(*place)).collect();
        assert!(missing.is_empty(), "these cannot be found: {missing:?}");
        canaries
    }

    /// How a column is given its canary, in a form that rows of this kind have.
    async fn update(&self, table: &str, column: &str, canary: &str) -> String {
        let kind: String = self
            .scalar(&format!(
                "select data_type::text from information_schema.columns
                 where table_schema = 'public' and table_name = '{table}' and column_name = '{column}'"
            ))
            .await;
        let value = match (table, column) {
            // Beside what is there; within what is ours, where others put something of theirs; and what is said as words.
            ("calls", "data") => format!(
                "data || '{{\"beside\": \"{canary}\"}}'
                 || jsonb_build_object('call', coalesce(data->'call', '{{}}') || '{{\"within\": \"{canary}\"}}')"
            ),
            ("calls", "event_sequence") => format!(
                "(select coalesce(jsonb_agg(case
                      when event->>'type' = 'transferred'
                          then jsonb_set(event, '{{details,summary}}', '\"{canary}\"')
                      when event->>'type' in ('agent_call_completed', 'stream_ended')
                          then jsonb_set(event, '{{details,summary}}', '\"{canary}\"')
                      else event end order by place), '[]')
                  from jsonb_array_elements(event_sequence) with ordinality as sequence (event, place))"
            ),
            ("agent_calls", "objections") => format!("'[\"{canary}\"]'"),
            _ if kind == "jsonb" || kind == "json" => format!("'{{\"text\": \"{canary}\"}}'"),
            _ => format!("'{canary}'"),
        };
        format!("update {table} set \"{column}\" = {value}")
    }

    /// Which canaries are still there, and in which rows.
    async fn found(&self, canaries: &Canaries) -> BTreeMap<String, BTreeSet<String>> {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (table, rows) in self.everything().await {
            for (place, canary) in canaries {
                let here = rows.iter().filter(|row| row.contains(canary.as_str()));
                let columns = here.flat_map(|row| columns_with(row, canary));
                let columns: BTreeSet<String> = columns.map(|column| format!("{table}.{column}")).collect();
                if !columns.is_empty() {
                    found.entry(place.clone()).or_default().extend(columns);
                }
            }
        }
        found
    }
}

fn columns_with(row: &str, canary: &str) -> Vec<String> {
    let row: Value = serde_json::from_str(row).unwrap();
    let columns = row.as_object().unwrap().iter();
    columns.filter(|(_, value)| value.to_string().contains(canary)).map(|(name, _)| name.clone()).collect()
}

#[tokio::test]
async fn an_erasure_leaves_nothing_in_any_column_that_is_said_to_hold_something() {
    let office = Office::open().await;
    let person = office.everything_of_one().await;
    let canaries = office.furnish(&[Holds::Words, Holds::Payload, Holds::Personal]).await;
    assert!(canaries.len() > 40, "{canaries:?}");
    let answer = office.post("/api/privacy/erasures", json!({"phone": THEIRS, "dry_run": false})).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let left = office.found(&canaries).await;
    assert!(left.is_empty(), "after an erasure there is still: {left:#?}");
    let left = office.places_of(&person).await;
    assert_eq!(left.len(), 1, "{left:#?}");
    assert!(left[0].starts_with("do_not_call: "), "{left:?}");
}

#[tokio::test]
async fn age_leaves_nothing_in_any_column_that_is_said_to_hold_words_or_payloads() {
    for (holds, kept) in [(Holds::Words, "payload_days"), (Holds::Payload, "transcript_days")] {
        let office = Office::open().await;
        office.everything_of_one().await;
        let canaries = office.furnish(&[holds]).await;
        office.grow_all_old().await;
        // By their own age, and not by that of the other.
        let mut days = json!({"transcript_days": 30, "payload_days": 30});
        days[kept] = Value::Null;
        let put = async |wanted: Value| office.send(Method::PUT, "/api/retention", Some(wanted)).await.data();
        put(days.clone()).await;
        let looked_at = office.post("/api/retention/runs", json!({"dry_run": true})).await;
        days["confirm"] = looked_at.json()["data"]["id"].clone();
        put(days).await;
        run_now(&office.store, office.agent.organization_id, |_| {}).await.unwrap().unwrap();
        let left = office.found(&canaries).await;
        assert!(left.is_empty(), "of {holds:?} there is still: {left:#?}");
    }
}

impl Office {
    /// Whatever tells how old a row is, in every table.
    async fn grow_all_old(&self) {
        let columns: Vec<(String, String)> = sqlx::query_as(
            "select c.table_name::text, c.column_name::text
             from information_schema.columns c
             join information_schema.tables t using (table_schema, table_name)
             where c.table_schema = 'public' and t.table_type = 'BASE TABLE'
               and c.is_generated = 'NEVER'
               and c.data_type = 'timestamp with time zone'
               and c.table_name = any($1)",
        )
        .bind(HOLDINGS.iter().map(|(table, _)| (*table).to_owned()).collect::<Vec<_>>())
        .fetch_all(self.store.pool())
        .await
        .unwrap();
        for (table, column) in columns {
            self.execute(&format!(
                "update {table} set \"{column}\" = \"{column}\" - interval '40 days' where \"{column}\" is not null"
            ))
            .await;
        }
    }
}
