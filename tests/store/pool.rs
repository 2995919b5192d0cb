//! The pool gives out connections that are what they seem.

use std::task::Poll;

use futures_util::{FutureExt, poll};
use sqlx::Row;
use tokio::task::{JoinSet, yield_now};

use crate::support;

/// Workers that share fewer connections, so that each soon gets one that another has let go of.
const WORKERS: u32 = 8;
/// How often each worker gives up on a transaction.
const ROUNDS: u32 = 60;

/// Begins a transaction and drops the future after it was polled so many times, as a handler does whose client is gone.
async fn give_up_beginning(pool: &sqlx::PgPool, polls: u32) {
    let mut begin = pool.begin().boxed();
    for _ in 0..polls {
        if let Poll::Ready(_transaction) = poll!(&mut begin) {
            return;
        }
        yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_behind_a_cancelled_begin() {
    let store = support::store(4).await;
    sqlx::query("create table notes (worker integer, round integer)").execute(store.pool()).await.unwrap();
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let store = store.clone();
        workers.spawn(async move {
            let mut written = 0_i64;
            for round in 0..ROUNDS {
                give_up_beginning(store.pool(), (worker + round) % 7).await;
                let insert = sqlx::query("insert into notes values ($1, $2)")
                    .bind(worker.cast_signed())
                    .bind(round.cast_signed());
                written += i64::from(insert.execute(store.pool()).await.is_ok());
            }
            written
        });
    }
    let written: i64 = workers.join_all().await.into_iter().sum();
    store.close().await; // What only lived inside a forgotten transaction is gone now.

    let options = store.pool().connect_options();
    let mut connection = sqlx::ConnectOptions::connect(options.as_ref()).await.unwrap();
    let durable: i64 =
        sqlx::query_scalar("select count(*) from notes").fetch_one(&mut connection).await.unwrap();
    assert_eq!(written, i64::from(WORKERS * ROUNDS), "every insert was answered with success");
    assert_eq!(durable, written, "what was answered with success is there");
}

#[tokio::test]
async fn a_connection_gives_up_on_what_takes_too_long() {
    let store = support::store(1).await;
    for setting in ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"] {
        let value =
            sqlx::query("select current_setting($1)").bind(setting).fetch_one(store.pool()).await.unwrap();
        assert_ne!(value.get::<String, _>(0), "0", "{setting} is on");
    }
}
