//! A request of Twilio: read once, signature checked before anything else looks at it.

use std::fmt;

use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use serde_json::{Map, Value};

use crate::api::Api;
use crate::api::error::ApiError;
use crate::ids::{CallSid, OrganizationId};
use crate::lifecycle::callback::is_terminal;
use crate::store::call_events::CarrierEvent;

const SIGNATURE: &str = "x-twilio-signature";

/// Parameters of a webhook whose signature was good. Debug shows no values: they are personal.
pub struct Webhook {
    params: Vec<(String, String)>,
}

impl FromRequest<Api> for Webhook {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let in_query = matches!(*request.method(), Method::GET | Method::HEAD);
        let path_and_query = request.uri().path_and_query().map_or("/", |text| text.as_str()).to_owned();
        let signature =
            request.headers().get(SIGNATURE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let Form(params) = Form::<Vec<(String, String)>>::from_request(request, api).await?;
        if let Some(validator) = &api.signatures {
            let checked = if in_query {
                validator.check_get(&path_and_query, signature.as_deref())
            } else {
                validator.check_form(&path_and_query, &params, signature.as_deref())
            };
            checked.map_err(|why| {
                tracing::warn!(%why, "a webhook was refused: is PUBLIC_URL what Twilio calls, and the token right?");
                ApiError::forbidden_signature()
            })?;
        }
        Ok(Self { params })
    }
}

impl Webhook {
    /// A parameter; empty counts as absent, as Twilio sends both.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.params.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        value.filter(|value| !value.is_empty())
    }

    /// The call it is about.
    pub fn call_sid(&self) -> Result<CallSid, ApiError> {
        let text = self.get("CallSid").ok_or_else(|| {
            ApiError::bad_request(
                "invalid_call_sid",
                "the parameter CallSid is missing; send it as Twilio does",
            )
        })?;
        CallSid::parse(text).map_err(|error| ApiError::bad_request("invalid_call_sid", error.to_string()))
    }

    /// Whether the carrier says that the call is over.
    #[must_use]
    pub fn call_is_over(&self) -> bool {
        self.get("CallStatus").is_some_and(is_terminal)
    }

    /// Whether the carrier says that it is a call which was made through it.
    #[must_use]
    pub fn is_outbound(&self) -> bool {
        self.get("Direction").is_some_and(|direction| direction.starts_with("outbound"))
    }

    /// The number of ours that is in the call.
    #[must_use]
    pub fn our_number(&self) -> Option<&str> {
        self.get(if self.is_outbound() { "From" } else { "To" })
    }

    /// The request as a row of `call_events`.
    #[must_use]
    pub fn carrier_event(&self, organization: Option<OrganizationId>, call_sid: CallSid) -> CarrierEvent {
        let text = |name| self.get(name).map(str::to_owned);
        CarrierEvent {
            organization,
            call_sid,
            call_status: text("CallStatus"),
            to: text("To"),
            from: text("From"),
            direction: text("Direction"),
            // `Duration` is in minutes and for billing.
            duration_s: self.number("CallDuration"),
            sequence_number: self.number("SequenceNumber"),
            event_time: self.get("Timestamp").and_then(event_time),
            sip_response_code: self.number("SipResponseCode"),
            answered_by: text("AnsweredBy"),
            payload: self.payload(),
        }
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }

    /// Everything that was sent. A repeated name keeps its values as a list.
    fn payload(&self) -> Value {
        let mut payload = Map::new();
        for (name, value) in &self.params {
            let value = Value::String(value.clone());
            match payload.get_mut(name) {
                None => {
                    payload.insert(name.clone(), value);
                }
                Some(Value::Array(values)) => values.push(value),
                Some(first) => *first = Value::Array(vec![first.take(), value]),
            }
        }
        Value::Object(payload)
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.params.iter().map(|(name, _)| name)).finish()
    }
}

impl From<FormRejection> for ApiError {
    fn from(rejection: FormRejection) -> Self {
        match &rejection {
            FormRejection::InvalidFormContentType(_) => {
                Self::unsupported_media_type("send a form: Content-Type: application/x-www-form-urlencoded")
            }
            _ if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Self::payload_too_large(),
            _ => Self::bad_request("invalid_form", "the form cannot be read"),
        }
    }
}

/// Call callbacks carry RFC 2822, stream callbacks ISO 8601.
fn event_time(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok().or_else(|| text.parse().ok())
}

/// A TwiML document as an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twiml(pub String);

impl IntoResponse for Twiml {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "text/xml; charset=utf-8")], self.0).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn webhook(params: &[(&str, &str)]) -> Webhook {
        Webhook { params: params.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect() }
    }

    #[test]
    fn a_status_callback_becomes_an_event() {
        let webhook = webhook(&[
            ("CallSid", "CA1"),
            ("CallStatus", "completed"),
            ("From", "+14155550123"),
            ("To", ""),
            ("CallDuration", "61"),
            ("Duration", "2"),
            ("SequenceNumber", "3"),
            ("SipResponseCode", "many"),
            ("Timestamp", "Sun, 23 Nov 2025 10:30:00 +0000"),
        ]);
        let event = webhook.carrier_event(None, webhook.call_sid().unwrap());
        assert_eq!(event.call_status.as_deref(), Some("completed"));
        assert_eq!((event.from.as_deref(), event.to), (Some("+14155550123"), None));
        assert_eq!(
            (event.duration_s, event.sequence_number, event.sip_response_code),
            (Some(61), Some(3), None)
        );
        assert_eq!(event.event_time, Some("2025-11-23T10:30:00Z".parse().unwrap()));
        assert_eq!(event.payload["Duration"], json!("2"));
    }

    #[test]
    fn a_repeated_parameter_keeps_all_its_values() {
        let payload = webhook(&[("A", "1"), ("B", "2"), ("A", "3"), ("A", "4")]).payload();
        assert_eq!(payload, json!({"A": ["1", "3", "4"], "B": "2"}));
    }

    #[test]
    fn our_number_is_the_called_one_unless_we_called() {
        let numbers = [("From", "+14155550101"), ("To", "+14155550102")];
        assert_eq!(webhook(&numbers).our_number(), Some("+14155550102"));
        let outbound = webhook(&[numbers[0], numbers[1], ("Direction", "outbound-api")]);
        assert_eq!(outbound.our_number(), Some("+14155550101"));
    }

    #[test]
    fn a_webhook_does_not_print_what_it_says() {
        let printed = format!("{:?}", webhook(&[("From", "+14155550123")]));
        assert_eq!(printed, "[\"From\"]");
    }
}
