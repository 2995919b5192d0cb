//! Records from elsewhere: calls that other systems handled.

pub mod kaleyra;
