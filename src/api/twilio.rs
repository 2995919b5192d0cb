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
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::attempts::{self, OfAttempt};
use crate::api::call_status::{note_callback, note_or_keep};
use crate::api::error::{self, ApiError, Failures};
use crate::api::extract::{Path, Query};
use crate::api::stream_token::StreamToken;
use crate::api::webhook::{Twiml, Webhook};
use crate::api::without_database::{self, keep_callback, patience};
use crate::bridge::Decided;
use crate::call::end::NextStep;
use crate::ids::{AgentId, CallSid, PhoneNumber, PhoneNumberId};
use crate::lifecycle::callback::end_lost_call;
use crate::lifecycle::{self, CallEvent, CallRef};
use crate::store::agents::{self, Agent};
use crate::store::leases::{self, AfterStream, FencingToken, Offer};
use crate::store::{nodes, phone_numbers};
use crate::wire::twiml::{self, ConnectStream, Dial};

/// Where Twilio asks again after the stream.
const STREAM_ENDED: &str = "/twiml/stream-ended";
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
const NOBODY: &str = "This number cannot take calls right now. Please call again later.";
pub(super) const NO_ANSWER: &str =
    "We are sorry, nobody can take your call right now. Please call again later.";
pub(super) const ONE_MOMENT: &str = "One moment please, I am connecting you.";

/// Routes that answer with TwiML.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(media_stream_twiml, media_stream_twiml_by_get))
        .routes(routes!(agent_call_incoming))
        .routes(routes!(stream_ended))
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
    let call_sid = webhook.call_sid()?;
    attempts::learn(&api, &named, &call_sid).await;
    Ok(new_call(&api, &webhook, &call_sid, Some(AgentId(agent))).await)
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
    if let Some(twiml) = last_word(&webhook) {
        if let Err(error) = note_or_keep(&api, &webhook, &call_sid).await {
            tracing::error!(call.id = %call_sid, ?error, "that a call is over is not on record");
        }
        return Ok(twiml);
    }
    let from_memory = || {
        keep_callback(&api, &webhook, &call_sid, None);
        decided.and_then(|decided| without_database::go_on(&api, decided))
    };
    Ok(within(&api, go_on(&api, &webhook, &call_sid, decided), from_memory).await)
}

/// What is left to say where there is nothing more to decide. Nobody has to be asked for it.
fn last_word(webhook: &Webhook) -> Option<Twiml> {
    if webhook.call_is_over() {
        return Some(Twiml(twiml::hang_up()));
    }
    // The team's telephones have rung.
    let answered = matches!(webhook.get("DialCallStatus")?, "completed" | "answered");
    Some(Twiml(if answered { twiml::hang_up() } else { twiml::say_and_hang_up(NO_ANSWER) }))
}

async fn new_call(api: &Api, webhook: &Webhook, call_sid: &CallSid, named: Option<AgentId>) -> Twiml {
    let from_memory = || without_database::answer(api, webhook, call_sid, named);
    within(api, answer(api, webhook, call_sid, named), from_memory).await
}

/// The answer if it comes in time and without an error, else the one from memory, else an apology.
async fn within(
    api: &Api,
    answer: impl Future<Output = sqlx::Result<Twiml>>,
    from_memory: impl FnOnce() -> Option<Twiml>,
) -> Twiml {
    match timeout(patience(api), answer).await {
        Ok(Ok(twiml)) => return twiml,
        Ok(Err(error)) => error::log(&error),
        Err(_) => tracing::error!("the records do not answer in time"),
    }
    from_memory().unwrap_or_else(|| {
        tracing::error!("the caller hears an apology, because the records could not be used");
        Twiml(twiml::say_and_hang_up(APOLOGY))
    })
}

