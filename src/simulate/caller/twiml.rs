//! TwiML as Twilio reads it.

use std::collections::BTreeMap;
use std::time::Duration;

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
    Dial(Dial),
    Gather(Gather),
    Redirect {
        url: String,
        method: String,
    },
    Say(String),
    Play(String),
    /// Seconds.
    Pause(u64),
    Hangup,
    Reject {
        busy: bool,
    },
    /// Known to Twilio, not carried out here.
    Other(String),
}

/// `<Dial>`: telephones that ring at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::simulate) struct Dial {
    pub(super) action: Option<String>,
    pub(super) method: String,
    /// How long it rings.
    pub(super) timeout: Duration,
    /// How long the two may speak.
    pub(super) time_limit: Duration,
    pub(super) caller_id: Option<String>,
    /// A call that was not taken before is taken when somebody answers.
    pub(super) answer_on_bridge: bool,
    pub(super) numbers: Vec<Number>,
}

/// `<Number>` inside `<Dial>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::simulate) struct Number {
    /// E.164, or whatever stands there.
    pub(in crate::simulate) to: String,
    /// Whom to ask what is whispered before the two are connected, and how.
    pub(in crate::simulate) whisper: Option<(String, String)>,
    /// Whom to tell what becomes of this telephone.
    pub(in crate::simulate) status_callback: Option<String>,
    /// About which events.
    pub(in crate::simulate) status_events: Vec<String>,
}

/// `<Gather>`: waits for keys or words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gather {
    pub(super) action: Option<String>,
    pub(super) method: String,
    pub(super) digits: bool,
    pub(super) speech: bool,
    pub(super) timeout: Duration,
    /// The key that ends the input and is no part of it.
    pub(super) finish_on_key: Option<char>,
    pub(super) most_digits: Option<usize>,
    /// What is said meanwhile: `Say`, `Play`, `Pause`.
    pub(super) prompts: Vec<Verb>,
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
const OTHER: [&str; 7] = ["Record", "Enqueue", "Leave", "Queue", "Start", "Stop", "Sms"];

impl Verb {
    /// For reports.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Connect { stream, .. } => format!("Connect {}", stream.url),
            Self::Dial(dial) => {
                let numbers: Vec<&str> = dial.numbers.iter().map(|number| number.to.as_str()).collect();
                format!("Dial {}", numbers.join(", "))
            }
            Self::Gather(_) => "Gather".into(),
            Self::Redirect { url, .. } => format!("Redirect {url}"),
            Self::Say(text) => format!("Say {text}"),
            Self::Play(_) => "Play".into(),
            Self::Pause(seconds) => format!("Pause {seconds}"),
            Self::Hangup => "Hangup".into(),
            Self::Reject { busy: true } => "Reject busy".into(),
            Self::Reject { busy: false } => "Reject".into(),
            Self::Other(name) => name.clone(),
        }
    }
}

impl Verb {
    /// Whether a call that rings is taken by this. After `<Dial answerOnBridge="true">` it is when somebody answers.
    // Dossier 2.2.
    pub(super) const fn takes_the_call(&self) -> bool {
        match self {
            Self::Reject { .. } | Self::Redirect { .. } => false,
            Self::Dial(dial) => !dial.answer_on_bridge,
            _ => true,
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
        "Dial" => Verb::Dial(dial(element, action, method)),
        "Gather" => Verb::Gather(gather(element, action, method)?),
        "Redirect" => Verb::Redirect { url: element.text.trim().to_owned(), method },
        "Play" => Verb::Play(element.text.trim().to_owned()),
        "Say" => Verb::Say(element.text.trim().to_owned()),
        "Pause" => {
            Verb::Pause(element.attributes.get("length").and_then(|text| text.parse().ok()).unwrap_or(1))
        }
        "Hangup" => Verb::Hangup,
        "Reject" => {
            Verb::Reject { busy: element.attributes.get("reason").is_some_and(|reason| reason == "busy") }
        }
        name if OTHER.contains(&name) => Verb::Other(element.name),
        _ => return Err(TwimlError::Unknown(element.name)),
    })
}

