//! The rules against a walk minute by minute, over weeks in which clocks are changed.

use std::sync::LazyLock;

use jiff::civil::{Date, DateTime, date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use proptest::prelude::*;

use super::campaign::CampaignStatus;
use super::rules::{Campaign, Candidate, Hold, Refusal, Verdict, Wait};
use super::window::{TimeOfDay, Weekdays, Window, zone};

/// Zones and days on which their clocks are set: forward, back, by half an hour, over a whole day, never.
const CHANGES: [(&str, Date); 10] = [
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Europe/Berlin", date(2026, 10, 25)),
    ("America/New_York", date(2026, 3, 8)),
    ("America/New_York", date(2026, 11, 1)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("Asia/Kolkata", date(2026, 3, 29)),
    ("Pacific/Apia", date(2011, 12, 29)), // The next day there was the 31st.
    ("Pacific/Apia", date(2021, 4, 4)),
    ("America/St_Johns", date(2010, 11, 7)), // Back over midnight: the day before came again for an hour.
];
const MINUTES_A_DAY: i64 = 24 * 60;
/// As far as is walked: more than a week, so that every weekday comes.
const WALK_DAYS: i64 = 11;

// ---- Days and hours ---------------------------------------------------------------------------------------------------

#[test]
fn hours_are_those_of_the_leads_clock_and_end_before_their_end() {
    let window = hours("09:00", "20:00");
    for (place, moment, opening) in [
        ("Europe/Berlin", "2026-07-01T06:59:59Z", "2026-07-01T07:00:00Z"),
        ("Europe/Berlin", "2026-07-01T07:00:00Z", "2026-07-01T07:00:00Z"),
        ("Europe/Berlin", "2026-07-01T17:59:59Z", "2026-07-01T17:59:59Z"),
        ("Europe/Berlin", "2026-07-01T18:00:00Z", "2026-07-02T07:00:00Z"),
        ("America/New_York", "2026-07-01T07:00:00Z", "2026-07-01T13:00:00Z"),
        ("Asia/Kolkata", "2026-07-01T03:29:00Z", "2026-07-01T03:30:00Z"),
    ] {
        assert_eq!(opens(window, place, moment), Some(at(opening)), "{place} {moment}");
    }
}

#[test]
fn hours_that_the_clock_skips_do_not_open_that_day() {
    let window = hours("02:30", "03:00");
    assert_eq!(opens(window, "Europe/Berlin", "2026-03-28T12:00:00Z"), Some(at("2026-03-30T00:30:00Z")));
    let longer = hours("02:30", "03:30");
    let first = at("2026-03-29T01:00:00Z"); // 03:00 of summer time, right after 01:59.
    assert_eq!(opens(longer, "Europe/Berlin", "2026-03-28T12:00:00Z"), Some(first));
}

#[test]
fn hours_that_the_clock_shows_twice_are_open_twice() {
    let window = hours("02:30", "02:45");
    assert_eq!(opens(window, "Europe/Berlin", "2026-10-25T00:00:00Z"), Some(at("2026-10-25T00:30:00Z")));
    assert_eq!(opens(window, "Europe/Berlin", "2026-10-25T00:45:00Z"), Some(at("2026-10-25T01:30:00Z")));
    assert_eq!(opens(window, "Europe/Berlin", "2026-10-25T01:45:00Z"), Some(at("2026-10-26T01:30:00Z")));
}

#[test]
fn the_last_day_is_a_day_of_the_lead_and_the_end_of_a_day_can_be_called_at() {
    let window = Window {
        first_day: Some(date(2026, 5, 4)),
        last_day: Some(date(2026, 5, 4)),
        ..hours("00:00", "24:00")
    };
    assert_eq!(opens(window, "Pacific/Auckland", "2026-05-01T00:00:00Z"), Some(at("2026-05-03T12:00:00Z")));
    assert_eq!(
        opens(window, "America/Los_Angeles", "2026-05-01T00:00:00Z"),
        Some(at("2026-05-04T07:00:00Z"))
    );
    let last = "2026-05-05T06:59:59Z";
    assert_eq!(opens(window, "America/Los_Angeles", last), Some(at(last)));
    assert_eq!(opens(window, "America/Los_Angeles", "2026-05-05T07:00:00Z"), None);
    assert!(!window.is_over_everywhere(at("2026-05-05T11:59:59Z")), "on Baker Island it is still that day");
    assert!(window.is_over_everywhere(at("2026-05-05T12:00:00Z")));
    assert!(!hours("09:00", "10:00").is_over_everywhere(Timestamp::MAX), "it has no last day");
}

#[test]
fn a_window_far_away_is_found_and_one_that_never_opens_is_not() {
    let far = Window { first_day: Some(date(2900, 1, 1)), ..hours("09:00", "10:00") };
    assert_eq!(opens(far, "Europe/Berlin", "2026-01-01T00:00:00Z"), Some(at("2900-01-01T08:00:00Z")));
    let only_in_the_gap = Window {
        first_day: Some(date(2026, 3, 29)),
        last_day: Some(date(2026, 3, 29)),
        ..hours("02:30", "03:00")
    };
    assert_eq!(opens(only_in_the_gap, "Europe/Berlin", "2026-03-01T00:00:00Z"), None);
    assert_eq!(opens(only_in_the_gap, "Europe/Paris", "2026-04-01T00:00:00Z"), None);
    assert_eq!(
        opens(only_in_the_gap, "Asia/Kolkata", "2026-03-01T00:00:00Z"),
        Some(at("2026-03-28T21:00:00Z"))
    );
}

#[test]
fn a_zone_is_known_by_its_name_or_not_at_all() {
    for name in
        ["", "Mars/Olympus", "Berlin", "+02:00", "Etc/Unknown", "Factory", "Europe/Berlin ", "../etc/passwd"]
    {
        assert!(zone(name).is_err(), "{name:?}");
    }
    assert_eq!(zone("europe/berlin").unwrap().iana_name(), Some("Europe/Berlin"));
}

#[test]
fn times_of_day_are_read_as_people_and_the_database_write_them() {
    for (text, seconds, written) in [
        ("00:00", 0, "00:00"),
        ("09:05:00", 32_700, "09:05"),
        ("23:59:59", 86_399, "23:59:59"),
        ("24:00:00", 86_400, "24:00"),
    ] {
        let time = TimeOfDay::parse(text).unwrap();
        assert_eq!((time.seconds(), time.to_string().as_str()), (seconds, written));
    }
    for bad in
        ["", "9:00", "09", "24:01", "25:00", "09:60", "09:00:60", "09:00:00:00", "+9:00", "09:0 ", "0９:00"]
    {
        assert!(TimeOfDay::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn weekdays_are_a_set_that_is_never_empty() {
    assert_eq!(Weekdays::from_numbers(&[5, 1, 1]).unwrap().numbers(), [1, 5]);
    assert_eq!(Weekdays::EVERY.numbers(), [1, 2, 3, 4, 5, 6, 7]);
    for bad in [&[][..], &[0], &[8], &[1, -1], &[1, i16::MAX]] {
        assert!(Weekdays::from_numbers(bad).is_err(), "{bad:?}");
    }
}

// ---- Verdicts ---------------------------------------------------------------------------------------------------------

const NOW: &str = "2026-07-01T10:00:00Z";

#[test]
fn a_row_without_a_campaign_waits_for_its_time_and_for_nothing_else() {
    let candidate = Candidate { campaign: None, zone: None, ..candidate() };
    assert_eq!(candidate.verdict(at("2026-07-01T02:00:00Z")), Verdict::Dial, "whatever the hour");
    let later = Candidate { not_before: at("2026-07-01T10:00:01Z"), ..candidate };
    assert_eq!(later.verdict(at(NOW)), wait("2026-07-01T10:00:01Z", Wait::NotDue));
    assert_eq!(never(&Candidate { is_on_do_not_call: true, ..later }), Refusal::DoNotCall);
    assert_eq!(never(&Candidate { attempts: 3, ..later }), Refusal::NoTryLeft);
}

#[test]
fn a_lead_whose_clock_nobody_knows_is_never_called_by_a_campaign() {
    for zone in [None, Some(""), Some("Mars/Olympus"), Some("Etc/Unknown")] {
        assert_eq!(never(&Candidate { zone, ..candidate() }), Refusal::NoTimeZone);
    }
    assert_eq!(candidate().verdict(at(NOW)), Verdict::Dial);
}

#[test]
fn a_campaign_calls_only_while_it_is_active_and_only_so_many_at_a_time() {
    let with = |change: fn(&mut Campaign)| {
        let mut campaign = campaign();
        change(&mut campaign);
        Candidate { campaign: Some(campaign), ..candidate() }
    };
    for status in [CampaignStatus::Draft, CampaignStatus::Paused] {
        let mut held = candidate();
        held.campaign.as_mut().unwrap().status = status;
        assert_eq!(held.verdict(at(NOW)), Verdict::Hold { why: Hold::CampaignNotActive });
    }
    assert_eq!(never(&with(|it| it.status = CampaignStatus::Completed)), Refusal::CampaignOver);
    assert_eq!(never(&with(|it| it.window.last_day = Some(date(2026, 6, 30)))), Refusal::CampaignOver);
    assert_eq!(with(|it| it.running = 4).verdict(at(NOW)), Verdict::Dial);
    assert_eq!(with(|it| it.running = 5).verdict(at(NOW)), Verdict::Hold { why: Hold::CampaignBusy });
}

#[test]
fn do_not_call_comes_before_everything_else() {
    let mut candidate = Candidate { is_on_do_not_call: true, zone: None, attempts: 9, ..candidate() };
    for status in CampaignStatus::ALL {
        candidate.campaign.as_mut().unwrap().status = status;
        assert_eq!(never(&candidate), Refusal::DoNotCall);
    }
    assert!(Refusal::DoNotCall.to_string().starts_with("blocked_by_rule"));
}

#[test]
fn the_calls_of_a_day_are_counted_by_the_leads_midnight() {
    // 23:30 in New York, on the 30th of June.
    let attempts = [at("2026-07-01T03:30:00Z")];
    let mut candidate =
        Candidate { zone: Some("America/New_York"), recent_attempts: &attempts, ..candidate() };
    candidate.campaign.as_mut().unwrap().window = hours("00:00", "24:00");
    let midnight = "2026-07-01T04:00:00Z";
    assert_eq!(candidate.verdict(at("2026-07-01T03:59:59Z")), wait(midnight, Wait::EnoughForToday));
    assert_eq!(candidate.verdict(at(midnight)), Verdict::Dial);
    // The same moment is the 1st of July in Berlin: that day is full, and the first hour of the next counts.
    candidate.zone = Some("Europe/Berlin");
    candidate.campaign.as_mut().unwrap().window = hours("09:00", "20:00");
    assert_eq!(candidate.verdict(at(NOW)), wait("2026-07-02T07:00:00Z", Wait::EnoughForToday));
    candidate.campaign.as_mut().unwrap().max_attempts_per_day = 2;
    assert_eq!(candidate.verdict(at(NOW)), Verdict::Dial);
}

#[test]
fn a_delay_that_ends_outside_the_hours_is_prolonged_to_the_next_ones() {
    let within = Candidate { not_before: at("2026-07-01T10:15:00Z"), ..candidate() };
    assert_eq!(within.verdict(at(NOW)), wait("2026-07-01T10:15:00Z", Wait::NotDue));
    let outside = Candidate { not_before: at("2026-07-01T19:00:00Z"), ..candidate() };
    assert_eq!(outside.verdict(at(NOW)), wait("2026-07-02T07:00:00Z", Wait::OutsideWindow));
}

#[test]
fn nobody_is_called_so_late_that_the_telephone_rings_after_the_hours() {
    let verdict_at = |window: Window, now: &str| {
        let mut candidate = candidate();
        candidate.campaign.as_mut().unwrap().window = window;
        candidate.verdict(at(now))
    };
    let day = hours("09:00", "20:00");
    assert_eq!(verdict_at(day, "2026-07-01T17:59:29Z"), Verdict::Dial);
    let tomorrow = wait("2026-07-02T07:00:00Z", Wait::OutsideWindow);
    assert_eq!(verdict_at(day, "2026-07-01T17:59:30Z"), tomorrow);
    assert_eq!(verdict_at(day, "2026-07-01T17:59:59Z"), tomorrow);
    // Where the next day is one of calling as well, midnight ends nothing.
    let all_day = hours("00:00", "24:00");
    assert_eq!(verdict_at(all_day, "2026-07-01T21:59:59Z"), Verdict::Dial);
    let last = Window { last_day: Some(date(2026, 7, 1)), ..all_day };
    assert_eq!(verdict_at(last, "2026-07-01T21:59:29Z"), Verdict::Dial);
    assert_eq!(verdict_at(last, "2026-07-01T21:59:30Z"), Verdict::Never { why: Refusal::CampaignOver });
    // At 01:59:45 the clock is about to be set forward by an hour.
    let night = hours("01:30", "02:30");
    assert_eq!(verdict_at(night, "2026-03-29T00:59:29Z"), Verdict::Dial);
    assert_eq!(verdict_at(night, "2026-03-29T00:59:45Z"), wait("2026-03-29T23:30:00Z", Wait::OutsideWindow));
    // Hours that are hardly any are none too short to call in.
    let short = hours("09:00:00", "09:00:40");
    assert_eq!(verdict_at(short, "2026-07-01T07:00:19Z"), Verdict::Dial);
    assert_eq!(verdict_at(short, "2026-07-01T07:00:20Z"), tomorrow);
    assert_eq!(verdict_at(hours("20:00", "09:00"), NOW), Verdict::Never { why: Refusal::CampaignOver });
}

// ---- Against a walk ---------------------------------------------------------------------------------------------------

/// What the clock of each place shows, minute by minute.
static WALKS: LazyLock<Vec<Walk>> =
    LazyLock::new(|| CHANGES.iter().map(|(place, change)| walk(place, *change)).collect());

struct Walk {
    zone: TimeZone,
    start: Timestamp,
    readings: Vec<DateTime>,
}

/// From four days before the change.
fn walk(place: &str, change: Date) -> Walk {
    let zone = zone(place).unwrap();
    let start = TimeZone::UTC.to_timestamp(change.saturating_sub(4.days()).at(0, 0, 0, 0)).unwrap();
    let minutes = 0..(WALK_DAYS + 8) * MINUTES_A_DAY;
    let readings = minutes.map(|minute| zone.to_datetime(start + minute_span(minute))).collect();
    Walk { zone, start, readings }
}

fn minute_span(minutes: i64) -> SignedDuration {
    SignedDuration::from_mins(minutes)
}

/// Whether a window is open at a reading, said in the plainest way.
fn is_open(window: &Window, reading: DateTime) -> bool {
    let second = u32::try_from(i64::from(reading.hour()) * 3600 + i64::from(reading.minute()) * 60).unwrap();
    window.first_day.is_none_or(|first| reading.date() >= first)
        && window.last_day.is_none_or(|last| reading.date() <= last)
        && window.weekdays.numbers().contains(&i16::from(reading.weekday().to_monday_one_offset()))
        && (window.opens.seconds()..window.closes.seconds()).contains(&second)
}

/// Hours from minute to minute, most of them at night, when clocks are changed.
fn any_hours() -> impl Strategy<Value = (TimeOfDay, TimeOfDay)> {
    let minute = || prop_oneof![3 => 0..240_u32, 1 => 0..=1440_u32, 1 => 1380..=1440_u32];
    (minute(), minute()).prop_filter_map("hours end after they begin", |(a, b)| {
        let time = |minute: u32| TimeOfDay::parse(&format!("{:02}:{:02}", minute / 60, minute % 60)).unwrap();
        (a != b).then(|| (time(a.min(b)), time(a.max(b))))
    })
}

fn any_window(change: Date) -> impl Strategy<Value = Window> {
    let day = move |days: i64| change.saturating_add(days.days());
    let first = prop::option::weighted(0.3, (-5..6_i64).prop_map(day));
    let last = prop::option::weighted(0.3, (0..7_i64).prop_map(day));
    let weekdays = prop::collection::vec(1..=7_i16, 1..8);
    (first, last, any_hours(), weekdays).prop_map(|(first_day, last_day, (opens, closes), weekdays)| Window {
        first_day,
        last_day,
        opens,
        closes,
        weekdays: Weekdays::from_numbers(&weekdays).unwrap(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_first_allowed_moment_is_the_first_that_a_walk_finds(
        (index, window) in (0..CHANGES.len()).prop_flat_map(|index| (Just(index), any_window(CHANGES[index].1))),
        now in 0..WALK_DAYS * MINUTES_A_DAY,
        delay in prop_oneof![Just(0), 0..3 * MINUTES_A_DAY],
        attempts in prop::collection::vec(0..2 * MINUTES_A_DAY, 0..4),
        max_attempts_per_day in 1..3_u32,
    ) {
        let place = CHANGES[index].0;
        let Walk { zone, start, readings } = &WALKS[index];
        let moment = |minute: i64| *start + minute_span(minute);
        let attempts: Vec<Timestamp> = attempts.iter().map(|ago| moment(now - ago)).collect();
        let calls_on = |day: Date| attempts.iter().filter(|it| zone.to_datetime(**it).date() == day).count();
        let allowed = |minute: &i64| {
            let reading = readings[usize::try_from(*minute).unwrap()];
            is_open(&window, reading) && calls_on(reading.date()) < max_attempts_per_day as usize
        };
        let walked = (now + delay..i64::try_from(readings.len()).unwrap()).find(allowed);

        let campaign = Campaign { window, max_attempts_per_day, ..campaign() };
        let candidate = Candidate {
            zone: Some(place),
            campaign: Some(campaign),
            not_before: moment(now + delay),
            recent_attempts: &attempts,
            ..candidate()
        };
        match (candidate.verdict(moment(now)), walked) {
            (Verdict::Dial, walked) => prop_assert_eq!(walked, Some(now)),
            (Verdict::NotBefore { at, .. }, Some(walked)) => prop_assert_eq!(at, moment(walked)),
            (Verdict::NotBefore { at, .. }, None) => prop_assert!(at >= moment(i64::try_from(readings.len()).unwrap())),
            (Verdict::Never { why }, None) => {
                prop_assert_eq!(why, Refusal::CampaignOver);
                prop_assert!(window.last_day.is_some());
            }
            (verdict, walked) => prop_assert!(false, "{:?}, but the walk found {:?}", verdict, walked),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn whoever_is_called_is_within_the_hours_while_the_telephone_begins_to_ring(
        (index, window) in (0..CHANGES.len()).prop_flat_map(|index| (Just(index), any_window(CHANGES[index].1))),
        minute in 0..WALK_DAYS * MINUTES_A_DAY,
        second in 0..60_i64,
    ) {
        let place = CHANGES[index].0;
        let Walk { zone, start, .. } = &WALKS[index];
        let campaign = Campaign { window, ..campaign() };
        let candidate = Candidate { zone: Some(place), campaign: Some(campaign), ..candidate() };
        let open_at = |moment: Timestamp| is_open(&window, zone.to_datetime(moment));
        let now = *start + minute_span(minute) + SignedDuration::from_secs(second);
        let at = match candidate.verdict(now) {
            Verdict::Dial => now,
            Verdict::NotBefore { at, .. } => at,
            _ => return Ok(()),
        };
        prop_assert!(open_at(at) && open_at(at + SignedDuration::from_secs(30)), "{}", at);
    }
}

// ---- Helpers ----------------------------------------------------------------------------------------------------------

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn hours(opens: &str, closes: &str) -> Window {
    let [opens, closes] = [opens, closes].map(|text| TimeOfDay::parse(text).unwrap());
    Window { first_day: None, last_day: None, opens, closes, weekdays: Weekdays::EVERY }
}

fn opens(window: Window, place: &str, now: &str) -> Option<Timestamp> {
    window.next_opening(&zone(place).unwrap(), at(now))
}

fn wait(until: &str, why: Wait) -> Verdict {
    Verdict::NotBefore { at: at(until), why }
}

fn never(candidate: &Candidate<'_>) -> Refusal {
    match candidate.verdict(at(NOW)) {
        Verdict::Never { why } => why,
        other => panic!("{other:?}"),
    }
}

fn campaign() -> Campaign {
    Campaign {
        status: CampaignStatus::Active,
        window: hours("09:00", "20:00"),
        max_attempts_per_day: 1,
        running: 0,
        max_concurrent: 5,
    }
}

/// Somebody in Berlin whom nothing keeps from being called at noon.
fn candidate() -> Candidate<'static> {
    Candidate {
        zone: Some("Europe/Berlin"),
        campaign: Some(campaign()),
        attempts: 0,
        max_attempts: 3,
        not_before: Timestamp::UNIX_EPOCH,
        recent_attempts: &[],
        is_on_do_not_call: false,
    }
}
