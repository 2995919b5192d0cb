//! People take a call over from the agent: their telephones ring, whoever answers is told what it is about before the caller
//! is connected, and if nobody does the call goes back to the agent.

use std::sync::Arc;

use axum::extract::State;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::IntoParams;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::call_status::note_callback;
use crate::api::error::{self, ApiError, Failures};
use crate::api::extract::{Path, Query};
use crate::api::routes::Routes;
use crate::api::twilio::{NO_ANSWER, alone, connect, look_up_people, offer_again, within};
use crate::api::webhook::{Twiml, Webhook};
use crate::api::without_database::{keep_callback, keep_event};
use crate::call::end::{EndReason, NextStep};
use crate::ids::{CallSid, PhoneNumber};
use crate::lifecycle::callback::{end_after_people, end_lost_call};
use crate::lifecycle::{self, CallEvent, CallRef};
use crate::routing::decide::{Decision, RingGroup, To};
use crate::store::agents::{self, Agent};
use crate::store::handoffs::{self, Wish};
use crate::store::leases::{self, AfterStream, FencingToken};
use crate::store::routing_decisions::{self, Step};
use crate::store::{calls, teams};
use crate::wire::twiml::{self, Dial, Leg};

/// Longest text that is said to a person before the caller is connected, in characters: about half a minute, for which the
/// caller hears it ring.
const WHISPER: usize = 500;

/// Routes that Twilio asks while people take a call over.
pub fn router() -> Routes {
    Routes::new().signed(routes!(whisper)).signed(routes!(handoff_ended))
}

/// Why people are called.
pub(super) struct Handoff<'a> {
    /// The call.
    pub(super) call: &'a CallRef,
    /// The right to decide about it.
    pub(super) token: FencingToken,
    /// Who has spoken with the caller so far.
    pub(super) agent: &'a Agent,
    /// Whom to call, where somebody has said so.
    pub(super) to: Option<&'a str>,
    /// A word for the record.
    pub(super) why: &'static str,
    /// What the caller hears before it rings.
    pub(super) say: &'a str,
}

/// Telephones that ring for a caller.
pub(super) struct Ringing {
    /// Has them ring.
    pub(super) twiml: Twiml,
    /// Whose they are.
    pub(super) group: Arc<RingGroup>,
}

/// Rings people for a call. `None`: there is nobody to call; that, too, is one of the handoffs of the call.
pub(super) async fn ring_people(
    api: &Api,
    webhook: &Webhook,
    handoff: Handoff<'_>,
) -> sqlx::Result<Option<Ringing>> {
    let Handoff { call, token, agent, to, why, say } = handoff;
    let group = people(api, call, agent, to).await?;
    // A call for which no stream was ever offered has no lease, and no second handoff.
    let number = leases::hand_over(&api.store, &call.call_sid, token).await?.unwrap_or(1);
    api.known.learn_handoff(call, number);
    let details = json!({
        "handoff": number,
        "people": group.as_ref().map_or(0, |group| group.telephones.len()),
        "kind": group.as_ref().map(|group| group.kind()),
    });
    let Some(group) = group else {
        decide(api, call, Step::Handoff, To::Agent, "nobody_to_ring", details).await;
        tracing::warn!(call.id = %call.call_sid, "a call is to be put through, and there is nobody to call");
        return Ok(None);
    };
    decide(api, call, Step::Handoff, To::Team, why, details).await;
    let url = &api.settings.public_url;
    let whisper = |member: Option<Uuid>| {
        let member = member.map(|member| format!("?member={member}")).unwrap_or_default();
        url.join(&format!("/twiml/whisper/{}/{number}{member}", call.call_sid))
    };
    let whispers: Vec<String> = group.telephones.iter().map(|telephone| whisper(telephone.member)).collect();
    let legs = group.telephones.iter().zip(&whispers);
    let legs: Vec<_> =
        legs.map(|(telephone, url)| Leg { number: &telephone.number, url: Some(url) }).collect();
    let action = url.join(&format!("/twiml/handoff-ended/{number}"));
    // On a call that we make the caller's number, which would be shown, is not the one that called us.
    let own = webhook.our_number().filter(|_| webhook.is_outbound());
    let own = own.and_then(|text| PhoneNumber::parse(text).ok());
    let dial = Dial {
        legs: &legs,
        timeout: group.timeout,
        action: &action,
        say: Some(say).filter(|say| !say.is_empty()),
        caller_id: own.as_ref(),
    };
    let twiml = Twiml(dial.document());
    Ok(Some(Ringing { twiml, group }))
}

