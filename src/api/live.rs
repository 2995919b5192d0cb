//! Calls that are going on, and what somebody in charge wants of one: to end it, to put it through, to have something said or
//! known. Whichever node carries the call does it, once. A call that none carries can be ended: the carrier does it.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::auth::Caller;
use crate::api::error::{self, ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::routes::Routes;
use crate::clients::twilio::{RestError, Update};
use crate::ids::{CallSid, PhoneNumber};
use crate::lifecycle::{self, CallEvent, CallRef};
use crate::routing::decide::RingGroup;
use crate::store::commands::{self, CommandResult, LiveCall, Progress, Whereabouts};
use crate::store::leases::{self, FencingToken};
use crate::store::{Store, calls, teams};

// Longest texts, in characters. What is said takes a minute; what is known costs the model's attention in every answer.
const SAID: usize = 1_000;
const KNOWN: usize = 8_000;
const REASON: usize = 500;
const SUMMARY: usize = 2_000;

/// The command that ends a call.
const HANG_UP: &str = "hang_up";

/// How long the node that carries the call may take. A node that cannot be rung looks every two seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often its answer is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Routes of live calls.
pub fn router() -> Routes {
    Routes::new()
        .read(routes!(live_calls))
        .operate(routes!(hang_up))
        .operate(routes!(transfer))
        .operate(routes!(say))
        .operate(routes!(inject))
}

/// How to end a call.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HangUp {
    /// In the middle of a sentence; else after the one that the agent is saying. A call that no agent has ends at once.
    #[serde(default)]
    pub now: bool,
}

/// Where to put a call through.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// A telephone with `+` and country code. Without it and without `team` whoever the agent would put the caller through
    /// to.
    #[serde(default)]
    #[schema(example = "+14155550199")]
    pub to: Option<String>,
    /// A team, all of whose telephones ring.
    #[serde(default)]
    pub team: Option<Uuid>,
    /// Why; said to the person who answers.
    #[serde(default)]
    #[schema(example = "The caller asked for the manager.")]
    pub reason: String,
    /// What the person should know; said to them as well.
    #[serde(default)]
    pub summary: String,
}

/// What the agent is to say.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Say {
    /// Word for word.
    #[schema(example = "Your order has just left our house.")]
    pub text: String,
}

/// What the agent is to know.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Inject {
    /// For the model; not said by itself.
    #[schema(example = "The caller is a customer since 2011.")]
    pub text: String,
}

/// What came of something that was wanted.
#[derive(Serialize, ToSchema)]
pub struct CommandAnswer {
    /// Names it.
    pub id: Uuid,
    /// `done`; `taken`: the server that carries the call has it and has not said more in time.
    #[schema(example = "done")]
    pub outcome: String,
    /// More about it, for people.
    #[schema(example = "the agent says it as soon as nobody speaks")]
    pub message: String,
}

/// Calls that are going on, the latest first.
#[utoipa::path(
    get, path = "/api/calls/live", tag = "live calls", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<LiveCall>), Failures),
)]
async fn live_calls(caller: Caller, Query(page): Query<PageQuery>) -> Result<Listing<LiveCall>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = commands::live_calls(&caller.store, caller.organization, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Ends a call that is going on, also while it rings or is with people: then the carrier is told to end it.
#[utoipa::path(
    post, path = "/api/calls/{callSid}/hang-up", tag = "live calls",
    params(("callSid" = String, Path, description = "The carrier's id of the call")), request_body = HangUp,
    responses(
        (status = 200, description = "It ends", body = Success<CommandAnswer>),
        (status = 202, description = "The server that carries the call has it, and has not said more in time", body = Success<CommandAnswer>),
        (status = 409, description = "`call_not_live`, `command_refused` or `carrier_not_configured`", body = Failure),
        (status = 502, description = "`carrier_refused`", body = Failure),
        Failures,
    ),
)]
async fn hang_up(
    State(api): State<Api>,
    caller: Caller,
    Path(call_sid): Path<String>,
    Json(body): Json<HangUp>,
) -> Result<Response, ApiError> {
    let payload = json!({"now": body.now});
    let (call, whereabouts) = find(&caller, &call_sid).await?;
    match whereabouts {
        Whereabouts::Live => want(&api, &caller, call, HANG_UP, payload).await,
        Whereabouts::Dialed | Whereabouts::WithPeople => end_by_carrier(&api, &caller, call, payload).await,
        Whereabouts::NotLive => Err(not_live()),
        Whereabouts::Unknown => Err(unknown()),
    }
}

