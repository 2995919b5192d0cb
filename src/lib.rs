//! voicebridge connects phone calls to speech-to-speech models in real time and keeps the truth of what was said.
//!
//! Modules are listed lowest first: a module uses only modules listed before it. `tests/layers.rs` checks it.

pub mod ids;
pub mod clock;
pub mod telemetry;
pub mod shutdown;
pub mod redact;
pub mod audio;
pub mod wire;
pub mod call;
pub mod outreach;
pub mod routing;
pub mod keys;
pub mod simulate;
pub mod store;
pub mod clients;
pub mod lifecycle;
pub mod webhooks;
pub mod bridge;
pub mod dialer;
pub mod ingest;
pub mod api;
pub mod config;
pub mod app;
pub mod demo;
pub mod score;
pub mod bench;
