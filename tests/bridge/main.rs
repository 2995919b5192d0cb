//! The bridge between two real sockets: a simulated caller on one side, a simulated model on the other.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/world.rs"]
mod world;

mod interruptions;
mod many_calls;
