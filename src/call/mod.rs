//! A live call as a plain value: it takes what happened, in order, and hands out what must be done, in order.
//!
//! It never waits, reads a clock or touches a socket. Drivers call [`Call::handle_input`] with the time, then take
//! [`Call::poll_output`] until it is empty, then sleep until [`Call::poll_timeout`] or the next input.

pub mod end;
pub mod settings;
pub mod setup;
pub mod tools;
pub mod timing;
mod heard_text;
pub mod transcript;
mod timers;
mod caller_audio;
mod playout;
mod turns;
mod words;
mod barge_in;
mod over_agent;
pub mod outbox;
mod model_side;
pub mod recovery;
mod probation;
mod renewal;
mod pulse;
mod ending;
pub mod operator;

use crate::audio::g711::SILENCE;
use crate::audio::resample::{Downlink, Uplink};
use crate::clock::CallTime;
use crate::ids::ItemId;
use crate::wire::model::{Capabilities, ModelCommand, ModelEvent, NewItem, Purpose, TurnTaking};
use crate::wire::{payload, twilio};

use barge_in::BargeIn;
use caller_audio::{CallerAudio, Taken};
use end::EndReason;
use ending::{Leaving, Phase};
use operator::{Command, OptOut, Sayings};
use outbox::{Note, Outbox, Output, SessionAct, empty};
use playout::{Playout, Step};
use probation::Probation;
use pulse::{Check, Pulse};
use recovery::Recovery;
use renewal::Renewal;
use settings::Settings;
use timers::{Timer, Timers};
use timing::Timing;
use tools::{ToolResult, Tools};
use transcript::Transcript;
use turns::Turns;

/// So many unusable frames in a row end the stream: it is not one of ours.
const MAX_BAD_FRAMES: u32 = 10;
/// A pause this long after a key ends the caller's entry; `#` ends it at once.
const KEYPAD_PAUSE: std::time::Duration = std::time::Duration::from_millis(1500);
/// Longest entry on the keypad.
const MAX_KEYS: usize = 32;
/// Silence is handed to the model in pieces of this many bytes, so that no message becomes huge.
const SILENCE_PIECE: [u8; 8000] = [SILENCE; 8000];

/// What can happen to a call, in the order the driver saw it.
#[derive(Debug, Clone, PartialEq)]
pub enum Input<'a> {
    /// Twilio said something.
    Twilio(twilio::Inbound<'a>),
    /// A message of the stream could not be read.
    UnreadableMessage,
    /// A message of the stream was larger than any audio frame.
    OversizeMessage,
    /// The media stream broke without a `stop`.
    StreamClosed,
    /// The model's session is as asked ([`setup::Setup`]).
    ModelReady {
        /// When its provider will end it.
        expires: CallTime,
    },
    /// The model said something.
    Model(ModelEvent<'a>),
    /// Something came from the model's end that says nothing more than that it is there.
    ModelAlive,
    /// No session came of the last try to open one.
    ModelUnavailable(Unavailable),
    /// The model's socket closed.
    ModelClosed,
    /// The session that was to be opened beside the one in use is as asked.
    NextModelReady {
        /// When its provider will end it.
        expires: CallTime,
    },
    /// Something came of it, whatever it was.
    NextModelAlive,
    /// It did not come, or its socket closed again.
    NextModelGone,
    /// A function answered.
    ToolFinished(ToolResult),
    /// Somebody in charge wants something of the call.
    Command(Command),
    /// The call shall leave this server at the next pause, to go on elsewhere.
    MoveAway,
    /// The call must end, for a reason from outside.
    HangUp(EndReason),
    /// The time of [`Call::poll_timeout`] has come.
    Timeout,
}

/// Whose audio there has been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nobody,
    Caller,
    /// The agent's after the caller's.
    Both,
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// Another try may work.
    Failed,
    /// Whatever is wrong, trying again cannot mend it.
    Refused,
    /// Nobody was asked, because it is known that nobody would have answered.
    NotTried,
}

