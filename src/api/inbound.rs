//! Calls on our own numbers: people by their schedule, then the agent; and why each call went where it did.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use jiff::Timestamp;
use serde_json::{Map, json};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::auth::Caller;
use crate::api::call_status::note_callback;
use crate::api::error::{self, ApiError, Failures};
use crate::api::extract::{Path, Success};
use crate::api::routes::Routes;
use crate::api::twilio::{
    NO_OFFER, NOBODY, connect_agent, dial, health, look_up_people, still_possible, transferred, turn_away,
    within,
};
use crate::api::webhook::{Twiml, Webhook};
use crate::api::without_database::{self, incoming, keep_callback, keep_event};
use crate::call::end::EndReason;
use crate::ids::{AgentId, CallSid, PhoneNumberId};
use crate::lifecycle::{self, CallEvent, CallRef};
use crate::routing::decide::{self, AgentHealth, Decision, People, RingGroup, To, people_answered};
use crate::routing::hours::Schedule;
use crate::store::agents::{self, Agent};
use crate::store::phone_numbers::{self, NumberRoute};
use crate::store::routing_decisions::{self, RoutingDecision, Step, decide_once};
use crate::store::{schedules, teams};
use crate::wire::twiml;

/// Where a call goes that comes on one of our numbers, as far as that is on record.
#[derive(Debug)]
pub(super) struct Line {
    /// The number, and what it goes by.
    pub(super) route: NumberRoute,
    /// Who answers where nobody else does.
    pub(super) agent: Arc<Agent>,
    /// When people answer.
    schedule: Option<Schedule>,
    /// Who they are.
    by_schedule: Option<Arc<RingGroup>>,
    /// Who is called where the agent cannot take the call.
    instead: Option<Arc<RingGroup>>,
}

/// Routes that answer with TwiML.
pub fn router() -> Routes {
    Routes::new()
        .signed(routes!(phone_number_incoming))
        .signed(routes!(phone_number_fallback))
        .read(routes!(call_routing))
}

/// A call has come on this number: rings the team in its hours, else connects the number's agent.
#[utoipa::path(
    post, path = "/api/phone-number/{id}/incoming", tag = "twilio",
    params(("id" = Uuid, Path, description = "The number")),
    request_body(content = Object, content_type = "application/x-www-form-urlencoded", description = "Parameters as Twilio names them"),
    responses((status = 200, description = "TwiML", content_type = "text/xml", body = String), Failures),
    security(("twilio" = [])),
)]
async fn phone_number_incoming(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    webhook: Webhook,
) -> Result<Twiml, ApiError> {
    let (call_sid, id) = (webhook.call_sid()?, PhoneNumberId(id));
    let from_memory = || incoming_from_memory(&api, &webhook, &call_sid, id);
    Ok(within(&api, answer(&api, &webhook, &call_sid, id), from_memory).await)
}

/// The team's telephones have rung: ends the call if somebody has spoken with the caller, else connects the agent.
#[utoipa::path(
    post, path = "/api/phone-number/{id}/incoming/fallback", tag = "twilio",
    params(("id" = Uuid, Path, description = "The number")),
    request_body(content = Object, content_type = "application/x-www-form-urlencoded", description = "Parameters as Twilio names them"),
    responses((status = 200, description = "TwiML", content_type = "text/xml", body = String), Failures),
    security(("twilio" = [])),
)]
async fn phone_number_fallback(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    webhook: Webhook,
) -> Result<Twiml, ApiError> {
    let (call_sid, id) = (webhook.call_sid()?, PhoneNumberId(id));
    let from_memory = || fallback_from_memory(&api, &webhook, &call_sid, id);
    Ok(within(&api, after_team(&api, &webhook, &call_sid, id), from_memory).await)
}

/// Where a call was sent, and why, in the order of time.
#[utoipa::path(
    get, path = "/api/calls/{callSid}/routing", tag = "routing",
    params(("callSid" = String, Path, description = "The carrier's id of the call")),
    responses((status = 200, description = "What was decided", body = Success<Vec<RoutingDecision>>), Failures),
)]
async fn call_routing(
    caller: Caller,
    Path(call_sid): Path<CallSid>,
) -> Result<Success<Vec<RoutingDecision>>, ApiError> {
    let decisions = routing_decisions::of_call(&caller.store, caller.organization, &call_sid).await?;
    if decisions.is_empty() {
        return Err(ApiError::not_found("nothing was decided of such a call"));
    }
    Ok(Success::new(decisions))
}

