//! Live calls: the sockets, clocks and tasks around [`crate::call::Call`].

mod afterwards;
mod breaker;
mod desk;
mod driver;
pub mod endpoints;
mod gather;
pub mod http_tools;
mod lanes;
mod lobby;
pub mod model_socket;
mod outage;
#[cfg(test)]
mod outage_tests;
pub mod profile;
mod scribe;
mod seldom;
mod socket;
mod sounds;
pub mod spool;
mod standby;
mod switchboard;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, info_span, warn};
use uuid::Uuid;

use crate::call::Call;
use crate::call::end::EndReason;
use crate::call::recovery::MAX_REMEMBERED;
use crate::call::transcript::Remembered;
use crate::ids::{AgentId, CallSid, OrganizationId, PhoneNumber};
use crate::lifecycle::{CallEvent, CallRef};
use crate::redact::{Redaction, Talk};
use crate::shutdown::Tasks;
use crate::store::agents::{self, Agent};
use crate::store::call_events::CarrierEvent;
use crate::store::leases::{self, AfterStream, ClaimedCall, FencingToken};
use crate::store::{Store, transcripts};
use crate::telemetry::{Metrics, ObserveDuration as _};
use crate::wire::websocket::Role;
use crate::wire::{openai, twilio};

use afterwards::Afterwards;
pub use afterwards::Decided;
use desk::Desk;
use driver::{Driver, ModelSide};
use endpoints::{Endpoints, Source};
use http_tools::HttpTools;
use lanes::{Lane, Lanes};
use lobby::{Lobby, Opened, Opening};
use model_socket::{ModelEndpoint, ModelSocket, OpenError};
use outage::Outage;
use profile::Defaults;
use scribe::{Subject, Waiting};
use socket::{Limits, Received, Socket};
use sounds::Sounds;
use spool::{Record, Spool, What};
use standby::Standby;
pub use standby::{Arrival, Promised};
use switchboard::Switchboard;

const STREAM_LIMITS: Limits = Limits {
    // A caller's frame is 350 bytes.
    read_bytes: 2 * 1024,
    message_bytes: 1024 * 1024,
    // About half a minute of audio that Twilio does not take: it is not listening.
    unsent_bytes: 512 * 1024,
};
/// Twilio sends `connected` and `start` right after the handshake.
const START_WITHIN: Duration = Duration::from_secs(5);
/// A peer that does not take our goodbye is left without it.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
/// How long a caller whose stream has come waits for the database. Without a claim the stream is turned away, since
/// somebody else may carry the call; without what was said before the call goes on.
const CLAIM_WITHIN: Duration = Duration::from_secs(2);

/// Why a stream is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The token was never offered, was used, or was replaced.
    #[error("this stream was not offered, or has been claimed already")]
    UnknownToken,
    /// The server is being stopped.
    #[error("the server takes no new calls")]
    Stopping,
    /// As many calls are live as may be.
    #[error("the server carries as many calls as it may")]
    Full,
    /// The offer cannot be looked up.
    #[error("the database cannot be reached")]
    Unavailable,
}

/// A stream that may be connected.
pub struct Admission {
    claimed: Option<ClaimedCall>,
    prepared: Option<(Arc<Agent>, Opening, Lane)>,
    /// Who answers, where another node has prepared the call.
    agent: Option<Arc<Agent>>,
    /// What has to be on record before anything else of the call.
    first: Vec<Waiting>,
    place: Place,
}

/// What all calls of this node share.
#[derive(Clone)]
pub struct Bridge(Arc<Shared>);

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bridge")
            .field("node", &self.0.node)
            .field("live_calls", &self.live_calls())
            .finish_non_exhaustive()
    }
}

struct Shared {
    store: Store,
    metrics: Metrics,
    tasks: Tasks,
    endpoints: Endpoints,
    defaults: Defaults,
    http: reqwest::Client,
    lobby: Lobby,
    standby: Standby,
    lanes: Lanes,
    afterwards: Afterwards,
    desk: Arc<Desk>,
    switchboard: Switchboard,
    spool: Spool,
    node: String,
    max_calls: usize,
    places: Arc<AtomicUsize>,
}

