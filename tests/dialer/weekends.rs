//! Five hundred leads over two weekends on which clocks are set, dialed by three servers of which one dies. What is checked
//! is what the carrier was asked for, by clocks of our own.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use uuid::Uuid;
use voicebridge::dialer::{Dialer, Step};
use voicebridge::ids::CallSid;
use voicebridge::lifecycle::callback;
use voicebridge::outreach::retry::Outcome;
use voicebridge::simulate::random::Random;
use voicebridge::store::call_events::CarrierEvent;

use crate::World;
use crate::carrier::{Behaviour, check_log};

const PER_SECOND: u32 = 5;
const MOST_AT_A_TIME: usize = 20;

/// A run of one campaign: leads of these zones, called from half past one to half past three at night.
struct Run {
    world: World,
    zones: &'static [&'static str],
    now: Timestamp,
    until: Timestamp,
    random: Random,
    /// Calls that go on: when they end, and how.
    going_on: Vec<(Timestamp, String, Outcome)>,
    seen: usize,
    most_at_a_time: usize,
}

impl Run {
    async fn new(zones: &'static [&'static str], from: &str, until: &str, leads: i64) -> Self {
        let mut world = World::new().await;
        world.settings.per_second = PER_SECOND;
        let campaign = world
            .campaign(&format!(
                "time_start = '01:30', time_end = '03:30', weekdays = '{{5,6,7,1}}', max_concurrent_calls = {MOST_AT_A_TIME}"
            ))
            .await;
        let names = zones.iter().map(|zone| format!("'{zone}'")).collect::<Vec<_>>().join(", ");
        world
            .run(&format!(
                "insert into leads (organization_id, name, phone, time_zone)
                 select '{0}', 'Lead', '+1212555' || lpad(n::text, 4, '0'), (array[{names}])[1 + n % {1}]
                 from generate_series(1, {leads}) n;
                 insert into call_queue (organization_id, campaign_id, lead_id, to_number, next_retry_at)
                 select organization_id, '{campaign}', id, phone, '{from}' from leads",
                world.organization(),
                zones.len(),
            ))
            .await;
        Self {
            world,
            zones,
            now: from.parse().unwrap(),
            until: until.parse().unwrap(),
            random: Random::new(7),
            going_on: Vec::new(),
            seen: 0,
            most_at_a_time: 0,
        }
    }

    async fn go(&mut self) {
        let mut dialers: Vec<Dialer> =
            ["node-1", "node-2", "node-3"].into_iter().map(|node| self.world.dialer(node)).collect();
        let mut turns = 0_u64;
        while self.now < self.until {
            turns += 1;
            self.world.carrier.set_clock(self.now);
            let script = match turns % 41 {
                7 => Some(Behaviour::LoseAnswer),
                17 => Some(Behaviour::Refuse(429, 20429)),
                29 => Some(Behaviour::Forget),
                _ => None,
            };
            self.world.carrier.will(script);
            if self.seen > 100 && dialers.len() == 3 && self.kill(&dialers[2]).await {
                dialers.pop();
            }
            let steps =
                futures_util::future::join_all(dialers.iter().map(|dialer| dialer.step(self.now))).await;
            let asked = steps.iter().any(|step| *step.as_ref().unwrap() == Step::Asked);
            if turns.is_multiple_of(10) || !asked {
                dialers[0].reconcile(self.now).await.unwrap();
            }
            self.begin_and_end_calls().await;
            self.now = self.next(asked).await;
        }
        // What still goes on ends as well.
        for minutes in 1..=5 {
            self.now = self.until + SignedDuration::from_mins(minutes);
            dialers[0].reconcile(self.now).await.unwrap();
            self.begin_and_end_calls().await;
        }
    }

    /// The server dies when it has asked and not heard. False: there was nothing to ask for.
    async fn kill(&self, dialer: &Dialer) -> bool {
        let carrier = &self.world.carrier;
        carrier.unlearn();
        carrier.forget_asked();
        carrier.will([Behaviour::FallSilent]);
        let died = tokio::select! {
            _ = dialer.step(self.now) => false,
            () = carrier.asked() => true,
        };
        carrier.unlearn();
        died
    }

    /// The next moment at which anything can happen.
    async fn next(&self, asked: bool) -> Timestamp {
        if asked {
            return self.now + SignedDuration::from_millis(200);
        }
        let due: Option<jiff_sqlx::Timestamp> = sqlx::query_scalar(
            "select min(at) from (
                 select next_retry_at as at from call_queue where status = 'queued'
                 union all
                 select requested_at + interval '31 seconds' from call_attempts where status = 'dialing'
                 union all
                 select looked_for_at + interval '20 seconds' from call_attempts where status = 'dialing'
                 union all
                 select next_at from dial_pace
             ) times where at > $1::timestamptz",
        )
        .bind(self.now.to_string())
        .fetch_one(self.world.store.pool())
        .await
        .unwrap();
        let ends = self.going_on.iter().map(|(at, ..)| *at);
        let next = ends.chain(due.map(jiff_sqlx::Timestamp::to_jiff)).min().unwrap_or(self.until);
        next.max(self.now + SignedDuration::from_millis(200))
    }

    async fn begin_and_end_calls(&mut self) {
        for call in &self.world.carrier.calls()[self.seen..] {
            self.seen += 1;
            let outcome = [Outcome::Answered, Outcome::Busy, Outcome::NoAnswer, Outcome::Failed]
                [(self.random.next_u64() % 4) as usize];
            let lasts = SignedDuration::from_secs(5 + (self.random.next_u64() % 40).cast_signed());
            self.going_on.push((self.now + lasts, call.sid.clone(), outcome));
        }
        self.most_at_a_time = self.most_at_a_time.max(self.going_on.len());
        let over: Vec<_> = self.going_on.extract_if(.., |(at, ..)| *at <= self.now).collect();
        for (_, sid, outcome) in over {
            if !self.end(&sid, outcome).await {
                // Nobody knows yet whose call it is.
                self.going_on.push((self.now + SignedDuration::from_secs(20), sid, outcome));
            }
        }
    }

    /// The carrier says that a call is over. False: its try is not known to be this call yet.
    async fn end(&self, sid: &str, outcome: Outcome) -> bool {
        let pool = self.world.store.pool();
        let known: Option<Uuid> = sqlx::query_scalar("select id from call_attempts where call_sid = $1")
            .bind(sid)
            .fetch_optional(pool)
            .await
            .unwrap();
        if known.is_none() {
            return false;
        }
        let (status, answered_by) = match outcome {
            Outcome::Answered => ("completed", Some("human")),
            Outcome::Busy => ("busy", None),
            Outcome::NoAnswer => ("no-answer", None),
            _ => ("failed", None),
        };
        let event = CarrierEvent {
            organization: Some(self.world.organization()),
            call_sid: CallSid::parse(sid).unwrap(),
            call_status: Some(status.to_owned()),
            to: None,
            from: None,
            direction: Some("outbound-api".to_owned()),
            duration_s: answered_by.map(|_| 20),
            sequence_number: Some(3),
            event_time: Some(self.now),
            sip_response_code: None,
            answered_by: answered_by.map(str::to_owned),
            payload: json!({"CallStatus": status}),
        };
        callback::record(&self.world.store, &event, self.now).await.unwrap();
        true
    }

    /// By the carrier's log alone.
    fn check(&self) {
        let calls = self.world.carrier.calls();
        check_log(&calls, SignedDuration::from_millis(1000 / i64::from(PER_SECOND)));
        assert!(self.most_at_a_time <= MOST_AT_A_TIME, "{}", self.most_at_a_time);
        let mut days = BTreeSet::new();
        let mut of_lead: BTreeMap<&str, u32> = BTreeMap::new();
        for call in &calls {
            let lead: usize = call.to.strip_prefix("+1212555").unwrap().parse().unwrap();
            let zone = TimeZone::get(self.zones[lead % self.zones.len()]).unwrap();
            let there = call.at.to_zoned(zone.clone());
            // When it is asked for, and when it rings at the latest.
            for moment in [call.at, call.at + SignedDuration::from_secs(30)] {
                let there = moment.to_zoned(zone.clone());
                let minutes = i32::from(there.hour()) * 60 + i32::from(there.minute());
                assert!((90..210).contains(&minutes), "{there}");
                let weekday = there.weekday();
                assert!(
                    !matches!(weekday, Weekday::Tuesday | Weekday::Wednesday | Weekday::Thursday),
                    "{there}"
                );
            }
            assert!(days.insert((lead, there.date())), "twice in a day: {there}");
            *of_lead.entry(&call.to).or_default() += 1;
        }
        assert!(of_lead.values().all(|calls| *calls <= 3));
        println!("{} leads, {} calls, at most {} at a time", of_lead.len(), calls.len(), self.most_at_a_time);
    }
}

