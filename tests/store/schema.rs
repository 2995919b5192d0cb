//! What the migrations make.

use sqlx::{Executor, Row};

use crate::support;
use crate::{default_agent, other_tenant, phone, sid};
use voicebridge::lifecycle::{self, CallEvent, CallRef};
use voicebridge::store::{agents, calls, organisations, phone_numbers};

#[tokio::test]
async fn migrations_apply_to_an_empty_database_and_a_second_time_change_nothing() {
    let store = support::store(2).await;
    store.pool().execute("drop schema public cascade; create schema public").await.unwrap();
    store.migrate().await.unwrap();
    let applied = "select count(*) from _sqlx_migrations where success";
    let first: i64 = sqlx::query_scalar(applied).fetch_one(store.pool()).await.unwrap();
    assert!(first > 0);
    store.migrate().await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, i64>(applied).fetch_one(store.pool()).await.unwrap(), first);
    let organisations: i64 =
        sqlx::query_scalar("select count(*) from organisations").fetch_one(store.pool()).await.unwrap();
    assert_eq!(organisations, 1);
}

#[tokio::test]
async fn the_calls_table_is_as_documented() {
    let store = support::store(1).await;
    let columns: Vec<String> = sqlx::query_scalar(
        "select concat_ws(' ', column_name, data_type, is_nullable, column_default)
         from information_schema.columns where table_name = 'calls' order by ordinal_position",
    )
    .fetch_all(store.pool())
    .await
    .unwrap();
    assert_eq!(
        columns,
        [
            "id uuid NO gen_random_uuid()",
            "organization_id uuid NO",
            "agent_id uuid NO",
            "phone_number_id uuid YES",
            "call_sid text YES",
            "event_sequence jsonb NO '[]'::jsonb",
            "routing_status text YES",
            "created_at timestamp with time zone YES now()",
            "data jsonb NO",
        ]
    );
    let indexes: Vec<String> = sqlx::query_scalar(
        "select indexdef from pg_indexes where tablename = 'calls' and indexname like 'idx%' order by indexname",
    )
    .fetch_all(store.pool())
    .await
    .unwrap();
    let indexes: Vec<&str> = indexes.iter().map(|index| index.trim_start_matches("CREATE INDEX ")).collect();
    assert_eq!(
        indexes,
        [
            "idx_calls_agent_id ON public.calls USING btree (agent_id)",
            "idx_calls_call_sid ON public.calls USING btree (call_sid)",
            "idx_calls_created_at ON public.calls USING btree (created_at DESC)",
            "idx_calls_org_created ON public.calls USING btree (organization_id, created_at DESC)",
            "idx_calls_organization_id ON public.calls USING btree (organization_id)",
            "idx_calls_phone_number_created ON public.calls USING btree (phone_number_id, created_at DESC)",
            "idx_calls_phone_number_id ON public.calls USING btree (phone_number_id)",
        ]
    );
}

#[tokio::test]
async fn every_table_has_a_comment_and_every_constraint_a_chosen_name() {
    let store = support::store(1).await;
    let silent: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class
         where relkind = 'r' and relnamespace = 'public'::regnamespace and relname <> '_sqlx_migrations'
           and obj_description(oid, 'pg_class') is null",
    )
    .fetch_all(store.pool())
    .await
    .unwrap();
    assert!(silent.is_empty(), "tables without a comment: {silent:?}");
    // The names PostgreSQL makes up end like this.
    let unnamed: Vec<String> = sqlx::query_scalar(
        "select conname::text from pg_constraint
         where connamespace = 'public'::regnamespace and conname ~ '_(fkey|check|key)[0-9]*$'",
    )
    .fetch_all(store.pool())
    .await
    .unwrap();
    assert!(unnamed.is_empty(), "constraints without a name of ours: {unnamed:?}");
}

#[tokio::test]
async fn leads_carry_a_unique_and_indexed_call_sid() {
    let store = support::store(1).await;
    let column = sqlx::query(
        "select data_type, character_maximum_length from information_schema.columns
         where table_name = 'leads' and column_name = 'call_sid'",
    )
    .fetch_one(store.pool())
    .await
    .unwrap();
    assert_eq!((column.get::<&str, _>(0), column.get::<i32, _>(1)), ("character varying", 50));
    let indexes: Vec<bool> = sqlx::query_scalar(
        "select indisunique from pg_index where indrelid = 'leads'::regclass and indkey::text = (
            select attnum::text from pg_attribute where attrelid = 'leads'::regclass and attname = 'call_sid')
         order by indisunique",
    )
    .fetch_all(store.pool())
    .await
    .unwrap();
    assert_eq!(indexes, [false, true], "idx_leads_call_sid and the unique one");
}

#[tokio::test]
async fn a_second_default_agent_of_an_organisation_is_refused() {
    let store = support::store(1).await;
    let error = sqlx::query(
        "insert into agents (organization_id, name, instructions, is_default)
         select id, 'Second', 'Speak.', true from organisations",
    )
    .execute(store.pool())
    .await
    .unwrap_err();
    assert_eq!(error.as_database_error().unwrap().constraint(), Some("agents_one_default"));
}

