//! What somebody chooses for a campaign, and what can be chosen.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::body::{NAME, NOTES, Problems, present};
use crate::api::error::ApiError;
use crate::ids::{AgentId, PhoneNumberId};
use crate::outreach::retry::{Outcome, VoicemailPolicy};
use crate::outreach::window::{TimeOfDay, Weekdays};
use crate::store::call_queue::MOST_ATTEMPTS;
use crate::store::campaigns::Settings;

/// Longest sentence for a machine, in characters: about two minutes of speech.
const VOICEMAIL: usize = 2_000;
/// Longest delay between two tries: thirty days.
const LONGEST_DELAY_S: u32 = 30 * 24 * 60 * 60;

/// What to choose. A member that is absent stays as it is, or as campaigns usually have it; `null` empties it where it may
/// be empty.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({
    "name": "Spring renewals", "start_date": "2026-03-02", "end_date": "2026-03-31", "time_start": "09:00",
    "time_end": "20:00", "weekdays": [1, 2, 3, 4, 5], "message": "Offer to renew the contract for a year.",
    "max_attempts": 3, "retry_delays_s": {"busy": 900, "no_answer": 7200, "voicemail": 14400},
    "voicemail_policy": "retry"
}))]
pub struct CampaignBody {
    /// Name.
    pub name: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// The project it is of.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<Uuid>)]
    pub project_id: Option<Option<Uuid>>,
    /// First day, by the calendar where the lead is; null is no limit.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<Date>)]
    pub start_date: Option<Option<Date>>,
    /// Last day, itself included; null is no limit.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<Date>)]
    pub end_date: Option<Option<Date>>,
    /// Nobody is called before, by the clock where the lead is.
    #[schema(value_type = Option<String>)]
    pub time_start: Option<TimeOfDay>,
    /// Nobody is called then or after; `24:00` is the end of the day.
    #[schema(value_type = Option<String>)]
    pub time_end: Option<TimeOfDay>,
    /// Days on which calls are made; 1 is Monday, 7 is Sunday.
    #[schema(value_type = Option<Vec<i16>>)]
    pub weekdays: Option<Weekdays>,
    /// An object with whatever you want to keep.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Value>,
    /// Who speaks; null is the default agent.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<Uuid>)]
    pub agent_id: Option<Option<AgentId>>,
    /// Our number that shows; null is any.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<Uuid>)]
    pub phone_number_id: Option<Option<PhoneNumberId>>,
    /// What the calls are about, for the agent.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub message: Option<Option<String>>,
    /// Tries to reach a lead, in all, 1 to 20.
    pub max_attempts: Option<i32>,
    /// Calls to one lead within one day of its own calendar, 1 to 10.
    pub max_attempts_per_day: Option<i32>,
    /// Calls at a time, 1 to 10000.
    pub max_concurrent_calls: Option<i32>,
    /// Seconds to wait after `busy`, `no_answer`, `failed`, `voicemail`, `not_placed` or `canceled`; one that is missing is
    /// not tried again, but for `not_placed`, which then waits for five minutes. Replaces what was there.
    #[schema(value_type = Option<Object>)]
    pub retry_delays_s: Option<BTreeMap<Outcome, u32>>,
    /// What is done when a machine answers: `hang_up` and be done, `leave_message` and be done, hang up and `retry` later.
    #[schema(value_type = Option<String>)]
    pub voicemail_policy: Option<VoicemailPolicy>,
    /// What a machine is told.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub voicemail_message: Option<Option<String>>,
    /// Seconds to let it ring, 5 to 600.
    pub ring_timeout_s: Option<i32>,
}

impl CampaignBody {
    /// Chooses, and refuses what cannot be chosen together.
    pub(crate) fn apply(self, settings: &mut Settings) -> Result<(), ApiError> {
        fn set<T>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        set(&mut settings.name, self.name.map(|name| name.trim().to_owned()));
        set(&mut settings.description, self.description);
        set(&mut settings.project_id, self.project_id);
        set(&mut settings.start_date, self.start_date);
        set(&mut settings.end_date, self.end_date);
        set(&mut settings.time_start, self.time_start);
        set(&mut settings.time_end, self.time_end);
        set(&mut settings.weekdays, self.weekdays);
        set(&mut settings.metadata, self.metadata);
        set(&mut settings.agent_id, self.agent_id);
        set(&mut settings.phone_number_id, self.phone_number_id);
        set(&mut settings.message, self.message);
        set(&mut settings.max_attempts, self.max_attempts);
        set(&mut settings.max_attempts_per_day, self.max_attempts_per_day);
        set(&mut settings.max_concurrent_calls, self.max_concurrent_calls);
        set(&mut settings.retry_delays_s, self.retry_delays_s);
        set(&mut settings.voicemail_policy, self.voicemail_policy);
        set(&mut settings.voicemail_message, self.voicemail_message);
        set(&mut settings.ring_timeout_s, self.ring_timeout_s);
        check(settings)
    }
}

fn check(settings: &Settings) -> Result<(), ApiError> {
    let mut problems = Problems::default();
    problems.length("name", &settings.name, 1, NAME);
    for (field, text, most) in [
        ("description", Some(&settings.description), NOTES),
        ("message", settings.message.as_ref(), NOTES),
        ("voicemail_message", settings.voicemail_message.as_ref(), VOICEMAIL),
    ] {
        problems.length(field, text.map_or("", String::as_str), 0, most);
    }
    for (field, value, least, most) in [
        ("max_attempts", settings.max_attempts, 1, MOST_ATTEMPTS),
        ("max_attempts_per_day", settings.max_attempts_per_day, 1, 10),
        ("max_concurrent_calls", settings.max_concurrent_calls, 1, 10_000),
        ("ring_timeout_s", settings.ring_timeout_s, 5, 600),
    ] {
        problems.range(field, value, least, most);
    }
    if settings.time_start >= settings.time_end {
        problems.note("time_end", "must be after time_start; hours over midnight are two campaigns");
    }
    if settings.start_date.zip(settings.end_date).is_some_and(|(start, end)| start > end) {
        problems.note("end_date", "must not be before start_date");
    }
    if !settings.metadata.is_object() {
        problems.note("metadata", "must be an object");
    }
    let is_silent = settings.voicemail_message.as_deref().is_none_or(|text| text.trim().is_empty());
    if settings.voicemail_policy == VoicemailPolicy::LeaveMessage && is_silent {
        problems.note("voicemail_message", "must say something when the policy is leave_message");
    }
    if settings.retry_delays_s.contains_key(&Outcome::Answered) {
        problems.note("retry_delays_s", "whoever answered is not called again: leave `answered` out");
    }
    if settings.retry_delays_s.values().any(|seconds| *seconds > LONGEST_DELAY_S) {
        problems.note("retry_delays_s", "a delay is at most 2592000 seconds, which are thirty days");
    }
    problems.none()
}
