//! The carrier's book: every call and how it stands.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::courier::Notice;
use super::form::Wish;
use super::report::{CallLog, CallbackReport, MessageReport};
use crate::simulate::caller::CallReport;
use crate::simulate::caller::leg::{Order, Source};

/// How a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Queued,
    Ringing,
    InProgress,
    Completed,
    Busy,
    NoAnswer,
    Failed,
    Canceled,
}

impl Status {
    /// As the API spells it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Ringing => "ringing",
            Self::InProgress => "in-progress",
            Self::Completed => "completed",
            Self::Busy => "busy",
            Self::NoAnswer => "no-answer",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    pub(super) const fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Ringing | Self::InProgress)
    }
}

/// What happens to a call that somebody may want to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Initiated,
    Ringing,
    Answered,
    Completed,
}

impl Event {
    /// As it is asked for.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Initiated => "initiated",
            Self::Ringing => "ringing",
            Self::Answered => "answered",
            Self::Completed => "completed",
        }
    }
}

/// The time it is for the carrier.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    origin: Instant,
    epoch: Timestamp,
}

impl Clock {
    pub(super) fn starting_at(epoch: Option<Timestamp>) -> Self {
        Self { origin: Instant::now(), epoch: epoch.unwrap_or_else(Timestamp::now) }
    }

    pub(super) fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.origin.elapsed()).unwrap_or(SignedDuration::MAX);
        self.epoch.checked_add(passed).unwrap_or(Timestamp::MAX)
    }
}

/// One call.
#[derive(Debug)]
pub(super) struct Record {
    /// What everybody may know of it.
    pub(super) log: CallLog,
    pub(super) status: Status,
    pub(super) wish: Wish,
    /// Its place in the book: decides what is random about it.
    pub(super) number: u64,
    pub(super) asked: Instant,
    pub(super) answered: Option<Instant>,
    pub(super) seconds: Option<u64>,
    pub(super) queue_time: Duration,
    /// Tells the running call what to do.
    pub(super) orders: Option<mpsc::Sender<Order>>,
    /// Ends it as long as it does not follow orders.
    pub(super) cancel: CancellationToken,
    /// Takes callbacks; gone with the last one.
    pub(super) courier: Option<mpsc::Sender<Notice>>,
    sequence: u32,
}

impl Record {
    pub(super) fn new(
        number: u64,
        direction: &'static str,
        parent: Option<String>,
        wish: Wish,
        now: Timestamp,
    ) -> Self {
        let attempt = match &wish.source {
            Source::Url { url, .. } => attempt(url),
            Source::Text(_) => None,
        };
        let log = CallLog {
            sid: format!("CA{}", uuid::Uuid::new_v4().simple()),
            parent,
            direction,
            to: wish.to.clone(),
            from: wish.from.clone(),
            attempt,
            asked_at: now,
            dialed_at: None,
            answered_at: None,
            ended_at: None,
            status: Status::Queued.as_str(),
            sip: None,
            person: None,
            answered_by: None,
            callbacks: Vec::new(),
            message: None,
            conversation: None,
        };
        Self {
            log,
            status: Status::Queued,
            wish,
            number,
            asked: Instant::now(),
            answered: None,
            seconds: None,
            queue_time: Duration::ZERO,
            orders: None,
            cancel: CancellationToken::new(),
            courier: None,
            sequence: 0,
        }
    }

    pub(super) fn set(&mut self, status: Status) {
        self.status = status;
        self.log.status = status.as_str();
    }

    /// It is over; the conversation comes with it when there was one.
    pub(super) fn end(&mut self, status: Status, sip: u16, now: Timestamp) {
        self.set(status);
        self.log.sip = Some(sip);
        self.log.ended_at = Some(now);
        self.seconds = self.answered.map(|answered| answered.elapsed().as_secs_f64().ceil() as u64);
        self.orders = None;
    }

    /// Keeps what was said, and what a machine recorded of it.
    pub(super) fn keep(&mut self, conversation: CallReport, beep_after_ms: Option<u64>) {
        self.log.message = beep_after_ms.map(|beep_ms| message(&conversation, beep_ms as f64));
        self.log.conversation = Some(conversation);
    }

