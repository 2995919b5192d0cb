//! A call on a table: hand it inputs at times, read what it did as lines.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use voicebridge::audio::AudioFormat;
use voicebridge::call::operator::{Command, Outcome, Wish};
use voicebridge::call::outbox::{Output, SessionAct};
use voicebridge::call::settings::{END_CALL, Settings, TRANSFER_TO_HUMAN};
use voicebridge::call::tools::{ToolResult, built_in};
use voicebridge::call::transcript::{Entry, Role, Status};
use voicebridge::call::{Call, Input, Unavailable};
use voicebridge::clock::CallTime;
use voicebridge::ids::{CommandId, ItemId, ResponseId, ToolCallId};
use voicebridge::wire::model::{
    AudioPayload, Capabilities, ErrorClass, ItemKind, ModelCommand, ModelError, ModelEvent, NewItem,
    ResponseStatus, SessionConfig, TurnDetection, TurnTaking,
};
use voicebridge::wire::{payload, twilio};

use crate::rules::Rules;

pub use voicebridge::call::end::EndReason;

/// One input, owning its text, so that scripts and random lists can hold it.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Anything that borrows nothing.
    Plain(Input<'static>),
    CallerAudio {
        timestamp_ms: u64,
        ulaw: Vec<u8>,
    },
    AgentAudio {
        response: String,
        item: String,
        audio: Vec<u8>,
    },
    Text {
        response: String,
        item: String,
        text: String,
    },
    /// The n-th mark of the call comes back, from 1.
    Mark(usize),
    /// Every mark that has not come back does so.
    AllMarks,
}

pub fn item(id: &str) -> ItemId {
    ItemId::parse(id).unwrap()
}

pub fn response(id: &str) -> ResponseId {
    ResponseId::parse(id).unwrap()
}

pub fn tool(id: &str) -> ToolCallId {
    ToolCallId::parse(id).unwrap()
}

pub fn model(event: ModelEvent<'static>) -> Event {
    Event::Plain(Input::Model(event))
}

/// Audio of the usual response, in the mu-law of a `pcmu` session.
pub fn agent_audio(item: &str, ms: usize) -> Event {
    audio_of("resp_1", item, ms)
}

/// Every response and item has a sound of its own, so that it can be recognised at the other end.
pub fn audio_of(response: &str, item: &str, ms: usize) -> Event {
    audio_bytes(response, item, vec![sound(response, item); ms * 8])
}

pub fn audio_bytes(response: &str, item: &str, audio: Vec<u8>) -> Event {
    Event::AgentAudio { response: response.into(), item: item.into(), audio }
}

/// The byte that stands for a response's item; responses 0 to 7 and items 0 to 15 are told apart by their last digits.
pub fn sound(response: &str, item: &str) -> u8 {
    let digit = |text: &str| text.bytes().last().map_or(0, |b| b % 16);
    (digit(response) % 8) << 4 | digit(item)
}

pub fn agent_text(item: &str, text: &str) -> Event {
    Event::Text { response: "resp_1".into(), item: item.into(), text: text.into() }
}

pub fn text_done(id: &str, text: &str) -> Event {
    model(ModelEvent::TextDone { item: item(id), text: Cow::Owned(text.into()) })
}

pub fn audio_done(id: &str) -> Event {
    model(ModelEvent::AudioDone { response: response("resp_1"), item: item(id) })
}

pub fn response_started(id: &str) -> Event {
    model(ModelEvent::ResponseStarted { response: response(id) })
}

pub fn response_done(id: &str) -> Event {
    done_with(id, ResponseStatus::Completed)
}

pub fn response_cancelled(id: &str) -> Event {
    done_with(id, ResponseStatus::Cancelled)
}

pub fn response_failed(id: &str, code: &str, class: ErrorClass) -> Event {
    done_with(id, ResponseStatus::Failed { code: code.into(), message: String::new(), class })
}

pub fn done_with(id: &str, status: ResponseStatus) -> Event {
    model(ModelEvent::ResponseDone { response: response(id), status, usage: None })
}

pub fn speech_started() -> Event {
    speech_starts("user_9", 0)
}

pub fn speech_starts(id: &str, audio_start_ms: u64) -> Event {
    model(ModelEvent::SpeechStarted { item: item(id), audio_start_ms })
}

