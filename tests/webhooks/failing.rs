//! Receivers that are slow, broken, gone or hostile, and servers that die while they send.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use voicebridge::store::webhooks::deliveries;
use voicebridge::store::webhooks::{self, work};

use crate::receiver::{Receiver, Reply};
use crate::{Town, ended, incoming, text};
use voicebridge::call::end::EndReason;

#[tokio::test]
async fn every_event_arrives_in_the_order_of_its_call_whatever_receivers_and_servers_do() {
    for seed in 0..3 {
        let town = Town::new().await;
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        // Half of the requests fail in some way, and some take a while.
        let receiver = Receiver::that(move |_, _| {
            let mut random = random.lock().unwrap();
            let status = [204, 500, 200, 404, 202, 302][random.random_range(0..6)];
            Reply { after: Duration::from_millis(random.random_range(0..40)), ..status.into() }
        })
        .await;
        let listener = town.listener(&receiver.url, &["call.started", "call.completed"]).await;
        let mut servers = vec![town.sender(), town.sender(), town.sender()];
        for number in 0..12 {
            town.whole_call(&format!("CA{number}")).await;
        }
        let deadline = Instant::now() + crate::SOON * 2;
        let mut rounds = 0;
        while town.http.count("webhook_deliveries where status = 'pending'").await > 0 {
            assert!(Instant::now() < deadline, "deliveries are left");
            rounds += 1;
            if rounds == 5 {
                // Gone in the middle of what it sends; the others take that over.
                drop(servers.pop());
            }
            if rounds % 5 == 0 {
                town.expire_leases().await;
            }
            town.hurry().await;
            sleep(Duration::from_millis(30)).await;
        }
        let mut taken: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut ids: HashMap<String, String> = HashMap::new();
        let mut seen = HashSet::new();
        for it in receiver.received() {
            assert_eq!(it.signatures_of(&listener.secret), 1);
            let event = format!("{} {}", it.body["data"]["call_sid"], it.kind());
            assert_eq!(*ids.entry(event).or_insert_with(|| it.id().to_owned()), it.id());
            if it.status < 300 && seen.insert(it.id().to_owned()) {
                taken
                    .entry(text(&it.body["data"]["call_sid"]).to_owned())
                    .or_default()
                    .push(it.kind().to_owned());
            }
        }
        // What was given up may have arrived, or not.
        let sql = "select call_sid || ' ' || event_type from webhook_deliveries where status = 'dead'";
        let dead: HashSet<String> =
            sqlx::query_scalar(sql).fetch_all(town.store().pool()).await.unwrap().into_iter().collect();
        assert!(dead.len() < 12, "hardly anything arrives");
        for number in 0..12 {
            let call = format!("CA{number}");
            let is_owed = |kind: &&str| !dead.contains(&format!("{call} {kind}"));
            let owed: Vec<_> = ["call.started", "call.completed"].into_iter().filter(is_owed).collect();
            let mut kinds = taken.remove(&call).unwrap_or_default();
            kinds.retain(|kind| is_owed(&kind.as_str()));
            assert_eq!(kinds, owed, "{call}, seed {seed}");
        }
        let all: HashSet<_> = ids.values().collect();
        assert_eq!(all.len(), ids.len(), "no two events share an id");
    }
}

#[tokio::test]
async fn what_comes_later_in_a_call_waits_and_other_calls_do_not() {
    let town = Town::new().await;
    let receiver = Receiver::that(|body, _| {
        let fails = body["data"]["call_sid"] == "CA1" && body["type"] == "call.started";
        (if fails { 500 } else { 204 }).into()
    })
    .await;
    town.listener(&receiver.url, &[]).await;
    town.whole_call("CA1").await;
    town.whole_call("CA2").await;
    let sending = town.sender();
    town.until("select count(*) = 2 from webhook_deliveries where call_sid = 'CA2' and status = 'delivered'")
        .await;
    for _ in 0..3 {
        town.hurry().await;
        sleep(Duration::from_millis(50)).await;
    }
    let of_one = |it: &crate::receiver::Received| it.body["data"]["call_sid"] == "CA1";
    let came = receiver.received();
    assert!(came.iter().filter(|it| of_one(it)).all(|it| it.kind() == "call.started"));
    // Once the first one is given up, the next is sent.
    town.until_settled().await;
    sending.stop().await;
    let kinds: Vec<_> =
        receiver.received().into_iter().filter(of_one).map(|it| it.kind().to_owned()).collect();
    assert_eq!(kinds.len(), 10, "nine times the one, then the other: {kinds:?}");
    assert_eq!(kinds[9], "call.completed");
}

