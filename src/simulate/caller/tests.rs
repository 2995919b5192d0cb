//! A simulated call against a tiny bridge of the tests' own, over real loopback sockets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::simulate::scenario::{Step, Utterance};
use crate::wire::signature;

/// What the bridge of a test does with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Speaks 600 ms, waits for the mark, closes.
    SpeakAndClose,
    /// Speaks 3 s at once, clears when the caller is heard, speaks 200 ms, then waits for the end.
    BeInterrupted,
    /// Sends what Twilio does not accept, then waits for the end.
    Misbehave,
    /// Answers the handshake with 403.
    Refuse,
    /// Waits for the end.
    Listen,
}

/// What the bridge of a test saw.
#[derive(Debug, Default)]
struct Seen {
    /// Path and fields of each webhook.
    webhooks: Vec<(String, BTreeMap<String, String>)>,
    unsigned: Vec<String>,
    messages: Vec<Value>,
}

struct Bridge {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

const TOKEN: &str = "12345";
/// The last answer to the question what comes after the stream.
const AFTERWARDS: &str = "<Response><Say>Goodbye.</Say><Hangup/></Response>";

impl Bridge {
    async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, manner, address, Arc::clone(&shared)));
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    fn options(&self, steps: Vec<Step>) -> CallerOptions {
        let scenario = Scenario { name: "test".into(), voice: String::new(), steps };
        let url = format!("http://{}/voice", self.address);
        let mut options = CallerOptions::new(url, Some(TOKEN.to_owned().into()), scenario);
        options.patience = Duration::from_secs(5);
        options
    }

    fn events(&self, event: &str) -> Vec<Value> {
        let seen = self.seen.lock().unwrap();
        seen.messages.iter().filter(|message| message["event"] == event).cloned().collect()
    }
}

/// One connection: a webhook or a stream, told apart by the first bytes.
async fn serve(mut stream: TcpStream, manner: Manner, address: SocketAddr, seen: Arc<Mutex<Seen>>) {
    stream.set_nodelay(true).unwrap();
    let mut start = [0; 4];
    while stream.peek(&mut start).await.unwrap() < 4 {}
    if &start == b"GET " {
        if manner == Manner::Refuse {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            return;
        }
        let mut signed = false;
        #[expect(clippy::result_large_err, reason = "the type of the callback is tungstenite's")]
        let check = |request: &tokio_tungstenite::tungstenite::handshake::server::Request, response| {
            let url = format!("ws://{address}{}", request.uri());
            let expected = signature::sign::<&str, &str>(TOKEN, &url, &[]);
            signed = request.headers().get("x-twilio-signature").is_some_and(|value| *value == *expected);
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, check).await.unwrap();
        if !signed {
            seen.lock().unwrap().unsigned.push("stream".into());
        }
        converse(socket, manner, seen).await;
        return;
    }
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        if read == 0 {
            return;
        }
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        if body.len() < header("content-length").unwrap().parse().unwrap() {
            continue;
        }
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let fields: Vec<(String, String)> =
            reqwest::Url::parse(&format!("http://x/?{body}")).unwrap().query_pairs().into_owned().collect();
        let expected = signature::sign(TOKEN, &format!("http://{address}{path}"), &fields);
        {
            let mut seen = seen.lock().unwrap();
            if header("x-twilio-signature").as_deref() != Some(&expected) {
                seen.unsigned.push(path.clone());
            }
            seen.webhooks.push((path.clone(), fields.into_iter().collect()));
        }
        let answer = match path.as_str() {
            "/voice" => format!(
                "<?xml version=\"1.0\"?><Response><Connect action=\"/ended\"><Stream url=\"ws://{address}/media/t1\"><Parameter name=\"a\" value=\"b\"/></Stream></Connect></Response>"
            ),
            "/redirects" => "<Response><Redirect>/redirects</Redirect></Response>".into(),
            "/dial" => {
                "<Response><Dial action=\"/ended\"><Number>+15550002222</Number></Dial></Response>".into()
            }
            "/text" => "Hello".into(),
            _ => AFTERWARDS.into(),
        };
        let kind = if path == "/text" { "text/plain" } else { "text/xml; charset=utf-8" };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
            answer.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        return;
    }
}

