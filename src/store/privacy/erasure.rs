//! Deletes all there is of a person: of a telephone number, or of a lead and its number.
//!
//! Calls go whole, with everything that names them, and what people count by is then what is still there. Of the
//! do-not-call list the bare number stays, or the person would be called again. All of it is one transaction, and a dry run
//! is the same transaction undone, so its figures are those of the real one.
//!
//! The calls stay known by a digest of their SIDs: the database takes no row about them any more (`refuse_erased_call`),
//! whoever brings it however late.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::ids::{CallSid, OrganizationId, PhoneNumber};
use crate::store::audit::{self, Actor, Deed};
use crate::store::privacy::Patience;
use crate::store::{Store, calls, decoded, storable};

/// Who is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Whoever has this number.
    Phone(PhoneNumber),
    /// This lead, and whoever has its number.
    Lead(i64),
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Erased {
    /// This was deleted, or would be.
    Done(Report),
    /// There is no such lead in this organisation.
    NoLead,
    /// The number is one of the organisation's own, or of somebody who answers its calls: all calls have such numbers.
    OwnNumber,
    /// The person is on the telephone, or being called.
    Live,
}

/// What was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Report {
    /// Of the erasure; null for a dry run, of which nothing is kept.
    pub id: Option<Uuid>,
    /// Nothing was changed: the figures are what would go.
    pub dry_run: bool,
    /// Calls of the person.
    #[schema(example = 2)]
    pub calls: u64,
    /// Rows by table; tables with none are left out.
    pub counts: Vec<TableCount>,
    /// The number is on the do-not-call list, and stays there, without reason and call: nobody calls it.
    pub kept_do_not_call: bool,
}

/// Rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TableCount {
    /// The table.
    #[schema(example = "conversation_transcripts")]
    pub table: String,
    /// Rows that were deleted; of `do_not_call` and `audit_log`, that were emptied.
    #[schema(example = 12)]
    pub rows: u64,
}

/// An erasure on record. It does not say whom it was about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Erasure {
    /// Id.
    pub id: Uuid,
    /// Which key asked for it, or `command line`.
    #[schema(example = "admin key")]
    pub asked_by: String,
    /// By what: `phone` or `lead`.
    #[schema(example = "phone")]
    pub subject: String,
    /// Calls that were deleted.
    #[schema(example = 2)]
    pub calls: i32,
    /// Rows by table.
    #[schema(value_type = Vec<TableCount>)]
    pub counts: Vec<TableCount>,
    /// The number stayed on the do-not-call list.
    pub kept_do_not_call: bool,
    /// When.
    pub erased_at: Timestamp,
}

/// What the rows of a person are known by.
struct Person {
    organization: Uuid,
    /// In E.164.
    number: String,
    /// As `dialled` has it: with `+`, and as carriers send it without.
    spellings: Vec<String>,
    leads: Vec<i64>,
    calls: Vec<String>,
    interactions: Vec<String>,
    /// What menu systems have told, by the ids of `ivr_calls`.
    menu_calls: Vec<Uuid>,
}

/// Runs statements that delete or empty rows, and counts them by table. A statement takes what its condition names:
/// `$1` is the organisation, `$2` what is given as second.
macro_rules! rows {
    ($connection:expr, $person:expr, $counts:expr; $($table:literal by $known:ident: $sql:literal;)+) => {
        $(
            let done = sqlx::query!($sql, $person.organization, &$person.$known as _).execute(&mut *$connection).await?;
            note(&mut $counts, $table, done.rows_affected());
        )+
    };
}

/// Erases a person. `dry_run`: says what would go, and changes nothing. Asking again is as good as asking once; what has
/// come since goes, too. That it is done is in the audit log with it, as what `asked_by` has asked for in `request`.
pub async fn erase(
    store: &Store,
    organization: OrganizationId,
    subject: &Subject,
    dry_run: bool,
    (asked_by, request): (&Actor, Uuid),
    patience: Patience,
) -> sqlx::Result<Erased> {
    let mut work = store.begin().await?;
    // It looks at every call there is: no index is worth what it would cost each callback.
    patience.allow(&mut work).await?;
    let Some(mut person) = person(&mut work, organization, subject).await? else { return Ok(Erased::NoLead) };
    if is_own_number(&mut work, &person).await? {
        return Ok(Erased::OwnNumber);
    }
    // This looks at every call there is, so nobody waits for it.
    find_calls(&mut work, &mut person).await?;
    if !dry_run {
        // Whoever writes down what menu systems and Kaleyra tell has done so, or finds the digests.
        sqlx::query!(
            "select pg_advisory_xact_lock(hashtextextended('erasure ' || $1::text, 0))",
            organization.to_string()
        )
        .execute(&mut *work)
        .await?;
        person.menu_calls = menu_calls(&mut work, &person).await?;
    }
    // Whoever is writing down something of these calls has done so when this goes on, and later ones find the digests.
    remember(&mut work, &person).await?;
    for sid in &person.calls {
        if let Ok(call_sid) = CallSid::parse(sid) {
            calls::lock(&mut work, &call_sid).await?;
        }
    }
    if is_live(&mut work, &person).await? {
        return Ok(Erased::Live);
    }
    let mut counts = Vec::new();
    delete_calls(&mut work, &person, &mut counts).await?;
    delete_rest(&mut work, &person, &mut counts).await?;
    let kept_do_not_call = is_not_called(&mut work, &person).await?;
    let mut report = Report { id: None, dry_run, calls: person.calls.len() as u64, counts, kept_do_not_call };
    if dry_run {
        return Ok(Erased::Done(report)); // Undone with the transaction.
    }
    let id = note_erasure(&mut work, &person, subject, &asked_by.name, &report).await?;
    audit::note_with(&mut work, organization, asked_by, request, &[Deed::to("erasure.done", id)]).await?;
    report.id = Some(id);
    work.commit().await?;
    Ok(Erased::Done(report))
}