    /// A callback that is due now, if it was asked for.
    pub(super) fn notice(&mut self, event: Event, account: &str, now: Timestamp) -> Option<Notice> {
        let (url, events) = self.wish.callback.clone()?;
        if !events.iter().any(|wanted| wanted == event.as_str()) {
            return None;
        }
        let sequence = self.sequence;
        self.sequence += 1;
        let told = if event == Event::Initiated { "initiated" } else { self.status.as_str() };
        let mut fields = self.identity(account);
        fields.extend([
            field("CallStatus", told),
            field("Timestamp", &rfc2822(now)),
            field("CallbackSource", "call-progress-events"),
            field("SequenceNumber", &sequence.to_string()),
        ]);
        if event == Event::Completed {
            let seconds = self.seconds.unwrap_or_default();
            fields.push(field("CallDuration", &seconds.to_string()));
            if self.status == Status::Completed {
                fields.push(field("Duration", &seconds.div_ceil(60).to_string()));
            }
            fields.extend(self.log.sip.map(|sip| field("SipResponseCode", &sip.to_string())));
            fields.extend(self.log.answered_by.map(|by| field("AnsweredBy", by)));
        }
        let report = CallbackReport {
            event: event.as_str(),
            sequence: Some(sequence),
            told: told.to_owned(),
            at: now,
            deliveries: Vec::new(),
            lost: false,
        };
        Some(Notice { url, fields, index: self.note(report), sid: self.log.sid.clone() })
    }

    /// The verdict of a detection that goes to a URL of its own.
    pub(super) fn verdict(
        &mut self,
        url: &str,
        verdict: &'static str,
        took: Duration,
        account: &str,
        now: Timestamp,
    ) -> Notice {
        let fields = vec![
            field("CallSid", &self.log.sid),
            field("AccountSid", account),
            field("AnsweredBy", verdict),
            field("MachineDetectionDuration", &took.as_millis().to_string()),
        ];
        let report = CallbackReport {
            event: "amd",
            sequence: None,
            told: verdict.to_owned(),
            at: now,
            deliveries: Vec::new(),
            lost: false,
        };
        Notice { url: url.to_owned(), fields, index: self.note(report), sid: self.log.sid.clone() }
    }

    fn note(&mut self, callback: CallbackReport) -> usize {
        self.log.callbacks.push(callback);
        self.log.callbacks.len() - 1
    }

    fn identity(&self, account: &str) -> Vec<(String, String)> {
        let mut fields = vec![
            field("CallSid", &self.log.sid),
            field("AccountSid", account),
            field("From", &self.log.from),
            field("To", &self.log.to),
            field("Caller", &self.log.from),
            field("Called", &self.log.to),
            field("Direction", self.log.direction),
            field("ApiVersion", "2010-04-01"),
        ];
        fields.extend(self.log.parent.as_ref().map(|parent| field("ParentCallSid", parent)));
        fields
    }

    /// The resource, with every member spelled as the API spells it.
    pub(super) fn resource(&self, account: &str) -> Value {
        let log = &self.log;
        let date = |at: Option<Timestamp>| at.map(rfc2822);
        let uri = format!("/2010-04-01/Accounts/{account}/Calls/{}", log.sid);
        let under = |name: &str| format!("{uri}/{name}.json");
        let price = self.seconds.map(|seconds| format!("-{:.5}", seconds.div_ceil(60) as f64 * 0.013));
        json!({
            "sid": log.sid,
            "account_sid": account,
            "parent_call_sid": log.parent,
            "phone_number_sid": null,
            "group_sid": null,
            "trunk_sid": "",
            "to": log.to,
            "to_formatted": log.to,
            "from": log.from,
            "from_formatted": log.from,
            "status": log.status,
            "direction": log.direction,
            "answered_by": log.answered_by,
            "caller_name": null,
            "forwarded_from": null,
            "api_version": "2010-04-01",
            "date_created": rfc2822(log.asked_at),
            "date_updated": rfc2822(log.ended_at.or(log.answered_at).or(log.dialed_at).unwrap_or(log.asked_at)),
            "start_time": date(log.dialed_at),
            "end_time": date(log.ended_at),
            "duration": self.seconds.map(|seconds| seconds.to_string()),
            "price": price,
            "price_unit": "USD",
            "queue_time": self.queue_time.as_millis().to_string(),
            "annotation": null,
            "uri": format!("{uri}.json"),
            "subresource_uris": {
                "notifications": under("Notifications"),
                "recordings": under("Recordings"),
                "streams": under("Streams"),
                "events": under("Events"),
            },
        })
    }
}

