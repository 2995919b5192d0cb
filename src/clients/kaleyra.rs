//! Kaleyra's Voice API (the one that was Solutions Infini's): its log of calls, a page of a range of days at a time.
//!
//! Kaleyra documents neither this method nor its answers any more; what is here is what its users send and get, and
//! nothing of it is known outside this file and `ingest::kaleyra::record`. One address takes all requests: a form with
//! `method=dial`, `api_key`, `format=json`, `fromdate` and `todate` (`2026/02/24`, days in India, both included), `page`
//! (from 1) and `limit`. The answer is an object whose `data`, or `records`, is a list of objects.
//!
//! What is not known, and what we do about it: how many records a page has at most (so a short page is not taken for the
//! last one; an empty one is), whether `page` is heeded at all (so a page that repeats the one before ends the list, too),
//! and how a refusal is told (by the HTTP status, or by a `status` in a body without a list: both are understood). A day
//! without calls may be told in words (`No records found`), with a good status or `A404`; the same words with any other
//! status are about something else, such as the account.
//!
//! Asking changes nothing at Kaleyra, so what fails for reasons that pass is asked again, a few times.

use std::fmt;
use std::time::Duration;

use jiff::civil::Date;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Response, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use tokio::time::sleep;

/// Longest to wait for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Longest for one request, its answer included: a page of a busy day takes seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How often the same page is asked for.
const TRIES: u32 = 5;
/// Before the second try at most; twice as long before each one after it.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause, also when Kaleyra asks for a longer one: then the run fails, and is carried on later.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Largest answer that is read. A record has half a kilobyte.
const LARGEST_BODY: usize = 8 * 1024 * 1024;
/// Records asked for at a time: what its users ask for.
const PAGE_SIZE: u32 = 200;
/// Longest piece of Kaleyra's own words that is passed on.
const LONGEST_WORDS: usize = 200;
/// Statuses in a body that is no refusal, in lower case.
const GOOD: [&str; 3] = ["200", "ok", "success"];
/// The status, in lower case, of a day without calls where it is not a good one.
const NOT_FOUND: &str = "a404";

/// One account of Kaleyra. Cheap to clone.
#[derive(Clone)]
pub struct Kaleyra {
    http: Client,
    api_url: Url,
    api_key: SecretString,
    first_pause: Duration,
}

/// Why there is no page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KaleyraError {
    /// Kaleyra refuses, and would again: somebody has to put it right.
    #[error("Kaleyra refused the request ({status}): {message}; check KALEYRA_API_KEY and KALEYRA_API_URL")]
    Refused {
        /// HTTP status, or the status in the body.
        status: String,
        /// Kaleyra's words, without telephone numbers or the key.
        message: String,
    },
    /// Kaleyra was asked several times and could not answer. Later it may.
    #[error("Kaleyra did not answer after {tries} tries: {what}")]
    Unavailable {
        /// How often it was asked.
        tries: u32,
        /// What happened the last time.
        what: String,
    },
    /// Kaleyra answered something that is no page.
    #[error("Kaleyra's answer cannot be read: {0}")]
    Unreadable(&'static str),
}

/// What came of one try.
enum Failed {
    /// Asking again may help, after this long if Kaleyra said so.
    Passing {
        what: String,
        after: Option<Duration>,
    },
    ForGood(KaleyraError),
}

impl Kaleyra {
    /// A client of the API at `api_url`, such as `https://api-voice.kaleyra.com/v1/`.
    pub fn new(api_url: Url, api_key: SecretString) -> reqwest::Result<Self> {
        let http = Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            // The form holds the key: it goes nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .build()?;
        Ok(Self { http, api_url, api_key, first_pause: FIRST_PAUSE })
    }

    /// The same with other pauses between tries, for tests.
    #[must_use]
    pub fn with_first_pause(self, first_pause: Duration) -> Self {
        Self { first_pause, ..self }
    }

