//! What a message says, by the mapping of whoever has sent it.
//!
//! Only the id of the call must be there. Any other member that is missing is null, and one that is there and cannot be
//! read is null as well, and said to be: the message is kept whole, and the provider would send the same again.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use super::moment;
use crate::ids::{CallSid, Country};
use crate::ingest::Problem;
use crate::store::ivr::messages::Told;
use crate::store::ivr::numbers::phone;

/// Longest path in a message.
const PATH: usize = 200;
/// Longest text of one member.
const TEXT: usize = 2_000;
/// Longest id of a call.
const ID: usize = 200;

/// A member of ours that a provider has a name for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The provider's id of the call.
    CallId,
    /// The carrier's.
    CallSid,
    /// Who called.
    FromNumber,
    /// Who was called.
    ToNumber,
    /// How the call is doing.
    Status,
    /// When it began.
    StartedAt,
    /// When it was over.
    EndedAt,
    /// Seconds.
    Duration,
    /// Keys pressed, or entries chosen.
    Digits,
    /// Where a recording is.
    RecordingUrl,
    /// When what is told happened.
    UpdatedAt,
}

impl Field {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::CallId,
        Self::CallSid,
        Self::FromNumber,
        Self::ToNumber,
        Self::Status,
        Self::StartedAt,
        Self::EndedAt,
        Self::Duration,
        Self::Digits,
        Self::RecordingUrl,
        Self::UpdatedAt,
    ];

    /// The name in a mapping.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CallId => "call_id",
            Self::CallSid => "call_sid",
            Self::FromNumber => "from_number",
            Self::ToNumber => "to_number",
            Self::Status => "status",
            Self::StartedAt => "started_at",
            Self::EndedAt => "ended_at",
            Self::Duration => "duration",
            Self::Digits => "digits",
            Self::RecordingUrl => "recording_url",
            Self::UpdatedAt => "updated_at",
        }
    }
}

/// Where in the messages of a provider our members are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping(BTreeMap<Field, String>);

/// A message, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// What it tells of the call.
    pub told: Told,
    /// Members that are there and cannot be read.
    pub problems: Vec<Problem>,
}

impl Mapping {
    /// Reads a mapping: our names, each with a JSON pointer (`/data/call/id`), a path with dots (`data.call.id`) or the name
    /// of a form field. All that is wrong with it is told at once.
    pub fn parse(mapping: &Value) -> Result<Self, Vec<Problem>> {
        let Value::Object(members) = mapping else {
            return Err(vec![Problem::new("mapping", "must be an object of our names and the provider's")]);
        };
        let (mut paths, mut problems) = (BTreeMap::new(), Vec::new());
        for (name, path) in members {
            let Some(field) = Field::ALL.into_iter().find(|field| field.as_str() == name) else {
                let known = Field::ALL.map(Field::as_str).join(", ");
                problems
                    .push(Problem::new("mapping", format!("has a name that is not ours; ours are {known}")));
                continue;
            };
            match path.as_str().map(str::trim) {
                Some(path) if (1..=PATH).contains(&path.chars().count()) && !path.contains('\0') => {
                    paths.insert(field, path.to_owned());
                }
                _ => problems.push(Problem::new(
                    format!("mapping.{}", field.as_str()),
                    format!("must be a path of 1 to {PATH} characters, such as /data/call/id"),
                )),
            }
        }
        if !members.contains_key(Field::CallId.as_str()) {
            problems.push(Problem::new("mapping.call_id", "must be there: it tells one call from another"));
        }
        if problems.is_empty() { Ok(Self(paths)) } else { Err(problems) }
    }

