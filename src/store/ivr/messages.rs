//! What menu systems tell of a call, message by message, and what a call's row makes of all of it.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde_json::Value;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::ids::{CallSid, PhoneNumber};
use crate::store::ivr::{Sender, numbers};
use crate::store::{Store, storable, storable_json};

/// What a provider has told of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// The provider's id of the call.
    pub provider_call_id: String,
    /// The carrier's.
    pub call_sid: Option<CallSid>,
    /// As sent.
    pub from_number: Option<String>,
    /// The same, where it is a telephone number. Whose lead it is, unless nobody has it.
    pub from_phone: Option<PhoneNumber>,
    /// As sent.
    pub to_number: Option<String>,
    /// The same, where it is a telephone number. Whose lead it is otherwise.
    pub to_phone: Option<PhoneNumber>,
    /// The provider's word.
    pub status: Option<String>,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// Seconds.
    pub duration_s: Option<i32>,
    /// Keys pressed, or entries chosen.
    pub digits: Option<String>,
    /// Where a recording is.
    pub recording_url: Option<String>,
    /// When what is told happened.
    pub occurred_at: Option<Timestamp>,
    /// Members that could not be read.
    pub unreadable: Vec<String>,
    /// All that was sent.
    pub payload: Value,
}

/// Messages that are kept of a call. Each has the call's row be folded from all of them; and a call has some dozens.
pub const MOST_MESSAGES: i64 = 1_000;

/// Why a message is not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// So many of one call there cannot be: what is taken for the call's id names more than one.
    #[error("there are {MOST_MESSAGES} messages of this call already")]
    TooMany,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What came of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The call; `None`: it was erased, and nothing is kept of it.
    pub id: Option<Uuid>,
    /// It is the newest message of its call; else there is a newer one, and of this one counts what the newer ones do not say.
    pub is_newest: bool,
}

/// Puts on record what was told of a call: the message as it is, unless it was sent before, and the call's row, whose columns
/// say what the newest message says that says anything of them. In whatever order messages come, the row is the same.
///
/// The newer of two messages is the one that tells of the end, by when it was, by how long the call took, or by a status that
/// the provider calls final. Of two that do, or do not, it is the one that tells of the later moment; of two of the same moment
/// the one that says when the end was, then the one that came later. A message that tells no moment is older than any that
/// does. A status that is final is newer than any that is not, whatever else its message says.
///
/// Of a call that has [`MOST_MESSAGES`] no other is kept; what was sent before is known as ever.
pub async fn keep(
    store: &Store,
    sender: &Sender,
    told: &Told,
    received_at: Timestamp,
) -> Result<Kept, KeepError> {
    const ERASED: Kept = Kept { id: None, is_newest: false };
    let mut work = store.begin().await?;
    let anew = numbers_anew(&mut work, sender, told).await?;
    let told = anew.as_ref().unwrap_or(told);
    let payload = storable_json(told.payload.clone());
    sqlx::query!(
        r#"
        insert into ivr_calls (organization_id, provider_id, provider_call_id, call_sid, payload, received_at)
        values ($1, $2, $3, $4, $5, $6)
        on conflict on constraint ivr_calls_call do nothing
        "#,
        sender.organization.0,
        sender.provider.id,
        storable(&told.provider_call_id),
        told.call_sid.as_ref().map(CallSid::as_str),
        payload,
        received_at.to_sqlx() as _,
    )
    .execute(&mut *work)
    .await?;
    // Messages of one call wait for each other, so that each row is folded from all that came before.
    let call = sqlx::query_scalar!(
        "select id from ivr_calls where provider_id = $1 and provider_call_id = $2 for update",
        sender.provider.id,
        storable(&told.provider_call_id),
    )
    .fetch_optional(&mut *work)
    .await?;
    let Some(call) = call else { return Ok(ERASED) };
    // Left without a commit nothing is kept.
    let Some(message) = add(&mut work, sender, told, payload, received_at).await? else { return Ok(ERASED) };
    if has_too_many(&mut work, sender, told).await? {
        return Err(KeepError::TooMany);
    }
    let newest = fold(&mut work, sender, call).await?;
    work.commit().await?;
    Ok(Kept { id: Some(call), is_newest: newest == message })
}

/// What was told with its numbers read anew, where the provider's country has changed since they were. It changes no more
/// before the message is kept.
async fn numbers_anew(
    connection: &mut PgConnection,
    sender: &Sender,
    told: &Told,
) -> sqlx::Result<Option<Told>> {
    // Locked before any call, as by whoever changes it.
    let country = sqlx::query_scalar!(
        "select country_code from ivr_providers where id = $1 for share",
        sender.provider.id,
    )
    .fetch_one(connection)
    .await?;
    if country == sender.provider.country_code {
        return Ok(None);
    }
    let home = numbers::home(country.as_deref());
    let phone = |sent: &Option<String>| numbers::phone(sent.as_deref()?, home);
    Ok(Some(Told { from_phone: phone(&told.from_number), to_phone: phone(&told.to_number), ..told.clone() }))
}

/// Whether there are more messages of the call than are folded.
async fn has_too_many(connection: &mut PgConnection, sender: &Sender, told: &Told) -> sqlx::Result<bool> {
    let many = sqlx::query_scalar!(
        r#"
        select count(*) as "many!"
        from (
            select
            from ivr_messages
            where provider_id = $1 and provider_call_id = $2
            limit $3
        ) as kept
        "#,
        sender.provider.id,
        storable(&told.provider_call_id),
        MOST_MESSAGES + 1,
    )
    .fetch_one(connection)
    .await?;
    Ok(many > MOST_MESSAGES)
}

