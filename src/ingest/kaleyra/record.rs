//! A record of Kaleyra's log, as it is sent, to a row of ours, or the reason why it is none.
//!
//! Kaleyra writes numbers as texts, leaves members out or empty, and tells times by the clock in India without saying so.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use crate::store::kaleyra::{LogRow, Rejected};

/// By whose clock Kaleyra tells times and days.
pub const ZONE: &str = "Asia/Kolkata";
/// Longest id, in characters. They are UUIDs.
const LONGEST_ID: usize = 200;
/// Longest text that rows are looked for by, in characters. An entry of an index takes 2,704 bytes at most, and a row that the
/// database refuses would have its whole page refused, each time anew.
const LONGEST_KEY: usize = 200;
/// Years that calls can be of.
const YEARS: std::ops::RangeInclusive<i16> = 1990..=2200;
/// The calls we know of, as the records of others spell them.
const SERVICES: [&str; 3] = ["Incoming", "CallForward", "Click2Call"];

/// The clock in India.
///
/// # Panics
///
/// If the program was built without the zones, which are part of it.
#[must_use]
pub fn zone() -> TimeZone {
    TimeZone::get(ZONE).expect("the zones are part of the program")
}

/// The day in India.
#[must_use]
pub fn day_of(moment: Timestamp) -> Date {
    moment.to_zoned(zone()).date()
}

/// A record, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// What is kept of it.
    pub row: LogRow,
    /// Members that are there and cannot be read, and that a row can do without: it is kept as if they were not there.
    pub unreadable: Vec<&'static str>,
}

/// Reads one record. Statuses come out in upper case; a word that nobody knows stays. A record is rejected only for want of
/// what makes it a call: the same is sent again each time, and a call that is never kept is lost.
pub fn read(record: &Value) -> Result<Read, Rejected> {
    let Value::Object(record) = record else {
        return Err(Rejected { id: None, reason: "it is not an object".to_owned() });
    };
    let id = text(record, "id").ok().flatten();
    let shown = id.as_ref().map(|id| id.chars().take(LONGEST_ID).collect());
    row(record).map_err(|reason| Rejected { id: shown, reason })
}

fn row(record: &Map<String, Value>) -> Result<Read, String> {
    let id = needed(record, "id")?;
    if id.chars().count() > LONGEST_ID {
        return Err(format!("id is longer than {LONGEST_ID} characters"));
    }
    let service = key(record, "service")?;
    let known = SERVICES.into_iter().find(|known| known.eq_ignore_ascii_case(&service));
    let mut optional = Optional { record, unreadable: Vec::new() };
    let row = LogRow {
        id,
        uniqid: optional.text("uniqid"),
        callfrom: key(record, "callfrom")?,
        callto: key(record, "callto")?,
        start_time: time(record, "start_time")?.ok_or("start_time is missing")?,
        end_time: optional.take("end_time", time),
        duration: optional.take("duration", seconds).unwrap_or(0),
        billsec: optional.take("billsec", seconds).unwrap_or(0),
        status: short(needed(record, "status")?.to_uppercase(), "status")?,
        location: optional.text("location"),
        provider: optional.text("provider"),
        service: known.map_or(service, str::to_owned),
        caller_id: optional.text("caller_id").or_else(|| optional.text("callerid")),
        recording: optional.text("recording"),
        notes: optional.text("notes"),
        custom: optional.text("custom"),
    };
    Ok(Read { row, unreadable: optional.unreadable })
}

/// Members that a row can do without.
struct Optional<'a> {
    record: &'a Map<String, Value>,
    unreadable: Vec<&'static str>,
}

impl Optional<'_> {
    fn text(&mut self, name: &'static str) -> Option<String> {
        self.take(name, text)
    }

    fn take<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&Map<String, Value>, &str) -> Result<Option<T>, String>,
    ) -> Option<T> {
        read(self.record, name).unwrap_or_else(|_| {
            self.unreadable.push(name);
            None
        })
    }
}

