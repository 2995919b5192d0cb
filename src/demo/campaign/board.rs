//! The board: each try as it ends, and how all leads stand in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use uuid::Uuid;

use super::checks::Truth;
use super::leads::Lead;
use super::{Attempt, Place};

/// Prints each try once it has ended.
pub(super) struct Board {
    /// Name and zone of each lead.
    leads: BTreeMap<i64, (&'static str, &'static str)>,
    shown: BTreeSet<Uuid>,
}

impl Board {
    pub(super) fn new(leads: &[Lead]) -> Self {
        let leads = leads.iter().map(|lead| (lead.id, (lead.name, lead.zone))).collect();
        Self { leads, shown: BTreeSet::new() }
    }

    pub(super) fn show(&mut self, attempts: &[Attempt], since: Duration) {
        let mut ended: Vec<&Attempt> = attempts.iter().filter(|attempt| attempt.status == "ended").collect();
        ended.sort_by_key(|attempt| (attempt.lead_id, attempt.attempt_number));
        for attempt in ended {
            if !self.shown.insert(attempt.id) {
                continue;
            }
            let (name, zone) =
                attempt.lead_id.and_then(|id| self.leads.get(&id)).copied().unwrap_or(("?", "UTC"));
            let outcome = attempt.outcome.as_deref().unwrap_or("?");
            let talk =
                attempt.duration.filter(|_| outcome == "answered").map(|seconds| format!("{seconds} s"));
            let again = attempt.next_retry_at.map(|at| format!("again at {}", clock(at, zone)));
            println!(
                "  {:>5.1} s  {name:<6} try {}  {outcome:<10}  {:>4}  {}",
                since.as_secs_f64(),
                attempt.attempt_number,
                talk.unwrap_or_default(),
                again.unwrap_or_default()
            );
        }
    }
}

/// How each lead stands.
pub(super) fn summary(truth: &Truth) {
    println!("\nThe queue:\n");
    for lead in &truth.leads {
        let place = truth.places.iter().find(|place| place.lead_id == Some(lead.id));
        println!("  {:<6} {:<20} {}", lead.name, lead.zone, standing(lead, place));
    }
}

fn standing(lead: &Lead, place: Option<&Place>) -> String {
    let Some(place) = place else { return "not in the queue".into() };
    let tries = if place.attempt_count == 1 { "try" } else { "tries" };
    let so_far = format!("{:<10} after {} {tries}", place.status, place.attempt_count);
    match (place.status.as_str(), &place.last_error) {
        ("queued", _) => format!("{so_far}, not before {}", clock(place.next_retry_at, lead.zone)),
        (_, Some(why)) if place.status == "failed" => format!("{so_far}: {why}"),
        _ => so_far,
    }
}

/// The time on the wall there.
fn clock(at: Timestamp, zone: &str) -> String {
    let zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
    at.to_zoned(zone).strftime("%H:%M there").to_string()
}
