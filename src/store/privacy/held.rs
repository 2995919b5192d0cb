//! What is held in which table that grows old, and how it is emptied: the list that retention goes by. A table more is an
//! entry more, and a line in `for_each_table`.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use sqlx::postgres::PgConnection;

use super::retention::Days;
use crate::ids::OrganizationId;

/// Rows that were emptied at one go: how many, and the moments of the oldest and the newest of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Emptied {
    pub(super) rows: i64,
    pub(super) oldest: Option<Timestamp>,
    pub(super) newest: Option<Timestamp>,
}

/// What is held in a table: `$1` is the organisation, `$2` the moment before which it is too old. `held` finds `key` and `at`
/// of such rows, `emptied` is done to those in `old`: the oldest, none of them older than `since`.
macro_rules! held {
    ($name:ident, held: $held:literal, emptied: $emptied:literal) => {
        pub(super) mod $name {
            use super::{Emptied, OrganizationId, PgConnection, Timestamp, ToSqlx};

            pub(in crate::store::privacy) async fn count(
                connection: &mut PgConnection,
                organization: OrganizationId,
                before: Timestamp,
            ) -> sqlx::Result<(i64, Option<Timestamp>)> {
                let row = sqlx::query!(
                    "select count(*) as \"rows!\", min(at) as oldest from (" + $held + ") as held",
                    organization.0,
                    before.to_sqlx() as _,
                )
                .fetch_one(connection)
                .await?;
                Ok((row.rows, row.oldest.map(jiff_sqlx::Timestamp::to_jiff)))
            }

            pub(in crate::store::privacy) async fn empty(
                connection: &mut PgConnection,
                organization: OrganizationId,
                before: Timestamp,
                since: Option<Timestamp>,
                most: i64,
            ) -> sqlx::Result<Emptied> {
                let row = sqlx::query!(
                    "with old as materialized (select key, at from ("
                        + $held
                        + ") as held where at >= coalesce($4, '-infinity'::timestamptz) order by at limit $3), emptied as ("
                        + $emptied
                        + " returning old.at) select count(*) as \"rows!\", min(at) as oldest, max(at) as newest from emptied",
                    organization.0,
                    before.to_sqlx() as _,
                    most,
                    since.map(|since| since.to_sqlx()) as _,
                )
                .fetch_one(connection)
                .await?;
                Ok(Emptied {
                    rows: row.rows,
                    oldest: row.oldest.map(jiff_sqlx::Timestamp::to_jiff),
                    newest: row.newest.map(jiff_sqlx::Timestamp::to_jiff),
                })
            }
        }
    };
}