/// Puts the caller of a live call through to people. If nobody answers the agent has the call again, and knows it.
#[utoipa::path(
    post, path = "/api/calls/{callSid}/transfer", tag = "live calls",
    params(("callSid" = String, Path, description = "The carrier's id of the call")), request_body = Transfer,
    responses(
        (status = 200, description = "The agent says so, then the telephones ring", body = Success<CommandAnswer>),
        (status = 202, description = "The server that carries the call has it, and has not said more in time", body = Success<CommandAnswer>),
        (status = 409, description = "`call_not_live`, `call_with_people` or `command_refused`", body = Failure),
        Failures,
    ),
)]
async fn transfer(
    State(api): State<Api>,
    caller: Caller,
    Path(call_sid): Path<String>,
    Json(body): Json<Transfer>,
) -> Result<Response, ApiError> {
    let Transfer { to, team, reason, summary } = body;
    if to.is_some() && team.is_some() {
        return Err(ApiError::invalid("name a telephone (to) or a team, not both"));
    }
    let to = match to.as_deref().map(PhoneNumber::parse) {
        Some(Err(_)) => return Err(ApiError::invalid("to must be in E.164, such as +14155550123")),
        Some(Ok(number)) => Some(number.expose().to_owned()),
        None => None,
    };
    check_length("reason", &reason, REASON)?;
    check_length("summary", &summary, SUMMARY)?;
    let call = live(&caller, &call_sid).await?;
    if let Some(team) = team
        && teams::ring_group(&caller.store, team, Some(caller.organization))
            .await?
            .and_then(RingGroup::somebody)
            .is_none()
    {
        return Err(ApiError::invalid(
            "there is no such team, or nobody of it takes calls; enable a member first",
        ));
    }
    let payload = json!({"to": to, "team": team, "reason": reason, "summary": summary});
    want(&api, &caller, call, "transfer", payload).await
}

/// Has the agent say exactly this, as soon as nobody speaks.
#[utoipa::path(
    post, path = "/api/calls/{callSid}/say", tag = "live calls",
    params(("callSid" = String, Path, description = "The carrier's id of the call")), request_body = Say,
    responses(
        (status = 200, description = "The agent says it as soon as nobody speaks", body = Success<CommandAnswer>),
        (status = 202, description = "The server that carries the call has it, and has not said more in time", body = Success<CommandAnswer>),
        (status = 409, description = "`call_not_live`, `call_with_people` or `command_refused`", body = Failure),
        Failures,
    ),
)]
async fn say(
    State(api): State<Api>,
    caller: Caller,
    Path(call_sid): Path<String>,
    Json(body): Json<Say>,
) -> Result<Response, ApiError> {
    let text = some_text(&body.text, SAID)?;
    let call = live(&caller, &call_sid).await?;
    want(&api, &caller, call, "say", json!({"text": text})).await
}

/// Lets the agent know something, which it does not say by itself.
#[utoipa::path(
    post, path = "/api/calls/{callSid}/inject", tag = "live calls",
    params(("callSid" = String, Path, description = "The carrier's id of the call")), request_body = Inject,
    responses(
        (status = 200, description = "The agent knows it from now on", body = Success<CommandAnswer>),
        (status = 202, description = "The server that carries the call has it, and has not said more in time", body = Success<CommandAnswer>),
        (status = 409, description = "`call_not_live`, `call_with_people` or `command_refused`", body = Failure),
        Failures,
    ),
)]
async fn inject(
    State(api): State<Api>,
    caller: Caller,
    Path(call_sid): Path<String>,
    Json(body): Json<Inject>,
) -> Result<Response, ApiError> {
    let text = some_text(&body.text, KNOWN)?;
    let call = live(&caller, &call_sid).await?;
    want(&api, &caller, call, "inject", json!({"text": text})).await
}

