//! Receivers of webhooks: servers of other people, which may be slow, gone, or not what they seem.
//!
//! Whatever an address says, a request goes only where [`Reach`] allows: names are resolved here, and what they resolve to is
//! looked at before anything connects to it.

mod reach;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use reqwest::{Client, Response, Url};
use tokio::net::lookup_host;

pub use reach::{Forbidden, Reach};

/// Longest to wait for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Longest for a request, its connection and answer included.
// The Standard Webhooks specification has senders wait for 15 to 30 s.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Longest answer that is read. Nothing in it matters; a receiver that says more is not done a favour by closing on it.
const MOST_BYTES: usize = 64 * 1024;
/// How much of it is kept, for people who look for a mistake.
const KEPT_BYTES: usize = 1024;

/// Posts to receivers. Cheap to clone; all clones share their connections.
#[derive(Debug, Clone)]
pub struct Receivers {
    http: Client,
    reach: Reach,
}

/// What is posted.
#[derive(Debug, Clone, Copy)]
pub struct Post<'a> {
    /// Where to.
    pub url: &'a str,
    /// `webhook-id`.
    pub id: &'a str,
    /// `webhook-timestamp`, in seconds since 1970.
    pub timestamp: i64,
    /// `webhook-signature`.
    pub signature: &'a str,
    /// JSON.
    pub body: &'a str,
}

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status; `None`: there was no answer.
    pub status: Option<u16>,
    /// Why there was none.
    pub error: Option<String>,
    /// In how long the receiver wants to be asked again.
    pub retry_after: Option<Duration>,
    /// How the body begins.
    pub response: Option<String>,
}

impl Receivers {
    /// Posts as far as `reach` allows.
    pub fn new(reach: Reach) -> reqwest::Result<Self> {
        let http = Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            // A proxy would resolve names by itself.
            .no_proxy()
            // Whether something is sent again is for the schedule to say.
            .retry(reqwest::retry::never())
            .dns_resolver(Arc::new(Resolver { reach }))
            .build()?;
        Ok(Self { http, reach })
    }

    /// Posts once. Takes at most [`ANSWER_WITHIN`].
    pub async fn post(&self, post: Post<'_>) -> Answer {
        let url = match self.reach.check(post.url) {
            Ok(url) => url,
            Err(forbidden) => return Answer { error: Some(forbidden.to_string()), ..Answer::default() },
        };
        match self.send(url, post).await {
            Ok(response) => read(response).await,
            Err(error) => Answer { error: Some(why(&error)), ..Answer::default() },
        }
    }

    async fn send(&self, url: Url, post: Post<'_>) -> reqwest::Result<Response> {
        self.http
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("voicebridge/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", post.id)
            .header("webhook-timestamp", post.timestamp)
            .header("webhook-signature", post.signature)
            .body(post.body.to_owned())
            .send()
            .await
    }
}

/// The status is what counts: a body that breaks off, or never ends, changes nothing.
async fn read(mut response: Response) -> Answer {
    let status = response.status().as_u16();
    let retry_after = retry_after(response.headers(), Timestamp::now());
    let (mut kept, mut seen) = (Vec::new(), 0);
    while seen < MOST_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        seen += chunk.len();
        let room = KEPT_BYTES.saturating_sub(kept.len()).min(chunk.len());
        kept.extend_from_slice(&chunk[..room]);
    }
    let text = String::from_utf8_lossy(&kept).into_owned();
    Answer { status: Some(status), error: None, retry_after, response: (!text.is_empty()).then_some(text) }
}

// RFC 9110, section 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTimeParser::new().parse_timestamp(value.replace("GMT", "+0000")).ok()?;
    Duration::try_from(date.duration_since(now)).ok()
}

/// For whoever owns the receiver. The address is not repeated.
fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        let within = if error.is_connect() { CONNECT_WITHIN } else { ANSWER_WITHIN };
        return format!("no answer within {} s", within.as_secs());
    }
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        if source.is::<Forbidden>() {
            return source.to_string();
        }
        cause = source;
    }
    if error.is_connect() { format!("no connection: {cause}") } else { format!("no answer: {cause}") }
}

/// Names to the addresses that may be reached.
struct Resolver {
    reach: Reach,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        Box::pin(async move {
            // The port is set by whoever connects.
            let found: Vec<_> = lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<_> = found.iter().copied().filter(|found| reach.allows(found.ip())).collect();
            // One that may not be reached gives the whole name away: a good one beside it would be there to be tried first.
            if allowed.len() < found.len() {
                return Err(Forbidden::Address.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_leads_inside_is_not_connected_to() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://localhost:{}/", listener.local_addr().unwrap().port());
        let post = Post { url: &url, id: "evt_1", timestamp: 0, signature: "v1,", body: "{}" };
        // Past the look at the address itself, as with a name that resolves to one thing now and to another then.
        let error =
            Receivers::new(Reach::Public).unwrap().send(url.parse().unwrap(), post).await.unwrap_err();
        assert_eq!(why(&error), Forbidden::Address.to_string());
        let answer = Receivers::new(Reach::Public).unwrap().post(post).await;
        assert_eq!(answer.error, Some(Forbidden::Scheme.to_string()));
        let near = Receivers::new(Reach::PublicAndLoopback).unwrap();
        let reached = tokio::select! {
            _ = near.post(post) => false,
            accepted = listener.accept() => accepted.is_ok(),
        };
        assert!(reached, "where this machine may be reached, the same name leads there");
    }

    #[tokio::test]
    async fn what_went_wrong_is_said_without_the_address() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/secret-path", listener.local_addr().unwrap());
        drop(listener);
        let post = Post { url: &url, id: "evt_1", timestamp: 0, signature: "v1,", body: "{}" };
        let answer = Receivers::new(Reach::PublicAndLoopback).unwrap().post(post).await;
        let error = answer.error.unwrap();
        assert!(error.starts_with("no connection: ") && !error.contains("secret-path"), "{error}");
    }

    #[test]
    fn a_receiver_says_in_seconds_or_by_a_date_when_it_wants_to_be_asked_again() {
        let now: Timestamp = "2026-03-02T09:00:00Z".parse().unwrap();
        let wait = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(wait("Mon, 02 Mar 2026 09:01:30 GMT"), Some(Duration::from_secs(90)));
        assert_eq!(wait("Mon, 02 Mar 2026 08:00:00 GMT"), None, "that was an hour ago");
        assert_eq!((wait("soon"), wait("-5"), wait("")), (None, None, None));
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
