//! What follows a try to reach somebody.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What came of one try. Stored as `call_attempts.outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A person took the call.
    Answered,
    /// A machine took it.
    Voicemail,
    /// The telephone was busy.
    Busy,
    /// Nobody took it.
    NoAnswer,
    /// The carrier could not connect it.
    Failed,
    /// It was taken back.
    Canceled,
    /// The carrier has no such call: it was never asked, or did not hear it.
    NotPlaced,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 7] = [
        Self::Answered,
        Self::Voicemail,
        Self::Busy,
        Self::NoAnswer,
        Self::Failed,
        Self::Canceled,
        Self::NotPlaced,
    ];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Voicemail => "voicemail",
            Self::Busy => "busy",
            Self::NoAnswer => "no_answer",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::NotPlaced => "not_placed",
        }
    }

    /// Reads the stored word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == word)
    }
}

/// What is done when a machine answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum VoicemailPolicy {
    /// Hang up and be done.
    #[default]
    HangUp,
    /// Leave a message and be done.
    LeaveMessage,
    /// Hang up and try again later.
    Retry,
}

impl VoicemailPolicy {
    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HangUp => "hang_up",
            Self::LeaveMessage => "leave_message",
            Self::Retry => "retry",
        }
    }

    /// Reads the stored word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::HangUp, Self::LeaveMessage, Self::Retry].into_iter().find(|policy| policy.as_str() == word)
    }

    /// What a campaign says; what is usual where there is none, or it says what nobody knows.
    #[must_use]
    pub fn stored(word: Option<&str>) -> Self {
        word.and_then(Self::from_word).unwrap_or_default()
    }
}

/// When somebody who was not reached is called again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all.
    pub max_attempts: u32,
    /// How long to wait after an outcome. One that is missing is not tried again.
    pub delays: BTreeMap<Outcome, Duration>,
    /// What a machine means.
    pub voicemail: VoicemailPolicy,
}

/// How long a row waits after a try that came to nothing on the way to the carrier, where nobody says otherwise.
const NOT_PLACED: SignedDuration = SignedDuration::from_mins(5);

/// What follows a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// What the call was for is done.
    Done,
    /// Another try, not before this.
    Retry {
        /// When.
        at: Timestamp,
    },
    /// There is no point, or no try, left.
    GiveUp,
}

/// The delays of a campaign as they are stored, `{"busy": 900}`. What cannot be read is left out: whoever filled the table may
/// have written other words.
#[must_use]
pub fn stored_delays(value: &Value) -> BTreeMap<Outcome, Duration> {
    let entries = value.as_object().into_iter().flatten();
    entries
        .filter_map(|(word, seconds)| {
            Some((Outcome::from_word(word)?, Duration::from_secs(seconds.as_u64()?)))
        })
        .collect()
}

impl RetryPolicy {
    /// What a row of the queue and its campaign say, as they are stored: `delays_s` has seconds by outcome. Without a campaign
    /// it is what is usual. An outcome whose delay is missing or none is not tried again.
    #[must_use]
    pub fn stored(max_attempts: u32, delays_s: Option<&Value>, voicemail: Option<&str>) -> Self {
        let usual = Self::default();
        Self {
            max_attempts,
            delays: delays_s.map_or(usual.delays, stored_delays),
            voicemail: VoicemailPolicy::stored(voicemail),
        }
    }

    /// How long to wait after a try that came to nothing on the way to the carrier. It costs nobody a try, so a campaign
    /// that does not speak of it waits as is usual.
    #[must_use]
    pub fn after_not_placed(&self) -> SignedDuration {
        let own = self.delays.get(&Outcome::NotPlaced).copied();
        own.and_then(|delay| SignedDuration::try_from(delay).ok()).unwrap_or(NOT_PLACED)
    }

    /// What follows try `attempt_number` (from 1), which ended so at `ended_at`.
    #[must_use]
    pub fn after(&self, outcome: Outcome, attempt_number: u32, ended_at: Timestamp) -> Next {
        let is_done = match outcome {
            Outcome::Answered => true,
            Outcome::Voicemail => self.voicemail != VoicemailPolicy::Retry,
            _ => false,
        };
        if is_done {
            return Next::Done;
        }
        let delay = self.delays.get(&outcome).filter(|_| attempt_number < self.max_attempts);
        let delay = delay.and_then(|delay| SignedDuration::try_from(*delay).ok());
        match delay.and_then(|delay| ended_at.checked_add(delay).ok()) {
            Some(at) => Next::Retry { at },
            None => Next::GiveUp,
        }
    }
}

