//! What a simulated caller does, step by step.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::random::Random;
use super::speech;

/// Longest wait of a step that waits for the agent, unless the step says otherwise.
pub const DEFAULT_WITHIN_MS: u64 = 30_000;

/// The course of one call from the caller's side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// For reports.
    pub name: String,
    /// Which recordings are used (`anna`, `ben`); the first there is when empty.
    #[serde(default)]
    pub voice: String,
    /// One after the other. After the last one the caller stays on the line until the other side ends the call.
    pub steps: Vec<Step>,
}

/// One thing a caller does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Waits until this much of the agent's voice has been heard since the step began.
    WaitForAgent {
        /// Milliseconds of voice, pauses not counted.
        heard_ms: u64,
        /// Goes on anyway after this long; the report says so.
        #[serde(default = "default_within")]
        within_ms: u64,
    },
    /// Waits until nothing has been heard of the agent for this long, since the step began at the earliest.
    WaitUntilAgentSilent {
        /// Milliseconds of silence.
        ms: u64,
        /// Goes on anyway after this long.
        #[serde(default = "default_within")]
        within_ms: u64,
    },
    /// Waits for the agent to begin to speak, then to fall silent.
    Listen {
        /// Milliseconds of silence that mean the agent has finished.
        #[serde(default = "default_listen_silence")]
        silence_ms: u64,
        /// Goes on anyway after this long.
        #[serde(default = "default_within")]
        within_ms: u64,
    },
    /// Says something.
    Say(Utterance),
    /// Says something when this much of the agent's voice has been heard since the step began.
    InterruptAfter {
        /// Milliseconds of voice, pauses not counted.
        heard_ms: u64,
        /// Goes on anyway after this long.
        #[serde(default = "default_within")]
        within_ms: u64,
        /// What is said.
        say: Utterance,
    },
    /// Presses keys, one after the other.
    Press {
        /// `0`-`9`, `*`, `#`.
        digits: String,
    },
    /// Is silent.
    Pause {
        /// How long.
        ms: u64,
    },
    /// Ends the call.
    HangUp,
    /// The media stream breaks without a word: no `stop`, no close. The call itself goes on.
    Drop,
    /// Twilio stops sending audio for a while. Afterwards it continues with a hole in the timestamps, or sends at
    /// once what it held back.
    Stall {
        /// How long.
        ms: u64,
        /// True: held-back audio follows in a burst. False: it is lost.
        #[serde(default)]
        burst: bool,
    },
    /// Twilio reads nothing from the media stream for a while.
    StopReading {
        /// How long.
        ms: u64,
    },
}

/// Something to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Utterance {
    /// One of the recordings in the program.
    Phrase(String),
    /// A WAV file: mono, 16-bit PCM or mu-law, any rate.
    File(PathBuf),
    /// One of the recordings, louder or quieter.
    Adjusted {
        /// The recording.
        phrase: String,
        /// Decibels to add.
        gain_db: i32,
    },
    /// The first so many milliseconds of a recording, repeated when it is shorter.
    Beginning {
        /// The recording.
        phrase: String,
        /// How long.
        ms: u64,
    },
    /// The tone of an answering machine, after which it records.
    Beep {
        /// How long.
        ms: u64,
    },
    /// A cough: two bursts of noise, no words.
    Cough {
        /// How long.
        ms: u64,
        /// Decibels to add; without any it peaks as high as the recordings.
        #[serde(default)]
        gain_db: i32,
    },
}

fn default_within() -> u64 {
    DEFAULT_WITHIN_MS
}

fn default_listen_silence() -> u64 {
    700
}

