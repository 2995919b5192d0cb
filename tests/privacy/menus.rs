//! People who have called menu systems.

use std::time::Duration;

use serde_json::json;

use crate::life::Office;

const THEIRS: &str = "+919812345678";
const NATIONAL: &str = "9812345678";

impl Office {
    /// A provider in India, and a call of theirs whose row does not say who it was: one of its messages does.
    async fn has_called_a_menu_system(&self) {
        self.execute(&format!(
            "insert into ivr_providers (organization_id, name, secret_sha256, mapping, country_code)
             select id, 'menu', sha256('x'), '{{\"call_id\": \"id\"}}', 'IN' from organisations;
             insert into ivr_calls (organization_id, provider_id, provider_call_id, payload, received_at)
             select organization_id, id, call, '{{}}', now() from ivr_providers, unnest(array['theirs', 'other']) as call;
             insert into ivr_messages (organization_id, provider_id, provider_call_id, from_number, from_phone, payload,
                                       payload_sha256, received_at)
             select organization_id, provider_id, provider_call_id,
                    case when provider_call_id = 'theirs' then '{NATIONAL}' end,
                    case when provider_call_id = 'theirs' then '{THEIRS}' end, '{{\"who\": 1}}', sha256('x'), now()
             from ivr_calls"
        ))
        .await;
    }
}

#[tokio::test]
async fn whoever_is_named_in_any_message_of_a_call_is_found_and_the_call_does_not_come_back() {
    let office = Office::open().await;
    office.has_called_a_menu_system().await;
    let gone = office.post("/api/privacy/erasures", json!({"phone": THEIRS, "dry_run": false})).await.data();
    assert_eq!(
        gone["counts"],
        json!([{"table": "ivr_messages", "rows": 1}, {"table": "ivr_calls", "rows": 1}])
    );
    let left = "select string_agg(provider_call_id, ' ') from ivr_calls";
    assert_eq!(office.scalar::<String>(left).await, "other");
    office
        .execute(
            "insert into ivr_calls (organization_id, provider_id, provider_call_id, payload, received_at)
             select organization_id, id, 'theirs', '{}', now() from ivr_providers",
        )
        .await;
    assert_eq!(office.scalar::<String>(left).await, "other");
}

#[tokio::test]
async fn nobody_who_tells_of_calls_waits_for_a_dry_run() {
    let office = Office::open().await;
    office.has_called_a_menu_system().await;
    office.post("/api/leads", json!({"phone": THEIRS})).await;
    let mut slow = office.store.pool().begin().await.unwrap();
    sqlx::query("select from leads for update").execute(&mut *slow).await.unwrap();
    let told = async {
        let waits = "select exists (select from pg_stat_activity
                     where datname = current_database() and wait_event_type = 'Lock')";
        while !office.scalar::<bool>(waits).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        office
            .execute(
                "set lock_timeout = '2s';
                 insert into ivr_calls (organization_id, provider_id, provider_call_id, payload, received_at)
                 select organization_id, id, 'another', '{}', now() from ivr_providers;
                 reset lock_timeout",
            )
            .await;
        slow.rollback().await.unwrap();
    };
    let dry_run = office.post("/api/privacy/erasures", json!({"phone": THEIRS}));
    let (dry_run, ()) = tokio::join!(dry_run, told);
    assert_eq!(dry_run.data()["dry_run"], true);
    assert_eq!(office.count("ivr_calls").await, 3);
}