/// One live call.
#[derive(Debug)]
pub struct Call {
    settings: Settings,
    capabilities: Capabilities,
    phase: Phase,
    leaving: Option<Leaving>,
    /// The call leaves this server at the next pause.
    moving: Option<CallTime>,
    /// The model can still be heard.
    model_open: bool,
    outbox: Outbox,
    timers: Timers,
    caller_audio: CallerAudio,
    uplink: Uplink,
    downlink: Downlink,
    /// The item whose audio is arriving.
    arriving: Option<ItemId>,
    /// Unfinished items that were heard as far as they had come when the caller spoke.
    heard_so_far: Vec<(ItemId, u64)>,
    playout: Playout,
    turns: Turns,
    /// `None`: the model stops by itself at any sound.
    barge_in: Option<BargeIn>,
    recovery: Recovery,
    probation: Probation,
    renewal: Renewal,
    pulse: Pulse,
    transcript: Transcript,
    tools: Tools,
    timing: Timing,
    keys: String,
    keys_due: Option<CallTime>,
    sayings: Sayings,
    /// The other party does not want to be called again.
    opted_out: bool,
    nudges: u32,
    /// The caller's turn that is being spoken.
    open_turn: Option<ItemId>,
    last_activity: CallTime,
    last_message: CallTime,
    bad_frames: u32,
    heard: Heard,
    event_ids: u32,
    /// Decoded audio of the message at hand; empty between messages.
    received: Vec<u8>,
    converted: Vec<u8>,
}

impl Call {
    /// A call whose media stream has just started and whose model is not ready yet.
    #[must_use]
    pub fn new(mut settings: Settings, mut capabilities: Capabilities) -> Self {
        settings.tell_of_handoffs();
        let format = settings.session.format;
        let by_us = capabilities.yields_turns && settings.session.turn_taking == TurnTaking::ByUs;
        capabilities.owns_turns &= !by_us;
        let lead = settings.playout_lead;
        let mut call = Self {
            capabilities,
            phase: Phase::Connecting,
            leaving: None,
            moving: None,
            model_open: false,
            outbox: Outbox::default(),
            timers: Timers::default(),
            caller_audio: CallerAudio::default(),
            uplink: Uplink::new(format),
            downlink: Downlink::new(format),
            arriving: None,
            heard_so_far: Vec::new(),
            playout: if by_us { Playout::pausing(lead) } else { Playout::new(lead) },
            turns: Turns::new(),
            barge_in: by_us.then(BargeIn::default),
            recovery: Recovery::new(settings.seed),
            probation: Probation::default(),
            renewal: Renewal::new(),
            pulse: Pulse::default(),
            transcript: Transcript::default(),
            tools: Tools::new(settings.tools.clone()),
            timing: Timing::default(),
            keys: String::new(),
            keys_due: None,
            sayings: Sayings::new(),
            opted_out: false,
            nudges: 0,
            open_turn: None,
            last_activity: CallTime::ZERO,
            last_message: CallTime::ZERO,
            bad_frames: 0,
            heard: Heard::Nobody,
            event_ids: 0,
            received: Vec::new(),
            converted: Vec::new(),
            settings,
        };
        call.plan();
        call
    }

    /// Takes what happened. Never fails: whatever a peer does is state, and at worst a reason to end.
    pub fn handle_input(&mut self, now: CallTime, input: Input<'_>) {
        if self.phase.is_ended() {
            return;
        }
        if matches!(input, Input::ModelAlive) {
            self.pulse.felt(now);
            return self.follow_caller();
        }
        match input {
            Input::Twilio(message) => self.on_twilio(now, message),
            Input::UnreadableMessage => self.outbox.note(Note::MessageIgnored),
            Input::OversizeMessage => self.on_bad_frame(now, Note::FrameTooLarge),
            Input::StreamClosed => self.end(now, EndReason::StreamLost),
            Input::ModelReady { expires } => self.on_ready(now, expires),
            Input::Model(event) => self.on_model(now, event),
            Input::ModelUnavailable(why) => self.on_model_unavailable(now, why),
            Input::ModelClosed => self.on_model_lost(now),
            Input::NextModelReady { expires } => self.on_next_ready(now, expires),
            Input::NextModelAlive => self.renewal.felt_next(now),
            Input::NextModelGone => self.on_no_next(now),
            Input::ToolFinished(result) => self.on_tool_result(now, result),
            Input::Command(command) => self.on_command(now, command),
            Input::MoveAway => {
                self.moving.get_or_insert(now);
            }
            Input::HangUp(reason) => self.end(now, reason),
            Input::ModelAlive | Input::Timeout => {}
        }
        if self.timers.next() <= now {
            self.plan(); // What came in may have made a timer pointless.
            while let Some(timer) = self.timers.pop_due(now) {
                self.on_timer(now, timer);
            }
        }
        self.settle(now);
        self.plan();
        empty(&mut self.received);
        empty(&mut self.converted);
    }