async fn converse(mut socket: WebSocketStream<TcpStream>, manner: Manner, seen: Arc<Mutex<Seen>>) {
    let mut sid = String::new();
    let mut interrupted = false;
    let say = |sid: &str, ms: usize| {
        let payload = STANDARD.encode([0x10, 0x90].repeat(ms * 4));
        json!({"event": "media", "streamSid": sid, "media": {"payload": payload}}).to_string()
    };
    let mark = |sid: &str, name: &str| {
        json!({"event": "mark", "streamSid": sid, "mark": {"name": name}}).to_string()
    };
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let event: Value = serde_json::from_str(&text).unwrap();
        let mut answers = Vec::new();
        if event["event"] == "start" {
            sid = event["streamSid"].as_str().unwrap().to_owned();
            match manner {
                Manner::SpeakAndClose => answers.extend([say(&sid, 600), mark(&sid, "g1:x:600")]),
                Manner::BeInterrupted => answers.extend([say(&sid, 3000), mark(&sid, "g1:x:3000")]),
                Manner::Misbehave => {
                    let clear = json!({"event": "clear", "streamSid": "MZ0"}).to_string();
                    answers.extend(["{}".to_owned(), clear]);
                    socket.send(Message::binary(vec![1])).await.unwrap();
                }
                Manner::Refuse | Manner::Listen => {}
            }
        }
        let heard = event["media"]["payload"].as_str().is_some_and(|payload| !payload.starts_with("////"));
        if manner == Manner::BeInterrupted && heard && !interrupted {
            interrupted = true;
            let clear = json!({"event": "clear", "streamSid": sid}).to_string();
            answers.extend([clear, say(&sid, 200), mark(&sid, "g2:y:200")]);
        }
        for answer in answers {
            socket.send(Message::text(answer)).await.unwrap();
        }
        let played = manner == Manner::SpeakAndClose && event["event"] == "mark";
        seen.lock().unwrap().messages.push(event);
        if played {
            socket.close(None).await.unwrap();
        }
    }
}

fn hello() -> Utterance {
    Utterance::Phrase("hello".into())
}

#[tokio::test]
async fn a_call_is_signed_streamed_heard_and_followed_to_its_end() {
    let bridge = Bridge::start(Manner::SpeakAndClose).await;
    let mut options = bridge.options(Vec::new());
    options.status_url = Some(format!("http://{}/status", bridge.address));
    let report = run_call(options).await;

    assert_eq!(report.violations, [""; 0]);
    assert_eq!(report.ended_by, EndedBy::Twiml);
    assert_eq!(report.followed[1..], ["Say Goodbye.", "Hangup"]);
    assert_eq!(report.last_twiml, AFTERWARDS);
    let stream = &report.streams[0];
    assert!(matches!(stream.ended_by, StreamEnd::Server(_)), "{:?}", stream.ended_by);
    assert_eq!((stream.media_bytes, stream.heard_bytes, stream.unheard_bytes), (4800, 4800, 0));
    assert_eq!((stream.heard_voice_ms, stream.stretches.len()), (600, 1));
    let mark = &stream.marks[0];
    assert_eq!((mark.at_byte, mark.returned), (4800, Some(MarkReturn::Played)));
    let after = mark.returned_ms.unwrap() - stream.stretches[0].since_ms;
    assert!((after - 600.0).abs() < 0.001, "{after}");

    let seen = bridge.seen.lock().unwrap();
    assert_eq!(seen.unsigned, [""; 0]);
    let paths: Vec<_> = seen.webhooks.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["/voice", "/ended", "/status"]);
    let fields = |index: usize, name: &str| seen.webhooks[index].1[name].clone();
    assert_eq!((fields(0, "CallStatus"), fields(1, "CallStatus")), ("ringing".into(), "in-progress".into()));
    assert_eq!(fields(0, "CallSid"), report.call_sid);
    assert_eq!((fields(2, "CallStatus"), fields(2, "CallDuration")), ("completed".into(), "1".into()));
    assert!(fields(2, "Timestamp").ends_with("+0000"), "{}", fields(2, "Timestamp"));
}

