//! A table that somebody uploads as CSV: read row by row, with a report of the rows that cannot be taken.

use std::collections::HashMap;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use csv::{ByteRecord, Reader, ReaderBuilder};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::api::body::looks_like_email;
use crate::api::error::ApiError;
use crate::ids::PhoneNumber;
use crate::outreach::window::zone;

/// Largest table. With a name and an address in each, that is some fifty thousand rows.
pub(crate) const MOST_BYTES: usize = 4 * 1024 * 1024;
/// Most bad rows that are named; the rest are counted.
const MOST_NAMED: usize = 1_000;
/// What spreadsheets write first.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The rows that were not taken.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct BadRows {
    /// The first thousand of them.
    pub bad: Vec<BadRow>,
    /// How many they are in all.
    pub bad_total: u64,
}

/// A row that was not taken. What it says is not repeated: it is about people.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct BadRow {
    /// Line of the file on which it begins; the header is on line 1.
    #[schema(example = 17)]
    pub line: u64,
    /// The column.
    #[schema(example = "phone")]
    pub column: &'static str,
    /// What kind of thing is there instead.
    pub value: ValueClass,
    /// What it must be.
    #[schema(example = "not a phone number in E.164, such as +14155550123")]
    pub reason: String,
}

/// What kind of thing is in a column that holds what it cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueClass {
    /// Nothing.
    Empty,
    /// A number without `+` and country code.
    NationalNumber,
    /// A number with `+` that no country has.
    ImpossibleNumber,
    /// Words.
    Text,
    /// More than fits.
    TooLong,
    /// Bytes that are no UTF-8 text.
    NotUtf8,
    /// What an earlier row says already.
    Duplicate,
}

/// The columns that are looked for: a name, and other names for it.
pub(crate) type Column = (&'static str, &'static [&'static str]);

/// A table that is being read.
pub(crate) struct Table {
    reader: Reader<std::io::Cursor<Bytes>>,
    record: ByteRecord,
    lines: Lines,
    /// Of each column that is looked for, where it is.
    places: Vec<(&'static str, Option<usize>)>,
    /// Columns of the table that nobody looks for.
    pub(crate) ignored: Vec<String>,
}

/// On which line a row begins. The reader's own count is one behind where lines end with CR and LF.
struct Lines {
    body: Bytes,
    /// How far lines are counted.
    at: usize,
    line: u64,
}

/// One row: of each column that is looked for what it says, trimmed; `None` where it says nothing.
pub(crate) struct Fields {
    pub(crate) line: u64,
    values: HashMap<&'static str, String>,
}

impl Table {
    /// Reads the header. The first of the columns must be there.
    pub(crate) fn open(
        headers: &HeaderMap,
        body: Result<Bytes, BytesRejection>,
        columns: &[Column],
    ) -> Result<Self, ApiError> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
        if !media_type.trim().eq_ignore_ascii_case("text/csv") {
            return Err(ApiError::unsupported_media_type("send the table with Content-Type: text/csv"));
        }
        let body = body.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::payload_too_large()
                .with_details(json!({ "most_bytes": MOST_BYTES, "hint": "split the table" })),
            _ => ApiError::bad_request("invalid_body", "the table did not come whole; send it again"),
        })?;
        let skip = if body.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        let body = body.slice(skip..);
        let reader = ReaderBuilder::new()
            .delimiter(delimiter(&body))
            .flexible(true)
            .has_headers(false)
            .from_reader(std::io::Cursor::new(body.clone()));
        let (record, lines) = (ByteRecord::new(), Lines { body, at: 0, line: 1 });
        let mut table = Self { reader, record, lines, places: Vec::new(), ignored: Vec::new() };
        table.find_columns(columns)?;
        Ok(table)
    }

    fn find_columns(&mut self, columns: &[Column]) -> Result<(), ApiError> {
        if !self.advance() {
            return Err(ApiError::invalid("the table is empty; its first line names the columns"));
        }
        self.places = columns.iter().map(|(name, _)| (*name, None)).collect();
        for (index, name) in self.record.iter().enumerate() {
            let name = String::from_utf8_lossy(name).trim().to_lowercase();
            let known = columns.iter().position(|(known, others)| *known == name || others.contains(&&*name));
            match known.and_then(|known| self.places.get_mut(known)) {
                Some((_, place @ None)) => *place = Some(index),
                Some((known, Some(_))) => {
                    return Err(ApiError::invalid(format!("there are two columns `{known}`; leave one out")));
                }
                None => self.ignored.push(name.chars().take(100).collect()),
            }
        }
        match self.places.first() {
            Some((name, None)) => Err(ApiError::invalid(format!(
                "there is no column `{name}`; the first line names the columns"
            ))),
            _ => Ok(()),
        }
    }

    /// The next row, or why it cannot be taken. `None`: there is no more.
    pub(crate) fn next(&mut self) -> Option<Result<Fields, BadRow>> {
        if !self.advance() {
            return None;
        }
        let line = self.lines.line_of(self.record.position().map_or(0, csv::Position::byte) as usize);
        let mut values = HashMap::new();
        for (column, place) in &self.places {
            let Some(bytes) = place.and_then(|place| self.record.get(place)) else { continue };
            let Ok(text) = std::str::from_utf8(bytes) else {
                let reason = "save the table as UTF-8".to_owned();
                return Some(Err(BadRow { line, column, value: ValueClass::NotUtf8, reason }));
            };
            if !text.trim().is_empty() {
                values.insert(*column, text.trim().to_owned());
            }
        }
        Some(Ok(Fields { line, values }))
    }

    /// The next record into `record`. Memory does not fail, and records may have any length.
    fn advance(&mut self) -> bool {
        self.reader.read_byte_record(&mut self.record).unwrap_or(false)
    }
}

