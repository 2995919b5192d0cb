//! What is true of every call, whatever happens to it. Checked on every output of every test.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use voicebridge::audio::AudioFormat;
use voicebridge::call::Input;
use voicebridge::call::end::EndReason;
use voicebridge::call::outbox::{Note, Output, SessionAct};
use voicebridge::call::settings::Settings;
use voicebridge::call::timing::Verdict;
use voicebridge::clock::CallTime;
use voicebridge::ids::{ItemId, ResponseId};
use voicebridge::wire::model::{ErrorClass, ModelCommand, ModelEvent, TurnTaking};
use voicebridge::wire::twilio;

use crate::support::Event;

/// No sound holds the agent up for longer, whatever it turns out to be.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The response slot, as the model sees it.
#[derive(Debug, PartialEq)]
enum Slot {
    Free,
    Asked { event_id: String },
    Runs { response: ResponseId, since: CallTime, interrupted: bool },
}

/// An observer that knows only what crosses the call's border.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that was seen or not")]
pub struct Rules {
    lead: Duration,
    linger: Duration,
    format: AudioFormat,
    /// Bytes received of each item, in the model's format.
    received: BTreeMap<String, usize>,
    /// Sounds of responses that were audible when the caller interrupted.
    silenced: [bool; 256],
    /// Sounds received since the last `clear`.
    sounds: [bool; 256],
    /// Bytes received since the last `clear`, as mu-law.
    fresh: usize,
    sent: usize,
    sent_since_clear: usize,
    acknowledged: usize,
    /// Name and end of each mark of this generation.
    marks: Vec<(String, usize)>,
    marked: usize,
    play_end: CallTime,
    ready: bool,
    /// A session beside the one in use was asked for, and is ready.
    next: Option<bool>,
    slot: Slot,
    over: BTreeSet<ResponseId>,
    /// Responses heard of before the caller spoke last, and since.
    spoken_over: BTreeSet<String>,
    heard_of: BTreeSet<String>,
    /// Responses heard of before or during a turn that may have been an interruption.
    doubtful: BTreeSet<String>,
    caller_speaks: bool,
    /// The model has said that somebody speaks, and not that nobody does any more.
    turn_open: bool,
    /// Sounds over the agent are judged before it is stopped.
    judges: bool,
    paused: Option<CallTime>,
    /// An interruption has just been confirmed: a `clear` would be its own.
    confirmed: bool,
    patience: Duration,
    revisions: BTreeMap<ItemId, u32>,
    hung_up_at: Option<CallTime>,
    stream_ended: Option<EndReason>,
    ended: bool,
}

impl Rules {
    pub fn new(settings: &Settings) -> Self {
        Self {
            lead: settings.playout_lead,
            linger: settings.linger,
            format: settings.session.format,
            received: BTreeMap::new(),
            silenced: [false; 256],
            sounds: [false; 256],
            fresh: 0,
            sent: 0,
            sent_since_clear: 0,
            acknowledged: 0,
            marks: Vec::new(),
            marked: 0,
            play_end: CallTime::ZERO,
            ready: false,
            next: None,
            slot: Slot::Free,
            over: BTreeSet::new(),
            spoken_over: BTreeSet::new(),
            heard_of: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            caller_speaks: false,
            turn_open: false,
            judges: settings.session.turn_taking == TurnTaking::ByUs,
            paused: None,
            confirmed: false,
            patience: settings.response_within,
            revisions: BTreeMap::new(),
            hung_up_at: None,
            stream_ended: None,
            ended: false,
        }
    }

    /// An event is about to be handed in.
    pub fn before(&mut self, now: CallTime, event: &Event) {
        self.confirmed = false;
        match event {
            Event::AgentAudio { response, item, audio } => {
                *self.received.entry(item.clone()).or_default() += audio.len();
                self.fresh += audio.len() * 8 / self.format.bytes_per_ms();
                for byte in audio {
                    self.sounds[usize::from(*byte)] = true;
                }
                // Late audio of a response that was spoken over says nothing about the one that was asked for since.
                let late = self.spoken_over.contains(response.as_str());
                let interrupted = self.hear_of(response);
                let runs = ResponseId::parse(response).ok();
                let runs = runs.filter(|response| !late && !self.over.contains(response));
                if let (Slot::Asked { .. }, Some(response)) = (&self.slot, runs) {
                    self.slot = Slot::Runs { response, since: now, interrupted };
                }
            }
            Event::Plain(Input::HangUp(_)) => {
                self.hung_up_at.get_or_insert(now);
            }
            Event::Plain(Input::ModelReady { .. }) => self.ready = true,
            Event::Plain(Input::NextModelReady { .. }) => self.next = self.next.map(|_| true),
            Event::Plain(Input::NextModelGone) => self.next = None,
            // Nothing the model says counts before.
            Event::Plain(Input::Model(event)) if self.ready => self.before_model(now, event),
            _ => {}
        }
    }

