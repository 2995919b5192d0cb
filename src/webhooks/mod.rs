//! Sends what organisations want to be told of their calls, again and again until it is taken or given up.
//!
//! What is to be sent was written with what it tells (`store::webhooks`). Any number of servers send it; each event arrives
//! at least once, those of one call in their order.

mod run;
pub mod schedule;
pub mod sign;

pub use run::{Sender, run};