#[tokio::test]
async fn frames_come_every_20_ms_with_running_numbers() {
    let bridge = Bridge::start(Manner::Listen).await;
    let mut options =
        bridge.options(vec![Step::Press { digits: "5".into() }, Step::Pause { ms: 400 }, Step::HangUp]);
    options.spelling.first_timestamp_ms = 5;
    let report = run_call(options).await;

    assert_eq!(report.ended_by, EndedBy::Caller);
    assert_eq!(report.streams[0].ended_by, StreamEnd::Stop);
    let seen = bridge.seen.lock().unwrap();
    let kinds: Vec<_> = seen.messages.iter().map(|message| message["event"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[1], *kinds.last().unwrap()), ("connected", "start", "stop"));
    assert_eq!(seen.messages[1]["start"]["customParameters"], json!({"a": "b"}));
    assert_eq!(seen.messages[1]["start"]["callSid"], report.call_sid);
    for (index, message) in seen.messages.iter().enumerate().skip(1) {
        assert_eq!(message["sequenceNumber"], index.to_string());
    }
    let frames: Vec<_> = seen.messages.iter().filter(|message| message["event"] == "media").collect();
    assert_eq!(frames.len() as u64, report.streams[0].frames_sent);
    // 20 ms for the key, 400 ms of pause, and the frame in which the caller hangs up.
    assert_eq!(frames.len(), 22);
    for (index, frame) in frames.iter().enumerate() {
        assert_eq!(frame["media"]["timestamp"], (5 + 20 * index).to_string());
        assert_eq!(frame["media"]["payload"].as_str().unwrap().len(), 216);
    }
    assert_eq!(seen.messages.iter().filter(|message| message["event"] == "dtmf").count(), 1);
    assert_eq!(seen.webhooks[1].1["CallStatus"], "completed");
}

#[tokio::test]
async fn an_interruption_is_accounted_for_to_the_byte() {
    let bridge = Bridge::start(Manner::BeInterrupted).await;
    let interrupt = Step::InterruptAfter { heard_ms: 300, within_ms: 5000, say: hello() };
    let mut options = bridge.options(vec![interrupt, Step::Pause { ms: 600 }, Step::HangUp]);
    options.network = Network { delay_ms: 40, jitter_ms: 10 };
    let report = run_call(options).await;

    assert_eq!(report.violations, [""; 0]);
    let stream = &report.streams[0];
    let [clear] = &stream.clears[..] else { panic!("{:?}", stream.clears) };
    assert_eq!(clear.heard_bytes + clear.cleared_bytes, 24_000);
    assert_eq!(clear.at_byte, clear.heard_bytes);
    // It was heard for exactly as long as it played.
    let played_ms = clear.at_ms - stream.stretches[0].since_ms;
    assert!((clear.heard_bytes as f64 / 8.0 - played_ms).abs() <= 0.125, "{clear:?} {played_ms}");
    // The caller spoke after 300 ms, and it took two ways through the network to be noticed.
    assert!(played_ms >= 380.0, "{played_ms}");
    assert_eq!(clear.flushed_marks, ["g1:x:3000"]);
    assert_eq!(clear.followed_by.len(), 1);
    assert_eq!((clear.followed_by[0].bytes, clear.followed_by[0].mark.as_deref()), (1600, Some("g2:y:200")));
    assert_eq!(stream.heard_bytes, clear.heard_bytes + 1600);
    let returned: Vec<_> = stream.marks.iter().map(|mark| mark.returned.unwrap()).collect();
    assert_eq!(returned, [MarkReturn::Flushed, MarkReturn::Played]);
    assert_eq!(bridge.events("mark").len(), 2);
    let [hello] = &report.utterances[..] else { panic!("{:?}", report.utterances) };
    assert!(hello.over_agent);
}

#[tokio::test]
async fn what_twilio_does_not_accept_is_a_violation() {
    let bridge = Bridge::start(Manner::Misbehave).await;
    let report = run_call(bridge.options(vec![Step::Pause { ms: 200 }, Step::HangUp])).await;
    let codes: Vec<_> = report.violations.iter().map(|violation| &violation[..5]).collect();
    assert_eq!(codes, ["31950", "31951", "31951"]);
    assert!(report.streams[0].clears.is_empty());
}

#[tokio::test]
async fn a_refused_handshake_goes_on_with_the_action() {
    let bridge = Bridge::start(Manner::Refuse).await;
    let report = run_call(bridge.options(Vec::new())).await;
    assert!(matches!(&report.streams[0].ended_by, StreamEnd::Refused(why) if why.contains("403")));
    assert_eq!(report.followed[1..], ["Say Goodbye.", "Hangup"]);
    assert!(report.violations[0].starts_with("31920"));
}

