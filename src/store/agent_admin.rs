//! Agents as those see them who set them up.

use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::types::Json;
use uuid::Uuid;

use crate::ids::OrganizationId;
use crate::store::agents::HttpTool;
use crate::store::{Store, storable, storable_json};
use crate::wire::model::TurnDetection;

/// What there is to say of an agent.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Agent)]
pub struct AgentFields {
    /// For people.
    #[schema(example = "Receptionist")]
    pub name: String,
    /// The same agent at VAPI, for end-of-call reports that name it.
    pub vapi_assistant_id: Option<String>,
    /// Answers calls that name no agent; one agent of an organisation at most.
    pub is_default: bool,
    /// False: takes no new calls.
    pub enabled: bool,
    /// Who it is and how it behaves.
    #[schema(example = "You answer the telephone of a small company.")]
    pub instructions: String,
    /// How to open the call, as an instruction; null waits for the caller.
    #[schema(example = "Greet the caller in one short sentence.")]
    pub greeting: Option<String>,
    /// Provider's name of the voice.
    #[schema(example = "marin")]
    pub voice: String,
    /// Name of the model; null is the server's default.
    pub model: Option<String>,
    /// Name of the model that writes down the caller's words; null is the server's default.
    pub transcription_model: Option<String>,
    /// ISO 639-1 codes the caller may speak.
    #[schema(example = json!(["de", "en"]))]
    pub languages: Vec<String>,
    /// Names and terms likely to be said.
    pub keywords: Vec<String>,
    /// `pcm24k` or `pcmu`; null is the server's default.
    #[schema(example = "pcmu")]
    pub audio_format: Option<String>,
    /// How turns end, tagged by `type`; null is the server's default.
    #[schema(value_type = Option<Object>, example = json!({"type": "semantic_vad", "eagerness": "auto"}))]
    pub turn_detection: Option<TurnDetection>,
    /// HTTP functions on offer.
    pub tools: Vec<HttpTool>,
    /// A telephone to put the caller through to where there is no team, in E.164.
    #[schema(example = "+14155550177")]
    pub transfer_number: Option<String>,
    /// People to put the caller through to.
    pub team_id: Option<Uuid>,
    /// Spoken when the agent cannot go on.
    pub fallback_sentence: String,
    /// Longest call, in seconds.
    #[schema(example = 1800)]
    pub max_duration_s: i32,
    /// Silence of both sides, in seconds, after which it asks whether anybody is there.
    #[schema(example = 12)]
    pub nudge_after_s: i32,
    /// How often it asks before the call is ended.
    #[schema(example = 2)]
    pub max_nudges: i32,
    /// A sound over it pauses it, and only an interruption stops it; else any sound does.
    pub reversible_barge_in: bool,
    /// On calls that we make: the key, pressed alone, with which the other party says that they do not want to be called
    /// again.
    #[schema(example = "9")]
    pub opt_out_digit: Option<String>,
    /// What is taken out of words before anything of a call is stored.
    #[schema(example = json!(["payment_card", "card_security_code"]))]
    pub redact: Vec<String>,
}

/// An agent on record.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct AgentRecord {
    /// Id.
    pub id: Uuid,
    /// What there is to say of it.
    #[serde(flatten)]
    pub fields: AgentFields,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// What came of removing an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentDeleted {
    /// It is gone, and its calls with it.
    Done,
    /// There is no such agent in this organisation.
    NotFound,
    /// It answers calls that name no agent.
    IsDefault,
    /// It answers numbers.
    HasNumbers,
    /// Calls of the queue, of those that go on, or of a campaign that is not over name it.
    IsCalling,
}

/// Agents of the organisation by name, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<AgentRecord>, u64)> {
    let total = sqlx::query_scalar!(
        r#"select count(*) as "count!" from agents where organization_id = $1"#,
        organization.0
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    let mut connection = store.connection().await?;
    Ok((select(&mut connection, organization, None, limit, offset).await?, total.unsigned_abs()))
}

/// One agent.
pub async fn agent(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
) -> sqlx::Result<Option<AgentRecord>> {
    let mut connection = store.connection().await?;
    Ok(select(&mut connection, organization, Some(id), 1, 0).await?.pop())
}