/// Puts the call on record and offers its stream, or says why not.
async fn answer(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    named: Option<AgentId>,
) -> sqlx::Result<Twiml> {
    let Some((agent, phone_number)) = agent_for(api, webhook, named).await? else {
        note_callback(api, webhook, call_sid, None).await?;
        tracing::warn!("a call was turned away: there is no such agent, or no enabled default agent");
        return Ok(Twiml(twiml::say_and_hang_up(NOBODY)));
    };
    note_callback(api, webhook, call_sid, Some(agent.organization_id)).await?;
    let call = CallRef { call_sid: call_sid.clone(), organization: agent.organization_id, agent: agent.id };
    let text = |name| webhook.get(name).unwrap_or_default().to_owned();
    let briefed = attempts::briefed(api, webhook, &agent, call_sid).await?;
    if briefed.is_none() {
        let incoming =
            CallEvent::Incoming { phone_number, from: text("From"), to: text("To"), to_team: false };
        lifecycle::record(&api.store, &call, Timestamp::now(), &incoming).await?;
    }
    let agent = briefed.unwrap_or(agent);

    if let Some((sentence, why)) = refusal(api, &agent) {
        tracing::warn!(why, "a call was turned away");
        let Some(number) = &agent.transfer_number else {
            return Ok(Twiml(twiml::say_and_hang_up(sentence)));
        };
        note_transfer(api, &call, NO_OFFER, number, why).await;
        return Ok(dial(api, number, ONE_MOMENT));
    }
    let token = StreamToken::random();
    let offer = Offer {
        call_sid,
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
    api.bridge.prepare(token.expose(), call_sid, &agent);
    Ok(connect(api, &token, &agent))
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

/// Why this node does not take the call: what the caller hears, and a word for the log.
pub(super) fn refusal(api: &Api, agent: &Agent) -> Option<(&'static str, &'static str)> {
    if !agent.enabled {
        Some((NOBODY, "agent_disabled"))
    } else if api.tasks.is_stopping() {
        Some((BUSY, "draining"))
    } else if !api.bridge.has_room() {
        Some((BUSY, "max_calls"))
    } else {
        None
    }
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
    let Some(agent) = agents::on_call(&api.store, after.agent, call_sid).await?.map(Arc::new) else {
        return Ok(Twiml(twiml::say_and_hang_up(APOLOGY)));
    };
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
    Ok(match (step, &agent.transfer_number) {
        (NextStep::Resume, _) => unreachable!("a call that is not resumed ends with an apology"),
        (NextStep::HangUp, _) => Twiml(twiml::hang_up()),
        // That the agent put the caller through is on record already, with the agent's own reason.
        (NextStep::Transfer, Some(number)) => dial(api, number, ONE_MOMENT),
        (NextStep::Transfer, None) => Twiml(twiml::say_and_hang_up(NO_ANSWER)),
        (NextStep::Apologise, Some(number)) => {
            let call =
                CallRef { call_sid: call_sid.clone(), organization: after.organization, agent: after.agent };
            let why = after.disconnect_reason.as_deref().unwrap_or("stream_lost");
            note_transfer(api, &call, after.fencing_token, number, why).await;
            dial(api, number, &agent.fallback_sentence)
        }
        (NextStep::Apologise, None) => Twiml(twiml::say_and_hang_up(&agent.fallback_sentence)),
    })
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
async fn offer_again(
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
async fn note_transfer(api: &Api, call: &CallRef, token: FencingToken, to: &PhoneNumber, why: &str) {
    let to = Some(to.expose().to_owned());
    let event = CallEvent::Transferred { token, to, reason: why.to_owned(), summary: String::new() };
    if let Err(error) = lifecycle::record(&api.store, call, Timestamp::now(), &event).await {
        error::log(&error);
        tracing::warn!(call.id = %call.call_sid, "a transfer is not on record");
    }
}

pub(super) fn dial(api: &Api, number: &PhoneNumber, say: &str) -> Twiml {
    let action = api.settings.public_url.join(STREAM_ENDED);
    let dial = Dial { number, timeout: RING, action: &action, say: Some(say), caller_id: None };
    Twiml(dial.document())
}
