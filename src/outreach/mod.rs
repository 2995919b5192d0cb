//! Rules of calling people: who may be called when, and what follows a try. No clock, no database.

pub mod campaign;
pub mod retry;
pub mod rules;
pub mod window;