/// What was on the line after the beep, `beep_ms` after answering.
fn message(conversation: &CallReport, beep_ms: f64) -> MessageReport {
    let mut message = MessageReport::default();
    for said in &conversation.said {
        if said.since_ms < beep_ms {
            message.began_early = true;
        } else if said.whole {
            message.said.push(said.text.clone());
        }
    }
    // A stream begins with the machine's greeting: its beep is where the machine played it.
    let beep = conversation.utterances.iter().find(|utterance| utterance.what == "beep");
    let beep_ms = beep.map_or(f64::INFINITY, |beep| beep.to_ms);
    for stretch in conversation.streams.iter().flat_map(|stream| &stream.stretches) {
        let length_ms = stretch.heard_bytes as f64 / 8.0;
        let after_ms = (stretch.since_ms + length_ms - beep_ms).clamp(0.0, length_ms);
        message.streamed_ms += after_ms;
        message.began_early |= after_ms < length_ms;
    }
    message
}

/// Every call, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(super) struct Book {
    records: Vec<Record>,
    places: BTreeMap<String, usize>,
    /// How often each number was dialed.
    dialed: BTreeMap<String, u32>,
}

impl Book {
    pub(super) fn add(&mut self, record: Record) {
        self.places.insert(record.log.sid.clone(), self.records.len());
        self.records.push(record);
    }

    pub(super) fn len(&self) -> u64 {
        self.records.len() as u64
    }

    pub(super) fn find(&mut self, sid: &str) -> Option<&mut Record> {
        self.places.get(sid).and_then(|place| self.records.get_mut(*place))
    }

    pub(super) fn queued(&self) -> usize {
        let queued = |record: &&Record| record.status == Status::Queued && record.log.dialed_at.is_none();
        self.records.iter().filter(queued).count()
    }

    /// How often this number was dialed before; from now on once more.
    pub(super) fn dial(&mut self, to: &str) -> u32 {
        let times = self.dialed.entry(to.to_owned()).or_default();
        *times += 1;
        *times - 1
    }

    pub(super) fn logs(&self) -> Vec<CallLog> {
        self.records.iter().map(|record| record.log.clone()).collect()
    }

    /// Calls that fit, newest first. The day of a call that was not dialed yet is the one it was asked for on.
    pub(super) fn list(&self, filter: &Filter, lag: Duration) -> Vec<&Record> {
        let known = self.records.iter().rev().filter(|record| record.asked.elapsed() >= lag);
        known.filter(|record| filter.fits(record)).collect()
    }
}

/// Which calls are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    to: Option<String>,
    from: Option<String>,
    status: Option<String>,
    parent: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Filter {
    /// Reads a query; what it does not know comes back by its name.
    pub(super) fn read(query: &[(String, String)]) -> (Self, Vec<String>) {
        let mut filter = Self::default();
        let mut unknown = Vec::new();
        for (name, value) in query {
            let given = Some(value.clone());
            match name.as_str() {
                "To" => filter.to = given,
                "From" => filter.from = given,
                "Status" => filter.status = given,
                "ParentCallSid" => filter.parent = given,
                "StartTime" | "StartTime>" | "StartTime<" => match days(value) {
                    Some((since, until)) => {
                        if !name.ends_with('<') {
                            filter.since = Some(since);
                        }
                        if !name.ends_with('>') {
                            filter.until = Some(until);
                        }
                    }
                    None => unknown.push(format!("{name}={value}")),
                },
                "PageSize" | "Page" | "PageToken" => {}
                _ => unknown.push(name.clone()),
            }
        }
        (filter, unknown)
    }

    fn fits(&self, record: &Record) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
        let log = &record.log;
        let started = log.dialed_at.unwrap_or(log.asked_at);
        same(&self.to, &log.to)
            && same(&self.from, &log.from)
            && same(&self.status, log.status)
            && same(&self.parent, log.parent.as_deref().unwrap_or_default())
            && self.since.is_none_or(|since| started >= since)
            && self.until.is_none_or(|until| started < until)
    }
}