async fn select(
    connection: &mut sqlx::PgConnection,
    organization: OrganizationId,
    id: Option<Uuid>,
    limit: u32,
    offset: u64,
) -> sqlx::Result<Vec<AgentRecord>> {
    let rows = sqlx::query!(
        r#"
        select id, name, vapi_assistant_id, is_default, enabled, instructions, greeting, voice, model,
               transcription_model, languages, keywords, audio_format,
               turn_detection as "turn_detection: Json<TurnDetection>", tools as "tools: Json<Vec<HttpTool>>",
               transfer_number, team_id, fallback_sentence, max_duration_s, nudge_after_s, max_nudges,
               reversible_barge_in, opt_out_digit, redact, created_at, updated_at
        from agents
        where organization_id = $1 and ($2::uuid is null or id = $2)
        order by name, id
        limit $3
        offset $4
        "#,
        organization.0,
        id,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(connection)
    .await?;
    let records = rows.into_iter().map(|row| AgentRecord {
        id: row.id,
        fields: AgentFields {
            name: row.name,
            vapi_assistant_id: row.vapi_assistant_id,
            is_default: row.is_default,
            enabled: row.enabled,
            instructions: row.instructions,
            greeting: row.greeting,
            voice: row.voice,
            model: row.model,
            transcription_model: row.transcription_model,
            languages: row.languages,
            keywords: row.keywords,
            audio_format: row.audio_format,
            turn_detection: row.turn_detection.map(|Json(value)| value),
            tools: row.tools.0,
            transfer_number: row.transfer_number,
            team_id: row.team_id,
            fallback_sentence: row.fallback_sentence,
            max_duration_s: row.max_duration_s,
            nudge_after_s: row.nudge_after_s,
            max_nudges: row.max_nudges,
            reversible_barge_in: row.reversible_barge_in,
            opt_out_digit: row.opt_out_digit,
            redact: row.redact,
        },
        created_at: row.created_at.to_jiff(),
        updated_at: row.updated_at.to_jiff(),
    });
    Ok(records.collect())
}

/// Adds an agent. One that is the default takes that over from another. Fails by `agents_team` when the team is not of
/// this organisation.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    fields: &AgentFields,
) -> sqlx::Result<Option<AgentRecord>> {
    let id = Uuid::now_v7();
    let mut transaction = store.begin().await?;
    sqlx::query!(
        "insert into agents (id, organization_id, name, instructions) values ($1, $2, '', '')",
        id,
        organization.0,
    )
    .execute(&mut *transaction)
    .await?;
    write(&mut transaction, organization, id, fields).await?;
    let record = select(&mut transaction, organization, Some(id), 1, 0).await?.pop();
    transaction.commit().await?;
    Ok(record)
}

/// Lets `change` edit an agent, which nobody else does meanwhile. `None`: no such agent in this organisation.
pub async fn update<E: From<sqlx::Error>>(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
    change: impl FnOnce(&mut AgentFields) -> Result<(), E>,
) -> Result<Option<AgentRecord>, E> {
    let mut transaction = store.begin().await?;
    if !lock(&mut transaction, organization, id).await? {
        return Ok(None);
    }
    let Some(mut record) = select(&mut transaction, organization, Some(id), 1, 0).await?.pop() else {
        return Ok(None);
    };
    change(&mut record.fields)?;
    write(&mut transaction, organization, id, &record.fields).await?;
    let record = select(&mut transaction, organization, Some(id), 1, 0).await?.pop();
    transaction.commit().await?;
    Ok(record)
}