/// A scenario that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Neither built in nor a file.
    #[error("no scenario `{name}`: give a .json or .toml file or one of {known}")]
    Unknown {
        /// As asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The file is not there or not readable.
    #[error("cannot read the scenario {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not JSON of the right shape.
    #[error("the scenario is not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Not TOML of the right shape.
    #[error("the scenario is not valid TOML: {0}")]
    Toml(#[from] Box<config::ConfigError>),
    /// A step asks for something impossible.
    #[error("step {number} of the scenario: {problem}")]
    Step {
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        problem: String,
    },
}

/// Names that [`Scenario::named`] knows, `random` beside them.
pub const BUILT_IN: [&str; 8] =
    ["demo", "short", "brief", "interrupt", "agree", "keypad", "person", "silent"];

impl Scenario {
    /// Reads JSON and checks it.
    pub fn from_json(text: &str) -> Result<Self, ScenarioError> {
        serde_json::from_str::<Self>(text)?.checked()
    }

    /// Reads TOML and checks it.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        config::Config::builder()
            .add_source(config::File::from_str(text, config::FileFormat::Toml))
            .build()
            .and_then(config::Config::try_deserialize::<Self>)
            .map_err(Box::new)?
            .checked()
    }

    /// A built-in scenario, `random` (made from `seed`), or a file ending in `.json` or `.toml`.
    pub fn load(name: &str, seed: u64) -> Result<Self, ScenarioError> {
        let path = Path::new(name);
        let read = || {
            std::fs::read_to_string(path)
                .map_err(|source| ScenarioError::Read { path: path.to_owned(), source })
        };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Self::from_json(&read()?),
            Some("toml") => Self::from_toml(&read()?),
            _ if name == "random" => Ok(Self::random(seed, 60_000)),
            _ => Self::named(name).ok_or_else(|| ScenarioError::Unknown {
                name: name.to_owned(),
                known: format!("random, {}", BUILT_IN.join(", ")),
            }),
        }
    }

    /// A built-in scenario.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let steps = match name {
            // Greets by asking, interrupts the answer, uses the keypad, says goodbye: everything the demo shows.
            "demo" => vec![
                listen(),
                say("hours-question"),
                interrupt(2500, "sunday-question"),
                listen(),
                Step::Press { digits: "2".into() },
                listen(),
                say("goodbye"),
            ],
            "short" => vec![listen(), say("address-question"), listen(), say("goodbye")],
            // Has no time: hears who it is and says goodbye.
            "brief" => vec![interrupt(900, "goodbye"), listen(), Step::HangUp],
            "interrupt" => {
                vec![
                    listen(),
                    say("hours-question"),
                    interrupt(1500, "sunday-question"),
                    listen(),
                    Step::HangUp,
                ]
            }
            // Only signs of listening: the agent is to go on.
            "agree" => vec![
                listen(),
                say("hours-question"),
                interrupt(1500, "mm-hm"),
                interrupt(2000, "okay"),
                listen(),
                Step::HangUp,
            ],
            "keypad" => vec![listen(), Step::Press { digits: "42#".into() }, listen(), Step::HangUp],
            "person" => vec![listen(), say("person-please")],
            "silent" => vec![listen()],
            _ => return None,
        };
        Some(Self { name: name.into(), voice: String::new(), steps })
    }

    /// A caller who listens to the first words, plays one recording of yours and stays for the answer.
    #[must_use]
    pub fn playing(file: PathBuf) -> Self {
        let steps = vec![listen(), Step::Say(Utterance::File(file)), listen(), Step::HangUp];
        Self { name: "file".into(), voice: String::new(), steps }
    }

    /// An answering machine: a greeting, a beep, and then it listens.
    #[must_use]
    pub fn answering_machine(greeting_ms: u64, beep_ms: u64) -> Self {
        let greeting = Utterance::Beginning { phrase: "order-question".into(), ms: greeting_ms };
        let steps = vec![Step::Say(greeting), Step::Say(Utterance::Beep { ms: beep_ms })];
        Self { name: "answering machine".into(), voice: String::new(), steps }
    }

    /// A conversation of about `length_ms`, different for each seed and always the same for one.
    ///
    /// Some interruptions come too late for a short answer; the report then counts their waiting as missed.
    #[must_use]
    pub fn random(seed: u64, length_ms: u64) -> Self {
        const QUESTIONS: [&str; 5] =
            ["hours-question", "sunday-question", "order-question", "address-question", "still-here"];
        // Asking and hearing the answer take about this long.
        const EXCHANGE_MS: u64 = 6000;
        let mut random = Random::for_part(seed, 0x5CE9);
        let voice = random.pick(speech::caller_voices()).copied().unwrap_or_default().to_owned();
        let mut steps = vec![listen()];
        let mut used_ms = EXCHANGE_MS;
        while used_ms + EXCHANGE_MS < length_ms {
            let question = random.pick(&QUESTIONS).copied().unwrap_or("hello");
            match random.between(0, 9) {
                0..=3 => steps.extend([say(question), listen()]),
                4..=6 => {
                    let heard_ms = random.between(200, 3000);
                    let other = random.pick(&QUESTIONS).copied().unwrap_or("hello");
                    // Short answers end before the interruption: then it is simply the next thing said.
                    steps.extend([
                        say(question),
                        Step::InterruptAfter {
                            heard_ms,
                            within_ms: 5000,
                            say: Utterance::Phrase(other.into()),
                        },
                        listen(),
                    ]);
                }
                7 => steps.extend([Step::Press { digits: random.between(0, 9).to_string() }, listen()]),
                _ => steps.push(Step::Pause { ms: random.between(300, 2500) }),
            }
            used_ms += EXCHANGE_MS;
        }
        steps.extend(if random.between(0, 2) == 0 { vec![Step::HangUp] } else { vec![say("goodbye")] });
        Self { name: format!("random-{seed}"), voice, steps }
    }

    fn checked(self) -> Result<Self, ScenarioError> {
        for (index, step) in self.steps.iter().enumerate() {
            if let Some(problem) = step.problem(&self.voice) {
                return Err(ScenarioError::Step { number: index + 1, problem });
            }
        }
        Ok(self)
    }
}

