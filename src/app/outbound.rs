//! The calls that a server makes.

use std::sync::Arc;

use anyhow::Context;

use crate::api::settings::PublicUrl;
use crate::bridge::Bridge;
use crate::clients::twilio;
use crate::config::{Config, Dial, Twilio};
use crate::dialer::{self, Dialer, Settings};
use crate::shutdown::Tasks;
use crate::store::Store;
use crate::telemetry::Metrics;

/// The account that calls are made and steered with; `None` without its name and token.
pub(super) fn carrier(configured: &Twilio) -> anyhow::Result<Option<twilio::Twilio>> {
    let (Some(account), Some(token)) = (&configured.account_sid, configured.auth_tokens.first()) else {
        return Ok(None);
    };
    let client = twilio::Twilio::new(configured.api_url.clone(), account, token.clone());
    Ok(Some(client.context("cannot make an HTTP client for Twilio")?))
}

/// Makes the calls of the queue until the server is stopped, if it has an account for that.
pub(super) fn start(
    config: &Config,
    public_url: &PublicUrl,
    carrier: Option<&twilio::Twilio>,
    store: &Store,
    bridge: &Bridge,
    tasks: &Tasks,
    metrics: &Metrics,
) {
    let Some(carrier) = carrier.filter(|_| config.dial.max_calls > 0) else {
        tracing::info!(
            "this server makes no calls of the queue: see TWILIO_ACCOUNT_SID and VOICEBRIDGE_DIAL_MAX_CALLS"
        );
        return;
    };
    let settings = Settings {
        public_url: public_url.as_str().to_owned(),
        node: config.node.clone(),
        per_second: config.dial.per_second,
        max_calls: config.dial.max_calls,
    };
    let (dial, max_calls, bridge) = (config.dial, config.max_calls, bridge.clone());
    // Whoever is called shall not hear that nobody can talk.
    let room = Box::new(move || room(&dial, max_calls, bridge.live_calls(), bridge.model_works()));
    let dialer = Arc::new(Dialer::new(store.clone(), carrier.clone(), settings, room, metrics.clone()));
    tasks.spawn(dialer::run(dialer, tasks.clone()));
}

/// Calls that this server may make beside those it carries: none while no model is known to answer.
fn room(dial: &Dial, max_calls: usize, live_calls: usize, model_works: bool) -> u32 {
    if model_works { dial.room(max_calls, live_calls) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_called_while_no_model_answers() {
        let dial = Dial { per_second: 1, max_calls: 50, inbound_reserve_percent: 20 };
        assert_eq!(room(&dial, 100, 30, true), 50, "twenty places are kept for inbound calls");
        assert_eq!(room(&dial, 100, 30, false), 0);
    }
}
