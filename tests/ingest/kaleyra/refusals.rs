//! What becomes of a run when the database does not take what it writes.

use std::time::Duration;

use jiff::civil::{Date, date};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use voicebridge::ingest::kaleyra::{RunError, carry};
use voicebridge::simulate::random::Random;
use voicebridge::store::kaleyra::TIED_AT_ONCE;
use voicebridge::store::kaleyra::syncs::End;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::{DAYS, Place, client};

/// Days on which there was nothing.
const QUIET: (Date, Date) = (date(2026, 3, 5), date(2026, 3, 5));

impl Place {
    async fn execute(&self, sql: &str) {
        self.store.pool().execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    }

    async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(self.store.pool()).await.unwrap()
    }

    /// Has the database refuse to write rows of the log in this way, while the condition holds.
    async fn refuses(&self, event: &str, code: &str, condition: &str) {
        self.execute(&format!(
            "create sequence tries;
             create function refuse() returns trigger language plpgsql as $$
             begin
                 if {condition} then
                     raise exception 'not %', new.callfrom using errcode = '{code}';
                 end if;
                 return new;
             end
             $$;
             create trigger refuse before {event} on kaleyra_call_logs for each row execute function refuse()"
        ))
        .await;
    }

    /// More untied rows than are tied at a time, each of another telephone, and a lead for each.
    async fn more_than_are_tied_at_once(&self) -> i64 {
        let many = TIED_AT_ONCE + 100;
        self.execute(&format!(
            "insert into kaleyra_call_logs (organization_id, id, callfrom, callto, start_time, status, service)
             select organisations.id, 'x' || n, 9800000000 + n, '8068921234', now(), 'ANSWER', 'Incoming'
             from organisations, generate_series(1, {many}) as n;
             insert into leads (organization_id, phone)
             select organisations.id, '+91' || 9800000000 + n from organisations, generate_series(1, {many}) as n"
        ))
        .await;
        many
    }

    async fn tied(&self) -> i64 {
        self.number("select count(lead_id) from kaleyra_call_logs").await
    }
}

#[tokio::test]
async fn a_run_whose_rows_the_database_refuses_has_failed_and_says_why_without_what_it_was_to_write() {
    let place = Place::of(30).await;
    place.refuses("insert", "23514", "true").await;
    let run = place.sync(DAYS).await;
    assert_eq!(run.status, "failed");
    let error = run.error.unwrap();
    assert!(error.contains("SQLSTATE 23514"), "{error}");
    assert!(place.kaleyra.legs().iter().all(|leg| !error.contains(&leg.callfrom)), "{error}");
    assert!(run.finished_at.is_some());

    // It stands in nobody's way, and goes on once the database takes them.
    place.execute("drop trigger refuse on kaleyra_call_logs").await;
    assert_eq!(place.sync(QUIET).await.status, "completed");
    let again = place.sync(DAYS).await;
    assert_eq!((again.id, again.status.as_str(), again.inserted), (run.id, "completed", 30));
}

#[tokio::test]
async fn what_passes_in_the_database_is_tried_again() {
    let place = Place::of(30).await;
    // A sequence counts on whatever becomes of the transaction.
    place.refuses("insert", "40001", "nextval('tries') <= 2").await;
    let run = place.sync(DAYS).await;
    assert_eq!((run.status.as_str(), run.inserted), ("completed", 30));
    assert!(place.number("select last_value from tries").await > 2, "it was refused twice");
}

#[tokio::test]
async fn a_run_that_cannot_tie_rows_to_leads_is_completed_all_the_same_and_the_next_one_ties_them() {
    let place = Place::of(30).await;
    place.sync(DAYS).await;
    let leg = place.kaleyra.legs().iter().find(|leg| leg.service == "Incoming").unwrap().clone();
    place
        .execute(&format!(
            "insert into leads (organization_id, phone) select id, '+91{}' from organisations",
            leg.callfrom
        ))
        .await;
    place.refuses("update", "XX000", "true").await;
    assert_eq!(place.sync(QUIET).await.status, "completed");
    assert_eq!(place.tied().await, 0);
    place.execute("drop trigger refuse on kaleyra_call_logs").await;
    place.sync(QUIET).await;
    assert!(place.tied().await > 0);
}