impl Step {
    /// What makes this step impossible, if anything.
    fn problem(&self, voice: &str) -> Option<String> {
        match self {
            Self::Say(utterance) | Self::InterruptAfter { say: utterance, .. } => utterance.problem(voice),
            Self::Press { digits } => {
                let bad = digits.chars().find(|digit| !digit.is_ascii_digit() && !"*#ABCD".contains(*digit));
                bad.map(|digit| format!("`{digit}` is not a key"))
            }
            _ => None,
        }
    }
}

impl Utterance {
    /// What makes it impossible to say, if anything.
    fn problem(&self, voice: &str) -> Option<String> {
        match self {
            Self::Phrase(id) | Self::Adjusted { phrase: id, .. } | Self::Beginning { phrase: id, .. } => {
                speech::caller_phrase(id, voice).is_none().then(|| format!("there is no recording `{id}`"))
            }
            Self::Cough { ms, .. } => {
                (!(50..=2_000).contains(ms)).then(|| format!("nobody coughs for {ms} ms"))
            }
            Self::File(_) | Self::Beep { .. } => None,
        }
    }

    /// For reports.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Phrase(id) => id.clone(),
            Self::File(path) => path.display().to_string(),
            Self::Adjusted { phrase, gain_db } => format!("{phrase} {gain_db:+} dB"),
            Self::Beginning { phrase, ms } => format!("{ms} ms of {phrase}"),
            Self::Beep { .. } => "beep".into(),
            Self::Cough { ms, gain_db } => format!("cough of {ms} ms {gain_db:+} dB"),
        }
    }
}

fn listen() -> Step {
    Step::Listen { silence_ms: default_listen_silence(), within_ms: DEFAULT_WITHIN_MS }
}

fn say(id: &str) -> Step {
    Step::Say(Utterance::Phrase(id.into()))
}

