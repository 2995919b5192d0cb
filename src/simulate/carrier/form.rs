//! Parameters of requests, as strictly as they can be read.

use std::time::Duration;

use crate::simulate::caller::leg::Source;

/// Longest document in a parameter.
// Dossier 1.9.
const LONGEST_TWIML: usize = 4000;
/// What `POST …/Calls.json` knows.
// Dossier 5.2.
const OF_CREATE: &[&str] = &[
    "To",
    "From",
    "Url",
    "Method",
    "Twiml",
    "FallbackUrl",
    "FallbackMethod",
    "StatusCallback",
    "StatusCallbackMethod",
    "StatusCallbackEvent",
    "Timeout",
    "TimeLimit",
    "Record",
    "RecordingChannels",
    "RecordingTrack",
    "RecordingStatusCallback",
    "RecordingStatusCallbackMethod",
    "RecordingStatusCallbackEvent",
    "Trim",
    "SendDigits",
    "MachineDetection",
    "MachineDetectionTimeout",
    "MachineDetectionSpeechThreshold",
    "MachineDetectionSpeechEndThreshold",
    "MachineDetectionSilenceTimeout",
    "AsyncAmd",
    "AsyncAmdStatusCallback",
    "AsyncAmdStatusCallbackMethod",
    "CallerId",
    "CallToken",
    "CallReason",
    "SipAuthUsername",
    "SipAuthPassword",
    "Byoc",
    "ClientNotificationUrl",
    "ApplicationSid",
];
/// What `POST …/Calls/{sid}.json` knows.
const OF_UPDATE: &[&str] = &[
    "Status",
    "Url",
    "Method",
    "Twiml",
    "FallbackUrl",
    "FallbackMethod",
    "StatusCallback",
    "StatusCallbackMethod",
    "TimeLimit",
];
/// What may be given more than once.
const LISTS: [&str; 2] = ["StatusCallbackEvent", "RecordingStatusCallbackEvent"];
/// What may be asked for in `StatusCallbackEvent`.
const EVENTS: [&str; 4] = ["initiated", "ringing", "answered", "completed"];

/// A request that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: u32,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: u16, code: u32, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }
}

/// Answering-machine detection as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Detection {
    /// Waits for the end of the machine's greeting.
    pub(super) message_end: bool,
    /// Where the verdict goes while the call runs; without it the call waits for the verdict.
    pub(super) callback: Option<String>,
    pub(super) is_async: bool,
}

/// A request for a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) to: String,
    pub(super) from: String,
    pub(super) source: Source,
    pub(super) callback: Option<(String, Vec<String>)>,
    pub(super) timeout: Duration,
    pub(super) time_limit: Duration,
    pub(super) detection: Option<Detection>,
}

/// A request about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Update {
    Complete,
    Cancel,
    Follow(Source),
    /// Only settings that change nothing here.
    Nothing,
}

/// Parameters of one request, and what is wrong with them although it is not refused.
pub(super) struct Form<'a> {
    parameters: &'a [(String, String)],
    pub(super) violations: Vec<String>,
}

impl<'a> Form<'a> {
    pub(super) const fn new(parameters: &'a [(String, String)]) -> Self {
        Self { parameters, violations: Vec::new() }
    }