held! {
    turns,
    // What a late report tells was said when it was said.
    held: "select id as key, least(created_at, \"timestamp\") as at from conversation_transcripts
           where organization_id = $1 and least(created_at, \"timestamp\") < $2 and not call_is_live(call_sid)",
    emptied: "delete from conversation_transcripts using old where id = old.key"
}

held! {
    // The words of an agent who hands over, and what reports of other systems carry, be they ours or kept beside ours
    // (`has_words`). `team_answered` is our own.
    events,
    held: "select call_id as key, calls.created_at as at from call_briefs
           join calls on id = call_id
           where call_briefs.organization_id = $1 and call_briefs.created_at < $2 and has_words
             and not coalesce(call_is_live(call_sid), false)",
    emptied: "update calls
              set data = without_words(data),
                  event_sequence = (
                      select coalesce(jsonb_agg(
                          case
                              when event->>'type' = 'transferred' and event->'details'->>'reason' <> 'team_answered'
                                  then jsonb_set(event, '{details}', event->'details' || '{\"reason\": \"\", \"summary\": \"\"}')
                              when event->>'type' = 'transferred'
                                  then jsonb_set(event, '{details,summary}', '\"\"')
                              when event ? 'details'
                                  then jsonb_set(event, '{details}', without_words(event->'details'))
                              else event
                          end
                          order by place
                      ), '[]')
                      from jsonb_array_elements(event_sequence) with ordinality as sequence (event, place)
                  )
              from old where id = old.key"
}

held! {
    logs,
    held: "select id as key, coalesce(ended_at, started_at) as at from call_logs
           where organization_id = $1 and coalesce(ended_at, started_at) < $2 and not call_is_live(call_sid)
             and (conversation_transcript is not null or conversation_summary is not null or ai_analysis is not null
                  or transfer_reason not in ('', 'team_answered'))",
    emptied: "update call_logs
              set conversation_transcript = null, conversation_summary = null, ai_analysis = null,
                  transfer_reason = case when transfer_reason = 'team_answered' then transfer_reason
                                         when transfer_reason is not null then '' end,
                  transcript_revision = 0
              from old where id = old.key"
}

held! {
    interactions,
    held: "select id as key, coalesce(\"endTime\", \"startTime\") as at from interactions
           where organization_id = $1 and coalesce(\"endTime\", \"startTime\") < $2 and transcript is not null
             and not coalesce(call_is_live(call_sid), false)",
    emptied: "update interactions set transcript = null from old where organization_id = $1 and id = old.key"
}

held! {
    handoffs,
    held: "select id as key, coalesce(ended_at, created_at) as at from agent_calls
           where organization_id = $1 and coalesce(ended_at, created_at) < $2 and not call_is_live(parent_call_sid)
             and (transcript is not null or agent_notes is not null or summary <> '' or objections <> '[]'
                  or reason not in ('', 'team_answered'))",
    emptied: "update agent_calls
              set transcript = null, agent_notes = null, summary = '', objections = '[]',
                  reason = case when reason = 'team_answered' then reason else '' end
              from old where id = old.key"
}

held! {
    commands,
    held: "select id as key, created_at as at from call_commands
           where organization_id = $1 and created_at < $2 and payload <> '{}' and not call_is_live(call_sid)",
    emptied: "update call_commands set payload = '{}' from old where id = old.key"
}

held! {
    briefings,
    held: "select id as key, finished_at as at from call_queue
           where organization_id = $1 and finished_at < $2 and status in ('completed', 'failed') and message is not null",
    emptied: "update call_queue set message = null from old where id = old.key"
}

held! {
    // Two callbacks that are not counted are told apart by what they say: each keeps something of its own.
    callbacks,
    held: "select id as key, created_at as at from call_events
           where organization_id = $1 and created_at < $2 and payload <> '{}' and not payload ? 'removed'
             and not call_is_live(call_sid)",
    emptied: "update call_events set payload = jsonb_build_object('removed', id) from old where id = old.key"
}

held! {
    // What our records are made of stays: the figures of the call, and what came of it. Words go by their own age.
    reports,
    held: "select call_id as key, calls.created_at as at from call_briefs
           join calls on id = call_id
           where call_briefs.organization_id = $1 and call_briefs.created_at < $2 and has_payload
             and not coalesce(call_is_live(call_sid), false)",
    emptied: "update calls
              set data = without_payload(data),
                  event_sequence = (
                      select coalesce(jsonb_agg(
                          case
                              when event->>'type' in ('agent_call_completed', 'stream_ended')
                                   and event ? 'details'
                                  then jsonb_set(event, '{details}', without_payload(event->'details'))
                              else event
                          end
                          order by place
                      ), '[]')
                      from jsonb_array_elements(event_sequence) with ordinality as sequence (event, place)
                  )
              from old where id = old.key"
}

held! {
    // A copy of one of the messages, as old as that one: others of the call may have come later, or still come.
    menu_calls,
    held: "select id as key, at
           from (
               select id,
                      coalesce(
                          (
                              select received_at
                              from ivr_messages
                              where ivr_messages.provider_id = ivr_calls.provider_id
                                and ivr_messages.provider_call_id = ivr_calls.provider_call_id
                                and payload_sha256 = sha256(convert_to(ivr_calls.payload::text, 'UTF8'))
                          ),
                          received_at
                      ) as at
               from ivr_calls
               where organization_id = $1 and payload <> '{}'
           ) as copies
           where at < $2",
    emptied: "update ivr_calls set payload = '{}' from old where id = old.key"
}

held! {
    menu_messages,
    held: "select id as key, received_at as at from ivr_messages
           where organization_id = $1 and received_at < $2 and payload <> '{}'",
    emptied: "update ivr_messages set payload = '{}' from old where id = old.key"
}

held! {
    // A conversation that is told to others, also while it waits: then it is given up. The row stays, so that nobody is
    // told of it again, and goes a month after it was settled. What receivers have answered goes by a trigger.
    told,
    held: "select id as key, created_at as at from webhook_deliveries
           where organization_id = $1 and created_at < $2 and event_type = 'transcript.completed' and body::text <> '{}'",
    emptied: "update webhook_deliveries
              set body = '{}',
                  status = case when status = 'pending' then 'dead' else status end,
                  settled_at = coalesce(settled_at, now()),
                  held_until = null,
                  lease = null
              from old where id = old.key"
}

held! {
    // What waits to be sent is sent first, or given up within days.
    deliveries,
    held: "select id as key, created_at as at from webhook_deliveries
           where organization_id = $1 and created_at < $2 and status <> 'pending' and body::text <> '{}'",
    emptied: "update webhook_deliveries set body = '{}' from old where id = old.key"
}

/// By which setting something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    TranscriptDays,
    PayloadDays,
}

impl By {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::TranscriptDays => "words",
            Self::PayloadDays => "payload",
        }
    }

    pub(super) const fn days(self, days: Days) -> Option<i32> {
        match self {
            Self::TranscriptDays => days.transcript_days,
            Self::PayloadDays => days.payload_days,
        }
    }
}

/// Calls a macro with each table's module: `what!(by, table, module)` for each, in the order in which they are emptied.
macro_rules! for_each_table {
    ($what:ident) => {
        $what!(By::TranscriptDays, "conversation_transcripts", turns);
        $what!(By::TranscriptDays, "calls", events);
        $what!(By::TranscriptDays, "call_logs", logs);
        $what!(By::TranscriptDays, "interactions", interactions);
        $what!(By::TranscriptDays, "agent_calls", handoffs);
        $what!(By::TranscriptDays, "call_commands", commands);
        $what!(By::TranscriptDays, "call_queue", briefings);
        $what!(By::TranscriptDays, "webhook_deliveries", told);
        $what!(By::PayloadDays, "call_events", callbacks);
        $what!(By::PayloadDays, "calls", reports);
        $what!(By::PayloadDays, "ivr_calls", menu_calls);
        $what!(By::PayloadDays, "ivr_messages", menu_messages);
        $what!(By::PayloadDays, "webhook_deliveries", deliveries);
    };
}

pub(super) use for_each_table;
