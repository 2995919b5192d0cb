//! Calls as a platform around us counts them: created by it, and changed by the `lifecycle` module. That their call was asked
//! for, or will not be made, is noted by the queue.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgConnection;

use crate::ids::{CallSid, OrganizationId, PhoneNumber};
use crate::store::{Store, storable, storable_json};

/// What the row of a call's interaction must say.
#[derive(Debug, Clone, PartialEq)]
pub struct InteractionRow {
    /// The interaction.
    pub id: String,
    /// The call is the latest that is made for it.
    pub is_current: bool,
    /// Where it is.
    pub status: &'static str,
    /// The media stream.
    pub room_name: Option<String>,
    /// The other party's number.
    pub phone_number: Option<String>,
    /// When sound had flown both ways.
    pub connected_at: Option<Timestamp>,
    /// Where a recording is.
    pub recording: Option<String>,
    /// How it ended, once it has.
    pub end: Option<InteractionEnd>,
}

/// How an interaction ended.
#[derive(Debug, Clone, PartialEq)]
pub struct InteractionEnd {
    /// `SUCCESS` or `FAILED`.
    pub outcome: &'static str,
    /// When.
    pub ended_at: Timestamp,
    /// Seconds.
    pub duration_s: Option<i32>,
    /// What is said of it in `callDisposition`.
    pub disposition: Value,
    /// What was said, one line a turn.
    pub transcript: Option<String>,
    /// The carrier's SIP answer.
    pub sip_status: Option<i32>,
}

