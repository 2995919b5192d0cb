//! Syncs over HTTP, and by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use voicebridge::ingest::kaleyra::{Syncs, at_intervals};
use voicebridge::shutdown::Tasks;
use voicebridge::simulate::kaleyra::{Fault, Faults};
use voicebridge::store::kaleyra::syncs::{self, End};

use super::{DAYS, Place, log};
use crate::surface::{Answer, KEY, Server};

const HOUR: Duration = Duration::from_mins(60);

impl Place {
    /// A server by the clock of a day in March.
    fn server(&self) -> Server {
        let server = Server::with_kaleyra(self.store.clone(), self.client.clone(), "default");
        server.at("2026-03-10T06:00:00Z");
        server
    }

    fn syncs(&self, tasks: &Tasks) -> Syncs {
        Syncs::new(self.store.clone(), self.client.clone(), "default", "node", tasks.clone())
    }

    /// Every answer comes late from now on.
    fn slow_down(&self) {
        let slow = Duration::from_millis(300);
        self.kaleyra.set_faults(Faults { slow, shares: vec![(1.0, Fault::Slow)], ..Faults::default() });
    }
}

fn march() -> Value {
    json!({"from": "2026-03-01", "to": "2026-03-02"})
}

async fn settled(server: &Server, id: &Value) -> Value {
    let path = format!("/api/kaleyra/syncs/{}", id.as_str().unwrap());
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let run = server.get(&path).await.data();
        if run["status"] != "running" {
            return run;
        }
        assert!(Instant::now() < deadline, "{run}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn accepted(answer: &Answer) -> Value {
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    let run = answer.json()["data"].clone();
    let location = format!("/api/kaleyra/syncs/{}", run["id"].as_str().unwrap());
    assert_eq!(answer.headers["location"], location.as_str());
    run
}

#[tokio::test]
async fn a_sync_goes_on_in_the_background_and_shows_how_far_it_is() {
    let place = Place::of(500).await;
    let server = place.server();
    let run = accepted(&server.post("/calls/sync", march()).await);
    assert_eq!((&run["from"], &run["to"]), (&json!("2026-03-01"), &json!("2026-03-02")));
    let run = settled(&server, &run["id"]).await;
    assert_eq!(
        (&run["status"], &run["fetched"], &run["inserted"]),
        (&json!("completed"), &json!(500), &json!(500))
    );
    assert_eq!(server.get("/api/kaleyra/syncs").await.data()[0], run);
    assert_eq!(server.get("/api/kaleyra/call-logs?limit=1").await.json()["pagination"]["total"], 500);
    assert_eq!(
        server.scalar::<i64>("select count(*) from audit_log where action = 'kaleyra_sync.started'").await,
        1
    );
}

#[tokio::test]
async fn a_small_sync_can_be_waited_for() {
    let place = Place::of(30).await;
    let run = place.server().post("/calls/sync?wait=true", march()).await.data();
    assert_eq!(
        (&run["status"], &run["inserted"], &run["page"]),
        (&json!("completed"), &json!(30), &json!(1))
    );
}

#[tokio::test]
async fn moments_stand_for_their_days_in_india_and_what_is_left_out_is_the_last_two() {
    let place = Place::of(0).await;
    let server = place.server();
    let days = async |body: Value| {
        let run = server.post("/calls/sync?wait=true", body).await.data();
        format!("{} {}", run["from"].as_str().unwrap(), run["to"].as_str().unwrap())
    };
    assert_eq!(days(json!({})).await, "2026-03-09 2026-03-10");
    assert_eq!(days(json!({"from": "2026-03-05"})).await, "2026-03-05 2026-03-10");
    assert_eq!(
        days(json!({"from": "2026-03-01T20:00:00Z", "to": "2026-03-03T01:00:00Z"})).await,
        "2026-03-02 2026-03-03"
    );
    for wrong in [
        json!({"from": "2026-03-05", "to": "2026-03-04"}),
        json!({"to": "2026-03-11"}),
        json!({"from": "2025-03-01"}),
    ] {
        server.post("/calls/sync", wrong).await.is_error(422, "invalid_value");
    }
    server.post("/calls/sync", json!({"from": "yesterday"})).await.is_error(422, "invalid_body");
}

#[tokio::test]
async fn one_sync_runs_at_a_time() {
    let place = Place::of(300).await;
    place.slow_down();
    let server = place.server();
    let run = accepted(&server.post("/calls/sync", march()).await);
    let refused = server.post("/calls/sync", json!({})).await.is_error(409, "sync_running");
    assert_eq!(refused["details"]["sync_id"], run["id"]);
    assert_eq!(settled(&server, &run["id"]).await["status"], "completed");
    let other = accepted(&server.post("/calls/sync", json!({})).await);
    assert_ne!(other["id"], run["id"]);
}

#[tokio::test]
async fn of_many_who_begin_at_the_same_moment_one_does() {
    let place = Place::of(300).await;
    place.slow_down();
    let server = place.server();
    let (a, b, c, d) = tokio::join!(
        server.post("/calls/sync", march()),
        server.post("/calls/sync", march()),
        server.post("/calls/sync", march()),
        server.post("/calls/sync", json!({})),
    );
    let mut statuses = [a, b, c, d].map(|answer| answer.status.as_u16());
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 409, 409, 409]);
    assert_eq!(server.count("kaleyra_syncs").await, 1);
}

