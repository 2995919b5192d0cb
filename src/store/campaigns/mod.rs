//! Many leads called with one aim.

mod life;
mod stats;

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::ids::{AgentId, OrganizationId, PhoneNumberId};
use crate::outreach::campaign::{CampaignStatus, StepError};
use crate::outreach::retry::{Outcome, VoicemailPolicy, stored_delays};
use crate::outreach::window::{TimeOfDay, Weekdays, Window};
use crate::store::{Store, call_queue, decoded, storable, storable_json};

pub use self::life::{complete_over, delete, fail_left_over, step};
pub use self::stats::{Stats, stats};

/// A campaign with its counters, which always equal what the records of its calls say.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Campaign {
    /// Our id.
    pub id: Uuid,
    /// Where it is in its life.
    pub status: CampaignStatus,
    /// What somebody chose for it.
    #[serde(flatten)]
    pub settings: Settings,
    /// Calls the carrier took.
    pub total_calls: i32,
    /// Those that somebody or something answered.
    pub answered_calls: i32,
    /// Those that people took over.
    pub transferred_calls: i32,
    /// Those with a sentiment score.
    pub scored_calls: i32,
    /// Average over those.
    pub avg_sentiment_score: Option<f64>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was over.
    pub completed_at: Option<Timestamp>,
}

/// What somebody chooses for a campaign.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Settings {
    /// Name.
    #[schema(example = "Spring renewals")]
    pub name: String,
    /// Free text.
    pub description: String,
    /// The project it is of.
    pub project_id: Option<Uuid>,
    /// First day, by the calendar where the lead is; null is no limit.
    pub start_date: Option<Date>,
    /// Last day, itself included; null is no limit.
    pub end_date: Option<Date>,
    /// Nobody is called before, by the clock where the lead is.
    #[schema(value_type = String, example = "09:00")]
    pub time_start: TimeOfDay,
    /// Nobody is called then or after; `24:00` is the end of the day.
    #[schema(value_type = String, example = "20:00")]
    pub time_end: TimeOfDay,
    /// Days on which calls are made; 1 is Monday, 7 is Sunday.
    #[schema(value_type = Vec<i16>, example = json!([1, 2, 3, 4, 5]))]
    pub weekdays: Weekdays,
    /// Whatever you want to keep with it.
    #[schema(value_type = Object)]
    pub metadata: Value,
    /// Who speaks; null is the default agent.
    #[schema(value_type = Option<Uuid>)]
    pub agent_id: Option<AgentId>,
    /// Our number that shows; null is any.
    #[schema(value_type = Option<Uuid>)]
    pub phone_number_id: Option<PhoneNumberId>,
    /// What the calls are about, for the agent.
    pub message: Option<String>,
    /// Tries to reach a lead, in all.
    pub max_attempts: i32,
    /// Calls to one lead within one day of its own calendar.
    pub max_attempts_per_day: i32,
    /// Calls at a time.
    pub max_concurrent_calls: i32,
    /// Seconds to wait after an outcome; one that is missing is not tried again, but for `not_placed`, which then waits for five
    /// minutes.
    #[schema(value_type = Object, example = json!({"busy": 900, "no_answer": 7200}))]
    pub retry_delays_s: BTreeMap<Outcome, u32>,
    /// What is done when a machine answers: `hang_up`, `leave_message` or `retry`.
    #[schema(value_type = String, example = "hang_up")]
    pub voicemail_policy: VoicemailPolicy,
    /// What a machine is told.
    pub voicemail_message: Option<String>,
    /// Seconds to let it ring.
    pub ring_timeout_s: i32,
}

