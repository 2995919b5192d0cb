//! Who may see what: tenants, keys and their scopes, the audit log.

#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

mod audit;
mod callbacks;
mod command_line;
mod keys;
mod logs;
mod names;
#[path = "../support/operations.rs"]
mod operations;
mod routes;
mod scopes;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/surface.rs"]
mod surface;
mod tables;
