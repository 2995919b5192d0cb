//! The caller as a value: every 20 ms, what to send next.

use std::sync::Arc;
use std::time::Duration;

use super::ear::Ear;
use super::playout::ms;
use super::report::UtteranceReport;
use crate::simulate::scenario::{Scenario, Step, Utterance};
use crate::simulate::speech;
use crate::simulate::wav::Wav;

/// Bytes of a frame: 20 ms.
pub(super) const FRAME_BYTES: usize = 160;
/// Length of a frame.
pub(super) const FRAME: Duration = Duration::from_millis(20);
/// Between two keys; people are not faster.
const BETWEEN_KEYS: Duration = Duration::from_millis(160);
/// mu-law silence.
const SILENCE: u8 = crate::audio::g711::SILENCE;

/// What a caller does besides sending audio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Press(char),
    HangUp,
    Drop,
    Stall { length: Duration, burst: bool },
    StopReading(Duration),
}

/// How far a step is.
#[derive(Debug)]
enum Progress {
    /// It goes on.
    Waits,
    /// The next one begins.
    Done,
    /// It is done by doing this, or goes on after it.
    Acts(Action),
}

/// A step with its recording, ready to be played.
#[derive(Debug, Clone)]
pub(super) struct Part {
    step: Step,
    /// What is said, when something is.
    clip: Option<Arc<Vec<u8>>>,
}

/// Somebody on the telephone.
#[derive(Debug)]
pub(super) struct Actor {
    parts: Vec<Part>,
    next: usize,
    /// When the current step began; absent before its first tick.
    began: Option<Duration>,
    /// Voice heard when it began.
    voice_before: u64,
    /// Keys pressed so far in the current step.
    pressed: usize,
    /// What is being said, and how many bytes of it have been.
    speaking: Option<(Arc<Vec<u8>>, usize)>,
    /// The last one is the one that is being said, or waits for its answer.
    utterances: Vec<UtteranceReport>,
    finished: Option<Duration>,
    missed: Vec<String>,
}

/// Loads what a scenario plays.
pub(super) fn prepare(scenario: &Scenario) -> Result<Vec<Part>, PrepareError> {
    scenario
        .steps
        .iter()
        .map(|step| {
            let clip = match step {
                Step::Say(utterance) | Step::InterruptAfter { say: utterance, .. } => {
                    Some(Arc::new(load(utterance, &scenario.voice)?))
                }
                _ => None,
            };
            Ok(Part { step: step.clone(), clip })
        })
        .collect()
}

/// A scenario that cannot be played.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error("there is no recording `{0}`")]
    Phrase(String),
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}: {source}")]
    Wav { path: String, source: crate::simulate::wav::WavError },
}

fn load(utterance: &Utterance, voice: &str) -> Result<Vec<u8>, PrepareError> {
    match utterance {
        Utterance::Phrase(id) => {
            let phrase = speech::caller_phrase(id, voice).ok_or_else(|| PrepareError::Phrase(id.clone()))?;
            phrase.ulaw().map_err(|source| PrepareError::Wav { path: id.clone(), source })
        }
        Utterance::Adjusted { phrase, gain_db } => {
            let recording = load(&Utterance::Phrase(phrase.clone()), voice)?;
            Ok(speech::louder(&recording, *gain_db))
        }
        Utterance::Cough { ms, gain_db } => Ok(speech::louder(&speech::cough(*ms), *gain_db)),
        Utterance::Beginning { phrase, ms } => {
            let recording = load(&Utterance::Phrase(phrase.clone()), voice)?;
            // Again and again, when that is longer than the recording.
            Ok(recording.iter().copied().cycle().take(*ms as usize * 8).collect())
        }
        Utterance::Beep { ms } => Ok(speech::beep(*ms)),
        Utterance::File(path) => {
            let shown = path.display().to_string();
            let file =
                std::fs::read(path).map_err(|source| PrepareError::Read { path: shown.clone(), source })?;
            Wav::parse(&file)
                .and_then(Wav::into_ulaw)
                .map_err(|source| PrepareError::Wav { path: shown, source })
        }
    }
}

