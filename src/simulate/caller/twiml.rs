//! TwiML as Twilio reads it.

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// One verb of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verb {
    Connect {
        action: Option<String>,
        method: String,
        stream: Stream,
    },
    Dial {
        action: Option<String>,
        method: String,
        to: String,
        /// Where the document of the person comes from who answers first.
        whisper: Option<(String, String)>,
    },
    Redirect {
        url: String,
        method: String,
    },
    Say(String),
    Pause(u64),
    Hangup,
    Reject,
    /// Known to Twilio, not carried out here.
    Other(String),
}

/// `<Stream>` inside `<Connect>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) url: String,
    pub(super) parameters: BTreeMap<String, String>,
}

/// A document that Twilio would not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TwimlError {
    #[error("the TwiML is not well-formed: {0}")]
    Xml(String),
    #[error("the TwiML has no <Response> around everything")]
    NoResponse,
    #[error("<{0}> is not known in TwiML")]
    Unknown(String),
    #[error("<Connect> holds no <Stream> with a url")]
    NoStream,
}

/// Verbs that exist but that a simulated call does not carry out.
const OTHER: [&str; 9] = ["Play", "Gather", "Record", "Enqueue", "Leave", "Queue", "Start", "Stop", "Sms"];

impl Verb {
    /// For reports.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Connect { stream, .. } => format!("Connect {}", stream.url),
            Self::Dial { to, .. } => format!("Dial {to}"),
            Self::Redirect { url, .. } => format!("Redirect {url}"),
            Self::Say(text) => format!("Say {text}"),
            Self::Pause(seconds) => format!("Pause {seconds}"),
            Self::Hangup => "Hangup".into(),
            Self::Reject => "Reject".into(),
            Self::Other(name) => name.clone(),
        }
    }
}

/// Reads a document.
pub(super) fn parse(document: &str) -> Result<Vec<Verb>, TwimlError> {
    if !document.starts_with('<') {
        return Err(TwimlError::Xml("something comes before the first element".into()));
    }
    let root = Element::read(document)?;
    if root.name != "Response" {
        return Err(TwimlError::NoResponse);
    }
    root.children.into_iter().map(verb).collect()
}

fn verb(mut element: Element) -> Result<Verb, TwimlError> {
    let method = element.attributes.remove("method").unwrap_or_else(|| "POST".into());
    let action = element.attributes.remove("action");
    Ok(match element.name.as_str() {
        "Connect" => {
            let stream = element.children.into_iter().find(|child| child.name == "Stream");
            let mut stream = stream.ok_or(TwimlError::NoStream)?;
            let url = stream.attributes.remove("url").ok_or(TwimlError::NoStream)?;
            let parameters = stream
                .children
                .into_iter()
                .filter(|child| child.name == "Parameter")
                .map(|mut child| {
                    let mut take = |name| child.attributes.remove(name).unwrap_or_default();
                    (take("name"), take("value"))
                })
                .collect();
            Verb::Connect { action, method, stream: Stream { url, parameters } }
        }
        "Dial" => {
            let numbers: Vec<String> =
                element.children.iter().map(|child| child.text.trim().to_owned()).collect();
            let to = if numbers.is_empty() { element.text.trim().to_owned() } else { numbers.join(", ") };
            let whisper = element.children.first_mut().and_then(|child| {
                let method = child.attributes.remove("method").unwrap_or_else(|| "POST".into());
                child.attributes.remove("url").map(|url| (url, method))
            });
            Verb::Dial { action, method, to, whisper }
        }
        "Redirect" => Verb::Redirect { url: element.text.trim().to_owned(), method },
        "Say" => Verb::Say(element.text.trim().to_owned()),
        "Pause" => {
            Verb::Pause(element.attributes.get("length").and_then(|text| text.parse().ok()).unwrap_or(1))
        }
        "Hangup" => Verb::Hangup,
        "Reject" => Verb::Reject,
        name if OTHER.contains(&name) => Verb::Other(element.name),
        _ => return Err(TwimlError::Unknown(element.name)),
    })
}

/// An XML element with everything in it.
#[derive(Debug, Default)]
struct Element {
    name: String,
    attributes: BTreeMap<String, String>,
    text: String,
    children: Vec<Self>,
}

