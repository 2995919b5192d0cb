//! The tables as their readers know them: every query that is written down for them, word for word, and what it returns.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;
use voicebridge::call::end::EndReason;
use voicebridge::ids::{AgentId, OrganizationId};
use voicebridge::lifecycle::{self, CallEvent, CallRef};
use voicebridge::store::Store;
use voicebridge::store::call_events;
use voicebridge::store::leads::{self, LinkError, link_call};
use voicebridge::store::leases::FencingToken;
use voicebridge::store::transcripts::{self, Turns};

use crate::carrier::callback;
use crate::transcripts::entry;
use crate::{add_lead, default_agent, offer_from, other_tenant, sid, support};

const TOKEN: FencingToken = FencingToken(1);
const CALLER: &str = "+15005550001";

/// What a query returns, each row as JSON, in its order.
async fn rows(store: &Store, query: &str) -> Vec<Value> {
    // Numbered as they come, so that the outer query keeps the order of the inner one.
    let numbered = format!(
        "select to_jsonb(seen) from (select row_number() over () as place, q.* from ({}) as q) as seen order by place",
        query.trim().trim_end_matches(';')
    );
    sqlx::query_scalar(AssertSqlSafe(numbered)).fetch_all(store.pool()).await.unwrap()
}

/// One column of what a query returns, in its order.
async fn column(store: &Store, query: &str, name: &str) -> Vec<Value> {
    rows(store, query).await.into_iter().map(|row| row[name].clone()).collect()
}

async fn run(store: &Store, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(store.pool()).await.unwrap();
}

/// A call that came in then, and perhaps has ended after so many seconds.
async fn call(
    store: &Store,
    (number, organization, agent): (u32, OrganizationId, AgentId),
    came: &str,
    end: Option<(EndReason, u64)>,
) {
    let call = CallRef { call_sid: sid(number), organization, agent };
    let at: Timestamp = came.parse().unwrap();
    let (from, to) = (CALLER.to_owned(), "+15005550000".to_owned());
    let incoming = CallEvent::Incoming { phone_number: None, from, to, to_team: false };
    lifecycle::record(store, &call, at, &incoming).await.unwrap();
    if let Some((reason, seconds)) = end {
        let (duration, report) = (Duration::from_secs(seconds), Map::new());
        let ended = CallEvent::Ended { token: TOKEN, reason, duration, report };
        lifecycle::record(store, &call, at + duration, &ended).await.unwrap();
    }
    let sid = sid(number);
    run(store, &format!("update calls set created_at = '{came}' where call_sid = '{sid}'")).await;
}

