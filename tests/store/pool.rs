//! The pool gives out connections that are what they seem.

use std::task::Poll;

use futures_util::{FutureExt, poll};
use sqlx::{ConnectOptions, PgPool, Row};
use tokio::task::yield_now;

use crate::support;

/// Enough to be interrupted at every point of beginning many times over.
const ROUNDS: u32 = 480;

/// Begins a transaction and drops the future after it was polled so many times, as a handler does whose client is gone.
async fn give_up_beginning(pool: &PgPool, polls: u32) {
    let mut begin = pool.begin().boxed();
    for _ in 0..polls {
        if let Poll::Ready(_transaction) = poll!(&mut begin) {
            return;
        }
        yield_now().await;
    }
}

#[tokio::test]
async fn nothing_is_lost_behind_a_cancelled_begin() {
    // With one connection, whoever comes next gets the very one that was let go of.
    let store = support::store(1).await;
    sqlx::query("create table notes (round integer)").execute(store.pool()).await.unwrap();
    for round in 0..ROUNDS {
        give_up_beginning(store.pool(), 1 + round % 48).await;
        let insert = sqlx::query("insert into notes values ($1)").bind(round.cast_signed());
        insert.execute(store.pool()).await.expect("a plain insert works");
    }
    store.close().await; // What only lived inside a forgotten transaction is gone now.

    let mut connection = store.pool().connect_options().connect().await.unwrap();
    let durable: i64 =
        sqlx::query_scalar("select count(*) from notes").fetch_one(&mut connection).await.unwrap();
    assert_eq!(durable, i64::from(ROUNDS), "what was answered with success is there");
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
