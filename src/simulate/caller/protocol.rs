//! Media Streams messages: Twilio's in its own spelling, the bridge's checked to the letter.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{Spelling, twiml::Stream};

/// What a bridge may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Media(Vec<u8>),
    Mark(String),
    Clear,
}

/// Writes Twilio's messages with their running numbers.
#[derive(Debug)]
pub(super) struct Writer {
    stream_sid: String,
    spelling: Spelling,
    sequence: u64,
    chunk: u64,
}

impl Writer {
    pub(super) const fn new(stream_sid: String, spelling: Spelling) -> Self {
        Self { stream_sid, spelling, sequence: 0, chunk: 0 }
    }

    pub(super) fn connected() -> String {
        json!({"event": "connected", "protocol": "Call", "version": "1.0.0"}).to_string()
    }

    pub(super) fn start(&mut self, account_sid: &str, call_sid: &str, stream: &Stream) -> String {
        let start = json!({
            "streamSid": self.stream_sid,
            "accountSid": account_sid,
            "callSid": call_sid,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": stream.parameters,
        });
        self.message("start", start)
    }

    pub(super) fn media(&mut self, timestamp_ms: u64, frame: &[u8]) -> String {
        self.chunk += 1;
        let media = json!({
            "track": "inbound",
            "chunk": self.number(self.chunk),
            "timestamp": self.number(timestamp_ms),
            "payload": STANDARD.encode(frame),
        });
        self.message("media", media)
    }

    pub(super) fn dtmf(&mut self, digit: char) -> String {
        self.message("dtmf", json!({"track": "inbound_track", "digit": digit.to_string()}))
    }

    pub(super) fn mark(&mut self, name: &str) -> String {
        self.message("mark", json!({"name": name}))
    }

    pub(super) fn stop(&mut self, account_sid: &str, call_sid: &str) -> String {
        self.message("stop", json!({"accountSid": account_sid, "callSid": call_sid}))
    }

    /// An event nobody has documented.
    pub(super) fn undocumented(&mut self) -> String {
        self.message("weather", json!({"sky": null}))
    }

    fn message(&mut self, event: &str, body: Value) -> String {
        self.sequence += 1;
        let mut message = json!({
            "event": event,
            "sequenceNumber": self.number(self.sequence),
            "streamSid": self.stream_sid,
        });
        message[event] = body;
        if self.spelling.extras {
            message["undocumented"] = Value::Null;
            message[event]["undocumented"] = json!({"a": [1]});
        }
        message.to_string()
    }

    fn number(&self, number: u64) -> Value {
        if self.spelling.numbers { json!(number) } else { json!(number.to_string()) }
    }
}

/// Reads what a bridge sent; what Twilio would warn about comes back as the error.
pub(super) fn read(text: &str, stream_sid: &str) -> Result<Command, String> {
    let warning = |problem: String| format!("31951: {problem}");
    let message: Value = serde_json::from_str(text).map_err(|_| warning("the message is not JSON".into()))?;
    let members = message.as_object().ok_or_else(|| warning("the message is not an object".into()))?;
    let event = message["event"].as_str().ok_or_else(|| warning("the message has no event".into()))?;
    let body = match event {
        "media" => Some(("media", "payload")),
        "mark" => Some(("mark", "name")),
        "clear" => None,
        _ => return Err(warning(format!("`{event}` is no event that may be sent"))),
    };
    let expected: Vec<&str> =
        ["event", "streamSid"].into_iter().chain(body.map(|(member, _)| member)).collect();
    exactly(members, &expected).map_err(|problem| warning(format!("{event} {problem}")))?;
    if message["streamSid"] != stream_sid {
        return Err(warning(format!("{event} has the wrong streamSid")));
    }
    let Some((member, inner)) = body else { return Ok(Command::Clear) };
    let object = message[member].as_object().ok_or_else(|| warning(format!("{member} is not an object")))?;
    exactly(object, &[inner]).map_err(|problem| warning(format!("{member} {problem}")))?;
    let text = object[inner].as_str().ok_or_else(|| warning(format!("{member}.{inner} is not a string")))?;
    if member == "mark" {
        return Ok(Command::Mark(text.into()));
    }
    match STANDARD.decode(text) {
        Ok(bytes) if bytes.starts_with(b"RIFF") => {
            Err(warning("the payload is a file, not bare audio".into()))
        }
        Ok(bytes) if !bytes.is_empty() => Ok(Command::Media(bytes)),
        Ok(_) => Err(warning("the payload is empty".into())),
        Err(_) => Err(warning("the payload is not base64".into())),
    }
}