/// One of the calls this node may carry at a time; given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a bridge is made of.
pub struct Parts {
    /// Records.
    pub store: Store,
    /// Where records wait that are not in the store yet.
    pub spool: Spool,
    /// Numbers.
    pub metrics: Metrics,
    /// Where calls run.
    pub tasks: Tasks,
    /// Where sessions come from.
    pub endpoints: Endpoints,
    /// For agents that name nothing of their own.
    pub defaults: Defaults,
    /// For the agents' functions. Must not follow redirects: it sends secrets.
    pub http: reqwest::Client,
    /// Name of this node in leases.
    pub node: String,
    /// Calls at a time.
    pub max_calls: usize,
}

impl Bridge {
    /// Puts the parts together. Must be called inside a runtime.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { store, spool, metrics, tasks, endpoints, defaults, http, node, max_calls } = parts;
        let (lobby, afterwards, places) = (Lobby::default(), Afterwards::default(), Arc::default());
        let outage = Outage::new(&metrics);
        spool::replay::start(&spool, store.clone(), outage.clone(), metrics.clone());
        let desk = Arc::new(Desk::open(&store, outage));
        Self(Arc::new(Shared {
            store,
            metrics,
            tasks,
            endpoints,
            defaults,
            http,
            lobby,
            standby: Standby::default(),
            lanes: Lanes::start(),
            afterwards,
            desk,
            switchboard: Switchboard::default(),
            spool,
            node,
            max_calls,
            places,
        }))
    }

    /// Calls that are live, streams that are just connecting included.
    #[must_use]
    pub fn live_calls(&self) -> usize {
        self.0.places.load(Ordering::Acquire)
    }

    /// True when another call would be let in.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.0.tasks.is_stopping() && self.has_place()
    }

    /// True when a call that was live already would be let in: also by a server that stops, as long as calls may finish.
    #[must_use]
    pub fn has_place(&self) -> bool {
        !self.0.tasks.hang_up().is_cancelled() && self.live_calls() < self.0.max_calls
    }

    /// False while no endpoint of the model works, as far as is known. For calls that come: somebody has to be the first
    /// to find out that one does again.
    #[must_use]
    pub fn model_may_work(&self) -> bool {
        self.0.endpoints.may_open()
    }

    /// True while an endpoint of the model is known to work. For calls that we make: nobody is called to find out. So where
    /// none is known to, whoever asks has one tested that has rested.
    #[must_use]
    pub fn model_works(&self) -> bool {
        let Shared { endpoints, defaults, tasks, .. } = &*self.0;
        if let Some(test) = endpoints.due() {
            let (endpoints, hang_up) = (endpoints.clone(), tasks.hang_up().clone());
            let (model, session) = (defaults.model.clone(), profile::bare_session(defaults));
            tasks.spawn(async move {
                tokio::select! {
                    () = endpoints.make(test, &model, &session) => {}
                    () = hang_up.cancelled() => {}
                }
            });
        }
        endpoints.work()
    }

    /// Opens the model's session for a call whose stream will come with this token. Returns at once.
    pub fn prepare(&self, token: &str, call_sid: &CallSid, agent: &Arc<Agent>) {
        let lane = self.0.lanes.choose();
        let Some((opened, expiry)) = self.0.lobby.expect(token, Arc::clone(agent), lane.clone()) else {
            warn!(call.id = %call_sid, "too many calls are being set up; this one opens its session with its stream");
            return;
        };
        let (bridge, agent) = (self.clone(), Arc::clone(agent));
        let span = info_span!(parent: None, "prepare", call.id = %call_sid);
        let work = async move {
            bridge.open(&agent, None, opened).await;
            expiry.run(bridge.0.tasks.hang_up()).await;
        };
        self.0.tasks.spawn_on(lane.as_ref(), work.instrument(span));
    }

    /// Where records wait that the database does not have yet.
    #[must_use]
    pub fn spool(&self) -> &Spool {
        &self.0.spool
    }

    /// As [`Bridge::prepare`], for a call that comes while the database is away: the stream with this token is let in
    /// without it. That the call came is put on record when the database is back. False: too many are being set up already.
    #[must_use]
    pub fn prepare_without_database(&self, token: &str, arrival: Arrival) -> bool {
        let (call_sid, agent) = (arrival.offer.call_sid.clone(), Arc::clone(&arrival.agent));
        let shared = &self.0;
        let Some(expiry) = shared.standby.expect(token, arrival, &shared.spool) else { return false };
        let hang_up = shared.tasks.hang_up().clone();
        shared.tasks.spawn(async move { expiry.run(&hang_up).await });
        self.prepare(token, &call_sid, &agent);
        true
    }

    /// Keeps what the carrier says of a call while the database is away, to be put on record when it is back. False: there
    /// is no room for it.
    #[must_use]
    pub fn keep_callback(&self, callback: CarrierEvent) -> bool {
        let organization = callback.organization.unwrap_or(OrganizationId(Uuid::nil()));
        let call = CallRef { call_sid: callback.call_sid.clone(), organization, agent: AgentId(Uuid::nil()) };
        // What it means for its call depends on the offer, if there is one.
        self.keep(call, standby::TOKEN, What::Callback { at: Timestamp::now(), callback })
    }

    /// Keeps what has happened to a call that no stream will come of, while the database is away. False: there is no room.
    #[must_use]
    pub fn keep_event(&self, call: CallRef, event: CallEvent) -> bool {
        self.keep(call, FencingToken(0), What::Event { at: Timestamp::now(), event })
    }

    fn keep(&self, call: CallRef, token: FencingToken, what: What) -> bool {
        let ticket = self.0.spool.keep(Arc::new(Record { call, token, what }));
        self.0.spool.leave(ticket);
        ticket.is_some()
    }

    /// Brings what people in charge want to the calls of this node, until `stop`.
    pub async fn take_commands(self, stop: CancellationToken) {
        let Shared { switchboard, store, node, tasks, .. } = &*self.0;
        switchboard.clone().run(store.clone(), node.clone(), tasks.clone(), stop).await;
    }

    /// True while the last that was heard of the database is that it cannot be reached.
    #[must_use]
    pub fn database_is_away(&self) -> bool {
        self.0.desk.outage.lasts()
    }

    /// Twilio asks how a call goes on after its stream. The server may stop when it has been told. Returns what the call
    /// has decided, if it was carried here, once.
    #[must_use]
    pub fn asked_after(&self, call_sid: &CallSid) -> Option<Decided> {
        self.0.afterwards.asked(call_sid)
    }

    async fn open(&self, agent: &Agent, last: Option<Source>, opened: Opened) {
        let asked_at = Instant::now();
        let (model, settings) = profile::settings(agent, &self.0.defaults);
        let result = self.0.endpoints.open(&model, &settings.session, last).await;
        if result.is_ok() {
            self.0.metrics.model_ready_seconds.observe_duration(asked_at.elapsed());
        }
        drop(opened.send(result)); // Nobody waits when the call is gone already.
    }

    /// Decides before the handshake whether a stream may connect. Each token is good for one stream. `promised`: what the
    /// token itself says, if another node or this one has made it while the database was away.
    pub async fn admit(&self, token: Option<&str>, promised: Option<Promised>) -> Result<Admission, Refusal> {
        let expected =
            token.is_some_and(|token| self.0.lobby.expects(token) || self.0.standby.expects(token));
        // A caller who was answered before the stop began is still let in.
        if self.0.tasks.is_stopping() && !expected {
            return Err(Refusal::Stopping);
        }
        let place = self.take_place().ok_or(Refusal::Full)?;
        let Some(token) = token else {
            return Ok(Admission { claimed: None, prepared: None, agent: None, first: Vec::new(), place });
        };
        let (claimed, first, agent) = self.claim(token, promised).await?;
        let prepared = self.0.lobby.claim(token);
        Ok(Admission { claimed: Some(claimed), prepared, agent, first, place })
    }

    /// Takes the call of a token, with what has to be on record before anything else of it, and who answers if that was not
    /// looked up here.
    async fn claim(
        &self,
        token: &str,
        promised: Option<Promised>,
    ) -> Result<(ClaimedCall, Vec<Waiting>, Option<Arc<Agent>>), Refusal> {
        let Shared { standby, spool, store, node, .. } = &*self.0;
        if let Some((claimed, first)) = standby.claim(token, spool) {
            return Ok((claimed, first, None));
        }
        // A caller does not wait for a database that is known to be away.
        let on_record = if promised.is_some() && self.database_is_away() {
            Err(Refusal::Unavailable)
        } else {
            let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
            self.ask(leases::claim(store, &digest, node)).await
        };
        let promised = match (on_record, promised) {
            (Ok(Some(claimed)), _) => return Ok((claimed, Vec::new(), None)),
            // Whoever has made the token has yet to put that on record.
            (Ok(None), Some(promised)) if !self.is_given_away(&promised.offer.call_sid).await => promised,
            // The agent is as it was when it was last looked up.
            (Err(Refusal::Unavailable), Some(promised)) if promised.agent.is_some() => promised,
            (Ok(None), _) => return Err(Refusal::UnknownToken),
            (Err(refusal), _) => return Err(refusal),
        };
        let agent = promised.agent.clone();
        let (claimed, first) = standby.take_over(promised, node, spool).ok_or(Refusal::UnknownToken)?;
        info!(call.id = %claimed.call_sid, "a call that another node has answered without the database is taken");
        Ok((claimed, first, agent))
    }

    /// Whether another stream than that of the first offer has the call. Whoever cannot say so will find out.
    async fn is_given_away(&self, call_sid: &CallSid) -> bool {
        let after = self.ask(leases::next_action(&self.0.store, call_sid)).await;
        let is_other =
            |after: AfterStream| after.claimed || after.ended || after.fencing_token != standby::TOKEN;
        after.is_ok_and(|after| after.is_some_and(is_other))
    }

    async fn ask<T>(&self, question: impl Future<Output = sqlx::Result<T>>) -> Result<T, Refusal> {
        match timeout(CLAIM_WITHIN, question).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(Refusal::Unavailable),
        }
    }

    fn take_place(&self) -> Option<Place> {
        let taken = self.0.places.fetch_update(Ordering::AcqRel, Ordering::Acquire, |live| {
            (live < self.0.max_calls).then_some(live + 1)
        });
        taken.is_ok().then(|| Place(Arc::clone(&self.0.places)))
    }

    /// Carries the call of an upgraded connection to its end, in the background. `io` brings the connection and what has
    /// come on it already.
    pub fn carry(
        &self,
        io: impl Future<Output = Option<(TcpStream, Bytes)>> + Send + 'static,
        admission: Admission,
    ) {
        let bridge = self.clone();
        self.0.tasks.spawn(async move {
            let Some((io, early)) = io.await else {
                return bridge.give_up(admission.claimed, admission.first).await;
            };
            bridge.carry_stream(Socket::new(io, Role::Server, STREAM_LIMITS, &early), admission).await;
        });
    }

    async fn carry_stream(&self, mut socket: Socket<TcpStream>, admission: Admission) {
        let Ok(Some(start)) = timeout(START_WITHIN, wait_for_start(&mut socket)).await else {
            warn!("a media stream connected and did not start");
            return self.give_up(admission.claimed, admission.first).await;
        };
        // A call outlives the request that brought it.
        let span = info_span!(parent: None, "call", call.id = %start.call_sid);
        async {
            let (agent, session) =
                admission.prepared.map(|(agent, opening, lane)| (agent, (opening, lane))).unzip();
            match self.identify(&start, admission.claimed.clone(), agent.or(admission.agent)).await {
                Ok((claimed, agent)) => {
                    self.carry_call(socket, start, claimed, agent, session, admission.first, admission.place)
                        .await;
                }
                Err(problem) => {
                    warn!(%problem, "the media stream is turned away");
                    let _ = timeout(START_WITHIN, socket.close()).await;
                    self.give_up(admission.claimed, admission.first).await;
                }
            }
        }
        .instrument(span)
        .await;
    }

    /// Ends a call whose stream was let in and did not come to anything: nobody else will.
    async fn give_up(&self, claimed: Option<ClaimedCall>, first: Vec<Waiting>) {
        let Some(claimed) = claimed else { return };
        let call =
            CallRef { call_sid: claimed.call_sid, organization: claimed.organization, agent: claimed.agent };
        let (token, reason) = (claimed.fencing_token, EndReason::StreamLost);
        let ended = CallEvent::after_stream(token, reason, claimed.lasted, claimed.offered);
        let record = Record { call, token, what: What::Event { at: Timestamp::now(), event: ended } };
        let last = Waiting::keep(&self.0.spool, record);
        if first.is_empty() {
            last.put_on_record(&self.0.spool, &self.0.store).await;
        } else {
            // Behind what has to be on record first.
            standby::leave(&self.0.spool, first.into_iter().chain([last]));
        }
    }

    /// Which call and which agent a stream belongs to.
    async fn identify(
        &self,
        start: &twilio::Start,
        claimed: Option<ClaimedCall>,
        prepared: Option<Arc<Agent>>,
    ) -> Result<(ClaimedCall, Arc<Agent>), Unidentified> {
        let store = &self.0.store;
        if let Some(claimed) = claimed {
            if claimed.call_sid != start.call_sid {
                return Err(Unidentified::ForeignToken);
            }
            let agent = if let Some(agent) = prepared {
                agent
            } else {
                let agent = agents::briefed_for_call(store, claimed.agent, &claimed.call_sid).await?;
                Arc::new(agent.ok_or(Unidentified::NoAgent)?)
            };
            return Ok((claimed, agent));
        }
        let agent = match start.custom_parameters.get("agent_id") {
            Some(id) => {
                let id = Uuid::parse_str(id).map_err(|_| Unidentified::NoAgent)?;
                agents::agent(store, AgentId(id)).await?
            }
            None => agents::default_agent(store).await?,
        };
        let agent = agent.filter(|agent| agent.enabled).ok_or(Unidentified::NoAgent)?;
        let claimed =
            leases::claim_unoffered(store, &start.call_sid, agent.organization_id, agent.id, &self.0.node)
                .await?;
        Ok((claimed.ok_or(Unidentified::Taken)?, Arc::new(agent)))
    }

    /// Runs the call in a task of its own on its lane, which keeps nothing of what it took to get there.
    async fn carry_call(
        &self,
        twilio: Socket<TcpStream>,
        start: twilio::Start,
        claimed: ClaimedCall,
        agent: Arc<Agent>,
        prepared: Option<(Opening, Lane)>,
        first: Vec<Waiting>,
        place: Place,
    ) {
        let shared = &self.0;
        let agent = agent.on_call(claimed.direction.as_deref());
        let other_party = if agent.calls_out { &claimed.to } else { &claimed.from };
        let other_party = other_party.as_deref().and_then(|text| PhoneNumber::parse(text).ok());
        let (opening, lane) = prepared.unwrap_or_else(|| {
            let lane = shared.lanes.choose();
            (self.start_opening(&agent, &lane, None), lane)
        });
        let twilio = match lanes::move_to(&lane, twilio) {
            Ok(twilio) => twilio,
            Err(error) => {
                warn!(%error, "the stream's connection cannot be carried");
                return self.give_up(Some(claimed), first).await;
            }
        };
        let (_, mut settings) = profile::settings(&agent, &shared.defaults);
        settings.stream = claimed.fencing_token.0.unsigned_abs();
        settings.seed = rand::random();
        settings.can_opt_out = other_party.is_some();
        settings.history = self.history(&claimed).await;
        settings.moved = claimed.resumed_after == Some(EndReason::Moved);
        settings.handed_back = claimed.resumed_after == Some(EndReason::Transferred);
        settings.handoffs_failed = claimed.handoffs;
        settings.max_duration = settings.max_duration.saturating_sub(claimed.lasted);
        let subject = Subject {
            call: CallRef {
                call_sid: start.call_sid.clone(),
                organization: claimed.organization,
                agent: claimed.agent,
            },
            token: claimed.fencing_token,
            stream_sid: start.stream_sid.clone(),
            node: shared.node.clone(),
            stream_started: Timestamp::now() - claimed.clock_ahead,
            clock_ahead: claimed.clock_ahead,
            lasted_before: claimed.lasted,
            resumable: claimed.offered,
            after_sequence: places_before(claimed.fencing_token),
            talk: talk_so_far(agent.redact, &settings.history),
        };
        let (question, answer) = shared.afterwards.expect(&start.call_sid, agent.id, claimed.fencing_token);
        let desk = Arc::clone(&shared.desk);
        let (connected, orders) = shared.switchboard.connect(&start.call_sid, claimed.fencing_token);
        let (scribe, writer) = scribe::scribe(
            subject,
            first,
            answer,
            desk,
            shared.spool.clone(),
            shared.store.clone(),
            shared.metrics.clone(),
        );
        shared.tasks.spawn(writer.run());
        shared.metrics.calls_started.inc();
        shared.metrics.calls_live.inc();
        info!(agent = %agent.id, format = %settings.session.format, "media stream started");
        let mut driver = Driver {
            call: Call::new(settings, openai::CAPABILITIES),
            stream_sid: start.stream_sid,
            twilio,
            model: ModelSide::Opening(opening),
            next_model: None,
            sessions: Sessions { bridge: self.clone(), agent: Arc::clone(&agent), lane: lane.clone() },
            trial: None,
            next_trial: None,
            lost_from: None,
            lost_at: None,
            tools: HttpTools::new(shared.http.clone(), shared.metrics.clone(), start.call_sid, &agent.tools),
            scribe,
            sounds: Sounds::default(),
            orders: Some(orders),
            answer: None,
            other_party,
            metrics: shared.metrics.clone(),
            // Twilio would not ask us how a call of somebody else's TwiML goes on.
            move_away: if claimed.offered { shared.tasks.moving().clone() } else { CancellationToken::new() },
            hang_up: shared.tasks.hang_up().clone(),
            started: Instant::now(),
        };
        let (tasks, metrics) = (shared.tasks.clone(), shared.metrics.clone());
        shared.tasks.spawn_on(lane.as_ref(), async move {
            let _for_as_long = (place, connected);
            let reason = driver.run().await;
            tasks.spawn(question.wait());
            metrics.calls_live.dec();
            metrics.call_ended(reason.as_str());
            info!(reason = reason.as_str(), "call ended");
        });
    }

    /// What was said on earlier streams of the call. Without it the call goes on as a new one would.
    async fn history(&self, claimed: &ClaimedCall) -> Vec<Remembered> {
        if claimed.resumed_after.is_none() {
            return Vec::new();
        }
        let reading = transcripts::history(
            &self.0.store,
            claimed.organization,
            &claimed.call_sid,
            MAX_REMEMBERED as u32,
        );
        match timeout(CLAIM_WITHIN, reading).await {
            Ok(Ok(history)) => history,
            Ok(Err(error)) => {
                warn!(%error, "what was said before cannot be read; the call goes on without");
                Vec::new()
            }
            Err(_) => {
                warn!("what was said before cannot be read in time; the call goes on without");
                Vec::new()
            }
        }
    }

    /// `last`: the endpoint that is asked after all others.
    fn start_opening(&self, agent: &Arc<Agent>, lane: &Lane, last: Option<Source>) -> Opening {
        let (opened, opening) = oneshot::channel();
        let (bridge, agent) = (self.clone(), Arc::clone(agent));
        self.0.tasks.spawn_on(lane.as_ref(), async move { bridge.open(&agent, last, opened).await });
        opening
    }
}

