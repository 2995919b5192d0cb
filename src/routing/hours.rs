//! When people answer: the hours of a clock on a wall in their time zone.
//!
//! An instant is looked up as that clock shows it. So an hour that the clock leaps over in spring is in no span, and one
//! that it shows twice in autumn is in its span both times.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

const DAY_S: u32 = 24 * 60 * 60;

/// What a clock on a wall shows, to the second: 00:00 to 24:00, which is the end of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WallTime(u32);

/// A text that no clock shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a time of day such as 09:00, from 00:00 to 24:00")]
pub struct InvalidWallTime;

impl WallTime {
    /// The beginning of the day.
    pub const MIDNIGHT: Self = Self(0);
    /// The end of the day.
    pub const END_OF_DAY: Self = Self(DAY_S);

    /// `None`: more than 24 hours.
    #[must_use]
    pub const fn from_seconds(seconds: u32) -> Option<Self> {
        if seconds <= DAY_S { Some(Self(seconds)) } else { None }
    }

    /// Seconds since 00:00.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        self.0
    }
}

impl FromStr for WallTime {
    type Err = InvalidWallTime;

    /// Reads `HH:MM` and `HH:MM:SS`.
    fn from_str(text: &str) -> Result<Self, InvalidWallTime> {
        let part = |text: &str, most: u32| {
            let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            let number: u32 = text.parse().ok().filter(|_| is_number).ok_or(InvalidWallTime)?;
            if number <= most { Ok(number) } else { Err(InvalidWallTime) }
        };
        let mut parts = text.split(':');
        let hours = part(parts.next().unwrap_or_default(), 24)?;
        let minutes = part(parts.next().unwrap_or_default(), 59)?;
        let seconds = parts.next().map_or(Ok(0), |text| part(text, 59))?;
        if parts.next().is_some() {
            return Err(InvalidWallTime);
        }
        Self::from_seconds((hours * 60 + minutes) * 60 + seconds).ok_or(InvalidWallTime)
    }
}

impl fmt::Display for WallTime {
    /// `HH:MM`, with seconds only where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hours, minutes, seconds) = (self.0 / 3600, self.0 / 60 % 60, self.0 % 60);
        write!(f, "{hours:02}:{minutes:02}")?;
        if seconds > 0 { write!(f, ":{seconds:02}") } else { Ok(()) }
    }
}

impl TryFrom<String> for WallTime {
    type Error = InvalidWallTime;

    fn try_from(text: String) -> Result<Self, InvalidWallTime> {
        text.parse()
    }
}

impl From<WallTime> for String {
    fn from(time: WallTime) -> Self {
        time.to_string()
    }
}

/// Hours of one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The first moment.
    pub opens: WallTime,
    /// The first moment after.
    pub closes: WallTime,
}

impl Span {
    /// Whether it is open when the clock shows this.
    #[must_use]
    pub fn contains(self, time: WallTime) -> bool {
        self.opens <= time && time < self.closes
    }

    /// Whether both are open at any time.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.opens < other.closes && other.opens < self.closes
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.opens, self.closes)
    }
}

/// A day that is not like its weekday.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holiday {
    /// What it is called; may be empty.
    pub name: String,
    /// Its own hours; `None` is closed all day.
    pub span: Option<Span>,
}

/// When people answer.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Where the clock hangs.
    pub time_zone: TimeZone,
    /// False: nobody answers by it.
    pub enabled: bool,
    /// Hours of each weekday, Monday first; a day may have several.
    pub week: [Vec<Span>; 7],
    /// Days that are not like their weekday.
    pub holidays: BTreeMap<Date, Holiday>,
}

/// What a schedule says of a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// People answer.
    InHours {
        /// The hours it is in.
        span: Span,
        /// The day, where it has hours of its own.
        holiday: Option<String>,
    },
    /// It is none of the weekday's hours.
    OutOfHours,
    /// The day is a holiday, and this is none of its hours.
    Holiday {
        /// What the day is called; may be empty.
        name: String,
    },
    /// The schedule is switched off.
    Off,
}

impl Schedule {
    /// Whether people answer at this moment.
    #[must_use]
    pub fn open(&self, now: Timestamp) -> Verdict {
        if !self.enabled {
            return Verdict::Off;
        }
        let (day, time) = self.wall(now);
        if let Some(Holiday { name, span }) = self.holidays.get(&day) {
            return match span {
                Some(span) if span.contains(time) => {
                    Verdict::InHours { span: *span, holiday: Some(name.clone()) }
                }
                _ => Verdict::Holiday { name: name.clone() },
            };
        }
        match self.spans(day.weekday()).iter().find(|span| span.contains(time)) {
            Some(span) => Verdict::InHours { span: *span, holiday: None },
            None => Verdict::OutOfHours,
        }
    }