pub fn speech_stops(id: &str, audio_end_ms: u64) -> Event {
    model(ModelEvent::SpeechStopped { item: item(id), audio_end_ms })
}

pub fn committed(id: &str, previous: Option<&str>) -> Event {
    model(ModelEvent::Committed { item: item(id), previous: previous.map(item) })
}

pub fn placed(id: &str, kind: ItemKind, previous: Option<&str>) -> Event {
    model(ModelEvent::ItemPlaced { item: item(id), kind, previous: previous.map(item) })
}

pub fn user_said(id: &str, text: &str) -> Event {
    model(ModelEvent::UserTranscript { item: item(id), text: Cow::Owned(text.into()) })
}

pub fn user_writes(id: &str, text: &str) -> Event {
    model(ModelEvent::UserTranscriptDelta { item: item(id), text: Cow::Owned(text.into()) })
}

pub fn tool_call(id: &str, name: &str, arguments: &str) -> Event {
    tool_call_of("resp_1", id, name, arguments)
}

pub fn tool_call_of(of: &str, id: &str, name: &str, arguments: &str) -> Event {
    model(ModelEvent::ToolCall {
        response: response(of),
        item: item(&format!("item_of_{id}")),
        call: tool(id),
        name: name.into(),
        arguments: arguments.into(),
    })
}

pub fn tool_finished(id: &str, output: &str) -> Event {
    Event::Plain(Input::ToolFinished(ToolResult { call: tool(id), output: output.into() }))
}

pub fn error(class: ErrorClass, event_id: Option<&str>) -> Event {
    let code = format!("{class:?}").to_lowercase();
    let event_id = event_id.map(str::to_owned);
    model(ModelEvent::Error(ModelError { code, class, event_id, ..ModelError::default() }))
}

pub fn mark_played(n: usize) -> Event {
    Event::Mark(n)
}

pub fn all_marks_played() -> Event {
    Event::AllMarks
}

/// A usual frame: 20 ms of the caller.
pub fn caller_frame(timestamp_ms: u64) -> Event {
    Event::CallerAudio { timestamp_ms, ulaw: vec![0x55; 160] }
}

pub fn key(digit: char) -> Event {
    Event::Plain(Input::Twilio(twilio::Inbound::Dtmf { digit }))
}

pub fn stop() -> Event {
    Event::Plain(Input::Twilio(twilio::Inbound::Stop))
}

pub fn hang_up(reason: EndReason) -> Event {
    Event::Plain(Input::HangUp(reason))
}

/// Somebody in charge wants something.
pub fn command(wish: Wish) -> Event {
    Event::Plain(Input::Command(Command { id: CommandId(uuid::Uuid::nil()), wish }))
}

pub fn model_ready() -> Event {
    model_ready_until(CallTime::FAR)
}

/// A session that its provider will end then.
pub fn model_ready_until(expires: CallTime) -> Event {
    Event::Plain(Input::ModelReady { expires })
}

pub fn next_model_ready() -> Event {
    next_model_ready_until(CallTime::FAR)
}

pub fn next_model_ready_until(expires: CallTime) -> Event {
    Event::Plain(Input::NextModelReady { expires })
}

pub fn next_model_alive() -> Event {
    Event::Plain(Input::NextModelAlive)
}

pub fn next_model_gone() -> Event {
    Event::Plain(Input::NextModelGone)
}

pub fn model_closed() -> Event {
    Event::Plain(Input::ModelClosed)
}

pub fn no_model(why: Unavailable) -> Event {
    Event::Plain(Input::ModelUnavailable(why))
}

pub fn session(format: AudioFormat) -> SessionConfig {
    SessionConfig {
        instructions: "You answer for Northgate Bakery.".into(),
        voice: "marin".into(),
        format,
        transcription: None,
        turn_detection: TurnDetection::default(),
        turn_taking: TurnTaking::ByModel,
        tools: built_in(),
        max_output_tokens: None,
        reasoning_effort: None,
        noise_reduction: None,
    }
}

pub fn settings(format: AudioFormat) -> Settings {
    Settings {
        tools: BTreeMap::from([
            ("look_up".to_owned(), Duration::from_secs(5)),
            ("book".to_owned(), Duration::from_secs(5)),
        ]),
        ..Settings::new(session(format))
    }
}

