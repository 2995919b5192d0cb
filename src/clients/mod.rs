//! Clients of other services.

pub mod twilio;
