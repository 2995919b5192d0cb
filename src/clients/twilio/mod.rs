//! Twilio's REST API: calls are created, looked up, listed, and told what to do.
//!
//! What matters most about a request to create a call that went wrong is whether the call may have been placed all the same:
//! [`RestError`] keeps that apart. Nothing here is asked twice, so one request is one call at most.

mod error;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::{Client, RequestBuilder, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use error::RestError;

use crate::ids::{CallSid, PhoneNumber};

/// Longest to wait for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Longest for a request, its connection and answer included. Twilio answers within half a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A connection that was idle for longer may be closed by the other side just when a call is asked for, and then nobody knows
/// whether that was heard.
const IDLE_FOR: Duration = Duration::from_secs(15);
/// Longest document that Twilio takes with a request, in characters.
// Twilio dossier, 5.2.
pub const MAX_TWIML: usize = 4000;
/// Calls of one page of a list, the newest first. Between two telephones there are never that many of late.
const PAGE_SIZE: &str = "50";

/// One account of Twilio. Cheap to clone.
#[derive(Clone)]
pub struct Twilio {
    http: Client,
    api_url: Url,
    account_sid: String,
    auth_token: SecretString,
}

/// A call to be made.
#[derive(Debug, Clone)]
pub struct NewCall<'a> {
    /// Who is called.
    pub to: &'a PhoneNumber,
    /// One of our numbers.
    pub from: &'a PhoneNumber,
    /// Asked for TwiML when somebody answers.
    pub url: &'a str,
    /// Asked instead when that one fails: whoever has answered would only hear the line go dead.
    pub fallback_url: &'a str,
    /// Told each step of the call.
    pub status_callback: &'a str,
    /// How long it rings.
    pub ring_timeout: Duration,
    /// Whether it is found out who answered.
    pub detection: Option<Detection<'a>>,
}

/// Finding out whether a person or a machine answered, while the call is connected already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detection<'a> {
    /// Told who answered.
    pub callback: &'a str,
    /// Wait until a machine has had its say, so that a message can be left.
    pub until_the_beep: bool,
}

/// What a live call shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update<'a> {
    /// End, in whatever state it is.
    HangUp,
    /// Follow this document instead; at most [`MAX_TWIML`] characters.
    Twiml(&'a str),
    /// Follow the document of this address instead.
    Url(&'a str),
}

/// A call as Twilio knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its id.
    pub sid: CallSid,
    /// `queued`, `ringing`, `in-progress`, `completed`, `busy`, `failed`, `no-answer`, `canceled`.
    pub status: String,
    /// `inbound`, `outbound-api`, `outbound-dial`, ….
    pub direction: Option<String>,
    /// When it was asked for, to the second.
    pub created_at: Option<Timestamp>,
    /// When it was over, to the second.
    pub ended_at: Option<Timestamp>,
    /// Seconds, once it is over and was answered.
    pub duration_s: Option<u32>,
    /// `human`, `machine_start`, …, where it was found out.
    pub answered_by: Option<String>,
}

impl Twilio {
    /// A client of the API at `api_url`, such as `https://api.twilio.com`.
    pub fn new(api_url: Url, account_sid: &str, auth_token: SecretString) -> reqwest::Result<Self> {
        let http = Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .pool_idle_timeout(IDLE_FOR)
            .redirect(reqwest::redirect::Policy::none())
            // Whether something may be asked again is for the caller to say.
            .retry(reqwest::retry::never())
            .build()?;
        Ok(Self { http, api_url, account_sid: account_sid.to_owned(), auth_token })
    }

    /// The account that calls are made from.
    #[must_use]
    pub fn account_sid(&self) -> &str {
        &self.account_sid
    }

    /// Whether account and token belong together and may be used.
    pub async fn check_account(&self) -> Result<(), RestError> {
        let url = format!("{}/2010-04-01/Accounts/{}.json", self.base(), self.account_sid);
        send(self.authorized(self.http.get(url))).await.map(drop)
    }

    /// Asks for a call. It is placed at most once, and certainly not in case of [`RestError::NotProcessed`],
    /// [`RestError::OwnNumber`] and [`RestError::Refused`]; what is refused is so for the called number.
    pub async fn create(&self, call: &NewCall<'_>) -> Result<CallSid, RestError> {
        let ring_timeout = call.ring_timeout.as_secs().to_string();
        let mut form = vec![
            ("To", call.to.expose()),
            ("From", call.from.expose()),
            ("Url", call.url),
            ("Method", "POST"),
            ("FallbackUrl", call.fallback_url),
            ("FallbackMethod", "POST"),
            ("StatusCallback", call.status_callback),
            ("StatusCallbackMethod", "POST"),
            ("Timeout", &ring_timeout),
        ];
        form.extend(["initiated", "ringing", "answered", "completed"].map(|e| ("StatusCallbackEvent", e)));
        if let Some(detection) = call.detection {
            let kind = if detection.until_the_beep { "DetectMessageEnd" } else { "Enable" };
            form.extend([
                ("MachineDetection", kind),
                // Else whoever answers hears nothing until the verdict.
                ("AsyncAmd", "true"),
                ("AsyncAmdStatusCallback", detection.callback),
                ("AsyncAmdStatusCallbackMethod", "POST"),
            ]);
        }
        let request = self.authorized(self.http.post(self.calls("")).form(&form));
        let created: Resource = read(request).await.map_err(RestError::of_create)?;
        Ok(created.sid)
    }

