//! Whose rows a query sees.
//!
//! A [`Store`] is either the server's own, which works for calls of all organisations, or that of one request: all its
//! statements run in one transaction as `voicebridge_api`, which sees one organisation's rows. Functions of this module's
//! siblings do not know which of the two they are given.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, PgTransaction, Postgres};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::ids::OrganizationId;
use crate::store::Store;

/// Guards of the state are handed out with a transaction in it, and `finish` takes it under a guard of its own.
const OPEN: &str = "a request's transaction is open while somebody works in it";

/// The one transaction of a request, begun by its first statement.
pub(super) struct Request {
    organization: OrganizationId,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    transaction: Option<PgTransaction<'static>>,
    /// A part of the work was given up: what it has done goes before anything else happens.
    undo: bool,
}

/// A connection to run statements on, until it is dropped.
pub(crate) struct Connected(Inner);

enum Inner {
    Pooled(PoolConnection<Postgres>),
    OfRequest(OwnedMutexGuard<State>),
}

/// Work that is done whole or not at all: undone unless it is committed. In a request it is a part of that one's
/// transaction, and kept with it.
pub(crate) struct Work(Part);

enum Part {
    Whole(PgTransaction<'static>),
    OfRequest(Nested),
}

/// A savepoint of a request's transaction.
struct Nested {
    state: OwnedMutexGuard<State>,
    /// The transaction is over with it.
    is_alone: bool,
    is_done: bool,
}

/// Why the user of the database cannot do what the server needs of it.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// Requests cannot be kept to one organisation.
    #[error(
        "the user of the database may not become voicebridge_api; as its owner: grant voicebridge_api to {user}"
    )]
    NotTenant {
        /// The user.
        user: String,
    },
    /// Row-level security would hide everything from the server itself.
    #[error(
        "the tables are not this user's own, and it may not become voicebridge_service; as their owner: grant voicebridge_service to {user}"
    )]
    NotService {
        /// The user.
        user: String,
    },
    /// The database did not answer.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl Store {
    /// Whether the user of the database may see everything itself, and requests only what is theirs. To be asked once the
    /// schema is up to date.
    pub async fn check_roles(&self) -> Result<(), RoleError> {
        let found = sqlx::query!(
            r#"
            select current_user::text as "user!",
                   pg_has_role(current_user, 'voicebridge_api', 'member') as "tenant!",
                   not row_security_active('calls') or pg_has_role(current_user, 'voicebridge_service', 'usage') as "service!"
            "#,
        )
        .fetch_one(&mut *self.connection().await?)
        .await?;
        match (found.tenant, found.service) {
            (false, _) => Err(RoleError::NotTenant { user: found.user }),
            (_, false) => Err(RoleError::NotService { user: found.user }),
            (true, true) => Ok(()),
        }
    }

    /// The same database as one organisation sees it, for one request: nothing is kept before [`Store::finish`].
    #[must_use]
    pub fn of_organization(&self, organization: OrganizationId) -> Self {
        let request = Request { organization, state: Arc::default() };
        Self { pool: self.pool.clone(), request: Some(Arc::new(request)) }
    }

    /// Keeps what the request has done so far; what follows is another transaction. The server's own store has nothing to
    /// finish.
    pub async fn finish(&self) -> sqlx::Result<()> {
        let Some(request) = &self.request else { return Ok(()) };
        let mut state = request.state.lock().await;
        state.clean().await?;
        match state.transaction.take() {
            Some(mut transaction) => {
                // A transaction in which a statement has failed is undone by `commit`, and no word said of it. Here it is.
                sqlx::query("select").execute(&mut *transaction).await?;
                transaction.commit().await
            }
            None => Ok(()),
        }
    }

    /// Undoes what the request has done since it began, or since it was last finished.
    pub async fn undo(&self) -> sqlx::Result<()> {
        let Some(request) = &self.request else { return Ok(()) };
        let mut state = request.state.lock().await;
        state.undo = false;
        match state.transaction.take() {
            Some(transaction) => transaction.rollback().await,
            None => Ok(()),
        }
    }

    /// A connection for one statement, or for several that need not happen together.
    pub(crate) async fn connection(&self) -> sqlx::Result<Connected> {
        Ok(Connected(match &self.request {
            None => Inner::Pooled(self.pool.acquire().await?),
            Some(request) => Inner::OfRequest(request.open(&self.pool).await?),
        }))
    }

    /// Begins work that is kept by itself, for what is too much to be done in one go: what a request has done before is kept
    /// now, and this with its commit.
    pub(crate) async fn begin_alone(&self) -> sqlx::Result<Work> {
        self.finish().await?;
        let mut work = self.begin().await?;
        if let Part::OfRequest(nested) = &mut work.0 {
            nested.is_alone = true;
        }
        Ok(work)
    }

    /// Begins work that is done whole or not at all. Nothing else may ask this store for a connection before it is over.
    pub(crate) async fn begin(&self) -> sqlx::Result<Work> {
        Ok(Work(match &self.request {
            None => Part::Whole(self.pool.begin().await?),
            Some(request) => {
                let mut state = request.open(&self.pool).await?;
                // Undone by whoever comes next when this future is dropped in the middle; a savepoint too many is harmless.
                sqlx::query("savepoint part").execute(state.connection()).await?;
                Part::OfRequest(Nested { state, is_alone: false, is_done: false })
            }
        }))
    }
}