impl Element {
    fn read(document: &str) -> Result<Self, TwimlError> {
        let wrong = |error: &dyn std::fmt::Display| TwimlError::Xml(error.to_string());
        let mut reader = Reader::from_str(document);
        // The outermost stands for the document itself.
        let mut open = vec![Self::default()];
        loop {
            match reader.read_event().map_err(|error| wrong(&error))? {
                Event::Start(start) => open.push(Self::from_tag(&start)?),
                Event::Empty(start) => {
                    let element = Self::from_tag(&start)?;
                    if let Some(parent) = open.last_mut() {
                        parent.children.push(element);
                    }
                }
                Event::End(_) => {
                    if let Some(element) = open.pop()
                        && let Some(parent) = open.last_mut()
                    {
                        parent.children.push(element);
                    }
                }
                Event::Text(text) => {
                    let text = text.decode().map_err(|error| wrong(&error))?;
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text);
                    }
                }
                Event::CData(text) => {
                    let text = text.decode().map_err(|error| wrong(&error))?;
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text);
                    }
                }
                Event::GeneralRef(reference) => {
                    let name = reference.decode().map_err(|error| wrong(&error))?;
                    let text = quick_xml::escape::unescape(&format!("&{name};"))
                        .map_err(|error| wrong(&error))?
                        .into_owned();
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text);
                    }
                }
                Event::Eof => break,
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
            }
        }
        let [document] = &mut open[..] else {
            return Err(TwimlError::Xml("an element is not closed".into()));
        };
        if document.children.len() != 1 || !document.text.trim().is_empty() {
            return Err(TwimlError::NoResponse);
        }
        Ok(document.children.remove(0))
    }

    fn from_tag(start: &BytesStart<'_>) -> Result<Self, TwimlError> {
        let name = String::from_utf8_lossy(start.name().as_ref()).into_owned();
        let mut attributes = BTreeMap::new();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| TwimlError::Xml(error.to_string()))?;
            let raw = String::from_utf8_lossy(&attribute.value).into_owned();
            let value = quick_xml::escape::unescape(&raw)
                .map_err(|error| TwimlError::Xml(error.to_string()))?
                .into_owned();
            attributes.insert(String::from_utf8_lossy(attribute.key.as_ref()).into_owned(), value);
        }
        Ok(Self { name, attributes, ..Self::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_with_parameters_and_a_fallback_is_read() {
        let verbs = parse(
            r#"<?xml version="1.0" encoding="UTF-8"?>
            <Response>
              <Connect action="https://b.example/ended?a=1&amp;b=2">
                <Stream url="wss://b.example/media/t"><Parameter name="agent_id" value="&quot;x&quot;"/></Stream>
              </Connect>
              <Redirect>https://b.example/a?x=1&amp;y=2</Redirect>
            </Response>"#,
        )
        .unwrap();
        let parameters = BTreeMap::from([("agent_id".to_owned(), "\"x\"".to_owned())]);
        assert_eq!(
            verbs,
            [
                Verb::Connect {
                    action: Some("https://b.example/ended?a=1&b=2".into()),
                    method: "POST".into(),
                    stream: Stream { url: "wss://b.example/media/t".into(), parameters },
                },
                Verb::Redirect { url: "https://b.example/a?x=1&y=2".into(), method: "POST".into() },
            ]
        );
    }

    #[test]
    fn what_happens_after_a_stream_is_read() {
        let verbs = parse(
            "<Response><Say>Sorry &amp; bye.</Say><Dial action='/d' timeout='20'><Number>+1555</Number></Dial><Pause length='3'/><Play>x</Play><Hangup/></Response>",
        )
        .unwrap();
        assert_eq!(
            verbs.iter().map(Verb::shown).collect::<Vec<_>>(),
            ["Say Sorry & bye.", "Dial +1555", "Pause 3", "Play", "Hangup"]
        );
        assert_eq!(parse("<Response/>").unwrap(), []);
    }

    #[test]
    fn documents_that_twilio_refuses_are_refused() {
        assert!(matches!(parse(" <Response/>"), Err(TwimlError::Xml(_))));
        assert!(matches!(parse("<Response><Hangup></Response>"), Err(TwimlError::Xml(_))));
        assert!(matches!(parse("<Response><Hangup/>"), Err(TwimlError::Xml(_))));
        assert_eq!(parse("<response/>"), Err(TwimlError::NoResponse));
        assert_eq!(parse("<Response/>tail"), Err(TwimlError::NoResponse));
        assert_eq!(parse("<Response><hangup/></Response>"), Err(TwimlError::Unknown("hangup".into())));
        assert_eq!(parse("<Response><Connect/></Response>"), Err(TwimlError::NoStream));
    }
}