pub const ABLE: Capabilities =
    Capabilities { can_truncate: true, can_cancel: true, owns_turns: true, yields_turns: true };

/// One thing the call did.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub at: CallTime,
    pub text: String,
}

/// One message to the caller's side.
#[derive(Debug, Clone, PartialEq)]
pub enum Sent {
    Media(usize),
    Mark(String),
    Clear,
}

/// A call and what it did so far. Every test of a scenario also holds the call to the general [`Rules`].
pub struct TestCall {
    call: Call,
    pub now: CallTime,
    pub lines: Vec<Line>,
    pub entries: Vec<Entry>,
    /// Everything sent to the caller.
    pub media: Vec<u8>,
    /// The same with marks and clears, when each was sent.
    pub sent: Vec<(CallTime, Sent)>,
    /// Everything sent to the model, as bytes of its format.
    pub appended: Vec<u8>,
    /// What the model was asked for in words of their own.
    pub asked: Vec<String>,
    /// Names of all marks sent.
    pub marks: Vec<String>,
    marks_back: usize,
    /// The model's end of the connection is dead: it answers no ping.
    pub deaf: bool,
    /// So is that of the session beside it.
    pub next_deaf: bool,
    pub rules: Rules,
}

impl TestCall {
    pub fn new(settings: Settings, capabilities: Capabilities) -> Self {
        let rules = Rules::new(&settings);
        Self {
            call: Call::new(settings, capabilities),
            now: CallTime::ZERO,
            lines: Vec::new(),
            entries: Vec::new(),
            media: Vec::new(),
            sent: Vec::new(),
            appended: Vec::new(),
            asked: Vec::new(),
            marks: Vec::new(),
            marks_back: 0,
            deaf: false,
            next_deaf: false,
            rules,
        }
    }

    /// The stream runs and the model is ready, at time 0. It speaks mu-law and does not greet.
    pub fn connected() -> Self {
        Self::connected_with(|_| {})
    }

