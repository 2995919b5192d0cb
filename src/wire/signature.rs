//! `X-Twilio-Signature`: is this request from Twilio?
//!
//! Signed is the URL as Twilio knows it, so it is built from the configured public address and never from headers.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Why a request is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// No signature at all.
    #[error("the request is not signed")]
    Unsigned,
    /// Signed with another token or for another URL or content.
    #[error("the signature does not match")]
    Mismatch,
    /// The body is not the one whose hash was signed, or no hash was.
    #[error("the body does not match its signed hash")]
    Body,
}

/// Checks signatures of requests to one public address.
pub struct Validator {
    tokens: Vec<SecretString>,
    /// Without a slash at the end.
    public_url: String,
}

impl Validator {
    /// `tokens` are the auth tokens that may have signed; `public_url` is what Twilio sees of us, such as
    /// `https://bridge.example`.
    #[must_use]
    pub fn new(tokens: Vec<SecretString>, public_url: &str) -> Self {
        Self { tokens, public_url: public_url.trim_end_matches('/').to_owned() }
    }

    /// A form that was posted. `params` are its fields, decoded and otherwise untouched, in any order.
    pub fn check_form<K: AsRef<str>, V: AsRef<str>>(
        &self,
        path_and_query: &str,
        params: &[(K, V)],
        signature: Option<&str>,
    ) -> Result<(), Rejected> {
        let url = format!("{}{path_and_query}", self.public_url);
        self.check(&candidates(&url), &sorted(params), signature)
    }

    /// A GET request: its parameters are in the query already.
    pub fn check_get(&self, path_and_query: &str, signature: Option<&str>) -> Result<(), Rejected> {
        self.check_form::<&str, &str>(path_and_query, &[], signature)
    }

    /// A JSON body, vouched for by the `bodySHA256` of the query. `body` is as it came.
    pub fn check_json(
        &self,
        path_and_query: &str,
        body: &[u8],
        signature: Option<&str>,
    ) -> Result<(), Rejected> {
        self.check_get(path_and_query, signature)?;
        let query = path_and_query.split_once('?').map_or("", |(_, query)| query);
        let hash =
            query.split('&').find_map(|member| member.strip_prefix("bodySHA256=")).ok_or(Rejected::Body)?;
        let actual = Sha256::digest(body).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        if actual.as_bytes().ct_eq(hash.as_bytes()).into() { Ok(()) } else { Err(Rejected::Body) }
    }

    /// The handshake of a media stream, whose URL in the TwiML begins with `wss` where ours begins with `https`.
    pub fn check_websocket(&self, path_and_query: &str, signature: Option<&str>) -> Result<(), Rejected> {
        // http becomes ws, https becomes wss.
        let origin = match self.public_url.strip_prefix("http") {
            Some(rest) => format!("ws{rest}"),
            None => self.public_url.clone(),
        };
        self.check(&candidates(&format!("{origin}{path_and_query}")), &[], signature)
    }

    /// Tries all URLs with all tokens, in a time that does not tell which came close.
    fn check(
        &self,
        urls: &[String],
        params: &[(&str, &str)],
        signature: Option<&str>,
    ) -> Result<(), Rejected> {
        let signature = signature.ok_or(Rejected::Unsigned)?;
        let mut matches = Choice::from(0);
        for token in &self.tokens {
            for url in urls {
                matches |=
                    sign_sorted(token.expose_secret(), url, params).as_bytes().ct_eq(signature.as_bytes());
            }
        }
        if matches.into() { Ok(()) } else { Err(Rejected::Mismatch) }
    }
}

impl fmt::Debug for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validator").field("public_url", &self.public_url).finish_non_exhaustive()
    }
}

/// The signature Twilio sends with a request to `url`. `params` are the decoded fields of a posted form, in any order;
/// none for everything else.
#[must_use]
pub fn sign<K: AsRef<str>, V: AsRef<str>>(token: &str, url: &str, params: &[(K, V)]) -> String {
    sign_sorted(token, url, &sorted(params))
}

/// By name, byte by byte, then by value; a value that is repeated under its name counts once.
fn sorted<K: AsRef<str>, V: AsRef<str>>(params: &[(K, V)]) -> Vec<(&str, &str)> {
    let mut params: Vec<_> = params.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
    params.sort_unstable();
    params.dedup();
    params
}

fn sign_sorted(token: &str, url: &str, params: &[(&str, &str)]) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(token.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(url.as_bytes());
    for (name, value) in params {
        mac.update(name.as_bytes());
        mac.update(value.as_bytes());
    }
    STANDARD.encode(mac.finalize().into_bytes())
}

/// The spellings under which Twilio may have signed `url`: the raw one first.
// Twilio dossier, 4.4 and 4.5: voice over HTTPS drops the port and HTTP keeps it, both were seen otherwise; a stream's
// URL may gain or lose a slash at its end; some senders escape the apostrophe of a query.
fn candidates(url: &str) -> Vec<String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let standard_port = if matches!(scheme, "https" | "wss") { "443" } else { "80" };
    let (host, port) = split_port(authority);
    let port = port.unwrap_or(standard_port);

    let mut paths = vec![path.to_owned()];
    if scheme.starts_with("ws") {
        paths.push(format!("{path}/"));
        paths.extend(path.strip_suffix('/').map(str::to_owned));
    }
    if let Some((before, query)) = path.split_once('?').filter(|(_, query)| query.contains('\'')) {
        paths.push(format!("{before}?{}", query.replace('\'', "%27")));
    }

    let mut urls: Vec<String> = Vec::new();
    for path in &paths {
        for authority in [authority, host, &format!("{host}:{port}")] {
            let url = format!("{scheme}://{authority}{path}");
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
    }
    urls
}

/// The port of `user:password@host:port`. The host may be an IPv6 address in brackets.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host, Some(port))
        }
        _ => (authority, None),
    }
}
