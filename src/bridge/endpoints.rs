//! Where the sessions of all calls of a node come from: one endpoint, or a second one for when the first does not work.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::breaker::{Breaker, Health, Permit};
use super::model_socket::{ModelEndpoint, ModelSession, OpenError};
use crate::telemetry::{EndpointMetrics, Metrics};
use crate::wire::model::SessionConfig;

/// From the first packet to the agreed session, which usually takes less than one second.
const OPEN_WITHIN: Duration = Duration::from_secs(4);
/// The same while there is another endpoint to go to: a caller is waiting.
const OPEN_WITHIN_OR_ELSEWHERE: Duration = Duration::from_secs(2);

/// The endpoints, in the order in which they are asked. Clones share what is known of them.
#[derive(Clone)]
pub struct Endpoints(Arc<[Endpoint]>);

struct Endpoint {
    name: &'static str,
    at: ModelEndpoint,
    breaker: Mutex<Breaker>,
    metrics: EndpointMetrics,
}

impl Endpoints {
    /// `fallback` is asked when `primary` does not work.
    #[must_use]
    pub fn new(primary: ModelEndpoint, fallback: Option<ModelEndpoint>, metrics: &Metrics) -> Self {
        let named = [("primary", Some(primary)), ("fallback", fallback)];
        let endpoints = named.into_iter().filter_map(|(name, at)| {
            let at = at?;
            Some(Endpoint { name, at, breaker: Mutex::new(Breaker::new()), metrics: metrics.endpoint(name) })
        });
        Self(endpoints.collect())
    }

    /// Opens a session of `model` and agrees on its configuration, with the first endpoint that gives one.
    ///
    /// An endpoint that has failed too often is not asked; one that refuses us is, because it may refuse only this.
    pub(super) async fn open(&self, model: &str, config: &SessionConfig) -> Result<ModelSession, OpenError> {
        let (mut found, mut resting) = (None, false);
        for (place, endpoint) in self.0.iter().enumerate() {
            let Some(permit) = endpoint.permit() else {
                resting = true;
                continue;
            };
            let elsewhere = self.0[place + 1..].iter().any(Endpoint::may_work);
            let within = if elsewhere { OPEN_WITHIN_OR_ELSEWHERE } else { OPEN_WITHIN };
            let opened = endpoint.at.open(model, config.clone(), within).await;
            permit.report(&opened);
            match opened {
                Ok(session) => return Ok(session),
                Err(error) => {
                    if elsewhere {
                        warn!(%error, endpoint = endpoint.name, "no session; the other endpoint is asked");
                    }
                    if found.as_ref().is_none_or(|found: &OpenError| !found.may_pass()) {
                        found = Some(error);
                    }
                }
            }
        }
        // A refusal is final only where nobody else could have been asked.
        Err(found.filter(|error| error.may_pass() || !resting).unwrap_or(OpenError::Resting))
    }
}

impl Endpoint {
    fn permit(&self) -> Option<Asking<'_>> {
        let permit = self.change(|breaker| breaker.permit(Instant::now()))?;
        Some(Asking { endpoint: self, permit: Some(permit) })
    }

    fn may_work(&self) -> bool {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner).health() == Health::Closed
    }

    fn change<T>(&self, act: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let before = breaker.health();
        let result = act(&mut breaker);
        let after = breaker.health();
        if before == after {
            return result;
        }
        let endpoint = self.name;
        match after {
            Health::Open => {
                warn!(endpoint, "the model's endpoint has failed too often; it is left alone for a while");
            }
            Health::Closed => info!(endpoint, "the model's endpoint works again"),
            Health::Testing => {}
        }
        self.metrics.breaker.set(match after {
            Health::Closed => 0,
            Health::Testing => 1,
            Health::Open => 2,
        });
        result
    }
}

/// A session is being asked for.
struct Asking<'a> {
    endpoint: &'a Endpoint,
    /// Until the outcome is reported.
    permit: Option<Permit>,
}

impl Asking<'_> {
    fn report(mut self, opened: &Result<ModelSession, OpenError>) {
        let Some(permit) = self.permit.take() else { return };
        let metrics = &self.endpoint.metrics;
        let outcome = match opened {
            Ok(_) => &metrics.opened,
            Err(error) if error.may_pass() => &metrics.failed,
            Err(_) => &metrics.refused,
        };
        outcome.inc();
        self.endpoint.change(|breaker| match opened {
            Err(error) if error.may_pass() => breaker.failed(permit, Instant::now(), rand::random()),
            Ok(_) | Err(_) => breaker.succeeded(),
        });
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit {
            self.endpoint.change(|breaker| breaker.given_up(permit, Instant::now()));
        }
    }
}
