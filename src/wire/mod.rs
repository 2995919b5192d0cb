//! Messages of the outside world: what they mean and how they are spelled. No IO, no policy.
//!
//! Lenient in (unknown members and events are ignored, any member may be missing or null), strict out.

pub mod json;
pub mod model;
pub mod openai;
pub mod payload;
pub mod signature;
pub mod twilio;
pub mod twiml;
pub mod websocket;
