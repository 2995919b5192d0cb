//! The table and the functions are as their description has them.

use crate::support;

#[tokio::test]
async fn the_log_has_the_columns_indexes_and_policy_of_its_description() {
    let store = support::store(1).await;
    let texts = async |sql: &str| -> Vec<String> {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_all(store.pool()).await.unwrap()
    };
    let columns = texts(
        "select concat_ws(' ', column_name, data_type, is_nullable, column_default)
         from information_schema.columns where table_name = 'kaleyra_call_logs' order by ordinal_position",
    )
    .await;
    assert_eq!(
        columns,
        [
            "id text NO",
            "uniqid text YES",
            "callfrom text NO",
            "callto text NO",
            "start_time timestamp with time zone NO",
            "end_time timestamp with time zone YES",
            "duration integer NO 0",
            "billsec integer NO 0",
            "status text NO",
            "location text YES",
            "provider text YES",
            "service text NO",
            "caller_id text YES",
            "recording text YES",
            "notes text YES",
            "custom text YES",
            "synced_at timestamp with time zone NO now()",
            "organization_id uuid NO",
            "lead_id bigint YES",
        ]
    );
    let key = texts(
        "select pg_get_constraintdef(oid) from pg_constraint
         where conrelid = 'kaleyra_call_logs'::regclass and contype = 'p'",
    )
    .await;
    assert_eq!(key, ["PRIMARY KEY (id)"]);
    let indexes = texts(
        "select indexdef from pg_indexes
         where tablename = 'kaleyra_call_logs' and indexname like 'idx%' order by indexname",
    )
    .await;
    assert_eq!(
        indexes,
        [
            "CREATE INDEX idx_kaleyra_logs_callto ON public.kaleyra_call_logs USING btree (callto)",
            "CREATE INDEX idx_kaleyra_logs_service ON public.kaleyra_call_logs USING btree (service)",
            "CREATE INDEX idx_kaleyra_logs_start_time ON public.kaleyra_call_logs USING btree (start_time)",
            "CREATE INDEX idx_kaleyra_logs_status ON public.kaleyra_call_logs USING btree (status)",
        ]
    );
    let policies = texts(
        "select concat_ws(' ', policyname, roles, cmd, qual) from pg_policies
         where tablename = 'kaleyra_call_logs' order by policyname",
    )
    .await;
    assert_eq!(
        policies,
        [
            // Its description has it: whoever reports from the database sees, and may mend, the rows of everybody.
            "Allow all for service role {voicebridge_service} ALL true",
            // As of every table that belongs to organisations: a request sees those of its own, which it may only read.
            "Allow own organization {voicebridge_api} ALL \
             (organization_id = ( SELECT current_organization() AS current_organization))",
        ]
    );
    let granted = texts(
        "select privilege_type from information_schema.role_table_grants
         where table_name = 'kaleyra_call_logs' and grantee = 'voicebridge_api'",
    )
    .await;
    assert_eq!(granted, ["SELECT"]);
    let secured =
        texts("select relrowsecurity::text from pg_class where oid = 'kaleyra_call_logs'::regclass").await;
    assert_eq!(secured, ["true"]);
}

#[tokio::test]
async fn the_functions_take_and_give_what_their_description_says_with_the_rights_of_whoever_asks() {
    let store = support::store(1).await;
    let functions: Vec<String> = sqlx::query_scalar(
        "select concat_ws(' | ', proname, pg_get_function_arguments(oid), pg_get_function_result(oid),
                          provolatile, prosecdef,
                          has_function_privilege('voicebridge_api', oid, 'execute')
                          and has_function_privilege('voicebridge_service', oid, 'execute'))
         from pg_proc where proname like 'get_kaleyra%' order by proname",
    )
    .fetch_all(store.pool())
    .await
    .unwrap();
    let takes = "p_start timestamp with time zone, p_end timestamp with time zone";
    assert_eq!(
        functions,
        [
            (
                "agent_stats",
                "agent_number text, calls_answered bigint, total_talk_seconds bigint, missed_calls bigint"
            ),
            ("call_volume", "total bigint, incoming bigint, forwarded bigint, click2call bigint"),
            ("daily_volume", "date date, incoming bigint, forwarded bigint"),
            ("status_breakdown", "status text, count bigint"),
        ]
        .map(|(name, gives)| format!("get_kaleyra_{name} | {takes} | TABLE({gives}) | s | f | t"))
    );
}
