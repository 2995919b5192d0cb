//! OpenAI Realtime (GA) JSON to and from the words of [`super::model`].
//!
//! Every model name, voice and transcription model is the user's text: they come and go.

mod decode;
#[cfg(test)]
mod decode_tests;
mod encode;
mod errors;

use std::fmt::Write as _;

use super::model::Capabilities;

pub use decode::{DecodeError, decode};
pub use encode::encode;
pub use errors::classify;

/// What an OpenAI Realtime session can do.
pub const CAPABILITIES: Capabilities =
    Capabilities { can_truncate: true, can_cancel: true, owns_turns: true, yields_turns: true };

/// Address of a session with this model. `base` may have a query of its own.
#[must_use]
pub fn url(base: &str, model: &str) -> String {
    let joint = if base.contains('?') { '&' } else { '?' };
    let mut url = format!("{base}{joint}model=");
    for byte in model.bytes() {
        // RFC 3986, section 2.3.
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(byte.into());
        } else {
            write!(url, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::url;

    #[test]
    fn the_address_names_the_model() {
        let base = "wss://api.openai.com/v1/realtime";
        assert_eq!(url(base, "gpt-realtime-2.1"), "wss://api.openai.com/v1/realtime?model=gpt-realtime-2.1");
        assert_eq!(
            url("ws://localhost:1/x?a=b", "my model/ü"),
            "ws://localhost:1/x?a=b&model=my%20model%2F%C3%BC"
        );
    }
}