fn interrupt(heard_ms: u64, id: &str) -> Step {
    Step::InterruptAfter { heard_ms, within_ms: DEFAULT_WITHIN_MS, say: Utterance::Phrase(id.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_reads_the_same_from_json_and_toml() {
        let json = r#"{"name": "mine", "voice": "ben", "steps": [
            {"do": "wait_for_agent", "heard_ms": 300},
            {"do": "say", "phrase": "hello"},
            {"do": "interrupt_after", "heard_ms": 900, "say": {"file": "a.wav"}, "within_ms": 10},
            {"do": "say", "cough": {"ms": 300}},
            {"do": "say", "adjusted": {"phrase": "okay", "gain_db": -3}},
            {"do": "press", "digits": "12#"}, {"do": "hang_up"}]}"#;
        let toml = r#"
            name = "mine"
            voice = "ben"
            steps = [
                { do = "wait_for_agent", heard_ms = 300 },
                { do = "say", phrase = "hello" },
                { do = "interrupt_after", heard_ms = 900, say = { file = "a.wav" }, within_ms = 10 },
                { do = "say", cough = { ms = 300 } },
                { do = "say", adjusted = { phrase = "okay", gain_db = -3 } },
                { do = "press", digits = "12#" },
                { do = "hang_up" },
            ]"#;
        let expected = vec![
            Step::WaitForAgent { heard_ms: 300, within_ms: DEFAULT_WITHIN_MS },
            Step::Say(Utterance::Phrase("hello".into())),
            Step::InterruptAfter { heard_ms: 900, within_ms: 10, say: Utterance::File("a.wav".into()) },
            Step::Say(Utterance::Cough { ms: 300, gain_db: 0 }),
            Step::Say(Utterance::Adjusted { phrase: "okay".into(), gain_db: -3 }),
            Step::Press { digits: "12#".into() },
            Step::HangUp,
        ];
        assert_eq!(Scenario::from_json(json).unwrap().steps, expected);
        assert_eq!(Scenario::from_toml(toml).unwrap(), Scenario::from_json(json).unwrap());
    }

    #[test]
    fn a_mistake_in_a_scenario_is_named() {
        let error = |steps: &str| {
            Scenario::from_json(&format!(r#"{{"name": "x", "steps": [{steps}]}}"#)).unwrap_err().to_string()
        };
        assert!(error(r#"{"do": "dance"}"#).contains("unknown variant `dance`"));
        assert!(error(r#"{"do": "pause", "seconds": 1}"#).contains("unknown field `seconds`"));
        assert_eq!(
            error(r#"{"do": "hang_up"}, {"do": "say", "phrase": "poem"}"#),
            "step 2 of the scenario: there is no recording `poem`"
        );
        assert_eq!(
            error(r#"{"do": "say", "cough": {"ms": 9000}}"#),
            "step 1 of the scenario: nobody coughs for 9000 ms"
        );
        assert_eq!(error(r#"{"do": "press", "digits": "1x"}"#), "step 1 of the scenario: `x` is not a key");
    }

    #[test]
    fn every_built_in_scenario_exists_and_is_possible() {
        for name in BUILT_IN {
            Scenario::load(name, 0).unwrap().checked().unwrap();
        }
        let error = Scenario::load("nonsense", 0).unwrap_err().to_string();
        assert!(error.contains("random, demo"), "{error}");
    }

    #[test]
    fn a_random_scenario_depends_on_its_seed_alone() {
        assert_eq!(Scenario::random(4, 60_000), Scenario::random(4, 60_000));
        assert_ne!(Scenario::random(4, 60_000).steps, Scenario::random(5, 60_000).steps);
        for seed in 0..50 {
            let scenario = Scenario::random(seed, 60_000).checked().unwrap();
            let last = scenario.steps.last().unwrap();
            assert!(matches!(last, Step::HangUp | Step::Say(_)), "{last:?}");
        }
    }
}
