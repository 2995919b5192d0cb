//! The few TwiML documents we answer with.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use crate::ids::PhoneNumber;

/// Name and value of a stream parameter together stay below this many characters.
// https://www.twilio.com/docs/voice/twiml/stream, custom parameters.
const PARAMETER_LIMIT: usize = 500;

/// A stream parameter Twilio would not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "stream parameter {name:?}: name and value have {length} characters, which must be below {PARAMETER_LIMIT}"
)]
pub struct ParameterTooLong {
    name: String,
    length: usize,
}

/// A document that connects the call to a media stream, and says where to go on when the stream has ended.
#[derive(Debug, Clone, Copy)]
pub struct ConnectStream<'a> {
    /// Asked for the next document when the stream has ended.
    pub action: &'a str,
    /// `wss` address of the stream; Twilio allows no query.
    pub url: &'a str,
    /// Reach us in the stream's `start` message.
    pub parameters: &'a [(&'a str, &'a str)],
    /// Where the call goes when the stream cannot begin.
    pub fallback: &'a str,
}

impl ConnectStream<'_> {
    /// The document.
    pub fn document(&self) -> Result<String, ParameterTooLong> {
        for (name, value) in self.parameters {
            let length = name.chars().count() + value.chars().count();
            if length >= PARAMETER_LIMIT {
                return Err(ParameterTooLong { name: (*name).to_owned(), length });
            }
        }
        Ok(document(|response| {
            response
                .create_element("Connect")
                .with_attribute(("action", &*clean(self.action)))
                .write_inner_content(|connect| {
                    let stream = connect.create_element("Stream").with_attribute(("url", &*clean(self.url)));
                    if self.parameters.is_empty() {
                        stream.write_empty()?;
                        return Ok(());
                    }
                    stream.write_inner_content(|stream| {
                        for (name, value) in self.parameters {
                            stream
                                .create_element("Parameter")
                                .with_attribute(("name", &*clean(name)))
                                .with_attribute(("value", &*clean(value)))
                                .write_empty()?;
                        }
                        Ok(())
                    })?;
                    Ok(())
                })?;
            text_element(response, "Redirect", self.fallback)
        }))
    }
}

/// So many telephones may ring at once; Twilio takes no more.
pub const MOST_LEGS: usize = 10;

/// One of the telephones that ring.
#[derive(Debug, Clone, Copy)]
pub struct Leg<'a> {
    /// Who is called.
    pub number: &'a PhoneNumber,
    /// Asked for what the person hears before the caller does; `None` connects them at once.
    pub url: Option<&'a str>,
}

/// A document that hands the call to a person.
#[derive(Debug, Clone, Copy)]
pub struct Dial<'a> {
    /// They ring at once, and the first to answer has the call. Those beyond [`MOST_LEGS`] do not ring.
    pub legs: &'a [Leg<'a>],
    /// How long it rings; Twilio takes 5 to 600 s.
    pub timeout: Duration,
    /// Asked for the next document when the other leg has ended.
    pub action: &'a str,
    /// Said to the caller before.
    pub say: Option<&'a str>,
    /// Shown to the person; `None` shows the caller's number.
    pub caller_id: Option<&'a PhoneNumber>,
}

impl Dial<'_> {
    /// The document.
    #[must_use]
    pub fn document(&self) -> String {
        let timeout = self.timeout.as_secs().clamp(5, 600).to_string();
        document(|response| {
            if let Some(say) = self.say {
                text_element(response, "Say", say)?;
            }
            let mut dial = response
                .create_element("Dial")
                .with_attribute(("action", &*clean(self.action)))
                .with_attribute(("timeout", &*timeout))
                // The caller hears ringing instead of silence.
                .with_attribute(("answerOnBridge", "true"));
            if let Some(caller_id) = self.caller_id {
                dial = dial.with_attribute(("callerId", caller_id.expose()));
            }
            dial.write_inner_content(|dial| {
                self.legs.iter().take(MOST_LEGS).try_for_each(|leg| leg.element(dial))
            })?;
            Ok(())
        })
    }
}

