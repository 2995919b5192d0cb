//! Records of calls that other systems handled, over HTTP, against a real PostgreSQL and simulated far ends.

#![allow(clippy::unwrap_used, reason = "these are tests from top to bottom")]

mod ivr;
mod ivr_messages;
mod kaleyra;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/surface.rs"]
mod surface;
mod vapi;