/// Removes an agent, and its calls with it. An agent that speaks with somebody, or is about to call people, stays.
pub async fn delete(store: &Store, organization: OrganizationId, id: Uuid) -> sqlx::Result<AgentDeleted> {
    let mut transaction = store.begin().await?;
    if !lock(&mut transaction, organization, id).await? {
        return Ok(AgentDeleted::NotFound);
    }
    let needed = sqlx::query!(
        r#"
        select is_default,
               exists (select from phone_numbers where agent_id = $1) as "has_numbers!"
        from agents
        where id = $1
        "#,
        id,
    )
    .fetch_one(&mut *transaction)
    .await?;
    if needed.is_default {
        return Ok(AgentDeleted::IsDefault);
    }
    if needed.has_numbers {
        return Ok(AgentDeleted::HasNumbers);
    }
    if is_calling(&mut transaction, id).await? {
        return Ok(AgentDeleted::IsCalling);
    }
    sqlx::query!("delete from agents where id = $1", id).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(AgentDeleted::Done)
}

/// Whether calls go on, are being made or will be made that name it. Whoever adds one waits for the agent's row, which is locked.
async fn is_calling(transaction: &mut sqlx::PgConnection, id: Uuid) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"
        select exists (select from call_attempts where agent_id = $1 and status <> 'ended')
            or exists (select from call_queue where agent_id = $1 and status in ('queued', 'processing'))
            or exists (select from campaigns where agent_id = $1 and status in ('active', 'paused'))
            or exists (select from call_leases where agent_id = $1 and ended_at is null and call_is_live(call_sid)) as "is_calling!"
        "#,
        id,
    )
    .fetch_one(&mut *transaction)
    .await
}

/// Keeps others from changing it, and numbers from being given to it. False: there is no such agent.
async fn lock(
    transaction: &mut sqlx::PgConnection,
    organization: OrganizationId,
    id: Uuid,
) -> sqlx::Result<bool> {
    let found = sqlx::query_scalar!(
        "select id from agents where organization_id = $1 and id = $2 for update",
        organization.0,
        id,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    Ok(found.is_some())
}

async fn write(
    transaction: &mut sqlx::PgConnection,
    organization: OrganizationId,
    id: Uuid,
    fields: &AgentFields,
) -> sqlx::Result<()> {
    if fields.is_default {
        sqlx::query!(
            "update agents set is_default = false where organization_id = $1 and is_default and id <> $2",
            organization.0,
            id,
        )
        .execute(&mut *transaction)
        .await?;
    }
    let texts = |texts: &[String]| texts.iter().map(storable).collect::<Vec<_>>();
    let text = |text: &Option<String>| text.as_deref().map(storable);
    sqlx::query!(
        r#"
        update agents
        set name = $2,
            vapi_assistant_id = $3,
            is_default = $4,
            enabled = $5,
            instructions = $6,
            greeting = $7,
            voice = $8,
            model = $9,
            transcription_model = $10,
            languages = $11,
            keywords = $12,
            audio_format = $13,
            turn_detection = $14,
            tools = $15,
            transfer_number = $16,
            team_id = $17,
            fallback_sentence = $18,
            max_duration_s = $19,
            nudge_after_s = $20,
            max_nudges = $21,
            reversible_barge_in = $22,
            opt_out_digit = $23,
            redact = $24,
            updated_at = now()
        where id = $1
        "#,
        id,
        storable(&fields.name),
        text(&fields.vapi_assistant_id),
        fields.is_default,
        fields.enabled,
        storable(&fields.instructions),
        text(&fields.greeting),
        storable(&fields.voice),
        text(&fields.model),
        text(&fields.transcription_model),
        &texts(&fields.languages),
        &texts(&fields.keywords),
        fields.audio_format,
        fields.turn_detection.as_ref().map(|detection| json!(detection)),
        tools(&fields.tools),
        fields.transfer_number,
        fields.team_id,
        storable(&fields.fallback_sentence),
        fields.max_duration_s,
        fields.nudge_after_s,
        fields.max_nudges,
        fields.reversible_barge_in,
        fields.opt_out_digit,
        &fields.redact,
    )
    .execute(&mut *transaction)
    .await?;
    Ok(())
}

/// With their secrets, which are nowhere else.
fn tools(tools: &[HttpTool]) -> Value {
    let with_secret = |tool: &HttpTool| {
        let mut value = json!(tool);
        if let Some(header) = &tool.secret_header {
            value["secret_header"]["value"] = json!(header.value.expose_secret());
        }
        storable_json(value)
    };
    tools.iter().map(with_secret).collect()
}
