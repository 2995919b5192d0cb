//! Who the customers are.

use super::{DAYS, Place};

#[tokio::test]
async fn the_customers_telephone_is_read_as_one_in_india_unless_it_says_otherwise() {
    let place = Place::of(0).await;
    for (service, from, to, phone) in [
        ("Incoming", "9812345678", "8068921234", Some("+919812345678")),
        ("CallForward", "09812345678", "9201952685", Some("+919812345678")),
        ("Click2Call", "9201952685", "919812345678", Some("+919812345678")),
        ("Incoming", "0919812345678", "8068921234", Some("+919812345678")),
        ("Incoming", "+91 98123-45678", "8068921234", Some("+919812345678")),
        ("Incoming", "+14155550123", "8068921234", Some("+14155550123")),
        ("Incoming", "0014155550123", "8068921234", Some("+14155550123")),
        ("Incoming", "08068921234", "1", Some("+918068921234")),
        ("Incoming", "anonymous", "8068921234", None),
        ("Incoming", "12345", "8068921234", None),
        ("Parked", "9812345678", "8068921234", Some("+919812345678")),
    ] {
        let read: Option<String> = sqlx::query_scalar("select kaleyra_customer_phone($1, $2, $3)")
            .bind(service)
            .bind(from)
            .bind(to)
            .fetch_one(place.store.pool())
            .await
            .unwrap();
        assert_eq!(read.as_deref(), phone, "{service} {from} {to}");
    }
}

#[tokio::test]
async fn legs_are_tied_to_the_lead_who_was_contacted_last_and_later_leads_at_the_next_sync() {
    let place = Place::of(60).await;
    let incoming = place.kaleyra.legs().iter().find(|leg| leg.service == "Incoming").unwrap();
    let click = place.kaleyra.legs().iter().find(|leg| leg.service == "Click2Call").unwrap();
    let lead = async |number: &str, contacted: &str| -> i64 {
        sqlx::query_scalar(
            "insert into leads (organization_id, phone, last_contacted_at)
             select id, '+91' || $1, $2::timestamptz from organisations returning id",
        )
        .bind(number)
        .bind(contacted)
        .fetch_one(place.store.pool())
        .await
        .unwrap()
    };
    let tied = async |id: &str| -> Option<i64> {
        sqlx::query_scalar("select lead_id from kaleyra_call_logs where id = $1")
            .bind(id)
            .fetch_one(place.store.pool())
            .await
            .unwrap()
    };
    lead(&incoming.callfrom, "2026-01-01").await;
    let meant = lead(&incoming.callfrom, "2026-02-01").await;
    lead(&incoming.callfrom, "2025-01-01").await;
    place.sync(DAYS).await;
    assert_eq!(tied(&incoming.id).await, Some(meant));
    assert_eq!(tied(&click.id).await, None);

    // Somebody else is contacted since: what is tied stays. A lead that is new is found, whatever the days.
    lead(&incoming.callfrom, "2026-03-01").await;
    let called = lead(&click.callto, "2026-03-01").await;
    place.sync((DAYS.0, DAYS.0)).await;
    assert_eq!((tied(&incoming.id).await, tied(&click.id).await), (Some(meant), Some(called)));

    sqlx::query("delete from leads").execute(place.store.pool()).await.unwrap();
    assert_eq!(tied(&click.id).await, None, "a leg outlives its lead");
}
