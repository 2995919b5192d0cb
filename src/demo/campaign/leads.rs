//! Twenty people around the world, a few of them where it is night.

use anyhow::Context as _;
use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;

/// The campaign's hours, by the clock where a lead is.
pub(super) const OPENS: &str = "09:00";
pub(super) const CLOSES: &str = "20:00";
/// Those who are called have this many minutes left before the hours end, so that the demo ends before.
const LEFT_MINUTES: i32 = 15;
/// Every so many-th lead is where it is night.
const ASLEEP_EVERY: usize = 7;

const NAMES: [&str; 20] = [
    "Ada", "Ben", "Carla", "Deniz", "Emeka", "Femi", "Greta", "Hana", "Ivan", "Jun", "Kofi", "Lena", "Mara",
    "Noor", "Omar", "Pia", "Quinn", "Rosa", "Sven", "Tala",
];
/// All around the world: somewhere it is always day, and somewhere night.
const ZONES: [&str; 14] = [
    "Pacific/Honolulu",
    "America/Los_Angeles",
    "America/Denver",
    "America/New_York",
    "America/Sao_Paulo",
    "Atlantic/Azores",
    "Europe/London",
    "Europe/Berlin",
    "Africa/Nairobi",
    "Asia/Kolkata",
    "Asia/Singapore",
    "Asia/Tokyo",
    "Australia/Sydney",
    "Pacific/Auckland",
];

/// Somebody to call.
#[derive(Debug, Clone)]
pub(super) struct Lead {
    /// Given by the API.
    pub(super) id: i64,
    pub(super) name: &'static str,
    pub(super) phone: String,
    pub(super) zone: &'static str,
    /// May be called now.
    pub(super) awake: bool,
}

/// The leads as they are best for a demo that begins now.
pub(super) fn twenty(now: Timestamp) -> anyhow::Result<Vec<Lead>> {
    let mut day = Vec::new();
    let mut night = Vec::new();
    for zone in ZONES {
        let minute = minute_of_day(now, zone).context("the zones of the demo are known")?;
        if (9 * 60..20 * 60 - LEFT_MINUTES).contains(&minute) {
            day.push(zone);
        } else if !(9 * 60 - LEFT_MINUTES..20 * 60).contains(&minute) {
            night.push(zone);
        }
    }
    let pick = |zones: &[&'static str], number: usize| zones.get(number % zones.len().max(1)).copied();
    let lead = |(number, name)| {
        let awake = (number + 1) % ASLEEP_EVERY != 0;
        let zone =
            pick(if awake { &day } else { &night }, number).context("it is day and night somewhere")?;
        Ok(Lead { id: 0, name, phone: format!("+141555501{number:02}"), zone, awake })
    };
    NAMES.into_iter().enumerate().map(lead).collect()
}

/// Whether somebody there may be called at this moment.
pub(super) fn is_open(at: Timestamp, zone: &str) -> bool {
    minute_of_day(at, zone).is_some_and(|minute| (9 * 60..20 * 60).contains(&minute))
}

fn minute_of_day(at: Timestamp, zone: &str) -> Option<i32> {
    let time: Time = at.to_zoned(TimeZone::get(zone).ok()?).time();
    Some(i32::from(time.hour()) * 60 + i32::from(time.minute()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_leads_by_day_and_by_night_at_any_hour() {
        for hour in 0..24 {
            for day in ["2026-01-15", "2026-03-08", "2026-07-01", "2026-11-01"] {
                let now: Timestamp = format!("{day}T{hour:02}:30:00Z").parse().unwrap();
                let leads = twenty(now).unwrap();
                let asleep: Vec<&Lead> = leads.iter().filter(|lead| !lead.awake).collect();
                assert_eq!((leads.len(), asleep.len()), (20, 2), "{now}");
                assert!(leads.iter().all(|lead| is_open(now, lead.zone) == lead.awake), "{now}");
            }
        }
    }
}