#[tokio::test]
async fn the_queries_of_calls_say_what_they_promise() {
    let store = support::store(2).await;
    let ours = default_agent(&store).await;
    let (theirs, their_agent) = other_tenant(&store).await;
    let second: Uuid = sqlx::query_scalar(
        "insert into agents (organization_id, name, instructions, vapi_assistant_id)
         values ($1, 'Second', 'Speak.', 'asst_2') returning id",
    )
    .bind(ours.organization_id.0)
    .fetch_one(store.pool())
    .await
    .unwrap();
    run(&store, &format!("update agents set vapi_assistant_id = 'asst_1' where id = '{}'", ours.id.0)).await;
    let (organization, agent) = (ours.organization_id, ours.id);
    let success = |seconds| Some((EndReason::AgentEnded, seconds));
    call(&store, (1, organization, agent), "2023-12-31T23:59:59Z", success(60)).await;
    call(&store, (2, organization, AgentId(second)), "2024-01-01T00:00:00Z", success(61)).await;
    call(&store, (3, organization, agent), "2024-01-31T23:59:59Z", Some((EndReason::ModelLost, 120))).await;
    call(&store, (4, organization, agent), "2024-02-01T00:00:00Z", None).await;
    call(&store, (5, theirs, their_agent), "2024-01-15T00:00:00Z", success(600)).await;
    let here = |query: &str| query.replace("uuid-here", &organization.0.to_string());
    let sids = async |query: &str| {
        let found = column(&store, query, "call_sid").await;
        let number = |sid: &Value| sid.as_str().unwrap().trim_start_matches(['C', 'A', '0']).parse::<u32>();
        found.iter().map(number).collect::<Result<Vec<_>, _>>().unwrap()
    };

    let of_organization =
        "SELECT * FROM calls \nWHERE organization_id = 'uuid-here'\nORDER BY created_at DESC;";
    assert_eq!(sids(&here(of_organization)).await, [4, 3, 2, 1]);
    let of_agent = "SELECT * FROM calls \nWHERE agent_id = 'uuid-here'\nORDER BY created_at DESC;";
    assert_eq!(sids(&of_agent.replace("uuid-here", &agent.0.to_string())).await, [4, 3, 1]);

    let with_details = here(
        "SELECT c.*, a.vapi_assistant_id, o.slug as organization_slug
         FROM calls c
         JOIN agents a ON c.agent_id = a.id
         JOIN organisations o ON c.organization_id = o.id
         WHERE c.organization_id = 'uuid-here'
         ORDER BY c.created_at DESC
         LIMIT 100;",
    );
    assert_eq!(sids(&with_details).await, [4, 3, 2, 1]);
    assert_eq!(
        column(&store, &with_details, "vapi_assistant_id").await,
        ["asst_1", "asst_1", "asst_2", "asst_1"]
    );
    assert_eq!(column(&store, &with_details, "organization_slug").await, ["default"; 4]);

    let of_january = "SELECT * FROM calls
        WHERE organization_id = 'uuid-here'
          AND created_at >= '2024-01-01'
          AND created_at < '2024-02-01'
        ORDER BY created_at DESC;";
    assert_eq!(sids(&here(of_january)).await, [3, 2]);

    let long = "SELECT * FROM calls\nWHERE (data->'call'->>'duration')::int > 60\nORDER BY created_at DESC;";
    assert_eq!(sids(long).await, [3, 5, 2], "of all organisations, as it is written");
    let completed =
        "SELECT * FROM calls\nWHERE data->'call'->>'status' = 'completed'\nORDER BY created_at DESC;";
    assert_eq!(sids(completed).await, [5, 2, 1]);

    let by_agent = here(
        "SELECT a.vapi_assistant_id, COUNT(*) as call_count
         FROM calls c
         JOIN agents a ON c.agent_id = a.id
         WHERE c.organization_id = 'uuid-here'
         GROUP BY a.id, a.vapi_assistant_id
         ORDER BY call_count DESC;",
    );
    let counted = rows(&store, &by_agent).await;
    let counted: Vec<_> = counted.iter().map(|row| (&row["vapi_assistant_id"], &row["call_count"])).collect();
    assert_eq!(counted, [(&json!("asst_1"), &json!(3)), (&json!("asst_2"), &json!(1))]);
}