    fn find(&self, name: &str) -> Option<&'a str> {
        let found = self.parameters.iter().find(|(known, value)| known == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    /// Whoever sends what nobody knows believes in something that does not happen.
    fn check_names(&mut self, known: &[&str]) {
        let mut seen: Vec<&str> = Vec::new();
        for (name, _) in self.parameters {
            if !known.contains(&name.as_str()) {
                self.violations.push(format!("the parameter `{name}` is not known"));
            } else if seen.contains(&name.as_str()) && !LISTS.contains(&name.as_str()) {
                self.violations.push(format!("the parameter `{name}` is given twice"));
            }
            seen.push(name);
        }
    }

    pub(super) fn wish(&mut self, owned: &[String]) -> Result<Wish, Refusal> {
        self.check_names(OF_CREATE);
        let refuse = |code, message: &str| Err(Refusal::new(400, code, message));
        let Some(to) = self.find("To") else { return refuse(21201, "No 'To' number is specified") };
        let Some(from) = self.find("From") else { return refuse(21213, "No 'From' number is specified") };
        if !is_number(to) {
            return refuse(21211, "The 'To' number is not a valid phone number");
        }
        if !is_number(from) {
            return refuse(21212, "The 'From' number is not a valid phone number");
        }
        if !owned.is_empty() && !owned.iter().any(|number| number == from) {
            return refuse(21210, "The source phone number provided is not one of this account");
        }
        let Some(source) = self.source()? else {
            return refuse(21205, "A URL, TwiML or an application is needed");
        };
        let callback = self.url("StatusCallback")?.map(|url| (url, self.events()));
        Ok(Wish {
            to: to.to_owned(),
            from: from.to_owned(),
            source,
            callback,
            timeout: self.seconds("Timeout", 60, 600)?,
            time_limit: self.seconds("TimeLimit", 14_400, 86_400)?,
            detection: self.detection()?,
        })
    }

    pub(super) fn update(&mut self) -> Result<Update, Refusal> {
        self.check_names(OF_UPDATE);
        if self.find("Url").is_some() && self.find("Twiml").is_some() {
            self.violations.push("Url and Twiml exclude each other".into());
        }
        match self.find("Status") {
            Some("completed") => return Ok(Update::Complete),
            Some("canceled") => return Ok(Update::Cancel),
            Some(other) => {
                return Err(Refusal::new(
                    400,
                    20001,
                    format!("Status `{other}` is not completed or canceled"),
                ));
            }
            None => {}
        }
        Ok(self.source()?.map_or(Update::Nothing, Update::Follow))
    }

    fn source(&mut self) -> Result<Option<Source>, Refusal> {
        let method = |form: &Self, name: &str| form.find(name).unwrap_or("POST").to_owned();
        if let Some(url) = self.url("Url")? {
            let fallback = self.url("FallbackUrl")?.map(|other| (other, method(self, "FallbackMethod")));
            return Ok(Some(Source::Url { url, method: method(self, "Method"), fallback }));
        }
        let Some(text) = self.find("Twiml") else { return Ok(None) };
        if text.chars().count() > LONGEST_TWIML {
            let message =
                format!("TwiML has {} characters; {LONGEST_TWIML} is the limit", text.chars().count());
            return Err(Refusal::new(400, 32018, message));
        }
        if has_relative_url(text) {
            self.violations.push("15004: URLs in the parameter `Twiml` must be absolute".into());
        }
        Ok(Some(Source::Text(text.to_owned())))
    }

    fn events(&mut self) -> Vec<String> {
        let mut events = Vec::new();
        for (_, value) in self.parameters.iter().filter(|(name, _)| name == "StatusCallbackEvent") {
            if !EVENTS.contains(&value.as_str()) {
                self.violations.push(format!("21626: StatusCallbackEvent `{value}` is not known"));
            }
            events.push(value.clone());
        }
        if events.is_empty() { vec!["completed".into()] } else { events }
    }

    fn detection(&mut self) -> Result<Option<Detection>, Refusal> {
        let callback = self.url("AsyncAmdStatusCallback")?;
        let is_async = match self.find("AsyncAmd") {
            Some("true") => true,
            Some("false") | None => false,
            Some(other) => {
                self.violations.push(format!("AsyncAmd is `{other}`, not true or false"));
                false
            }
        };
        if is_async && callback.is_none() {
            self.violations.push("21262: AsyncAmd without AsyncAmdStatusCallback".into());
        }
        let message_end = match self.find("MachineDetection") {
            None => {
                if is_async {
                    self.violations.push("AsyncAmd without MachineDetection detects nothing".into());
                }
                return Ok(None);
            }
            Some("Enable") => false,
            Some("DetectMessageEnd") => true,
            Some(other) => {
                let message = format!("MachineDetection `{other}` is not Enable or DetectMessageEnd");
                return Err(Refusal::new(400, 20001, message));
            }
        };
        for (name, range) in [
            ("MachineDetectionTimeout", 3..=59),
            ("MachineDetectionSpeechThreshold", 1000..=6000),
            ("MachineDetectionSpeechEndThreshold", 500..=5000),
            ("MachineDetectionSilenceTimeout", 2000..=10_000),
        ] {
            if let Some(given) = self.find(name)
                && given.parse::<u64>().map_or(true, |value| !range.contains(&value))
            {
                self.violations.push(format!("{name} is `{given}`, not within {range:?}"));
            }
        }
        // Keys that are sent disable the detection.
        let is_off = self.find("SendDigits").is_some();
        Ok((!is_off).then_some(Detection { message_end, callback, is_async }))
    }

    fn url(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        let Some(url) = self.find(name) else { return Ok(None) };
        let is_good = reqwest::Url::parse(url).is_ok_and(|url| ["http", "https"].contains(&url.scheme()));
        let code = if name == "StatusCallback" { 21609 } else { 21205 };
        if !is_good {
            return Err(Refusal::new(400, code, format!("{name} is not a valid URL")));
        }
        if url.contains('#') {
            self.violations.push(format!("{name} has a fragment, which would change how it is asked"));
        }
        Ok(Some(url.to_owned()))
    }

    fn seconds(&self, name: &str, default: u64, most: u64) -> Result<Duration, Refusal> {
        let given = self.find(name).map_or(Ok(default), str::parse);
        match given {
            Ok(seconds) if (1..=most).contains(&seconds) => Ok(Duration::from_secs(seconds)),
            _ => Err(Refusal::new(400, 20001, format!("{name} is not within 1 and {most}"))),
        }
    }
}

/// E.164, spelled here once more so that a mistake elsewhere is seen.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or_default();
    (7..=15).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && !digits.starts_with('0')
}