impl Leg<'_> {
    fn element(&self, dial: &mut Xml) -> io::Result<()> {
        let mut number = dial.create_element("Number");
        let url = self.url.map(clean);
        if let Some(url) = &url {
            number = number.with_attribute(("url", &**url));
        }
        number.write_text_content(BytesText::new(self.number.expose()))?;
        Ok(())
    }
}

/// Says something, and nothing more: what follows is for whoever asked for the document to know.
#[must_use]
pub fn say(text: &str) -> String {
    document(|response| text_element(response, "Say", text))
}

/// How a call is turned away without being answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// Not in service.
    Rejected,
    /// Busy.
    Busy,
}

/// Says one sentence and hangs up.
#[must_use]
pub fn say_and_hang_up(text: &str) -> String {
    document(|response| {
        text_element(response, "Say", text)?;
        response.create_element("Hangup").write_empty()?;
        Ok(())
    })
}

/// Says one sentence, waits, and asks at `url` how the call goes on.
#[must_use]
pub fn say_and_ask_again(text: &str, wait: Duration, url: &str) -> String {
    let wait = wait.as_secs().max(1).to_string();
    document(|response| {
        text_element(response, "Say", text)?;
        response.create_element("Pause").with_attribute(("length", &*wait)).write_empty()?;
        text_element(response, "Redirect", url)
    })
}

/// Hangs up.
#[must_use]
pub fn hang_up() -> String {
    document(|response| response.create_element("Hangup").write_empty().map(|_| ()))
}

/// Does not answer the call. Only as the answer to its first webhook.
#[must_use]
pub fn reject(reason: RejectReason) -> String {
    let reason = match reason {
        RejectReason::Rejected => "rejected",
        RejectReason::Busy => "busy",
    };
    document(|response| {
        response.create_element("Reject").with_attribute(("reason", reason)).write_empty().map(|_| ())
    })
}

/// Nothing to do: the answer to callbacks that do not steer the call; as a call's document it hangs up.
#[must_use]
pub fn empty() -> String {
    document(|_| Ok(()))
}

type Xml = Writer<Vec<u8>>;

fn document(content: impl FnOnce(&mut Xml) -> io::Result<()>) -> String {
    let mut xml = Writer::new(Vec::with_capacity(512));
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))
        .and_then(|()| xml.create_element("Response").write_inner_content(content).map(|_| ()))
        .expect("writing to memory cannot fail");
    String::from_utf8(xml.into_inner()).expect("made of strings only")
}

fn text_element(xml: &mut Xml, name: &str, text: &str) -> io::Result<()> {
    xml.create_element(name).write_text_content(BytesText::new(&clean(text)))?;
    Ok(())
}

