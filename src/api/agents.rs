//! Voice agents: what the model is told and what one call may do.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::auth::Caller;
use crate::api::body::{Problems, present};
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::inbound::agent_changed;
use crate::api::routes::Routes;
use crate::audio::AudioFormat;
use crate::bridge::http_tools;
use crate::call::tools::built_in;
use crate::redact::Kind;
use crate::store::agent_admin::{self, AgentDeleted, AgentFields, AgentRecord};
use crate::store::agents::{HttpTool, SecretHeader, default_timeout_ms};
use crate::wire::model::TurnDetection;

// Longest texts, in characters. Instructions and greetings are paid for with every turn.
const NAME: usize = 200;
const INSTRUCTIONS: usize = 50_000;
const GREETING: usize = 5_000;
const SENTENCE: usize = 1_000;
// The provider takes no more functions than this in one session, nor other names.
const MOST_TOOLS: usize = 128;
const TOOL_NAME: usize = 64;

/// Routes of agents.
pub fn router() -> Routes {
    Routes::new()
        .read(routes!(list_agents))
        .admin(routes!(create_agent))
        .read(routes!(agent))
        .admin(routes!(update_agent, delete_agent))
}

/// What to say of an agent. A member that is absent stays as it is, or of a new agent is as the server has it; `null`
/// empties it where it may be empty. A new agent needs `name` and `instructions`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "name": "Receptionist", "instructions": "You answer the telephone of a small company.", "voice": "marin",
    "languages": ["de", "en"], "transfer_number": "+14155550177",
    "tools": [{"name": "opening_hours", "description": "When we are open.", "parameters": {"type": "object"},
               "url": "https://example.com/hours", "secret_header": {"name": "X-Key", "value": "secret"}}]
}))]
pub struct EditAgent {
    /// For people.
    pub name: Option<String>,
    /// The same agent at VAPI, for end-of-call reports that name it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub vapi_assistant_id: Option<Option<String>>,
    /// True makes it the one that answers calls which name no agent, instead of the one that does.
    pub is_default: Option<bool>,
    /// False: takes no new calls.
    pub enabled: Option<bool>,
    /// Who it is and how it behaves.
    pub instructions: Option<String>,
    /// How to open the call, as an instruction; null waits for the caller.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub greeting: Option<Option<String>>,
    /// Provider's name of the voice.
    pub voice: Option<String>,
    /// Name of the model.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub model: Option<Option<String>>,
    /// Name of the model that writes down the caller's words.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub transcription_model: Option<Option<String>>,
    /// ISO 639-1 codes the caller may speak.
    pub languages: Option<Vec<String>>,
    /// Names and terms likely to be said.
    pub keywords: Option<Vec<String>>,
    /// `pcm24k` or `pcmu`.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub audio_format: Option<Option<String>>,
    /// How turns end, tagged by `type`: `server_vad` or `semantic_vad`.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Object>)]
    pub turn_detection: Option<Option<TurnDetection>>,
    /// HTTP functions on offer, all of them.
    pub tools: Option<Vec<EditTool>>,
    /// A telephone to put the caller through to where there is no team, with `+` and country code.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub transfer_number: Option<Option<String>>,
    /// People to put the caller through to.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Uuid>)]
    pub team_id: Option<Option<Uuid>>,
    /// Spoken when the agent cannot go on.
    pub fallback_sentence: Option<String>,
    /// Longest call in seconds, 1 to 14400.
    pub max_duration_s: Option<i32>,
    /// Silence of both sides, in seconds, after which it asks whether anybody is there, 1 to 3600.
    pub nudge_after_s: Option<i32>,
    /// How often it asks before the call is ended, 0 to 100.
    pub max_nudges: Option<i32>,
    /// A sound over it pauses it, and only an interruption stops it; else any sound does.
    pub reversible_barge_in: Option<bool>,
    /// On calls that we make: the key, alone, with which the other party says that they do not want to be called again; `null`
    /// is none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, example = "9")]
    pub opt_out_digit: Option<Option<String>>,
    /// What is taken out of words before anything of a call is stored, all of it: `payment_card`, `card_security_code`, `iban`,
    /// `us_ssn`, `email`, `phone_number`. A placeholder such as `[payment card]` is stored instead. The model hears all.
    #[schema(example = json!(["payment_card", "card_security_code"]))]
    pub redact: Option<Vec<String>>,
}

