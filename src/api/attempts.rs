//! Requests of Twilio about calls that we asked for: each names its try.
//!
//! Whichever comes first tells which call the try became, also when the answer to our own request was lost.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::api::Api;
use crate::api::error;
use crate::api::webhook::Webhook;
use crate::api::without_database::patience;
use crate::dialer;
use crate::dialer::machine::{self, Answer, Answerer};
use crate::ids::CallSid;
use crate::store::agents::Agent;
use crate::store::dialing::attempts::{self, Attempt};

/// Longest to think about which try it is: whoever answers has yet to be connected.
const LEARNED_WITHIN: Duration = Duration::from_secs(3);
/// Times that the carrier is told what to do with a machine, before that is given up.
const MOST_TRIES: u32 = 4;
/// The first wait between them; the next ones double.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// What a callback address of ours says of the call.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct OfAttempt {
    attempt: Option<String>,
    amd: Option<String>,
}

impl OfAttempt {
    /// The try, where one is named.
    #[must_use]
    pub fn id(&self) -> Option<Uuid> {
        // We have written it ourselves, unless somebody else's TwiML has.
        Uuid::parse_str(self.attempt.as_deref()?).ok()
    }

    /// Whether this is the verdict on who has answered.
    #[must_use]
    pub fn is_verdict(&self) -> bool {
        self.amd.is_some()
    }
}

/// Puts it on record which call the try became. `None`: none is named, or nothing is known of it now.
///
/// Nothing that Twilio is told depends on it: where it cannot be put on record now, a later request does so.
pub(super) async fn learn(api: &Api, named: &OfAttempt, call_sid: &CallSid) -> Option<Attempt> {
    let id = named.id()?;
    let learning = dialer::learn(&api.store, id, call_sid, Timestamp::now());
    match timeout(patience(api).min(LEARNED_WITHIN), learning).await {
        Ok(Ok(attempt)) => {
            if attempt.is_none() {
                tracing::warn!(call.id = %call_sid, attempt = %id, "a call names a try that is not its own");
            }
            attempt
        }
        Ok(Err(error)) => {
            error::log(&error);
            None
        }
        Err(_) => {
            tracing::warn!(call.id = %call_sid, "which try a call is of cannot be put on record in time");
            None
        }
    }
}

/// The agent as it is on a call that we made: it knows what the call is about. `None`: we did not make it.
pub(super) async fn briefed(
    api: &Api,
    webhook: &Webhook,
    agent: &Agent,
    call_sid: &CallSid,
) -> sqlx::Result<Option<Arc<Agent>>> {
    if !webhook.get("Direction").is_some_and(|direction| direction.starts_with("outbound")) {
        return Ok(None);
    }
    let briefing = attempts::briefing(&api.store, call_sid).await?;
    Ok(briefing.map(|briefing| Arc::new(agent.briefed(&briefing))))
}

/// The carrier says who has answered: a machine is treated as the policy of the try says.
pub(super) async fn judge(
    api: &Api,
    attempt: &Attempt,
    webhook: &Webhook,
    call_sid: &CallSid,
) -> sqlx::Result<()> {
    let word = webhook.get("AnsweredBy").unwrap_or_default();
    let answer = machine::answer(attempt, Answerer::from_word(word));
    // First, so that this is why the call ends.
    machine::note(&api.store, attempt, call_sid, word, Timestamp::now()).await?;
    if answer != Answer::GoOn {
        tracing::info!(call.id = %call_sid, answered_by = word, "a machine has answered");
        tell(api, call_sid.clone(), answer);
    }
    Ok(())
}

/// Has the carrier end the call, or say something to the machine. In the background: Twilio does not wait for itself.
fn tell(api: &Api, call_sid: CallSid, answer: Answer) {
    let Some(carrier) = api.carrier.clone() else {
        tracing::error!(call.id = %call_sid, "a machine is spoken to: without TWILIO_ACCOUNT_SID its call cannot be ended");
        return;
    };
    api.tasks.spawn(async move {
        let mut wait = FIRST_WAIT;
        for tries in 1.. {
            match machine::act(&carrier, &call_sid, &answer).await {
                Ok(()) => return,
                Err(error) if tries == MOST_TRIES => {
                    tracing::error!(call.id = %call_sid, %error, "a machine is spoken to: its call cannot be ended");
                    return;
                }
                Err(error) => tracing::debug!(call.id = %call_sid, %error, "the carrier is told again"),
            }
            sleep(wait).await;
            wait *= 2;
        }
    });
}
