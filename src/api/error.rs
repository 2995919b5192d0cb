//! What a client is told when something went wrong, and how it reads: `{"success": false, "error": {…}}`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{IntoResponses, ToSchema};

use crate::api::statuses;
use crate::store::leads::LinkError;

/// How long a request may have the database look through all there is: less than any request may take.
const MOST_PATIENCE: Duration = Duration::from_secs(25);

/// A refusal or failure, as the client is told it. Causes inside the house are logged, never sent.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    details: Value,
}

/// Envelope of every error.
#[derive(Serialize, ToSchema)]
pub struct Failure<'a> {
    /// Always false.
    #[schema(example = false)]
    pub success: bool,
    /// What went wrong.
    pub error: FailureBody<'a>,
}

/// What went wrong.
#[derive(Serialize, ToSchema)]
pub struct FailureBody<'a> {
    /// For programs; does not change.
    #[schema(example = "not_found")]
    pub code: &'a str,
    /// For people.
    #[schema(example = "there is no such lead")]
    pub message: &'a str,
    /// More about it; null when there is nothing more.
    pub details: &'a Value,
}

/// What a broken rule of the database means to the client.
struct Rule {
    constraint: &'static str,
    status: StatusCode,
    code: &'static str,
    message: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        constraint: "api_keys_name",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        code: "invalid_value",
        message: "name must have 1 to 200 characters that can be read",
    },
    Rule {
        constraint: "agents_vapi_assistant",
        status: StatusCode::CONFLICT,
        code: "assistant_taken",
        message: "another agent of yours is this VAPI assistant already; its reports could not be told apart",
    },
    Rule {
        constraint: "ivr_providers_name",
        status: StatusCode::CONFLICT,
        code: "provider_exists",
        message: "there is a provider of this name; choose another",
    },
    Rule {
        constraint: "leads_call_sid",
        status: StatusCode::CONFLICT,
        code: "call_already_linked",
        message: "the call belongs to another lead; unlink it there first",
    },
    Rule {
        constraint: "projects_name",
        status: StatusCode::CONFLICT,
        code: "project_exists",
        message: "there is a project of this name",
    },
    Rule {
        constraint: "campaigns_project",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        code: "unknown_reference",
        message: "there is no such project any more",
    },
    Rule {
        constraint: "organisations_slug",
        status: StatusCode::CONFLICT,
        code: "organisation_exists",
        message: "there is an organisation of this slug; choose another",
    },
    Rule {
        constraint: "leads_phone_e164",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        code: "invalid_value",
        message: "phone must be in E.164, such as +14155550123",
    },
    Rule {
        constraint: "phone_numbers_number",
        status: StatusCode::CONFLICT,
        code: "number_taken",
        // Whose it is, nobody is told: own ones are in the list.
        message: "this number is taken; if it is yours and not in your list, ask the administrator of the server",
    },
    Rule {
        constraint: "phone_numbers_agent",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        code: "invalid_value",
        message: "agent_id must be one of your agents",
    },
    Rule {
        constraint: "phone_numbers_schedule",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        code: "invalid_value",
        message: "schedule_id must be one of your schedules",
    },
    Rule {
        constraint: "phone_numbers_team",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        code: "invalid_value",
        message: "team_id must be one of your teams",
    },
    Rule {
        constraint: "agents_team",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        code: "invalid_value",
        message: "team_id must be one of your teams",
    },
    Rule {
        constraint: "agents_one_default",
        status: StatusCode::CONFLICT,
        code: "default_agent",
        message: "another agent became the default at the same time; try again",
    },
    Rule {
        constraint: "team_members_number",
        status: StatusCode::CONFLICT,
        code: "number_taken",
        message: "the team has this number already",
    },
];

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, message: message.into(), details: Value::Null }
    }

    /// The request cannot be understood.
    pub fn bad_request(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// The request is understood, but what it says cannot be.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", message)
    }

    /// The request is understood, but what it says cannot be, for a reason that programs may want to tell from others.
    pub fn unprocessable(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message)
    }

    /// No such thing.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// It contradicts what is there.
    pub fn conflict(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// No key, or a wrong one.
    #[must_use]
    pub fn unauthorized() -> Self {
        let message = "send the API key as Authorization: Bearer … or X-Api-Key";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// A key that nobody has, or nobody has any more.
    #[must_use]
    pub fn unknown_key() -> Self {
        let message = "this key is not taken: it is unknown, has expired or was revoked";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// Not the secret of whoever may send this.
    pub fn wrong_secret(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_secret", message)
    }

    /// Not signed by Twilio, or not for this URL.
    #[must_use]
    pub fn forbidden_signature() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "invalid_signature",
            "X-Twilio-Signature is missing or does not match",
        )
    }

    /// Known, and not allowed.
    pub fn forbidden(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, message)
    }

    /// A key that is known, and that may not do this.
    #[must_use]
    pub fn forbidden_by_scope(needed: &'static str) -> Self {
        let message = match needed {
            "administrator" => Cow::from("this needs the key of the server's administrator"),
            scope => Cow::from(format!("this needs a key with the scope {scope}")),
        };
        Self::new(StatusCode::FORBIDDEN, "missing_scope", message).with_details(json!({ "needed": needed }))
    }

    /// The key has asked too often of late, or too many were shown that nobody has; it may be shown again after so long.
    #[must_use]
    pub fn too_many_requests(wait: Duration) -> Self {
        let seconds = wait.as_secs() + 1;
        let message = format!("this key asks too often; try again in {seconds} s");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message)
            .with_details(json!({ "retry_after_s": seconds }))
    }

    /// Path or method exists for others.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not take this method")
    }

    /// More than the limit of this route.
    #[must_use]
    pub fn payload_too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "payload_too_large",
            "the body is larger than this route takes",
        )
    }

    /// Another content type is expected.
    pub fn unsupported_media_type(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    }

    /// Try again later.
    pub fn unavailable(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    /// The carrier, who would have to do it, has refused.
    pub fn bad_gateway(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, code, message)
    }

    /// Nobody who could do it has answered in time, and it is certain that it was not done.
    pub fn not_taken(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, code, message)
    }

    /// It took too long.
    #[must_use]
    pub fn timed_out() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timed_out", "this took too long; try again")
    }

    /// The database, asked for more than it can say in time, was told to stop: nothing was done. Any other error of it is
    /// what it is.
    #[must_use]
    fn took_too_long(error: sqlx::Error, message: &'static str) -> Self {
        // PostgreSQL, appendix A: query_canceled.
        match error.as_database_error().and_then(sqlx::error::DatabaseError::code) {
            Some(code) if code == "57014" => Self::new(StatusCode::GATEWAY_TIMEOUT, "timed_out", message),
            _ => error.into(),
        }
    }

    /// Waits for work of the database that looks at all there is, for less than a request may take. Of what was not done by
    /// then nothing stays.
    pub async fn unless_it_takes_too_long<T>(
        work: impl Future<Output = sqlx::Result<T>>,
        message: &'static str,
    ) -> Result<T, Self> {
        match tokio::time::timeout(MOST_PATIENCE, work).await {
            Ok(done) => done.map_err(|error| Self::took_too_long(error, message)),
            Err(_) => Err(Self::new(StatusCode::GATEWAY_TIMEOUT, "timed_out", message)),
        }
    }

    /// Our mistake. What it is belongs in the log.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something went wrong on our side")
    }

    /// Adds what programs may want to know.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = FailureBody { code: self.code, message: &self.message, details: &self.details };
        let mut response = (self.status, axum::Json(Failure { success: false, error })).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let seconds = self.details["retry_after_s"].as_u64().unwrap_or(1);
                headers.insert(header::RETRY_AFTER, seconds.into());
            }
            _ => {}
        }
        response
    }
}

