//! Delivers the callbacks of one call: in order, unless asked to bring them in disorder, twice, late or not at all.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Shared;
use super::options::Delivery;
use crate::simulate::caller::webhook::WebhookError;
use crate::simulate::random::Random;

/// Callbacks of a call that wait; there are never more than five.
const WAITING: usize = 16;

/// A callback that is due.
#[derive(Debug, Clone)]
pub(super) struct Notice {
    pub(super) url: String,
    pub(super) fields: Vec<(String, String)>,
    /// Its place among the callbacks of the call.
    pub(super) index: usize,
    pub(super) sid: String,
}

/// What happens to one on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Way {
    held: bool,
    late: bool,
    twice: bool,
}

impl Way {
    /// None: it is lost.
    fn draw(delivery: &Delivery, random: &mut Random) -> Option<Self> {
        let mut happens = |share: f64| (random.between(0, 999_999) as f64) < share * 1e6;
        let lost = happens(delivery.lost);
        let way = Self {
            held: happens(delivery.disordered),
            late: happens(delivery.late),
            twice: happens(delivery.twice),
        };
        (!lost).then_some(way)
    }
}

/// Starts the one who delivers the callbacks of call `number`.
pub(super) fn hire(shared: &Arc<Shared>, number: u64) -> mpsc::Sender<Notice> {
    let (sender, notices) = mpsc::channel(WAITING);
    shared.start(run(Arc::clone(shared), number, notices));
    sender
}

async fn run(shared: Arc<Shared>, number: u64, mut notices: mpsc::Receiver<Notice>) {
    let mut random = Random::for_part(shared.options.seed ^ 0xCA11, number);
    let mut held: Option<(Notice, Way)> = None;
    while let Some(notice) = notices.recv().await {
        let Some(way) = Way::draw(&shared.options.delivery, &mut random) else {
            shared.with_call(&notice.sid, |record| record.log.callbacks[notice.index].lost = true);
            continue;
        };
        if way.held && held.is_none() {
            held = Some((notice, way));
        } else {
            send(&shared, notice, way).await;
            if let Some((notice, way)) = held.take() {
                send(&shared, notice, way).await;
            }
        }
    }
    // Nothing comes any more that could overtake it.
    if let Some((notice, way)) = held {
        send(&shared, notice, way).await;
    }
}

async fn send(shared: &Arc<Shared>, notice: Notice, way: Way) {
    if way.late {
        let later = Arc::clone(shared);
        shared.start(async move {
            sleep(later.options.delivery.late_by).await;
            deliver(&later, &notice, way.twice).await;
        });
    } else {
        deliver(shared, &notice, way.twice).await;
    }
}

pub(super) async fn deliver(shared: &Arc<Shared>, notice: &Notice, twice: bool) {
    for _ in 0..=usize::from(twice) {
        let at = shared.clock.now();
        let answer = shared.webhooks.notify(&notice.url, &notice.fields).await;
        let told = match &answer {
            Ok(()) => "taken".to_owned(),
            Err(WebhookError::Status { status, .. }) => status.to_string(),
            Err(error) => error.to_string(),
        };
        if let Err(WebhookError::Status { status: 400..=499, .. }) = &answer {
            // A server that is down may be down; one that refuses what it asked for is wrong.
            shared.complain(format!("15003: {} refused a callback with {told}", notice.url));
        }
        shared.with_call(&notice.sid, |record| {
            record.log.callbacks[notice.index].deliveries.push((at, told));
        });
    }
}
