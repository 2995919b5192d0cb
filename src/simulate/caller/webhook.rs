//! Twilio's HTTP requests, signed, and where URLs really lead.

use std::net::SocketAddr;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use crate::wire::signature;

/// Twilio gives up on a webhook after this long.
// Dossier 2.1.
const WITHIN: Duration = Duration::from_secs(15);

/// Sends requests for one or many calls.
#[derive(Debug, Clone)]
pub(in crate::simulate) struct Webhooks {
    client: reqwest::Client,
    auth_token: Option<SecretString>,
    connect_to: Option<SocketAddr>,
}

/// A webhook without a usable answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::simulate) enum WebhookError {
    #[error("11200: {url} cannot be reached: {source}")]
    Unreachable { url: String, source: reqwest::Error },
    #[error("11200: {url} answered {status}")]
    Status { url: String, status: u16 },
    #[error("12300: {url} answered with Content-Type `{content_type}`")]
    ContentType { url: String, content_type: String },
    #[error("11100: `{0}` is no usable URL")]
    Url(String),
}

impl Webhooks {
    pub(in crate::simulate) fn new(
        auth_token: Option<SecretString>,
        connect_to: Option<SocketAddr>,
    ) -> reqwest::Result<Self> {
        // reqwest is built without a choice of its own. Somebody may have chosen already, which is as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            // A proxy of this machine does not know the way back to it.
            .no_proxy()
            .timeout(WITHIN)
            .connect_timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::limited(10))
            .build()?;
        Ok(Self { client, auth_token, connect_to })
    }

    /// The signature of a request; none without a token.
    pub(super) fn sign(&self, url: &str, fields: &[(String, String)]) -> Option<String> {
        let token = self.auth_token.as_ref()?;
        Some(signature::sign(token.expose_secret(), url, fields))
    }

    /// Where `url` really leads: its own host, or the one that stands in for all of them.
    pub(super) fn route(&self, url: &str) -> Result<reqwest::Url, WebhookError> {
        let parsed = reqwest::Url::parse(url).map_err(|_| WebhookError::Url(url.into()))?;
        let Some(address) = self.connect_to else { return Ok(parsed) };
        // Behind the public address a server on this machine speaks without TLS.
        let scheme = if parsed.scheme().starts_with("ws") { "ws" } else { "http" };
        let query = parsed.query().map(|query| format!("?{query}")).unwrap_or_default();
        let routed = format!("{scheme}://{address}{}{query}", parsed.path());
        reqwest::Url::parse(&routed).map_err(|_| WebhookError::Url(routed))
    }

    /// Asks for TwiML; the document comes back.
    pub(in crate::simulate) async fn twiml(
        &self,
        url: &str,
        method: &str,
        fields: &[(String, String)],
    ) -> Result<String, WebhookError> {
        let response = self.send(url, method, fields).await?;
        let content_type = response
            .headers()
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let bare = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !["text/xml", "application/xml", "text/html"].contains(&bare.as_str()) {
            return Err(WebhookError::ContentType { url: url.into(), content_type });
        }
        response.text().await.map_err(|source| WebhookError::Unreachable { url: url.into(), source })
    }

    /// Reports something; the answer's content does not matter.
    pub(in crate::simulate) async fn notify(
        &self,
        url: &str,
        fields: &[(String, String)],
    ) -> Result<(), WebhookError> {
        self.send(url, "POST", fields).await.map(drop)
    }

    async fn send(
        &self,
        url: &str,
        method: &str,
        fields: &[(String, String)],
    ) -> Result<reqwest::Response, WebhookError> {
        let unreachable = |source| WebhookError::Unreachable { url: url.to_owned(), source };
        let request = if method.eq_ignore_ascii_case("GET") {
            // Everything is in the query, and the query is signed.
            let mut full = reqwest::Url::parse(url).map_err(|_| WebhookError::Url(url.into()))?;
            full.query_pairs_mut().extend_pairs(fields);
            let signature = self.sign(full.as_str(), &[]);
            (self.client.get(self.route(full.as_str())?), signature)
        } else {
            (self.client.post(self.route(url)?).form(fields), self.sign(url, fields))
        };
        let (request, signature) = request;
        let request = match signature {
            Some(signature) => request.header("X-Twilio-Signature", signature),
            None => request,
        };
        let request = request.header("User-Agent", "TwilioProxy/1.1");
        // A connection that fails is tried once more: the server behind it may have died.
        let again = request.try_clone();
        let response = match (request.send().await, again) {
            (Err(error), Some(again)) if !error.is_timeout() => again.send().await,
            (result, _) => result,
        };
        let response = response.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            Ok(response)
        } else {
            Err(WebhookError::Status { url: url.into(), status: status.as_u16() })
        }
    }
}

/// `url` as written in a document that came from `base`.
pub(in crate::simulate) fn absolute(base: &str, url: &str) -> String {
    if url.contains("://") {
        return url.into();
    }
    reqwest::Url::parse(base).and_then(|base| base.join(url)).map_or_else(|_| url.into(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_host_can_stand_in_for_the_public_one() {
        let here: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let webhooks = Webhooks::new(None, Some(here)).unwrap();
        let routed = |url: &str| webhooks.route(url).unwrap().to_string();
        assert_eq!(routed("https://b.example/a/b?c=d"), "http://127.0.0.1:8080/a/b?c=d");
        assert_eq!(routed("wss://b.example/media/token"), "ws://127.0.0.1:8080/media/token");
        assert!(matches!(webhooks.route("nonsense"), Err(WebhookError::Url(_))));
    }

    #[test]
    fn relative_urls_are_relative_to_their_document() {
        assert_eq!(absolute("https://b.example/a/b", "/twiml/x"), "https://b.example/twiml/x");
        assert_eq!(absolute("https://b.example/a/b", "wss://c.example/raw?x='"), "wss://c.example/raw?x='");
    }
}
