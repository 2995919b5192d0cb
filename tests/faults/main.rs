//! Parts die under live calls, and the calls go on. Real processes, really killed.
//!
//! These tests need the machine for themselves; `.config/nextest.toml` gives it to them, and here they take turns.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

#[path = "../support/mod.rs"]
mod support;
#[expect(dead_code, reason = "other binaries look at more of it")]
#[path = "../support/world.rs"]
mod world;

mod campaigns;
mod database;
mod node;
mod nodes;
mod postgres;
mod renewals;
mod stale;

/// Whoever holds it runs alone.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
