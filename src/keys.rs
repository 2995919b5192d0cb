//! Keys of the API: what one may do, and how its secret is made and known again. No storage, no HTTP.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// How every secret begins, so that it is known for one wherever it turns up.
const MARK: &str = "vb_";
/// Letters of a prefix after the mark.
const PREFIX_LETTERS: usize = 12;
/// Of what a prefix is made.
const LETTERS: [u8; 36] = *b"0123456789abcdefghijklmnopqrstuvwxyz";

/// What a key may do in its organisation.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// See records: calls, conversations, leads, campaigns, settings.
    Read,
    /// Say something of conversations.
    Review,
    /// Call people, steer live calls, change leads and campaigns.
    Operate,
    /// Everything in the organisation: settings, keys, privacy, the audit log.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Review, Self::Operate, Self::Admin];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Review => "review",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }

    /// The scope of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }

    /// True when whoever has this scope may do what the other one is needed for.
    #[must_use]
    pub fn includes(self, needed: Self) -> bool {
        self == needed || self == Self::Admin || needed == Self::Read
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The secret of a key. Only its hash is stored: it is shown once, when it is made.
#[derive(Debug)]
pub struct KeySecret(SecretString);

/// By what a secret is found and known again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPrint {
    /// How it begins; may be shown and logged.
    pub prefix: String,
    /// SHA-256 of the whole of it.
    pub sha256: [u8; 32],
}

impl KeySecret {
    /// A new one, with 256 bits of chance after its prefix.
    #[must_use]
    pub fn generate() -> Self {
        let letters: [u8; PREFIX_LETTERS] = rand::random();
        // A prefix need not be even, only rarely the same.
        let prefix = letters.map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
        let prefix: String = prefix.iter().collect();
        let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        Self(format!("{MARK}{prefix}_{secret}").into())
    }

    /// By what it is known again.
    #[must_use]
    pub fn print(&self) -> KeyPrint {
        KeyPrint::of(self.expose()).unwrap_or_else(|| unreachable!("a secret of ours is one"))
    }

    /// The secret, for whoever asked for it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl KeyPrint {
    /// Of a secret that somebody shows. `None`: it cannot be one of ours.
    #[must_use]
    pub fn of(shown: &str) -> Option<Self> {
        let (prefix, _) = shown.strip_prefix(MARK)?.split_once('_')?;
        let is_prefix = prefix.len() == PREFIX_LETTERS && prefix.bytes().all(|byte| LETTERS.contains(&byte));
        let sha256 = Sha256::digest(shown).into();
        is_prefix.then(|| Self { prefix: format!("{MARK}{prefix}"), sha256 })
    }

    /// Whether it is of the secret with this hash, compared in a time that tells nothing.
    #[must_use]
    pub fn matches(&self, sha256: &[u8]) -> bool {
        self.sha256.ct_eq(sha256).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_again_by_its_print_and_no_other_is() {
        let (one, other) = (KeySecret::generate(), KeySecret::generate());
        assert_eq!(KeyPrint::of(one.expose()), Some(one.print()));
        assert!(one.print().matches(&one.print().sha256));
        assert!(!one.print().matches(&other.print().sha256));
        assert!(one.expose().starts_with(&one.print().prefix));
        assert_ne!(one.expose(), other.expose());
        assert!(!format!("{one:?}").contains(one.expose()));
    }

    #[test]
    fn what_is_no_secret_of_ours_has_no_print() {
        for shown in ["", "vb_", "vb_short_x", "0123456789abcdef", "vb_ABCDEFGHIJKL_x", "vb_abcdefghijkl"] {
            assert_eq!(KeyPrint::of(shown), None, "{shown}");
        }
    }

    #[test]
    fn admin_includes_everything_and_everything_includes_read() {
        for scope in Scope::ALL {
            assert!(scope.includes(Scope::Read) && scope.includes(scope) && Scope::Admin.includes(scope));
            assert_eq!(Scope::parse(scope.as_str()), Some(scope));
        }
        assert!(!Scope::Read.includes(Scope::Review) && !Scope::Read.includes(Scope::Operate));
        assert!(!Scope::Review.includes(Scope::Operate) && !Scope::Operate.includes(Scope::Review));
        assert!(!Scope::Operate.includes(Scope::Admin) && !Scope::Review.includes(Scope::Admin));
        assert_eq!(Scope::parse("Read"), None);
    }
}
