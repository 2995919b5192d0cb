//! Signatures after the Standard Webhooks specification, so that receivers can check them with what they have.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// What secrets begin with.
const PREFIX: &str = "whsec_";
/// Bytes of a secret.
// The specification: 24 to 64 bytes.
const SECRET_BYTES: usize = 32;

/// A secret that nobody else has: `whsec_` and 32 random bytes in base64.
#[must_use]
pub fn new_secret() -> SecretString {
    SecretString::from(format!("{PREFIX}{}", STANDARD.encode(rand::random::<[u8; SECRET_BYTES]>())))
}

/// The header `webhook-signature`: one `v1,…` for each secret, with a space between. A secret that cannot be read signs
/// nothing.
#[must_use]
pub fn signature(secrets: &[SecretString], id: &str, timestamp: i64, body: &str) -> String {
    let mut signatures = String::new();
    for secret in secrets {
        let Ok(key) = STANDARD.decode(secret.expose_secret().trim_start_matches(PREFIX)) else { continue };
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key) else { continue };
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body.as_bytes());
        signatures.push_str(if signatures.is_empty() { "v1," } else { " v1," });
        signatures.push_str(&STANDARD.encode(mac.finalize().into_bytes()));
    }
    signatures
}

#[cfg(test)]
mod tests {
    use super::*;

    // The vector of the reference libraries of the specification (standard-webhooks/standard-webhooks, test of `sign`).
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SIGNED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn the_published_vector_is_signed_as_published() {
        let secrets = [SecretString::from(SECRET)];
        assert_eq!(signature(&secrets, ID, 1_614_265_330, "{\"test\": 2432232314}"), SIGNED);
    }

    #[test]
    fn while_a_secret_is_replaced_both_sign() {
        let secrets = [new_secret(), SecretString::from(SECRET)];
        let both = signature(&secrets, ID, 1_614_265_330, "{\"test\": 2432232314}");
        let (new, old) = both.split_once(' ').unwrap();
        assert_eq!(old, SIGNED);
        assert!(new.starts_with("v1,") && new != old);
    }

    #[test]
    fn secrets_are_long_enough_and_no_two_are_the_same() {
        let (one, other) = (new_secret(), new_secret());
        let bytes = STANDARD.decode(one.expose_secret().strip_prefix("whsec_").unwrap()).unwrap();
        assert!((24..=64).contains(&bytes.len()));
        assert_ne!(one.expose_secret(), other.expose_secret());
    }
}