/// A member as text. What is absent, null or blank is nothing.
fn text(record: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    let text = match record.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.replace('\0', ""),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            return Err(format!("{name} is neither a text nor a number"));
        }
    };
    let text = text.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn needed(record: &Map<String, Value>, name: &str) -> Result<String, String> {
    text(record, name)?.ok_or_else(|| format!("{name} is missing"))
}

/// A text that must be there, and that rows are looked for by.
fn key(record: &Map<String, Value>, name: &str) -> Result<String, String> {
    short(needed(record, name)?, name)
}

fn short(text: String, name: &str) -> Result<String, String> {
    let is_short = text.chars().count() <= LONGEST_KEY;
    if is_short { Ok(text) } else { Err(format!("{name} is longer than {LONGEST_KEY} characters")) }
}

/// A count of seconds. What some write behind the point does not count.
fn seconds(record: &Map<String, Value>, name: &str) -> Result<Option<i32>, String> {
    let Some(text) = text(record, name)? else { return Ok(None) };
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=f64::from(i32::MAX)).contains(seconds));
    seconds
        .map(|seconds| Some(seconds.trunc() as i32))
        .ok_or_else(|| format!("{name} is not a number of seconds"))
}

/// A moment: by the clock in India unless it says otherwise. Zeros, which some databases write for "never", are none.
fn time(record: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, String> {
    let Some(text) = text(record, name)? else { return Ok(None) };
    if text.starts_with("0000-00-00") {
        return Ok(None);
    }
    let unreadable = || format!("{name} is not a time such as 2026-02-24 14:45:15");
    let moment = if let Ok(moment) = text.parse::<Timestamp>() {
        moment
    } else {
        let local: DateTime = text.parse().map_err(|_| unreadable())?;
        local.to_zoned(zone()).map_err(|_| unreadable())?.timestamp()
    };
    let is_possible = YEARS.contains(&day_of(moment).year());
    if is_possible { Ok(Some(moment)) } else { Err(format!("{name} is not of our time")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good() -> Value {
        json!({
            "id": "0ea1c5bc-0000-4000-8000-000000000001", "uniqid": "58_1771925707.21729277",
            "callfrom": "9812345678", "callto": "8068921234", "start_time": "2026-02-24 14:45:15",
            "end_time": "2026-02-24 14:46:20", "duration": "65", "billsec": "60", "status": "Answer",
            "location": "BIHAR", "provider": "JIO", "service": "incoming", "callerid": "8068921234",
            "recording": "//play.solutionsinfini.com/?id=1", "notes": "", "custom": null,
        })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut record = good();
        record[name] = value;
        record
    }

    #[test]
    fn texts_become_numbers_and_local_times_moments() {
        let row = read(&good()).unwrap().row;
        assert_eq!(row.start_time.to_string(), "2026-02-24T09:15:15Z");
        assert_eq!(row.end_time.unwrap().to_string(), "2026-02-24T09:16:20Z");
        assert_eq!((row.duration, row.billsec), (65, 60));
        assert_eq!((row.status.as_str(), row.service.as_str()), ("ANSWER", "Incoming"));
        assert_eq!(row.caller_id.as_deref(), Some("8068921234"));
        assert_eq!((row.notes, row.custom), (None, None));
    }

    #[test]
    fn a_time_that_names_its_zone_is_that_moment_and_zeros_are_none() {
        let row = read(&with("start_time", json!("2026-02-24T14:45:15+05:30"))).unwrap().row;
        assert_eq!(row.start_time.to_string(), "2026-02-24T09:15:15Z");
        assert_eq!(read(&with("end_time", json!("0000-00-00 00:00:00"))).unwrap().row.end_time, None);
        assert_eq!(read(&with("end_time", json!(" "))).unwrap().row.end_time, None);
    }

    #[test]
    fn what_may_be_missing_is_nothing_and_numbers_are_as_good_as_texts() {
        let record = json!({
            "id": 7, "callfrom": 9_812_345_678_u64, "callto": "8068921234", "start_time": "2026-02-24 14:45:15",
            "status": "ivr-answer", "service": "Parked", "duration": 3,
        });
        let row = read(&record).unwrap().row;
        assert_eq!((row.id.as_str(), row.callfrom.as_str()), ("7", "9812345678"));
        assert_eq!((row.duration, row.billsec, row.end_time), (3, 0, None));
        assert_eq!(
            (row.status.as_str(), row.service.as_str()),
            ("IVR-ANSWER", "Parked"),
            "new words are kept"
        );
    }

    #[test]
    fn what_a_row_can_do_without_is_left_out_when_it_cannot_be_read_and_the_call_is_kept() {
        let whole = read(&good()).unwrap();
        assert_eq!(whole.unreadable, [""; 0]);
        for name in ["uniqid", "location", "provider", "recording", "notes", "custom", "caller_id"] {
            for value in [json!([1]), json!({"a": 1}), json!(true)] {
                let kept = read(&with(name, value)).unwrap();
                assert_eq!(kept.unreadable, [name]);
                let mut expected = whole.row.clone();
                match name {
                    "uniqid" => expected.uniqid = None,
                    "location" => expected.location = None,
                    "provider" => expected.provider = None,
                    "recording" => expected.recording = None,
                    // There is the other spelling.
                    _ => {}
                }
                assert_eq!(kept.row, expected);
            }
        }
        for value in [json!("yesterday"), json!("1890-01-01T00:00:00Z"), json!([1])] {
            let kept = read(&with("end_time", value)).unwrap();
            assert_eq!((kept.row.end_time, kept.unreadable.as_slice()), (None, &["end_time"][..]));
        }
        for value in [json!("a while"), json!(-1), json!(1e300), json!("NaN"), json!([65]), json!(false)] {
            let kept = read(&with("duration", value)).unwrap();
            assert_eq!((kept.row.duration, kept.unreadable.as_slice()), (0, &["duration"][..]));
        }
        for value in [json!(65), json!(65.0), json!("65.0"), json!("65.9"), json!(" 65 ")] {
            let kept = read(&with("billsec", value)).unwrap();
            assert_eq!((kept.row.billsec, kept.unreadable.len()), (65, 0));
        }
        let mut many = with("notes", json!([1]));
        many["end_time"] = json!({});
        assert_eq!(read(&many).unwrap().unreadable, ["end_time", "notes"]);
    }

    #[test]
    fn a_record_that_cannot_be_a_row_is_rejected_with_its_id_and_a_reason() {
        for (name, value, reason) in [
            ("callfrom", json!(""), "callfrom is missing"),
            ("callto", Value::Null, "callto is missing"),
            ("status", json!(" "), "status is missing"),
            ("service", json!("\0"), "service is missing"),
            ("start_time", Value::Null, "start_time is missing"),
            ("start_time", json!("yesterday"), "start_time is not a time such as 2026-02-24 14:45:15"),
            (
                "start_time",
                json!("2026-02-30 10:00:00"),
                "start_time is not a time such as 2026-02-24 14:45:15",
            ),
            ("start_time", json!("1890-01-01T00:00:00Z"), "start_time is not of our time"),
            ("callto", json!([1]), "callto is neither a text nor a number"),
            ("status", json!(true), "status is neither a text nor a number"),
            ("callfrom", json!("9".repeat(201)), "callfrom is longer than 200 characters"),
            ("callto", json!("9".repeat(201)), "callto is longer than 200 characters"),
            ("service", json!("x".repeat(201)), "service is longer than 200 characters"),
            // In upper case it is twice as long.
            ("status", json!("\u{df}".repeat(101)), "status is longer than 200 characters"),
        ] {
            let rejected = read(&with(name, value)).unwrap_err();
            assert_eq!(rejected.reason, reason);
            assert_eq!(rejected.id.as_deref(), good()["id"].as_str());
        }
        // What nobody looks for may be as long as it likes.
        assert!(read(&with("notes", json!("x".repeat(10_000)))).is_ok());
        assert!(read(&with("callto", json!("9".repeat(200)))).is_ok());
        assert_eq!(read(&with("id", json!(""))).unwrap_err().id, None);
        assert_eq!(read(&with("id", json!("x".repeat(300)))).unwrap_err().id.unwrap().len(), 200);
        assert_eq!(read(&json!("a row")).unwrap_err().reason, "it is not an object");
    }
}