/// Every lead was tried, nothing is left open, and every call in the carrier's log is one of our tries.
async fn check_records(run: &Run) {
    let calls = run.world.carrier.calls();
    // A try that never reached the carrier is one as well.
    let untried = "call_queue q where not exists (select from call_attempts a where a.queue_id = q.id)";
    assert_eq!(run.world.count(untried).await, 0, "everybody's turn has come");
    assert_eq!(run.world.count("call_queue where status = 'processing'").await, 0);
    assert_eq!(run.world.count("call_attempts where status <> 'ended'").await, 0);
    let placed = run.world.count("call_attempts where call_sid is not null").await;
    assert_eq!(placed, i64::try_from(calls.len()).unwrap(), "every call is on record as a try");
    let counted: (i64, i64) =
        sqlx::query_as("select total_calls::bigint, answered_calls::bigint from campaigns")
            .fetch_one(run.world.store.pool())
            .await
            .unwrap();
    let logged = run.world.count("call_logs where campaign_id = (select id from campaigns)").await;
    let answered = "call_logs where campaign_id is not null and answered_at is not null";
    assert_eq!(counted, (logged, run.world.count(answered).await), "the campaign counts what is on record");
    assert_eq!(logged, placed, "every call is logged");
    let tries = run.world.count("call_attempts where outcome = 'answered'").await;
    assert!(tries > 0 && counted.1 == tries, "{tries} tries were answered, and {} calls", counted.1);
}

#[tokio::test]
async fn leads_are_called_at_most_once_a_try_and_within_their_hours_when_american_clocks_are_set() {
    let zones =
        &["America/New_York", "America/Los_Angeles", "America/Havana", "America/Phoenix", "Asia/Kolkata"];
    let mut run = Run::new(zones, "2026-03-06T00:00:00Z", "2026-03-10T12:00:00Z", 250).await;
    run.go().await;
    run.check();
    check_records(&run).await;
}

#[tokio::test]
async fn leads_are_called_at_most_once_a_try_and_within_their_hours_when_european_clocks_are_set() {
    let zones = &["Europe/Berlin", "Europe/London", "Atlantic/Azores", "Australia/Lord_Howe", "Pacific/Apia"];
    let mut run = Run::new(zones, "2026-10-23T00:00:00Z", "2026-10-27T12:00:00Z", 250).await;
    run.go().await;
    run.check();
    check_records(&run).await;
}
