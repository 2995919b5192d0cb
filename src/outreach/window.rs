//! When a campaign may call somebody, by the clock and calendar on the wall where that person is.

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// Days and hours of calling. Read against the clock of each lead, so one window is many moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First day; `None` is no limit.
    pub first_day: Option<Date>,
    /// Last day, itself included; `None` is no limit.
    pub last_day: Option<Date>,
    /// When a day's calls begin.
    pub opens: TimeOfDay,
    /// When they are over: nobody is called at this time or after.
    pub closes: TimeOfDay,
    /// Days on which calls are made.
    pub weekdays: Weekdays,
}

/// A time on a wall clock, in whole seconds, from `00:00` to `24:00`, which is the end of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay(u32);

/// A set of weekdays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<i16>", into = "Vec<i16>")]
pub struct Weekdays(u8);

/// Not the name of a place's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an IANA time zone, such as Europe/Berlin")]
pub struct UnknownZone;

/// Not a time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a time of day, such as 09:00; the end of the day is 24:00")]
pub struct InvalidTime;

/// Not a set of weekdays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("weekdays are one or more numbers from 1, Monday, to 7, Sunday")]
pub struct InvalidWeekdays;

const SECONDS_A_DAY: u32 = 24 * 60 * 60;
/// Clocks are at most 26 hours apart; a little more costs nothing.
const FURTHEST_CLOCK: SignedDuration = SignedDuration::from_hours(30);

/// The clock of an IANA name, in whatever case it is written.
///
/// Names that stand for "not known" are refused, although they read as UTC.
pub fn zone(name: &str) -> Result<TimeZone, UnknownZone> {
    let zone = TimeZone::get(name).map_err(|_| UnknownZone)?;
    let is_known = !zone.is_unknown() && zone.iana_name().is_some_and(|name| name != "Factory");
    if is_known { Ok(zone) } else { Err(UnknownZone) }
}

/// The day it still is somewhere: every day before it is over everywhere.
#[must_use]
pub fn earliest_day(now: Timestamp) -> Date {
    // Twelve hours behind UTC is where a day ends last.
    Offset::constant(-12).to_datetime(now).date()
}

impl Window {
    /// Whether it is open when the lead's calendar and clock read this.
    #[must_use]
    pub fn contains(&self, local: DateTime) -> bool {
        self.not_earlier(local) == Some(local)
    }

    /// The first moment from `now` on at which it is open in `zone`; `now` itself when it is open. `None`: never again.
    ///
    /// Hours that the clock skips do not open that day; hours that it shows twice are open twice.
    // Between two changes of a clock it runs evenly, and the question is one of plain arithmetic.
    #[must_use]
    pub fn next_opening(&self, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
        let mut from = now.max(self.shortly_before_first_day().unwrap_or(now));
        let mut changes = zone.following(from);
        loop {
            let offset = zone.to_offset(from);
            let opening = self.not_earlier(offset.to_datetime(from)).and_then(|local| moment(local, offset));
            let Some(change) = changes.next().map(|change| change.timestamp()) else { return opening };
            if let Some(opening) = opening.filter(|opening| *opening < change) {
                return Some(opening);
            }
            // Past the last day, with room for a clock that is set back over midnight.
            if self.last_day.is_some_and(|last| is_long_after(last, change)) {
                return None;
            }
            from = change;
        }
    }

    /// The first moment from `now` on at which it is open in `zone`, and so it is `span` later. Hours of less than twice that
    /// are asked for half of their length. `None`: never again.
    #[must_use]
    pub fn next_opening_for(
        &self,
        span: SignedDuration,
        zone: &TimeZone,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let hours = self.closes.seconds().checked_sub(self.opens.seconds()).filter(|hours| *hours > 0)?;
        let span = span.min(SignedDuration::from_secs(i64::from(hours / 2)));
        let mut from = now;
        loop {
            let opening = self.next_opening(zone, from)?;
            let end = opening.checked_add(span).ok()?;
            let open_again = self.next_opening(zone, end)?;
            if open_again == end {
                return Some(opening);
            }
            from = open_again;
        }
    }

    /// The same window without the days before this one.
    #[must_use]
    pub fn from_day(self, day: Date) -> Self {
        Self { first_day: Some(self.first_day.map_or(day, |first| first.max(day))), ..self }
    }

    /// Whether the last day is over wherever on Earth one is.
    #[must_use]
    pub fn is_over_everywhere(&self, now: Timestamp) -> bool {
        self.last_day.is_some_and(|last| last < earliest_day(now))
    }

