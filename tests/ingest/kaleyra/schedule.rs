//! From where scheduled syncs go on.

use jiff::ToSpan as _;
use jiff::civil::Date;
use voicebridge::ingest::kaleyra::{due, record};
use voicebridge::simulate::kaleyra::{Fault, Faults};
use voicebridge::store::kaleyra::syncs::{self, End, Latest};
use voicebridge::store::kaleyra::tidy;

use super::Place;

const HOUR: std::time::Duration = std::time::Duration::from_mins(60);

impl Place {
    /// A run of these days that ends so.
    async fn ended(&self, first: Date, last: Date, end: End) {
        let carried = self.begin((first, last)).await;
        syncs::end(&self.store, carried.claim, &end).await.unwrap();
    }

    /// Takes over the run of these days that nobody carries.
    async fn resumed(&self, first: Date, last: Date) -> syncs::Claim {
        self.silence().await;
        let carried = self.begin((first, last)).await;
        assert!(carried.is_resumed);
        carried.claim
    }

    async fn latest(&self) -> Latest {
        syncs::latest(&self.store, self.organization).await.unwrap()
    }

    /// The days that are due once the last two were fetched, an hour after anything failed.
    async fn due(&self) -> Option<(Date, Date)> {
        let latest = Latest { recent_s_ago: Some(60), failed_s_ago: Some(3_600), ..self.latest().await };
        due(&latest, HOUR, jiff::Timestamp::now()).map(|days| (days.first(), days.last()))
    }
}

fn today() -> Date {
    record::day_of(jiff::Timestamp::now())
}

fn failed() -> End {
    End::Failed("Kaleyra did not answer after 5 tries: answer 503".to_owned())
}

#[tokio::test]
async fn days_behind_a_gap_do_not_count_as_fetched_until_the_gap_is_closed() {
    let (place, today) = (Place::of(0).await, today());
    let ago = |days: i64| today.saturating_sub(days.days());
    place.ended(ago(20), ago(15), End::Completed).await;
    assert_eq!(place.latest().await.whole_to, Some(ago(15)));
    // Somebody asks for other days by hand: those between are not on record.
    place.ended(ago(5), today, End::Completed).await;
    assert_eq!(place.latest().await.whole_to, Some(ago(15)));
    place.ended(ago(200), ago(190), End::Completed).await;
    assert_eq!(place.due().await, Some((ago(14), ago(2))));
    place.ended(ago(14), ago(6), End::Completed).await;
    assert_eq!(place.due().await, Some((ago(5), ago(2))));
    place.ended(ago(6), today, failed()).await;
    assert_eq!(place.due().await, Some((ago(5), ago(2))));
    place.ended(ago(6), today, End::Completed).await;
    assert_eq!(place.latest().await.whole_to, Some(ago(1)), "today is not over");
    assert_eq!(place.due().await, None);
}

#[tokio::test]
async fn days_of_long_ago_keep_no_recent_ones_away_whether_they_were_fetched_or_mistyped() {
    let today = today();
    let ago = |days: i64| today.saturating_sub(days.days());
    let recent = async |place: &Place| {
        due(&place.latest().await, HOUR, jiff::Timestamp::now()).map(|days| (days.first(), days.last()))
    };
    for end in [End::Completed, failed()] {
        let place = Place::of(0).await;
        place.ended(ago(4_000), ago(3_990), end.clone()).await;
        assert_eq!(recent(&place).await, Some((ago(1), today)));
        place.ended(ago(1), today, End::Completed).await;
        if end == End::Completed {
            assert_eq!(
                recent(&place).await,
                Some((ago(3_989), ago(3_959))),
                "what was wanted is fetched next"
            );
            place.ended(ago(3_989), ago(3_959), failed()).await;
            assert_eq!(recent(&place).await, None, "and not without end");
        } else {
            assert_eq!(place.latest().await.whole_to, Some(ago(1)));
            assert_eq!(recent(&place).await, None);
        }
        // However it is with those of long ago.
        sqlx::query("update kaleyra_syncs set finished_at = finished_at - interval '31 minutes'")
            .execute(place.store.pool())
            .await
            .unwrap();
        assert_eq!(recent(&place).await, Some((ago(1), today)));
    }
}

#[tokio::test]
async fn a_run_tells_up_to_which_day_all_is_on_record() {
    let (place, today) = (Place::of(0).await, today());
    let ago = |days: i64| today.saturating_sub(days.days());
    assert_eq!(place.sync((ago(5), ago(4))).await.whole_to, Some(ago(4)));
    assert_eq!(place.sync((ago(1), today)).await.whole_to, None, "there is a gap before it");
    assert_eq!(place.sync((ago(3), today)).await.whole_to, Some(ago(1)), "today is not over");
}

