//! Sample formats and their conversion: plain arithmetic, no IO.

pub mod g711;
pub mod level;
pub mod resample;