fn has_relative_url(twiml: &str) -> bool {
    let attribute = |name: &str| {
        twiml.match_indices(&format!(" {name}=")).any(|(at, found)| {
            let value = twiml[at + found.len()..].trim_start_matches(['"', '\'']);
            !["http://", "https://", "ws://", "wss://"].iter().any(|scheme| value.starts_with(scheme))
        })
    };
    let redirect = twiml.split_once("<Redirect").and_then(|(_, rest)| rest.split_once('>'));
    attribute("action")
        || attribute("url")
        || attribute("statusCallback")
        || redirect.is_some_and(|(_, target)| !target.trim_start().starts_with("http"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 3] =
        [("To", "+14155550123"), ("From", "+14155550100"), ("Url", "https://b.example/twiml?attempt=7")];

    fn parameters(changes: &[(&str, &str)]) -> Vec<(String, String)> {
        let kept = GOOD.iter().filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
        kept.chain(changes).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn code(changes: &[(&str, &str)]) -> u32 {
        Form::new(&parameters(changes)).wish(&[]).unwrap_err().code
    }

    fn violations(changes: &[(&str, &str)]) -> Vec<String> {
        let parameters = parameters(changes);
        let mut form = Form::new(&parameters);
        form.wish(&[]).unwrap();
        form.violations
    }

    #[test]
    fn what_is_missing_or_wrong_has_a_code_of_its_own() {
        assert_eq!(code(&[("To", "")]), 21201);
        assert_eq!(code(&[("From", "")]), 21213);
        for wrong in ["4155550123", "+0155550123", "+141555", "+1415-555-0123", "+12345678901234567"] {
            assert_eq!((code(&[("To", wrong)]), code(&[("From", wrong)])), (21211, 21212), "{wrong}");
        }
        assert_eq!(code(&[("Url", "")]), 21205);
        assert_eq!(code(&[("Url", "/relative")]), 21205);
        assert_eq!(code(&[("StatusCallback", "nowhere")]), 21609);
        assert_eq!(code(&[("Url", ""), ("Twiml", &"x".repeat(4001))]), 32018);
        assert_eq!(code(&[("Timeout", "601")]), 20001);
        assert_eq!(code(&[("MachineDetection", "on")]), 20001);
        let owned = ["+14155550999".to_owned()];
        assert_eq!(Form::new(&parameters(&[])).wish(&owned).unwrap_err().code, 21210);
    }

    #[test]
    fn what_nobody_knows_is_a_violation() {
        assert_eq!(violations(&[]), [""; 0]);
        assert_eq!(violations(&[("Colour", "red")]), ["the parameter `Colour` is not known"]);
        assert_eq!(
            violations(&[("Timeout", "5"), ("Timeout", "6")]),
            ["the parameter `Timeout` is given twice"]
        );
        assert_eq!(
            violations(&[("StatusCallback", "https://b.example"), ("StatusCallbackEvent", "dialed")]),
            ["21626: StatusCallbackEvent `dialed` is not known"]
        );
        let amd = [("MachineDetection", "Enable"), ("AsyncAmd", "true")];
        assert_eq!(violations(&amd), ["21262: AsyncAmd without AsyncAmdStatusCallback"]);
        let relative = "<Response><Redirect>/next</Redirect></Response>";
        assert!(violations(&[("Url", ""), ("Twiml", relative)])[0].starts_with("15004"));
        let absolute = "<Response><Dial action=\"https://b.example/d\"><Number>+1</Number></Dial></Response>";
        assert_eq!(violations(&[("Url", ""), ("Twiml", absolute)]), [""; 0]);
    }

    #[test]
    fn a_call_is_asked_for_with_all_that_the_dialer_needs() {
        let given = parameters(&[
            ("StatusCallback", "https://b.example/status"),
            ("StatusCallbackEvent", "initiated"),
            ("StatusCallbackEvent", "completed"),
            ("Timeout", "25"),
            ("MachineDetection", "DetectMessageEnd"),
            ("AsyncAmd", "true"),
            ("AsyncAmdStatusCallback", "https://b.example/amd"),
        ]);
        let mut form = Form::new(&given);
        let wish = form.wish(&["+14155550100".into()]).unwrap();
        assert_eq!(form.violations, [""; 0]);
        let events = vec!["initiated".to_owned(), "completed".to_owned()];
        assert_eq!(wish.callback, Some(("https://b.example/status".into(), events)));
        assert_eq!(wish.timeout, Duration::from_secs(25));
        let callback = Some("https://b.example/amd".to_owned());
        assert_eq!(wish.detection, Some(Detection { message_end: true, callback, is_async: true }));
    }

    #[test]
    fn an_update_ends_or_redirects() {
        let update = |given: &[(&str, &str)]| {
            let given: Vec<(String, String)> =
                given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let mut form = Form::new(&given);
            (form.update(), form.violations.len())
        };
        assert_eq!(update(&[("Status", "completed")]), (Ok(Update::Complete), 0));
        assert_eq!(update(&[("Status", "canceled")]), (Ok(Update::Cancel), 0));
        assert_eq!(update(&[("Status", "busy")]).0.unwrap_err().code, 20001);
        let text = "<Response/>";
        assert_eq!(update(&[("Twiml", text)]), (Ok(Update::Follow(Source::Text(text.into()))), 0));
        assert_eq!(update(&[("Twiml", text), ("Url", "https://b.example")]).1, 1);
        assert_eq!(update(&[("To", "+14155550123")]), (Ok(Update::Nothing), 1));
    }
}
