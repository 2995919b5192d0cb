//! What Twilio is told while the database is away, from what this process remembers.

use std::sync::Arc;

use crate::api::Api;
use crate::api::stream_token::StreamToken;
use crate::api::twilio::{NO_ANSWER, ONE_MOMENT, connect, dial, refusal};
use crate::api::webhook::{Twiml, Webhook};
use crate::bridge::{Arrival, Decided};
use crate::call::end::NextStep;
use crate::ids::{AgentId, CallSid, PhoneNumber};
use crate::wire::twiml;

/// Answers a new call. `None`: who should answer it was not looked up before.
///
/// The call is put on record when the database is back. Only one that is turned away or put through to people right here
/// is not.
pub(super) fn answer(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    named: Option<AgentId>,
) -> Option<Twiml> {
    let number = webhook.our_number().and_then(|text| PhoneNumber::parse(text).ok());
    let (agent, phone_number) = api.known.agent_for(named, number.as_ref())?;
    if let Some((sentence, why)) = refusal(api, &agent) {
        tracing::warn!(why, "a call was turned away");
        return Some(match &agent.transfer_number {
            Some(number) => dial(api, number, ONE_MOMENT),
            None => Twiml(twiml::say_and_hang_up(sentence)),
        });
    }
    let token = StreamToken::random();
    let callback = webhook.carrier_event(agent.organization_id, call_sid.clone());
    let arrival = Arrival { agent: Arc::clone(&agent), phone_number, callback, token_sha256: token.sha256() };
    if !api.bridge.prepare_without_database(token.expose(), arrival) {
        return None;
    }
    tracing::warn!(call.id = %call_sid, "a call is answered without the database, as its agent was when last looked up");
    Some(connect(api, &token, &agent))
}

/// How a call goes on that this node has carried. `None`: its agent was not looked up before.
///
/// A stream that was lost cannot be offered again, since nobody could say who has the call then.
pub(super) fn go_on(api: &Api, webhook: &Webhook, decided: Decided) -> Option<Twiml> {
    if webhook.call_is_over() {
        return Some(Twiml(twiml::hang_up()));
    }
    let agent = api.known.agent(decided.agent)?;
    Some(match (decided.reason.next_step(), &agent.transfer_number) {
        (NextStep::HangUp, _) => Twiml(twiml::hang_up()),
        (NextStep::Transfer, Some(number)) => dial(api, number, ONE_MOMENT),
        (NextStep::Transfer, None) => Twiml(twiml::say_and_hang_up(NO_ANSWER)),
        (NextStep::Apologise | NextStep::Resume, Some(number)) => dial(api, number, &agent.fallback_sentence),
        (NextStep::Apologise | NextStep::Resume, None) => {
            Twiml(twiml::say_and_hang_up(&agent.fallback_sentence))
        }
    })
}