    fn before_model(&mut self, now: CallTime, event: &ModelEvent<'_>) {
        match event {
            ModelEvent::ResponseStarted { response } if !self.over.contains(response) => {
                let interrupted = self.hear_of(response.as_str());
                let response = response.clone();
                if !matches!(&self.slot, Slot::Runs { response: own, .. } if *own == response) {
                    self.slot = Slot::Runs { response, since: now, interrupted };
                }
            }
            ModelEvent::ResponseDone { response, .. } => {
                let first = self.over.insert(response.clone());
                let runs = matches!(&self.slot, Slot::Runs { response: own, .. } if own == response);
                if runs || first && matches!(self.slot, Slot::Asked { .. }) {
                    self.slot = Slot::Free;
                }
            }
            ModelEvent::SpeechStarted { .. } => {
                self.turn_open = true;
                if self.judges {
                    self.doubtful.extend(self.heard_of.iter().cloned());
                } else {
                    self.interrupt();
                }
            }
            ModelEvent::SpeechStopped { .. } => (self.turn_open, self.caller_speaks) = (false, false),
            ModelEvent::Error(error) => {
                let about = error.event_id.as_deref().unwrap_or_default();
                let ours =
                    matches!(&self.slot, Slot::Asked { event_id } if about == event_id || about.is_empty());
                if ours && error.class != ErrorClass::Benign {
                    self.slot = Slot::Free;
                }
            }
            _ => {}
        }
    }

    /// The caller takes the turn.
    fn interrupt(&mut self) {
        self.caller_speaks = true;
        self.spoken_over.append(&mut self.heard_of);
        if let Slot::Runs { interrupted, .. } = &mut self.slot {
            *interrupted = true;
        }
    }

    /// True when the caller spoke over the response, or does so, or may do so.
    fn hear_of(&mut self, response: &str) -> bool {
        let known = if self.caller_speaks { &mut self.spoken_over } else { &mut self.heard_of };
        known.insert(response.to_owned());
        // Of a call that judges, only the call knows whether a turn that is open is an interruption.
        if self.judges && self.turn_open {
            self.doubtful.insert(response.to_owned());
        }
        self.spoken_over.contains(response) || self.doubtful.contains(response)
    }

    pub fn mark_back(&mut self, name: &str) {
        if let Some(index) = self.marks.iter().position(|(own, _)| own == name) {
            self.acknowledged = self.acknowledged.max(self.marks[index].1);
            self.marks.drain(..=index);
        }
    }

    pub fn output(&mut self, now: CallTime, output: &Output<'_>) {
        assert!(!self.ended, "{output:?} after the end");
        match output {
            Output::Twilio(message) => self.twilio(now, message),
            Output::Model(command) => self.model(now, command),
            Output::Transcript(entry) => {
                let revision = self.revisions.entry(entry.item.clone()).or_default();
                assert!(entry.revision > *revision, "{entry:?} after revision {revision}");
                *revision = entry.revision;
                assert!(entry.sequence >= 1);
                let heard = entry.heard_until_ms.unwrap_or(0);
                assert!(
                    heard <= self.received_ms(entry.item.as_str()),
                    "heard more than there was: {entry:?}"
                );
                assert!(heard <= self.sent as u64 / 8, "heard more than was sent: {entry:?}");
            }
            Output::Note(Note::Paused) => {
                assert!(self.judges, "the model stops by itself");
                assert_eq!(self.paused.replace(now), None, "paused twice");
                self.caller_speaks = true;
            }
            Output::Judged(judgement) => {
                assert_eq!(judgement.paused, self.paused.take(), "{judgement:?}");
                assert!(judgement.pause() <= LONGEST_PAUSE, "{judgement:?}");
                self.caller_speaks = false;
                if judgement.verdict == Verdict::Confirmed {
                    self.interrupt();
                    self.caller_speaks = self.turn_open;
                    self.silence();
                    self.confirmed = true;
                }
            }
            Output::Session(SessionAct::OpenNext { .. }) => {
                assert_eq!(self.next.replace(false), None, "there are at most two sessions at a time");
            }
            Output::Session(SessionAct::LeaveNext { .. }) => self.next = None,
            Output::Session(SessionAct::UseNext) => {
                self.ready = self.next.take().expect("there is a session that can be used");
            }
            Output::Session(SessionAct::Open { .. }) => {
                assert_eq!(self.next, None, "there is a session that could be used");
            }
            Output::Note(Note::ModelLost | Note::ModelRenewed) => {
                self.turn_open = false;
                self.doubtful.clear();
                // Whatever ran in the session that is left, and whoever spoke, is not known to the next one.
                (self.ready, self.slot, self.caller_speaks) = (false, Slot::Free, false);
                self.over.clear();
                self.spoken_over.clear();
                self.heard_of.clear();
                self.silenced = [false; 256];
            }
            Output::EndStream(reason) => {
                self.paused = None;
                assert_eq!(self.stream_ended.replace(*reason), None, "the stream ends once");
            }
            Output::Ended(reason) => {
                assert_eq!(
                    self.stream_ended,
                    Some(*reason),
                    "the stream ends before the call, for the same reason"
                );
                if let Some(at) = self.hung_up_at {
                    assert!(now <= at + self.linger, "it lingered from {at} to {now}");
                }
                self.ended = true;
            }
            _ => {}
        }
    }

