//! The refusals that follow from what a route is, in the `OpenAPI` document: whoever takes a body may not be able to read it,
//! whoever needs a key may not be shown one. Routes declare what is their own.

use serde_json::{Value, json};
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};

use crate::api::routes::{NEEDS, operations};

/// A refusal: status, code, sentence.
pub(super) type Refusal = (&'static str, &'static str, &'static str);

const INVALID: [Refusal; 4] = [
    ("400", "invalid_json", "the body is not JSON"),
    ("413", "payload_too_large", "the body is larger than this route takes"),
    ("415", "unsupported_media_type", "send JSON with Content-Type: application/json"),
    ("422", "invalid_value", "some members cannot be what they are; see details"),
];
const INVALID_PLACE: Refusal = ("400", "invalid_query", "limit must be 1 to 200");
const NOT_FOUND: Refusal = ("404", "not_found", "there is no such thing");
const KEYED: [Refusal; 3] = [
    ("401", "unauthorized", "send the API key as Authorization: Bearer … or X-Api-Key"),
    ("403", "missing_scope", "this needs a key with the scope operate"),
    ("429", "rate_limited", "this key asks too often; try again in 3 s"),
];
const KEYED_ORGANIZATION: Refusal =
    ("400", "unknown_organization", "X-Organization must be the slug or id of an organisation");
const SIGNED: [Refusal; 2] = [
    ("400", "invalid_call_sid", "the parameter CallSid is missing; send it as Twilio does"),
    ("403", "invalid_signature", "X-Twilio-Signature is missing or does not match"),
];

/// What may go wrong on our side, on any route.
pub(super) const OURS: [Refusal; 3] = [
    ("500", "internal", "something went wrong on our side"),
    ("503", "database_unavailable", "the database cannot be reached; try again"),
    ("504", "timed_out", "this took too long; try again"),
];

/// Adds to every route what it may refuse by what it is. Each refusal is described once.
pub(super) fn add(document: &mut OpenApi) {
    let mut described: Vec<Refusal> = OURS.into();
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        for refusal in refusals(operation) {
            let (status, code, _) = refusal;
            let responses = &mut operation.responses.responses;
            responses.entry(status.to_owned()).or_insert_with(|| Ref::from_response_name(code).into());
            described.push(refusal);
        }
    }
    let responses = &mut document.components.get_or_insert_default().responses;
    responses.extend(described.into_iter().map(|refusal| (refusal.1.to_owned(), response(refusal).into())));
}

fn refusals(operation: &Operation) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let parameters = operation.parameters.iter().flatten();
    let places: Vec<_> = parameters
        .filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some(&parameter.parameter_in),
            RefOr::Ref(_) => None,
        })
        .collect();
    if !places.is_empty() {
        refusals.push(INVALID_PLACE);
    }
    if places.iter().any(|place| matches!(place, ParameterIn::Path)) {
        refusals.push(NOT_FOUND);
    }
    if operation.request_body.is_some() {
        refusals.extend(INVALID);
    }
    match operation.extensions.as_ref().and_then(|extensions| extensions.get(NEEDS)).and_then(Value::as_str) {
        Some("nothing") | None => {}
        Some("signature") => refusals.extend(SIGNED),
        Some(_) => {
            refusals.extend(KEYED);
            refusals.push(KEYED_ORGANIZATION);
        }
    }
    refusals
}

fn response((_, code, message): Refusal) -> utoipa::openapi::Response {
    let example = json!({"success": false, "error": {"code": code, "message": message, "details": null}});
    let content =
        ContentBuilder::new().schema(Some(Ref::from_schema_name("Failure"))).example(Some(example)).build();
    ResponseBuilder::new()
        .description(format!("Such as `{code}`"))
        .content("application/json", content)
        .build()
}