impl Lines {
    /// The line of the row that is the next after this place.
    fn line_of(&mut self, place: usize) -> u64 {
        let is_break = |byte: u8| byte == b'\r' || byte == b'\n';
        while let Some(byte) = self.body.get(self.at).copied() {
            if self.at >= place && !is_break(byte) {
                break;
            }
            let is_pair = byte == b'\r' && self.body.get(self.at + 1) == Some(&b'\n');
            self.line += u64::from(is_break(byte) && !is_pair);
            self.at += 1;
        }
        self.line
    }
}

/// Spreadsheets of countries whose decimals have a comma write semicolons.
fn delimiter(body: &[u8]) -> u8 {
    let header = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if header.contains(&b';') && !header.contains(&b',') { b';' } else { b',' }
}

impl Fields {
    /// The text of a column of at most so many characters.
    pub(crate) fn text(&mut self, column: &'static str, most: usize) -> Result<Option<String>, BadRow> {
        let Some(text) = self.values.remove(column) else { return Ok(None) };
        if text.chars().count() > most {
            return Err(self.bad(
                column,
                ValueClass::TooLong,
                format!("must have at most {most} characters"),
            ));
        }
        Ok(Some(text))
    }

    /// The telephone, which must be there.
    pub(crate) fn phone(&mut self, column: &'static str) -> Result<PhoneNumber, BadRow> {
        let text = self.values.remove(column).unwrap_or_default();
        PhoneNumber::parse(&text)
            .map_err(|error| self.bad(column, ValueClass::of_phone(&text), error.to_string()))
    }

    /// An address, when there is one.
    pub(crate) fn email(&mut self, column: &'static str, most: usize) -> Result<Option<String>, BadRow> {
        match self.text(column, most)? {
            Some(email) if !looks_like_email(&email) => {
                Err(self.bad(column, ValueClass::Text, "must look like name@example.com".to_owned()))
            }
            email => Ok(email),
        }
    }

    /// A zone, when one is named.
    pub(crate) fn time_zone(&mut self, column: &'static str) -> Result<Option<String>, BadRow> {
        let Some(name) = self.values.remove(column) else { return Ok(None) };
        let zone = zone(&name).map_err(|error| self.bad(column, ValueClass::Text, error.to_string()))?;
        Ok(zone.iana_name().map(str::to_owned))
    }

    /// A whole number, when there is one.
    pub(crate) fn number(&mut self, column: &'static str) -> Result<Option<i32>, BadRow> {
        let Some(text) = self.values.remove(column) else { return Ok(None) };
        let number = text.parse().map_err(|_| {
            self.bad(column, ValueClass::Text, "must be a whole number, or be left empty".to_owned())
        });
        number.map(Some)
    }

