//! What a run brings, and what it does when Kaleyra is in trouble.

use std::time::Duration;

use serde_json::json;
use voicebridge::simulate::kaleyra::{Fault, Faults, KaleyraOptions};
use voicebridge::store::kaleyra::syncs;
use wiremock::matchers::{body_string_contains, method};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::{DAYS, Place, client, log};

fn at_once(list: Vec<(u64, Fault)>, shares: Vec<(f64, Fault)>) -> Faults {
    Faults { list, shares, slow: Duration::from_millis(50), retry_after_s: 0 }
}

#[tokio::test]
async fn a_run_fetches_all_rows_of_its_days_and_no_others_and_a_second_one_changes_nothing() {
    let place = Place::with(log(900, (DAYS.0, DAYS.1.tomorrow().unwrap()))).await;
    let run = place.sync(DAYS).await;
    let expected: Vec<_> = place
        .kaleyra
        .legs()
        .iter()
        .filter(|leg| leg.start.date() <= DAYS.1)
        .map(|leg| leg.id.clone())
        .collect();
    assert_eq!(place.rows().await.len(), expected.len());
    assert!(expected.len() > 200 && expected.len() < 900, "some days, several pages");
    let all = i64::try_from(expected.len()).unwrap();
    assert_eq!((run.status.as_str(), run.fetched, run.inserted), ("completed", all, all));
    assert_eq!((run.day, run.page, run.error), (DAYS.1.tomorrow().unwrap(), 1, None));

    let before = place.rows().await;
    let again = place.sync(DAYS).await;
    assert_ne!(again.id, run.id, "one that is completed is not carried on");
    assert_eq!((again.fetched, again.unchanged), (all, all));
    assert_eq!((again.inserted, again.updated, again.rejected), (0, 0, 0));
    assert_eq!(place.rows().await, before);
    let stale: i64 =
        sqlx::query_scalar("select count(*) from kaleyra_call_logs where synced_at < $1::timestamptz")
            .bind(again.started_at.to_string())
            .fetch_one(place.store.pool())
            .await
            .unwrap();
    assert_eq!(stale, 0, "all were seen again");
}

#[tokio::test]
async fn a_row_that_says_something_else_by_now_is_updated() {
    let place = Place::of(40).await;
    place.sync(DAYS).await;
    sqlx::query("update kaleyra_call_logs set recording = 'late' where id in (select id from kaleyra_call_logs limit 3)")
        .execute(place.store.pool())
        .await
        .unwrap();
    let run = place.sync(DAYS).await;
    assert_eq!((run.updated, run.unchanged), (3, 37));
    let late: i64 = sqlx::query_scalar("select count(*) from kaleyra_call_logs where recording = 'late'")
        .fetch_one(place.store.pool())
        .await
        .unwrap();
    assert_eq!(late, 0);
}

#[tokio::test]
async fn records_that_are_no_rows_are_counted_and_told_with_their_reasons() {
    let options = KaleyraOptions { malformed_every: 3, ..log(600, DAYS) };
    let place = Place::with(options).await;
    let run = place.sync(DAYS).await;
    assert_eq!((run.fetched, run.inserted, run.rejected), (600, 400, 200));
    assert_eq!(run.reasons.len(), 100, "the first hundred");
    assert_eq!(run.reasons[0].reason, "start_time is not a time such as 2026-02-24 14:45:15");
    let told = run.reasons[0].id.as_deref().unwrap();
    assert!(place.kaleyra.legs().iter().any(|leg| leg.id == told));
}

#[tokio::test]
async fn records_that_come_on_two_pages_are_one_row() {
    let place = Place::with(KaleyraOptions { overlap: 7, ..log(1_000, DAYS) }).await;
    let run = place.sync(DAYS).await;
    assert_eq!(place.rows().await, place.expected());
    assert_eq!((run.inserted, run.fetched), (1_000, 1_000 + run.unchanged));
    assert!(run.unchanged >= 14, "{}", run.unchanged);
}

#[tokio::test]
async fn what_passes_is_asked_for_again() {
    let faults = at_once(
        vec![(1, Fault::TooMany), (2, Fault::Error), (3, Fault::Lost), (4, Fault::Slow), (6, Fault::Lost)],
        Vec::new(),
    );
    let place = Place::with(KaleyraOptions { faults, ..log(300, DAYS) }).await;
    let run = place.sync(DAYS).await;
    assert_eq!((run.status.as_str(), run.inserted), ("completed", 300));
    let report = place.kaleyra.report();
    assert_eq!((report.faults, report.requests - report.pages), (5, 4));
    assert_eq!(place.rows().await, place.expected());
}

#[tokio::test]
async fn a_kaleyra_that_stays_away_fails_the_run_which_goes_on_from_there_later() {
    let place = Place::of(900).await;
    place
        .kaleyra
        .set_faults(Faults { list: (3..=7).map(|nth| (nth, Fault::Error)).collect(), ..Faults::default() });
    let failed = place.sync(DAYS).await;
    assert_eq!(failed.status, "failed");
    assert_eq!(failed.error.as_deref(), Some("Kaleyra did not answer after 5 tries: answer 500"));
    assert_eq!((failed.day, failed.page, failed.inserted), (DAYS.0, 3, 400), "two pages are kept");
    assert!(failed.finished_at.is_some());

    let run = place.sync(DAYS).await;
    assert_eq!((run.id, run.status.as_str(), run.error), (failed.id, "completed", None));
    assert_eq!((run.fetched, run.inserted), (900, 900), "nothing was fetched twice");
}

