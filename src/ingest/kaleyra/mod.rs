//! Kaleyra's log of calls, fetched day by day and page by page, in runs that may end anywhere and be carried on.
//!
//! One account, and the organisation that it belongs to. A run writes what a page has brought together with how far it has
//! come, so whoever carries it may be stopped, killed or cut off at any moment; the next one goes on from there, here or on
//! another server, and ends with the same rows. Leads are looked for by telephone when a row is written; rows that found
//! none are looked at again at the end of each run, so a lead that is added later is tied by the next run, whatever its days.

pub mod record;
mod run;
mod schedule;

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::clients::kaleyra::Kaleyra;
use crate::ids::OrganizationId;
use crate::shutdown::Tasks;
use crate::store::Store;
use crate::store::kaleyra::syncs::{self, Begun, Carried, STALE_AFTER_S};
use crate::store::organisations;

pub use run::{RunError, carry};
pub use schedule::{at_intervals, due};

/// Most days of a run.
pub const MOST_DAYS: i32 = 366;
/// After which a run that was carried is looked at again, and what could not be done is tried again: by then a run that was
/// left a moment before counts as left.
const LOOK_AGAIN: Duration = Duration::from_secs(STALE_AFTER_S.unsigned_abs() as u64);

/// Days in India, both included; at most [`MOST_DAYS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days {
    first: Date,
    last: Date,
}

/// Why days cannot be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDays {
    /// The wrong way round.
    #[error("from must not be later than to")]
    Reversed,
    /// Nothing can be on record yet.
    #[error("to must not be later than today in India (Asia/Kolkata)")]
    Future,
    /// Too many for one run.
    #[error("at most 366 days can be fetched at a time; ask for fewer")]
    TooMany,
}

impl Days {
    /// From `first` to `last`, at the time `now`. Without `last`: until today; without `first`: from the day before `last`.
    pub fn new(first: Option<Date>, last: Option<Date>, now: Timestamp) -> Result<Self, InvalidDays> {
        let today = record::day_of(now);
        let last = last.unwrap_or(today);
        let first = first.unwrap_or_else(|| last.yesterday().unwrap_or(last));
        if first > last {
            return Err(InvalidDays::Reversed);
        }
        if last > today {
            return Err(InvalidDays::Future);
        }
        let days = last.since(first).map_or(i32::MAX, |span| span.get_days()).saturating_add(1);
        if days > MOST_DAYS { Err(InvalidDays::TooMany) } else { Ok(Self { first, last }) }
    }

    /// The first day.
    #[must_use]
    pub const fn first(self) -> Date {
        self.first
    }

    /// The last day.
    #[must_use]
    pub const fn last(self) -> Date {
        self.last
    }
}

/// Syncs of the one account.
#[derive(Debug, Clone)]
pub struct Syncs {
    /// The server's own.
    store: Store,
    client: Kaleyra,
    /// Slug of the organisation whose account it is.
    organization: String,
    node: String,
    tasks: Tasks,
}

/// A run that was asked for.
#[derive(Debug)]
pub struct Started {
    /// The run.
    pub id: Uuid,
    /// Said once the run has ended, however it did; dropped when nobody carries it any more.
    pub ended: oneshot::Receiver<()>,
}

/// What a look at the schedule came to.
#[derive(Debug)]
pub enum Look {
    /// A run was due, and has begun.
    Begun(Started),
    /// One is carried, here or elsewhere, or was until a moment ago.
    Carried,
    /// Nothing is due.
    Nothing,
}

impl Look {
    /// The run that has begun.
    #[must_use]
    pub fn begun(self) -> Option<Started> {
        if let Self::Begun(started) = self { Some(started) } else { None }
    }

    /// When to look again, if before the next time: a run that is carried may be left meanwhile.
    #[must_use]
    pub const fn again(&self) -> Option<Duration> {
        match self {
            Self::Begun(_) | Self::Carried => Some(LOOK_AGAIN),
            Self::Nothing => None,
        }
    }
}

/// Why no run was begun.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The account is another organisation's, or nobody's.
    #[error("Kaleyra is not set up for this organisation: the server's KALEYRA_ORGANIZATION names another")]
    NotConfigured,
    /// One at a time.
    #[error("a sync is running; wait for its end, or look at how far it is")]
    Running(Uuid),
    /// The server stops.
    #[error("the server is stopping; ask again in a moment")]
    Stopping,
    /// The database failed. Its own words may hold numbers and names of people.
    #[error("a sync cannot begin: {}", run::without_values(.0))]
    Database(#[from] sqlx::Error),
}

impl Syncs {
    /// Syncs of `client`'s account, for the organisation of this slug, carried by `node`.
    #[must_use]
    pub fn new(store: Store, client: Kaleyra, organization: &str, node: &str, tasks: Tasks) -> Self {
        Self { store, client, organization: organization.to_owned(), node: node.to_owned(), tasks }
    }

