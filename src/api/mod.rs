//! The HTTP surface: records, Twilio's webhooks, health.

pub mod settings;
