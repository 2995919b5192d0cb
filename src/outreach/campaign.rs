//! The life of a campaign: draft, active, paused and active again, completed.

use serde::{Deserialize, Serialize};

/// Where a campaign is in its life. Stored as `campaigns.status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CampaignStatus {
    /// Being prepared; calls nobody.
    Draft,
    /// Calls.
    Active,
    /// Calls nobody for now.
    Paused,
    /// Over for good.
    Completed,
}

/// What somebody wants of a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Begin to call.
    Activate,
    /// Stop for now.
    Pause,
    /// Go on.
    Resume,
    /// Be done.
    Complete,
}

/// Why a campaign does not do what is wanted, and what would help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// It calls nobody yet.
    #[error("the campaign is a draft; activate it first")]
    Draft,
    /// It was started before.
    #[error("the campaign is paused; resume it")]
    Paused,
    /// Nothing follows.
    #[error("the campaign is completed; create another one")]
    Completed,
}

impl CampaignStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Draft, Self::Active, Self::Paused, Self::Completed];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Completed => "completed",
        }
    }

    /// Reads the stored word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// What it is after a command. A command whose effect is there already changes nothing.
    pub const fn after(self, command: Command) -> Result<Self, StepError> {
        match (self, command) {
            (Self::Draft | Self::Active, Command::Activate)
            | (Self::Active | Self::Paused, Command::Resume) => Ok(Self::Active),
            (Self::Active | Self::Paused, Command::Pause) => Ok(Self::Paused),
            (Self::Active | Self::Paused | Self::Completed, Command::Complete) => Ok(Self::Completed),
            (Self::Draft, _) => Err(StepError::Draft),
            (Self::Paused, Command::Activate) => Err(StepError::Paused),
            (Self::Completed, _) => Err(StepError::Completed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_goes_only_the_ways_there_are() {
        use CampaignStatus::{Active, Completed, Draft, Paused};
        use Command::{Activate, Complete, Pause, Resume};
        for (status, command, after) in [
            (Draft, Activate, Ok(Active)),
            (Draft, Pause, Err(StepError::Draft)),
            (Draft, Resume, Err(StepError::Draft)),
            (Draft, Complete, Err(StepError::Draft)),
            (Active, Activate, Ok(Active)),
            (Active, Pause, Ok(Paused)),
            (Active, Resume, Ok(Active)),
            (Active, Complete, Ok(Completed)),
            (Paused, Activate, Err(StepError::Paused)),
            (Paused, Pause, Ok(Paused)),
            (Paused, Resume, Ok(Active)),
            (Paused, Complete, Ok(Completed)),
            (Completed, Activate, Err(StepError::Completed)),
            (Completed, Pause, Err(StepError::Completed)),
            (Completed, Resume, Err(StepError::Completed)),
            (Completed, Complete, Ok(Completed)),
        ] {
            assert_eq!(status.after(command), after, "{status:?} {command:?}");
        }
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for status in CampaignStatus::ALL {
            assert_eq!(CampaignStatus::from_word(status.as_str()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        assert_eq!(CampaignStatus::from_word("archived"), None);
    }
}
