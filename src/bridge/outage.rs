//! Whether the database can be reached, as those who write to it find out.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;
use tracing::{error, info};

use super::gather::may_be_ones_own;
use crate::telemetry::Metrics;

/// One for all who write; clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Outage(Arc<(Mutex<Option<Instant>>, Metrics)>);

impl Outage {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self(Arc::new((Mutex::new(None), metrics.clone())))
    }

    /// Takes note of how a write came out. Errors that concern one write only say nothing about the database.
    pub(super) fn note<T>(&self, result: &sqlx::Result<T>) {
        match result {
            Ok(_) => self.is_back(),
            Err(error) if may_be_ones_own(error) => {}
            Err(error) => self.is_away(error),
        }
    }

    /// True while the last that was heard of it was that it cannot be reached.
    pub(super) fn lasts(&self) -> bool {
        self.since().is_some()
    }

    fn is_away(&self, error: &sqlx::Error) {
        let mut since = self.since();
        if since.is_none() {
            *since = Some(Instant::now());
            self.0.1.database_away.set(1);
            error!(%error, "THE DATABASE CANNOT BE REACHED: live calls go on, and their records are kept in the spool");
        }
    }

    fn is_back(&self) {
        if let Some(since) = self.since().take() {
            self.0.1.database_away.set(0);
            info!(
                away_s = since.elapsed().as_secs(),
                "the database is back; what was kept is put on record now"
            );
        }
    }

    fn since(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::scribe::tests::Refused;
    use super::*;

    #[tokio::test]
    async fn an_outage_lasts_from_the_first_write_that_got_no_answer_to_the_first_that_did() {
        let metrics = Metrics::new();
        let outage = Outage::new(&metrics);
        let lost = || Err::<(), _>(sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into()));
        let refused = |code| Err::<(), _>(sqlx::Error::Database(Box::new(Refused(code))));
        for (result, lasts) in [
            (&refused("22001"), false),
            (&refused("P0001"), false),
            (&refused("XX001"), false),
            (&lost(), true),
            (&refused("22001"), true),
            (&lost(), true),
            (&Ok(()), false),
            (&refused("57P03"), true),
        ] {
            outage.note(result);
            assert_eq!(
                (outage.lasts(), metrics.database_away.get()),
                (lasts, i64::from(lasts)),
                "{result:?}"
            );
        }
    }
}