#[tokio::test]
async fn a_run_that_nobody_carries_is_taken_over_for_the_same_days_and_left_for_others() {
    let place = Place::of(500).await;
    let server = place.server();
    let carried = place.begin(DAYS).await;
    place.silence().await;
    let shown = server.get(&format!("/api/kaleyra/syncs/{}", carried.claim.id)).await.data();
    assert_eq!(shown["status"], "interrupted");
    let run = accepted(&server.post("/calls/sync", march()).await);
    assert_eq!(run["id"], json!(carried.claim.id));
    assert_eq!(run["node"], "node-test");
    assert_eq!(settled(&server, &run["id"]).await["inserted"], 500);

    let left = place.begin((DAYS.0, DAYS.0)).await;
    place.silence().await;
    let other = accepted(&server.post("/calls/sync", march()).await);
    assert_ne!(other["id"], json!(left.claim.id));
    let on_record: String =
        server.scalar(&format!("select status from kaleyra_syncs where id = '{}'", left.claim.id)).await;
    assert_eq!(on_record, "interrupted");
}

#[tokio::test]
async fn whoever_has_no_account_is_told() {
    let server = Server::new().await;
    server.at("2026-03-10T06:00:00Z");
    server.post("/calls/sync", march()).await.is_error(409, "not_configured");

    let place = Place::of(5).await;
    let server = place.server();
    server.execute("insert into organisations (slug, name) values ('other', 'Other')").await;
    let headers = [("x-api-key", KEY), ("x-organization", "other"), ("content-type", "application/json")];
    let others = server.raw(Method::POST, "/calls/sync", &headers, march().to_string()).await;
    others.is_error(409, "not_configured");
    assert_eq!(server.count("kaleyra_syncs").await, 0);
    let run = accepted(&server.post("/calls/sync", march()).await);
    let path = format!("/api/kaleyra/syncs/{}", run["id"].as_str().unwrap());
    server.raw(Method::GET, &path, &headers, "").await.is_error(404, "not_found");
}

