//! The life of one call: dialed, ringing, answered, spoken, over.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::book::{Event, Record, Status, field};
use super::form::{Detection, Wish};
use super::people::Person;
use super::{Shared, courier, dial, plain_wish};
use crate::simulate::caller::leg::{Leg, News, Source};
use crate::simulate::caller::{CallReport, CallerOptions, EndedBy, run_leg};
use crate::simulate::random::Random;

/// SIP answers.
pub(super) const OK: u16 = 200;
const BUSY: u16 = 486;
/// Also what a call ends with that rang for too long.
pub(super) const REQUEST_TERMINATED: u16 = 487;
/// Orders and news that may wait; a call has a few.
const WAITING: usize = 8;

/// How long things take, in milliseconds.
// 2-6 s are one or two rings; a verdict takes 2-4 s (dossier 3.4).
const CONNECTING_MS: (u64, u64) = (500, 1_500);
const RINGING_MS: (u64, u64) = (2_000, 6_000);
const DETECTING_MS: (u64, u64) = (2_000, 4_000);

/// Where a telephone that rings has got to.
pub(super) enum Rung {
    /// Somebody or something answered.
    Answered(Person),
    /// It is over.
    Over,
}

/// Lives through a call that was asked for over REST and whose turn it is.
pub(super) async fn outbound(shared: Arc<Shared>, sid: String) {
    let Some((wish, number)) = shared.with_call(&sid, |record| (record.wish.clone(), record.number)) else {
        return;
    };
    if let Rung::Answered(person) = ring(&shared, &sid, &wish, number).await {
        converse(&shared, &sid, wish, number, &person).await;
    }
}

/// Dials, and waits for an answer as long as the call may ring. What becomes of it is told as it happens.
pub(super) async fn ring(shared: &Arc<Shared>, sid: &str, wish: &Wish, number: u64) -> Rung {
    let mut random = Random::for_part(shared.options.seed ^ 0x11F3, number);
    let dialed = {
        let mut state = shared.lock();
        // It may have been taken back between its turn and now.
        if state.book.find(sid).is_none_or(|record| record.status.is_over()) {
            return Rung::Over;
        }
        let nth = state.book.dial(&wish.to);
        let person = shared.options.people.who(&wish.to, nth, shared.options.seed);
        state.book.find(sid).map(|record| {
            record.log.dialed_at = Some(shared.clock.now());
            record.log.person = Some(person.word());
            shared.tell(record, Event::Initiated);
            (record.cancel.clone(), person)
        })
    };
    let Some((cancel, person)) = dialed else { return Rung::Over };
    let mut ms = |(low, high)| shared.paced(Duration::from_millis(random.between(low, high)));
    let (connecting, ringing) = (ms(CONNECTING_MS), ms(RINGING_MS));
    if !wait(shared, sid, &cancel, connecting).await {
        return Rung::Over;
    }
    let over = match &person {
        Person::Busy => Some((Status::Busy, BUSY)),
        Person::Failed { sip } => Some((Status::Failed, *sip)),
        // Who is put through is not refused by a number that cannot be asked for.
        Person::Refused { .. } => Some((Status::Failed, 404)),
        _ => None,
    };
    if let Some((status, sip)) = over {
        shared.end(sid, status, sip);
        return Rung::Over;
    }
    shared.with_call(sid, |record| {
        if !record.status.is_over() {
            record.set(Status::Ringing);
            shared.tell(record, Event::Ringing);
        }
    });
    let patience = shared.paced(wish.timeout);
    if matches!(person, Person::NoAnswer) || ringing > patience {
        if wait(shared, sid, &cancel, patience).await {
            shared.end(sid, Status::NoAnswer, REQUEST_TERMINATED);
        }
        return Rung::Over;
    }
    if !wait(shared, sid, &cancel, ringing).await {
        return Rung::Over;
    }
    Rung::Answered(person)
}

/// Lets time pass; false when the call was taken back meanwhile, which ends it.
async fn wait(shared: &Shared, sid: &str, cancel: &CancellationToken, length: Duration) -> bool {
    tokio::select! {
        biased;
        () = cancel.cancelled() => {
            shared.end(sid, Status::Canceled, REQUEST_TERMINATED);
            false
        }
        () = sleep(length) => true,
    }
}

/// The call is answered: whoever asked is told. False when it was over before.
pub(super) fn answer(shared: &Shared, record: &mut Record) -> bool {
    if record.status.is_over() {
        return false;
    }
    record.set(Status::InProgress);
    record.log.answered_at = Some(shared.clock.now());
    record.answered = Some(Instant::now());
    shared.tell(record, Event::Answered);
    true
}

async fn converse(shared: &Arc<Shared>, sid: &str, wish: Wish, number: u64, person: &Person) {
    let (sender, orders) = mpsc::channel(WAITING);
    let (news, exchange) = mpsc::channel(WAITING);
    let answered = shared.with_call(sid, |record| {
        let answered = answer(shared, record);
        if answered {
            record.orders = Some(sender);
        }
        answered
    });
    if answered != Some(true) {
        return;
    }
    let began = Instant::now();
    let leaves = match person {
        Person::HangsUp { after_ms } => Some(began + shared.paced(Duration::from_millis(*after_ms))),
        _ => None,
    };
    let mut extra = Vec::new();
    if let Some(detection) = &wish.detection {
        let (verdict, took) = verdict(shared, detection, person, number);
        match (&detection.callback, detection.is_async) {
            (Some(url), true) => {
                let late = detect(Arc::clone(shared), sid.to_owned(), url.clone(), verdict, took);
                shared.start(late);
            }
            (None, true) => {}
            (_, false) => {
                sleep(took).await;
                shared.with_call(sid, |record| record.log.answered_by = Some(verdict));
                extra.push(field("AnsweredBy", verdict));
                extra.push(field("MachineDetectionDuration", &took.as_millis().to_string()));
            }
        }
    }
    let leg = Leg {
        source: wish.source.clone(),
        direction: "outbound-api",
        status: "in-progress",
        extra,
        orders,
        news,
        pace: shared.options.pace,
        leaves,
        limit: Some(began + wish.time_limit),
    };
    let options = options(shared, sid, &wish, number, person);
    let (report, ()) = tokio::join!(run_leg(options, leg), attend(shared, sid, &wish, exchange));
    finish(shared, sid, report, person.beep_after_ms(shared.options.pace));
}

