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

/// Reads one record. Statuses come out in upper case; a word that nobody knows stays.
pub fn read(record: &Value) -> Result<LogRow, Rejected> {
    let Value::Object(record) = record else {
        return Err(Rejected { id: None, reason: "it is not an object".to_owned() });
    };
    let id = text(record, "id").ok().flatten();
    let shown = id.as_ref().map(|id| id.chars().take(LONGEST_ID).collect());
    row(record).map_err(|reason| Rejected { id: shown, reason })
}

fn row(record: &Map<String, Value>) -> Result<LogRow, String> {
    let id = needed(record, "id")?;
    if id.chars().count() > LONGEST_ID {
        return Err(format!("id is longer than {LONGEST_ID} characters"));
    }
    let service = key(record, "service")?;
    let known = SERVICES.into_iter().find(|known| known.eq_ignore_ascii_case(&service));
    Ok(LogRow {
        id,
        uniqid: text(record, "uniqid")?,
        callfrom: key(record, "callfrom")?,
        callto: key(record, "callto")?,
        start_time: time(record, "start_time")?.ok_or("start_time is missing")?,
        end_time: time(record, "end_time")?,
        duration: seconds(record, "duration")?,
        billsec: seconds(record, "billsec")?,
        status: short(needed(record, "status")?.to_uppercase(), "status")?,
        location: text(record, "location")?,
        provider: text(record, "provider")?,
        service: known.map_or(service, str::to_owned),
        caller_id: match text(record, "caller_id")? {
            Some(number) => Some(number),
            None => text(record, "callerid")?,
        },
        recording: text(record, "recording")?,
        notes: text(record, "notes")?,
        custom: text(record, "custom")?,
    })
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

/// A count of seconds; 0 where there is none.
fn seconds(record: &Map<String, Value>, name: &str) -> Result<i32, String> {
    let Some(text) = text(record, name)? else { return Ok(0) };
    let seconds = text.parse::<i32>().ok().filter(|seconds| *seconds >= 0);
    seconds.ok_or_else(|| format!("{name} is not a whole number of seconds"))
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
        let row = read(&good()).unwrap();
        assert_eq!(row.start_time.to_string(), "2026-02-24T09:15:15Z");
        assert_eq!(row.end_time.unwrap().to_string(), "2026-02-24T09:16:20Z");
        assert_eq!((row.duration, row.billsec), (65, 60));
        assert_eq!((row.status.as_str(), row.service.as_str()), ("ANSWER", "Incoming"));
        assert_eq!(row.caller_id.as_deref(), Some("8068921234"));
        assert_eq!((row.notes, row.custom), (None, None));
    }

    #[test]
    fn a_time_that_names_its_zone_is_that_moment_and_zeros_are_none() {
        let row = read(&with("start_time", json!("2026-02-24T14:45:15+05:30"))).unwrap();
        assert_eq!(row.start_time.to_string(), "2026-02-24T09:15:15Z");
        assert_eq!(read(&with("end_time", json!("0000-00-00 00:00:00"))).unwrap().end_time, None);
        assert_eq!(read(&with("end_time", json!(" "))).unwrap().end_time, None);
    }

    #[test]
    fn what_may_be_missing_is_nothing_and_numbers_are_as_good_as_texts() {
        let record = json!({
            "id": 7, "callfrom": 9_812_345_678_u64, "callto": "8068921234", "start_time": "2026-02-24 14:45:15",
            "status": "ivr-answer", "service": "Parked", "duration": 3,
        });
        let row = read(&record).unwrap();
        assert_eq!((row.id.as_str(), row.callfrom.as_str()), ("7", "9812345678"));
        assert_eq!((row.duration, row.billsec, row.end_time), (3, 0, None));
        assert_eq!(
            (row.status.as_str(), row.service.as_str()),
            ("IVR-ANSWER", "Parked"),
            "new words are kept"
        );
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
            ("end_time", json!("1890-01-01T00:00:00Z"), "end_time is not of our time"),
            ("duration", json!("a while"), "duration is not a whole number of seconds"),
            ("billsec", json!(-1), "billsec is not a whole number of seconds"),
            ("billsec", json!(1e300), "billsec is not a whole number of seconds"),
            ("notes", json!([1]), "notes is neither a text nor a number"),
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
