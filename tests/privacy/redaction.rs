//! What is never written down.

use axum::http::StatusCode;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use voicebridge::simulate::caller::run_call;
use voicebridge::simulate::model::ModelOptions;
use voicebridge::simulate::model::script::{FunctionCall, Reply, Rule, Script, Speech, When};
use voicebridge::simulate::scenario::{Scenario, Step, Utterance};

use crate::surface::Server;
use crate::world::World;

const CARD: &str = "4111 1111 1111 1111";

fn says(when: When, text: &str) -> Rule {
    let say = vec![Speech::Tone { ms: 400, text: text.into() }];
    Rule { when, needs_tool: None, times: None, reply: Reply { say, ..Reply::default() } }
}

/// The agent repeats a card number, and hands over with a summary that has it in words.
fn script() -> Script {
    let arguments = json!({
        "reason": format!("card {CARD}"),
        "summary": "They pay with four one one one, one one one one, one one one one, one one one one.",
    });
    let hands_over = Reply {
        say: vec![Speech::Tone { ms: 400, text: format!("I have {CARD}, is that right?") }],
        call: vec![FunctionCall { tool: "transfer_to_human".into(), arguments: arguments.to_string() }],
        ..Reply::default()
    };
    Script::default().with_rules_first(vec![
        says(When::Greeting, "Good day."),
        Rule { when: When::Heard("hello".into()), needs_tool: None, times: Some(1), reply: hands_over },
    ])
}

/// Rows of all tables in which something is, `table: row`.
async fn rows_with(world: &World, what: &[&str]) -> Vec<String> {
    let pool = world.running.store.pool();
    let tables =
        "select relname::text from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace
         and relname <> '_sqlx_migrations'";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(pool).await.unwrap();
    let mut found = Vec::new();
    for table in tables {
        let rows = AssertSqlSafe(format!("select to_jsonb(t)::text from {table} t"));
        let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(pool).await.unwrap();
        let is_in = |row: &&String| what.iter().any(|what| row.contains(what));
        found.extend(rows.iter().filter(is_in).map(|row| format!("{table}: {row}")));
    }
    found
}

#[tokio::test]
async fn an_agent_that_redacts_leaves_no_card_number_anywhere_and_another_does() {
    let traces = [CARD, "4111", "1111", "one one one"];
    for redacts in [false, true] {
        let data = tempfile::tempdir().unwrap();
        let dir = data.path().to_str().unwrap();
        let settings = [("AUDIO_FORMAT", "pcmu"), ("VOICEBRIDGE_DATA_DIR", dir)];
        let world =
            World::start(ModelOptions { script: script(), ..ModelOptions::default() }, &settings).await;
        let change = format!(
            "update agents set transfer_number = '+15005550009', redact = '{}'",
            if redacts { "{payment_card}" } else { "{}" }
        );
        sqlx::query(AssertSqlSafe(change)).execute(world.running.store.pool()).await.unwrap();
        let listen = Step::Listen { silence_ms: 500, within_ms: 30_000 };
        let say = Step::Say(Utterance::Phrase("hello".into()));
        let steps = vec![listen.clone(), say, listen, Step::HangUp];
        let call = run_call(world.call(Scenario { name: "test".into(), voice: "anna".into(), steps })).await;
        world.reason(&call.call_sid).await;
        let transcript = world.transcript(&call.call_sid).await;
        let found = rows_with(&world, &traces).await;
        let tables = ["conversation_transcripts: ", "calls: ", "agent_calls: "];
        if redacts {
            assert_eq!(found, Vec::<String>::new());
            assert!(transcript.iter().any(|turn| turn["content"] == "I have [payment card], is that right?"));
            assert!(!rows_with(&world, &["They pay with [payment card]."]).await.is_empty());
        } else {
            for table in tables {
                assert!(found.iter().any(|row| row.starts_with(table)), "nothing in {table}{found:?}");
            }
        }
        world.stop().await;
        if redacts {
            for file in std::fs::read_dir(data.path().join("spool")).unwrap() {
                let bytes = std::fs::read(file.unwrap().path()).unwrap();
                let text = String::from_utf8_lossy(&bytes);
                assert!(!traces.iter().any(|trace| text.contains(trace)));
            }
        }
    }
}

#[tokio::test]
async fn what_an_agent_redacts_is_set_over_the_api_in_words_that_are_known() {
    let server = Server::new().await;
    let redact = async |kinds: Value| {
        let body = json!({"name": "Till", "instructions": "Take payments.", "redact": kinds});
        server.post("/api/agents", body).await
    };
    let created = redact(json!(["payment_card", "card_security_code"])).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
    let agent = created.json()["data"].clone();
    assert_eq!(agent["redact"], json!(["payment_card", "card_security_code"]));
    let path = format!("/api/agents/{}", agent["id"].as_str().unwrap());
    let changed =
        server.patch(&path, json!({"redact": ["iban", "us_ssn", "email", "phone_number"]})).await.data();
    assert_eq!(changed["redact"], json!(["iban", "us_ssn", "email", "phone_number"]));
    assert_eq!(server.patch(&path, json!({"name": "Desk"})).await.data()["redact"], changed["redact"]);
    assert_eq!(server.patch(&path, json!({"redact": []})).await.data()["redact"], json!([]));
    let refused = redact(json!(["iban", "shoe size"])).await;
    let error = refused.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value");
    assert_eq!(error["details"][0]["field"], "redact[1]");
    let problem = error["details"][0]["problem"].as_str().unwrap();
    assert!(
        problem.contains("payment_card, iban, us_ssn, card_security_code, email, phone_number"),
        "{problem}"
    );
    redact(json!("payment_card")).await.is_error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body");
}
