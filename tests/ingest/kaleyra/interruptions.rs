//! Runs that end where they must not, and what becomes of them.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::poll_fn;
use jiff::civil::{Date, date};
use sqlx::ConnectOptions as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use voicebridge::app::process::{ProcessOptions, ServerProcess};
use voicebridge::ingest::kaleyra::{RunError, carry};
use voicebridge::simulate::kaleyra::{Fault, Faults, KaleyraOptions};
use voicebridge::simulate::random::Random;
use voicebridge::store::kaleyra::syncs::{self, Batch, Cursor, End, WriteError};

use super::{DAYS, KEY, Place, log};

const TEN_DAYS: (Date, Date) = (date(2026, 3, 1), date(2026, 3, 10));
const SOON: Duration = Duration::from_secs(60);

impl Place {
    /// Waits until so many pages were told.
    async fn pages(&self, many: u64) {
        let deadline = Instant::now() + SOON;
        while self.kaleyra.report().pages < many {
            assert!(Instant::now() < deadline, "only {:?}", self.kaleyra.report());
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until so many rows are kept.
    async fn kept(&self, many: i64) {
        let deadline = Instant::now() + SOON;
        let count = || {
            sqlx::query_scalar::<_, i64>("select count(*) from kaleyra_call_logs")
                .fetch_one(self.store.pool())
        };
        while count().await.unwrap() < many {
            assert!(Instant::now() < deadline, "only {} rows", count().await.unwrap());
            sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn ten_thousand_rows_are_exactly_those_after_three_interruptions_one_of_them_a_killed_server() {
    let place = Place::with(log(10_000, TEN_DAYS)).await;
    let mut random = Random::new(7);

    // A server is killed in the middle.
    let data = tempfile::tempdir().unwrap();
    let settings = vec![
        ("DATABASE_URL", place.store.pool().connect_options().to_url_lossy().to_string()),
        ("OPENAI_REALTIME_URL", "ws://127.0.0.1:9".to_owned()),
        ("KALEYRA_API_URL", place.kaleyra.url()),
        ("KALEYRA_API_KEY", KEY.to_owned()),
    ];
    let program = env!("CARGO_BIN_EXE_voicebridge").into();
    let options = ProcessOptions { program, data_dir: data.path().into(), settings, echo: true };
    let mut server = ServerProcess::start(options).await.unwrap();
    place.kaleyra.set_faults(Faults {
        slow: Duration::from_millis(20),
        shares: vec![(1.0, Fault::Slow)],
        ..Faults::default()
    });
    let answer = reqwest::Client::new()
        .post(format!("http://{}/calls/sync", server.addr))
        .bearer_auth(&server.admin_key)
        .json(&serde_json::json!({"from": TEN_DAYS.0, "to": TEN_DAYS.1}))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 202, "{}", answer.text().await.unwrap());
    place.kept(i64::try_from(random.between(1, 12)).unwrap() * 200).await;
    server.kill().await.unwrap();
    let (runs, _) = syncs::list(&place.store, place.organization, 10, 0).await.unwrap();
    let [left] = &runs[..] else { panic!("{runs:?}") };
    assert_eq!(left.status, "running", "it could not say goodbye");
    assert_eq!(
        left.fetched,
        i64::try_from(place.rows().await.len()).unwrap(),
        "rows and progress go together"
    );
    place.silence().await;
    assert_eq!(place.run(left.id).await.status, "interrupted", "nobody carries it");

    // A task is dropped at whatever it does: just after a page was told, before it is kept.
    let carried = place.begin(TEN_DAYS).await;
    assert!(carried.is_resumed && carried.claim.id == left.id);
    let told = place.kaleyra.report().pages + random.between(1, 12);
    let mut tasks = JoinSet::new();
    let (store, client) = (place.store.clone(), place.client.clone());
    tasks.spawn(async move { carry(&store, &client, carried, &CancellationToken::new()).await });
    place.pages(told).await;
    tasks.shutdown().await;
    let left = place.run(carried.claim.id).await;
    assert_eq!(left.fetched, i64::try_from(place.rows().await.len()).unwrap());
    place.silence().await;

    // A server is told to stop.
    let carried = place.begin(TEN_DAYS).await;
    let stopping = CancellationToken::new();
    let told = place.kaleyra.report().pages + random.between(1, 12);
    let stop = async {
        place.pages(told).await;
        stopping.cancel();
    };
    let (end, ()) = tokio::join!(carry(&place.store, &place.client, carried, &stopping), stop);
    assert_eq!(end.unwrap(), End::Interrupted);
    let left = place.run(carried.claim.id).await;
    assert_eq!(
        (left.status.as_str(), left.fetched),
        ("interrupted", i64::try_from(place.rows().await.len()).unwrap())
    );
    assert!(left.fetched < 10_000);

    let run = place.sync(TEN_DAYS).await;
    assert_eq!((run.id, run.status.as_str()), (left.id, "completed"));
    assert_eq!((run.fetched, run.inserted), (10_000, 10_000), "every record once");
    assert_eq!((run.updated, run.unchanged, run.rejected), (0, 0, 0));
    assert_eq!(place.rows().await, place.expected());

    place.kaleyra.set_faults(Faults::default());
    let again = place.sync(TEN_DAYS).await;
    assert_eq!((again.fetched, again.inserted, again.updated, again.unchanged), (10_000, 0, 0, 10_000));
    assert_eq!(place.rows().await, place.expected());
}

#[tokio::test]
async fn a_run_that_is_dropped_at_any_wait_is_carried_on_to_the_same_rows() {
    let place = Place::with(KaleyraOptions { most: 4, ..log(31, DAYS) }).await;
    let mut waits = 0;
    let mut dropped = 0;
    loop {
        sqlx::raw_sql("delete from kaleyra_call_logs; delete from kaleyra_syncs")
            .execute(place.store.pool())
            .await
            .unwrap();
        let carried = place.begin(DAYS).await;
        let never = CancellationToken::new();
        let has_ended = {
            let mut run = pin!(carry(&place.store, &place.client, carried, &never));
            let mut left = waits;
            poll_fn(|context| match run.as_mut().poll(context) {
                Poll::Ready(end) => Poll::Ready(Some(end)),
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => {
                    left -= 1;
                    Poll::Pending
                }
            })
            .await
        };
        if let Some(end) = has_ended {
            assert_eq!(end.unwrap(), End::Completed);
            assert_eq!(place.rows().await, place.expected());
            break;
        }
        dropped += 1;
        waits += 2;
        place.quiet().await;
        if place.run(carried.claim.id).await.status == "completed" {
            // Its last word was on its way to the database already.
            assert_eq!(place.rows().await, place.expected());
            continue;
        }
        place.silence().await;
        let run = place.sync(DAYS).await;
        assert_eq!((run.id, run.status.as_str()), (carried.claim.id, "completed"));
        assert_eq!((run.fetched, run.inserted), (31, 31), "after {waits} waits");
        assert_eq!(place.rows().await, place.expected(), "after {waits} waits");
    }
    assert!(dropped > 6, "it was dropped {dropped} times only");
}

#[tokio::test]
async fn a_day_that_was_going_on_is_fetched_anew_and_one_that_was_over_is_not() {
    let today = voicebridge::ingest::kaleyra::record::day_of(jiff::Timestamp::now());
    let days = (today.yesterday().unwrap(), today);
    let place = Place::with(log(900, days)).await;
    let at = |day, page| Cursor { day, page };
    let carried = place.begin(days).await;
    syncs::keep(&place.store, carried.claim, carried.at, at(days.0, 2), &Batch::default()).await.unwrap();
    syncs::end(&place.store, carried.claim, &End::Interrupted).await.unwrap();
    let carried = place.begin(days).await;
    assert_eq!(carried.at, at(days.0, 2));
    syncs::keep(&place.store, carried.claim, carried.at, at(days.1, 3), &Batch::default()).await.unwrap();
    syncs::end(&place.store, carried.claim, &End::Interrupted).await.unwrap();
    assert_eq!(place.begin(days).await.at, at(days.1, 1), "calls since then may have moved the others");
}

#[tokio::test]
async fn whoever_lost_a_run_writes_nothing_any_more() {
    let place = Place::of(500).await;
    let lost = place.begin(DAYS).await;
    place.silence().await;
    let ours = place.begin(DAYS).await;
    assert_eq!(ours.claim.id, lost.claim.id);

    let error = carry(&place.store, &place.client, lost, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, RunError::Lost), "{error}");
    assert!(matches!(syncs::beat(&place.store, lost.claim).await, Err(WriteError::Lost)));
    assert!(matches!(syncs::end(&place.store, lost.claim, &End::Completed).await, Err(WriteError::Lost)));
    assert!(place.rows().await.is_empty());

    carry(&place.store, &place.client, ours, &CancellationToken::new()).await.unwrap();
    assert_eq!(place.rows().await, place.expected());
}

#[tokio::test]
async fn a_page_that_was_kept_without_our_knowing_is_not_counted_twice() {
    let place = Place::of(9).await;
    let carried = place.begin(DAYS).await;
    let next = Cursor { day: DAYS.0, page: 2 };
    let records = place.client.page(DAYS.0, 1).await.unwrap();
    let rows: Vec<_> = records
        .iter()
        .map(|record| voicebridge::ingest::kaleyra::record::read(record).unwrap().row)
        .collect();
    let many = i64::try_from(rows.len()).unwrap();
    let batch = Batch { rows, ..Batch::default() };
    for _ in 0..2 {
        syncs::keep(&place.store, carried.claim, carried.at, next, &batch).await.unwrap();
    }
    assert_eq!(place.run(carried.claim.id).await.fetched, many);
}
