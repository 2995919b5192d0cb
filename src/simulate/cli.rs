//! `voicebridge simulate …`.

/// A simulated far end.
#[derive(Debug, clap::Subcommand)]
pub enum SimulateCommand {
    /// Places calls as Twilio would.
    Caller(CallerArgs),
    /// Serves as OpenAI's Realtime API would.
    Model(ModelArgs),
}

/// Options of `simulate caller`.
#[derive(Debug, clap::Args)]
pub struct CallerArgs {}

/// Options of `simulate model`.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {}

/// Runs a simulated far end until it is done or interrupted.
pub async fn run(command: SimulateCommand) -> anyhow::Result<()> {
    match command {
        SimulateCommand::Caller(_) | SimulateCommand::Model(_) => anyhow::bail!("not built yet"),
    }
}
