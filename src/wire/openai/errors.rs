//! What an error of the Realtime API asks of us.

use crate::wire::model::{ErrorClass, ModelError};

/// Decides by the error's code, else by its type; its text is for logs.
///
/// Also right for the code of a failed response.
// There is no official list: this one is from SDKs, the documentation and reports (OpenAI dossier, 5.1 and 5.2).
#[must_use]
pub fn classify(error: &ModelError) -> ErrorClass {
    if is_truncation(error) {
        return ErrorClass::Benign;
    }
    // An error nobody has told us about is noted, and counts if it answers the first update.
    by_word(&error.code).or_else(|| by_word(&error.kind)).unwrap_or(ErrorClass::BadRequest)
}

/// A truncation that was off is harmless, although its code (`invalid_value`) is a general one.
fn is_truncation(error: &ModelError) -> bool {
    matches!(&*error.code, "invalid_value" | "integer_below_min_value")
        && error.param.as_deref() == Some("audio_end_ms")
}

fn by_word(word: &str) -> Option<ErrorClass> {
    Some(match word {
        "response_cancel_not_active"
        | "input_audio_buffer_commit_empty"
        | "item_truncate_invalid_item_id"
        | "integer_below_min_value"
        | "item_delete_invalid_item_id"
        | "item_retrieve_invalid_item_id"
        | "item_not_found" => ErrorClass::Benign,

        "conversation_already_has_active_response" => ErrorClass::ResponseBusy,

        "rate_limit_exceeded" | "inference_rate_limit_exceeded" | "rate_limit_error" | "server_error" => {
            ErrorClass::RetryResponse
        }

        "session_expired" => ErrorClass::SessionOver,

        "insufficient_quota"
        | "credit_balance_exhausted"
        | "billing_hard_limit_reached"
        | "invalid_api_key"
        | "account_deactivated"
        | "authentication_error"
        | "permission_error"
        | "model_not_found"
        | "beta_api_shape_disabled" => ErrorClass::Fatal,

        "cannot_update_voice"
        | "invalid_event"
        | "invalid_json"
        | "invalid_value"
        | "unknown_parameter"
        | "missing_required_parameter"
        | "string_above_max_length"
        | "bad_response_create"
        | "invalid_request_error" => ErrorClass::BadRequest,

        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_says_what_to_do() {
        for (code, class) in [
            ("response_cancel_not_active", ErrorClass::Benign),
            ("item_truncate_invalid_item_id", ErrorClass::Benign),
            ("conversation_already_has_active_response", ErrorClass::ResponseBusy),
            ("rate_limit_exceeded", ErrorClass::RetryResponse),
            ("inference_rate_limit_exceeded", ErrorClass::RetryResponse),
            ("session_expired", ErrorClass::SessionOver),
            ("insufficient_quota", ErrorClass::Fatal),
            ("invalid_api_key", ErrorClass::Fatal),
            ("beta_api_shape_disabled", ErrorClass::Fatal),
            ("unknown_parameter", ErrorClass::BadRequest),
            ("invalid_value", ErrorClass::BadRequest),
        ] {
            let kind = "invalid_request_error".to_owned();
            assert_eq!(
                classify(&ModelError { kind, code: code.into(), ..Default::default() }),
                class,
                "{code}"
            );
        }
    }

    #[test]
    fn a_type_decides_where_the_code_does_not() {
        let error = |kind: &str, code: &str| ModelError {
            kind: kind.into(),
            code: code.into(),
            ..Default::default()
        };
        assert_eq!(classify(&error("server_error", "")), ErrorClass::RetryResponse);
        assert_eq!(classify(&error("insufficient_quota", "new_code")), ErrorClass::Fatal);
        assert_eq!(classify(&error("invalid_request_error", "new_code")), ErrorClass::BadRequest);
        assert_eq!(classify(&error("", "")), ErrorClass::BadRequest);
    }

    #[test]
    fn a_truncation_beyond_the_audio_is_harmless_and_other_wrong_values_are_not() {
        let error = |param: &str| ModelError {
            code: "invalid_value".into(),
            param: Some(param.into()),
            ..Default::default()
        };
        assert_eq!(classify(&error("audio_end_ms")), ErrorClass::Benign);
        assert_eq!(classify(&error("session.voice")), ErrorClass::BadRequest);
    }
}
