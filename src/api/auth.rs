//! Who may ask: the API key.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::api::Api;
use crate::api::error::ApiError;

/// Header that holds a key, for clients that cannot send `Authorization`.
const API_KEY: &str = "x-api-key";

/// Lets a request through that shows the key.
pub async fn require_key(State(api): State<Api>, request: Request, next: Next) -> Response {
    let known = api.settings.admin_key.expose_secret();
    match shown_key(request.headers()) {
        Some(shown) if is_same(shown, known) => next.run(request).await,
        _ => ApiError::unauthorized().into_response(),
    }
}

/// As [`require_key`], unless the numbers may be read by everybody who can reach us.
pub async fn require_key_for_metrics(State(api): State<Api>, request: Request, next: Next) -> Response {
    if api.settings.open_metrics {
        return next.run(request).await;
    }
    require_key(State(api), request, next).await
}

fn shown_key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| headers.get(API_KEY)?.to_str().ok())
}

/// Compares in a time that tells neither length nor likeness.
fn is_same(shown: &str, known: &str) -> bool {
    Sha256::digest(shown).ct_eq(&Sha256::digest(known)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_either_header() {
        let headers = |name: &'static str, value: &str| {
            HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
        };
        assert_eq!(shown_key(&headers("authorization", "Bearer abc")), Some("abc"));
        assert_eq!(shown_key(&headers("authorization", "bearer  abc ")), Some("abc"));
        assert_eq!(shown_key(&headers("x-api-key", "abc")), Some("abc"));
        assert_eq!(shown_key(&headers("authorization", "Basic abc")), None);
        assert_eq!(shown_key(&HeaderMap::new()), None);
    }

    #[test]
    fn only_the_whole_key_is_the_key() {
        assert!(is_same("0123456789abcdef", "0123456789abcdef"));
        for wrong in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF"] {
            assert!(!is_same(wrong, "0123456789abcdef"), "{wrong}");
        }
    }
}
