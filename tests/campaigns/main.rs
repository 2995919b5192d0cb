//! Campaigns, the queue and the do-not-call list over HTTP, against a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "these are tests from top to bottom")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/surface.rs"]
mod surface;

mod counters;
mod life;
mod lists;
mod queue;
mod server;
mod tenants;
mod uploads;
