//! Calls that an assistant at VAPI has answered. VAPI tells of each when it is over.

mod ended_reason;
mod messages;
mod report;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::ids::OrganizationId;
use crate::ingest::Problem;
use crate::lifecycle::report::{self as lifecycle, Reported};
use crate::store::Store;
use crate::store::reports::Report;

/// What VAPI has sent.
#[derive(Debug, Clone)]
pub enum Message {
    /// A call is over.
    Report(Box<Report>),
    /// Something else happened; of what VAPI tells during a call nothing is kept.
    Other,
}

/// Reads a body that VAPI has sent: `{"message": {"type": …}}`. `came_at` stands for whatever the report does not say of
/// its time. What is wrong with it is told all at once; members that we could do without are none where they cannot be read.
pub fn read(body: &Value, came_at: Timestamp) -> Result<Message, Vec<Problem>> {
    let Some(message) = object(body.get("message")) else {
        return Err(vec![Problem::new("message", "must be an object, as VAPI sends it")]);
    };
    let Some(kind) = message.get("type").and_then(Value::as_str) else {
        return Err(vec![Problem::new("message.type", "must be a text, such as end-of-call-report")]);
    };
    if kind != lifecycle::END_OF_CALL {
        return Ok(Message::Other);
    }
    report::read(message, came_at).map(|report| Message::Report(Box::new(report)))
}

/// Puts a report of an organisation's call on record.
pub async fn take(store: &Store, organization: OrganizationId, report: &Report) -> sqlx::Result<Reported> {
    lifecycle::record(store, organization, report).await
}

/// The first of these members that is a text with something in it.
fn text<'a>(places: &[Option<&'a Value>]) -> Option<&'a str> {
    places.iter().flatten().filter_map(|value| value.as_str()).map(str::trim).find(|text| !text.is_empty())
}

/// The first of these members that is a moment: ISO 8601, or milliseconds since 1970.
fn moment(places: &[Option<&Value>]) -> Option<Timestamp> {
    let read = |value: &&Value| match value {
        Value::String(text) => text.trim().parse().ok(),
        Value::Number(number) => {
            let milliseconds = number.as_i64().or_else(|| number.as_f64().map(|number| number as i64))?;
            Timestamp::from_millisecond(milliseconds).ok()
        }
        _ => None,
    };
    places.iter().flatten().filter_map(read).find(|moment| is_plausible(*moment))
}

/// Calls are of our time; anything else is a mistake, and some of it no column takes.
fn is_plausible(moment: Timestamp) -> bool {
    // 1980 to 2200.
    (315_532_800..7_258_118_400).contains(&moment.as_second())
}

fn object(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
