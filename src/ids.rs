//! Names of things: calls, streams, items, phone numbers. Parsed once at the edge, trusted inside.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that cannot be the id it was given as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be 1 to {max} printable ASCII characters without spaces")]
pub struct InvalidId {
    kind: &'static str,
    max: usize,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses the id; refuses empty, overlong and non-printable text.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let fits = !text.is_empty() && text.len() <= $max && text.bytes().all(|b| b.is_ascii_graphic());
                if fits { Ok(Self(text.into())) } else { Err(InvalidId { kind: stringify!($name), max: $max }) }
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id!(
    /// The carrier's id of a call (Twilio `CA…`). It joins every record of the call.
    CallSid,
    50
);
text_id!(
    /// The carrier's id of one media stream of a call (Twilio `MZ…`).
    StreamSid,
    64
);
text_id!(
    /// The model's id of a conversation item, or one that we chose.
    ItemId,
    128
);
text_id!(
    /// The model's id of a response.
    ResponseId,
    128
);
text_id!(
    /// The model's id of one function call.
    ToolCallId,
    128
);

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id!(
    /// A tenant.
    OrganizationId
);
uuid_id!(
    /// A configured voice agent.
    AgentId
);
uuid_id!(
    /// One of the organisation's own numbers.
    PhoneNumberId
);
uuid_id!(
    /// Something that somebody in charge wants of a live call.
    CommandId
);

/// A phone number in E.164. Display and Debug mask it; [`PhoneNumber::expose`] does not.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PhoneNumber(Arc<str>);

/// Not a phone number in E.164.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a phone number in E.164, such as +14155550123")]
pub struct InvalidPhoneNumber;

/// A country, by its two letters of ISO 3166-1, in which numbers are dialled without its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Country(rlibphonenumber::Region);

/// Not a country that has telephone numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the two letters of a country, such as IN")]
pub struct InvalidCountry;

impl Country {
    /// In whatever case.
    pub fn parse(text: &str) -> Result<Self, InvalidCountry> {
        let region: rlibphonenumber::Region = text.parse().map_err(|_| InvalidCountry)?;
        let has_numbers = rlibphonenumber::PHONE_NUMBER_UTIL.get_country_code_for_region(region).is_some();
        if text.len() == 2 && has_numbers { Ok(Self(region)) } else { Err(InvalidCountry) }
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl PhoneNumber {
    /// Normalises to E.164 what was written in this country: with `+`, as it is dialled at home or from there abroad, or as the
    /// country's code and the number. Without a `+` it must be a number that somebody can have, since most digits are
    /// somebody's in some country.
    pub fn parse_in(text: &str, country: Country) -> Result<Self, InvalidPhoneNumber> {
        use rlibphonenumber::PhoneNumberFormat;
        let text = text.trim();
        if text.starts_with('+') {
            return Self::parse(text);
        }
        if text.contains(|c: char| c.is_alphabetic()) {
            return Err(InvalidPhoneNumber);
        }
        let number =
            rlibphonenumber::PhoneNumber::parse(text, Some(country.0)).map_err(|_| InvalidPhoneNumber)?;
        if !number.is_valid() {
            return Err(InvalidPhoneNumber);
        }
        Ok(Self(number.format_as(PhoneNumberFormat::E164).as_ref().into()))
    }

    /// Normalises to E.164. Carriers send E.164 already; people type spaces, dashes and brackets, which are accepted
    /// as long as the number begins with `+` and its country code.
    pub fn parse(text: &str) -> Result<Self, InvalidPhoneNumber> {
        use rlibphonenumber::PhoneNumberFormat;
        let text = text.trim();
        if !text.starts_with('+') || text.contains(|c: char| c.is_alphabetic()) {
            return Err(InvalidPhoneNumber);
        }
        let number: rlibphonenumber::PhoneNumber = text.parse().map_err(|_| InvalidPhoneNumber)?;
        if number.is_possible_with_reason().is_err() {
            return Err(InvalidPhoneNumber);
        }
        Ok(Self(number.format_as(PhoneNumberFormat::E164).as_ref().into()))
    }

    /// The number as others may have written it, all punctuation aside: with `+`, without, with what is dialled abroad in front,
    /// and as it is dialled at home. What is without `+` may be another number elsewhere.
    #[must_use]
    pub fn spellings(&self) -> Vec<String> {
        let digits = self.0.trim_start_matches('+');
        let mut spellings =
            vec![format!("+{digits}"), digits.to_owned(), format!("00{digits}"), format!("011{digits}")];
        if let Ok(number) = self.0.parse::<rlibphonenumber::PhoneNumber>() {
            let national = number.format_as(rlibphonenumber::PhoneNumberFormat::National);
            let national: String = national.chars().filter(char::is_ascii_digit).collect();
            let bare = national.trim_start_matches('0');
            // Shorter ones are many people's.
            if bare.len() >= 9 {
                spellings.extend([bare.to_owned(), format!("0{bare}"), national]);
            }
        }
        spellings.sort();
        spellings.dedup();
        spellings
    }

    /// The whole number, for storing, dialing and looking up. Never for a log.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = &self.0;
        write!(f, "+…{}", &digits[digits.len().saturating_sub(2)..])
    }
}

impl fmt::Debug for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_short_printable_ascii() {
        assert!(CallSid::parse("CA00000000000000000000000000000001").is_ok());
        assert!(CallSid::parse("").is_err());
        assert!(CallSid::parse("CA 1").is_err());
        assert!(CallSid::parse(&"x".repeat(51)).is_err());
        assert!(serde_json::from_str::<CallSid>("\"a\\u0000b\"").is_err());
    }

    #[test]
    fn a_number_without_a_plus_is_one_of_the_country_it_was_written_in_or_none() {
        for (country, text, number) in [
            ("IN", "9812345678", Some("+919812345678")),
            ("IN", "09812345678", Some("+919812345678")),
            ("IN", " 98123-45678 ", Some("+919812345678")),
            ("in", "919812345678", Some("+919812345678")),
            // An Indian number that begins as the country's code does.
            ("IN", "9198123456", Some("+919198123456")),
            ("IN", "0014155552671", Some("+14155552671")),
            ("IN", "+14155552671", Some("+14155552671")),
            // It would be one in the United States.
            ("IN", "14155552671", None),
            ("US", "14155552671", Some("+14155552671")),
            ("US", "4155552671", Some("+14155552671")),
            // Eleven digits that would be one in Texas.
            ("CN", "13612345678", Some("+8613612345678")),
            ("GB", "07400123456", Some("+447400123456")),
            ("IN", "anonymous", None),
            ("IN", "12345", None),
            ("IN", "", None),
        ] {
            let parsed = PhoneNumber::parse_in(text, Country::parse(country).unwrap()).ok();
            assert_eq!(parsed.as_ref().map(PhoneNumber::expose), number, "{country} {text}");
        }
        for bad in ["", "I", "IND", "001", "ZZ", "1N", "\u{e4}"] {
            assert_eq!(Country::parse(bad), Err(InvalidCountry), "{bad}");
        }
        assert_eq!(Country::parse("in").unwrap().to_string(), "IN");
    }

    #[test]
    fn a_phone_number_is_normalised_and_masked() {
        let number = PhoneNumber::parse(" +1 (415) 555-0123 ").unwrap();
        assert_eq!(number.expose(), "+14155550123");
        assert_eq!(format!("{number} {number:?}"), "+…23 +…23");
        for bad in ["", "anonymous", "4155550123", "+1", "client:bob", "+3367a829916x"] {
            assert_eq!(PhoneNumber::parse(bad), Err(InvalidPhoneNumber), "{bad}");
        }
    }
}
