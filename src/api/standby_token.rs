//! The secret in the address of a stream that is offered while the database is away: it says all that another node has to
//! know to take the stream.
//!
//! It is made with a key that all nodes derive from the token they share with Twilio. Sealed and not only signed, because
//! it names the caller and stands in a URL, which balancers write to their logs.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::api::settings::PublicUrl;
use crate::api::stream_token::StreamToken;
use crate::ids::{AgentId, CallSid, OrganizationId, PhoneNumberId};
use crate::store::standby::LateOffer;

/// What the key is for; another form of the content gets another name.
const PURPOSE: &str = "voicebridge standby stream 1";
/// A usual one is 400 characters. Longer URLs than a thousand are asking for trouble on their way.
const LONGEST: usize = 900;

/// What is promised to a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Promise {
    #[serde(rename = "c")]
    pub(super) call_sid: CallSid,
    #[serde(rename = "o")]
    pub(super) organization: OrganizationId,
    #[serde(rename = "a")]
    pub(super) agent: AgentId,
    #[serde(rename = "n")]
    pub(super) phone_number: Option<PhoneNumberId>,
    #[serde(rename = "d")]
    pub(super) direction: Option<String>,
    #[serde(rename = "f")]
    pub(super) from: Option<String>,
    #[serde(rename = "t")]
    pub(super) to: Option<String>,
    #[serde(rename = "at")]
    pub(super) offered_at: Timestamp,
}

impl Promise {
    /// The same as an offer to whoever shows `token`.
    pub(super) fn offer(&self, token: &StreamToken, node: &str) -> LateOffer {
        LateOffer {
            call_sid: self.call_sid.clone(),
            organization: self.organization,
            agent: self.agent,
            direction: self.direction.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            token_sha256: token.sha256(),
            node: node.to_owned(),
            offered_at: self.offered_at,
            claimed_at: None,
        }
    }
}

/// Makes and reads such secrets: those of this deployment alone.
pub(super) struct Seal {
    /// The first one makes, all read.
    keys: Vec<LessSafeKey>,
}

impl Seal {
    /// A key of each of the tokens that are shared with Twilio, for one public address: several deployments may have an
    /// account in common.
    pub(super) fn new(twilio_auth_tokens: &[SecretString], public_url: &PublicUrl) -> Self {
        let key = |token: &SecretString| {
            let mut mac = Hmac::<Sha256>::new_from_slice(token.expose_secret().as_bytes())
                .expect("HMAC takes keys of any length");
            mac.update(format!("{PURPOSE}\n{}", public_url.as_str()).as_bytes());
            let key = UnboundKey::new(&CHACHA20_POLY1305, &mac.finalize().into_bytes());
            LessSafeKey::new(key.expect("both are 32 bytes"))
        };
        Self { keys: twilio_auth_tokens.iter().map(key).collect() }
    }

    /// A fresh secret. `None`: there is no key, or too much to say.
    pub(super) fn seal(&self, promise: &Promise) -> Option<StreamToken> {
        let key = self.keys.first()?;
        // Twelve random bytes do not meet again within billions of calls.
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut sealed = serde_json::to_vec(promise).ok()?;
        let tag =
            key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed);
        let token = URL_SAFE_NO_PAD.encode([&nonce[..], &sealed, tag.ok()?.as_ref()].concat());
        (token.len() <= LONGEST).then(|| StreamToken::shown(&token))
    }

    /// What was promised. `None`: it was not made with a key of ours, or is another kind of token.
    pub(super) fn open(&self, token: &StreamToken) -> Option<Promise> {
        let text = token.expose();
        let bytes = (text.len() <= LONGEST).then(|| URL_SAFE_NO_PAD.decode(text).ok())??;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        self.keys.iter().find_map(|key| {
            let mut sealed = sealed.to_vec();
            let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut sealed);
            serde_json::from_slice(opened.ok()?).ok()
        })
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn seal(tokens: &[&str]) -> Seal {
        seal_at("https://voice.example.com", tokens)
    }

    fn seal_at(url: &str, tokens: &[&str]) -> Seal {
        let tokens: Vec<SecretString> = tokens.iter().map(|token| SecretString::from(*token)).collect();
        Seal::new(&tokens, &PublicUrl::parse(url).unwrap())
    }

    fn promise() -> Promise {
        Promise {
            call_sid: CallSid::parse("CA00000000000000000000000000000001").unwrap(),
            organization: OrganizationId(Uuid::from_u128(1)),
            agent: AgentId(Uuid::from_u128(2)),
            phone_number: Some(PhoneNumberId(Uuid::from_u128(3))),
            direction: Some("inbound".into()),
            from: Some("+14155550123".into()),
            to: Some("+14155550100".into()),
            offered_at: "2026-01-02T03:04:05.678901Z".parse().unwrap(),
        }
    }

    #[test]
    fn a_secret_tells_any_node_with_the_same_token_what_was_promised() {
        let token = seal(&["12345"]).seal(&promise()).unwrap();
        for tokens in [&["12345"][..], &["fresh", "12345"]] {
            assert_eq!(seal(tokens).open(&token), Some(promise()), "{tokens:?}");
        }
        assert_ne!(
            seal(&["12345"]).seal(&promise()).unwrap().sha256(),
            token.sha256(),
            "each is another one"
        );
    }

    #[test]
    fn a_secret_of_another_key_or_address_or_changed_in_one_bit_tells_nothing() {
        let token = seal(&["12345"]).seal(&promise()).unwrap();
        assert_eq!(seal(&["54321"]).open(&token), None);
        assert_eq!(seal(&[]).open(&token), None);
        assert_eq!(seal_at("https://staging.example.com", &["12345"]).open(&token), None);
        let bytes = URL_SAFE_NO_PAD.decode(token.expose()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = StreamToken::shown(&URL_SAFE_NO_PAD.encode(changed));
            assert_eq!(seal(&["12345"]).open(&changed), None, "bit {bit}");
        }
        for odd in ["", "x", "%", &token.expose()[..16], &"A".repeat(5_000)] {
            assert_eq!(seal(&["12345"]).open(&StreamToken::shown(odd)), None, "{odd}");
        }
        assert_eq!(seal(&["12345"]).open(&StreamToken::random()), None);
    }

    #[test]
    fn a_secret_fits_into_a_path_and_shows_nobody_who_calls() {
        let seal = seal(&["12345"]);
        let token = seal.seal(&promise()).unwrap();
        let text = token.expose();
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{text}");
        assert!(text.len() < 480, "{} characters", text.len());
        let bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"555012"));
        let wordy = Promise { from: Some(format!("sip:{}@example.com", "x".repeat(600))), ..promise() };
        assert!(seal.seal(&wordy).is_none(), "what does not fit is for the node alone that was asked");
        assert!(!format!("{seal:?}").contains("12345"));
    }
}
