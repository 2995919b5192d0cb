//! Who has seen or changed what. Rows are added, and never changed.

use std::fmt::Display;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::ids::{CallSid, OrganizationId};
use crate::store::{Store, storable, stored_call_sid};

/// Who does something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The key; `None`: the administrator of the server.
    pub key: Option<Uuid>,
    /// For people.
    pub name: String,
}

/// Something that was seen or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// A kind of thing and a verb, such as `transcript.read`.
    pub action: &'static str,
    /// Of what: an id.
    pub subject: String,
    /// The call whose conversation it is about.
    pub call_sid: Option<String>,
}

impl Actor {
    /// Whoever works on the database itself, by a command.
    #[must_use]
    pub fn command_line() -> Self {
        Self { key: None, name: "command line".to_owned() }
    }
}

impl Deed {
    /// Something was done to this thing, which is of no conversation.
    pub fn to(action: &'static str, subject: impl Display) -> Self {
        Self { action, subject: subject.to_string(), call_sid: None }
    }

    /// Something was done to this thing, which is of the conversation of a call.
    pub fn in_call(action: &'static str, subject: impl Display, call_sid: Option<&str>) -> Self {
        Self { action, subject: subject.to_string(), call_sid: call_sid.map(str::to_owned) }
    }
}

/// A row of the log.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AuditEntry {
    /// Counts up.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// The key; null is the administrator of the server.
    pub key_id: Option<Uuid>,
    /// The key by name and prefix, as it was then.
    #[schema(example = "review desk (vb_4fz1k0q8w2ma)")]
    pub actor: String,
    /// A kind of thing and a verb.
    #[schema(example = "transcript.read")]
    pub action: String,
    /// Of what: an id.
    #[schema(example = "CA00000000000000000000000000000001")]
    pub subject: String,
    /// The call whose conversation it is about.
    #[schema(value_type = Option<String>)]
    pub call_sid: Option<CallSid>,
    /// As in the answer's `x-request-id`.
    pub request_id: Option<Uuid>,
}

/// Which rows are wanted. What is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// About this call.
    pub call_sid: Option<String>,
    /// By this key.
    pub key_id: Option<Uuid>,
    /// Of this action.
    pub action: Option<String>,
    /// Then or later.
    pub from: Option<Timestamp>,
    /// Before.
    pub to: Option<Timestamp>,
}

/// Puts on record what one request has seen and changed.
pub async fn note(
    store: &Store,
    organization: OrganizationId,
    actor: &Actor,
    request: Uuid,
    deeds: &[Deed],
) -> sqlx::Result<()> {
    if deeds.is_empty() {
        return Ok(());
    }
    note_with(&mut *store.connection().await?, organization, actor, request, deeds).await
}

/// As [`note`], together with what else is done on this connection.
pub(in crate::store) async fn note_with(
    connection: &mut PgConnection,
    organization: OrganizationId,
    actor: &Actor,
    request: Uuid,
    deeds: &[Deed],
) -> sqlx::Result<()> {
    let actions: Vec<_> = deeds.iter().map(|deed| deed.action.to_owned()).collect();
    let subjects: Vec<_> = deeds.iter().map(|deed| storable(&deed.subject)).collect();
    let calls: Vec<_> = deeds.iter().map(|deed| deed.call_sid.as_ref().map(storable)).collect();
    sqlx::query!(
        r#"
        insert into audit_log (organization_id, key_id, actor, request_id, action, subject, call_sid)
        select $1, $2, $3, $4, deed.*
        from unnest($5::text[], $6::text[], $7::text[]) as deed
        "#,
        organization.0,
        actor.key,
        storable(&actor.name),
        request,
        &actions,
        &subjects,
        &calls as &[Option<String>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Rows, latest first, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    filter: &Filter,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<AuditEntry>, u64)> {
    let mut connection = store.connection().await?;
    let (from, to) = (filter.from.map(ToSqlx::to_sqlx), filter.to.map(ToSqlx::to_sqlx));
    let total = sqlx::query_scalar!(
        r#"
        select count(*) as "count!"
        from audit_log
        where organization_id = $1
          and ($2::text is null or call_sid = $2)
          and ($3::uuid is null or key_id = $3)
          and ($4::text is null or action = $4)
          and ($5::timestamptz is null or at >= $5)
          and ($6::timestamptz is null or at < $6)
        "#,
        organization.0,
        filter.call_sid,
        filter.key_id,
        filter.action,
        from as _,
        to as _,
    )
    .fetch_one(&mut *connection)
    .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select id, at, key_id, actor, action, subject, call_sid, request_id
        from audit_log
        where organization_id = $1
          and ($2::text is null or call_sid = $2)
          and ($3::uuid is null or key_id = $3)
          and ($4::text is null or action = $4)
          and ($5::timestamptz is null or at >= $5)
          and ($6::timestamptz is null or at < $6)
        order by id desc
        limit $7
        offset $8
        "#,
        organization.0,
        filter.call_sid,
        filter.key_id,
        filter.action,
        from as _,
        to as _,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *connection)
    .await?;
    let entries = rows.into_iter().map(AuditEntry::try_from).collect::<sqlx::Result<_>>()?;
    Ok((entries, total.unsigned_abs()))
}

/// A row as its columns are.
struct Row {
    id: i64,
    at: jiff_sqlx::Timestamp,
    key_id: Option<Uuid>,
    actor: String,
    action: String,
    subject: String,
    call_sid: Option<String>,
    request_id: Option<Uuid>,
}

impl TryFrom<Row> for AuditEntry {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.id,
            at: row.at.to_jiff(),
            key_id: row.key_id,
            actor: row.actor,
            action: row.action,
            subject: row.subject,
            call_sid: stored_call_sid(row.call_sid)?,
            request_id: row.request_id,
        })
    }
}
