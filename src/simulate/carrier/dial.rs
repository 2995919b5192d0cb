//! `<Dial>`: telephones that ring at once; the first to answer hears the whisper and has the call.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::book::Status;
use super::form::Wish;
use super::life::{self, OK, REQUEST_TERMINATED, Rung};
use super::people::Person;
use super::{Shared, plain_wish};
use crate::simulate::caller::leg::{DialWish, Dialed, Leg, Source};
use crate::simulate::caller::twiml::Number;
use crate::simulate::caller::webhook::absolute;
use crate::simulate::caller::{CallReport, EndedBy, run_leg};

/// One telephone that rings.
struct Telephone {
    sid: String,
    number: u64,
    wish: Wish,
    whisper: Option<(String, String)>,
}

/// Rings everybody who is asked for, and says in the end what became of it. Stops when nobody wants to know.
pub(super) async fn ring_all(shared: &Arc<Shared>, parent: &str, from: &str, asked: DialWish) {
    let DialWish { numbers, timeout, time_limit, caller_id, base, bridged, mut reply } = asked;
    let from = caller_id.unwrap_or_else(|| from.to_owned());
    let telephones: Vec<Telephone> =
        numbers.into_iter().map(|number| telephone(shared, parent, &from, &base, timeout, number)).collect();
    let last = telephones.last().map(|telephone| telephone.sid.clone());
    let answered = {
        let mut ringing: FuturesUnordered<_> = telephones
            .iter()
            .map(|telephone| async move {
                let Telephone { sid, number, wish, .. } = telephone;
                (telephone, life::ring(shared, sid, wish, *number).await)
            })
            .collect();
        loop {
            tokio::select! {
                () = reply.closed() => break None,
                rung = ringing.next() => match rung {
                    Some((telephone, Rung::Answered(person))) => break Some((telephone, person)),
                    Some((_, Rung::Over)) => {}
                    None => break None,
                }
            }
        }
    };
    let Some((telephone, person)) = answered else {
        let status = best(shared, &telephones);
        hush(shared, &telephones);
        let dialed = Dialed { status, call_sid: last, seconds: None, bridged: false };
        let _ = reply.send(dialed); // The caller may have left.
        return;
    };
    let taken = shared.with_call(&telephone.sid, |record| life::answer(shared, record));
    hush(shared, &telephones);
    let began = Instant::now();
    let connected = taken == Some(true) && whisper(shared, telephone, &person, &mut reply).await;
    if connected && !reply.is_closed() {
        bridged.store(true, Ordering::Release);
        shared.with_call(parent, |record| record.answered.is_none() && life::answer(shared, record));
        talk(shared, telephone, &person, began, time_limit, &mut reply).await;
    }
    shared.end(&telephone.sid, Status::Completed, OK);
    let seconds = Some(began.elapsed().as_secs_f64().ceil() as u64);
    let dialed =
        Dialed { status: "completed", call_sid: Some(telephone.sid.clone()), seconds, bridged: connected };
    let _ = reply.send(dialed);
}

fn telephone(
    shared: &Arc<Shared>,
    parent: &str,
    from: &str,
    base: &str,
    timeout: Duration,
    number: Number,
) -> Telephone {
    let url = |url: &str| absolute(base, url);
    let callback = number.status_callback.map(|to| (url(&to), number.status_events));
    let whisper = number.whisper.map(|(to, method)| (url(&to), method));
    let mut wish = plain_wish(&number.to, from, Source::Text(String::new()), callback);
    wish.timeout = timeout;
    let (sid, number) = shared.enter("outbound-dial", Some(parent.to_owned()), wish.clone());
    Telephone { sid, number, wish, whisper }
}

/// Those that still ring fall silent.
fn hush(shared: &Shared, telephones: &[Telephone]) {
    for telephone in telephones {
        let rings = shared
            .with_call(&telephone.sid, |record| matches!(record.status, Status::Queued | Status::Ringing));
        if rings == Some(true) {
            shared.end(&telephone.sid, Status::Canceled, REQUEST_TERMINATED);
        }
    }
}

/// The outcome of a ringing that nobody answered: what says most about the people.
fn best(shared: &Shared, telephones: &[Telephone]) -> &'static str {
    let statuses: Vec<Status> = telephones
        .iter()
        .filter_map(|telephone| shared.with_call(&telephone.sid, |record| record.status))
        .collect();
    let order = [Status::NoAnswer, Status::Busy, Status::Canceled, Status::Failed];
    order.into_iter().find(|status| statuses.contains(status)).unwrap_or(Status::Canceled).as_str()
}

/// What the one who answered hears before the two can speak. False when that ended the call.
async fn whisper(
    shared: &Arc<Shared>,
    telephone: &Telephone,
    person: &Person,
    reply: &mut oneshot::Sender<Dialed>,
) -> bool {
    let Some((url, method)) = telephone.whisper.clone() else { return true };
    let (sender, orders) = mpsc::channel(1);
    let (news, mut asked) = mpsc::channel(1);
    let parent = shared.with_call(&telephone.sid, |record| {
        record.orders = Some(sender);
        record.log.parent.clone()
    });
    let parent = parent.flatten().unwrap_or_default();
    let leg = Leg {
        source: Source::Url { url, method, fallback: None },
        direction: "outbound-dial",
        status: "in-progress",
        extra: vec![super::book::field("ParentCallSid", &parent)],
        orders,
        news,
        pace: shared.options.pace,
        leaves: leaves(shared, person, Instant::now()),
        limit: None,
    };
    let options = life::options(shared, &telephone.sid, &telephone.wish, telephone.number, person);
    let whispering = run_leg(options, leg);
    // Nobody rings from within a whisper: such a wish is dropped, and the call goes on.
    let ignore = async { while asked.recv().await.is_some() {} };
    let report: Option<CallReport> = tokio::select! {
        (report, ()) = async { tokio::join!(whispering, ignore) } => Some(report),
        () = reply.closed() => None,
    };
    let Some(report) = report else { return false };
    let hung_up = report.followed.last().is_some_and(|verb| verb == "Hangup" || verb.starts_with("Reject"));
    let connects = report.ended_by == EndedBy::Twiml && !hung_up;
    shared.with_call(&telephone.sid, |record| {
        record.orders = None;
        record.keep(report, None);
    });
    connects
}

/// The two speak until one of them has had enough.
async fn talk(
    shared: &Shared,
    telephone: &Telephone,
    person: &Person,
    began: Instant,
    time_limit: Duration,
    reply: &mut oneshot::Sender<Dialed>,
) {
    let cancel = shared.with_call(&telephone.sid, |record| record.cancel.clone()).unwrap_or_default();
    let leaves =
        leaves(shared, person, began).unwrap_or_else(|| Instant::now() + shared.paced(shared.options.talk));
    tokio::select! {
        () = reply.closed() => {}
        () = cancel.cancelled() => {}
        () = sleep_until(leaves) => {}
        () = sleep(time_limit) => {}
    }
}

/// When a person who does not stay is gone.
fn leaves(shared: &Shared, person: &Person, began: Instant) -> Option<Instant> {
    let Person::HangsUp { after_ms } = person else { return None };
    Some(began + shared.paced(Duration::from_millis(*after_ms)))
}