/// Why a campaign is not what is wanted.
#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    /// No such campaign in this organisation.
    #[error("there is no such campaign")]
    NotFound,
    /// It does not go that way.
    #[error(transparent)]
    Step(#[from] StepError),
    /// It calls.
    #[error("the campaign is active; pause or complete it first")]
    Active,
    /// Calls of it are being made.
    #[error("calls of this campaign are going on; wait for their end")]
    CallsGoingOn,
    /// Its last day is over.
    #[error("the last day of the campaign is over everywhere; move `end_date` first")]
    Over,
    /// Nobody speaks.
    #[error(
        "the campaign has no agent that is enabled, and there is no default agent that is; give it an `agent_id`"
    )]
    NoAgent,
    /// Nothing to call from.
    #[error("there is no number to call from; add one of your carrier's numbers to phone_numbers first")]
    NoOwnNumber,
    /// Something it refers to is not there.
    #[error("there is no such {what}")]
    Unknown {
        /// What.
        what: &'static str,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Campaigns of the organisation, newest first, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    status: Option<CampaignStatus>,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<Campaign>, u64)> {
    let total = sqlx::query_scalar!(
        r#"
        select count(*) as "count!"
        from campaigns
        where organization_id = $1 and ($2::text is null or status = $2)
        "#,
        organization.0,
        status.map(CampaignStatus::as_str),
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    let mut connection = store.connection().await?;
    let campaigns = select(&mut connection, organization, None, status, limit, offset).await?;
    Ok((campaigns, total.unsigned_abs()))
}

/// One campaign.
pub async fn campaign(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
) -> sqlx::Result<Option<Campaign>> {
    one(&mut *store.connection().await?, organization, id).await
}

/// Creates a draft.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    settings: &Settings,
) -> Result<Campaign, CampaignError> {
    let mut transaction = store.begin().await?;
    let id = sqlx::query_scalar!(
        "insert into campaigns (organization_id, name) values ($1, $2) returning id",
        organization.0,
        storable(&settings.name),
    )
    .fetch_one(&mut *transaction)
    .await?;
    let campaign = write(&mut transaction, organization, id, settings).await?;
    transaction.commit().await?;
    Ok(campaign)
}

/// Changes a campaign that is not completed. What `change` refuses stays as it was.
///
/// Calls that wait for other hours than the campaign now has are looked at again at once, and tries that are left follow the
/// campaign's, unless a row was given more: both some rows at a time, after the campaign itself is written. What fails then
/// leaves the campaign changed.
pub async fn edit<E: From<CampaignError>>(
    store: &Store,
    organization: OrganizationId,
    id: Uuid,
    change: impl FnOnce(&mut Settings) -> Result<(), E>,
) -> Result<Campaign, E> {
    let database = |error: sqlx::Error| E::from(CampaignError::Database(error));
    let mut transaction = store.begin_alone().await.map_err(database)?;
    let campaign = lock(&mut transaction, organization, id).await?;
    if campaign.status == CampaignStatus::Completed {
        return Err(CampaignError::Step(StepError::Completed).into());
    }
    let before = campaign.settings;
    let mut settings = before.clone();
    change(&mut settings)?;
    let campaign = write(&mut transaction, organization, id, &settings).await?;
    transaction.commit().await.map_err(database)?;
    if before.max_attempts != settings.max_attempts {
        call_queue::limit_attempts(store, id, before.max_attempts).await.map_err(database)?;
    }
    if before.when_to_call() != settings.when_to_call() {
        call_queue::reconsider_campaign(store, id).await.map_err(database)?;
    }
    Ok(campaign)
}

/// The campaign, which nobody else changes until the transaction is over.
async fn lock(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: Uuid,
) -> Result<Campaign, CampaignError> {
    sqlx::query!(
        "select id from campaigns where organization_id = $1 and id = $2 for no key update",
        organization.0,
        id,
    )
    .fetch_optional(&mut *connection)
    .await?;
    one(connection, organization, id).await?.ok_or(CampaignError::NotFound)
}

