//! The specification of the call core: what a call does with what happens to it.

mod barge_in;
mod endings;
mod errors;
mod hostile;
mod player;
mod playout;
mod properties;
mod rules;
mod setup;
mod support;
mod timers;
mod tools;
mod transcript;
mod walkthroughs;
