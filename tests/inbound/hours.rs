//! Whose call it is at which hour.

use serde_json::{Value, json};

use crate::server::{Line, Server};

/// Asks at each of these moments who takes a call, and compares with the decision log.
async fn expect(server: &Server, line: &Line, prefix: &str, moments: &[(&str, &str)]) {
    for (index, (now, expected)) in moments.iter().enumerate() {
        server.at(now);
        let sid = format!("CA{prefix}{index}");
        let answer = server.rings(line, &sid).await;
        let rings = answer.text == line.rings_the_team();
        assert!(rings || answer.text.contains("<Connect"), "{}", answer.text);
        let found = server.decisions(&sid).await;
        assert_eq!(found, [format!("incoming {expected}")], "{now}");
        assert_eq!(rings, expected.starts_with("team"), "{now}");
        let status = if rings { "transferred_to_team" } else { "direct_to_agent" };
        assert_eq!(server.routing_status(&sid).await, status, "{now}");
    }
}

const TEAM: &str = "team in_business_hours";
const OUT: &str = "agent out_of_hours";

#[tokio::test]
async fn a_split_shift_is_two_spans_with_the_agent_between() {
    let server = Server::new().await;
    let line = server.line().await;
    let moments = [
        ("2026-01-14T07:59:59Z", OUT),
        ("2026-01-14T08:00:00Z", TEAM),
        ("2026-01-14T10:59:59Z", TEAM),
        ("2026-01-14T11:00:00Z", OUT),
        ("2026-01-14T12:00:00Z", TEAM),
        ("2026-01-14T16:30:00Z", OUT),
        ("2026-01-17T10:00:00Z", OUT),  // A Saturday.
        ("2026-07-15T07:00:00Z", TEAM), // In summer the same clock is an hour ahead.
    ];
    expect(&server, &line, "1", &moments).await;
}

#[tokio::test]
async fn a_holiday_is_the_agents_but_for_hours_of_its_own() {
    let server = Server::new().await;
    let line = server.line().await;
    let holidays = json!({"holidays": [
        {"day": "2026-12-24", "name": "Christmas Eve", "opens": "10:00", "closes": "11:00"},
        {"day": "2026-12-25", "name": "Christmas"},
        {"day": "2026-12-26", "name": "Open Saturday", "opens": "00:00", "closes": "24:00"},
    ]});
    server.patch(&format!("/api/schedules/{}", line.schedule), holidays).await.data();
    let moments = [
        ("2026-12-23T09:30:00Z", TEAM),
        ("2026-12-24T08:30:00Z", "agent holiday"),
        ("2026-12-24T09:30:00Z", TEAM),
        ("2026-12-25T09:30:00Z", "agent holiday"),
        ("2026-12-25T22:59:59Z", "agent holiday"),
        ("2026-12-25T23:00:00Z", TEAM), // The next day there.
        ("2026-12-26T22:59:59Z", TEAM),
        ("2026-12-26T23:00:00Z", OUT),
    ];
    expect(&server, &line, "2", &moments).await;
    let log = server.get("/api/calls/CA23/routing").await.data();
    assert_eq!(
        (&log[0]["details"]["holiday"], &log[0]["details"]["span"]),
        (&json!("Christmas"), &Value::Null)
    );
    let log = server.get("/api/calls/CA22/routing").await.data();
    assert_eq!(
        (&log[0]["details"]["holiday"], &log[0]["details"]["span"]),
        (&json!("Christmas Eve"), &json!("10:00-11:00"))
    );
}

#[tokio::test]
async fn an_hour_that_the_clock_leaps_over_rings_nobody_and_one_that_it_shows_twice_rings_twice() {
    let server = Server::new().await;
    let line = server.line().await;
    let sundays = json!({"spans": [{"weekday": 7, "opens": "02:00", "closes": "03:00"}]});
    server.patch(&format!("/api/schedules/{}", line.schedule), sundays).await.data();
    let moments = [
        ("2026-03-22T01:30:00Z", TEAM),
        ("2026-03-29T00:59:59Z", OUT), // 01:59:59, and then it is 03:00.
        ("2026-03-29T01:00:00Z", OUT),
        ("2026-03-29T01:30:00Z", OUT),
        ("2026-10-25T00:30:00Z", TEAM), // 02:30 for the first time,
        ("2026-10-25T01:30:00Z", TEAM), // and for the second.
        ("2026-10-25T02:00:00Z", OUT),
    ];
    expect(&server, &line, "3", &moments).await;
}

#[tokio::test]
async fn a_schedule_that_is_off_absent_or_of_no_people_leaves_the_call_to_the_agent() {
    let server = Server::new().await;
    let line = server.line().await;
    let (schedule, number) =
        (format!("/api/schedules/{}", line.schedule), format!("/api/phone-numbers/{}", line.number));
    let now = "2024-10-30T09:00:00Z";
    server.patch(&schedule, json!({"enabled": false})).await.data();
    expect(&server, &line, "4", &[(now, "agent schedule_off")]).await;
    server.patch(&schedule, json!({"enabled": true})).await.data();
    expect(&server, &line, "5", &[(now, TEAM)]).await;
    server.patch(&number, json!({"schedule_id": null})).await.data();
    expect(&server, &line, "6", &[(now, "agent no_schedule")]).await;
    server.patch(&number, json!({"schedule_id": line.schedule, "team_id": null})).await.data();
    expect(&server, &line, "7", &[(now, "agent no_team")]).await;
    server.patch(&number, json!({"team_id": line.team})).await.data();
    server.execute("update team_members set enabled = false").await;
    expect(&server, &line, "8", &[(now, "agent no_team")]).await;
}