#[tokio::test]
async fn what_is_given_up_is_on_record_with_every_request_and_is_sent_again_with_the_same_id() {
    let town = Town::new().await;
    let receiver = Receiver::that(|_, number| match number {
        0..9 => Reply { body: "é".repeat(2000), ..500.into() },
        _ => 204.into(),
    })
    .await;
    let listener = town.listener(&receiver.url, &["call.completed"]).await;
    let sending = town.sender();
    town.whole_call("CA1").await;
    town.until_settled().await;
    let dead = town.http.get("/api/webhook-deliveries?status=dead&call_sid=CA1").await.data();
    let [dead] = &dead.as_array().unwrap()[..] else { panic!("not one: {dead}") };
    let path = format!("/api/webhook-deliveries/{}", text(&dead["id"]));
    let details = town.http.get(&path).await.data();
    assert_eq!((&details["attempts"], &details["body"]["type"]), (&9.into(), &"call.completed".into()));
    let requests = details["requests"].as_array().unwrap();
    assert_eq!(requests.len(), 9);
    for (request, number) in requests.iter().zip(1..) {
        assert_eq!((&request["attempt"], &request["status_code"]), (&number.into(), &500.into()));
        assert!((1..=1026).contains(&text(&request["response"]).len()), "a kilobyte is kept");
    }
    let failing = town.endpoint(listener.id).await;
    assert!(failing["failing_since"].is_string() && failing["enabled"] == true);

    let replayed = town.http.post(&format!("{path}/replay"), Value::Null).await;
    assert_eq!(replayed.status, 202, "{}", replayed.text);
    town.until("select status = 'delivered' from webhook_deliveries").await;
    sending.stop().await;
    let came = receiver.received();
    assert_eq!(came.len(), 10);
    assert!(came.iter().all(|it| it.id() == came[0].id() && it.raw == came[0].raw));
    let works = town.endpoint(listener.id).await;
    assert!(works["failing_since"].is_null() && works["last_delivered_at"].is_string());
    assert_eq!(town.http.get(&path).await.data()["requests"][9]["status_code"], 204);
}

#[tokio::test]
async fn all_that_an_endpoint_missed_is_sent_again_at_once() {
    let town = Town::new().await;
    let receiver = Receiver::that(|_, number| (if number < 18 { 500 } else { 200 }).into()).await;
    let listener = town.listener(&receiver.url, &["call.completed"]).await;
    let sending = town.sender();
    town.whole_call("CA1").await;
    town.whole_call("CA2").await;
    town.until_settled().await;
    let path = format!("/api/webhook-endpoints/{}/replay-dead", listener.id);
    let answer = town.http.post(&path, Value::Null).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["data"]["replayed"]), (202, &2.into()));
    town.until("select bool_and(status = 'delivered') from webhook_deliveries").await;
    sending.stop().await;
    assert_eq!(receiver.received().len(), 20);
    assert_eq!(town.http.post(&path, Value::Null).await.json()["data"]["replayed"], 0);
}

#[tokio::test]
async fn a_slow_endpoint_holds_up_itself_and_nobody_else() {
    let town = Town::new().await;
    let slow = Receiver::that(|_, _| Reply { after: Duration::from_secs(3), ..204.into() }).await;
    let quick = Receiver::new().await;
    town.listener(&slow.url, &["call.started"]).await;
    town.listener(&quick.url, &["call.started"]).await;
    for number in 0..12 {
        town.record(&town.call(&format!("CA{number}")), Timestamp::now(), &incoming()).await;
    }
    let sending = [town.sender(), town.sender()];
    slow.until(4).await;
    let began = Instant::now();
    quick.until(12).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(slow.received().len() <= 4);
    slow.until(12).await;
    assert_eq!(slow.most_at_once(), 4, "of all servers together");
    for sending in sending {
        sending.stop().await;
    }
}