#[tokio::test]
async fn an_agent_is_found_by_id_by_number_and_by_default() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    assert_eq!(organisations::default_organization(&store).await.unwrap(), agent.organization_id);
    let number = phone("+15005550006");
    assert!(agents::by_phone_number(&store, &number).await.unwrap().is_none());
    let id =
        phone_numbers::create(&store, agent.organization_id, agent.id, &number, "front desk").await.unwrap();
    assert_eq!(agents::by_phone_number(&store, &number).await.unwrap().unwrap().id, agent.id);
    assert_eq!(agents::agent(&store, agent.id).await.unwrap().unwrap().name, agent.name);
    let own = phone_numbers::by_number(&store, &number).await.unwrap().unwrap();
    assert_eq!((own.id, own.agent_id, own.organization_id), (id, agent.id, agent.organization_id));

    sqlx::query("update agents set enabled = false").execute(store.pool()).await.unwrap();
    assert!(agents::default_agent(&store).await.unwrap().is_none(), "a disabled agent takes no calls");
    assert!(!agents::agent(&store, agent.id).await.unwrap().unwrap().enabled);
}

#[tokio::test]
async fn everything_an_agent_can_be_told_is_read_back() {
    let store = support::store(1).await;
    let agent = default_agent(&store).await;
    assert!(agent.reversible_barge_in, "unless it is told otherwise");
    sqlx::query(
        r#"update agents set
            audio_format = 'pcmu', transfer_number = '+15005550009', max_duration_s = 60, languages = '{de,en}',
            reversible_barge_in = false,
            turn_detection = '{"type": "semantic_vad", "eagerness": "low"}',
            tools = '[{"name": "weather", "description": "Looks outside.", "parameters": {"type": "object"},
                       "url": "https://example.com/weather", "timeout_ms": 1500,
                       "secret_header": {"name": "x-key", "value": "hidden"}}]'"#,
    )
    .execute(store.pool())
    .await
    .unwrap();
    let agent = agents::agent(&store, agent.id).await.unwrap().unwrap();
    assert_eq!(agent.audio_format.unwrap().to_string(), "pcmu");
    assert_eq!(agent.transfer_number.clone().unwrap().expose(), "+15005550009");
    assert_eq!(agent.max_duration.as_secs(), 60);
    assert_eq!(agent.languages, ["de", "en"]);
    assert!(!agent.reversible_barge_in);
    assert!(matches!(
        agent.turn_detection,
        Some(voicebridge::wire::model::TurnDetection::SemanticVad { .. })
    ));
    assert_eq!((agent.tools[0].name.as_str(), agent.tools[0].timeout_ms), ("weather", 1500));
    assert!(!format!("{agent:?}").contains("hidden"), "secrets do not print");
}

#[tokio::test]
async fn an_agent_with_an_impossible_transfer_number_still_answers() {
    let store = support::store(1).await;
    sqlx::query("update agents set transfer_number = '+123'").execute(store.pool()).await.unwrap();
    assert_eq!(default_agent(&store).await.transfer_number, None);
}

#[tokio::test]
async fn a_number_is_answered_by_an_agent_of_its_own_organisation() {
    let store = support::store(1).await;
    let agent = default_agent(&store).await;
    let (other, _) = other_tenant(&store).await;
    let error = phone_numbers::create(&store, other, agent.id, &phone("+15005550006"), "").await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().constraint(), Some("phone_numbers_agent"));
}

#[tokio::test]
async fn a_call_outlives_its_number_but_not_its_agent_or_organisation() {
    let store = support::store(2).await;
    let agent = default_agent(&store).await;
    let (other, others_agent) = other_tenant(&store).await;
    let number =
        phone_numbers::create(&store, other, others_agent, &phone("+15005550006"), "").await.unwrap();
    let incoming =
        |phone_number| CallEvent::Incoming { phone_number, from: "a".into(), to: "b".into(), to_team: false };
    let ours = CallRef { call_sid: sid(1), organization: agent.organization_id, agent: agent.id };
    let theirs = CallRef { call_sid: sid(2), organization: other, agent: others_agent };
    lifecycle::record(&store, &ours, jiff::Timestamp::UNIX_EPOCH, &incoming(None)).await.unwrap();
    lifecycle::record(&store, &theirs, jiff::Timestamp::UNIX_EPOCH, &incoming(Some(number))).await.unwrap();
    let found = async |number| calls::by_call_sid(&store, &sid(number)).await.unwrap();
    assert_eq!(found(2).await.unwrap().phone_number_id, Some(number));

    sqlx::query("delete from phone_numbers").execute(store.pool()).await.unwrap();
    assert_eq!(found(2).await.unwrap().phone_number_id, None);

    sqlx::query("delete from agents where id = $1").bind(agent.id.0).execute(store.pool()).await.unwrap();
    assert!(found(1).await.is_none());

    phone_numbers::create(&store, other, others_agent, &phone("+15005550006"), "").await.unwrap();
    sqlx::query("delete from organisations where id = $1").bind(other.0).execute(store.pool()).await.unwrap();
    assert!(found(2).await.is_none());
}
