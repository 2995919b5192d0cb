//! Many calls against a bridge at once: what it adds to each frame, what it costs, how many it carries.

mod arrivals;
mod caller;
mod calls;
mod dialect;
mod latency;
mod link;
mod mark;
mod model;
mod player;
mod talk;
pub mod outcome;
