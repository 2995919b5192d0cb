//! Where the sessions of all calls of a node come from: one endpoint, or a second one for when the first does not work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::breaker::{Breaker, Health, Permit};
use super::model_socket::{Agreed, ModelEndpoint, ModelSocket, OpenError};
use super::socket::Received;
use crate::telemetry::{EndpointMetrics, Metrics};
use crate::wire::model::SessionConfig;

/// From the first packet to the agreed session, which usually takes less than one second.
const OPEN_WITHIN: Duration = Duration::from_secs(4);
/// The same while there is another endpoint to go to: a caller is waiting.
const OPEN_WITHIN_OR_ELSEWHERE: Duration = Duration::from_secs(2);

/// A session that only shows whether its endpoint works has shown it when it has lasted so long: those that break their
/// sessions do so at once.
const TEST_FOR: Duration = Duration::from_secs(2);
/// An endpoint that does not take our goodbye is left without it.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

/// The endpoints, in the order in which they are asked. Clones share what is known of them.
#[derive(Clone)]
pub struct Endpoints(Arc<[Endpoint]>);

struct Endpoint {
    name: &'static str,
    at: ModelEndpoint,
    breaker: Mutex<Breaker>,
    metrics: EndpointMetrics,
}

/// Which of the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source(usize);

/// A test of an endpoint that has rested, which nobody else makes meanwhile. Dropped before its end it says nothing.
pub(super) struct Test(Trial);

/// A session that is agreed on.
pub(super) struct ModelSession {
    pub(super) socket: ModelSocket,
    /// When its provider will end it.
    pub(super) expires: Instant,
    /// Where it comes from.
    pub(super) trial: Trial,
}

/// A session of an endpoint, until it is known what it says about the endpoint. Dropped before, it says nothing.
pub(super) struct Trial {
    endpoints: Endpoints,
    source: Source,
    /// Until the outcome is reported.
    permit: Option<Permit>,
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

    /// Opens a session of `model` and agrees on its configuration, with the first endpoint that gives one. The one that
    /// is `last` is asked after all others.
    ///
    /// An endpoint that has failed too often is not asked; one that refuses us is, because it may refuse only this.
    pub(super) async fn open(
        &self,
        model: &str,
        config: &SessionConfig,
        last: Option<Source>,
    ) -> Result<ModelSession, OpenError> {
        let mut sources: Vec<Source> = (0..self.0.len()).map(Source).collect();
        sources.sort_by_key(|source| Some(*source) == last);
        let (mut found, mut resting) = (None, Vec::new());
        for (index, source) in sources.iter().enumerate() {
            let Some(permit) = self.at(*source).change(|breaker| breaker.permit(Instant::now())) else {
                resting.push(*source);
                continue;
            };
            let elsewhere = sources[index + 1..].iter().any(|source| self.at(*source).works());
            match self.ask(*source, permit, model, config, elsewhere).await {
                Ok(session) => return Ok(session),
                Err(error) => keep_hopeful(&mut found, error),
            }
        }
        let mut unasked = false;
        for source in resting {
            let Some(permit) = self.at(source).change(|breaker| breaker.permit_in_need()) else {
                unasked = true;
                continue;
            };
            match self.ask(source, permit, model, config, false).await {
                Ok(session) => return Ok(session),
                Err(error) => keep_hopeful(&mut found, error),
            }
        }
        // A refusal is final only where nobody else could have been asked.
        Err(found.filter(|error| error.may_pass() || !unasked).unwrap_or(OpenError::Resting))
    }

    async fn ask(
        &self,
        source: Source,
        permit: Permit,
        model: &str,
        config: &SessionConfig,
        elsewhere: bool,
    ) -> Result<ModelSession, OpenError> {
        let mut trial = Trial { endpoints: self.clone(), source, permit: Some(permit) };
        let endpoint = self.at(source);
        let within = if elsewhere { OPEN_WITHIN_OR_ELSEWHERE } else { OPEN_WITHIN };
        match endpoint.at.open(model, config.clone(), within).await {
            Ok(Agreed { socket, expires }) => {
                endpoint.metrics.opened.inc();
                endpoint.change(|breaker| breaker.opened(permit));
                Ok(ModelSession { socket, expires, trial })
            }
            Err(error) => {
                if elsewhere {
                    warn!(%error, endpoint = endpoint.name, "no session; the other endpoint is asked");
                }
                if error.may_pass() {
                    endpoint.metrics.failed.inc();
                    trial.report(|breaker, permit| breaker.failed(permit, Instant::now(), rand::random()));
                } else {
                    endpoint.metrics.refused.inc();
                    trial.report(Breaker::refused);
                }
                Err(error)
            }
        }
    }

    /// False while no endpoint works, as far as is known, and none is due to be tested: a session would not be asked for.
    pub(super) fn may_open(&self) -> bool {
        let now = Instant::now();
        self.0.iter().any(|endpoint| endpoint.lock().may_permit(now))
    }

    /// Whether an endpoint is known to work. One that is being tested is not.
    pub(super) fn work(&self) -> bool {
        self.0.iter().any(Endpoint::works)
    }

    /// A test, where no endpoint is known to work, and one has rested for long enough that nobody tests.
    pub(super) fn due(&self) -> Option<Test> {
        if self.work() {
            return None;
        }
        (0..self.0.len()).map(Source).find_map(|source| {
            let permit = self.at(source).change(|breaker| breaker.permit(Instant::now()))?;
            Some(Test(Trial { endpoints: self.clone(), source, permit: Some(permit) }))
        })
    }

