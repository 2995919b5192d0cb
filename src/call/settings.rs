//! What one call may do and how long it may take, fixed before it starts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ending::FULFILLED;
use super::transcript::Remembered;
use crate::wire::model::SessionConfig;

/// Name of the built-in function that ends the call.
pub const END_CALL: &str = "end_call";
/// Name of the built-in function that asks for a human.
pub const TRANSFER_TO_HUMAN: &str = "transfer_to_human";

/// Name of the built-in function for calls that we make, with which the other party is not called again.
pub const DO_NOT_CALL_AGAIN: &str = "do_not_call_again";

/// What the function that asks for a human is said to have answered where nobody took the call.
const NOBODY_TOOK_OVER: &str = r#"{"error":"Nobody of the team answered. The caller is back with you."}"#;
/// The same where somebody in charge had asked for it.
const NOBODY_TOOK_OVER_NOTE: &str = "The caller was put through to the team by somebody in charge, nobody answered, and the caller is back with you.";

/// Settings of one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What the model is told first, built-in functions included.
    pub session: SessionConfig,
    /// Which stream of the call this is, from 1.
    pub stream: u64,
    /// What was said and heard on earlier streams of the call. Where there is any, nobody is greeted again.
    pub history: Vec<Remembered>,
    /// The call was moved here at a pause, so there is nothing to explain to the caller.
    pub moved: bool,
    /// People were called on behalf of the agent and did not answer: the caller has waited for them until now.
    pub handed_back: bool,
    /// How often that has happened on this call.
    pub handoffs_failed: u32,
    /// The other party's number is known, so that it can be put on record when they do not want to be called again.
    pub can_opt_out: bool,
    /// The key with which the other party says so.
    pub opt_out_digit: Option<char>,
    /// How to greet, as an instruction; `None` waits for the caller to speak.
    pub greeting: Option<String>,
    /// Functions that are answered outside the call, and how long each may take.
    pub tools: BTreeMap<String, Duration>,
    /// Longest call.
    pub max_duration: Duration,
    /// Silence of both sides after which the agent asks whether anybody is there.
    pub nudge_after: Duration,
    /// How often it asks before the call is ended.
    pub max_nudges: u32,
    /// How far ahead of the caller's ear audio is sent.
    pub playout_lead: Duration,
    /// How long the model's session may take to be ready, from the start of the stream.
    pub model_ready_within: Duration,
    /// How long the caller waits for another session when one was lost.
    pub model_back_within: Duration,
    /// Time without a session in all of the call, before it is given up.
    pub outage_budget: Duration,
    /// Spreads the pauses between tries to open a session.
    pub seed: u64,
    /// How long a requested response may show no sign of life.
    pub response_within: Duration,
    /// How long a caller's turn may stay without its text.
    pub transcript_within: Duration,
    /// How long the last texts are waited for after the stream has ended.
    pub linger: Duration,
    /// How long the last words of the agent may take to be played before the call is ended anyway.
    pub farewell_within: Duration,
    /// No message of any kind on the stream for this long: it is lost.
    pub stream_silence: Duration,
}

impl Settings {
    /// The defaults around a session's configuration.
    #[must_use]
    pub fn new(session: SessionConfig) -> Self {
        Self {
            session,
            stream: 1,
            history: Vec::new(),
            moved: false,
            handed_back: false,
            handoffs_failed: 0,
            can_opt_out: false,
            opt_out_digit: None,
            greeting: None,
            tools: BTreeMap::new(),
            max_duration: Duration::from_secs(30 * 60),
            nudge_after: Duration::from_secs(12),
            max_nudges: 2,
            playout_lead: Duration::from_millis(200),
            model_ready_within: Duration::from_secs(10),
            model_back_within: Duration::from_secs(8),
            outage_budget: Duration::from_secs(30),
            seed: 0,
            response_within: Duration::from_secs(15),
            transcript_within: Duration::from_secs(8),
            linger: Duration::from_secs(3),
            farewell_within: Duration::from_secs(30),
            stream_silence: Duration::from_secs(20),
        }
    }

    /// What was on record before people were called says that the caller was put through: nobody took the call over, and
    /// every session of it is to know that.
    pub(super) fn tell_of_handoffs(&mut self) {
        if self.handoffs_failed == 0 {
            return;
        }
        let mut told = 0;
        for said in &mut self.history {
            if let Remembered::Function { name, output: Some(output), .. } = said
                && name == TRANSFER_TO_HUMAN
                && output == FULFILLED
            {
                NOBODY_TOOK_OVER.clone_into(output);
                told += 1;
            }
        }
        if self.handed_back && told < self.handoffs_failed {
            self.history.push(Remembered::Note(NOBODY_TOOK_OVER_NOTE.to_owned()));
        }
    }
}