/// Whoever is named, a telephone or a team, else the agent's team, else its transfer number.
async fn people(
    api: &Api,
    call: &CallRef,
    agent: &Agent,
    named: Option<&str>,
) -> sqlx::Result<Option<Arc<RingGroup>>> {
    if let Some(number) = named.and_then(|to| PhoneNumber::parse(to).ok()) {
        return Ok(Some(Arc::new(alone(&number))));
    }
    if let Some(team) = named.and_then(|to| Uuid::parse_str(to).ok()) {
        let named = teams::ring_group(&api.store, team, Some(call.organization)).await?;
        if let Some(group) = named.and_then(RingGroup::somebody) {
            return Ok(Some(Arc::new(group)));
        }
    }
    look_up_people(api, agent).await
}

/// Who of the team answers.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Answering {
    /// `team_members.id`; absent for a number that is nobody's.
    #[serde(default)]
    member: Option<Uuid>,
}

/// A person has answered: says what the call is about, before the caller is connected.
#[utoipa::path(
    post, path = "/twiml/whisper/{callSid}/{handoff}", tag = "twilio",
    params(
        ("callSid" = String, Path, description = "The caller's call"),
        ("handoff" = u32, Path, description = "Which handoff of it, from 1"),
        Answering,
    ),
    request_body(content = Object, content_type = "application/x-www-form-urlencoded", description = "Parameters as Twilio names them, of the leg to the person"),
    responses((status = 200, description = "TwiML", content_type = "text/xml", body = String), Failures),
    security(("twilio" = [])),
)]
async fn whisper(
    State(api): State<Api>,
    Path((call_sid, handoff)): Path<(String, u32)>,
    Query(answering): Query<Answering>,
    webhook: Webhook,
) -> Result<Twiml, ApiError> {
    let call_sid = CallSid::parse(&call_sid)
        .map_err(|error| ApiError::bad_request("invalid_path", error.to_string()))?;
    let event =
        CallEvent::HandoffAnswered { handoff, member: answering.member, leg: webhook.call_sid().ok() };
    let told = async {
        let Some(call) = call_ref(&api, &call_sid).await? else { return Ok(Wish::default()) };
        lifecycle::record(&api.store, &call, Timestamp::now(), &event).await?;
        Ok(handoffs::last_wish(&api.store, &call_sid).await?.unwrap_or_default())
    };
    // The person has answered and the caller waits, whatever becomes of the record.
    let from_memory = || {
        keep_what_people_did(&api, &call_sid, api.known.handed(&call_sid).map(|(call, _)| call), &event);
        Some(Twiml(twiml::say(&whispered(&Wish::default()))))
    };
    let told = async { told.await.map(|wish| Twiml(twiml::say(&whispered(&wish)))) };
    Ok(Box::pin(within(&api, told, from_memory)).await)
}

/// What a person is told. An agent that could not go on has left no words of its own.
fn whispered(wish: &Wish) -> String {
    let is_word = EndReason::from_word(&wish.reason).is_some();
    let mut text = "A caller from the assistant.".to_owned();
    if !is_word && !wish.reason.trim().is_empty() {
        text = format!("{text} {}", sentence(&wish.reason));
    }
    if !wish.summary.trim().is_empty() {
        text = format!("{text} {}", sentence(&wish.summary));
    }
    let mut text: String = text.chars().take(WHISPER).collect();
    text.push_str(" Connecting you now.");
    text
}

/// With a full stop, so that it is read with a pause.
fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

