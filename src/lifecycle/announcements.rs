//! What is told of a call to those who listen: like its records, a function of all that is known of it.
//!
//! That a call is over is told once, as a success or as a failure. Of several who tell of the end the carrier knows least
//! and is often first: what only it says is held back, and says what is known by the time it is sent.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::projection::{Known, Records};
use super::story::{End, Handoff, Story};
use crate::store::webhooks::Announcement;

/// How long the end and what was said are held back where only the carrier has told of the end: whoever carried the call
/// knows better how it ended, and may have its last turns yet. Records are finished every half a minute.
const MORE_WITHIN_S: u32 = 60;
/// The same where VAPI may have carried it, which reports once it has looked through the call.
const REPORT_WITHIN_S: u32 = 5 * 60;
/// That the call is over, whatever that is told as.
const OVER: &str = "call.ended";
/// More of a conversation does not go along. Receivers commonly refuse bodies of a megabyte.
const MOST_TURNS_BYTES: usize = 256 * 1024;

/// Everything that has happened to the call, in the order in which it is to be told.
pub(super) fn of(known: &Known, records: &Records, call_log_id: Uuid) -> Vec<Announcement> {
    let story = Story::of(&known.facts);
    // A call that gets another name is still the same events.
    let (log, call_sid) = (&records.log, known.facts.told_as.as_str());
    let data = call(known, records, call_log_id);
    let tell = |kind, subject: String, at, data: &Map<String, Value>| Announcement {
        kind,
        fact: kind,
        subject,
        at,
        wait_s: 0,
        data: Value::Object(data.clone()),
        turns: None,
    };
    let mut told = vec![tell("call.started", call_sid.to_owned(), log.started_at, &data)];
    for handoff in story.handoffs().iter().filter(|handoff| had_people(handoff)) {
        let Some(at) = handoff.began_at() else { continue };
        let (mut data, number) = (data.clone(), handoff.number);
        data.insert("handoff".to_owned(), number.into());
        told.push(tell("call.transferred", format!("{call_sid} {number}"), at, &data));
    }
    let Some(end) = story.end() else { return told };
    let kind = if end.is_success { "call.completed" } else { "call.failed" };
    let wait_s = held_back_s(known, &end);
    told.push(Announcement { fact: OVER, wait_s, ..tell(kind, call_sid.to_owned(), end.at, &data) });
    if !known.said.is_empty() {
        let mut data = data;
        data.insert("turn_count".to_owned(), known.said.len().into());
        let turns = turns(known);
        if wants_turns(known) && turns.is_none() {
            data.insert("turns_left_out".to_owned(), true.into());
        }
        let told_of_turns = tell("transcript.completed", call_sid.to_owned(), end.at, &data);
        told.push(Announcement { wait_s, turns, ..told_of_turns });
    }
    told
}

/// How long others are waited for who know more about the end.
fn held_back_s(known: &Known, end: &End<'_>) -> u32 {
    let facts = &known.facts;
    let is_ours = facts.lease.as_ref().is_some_and(|lease| lease.claimed);
    match end.by_carrier {
        None => 0,
        Some(_) if facts.by_assistant && !is_ours => REPORT_WITHIN_S,
        Some(_) => MORE_WITHIN_S,
    }
}

/// Somebody has spoken with the caller: stays so, whatever is told later.
fn had_people(handoff: &Handoff<'_>) -> bool {
    handoff.answered.is_some() || handoff.was_answered()
}

/// What is told with each event of a call. Nothing that was said, and no telephone number: who may see those looks them up.
fn call(known: &Known, records: &Records, call_log_id: Uuid) -> Map<String, Value> {
    let (log, call_sid) = (&records.log, known.facts.call_sid.as_str());
    let data = json!({
        "call_sid": call_sid,
        "call_log_id": call_log_id,
        "status": log.status,
        "direction": if log.is_outbound { "outbound" } else { "inbound" },
        "agent_id": log.agent.0,
        "lead_id": log.lead_id,
        "campaign_id": log.campaign_id,
        "interaction_id": records.interaction.as_ref().map(|row| &row.id),
        "started_at": log.started_at,
        "answered_at": log.answered_at,
        "ended_at": log.ended_at,
        "duration": log.duration_s,
        "disconnect_reason": log.disconnect_reason,
        "carrier_status": log.call_status,
        "links": {
            "call": format!("/api/calls/{call_sid}"),
            "call_log": format!("/api/call-logs/{call_sid}"),
            "transcript": format!("/transcripts/{call_sid}"),
        },
    });
    if let Value::Object(data) = data { data } else { Map::new() }
}

fn wants_turns(known: &Known) -> bool {
    known.facts.listening.is_some_and(|listening| listening.include_transcript)
}

/// What was said, in conversation order. `None`: nobody wants it, or it is too much.
fn turns(known: &Known) -> Option<Value> {
    let size: usize = known.said.iter().map(|said| said.content.len()).sum();
    if !wants_turns(known) || size > MOST_TURNS_BYTES {
        return None;
    }
    let turn = |said: &crate::store::call_facts::Said| json!({"role": if said.by_agent { "assistant" } else { "user" }, "content": said.content});
    Some(known.said.iter().map(turn).collect())
}
