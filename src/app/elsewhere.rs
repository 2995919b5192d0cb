//! Records of calls that other systems handled.

use anyhow::Context;

use crate::clients::kaleyra::Kaleyra;
use crate::config;
use crate::ingest::kaleyra::Syncs;
use crate::shutdown::Tasks;
use crate::store::{Store, organisations};

/// The account whose log is fetched.
pub(super) fn kaleyra_account(configured: &config::Kaleyra) -> anyhow::Result<Kaleyra> {
    let client = Kaleyra::new(configured.api_url.clone(), configured.api_key.clone());
    client.context("cannot make an HTTP client for Kaleyra")
}

/// Syncs of Kaleyra's log, by themselves as well where that is configured; `None` without a key.
pub(super) async fn kaleyra(
    config: &config::Config,
    store: &Store,
    tasks: &Tasks,
) -> anyhow::Result<Option<Syncs>> {
    let Some(configured) = &config.kaleyra else { return Ok(None) };
    let client = kaleyra_account(configured)?;
    if let Ok(None) = organisations::by_slug_or_id(store, &configured.organization).await {
        tracing::warn!(
            organization = configured.organization,
            "KALEYRA_ORGANIZATION names no organisation that is there: nothing can be fetched before it is made"
        );
    }
    let syncs = Syncs::new(store.clone(), client, &configured.organization, &config.node, tasks.clone());
    if let Some(every) = configured.sync_every {
        tracing::info!(every_min = every.as_secs() / 60, "Kaleyra's log is fetched by itself");
        tasks.spawn(syncs.clone().at_intervals(every));
    }
    Ok(Some(syncs))
}