fn dial(element: Element, action: Option<String>, method: String) -> Dial {
    let seconds = |name: &str, default: u64, range: std::ops::RangeInclusive<u64>| {
        let given = element.attributes.get(name).and_then(|text| text.trim().parse().ok());
        Duration::from_secs(given.unwrap_or(default).clamp(*range.start(), *range.end()))
    };
    let timeout = seconds("timeout", 30, 5..=600);
    let time_limit = seconds("timeLimit", 14_400, 1..=86_400);
    let caller_id = element.attributes.get("callerId").cloned();
    let answer_on_bridge = element.attributes.get("answerOnBridge").is_some_and(|value| value == "true");
    let mut numbers: Vec<Number> = element.children.into_iter().map(number).collect();
    if numbers.is_empty() {
        numbers.push(Number { to: element.text.trim().to_owned(), ..Number::default() });
    }
    Dial { action, method, timeout, time_limit, caller_id, answer_on_bridge, numbers }
}

fn number(mut element: Element) -> Number {
    let mut take = |name| element.attributes.remove(name);
    let method = take("method").unwrap_or_else(|| "POST".into());
    let events = take("statusCallbackEvent").unwrap_or_else(|| "completed".into());
    Number {
        whisper: take("url").map(|url| (url, method)),
        status_callback: take("statusCallback"),
        status_events: events.split_whitespace().map(str::to_owned).collect(),
        to: element.text.trim().to_owned(),
    }
}

fn gather(element: Element, action: Option<String>, method: String) -> Result<Gather, TwimlError> {
    let given = |name: &str| element.attributes.get(name).map(String::as_str);
    let input = given("input").unwrap_or("dtmf");
    // An empty attribute means that no key ends the input.
    let finish_on_key = given("finishOnKey").map_or(Some('#'), |keys| keys.chars().next());
    Ok(Gather {
        digits: input.contains("dtmf"),
        speech: input.contains("speech"),
        timeout: Duration::from_secs(given("timeout").and_then(|text| text.parse().ok()).unwrap_or(5)),
        finish_on_key,
        most_digits: given("numDigits").and_then(|text| text.parse().ok()),
        prompts: element.children.into_iter().map(verb).collect::<Result<_, _>>()?,
        action,
        method,
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
    fn a_dial_rings_its_numbers_with_their_whispers() {
        let verbs = parse(
            r#"<Response><Dial action="/d" timeout="2" callerId="+1444"><Number>+1555</Number>
            <Number url="/w?a=1&amp;b=2" method="GET" statusCallback="/s" statusCallbackEvent="ringing completed">+1666</Number>
            </Dial></Response>"#,
        );
        let Ok([Verb::Dial(dial)]) = verbs.as_deref() else { panic!("{verbs:?}") };
        // No shorter than Twilio rings at least.
        assert_eq!((dial.timeout, dial.caller_id.as_deref()), (Duration::from_secs(5), Some("+1444")));
        let plain =
            Number { to: "+1555".into(), status_events: vec!["completed".into()], ..Number::default() };
        let told = Number {
            to: "+1666".into(),
            whisper: Some(("/w?a=1&b=2".into(), "GET".into())),
            status_callback: Some("/s".into()),
            status_events: vec!["ringing".into(), "completed".into()],
        };
        assert_eq!(dial.numbers, [plain, told]);
    }

    #[test]
    fn a_gather_says_what_ends_the_input() {
        let verbs = parse(
            "<Response><Gather action='/g' input='dtmf speech' numDigits='2' finishOnKey='' timeout='3'><Say>Press.</Say></Gather><Gather/></Response>",
        );
        let Ok([Verb::Gather(first), Verb::Gather(second)]) = verbs.as_deref() else { panic!("{verbs:?}") };
        assert_eq!((first.digits, first.speech, first.most_digits), (true, true, Some(2)));
        assert_eq!((first.finish_on_key, second.finish_on_key), (None, Some('#')));
        assert_eq!(first.prompts, [Verb::Say("Press.".into())]);
        assert_eq!((second.speech, second.timeout), (false, Duration::from_secs(5)));
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
