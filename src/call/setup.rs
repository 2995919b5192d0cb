//! Agreeing with the model on a session before the first sound.
//!
//! A socket that opened is not a session: only when our configuration has been echoed as asked may audio flow. Until
//! then the provider's own defaults are in force, and telephone audio would be noise to it.

use crate::wire::model::{
    ErrorClass, ModelError, ModelEvent, SessionConfig, SessionEcho, TurnDetection, TurnTaking,
};

/// What the caller's words are written down with when the provider refuses the configured model.
const FALLBACK_TRANSCRIPTION: &str = "gpt-4o-mini-transcribe";

/// Why no session came to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The provider does not want us: key, money, model.
    #[error("the model refused the session: {code}")]
    Fatal {
        /// The provider's code.
        code: String,
    },
    /// It cannot give us one now.
    #[error("the model cannot begin a session now: {code}")]
    NotNow {
        /// The provider's code.
        code: String,
    },
    /// Our configuration was refused, also in the form that leaves the refused member out.
    #[error("the model refused the session's configuration: {code} {param}")]
    Refused {
        /// The provider's code.
        code: String,
        /// The member at fault, where it was named.
        param: String,
    },
    /// The provider would hear or speak another format than we asked for.
    #[error("the model echoed another audio format than was asked for")]
    WrongFormat,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Send [`Setup::config`] under this event id.
    Update {
        /// Names our event in an error.
        event_id: String,
    },
    /// The session is as asked; what had to be left out is in [`Setup::left_out`].
    Ready,
    /// It will not work.
    Failed(SetupError),
}

/// One session on its way.
#[derive(Debug)]
pub struct Setup {
    config: SessionConfig,
    updates: u32,
    left_out: Vec<&'static str>,
    member_left_out: bool,
}

impl Setup {
    /// A session that shall have this configuration.
    #[must_use]
    pub fn new(config: SessionConfig) -> Self {
        Self { config, updates: 0, left_out: Vec::new(), member_left_out: false }
    }

    /// The configuration as it is now.
    #[must_use]
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// What the provider refused and is therefore not in the configuration any more.
    #[must_use]
    pub fn left_out(&self) -> &[&'static str] {
        &self.left_out
    }

    /// Takes what the provider said.
    pub fn handle_event(&mut self, event: &ModelEvent<'_>) -> Step {
        match event {
            ModelEvent::SessionCreated { .. } if self.updates == 0 => self.update(),
            ModelEvent::SessionUpdated(echo) if self.updates > 0 => self.check(echo),
            ModelEvent::Error(error) => self.on_error(error),
            _ => Step::Wait,
        }
    }

    fn update(&mut self) -> Step {
        self.updates += 1;
        Step::Update { event_id: format!("session-{}", self.updates) }
    }

    fn check(&self, echo: &SessionEcho) -> Step {
        let asked = Some(self.config.format);
        if echo.input_format == asked && echo.output_format == asked {
            Step::Ready
        } else {
            Step::Failed(SetupError::WrongFormat)
        }
    }

    fn on_error(&mut self, error: &ModelError) -> Step {
        match error.class {
            ErrorClass::Fatal => return Step::Failed(SetupError::Fatal { code: error.code.clone() }),
            ErrorClass::SessionOver | ErrorClass::RetryResponse => {
                return Step::Failed(SetupError::NotNow { code: error.code.clone() });
            }
            ErrorClass::Benign => return Step::Wait,
            ErrorClass::BadRequest | ErrorClass::ResponseBusy => {}
        }
        if self.leave_out(error) {
            return self.update();
        }
        Step::Failed(SetupError::Refused {
            code: error.code.clone(),
            param: error.param.clone().unwrap_or_default(),
        })
    }

    /// Leaves the refused member out, or replaces it. False: it cannot be left out.
    fn leave_out(&mut self, error: &ModelError) -> bool {
        let about = |word: &str| {
            error.param.as_deref().is_some_and(|p| p.contains(word))
                || error.param.is_none() && error.message.contains(word)
        };
        if about("transcription") {
            return self.fall_back_in_transcription();
        }
        if std::mem::replace(&mut self.member_left_out, true) {
            return false;
        }
        let config = &mut self.config;
        let member = if about("reasoning") && config.reasoning_effort.take().is_some() {
            "reasoning"
        } else if about("noise_reduction") && config.noise_reduction.take().is_some() {
            "noise_reduction"
        } else if about("max_output_tokens") && config.max_output_tokens.take().is_some() {
            "max_output_tokens"
        } else if about("_response") && config.turn_taking == TurnTaking::ByUs {
            // `create_response` or `interrupt_response`: it must answer by itself then.
            config.turn_taking = TurnTaking::ByModel;
            "turn_taking"
        } else if about("turn_detection") && config.turn_detection != TurnDetection::default() {
            config.turn_detection = TurnDetection::default();
            "turn_detection"
        } else if about("tools") && !config.tools.is_empty() {
            config.tools.clear();
            "tools"
        } else if error.param.is_none() && config.reasoning_effort.take().is_some() {
            // Errors about reasoning on models without it have been seen to name no member.
            "reasoning"
        } else {
            return false;
        };
        self.left_out.push(member);
        true
    }

    fn fall_back_in_transcription(&mut self) -> bool {
        match &mut self.config.transcription {
            Some(transcription) if transcription.model != FALLBACK_TRANSCRIPTION => {
                FALLBACK_TRANSCRIPTION.clone_into(&mut transcription.model);
                self.left_out.push("transcription model");
                true
            }
            Some(_) => {
                self.config.transcription = None;
                self.left_out.push("transcription");
                true
            }
            None => false,
        }
    }
}