/// Writes all settings.
async fn write(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: Uuid,
    settings: &Settings,
) -> Result<Campaign, CampaignError> {
    check_references(connection, organization, settings).await?;
    sqlx::query!(
        r#"
        update campaigns
        set name = $3,
            description = $4,
            project_id = $5,
            start_date = $6,
            end_date = $7,
            time_start = $8::text::time,
            time_end = $9::text::time,
            weekdays = $10,
            metadata = $11,
            agent_id = $12,
            phone_number_id = $13,
            message = $14,
            max_attempts = $15,
            max_attempts_per_day = $16,
            max_concurrent_calls = $17,
            retry_delays_s = $18,
            voicemail_policy = $19,
            voicemail_message = $20,
            ring_timeout_s = $21,
            updated_at = now()
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        id,
        storable(&settings.name),
        storable(&settings.description),
        settings.project_id,
        settings.start_date.map(ToSqlx::to_sqlx) as _,
        settings.end_date.map(ToSqlx::to_sqlx) as _,
        settings.time_start.to_string(),
        settings.time_end.to_string(),
        &settings.weekdays.numbers(),
        storable_json(settings.metadata.clone()),
        settings.agent_id.map(|agent| agent.0),
        settings.phone_number_id.map(|number| number.0),
        settings.message.as_deref().map(storable),
        settings.max_attempts,
        settings.max_attempts_per_day,
        settings.max_concurrent_calls,
        decoded(serde_json::to_value(&settings.retry_delays_s))?,
        settings.voicemail_policy.as_str(),
        settings.voicemail_message.as_deref().map(storable),
        settings.ring_timeout_s,
    )
    .execute(&mut *connection)
    .await?;
    one(connection, organization, id).await?.ok_or(CampaignError::NotFound)
}

async fn check_references(
    connection: &mut PgConnection,
    organization: OrganizationId,
    settings: &Settings,
) -> Result<(), CampaignError> {
    let there = sqlx::query!(
        r#"
        select $2::uuid is null
               or exists (select from projects where organization_id = $1 and id = $2) as "project!",
               $3::uuid is null
               or exists (select from agents where organization_id = $1 and id = $3) as "agent!",
               $4::uuid is null
               or exists (select from phone_numbers where organization_id = $1 and id = $4) as "phone_number!"
        "#,
        organization.0,
        settings.project_id,
        settings.agent_id.map(|agent| agent.0),
        settings.phone_number_id.map(|number| number.0),
    )
    .fetch_one(connection)
    .await?;
    let missing = [
        ("project", there.project),
        ("agent", there.agent),
        ("phone number of your own", there.phone_number),
    ]
    .into_iter()
    .find(|(_, there)| !there);
    missing.map_or(Ok(()), |(what, _)| Err(CampaignError::Unknown { what }))
}

async fn one(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: Uuid,
) -> sqlx::Result<Option<Campaign>> {
    Ok(select(connection, organization, Some(id), None, 1, 0).await?.pop())
}

async fn select(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: Option<Uuid>,
    status: Option<CampaignStatus>,
    limit: u32,
    offset: u64,
) -> sqlx::Result<Vec<Campaign>> {
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id,
               project_id,
               name,
               description,
               status,
               start_date as "start_date: jiff_sqlx::Date",
               end_date as "end_date: jiff_sqlx::Date",
               time_start::text as "time_start!",
               time_end::text as "time_end!",
               weekdays,
               total_calls,
               answered_calls,
               transferred_calls,
               scored_calls,
               avg_sentiment_score::float8,
               metadata,
               agent_id,
               phone_number_id,
               message,
               max_attempts,
               max_attempts_per_day,
               max_concurrent_calls,
               retry_delays_s,
               voicemail_policy,
               voicemail_message,
               ring_timeout_s,
               created_at,
               updated_at,
               completed_at
        from campaigns
        where organization_id = $1
          and ($2::uuid is null or id = $2)
          and ($3::text is null or status = $3)
        order by created_at desc, id
        limit $4
        offset $5
        "#,
        organization.0,
        id,
        status.map(CampaignStatus::as_str),
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Campaign::try_from).collect()
}

/// A campaign as its columns are.
struct Row {
    id: Uuid,
    project_id: Option<Uuid>,
    name: String,
    description: String,
    status: String,
    start_date: Option<jiff_sqlx::Date>,
    end_date: Option<jiff_sqlx::Date>,
    time_start: String,
    time_end: String,
    weekdays: Vec<i16>,
    total_calls: i32,
    answered_calls: i32,
    transferred_calls: i32,
    scored_calls: i32,
    avg_sentiment_score: Option<f64>,
    metadata: Value,
    agent_id: Option<Uuid>,
    phone_number_id: Option<Uuid>,
    message: Option<String>,
    max_attempts: i32,
    max_attempts_per_day: i32,
    max_concurrent_calls: i32,
    retry_delays_s: Value,
    voicemail_policy: String,
    voicemail_message: Option<String>,
    ring_timeout_s: i32,
    created_at: jiff_sqlx::Timestamp,
    updated_at: jiff_sqlx::Timestamp,
    completed_at: Option<jiff_sqlx::Timestamp>,
}

