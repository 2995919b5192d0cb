//! The counters of campaigns against what the records say.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::server::Server;

/// What somebody does to the record of a call. `call` is one of a few, so that they meet.
#[derive(Debug, Clone)]
enum Change {
    Insert { call: u8, campaign: Option<u8>, answered: bool, score: Option<i16> },
    Move { call: u8, campaign: Option<u8> },
    Answer { call: u8, answered: bool },
    Transfer { call: u8, transferred: bool },
    Score { call: u8, score: Option<i16> },
    Delete { call: u8 },
    All { transferred: bool },
}

fn any_change() -> impl Strategy<Value = Change> {
    let call = || 0..12_u8;
    let campaign = || prop::option::weighted(0.8, 0..3_u8);
    let score = || prop::option::of(-100..100_i16);
    prop_oneof![
        4 => (call(), campaign(), any::<bool>(), score())
            .prop_map(|(call, campaign, answered, score)| Change::Insert { call, campaign, answered, score }),
        2 => (call(), campaign()).prop_map(|(call, campaign)| Change::Move { call, campaign }),
        2 => (call(), any::<bool>()).prop_map(|(call, answered)| Change::Answer { call, answered }),
        2 => (call(), any::<bool>()).prop_map(|(call, transferred)| Change::Transfer { call, transferred }),
        2 => (call(), score()).prop_map(|(call, score)| Change::Score { call, score }),
        2 => call().prop_map(|call| Change::Delete { call }),
        1 => any::<bool>().prop_map(|transferred| Change::All { transferred }),
    ]
}

#[tokio::test]
async fn counters_equal_the_records_whatever_is_done_to_them_by_however_many_at_once() {
    let server = Server::with_number().await;
    server
        .execute("insert into campaigns (organization_id, name) select id, n::text from organisations, generate_series(0, 2) n")
        .await;
    let mut runner = TestRunner::deterministic();
    let script = prop::collection::vec(any_change(), 60);
    for round in 0..6 {
        let scripts: Vec<Vec<Change>> =
            (0..4).map(|_| script.new_tree(&mut runner).unwrap().current()).collect();
        let pool = server.store.pool();
        let [a, b, c, d] = &scripts[..] else { unreachable!("there are four") };
        tokio::join!(play(pool, a), play(pool, b), play(pool, c), play(pool, d));
        assert_eq!(counted(&server).await, recounted(&server).await, "round {round}: {scripts:?}");
    }
    let calls = server.scalar::<Value>("select to_jsonb(sum(total_calls)) from campaigns").await;
    assert!(calls.as_u64().is_some_and(|calls| calls > 0), "something was counted");
}

#[tokio::test]
async fn a_change_that_is_taken_back_counts_nothing() {
    let server = Server::with_number().await;
    server.execute("insert into campaigns (organization_id, name) select id, '0' from organisations").await;
    let mut transaction = server.store.pool().begin().await.unwrap();
    sqlx::query(
        "insert into call_logs (organization_id, campaign_id, call_sid, direction, answered_at)
         select organization_id, id, 'CA1', 'outbound', now() from campaigns",
    )
    .execute(&mut *transaction)
    .await
    .unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(
        counted(&server).await,
        json!([{"name": "0", "total": 0, "answered": 0, "transferred": 0, "average": null}])
    );
}

async fn play(pool: &PgPool, changes: &[Change]) {
    for change in changes {
        let result = apply(pool, change).await;
        // Two who change several records in different orders may meet: one of them is told, and nothing of it is done.
        if let Err(error) = result {
            let is_deadlock =
                error.as_database_error().is_some_and(|it| it.code().as_deref() == Some("40P01"));
            assert!(is_deadlock, "{error}");
        }
    }
}

async fn apply(pool: &PgPool, change: &Change) -> sqlx::Result<()> {
    let sid = |call: &u8| format!("CA{call}");
    let name = |campaign: &Option<u8>| campaign.map(|campaign| campaign.to_string());
    let query = match change {
        Change::Insert { call, campaign, answered, score } => sqlx::query(
            "insert into call_logs (organization_id, call_sid, direction, campaign_id, answered_at, sentiment_score)
             select id, $1, 'outbound', (select id from campaigns where name = $2), case when $3 then now() end,
                    $4::numeric / 100
             from organisations on conflict (call_sid) do nothing",
        )
        .bind(sid(call))
        .bind(name(campaign))
        .bind(answered)
        .bind(score),
        Change::Move { call, campaign } => sqlx::query(
            "update call_logs set campaign_id = (select id from campaigns where name = $2) where call_sid = $1",
        )
        .bind(sid(call))
        .bind(name(campaign)),
        Change::Answer { call, answered } => {
            sqlx::query("update call_logs set answered_at = case when $2 then now() end where call_sid = $1")
                .bind(sid(call))
                .bind(answered)
        }
        Change::Transfer { call, transferred } => {
            sqlx::query("update call_logs set transferred = $2 where call_sid = $1").bind(sid(call)).bind(transferred)
        }
        Change::Score { call, score } => {
            sqlx::query("update call_logs set sentiment_score = $2::numeric / 100 where call_sid = $1")
                .bind(sid(call))
                .bind(score)
        }
        Change::Delete { call } => sqlx::query("delete from call_logs where call_sid = $1").bind(sid(call)),
        Change::All { transferred } => sqlx::query("update call_logs set transferred = $1").bind(transferred),
    };
    query.execute(pool).await.map(drop)
}

async fn counted(server: &Server) -> Value {
    server
        .scalar::<Value>(
            "select jsonb_agg(jsonb_build_object('name', name, 'total', total_calls, 'answered', answered_calls,
                'transferred', transferred_calls, 'average', avg_sentiment_score) order by name) from campaigns",
        )
        .await
}

async fn recounted(server: &Server) -> Value {
    server
        .scalar::<Value>(
            "select jsonb_agg(jsonb_build_object('name', name, 'total', total, 'answered', answered,
                'transferred', transferred, 'average', average) order by name)
             from (
                select c.name, count(l.id) as total, count(l.answered_at) as answered,
                       count(*) filter (where l.transferred) as transferred, round(avg(l.sentiment_score), 4) as average
                from campaigns c left join call_logs l on l.campaign_id = c.id group by c.id
             ) t",
        )
        .await
}