impl Request {
    async fn open(&self, pool: &PgPool) -> sqlx::Result<OwnedMutexGuard<State>> {
        let mut state = Arc::clone(&self.state).lock_owned().await;
        if state.transaction.is_none() {
            // One round trip. An id is letters, digits and hyphens.
            let begin = format!(
                "begin; set local role voicebridge_api; set local app.organization_id = '{}'",
                self.organization.0
            );
            state.transaction = Some(pool.begin_with(AssertSqlSafe(begin)).await?);
            state.undo = false;
        }
        state.clean().await?;
        Ok(state)
    }
}

impl State {
    async fn clean(&mut self) -> sqlx::Result<()> {
        if self.undo && self.transaction.is_some() {
            sqlx::query("rollback to savepoint part").execute(self.connection()).await?;
        }
        self.undo = false;
        Ok(())
    }

    fn connection(&mut self) -> &mut PgConnection {
        self.transaction.as_mut().expect(OPEN)
    }

    fn connection_ref(&self) -> &PgConnection {
        self.transaction.as_ref().expect(OPEN)
    }
}

impl Work {
    /// Keeps what was done, with the request's transaction where there is one.
    pub(crate) async fn commit(self) -> sqlx::Result<()> {
        match self.0 {
            Part::Whole(transaction) => transaction.commit().await,
            Part::OfRequest(mut nested) => {
                if nested.is_alone {
                    if let Some(transaction) = nested.state.transaction.take() {
                        nested.is_done = true;
                        transaction.commit().await?;
                    }
                } else {
                    sqlx::query("release savepoint part").execute(nested.state.connection()).await?;
                }
                nested.is_done = true;
                Ok(())
            }
        }
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        self.state.undo |= !self.is_done;
    }
}

impl Deref for Connected {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match &self.0 {
            Inner::Pooled(connection) => connection,
            Inner::OfRequest(state) => state.connection_ref(),
        }
    }
}

impl DerefMut for Connected {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match &mut self.0 {
            Inner::Pooled(connection) => connection,
            Inner::OfRequest(state) => state.connection(),
        }
    }
}

impl Deref for Work {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match &self.0 {
            Part::Whole(transaction) => transaction,
            Part::OfRequest(nested) => nested.state.connection_ref(),
        }
    }
}

impl DerefMut for Work {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match &mut self.0 {
            Part::Whole(transaction) => transaction,
            Part::OfRequest(nested) => nested.state.connection(),
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("organization", &self.organization).finish_non_exhaustive()
    }
}