impl Default for RetryPolicy {
    /// For calls that belong to no campaign.
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self {
            max_attempts: 3,
            delays: BTreeMap::from([
                (Outcome::Busy, minutes(15)),
                (Outcome::NoAnswer, minutes(120)),
                (Outcome::Failed, minutes(60)),
                (Outcome::NotPlaced, minutes(5)),
            ]),
            voicemail: VoicemailPolicy::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_not_reached_is_called_again_after_the_delay_of_the_outcome() {
        let policy = RetryPolicy::default();
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let at = |text: &str| Next::Retry { at: text.parse().unwrap() };
        assert_eq!(policy.after(Outcome::Busy, 1, now), at("2026-03-01T12:15:00Z"));
        assert_eq!(policy.after(Outcome::NoAnswer, 2, now), at("2026-03-01T14:00:00Z"));
        assert_eq!(policy.after(Outcome::NoAnswer, 3, now), Next::GiveUp, "it was the last try");
        assert_eq!(policy.after(Outcome::Canceled, 1, now), Next::GiveUp, "it has no delay");
    }

    #[test]
    fn a_machine_is_tried_again_only_where_the_policy_says_so() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let mut policy = RetryPolicy::default();
        policy.delays.insert(Outcome::Voicemail, Duration::from_secs(60));
        for (voicemail, next) in [
            (VoicemailPolicy::HangUp, Next::Done),
            (VoicemailPolicy::LeaveMessage, Next::Done),
            (VoicemailPolicy::Retry, Next::Retry { at: "2026-03-01T12:01:00Z".parse().unwrap() }),
        ] {
            policy.voicemail = voicemail;
            assert_eq!(policy.after(Outcome::Voicemail, 1, now), next);
            assert_eq!(policy.after(Outcome::Answered, 1, now), Next::Done);
        }
    }

    #[test]
    fn what_is_stored_is_read_and_what_is_not_is_usual() {
        let stored = |delays: &str| {
            RetryPolicy::stored(4, Some(&serde_json::from_str(delays).unwrap()), Some("retry"))
        };
        let policy = stored(r#"{"busy": 60, "not_placed": 7, "maybe": 1, "no_answer": "soon"}"#);
        let seconds = |seconds| Duration::from_secs(seconds);
        let delays = [(Outcome::Busy, seconds(60)), (Outcome::NotPlaced, seconds(7))].into();
        assert_eq!(policy, RetryPolicy { max_attempts: 4, delays, voicemail: VoicemailPolicy::Retry });
        assert_eq!(policy.after_not_placed(), SignedDuration::from_secs(7));
        // A campaign that gives no delay does not try again; what never rang is no try.
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(stored("{}").after(Outcome::Busy, 1, now), Next::GiveUp);
        assert_eq!(stored("{}").after_not_placed(), SignedDuration::from_mins(5));
        // Without a campaign.
        let usual = RetryPolicy::stored(3, None, None);
        assert_eq!(usual, RetryPolicy::default());
        assert_eq!(usual.after_not_placed(), SignedDuration::from_mins(5));
        assert_eq!(VoicemailPolicy::stored(Some("shout")), VoicemailPolicy::HangUp);
    }

    #[test]
    fn stored_delays_are_read_as_far_as_they_can_be() {
        let stored = serde_json::json!({"busy": 900, "maybe": 1, "failed": "soon", "no_answer": -1});
        assert_eq!(stored_delays(&stored), BTreeMap::from([(Outcome::Busy, Duration::from_secs(900))]));
        assert_eq!(stored_delays(&serde_json::json!([7])), BTreeMap::new());
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_word(outcome.as_str()), Some(outcome));
        }
        assert_eq!(VoicemailPolicy::from_word("leave_message"), Some(VoicemailPolicy::LeaveMessage));
        assert_eq!(Outcome::from_word("maybe"), None);
    }
}
