//! Calls as Kaleyra logs them, made up.

use jiff::ToSpan as _;
use jiff::civil::{Date, DateTime};
use serde_json::{Value, json};

use super::KaleyraOptions;
use crate::simulate::random::Random;

/// The number that customers dial.
const DID: &str = "8068921234";
/// Whose telephones ring for it, in this order.
const AGENTS: [&str; 3] = ["9201952685", "9201972062", "6264437618"];
const PLACES: [(&str, &str); 4] = [
    ("BIHAR", "JIO"),
    ("UP EAST", "AIRTEL"),
    ("MADHYA PRADESH", "IDEA"),
    ("WEST BENGAL", "Tata Teleservices"),
];

/// One leg of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// Kaleyra's id.
    pub id: String,
    /// Kaleyra's other id.
    pub uniqid: String,
    /// Who calls.
    pub callfrom: String,
    /// Who is called.
    pub callto: String,
    /// By the clock in India.
    pub start: DateTime,
    /// Seconds in all.
    pub duration: u32,
    /// Seconds of talk.
    pub billsec: u32,
    /// Kaleyra's word.
    pub status: &'static str,
    /// `Incoming`, `CallForward` or `Click2Call`.
    pub service: &'static str,
    /// Of [`PLACES`].
    place: usize,
}

impl Leg {
    /// As it is told: numbers are texts, what is not there is empty.
    pub(super) fn told(&self) -> Value {
        let (location, provider) = PLACES[self.place];
        let time = |at: DateTime| at.strftime("%Y-%m-%d %H:%M:%S").to_string();
        let end = self.start.checked_add(i64::from(self.duration).seconds()).unwrap_or(self.start);
        let recording = if self.billsec > 0 {
            format!("//play.solutionsinfini.com/?id={}", self.uniqid)
        } else {
            String::new()
        };
        json!({
            "id": self.id,
            "uniqid": self.uniqid,
            "callfrom": self.callfrom,
            "callto": self.callto,
            "start_time": time(self.start),
            "end_time": time(end),
            "duration": self.duration.to_string(),
            "billsec": self.billsec.to_string(),
            "status": self.status,
            "location": location,
            "provider": provider,
            "service": self.service,
            "callerid": DID,
            "recording": recording,
            "notes": "",
            "custom": null,
        })
    }
}

/// Makes exactly as many legs as are wanted, in the order of time; those of the last call may be cut short.
pub(super) fn make(options: &KaleyraOptions) -> Vec<Leg> {
    let days: Vec<Date> = options.first.series(1.day()).take_while(|day| *day <= options.last).collect();
    let mut random = Random::for_part(options.seed, 0xCA11);
    let mut legs = Vec::with_capacity(options.rows);
    let mut calls = 0;
    while legs.len() < options.rows && !days.is_empty() {
        let day = days[calls % days.len()];
        call(day, &mut random, &mut legs);
        calls += 1;
    }
    legs.truncate(options.rows);
    legs.sort_by(|a, b| (a.start, &a.id).cmp(&(b.start, &b.id)));
    legs
}

/// One call on this day. It is over before midnight.
fn call(day: Date, random: &mut Random, legs: &mut Vec<Leg>) {
    let mut at = day.to_datetime(jiff::civil::Time::midnight());
    at = at.checked_add(random.between(0, 85_000).cast_signed().seconds()).unwrap_or(at);
    let customer = format!("98{:08}", random.between(0, 99_999_999));
    let place = random.between(0, PLACES.len() as u64 - 1) as usize;
    let leg = |random: &mut Random, from: &str, to: &str, start: DateTime, service, status, talk: u32| Leg {
        id: format!(
            "{}-{}-4{}-8{}-{}",
            random.hex(8),
            random.hex(4),
            random.hex(3),
            random.hex(3),
            random.hex(12)
        ),
        uniqid: format!(
            "58_{}.{}",
            random.between(1_700_000_000, 1_799_999_999),
            random.between(1, 99_999_999)
        ),
        callfrom: from.to_owned(),
        callto: to.to_owned(),
        start,
        duration: talk + random.between(5, 30) as u32,
        billsec: talk,
        status,
        service,
        place,
    };
    let talk = |random: &mut Random| random.between(10, 400) as u32;
    if random.between(0, 7) == 0 {
        let (status, talk) =
            if random.between(0, 1) == 0 { ("ANSWERED-B", talk(random)) } else { ("ANSWERED-A", 0) };
        legs.push(leg(random, AGENTS[0], &customer, at, "Click2Call", status, talk));
        return;
    }
    let heard = random.between(5, 60) as u32;
    let incoming = leg(random, &customer, DID, at, "Incoming", "ANSWER", heard);
    legs.push(incoming);
    for agent in AGENTS {
        at = at.checked_add(20.seconds()).unwrap_or(at);
        let status = ["ANSWER", "NOANSWER", "BUSY", "CANCEL"][random.between(0, 3) as usize];
        let talk = if status == "ANSWER" { talk(random) } else { 0 };
        legs.push(leg(random, &customer, agent, at, "CallForward", status, talk));
        if status == "ANSWER" || status == "CANCEL" {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;
    use secrecy::SecretString;

    #[test]
    fn a_log_has_as_many_legs_as_wanted_and_is_the_same_each_time() {
        let days = (date(2026, 3, 1), date(2026, 3, 3));
        let options = KaleyraOptions::new(SecretString::from("key"), 500, days);
        let legs = make(&options);
        assert_eq!(legs, make(&options));
        assert_eq!(legs.len(), 500);
        assert!(legs.iter().all(|leg| (days.0..=days.1).contains(&leg.start.date())));
        let ids: std::collections::BTreeSet<&str> = legs.iter().map(|leg| leg.id.as_str()).collect();
        assert_eq!(ids.len(), 500);
        for service in ["Incoming", "CallForward", "Click2Call"] {
            assert!(legs.iter().any(|leg| leg.service == service), "{service}");
        }
        let rung = |leg: &&Leg| leg.service == "CallForward" && leg.callto == AGENTS[2];
        assert!(legs.iter().any(|leg| rung(&leg)), "the third agent's telephone rings, too");
    }
}
