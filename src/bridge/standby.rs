//! Calls that are answered while the database is away: until it is back, their offers are on no record that others see.
//!
//! The node that was asked puts on record that the call came, and that it was offered. A node that takes the stream,
//! which is another one only where the secret in its address says all that there is to know, puts on record that it did,
//! before anything else of the call: so that it has its lease before anything is written that needs one.

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
use crate::store::leases::ClaimedCall;
use crate::store::standby::LateOffer;
pub(super) use crate::store::standby::TOKEN;

/// Twilio opens the stream within a second of the TwiML; this covers a slow handshake and its retry.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// More calls than this are not set up at the same time.
const MAX_WAITING: usize = 256;
/// Streams that were taken are remembered for as long as their secrets are good: so many of all nodes together. Further
/// ones are turned away.
const MAX_TAKEN: usize = 4096;

/// A call that has come.
#[derive(Debug)]
pub struct Arrival {
    /// Who answers.
    pub agent: Arc<Agent>,
    /// Which of our numbers was called, where it is one of ours.
    pub phone_number: Option<PhoneNumberId>,
    /// What the stream is offered.
    pub offer: LateOffer,
    /// Any node knows the secret in the stream's address.
    pub for_any_node: bool,
}

/// A stream whose secret another node has made, and which nobody has taken as far as we know.
#[derive(Debug, Clone)]
pub struct Promised {
    /// What was offered.
    pub offer: LateOffer,
    /// Which of our numbers was called, where it is one of ours.
    pub phone_number: Option<PhoneNumberId>,
    /// Who answers, where we have looked that up before.
    pub agent: Option<Arc<Agent>>,
}

/// Offers by the one-time secret of the stream that will claim them.
#[derive(Clone, Default)]
pub(super) struct Standby(Arc<Mutex<Streams>>);

#[derive(Default)]
struct Streams {
    expected: HashMap<String, Expected>,
    /// By the digests of their secrets, which were good until then.
    taken: HashMap<[u8; 32], Timestamp>,
}

struct Expected {
    offer: LateOffer,
    for_any_node: bool,
}

/// Gives an offer up when its stream has not come in time.
pub(super) struct Expiry {
    standby: Standby,
    token: String,
}

impl Standby {
    /// Expects a stream. That its call has come, and was offered, is put on record whoever takes it. `None`: too many are
    /// expected already.
    pub(super) fn expect(&self, token: &str, arrival: Arrival, spool: &Spool) -> Option<Expiry> {
        let Arrival { phone_number, offer, for_any_node, .. } = arrival;
        let mut streams = self.lock();
        if streams.expected.len() >= MAX_WAITING {
            return None;
        }
        let what = [came(&offer, phone_number), What::Offer(offer.clone())];
        leave(spool, what.map(|what| Waiting::keep(spool, record(&offer, what))));
        streams.expected.insert(token.to_owned(), Expected { offer, for_any_node });
        Some(Expiry { standby: self.clone(), token: token.to_owned() })
    }

    /// True while a stream with this token is expected here.
    pub(super) fn expects(&self, token: &str) -> bool {
        self.lock().expected.contains_key(token)
    }

    /// Takes a call that was answered here, once, with what has to be on record before anything else of it.
    pub(super) fn claim(&self, token: &str, spool: &Spool) -> Option<(ClaimedCall, Vec<Waiting>)> {
        let mut streams = self.lock();
        let Expected { offer, .. } = streams.expected.remove(token)?;
        streams.remember(&offer);
        drop(streams);
        Some(take(offer, None, spool))
    }

