//! Numbers that are not called, for whatever reason and by whatever campaign.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde::Serialize;
use sqlx::postgres::PgConnection;

use crate::ids::{CallSid, OrganizationId, PhoneNumber};
use crate::store::{Store, call_queue, storable};

/// A number that is not called.
#[derive(Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Entry {
    /// In E.164.
    #[schema(example = "+14155550123")]
    pub number: String,
    /// Free text.
    pub reason: String,
    /// Where it was said: `api`, in a list (`import`), on a `call`, or on its `keypad`.
    #[schema(example = "api")]
    pub source: String,
    /// The call on which it was said.
    pub call_sid: Option<String>,
    /// Since when.
    pub created_at: Timestamp,
}

/// Where it was said that a number is not to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// To us.
    Api,
    /// In a list.
    Import,
}

/// What came of adding numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, utoipa::ToSchema)]
pub struct Added {
    /// Numbers that are new on the list.
    pub added: u64,
    /// Numbers that were there; they keep their reason.
    pub already: u64,
    /// Calls in the queue that failed at once because of it.
    pub blocked_calls: u64,
}

/// The list, newest first, or one number of it; and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    number: Option<&PhoneNumber>,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<Entry>, u64)> {
    let number = number.map(PhoneNumber::expose);
    let total = sqlx::query_scalar!(
        r#"
        select count(*) as "count!"
        from do_not_call
        where organization_id = $1 and ($2::text is null or number = $2)
        "#,
        organization.0,
        number,
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        select number, reason, source, call_sid, created_at
        from do_not_call
        where organization_id = $1 and ($2::text is null or number = $2)
        order by created_at desc, number
        limit $3
        offset $4
        "#,
        organization.0,
        number,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    Ok((rows.into_iter().map(Entry::from).collect(), total.unsigned_abs()))
}

/// Adds numbers with their reasons, and fails what waits to be called there. Twice is as good as once.
///
/// A claim that has not looked at the list yet finds them there; one that has is the last.
pub async fn add(
    store: &Store,
    organization: OrganizationId,
    entries: &[(PhoneNumber, String)],
    source: Source,
) -> sqlx::Result<Added> {
    let mut transaction = store.begin().await?;
    let said = Said { source: source.as_str(), call_sid: None, at: None };
    let added = forbid(&mut transaction, organization, entries, said).await?;
    transaction.commit().await?;
    Ok(added)
}

/// Nobody of this organisation is to call this number any more: it was said on a call. What was said first stays.
pub async fn opt_out(
    connection: &mut PgConnection,
    organization: OrganizationId,
    number: &PhoneNumber,
    source: &str,
    call_sid: &CallSid,
    at: Timestamp,
) -> sqlx::Result<Added> {
    let entry = (number.clone(), "said so on a call".to_owned());
    forbid(connection, organization, &[entry], Said { source, call_sid: Some(call_sid), at: Some(at) }).await
}

/// Where and when it was said that numbers are not to be called.
struct Said<'a> {
    source: &'a str,
    call_sid: Option<&'a CallSid>,
    /// `None`: now.
    at: Option<Timestamp>,
}

async fn forbid(
    connection: &mut PgConnection,
    organization: OrganizationId,
    entries: &[(PhoneNumber, String)],
    said: Said<'_>,
) -> sqlx::Result<Added> {
    let numbers: Vec<String> = entries.iter().map(|(number, _)| number.expose().to_owned()).collect();
    let reasons: Vec<String> = entries.iter().map(|(_, reason)| storable(reason)).collect();
    let added = sqlx::query!(
        r#"
        insert into do_not_call (organization_id, number, reason, source, call_sid, created_at)
        select $1, t.number, t.reason, $4, $5, coalesce($6, now())
        from unnest($2::text[], $3::text[]) as t(number, reason)
        order by t.number
        on conflict (organization_id, number) do nothing
        "#,
        organization.0,
        &numbers,
        &reasons,
        said.source,
        said.call_sid.map(CallSid::as_str),
        said.at.map(ToSqlx::to_sqlx) as _,
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    let blocked_calls = call_queue::fail_number(connection, organization, &numbers).await?;
    Ok(Added { added, already: numbers.len() as u64 - added, blocked_calls })
}

/// Takes a number off the list. False: it was not there. Calls that failed because of it stay so.
pub async fn remove(store: &Store, organization: OrganizationId, number: &PhoneNumber) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "delete from do_not_call where organization_id = $1 and number = $2",
        organization.0,
        number.expose(),
    )
    .execute(&mut *store.connection().await?)
    .await?;
    Ok(done.rows_affected() > 0)
}

impl Source {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Import => "import",
        }
    }
}

impl Added {
    /// Adds what came of more numbers.
    pub const fn add(&mut self, other: Self) {
        self.added += other.added;
        self.already += other.already;
        self.blocked_calls += other.blocked_calls;
    }
}

/// An entry as its columns are.
struct Row {
    number: String,
    reason: String,
    source: String,
    call_sid: Option<String>,
    created_at: jiff_sqlx::Timestamp,
}

impl From<Row> for Entry {
    fn from(row: Row) -> Self {
        let Row { number, reason, source, call_sid, created_at } = row;
        Self { number, reason, source, call_sid, created_at: created_at.to_jiff() }
    }
}