/// The call to the people has ended, or nobody has answered: says how the caller goes on.
#[utoipa::path(
    post, path = "/twiml/handoff-ended/{handoff}", tag = "twilio",
    params(("handoff" = u32, Path, description = "Which handoff of the call, from 1")),
    request_body(content = Object, content_type = "application/x-www-form-urlencoded", description = "Parameters as Twilio names them"),
    responses((status = 200, description = "TwiML", content_type = "text/xml", body = String), Failures),
    security(("twilio" = [])),
)]
async fn handoff_ended(
    State(api): State<Api>,
    Path(handoff): Path<u32>,
    webhook: Webhook,
) -> Result<Twiml, ApiError> {
    let call_sid = webhook.call_sid()?;
    Ok(after_people(&api, &webhook, &call_sid, Some(handoff)).await)
}

/// How a call goes on after people were called. `handoff`: which of its handoffs that was, where it is known.
pub(super) async fn after_people(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    handoff: Option<u32>,
) -> Twiml {
    let from_memory = || {
        let handed = api.known.handed(call_sid);
        // Without the database people are called for it once more without a count.
        let number = handoff.unwrap_or_else(|| handed.as_ref().map_or(1, |(_, number)| number + 1));
        let call = handed.map(|(call, _)| call).or_else(|| call_by_number(api, webhook, call_sid));
        let organization = call.as_ref().map(|call| call.organization);
        // First what became of the handoff: what the carrier says of the call's end is understood by it.
        keep_what_people_did(api, call_sid, call, &ended(webhook, number));
        keep_callback(api, webhook, call_sid, organization);
        Some(last_word(webhook))
    };
    within(api, go_on(api, webhook, call_sid, handoff), from_memory).await
}

/// A person and the caller have spoken.
fn have_spoken(webhook: &Webhook) -> bool {
    let completed = matches!(webhook.get("DialCallStatus"), Some("completed" | "answered"));
    // Somebody who answers and hangs up before the caller is connected has not taken the call.
    completed && webhook.get("DialBridged") != Some("false")
}

/// What came of calling people for the `handoff`th time.
fn ended(webhook: &Webhook, handoff: u32) -> CallEvent {
    let status = match webhook.get("DialCallStatus") {
        Some("completed" | "answered") if have_spoken(webhook) => "completed",
        Some("completed" | "answered") => "no-answer",
        Some(status) => status,
        None => "failed",
    };
    CallEvent::HandoffEnded {
        handoff,
        dial_status: status.to_owned(),
        leg: webhook.get("DialCallSid").and_then(|text| CallSid::parse(text).ok()),
        duration_s: webhook.get("DialCallDuration").and_then(|text| text.parse().ok()),
    }
}

/// While the database is away. `call`: where it is known here whose it is.
fn keep_what_people_did(api: &Api, call_sid: &CallSid, call: Option<CallRef>, event: &CallEvent) {
    match call {
        Some(call) => keep_event(api, &call, event.clone()),
        None => {
            tracing::error!(call.id = %call_sid, "what people did is lost: it is not known whose call it is");
        }
    }
}

/// Whose call this is by the number that was called. Of a call that is on record, the record stands.
fn call_by_number(api: &Api, webhook: &Webhook, call_sid: &CallSid) -> Option<CallRef> {
    let number = PhoneNumber::parse(webhook.our_number()?).ok()?;
    let (agent, _) = api.known.agent_for(None, Some(&number))?;
    Some(CallRef { call_sid: call_sid.clone(), organization: agent.organization_id, agent: agent.id })
}

/// What is left to say where the call cannot go on.
fn last_word(webhook: &Webhook) -> Twiml {
    let over = webhook.call_is_over() || have_spoken(webhook);
    Twiml(if over { twiml::hang_up() } else { twiml::say_and_hang_up(NO_ANSWER) })
}