    /// Looks a call up. What it says may be some seconds old.
    pub async fn fetch(&self, call_sid: &CallSid) -> Result<Call, RestError> {
        let url = self.calls(&format!("/{call_sid}"));
        let call: Resource = read(self.authorized(self.http.get(url))).await?;
        Ok(call.into())
    }

    /// Tells a live call what to do. May be repeated. See [`RestError::is_call_over`].
    pub async fn update(&self, call_sid: &CallSid, update: Update<'_>) -> Result<(), RestError> {
        let form = match update {
            Update::HangUp => [("Status", "completed")],
            Update::Twiml(document) => [("Twiml", document)],
            Update::Url(url) => [("Url", url)],
        };
        let url = self.calls(&format!("/{call_sid}"));
        send(self.authorized(self.http.post(url).form(&form))).await.map(drop)
    }

    /// Calls that we asked for from this number to that one since then, the earliest first. One that was just created may be
    /// missing.
    ///
    /// Calls that wait for their turn have no start time, so it is not the list's own filter that tells the new ones.
    pub async fn list(
        &self,
        to: &PhoneNumber,
        from: &PhoneNumber,
        since: Timestamp,
    ) -> Result<Vec<Call>, RestError> {
        let query = [("To", to.expose()), ("From", from.expose()), ("PageSize", PAGE_SIZE)];
        let page: Page = read(self.authorized(self.http.get(self.calls("")).query(&query))).await?;
        let is_ours = |call: &Call| call.direction.as_deref().is_none_or(|d| d == "outbound-api");
        let is_new = |call: &Call| call.created_at.is_none_or(|created_at| created_at >= since);
        let mut calls: Vec<Call> = page.calls.into_iter().map(Call::from).collect();
        calls.retain(|call| is_ours(call) && is_new(call));
        calls.sort_by_key(|call| call.created_at);
        Ok(calls)
    }

    fn base(&self) -> &str {
        self.api_url.as_str().trim_end_matches('/')
    }

    fn calls(&self, rest: &str) -> String {
        format!("{}/2010-04-01/Accounts/{}/Calls{rest}.json", self.base(), self.account_sid)
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        request.basic_auth(&self.account_sid, Some(self.auth_token.expose_secret()))
    }
}

impl fmt::Debug for Twilio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Twilio").field("account_sid", &self.account_sid).finish_non_exhaustive()
    }
}

/// Sends a request once, and says what its failure means.
async fn send(request: RequestBuilder) -> Result<Bytes, RestError> {
    let answer = request.send().await.map_err(|error| RestError::unsent(&error))?;
    let status = answer.status();
    let body = answer.bytes().await;
    if status.is_success() {
        return body.map_err(|error| RestError::unsent(&error));
    }
    // What was refused was refused, also when the words for it are lost.
    Err(RestError::answered(status, &body.unwrap_or_default()))
}

/// As [`send`], with what the answer says.
async fn read<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, RestError> {
    let body = send(request).await?;
    serde_json::from_slice(&body)
        .map_err(|_| RestError::Unknown { what: "the answer cannot be read".to_owned(), status: Some(200) })
}

/// Members of a call that we use. Everything may be null, and new ones may come.
#[derive(Deserialize)]
struct Resource {
    sid: CallSid,
    status: Option<String>,
    direction: Option<String>,
    date_created: Option<String>,
    end_time: Option<String>,
    duration: Option<String>,
    answered_by: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    calls: Vec<Resource>,
}

impl From<Resource> for Call {
    fn from(call: Resource) -> Self {
        let time = |text: Option<String>| DateTimeParser::new().parse_timestamp(&*text?).ok();
        Self {
            sid: call.sid,
            status: call.status.unwrap_or_default(),
            direction: call.direction,
            created_at: time(call.date_created),
            ended_at: time(call.end_time),
            duration_s: call.duration.and_then(|seconds| seconds.parse().ok()),
            answered_by: call.answered_by,
        }
    }
}

/// The document that `of` makes of a text, short enough to be sent with a request: what is too long of the text is cut.
#[must_use]
pub fn short_document(text: &str, of: impl Fn(&str) -> String) -> String {
    let mut rest = text;
    loop {
        let document = of(rest);
        let too_many = document.chars().count().saturating_sub(MAX_TWIML);
        if too_many == 0 || rest.is_empty() {
            return document;
        }
        // A character may have become several.
        let keep = rest.chars().count().saturating_sub(too_many.div_ceil(6).max(1));
        rest = rest.char_indices().nth(keep).map_or(rest, |(end, _)| &rest[..end]);
    }
}

#[cfg(test)]
mod tests;