fn some_text(text: &str, most: usize) -> Result<&str, ApiError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(ApiError::invalid("text must not be empty"));
    }
    check_length("text", text, most)?;
    Ok(text)
}

fn check_length(what: &str, text: &str, most: usize) -> Result<(), ApiError> {
    if text.chars().count() > most {
        return Err(ApiError::invalid(format!("{what} must be at most {most} characters")));
    }
    Ok(())
}

/// The call, and where it is.
async fn find(caller: &Caller, call_sid: &str) -> Result<(CallSid, Whereabouts), ApiError> {
    let call_sid =
        CallSid::parse(call_sid).map_err(|error| ApiError::bad_request("invalid_path", error.to_string()))?;
    let whereabouts = commands::whereabouts(&caller.store, caller.organization, &call_sid).await?;
    Ok((call_sid, whereabouts))
}

/// The call, if a node carries it.
async fn live(caller: &Caller, call_sid: &str) -> Result<CallSid, ApiError> {
    let (call, whereabouts) = find(caller, call_sid).await?;
    match whereabouts {
        Whereabouts::Live => Ok(call),
        Whereabouts::Unknown => Err(unknown()),
        Whereabouts::NotLive | Whereabouts::Dialed => Err(not_live()),
        Whereabouts::WithPeople => Err(ApiError::conflict(
            "call_with_people",
            "people have the call, or their telephones ring; try again if it comes back to the agent, or hang it up",
        )),
    }
}

/// What a command is in the audit log.
fn deed(kind: &str) -> &'static str {
    match kind {
        HANG_UP => "call.hung_up",
        "transfer" => "call.transferred",
        "say" => "call.said",
        _ => "call.injected",
    }
}

fn unknown() -> ApiError {
    ApiError::not_found("there is no such call; GET /api/calls/live lists those that are going on")
}

fn not_live() -> ApiError {
    ApiError::conflict("call_not_live", "the call is not going on; GET /api/calls/live lists those that are")
}

/// Has the carrier end a call that no node carries, in whatever state it is: one that is answered in this moment ends, too.
async fn end_by_carrier(
    api: &Api,
    caller: &Caller,
    call_sid: CallSid,
    payload: Value,
) -> Result<Response, ApiError> {
    let Some(carrier) = &api.carrier else {
        return Err(ApiError::conflict(
            "carrier_not_configured",
            "no server carries the call, and the carrier cannot be told to end it; set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN",
        ));
    };
    let node = &*api.settings.node;
    let id =
        commands::take_oneself(&caller.store, caller.organization, &call_sid, HANG_UP, payload, node).await?;
    caller.does_in_call(deed(HANG_UP), id, Some(call_sid.as_str()));
    // On record before the carrier is asked, and no transaction is open while it answers.
    caller.keep().await?;
    let store = &api.store;
    let asked_at = Timestamp::now();
    let ended = carrier.update(&call_sid, Update::HangUp).await;
    let result = match &ended {
        Ok(()) => CommandResult { outcome: "done".into(), message: "the carrier ends the call now".into() },
        Err(error) => {
            tracing::warn!(call.id = %call_sid, %error, "the carrier does not end a call");
            CommandResult { outcome: "refused".into(), message: error.explanation() }
        }
    };
    // The carrier has done it, or has not, whatever becomes of the record.
    if let Err(error) = commands::finish(store, id, &result).await {
        error::log(&error);
    }
    if let Err(error) = ended {
        return Err(refused_by_carrier(&error).with_details(json!({"id": id})));
    }
    if let Err(error) = note_hang_up(store, &call_sid, id, asked_at).await {
        error::log(&error);
    }
    let CommandResult { outcome, message } = result;
    Ok((StatusCode::OK, Success::new(CommandAnswer { id, outcome, message })).into_response())
}