    pub fn connected_with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings(AudioFormat::Pcmu);
        change(&mut settings);
        let mut call = Self::new(settings, ABLE);
        call.at(0, model_ready());
        call
    }

    /// The same for an agent that is paused first when somebody speaks over it.
    pub fn judging() -> Self {
        Self::connected_with(|settings| settings.session.turn_taking = TurnTaking::ByUs)
    }

    /// The same with a response that has begun.
    pub fn answering() -> Self {
        let mut call = Self::connected();
        call.at(0, response_started("resp_1"));
        call
    }

    /// Goes to that time, through every timeout on the way, and hands in the event.
    pub fn at(&mut self, ms: u64, event: Event) {
        self.at_time(CallTime::from_millis(ms), event);
    }

    pub fn at_time(&mut self, time: CallTime, event: Event) {
        self.until_time(time);
        self.rules.before(self.now, &event);
        match event {
            Event::Plain(input) => self.take(input),
            Event::CallerAudio { timestamp_ms, ulaw } => {
                let payload = base64(&ulaw);
                self.take(Input::Twilio(twilio::Inbound::Media(twilio::Media {
                    timestamp_ms,
                    payload: &payload,
                })));
            }
            Event::AgentAudio { response, item, audio } => {
                let base64 = base64(&audio);
                let event = ModelEvent::Audio { response: &response, item: &item, base64: &base64 };
                self.take(Input::Model(event));
            }
            Event::Text { response, item, text } => {
                let text = Cow::Borrowed(text.as_str());
                self.take(Input::Model(ModelEvent::TextDelta { response: &response, item: &item, text }));
            }
            Event::Mark(n) => {
                let name = n.checked_sub(1).and_then(|n| self.marks.get(n)).cloned();
                self.mark_back(&name.unwrap_or_else(|| "g0:never_sent:0".into()));
            }
            Event::AllMarks => {
                for n in self.marks_back..self.marks.len() {
                    self.mark_back(&self.marks[n].clone());
                }
                self.marks_back = self.marks.len();
            }
        }
    }

    /// The same for an input that the driver saw before the timeouts that were due by then.
    pub fn at_before_timeouts(&mut self, ms: u64, input: Input<'static>) {
        self.now = self.now.max(CallTime::from_millis(ms));
        self.rules.before(self.now, &Event::Plain(input.clone()));
        self.take(input);
    }

    pub fn mark_back(&mut self, name: &str) {
        self.rules.mark_back(name);
        self.take(Input::Twilio(twilio::Inbound::Mark { name: Cow::Borrowed(name) }));
    }

    /// Goes to that time, through every timeout on the way.
    pub fn until(&mut self, ms: u64) {
        self.until_time(CallTime::from_millis(ms));
    }

    pub fn until_time(&mut self, time: CallTime) {
        while self.call.poll_timeout() <= time {
            self.now = self.now.max(self.call.poll_timeout());
            self.take(Input::Timeout);
            let next = self.call.poll_timeout();
            assert!(self.is_ended() || next > self.now, "it spins at {}, and waits for {next}", self.now);
        }
        self.now = self.now.max(time);
    }

    pub fn is_ended(&self) -> bool {
        self.call.is_ended()
    }

    pub fn poll_timeout(&self) -> CallTime {
        self.call.poll_timeout()
    }

    fn take(&mut self, input: Input<'_>) {
        self.call.handle_input(self.now, input);
        while let Some(output) = self.call.poll_output() {
            // It measures the network and means nothing else: players see it, logs and rules do not.
            if let Output::Twilio(twilio::Outbound::Mark { name }) = &output
                && name.contains(":probe:")
            {
                self.sent.push((self.now, Sent::Mark((*name).into())));
                continue;
            }
            self.rules.output(self.now, &output);
            // A model that is there answers at once, and nothing else comes of it.
            if output == Output::Session(SessionAct::Ping) && !self.deaf {
                self.call.handle_input(self.now, Input::ModelAlive);
                continue;
            }
            if output == Output::Session(SessionAct::PingNext) && !self.next_deaf {
                self.call.handle_input(self.now, Input::NextModelAlive);
                continue;
            }
            match &output {
                Output::Twilio(twilio::Outbound::Media { ulaw }) => {
                    self.media.extend_from_slice(ulaw);
                    self.sent.push((self.now, Sent::Media(ulaw.len())));
                }
                Output::Twilio(twilio::Outbound::Mark { name }) => {
                    self.marks.push((*name).into());
                    self.sent.push((self.now, Sent::Mark((*name).into())));
                }
                Output::Twilio(twilio::Outbound::Clear) => self.sent.push((self.now, Sent::Clear)),
                Output::Transcript(entry) => self.entries.push(entry.clone()),
                Output::Model(ModelCommand::CreateResponse { instructions: Some(text), .. }) => {
                    self.asked.push(text.clone());
                }
                Output::Model(ModelCommand::AppendAudio(AudioPayload::Bytes(bytes))) => {
                    self.appended.extend_from_slice(bytes);
                }
                Output::Model(ModelCommand::AppendAudio(AudioPayload::Base64(text))) => {
                    payload::decode_into(text, &mut self.appended).unwrap();
                }
                _ => {}
            }
            self.lines.push(Line { at: self.now, text: describe(&output) });
        }
    }

    /// Every line so far, with its time.
    pub fn log(&self) -> String {
        self.select(|_| true)
    }

    pub fn select(&self, wanted: impl Fn(&Line) -> bool) -> String {
        let mut log = String::new();
        for line in self.lines.iter().filter(|line| wanted(line)) {
            writeln!(log, "{} {}", line.at, line.text).unwrap();
        }
        log
    }

    /// What happened after `ms` on both wires and to the call itself, audio to the model and marks left out.
    #[track_caller]
    pub fn expect_after(&self, ms: u64, expected: &str) {
        let after = CallTime::from_millis(ms);
        let quiet = ["save", "note", "measured", "judged", "session", "model append", "twilio mark"];
        let log = self.select(|line| line.at > after && !quiet.iter().any(|q| line.text.starts_with(q)));
        assert_same(&log, expected);
    }

    /// What was saved, without times, in the order it was.
    #[track_caller]
    pub fn expect_saved(&self, expected: &str) {
        let saved: Vec<&str> = self.lines.iter().filter_map(|l| l.text.strip_prefix("save ")).collect();
        assert_same(&saved.join("\n"), expected);
    }

    /// How often a line that begins like this came.
    pub fn count(&self, start: &str) -> usize {
        self.lines.iter().filter(|line| line.text.starts_with(start)).count()
    }

    /// When the first line that begins like this came.
    #[track_caller]
    pub fn time_of(&self, start: &str) -> CallTime {
        let line = self.lines.iter().find(|line| line.text.starts_with(start));
        line.unwrap_or_else(|| panic!("no line {start:?} in\n{}", self.log())).at
    }

    /// The transcript as the store would hold it: the newest revision of every item, in order.
    pub fn conversation(&self) -> Vec<Entry> {
        let mut newest = BTreeMap::new();
        for entry in &self.entries {
            newest.insert(entry.item.clone(), entry.clone());
        }
        let mut conversation: Vec<Entry> = newest.into_values().collect();
        conversation.sort_by_key(|entry| entry.sequence);
        conversation
    }

    /// The same as lines `role: words`.
    pub fn words(&self) -> Vec<String> {
        let words = |entry: &Entry| format!("{}: {}", entry.role.as_str(), entry.content);
        self.conversation().iter().map(words).collect()
    }

    /// Lets the call run to its end, which must come.
    #[track_caller]
    pub fn run_out(&mut self) {
        let patience = self.now + Duration::from_secs(3 * 3600);
        self.until_time(patience);
        assert!(self.is_ended(), "it never ends:\n{}", self.log());
    }
}

