//! Figures over the log, on rows made by hand.

use serde_json::{Value, json};
use sqlx::Executor as _;
use voicebridge::store::kaleyra::figures::{self, Range};
use voicebridge::store::organisations;

use crate::surface::Server;

const OTHER: &str = "11111111-1111-4111-8111-111111111111";

/// One call that rang for three agents just before midnight in India, a click, and somebody else's call.
async fn furnished() -> Server {
    let server = Server::new().await;
    server
        .execute(
            "insert into organisations (id, slug, name) values ('11111111-1111-4111-8111-111111111111', 'other', 'Other');
             insert into kaleyra_call_logs (organization_id, id, callfrom, callto, start_time, billsec, status, service)
             select organisations.id, row.*
             from organisations,
                  (values
                     ('in-1', '9812345678', '8068921234', timestamptz '2026-03-01 23:50:00+05:30', 30, 'ANSWER', 'Incoming'),
                     ('fw-1', '9812345678', '9201952685', timestamptz '2026-03-01 23:50:20+05:30', 0, 'NOANSWER', 'CallForward'),
                     ('fw-2', '9812345678', '9201972062', timestamptz '2026-03-01 23:50:40+05:30', 7, 'BUSY', 'CallForward'),
                     ('fw-3', '9812345678', '6264437618', timestamptz '2026-03-02 00:00:00+05:30', 65, 'ANSWER', 'CallForward'),
                     ('in-2', '9812345679', '8068921234', timestamptz '2026-03-02 10:00:00+05:30', 12, 'ANSWER', 'Incoming'),
                     ('fw-4', '9812345679', '9201952685', timestamptz '2026-03-02 10:00:20+05:30', 40, 'ANSWERED-B', 'CallForward'),
                     ('fw-5', '9812345679', '9201952685', timestamptz '2026-03-02 10:05:20+05:30', 5, 'FORWARDED', 'CallForward'),
                     ('fw-6', '9812345679', '9201952685', timestamptz '2026-03-02 10:06:20+05:30', 20, 'ACCEPTED', 'CallForward'),
                     ('cl-1', '9201952685', '9812345670', timestamptz '2026-03-02 11:00:00+05:30', 90, 'ANSWER', 'Click2Call'),
                     ('pk-1', '9812345671', '8068921234', timestamptz '2026-03-02 12:00:00+05:30', 0, 'IVR-ANSWER', 'Parked'),
                     ('in-9', '9812345672', '8068921234', timestamptz '2026-03-03 00:00:00+05:30', 0, 'CANCEL', 'Incoming')
                  ) as row
             where slug = 'default';
             insert into kaleyra_call_logs (organization_id, id, callfrom, callto, start_time, billsec, status, service)
             values ('11111111-1111-4111-8111-111111111111', 'theirs', '9', '9201952685', '2026-03-02 10:00:00+05:30', 99, 'ANSWER', 'CallForward')",
        )
        .await;
    server
}

async fn figure(server: &Server, name: &str) -> Value {
    server.get(&format!("/api/kaleyra/{name}?from=2026-03-01&to=2026-03-02")).await.data()
}

#[tokio::test]
async fn the_volume_counts_legs_in_all_and_by_service() {
    let server = furnished().await;
    let volume = figure(&server, "call-volume").await;
    assert_eq!(volume, json!({"total": 10, "incoming": 2, "forwarded": 6, "click2call": 1}));
    let none = server.get("/api/kaleyra/call-volume?from=2020-01-01&to=2020-01-02").await.data();
    assert_eq!(none, json!({"total": 0, "incoming": 0, "forwarded": 0, "click2call": 0}));
}

#[tokio::test]
async fn agents_are_judged_by_the_legs_that_were_forwarded_to_them() {
    let server = furnished().await;
    assert_eq!(
        figure(&server, "agent-stats").await,
        json!([
            {"agent_number": "9201952685", "calls_answered": 2, "total_talk_seconds": 60, "missed_calls": 2},
            {"agent_number": "6264437618", "calls_answered": 1, "total_talk_seconds": 65, "missed_calls": 0},
            {"agent_number": "9201972062", "calls_answered": 0, "total_talk_seconds": 0, "missed_calls": 1},
        ])
    );
}

