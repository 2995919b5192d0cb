//! Rules of calling people: who may be called when, and what follows a try. No clock, no database.

pub mod retry;
