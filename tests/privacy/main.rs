//! What is not kept: people who are to be forgotten, what has grown old, and what is never written down.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../support/surface.rs"]
mod surface;
#[expect(dead_code, reason = "other binaries look at more of it")]
#[path = "../support/world.rs"]
mod world;

mod canaries;
mod columns;
mod erasure;
mod life;
mod menus;
mod redaction;
mod retention;