#[tokio::test]
async fn a_day_is_one_in_india() {
    let server = furnished().await;
    // Ten to midnight there is twenty past six in the evening in London.
    assert_eq!(
        figure(&server, "daily-volume").await,
        json!([
            {"date": "2026-03-01", "incoming": 1, "forwarded": 2},
            {"date": "2026-03-02", "incoming": 1, "forwarded": 4},
        ])
    );
}

#[tokio::test]
async fn statuses_are_counted_the_most_frequent_first() {
    let server = furnished().await;
    let counts = figure(&server, "status-breakdown").await;
    assert_eq!(
        counts,
        json!([
            {"status": "ANSWER", "count": 4},
            {"status": "ACCEPTED", "count": 1},
            {"status": "ANSWERED-B", "count": 1},
            {"status": "BUSY", "count": 1},
            {"status": "FORWARDED", "count": 1},
            {"status": "IVR-ANSWER", "count": 1},
            {"status": "NOANSWER", "count": 1},
        ])
    );
}

#[tokio::test]
async fn a_range_holds_its_first_moment_and_not_its_last() {
    let server = furnished().await;
    let total = async |from: &str, to: &str| {
        let path = format!("/api/kaleyra/call-volume?from={from}&to={to}");
        server.get(&path).await.data()["total"].clone()
    };
    assert_eq!(total("2026-03-01T18:20:00Z", "2026-03-01T18:20:20Z").await, 1);
    assert_eq!(total("2026-03-01T18:20:01Z", "2026-03-01T18:20:21Z").await, 1);
    assert_eq!(total("2026-03-01T18:20:01Z", "2026-03-01T18:20:20Z").await, 0);
    server.get("/api/kaleyra/call-volume?from=2026-03-02&to=2026-03-01").await.is_error(400, "invalid_query");
}

#[tokio::test]
async fn figures_are_of_one_organisation_whoever_asks_and_however() {
    let server = furnished().await;
    let volume = "select total from get_kaleyra_call_volume('2026-03-01', '2026-04-01')";
    let as_api = async |organization: &str| -> i64 {
        let mut transaction = server.store.pool().begin().await.unwrap();
        let role =
            format!("set local role voicebridge_api; set local app.organization_id = '{organization}'");
        transaction.execute(sqlx::AssertSqlSafe(role)).await.unwrap();
        sqlx::query_scalar(volume).fetch_one(&mut *transaction).await.unwrap()
    };
    let ours = organisations::default_organization(&server.store).await.unwrap();
    assert_eq!(as_api(&ours.to_string()).await, 11);
    assert_eq!(as_api(OTHER).await, 1);
    assert_eq!(as_api("").await, 0, "of nobody");

    // The server itself sees all, and its store gives each only their own.
    assert_eq!(server.scalar::<i64>(volume).await, 12);
    let range =
        Range { from: "2026-03-01T00:00:00Z".parse().unwrap(), to: "2026-04-01T00:00:00Z".parse().unwrap() };
    let other = OTHER.parse::<uuid::Uuid>().unwrap().into();
    let agents = figures::agent_stats(&server.store, other, range).await.unwrap();
    assert_eq!((agents.len(), agents[0].total_talk_seconds), (1, 99));
    assert_eq!(figures::call_volume(&server.store, other, range).await.unwrap().total, 1);
    assert_eq!(figures::daily_volume(&server.store, other, range).await.unwrap().len(), 1);
    assert_eq!(figures::status_breakdown(&server.store, other, range).await.unwrap().len(), 1);
}

#[tokio::test]
async fn legs_are_listed_newest_first_and_by_what_they_are() {
    let server = furnished().await;
    let ids = async |query: &str| -> Vec<String> {
        let listed = server.get(&format!("/api/kaleyra/call-logs?{query}")).await.data();
        listed.as_array().unwrap().iter().map(|leg| leg["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids("limit=2").await, ["in-9", "pk-1"]);
    assert_eq!(ids("from=2026-03-01&to=2026-03-01").await, ["fw-2", "fw-1", "in-1"]);
    assert_eq!(ids("service=Click2Call").await, ["cl-1"]);
    assert_eq!(ids("status=noanswer").await, ["fw-1"]);
    assert_eq!(ids("agent=9201952685&to=2026-03-02T04:30:20Z").await, ["fw-1"]);
    assert_eq!(ids("callto=6264437618").await, ["fw-3"]);
    assert_eq!(server.get("/api/kaleyra/call-logs/fw-3").await.data()["billsec"], 65);
    server.get("/api/kaleyra/call-logs/theirs").await.is_error(404, "not_found");
}
