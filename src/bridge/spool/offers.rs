//! Which calls have no lease yet: those whose offer was made without the database, and is not on record.
//!
//! Nothing that came after such an offer may be written before it, or at all when it is refused: the call is then somebody
//! else's, who may well hold it by the same token.

use std::collections::BTreeMap;

use super::Ticket;
use crate::ids::CallSid;
use crate::store::leases::FencingToken;

/// A call, and the token that the offer gave it.
pub(in crate::bridge) type Right = (CallSid, FencingToken);

/// Whether a record may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Yes.
    Free,
    /// Not before the offer that it depends on.
    Waits,
    /// Never: that offer was refused.
    Void,
}

/// The offers this process has kept.
#[derive(Debug, Default)]
pub(super) struct Offers {
    /// Not on record yet, the latest of each call.
    open: BTreeMap<Right, Ticket>,
    kept: BTreeMap<Ticket, Right>,
    /// Refused; also offers of earlier processes.
    void: BTreeMap<Right, Ticket>,
}

impl Offers {
    pub(super) fn keep(&mut self, ticket: Ticket, right: Right) {
        self.kept.insert(ticket, right.clone());
        self.open.insert(right, ticket);
    }

    /// It is on record, set aside, or replaced by a later one.
    pub(super) fn settle(&mut self, ticket: Ticket) {
        if let Some(right) = self.kept.remove(&ticket)
            && self.open.get(&right) == Some(&ticket)
        {
            self.open.remove(&right);
        }
    }

    /// It was refused.
    pub(super) fn refuse(&mut self, ticket: Ticket, right: Right) {
        self.void.insert(right, ticket);
    }

    /// Of a record that was kept as `ticket`. What was kept before the offer does not depend on it.
    pub(super) fn standing(&self, ticket: Ticket, right: &Right) -> Standing {
        let depends_on = |offer: &Ticket| *offer < ticket;
        if self.void.get(right).is_some_and(depends_on) {
            Standing::Void
        } else if self.open.get(right).is_some_and(depends_on) {
            Standing::Waits
        } else {
            Standing::Free
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Standing::{Free, Void, Waits};
    use super::*;

    #[test]
    fn what_came_after_an_offer_waits_for_it_and_is_void_with_it() {
        let right = |call: &str, token| (CallSid::parse(call).unwrap(), FencingToken(token));
        let (call, resumed, other) = (right("CA1", 1), right("CA1", 2), right("CA2", 1));
        let mut offers = Offers::default();
        let standing = |offers: &Offers| {
            [(1, &call), (9, &call), (9, &resumed), (9, &other)]
                .map(|(ticket, right)| offers.standing(Ticket(ticket), right))
        };
        offers.keep(Ticket(2), call.clone());
        assert_eq!(standing(&offers), [Free, Waits, Free, Free]);
        // Taken: kept anew, and then the first is not needed.
        offers.keep(Ticket(3), call.clone());
        offers.settle(Ticket(2));
        assert_eq!(standing(&offers), [Free, Waits, Free, Free]);
        offers.refuse(Ticket(3), call.clone());
        offers.settle(Ticket(3));
        assert_eq!(standing(&offers), [Free, Void, Free, Free]);
        offers.keep(Ticket(4), other.clone());
        offers.settle(Ticket(4));
        assert_eq!(standing(&offers), [Free, Void, Free, Free], "on record");
    }
}
