//! Clients of other services.

pub mod kaleyra;
pub mod receiver;
pub mod twilio;
