//! Calls on our own numbers, and everything that decides where they go, over HTTP against a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "these are tests from top to bottom")]

mod calls;
mod health;
mod hours;
mod manage;
mod server;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/surface.rs"]
mod surface;
