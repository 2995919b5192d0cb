//! Calls that are answered while the database is away: until it is back, their offers exist in this process only.
//!
//! Such a call can be carried by this node alone. All its records are kept, beginning with the offer, so that it gets its
//! lease before anything is written that needs one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::scribe::Waiting;
use super::spool::{Record, Spool, What};
use crate::ids::PhoneNumberId;
use crate::lifecycle::{CallEvent, CallRef};
use crate::store::agents::Agent;
use crate::store::call_events::CarrierEvent;
use crate::store::leases::ClaimedCall;
use crate::store::standby::{LateOffer, TOKEN};

/// Twilio opens the stream within a second of the TwiML; this covers a slow handshake and its retry.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// More calls than this are not set up at the same time.
const MAX_WAITING: usize = 256;

/// A call that has come.
#[derive(Debug)]
pub struct Arrival {
    /// Who answers.
    pub agent: Arc<Agent>,
    /// Which of our numbers was called, where it is one of ours.
    pub phone_number: Option<PhoneNumberId>,
    /// What the carrier said of it.
    pub callback: CarrierEvent,
    /// SHA-256 of the one-time secret in the stream's address.
    pub token_sha256: [u8; 32],
}

/// Offers by the one-time token of the stream that will claim them.
#[derive(Clone, Default)]
pub(super) struct Standby(Arc<Mutex<HashMap<String, Expected>>>);

struct Expected {
    offer: LateOffer,
    /// What has to be on record before anything else of the call. The last one is the offer.
    first: Vec<Waiting>,
}

/// Gives an offer up when its stream has not come in time.
pub(super) struct Expiry {
    standby: Standby,
    token: String,
    spool: Spool,
}

impl Standby {
    /// Expects a stream. `None`: too many are expected already.
    pub(super) fn expect(&self, token: &str, arrival: Arrival, node: &str, spool: &Spool) -> Option<Expiry> {
        let mut waiting = self.lock();
        if waiting.len() >= MAX_WAITING {
            return None;
        }
        let Arrival { agent, phone_number, callback, token_sha256 } = arrival;
        let at = Timestamp::now();
        let offer = LateOffer {
            call_sid: callback.call_sid.clone(),
            organization: agent.organization_id,
            agent: agent.id,
            direction: callback.direction.clone(),
            from: callback.from.clone(),
            to: callback.to.clone(),
            token_sha256,
            node: node.to_owned(),
            offered_at: at,
            claimed_at: None,
        };
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let event = CallEvent::Incoming { phone_number, from: text(&callback.from), to: text(&callback.to) };
        let all = [What::Callback(callback), What::Event { at, event }, What::Offer(offer.clone())];
        let first = all.map(|what| Waiting::keep(spool, record(&offer, what))).into();
        waiting.insert(token.to_owned(), Expected { offer, first });
        Some(Expiry { standby: self.clone(), token: token.to_owned(), spool: spool.clone() })
    }

    /// True while a stream with this token is expected here.
    pub(super) fn expects(&self, token: &str) -> bool {
        self.lock().contains_key(token)
    }

    /// Takes the call, once, with what has to be on record before anything else of it.
    pub(super) fn claim(&self, token: &str, spool: &Spool) -> Option<(ClaimedCall, Vec<Waiting>)> {
        let Expected { mut offer, mut first } = self.lock().remove(token)?;
        offer.claimed_at = Some(Timestamp::now());
        let unclaimed = first.pop();
        let claimed = Waiting::keep(spool, record(&offer, What::Offer(offer.clone())));
        spool.done(unclaimed.and_then(|waiting| waiting.ticket));
        first.push(claimed);
        let LateOffer { call_sid, organization, agent, direction, from, to, .. } = offer;
        let call = ClaimedCall {
            call_sid,
            organization,
            agent,
            direction,
            from,
            to,
            fencing_token: TOKEN,
            offered: true,
            lasted: Duration::ZERO,
            resumed_after: None,
            clock_ahead: SignedDuration::ZERO, // Nobody could be asked.
        };
        Some((call, first))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Expected>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Expiry {
    /// Ends when the stream's time is over, or `stop` says so. What is on record of the call then is that it came.
    pub(super) async fn run(self, stop: &CancellationToken) {
        tokio::select! {
            () = sleep(KEPT_FOR) => {}
            () = stop.cancelled() => {}
        }
        let Some(expected) = self.standby.lock().remove(&self.token) else { return };
        warn!(call.id = %expected.offer.call_sid, "the stream of a call never came");
        leave(&self.spool, expected.first);
    }
}

/// Nobody writes these while the call lives: it does not come about.
pub(super) fn leave(spool: &Spool, records: impl IntoIterator<Item = Waiting>) {
    spool.leave(records.into_iter().filter_map(|waiting| waiting.ticket));
}

fn record(offer: &LateOffer, what: What) -> Record {
    let call =
        CallRef { call_sid: offer.call_sid.clone(), organization: offer.organization, agent: offer.agent };
    Record { call, token: TOKEN, what }
}
