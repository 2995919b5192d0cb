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

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "https://mycompany.com";
    const PATH: &str = "/myapp.php?foo=1&bar=2";
    const CALL: &[(&str, &str)] = &[
        ("CallSid", "CA1234567890ABCDE"),
        ("Caller", "+14158675309"),
        ("Digits", "1234"),
        ("From", "+14158675309"),
        ("To", "+18005551212"),
    ];
    const CALL_SIGNATURE: &str = "RSOYDt4T1cUTdK1PDd93/VVr8B8=";
    const BODY: &str = r#"{"property": "value", "boolean": true}"#;
    const BODY_HASH: &str = "0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620";
    const EMPTY_HASH: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    // Published with Twilio's helper libraries and documentation; numbers as in the Twilio dossier, 4.6.
    #[test]
    fn the_published_signatures_of_forms_are_accepted() {
        let with = |more: &[(&'static str, &'static str)]| [CALL, more].concat();
        let participant = with(&[("ReasonConferenceEnded", "test"), ("Reason", "Participant")]);
        let mut docs = CALL.to_vec();
        docs[1].1 = "+14158675310";
        docs[3].1 = "+14158675310";
        let digits = &[
            ("Sid", "CA123"),
            ("SidAccount", "AC123"),
            ("Digits", "5678"),
            ("Digits", "1234"),
            ("Digits", "1234"),
        ];
        let address =
            &[("MessagingBinding.Address", "+1325xxxxxxx"), ("MessagingBinding.Address", "+1415xxxxxxx")];
        let reversed = &[address[1], address[0]];
        for (number, origin, params, signature) in [
            (1, ORIGIN, CALL, CALL_SIGNATURE),
            (2, "https://mycompany.com:1234", CALL, CALL_SIGNATURE),
            (3, ORIGIN, CALL, "kvajT1Ptam85bY51eRf/AJRuM3w="),
            (4, "http://mycompany.com:1234", CALL, "Zmvh+3yNM1Phv2jhDCwEM3q5ebU="),
            (5, "http://mycompany.com", CALL, "0ZXoZLH/DfblKGATFgpif+LLRf4="),
            (6, ORIGIN, digits, "IK+Dwps556ElfBT0I3Rgjkr1wJU="),
            (7, ORIGIN, address, "83O6e2vORAoJHUNzJjDWN1jz+BA="),
            (7, ORIGIN, reversed, "83O6e2vORAoJHUNzJjDWN1jz+BA="),
            (11, "https://user:pass@mycompany.com", CALL, "CukzLTc1tT5dXEDIHm/tKBanW10="),
            (12, "https://user:pass@mycompany.com", CALL, "ZQFR1PTIZXF2MXB8ZnKCvnnA+rI="),
            (13, "https://user@mycompany.com", CALL, "2YRLlVAflCqxaNicjMpJcSTgzSs="),
            (13, "https://user@mycompany.com", CALL, "aZfj4hyX1MLZhSS6QIL18Vn2/RA="),
            (15, ORIGIN, &participant, "vOEb5UThFn24KEfnOFLQY2AE5FY="),
            (16, "http://mycompany.com", &participant, "n2xBNyzSW7rfYStDtOFiFMv7qNo="),
            (17, ORIGIN, &[("property", "value"), ("boolean", "true")], "NBdBDr/T/lgjI+tlgpXjKZQZs/k="),
            (18, "https://example.com", &docs, "L/OH5YylLD5NRKLltdqwSvS0BnU="),
        ] {
            assert_eq!(
                validator(origin).check_form(PATH, params, Some(signature)),
                Ok(()),
                "vector {number}"
            );
        }
    }

    #[test]
    fn the_published_signature_over_an_escaped_apostrophe_is_accepted() {
        let path = format!("{PATH}&Body=It's+amazing");
        let signature = "TfZzewPq8wqrGlMfyAud8+/IvJ0=";
        assert_eq!(validator(ORIGIN).check_form(&path, CALL, Some(signature)), Ok(()));
    }

    #[test]
    fn the_published_signatures_of_json_are_accepted() {
        for (path, body, signature) in [
            (format!("{PATH}&bodySHA256={BODY_HASH}"), BODY, "a9nBmqA0ju/hNViExpshrM61xv4="),
            (format!("/myapp.php?bodySHA256={BODY_HASH}"), BODY, "y77kIzt2vzLz71DgmJGsen2scGs="),
            (format!("{PATH}&bodySHA256={EMPTY_HASH}"), "{}", "Ldidvp12m26NI7eqEvxnEpkd9Hc="),
        ] {
            assert_eq!(
                validator(ORIGIN).check_json(&path, body.as_bytes(), Some(signature)),
                Ok(()),
                "{path}"
            );
        }
    }

    #[test]
    fn json_needs_the_signed_hash_of_its_body() {
        let path = format!("{PATH}&bodySHA256={BODY_HASH}");
        let signature = Some("a9nBmqA0ju/hNViExpshrM61xv4=");
        let validator = validator(ORIGIN);
        assert_eq!(validator.check_json(&path, b"{}", signature), Err(Rejected::Body));
        let unhashed = sign_plain(&format!("{ORIGIN}{PATH}"));
        assert_eq!(validator.check_json(PATH, BODY.as_bytes(), Some(&unhashed)), Err(Rejected::Body));
        assert_eq!(
            validator.check_json(PATH, BODY.as_bytes(), Some(CALL_SIGNATURE)),
            Err(Rejected::Mismatch)
        );
    }

    #[test]
    fn another_url_content_token_or_nothing_is_rejected() {
        let check = |path: &str, params: &[(&str, &str)], signature| {
            validator(ORIGIN).check_form(path, params, signature)
        };
        let signature = Some(CALL_SIGNATURE);
        assert_eq!(check(PATH, CALL, None), Err(Rejected::Unsigned));
        assert_eq!(check(PATH, CALL, Some("")), Err(Rejected::Mismatch));
        assert_eq!(
            check(&format!("{PATH}&somethingUnexpected=true"), CALL, signature),
            Err(Rejected::Mismatch)
        );
        assert_eq!(check(PATH, &CALL[1..], signature), Err(Rejected::Mismatch));
        // Names are ordered byte by byte; this is what another order would give.
        let participant = [CALL, &[("Reason", "Participant"), ("ReasonConferenceEnded", "test")]].concat();
        assert_eq!(check(PATH, &participant, Some("95+Bu0JVPi0r/SsESZCVf0dWAjw=")), Err(Rejected::Mismatch));
        // Over plain HTTP the port belongs to the URL.
        let http = validator("http://mycompany.com:1234").check_form(
            PATH,
            CALL,
            Some("0ZXoZLH/DfblKGATFgpif+LLRf4="),
        );
        assert_eq!(http, Err(Rejected::Mismatch));
        let other = Validator::new(vec!["54321".into()], ORIGIN);
        assert_eq!(other.check_form(PATH, CALL, signature), Err(Rejected::Mismatch));
        assert_eq!(Validator::new(vec![], ORIGIN).check_form(PATH, CALL, signature), Err(Rejected::Mismatch));
    }

    #[test]
    fn any_of_several_tokens_may_have_signed() {
        let validator = Validator::new(vec!["54321".into(), "12345".into()], "https://mycompany.com/");
        assert_eq!(validator.check_form(PATH, CALL, Some(CALL_SIGNATURE)), Ok(()));
    }

    #[test]
    fn a_stream_is_signed_under_its_wss_address_with_or_without_slash_and_port() {
        let check = |origin: &str, path: &str, signed: &str| {
            validator(origin).check_websocket(path, Some(&sign_plain(signed))).is_ok()
        };
        for signed in [
            "wss://example.com/media",
            "wss://example.com/media/",
            "wss://example.com:443/media",
            "wss://example.com:443/media/",
        ] {
            assert!(check("https://example.com", "/media", signed), "{signed}");
            assert!(check("https://example.com", "/media/", signed), "{signed}");
        }
        assert!(check("https://example.com:8443", "/media", "wss://example.com:8443/media"));
        assert!(check("https://example.com:8443", "/media", "wss://example.com/media"));
        assert!(check("http://127.0.0.1:8080", "/media", "ws://127.0.0.1:8080/media"));
        assert!(check("http://[::1]:8080", "/media", "ws://[::1]:8080/media"));
        assert!(!check("https://example.com", "/media", "https://example.com/media"));
        assert!(!check("https://example.com", "/media", "wss://example.com/other"));
        assert!(!check("https://example.com", "/media", "wss://example.com:80/media"));
        assert_eq!(validator("https://example.com").check_websocket("/media", None), Err(Rejected::Unsigned));
    }

    // Ours, not published: they only say that nothing has changed.
    #[test]
    fn signatures_stay_what_they_were() {
        for (url, signature) in [
            ("wss://example.com/media", "7PR3qMkpDyEJtMrVOY/LDyNq8J8="),
            ("wss://example.com/media/", "T+WBXwUXC0/CyoZ1DA+p9ilZORs="),
            ("wss://example.com:443/media", "zyyJQiPZXIGCLy3HYdHEfry0yDg="),
            ("wss://example.com:8443/media", "zIjoqZ3nlEc7ZXcQZKHvFkTIEFQ="),
            ("https://example.com/media", "6HZQ7Cq/dSYDCAiy3qRA6PZfACI="),
            (
                "https://example.com/voice/incoming?CallSid=CA1234567890ABCDE&From=%2B14158675309",
                "nRdIZZOFrX/eDEt78bwh5O/0nAM=",
            ),
        ] {
            assert_eq!(sign_plain(url), signature, "{url}");
        }
        let url = "https://example.com/voice/incoming";
        assert_eq!(sign("12345", url, CALL), "6dFUXAvCSaf5Jcnnkr13miwQvLg=");
        let odd = [("CallSid", "CA1"), ("Digits", ""), ("From", "+1 415")];
        assert_eq!(sign("12345", url, &odd), "E3snAPw7wln7cpzKgNt2W7MalbA=");
        let get = "/voice/incoming?CallSid=CA1234567890ABCDE&From=%2B14158675309";
        assert_eq!(
            validator("https://example.com").check_get(get, Some("nRdIZZOFrX/eDEt78bwh5O/0nAM=")),
            Ok(())
        );
    }

    #[test]
    fn tokens_are_not_printed() {
        assert!(!format!("{:?}", validator(ORIGIN)).contains("12345"));
    }

    fn validator(public_url: &str) -> Validator {
        Validator::new(vec!["12345".into()], public_url)
    }

    fn sign_plain(url: &str) -> String {
        sign::<&str, &str>("12345", url, &[])
    }
}
