//! Calls that a menu system elsewhere has answered. Each system tells of them in its own words, which its mapping turns into
//! ours.

pub mod mapping;
mod moment;

use jiff::Timestamp;

pub use mapping::{Field, Mapping, Read};

use crate::store::Store;
use crate::store::ivr::Sender;
use crate::store::ivr::messages::{self, KeepError, Kept, Told};

/// Puts on record what a provider has told of a call.
pub async fn take(
    store: &Store,
    sender: &Sender,
    told: &Told,
    received_at: Timestamp,
) -> Result<Kept, KeepError> {
    messages::keep(store, sender, told, received_at).await
}