/// Compares with the file `tests/golden/<name>.log`; writes it instead where `BLESS` is set.
#[track_caller]
pub fn assert_golden(name: &str, log: &str) {
    let path = format!("{}/tests/golden/{name}.log", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, log).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(log == golden, "not as in {path}; if it is right, run with BLESS=1:\n{}", changes(&golden, log));
}

fn changes(golden: &str, log: &str) -> String {
    let same = golden.lines().zip(log.lines()).take_while(|(a, b)| a == b).count();
    let rest = |text: &str| text.lines().skip(same).take(20).collect::<Vec<_>>().join("\n");
    format!("--- from line {}, expected\n{}\n--- but\n{}", same + 1, rest(golden), rest(log))
}

#[track_caller]
fn assert_same(actual: &str, expected: &str) {
    let trim = |text: &str| {
        let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
    };
    let (actual, expected) = (trim(actual), trim(expected));
    assert!(actual == expected, "expected\n{expected}\nbut it was\n{actual}");
}

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    payload::encode_into(bytes, &mut text);
    text
}

fn describe(output: &Output<'_>) -> String {
    match output {
        Output::Twilio(twilio::Outbound::Media { ulaw }) => format!("twilio media {}", length(ulaw.len())),
        Output::Twilio(twilio::Outbound::Mark { name }) => format!("twilio mark {name}"),
        Output::Twilio(twilio::Outbound::Clear) => "twilio clear".into(),
        Output::Model(command) => format!("model {}", describe_command(command)),
        Output::Transcript(entry) => format!("save {}", describe_entry(entry)),
        Output::CallTool(request) => format!("tool {} {} {}", request.call, request.name, request.arguments),
        Output::CancelTool(call) => format!("tool {call} cancelled"),
        Output::Connected => "connected".into(),
        Output::Session(act) => describe_session(*act),
        Output::Transfer(transfer) => format!("transfer {:?} {:?}", transfer.reason, transfer.summary),
        Output::Answered(answer) => match answer.outcome {
            Outcome::Done(why) => format!("answer {} done: {why}", answer.kind),
            Outcome::Refused(why) => format!("answer {} refused: {why}", answer.kind),
        },
        Output::OptedOut(how) => format!("opted out {how:?}"),
        Output::Measured(turn) => {
            let latency = turn.response_latency().map_or("-".into(), |latency| format!("{latency:?}"));
            format!("measured {} {latency}", turn.item)
        }
        Output::Judged(judgement) => {
            let (verdict, why) = (judgement.verdict.as_str(), judgement.why.as_str());
            format!("judged {} {verdict} by {why} after {:?}", judgement.item, judgement.pause())
        }
        Output::Note(note) => format!("note {note:?}"),
        Output::EndStream(reason) => format!("end stream {reason}"),
        Output::Ended(reason) => format!("ended {reason}"),
    }
}

