//! Twilio Media Streams JSON, in and out.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::json::{Count, Plain, Text, push_string};
use super::payload;
use crate::ids::{CallSid, InvalidId, StreamSid};

/// What Twilio sends on a bidirectional stream. The payload borrows from the received message.
#[derive(Debug, Clone, PartialEq)]
pub enum Inbound<'a> {
    /// The socket speaks our protocol; names no call.
    Connected,
    /// The stream begins.
    Start(Box<Start>),
    /// Caller audio. Hot.
    Media(Media<'a>),
    /// The caller pressed a key: `0`-`9`, `*`, `#` (and `A`-`D`).
    Dtmf {
        /// The key.
        digit: char,
    },
    /// A mark of ours came back: played, nothing was queued, or flushed by `clear`.
    Mark {
        /// As we sent it.
        name: Cow<'a, str>,
    },
    /// The stream is over.
    Stop,
    /// An event we do not know.
    Unknown {
        /// Its name.
        event: Cow<'a, str>,
    },
}

/// Facts of a stream, known once at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Id to send back with every message.
    pub stream_sid: StreamSid,
    /// The call this stream belongs to.
    pub call_sid: CallSid,
    /// The account the call belongs to.
    pub account_sid: String,
    /// `<Parameter>` values of the TwiML.
    pub custom_parameters: BTreeMap<String, String>,
}

/// One message of caller audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Media<'a> {
    /// Milliseconds since the stream started; the first is not always 0.
    pub timestamp_ms: u64,
    /// Base64 of mu-law at 8 kHz, usually but not always 160 bytes. Not checked yet.
    pub payload: &'a str,
}

/// What we may send on a bidirectional stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outbound<'a> {
    /// Audio to play after all that was sent before: mu-law at 8 kHz.
    Media {
        /// Raw bytes, headerless.
        ulaw: &'a [u8],
    },
    /// To be sent back when everything before it has been played.
    Mark {
        /// Under 100 ASCII characters.
        name: &'a str,
    },
    /// Drop what is not played yet.
    Clear,
}

/// A Media Streams message we could not read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or an object is something else.
    #[error("message is not the JSON we expect")]
    Json(#[from] serde_json::Error),
    /// The event cannot do without this member.
    #[error("message without {0}")]
    MissingMember(&'static str),
    /// An id we could not send back or store.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// Audio is spelled with escapes. [`super::json::unescaped`] helps.
    #[error("audio is spelled with escapes")]
    Escaped,
    /// Audio of another track than the caller's, which a bidirectional stream does not have.
    #[error("media of a track other than inbound")]
    ForeignTrack,
    /// Media Streams have one format.
    #[error("media is not mu-law at 8 kHz in one channel")]
    MediaFormat,
    /// Not one of `0`-`9`, `*`, `#`, `A`-`D`.
    #[error("no such key on a telephone")]
    Digit,
}

/// Reads one message in one pass. Members we do not know are skipped; payload and mark name borrow from `text`.
///
/// Allocates nothing for media.
pub fn decode(text: &str) -> Result<Inbound<'_>, DecodeError> {
    match plain_media(text) {
        Some(media) => Ok(Inbound::Media(media)),
        None => decode_any(text),
    }
}

/// Caller audio as Twilio usually spells it, each member at most once. `None`: [`decode_any`] must look.
fn plain_media(text: &str) -> Option<Media<'_>> {
    let mut plain = Plain::new(text)?;
    let (mut is_media, mut media, mut numbered, mut named) = (false, None, false, false);
    while plain.more()? {
        if !is_media && plain.is(r#""event""#) {
            plain.exactly(r#""media""#)?;
            is_media = true;
        } else if media.is_none() && plain.is(r#""media""#) {
            plain.object()?;
            media = Some(plain_members(&mut plain)?);
        } else if !numbered && plain.is(r#""sequenceNumber""#) {
            plain.count()?;
            numbered = true;
        } else if !named && plain.is(r#""streamSid""#) {
            plain.text()?;
            named = true;
        } else {
            return None;
        }
    }
    media.filter(|_| is_media && plain.is_over())
}

