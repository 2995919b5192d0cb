//! Many calls at a time, in real time: what holds for one must hold for all.
//!
//! These tests need the machine for themselves; `.config/nextest.toml` gives it to them, and here they take turns.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/world.rs"]
mod world;

mod interruptions;
mod lost_sessions;
mod many_calls;

/// Whoever holds it runs alone.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