#[tokio::test]
async fn a_kaleyra_that_wants_to_be_left_alone_for_long_is() {
    let faults = Faults { retry_after_s: 3600, ..at_once(vec![(1, Fault::TooMany)], Vec::new()) };
    let place =
        Place::with(KaleyraOptions { faults: Faults { retry_after_s: 3600, ..faults }, ..log(9, DAYS) })
            .await;
    assert_eq!(place.sync(DAYS).await.status, "failed");
    assert_eq!(place.kaleyra.report().requests, 1);
}

#[tokio::test]
async fn a_refusal_is_not_repeated_and_says_what_to_check() {
    let mut place = Place::of(9).await;
    place.client = client(&place.kaleyra.url(), "another-key");
    let run = place.sync(DAYS).await;
    assert_eq!(
        run.error.as_deref(),
        Some("Kaleyra refused the request (401): Invalid API key; check KALEYRA_API_KEY and KALEYRA_API_URL")
    );
    assert_eq!(place.kaleyra.report().requests, 1);
}

#[tokio::test]
async fn a_kaleyra_that_knows_no_pages_is_asked_for_two_of_a_day() {
    let server = MockServer::start().await;
    let record = |id: &str| {
        json!({
            "id": id, "callfrom": "9812345678", "callto": "8068921234", "start_time": "2026-03-01 10:00:00",
            "status": "ANSWER", "service": "Incoming",
        })
    };
    let answer = ResponseTemplate::new(200).set_body_json(json!({"records": [record("a"), record("b")]}));
    Mock::given(method("POST"))
        .and(body_string_contains("method=dial"))
        .and(body_string_contains("fromdate=2026%2F03%2F01"))
        .respond_with(answer)
        .expect(2)
        .mount(&server)
        .await;
    let mut place = Place::of(0).await;
    place.client = client(&server.uri(), super::KEY);
    let run = place.sync((DAYS.0, DAYS.0)).await;
    assert_eq!((run.status.as_str(), run.fetched, run.inserted), ("completed", 2, 2));
}

#[tokio::test]
async fn pages_of_records_without_an_id_are_not_taken_for_one_page_and_what_follows_is_fetched() {
    let server = MockServer::start().await;
    let record = |from: &str| {
        json!({
            "callfrom": from, "callto": "8068921234", "start_time": "2026-03-01 10:00:00", "status": "ANSWER",
            "service": "Incoming",
        })
    };
    let mut good = record("9812345673");
    good["id"] = json!("a");
    good["notes"] = json!(["x"]);
    let pages = [json!([record("9812345671")]), json!([record("9812345672")]), json!([good]), json!([])];
    for (page, records) in (1..).zip(pages) {
        let answer = ResponseTemplate::new(200).set_body_json(json!({"records": records}));
        Mock::given(method("POST"))
            .and(body_string_contains(format!("page={page}&")))
            .respond_with(answer)
            .expect(1)
            .mount(&server)
            .await;
    }
    let mut place = Place::of(0).await;
    place.client = client(&server.uri(), super::KEY);
    let run = place.sync((DAYS.0, DAYS.0)).await;
    assert_eq!((run.status.as_str(), run.fetched, run.inserted, run.rejected), ("completed", 3, 1, 2));
    let told: Vec<_> = run.reasons.iter().map(|told| (told.id.as_deref(), told.reason.as_str())).collect();
    assert_eq!(
        told,
        [
            (None, "id is missing"),
            (None, "id is missing"),
            (Some("a"), "kept without what cannot be read: notes"),
        ]
    );
}

#[tokio::test]
async fn a_row_that_is_another_organisations_stays_theirs() {
    let place = Place::of(5).await;
    let id = &place.kaleyra.legs()[2].id;
    sqlx::query(
        "with other as (insert into organisations (slug, name) values ('other', 'Other') returning id)
         insert into kaleyra_call_logs (organization_id, id, callfrom, callto, start_time, status, service)
         select id, $1, 'x', 'y', now(), 'BUSY', 'Incoming' from other",
    )
    .bind(id)
    .execute(place.store.pool())
    .await
    .unwrap();
    let run = place.sync(DAYS).await;
    assert_eq!((run.inserted, run.rejected), (4, 1));
    assert_eq!(run.reasons[0].id.as_ref(), Some(id));
    let status: String = sqlx::query_scalar("select status from kaleyra_call_logs where id = $1")
        .bind(id)
        .fetch_one(place.store.pool())
        .await
        .unwrap();
    assert_eq!(status, "BUSY");
}

#[tokio::test]
async fn runs_are_listed_newest_first() {
    let place = Place::of(5).await;
    let first = place.sync(DAYS).await;
    let second = place.sync((DAYS.0, DAYS.0)).await;
    let (listed, total) = syncs::list(&place.store, place.organization, 10, 0).await.unwrap();
    assert_eq!(total, 2);
    assert_eq!(listed, [second, first]);
}
