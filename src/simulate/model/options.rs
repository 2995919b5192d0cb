//! How a simulated model behaves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::script::Script;

/// Behaviour of a simulated model server. All of it may be given as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelOptions {
    /// The only key that is let in; any key is without it.
    pub api_key: Option<String>,
    /// Decides ids, sizes of deltas and tones.
    pub seed: u64,
    /// How many times faster than real time audio is generated.
    pub speed: f64,
    /// From the request for a response to its first audio.
    pub think_ms: u64,
    /// Audio comes in bursts of up to this many deltas.
    pub burst: u64,
    /// Cuts deltas at odd bytes, also in the middle of a 16-bit sample.
    pub split_samples: bool,
    /// What is said.
    pub replies: Replies,
    /// Who is told what.
    pub script: Script,
    /// The caller's words in writing.
    pub transcripts: Transcripts,
    /// Transcription models that `session.update` is refused for.
    pub refused_transcription_models: Vec<String>,
    /// What goes wrong.
    pub faults: Faults,
    /// What goes wrong on every connection but the first; the same when absent.
    pub later_faults: Option<Faults>,
}

/// What responses sound like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Replies {
    /// Recorded speech by the script; the caller's words are recognised.
    Speech,
    /// Generated tones of random length. Nothing is recognised: cheap, for load tests.
    Tones {
        /// Shortest.
        min_ms: u64,
        /// Longest.
        max_ms: u64,
    },
}

/// When and whether the caller's words are given in writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Transcripts {
    /// From the end of the turn to its text.
    pub delay_ms: u64,
    /// Up to this much more, at random.
    pub jitter_ms: u64,
    /// Every second text is held back until the one after it has been given.
    pub reversed: bool,
    /// Every so many turns the text never comes; 0: always comes.
    pub lose_every: u64,
    /// Every so many turns the text fails; 0: never.
    pub fail_every: u64,
}

/// What goes wrong, all of it off by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that can go wrong, in any combination")]
pub struct Faults {
    /// Answer the upgrade with this HTTP status.
    pub refuse_upgrade: Option<u16>,
    /// Report this error code after the upgrade and close with 3000.
    pub refuse_after_upgrade: Option<String>,
    /// Never send `session.created`.
    pub no_session: bool,
    /// Wait this long before `session.updated`.
    pub update_delay_ms: u64,
    /// Refuse every `session.update` with this code.
    pub refuse_update: Option<String>,
    /// Say that the output is PCM, and send PCM, whatever was asked.
    pub echo_pcm_output: bool,
    /// Audio deltas that still come after the caller has interrupted.
    pub late_deltas: u32,
    /// Every so many responses one fails with `fail_code`; 0: none does.
    pub fail_every: u64,
    /// Code of a failed response; `rate_limit_exceeded` when absent.
    pub fail_code: Option<String>,
    /// End the session after this long with `session_expired` and close code 1001. It says so from the beginning, in
    /// `expires_at`.
    pub expire_after_ms: Option<u64>,
    /// Break the connection after this long without a word.
    pub drop_after_ms: Option<u64>,
    /// Up to so much later, at random.
    pub drop_jitter_ms: u64,
    /// Say and answer nothing any more after this long, pings included; the connection stays.
    pub freeze_after_ms: Option<u64>,
    /// Send everything so much later. Pings are answered at once.
    pub delay_ms: u64,
    /// After every so many events comes a message that nobody can read; 0: none does.
    pub garbage_every: u64,
    /// Mix in events nobody knows, null members and padding.
    pub noise: bool,
    /// Ask for functions with arguments that are not JSON.
    pub broken_arguments: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            api_key: None,
            seed: 1,
            // The dossier's reports: a 20 s answer is in hand after 3 to 5 s.
            speed: 6.0,
            think_ms: 250,
            burst: 4,
            split_samples: false,
            replies: Replies::Speech,
            script: Script::default(),
            transcripts: Transcripts::default(),
            refused_transcription_models: Vec::new(),
            faults: Faults::default(),
            later_faults: None,
        }
    }
}

impl Default for Transcripts {
    fn default() -> Self {
        Self { delay_ms: 600, jitter_ms: 0, reversed: false, lose_every: 0, fail_every: 0 }
    }
}

impl ModelOptions {
    /// From the request for a response to its first audio.
    #[must_use]
    pub const fn think(&self) -> Duration {
        Duration::from_millis(self.think_ms)
    }
}