fn describe_session(act: SessionAct) -> String {
    let elsewhere = |elsewhere| if elsewhere { " elsewhere" } else { "" };
    match act {
        SessionAct::Open { elsewhere: other } => format!("open model{}", elsewhere(other)),
        SessionAct::OpenNext { elsewhere: other } => format!("open next model{}", elsewhere(other)),
        SessionAct::LeaveNext { early: true } => "leave next model, lost early".into(),
        SessionAct::LeaveNext { early: false } => "leave next model".into(),
        SessionAct::UseNext => "use next model".into(),
        SessionAct::Ping => "ping model".into(),
        SessionAct::PingNext => "ping next model".into(),
        SessionAct::Served => "session served".into(),
        SessionAct::LostEarly => "session lost early".into(),
    }
}

fn describe_command(command: &ModelCommand<'_>) -> String {
    match command {
        ModelCommand::UpdateSession { .. } => "update session".into(),
        ModelCommand::AppendAudio(AudioPayload::Bytes(bytes)) => format!("append {}", length(bytes.len())),
        ModelCommand::AppendAudio(AudioPayload::Base64(text)) => {
            let padding = text.bytes().filter(|b| *b == b'=').count();
            format!("append {}", length(text.len() / 4 * 3 - padding))
        }
        ModelCommand::CommitAudio { event_id } => format!("commit [{event_id}]"),
        ModelCommand::CreateItem { item: NewItem::UserText { id, text }, .. } => format!("item {id} {text}"),
        ModelCommand::CreateItem { item: NewItem::SystemText { id, text }, .. } => {
            format!("note {id} {text}")
        }
        ModelCommand::CreateItem { item: NewItem::AgentText { id, text }, .. } => {
            format!("item {id} by the agent {text}")
        }
        ModelCommand::CreateItem { item: NewItem::ToolCall { id, call, name, arguments }, .. } => {
            format!("item {id} calls {call} {name} {arguments}")
        }
        ModelCommand::CreateItem { item: NewItem::ToolOutput { id, call, output }, .. } => {
            format!("item {id} answers {call} {output}")
        }
        ModelCommand::Truncate { item, audio_end_ms, .. } => format!("truncate {item} at {audio_end_ms}ms"),
        ModelCommand::CreateResponse { event_id, purpose, instructions } => {
            let own = if instructions.is_some() { " in its own words" } else { "" };
            format!("respond {}{own} [{event_id}]", purpose.as_str())
        }
        ModelCommand::CancelResponse { response, .. } => format!("cancel {response}"),
    }
}

/// In milliseconds of mu-law; the odd bytes are named.
fn length(bytes: usize) -> String {
    match bytes % 8 {
        0 => format!("{}ms", bytes / 8),
        odd => format!("{}ms+{odd}", bytes / 8),
    }
}

fn describe_entry(entry: &Entry) -> String {
    let mut text = format!("{}r{} {}", entry.sequence, entry.revision, entry.role.as_str());
    if entry.role == Role::Tool {
        let name = entry.tool_name.as_deref().unwrap_or_default();
        let arguments = entry.generated.as_deref().unwrap_or_default();
        let answered = entry.status != Status::Unanswered;
        write!(text, " {name} {arguments} -> {}", if answered { &*entry.content } else { "…" }).unwrap();
        return text;
    }
    write!(text, " {:?}", entry.content).unwrap();
    if let Some(generated) = &entry.generated {
        write!(text, " of {generated:?}").unwrap();
    }
    if let (Some(ms), Some(evidence)) = (entry.heard_until_ms, entry.evidence) {
        write!(text, " heard {ms}ms by {}", evidence.as_str()).unwrap();
    }
    if entry.interrupted {
        text.push_str(" interrupted");
    }
    text.push_str(match entry.status {
        Status::NotTranscribed => " not transcribed",
        Status::Final | Status::Unanswered => "",
    });
    text
}

/// Names of the built-in functions, for scripts.
pub const GOODBYE: &str = END_CALL;
pub const HUMAN: &str = TRANSFER_TO_HUMAN;
