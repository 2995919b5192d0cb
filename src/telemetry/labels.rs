//! What counts are told apart by.

use std::fmt::Write as _;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// Why a frame of audio was not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameDrop {
    /// The message was larger than a frame may be.
    TooLarge,
    /// The payload was not audio.
    NotAudio,
    /// The model's audio of a response that was already interrupted.
    Interrupted,
    /// A bounded queue was full.
    QueueFull,
}

/// How a function that the model called came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ToolOutcome {
    /// It answered.
    Answered,
    /// It answered with an error, or could not be reached.
    Failed,
    /// It took too long.
    TimedOut,
    /// The arguments did not fit, or there is no such function.
    Refused,
    /// The call ended first.
    Cancelled,
}

/// What came of asking the carrier for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DialOutcome {
    /// It has taken it.
    Placed,
    /// It did not hear us, or has no time; the try does not count.
    NotNow,
    /// Account, token or address are not good; the try does not count.
    Account,
    /// It does not let us call from that number; the try does not count.
    OwnNumber,
    /// It will never place it.
    Refused,
    /// Nobody knows: the call is looked for.
    Unknown,
    /// It was not asked: the server was held up for too long.
    NotAsked,
}

impl DialOutcome {
    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::NotNow => "not_now",
            Self::Account => "account",
            Self::OwnNumber => "own_number",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::NotAsked => "not_asked",
        }
    }
}

impl EncodeLabelValue for DialOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> std::fmt::Result {
        encoder.write_str(self.as_str())
    }
}

impl FrameDrop {
    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NotAudio => "not_audio",
            Self::Interrupted => "interrupted",
            Self::QueueFull => "queue_full",
        }
    }
}

impl ToolOutcome {
    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
        }
    }
}

impl EncodeLabelValue for FrameDrop {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> std::fmt::Result {
        encoder.write_str(self.as_str())
    }
}

impl EncodeLabelValue for ToolOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> std::fmt::Result {
        encoder.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WhyLabel {
    pub(super) why: FrameDrop,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabel {
    pub(super) outcome: ToolOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DialLabel {
    pub(super) outcome: DialOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StatusLabel {
    pub(super) status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct JudgementLabel {
    pub(super) verdict: &'static str,
    pub(super) why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReportLabel {
    pub(super) source: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResultLabel {
    pub(super) result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabel {
    pub(super) reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EndpointLabel {
    pub(super) endpoint: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SessionLabel {
    pub(super) endpoint: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DirectionLabel {
    pub(super) direction: &'static str,
}