    /// The first reading from `local` on within the window, of a clock that nobody sets.
    fn not_earlier(&self, local: DateTime) -> Option<DateTime> {
        let opens = self.opens.as_civil()?;
        let mut local = match self.first_day {
            Some(first) if local.date() < first => first.at(0, 0, 0, 0),
            _ => local,
        };
        // Today may be over, and then there is one in the seven days after it.
        for _ in 0..=7 {
            if self.last_day.is_some_and(|last| local.date() > last) {
                return None;
            }
            if self.weekdays.contains(local.weekday()) && self.closes.is_after(local.time()) {
                return Some(local.max(local.date().to_datetime(opens)));
            }
            local = local.date().tomorrow().ok()?.at(0, 0, 0, 0);
        }
        None
    }

    fn shortly_before_first_day(&self) -> Option<Timestamp> {
        let midnight = moment(self.first_day?.at(0, 0, 0, 0), Offset::UTC)?;
        midnight.checked_sub(FURTHEST_CLOCK).ok()
    }
}

fn moment(local: DateTime, offset: Offset) -> Option<Timestamp> {
    offset.to_timestamp(local).ok()
}

fn is_long_after(day: Date, moment: Timestamp) -> bool {
    let last_end = day.checked_add(3.days()).map(|day| day.at(0, 0, 0, 0));
    last_end.is_ok_and(|end| Offset::UTC.to_datetime(moment) > end)
}

impl TimeOfDay {
    /// `00:00`.
    pub const START: Self = Self(0);
    /// `09:00`.
    pub const NINE: Self = Self(9 * 3600);
    /// `20:00`.
    pub const TWENTY: Self = Self(20 * 3600);
    /// `24:00`.
    pub const END: Self = Self(SECONDS_A_DAY);

    /// Reads `HH:MM` or `HH:MM:SS`, as people write it and PostgreSQL does.
    pub fn parse(text: &str) -> Result<Self, InvalidTime> {
        let mut parts = text.split(':').map(|part| {
            let is_number = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse::<u32>().ok().filter(|_| is_number)
        });
        let mut next = |missing| parts.next().unwrap_or(missing).ok_or(InvalidTime);
        let (hours, minutes, seconds) = (next(None)?, next(None)?, next(Some(0))?);
        let total = hours * 3600 + minutes * 60 + seconds;
        if parts.next().is_some() || minutes > 59 || seconds > 59 || total > SECONDS_A_DAY {
            return Err(InvalidTime);
        }
        Ok(Self(total))
    }

    /// Seconds since the start of a day that has none added or taken away.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        self.0
    }

    /// `None` for the end of the day, which no clock shows.
    fn as_civil(self) -> Option<Time> {
        let [hours, minutes, seconds] = self.parts().map(|part| i8::try_from(part).ok());
        Time::new(hours?, minutes?, seconds?, 0).ok()
    }

    fn is_after(self, time: Time) -> bool {
        self.as_civil().is_none_or(|this| this > time)
    }

    const fn parts(self) -> [u32; 3] {
        [self.0 / 3600, self.0 / 60 % 60, self.0 % 60]
    }
}

impl std::fmt::Display for TimeOfDay {
    /// `HH:MM`, with seconds where there are any.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [hours, minutes, seconds] = self.parts();
        write!(f, "{hours:02}:{minutes:02}")?;
        if seconds > 0 { write!(f, ":{seconds:02}") } else { Ok(()) }
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = InvalidTime;

    fn try_from(text: String) -> Result<Self, InvalidTime> {
        Self::parse(&text)
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

impl TryFrom<Vec<i16>> for Weekdays {
    type Error = InvalidWeekdays;

    fn try_from(numbers: Vec<i16>) -> Result<Self, InvalidWeekdays> {
        Self::from_numbers(&numbers)
    }
}

impl From<Weekdays> for Vec<i16> {
    fn from(days: Weekdays) -> Self {
        days.numbers()
    }
}

impl Weekdays {
    /// All seven.
    pub const EVERY: Self = Self(0b111_1111);

    /// Reads numbers from 1, Monday, to 7, Sunday (ISO 8601). There must be one.
    pub fn from_numbers(numbers: &[i16]) -> Result<Self, InvalidWeekdays> {
        let mut days = 0;
        for number in numbers {
            if !(1..=7).contains(number) {
                return Err(InvalidWeekdays);
            }
            days |= 1 << (number - 1);
        }
        if days == 0 { Err(InvalidWeekdays) } else { Ok(Self(days)) }
    }

    /// The same numbers, in order, each once.
    #[must_use]
    pub fn numbers(self) -> Vec<i16> {
        (1..=7).filter(|number| self.0 & (1 << (number - 1)) != 0).collect()
    }

    /// Whether this day is one of them.
    #[must_use]
    pub fn contains(self, day: Weekday) -> bool {
        self.0 & (1 << day.to_monday_zero_offset()) != 0
    }
}
