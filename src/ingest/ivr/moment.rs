//! Times as menu systems write them.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::tz::TimeZone;
use serde_json::Value;

/// Seconds since 1970 have ten digits, milliseconds thirteen, for as long as these systems will run.
const MILLISECONDS_FROM: i64 = 100_000_000_000;
/// 1980 to 2200: anything else is a mistake, and some of it no column takes.
const PLAUSIBLE: std::ops::Range<i64> = 315_532_800..7_258_118_400;

/// ISO 8601, RFC 2822, or seconds or milliseconds since 1970. What names no offset is in `zone`; of an hour that a clock
/// shows twice the first is meant.
pub(super) fn read(value: &Value, zone: &TimeZone) -> Option<Timestamp> {
    let moment = match value {
        Value::Number(number) => since_1970(number.as_f64()?),
        Value::String(text) => {
            let text = text.trim();
            match text.parse::<f64>() {
                Ok(number) => since_1970(number),
                Err(_) => text
                    .parse()
                    .ok()
                    .or_else(|| DateTimeParser::new().parse_timestamp(text).ok())
                    .or_else(|| local(text, zone)),
            }
        }
        _ => None,
    };
    moment.filter(|moment| PLAUSIBLE.contains(&moment.as_second()))
}

fn since_1970(number: f64) -> Option<Timestamp> {
    if number.abs() < MILLISECONDS_FROM as f64 {
        Timestamp::from_microsecond((number * 1e6) as i64).ok()
    } else {
        Timestamp::from_millisecond(number as i64).ok()
    }
}

fn local(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    let date_time: DateTime = text.parse().ok()?;
    Some(date_time.to_zoned(zone.clone()).ok()?.timestamp())
}

/// A number of seconds, those that have begun counted whole; or hours, minutes and seconds with colons between.
pub(super) fn seconds(value: &Value) -> Option<i32> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => match text.trim().parse() {
            Ok(number) => number,
            Err(_) => clock(text.trim())?,
        },
        _ => return None,
    };
    let fits = (0.0..=f64::from(i32::MAX)).contains(&number);
    fits.then_some(number.ceil() as i32)
}

fn clock(text: &str) -> Option<f64> {
    let parts: Vec<u32> = text.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = match parts[..] {
        [minutes, seconds] => [0, minutes, seconds],
        [hours, minutes, seconds] => [hours, minutes, seconds],
        _ => return None,
    };
    let fits = seconds < 60 && (minutes < 60 || parts.len() == 2);
    fits.then(|| f64::from(hours) * 3600.0 + f64::from(minutes) * 60.0 + f64::from(seconds))
}