impl Actor {
    pub(super) const fn new(parts: Vec<Part>) -> Self {
        Self {
            parts,
            next: 0,
            began: None,
            voice_before: 0,
            pressed: 0,
            speaking: None,
            utterances: Vec::new(),
            finished: None,
            missed: Vec::new(),
        }
    }

    /// One frame later: fills `frame` and says what else is done. `now` is the beginning of the frame.
    pub(super) fn tick(&mut self, now: Duration, ear: &Ear, frame: &mut [u8; FRAME_BYTES]) -> Option<Action> {
        frame.fill(SILENCE);
        self.settle(ear);
        let mut action = None;
        // Steps that take no time follow each other within one frame, unless they act.
        while action.is_none() && self.speaking.is_none() {
            let Some(part) = self.parts.get(self.next).cloned() else {
                self.finished.get_or_insert(now);
                break;
            };
            match self.step(&part, now, ear) {
                Progress::Waits => break,
                Progress::Done => {}
                Progress::Acts(acts) => action = Some(acts),
            }
        }
        self.say(frame, now);
        action
    }

    /// When the last step was done.
    pub(super) const fn finished(&self) -> Option<Duration> {
        self.finished
    }

    /// The keys that this caller presses next, without the listening before them; none when something else comes first.
    pub(super) fn take_keys(&mut self) -> Option<String> {
        let Step::Press { digits } = self.skip_listening()? else { return None };
        self.next += 1;
        Some(digits)
    }

    /// The words that this caller says next, without the listening before them; none when something else comes first.
    pub(super) fn take_words(&mut self) -> Option<String> {
        let Step::Say(Utterance::Phrase(id)) = self.skip_listening()? else { return None };
        let words = speech::caller_phrase(&id, "").map_or(id, |phrase| phrase.text.to_owned());
        self.next += 1;
        Some(words)
    }

    /// The next step that is something done.
    fn skip_listening(&mut self) -> Option<Step> {
        let listens = |part: &Part| {
            matches!(
                part.step,
                Step::Listen { .. }
                    | Step::WaitForAgent { .. }
                    | Step::WaitUntilAgentSilent { .. }
                    | Step::Pause { .. }
            )
        };
        let ahead = self.parts.get(self.next..)?.iter().position(|part| !listens(part))?;
        let part = self.parts.get(self.next + ahead)?;
        if matches!(part.step, Step::Press { .. } | Step::Say(_)) {
            self.next += ahead;
            self.began = None;
        }
        Some(part.step.clone())
    }

    /// The caller cannot act any more; what was said and waited for in vain.
    pub(super) fn into_report(mut self, ear: &Ear) -> (Vec<UtteranceReport>, Vec<String>) {
        self.settle(ear);
        (self.utterances, self.missed)
    }