fn plain_members<'a>(plain: &mut Plain<'a>) -> Option<Media<'a>> {
    let (mut timestamp, mut payload, mut is_inbound, mut numbered) = (None, None, false, false);
    while plain.more()? {
        if payload.is_none() && plain.is(r#""payload""#) {
            payload = Some(plain.text()?);
        } else if timestamp.is_none() && plain.is(r#""timestamp""#) {
            timestamp = Some(plain.count()?);
        } else if !numbered && plain.is(r#""chunk""#) {
            plain.count()?;
            numbered = true;
        } else if !is_inbound && plain.is(r#""track""#) {
            plain.exactly(r#""inbound""#)?;
            is_inbound = true;
        } else {
            return None;
        }
    }
    Some(Media { timestamp_ms: timestamp?, payload: payload? })
}

fn decode_any(text: &str) -> Result<Inbound<'_>, DecodeError> {
    let message: Message<'_> = serde_json::from_str(text)?;
    let event = message.event.0.ok_or(DecodeError::MissingMember("event"))?;
    match &*event {
        "media" => message.media.ok_or(DecodeError::MissingMember("media"))?.read(),
        "mark" => {
            let name = message.mark.and_then(|mark| mark.name.0);
            Ok(Inbound::Mark { name: name.ok_or(DecodeError::MissingMember("mark.name"))? })
        }
        "connected" => Ok(Inbound::Connected),
        "start" => message.start.ok_or(DecodeError::MissingMember("start"))?.read(message.stream_sid),
        "dtmf" => message.dtmf.ok_or(DecodeError::MissingMember("dtmf"))?.read(),
        "stop" => Ok(Inbound::Stop),
        _ => Ok(Inbound::Unknown { event }),
    }
}

/// Appends one message to `buf`, with exactly the documented members: one more or less and Twilio drops it.
// Warning 31951 of the Twilio debugger, raised once per stream.
pub fn encode(message: Outbound<'_>, stream_sid: &StreamSid, buf: &mut String) {
    let event = match message {
        Outbound::Media { .. } => "media",
        Outbound::Mark { .. } => "mark",
        Outbound::Clear => "clear",
    };
    buf.push_str(r#"{"event":""#);
    buf.push_str(event);
    buf.push_str(r#"","streamSid":"#);
    push_string(stream_sid.as_str(), buf);
    match message {
        Outbound::Media { ulaw } => {
            buf.push_str(r#","media":{"payload":""#);
            payload::encode_into(ulaw, buf);
            buf.push_str("\"}}");
        }
        Outbound::Mark { name } => {
            buf.push_str(r#","mark":{"name":"#);
            push_string(name, buf);
            buf.push_str("}}");
        }
        Outbound::Clear => buf.push('}'),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    #[serde(borrow, default)]
    event: Text<'a>,
    #[serde(borrow, default)]
    stream_sid: Text<'a>,
    #[serde(borrow)]
    media: Option<MediaMember<'a>>,
    #[serde(borrow)]
    mark: Option<MarkMember<'a>>,
    #[serde(borrow)]
    start: Option<StartMember<'a>>,
    #[serde(borrow)]
    dtmf: Option<DtmfMember<'a>>,
}

#[derive(Deserialize)]
struct MediaMember<'a> {
    #[serde(borrow, default)]
    track: Text<'a>,
    #[serde(default)]
    timestamp: Count,
    #[serde(borrow, default)]
    payload: Text<'a>,
}

impl<'a> MediaMember<'a> {
    fn read(self) -> Result<Inbound<'a>, DecodeError> {
        if self.track.0.is_some_and(|track| track != "inbound" && track != "inbound_track") {
            return Err(DecodeError::ForeignTrack);
        }
        match self.payload.0.ok_or(DecodeError::MissingMember("media.payload"))? {
            Cow::Borrowed(payload) => Ok(Inbound::Media(Media {
                timestamp_ms: self.timestamp.0.ok_or(DecodeError::MissingMember("media.timestamp"))?,
                payload,
            })),
            Cow::Owned(_) => Err(DecodeError::Escaped),
        }
    }
}

#[derive(Deserialize)]
struct MarkMember<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StartMember<'a> {
    #[serde(borrow, default)]
    stream_sid: Text<'a>,
    #[serde(borrow, default)]
    call_sid: Text<'a>,
    #[serde(borrow, default)]
    account_sid: Text<'a>,
    #[serde(borrow)]
    media_format: Option<MediaFormat<'a>>,
    #[serde(default)]
    custom_parameters: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MediaFormat<'a> {
    #[serde(borrow, default)]
    encoding: Text<'a>,
    #[serde(default)]
    sample_rate: Count,
    #[serde(default)]
    channels: Count,
}

impl StartMember<'_> {
    fn read<'a>(self, outer_stream_sid: Text<'_>) -> Result<Inbound<'a>, DecodeError> {
        if let Some(format) = self.media_format {
            let as_expected = format.encoding.0.is_none_or(|it| it.eq_ignore_ascii_case("audio/x-mulaw"))
                && format.sample_rate.0.is_none_or(|it| it == 8_000)
                && format.channels.0.is_none_or(|it| it == 1);
            if !as_expected {
                return Err(DecodeError::MediaFormat);
            }
        }
        let stream_sid = outer_stream_sid.filled().or(self.stream_sid.filled());
        let mut custom_parameters = BTreeMap::new();
        if let Value::Object(members) = self.custom_parameters {
            for (name, value) in members {
                match value {
                    Value::Null => {}
                    Value::String(text) => drop(custom_parameters.insert(name, text)),
                    other => drop(custom_parameters.insert(name, other.to_string())),
                }
            }
        }
        Ok(Inbound::Start(Box::new(Start {
            stream_sid: StreamSid::parse(&stream_sid.ok_or(DecodeError::MissingMember("streamSid"))?)?,
            call_sid: CallSid::parse(
                &self.call_sid.filled().ok_or(DecodeError::MissingMember("start.callSid"))?,
            )?,
            account_sid: self.account_sid.0.unwrap_or_default().into_owned(),
            custom_parameters,
        })))
    }
}

