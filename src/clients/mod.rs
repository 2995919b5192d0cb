//! Clients of other services.

pub mod kaleyra;
pub mod twilio;