    /// Whether Kaleyra takes the key: asks for one record of `day`.
    pub async fn check_account(&self, day: Date) -> Result<(), KaleyraError> {
        self.ask(day, 1, 1).await.map(drop)
    }

    /// Records of a day in India, as Kaleyra wrote them; none behind the last page. Pages count from 1.
    ///
    /// Takes up to three minutes when Kaleyra is in trouble. May be dropped at any time.
    pub async fn page(&self, day: Date, page: u32) -> Result<Vec<Value>, KaleyraError> {
        self.ask(day, page, PAGE_SIZE).await
    }

    async fn ask(&self, day: Date, page: u32, limit: u32) -> Result<Vec<Value>, KaleyraError> {
        let mut pause = self.first_pause;
        for tried in 1.. {
            let (what, after) = match self.ask_once(day, page, limit).await {
                Ok(records) => return Ok(records),
                Err(Failed::ForGood(error)) => return Err(error),
                Err(Failed::Passing { what, after }) => (what, after),
            };
            if tried >= TRIES || after.is_some_and(|after| after > LONGEST_PAUSE) {
                return Err(KaleyraError::Unavailable { tries: tried, what });
            }
            tracing::debug!(tried, what, "Kaleyra is asked again");
            // Servers that were refused together do not come back together.
            let jittered = pause.mul_f64(rand::random_range(0.5..=1.0));
            sleep(after.map_or(jittered, |after| after + jittered.mul_f64(0.1))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        unreachable!("the last try returns")
    }

    async fn ask_once(&self, day: Date, page: u32, limit: u32) -> Result<Vec<Value>, Failed> {
        let day = day.strftime("%Y/%m/%d").to_string();
        let (page, limit) = (page.to_string(), limit.to_string());
        let form = [
            ("method", "dial"),
            ("format", "json"),
            ("api_key", self.api_key.expose_secret()),
            ("fromdate", &day),
            ("todate", &day),
            ("page", &page),
            ("limit", &limit),
        ];
        let answer = self.http.post(self.api_url.clone()).form(&form).send().await.map_err(unsent)?;
        let status = answer.status();
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            let after = retry_after(&answer);
            return Err(Failed::Passing { what: format!("answer {}", status.as_u16()), after });
        }
        let body = whole(answer).await?;
        if !status.is_success() {
            let message = serde_json::from_slice(&body).map_or_else(|_| String::new(), |body| words(&body));
            return Err(self.refused(status.as_str(), &message));
        }
        let body = serde_json::from_slice(&body)
            .map_err(|_| Failed::ForGood(KaleyraError::Unreadable("it is not the JSON we expect")))?;
        self.records(body)
    }

    /// The list in an answer.
    fn records(&self, mut body: Map<String, Value>) -> Result<Vec<Value>, Failed> {
        for name in ["data", "records"] {
            if let Some(Value::Array(records)) = body.get_mut(name) {
                return Ok(std::mem::take(records));
            }
        }
        let status = match body.get("status") {
            Some(Value::String(status)) => status.clone(),
            Some(Value::Number(status)) => status.to_string(),
            _ => String::new(),
        };
        let message = words(&body);
        let has_none = ["data", "records"].iter().any(|name| body.get(*name).is_some_and(is_empty));
        let told = status.to_lowercase();
        // Without a status words are a reason.
        let is_good = GOOD.contains(&told.as_str()) || told.is_empty() && message.is_empty();
        let is_none_told = (is_good || told == NOT_FOUND) && message.to_lowercase().starts_with("no record");
        // A day without calls need not be an empty list.
        if is_good && has_none || is_none_told {
            return Ok(Vec::new());
        }
        if is_good {
            return Err(Failed::ForGood(KaleyraError::Unreadable("it has no list of records")));
        }
        Err(self.refused(&status, &message))
    }

    fn refused(&self, status: &str, message: &str) -> Failed {
        // Some services quote what they were sent.
        let message = message.replace(self.api_key.expose_secret(), "…");
        let message =
            if message.is_empty() { "no reason given".to_owned() } else { without_numbers(&message) };
        let status = if status.is_empty() { "no status".to_owned() } else { without_numbers(status) };
        Failed::ForGood(KaleyraError::Refused { status, message })
    }
}

impl fmt::Debug for Kaleyra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kaleyra").finish_non_exhaustive()
    }
}

