//! Requests of Twilio about calls that we asked for: each names its try.
//!
//! Whichever comes first tells which call the try became, also when the answer to our own request was lost.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::api::Api;
use crate::api::error;
use crate::api::webhook::{Twiml, Webhook};
use crate::api::without_database::{keep_callback, patience};
use crate::dialer;
use crate::dialer::machine::{self, Answer, Answerer};
use crate::ids::{AgentId, CallSid};
use crate::store::agents::Agent;
use crate::store::dialing::attempts::{self, Attempt};
use crate::wire::twiml;

/// Longest to think about which try it is.
const LEARNED_WITHIN: Duration = Duration::from_secs(3);
/// Longest until somebody whom we have called is connected, or hears a sentence: they have said hello, and would hang up.
pub(super) const CONNECTED_WITHIN: Duration = Duration::from_secs(4);
/// How often they are asked to wait before that is given up. With the time to think it is about 15 s in all.
const MOST_WAITS: u32 = 2;
/// Between one answer and the next question.
const WAIT: Duration = Duration::from_secs(1);
const PLEASE_WAIT: &str = "One moment please.";
const SORRY: &str = "We are sorry that we have called: something went wrong on our side. Goodbye.";
/// Longest until a machine is treated as one, as long as nobody can say what is to be said to it: about as long as it takes
/// for its own words to end. After that it is not spoken to.
const JUDGED_WITHIN: Duration = Duration::from_secs(10);
/// How often the try is looked for until then.
const LOOK_EVERY: Duration = Duration::from_millis(500);
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
    waits: Option<String>,
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

    /// How often whoever answered has been asked to wait.
    fn waits(&self) -> u32 {
        self.waits.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

/// What is known of the try that a request names.
#[derive(Debug)]
pub(super) enum Learned {
    /// It is on record which call it became.
    Of(Box<Attempt>),
    /// None is named, or none that this call can be of.
    Nothing,
    /// This one is named, and the records cannot be used now.
    NotNow(Uuid),
}

/// Puts it on record which call the try became. Where that is not possible now, a later request does so, or the dialer,
/// which looks for calls of tries that nothing was heard of.
pub(super) async fn learn(api: &Api, named: &OfAttempt, call_sid: &CallSid) -> Learned {
    let Some(id) = named.id() else { return Learned::Nothing };
    match timeout(patience(api).min(LEARNED_WITHIN), look_for(api, id, call_sid)).await {
        Ok(Ok(attempt)) => attempt.map_or(Learned::Nothing, |attempt| Learned::Of(Box::new(attempt))),
        Ok(Err(error)) => {
            error::log(&error);
            Learned::NotNow(id)
        }
        Err(_) => {
            tracing::warn!(call.id = %call_sid, "which try a call is of cannot be put on record in time");
            Learned::NotNow(id)
        }
    }
}

/// The try with this id, if the call can be of it; that it is, is on record then.
pub(super) async fn look_for(api: &Api, id: Uuid, call_sid: &CallSid) -> sqlx::Result<Option<Attempt>> {
    let attempt = dialer::learn(&api.store, id, call_sid, Timestamp::now()).await?;
    if attempt.is_none() {
        tracing::warn!(call.id = %call_sid, attempt = %id, "a call names a try that is not its own");
    }
    Ok(attempt)
}

/// What somebody whom we have called hears while the records cannot be used: to wait, and after that an apology. An agent
/// that does not know what it has called about is not connected, and what the carrier says is kept.
pub(super) fn ask_again(
    api: &Api,
    webhook: &Webhook,
    call_sid: &CallSid,
    agent: AgentId,
    named: &OfAttempt,
) -> Twiml {
    keep_callback(api, webhook, call_sid, None);
    let waits = named.waits();
    let Some(id) = named.id().filter(|_| waits < MOST_WAITS) else {
        tracing::error!(call.id = %call_sid, "somebody was called and hears an apology, because the records could not be used");
        return Twiml(twiml::say_and_hang_up(SORRY));
    };
    tracing::warn!(call.id = %call_sid, attempt = %id, waits, "somebody was called and has to wait: the records do not answer");
    let path = format!("/api/agent/{}/call-incoming?attempt={id}&waits={}", agent.0, waits + 1);
    Twiml(twiml::say_and_ask_again(PLEASE_WAIT, WAIT, &api.settings.public_url.join(&path)))
}

/// The agent as it is on a call that we made: it knows what the call is about. `None`: no try is known to be this call.
pub(super) async fn briefed(
    api: &Api,
    webhook: &Webhook,
    agent: &Agent,
    call_sid: &CallSid,
) -> sqlx::Result<Option<Arc<Agent>>> {
    if !webhook.is_outbound() {
        return Ok(None);
    }
    let briefing = attempts::briefing(&api.store, call_sid).await?;
    Ok(briefing.map(|briefing| Arc::new(agent.briefed(&briefing))))
}

/// The carrier says who has answered: a machine is treated as the policy of the try says.
pub(super) async fn judge(api: &Api, learned: Learned, webhook: &Webhook, call_sid: &CallSid) {
    let word = webhook.get("AnsweredBy").unwrap_or_default();
    match learned {
        Learned::Of(attempt) => treat(api, &attempt, word, call_sid).await,
        Learned::NotNow(id) if Answerer::from_word(word) != Answerer::Person => {
            let (api, call_sid, word) = (api.clone(), call_sid.clone(), word.to_owned());
            let tasks = api.tasks.clone();
            // Twilio says it once.
            tasks.spawn(async move { judge_later(&api, id, &word, &call_sid).await });
        }
        Learned::Nothing | Learned::NotNow(_) => {}
    }
}

/// As [`judge`], when the records can be used again.
async fn judge_later(api: &Api, id: Uuid, word: &str, call_sid: &CallSid) {
    let deadline = Instant::now() + JUDGED_WITHIN;
    loop {
        match timeout(LEARNED_WITHIN, look_for(api, id, call_sid)).await {
            Ok(Ok(Some(attempt))) => return treat(api, &attempt, word, call_sid).await,
            Ok(Ok(None)) => return,
            Ok(Err(_)) | Err(_) if Instant::now() < deadline => sleep(LOOK_EVERY).await,
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(call.id = %call_sid, "a machine has answered, and what to do then cannot be read: its call is ended");
                return tell(api, call_sid.clone(), Answer::HangUp);
            }
        }
    }
}

async fn treat(api: &Api, attempt: &Attempt, word: &str, call_sid: &CallSid) {
    let answer = machine::answer(attempt, Answerer::from_word(word));
    // First, so that this is why the call ends. Without the record it ends all the same: the carrier's own word, which is
    // on record or kept, says the same later.
    let noting = machine::note(&api.store, attempt, call_sid, word, Timestamp::now());
    match timeout(LEARNED_WITHIN, noting).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => error::log(&error),
        Err(_) => tracing::warn!(call.id = %call_sid, "that a machine has answered is not on record yet"),
    }
    if answer != Answer::GoOn {
        tracing::info!(call.id = %call_sid, answered_by = word, "a machine has answered");
        tell(api, call_sid.clone(), answer);
    }
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
