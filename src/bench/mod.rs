//! Many calls against a bridge at once: what it adds to each frame, what it costs, how many it carries.

mod arrivals;
mod calls;
mod latency;
mod link;
mod mark;
pub mod outcome;
