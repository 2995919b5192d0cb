//! What became of tries of which nothing was heard: the carrier is asked.
//!
//! Nothing here asks for a call.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{Dialer, placed};
use crate::clients::twilio::{Call, RestError};
use crate::lifecycle::callback;
use crate::store::call_events::CarrierEvent;
use crate::store::dialing::attempts::{self, Attempt, LISTED_WITHIN, Unended};

/// Tries looked for at a time; other servers share them.
const AT_A_TIME: i64 = 20;
/// How far the carrier's clock may be behind ours. Calls of other tries between the same telephones are told by their SIDs.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_secs(30);

/// What was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// Tries whose call was found.
    pub placed: usize,
    /// Tries that the carrier has no call of.
    pub not_placed: usize,
    /// Calls that turned out to be over.
    pub over: usize,
}

impl Dialer {
    /// Looks for tries whose request was not answered within half a minute, and for calls that nothing was heard of for long.
    ///
    /// One that cannot be looked for keeps none of the others: it is looked for again at its time. Fails where the database
    /// cannot be asked at all.
    pub async fn reconcile(&self, now: Timestamp) -> sqlx::Result<Found> {
        let mut found = Found::default();
        for attempt in attempts::unanswered(&self.store, now, AT_A_TIME).await? {
            match self.look_for(&attempt, now, &mut found).await {
                Err(error) if is_away(&error) => return Err(error),
                Err(error) => {
                    tracing::error!(attempt = %attempt.id, %error, "a call may have been placed, and cannot be looked for");
                }
                Ok(()) => {}
            }
        }
        for call in attempts::unended(&self.store, now, AT_A_TIME).await? {
            match self.look_up(&call, now).await {
                Err(error) if is_away(&error) => return Err(error),
                Err(error) => {
                    tracing::error!(call.id = %call.call_sid, %error, "a call whose end was not told cannot be looked up");
                }
                Ok(is_over) => found.over += usize::from(is_over),
            }
        }
        Ok(found)
    }

    async fn look_for(&self, attempt: &Attempt, now: Timestamp, found: &mut Found) -> sqlx::Result<()> {
        let id = attempt.id;
        let listed = match attempt.numbers() {
            Some((to, from)) => self.carrier.list(&to, &from, attempt.requested_at - CLOCKS_DIFFER).await,
            None => Ok(Vec::new()),
        };
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(attempt = %id, %error, "the carrier does not say whether a call was placed");
                return Ok(());
            }
        };
        let sids: Vec<_> = listed.into_iter().map(|call| call.sid).collect();
        let known = attempts::known_of(&self.store, &sids).await?;
        let unknown: Vec<_> = sids.into_iter().filter(|sid| !known.contains(sid)).collect();
        for (position, call_sid) in unknown.iter().enumerate() {
            placed(&self.store, &attempt.into(), call_sid, now).await?;
            let Some(now_known) = attempts::by_id(&self.store, id).await? else { return Ok(()) };
            if now_known.call_sid.as_ref() == Some(call_sid) {
                tracing::info!(call.id = %call_sid, attempt = %id, "a call whose request was not answered is found");
                let others = unknown.len() - position - 1;
                if others > 0 {
                    tracing::error!(attempt = %id, others, "there are calls between the same telephones that are none of ours");
                }
                found.placed += 1;
                return Ok(());
            }
            if now_known.call_sid.is_some() {
                return Ok(()); // Somebody else has found its call meanwhile.
            }
            tracing::warn!(call.id = %call_sid, attempt = %id, "a call between the same telephones is of a try that is not on record any more");
        }
        if now >= attempt.requested_at + LISTED_WITHIN {
            let why = "the carrier did not answer, and has no such call";
            if attempts::not_placed(&self.store, id, why, now).await? {
                tracing::warn!(attempt = %id, "a call was not placed");
                found.not_placed += 1;
            }
        }
        Ok(())
    }

    /// True when the call is over, and that was put on record.
    async fn look_up(&self, call: &Unended, now: Timestamp) -> sqlx::Result<bool> {
        let answer = match self.carrier.fetch(&call.call_sid).await {
            Ok(answer) if callback::is_terminal(&answer.status) => answer,
            Ok(_) => return Ok(false),
            // It was deleted there, so it is not going on.
            Err(error) if error.is_call_over() => gone(call),
            Err(
                error @ (RestError::NotProcessed { .. }
                | RestError::OwnNumber { .. }
                | RestError::Unknown { .. }
                | RestError::Refused { .. }),
            ) => {
                tracing::warn!(call.id = %call.call_sid, %error, "the carrier does not say whether a call is over");
                return Ok(false);
            }
        };
        tracing::info!(call.id = %call.call_sid, status = answer.status, "a call whose end was not told is over");
        callback::record(&self.store, &as_callback(call, &answer), now).await?;
        Ok(true)
    }
}

/// The database cannot be asked, so that it would be the same with all others.
const fn is_away(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_))
}

fn gone(call: &Unended) -> Call {
    Call {
        sid: call.call_sid.clone(),
        status: "failed".to_owned(),
        direction: None,
        created_at: None,
        ended_at: None,
        duration_s: None,
        answered_by: None,
    }
}

/// What the carrier would have said by itself.
fn as_callback(call: &Unended, answer: &Call) -> CarrierEvent {
    CarrierEvent {
        organization: Some(call.organization),
        call_sid: call.call_sid.clone(),
        call_status: Some(answer.status.clone()),
        to: Some(call.to.clone()),
        from: Some(call.from.clone()),
        direction: answer.direction.clone(),
        duration_s: answer.duration_s,
        sequence_number: None,
        event_time: answer.ended_at,
        sip_response_code: None,
        answered_by: answer.answered_by.clone(),
        payload: json!({"CallSid": call.call_sid, "CallStatus": answer.status, "CallbackSource": "rest-look-up"}),
    }
}