/// Reads where calls to this number go, and remembers it.
pub(super) async fn look_up(api: &Api, id: PhoneNumberId) -> sqlx::Result<Option<Arc<Line>>> {
    let line = read_line(api, id).await?.map(Arc::new);
    api.known.learn_line(id, line.as_ref());
    Ok(line)
}

async fn read_line(api: &Api, id: PhoneNumberId) -> sqlx::Result<Option<Line>> {
    let Some(route) = phone_numbers::route(&api.store, id).await? else { return Ok(None) };
    let Some(agent) = agents::agent(&api.store, route.own.agent_id).await?.map(Arc::new) else {
        return Ok(None);
    };
    let mut schedule = None;
    if let Some(id) = route.schedule
        && let Some(record) = schedules::schedule(&api.store, route.own.organization_id, id).await?
    {
        schedule = record.rules();
        if schedule.is_none() {
            tracing::error!(schedule.id = %id, "a schedule has no time zone that we know; it is not gone by");
        }
    }
    let by_schedule = match route.team {
        Some(team) => {
            teams::ring_group(&api.store, team, None).await?.and_then(RingGroup::somebody).map(Arc::new)
        }
        None => None,
    };
    let of_agent = look_up_people(api, &agent).await?;
    let instead = by_schedule.clone().or(of_agent);
    Ok(Some(Line { route, agent, schedule, by_schedule, instead }))
}

/// Looks up again what has changed, so that calls which come while the database is away go by it. A failure changes
/// nothing: the next call looks it up as well.
pub(super) async fn look_up_again(api: &Api, apply: impl Fn(&Line) -> bool) {
    for id in api.known.lines_that(apply) {
        if let Err(error) = look_up(api, id).await {
            error::log(&error);
        }
    }
}

/// A team has changed: of calls that come while the database is away, others are called now.
pub(super) async fn people_changed(api: &Api, team: Uuid) {
    for agent in api.known.agents_with(team) {
        agent_changed(api, agent.0).await;
    }
    look_up_again(api, |line| line.people().is_some_and(|group| group.team == Some(team))).await;
}

/// An agent has changed, or is gone.
pub(super) async fn agent_changed(api: &Api, id: Uuid) {
    let id = AgentId(id);
    let again = async {
        let agent = agents::agent(&api.store, id).await?.map(Arc::new);
        api.known.changed(id, agent.as_ref());
        if let Some(agent) = agent {
            look_up_people(api, &agent).await?;
        }
        Ok(())
    };
    if let Err(error) = again.await {
        error::log(&error);
    }
    look_up_again(api, |line| line.agent.id == id).await;
}

impl Line {
    fn call(&self, call_sid: &CallSid) -> CallRef {
        let (organization, agent) = (self.route.own.organization_id, self.agent.id);
        CallRef { call_sid: call_sid.clone(), organization, agent }
    }

    /// Who takes a call at this moment.
    fn decide(&self, now: Timestamp, agent: AgentHealth) -> Decision {
        let verdict = self.schedule.as_ref().map(|schedule| schedule.open(now));
        let people = People { by_schedule: self.by_schedule.is_some(), instead: self.instead.is_some() };
        let mut decision = decide::route(verdict.as_ref(), people, agent);
        if let Some((schedule, verdict)) = self.schedule.as_ref().zip(verdict) {
            decision = decision.at_hours(schedule, now, &verdict);
        }
        match self.people().filter(|_| decision.to == To::Team) {
            Some(group) => decision.ringing(group),
            None => decision,
        }
    }

    /// Who is called, at any hour.
    fn people(&self) -> Option<&RingGroup> {
        self.by_schedule.as_deref().or(self.instead.as_deref())
    }

    fn ring(&self, api: &Api, group: &RingGroup) -> Twiml {
        // Nothing is said first: so the caller's telephone goes on ringing until somebody answers.
        dial(api, group, &format!("/api/phone-number/{}/incoming/fallback", self.route.own.id), None)
    }
}

async fn answer(api: &Api, webhook: &Webhook, call_sid: &CallSid, id: PhoneNumberId) -> sqlx::Result<Twiml> {
    let Some(line) = look_up(api, id).await? else {
        note_callback(api, webhook, call_sid, None).await?;
        tracing::warn!("a call was turned away: there is no such phone number");
        return Ok(Twiml(twiml::say_and_hang_up(NOBODY)));
    };
    let call = line.call(call_sid);
    note_callback(api, webhook, call_sid, Some(call.organization)).await?;
    let now = api.clock.now();
    let possible = line.decide(now, health(api, &line.agent));
    let first = decide_once(&api.store, call.organization, call_sid, Step::Incoming, &possible, now).await?;
    let (to, why) = still_possible(first, &possible);
    let event = incoming(webhook, Some(id), to == To::Team);
    lifecycle::record(&api.store, &call, now, &event).await?;
    match (to, line.people()) {
        (To::Team, Some(group)) => Ok(line.ring(api, group)),
        (To::Team | To::Agent, _) => connect_agent(api, webhook, &call, &line.agent).await,
        (To::Sentence | To::HangUp, _) => Ok(turn_away(&why)),
    }
}