/// Erasures of an organisation, latest first, and how many there are in all.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    limit: u32,
    offset: u64,
) -> sqlx::Result<(Vec<Erasure>, u64)> {
    let mut connection = store.connection().await?;
    let total = sqlx::query_scalar!(
        r#"select count(*) as "count!" from erasures where organization_id = $1"#,
        organization.0
    )
    .fetch_one(&mut *connection)
    .await?;
    let rows = sqlx::query!(
        r#"
        select id, asked_by, subject, calls, counts as "counts: Json<Vec<TableCount>>", kept_do_not_call, erased_at
        from erasures
        where organization_id = $1
        order by erased_at desc, id
        limit $2 offset $3
        "#,
        organization.0,
        i64::from(limit),
        i64::try_from(offset).unwrap_or(i64::MAX),
    )
    .fetch_all(&mut *connection)
    .await?;
    let erasures = rows.into_iter().map(|row| Erasure {
        id: row.id,
        asked_by: row.asked_by,
        subject: row.subject,
        calls: row.calls,
        counts: row.counts.0,
        kept_do_not_call: row.kept_do_not_call,
        erased_at: row.erased_at.to_jiff(),
    });
    Ok((erasures.collect(), total.unsigned_abs()))
}

/// The number and the leads that have it. `None`: no such lead.
async fn person(
    connection: &mut PgConnection,
    organization: OrganizationId,
    subject: &Subject,
) -> sqlx::Result<Option<Person>> {
    let number = match subject {
        Subject::Phone(number) => number.clone(),
        Subject::Lead(id) => {
            let phone = sqlx::query_scalar!(
                "select phone from leads where organization_id = $1 and id = $2",
                organization.0,
                id,
            )
            .fetch_optional(&mut *connection)
            .await?;
            let Some(phone) = phone else { return Ok(None) };
            decoded(PhoneNumber::parse(&phone))?
        }
    };
    let leads = sqlx::query_scalar!(
        "select id from leads where organization_id = $1 and phone = $2 order by id",
        organization.0,
        number.expose(),
    )
    .fetch_all(connection)
    .await?;
    let spellings = number.spellings();
    let number = number.expose().to_owned();
    Ok(Some(Person {
        organization: organization.0,
        number,
        spellings,
        leads,
        calls: Vec::new(),
        interactions: Vec::new(),
        menu_calls: Vec::new(),
    }))
}

async fn is_own_number(connection: &mut PgConnection, person: &Person) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"
        select exists (select from phone_numbers where organization_id = $1 and number = $2)
            or exists (select from team_members where organization_id = $1 and number = $2)
            or exists (select from agents where organization_id = $1 and transfer_number = $2) as "is_own!"
        "#,
        person.organization,
        person.number,
    )
    .fetch_one(connection)
    .await
}

