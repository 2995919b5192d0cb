//! What is counted.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::pki_types::PrivateKeyDer;
use serde::{Deserialize, Serialize};
use voicebridge::audio::AudioFormat;

use crate::callgrind::Subject;
use crate::far_ends::FarEnds;

/// How long a frame lasts.
const FRAME: Duration = Duration::from_millis(20);
/// Frames a count is taken over; a multiple of ten, because every tenth has a mark.
const FRAMES: u32 = 200;
/// How often each is counted. The least is taken: what a server does every half minute, and writes down of what was said,
/// falls into one of them at most.
const ROUNDS: u32 = 3;
/// Frames each way before anything is counted.
const WARM_UP: u32 = 100;
/// Messages of the model that come at once.
pub(crate) const BURST: u32 = 32;

/// One kind of call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// In the table and in the baseline.
    pub(crate) name: &'static str,
    format: AudioFormat,
    /// The model is reached over TLS. Twilio's is always ended before us.
    tls: bool,
    /// What a frame each way may cost, where it has been stated.
    pub(crate) pair_limit: Option<u64>,
}

pub(crate) const CASES: [Case; 4] = [
    Case { name: "pcmu", format: AudioFormat::Pcmu, tls: false, pair_limit: Some(30_000) },
    Case { name: "pcmu_tls", format: AudioFormat::Pcmu, tls: true, pair_limit: None },
    Case { name: "pcm24k", format: AudioFormat::Pcm24k, tls: false, pair_limit: Some(90_000) },
    Case { name: "pcm24k_tls", format: AudioFormat::Pcm24k, tls: true, pair_limit: None },
];

/// Instructions of the whole server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// From Twilio's message to the model's.
    pub(crate) caller_frame: u64,
    /// From the model's message to Twilio's, with a tenth of a mark there and back.
    pub(crate) agent_frame: u64,
    /// All of [`BURST`] messages of the model that come at once, until the last has left. How often a timer is needed
    /// for them depends on the moment, so it is not held to the baseline.
    #[serde(skip)]
    pub(crate) burst: u64,
    /// Spent in the time of a frame although nobody says anything.
    #[serde(skip)]
    pub(crate) background: u64,
}

impl Counts {
    pub(crate) const fn pair(self) -> u64 {
        self.caller_frame + self.agent_frame
    }

    /// What is held to the baseline.
    pub(crate) const fn parts(self) -> [(&'static str, u64); 2] {
        [("a caller frame", self.caller_frame), ("an agent frame", self.agent_frame)]
    }
}

impl Case {
    /// Carries one call and counts. What callgrind writes stays in `dir`.
    pub(crate) fn count(self, database: String, dir: &Path) -> anyhow::Result<Counts> {
        let listener = TcpListener::bind("127.0.0.1:0").context("a port for the model")?;
        let port = listener.local_addr().context("the port of the model")?.port();
        let scheme = if self.tls { "wss" } else { "ws" };
        let mut environment = vec![
            ("VOICEBRIDGE_LISTEN", "127.0.0.1:0".to_owned()),
            ("DATABASE_URL", database),
            ("OPENAI_REALTIME_URL", format!("{scheme}://localhost:{port}/v1/realtime")),
            ("OPENAI_API_KEY", "the-key".to_owned()),
            ("AUDIO_FORMAT", self.format.to_string()),
        ];
        let tls = if self.tls {
            let trusted = dir.join("certificate.pem");
            let config = Arc::new(tls_config(&trusted)?);
            environment.push(("SSL_CERT_FILE", trusted.display().to_string()));
            Some(config)
        } else {
            None
        };
        let mut server = Subject::start(&environment, dir)?;
        let mut ends = FarEnds::connect(server.addr, &listener, tls, self.format, WARM_UP);
        let frames = u64::from(FRAMES);
        server.count()?;
        let mut least = [u64::MAX; 3];
        for _ in 0..ROUNDS {
            ends.wait(FRAME * FRAMES);
            let background = server.count()? / frames;
            ends.caller_frames(FRAMES);
            let caller_frame = server.count()? / frames;
            ends.agent_frames(FRAMES);
            let agent_frame = server.count()? / frames;
            let round = [background, caller_frame, agent_frame];
            least = std::array::from_fn(|part| least[part].min(round[part]));
        }
        let [background, caller_frame, agent_frame] = least;
        ends.agent_burst(BURST);
        let burst = server.count()?;
        server.stop();
        Ok(Counts { caller_frame, agent_frame, burst, background })
    }
}

/// TLS as the model speaks it, with a certificate made for this run, which is left in `trusted`.
fn tls_config(trusted: &Path) -> anyhow::Result<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).context("a certificate")?;
    fs::write(trusted, made.cert.pem()).context("the certificate")?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .context("the certificate and its key")
}
