//! The one-time secret in a stream's address: whoever shows it first is the stream we offered.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// A fresh secret. Only its digest is stored.
pub struct StreamToken(String);

impl StreamToken {
    /// 32 random bytes, as text that fits into a path.
    #[must_use]
    pub fn random() -> Self {
        Self(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
    }

    /// What somebody shows, or what was sealed.
    pub(super) fn shown(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The secret.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is stored of it.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        sha256(&self.0)
    }
}

impl fmt::Debug for StreamToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamToken(…)")
    }
}

/// What is stored of a token that somebody shows.
#[must_use]
pub fn sha256(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_fits_into_a_path_and_does_not_print() {
        let (one, other) = (StreamToken::random(), StreamToken::random());
        assert_eq!(one.expose().len(), 43);
        assert!(one.expose().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert_ne!(one.expose(), other.expose());
        assert_eq!(sha256(one.expose()), one.sha256());
        assert!(!format!("{one:?}").contains(one.expose()));
    }
}