    /// Works on a step.
    fn step(&mut self, part: &Part, now: Duration, ear: &Ear) -> Progress {
        let first = self.began.is_none();
        let began = *self.began.get_or_insert(now);
        if first {
            self.voice_before = ear.voice_ms();
        }
        let heard = ear.voice_ms() - self.voice_before;
        let waited = now.saturating_sub(began);
        let silent = now.saturating_sub(ear.last_voice().unwrap_or_default().max(began));
        match &part.step {
            Step::WaitForAgent { heard_ms, within_ms } => {
                self.wait(heard >= *heard_ms, waited, *within_ms, "the agent was not heard in time")
            }
            Step::WaitUntilAgentSilent { ms, within_ms } => {
                let quiet = silent >= Duration::from_millis(*ms);
                self.wait(quiet, waited, *within_ms, "the agent was not silent in time")
            }
            Step::Listen { silence_ms, within_ms } => {
                let over = heard > 0 && silent >= Duration::from_millis(*silence_ms);
                self.wait(over, waited, *within_ms, "the agent did not begin and finish in time")
            }
            Step::Say(utterance) => {
                self.begin_to_say(utterance, part.clip.clone(), now, ear);
                self.done()
            }
            Step::InterruptAfter { heard_ms, within_ms, say } => {
                let ready = heard >= *heard_ms;
                let done = self.wait(ready, waited, *within_ms, "the agent was not heard for long enough");
                if matches!(done, Progress::Done) {
                    self.begin_to_say(say, part.clip.clone(), now, ear);
                }
                done
            }
            Step::Press { digits } => {
                let due = BETWEEN_KEYS * self.pressed as u32;
                let Some(digit) = digits.chars().nth(self.pressed) else { return self.done() };
                if waited < due {
                    return Progress::Waits;
                }
                self.pressed += 1;
                if self.pressed == 1 {
                    self.note(format!("press {digits}"), now, ear);
                }
                if let Some(last) = self.utterances.last_mut() {
                    last.to_ms = ms(now);
                }
                Progress::Acts(Action::Press(digit))
            }
            Step::Pause { ms } => {
                if waited >= Duration::from_millis(*ms) {
                    self.done()
                } else {
                    Progress::Waits
                }
            }
            Step::HangUp => self.act(Action::HangUp),
            Step::Drop => self.act(Action::Drop),
            Step::Stall { ms, burst } => {
                self.act(Action::Stall { length: Duration::from_millis(*ms), burst: *burst })
            }
            Step::StopReading { ms } => self.act(Action::StopReading(Duration::from_millis(*ms))),
        }
    }

    fn wait(&mut self, ready: bool, waited: Duration, within_ms: u64, complaint: &str) -> Progress {
        if !ready && waited >= Duration::from_millis(within_ms) {
            self.missed.push(format!("step {}: {complaint}", self.next + 1));
        } else if !ready {
            return Progress::Waits;
        }
        self.done()
    }

    fn done(&mut self) -> Progress {
        self.next += 1;
        self.began = None;
        self.pressed = 0;
        Progress::Done
    }

    fn act(&mut self, action: Action) -> Progress {
        self.done();
        Progress::Acts(action)
    }

    fn begin_to_say(&mut self, utterance: &Utterance, clip: Option<Arc<Vec<u8>>>, now: Duration, ear: &Ear) {
        self.note(utterance.name(), now, ear);
        self.speaking = clip.map(|clip| (clip, 0));
    }

    fn note(&mut self, what: String, now: Duration, ear: &Ear) {
        self.settle(ear);
        self.utterances.push(UtteranceReport {
            what,
            from_ms: ms(now),
            to_ms: ms(now),
            answered_ms: None,
            latency_ms: None,
            over_agent: ear.is_hearing(now),
        });
    }

    /// Puts the next 20 ms of what is being said into the frame.
    fn say(&mut self, frame: &mut [u8; FRAME_BYTES], now: Duration) {
        let Some((clip, position)) = &mut self.speaking else { return };
        let piece = &clip[*position..clip.len().min(*position + FRAME_BYTES)];
        frame[..piece.len()].copy_from_slice(piece);
        *position += piece.len();
        let end = now + Duration::from_micros(piece.len() as u64 * 125);
        let over = *position >= clip.len();
        if let Some(last) = self.utterances.last_mut() {
            last.to_ms = ms(end);
        }
        if over {
            self.speaking = None;
        }
    }

