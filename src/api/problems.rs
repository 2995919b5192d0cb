//! What is wrong with a body, all of it at once.

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::ids::PhoneNumber;

/// Longest e-mail address, in characters.
const EMAIL: usize = 254;

/// What is wrong with the members of a body.
#[derive(Default)]
pub(super) struct Problems(Vec<Value>);

impl Problems {
    pub(super) fn note(&mut self, field: &str, problem: &str) {
        self.0.push(json!({ "field": field, "problem": problem }));
    }

    pub(super) fn phone(&mut self, field: &str, text: &str) -> Option<PhoneNumber> {
        PhoneNumber::parse(text).map_err(|error| self.note(field, &error.to_string())).ok()
    }

    /// In characters.
    pub(super) fn length(&mut self, field: &str, text: &str, least: usize, most: usize) {
        if !(least..=most).contains(&text.chars().count()) {
            self.note(field, &format!("must have {least} to {most} characters"));
        }
    }

    pub(super) fn count(&mut self, field: &str, count: usize, most: usize) {
        if count > most {
            self.note(field, &format!("must have at most {most} entries"));
        }
    }

    pub(super) fn range(&mut self, field: &str, number: i32, least: i32, most: i32) {
        if !(least..=most).contains(&number) {
            self.note(field, &format!("must be {least} to {most}"));
        }
    }

    pub(super) fn email(&mut self, email: Option<&str>) {
        let Some(email) = email else { return };
        self.length("email", email, 3, EMAIL);
        // More is for the mail server to say.
        if email.split('@').filter(|part| !part.is_empty()).count() != 2
            || email.contains(char::is_whitespace)
        {
            self.note("email", "must look like name@example.com");
        }
    }

    pub(super) fn none(self) -> Result<(), ApiError> {
        if self.0.is_empty() { Ok(()) } else { Err(self.into_error()) }
    }

    pub(super) fn into_error(self) -> ApiError {
        ApiError::invalid("some members cannot be what they are; see details")
            .with_details(Value::Array(self.0))
    }
}

/// Tells a member that is `null` from one that is absent.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}