/// Calls from and to the number, however the carrier spelled it, and those of the leads; the legs of such calls; and the
/// interactions that they were made for.
async fn find_calls(connection: &mut PgConnection, person: &mut Person) -> sqlx::Result<()> {
    person.menu_calls = menu_calls(connection, person).await?;
    person.calls = sqlx::query_scalar!(
        r#"
        with found as (
            select call_sid from call_events
            where organization_id = $1 and (dialled(from_number) = any($2) or dialled(to_number) = any($2))
            union
            select call_sid from call_leases
            where organization_id = $1 and (dialled(from_number) = any($2) or dialled(to_number) = any($2))
            union
            select call_sid from call_logs
            where organization_id = $1
              and (dialled(caller_number) = any($2) or dialled(callee_number) = any($2) or lead_id = any($3))
            union
            select call_sid from call_attempts
            where organization_id = $1 and (dialled(to_number) = any($2) or lead_id = any($3))
            union
            select call_sid from interactions
            where organization_id = $1 and dialled("phoneNumber") = any($2)
            union
            select call_sid from leads
            where organization_id = $1 and id = any($3)
            union
            select parent_call_sid from agent_calls
            where organization_id = $1 and lead_id = any($3)
            union
            select call_sid from ivr_calls
            where organization_id = $1 and id = any($4)
            union
            select message.call_sid
            from ivr_messages message
            join ivr_calls known using (provider_id, provider_call_id)
            where known.organization_id = $1 and known.id = any($4)
            union
            select calls.call_sid from calls
            cross join lateral jsonb_array_elements(event_sequence) as event
            where organization_id = $1
              and event->>'type' in ('incoming_call', 'outbound_dispatched')
              and (dialled(event->'details'->>'from') = any($2) or dialled(event->'details'->>'to') = any($2))
        ),
        legs as (
            select call_sid from agent_calls
            where organization_id = $1 and parent_call_sid in (select call_sid from found)
        )
        select call_sid as "call_sid!"
        from (select call_sid from found union select call_sid from legs) as all_of_them
        where call_sid is not null and coalesce(organization_of_call(call_sid), $1) = $1
        order by call_sid
        "#,
        person.organization,
        &person.spellings,
        &person.leads,
        &person.menu_calls,
    )
    .fetch_all(&mut *connection)
    .await?;
    // Now by those calls as well.
    person.menu_calls = menu_calls(connection, person).await?;
    person.interactions = sqlx::query_scalar!(
        r#"
        select id from interactions
        where organization_id = $1 and (dialled("phoneNumber") = any($2) or call_sid = any($4))
        union
        select interaction_id as "id!" from call_queue
        where organization_id = $1 and interaction_id is not null and (to_number = $5 or lead_id = any($3))
        "#,
        person.organization,
        &person.spellings,
        &person.leads,
        &person.calls,
        person.number,
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .flatten()
    .collect();
    Ok(())
}

/// Calls of menu systems in which the number was named in any message, whatever the row made of them says now; those of the
/// leads; and those that are known to be one of `calls`.
async fn menu_calls(connection: &mut PgConnection, person: &Person) -> sqlx::Result<Vec<Uuid>> {
    let found = sqlx::query_scalar!(
        r#"
        select id from ivr_calls
        where organization_id = $1
          and (dialled(from_number) = any($2) or dialled(to_number) = any($2)
               or lead_id = any($3) or call_sid = any($4))
        union
        select known.id
        from ivr_messages message
        join ivr_calls known using (provider_id, provider_call_id)
        where message.organization_id = $1
          and (dialled(message.from_number) = any($2) or dialled(message.to_number) = any($2)
               or $5 in (message.from_phone, message.to_phone) or message.call_sid = any($4))
        "#,
        person.organization,
        &person.spellings,
        &person.leads,
        &person.calls,
        person.number,
    )
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().flatten().collect())
}

/// Has nothing be put on record of these calls from the end of this transaction on.
async fn remember(connection: &mut PgConnection, person: &Person) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        insert into erased_calls (call_sid_sha256, organization_id)
        select sha256(convert_to(sid, 'UTF8')), $1
        from (
            select sid
            from unnest($2::text[]) as sid
            union
            select vapi_call_id
            from vapi_calls
            join calls on id = call_id
            where calls.organization_id = $1 and call_sid = any($2) and vapi_call_id is not null
            union
            select provider_id || ':' || provider_call_id
            from ivr_calls
            where organization_id = $1 and id = any($3)
            union
            select id
            from kaleyra_call_logs
            where organization_id = $1
              and (kaleyra_customer_phone(service, callfrom, callto) = $5 or lead_id = any($4))
        ) as calls
        on conflict do nothing
        "#,
        person.organization,
        &person.calls,
        &person.menu_calls,
        &person.leads,
        person.number,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// On the telephone, being called, or about to be: what is written of that comes from memories that this cannot reach.
async fn is_live(connection: &mut PgConnection, person: &Person) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"
        select exists (select from unnest($2::text[]) as sid where call_is_live(sid))
            or exists (
                select from call_attempts
                where organization_id = $1
                  and status <> 'ended'
                  and (to_number = $3 or lead_id = any($4) or call_sid = any($2))
            ) as "is_live!"
        "#,
        person.organization,
        &person.calls,
        person.number,
        &person.leads,
    )
    .fetch_one(connection)
    .await
}