#[tokio::test]
async fn a_server_that_stops_leaves_a_run_at_a_page_and_begins_none() {
    let place = Place::of(900).await;
    place.slow_down();
    let server = place.server();
    let run = accepted(&server.post("/calls/sync", march()).await);
    while place.kaleyra.report().pages < 2 {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(server.tasks.drain(Duration::from_secs(10)).await, "it does not hold the server up");
    server.post("/calls/sync", march()).await.is_error(503, "stopping");
    place.kaleyra.set_faults(Faults::default());
    let next = place.server();
    assert_eq!(settled(&next, &run["id"]).await["status"], "interrupted");
    let again = accepted(&next.post("/calls/sync", march()).await);
    assert_eq!(again["id"], run["id"]);
    let ended = settled(&next, &run["id"]).await;
    assert_eq!((&ended["fetched"], &ended["inserted"]), (&json!(900), &json!(900)));
    assert_eq!(place.rows().await, place.expected());
}

#[tokio::test(start_paused = true)]
async fn a_schedule_has_its_job_done_at_once_and_then_every_so_often_until_the_server_stops() {
    let (stopping, done) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
    let (stop, count) = (stopping.clone(), Arc::clone(&done));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let job = || {
            count.fetch_add(1, Ordering::SeqCst);
            // One takes longer than the next one is away.
            async {
                sleep(Duration::from_mins(90)).await;
                None
            }
        };
        at_intervals(HOUR, &stop, job).await;
    });
    for (minutes, times) in [(1, 1), (88, 1), (2, 2), (89, 2), (2, 3)] {
        sleep(Duration::from_mins(minutes)).await;
        assert_eq!(done.load(Ordering::SeqCst), times);
    }
    stopping.cancel();
    assert!(tasks.join_next().await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_wants_to_be_done_again_is_without_waiting_for_its_time() {
    let (stopping, done) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
    let (stop, count) = (stopping.clone(), Arc::clone(&done));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let job = || {
            let nth = count.fetch_add(1, Ordering::SeqCst);
            async move { (nth < 2).then_some(Duration::from_mins(1)) }
        };
        at_intervals(HOUR, &stop, job).await;
    });
    // Twice a minute later, and then by the hour as before.
    for (seconds, times) in [(1, 1), (60, 2), (60, 3), (3_400, 3), (80, 4), (3_500, 4), (100, 5)] {
        sleep(Duration::from_secs(seconds)).await;
        assert_eq!(done.load(Ordering::SeqCst), times);
    }
    stopping.cancel();
    assert!(tasks.join_next().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_run_that_was_carried_until_a_moment_ago_is_looked_at_again_and_so_is_what_could_not_begin() {
    let place = Place::of(50).await;
    let tasks = Tasks::new();
    let syncs = place.syncs(&tasks);
    // A server was killed, and starts again at once.
    let left = place.begin(DAYS).await;
    let look = syncs.catch_up(HOUR).await.unwrap();
    assert_eq!(look.again(), Some(Duration::from_secs(60)), "{look:?}");
    place.silence().await;
    let begun = syncs.catch_up(HOUR).await.unwrap();
    assert!(begun.again().is_some(), "this one may be left as well");
    let begun = begun.begun().expect("nobody carries it any more");
    assert_eq!(begun.id, left.claim.id);
    begun.ended.await.unwrap();
    let recent =
        syncs.catch_up(HOUR).await.unwrap().begun().expect("those were other days than the last two");
    recent.ended.await.unwrap();
    let today = voicebridge::ingest::kaleyra::record::day_of(jiff::Timestamp::now());
    assert_eq!(place.run(recent.id).await.from, today.yesterday().unwrap());
}

#[tokio::test]
async fn what_is_due_is_fetched_by_one_server_and_what_was_left_is_finished() {
    let today = voicebridge::ingest::kaleyra::record::day_of(jiff::Timestamp::now());
    let yesterday = today.yesterday().unwrap();
    let place = Place::with(log(400, (yesterday, today))).await;
    let tasks = Tasks::new();
    let (one, other) = (place.syncs(&tasks), place.syncs(&tasks));
    let (a, b) = tokio::join!(one.catch_up(HOUR), other.catch_up(HOUR));
    let started = match (a.unwrap().begun(), b.unwrap().begun()) {
        (Some(started), None) | (None, Some(started)) => started,
        both => panic!("{both:?}"),
    };
    started.ended.await.unwrap();
    let run = place.run(started.id).await;
    assert_eq!((run.from, run.to, run.inserted), (yesterday, today, 400));
    assert_eq!(one.catch_up(HOUR).await.unwrap().again(), None, "it was just done");
    sqlx::query("update kaleyra_syncs set finished_at = finished_at - interval '31 minutes'")
        .execute(place.store.pool())
        .await
        .unwrap();
    let next = one.catch_up(HOUR).await;
    next.unwrap().begun().expect("the time has come").ended.await.unwrap();
    let whole_to: String = sqlx::query_scalar("select max(whole_to)::text from kaleyra_syncs")
        .fetch_one(place.store.pool())
        .await
        .unwrap();
    assert_eq!(whole_to, yesterday.to_string(), "today is not over");

    let left = place.begin(DAYS).await;
    assert!(one.catch_up(HOUR).await.unwrap().begun().is_none(), "it is being carried");
    syncs::end(&place.store, left.claim, &End::Interrupted).await.unwrap();
    let finished = one.catch_up(HOUR).await.unwrap().begun().expect("what was left comes first");
    assert_eq!(finished.id, left.claim.id);
    finished.ended.await.unwrap();
    assert_eq!(place.run(finished.id).await.status, "completed");
}

#[tokio::test]
async fn a_schedule_for_an_organisation_that_is_not_there_says_so() {
    let place = Place::of(0).await;
    let syncs = Syncs::new(place.store.clone(), place.client.clone(), "nobody", "node", Tasks::new());
    let error = syncs.catch_up(HOUR).await.unwrap_err();
    assert!(error.to_string().contains("KALEYRA_ORGANIZATION"), "{error}");
}

#[tokio::test]
async fn whoever_reads_legs_is_on_record_with_each_of_them() {
    let place = Place::of(10).await;
    place.sync(DAYS).await;
    let server = place.server();
    let read = async || -> Vec<String> {
        let subjects = "select coalesce(jsonb_agg(subject order by id), '[]') from audit_log
                        where action = 'kaleyra_call_log.read'";
        serde_json::from_value(server.scalar(subjects).await).unwrap()
    };
    server.get("/api/kaleyra/call-volume").await.data();
    server.get("/api/kaleyra/call-logs/nobody").await.is_error(404, "not_found");
    assert!(read().await.is_empty(), "figures are about nobody");
    let listed = server.get("/api/kaleyra/call-logs?limit=3").await.data();
    let mut ids: Vec<String> =
        listed.as_array().unwrap().iter().map(|leg| leg["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((ids.len(), read().await), (3, ids.clone()));
    server.get(&format!("/api/kaleyra/call-logs/{}", ids[0])).await.data();
    ids.push(ids[0].clone());
    assert_eq!(read().await, ids);
}