/// Without the characters that XML 1.0 forbids even when they are escaped.
// https://www.w3.org/TR/xml/#charsets
fn clean(text: &str) -> Cow<'_, str> {
    let allowed = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..);
    if text.chars().all(allowed) { text.into() } else { text.chars().filter(|&c| allowed(c)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_connected_to_a_stream_and_goes_on_after_it() {
        let connect = ConnectStream {
            action: "https://bridge.example/twiml/stream-ended",
            url: "wss://bridge.example/media-stream/token",
            parameters: &[("agent_id", "7"), ("note", "a<b & \"c\"")],
            fallback: "https://bridge.example/twiml/stream-ended?a=1&b=2",
        };
        insta::assert_snapshot!(connect.document().unwrap(), @r#"<?xml version="1.0" encoding="UTF-8"?><Response><Connect action="https://bridge.example/twiml/stream-ended"><Stream url="wss://bridge.example/media-stream/token"><Parameter name="agent_id" value="7"/><Parameter name="note" value="a&lt;b &amp; &quot;c&quot;"/></Stream></Connect><Redirect>https://bridge.example/twiml/stream-ended?a=1&amp;b=2</Redirect></Response>"#);
        let bare = ConnectStream { parameters: &[], ..connect };
        assert!(
            bare.document()
                .unwrap()
                .contains(r#"<Stream url="wss://bridge.example/media-stream/token"/></Connect>"#)
        );
    }

    #[test]
    fn a_parameter_of_500_characters_is_refused() {
        let document = |value: &str| {
            ConnectStream { action: "a", url: "u", parameters: &[("name", value)], fallback: "f" }.document()
        };
        assert!(document(&"ü".repeat(495)).is_ok());
        let error = document(&"ü".repeat(496)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "stream parameter \"name\": name and value have 500 characters, which must be below 500"
        );
    }

    #[test]
    fn a_person_is_dialed_after_a_sentence() {
        let number = PhoneNumber::parse("+14155550123").unwrap();
        let dial = Dial {
            legs: &[Leg { number: &number, url: None }],
            timeout: Duration::from_secs(20),
            action: "https://bridge.example/twiml/dial-ended",
            say: Some("One moment, I'll connect you."),
            caller_id: Some(&number),
        };
        insta::assert_snapshot!(dial.document(), @r#"<?xml version="1.0" encoding="UTF-8"?><Response><Say>One moment, I&apos;ll connect you.</Say><Dial action="https://bridge.example/twiml/dial-ended" timeout="20" answerOnBridge="true" callerId="+14155550123"><Number>+14155550123</Number></Dial></Response>"#);
        let short = Dial { timeout: Duration::from_secs(1), say: None, caller_id: None, ..dial }.document();
        assert!(short.contains(r#"<Response><Dial action="https://bridge.example/twiml/dial-ended" timeout="5" answerOnBridge="true"><Number>"#));
    }

    #[test]
    fn several_people_ring_at_once_but_no_more_than_the_carrier_takes() {
        let numbers: Vec<_> =
            (0..12).map(|digit| PhoneNumber::parse(&format!("+141555501{digit:02}")).unwrap()).collect();
        let whisper = "https://bridge.example/whisper?a=1&b=2";
        let legs: Vec<_> = numbers
            .iter()
            .enumerate()
            .map(|(index, number)| Leg { number, url: (index == 1).then_some(whisper) })
            .collect();
        let timeout = Duration::from_secs(25);
        let dial = Dial {
            legs: &legs[..2],
            timeout,
            action: "https://bridge.example/ended",
            say: None,
            caller_id: None,
        };
        insta::assert_snapshot!(dial.document(), @r#"<?xml version="1.0" encoding="UTF-8"?><Response><Dial action="https://bridge.example/ended" timeout="25" answerOnBridge="true"><Number>+14155550100</Number><Number url="https://bridge.example/whisper?a=1&amp;b=2">+14155550101</Number></Dial></Response>"#);
        let all = Dial { legs: &legs, ..dial }.document();
        assert_eq!(all.matches("<Number").count(), MOST_LEGS);
    }

    #[test]
    fn the_small_documents_are_what_they_say() {
        let content = |document: String| {
            let rest = document.strip_prefix(r#"<?xml version="1.0" encoding="UTF-8"?><Response>"#).unwrap();
            rest.strip_suffix("</Response>").unwrap().to_owned()
        };
        assert_eq!(content(say_and_hang_up("We are closed.")), "<Say>We are closed.</Say><Hangup/>");
        assert_eq!(content(say("A caller.")), "<Say>A caller.</Say>");
        assert_eq!(content(hang_up()), "<Hangup/>");
        assert_eq!(content(reject(RejectReason::Busy)), r#"<Reject reason="busy"/>"#);
        assert_eq!(content(reject(RejectReason::Rejected)), r#"<Reject reason="rejected"/>"#);
        assert_eq!(content(empty()), "");
    }

    #[test]
    fn text_cannot_break_out_of_its_element_and_forbidden_characters_are_dropped() {
        let document = say_and_hang_up("</Say><Dial>1</Dial>\0\u{8}\u{1F}\u{FFFE}ok 🦀\n&");
        assert!(
            document.contains("<Say>&lt;/Say&gt;&lt;Dial&gt;1&lt;/Dial&gt;ok 🦀\n&amp;</Say>"),
            "{document}"
        );
    }
}