    /// What a message says. `zone`: of times that do not say; `home`: of numbers without a plus. Without an id of the call
    /// nothing can be kept: then all that is wrong with the message is told.
    pub fn read(&self, payload: Value, zone: &TimeZone, home: Option<Country>) -> Result<Read, Vec<Problem>> {
        let mut reader = Reader { mapping: self, payload: &payload, zone, problems: Vec::new() };
        let provider_call_id = reader.text(Field::CallId, ID);
        let call_sid = reader.call_sid();
        let from_number = reader.text(Field::FromNumber, TEXT);
        let to_number = reader.text(Field::ToNumber, TEXT);
        let status = reader.text(Field::Status, TEXT);
        let started_at = reader.moment(Field::StartedAt);
        let ended_at = reader.moment(Field::EndedAt);
        let duration_s = reader.seconds(Field::Duration);
        let digits = reader.list(Field::Digits);
        let recording_url = reader.text(Field::RecordingUrl, TEXT);
        let updated_at = reader.moment(Field::UpdatedAt);
        let mut problems = reader.problems;
        let Some(provider_call_id) = provider_call_id else {
            if !problems.iter().any(|problem| problem.field == Field::CallId.as_str()) {
                let path = self.0.get(&Field::CallId).map_or("", String::as_str);
                let problem = Problem::new("call_id", format!("is not in the message, at {path}"));
                problems.insert(0, problem);
            }
            return Err(problems);
        };
        let told = Told {
            provider_call_id,
            call_sid,
            from_phone: from_number.as_deref().and_then(|sent| phone(sent, home)),
            from_number,
            to_phone: to_number.as_deref().and_then(|sent| phone(sent, home)),
            to_number,
            status,
            started_at,
            ended_at,
            duration_s,
            digits,
            recording_url,
            occurred_at: updated_at.or(ended_at).or(started_at),
            unreadable: problems.iter().map(|problem| problem.field.clone()).collect(),
            payload,
        };
        Ok(Read { told, problems })
    }
}

/// The parameters of a form as a message. A repeated name keeps its values as a list.
#[must_use]
pub fn form(parameters: Vec<(String, String)>) -> Value {
    let mut payload = Map::new();
    for (name, value) in parameters {
        let value = Value::String(value);
        match payload.get_mut(&name) {
            None => {
                payload.insert(name, value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Value::Object(payload)
}

/// Takes members one by one and notes which cannot be read.
struct Reader<'a> {
    mapping: &'a Mapping,
    payload: &'a Value,
    zone: &'a TimeZone,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// The member, where there is one with something in it.
    fn find(&self, field: Field) -> Option<&'a Value> {
        let path = self.mapping.0.get(&field)?;
        let found =
            if path.starts_with('/') { self.payload.pointer(path) } else { dotted(self.payload, path) };
        found.filter(|value| !value.is_null() && value.as_str().is_none_or(|text| !text.trim().is_empty()))
    }

    fn note<T>(&mut self, field: Field, problem: &str) -> Option<T> {
        self.problems.push(Problem::new(field.as_str(), problem));
        None
    }

    fn text(&mut self, field: Field, most: usize) -> Option<String> {
        let text = match self.find(field)? {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            Value::Bool(is) => is.to_string(),
            _ => return self.note(field, "must be a text or a number"),
        };
        if text.chars().count() > most || text.contains('\0') {
            return self.note(field, &format!("must have at most {most} characters, none of them NUL"));
        }
        Some(text)
    }

    /// A text, or a list of them with commas between.
    fn list(&mut self, field: Field) -> Option<String> {
        let Value::Array(entries) = self.find(field)? else { return self.text(field, TEXT) };
        let texts: Option<Vec<_>> = entries
            .iter()
            .map(|entry| match entry {
                Value::String(text) => Some(text.trim().to_owned()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            })
            .collect();
        match texts.map(|texts| texts.join(",")) {
            Some(text) if text.is_empty() => None,
            Some(text) if text.chars().count() <= TEXT && !text.contains('\0') => Some(text),
            _ => {
                self.note(field, &format!("must be a text, or a list of texts, of {TEXT} characters at most"))
            }
        }
    }

    fn call_sid(&mut self) -> Option<CallSid> {
        let text = self.text(Field::CallSid, TEXT)?;
        CallSid::parse(&text)
            .ok()
            .or_else(|| self.note(Field::CallSid, "must have 1 to 50 printable characters without spaces"))
    }

    fn moment(&mut self, field: Field) -> Option<Timestamp> {
        let read = moment::read(self.find(field)?, self.zone);
        read.or_else(|| self.note(field, "must be a moment, such as 2024-10-30T09:00:00Z or 1730278800"))
    }

    fn seconds(&mut self, field: Field) -> Option<i32> {
        let read = moment::seconds(self.find(field)?);
        read.or_else(|| self.note(field, "must be seconds, such as 90, or a time such as 00:01:30"))
    }
}

/// The member of this name, or else at the end of this path of names and, in lists, places from 0.
fn dotted<'a>(payload: &'a Value, path: &str) -> Option<&'a Value> {
    if let Some(member) = payload.get(path) {
        return Some(member);
    }
    path.split('.').try_fold(payload, |value, name| match value {
        Value::Array(entries) => entries.get(name.parse::<usize>().ok()?),
        other => other.get(name),
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