/// Adds a message, or finds it where it was sent before. `None`: the call was erased.
async fn add(
    connection: &mut PgConnection,
    sender: &Sender,
    told: &Told,
    payload: Value,
    received_at: Timestamp,
) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!(
        r#"
        insert into ivr_messages (
            organization_id, provider_id, provider_call_id, call_sid, from_number, from_phone, to_number, to_phone,
            status, started_at, ended_at, duration, digits, recording_url, occurred_at, unreadable, payload,
            payload_sha256, received_at
        )
        values (
            $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
            sha256(convert_to($17::jsonb::text, 'UTF8')), $18
        )
        -- Nothing is changed: its id is returned.
        on conflict on constraint ivr_messages_once do update
        set payload_sha256 = excluded.payload_sha256
        returning id
        "#,
        sender.organization.0,
        sender.provider.id,
        storable(&told.provider_call_id),
        told.call_sid.as_ref().map(CallSid::as_str),
        told.from_number.as_deref().map(storable),
        told.from_phone.as_ref().map(PhoneNumber::expose),
        told.to_number.as_deref().map(storable),
        told.to_phone.as_ref().map(PhoneNumber::expose),
        told.status.as_deref().map(storable),
        told.started_at.map(ToSqlx::to_sqlx) as _,
        told.ended_at.map(ToSqlx::to_sqlx) as _,
        told.duration_s,
        told.digits.as_deref().map(storable),
        told.recording_url.as_deref().map(storable),
        told.occurred_at.map(ToSqlx::to_sqlx) as _,
        &told.unreadable,
        payload,
        received_at.to_sqlx() as _,
    )
    .fetch_optional(connection)
    .await
}

/// Has a call's row say what its messages say. Returns the newest of them.
// A number and the telephone that it is go together. A lead stays while the numbers do, even if it has another by now.
async fn fold(connection: &mut PgConnection, sender: &Sender, call: Uuid) -> sqlx::Result<i64> {
    let statuses = &sender.provider.final_statuses;
    let final_statuses: Vec<String> = statuses.iter().map(|status| status.to_lowercase()).collect();
    sqlx::query_scalar!(
        r#"
        with messages as (
            select told.*,
                   has_final.status as has_final_status,
                   row_number() over (
                       order by told.ended_at is not null or told.duration is not null or has_final.status,
                                coalesce(told.occurred_at, '-infinity'),
                                told.ended_at is not null,
                                told.id
                   ) as place
            from ivr_messages as told
            join ivr_calls on ivr_calls.provider_id = told.provider_id
                          and ivr_calls.provider_call_id = told.provider_call_id
            cross join lateral (select coalesce(lower(told.status) = any($3), false) as status) as has_final
            where ivr_calls.id = $1
        ),
        folded as (
            select (array_agg(id order by place desc))[1] as newest,
                   (array_agg(call_sid order by place desc) filter (where call_sid is not null))[1] as call_sid,
                   (array_agg(from_number order by place desc) filter (where from_number is not null))[1] as from_number,
                   (array_agg(from_phone order by place desc) filter (where from_number is not null))[1] as from_phone,
                   (array_agg(to_number order by place desc) filter (where to_number is not null))[1] as to_number,
                   (array_agg(to_phone order by place desc) filter (where to_number is not null))[1] as to_phone,
                   (array_agg(status order by has_final_status desc, place desc) filter (where status is not null))[1]
                       as status,
                   (array_agg(started_at order by place desc) filter (where started_at is not null))[1] as started_at,
                   (array_agg(ended_at order by place desc) filter (where ended_at is not null))[1] as ended_at,
                   (array_agg(duration order by place desc) filter (where duration is not null))[1] as duration,
                   (array_agg(digits order by place desc) filter (where digits is not null))[1] as digits,
                   (array_agg(recording_url order by place desc) filter (where recording_url is not null))[1]
                       as recording_url,
                   (array_agg(occurred_at order by place desc) filter (where occurred_at is not null))[1] as occurred_at,
                   max(received_at) as received_at
            from messages
        )
        update ivr_calls as known
        set call_sid = folded.call_sid,
            from_number = folded.from_number,
            to_number = folded.to_number,
            status = folded.status,
            started_at = folded.started_at,
            ended_at = folded.ended_at,
            duration = folded.duration,
            digits = folded.digits,
            recording_url = folded.recording_url,
            lead_id = coalesce(
                (
                    select leads.id
                    from leads
                    where leads.organization_id = $2
                      and leads.phone in (folded.from_phone, folded.to_phone)
                    order by leads.phone = folded.from_phone desc nulls last,
                             leads.last_contacted_at desc nulls last,
                             leads.id desc
                    limit 1
                ),
                case
                    when (known.from_number, known.to_number)
                         is not distinct from (folded.from_number, folded.to_number)
                        then known.lead_id
                end
            ),
            occurred_at = folded.occurred_at,
            unreadable = newest.unreadable,
            payload = newest.payload,
            received_at = folded.received_at
        from folded
        join ivr_messages as newest on newest.id = folded.newest
        where known.id = $1
        returning newest.id
        "#,
        call,
        sender.organization.0,
        &final_statuses,
    )
    .fetch_one(connection)
    .await
}