    /// Finds the answer to the last utterance once it is there.
    fn settle(&mut self, ear: &Ear) {
        if self.speaking.is_some() {
            return;
        }
        let Some(last) = self.utterances.last_mut().filter(|last| last.answered_ms.is_none()) else { return };
        let end = Duration::from_micros((last.to_ms * 1000.0) as u64);
        if let Some(onset) = ear.first_onset_since(end) {
            last.answered_ms = Some(ms(onset));
            last.latency_ms = Some(ms(onset.saturating_sub(end)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::caller::playout::Heard;

    /// Runs a caller for `length_ms`; `agent` says in which milliseconds the agent is heard.
    fn run(
        steps: Vec<Step>,
        length_ms: u64,
        agent: &[(u64, u64)],
    ) -> (Vec<(u64, Action)>, Vec<u64>, Actor, Ear) {
        let scenario = Scenario { name: "test".into(), voice: "ben".into(), steps };
        let mut actor = Actor::new(prepare(&scenario).unwrap());
        let mut ear = Ear::default();
        let (mut actions, mut spoken) = (Vec::new(), Vec::new());
        for now_ms in (0..length_ms).step_by(20) {
            let now = Duration::from_millis(now_ms);
            let mut frame = [0; FRAME_BYTES];
            if let Some(action) = actor.tick(now, &ear, &mut frame) {
                actions.push((now_ms, action));
            }
            if frame.iter().any(|&byte| byte != SILENCE) {
                spoken.push(now_ms);
            }
            let loud = agent.iter().any(|&(from, to)| (from..to).contains(&now_ms));
            let bytes = if loud { [0x10, 0x90].repeat(80) } else { vec![SILENCE; 160] };
            ear.hear(&Heard { at: now, bytes });
        }
        (actions, spoken, actor, ear)
    }

    fn hello() -> Utterance {
        Utterance::Phrase("hello".into())
    }

    #[test]
    fn a_caller_listens_before_speaking_and_measures_the_answer() {
        let listen = Step::Listen { silence_ms: 700, within_ms: 30_000 };
        let (actions, spoken, actor, ear) = run(
            vec![listen.clone(), Step::Say(hello()), listen, Step::HangUp],
            8000,
            &[(500, 1500), (3000, 4000)],
        );
        // 700 ms after the agent's last sound, and the first frame that sees it.
        assert_eq!(spoken[0], 2200);
        assert_eq!(actions, [(4700, Action::HangUp)]);
        let (utterances, missed) = actor.into_report(&ear);
        assert_eq!((utterances[0].from_ms, utterances[0].answered_ms), (2200.0, Some(3000.0)));
        let length = crate::simulate::speech::caller_phrase("hello", "ben").unwrap().ulaw().unwrap().len()
            as f64
            / 8.0;
        assert!((utterances[0].latency_ms.unwrap() - (800.0 - length)).abs() < 0.01);
        assert_eq!((utterances[0].over_agent, missed.len()), (false, 0));
    }

    #[test]
    fn an_interruption_comes_after_so_much_voice() {
        let step = Step::InterruptAfter { heard_ms: 600, within_ms: 30_000, say: hello() };
        let (_, spoken, actor, ear) = run(vec![step], 4000, &[(1000, 1400), (1500, 3000)]);
        assert_eq!(spoken[0], 1700);
        assert!(actor.into_report(&ear).0[0].over_agent);
    }

    #[test]
    fn waiting_in_vain_is_noted_and_the_caller_goes_on() {
        let (actions, _, actor, ear) =
            run(vec![Step::WaitForAgent { heard_ms: 100, within_ms: 1000 }, Step::HangUp], 3000, &[]);
        assert_eq!(actions, [(1000, Action::HangUp)]);
        assert_eq!(actor.into_report(&ear).1, ["step 1: the agent was not heard in time"]);
    }

    #[test]
    fn keys_are_pressed_one_after_the_other() {
        let (actions, _, actor, ear) = run(vec![Step::Press { digits: "1#".into() }, Step::Drop], 1000, &[]);
        assert_eq!(actions, [(0, Action::Press('1')), (160, Action::Press('#')), (180, Action::Drop)]);
        assert_eq!(actor.finished(), Some(Duration::from_millis(200)));
        assert_eq!(actor.into_report(&ear).0[0].what, "press 1#");
    }

    #[test]
    fn pauses_and_silence_take_their_time() {
        let steps = vec![
            Step::Pause { ms: 300 },
            Step::WaitUntilAgentSilent { ms: 400, within_ms: 30_000 },
            Step::HangUp,
        ];
        assert_eq!(run(steps, 3000, &[(0, 1000)]).0, [(1400, Action::HangUp)]);
    }

    #[test]
    fn a_file_that_is_no_recording_is_named() {
        let scenario = |path: &str| Scenario::playing(path.into());
        let error = prepare(&scenario("/nonexistent.wav")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent.wav"), "{error}");
    }
}