    /// The next thing to do, until there is none. [`Output::Ended`] is the last of a call.
    pub fn poll_output(&mut self) -> Option<Output<'_>> {
        self.outbox.poll()
    }

    /// When to come back with [`Input::Timeout`] if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> CallTime {
        self.timers.next()
    }

    /// True when [`Output::Ended`] has been queued.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.phase.is_ended()
    }

    fn on_twilio(&mut self, now: CallTime, message: twilio::Inbound<'_>) {
        if self.phase.is_over() {
            return;
        }
        self.last_message = now;
        match message {
            twilio::Inbound::Media(media) => self.on_caller_audio(now, &media),
            twilio::Inbound::Mark { name } => {
                self.playout.on_mark(now, &name);
            }
            twilio::Inbound::Dtmf { digit } => self.on_key(now, digit),
            twilio::Inbound::Stop => self.end(now, EndReason::CallerHungUp),
            twilio::Inbound::Connected => {}
            // A second start would be another stream on the same socket: there is no such thing.
            twilio::Inbound::Start(_) | twilio::Inbound::Unknown { .. } => {
                self.outbox.note(Note::MessageIgnored);
            }
        }
    }

    fn on_caller_audio(&mut self, now: CallTime, media: &twilio::Media<'_>) {
        if payload::decode_into(media.payload, &mut self.received).is_err() {
            self.on_bad_frame(now, Note::FrameDropped);
            return;
        }
        self.bad_frames = 0;
        if self.received.is_empty() {
            return;
        }
        if self.heard == Heard::Nobody {
            self.heard = Heard::Caller;
        }
        match self.caller_audio.take(now, media.timestamp_ms, &self.received) {
            Taken::Kept => {}
            Taken::KeptWithLoss => self.outbox.note(Note::FrameNotKept),
            Taken::Send { gap_ms } => {
                if gap_ms > 0 {
                    self.outbox.note(Note::GapFilled);
                    self.append_silence(gap_ms);
                }
                if self.settings.session.format == crate::audio::AudioFormat::Pcmu {
                    self.outbox.append_base64(media.payload);
                } else {
                    self.converted.clear(); // A gap may have been filled before.
                    self.uplink.push(&self.received, &mut self.converted);
                    self.append_converted();
                }
                self.measure_caller(now);
            }
        }
    }

    fn on_bad_frame(&mut self, now: CallTime, note: Note) {
        self.last_message = now;
        self.bad_frames += 1;
        self.outbox.note(note);
        if self.bad_frames >= MAX_BAD_FRAMES {
            self.end(now, EndReason::StreamInvalid);
        }
    }

    fn append_silence(&mut self, ms: u64) {
        let mut bytes = (ms * 8) as usize;
        while bytes > 0 {
            let piece = bytes.min(SILENCE_PIECE.len());
            self.append_ulaw(&SILENCE_PIECE[..piece]);
            bytes -= piece;
        }
    }

    fn append_ulaw(&mut self, ulaw: &[u8]) {
        self.converted.clear();
        self.uplink.push(ulaw, &mut self.converted);
        self.append_converted();
    }

    fn append_converted(&mut self) {
        if !self.converted.is_empty() {
            self.outbox.append_bytes(&self.converted);
        }
    }

    fn on_key(&mut self, now: CallTime, digit: char) {
        self.last_activity = now;
        self.nudges = 0;
        if self.keys.len() < MAX_KEYS {
            self.keys.push(digit);
        }
        self.keys_due = Some(now + KEYPAD_PAUSE);
        if digit == '#' {
            self.tell_keys(now);
        }
    }

    fn tell_keys(&mut self, now: CallTime) {
        if self.phase != Phase::Talking {
            return; // The keys are told when the model is ready.
        }
        self.keys_due = None;
        let is_opt_out = self.is_opt_out();
        let keys = std::mem::take(&mut self.keys);
        if is_opt_out {
            return self.on_opt_out(now, OptOut::Keypad);
        }
        if keys.is_empty() {
            return;
        }
        let text = format!("(The caller pressed {keys} on the keypad.)");
        let event_id = self.event_id("keypad");
        let Some(id) = self.own_item(&event_id) else { return };
        self.transcript.keypad(now, &id, &text);
        self.outbox.model(ModelCommand::CreateItem { event_id, item: NewItem::UserText { id, text } });
        self.turns.want(Purpose::Keypad, None);
    }

    fn on_timer(&mut self, now: CallTime, timer: Timer) {
        match timer {
            Timer::SendAudio | Timer::FinishItem | Timer::Renew | Timer::Move => {} // Done by `settle` after every input.
            Timer::FillStall => {
                let ms = self.caller_audio.fill_stall(now);
                self.outbox.note(Note::GapFilled);
                self.append_silence(ms);
            }
            Timer::Pause => self.on_pause_due(now),
            Timer::ModelReady => self.give_up_model(now),
            Timer::OpenModel => self.try_again(),
            Timer::Pulse => self.on_quiet_model(now),
            Timer::NextModel => self.open_next(),
            Timer::NextPulse => self.on_quiet_next(now),
            Timer::Response => {
                if self.turns.let_go_of_interrupted() {
                    self.last_activity = now;
                } else {
                    self.on_response_stalled(now);
                }
            }
            Timer::MissingAnswer => self.turns.answer_is_missing(),
            Timer::Retry => self.turns.retry_now(),
            Timer::Transcript => {
                self.transcript.close_overdue(now);
                self.forget_written_sound();
            }
            Timer::Keypad => self.tell_keys(now),
            Timer::Tool => self.on_tools_overdue(now),
            Timer::DeadAir => self.on_dead_air(now),
            Timer::MaxDuration => self.end(now, EndReason::MaxDuration),
            Timer::Farewell => self.leave(now),
            Timer::StreamSilence => self.end(now, EndReason::StreamLost),
            Timer::Linger => self.finish(),
        }
    }

    fn on_quiet_model(&mut self, now: CallTime) {
        match self.pulse.check(now) {
            Check::Ask => {
                self.outbox.session(SessionAct::Ping);
                self.follow_caller();
            }
            Check::Gone => self.on_model_silent(now),
        }
    }

    fn on_dead_air(&mut self, now: CallTime) {
        if self.nudges >= self.settings.max_nudges {
            self.end(now, EndReason::Silence);
            return;
        }
        self.nudges += 1;
        self.last_activity = now;
        let ask =
            "Nobody has spoken for a while. Ask in one short sentence whether the caller is still there.";
        let instructions = self.with_instructions(ask);
        self.turns.want(Purpose::Nudge, Some(instructions));
    }

    /// What follows from the state, whatever brought it about.
    fn settle(&mut self, now: CallTime) {
        if self.phase.is_ended() {
            return;
        }
        for heard in self.playout.take_heard(now) {
            self.transcript.agent_heard(now, &heard.item, heard.heard_ms, heard.evidence);
        }
        self.renew_in_a_pause(now);
        self.say_next();
        self.ask_for_response(now);
        self.send_audio(now);
        self.leave_when_said(now);
        self.move_at_a_pause(now);
        self.hand_out_turns();
        self.finish_when_complete();
    }

    /// Turns that are finished go on record.
    fn hand_out_turns(&mut self) {
        for entry in self.transcript.take_changes() {
            self.outbox.push(Output::Transcript(entry));
        }
    }

    fn send_audio(&mut self, now: CallTime) {
        while let Some(step) = self.playout.poll(now) {
            match step {
                Step::Mark(name) => self.outbox.mark(name),
                Step::Audio { item, ulaw } => {
                    self.outbox.media(ulaw);
                    let turn = self.timing.on_sent(now, item);
                    let latency = turn.as_ref().and_then(timing::Turn::response_latency);
                    self.transcript.agent_started(now, item, latency);
                    if let Some(turn) = turn {
                        self.outbox.push(Output::Measured(turn));
                    }
                    if self.heard == Heard::Caller {
                        self.heard = Heard::Both;
                        self.outbox.push(Output::Connected);
                    }
                }
            }
        }
    }

    /// Sets every timer that follows from the state.
    fn plan(&mut self) {
        let talking = self.phase == Phase::Talking;
        let connecting = self.phase == Phase::Connecting;
        let live = |at: Option<CallTime>| at.filter(|_| talking || connecting);
        let settings = &self.settings;
        let speaks = self.turns.caller_speaks() || self.is_spoken_over();
        let stalls_at = self.caller_audio.stalls_at().filter(|_| speaks);
        let quiet =
            self.turns.is_idle() && self.tools.is_idle() && !self.is_spoken_over() && self.leaving.is_none();
        let pause_due = self.barge_in.as_ref().and_then(BargeIn::due);
        let dead_air = self.last_activity.max(self.playout.quiet_at()) + settings.nudge_after;
        let ready_by = self.recovery.give_up_at(settings);
        let in_talk = |at: Option<CallTime>| at.filter(|_| talking);
        self.timers.set([
            (Timer::SendAudio, live(self.playout.next_send())),
            (Timer::FinishItem, live(self.playout.finish_at())),
            (Timer::FillStall, in_talk(stalls_at)),
            (Timer::Pause, in_talk(pause_due)),
            (Timer::ModelReady, connecting.then_some(ready_by)),
            (Timer::OpenModel, self.recovery.try_at().filter(|_| connecting)),
            (Timer::Pulse, in_talk(Some(self.pulse.due()).filter(|_| self.model_open))),
            (Timer::NextModel, in_talk(self.opens_next_at())),
            (Timer::NextPulse, in_talk(self.renewal.looks_at())),
            (Timer::Renew, in_talk(self.renews_at())),
            (Timer::Move, in_talk(self.moves_at())),
            (Timer::Response, in_talk(self.turns.stalled_at(settings.response_within))),
            (Timer::MissingAnswer, in_talk(self.turns.answer_due())),
            (Timer::Retry, in_talk(self.turns.retry_at())),
            (Timer::Transcript, in_talk(self.transcript.text_due())),
            (Timer::Keypad, in_talk(self.keys_due)),
            (Timer::Tool, live(self.tools.deadline())),
            (Timer::DeadAir, in_talk(quiet.then_some(dead_air))),
            (Timer::MaxDuration, live(Some(CallTime::ZERO + settings.max_duration))),
            (Timer::Farewell, self.leaving.as_ref().map(|leaving| leaving.by)),
            (Timer::StreamSilence, live(Some(self.last_message + settings.stream_silence))),
            (Timer::Linger, self.phase.linger_until()),
        ]);
    }

    /// A response's own instructions replace the session's, so they repeat them.
    fn with_instructions(&self, more: &str) -> String {
        format!("{}\n\n{more}", self.settings.session.instructions)
    }

    fn event_id(&mut self, what: &str) -> String {
        self.event_ids += 1;
        format!("{what}-{}", self.event_ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::AudioFormat;
    use crate::wire::model::{SessionConfig, TurnDetection, TurnTaking};

    pub(super) fn session() -> SessionConfig {
        SessionConfig {
            instructions: String::new(),
            voice: String::new(),
            format: AudioFormat::Pcm24k,
            transcription: None,
            turn_detection: TurnDetection::default(),
            turn_taking: TurnTaking::ByModel,
            tools: Vec::new(),
            max_output_tokens: None,
            reasoning_effort: None,
            noise_reduction: None,
        }
    }

    #[test]
    fn a_large_message_leaves_no_large_buffers_behind() {
        let able =
            Capabilities { can_truncate: true, can_cancel: true, owns_turns: true, yields_turns: true };
        let mut call = Call::new(Settings::new(session()), able);
        call.handle_input(CallTime::ZERO, Input::ModelReady { expires: CallTime::FAR });
        let payload = "/".repeat(64 * 1024);
        let media = twilio::Media { timestamp_ms: 0, payload: &payload };
        call.handle_input(CallTime::ZERO, Input::Twilio(twilio::Inbound::Media(media)));
        let mut sent = 0;
        while let Some(output) = call.poll_output() {
            sent += usize::from(matches!(output, Output::Model(ModelCommand::AppendAudio(_))));
        }
        assert_eq!(sent, 1);
        for buffer in [&call.received, &call.converted] {
            assert_eq!((buffer.len(), buffer.capacity()), (0, outbox::KEPT_BYTES));
        }
    }
}