    /// Takes a call that another node has answered: in time, and once here. That it is taken once everywhere is for the
    /// database to say.
    pub(super) fn take_over(
        &self,
        promised: Promised,
        node: &str,
        spool: &Spool,
    ) -> Option<(ClaimedCall, Vec<Waiting>)> {
        let Promised { offer, phone_number, .. } = promised;
        if !is_good(&offer, Timestamp::now()) || !self.lock().remember(&offer) {
            return None;
        }
        // Also here, should the disk of the node that was asked be lost. The second on record changes nothing.
        let came = came(&offer, phone_number);
        Some(take(LateOffer { node: node.to_owned(), ..offer }, Some(came), spool))
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Streams {
    /// False: it was taken before, or too many were.
    fn remember(&mut self, offer: &LateOffer) -> bool {
        let now = Timestamp::now();
        if self.taken.len() >= MAX_TAKEN {
            self.taken.retain(|_, until| *until > now);
        }
        let is_new = self.taken.len() < MAX_TAKEN && !self.taken.contains_key(&offer.token_sha256);
        if is_new {
            // The clock that `offered_at` was read from may be ahead of ours.
            let until =
                now.max(offer.offered_at) + SignedDuration::from_secs(2 * KEPT_FOR.as_secs().cast_signed());
            self.taken.insert(offer.token_sha256, until);
        }
        is_new
    }
}

/// Whether a stream may still come. Clocks of nodes agree to a second or so; one that is far ahead is not believed.
fn is_good(offer: &LateOffer, now: Timestamp) -> bool {
    now.duration_since(offer.offered_at).unsigned_abs() < KEPT_FOR
}

impl Expiry {
    /// Ends when the stream's time is over, or `stop` says so.
    pub(super) async fn run(self, stop: &CancellationToken) {
        tokio::select! {
            () = sleep(KEPT_FOR) => {}
            () = stop.cancelled() => {}
        }
        let Some(expected) = self.standby.lock().expected.remove(&self.token) else { return };
        let call_sid = &expected.offer.call_sid;
        if expected.for_any_node {
            warn!(call.id = %call_sid, "the stream of a call did not come to this node; another one may have taken it");
        } else {
            warn!(call.id = %call_sid, "the stream of a call never came");
        }
    }
}

/// Nobody writes these for the call: it is over, or not with us, or they are in no hurry.
pub(super) fn leave(spool: &Spool, records: impl IntoIterator<Item = Waiting>) {
    spool.leave(records.into_iter().filter_map(|waiting| waiting.ticket));
}

/// With what has to be on record before anything else of the call, the offer last.
fn take(mut offer: LateOffer, came: Option<What>, spool: &Spool) -> (ClaimedCall, Vec<Waiting>) {
    offer.claimed_at = Some(Timestamp::now());
    let what = came.into_iter().chain([What::Offer(offer.clone())]);
    let first = what.map(|what| Waiting::keep(spool, record(&offer, what))).collect();
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
        handoffs: 0,
        clock_ahead: SignedDuration::ZERO, // Nobody could be asked.
    };
    (call, first)
}

fn came(offer: &LateOffer, phone_number: Option<PhoneNumberId>) -> What {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let event =
        CallEvent::Incoming { phone_number, from: text(&offer.from), to: text(&offer.to), to_team: false };
    What::Event { at: offer.offered_at, event }
}

fn record(offer: &LateOffer, what: What) -> Record {
    let call =
        CallRef { call_sid: offer.call_sid.clone(), organization: offer.organization, agent: offer.agent };
    Record { call, token: TOKEN, what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{AgentId, CallSid, OrganizationId};
    use uuid::Uuid;

    fn promised(secret: u32, ago: SignedDuration) -> Promised {
        let mut token_sha256 = [0; 32];
        token_sha256[..4].copy_from_slice(&secret.to_be_bytes());
        let offer = LateOffer {
            call_sid: CallSid::parse("CA1").unwrap(),
            organization: OrganizationId(Uuid::nil()),
            agent: AgentId(Uuid::nil()),
            direction: None,
            from: None,
            to: None,
            token_sha256,
            node: "asked".into(),
            offered_at: Timestamp::now() - ago,
            claimed_at: None,
        };
        Promised { offer, phone_number: None, agent: None }
    }

    fn takes(standby: &Standby, promised: Promised) -> bool {
        standby.take_over(promised, "this", &Spool::off()).is_some()
    }

    #[test]
    fn a_stream_is_taken_over_once_and_in_time() {
        let (standby, seconds) = (Standby::default(), SignedDuration::from_secs);
        let stream = promised(1, seconds(1));
        assert!(takes(&standby, stream.clone()));
        assert!(!takes(&standby, stream), "once");
        for (secret, ago, taken) in [(2, 29, true), (3, 31, false), (4, -29, true), (5, -31, false)] {
            assert_eq!(takes(&standby, promised(secret, seconds(ago))), taken, "{ago} s ago");
        }
    }

    #[test]
    fn a_stream_that_was_taken_where_it_was_offered_is_not_taken_over() {
        let standby = Standby::default();
        let Promised { offer, .. } = promised(1, SignedDuration::ZERO);
        standby.lock().expected.insert("token".into(), Expected { offer: offer.clone(), for_any_node: true });
        assert!(standby.expects("token") && standby.claim("token", &Spool::off()).is_some());
        assert!(standby.claim("token", &Spool::off()).is_none() && !standby.expects("token"));
        assert!(!takes(&standby, Promised { offer, phone_number: None, agent: None }));
    }

    #[test]
    fn streams_that_were_taken_are_forgotten_when_their_secrets_are_worth_nothing_and_not_before() {
        let standby = Standby::default();
        for secret in 0..MAX_TAKEN as u32 {
            assert!(takes(&standby, promised(secret, SignedDuration::ZERO)));
        }
        assert!(!takes(&standby, promised(u32::MAX, SignedDuration::ZERO)), "no room");
        for until in standby.lock().taken.values_mut() {
            *until = Timestamp::now();
        }
        assert!(takes(&standby, promised(u32::MAX, SignedDuration::ZERO)));
        assert_eq!(standby.lock().taken.len(), 1);
    }
}