/// The one place where an error of the database is logged and turned into an answer.
impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        let constraint = error.as_database_error().and_then(|error| error.constraint());
        if let Some(rule) = RULES.iter().find(|rule| Some(rule.constraint) == constraint) {
            return Self::new(rule.status, rule.code, rule.message);
        }
        if cannot_be_stored(&error) {
            return Self::invalid(
                "a text with a NUL character, or a number or moment out of range, can neither be stored nor looked for; \
                 send another",
            );
        }
        log(&error);
        if is_unreachable(&error) {
            return Self::unavailable("database_unavailable", "the database cannot be reached; try again");
        }
        Self::internal()
    }
}

impl From<LinkError> for ApiError {
    fn from(error: LinkError) -> Self {
        let message = error.to_string();
        match error {
            LinkError::LeadNotFound | LinkError::CallNotFound => Self::not_found(message),
            LinkError::CallBelongsTo { lead } => {
                Self::conflict("call_already_linked", message).with_details(json!({ "lead_id": lead }))
            }
            LinkError::LeadOnLiveCall { call_sid } => {
                Self::conflict("lead_on_live_call", message).with_details(json!({ "call_sid": call_sid }))
            }
            LinkError::Database(error) => error.into(),
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        match &rejection {
            JsonRejection::JsonDataError(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body", rejection.body_text())
            }
            JsonRejection::MissingJsonContentType(_) => {
                Self::unsupported_media_type("send JSON with Content-Type: application/json")
            }
            _ if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Self::payload_too_large(),
            _ => Self::bad_request("invalid_json", rejection.body_text()),
        }
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request("invalid_path", rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request("invalid_query", rejection.body_text())
    }
}

/// In the `OpenAPI` document: what may go wrong on our side. What the client may do wrong is added by what a route is.
pub struct Failures;

impl IntoResponses for Failures {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        statuses::OURS
            .map(|(status, code, _)| (status.to_owned(), Ref::from_response_name(code).into()))
            .into()
    }
}

/// Logs an error of the database for those who have to mend it.
pub(crate) fn log(error: &sqlx::Error) {
    if is_unreachable(error) {
        tracing::warn!(error = without_values(error), "the database cannot be reached");
    } else {
        tracing::error!(error = without_values(error), "the database refused, or holds what we cannot read");
    }
}

/// True when trying again later may help: no connection, none free, too slow, or the server is starting or stopping.
pub(crate) fn is_unreachable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => {
            true
        }
        // PostgreSQL, appendix A: class 57 is operator intervention (also a time limit), 53 insufficient resources, 08 a
        // connection exception, 55P03 a lock that was not to be had.
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| ["57", "53", "08", "55P03"].iter().any(|class| code.starts_with(class))),
        _ => false,
    }
}

/// True when a value of the request is one that no column takes.
fn cannot_be_stored(error: &sqlx::Error) -> bool {
    // PostgreSQL, appendix A: numeric value out of range, datetime field overflow, character not in repertoire.
    match error {
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| ["22003", "22008", "22021"].contains(&&*code))
        }
        _ => false,
    }
}

/// An error without the values it is about, which may be personal.
pub(crate) fn without_values(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            let (code, constraint) = (error.code().unwrap_or_default(), error.constraint().unwrap_or("none"));
            format!("SQLSTATE {code}, constraint {constraint}")
        }
        sqlx::Error::ColumnDecode { index, .. } => format!("column {index} holds what we cannot read"),
        other => other.to_string(),
    }
}