/// A function of an agent that an HTTP server answers.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditTool {
    /// Name the model uses.
    #[schema(example = "opening_hours")]
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema of the arguments.
    #[schema(value_type = Object)]
    pub parameters: Value,
    /// Where the arguments are posted: https, or http to the server's own machine.
    pub url: String,
    /// How long the answer may take, in milliseconds, up to 60000.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Proves to that server that we are asking.
    #[serde(default)]
    pub secret_header: Option<EditHeader>,
}

/// A request header with a secret value.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditHeader {
    /// Its name.
    #[schema(example = "X-Key")]
    pub name: String,
    /// Its value, which is never shown; absent keeps the one that the function of this name and address has.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    pub value: Option<SecretString>,
}

/// Agents, by name.
#[utoipa::path(
    get, path = "/api/agents", tag = "agents", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<AgentRecord>), Failures),
)]
async fn list_agents(
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Listing<AgentRecord>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = agent_admin::list(&caller.store, caller.organization, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Adds an agent.
#[utoipa::path(
    post, path = "/api/agents", tag = "agents", request_body = EditAgent,
    responses(
        (status = 201, description = "The new agent", body = Success<AgentRecord>, headers(("Location" = String, description = "The agent"))),
        (status = 409, description = "`default_agent`: another agent became the default at the same time", body = Failure),
        Failures,
    ),
)]
async fn create_agent(
    State(api): State<Api>,
    caller: Caller,
    Json(body): Json<EditAgent>,
) -> Result<impl IntoResponse, ApiError> {
    let mut problems = Problems::default();
    for (field, absent) in [("name", body.name.is_none()), ("instructions", body.instructions.is_none())] {
        if absent {
            problems.note(field, "is needed");
        }
    }
    problems.none()?;
    let mut fields = unconfigured();
    body.apply(&mut fields)?;
    let record = agent_admin::create(&caller.store, caller.organization, &fields).await?.ok_or_else(gone)?;
    caller.keep().await?;
    agent_changed(&api, record.id).await;
    let location = format!("/api/agents/{}", record.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Success::new(record)))
}

/// An agent.
#[utoipa::path(
    get, path = "/api/agents/{id}", tag = "agents", params(("id" = Uuid, Path, description = "The agent")),
    responses((status = 200, description = "The agent as it is now", body = Success<AgentRecord>), Failures),
)]
async fn agent(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<AgentRecord>, ApiError> {
    found(agent_admin::agent(&caller.store, caller.organization, id).await?)
}

/// Changes what the body names. The next call goes by it.
#[utoipa::path(
    patch, path = "/api/agents/{id}", tag = "agents", params(("id" = Uuid, Path, description = "The agent")),
    request_body = EditAgent,
    responses(
        (status = 200, description = "The agent as it is now", body = Success<AgentRecord>),
        (status = 409, description = "`default_agent`: calls that name no agent need one", body = Failure),
        Failures,
    ),
)]
async fn update_agent(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<EditAgent>,
) -> Result<Success<AgentRecord>, ApiError> {
    let edited =
        agent_admin::update(&caller.store, caller.organization, id, |fields| body.apply(fields)).await?;
    if edited.is_some() {
        caller.keep().await?;
        agent_changed(&api, id).await;
    }
    found(edited)
}

