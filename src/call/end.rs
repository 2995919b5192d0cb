//! Why a call ended, and what the carrier shall do with it then.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The one reason a call ended for: the first cause wins. Stored as `disconnect_reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Twilio said `stop`: the caller hung up or the carrier ended the call.
    CallerHungUp,
    /// The agent said goodbye and used `end_call`.
    AgentEnded,
    /// The agent asked for a human.
    Transferred,
    /// The call reached its longest permitted duration.
    MaxDuration,
    /// Nobody spoke, also after being asked.
    Silence,
    /// The media stream broke without a `stop`, or went quiet.
    StreamLost,
    /// The media stream sent too much that was not audio.
    StreamInvalid,
    /// The model could not be reached in time.
    ModelUnavailable,
    /// The model refused our configuration, key or account.
    ModelRefused,
    /// The model's session was lost, and no other one came.
    ModelLost,
    /// Responses kept failing.
    ModelFailed,
    /// The model showed no life, and no other session of it did.
    ModelStalled,
    /// A peer read so slowly that its bounded queue was full.
    SlowPeer,
    /// The server was stopped and the grace period was over.
    Drained,
    /// Somebody in charge ended it.
    Operator,
    /// The node that carried it died, and the carrier did not ask how the call goes on.
    NodeLost,
    /// The server is stopped, and the call shall go on elsewhere: it left at a pause.
    Moved,
    /// Somebody else carries it now, or has ended it. What the one who lost it says of it changes nothing.
    LeaseLost,
    /// A machine answered, and what was to be said to it has been said.
    Voicemail,
    /// The called telephone was busy.
    CarrierBusy,
    /// Nobody took the call while it rang.
    CarrierNoAnswer,
    /// The carrier could not connect the call; its SIP answer says more.
    CarrierFailed,
    /// The call was taken back before anybody answered.
    CarrierCanceled,
    /// A rule forbids the call: do-not-call, hours, caps.
    BlockedByRule,
}

/// What the carrier is told when the stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NextStep {
    /// Nothing more to say.
    HangUp,
    /// Put the caller through to people.
    Transfer,
    /// Say that something went wrong, then people if there are any, else hang up.
    Apologise,
    /// Connect the call again: only its stream has ended.
    Resume,
}

impl EndReason {
    /// Every reason, for documents and checks.
    pub const ALL: [Self; 24] = [
        Self::CallerHungUp,
        Self::AgentEnded,
        Self::Transferred,
        Self::MaxDuration,
        Self::Silence,
        Self::StreamLost,
        Self::StreamInvalid,
        Self::ModelUnavailable,
        Self::ModelRefused,
        Self::ModelLost,
        Self::ModelFailed,
        Self::ModelStalled,
        Self::SlowPeer,
        Self::Drained,
        Self::Operator,
        Self::NodeLost,
        Self::Moved,
        Self::LeaseLost,
        Self::Voicemail,
        Self::CarrierBusy,
        Self::CarrierNoAnswer,
        Self::CarrierFailed,
        Self::CarrierCanceled,
        Self::BlockedByRule,
    ];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CallerHungUp => "caller_hung_up",
            Self::AgentEnded => "agent_ended",
            Self::Transferred => "transferred",
            Self::MaxDuration => "max_duration",
            Self::Silence => "silence",
            Self::StreamLost => "stream_lost",
            Self::StreamInvalid => "stream_invalid",
            Self::ModelUnavailable => "model_unavailable",
            Self::ModelRefused => "model_refused",
            Self::ModelLost => "model_lost",
            Self::ModelFailed => "model_failed",
            Self::ModelStalled => "model_stalled",
            Self::SlowPeer => "slow_peer",
            Self::Drained => "drained",
            Self::Operator => "operator",
            Self::NodeLost => "node_lost",
            Self::Moved => "moved",
            Self::LeaseLost => "lease_lost",
            Self::Voicemail => "voicemail",
            Self::CarrierBusy => "carrier_busy",
            Self::CarrierNoAnswer => "carrier_no_answer",
            Self::CarrierFailed => "carrier_failed",
            Self::CarrierCanceled => "carrier_canceled",
            Self::BlockedByRule => "blocked_by_rule",
        }
    }

    /// Reads the stored word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// What the carrier shall do after a stream that ended for this reason.
    #[must_use]
    pub const fn next_step(self) -> NextStep {
        match self {
            Self::CallerHungUp
            | Self::AgentEnded
            | Self::MaxDuration
            | Self::Silence
            | Self::Operator
            | Self::Voicemail
            | Self::CarrierBusy
            | Self::CarrierNoAnswer
            | Self::CarrierFailed
            | Self::CarrierCanceled
            | Self::BlockedByRule => NextStep::HangUp,
            Self::Transferred => NextStep::Transfer,
            Self::StreamLost | Self::Drained | Self::Moved => NextStep::Resume,
            Self::StreamInvalid
            | Self::ModelUnavailable
            | Self::ModelRefused
            | Self::ModelLost
            | Self::ModelFailed
            | Self::ModelStalled
            | Self::SlowPeer
            | Self::NodeLost
            | Self::LeaseLost => NextStep::Apologise,
        }
    }

    /// True when the call did what it was for; false when something failed.
    #[must_use]
    pub const fn is_success(self) -> bool {
        !matches!(self.next_step(), NextStep::Apologise | NextStep::Resume) && !self.is_never_connected()
    }

    /// True when the call came to nothing before anybody took it.
    #[must_use]
    pub const fn is_never_connected(self) -> bool {
        matches!(
            self,
            Self::CarrierBusy
                | Self::CarrierNoAnswer
                | Self::CarrierFailed
                | Self::CarrierCanceled
                | Self::BlockedByRule
        )
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl NextStep {
    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HangUp => "hang_up",
            Self::Transfer => "transfer",
            Self::Apologise => "apologise",
            Self::Resume => "resume",
        }
    }

    /// Reads the stored word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let all = [Self::HangUp, Self::Transfer, Self::Apologise, Self::Resume];
        all.into_iter().find(|step| step.as_str() == word)
    }
}