    /// What has come so far is not to be heard any more.
    fn silence(&mut self) {
        for (silenced, heard) in self.silenced.iter_mut().zip(&mut self.sounds) {
            *silenced |= std::mem::take(heard);
        }
    }

    fn twilio(&mut self, now: CallTime, message: &twilio::Outbound<'_>) {
        assert_eq!(self.stream_ended, None, "{message:?} after the end of the stream");
        assert_eq!(self.paused, None, "{message:?} while the agent is paused, at {now}");
        match message {
            twilio::Outbound::Media { ulaw } => {
                assert!(!ulaw.is_empty());
                assert!(ulaw.len() <= 800, "a message of {} bytes", ulaw.len());
                if self.format == AudioFormat::Pcmu {
                    let stale = ulaw.iter().find(|byte| self.silenced[usize::from(**byte)]);
                    assert_eq!(stale, None, "audio of an interrupted response at {now}");
                }
                self.sent += ulaw.len();
                self.sent_since_clear += ulaw.len();
                self.play_end = self.play_end.max(now) + Duration::from_micros(ulaw.len() as u64 * 125);
                let ahead = self.play_end.since(now);
                assert!(ahead <= self.lead, "{ahead:?} ahead of the ear at {now}");
            }
            twilio::Outbound::Mark { name } => {
                assert!(self.sent_since_clear > self.marked, "mark {name} without audio before it");
                assert!(name.len() < 100 && name.is_ascii(), "mark {name} is no good name");
                self.marked = self.sent_since_clear;
                self.marks.push(((*name).into(), self.marked));
            }
            twilio::Outbound::Clear => {
                assert!(self.fresh > self.acknowledged, "clear at {now} although everything was heard");
                assert!(self.fresh > 0);
                // Before a pause, what was not heard will be sent again.
                if !self.judges || std::mem::take(&mut self.confirmed) {
                    self.silence();
                    self.fresh = 0;
                }
                (self.sent_since_clear, self.acknowledged, self.marked) = (0, 0, 0);
                self.marks.clear();
                self.play_end = now;
            }
        }
    }

    fn model(&mut self, now: CallTime, command: &ModelCommand<'_>) {
        match command {
            ModelCommand::Truncate { item, audio_end_ms, .. } => {
                let received = self.received_ms(item.as_str());
                assert!(*audio_end_ms < received, "truncate at {audio_end_ms} of {received} ms");
            }
            ModelCommand::CreateResponse { event_id, .. } => {
                // An interrupted response that never ends is waited for only so long.
                let given_up = matches!(&self.slot, Slot::Runs { since, interrupted: true, .. }
                    if now >= *since + self.patience);
                let free = self.slot == Slot::Free || given_up;
                assert!(free, "{event_id} was asked for at {now} while there is {:?}", self.slot);
                assert!(!self.caller_speaks, "{event_id} was asked for while the caller speaks");
                assert_eq!(self.stream_ended, None, "{event_id} was asked for after the stream");
                self.slot = Slot::Asked { event_id: event_id.clone() };
            }
            ModelCommand::CancelResponse { response, .. } => {
                assert_eq!(self.paused, None, "{response} is cancelled before it is known why");
                if let Slot::Runs { response: own, interrupted, .. } = &mut self.slot {
                    *interrupted |= own == response;
                }
            }
            ModelCommand::CreateItem { .. } | ModelCommand::AppendAudio(_) => {
                assert_eq!(self.stream_ended, None, "{command:?} after the stream");
            }
            _ => {}
        }
    }

    fn received_ms(&self, item: &str) -> u64 {
        let bytes = self.received.get(item).copied().unwrap_or(0);
        // The last of an item is rounded to whole samples.
        (bytes as u64).div_ceil(self.format.bytes_per_ms() as u64)
    }
}