/// The beginning of what `text` names and its end: a day in UTC, or a moment.
fn days(text: &str) -> Option<(Timestamp, Timestamp)> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some((at, at.checked_add(1.second()).ok()?));
    }
    let day: jiff::civil::Date = text.parse().ok()?;
    let start = |day: jiff::civil::Date| day.to_zoned(TimeZone::UTC).ok().map(|day| day.timestamp());
    Some((start(day)?, start(day.tomorrow().ok()?)?))
}

/// The parameter `attempt` in a query.
fn attempt(url: &str) -> Option<String> {
    let url = reqwest::Url::parse(url).ok()?;
    let found = url.query_pairs().find(|(name, _)| name == "attempt");
    found.map(|(_, value)| value.into_owned())
}

pub(super) fn rfc2822(at: Timestamp) -> String {
    jiff::fmt::rfc2822::to_string(&at.to_zoned(TimeZone::UTC)).unwrap_or_default()
}

pub(super) fn field(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::caller::{SaidReport, StreamReport, Stretch, UtteranceReport};

    #[test]
    fn a_machine_records_what_is_heard_after_its_beep() {
        let stretch =
            |since_ms, ms: u64| Stretch { since_ms, from_byte: 0, heard_bytes: ms * 8, cleared_bytes: 0 };
        let beep = UtteranceReport {
            what: "beep".into(),
            from_ms: 2600.0,
            to_ms: 3000.0,
            answered_ms: None,
            latency_ms: None,
            over_agent: false,
        };
        let said = |text: &str, since_ms, whole| SaidReport { text: text.into(), since_ms, whole };
        let stream = StreamReport { stretches: vec![stretch(3500.0, 2000)], ..StreamReport::default() };
        let mut conversation = CallReport {
            utterances: vec![beep],
            streams: vec![stream],
            said: vec![said("Call us.", 6000.0, true), said("Or not.", 7000.0, false)],
            ..CallReport::default()
        };
        let recorded = message(&conversation, 3000.0);
        assert_eq!((recorded.said, recorded.streamed_ms), (vec!["Call us.".to_owned()], 2000.0));
        assert!(!recorded.began_early);
        // Whoever does not wait is recorded from the beep on.
        conversation.streams[0].stretches = vec![stretch(1000.0, 2500)];
        let recorded = message(&conversation, 3000.0);
        assert_eq!((recorded.streamed_ms, recorded.began_early), (500.0, true));
    }

    #[test]
    fn a_day_is_one_in_utc_and_a_moment_is_a_second() {
        let (since, until) = days("2026-03-08").unwrap();
        assert_eq!(until.duration_since(since), SignedDuration::from_hours(24));
        assert_eq!(since.to_string(), "2026-03-08T00:00:00Z");
        let (since, until) = days("2026-03-08T10:00:00+01:00").unwrap();
        assert_eq!(
            (since.to_string(), until.duration_since(since)),
            ("2026-03-08T09:00:00Z".into(), SignedDuration::from_secs(1))
        );
        assert_eq!(days("yesterday"), None);
    }

    #[test]
    fn the_attempt_is_read_from_the_url() {
        assert_eq!(attempt("https://b.example/x?a=1&attempt=7%2D8"), Some("7-8".into()));
        assert_eq!(attempt("https://b.example/x"), None);
    }
}
