//! Voice agents: what the model is told and what one call may do.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use uuid::Uuid;

use crate::ids::{AgentId, CallSid, OrganizationId, PhoneNumber};
use crate::redact::Redaction;
use crate::store::dialing::attempts;
use crate::store::{Store, phone_numbers};
use crate::wire::model::{AudioFormat, TurnDetection};

/// One agent as configured.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Id.
    pub id: AgentId,
    /// Whose it is.
    pub organization_id: OrganizationId,
    /// For people.
    pub name: String,
    /// False: takes no new calls.
    pub enabled: bool,
    /// Who it is and how it behaves.
    pub instructions: String,
    /// How to open the call, as an instruction; `None` waits for the caller.
    pub greeting: Option<String>,
    /// Provider's name of the voice.
    pub voice: String,
    /// Name of the model; `None` is the server's default.
    pub model: Option<String>,
    /// Name of the model that writes down the caller's words; `None` is the server's default.
    pub transcription_model: Option<String>,
    /// ISO-639-1 codes the caller may speak.
    pub languages: Vec<String>,
    /// Names and terms likely to be said.
    pub keywords: Vec<String>,
    /// Audio towards the model; `None` is the server's default.
    pub audio_format: Option<AudioFormat>,
    /// How turns end; `None` is the server's default.
    pub turn_detection: Option<TurnDetection>,
    /// HTTP functions on offer.
    pub tools: Vec<HttpTool>,
    /// People to put the caller through to.
    pub transfer_number: Option<PhoneNumber>,
    /// Spoken when the agent cannot go on.
    pub fallback_sentence: String,
    /// Longest call.
    pub max_duration: Duration,
    /// Silence of both sides after which it asks whether anybody is there.
    pub nudge_after: Duration,
    /// How often it asks before the call is ended.
    pub max_nudges: u32,
    /// On calls that we make: the key with which the other party says that they do not want to be called again.
    pub opt_out_digit: Option<char>,
    /// It speaks on a call that we make. Of an agent as configured this is not known, and false.
    pub calls_out: bool,
    /// A sound over it pauses it, and only an interruption stops it; else any sound does.
    pub reversible_barge_in: bool,
    /// What is taken out of words before anything of a call is stored.
    pub redact: Redaction,
}

impl Agent {
    /// The agent as it is on a call that the carrier calls this: `inbound`, `outbound-api`, `outbound-dial`.
    #[must_use]
    pub fn on_call(self: Arc<Self>, direction: Option<&str>) -> Arc<Self> {
        let calls_out = direction.is_some_and(|direction| direction.starts_with("outbound"));
        if calls_out == self.calls_out { self } else { Arc::new(Self { calls_out, ..(*self).clone() }) }
    }

    /// The same agent for a call that we made, which is about this. An empty briefing still says who called whom.
    #[must_use]
    pub fn briefed(&self, briefing: &str) -> Self {
        let told = match briefing.trim() {
            "" => String::new(),
            briefing => format!(" What the call is about:\n{briefing}"),
        };
        let instructions = format!(
            "{}\n\nOn this call you have called the other person; they did not call you.{told}",
            self.instructions
        );
        Self { instructions, ..self.clone() }
    }
}

/// A function of the agent that an HTTP server answers.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpTool {
    /// Name the model uses.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema of the arguments.
    #[schema(value_type = Object)]
    pub parameters: serde_json::Value,
    /// Where the arguments are posted.
    pub url: String,
    /// How long the answer may take.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Proves to that server that we are asking.
    #[serde(default)]
    pub secret_header: Option<SecretHeader>,
}

/// A request header with a secret value.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretHeader {
    /// Its name.
    pub name: String,
    /// Its value; does not print, and is not shown.
    #[serde(skip_serializing)]
    #[schema(value_type = String, write_only)]
    pub value: SecretString,
}

/// A caller hears silence while a function runs: chosen by ear, about as long as people wait on a line.
pub(crate) const fn default_timeout_ms() -> u64 {
    8_000
}

