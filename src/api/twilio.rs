//! Twilio asks what to do with a call: when it arrives, and again when its stream has ended.
//!
//! Whatever goes wrong here, the answer is TwiML that says something sensible: an error page would have Twilio read its
//! own error message to the caller.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::attempts::{self, CONNECTED_WITHIN, OfAttempt};
use crate::api::call_status::{note_callback, note_or_keep};
use crate::api::error::{self, ApiError, Failures};
use crate::api::extract::{Path, Query};
use crate::api::handoff::{self, Handoff};
use crate::api::routes::Routes;
use crate::api::stream_token::StreamToken;
use crate::api::webhook::{Twiml, Webhook};
use crate::api::without_database::{self, keep_callback, patience};
use crate::bridge::Decided;
use crate::call::end::{EndReason, NextStep};
use crate::ids::{AgentId, CallSid, PhoneNumber, PhoneNumberId};
use crate::lifecycle::callback::end_lost_call;
use crate::lifecycle::{self, CallEvent, CallRef};
use crate::routing::decide::{AgentHealth, Decision, RingGroup, To, for_agent};
use crate::store::agents::{self, Agent};
use crate::store::leases::{self, AfterStream, FencingToken, Offer};
use crate::store::routing_decisions::{Decided as DecidedFirst, Step, decide_once};
use crate::store::{handoffs, nodes, phone_numbers, teams};
use crate::wire::twiml::{self, ConnectStream, Dial, Leg};

/// Where Twilio asks again after the stream.
pub(super) const STREAM_ENDED: &str = "/twiml/stream-ended";
/// How long a node that lives may take to put on record what was said before a stream broke. A dead one is waited for as
/// long, and the caller with it.
const DECIDED_WITHIN: Duration = Duration::from_millis(500);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the team's telephones ring: about five rings, before most voice mails.
const RING: Duration = Duration::from_secs(25);
/// Of a call for which no stream was ever offered. Tokens of offers begin at 1.
pub(super) const NO_OFFER: FencingToken = FencingToken(0);

const APOLOGY: &str = "We are sorry, something went wrong on our side. Please call again later.";
const BUSY: &str = "All our lines are busy right now. Please call again in a few minutes.";
pub(super) const NOBODY: &str = "This number cannot take calls right now. Please call again later.";
pub(super) const NO_ANSWER: &str =
    "We are sorry, nobody can take your call right now. Please call again later.";
pub(super) const ONE_MOMENT: &str = "One moment please, I am connecting you.";

/// Routes that answer with TwiML.
pub fn router() -> Routes {
    Routes::new()
        .signed(routes!(media_stream_twiml, media_stream_twiml_by_get))
        .signed(routes!(agent_call_incoming))
        .signed(routes!(stream_ended))
}

/// A call has arrived: connects it to the agent of the called number, or to the default agent.
#[utoipa::path(
    post, path = "/media-stream-twiml", tag = "twilio",
    request_body(content = Object, content_type = "application/x-www-form-urlencoded", description = "Parameters as Twilio names them"),
    responses((status = 200, description = "TwiML", content_type = "text/xml", body = String), Failures),
    security(("twilio" = [])),
)]
async fn media_stream_twiml(State(api): State<Api>, webhook: Webhook) -> Result<Twiml, ApiError> {
    let call_sid = webhook.call_sid()?;
    Ok(new_call(&api, &webhook, &call_sid, None).await)
}

/// As the POST, with the parameters in the query.
#[utoipa::path(
    get, path = "/media-stream-twiml", tag = "twilio",
    responses((status = 200, description = "TwiML", content_type = "text/xml", body = String), Failures),
    security(("twilio" = [])),
)]
async fn media_stream_twiml_by_get(state: State<Api>, webhook: Webhook) -> Result<Twiml, ApiError> {
    media_stream_twiml(state, webhook).await
}