async fn go_on(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    handoff: Option<u32>,
) -> sqlx::Result<Twiml> {
    let mut after = leases::next_action(&api.store, call_sid).await?;
    let mut number = handoff.or(after.as_ref().map(|after| after.handoffs)).unwrap_or(1).max(1);
    // People were called while the database was away.
    let unnoted = |after: &&mut AfterStream| {
        !after.ended && !after.handed_over && after.next_action == Some(NextStep::Transfer)
    };
    if let Some(after) = after.as_mut().filter(unnoted)
        && let Some(noted) = leases::hand_over(&api.store, call_sid, after.fencing_token).await?
    {
        (number, after.handed_over) = (handoff.unwrap_or(noted), true);
    }
    let spoken = have_spoken(webhook);
    let call = call_ref(api, call_sid).await?;
    if let Some(call) = &call {
        let event = ended(webhook, number);
        lifecycle::record(&api.store, call, Timestamp::now(), &event).await?;
    }
    // Ends the call where that is over: behind what is known of the handoff.
    note_callback(api, webhook, call_sid, after.as_ref().map(|after| after.organization)).await?;
    let (Some(after), Some(call), false) = (after, call, webhook.call_is_over()) else {
        return Ok(last_word(webhook));
    };
    let has_it_still = !after.ended && (after.handed_over || !after.claimed);
    if spoken {
        if has_it_still {
            end_after_people(&api.store, call_sid, &after, Timestamp::now()).await?;
        }
        return Ok(last_word(webhook));
    }
    let details = json!({"handoff": number, "dial_status": webhook.get("DialCallStatus")});
    if has_it_still && let Some(twiml) = back_to_agent(api, webhook, call_sid, &after).await? {
        decide(api, &call, Step::HandoffFallback, To::Agent, "team_no_answer", details).await;
        return Ok(twiml);
    }
    decide(api, &call, Step::HandoffFallback, To::Sentence, "team_no_answer", details).await;
    Ok(last_word(webhook))
}

/// Offers a call that nobody has taken over to its agent, on another stream. `None`: it has ended, because no server can
/// take it.
pub(super) async fn back_to_agent(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    after: &AfterStream,
) -> sqlx::Result<Option<Twiml>> {
    if let Some(agent) = agents::briefed_for_call(&api.store, after.agent, call_sid).await?
        && let Some(token) = offer_again(api, call_sid, after).await?
    {
        let agent = Arc::new(agent).on_call(webhook.get("Direction"));
        if api.bridge.has_place() {
            api.bridge.prepare(token.expose(), call_sid, &agent);
        }
        return Ok(Some(connect(api, &token, &agent)));
    }
    end_lost_call(&api.store, call_sid, after, Timestamp::now()).await?;
    Ok(None)
}

async fn call_ref(api: &Api, call_sid: &CallSid) -> sqlx::Result<Option<CallRef>> {
    let record = calls::by_call_sid(&api.store, call_sid).await?;
    Ok(record.map(|record| CallRef {
        call_sid: call_sid.clone(),
        organization: record.organization_id,
        agent: record.agent_id,
    }))
}

/// Puts on record where a call goes. Without the record it goes there all the same.
async fn decide(api: &Api, call: &CallRef, step: Step, to: To, reason: &'static str, details: Value) {
    let details = if let Value::Object(details) = details { details } else { Map::new() };
    let (decision, now) = (Decision { to, reason, details }, api.clock.now());
    let noted = routing_decisions::note(&api.store, call.organization, &call.call_sid, step, &decision, now);
    if let Err(error) = noted.await {
        error::log(&error);
        tracing::warn!(call.id = %call.call_sid, "why a call goes where it goes is not on record");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(reason: &str, summary: &str) -> Wish {
        Wish { to: None, reason: reason.into(), summary: summary.into() }
    }

    #[test]
    fn a_person_is_told_the_reason_and_the_summary_in_sentences() {
        assert_eq!(
            whispered(&wish("Wants a refund", "Order 4711 came broken. ")),
            "A caller from the assistant. Wants a refund. Order 4711 came broken. Connecting you now."
        );
        assert_eq!(whispered(&wish("", "")), "A caller from the assistant. Connecting you now.");
    }

    #[test]
    fn a_person_is_not_told_our_words_for_what_went_wrong() {
        assert_eq!(whispered(&wish("model_lost", "")), "A caller from the assistant. Connecting you now.");
    }

    #[test]
    fn a_long_summary_does_not_keep_the_caller_waiting() {
        let said = whispered(&wish("Why", &"word ".repeat(1_000)));
        assert!(said.chars().count() <= WHISPER + 30 && said.ends_with("Connecting you now."), "{said}");
    }
}
