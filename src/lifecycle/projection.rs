//! What every record of a call must say, from all that is known of it.
//!
//! A pure function of a set: whatever came late, twice or in another order, the same facts make the same records. Times
//! are those of the facts, never those of their arrival.

use serde_json::{Value, json};
use uuid::Uuid;

use super::story::{End, Handoff, Happening, Story};
use crate::outreach::retry::{Next, Outcome};
use crate::store::agent_calls::HandoffRow;
use crate::store::call_attempts::{AttemptEnd, AttemptRow};
use crate::store::call_facts::{Attempt, CallFacts, Said};
use crate::store::call_logs::LogRow;
use crate::store::interactions::{InteractionEnd, InteractionRow};

/// What is known of a call.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its events, callbacks, lease and try.
    pub facts: CallFacts,
    /// What was said; not looked at before the call is over.
    pub said: Vec<Said>,
}

/// What the records must say.
#[derive(Debug, Clone, PartialEq)]
pub struct Records {
    /// The row of `call_logs`.
    pub log: LogRow,
    /// The interaction the call is made for.
    pub interaction: Option<InteractionRow>,
    /// The try that the call is.
    pub attempt: Option<AttemptRow>,
    /// The parts that people had, or were to have.
    pub handoffs: Vec<HandoffRow>,
}

/// Whether a call is over, so that what was said in it is to be written down as a whole.
#[must_use]
pub fn is_over(facts: &CallFacts) -> bool {
    Story::of(facts).end().is_some()
}

/// From what is known to what the records must say. `None`: nothing has happened to the call yet.
#[must_use]
pub fn project(known: &Known) -> Option<Records> {
    let story = Story::of(&known.facts);
    let talk = Talk::of(known);
    let attempt = known.facts.attempt.as_ref().filter(|attempt| {
        attempt.call_sid.as_deref().is_none_or(|call_sid| call_sid == known.facts.call_sid.as_str())
    });
    let attempt_row = attempt.and_then(|attempt| attempt_row(story, attempt));
    let is_tried_again =
        attempt_row.as_ref().and_then(|row| row.end.as_ref()).is_some_and(|end| end.next_retry_at.is_some());
    Some(Records {
        log: log_row(known, story, &talk)?,
        interaction: interaction_row(known, story, &talk, is_tried_again),
        attempt: attempt_row,
        handoffs: story.handoffs().iter().map(|handoff| handoff_row(story, handoff)).collect(),
    })
}

fn log_row(known: &Known, story: Story<'_>, talk: &Talk) -> Option<LogRow> {
    let facts = &known.facts;
    let attempt = facts.attempt.as_ref();
    let started_at = story.began_at()?;
    let (from, to) = story.numbers();
    let end = story.end();
    let handoffs = story.handoffs();
    let taken_over = handoffs.iter().find(|handoff| handoff.was_answered());
    Some(LogRow {
        organization: facts.organization,
        call_sid: facts.call_sid.clone(),
        agent: facts.agent,
        lead_id: attempt.and_then(|attempt| attempt.lead_id).or(facts.lead),
        campaign_id: attempt.and_then(|attempt| attempt.campaign_id),
        project_id: attempt.and_then(|attempt| attempt.project_id),
        is_outbound: story.is_outbound(),
        caller_number: from.map(str::to_owned),
        callee_number: to.map(str::to_owned),
        status: log_status(story, end.as_ref()),
        call_status: story.carrier_status().map(str::to_owned),
        started_at,
        answered_at: story.answered_at(),
        ended_at: end.as_ref().map(|end| end.at),
        duration_s: end.as_ref().and_then(|end| end.duration_s),
        recording_url: story.recording_url().map(str::to_owned),
        conversation_transcript: talk.text.clone(),
        transcript_revision: talk.revision,
        transferred: taken_over
            .and_then(|handoff| Some((handoff.began_at()?, handoff.reason().unwrap_or_default().to_owned()))),
        disconnect_reason: end.as_ref().and_then(|end| reason(story, end)).map(str::to_owned),
        disconnect_notes: notes(story),
    })
}

fn log_status(story: Story<'_>, end: Option<&End<'_>>) -> &'static str {
    match end {
        Some(end) if end.is_success => "completed",
        Some(_) => "failed",
        None if story.handoffs().last().is_some_and(Handoff::was_answered) => "transferred",
        None if story.answered_at().is_some() => "connected",
        None if story.has_rung() => "ringing",
        None => "initiated",
    }
}

