//! What the members of a body may be, and how one is told what they may not be: all of it at once.

use std::fmt::Display;

use axum::extract::{FromRequest as _, Request};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::ids::PhoneNumber;
use crate::ingest::Problem;
use crate::outreach::window::zone;

// Longest texts, in characters. Names and addresses beyond these are mistakes, notes are for people to read.
pub(crate) const NAME: usize = 200;
pub(crate) const EMAIL: usize = 254;
pub(crate) const NOTES: usize = 20_000;

/// What is wrong with the members of a body, all of it.
#[derive(Default)]
pub(crate) struct Problems(Vec<Value>);

impl Problems {
    pub(crate) fn note(&mut self, field: &str, problem: &str) {
        self.0.push(json!({ "field": field, "problem": problem }));
    }

    /// The value, or a note of why there is none.
    pub(crate) fn take<T, E: Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.note(field, &error.to_string())).ok()
    }

    pub(crate) fn phone(&mut self, text: &str) -> Option<PhoneNumber> {
        self.number("phone", text)
    }

    pub(crate) fn number(&mut self, field: &str, text: &str) -> Option<PhoneNumber> {
        self.take(field, PhoneNumber::parse(text))
    }

    pub(crate) fn length(&mut self, field: &str, text: &str, least: usize, most: usize) {
        if !(least..=most).contains(&text.chars().count()) {
            self.note(field, &format!("must have {least} to {most} characters"));
        }
    }

    /// A number within a range.
    pub(crate) fn range(&mut self, field: &str, value: i32, least: i32, most: i32) {
        if !(least..=most).contains(&value) {
            self.note(field, &format!("must be {least} to {most}"));
        }
    }

    pub(crate) fn count(&mut self, field: &str, count: usize, most: usize) {
        if count > most {
            self.note(field, &format!("must have at most {most} entries"));
        }
    }

    pub(crate) fn email(&mut self, email: Option<&str>) {
        let Some(email) = email else { return };
        self.length("email", email, 3, EMAIL);
        if !looks_like_email(email) {
            self.note("email", "must look like name@example.com");
        }
    }

    /// The zone as it is spelled by those who keep the names.
    pub(crate) fn time_zone(&mut self, name: Option<&str>) -> Option<String> {
        self.take("time_zone", zone(name?)).and_then(|zone| zone.iana_name().map(str::to_owned))
    }

    pub(crate) fn none(self) -> Result<(), ApiError> {
        if self.0.is_empty() { Ok(()) } else { Err(self.into_error()) }
    }

    pub(crate) fn into_error(self) -> ApiError {
        ApiError::invalid("some members cannot be what they are; see details")
            .with_details(Value::Array(self.0))
    }
}

/// More is for the mail server to say.
pub(crate) fn looks_like_email(email: &str) -> bool {
    email.split('@').filter(|part| !part.is_empty()).count() == 2 && !email.contains(char::is_whitespace)
}

/// Tells a member that is `null` from one that is absent.
pub(crate) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A body that is JSON, read after whoever sent it was found to be trusted: until then none of it is taken in.
pub(crate) async fn json_of<T: serde::de::DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let axum::Json(value) = axum::Json::from_request(request, &()).await?;
    Ok(value)
}

/// What is wrong with what another system has sent.
pub(crate) fn unreadable(problems: &[Problem]) -> ApiError {
    ApiError::unprocessable("invalid_body", "this cannot be put on record as it is; see details")
        .with_details(json!(problems))
}
