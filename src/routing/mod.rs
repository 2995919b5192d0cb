//! Who takes an inbound call: people by their hours, else the agent, else people all the same. No clock, no database.

pub mod decide;
pub mod hours;