#[tokio::test]
async fn runs_of_long_ago_are_deleted_but_for_the_one_that_says_what_is_on_record() {
    let today = today();
    let ago = |days: i64| today.saturating_sub(days.days());
    let left = async |place: &Place| -> Vec<String> {
        sqlx::query_scalar(
            "select status || ' ' || last_day - first_day from kaleyra_syncs order by started_at, id",
        )
        .fetch_all(place.store.pool())
        .await
        .unwrap()
    };
    let age = async |place: &Place, days: u32| {
        let aged = format!(
            "update kaleyra_syncs
             set started_at = started_at - interval '{days} days', finished_at = finished_at - interval '{days} days'"
        );
        sqlx::query(sqlx::AssertSqlSafe(aged)).execute(place.store.pool()).await.unwrap();
    };
    let place = Place::of(0).await;
    place.ended(ago(20), ago(19), End::Completed).await;
    place.ended(ago(18), ago(16), End::Completed).await;
    place.ended(ago(9), ago(6), failed()).await;
    place.ended(ago(9), ago(5), End::Completed).await;
    place.begin((ago(9), ago(4))).await;
    age(&place, 89).await;
    tidy::all(&place.store, 2).await.unwrap();
    assert_eq!(left(&place).await.len(), 5);
    let before = place.latest().await.whole_to;
    age(&place, 2).await;
    tidy::all(&place.store, 2).await.unwrap();
    assert_eq!(left(&place).await, ["completed 2", "running 5"]);
    assert_eq!((place.latest().await.whole_to, before.is_some()), (before, true));

    // While nothing is on record: the first that was asked for.
    let place = Place::of(0).await;
    place.ended(ago(20), ago(19), failed()).await;
    place.ended(ago(18), ago(16), failed()).await;
    age(&place, 91).await;
    tidy::all(&place.store, 2).await.unwrap();
    assert_eq!(
        (left(&place).await, place.latest().await.asked_from),
        (vec!["failed 1".to_owned()], Some(ago(20)))
    );
}

#[tokio::test]
async fn a_day_that_was_going_on_when_it_was_fetched_is_fetched_again_whenever_that_is() {
    let (place, today) = (Place::of(0).await, today());
    let ago = |days: i64| today.saturating_sub(days.days());
    place.ended(ago(4), ago(3), End::Completed).await;
    // As if it had begun on its last day, and the server had been off since.
    sqlx::query(
        "update kaleyra_syncs
         set started_at = started_at - interval '3 days', status = 'running', finished_at = null, whole_to = null",
    )
    .execute(place.store.pool())
    .await
    .unwrap();
    let carried = place.resumed(ago(4), ago(3)).await;
    syncs::end(&place.store, carried, &End::Completed).await.unwrap();
    assert_eq!(place.latest().await.whole_to, Some(ago(4)));
    place.ended(ago(2), ago(1), End::Completed).await;
    assert_eq!(place.latest().await.whole_to, Some(ago(4)), "the rest of the third day before is missing");
}

#[tokio::test]
async fn what_was_asked_for_first_is_not_lost_when_it_fails() {
    let (place, today) = (Place::of(0).await, today());
    let ago = |days: i64| today.saturating_sub(days.days());
    place.ended(ago(4), ago(3), failed()).await;
    assert_eq!(place.due().await, Some((ago(4), ago(2))));
    place.ended(ago(1), today, End::Completed).await;
    assert_eq!(place.due().await, Some((ago(4), ago(2))), "a run of other days does not stand for it");
    place.ended(ago(4), today, End::Completed).await;
    assert_eq!(place.due().await, None);
}

#[tokio::test]
async fn a_run_that_was_interrupted_is_gone_on_with_although_one_of_other_days_is_newer() {
    let (place, today) = (Place::of(0).await, today());
    let ago = |days: i64| today.saturating_sub(days.days());
    place.ended(ago(9), ago(2), End::Interrupted).await;
    place.ended(ago(90), ago(80), End::Completed).await;
    assert_eq!(place.latest().await.left, Some((ago(9), ago(2))));
    // One that has its days, and more, stands for it, whatever became of it.
    place.ended(ago(9), today, failed()).await;
    assert_eq!(place.latest().await.left, None);
    place.ended(ago(3), ago(3), End::Interrupted).await;
    assert_eq!(place.latest().await.left, Some((ago(3), ago(3))));
    sqlx::query("update kaleyra_syncs set heartbeat = heartbeat - interval '1 day'")
        .execute(place.store.pool())
        .await
        .unwrap();
    assert_eq!(place.latest().await.left, None, "it is fetched anew by now");
}

#[tokio::test]
async fn days_on_which_kaleyra_was_away_are_fetched_by_the_next_scheduled_sync() {
    let today = today();
    let ago = |days: i64| today.saturating_sub(days.days());
    let place = Place::with(super::log(300, (ago(3), today))).await;
    place.kaleyra.set_faults(Faults { shares: vec![(1.0, Fault::Error)], ..Faults::default() });
    assert_eq!(place.sync((ago(3), ago(2))).await.status, "failed");
    place.kaleyra.set_faults(Faults::default());
    let days = place.due().await.unwrap();
    assert_eq!(days, (ago(3), ago(2)));
    assert_eq!(place.sync(days).await.status, "completed");
    assert_eq!(place.sync((ago(1), today)).await.status, "completed");
    assert_eq!(place.rows().await, place.expected());
}