#[tokio::test]
async fn the_query_of_interactions_says_what_it_promises() {
    let store = support::store(2).await;
    run(
        &store,
        r#"
        insert into interactions (id, organization_id, status, channel, direction, "customerId", "agentId", "startTime")
        select t.id, o.id, 'INITIATED', channel::interaction_channel, 'OUTBOUND', customer, 'test_agent_001', start::timestamptz
        from organisations o, (values
            ('test_interaction_1754628065_1', 'VOICE', 'test_customer_001', '2025-08-08 04:41:05'),
            ('later', 'VOICE', 'test_customer_001', '2025-08-08 04:41:06'),
            ('sms', 'SMS', 'test_customer_001', '2025-08-09 00:00:00'),
            ('of_another', 'VOICE', 'test_customer_002', '2025-08-09 00:00:00')
        ) as t (id, channel, customer, start);
        update interactions
        set status = 'COMPLETED', "endTime" = '2025-08-08 04:44:05', duration = 180, outcome = 'SUCCESS',
            "callDisposition" = '{"disposition": "USER_CLAIMED_PAYMENT", "connection_status": "CONNECTED",
                                  "call_duration": 180, "keywords_detected": ["payment", "tomorrow"]}',
            transcript = repeat('x', 99) || 'yz', recording = 'https://example.com/RE1', "recordingConsent" = true,
            "paymentDiscussed" = true, "paymentAmount" = 12.50, "paymentDate" = '2025-08-09 00:00:00',
            "followUpRequired" = false, "callQualityMetrics" = '{"mos": 4.2}', sentiment = 'POSITIVE',
            "customerSatisfactionScore" = 5
        where id = 'test_interaction_1754628065_1'
        "#,
    )
    .await;
    let query = r#"
        SELECT
            id,
            status,
            channel,
            "startTime",
            "endTime",
            duration,
            outcome,
            "callDisposition",
            LEFT(transcript, 100) as transcript_preview,
            recording,
            "paymentDiscussed",
            "paymentAmount",
            sentiment
        FROM interactions
        WHERE "customerId" = 'test_customer_001'
        AND channel = 'VOICE'
        ORDER BY "startTime" DESC;
    "#;
    let [later, first] = &rows(&store, query).await[..] else { panic!("two calls with this customer") };
    assert_eq!(
        (&later["id"], &later["status"], &later["outcome"]),
        (&json!("later"), &json!("INITIATED"), &Value::Null)
    );
    let expected = json!({
        "place": 2, "id": "test_interaction_1754628065_1", "status": "COMPLETED", "channel": "VOICE",
        "startTime": "2025-08-08T04:41:05+00:00", "endTime": "2025-08-08T04:44:05+00:00", "duration": 180,
        "outcome": "SUCCESS",
        "callDisposition": {
            "disposition": "USER_CLAIMED_PAYMENT", "connection_status": "CONNECTED", "call_duration": 180,
            "keywords_detected": ["payment", "tomorrow"],
        },
        "transcript_preview": format!("{}y", "x".repeat(99)), "recording": "https://example.com/RE1",
        "paymentDiscussed": true, "paymentAmount": 12.50, "sentiment": "POSITIVE",
    });
    assert_eq!(*first, expected);
}

/// Two leads that share a telephone, the first in a call with a callback and two turns, and another call of somebody else.
async fn a_call_of_a_lead(store: &Store) -> (OrganizationId, [i64; 2]) {
    let agent = default_agent(store).await;
    let organization = agent.organization_id;
    let ids =
        [add_lead(store, organization, CALLER).await.id, add_lead(store, organization, CALLER).await.id];
    offer_from(store, &agent, &sid(1), CALLER).await;
    offer_from(store, &agent, &sid(2), "+15005550002").await;
    for number in [1, 2] {
        let event = call_events::CarrierEvent {
            call_sid: sid(number),
            to: Some(if number == 1 { CALLER } else { "+15005550002" }.to_owned()),
            ..callback(organization, Some("in-progress"), Some(number))
        };
        assert!(call_events::record(store, &event).await.unwrap());
        let turns = Turns {
            organization,
            call_sid: sid(number),
            token: TOKEN,
            stream_started: "2025-11-23T10:30:00Z".parse().unwrap(),
            entries: vec![entry("item_2", 2, 1, "How are you?"), entry("item_1", 1, 1, "Hello")],
        };
        assert!(transcripts::save(store, &[turns]).await.unwrap().is_empty());
    }
    link_call(store, organization, ids[0], &sid(1)).await.unwrap();
    (organization, ids)
}