/// Where the conversation of a stream begins: each has room for more turns than a call keeps, so that late turns of an
/// earlier stream still come before it.
const fn places_before(token: FencingToken) -> u32 {
    const PLACES_OF_A_STREAM: u64 = 10_000;
    let places = token.0.unsigned_abs().saturating_sub(1).saturating_mul(PLACES_OF_A_STREAM);
    // As many as the column has room for.
    if places > 2_000_000_000 { 2_000_000_000 } else { places as u32 }
}

/// A question that was asked before the call came to this stream may be answered in it.
fn talk_so_far(redaction: Redaction, history: &[Remembered]) -> Talk {
    fn words(said: &Remembered) -> &str {
        match said {
            Remembered::Caller(text) | Remembered::Agent(text) | Remembered::Note(text) => text,
            Remembered::Function { .. } => "",
        }
    }
    Talk::resumed(redaction, history.iter().map(words))
}

/// Where the sessions of one call come from and go to.
struct Sessions {
    bridge: Bridge,
    agent: Arc<Agent>,
    lane: Lane,
}

impl Sessions {
    /// Begins to open one, if possible not at the endpoint that is `last`.
    fn open(&self, last: Option<Source>) -> Opening {
        self.bridge.start_opening(&self.agent, &self.lane, last)
    }

