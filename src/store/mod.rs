//! The only home of SQL: one file per family of tables.
//!
//! Every query is a literal that was checked against the real schema (`.sqlx/`, refreshed by `scripts/sqlx-prepare`).
//! What must happen together is one statement wherever that can be said: a statement is atomic, and a dropped future
//! leaves nothing half done.

pub mod agent_calls;
pub mod api_keys;
pub mod audit;
pub mod agent_admin;
pub mod agents;
pub mod call_attempts;
pub mod call_events;
pub mod call_facts;
pub mod call_logs;
pub mod call_queue;
pub mod calls;
pub mod campaigns;
pub mod cluster;
pub mod interactions;
pub mod kaleyra;
pub mod ivr;
pub mod do_not_call;
pub mod commands;
pub mod handoffs;
pub mod dialing;
pub mod leads;
pub mod leases;
pub mod nodes;
pub mod organisations;
pub mod phone_numbers;
pub mod privacy;
pub mod projects;
pub mod reports;
pub mod routing_decisions;
pub mod schedules;
pub mod standby;
pub mod teams;
pub mod tenancy;
pub mod transcripts;
pub mod vapi_accounts;
pub mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor, Row};

use crate::ids::CallSid;

/// The migrations in `migrations/`, in the binary.
static MIGRATIONS: Migrator = sqlx::migrate!();

/// Longest a statement may run. Ours take milliseconds; one that takes this long is stuck.
const STATEMENT_TIMEOUT: &str = "10s";
/// Longest a statement waits for a lock that another holds.
const LOCK_TIMEOUT: &str = "5s";
/// Longest a transaction may sit between two statements before the server ends it.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "15s";
/// Longest to wait for a free connection. A caller of the API would rather be told.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// The database. Cheap to clone; all clones share one pool of connections, and those of a request its transaction.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    /// The request that this is the store of; `None`: the server itself.
    request: Option<Arc<tenancy::Request>>,
}

impl Store {
    /// Connects, and fails when the database cannot be reached.
    pub async fn connect(options: PgConnectOptions, max_connections: u32) -> sqlx::Result<Self> {
        let options = options.application_name("voicebridge").options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("lock_timeout", LOCK_TIMEOUT),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_release(|connection, _| Box::pin(leave_no_transaction(connection)))
            .connect_with(options)
            .await?;
        Ok(Self { pool, request: None })
    }

    /// Brings the schema up to date. Several nodes may do so at once; a second time changes nothing.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        // On a connection of its own: large tables take their time, and so does waiting for another node's turn.
        let mut connection = self.pool.connect_options().connect().await?;
        connection.execute("set statement_timeout = 0; set lock_timeout = 0").await?;
        MIGRATIONS.run(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }

    /// One round trip, to see whether the database answers.
    pub async fn ping(&self) -> sqlx::Result<()> {
        sqlx::query("select 1").execute(&self.pool).await?;
        Ok(())
    }

    /// What time it is by the clock that all servers share.
    pub async fn now(&self) -> sqlx::Result<jiff::Timestamp> {
        let now = sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(&self.pool).await?;
        Ok(now.to_jiff())
    }

    /// The connections, for tests and tools that look at the database itself.
    #[must_use]
    pub const fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Closes all connections, after what runs on them has finished.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// What came of removing something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone.
    Done,
    /// There is no such thing in this organisation.
    NotFound,
    /// Something else needs it; it is still there.
    InUse,
}

/// Waits for what other servers, or this one, say by `notify`. It is a hint: what is not heard is found by looking, which
/// whoever waits does now and then as well, since a connection may fall silent without a word.
#[derive(Debug)]
pub struct Wakeup {
    pool: PgPool,
    channel: &'static str,
    listener: Option<PgListener>,
}

impl Wakeup {
    /// Listens on a connection of its own, once [`Wakeup::next`] is asked.
    #[must_use]
    pub fn listen(store: &Store, channel: &'static str) -> Self {
        Self { pool: connection_of_its_own(&store.pool), channel, listener: None }
    }

    /// Waits until something is said, and returns it; for ever while nothing can be heard. `None`: something may have been
    /// said before, and was not heard. May be dropped at any time.
    pub async fn next(&mut self) -> Option<String> {
        let Some(listener) = &mut self.listener else {
            self.listener = self.connect().await.ok();
            return if self.listener.is_some() { None } else { std::future::pending().await };
        };
        if let Ok(heard) = listener.try_recv().await {
            return heard.map(|heard| heard.payload().to_owned());
        }
        self.listener = None;
        std::future::pending().await
    }

    /// Something was said and not heard: listens anew on another connection.
    pub fn mistrust(&mut self) {
        self.listener = None;
        // The one that fell silent may never come back to its pool.
        self.pool = connection_of_its_own(&self.pool);
    }

    async fn connect(&self) -> sqlx::Result<PgListener> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen(self.channel).await?;
        Ok(listener)
    }
}

fn connection_of_its_own(like: &PgPool) -> PgPool {
    PgPoolOptions::new().max_connections(1).connect_lazy_with((*like.connect_options()).clone())
}

/// Makes sure that a connection which comes back to the pool is outside any transaction.
///
/// Costs one round trip, off the path of the request that used the connection.
// sqlx 0.9.0 loses track of a transaction whose `begin` was cancelled after it had been sent (sqlx #4385, #4393): the
// next borrower would write inside it, be told "done", and lose everything at the end. Outside a transaction `now()` is
// the start of this very statement. An error here closes the connection, which is right as well.
async fn leave_no_transaction(connection: &mut PgConnection) -> sqlx::Result<bool> {
    // Raw, because a prepared statement is bound and executed at two moments, of which `now()` takes the first.
    let row = sqlx::raw_sql("select now() = statement_timestamp()").fetch_one(&mut *connection).await?;
    let outside: bool = row.try_get(0)?;
    if !outside {
        sqlx::query("rollback").execute(&mut *connection).await?;
        tracing::debug!("a connection came back inside a transaction; rolled back");
    }
    Ok(true)
}

/// Text as PostgreSQL can hold it: it has no NUL characters.
fn storable(text: impl AsRef<str>) -> String {
    text.as_ref().replace('\0', "")
}

/// The same for every text in a JSON value, member names included.
fn storable_json(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(text) => Value::String(storable(text)),
        Value::Array(values) => Value::Array(values.into_iter().map(storable_json).collect()),
        Value::Object(members) => Value::Object(
            members.into_iter().map(|(name, value)| (storable(name), storable_json(value))).collect(),
        ),
        other => other,
    }
}

/// Turns what a column held into one of our types.
fn decoded<T, E: std::error::Error + Send + Sync + 'static>(result: Result<T, E>) -> sqlx::Result<T> {
    result.map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// A call SID that came out of the database.
fn stored_call_sid(text: Option<String>) -> sqlx::Result<Option<CallSid>> {
    text.map(|text| decoded(CallSid::try_from(text))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_characters_never_reach_the_database() {
        assert_eq!(storable("a\0b"), "ab");
        let value = serde_json::json!({"k\0": ["a\0", 1, null, {"x": "\0"}]});
        assert_eq!(storable_json(value), serde_json::json!({"k": ["a", 1, null, {"x": ""}]}));
    }
}
