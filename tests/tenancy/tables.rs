//! Row-level security, table by table, as the database holds it: whatever a query says.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::Uuid;

use crate::operations::furnished;
use crate::surface::Server;

/// Tables that belong to nobody.
const OF_THE_SERVERS: [&str; 2] = ["dial_pace", "nodes"];
/// What PostgreSQL says of a row that a policy does not let in, and of a table that a role may not touch.
const REFUSED: &str = "42501";

impl Server {
    /// Every table that belongs to tenants, themselves among them.
    pub(crate) async fn tenant_tables(&self) -> Vec<String> {
        let found: String = self
            .scalar(
                "select string_agg(table_name, ',' order by table_name) from information_schema.columns
                 where table_schema = 'public' and (column_name = 'organization_id' or table_name = 'organisations' and column_name = 'id')",
            )
            .await;
        found.split(',').map(str::to_owned).collect()
    }

    pub(crate) async fn as_tenant(&self, organization: Option<Uuid>) -> PgConnection {
        let mut connection = PgConnection::connect_with(&self.store.pool().connect_options()).await.unwrap();
        connection.execute("set role voicebridge_api").await.unwrap();
        if let Some(id) = organization {
            connection.execute(AssertSqlSafe(format!("set app.organization_id = '{id}'"))).await.unwrap();
        }
        connection
    }
}

/// A server on which every table of tenants has a row of the first, and nobody else has any; and the second tenant.
async fn with_rows() -> (Server, Uuid) {
    let server = furnished().await;
    server.fill_every_table().await;
    server.execute("insert into organisations (slug, name) values ('other', 'Other')").await;
    let other = server.scalar("select id from organisations where slug = 'other'").await;
    (server, other)
}

impl Server {
    /// Adds rows where the API alone has brought none.
    pub(crate) async fn fill_every_table(&self) {
        self.execute(
            "insert into conversation_transcripts (organization_id, call_sid, sequence, item_id, revision, role, content, timestamp)
             select organization_id, call_sid, 1, 'item_1', 1, 'user', 'Good morning.', now() from calls where call_sid is not null limit 1;
             insert into call_events (organization_id, call_sid, call_status)
             select organization_id, call_sid, 'ringing' from calls where call_sid is not null limit 1;
             insert into call_leases (call_sid, organization_id, agent_id, fencing_token)
             select call_sid, organization_id, agent_id, 1 from calls where call_sid is not null limit 1;
             insert into call_streams (call_sid, fencing_token, organization_id)
             select call_sid, 1, organization_id from calls where call_sid is not null limit 1;
             insert into call_commands (organization_id, call_sid, kind, payload)
             select organization_id, call_sid, 'say', '{}' from calls where call_sid is not null limit 1;
             insert into call_attempts (organization_id, queue_id, agent_id, attempt_number, to_number, from_number, node, requested_at)
             select call_queue.organization_id, call_queue.id, agents.id, 1, '+14155550177', '+14155550199', 'node', now()
             from call_queue, agents limit 1;
             insert into vapi_calls (call_id, organization_id, vapi_call_id) select id, organization_id, 'v1' from calls limit 1;
             insert into webhook_attempts (delivery_id, attempt, organization_id, at, duration_ms)
             select id, 1, organization_id, now(), 5 from webhook_deliveries limit 1;
             insert into retention_policies (organization_id) select id from organisations;
             insert into erased_calls (call_sid_sha256, organization_id) select sha256('CA9'), id from organisations;
             insert into dial_turns (whose, organization_id, last_at) select id, id, now() from organisations limit 1;
             insert into team_members (organization_id, team_id, name, number) select organization_id, id, 'Ada', '+14155550166' from teams limit 1;
             insert into schedule_holidays (schedule_id, organization_id, day) select id, organization_id, '2026-12-25' from schedules limit 1;
             insert into schedule_spans (schedule_id, organization_id, weekday, opens, closes) select id, organization_id, 1, '09:00', '17:00' from schedules limit 1;",
        )
        .await;
        self.key_of("default", &["read"]).await;
    }
}

#[tokio::test]
async fn every_table_of_tenants_is_protected_and_every_other_is_out_of_reach() {
    let server = Server::new().await;
    let unprotected: Option<String> = server
        .scalar(
            "select string_agg(relname, ', ') from pg_class
             where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relrowsecurity
               and relname <> '_sqlx_migrations'",
        )
        .await;
    assert_eq!(unprotected.as_deref(), Some(OF_THE_SERVERS.join(", ").as_str()));
    for table in server.tenant_tables().await {
        let policies: String = server
            .scalar(&format!(
                "select string_agg(policyname || ' to ' || array_to_string(roles, ','), '; ' order by policyname)
                 from pg_policies where tablename = '{table}'"
            ))
            .await;
        assert_eq!(
            policies,
            "Allow all for service role to voicebridge_service; Allow own organization to voicebridge_api",
            "{table}"
        );
    }
    let mut tenant = server.as_tenant(None).await;
    for (table, may_look) in [("dial_pace", false), ("nodes", true), ("_sqlx_migrations", false)] {
        let looked = tenant.execute(AssertSqlSafe(format!("select from {table}"))).await;
        assert_eq!(looked.is_ok(), may_look, "{table}");
        let changed = tenant.execute(AssertSqlSafe(format!("delete from {table}"))).await;
        assert_eq!(code(&changed.unwrap_err()), REFUSED, "{table}");
    }
}