/// That a machine answered is known before the call ends for it.
fn reason<'a>(story: Story<'a>, end: &End<'a>) -> Option<&'a str> {
    if story.is_voicemail() && end.is_success { Some("voicemail") } else { end.reason }
}

/// What the carrier said to the end, where that is more than that it is over, or else VAPI.
fn notes(story: Story<'_>) -> Option<String> {
    notes_of_carrier(story).or_else(|| story.reported_reason().map(|word| format!("VAPI: {word}")))
}

fn notes_of_carrier(story: Story<'_>) -> Option<String> {
    let word = story.last_word()?;
    match (word.status, word.sip) {
        ("completed", None) => None,
        (status, None) => Some(status.to_owned()),
        (status, Some(sip)) => Some(format!("{status}, SIP {sip}")),
    }
}

/// `is_tried_again`: another call will be made for the same interaction.
fn interaction_row(
    known: &Known,
    story: Story<'_>,
    talk: &Talk,
    is_tried_again: bool,
) -> Option<InteractionRow> {
    let id = known.facts.interaction.clone()?;
    let stream = story.last("stream_started");
    // As long as nobody was reached and another call follows, the interaction has not ended.
    let end = story.end().filter(|_| stream.is_some() || !is_tried_again);
    let status = match &end {
        Some(end) if end.is_success => "COMPLETED",
        Some(_) => "FAILED",
        None if stream.is_some() => "IN_PROGRESS",
        None => "INITIATED",
    };
    let room = stream.and_then(|event| event.details["stream_sid"].as_str());
    Some(InteractionRow {
        id,
        is_current: known.facts.attempt.as_ref().is_none_or(|attempt| attempt.is_current),
        status,
        room_name: room.map(str::to_owned),
        phone_number: story.other_party().map(str::to_owned),
        connected_at: story.first("connected").map(|event| event.at),
        recording: story.recording_url().map(str::to_owned),
        end: end.map(|end| InteractionEnd {
            outcome: if end.is_success { "SUCCESS" } else { "FAILED" },
            ended_at: end.at,
            duration_s: end.duration_s,
            disposition: disposition(known, story, talk, &end),
            transcript: talk.text.clone(),
            sip_status: story.last_word().and_then(|word| word.sip),
        }),
    })
}

/// As the platform reads it. An agent that has come to a disposition of its own says so in its report.
fn disposition(known: &Known, story: Story<'_>, talk: &Talk, end: &End<'_>) -> Value {
    let reason = reason(story, end).unwrap_or("unknown");
    let own = known.facts.data["disposition"].as_str();
    let disposition = own.map_or_else(|| reason.to_uppercase(), str::to_owned);
    let connection = if story.is_voicemail() {
        "VOICEMAIL"
    } else if story.answered_at().is_some() {
        "CONNECTED"
    } else {
        "NOT_CONNECTED"
    };
    if end.is_success {
        json!({
            "disposition": disposition,
            "connection_status": connection,
            "call_duration": end.duration_s,
            "keywords_detected": talk.keywords,
        })
    } else {
        json!({"disposition": disposition, "connection_status": connection, "reason": reason})
    }
}

fn attempt_row(story: Story<'_>, attempt: &Attempt) -> Option<AttemptRow> {
    let placed_at = story.first("outbound_dispatched")?.at;
    let end = attempt_end(story, attempt);
    if end.is_none() && attempt.status == "ended" && attempt.is_overtaken {
        return None; // It was given up, and another one goes on: this one is told of when it is over.
    }
    Some(AttemptRow {
        id: attempt.id,
        placed_at,
        answered_at: story.answered_at(),
        answered_by: story.answered_by().map(str::to_owned),
        voicemail_detected: story.is_voicemail() && !story.is_fax(),
        end,
    })
}