    /// Opens a session and sees whether it stays.
    pub(super) async fn make(&self, Test(mut test): Test, model: &str, config: &SessionConfig) {
        let (source, Some(permit)) = (test.source, test.permit.take()) else { return };
        match self.ask(source, permit, model, config, false).await {
            Ok(ModelSession { mut socket, mut trial, .. }) => {
                if timeout(TEST_FOR, ended(&mut socket)).await.is_ok() {
                    trial.lost_early();
                } else {
                    trial.served();
                    let _ = timeout(GOODBYE_WITHIN, socket.close()).await;
                }
            }
            Err(error) => {
                info!(%error, endpoint = self.at(source).name, "the model's endpoint does not work yet");
            }
        }
    }

    fn at(&self, source: Source) -> &Endpoint {
        &self.0[source.0]
    }
}

/// Until the session is over, whatever is said in it.
async fn ended(socket: &mut ModelSocket) {
    loop {
        match socket.next() {
            Some(Received::Closed { .. }) => return,
            Some(_) => {}
            None => socket.readable().await,
        }
    }
}

/// Keeps the first error after which another try may work; where there is none, the last.
fn keep_hopeful(found: &mut Option<OpenError>, error: OpenError) {
    if found.as_ref().is_none_or(|found| !found.may_pass()) {
        *found = Some(error);
    }
}

impl Trial {
    /// The session has done what it is for.
    pub(super) fn served(&mut self) {
        if self.report(Breaker::served) {
            self.endpoint().metrics.served.inc();
        }
    }

    /// It was lost before it had served. Returns where it came from.
    pub(super) fn lost_early(&mut self) -> Source {
        if self.report(|breaker, permit| breaker.failed(permit, Instant::now(), rand::random())) {
            let endpoint = self.endpoint();
            endpoint.metrics.lost_early.inc();
            warn!(endpoint = endpoint.name, "a session was lost before it had served");
        }
        self.source
    }

    /// True: for the first time.
    fn report(&mut self, outcome: impl FnOnce(&mut Breaker, Permit)) -> bool {
        let Some(permit) = self.permit.take() else { return false };
        self.endpoint().change(|breaker| outcome(breaker, permit));
        true
    }

    fn endpoint(&self) -> &Endpoint {
        self.endpoints.at(self.source)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.report(|breaker, permit| breaker.given_up(permit, Instant::now()));
    }
}

impl Endpoint {
    fn works(&self) -> bool {
        self.lock().health() == Health::Closed
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, act: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.lock();
        let before = breaker.health();
        let result = act(&mut breaker);
        let after = breaker.health();
        if before == after {
            return result;
        }
        let endpoint = self.name;
        match after {
            Health::Open if before == Health::Closed => {
                warn!(endpoint, "the model's endpoint has failed too often; it is left alone for a while");
            }
            Health::Open => info!(endpoint, "the model's endpoint has not shown that it works"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::AudioFormat;
    use crate::bridge::profile::{self, Defaults};
    use crate::simulate::model::{Faults, ModelOptions, ModelServer};

    /// An endpoint that has failed too often, and can be reached again.
    async fn rested(model: &ModelServer, config: &SessionConfig) -> Endpoints {
        let at = ModelEndpoint::new(model.url().parse().unwrap(), Some("the-key".into()));
        let endpoints = Endpoints::new(at, None, &Metrics::new());
        model.set_faults(Faults { refuse_upgrade: Some(503), ..Faults::default() });
        while endpoints.work() {
            assert!(endpoints.open("model", config, None).await.is_err());
        }
        assert!(endpoints.due().is_none(), "it has to rest first");
        while !endpoints.may_open() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        endpoints
    }

    fn config() -> SessionConfig {
        profile::bare_session(&Defaults {
            model: "model".to_owned(),
            transcription_model: "writer".to_owned(),
            audio_format: AudioFormat::Pcmu,
        })
    }

    #[tokio::test]
    async fn an_endpoint_that_has_rested_is_not_known_to_work_before_a_session_of_it_has_stayed() {
        let (model, config) = (ModelServer::on_any_port(ModelOptions::default()).await.unwrap(), config());
        let endpoints = rested(&model, &config).await;
        assert!(!endpoints.work(), "though a caller would be answered by a session of it");
        let test = endpoints.due().expect("nobody calls who would find out");
        assert!(endpoints.due().is_none(), "one is enough");
        model.set_faults(Faults::default());
        let making = endpoints.make(test, "model", &config);
        let meanwhile = async {
            while !endpoints.may_open() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(!endpoints.work(), "the session is there, and has not lasted yet");
        };
        tokio::join!(making, meanwhile);
        assert!(endpoints.work() && endpoints.due().is_none());
        model.stop().await;
    }

    #[tokio::test]
    async fn an_endpoint_whose_test_breaks_off_or_is_given_up_does_not_work_yet() {
        let (model, config) = (ModelServer::on_any_port(ModelOptions::default()).await.unwrap(), config());
        let endpoints = rested(&model, &config).await;
        drop(endpoints.due().expect("a test"));
        model.set_faults(Faults { drop_after_ms: Some(300), ..Faults::default() });
        let test = endpoints.due().expect("the one before was given up");
        endpoints.make(test, "model", &config).await;
        assert!(!endpoints.work() && endpoints.due().is_none(), "it rests again, and longer");
        model.stop().await;
    }
}
