//! Simulated far ends: a Twilio caller, the carrier behind it, an OpenAI Realtime server, and Kaleyra's log of calls.
//!
//! They ship with the program, carry the demo and judge the bridge in tests. So that they can judge, they spell and
//! check every message themselves and share none of the bridge's codecs.

pub mod balancer;
pub mod caller;
pub mod carrier;
pub mod cli;
pub mod kaleyra;
pub mod model;
pub mod network;
pub mod random;
pub mod scenario;
pub mod speech;
pub mod wav;