/// What it means that the carrier has not ended a call.
fn refused_by_carrier(error: &RestError) -> ApiError {
    match error {
        error if error.is_call_over() => {
            ApiError::conflict("call_not_live", "the carrier says that the call is over, or does not know it")
        }
        RestError::NotProcessed { about_account: false, .. } => ApiError::unavailable(
            "carrier_unavailable",
            "the carrier cannot be reached, or has no time; nothing was done, try again",
        ),
        RestError::Unknown { .. } => ApiError::unavailable(
            "carrier_unavailable",
            "the carrier has not said whether it has ended the call; try again, which does no harm",
        ),
        RestError::NotProcessed { .. } | RestError::OwnNumber { .. } | RestError::Refused { .. } => {
            ApiError::bad_gateway("carrier_refused", error.explanation())
        }
    }
}

/// Puts it on record that the call was ended by somebody in charge. Nobody who carries it does.
async fn note_hang_up(
    store: &Store,
    call_sid: &CallSid,
    command: Uuid,
    asked_at: Timestamp,
) -> sqlx::Result<()> {
    let Some(record) = calls::by_call_sid(store, call_sid).await? else { return Ok(()) };
    let lease = leases::next_action(store, call_sid).await?;
    // Without a lease nobody's right is checked.
    let token = lease.map_or(FencingToken(0), |lease| lease.fencing_token);
    let call =
        CallRef { call_sid: call_sid.clone(), organization: record.organization_id, agent: record.agent_id };
    let event = CallEvent::Operator { token, command, kind: HANG_UP.to_owned() };
    lifecycle::record(store, &call, asked_at, &event).await?;
    Ok(())
}

/// Writes down what is wanted and waits for the node that carries the call to say what comes of it.
async fn want(
    api: &Api,
    caller: &Caller,
    call_sid: CallSid,
    kind: &str,
    payload: Value,
) -> Result<Response, ApiError> {
    let id = commands::want(&caller.store, caller.organization, &call_sid, kind, payload).await?;
    caller.does_in_call(deed(kind), id, Some(call_sid.as_str()));
    // The node that carries the call sees it from now on, and no transaction is open while it is waited for.
    caller.keep().await?;
    let deadline = Instant::now() + ANSWER_WITHIN;
    let answer = |status, outcome: &str, message: &str| {
        let answer = CommandAnswer { id, outcome: outcome.to_owned(), message: message.to_owned() };
        Ok((status, Success::new(answer)).into_response())
    };
    loop {
        let progress = commands::progress(&api.store, id).await?;
        match progress {
            Progress::Done(result) if result.outcome == "done" => {
                return answer(StatusCode::OK, "done", &result.message);
            }
            Progress::Done(result) => {
                let details = json!({"id": id});
                return Err(ApiError::conflict("command_refused", result.message).with_details(details));
            }
            Progress::Waiting | Progress::Taken if Instant::now() < deadline => sleep(LOOK_EVERY).await,
            Progress::Taken => {
                let message = "the server that carries the call has it and has not said what comes of it; it may still be done";
                return answer(StatusCode::ACCEPTED, "taken", message);
            }
            Progress::Waiting if commands::withdraw(&api.store, id).await? => {
                let message = "the server that carries the call does not answer; nothing was done, try again";
                return Err(ApiError::not_taken("command_not_taken", message).with_details(json!({"id": id})));
            }
            // Somebody has taken it in this moment.
            Progress::Waiting => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_the_carrier_from_ending_a_call_is_told_apart() {
        let not_processed = |about_account| RestError::NotProcessed {
            what: "account or token is not accepted".to_owned(),
            status: None,
            about_account,
        };
        let refused = |status, code| RestError::Refused { status, code, message: "no".to_owned() };
        for (error, status, code) in [
            (not_processed(false), 503, "carrier_unavailable"),
            (
                RestError::Unknown { what: "no answer in time".to_owned(), status: None },
                503,
                "carrier_unavailable",
            ),
            (not_processed(true), 502, "carrier_refused"),
            (refused(400, Some(21205)), 502, "carrier_refused"),
            (refused(400, Some(21220)), 409, "call_not_live"),
            (refused(404, Some(20404)), 409, "call_not_live"),
        ] {
            let told = refused_by_carrier(&error);
            assert_eq!(told.status(), status, "{error}");
            assert!(format!("{told:?}").contains(code), "{told:?}");
        }
    }
}