/// A call has arrived: connects it to this agent.
#[utoipa::path(
    post, path = "/api/agent/{id}/call-incoming", tag = "twilio",
    params(
        ("id" = Uuid, Path, description = "The agent"),
        ("attempt" = Option<String>, Query, description = "The try, of a call that we asked for"),
    ),
    request_body(content = Object, content_type = "application/x-www-form-urlencoded", description = "Parameters as Twilio names them"),
    responses((status = 200, description = "TwiML", content_type = "text/xml", body = String), Failures),
    security(("twilio" = [])),
)]
async fn agent_call_incoming(
    State(api): State<Api>,
    Path(agent): Path<Uuid>,
    Query(named): Query<OfAttempt>,
    webhook: Webhook,
) -> Result<Twiml, ApiError> {
    let (call_sid, agent) = (webhook.call_sid()?, AgentId(agent));
    Ok(match named.id().filter(|_| webhook.is_outbound()) {
        Some(attempt) => own_call(&api, &webhook, &call_sid, agent, attempt, &named).await,
        None => new_call(&api, &webhook, &call_sid, Some(agent)).await,
    })
}

/// The stream of a call, or the call to the team after it, has ended: says how the call goes on.
#[utoipa::path(
    post, path = "/twiml/stream-ended", tag = "twilio",
    request_body(content = Object, content_type = "application/x-www-form-urlencoded", description = "Parameters as Twilio names them"),
    responses((status = 200, description = "TwiML", content_type = "text/xml", body = String), Failures),
    security(("twilio" = [])),
)]
async fn stream_ended(State(api): State<Api>, webhook: Webhook) -> Result<Twiml, ApiError> {
    let call_sid = webhook.call_sid()?;
    // Requests that have begun are answered, also by a server that stops.
    let decided = api.bridge.asked_after(&call_sid);
    if webhook.get("DialCallStatus").is_some() {
        return Ok(handoff::after_people(&api, &webhook, &call_sid, None).await);
    }
    if webhook.call_is_over() {
        if let Err(error) = note_or_keep(&api, &webhook, &call_sid).await {
            tracing::error!(call.id = %call_sid, ?error, "that a call is over is not on record");
        }
        return Ok(Twiml(twiml::hang_up()));
    }
    let from_memory = || {
        keep_callback(&api, &webhook, &call_sid, None);
        decided.and_then(|decided| without_database::go_on(&api, decided))
    };
    Ok(within(&api, go_on(&api, &webhook, &call_sid, decided), from_memory).await)
}

async fn new_call(api: &Api, webhook: &Webhook, call_sid: &CallSid, named: Option<AgentId>) -> Twiml {
    let from_memory = || without_database::answer(api, webhook, call_sid, named);
    within(api, answer(api, webhook, call_sid, named, None), from_memory).await
}

/// As [`new_call`], of a call that we have made for this try: whoever answers has not called us, and that is never put on
/// record, whatever the records do.
async fn own_call(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    agent: AgentId,
    attempt: Uuid,
    named: &OfAttempt,
) -> Twiml {
    let answer = answer(api, webhook, call_sid, Some(agent), Some(attempt));
    let twiml = Box::pin(in_time(patience(api).min(CONNECTED_WITHIN), answer)).await;
    twiml.unwrap_or_else(|| attempts::ask_again(api, webhook, call_sid, agent, named))
}

/// The answer if it comes in time and without an error, else the one from memory, else an apology.
pub(super) async fn within(
    api: &Api,
    answer: impl Future<Output = sqlx::Result<Twiml>>,
    from_memory: impl FnOnce() -> Option<Twiml>,
) -> Twiml {
    Box::pin(in_time(patience(api), answer)).await.or_else(from_memory).unwrap_or_else(|| {
        tracing::error!("the caller hears an apology, because the records could not be used");
        Twiml(twiml::say_and_hang_up(APOLOGY))
    })
}

/// The answer, if it comes by then and without an error.
async fn in_time(limit: Duration, answer: impl Future<Output = sqlx::Result<Twiml>>) -> Option<Twiml> {
    match timeout(limit, answer).await {
        Ok(Ok(twiml)) => return Some(twiml),
        Ok(Err(error)) => error::log(&error),
        Err(_) => tracing::error!("the records do not answer in time"),
    }
    None
}