#[derive(Deserialize)]
struct DtmfMember<'a> {
    #[serde(borrow, default)]
    digit: Text<'a>,
}

impl DtmfMember<'_> {
    fn read<'a>(self) -> Result<Inbound<'a>, DecodeError> {
        let text = self.digit.0.ok_or(DecodeError::MissingMember("dtmf.digit"))?;
        match text.as_bytes() {
            [key @ (b'0'..=b'9' | b'*' | b'#' | b'A'..=b'D' | b'a'..=b'd')] => {
                Ok(Inbound::Dtmf { digit: key.to_ascii_uppercase().into() })
            }
            _ => Err(DecodeError::Digit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json::edits::{edited, edits};

    /// Members of a media message, the inner ones included.
    const MEMBERS: [&str; 8] = [
        r#""event":"media""#,
        r#""sequenceNumber":4"#,
        r#""streamSid":"MZ1""#,
        r#""media":{"timestamp":"25","payload":"f39/"}"#,
        r#""track":"inbound""#,
        r#""chunk":2"#,
        r#""timestamp":25"#,
        r#""payload":"f39/""#,
    ];

    #[test]
    fn the_documented_messages_are_read() {
        assert_eq!(read(r#"{"event":"connected","protocol":"Call","version":"1.0.0"}"#), Inbound::Connected);
        let start = r#"{"event":"start","sequenceNumber":"1","streamSid":"MZ1","start":{"streamSid":"MZ1",
            "accountSid":"AC1","callSid":"CA1","tracks":["inbound"],
            "mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1},
            "customParameters":{"agent_id":"7","name":"Zoë \"Z\""}}}"#;
        assert_eq!(
            read(start),
            Inbound::Start(Box::new(Start {
                stream_sid: StreamSid::parse("MZ1").unwrap(),
                call_sid: CallSid::parse("CA1").unwrap(),
                account_sid: "AC1".into(),
                custom_parameters: [("agent_id", "7"), ("name", "Zoë \"Z\"")]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
            }))
        );
        assert_eq!(
            read(
                r#"{"event":"media","sequenceNumber":"2","streamSid":"MZ1","media":{"track":"inbound","chunk":"1","timestamp":"20","payload":"f39/"}}"#
            ),
            Inbound::Media(Media { timestamp_ms: 20, payload: "f39/" })
        );
        assert_eq!(
            read(
                r#"{"event":"dtmf","sequenceNumber":"5","streamSid":"MZ1","dtmf":{"track":"inbound_track","digit":"*"}}"#
            ),
            Inbound::Dtmf { digit: '*' }
        );
        assert_eq!(
            read(
                r#"{"event":"mark","sequenceNumber":"77","streamSid":"MZ1","mark":{"name":"g3:item_abc:2400"}}"#
            ),
            Inbound::Mark { name: "g3:item_abc:2400".into() }
        );
        assert_eq!(
            read(
                r#"{"event":"stop","sequenceNumber":"900","streamSid":"MZ1","stop":{"accountSid":"AC1","callSid":"CA1"}}"#
            ),
            Inbound::Stop
        );
    }

    #[test]
    fn numbers_may_be_integers_members_may_be_new_and_events_unknown() {
        assert_eq!(
            read(
                r#"{"event":"media","new":{"a":[1]},"media":{"timestamp":5,"chunk":1,"extra":null,"payload":""}}"#
            ),
            Inbound::Media(Media { timestamp_ms: 5, payload: "" })
        );
        assert_eq!(
            read(
                r#"{"event":"start","streamSid":"MZ1","start":{"callSid":"CA1","mediaFormat":{"sampleRate":"8000"},"customParameters":null}}"#
            ),
            read(r#"{"event":"start","start":{"streamSid":"MZ1","callSid":"CA1"}}"#),
        );
        let Inbound::Start(start) = read(
            r#"{"event":"start","streamSid":"MZ1","start":{"callSid":"CA1","customParameters":{"a":1,"b":null,"c":true}}}"#,
        ) else {
            panic!("a start")
        };
        assert_eq!(start.custom_parameters, [("a".into(), "1".into()), ("c".into(), "true".into())].into());
        assert_eq!(read(r#"{"event":"close"}"#), Inbound::Unknown { event: "close".into() });
    }

    #[test]
    fn usual_audio_takes_the_short_way_and_nothing_else_does() {
        let usual = r#"{"event":"media","sequenceNumber":"4","media":{"track":"inbound","chunk":"2","timestamp":"25","payload":"f39/"},"streamSid":"MZ1"}"#;
        assert_eq!(plain_media(usual), Some(Media { timestamp_ms: 25, payload: "f39/" }));
        let spaced = usual.replace(':', ": ").replace(',', " ,\n");
        assert_eq!(plain_media(&spaced), Some(Media { timestamp_ms: 25, payload: "f39/" }));
        for other in [
            usual.replace("inbound", "outbound"),
            usual.replace("\"25\"", "\"x\""),
            usual.replace("f39/", "f39\\/"),
            usual.replace("media\",", "mark\","),
            usual.replace("\"chunk\"", "\"payload\""),
            usual.replace("\"MZ1\"}", "\"MZ1\"},"),
            usual.replace("\"MZ1\"}", "\"MZ1\",}"),
            usual.replace("\"streamSid\":\"MZ1\"", "\"start\":{}"),
            usual.replace("\"sequenceNumber\":\"4\"", "\"sequenceNumber\":{}"),
            usual.replace("\"chunk\":\"2\"", "\"chunk\":{}"),
            usual.replace("\"MZ1\"}", "\"MZ1\"}\u{C}"),
        ] {
            assert_eq!(plain_media(&other), None, "{other}");
        }
        for member in MEMBERS {
            let name = member.split_once(':').unwrap().0;
            let twice = usual.replacen(name, &format!("{member},{name}"), 1);
            assert_ne!(twice, usual, "{name} is usual");
            assert_eq!(plain_media(&twice), None, "{twice}");
        }
    }

    proptest::proptest! {
        /// Both ways must agree wherever the short one answers at all, also on messages that are broken.
        #[test]
        fn the_short_way_says_what_the_long_one_says(
            edits in edits(&MEMBERS),
        ) {
            let usual = r#"{"event":"media","sequenceNumber":4,"media":{"track":"inbound","chunk":"2","timestamp":"25","payload":"f39/"},"streamSid":"MZ1"}"#;
            let text = edited(usual, &edits);
            if let Some(media) = plain_media(&text) {
                let long = decode_any(&text);
                proptest::prop_assert!(matches!(&long, Ok(Inbound::Media(found)) if *found == media), "{text}: {long:?}");
            }
        }
    }

    #[test]
    fn payload_and_mark_name_are_borrowed() {
        let media = r#"{"event":"media","media":{"track":"inbound","timestamp":"20","payload":"f39/f39/"}}"#;
        let Inbound::Media(Media { payload, .. }) = read(media) else { panic!("media") };
        assert!(media.as_bytes().as_ptr_range().contains(&payload.as_ptr()));
        let mark = r#"{"event":"mark","mark":{"name":"g1:item:20"}}"#;
        assert!(matches!(read(mark), Inbound::Mark { name: Cow::Borrowed("g1:item:20") }));
    }

    #[test]
    fn a_payload_spelled_with_escapes_is_read_at_the_second_attempt() {
        let media = r#"{"event":"media","media":{"timestamp":"20","payload":"f39\/\u003d"}}"#;
        assert!(matches!(decode(media), Err(DecodeError::Escaped)));
        let plain = super::super::json::unescaped(media).unwrap();
        assert_eq!(decode(&plain).unwrap(), Inbound::Media(Media { timestamp_ms: 20, payload: "f39/=" }));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "message is not the JSON we expect"),
            ("[]", "message is not the JSON we expect"),
            ("{\"event\":\"media\"", "message is not the JSON we expect"),
            (r#"{"event":"media","media":5}"#, "message is not the JSON we expect"),
            ("{}", "message without event"),
            (r#"{"event":5}"#, "message without event"),
            (r#"{"event":"media"}"#, "message without media"),
            (r#"{"event":"media","media":{"timestamp":"1"}}"#, "message without media.payload"),
            (r#"{"event":"media","media":{"payload":""}}"#, "message without media.timestamp"),
            (
                r#"{"event":"media","media":{"timestamp":"x","payload":""}}"#,
                "message without media.timestamp",
            ),
            (
                r#"{"event":"media","media":{"track":"outbound","timestamp":"1","payload":""}}"#,
                "media of a track other than inbound",
            ),
            (r#"{"event":"mark","mark":{}}"#, "message without mark.name"),
            (r#"{"event":"start"}"#, "message without start"),
            (r#"{"event":"start","streamSid":"MZ1","start":{}}"#, "message without start.callSid"),
            (r#"{"event":"start","start":{"callSid":"CA1"}}"#, "message without streamSid"),
            (
                r#"{"event":"start","streamSid":"MZ1","start":{"callSid":"CA 1"}}"#,
                "CallSid must be 1 to 50 printable ASCII characters without spaces",
            ),
            (
                r#"{"event":"start","streamSid":"MZ1","start":{"callSid":"CA1","mediaFormat":{"encoding":"audio/x-alaw"}}}"#,
                "media is not mu-law at 8 kHz in one channel",
            ),
            (r#"{"event":"dtmf","dtmf":{"digit":"12"}}"#, "no such key on a telephone"),
            (r#"{"event":"dtmf","dtmf":{"digit":"x"}}"#, "no such key on a telephone"),
            (r#"{"event":"dtmf","dtmf":{}}"#, "message without dtmf.digit"),
        ] {
            assert_eq!(decode(text).unwrap_err().to_string(), reason, "{text}");
        }
    }

    #[test]
    fn our_messages_have_exactly_the_documented_members() {
        assert_eq!(
            write(Outbound::Media { ulaw: &[0xFF, 0x7F, 0x00] }),
            r#"{"event":"media","streamSid":"MZ1","media":{"payload":"/38A"}}"#
        );
        assert_eq!(
            write(Outbound::Mark { name: "g1:item:20" }),
            r#"{"event":"mark","streamSid":"MZ1","mark":{"name":"g1:item:20"}}"#
        );
        assert_eq!(write(Outbound::Clear), r#"{"event":"clear","streamSid":"MZ1"}"#);
    }

    #[test]
    fn a_name_of_ours_cannot_break_the_message() {
        let text = write(Outbound::Mark { name: "\"},\"x\":{\"\\" });
        let message: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(message["mark"]["name"], "\"},\"x\":{\"\\");
    }

    fn read(text: &str) -> Inbound<'_> {
        decode(text).unwrap()
    }

    fn write(message: Outbound<'_>) -> String {
        let mut text = String::new();
        encode(message, &StreamSid::parse("MZ1").unwrap(), &mut text);
        text
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", event in "media|mark|start|dtmf", member in "[\\[\\]{}\",:a-z0-9]{0,40}") {
            drop(decode(&text));
            drop(decode(&format!("{{\"event\":\"{event}\",\"{event}\":{member}}}")));
        }
    }
}
