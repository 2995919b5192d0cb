//! Which call a lead belongs to: at most one each way, and never away from a live call.

use crate::ids::{CallSid, OrganizationId, PhoneNumber};
use crate::store::leads::{Lead, Row, by_call_sid};
use crate::store::{Store, calls, stored_call_sid};

/// Why a lead and a call could not be linked by hand.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No such lead in this organisation.
    #[error("there is no such lead")]
    LeadNotFound,
    /// The call is another organisation's, which to this one is no call at all.
    #[error("there is no such call")]
    CallNotFound,
    /// A call belongs to at most one lead.
    #[error("the call belongs to lead {lead}; unlink it there first")]
    CallBelongsTo {
        /// The other lead.
        lead: i64,
    },
    /// The lead is on the telephone right now, in another call.
    #[error("the lead is in a live call ({call_sid}); try again when that is over")]
    LeadOnLiveCall {
        /// That call.
        call_sid: CallSid,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What came of looking for the lead of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkOutcome {
    /// It was linked before.
    AlreadyLinked {
        /// The lead.
        lead: i64,
    },
    /// It is linked now.
    Linked {
        /// The lead.
        lead: i64,
        /// The finished call the lead was linked to until now.
        moved_from: Option<CallSid>,
    },
    /// The lead is in another live call, and stays linked to that one.
    LeadBusy {
        /// The lead.
        lead: i64,
        /// The other call.
        call_sid: CallSid,
    },
    /// The lead is linked to a call that began later, and stays linked to that one.
    MovedOn {
        /// The lead.
        lead: i64,
        /// The later call.
        call_sid: CallSid,
    },
    /// Nobody of this organisation has the caller's number.
    NoLead,
    /// The caller has no number that could be looked up, or it is not known yet.
    NoNumber,
}

/// Links a lead to a call by hand. Linking what is linked already changes nothing.
pub async fn link_call(
    store: &Store,
    organization: OrganizationId,
    id: i64,
    call_sid: &CallSid,
) -> Result<Lead, LinkError> {
    // The reason of a refusal is read after the fact and may be gone by then; so the attempt is repeated once.
    for _ in 0..2 {
        match try_link(store, organization, id, call_sid).await {
            Ok(Some(lead)) => return Ok(lead),
            Err(error) if !is_call_taken(&error) => return Err(error.into()),
            Ok(None) | Err(_) => {}
        }
        if let Some(reason) = why_not_linked(store, organization, id, call_sid).await? {
            return Err(reason);
        }
    }
    Err(LinkError::LeadNotFound)
}

async fn try_link(
    store: &Store,
    organization: OrganizationId,
    id: i64,
    call_sid: &CallSid,
) -> sqlx::Result<Option<Lead>> {
    // Somebody may link the call at the same moment: then this is undone, and the request goes on.
    let mut work = store.begin().await?;
    // What is told of a call is told in the order in which it came to be on record.
    calls::lock(&mut work, call_sid).await?;
    let row = sqlx::query_as!(
        Row,
        r#"
        update leads
        set call_sid = $3::text,
            updated_at = case when call_sid is not distinct from $3::text then updated_at else now() end
        where organization_id = $1
          and id = $2
          and (call_sid is null or call_sid = $3::text or not call_is_live(call_sid))
          and not exists (select from leads other where other.call_sid = $3::text and other.id <> $2)
          and not call_is_of_another($3::text, $1)
        returning id, name, phone, email, call_sid, lead_status, last_contacted_at, notes, score, time_zone, created_at, updated_at
        "#,
        organization.0,
        id,
        call_sid.as_str(),
    )
    .fetch_optional(&mut *work)
    .await?;
    work.commit().await?;
    row.map(Lead::try_from).transpose()
}

async fn why_not_linked(
    store: &Store,
    organization: OrganizationId,
    id: i64,
    call_sid: &CallSid,
) -> sqlx::Result<Option<LinkError>> {
    let facts = sqlx::query!(
        r#"
        select exists (select from leads where organization_id = $1 and id = $2) as "lead_exists!",
               call_is_of_another($3::text, $1) as "foreign_call!",
               (select id from leads where call_sid = $3::text and organization_id = $1 and id <> $2) as call_of,
               (
                   select call_sid
                   from leads
                   where organization_id = $1 and id = $2 and call_sid <> $3::text and call_is_live(call_sid)
               ) as live_call
        "#,
        organization.0,
        id,
        call_sid.as_str(),
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    Ok(if !facts.lead_exists {
        Some(LinkError::LeadNotFound)
    } else if facts.foreign_call {
        Some(LinkError::CallNotFound)
    } else if let Some(lead) = facts.call_of {
        Some(LinkError::CallBelongsTo { lead })
    } else {
        stored_call_sid(facts.live_call)?.map(|call_sid| LinkError::LeadOnLiveCall { call_sid })
    })
}

/// Takes the call off a lead. `None`: no such lead in this organisation.
pub async fn unlink_call(store: &Store, organization: OrganizationId, id: i64) -> sqlx::Result<Option<Lead>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        update leads
        set call_sid = null,
            updated_at = case when call_sid is null then updated_at else now() end
        where organization_id = $1 and id = $2
        returning id, name, phone, email, call_sid, lead_status, last_contacted_at, notes, score, time_zone, created_at, updated_at
        "#,
        organization.0,
        id,
    )
    .fetch_optional(&mut *store.connection().await?)
    .await?;
    row.map(Lead::try_from).transpose()
}