fn attempt_end(story: Story<'_>, attempt: &Attempt) -> Option<AttemptEnd> {
    let (outcome, word) = (story.outcome()?, story.last_word()?);
    let ended_at = word.at;
    let was_taken = word.status == "completed";
    let own = || story.end().and_then(|end| end.duration_s);
    let duration_s = if was_taken { word.duration_s.or_else(own) } else { Some(0) };
    let next = attempt.retry_policy().after(outcome, attempt.attempt_number, ended_at);
    let sip = word.sip;
    Some(AttemptEnd {
        outcome,
        ended_at,
        duration_s,
        sip_response_code: sip,
        error: (next != Next::Done).then(|| why_not_reached(story, outcome, sip)),
        next_retry_at: if let Next::Retry { at } = next { Some(at) } else { None },
        is_done: next == Next::Done,
    })
}

fn why_not_reached(story: Story<'_>, outcome: Outcome, sip: Option<i32>) -> String {
    let why = match outcome {
        Outcome::Busy => "the telephone was busy",
        Outcome::NoAnswer => "nobody answered",
        Outcome::Canceled => "the call was taken back",
        Outcome::Voicemail => "a machine answered",
        Outcome::Failed if story.is_fax() => "a fax answered",
        _ => "the carrier could not connect the call",
    };
    sip.map_or_else(|| why.to_owned(), |sip| format!("{why} (SIP {sip})"))
}

fn handoff_row(story: Story<'_>, handoff: &Handoff<'_>) -> HandoffRow {
    let Handoff { number, answered, ended, asked } = *handoff;
    let text = |event: Option<Happening<'_>>, member: &str| {
        event.and_then(|event| event.details[member].as_str()).map(str::to_owned)
    };
    // When the caller's call is over, so is this.
    let over_at = ended.map(|event| event.at).or_else(|| story.last_word().map(|word| word.at));
    let status = match handoff.word() {
        Some("completed" | "answered") => "completed",
        Some("busy") => "busy",
        Some("no-answer") => "no_answer",
        Some("failed") => "failed",
        Some(_) => "canceled",
        None => match (handoff.was_answered(), over_at.is_some()) {
            (true, true) => "completed",
            (true, false) => "connected",
            (false, true) => "canceled",
            (false, false) => "ringing",
        },
    };
    let told =
        ended.and_then(|event| event.details["duration"].as_i64()).and_then(|it| i32::try_from(it).ok());
    let has_spoken = status == "completed";
    let started_at = answered.map(|event| event.at).or_else(|| {
        let duration = jiff::SignedDuration::from_secs(told.filter(|_| has_spoken)?.into());
        over_at?.checked_sub(duration).ok()
    });
    let spoken = || {
        let seconds = over_at?.duration_since(started_at?).as_secs();
        i32::try_from(seconds.max(0)).ok()
    };
    let member = answered.and_then(|event| event.details["member_id"].as_str());
    HandoffRow {
        handoff: number,
        status,
        reason: text(asked, "reason").unwrap_or_default(),
        summary: text(asked, "summary").unwrap_or_default(),
        member: member.and_then(|id| Uuid::try_parse(id).ok()),
        leg: text(answered, "call_sid").or_else(|| text(ended, "call_sid")),
        started_at,
        ended_at: over_at,
        duration_s: if has_spoken { told.or_else(spoken) } else { None },
    }
}

/// What was said, as people read it.
struct Talk {
    text: Option<String>,
    keywords: Vec<String>,
    revision: i64,
}

impl Talk {
    fn of(known: &Known) -> Self {
        let lines = known.said.iter().filter(|said| !said.content.trim().is_empty()).map(|said| {
            let who = if said.by_agent { "Agent" } else { "Caller" };
            let words: Vec<_> = said.content.split_whitespace().collect();
            format!("{who}: {}", words.join(" "))
        });
        let lines: Vec<_> = lines.collect();
        let heard: Vec<_> = known.said.iter().map(|said| words_of(&said.content)).collect();
        let is_said = |keyword: &&String| {
            let keyword = words_of(keyword);
            keyword.len() > 2 && heard.iter().any(|words| words.contains(&keyword))
        };
        Self {
            text: (!lines.is_empty()).then(|| lines.join("\n")),
            keywords: known.facts.keywords.iter().filter(is_said).cloned().collect(),
            revision: known.said.iter().map(|said| said.revision).sum(),
        }
    }
}

/// Words in small letters with a space around each, so that whole words are found, wherever they stand.
fn words_of(text: &str) -> String {
    let text = text.to_lowercase();
    let words: Vec<_> = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    format!(" {} ", words.join(" "))
}

#[cfg(test)]
#[path = "projection_tests.rs"]
mod tests;
