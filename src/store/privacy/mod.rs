//! What is not kept: words and payloads that have grown old, and people who are to be forgotten.
//!
//! What each table holds is said here, in one place ([`HOLDINGS`]): a column without a word about it fails a test. What
//! follows from that is in [`erasure`], where all of a person goes, and in [`retention`], where words and payloads go by
//! their age.

pub mod erasure;
mod held;
pub mod retention;

use sqlx::postgres::PgConnection;

use crate::ids::CallSid;
use crate::store::Store;

/// For how long whoever asks waits for a statement that looks at all there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A request: less than a request may take, so that nothing goes on when its answer is not waited for any more.
    Request,
    /// A command or a job: years may have to be looked through.
    Command,
}

impl Patience {
    /// For the rest of the transaction.
    async fn allow(self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let most = match self {
            Self::Request => "20s",
            Self::Command => "5min",
        };
        sqlx::query!("select set_config('statement_timeout', $1, true)", most).fetch_one(connection).await?;
        Ok(())
    }
}

/// What a column of a tenant's table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holds {
    /// What somebody can be told by: numbers, names, and what is said about a person. Goes when the person is erased.
    Personal,
    /// What was said in calls, and what was written from it. Goes with age (`transcript_days`), and with the person.
    Words,
    /// What others sent us, as they sent it. Goes with age (`payload_days`), and with the person.
    Payload,
    /// Our own words, ids and settings.
    Nothing,
}

/// A table, and its columns by what they hold.
pub type Holding = (&'static str, &'static [(Holds, &'static [&'static str])]);

