//! Records of calls that other systems handled, against a real PostgreSQL and simulated far ends.

#![allow(clippy::unwrap_used, reason = "these are tests from top to bottom")]

mod kaleyra;
//! Records of calls that other systems have handled, over HTTP against a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "these are tests from top to bottom")]

mod ivr;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/surface.rs"]
mod surface;
mod vapi;