#[tokio::test]
async fn a_lead_its_call_and_what_was_said_lead_to_each_other_by_the_call_sid() {
    let store = support::store(2).await;
    let (organization, [lead, _]) = a_call_of_a_lead(&store).await;
    let sid = sid(1).as_str().to_owned();
    let here = |query: &str| query.replace('?', &format!("'{sid}'"));
    // As they are written, and as the client library of the document asks for them.
    let of_lead = format!("SELECT call_sid FROM leads WHERE id = {lead}");
    assert_eq!(column(&store, &of_lead, "call_sid").await, [sid.as_str()]);
    let events = rows(&store, &here("SELECT * FROM call_events WHERE call_sid = ?")).await;
    let [event] = &events[..] else { panic!("one callback: {events:?}") };
    for (member, value) in [
        ("to_number", json!(CALLER)),
        ("from_number", json!("anonymous")),
        ("call_status", json!("in-progress")),
        ("duration", json!(12)),
    ] {
        assert_eq!(event[member], value, "{member}");
    }
    let turns = here("SELECT * FROM conversation_transcripts WHERE call_sid = ?");
    let mut spoken = rows(&store, &turns).await;
    spoken.sort_by_key(|turn| turn["sequence"].as_i64());
    let words: Vec<_> = spoken.iter().map(|turn| (&turn["role"], &turn["content"])).collect();
    let by = json!("assistant");
    assert_eq!(words, [(&by, &json!("Hello")), (&by, &json!("How are you?"))]);
    assert_eq!(spoken[0]["timestamp"], "2025-11-23T10:30:01.5+00:00");
    // And back.
    let found = leads::by_call_sid(&store, organization, &crate::sid(1)).await.unwrap().unwrap();
    assert_eq!(found.id, lead);
}

#[tokio::test]
async fn a_lead_without_its_call_is_linked_as_the_trouble_shooting_says() {
    let store = support::store(2).await;
    let (organization, [first, second]) = a_call_of_a_lead(&store).await;
    run(&store, "update leads set call_sid = null").await;
    // A later call to the same telephone.
    let event = call_events::CarrierEvent {
        call_sid: sid(3),
        to: Some(CALLER.into()),
        ..callback(organization, Some("ringing"), Some(1))
    };
    call_events::record(&store, &event).await.unwrap();
    run(
        &store,
        &format!(
            "update call_events set created_at = created_at + interval '1 hour' where call_sid = '{}'",
            sid(3)
        ),
    )
    .await;
    let latest = format!(
        "SELECT call_sid FROM call_events WHERE to_number = '{CALLER}' ORDER BY created_at DESC LIMIT 1"
    );
    assert_eq!(column(&store, &latest, "call_sid").await, [sid(3).as_str()]);
    link_call(&store, organization, first, &sid(3)).await.unwrap();

    // Another lead cannot have the same call, until it is taken from the first.
    let twice = format!("update leads set call_sid = '{}' where id = {second}", sid(3));
    let error = sqlx::raw_sql(AssertSqlSafe(twice.clone())).execute(store.pool()).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().constraint(), Some("leads_call_sid"));
    let error = link_call(&store, organization, second, &sid(3)).await.unwrap_err();
    assert!(matches!(error, LinkError::CallBelongsTo { lead } if lead == first), "{error}");
    run(&store, &format!("update leads set call_sid = null where call_sid = '{}'", sid(3))).await;
    link_call(&store, organization, second, &sid(3)).await.unwrap();
    let linked = "SELECT id FROM leads WHERE call_sid IS NOT NULL";
    assert_eq!(column(&store, linked, "id").await, [second]);
}

#[tokio::test]
async fn the_call_sid_of_leads_is_found_where_it_is_looked_for() {
    let store = support::store(1).await;
    let added = rows(
        &store,
        "SELECT column_name, data_type, is_nullable
         FROM information_schema.columns
         WHERE table_name = 'leads' AND column_name = 'call_sid';",
    )
    .await;
    assert_eq!(
        added,
        [
            json!({"place": 1, "column_name": "call_sid", "data_type": "character varying", "is_nullable": "YES"})
        ]
    );
    let indexes =
        column(&store, "SELECT indexname FROM pg_indexes WHERE tablename = 'leads';", "indexname").await;
    assert!(indexes.contains(&json!("idx_leads_call_sid")), "{indexes:?}");
    // Whoever applies it once more changes nothing.
    run(&store, "ALTER TABLE leads\nADD COLUMN IF NOT EXISTS call_sid VARCHAR(50) UNIQUE;").await;
    let unique = "select conname from pg_constraint where conrelid = 'leads'::regclass and contype = 'u'";
    assert_eq!(column(&store, unique, "conname").await, ["leads_call_sid"]);
}