/// What names a call. The lease goes first: whoever writes turns holds it until they are written, and nobody does without.
async fn delete_calls(
    connection: &mut PgConnection,
    person: &Person,
    counts: &mut Vec<TableCount>,
) -> sqlx::Result<()> {
    rows! {
        connection, person, *counts;
        // A callback that came before its call was known is the default organisation's, whose it is or not; the lease may
        // be all that says whose it is.
        "call_events" by calls:
            "delete from call_events where call_sid = any($2) and (organization_id = $1 or organization_of_call(call_sid) = $1)";
        "call_streams" by calls: "delete from call_streams where organization_id = $1 and call_sid = any($2)";
        "call_leases" by calls: "delete from call_leases where organization_id = $1 and call_sid = any($2)";
        "conversation_transcripts" by calls:
            "delete from conversation_transcripts where organization_id = $1 and call_sid = any($2)";
        "routing_decisions" by calls: "delete from routing_decisions where organization_id = $1 and call_sid = any($2)";
        "call_commands" by calls: "delete from call_commands where organization_id = $1 and call_sid = any($2)";
        "agent_calls" by calls:
            "delete from agent_calls where organization_id = $1 and (parent_call_sid = any($2) or call_sid = any($2))";
        "call_attempts" by calls: "delete from call_attempts where organization_id = $1 and call_sid = any($2)";
        "call_logs" by calls: "delete from call_logs where organization_id = $1 and call_sid = any($2)";
        "webhook_deliveries" by calls:
            "delete from webhook_deliveries where organization_id = $1 and call_sid = any($2)";
        // A call that no carrier has an id of goes by VAPI's.
        "calls" by calls:
            "delete from calls where organization_id = $1 and (call_sid = any($2) or id in (select call_id from vapi_calls where vapi_call_id = any($2)))";
    }
    Ok(())
}

/// What names the person without a call.
async fn delete_rest(
    connection: &mut PgConnection,
    person: &Person,
    counts: &mut Vec<TableCount>,
) -> sqlx::Result<()> {
    rows! {
        connection, person, *counts;
        "call_attempts" by number: "delete from call_attempts where organization_id = $1 and to_number = $2";
        "call_attempts" by leads: "delete from call_attempts where organization_id = $1 and lead_id = any($2)";
        "call_queue" by number: "delete from call_queue where organization_id = $1 and to_number = $2";
        "call_queue" by leads: "delete from call_queue where organization_id = $1 and lead_id = any($2)";
        "ivr_messages" by menu_calls:
            "delete from ivr_messages using ivr_calls known where ivr_messages.organization_id = $1 and known.id = any($2) and ivr_messages.provider_id = known.provider_id and ivr_messages.provider_call_id = known.provider_call_id";
        "ivr_calls" by menu_calls: "delete from ivr_calls where organization_id = $1 and id = any($2)";
        "kaleyra_call_logs" by number:
            "delete from kaleyra_call_logs where organization_id = $1 and kaleyra_customer_phone(service, callfrom, callto) = $2";
        "kaleyra_call_logs" by leads:
            "delete from kaleyra_call_logs where organization_id = $1 and lead_id = any($2)";
        // Their ids are chosen by others, who may well have put a name into them.
        "audit_log" by interactions:
            "update audit_log set subject = 'erased' where organization_id = $1 and subject = any($2)";
        "interactions" by interactions: "delete from interactions where organization_id = $1 and id = any($2)";
        "leads" by leads: "delete from leads where organization_id = $1 and id = any($2)";
        "do_not_call" by number:
            "update do_not_call set reason = '', call_sid = null where organization_id = $1 and number = $2 and (reason <> '' or call_sid is not null)";
    }
    Ok(())
}

fn note(counts: &mut Vec<TableCount>, table: &str, rows: u64) {
    match counts.iter_mut().find(|count| count.table == table) {
        Some(count) => count.rows += rows,
        None if rows > 0 => counts.push(TableCount { table: table.to_owned(), rows }),
        None => {}
    }
}

async fn is_not_called(connection: &mut PgConnection, person: &Person) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from do_not_call where organization_id = $1 and number = $2) as "is!""#,
        person.organization,
        person.number,
    )
    .fetch_one(connection)
    .await
}

async fn note_erasure(
    connection: &mut PgConnection,
    person: &Person,
    subject: &Subject,
    asked_by: &str,
    report: &Report,
) -> sqlx::Result<Uuid> {
    let salt: [u8; 16] = rand::random();
    let digest = Sha256::new().chain_update(salt).chain_update(&person.number).finalize();
    sqlx::query_scalar!(
        r#"
        insert into erasures (organization_id, asked_by, subject, salt, number_sha256, calls, counts, kept_do_not_call)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        returning id
        "#,
        person.organization,
        storable(asked_by),
        match subject {
            Subject::Phone(_) => "phone",
            Subject::Lead(_) => "lead",
        },
        &salt[..],
        &digest[..],
        i32::try_from(report.calls).unwrap_or(i32::MAX),
        Json(&report.counts) as _,
        report.kept_do_not_call,
    )
    .fetch_one(connection)
    .await
}
