//! Servers as processes of their own, which can be killed and started again.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use voicebridge::app::process::{ProcessOptions, ServerProcess};

/// How long anything that must happen may take on a slow machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);
pub(crate) const TOKEN: &str = "the-auth-token";

/// A server and what it keeps on its disk.
pub(crate) struct Node {
    pub(crate) server: ServerProcess,
    _data: TempDir,
}

impl Node {
    pub(crate) async fn start(public_url: Option<String>, database_url: String, model_url: String) -> Self {
        Self::start_with(public_url, database_url, model_url, Vec::new()).await
    }

    /// As [`Node::start`], with further settings.
    pub(crate) async fn start_with(
        public_url: Option<String>,
        database_url: String,
        model_url: String,
        more: Vec<(&'static str, String)>,
    ) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut options = options(data.path(), public_url, database_url, model_url);
        options.settings.extend(more);
        let server = ServerProcess::start(options).await;
        Self { server: server.unwrap(), _data: data }
    }

    pub(crate) async fn calls_live(&self) -> u64 {
        self.server.metric("calls_live").await.unwrap() as u64
    }

    pub(crate) async fn stop(self) {
        self.server.stop(SOON).await.unwrap();
    }
}

fn options(
    data: &Path,
    public_url: Option<String>,
    database_url: String,
    model_url: String,
) -> ProcessOptions {
    let mut settings = vec![
        ("DATABASE_URL", database_url),
        ("OPENAI_REALTIME_URL", model_url),
        ("OPENAI_API_KEY", "the-key".into()),
        ("TWILIO_AUTH_TOKEN", TOKEN.into()),
        ("AUDIO_FORMAT", "pcmu".into()),
    ];
    settings.extend(public_url.map(|url| ("PUBLIC_URL", url)));
    // What it says helps when a test fails.
    ProcessOptions {
        program: env!("CARGO_BIN_EXE_voicebridge").into(),
        data_dir: data.into(),
        settings,
        echo: true,
    }
}

/// Waits for what must become true.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not so in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