#[tokio::test]
async fn a_tenant_sees_its_own_rows_of_every_table_and_nobody_elses() {
    let (server, other) = with_rows().await;
    let first: Uuid = server.scalar("select id from organisations where slug = 'default'").await;
    let (mut own, mut others, mut nobodys) = (
        server.as_tenant(Some(first)).await,
        server.as_tenant(Some(other)).await,
        server.as_tenant(None).await,
    );
    for table in server.tenant_tables().await {
        let count = format!("select count(*) from {table}");
        let all = server.count(&table).await - i64::from(table == "organisations");
        assert!(all > 0, "{table} has a row that could be seen");
        let mut seen = Vec::new();
        for tenant in [&mut own, &mut others, &mut nobodys] {
            seen.push(
                sqlx::query_scalar::<_, i64>(AssertSqlSafe(count.clone())).fetch_one(tenant).await.unwrap(),
            );
        }
        let itself = i64::from(table == "organisations");
        assert_eq!(seen, [all, itself, 0], "{table}");
    }
}

#[tokio::test]
async fn a_tenant_changes_and_adds_no_row_of_another_in_any_table() {
    let (server, other) = with_rows().await;
    let mut tenant = server.as_tenant(Some(other)).await;
    for table in server.tenant_tables().await {
        let columns: String = server
            .scalar(&format!(
                "select string_agg(quote_ident(column_name), ', ' order by ordinal_position) from information_schema.columns
                 where table_schema = 'public' and table_name = '{table}' and is_generated = 'NEVER'"
            ))
            .await;
        let owner = if table == "organisations" { "id" } else { "organization_id" };
        let before: String = server
            .scalar(&format!("select md5(string_agg(t::text, ' ' order by t::text)) from {table} t"))
            .await;
        let row: serde_json::Value = server
            .scalar(&format!("select to_jsonb(t) from {table} t where {owner} <> '{other}' limit 1"))
            .await;
        for change in [format!("update {table} set {owner} = {owner}"), format!("delete from {table}")] {
            match tenant.execute(AssertSqlSafe(change.clone())).await {
                // Of organisations it has its own.
                Ok(done) => assert_eq!(done.rows_affected(), 0, "{change}"),
                Err(error) => assert_eq!(code(&error), REFUSED, "{change}: {error}"),
            }
        }
        // Another id would let a row in that stands in nobody's way.
        let insert = format!(
            "insert into {table} ({columns}) overriding system value
             select {columns} from jsonb_populate_record(null::{table}, $1)"
        );
        let added = sqlx::query(AssertSqlSafe(insert)).bind(row).execute(&mut tenant).await;
        assert_eq!(code(&added.unwrap_err()), REFUSED, "{table}");
        let after: String = server
            .scalar(&format!("select md5(string_agg(t::text, ' ' order by t::text)) from {table} t"))
            .await;
        assert_eq!(before, after, "{table}");
    }
}

/// What a request may do to rows it sees, table by table: what a route needs, and a line here for what the next one will.
const GRANTED: &str = "\
agent_calls: select, update (agent_notes interest_level next_action next_action_date objections outcome updated_at)
agents: delete, insert, select, update
api_key_secrets: delete, insert, select, update (expires_at)
api_keys: insert, select, update (expires_at name requests_per_minute revoked_at scopes)
audit_log: insert, select
call_attempts: select, update (next_retry_at retry_reason will_retry)
call_briefs: select
call_commands: insert, select
call_events: select
call_leases: select
call_logs: select
call_queue: insert, select, update
call_streams: select
calls: select
campaigns: delete, insert, select, update
conversation_transcripts: select
dial_turns: select
do_not_call: delete, insert, select
erased_calls: select
erasures: select
interactions: insert, select, update (callDisposition dispatchedAt endTime outcome status updatedAt)
ivr_calls: select, update (lead_id)
ivr_messages: select, update (from_phone to_phone)
ivr_providers: delete, insert, select, update
kaleyra_call_logs: select
kaleyra_syncs: select
leads: insert, select, update
nodes: select
organisations: select, update (name)
phone_numbers: delete, insert, select, update
projects: delete, insert, select, update
retention_policies: insert, select, update
retention_runs: select
routing_decisions: select
schedule_holidays: delete, insert, select
schedule_spans: delete, insert, select
schedules: delete, insert, select, update
team_members: delete, insert, select, update
teams: delete, insert, select, update
vapi_accounts: delete, insert, select
vapi_calls: select
webhook_attempts: select
webhook_deliveries: insert, select, update
webhook_endpoints: insert, select, update";

#[tokio::test]
async fn a_request_may_do_to_each_table_what_its_routes_need_and_no_more() {
    let server = Server::new().await;
    // What everybody may is granted to the role as well.
    let granted: String = server
        .scalar(
            r#"
            with granted as (
                select relname, lower(privilege_type) as what
                from pg_class, aclexplode(relacl)
                where relnamespace = 'public'::regnamespace and grantee in (0, 'voicebridge_api'::regrole)
                union all
                select relname,
                       lower(privilege_type) || ' (' || string_agg(attname, ' ' order by attname) || ')'
                from pg_class
                join pg_attribute on attrelid = pg_class.oid,
                aclexplode(attacl)
                where relnamespace = 'public'::regnamespace and grantee in (0, 'voicebridge_api'::regrole)
                group by relname, privilege_type
            ),
            lines as (
                select relname, relname || ': ' || string_agg(what, ', ' order by what collate "C") as line
                from granted
                group by relname
            )
            select string_agg(line, E'\n' order by relname) from lines
            "#,
        )
        .await;
    assert_eq!(granted.lines().collect::<Vec<_>>(), GRANTED.lines().collect::<Vec<_>>());
    let inherited = "select count(*) from pg_auth_members where member = 'voicebridge_api'::regrole";
    assert_eq!(server.scalar::<i64>(inherited).await, 0, "nor has it what others have");
}

fn code(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.map(std::borrow::Cow::into_owned).unwrap_or_default()
}