/// Removes an agent that is not the default, answers no number and calls nobody, and its calls with it.
#[utoipa::path(
    delete, path = "/api/agents/{id}", tag = "agents", params(("id" = Uuid, Path, description = "The agent")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "It is the default agent, answers numbers, or has calls", body = Failure),
        Failures,
    ),
)]
async fn delete_agent(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, ApiError> {
    match agent_admin::delete(&caller.store, caller.organization, id).await? {
        AgentDeleted::Done => {
            caller.keep().await?;
            agent_changed(&api, id).await;
            Ok(StatusCode::NO_CONTENT)
        }
        AgentDeleted::NotFound => Err(gone()),
        AgentDeleted::IsDefault => Err(ApiError::conflict(
            "default_agent",
            "this is the default agent; make another one the default first",
        )),
        AgentDeleted::HasNumbers => Err(ApiError::conflict(
            "in_use",
            "this agent answers phone numbers; give them to another agent first",
        )),
        AgentDeleted::IsCalling => Err(ApiError::conflict(
            "in_use",
            "this agent has calls that go on, wait in the queue, or belong to a campaign that is active or paused; \
             end or cancel them, and complete its campaigns or give them to another agent, first",
        )),
    }
}

fn found(record: Option<AgentRecord>) -> Result<Success<AgentRecord>, ApiError> {
    record.map(Success::new).ok_or_else(gone)
}

fn gone() -> ApiError {
    ApiError::not_found("there is no such agent")
}

/// A new agent of which nothing has been said, as the columns of `agents` have it.
fn unconfigured() -> AgentFields {
    AgentFields {
        name: String::new(),
        vapi_assistant_id: None,
        is_default: false,
        enabled: true,
        instructions: String::new(),
        greeting: None,
        voice: "marin".to_owned(),
        model: None,
        transcription_model: None,
        languages: Vec::new(),
        keywords: Vec::new(),
        audio_format: None,
        turn_detection: None,
        tools: Vec::new(),
        transfer_number: None,
        team_id: None,
        fallback_sentence: "Sorry, something went wrong on our side. Please call again later.".to_owned(),
        max_duration_s: 1800,
        nudge_after_s: 12,
        max_nudges: 2,
        reversible_barge_in: true,
        opt_out_digit: Some("9".to_owned()),
        redact: Vec::new(),
    }
}

impl EditAgent {
    /// Edits what is named, or says all that is wrong with it.
    fn apply(self, fields: &mut AgentFields) -> Result<(), ApiError> {
        if self.is_default == Some(false) && fields.is_default {
            let message = "calls that name no agent need one; make another agent the default instead";
            return Err(ApiError::conflict("default_agent", message));
        }
        let mut problems = Problems::default();
        put(&mut fields.is_default, self.is_default);
        put(&mut fields.enabled, self.enabled);
        put(&mut fields.reversible_barge_in, self.reversible_barge_in);
        put(&mut fields.team_id, self.team_id);
        put(&mut fields.turn_detection, self.turn_detection);
        put(&mut fields.name, self.name);
        put(&mut fields.instructions, self.instructions);
        put(&mut fields.voice, self.voice);
        put(&mut fields.fallback_sentence, self.fallback_sentence);
        put(&mut fields.vapi_assistant_id, self.vapi_assistant_id);
        put(&mut fields.greeting, self.greeting);
        put(&mut fields.model, self.model);
        put(&mut fields.transcription_model, self.transcription_model);
        put(&mut fields.languages, self.languages);
        put(&mut fields.keywords, self.keywords);
        put(&mut fields.audio_format, self.audio_format);
        put(&mut fields.opt_out_digit, self.opt_out_digit);
        put(&mut fields.max_duration_s, self.max_duration_s);
        put(&mut fields.nudge_after_s, self.nudge_after_s);
        put(&mut fields.max_nudges, self.max_nudges);
        if let Some(number) = self.transfer_number {
            let number = number.and_then(|number| problems.number("transfer_number", &number));
            fields.transfer_number = number.map(|number| number.expose().to_owned());
        }
        if let Some(mut kinds) = self.redact {
            kinds.dedup();
            check_kinds(&mut problems, &kinds);
            fields.redact = kinds;
        }
        if let Some(tools) = self.tools {
            fields.tools = with_secrets(tools, &fields.tools, &mut problems);
            check_tools(&mut problems, &fields.tools);
        }
        check_texts(&mut problems, fields);
        check_rest(&mut problems, fields);
        problems.none()
    }
}

fn check_kinds(problems: &mut Problems, kinds: &[String]) {
    let known = Kind::ALL.map(Kind::as_str);
    problems.count("redact", kinds.len(), known.len());
    for (index, kind) in kinds.iter().enumerate().take(known.len()) {
        if Kind::from_word(kind).is_none() {
            problems.note(&format!("redact[{index}]"), &format!("must be one of: {}", known.join(", ")));
        }
    }
}

fn put<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn check_texts(problems: &mut Problems, fields: &AgentFields) {
    let optional = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for (field, text, least, most) in [
        ("name", fields.name.clone(), 1, NAME),
        ("instructions", fields.instructions.clone(), 1, INSTRUCTIONS),
        ("voice", fields.voice.clone(), 1, NAME),
        ("fallback_sentence", fields.fallback_sentence.clone(), 1, SENTENCE),
        ("greeting", optional(&fields.greeting), 1, GREETING),
        ("vapi_assistant_id", optional(&fields.vapi_assistant_id), 1, NAME),
        ("model", optional(&fields.model), 1, NAME),
        ("transcription_model", optional(&fields.transcription_model), 1, NAME),
    ] {
        problems.length(field, &text, least, most);
    }
    problems.count("languages", fields.languages.len(), 50);
    for (index, code) in fields.languages.iter().enumerate() {
        if code.len() != 2 || !code.bytes().all(|byte| byte.is_ascii_lowercase()) {
            problems.note(&format!("languages[{index}]"), "must be an ISO 639-1 code such as de");
        }
    }
    problems.count("keywords", fields.keywords.len(), 200);
    for (index, word) in fields.keywords.iter().enumerate() {
        problems.length(&format!("keywords[{index}]"), word, 1, 100);
    }
}

fn check_rest(problems: &mut Problems, fields: &AgentFields) {
    if let Some(Err(problem)) = fields.audio_format.as_ref().map(|word| word.parse::<AudioFormat>()) {
        problems.note("audio_format", &problem);
    }
    let is_key = |key: &String| matches!(key.as_bytes(), [b'0'..=b'9' | b'*' | b'#']);
    if fields.opt_out_digit.as_ref().is_some_and(|key| !is_key(key)) {
        problems.note("opt_out_digit", "must be one key: 0 to 9, * or #");
    }
    match &fields.turn_detection {
        Some(TurnDetection::ServerVad { threshold, .. }) if !(0.0..=1.0).contains(threshold) => {
            problems.note("turn_detection.threshold", "must be 0 to 1");
        }
        Some(TurnDetection::SemanticVad { eagerness })
            if !["low", "medium", "high", "auto"].contains(&&**eagerness) =>
        {
            problems.note("turn_detection.eagerness", "must be low, medium, high or auto");
        }
        _ => {}
    }
    problems.range("max_duration_s", fields.max_duration_s, 1, 14_400);
    problems.range("nudge_after_s", fields.nudge_after_s, 1, 3_600);
    problems.range("max_nudges", fields.max_nudges, 0, 100);
}

/// The functions, with the secrets they have already where no new ones are given.
fn with_secrets(tools: Vec<EditTool>, known: &[HttpTool], problems: &mut Problems) -> Vec<HttpTool> {
    let mut whole = Vec::new();
    for (index, tool) in tools.into_iter().enumerate() {
        let EditTool { name, description, parameters, url, timeout_ms, secret_header } = tool;
        let stored = known.iter().find(|known| known.name == name && known.url == url);
        let stored = stored.and_then(|known| known.secret_header.as_ref());
        let secret_header = secret_header.and_then(|EditHeader { name, value }| {
            let kept = || stored.filter(|stored| stored.name == name).map(|stored| stored.value.clone());
            let Some(value) = value.or_else(kept) else {
                problems.note(
                    &format!("tools[{index}].secret_header.value"),
                    "is needed, because there is none yet",
                );
                return None;
            };
            Some(SecretHeader { name, value })
        });
        whole.push(HttpTool { name, description, parameters, url, timeout_ms, secret_header });
    }
    whole
}

fn check_tools(problems: &mut Problems, tools: &[HttpTool]) {
    problems.count("tools", tools.len(), MOST_TOOLS);
    let built_in = built_in();
    for (index, tool) in tools.iter().enumerate().take(MOST_TOOLS) {
        let field = format!("tools[{index}]");
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if tool.name.is_empty() || tool.name.len() > TOOL_NAME || !tool.name.chars().all(allowed) {
            problems.note(&format!("{field}.name"), "must have 1 to 64 letters, digits, _ or -");
        }
        if let Some(other) = tools[..index].iter().position(|other| other.name == tool.name) {
            problems.note(&format!("{field}.name"), &format!("is the name of tools[{other}]"));
        }
        if built_in.iter().any(|ours| ours.name == tool.name) {
            problems.note(&format!("{field}.name"), "is the name of a function that every agent has");
        }
        problems.length(&format!("{field}.description"), &tool.description, 1, SENTENCE);
        if !(1..=60_000).contains(&tool.timeout_ms) {
            problems.note(&format!("{field}.timeout_ms"), "must be 1 to 60000");
        }
        if let Err(problem) = http_tools::check(tool) {
            problems.note(&field, &problem.to_string());
        }
    }
}
