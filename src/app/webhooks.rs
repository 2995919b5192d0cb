//! What a server tells others of calls.

use anyhow::Context;

use crate::clients::receiver::{Reach, Receivers};
use crate::shutdown::Tasks;
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::webhooks::{self, Sender};

/// Where webhooks may be sent. `is_private`: only this machine can ask for them.
pub(super) const fn reach(allow_private: bool, is_private: bool) -> Reach {
    match (allow_private, is_private) {
        (true, _) => Reach::Anywhere,
        (false, true) => Reach::PublicAndLoopback,
        (false, false) => Reach::Public,
    }
}

/// Sends webhooks for as long as HTTP is served: calls go on to end while the server stops.
pub(super) fn start(reach: Reach, store: &Store, metrics: &Metrics, http: &Tasks) -> anyhow::Result<()> {
    let receivers = Receivers::new(reach).context("cannot make an HTTP client for webhooks")?;
    let sender = Sender { store: store.clone(), receivers, metrics: metrics.clone() };
    http.spawn(webhooks::run(sender, http.stopping().clone()));
    Ok(())
}
