//! Callbacks of the carrier that come before anybody knows whose call it is.

use axum::http::{Method, StatusCode};
use uuid::Uuid;

use crate::surface::Server;

const SID: &str = "CA00000000000000000000000000000009";
const PARAMS: [(&str, &str); 4] =
    [("CallSid", SID), ("From", "+14155550123"), ("To", "+14155550198"), ("Direction", "inbound")];

/// Whose the callbacks are.
const WHOSE: &str = "select coalesce(string_agg(distinct slug, ','), '') from call_events
                     join organisations on organisations.id = organization_id";

/// A server with a second tenant, whose number is called, and the webhook of that number.
async fn called() -> (Server, String) {
    let server = Server::new().await;
    server
        .execute(
            "insert into organisations (slug, name) values ('other', 'Other');
             insert into agents (organization_id, name, instructions)
             select id, 'Desk', 'Speak.' from organisations where slug = 'other';
             insert into phone_numbers (organization_id, agent_id, number)
             select organization_id, id, '+14155550198' from agents where name = 'Desk'",
        )
        .await;
    let number: String =
        server.scalar("select id::text from phone_numbers where number = '+14155550198'").await;
    (server, format!("/api/phone-number/{number}/incoming"))
}

impl Server {
    async fn told(&self, status: &str, number: &str) {
        let mut params = PARAMS.to_vec();
        params.extend([("CallStatus", status), ("SequenceNumber", number)]);
        let answer = self.twilio("/api/twilio/call-status", &params).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text);
    }

    /// How many callbacks a tenant sees, as a request of its own does.
    async fn seen_by(&self, slug: &str) -> i64 {
        let id: Uuid = self.scalar(&format!("select id from organisations where slug = '{slug}'")).await;
        let mut tenant = self.as_tenant(Some(id)).await;
        sqlx::query_scalar("select count(*) from call_events").fetch_one(&mut tenant).await.unwrap()
    }
}

#[tokio::test]
async fn a_callback_that_came_before_its_call_is_its_organisations_once_the_call_is_known() {
    let (server, incoming) = called().await;
    server.told("ringing", "0").await;
    assert_eq!(server.scalar::<String>(WHOSE).await, "default", "nobody knows better");
    let answer = server.twilio(&incoming, &PARAMS).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(server.scalar::<String>(WHOSE).await, "other");
    server.told("in-progress", "1").await;
    server.told("completed", "2").await;
    assert_eq!(server.scalar::<String>(WHOSE).await, "other");
    let all = server.count("call_events").await;
    assert!(all >= 3, "{all}");
    assert_eq!((server.seen_by("other").await, server.seen_by("default").await), (all, 0));
    let key = server.key_of("other", &["read"]).await;
    let call = server.asked_by(Some(&key), Method::GET, &format!("/api/calls/{SID}"), "", "").await;
    assert_eq!(call.data()["call_sid"], SID);
}

#[tokio::test]
async fn callbacks_come_home_by_whichever_record_of_the_call_is_first() {
    let (server, _) = called().await;
    server.told("ringing", "0").await;
    let of_desk = |record: &str| record.replace("SID", SID) + " from agents where name = 'Desk'";
    for records in [
        vec![of_desk(
            "insert into calls (call_sid, organization_id, agent_id, data) select 'SID', organization_id, id, '{}'",
        )],
        // The carrier's name of a call that VAPI handles comes later.
        vec![
            of_desk("insert into calls (organization_id, agent_id, data) select organization_id, id, '{}'"),
            format!("update calls set call_sid = '{SID}'"),
        ],
        vec![of_desk(
            "insert into call_leases (call_sid, organization_id, agent_id, fencing_token) select 'SID', organization_id, id, 1",
        )],
    ] {
        for record in &records {
            assert_eq!(server.scalar::<String>(WHOSE).await, "default", "{record}");
            server.execute(record).await;
        }
        assert_eq!(server.scalar::<String>(WHOSE).await, "other", "{records:?}");
        server
            .execute(
                "delete from calls;
                 delete from call_leases;
                 update call_events set organization_id = (select id from organisations where slug = 'default')",
            )
            .await;
    }
}