/// Puts the call on record and offers its stream, or says why not. `attempt`: the try of ours that it names.
async fn answer(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    named: Option<AgentId>,
    attempt: Option<Uuid>,
) -> sqlx::Result<Twiml> {
    if let Some(attempt) = attempt {
        // Before what is said of the call, so that it is known whose it is.
        attempts::look_for(api, attempt, call_sid).await?;
    }
    let Some((agent, phone_number)) = agent_for(api, webhook, named).await? else {
        note_callback(api, webhook, call_sid, None).await?;
        tracing::warn!("a call was turned away: there is no such agent, or no enabled default agent");
        return Ok(Twiml(twiml::say_and_hang_up(NOBODY)));
    };
    let agent = agent.on_call(webhook.get("Direction"));
    note_callback(api, webhook, call_sid, Some(agent.organization_id)).await?;
    let call = CallRef { call_sid: call_sid.clone(), organization: agent.organization_id, agent: agent.id };
    let now = api.clock.now();
    let briefed = attempts::briefed(api, webhook, &agent, call_sid).await?;
    if briefed.is_none() && attempt.is_none() {
        let incoming = without_database::incoming(webhook, phone_number, false);
        lifecycle::record(&api.store, &call, now, &incoming).await?;
    }
    let agent = match briefed {
        Some(agent) => agent,
        // A try that has been given up since: at least who has called whom.
        None if attempt.is_some() => Arc::new(agent.briefed("")),
        None => agent,
    };

    let people = look_up_people(api, &agent).await?;
    let possible = for_agent(people.is_some(), health(api, &agent));
    let first = decide_once(&api.store, call.organization, call_sid, Step::Agent, &possible, now).await?;
    match (still_possible(first, &possible), people) {
        ((To::Agent, _), _) => connect_agent(api, webhook, &call, &agent).await,
        ((To::Team, why), Some(group)) => {
            tracing::warn!(why, "an agent cannot take a call; people are called instead");
            note_transfer(api, &call, NO_OFFER, group.only_number(), &why).await;
            Ok(dial(api, &group, STREAM_ENDED, Some(ONE_MOMENT)))
        }
        ((_, why), _) => Ok(turn_away(&why)),
    }
}

/// Offers a stream to the agent.
pub(super) async fn connect_agent(
    api: &Api,
    webhook: &Webhook,
    call: &CallRef,
    agent: &Arc<Agent>,
) -> sqlx::Result<Twiml> {
    let token = StreamToken::random();
    let offer = Offer {
        call_sid: &call.call_sid,
        organization: agent.organization_id,
        agent: agent.id,
        direction: webhook.get("Direction"),
        from: webhook.get("From"),
        to: webhook.get("To"),
        token_sha256: token.sha256(),
    };
    if leases::offer(&api.store, &offer).await?.is_none() {
        tracing::error!("a call was turned away: its SID is on record for another organisation");
        return Ok(Twiml(twiml::say_and_hang_up(NOBODY)));
    }
    api.bridge.prepare(token.expose(), &call.call_sid, agent);
    Ok(connect(api, &token, agent))
}

/// What a call does that comes for the second time: what it did the first time, as far as that can be done now.
pub(super) fn still_possible(first: DecidedFirst, now: &Decision) -> (To, String) {
    let is_well = || now.details.get("agent").is_some_and(|word| word == AgentHealth::Well.as_str());
    let feasible = match first.to {
        // It may be people's hour by now.
        To::Agent => now.to == To::Agent || now.to == To::Team && is_well(),
        To::Team => now.to == To::Team || now.to == To::Agent,
        To::Sentence | To::HangUp => true,
    };
    if feasible { (first.to, first.reason) } else { (now.to, now.reason.to_owned()) }
}

/// Who answers, and which of our numbers was called. A disabled agent is returned as well.
async fn agent_for(
    api: &Api,
    webhook: &Webhook,
    named: Option<AgentId>,
) -> sqlx::Result<Option<(Arc<Agent>, Option<PhoneNumberId>)>> {
    let called = webhook.our_number().and_then(|text| PhoneNumber::parse(text).ok());
    let own_number = match &called {
        Some(number) => phone_numbers::by_number(&api.store, number).await?,
        None => None,
    };
    let agent = match named.or(own_number.map(|number| number.agent_id)) {
        Some(id) => agents::agent(&api.store, id).await?,
        None => agents::default_agent(&api.store).await?,
    };
    let agent = agent.map(Arc::new);
    api.known.learn(named, called.as_ref().map(|number| (number, own_number)), agent.as_ref());
    Ok(agent.map(|agent| {
        let number = own_number.filter(|number| number.organization_id == agent.organization_id);
        (agent, number.map(|number| number.id))
    }))
}

