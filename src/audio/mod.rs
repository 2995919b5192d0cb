//! Sample formats and their conversion: plain arithmetic, no IO.

use std::fmt;

use serde::{Deserialize, Serialize};

pub mod g711;
pub mod level;
mod polyphase;
pub mod resample;

/// Samples a second on the telephone.
pub const PHONE_HZ: u32 = 8_000;
/// Samples a second of a model that speaks PCM.
pub const MODEL_HZ: u32 = 24_000;

/// The audio a model session speaks and hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum AudioFormat {
    /// 16-bit signed little-endian mono PCM at 24 kHz: 48 bytes a millisecond.
    #[default]
    Pcm24k,
    /// G.711 mu-law mono at 8 kHz: 8 bytes a millisecond. Telephone audio passes through unchanged.
    Pcmu,
}

impl AudioFormat {
    /// Bytes that last one millisecond.
    #[must_use]
    pub const fn bytes_per_ms(self) -> usize {
        match self {
            Self::Pcm24k => 48,
            Self::Pcmu => 8,
        }
    }
}

impl fmt::Display for AudioFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pcm24k => "pcm24k",
            Self::Pcmu => "pcmu",
        })
    }
}

impl std::str::FromStr for AudioFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pcm24k" => Ok(Self::Pcm24k),
            "pcmu" => Ok(Self::Pcmu),
            other => Err(format!("{other:?} is not an audio format; use pcm24k or pcmu")),
        }
    }
}