impl TryFrom<Row> for Campaign {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> sqlx::Result<Self> {
        let settings = Settings {
            name: row.name,
            description: row.description,
            project_id: row.project_id,
            start_date: row.start_date.map(jiff_sqlx::Date::to_jiff),
            end_date: row.end_date.map(jiff_sqlx::Date::to_jiff),
            time_start: decoded(TimeOfDay::parse(&row.time_start))?,
            time_end: decoded(TimeOfDay::parse(&row.time_end))?,
            weekdays: decoded(Weekdays::from_numbers(&row.weekdays))?,
            metadata: row.metadata,
            agent_id: row.agent_id.map(AgentId),
            phone_number_id: row.phone_number_id.map(PhoneNumberId),
            message: row.message,
            max_attempts: row.max_attempts,
            max_attempts_per_day: row.max_attempts_per_day,
            max_concurrent_calls: row.max_concurrent_calls,
            retry_delays_s: delays(&row.retry_delays_s),
            voicemail_policy: VoicemailPolicy::from_word(&row.voicemail_policy).unwrap_or_default(),
            voicemail_message: row.voicemail_message,
            ring_timeout_s: row.ring_timeout_s,
        };
        Ok(Self {
            id: row.id,
            // The table knows no other words; one that did would call nobody.
            status: CampaignStatus::from_word(&row.status).unwrap_or(CampaignStatus::Paused),
            settings,
            total_calls: row.total_calls,
            answered_calls: row.answered_calls,
            transferred_calls: row.transferred_calls,
            scored_calls: row.scored_calls,
            avg_sentiment_score: row.avg_sentiment_score,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
            completed_at: row.completed_at.map(jiff_sqlx::Timestamp::to_jiff),
        })
    }
}

/// In seconds, as far as they are that few.
fn delays(value: &Value) -> BTreeMap<Outcome, u32> {
    let delays = stored_delays(value).into_iter();
    delays.filter_map(|(outcome, delay)| Some((outcome, u32::try_from(delay.as_secs()).ok()?))).collect()
}

impl Settings {
    /// Days and hours of calling.
    #[must_use]
    pub const fn window(&self) -> Window {
        Window {
            first_day: self.start_date,
            last_day: self.end_date,
            opens: self.time_start,
            closes: self.time_end,
            weekdays: self.weekdays,
        }
    }

    /// All that makes a claim put a row off until a later moment: days and hours, calls of a day, and who is missing to speak.
    const fn when_to_call(&self) -> (Window, i32, Option<AgentId>) {
        (self.window(), self.max_attempts_per_day, self.agent_id)
    }

    /// What a campaign is that says no more than its name; the table says the same.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let delay = |outcome: Outcome, minutes: u32| (outcome, 60 * minutes);
        Self {
            name: name.to_owned(),
            description: String::new(),
            project_id: None,
            start_date: None,
            end_date: None,
            time_start: TimeOfDay::NINE,
            time_end: TimeOfDay::TWENTY,
            weekdays: Weekdays::EVERY,
            metadata: Value::Object(serde_json::Map::new()),
            agent_id: None,
            phone_number_id: None,
            message: None,
            max_attempts: 3,
            max_attempts_per_day: 1,
            max_concurrent_calls: 10,
            retry_delays_s: BTreeMap::from([
                delay(Outcome::Busy, 15),
                delay(Outcome::NoAnswer, 120),
                delay(Outcome::Failed, 60),
                delay(Outcome::Voicemail, 240),
                delay(Outcome::NotPlaced, 5),
            ]),
            voicemail_policy: VoicemailPolicy::HangUp,
            voicemail_message: None,
            ring_timeout_s: 30,
        }
    }
}