/// The columns that hold text or JSON, table by table. Those of other types can hold no words.
pub const HOLDINGS: &[Holding] = {
    use Holds::{Nothing, Payload, Personal, Words};
    &[
        (
            "agent_calls",
            &[
                (Words, &["reason", "summary", "transcript", "agent_notes", "objections"]),
                (Personal, &["outcome", "next_action", "recording_url", "interest_level"]),
                (Nothing, &["agent_name", "call_sid", "parent_call_sid", "status"]),
            ],
        ),
        (
            "agents",
            &[(
                Nothing,
                &[
                    "name",
                    "vapi_assistant_id",
                    "instructions",
                    "greeting",
                    "voice",
                    "model",
                    "transcription_model",
                    "audio_format",
                    "turn_detection",
                    "tools",
                    "transfer_number",
                    "fallback_sentence",
                    "opt_out_digit",
                ],
            )],
        ),
        ("api_keys", &[(Nothing, &["name", "created_by"])]),
        ("api_key_secrets", &[(Nothing, &["prefix"])]),
        ("audit_log", &[(Nothing, &["actor", "action", "subject", "call_sid"])]),
        (
            "call_attempts",
            &[
                (Personal, &["to_number", "from_number"]),
                (
                    Nothing,
                    &[
                        "channel",
                        "status",
                        "outcome",
                        "retry_reason",
                        "call_sid",
                        "node",
                        "answered_by",
                        "error",
                    ],
                ),
            ],
        ),
        // Follows from what `calls` holds.
        ("call_briefs", &[(Words, &["events"]), (Payload, &["report"])]),
        ("call_commands", &[(Words, &["payload"]), (Nothing, &["call_sid", "kind", "node", "result"])]),
        (
            "call_events",
            &[
                (Payload, &["payload"]),
                (Personal, &["to_number", "from_number"]),
                (Nothing, &["call_sid", "call_status", "direction", "answered_by"]),
            ],
        ),
        (
            "call_leases",
            &[
                (Personal, &["from_number", "to_number"]),
                (Nothing, &["call_sid", "direction", "node", "next_action", "disconnect_reason"]),
            ],
        ),
        (
            "call_logs",
            &[
                (
                    Words,
                    &["conversation_transcript", "conversation_summary", "transfer_reason", "ai_analysis"],
                ),
                (Personal, &["caller_number", "callee_number", "recording_url", "interest_level"]),
                (
                    Nothing,
                    &[
                        "call_sid",
                        "direction",
                        "status",
                        "call_status",
                        "disconnect_reason",
                        "disconnect_notes",
                    ],
                ),
            ],
        ),
        (
            "call_queue",
            &[
                (Words, &["message"]),
                (Personal, &["to_number"]),
                (Nothing, &["status", "last_error", "interaction_id"]),
            ],
        ),
        ("call_streams", &[(Nothing, &["call_sid", "resumed_after", "node"])]),
        (
            "calls",
            &[(Words, &["event_sequence"]), (Payload, &["data"]), (Nothing, &["call_sid", "routing_status"])],
        ),
        (
            "campaigns",
            &[(
                Nothing,
                &[
                    "name",
                    "description",
                    "status",
                    "metadata",
                    "message",
                    "retry_delays_s",
                    "voicemail_policy",
                    "voicemail_message",
                ],
            )],
        ),
        (
            "conversation_transcripts",
            &[
                (Words, &["content", "generated_content"]),
                (
                    Nothing,
                    &["call_sid", "item_id", "role", "status", "evidence", "tool_name", "tool_call_id"],
                ),
            ],
        ),
        ("do_not_call", &[(Personal, &["number", "reason", "call_sid"]), (Nothing, &["source"])]),
        ("erasures", &[(Nothing, &["asked_by", "subject", "counts"])]),
        (
            "interactions",
            &[
                (Words, &["transcript"]),
                (
                    Personal,
                    &[
                        "id",
                        "customerId",
                        "phoneNumber",
                        "recording",
                        "callDisposition",
                        "callQualityMetrics",
                    ],
                ),
                (Nothing, &["agentId", "call_sid", "roomName"]),
            ],
        ),
        (
            "ivr_calls",
            &[
                (Payload, &["payload"]),
                (Personal, &["from_number", "to_number", "digits", "recording_url"]),
                (Nothing, &["provider_call_id", "call_sid", "status"]),
            ],
        ),
        (
            "ivr_messages",
            &[
                (Payload, &["payload"]),
                (
                    Personal,
                    &["from_number", "from_phone", "to_number", "to_phone", "digits", "recording_url"],
                ),
                (Nothing, &["provider_call_id", "call_sid", "status"]),
            ],
        ),
        ("ivr_providers", &[(Nothing, &["name", "mapping", "time_zone", "country_code"])]),
        (
            // A copy of somebody else's log: what grows old is for them to say.
            "kaleyra_call_logs",
            &[
                (Personal, &["callfrom", "callto", "location", "caller_id", "recording", "notes", "custom"]),
                (Nothing, &["id", "uniqid", "status", "provider", "service"]),
            ],
        ),
        ("kaleyra_syncs", &[(Nothing, &["status", "reasons", "error", "node"])]),
        (
            "leads",
            &[(Personal, &["name", "phone", "email", "lead_status", "notes", "call_sid", "time_zone"])],
        ),
        ("phone_numbers", &[(Nothing, &["number", "label"])]),
        ("projects", &[(Nothing, &["name", "description"])]),
        ("retention_runs", &[(Nothing, &["trigger", "counts", "error"])]),
        ("routing_decisions", &[(Nothing, &["call_sid", "step", "decision", "reason", "details"])]),
        ("schedule_holidays", &[(Nothing, &["name"])]),
        ("schedules", &[(Nothing, &["name", "time_zone"])]),
        ("team_members", &[(Nothing, &["name", "number"])]),
        ("teams", &[(Nothing, &["name"])]),
        ("vapi_calls", &[(Nothing, &["vapi_call_id"])]),
        // What receivers answer; it goes with what they were sent, or after a month.
        ("webhook_attempts", &[(Nothing, &["error", "response"])]),
        (
            "webhook_deliveries",
            &[(Payload, &["body"]), (Nothing, &["event_id", "also_id", "event_type", "call_sid", "status"])],
        ),
        (
            "webhook_endpoints",
            &[(Nothing, &["url", "description", "disabled_reason", "secret", "previous_secret"])],
        ),
    ]
};

/// Which of these calls were erased: nothing is put on record of them any more.
pub async fn erased_among<'a>(store: &Store, calls: &[&'a CallSid]) -> sqlx::Result<Vec<&'a CallSid>> {
    let sids: Vec<String> = calls.iter().map(|call| call.as_str().to_owned()).collect();
    let erased = sqlx::query_scalar!(
        r#"
        select sid as "sid!"
        from unnest($1::text[]) as sid
        where call_is_erased(sid)
        "#,
        &sids,
    )
    .fetch_all(&mut *store.connection().await?)
    .await?;
    Ok(calls.iter().copied().filter(|call| erased.iter().any(|sid| sid == call.as_str())).collect())
}
