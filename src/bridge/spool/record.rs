//! What is kept: something that happened to a call, with all that is needed to put it on record later.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::offers::Right;
use crate::call::transcript::Entry;
use crate::lifecycle::{self, CallEvent, CallRef, Recorded, callback};
use crate::store::Store;
use crate::store::call_events::CarrierEvent;
use crate::store::leases::FencingToken;
use crate::store::standby::{self, LateOffer};
use crate::store::transcripts::Turns;

/// A record of a call. Written as JSON; a later version has to read what an earlier one has kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::bridge) struct Record {
    /// The call. Of a callback only its SID counts: the carrier says no more.
    pub(in crate::bridge) call: CallRef,
    /// The right to write about it.
    pub(in crate::bridge) token: FencingToken,
    /// What happened.
    pub(in crate::bridge) what: What,
}

/// What happened to a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::bridge) enum What {
    /// A turn was finished. Its times count from the start of the stream.
    Turn { stream_started: Timestamp, entry: Entry },
    /// The call went on to another part of its life.
    Event { at: Timestamp, event: CallEvent },
    /// The call was offered while the database was away.
    Offer(LateOffer),
    /// The carrier has said something of the call.
    Callback { at: Timestamp, callback: CarrierEvent },
}

impl Record {
    /// Puts on record what is not a turn. False: the call was somebody else's by then, and nothing has changed.
    pub(in crate::bridge) async fn put_on_record(&self, store: &Store) -> sqlx::Result<bool> {
        match &self.what {
            What::Turn { .. } => Ok(true), // Turns go together.
            What::Event { at, event } => {
                Ok(lifecycle::record(store, &self.call, *at, event).await? != Recorded::Fenced)
            }
            What::Offer(offer) => standby::record(store, offer).await,
            What::Callback { at, callback } => callback::record(store, callback, *at).await.map(|()| true),
        }
    }

    /// The same, later than it happened: what happened while the call was ours is put on record also when it is not any more.
    pub(in crate::bridge) async fn replay(&self, store: &Store) -> sqlx::Result<bool> {
        match &self.what {
            What::Event { at, event } => {
                Ok(lifecycle::replay(store, &self.call, *at, event).await? != Recorded::Fenced)
            }
            What::Turn { .. } | What::Offer(_) | What::Callback { .. } => self.put_on_record(store).await,
        }
    }

    pub(in crate::bridge) const fn is_offer(&self) -> bool {
        matches!(self.what, What::Offer(_))
    }

    /// The first of its call, or all there will be of it: the carrier may have said before that the call is over.
    pub(in crate::bridge) const fn may_come_after_the_end(&self) -> bool {
        matches!(
            self.what,
            What::Event { event: CallEvent::Incoming { .. } | CallEvent::Transferred { .. }, .. }
        )
    }

    /// What the carrier says, which is true whoever has the call.
    pub(in crate::bridge) const fn is_callback(&self) -> bool {
        matches!(self.what, What::Callback { .. })
    }

    /// By which it is written.
    pub(in crate::bridge) fn right(&self) -> Right {
        (self.call.call_sid.clone(), self.token)
    }

    pub(in crate::bridge) const fn is_turn(&self) -> bool {
        matches!(self.what, What::Turn { .. })
    }

    /// The same as a turn, if it is one.
    pub(in crate::bridge) fn as_turns(&self) -> Option<Turns> {
        let What::Turn { stream_started, entry } = &self.what else { return None };
        Some(Turns {
            organization: self.call.organization,
            call_sid: self.call.call_sid.clone(),
            token: self.token,
            stream_started: *stream_started,
            entries: vec![entry.clone()],
        })
    }
}
