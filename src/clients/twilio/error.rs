//! What it means that a request failed.

use reqwest::StatusCode;
use serde::Deserialize;

/// Why a request to Twilio did not do what it was for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestError {
    /// Twilio has done nothing: it did not hear us, has no time for us, or does not know our account. The same request may
    /// succeed later.
    #[error("the carrier did not process the request: {what}")]
    NotProcessed {
        /// What happened.
        what: String,
        /// HTTP status, where there was an answer.
        status: Option<u16>,
        /// Somebody has to put account, token or balance right before anything will succeed.
        about_account: bool,
    },
    /// Twilio has done nothing, because it does not let us call from that number. Somebody has to put that right.
    #[error("the carrier did not process the request: {what}")]
    OwnNumber {
        /// What happened, and what to do.
        what: String,
    },
    /// Twilio has done nothing, and would not do this later.
    #[error("the carrier refused: {}", explain(*.status, *.code, .message))]
    Refused {
        /// HTTP status, 400 to 499.
        status: u16,
        /// Twilio's code of the error, where it gave one.
        code: Option<u32>,
        /// Twilio's words, without telephone numbers.
        message: String,
    },
    /// Nobody knows: the request may have been heard, and done.
    #[error("the carrier may or may not have processed the request: {what}")]
    Unknown {
        /// What happened.
        what: String,
        /// HTTP status, where there was an answer.
        status: Option<u16>,
    },
}

/// The body of a refusal.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Body {
    code: Option<u32>,
    message: String,
}

impl RestError {
    /// No answer came, or not all of it.
    pub(super) fn unsent(error: &reqwest::Error) -> Self {
        // Addresses cannot be resolved, the connection or its encryption not be made: nothing was sent yet.
        if error.is_connect() || error.is_builder() {
            return Self::NotProcessed { what: cause(error), status: None, about_account: false };
        }
        let what = if error.is_timeout() { "no answer in time".to_owned() } else { cause(error) };
        Self::Unknown { what, status: None }
    }

    /// An answer that is not good.
    pub(super) fn answered(status: StatusCode, body: &[u8]) -> Self {
        let Body { code, message } = serde_json::from_slice(body).unwrap_or_default();
        let message = without_numbers(&message);
        let told = match code {
            Some(code) => format!("{} ({code})", status.as_u16()),
            None => status.as_u16().to_string(),
        };
        let answer = Some(status.as_u16());
        match (status.as_u16(), code) {
            (429, _) | (_, Some(20429 | 22005)) => Self::NotProcessed {
                what: format!("too many requests, {told}"),
                status: answer,
                about_account: false,
            },
            // About the account, not about this call: the next one would fare the same.
            (401 | 402, _) | (_, Some(20003 | 20005 | 20006)) => {
                let what = format!(
                    "account or token is not accepted, {told}: check TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN"
                );
                Self::NotProcessed { what, status: answer, about_account: true }
            }
            // A proxy on the way may have given up waiting.
            (408 | 499, _) => Self::Unknown { what: told, status: answer },
            (400..=499, _) => Self::Refused { status: status.as_u16(), code, message },
            _ => Self::Unknown { what: format!("answer {told}"), status: answer },
        }
    }

    /// What a refusal to create a call means that is not about who is called: the next call would fare the same, and nobody
    /// called can do anything about it.
    pub(super) fn of_create(self) -> Self {
        let what = self.explanation();
        match self {
            Self::Refused { code: Some(21210 | 21212 | 21213 | 21606), .. } => Self::OwnNumber { what },
            Self::Refused { code: Some(21205 | 21609), status, .. } => {
                Self::NotProcessed { what, status: Some(status), about_account: true }
            }
            Self::Refused { status: status @ 404, .. } | Self::Refused { code: Some(20404), status, .. } => {
                let what = format!("{what}: Twilio does not know the account; check TWILIO_ACCOUNT_SID");
                Self::NotProcessed { what, status: Some(status), about_account: true }
            }
            // Twilio's refusals have a code: this one is of something on the way, whoever is called.
            Self::Refused { code: None, status, .. } => {
                let what = format!(
                    "{what}: not an answer of Twilio's; check TWILIO_API_URL and the proxies on the way"
                );
                Self::NotProcessed { what, status: Some(status), about_account: true }
            }
            error => error,
        }
    }

    /// True for an update or a look-up of a call that is over, or that Twilio does not know.
    // Which of the two codes a finished call gives is not documented.
    #[must_use]
    pub const fn is_call_over(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. } | Self::Refused { code: Some(20404 | 21220), .. })
    }

    /// Why it was refused, in a sentence that says what to do; for other errors what happened.
    #[must_use]
    pub fn explanation(&self) -> String {
        match self {
            Self::Refused { status, code, message } => explain(*status, *code, message),
            Self::NotProcessed { what, .. } | Self::OwnNumber { what } | Self::Unknown { what, .. } => {
                what.clone()
            }
        }
    }
}

// https://www.twilio.com/docs/api/errors
fn explain(status: u16, code: Option<u32>, message: &str) -> String {
    let known = match code {
        Some(20404) => "there is no such account or call",
        Some(21201 | 21211) => "the called number is not a telephone number that can be dialed; correct it",
        Some(21203 | 21215 | 13227) => {
            "the account may not call this country; permit it in Twilio's console (Voice, Geo permissions)"
        }
        Some(21205 | 21609) => "Twilio cannot use our address for TwiML or callbacks; check PUBLIC_URL",
        Some(21210 | 21212 | 21213 | 21606) => {
            "the number we call from is not one of this account; check the phone number"
        }
        Some(21214 | 21217) => "the called number cannot be reached",
        Some(21216) => "the called number is blocked at Twilio",
        Some(21219 | 21608) => {
            "a trial account may call verified numbers only; verify it or upgrade the account"
        }
        Some(21220) => "the call is over",
        _ => "",
    };
    let code = code.map_or_else(|| format!("status {status}"), |code| format!("error {code}"));
    match (known, message) {
        ("", "") => format!("Twilio {code}"),
        ("", message) => format!("Twilio {code}: {message}"),
        (known, _) => format!("Twilio {code}: {known}"),
    }
}

/// The innermost reason, without the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Twilio quotes the numbers of a call. What is at least seven digits long is left out.
fn without_numbers(text: &str) -> String {
    const SHORTEST: usize = 7;
    let mut kept = String::with_capacity(text.len());
    let mut digits = String::new();
    for c in text.chars().chain(['\0']) {
        if c.is_ascii_digit() || (c == '+' && digits.is_empty()) {
            digits.push(c);
            continue;
        }
        kept.push_str(if digits.len() >= SHORTEST { "…" } else { &digits });
        digits.clear();
        if c != '\0' {
            kept.push(c);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telephone_numbers_are_left_out_of_what_twilio_says() {
        assert_eq!(
            without_numbers("The number +14155550123 is bad (+1), see 21211"),
            "The number … is bad (+1), see 21211"
        );
        assert_eq!(without_numbers("14155550123"), "…");
        assert_eq!(without_numbers(""), "");
    }
}
