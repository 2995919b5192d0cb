//! Every column that can hold words has been thought about.

use std::collections::{BTreeMap, BTreeSet};

use voicebridge::store::privacy::{HOLDINGS, Holds};

use crate::support;

#[tokio::test]
async fn every_column_of_a_tenants_table_that_can_hold_words_says_what_it_holds() {
    let store = support::store(1).await;
    let columns: Vec<(String, String)> = sqlx::query_as(
        "select c.table_name::text, c.column_name::text
         from information_schema.columns c
         join information_schema.tables t using (table_schema, table_name)
         where c.table_schema = 'public'
           and t.table_type = 'BASE TABLE'
           and c.data_type in ('text', 'character varying', 'character', 'json', 'jsonb')
           and exists (
               select from information_schema.columns o
               where o.table_schema = 'public' and o.table_name = c.table_name and o.column_name = 'organization_id'
           )",
    )
    .fetch_all(store.pool())
    .await
    .unwrap();
    let there_are: BTreeSet<(&str, &str)> =
        columns.iter().map(|(table, column)| (table.as_str(), column.as_str())).collect();
    let mut told: BTreeMap<(&str, &str), Holds> = BTreeMap::new();
    for (table, parts) in HOLDINGS {
        for (holds, columns) in *parts {
            for column in *columns {
                let before = told.insert((table, column), *holds);
                assert_eq!(before, None, "{table}.{column} is told twice");
            }
        }
    }
    let told: BTreeSet<_> = told.into_keys().collect();
    let untold: Vec<_> = there_are.difference(&told).collect();
    assert!(
        untold.is_empty(),
        "say in store::privacy::HOLDINGS what these hold, and see to it in erasure and retention: {untold:?}"
    );
    let gone: Vec<_> = told.difference(&there_are).collect();
    assert!(gone.is_empty(), "there are no such columns: {gone:?}");
}

/// A table that names calls takes no rows of those that were erased: as a rule, and not by remembering to ask.
#[tokio::test]
async fn every_table_that_names_a_call_refuses_those_that_were_erased() {
    // Rows of these are written for people and tries, whose own rows are gone; and of what was looked at by whom.
    let exempt = ["audit_log", "call_attempts", "do_not_call", "interactions", "leads"];
    let store = support::store(1).await;
    let open: Vec<String> = sqlx::query_scalar(
        "select c.table_name || '.' || c.column_name
         from information_schema.columns c
         where c.table_schema = 'public'
           and c.column_name in ('call_sid', 'parent_call_sid')
           and c.table_name <> all($1)
           and not exists (
               select from pg_trigger
               where tgrelid = c.table_name::regclass and tgname = 'refuse_erased_' || c.column_name
           )",
    )
    .bind(exempt.map(str::to_owned).to_vec())
    .fetch_all(store.pool())
    .await
    .unwrap();
    assert!(open.is_empty(), "call refuse_erased_calls for these: {open:?}");
}