/// Looks for the lead of a call by the other party's number and links it. Cheap once the call is linked.
///
/// Meant for the background: whatever comes of it, turns are saved.
pub async fn link_by_phone(
    store: &Store,
    organization: OrganizationId,
    call_sid: &CallSid,
) -> sqlx::Result<LinkOutcome> {
    // A callback of the carrier knows better than the webhook that brought the call. The latest that names the other
    // party counts; which of the two numbers that is depends on who called whom.
    let known = sqlx::query!(
        r#"
        select (select id from leads where organization_id = $1 and call_sid = $2::text) as linked,
               coalesce(
                   (
                       select case when direction like 'outbound%' then to_number else from_number end
                       from call_events
                       where organization_id = $1
                         and call_sid = $2::text
                         and (case when direction like 'outbound%' then to_number else from_number end) is not null
                       order by id desc
                       limit 1
                   ),
                   (
                       select case when direction like 'outbound%' then to_number else from_number end
                       from call_leases
                       where organization_id = $1 and call_sid = $2::text
                   ),
                   (
                       select case when data->'call'->>'direction' = 'outbound' then data->'call'->>'to' else data->'call'->>'from' end
                       from calls
                       left join vapi_calls on call_id = id
                       where calls.organization_id = $1
                         and (call_sid = $2::text or call_sid is null and vapi_call_id = $2::text)
                         and data->'call'->>'reportedBy' = 'vapi'
                       limit 1
                   )
               ) as other_party
        "#,
        organization.0,
        call_sid.as_str(),
    )
    .fetch_one(&mut *store.connection().await?)
    .await?;
    if let Some(lead) = known.linked {
        return Ok(LinkOutcome::AlreadyLinked { lead });
    }
    let Some(number) = known.other_party.and_then(|text| PhoneNumber::parse(&text).ok()) else {
        return Ok(LinkOutcome::NoNumber);
    };
    match link_number(store, organization, call_sid, &number).await {
        Err(error) if is_call_taken(&error) => {
            // Somebody linked the call to another lead in between: that stands.
            let lead = by_call_sid(store, organization, call_sid).await?;
            Ok(lead.map_or(LinkOutcome::NoLead, |lead| LinkOutcome::AlreadyLinked { lead: lead.id }))
        }
        outcome => outcome,
    }
}

/// Links the call to the one lead that is meant by this number, in one statement. The row of the lead is locked before
/// its call is looked at, so of two calls that come at once the second sees what the first did. What is told of the call is
/// told in the order in which it came to be on record, so its other records wait.
///
/// A call may come here long after it was over. It began when its first stream was offered, or else when the carrier first
/// told of it, or else when whoever reported it says.
async fn link_number(
    store: &Store,
    organization: OrganizationId,
    call_sid: &CallSid,
    number: &PhoneNumber,
) -> sqlx::Result<LinkOutcome> {
    let mut work = store.begin().await?;
    calls::lock(&mut work, call_sid).await?;
    let row = sqlx::query!(
        r#"
        with meant as materialized (
            select id, call_sid
            from leads
            where organization_id = $1 and phone = $2
            order by last_contacted_at desc nulls last, id desc
            limit 1
            for update
        ),
        older as materialized (
            select meant.id
            from meant
            where coalesce(
                      (select min(offered_at) from call_streams where call_streams.call_sid = $3::text),
                      (select min(created_at) from call_events where call_events.call_sid = $3::text),
                      (
                          select min(created_at)
                          from calls
                          left join vapi_calls on call_id = id
                          where calls.organization_id = $1
                            and (calls.call_sid = $3::text or calls.call_sid is null and vapi_call_id = $3::text)
                      )
                  ) < coalesce(
                      (select min(offered_at) from call_streams where call_streams.call_sid = meant.call_sid),
                      (select min(created_at) from call_events where call_events.call_sid = meant.call_sid),
                      (
                          select min(created_at)
                          from calls
                          left join vapi_calls on call_id = id
                          where calls.organization_id = $1
                            and (calls.call_sid = meant.call_sid
                                 or calls.call_sid is null and vapi_call_id = meant.call_sid)
                      )
                  )
        ),
        linked as (
            update leads
            set call_sid = $3::text,
                updated_at = now()
            from meant
            where leads.id = meant.id
              and (meant.call_sid is null or (meant.call_sid <> $3::text and not call_is_live(meant.call_sid)))
              and not exists (select from older)
            returning leads.id
        )
        select meant.id,
               meant.call_sid as before,
               exists (select from linked) as "linked!",
               exists (select from older) as "older!"
        from meant
        "#,
        organization.0,
        number.expose(),
        call_sid.as_str(),
    )
    .fetch_optional(&mut *work)
    .await?;
    work.commit().await?;
    let Some(row) = row else { return Ok(LinkOutcome::NoLead) };
    let before = stored_call_sid(row.before)?;
    Ok(match before {
        moved_from if row.linked => LinkOutcome::Linked { lead: row.id, moved_from },
        Some(later) if row.older => LinkOutcome::MovedOn { lead: row.id, call_sid: later },
        Some(other) if other != *call_sid => LinkOutcome::LeadBusy { lead: row.id, call_sid: other },
        _ => LinkOutcome::AlreadyLinked { lead: row.id },
    })
}

/// Whether a statement failed because the call belongs to another lead.
fn is_call_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.constraint()) == Some("leads_call_sid")
}