#[tokio::test]
async fn a_broken_stream_has_no_stop_and_the_call_goes_on() {
    let bridge = Bridge::start(Manner::Listen).await;
    let report = run_call(bridge.options(vec![Step::Pause { ms: 100 }, Step::Drop])).await;
    assert_eq!(report.streams[0].ended_by, StreamEnd::Dropped);
    assert!(bridge.events("stop").is_empty());
    assert_eq!(bridge.seen.lock().unwrap().webhooks[1].1["CallStatus"], "in-progress");
    assert_eq!(report.ended_by, EndedBy::Twiml);
}

#[tokio::test]
async fn a_stall_leaves_a_hole_or_ends_in_a_burst() {
    for (burst, expected) in [(false, 13), (true, 17)] {
        let bridge = Bridge::start(Manner::Listen).await;
        let steps = vec![Step::Stall { ms: 100, burst }, Step::Pause { ms: 300 }, Step::HangUp];
        run_call(bridge.options(steps)).await;
        let stamps: Vec<u64> = bridge
            .events("media")
            .iter()
            .map(|frame| frame["media"]["timestamp"].as_str().unwrap().parse().unwrap())
            .collect();
        assert!(stamps.is_sorted());
        // From 0 to 320 ms, where the caller hangs up, without 20 to 80 ms or with them.
        assert_eq!(stamps.len(), expected, "{stamps:?}");
        assert_eq!(stamps[1], if burst { 20 } else { 100 });
    }
}

#[tokio::test]
async fn what_is_sent_while_twilio_does_not_read_arrives_afterwards() {
    let bridge = Bridge::start(Manner::SpeakAndClose).await;
    let report = run_call(bridge.options(vec![Step::StopReading { ms: 300 }])).await;
    let stream = &report.streams[0];
    assert!(stream.stretches[0].since_ms >= 300.0, "{:?}", stream.stretches);
    assert_eq!((stream.heard_bytes, report.violations.len()), (4800, 0));
}

#[tokio::test]
async fn a_caller_does_not_wait_for_ever() {
    let bridge = Bridge::start(Manner::Listen).await;
    let mut options = bridge.options(Vec::new());
    options.patience = Duration::from_millis(200);
    let report = run_call(options).await;
    assert_eq!((report.ended_by, &report.streams[0].ended_by), (EndedBy::Patience, &StreamEnd::Stop));
    assert_eq!(bridge.events("stop").len(), 1);
}

#[tokio::test]
async fn webhooks_that_lead_nowhere_end_the_call() {
    let bridge = Bridge::start(Manner::Listen).await;
    let call = |path: &str| {
        let mut options = bridge.options(Vec::new());
        options.webhook_url = format!("http://{}{path}", bridge.address);
        run_call(options)
    };
    let report = call("/redirects").await;
    assert_eq!((report.ended_by, report.violations.len()), (EndedBy::Error, 1));
    assert!(report.violations[0].starts_with("11215"), "{:?}", report.violations);
    let report = call("/text").await;
    assert!(report.violations[0].starts_with("12300"), "{:?}", report.violations);
    let report = call("/dial").await;
    assert_eq!(report.followed, ["Dial +15550002222", "Say Goodbye.", "Hangup"]);
    let seen = bridge.seen.lock().unwrap();
    assert_eq!(seen.webhooks.last().unwrap().1["DialCallStatus"], "completed");
}

#[tokio::test]
async fn many_calls_differ_in_numbers_and_ids() {
    let bridge = Bridge::start(Manner::SpeakAndClose).await;
    let reports = run_many(5, Duration::from_millis(5), &bridge.options(Vec::new())).await;
    let numbers: Vec<_> = reports.iter().map(|report| report.from.as_str()).collect();
    assert_eq!(numbers[..2], ["+14155550123", "+14155550124"]);
    let mut sids: Vec<_> = reports.iter().map(|report| report.call_sid.as_str()).collect();
    sids.sort_unstable();
    sids.dedup();
    assert_eq!(sids.len(), 5);
    assert!(reports.iter().all(|report| report.streams[0].heard_bytes == 4800));
}

#[tokio::test]
async fn what_the_caller_heard_can_be_recorded() {
    let bridge = Bridge::start(Manner::SpeakAndClose).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut options = bridge.options(Vec::new());
    options.record = Some(file.path().to_owned());
    run_call(options).await;
    let ulaw =
        crate::simulate::wav::Wav::parse(&std::fs::read(file.path()).unwrap()).unwrap().into_ulaw().unwrap();
    assert!(ulaw.ends_with(&[0x10, 0x90].repeat(2400)), "{} bytes", ulaw.len());
}
