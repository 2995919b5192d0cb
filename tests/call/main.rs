//! The specification of the call core: what a call does with what happens to it.

#![expect(unreachable_pub, reason = "a test binary has no outside: its helpers are `pub` among its modules")]
#![expect(clippy::unwrap_used, reason = "a test whose helpers cannot do their part has failed")]

mod barge_in;
mod endings;
mod errors;
mod handoff;
mod hostile;
mod over_agent;
mod player;
mod playout;
mod probation;
mod properties;
mod recovery;
mod renewal;
mod resumption;
mod rules;
mod setup;
mod support;
mod timers;
mod tools;
mod transcript;
mod walkthroughs;