/// Who is called where the agent cannot take a call: its team, else the number it transfers to.
pub(super) async fn look_up_people(api: &Api, agent: &Agent) -> sqlx::Result<Option<Arc<RingGroup>>> {
    let team = teams::ring_group_of_agent(&api.store, agent.id).await?.and_then(RingGroup::somebody);
    let people = team.or_else(|| agent.transfer_number.as_ref().map(alone)).map(Arc::new);
    api.known.learn_people(agent.id, people.clone());
    Ok(people)
}

/// Whether this node lets the agent take a call.
pub(super) fn health(api: &Api, agent: &Agent) -> AgentHealth {
    if !agent.enabled {
        AgentHealth::Disabled
    } else if api.tasks.is_stopping() {
        AgentHealth::Draining
    } else if !api.bridge.has_room() {
        AgentHealth::Full
    } else if !api.bridge.model_may_work() {
        AgentHealth::ModelDown
    } else {
        AgentHealth::Well
    }
}

/// Nobody can take the call. `why`: a word as of [`AgentHealth::as_str`].
pub(super) fn turn_away(why: &str) -> Twiml {
    tracing::warn!(why, "a call was turned away");
    let may_pass = [AgentHealth::Draining, AgentHealth::Full].iter().any(|health| health.as_str() == why);
    Twiml(twiml::say_and_hang_up(if may_pass { BUSY } else { NOBODY }))
}

pub(super) fn connect(api: &Api, token: &StreamToken, agent: &Agent) -> Twiml {
    let after = api.settings.public_url.join(STREAM_ENDED);
    let url = api.settings.public_url.join_websocket(&format!("/media-stream/{}", token.expose()));
    let agent_id = agent.id.to_string();
    let connect =
        ConnectStream { action: &after, url: &url, parameters: &[("agent_id", &agent_id)], fallback: &after };
    Twiml(connect.document().expect("an agent's id is far shorter than a parameter may be"))
}

/// After the stream.
async fn go_on(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    decided: Option<Decided>,
) -> sqlx::Result<Twiml> {
    let mut after = leases::next_action(&api.store, call_sid).await?;
    note_callback(api, webhook, call_sid, after.as_ref().map(|after| after.organization)).await?;
    if is_undecided(after.as_ref()) {
        after = decided_in_a_moment(api, call_sid).await?;
    }
    let Some(after) = after else {
        // A call that was answered without the database may not be on record yet.
        let from_memory = decided.and_then(|decided| without_database::go_on(api, decided));
        return Ok(from_memory.unwrap_or_else(|| Twiml(twiml::say_and_hang_up(APOLOGY))));
    };
    if !after.claimed && !after.came_late {
        tracing::error!(
            call.id = %call_sid,
            "the stream of a call never came: can Twilio reach PUBLIC_URL with WebSockets over TLS?"
        );
    }
    let Some(agent) = agents::briefed_for_call(&api.store, after.agent, call_sid).await?.map(Arc::new) else {
        return Ok(Twiml(twiml::say_and_hang_up(APOLOGY)));
    };
    let agent = agent.on_call(webhook.get("Direction"));
    // What was decided here may wait in the spool. Else whoever should have decided is dead.
    let decided = decided.filter(|decided| decided.token == after.fencing_token);
    let decided = decided.map(|decided| decided.reason.next_step());
    let mut step = after.next_action.or(decided).unwrap_or(NextStep::Resume);
    if step == NextStep::Resume {
        if let Some(token) = offer_again(api, call_sid, &after).await? {
            if api.bridge.has_place() {
                api.bridge.prepare(token.expose(), call_sid, &agent);
            }
            return Ok(connect(api, &token, &agent));
        }
        end_lost_call(&api.store, call_sid, &after, Timestamp::now()).await?;
        step = NextStep::Apologise;
    }
    let call = CallRef { call_sid: call_sid.clone(), organization: after.organization, agent: after.agent };
    let why = after.disconnect_reason.as_deref().and_then(EndReason::from_word);
    let why = why.unwrap_or(EndReason::StreamLost).as_str();
    match step {
        NextStep::Resume => unreachable!("a call that is not resumed ends with an apology"),
        NextStep::HangUp => Ok(Twiml(twiml::hang_up())),
        // That the caller is put through is on record already, with the reason of whoever wanted it.
        NextStep::Transfer => {
            let wish = handoffs::last_wish(&api.store, call_sid).await?.unwrap_or_default();
            let (token, to) = (after.fencing_token, wish.to.as_deref());
            let people =
                Handoff { call: &call, token, agent: &agent, to, why: "transferred", say: ONE_MOMENT };
            if let Some(ringing) = handoff::ring_people(api, webhook, people).await? {
                return Ok(ringing.twiml);
            }
            let after = AfterStream { handed_over: true, ..after };
            let back = if after.ended {
                None
            } else {
                handoff::back_to_agent(api, webhook, call_sid, &after).await?
            };
            Ok(back.unwrap_or_else(|| Twiml(twiml::say_and_hang_up(NO_ANSWER))))
        }
        NextStep::Apologise => {
            let sentence = &agent.fallback_sentence;
            let token = after.fencing_token;
            let people = Handoff { call: &call, token, agent: &agent, to: None, why, say: sentence };
            let Some(ringing) = handoff::ring_people(api, webhook, people).await? else {
                return Ok(Twiml(twiml::say_and_hang_up(sentence)));
            };
            note_transfer(api, &call, token, ringing.group.only_number(), why).await;
            Ok(ringing.twiml)
        }
    }
}

