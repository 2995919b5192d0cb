//! What both JSON protocols need: text that is borrowed, members of any type, strings written without a detour.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A string member. Borrows when the message spells it without escapes; anything but a string counts as absent.
#[derive(Debug, Default)]
pub(super) struct Text<'a>(pub(super) Option<Cow<'a, str>>);

impl<'a> Text<'a> {
    /// The text, if there is some.
    pub(super) fn filled(self) -> Option<Cow<'a, str>> {
        self.0.filter(|text| !text.is_empty())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Member;

        impl<'de> Visitor<'de> for Member {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any member")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Borrowed(text))))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Owned(text.to_owned()))))
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Text(None))
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Text(None))
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Text(None))
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Text(None))
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Text(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
        }

        deserializer.deserialize_any(Member)
    }
}

/// A count of something, spelled as an integer, a fraction (rounded down) or a string of either; anything else counts
/// as absent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count(pub(super) Option<u64>);

impl Count {
    fn of(number: f64) -> Self {
        // A cast saturates; what is not a number at all must not become 0.
        Self((number >= 0.0).then_some(number as u64))
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Member;

        impl<'de> Visitor<'de> for Member {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any member")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Count, E> {
                Ok(Count(Some(number)))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Count, E> {
                Ok(Count(u64::try_from(number).ok()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Count, E> {
                Ok(Count::of(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Count, E> {
                let text = text.trim();
                Ok(text.parse().map_or_else(
                    |_| text.parse().map_or(Count(None), Count::of),
                    |number| Count(Some(number)),
                ))
            }

            fn visit_unit<E: Error>(self) -> Result<Count, E> {
                Ok(Count(None))
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Count, E> {
                Ok(Count(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Count, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Count(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Count, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Count(None))
            }
        }

        deserializer.deserialize_any(Member)
    }
}

/// Reads the shape that audio messages have: an object of strings without escapes, whole numbers and objects of the same,
/// in any order and with any spaces. The names that may come are known, so none is read: the next member either begins
/// with one of them or is not ours.
///
/// Whatever else comes, every method answers `None`, and the message is left to the complete reader, which also says
/// what is wrong with it. So this one may be short, and wrong in one direction only: refusing what it could have read.
#[derive(Debug)]
pub(super) struct Plain<'a> {
    text: &'a str,
    at: usize,
    /// An object has just begun: no comma is due.
    begun: bool,
}

impl<'a> Plain<'a> {
    /// Begins with the object's first member.
    #[inline]
    pub(super) fn new(text: &'a str) -> Option<Self> {
        let mut plain = Self { text, at: 0, begun: true };
        plain.expect(b'{')?;
        Some(plain)
    }

    /// Whether a member follows, to be told by [`Self::is`]; if not, the object is over and left.
    #[inline]
    pub(super) fn more(&mut self) -> Option<bool> {
        let begun = std::mem::take(&mut self.begun);
        match self.skip_to()? {
            b'}' => {
                self.at += 1;
                return Some(false);
            }
            b',' if !begun => self.at += 1,
            b'"' if begun => return Some(true),
            _ => return None,
        }
        (self.skip_to()? == b'"').then_some(true)
    }

    /// Takes the next member's name if it is this one, given in its quotes. Its value has to be taken next.
    #[inline]
    pub(super) fn is(&mut self, quoted: &str) -> bool {
        let found = self.rest().starts_with(quoted.as_bytes());
        self.at += if found { quoted.len() } else { 0 };
        found
    }

    /// A value that must be this string, given in its quotes.
    #[inline]
    pub(super) fn exactly(&mut self, quoted: &str) -> Option<()> {
        self.value()?;
        self.is(quoted).then_some(())
    }

    /// A value that is a string, as it stands.
    #[inline]
    pub(super) fn text(&mut self) -> Option<&'a str> {
        self.value()?;
        self.string()
    }

    /// A value that is a whole number, or a string of one.
    #[inline]
    pub(super) fn count(&mut self) -> Option<u64> {
        let quoted = self.value()? == b'"';
        self.at += usize::from(quoted);
        let digits = self.rest().iter().take_while(|byte| u8::is_ascii_digit(byte)).count();
        let count = count(self.text.get(self.at..self.at + digits)?)?;
        self.at += digits;
        if quoted {
            (*self.rest().first()? == b'"').then_some(())?;
            self.at += 1;
        }
        Some(count)
    }

    /// A value that is an object: its members are next.
    #[inline]
    pub(super) fn object(&mut self) -> Option<()> {
        self.value()?;
        self.expect(b'{')?;
        self.begun = true;
        Some(())
    }

    /// Nothing follows the end of the outermost object.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.rest().iter().all(|&byte| is_space(byte))
    }

    /// On to a member's value, and what it begins with.
    #[inline]
    fn value(&mut self) -> Option<u8> {
        self.expect(b':')?;
        self.skip_to()
    }

    #[inline]
    fn expect(&mut self, wanted: u8) -> Option<()> {
        let found = self.skip_to()? == wanted;
        self.at += usize::from(found);
        found.then_some(())
    }

    /// The next byte that is not a space.
    #[inline]
    fn skip_to(&mut self) -> Option<u8> {
        loop {
            match *self.text.as_bytes().get(self.at)? {
                byte if is_space(byte) => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    fn string(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let length = first_special(self.rest())?;
        let text = self.text.get(self.at..self.at + length)?;
        (self.rest()[length] == b'"').then_some(())?;
        self.at += length + 1;
        Some(text)
    }

    #[inline]
    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }
}

/// The spaces of JSON, which are fewer than those of ASCII (RFC 8259, section 2).
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Digits as JSON spells a whole number, few enough for an `f64` to hold.
fn count(text: &str) -> Option<u64> {
    let spelled = text == "0" || matches!(text.as_bytes(), [b'1'..=b'9', rest @ ..] if rest.len() < 15);
    let digits = text
        .bytes()
        .try_fold(0_u64, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')));
    digits.filter(|_| spelled)
}

/// Where the first byte is that may not stand in a plain string: its end, an escape, or a control character.
///
/// Names and numbers are short, audio is long: eight bytes at a time for the first few, then a search made for long ones.
fn first_special(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < SHORT {
        let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) else {
            let rest = bytes.get(at..)?;
            return rest.iter().position(|&b| b == b'"' || b == b'\\' || b < 0x20).map(|found| at + found);
        };
        let eight = u64::from_le_bytes(*eight);
        // The lowest byte that is found is right; those above it may be mistaken.
        let found = below(eight ^ each(b'"'), 1) | below(eight ^ each(b'\\'), 1) | below(eight, 0x20);
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = &bytes[at..];
    let found = memchr::memchr2(b'"', b'\\', rest);
    let plain = &rest[..found.unwrap_or(rest.len())];
    let found = if has_control(plain) { plain.iter().position(|&byte| byte < 0x20) } else { found };
    found.map(|found| at + found)
}

/// Strings up to this length are short.
const SHORT: usize = 48;

/// Eight times the same byte.
const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// The highest bit of each byte that is below `limit`, which is at most 128.
// Subtracting borrows from the highest bit where a byte was smaller, unless that bit was set before.
const fn below(eight: u64, limit: u8) -> u64 {
    eight.wrapping_sub(each(limit)) & !eight & each(0x80)
}

/// One byte of state and no early exit, so that the compiler looks at many bytes at once.
fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |found, &byte| found | u8::from(byte < 0x20)) != 0
}

/// Appends `text` as a JSON string, quotes included.
pub(super) fn push_string(text: &str, out: &mut String) {
    out.push('"');
    // One byte of state and no early exit, so that the compiler looks at many bytes at once: 18 ns for 20 ms of audio,
    // where `any` takes 260.
    let escape = |byte| u8::from(byte < 0x20) | u8::from(byte == b'"') | u8::from(byte == b'\\');
    let escapes = text.bytes().fold(0, |found, byte| found | escape(byte));
    if escapes != 0 {
        let quoted = serde_json::Value::from(text).to_string();
        out.push_str(&quoted[1..quoted.len() - 1]);
    } else {
        out.push_str(text);
    }
    out.push('"');
}

/// The same message with no more escapes than JSON needs, so that audio in it can be borrowed.
///
/// For senders whose JSON library escapes `/`, `+` or `=`, which JSON allows and base64 is full of.
pub fn unescaped(text: &str) -> serde_json::Result<String> {
    Ok(serde_json::from_str::<serde_json::Value>(text)?.to_string())
}

/// One or two changes of a message, to hold a short reader against the complete one.
#[cfg(test)]
pub(super) mod edits {
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// One change.
    #[derive(Debug, Clone)]
    pub(in crate::wire) struct Edit {
        /// Before this member, or anywhere.
        member: Option<usize>,
        at: usize,
        put: String,
        drop: usize,
    }

    /// Changes of letters anywhere, and of whole members where members begin.
    pub(in crate::wire) fn edits(members: &'static [&'static str]) -> impl Strategy<Value = Vec<Edit>> {
        let letters = ("[ \"{}:,\\\\a0-9.e\u{0}-\u{20}-]{0,3}", 0_usize..200, 0_usize..4)
            .prop_map(|(put, at, drop)| Edit { member: None, at, put, drop });
        let member = (proptest::sample::select(members), 0_usize..20).prop_map(|(put, member)| Edit {
            member: Some(member),
            at: 0,
            put: format!("{put},"),
            drop: 0,
        });
        vec(prop_oneof![3 => letters, 1 => member], 1..3)
    }

    /// An ASCII message after these changes.
    pub(in crate::wire) fn edited(message: &str, edits: &[Edit]) -> String {
        edits.iter().fold(message.to_owned(), |text, edit| {
            let begins: Vec<usize> = text.match_indices(['{', ',']).map(|(at, _)| at + 1).collect();
            let begin = edit.member.filter(|_| !begins.is_empty()).map(|nth| begins[nth % begins.len()]);
            let at = begin.unwrap_or(edit.at).min(text.len());
            format!("{}{}{}", &text[..at], edit.put, &text[(at + edit.drop).min(text.len())..])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_borrows_unless_it_is_escaped_and_is_absent_when_it_is_no_text() {
        let read = |json| serde_json::from_str::<Text<'_>>(json).unwrap().0;
        assert!(matches!(read(r#""plain""#), Some(Cow::Borrowed("plain"))));
        assert!(matches!(read(r#""a\/b""#), Some(Cow::Owned(text)) if text == "a/b"));
        for other in ["null", "true", "-1", "7", "1.5", "[1,[2]]", r#"{"a":{"b":1}}"#] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_count_may_be_spelled_in_many_ways() {
        let read = |json| serde_json::from_str::<Count>(json).unwrap().0;
        for (json, count) in [
            ("20", Some(20)),
            ("\"20\"", Some(20)),
            ("\" 20 \"", Some(20)),
            ("20.9", Some(20)),
            ("\"20.9\"", Some(20)),
            ("-1", None),
            ("-0.5", None),
            ("\"-1\"", None),
            ("\"NaN\"", None),
            ("\"\"", None),
            ("null", None),
            ("true", None),
            ("[1]", None),
            (r#"{"a":1}"#, None),
        ] {
            assert_eq!(read(json), count, "{json}");
        }
    }

    #[test]
    fn only_the_four_spaces_of_json_may_follow_a_plain_object() {
        for (rest, is_over) in
            [("", true), (" \t\n\r", true), ("\u{C}", false), ("\u{B}", false), (" x", false)]
        {
            let text = format!("{{}}{rest}");
            let mut plain = Plain::new(&text).unwrap();
            assert_eq!(plain.more(), Some(false));
            assert_eq!(plain.is_over(), is_over, "{rest:?}");
            assert_eq!(serde_json::from_str::<IgnoredAny>(&text).is_ok(), is_over, "{rest:?}");
        }
    }

    #[test]
    fn the_end_of_a_plain_string_is_found_wherever_it_is() {
        for length in 0..200 {
            let plain = "aZ0+/= é~".chars().cycle().take(length).collect::<String>();
            for special in [b'"', b'\\', 0, 0x1F, b'\n'] {
                let mut bytes = plain.clone().into_bytes();
                assert_eq!(first_special(&bytes), None);
                let at = bytes.len();
                bytes.push(special);
                assert_eq!(first_special(&bytes), Some(at), "{length}");
                bytes.extend_from_slice(b"\"\\\0 and more than eight bytes after it");
                assert_eq!(first_special(&bytes), Some(at), "{length}");
            }
        }
    }

    #[test]
    fn a_written_string_reads_back_the_same() {
        for text in ["", "plain", "quo\"te", "back\\slash", "line\nbreak", "nul\0", "ä漢\u{7F}"] {
            let mut json = String::from("x");
            push_string(text, &mut json);
            assert_eq!(serde_json::from_str::<String>(&json[1..]).unwrap(), text);
        }
    }

    #[test]
    fn needless_escapes_can_be_taken_out() {
        assert_eq!(unescaped(r#"{"a":"\/\u002B\u003D\""}"#).unwrap(), r#"{"a":"/+=\""}"#);
        assert!(unescaped("{").is_err());
    }
}
