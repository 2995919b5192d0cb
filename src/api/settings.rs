//! What the HTTP surface needs to know before it can serve.

use std::fmt;

use axum::http::HeaderValue;
use secrecy::SecretString;

/// Settings of the HTTP surface.
#[derive(Debug)]
pub struct Settings {
    /// Where the outside world, Twilio above all, finds us.
    pub public_url: PublicUrl,
    /// Tokens Twilio may have signed with. Without any, signatures are not checked; the configuration allows that on
    /// a loopback address only.
    pub twilio_auth_tokens: Vec<SecretString>,
    /// What VAPI may show with its reports. Without any, none is taken.
    pub vapi_webhook_secrets: Vec<SecretString>,
    /// The key for everything that is neither a webhook nor a health check.
    pub admin_key: SecretString,
    /// `/metrics` answers without a key: right when only this machine can ask.
    pub open_metrics: bool,
    /// Origins whose pages may ask us from a browser; none by default.
    pub cors_origins: Vec<HeaderValue>,
    /// How many calls may be live at once.
    pub max_calls: usize,
    /// Name of this process among those that share the database.
    pub node: String,
}

/// The origin the outside world reaches us at, such as `https://voice.example.com`. No path, no trailing slash.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicUrl(String);

/// Why a text is not a [`PublicUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublicUrl {
    /// Another scheme, or none.
    #[error("must begin with https:// (http:// does for trying things out on one machine)")]
    Scheme,
    /// Not a URL.
    #[error("is not a URL such as https://voice.example.com")]
    Unreadable,
    /// User name or password in it.
    #[error("must not contain a user name or password")]
    Credentials,
    /// More than an origin.
    #[error("must be only scheme, host and port: no path, query or fragment")]
    NotAnOrigin,
    /// Twilio refuses such names.
    #[error("has an underscore in its host name, which Twilio refuses")]
    Underscore,
}

impl PublicUrl {
    /// Parses an origin. Its spelling is kept, because Twilio signs the URL as it is spelled.
    pub fn parse(text: &str) -> Result<Self, InvalidPublicUrl> {
        if !text.starts_with("https://") && !text.starts_with("http://") {
            return Err(InvalidPublicUrl::Scheme);
        }
        let url: reqwest::Url = text.parse().map_err(|_| InvalidPublicUrl::Unreadable)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidPublicUrl::Credentials);
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidPublicUrl::NotAnOrigin);
        }
        if url.host_str().is_none_or(|host| host.contains('_')) {
            return Err(InvalidPublicUrl::Underscore);
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }

    /// The origin.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The URL of a path (with its query, if any) that begins with `/`.
    #[must_use]
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    /// The WebSocket URL of a path that begins with `/`: `wss` for `https`, `ws` for `http`.
    #[must_use]
    pub fn join_websocket(&self, path: &str) -> String {
        let rest = self.0.strip_prefix("http").unwrap_or(&self.0);
        format!("ws{rest}{path}")
    }

    /// True when Twilio can use it: it connects media streams over TLS only.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.0.starts_with("https://")
    }
}

impl fmt::Debug for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_an_origin_in_the_spelling_given() {
        let url = PublicUrl::parse("https://Voice.example.com:8443/").unwrap();
        assert_eq!(url.as_str(), "https://Voice.example.com:8443");
        assert_eq!(url.join("/a?b=c"), "https://Voice.example.com:8443/a?b=c");
        assert_eq!(url.join_websocket("/media-stream"), "wss://Voice.example.com:8443/media-stream");
        assert!(url.is_secure());
        let local = PublicUrl::parse("http://127.0.0.1:8080").unwrap();
        assert_eq!(local.join_websocket("/x"), "ws://127.0.0.1:8080/x");
        assert!(!local.is_secure());
    }

    #[test]
    fn what_is_no_origin_is_refused_with_its_reason() {
        for (text, reason) in [
            ("voice.example.com", InvalidPublicUrl::Scheme),
            ("wss://voice.example.com", InvalidPublicUrl::Scheme),
            ("https://", InvalidPublicUrl::Unreadable),
            ("https://user:secret@voice.example.com", InvalidPublicUrl::Credentials),
            ("https://voice.example.com/bridge", InvalidPublicUrl::NotAnOrigin),
            ("https://voice.example.com/?a=b", InvalidPublicUrl::NotAnOrigin),
            ("https://voice.example.com/#a", InvalidPublicUrl::NotAnOrigin),
            ("https://my_voice.example.com", InvalidPublicUrl::Underscore),
        ] {
            assert_eq!(PublicUrl::parse(text), Err(reason), "{text}");
        }
    }
}