#[tokio::test]
async fn all_rows_are_tied_however_many_telephones_there_are_and_rows_of_nobody_hold_nothing_up() {
    let place = Place::of(0).await;
    let many = place.more_than_are_tied_at_once().await;
    // Before, between and behind the others there are telephones that no lead has.
    place
        .execute(
            "delete from leads where phone in ('+919800000001', '+919800000300', '+919800000600');
             update kaleyra_call_logs set callfrom = 'anonymous' where id = 'x2'",
        )
        .await;
    place.sync(QUIET).await;
    assert_eq!(place.tied().await, many - 4);
    let wrong = "select count(*) from kaleyra_call_logs logs join leads on leads.id = lead_id
                 where phone <> '+91' || callfrom";
    assert_eq!(place.number(wrong).await, 0);
}

/// Has `meanwhile` be done while a run is tying rows, the first of them at this moment.
async fn while_tying(
    place: &Place,
    stopping: &CancellationToken,
    meanwhile: impl AsyncFnOnce(),
) -> Result<End, RunError> {
    let carried = place.begin(QUIET).await;
    let mut blocking = place.store.pool().begin().await.unwrap();
    blocking.execute("lock table leads in access exclusive mode").await.unwrap();
    let block = async {
        let deadline = Instant::now() + Duration::from_secs(4);
        let waits = "select count(*) from pg_locks where relation = 'leads'::regclass and not granted";
        while place.number(waits).await == 0 {
            assert!(Instant::now() < deadline, "nobody ties anything");
            sleep(Duration::from_millis(1)).await;
        }
        meanwhile().await;
        blocking.commit().await.unwrap();
    };
    let (end, ()) = tokio::join!(carry(&place.store, &place.client, carried, stopping), block);
    end
}

#[tokio::test]
async fn a_server_that_stops_is_not_held_up_by_rows_to_tie() {
    let place = Place::of(0).await;
    place.more_than_are_tied_at_once().await;
    let stopping = CancellationToken::new();
    let end = while_tying(&place, &stopping, async || stopping.cancel()).await;
    assert_eq!(end.unwrap(), End::Completed, "all was fetched");
    assert_eq!(place.tied().await, TIED_AT_ONCE);
}

#[tokio::test]
async fn whoever_ties_rows_shows_life_and_lets_go_when_somebody_else_carries_the_run() {
    let place = Place::of(0).await;
    place.more_than_are_tied_at_once().await;
    let end = while_tying(&place, &CancellationToken::new(), async || {
        place.execute("update kaleyra_syncs set attempt = attempt + 1").await;
    })
    .await;
    assert!(matches!(end, Err(RunError::Lost)), "{end:?}");
    assert_eq!(place.tied().await, TIED_AT_ONCE);
}

#[tokio::test]
async fn a_record_whose_texts_are_too_long_to_be_looked_for_is_rejected_and_the_others_are_kept() {
    let record = |id: &str, callto: &str| {
        json!({
            "id": id, "callfrom": "9812345678", "callto": callto, "start_time": "2026-03-05 10:00:00",
            "status": "ANSWER", "service": "Incoming",
        })
    };
    // It cannot be compressed to what fits into an index.
    let mut random = Random::new(7);
    let long: String =
        (0..8_000).map(|_| char::from(b'!' + u8::try_from(random.between(0, 60)).unwrap())).collect();
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(200)
        .set_body_json(json!({"records": [record("a", "8068921234"), record("b", &long)]}));
    Mock::given(method("POST")).respond_with(answer).mount(&server).await;
    let mut place = Place::of(0).await;
    place.client = client(&server.uri(), super::KEY);
    let run = place.sync(QUIET).await;
    assert_eq!((run.status.as_str(), run.inserted, run.rejected), ("completed", 1, 1));
    assert_eq!(run.reasons[0].id.as_deref(), Some("b"));
    assert_eq!(run.reasons[0].reason, "callto is longer than 200 characters");
}