fn exactly(members: &Map<String, Value>, expected: &[&str]) -> Result<(), String> {
    if let Some(missing) = expected.iter().find(|name| !members.contains_key(**name)) {
        return Err(format!("lacks `{missing}`"));
    }
    match members.keys().find(|name| !expected.contains(&name.as_str())) {
        Some(extra) => Err(format!("has `{extra}`, which is not documented")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(spelling: Spelling) -> Writer {
        Writer::new("MZ1".into(), spelling)
    }

    #[test]
    fn messages_are_spelled_as_twilio_spells_them() {
        let mut writer = writer(Spelling::default());
        let stream = Stream { url: String::new(), parameters: [("a".to_owned(), "b".to_owned())].into() };
        let start: Value = serde_json::from_str(&writer.start("AC1", "CA1", &stream)).unwrap();
        assert_eq!(start["sequenceNumber"], "1");
        assert_eq!(start["start"]["customParameters"], json!({"a": "b"}));
        assert_eq!(
            start["start"]["mediaFormat"],
            json!({"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1})
        );
        let media: Value = serde_json::from_str(&writer.media(20, &[0xFF; 160])).unwrap();
        assert_eq!(
            media,
            json!({"event": "media", "sequenceNumber": "2", "streamSid": "MZ1", "media": {
                "track": "inbound", "chunk": "1", "timestamp": "20", "payload": format!("{}/w==", "////".repeat(53)),
            }})
        );
        let digit: Value = serde_json::from_str(&writer.dtmf('#')).unwrap();
        assert_eq!(digit["dtmf"], json!({"track": "inbound_track", "digit": "#"}));
        assert_eq!(digit["sequenceNumber"], "3");
    }

    #[test]
    fn numbers_and_extras_can_be_spelled_differently() {
        let spelling = Spelling { numbers: true, extras: true, ..Spelling::default() };
        let media: Value = serde_json::from_str(&writer(spelling).media(40, &[1])).unwrap();
        assert_eq!((&media["sequenceNumber"], &media["media"]["timestamp"]), (&json!(1), &json!(40)));
        assert!(media["media"].get("undocumented").is_some());
    }

    #[test]
    fn commands_of_the_right_shape_are_understood() {
        let audio = r#"{"event":"media","streamSid":"MZ1","media":{"payload":"AQI="}}"#;
        assert_eq!(read(audio, "MZ1"), Ok(Command::Media(vec![1, 2])));
        let mark = r#"{"event":"mark","streamSid":"MZ1","mark":{"name":"g1:x:20"}}"#;
        assert_eq!(read(mark, "MZ1"), Ok(Command::Mark("g1:x:20".into())));
        assert_eq!(read(r#"{"event":"clear","streamSid":"MZ1"}"#, "MZ1"), Ok(Command::Clear));
    }

    #[test]
    fn anything_else_is_what_twilio_warns_about() {
        for (message, complaint) in [
            ("nonsense", "not JSON"),
            ("[]", "not an object"),
            ("{}", "no event"),
            (r#"{"event":"hangup","streamSid":"MZ1"}"#, "`hangup` is no event"),
            (r#"{"event":"clear","streamSid":"MZ2"}"#, "clear has the wrong streamSid"),
            (r#"{"event":"clear"}"#, "clear lacks `streamSid`"),
            (r#"{"event":"clear","streamSid":"MZ1","x":1}"#, "has `x`"),
            (r#"{"event":"mark","streamSid":"MZ1","mark":{}}"#, "mark lacks `name`"),
            (
                r#"{"event":"media","streamSid":"MZ1","media":{"payload":"AQI=","track":"outbound"}}"#,
                "media has `track`",
            ),
            (r#"{"event":"media","streamSid":"MZ1","media":{"payload":"!"}}"#, "not base64"),
            (r#"{"event":"media","streamSid":"MZ1","media":{"payload":""}}"#, "empty"),
            (r#"{"event":"media","streamSid":"MZ1","media":{"payload":"UklGRg=="}}"#, "is a file"),
        ] {
            let error = read(message, "MZ1").unwrap_err();
            assert!(error.starts_with("31951") && error.contains(complaint), "{message}: {error}");
        }
    }
}