    /// Begins to fetch these days for an organisation, in the background, or carries on a run of the same days that was left.
    pub async fn begin(&self, organization: OrganizationId, days: Days) -> Result<Started, BeginError> {
        if self.owner().await? != Some(organization) {
            return Err(BeginError::NotConfigured);
        }
        self.begin_for(organization, days).await
    }

    async fn begin_for(&self, organization: OrganizationId, days: Days) -> Result<Started, BeginError> {
        if self.tasks.is_stopping() {
            return Err(BeginError::Stopping);
        }
        let carried =
            match syncs::begin(&self.store, organization, (days.first, days.last), &self.node).await? {
                Begun::Yes(carried) => carried,
                Begun::Running(id) => return Err(BeginError::Running(id)),
            };
        Ok(Started { id: carried.claim.id, ended: self.carry(carried) })
    }

    /// Carries a run in the background.
    fn carry(&self, carried: Carried) -> oneshot::Receiver<()> {
        let (ended, to_be_told) = oneshot::channel();
        let (store, client, stopping) =
            (self.store.clone(), self.client.clone(), self.tasks.stopping().clone());
        self.tasks.spawn(async move {
            let id = carried.claim.id;
            match carry(&store, &client, carried, &stopping).await {
                Ok(end) => tracing::info!(sync.id = %id, ?end, "a sync of Kaleyra's log has ended"),
                Err(error) => {
                    tracing::warn!(sync.id = %id, %error, "a sync of Kaleyra's log is left as it is, to be carried on");
                }
            }
            // Nobody may wait for it.
            let _ = ended.send(());
        });
        to_be_told
    }

    /// Whose account it is.
    async fn owner(&self) -> sqlx::Result<Option<OrganizationId>> {
        organisations::by_slug_or_id(&self.store, &self.organization).await
    }

    /// Fetches what is new every so often, until the server stops. What was left by a server that was killed, this one
    /// before it started again or another, is gone on with a minute later.
    pub async fn at_intervals(self, every: Duration) {
        let stopping = self.tasks.stopping().clone();
        let catch_up = || {
            let syncs = self.clone();
            async move {
                match syncs.catch_up(every).await {
                    Ok(look) => look.again(),
                    Err(error) => {
                        tracing::warn!(%error, "the scheduled sync of Kaleyra's log could not begin; it is tried again");
                        Some(LOOK_AGAIN)
                    }
                }
            }
        };
        schedule::at_intervals(every, &stopping, catch_up).await;
    }

    /// Begins what is due by now, if anything is. Several servers may do this at once: one of them begins.
    pub async fn catch_up(&self, every: Duration) -> Result<Look, BeginError> {
        let Some(organization) = self.owner().await? else { return Err(BeginError::NotConfigured) };
        let latest = syncs::latest(&self.store, organization).await?;
        if latest.is_running {
            return Ok(Look::Carried);
        }
        let Some(days) = due(&latest, every, self.store.now().await?) else { return Ok(Look::Nothing) };
        match self.begin_for(organization, days).await {
            Ok(started) => Ok(Look::Begun(started)),
            // Another server was first.
            Err(BeginError::Running(_)) => Ok(Look::Carried),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn days_are_those_of_india_and_what_is_not_said_is_the_last_two() {
        let late: Timestamp = "2026-03-01T20:00:00Z".parse().unwrap();
        let days = Days::new(None, None, late).unwrap();
        assert_eq!(
            (days.first(), days.last()),
            (date(2026, 3, 1), date(2026, 3, 2)),
            "it is past midnight there"
        );
        let days = Days::new(None, Some(date(2026, 1, 1)), late).unwrap();
        assert_eq!((days.first(), days.last()), (date(2025, 12, 31), date(2026, 1, 1)));
        let days = Days::new(Some(date(2026, 2, 1)), None, late).unwrap();
        assert_eq!((days.first(), days.last()), (date(2026, 2, 1), date(2026, 3, 2)));
    }

    #[test]
    fn days_that_cannot_be_fetched_are_refused() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let days = |first, last| Days::new(Some(first), Some(last), now).map(drop);
        assert_eq!(days(date(2026, 2, 2), date(2026, 2, 1)), Err(InvalidDays::Reversed));
        assert_eq!(days(date(2026, 2, 2), date(2026, 3, 2)), Err(InvalidDays::Future));
        assert_eq!(days(date(2025, 3, 1), date(2026, 3, 1)), Ok(()), "366 days");
        assert_eq!(days(date(2025, 2, 28), date(2026, 3, 1)), Err(InvalidDays::TooMany));
        assert_eq!(days(Date::MIN, date(2026, 3, 1)), Err(InvalidDays::TooMany));
    }
}