/// The person, as the one at the other end of a media stream.
pub(super) fn options(
    shared: &Shared,
    sid: &str,
    wish: &Wish,
    number: u64,
    person: &Person,
) -> CallerOptions {
    let scenario = person.scenario(shared.options.pace);
    let token = Some(shared.options.auth_token.clone());
    CallerOptions {
        connect_to: shared.options.connect_to,
        account_sid: shared.options.account_sid.clone(),
        call_sid: Some(sid.to_owned()),
        from: wish.from.clone(),
        to: wish.to.clone(),
        seed: shared.options.seed.wrapping_add(number),
        // Machines record for minutes.
        patience: Duration::from_secs(if matches!(person, Person::Voicemail { .. }) { 120 } else { 30 }),
        ..CallerOptions::new(String::new(), token, scenario)
    }
}

/// Does what the call asks of its carrier until it is over.
async fn attend(shared: &Arc<Shared>, sid: &str, wish: &Wish, mut news: mpsc::Receiver<News>) {
    while let Some(news) = news.recv().await {
        match news {
            News::Answered => {
                shared.with_call(sid, |record| {
                    if record.answered.is_none() {
                        answer(shared, record);
                    }
                });
            }
            News::Dial(asked) => dial::ring_all(shared, sid, &wish.from, asked).await,
        }
    }
}

fn finish(shared: &Shared, sid: &str, report: CallReport, beep_after_ms: Option<u64>) {
    shared.with_call(sid, |record| {
        let taken = record.answered.is_some();
        let (status, sip) = match report.followed.last().map(String::as_str) {
            None if !taken && report.ended_by == EndedBy::Error => (Status::Failed, 500),
            Some("Reject busy") if !taken => (Status::Busy, BUSY),
            Some(_) if !taken => (Status::NoAnswer, REQUEST_TERMINATED),
            _ => (Status::Completed, OK),
        };
        record.keep(report, beep_after_ms);
        if !record.status.is_over() {
            record.end(status, sip, shared.clock.now());
            shared.tell(record, Event::Completed);
        }
    });
}

/// Who answered, and how long it takes to tell.
fn verdict(shared: &Shared, detection: &Detection, person: &Person, number: u64) -> (&'static str, Duration) {
    let mut random = Random::for_part(shared.options.seed ^ 0xA3D, number);
    let usual = shared.paced(Duration::from_millis(random.between(DETECTING_MS.0, DETECTING_MS.1)));
    match person.beep_after_ms(shared.options.pace) {
        None => ("human", usual),
        Some(beep_ms) if detection.message_end => {
            ("machine_end_beep", Duration::from_millis(beep_ms) + shared.paced(Duration::from_millis(300)))
        }
        Some(_) => ("machine_start", usual),
    }
}

/// Tells the verdict while the call runs.
async fn detect(shared: Arc<Shared>, sid: String, url: String, verdict: &'static str, took: Duration) {
    sleep(took).await;
    let account = shared.options.account_sid.clone();
    let notice = shared.with_call(&sid, |record| {
        (record.status == Status::InProgress).then(|| {
            record.log.answered_by = Some(verdict);
            record.verdict(&url, verdict, took, &account, shared.clock.now())
        })
    });
    if let Some(Some(notice)) = notice {
        courier::deliver(&shared, &notice, false).await;
    }
}

/// Lives through a call from outside.
pub(super) async fn inbound(shared: &Arc<Shared>, mut options: CallerOptions) -> CallReport {
    let source = Source::Url { url: options.webhook_url.clone(), method: "POST".into(), fallback: None };
    let callback = options.status_url.take().map(|url| (url, vec!["completed".to_owned()]));
    let wish = plain_wish(&options.to, &options.from, source.clone(), callback);
    let (sid, _) = shared.enter("inbound", None, wish.clone());
    let (sender, orders) = mpsc::channel(WAITING);
    let (news, exchange) = mpsc::channel(WAITING);
    shared.with_call(&sid, |record| {
        record.set(Status::Ringing);
        record.log.dialed_at = Some(record.log.asked_at);
        record.orders = Some(sender);
    });
    options.call_sid = Some(sid.clone());
    options.account_sid.clone_from(&shared.options.account_sid);
    options.connect_to = options.connect_to.or(shared.options.connect_to);
    let leg = Leg {
        source,
        direction: "inbound",
        status: "ringing",
        extra: Vec::new(),
        orders,
        news,
        pace: shared.options.pace,
        leaves: None,
        limit: None,
    };
    let (report, ()) = tokio::join!(run_leg(options, leg), attend(shared, &sid, &wish, exchange));
    finish(shared, &sid, report.clone(), None);
    report
}