/// The agent that answers where nothing names one: of the default organisation.
///
/// `None` also when it is disabled.
pub async fn default_agent(store: &Store) -> sqlx::Result<Option<Agent>> {
    let id = sqlx::query_scalar!(
        r#"
        select a.id
        from agents a
        join organisations o on o.id = a.organization_id
        where o.slug = 'default' and a.is_default and a.enabled
        "#,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    let Some(id) = id else { return Ok(None) };
    agent(store, AgentId(id)).await
}

/// The agent that answers one of our numbers, enabled or not.
pub async fn by_phone_number(store: &Store, number: &PhoneNumber) -> sqlx::Result<Option<Agent>> {
    match phone_numbers::by_number(store, number).await? {
        Some(own) => agent(store, own.agent_id).await,
        None => Ok(None),
    }
}

/// The agent with this id, enabled or not.
pub async fn agent(store: &Store, id: AgentId) -> sqlx::Result<Option<Agent>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select id, organization_id, name, enabled, instructions, greeting, voice, model,
               transcription_model, languages, keywords, audio_format,
               turn_detection as "turn_detection: Json<TurnDetection>", tools as "tools: Json<Vec<HttpTool>>",
               transfer_number, fallback_sentence, max_duration_s, nudge_after_s, max_nudges,
               opt_out_digit, reversible_barge_in, redact
        from agents
        where id = $1
        "#,
        id.0,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    row.map(Agent::try_from).transpose()
}

/// The agent with this id as it is on this call: of one that we made it knows what it is about.
pub async fn briefed_for_call(store: &Store, id: AgentId, call_sid: &CallSid) -> sqlx::Result<Option<Agent>> {
    let Some(agent) = agent(store, id).await? else { return Ok(None) };
    let briefing = attempts::briefing(store, call_sid).await?;
    Ok(Some(briefing.map_or_else(|| agent.clone(), |briefing| agent.briefed(&briefing))))
}

/// An agent as its columns are.
struct Row {
    id: Uuid,
    organization_id: Uuid,
    name: String,
    enabled: bool,
    instructions: String,
    greeting: Option<String>,
    voice: String,
    model: Option<String>,
    transcription_model: Option<String>,
    languages: Vec<String>,
    keywords: Vec<String>,
    audio_format: Option<String>,
    turn_detection: Option<Json<TurnDetection>>,
    tools: Json<Vec<HttpTool>>,
    transfer_number: Option<String>,
    fallback_sentence: String,
    max_duration_s: i32,
    nudge_after_s: i32,
    max_nudges: i32,
    opt_out_digit: Option<String>,
    reversible_barge_in: bool,
    redact: Vec<String>,
}

impl TryFrom<Row> for Agent {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> sqlx::Result<Self> {
        let audio_format = row
            .audio_format
            .map(|word| word.parse().map_err(|error: String| sqlx::Error::Decode(error.into())));
        // An agent that cannot transfer still answers.
        let transfer_number = row.transfer_number.and_then(|number| {
            let unusable = |_: &_| tracing::warn!(agent.id = %row.id, "the transfer number is not a possible number; ignored");
            PhoneNumber::parse(&number).inspect_err(unusable).ok()
        });
        Ok(Self {
            id: row.id.into(),
            organization_id: row.organization_id.into(),
            name: row.name,
            enabled: row.enabled,
            instructions: row.instructions,
            greeting: row.greeting,
            voice: row.voice,
            model: row.model,
            transcription_model: row.transcription_model,
            languages: row.languages,
            keywords: row.keywords,
            audio_format: audio_format.transpose()?,
            turn_detection: row.turn_detection.map(|Json(value)| value),
            tools: row.tools.0,
            transfer_number,
            fallback_sentence: row.fallback_sentence,
            max_duration: seconds(row.max_duration_s),
            nudge_after: seconds(row.nudge_after_s),
            max_nudges: row.max_nudges.unsigned_abs(),
            opt_out_digit: row.opt_out_digit.and_then(|digit| digit.chars().next()),
            calls_out: false,
            reversible_barge_in: row.reversible_barge_in,
            redact: Redaction::from_words(&row.redact),
        })
    }
}

/// Seconds out of a column that a check constraint keeps positive.
fn seconds(value: i32) -> Duration {
    Duration::from_secs(value.unsigned_abs().into())
}