    /// A row of this line that is not taken.
    pub(crate) const fn bad(&self, column: &'static str, value: ValueClass, reason: String) -> BadRow {
        BadRow { line: self.line, column, value, reason }
    }
}

impl ValueClass {
    fn of_phone(text: &str) -> Self {
        if text.is_empty() {
            Self::Empty
        } else if text.contains(char::is_alphabetic) || !text.contains(|c: char| c.is_ascii_digit()) {
            Self::Text
        } else if text.starts_with('+') {
            Self::ImpossibleNumber
        } else {
            Self::NationalNumber
        }
    }
}

impl BadRows {
    /// Adds one.
    pub(crate) fn add(&mut self, row: BadRow) {
        self.bad_total += 1;
        if self.bad.len() < MOST_NAMED {
            self.bad.push(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [("phone", &["number"]), ("name", &[]), ("time_zone", &[])];

    fn open(text: impl Into<Bytes>) -> Result<Table, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "text/csv; charset=utf-8".parse().unwrap());
        Table::open(&headers, Ok(text.into()), &COLUMNS)
    }

    fn names(table: &mut Table) -> Vec<(u64, Option<String>)> {
        std::iter::from_fn(|| table.next())
            .map(|row| row.ok().unwrap())
            .map(|mut row| (row.line, row.text("name", 100).unwrap()))
            .collect()
    }

    #[test]
    fn columns_are_found_by_name_in_any_order_and_case() {
        let mut table =
            open("\u{feff}Name ,Shoe size,NUMBER\r\nAda,38,+14155550123\r\n\"Bob, \"\"Bo\"\"\",,\r\n")
                .ok()
                .unwrap();
        assert_eq!(table.ignored, ["shoe size"]);
        let mut first = table.next().unwrap().ok().unwrap();
        assert_eq!(first.phone("phone").unwrap().expose(), "+14155550123");
        let mut second = table.next().unwrap().ok().unwrap();
        assert_eq!(second.text("name", 100).unwrap().as_deref(), Some("Bob, \"Bo\""));
        assert_eq!(second.phone("phone").unwrap_err().value, ValueClass::Empty);
        assert!(table.next().is_none());
    }

    #[test]
    fn semicolons_lines_within_quotes_and_short_rows_are_read() {
        for line_break in ["\n", "\r\n", "\r"] {
            let text = "phone;name\n1;\"two\nlines\"\n2\n\n3;c;more\n".replace('\n', line_break);
            let two = format!("two{line_break}lines");
            let expected = [(2, Some(two)), (4, None), (6, Some("c".to_owned()))];
            assert_eq!(names(&mut open(text).ok().unwrap()), expected, "with the line on which each begins");
        }
    }

    #[test]
    fn a_row_says_what_is_wrong_without_saying_what_it_is() {
        for (value, class) in [
            ("", ValueClass::Empty),
            ("04155 550123", ValueClass::NationalNumber),
            ("+1 000", ValueClass::ImpossibleNumber),
            ("ask Bob", ValueClass::Text),
            ("-", ValueClass::Text),
        ] {
            let mut table = open(format!("phone,name\n{value},x\n")).ok().unwrap();
            let bad = table.next().unwrap().ok().unwrap().phone("phone").unwrap_err();
            assert_eq!((bad.line, bad.column, bad.value), (2, "phone", class), "{value}");
            assert!(value.is_empty() || !bad.reason.contains(value));
        }
        let mut table = open(&b"phone,name\n1,\xff\n"[..]).ok().unwrap();
        assert_eq!(table.next().unwrap().err().unwrap().value, ValueClass::NotUtf8);
        let mut table = open("phone,name,time_zone\n1,xxxx,Mars\n").ok().unwrap();
        let mut row = table.next().unwrap().ok().unwrap();
        assert_eq!(row.text("name", 3).unwrap_err().value, ValueClass::TooLong);
        assert_eq!(row.time_zone("time_zone").unwrap_err().value, ValueClass::Text);
    }

    #[test]
    fn a_table_without_a_header_is_refused() {
        for text in ["", "name\nAda\n", "phone,number\n1,2\n"] {
            assert_eq!(open(text).err().unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY, "{text:?}");
        }
    }
}
