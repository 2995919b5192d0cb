//! Records of calls that other systems have handled. Each source has two parts: one that reads what was sent and says what
//! it means in our terms, which is pure, and one that puts that on record.

pub mod ivr;
pub mod kaleyra;
pub mod vapi;

use serde::Serialize;
use utoipa::ToSchema;

/// What is wrong with something that was sent. Holds nothing of what was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// Where.
    #[schema(example = "started_at")]
    pub field: String,
    /// What, and what it should be.
    #[schema(example = "must be a moment, such as 2024-10-30T09:00:00Z")]
    pub problem: String,
}

impl Problem {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}