#[tokio::test]
async fn what_a_server_does_not_live_to_finish_is_taken_over() {
    let town = Town::new().await;
    let receiver = Receiver::that(|_, number| {
        let after = if number == 0 { Duration::from_secs(600) } else { Duration::ZERO };
        Reply { after, ..204.into() }
    })
    .await;
    town.listener(&receiver.url, &["call.started"]).await;
    let dies = town.sender();
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    receiver.until(1).await;
    drop(dies);
    let _lives = town.sender();
    town.hurry().await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(receiver.received().len(), 1, "its time is not up");
    let sql = "select due_at between now() + interval '30 seconds' and now() + interval '45 seconds' from webhook_deliveries";
    assert!(town.http.scalar::<bool>(sql).await);
    town.expire_leases().await;
    let came = receiver.until(2).await;
    assert_eq!(came[0].id(), came[1].id());
    town.until("select status = 'delivered' from webhook_deliveries").await;
    assert_eq!(town.http.scalar::<i32>("select attempts from webhook_deliveries").await, 2);
}

#[tokio::test]
async fn who_was_taken_for_dead_changes_nothing_any_more() {
    let town = Town::new().await;
    town.listener("http://127.0.0.1:9/", &["call.started"]).await;
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    let first = work::claim(town.store(), 5).await.unwrap().remove(0);
    assert_eq!(work::claim(town.store(), 5).await.unwrap().len(), 0);
    town.expire_leases().await;
    let second = work::claim(town.store(), 5).await.unwrap().remove(0);
    assert_eq!((second.id, second.attempt), (first.id, 2));
    let request = work::Request {
        at: Timestamp::now(),
        took: Duration::from_secs(1),
        status_code: Some(500),
        error: None,
        response: None,
    };
    let late = work::settle(town.store(), &first, &request, work::Outcome::Dead).await.unwrap();
    assert_eq!(late, work::Settled::Lost);
    let now = work::settle(town.store(), &second, &request, work::Outcome::Delivered).await.unwrap();
    assert_eq!(now, work::Settled::Yes { endpoint_disabled: false });
    assert_eq!(town.http.scalar::<String>("select status from webhook_deliveries").await, "delivered");
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_sent_nothing_more_and_says_why() {
    let (town, receiver) = (Town::new().await, Receiver::that(|_, _| 410.into()).await);
    let listener = town.listener(&receiver.url, &["call.started"]).await;
    let sending = town.sender();
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    town.until("select not enabled from webhook_endpoints").await;
    town.record(&town.call("CA2"), Timestamp::now(), &incoming()).await;
    sending.stop().await;
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(town.http.count("webhook_deliveries").await, 1);
    let endpoint = town.endpoint(listener.id).await;
    assert!(text(&endpoint["disabled_reason"]).contains("410"));
    let delivery: uuid::Uuid =
        town.http.scalar("select id from webhook_deliveries where status = 'dead'").await;
    let refused = town.http.post(&format!("/api/webhook-deliveries/{delivery}/replay"), Value::Null).await;
    refused.is_error(409, "endpoint_disabled");
    let refused =
        town.http.post(&format!("/api/webhook-endpoints/{}/replay-dead", listener.id), Value::Null).await;
    refused.is_error(409, "endpoint_disabled");
}

#[tokio::test]
async fn an_endpoint_that_took_nothing_for_three_days_is_disabled_and_not_before() {
    let (town, receiver) = (Town::new().await, Receiver::that(|_, _| 500.into()).await);
    let listener = town.listener(&receiver.url, &["call.started"]).await;
    let sending = town.sender();
    for (hours, is_disabled) in [(71, false), (73, true)] {
        let set = format!("update webhook_endpoints set failing_since = now() - interval '{hours} hours'");
        town.http.execute(&set).await;
        let requests = receiver.received().len();
        town.record(&town.call(&format!("CA{hours}")), Timestamp::now(), &incoming()).await;
        town.hurry().await;
        receiver.until(requests + 1).await;
        town.until("select count(*) = 0 from webhook_deliveries where lease is not null").await;
        assert_eq!(town.endpoint(listener.id).await["enabled"], !is_disabled, "{hours} h");
    }
    sending.stop().await;
    assert!(text(&town.endpoint(listener.id).await["disabled_reason"]).contains("three days"));
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_is_given_it() {
    let town = Town::new().await;
    let receiver =
        Receiver::that(|_, _| Reply { headers: vec![("retry-after", "600".to_owned())], ..429.into() }).await;
    town.listener(&receiver.url, &["call.started"]).await;
    let sending = town.sender();
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    receiver.until(1).await;
    town.until("select lease is null and attempts = 1 from webhook_deliveries").await;
    sending.stop().await;
    let sql = "select due_at between now() + interval '9 minutes' and now() + interval '11 minutes' from webhook_deliveries";
    assert!(town.http.scalar::<bool>(sql).await);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_a_long_answer_not_read_to_its_end() {
    let (town, elsewhere) = (Town::new().await, Receiver::new().await);
    let to = elsewhere.url.clone();
    let receiver = Receiver::that(move |_, number| {
        if number == 0 {
            Reply { headers: vec![("location", to.clone())], ..307.into() }
        } else {
            Reply { body: "x".repeat(32 << 20), ..200.into() }
        }
    })
    .await;
    town.listener(&receiver.url, &["call.started"]).await;
    let sending = town.sender();
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    receiver.until(1).await;
    town.until_settled().await;
    sending.stop().await;
    assert_eq!((receiver.received().len(), elsewhere.received().len()), (2, 0));
    let kept: Vec<i32> = sqlx::query_scalar(
        "select octet_length(coalesce(response, '')) from webhook_attempts order by attempt",
    )
    .fetch_all(town.store().pool())
    .await
    .unwrap();
    assert_eq!(kept, [0, 1024]);
}

#[tokio::test]
async fn what_was_delivered_a_month_ago_is_forgotten_and_never_told_again() {
    let town = Town::new().await;
    town.listener("https://example.com/", &["call.completed"]).await;
    for number in 0..3 {
        town.whole_call(&format!("CA{number}")).await;
    }
    town.http
        .execute(
            "update webhook_deliveries set status = 'delivered', settled_at = now() - interval '31 days' where call_sid = 'CA0';
             update webhook_deliveries set status = 'delivered', settled_at = now() - interval '29 days' where call_sid = 'CA1'",
        )
        .await;
    assert_eq!(work::forget(town.store(), 100).await.unwrap(), 1);
    assert_eq!(town.http.count("webhook_deliveries").await, 2);
    // The same call, as if it had been then: its event is known to nobody any more.
    let then = Timestamp::now().checked_sub(jiff::SignedDuration::from_hours(30 * 24)).unwrap();
    town.http.execute("update webhook_endpoints set listens_since = now() - interval '1 year'").await;
    let call = town.call("CA9");
    town.record(&call, then, &incoming()).await;
    town.record(&call, then, &ended(EndReason::AgentEnded)).await;
    assert_eq!(town.http.count("webhook_deliveries").await, 2);
}

#[tokio::test]
async fn a_server_that_is_stopped_finishes_what_it_has_begun_and_begins_nothing() {
    let town = Town::new().await;
    let receiver = Receiver::that(|_, _| Reply { after: Duration::from_millis(400), ..204.into() }).await;
    town.listener(&receiver.url, &["call.started", "call.completed"]).await;
    let sending = town.sender();
    town.whole_call("CA1").await;
    receiver.until(1).await;
    sending.stop().await;
    let statuses: Vec<String> = sqlx::query_scalar("select status from webhook_deliveries order by position")
        .fetch_all(town.store().pool())
        .await
        .unwrap();
    assert_eq!(statuses, ["delivered", "pending"]);
    assert!(town.http.metrics.encode().contains("voicebridge_webhooks_sent_total{result=\"delivered\"} 1"));
}

#[tokio::test]
async fn whoever_waits_for_a_delivery_that_is_under_way_is_told_so() {
    let town = Town::new().await;
    town.listener("http://127.0.0.1:9/", &["call.started"]).await;
    town.record(&town.call("CA1"), Timestamp::now(), &incoming()).await;
    let claimed = work::claim(town.store(), 1).await.unwrap().remove(0);
    let replayed = deliveries::replay(town.store(), town.organization(), claimed.id).await.unwrap();
    assert_eq!(replayed, Err(deliveries::Refused::UnderWay));
    assert!(webhooks::delete(town.store(), town.organization(), claimed.endpoint).await.unwrap());
    assert_eq!(town.http.count("webhook_deliveries").await, 0);
}

impl Town {
    async fn endpoint(&self, id: uuid::Uuid) -> Value {
        self.http.get(&format!("/api/webhook-endpoints/{id}")).await.data()
    }
}