/// Whoever carried the call has not said how it goes on.
fn is_undecided(after: Option<&AfterStream>) -> bool {
    after.is_some_and(|after| {
        (after.claimed || after.came_late) && !after.ended && after.next_action.is_none()
    })
}

/// When a stream breaks, its node and we learn of it in the same moment. If that node lives it writes down what was said
/// and then how the call goes on, and the next stream is to be told all of it.
async fn decided_in_a_moment(api: &Api, call_sid: &CallSid) -> sqlx::Result<Option<AfterStream>> {
    let deadline = Instant::now() + DECIDED_WITHIN;
    loop {
        sleep(LOOK_EVERY).await;
        let after = leases::next_action(&api.store, call_sid).await?;
        if !is_undecided(after.as_ref()) || Instant::now() >= deadline {
            return Ok(after);
        }
    }
}

/// Another stream for a call that lost its own, if anybody can take it.
pub(super) async fn offer_again(
    api: &Api,
    call_sid: &CallSid,
    after: &AfterStream,
) -> sqlx::Result<Option<StreamToken>> {
    if api.tasks.hang_up().is_cancelled() && !nodes::has_others(&api.store, &api.settings.node).await? {
        return Ok(None);
    }
    let token = StreamToken::random();
    let offered = leases::resume(&api.store, call_sid, after.fencing_token, &token.sha256()).await?;
    let why = after.disconnect_reason.as_deref().unwrap_or("stream_lost");
    if offered.is_none() {
        tracing::error!(call.id = %call_sid, why, "the call was lost too often and is given up");
        return Ok(None);
    }
    tracing::warn!(call.id = %call_sid, why, "the call is connected again");
    Ok(Some(token))
}

/// Puts it on record that we put the caller through to people. Without the record the caller is put through all the same.
async fn note_transfer(api: &Api, call: &CallRef, token: FencingToken, to: Option<&PhoneNumber>, why: &str) {
    if let Err(error) =
        lifecycle::record(&api.store, call, api.clock.now(), &transferred(token, to, why)).await
    {
        error::log(&error);
        tracing::warn!(call.id = %call.call_sid, "a transfer is not on record");
    }
}

/// That we put the caller through to people. `to`: where it is one number.
pub(super) fn transferred(token: FencingToken, to: Option<&PhoneNumber>, why: &str) -> CallEvent {
    let to = to.map(|number| number.expose().to_owned());
    CallEvent::Transferred { token, to, reason: why.to_owned(), summary: String::new() }
}

pub(super) fn alone(number: &PhoneNumber) -> RingGroup {
    RingGroup::of_one(number.clone(), RING)
}

/// Calls people; `action` is asked for what follows.
pub(super) fn dial(api: &Api, group: &RingGroup, action: &str, say: Option<&str>) -> Twiml {
    let action = api.settings.public_url.join(action);
    let legs: Vec<_> = group.telephones.iter().map(|it| Leg { number: &it.number, url: None }).collect();
    Twiml(Dial { legs: &legs, timeout: group.timeout, action: &action, say, caller_id: None }.document())
}
