//! A live call as a plain value: it takes what happened, in order, and hands out what must be done, in order.
//!
//! It never waits, reads a clock or touches a socket.

pub mod end;
pub mod settings;
pub mod transcript;
