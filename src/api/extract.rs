//! Axum's extractors and answers with our envelope.

use std::fmt;
use std::marker::PhantomData;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::api::error::ApiError;

/// A JSON body, which is an object.
pub struct Json<T>(pub T);

/// Parameters in the path.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub struct Path<T>(pub T);

/// Parameters in the query.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
pub struct Query<T>(pub T);

/// Envelope of an answer.
#[derive(Serialize, ToSchema)]
pub struct Success<T> {
    /// Always true.
    #[schema(example = true)]
    pub success: bool,
    /// What was asked for.
    pub data: T,
}

/// Envelope of a part of a list.
#[derive(Serialize, ToSchema)]
pub struct Listing<T> {
    /// Always true.
    #[schema(example = true)]
    pub success: bool,
    /// This part of the list.
    pub data: Vec<T>,
    /// Where in the list it is.
    pub pagination: Pagination,
}

/// Where in a list one is.
#[derive(Serialize, ToSchema)]
pub struct Pagination {
    /// Most entries in one answer.
    pub limit: u32,
    /// Entries left out before.
    pub offset: u64,
    /// Entries in the whole list.
    pub total: u64,
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy, serde::Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Most entries, 1 to 200.
    #[serde(default = "default_limit")]
    #[param(default = 50, minimum = 1, maximum = 200)]
    pub limit: u32,
    /// Entries to leave out first.
    #[serde(default)]
    #[param(default = 0)]
    pub offset: u64,
}

/// Refuses a filter that no entry could match.
pub fn one_of(parameter: &str, value: Option<&str>, words: &[&str]) -> Result<(), ApiError> {
    match value {
        Some(value) if !words.contains(&value) => {
            let message = format!("{parameter} must be one of: {}", words.join(", "));
            Err(ApiError::bad_request("invalid_query", message))
        }
        _ => Ok(()),
    }
}

/// Refuses texts of a body that are longer than so many characters, all of them at once.
pub fn check_lengths(members: &[(&str, Option<&str>, usize)]) -> Result<(), ApiError> {
    let too_long =
        members.iter().filter(|(_, text, most)| text.is_some_and(|text| text.chars().count() > *most));
    let problems: Vec<_> = too_long
        .map(|(field, _, most)| serde_json::json!({"field": field, "problem": format!("must have at most {most} characters")}))
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("some members cannot be what they are; see details").with_details(problems.into()))
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let axum::Json(Object(body)) = axum::Json::from_request(request, state).await?;
        Ok(Self(body))
    }
}

/// Serde would also take a list of the members' values, which nobody means to send.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members)).map(Object)
    }
}

const MOST: u32 = 200;

const fn default_limit() -> u32 {
    50
}

impl PageQuery {
    /// Refuses limits outside the range.
    pub fn checked(self) -> Result<Self, ApiError> {
        if (1..=MOST).contains(&self.limit) {
            Ok(self)
        } else {
            Err(ApiError::bad_request("invalid_query", format!("limit must be 1 to {MOST}")))
        }
    }
}

impl<T: Serialize> IntoResponse for Success<T> {
    fn into_response(self) -> Response {
        axum::Json(self).into_response()
    }
}

impl<T: Serialize> IntoResponse for Listing<T> {
    fn into_response(self) -> Response {
        axum::Json(self).into_response()
    }
}

impl<T> Success<T> {
    /// An answer.
    pub const fn new(data: T) -> Self {
        Self { success: true, data }
    }
}