    /// Says goodbye in one that the call has no more use for.
    fn close(&self, mut socket: ModelSocket) {
        self.bridge.0.tasks.spawn_on(self.lane.as_ref(), async move {
            let _ = timeout(GOODBYE_WITHIN, socket.close()).await;
        });
    }
}

/// Opens and closes a session as an agent without wishes would, to see whether calls could be answered.
pub async fn probe(endpoint: &ModelEndpoint, defaults: &Defaults) -> Result<(), OpenError> {
    endpoint.probe(&defaults.model, profile::bare_session(defaults)).await
}

/// Why a stream belongs to no call we know.
#[derive(Debug, thiserror::Error)]
enum Unidentified {
    #[error("its token was offered to another call")]
    ForeignToken,
    #[error("there is no such agent, or it is disabled")]
    NoAgent,
    #[error("the call has a stream already, or belongs to another organisation")]
    Taken,
    #[error("the database cannot be reached: {0}")]
    Store(#[from] sqlx::Error),
}

async fn wait_for_start<S>(socket: &mut Socket<S>) -> Option<twilio::Start>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match socket.next() {
            Some(Received::Text(text)) => {
                if let Ok(twilio::Inbound::Start(start)) = twilio::decode(text) {
                    return Some(*start);
                }
            }
            Some(Received::Binary) => {}
            Some(Received::Closed { .. }) => return None,
            None => socket.readable().await,
        }
    }
}
