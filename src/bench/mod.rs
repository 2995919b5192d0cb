//! Many calls against a bridge at once: what it adds to each frame, what it costs, how many it carries.

mod latency;
mod link;
mod mark;
pub mod outcome;