/// Columns of a table, and the words that one of them takes.
type Documented = (&'static str, &'static str, Option<(&'static str, &'static [&'static str])>);

const CALLING_TABLES: [Documented; 5] = [
    (
        "call_logs",
        "id, organization_id, lead_id, campaign_id, project_id, call_sid, direction, caller_number, callee_number, status,
         call_status, duration, recording_url, conversation_transcript, sentiment_score, interest_level,
         conversation_summary, transferred, transferred_at, transfer_reason, disconnect_reason, disconnect_notes, ai_analysis",
        Some(("direction", &["outbound", "inbound"])),
    ),
    (
        "campaigns",
        "id, organization_id, project_id, name, description, status, start_date, end_date, time_start, time_end, total_calls,
         answered_calls, transferred_calls, avg_sentiment_score, metadata",
        Some(("status", &["draft", "active", "paused", "completed"])),
    ),
    (
        "call_queue",
        "campaign_id, lead_id, status, attempt_count, max_attempts, next_retry_at, last_error",
        Some(("status", &["queued", "processing", "completed", "failed"])),
    ),
    (
        "call_attempts",
        "lead_id, campaign_id, call_log_id, attempt_number, channel, outcome, duration, will_retry, next_retry_at,
         retry_reason, voicemail_detected",
        None,
    ),
    (
        "agent_calls",
        "lead_id, campaign_id, ai_call_log_id, agent_id, agent_name, call_sid, started_at, ended_at, duration, recording_url,
         transcript, outcome, next_action, next_action_date, agent_notes, sentiment_score, interest_level, objections",
        None,
    ),
];

#[tokio::test]
async fn the_tables_of_calls_and_campaigns_have_the_columns_and_words_they_are_known_by() {
    let store = support::store(1).await;
    for (table, columns, words) in CALLING_TABLES {
        assert_eq!(rows(&store, &format!("select {columns} from {table}")).await, Vec::<Value>::new());
        let Some((column, words)) = words else { continue };
        let rule: String = sqlx::query(
            "select pg_get_constraintdef(oid) from pg_constraint where conrelid = $1::text::regclass and conname = $2",
        )
        .bind(table)
        .bind(format!("{table}_{column}"))
        .fetch_one(store.pool())
        .await
        .unwrap()
        .get(0);
        let found: Vec<&str> = rule.split('\'').skip(1).step_by(2).collect();
        assert_eq!(found, words, "{table}.{column}");
    }
    for (table, column) in
        [("call_logs", "ai_analysis"), ("campaigns", "metadata"), ("agent_calls", "objections")]
    {
        let kind: String = sqlx::query_scalar(
            "select data_type from information_schema.columns where table_name = $1 and column_name = $2",
        )
        .bind(table)
        .bind(column)
        .fetch_one(store.pool())
        .await
        .unwrap();
        assert_eq!(kind, "jsonb", "{table}.{column}");
    }
}

#[tokio::test]
async fn the_interactions_table_has_the_columns_the_platform_reads() {
    let store = support::store(1).await;
    for (name, kind) in [
        ("id", "text"),
        ("status", "interaction_status"),
        ("channel", "interaction_channel"),
        ("direction", "interaction_direction"),
        ("startTime", "timestamptz"),
        ("endTime", "timestamptz"),
        ("duration", "int4"),
        ("outcome", "interaction_outcome"),
        ("callDisposition", "jsonb"),
        ("transcript", "text"),
        ("recording", "text"),
        ("recordingConsent", "bool"),
        ("paymentDiscussed", "bool"),
        ("paymentAmount", "numeric"),
        ("paymentDate", "timestamptz"),
        ("followUpRequired", "bool"),
        ("callQualityMetrics", "jsonb"),
        ("sentiment", "interaction_sentiment"),
        ("customerSatisfactionScore", "int4"),
    ] {
        let found: Option<String> = sqlx::query_scalar(
            "select udt_name from information_schema.columns where table_name = 'interactions' and column_name = $1",
        )
        .bind(name)
        .fetch_optional(store.pool())
        .await
        .unwrap();
        assert_eq!(found.as_deref(), Some(kind), "{name}");
    }
}
