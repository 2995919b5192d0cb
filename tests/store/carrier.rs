//! Callbacks of the carrier: each is one row, however often it is sent.

use serde_json::json;
use voicebridge::ids::OrganizationId;
use voicebridge::store::Store;
use voicebridge::store::call_events::{CarrierEvent, record};

use crate::{default_agent, sid, support};

pub(crate) fn callback(
    organization: OrganizationId,
    status: Option<&str>,
    number: Option<u32>,
) -> CarrierEvent {
    CarrierEvent {
        organization: Some(organization),
        call_sid: sid(1),
        call_status: status.map(Into::into),
        to: Some("+15005550000".into()),
        from: Some("anonymous".into()),
        direction: Some("inbound".into()),
        duration_s: Some(12),
        sequence_number: number,
        event_time: Some("2026-01-02T03:04:05Z".parse().unwrap()),
        sip_response_code: Some(486),
        answered_by: None,
        payload: json!({"CallStatus": status}),
    }
}

async fn rows(store: &Store) -> i64 {
    sqlx::query_scalar("select count(*) from call_events").fetch_one(store.pool()).await.unwrap()
}

#[tokio::test]
async fn a_repeated_callback_is_one_row() {
    let store = support::store(2).await;
    let organization = default_agent(&store).await.organization_id;
    for (number, status) in ["initiated", "ringing", "in-progress", "completed"].into_iter().enumerate() {
        let event = callback(organization, Some(status), Some(number as u32));
        assert!(record(&store, &event).await.unwrap());
        assert!(!record(&store, &event).await.unwrap());
    }
    assert_eq!(rows(&store).await, 4);
}

#[tokio::test]
async fn callbacks_without_a_number_are_told_apart_by_what_they_say() {
    let store = support::store(2).await;
    let organization = default_agent(&store).await.organization_id;
    let answered = |by: &str| CarrierEvent {
        answered_by: Some(by.into()),
        payload: json!({"AnsweredBy": by}),
        ..callback(organization, None, None)
    };
    assert!(record(&store, &answered("human")).await.unwrap());
    assert!(!record(&store, &answered("human")).await.unwrap());
    assert!(record(&store, &answered("machine_start")).await.unwrap());
    assert!(record(&store, &callback(organization, Some("completed"), None)).await.unwrap());
    assert_eq!(rows(&store).await, 3);
}

#[tokio::test]
async fn what_the_carrier_says_is_kept_as_it_was_said() {
    let store = support::store(2).await;
    let organization = default_agent(&store).await.organization_id;
    let event = CarrierEvent {
        from: Some("client:b\0ob".into()),
        payload: json!({"From": "client:b\0ob", "n\0": [1]}),
        ..callback(organization, Some("busy"), Some(3))
    };
    assert!(record(&store, &event).await.unwrap());
    let row: (String, i32, i32, jiff_sqlx::Timestamp, serde_json::Value) = sqlx::query_as(
        "select from_number, duration, sip_response_code, event_time, payload from call_events",
    )
    .fetch_one(store.pool())
    .await
    .unwrap();
    assert_eq!((row.0.as_str(), row.1, row.2), ("client:bob", 12, 486));
    assert_eq!(row.3.to_jiff().to_string(), "2026-01-02T03:04:05Z");
    assert_eq!(row.4, json!({"From": "client:bob", "n": [1]}));
}