/// Has the interaction of a call say what it must. One that belongs to another call is left alone, and one that has failed
/// waits for no other call unless there will be one. What others write of it stays.
pub async fn write(
    connection: &mut PgConnection,
    organization: OrganizationId,
    call_sid: &CallSid,
    row: &InteractionRow,
) -> sqlx::Result<()> {
    let end = row.end.as_ref();
    sqlx::query!(
        r#"
        update interactions
        set call_sid = $3::text,
            status = $4::text::interaction_status,
            "roomName" = $5,
            "phoneNumber" = coalesce($6, "phoneNumber"),
            "connectedAt" = $7,
            recording = coalesce($8, recording),
            outcome = $9::text::interaction_outcome,
            "endTime" = $10,
            duration = $11,
            "callDisposition" = $12,
            transcript = $13,
            "sipStatus" = $14,
            "updatedAt" = now()
        where organization_id = $1
          and id = $2
          and (call_sid is null or call_sid = $3::text or (status = 'INITIATED' and $15))
          and (status <> 'FAILED'
               or $4::text <> 'INITIATED'
               or exists (
                   select
                   from call_queue
                   where call_queue.organization_id = interactions.organization_id
                     and interaction_id = interactions.id
                     and call_queue.status in ('queued', 'processing')
               ))
        "#,
        organization.0,
        row.id,
        call_sid.as_str(),
        row.status,
        row.room_name,
        row.phone_number.as_deref().map(storable),
        row.connected_at.map(ToSqlx::to_sqlx) as _,
        row.recording.as_deref().map(storable),
        end.map(|end| end.outcome),
        end.map(|end| end.ended_at.to_sqlx()) as _,
        end.and_then(|end| end.duration_s),
        end.map(|end| storable_json(end.disposition.clone())),
        end.and_then(|end| end.transcript.as_deref()).map(storable),
        end.and_then(|end| end.sip_status),
        row.is_current,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// An interaction as stored.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Interaction {
    /// Given by the platform, or ours.
    #[schema(example = "test_interaction_1754628065_1")]
    pub id: String,
    /// `INITIATED`, `IN_PROGRESS`, `COMPLETED` or `FAILED`.
    #[schema(example = "COMPLETED")]
    pub status: String,
    /// `VOICE`.
    #[schema(example = "VOICE")]
    pub channel: String,
    /// `OUTBOUND` or `INBOUND`.
    #[schema(example = "OUTBOUND")]
    pub direction: String,
    /// The platform's word for whom it is with.
    #[schema(example = "test_customer_001")]
    pub customer_id: Option<String>,
    /// The platform's word for who speaks.
    #[schema(example = "test_agent_001")]
    pub agent_id: Option<String>,
    /// When it was created.
    pub start_time: Timestamp,
    /// When sound had flown both ways.
    pub connected_at: Option<Timestamp>,
    /// When it was over.
    pub end_time: Option<Timestamp>,
    /// Seconds.
    pub duration: Option<i32>,
    /// `SUCCESS` or `FAILED`.
    #[schema(example = "SUCCESS")]
    pub outcome: Option<String>,
    /// `{disposition, connection_status, call_duration, keywords_detected}`; of a failed one
    /// `{disposition, connection_status, reason}`.
    #[schema(value_type = Option<Object>)]
    pub call_disposition: Option<Value>,
    /// What was said, one line a turn.
    pub transcript: Option<String>,
    /// Where a recording is.
    pub recording: Option<String>,
    /// Consent to it was given.
    pub recording_consent: Option<bool>,
    /// A payment was spoken of.
    pub payment_discussed: Option<bool>,
    /// How much.
    pub payment_amount: Option<f64>,
    /// When it was promised for.
    pub payment_date: Option<Timestamp>,
    /// Somebody has to come back to it.
    pub follow_up_required: Option<bool>,
    /// How good the line and the talk were.
    #[schema(value_type = Option<Object>)]
    pub call_quality_metrics: Option<Value>,
    /// `POSITIVE`, `NEUTRAL` or `NEGATIVE`.
    pub sentiment: Option<String>,
    /// From 1 to 5.
    pub customer_satisfaction_score: Option<i32>,
    /// The carrier's id of its call.
    #[serde(rename = "call_sid")]
    pub call_sid: Option<String>,
    /// The media stream that carries the call.
    pub room_name: Option<String>,
    /// The other party's number.
    pub phone_number: Option<String>,
    /// The carrier's SIP answer to a call that did not come about.
    pub sip_status: Option<i32>,
    /// When its call was asked for.
    pub dispatched_at: Option<Timestamp>,
    /// When the row was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// An interaction to create. It is `INITIATED`.
#[derive(Debug, Clone)]
pub struct NewInteraction {
    /// `None`: one of ours.
    pub id: Option<String>,
    /// `OUTBOUND` or `INBOUND`.
    pub direction: String,
    /// The platform's word for whom it is with.
    pub customer_id: Option<String>,
    /// The platform's word for who speaks.
    pub agent_id: Option<String>,
    /// `None`: now.
    pub start_time: Option<Timestamp>,
    /// Consent was given.
    pub recording_consent: Option<bool>,
    /// The other party's number.
    pub phone_number: Option<PhoneNumber>,
}

/// Which interactions are wanted. What is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct InteractionFilter {
    /// With this customer.
    pub customer_id: Option<String>,
    /// Where they are.
    pub status: Option<String>,
    /// Started then or later.
    pub from: Option<Timestamp>,
    /// Started before.
    pub to: Option<Timestamp>,
}

/// Interactions, newest first, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    filter: &InteractionFilter,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<Interaction>, u64)> {
    let mut connection = store.connection().await?;
    let total = sqlx::query_scalar!(
        r#"
        select count(*) as "total!"
        from interactions
        where organization_id = $1
          and ($2::text is null or "customerId" = $2)
          and ($3::text is null or status = $3::text::interaction_status)
          and ($4::timestamptz is null or "startTime" >= $4)
          and ($5::timestamptz is null or "startTime" < $5)
        "#,
        organization.0,
        filter.customer_id.as_deref().map(storable),
        filter.status.as_deref(),
        filter.from.map(ToSqlx::to_sqlx) as _,
        filter.to.map(ToSqlx::to_sqlx) as _,
    )
    .fetch_one(&mut *connection)
    .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id, status::text as "status!", channel::text as "channel!", direction::text as "direction!", "customerId",
               "agentId", "startTime", "connectedAt", "endTime", duration, outcome::text, "callDisposition", transcript,
               recording, "recordingConsent", "paymentDiscussed", "paymentAmount"::float8, "paymentDate",
               "followUpRequired", "callQualityMetrics", sentiment::text, "customerSatisfactionScore", call_sid,
               "roomName", "phoneNumber", "sipStatus", "dispatchedAt", "createdAt", "updatedAt"
        from interactions
        where organization_id = $1
          and ($2::text is null or "customerId" = $2)
          and ($3::text is null or status = $3::text::interaction_status)
          and ($4::timestamptz is null or "startTime" >= $4)
          and ($5::timestamptz is null or "startTime" < $5)
        order by "startTime" desc, id
        limit $6 offset $7
        "#,
        organization.0,
        filter.customer_id.as_deref().map(storable),
        filter.status.as_deref(),
        filter.from.map(ToSqlx::to_sqlx) as _,
        filter.to.map(ToSqlx::to_sqlx) as _,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *connection)
    .await?;
    Ok((rows.into_iter().map(Interaction::from).collect(), total.unsigned_abs()))
}