async fn after_team(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    id: PhoneNumberId,
) -> sqlx::Result<Twiml> {
    let Some(line) = look_up(api, id).await? else {
        note_callback(api, webhook, call_sid, None).await?;
        return Ok(Twiml(twiml::say_and_hang_up(NOBODY)));
    };
    let (call, now) = (line.call(call_sid), api.clock.now());
    let possible = decide::after_team(dial_status(webhook), webhook.call_is_over(), health(api, &line.agent));
    let first = decide_once(&api.store, call.organization, call_sid, Step::Fallback, &possible, now).await?;
    let (to, why) = still_possible(first, &possible);
    // First what became of the ringing: what the carrier says of the call's end is understood by it.
    for event in rung(&line, webhook) {
        lifecycle::record(&api.store, &call, now, &event).await?;
    }
    note_callback(api, webhook, call_sid, Some(call.organization)).await?;
    match to {
        To::HangUp => Ok(Twiml(twiml::hang_up())),
        To::Agent | To::Team => connect_agent(api, webhook, &call, &line.agent).await,
        To::Sentence => Ok(turn_away(&why)),
    }
}

/// What came of calling people.
fn rung(line: &Line, webhook: &Webhook) -> Vec<CallEvent> {
    let status = dial_status(webhook);
    if people_answered(status) {
        let number = line.people().and_then(RingGroup::only_number);
        let spoken = CallEvent::HandoffEnded {
            handoff: 1,
            dial_status: "completed".to_owned(),
            leg: webhook.get("DialCallSid").and_then(|text| CallSid::parse(text).ok()),
            duration_s: webhook.get("DialCallDuration").and_then(|text| text.parse().ok()),
        };
        return vec![transferred(NO_OFFER, number, "team_answered"), spoken];
    }
    if !webhook.call_is_over() {
        return vec![CallEvent::TeamNoAnswer { dial_status: status.to_owned() }];
    }
    // The caller did not wait for anybody.
    let report = Map::from_iter([("carrier_status".to_owned(), json!(webhook.get("CallStatus")))]);
    let (reason, duration) = (EndReason::CallerHungUp, Duration::ZERO);
    vec![CallEvent::Ended { token: NO_OFFER, reason, duration, report }]
}

/// The carrier's word for what came of calling people. Without one nothing came of it.
fn dial_status(webhook: &Webhook) -> &str {
    webhook.get("DialCallStatus").unwrap_or("failed")
}

/// As [`answer`] while the database is away. `None`: the number was not looked up before.
fn incoming_from_memory(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    id: PhoneNumberId,
) -> Option<Twiml> {
    let line = api.known.line(id);
    keep_callback(api, webhook, call_sid, line.as_ref().map(|line| line.route.own.organization_id));
    let line = line?;
    let (call, decision) = (line.call(call_sid), line.decide(api.clock.now(), health(api, &line.agent)));
    if decision.to == To::Agent {
        return without_database::connect_agent(api, webhook, call, &line.agent, Some(id));
    }
    let group = line.people().filter(|_| decision.to == To::Team);
    keep_event(api, &call, incoming(webhook, Some(id), group.is_some()));
    Some(group.map_or_else(|| turn_away(decision.reason), |group| line.ring(api, group)))
}

/// As [`after_team`] while the database is away.
fn fallback_from_memory(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    id: PhoneNumberId,
) -> Option<Twiml> {
    let line = api.known.line(id);
    let organization = line.as_ref().map(|line| line.route.own.organization_id);
    if let Some(line) = &line {
        for event in rung(line, webhook) {
            keep_event(api, &line.call(call_sid), event);
        }
    }
    keep_callback(api, webhook, call_sid, organization);
    let over = webhook.call_is_over() || people_answered(dial_status(webhook));
    if over {
        return Some(Twiml(twiml::hang_up()));
    }
    let line = line?;
    let decision = decide::after_team(dial_status(webhook), false, health(api, &line.agent));
    match decision.to {
        To::Agent => {
            without_database::connect_agent(api, webhook, line.call(call_sid), &line.agent, Some(id))
        }
        _ => Some(turn_away(decision.reason)),
    }
}