    /// What the calendar and the clock on the wall show at this moment, fractions of a second left out.
    #[must_use]
    pub fn wall(&self, now: Timestamp) -> (Date, WallTime) {
        let there = self.time_zone.to_datetime(now);
        let time = there.time();
        let [hour, minute, second] =
            [time.hour(), time.minute(), time.second()].map(|part| u32::from(part.unsigned_abs()));
        (there.date(), WallTime((hour * 60 + minute) * 60 + second))
    }

    /// Hours of a weekday.
    #[must_use]
    pub fn spans(&self, weekday: Weekday) -> &[Span] {
        &self.week[usize::from(weekday.to_monday_zero_offset().unsigned_abs())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(text: &str) -> Span {
        let (opens, closes) = text.split_once('-').unwrap();
        Span { opens: opens.parse().unwrap(), closes: closes.parse().unwrap() }
    }

    /// The same hours on every day.
    fn daily(zone: &str, spans: &[&str]) -> Schedule {
        let spans: Vec<Span> = spans.iter().map(|text| span(text)).collect();
        Schedule {
            time_zone: TimeZone::get(zone).unwrap(),
            enabled: true,
            week: std::array::from_fn(|_| spans.clone()),
            holidays: BTreeMap::new(),
        }
    }

    fn verdict(schedule: &Schedule, now: &str) -> String {
        match schedule.open(now.parse().unwrap()) {
            Verdict::InHours { span, holiday: None } => span.to_string(),
            Verdict::InHours { span, holiday: Some(name) } => format!("{span} on {name}"),
            Verdict::OutOfHours => "out".into(),
            Verdict::Holiday { name } => format!("holiday {name}"),
            Verdict::Off => "off".into(),
        }
    }

    #[test]
    fn a_time_of_day_is_read_as_it_is_written_and_24_00_is_the_end_of_the_day() {
        for text in ["00:00", "09:05", "23:59", "12:30:15", "24:00"] {
            assert_eq!(text.parse::<WallTime>().unwrap().to_string(), text);
        }
        assert_eq!("24:00:00".parse(), Ok(WallTime::END_OF_DAY));
        for text in [
            "",
            "9:00",
            "09",
            "09:60",
            "24:01",
            "25:00",
            "09:00:60",
            "09:00:00:00",
            "+9:00",
            "09:00 ",
            "٠٩:00",
        ] {
            assert_eq!(text.parse::<WallTime>(), Err(InvalidWallTime), "{text}");
        }
    }

    #[test]
    fn a_span_begins_with_its_first_moment_and_ends_before_its_last() {
        let office = daily("Europe/Berlin", &["09:00-12:00", "13:00-17:30"]);
        for (now, expected) in [
            ("2026-01-14T07:59:59.999Z", "out"),
            ("2026-01-14T08:00:00Z", "09:00-12:00"),
            ("2026-01-14T10:59:59.999Z", "09:00-12:00"),
            ("2026-01-14T11:00:00Z", "out"),
            ("2026-01-14T12:00:00Z", "13:00-17:30"),
            ("2026-01-14T16:29:59Z", "13:00-17:30"),
            ("2026-01-14T16:30:00Z", "out"),
            ("2026-07-15T07:00:00Z", "09:00-12:00"),
            ("2026-07-15T06:59:00Z", "out"),
        ] {
            assert_eq!(verdict(&office, now), expected, "{now}");
        }
        let night = daily("UTC", &["00:00-06:00", "22:00-24:00"]);
        for (now, expected) in [
            ("2026-01-14T23:59:59.999999999Z", "22:00-24:00"),
            ("2026-01-15T00:00:00Z", "00:00-06:00"),
            ("2026-01-15T06:00:00Z", "out"),
        ] {
            assert_eq!(verdict(&night, now), expected, "{now}");
        }
    }

    #[test]
    fn the_weekday_and_the_day_are_those_of_the_zone() {
        let mut schedule = daily("Asia/Kolkata", &[]);
        schedule.week[0] = vec![span("00:00-24:00")]; // Monday.
        let christmas = jiff::civil::date(2026, 12, 25);
        schedule
            .holidays
            .insert(christmas, Holiday { name: "Christmas".into(), span: Some(span("10:00-11:00")) });
        schedule
            .holidays
            .insert(jiff::civil::date(2026, 12, 28), Holiday { name: String::new(), span: None });
        for (now, expected) in [
            ("2026-01-11T18:29:59Z", "out"),         // Sunday 23:59:59 there.
            ("2026-01-11T18:30:00Z", "00:00-24:00"), // Monday.
            ("2026-01-12T18:29:59Z", "00:00-24:00"),
            ("2026-01-12T18:30:00Z", "out"), // Tuesday.
            ("2026-12-24T18:29:59Z", "out"),
            ("2026-12-24T18:30:00Z", "holiday Christmas"),
            ("2026-12-25T04:30:00Z", "10:00-11:00 on Christmas"),
            ("2026-12-25T05:30:00Z", "holiday Christmas"),
            ("2026-12-28T05:30:00Z", "holiday "), // A Monday that is closed.
        ] {
            assert_eq!(verdict(&schedule, now), expected, "{now}");
        }
        schedule.enabled = false;
        assert_eq!(verdict(&schedule, "2026-12-25T04:30:00Z"), "off");
    }

    #[test]
    fn an_hour_that_the_clock_leaps_over_is_never_open_and_one_that_it_shows_twice_is_open_twice() {
        for (zone, hours, open) in [
            // Leaps from 02:00 to 03:00 at 01:00Z, and shows 02:00 to 03:00 twice from 00:00Z to 02:00Z.
            ("Europe/Berlin", "02:00-03:00", [(2026, 3, 29, 0), (2026, 10, 25, 120), (2026, 6, 1, 60)]),
            ("America/New_York", "02:00-03:00", [(2026, 3, 8, 0), (2026, 11, 1, 60), (2026, 6, 1, 60)]),
            ("America/New_York", "01:00-02:00", [(2026, 3, 8, 60), (2026, 11, 1, 120), (2026, 6, 1, 60)]),
            // Half an hour: leaps from 02:00 to 02:30, and shows 01:30 to 02:00 twice.
            ("Australia/Lord_Howe", "02:00-03:00", [(2026, 10, 4, 30), (2026, 4, 5, 60), (2026, 6, 1, 60)]),
            ("Australia/Lord_Howe", "01:30-02:00", [(2026, 10, 4, 30), (2026, 4, 5, 60), (2026, 6, 1, 30)]),
        ] {
            for (year, month, day, minutes) in open {
                let mut schedule = daily(zone, &[]);
                let day = jiff::civil::date(year, month, day);
                schedule.holidays.insert(day, Holiday { name: String::new(), span: Some(span(hours)) });
                let noon = day.at(12, 0, 0, 0).to_zoned(TimeZone::UTC).unwrap().timestamp();
                let found = (-2 * 24 * 60..2 * 24 * 60)
                    .map(|minute| noon + jiff::SignedDuration::from_mins(minute))
                    .filter(|now| matches!(schedule.open(*now), Verdict::InHours { .. }))
                    .count();
                assert_eq!(found, minutes, "{zone} {hours} on {day}");
            }
        }
    }

    /// A wall clock that knows nothing but when it is put forward or back: minutes since 1970 in UTC, and the minutes it
    /// is ahead of UTC from then on. Of the laws of each country, for 2026.
    struct OtherClock {
        zone: &'static str,
        changes: Vec<(i64, i64)>,
    }

    /// Minutes since 1970 of the beginning of a day of 2026, counted by months.
    fn minutes_to(month: usize, day: i64) -> i64 {
        const LENGTHS: [i64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        // 56 years since 1970, of which 14 were leap years (1972 to 2024).
        (56 * 365 + 14 + LENGTHS[..month - 1].iter().sum::<i64>() + day - 1) * 24 * 60
    }

    fn other_clocks() -> [OtherClock; 4] {
        let clock = |zone, first, changes: &[(i64, i64)]| OtherClock {
            zone,
            changes: std::iter::once((i64::MIN, first)).chain(changes.iter().copied()).collect(),
        };
        [
            // At 01:00 UTC on the last Sundays of March and October.
            clock("Europe/Berlin", 60, &[(minutes_to(3, 29) + 60, 120), (minutes_to(10, 25) + 60, 60)]),
            // At 02:00 of the clock on the second Sunday of March and the first of November.
            clock(
                "America/New_York",
                -300,
                &[(minutes_to(3, 8) + 420, -240), (minutes_to(11, 1) + 360, -300)],
            ),
            clock("Asia/Kolkata", 330, &[]),
            // At 02:00 of the clock on the first Sundays of April and October; half an hour.
            clock(
                "Australia/Lord_Howe",
                660,
                &[(minutes_to(4, 5) - 540, 630), (minutes_to(10, 4) - 510, 660)],
            ),
        ]
    }

    impl OtherClock {
        /// Day since 1970 and minute of the day.
        fn shows(&self, minute: i64) -> (i64, i64) {
            let ahead = self.changes.iter().rev().find(|(from, _)| *from <= minute).unwrap().1;
            let there = minute + ahead;
            (there.div_euclid(24 * 60), there.rem_euclid(24 * 60))
        }
    }

    /// Minutes of the day by weekday, Monday first, and days since 1970 with minutes of their own.
    #[derive(Debug, Clone)]
    struct Plan {
        week: [Vec<(i64, i64)>; 7],
        days: BTreeMap<i64, Option<(i64, i64)>>,
    }

    impl Plan {
        fn is_open(&self, day: i64, minute: i64) -> bool {
            let within = |(opens, closes): &(i64, i64)| (*opens..*closes).contains(&minute);
            match self.days.get(&day) {
                Some(hours) => hours.as_ref().is_some_and(within),
                // The first day of 1970 was a Thursday.
                None => self.week[((day + 3) % 7) as usize].iter().any(within),
            }
        }

        fn schedule(&self, zone: &str) -> Schedule {
            let time = |minute: i64| WallTime::from_seconds(minute as u32 * 60).unwrap();
            let span = |(opens, closes): &(i64, i64)| Span { opens: time(*opens), closes: time(*closes) };
            let first = jiff::civil::date(1970, 1, 1);
            let holiday =
                |hours: &Option<(i64, i64)>| Holiday { name: String::new(), span: hours.as_ref().map(span) };
            Schedule {
                time_zone: TimeZone::get(zone).unwrap(),
                enabled: true,
                week: std::array::from_fn(|day| self.week[day].iter().map(span).collect()),
                holidays: self
                    .days
                    .iter()
                    .map(|(day, hours)| (first + jiff::Span::new().days(*day), holiday(hours)))
                    .collect(),
            }
        }
    }

    /// Compares minute by minute.
    fn walk(plan: &Plan, clock: &OtherClock, minutes: impl Iterator<Item = i64>) -> Result<(), String> {
        let schedule = plan.schedule(clock.zone);
        for minute in minutes {
            let (day, time) = clock.shows(minute);
            let open = matches!(
                schedule.open(Timestamp::from_second(minute * 60).unwrap()),
                Verdict::InHours { .. }
            );
            if open != plan.is_open(day, time) {
                let at = Timestamp::from_second(minute * 60).unwrap();
                return Err(format!("{}: open is {open} at {at}, which is {time} of day {day}", clock.zone));
            }
        }
        Ok(())
    }

    #[test]
    fn every_minute_of_a_year_is_as_a_clock_with_the_laws_of_the_country_says() {
        let office = vec![(9 * 60, 12 * 60), (13 * 60, 17 * 60 + 30)];
        let night = vec![(0, 2 * 60 + 15), (2 * 60 + 30, 3 * 60), (22 * 60, 24 * 60)];
        let mut week = std::array::from_fn(|day| if day < 5 { office.clone() } else { Vec::new() });
        week[5].clone_from(&night);
        week[6] = night; // Clocks are changed on Sundays.
        let new_year = minutes_to(1, 1) / (24 * 60);
        let days = BTreeMap::from([
            (new_year, None),
            (new_year + 358, Some((600, 720))),
            (new_year + 364, Some((0, 1440))),
        ]);
        let plan = Plan { week, days };
        for clock in other_clocks() {
            walk(&plan, &clock, minutes_to(1, 1)..minutes_to(12, 31) + 24 * 60).unwrap();
        }
    }

    mod properties {
        use proptest::prelude::*;

        use super::*;

        fn hours() -> impl Strategy<Value = (i64, i64)> {
            (0..1440_i64, 1..=1440_i64).prop_map(|(opens, length)| (opens, (opens + length).min(1440)))
        }

        fn plan() -> impl Strategy<Value = Plan> {
            let week = prop::array::uniform7(prop::collection::vec(hours(), 0..3));
            let first = minutes_to(1, 1) / 1440;
            let days = prop::collection::btree_map(first..first + 365, prop::option::of(hours()), 0..20);
            (week, days).prop_map(|(week, days)| Plan { week, days })
        }

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(24))]

            #[test]
            fn any_hours_hold_on_the_days_of_a_change_and_on_any_other(plan in plan(), start in 0..360_i64) {
                for clock in other_clocks() {
                    let day = minutes_to(1, 1) + start * 1440;
                    let changes = clock.changes[1..].iter().map(|(at, _)| at - 1440..at + 1440);
                    for minutes in changes.chain(std::iter::once(day..day + 2 * 1440)) {
                        walk(&plan, &clock, minutes).map_err(TestCaseError::fail)?;
                    }
                }
            }
        }
    }
}
