//! The settings of a server between simulated far ends: as a user would write them, apart from the environment of whoever
//! runs it.

use std::ffi::OsString;
use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};

use crate::audio::AudioFormat;
use crate::config::{Config, ConfigError, Need};

/// Who a server talks to, and how.
#[must_use]
pub fn far_ends(
    model_url: String,
    twilio_token: &SecretString,
    format: AudioFormat,
) -> [(&'static str, String); 4] {
    [
        ("OPENAI_REALTIME_URL", model_url),
        ("OPENAI_API_KEY", "any".to_owned()),
        ("TWILIO_AUTH_TOKEN", twilio_token.expose_secret().to_owned()),
        ("AUDIO_FORMAT", format.to_string()),
    ]
}

/// A server of this process on this port of the loopback (0: any) that keeps all it has in `data_dir`.
pub fn config(
    far_ends: &[(&'static str, String)],
    data_dir: &Path,
    port: u16,
) -> Result<Config, ConfigError> {
    let of_ours = |name: &str| match name {
        "VOICEBRIDGE_LISTEN" => Some(OsString::from(format!("127.0.0.1:{port}"))),
        "VOICEBRIDGE_DATA_DIR" => Some(data_dir.as_os_str().to_owned()),
        _ => far_ends.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into()),
    };
    Config::from_parts(None, of_ours, Need::Calls)
}