/// One interaction.
pub async fn find(
    store: &Store,
    organization: OrganizationId,
    id: &str,
) -> sqlx::Result<Option<Interaction>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select id, status::text as "status!", channel::text as "channel!", direction::text as "direction!", "customerId",
               "agentId", "startTime", "connectedAt", "endTime", duration, outcome::text, "callDisposition", transcript,
               recording, "recordingConsent", "paymentDiscussed", "paymentAmount"::float8, "paymentDate",
               "followUpRequired", "callQualityMetrics", sentiment::text, "customerSatisfactionScore", call_sid,
               "roomName", "phoneNumber", "sipStatus", "dispatchedAt", "createdAt", "updatedAt"
        from interactions
        where organization_id = $1 and id = $2
        "#,
        organization.0,
        storable(id),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(Interaction::from))
}

/// Creates an interaction. `None`: the organisation has one with this id.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    new: &NewInteraction,
) -> sqlx::Result<Option<Interaction>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        insert into interactions (id, organization_id, direction, "customerId", "agentId", "startTime",
                                  "recordingConsent", "phoneNumber")
        values (coalesce($1, gen_random_uuid()::text), $2, $3::text::interaction_direction, $4, $5, coalesce($6, now()),
                $7, $8)
        on conflict on constraint interactions_pkey do nothing
        returning id, status::text as "status!", channel::text as "channel!", direction::text as "direction!",
                  "customerId", "agentId", "startTime", "connectedAt", "endTime", duration, outcome::text,
                  "callDisposition", transcript, recording, "recordingConsent", "paymentDiscussed",
                  "paymentAmount"::float8, "paymentDate", "followUpRequired", "callQualityMetrics", sentiment::text,
                  "customerSatisfactionScore", call_sid, "roomName", "phoneNumber", "sipStatus", "dispatchedAt",
                  "createdAt", "updatedAt"
        "#,
        new.id.as_deref().map(storable),
        organization.0,
        new.direction,
        new.customer_id.as_deref().map(storable),
        new.agent_id.as_deref().map(storable),
        new.start_time.map(ToSqlx::to_sqlx) as _,
        new.recording_consent,
        new.phone_number.as_ref().map(PhoneNumber::expose),
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    Ok(row.map(Interaction::from))
}

/// An interaction as its columns are.
#[expect(non_snake_case, reason = "the columns are spelled as the platform spells them")]
struct Row {
    id: String,
    status: String,
    channel: String,
    direction: String,
    customerId: Option<String>,
    agentId: Option<String>,
    startTime: jiff_sqlx::Timestamp,
    connectedAt: Option<jiff_sqlx::Timestamp>,
    endTime: Option<jiff_sqlx::Timestamp>,
    duration: Option<i32>,
    outcome: Option<String>,
    callDisposition: Option<Value>,
    transcript: Option<String>,
    recording: Option<String>,
    recordingConsent: Option<bool>,
    paymentDiscussed: Option<bool>,
    paymentAmount: Option<f64>,
    paymentDate: Option<jiff_sqlx::Timestamp>,
    followUpRequired: Option<bool>,
    callQualityMetrics: Option<Value>,
    sentiment: Option<String>,
    customerSatisfactionScore: Option<i32>,
    call_sid: Option<String>,
    roomName: Option<String>,
    phoneNumber: Option<String>,
    sipStatus: Option<i32>,
    dispatchedAt: Option<jiff_sqlx::Timestamp>,
    createdAt: jiff_sqlx::Timestamp,
    updatedAt: jiff_sqlx::Timestamp,
}

impl From<Row> for Interaction {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            status: row.status,
            channel: row.channel,
            direction: row.direction,
            customer_id: row.customerId,
            agent_id: row.agentId,
            start_time: row.startTime.to_jiff(),
            connected_at: row.connectedAt.map(jiff_sqlx::Timestamp::to_jiff),
            end_time: row.endTime.map(jiff_sqlx::Timestamp::to_jiff),
            duration: row.duration,
            outcome: row.outcome,
            call_disposition: row.callDisposition,
            transcript: row.transcript,
            recording: row.recording,
            recording_consent: row.recordingConsent,
            payment_discussed: row.paymentDiscussed,
            payment_amount: row.paymentAmount,
            payment_date: row.paymentDate.map(jiff_sqlx::Timestamp::to_jiff),
            follow_up_required: row.followUpRequired,
            call_quality_metrics: row.callQualityMetrics,
            sentiment: row.sentiment,
            customer_satisfaction_score: row.customerSatisfactionScore,
            call_sid: row.call_sid,
            room_name: row.roomName,
            phone_number: row.phoneNumber,
            sip_status: row.sipStatus,
            dispatched_at: row.dispatchedAt.map(jiff_sqlx::Timestamp::to_jiff),
            created_at: row.createdAt.to_jiff(),
            updated_at: row.updatedAt.to_jiff(),
        }
    }
}
