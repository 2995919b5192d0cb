//! What Twilio is told while the database is away, from what this process remembers; and what is kept of what it says.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::Api;
use crate::api::standby_token::Promise;
use crate::api::stream_token::StreamToken;
use crate::api::twilio::{
    NO_ANSWER, NO_OFFER, ONE_MOMENT, STREAM_ENDED, alone, connect, dial, health, transferred, turn_away,
};
use crate::api::webhook::{Twiml, Webhook};
use crate::bridge::{Arrival, Decided, Promised};
use crate::call::end::NextStep;
use crate::ids::{AgentId, CallSid, OrganizationId, PhoneNumber, PhoneNumberId};
use crate::lifecycle::{CallEvent, CallRef};
use crate::routing::decide::{To, for_agent};
use crate::store::agents::Agent;
use crate::wire::twiml;

/// Longest to think. Twilio gives up after 15 s (error 11205), and the caller hears nothing until then.
pub(super) const WITHIN: Duration = Duration::from_secs(8);
/// Longest to wait for a database that is known to be away.
const WITHIN_AN_OUTAGE: Duration = Duration::from_secs(1);

/// How long the database may take before Twilio is answered without it.
pub(super) fn patience(api: &Api) -> Duration {
    if api.bridge.database_is_away() { WITHIN_AN_OUTAGE } else { WITHIN }
}

/// Keeps a request of Twilio, to be put on record when the database is back. False: there is no room for it.
pub(super) fn keep_callback(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    organization: Option<OrganizationId>,
) -> bool {
    // By the time it is replayed nothing else may be on record of the call.
    let organization = organization.or_else(|| {
        let number = PhoneNumber::parse(webhook.our_number()?).ok()?;
        Some(api.known.agent_for(None, Some(&number))?.0.organization_id)
    });
    let kept = api.bridge.keep_callback(webhook.carrier_event(organization, call_sid.clone()));
    if !kept {
        tracing::error!(call.id = %call_sid, "what the carrier says of a call is lost: there is no room for it");
    }
    kept
}

/// Answers a new call, which is put on record when the database is back. `None`: who should answer it was not looked up
/// before.
pub(super) fn answer(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    named: Option<AgentId>,
) -> Option<Twiml> {
    let number = webhook.our_number().and_then(|text| PhoneNumber::parse(text).ok());
    let known = api.known.agent_for(named, number.as_ref());
    keep_callback(api, webhook, call_sid, known.as_ref().map(|(agent, _)| agent.organization_id));
    let (agent, phone_number) = known?;
    let agent = agent.on_call(webhook.get("Direction"));
    let call = CallRef { call_sid: call_sid.clone(), organization: agent.organization_id, agent: agent.id };
    let people = api.known.people(agent.id);
    let decision = for_agent(people.is_some(), health(api, &agent));
    if decision.to == To::Agent {
        return connect_agent(api, webhook, call, &agent, phone_number);
    }
    keep_event(api, &call, incoming(webhook, phone_number, false));
    Some(match people {
        Some(group) => {
            keep_event(api, &call, transferred(NO_OFFER, group.only_number(), decision.reason));
            dial(api, &group, STREAM_ENDED, Some(ONE_MOMENT))
        }
        None => turn_away(decision.reason),
    })
}

/// Offers a stream to the agent. `None`: too many calls are being set up.
pub(super) fn connect_agent(
    api: &Api,
    webhook: &Webhook,
    call: CallRef,
    agent: &Arc<Agent>,
    phone_number: Option<PhoneNumberId>,
) -> Option<Twiml> {
    let text = |name| webhook.get(name).map(str::to_owned);
    let promise = Promise {
        call_sid: call.call_sid,
        organization: agent.organization_id,
        agent: agent.id,
        phone_number,
        direction: text("Direction"),
        from: text("From"),
        to: text("To"),
        offered_at: Timestamp::now(),
    };
    let sealed = api.seal.seal(&promise);
    let for_any_node = sealed.is_some();
    let token = sealed.unwrap_or_else(StreamToken::random);
    let offer = promise.offer(&token, &api.settings.node);
    let arrival = Arrival { agent: Arc::clone(agent), phone_number, offer, for_any_node };
    if !api.bridge.prepare_without_database(token.expose(), arrival) {
        return None;
    }
    tracing::warn!(
        call.id = %promise.call_sid,
        "a call is answered without the database, as its agent was when last looked up"
    );
    Some(connect(api, &token, agent))
}

/// That a call has come.
pub(super) fn incoming(webhook: &Webhook, phone_number: Option<PhoneNumberId>, to_team: bool) -> CallEvent {
    let text = |name| webhook.get(name).unwrap_or_default().to_owned();
    CallEvent::Incoming { phone_number, from: text("From"), to: text("To"), to_team }
}

/// What the secret of a stream says, if it was made by [`answer`] of any node.
pub(super) fn promised(api: &Api, token: &str) -> Option<Promised> {
    let token = StreamToken::shown(token);
    let promise = api.seal.open(&token)?;
    let agent = api.known.agent(promise.agent);
    Some(Promised {
        offer: promise.offer(&token, &api.settings.node),
        phone_number: promise.phone_number,
        agent: agent.filter(|agent| agent.organization_id == promise.organization),
    })
}

/// How a call goes on that this node has carried. `None`: its agent was not looked up before.
///
/// A stream that was lost cannot be offered again, since nobody could say who has the call then.
pub(super) fn go_on(api: &Api, decided: Decided) -> Option<Twiml> {
    let agent = api.known.agent(decided.agent)?;
    let alone = || agent.transfer_number.as_ref().map(|number| Arc::new(alone(number)));
    let people = api.known.people(agent.id).or_else(alone);
    Some(match (decided.reason.next_step(), people) {
        (NextStep::HangUp, _) => Twiml(twiml::hang_up()),
        (NextStep::Transfer, Some(group)) => dial(api, &group, STREAM_ENDED, Some(ONE_MOMENT)),
        (NextStep::Transfer, None) => Twiml(twiml::say_and_hang_up(NO_ANSWER)),
        (NextStep::Apologise | NextStep::Resume, Some(group)) => {
            dial(api, &group, STREAM_ENDED, Some(&agent.fallback_sentence))
        }
        (NextStep::Apologise | NextStep::Resume, None) => {
            Twiml(twiml::say_and_hang_up(&agent.fallback_sentence))
        }
    })
}

pub(super) fn keep_event(api: &Api, call: &CallRef, event: CallEvent) {
    if !api.bridge.keep_event(call.clone(), event) {
        tracing::error!(call.id = %call.call_sid, "what happened to a call is lost: there is no room for it");
    }
}
