//! Many calls against a bridge at once: what it adds to each frame, what it costs, how many it carries.

pub mod outcome;
pub mod report;