fn unsent(error: reqwest::Error) -> Failed {
    let what = if error.is_timeout() { "no answer in time".to_owned() } else { cause(error) };
    Failed::Passing { what, after: None }
}

/// The innermost reason, without the URL.
fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Reads an answer, and no more of it than fits.
async fn whole(mut answer: Response) -> Result<Vec<u8>, Failed> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(unsent)? {
        if body.len() + piece.len() > LARGEST_BODY {
            return Err(Failed::ForGood(KaleyraError::Unreadable("it is larger than 8 MiB")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// How long Kaleyra wants to be left alone, where it says so in seconds.
fn retry_after(answer: &Response) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn words(body: &Map<String, Value>) -> String {
    let message = ["message", "error", "msg"].iter().find_map(|name| body.get(*name)?.as_str());
    message.unwrap_or_default().trim().chars().take(LONGEST_WORDS).collect()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

/// What is at least seven digits long may be a telephone number.
fn without_numbers(text: &str) -> String {
    let is_digit = |c: char| c.is_ascii_digit();
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_digit) {
        let digits = &rest[start..];
        let end = digits.find(|c| !is_digit(c)).unwrap_or(digits.len());
        kept.push_str(&rest[..start]);
        kept.push_str(if end >= 7 { "…" } else { &digits[..end] });
        rest = &digits[end..];
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn client() -> Kaleyra {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Kaleyra::new("http://127.0.0.1:9/".parse().unwrap(), SecretString::from("the-key")).unwrap()
    }

    fn read(body: Value) -> Result<usize, String> {
        let Value::Object(body) = body else { panic!("not an object") };
        match client().records(body) {
            Ok(records) => Ok(records.len()),
            Err(Failed::ForGood(error)) => Err(error.to_string()),
            Err(Failed::Passing { what, .. }) => panic!("{what}"),
        }
    }

    #[test]
    fn a_list_is_found_under_either_name_and_a_day_without_calls_is_no_error() {
        assert_eq!(read(json!({"status": "200", "data": [{"id": "a"}, 7]})), Ok(2));
        assert_eq!(read(json!({"records": [1]})), Ok(1));
        assert_eq!(read(json!({"status": 200, "data": null})), Ok(0));
        assert_eq!(read(json!({"status": "A404", "message": "No records found"})), Ok(0));
    }

    #[test]
    fn words_about_missing_records_are_a_day_without_calls_only_where_nothing_was_refused() {
        assert_eq!(read(json!({"status": "OK", "message": "No record found"})), Ok(0));
        assert_eq!(read(json!({"data": []})), Ok(0));
        assert_eq!(read(json!({"data": null})), Ok(0));
        for status in [json!("A401"), json!("403"), json!(500), json!("error"), Value::Null] {
            let answer = json!({"status": status, "message": "No record of this account", "data": null});
            let refused = read(answer).unwrap_err();
            assert!(refused.contains("No record of this account"), "{refused}");
        }
    }

    #[test]
    fn a_refusal_in_the_body_says_what_to_check_and_neither_numbers_nor_the_key() {
        let refused =
            read(json!({"status": "A401", "message": "the-key may not ask 9812345678"})).unwrap_err();
        assert_eq!(
            refused,
            "Kaleyra refused the request (A401): … may not ask …; check KALEYRA_API_KEY and KALEYRA_API_URL"
        );
        assert!(read(json!({"status": "200"})).unwrap_err().contains("no list"));
        assert!(!format!("{:?}", client()).contains("the-key"));
    }
}
