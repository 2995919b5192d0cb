//! Writes what is known of a call, and all that follows from it, in one transaction.

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::announcements;
use super::callback::end_by_carrier;
use super::projection::{self, Known};
use super::report::is_kept_beside;
use super::story::Story;
use super::{CallEvent, Recorded, change};
use crate::call::end::EndReason;
use crate::ids::{CallSid, PhoneNumber};
use crate::store::agent_calls::{self, HandedCall};
use crate::store::call_events::{self, CarrierEvent};
use crate::store::call_facts::{self, CallFacts};
use crate::store::calls::{self, Change};
use crate::store::{Store, call_attempts, call_logs, do_not_call, interactions, leads, reports, webhooks};

/// Two that write at the same moment may get in each other's way, as when a lead is linked by hand meanwhile: a second
/// look sees what the other has done.
pub(super) const TRIES: u32 = 3;

/// What is to be put on record.
#[derive(Clone, Copy)]
enum Fact<'a> {
    /// Something happened to a call.
    Event { change: &'a Change<'a>, event: &'a CallEvent },
    /// The carrier said something of it, and it came then.
    Callback { callback: &'a CarrierEvent, came_at: jiff::Timestamp },
    /// Nothing new.
    None,
}

/// Puts an event on record.
pub(super) async fn put(store: &Store, change: Change<'_>, event: &CallEvent) -> sqlx::Result<Recorded> {
    let call_sid = change.call_sid;
    put_fact(store, call_sid, Fact::Event { change: &change, event }).await
}

/// Puts a callback on record that came then.
pub(super) async fn put_callback(
    store: &Store,
    callback: &CarrierEvent,
    came_at: jiff::Timestamp,
) -> sqlx::Result<()> {
    put_fact(store, &callback.call_sid, Fact::Callback { callback, came_at }).await?;
    Ok(())
}

/// Has the records say what follows from what is known now.
pub(super) async fn derive_again(store: &Store, call_sid: &CallSid) -> sqlx::Result<()> {
    put_fact(store, call_sid, Fact::None).await?;
    Ok(())
}

async fn put_fact(store: &Store, call_sid: &CallSid, fact: Fact<'_>) -> sqlx::Result<Recorded> {
    for _ in 1..TRIES {
        // On the heap, so that whoever waits for it stays small.
        match Box::pin(put_once(store, call_sid, fact, false)).await {
            Err(error) if is_collision(&error) => {
                tracing::debug!(call.id = %call_sid, "the records of a call are written again: somebody else did so, too");
            }
            result => return result,
        }
    }
    Box::pin(put_once(store, call_sid, fact, true)).await
}

/// `at_any_price`: the fact is put on record also where what follows from it cannot be.
async fn put_once(
    store: &Store,
    call_sid: &CallSid,
    fact: Fact<'_>,
    at_any_price: bool,
) -> sqlx::Result<Recorded> {
    let mut transaction = store.begin().await?;
    calls::lock(&mut transaction, call_sid).await?;
    let recorded = match fact {
        Fact::Event { change, .. } => calls::append(&mut transaction, change.clone()).await?,
        Fact::Callback { callback, came_at } => {
            call_events::note(&mut transaction, callback, came_at).await?;
            Recorded::New
        }
        Fact::None => Recorded::New,
    };
    if recorded != Recorded::New {
        transaction.commit().await?;
        return Ok(recorded);
    }
    if let Fact::Event { change, event } = fact {
        // Never undone with what follows: the event, once it is on record, will not be put there again.
        happen_once(&mut transaction, change, event, at_any_price).await?;
    }
    let derived = if at_any_price {
        derive_if_possible(&mut transaction, call_sid).await?
    } else {
        derive(&mut transaction, call_sid).await?
    };
    transaction.commit().await?;
    if let Some(facts) = derived.filter(is_to_be_linked) {
        // For a stream of somebody else's TwiML the carrier's last word is the first to name the caller.
        leads::link_by_phone(store, facts.organization, call_sid).await?;
    }
    Ok(recorded)
}

/// A stream took the call, it is over, and whom it was with is not known yet.
fn is_to_be_linked(facts: &CallFacts) -> bool {
    facts.lead.is_none()
        && facts.lease.as_ref().is_some_and(|lease| lease.claimed)
        && Story::of(facts).last_word().is_some()
}

/// Writes what follows from all that is known of a call. `None`: it is not on record.
pub(super) async fn derive(
    connection: &mut PgConnection,
    call_sid: &CallSid,
) -> sqlx::Result<Option<CallFacts>> {
    let Some(mut facts) = call_facts::of_call(connection, call_sid).await? else { return Ok(None) };
    if let Some((call, at, event)) = end_by_carrier(&facts) {
        let ended = calls::append(connection, change(&call, at, &event)).await?;
        if ended == Recorded::New {
            let Some(now) = call_facts::of_call(connection, call_sid).await? else { return Ok(None) };
            facts = now;
        }
    }
    let organization = facts.organization;
    if is_kept_beside(&facts.data) {
        reports::remove_turns(connection, organization, call_sid).await?;
    }
    let said = if projection::is_over(&facts) {
        call_facts::conversation(connection, organization, call_sid).await?
    } else {
        Vec::new()
    };
    let known = Known { facts, said };
    let Some(records) = projection::project(&known) else { return Ok(Some(known.facts)) };
    let call_log_id = call_logs::write(connection, &records.log).await?;
    if let Some(row) = &records.attempt {
        call_attempts::write(connection, organization, call_sid, call_log_id, row).await?;
    }
    if let Some(row) = &records.interaction {
        interactions::write(connection, organization, call_sid, row).await?;
    }
    let handed = HandedCall {
        organization,
        call_sid,
        call_log_id,
        lead_id: records.log.lead_id,
        campaign_id: records.log.campaign_id,
    };
    for row in &records.handoffs {
        agent_calls::write(connection, handed, row).await?;
    }
    if known.facts.listening.is_some() {
        let announcements = announcements::of(&known, &records, call_log_id);
        webhooks::announce(connection, organization, call_sid, announcements).await?;
    }
    Ok(Some(known.facts))
}

/// As [`derive`]. Where somebody else's records stand in the way, nothing of it is written, and what it follows from stays.
pub(super) async fn derive_if_possible(
    connection: &mut PgConnection,
    call_sid: &CallSid,
) -> sqlx::Result<Option<CallFacts>> {
    let mut attempt = connection.begin().await?;
    match derive(&mut attempt, call_sid).await {
        Ok(facts) => {
            attempt.commit().await?;
            Ok(facts)
        }
        Err(error) if is_collision(&error) => {
            attempt.rollback().await?;
            let constraint = error.as_database_error().and_then(|error| error.constraint()).unwrap_or("none");
            tracing::error!(call.id = %call_sid, constraint, "a call event is on record, and not all that follows from it");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What an event does to records that are not the call's own, and that people write as well: when it is put on record, and
/// never again. `at_any_price`: that a lead was called is left out where it cannot be written; that somebody does not want
/// to be called never is.
async fn happen_once(
    connection: &mut PgConnection,
    change: &Change<'_>,
    event: &CallEvent,
    at_any_price: bool,
) -> sqlx::Result<()> {
    let call_sid = change.call_sid;
    match event {
        CallEvent::Dispatched { attempt, .. } if at_any_price => {
            let mut savepoint = connection.begin().await?;
            match note_contact(&mut savepoint, change, *attempt).await {
                Err(error) if is_collision(&error) => {
                    tracing::error!(call.id = %call_sid, "a lead was called, and its row does not say so");
                    savepoint.rollback().await
                }
                result => {
                    result?;
                    savepoint.commit().await
                }
            }
        }
        CallEvent::Dispatched { attempt, .. } => note_contact(connection, change, *attempt).await,
        CallEvent::OptedOut { number, source } => {
            let Ok(number) = PhoneNumber::parse(number) else {
                tracing::error!(call.id = %call_sid, "somebody does not want to be called, and their number is none");
                return Ok(());
            };
            let (organization, source) = (change.organization, source.as_str());
            do_not_call::opt_out(connection, organization, &number, source, call_sid, change.at).await?;
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn note_contact(connection: &mut PgConnection, change: &Change<'_>, attempt: Uuid) -> sqlx::Result<()> {
    let organization = change.organization;
    match call_attempts::lead_of(connection, organization, attempt).await? {
        Some(lead) => {
            call_attempts::note_contact(connection, organization, lead, change.call_sid, change.at).await
        }
        None => Ok(()),
    }
}

/// Somebody else has written at the same moment what cannot be there twice, or each waited for the other.
// PostgreSQL, appendix A: class 23 is a broken constraint, 40 a transaction that was chosen to give way.
pub(super) fn is_collision(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code.starts_with("23") || code.starts_with("40"))
}

/// The one who knows why a stream was lost may be dead, or not have got so far.
pub(super) fn lost_because(told: Option<&str>) -> EndReason {
    told.and_then(EndReason::from_word).unwrap_or(EndReason::StreamLost)
}
